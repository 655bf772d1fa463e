//! The reload thread: one look at everything after each wake-up, poll or signal.
//! Imports `clock`, `config`, `core`, `meter`, `snapshot`, `table`, `telemetry`.
//!
//! Loading a large table has its own thread at lower priority, so that a patch never waits for it
//! and requests do not slow down.

mod files;
mod look;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use self::files::Files;
use self::look::{LookAttempt, TableLoad};
use super::census::Census;
use super::fetch::{Copies, FetchCommand, Fetched};
use super::keeper::KeysInForce;
use super::observing::ObserveEnd;
use super::source::PathSource;
use super::status::{ConfigStatus, SourceStatus, Time};
use super::terms::VerifyTerms;
use super::watch::{Stir, Watch};
use super::{Hooks, SourceAtStart, lower_priority};
use crate::clock::Clock;
use crate::config::{TableConfig, TableSource};
use crate::meter::UseBook;
use crate::snapshot::{Snapshot, Store};
use crate::table::KeySet;
use crate::telemetry::Metrics;
use crate::telemetry::control::ReloadKind;

/// Between two looks. The first change is looked at immediately, because a revocation must not
/// wait. One look covers the burst that follows it.
const COALESCE: Duration = Duration::from_millis(3);

/// The same for changes that are unlikely to concern us: somebody else's file in the directory.
const ELSEWHERE: Duration = Duration::from_millis(50);

/// From the last partial write to a look, for writers that do not close the file.
const QUIET: Duration = Duration::from_millis(100);

/// A file that has been open for writing for longer than this is judged as it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two checks whether the last reader of an old table has gone.
const RETIRE: Duration = Duration::from_millis(20);

const TICK: Duration = Duration::from_secs(1);

/// How often keys are counted again: they expire without a reload.
const CENSUS: Duration = Duration::from_secs(600);

/// Between two counts of a table of more than [`MANY`] keys, however often a patch arrives.
const CENSUS_PAUSE: Duration = Duration::from_secs(30);

const MANY: u64 = 100_000;

/// Messages to the reload thread.
pub(super) enum ReloadEvent {
    Census(Option<Census>),
    Fetched(Fetched),
    /// The state file was forced to disk, or could not be.
    Forced(std::io::Result<()>),
    /// The process is about to end.
    Leave,
    Loaded(Box<TableLoad>),
    Stop,
    /// Look at everything, even if it seems unchanged, and report when that is done.
    Trigger(oneshot::Sender<()>),
    /// [`Wakes`] has something.
    Wake,
}

/// What changed since the last call. Any number of file system events is one message.
#[derive(Clone)]
pub(super) struct Wakes {
    bits: Arc<AtomicU8>,
    events: Sender<ReloadEvent>,
}

/// The source of an artefact, once running.
pub(super) enum RunningSource {
    Path(PathSource),
    Url(Sender<FetchCommand>),
}

/// The parts that [`ReloadLoop::new`] assembles.
pub(super) struct Parts {
    pub(super) config: TableConfig,
    pub(super) keeper: KeysInForce,
    pub(super) terms: Arc<ArcSwap<VerifyTerms>>,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) store: Arc<Store>,
    pub(super) table: RunningSource,
    pub(super) patch: Option<RunningSource>,
    pub(super) config_file: PathBuf,
    pub(super) hooks: Hooks,
    pub(super) wakes: Wakes,
    pub(super) events: Sender<ReloadEvent>,
    pub(super) copies: Copies,
}

pub(super) struct ReloadLoop {
    config: TableConfig,
    keeper: KeysInForce,
    terms: Arc<ArcSwap<VerifyTerms>>,
    clock: Clock,
    metrics: Metrics,
    store: Arc<Store>,
    table: RunningSource,
    patch: Option<RunningSource>,
    files: Files,
    watch: Watch,
    wakes: Wakes,
    events: Sender<ReloadEvent>,
    /// A large table is being loaded. `again`: it changed meanwhile.
    loading: bool,
    again: bool,
    /// The state file is being forced to disk.
    forcing: bool,
    timers: Timers,
    /// Key sets that a request may still be using. Dropping a table takes milliseconds, which the
    /// last holder pays: that must not be a worker. If uses are counted, `uses` holds the sets.
    retired: Vec<Arc<KeySet>>,
    uses: Option<Arc<UseBook>>,
    observing: ObserveEnd,
    census: Option<Arc<AtomicBool>>,
    /// Who waits for the end of a forced look.
    told: Vec<oneshot::Sender<()>>,
    copies: Copies,
}

