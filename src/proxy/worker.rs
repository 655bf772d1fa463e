//! One worker: a thread with its own current-thread runtime, its own upstream connections, its own
//! metric cells. A connection never leaves its worker once its first byte was read.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::{mpsc, watch};

use super::canary::Canaries;
use super::dropped::DroppedNames;
use super::limits::LimitStore;
use super::minted::Minted;
use super::streams::Streams;
use super::tokens::{TokenBudgets, TokenDesk};
use super::upstream::UpstreamPool;
use crate::clock::Clock;
use crate::config::{
    Caps, Drain, Http2Config, Timeouts, UpstreamAddress, UpstreamConfig, UpstreamProtocol,
};
use crate::meter::UseProbe;
use crate::observe::ObserveBook;
use crate::proxy::http1::location::OwnAddress;
use crate::proxy::ids::Ids;
use crate::proxy::load::Load;
use crate::proxy::memory::Account;
use crate::proxy::net::accepted::Accepted;
use crate::proxy::net::buffers::Buffers;
use crate::proxy::net::connections::Connections;
use crate::proxy::net::tls::ClientTls;
use crate::snapshot::Store;
use crate::telemetry::{AccessLog, OTHER_ROUTE, WorkerCells};

/// What all workers share. Everything in it is read far more often than written.
#[derive(Debug)]
pub struct Shared {
    pub clock: Clock,
    pub store: Arc<Store>,
    pub limits: Arc<LimitStore>,
    pub upstream: UpstreamConfig,
    pub upstream_tls: Option<Arc<ClientTls>>,
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
    /// How to hand a new connection to another worker.
    pub handoff: Vec<mpsc::UnboundedSender<Accepted>>,
}

/// How far the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Not ready any more, but still accepting: load balancers need a moment to notice.
    Leaving,
    /// No new connections; what runs is finished.
    Draining,
    /// What still runs is cut.
    Cutting,
}

/// The worker's own things. Lives on its thread only.
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
    pub(crate) upstream: Rc<UpstreamPool>,
    /// The upstream's own name, for requests that name no host.
    pub(crate) authority: HeaderValue,
    /// What is cut off of the service's `Location`.
    pub(crate) own_address: Option<OwnAddress>,
    pub(crate) ids: Ids,
    /// Answers say that their connection is about to close.
    pub(crate) closing: Cell<bool>,
    /// Connections close as soon as nothing runs on them.
    pub(crate) draining: Cell<bool>,
    pub(crate) canaries: Canaries,
    pub(crate) tokens: TokenDesk,
    pub(crate) minted: Minted,
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
    /// Scheme and authority of `upstream.url`, to be cut off of the service's `Location`. `None`: a
    /// Unix socket has no address that a client could follow, or it is switched off.
    pub(crate) fn own_address(&self) -> Option<OwnAddress> {
        let (scheme, default_port) = match self.upstream.tls {
            Some(_) => ("https", 443),
            None => ("http", 80),
        };
        match &self.upstream.address {
            UpstreamAddress::Tcp { host, port } if self.upstream.rewrite_location => {
                Some(OwnAddress::new(scheme, default_port, host.clone(), *port))
            }
            UpstreamAddress::Tcp { .. } | UpstreamAddress::Unix(_) => None,
        }
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

    /// The `Date` of an answer (RFC 9110 section 5.6.7) that is made now.
    pub(crate) fn date(&self, unix_secs: u64) -> [u8; 29] {
        if self.date.unix_secs.replace(unix_secs) != unix_secs {
            let at = std::time::UNIX_EPOCH + Duration::from_secs(unix_secs);
            if let Some(text) = httpdate::fmt_http_date(at).as_bytes().first_chunk() {
                self.date.text.set(*text);
            }
        }
        self.date.text.get()
    }

    pub(crate) fn upstream_host(&self) -> Option<&HeaderValue> {
        self.shared.upstream.host.as_ref()
    }

    pub(crate) fn upstream_is_http2(&self) -> bool {
        self.shared.upstream.protocol == UpstreamProtocol::Http2
    }

    /// Adds up what connections hold, ends those that have to go, and shows it.
    pub(crate) fn settle_memory(&self) {
        let memory = &self.shared.memory;
        // One of the workers is enough for what the process has once.
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
