//! Reads a table or patch from a path: bounded, once, and only when it may have changed. Imports
//! `core` for its digest, `table` for its buffer, `remote` for its error.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::Digest;
use crate::remote::RemoteFileError;
use crate::table::Buffer;

/// Why a source returned nothing. The word is a metric label.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("changed while it was read; the publisher should rename a finished file into place")]
    Changing,
    #[error(transparent)]
    Credential(#[from] RemoteFileError),
    #[error("the server compressed it (`content-encoding: {0}`), which was not asked for")]
    Encoding(String),
    #[error("cannot read {path}: {source}{}", hint_of(source))]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} does not exist\nhint: `keygatectl table build` makes one")]
    Missing { path: PathBuf },
    #[error("{0}")]
    Network(String),
    #[error("{path} is not a regular file")]
    NotRegular { path: PathBuf },
    #[error("the server sent more redirects than are followed, or one to another scheme")]
    Redirect,
    #[error("{path} holds {found} files ending in .{suffix}\nhint: leave one, or name the file")]
    Several { path: PathBuf, found: usize, suffix: &'static str },
    #[error("the server answered {status}")]
    Status { status: u16, retry_after: Option<Duration> },
    #[error("no answer in time: {0}")]
    Timeout(String),
    #[error("{bytes} bytes, at most {limit} are allowed\nhint: raise `max_bytes` of the table")]
    TooLarge { bytes: u64, limit: u64 },
}

/// What helps with a file that exists and cannot be read.
fn hint_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "\nhint: let the user that runs keygate read it, and enter every directory above it"
        }
        _ => "",
    }
}

/// A file's identity and times: while they are unchanged, so is its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// One path that is checked again and again.
#[derive(Clone, Debug)]
pub(super) struct PathSource {
    path: PathBuf,
    /// Extension of the one file that is used when `path` is a directory.
    suffix: &'static str,
    max_bytes: u64,
    seen: Option<SeenFile>,
    /// Its absence also counts as content.
    may_be_missing: bool,
}

/// A version of the file as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenFile {
    stamp: FileStamp,
    /// The file was so fresh when it was read that a later write could leave the same times.
    fresh: bool,
    /// Digest of the first [`HEAD`] bytes: distinguishes a fresh file from its successor without
    /// reading all of a large one. The head of a table holds the hash of the rest.
    head: [u8; 32],
}

/// What was read. The second part is returned to [`PathSource::processed`].
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) bytes: Buffer,
    pub(super) seen: SeenFile,
}

/// Bytes that are compared when times prove nothing. Covers a small patch completely.
const HEAD: u64 = 64 * 1024;

// === impl SourceError ===

impl SourceError {
    /// Every word, for metrics and docs.
    pub const REASONS: &'static [&'static str] = &[
        "changing",
        "credential",
        "encoding",
        "missing",
        "network",
        "not_regular",
        "read",
        "redirect",
        "several",
        "status",
        "timeout",
        "too_large",
    ];

    pub fn reason(&self) -> &'static str {
        match self {
            Self::Changing => "changing",
            Self::Credential(_) => "credential",
            Self::Encoding(_) => "encoding",
            Self::Io { .. } => "read",
            Self::Missing { .. } => "missing",
            Self::Network(_) => "network",
            Self::NotRegular { .. } => "not_regular",
            Self::Redirect => "redirect",
            Self::Several { .. } => "several",
            Self::Status { .. } => "status",
            Self::Timeout(_) => "timeout",
            Self::TooLarge { .. } => "too_large",
        }
    }
}

// === impl FileStamp ===

impl FileStamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether a write right after `wall` could leave the times unchanged. File times advance with
    /// the kernel's tick (up to 10 ms), on some network file systems once a second.
    fn is_fresh(&self, wall_ms: u64) -> bool {
        let coarse = self.modified.1 == 0 && self.changed.1 == 0;
        let tolerance_ms = if coarse { 2_500 } else { 100 };
        let changed_ms = self.changed.0.max(0) as u64 * 1000 + self.changed.1 as u64 / 1_000_000;
        wall_ms.abs_diff(changed_ms) < tolerance_ms
    }
}

// === impl PathSource ===

