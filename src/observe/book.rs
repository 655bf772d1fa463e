//! The rows, in bounded memory. Imports core only.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::HeadNotice;
use super::lines::{ObserveLine, RowKind};
use crate::core::observe::UpstreamClass;
use crate::core::{ClientNetwork, KeyId, Now, Reason};

/// The most rows. The row that was unseen the longest leaves: first among those that break nobody,
/// then among those that keygate itself has refused, which any scanner can cause.
const MOST_ROWS: usize = 10_000;

/// What all workers have seen. Used only while a request is observed.
#[derive(Debug, Default)]
pub struct ObserveBook {
    rows: Mutex<RowStore>,
    /// Requests that were compared with the service's answer.
    requests: AtomicU64,
    /// When the first of them was compared, in milliseconds since 1970. 0: none was yet.
    first_ms: AtomicU64,
}

/// One request that is worth a row.
#[derive(Debug)]
pub struct Sighting<'s> {
    pub kind: RowKind,
    pub reason: SightingReason<'s>,
    /// The id of the rule. `none` where none matches.
    pub route: &'s str,
    /// With [`Reason::WrongSecret`], the caller has only named it.
    pub key: Option<KeyId>,
    pub network: ClientNetwork,
    pub upstream: UpstreamClass,
    pub request_id: &'s str,
    pub now: Now,
}

/// Why a request is worth a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SightingReason<'s> {
    /// keygate admits the request, but the service does not.
    Admitted,
    Notice(&'s HeadNotice),
    Verdict(Reason),
}

/// All rows at one time.
#[derive(Debug)]
pub struct ObservedRows {
    /// Rows that would break somebody are first.
    pub lines: Vec<ObserveLine>,
    /// Number of rows that have left.
    pub dropped: u64,
    /// As in [`super::ObserveHead::lost`].
    pub lost: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct RowStore {
    rows: HashMap<Arc<RowKey>, ObservedRow>,
    /// Ordered by when they were last seen.
    harmless: BTreeMap<u64, Arc<RowKey>>,
    refused: BTreeMap<u64, Arc<RowKey>>,
    breaking: BTreeMap<u64, Arc<RowKey>>,
    turn: u64,
    dropped: u64,
    /// When a row that would break somebody was last seen, for those that have left.
    lost: HashMap<RowReason, u64>,
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
    /// Shared, so that a report copies rows quickly.
    request_id: Arc<str>,
}

// === impl ObserveBook ===

impl ObserveBook {
    /// Counts one more compared request.
    pub fn compared(&self, now: Now) {
        if self.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            self.first_ms.store(now.unix_ms, Ordering::Relaxed);
        }
    }

    /// When the first request was compared, in milliseconds since 1970. `None`: none was yet.
    pub fn since_ms(&self) -> Option<u64> {
        Some(self.first_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }

    /// Number of requests that were compared.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn note(&self, sighting: &Sighting<'_>) {
        self.lock().note(sighting);
    }

    /// Workers wait only while the rows are copied, not while they are turned into text.
    pub fn rows(&self) -> ObservedRows {
        let (rows, dropped, lost) = {
            let store = self.lock();
            let rows = store.rows.iter().map(|(key, row)| (Arc::clone(key), row.clone()));
            (rows.collect::<Vec<_>>(), store.dropped, store.lost.clone())
        };
        let mut lines: Vec<_> = rows.iter().map(|(key, row)| row.line(key)).collect();
        lines.sort_by(ObserveLine::by_weight);
        let lost = lost.iter().map(|(reason, last_ms)| (reason.word(), *last_ms)).collect();
        ObservedRows { lines, dropped, lost }
    }

