//! The machine that a configuration refers to: environment and files. Imports only its neighbours.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::raw::Host;
use super::watched::FileAccess;

/// This machine, as a configuration may refer to it.
#[derive(Clone, Copy, Debug)]
pub struct ThisHost;

/// Another host, together with a record of the files that were requested from it.
pub struct Noted<'h> {
    host: &'h dyn Host,
    files: RefCell<Vec<PathBuf>>,
}

/// The files that a configuration names are keys and certificates, never longer than this.
const MAX_FILE: u64 = 1 << 20;

/// Opens a file that is immediately read to its end.
///
/// # Errors
/// Whatever opening it returns, and `InvalidInput` for anything that is not a regular file: a named
/// pipe would block the start, or a reload, until somebody writes to it. Paths below `/dev` that
/// the shell provides (`/dev/stdin`, `<(…)`) already have a writer.
pub fn open_regular(path: &Path) -> io::Result<File> {
    if path.starts_with("/dev") {
        return File::open(path);
    }
    // Without this, opening a pipe also waits.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    // Reading a directory fails with a message that says so.
    if kind.is_file() || kind.is_dir() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
}

// === impl Noted ===

impl<'h> Noted<'h> {
    pub fn new(host: &'h dyn Host) -> Self {
        Self { host, files: RefCell::default() }
    }

    /// The requested files, whether or not they could be read.
    pub fn files(self) -> Vec<PathBuf> {
        self.files.into_inner()
    }
}

impl Host for Noted<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        self.host.variable(name)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files.borrow_mut().push(path.to_owned());
        self.host.read(path)
    }

    fn is_open_to_all(&self, path: &Path) -> bool {
        self.host.is_open_to_all(path)
    }

    fn access(&self, path: &Path) -> FileAccess {
        self.host.access(path)
    }
}

// === impl ThisHost ===

impl Host for ThisHost {
    fn variable(&self, name: &str) -> Option<String> {
        #[expect(clippy::disallowed_methods, reason = "this is the place")]
        std::env::var(name).ok()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = open_regular(path)?;
        // Read everything in one go: a growing buffer leaves pieces of a secret behind.
        let length = file.metadata()?.len().min(MAX_FILE);
        let mut bytes = Vec::with_capacity(length as usize + 1);
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "is longer than 1 MiB"));
        }
        Ok(bytes)
    }

    fn is_open_to_all(&self, path: &Path) -> bool {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0)
    }

    fn access(&self, path: &Path) -> FileAccess {
        use std::os::unix::fs::MetadataExt as _;
        // A file whose metadata cannot be read cannot be read either, and that is reported then.
        let Ok(meta) = std::fs::metadata(path) else { return FileAccess::default() };
        let user = rustix::process::geteuid().as_raw();
        FileAccess::of(meta.mode(), meta.uid(), user)
    }
}
