//! The common parts of HTTP/1.1 listeners other than the proxy: accepting until they are stopped,
//! places for connections, and connections that end with a complete answer. Imports nothing of the
//! crate.

mod connections;

use std::io;
use std::pin::pin;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

pub use self::connections::{ConnectionPlace, ConnectionPlaces};

/// Pause after an accept failed for lack of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Limits for the head of a request.
#[derive(Clone, Copy, Debug)]
pub struct HeadBounds {
    /// Time until it is complete: the first head of a connection, or the next one after idling.
    pub time: Duration,
    /// Length in bytes.
    pub length: usize,
}

/// Calls `accept`, which takes one connection and leaves it to a task, until `stop` is true or its
/// sender is gone.
pub async fn accept_until<F>(mut stop: watch::Receiver<bool>, mut accept: impl FnMut() -> F)
where
    F: Future<Output = io::Result<()>>,
{
    loop {
        let accepted = tokio::select! {
            biased;
            () = told_to_stop(&mut stop) => return,
            accepted = accept() => accepted,
        };
        if let Err(error) = accepted
            && is_lasting(&error)
        {
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Serves one connection until it ends, or until `stop` is true and the current request was
/// answered.
///
/// # Errors
/// How it ended, which usually concerns only the client.
pub async fn serve_connection<T, S, B>(
    stream: T,
    service: S,
    bounds: HeadBounds,
    mut stop: watch::Receiver<bool>,
) -> hyper::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.time)
        .max_buf_size(bounds.length)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = told_to_stop(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// Ends once `stop` is true, or its sender is gone.
pub async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Trying again immediately would not help.
fn is_lasting(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
