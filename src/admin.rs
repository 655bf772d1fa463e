//! The admin listener: metrics, probes, status and drain, on a thread and a runtime of its own, so
//! that a heavy scrape does not slow down requests. Imports `clock`, `config`, `core`, `exposure`,
//! `meter`, `observe`, `reload`, `serving`, `snapshot`, `telemetry`.
//!
//! No endpoint reveals a secret. `pages` states who reaches each one. Everybody reaches probes,
//! metrics, public keys and the probes of the service that the configuration names. This host, or
//! whoever has the token, reaches `/status`, `/usage` and `/observe`. Only this host reaches
//! `/drain`. A second listener has only what is for everybody.

mod access;
mod body;
mod client;
mod observing;
mod pages;
mod passage;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};

use self::access::AdminCaller;
pub use self::access::{AdminAccess, AdminDoor, AdminToken, AdminTokenError};
pub use self::client::{DrainError, await_end, request_drain};
pub use self::observing::ObserveDesk;
use self::pages::AnswerTurn;
pub use self::passage::ProbePassages;
use crate::clock::Clock;
use crate::exposure::ExposureCell;
use crate::meter::UseBook;
use crate::reload::{IssuerBoard, StatusCell, Time, lower_priority};
use crate::serving::ConnectionPlaces;
use crate::telemetry::log::OperatorLog;
use crate::telemetry::{Metrics, Readiness};

/// For the head of a request, and between two requests.
const HEADER: Duration = Duration::from_secs(5);

/// Longest life of a connection.
const LIFE: Duration = Duration::from_secs(300);

/// The most connections of one listener.
const CONNECTIONS: usize = 48;

/// Of these, the most connections from one address.
const OF_ONE_ADDRESS: usize = 16;

/// Everything that the pages show or trigger.
pub struct AdminState {
    pub metrics: Metrics,
    pub readiness: Readiness,
    pub status: StatusCell,
    /// The issuers of user tokens.
    pub issuers: IssuerBoard,
    /// Whether clients can bypass keygate to reach the service.
    pub exposure: ExposureCell,
    /// The same of each `[upstreams.NAME]`.
    pub named_exposure: Vec<(Box<str>, ExposureCell)>,
    /// `None`: uses of keys are not counted.
    pub uses: Option<Arc<UseBook>>,
    /// What observing has seen.
    pub observe: ObserveDesk,
    /// The certificates that are in force when it is called.
    pub certificates: Box<dyn Fn() -> Vec<CertificateStatus> + Send + Sync>,
    /// The state of the store of shared limits when it is called. `None`: limits apply per sidecar.
    pub shared_limits: Box<dyn Fn() -> Option<SharedLimitsStatus> + Send + Sync>,
    /// The JSON Web Key Set of the assertion when it is called. `None`: there is no assertion.
    pub public_keys: Box<dyn Fn() -> Option<String> + Send + Sync>,
    pub clock: Clock,
    /// Counts lines that the operator log lost. `None`: another process writes the log.
    pub log: Option<Arc<OperatorLog>>,
    /// Begins to drain, as SIGTERM does. Called from the admin thread, so it must not block.
    pub drain: Box<dyn Fn() + Send + Sync>,
    pub access: AdminAccess,
    /// Probes of the service.
    pub probes: Arc<ProbePassages>,
}

/// What `/status` shows about limits that are counted in a store.
#[derive(Clone, Debug, Serialize)]
pub struct SharedLimitsStatus {
    pub up: bool,
    /// Why the store is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Box<str>>,
    /// Number of sidecars that share the limits, as last counted.
    pub replicas: u32,
    /// The part of each limit that this sidecar admits while the store is away.
    pub share: f64,
}

/// What `/status` shows about a certificate that keygate serves, or presents to the upstream.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateStatus {
    /// The configured file of its chain.
    pub name: String,
    pub not_before: Time,
    pub expires: Time,
    /// False: it has expired or is not valid yet, and clients refuse it.
    pub valid: bool,
}

/// The running listeners.
#[derive(Debug)]
pub struct Admin {
    pub address: SocketAddr,
    /// Address of the listener for probes and metrics.
    pub public_address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    leave: watch::Sender<Vec<AdminDoor>>,
    thread: JoinHandle<()>,
}

// === impl Admin ===

impl Admin {
    /// Accepts no more connections there: from now on the socket belongs to a successor.
    pub fn leave(&self, door: AdminDoor) {
        self.leave.send_modify(|doors| doors.push(door));
    }

    /// Ends the listener. Call this last, because probes have to see the drain.
    pub fn stop(self) {
        self.stop.send_replace(true);
        // The panic hook has reported a panic of that thread. Nothing is left to do.
        let _ = self.thread.join();
    }
}

