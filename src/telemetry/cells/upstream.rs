//! What a worker records about one upstream. Imports `core`.

use super::cell::{Histogram, MetricCell};
use crate::core::Reason;
use crate::telemetry::labels::TokenOrigin;
use crate::telemetry::metrics::buckets;

/// The numbers of one upstream in one worker.
#[derive(Debug)]
pub(in crate::telemetry) struct UpstreamCells {
    pub(in crate::telemetry) connections: MetricCell,
    pub(in crate::telemetry) credentials: [MetricCell; TokenOrigin::ALL.len()],
    pub(in crate::telemetry) credential_refused: MetricCell,
    pub(in crate::telemetry) errors: [MetricCell; Reason::ALL.len()],
    pub(in crate::telemetry) informational: MetricCell,
    pub(in crate::telemetry) open: MetricCell,
    pub(in crate::telemetry) response: Histogram,
    pub(in crate::telemetry) retries: MetricCell,
    pub(in crate::telemetry) reused: MetricCell,
}

impl Default for UpstreamCells {
    fn default() -> Self {
        Self {
            connections: MetricCell::default(),
            credentials: Default::default(),
            credential_refused: MetricCell::default(),
            errors: std::array::from_fn(|_| MetricCell::default()),
            informational: MetricCell::default(),
            open: MetricCell::default(),
            response: Histogram::new(buckets::REQUEST),
            retries: MetricCell::default(),
            reused: MetricCell::default(),
        }
    }
}
