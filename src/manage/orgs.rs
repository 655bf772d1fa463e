//! `keygatectl orgs …`: what a registry says about organizations. Imports the registry and
//! publishing.

use std::collections::BTreeMap;

use serde_json::json;

use super::error::{Error, Result};
use super::operation::{LimitChange, PlanChange};
use super::output::Columns;
use super::publish::pending::{self, UnpublishedOrgs};
use super::publish::{Outstanding, PublishArgs};
use super::registry::Registry;
use super::registry::change::{Change, Check};
use super::registry::plans::{OrgTerms, behind_plan, unknown};
use super::registry::words::{show_limits_of_org, to_object};
use super::session::Session;
use super::typos::KnownWords;
use crate::core::{LimitSet, OrgId};

#[derive(Debug, clap::Subcommand)]
pub enum Orgs {
    /// Set or remove limits that all keys of an org have together
    Limit(Box<SetLimits>),
    /// Show the orgs that have limits, and which limits are not published yet
    List,
}

#[derive(Debug, clap::Args)]
pub struct SetLimits {
    /// The organization
    #[arg(value_name = "ORG", value_parser = OrgId::parse)]
    pub org: OrgId,
    /// `monthly=1000000/30d`, by a policy of the sidecars that is for orgs; `monthly=none` removes it
    #[arg(
        value_name = "POLICY=LIMIT",
        required_unless_present = "plan",
        value_parser = LimitChange::parse_of_org
    )]
    pub limits: Vec<LimitChange>,
    /// Plan of the registry whose limits the org has; those that are given beside it stand in their
    /// place; `none` removes the plan
    #[arg(long, value_name = "NAME", value_parser = PlanChange::parse)]
    pub plan: Option<PlanChange>,
    #[command(flatten)]
    pub publish: PublishArgs,
}

// === impl Orgs ===

impl Orgs {
    pub fn run(self, session: &mut Session) -> Result<()> {
        match self {
            Self::Limit(limit) => limit.run(session),
            Self::List => list(session),
        }
    }
}

// === impl SetLimits ===

impl SetLimits {
    /// What the registry will say of the org.
    fn terms(&self, before: &OrgTerms, change: &Change) -> Result<OrgTerms> {
        let limits = LimitChange::apply(&self.limits, &before.limits);
        let limits = limits.map_err(|why| Error::argument("--limit", why))?;
        let plan = match &self.plan {
            Some(PlanChange(plan)) => plan.clone(),
            None => before.plan.clone(),
        };
        let plans = &change.settings().plans;
        match plan.as_ref().filter(|name| !plans.contains_key(*name)) {
            Some(name) => Err(Error::argument("--plan", unknown(name, plans))),
            None => Ok(OrgTerms { limits, plan }),
        }
    }

    fn run(self, session: &mut Session) -> Result<()> {
        let mut change = Change::begin(
            &session.registry,
            session.lock_timeout,
            Check::Touched,
            &session.output,
        )?;
        self.publish.check(change.registry(), session)?;
        let before = change.settings().orgs.get(&self.org).cloned().unwrap_or_default();
        let terms = self.terms(&before, &change)?;
        let plans = &change.settings().plans;
        let (was, is) = (before.in_force(plans), terms.in_force(plans));
        if is.len() > LimitSet::MOST {
            let why = format!("at most {} limits, with those of its plan", LimitSet::MOST);
            return Err(Error::argument("LIMIT", why));
        }
        if before == terms {
            session.output.note(&format!("{} has these limits already", self.org.as_str()));
            let unpublished = UnpublishedOrgs::of(change.registry())?;
            // If that is unknown, publishing once more does no harm.
            let pending = Outstanding::when(|| unpublished.has(&self.org).unwrap_or(true));
            return self.publish.make_up(change, pending, "orgs limit", session);
        }
        let known = KnownWords::of(change.registry())?;
        let orgs = &mut change.settings_mut().orgs;
        match terms == OrgTerms::default() {
            true => orgs.remove(&self.org),
            false => orgs.insert(self.org.clone(), terms.clone()),
        };
        let plan = terms.plan.as_ref().map(ToString::to_string);
        let what = json!({
            "org": self.org.as_str(), "limits": [to_object(&was), to_object(&is)],
            "plan": [before.plan.as_ref().map(ToString::to_string), plan.clone()],
        });
        let record = session.record(change.serial(), "orgs limit", what);
        let committed = self.publish.commit(change, vec![record], session)?;
        known.warn_of_org(&self.org, &session.output);
        known.warn_of_policies(&self.limits, &session.output);
        if session.output.json {
            let serial = committed.serial;
            let line = json!({
                "serial": serial, "org": self.org.as_str(), "plan": plan, "limits": to_object(&is),
            });
            session.output.json_line(&line)?;
        } else {
            let limits = shown(&is, &terms);
            let line = format!("{}: {limits}; serial {}", self.org.as_str(), committed.serial);
            session.output.line(&line)?;
        }
        session.output.flush()?;
        self.publish.after(&committed, session)
    }
}

/// Includes orgs whose limits were removed in the registry but not yet in what sidecars read.
fn list(session: &mut Session) -> Result<()> {
    let registry = Registry::open(&session.registry)?;
    let unpublished = UnpublishedOrgs::of(&registry)?;
    let none = OrgTerms::default();
    let settings = &registry.settings;
    let removed = unpublished.removed(&registry).map(|org| (org, &none));
    let orgs: BTreeMap<_, _> = settings.orgs.iter().chain(removed).collect();
    if session.output.json {
        let orgs = orgs.into_iter().map(|(org, terms)| {
            let published = unpublished.has(org).map(|differs| !differs);
            let limits = to_object(&terms.in_force(&settings.plans));
            let plan = terms.plan.as_ref().map(ToString::to_string);
            json!({ "org": org.as_str(), "plan": plan, "limits": limits, "published": published })
        });
        return session.output.json(&orgs.collect::<Vec<_>>());
    }
    let mut columns = Columns::titled(&["ORG", "LIMITS", "PUBLISHED"]);
    for (org, terms) in orgs {
        let published = match unpublished.has(org) {
            None => "unknown",
            Some(true) => "no",
            Some(false) => "yes",
        };
        let limits = shown(&terms.in_force(&settings.plans), terms);
        columns.row([org.as_str().to_owned(), limits, published.to_owned()]);
    }
    columns.print(&mut session.output)?;
    pending::note_orgs(&registry, &unpublished, session)
}

/// The limits in force, and their plan.
fn shown(limits: &LimitSet, terms: &OrgTerms) -> String {
    let limits = match limits.is_empty() {
        true => "no limits".to_owned(),
        false => show_limits_of_org(limits),
    };
    behind_plan(terms.plan.as_ref(), limits)
}
