//! What listeners of HTTP/1.1 beside the proxy have in common: accepting until somebody says stop,
//! places for connections, and a connection that ends with a whole answer. Imports nothing of the
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

/// After an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// What the head of a request may take.
#[derive(Clone, Copy, Debug)]
pub struct HeadBounds {
    /// Until it is there: the first of a connection, or the next of an idle one.
    pub time: Duration,
    /// Bytes.
    pub length: usize,
}

/// Calls `accept`, which takes one connection and leaves it to a task, until `stop` says true or
/// nobody is left to say so.
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

/// Serves one connection until it ends, or until `stop` says true and the request under way is
/// answered.
///
/// # Errors
/// How it ended, which most often concerns the client alone.
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

/// Ends once `stop` says true, or nobody is left to say so.
pub async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Trying again at once is no use.
fn is_lasting(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
