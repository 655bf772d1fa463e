//! The reload thread: one look at everything after each wake-up, poll or signal.
//! Imports `clock`, `config`, `core`, `snapshot`, `table`, `telemetry`.
//!
//! Loading a large table has a thread of its own at lower priority, so that a patch never waits
//! behind it and requests do not feel it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::census::Census;
use super::fetch::{Command, Fetched, Verdict, Verified};
use super::keeper::{Failure, Keeper, Outcome, Terms};
use super::source::{Contents, PathSource, Seen};
use super::status::{ConfigStatus, SourceStatus, Time};
use super::watch::{Stir, Watch};
use super::{First, Hooks, Reconfigured, lower_priority};
use crate::clock::Clock;
use crate::config::{TableConfig, TableSource};
use crate::snapshot::{Snapshot, Store};
use crate::table::{KeySet, Patch, Table};
use crate::telemetry::Metrics;
use crate::telemetry::control::{Artefact, Attempt};

/// From something complete to a look: what comes in a burst is seen in one look.
const COALESCE: Duration = Duration::from_millis(3);

/// From the last partial write to a look, for writers that do not close.
const QUIET: Duration = Duration::from_millis(100);

/// A file that is being written for longer than this is judged as it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries of something that was refused for the time of day.
const RETRY: Duration = Duration::from_secs(60);

/// A table up to this size is loaded on the reload thread itself.
const SMALL: u64 = 4 << 20;

/// Between two looks at whether the last reader of an old table is gone.
const RETIRE: Duration = Duration::from_millis(20);

const TICK: Duration = Duration::from_secs(1);

/// How often keys are counted anew: expiry moves them without a reload.
const CENSUS: Duration = Duration::from_secs(600);

/// Between two counts of a table of more than [`MANY`] keys, however often a patch comes.
const CENSUS_PAUSE: Duration = Duration::from_secs(30);

const MANY: u64 = 100_000;

/// What the reload thread is told.
pub(super) enum Event {
    Census(Option<Census>),
    Fetched(Fetched),
    Loaded(Box<TableLoad>),
    Stop,
    /// Look at everything, by force.
    Trigger,
    /// [`Wakes`] has something.
    Wake,
}

/// A large table that was loaded on the side.
pub(super) struct TableLoad {
    result: Result<Arc<Table>, Failure>,
    seen: Option<Seen>,
    took: Duration,
    /// The terms it was verified with.
    terms: Arc<Terms>,
}

/// What stirred since it was last asked. Any number of events of the file system is one message.
#[derive(Clone)]
pub(super) struct Wakes {
    bits: Arc<AtomicU8>,
    events: Sender<Event>,
}

/// Where an artefact comes from, once running.
pub(super) enum Feed {
    Path(PathSource),
    Url(Sender<Command>),
}

/// What [`Loop::new`] puts together.
pub(super) struct Parts {
    pub(super) config: TableConfig,
    pub(super) keeper: Keeper,
    pub(super) terms: Arc<ArcSwap<Terms>>,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) store: Arc<Store>,
    pub(super) table: Feed,
    pub(super) patch: Option<Feed>,
    pub(super) config_file: PathBuf,
    pub(super) hooks: Hooks,
    pub(super) wakes: Wakes,
    pub(super) events: Sender<Event>,
}

pub(super) struct Loop {
    config: TableConfig,
    keeper: Keeper,
    terms: Arc<ArcSwap<Terms>>,
    clock: Clock,
    metrics: Metrics,
    store: Arc<Store>,
    table: Feed,
    patch: Option<Feed>,
    files: Files,
    watch: Watch,
    wakes: Wakes,
    events: Sender<Event>,
    /// A large table is being loaded; `again`: it changed meanwhile.
    loading: bool,
    again: bool,
    timers: Timers,
    /// Key sets that a request may still look into. Dropping a table takes milliseconds, and the
    /// last one to let go pays for it: that must not be a worker.
    retired: Vec<Arc<KeySet>>,
    census: Option<Arc<AtomicBool>>,
}

