//! The certificate that the listener shows: from files that somebody else renews, or made in
//! memory.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;

use super::metrics::{CertificateOf, WebhookMetrics};
use crate::clock::Clock;
use crate::config::TlsServer;
use crate::tls::{MemoryServerTls, Reloadable as _, ServerTls, TlsReloadOutcome, Watcher};

/// Pause between two checks of the files.
pub const FILES_EVERY: Duration = Duration::from_secs(5);

/// Pause between two checks while they do not exist yet.
const MISSING_EVERY: Duration = Duration::from_secs(1);

/// Number of checks until a persistent fault is logged again.
const REPEAT: u32 = 600;

/// Where the listener finds its certificate. Clones share one state.
#[derive(Clone, Debug)]
pub enum WebhookCertificate {
    Files(Arc<CertificateOfFiles>),
    Memory(Arc<MemoryServerTls>),
}

/// Certificate and key from a mounted Secret.
#[derive(Debug)]
pub struct CertificateOfFiles {
    files: TlsServer,
    loaded: ArcSwapOption<ServerTls>,
}

// === impl WebhookCertificate ===

impl WebhookCertificate {
    /// For the next handshake; `None`: there is none yet.
    pub fn current(&self) -> Option<Arc<ServerConfig>> {
        match self {
            Self::Files(files) => files.loaded.load().as_ref().map(|tls| tls.current()),
            Self::Memory(memory) => memory.current(),
        }
    }
}

// === impl CertificateOfFiles ===

impl CertificateOfFiles {
    /// Does not read anything yet.
    pub fn new(files: TlsServer) -> Self {
        Self { files, loaded: ArcSwapOption::empty() }
    }

    /// Waits for the files, then reads them again whenever they change, until the other end of `stop`
    /// is dropped. Blocks: give it a thread of its own.
    pub fn run(&self, clock: &Clock, stop: &Receiver<()>, metrics: &WebhookMetrics) {
        let Some(tls) = self.wait(clock, stop, metrics) else { return };
        Watcher::new([tls as Arc<_>], clock.clone()).run(FILES_EVERY, stop, |event| {
            let failed = matches!(event.outcome, TlsReloadOutcome::Failed(_));
            metrics.looked(&if failed { Err(()) } else { Ok(()) });
            let ends = event.certificates.iter().map(|certificate| certificate.expires()).min();
            metrics.expires(CertificateOf::Serving, unix(ends));
        });
    }

    /// `None`: it has to stop.
    fn wait(
        &self,
        clock: &Clock,
        stop: &Receiver<()>,
        metrics: &WebhookMetrics,
    ) -> Option<Arc<ServerTls>> {
        let mut failures: u32 = 0;
        loop {
            let loaded = ServerTls::load(&self.files, clock.clone());
            metrics.looked(&loaded);
            match loaded {
                Ok(tls) => {
                    let ends = tls.certificates().iter().map(|c| c.expires()).min();
                    metrics.expires(CertificateOf::Serving, unix(ends));
                    let tls = Arc::new(tls);
                    self.loaded.store(Some(Arc::clone(&tls)));
                    tracing::info!("the certificate is loaded");
                    return Some(tls);
                }
                Err(error) if failures.is_multiple_of(REPEAT) => {
                    tracing::error!("no certificate yet, so no review is answered: {error}");
                }
                Err(_) => {}
            }
            failures = failures.wrapping_add(1);
            if let Err(RecvTimeoutError::Disconnected) = stop.recv_timeout(MISSING_EVERY) {
                return None;
            }
        }
    }
}

fn unix(seconds: Option<i64>) -> u64 {
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0)
}
