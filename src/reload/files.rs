//! Small files that outlive the process: written completely or not at all. Imports `config`, and
//! `table` for its buffer.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::config::open_regular;
use crate::table::Buffer;

/// A file that is in its place but was not yet forced to disk.
#[derive(Debug)]
#[must_use = "call `force`"]
pub(super) struct Placed {
    file: File,
    directory: PathBuf,
    /// Files that it replaced. Whoever last closes a file without a name waits until the disk has
    /// taken its pages and freed its blocks, which takes seconds on a busy disk. [`Placed::force`]
    /// does that.
    replaced: Vec<File>,
}

/// The exclusive right to replace one file, among all processes that share it. Ends with the value.
#[derive(Debug)]
pub(super) struct FileTurn<'p> {
    path: &'p Path,
    directory: PathBuf,
    _lock: File,
}

/// How often and how long to wait while another process has its turn, which takes milliseconds: one
/// second in all.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// The most replaced files that are kept open. Descriptors are for connections.
const MOST_REPLACED: usize = 64;

// === impl FileTurn ===

impl<'p> FileTurn<'p> {
    /// Waits for at most a second. The lock is a hidden file next to `path`, because `path` itself
    /// is a different file after each turn.
    pub(super) fn take(path: &'p Path) -> io::Result<Self> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let lock = private().open(directory.join(hidden(path, ".lock")?))?;
        for _ in 0..TRIES {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
                // A file system without locks has never prevented anybody from writing.
                Ok(()) | Err(_) => return Ok(Self { path, directory, _lock: lock }),
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "another process holds its lock"))
    }

    /// Replaces the file with `bytes` immediately. A crash of the process leaves the old file or
    /// the new one. [`Placed::force`] ensures the same for a crash of the machine.
    pub(super) fn place(self, bytes: &[u8]) -> io::Result<Placed> {
        // There is one writer at a time. So the name of the temporary file need not be unique, and
        // a leftover one is overwritten instead of accumulating.
        let temporary = self.directory.join(hidden(self.path, ".tmp")?);
        let mut file = private().truncate(true).open(&temporary)?;
        let replaced = File::open(self.path).into_iter().collect();
        let written = file.write_all(bytes).and_then(|()| std::fs::rename(&temporary, self.path));
        if let Err(error) = written {
            // Half a file should not occupy a full disk.
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
        Ok(Placed { file, directory: self.directory, replaced })
    }
}

/// A file that only its owner can read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    options
}

/// The name of a hidden companion of `path`.
fn hidden(path: &Path, suffix: &str) -> io::Result<OsString> {
    let mut hidden = OsString::from(".");
    hidden.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    hidden.push(suffix);
    Ok(hidden)
}

// === impl Placed ===

impl Placed {
    /// Takes over from `earlier`, which was not forced.
    pub(super) fn after(mut self, earlier: Self) -> Self {
        self.replaced.extend(earlier.replaced);
        self.replaced.push(earlier.file);
        self.replaced.truncate(MOST_REPLACED);
        self
    }

    /// Waits for the disk, also for the replaced files.
    pub(super) fn force(self) -> io::Result<()> {
        self.file.sync_all()?;
        File::open(&self.directory)?.sync_all()
    }
}

/// `None`: there is none. More than `limit` bytes are an error.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Option<Buffer>> {
    let mut file = match open_regular(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let expected = file.metadata()?.len();
    if expected > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let bytes = Buffer::read(&mut file, expected, limit)?;
    if bytes.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(bytes))
}

/// The first bytes of a file, at most `limit`. `None`: there is none.
pub(super) fn read_head(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut head = Vec::new();
    file.take(limit).read_to_end(&mut head)?;
    Ok(Some(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &Path, bytes: &[u8]) -> io::Result<Placed> {
        FileTurn::take(path)?.place(bytes)
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Placing a file does not close the previous one, which would wait for the disk.
    #[test]
    fn what_was_replaced_is_open_until_it_is_forced() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::write(&path, "0").unwrap();
        let mut placed = place(&path, b"1").unwrap();
        for n in 2..200 {
            placed = place(&path, format!("{n}").as_bytes()).unwrap().after(placed);
            let open = placed.replaced.len();
            assert_eq!(open, (2 * n - 1).min(MOST_REPLACED));
            assert!(placed.replaced.iter().all(|file| file.metadata().unwrap().nlink() == 0));
        }
        placed.force().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"199");
        assert_eq!(names(dir.path()), [".state.lock", "state"]);
    }

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        assert!(read(&path, 10).unwrap().is_none());
        place(&path, b"one").unwrap().force().unwrap();
        place(&path, b"two").unwrap().force().unwrap();
        assert_eq!(read(&path, 3).unwrap().unwrap()[..], *b"two");
        assert!(read(&path, 2).is_err());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(names(dir.path()), [".state.lock", "state"], "no temporary is left");
    }

    #[test]
    fn turns_are_taken_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let turn = FileTurn::take(&path).unwrap();
        let waits = std::thread::scope(|scope| {
            let other = scope.spawn(|| place(&path, b"two"));
            turn.place(b"one").unwrap().force().unwrap();
            other.join().unwrap()
        });
        waits.unwrap().force().unwrap();
        assert_eq!(read(&path, 3).unwrap().unwrap()[..], *b"two");
        // Not for ever.
        let _held = FileTurn::take(&path).unwrap();
        assert_eq!(place(&path, b"three").unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_failure_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::create_dir(&path).unwrap();
        assert!(place(&path, b"x").is_err());
        assert!(path.is_dir());
        assert_eq!(names(dir.path()), [".state.lock", "state"], "no temporary is left");
        assert!(place(&dir.path().join("absent/state"), b"x").is_err());
    }
}
