//! From files and URLs to what is in force: sources, watching, verification, acceptance, swap.
//! Imports `artefacts`, `clock`, `config`, `core`, `meter`, `mounts`, `remote`, `snapshot`, `table`,
//! `telemetry`, `token` and `wording`.
//!
//! ```text
//! load_first → Loaded → start → Reloader      (a thread of its own; a URL has one as well)
//! stirred or polled or told → look → read → open → accept → write down → swap
//! ```
//!
//! Invariant: a failed reload changes only counters, gauges and the log.
//! [`crate::table::Acceptance`] alone decides what may be in force. This room supplies bytes and
//! remembers.

mod census;
mod fetch;
mod files;
mod issuers;
mod jwks_copy;
mod keeper;
mod observing;
mod pace;
mod run;
mod simulated;
mod source;
mod state;
mod status;
mod steady;
mod terms;
mod url;
mod validators;
mod watch;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use self::fetch::{Copies, Fetcher, Verified, VerifiedArrival, cache_file};
use self::keeper::KeysInForce;
use self::run::{ReloadEvent, ReloadLoop, RunningSource, Wakes};
use self::source::PathSource;
use self::state::StateFile;
use self::terms::VerifyTerms;
use crate::clock::Clock;
use crate::config::{Settings, TableConfig, TableSource, WatchedFile};
use crate::core::Now;
use crate::meter::UseBook;
use crate::snapshot::Store;
use crate::table::{KeySet, Refusal, TrustError};
use crate::telemetry::control::ReloadKind;
use crate::telemetry::{Metrics, Readiness};

pub use self::issuers::{IssuerBoard, IssuerParts, IssuerStatus, judge_offline, read_issuer_keys};
pub use self::pace::{FetchEnd, NextFetch, Pace, WaitClaim, random_share};
pub use self::simulated::{SimulatedKeys, SimulatedSidecar};
pub use self::source::SourceError;
pub use self::state::StateError;
pub use self::status::{MountedFileStatus, StatusCell, StatusReport, Time};
pub use self::terms::{LoadFailure, UseCounting};
pub use self::url::{Fetch, FetchAnswer, FetchFault, TransferDeadline, UrlSource, Validators};