/// The files beside table and patch.
struct Files {
    config: PathSource,
    reconfigure: Box<dyn FnMut() -> Result<Reconfigured, String> + Send>,
    hooks: Vec<WatchedFiles>,
}

/// A [`super::FileHook`] with what was seen of its files.
struct WatchedFiles {
    paths: Vec<PathSource>,
    changed: Box<dyn FnMut() + Send>,
}

/// When what is due, in nanoseconds of the process's clock.
#[derive(Default)]
struct Timers {
    /// A look because something stirred.
    look: Option<u64>,
    /// Somebody writes in place since then and has not closed.
    writing: Option<u64>,
    table_poll: u64,
    patch_poll: u64,
    tick: u64,
    census: u64,
    /// Keys were last counted then.
    counted: u64,
    /// What was refused for the time of day is tried again.
    retry: Option<u64>,
}

/// How a look is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Somebody may be writing: what cannot be read yet is no failure.
    Early,
    /// What is there is what is meant.
    Final,
}

// === impl Wakes ===

impl Wakes {
    const COMPLETE: u8 = 2;
    const PARTIAL: u8 = 1;

    pub(super) fn new(events: Sender<Event>) -> Self {
        Self { bits: Arc::default(), events }
    }

    fn stir(&self, what: Stir) {
        let bit = match what {
            Stir::Complete => Self::COMPLETE,
            Stir::Partial => Self::PARTIAL,
        };
        if self.bits.fetch_or(bit, Ordering::AcqRel) == 0 {
            let _ = self.events.send(Event::Wake);
        }
    }

    fn take(&self) -> u8 {
        self.bits.swap(0, Ordering::AcqRel)
    }
}

// === impl Feed ===

impl Feed {
    /// A URL gets its thread.
    pub(super) fn start(first: First, events: &Sender<Event>) -> std::io::Result<Self> {
        match first {
            First::Path(source) => Ok(Self::Path(source)),
            First::Url(fetcher) => {
                let (commands, inbox) = channel();
                let events = events.clone();
                let name = match fetcher.artefact {
                    Artefact::Patch => "fetch-patch",
                    Artefact::Table => "fetch-table",
                };
                std::thread::Builder::new().name(name.into()).spawn(move || {
                    lower_priority();
                    fetcher.run(&inbox, |fetched| events.send(Event::Fetched(fetched)).is_ok());
                })?;
                Ok(Self::Url(commands))
            }
        }
    }
}

// === impl Loop ===

