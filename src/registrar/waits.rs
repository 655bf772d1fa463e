//! Answers that wait for sidecars: a few per caller at a time, so that one caller does not hold all
//! connections. Imports nothing from the crate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most answers to one caller that may wait at a time. Further ones are sent immediately.
const OF_A_CALLER: usize = 16;

/// Counts who waits. Clones share one count.
#[derive(Clone, Debug, Default)]
pub struct CallerWaits(Arc<Mutex<HashMap<Box<str>, usize>>>);

/// The right to wait; returned when dropped.
#[derive(Debug)]
pub struct CallerWait {
    waits: CallerWaits,
    caller: Box<str>,
}

// === impl CallerWaits ===

impl CallerWaits {
    /// `None`: as many answers to this caller as may wait do so already.
    pub fn take(&self, caller: impl Into<Box<str>>) -> Option<CallerWait> {
        let caller = caller.into();
        let mut counts = self.lock();
        let count = counts.entry(caller.clone()).or_default();
        if *count >= OF_A_CALLER {
            return None;
        }
        *count += 1;
        Some(CallerWait { waits: self.clone(), caller })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, usize>> {
        // Counts are consistent at every point where a thread could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CallerWait {
    fn drop(&mut self) {
        let mut counts = self.waits.lock();
        if let Some(count) = counts.get_mut(&self.caller) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_waits_a_few_times() {
        let waits = CallerWaits::default();
        let held: Vec<_> = (0..OF_A_CALLER).map(|_| waits.take("key a").unwrap()).collect();
        assert!(waits.take("key a").is_none() && waits.take("key b").is_some());
        drop(held);
        assert!(waits.take("key a").is_some() && waits.lock().is_empty());
    }
}
