//! What one worker does for the count: one addition per admitted request, and a look at a small
//! memory of its own whether the key was seen from this network before. Refusals are kept, and handed
//! on a few times a second: what all workers share is locked then, and for a new network. Imports
//! core only.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::book::UseBook;
use super::traces::KeyRefusal;
use crate::core::{Admitted, ClientNetwork, KeyUse, KeyView, Now, Reason};

/// Pairs of key and network that a worker remembers to have noted.
const SEEN: usize = 4096;

/// New pairs that a worker notes per second. With more keys in use than [`SEEN`] most requests would
/// take the map's lock otherwise.
const PER_SECOND: u32 = 1000;

/// Different refusals (by key, reason and network) that a worker keeps until it hands them on, the
/// map's locks taken once for each: a flood of refusals of one key costs others nothing.
const KEPT: usize = 256;

/// One worker's handle. Not for two threads.
#[derive(Debug, Default)]
pub struct UseProbe {
    /// `None`: uses are not counted.
    book: Option<Arc<UseBook>>,
    seen: Box<[Cell<u64>]>,
    second: Cell<u64>,
    left: Cell<u32>,
    kept: RefCell<HashMap<KeyRefusal, KeptRefusals, RandomState>>,
}

#[derive(Clone, Copy, Debug)]
struct KeptRefusals {
    times: u32,
    /// At the last of them.
    used: KeyUse,
}

// === impl UseProbe ===

impl UseProbe {
    pub fn new(book: Option<Arc<UseBook>>) -> Self {
        let seen = if book.is_some() { SEEN } else { 0 };
        Self {
            book,
            seen: (0..seen).map(|_| Cell::new(0)).collect(),
            second: Cell::default(),
            left: Cell::default(),
            kept: RefCell::default(),
        }
    }

    /// A request was admitted. `client` is canonical. The snapshot that `admitted` is of must still
    /// be held.
    pub fn admitted(&self, admitted: &Admitted<'_>, client: IpAddr, now: Now) {
        let Some(uses) = admitted.key().and_then(|key| key.uses) else { return };
        uses.count(now);
        let network = ClientNetwork::of(client);
        // Digests are random already. Anew about once an hour, so that what is in use does not
        // count as untouched.
        let hour = now.unix_ms >> 22;
        let tag = admitted.digest_start()
            ^ (network.as_number() ^ hour << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if let Some(seen) = self.seen.get(tag as usize % SEEN)
            && seen.get() != tag
            && self.may_note(now)
        {
            seen.set(tag);
            self.note(admitted, network, now);
        }
    }

    /// A request named the key and was refused. Others see it after [`Self::hand_on`].
    pub fn refused(&self, key: &KeyView<'_>, reason: Reason, client: IpAddr) {
        let Some(uses) = key.uses.filter(|_| self.book.is_some()) else { return };
        // Who only knows a pair's id has used nothing.
        let proved = reason != Reason::WrongSecret;
        let network = proved.then(|| ClientNetwork::of(client));
        let refusal = KeyRefusal { id: key.id, reason, network };
        let different = {
            let mut kept = self.kept.borrow_mut();
            let before = kept.get(&refusal).map_or(0, |known| known.times);
            let times = before.saturating_add(1);
            kept.insert(refusal, KeptRefusals { times, used: uses.read() });
            kept.len()
        };
        if different >= KEPT {
            self.hand_on();
        }
    }

    /// Hands on the refusals that were kept. A few times a second.
    pub fn hand_on(&self) {
        let Some(book) = &self.book else { return };
        // They become visible now: by the minute in which they happened, a record that was made in
        // between would have missed them, and the next one too.
        let now = book.clock().now();
        for (refusal, KeptRefusals { times, used }) in self.kept.borrow_mut().drain() {
            book.traces().refused(refusal, times, used, now);
        }
    }

    #[cold]
    fn note(&self, admitted: &Admitted<'_>, network: ClientNetwork, now: Now) {
        if let (Some(book), Some(key)) = (&self.book, admitted.key()) {
            book.traces().used_from(key.id, network, now);
        }
    }

    #[cold]
    fn may_note(&self, now: Now) -> bool {
        if self.second.replace(now.unix_secs()) != now.unix_secs() {
            self.left.set(PER_SECOND);
        }
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}

impl Drop for UseProbe {
    fn drop(&mut self) {
        self.hand_on();
    }
}
