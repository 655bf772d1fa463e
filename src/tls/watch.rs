//! Reads certificate files again every few seconds, off the workers, and logs the result
//! prominently.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tracing::{error, info, warn};

use super::concern::TlsConcern;
use super::dates::{Validity, rfc3339};
use super::error::TlsError;
use crate::clock::Clock;
use crate::core::Now;

/// How long until the same fault, or a certificate about to expire, is logged again.
const REPEAT_SECS: u64 = 3600;
/// Warn when less than this is left, or a fifth of the lifetime where that is less.
const SOON_SECS: i64 = 7 * 24 * 3600;

/// Something made from files that can be read again: [`super::ServerTls`] and [`super::ClientTls`].
pub trait Reloadable: std::fmt::Debug + Send + Sync {
    /// Reads the files. False if they are those in force. On an error, the previous ones stay in
    /// force.
    fn reload(&self) -> Result<bool, TlsError>;

    /// The certificates in force.
    fn certificates(&self) -> Vec<Certificate>;

    /// Properties of the files in force that are allowed, but seldom intended.
    fn concerns(&self) -> Vec<TlsConcern>;
}

/// One configured certificate, for metrics and warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Path of the chain file as configured.
    pub name: String,
    pub(super) validity: Validity,
}

/// The result of one look at the files of one target.
#[derive(Debug)]
pub struct Event {
    pub outcome: TlsReloadOutcome,
    /// What is in force after it.
    pub certificates: Vec<Certificate>,
}

#[derive(Debug)]
pub enum TlsReloadOutcome {
    /// What was in force stays in force. Already logged.
    Failed(TlsError),
    Reloaded,
    Unchanged,
}

/// Watches all TLS files of the process.
#[derive(Debug)]
pub struct Watcher {
    targets: Vec<WatchedTls>,
    clock: Clock,
}

#[derive(Debug)]
struct WatchedTls {
    tls: Arc<dyn Reloadable>,
    /// The last fault that was logged, and when.
    fault: Option<(String, u64)>,
    /// When it was last logged that a certificate is about to expire.
    expiry_told: Option<u64>,
    /// The concerns that were logged.
    concerns: Vec<TlsConcern>,
}

// === impl Watcher ===

impl Watcher {
    pub fn new(targets: impl IntoIterator<Item = Arc<dyn Reloadable>>, clock: Clock) -> Self {
        let target = |tls| WatchedTls { tls, fault: None, expiry_told: None, concerns: Vec::new() };
        Self { targets: targets.into_iter().map(target).collect(), clock }
    }

    /// Looks every `period` until the other end of `stop` is dropped. Anything sent there (a
    /// SIGHUP) causes an immediate look. Blocks, so give it a thread of its own.
    ///
    /// This is a poll instead of inotify: it compares the content, so it cannot miss any way of
    /// replacing a file, and a few small reads every few seconds cost almost nothing.
    pub fn run(mut self, period: Duration, stop: &Receiver<()>, mut on_event: impl FnMut(Event)) {
        loop {
            self.look(&mut on_event);
            if let Err(RecvTimeoutError::Disconnected) = stop.recv_timeout(period) {
                return;
            }
        }
    }

    /// One look at every target.
    pub fn look(&mut self, mut on_event: impl FnMut(Event)) {
        for target in &mut self.targets {
            on_event(target.look(self.clock.now()));
        }
    }
}

// === impl WatchedTls ===

impl WatchedTls {
    fn look(&mut self, now: Now) -> Event {
        let result = self.tls.reload();
        let certificates = self.tls.certificates();
        let outcome = match result {
            Ok(true) => {
                let names: Vec<_> = certificates.iter().map(|c| c.name.as_str()).collect();
                let until = certificates.iter().map(Certificate::expires).min();
                info!(
                    certificates = names.join(", "),
                    expires = until.map(rfc3339).as_deref(),
                    "certificates reloaded"
                );
                self.fault = None;
                self.expiry_told = None;
                TlsReloadOutcome::Reloaded
            }
            Ok(false) => {
                if self.fault.take().is_some() {
                    info!("certificate files match those in force again");
                }
                TlsReloadOutcome::Unchanged
            }
            Err(fault) => {
                self.tell(&fault, now);
                TlsReloadOutcome::Failed(fault)
            }
        };
        self.tell_expiry(&certificates, now);
        self.tell_concerns();
        Event { outcome, certificates }
    }

    /// Logs a fault when it is new, and every hour for as long as it lasts.
    fn tell(&mut self, fault: &TlsError, now: Now) {
        let text = fault.to_string();
        let told = |(known, at): &(String, u64)| *known == text && !is_due(*at, now);
        if !self.fault.as_ref().is_some_and(told) {
            error!("certificates not reloaded, the old ones stay in force: {text}");
            self.fault = Some((text, now.unix_secs()));
        }
    }

    /// Logs each once, for as long as it lasts.
    fn tell_concerns(&mut self) {
        let concerns = self.tls.concerns();
        for TlsConcern { path, message, hint } in &concerns {
            if !self.concerns.iter().any(|told| told.path == *path && told.message == *message) {
                warn!("{}: {message}\nhint: {hint}", path.display());
            }
        }
        self.concerns = concerns;
    }

    fn tell_expiry(&mut self, certificates: &[Certificate], now: Now) {
        let ill = |c: &&Certificate| c.runs_out_soon(now) || !c.is_valid(now);
        let mut soon = certificates.iter().filter(ill).peekable();
        if soon.peek().is_none() || self.expiry_told.is_some_and(|at| !is_due(at, now)) {
            return;
        }
        self.expiry_told = Some(now.unix_secs());
        for certificate in soon {
            let expires = rfc3339(certificate.expires());
            if certificate.validity.remaining(now) < 0 {
                error!(
                    certificate = certificate.name,
                    expires,
                    "certificate has expired; serving it because there is no other\n\
                     hint: renew it; keygate loads it without a restart"
                );
            } else if !certificate.is_valid(now) {
                let from = rfc3339(certificate.not_before());
                error!(
                    certificate = certificate.name,
                    from,
                    "certificate is not valid yet; serving it because there is no other\n\
                     hint: check this machine's clock, or replace the certificate by a valid one"
                );
            } else {
                warn!(certificate = certificate.name, expires, "certificate expires soon");
            }
        }
    }
}

fn is_due(told_at: u64, now: Now) -> bool {
    now.unix_secs().saturating_sub(told_at) >= REPEAT_SECS
}

// === impl Certificate ===

impl Certificate {
    /// Unix time of its end, for a gauge.
    pub fn expires(&self) -> i64 {
        self.validity.not_after
    }

    /// Unix time of its beginning.
    pub fn not_before(&self) -> i64 {
        self.validity.not_before
    }

    /// Whether its dates are valid.
    pub fn is_valid(&self, now: Now) -> bool {
        self.validity.includes(now)
    }

    /// What is wrong with its dates, in words. `None`: they are valid.
    pub fn fault(&self, now: Now) -> Option<String> {
        self.validity.check(Path::new(&self.name), now).err().map(|error| error.to_string())
    }

    fn runs_out_soon(&self, now: Now) -> bool {
        self.validity.remaining(now) < SOON_SECS.min(self.validity.lifetime() / 5)
    }
}
