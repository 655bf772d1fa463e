//! Copies the database into one file while it is in use, and describes the copy.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::super::error::StoreError;
use super::super::sql::driver::SqlConnection;
use super::super::sql::{ConnectionPurpose, connection, log};
use super::{open, schema};

/// What a copy contains: enough to see whether a restored one is behind.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct BackupManifest {
    /// RFC 3339.
    pub made: String,
    pub schema: u32,
    /// By audience.
    pub serials: BTreeMap<String, u64>,
    pub audit_seq: u64,
    /// Hexadecimal, of the last line.
    pub audit_hash: String,
    pub bytes: u64,
    /// Hexadecimal, of the file.
    pub sha256: String,
}

/// Copies the database at `path` to `to`, which must not exist, and checks whether the copy is
/// sound.
///
/// # Errors
///
/// A copy that could not be written, which is removed; one that SQLite finds damaged.
pub(super) fn copy(
    path: &Path,
    to: &Path,
    busy_timeout: Duration,
    now: u64,
) -> Result<BackupManifest, StoreError> {
    // `VACUUM INTO` accepts an empty file, and this one has the right mode from the first byte on.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map_err(|e| refused(to, &e))?;
    let made = fill(path, to, busy_timeout, now);
    if made.is_err() {
        fs::remove_file(to).ok();
    }
    made
}

fn fill(
    path: &Path,
    to: &Path,
    busy_timeout: Duration,
    now: u64,
) -> Result<BackupManifest, StoreError> {
    let source = open::connect(path, ConnectionPurpose::Write, busy_timeout)?;
    let name = to.to_str().ok_or_else(|| StoreError::broken("the name of the copy is no text"))?;
    source.execute("VACUUM INTO ?1", [name])?;
    drop(source);
    fs::set_permissions(to, Permissions::from_mode(0o600)).map_err(|e| refused(to, &e))?;
    let copy = open::connect(to, ConnectionPurpose::Read, busy_timeout)?;
    let sound: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if sound != "ok" {
        return Err(StoreError::broken(format!("the copy is damaged: {sound}")));
    }
    let schema = schema::state(&copy, schema::MIGRATIONS)?.found;
    let copy = SqlConnection::Sqlite(copy);
    let head = log::head(&copy)?;
    let serials = connection::serials(&copy)?.0;
    drop(copy);
    let file = File::open(to).map_err(|e| refused(to, &e))?;
    file.sync_all().map_err(|e| refused(to, &e))?;
    Ok(BackupManifest {
        made: crate::manage::time::show(now),
        schema,
        serials: serials.into_iter().map(|(name, serial)| (name.to_string(), serial)).collect(),
        audit_seq: head.seq,
        audit_hash: head.hash.to_string(),
        bytes: file.metadata().map_err(|e| refused(to, &e))?.len(),
        sha256: sha256(file).map_err(|e| refused(to, &e))?,
    })
}

fn sha256(mut file: File) -> io::Result<String> {
    let mut hash = Context::new(&SHA256);
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => hash.update(piece.get(..read).unwrap_or_default()),
        }
    }
    Ok(hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn refused(path: &Path, e: &io::Error) -> StoreError {
    StoreError::ReadOnly { why: format!("{}: {e}", path.display()) }
}
