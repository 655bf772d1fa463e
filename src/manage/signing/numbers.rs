//! How far ever-increasing numbers may rise: serials, and lines of an audit log. Without a limit,
//! one question could use all of them up. Pure. Imports table.

use serde::{Deserialize, Serialize};

use crate::table::manifest::MAX_CHOSEN_SERIAL;

/// No number above this is signed, whoever allows it: half of what a manifest can state, as elsewhere.
pub const HIGHEST: u64 = MAX_CHOSEN_SERIAL;

/// More numbers a second than anybody needs.
const RATE: u64 = 1_000_000;

/// How many may be used in one step: as many as in a year at [`RATE`]. A service that returns after
/// months, or that chose the time of day as its first serial, stays below. It takes 142 years to
/// use up 2^52.
pub const MOST_AT_ONCE: u64 = RATE * 365 * 86_400;

/// What was used of [`MOST_AT_ONCE`] and has not come back with time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UsedNumbers {
    used: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    at_ms: u64,
}

// === impl UsedNumbers ===

impl UsedNumbers {
    fn at(&self, now_ms: u64) -> u64 {
        let back = (now_ms.saturating_sub(self.at_ms) / 1000).saturating_mul(RATE);
        self.used.saturating_sub(back)
    }

    /// How many may be used now.
    pub fn left(&self, now_ms: u64) -> u64 {
        MOST_AT_ONCE.saturating_sub(self.at(now_ms))
    }

    /// The state after `more` were used.
    #[must_use]
    pub fn with(&self, more: u64, now_ms: u64) -> Self {
        // Keep the fraction of a second, or each signature would lose it.
        let since = now_ms.saturating_sub(self.at_ms) % 1000;
        let used = self.at(now_ms).saturating_add(more).min(MOST_AT_ONCE);
        Self { used, at_ms: now_ms.saturating_sub(since).max(self.at_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_230_000_000;

    #[test]
    fn what_was_used_comes_back_with_time() {
        let used = UsedNumbers::default();
        assert_eq!(used.left(NOW), MOST_AT_ONCE);
        let used = used.with(MOST_AT_ONCE, NOW);
        assert_eq!((used.left(NOW), used.left(NOW + 999)), (0, 0));
        assert_eq!(used.left(NOW + 2500), 2 * RATE);
        assert_eq!(used.left(NOW - 5000), 0, "a clock that was set back");
        assert_eq!(used.with(7, NOW - 5000).left(NOW), 0);
        assert_eq!(used.left(NOW + 2 * 365 * 86_400_000), MOST_AT_ONCE);
    }

    /// Ten thousand changes a second, each signed, or all together after a month.
    #[test]
    fn a_busy_service_never_meets_the_limit() {
        let mut used = UsedNumbers::default();
        for tick in 0..100_000 {
            used = used.with(100, NOW + tick * 10);
        }
        assert!(used.left(NOW + 1_000_000) > MOST_AT_ONCE - RATE, "{used:?}");
        let month = 30 * 86_400;
        assert!(used.left(NOW + month * 1000) >= month * 10_000);
    }

    /// Everything that is allowed, every second: this lasts for more than a century.
    #[test]
    fn nobody_uses_all_of_them_up() {
        let years = (HIGHEST - MOST_AT_ONCE) / (RATE * 365 * 86_400);
        assert!(years > 100, "{years}");
    }
}
