//! One worker: a thread with its own current-thread runtime, its own upstream connections, its own
//! metric cells. A connection never leaves its worker once its first byte was read.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use http::HeaderValue;
use tokio::sync::{mpsc, watch};

use super::limits::LimitStore;
use super::streams::Streams;
use super::upstream::{Connector, Upstream};
use crate::clock::Clock;
use crate::config::{Caps, Drain, Http2Config, Timeouts, UpstreamAddress, UpstreamProtocol};
use crate::proxy::client::listener::{Accepted, Listening};
use crate::proxy::net::buffers::Buffers;
use crate::proxy::net::connections::Connections;
use crate::proxy::net::io::Cut;
use crate::proxy::net::tls::ClientTls;
use crate::proxy::request::rewrite::Ids;
use crate::proxy::request::rewrite::answer::OwnAddress;
use crate::snapshot::Store;
use crate::telemetry::{AccessLog, OTHER_ROUTE, WorkerCells};

/// What all workers share. Everything in it is read far more often than written.
#[derive(Debug)]
pub struct Shared {
    pub clock: Clock,
    pub store: Arc<Store>,
    pub limits: Arc<LimitStore>,
    pub upstream: crate::config::UpstreamConfig,
    pub upstream_tls: Option<Arc<ClientTls>>,
    pub timeouts: Timeouts,
    pub caps: Caps,
    pub http2: Http2Config,
    pub drain: Drain,
    pub phase: watch::Receiver<Phase>,
    pub load: Load,
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

/// Open connections and running streams by worker, and connections by address.
#[derive(Debug)]
pub struct Load {
    workers: Vec<WorkerLoad>,
    total: AtomicUsize,
    by_address: DashMap<IpAddr, usize>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerLoad {
    connections: AtomicUsize,
    streams: AtomicUsize,
}

/// A connection's place in [`Load`]; given back on drop.
#[derive(Debug)]
pub(super) struct Counted {
    shared: Arc<Shared>,
    worker: usize,
    address: Option<IpAddr>,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Address,
    All,
}

/// The worker's own things. Lives on its thread only.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Clock,
    pub(crate) cells: Arc<WorkerCells>,
    pub(crate) access: AccessLog,
    pub(crate) connections: Rc<Connections>,
    pub(crate) streams: Rc<Streams>,
    pub(crate) upstream: Rc<Upstream>,
    /// The upstream's own name, for requests that name no host.
    pub(crate) authority: HeaderValue,
    /// What is cut off of the service's `Location`.
    pub(crate) own_address: Option<OwnAddress>,
    pub(crate) ids: Ids,
    /// Answers say that their connection is about to close.
    pub(crate) closing: Cell<bool>,
    /// Connections close as soon as nothing runs on them.
    pub(crate) draining: Cell<bool>,
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

/// What a worker thread is started with.
#[derive(Debug)]
pub struct Seed {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub cells: Arc<WorkerCells>,
    pub access: AccessLog,
    pub listening: Vec<Listening>,
    pub handed: mpsc::UnboundedReceiver<Accepted>,
    /// For [`Ids`].
    pub random: [u8; 16],
}

/// Runs a worker to its end: until the process has drained.
pub fn run(seed: Seed) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(serve(seed));
    Ok(())
}

async fn serve(seed: Seed) {
    let Seed { index, shared, cells, access, listening, handed, random } = seed;
    let workers = shared.load.workers.len();
    let connector = Connector::new(
        &shared.upstream,
        shared.upstream_tls.clone(),
        shared.timeouts.connect,
        shared.clock.clone(),
        Arc::clone(&cells),
    );
    let upstream =
        Upstream::new(connector, &shared.upstream, &shared.timeouts, workers, Arc::clone(&cells));
    let authority = match &shared.upstream.address {
        UpstreamAddress::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        UpstreamAddress::Tcp { host, port } => format!("{host}:{port}"),
        UpstreamAddress::Unix(_) => "localhost".to_owned(),
    };
    let worker = Rc::new(Worker {
        index,
        own_address: OwnAddress::new(&shared.upstream),
        authority: HeaderValue::try_from(authority)
            .unwrap_or(HeaderValue::from_static("localhost")),
        clock: shared.clock.clone(),
        cells,
        access,
        connections: Rc::default(),
        streams: Rc::default(),
        buffers: Rc::clone(upstream.buffers()),
        upstream,
        ids: Ids::new(random),
        closing: Cell::new(false),
        draining: Cell::new(false),
        labels: RefCell::default(),
        date: Date::default(),
        shared,
    });
    for one in listening {
        tokio::task::spawn_local(crate::proxy::client::listener::accept(Rc::clone(&worker), one));
    }
    tokio::task::spawn_local(crate::proxy::client::listener::take_handed(
        Rc::clone(&worker),
        handed,
    ));
    tokio::task::spawn_local(watch_snapshots(Rc::clone(&worker)));
    let ticks = tokio::task::spawn_local(tick(Rc::clone(&worker)));
    drain(&worker).await;
    ticks.abort();
    worker.access.flush();
}

/// Holds running streams against every new snapshot.
pub(super) async fn watch_snapshots(worker: Rc<Worker>) {
    let mut swaps = worker.shared.store.subscribe();
    while swaps.changed().await.is_ok() {
        let now = worker.clock.now();
        let snapshot = worker.shared.store.load();
        for reason in worker.streams.recheck(&snapshot, now) {
            worker.cells.stream_ended(reason);
        }
    }
}

/// Looks at all deadlines of the worker. Their precision is this interval: an eighth of the
/// shortest time-out, at most half a second.
async fn tick(worker: Rc<Worker>) {
    let timeouts = &worker.shared.timeouts;
    let shortest = [
        timeouts.header,
        timeouts.body,
        timeouts.idle,
        timeouts.write,
        timeouts.half_closed,
        timeouts.first_byte,
        timeouts.upstream_idle,
        timeouts.total.unwrap_or(Duration::MAX),
        timeouts.response_idle.unwrap_or(Duration::MAX),
    ]
    .into_iter()
    .min()
    .unwrap_or(Duration::MAX);
    let every = (shortest / 8).clamp(Duration::from_millis(5), Duration::from_millis(500));
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let write_ns = timeouts.write.as_nanos() as u64;
    loop {
        // Keys end on time, whatever the interval.
        tokio::select! {
            _ = interval.tick() => {}
            () = worker.streams.next_expiry(&worker.clock) => {}
        }
        let now = worker.clock.now();
        worker.connections.sweep(now.mono_ns, timeouts);
        for _ in 0..worker.streams.sweep(now, write_ns) {
            worker.cells.stream_ended(crate::core::Reason::Expired);
        }
        worker.upstream.sweep(now.mono_ns);
        worker.access.flush();
        worker.report_load();
    }
}

/// Waits for the end of the process and brings this worker there.
async fn drain(worker: &Rc<Worker>) {
    let mut phase = worker.shared.phase.clone();
    // The sender lives as long as the app; were it gone, the app is.
    let _ = phase.wait_for(|p| *p >= Phase::Draining).await;
    worker.closing.set(true);
    // Requests that the kernel has taken before we stopped accepting must not meet a closed
    // connection: what is on its way gets this long to be read.
    tokio::time::sleep(LAST_HEADS.min(worker.shared.drain.deadline)).await;
    worker.draining.set(true);
    worker.connections.wake_all();
    let empty = async {
        while worker.connections.count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let cut = phase.wait_for(|p| *p >= Phase::Cutting);
    tokio::select! {
        () = empty => return,
        _ = cut => {}
    }
    worker.connections.cut_all(Cut::Drain);
    // The tasks notice at their next poll; resets need no time.
    for _ in 0..50 {
        if worker.connections.count() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

const LAST_HEADS: Duration = Duration::from_millis(100);

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

    fn report_load(&self) {
        if let Some(load) = self.shared.load.workers.get(self.index) {
            load.streams.store(self.streams.count(), Ordering::Relaxed);
        }
    }
}

// === impl Load ===

impl Load {
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers.max(1)).map(|_| WorkerLoad::default()).collect(),
            total: AtomicUsize::new(0),
            by_address: DashMap::new(),
        }
    }

