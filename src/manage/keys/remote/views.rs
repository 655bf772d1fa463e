//! What a service states about its keys, printed like a registry's.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::RemoteKeys;
use super::answers::{RemoteKey, ToldUsage};
use super::find::successors_of;
use crate::core::KeyId;
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::keys::list::{
    ALIGNED, List, Show, TITLES, print_key, row, say_replaced, to_json,
};
use crate::manage::keys::unused::{PassedOver, SafeToRevoke, Unused, UnusedKey};
use crate::manage::output::{Columns, count};
use crate::manage::service::told_line;
use crate::manage::session::Session;
use crate::manage::time;
use crate::manage::usage::{UsageArgs, UsagePeriod};
use crate::wording::visible::one_line;

/// In seconds. Sidecars report each minute or are asked each 15 s; one that is silent for longer
/// may have seen a use.
const REPORTED: u64 = 600;

/// What sidecars have seen of a key in a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SeenUse {
    /// Somebody was admitted with it, or may have been.
    is_admitted: bool,
    /// The last reported use is in the period.
    is_last: bool,
    admitted: u64,
    refused: u64,
}

// === impl List ===

impl List {
    /// The same for a service.
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
    /// The same for a service.
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
    /// The same, from what a service's sidecars have reported to it.
    pub fn of_service(&self, keys: &RemoteKeys, session: &mut Session) -> Result<()> {
        refuse_records(&self.records, Some(&self.covered))?;
        let now = session.now();
        let from = now.saturating_sub(self.period.as_secs());
        let mut found = Vec::new();
        let mut passed = PassedOver::default();
        let all = keys.unused_since(self.org.as_ref(), from)?;
        // The statement about the reports is the same for all keys, also for those that are too
        // young: without reports, none of them counts as unused.
        if let Some(first) = all.first() {
            judge_reports(&keys.usage(first)?, from, now)?;
        }
        for key in all {
            match key.entry.created {
                None => passed.ageless += 1,
                Some(created) if created > from => passed.young += 1,
                Some(_) => {
                    let told = keys.usage(&key)?;
                    match seen(&told, from).map_err(|why| unreadable(keys, &key, &why))? {
                        SeenUse { is_admitted: true, .. } => {}
                        SeenUse { refused: 0, .. } => found.push(key),
                        SeenUse { .. } => passed.refused += 1,
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

/// A service has its sidecars' records itself.
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

/// Refuses to call a key unused if its use would not have been reported.
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

/// How a key was used since `from`. A day that began before `from` counts in full, because its uses
/// have no time of day.
///
/// # Errors
///
/// A time that cannot be read: there may be a use behind it.
fn seen(told: &ToldUsage, from: u64) -> std::result::Result<SeenUse, String> {
    let at = |text: &String| time::instant(text).map_err(|e| format!("{} {e}", told_line(text)));
    let last = told.last_used.as_ref().map(|used| at(&used.at)).transpose()?;
    // The minute of `from` counts.
    let is_last = last.is_some_and(|last| last >= from / 60 * 60);
    let mut seen = SeenUse { is_admitted: is_last, is_last, ..SeenUse::default() };
    for day in &told.days {
        let begin = at(&day.begin)?;
        if begin.saturating_add(86_400) <= from {
            continue;
        }
        seen.admitted = seen.admitted.saturating_add(day.admitted);
        seen.refused = seen.refused.saturating_add(day.refused);
        // For a day that began earlier, the last use shows whether it was after `from`. If it is
        // not even on that day, it shows nothing.
        let is_told_apart = begin < from && last.is_some_and(|last| last >= begin);
        seen.is_admitted |= day.admitted > 0 && !is_told_apart;
    }
    Ok(seen)
}

fn unreadable(keys: &RemoteKeys, key: &RemoteKey, why: &str) -> Error {
    let message = format!(
        "{}: how {} was used has a time that this program cannot read: {why}\nhint: use the \
         keygatectl of the service's version",
        keys.server(),
        key.entry.id
    );
    Error::Added { message, exit: Exit::Data }
}

fn instant(text: &str) -> Option<u64> {
    time::instant(text).ok()
}

// === impl SafeToRevoke ===

impl SafeToRevoke {
    /// The same, from what a service's sidecars have reported to it.
    pub fn of_service(&self, keys: &RemoteKeys, session: &mut Session) -> Result<()> {
        refuse_records(&self.records, Some(&self.covered))?;
        let now = session.now();
        let key = keys.select(&self.key, self.org.as_ref(), now)?;
        let from = now.saturating_sub(self.period.as_secs());
        let told = keys.usage(&key)?;
        let last = told.last_used.as_ref().map(|used| used.at.clone());
        let seen = seen(&told, from).map_err(|why| unreadable(keys, &key, &why))?;
        let SeenUse { admitted, refused, .. } = seen;
        let in_use = seen.is_admitted || refused > 0;
        // A recorded use settles the question, however long the sidecars have been silent.
        if !in_use {
            judge_reports(&told, from, now)?;
        }
        let entry = &key.entry;
        let networks: Vec<_> = told.networks.iter().map(|net| told_line(&net.network)).collect();
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
                (true, when) if seen.is_last => format!("{id} is in use: last at {when}"),
                (true, _) if seen.is_admitted => {
                    let admitted = count(admitted, "request");
                    format!(
                        "{id} is in use: {admitted} with it admitted since {}",
                        time::show(from)
                    )
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Half a day after a midnight.
    const FROM: &str = "2026-11-20T12:00:00Z";

    #[test]
    fn a_use_that_is_told_badly_is_a_use_or_an_error() {
        let seen_of = |last: Value, days: Value| {
            let told = json!({
                "last_used": last, "as_of": null, "since": null, "days": days, "networks": [],
            });
            let told: ToldUsage = serde_json::from_value(told).unwrap();
            seen(&told, instant(FROM).unwrap())
        };
        let day = |begin: &str, admitted: u64, refused: u64| json!({ "begin": begin, "admitted": admitted, "refused": refused });
        let at = |last: &str| json!({ "at": last });
        let (before, same, after) =
            ("2026-11-19T00:00:00Z", "2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z");
        for (last, days, is_admitted) in [
            (Value::Null, json!([]), false),
            (at("2026-11-20T11:59:00Z"), json!([day(before, 9, 9), day(same, 1, 0)]), false),
            (at("2026-11-20T12:00:00Z"), json!([day(same, 1, 0)]), true),
            // On a day of the period, whatever the last use is claimed to be.
            (Value::Null, json!([day(after, 7, 0)]), true),
            (at(before), json!([day(after, 7, 0)]), true),
            (Value::Null, json!([day(same, 7, 0)]), true),
            (at(before), json!([day(same, 7, 0)]), true),
            (Value::Null, json!([day(same, 0, 7)]), false),
        ] {
            let seen = seen_of(last.clone(), days.clone()).unwrap();
            assert_eq!(seen.is_admitted, is_admitted, "{last} {days}");
        }
        let most = json!([day(after, u64::MAX, u64::MAX), day(after, 1, 1)]);
        let most = seen_of(Value::Null, most).unwrap();
        assert_eq!((most.admitted, most.refused), (u64::MAX, u64::MAX));
        for (last, days) in [
            (at("2026-11-29 19:00:00+0000"), json!([])),
            (at("yesterday"), json!([])),
            (Value::Null, json!([day("9999-12-31T23:59:59Z", 1, 0)])),
            (Value::Null, json!([day("today", 1, 0)])),
        ] {
            assert!(seen_of(last.clone(), days.clone()).is_err(), "{last} {days}");
        }
    }
}
