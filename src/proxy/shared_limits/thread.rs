//! The thread `shared-limits`: its start and its end. Imports `telemetry`.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::SharedLimits;
use super::settings::StoreSettings;

/// Why limits cannot be shared. A store that is away is not such a reason.
#[derive(Debug, thiserror::Error)]
pub enum SharedLimitsError {
    #[error("cannot start the thread of shared limits: {0}")]
    Thread(#[source] io::Error),
    /// Never happens: the configuration is refused earlier.
    #[error("this build cannot share limits")]
    NotBuilt,
}

/// The running thread. Stopping it returns what was taken in advance.
#[derive(Debug)]
pub struct SharedLimitsThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

// === impl SharedLimits ===

impl SharedLimits {
    /// Starts the thread, which connects on its own: a store that is away does not delay the start.
    ///
    /// # Errors
    /// The thread could not be started.
    #[cfg(feature = "shared-limits")]
    pub fn start(
        settings: StoreSettings,
        own: &Arc<crate::proxy::limits::LimitStore>,
        metrics: &crate::telemetry::Metrics,
    ) -> Result<(Arc<Self>, SharedLimitsThread), SharedLimitsError> {
        let (limits, seed) = super::run::prepare(settings, own, metrics);
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => {
                    let local = tokio::task::LocalSet::new();
                    local.block_on(&runtime, super::run::LeaseRun::new(seed).run(stopped));
                }
                Err(error) => tracing::error!(%error, "shared limits could not start"),
            }
        };
        let thread = std::thread::Builder::new().name("shared-limits".into()).spawn(run);
        let thread = thread.map_err(SharedLimitsError::Thread)?;
        Ok((limits, SharedLimitsThread { stop, thread }))
    }

    /// The same function as with the feature.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "shared-limits"))]
    pub fn start(
        _: StoreSettings,
        _: &Arc<crate::proxy::limits::LimitStore>,
        _: &crate::telemetry::Metrics,
    ) -> Result<(Arc<Self>, SharedLimitsThread), SharedLimitsError> {
        Err(SharedLimitsError::NotBuilt)
    }
}

// === impl SharedLimitsThread ===

impl SharedLimitsThread {
    /// To be called once no more requests are charged. Waits for the store for a second at most.
    pub fn stop(self) {
        drop(self.stop);
        // A panic of that thread was reported by the panic hook.
        let _ = self.thread.join();
    }
}
