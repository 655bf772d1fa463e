//! The store on SQLite: one file.
//!
//! Everything that is acknowledged is on the disk (`synchronous=FULL`).

mod backup;
mod open;
mod schema;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

pub use self::backup::BackupManifest;
use super::error::StoreError;
use super::people::OrgRules;
use super::sql::driver::{SearchIndex, SqlConnection};
pub use super::sql::{AudienceTerms, SchemaState};
use super::sql::{ConnectionPurpose, Database, ReadyDatabase, SqlStore};
use crate::clock::Clock;

/// How to open a database.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The database's file, in the state directory.
    pub path: PathBuf,
    /// From the configuration. Opening adds rows for new ones.
    pub audiences: Vec<AudienceTerms>,
    /// For orgs that have set none.
    pub rules: OrgRules,
    /// How long a change waits while another process writes. 5 s is usual.
    pub busy_timeout: Duration,
    pub clock: Clock,
}

/// Databases in files.
#[derive(Clone, Copy, Debug)]
pub struct SqliteStore;

/// One of them.
#[derive(Debug)]
struct DatabaseFile {
    path: PathBuf,
    busy_timeout: Duration,
}

// === impl SqliteStore ===

impl SqliteStore {
    /// Opens the database, creates it if it does not exist, and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// A newer schema; a database of another program; a network file system; a directory or disk
    /// that cannot be written.
    pub fn open(options: SqliteOptions) -> Result<SqlStore, StoreError> {
        let SqliteOptions { path, audiences, rules, busy_timeout, clock } = options;
        open::prepare(&path)?;
        let mut connection = open::connect(&path, ConnectionPurpose::Write, busy_timeout)?;
        schema::migrate(&mut connection, schema::MIGRATIONS, clock.now().unix_ms)?;
        schema::state(&connection, schema::MIGRATIONS)?;
        drop(connection);
        let database = Arc::new(DatabaseFile { path, busy_timeout });
        SqlStore::start(ReadyDatabase {
            database,
            audiences,
            rules,
            search: SearchIndex::Fts,
            is_shared: false,
            clock,
        })
    }

    /// The version of a database's schema, without changing anything.
    ///
    /// # Errors
    ///
    /// A schema that this program cannot work on; a file that is not ours.
    pub fn schema(path: &Path, busy_timeout: Duration) -> Result<SchemaState, StoreError> {
        let connection = open::connect(path, ConnectionPurpose::Read, busy_timeout)?;
        schema::state(&connection, schema::MIGRATIONS)
    }

    /// Brings the schema up to date. Returns the versions that it put in force.
    pub fn migrate(
        path: &Path,
        busy_timeout: Duration,
        now_ms: u64,
    ) -> Result<Vec<u32>, StoreError> {
        open::prepare(path)?;
        let mut connection = open::connect(path, ConnectionPurpose::Write, busy_timeout)?;
        schema::migrate(&mut connection, schema::MIGRATIONS, now_ms)
    }

    /// Copies the database at `path` to `to`, which must not exist, and checks whether the copy is
    /// sound. `now`: Unix seconds.
    ///
    /// # Errors
    ///
    /// A copy that could not be written, which is removed; one that SQLite finds damaged.
    pub fn backup(
        path: &Path,
        to: &Path,
        busy_timeout: Duration,
        now: u64,
    ) -> Result<BackupManifest, StoreError> {
        backup::copy(path, to, busy_timeout, now)
    }
}

// === impl DatabaseFile ===

impl Database for DatabaseFile {
    fn connect(&self, purpose: ConnectionPurpose) -> Result<SqlConnection, StoreError> {
        open::connect(&self.path, purpose, self.busy_timeout).map(SqlConnection::Sqlite)
    }

    /// Moves the write-ahead log into the database on a thread of its own. The thread that writes
    /// would hold up all changes while it does so.
    fn housekeeping(&self) -> Result<Option<SyncSender<()>>, StoreError> {
        let connection = open::connect(&self.path, ConnectionPurpose::Write, self.busy_timeout)?;
        let (due, waits) = sync_channel::<()>(1);
        std::thread::Builder::new()
            .name("store-checkpoint".to_owned())
            .spawn(move || {
                while waits.recv().is_ok() {
                    // If it fails, the log stays longer. When it is long, the writer moves it, and
                    // whoever waits for that learns what is wrong.
                    let moved =
                        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
                    if let Err(error) = moved {
                        tracing::debug!(%error, "the write-ahead log stays");
                    }
                }
            })
            .map_err(StoreError::broken)?;
        Ok(Some(due))
    }
}
