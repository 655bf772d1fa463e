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

/// Another host, and which files were asked of it.
pub struct Noted<'h> {
    host: &'h dyn Host,
    files: RefCell<Vec<PathBuf>>,
}

/// Files that a configuration names are keys and certificates, never longer.
const MAX_FILE: u64 = 1 << 20;

/// Opens a file that is read to its end at once.
///
/// # Errors
/// Whatever opening it gives, and `InvalidInput` for what is no regular file: a named pipe would hold
/// the start, or a reload, until somebody writes into it. What the shell gives below `/dev`
/// (`/dev/stdin`, `<(…)`) has its writer already.
pub fn open_regular(path: &Path) -> io::Result<File> {
    if path.starts_with("/dev") {
        return File::open(path);
    }
    // Opening a pipe waits too, without this.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    // Reading a directory says what it is.
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

    /// Those that were asked for, whether or not they could be read.
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
        // All of it at once: a buffer that grows leaves pieces of a secret behind.
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
        // What cannot be looked at cannot be read either, which is said then.
        let Ok(meta) = std::fs::metadata(path) else { return FileAccess::default() };
        let user = rustix::process::geteuid().as_raw();
        FileAccess::of(meta.mode(), meta.uid(), user)
    }
}