    fn lock(&self) -> MutexGuard<'_, RowStore> {
        // A panic in between has lost at most a count.
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
                self.order(key.weight(&row.upstream)).remove(&row.turn);
                (key, row)
            }
            None => {
                self.make_room();
                let row = ObservedRow {
                    turn,
                    first_ms: now_ms,
                    last_ms: now_ms,
                    upstream: [0; UpstreamClass::ALL.len()],
                    request_id: Arc::default(),
                };
                (Arc::new(key), row)
            }
        };
        row.turn = turn;
        row.last_ms = row.last_ms.max(now_ms);
        if let Some(count) = row.upstream.get_mut(sighting.upstream as usize) {
            *count = count.saturating_add(1);
        }
        // A served request is more informative than one that was not.
        if row.request_id.is_empty() || sighting.upstream.is_served() {
            row.request_id = sighting.request_id.into();
        }
        self.order(key.weight(&row.upstream)).insert(turn, Arc::clone(&key));
        self.rows.insert(key, row);
    }

    fn order(&mut self, weight: RowWeight) -> &mut BTreeMap<u64, Arc<RowKey>> {
        match weight {
            RowWeight::Harmless => &mut self.harmless,
            RowWeight::Refused => &mut self.refused,
            RowWeight::Breaking => &mut self.breaking,
        }
    }

    fn make_room(&mut self) {
        if self.rows.len() < MOST_ROWS {
            return;
        }
        let Self { harmless, refused, breaking, .. } = self;
        let oldest = [harmless, refused, breaking].into_iter().find_map(BTreeMap::pop_first);
        let Some((_, key)) = oldest else { return };
        let Some(row) = self.rows.remove(&key) else { return };
        self.dropped += 1;
        if key.weight(&row.upstream) != RowWeight::Harmless {
            let last_ms = self.lost.entry(key.reason.clone()).or_default();
            *last_ms = row.last_ms.max(*last_ms);
        }
    }
}

/// How important a row is to a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowWeight {
    /// Nobody who is served today breaks.
    Harmless,
    /// Somebody breaks already, whatever is enforced.
    Refused,
    /// Somebody would break.
    Breaking,
}

// === impl RowReason ===

impl RowReason {
    fn word(&self) -> String {
        match self {
            Self::Admitted => "admitted".to_owned(),
            Self::Notice(notice) => notice.word(),
            Self::Verdict(reason) => reason.as_str().to_owned(),
        }
    }
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

    fn weight(&self, upstream: &[u64; UpstreamClass::ALL.len()]) -> RowWeight {
        let counts = UpstreamClass::ALL.iter().zip(upstream);
        let is_served = counts.into_iter().any(|(class, count)| class.is_served() && *count > 0);
        match (self.kind, &self.reason) {
            (RowKind::Deny, _) | (RowKind::Changed, RowReason::Notice(HeadNotice::Owned(_)))
                if is_served =>
            {
                RowWeight::Breaking
            }
            (RowKind::Refused, _) => RowWeight::Refused,
            _ => RowWeight::Harmless,
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
            reason: key.reason.word(),
            route: key.route.to_string(),
            key: key_id,
            network,
            count: self.upstream.iter().fold(0, |sum, count| sum.saturating_add(*count)),
            first_ms: self.first_ms,
            last_ms: self.last_ms,
            upstream: counts.map(|(class, count)| (class.as_str().to_owned(), count)).collect(),
            request_id: self.request_id.to_string(),
            breaks: key.weight(&self.upstream) != RowWeight::Harmless,
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
        let ObservedRows { lines, dropped, lost } = book.rows();
        assert_eq!((lines.len(), dropped, lost.len()), (MOST_ROWS, 500, 0));
        assert_eq!(lines.iter().filter(|line| line.breaks).count(), 10);
        assert!(lines.iter().take(10).all(|line| line.breaks), "they come first");
        for n in 0..most {
            book.note(&sighting(n + 2 * most, UpstreamClass::Success));
        }
        let ObservedRows { lines, dropped, lost } = book.rows();
        assert_eq!((lines.len(), dropped), (MOST_ROWS, u64::from(most) + 500));
        assert!(lines.iter().all(|line| line.first_ms >= u64::from(2 * most)), "the oldest left");
        assert_eq!(lost, [("missing".to_owned(), 9)].into(), "the last of the first ten");
        let store = book.lock();
        let ordered = store.harmless.len() + store.refused.len() + store.breaking.len();
        assert_eq!(store.rows.len(), ordered);
    }

    /// A stranger who can fill the book with heads that keygate refuses must not hide callers who
    /// would break.
    #[test]
    fn refused_rows_leave_before_those_who_would_break() {
        let book = ObserveBook::default();
        let most = MOST_ROWS as u32;
        for n in 0..10 {
            book.note(&sighting(n, UpstreamClass::Success));
        }
        for n in 0..most + 5 {
            book.note(&Sighting {
                kind: RowKind::Refused,
                reason: SightingReason::Verdict(Reason::BadFraming),
                ..sighting(n, UpstreamClass::None)
            });
        }
        let ObservedRows { lines, dropped, lost } = book.rows();
        let denied = lines.iter().filter(|line| line.kind == RowKind::Deny).count();
        assert_eq!((lines.len(), dropped, denied), (MOST_ROWS, 15, 10));
        assert_eq!(lost, [("bad_framing".to_owned(), 14)].into(), "and the report says so");
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
        let lines = book.rows().lines;
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