impl PathSource {
    pub(super) fn new(path: &Path, suffix: &'static str, max_bytes: u64) -> Self {
        Self { path: path.to_owned(), suffix, max_bytes, seen: None, may_be_missing: false }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself: `path`, or the one file in it.
    pub(super) fn file(&self) -> Result<PathBuf, SourceError> {
        let io = |source| SourceError::of_io(&self.path, source);
        if !std::fs::metadata(&self.path).map_err(io)?.is_dir() {
            return Ok(self.path.clone());
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(io)? {
            let path = entry.map_err(io)?.path();
            // A hidden file is somebody's temporary file, or Kubernetes' `..data`.
            let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
            if !hidden && path.extension().is_some_and(|e| e == self.suffix) {
                found.push(path);
            }
        }
        match (found.pop(), found.len()) {
            (Some(one), 0) => Ok(one),
            (None, _) => {
                Err(SourceError::Missing { path: self.path.join(format!("*.{}", self.suffix)) })
            }
            (Some(_), more) => Err(SourceError::Several {
                path: self.path.clone(),
                found: more + 1,
                suffix: self.suffix,
            }),
        }
    }

    /// Whether the file may differ from the one last [`processed`](Self::processed). Opens it only
    /// if its times prove nothing.
    pub(super) fn may_differ(&mut self, wall_ms: u64) -> Result<bool, SourceError> {
        let path = self.file()?;
        let io = |source| SourceError::of_io(&path, source);
        let stamp = FileStamp::of(&std::fs::metadata(&path).map_err(io)?);
        let Some(seen) = self.seen.as_mut().filter(|seen| seen.stamp == stamp) else {
            return Ok(true);
        };
        if seen.fresh {
            let mut head = Vec::new();
            open(&path).and_then(|f| f.take(HEAD).read_to_end(&mut head)).map_err(io)?;
            if Digest::of(&head).0 != seen.head {
                return Ok(true);
            }
            seen.fresh = stamp.is_fresh(wall_ms);
        }
        Ok(false)
    }

    /// The current length of the file.
    pub(super) fn bytes(&self) -> Option<u64> {
        Some(std::fs::metadata(self.file().ok()?).ok()?.len())
    }

    /// Reads the whole file, whether or not it has changed.
    pub(super) fn read(&self, wall_ms: u64) -> Result<Contents, SourceError> {
        let path = self.file()?;
        let io = |source| SourceError::of_io(&path, source);
        let mut file = open(&path).map_err(io)?;
        let before = file.metadata().map_err(io)?;
        if !before.is_file() {
            return Err(SourceError::NotRegular { path });
        }
        let stamp = FileStamp::of(&before);
        if stamp.bytes > self.max_bytes {
            return Err(SourceError::TooLarge { bytes: stamp.bytes, limit: self.max_bytes });
        }
        let bytes = Buffer::read(&mut file, stamp.bytes, stamp.bytes).map_err(io)?;
        let after = FileStamp::of(&file.metadata().map_err(io)?);
        // Written in place meanwhile: the bytes may be half of each version. A rename does not
        // matter, because the open file is the complete old one (its change time moves with the
        // link count).
        if (after.bytes, after.modified) != (stamp.bytes, stamp.modified)
            || bytes.len() as u64 != stamp.bytes
        {
            return Err(SourceError::Changing);
        }
        let Digest(head) = Digest::of(bytes.get(..HEAD as usize).unwrap_or(&bytes));
        let seen = SeenFile { stamp, fresh: stamp.is_fresh(wall_ms), head };
        Ok(Contents { bytes, seen })
    }

    /// Records that this version need not be looked at again. Returns whether it seems to differ
    /// from the last one, by its head or its length.
    pub(super) fn processed(&mut self, seen: SeenFile) -> bool {
        let is_same = |old: &SeenFile| (old.head, old.stamp.bytes) == (seen.head, seen.stamp.bytes);
        !self.seen.replace(seen).as_ref().is_some_and(is_same)
    }

    pub(super) fn set_max_bytes(&mut self, max_bytes: u64) {
        self.max_bytes = max_bytes;
    }

    pub(super) fn allow_missing(&mut self) {
        self.may_be_missing = true;
    }

    /// The file is missing. Returns whether that differs from what was last
    /// [`processed`](Self::processed).
    pub(super) fn missed(&mut self) -> bool {
        self.may_be_missing && self.seen.take().is_some()
    }

    /// The next look reads the file, whatever its times are.
    pub(super) fn forget(&mut self) {
        self.seen = None;
    }
}

impl SourceError {
    pub(super) fn of_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path },
            _ => Self::Io { path, source },
        }
    }
}

/// Without NONBLOCK, a named pipe would block the open for ever.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests;
