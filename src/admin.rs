//! The admin listener: metrics, probes, status and drain, on a thread and a runtime of its own, so
//! that a heavy scrape is not felt by requests. Imports `clock`, `config`, `core`, `exposure`,
//! `meter`, `observe`, `reload`, `serving`, `snapshot`, `telemetry`.
//!
//! No endpoint gives out a secret. `pages` says of each who reaches it: probes, metrics and public
//! keys everybody, and probes of the service that the configuration names; `/status`, `/usage` and
//! `/observe` this host or who has the token, `/drain` this host alone. A second listener has what is
//! for everybody and nothing else.

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

/// Connections of one listener.
const CONNECTIONS: usize = 48;

/// Of these, connections of one address.
const OF_ONE_ADDRESS: usize = 16;

/// Everything that the pages show or set off.
pub struct AdminState {
    pub metrics: Metrics,
    pub readiness: Readiness,
    pub status: StatusCell,
    /// Whose user tokens are taken.
    pub issuers: IssuerBoard,
    /// Whether clients can reach the service around keygate.
    pub exposure: ExposureCell,
    /// `None`: uses of keys are not counted.
    pub uses: Option<Arc<UseBook>>,
    /// Who would be refused.
    pub observe: ObserveDesk,
    /// Those in force when it is called.
    pub certificates: Box<dyn Fn() -> Vec<CertificateStatus> + Send + Sync>,
    /// How the store of shared limits stands when it is called; `None`: limits hold per sidecar.
    pub shared_limits: Box<dyn Fn() -> Option<SharedLimitsStatus> + Send + Sync>,
    /// The JSON Web Key Set of the assertion when it is called; `None`: there is no assertion.
    pub public_keys: Box<dyn Fn() -> Option<String> + Send + Sync>,
    pub clock: Clock,
    /// Told how many lines the operator log lost; `None`: another one writes it.
    pub log: Option<Arc<OperatorLog>>,
    /// Begins to drain, as SIGTERM does. Called from the admin thread; must not wait.
    pub drain: Box<dyn Fn() + Send + Sync>,
    pub access: AdminAccess,
    /// Probes of the service.
    pub probes: Arc<ProbePassages>,
}

/// What `/status` says of limits that are counted in a store.
#[derive(Clone, Debug, Serialize)]
pub struct SharedLimitsStatus {
    pub up: bool,
    /// Why the store is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Box<str>>,
    /// Sidecars that share the limits, as counted last.
    pub replicas: u32,
    /// The part of each limit that this one admits while the store is away.
    pub share: f64,
}

/// What `/status` says of a certificate that is served or shown to the upstream.
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
    /// Of the listener for probes and metrics alone.
    pub public_address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    leave: watch::Sender<Vec<AdminDoor>>,
    thread: JoinHandle<()>,
}

// === impl Admin ===

impl Admin {
    /// Takes no more connections there: the socket is a successor's from now on.
    pub fn leave(&self, door: AdminDoor) {
        self.leave.send_modify(|doors| doors.push(door));
    }

    /// Ends the listener. Last of all: probes are to see the drain.
    pub fn stop(self) {
        self.stop.send_replace(true);
        // A panic of that thread was reported by the panic hook; nothing is left to do.
        let _ = self.thread.join();
    }
}

/// Serves until [`Admin::stop`]; `public` has probes and metrics alone. The thread also keeps the clock
/// in step with the wall, the metrics small between scrapes, and the token up to date.
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

/// One bound address and who is connected to it.
struct AdminListener {
    listener: tokio::net::TcpListener,
    door: AdminDoor,
    on_loopback: bool,
    places: ConnectionPlaces,
    /// For the one page that is made at a time, whichever listener it is for.
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
            // The runtime ends with this, and the listeners' tasks with it.
            _ = stopped.changed() => return,
            _ = tick.tick() => upkeep(&state),
        }
    }
}

// === impl AdminListener ===

impl AdminListener {
    /// Until its door is another process's: then it closes the socket.
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
                    // Out of descriptors: trying again at once would only burn the core.
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
        // What a probe's connection ends with is its own affair.
        _ = tokio::time::timeout(LIFE, connection) => {}
        _ = give_way => {}
    }
}

/// Makes a page when it is its turn. Whoever came meanwhile with a probe is answered before the next
/// page is made: however many pages clients ask for at once, a probe waits for two or three.
async fn in_turn<T>(turns: &Semaphore, page: impl FnOnce() -> T) -> T {
    let _turn = turns.acquire().await;
    let page = page();
    // With the turn still in hand.
    tokio::task::yield_now().await;
    page
}

/// Once a second.
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
