//! Space for the bodies of reviews, over all connections. When it is used up, the longest body
//! gives way. Reviews of API servers are a few kilobytes long and arrive whole, so a client that
//! sends much, slowly, gives way to them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Bodies that are being read or answered.
#[derive(Debug)]
pub(super) struct BodyRoom(Mutex<HeldBodies>);

#[derive(Debug)]
struct HeldBodies {
    /// Bytes.
    most: usize,
    held: usize,
    /// By number; a higher one arrived later.
    bodies: BTreeMap<u64, HeldBody>,
    next: u64,
}

#[derive(Debug)]
struct HeldBody {
    bytes: usize,
    /// Dropping it ends the reading.
    _end: oneshot::Sender<()>,
}

/// What one body occupies; returned when dropped.
#[derive(Debug)]
pub(super) struct BodyPlace<'r> {
    room: &'r BodyRoom,
    number: u64,
}

// === impl BodyRoom ===

impl BodyRoom {
    /// `most`: bytes of all bodies together.
    pub(super) fn new(most: usize) -> Self {
        Self(Mutex::new(HeldBodies { most, held: 0, bodies: BTreeMap::new(), next: 0 }))
    }

    /// A place for a body of which nothing has arrived yet, and what resolves when it has to give
    /// way.
    pub(super) fn take(&self) -> (BodyPlace<'_>, oneshot::Receiver<()>) {
        let (end, ended) = oneshot::channel();
        let mut held = self.lock();
        let number = held.next;
        held.next += 1;
        held.bodies.insert(number, HeldBody { bytes: 0, _end: end });
        (BodyPlace { room: self, number }, ended)
    }

    fn lock(&self) -> MutexGuard<'_, HeldBodies> {
        // Wherever a thread could panic, numbers and map are consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl HeldBodies ===

impl HeldBodies {
    fn give_back(&mut self, number: u64) {
        if let Some(body) = self.bodies.remove(&number) {
            self.held = self.held.saturating_sub(body.bytes);
        }
    }
}

// === impl BodyPlace ===

impl BodyPlace<'_> {
    /// This much more of the body has arrived.
    pub(super) fn grow(&self, bytes: usize) {
        let mut held = self.room.lock();
        let Some(body) = held.bodies.get_mut(&self.number) else { return };
        body.bytes = body.bytes.saturating_add(bytes);
        held.held = held.held.saturating_add(bytes);
        while held.held > held.most {
            let longest =
                held.bodies.iter().max_by_key(|(number, body)| (body.bytes, Reverse(**number)));
            let Some(number) = longest.map(|(number, _)| *number) else { return };
            held.give_back(number);
        }
    }
}

impl Drop for BodyPlace<'_> {
    fn drop(&mut self) {
        self.room.lock().give_back(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gives_way_and_of_two_the_older_one() {
        let room = BodyRoom::new(100);
        let (short, mut short_ends) = room.take();
        let (old, mut old_ends) = room.take();
        let (new, mut new_ends) = room.take();
        short.grow(10);
        old.grow(45);
        new.grow(44);
        assert!(old_ends.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty));
        new.grow(1);
        assert!(new_ends.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty));
        short.grow(1);
        assert!(old_ends.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
        // A body that gave way takes no space any more, and neither does one that was dropped.
        old.grow(1000);
        drop(new);
        short.grow(89);
        assert!(short_ends.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty));
        short.grow(1);
        assert!(short_ends.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
        assert_eq!(room.lock().held, 0);
    }
}
