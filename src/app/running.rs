//! A sidecar that runs: reload, drain, stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use super::address_lock::AddressLock;
use super::watchers::Watchers;
use crate::admin::{Admin, AdminDoor};
use crate::clock::Clock;
use crate::meter::Meter;
use crate::proxy::{LimitStore, Phase, SharedLimits, SharedLimitsThread};
use crate::reload::{Reloader, StatusCell};
use crate::telemetry::log::OperatorLog;
use crate::telemetry::{AccessLogs, Readiness};

/// A running sidecar.
#[derive(Debug)]
pub struct Running {
    /// Where each listener is bound, in the order of the configuration. `None`: a Unix socket.
    pub addresses: Vec<Option<SocketAddr>>,
    pub admin: SocketAddr,
    /// The second admin listener, where one is configured.
    pub public_admin: Option<SocketAddr>,
    pub(super) phase: Arc<watch::Sender<Phase>>,
    pub(super) workers: Vec<JoinHandle<()>>,
    pub(super) access: Option<AccessLogs>,
    pub(super) admin_handle: Admin,
    pub(super) readiness: Readiness,
    pub(super) delay: Duration,
    pub(super) deadline: Duration,
    pub(super) clock: Clock,
    pub(super) limits: Arc<LimitStore>,
    /// `None`: limits apply per sidecar.
    pub(super) shared_limits: Option<Arc<SharedLimits>>,
    pub(super) shared_limits_thread: Option<SharedLimitsThread>,
    pub(super) watchers: Watchers,
    pub(super) reloader: Reloader,
    /// `None`: uses of keys are not counted.
    pub(super) meter: Option<Meter>,
    pub(super) status: StatusCell,
    /// Whether all sockets for clients, and that of the admin listener, outlive the process.
    pub(super) outlived: Outlived,
    pub(super) _address_locks: Vec<AddressLock>,
    /// Dropped last, when nothing logs any more.
    pub(super) log: Option<Arc<OperatorLog>>,
}

/// Which sockets outlive the process: a successor takes new connections immediately, so continuing
/// to accept gains nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Outlived {
    /// All sockets for clients.
    pub(super) clients: bool,
    pub(super) doors: Vec<AdminDoor>,
}

/// Phases only move forward.
pub(super) fn advance(phase: &watch::Sender<Phase>, to: Phase) {
    phase.send_if_modified(|now| {
        let forward = *now < to;
        *now = to.max(*now);
        forward
    });
}

// === impl Running ===

impl Running {
    pub(super) fn announce(&self) {
        let addresses: Vec<_> = self
            .addresses
            .iter()
            .map(|a| a.map_or_else(|| "unix".to_owned(), |a| a.to_string()))
            .collect();
        tracing::info!(
            addresses = addresses.join(","),
            admin = %self.admin,
            public_admin = self.public_admin.map(tracing::field::display),
            version = env!("KEYGATE_VERSION"),
            "listening"
        );
    }

    /// Where clients connect, for tests with port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.addresses.iter().flatten().next().copied()
    }

    /// Begins to leave, as SIGTERM does: un-ready immediately, and no new connections after the
    /// delay.
    pub fn leave(&self) {
        advance(&self.phase, Phase::Leaving);
    }

    pub(super) fn is_leaving(&self) -> bool {
        *self.phase.borrow() >= Phase::Leaving
    }

    /// Waits until somebody asks to leave.
    pub async fn left(&self) {
        let mut phase = self.phase.subscribe();
        // The sender is ours, so it cannot be gone.
        let _ = phase.wait_for(|p| *p >= Phase::Leaving).await;
    }

    /// From un-ready to the end: delay, drain, cut. `hurry` ends it immediately.
    pub async fn drain(&self, hurry: impl Future<Output = ()>) {
        self.leave();
        self.readiness.drain();
        // From now on the successor writes down what is in force here.
        self.reloader.leave();
        for door in &self.outlived.doors {
            self.admin_handle.leave(*door);
        }
        // Load balancers still see a served address: there is nothing for them to notice.
        let delay = if self.outlived.clients { Duration::ZERO } else { self.delay };
        tracing::info!(
            delay_ms = delay.as_millis() as u64,
            deadline_ms = self.deadline.as_millis() as u64,
            "draining"
        );
        let ordered = async {
            tokio::time::sleep(delay).await;
            advance(&self.phase, Phase::Draining);
            let end = tokio::time::Instant::now() + self.deadline;
            while !self.workers.iter().all(JoinHandle::is_finished) {
                if tokio::time::Instant::now() >= end {
                    tracing::warn!("drain deadline passed; cutting what still runs");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = ordered => {}
            () = hurry => tracing::warn!("second termination signal; cutting what still runs"),
        }
        advance(&self.phase, Phase::Cutting);
    }

    /// Ends everything that is left after the workers have ended.
    pub fn stop(self) {
        advance(&self.phase, Phase::Cutting);
        for worker in self.workers {
            // The panic hook has reported a panic of a worker.
            let _ = worker.join();
        }
        // The state file first: nothing else that may take time helps the next start.
        self.reloader.stop();
        // No request is charged any more: tokens taken in advance are for other sidecars.
        if let Some(thread) = self.shared_limits_thread {
            thread.stop();
        }
        // Before anything that may hang at a disk or a server: nobody writes lines any more.
        if let Some(access) = self.access {
            access.stop();
        }
        if let Some(meter) = self.meter {
            meter.stop();
        }
        self.watchers.stop();
        self.admin_handle.stop();
        tracing::info!("stopped");
        drop(self.log);
    }

    /// Housekeeping off the workers. Called about once a minute.
    pub(super) fn upkeep(&self) {
        self.limits.sweep(self.clock.now());
        if let Some(limits) = &self.shared_limits {
            limits.sweep(self.clock.now());
        }
    }

    /// SIGHUP: reads everything again that is in a file, and opens logs again that were rotated.
    /// Returns when configuration, table and patch were checked.
    pub(super) async fn reload(&self) {
        let looked = self.reloader.trigger();
        self.watchers.look_now();
        self.reopen_logs();
        // If the thread has gone, the process is about to end.
        let _ = looked.await;
    }

    /// Whether clients can be sent here now: a table is in force. The health of the upstream is a
    /// separate matter, which a predecessor shares.
    pub(super) fn serves(&self) -> bool {
        self.status.load().table.is_some()
    }

    /// A status line for the service manager.
    pub(super) fn summary(&self) -> String {
        let status = self.status.load();
        let mut line = match (&status.table, &status.patch) {
            (None, _) => "waiting for a table".to_owned(),
            (Some(table), None) => format!("serving by table {}", table.serial),
            (Some(table), Some(patch)) => {
                format!("serving by table {} and patch {}", table.serial, patch.serial)
            }
        };
        if let Some(error) = &status.config.error {
            let first = error.lines().next().unwrap_or_default();
            line.push_str(&format!("; the configuration stays as it was: {first}"));
        }
        line
    }

    /// SIGUSR1: opens logs again that were rotated. Standard error stays as it is.
    pub(super) fn reopen_logs(&self) {
        if let Some(access) = &self.access {
            access.reopen();
        }
    }
}
