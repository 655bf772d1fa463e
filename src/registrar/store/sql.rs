//! The store on a database that speaks SQL: one thread that writes, four that read, and the
//! statements of both. [`super::sqlite`] and [`super::postgres`] supply the database.
//!
//! Everything that is acknowledged is on the disk. Readers see the last commit and wait for nobody.
//! Other processes may work on the same database: `keygatectl admin revoke` does so while the
//! service runs.

mod apply;
pub(super) mod connection;
mod contract;
pub(in crate::registrar) mod crash;
mod dialect;
pub(super) mod driver;
mod due;
mod embed;
pub(super) mod fault;
mod import;
mod keys;
mod known;
mod lease;
pub(super) mod list;
pub(super) mod log;
mod people;
mod publish;
mod readers;
mod recover;
mod refusals;
mod rows;
pub(super) mod server;
mod unindexed;
mod usage;
pub(super) mod value;
pub(super) mod writer;

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

pub use self::connection::AudienceTerms;
use self::connection::{StoreConnection, StoreTerms};
use self::driver::{SearchIndex, SqlConnection};
use self::readers::{ReadJob, ReadPace, ReadWork, Readers};
use self::refusals::Refusals;
use self::writer::{Job, StoreWriter, Task, Work};
use super::error::StoreError;
use super::names::AudienceName;
use super::people::OrgRules;
use super::publishing::{KeySnapshot, Serials};
use crate::clock::Clock;
use crate::manage::operation::{NoRandomness, RandomSource};

/// Changes that can wait for the writer. Further ones are refused as busy.
const QUEUE: usize = 1024;
/// Batches of a snapshot that can wait for its reader.
const SNAPSHOT_QUEUE: usize = 4;
/// Connections that are kept for the next snapshots: one for a table, one for patches.
const IDLE: usize = 2;

/// The version of a database's schema, and whether this program can work on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaState {
    /// 0: the database is empty.
    pub found: u32,
    pub known: u32,
}

/// One step from one version of the schema to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    pub(super) version: u32,
    /// The oldest version whose programs still work on the result of this step. It is one version
    /// before this one, so that a program of the previous release runs until it is replaced.
    pub(super) serves: u32,
    pub(super) sql: &'static str,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionPurpose {
    Read,
    Write,
}

/// Where connections come from.
pub(super) trait Database: std::fmt::Debug + Send + Sync {
    fn connect(&self, purpose: ConnectionPurpose) -> Result<SqlConnection, StoreError>;

    /// Starts what has to be done now and then after commits. It ends with the sender. `None`: the
    /// database does so by itself.
    fn housekeeping(&self) -> Result<Option<SyncSender<()>>, StoreError> {
        Ok(None)
    }
}

/// A database whose schema is up to date.
#[derive(Debug)]
pub(super) struct ReadyDatabase {
    pub(super) database: Arc<dyn Database>,
    /// From the configuration. Rows for new ones are added.
    pub(super) audiences: Vec<AudienceTerms>,
    /// For orgs that have set none.
    pub(super) rules: OrgRules,
    pub(super) search: SearchIndex,
    /// Other instances may work on it.
    pub(super) is_shared: bool,
    pub(super) clock: Clock,
}

/// A store on a database.
#[derive(Debug)]
pub struct SqlStore {
    database: Arc<dyn Database>,
    terms: Arc<StoreTerms>,
    queue: SyncSender<Box<dyn Job>>,
    readers: Readers,
    serials: Arc<watch::Sender<Serials>>,
    refusals: Arc<Refusals>,
    is_shared: bool,
    idle: Arc<IdleConnections>,
}

/// Connections of snapshots that have ended. Opening one costs more than a short snapshot does.
#[derive(Debug, Default)]
struct IdleConnections(Mutex<Vec<StoreConnection>>);

/// Where a snapshot's connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SnapshotConnection {
    Kept,
    New,
}

/// The operating system's.
struct SystemRandom;

// === impl SqlStore ===

impl SqlStore {
    /// Starts its threads. Do not call it within an asynchronous task: connections have their own
    /// runtime.
    pub(super) fn start(ready: ReadyDatabase) -> Result<Self, StoreError> {
        let ReadyDatabase { database, audiences, rules, search, is_shared, clock } = ready;
        let connection = database.connect(ConnectionPurpose::Write)?;
        connection.begin_writing()?;
        connection::add_audiences(&connection, &audiences)?;
        let known = connection::serials(&connection)?;
        connection.commit()?;
        let terms = Arc::new(StoreTerms { audiences, rules, search });
        let readers = Readers::start(&*database, &terms)?;
        let serials = Arc::new(watch::Sender::new(known));
        let (queue, jobs) = sync_channel(QUEUE);
        let store = StoreConnection::new(connection, Arc::clone(&terms));
        let refusals = Arc::<Refusals>::default();
        let housekeeping = database.housekeeping()?;
        let shared = (Arc::clone(&serials), Arc::clone(&refusals));
        let writer = StoreWriter::new(store, jobs, shared, housekeeping, clock);
        std::thread::Builder::new()
            .name("store-write".to_owned())
            .spawn(move || writer.run())
            .map_err(StoreError::broken)?;
        let idle = Arc::default();
        Ok(Self { database, terms, queue, readers, serials, refusals, is_shared, idle })
    }

