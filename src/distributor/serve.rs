//! The listener that sidecars wait at. A connection has a maximum age, and at the end of the
//! process its clients are let go one after the other, not all together.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::desk::DistributorDesk;
use super::strangers::{Stranger, Strangers};
use crate::config::Sharing;
use crate::reload::random_share;
use crate::serving::{accept_until, told_to_stop};

/// For a handshake: those of a returning fleet wait for one another.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Time for the head of the first request to arrive.
const FIRST_HEAD: Duration = Duration::from_secs(5);

/// The same for the next request, on an idle connection.
const HEAD: Duration = Duration::from_secs(30);

/// How long to wait for the place of a connection that was told to end.
const GIVES_WAY: Duration = Duration::from_secs(1);

/// Longest head of a request: sidecars send the head of the file they have in one of its fields. A
/// connection's buffer begins with 8 KiB.
const LONGEST_HEAD: usize = 32 * 1024;

/// A client that has acknowledged nothing of an answer for this long is gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Time for the answer in progress when a connection is to end: as long as a sidecar waits for a
/// table.
const LAST_ANSWER: Duration = Duration::from_secs(15 * 60);

/// The same at the end of the process.
const LEAVE: Duration = Duration::from_secs(10);

/// Connections that wait to be accepted, when a fleet returns. The kernel may hold fewer.
const BACKLOG: i32 = 16_384;

/// Bounds of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionBounds {
    pub(super) most: usize,
    /// A quarter more or less.
    pub(super) age: Duration,
}

/// Binds an address, inside a runtime.
///
/// # Errors
/// It is in use, or not permitted.
pub(super) fn bind(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for old connections.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if sharing == Sharing::SameUser {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves until `stop` becomes true, then lets answers in progress end, 10 s at most.
pub(super) async fn serve(
    listener: TcpListener,
    desk: DistributorDesk,
    bounds: ConnectionBounds,
    stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(bounds.most));
    let strangers = Strangers::default();
    let accept = || accept(&listener, &desk, &places, &strangers, bounds, &stop);
    accept_until(stop.clone(), accept).await;
    drop(listener);
    let all = u32::try_from(bounds.most).unwrap_or(u32::MAX);
    if tokio::time::timeout(LEAVE, places.acquire_many(all)).await.is_err() {
        tracing::warn!("some answers had not ended and were cut");
    }
}

async fn accept(
    listener: &TcpListener,
    desk: &DistributorDesk,
    places: &Arc<Semaphore>,
    strangers: &Strangers,
    bounds: ConnectionBounds,
    stop: &watch::Receiver<bool>,
) -> io::Result<()> {
    let (stream, address) = listener.accept().await?;
    let free = match Arc::clone(places).try_acquire_owned() {
        Ok(place) => Some(place),
        Err(_) => {
            // One connection is closed immediately: either this one, since another distributor may
            // have a place, or one that has not shown a token yet.
            desk.turned_away();
            if !strangers.give_way() {
                return Ok(());
            }
            None
        }
    };
    let peer = address.ip().to_canonical();
    let (desk, places, strangers) = (desk.clone(), Arc::clone(places), strangers.clone());
    let stop = stop.clone();
    tokio::spawn(async move {
        let place = match free {
            Some(place) => place,
            None => match tokio::time::timeout(GIVES_WAY, places.acquire_owned()).await {
                Ok(Ok(place)) => place,
                Ok(Err(_)) | Err(_) => return,
            },
        };
        let (stranger, end) = strangers.arrives();
        let stranger = Arc::new(stranger);
        let parts = ConnectionParts { desk, peer, bounds, stranger, place };
        tokio::select! {
            () = arrive(stream, parts, stop) => {}
            () = end.comes() => {}
        }
    });
    Ok(())
}

/// What a connection holds, and returns at its end.
struct ConnectionParts {
    desk: DistributorDesk,
    peer: IpAddr,
    bounds: ConnectionBounds,
    stranger: Arc<Stranger>,
    place: OwnedSemaphorePermit,
}

async fn arrive(stream: TcpStream, parts: ConnectionParts, stop: watch::Receiver<bool>) {
    // If it cannot be set, the connection is slower, not wrong.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let Some(tls) = parts.desk.tls().map(|tls| TlsAcceptor::from(tls.current())) else {
        return connection(stream, parts, stop).await;
    };
    // TLS reports failed handshakes. Boxed: its state is larger than a connection's.
    let shaking = Box::pin(tokio::time::timeout(HANDSHAKE, tls.accept(stream)));
    if let Ok(Ok(stream)) = shaking.await {
        connection(stream, parts, stop).await;
    }
}

async fn connection<S>(stream: S, parts: ConnectionParts, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let ConnectionParts { desk, peer, bounds, stranger, place } = parts;
    let _connected = desk.connected();
    let who = Arc::clone(&stranger);
    let service = service_fn(move |request: Request<Incoming>| {
        who.asks(|| desk.knows(request.headers()));
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(desk.answer(request, peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let age = bounds.age.mul_f64(0.75 + random_share() / 2.0);
    let ends_at = Instant::now() + age;
    let mut timer = pin!(tokio::time::sleep(FIRST_HEAD.min(age)));
    let is_over = loop {
        tokio::select! {
            // What arrived in time counts, however late this task gets its turn.
            biased;
            // How it ends matters only to the client.
            _ = connection.as_mut() => break true,
            () = timer.as_mut() => match (stranger.has_asked(), timer.deadline() < ends_at) {
                (false, _) => return,
                (true, true) => timer.as_mut().reset(ends_at),
                (true, false) => break false,
            },
            () = told_to_stop(&mut stop) => break false,
        }
    };
    if !is_over {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(LAST_ANSWER, connection).await;
    }
    drop(place);
}
