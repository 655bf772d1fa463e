//! `keys unused` and `keys safe-to-revoke`: what the usage records say about keys that may be
//! removed.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::error::{Error, Result};
use super::super::output::{Columns, count};
use super::super::registry::entry::RegistryEntry;
use super::super::registry::{Filter, Registry};
use super::super::session::Session;
use super::super::time;
use super::super::usage::{UsageArgs, UsagePeriod};
use crate::core::OrgId;
use crate::usage::MergedUse;

/// A key that nobody uses.
pub(super) struct UnusedKey<'k> {
    pub(super) entry: &'k RegistryEntry,
    pub(super) last_used: Option<String>,
}

/// Unused keys that are not shown, by reason.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PassedOver {
    /// Keys younger than the requested period, about which nothing can be said.
    pub(super) young: u64,
    /// Keys of unknown age.
    pub(super) ageless: u64,
    /// Keys whose caller was refused, and so still has the key.
    pub(super) refused: u64,
}

#[derive(Debug, clap::Args)]
pub struct Unused {
    /// Keys that nobody used for so long
    #[arg(long = "for", value_name = "DURATION", value_parser = time::duration)]
    pub period: Duration,
    /// Only keys of this organization
    #[arg(long, value_parser = OrgId::parse)]
    pub org: Option<OrgId>,
    #[command(flatten)]
    pub records: UsageArgs,
    #[command(flatten)]
    pub covered: UsagePeriod,
}

#[derive(Debug, clap::Args)]
pub struct SafeToRevoke {
    /// Key id, or a name that only one key has
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Look for the name only among the keys of this organization
    #[arg(long, value_parser = OrgId::parse)]
    pub org: Option<OrgId>,
    /// Nobody may have used it for so long
    #[arg(long = "for", value_name = "DURATION", default_value = "30d", value_parser = time::duration)]
    pub period: Duration,
    #[command(flatten)]
    pub records: UsageArgs,
    #[command(flatten)]
    pub covered: UsagePeriod,
}

/// A minute of a record in the form for people.
pub fn show_minute(minute: u32) -> Option<String> {
    (minute > 0).then(|| time::show(u64::from(minute) * 60))
}

fn needs_records(records: &UsageArgs) -> Result<()> {
    match records.usage.is_empty() {
        false => Ok(()),
        true => Err(Error::Missing {
            what: "the usage record",
            hint: "name the files or admin listeners of all sidecars: --usage FILE|URL…",
        }),
    }
}

fn minute(secs: u64) -> u32 {
    u32::try_from(secs / 60).unwrap_or(u32::MAX)
}

/// Whether the key was used at or after `from` (Unix seconds). The minute of `from` counts.
fn used_since(used: &MergedUse, from: u64) -> bool {
    u64::from(used.last) >= from / 60
}

// === impl Unused ===

impl Unused {
    pub fn run(self, session: &mut Session) -> Result<()> {
        needs_records(&self.records)?;
        let registry = Registry::open(&session.registry)?;
        let now = session.now();
        let from = now.saturating_sub(self.period.as_secs());
        let audience = registry.settings.audience.as_deref();
        let merge = self.records.read_since(audience, minute(from))?;
        self.covered.check(&self.records, &merge, from, now)?;
        let mut found: Vec<(RegistryEntry, MergedUse)> = Vec::new();
        let mut passed = PassedOver::default();
        let filter = Filter { org: self.org.clone(), ..Filter::default() };
        registry.scan(&filter, &mut |located| {
            let entry = located.entry;
            let used = merge.key(entry.id);
            if entry.state(now) != "active" || used_since(&used, from) {
                return Ok(());
            }
            match entry.created {
                _ if merge.refused_since(entry.id) > 0 => passed.refused += 1,
                None => passed.ageless += 1,
                Some(created) if created > from => passed.young += 1,
                Some(_) => found.push((entry, used)),
            }
            Ok(())
        })?;
        found.sort_by_key(|(entry, used)| (used.last, entry.id));
        let found: Vec<_> = found
            .iter()
            .map(|(entry, used)| UnusedKey { entry, last_used: show_minute(used.last) })
            .collect();
        passed.print(&found, from, session)
    }
}

