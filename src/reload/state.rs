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
        let Some(path) = self.path.as_deref().filter(|_| !self.left) else { return };
        let Some(written) = &self.written else { return };
        let stamp = StateStamp::of(path);
        if stamp.is_some() && stamp == self.stamp {
            return;
        }
        let there = files::read(path, MAX_BYTES).ok().flatten();
        let there = there.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        // Another process of this configuration may have added to it.
        let holds_ours = |there: &String| {
            there == written || Ledger::parse(there).is_ok_and(|it| it.covers(&ledger()))
        };
        if there.as_ref().is_some_and(holds_ours) {
            self.stamp = stamp;
            return;
        }
        tracing::warn!(
            path = %path.display(),
            "the state file {}: it is written again",
            match stamp {
                Some(_) => "was replaced with one that does not hold what was accepted",
                None => "is gone",
            }
        );
        self.written = None;
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
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_damaged_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        for text in ["", "{", "{\"version\":2}", "\0\0\0"] {
            fs::write(&path, text).unwrap();
            let mut state = StateFile::open(Some(&path));
            let ledger = state.take_remembered();
            assert_eq!(ledger, Ledger::default());
            assert!(!path.exists() && dir.path().join("state.corrupt").exists());
            let placed = state.place(&ledger).unwrap();
            state.forced(placed.force());
            assert!(state.is_persistent() && state.is_settled());
            assert!(state.place(&ledger).is_none(), "nothing changed");
            let mut again = StateFile::open(Some(&path));
            let ledger = again.take_remembered();
            assert_eq!((ledger, again.is_settled()), (Ledger::default(), true));
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_survived_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/state");
        let mut state = StateFile::open(Some(&path));
        let ledger = state.take_remembered();
        assert!(state.place(&ledger).is_none());
        assert!(!state.is_persistent() && !state.is_settled());
        assert!(state.problem().unwrap().contains("cannot be written"));
        fs::create_dir(dir.path().join("later")).unwrap();
        let placed = state.place(&ledger).unwrap();
        state.forced(placed.force());
        assert!(state.is_persistent() && state.is_settled());
    }

    #[test]
    fn what_could_not_be_forced_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = StateFile::open(Some(&dir.path().join("state")));
        let ledger = state.take_remembered();
        for _ in 0..2 {
            assert!(state.place(&ledger).is_some());
            state.forced(Err(io::ErrorKind::StorageFull.into()));
            assert!(!state.is_settled() && !state.is_persistent());
            assert!(state.problem().unwrap().contains("cannot be forced to the disk"));
        }
        let placed = state.place(&ledger).unwrap();
        assert!(!state.is_persistent(), "written, but that it was before");
        state.forced(placed.force());
        assert!(state.is_settled() && state.is_persistent());
        assert!(state.place(&ledger).is_none());
    }

    #[test]
    fn nowhere_to_write_is_no_persistence() {
        let mut state = StateFile::open(None);
        let ledger = state.take_remembered();
        assert!(state.place(&ledger).is_none());
        assert!(state.is_settled() && !state.is_persistent());
    }

    /// A ledger of a table in force, by its text.
    fn ledger(table: u64, patch: u64) -> Ledger {
        let base = |serial| format!("{{\"serial\":{serial},\"body_sha256\":\"{:064x}\"}}", serial);
        Ledger::parse(&format!(
            "{{\"version\":1,\"table\":{},\"table_includes\":{table},\"patch\":{},\"floor\":{table},\
             \"active\":1,\"shelf\":[]}}",
            base(table),
            base(patch)
        ))
        .unwrap()
    }

    fn serials(path: &Path) -> (u64, u64) {
        let there = Ledger::parse(&fs::read_to_string(path).unwrap()).unwrap();
        (there.table_serial().unwrap(), there.patch_serial().unwrap())
    }

    #[test]
    fn two_processes_write_only_upwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut old = StateFile::open(Some(&path));
        let mut new = StateFile::open(Some(&path));
        assert!(old.place(&ledger(3, 4)).is_some());
        assert!(new.place(&ledger(5, 2)).is_some());
        assert_eq!(serials(&path), (5, 4), "the higher of both");
        assert!(old.place(&ledger(3, 6)).is_some());
        assert_eq!(serials(&path), (5, 6));
        assert!(old.place(&ledger(3, 6)).is_none(), "nothing changed");
        // It may lower its own serials, but those of the other process only on purpose.
        assert!(new.place(&ledger(5, 2)).is_none());
        new.begin_anew();
        assert!(new.place(&ledger(1, 1)).is_some());
        assert_eq!(serials(&path), (1, 1));
        old.leave();
        assert!(old.place(&ledger(9, 9)).is_none() && old.is_settled());
        assert_eq!(serials(&path), (1, 1), "a process that drains writes nothing");
    }

    #[test]
    fn a_file_that_is_gone_or_taken_back_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (mut state, ours) = (StateFile::open(Some(&path)), ledger(5, 6));
        assert!(state.place(&ours).is_some());
        let before = fs::read(&path).unwrap();
        let damages: [&dyn Fn(); 3] = [
            &|| fs::remove_file(&path).unwrap(),
            &|| fs::write(&path, ledger(3, 4).to_text()).unwrap(),
            &|| fs::write(&path, "{").unwrap(),
        ];
        for damage in damages {
            state.look_after(|| ours.clone());
            assert!(state.is_settled() && state.place(&ours).is_none(), "nothing changed");
            damage();
            assert!(state.place(&ours).is_none(), "nobody has looked yet");
            state.look_after(|| ours.clone());
            assert!(!state.is_settled());
            assert!(state.place(&ours).is_some());
            assert_eq!(fs::read(&path).unwrap(), before);
        }
        // What another process has added is no damage.
        let mut other = StateFile::open(Some(&path));
        assert!(other.place(&ledger(7, 8)).is_some());
        state.look_after(|| ours.clone());
        assert!(state.is_settled());
        assert_eq!(serials(&path), (7, 8));
        // Nor is anything that happens once a successor writes.
        state.leave();
        fs::remove_file(&path).unwrap();
        state.look_after(|| ours.clone());
        assert!(state.place(&ours).is_none() && state.is_settled());
    }
}
