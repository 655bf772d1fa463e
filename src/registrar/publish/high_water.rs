//! `high-water.json`: how far publishing has come. It lies next to the database and not in it, so
//! that restoring the database from a backup does not set it back too.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::store::{AuditHead, ChainHash};
use crate::manage::error::Error;
use crate::manage::files;

/// The file's name, in the state directory.
pub const FILE: &str = "high-water.json";

/// A larger file is not ours.
const MAX_BYTES: u64 = 1 << 20;

/// How far each audience and the audit log have come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HighWater {
    /// Version of this form.
    version: u8,
    #[serde(default)]
    pub audiences: BTreeMap<String, HighMark>,
    /// Where the audit log ended.
    #[serde(default)]
    pub audit_seq: u64,
    /// Hexadecimal hash of that line.
    #[serde(default)]
    pub audit_hash: String,
}

/// How far an audience has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HighMark {
    /// Of the newest artefact that was published.
    pub serial: u64,
    /// Of the newest table, or of the table that the newest patch is for.
    pub base: u64,
    /// The first 32 hexadecimal digits of the SHA-256 of that artefact's file.
    pub hash: String,
    /// [`IssueTerms::mark`](super::make::IssueTerms::mark) of the table. Settings with another mark
    /// need a new table.
    pub settings: String,
}

/// The file and its content.
#[derive(Debug)]
pub struct HighWaterFile {
    path: PathBuf,
    pub(super) now: HighWater,
    /// What the file on disk has, as far as this process knows.
    on_disk: HighWater,
}

// === impl HighWater ===

impl HighWater {
    const VERSION: u8 = 1;

    /// The last line of the audit log that it records.
    pub fn audit(&self) -> AuditHead {
        let hash = ChainHash::of_hex(&self.audit_hash).unwrap_or_default();
        AuditHead { seq: self.audit_seq, hash }
    }
}

// === impl HighWaterFile ===

impl HighWaterFile {
    /// Reads the file. If it does not exist, nothing has been recorded.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or that no program of ours has written. Starting without it
    /// would forget what was published.
    pub fn open(state: &Path) -> Result<Self, Error> {
        let path = state.join(FILE);
        let bytes = match files::read(&path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let now = HighWater { version: HighWater::VERSION, ..HighWater::default() };
                return Ok(Self { path, on_disk: now.clone(), now });
            }
            Err(e) => return Err(e),
        };
        let odd = |why: String| Error::Added {
            message: format!(
                "{}: is not what the service has written: {why}\nhint: it says how far publishing \
                 has come. Move it away only if you know that the database is newer than every \
                 published table",
                path.display()
            ),
            exit: crate::exit::Exit::Data,
        };
        let now: HighWater = serde_json::from_slice(&bytes).map_err(|e| odd(e.to_string()))?;
        if now.version != HighWater::VERSION {
            return Err(odd(format!("version {}", now.version)));
        }
        Ok(Self { path, on_disk: now.clone(), now })
    }

    /// The last line of the audit log that was recorded.
    pub fn audit(&self) -> AuditHead {
        self.now.audit()
    }

    /// What it records about an audience.
    pub fn mark(&self, audience: &str) -> HighMark {
        self.now.audiences.get(audience).cloned().unwrap_or_default()
    }

    /// Records how far an audience and the log have come. Never goes back. Returns whether there is
    /// anything to write, including what an earlier attempt could not write.
    pub fn raise(&mut self, audience: &str, mark: HighMark, audit: AuditHead) -> bool {
        let known = self.now.audiences.entry(audience.to_owned()).or_default();
        if mark.serial >= known.serial {
            *known = mark;
        }
        if audit.seq > self.now.audit_seq {
            self.now.audit_seq = audit.seq;
            self.now.audit_hash = audit.hash.to_string();
        }
        self.now != self.on_disk
    }

    /// Takes what another process has written since, as a recovery does. A file that nobody has
    /// written since knows less than this, if the last write failed.
    pub(super) fn follow(&mut self, read: Self) {
        if read.now != self.on_disk {
            *self = read;
        }
    }

    /// Takes the result of a recovery, even if it is lower.
    pub fn settle(&mut self, audit: AuditHead) {
        self.now.audit_seq = audit.seq;
        self.now.audit_hash = audit.hash.to_string();
    }

    /// Replaces the file, and waits for the disk.
    ///
    /// # Errors
    ///
    /// A disk that cannot be written.
    pub fn write(&mut self) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(&self.now).unwrap_or_default();
        files::replace(&self.path, format!("{text}\n").as_bytes())?;
        self.on_disk = self.now.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(seq: u64) -> AuditHead {
        AuditHead { seq, hash: ChainHash([seq as u8; 32]) }
    }

    #[test]
    fn it_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = HighWaterFile::open(dir.path()).unwrap();
        let mark = |serial| HighMark { serial, base: 1, ..HighMark::default() };
        assert!(file.raise("shop", mark(7), head(3)));
        assert!(file.raise("shop", mark(5), head(2)), "it is not on the disk yet");
        file.write().unwrap();
        assert!(!file.raise("shop", mark(5), head(2)));
        assert!(file.raise("app", mark(5), head(2)));
        file.write().unwrap();
        let again = HighWaterFile::open(dir.path()).unwrap();
        assert_eq!(again.now, file.now);
        assert_eq!((again.mark("shop").serial, again.mark("new").serial), (7, 0));
        assert_eq!(again.now.audit(), head(3));
    }

    #[test]
    fn only_what_another_process_has_written_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let read = || HighWaterFile::open(dir.path()).unwrap();
        let mut file = read();
        file.raise("shop", HighMark::default(), head(7));
        file.write().unwrap();
        // On a full disk it stays in memory.
        file.raise("shop", HighMark::default(), head(9));
        file.follow(read());
        assert_eq!(file.audit(), head(9));
        let mut recovery = read();
        recovery.settle(head(4));
        recovery.write().unwrap();
        file.follow(read());
        assert_eq!(file.audit(), head(4));
    }

    #[test]
    fn a_file_that_is_not_ours_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "{", "[]", "{\"version\": 2}", "{\"version\": 1, \"x\": 1}"] {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let error = HighWaterFile::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("is not what the service has written"), "{text}: {error}");
        }
    }
}
