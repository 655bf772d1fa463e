//! The store on SQLite: one file, one thread that writes, four that read.
//!
//! Everything that is acknowledged is on the disk (`synchronous=FULL`). Readers see the last commit and
//! wait for nobody. Another process may have the file open too: `keygatectl admin revoke` works
//! while the service runs.

mod apply;
mod backup;
mod connection;
mod contract;
pub(in crate::registrar) mod crash;
mod fault;
mod import;
mod keys;
mod list;
mod log;
mod open;
mod people;
mod publish;
mod readers;
mod recover;
mod refusals;
mod schema;
#[cfg(test)]
mod tests;
mod usage;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

pub use self::backup::BackupManifest;
pub use self::connection::AudienceTerms;
use self::connection::{StoreConnection, StoreTerms};
use self::open::ConnectionPurpose;
use self::readers::{ReadJob, Readers};
use self::refusals::Refusals;
pub use self::schema::SchemaState;
use self::writer::{Job, StoreWriter, Task, Work};
use super::error::StoreError;
use super::names::AudienceName;
use super::people::OrgRules;
use super::publishing::{KeySnapshot, Serials};
use crate::clock::Clock;
use crate::manage::operation::{NoRandomness, RandomSource};

/// Changes that wait for the writer. More are refused as busy.
const QUEUE: usize = 1024;
/// Batches of a snapshot that wait for whoever takes them.
const SNAPSHOT_QUEUE: usize = 4;

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The database's file, in the state directory.
    pub path: PathBuf,
    /// Of the configuration. Rows for new ones are added.
    pub audiences: Vec<AudienceTerms>,
    /// Of orgs that have set none.
    pub rules: OrgRules,
    /// How long a change waits while another process writes. 5 s is usual.
    pub busy_timeout: Duration,
    pub clock: Clock,
}

/// A database in a file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    terms: Arc<StoreTerms>,
    busy_timeout: Duration,
    queue: SyncSender<Box<dyn Job>>,
    readers: Readers,
    serials: watch::Receiver<Serials>,
    refusals: Refusals,
}

/// The operating system's.
struct SystemRandom;

// === impl SqliteStore ===

impl SqliteStore {
    /// Opens the database, makes it if it is not there, and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// A newer schema, a database of another program, a network file system, a directory or disk that
    /// takes nothing.
    pub fn open(options: SqliteOptions) -> Result<Self, StoreError> {
        let SqliteOptions { path, audiences, rules, busy_timeout, clock } = options;
        open::prepare(&path)?;
        let mut connection = open::connect(&path, ConnectionPurpose::Write, busy_timeout)?;
        schema::migrate(&mut connection, schema::MIGRATIONS, clock.now().unix_ms)?;
        schema::state(&connection, schema::MIGRATIONS)?;
        connection::add_audiences(&connection, &audiences)?;
        let known = connection::serials(&connection)?;
        let terms = Arc::new(StoreTerms { audiences, rules });
        let readers = Readers::start(&path, busy_timeout, &terms)?;
        let (tell, serials) = watch::channel(known);
        let (queue, jobs) = sync_channel(QUEUE);
        let store = StoreConnection::new(connection, Arc::clone(&terms));
        let writer = StoreWriter::new(store, jobs, tell, clock);
        std::thread::Builder::new()
            .name("store-write".to_owned())
            .spawn(move || writer.run())
            .map_err(StoreError::broken)?;
        let refusals = Refusals::default();
        Ok(Self { path, terms, busy_timeout, queue, readers, serials, refusals })
    }

    /// What schema a database has, without changing anything.
    ///
    /// # Errors
    ///
    /// A schema that this program cannot work on; a file that is none of ours.
    pub fn schema(path: &Path, busy_timeout: Duration) -> Result<SchemaState, StoreError> {
        let connection = open::connect(path, ConnectionPurpose::Read, busy_timeout)?;
        schema::state(&connection, schema::MIGRATIONS)
    }

    /// Brings the schema up to date. The versions that it put in force.
    pub fn migrate(
        path: &Path,
        busy_timeout: Duration,
        now_ms: u64,
    ) -> Result<Vec<u32>, StoreError> {
        open::prepare(path)?;
        let mut connection = open::connect(path, ConnectionPurpose::Write, busy_timeout)?;
        schema::migrate(&mut connection, schema::MIGRATIONS, now_ms)
    }

    /// Copies the database at `path` to `to`, which must not exist, and looks whether the copy is
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

    /// Has the writer do it, and waits until it is committed.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StoreConnection) -> Result<Work<T>, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, outcome) = oneshot::channel();
        match self.queue.try_send(Box::new(Task::new(work, answer))) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(fault::busy()),
            Err(TrySendError::Disconnected(_)) => return Err(ended()),
        }
        outcome.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Has a reader do it.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StoreConnection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, outcome) = oneshot::channel();
        self.readers.send(ReadJob(Box::new(move |store| {
            answer.send(work(store)).ok();
        })))?;
        outcome.await.unwrap_or_else(|_| Err(ended()))
    }

    /// A snapshot from a thread and a connection of its own.
    async fn take_snapshot(
        &self,
        audience: &AudienceName,
        since: u64,
    ) -> Result<KeySnapshot, StoreError> {
        let connection = open::connect(&self.path, ConnectionPurpose::Read, self.busy_timeout)?;
        let store = StoreConnection::new(connection, Arc::clone(&self.terms));
        let (begun, head) = oneshot::channel();
        let (to, keys) = mpsc::channel(SNAPSHOT_QUEUE);
        let audience = audience.clone();
        std::thread::Builder::new()
            .name("store-snapshot".to_owned())
            .spawn(move || publish::send_snapshot(&store, &audience, since, begun, &to))
            .map_err(StoreError::broken)?;
        let head = head.await.unwrap_or_else(|_| Err(ended()))?;
        Ok(KeySnapshot { serial: head.serial, base: head.base, keys })
    }
}

/// A thread has ended that lives as long as the store.
fn ended() -> StoreError {
    StoreError::broken("a thread of the database has ended")
}

impl RandomSource for SystemRandom {
    fn fill(&mut self, to: &mut [u8]) -> Result<(), NoRandomness> {
        aws_lc_rs::rand::fill(to).map_err(|_| NoRandomness)
    }
}