/// Serves until [`Admin::stop`]. `public` has only probes and metrics. The thread also keeps the
/// clock in step with the wall clock, the metrics small between scrapes, and the token up to date.
pub fn serve(
    listener: TcpListener,
    public: Option<TcpListener>,
    state: AdminState,
) -> io::Result<Admin> {
    let address = listener.local_addr()?;
    let public_address = public.as_ref().map(TcpListener::local_addr).transpose()?;
    let doors = [(Some(listener), AdminDoor::Admin), (public, AdminDoor::Public)];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut listeners = Vec::with_capacity(doors.len());
    let turns = Arc::new(Semaphore::new(1));
    for (listener, door) in doors {
        let Some(listener) = listener else { continue };
        listener.set_nonblocking(true)?;
        let on_loopback = listener.local_addr()?.ip().to_canonical().is_loopback();
        let _guard = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        listeners.push(AdminListener {
            listener,
            door,
            on_loopback,
            places: ConnectionPlaces::new(CONNECTIONS, OF_ONE_ADDRESS),
            turns: Arc::clone(&turns),
        });
    }
    let (stop, stopped) = watch::channel(false);
    let (leave, left) = watch::channel(Vec::new());
    let state = Arc::new(state);
    state.metrics.control().process_start_time.set(state.clock.now().unix_ms as f64 / 1000.0);
    let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
        lower_priority();
        runtime.block_on(run(listeners, state, left, stopped));
    })?;
    Ok(Admin { address, public_address, stop, leave, thread })
}

/// One bound address and its clients.
struct AdminListener {
    listener: tokio::net::TcpListener,
    door: AdminDoor,
    on_loopback: bool,
    places: ConnectionPlaces,
    /// Lets one page be made at a time, whichever listener it is for.
    turns: Arc<Semaphore>,
}

async fn run(
    listeners: Vec<AdminListener>,
    state: Arc<AdminState>,
    left: watch::Receiver<Vec<AdminDoor>>,
    mut stopped: watch::Receiver<bool>,
) {
    for listener in listeners {
        tokio::spawn(listener.run(Arc::clone(&state), left.clone()));
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // The runtime ends with this, and so do the listeners' tasks.
            _ = stopped.changed() => return,
            _ = tick.tick() => upkeep(&state),
        }
    }
}

// === impl AdminListener ===

impl AdminListener {
    /// Runs until its door belongs to another process, and then closes the socket.
    async fn run(self, state: Arc<AdminState>, mut left: watch::Receiver<Vec<AdminDoor>>) {
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                Ok(_) = left.wait_for(|doors| doors.contains(&self.door)) => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    failing = false;
                    let caller =
                        AdminCaller { peer, door: self.door, on_loopback: self.on_loopback };
                    tokio::spawn(serve_connection(
                        stream,
                        caller,
                        self.places.clone(),
                        Arc::clone(&self.turns),
                        Arc::clone(&state),
                    ));
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "accepting an admin connection failed");
                    }
                    failing = true;
                    // There are no descriptors left: trying again immediately would only burn the
                    // core.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

async fn serve_connection(
    stream: tokio::net::TcpStream,
    caller: AdminCaller,
    places: ConnectionPlaces,
    turns: Arc<Semaphore>,
    state: Arc<AdminState>,
) {
    let (place, give_way) = places.take(caller.peer.ip());
    let service = service_fn(|request| {
        place.touch();
        let (state, turns) = (&state, &turns);
        async move {
            if let Some(passed) = pages::passed_probe(state, caller, &request).await {
                return Ok(passed);
            }
            let answer = || pages::answer(state, caller, &request, turns);
            Ok::<_, std::convert::Infallible>(match pages::turn_of(&request) {
                AnswerTurn::AtOnce => answer(),
                AnswerTurn::Waits => in_turn(turns, answer).await,
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(16 * 1024)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // How a probe's connection ends does not matter here.
        _ = tokio::time::timeout(LIFE, connection) => {}
        _ = give_way => {}
    }
}

/// Makes a page when it is its turn. Probes that have arrived meanwhile are answered before the
/// next page is made. So however many pages clients request together, a probe waits for two or
/// three.
async fn in_turn<T>(turns: &Semaphore, page: impl FnOnce() -> T) -> T {
    let _turn = turns.acquire().await;
    let page = page();
    // Still holding the turn.
    tokio::task::yield_now().await;
    page
}

/// Runs once a second.
fn upkeep(state: &AdminState) {
    state.clock.resync();
    if let Some(token) = &state.access.token {
        token.refresh();
    }
    if let Some(log) = &state.log {
        log.count_dropped();
    }
}

#[cfg(test)]
mod tests;
