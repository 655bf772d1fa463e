//! The stream registry: every request that runs on this worker, from admission to the last byte
//! of its response. It is what deadlines of requests and changes of the table act on.
//!
//! Registering is a push into a slab, so short responses pay next to nothing for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use crate::config::Settings;
use crate::core::decision::Ticket;
use crate::core::{Keys, Now, Reason};
use crate::snapshot::Snapshot;

/// All running requests of a worker.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    slots: RefCell<Slots>,
    generation: Cell<u32>,
    latest: Cell<Option<StreamRef>>,
}

#[derive(Debug, Default)]
struct Slots {
    entries: Vec<Entry>,
    free: Vec<usize>,
    /// The settings that running requests were decided under, oldest first; usually one.
    settings: Vec<(Arc<Settings>, usize)>,
}

#[derive(Debug)]
struct Entry {
    /// `None` in a free slot and for requests without a key.
    ticket: Option<Ticket>,
    /// Position of the deciding settings, and of the route in them.
    settings: usize,
    route: usize,
    /// Monotonic nanoseconds; `u64::MAX`: none.
    deadline: u64,
    end: Option<End>,
    /// Whoever polls the request has seen the end.
    noticed: bool,
    waker: Option<Waker>,
    /// Tells the users of one slot apart.
    generation: u32,
}

/// Names a running request without keeping it registered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamRef {
    slot: usize,
    generation: u32,
}

/// Why a running request has to end now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The current phase took too long.
    Deadline,
    /// Its key would no longer open it.
    Key(Reason),
}

/// Keeps a request registered. Dropping it is the end of the request.
#[derive(Debug)]
pub(crate) struct Stream {
    all: Rc<Streams>,
    slot: usize,
}

// === impl Streams ===

impl Streams {
    /// `ticket` is `None` for a request that passed without a key: it has deadlines only.
    pub(crate) fn register(
        self: &Rc<Self>,
        ticket: Option<Ticket>,
        settings: &Arc<Settings>,
        route: usize,
    ) -> Stream {
        let mut slots = self.slots.borrow_mut();
        let settings = slots.settings_index(settings);
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        let entry = Entry {
            ticket,
            settings,
            route,
            deadline: u64::MAX,
            end: None,
            noticed: false,
            waker: None,
            generation,
        };
        let slot = match slots.free.pop() {
            Some(slot) => {
                if let Some(place) = slots.entries.get_mut(slot) {
                    *place = entry;
                }
                slot
            }
            None => {
                slots.entries.push(entry);
                slots.entries.len() - 1
            }
        };
        self.latest.set(Some(StreamRef { slot, generation }));
        Stream { all: Rc::clone(self), slot }
    }

    /// The request registered since this was last asked, if any. Lets the task that runs a request
    /// learn which it is.
    pub(crate) fn take_latest(&self) -> Option<StreamRef> {
        self.latest.take()
    }

    /// Whether the key of this request has ended and nobody has noticed: hyper does not poll a
    /// body whose client does not read, so its task has to be ended from outside.
    pub(crate) fn is_abandoned(&self, which: StreamRef) -> bool {
        let slots = self.slots.borrow();
        slots.entries.get(which.slot).is_some_and(|e| {
            e.generation == which.generation && matches!(e.end, Some(End::Key(_))) && !e.noticed
        })
    }

    pub(crate) fn count(&self) -> usize {
        let slots = self.slots.borrow();
        slots.entries.len() - slots.free.len()
    }

    /// Marks and wakes every request of which the deadline has passed, or whose key has expired;
    /// the latter are counted.
    pub(crate) fn sweep(&self, now: Now) -> usize {
        let mut slots = self.slots.borrow_mut();
        let mut ended = 0;
        for entry in &mut slots.entries {
            if entry.deadline <= now.mono_ns && entry.end.is_none() {
                entry.end(End::Deadline);
            }
            let expired = entry.ticket.as_ref().and_then(|t| t.expires);
            if expired.is_some_and(|at| at <= now.unix_secs()) && entry.key_lives() {
                entry.end(End::Key(Reason::Expired));
                ended += 1;
            }
        }
        ended
    }