impl Loop {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { config, keeper, terms, clock, metrics, store, .. } = parts;
        let source = |path: &PathBuf| PathSource::new(path, "", u64::MAX);
        let hooks = parts.hooks.files.into_iter();
        let wakes = parts.wakes.clone();
        let mut files = Files {
            config: source(&parts.config_file),
            reconfigure: parts.hooks.reconfigure,
            hooks: hooks
                .map(|h| WatchedFiles {
                    paths: h.paths.iter().map(source).collect(),
                    changed: h.changed,
                })
                .collect(),
        };
        // What is there now is what was loaded at start.
        files.take_note(clock.now().unix_ms);
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
            timers: Timers::default(),
            retired: Vec::new(),
            census: None,
        };
        reload.watch.watches(reload.watched());
        reload
    }

    /// Until told to stop.
    pub(super) fn run(mut self, inbox: &Receiver<Event>) {
        self.metrics.control().config_reload_successful.set(1);
        let loaded_at = Some(Time { unix_ms: self.clock.now().unix_ms });
        self.keeper.show_config(ConfigStatus { loaded_at, ..ConfigStatus::default() });
        // Between the load at start and the watch something may have changed.
        self.look(Look::Final);
        self.count();
        loop {
            match inbox.recv_timeout(self.until_due()) {
                Ok(Event::Census(census)) => self.counted(census),
                Ok(Event::Fetched(fetched)) => self.fetched(fetched),
                Ok(Event::Loaded(load)) => self.loaded(*load),
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Event::Trigger) => self.trigger(),
                Ok(Event::Wake) => self.stirred(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.do_what_is_due();
        }
    }

    /// Takes note of what stirred and sets the time of the look.
    fn stirred(&mut self) {
        let bits = self.wakes.take();
        let now = self.clock.now().mono_ns;
        if bits & Wakes::COMPLETE != 0 {
            self.timers.writing = None;
            let at = now + nanos(COALESCE);
            self.timers.look = Some(self.timers.look.map_or(at, |due| due.min(at)));
        } else if bits & Wakes::PARTIAL != 0 {
            let since = *self.timers.writing.get_or_insert(now);
            // Every write puts the look off, but not for ever.
            self.timers.look = Some((now + nanos(QUIET)).min(since + nanos(PATIENCE)));
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
        if polled || self.timers.look.is_some_and(|at| at <= now) {
            let enough = self.timers.writing.map(|since| since + nanos(PATIENCE));
            // While somebody writes, the close or the end of patience brings another look.
            self.timers.look = enough.filter(|at| now < *at);
            if self.timers.look.is_some() {
                self.look(Look::Early);
            } else {
                self.timers.writing = None;
                self.look(Look::Final);
            }
        }
        if self.timers.tick <= now {
            self.timers.tick = now + nanos(TICK);
            self.keeper.tick();
        }
        if self.timers.census <= now {
            self.count();
        }
        // The last reader is gone when nobody else holds it.
        self.retired.retain(|keys| Arc::strong_count(keys) > 1);
    }

    fn until_due(&self) -> Duration {
        let now = self.clock.now().mono_ns;
        let timers = &self.timers;
        let fixed = [timers.table_poll, timers.patch_poll, timers.tick, timers.census];
        let due = fixed.into_iter().chain(timers.look).chain(timers.retry).min().unwrap_or(now);
        let wait = Duration::from_nanos(due.saturating_sub(now));
        if self.retired.is_empty() { wait } else { wait.min(RETIRE) }
    }

    /// One look at every path. What changed is read, verified, offered, and put in force by one
    /// swap.
    fn look(&mut self, how: Look) {
        // First armed, then looked at: what comes after the look wakes again.
        self.watch.refresh();
        let now = self.clock.now();
        self.timers.table_poll = now.mono_ns + nanos(self.config.poll);
        self.timers.patch_poll = match &self.patch {
            Some(Feed::Path(_)) => now.mono_ns + nanos(self.config.patch_poll),
            _ => u64::MAX,
        };
        let table = self.look_at_table(how);
        let patch = self.look_at_patch(how);
        if table == Outcome::Changed || patch == Outcome::Changed {
            self.swap(None);
        }
        self.show_sources();
        self.look_at_files();
    }

    fn look_at_table(&mut self, how: Look) -> Outcome {
        let wall_ms = self.clock.now().unix_ms;
        let Feed::Path(source) = &mut self.table else { return Outcome::Unchanged };
        match source.may_differ(wall_ms) {
            Ok(false) => return self.keeper.same_file(Artefact::Table),
            Ok(true) => {}
            Err(_) if how == Look::Early => return Outcome::Unchanged,
            Err(error) => {
                let outcome = self.keeper.offer_table(Err(Failure::Source(error)));
                return self.outcome(outcome);
            }
        }
        if source.bytes().is_some_and(|bytes| bytes > SMALL) {
            self.load_aside();
            return Outcome::Unchanged;
        }
        self.load_table(how)
    }

    /// Loads the table here and now.
    fn load_table(&mut self, how: Look) -> Outcome {
        let Feed::Path(source) = &mut self.table else { return Outcome::Unchanged };
        let began = self.clock.now();
        let terms = self.terms.load_full();
        let (result, seen) = open(source, began.unix_ms, |bytes| {
            Ok(Arc::new(Table::open(bytes, &terms.trust, &terms.bounds)?))
        });
        if how == Look::Early && result.is_err() {
            return Outcome::Unchanged;
        }
        if let Some(seen) = seen {
            source.processed(seen);
        }
        self.offer_table(result, self.since(began.mono_ns))
    }

    /// Loads a large table on the side. The result comes as an event.
    fn load_aside(&mut self) {
        if std::mem::replace(&mut self.loading, true) {
            self.again = true;
            return;
        }
        let Feed::Path(source) = &self.table else { return };
        let (source, events, clock) = (source.clone(), self.events.clone(), self.clock.clone());
        let terms = self.terms.load_full();
        let spawned = std::thread::Builder::new().name("table-load".into()).spawn(move || {
            lower_priority();
            let began = clock.now();
            let (result, seen) = open(&source, began.unix_ms, |bytes| {
                Ok(Arc::new(Table::open(bytes, &terms.trust, &terms.bounds)?))
            });
            let took = Duration::from_nanos(clock.now().mono_ns - began.mono_ns);
            let _ = events.send(Event::Loaded(Box::new(TableLoad { result, seen, took, terms })));
        });
        if let Err(error) = spawned {
            self.loading = false;
            tracing::error!(%error, "cannot start the thread that loads tables; trying again");
        }
    }

    fn loaded(&mut self, load: TableLoad) {
        self.loading = false;
        if !Arc::ptr_eq(&load.terms, &self.terms.load_full()) {
            // Verified by what is no longer configured.
            self.again = true;
        }
        if std::mem::take(&mut self.again) {
            self.forget();
            self.timers.look = Some(self.clock.now().mono_ns);
            return;
        }
        let now = self.clock.now().mono_ns;
        if load.result.is_err() && self.timers.writing.is_some_and(|at| now < at + nanos(PATIENCE))
        {
            // Still being written: the close or the end of patience brings the next look.
            return;
        }
        if let (Feed::Path(source), Some(seen)) = (&mut self.table, load.seen) {
            source.processed(seen);
        }
        if self.offer_table(load.result, load.took) == Outcome::Changed {
            self.swap(None);
        }
    }

    fn look_at_patch(&mut self, how: Look) -> Outcome {
        let began = self.clock.now();
        let Some(Feed::Path(source)) = &mut self.patch else { return Outcome::Unchanged };
        let terms = self.terms.load_full();
        let result = match source.may_differ(began.unix_ms) {
            Ok(false) => return self.keeper.same_file(Artefact::Patch),
            Ok(true) => {
                let (result, seen) = open(source, began.unix_ms, |bytes| {
                    Ok(Arc::new(Patch::open(bytes, &terms.trust, &terms.bounds)?))
                });
                if let Some(seen) = seen.filter(|_| how == Look::Final || result.is_ok()) {
                    source.processed(seen);
                }
                result
            }
            Err(error) => Err(Failure::Source(error)),
        };
        if let Err(failure) = &result
            && failure.is_missing()
        {
            return self.keeper.no_patch();
        }
        if how == Look::Early && result.is_err() {
            return Outcome::Unchanged;
        }
        self.offer_patch(result, self.since(began.mono_ns))
    }

    fn offer_table(&mut self, table: Result<Arc<Table>, Failure>, took: Duration) -> Outcome {
        self.keeper.took(Artefact::Table, took);
        let outcome = self.keeper.offer_table(table);
        if outcome.as_ref().is_ok_and(|o| *o == Outcome::Changed) {
            // A patch that did not fit the last table may fit this one.
            forget(self.patch.as_mut());
        }
        self.outcome(outcome)
    }

    fn offer_patch(&mut self, patch: Result<Arc<Patch>, Failure>, took: Duration) -> Outcome {
        self.keeper.took(Artefact::Patch, took);
        let outcome = self.keeper.offer_patch(patch);
        self.outcome(outcome)
    }

    fn outcome(&mut self, outcome: Result<Outcome, Failure>) -> Outcome {
        outcome.unwrap_or_else(|failure| {
            if failure.may_pass() {
                self.timers.retry = Some(self.clock.now().mono_ns + nanos(RETRY));
            }
            Outcome::Failed
        })
    }

    /// A URL's answer.
    fn fetched(&mut self, fetched: Fetched) {
        let Fetched { artefact, result, took, verdict } = fetched;
        let outcome = match result {
            Ok(None) => self.keeper.unchanged(artefact),
            Ok(Some(Verified::Table(table))) => self.offer_table(Ok(table), took),
            Ok(Some(Verified::Patch(patch))) => self.offer_patch(Ok(patch), took),
            Err(failure) if artefact == Artefact::Patch && failure.is_missing() => {
                self.keeper.no_patch()
            }
            Err(failure) => {
                let outcome = match artefact {
                    Artefact::Patch => self.keeper.offer_patch(Err(failure)),
                    Artefact::Table => self.keeper.offer_table(Err(failure)),
                };
                self.outcome(outcome)
            }
        };
        if outcome == Outcome::Changed {
            self.swap(None);
        }
        let taken = if outcome == Outcome::Failed { Verdict::Refused } else { Verdict::Taken };
        let _ = verdict.send(taken);
        self.show_sources();
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
        self.store.swap(Snapshot { settings, keys, route_slots });
        if let Some(old) = old
            && self.keeper.keys().is_none_or(|new| !Arc::ptr_eq(&new, &old))
        {
            self.retired.push(old);
        }
        self.keeper.in_force(placed);
        let large = self.keeper.table().is_some_and(|t| t.manifest().keys > MANY);
        let pause = if large { CENSUS_PAUSE } else { Duration::ZERO };
        let now = self.clock.now().mono_ns;
        self.timers.census = now.max(self.timers.counted + nanos(pause));
    }

    fn trigger(&mut self) {
        tracing::info!("told to look at configuration, table and patch again");
        self.files.take_note(self.clock.now().unix_ms);
        for files in &mut self.files.hooks {
            (files.changed)();
        }
        self.forget();
        self.reconfigure();
        self.look(Look::Final);
    }

    /// Reads the configuration again.
    fn reconfigure(&mut self) {
        let control = self.metrics.control();
        let new = (self.files.reconfigure)().and_then(|new| {
            let terms = Terms::new(&new.table).map_err(|e| e.to_string())?;
            Ok((new, terms))
        });
        let (new, terms) = match new {
            Ok(both) => both,
            Err(error) => {
                control.config_reloads(Attempt::Failed).increment(1);
                control.config_reload_successful.set(0);
                tracing::error!(%error, "the configuration stays as it was");
                self.keeper.config_failed(error);
                return;
            }
        };
        control.config_reloads(Attempt::Succeeded).increment(1);
        control.config_reload_successful.set(1);
        let mut needs_restart = new.needs_restart;
        needs_restart.extend(take_over(&mut self.config, &new.table));
        // Whoever compared the whole configuration has named those of the table as well.
        needs_restart.sort_unstable();
        needs_restart.dedup();
        if !needs_restart.is_empty() {
            tracing::warn!(keys = %needs_restart.join(", "), "changed, but only a restart puts it in force");
        }
        if let Feed::Path(source) = &mut self.table {
            source.set_max_bytes(self.config.max_bytes);
        }
        if let Some(Feed::Path(source)) = &mut self.patch {
            source.set_max_bytes(self.config.max_bytes);
        }
        self.terms.store(Arc::new(terms.clone()));
        let had = self.keeper.table().is_some();
        self.keeper.reconfigure(&self.config, &terms);
        self.forget();
        if had && self.keeper.table().is_none() {
            // Its signer was dropped. What the source holds may be signed by another already:
            // then there is no moment without keys.
            self.load_table(Look::Final);
            self.look_at_patch(Look::Final);
        }
        self.swap(Some((new.settings, new.route_slots)));
        tracing::info!(serial = self.keeper.table().map(|t| t.serial()), "configuration in force");
        let loaded_at = Some(Time { unix_ms: self.clock.now().unix_ms });
        self.keeper.show_config(ConfigStatus { loaded_at, error: None, needs_restart });
        self.timers.table_poll = 0;
        self.timers.patch_poll = 0;
    }

    fn look_at_files(&mut self) {
        let wall_ms = self.clock.now().unix_ms;
        for files in &mut self.files.hooks {
            if note(&mut files.paths, wall_ms) {
                (files.changed)();
            }
        }
        if note(std::slice::from_mut(&mut self.files.config), wall_ms) {
            tracing::info!("the configuration file changed");
            self.reconfigure();
            self.watch.watches(self.watched());
        }
    }

    /// The next look takes nothing for granted.
    fn forget(&mut self) {
        forget(Some(&mut self.table));
        forget(self.patch.as_mut());
    }

    /// Counts keys on the side, after a swap and now and then.
    fn count(&mut self) {
        self.timers.counted = self.clock.now().mono_ns;
        self.timers.census = self.timers.counted + nanos(CENSUS);
        if self.census.is_some() {
            // The one under way is told to stop by a swap and then brings us here again.
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
            let _ = events.send(Event::Census(census));
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
            Feed::Path(source) => Some(source.path().to_owned()),
            Feed::Url(_) => None,
        });
        let hooks = self.files.hooks.iter().flat_map(|files| &files.paths);
        let files = hooks.chain([&self.files.config]).map(|source| source.path().to_owned());
        feeds.chain(files).collect()
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
                watching: watching && matches!(feed?, Feed::Path(_)),
            })
        });
        self.keeper.show_sources(sources.collect());
    }

    fn since(&self, began_ns: u64) -> Duration {
        Duration::from_nanos(self.clock.now().mono_ns.saturating_sub(began_ns))
    }
}

