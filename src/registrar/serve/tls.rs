//! TLS of the service's own listener, read again when its files change, and the certificate that a
//! client has shown. No session is resumed: each connection shows its certificate again.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::server::{ProducesTickets, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::super::metrics::ServiceMetrics;
use super::super::request::Peer;
use crate::clock::Clock;
use crate::config::TlsServer;
use crate::core::certificate::subject_of;
use crate::tls::{Reloadable, ServerTls, TlsError, TlsReloadOutcome, Watcher};

/// Certificate files are small; a look at them every few seconds costs nothing.
const LOOK: Duration = Duration::from_secs(5);

/// Certificate, key and authorities in force. Clones share them.
#[derive(Clone, Debug)]
pub struct ServiceTls(Arc<ServerTls>);

/// Reads the files again for as long as it lives.
#[derive(Debug)]
pub struct CertificateWatch {
    /// The thread ends when this is dropped.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A connection after its handshake.
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) peer: Peer,
}

/// Neither makes nor accepts tickets.
#[derive(Debug)]
struct NoTickets;

// === impl ServiceTls ===

impl ServiceTls {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong, with the file's name and a remedy, but never the file's content.
    pub fn load(files: &TlsServer, clock: Clock) -> Result<Self, TlsError> {
        ServerTls::load(files, clock).map(|tls| Self(Arc::new(tls)))
    }

    /// Reads the files again when they change. If something is wrong with them then, the log
    /// reports it, and the former ones stay in force.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn watch(
        &self,
        clock: Clock,
        metrics: Arc<ServiceMetrics>,
    ) -> io::Result<CertificateWatch> {
        let target: Arc<dyn Reloadable> = Arc::clone(&self.0) as Arc<dyn Reloadable>;
        let watcher = Watcher::new([target], clock);
        let (stop, stopped) = channel();
        let thread =
            std::thread::Builder::new().name("certificates".to_owned()).spawn(move || {
                watcher.run(LOOK, &stopped, |event| {
                    match event.outcome {
                        TlsReloadOutcome::Failed(_) => metrics.certificates_read("failed"),
                        TlsReloadOutcome::Reloaded => metrics.certificates_read("succeeded"),
                        TlsReloadOutcome::Unchanged => {}
                    }
                    for certificate in &event.certificates {
                        metrics.certificate(&certificate.name, certificate.expires());
                    }
                });
            })?;
        Ok(CertificateWatch { stop: Some(stop), thread: Some(thread) })
    }

    /// `None`: the handshake failed.
    pub(super) async fn accept(&self, stream: TcpStream, peer: Peer) -> Option<Secured> {
        let mut config = ServerConfig::clone(&self.0.current());
        config.ticketer = Arc::new(NoTickets);
        config.send_tls13_tickets = 0;
        let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.ok()?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let subject = shown.and_then(|certificate| {
            let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
            subject_of(&parsed)
        });
        Some(Secured { peer: Peer { subject: subject.map(Into::into), ..peer }, stream })
    }
}

// === impl NoTickets ===

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

// === impl CertificateWatch ===

impl Drop for CertificateWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The panic hook has reported a panic of that thread; there is nothing left to do.
            let _ = thread.join();
        }
    }
}
