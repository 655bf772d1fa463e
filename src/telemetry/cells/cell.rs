//! One number, and a histogram, that one thread writes and others read.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub(in crate::telemetry) struct MetricCell(AtomicU64);

/// Counts per bucket and a sum, in nanoseconds. `CELLS` is at least one more than the bounds.
#[derive(Debug)]
pub(in crate::telemetry) struct Histogram<const CELLS: usize = 17> {
    pub(in crate::telemetry) bounds: &'static [u64],
    /// The bucket after the last bound counts everything above it.
    counts: [MetricCell; CELLS],
    sum: MetricCell,
}

// === impl MetricCell ===

impl MetricCell {
    pub(in crate::telemetry) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub(in crate::telemetry) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(in crate::telemetry) fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(n), Ordering::Relaxed);
    }

    pub(in crate::telemetry) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Histogram ===

impl<const CELLS: usize> Histogram<CELLS> {
    pub(in crate::telemetry) fn new(bounds: &'static [u64]) -> Self {
        let counts = std::array::from_fn(|_| MetricCell::default());
        Self { bounds, counts, sum: MetricCell::default() }
    }

    pub(in crate::telemetry) fn record(&self, ns: u64) {
        // Bounds are inclusive, as `le` says.
        add_at(&self.counts, self.bounds.partition_point(|bound| *bound < ns));
        self.sum.add(ns);
    }

    /// Counts per bucket, the one above all bounds last.
    pub(in crate::telemetry) fn counts(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().take(self.bounds.len() + 1).map(MetricCell::read)
    }

    pub(in crate::telemetry) fn sum_ns(&self) -> u64 {
        self.sum.read()
    }
}

/// Adds one to the cell at this place, if there is one.
pub(in crate::telemetry) fn add_at(cells: &[MetricCell], at: usize) {
    if let Some(cell) = cells.get(at) {
        cell.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::metrics::buckets;
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram: Histogram = Histogram::new(&[10, 20]);
        for ns in [0, 10, 11, 20, 21, u64::from(u32::MAX)] {
            histogram.record(ns);
        }
        assert_eq!(histogram.counts().collect::<Vec<_>>(), [2, 2, 2]);
        assert_eq!(histogram.sum_ns(), 62 + u64::from(u32::MAX));
    }

    #[test]
    fn every_bucket_has_a_cell() {
        assert!(buckets::AUTH.len() < 17 && buckets::REQUEST.len() < 17);
        assert!(buckets::LOAD.len() < 17 && buckets::LAG.len() < 19);
    }
}