    /// Holds every running request against a new snapshot. Returns why those ended that did.
    pub(crate) fn recheck(&self, snapshot: &Snapshot, now: Now) -> Vec<Reason> {
        let mut slots = self.slots.borrow_mut();
        let Slots { entries, settings, .. } = &mut *slots;
        let mut ended = Vec::new();
        for entry in entries.iter_mut().filter(|e| e.key_lives()) {
            let Some(ticket) = &mut entry.ticket else { continue };
            let needs = settings
                .get(entry.settings)
                .and_then(|(s, _)| s.policy.routes.iter().nth(entry.route))
                .and_then(|r| r.access.needs());
            let verdict = match &snapshot.keys {
                Some(keys) if keys.refuse_from().is_none_or(|at| now.unix_secs() < at) => {
                    ticket.recheck(&snapshot.settings.policy, &**keys, needs, now)
                }
                _ => Err(Reason::NoTable),
            };
            match verdict {
                Ok(expires) => ticket.expires = expires,
                Err(reason) => {
                    entry.end(End::Key(reason));
                    ended.push(reason);
                }
            }
        }
        ended
    }
}

impl Slots {
    fn settings_index(&mut self, wanted: &Arc<Settings>) -> usize {
        if let Some(at) = self.settings.iter().rposition(|(s, _)| Arc::ptr_eq(s, wanted)) {
            if let Some((_, users)) = self.settings.get_mut(at) {
                *users += 1;
            }
            return at;
        }
        // Reuse a place that no running request points to, so that reloads do not add up.
        let fresh = (Arc::clone(wanted), 1);
        match self.settings.iter().position(|(_, users)| *users == 0) {
            Some(at) => {
                if let Some(place) = self.settings.get_mut(at) {
                    *place = fresh;
                }
                at
            }
            None => {
                self.settings.push(fresh);
                self.settings.len() - 1
            }
        }
    }
}

impl Entry {
    fn key_lives(&self) -> bool {
        self.ticket.is_some() && !matches!(self.end, Some(End::Key(_)))
    }

    fn end(&mut self, why: End) {
        self.end = Some(why);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

// === impl Stream ===

impl Stream {
    /// Why this request has to end, if it has to. Otherwise remembers whom to wake when that
    /// changes.
    pub(crate) fn poll_end(&self, cx: &Context<'_>) -> Option<End> {
        let mut slots = self.all.slots.borrow_mut();
        let entry = slots.entries.get_mut(self.slot)?;
        if entry.end.is_some() {
            entry.noticed = true;
            return entry.end;
        }
        match &entry.waker {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => entry.waker = Some(cx.waker().clone()),
        }
        None
    }

    /// As [`Stream::poll_end`], without asking to be woken.
    pub(crate) fn ended(&self) -> Option<End> {
        self.all.slots.borrow().entries.get(self.slot)?.end
    }

    /// The moment after which the present phase has failed; `u64::MAX`: never. Forgets a
    /// deadline that has passed meanwhile.
    pub(crate) fn set_deadline(&self, at_ns: u64) {
        if let Some(entry) = self.all.slots.borrow_mut().entries.get_mut(self.slot) {
            entry.deadline = at_ns;
            if entry.end == Some(End::Deadline) {
                entry.end = None;
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut slots = self.all.slots.borrow_mut();
        let Slots { entries, free, settings } = &mut *slots;
        if let Some(entry) = entries.get_mut(self.slot) {
            entry.ticket = None;
            entry.deadline = u64::MAX;
            entry.end = None;
            entry.waker = None;
            // No reference to the past request may match.
            entry.generation = entry.generation.wrapping_sub(1);
            if let Some((_, users)) = settings.get_mut(entry.settings) {
                *users -= 1;
            }
        }
        free.push(self.slot);
        if free.len() == entries.len() && entries.len() > 1024 {
            *slots = Slots::default();
        }
    }
}
