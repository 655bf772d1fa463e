//! An org's rules for its keys: owners change them, and anybody who may see its members reads them.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;

use super::data::FormData;
use super::form::faults_title;
use super::form::fields::{choice, put_into_group};
use super::org::forbidden;
use super::view::{FormFault, Notice, PermissionGroup, PolicyFields, PolicyPage};
use super::visit::{PostedForm, Section, Visit};
use super::{html, show};
use crate::core::limit::show_duration;
use crate::core::{OrgId, Permission, PermissionSet};
use crate::manage::operation::may::{OrgAction, OrgPolicy, RequiredNetworks};
use crate::manage::time;
use crate::registrar::store::{AudienceName, OrgChange, OrgRow, OrgRules, OwnerLeaves, StoreError};

pub(super) async fn show(visit: Visit) -> Result<Response, Response> {
    let org = org_of(&visit).ok_or_else(|| forbidden(&visit))?;
    let row = visit.app.store.org(&org).await.map_err(|e| visit.failed(&e))?;
    let mut page = page(&visit, row.version, fields(&visit, &row.rules), Vec::new());
    if visit.query.text("done") == "saved" {
        page.shell.notice =
            Some(Notice { text: visit.w.policy_saved.to_string(), ..Notice::default() });
    }
    Ok(html(StatusCode::OK, &page))
}

pub(super) async fn save(PostedForm { visit, form }: PostedForm) -> Result<Response, Response> {
    let org = org_of(&visit).ok_or_else(|| forbidden(&visit))?;
    if !visit.may_in(OrgAction::ChangePolicy) {
        return Err(forbidden(&visit));
    }
    let row = visit.app.store.org(&org).await.map_err(|e| visit.failed(&e))?;
    let read = form.text("version").parse().unwrap_or(row.version);
    let refused = |version, faults| {
        let page = page(&visit, version, typed(&visit, &form), faults);
        html(StatusCode::UNPROCESSABLE_ENTITY, &page)
    };
    let rules = match rules_of(&visit, &row, &form) {
        Ok(rules) => rules,
        Err(faults) => return Ok(refused(read, faults)),
    };
    let change = OrgChange {
        org,
        rules,
        if_match: Some(read),
        actor: visit.sight.caller.actor.clone(),
        channel: visit.sight.caller.channel.clone(),
        at_ms: visit.sight.now_ms,
    };
    match visit.app.store.change_org(change).await {
        Ok(_) => Ok(visit.go("/policy", &[("done", "saved")])),
        Err(StoreError::OrgVersionMismatch { current }) => {
            let why = visit.w.policy_conflict.to_string();
            Ok(refused(current, vec![FormFault { why, ..FormFault::default() }]))
        }
        Err(error) => Err(visit.failed(&error)),
    }
}

/// `None`: the caller may not look at it.
fn org_of(visit: &Visit) -> Option<OrgId> {
    visit.sight.org.clone().filter(|_| visit.may_in(OrgAction::SeeMembers))
}

fn page<'w>(
    visit: &Visit,
    version: u64,
    f: PolicyFields,
    faults: Vec<FormFault>,
) -> PolicyPage<'w> {
    let w = visit.w;
    PolicyPage {
        w,
        shell: visit.shell(Section::Policy, w.policy_title.to_string()),
        in_org: visit.in_org(),
        version,
        can_change: visit.may_in(OrgAction::ChangePolicy),
        f,
        faults_title: faults_title(w, &faults),
        faults,
    }
}

/// The form, filled with what is set.
fn fields(visit: &Visit, rules: &OrgRules) -> PolicyFields {
    let policy = &rules.policy;
    let offered = |word: &str| {
        let set = policy.permissions.as_ref();
        set.is_none_or(|set| set.iter().any(|offered| offered.as_str() == word))
    };
    let days = |seconds: u64| match seconds % show::DAY {
        0 => (seconds / show::DAY).to_string(),
        _ => show_duration(Duration::from_secs(seconds)),
    };
    PolicyFields {
        longest_life: policy.longest_life.map(days).unwrap_or_default(),
        networks_required: policy.networks == RequiredNetworks::Required,
        most_keys: policy.most_keys.map(|most| most.to_string()).unwrap_or_default(),
        limits_permissions: policy.permissions.is_some(),
        groups: groups(visit, offered),
        owner_leaves: leaves(visit, rules.owner_leaves.as_str()),
    }
}

