//! What one worker does to count uses: one addition per admitted request, and a look-up in a small
//! memory of its own whether the key was seen from this network before. It collects refusals and
//! passes them on a few times a second: only then, and for a new network, does it lock what all
//! workers share. Imports core only.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::book::UseBook;
use super::traces::KeyRefusal;
use crate::core::{Admitted, ClientNetwork, KeyUse, KeyView, Now, Reason};

/// The most pairs of key and network that a worker remembers.
const SEEN: usize = 4096;

/// The most new pairs that a worker records per second. With more keys in use than [`SEEN`], most
/// requests would otherwise take the map's lock.
const PER_SECOND: u32 = 1000;

/// The most different refusals (by key, reason and network) that a worker collects before it passes
/// them on. It takes the map's locks once for each: a flood of refusals of one key costs others
/// nothing.
const KEPT: usize = 256;

/// One worker's handle. Do not share it between threads.
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
    /// When last used.
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

    /// A request was admitted. `client` is canonical. The caller must still hold the snapshot that
    /// `admitted` is from.
    pub fn admitted(&self, admitted: &Admitted<'_>, client: IpAddr, now: Now) {
        let Some(uses) = admitted.key().and_then(|key| key.uses) else { return };
        uses.count(now);
        let network = ClientNetwork::of(client);
        // Digests are random already. The pair is recorded again about once an hour, so that a key
        // in use does not count as untouched.
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

    /// A request named the key and was refused. Others see this after [`Self::hand_on`].
    pub fn refused(&self, key: &KeyView<'_>, reason: Reason, client: IpAddr) {
        let Some(uses) = key.uses.filter(|_| self.book.is_some()) else { return };
        // A caller that only knows a pair's id has not used the key.
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

    /// Passes on the collected refusals. Called a few times a second.
    pub fn hand_on(&self) {
        let Some(book) = &self.book else { return };
        // They become visible now. If they had the minute in which they happened, a record made in
        // between would have missed them, and so would the next one.
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
