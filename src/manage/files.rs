//! Files that are never seen half-written: bounded reads, locks, replacement by rename.
//! Imports nothing of the crate but this room's errors.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::NamedTempFile;

use super::error::{Error, Result};
use crate::exit::Exit;
use crate::wording::shell::quoted_path;

pub const POLL: Duration = Duration::from_millis(15);

/// How long a long-running process waits for a lock when it starts: its predecessor, which was just
/// stopped, or a command on the host may still hold it.
pub const START_WAIT: Duration = Duration::from_secs(10);

/// A file's whole content. Longer than `max` bytes: refused, not truncated.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::read(path))?;
    let mut content = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut content).map_err(Error::read(path))?;
    if content.len() as u64 > max {
        return Err(Error::TooLarge { path: path.to_owned(), max });
    }
    Ok(content)
}

/// The file itself with symbolic links resolved, so that a rename replaces it and not the link.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    match fs::canonicalize(path) {
        Ok(real) => Ok(real),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(e) => Err(Error::Read { path: path.to_owned(), source: e }),
    }
}

/// Creates a file that must not exist yet.
pub fn create_new(path: &Path, mode: u32, content: &[u8], hint: &'static str) -> Result<()> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::Exists { path: path.to_owned(), hint });
        }
        Err(e) => return Err(Error::Write { path: path.to_owned(), source: e }),
    };
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if let Err(e) = written {
        // A half-written key is worse than none; report the first error.
        fs::remove_file(path).ok();
        return Err(Error::Write { path: path.to_owned(), source: e });
    }
    sync_directory(path)
}

/// A file in the making. Readers see the old content until [`Replacement::commit`].
#[derive(Debug)]
pub struct Replacement {
    temporary: BufWriter<NamedTempFile>,
    target: PathBuf,
}

/// Exclusive use of one file among processes, through a lock file next to it. Released on drop.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

// === impl Replacement ===

impl Replacement {
    pub fn of(target: &Path) -> Result<Self> {
        // A replaced file keeps its mode; a new one gets what the umask leaves.
        let mode = fs::metadata(target).map_or(0o666, |m| m.permissions().mode() & 0o777);
        let temporary = tempfile::Builder::new()
            .prefix(&temporary_prefix(target))
            .suffix(".tmp")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(directory(target))
            .map_err(Error::write(target))?;
        Ok(Self { temporary: BufWriter::with_capacity(1 << 20, temporary), target: target.into() })
    }

    /// What was written so far.
    pub fn content(&mut self) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        self.temporary
            .seek(io::SeekFrom::Start(0))
            .and_then(|_| self.temporary.get_mut().read_to_end(&mut content))
            .map_err(Error::write(&self.target))?;
        Ok(content)
    }

    /// Flushes to the disk, then renames over the target.
    pub fn commit(self) -> Result<()> {
        let write = Error::write(&self.target);
        let file = match self.temporary.into_inner() {
            Ok(file) => file,
            Err(e) => return Err(write(e.into_error())),
        };
        if let Err(e) = file.as_file().sync_all() {
            return Err(write(e));
        }
        if let Err(e) = file.persist(&self.target) {
            return Err(write(e.error));
        }
        sync_directory(&self.target)
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.flush()
    }
}

impl Seek for Replacement {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.temporary.seek(to)
    }
}

/// Replaces `target` with `content`.
pub fn replace(target: &Path, content: &[u8]) -> Result<()> {
    let mut replacement = Replacement::of(target)?;
    replacement.write_all(content).map_err(Error::write(target))?;
    replacement.commit()
}

/// Appends one or more lines and flushes them to the disk. First completes a torn last line, which
/// a crash left.
pub fn append_line(path: &Path, line: &str) -> Result<()> {
    let write = Error::write(path);
    let open = || OpenOptions::new().read(true).append(true).create(true).mode(0o644).open(path);
    let mut file = open().map_err(&write)?;
    let length = file.seek(io::SeekFrom::End(0)).map_err(&write)?;
    if length == 0 {
        // Before anything is in it: a later call would assume that the name already survives a
        // crash.
        sync_directory(path)?;
    }
    let mut attempt = || -> io::Result<()> {
        let mut bytes = Vec::with_capacity(line.len() + 2);
        if length > 0 {
            let mut last = [0u8];
            file.seek(io::SeekFrom::Start(length - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                bytes.push(b'\n');
            }
        }
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        file.write_all(&bytes)?;
        file.sync_data()
    };
    attempt().map_err(write)
}

/// Removes other users' rights from a lock file of an earlier version. If it is not ours, its owner
/// has to.
fn close_to_others(lock: &File) {
    let others_may = |meta: &fs::Metadata| meta.permissions().mode() & 0o077 != 0;
    if lock.metadata().is_ok_and(|meta| others_may(&meta)) {
        lock.set_permissions(Permissions::from_mode(0o600)).ok();
    }
}

// === impl Lock ===

impl Lock {
    /// Waits up to `timeout` for `<file>.lock`, and removes what a crash left behind.
    ///
    /// A process that can read a file can lock it and never let go. So only the lock file's owner
    /// may read it: sidecars can often read the directory.
    pub fn take(target: &Path, timeout: Duration) -> Result<Self> {
        Self::take_or_say(target, timeout, |_| ())
    }

    /// The same. It also reports once which process it waits for: ` (process 7)`, or nothing if
    /// that is unknown.
    ///
    /// # Errors
    ///
    /// Another process holds it the whole time; a file that cannot be written.
    pub fn take_or_say(target: &Path, timeout: Duration, say: impl FnOnce(&str)) -> Result<Self> {
        let path = beside(target, ".lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::write(&path))?;
        close_to_others(&file);
        let mut say = Some(say);
        let mut waited = Duration::ZERO;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if waited < timeout => {
                    if let Some(say) = say.take() {
                        say(&holder(&mut file));
                    }
                    std::thread::sleep(POLL);
                    waited += POLL;
                }
                Err(TryLockError::WouldBlock) => {
                    let holder = holder(&mut file);
                    return Err(Error::Locked { path, seconds: timeout.as_secs(), holder });
                }
                Err(TryLockError::Error(e)) => return Err(Error::Write { path, source: e }),
            }
        }
        // Only for the message of waiting processes; the lock works without it.
        let own = std::process::id().to_string();
        let mut pid = String::new();
        if file.rewind().is_err() || file.read_to_string(&mut pid).is_err() || pid != own {
            // Truncating a file waits for the disk, so skip it if the file already names this
            // process.
            let emptied = file.rewind().and_then(|()| file.set_len(0));
            emptied.and_then(|()| file.write_all(own.as_bytes())).ok();
        }
        remove_leftovers(target);
        Ok(Self { _file: file })
    }

    /// Whether somebody holds the lock of `target`. Creates nothing, and only briefly blocks a
    /// process that takes the lock.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn is_held(target: &Path) -> Result<bool> {
        let path = beside(target, ".lock");
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.map_err(Error::read(&path))?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(e)) => Err(Error::Read { path, source: e }),
        }
    }
}

