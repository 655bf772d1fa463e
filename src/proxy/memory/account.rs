//! What all client connections hold, by estimate. Connections report when they begin and end, when
//! an HTTP/2 stream begins, when a head grows long, and a few times a second. A request alone never
//! causes a report.

use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use foldhash::quality::RandomState;

use super::rule::{Budget, ChargedTo, StrangerConnection, to_close};
use crate::config::MemoryBudget;
use crate::telemetry::Shortage;

/// The account of the process.
#[derive(Debug)]
pub struct Account {
    setting: MemoryBudget,
    /// The limit of the cgroup, in bytes.
    limit: Option<u64>,
    budget: AtomicU64,
    held: AtomicU64,
    /// Bytes on connections on which nothing was admitted. `None`: there can never be a budget, so
    /// nobody needs the sums.
    strangers: Option<StrangerSums>,
    turned_away: [AtomicU64; Shortage::ALL.len()],
}

/// The hash is quick, with a seed that is secret: clients choose their addresses, and there are no
/// more entries than connections.
#[derive(Debug, Default)]
struct StrangerSums(DashMap<ChargedTo, u64, RandomState>);

/// What `/metrics` shows of an [`Account`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldMemory {
    pub(crate) bytes: u64,
    pub(crate) budget: Option<u64>,
    /// By [`Shortage`].
    pub(crate) turned_away: [u64; Shortage::ALL.len()],
}

// === impl Account ===

impl Account {
    /// `limit`: what the cgroup of the process allows it, in bytes. `None`: there is no limit.
    pub fn new(setting: MemoryBudget, limit: Option<u64>) -> Self {
        let budget = Budget::of(setting, limit, 0);
        let account = Self {
            setting,
            limit,
            budget: AtomicU64::new(u64::MAX),
            held: AtomicU64::default(),
            strangers: budget.bytes().map(|_| StrangerSums::default()),
            turned_away: Default::default(),
        };
        account.put(budget, 0);
        account
    }

    /// Adapts the budget to a table of another size.
    pub(crate) fn fit(&self, table_bytes: u64) {
        self.put(Budget::of(self.setting, self.limit, table_bytes), table_bytes);
    }

    fn put(&self, budget: Budget, table_bytes: u64) {
        let bytes = budget.bytes().unwrap_or(u64::MAX);
        let before = self.budget.swap(bytes, Ordering::Relaxed);
        if before != bytes && bytes == MemoryBudget::LEAST && self.setting == MemoryBudget::Detected
        {
            tracing::warn!(
                limit = self.limit,
                table_bytes,
                "the memory limit leaves little for connections: 8 MiB are taken all the same\nhint: \
                 raise the limit (docs/operations.md has the formula), or set limits.memory"
            );
        }
    }

    pub(crate) fn budget(&self) -> Budget {
        Budget::from_bytes(self.budget.load(Ordering::Relaxed))
    }

    fn held_bytes(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether a new connection or HTTP/2 stream is accepted. Counts a refusal.
    pub(crate) fn takes(&self, what: Shortage) -> bool {
        let takes = self.budget().takes_new(self.held_bytes());
        if !takes {
            self.count(what);
        }
        takes
    }

    pub(crate) fn count(&self, what: Shortage) {
        if let Some(count) = self.turned_away.get(what as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_pressed(&self) -> bool {
        self.budget().is_pressed(self.held_bytes())
    }

    /// Whether this address holds more than its part.
    pub(crate) fn is_over_share(&self, holder: ChargedTo) -> bool {
        let Some(StrangerSums(sums)) = &self.strangers else { return false };
        matches!(holder, ChargedTo::Address(_))
            && self.held_bytes() > self.budget().of_address()
            && sums.get(&holder).is_some_and(|sum| *sum > self.budget().of_address())
    }

    /// Books that a connection holds `now` instead of `before`, in bytes.
    pub(super) fn book(&self, before: u64, now: u64) {
        if now >= before {
            self.held.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// The same for what its holder has on connections on which nothing was admitted.
    pub(super) fn book_stranger(&self, holder: ChargedTo, before: u64, now: u64) {
        let Some(StrangerSums(sums)) = self.strangers.as_ref().filter(|_| before != now) else {
            return;
        };
        let gone = {
            let mut sum = sums.entry(holder).or_insert(0);
            *sum = sum.saturating_add(now).saturating_sub(before);
            *sum == 0
        };
        if gone {
            sums.remove_if(&holder, |_, sum| *sum == 0);
        }
    }

    /// Which of a worker's connections have to go.
    pub(crate) fn to_close(&self, own: &mut [StrangerConnection]) -> Vec<(usize, Shortage)> {
        let Some(StrangerSums(sums)) = &self.strangers else { return Vec::new() };
        let (budget, held) = (self.budget(), self.held_bytes());
        // Nobody can exceed a part that all together have not reached.
        if own.is_empty() || held <= budget.of_address() {
            return Vec::new();
        }
        let strangers: Vec<_> = sums.iter().map(|e| (*e.key(), *e.value())).collect();
        to_close(budget, held, &strangers, own)
    }

    pub(crate) fn shown(&self) -> HeldMemory {
        HeldMemory {
            bytes: self.held_bytes(),
            budget: self.budget().bytes(),
            turned_away: std::array::from_fn(|at| {
                self.turned_away.get(at).map_or(0, |count| count.load(Ordering::Relaxed))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_only_booked_where_there_is_a_budget() {
        let holder = ChargedTo::Address([192, 0, 2, 1].into());
        for (setting, limit, counted) in [
            (MemoryBudget::Off, Some(256 << 20), None),
            (MemoryBudget::Detected, None, None),
            (MemoryBudget::Detected, Some(256 << 20), Some(1)),
            (MemoryBudget::Bytes(64 << 20), None, Some(1)),
        ] {
            let account = Account::new(setting, limit);
            account.book_stranger(holder, 0, 100);
            let sums = account.strangers.as_ref().map(|sums| sums.0.len());
            assert_eq!(sums, counted, "{setting:?} {limit:?}");
            // Another table changes how much, never whether.
            account.fit(10 << 30);
            assert_eq!(account.budget().bytes().is_some(), counted.is_some());
            account.book_stranger(holder, 100, 0);
            assert!(account.strangers.is_none_or(|sums| sums.0.is_empty()));
        }
    }
}
