//! Lets waiting callers go one after the other, before the process ends. A caller that is let go
//! comes back moments later, at another server if there is one; a fleet that was let go all
//! together would come back all together. Imports nothing of the crate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The golden ratio as a share of 2^32: its multiples spread evenly, however many there are.
const STRIDE: u32 = 2_654_435_769;

/// Whether waiting callers are to leave. Clones share one state.
#[derive(Clone, Debug)]
pub(super) struct WaitersLeave {
    told: watch::Sender<Option<LeaveTerms>>,
    places: Arc<AtomicU32>,
}

/// From when to when they leave.
#[derive(Clone, Copy, Debug)]
struct LeaveTerms {
    began: Instant,
    within: Duration,
}

// === impl WaitersLeave ===

impl WaitersLeave {
    pub(super) fn new() -> Self {
        Self { told: watch::Sender::new(None), places: Arc::default() }
    }

    /// From now on, every caller that waits or arrives leaves within this time.
    pub(super) fn begin(&self, within: Duration) {
        self.told.send_replace(Some(LeaveTerms { began: Instant::now(), within }));
    }

    /// Waits until it is this caller's turn.
    pub(super) async fn turn(&self) {
        let mut told = self.told.subscribe();
        let comes_late = told.borrow().is_some();
        let Ok(Some(terms)) = told.wait_for(Option::is_some).await.map(|terms| *terms) else {
            return;
        };
        // A caller that comes back here must not conclude that this server does not hold answers
        // back. When the time is over, all have to be gone.
        let share = match comes_late {
            true => 1.0,
            false => {
                let place = self.places.fetch_add(STRIDE, Ordering::Relaxed);
                f64::from(place) / f64::from(u32::MAX)
            }
        };
        tokio::time::sleep(terms.rest(share, terms.began.elapsed())).await;
    }
}

// === impl LeaveTerms ===

impl LeaveTerms {
    /// How much longer the caller with this share of the time waits, `elapsed` after the beginning.
    fn rest(&self, share: f64, elapsed: Duration) -> Duration {
        self.within.mul_f64(share).saturating_sub(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_late_leaves_with_the_last() {
        let seconds = Duration::from_secs;
        let terms = LeaveTerms { began: Instant::now(), within: seconds(40) };
        for (share, elapsed, rest) in [
            (0.5, seconds(0), seconds(20)),
            (1.0, seconds(0), seconds(40)),
            (1.0, seconds(15), seconds(25)),
            (1.0, seconds(60), Duration::ZERO),
        ] {
            assert_eq!(terms.rest(share, elapsed), rest, "{share} after {elapsed:?}");
        }
    }

    #[test]
    fn turns_are_spread_evenly() {
        let leave = WaitersLeave::new();
        for many in [10, 100, 1000] {
            let mut places: Vec<_> = (0..many)
                .map(|_| f64::from(leave.places.fetch_add(STRIDE, Ordering::Relaxed)))
                .map(|place| place / f64::from(u32::MAX))
                .collect();
            places.sort_by(f64::total_cmp);
            let gaps = places.windows(2).map(|pair| pair[1] - pair[0]);
            let widest = gaps.fold(0.0, f64::max);
            assert!(widest < 3.0 / f64::from(many), "{widest} of {many}");
        }
    }
}
