//! What a service shows of its keys, printed as that of a registry is.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::RemoteKeys;
use super::answers::{RemoteKey, ToldUsage};
use super::find::successors_of;
use crate::core::KeyId;
use crate::manage::error::{Error, Result};
use crate::manage::keys::list::{
    ALIGNED, List, Show, TITLES, print_key, row, say_replaced, to_json,
};
use crate::manage::keys::unused::{PassedOver, SafeToRevoke, Unused, UnusedKey};
use crate::manage::output::{Columns, count};
use crate::manage::session::Session;
use crate::manage::time;
use crate::manage::usage::{UsageArgs, UsagePeriod};
use crate::wording::visible::one_line;

/// Sidecars report each minute or are asked each 15 s; who is silent for longer, in seconds, may have
/// seen a use.
const REPORTED: u64 = 600;

// === impl List ===

impl List {
    /// The same of a service.
    pub fn of_service(&self, keys: &RemoteKeys, session: &mut Session) -> Result<()> {
        refuse_records(&self.records, None)?;
        let now = session.now();
        let all = keys.all(self.org.as_ref())?;
        let (successors, told) = (successors_of(&all), keys.publication()?);
        let published = told.published;
        let mut found: Vec<&RemoteKey> = all
            .iter()
            .filter(|key| self.name.as_deref().is_none_or(|name| *key.entry.name == *name))
            .filter(|key| self.takes(&key.entry, now))
            .collect();
        if self.expiring.is_some() {
            found.sort_by_key(|key| (key.entry.expires, key.entry.id));
        }
        if session.output.json {
            session.output.text("[")?;
            for (n, key) in found.iter().enumerate() {
                session.output.text(if n == 0 { "\n" } else { ",\n" })?;
                session.output.json_raw(&remote_json(key, published, &successors, now))?;
            }
            return session.output.text(if found.is_empty() { "]\n" } else { "\n]\n" });
        }
        let mut columns = Columns::titled(TITLES.get(..TITLES.len() - 2).unwrap_or_default());
        let mut left = 0u64;
        for (n, key) in found.iter().enumerate() {
            if n > 0 && n % ALIGNED == 0 {
                columns.print(&mut session.output)?;
                columns = Columns::default();
            }
            let mut cells = row(&key.entry, now);
            if key.serial > published {
                left += 1;
                let [.., status, _, _, _, _, _] = &mut cells;
                status.push_str(" (not published)");
            }
            if let (Some(by), [.., last]) = (successors.get(&key.entry.id), &mut cells) {
                *last = by.to_string();
            }
            columns.row(cells);
        }
        columns.print(&mut session.output)?;
        if left > 0 {
            let is = if left == 1 { "1 key is" } else { &format!("{left} keys are") };
            let why = told.unpublished.map_or_else(
                || "the service will in a moment".to_owned(),
                |why| one_line(&why.reason).into_owned(),
            );
            session.output.note(&format!("{is} not published as shown: {why}"));
        }
        Ok(())
    }
}

// === impl Show ===

impl Show {
    /// The same of a service.
    pub fn of_service(&self, keys: &RemoteKeys, session: &mut Session) -> Result<()> {
        for (option, is_given) in
            [("--secret-stdin", self.secret_stdin), ("--digests", self.digests)]
        {
            if is_given {
                let why = "is for files: a service neither takes secrets nor tells digests";
                return Err(Error::argument(option, why));
            }
        }
        let now = session.now();
        let key = keys.select(self.key.as_deref().unwrap_or_default(), self.org.as_ref(), now)?;
        let successors = successors_of(&keys.all(Some(&key.entry.org))?);
        let value = remote_json(&key, keys.publication()?.published, &successors, now);
        print_key(value, session)?;
        if !session.output.json {
            session.output.note(&format!("from {}", keys.server()));
        }
        Ok(())
    }
}

fn remote_json(
    key: &RemoteKey,
    published: u64,
    successors: &HashMap<KeyId, KeyId>,
    now: u64,
) -> Value {
    let mut value = to_json(&key.entry, now);
    if let Value::Object(map) = &mut value {
        map.insert("published".into(), (key.serial <= published).into());
    }
    say_replaced(&mut value, &key.entry, successors);
    value
}

// === impl Unused ===

