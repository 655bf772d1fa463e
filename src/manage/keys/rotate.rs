//! `keys rotate`: a successor for a single secret, a second secret for a pair.

use std::time::Duration;

use super::super::error::{Error, Result};
use super::super::publish::PublishArgs;
use super::super::registry::change::Check;
use super::super::registry::entry::{Previous, RegistryEntry};
use super::super::session::{Session, issue, new_key_id};
use super::super::time::{self, When};
use super::create::{Shown, form};
use super::edit::refuse_final;
use crate::core::{KeyStatus, OrgId};

#[derive(Debug, clap::Args)]
pub struct Rotate {
    /// Key id, or a name that only one key has
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Look for the name only among the keys of this organization
    #[arg(long, value_parser = OrgId::parse)]
    pub org: Option<OrgId>,
    /// How long the old secret stays valid; `0s` ends it at once
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = time::duration)]
    pub overlap: Duration,
    /// When the successor ends [default: when the old key would have]
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    pub expires: Option<When>,
    /// Issue the successor with another prefix of the registry
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,
    /// End the former secret of an earlier rotation that is still valid
    #[arg(long)]
    pub drop_previous: bool,
    #[command(flatten)]
    pub publish: PublishArgs,
}

// === impl Rotate ===

impl Rotate {
    pub fn run(self, session: &mut Session) -> Result<()> {
        session.output.refuse_closed()?;
        let now = session.now();
        let mut change = super::begin(session, Check::Touched)?;
        self.publish.check(change.registry(), session)?;
        let located = change.registry().select(&self.key, self.org.as_ref(), now)?;
        let old = located.entry.clone();
        refuse_final(&old)?;
        if old.expires.is_some_and(|at| at <= now) && self.expires.is_none() {
            return Err(Error::State {
                id: old.id,
                state: "expired".into(),
                hint: "give the successor an end of its own with --expires",
            });
        }
        let named = self.prefix.as_deref().or(old.prefix.as_deref());
        let (prefix, format) = form(change.settings(), named, session)?;
        let issued = issue(&format, old.environment)?;
        let expires = match self.expires {
            Some(when) => when.resolve(now).map_err(|e| Error::argument("--expires", e))?,
            None => old.expires,
        };
        let end =
            When::In(self.overlap).resolve(now).map_err(|e| Error::argument("--overlap", e))?;
        let end = end.unwrap_or(now);
        let end = old.expires.map_or(end, |at| at.min(end));
        let successor = RegistryEntry {
            prefix,
            key_prefix: issued.key_prefix.clone(),
            digest: issued.digest,
            expires,
            ..old.clone()
        };
        let shown = if old.public_id.is_some() {
            if old.status == KeyStatus::Disabled {
                return Err(Error::State {
                    id: old.id,
                    state: "disabled, and so would be its new secret".into(),
                    hint: "`keygatectl keys enable` first",
                });
            }
            self.refuse_third_secret(&old, now)?;
            let previous = (end > now).then_some(Previous { digest: old.digest, expires: end });
            let new = RegistryEntry { previous, ..successor };
            change.replace(located, new.clone());
            new
        } else {
            let new = RegistryEntry {
                id: new_key_id()?,
                created: Some(now),
                replaces: Some(old.id),
                // The old key was announced to go, and this is what its callers move to.
                sunset: None,
                // A successor of a key that was disabled in haste is meant to work.
                status: KeyStatus::Active,
                ..successor
            };
            change.replace(located, RegistryEntry { expires: Some(end), ..old });
            if !change.add(new.clone()) {
                return Err(Error::Random);
            }
            new
        };
        let committed = super::commit(change, "keys rotate", &self.publish, session)?;
        let shown = Shown { entry: shown, issued, serial: committed.serial };
        let committed =
            shown.show(self.publish.left_to_do(&committed.registry)?, committed, session)?;
        session.output.note(&format!("the old secret is valid until {}", time::show(end)));
        self.publish.after(&committed, session)
    }

    /// A pair has at most two secrets; the one before the last must not vanish by surprise.
    fn refuse_third_secret(&self, old: &RegistryEntry, now: u64) -> Result<()> {
        match old.previous {
            Some(previous) if previous.expires > now && !self.drop_previous => Err(Error::State {
                id: old.id,
                state: format!(
                    "in rotation already: its former secret is valid until {}",
                    time::show(previous.expires)
                ),
                hint: "wait until then, or end the former secret now with --drop-previous",
            }),
            _ => Ok(()),
        }
    }
}
