//! The only thread that writes. It gathers changes into a transaction: one flush of the disk serves
//! all of them, and a change that fails takes nothing from the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::super::error::StoreError;
use super::super::publishing::Serials;
use super::connection::StoreConnection;
use super::fault::SqlError;
use super::refusals::Refusals;
use crate::clock::Clock;

/// The most changes in one transaction.
const MOST: usize = 64;
/// How long a transaction waits for more changes.
const GATHER: Duration = Duration::from_millis(2);
/// How long it accepts changes that are waiting already. A transaction for each would cost them
/// more.
const OPEN: Duration = Duration::from_millis(40);

/// After so many rows the database's housekeeping is due.
const HOUSEKEEPING: u64 = 2_000;

/// The channel on which PostgreSQL announces changes: `AUDIENCE SERIAL`.
pub(in super::super) const NOTIFIED: &str = "keygate_serial";

/// The result of a job's work.
pub(super) enum Work<T> {
    /// It changed something.
    Keep(T),
    /// It found nothing to do: what it wrote is taken back, and the answer is still valid.
    Undo(T),
}

/// A piece of work, and a caller that waits for it.
pub(super) trait Job: Send {
    /// Returns whether to keep what it wrote.
    fn run(&mut self, store: &StoreConnection) -> bool;
    /// It changes a key, and can be run again after its transaction was rolled back.
    fn is_change(&self) -> bool;
    /// The server refused, after the job ended, what the job had sent.
    fn fail(&mut self, why: StoreError);
    /// Answers the waiting caller. `lost`: the transaction was not committed.
    fn end(self: Box<Self>, lost: Option<&StoreError>);
}

type TaskResult<T> = Result<Work<T>, StoreError>;

type WorkOnce<T> = Box<dyn FnOnce(&StoreConnection) -> TaskResult<T> + Send>;
type RepeatedWork<T> = Box<dyn FnMut(&StoreConnection) -> TaskResult<T> + Send>;

/// How often the work can be run.
enum TaskWork<T> {
    Once(Option<WorkOnce<T>>),
    Change(RepeatedWork<T>),
}

pub(super) struct Task<T> {
    work: TaskWork<T>,
    outcome: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

// === impl Task ===

impl<T: Send> Task<T> {
    pub(super) fn once(
        work: impl FnOnce(&StoreConnection) -> TaskResult<T> + Send + 'static,
        answer: oneshot::Sender<Result<T, StoreError>>,
    ) -> Self {
        Self { work: TaskWork::Once(Some(Box::new(work))), outcome: None, answer }
    }

    pub(super) fn change(
        work: impl FnMut(&StoreConnection) -> TaskResult<T> + Send + 'static,
        answer: oneshot::Sender<Result<T, StoreError>>,
    ) -> Self {
        Self { work: TaskWork::Change(Box::new(work)), outcome: None, answer }
    }
}

impl<T: Send> Job for Task<T> {
    fn run(&mut self, store: &StoreConnection) -> bool {
        let done = match &mut self.work {
            TaskWork::Once(work) => match work.take() {
                Some(work) => work(store),
                None => return false,
            },
            TaskWork::Change(work) => work(store),
        };
        let (outcome, keep) = match done {
            Ok(Work::Keep(done)) => (Ok(done), true),
            Ok(Work::Undo(done)) => (Ok(done), false),
            Err(e) => (Err(e), false),
        };
        self.outcome = Some(outcome);
        keep
    }

    fn is_change(&self) -> bool {
        matches!(self.work, TaskWork::Change(_))
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
        // A caller that has gone does not learn what happened to its change.
        self.answer.send(outcome).ok();
    }
}

/// The thread's state.
pub(super) struct StoreWriter {
    pub(super) store: StoreConnection,
    pub(super) queue: Receiver<Box<dyn Job>>,
    pub(super) serials: Arc<watch::Sender<Serials>>,
    refusals: Arc<Refusals>,
    /// Wakes what the database needs to have done after many writes.
    housekeeping: Option<SyncSender<()>>,
    /// [`SqlConnection::written`] when it was woken last.
    ///
    /// [`SqlConnection::written`]: super::driver::SqlConnection::written
    kept_at: u64,
    pub(super) clock: Clock,
    /// Several changes came together last time. More are likely to follow, and waiting for them
    /// costs less than a flush for each.
    crowded: bool,
}

// === impl StoreWriter ===

impl StoreWriter {
    pub(super) fn new(
        store: StoreConnection,
        queue: Receiver<Box<dyn Job>>,
        (serials, refusals): (Arc<watch::Sender<Serials>>, Arc<Refusals>),
        housekeeping: Option<SyncSender<()>>,
        clock: Clock,
    ) -> Self {
        let (crowded, kept_at) = (false, 0);
        Self { store, queue, serials, refusals, housekeeping, kept_at, clock, crowded }
    }