// === impl Files ===

impl Files {
    /// What is there now counts as seen.
    fn take_note(&mut self, wall_ms: u64) {
        note(std::slice::from_mut(&mut self.config), wall_ms);
        for files in &mut self.hooks {
            note(&mut files.paths, wall_ms);
        }
    }
}

/// Whether any of these may have another content than when this was last asked. A file that cannot
/// be read now is asked about again.
fn note(paths: &mut [PathSource], wall_ms: u64) -> bool {
    let mut changed = false;
    for source in paths {
        if source.may_differ(wall_ms).is_ok_and(|differs| differs)
            && let Ok(contents) = source.read(wall_ms)
        {
            changed |= source.processed(contents.seen);
        }
    }
    changed
}

/// Puts in force what can change while running; names what cannot.
fn take_over(config: &mut TableConfig, new: &TableConfig) -> Vec<String> {
    let source = match &new.source {
        TableSource::Path(_) => "table.path",
        TableSource::Url(_) => "table.url",
    };
    let fixed = [
        (source, config.source == new.source),
        ("table.patch", config.patch == new.patch),
        ("table.state_file", config.state_file == new.state_file),
        ("table.cache_dir", config.cache_dir == new.cache_dir),
        ("table.http", format!("{:?}", config.url) == format!("{:?}", new.url)),
        ("table.wait_for_table", config.wait_for_table == new.wait_for_table),
    ];
    let old = std::mem::replace(config, new.clone());
    config.source = old.source;
    config.patch = old.patch;
    config.state_file = old.state_file;
    config.cache_dir = old.cache_dir;
    config.url = old.url;
    config.wait_for_table = old.wait_for_table;
    fixed.into_iter().filter(|(_, same)| !same).map(|(key, _)| key.to_owned()).collect()
}

fn forget(feed: Option<&mut Feed>) {
    match feed {
        Some(Feed::Path(source)) => source.forget(),
        Some(Feed::Url(commands)) => {
            // The fetcher lives as long as the process.
            let _ = commands.send(Command::Again);
        }
        None => {}
    }
}

/// Reads and verifies: one buffer is read, verified and used.
fn open<T>(
    source: &PathSource,
    wall_ms: u64,
    verify: impl FnOnce(Vec<u8>) -> Result<T, Failure>,
) -> (Result<T, Failure>, Option<Seen>) {
    match source.read(wall_ms) {
        Ok(Contents { bytes, seen }) => (verify(bytes), Some(seen)),
        Err(error) => (Err(Failure::Source(error)), None),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}
