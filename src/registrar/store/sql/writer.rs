//! The one thread that writes. It gathers changes into a transaction, each under a savepoint: one
//! flush of the disk serves all of them, and one that fails takes nothing from the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::super::error::StoreError;
use super::super::publishing::Serials;
use super::connection::StoreConnection;
use super::fault::SqlError;
use crate::clock::Clock;

/// Most changes of one transaction.
const MOST: usize = 64;
/// How long a transaction stays open for more of them.
const GATHER: Duration = Duration::from_millis(2);

/// Where PostgreSQL tells of changes: `AUDIENCE SERIAL`.
pub(in super::super) const NOTIFIED: &str = "keygate_serial";

/// What became of a piece of work.
pub(super) enum Work<T> {
    /// It changed something.
    Keep(T),
    /// It found nothing to do: what it wrote is taken back, and the answer stands.
    Undo(T),
}

/// A piece of work with somebody who waits for it.
pub(super) trait Job: Send {
    /// Under a savepoint. Whether what it wrote is to be kept.
    fn run(&mut self, store: &StoreConnection) -> bool;
    /// What it sent was refused after it had ended.
    fn fail(&mut self, why: StoreError);
    /// Tells the waiting caller. `lost`: the transaction was not committed.
    fn end(self: Box<Self>, lost: Option<&StoreError>);
}

pub(super) struct Task<F, T> {
    work: Option<F>,
    outcome: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

// === impl Task ===

impl<F, T> Task<F, T>
where
    F: FnOnce(&StoreConnection) -> Result<Work<T>, StoreError> + Send,
    T: Send,
{
    pub(super) fn new(work: F, answer: oneshot::Sender<Result<T, StoreError>>) -> Self {
        Self { work: Some(work), outcome: None, answer }
    }
}

impl<F, T> Job for Task<F, T>
where
    F: FnOnce(&StoreConnection) -> Result<Work<T>, StoreError> + Send,
    T: Send,
{
    fn run(&mut self, store: &StoreConnection) -> bool {
        let Some(work) = self.work.take() else { return false };
        let (outcome, keep) = match work(store) {
            Ok(Work::Keep(done)) => (Ok(done), true),
            Ok(Work::Undo(done)) => (Ok(done), false),
            Err(e) => (Err(e), false),
        };
        self.outcome = Some(outcome);
        keep
    }

    fn fail(&mut self, why: StoreError) {
        self.outcome = Some(Err(why));
    }

    fn end(self: Box<Self>, lost: Option<&StoreError>) {
        let outcome = match (lost, self.outcome) {
            (Some(e), _) => Err(e.clone()),
            (None, Some(outcome)) => outcome,
            (None, None) => Err(StoreError::broken("a change was not carried out")),
        };
        // A caller that went away does not learn what became of its change.
        self.answer.send(outcome).ok();
    }
}

/// The thread's state.
pub(super) struct StoreWriter {
    pub(super) store: StoreConnection,
    pub(super) queue: Receiver<Box<dyn Job>>,
    pub(super) serials: Arc<watch::Sender<Serials>>,
    pub(super) clock: Clock,
    /// Changes came together last time. Then more are likely to come, and waiting for them costs
    /// less than a flush for each.
    crowded: bool,
}

// === impl StoreWriter ===

impl StoreWriter {
    pub(super) fn new(
        store: StoreConnection,
        queue: Receiver<Box<dyn Job>>,
        serials: Arc<watch::Sender<Serials>>,
        clock: Clock,
    ) -> Self {
        Self { store, queue, serials, clock, crowded: false }
    }

    /// Until nobody can send any more.
    pub(super) fn run(mut self) {
        while let Ok(first) = self.queue.recv() {
            self.transaction(first);
        }
    }

    fn transaction(&mut self, first: Box<dyn Job>) {
        let connection = &self.store.connection;
        self.store.raised.borrow_mut().clear();
        if let Err(e) = connection.begin_writing() {
            let e = StoreError::from(e);
            first.end(Some(&e));
            // They would wait as long, one after the other.
            let waiting = std::iter::from_fn(|| self.queue.try_recv().ok()).take(MOST);
            waiting.for_each(|job| job.end(Some(&e)));
            return;
        }
        let begun = self.clock.now().mono_ns;
        let mut jobs = Vec::new();
        let mut next = Some(first);
        let mut lost = None;
        while let Some(mut job) = next.take() {
            lost = under_savepoint(&self.store, &mut *job).err();
            jobs.push(job);
            if lost.is_some() || jobs.len() >= MOST {
                break;
            }
            let passed = Duration::from_nanos(self.clock.now().mono_ns.saturating_sub(begun));
            let Some(left) = GATHER.checked_sub(passed) else { break };
            next = match self.queue.try_recv() {
                Ok(job) => Some(job),
                Err(TryRecvError::Empty) if self.crowded => self.queue.recv_timeout(left).ok(),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
            };
        }
        super::crash::point("before commit");
        if lost.is_none() {
            lost = self.commit().err().map(StoreError::from);
        }
        super::crash::point("after commit");
        match lost {
            // The database may have taken it back already; then there is none.
            Some(_) => connection.roll_back(),
            None => self.tell_serials(),
        }
        self.crowded = jobs.len() > 1;
        jobs.into_iter().for_each(|job| job.end(lost.as_ref()));
    }

    /// With it other instances on the same server learn that there is something to publish.
    fn commit(&self) -> Result<(), SqlError> {
        let connection = &self.store.connection;
        if connection.is_server() {
            let raised = self.store.raised.borrow();
            let newest: BTreeMap<_, _> = raised.iter().map(|r| (&r.audience, r.serial)).collect();
            for (audience, serial) in newest {
                connection
                    .prepare_cached("SELECT pg_notify(?1, ?2)")?
                    .execute_later((NOTIFIED, format!("{audience} {serial}")))?;
            }
        }
        connection.commit()
    }

    fn tell_serials(&self) {
        let raised = self.store.raised.take();
        self.serials.send_if_modified(|known| {
            for raised in &raised {
                let serial = known.0.entry(raised.audience.clone()).or_default();
                *serial = (*serial).max(raised.serial);
            }
            !raised.is_empty()
        });
    }
}

/// Runs one piece of work. An error means that the whole transaction is gone or of no use.
fn under_savepoint(store: &StoreConnection, job: &mut dyn Job) -> Result<(), StoreError> {
    let connection = &store.connection;
    connection.set_savepoint()?;
    let before = store.raised.borrow().len();
    let mut keep = job.run(store);
    // What it did not wait for is its own, and nobody else's.
    if keep && let Err(e) = connection.settle() {
        job.fail(e.into());
        keep = false;
    }
    if let Some(lost) = connection.lost() {
        return Err(lost);
    }
    if keep {
        connection.release_savepoint()?;
    } else {
        store.raised.borrow_mut().truncate(before);
        connection.undo_to_savepoint()?;
    }
    Ok(())
}
