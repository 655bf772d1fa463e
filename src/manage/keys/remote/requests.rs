//! Bodies of changes, from the options of commands.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::answers::RemoteKey;
use crate::core::{Environment, LimitSet, Permission};
use crate::manage::error::{Error, Result};
use crate::manage::keys::create::Create;
use crate::manage::keys::details::DetailArgs;
use crate::manage::keys::rotate::Rotate;
use crate::manage::operation::{EditRequest, LimitChange, OwnerChange, PlanChange};
use crate::manage::registry::entry::{show_limit, show_network};
use crate::manage::registry::plans::PlanName;
use crate::manage::time::{self, When};

pub(super) fn new_key(create: &Create, now: u64) -> Result<Value> {
    if create.name.is_empty() {
        let hint = "give --name NAME: at a service every new key has one";
        return Err(Error::Missing { what: "the name", hint });
    }
    let mut body = Map::new();
    body.insert("name".into(), create.name.clone().into());
    body.insert("permissions".into(), words(&create.permissions));
    if !create.networks.is_empty() {
        body.insert("networks".into(), create.networks.iter().map(show_network).collect());
    }
    // If left out, the service uses a default of its own.
    if let Some(when) = create.expires {
        body.insert("expires".into(), shown_when(when, "--expires", now)?);
    }
    if let Some(when) = create.not_before {
        body.insert("not_before".into(), shown_when(when, "--not-before", now)?);
    }
    put_limits(&mut body, &create.limits);
    if let Some(environment) = create.environment {
        body.insert("environment".into(), Environment::as_str(environment).into());
    }
    // Left out, the service makes what its audience has.
    if create.pair {
        body.insert("pair".into(), true.into());
    }
    if let Some(prefix) = &create.prefix {
        body.insert("prefix".into(), prefix.clone().into());
    }
    if !create.note.is_empty() {
        body.insert("note".into(), create.note.clone().into());
    }
    if create.canary {
        body.insert("canary".into(), true.into());
    }
    put_details(&mut body, &create.details, None, now)?;
    Ok(Value::Object(body))
}

pub(super) fn rotation(rotate: &Rotate, now: u64) -> Result<Value> {
    let mut body = Map::new();
    body.insert("overlap".into(), format!("{}s", rotate.overlap.as_secs()).into());
    if let Some(when) = rotate.expires {
        body.insert("expires".into(), shown_when(when, "--expires", now)?);
    }
    if let Some(prefix) = &rotate.prefix {
        body.insert("prefix".into(), prefix.clone().into());
    }
    if rotate.drop_previous {
        body.insert("drop_former_secret".into(), true.into());
    }
    Ok(Value::Object(body))
}

pub(super) fn patch(
    request: &EditRequest,
    details: &DetailArgs,
    old: &RemoteKey,
    now: u64,
) -> Result<Value> {
    let mut body = Map::new();
    if let Some(name) = &request.name {
        body.insert("name".into(), name.clone().into());
    }
    let mut permissions = request.permissions.clone();
    if !request.add_permissions.is_empty() || !request.remove_permissions.is_empty() {
        let mut all = permissions.unwrap_or_else(|| old.entry.permissions.clone());
        for word in &request.add_permissions {
            if !all.contains(word) {
                all.push(word.clone());
            }
        }
        all.retain(|word| !request.remove_permissions.contains(word));
        permissions = Some(all);
    }
    if let Some(permissions) = permissions {
        body.insert("permissions".into(), words(&permissions));
    }
    if let Some(networks) = &request.networks {
        body.insert("networks".into(), networks.iter().map(show_network).collect());
    }
    if let Some(when) = request.expires {
        body.insert("expires".into(), shown_when(when, "--expires", now)?);
    }
    if let Some(when) = request.not_before {
        body.insert("not_before".into(), shown_when(when, "--not-before", now)?);
    }
    put_limits(&mut body, &request.limits);
    if let Some(environment) = request.environment {
        body.insert("environment".into(), environment.map(Environment::as_str).into());
    }
    if let Some(note) = &request.note {
        body.insert("note".into(), note.clone().into());
    }
    put_details(&mut body, details, Some(old), now)?;
    Ok(Value::Object(body))
}

/// The plans that an edit needs to know, unless it needs one that only the service knows.
pub(super) fn plans_of(
    request: &EditRequest,
    old: &RemoteKey,
) -> Option<BTreeMap<PlanName, LimitSet>> {
    let known = old.entry.plan.as_ref();
    if let Some(PlanChange(Some(wanted))) = &request.details.plan
        && known.is_none_or(|known| known.name != *wanted)
    {
        return None;
    }
    Some(known.map(|plan| (plan.name.clone(), plan.limits.clone())).into_iter().collect())
}

fn words(permissions: &[Permission]) -> Value {
    permissions.iter().map(Permission::as_str).collect()
}

fn put_limits(body: &mut Map<String, Value>, limits: &[LimitChange]) {
    if limits.is_empty() {
        return;
    }
    let limits = limits
        .iter()
        .map(|change| (change.policy.as_str().to_owned(), change.limit.map(show_limit).into()));
    body.insert("limits".into(), Value::Object(limits.collect()));
}

fn put_details(
    body: &mut Map<String, Value>,
    details: &DetailArgs,
    old: Option<&RemoteKey>,
    now: u64,
) -> Result<()> {
    let request = details.request()?;
    if let Some(PlanChange(plan)) = request.plan {
        body.insert("plan".into(), plan.map(|plan| plan.as_str().to_owned()).into());
    }
    if let Some(when) = request.sunset {
        body.insert("sunset".into(), shown_when(when, "--sunset", now)?);
    }
    match request.owner {
        OwnerChange::Keep => {}
        OwnerChange::Remove => {
            body.insert("owner".into(), Value::Null);
        }
        OwnerChange::State { subject, email, role } => {
            let known = old.and_then(|old| old.entry.owner.as_ref());
            let subject = subject.or_else(|| known.map(|o| o.view().subject.to_owned()));
            let mut owner = Map::new();
            owner.insert("subject".into(), subject.into());
            for (name, value) in [("email", email), ("role", role)] {
                if let Some(value) = value {
                    owner.insert(name.into(), value.into());
                }
            }
            body.insert("owner".into(), Value::Object(owner));
        }
    }
    Ok(())
}

/// An instant by this host's clock, as with files; null: never.
fn shown_when(when: When, option: &'static str, now: u64) -> Result<Value> {
    let at = when.resolve(now).map_err(|e| Error::argument(option, e))?;
    Ok(at.map(time::show).into())
}
