//! The file of a Unix socket: who may connect, and how a listener takes it.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

/// Who may connect through a Unix socket. `None`: as the process's umask, user and group determine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketFile {
    /// Permission bits, such as `0o660`.
    pub mode: Option<u32>,
    /// Numeric ids.
    pub owner: Option<u32>,
    pub group: Option<u32>,
}

// === impl SocketFile ===

impl SocketFile {
    /// Creates the file, with its mode and owner set before anybody can connect. Nobody listens on
    /// the socket yet, and it blocks.
    ///
    /// # Errors
    ///
    /// Somebody listens there, the path is a file of another kind, or this process may not create or
    /// change it.
    pub fn bind(self, path: &Path) -> io::Result<Socket> {
        // A socket that a dead process left behind is in the way; anything else is not ours.
        if is_left_behind(path) {
            std::fs::remove_file(path)?;
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        if let Err(error) = self.apply(path) {
            // Nobody listens on it, and it would be in the way of the next start.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(socket)
    }

    /// The same, and listens.
    ///
    /// # Errors
    ///
    /// As [`SocketFile::bind`].
    pub fn listen(self, path: &Path, backlog: i32) -> io::Result<std::os::unix::net::UnixListener> {
        let socket = self.bind(path)?;
        if let Err(error) = socket.listen(backlog) {
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(std::os::fd::OwnedFd::from(socket).into())
    }

    fn apply(self, path: &Path) -> io::Result<()> {
        if self.owner.is_some() || self.group.is_some() {
            std::os::unix::fs::chown(path, self.owner, self.group)?;
        }
        match self.mode {
            Some(mode) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)),
            None => Ok(()),
        }
    }
}

/// Whether this is a socket's file on which nobody listens.
fn is_left_behind(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    is_socket && std::os::unix::net::UnixStream::connect(path).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_has_its_mode_and_replaces_what_a_dead_process_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let file = SocketFile { mode: Some(0o640), ..SocketFile::default() };
        drop(file.listen(&path, 8).unwrap());
        assert_eq!(mode_of(&path), 0o640);
        let file = SocketFile { mode: Some(0o600), ..file };
        let listener = file.listen(&path, 8).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        // This one lives.
        assert_eq!(file.bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        drop(listener);
    }

    #[test]
    fn a_file_of_another_kind_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        std::fs::write(&path, "notes").unwrap();
        assert!(SocketFile::default().bind(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "notes");
    }
}