// === impl PassedOver ===

impl PassedOver {
    /// Prints the keys that were found, and how many were not shown. `from`: Unix seconds.
    pub(super) fn print(
        self,
        found: &[UnusedKey<'_>],
        from: u64,
        session: &mut Session,
    ) -> Result<()> {
        if session.output.json {
            let keys = found.iter().map(|UnusedKey { entry, last_used }| {
                json!({
                    "id": entry.id.to_string(),
                    "name": entry.name,
                    "org": entry.org.as_str(),
                    "last_used": last_used,
                    "created": entry.created.map(time::show),
                })
            });
            return session.output.json(&keys.collect::<Vec<Value>>());
        }
        let mut columns = Columns::titled(&["ID", "NAME", "ORG", "LAST USED", "CREATED"]);
        for UnusedKey { entry, last_used } in found {
            columns.row([
                entry.id.to_string(),
                if entry.name.is_empty() { "-".to_owned() } else { entry.name.to_string() },
                entry.org.as_str().to_owned(),
                last_used.clone().unwrap_or_else(|| "not in the records".to_owned()),
                entry.created.map_or_else(|| "-".to_owned(), time::show),
            ]);
        }
        columns.print(&mut session.output)?;
        let active = count(found.len() as u64, "active key");
        session.output.note(&format!("{active} not used since {}", time::show(from)));
        for (number, what) in [
            (self.young, "younger than that"),
            (self.ageless, "without `created`, so that nobody knows how old they are"),
            (
                self.refused,
                "refused when somebody tried: `keygatectl keys safe-to-revoke` shows how often",
            ),
        ] {
            if number > 0 {
                session.output.note(&format!("{} unused, but {what}", count(number, "key")));
            }
        }
        Ok(())
    }
}

// === impl SafeToRevoke ===

impl SafeToRevoke {
    pub fn run(self, session: &mut Session) -> Result<()> {
        needs_records(&self.records)?;
        let registry = Registry::open(&session.registry)?;
        let now = session.now();
        let entry = registry.select(&self.key, self.org.as_ref(), now)?.entry;
        let from = now.saturating_sub(self.period.as_secs());
        let audience = registry.settings.audience.as_deref();
        let merge = self.records.read_since(audience, minute(from))?;
        let used = merge.key(entry.id);
        let refused = merge.refused_since(entry.id);
        // A caller who is refused, by a limit or because the key was disabled to see who complains,
        // still has the key.
        let in_use = used_since(&used, from) || refused > 0;
        // A recorded use settles the question, however short the records are.
        if !in_use {
            self.covered.check(&self.records, &merge, from, now)?;
        }
        let last = show_minute(used.last);
        if session.output.json {
            session.output.json(&json!({
                "id": entry.id.to_string(),
                "name": entry.name,
                "org": entry.org.as_str(),
                "state": entry.state(now),
                "safe": !in_use,
                "since": time::show(from),
                "last_used": last,
                "admitted": used.admitted,
                "refused": used.refused,
                "networks": used.nets.iter().map(ToString::to_string).collect::<Vec<_>>(),
            }))?;
        } else {
            let (id, when) = (entry.id, last.unwrap_or_default());
            session.output.line(&match (in_use, when.as_str()) {
                (true, when) if used_since(&used, from) => {
                    format!("{id} is in use: last at {when}")
                }
                (true, _) => format!("{id} is tried still, but was not admitted"),
                (false, "") => format!("{id} was not used since {}", time::show(from)),
                (false, when) => {
                    format!("{id} was not used since {}; last at {when}", time::show(from))
                }
            })?;
            let nets: Vec<_> = used.nets.iter().map(ToString::to_string).collect();
            if !nets.is_empty() {
                session.output.line(&format!("from {}", nets.join(", ")))?;
            }
            if refused > 0 {
                let refused = count(refused, "request");
                session
                    .output
                    .line(&format!("{refused} with it refused; somebody has it still"))?;
            }
        }
        if in_use { Err(Error::InUse) } else { Ok(()) }
    }
}
