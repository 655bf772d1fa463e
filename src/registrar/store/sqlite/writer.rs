//! The one thread that writes. It gathers changes into a transaction, each under a savepoint: one
//! flush of the disk serves all of them, and one that fails takes nothing from the others.

use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::super::error::StoreError;
use super::super::publishing::Serials;
use super::connection::StoreConnection;
use crate::clock::Clock;

/// Most changes of one transaction.
const MOST: usize = 64;
/// How long a transaction stays open for more of them.
const GATHER: Duration = Duration::from_millis(2);

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
    pub(super) serials: watch::Sender<Serials>,
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
        serials: watch::Sender<Serials>,
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
        if let Err(e) = connection.execute_batch("BEGIN IMMEDIATE") {
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
            lost = connection.execute_batch("COMMIT").err().map(StoreError::from);
        }
        super::crash::point("after commit");
        match lost {
            // SQLite may have taken it back already; then there is none.
            Some(_) => drop(connection.execute_batch("ROLLBACK")),
            None => self.tell_serials(),
        }
        self.crowded = jobs.len() > 1;
        jobs.into_iter().for_each(|job| job.end(lost.as_ref()));
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
    connection.execute_batch("SAVEPOINT change")?;
    let before = store.raised.borrow().len();
    let keep = job.run(store);
    if connection.is_autocommit() {
        // A full disk or a failing one ends a transaction as a whole.
        return Err(StoreError::ReadOnly { why: "the disk is full or fails".to_owned() });
    }
    if !keep {
        store.raised.borrow_mut().truncate(before);
        connection.execute_batch("ROLLBACK TO change")?;
    }
    connection.execute_batch("RELEASE change")?;
    Ok(())
}
