//! The client connections of one worker, and the look at their deadlines.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::Notify;

use super::io::{CutReason, Moments};
use crate::config::Timeouts;
use crate::proxy::memory::Account;
use crate::proxy::memory::rule::StrangerConnection;

/// All open client connections of a worker. A connection never leaves its worker.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: RefCell<ConnectionSlots>,
    /// Told when connections hold so much that some have to go.
    pub(crate) pressed: Rc<Notify>,
}

#[derive(Debug, Default)]
struct ConnectionSlots {
    entries: Vec<Option<Rc<Moments>>>,
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
    pub(crate) fn register(self: &Rc<Self>, moments: Rc<Moments>) -> Registered {
        let mut slots = self.slots.borrow_mut();
        let slot = match slots.free.pop() {
            Some(slot) => slot,
            None => {
                slots.entries.push(None);
                slots.entries.len() - 1
            }
        };
        if let Some(entry) = slots.entries.get_mut(slot) {
            *entry = Some(moments);
        }
        Registered { all: Rc::clone(self), slot }
    }

    /// Cuts every connection of which a deadline has passed. Returns how many, by kind.
    pub(crate) fn sweep(&self, now_ns: u64, timeouts: &Timeouts) -> Vec<CutReason> {
        let mut cut = Vec::new();
        for moments in self.slots.borrow().entries.iter().flatten() {
            if moments.cut.get().is_none()
                && let Some(why) = moments.overdue(now_ns, timeouts)
            {
                moments.cut(why);
                cut.push(why);
            }
        }
        cut
    }

    /// Books what each connection holds, and ends those that the memory budget has no room for.
    pub(crate) fn settle(&self, account: &Account) {
        let slots = self.slots.borrow();
        let mut strangers = Vec::new();
        for (slot, moments) in slots.entries.iter().enumerate() {
            let Some(moments) = moments.as_ref().filter(|m| m.cut.get().is_none()) else {
                continue;
            };
            let bytes = moments.settle();
            if let Some(held) = moments.held().filter(|held| !held.is_admitted()) {
                strangers.push(StrangerConnection { slot, holder: held.holder(), bytes });
            }
        }
        for (slot, why) in account.to_close(&mut strangers) {
            if let Some(Some(moments)) = slots.entries.get(slot) {
                moments.give_way(why);
            }
        }
    }

    /// Cuts all, for the end of a drain.
    pub(crate) fn cut_all(&self, why: CutReason) {
        for moments in self.slots.borrow().entries.iter().flatten() {
            moments.cut(why);
        }
    }

    /// Wakes all, so that each sees that the worker drains.
    pub(crate) fn wake_all(&self) {
        for moments in self.slots.borrow().entries.iter().flatten() {
            moments.wake();
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
        // Memory of a burst goes back when the last of it is gone.
        if slots.free.len() == slots.entries.len() && slots.entries.len() > 1024 {
            *slots = ConnectionSlots::default();
        }
    }
}
