//! Small files that outlive the process: written whole or not at all. Imports `table` for its buffer.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::table::Buffer;

/// A file that stands in its place but was not yet forced to the disk.
#[derive(Debug)]
#[must_use = "call `force`"]
pub(super) struct Placed {
    file: File,
    directory: PathBuf,
}

/// Puts `bytes` in the place of `path` at once. A crash of the process leaves the old file or the
/// new one; [`Placed::force`] makes it so for a crash of the machine as well.
pub(super) fn place(path: &Path, bytes: &[u8]) -> io::Result<Placed> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    // One writer per path: the name of the temporary need not be unique, and a left-over one is
    // overwritten instead of piling up.
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".tmp");
    let temporary = directory.join(hidden);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        // A full disk should not be kept full by half a file.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(Placed { file, directory })
}

// === impl Placed ===

impl Placed {
    pub(super) fn force(self) -> io::Result<()> {
        self.file.sync_all()?;
        File::open(&self.directory)?.sync_all()
    }
}

/// `None`: there is none. More than `limit` bytes are an error.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Option<Buffer>> {
    let mut file = match File::open(path) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary is left");
    }

    #[test]
    fn a_failure_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::create_dir(&path).unwrap();
        assert!(place(&path, b"x").is_err());
        assert!(path.is_dir());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary is left");
        assert!(place(&dir.path().join("absent/state"), b"x").is_err());
    }
}
