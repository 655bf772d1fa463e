//! How many polls wait: per caller, per fleet and in total. Imports nothing of the crate.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many polls may wait at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitLimits {
    /// Per caller: a sidecar waits for a table and a patch of each audience.
    pub of_a_caller: usize,
    /// Per fleet, so that no fleet keeps out the others.
    pub of_a_fleet: usize,
    pub in_all: usize,
}

/// The waiting polls. Clones share one state.
#[derive(Clone, Debug, Default)]
pub(super) struct WaitingPolls {
    limits: WaitLimits,
    counts: Arc<Mutex<WaitCounts>>,
}

#[derive(Debug, Default)]
struct WaitCounts {
    all: usize,
    fleets: HashMap<Box<str>, usize>,
    callers: HashMap<PollCaller, usize>,
}

/// The caller of a poll.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PollCaller {
    pub(super) fleet: Box<str>,
    /// The name that it states, which anybody may use: another address with the same name is
    /// another caller, and cannot take its places.
    pub(super) instance: Option<Box<str>>,
    /// `None`: it connected over a Unix socket.
    pub(super) address: Option<IpAddr>,
}

/// The right to wait; returned when dropped.
#[derive(Debug)]
pub(super) struct WaitingPlace {
    polls: WaitingPolls,
    caller: PollCaller,
}

/// Why a caller may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// This caller already has enough waiting polls.
    Caller,
    /// Too many polls wait.
    All,
}

// === impl WaitLimits ===

impl WaitLimits {
    /// For callers that may each wait for this many files. Each file counts twice: a caller may ask
    /// for it again before the end of its former request was noticed.
    #[must_use]
    pub fn for_files(self, files: usize) -> Self {
        Self { of_a_caller: self.of_a_caller.max(files * 2), ..self }
    }
}

impl Default for WaitLimits {
    fn default() -> Self {
        Self { of_a_caller: 16, of_a_fleet: 4096, in_all: 16_384 }
    }
}

// === impl WaitingPolls ===

impl WaitingPolls {
    pub(super) fn new(limits: WaitLimits) -> Self {
        Self { limits, counts: Arc::default() }
    }

    /// How many wait now.
    pub(super) fn waiting(&self) -> usize {
        self.lock().all
    }

    pub(super) fn take(&self, caller: &PollCaller) -> Result<WaitingPlace, NoPlace> {
        let mut counts = self.lock();
        let of_fleet = counts.fleets.get(&caller.fleet).copied().unwrap_or(0);
        if counts.all >= self.limits.in_all || of_fleet >= self.limits.of_a_fleet {
            return Err(NoPlace::All);
        }
        if counts.callers.get(caller).copied().unwrap_or(0) >= self.limits.of_a_caller {
            return Err(NoPlace::Caller);
        }
        counts.all += 1;
        *counts.fleets.entry(caller.fleet.clone()).or_default() += 1;
        *counts.callers.entry(caller.clone()).or_default() += 1;
        Ok(WaitingPlace { polls: self.clone(), caller: caller.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, WaitCounts> {
        // Wherever a thread could panic, the counts are consistent.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        let mut counts = self.polls.lock();
        counts.all = counts.all.saturating_sub(1);
        fall(&mut counts.fleets, &self.caller.fleet);
        fall(&mut counts.callers, &self.caller);
    }
}

/// Subtracts one; a caller without any is forgotten.
fn fall<K, Q>(counts: &mut HashMap<K, usize>, name: &Q)
where
    K: std::borrow::Borrow<Q> + std::hash::Hash + Eq,
    Q: std::hash::Hash + Eq + ?Sized,
{
    if let Some(count) = counts.get_mut(name) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(fleet: &str, name: impl ToString) -> PollCaller {
        let instance = Some(name.to_string().into());
        PollCaller { fleet: fleet.into(), instance, address: None }
    }

    #[test]
    fn nobody_takes_all_places() {
        let polls = WaitingPolls::default();
        let WaitLimits { of_a_caller, of_a_fleet, .. } = WaitLimits::default();
        let take = |caller: PollCaller| polls.take(&caller);
        let own: Vec<_> = (0..of_a_caller).map(|_| take(caller("web", "a")).unwrap()).collect();
        assert_eq!(take(caller("web", "a")).unwrap_err(), NoPlace::Caller);
        let rest: Vec<_> =
            (of_a_caller..of_a_fleet).map(|n| take(caller("web", n)).unwrap()).collect();
        assert_eq!(take(caller("web", "z")).unwrap_err(), NoPlace::All);
        assert!(take(caller("mobile", "a")).is_ok(), "another fleet");
        assert_eq!(WaitLimits::default().for_files(8), WaitLimits::default());
        assert_eq!(WaitLimits::default().for_files(512).of_a_caller, 1024);
        drop(own);
        assert!(take(caller("web", "a")).is_ok());
        drop(rest);
        let counts = polls.lock();
        assert_eq!((counts.all, counts.fleets.len(), counts.callers.len()), (0, 0, 0));
    }
}