    /// Runs until no sender is left.
    pub(super) fn run(mut self) {
        while let Ok(first) = self.queue.recv() {
            self.transaction(first);
        }
    }

    fn transaction(&mut self, first: Box<dyn Job>) {
        if let Err(e) = begin(&self.store) {
            first.end(Some(&e));
            // They would wait as long, one after the other.
            let waiting = std::iter::from_fn(|| self.queue.try_recv().ok()).take(MOST);
            waiting.for_each(|job| job.end(Some(&e)));
            return;
        }
        if let Some(head) = self.store.known.begun_at()
            && let Err(e) = self.refusals.compare(head)
        {
            self.store.connection.roll_back();
            tracing::error!(error = %e, "a write was refused");
            // What waits was accepted before this was known.
            let waiting = std::iter::once(first)
                .chain(std::iter::from_fn(|| self.queue.try_recv().ok()).take(super::QUEUE));
            waiting.for_each(|job| job.end(Some(&e)));
            return;
        }
        let begun = self.clock.now().mono_ns;
        let mut batch = Batch::new(&self.store);
        let mut next = Some(first);
        let mut lost = None;
        while let Some(job) = next.take() {
            lost = batch.run(job).err();
            if lost.is_some() || batch.jobs.len() >= MOST {
                break;
            }
            let passed = Duration::from_nanos(self.clock.now().mono_ns.saturating_sub(begun));
            if passed > OPEN {
                break;
            }
            next = match (self.queue.try_recv(), GATHER.checked_sub(passed)) {
                (Ok(job), _) => Some(job),
                (Err(TryRecvError::Empty), Some(left)) if self.crowded => {
                    self.queue.recv_timeout(left).ok()
                }
                (Err(TryRecvError::Empty | TryRecvError::Disconnected), _) => None,
            };
        }
        super::crash::point("before commit");
        if lost.is_none() {
            lost = batch.commit().err();
        }
        super::crash::point("after commit");
        let jobs = batch.jobs;
        match lost {
            // The database may have rolled it back already; then there is no transaction.
            Some(_) => self.store.connection.roll_back(),
            None => {
                self.tell_serials();
                self.keep_house();
            }
        }
        self.crowded = jobs.len() > 1;
        jobs.into_iter().for_each(|job| job.end(lost.as_ref()));
    }

    fn keep_house(&mut self) {
        let written = self.store.connection.written();
        if let Some(housekeeping) = &self.housekeeping
            && written - self.kept_at >= HOUSEKEEPING
        {
            self.kept_at = written;
            // It is at it still.
            housekeeping.try_send(()).ok();
        }
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

/// The jobs of one transaction.
struct Batch<'s> {
    store: &'s StoreConnection,
    jobs: Vec<Box<dyn Job>>,
    /// Changes run without a savepoint each, and nobody waits for their writes, because hardly any
    /// fails after it has written something. If one does, all are rolled back and run again.
    is_trusting: bool,
}

// === impl Batch ===

impl<'s> Batch<'s> {
    const fn new(store: &'s StoreConnection) -> Self {
        Self { store, jobs: Vec::new(), is_trusting: true }
    }

    /// Runs one more job. An error means that the whole transaction is gone or useless.
    fn run(&mut self, mut job: Box<dyn Job>) -> Result<(), StoreError> {
        let trusted = self.is_trusting && job.is_change();
        if self.is_trusting && !trusted {
            // It cannot be run twice.
            if let Err(e) = self.settle() {
                self.jobs.push(job);
                return Err(e);
            }
            self.is_trusting = false;
        }
        let done = match trusted {
            true => trusting(self.store, &mut *job),
            false => under_savepoint(self.store, &mut *job).map(|()| Trust::Justified),
        };
        self.jobs.push(job);
        match done? {
            Trust::Justified => Ok(()),
            Trust::Abused => self.repeat(),
        }
    }