/// Who holds a lock, as its file says; empty if it does not say.
fn holder(lock: &mut File) -> String {
    let mut pid = String::new();
    if lock.rewind().is_ok() {
        lock.read_to_string(&mut pid).ok();
    }
    match pid.trim() {
        "" => String::new(),
        pid => format!(" (process {pid})"),
    }
}

/// `name` + `suffix` in the same directory.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Removes temporary files of writers that died. No living writer has one while we hold the lock.
pub fn remove_leftovers(target: &Path) {
    let prefix = temporary_prefix(target);
    let Ok(entries) = fs::read_dir(directory(target)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|n| n.starts_with(&prefix) && n.ends_with(".tmp")) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

fn temporary_prefix(target: &Path) -> String {
    format!(".{}.", target.file_name().unwrap_or_default().to_string_lossy())
}

/// Files with this extension in the directory of `path`.
pub fn siblings(path: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let directory = directory(path);
    let entries = fs::read_dir(directory).map_err(Error::read(directory))?;
    // Like the path that was given, for messages: without `./`.
    let paths = entries.flatten().map(|entry| path.with_file_name(entry.file_name()));
    Ok(paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect())
}

/// Refuses a file whose directory does not exist, before any other work on it.
///
/// # Errors
///
/// Which directory to make.
pub fn refuse_no_directory(target: &Path) -> Result<()> {
    let directory = directory(target);
    if directory.is_dir() {
        return Ok(());
    }
    let message = format!(
        "cannot write {}: there is no directory {}; nothing was changed\nhint: `mkdir -p {}` makes it",
        target.display(),
        directory.display(),
        quoted_path(directory)
    );
    Err(Error::Added { message, exit: Exit::CannotCreate })
}

pub fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a rename or a new name survive a power cut.
fn sync_directory(path: &Path) -> Result<()> {
    File::open(directory(path)).and_then(|d| d.sync_all()).map_err(Error::write(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacement_keeps_the_old_until_commit_and_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let mut half = Replacement::of(&path).unwrap();
        half.write_all(b"half").unwrap();
        half.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(half);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no leftover");
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn lock_excludes_names_its_holder_and_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        fs::write(dir.path().join(".keys.toml.dead.tmp"), "half").unwrap();
        let held = Lock::take(&path, Duration::ZERO).unwrap();
        assert!(!dir.path().join(".keys.toml.dead.tmp").exists());
        let error = Lock::take(&path, POLL).unwrap_err();
        assert_eq!(error.exit(), Exit::TryAgain.code());
        assert!(error.to_string().contains(&format!("(process {})", std::process::id())));
        drop(held);
        Lock::take(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn whoever_waits_for_a_lock_says_so_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        let (mut held, mut said) = (Some(Lock::take(&path, Duration::ZERO).unwrap()), Vec::new());
        let taken = Lock::take_or_say(&path, START_WAIT, |holder| {
            said.push(holder.to_owned());
            held.take();
        });
        taken.unwrap();
        assert_eq!(said, [format!(" (process {})", std::process::id())]);
    }

    /// With the right to read a lock file, anybody could keep it locked.
    #[test]
    fn lock_files_are_their_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, lock) = (dir.path().join("keys.kgt"), dir.path().join("keys.kgt.lock"));
        let mode = || fs::metadata(&lock).unwrap().permissions().mode() & 0o777;
        drop(Lock::take(&path, Duration::ZERO).unwrap());
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&lock, Permissions::from_mode(0o644)).unwrap();
        drop(Lock::take(&path, Duration::ZERO).unwrap());
        assert_eq!(mode(), 0o600, "of an earlier version");
    }

    #[test]
    fn append_ends_a_torn_line_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        append_line(&path, "one").unwrap();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"to").unwrap();
        append_line(&path, "three").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\nto\nthree\n");
    }

    #[test]
    fn reads_are_bounded_and_names_are_not_taken_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pem");
        create_new(&path, 0o600, b"12345", "choose another name").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(create_new(&path, 0o600, b"", "").unwrap_err(), Error::Exists { .. }));
        assert!(matches!(read(&path, 4).unwrap_err(), Error::TooLarge { .. }));
        assert_eq!(read(&path, 5).unwrap(), b"12345");
    }
}
