//! Four threads that read, each with a connection that cannot write.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::error::StoreError;
use super::connection::{StoreConnection, StoreTerms};
use super::{ConnectionPurpose, Database};

const READERS: usize = 4;
/// Reads that wait. More are refused as busy.
const QUEUE: usize = 1024;

/// Something to read, with its answer's way back.
pub(super) struct ReadJob(pub(super) ReadWork);

/// Gets the connection, or why there is none.
type ReadWork = Box<dyn FnOnce(Result<&StoreConnection, StoreError>) + Send>;

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
                    while let Some(reading) = next(&readings) {
                        match store.connection.begin_reading() {
                            Ok(()) => (reading.0)(Ok(&store)),
                            Err(e) => (reading.0)(Err(e.into())),
                        }
                        store.connection.end_reading();
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

/// Whoever waits for one holds the lock; the others wait for the lock.
fn next(readings: &Mutex<Receiver<ReadJob>>) -> Option<ReadJob> {
    readings.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
