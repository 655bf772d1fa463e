//! The rows, in bounded memory. Imports core only.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::HeadNotice;
use super::lines::{ObserveLine, RowKind};
use crate::core::observe::UpstreamClass;
use crate::core::{ClientNetwork, KeyId, Now, Reason};

/// Most rows. The longest unseen one leaves, and one by which somebody would break last of all.
const MOST_ROWS: usize = 10_000;

/// What all workers have seen. Takes part of a request only while it is observed.
#[derive(Debug, Default)]
pub struct ObserveBook {
    rows: Mutex<RowStore>,
    /// Requests that were compared with the service's answer.
    requests: AtomicU64,
    /// When the first of them was compared, in milliseconds since 1970; 0: none yet.
    first_ms: AtomicU64,
}

/// One request that is worth a row.
#[derive(Debug)]
pub struct Sighting<'s> {
    pub kind: RowKind,
    pub reason: SightingReason<'s>,
    /// The id of the rule; `none` where none matches.
    pub route: &'s str,
    /// With [`Reason::WrongSecret`] the caller has only named it.
    pub key: Option<KeyId>,
    pub network: ClientNetwork,
    pub upstream: UpstreamClass,
    pub request_id: &'s str,
    pub now: Now,
}

/// Why a request is worth a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SightingReason<'s> {
    /// keygate admits the request, and the service does not.
    Admitted,
    Notice(&'s HeadNotice),
    Verdict(Reason),
}

