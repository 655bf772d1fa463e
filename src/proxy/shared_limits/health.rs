//! Whether the store answers, and what holds while it does not. Imports `core`.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use metrics::{Counter, Gauge};
use tokio::sync::Notify;

use crate::core::LimitShare;

/// Shared by the workers and the thread that asks the store.
pub(super) struct StoreHealth {
    is_away: AtomicBool,
    /// Consecutive time-outs, with no timely answer between them.
    timeouts: AtomicU32,
    /// As counted in the store, or configured.
    replicas: AtomicU32,
    /// The part of a limit that holds at least while the store is away.
    least_share: f64,
    /// Why it is away.
    why: Mutex<Option<Box<str>>>,
    /// Wakes the thread when workers find the store away.
    pub(super) found_away: Notify,
    up: Gauge,
    pub(super) fallbacks: Counter,
    pub(super) timed_out: Counter,
}

/// After this many consecutive time-outs, no request waits for the store any more.
const TIMEOUTS: u32 = 3;

// === impl StoreHealth ===

impl StoreHealth {
    /// Counts as away until the first connection.
    pub(super) fn new(
        replicas: u32,
        least_share: f64,
        up: Gauge,
        fallbacks: Counter,
        timed_out: Counter,
    ) -> Self {
        up.set(0.0);
        Self {
            is_away: AtomicBool::new(true),
            timeouts: AtomicU32::new(0),
            replicas: AtomicU32::new(replicas.max(1)),
            least_share,
            why: Mutex::new(Some("not connected yet".into())),
            found_away: Notify::new(),
            up,
            fallbacks,
            timed_out,
        }
    }

    #[inline]
    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    /// A request waited without an answer.
    pub(super) fn timed_out(&self) {
        self.timed_out.increment(1);
        if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS {
            self.leave("it does not answer in time");
        }
    }

    /// An answer arrived in time.
    pub(super) fn answered(&self) {
        self.timeouts.store(0, Ordering::Relaxed);
    }

    /// From now on, no request waits for the store.
    pub(super) fn leave(&self, why: &str) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.into());
        if !self.is_away.swap(true, Ordering::Relaxed) {
            self.up.set(0.0);
            let share = self.share().fraction();
            tracing::warn!(
                why,
                share,
                "the store of shared limits is away; each sidecar admits its share of every limit\n\
                 hint: docs/rate-limits.md says how much that is and what each error of the store means"
            );
            self.found_away.notify_one();
        }
    }

    /// The store answers in time again.
    pub(super) fn is_back(&self) {
        self.answered();
        if self.is_away.swap(false, Ordering::Relaxed) {
            *self.why.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.up.set(1.0);
            tracing::info!(
                "the store of shared limits answers; limits hold for all sidecars together"
            );
        }
    }

    pub(super) fn counted(&self, replicas: u32) {
        self.replicas.store(replicas.max(1), Ordering::Relaxed);
    }

    pub(super) fn replicas(&self) -> u32 {
        self.replicas.load(Ordering::Relaxed)
    }

    /// What this sidecar admits of each limit on its own.
    pub(super) fn share(&self) -> LimitShare {
        LimitShare::of(self.replicas(), self.least_share)
    }

    pub(super) fn why(&self) -> Option<Box<str>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for StoreHealth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreHealth")
            .field("is_away", &self.is_away())
            .field("replicas", &self.replicas())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> StoreHealth {
        let health = StoreHealth::new(0, 0.25, Gauge::noop(), Counter::noop(), Counter::noop());
        assert!(health.is_away());
        health.is_back();
        health
    }

    #[test]
    fn three_time_outs_or_one_error_and_it_is_away() {
        let health = health();
        health.timed_out();
        health.timed_out();
        assert!(!health.is_away());
        health.answered();
        health.timed_out();
        health.timed_out();
        assert!(!health.is_away(), "an answer in between");
        health.timed_out();
        assert!(health.is_away());
        assert_eq!(health.why().as_deref(), Some("it does not answer in time"));
        health.is_back();
        assert!(!health.is_away() && health.why().is_none());
        health.leave("READONLY");
        assert_eq!((health.is_away(), health.why().as_deref()), (true, Some("READONLY")));
    }

    #[test]
    fn the_share_follows_the_count() {
        let health = health();
        assert_eq!(health.share(), LimitShare::WHOLE);
        health.counted(2);
        assert_eq!(health.share().fraction(), 0.5);
        health.counted(2_000);
        assert_eq!(health.share().fraction(), 0.25);
    }
}