    /// Returns whether everything so far has succeeded.
    fn settle(&mut self) -> Result<(), StoreError> {
        if !self.is_trusting {
            return Ok(());
        }
        match self.store.connection.settle() {
            Ok(()) => Ok(()),
            Err(e) => match self.store.connection.lost() {
                Some(_) => Err(e.into()),
                None => self.repeat(),
            },
        }
    }

    /// Also reports on statements that were sent and not waited for: one round trip for all of
    /// them.
    fn commit(&mut self) -> Result<(), StoreError> {
        match commit(self.store) {
            // The server refused a statement, and the commit with it.
            Err(SqlError::Server(e)) if self.is_trusting && e.is_certain() => {
                self.repeat()?;
                Ok(commit(self.store)?)
            }
            done => Ok(done?),
        }
    }

    /// Runs all jobs from the beginning, each under its own savepoint.
    fn repeat(&mut self) -> Result<(), StoreError> {
        self.is_trusting = false;
        self.store.connection.roll_back();
        begin(self.store)?;
        self.jobs.iter_mut().try_for_each(|job| under_savepoint(self.store, &mut **job))
    }
}

/// Whether a change that ran without a savepoint left nothing to undo.
enum Trust {
    Justified,
    Abused,
}

fn begin(store: &StoreConnection) -> Result<(), StoreError> {
    store.raised.borrow_mut().clear();
    store.unindexed.restore(Vec::new());
    store.known.forget();
    if let Some(head) = store.connection.begin_writing()? {
        store.known.found_head(head);
    }
    Ok(())
}

/// Also notifies other instances on the same server that there is something to publish.
fn commit(store: &StoreConnection) -> Result<(), SqlError> {
    let connection = &store.connection;
    store.known.write(connection)?;
    store.unindexed.index(connection)?;
    if connection.is_server() {
        let raised = store.raised.borrow();
        let newest: BTreeMap<_, _> = raised.iter().map(|r| (&r.audience, r.serial)).collect();
        for (audience, serial) in newest {
            connection
                .prepare_cached("SELECT pg_notify(?1, ?2)")?
                .execute_later((NOTIFIED, format!("{audience} {serial}")))?;
        }
    }
    connection.commit()
}

/// Runs a change that is trusted to fail only before it has written anything.
fn trusting(store: &StoreConnection, job: &mut dyn Job) -> Result<Trust, StoreError> {
    let connection = &store.connection;
    let (raised, written) = (store.raised.borrow().len(), connection.written());
    let before = store.known.begin_change();
    let keep = job.run(store);
    store.known.end_change(Some(before).filter(|_| !keep));
    if let Some(lost) = connection.lost() {
        return Err(lost);
    }
    if connection.has_failed() || !keep && connection.written() != written {
        return Ok(Trust::Abused);
    }
    if !keep {
        store.raised.borrow_mut().truncate(raised);
    }
    Ok(Trust::Justified)
}

/// Runs one job. An error means that the whole transaction is gone or useless.
fn under_savepoint(store: &StoreConnection, job: &mut dyn Job) -> Result<(), StoreError> {
    let connection = &store.connection;
    if !job.is_change() {
        store.known.write(connection)?;
        store.known.forget();
    }
    connection.set_savepoint()?;
    let (raised, unindexed) = (store.raised.borrow().len(), store.unindexed.added());
    let before = job.is_change().then(|| store.known.begin_change());
    let mut keep = job.run(store);
    // A failure of what it did not wait for is its own, and nobody else's.
    if keep && let Err(e) = connection.settle() {
        job.fail(e.into());
        keep = false;
    }
    store.known.end_change(before.filter(|_| !keep));
    if let Some(lost) = connection.lost() {
        return Err(lost);
    }
    if keep {
        connection.release_savepoint()?;
    } else {
        store.raised.borrow_mut().truncate(raised);
        store.unindexed.restore(unindexed);
        connection.undo_to_savepoint()?;
    }
    Ok(())
}
