//! Threads other than the workers that watch something: certificates, the upstream's health, ways
//! to bypass the gate.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::Gauge;

use super::quotas::QuotaFile;

use crate::clock::Clock;
use crate::exposure::{Exposure, ExposureCell, ExposureCheck, ExposureState};
use crate::proxy::{Shared, SharedUpstream, health};
use crate::reload::{IssuerParts, lower_priority};
use crate::telemetry::Metrics;
use crate::telemetry::control::Attempt;
use crate::telemetry::readiness::ReadinessPart;
use crate::tls::{Reloadable, TlsReloadOutcome, Watcher};

/// Ends its threads when it is stopped or dropped: each watches the other end of its channel.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    threads: Vec<(Sender<()>, JoinHandle<()>)>,
}

/// Certificate files are small. Reading them every few seconds costs almost nothing.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(5);

const EXPOSURE_EVERY: Duration = Duration::from_secs(60);

// === impl Watchers ===

impl Watchers {
    /// Reads certificates, keys and authorities again when their files change.
    pub(super) fn certificates(
        &mut self,
        targets: Vec<Arc<dyn Reloadable>>,
        clock: &Clock,
        metrics: &Metrics,
    ) -> io::Result<()> {
        if targets.is_empty() {
            return Ok(());
        }
        let watcher = Watcher::new(targets, clock.clone());
        let (metrics, now) = (metrics.clone(), clock.clone());
        self.start("certificates", move |stop| {
            watcher.run(CERTIFICATES_EVERY, stop, |event| {
                let control = metrics.control();
                match event.outcome {
                    TlsReloadOutcome::Failed(_) => {
                        control.certificate_reloads(Attempt::Failed).increment(1);
                    }
                    TlsReloadOutcome::Reloaded => {
                        control.certificate_reloads(Attempt::Succeeded).increment(1)
                    }
                    TlsReloadOutcome::Unchanged => {}
                }
                for certificate in &event.certificates {
                    control.certificate_expiry(&certificate.name).set(certificate.expires() as f64);
                    let valid = u8::from(certificate.is_valid(now.now()));
                    control.certificate_valid(&certificate.name).set(valid);
                }
            });
        })
    }

    /// Readiness follows the health of `[upstream]`, if a check is configured. The health of
    /// `[upstreams.NAME]` is only shown: without one of them, the other routes still work.
    pub(super) fn health(
        &mut self,
        shared: &Arc<Shared>,
        part: Option<ReadinessPart>,
        metrics: &Metrics,
    ) -> io::Result<()> {
        if let Some(part) = part {
            self.health_of(shared, 0, move |result| match result {
                Ok(()) => part.ready(),
                Err(why) => part.blocked(why),
            })?;
        }
        for (named, index) in shared.upstreams.iter().zip(1..) {
            let Some(name) = &named.name else { continue };
            let gauge = metrics.control().named_upstream_healthy(name);
            gauge.set(1.0);
            self.health_of(shared, index, move |result| {
                gauge.set(f64::from(u8::from(result.is_ok())))
            })?;
        }
        Ok(())
    }

    /// Checks one upstream, by its index, if it has a path for that.
    fn health_of(
        &mut self,
        shared: &Arc<Shared>,
        index: usize,
        show: impl Fn(Result<(), &str>) + Send + 'static,
    ) -> io::Result<()> {
        let has_path = |upstream: &SharedUpstream| upstream.config.health_path.is_some();
        if !shared.all_upstreams().nth(index).is_some_and(has_path) {
            return Ok(());
        }
        let shared = Arc::clone(shared);
        self.start("health", move |stop| {
            let Some(upstream) = shared.all_upstreams().nth(index) else { return };
            let Some(path) = &upstream.config.health_path else { return };
            let name = upstream.name.as_deref();
            let mut healthy = true;
            let report = |result: Result<(), String>| {
                match &result {
                    Ok(()) if !healthy => {
                        tracing::info!(upstream = name, "the upstream is healthy again");
                    }
                    Err(why) if healthy => {
                        tracing::warn!(upstream = name, why, "the upstream fails its health check");
                    }
                    Ok(()) | Err(_) => {}
                }
                healthy = result.is_ok();
                show(match &result {
                    Ok(()) => Ok(()),
                    Err(why) => Err(why),
                });
            };
            if let Err(error) = health::watch(&shared, upstream, path, stop, report) {
                tracing::error!(%error, "the health check could not start");
            }
        })
    }

    /// Checks whether clients can bypass the gate to reach a service: now and every minute.
    /// `upstream`: one of `[upstreams.NAME]`.
    pub(super) fn exposure(
        &mut self,
        upstream: Option<Box<str>>,
        check: ExposureCheck,
        cell: ExposureCell,
        gauge: Gauge,
    ) -> io::Result<()> {
        if !check.is_needed() {
            // The gauge says -1 from the start.
            cell.store(check.look());
            return Ok(());
        }
        self.start("exposure", move |stop| {
            loop {
                let found = check.look();
                let before = cell.load();
                if !found.says_the_same(&before) {
                    tell_exposure(upstream.as_deref(), &before, &found);
                }
                gauge.set(f64::from(found.gauge()));
                cell.store(found);
                if let Err(RecvTimeoutError::Disconnected) = stop.recv_timeout(EXPOSURE_EVERY) {
                    return;
                }
            }
        })
    }

    /// Keeps the signing keys of the issuers of user tokens.
    pub(super) fn issuers(&mut self, parts: IssuerParts) -> io::Result<()> {
        self.start("issuers", move |stop| parts.supervise(stop))
    }

    /// Keeps the used part of quotas in a file.
    pub(super) fn quotas(&mut self, mut file: QuotaFile) -> io::Result<()> {
        self.start("quota-file", move |stop| file.run(stop))
    }

    fn start(
        &mut self,
        name: &str,
        run: impl FnOnce(&Receiver<()>) + Send + 'static,
    ) -> io::Result<()> {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            lower_priority();
            run(&stopped);
        })?;
        self.threads.push((stop, thread));
        Ok(())
    }

    /// Makes every watcher check immediately (SIGHUP).
    pub(super) fn look_now(&self) {
        for (wake, _) in &self.threads {
            // A watcher that has ended has logged why.
            let _ = wake.send(());
        }
    }

    pub(super) fn stop(self) {
        for (stop, thread) in self.threads {
            drop(stop);
            // The panic hook has reported a panic of that thread.
            let _ = thread.join();
        }
    }
}

/// Logs once per change.
fn tell_exposure(upstream: Option<&str>, before: &Exposure, now: &Exposure) {
    match (before.state, now.state, now.message()) {
        (_, _, Some(message)) => tracing::warn!(upstream, "{message}\nhint: {}", now.hint()),
        (ExposureState::Exposed, ExposureState::Closed, None) => {
            tracing::info!(upstream, "the service can no longer be reached around keygate");
        }
        (ExposureState::Exposed, _, None) => {
            let why = now.why.as_deref().unwrap_or_default();
            tracing::warn!(
                upstream,
                why,
                "whether the service is still reached around keygate is not known"
            );
        }
        _ => {}
    }
}
