//! Four threads that read, each with a connection that cannot write.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::error::StoreError;
use super::connection::{StoreConnection, StoreTerms};
use super::{ConnectionPurpose, Database};

const READERS: usize = 4;
/// Reads that can wait. Further ones are refused as busy.
const QUEUE: usize = 1024;

/// The most short reads that share a transaction.
const TOGETHER: usize = 16;

/// A read, and where to send its answer.
pub(super) struct ReadJob {
    pub(super) work: ReadWork,
    pub(super) pace: ReadPace,
}

/// How long a read may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadPace {
    /// A row or two, found by an index: it holds nobody up, and takes no view.
    Short,
    Long,
}

/// Gets the connection, or why there is none.
pub(super) type ReadWork = Box<dyn FnOnce(Result<&StoreConnection, StoreError>) + Send>;

#[derive(Debug)]
pub(super) struct Readers {
    queue: SyncSender<ReadJob>,
}

// === impl Readers ===

impl Readers {
    pub(super) fn start(
        database: &dyn Database,
        terms: &Arc<StoreTerms>,
    ) -> Result<Self, StoreError> {
        let (queue, readings) = sync_channel::<ReadJob>(QUEUE);
        let readings = Arc::new(Mutex::new(readings));
        for number in 0..READERS {
            let connection = database.connect(ConnectionPurpose::Read)?;
            let store = StoreConnection::new(connection, Arc::clone(terms));
            let readings = Arc::clone(&readings);
            std::thread::Builder::new()
                .name(format!("store-read-{number}"))
                .spawn(move || {
                    while let Some((short, long)) = next(&readings) {
                        answer(&store, short);
                        answer(&store, long.into_iter().collect());
                    }
                })
                .map_err(StoreError::broken)?;
        }
        Ok(Self { queue })
    }

    pub(super) fn send(&self, reading: ReadJob) -> Result<(), StoreError> {
        self.queue.try_send(reading).map_err(|e| match e {
            TrySendError::Full(_) => super::fault::busy(),
            TrySendError::Disconnected(_) => super::ended(),
        })
    }
}

/// Takes short reads, and perhaps a long one. The thread that waits for them holds the lock; the
/// others wait for the lock.
fn next(readings: &Mutex<Receiver<ReadJob>>) -> Option<(VecDeque<ReadJob>, Option<ReadJob>)> {
    let readings = readings.lock().unwrap_or_else(PoisonError::into_inner);
    let mut short = VecDeque::new();
    let mut job = readings.recv().ok()?;
    loop {
        if job.pace == ReadPace::Long {
            return Some((short, Some(job)));
        }
        short.push_back(job);
        match readings.try_recv() {
            Ok(next) if short.len() < TOGETHER => job = next,
            Ok(next) => return Some((short, Some(next))),
            Err(_) => return Some((short, None)),
        }
    }
}

/// Answers them in one transaction, which begins after all of them were asked for: each sees what
/// was committed by then.
fn answer(store: &StoreConnection, mut jobs: VecDeque<ReadJob>) {
    while let Some(first) = jobs.pop_front() {
        let shares = !jobs.is_empty();
        let begun = match shares {
            true => {
                store.known.begin_sharing();
                store.connection.begin_sharing()
            }
            false => store.connection.begin_reading(),
        };
        if let Err(e) = begun {
            store.known.end_sharing();
            let e = StoreError::from(e);
            (first.work)(Err(e.clone()));
            jobs.into_iter().for_each(|job| (job.work)(Err(e.clone())));
            return;
        }
        let mut next = Some(first);
        while let Some(job) = next.take() {
            (job.work)(Ok(store));
            // The reads after one that failed get a transaction of their own.
            if !store.connection.has_failed() {
                next = jobs.pop_front();
            }
        }
        store.known.end_sharing();
        match shares {
            true => store.connection.end_sharing(),
            false => store.connection.end_reading(),
        }
    }
}
