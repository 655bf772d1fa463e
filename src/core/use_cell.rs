//! How often a key was used, and when last: one number that the request path updates. Imports
//! nothing of this crate but [`Now`].

use std::sync::atomic::{AtomicU64, Ordering};

use super::Now;

/// Uses of one key: 24 bits of the last minute, 40 bits of the count.
///
/// Workers share it. A use is one relaxed addition, and once a minute also a compare-and-swap.
#[derive(Debug, Default)]
pub struct UseCell(AtomicU64);

/// The contents of a [`UseCell`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// Minutes since 1970 of the last admitted request. 0: there was none.
    pub last: u32,
    /// Admitted requests. Stops at 2^40 − 2^33 (1.09 × 10^12).
    pub admitted: u64,
}

const COUNT_BITS: u32 = 40;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// More than a machine counts in a minute: the distance between the highest count that is kept and
/// the one that would overflow into the minute.
const ROOM: u64 = 1 << 33;
const MOST: u64 = COUNT + 1 - ROOM;

/// Minutes from 1970 to 2020, where the 24 bits begin. They last until 2051.
const EPOCH: u64 = 26_297_280;
const LAST_STAMP: u64 = (1 << 24) - 1;

// === impl UseCell ===

impl UseCell {
    /// Counts one admitted request.
    pub fn count(&self, now: Now) {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let stamp = u64::from(now.unix_minute()).wrapping_sub(EPOCH);
        if before >> COUNT_BITS < stamp {
            self.raise(stamp_of(now), 0);
        }
    }

    /// A request that was counted earlier is still running: its key is in use in this minute too.
    pub fn touch(&self, now: Now) {
        let stamp = stamp_of(now);
        if self.0.load(Ordering::Relaxed) >> COUNT_BITS < stamp {
            self.raise(stamp, 0);
        }
    }

    pub fn read(&self) -> KeyUse {
        KeyUse::of(self.0.load(Ordering::Relaxed))
    }

    /// Returns the value and resets it. Only when nobody counts any more.
    pub fn take(&self) -> KeyUse {
        KeyUse::of(self.0.swap(0, Ordering::Relaxed))
    }

    /// Adds uses that were counted elsewhere.
    pub fn add(&self, other: KeyUse) {
        if other.admitted > 0 {
            let stamp = u64::from(other.last).saturating_sub(EPOCH).min(LAST_STAMP);
            self.raise(stamp, other.admitted);
        }
    }

    #[cold]
    fn raise(&self, stamp: u64, count: u64) {
        let raised = |before: u64| {
            let total = (before & COUNT).saturating_add(count).min(MOST);
            Some((before >> COUNT_BITS).max(stamp) << COUNT_BITS | total)
        };
        // The closure always has a next value, so this cannot fail.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, raised);
    }
}

fn stamp_of(now: Now) -> u64 {
    u64::from(now.unix_minute()).saturating_sub(EPOCH).min(LAST_STAMP)
}

// === impl KeyUse ===

impl KeyUse {
    fn of(cell: u64) -> Self {
        match cell & COUNT {
            0 => Self::default(),
            admitted => Self { last: ((cell >> COUNT_BITS) + EPOCH) as u32, admitted },
        }
    }

    /// The later of two readings of one cell.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let admitted = self.admitted.max(other.admitted);
        Self { last: self.last.max(other.last), admitted }
    }

    /// The sum of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let admitted = self.admitted.saturating_add(other.admitted);
        Self { last: self.last.max(other.last), admitted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u64) -> Now {
        Now { unix_ms: minute * 60_000 + 59_999, mono_ns: 0 }
    }

    #[test]
    fn counts_and_keeps_the_latest_minute() {
        let cell = UseCell::default();
        assert_eq!(cell.read(), KeyUse::default());
        for minute in [29_900_000, 29_900_000, 29_900_007, 29_900_003] {
            cell.count(at(minute));
        }
        assert_eq!(cell.read(), KeyUse { last: 29_900_007, admitted: 4 });
        let other = UseCell::default();
        other.add(KeyUse { last: 29_900_009, admitted: 10 });
        other.add(KeyUse { last: 29_900_001, admitted: 1 });
        cell.add(other.take());
        assert_eq!(other.read(), KeyUse::default());
        assert_eq!(cell.read(), KeyUse { last: 29_900_009, admitted: 15 });
    }

    #[test]
    fn what_runs_on_moves_the_minute_and_not_the_count() {
        let cell = UseCell::default();
        cell.count(at(29_900_000));
        for minute in [29_900_005, 29_900_003, 29_900_005] {
            cell.touch(at(minute));
        }
        assert_eq!(cell.read(), KeyUse { last: 29_900_005, admitted: 1 });
    }

    #[test]
    fn a_full_count_stops_and_never_runs_into_the_minute() {
        let cell = UseCell::default();
        cell.add(KeyUse { last: 29_900_000, admitted: u64::MAX });
        let full = cell.read();
        assert_eq!(full, KeyUse { last: 29_900_000, admitted: MOST });
        cell.count(at(29_900_000));
        cell.count(at(29_900_001));
        assert_eq!(cell.read(), KeyUse { last: 29_900_001, admitted: MOST });
    }

    #[test]
    fn a_clock_that_is_wrong_still_counts() {
        for (minute, last) in [(0, 26_297_280), (26_297_279, 26_297_280), (60_000_000, 43_074_495)]
        {
            let cell = UseCell::default();
            cell.count(at(minute));
            cell.count(at(minute));
            assert_eq!(cell.read(), KeyUse { last, admitted: 2 }, "{minute}");
        }
    }
}
