//! Connections on which nobody has shown a fleet's token yet. When all places are taken, the oldest
//! of these is closed. So clients that merely reach the listener cannot keep out those who may
//! fetch.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The strangers of one listener. Clones share one state.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers(Arc<Mutex<StrangerBook>>);

#[derive(Debug, Default)]
struct StrangerBook {
    next: u64,
    /// By number: the lowest is the oldest.
    ends: BTreeMap<u64, oneshot::Sender<()>>,
}

/// One connection, which is forgotten when it is dropped.
#[derive(Debug)]
pub(super) struct Stranger {
    strangers: Strangers,
    number: u64,
    has_asked: AtomicBool,
    is_known: AtomicBool,
}

/// Resolves when a stranger's connection has to end, and never if it turns out to belong to a
/// fleet.
#[derive(Debug)]
pub(super) struct StrangerEnd(oneshot::Receiver<()>);

// === impl Strangers ===

impl Strangers {
    pub(super) fn arrives(&self) -> (Stranger, StrangerEnd) {
        let (end, ends) = oneshot::channel();
        let mut book = self.lock();
        let number = book.next;
        book.next += 1;
        book.ends.insert(number, end);
        let (has_asked, is_known) = (AtomicBool::new(false), AtomicBool::new(false));
        let stranger = Stranger { strangers: self.clone(), number, has_asked, is_known };
        (stranger, StrangerEnd(ends))
    }

    /// Ends the oldest. `false`: there is none.
    pub(super) fn give_way(&self) -> bool {
        let oldest = self.lock().ends.pop_first();
        // A connection that is over returns its place in any case.
        oldest.map(|(_, end)| end.send(())).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, StrangerBook> {
        // Wherever a thread could panic, number and map are consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Stranger ===

impl Stranger {
    /// A request has arrived; `is_of_fleet`: whether it shows a fleet's token.
    pub(super) fn asks(&self, is_of_fleet: impl FnOnce() -> bool) {
        self.has_asked.store(true, Ordering::Relaxed);
        if !self.is_known.load(Ordering::Relaxed) && is_of_fleet() {
            self.is_known.store(true, Ordering::Relaxed);
            self.strangers.lock().ends.remove(&self.number);
        }
    }

    /// Whether a request has arrived.
    pub(super) fn has_asked(&self) -> bool {
        self.has_asked.load(Ordering::Relaxed)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.lock().ends.remove(&self.number);
    }
}

// === impl StrangerEnd ===

impl StrangerEnd {
    pub(super) async fn comes(self) {
        // Nobody is left who could send it.
        if self.0.await.is_err() {
            pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_without_a_token_gives_way() {
        let strangers = Strangers::default();
        assert!(!strangers.give_way(), "nobody is there");
        let (known, mut its_end) = strangers.arrives();
        let (first, mut first_end) = strangers.arrives();
        let (second, mut second_end) = strangers.arrives();
        known.asks(|| true);
        second.asks(|| false);
        assert!(strangers.give_way());
        assert!(first_end.0.try_recv().is_ok(), "it came first");
        assert!(second_end.0.try_recv().is_err());
        drop(first);
        assert!(strangers.give_way());
        assert!(second_end.0.try_recv().is_ok());
        assert!(!strangers.give_way(), "who has a token stays");
        assert!(its_end.0.try_recv().is_err());
        drop((known, second));
        assert!(strangers.lock().ends.is_empty());
    }
}