/// The form, filled with what was typed.
fn typed(visit: &Visit, form: &FormData) -> PolicyFields {
    PolicyFields {
        longest_life: form.text("longest_life").to_owned(),
        networks_required: form.has("networks_required"),
        most_keys: form.text("most_keys").to_owned(),
        limits_permissions: form.text("offers") == "some",
        groups: groups(visit, |word| form.all("permission").any(|ticked| ticked == word)),
        owner_leaves: leaves(visit, form.text("owner_leaves")),
    }
}

/// Everything that keys of any audience can be granted: a policy belongs to the org, not to an
/// audience. People of a product see what their own audience has.
fn groups(visit: &Visit, ticked: impl Fn(&str) -> bool) -> Vec<PermissionGroup> {
    let w = visit.w;
    let mut groups = Vec::new();
    let own = visit.sight.caller.bound_to();
    let is_seen = |name: &AudienceName| own.is_none_or(|own| own == name);
    for audience in visit.app.settings.audiences.iter().filter(|a| is_seen(&a.name)) {
        let mut put = |group: &str, word: &str| {
            let mut item = show::permission(w, audience, word);
            item.checked = ticked(word);
            put_into_group(&mut groups, group, item);
        };
        for offered in &audience.permissions {
            put(&offered.group, offered.word.as_str());
        }
        if audience.permissions.is_empty() {
            put("", Permission::ALL);
        }
        let words = &audience.access.words;
        for word in [&words.read, &words.write, &words.revoke, &words.usage, &words.audit] {
            put(&w.permissions_manage, word.as_str());
        }
    }
    groups
}

fn leaves(visit: &Visit, chosen: &str) -> Vec<super::view::Choice> {
    let w = visit.w;
    vec![
        choice(OwnerLeaves::Keep.as_str(), &w.policy_leaves_keep, chosen),
        choice(OwnerLeaves::Disable.as_str(), &w.policy_leaves_disable, chosen),
    ]
}

/// What the form asks for, or everything that is wrong with it.
fn rules_of(visit: &Visit, row: &OrgRow, form: &FormData) -> Result<OrgRules, Vec<FormFault>> {
    let w = visit.w;
    let mut faults = Vec::new();
    let mut fault = |field: &str, label: &str, why: &str| {
        let (field, label, why) = (field.to_owned(), label.to_owned(), why.to_owned());
        faults.push(FormFault { field, label, why });
    };
    let longest_life = match form.text("longest_life") {
        "" => None,
        text => {
            let days = text.parse::<u64>().ok().map(|days| days.saturating_mul(show::DAY));
            let life = days.or_else(|| time::duration(text).ok().map(|life| life.as_secs()));
            let life = life.filter(|seconds| *seconds > 0);
            if life.is_none() {
                fault("longest_life", &w.policy_life, &w.fault_life);
            }
            life
        }
    };
    let most_keys = match form.text("most_keys") {
        "" => None,
        text => {
            let most = text.parse().ok().filter(|most| *most > 0);
            if most.is_none() {
                fault("most_keys", &w.policy_most, &w.fault_most);
            }
            most
        }
    };
    let ticked = || form.all("permission").filter_map(|word| Permission::parse(word).ok());
    let permissions = match form.text("offers") {
        "some" if form.has("permission") => {
            // Permissions that the form does not show stay as they are: the command line may have
            // set them.
            let shown = groups(visit, |_| false);
            let is_shown = |word: &Permission| {
                shown.iter().any(|g| g.items.iter().any(|item| item.word == word.as_str()))
            };
            let hidden = row.rules.policy.permissions.iter().flat_map(PermissionSet::iter);
            let hidden = hidden.filter(|word| !is_shown(word)).cloned();
            Some(PermissionSet::new(ticked().filter(is_shown).chain(hidden)))
        }
        "some" => {
            fault("permissions", &w.policy_permissions, &w.fault_no_permission);
            None
        }
        _ => None,
    };
    let networks = match form.has("networks_required") {
        true => RequiredNetworks::Required,
        false => RequiredNetworks::Optional,
    };
    let owner_leaves = match form.text("owner_leaves") {
        "disable" => OwnerLeaves::Disable,
        "keep" => OwnerLeaves::Keep,
        _ => row.rules.owner_leaves,
    };
    match faults.is_empty() {
        true => {
            let policy = OrgPolicy { longest_life, networks, most_keys, permissions };
            Ok(OrgRules { policy, owner_leaves })
        }
        false => Err(faults),
    }
}
