//! The client connections of one worker, and the check of their deadlines.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::io::{Activity, CutReason};
use crate::config::Timeouts;
use crate::proxy::memory::Account;
use crate::proxy::memory::rule::StrangerConnection;

/// All open client connections of a worker. A connection never leaves its worker.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: RefCell<ConnectionSlots>,
    /// Notified when connections hold so much that some have to go.
    pub(crate) pressed: Rc<Notify>,
    /// When they were last settled.
    settled: Cell<Option<Instant>>,
}

/// The shortest time between two searches for room: a look at all connections takes a millisecond,
/// and growing connections ask for it far more often.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct ConnectionSlots {
    entries: Vec<Option<Rc<Activity>>>,
    free: Vec<usize>,
}

/// Keeps a connection registered while it is alive.
#[derive(Debug)]
pub(crate) struct Registered {
    all: Rc<Connections>,
    slot: usize,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn register(self: &Rc<Self>, activity: Rc<Activity>) -> Registered {
        let mut slots = self.slots.borrow_mut();
        let slot = match slots.free.pop() {
            Some(slot) => slot,
            None => {
                slots.entries.push(None);
                slots.entries.len() - 1
            }
        };
        if let Some(entry) = slots.entries.get_mut(slot) {
            *entry = Some(activity);
        }
        Registered { all: Rc::clone(self), slot }
    }

    /// Cuts every connection that has passed a deadline. Returns how many, by kind.
    pub(crate) fn sweep(&self, now_ns: u64, timeouts: &Timeouts) -> Vec<CutReason> {
        let mut cut = Vec::new();
        for activity in self.slots.borrow().entries.iter().flatten() {
            if activity.cut.get().is_none()
                && let Some(why) = activity.overdue(now_ns, timeouts)
            {
                activity.cut(why);
                cut.push(why);
            }
        }
        cut
    }

    /// Returns when room has to be made, at the earliest [`PAUSE`] after connections were settled.
    pub(crate) async fn pressed(&self) {
        if let Some(settled) = self.settled.get() {
            tokio::time::sleep_until(settled + PAUSE).await;
        }
        self.pressed.notified().await;
    }

    /// Books what each connection holds, and ends those that the memory budget has no room for.
    pub(crate) fn settle(&self, account: &Account) {
        let slots = self.slots.borrow();
        let mut strangers = Vec::new();
        for (slot, activity) in slots.entries.iter().enumerate() {
            let Some(activity) = activity.as_ref().filter(|m| m.cut.get().is_none()) else {
                continue;
            };
            let bytes = activity.settle();
            if let Some(held) = activity.held().filter(|held| !held.is_admitted()) {
                strangers.push(StrangerConnection { slot, holder: held.holder(), bytes });
            }
        }
        for (slot, why) in account.to_close(&mut strangers) {
            if let Some(Some(activity)) = slots.entries.get(slot) {
                activity.give_way(why);
            }
        }
        self.settled.set(Some(Instant::now()));
    }

    /// Cuts all, for the end of a drain.
    pub(crate) fn cut_all(&self, why: CutReason) {
        for activity in self.slots.borrow().entries.iter().flatten() {
            activity.cut(why);
        }
    }

    /// Wakes all, so that each notices that the worker drains.
    pub(crate) fn wake_all(&self) {
        for activity in self.slots.borrow().entries.iter().flatten() {
            activity.wake();
        }
    }

    pub(crate) fn count(&self) -> usize {
        let slots = self.slots.borrow();
        slots.entries.len() - slots.free.len()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut slots = self.all.slots.borrow_mut();
        if let Some(entry) = slots.entries.get_mut(self.slot) {
            *entry = None;
        }
        slots.free.push(self.slot);
        // Memory used during a burst is released when the last connection is gone.
        if slots.free.len() == slots.entries.len() && slots.entries.len() > 1024 {
            *slots = ConnectionSlots::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn who_grows_makes_nobody_look_without_a_pause() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let connections = Connections::default();
            let is_pressed = || {
                let mut pressed = std::pin::pin!(connections.pressed());
                let mut cx = Context::from_waker(Waker::noop());
                matches!(pressed.as_mut().poll(&mut cx), Poll::Ready(()))
            };
            connections.pressed.notify_one();
            assert!(is_pressed(), "the first look is due at once");
            // As if no time had passed since the last one.
            connections.settled.set(Some(Instant::now() + Duration::from_secs(3600)));
            connections.pressed.notify_one();
            assert!(!is_pressed(), "the second is not");
            connections.settled.set(Instant::now().checked_sub(PAUSE));
            // A request for room in between is not forgotten.
            connections.pressed().await;
            assert!(!is_pressed());
        });
    }
}