#[derive(Debug, Default)]
struct RowStore {
    rows: HashMap<Arc<RowKey>, ObservedRow>,
    /// By the turn in which they were last seen: rows that break nobody, and those that do.
    harmless: BTreeMap<u64, Arc<RowKey>>,
    breaking: BTreeMap<u64, Arc<RowKey>>,
    turn: u64,
    dropped: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RowKey {
    kind: RowKind,
    reason: RowReason,
    route: Box<str>,
    caller: RowCaller,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum RowReason {
    Admitted,
    Notice(HeadNotice),
    Verdict(Reason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RowCaller {
    Key(KeyId),
    Network(ClientNetwork),
}

#[derive(Clone, Debug)]
struct ObservedRow {
    turn: u64,
    first_ms: u64,
    last_ms: u64,
    upstream: [u64; UpstreamClass::ALL.len()],
    request_id: Box<str>,
}

// === impl ObserveBook ===

impl ObserveBook {
    /// One more request was compared.
    pub fn compared(&self, now: Now) {
        if self.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            self.first_ms.store(now.unix_ms, Ordering::Relaxed);
        }
    }

    /// When the first request was compared, in milliseconds since 1970. `None`: none was yet.
    pub fn since_ms(&self) -> Option<u64> {
        Some(self.first_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }

    /// Requests that were compared.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn note(&self, sighting: &Sighting<'_>) {
        self.lock().note(sighting);
    }

    /// Rows, those first by which somebody would break, and how many have left.
    pub fn rows(&self) -> (Vec<ObserveLine>, u64) {
        let (mut lines, dropped) = {
            let store = self.lock();
            let lines: Vec<_> = store.rows.iter().map(|(key, row)| row.line(key)).collect();
            (lines, store.dropped)
        };
        lines.sort_by(ObserveLine::by_weight);
        (lines, dropped)
    }

    fn lock(&self) -> MutexGuard<'_, RowStore> {
        // A panic in between has lost a count at most.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl RowStore ===

impl RowStore {
    fn note(&mut self, sighting: &Sighting<'_>) {
        let key = RowKey::of(sighting);
        self.turn += 1;
        let turn = self.turn;
        let now_ms = sighting.now.unix_ms;
        let (key, mut row) = match self.rows.remove_entry(&key) {
            Some((key, row)) => {
                self.order(key.breaks(&row.upstream)).remove(&row.turn);
                (key, row)
            }
            None => {
                self.make_room();
                let row = ObservedRow {
                    turn,
                    first_ms: now_ms,
                    last_ms: now_ms,
                    upstream: [0; UpstreamClass::ALL.len()],
                    request_id: Box::default(),
                };
                (Arc::new(key), row)
            }
        };
        row.turn = turn;
        row.last_ms = row.last_ms.max(now_ms);
        if let Some(count) = row.upstream.get_mut(sighting.upstream as usize) {
            *count = count.saturating_add(1);
        }
        // One that was served says more than one that was not.
        if row.request_id.is_empty() || sighting.upstream.is_served() {
            row.request_id = sighting.request_id.into();
        }
        self.order(key.breaks(&row.upstream)).insert(turn, Arc::clone(&key));
        self.rows.insert(key, row);
    }

    fn order(&mut self, breaks: Breaks) -> &mut BTreeMap<u64, Arc<RowKey>> {
        match breaks {
            Breaks::Nobody => &mut self.harmless,
            Breaks::Somebody => &mut self.breaking,
        }
    }

    fn make_room(&mut self) {
        if self.rows.len() < MOST_ROWS {
            return;
        }
        let oldest = self.harmless.pop_first().or_else(|| self.breaking.pop_first());
        if let Some((_, key)) = oldest {
            self.rows.remove(&key);
            self.dropped += 1;
        }
    }
}

/// Whether somebody who is served today would not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breaks {
    Nobody,
    Somebody,
}

// === impl RowKey ===

impl RowKey {
    fn of(sighting: &Sighting<'_>) -> Self {
        Self {
            kind: sighting.kind,
            reason: match sighting.reason {
                SightingReason::Admitted => RowReason::Admitted,
                SightingReason::Notice(notice) => RowReason::Notice(notice.clone()),
                SightingReason::Verdict(reason) => RowReason::Verdict(reason),
            },
            route: sighting.route.into(),
            caller: match sighting.key {
                Some(id) => RowCaller::Key(id),
                None => RowCaller::Network(sighting.network),
            },
        }
    }

    fn reason(&self) -> String {
        match &self.reason {
            RowReason::Admitted => "admitted".to_owned(),
            RowReason::Notice(notice) => notice.word(),
            RowReason::Verdict(reason) => reason.as_str().to_owned(),
        }
    }

    fn breaks(&self, upstream: &[u64; UpstreamClass::ALL.len()]) -> Breaks {
        let counts = UpstreamClass::ALL.iter().zip(upstream);
        let is_served = counts.into_iter().any(|(class, count)| class.is_served() && *count > 0);
        match (self.kind, &self.reason) {
            (RowKind::Deny, _) | (RowKind::Changed, RowReason::Notice(HeadNotice::Owned(_)))
                if is_served =>
            {
                Breaks::Somebody
            }
            // Already, and whatever is enforced.
            (RowKind::Refused, _) => Breaks::Somebody,
            _ => Breaks::Nobody,
        }
    }
}

// === impl ObservedRow ===

impl ObservedRow {
    fn line(&self, key: &RowKey) -> ObserveLine {
        let (key_id, network) = match key.caller {
            RowCaller::Key(id) => (Some(id.to_string()), None),
            RowCaller::Network(network) => (None, network.network()),
        };
        let counts = UpstreamClass::ALL.iter().zip(self.upstream).filter(|(_, count)| *count > 0);
        ObserveLine {
            kind: key.kind,
            reason: key.reason(),
            route: key.route.to_string(),
            key: key_id,
            network,
            count: self.upstream.iter().fold(0, |sum, count| sum.saturating_add(*count)),
            first_ms: self.first_ms,
            last_ms: self.last_ms,
            upstream: counts.map(|(class, count)| (class.as_str().to_owned(), count)).collect(),
            request_id: self.request_id.to_string(),
            breaks: key.breaks(&self.upstream) == Breaks::Somebody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(n: u32, upstream: UpstreamClass) -> Sighting<'static> {
        Sighting {
            kind: RowKind::Deny,
            reason: SightingReason::Verdict(Reason::Missing),
            route: "all",
            key: None,
            network: ClientNetwork::of(std::net::Ipv4Addr::from_bits(n << 8).into()),
            upstream,
            request_id: "id",
            now: Now { unix_ms: u64::from(n), mono_ns: 0 },
        }
    }

    #[test]
    fn memory_is_bounded_and_breakers_stay_longest() {
        let book = ObserveBook::default();
        let most = MOST_ROWS as u32;
        for n in 0..10 {
            book.note(&sighting(n, UpstreamClass::Success));
        }
        for n in 10..most + 500 {
            book.note(&sighting(n, UpstreamClass::Unauthorized));
        }
        let (lines, dropped) = book.rows();
        assert_eq!((lines.len(), dropped), (MOST_ROWS, 500));
        assert_eq!(lines.iter().filter(|line| line.breaks).count(), 10);
        assert!(lines.iter().take(10).all(|line| line.breaks), "they come first");
        for n in 0..most {
            book.note(&sighting(n + 2 * most, UpstreamClass::Success));
        }
        let (lines, dropped) = book.rows();
        assert_eq!((lines.len(), dropped), (MOST_ROWS, u64::from(most) + 500));
        assert!(lines.iter().all(|line| line.first_ms >= u64::from(2 * most)), "the oldest left");
        let store = book.lock();
        assert_eq!(store.rows.len(), store.harmless.len() + store.breaking.len());
    }

    #[test]
    fn one_row_per_reason_rule_and_caller() {
        let book = ObserveBook::default();
        book.note(&sighting(1, UpstreamClass::Unauthorized));
        book.note(&Sighting { request_id: "served", ..sighting(1, UpstreamClass::Success) });
        book.note(&Sighting { request_id: "later", ..sighting(1, UpstreamClass::NotFound) });
        book.note(&Sighting { route: "other", ..sighting(1, UpstreamClass::NotFound) });
        let owned = HeadNotice::Owned("x-org-id".into());
        let changed = |notice| Sighting {
            kind: RowKind::Changed,
            reason: SightingReason::Notice(notice),
            ..sighting(1, UpstreamClass::Success)
        };
        book.note(&changed(&owned));
        book.note(&changed(&HeadNotice::Forwarding));
        let (lines, _) = book.rows();
        let said: Vec<_> = lines
            .iter()
            .map(|l| (l.reason.as_str(), l.route.as_str(), l.count, l.breaks))
            .collect();
        assert_eq!(
            said,
            [
                ("missing", "all", 3, true),
                ("field:x-org-id", "all", 1, true),
                ("missing", "other", 1, false),
                ("forwarding", "all", 1, false),
            ]
        );
        assert_eq!(lines[0].request_id, "served");
        assert_eq!(lines[0].network.unwrap().to_string(), "0.0.1.0/24");
    }
}
