//! `listen.reuse_port`: the kernel lets every process of the same user share the address, without
//! an error. So a file next to the state file records whose address it is.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// Held for as long as the process listens. The kernel releases it together with the process.
#[derive(Debug)]
pub(super) struct AddressLock {
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum AddressLockError {
    #[error("cannot lock {path}, which says whose the address is: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{address} is served for the audience {theirs} already, and not for {ours}\n\
         hint: listen.reuse_port is for two processes of one configuration; give each audience an \
         address of its own"
    )]
    Other { address: SocketAddr, theirs: String, ours: String },
}

/// How often and how long to wait while another process writes its name: five seconds in all.
const TRIES: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// Longest audience, in bytes.
const MAX_AUDIENCE: u64 = 128;

// === impl AddressLock ===

impl AddressLock {
    /// Joins the users of `address` for `audience`, unless somebody serves it for another one.
    pub(super) fn take(
        state_file: &Path,
        address: SocketAddr,
        audience: &str,
    ) -> Result<Self, AddressLockError> {
        let directory = state_file.parent().unwrap_or(Path::new(""));
        let path = directory.join(format!("keygate-{address}.lock"));
        let failed = |source| AddressLockError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(&path)
            .map_err(failed)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Nobody else is here: the content of the file is obsolete.
            file.set_len(0).and_then(|()| file.write_all(audience.as_bytes())).map_err(failed)?;
        }
        shared(&file).map_err(failed)?;
        // Between the two locks, somebody else may have been first.
        let mut theirs = String::new();
        let mut reader = File::open(&path).map_err(failed)?.take(MAX_AUDIENCE);
        reader.read_to_string(&mut theirs).map_err(failed)?;
        if theirs == audience {
            Ok(Self { _file: file })
        } else {
            let ours = audience.to_owned();
            Err(AddressLockError::Other { address, theirs, ours })
        }
    }
}

fn shared(file: &File) -> io::Result<()> {
    for _ in 0..TRIES {
        match flock(file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_audience_s_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let address = "127.0.0.1:8080".parse().unwrap();
        let take = |audience: &str| AddressLock::take(&state, address, audience);
        let one = take("orders-api").unwrap();
        let two = take("orders-api").unwrap();
        let said = take("billing").unwrap_err().to_string();
        assert!(said.contains("127.0.0.1:8080 is served for the audience orders-api"), "{said}");
        drop(one);
        assert!(take("billing").is_err(), "the other one still serves");
        drop(two);
        let billing = take("billing").unwrap();
        assert!(take("orders-api").is_err());
        // Another address is independent.
        AddressLock::take(&state, "127.0.0.1:8081".parse().unwrap(), "orders-api").unwrap();
        drop(billing);
    }
}
