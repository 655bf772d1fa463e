//! What one worker does for the count: one addition per admitted request, and a look at a small
//! memory of its own whether the key was seen from this network before. Imports core only.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use super::book::UseBook;
use crate::core::{Admitted, ClientNetwork, KeyView, Now, Reason};

/// Pairs of key and network that a worker remembers to have noted.
const SEEN: usize = 4096;

/// New pairs that a worker notes per second. With more keys in use than [`SEEN`] most requests would
/// take the map's lock otherwise.
const PER_SECOND: u32 = 1000;

/// One worker's handle. Not for two threads.
#[derive(Debug, Default)]
pub struct UseProbe {
    /// `None`: uses are not counted.
    book: Option<Arc<UseBook>>,
    seen: Box<[Cell<u64>]>,
    second: Cell<u64>,
    left: Cell<u32>,
}

// === impl UseProbe ===

impl UseProbe {
    pub fn new(book: Option<Arc<UseBook>>) -> Self {
        let seen = if book.is_some() { SEEN } else { 0 };
        let seen = (0..seen).map(|_| Cell::new(0)).collect();
        Self { book, seen, ..Self::default() }
    }

    /// A request was admitted. `client` is canonical. The snapshot that `admitted` is of must still
    /// be held.
    pub fn admitted(&self, admitted: &Admitted<'_>, client: IpAddr, now: Now) {
        let Some(uses) = admitted.key().uses else { return };
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

    /// A request named the key and was refused.
    pub fn refused(&self, key: &KeyView<'_>, reason: Reason, client: IpAddr, now: Now) {
        if let (Some(book), Some(uses)) = (&self.book, key.uses) {
            // Who only knows a pair's id has used nothing.
            let proved = reason != Reason::WrongSecret;
            let network = proved.then(|| ClientNetwork::of(client));
            book.traces().refused(key.id, uses.read(), reason, network, now);
        }
    }

    #[cold]
    fn note(&self, admitted: &Admitted<'_>, network: ClientNetwork, now: Now) {
        if let Some(book) = &self.book {
            book.traces().used_from(admitted.key().id, network, now);
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
