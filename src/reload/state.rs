//! The state file: what was accepted, remembered over a restart. Imports `table` and
//! `reload::files`.
//!
//! It is put in place before a table takes effect, and forced to disk within a second after that.
//! So a crash of the process cannot lose it, and a revocation does not wait for the disk.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::files::{self, FileTurn, Placed};
use crate::table::{Ledger, LedgerError};

/// Eight patches of several megabytes. keygate never wrote more.
const MAX_BYTES: u64 = 1 << 30;

/// Where the ledger is kept.
#[derive(Debug)]
pub(super) struct StateFile {
    /// `None`: nowhere. After a restart, only `min_serial` protects against an older table.
    path: Option<PathBuf>,
    /// What the file holds. `None`: it has to be written, again or for the first time.
    written: Option<String>,
    /// The ledger that was last put there, before another process's ledger raised it.
    placed: Option<String>,
    /// The next ledger may lower serials.
    anew: bool,
    /// From now on a successor writes.
    left: bool,
    problem: Option<String>,
    /// It was not forced to disk the last time, so writing it does not yet resolve the problem.
    disk_fails: bool,
    /// What it held when it was opened, until somebody takes it.
    remembered: Ledger,
    /// The file that was last found to hold what it should.
    stamp: Option<StateStamp>,
}

/// Which file is in the place. While it is the same, so is its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StateStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// What has become of the file.
#[derive(Debug, thiserror::Error)]
enum StateDamage {
    #[error("is gone")]
    Gone,
    #[error("cannot be read ({0})")]
    Unreadable(io::Error),
    #[error("was replaced with one that does not hold what was accepted")]
    Replaced,
}

/// Why a state file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "state file {}: {source}\n\
         hint: restore it from a backup, or remove it to start anew, with `min_serial` in the \
         configuration as the floor",
        path.display()
    )]
    Damaged { path: PathBuf, source: LedgerError },
    #[error("state file {} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
}

// === impl StateFile ===

impl StateFile {
    /// Opens and reads. Any problem is logged and leads to an empty ledger: a damaged file must not
    /// keep the service down, and `min_serial` is the floor.
    pub(super) fn open(path: Option<&Path>) -> Self {
        let (mut state, remembered) = Self::opened(path);
        state.remembered = remembered;
        state
    }

    /// Reads what a start would read, and writes and moves nothing, not even later.
    pub(super) fn look(path: Option<&Path>) -> Result<Self, StateError> {
        let mut state = Self::at(None);
        let Some(path) = path else { return Ok(state) };
        let read = files::read(path, MAX_BYTES);
        let read =
            read.map_err(|source| StateError::Unreadable { path: path.to_owned(), source })?;
        if let Some(bytes) = read {
            let parsed = Ledger::parse(&String::from_utf8_lossy(&bytes));
            state.remembered =
                parsed.map_err(|source| StateError::Damaged { path: path.to_owned(), source })?;
        }
        Ok(state)
    }

    /// What was accepted before. Called once.
    pub(super) fn take_remembered(&mut self) -> Ledger {
        std::mem::take(&mut self.remembered)
    }

    fn at(path: Option<&Path>) -> Self {
        Self {
            path: path.map(Path::to_owned),
            written: None,
            placed: None,
            anew: false,
            left: false,
            problem: None,
            disk_fails: false,
            remembered: Ledger::default(),
            stamp: None,
        }
    }

