//! `keygatectl plans …`: sets of limits that keys and orgs of a registry share. Imports the registry
//! and publishing.

use std::collections::BTreeMap;

use serde_json::json;

use super::error::{Error, Result};
use super::operation::LimitChange;
use super::output::{Columns, count};
use super::publish::pending::{UnpublishedKeys, UnpublishedOrgs};
use super::publish::{Outstanding, PublishArgs};
use super::registry::change::{Change, Check};
use super::registry::entry::{FieldFault, RegistryEntry};
use super::registry::plans::{PlanName, unknown};
use super::registry::words::{show_limits, to_object};
use super::registry::{Filter, Located, Registry};
use super::session::Session;
use super::typos::KnownWords;
use crate::core::{LimitSet, OrgId};

#[derive(Debug, clap::Subcommand)]
pub enum Plans {
    /// Show the plans, and how many keys and orgs have each
    List,
    /// Remove a plan that no key and no org has
    Remove(Remove),
    /// Create a plan, or change the limits of all keys and orgs that have it
    Set(Box<Set>),
}

#[derive(Debug, clap::Args)]
pub struct Set {
    /// The plan, which `keys create --plan` and `orgs limit --plan` name
    #[arg(value_name = "NAME", value_parser = PlanName::parse)]
    pub name: PlanName,
    /// `600/min` of the policy `per-key`, `search=2/s` of another policy of the sidecars; `none` and
    /// `search=none` remove a limit
    #[arg(value_name = "[POLICY=]LIMIT", required = true, value_parser = LimitChange::parse)]
    pub limits: Vec<LimitChange>,
    #[command(flatten)]
    pub publish: PublishArgs,
}

#[derive(Debug, clap::Args)]
pub struct Remove {
    /// The plan
    #[arg(value_name = "NAME", value_parser = PlanName::parse)]
    pub name: PlanName,
}

/// Which keys and orgs have a plan.
#[derive(Clone, Copy, Debug, Default)]
struct PlanUsers {
    keys: u64,
    orgs: u64,
}

// === impl Plans ===

impl Plans {
    pub fn run(self, session: &mut Session) -> Result<()> {
        match self {
            Self::List => list(session),
            Self::Remove(remove) => remove.run(session),
            Self::Set(set) => set.run(session),
        }
    }
}

// === impl Set ===

impl Set {
    fn run(self, session: &mut Session) -> Result<()> {
        let mut change = Change::begin(
            &session.registry,
            session.lock_timeout,
            Check::Touched,
            &session.output,
        )?;
        self.publish.check(change.registry(), session)?;
        let was = change.settings().plans.get(&self.name).cloned().unwrap_or_default();
        let is = LimitChange::apply(&self.limits, &was);
        let is = is.map_err(|why| Error::argument("LIMIT", why))?;
        if is.is_empty() {
            let why = format!(
                "would leave {} without a limit\nhint: `keygatectl plans remove` removes a plan",
                self.name
            );
            return Err(Error::argument("LIMIT", why));
        }
        let known = KnownWords::of(change.registry())?;
        let keys = keys_of(change.registry(), &self.name)?;
        if was == is {
            session.output.note(&format!("{} has these limits already", self.name));
            let unpublished = UnpublishedKeys::of(change.registry())?;
            let orgs = UnpublishedOrgs::of(change.registry())?;
            let is_pending = keys.iter().any(|key| unpublished.has(&key.entry))
                // If that is unknown, publishing once more does no harm.
                || orgs_of(change.registry(), &self.name).any(|org| orgs.has(org).unwrap_or(true));
            let pending = Outstanding::when(|| is_pending);
            return self.publish.make_up(change, pending, "plans set", session);
        }
        let settings = change.settings_mut();
        settings.plans.insert(self.name.clone(), is.clone());
        let plans = settings.plans.clone();
        refuse_too_many(&change, &self.name)?;
        let users = PlanUsers {
            keys: keys.len() as u64,
            orgs: orgs_of(change.registry(), &self.name).count() as u64,
        };
        // Each key changes, although none of its lines does.
        for key in keys {
            let new = with_plan(&key.entry, &plans)?;
            change.replace(key, new);
        }
        let what = json!({
            "plan": self.name.as_str(), "limits": [to_object(&was), to_object(&is)],
            "keys": users.keys, "orgs": users.orgs,
        });
        let record = session.record(change.serial(), "plans set", what);
        let committed = self.publish.commit(change, vec![record], session)?;
        known.warn_of_policies(&self.limits, &session.output);
        let serial = committed.serial;
        if session.output.json {
            let line = json!({
                "serial": serial, "plan": self.name.as_str(), "limits": to_object(&is),
                "keys": users.keys, "orgs": users.orgs,
            });
            session.output.json_line(&line)?;
        } else {
            let limits = show_limits(&is).join(", ");
            let line = format!("{}: {limits}; {}; serial {serial}", self.name, users.show());
            session.output.line(&line)?;
        }
        session.output.flush()?;
        self.publish.after(&committed, session)
    }
}