impl Unused {
    /// What a service's sidecars have told it.
    pub fn of_service(&self, keys: &RemoteKeys, session: &mut Session) -> Result<()> {
        refuse_records(&self.records, Some(&self.covered))?;
        let now = session.now();
        let from = now.saturating_sub(self.period.as_secs());
        let mut found = Vec::new();
        let mut passed = PassedOver::default();
        for key in keys.unused_since(self.org.as_ref(), from)? {
            match key.entry.created {
                None => passed.ageless += 1,
                Some(created) if created > from => passed.young += 1,
                Some(_) => {
                    let told = keys.usage(&key)?;
                    judge_reports(&told, from, now)?;
                    match counts_since(&told, from).1 {
                        0 => found.push(key),
                        _ => passed.refused += 1,
                    }
                }
            }
        }
        found.sort_by(|a, b| (&a.last_used, a.entry.id).cmp(&(&b.last_used, b.entry.id)));
        let found: Vec<_> = found
            .iter()
            .map(|RemoteKey { entry, last_used, .. }| UnusedKey {
                entry,
                last_used: last_used.clone(),
            })
            .collect();
        passed.print(&found, from, session)
    }
}

/// A service has the records of its sidecars itself.
fn refuse_records(records: &UsageArgs, covered: Option<&UsagePeriod>) -> Result<()> {
    let given = [
        ("--usage", !records.usage.is_empty()),
        ("--added", covered.is_some_and(|covered| !covered.added.is_empty())),
        ("--gone", covered.is_some_and(|covered| !covered.gone.is_empty())),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((option, _)) => {
            let why = "is for files: a service has the records of its sidecars itself";
            Err(Error::argument(option, why))
        }
        None => Ok(()),
    }
}

/// Refuses to say that a key is unused where nobody would have told of its use.
fn judge_reports(told: &ToldUsage, from: u64, now: u64) -> Result<()> {
    let hint = "hint: docs/admin-api.md, \"Use\", says how sidecars report; the page of the service \
                shows which are silent";
    let why = match (&told.since, &told.as_of) {
        (_, None) => "no sidecar has reported yet, so nobody knows who uses keys".to_owned(),
        (_, Some(last)) if instant(last).is_none_or(|at| at.saturating_add(REPORTED) < now) => {
            format!("no sidecar has reported since {}", one_line(last))
        }
        (None, Some(_)) => "the service does not say since when sidecars report: it is older than \
                            this keygatectl"
            .to_owned(),
        (Some(first), Some(_)) if instant(first).is_none_or(|at| at > from) => format!(
            "sidecars report since {}, which does not cover the time since {}",
            one_line(first),
            time::show(from)
        ),
        (Some(_), Some(_)) => return Ok(()),
    };
    Err(Error::NoUsage(format!("{why}\n{hint}")))
}

/// How often a key was admitted and refused since then.
fn counts_since(told: &ToldUsage, from: u64) -> (u64, u64) {
    // A day that has begun before counts as a whole: nobody knows which part of it.
    let since = |begin: &String| instant(begin).is_some_and(|begin| begin + 86_400 > from);
    let days = told.days.iter().filter(|day| since(&day.begin));
    days.fold((0, 0), |(admitted, refused), day| (admitted + day.admitted, refused + day.refused))
}

fn instant(text: &str) -> Option<u64> {
    time::instant(text).ok()
}

// === impl SafeToRevoke ===

impl SafeToRevoke {
    /// By what a service's sidecars have told it.
    pub fn of_service(&self, keys: &RemoteKeys, session: &mut Session) -> Result<()> {
        refuse_records(&self.records, Some(&self.covered))?;
        let now = session.now();
        let key = keys.select(&self.key, self.org.as_ref(), now)?;
        let from = now.saturating_sub(self.period.as_secs());
        let told = keys.usage(&key)?;
        let last = told.last_used.as_ref().map(|used| used.at.clone());
        let was_used = last.as_deref().and_then(instant).is_some_and(|at| at >= from / 60 * 60);
        let (admitted, refused) = counts_since(&told, from);
        let in_use = was_used || refused > 0;
        // A use that is there answers the question, however long nobody has reported.
        if !in_use {
            judge_reports(&told, from, now)?;
        }
        let entry = &key.entry;
        let networks: Vec<_> = told.networks.iter().map(|net| net.network.clone()).collect();
        if session.output.json {
            session.output.json(&json!({
                "id": entry.id.to_string(),
                "name": entry.name,
                "org": entry.org.as_str(),
                "state": entry.state(now),
                "safe": !in_use,
                "since": time::show(from),
                "last_used": last,
                "admitted": admitted,
                "refused": refused,
                "networks": networks,
            }))?;
        } else {
            let (id, when) = (entry.id, last.unwrap_or_default());
            session.output.line(&match (in_use, when.as_str()) {
                (true, when) if was_used => format!("{id} is in use: last at {when}"),
                (true, _) => format!("{id} is tried still, but was not admitted"),
                (false, "") => format!("{id} was not used since {}", time::show(from)),
                (false, when) => {
                    format!("{id} was not used since {}; last at {when}", time::show(from))
                }
            })?;
            if !networks.is_empty() {
                session.output.line(&format!("from {}", networks.join(", ")))?;
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
