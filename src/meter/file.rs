//! `usage.file`: every minute, the keys that were used since the last time are appended to a file
//! of usage records, which is rotated. Imports `usage`.
//!
//! What could not be written is written the next time: the record then begins where the last
//! complete one ended. A file begins with everything, so that it can be read without the files
//! before it.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::book::UseBook;
use super::pages::UsePages;
use crate::usage::UsageRecord;

/// A file is rotated once it is longer, and longer than four times the record it begins with.
const LENGTH: u64 = 64 << 20;

/// Older files that are kept, as `NAME.1` to `NAME.4`.
const KEPT: u32 = 4;

/// The bits of a mode that apply to everybody. A group may be intended to read the file.
const OTHERS: u32 = 0o007;

/// Size of a head, with space to spare: enough to recognise one of our files.
const HEAD: u64 = 4096;

/// How often and how long to wait while another process writes, which takes milliseconds: a second
/// in all. That is less than the time for the last record when the process ends.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot write usage.file {}: {source}{}", .path.display(), remedy(source))]
pub struct UsageFileError {
    path: PathBuf,
    source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        // Ours, with remedies of their own.
        io::ErrorKind::Other if error.to_string().contains("\nhint: ") => "",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\nhint: free some space; the next record will contain what is missing"
        }
        io::ErrorKind::NotFound => "\nhint: make its directory, and let keygate write there",
        io::ErrorKind::PermissionDenied => {
            "\nhint: let the user that runs keygate write the file and its directory"
        }
        _ => "\nhint: check the disk, and give each sidecar a file of its own",
    }
}

/// The state in which the file was left.
#[derive(Debug)]
pub(super) struct UsageFile {
    path: PathBuf,
    /// Device and inode of the file that was written to: in another file, the record starts from
    /// the beginning.
    known: Option<FileId>,
    /// Its length at that time: in a shorter file, the record also starts from the beginning
    /// (inodes are reused).
    left: u64,
    /// Bytes of the record that the file begins with.
    first: u64,
    /// Where the next record begins. `None`: with everything.
    since: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

// === impl UsageFile ===

impl UsageFile {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), known: None, left: 0, first: 0, since: None }
    }

    /// Adds one record.
    pub(super) fn write(&mut self, book: &Arc<UseBook>) -> Result<(), UsageFileError> {
        self.try_write(book).map_err(|source| UsageFileError { path: self.path.clone(), source })
    }

    fn try_write(&mut self, book: &Arc<UseBook>) -> io::Result<()> {
        let mut file = open(&self.path)?;
        lock(&file)?;
        let meta = file.metadata()?;
        let id = Some(FileId { device: meta.dev(), inode: meta.ino() });
        let length = whole_lines(&mut file)?;
        // Somebody else has rotated the file, or we have just started.
        let anew = self.known != id || length < self.left;
        if length != meta.len() {
            file.set_len(length)?;
        }
        let since = if anew { 0 } else { self.since.unwrap_or(0) };
        let mut pages = UsePages::new(book, since);
        let mut written = 0;
        loop {
            let mut page = Vec::new();
            let more = pages.next_page(&mut page);
            if let Err(error) = file.write_all(&page) {
                // Half a record would claim that the other half was not used.
                file.set_len(length)?;
                return Err(error);
            }
            written += page.len() as u64;
            if !more {
                break;
            }
        }
        if anew {
            self.first = written;
        }
        (self.known, self.since) = (id, Some(pages.next_since()));
        self.left = length + written;
        if length + written > LENGTH.max(self.first * 4) {
            self.rotate()?;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |n: u32| match n {
            0 => self.path.clone(),
            n => {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".{n}"));
                PathBuf::from(name)
            }
        };
        for n in (0..KEPT).rev() {
            match std::fs::rename(numbered(n), numbered(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.known = None;
        Ok(())
    }
}

/// While one process replaces another, both write, and each record has to stay in one piece.
fn lock(file: &File) -> io::Result<()> {
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::ResourceBusy,
        "another process writes to it\nhint: give each sidecar a file of its own",
    ))
}

