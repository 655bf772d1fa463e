//! The file of used quotas: read at the start, written while the process runs and when it ends.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::clock::Clock;
use crate::proxy::LimitStore;

/// The most that is lost when the process is killed.
const EVERY: Duration = Duration::from_secs(10);

/// Two million buckets. keygate never wrote more.
const MAX_BYTES: u64 = 64 << 20;

/// Keeps the used part of quotas in a file.
pub(super) struct QuotaFile {
    path: PathBuf,
    limits: Arc<LimitStore>,
    clock: Clock,
    /// What the file holds.
    written: Vec<u8>,
    has_failed: bool,
}

// === impl QuotaFile ===

impl QuotaFile {
    /// Reads the file. A damaged file is moved aside: it must not keep the service down.
    pub(super) fn open(path: PathBuf, limits: &Arc<LimitStore>, clock: &Clock) -> Self {
        let file = Self {
            path,
            limits: Arc::clone(limits),
            clock: clock.clone(),
            written: Vec::new(),
            has_failed: false,
        };
        match read(&file.path) {
            Ok(None) => {}
            Ok(Some(bytes)) => file.restore(&bytes),
            Err(error) => {
                let path = file.path.display();
                tracing::error!(%path, %error, "used quotas cannot be read; they begin anew");
            }
        }
        file
    }

    fn restore(&self, bytes: &[u8]) {
        let path = self.path.display();
        match self.limits.restore(bytes, self.clock.now()) {
            Ok(buckets) => tracing::info!(%path, buckets, "used quotas were read"),
            Err(error) => {
                let aside = self.path.with_extension("damaged");
                let kept = std::fs::rename(&self.path, &aside).is_ok();
                tracing::error!(
                    %path,
                    %error,
                    aside = kept.then(|| aside.display().to_string()),
                    "used quotas cannot be read; they begin anew"
                );
            }
        }
    }

    /// Runs until it is stopped, and then writes once more.
    pub(super) fn run(&mut self, stop: &Receiver<()>) {
        loop {
            let told = stop.recv_timeout(EVERY);
            self.write();
            if let Err(RecvTimeoutError::Disconnected) = told {
                return;
            }
        }
    }

    fn write(&mut self) {
        let bytes = self.limits.keep(self.clock.now());
        if bytes == self.written {
            return;
        }
        match replace(&self.path, &bytes) {
            Ok(()) => (self.written, self.has_failed) = (bytes, false),
            Err(error) => {
                if !std::mem::replace(&mut self.has_failed, true) {
                    let path = self.path.display();
                    tracing::error!(
                        %path,
                        %error,
                        "used quotas cannot be written: a restart would forget what was used since\n\
                         hint: see whether the disk is full and keygate may write in the directory"
                    );
                }
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(meta) if !meta.is_file() => Err(io::Error::other("it is no regular file")),
        Ok(meta) if meta.len() > MAX_BYTES => Err(io::ErrorKind::FileTooLarge.into()),
        Ok(_) => std::fs::read(path).map(Some),
    }
}

/// By rename, so that a reader always sees one complete state.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut new = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    new.write_all(bytes)?;
    new.as_file().sync_data()?;
    new.persist(path)?;
    Ok(())
}
