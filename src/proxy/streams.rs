//! The stream registry: every request that runs on this worker, from admission to the last byte of
//! its response. Deadlines of requests and changes of the table act on it.
//!
//! Registering is a push into a slab, so short responses pay almost nothing for it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::config::Settings;
use crate::core::decision::Ticket;
use crate::core::{KeyLookup, Now, Reason};
use crate::snapshot::{IssuerKeys, IssuersInForce, Snapshot};

/// All running requests of a worker.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    slots: RefCell<StreamSlots>,
    generation: Cell<u32>,
    latest: Cell<Option<StreamRef>>,
    current: Cell<Option<StreamRef>>,
    /// When the first of the running keys expires, in Unix seconds. 0: no expiry is known.
    expiry: Cell<u64>,
    /// Notified when `expiry` becomes earlier.
    earlier: Notify,
    /// What ends the tasks that hyper runs for tunnels over HTTP/2, by slot.
    aborts: RefCell<HashMap<usize, Rc<TaskAbort>>>,
    /// The minute for which [`Self::touch_some`] has noted uses, and the number of slots that it
    /// has noted.
    touched: Cell<TouchedSlots>,
}

#[derive(Clone, Copy, Debug, Default)]
struct TouchedSlots {
    /// Minutes since 1970.
    minute: u64,
    slots: usize,
}

#[derive(Debug, Default)]
struct StreamSlots {
    entries: Vec<StreamEntry>,
    free: Vec<usize>,
    /// The settings that running requests were judged by, oldest first. Usually one.
    settings: Vec<(Arc<Settings>, usize)>,
}

#[derive(Debug)]
struct StreamEntry {
    /// `None` in a free slot and for requests that need no key.
    ticket: Option<Ticket>,
    /// The position of the settings that decided, and of the route in them.
    settings: usize,
    route: usize,
    /// Monotonic nanoseconds. `u64::MAX`: none.
    deadline: u64,
    /// Since when bytes that were read for the client wait for it. [`NOT_OFFERED`], or [`OFFERED`]
    /// until the next sweep records the time.
    offered: u64,
    end: Option<RequestEnd>,
    /// The task that polls the request has seen the end.
    noticed: bool,
    waker: Option<Waker>,
    /// Tells the users of one slot apart.
    generation: u32,
}

/// The result of checking all running requests.
#[derive(Debug)]
pub(crate) struct StreamSweep {
    /// The reasons of requests that ended because their key or token has expired.
    pub(crate) ended: Vec<Reason>,
    pub(crate) recheck: RecheckNeed,
}

/// Whether requests have to be checked against the snapshot in force ([`Streams::recheck`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecheckNeed {
    None,
    /// Some are no longer observed.
    ObservingEnded,
}

/// Names a running request without keeping it registered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamRef {
    slot: usize,
    generation: u32,
}

/// Why a running request has to end now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestEnd {
    /// The current phase took too long.
    Deadline,
    /// Its key would no longer admit it.
    Key(Reason),
    /// The client takes none of it.
    Write,
}

const NOT_OFFERED: u64 = 0;
const OFFERED: u64 = 1;

