//! The files other than table and patch: the configuration, certificates. Imports `config`,
//! `mounts`, `telemetry`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::source::{PathSource, SourceError};
use super::super::status::{ConfigStatus, MountedFileStatus, Time};
use super::super::terms::VerifyTerms;
use super::super::{FileHook, Hooks, Reconfigured, Unusable};
use super::look::LookAttempt;
use super::{ReloadLoop, RunningSource, TICK, nanos};
use crate::config::{TableConfig, TableSource, WatchedFile};
use crate::mounts::Mounts;
use crate::telemetry::control::Attempt;

/// The files other than table and patch.
pub(super) struct Files {
    /// The configuration, and the files that are read with it: keys of trusted signers, secrets.
    config: Vec<PathSource>,
    reconfigure: Box<dyn FnMut() -> Result<Reconfigured, Unusable> + Send>,
    /// Set while the last configuration is unusable.
    failed: Option<Failed>,
    hooks: Vec<WatchedFiles>,
    /// All files of the process, including those that others watch.
    watched: Vec<WatchedFile>,
}

/// An unusable configuration is tried again, because what it lacks may not be in a file that was
/// seen.
struct Failed {
    error: String,
    /// On the process's clock.
    retry_ns: u64,
}

/// A [`super::FileHook`] with the state of its files.
struct WatchedFiles {
    paths: Vec<PathSource>,
    changed: Box<dyn FnMut() + Send>,
}

// === impl ReloadLoop ===

impl ReloadLoop {
    /// Reads the configuration again.
    pub(super) fn reconfigure(&mut self) {
        self.files.failed = None;
        self.try_to_reconfigure();
    }

    /// The same, but silent about an error that was already logged.
    fn try_to_reconfigure(&mut self) {
        let now = self.clock.now();
        let new = self.files.read(now.unix_ms).and_then(|new| {
            let uses = self.terms.load().uses;
            let terms = VerifyTerms::new(&new.table, uses).map_err(|e| e.to_string())?;
            Ok((new, terms))
        });
        let (new, terms) = match new {
            Ok(both) => both,
            Err(error) => {
                self.watch_files();
                let failed = Failed { retry_ns: now.mono_ns + nanos(TICK), error: error.clone() };
                let before = self.files.failed.replace(failed);
                if before.is_none_or(|before| before.error != error) {
                    let control = self.metrics.control();
                    control.config_reload_successful.set(0);
                    tracing::error!(%error, "the configuration stays as it was");
                    self.keeper.config_failed(error);
                    control.config_reloads(Attempt::Failed).increment(1);
                }
                return;
            }
        };
        self.files.failed = None;
        let mut needs_restart = new.needs_restart;
        needs_restart.extend(take_over(&mut self.config, &new.table));
        // The comparison of the whole configuration has named those of the table as well.
        needs_restart.sort_unstable();
        needs_restart.dedup();
        if !needs_restart.is_empty() {
            tracing::warn!(keys = %needs_restart.join(", "), "changed, but only a restart puts it in force");
        }
        if let RunningSource::Path(source) = &mut self.table {
            source.set_max_bytes(self.config.max_bytes);
        }
        if let Some(RunningSource::Path(source)) = &mut self.patch {
            source.set_max_bytes(self.config.max_bytes);
        }
        self.terms.store(Arc::new(terms.clone()));
        let had = self.keeper.table().is_some();
        self.keeper.reconfigure(&self.config, &terms);
        self.forget();
        if had && self.keeper.table().is_none() {
            // Its signer was removed. The source may already hold a table by another signer: then
            // there is no moment without keys.
            self.load_table(LookAttempt::Final);
            self.look_at_patch(LookAttempt::Final);
        }
        self.swap(Some((new.settings, new.route_slots)));
        tracing::info!(serial = self.keeper.table().map(|t| t.serial()), "configuration in force");
        let now = self.clock.now().unix_ms;
        let loaded_at = Some(Time { unix_ms: now });
        self.keeper.show_config(ConfigStatus { loaded_at, error: None, needs_restart });
        self.files.keep(&[&new.read[..], &new.variables].concat());
        self.files.add_variables(&new.variables);
        self.files.watched = new.watched;
        self.watch_files();
        self.look_at_mounts();
        // Counted once all of it is in force, for those who wait for that.
        let control = self.metrics.control();
        control.config_reload_successful.set(1);
        control.config_reloads(Attempt::Succeeded).increment(1);
        self.timers.table_poll = 0;
        self.timers.patch_poll = 0;
    }

    /// A path that was not watched before causes another look, once its watch is armed.
    fn watch_files(&mut self) {
        if self.watch.watches(self.watched()) {
            self.timers.table_poll = 0;
        }
    }

