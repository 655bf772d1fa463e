//! `keygatectl orgs …`: what a registry says of organizations. Imports the registry and publishing.

use std::collections::BTreeMap;

use serde_json::json;

use super::error::Result;
use super::keys::details::LimitChange;
use super::output::Columns;
use super::publish::pending::{self, UnpublishedOrgs};
use super::publish::{Outstanding, PublishArgs};
use super::registry::Registry;
use super::registry::change::{Change, Check};
use super::registry::words::{show_limits_of_org, to_object};
use super::session::Session;
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
    #[arg(value_name = "POLICY=LIMIT", required = true, value_parser = LimitChange::parse_of_org)]
    pub limits: Vec<LimitChange>,
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
    fn run(self, session: &mut Session) -> Result<()> {
        let mut change =
            Change::begin(&session.registry, session.patience, Check::Touched, &session.output)?;
        self.publish.check(change.registry(), session)?;
        let was = change.settings().orgs.get(&self.org).cloned().unwrap_or_default();
        let is = LimitChange::apply(&self.limits, &was)?;
        if was == is {
            session.output.note(&format!("{} has these limits already", self.org.as_str()));
            let unpublished = UnpublishedOrgs::of(change.registry())?;
            // Where nobody can tell, publishing once more does no harm.
            let pending = Outstanding::when(|| unpublished.has(&self.org).unwrap_or(true));
            return self.publish.make_up(change, pending, "orgs limit", session);
        }
        let orgs = &mut change.settings_mut().orgs;
        match is.is_empty() {
            true => orgs.remove(&self.org),
            false => orgs.insert(self.org.clone(), is.clone()),
        };
        self.publish.compare(&change, session)?;
        let what = json!({
            "org": self.org.as_str(), "limits": [to_object(&was), to_object(&is)],
        });
        let record = session.record(change.serial(), "orgs limit", what);
        let committed = change.commit(&[record])?;
        if session.output.json {
            let serial = committed.serial;
            let line =
                json!({ "serial": serial, "org": self.org.as_str(), "limits": to_object(&is) });
            session.output.json_line(&line)?;
        } else {
            let limits = shown(&is);
            let line = format!("{}: {limits}; serial {}", self.org.as_str(), committed.serial);
            session.output.line(&line)?;
        }
        session.output.flush()?;
        self.publish.after(&committed, session)
    }
}

/// With the orgs whose limits were taken away in the registry but not yet where sidecars look.
fn list(session: &mut Session) -> Result<()> {
    let registry = Registry::open(&session.registry)?;
    let unpublished = UnpublishedOrgs::of(&registry)?;
    let none = LimitSet::default();
    let removed = unpublished.removed(&registry).map(|org| (org, &none));
    let orgs: BTreeMap<_, _> = registry.settings.orgs.iter().chain(removed).collect();
    if session.output.json {
        let orgs = orgs.into_iter().map(|(org, limits)| {
            let published = unpublished.has(org).map(|differs| !differs);
            json!({ "org": org.as_str(), "limits": to_object(limits), "published": published })
        });
        return session.output.json(&orgs.collect::<Vec<_>>());
    }
    let mut columns = Columns::titled(&["ORG", "LIMITS", "PUBLISHED"]);
    for (org, limits) in orgs {
        let published = match unpublished.has(org) {
            None => "unknown",
            Some(true) => "no",
            Some(false) => "yes",
        };
        columns.row([org.as_str().to_owned(), shown(limits), published.to_owned()]);
    }
    columns.print(&mut session.output)?;
    pending::note_orgs(&registry, &unpublished, session)
}

fn shown(limits: &LimitSet) -> String {
    if limits.is_empty() { "no limits".to_owned() } else { show_limits_of_org(limits) }
}