// === impl Remove ===

impl Remove {
    fn run(self, session: &mut Session) -> Result<()> {
        let mut change = Change::begin(
            &session.registry,
            session.lock_timeout,
            Check::Touched,
            &session.output,
        )?;
        let plans = &change.settings().plans;
        let Some(was) = plans.get(&self.name).cloned() else {
            return Err(Error::argument("NAME", unknown(&self.name, plans)));
        };
        let users = PlanUsers {
            keys: keys_of(change.registry(), &self.name)?.len() as u64,
            orgs: orgs_of(change.registry(), &self.name).count() as u64,
        };
        if users.keys + users.orgs > 0 {
            let why = format!(
                "`{}` is the plan of {}\nhint: `keygatectl keys edit KEY --plan none` and \
                 `keygatectl orgs limit ORG --plan none` take it away",
                self.name,
                users.show()
            );
            return Err(Error::argument("NAME", why));
        }
        change.settings_mut().plans.remove(&self.name);
        let what = json!({ "plan": self.name.as_str(), "limits": [to_object(&was), serde_json::Value::Null] });
        let record = session.record(change.serial(), "plans remove", what);
        let committed = change.commit(&[record])?;
        if session.output.json {
            let line = json!({ "serial": committed.serial, "removed": self.name.as_str() });
            session.output.json_line(&line)?;
        } else {
            let line = format!("{} removed; serial {}", self.name, committed.serial);
            session.output.line(&line)?;
        }
        session.output.flush()
    }
}

// === impl PlanUsers ===

impl PlanUsers {
    fn show(self) -> String {
        format!("{} and {}", count(self.keys, "key"), count(self.orgs, "org"))
    }
}

fn list(session: &mut Session) -> Result<()> {
    let registry = Registry::open(&session.registry)?;
    let settings = &registry.settings;
    let mut users: BTreeMap<&PlanName, PlanUsers> =
        settings.plans.keys().map(|name| (name, PlanUsers::default())).collect();
    for name in settings.orgs.values().filter_map(|terms| terms.plan.as_ref()) {
        users.entry(name).or_default().orgs += 1;
    }
    registry.scan(&Filter::default(), &mut |located| {
        let plan = located.entry.plan.as_ref();
        if let Some(users) = plan.and_then(|plan| users.get_mut(&plan.name)) {
            users.keys += 1;
        }
        Ok(())
    })?;
    let none = LimitSet::default();
    let plans = users
        .into_iter()
        .map(|(name, users)| (name, settings.plans.get(name).unwrap_or(&none), users));
    if session.output.json {
        let plans = plans.map(|(name, limits, users)| {
            json!({
                "name": name.as_str(), "limits": to_object(limits),
                "keys": users.keys, "orgs": users.orgs,
            })
        });
        return session.output.json(&plans.collect::<Vec<_>>());
    }
    let mut columns = Columns::titled(&["PLAN", "LIMITS", "KEYS", "ORGS"]);
    for (name, limits, users) in plans {
        let limits = show_limits(limits).join(", ");
        let (keys, orgs) = (users.keys.to_string(), users.orgs.to_string());
        columns.row([name.to_string(), limits, keys, orgs]);
    }
    columns.print(&mut session.output)
}

fn keys_of(registry: &Registry, name: &PlanName) -> Result<Vec<Located>> {
    let mut keys = Vec::new();
    registry.scan(&Filter::default(), &mut |located| {
        if located.entry.plan.as_ref().is_some_and(|plan| plan.name == *name) {
            keys.push(located);
        }
        Ok(())
    })?;
    Ok(keys)
}

fn orgs_of<'r>(registry: &'r Registry, name: &'r PlanName) -> impl Iterator<Item = &'r OrgId> {
    let orgs = registry.settings.orgs.iter();
    orgs.filter(move |(_, terms)| terms.plan.as_ref() == Some(name)).map(|(org, _)| org)
}

/// The key with the current limits of its plan.
fn with_plan(entry: &RegistryEntry, plans: &BTreeMap<PlanName, LimitSet>) -> Result<RegistryEntry> {
    let mut new = entry.clone();
    match new.resolve_plan(plans) {
        Ok(()) => Ok(new),
        Err(FieldFault { why, .. }) => {
            Err(Error::argument("LIMIT", format!("{} would have {why}", entry.id)))
        }
    }
}

/// Refuses a plan that would give an org more limits than a table holds.
fn refuse_too_many(change: &Change, name: &PlanName) -> Result<()> {
    let limits = change.new_settings().org_limits();
    let mut orgs = orgs_of(change.registry(), name);
    let over = orgs.find(|org| limits.get(*org).is_some_and(|own| own.len() > LimitSet::MOST));
    match over {
        Some(org) => {
            let (org, most) = (org.as_str(), LimitSet::MOST);
            let why = format!("the org {org} would have more than {most} limits");
            Err(Error::argument("LIMIT", why))
        }
        None => Ok(()),
    }
}