/// Ensures that the file can be written, without writing to it. If it does not exist, creates an
/// empty one.
pub fn open_usage_file(path: &Path) -> Result<(), UsageFileError> {
    let error = |source| UsageFileError { path: path.to_owned(), source };
    let mut file = open(path).map_err(error)?;
    whole_lines(&mut file).map(|_| ()).map_err(error)
}

/// Whether records may be appended to the file. Changes nothing.
pub fn check_usage_file(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(meta) if !meta.is_file() => Err(no_regular_file()),
        Ok(_) | Err(_) => whole_lines(&mut File::open(path)?).map(|_| ()),
    }
}

/// The mode of an existing file that everybody on this machine can read. After [`open_usage_file`],
/// that is a file of another user, which keygate could not change.
pub fn open_mode(path: &Path) -> Option<u32> {
    const OTHERS_READ: u32 = 0o004;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o7777;
    (mode & OTHERS_READ != 0).then_some(mode)
}

/// Opens it to read its beginning and to write at its end. Its readers learn which key is used from
/// where.
fn open(path: &Path) -> io::Result<File> {
    match std::fs::metadata(path) {
        // Opening a pipe would wait for a reader.
        Ok(meta) if !meta.is_file() => return Err(no_regular_file()),
        Ok(_) | Err(_) => {}
    }
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let mode = file.metadata()?.permissions().mode();
    if mode & OTHERS != 0 {
        // It was created with `touch`, or by another program. A file of another user stays as it
        // is.
        file.set_permissions(Permissions::from_mode(mode & 0o7777 & !OTHERS)).ok();
    }
    Ok(file)
}

/// How much of the file consists of records that may stay: a crash may have left half a line. An
/// error if the file holds something else.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut head = Vec::new();
    Read::by_ref(file).take(HEAD).read_to_end(&mut head)?;
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let ours = length == 0
        || line.starts_with(b"{\"usage\":")
            && (line.len() == head.len()
                || matches!(UsageRecord::parse(line), Ok(UsageRecord::Head(_))));
    if !ours {
        return Err(invalid("it holds something else than usage records"));
    }
    let mut end = length;
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        file.seek(SeekFrom::Start(start))?;
        let part = block.get_mut(..(end - start) as usize).unwrap_or_default();
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|b| *b == b'\n') {
            let whole = start + at as u64 + 1;
            return if whole == length { Ok(whole) } else { before_torn(file, whole) };
        }
        end = start;
    }
    Ok(0)
}

/// How much of the file may stay if the line that begins at `torn` is removed. A record whose head
/// claims that it is complete cannot stay: it would say that the missing keys were not used.
fn before_torn(file: &mut File, torn: u64) -> io::Result<u64> {
    const BEGIN: &[u8] = b"\n{\"usage\":";
    let mut end = torn;
    let at = loop {
        let start = end.saturating_sub(4096);
        // This includes all of a line's beginning that the last block has cut.
        let stop = torn.min(end + BEGIN.len() as u64);
        file.seek(SeekFrom::Start(start))?;
        let mut block = Vec::new();
        Read::by_ref(file).take(stop - start).read_to_end(&mut block)?;
        match block.windows(BEGIN.len()).rposition(|bytes| bytes == BEGIN) {
            Some(found) => break start + found as u64 + 1,
            None if start == 0 => break 0,
            None => end = start,
        }
    };
    file.seek(SeekFrom::Start(at))?;
    let mut head = Vec::new();
    Read::by_ref(file).take(HEAD).read_to_end(&mut head)?;
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    match UsageRecord::parse(line) {
        Ok(UsageRecord::Head(head)) if !head.part.is_last() => Ok(torn),
        _ => Ok(at),
    }
}

fn no_regular_file() -> io::Error {
    invalid("it is no regular file")
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
