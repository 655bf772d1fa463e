//! Listens, accepts, counts, and hands each connection to the worker with the fewest.

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::config::Listener;
use crate::core::address;
use crate::proxy::load::{Counted, Full};
use crate::proxy::net::accepted::{About, Accepted, AcceptedSocket};
use crate::proxy::net::bind::{Bound, BoundSocket};
use crate::proxy::net::transport::Plain;
use crate::proxy::worker::{Phase, Worker};
use crate::telemetry::{Shortage, TurnedAway};
use crate::tls::ServerTls;

/// A bound socket, not yet part of a runtime. Every worker gets a clone of it.
#[derive(Debug)]
pub struct Listening {
    socket: BoundSocket,
    about: Arc<About>,
}

/// Connections that the kernel may hold before we take them.
const BACKLOG: i32 = 4096;

/// Makes a listener from a bound socket. The address shows which port the system chose for port 0.
/// `None` for a Unix socket.
pub fn listen(
    bound: Bound,
    config: &Listener,
    slot: u32,
    tls: Option<Arc<ServerTls>>,
) -> io::Result<(Listening, Option<SocketAddr>)> {
    let outlives_us = matches!(bound, Bound::Inherited(_));
    let socket = match bound {
        Bound::Tcp(socket) => {
            socket.listen(BACKLOG)?;
            BoundSocket::Tcp(socket.into())
        }
        Bound::Unix(socket) => {
            socket.listen(BACKLOG)?;
            BoundSocket::Unix(socket.into())
        }
        Bound::Inherited(socket) => socket,
    };
    let address = match &socket {
        BoundSocket::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            // Accepted connections inherit this on Linux, which saves one system call for each.
            socket2::SockRef::from(listener).set_tcp_nodelay(true)?;
            Some(listener.local_addr()?)
        }
        BoundSocket::Unix(listener) => {
            listener.set_nonblocking(true)?;
            None
        }
    };
    let about = About { slot, tls, proxy_from: config.proxy_from.clone(), outlives_us };
    Ok((Listening { socket, about: Arc::new(about) }, address))
}

impl Listening {
    /// The same socket for another worker.
    pub fn share(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            BoundSocket::Tcp(listener) => BoundSocket::Tcp(listener.try_clone()?),
            BoundSocket::Unix(listener) => BoundSocket::Unix(listener.try_clone()?),
        };
        Ok(Self { socket, about: Arc::clone(&self.about) })
    }

    /// Whether another process keeps the socket open.
    pub fn outlives_us(&self) -> bool {
        self.about.outlives_us
    }
}

enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Accepts until the process drains. An error never ends it.
pub(crate) async fn accept(worker: Rc<Worker>, listening: Listening) {
    let Listening { socket, about } = listening;
    let source = match socket {
        BoundSocket::Tcp(listener) => TcpListener::from_std(listener).map(Source::Tcp),
        BoundSocket::Unix(listener) => UnixListener::from_std(listener).map(Source::Unix),
    };
    let source = match source {
        Ok(source) => source,
        Err(error) => {
            tracing::error!(%error, "cannot register a listener with the runtime");
            return;
        }
    };
    let mut phase = worker.shared.phase.clone();
    // A socket that outlives us belongs to its next owner as soon as we begin to leave.
    let last = if about.outlives_us { Phase::Leaving } else { Phase::Draining };
    let mut leaving = pin!(async move {
        // An error means that no sender is left.
        let _ = phase.wait_for(|p| *p >= last).await;
    });
    let mut spare = Spare::new();
    let mut failures = 0;
    loop {
        // Takes all waiting connections. The runtime's budget ends a batch that is too long.
        let taken = poll_fn(|cx| {
            if leaving.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            loop {
                match ready!(source.poll_accept(cx)) {
                    Ok((plain, peer)) => {
                        failures = 0;
                        dispatch(&worker, plain, peer, &about);
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        });
        let Err(error) = taken.await else { break };
        worker.cells.accept_error();
        failures += 1;
        recover(&error, failures, &source, &mut spare).await;
    }
    if about.outlives_us {
        // Close it only: after a shutdown, it would no longer listen for anybody.
        return;
    }
    // Behind a connection that the kernel completed before we stopped is a client that believes it
    // is connected.
    while let Some(Ok((plain, peer))) = source.accept_waiting().await {
        dispatch(&worker, plain, peer, &about);
    }
}

/// Serves connections that other workers have accepted.
pub(crate) async fn take_handed(worker: Rc<Worker>, mut handed: mpsc::UnboundedReceiver<Accepted>) {
    while let Some(Accepted { socket, peer, about, counted }) = handed.recv().await {
        let plain = match socket {
            AcceptedSocket::Tcp(tcp) => TcpStream::from_std(tcp).map(Plain::Tcp),
            AcceptedSocket::Unix(unix) => UnixStream::from_std(unix).map(Plain::Unix),
        };
        match plain {
            Ok(plain) => super::serve::start(&worker, plain, peer, about, counted),
            Err(error) => tracing::warn!(%error, "cannot take over a connection"),
        }
    }
}

/// Hands it to the worker with the fewest connections. Usually that is us, or it will be soon.
fn dispatch(worker: &Rc<Worker>, plain: Plain, peer: Option<SocketAddr>, about: &Arc<About>) {
    if !worker.shared.memory.takes(Shortage::Connection) {
        return;
    }
    let target = worker.shared.load.choose(worker.index);
    let address = peer.map(|p| address::canonical(p.ip()));
    let counted = match Counted::take(&worker.shared.load, &worker.shared.caps, target, address) {
        Ok(counted) => counted,
        Err(full) => {
            worker.cells.connection_turned_away(match full {
                Full::Address => TurnedAway::CapPerAddress,
                Full::All => TurnedAway::Cap,
            });
            return;
        }
    };
    if let Plain::Tcp(tcp) = &plain
        && !cfg!(target_os = "linux")
    {
        // Fails only on a socket that is gone already, which reading will report.
        let _ = tcp.set_nodelay(true);
    }
    if target == worker.index {
        return super::serve::start(worker, plain, peer, Arc::clone(about), counted);
    }
    let socket = match plain {
        Plain::Tcp(tcp) => tcp.into_std().map(AcceptedSocket::Tcp),
        Plain::Unix(unix) => unix.into_std().map(AcceptedSocket::Unix),
    };
    let accepted = match socket {
        Ok(socket) => Accepted { socket, peer, about: Arc::clone(about), counted },
        Err(error) => return tracing::warn!(%error, "cannot hand a connection over"),
    };
    if let Some(other) = worker.shared.handoff.get(target) {
        // If that worker has gone, it was draining: the connection is closed.
        let _ = other.send(accepted);
    }
}

/// A descriptor kept in reserve, so that keygate can still turn a client away when there are no
/// more (hyperium/hyper#1358, payjoin/rust-payjoin#1608: accept loops that spin or end on EMFILE).
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }
}

async fn recover(error: &io::Error, failures: u32, source: &Source, spare: &mut Spare) {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) {
        tracing::error!(
            %error,
            "out of file descriptors\nhint: raise the limit (LimitNOFILE) or lower limits.connections"
        );
        spare.0 = None;
        // Takes one client off the queue and closes it, so that it goes elsewhere.
        drop(source.accept_waiting().await);
        *spare = Spare::new();
    } else if !is_of_one_connection(error) {
        tracing::warn!(%error, "accept failed");
    } else {
        return;
    }
    let pause = Duration::from_millis(10) * 2u32.saturating_pow(failures.min(7));
    tokio::time::sleep(pause.min(Duration::from_secs(1))).await;
}

/// Errors about the connection that was about to be accepted, not about us.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

impl Source {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Plain, Option<SocketAddr>)>> {
        Poll::Ready(Ok(match self {
            Self::Tcp(listener) => {
                let (tcp, peer) = ready!(listener.poll_accept(cx))?;
                (Plain::Tcp(tcp), Some(peer))
            }
            Self::Unix(listener) => {
                let (unix, _) = ready!(listener.poll_accept(cx))?;
                (Plain::Unix(unix), None)
            }
        }))
    }

    /// `None`: no connection waits.
    async fn accept_waiting(&self) -> Option<io::Result<(Plain, Option<SocketAddr>)>> {
        poll_fn(|cx| match self.poll_accept(cx) {
            Poll::Ready(taken) => Poll::Ready(Some(taken)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }
}