/// When each thing is due, in nanoseconds of the process's clock.
#[derive(Default)]
struct Timers {
    /// A look because a file is complete.
    look: Option<u64>,
    /// When the last look of any kind was.
    looked: u64,
    /// A look because a writer has paused.
    quiet: Option<u64>,
    /// Since when somebody has been writing in place without closing the file.
    writing: Option<u64>,
    table_poll: u64,
    patch_poll: u64,
    tick: u64,
    census: u64,
    /// When keys were last counted.
    counted: u64,
    /// When to try again what was refused because of the time.
    retry: Option<u64>,
}

// === impl Wakes ===

impl Wakes {
    const COMPLETE: u8 = 4;
    const ELSEWHERE: u8 = 2;
    const PARTIAL: u8 = 1;

    pub(super) fn new(events: Sender<ReloadEvent>) -> Self {
        Self { bits: Arc::default(), events }
    }

    fn stir(&self, what: Stir) {
        let bit = match what {
            Stir::Complete => Self::COMPLETE,
            Stir::Elsewhere => Self::ELSEWHERE,
            Stir::Partial => Self::PARTIAL,
        };
        if self.bits.fetch_or(bit, Ordering::AcqRel) == 0 {
            let _ = self.events.send(ReloadEvent::Wake);
        }
    }

    fn take(&self) -> u8 {
        self.bits.swap(0, Ordering::AcqRel)
    }
}

// === impl RunningSource ===

impl RunningSource {
    /// Starts the thread of a URL.
    pub(super) fn start(
        first: SourceAtStart,
        events: &Sender<ReloadEvent>,
    ) -> std::io::Result<Self> {
        match first {
            SourceAtStart::Path(source) => Ok(Self::Path(source)),
            SourceAtStart::Url(fetcher) => {
                let (commands, inbox) = channel();
                let events = events.clone();
                let name = match fetcher.artefact {
                    ReloadKind::Patch => "fetch-patch",
                    ReloadKind::Table => "fetch-table",
                };
                std::thread::Builder::new().name(name.into()).spawn(move || {
                    // A patch is small, and a revocation must not wait for idle cores.
                    if fetcher.artefact == ReloadKind::Table {
                        lower_priority();
                    }
                    fetcher
                        .run(&inbox, |fetched| events.send(ReloadEvent::Fetched(fetched)).is_ok());
                })?;
                Ok(Self::Url(commands))
            }
        }
    }
}

// === impl ReloadLoop ===

