//! Keeps the signing keys of issuers. Each issuer has a thread ([`keep`]), which fetches, checks,
//! puts in force and keeps a copy. No request waits for it. Imports `clock`, `config`, `snapshot`,
//! `token`, `reload::{jwks_copy, source, url}`.

mod board;
mod keep;
mod offline;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use self::board::{IssuerBoard, IssuerStatus};
use self::keep::IssuerKeeper;
pub use self::keep::IssuerParts;
pub use self::offline::{judge_offline, read_issuer_keys};
use crate::config::{TokenIssuer, TokenSettings};
use crate::snapshot::FetchWish;

/// How often the supervisor checks whether the configuration has other issuers.
const CONFIG_EVERY: Duration = Duration::from_secs(1);

// === impl IssuerParts ===

impl IssuerParts {
    /// Puts in force what the disk has: key files, and copies of fetched sets. Call this before
    /// there are requests.
    pub fn load_first(&self) {
        let settings = Arc::clone(&self.store.load().settings.tokens);
        for issuer in &settings.issuers {
            IssuerKeeper::new(self, issuer).load_first();
        }
    }

    /// Keeps a thread for every issuer of the configuration in force, until it is stopped.
    pub fn supervise(&self, stop: &Receiver<()>) {
        let mut running: Vec<(TokenIssuer, Arc<FetchWish>, JoinHandle<()>)> = Vec::new();
        let mut seen: Option<Arc<TokenSettings>> = None;
        let mut stale = Vec::new();
        loop {
            let settings = Arc::clone(&self.store.load().settings.tokens);
            if seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, &settings)) {
                let (kept, gone): (Vec<_>, Vec<_>) =
                    running.into_iter().partition(|(issuer, ..)| settings.issuers.contains(issuer));
                running = kept;
                let names = gone.iter().map(|(issuer, ..)| Arc::clone(&issuer.rules.issuer));
                let names: Vec<_> = names.filter(|name| settings.find(name).is_none()).collect();
                end(gone);
                names.iter().for_each(|name| self.forget(name));
                if seen.is_some() {
                    self.store.keep_issuers(&settings);
                    self.board.keep(&settings);
                }
                for issuer in &settings.issuers {
                    if !running.iter().any(|(known, ..)| known == issuer) {
                        running.extend(self.start(issuer));
                    }
                }
                seen = Some(settings);
            }
            // Requests check the clock themselves. Streams have to be notified, even while the
            // issuer's thread waits for an answer.
            let stale_now = self.stale();
            if stale_now != stale {
                self.store.recheck_issuers();
                stale = stale_now;
            }
            match stop.recv_timeout(CONFIG_EVERY) {
                Err(RecvTimeoutError::Timeout) => {}
                // SIGHUP: look again, as soon as the pause allows.
                Ok(()) => running.iter().for_each(|(_, wish, _)| wish.make()),
                Err(RecvTimeoutError::Disconnected) => return end(running),
            }
        }
    }

    /// The issuer's series stay, because a metric cannot be withdrawn. They become NaN: an alert on
    /// an age that no longer changes, or is above the limit, would fire for ever.
    fn forget(&self, issuer: &str) {
        let control = self.metrics.control();
        control.jwks_age(issuer).set(f64::NAN);
        control.jwks_keys(issuer).set(f64::NAN);
    }

    /// Issuers whose keys are too old.
    fn stale(&self) -> Vec<Arc<str>> {
        let (held, now) = (self.store.issuers(), self.clock.now());
        let settings = Arc::clone(&self.store.load().settings.tokens);
        let is_stale =
            |issuer: &&TokenIssuer| held.of(issuer).is_some_and(|held| held.is_stale(issuer, now));
        let stale = settings.issuers.iter().filter(is_stale);
        stale.map(|issuer| Arc::clone(&issuer.rules.issuer)).collect()
    }

    fn start(&self, issuer: &TokenIssuer) -> Option<(TokenIssuer, Arc<FetchWish>, JoinHandle<()>)> {
        let mut keeper = IssuerKeeper::new(self, issuer);
        let wish = Arc::clone(&keeper.wish);
        let thread = std::thread::Builder::new().name("fetch-jwks".into()).spawn(move || {
            super::lower_priority();
            keeper.load_first();
            keeper.run();
        });
        match thread {
            Ok(thread) => Some((issuer.clone(), wish, thread)),
            Err(error) => {
                tracing::error!(issuer = &*issuer.rules.issuer, %error, "no thread for its keys");
                None
            }
        }
    }
}

/// Threads that fetch end on their own, at most one network time-out later, and nobody waits for
/// that. Whatever they find then is dropped.
fn end(running: Vec<(TokenIssuer, Arc<FetchWish>, JoinHandle<()>)>) {
    for (_, wish, thread) in running {
        wish.end();
        drop(thread);
    }
}
