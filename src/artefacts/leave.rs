//! Lets those who wait go one after the other, before the process ends: whoever is let go is back in a
//! moment, at another server if there is one, and a fleet that is let go at once is back at once.
//! Imports nothing of the crate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// The golden ratio as a share of 2^32: its multiples spread evenly, however many there are.
const STRIDE: u32 = 2_654_435_769;

/// Whether those who wait are to leave. Clones are one and the same.
#[derive(Clone, Debug)]
pub(super) struct WaitersLeave {
    within: watch::Sender<Option<Duration>>,
    places: Arc<AtomicU32>,
}

// === impl WaitersLeave ===

impl WaitersLeave {
    pub(super) fn new() -> Self {
        Self { within: watch::Sender::new(None), places: Arc::default() }
    }

    /// From now on: whoever waits, or comes, leaves within this time.
    pub(super) fn begin(&self, within: Duration) {
        self.within.send_replace(Some(within));
    }

    /// Until it is this one's turn.
    pub(super) async fn turn(&self) {
        let mut told = self.within.subscribe();
        let comes_late = told.borrow().is_some();
        let within = match told.wait_for(Option::is_some).await {
            Ok(within) => within.unwrap_or_default(),
            Err(_) => return,
        };
        // Whoever comes back here must not take us for a server that holds nothing.
        let share = match comes_late {
            true => 1.0,
            false => {
                let place = self.places.fetch_add(STRIDE, Ordering::Relaxed);
                f64::from(place) / f64::from(u32::MAX)
            }
        };
        tokio::time::sleep(within.mul_f64(share)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