    fn opened(path: Option<&Path>) -> (Self, Ledger) {
        let mut state = Self::at(path);
        let Some(path) = path else {
            state.problem = Some("no `state_file` is configured".to_owned());
            tracing::warn!(
                "no state_file is configured: after a restart an older table would be taken again; \
                 only min_serial guards against it"
            );
            return (state, Ledger::default());
        };
        let text = match files::read(path, MAX_BYTES) {
            Ok(Some(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            Ok(None) => {
                tracing::info!(path = %path.display(), "no state file yet; min_serial is the floor");
                return (state, Ledger::default());
            }
            Err(error) => {
                state.problem = Some(format!("cannot be read: {error}"));
                tracing::error!(
                    path = %path.display(), %error,
                    "the state file cannot be read; min_serial is the floor\n\
                     hint: make it readable, or set min_serial to the serial that was in force"
                );
                return (state, Ledger::default());
            }
        };
        match Ledger::parse(&text) {
            Ok(ledger) => {
                state.written = Some(text);
                (state, ledger)
            }
            Err(error) => {
                let mut aside = path.as_os_str().to_owned();
                aside.push(".corrupt");
                let aside = PathBuf::from(aside);
                // Kept for people who want to know what happened. keygate does not use it.
                match std::fs::rename(path, &aside) {
                    Ok(()) => tracing::error!(
                        path = %aside.display(), %error,
                        "the state file was damaged and was put aside; a new one begins, and \
                         min_serial is the floor\n\
                         hint: set min_serial to the serial that was in force"
                    ),
                    Err(unmoved) => tracing::error!(
                        path = %path.display(), %error, %unmoved,
                        "the state file is damaged and is replaced; min_serial is the floor\n\
                         hint: set min_serial to the serial that was in force"
                    ),
                }
                (state, Ledger::default())
            }
        }
    }

    /// Puts `ledger` in place, raised by what another process of this configuration has written
    /// meanwhile. The caller soon forces the result to disk.
    pub(super) fn place(&mut self, ledger: &Ledger) -> Option<Placed> {
        let path = self.path.as_deref().filter(|_| !self.left)?;
        let text = ledger.to_text();
        let known = [&self.written, &self.placed].into_iter().flatten().any(|it| *it == text);
        if known && self.written.is_some() {
            return None;
        }
        match self.replace(path, ledger) {
            Ok((placed, written)) => {
                self.placed = Some(text);
                self.anew = false;
                let text = written;
                if !self.disk_fails && self.problem.take().is_some() {
                    tracing::info!(path = %path.display(), "the state file can be written again");
                }
                self.written = Some(text);
                self.stamp = StateStamp::of(path);
                Some(placed)
            }
            Err(error) => {
                self.written = None;
                self.complain("written", &error);
                None
            }
        }
    }

    /// Notices that the file has gone, or is not what was written, so that the next call of
    /// [`Self::place`] writes it again.
    pub(super) fn look_after(&mut self, ledger: impl FnOnce() -> Ledger) {
        if let Some(damage) = self.damage(ledger) {
            let path = self.path.as_deref().unwrap_or(Path::new("")).display();
            tracing::warn!(%path, "the state file {damage}: it is written again");
            self.written = None;
        }
    }

    fn damage(&mut self, ledger: impl FnOnce() -> Ledger) -> Option<StateDamage> {
        let path = self.path.as_deref().filter(|_| !self.left)?;
        let written = self.written.as_ref()?;
        let stamp = StateStamp::of(path);
        if stamp.is_some() && stamp == self.stamp {
            return None;
        }
        let there = match files::read(path, MAX_BYTES) {
            Ok(Some(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            Ok(None) => return Some(StateDamage::Gone),
            Err(error) => return Some(StateDamage::Unreadable(error)),
        };
        // Another process of this configuration may have added to it.
        if there != *written && !Ledger::parse(&there).is_ok_and(|it| it.covers(&ledger())) {
            return Some(StateDamage::Replaced);
        }
        self.stamp = stamp;
        None
    }

    /// What was there before, and what is there now.
    fn replace(&self, path: &Path, ledger: &Ledger) -> io::Result<(Placed, String)> {
        let turn = FileTurn::take(path)?;
        // A file that cannot be read or parsed holds nothing worth keeping.
        let there = files::read(path, MAX_BYTES).ok().flatten();
        let there = there.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let others = there.filter(|there| !self.anew && self.written.as_ref() != Some(there));
        let theirs = others.and_then(|text| Ledger::parse(&text).ok());
        let text = theirs.map_or_else(|| ledger.clone(), |it| ledger.raised_by(&it)).to_text();
        Ok((turn.place(text.as_bytes())?, text))
    }

    /// The process is about to end. Its successor has to remember what this one still accepts.
    pub(super) fn leave(&mut self) {
        self.left = true;
    }

    /// Serials that a no longer trusted signer issued do not count any more: the next ledger starts
    /// again.
    pub(super) fn begin_anew(&mut self) {
        self.anew = true;
    }

    /// The result of forcing it to disk.
    pub(super) fn forced(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) if !std::mem::take(&mut self.disk_fails) => {}
            Ok(()) => {
                self.problem = None;
                let path = self.path.as_deref().unwrap_or(Path::new("")).display();
                tracing::info!(%path, "the state file can be forced to the disk again");
            }
            Err(error) => {
                // Asking the kernel again would succeed, because it drops what it could not write.
                // So the file is written again.
                self.written = None;
                self.disk_fails = true;
                self.complain("forced to the disk", &error);
            }
        }
    }

    /// Whether the last ledger is in its place, or trying again is pointless.
    pub(super) fn is_settled(&self) -> bool {
        self.left || self.path.is_none() || self.written.is_some()
    }

    pub(super) fn is_persistent(&self) -> bool {
        self.path.is_some() && self.problem.is_none()
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Logs once per kind of failure, not at every attempt.
    fn complain(&mut self, what: &str, error: &io::Error) {
        let problem = format!("cannot be {what}: {error}");
        if self.problem.as_ref() != Some(&problem) {
            let path = self.path.as_deref().unwrap_or(Path::new("")).display();
            tracing::error!(
                %path, %error,
                "the state file cannot be {what}; keys are served, but after a restart an older \
                 table would be taken again\n\
                 hint: give keygate a writable directory for state_file, or keep min_serial up to \
                 date"
            );
        }
        self.problem = Some(problem);
    }
}

// === impl StateStamp ===

impl StateStamp {
    /// `None`: there is no file that can be seen.
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests;
