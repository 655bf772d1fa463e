//! What `/observe` and `/status` show about observing. Imports `core`, `observe`, `reload`,
//! `snapshot`.

use std::sync::Arc;

use serde::Serialize;

use crate::core::Now;
use crate::core::observe::{CredentialPassage, EnforcedShare, ObserveReach};
use crate::observe::{ObserveBook, ObserveHead, ObservedRows};
use crate::reload::Time;
use crate::snapshot::Store;

/// What the pages need to show it.
#[derive(Debug)]
pub struct ObserveDesk {
    pub book: Arc<ObserveBook>,
    pub store: Arc<Store>,
    /// The name that this sidecar reports under.
    pub instance: String,
    pub started: Now,
}

/// `[observe]` as it is in force.
#[derive(Debug, Serialize)]
pub(super) struct ObserveStatus {
    /// Whether requests are observed at this time.
    observing: bool,
    until: Option<Time>,
    /// The share of callers. After `until` it is all.
    enforced: String,
    /// `forward` or `strip`.
    credentials: &'static str,
    /// `None`: the whole gate.
    routes: Option<Vec<String>>,
}

// === impl ObserveDesk ===

impl ObserveDesk {
    /// `None`: the configuration has no `[observe]`.
    pub(super) fn status(&self, now: Now) -> Option<ObserveStatus> {
        let snapshot = self.store.load();
        let policy = &snapshot.settings.policy;
        let observe = policy.observe.as_deref()?;
        let is_observed = |index: usize, these: &[bool]| these.get(index).copied() == Some(true);
        Some(ObserveStatus {
            observing: observe.is_on(now),
            until: observe.until.map(Time::of_secs),
            enforced: observe.share_at(now).to_string(),
            credentials: word_of(observe.credentials),
            routes: match &observe.reach {
                ObserveReach::WholeGate => None,
                ObserveReach::Routes(these) => {
                    let named = policy.routes.iter().filter(|r| is_observed(r.index, these));
                    Some(named.map(|route| route.id.to_string()).collect())
                }
            },
        })
    }

    /// The whole report: a head, and a line for each row.
    pub(super) fn lines(&self, now: Now) -> Vec<u8> {
        let ObservedRows { lines: rows, dropped, lost } = self.book.rows();
        let snapshot = self.store.load();
        let observe = snapshot.settings.policy.observe.as_deref();
        let head = ObserveHead {
            observe: ObserveHead::VERSION,
            instance: self.instance.clone(),
            started_ms: self.started.unix_ms,
            now_ms: now.unix_ms,
            observing: observe.is_some_and(|observe| observe.is_on(now)),
            until: observe.and_then(|observe| observe.until),
            enforced_share: observe.map_or(EnforcedShare::ALL, |o| o.share_at(now)).as_ratio(),
            credentials: observe.map(|observe| word_of(observe.credentials).to_owned()),
            since_ms: self.book.since_ms(),
            requests: self.book.requests(),
            rows: rows.len() as u64,
            dropped,
            lost: Some(lost),
        };
        drop(snapshot);
        let mut out = Vec::with_capacity(256 * (rows.len() + 1));
        write_line(&mut out, &head);
        for row in &rows {
            write_line(&mut out, row);
        }
        out
    }
}

/// The word that the configuration uses.
const fn word_of(passage: CredentialPassage) -> &'static str {
    match passage {
        CredentialPassage::Forward => "forward",
        CredentialPassage::Strip => "strip",
    }
}

fn write_line(out: &mut Vec<u8>, value: &impl Serialize) {
    // Writing to memory cannot fail, and neither can serialising these types.
    if serde_json::to_writer(&mut *out, value).is_ok() {
        out.push(b'\n');
    }
}
