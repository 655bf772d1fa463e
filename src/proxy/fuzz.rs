//! An entrance for fuzz/ and for tests: connections through the whole service, without a listener,
//! a network or a thread. Not part of the programs.

pub mod readers;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::watch;

use super::canary::Canaries;
use super::client::serve;
use super::ids::Ids;
use super::load::{Counted, Load};
use super::memory::Account as MemoryAccount;
use super::net::accepted::About;
use super::net::io::CutReason;
use super::net::transport::Plain;
use super::run;
use super::worker::{Phase, Shared, Worker};
use super::worker_upstream::{ExchangeRoom, SharedUpstream, UpstreamTerms, WorkerUpstream};
use crate::clock::Clock;
use crate::config::{Config, MemoryBudget, Settings};
use crate::meter::UseProbe;
use crate::snapshot::{Snapshot, Store};
use crate::telemetry::{AccessLog, Metrics};

/// One worker that serves the connections it is given. Its clock does not move, so no deadline passes.
#[derive(Debug)]
pub struct Service {
    worker: Rc<Worker>,
    about: Arc<About>,
    metrics: Metrics,
    _phase: watch::Sender<Phase>,
}

// === impl Service ===

impl Service {
    /// `snapshot` adds keys to the settings.
    pub fn new(
        config: Config,
        snapshot: impl FnOnce(Arc<Settings>, Box<[u32]>) -> Snapshot,
        unix_secs: u64,
    ) -> Self {
        let metrics = Metrics::new(1);
        let clock = Clock::manual(unix_secs);
        let Config { upstream, timeouts, caps, http2, drain, settings, .. } = config;
        let routes = &settings.policy.routes;
        let route_slots = routes.iter().map(|route| metrics.intern_route(&route.id)).collect();
        let settings = Arc::new(settings);
        let store = Store::new(snapshot(settings, route_slots));
        let (phase, serving) = watch::channel(Phase::Serving);
        let shared = Arc::new(Shared {
            memory: Arc::new(MemoryAccount::new(MemoryBudget::Off, None)),
            clock: clock.clone(),
            store: Arc::new(store),
            dropped_names: Default::default(),
            observed: Default::default(),
            token_budgets: Default::default(),
            shared_limits: None,
            limits: Arc::default(),
            upstream: SharedUpstream { name: None, config: upstream, tls: None },
            upstreams: Vec::new(),
            timeouts,
            caps,
            http2,
            drain,
            phase: serving,
            load: Arc::new(Load::new(1)),
            handoff: Vec::new(),
        });
        let cells = metrics.worker(0);
        let room = ExchangeRoom::default();
        let with = UpstreamTerms {
            timeouts: &shared.timeouts,
            clock: &shared.clock,
            workers: shared.load.workers(),
            cells: &cells,
            room: &room,
        };
        // Without its own address: `Location` fields of services stay unchanged.
        let upstream = WorkerUpstream {
            own_address: None,
            authority: http::HeaderValue::from_static("localhost"),
            ..WorkerUpstream::new(0, &shared.upstream, &with)
        };
        let slot = metrics.intern_listener("fuzz");
        let about = About { slot, tls: None, proxy_from: None, outlives_us: false };
        let worker = Rc::new(Worker {
            index: 0,
            clock,
            cells,
            access: AccessLog::off(),
            uses: UseProbe::default(),
            connections: Rc::default(),
            streams: Rc::default(),
            buffers: room.buffers,
            upstream,
            upstreams: Box::default(),
            keeps_case: shared.keeps_case(),
            ids: Ids::new([7; 16]),
            closing: Cell::new(false),
            draining: Cell::new(false),
            canaries: Canaries::default(),
            tokens: Default::default(),
            labels: RefCell::default(),
            date: Default::default(),
            shared,
        });
        Self { worker, about: Arc::new(about), metrics, _phase: phase }
    }

    /// Serves `client` to its end in a task of its own, as the listener would.
    pub fn start(&self, client: UnixStream, peer: SocketAddr) {
        let shared = &self.worker.shared;
        if let Ok(counted) = Counted::take(&shared.load, &shared.caps, 0, None) {
            let about = Arc::clone(&self.about);
            serve::start(&self.worker, Plain::Unix(client), Some(peer), about, counted);
        }
    }

    /// Checks running requests against every snapshot, as a worker does, but without the worker's
    /// timer.
    pub fn watch_snapshots(&self) {
        tokio::task::spawn_local(run::watch_snapshots(Rc::clone(&self.worker)));
    }

    /// Puts another snapshot in force, made from the current one.
    pub fn swap(&self, next: impl FnOnce(&Snapshot) -> Snapshot) {
        let store = &self.worker.shared.store;
        store.swap(next(&store.load()));
    }

    /// Moves the clock.
    pub fn advance(&self, by: std::time::Duration) {
        self.worker.clock.advance(by);
    }

    /// Ends what is still running: its client is gone.
    pub fn cut(&self) {
        self.worker.connections.cut_all(CutReason::Drain);
    }

    /// Drops idle connections that the upstream has ended, as a worker does now and then.
    pub fn sweep(&self) {
        self.worker.upstream.pool.sweep(self.worker.clock.now().mono_ns);
    }

    pub fn open(&self) -> usize {
        self.worker.connections.count()
    }

    /// Requests that are in the registry.
    pub fn running(&self) -> usize {
        self.worker.streams.count()
    }

    /// What `/metrics` would show.
    pub fn metrics(&self) -> String {
        self.metrics.render()
    }
}
