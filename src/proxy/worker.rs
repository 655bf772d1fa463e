//! One worker: a thread with its own current-thread runtime, its own upstream connections, its own
//! metric cells. Once its first byte was read, a connection never leaves its worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::canary::Canaries;
use super::dropped::DroppedNames;
use super::limits::LimitStore;
use super::shared_limits::SharedLimits;
use super::streams::Streams;
use super::tokens::{TokenBudgets, TokenDesk};
use super::worker_upstream::{SharedUpstream, WorkerUpstream};
use crate::clock::Clock;
use crate::config::{Caps, Drain, Http2Config, Timeouts};
use crate::meter::UseProbe;
use crate::observe::ObserveBook;
use crate::proxy::ids::Ids;
use crate::proxy::load::Load;
use crate::proxy::memory::Account;
use crate::proxy::net::accepted::Accepted;
use crate::proxy::net::buffers::Buffers;
use crate::proxy::net::connections::Connections;
use crate::snapshot::Store;
use crate::telemetry::{AccessLog, OTHER_ROUTE, WorkerCells};

/// What all workers share. Everything in it is read far more often than written.
#[derive(Debug)]
pub struct Shared {
    pub clock: Clock,
    pub store: Arc<Store>,
    /// The limits that are charged here alone: all limits, or this sidecar's share of
    /// `shared_limits`.
    pub limits: Arc<LimitStore>,
    /// `None`: limits hold per sidecar.
    pub shared_limits: Option<Arc<SharedLimits>>,
    /// `[upstream]`.
    pub upstream: SharedUpstream,
    /// `[upstreams.NAME]`, in the order of the configuration.
    pub upstreams: Vec<SharedUpstream>,
    pub timeouts: Timeouts,
    pub caps: Caps,
    pub http2: Http2Config,
    pub drain: Drain,
    pub phase: watch::Receiver<Phase>,
    pub load: Arc<Load>,
    pub dropped_names: DroppedNames,
    /// Who would be refused.
    pub observed: Arc<ObserveBook>,
    pub token_budgets: TokenBudgets,
    pub memory: Arc<Account>,
    /// Hands a new connection to another worker.
    pub handoff: Vec<mpsc::UnboundedSender<Accepted>>,
}

/// How far the shutdown of the process has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Not ready any more, but still accepting: load balancers need time to notice.
    Leaving,
    /// No new connections. What is running is finished.
    Draining,
    /// What is still running is cut.
    Cutting,
}

/// What belongs to one worker. Lives on its thread only.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Clock,
    pub(crate) cells: Arc<WorkerCells>,
    pub(crate) access: AccessLog,
    pub(crate) uses: UseProbe,
    pub(crate) connections: Rc<Connections>,
    pub(crate) streams: Rc<Streams>,
    /// `[upstream]`.
    pub(crate) upstream: WorkerUpstream,
    /// As [`Shared::keeps_case`].
    pub(crate) keeps_case: bool,
    /// `[upstreams.NAME]`: index n of a route is the n-th, from 1.
    pub(crate) upstreams: Box<[Rc<WorkerUpstream>]>,
    pub(crate) ids: Ids,
    /// Answers announce that their connection is about to close.
    pub(crate) closing: Cell<bool>,
    /// Connections close as soon as nothing runs on them.
    pub(crate) draining: Cell<bool>,
    pub(crate) canaries: Canaries,
    pub(crate) tokens: TokenDesk,
    /// Route labels by slot.
    pub(super) labels: RefCell<Vec<Option<Rc<str>>>>,
    pub(super) date: Date,
    pub(super) buffers: Rc<Buffers>,
}

/// The `Date` of answers, worked out once a second.
#[derive(Debug, Default)]
pub(super) struct Date {
    unix_secs: Cell<u64>,
    text: Cell<[u8; 29]>,
}

// === impl Shared ===

impl Shared {
    /// `[upstream]`, then each of `[upstreams.NAME]`.
    pub fn all_upstreams(&self) -> impl Iterator<Item = &SharedUpstream> {
        std::iter::once(&self.upstream).chain(&self.upstreams)
    }

    /// Whether an upstream needs field names in the client's spelling. Which upstream a request is
    /// for is unknown until its head was read.
    pub(crate) fn keeps_case(&self) -> bool {
        self.all_upstreams().any(|upstream| upstream.config.preserve_case)
    }

    /// Whether an upstream learns which address a client has connected to.
    pub(crate) fn sends_proxy(&self) -> bool {
        self.all_upstreams().any(|upstream| upstream.config.send_proxy)
    }
}

// === impl Worker ===

impl Worker {
    /// The label of a route, shared by all its requests on this worker.
    pub(crate) fn route_label(&self, id: &str, slot: u32) -> Rc<str> {
        if slot == OTHER_ROUTE {
            return id.into();
        }
        let mut labels = self.labels.borrow_mut();
        let at = slot as usize;
        if labels.len() <= at {
            labels.resize(at + 1, None);
        }
        match labels.get_mut(at) {
            Some(label) => Rc::clone(label.get_or_insert_with(|| id.into())),
            None => id.into(),
        }
    }

    /// The `Date` (RFC 9110 section 5.6.7) of an answer made now.
    pub(crate) fn date(&self, unix_secs: u64) -> [u8; 29] {
        if self.date.unix_secs.replace(unix_secs) != unix_secs {
            let at = std::time::UNIX_EPOCH + Duration::from_secs(unix_secs);
            if let Some(text) = httpdate::fmt_http_date(at).as_bytes().first_chunk() {
                self.date.text.set(*text);
            }
        }
        self.date.text.get()
    }

    pub(crate) fn all_upstreams(&self) -> impl Iterator<Item = &WorkerUpstream> {
        std::iter::once(&self.upstream).chain(self.upstreams.iter().map(|named| &**named))
    }

    /// Adds up what connections hold, ends those that have to go, and reports the sum.
    pub(crate) fn settle_memory(&self) {
        let memory = &self.shared.memory;
        // One worker is enough for what exists once per process.
        if self.index == 0 {
            let keys = self.shared.store.load().keys.as_ref().map_or(0, |k| k.resident_bytes());
            memory.fit(keys as u64);
        }
        self.connections.settle(memory);
        if self.index == 0 {
            let shown = memory.shown();
            self.cells.memory(shown.bytes, shown.budget, shown.turned_away);
        }
    }

    pub(crate) fn report_load(&self) {
        self.shared.load.report_streams(self.index, self.streams.count());
    }
}
