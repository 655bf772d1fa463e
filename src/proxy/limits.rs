//! What keys have spent of their limits. Lives outside every table, keyed by key id, so that a
//! reload never resets a limit; has entries only for keys that were seen and are limited.

use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use foldhash::fast::RandomState;

use crate::core::decision::Charge;
use crate::core::limit::{Exhausted, Spent};
use crate::core::reason::Detail;
use crate::core::{KeyId, Limit, Now, Reason, Rejection};

/// Shared by all workers: a limit holds for the sidecar, not per core.
#[derive(Debug, Default)]
pub struct LimitStore {
    /// The quick hash: whose ids are in the table is not up to clients.
    spent: DashMap<KeyId, AtomicU64, RandomState>,
}

/// What the RateLimit fields of an admitted response say.
pub(crate) struct Charged {
    pub(crate) limit: Limit,
    pub(crate) spent: Spent,
}

// === impl LimitStore ===

impl LimitStore {
    /// Takes one request out of the key's limit.
    pub(crate) fn charge(&self, charge: Charge, now: Now) -> Result<Charged, Rejection> {
        // Charged under the map's lock, so that a sweep cannot drop the state in between.
        let result = match self.spent.get(&charge.key) {
            Some(state) => charge.limit.charge(&state, now.mono_ns),
            None => charge.limit.charge(&self.spent.entry(charge.key).or_default(), now.mono_ns),
        };
        match result {
            Ok(spent) => Ok(Charged { limit: charge.limit, spent }),
            Err(Exhausted { retry_in }) => Err(Rejection {
                reason: Reason::RateLimited,
                detail: Detail::RetryAfter { limit: charge.limit, retry_in },
            }),
        }
    }

    /// Forgets keys whose whole burst is available again: their state says nothing any more.
    /// Called about once a minute, off the workers.
    pub fn sweep(&self, now: Now) {
        self.spent.retain(|_, state| state.load(Ordering::Relaxed) > now.mono_ns);
    }

    pub fn len(&self) -> usize {
        self.spent.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Limit;

    #[test]
    fn state_goes_when_it_says_nothing() {
        let store = LimitStore::default();
        let key = KeyId::parse("key_a").unwrap();
        let charge = Charge { key, limit: Limit::parse("2/s").unwrap() };
        let at = |mono_ns| Now { unix_ms: 0, mono_ns };
        assert!(store.charge(charge, at(0)).is_ok());
        store.sweep(at(1));
        assert_eq!(store.len(), 1, "half a second of debt is left");
        assert!(store.charge(charge, at(1)).is_ok());
        assert!(store.charge(charge, at(2)).is_err(), "the sweep reset nothing");
        store.sweep(at(2_000_000_000));
        assert!(store.is_empty());
    }
}
