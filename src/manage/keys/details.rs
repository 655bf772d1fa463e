//! Options of `keys create` and `keys edit` that both have: limits by policy, plan, sunset, owner.

use super::super::error::{Error, Result};
use super::super::registry::entry::{FieldFault, RegistryEntry, parse_limit};
use super::super::registry::plans::{AppliedPlan, PlanName};
use super::super::registry::settings::RegistrySettings;
use super::super::registry::words::{parse_named_limit, parse_policy};
use super::super::time::When;
use crate::core::{Limit, LimitSet, Owner, PolicyName};

#[derive(Clone, Debug, Default, clap::Args)]
pub struct DetailArgs {
    /// Plan of the registry whose limits the key has; those of `--limit` stand in their place; `none`
    /// removes the plan
    #[arg(long, value_name = "NAME", value_parser = PlanChange::parse)]
    pub plan: Option<PlanChange>,
    /// When the key is due to go out of use: `90d`, an instant, or `never`. keygate tells its callers
    /// in the field `Sunset`; only `--expires` ends the key
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    pub sunset: Option<When>,
    /// Who issued the key, as your identity provider knows them; `none` removes the owner
    #[arg(long, value_name = "SUBJECT")]
    pub owner: Option<String>,
    /// Email address of the owner
    #[arg(long, value_name = "EMAIL")]
    pub owner_email: Option<String>,
    /// Role of the owner
    #[arg(long, value_name = "ROLE")]
    pub owner_role: Option<String>,
}

/// A value of `--plan`: `None` takes the plan away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanChange(pub Option<PlanName>);

/// One value of `--limit`: the policy, and `None` to take its limit away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitChange {
    policy: PolicyName,
    limit: Option<Limit>,
}

// === impl DetailArgs ===

impl DetailArgs {
    pub fn apply(
        &self,
        entry: &mut RegistryEntry,
        settings: &RegistrySettings,
        now: u64,
    ) -> Result<()> {
        if let Some(PlanChange(plan)) = &self.plan {
            entry.plan = plan.clone().map(AppliedPlan::unresolved);
        }
        entry.resolve_plan(&settings.plans).map_err(|FieldFault { field, why }| {
            let option = if field == "plan" { "--plan" } else { "--limit" };
            Error::argument(option, why)
        })?;
        if let Some(when) = self.sunset {
            entry.sunset = when.resolve(now).map_err(|e| Error::argument("--sunset", e))?;
        }
        if let (Some("none"), None, None) =
            (self.owner.as_deref(), &self.owner_email, &self.owner_role)
        {
            entry.owner = None;
            return Ok(());
        }
        if self.owner.is_none() && self.owner_email.is_none() && self.owner_role.is_none() {
            return Ok(());
        }
        let before = entry.owner.as_ref().map(Owner::view);
        let subject = self.owner.as_deref().or(before.map(|owner| owner.subject));
        let subject = subject.ok_or(Error::Missing {
            what: "the owner's subject",
            hint: "give --owner as well: email and role alone name nobody",
        })?;
        // Somebody else has neither the email nor the role of the one before.
        let kept = before.filter(|owner| owner.subject == subject);
        let email = self.owner_email.as_deref().or(kept.map(|owner| owner.email));
        let role = self.owner_role.as_deref().or(kept.map(|owner| owner.role));
        let owner = Owner::new(subject, email.unwrap_or_default(), role.unwrap_or_default());
        entry.owner = Some(owner.map_err(|e| Error::argument("--owner", e))?);
        Ok(())
    }
}

// === impl PlanChange ===

impl PlanChange {
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            name => PlanName::parse(name).map(|name| Self(Some(name))),
        }
    }
}

// === impl LimitChange ===

impl LimitChange {
    /// `600/min` and `none` for the policy `per-key`, `NAME=600/min` and `NAME=none` for another.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
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

    /// As [`LimitChange::parse`], for an org: a policy of orgs has to be named.
    pub fn parse_of_org(text: &str) -> std::result::Result<Self, String> {
        match text.contains('=') {
            true => Self::parse(text),
            false => Err("must be `POLICY=LIMIT` or `POLICY=none`".to_owned()),
        }
    }

    /// `limits` with all of the changes.
    pub fn apply(changes: &[Self], limits: &LimitSet) -> Result<LimitSet> {
        let mut changed = limits.clone();
        for (n, Self { policy, limit }) in changes.iter().enumerate() {
            if changes.iter().take(n).any(|before| before.policy == *policy) {
                let why = format!("two limits for the policy {}", policy.as_str());
                return Err(Error::argument("--limit", why));
            }
            changed = match limit {
                Some(limit) => changed.with(policy.clone(), *limit),
                None => changed.without(policy.as_str()),
            };
        }
        if changed.len() > LimitSet::MOST {
            let why = format!("at most {} limits", LimitSet::MOST);
            return Err(Error::argument("--limit", why));
        }
        Ok(changed)
    }

    /// Of the policy `per-key`.
    pub fn plain(text: &str) -> Option<Self> {
        let limit = parse_limit(text).ok()?;
        Some(Self { policy: PolicyName::parse(PolicyName::PER_KEY).ok()?, limit: Some(limit) })
    }
}
