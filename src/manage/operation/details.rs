//! What a new key and an edit have in common: lists, limits per policy, plan, sunset, owner. Imports the
//! registry's entries and words.

use super::super::registry::entry::{RegistryEntry, parse_limit};
use super::super::registry::plans::{AppliedPlan, PlanName, unknown};
use super::super::registry::words::{parse_named_limit, parse_policy};
use super::super::time::When;
use super::OperationSettings;
use super::fault::{FieldError, KeyField, RequestFaults};
use crate::core::{Limit, LimitSet, Owner, PolicyName};

/// Each part stays as it is unless the request mentions it.
#[derive(Clone, Debug, Default)]
pub struct DetailRequest {
    pub plan: Option<PlanChange>,
    pub sunset: Option<When>,
    pub owner: OwnerChange,
}

/// What happens to the owner of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OwnerChange {
    #[default]
    Keep,
    Remove,
    /// Parts that are not given stay, provided that the subject stays the same.
    State {
        subject: Option<String>,
        email: Option<String>,
        role: Option<String>,
    },
}

/// What happens to the plan of a key or an org: `None` removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanChange(pub Option<PlanName>);

/// What happens to the limit of one policy: `None` removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitChange {
    pub policy: PolicyName,
    pub limit: Option<Limit>,
}

/// A list as somebody gives it, without repeats.
pub(super) fn each_once<T: Clone + PartialEq>(items: &[T]) -> Vec<T> {
    let mut once = Vec::with_capacity(items.len());
    for item in items {
        if !once.contains(item) {
            once.push(item.clone());
        }
    }
    once
}

// === impl DetailRequest ===

impl DetailRequest {
    /// Changes `entry`, whose end must already be settled. `now` in Unix seconds.
    pub fn apply(
        &self,
        entry: &mut RegistryEntry,
        settings: &OperationSettings<'_>,
        now: u64,
        faults: &mut RequestFaults,
    ) {
        if let Some(PlanChange(plan)) = &self.plan {
            entry.plan = plan.clone().map(AppliedPlan::unresolved);
        }
        resolve_plan(entry, settings, faults);
        self.set_sunset(entry, now, faults);
        if let Some(owner) = faults.taken(KeyField::Owner, self.owner.apply(entry.owner.as_ref())) {
            entry.owner = owner;
        }
    }

    /// A sunset announces an end. One that callers cannot be warned of in time is a mistake.
    fn set_sunset(&self, entry: &mut RegistryEntry, now: u64, faults: &mut RequestFaults) {
        let Some(when) = self.sunset else { return };
        let resolved = when.resolve(now).map_err(FieldError::from);
        let Some(sunset) = faults.taken(KeyField::Sunset, resolved) else { return };
        let late = |at: u64| entry.expires.filter(|ends| at > *ends);
        match sunset {
            Some(at) if at <= now => faults.add(KeyField::Sunset, FieldError::InPast),
            Some(at) => {
                if let Some(ends) = late(at) {
                    faults.add(KeyField::Sunset, FieldError::SunsetAfterEnd { ends });
                }
            }
            None => {}
        }
        entry.sunset = sunset;
    }
}

fn resolve_plan(
    entry: &mut RegistryEntry,
    settings: &OperationSettings<'_>,
    faults: &mut RequestFaults,
) {
    let named = entry.plan.as_ref().map(|plan| plan.name.clone());
    if entry.resolve_plan(settings.plans).is_err() {
        match named.filter(|name| !settings.plans.contains_key(name)) {
            Some(name) => {
                let why = unknown(&name, settings.plans);
                faults.add(KeyField::Plan, FieldError::UnknownPlan(why));
            }
            None => faults.add(KeyField::Limits, FieldError::TooManyWithPlan),
        }
    }
}

// === impl OwnerChange ===

impl OwnerChange {
    /// The owner after the change.
    fn apply(&self, before: Option<&Owner>) -> Result<Option<Owner>, FieldError> {
        let (subject, email, role) = match self {
            Self::Keep => return Ok(before.cloned()),
            Self::Remove => return Ok(None),
            Self::State { subject, email, role } => (subject, email, role),
        };
        let before = before.map(Owner::view);
        let subject = subject.as_deref().or(before.map(|owner| owner.subject));
        let subject = subject.ok_or(FieldError::OwnerWithoutSubject)?;
        // A different person does not inherit the email or the role of the previous owner.
        let kept = before.filter(|owner| owner.subject == subject);
        let email = email.as_deref().or(kept.map(|owner| owner.email));
        let role = role.as_deref().or(kept.map(|owner| owner.role));
        let owner = Owner::new(subject, email.unwrap_or_default(), role.unwrap_or_default());
        owner.map(Some).map_err(FieldError::Owner)
    }
}

// === impl PlanChange ===

impl PlanChange {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            name => PlanName::parse(name).map(|name| Self(Some(name))),
        }
    }
}

// === impl LimitChange ===

impl LimitChange {
    /// Parses `600/min` and `none` for the policy `per-key`, `NAME=600/min` and `NAME=none` for
    /// another.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = match text.split_once('=') {
            Some((name, "none")) => name,
            None if text == "none" => PolicyName::PER_KEY,
            _ => {
                let named = parse_named_limit(text)?;
                return Ok(Self { policy: named.policy, limit: Some(named.limit) });
            }
        };
        let policy = parse_policy(name).map_err(|e| format!("the name of the policy {e}"))?;
        Ok(Self { policy, limit: None })
    }

    /// Like [`LimitChange::parse`], for an org: here the policy must be named.
    pub fn parse_of_org(text: &str) -> Result<Self, String> {
        match text.contains('=') {
            true => Self::parse(text),
            false => Err("must be `POLICY=LIMIT` or `POLICY=none`".to_owned()),
        }
    }

    /// `limits` with all of the changes applied.
    pub fn apply(changes: &[Self], limits: &LimitSet) -> Result<LimitSet, FieldError> {
        let mut changed = limits.clone();
        for (n, Self { policy, limit }) in changes.iter().enumerate() {
            if changes.iter().take(n).any(|before| before.policy == *policy) {
                return Err(FieldError::TwoLimits(policy.clone()));
            }
            changed = match limit {
                Some(limit) => changed.with(policy.clone(), *limit),
                None => changed.without(policy.as_str()),
            };
        }
        match changed.len() > LimitSet::MOST {
            true => Err(FieldError::TooManyLimits),
            false => Ok(changed),
        }
    }

    /// A limit of the policy `per-key`.
    pub fn plain(text: &str) -> Option<Self> {
        let limit = parse_limit(text).ok()?;
        Some(Self { policy: PolicyName::parse(PolicyName::PER_KEY).ok()?, limit: Some(limit) })
    }
}