impl ReloadLoop {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { config, keeper, terms, clock, metrics, store, .. } = parts;
        let uses = parts.hooks.uses.clone();
        let wakes = parts.wakes.clone();
        let files = Files::new(&parts.config_file, parts.hooks, clock.now().unix_ms);
        let mut reload = Self {
            config,
            keeper,
            terms,
            clock,
            metrics,
            store,
            table: parts.table,
            patch: parts.patch,
            files,
            watch: Watch::new(Vec::new(), move |what| wakes.stir(what)),
            wakes: parts.wakes,
            events: parts.events,
            loading: false,
            again: false,
            forcing: false,
            timers: Timers::default(),
            retired: Vec::new(),
            uses,
            observing: ObserveEnd::default(),
            census: None,
            told: Vec::new(),
            copies: parts.copies,
        };
        reload.watch.watches(reload.watched());
        reload
    }

    /// Runs until it is stopped.
    pub(super) fn run(mut self, inbox: &Receiver<ReloadEvent>) {
        self.metrics.control().config_reload_successful.set(1);
        let loaded_at = Some(Time { unix_ms: self.clock.now().unix_ms });
        self.keeper.show_config(ConfigStatus { loaded_at, ..ConfigStatus::default() });
        // Something may have changed between the load at start and the first watch.
        self.look(LookAttempt::Final);
        self.look_at_mounts();
        self.count();
        loop {
            match inbox.recv_timeout(self.until_due()) {
                Ok(ReloadEvent::Census(census)) => self.counted(census),
                Ok(ReloadEvent::Fetched(fetched)) => self.fetched(fetched),
                Ok(ReloadEvent::Forced(result)) => self.forced(result),
                Ok(ReloadEvent::Leave) => {
                    self.copies.stop();
                    self.keeper.leave();
                }
                Ok(ReloadEvent::Loaded(load)) => self.loaded(*load),
                Ok(ReloadEvent::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.tick();
                    self.force_the_last(inbox);
                    return;
                }
                Ok(ReloadEvent::Trigger(done)) => {
                    self.trigger();
                    self.told.push(done);
                }
                Ok(ReloadEvent::Wake) => self.stirred(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.do_what_is_due();
            if !self.loading {
                for told in self.told.drain(..) {
                    // The caller may no longer wait.
                    let _ = told.send(());
                }
            }
        }
    }

    /// Records what changed and sets the time of the look.
    fn stirred(&mut self) {
        let bits = self.wakes.take();
        let now = self.clock.now().mono_ns;
        let looked = self.timers.looked;
        // The first event of a burst sets the time. The following ones must not delay the look.
        let mut look_at = |at: u64| {
            self.timers.look = Some(self.timers.look.map_or(at, |due| due.min(at)));
        };
        if bits & Wakes::ELSEWHERE != 0 {
            look_at(now + nanos(ELSEWHERE));
        }
        if bits & Wakes::COMPLETE != 0 {
            look_at(now.max(looked + nanos(COALESCE)));
            self.timers.writing = None;
            self.timers.quiet = None;
        } else if bits & Wakes::PARTIAL != 0 {
            let since = *self.timers.writing.get_or_insert(now);
            // Every write delays this look, but not for ever.
            self.timers.quiet = Some((now + nanos(QUIET)).min(since + nanos(PATIENCE)));
        }
    }

    fn do_what_is_due(&mut self) {
        let now = self.clock.now().mono_ns;
        if self.timers.retry.is_some_and(|at| at <= now) {
            self.timers.retry = None;
            self.forget();
            self.timers.look = Some(now);
        }
        let polled = self.timers.table_poll.min(self.timers.patch_poll) <= now;
        let stirred = [self.timers.look, self.timers.quiet].into_iter().flatten().min();
        if polled || stirred.is_some_and(|at| at <= now) {
            self.timers.look = None;
            let enough = self.timers.writing.map(|since| since + nanos(PATIENCE));
            // While somebody is writing, the close or the end of patience triggers another look.
            self.timers.quiet = enough.filter(|at| now < *at);
            if self.timers.quiet.is_some() {
                self.look(LookAttempt::Early);
            } else {
                self.timers.writing = None;
                self.look(LookAttempt::Final);
            }
            self.timers.looked = self.clock.now().mono_ns;
        }
        if self.timers.tick <= now {
            self.timers.tick = now + nanos(TICK);
            self.tick();
            self.force();
        }
        if self.timers.census <= now {
            self.count();
        }
        // The last reader has gone when nobody else holds the set.
        self.retired.retain(|keys| Arc::strong_count(keys) > 1);
    }

    /// Forces the state file to disk on a separate thread: that may take time, and a revocation
    /// must not wait for it.
    fn force(&mut self) {
        if self.forcing {
            return;
        }
        let Some(placed) = self.keeper.take_unforced() else { return };
        let events = self.events.clone();
        // Without a thread, the kernel does it, which takes half a minute.
        let spawned = std::thread::Builder::new().name("state-sync".into()).spawn(move || {
            let _ = events.send(ReloadEvent::Forced(placed.force()));
        });
        self.forcing = spawned.is_ok();
    }

    fn forced(&mut self, result: std::io::Result<()>) {
        self.forcing = false;
        self.keeper.forced(result);
    }

    /// At the end nothing else waits, but a disk that hangs must not hold up the process.
    fn force_the_last(&mut self, inbox: &Receiver<ReloadEvent>) {
        let end = self.clock.now().mono_ns + nanos(PATIENCE);
        loop {
            self.force();
            if !self.forcing {
                return;
            }
            match forced_until(inbox, &self.clock, end) {
                Some(result) => self.forced(result),
                None => {
                    tracing::warn!(
                        "the disk does not answer; leaving the state file to the kernel"
                    );
                    return;
                }
            }
        }
    }

    fn until_due(&self) -> Duration {
        let now = self.clock.now().mono_ns;
        let timers = &self.timers;
        let fixed = [timers.table_poll, timers.patch_poll, timers.tick, timers.census];
        let maybe = [timers.look, timers.quiet, timers.retry].into_iter().flatten();
        let due = fixed.into_iter().chain(maybe).min().unwrap_or(now);
        let wait = Duration::from_nanos(due.saturating_sub(now));
        if self.retired.is_empty() { wait } else { wait.min(RETIRE) }
    }

    /// Puts in force what was accepted, with other settings if there are any.
    fn swap(&mut self, settings: Option<(Arc<crate::config::Settings>, Box<[u32]>)>) {
        let placed = self.keeper.write_down();
        let keys = self.keeper.keys();
        let before = self.store.load();
        let (settings, route_slots) =
            settings.unwrap_or_else(|| (Arc::clone(&before.settings), before.route_slots.clone()));
        let old = before.keys.clone();
        drop(before);
        if let Some(stop) = &self.census {
            stop.store(true, Ordering::Relaxed);
        }
        let old = old.filter(|old| keys.as_ref().is_none_or(|new| !Arc::ptr_eq(new, old)));
        if let Some(uses) = &self.uses {
            old.into_iter().for_each(|old| uses.retire(old));
        } else {
            self.retired.extend(old);
        }
        self.store.swap(Snapshot { settings, keys, route_slots });
        self.keeper.in_force(placed);
        let large = self.keeper.table().is_some_and(|t| t.manifest().keys > MANY);
        let pause = if large { CENSUS_PAUSE } else { Duration::ZERO };
        let now = self.clock.now().mono_ns;
        self.timers.census = now.max(self.timers.counted + nanos(pause));
    }

    fn trigger(&mut self) {
        tracing::info!("rereading configuration, table and patch");
        self.files.take_note(self.clock.now().unix_ms);
        self.files.tell_all();
        self.keeper.tend_state();
        self.forget();
        self.reconfigure();
        self.look(LookAttempt::Final);
        self.look_at_mounts();
    }

    /// Once a second, and at the end.
    fn tick(&mut self) {
        let conduct = self.observing.tick(&self.store, self.clock.now(), &self.metrics);
        self.keeper.tick(conduct);
    }

    /// The next look assumes nothing.
    fn forget(&mut self) {
        forget(Some(&mut self.table));
        forget(self.patch.as_mut());
    }

    /// Counts keys in the background, after a swap and from time to time.
    fn count(&mut self) {
        self.timers.counted = self.clock.now().mono_ns;
        self.timers.census = self.timers.counted + nanos(CENSUS);
        if self.census.is_some() {
            // A swap stops the count in progress, whose end leads here again.
            return;
        }
        let Some(keys) = self.keeper.keys() else {
            Census::default().show(self.metrics.control());
            return;
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (its, events, now) = (Arc::clone(&stop), self.events.clone(), self.clock.now());
        let spawned = std::thread::Builder::new().name("key-census".into()).spawn(move || {
            lower_priority();
            let census = Census::take(&keys, now, &its);
            drop(keys);
            let _ = events.send(ReloadEvent::Census(census));
        });
        if spawned.is_ok() {
            self.census = Some(stop);
        }
    }

    fn counted(&mut self, census: Option<Census>) {
        self.census = None;
        match census {
            Some(census) => census.show(self.metrics.control()),
            None => self.timers.census = self.clock.now().mono_ns,
        }
    }

    fn watched(&self) -> Vec<PathBuf> {
        let feeds = [Some(&self.table), self.patch.as_ref()].into_iter().flatten();
        let feeds = feeds.filter_map(|feed| match feed {
            RunningSource::Path(source) => Some(source.path().to_owned()),
            RunningSource::Url(_) => None,
        });
        feeds.chain(self.files.paths()).collect()
    }

    fn show_sources(&mut self) {
        let watching = self.watch.is_armed();
        let feeds = [
            ("table", Some(&self.table), Some(&self.config.source)),
            ("patch", self.patch.as_ref(), self.config.patch.as_ref()),
        ];
        let sources = feeds.into_iter().filter_map(|(what, feed, source)| {
            Some(SourceStatus {
                what,
                from: match source? {
                    TableSource::Path(path) => path.display().to_string(),
                    // A query could hold a token.
                    TableSource::Url(url) => url.split('?').next().unwrap_or_default().to_owned(),
                },
                watching: watching && matches!(feed?, RunningSource::Path(_)),
            })
        });
        self.keeper.show_sources(sources.collect());
    }

    fn since(&self, began_ns: u64) -> Duration {
        Duration::from_nanos(self.clock.now().mono_ns.saturating_sub(began_ns))
    }
}

/// The result of forcing the state file. `None`: there was none by `end`, whatever else arrived.
fn forced_until(
    inbox: &Receiver<ReloadEvent>,
    clock: &Clock,
    end: u64,
) -> Option<std::io::Result<()>> {
    loop {
        let left = end.checked_sub(clock.now().mono_ns)?;
        match inbox.recv_timeout(Duration::from_nanos(left)) {
            Ok(ReloadEvent::Forced(result)) => return Some(result),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

fn forget(feed: Option<&mut RunningSource>) {
    match feed {
        Some(RunningSource::Path(source)) => source.forget(),
        Some(RunningSource::Url(commands)) => {
            // The fetcher lives as long as the process.
            let _ = commands.send(FetchCommand::Again);
        }
        None => {}
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

#[cfg(test)]
mod tests;
