//! Other ways to an [`Upstream`]: each connection is forwarded to one of its own, byte for byte.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::gate::Folder;
use super::upstream::Upstream;

pub(crate) struct Relay {
    /// `upstream.url` of a gate.
    pub(crate) url: String,
    /// The `[upstream.tls]` table, if it needs one.
    pub(crate) options: String,
    _folder: Folder,
    /// Its thread ends when this is dropped.
    _stop: oneshot::Sender<()>,
}

// === impl Relay ===

impl Relay {
    /// Listens on a Unix-domain socket.
    pub(crate) fn unix(to: &Upstream) -> Self {
        let folder = Folder::empty();
        let path = folder.file("app.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        listener.set_nonblocking(true).unwrap();
        let to = to.address;
        let stop = start(move || async move {
            let listener = UnixListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, to));
            }
        });
        let url = format!("unix:{}", path.display());
        Self { url, options: String::new(), _folder: folder, _stop: stop }
    }

    /// Removes the TLS.
    pub(crate) fn tls(to: &Upstream) -> Self {
        let folder = Folder::empty();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        folder.write("cert.pem", &made.cert.pem());
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let to = to.address;
        let stop = start(move || async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let accept = acceptor.accept(stream);
                tokio::spawn(async move {
                    if let Ok(stream) = accept.await {
                        carry(stream, to).await;
                    }
                });
            }
        });
        let options = format!(
            "[upstream.tls]\nca = \"{}\"\nserver_name = \"localhost\"\n",
            folder.file("cert.pem").display()
        );
        Self { url: format!("https://{address}"), options, _folder: folder, _stop: stop }
    }
}

/// Runs until the returned value is dropped.
fn start<F: Future<Output = ()>>(run: impl FnOnce() -> F + Send + 'static) -> oneshot::Sender<()> {
    let (stop, stopped) = oneshot::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            tokio::select! {
                () = run() => {}
                _ = stopped => {}
            }
        });
    });
    stop
}

async fn carry(mut stream: impl AsyncRead + AsyncWrite + Unpin, to: SocketAddr) {
    if let Ok(mut onward) = TcpStream::connect(to).await {
        let _ = onward.set_nodelay(true);
        let _ = copy_bidirectional(&mut stream, &mut onward).await;
    }
}
