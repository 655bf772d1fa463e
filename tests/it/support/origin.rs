//! Tables and patches over HTTP, from this process, by a server that can go away and return.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use keygate::artefacts::ArtefactService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Serves until it is dropped.
pub(crate) struct ArtefactOrigin {
    pub(crate) address: SocketAddr,
    is_up: watch::Sender<bool>,
}

// === impl ArtefactOrigin ===

impl ArtefactOrigin {
    pub(crate) fn start(service: ArtefactService) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (is_up, told) = watch::channel(true);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let first = Some(listener);
            runtime.block_on(serve(first, address, service, told));
        });
        Self { address, is_up }
    }

    /// Waiting clients lose their connection, and nobody can connect.
    pub(crate) fn goes(&self) {
        self.is_up.send_replace(false);
        self.until(|connected| !connected);
    }

    pub(crate) fn is_back(&self) {
        self.is_up.send_replace(true);
        self.until(|connected| connected);
    }

    /// Waits until connecting succeeds or fails. A listener that closes may leave a half-made
    /// connection, which the system would try to complete for two minutes.
    fn until(&self, wanted: fn(bool) -> bool) {
        let patience = Duration::from_millis(500);
        for _ in 0..2000 {
            if wanted(std::net::TcpStream::connect_timeout(&self.address, patience).is_ok()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

async fn serve(
    mut first: Option<std::net::TcpListener>,
    address: SocketAddr,
    service: ArtefactService,
    mut is_up: watch::Receiver<bool>,
) {
    loop {
        if is_up.wait_for(|is_up| *is_up).await.is_err() {
            return;
        }
        let listener = match first.take() {
            Some(listener) => TcpListener::from_std(listener),
            None => TcpListener::bind(address).await,
        };
        let Ok(listener) = listener else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // When dropped, they end everything that they hold.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                gone = is_up.wait_for(|is_up| !*is_up) => match gone {
                    Ok(_) => break,
                    Err(_) => return,
                },
                Ok((stream, peer)) = listener.accept() => {
                    let connection = service.connection(Some(peer.ip()));
                    let serving = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), connection);
                    connections.spawn(serving);
                }
            }
        }
    }
}