/// Ends a task from outside.
#[derive(Debug, Default)]
pub(crate) struct TaskAbort {
    fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// The most look-ups of keys in one go: a fraction of a millisecond.
const TOUCHED_AT_ONCE: usize = 2048;

const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Keeps a request registered. Dropping it ends the request.
#[derive(Debug)]
pub(crate) struct Stream {
    all: Rc<Streams>,
    slot: usize,
}

// === impl Streams ===

impl Streams {
    /// `ticket` is `None` for a request that needs no key: it has only deadlines.
    pub(crate) fn register(
        self: &Rc<Self>,
        ticket: Option<Ticket>,
        settings: &Arc<Settings>,
        route: usize,
    ) -> Stream {
        let mut slots = self.slots.borrow_mut();
        if let Some(expires) = ticket.as_ref().and_then(|t| t.expires) {
            self.expires(expires);
        }
        let settings = slots.settings_index(settings);
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        let entry = StreamEntry {
            ticket,
            settings,
            route,
            deadline: u64::MAX,
            offered: NOT_OFFERED,
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

    /// The request registered since the last call, if any. The task that runs a request learns from
    /// this which one it is.
    pub(crate) fn take_latest(&self) -> Option<StreamRef> {
        self.latest.take()
    }

    /// Whether this request has to end and no task has noticed: hyper does not poll a body whose
    /// client does not read, so its task has to be ended from outside.
    pub(crate) fn is_abandoned(&self, which: StreamRef) -> bool {
        let slots = self.slots.borrow();
        slots
            .entries
            .get(which.slot)
            .is_some_and(|e| e.generation == which.generation && e.end.is_some() && !e.noticed)
    }

    /// Why this request has to end, if it is running and has to.
    pub(crate) fn end_of(&self, which: StreamRef) -> Option<RequestEnd> {
        let slots = self.slots.borrow();
        let entry = slots.entries.get(which.slot)?;
        entry.end.filter(|_| entry.generation == which.generation)
    }

    /// Records that data was queued for a client that may not read it. Its time begins. The caller
    /// that queues it asks again ([`Stream::poll_end`]) once the client has read.
    pub(crate) fn offer(&self, which: StreamRef) {
        if let Some(entry) = self.slots.borrow_mut().entry_of(which) {
            entry.offered = OFFERED;
        }
    }

    /// The client has taken some of what waits for it, so its time starts again.
    pub(crate) fn takes_some(&self, which: StreamRef) {
        if let Some(entry) = self.slots.borrow_mut().entry_of(which) {
            entry.offer_again();
        }
    }

    pub(crate) fn count(&self) -> usize {
        let slots = self.slots.borrow();
        slots.entries.len() - slots.free.len()
    }

    /// Marks and wakes every request that has passed its deadline, whose client has taken nothing
    /// for `write_ns`, or whose key or token has expired.
    pub(crate) fn sweep(&self, now: Now, write_ns: u64) -> StreamSweep {
        let mut slots = self.slots.borrow_mut();
        let mut sweep = StreamSweep { ended: Vec::new(), recheck: RecheckNeed::None };
        let mut next = u64::MAX;
        for entry in &mut slots.entries {
            if entry.deadline <= now.mono_ns && entry.end.is_none() {
                entry.end(RequestEnd::Deadline);
            }
            match entry.offered {
                NOT_OFFERED => {}
                OFFERED => entry.offered = now.mono_ns.max(OFFERED + 1),
                since if now.mono_ns.saturating_sub(since) > write_ns && entry.end.is_none() => {
                    entry.end(RequestEnd::Write);
                }
                _ => {}
            }
            let Some(ticket) = &entry.ticket else { continue };
            let Some(expires) = ticket.expires else { continue };
            if !entry.key_lives() {
                continue;
            }
            match ticket.expired() {
                _ if expires > now.unix_secs() => next = next.min(expires),
                Some(why) => {
                    entry.end(RequestEnd::Key(why));
                    sweep.ended.push(why);
                }
                None => sweep.recheck = RecheckNeed::ObservingEnded,
            }
        }
        self.expiry.set(if next == u64::MAX { 0 } else { next });
        sweep
    }

    /// Once a minute, records for every running request that its key is in use, some requests per
    /// call. A stream that has been open for days is as much a use as a request of today.
    pub(crate) fn touch_some<K: KeyLookup>(&self, keys: &K, now: Now) {
        let minute = now.unix_ms / 60_000;
        let mut touched = self.touched.get();
        if touched.minute != minute {
            touched = TouchedSlots { minute, slots: 0 };
        }
        let slots = self.slots.borrow();
        let some = slots.entries.iter().skip(touched.slots).take(TOUCHED_AT_ONCE);
        for entry in some {
            touched.slots += 1;
            if entry.end.is_none()
                && let Some(ticket) = &entry.ticket
            {
                ticket.touch(keys, now);
            }
        }
        self.touched.set(touched);
    }

    fn expires(&self, at: u64) {
        let known = self.expiry.get();
        if known == 0 || at < known {
            self.expiry.set(at);
            self.earlier.notify_one();
        }
    }

    /// Waits until the first of the running keys expires.
    pub(crate) async fn next_expiry(&self, clock: &Clock) {
        loop {
            let earlier = self.earlier.notified();
            match self.expiry.get() {
                0 => earlier.await,
                at => {
                    let left = at.saturating_mul(1000).saturating_sub(clock.now().unix_ms);
                    // The clock may be set meanwhile, so a long wait is interrupted for another
                    // look.
                    let left = Duration::from_millis(left);
                    if tokio::time::timeout(left.min(LONGEST_WAIT), earlier).await.is_err()
                        && left <= LONGEST_WAIT
                    {
                        return;
                    }
                }
            }
        }
    }

    /// The request whose task is being polled.
    pub(crate) fn set_current(&self, which: Option<StreamRef>) {
        self.current.set(which);
    }

    /// A [`TaskAbort`] for a task that is spawned on behalf of the request whose task is being polled.
    pub(crate) fn abort_for_current(&self) -> Option<Rc<TaskAbort>> {
        let current = self.current.get()?;
        let abort = Rc::<TaskAbort>::default();
        self.aborts.borrow_mut().insert(current.slot, Rc::clone(&abort));
        Some(abort)
    }

    /// Checks every running request against a new snapshot. Returns the reasons of those that
    /// ended.
    pub(crate) fn recheck(
        &self,
        snapshot: &Snapshot,
        issuer_keys: &IssuerKeys,
        now: Now,
    ) -> Vec<Reason> {
        let issuers =
            IssuersInForce { settings: &snapshot.settings.tokens, keys: issuer_keys, now };
        let mut slots = self.slots.borrow_mut();
        let StreamSlots { entries, settings, .. } = &mut *slots;
        let mut ended = Vec::new();
        for entry in entries.iter_mut().filter(|e| e.key_lives()) {
            let Some(ticket) = &mut entry.ticket else { continue };
            let route = settings
                .get(entry.settings)
                .and_then(|(s, _)| s.policy.routes.iter().nth(entry.route));
            let (policy, keys) = (&snapshot.settings.policy, snapshot.keys.as_deref());
            let verdict = ticket.recheck(policy, keys, &issuers, route, now);
            match verdict {
                Ok(expires) => {
                    ticket.expires = expires;
                    if let Some(at) = expires {
                        self.expires(at);
                    }
                }
                Err(reason) => {
                    entry.end(RequestEnd::Key(reason));
                    ended.push(reason);
                }
            }
        }
        ended
    }
}

impl StreamSlots {
    /// `None`: the request has ended.
    fn entry_of(&mut self, which: StreamRef) -> Option<&mut StreamEntry> {
        self.entries.get_mut(which.slot).filter(|e| e.generation == which.generation)
    }

    fn settings_index(&mut self, wanted: &Arc<Settings>) -> usize {
        if let Some(at) = self.settings.iter().rposition(|(s, _)| Arc::ptr_eq(s, wanted)) {
            if let Some((_, users)) = self.settings.get_mut(at) {
                *users += 1;
            }
            return at;
        }
        // Reuse a place that no running request refers to, so that reloads do not accumulate.
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

impl StreamEntry {
    fn key_lives(&self) -> bool {
        self.ticket.is_some() && !matches!(self.end, Some(RequestEnd::Key(_)))
    }

    fn offer_again(&mut self) {
        if self.offered != NOT_OFFERED {
            self.offered = OFFERED;
        }
    }

    fn end(&mut self, why: RequestEnd) {
        self.end = Some(why);
        self.noticed = false;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

// === impl Stream ===

impl Stream {
    /// Why this request has to end, if it has to. Otherwise remembers which task to wake when that
    /// changes.
    pub(crate) fn poll_end(&self, cx: &Context<'_>) -> Option<RequestEnd> {
        let mut slots = self.all.slots.borrow_mut();
        let entry = slots.entries.get_mut(self.slot)?;
        entry.offered = NOT_OFFERED;
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
    pub(crate) fn ended(&self) -> Option<RequestEnd> {
        self.all.slots.borrow().entries.get(self.slot)?.end
    }

    /// As [`Streams::takes_some`]: the client is busy with its own body.
    pub(crate) fn excuse_offer(&self) {
        if let Some(entry) = self.all.slots.borrow_mut().entries.get_mut(self.slot) {
            entry.offer_again();
        }
    }

    /// Names it without keeping it registered.
    pub(crate) fn reference(&self) -> Option<StreamRef> {
        let slots = self.all.slots.borrow();
        let generation = slots.entries.get(self.slot)?.generation;
        Some(StreamRef { slot: self.slot, generation })
    }

    /// From now on another task polls it: no [`StreamRef`] names it any more.
    pub(crate) fn leave(&self) {
        let generation = self.all.generation.get().wrapping_add(1);
        self.all.generation.set(generation);
        if let Some(entry) = self.all.slots.borrow_mut().entries.get_mut(self.slot) {
            entry.generation = generation;
        }
    }

    /// What ends the task that was spawned for this request, if one was.
    pub(crate) fn take_abort(&self) -> Option<Rc<TaskAbort>> {
        self.all.aborts.borrow_mut().remove(&self.slot)
    }

    /// Sets the moment after which the present phase has failed. `u64::MAX`: never. Forgets a
    /// deadline that has passed meanwhile.
    pub(crate) fn set_deadline(&self, at_ns: u64) {
        if let Some(entry) = self.all.slots.borrow_mut().entries.get_mut(self.slot) {
            entry.deadline = at_ns;
            if entry.end == Some(RequestEnd::Deadline) {
                entry.end = None;
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut slots = self.all.slots.borrow_mut();
        let StreamSlots { entries, free, settings } = &mut *slots;
        if let Some(entry) = entries.get_mut(self.slot) {
            entry.ticket = None;
            entry.deadline = u64::MAX;
            entry.offered = NOT_OFFERED;
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
            *slots = StreamSlots::default();
        }
    }
}

// === impl TaskAbort ===

impl TaskAbort {
    pub(crate) fn fire(&self) {
        self.fired.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether it has fired. If not, remembers which task to wake.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> bool {
        if !self.fired.get() {
            *self.waker.borrow_mut() = Some(cx.waker().clone());
        }
        self.fired.get()
    }
}
