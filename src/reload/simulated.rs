//! Many sidecars in one process, for benches and tests of a whole fleet: fetching, verifying,
//! accepting and waiting are the sidecar's own code. What a process has only once is left out:
//! listeners, watches, the state file, separate logs.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::fetch::{FetchCommand, FetchOutcome, Fetched, Fetcher, Verified};
use super::keeper::{KeysInForce, OfferOutcome};
use super::terms::UseCounting;
use super::{FirstLoadError, LoadedSources, Purpose, SourceAtStart, try_first};
use crate::clock::{Clock, monotonic_us};
use crate::config::TableConfig;
use crate::telemetry::control::ReloadKind;
use crate::telemetry::{Metrics, Readiness};

/// For a thread of a simulated sidecar. Each has two.
const STACK: usize = 256 << 10;

/// What a simulated sidecar has in force. All clones are the same.
#[derive(Clone, Debug, Default)]
pub struct SimulatedKeys(Arc<SimulatedBoard>);

#[derive(Debug, Default)]
struct SimulatedBoard {
    serial: AtomicU64,
    /// Since when, in microseconds of CLOCK_MONOTONIC, which all processes share.
    since_us: AtomicU64,
    is_over: AtomicBool,
}

/// A sidecar that serves nobody. It ends with the value, once the requests under way have ended.
#[derive(Debug)]
pub struct SimulatedSidecar {
    keys: SimulatedKeys,
}

// === impl SimulatedKeys ===

impl SimulatedKeys {
    /// The highest serial of table and patch in force. 0: there is none.
    pub fn serial(&self) -> u64 {
        self.0.serial.load(Ordering::Acquire)
    }

    /// When that came into force, in microseconds of CLOCK_MONOTONIC.
    pub fn since_us(&self) -> u64 {
        self.0.since_us.load(Ordering::Acquire)
    }

    fn note(&self, keeper: &KeysInForce) {
        let Some(keys) = keeper.keys() else { return };
        let serial = keys.serial().max(keys.patch_serial().unwrap_or(0));
        if self.serial() < serial {
            self.0.since_us.store(monotonic_us(), Ordering::Release);
            self.0.serial.store(serial, Ordering::Release);
        }
    }
}

// === impl SimulatedSidecar ===

impl SimulatedSidecar {
    /// Begins like a start with `wait_for_table`, on threads of its own. `config` names URLs of a
    /// table and a patch.
    ///
    /// # Errors
    /// No thread can be started for it, or its signers cannot be trusted.
    pub fn start(
        config: Arc<TableConfig>,
        instance: &str,
        clock: Clock,
        metrics: Metrics,
    ) -> io::Result<Self> {
        let keys = SimulatedKeys::default();
        let (noted, instance) = (keys.clone(), instance.to_owned());
        let table = std::thread::Builder::new().name("fetch-table".to_owned()).stack_size(STACK);
        table.spawn(move || {
            // A waiting caller sees that nothing takes effect.
            if let Err(error) = live(&config, &instance, clock, metrics, noted) {
                tracing::error!(%error, %instance, "a simulated sidecar has no keys");
            }
        })?;
        Ok(Self { keys })
    }

    pub fn keys(&self) -> &SimulatedKeys {
        &self.keys
    }
}

impl Drop for SimulatedSidecar {
    fn drop(&mut self) {
        self.keys.0.is_over.store(true, Ordering::Release);
    }
}

/// This thread follows the table, and another one the patch.
fn live(
    config: &TableConfig,
    instance: &str,
    clock: Clock,
    metrics: Metrics,
    noted: SimulatedKeys,
) -> Result<(), FirstLoadError> {
    let (uses, readiness) = (UseCounting::Off, Readiness::new());
    let purpose = Purpose::Start { instance };
    let (loaded, _) = try_first(config, uses, purpose, clock, metrics, &readiness)?;
    let LoadedSources { mut keeper, table, patch, .. } = loaded;
    keeper.started();
    noted.note(&keeper);
    let (patches, patch_commands) = channel();
    let (tables, table_commands) = channel();
    let desk = SimulatedDesk { keeper: Arc::new(Mutex::new(keeper)), patches, noted };
    if let Some(SourceAtStart::Url(fetcher)) = patch {
        let desk = desk.clone();
        let patch = std::thread::Builder::new().name("fetch-patch".to_owned()).stack_size(STACK);
        // Without a thread nothing new arrives, which a waiting caller notices.
        let _ = patch.spawn(move || follow(*fetcher, &patch_commands, &desk));
    }
    if let SourceAtStart::Url(fetcher) = table {
        follow(*fetcher, &table_commands, &desk);
    }
    drop(tables);
    Ok(())
}

fn follow(fetcher: Fetcher, commands: &Receiver<FetchCommand>, desk: &SimulatedDesk) {
    fetcher.run(commands, |fetched| desk.hear(fetched));
}

/// Judges what arrives, as the reload thread does.
#[derive(Clone)]
struct SimulatedDesk {
    keeper: Arc<Mutex<KeysInForce>>,
    patches: Sender<FetchCommand>,
    noted: SimulatedKeys,
}

// === impl SimulatedDesk ===

impl SimulatedDesk {
    /// False: it has ended.
    fn hear(&self, fetched: Fetched) -> bool {
        let Fetched { artefact, result, verdict, .. } = fetched;
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match result {
            Ok(None) => Ok(keeper.unchanged(artefact)),
            Ok(Some(Verified::Table(table))) => {
                let outcome = keeper.offer_table(Ok(table));
                if outcome.as_ref().is_ok_and(|o| *o == OfferOutcome::Changed) {
                    // A patch that did not fit the last table may fit this one.
                    let _ = self.patches.send(FetchCommand::Again);
                }
                outcome
            }
            Ok(Some(Verified::Patch(patch))) => keeper.offer_patch(Ok(patch)),
            Err(failure) if artefact == ReloadKind::Patch && failure.is_missing() => {
                Ok(keeper.no_patch())
            }
            Err(failure) => match artefact {
                ReloadKind::Patch => keeper.offer_patch(Err(failure)),
                ReloadKind::Table => keeper.offer_table(Err(failure)),
            },
        };
        let outcome = match outcome {
            Ok(OfferOutcome::Changed) => {
                keeper.in_force(None);
                FetchOutcome::Taken
            }
            Ok(OfferOutcome::Unchanged) => FetchOutcome::Unchanged,
            Ok(OfferOutcome::Failed) | Err(_) => FetchOutcome::Refused,
        };
        self.noted.note(&keeper);
        drop(keeper);
        let _ = verdict.send(outcome);
        !self.noted.0.is_over.load(Ordering::Acquire)
    }
}