    /// The serials, for code that has to be notified of changes by other processes.
    pub(super) fn serials(&self) -> &Arc<watch::Sender<Serials>> {
        &self.serials
    }

    /// Has the writer do the work, and waits until it is committed.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StoreConnection) -> Result<Work<T>, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, outcome) = oneshot::channel();
        self.send(Box::new(Task::once(work, answer)), outcome).await
    }

    /// Has the writer change a key. It may have to run the change again, together with those of
    /// others.
    async fn change_key<T: Send + 'static>(
        &self,
        work: impl FnMut(&StoreConnection) -> Result<Work<T>, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, outcome) = oneshot::channel();
        self.send(Box::new(Task::change(work, answer)), outcome).await
    }

    async fn send<T>(
        &self,
        job: Box<dyn Job>,
        outcome: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match self.queue.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(fault::busy()),
            Err(TrySendError::Disconnected(_)) => return Err(ended()),
        }
        outcome.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Does something to the writer's connection.
    #[cfg(test)]
    pub(super) async fn harm(
        &self,
        harm: impl FnOnce(&SqlConnection) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.write(move |store| harm(&store.connection).map(Work::Keep)).await
    }

    /// Has a reader do the work.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StoreConnection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_at(ReadPace::Long, work).await
    }

    /// Has a reader look up a row or two.
    async fn look_up<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StoreConnection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_at(ReadPace::Short, work).await
    }

    async fn read_at<T: Send + 'static>(
        &self,
        pace: ReadPace,
        work: impl FnOnce(&StoreConnection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, outcome) = oneshot::channel();
        let work: ReadWork = Box::new(move |store| {
            answer.send(store.and_then(work)).ok();
        });
        self.readers.send(ReadJob { work, pace })?;
        outcome.await.unwrap_or_else(|_| Err(ended()))
    }

    /// A snapshot, on a thread and a connection of its own.
    async fn take_snapshot(
        &self,
        audience: &AudienceName,
        since: u64,
    ) -> Result<KeySnapshot, StoreError> {
        let known = self.serials.borrow().0.get(audience).copied().unwrap_or_default();
        let snapshot = self.snapshot_on(SnapshotConnection::Kept, audience, since).await?;
        if snapshot.serial >= known || !self.is_shared {
            return Ok(snapshot);
        }
        // A kept session may be with a server that others have left behind.
        self.snapshot_on(SnapshotConnection::New, audience, since).await
    }

    async fn snapshot_on(
        &self,
        from: SnapshotConnection,
        audience: &AudienceName,
        since: u64,
    ) -> Result<KeySnapshot, StoreError> {
        let (database, terms) = (Arc::clone(&self.database), Arc::clone(&self.terms));
        let idle = Arc::clone(&self.idle);
        let (begun, head) = oneshot::channel();
        let (to, keys) = mpsc::channel(SNAPSHOT_QUEUE);
        let audience = audience.clone();
        let send = move || {
            if since == 0 {
                // All keys, for a table: changes and readers go before it. On Linux this affects
                // the calling thread alone. If it is not allowed, nothing is lost.
                let _ = rustix::process::setpriority_process(None, 10);
            }
            let connected = match idle.take(from) {
                Some(store) => Ok(store),
                None => database
                    .connect(ConnectionPurpose::Read)
                    .map(|connection| StoreConnection::new(connection, terms)),
            };
            let connected =
                connected.and_then(|store| Ok(store.connection.begin_reading().map(|()| store)?));
            match connected {
                Ok(store) => {
                    let sent = publish::send_snapshot(&store, &audience, since, begun, &to);
                    store.connection.end_reading();
                    if sent.is_ok() {
                        idle.keep(store);
                    }
                }
                Err(e) => drop(begun.send(Err(e))),
            }
        };
        std::thread::Builder::new()
            .name("store-snapshot".to_owned())
            .spawn(send)
            .map_err(StoreError::broken)?;
        let head = head.await.unwrap_or_else(|_| Err(ended()))?;
        Ok(KeySnapshot { serial: head.serial, base: head.base, keys })
    }
}

// === impl IdleConnections ===

impl IdleConnections {
    fn take(&self, from: SnapshotConnection) -> Option<StoreConnection> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop().filter(|_| from == SnapshotConnection::Kept)
    }

    fn keep(&self, store: StoreConnection) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push(store);
        }
    }
}

impl Drop for IdleConnections {
    /// A connection to a server has a runtime of its own, which no asynchronous task may drop.
    fn drop(&mut self) {
        let idle = std::mem::take(self.0.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !idle.is_empty() {
            std::thread::spawn(move || drop(idle));
        }
    }
}

/// A thread that should live as long as the store has ended.
fn ended() -> StoreError {
    StoreError::broken("a thread of the database has ended")
}

impl RandomSource for SystemRandom {
    fn fill(&mut self, to: &mut [u8]) -> Result<(), NoRandomness> {
        aws_lc_rs::rand::fill(to).map_err(|_| NoRandomness)
    }
}