    /// The worker that a new connection goes to: fewest connections, then fewest streams. `here`
    /// wins a tie, because staying costs nothing.
    pub(crate) fn choose(&self, here: usize) -> usize {
        let of = |load: &WorkerLoad| {
            (load.connections.load(Ordering::Relaxed), load.streams.load(Ordering::Relaxed))
        };
        let own = self.workers.get(here).map(of);
        let best = self.workers.iter().enumerate().min_by_key(|(_, load)| of(load));
        match (best, own) {
            (Some((index, load)), Some(own)) if of(load) < own => index,
            _ => here,
        }
    }
}

impl Counted {
    /// Counts a new connection, if there is room for it.
    pub(crate) fn take(
        shared: &Arc<Shared>,
        worker: usize,
        address: Option<IpAddr>,
    ) -> Result<Self, Full> {
        let load = &shared.load;
        if load.total.fetch_add(1, Ordering::Relaxed) >= shared.caps.connections {
            load.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::All);
        }
        let bounded = shared.caps.connections_per_address < shared.caps.connections;
        let address = address.filter(|_| bounded);
        if let Some(address) = address {
            let mut count = load.by_address.entry(address).or_insert(0);
            if *count >= shared.caps.connections_per_address {
                drop(count);
                load.total.fetch_sub(1, Ordering::Relaxed);
                return Err(Full::Address);
            }
            *count += 1;
        }
        if let Some(own) = load.workers.get(worker) {
            own.connections.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Self { shared: Arc::clone(shared), worker, address })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let load = &self.shared.load;
        load.total.fetch_sub(1, Ordering::Relaxed);
        if let Some(own) = load.workers.get(self.worker) {
            own.connections.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(address) = self.address {
            let gone = load.by_address.get_mut(&address).is_some_and(|mut count| {
                *count = count.saturating_sub(1);
                *count == 0
            });
            if gone {
                load.by_address.remove_if(&address, |_, count| *count == 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads by worker: connections, streams.
    fn choose(loads: &[(usize, usize)], here: usize) -> usize {
        let load = Load::new(loads.len());
        for (worker, (connections, streams)) in load.workers.iter().zip(loads) {
            worker.connections.store(*connections, Ordering::Relaxed);
            worker.streams.store(*streams, Ordering::Relaxed);
        }
        load.choose(here)
    }

    #[test]
    fn fewest_connections_then_fewest_streams() {
        assert_eq!(choose(&[(2, 0), (1, 9), (3, 0)], 0), 1, "connections come first");
        assert_eq!(choose(&[(1, 5), (1, 2), (1, 3)], 0), 1, "then streams");
        assert_eq!(choose(&[(1, 2), (1, 2), (1, 2)], 2), 2, "a tie stays here");
        assert_eq!(choose(&[(0, 1), (0, 0), (0, 0)], 0), 1, "the first of the best");
        assert_eq!(choose(&[(0, 0)], 0), 0);
    }
}