/// Why keygate cannot start with keys.
#[derive(Debug, thiserror::Error)]
pub enum FirstLoadError {
    #[error("the {what} cannot be put in force: {failure}{}", .failure.more_at_start())]
    Keys { what: &'static str, failure: LoadFailure },
    #[error("{0}")]
    State(#[from] StateError),
    #[error("the trusted signers cannot be used: {0}")]
    Trust(#[from] TrustError),
}

/// What a start would put in force, for commands that only report it.
#[derive(Clone, Debug)]
pub struct Preview {
    pub keys: Arc<KeySet>,
    /// The patch is genuine and its restrictions are in force, but it is refused as a patch.
    pub restricted: Option<Refusal>,
    /// The patch is genuine, but useless for the table: it was made for another one.
    pub unused: Option<Refusal>,
}

/// What a changed configuration file puts in force.
#[derive(Debug)]
pub struct Reconfigured {
    pub settings: Arc<Settings>,
    pub route_slots: Box<[u32]>,
    pub table: TableConfig,
    pub watched: Vec<WatchedFile>,
    /// Files that were read together with the configuration: keys of signers, secrets.
    pub read: Vec<PathBuf>,
    /// The same with variables in them. They may appear and disappear.
    pub variables: Vec<PathBuf>,
    /// Keys outside [`Settings`] and `[table]` that differ and stay unchanged until a restart.
    pub needs_restart: Vec<String>,
}

/// A configuration that cannot be put in force.
#[derive(Debug)]
pub struct Unusable {
    /// The whole message for the log.
    pub error: String,
    /// The files that were read, or should have been: changing one of them may help.
    pub files: Vec<PathBuf>,
}

/// What the reload thread calls back.
pub struct Hooks {
    /// Reads the configuration file again. Called on SIGHUP, when the file has changed, and from
    /// time to time while the configuration is unusable.
    pub reconfigure: Box<dyn FnMut() -> Result<Reconfigured, Unusable> + Send>,
    /// Other files that are watched in the same way, such as certificates.
    pub files: Vec<FileHook>,
    /// Where uses of keys are counted. `None`: they are not.
    pub uses: Option<Arc<UseBook>>,
    /// All watched files, to find out which of them are mounted alone.
    pub watched: Vec<WatchedFile>,
    /// Files that were read together with the configuration at start.
    pub read: Vec<PathBuf>,
    /// The same with variables in them. They may appear and disappear.
    pub variables: Vec<PathBuf>,
}

/// Files that are read again by someone else when they change.
pub struct FileHook {
    pub paths: Vec<PathBuf>,
    /// Called on the reload thread, once for any number of files that changed together, and on
    /// SIGHUP.
    pub changed: Box<dyn FnMut() + Send>,
}

/// Keys that were loaded at start, and everything that keeps them up to date.
pub struct LoadedSources {
    config: TableConfig,
    keeper: KeysInForce,
    terms: Arc<ArcSwap<VerifyTerms>>,
    table: SourceAtStart,
    patch: Option<SourceAtStart>,
    clock: Clock,
    metrics: Metrics,
    /// The patch is genuine, but useless for the table.
    unused: Option<Refusal>,
    copies: Copies,
}

/// Why keys are loaded for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose<'i> {
    /// To find out what a start would do: nothing is written, neither the state file nor a copy,
    /// and no server learns the name of a sidecar.
    Look,
    Start {
        instance: &'i str,
    },
}

/// A source at start, before its thread runs.
enum SourceAtStart {
    Path(PathSource),
    Url(Box<Fetcher>),
}

/// The running reload thread.
#[derive(Debug)]
pub struct Reloader {
    events: Sender<ReloadEvent>,
    thread: JoinHandle<()>,
}

/// Gives the request path priority: the calling thread runs when the workers leave time.
pub fn lower_priority() {
    // On Linux this affects the calling thread alone. If it is not allowed, nothing is lost.
    let _ = rustix::process::setpriority_process(None, 10);
}

/// Loads table and patch for the first time.
///
/// Without a table that can be put in force this is an error or, with `wait_for_table`, a start
/// without keys: readiness has a part `table` that shows what is missing. `instance` names this
/// sidecar to the servers that it asks.
pub fn load_first(
    config: &TableConfig,
    uses: UseCounting,
    clock: Clock,
    metrics: Metrics,
    readiness: &Readiness,
    instance: &str,
) -> Result<LoadedSources, FirstLoadError> {
    let purpose = Purpose::Start { instance };
    let (mut loaded, result) = try_first(config, uses, purpose, clock, metrics, readiness)?;
    match result {
        Err(error) if !config.wait_for_table => return Err(error),
        Err(error) => tracing::warn!(%error, "starting without keys; wait_for_table is set"),
        Ok(()) => {}
    }
    loaded.keeper.started();
    let placed = loaded.keeper.write_down();
    loaded.keeper.in_force(placed);
    Ok(loaded)
}

/// Loads table and patch in the same steps as [`load_first`], and writes nothing: neither the state
/// file nor a copy of what a URL returns.
pub fn look_first(
    config: &TableConfig,
    uses: UseCounting,
    clock: &Clock,
) -> Result<Preview, FirstLoadError> {
    let (metrics, readiness) = (Metrics::new(1), Readiness::new());
    let (loaded, result) =
        try_first(config, uses, Purpose::Look, clock.clone(), metrics, &readiness)?;
    result?;
    let refused = || LoadFailure::Refused(Refusal::Empty);
    let keys = loaded.keeper.keys();
    let keys = keys.ok_or_else(|| FirstLoadError::Keys { what: "table", failure: refused() })?;
    let restricted = loaded.keeper.restricted().cloned();
    Ok(Preview { keys, restricted, unused: loaded.unused })
}

/// The first look at both sources. The second value says whether there are keys to serve.
fn try_first(
    config: &TableConfig,
    uses: UseCounting,
    purpose: Purpose<'_>,
    clock: Clock,
    metrics: Metrics,
    readiness: &Readiness,
) -> Result<(LoadedSources, Result<(), FirstLoadError>), FirstLoadError> {
    let state = match purpose {
        Purpose::Look => StateFile::look(config.state_file.as_deref())?,
        Purpose::Start { .. } => StateFile::open(config.state_file.as_deref()),
    };
    let terms = VerifyTerms::new(config, uses)?;
    let part = readiness.register("table");
    let keeper = KeysInForce::new(config, &terms, clock.clone(), metrics.clone(), part, state);
    let terms = Arc::new(ArcSwap::from_pointee(terms));
    let copies = Copies::default();
    let first = |what, source: &TableSource| {
        SourceAtStart::new(what, source, config, purpose, &terms, &clock, &copies)
    };
    let keys_error = |what: &'static str| move |failure| FirstLoadError::Keys { what, failure };
    let mut table = first(ReloadKind::Table, &config.source).map_err(keys_error("table"))?;
    let mut patch = match &config.patch {
        Some(source) => Some(first(ReloadKind::Patch, source).map_err(keys_error("patch"))?),
        None => None,
    };
    let mut keeping = FirstLoad { keeper, terms: &terms, clock: &clock, purpose, unused: None };
    let mut result = keeping.table(&mut table).map_err(keys_error("table"));
    if let Some(patch) = &mut patch {
        result = result.and(keeping.patch(patch).map_err(keys_error("patch")));
    }
    let FirstLoad { keeper, unused, .. } = keeping;
    let config = config.clone();
    Ok((
        LoadedSources { config, keeper, terms, table, patch, clock, metrics, unused, copies },
        result,
    ))
}

/// The steps of [`load_first`].
struct FirstLoad<'k> {
    keeper: KeysInForce,
    terms: &'k ArcSwap<VerifyTerms>,
    clock: &'k Clock,
    purpose: Purpose<'k>,
    unused: Option<Refusal>,
}

// === impl Purpose ===

impl<'i> Purpose<'i> {
    fn instance(self) -> Option<&'i str> {
        match self {
            Self::Look => None,
            Self::Start { instance } => Some(instance),
        }
    }
}

