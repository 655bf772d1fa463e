//! Everything that is measured and logged, declared once; handles are held, never looked up by
//! name while a request runs. Imports `config`, `core` and `wording`.
//!
//! - [`metrics`]: the list of all metric families.
//! - [`cells`]: what workers record, each into its own memory, summed when `/metrics` is read.
//! - [`labels`]: the closed lists of label values.
//! - [`control`]: what everything off the request path records, through the `metrics` crate.
//! - [`access`]: one line per request, formatted by the worker, written by another thread.
//! - [`log`]: the operator log.
//! - `policies`: values of the label `policy`.
//! - [`readiness`]: which parts are ready.
//! - `upstream`: what workers record of each upstream.

pub mod access;
pub mod cells;
pub mod control;
pub mod labels;
pub mod log;
pub mod metrics;
mod policies;
pub mod readiness;
mod render;
mod upstream;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use self::access::{AccessLine, AccessLog, AccessLogs, Decided};
pub use self::cells::WorkerCells;
pub use self::control::Control;
pub use self::labels::{
    CacheResult, DecisionOutcome, LingerEnd, MethodLabel, RateDecision, Shortage, TokenOrigin,
    TurnedAway,
};
use self::policies::PolicyLabels;
pub use self::readiness::Readiness;
pub use self::upstream::UpstreamMeter;

/// Route label of requests that matched no rule.
pub const NO_ROUTE: u32 = 0;

/// Route label of every rule beyond [`ROUTE_SLOTS`].
pub const OTHER_ROUTE: u32 = ROUTE_SLOTS as u32 - 1;

/// The most values of the label `route`. Further rules share [`OTHER_ROUTE`].
pub const ROUTE_SLOTS: usize = 1024;

/// The most values of the label `listener`. Further listeners share the last one.
pub const LISTENER_SLOTS: usize = 16;

/// Requests per key and per org, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UseSeries {
    pub keys: Vec<(String, u64)>,
    /// All other keys. `None`: keys have no series.
    pub other_keys: Option<u64>,
    pub orgs: Vec<(String, u64)>,
    pub other_orgs: Option<u64>,
}

/// All metrics of the process. All clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    workers: Vec<Arc<WorkerCells>>,
    /// Text of the label `route` by slot. It only grows: a rule that returns gets its old series.
    routes: Mutex<Vec<Box<str>>>,
    listeners: Mutex<Vec<Box<str>>>,
    /// Names of `[upstreams.NAME]`, in their order.
    upstreams: OnceLock<Vec<Box<str>>>,
    policies: Arc<PolicyLabels>,
    control: Control,
}

// === impl Metrics ===

impl Metrics {
    pub fn new(workers: usize) -> Self {
        let policies = Arc::new(PolicyLabels::default());
        Self(Arc::new(Inner {
            workers: (0..workers.max(1))
                .map(|_| Arc::new(WorkerCells::new(Arc::clone(&policies))))
                .collect(),
            routes: Mutex::new(vec!["none".into()]),
            listeners: Mutex::new(Vec::new()),
            upstreams: OnceLock::new(),
            policies,
            control: Control::new(),
        }))
    }

    /// The cells of worker `n`. Only that worker's thread may record into them.
    ///
    /// Beyond the declared number, cells are created that no scrape sees.
    pub fn worker(&self, n: usize) -> Arc<WorkerCells> {
        self.0.workers.get(n).map_or_else(Arc::default, Arc::clone)
    }

    /// The slot of the route rule `id`, always the same for the same id.
    pub fn intern_route(&self, id: &str) -> u32 {
        let mut routes = self.0.routes.lock().unwrap_or_else(PoisonError::into_inner);
        intern(&mut routes, id, ROUTE_SLOTS) as u32
    }

    /// The slot of the listener with this name (its configured address).
    pub fn intern_listener(&self, name: &str) -> u32 {
        let mut listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        intern(&mut listeners, name, LISTENER_SLOTS) as u32
    }

    /// Names the upstreams other than `[upstream]`. Called once: from then on their series exist.
    pub fn name_upstreams(&self, names: Vec<Box<str>>) {
        // Those that the process was started with.
        let _ = self.0.upstreams.set(names);
    }

    pub fn control(&self) -> &Control {
        &self.0.control
    }

    /// Prometheus text exposition format 0.0.4, without the series that name keys and orgs.
    pub fn render(&self) -> String {
        self.render_with(&UseSeries::default())
    }

    /// The same with those series, for the operator.
    pub fn render_with(&self, uses: &UseSeries) -> String {
        let routes = self.0.routes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut out = String::with_capacity(32 * 1024);
        let labels = render::WorkerLabels {
            routes: &routes,
            listeners: &listeners,
            policies: &self.0.policies,
            upstreams: self.0.upstreams.get().map(Vec::as_slice).unwrap_or_default(),
        };
        render::workers(&mut out, &self.0.workers, &labels);
        render::uses(&mut out, uses);
        render::reloads(&mut out, &self.0.control);
        self.0.control.render(&mut out);
        out
    }
}

/// The last slot is `other`, for everything that has no slot of its own.
fn intern(names: &mut Vec<Box<str>>, name: &str, slots: usize) -> usize {
    if let Some(at) = names.iter().position(|n| **n == *name) {
        return at;
    }
    if names.len() == slots - 1 {
        names.push("other".into());
    }
    if names.len() == slots {
        return slots - 1;
    }
    names.push(name.into());
    names.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_stable_and_bounded() {
        let metrics = Metrics::new(1);
        let first = metrics.intern_route("read-messages");
        assert_ne!(first, NO_ROUTE);
        assert_eq!(metrics.intern_route("read-messages"), first);
        let slots: Vec<_> = (0..2000).map(|n| metrics.intern_route(&format!("r{n}"))).collect();
        assert_eq!(slots[1999], OTHER_ROUTE);
        assert!(slots.iter().all(|s| *s <= OTHER_ROUTE));
        // A name that found a place keeps it even when the table is full.
        assert_eq!(metrics.intern_route("r5"), slots[5]);
    }
}
