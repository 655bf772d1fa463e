//! Which parts of the program are ready. Imports nothing of the crate.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether requests can be served. All clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<ReadinessState>>);

/// One part, such as the table. It blocks readiness until it reports that it is ready, and may
/// block it again. A dropped part keeps its last state.
#[derive(Clone, Debug)]
pub struct ReadinessPart {
    all: Readiness,
    name: &'static str,
}

/// A part that is not ready.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PendingPart {
    pub part: &'static str,
    pub why: Box<str>,
}

#[derive(Debug, Default)]
struct ReadinessState {
    pending: Vec<PendingPart>,
    draining: bool,
    /// At some moment, all parts were ready.
    started: bool,
}

// === impl Readiness ===

impl Readiness {
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a part that readiness waits for. Register all parts before the first becomes
    /// ready.
    pub fn register(&self, name: &'static str) -> ReadinessPart {
        let part = ReadinessPart { all: self.clone(), name };
        part.blocked("starting");
        part
    }

    /// Never ready again: keygate is about to stop.
    pub fn drain(&self) {
        self.state().draining = true;
    }

    pub fn is_draining(&self) -> bool {
        self.state().draining
    }

    pub fn is_ready(&self) -> bool {
        let state = self.state();
        state.pending.is_empty() && !state.draining
    }

    /// Whether everything was ready once. Never reverts.
    pub fn is_started(&self) -> bool {
        self.state().started
    }

    /// What readiness waits for, and why.
    pub fn pending(&self) -> Vec<PendingPart> {
        self.state().pending.clone()
    }

    fn state(&self) -> MutexGuard<'_, ReadinessState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl ReadinessPart ===

impl ReadinessPart {
    pub fn ready(&self) {
        let mut state = self.all.state();
        let before = state.pending.len();
        state.pending.retain(|p| p.part != self.name);
        if state.pending.len() == before {
            return;
        }
        let left = state.pending.len();
        state.started |= left == 0;
        drop(state);
        tracing::info!(part = self.name, still_pending = left, "ready");
    }

    /// Whether everything was ready once.
    pub fn has_started(&self) -> bool {
        self.all.is_started()
    }

    /// Not ready until [`Self::ready`] is called. `why` is for people.
    pub fn blocked(&self, why: &str) {
        let mut state = self.all.state();
        match state.pending.iter_mut().find(|p| p.part == self.name) {
            Some(pending) => pending.why = why.into(),
            None => state.pending.push(PendingPart { part: self.name, why: why.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_no_part_is_pending() {
        let readiness = Readiness::new();
        let table = readiness.register("table");
        let upstream = readiness.register("upstream");
        assert!(!readiness.is_ready());
        table.ready();
        assert!(!readiness.is_ready() && !readiness.is_started());
        upstream.ready();
        assert!(readiness.is_ready() && readiness.is_started());
        upstream.blocked("health check: 500");
        assert!(!readiness.is_ready() && readiness.is_started());
        assert_eq!(
            readiness.pending(),
            [PendingPart { part: "upstream", why: "health check: 500".into() }]
        );
        upstream.ready();
        assert!(readiness.is_ready());
        readiness.drain();
        assert!(!readiness.is_ready() && readiness.is_draining());
        assert_eq!(readiness.pending(), []);
    }
}
