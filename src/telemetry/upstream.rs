//! The numbers of one upstream, for the code that records them. Imports `core` and
//! `telemetry::cells`.

use std::sync::Arc;

use super::cells::{UpstreamCells, WorkerCells, add_at};
use super::labels::TokenOrigin;
use crate::core::Reason;

/// A worker's cells, and the index of one of its upstreams.
#[derive(Clone, Debug)]
pub struct UpstreamMeter {
    cells: Arc<WorkerCells>,
    /// 0: `[upstream]`; n: the n-th of `[upstreams.NAME]`.
    upstream: usize,
}

// === impl UpstreamMeter ===

impl UpstreamMeter {
    pub fn new(cells: Arc<WorkerCells>, upstream: usize) -> Self {
        Self { cells, upstream }
    }

    fn of(&self) -> &UpstreamCells {
        self.cells.of_upstream(self.upstream)
    }

    /// The head of a response arrived after this time.
    pub fn response(&self, ns: u64) {
        self.of().response.record(ns);
    }

    /// A token was sent as the upstream credential.
    pub fn credential(&self, source: TokenOrigin) {
        add_at(&self.of().credentials, source as usize);
    }

    /// The service answered 401 to a request with the upstream credential.
    pub fn credential_refused(&self) {
        self.of().credential_refused.add(1);
    }

    pub fn connection_opened(&self) {
        self.of().connections.add(1);
        self.of().open.add(1);
    }

    pub fn connection_closed(&self) {
        self.of().open.sub(1);
    }

    pub fn reused(&self) {
        self.of().reused.add(1);
    }

    pub fn retried(&self) {
        self.of().retries.add(1);
    }

    pub fn error(&self, reason: Reason) {
        add_at(&self.of().errors, reason as usize);
    }

    pub fn informational(&self) {
        self.of().informational.add(1);
    }
}