// === impl FirstLoad ===

impl FirstLoad<'_> {
    fn table(&mut self, source: &mut SourceAtStart) -> Result<(), LoadFailure> {
        let began = self.clock.now();
        let (table, arrived) = match source.load(ReloadKind::Table, &self.terms.load(), began) {
            Ok(arrived) => (arrived.verified.table(), Some(arrived)),
            Err(failure) => (Err(failure), None),
        };
        self.keeper.took(ReloadKind::Table, self.since(began));
        self.keeper.offer_table(table)?;
        self.taken(source, arrived);
        Ok(())
    }

    /// A missing patch has not been published yet. A patch that is there and cannot be verified
    /// could hold a revocation, so it is an error.
    fn patch(&mut self, source: &mut SourceAtStart) -> Result<(), LoadFailure> {
        let began = self.clock.now();
        let (patch, arrived) = match source.load(ReloadKind::Patch, &self.terms.load(), began) {
            Ok(arrived) => (arrived.verified.patch(), Some(arrived)),
            Err(failure) if failure.is_missing() => {
                self.keeper.no_patch();
                return Ok(());
            }
            Err(failure) => (Err(failure), None),
        };
        self.keeper.took(ReloadKind::Patch, self.since(began));
        match self.keeper.offer_patch(patch) {
            Ok(_) => self.taken(source, arrived),
            // Genuine, but useless for the table in force: it was made for another one.
            Err(LoadFailure::Refused(
                refusal @ (Refusal::Base { .. }
                | Refusal::Rollback { .. }
                | Refusal::EqualSerial { .. }),
            )) => {
                self.keeper.patch_is_known();
                self.unused = Some(refusal);
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    fn taken(&self, source: &mut SourceAtStart, arrived: Option<VerifiedArrival>) {
        if let Purpose::Start { .. } = self.purpose {
            source.taken(arrived);
        }
    }

    fn since(&self, began: Now) -> Duration {
        Duration::from_nanos(self.clock.now().mono_ns.saturating_sub(began.mono_ns))
    }
}

// === impl SourceAtStart ===

impl SourceAtStart {
    fn new(
        artefact: ReloadKind,
        source: &TableSource,
        config: &TableConfig,
        purpose: Purpose<'_>,
        terms: &Arc<ArcSwap<VerifyTerms>>,
        clock: &Clock,
        copies: &Copies,
    ) -> Result<Self, LoadFailure> {
        let suffix = match artefact {
            ReloadKind::Patch => "kgp",
            ReloadKind::Table => "kgt",
        };
        Ok(match source {
            TableSource::Path(path) => Self::Path(PathSource::new(path, suffix, config.max_bytes)),
            TableSource::Url(url) => Self::Url(Box::new(Fetcher {
                source: UrlSource::of_instance(url, &config.url, purpose.instance())?,
                artefact,
                cache: config.cache_dir.as_deref().map(|dir| cache_file(dir, artefact)),
                terms: Arc::clone(terms),
                clock: clock.clone(),
                copies: copies.clone(),
            })),
        })
    }

    fn load(
        &mut self,
        artefact: ReloadKind,
        terms: &VerifyTerms,
        now: Now,
    ) -> Result<VerifiedArrival, LoadFailure> {
        match self {
            Self::Path(source) => {
                let contents = source.read(now.unix_ms)?;
                source.processed(contents.seen);
                let verified = Verified::open(artefact, contents.bytes, terms)?;
                Ok(VerifiedArrival { verified, validators: None })
            }
            Self::Url(fetcher) => fetcher.first(),
        }
    }

    /// What arrived is in force. A copy is kept only now: a refused table must not replace the last
    /// good one.
    fn taken(&mut self, arrived: Option<VerifiedArrival>) {
        if let (
            Self::Url(fetcher),
            Some(VerifiedArrival { verified, validators: Some(validators) }),
        ) = (self, arrived)
        {
            fetcher.taken(&verified, validators);
        }
    }
}

// === impl FirstLoadError ===

impl FirstLoadError {
    /// The exit code. docs/exit-codes.md has the table.
    pub fn exit(&self) -> u8 {
        const DATA: u8 = 65;
        const NO_INPUT: u8 = 66;
        const TRY_AGAIN: u8 = 75;
        const CONFIG: u8 = 78;
        let failure = match self {
            Self::Keys { failure, .. } => failure,
            Self::State(StateError::Damaged { .. }) => return DATA,
            Self::State(StateError::Unreadable { .. }) => return NO_INPUT,
            Self::Trust(_) => return CONFIG,
        };
        match failure {
            LoadFailure::Refused(_) => DATA,
            LoadFailure::Source(error) => match error {
                SourceError::Credential(_) => CONFIG,
                SourceError::Encoding(_) | SourceError::TooLarge { .. } => DATA,
                SourceError::Io { .. }
                | SourceError::Missing { .. }
                | SourceError::NotRegular { .. }
                | SourceError::Several { .. } => NO_INPUT,
                SourceError::Changing
                | SourceError::Network(_)
                | SourceError::Redirect
                | SourceError::Status { .. }
                | SourceError::Timeout(_) => TRY_AGAIN,
            },
        }
    }
}

// === impl LoadedSources ===

impl LoadedSources {
    /// For the first snapshot.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.keeper.keys()
    }

    /// For the admin listener.
    pub fn status(&self) -> StatusCell {
        self.keeper.cell()
    }

    /// Starts the threads that keep the keys up to date. From now on, only they swap `store`.
    pub fn start(
        self,
        store: Arc<Store>,
        config_file: PathBuf,
        hooks: Hooks,
    ) -> io::Result<Reloader> {
        let (events, inbox) = channel();
        let wakes = Wakes::new(events.clone());
        let table = RunningSource::start(self.table, &events)?;
        let patch = self.patch.map(|patch| RunningSource::start(patch, &events)).transpose()?;
        let reload = ReloadLoop::new(run::Parts {
            config: self.config,
            keeper: self.keeper,
            terms: self.terms,
            clock: self.clock,
            metrics: self.metrics,
            store,
            table,
            patch,
            config_file,
            hooks,
            wakes,
            events: events.clone(),
            copies: self.copies,
        });
        let thread =
            std::thread::Builder::new().name("reload".into()).spawn(move || reload.run(&inbox))?;
        Ok(Reloader { events, thread })
    }
}

// === impl Reloader ===

impl Reloader {
    /// Looks at configuration, table, patch and certificates again, even if they seem unchanged, as
    /// SIGHUP does. Returns immediately. The returned channel reports when the files were looked
    /// at, and closes when the thread has ended. Anything with a URL is fetched in parallel.
    pub fn trigger(&self) -> oneshot::Receiver<()> {
        let (done, looked) = oneshot::channel();
        // The thread ends only with the process or through `stop`.
        let _ = self.events.send(ReloadEvent::Trigger(done));
        looked
    }

    /// The process is about to end: keys can still change, but from now on state file and copies
    /// belong to a successor. Returns immediately.
    pub fn leave(&self) {
        let _ = self.events.send(ReloadEvent::Leave);
    }

    /// Ends the thread. A fetch in progress ends with the process.
    pub fn stop(self) {
        let _ = self.events.send(ReloadEvent::Stop);
        // The panic hook has reported a panic of that thread. Nothing is left to do.
        let _ = self.thread.join();
    }
}
