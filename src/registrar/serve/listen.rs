//! The listener: TCP or a Unix socket, connections that end, and a stop that lets answers out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tower_service::Service as _;

use super::super::app::App;
use super::super::request::Peer;
use super::places::{ServicePlace, ServicePlaces};
use super::tls::{Secured, ServiceTls};
use crate::config::{Bind, SocketFile};
use crate::serving::{HeadBounds, accept_until, serve_connection};

const HEAD: HeadBounds = HeadBounds { time: Duration::from_secs(30), length: 32 * 1024 };

/// How long answers under way may take to go out after a stop.
const LEAVE: Duration = Duration::from_secs(10);

/// A client that accepts no byte of an answer for this long is gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// A bound address.
#[derive(Debug)]
pub enum ServiceListener {
    Tcp(TcpListener, Option<ServiceTls>),
    Unix(UnixListener, PathBuf),
}

// === impl ServiceListener ===

impl ServiceListener {
    /// Takes the address, inside a runtime. A socket's file gets its mode and owner before anybody
    /// can connect.
    ///
    /// # Errors
    /// The address is taken, or not permitted.
    pub fn bind(to: &Bind, file: SocketFile, tls: Option<ServiceTls>) -> io::Result<Self> {
        match to {
            Bind::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(|listener| Self::Tcp(listener, tls))
            }
            Bind::Unix(path) => bind_unix(path, file).map(|l| Self::Unix(l, path.clone())),
        }
    }

    /// The address, if it is TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener, _) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }
}

impl std::fmt::Display for ServiceListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(listener, tls) => match listener.local_addr() {
                Ok(address) if tls.is_some() => write!(f, "https://{address}"),
                Ok(address) => write!(f, "http://{address}"),
                Err(error) => write!(f, "an unknown address ({error})"),
            },
            Self::Unix(_, path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn bind_unix(path: &Path, file: SocketFile) -> io::Result<UnixListener> {
    let listener = file.listen(path, 1024)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Serves until `stop` becomes true, then lets requests under way finish, for 10 s at most.
pub async fn serve(
    app: App,
    listener: ServiceListener,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    let places = ServicePlaces::new();
    let upkeep = async {
        let mut tidy = tokio::time::interval(Duration::from_secs(5));
        loop {
            tidy.tick().await;
            app.clock.resync();
            app.metrics.tidy();
        }
    };
    tokio::select! {
        () = accept_until(stop.clone(), || accept(&app, &listener, &places, &router, &stop)) => {}
        () = upkeep => {}
    }
    if let ServiceListener::Unix(_, path) = &listener {
        let _ = std::fs::remove_file(path);
    }
    drop(listener);
    if tokio::time::timeout(LEAVE, places.emptied()).await.is_err() {
        tracing::warn!("some requests had not ended and were cut");
    }
}

async fn accept(
    app: &App,
    listener: &ServiceListener,
    places: &ServicePlaces,
    router: &Router,
    stop: &watch::Receiver<bool>,
) -> io::Result<()> {
    let room = places.room().await.map_err(io::Error::other)?;
    let rest = |place| ConnectionRest { place, stop: stop.clone() };
    match listener {
        ServiceListener::Tcp(listener, tls) => {
            let (stream, address) = listener.accept().await?;
            let counted = Some(address.ip().to_canonical()).filter(|ip| is_one_persons(app, *ip));
            // Closed immediately: somebody who holds that many knows why.
            let Some(place) = places.take(room, counted) else { return Ok(()) };
            let rest = rest(place);
            stream.set_nodelay(true)?;
            socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
            let peer = Peer { address: Some(address.ip().to_canonical()), ..Peer::default() };
            match tls.clone() {
                None => tokio::spawn(connection(stream, peer, router.clone(), rest)),
                Some(tls) => {
                    let router = router.clone();
                    tokio::spawn(async move {
                        let shaken =
                            tokio::time::timeout(HEAD.time, tls.accept(stream, peer)).await;
                        // TLS reports a handshake that fails.
                        if let Ok(Some(Secured { stream, peer })) = shaken {
                            connection(stream, peer, router, rest).await;
                        }
                    })
                }
            };
        }
        ServiceListener::Unix(listener, _) => {
            let (stream, _) = listener.accept().await?;
            let uid = stream.peer_cred()?.uid();
            let peer = Peer { uid: Some(uid), ..Peer::default() };
            let Some(place) = places.take(room, None) else { return Ok(()) };
            let rest = rest(place);
            tokio::spawn(connection(stream, peer, router.clone(), rest));
        }
    }
    Ok(())
}

/// Whether an address belongs to one person, or to a few: behind a proxy's address is everybody.
fn is_one_persons(app: &App, address: IpAddr) -> bool {
    let proxies = &app.settings.trusted_proxies;
    !address.is_loopback() && !proxies.iter().any(|network| network.contains(&address))
}

/// What a connection gives back at its end.
struct ConnectionRest {
    place: ServicePlace,
    stop: watch::Receiver<bool>,
}

async fn connection<S>(stream: S, peer: Peer, router: Router, rest: ConnectionRest)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let ConnectionRest { place, stop } = rest;
    let of_requests = place.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut router = router.clone();
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(of_requests.clone());
        async move { router.call(request).await }
    });
    // How it ends concerns only the client.
    let _ = serve_connection(stream, service, HEAD, stop).await;
    drop(place);
}