    /// Reports which files are mounted alone. Mounts seldom change under a running process, and a
    /// host may have thousands, so this does not run at every poll.
    pub(super) fn look_at_mounts(&mut self) {
        // Without /proc this is unknown, and nothing is known to be wrong.
        let Ok(mounts) = Mounts::read() else { return };
        self.keeper.show_mounted(self.files.mounted(&mounts));
    }

    pub(super) fn look_at_files(&mut self) {
        let now = self.clock.now();
        let wall_ms = now.unix_ms;
        for files in &mut self.files.hooks {
            if note(&mut files.paths, wall_ms) {
                (files.changed)();
            }
        }
        if note(&mut self.files.config, wall_ms) {
            tracing::info!("the configuration or a file that it is read with changed");
            self.reconfigure();
        } else if self.files.failed.as_ref().is_some_and(|f| f.retry_ns <= now.mono_ns) {
            self.try_to_reconfigure();
        }
    }
}

// === impl Files ===

impl Files {
    /// What is there now is what was loaded at start.
    pub(super) fn new(config_file: &Path, hooks: Hooks, wall_ms: u64) -> Self {
        let watched = |hook: FileHook| WatchedFiles {
            paths: hook.paths.iter().map(|path| source(path)).collect(),
            changed: hook.changed,
        };
        let mut files = Self {
            config: vec![source(config_file)],
            reconfigure: hooks.reconfigure,
            failed: None,
            hooks: hooks.files.into_iter().map(watched).collect(),
            watched: hooks.watched,
        };
        files.add(&hooks.read);
        files.add_variables(&hooks.variables);
        files.take_note(wall_ms);
        files
    }

    /// Reads the configuration. Files that it names for the first time were not recorded before it
    /// was read. They are recorded then, and everything is read once more, so that no change in
    /// between is lost.
    fn read(&mut self, wall_ms: u64) -> Result<Reconfigured, String> {
        let mut read = (self.reconfigure)();
        if self.add(named(&read)) {
            note(&mut self.config, wall_ms);
            read = (self.reconfigure)();
            // If it names others by now, the next look finds them unseen.
            self.add(named(&read));
        }
        read.map_err(|unusable| unusable.error)
    }

    /// True: one of them was not known.
    fn add(&mut self, paths: &[PathBuf]) -> bool {
        let known = self.config.len();
        for path in paths {
            if !self.config.iter().any(|source| source.path() == path) {
                self.config.push(source(path));
            }
        }
        self.config.len() > known
    }

    /// Files of variables, which may appear and disappear.
    fn add_variables(&mut self, paths: &[PathBuf]) {
        self.add(paths);
        for source in &mut self.config {
            if paths.iter().any(|path| path == source.path()) {
                source.allow_missing();
            }
        }
    }

    /// A configuration is in force: files that only another one named no longer matter.
    fn keep(&mut self, read: &[PathBuf]) {
        let file = self.config.first().map(|config| config.path().to_owned());
        self.config.retain(|source| {
            Some(source.path()) == file.as_deref() || read.iter().any(|file| file == source.path())
        });
    }

    fn mounted(&self, mounts: &Mounts) -> Vec<MountedFileStatus> {
        let config = self.config.first().map(|config| ("config", config.path()));
        let named = self.watched.iter().map(|file| (file.key, file.path.as_path()));
        let points = config.into_iter().chain(named).flat_map(|(key, path)| {
            let points = mounts.files_at(path).into_iter();
            points.map(move |point| MountedFileStatus { key, path: point.display().to_string() })
        });
        points.collect()
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let hooks = self.hooks.iter().flat_map(|files| &files.paths);
        hooks.chain(&self.config).map(|source| source.path().to_owned())
    }

    /// Notifies all hooks that their files have to be read again.
    pub(super) fn tell_all(&mut self) {
        for files in &mut self.hooks {
            (files.changed)();
        }
    }

    /// What is there now counts as seen.
    pub(super) fn take_note(&mut self, wall_ms: u64) {
        note(&mut self.config, wall_ms);
        for files in &mut self.hooks {
            note(&mut files.paths, wall_ms);
        }
    }
}

fn named(read: &Result<Reconfigured, Unusable>) -> &[PathBuf] {
    match read {
        Ok(new) => &new.read,
        Err(unusable) => &unusable.files,
    }
}

fn source(path: &Path) -> PathSource {
    PathSource::new(path, "", u64::MAX)
}

/// Whether any of these may have changed since the last call. A file that cannot be read now is
/// checked again later. For one that may be missing, its absence is an answer.
fn note(paths: &mut [PathSource], wall_ms: u64) -> bool {
    let mut changed = false;
    for source in paths {
        match source.may_differ(wall_ms) {
            Ok(true) => {
                if let Ok(contents) = source.read(wall_ms) {
                    changed |= source.processed(contents.seen);
                }
            }
            Err(SourceError::Missing { .. }) => changed |= source.missed(),
            Ok(false) | Err(_) => {}
        }
    }
    changed
}

/// Puts in force what can change while running. Names what cannot.
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
