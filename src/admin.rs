//! The admin listener: metrics, probes, status and drain, on a thread and a runtime of its own, so
//! that a heavy scrape is not felt by requests. Imports `clock`, `config`, `reload`, `telemetry`.
//!
//! No endpoint gives out a secret. Whoever can reach it may read it, so it binds to loopback by
//! default; [`POST /drain`](Page::Drain) is for loopback peers only, wherever it is bound.

mod client;
mod pages;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};

pub use self::client::{DrainError, request_drain};
use crate::clock::Clock;
use crate::reload::{StatusCell, Time, lower_priority};
use crate::telemetry::log::OperatorLog;
use crate::telemetry::{Metrics, Readiness};

/// Connections at once. A probe that hangs must not keep others out for long.
const CONNECTIONS: usize = 64;

/// For the head of a request, and between two requests.
const HEADER: Duration = Duration::from_secs(5);

/// Longest life of a connection.
const LIFE: Duration = Duration::from_secs(300);

/// Everything that the pages show or set off.
pub struct AdminState {
    pub metrics: Metrics,
    pub readiness: Readiness,
    pub status: StatusCell,
    /// Those in force when it is called.
    pub certificates: Box<dyn Fn() -> Vec<CertificateStatus> + Send + Sync>,
    pub clock: Clock,
    /// Told how many lines the operator log lost; `None`: another one writes it.
    pub log: Option<Arc<OperatorLog>>,
    /// Begins to drain, as SIGTERM does. Called from the admin thread; must not wait.
    pub drain: Box<dyn Fn() + Send + Sync>,
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

/// The running listener.
#[derive(Debug)]
pub struct Admin {
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

// === impl Admin ===

impl Admin {
    /// Ends the listener. Last of all: probes are to see the drain.
    pub fn stop(self) {
        self.stop.send_replace(true);
        // A panic of that thread was reported by the panic hook; nothing is left to do.
        let _ = self.thread.join();
    }
}

/// Serves until [`Admin::stop`]. The thread also keeps the clock in step with the wall and the
/// metrics small between scrapes.
pub fn serve(listener: TcpListener, state: AdminState) -> io::Result<Admin> {
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = watch::channel(false);
    let state = Arc::new(state);
    state.metrics.control().process_start_time.set(state.clock.now().unix_ms as f64 / 1000.0);
    let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
        lower_priority();
        runtime.block_on(run(listener, state, stopped));
    })?;
    Ok(Admin { address, stop, thread })
}

async fn run(listener: TcpListener, state: Arc<AdminState>, mut stopped: watch::Receiver<bool>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the admin listener cannot be used");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let failing = AtomicBool::new(false);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let accepted = tokio::select! {
            _ = stopped.changed() => return,
            _ = tick.tick() => {
                upkeep(&state);
                continue;
            }
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, peer, place)) => {
                failing.store(false, Ordering::Relaxed);
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    serve_connection(stream, peer, state).await;
                    drop(place);
                });
            }
            Err(error) => {
                if !failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "accepting an admin connection failed");
                }
                // Out of descriptors: trying again at once would only burn the core.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn accept(
    listener: &tokio::net::TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(tokio::net::TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}

async fn serve_connection(stream: tokio::net::TcpStream, peer: SocketAddr, state: Arc<AdminState>) {
    let service = service_fn(move |request| {
        let answer = pages::answer(&state, peer, &request);
        async move { Ok::<_, std::convert::Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(16 * 1024)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    // What a probe's connection ends with is its own affair.
    let _ = tokio::time::timeout(LIFE, connection).await;
}

/// Once a second.
fn upkeep(state: &AdminState) {
    state.clock.resync();
    state.metrics.run_upkeep();
    if let Some(log) = &state.log {
        log.count_dropped();
    }
}

#[cfg(test)]
mod tests;
