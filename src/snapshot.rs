//! What is in force: one value behind one atomic pointer. A request loads it once.
//! Imports config, core, table and token.

mod issuers;

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

pub use self::issuers::{FetchWish, HeldKeys, IssuerKeys, IssuersInForce, WishEnd};
use crate::config::{Settings, TokenSettings};
use crate::table::KeySet;

/// Settings and keys that were put in force together. A decision never sees two serials.
#[derive(Debug)]
pub struct Snapshot {
    pub settings: Arc<Settings>,
    /// `None` until a table was loaded.
    pub keys: Option<Arc<KeySet>>,
    /// Metric slot of each route, by [`crate::core::Route::index`].
    pub route_slots: Box<[u32]>,
}

/// The only place where a snapshot is swapped. Readers never wait.
#[derive(Debug)]
pub struct Store {
    current: ArcSwap<Snapshot>,
    issuers: ArcSwap<IssuerKeys>,
    /// Counts swaps. Workers wake on it to check their streams against the new snapshot.
    swaps: watch::Sender<u64>,
}

// === impl Store ===

impl Store {
    pub fn new(first: Snapshot) -> Self {
        Self {
            current: ArcSwap::from_pointee(first),
            issuers: ArcSwap::default(),
            swaps: watch::Sender::new(0),
        }
    }

    /// The snapshot in force. Hold the guard only for synchronous work: it may keep a whole table
    /// in memory.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    pub fn swap(&self, next: Snapshot) {
        self.current.store(Arc::new(next));
        self.swaps.send_modify(|n| *n += 1);
    }

    /// The signing keys of issuers in force.
    pub fn issuers(&self) -> Guard<Arc<IssuerKeys>> {
        self.issuers.load()
    }

    /// Puts one issuer's keys in force. Ends streams whose token was signed by a key that is gone.
    pub fn put_issuer(&self, held: &HeldKeys) {
        self.issuers.rcu(|before| before.with(held.clone()));
        self.swaps.send_modify(|n| *n += 1);
    }

    /// Keys of an issuer have become too old, or fresh again, so streams have to be checked.
    pub fn recheck_issuers(&self) {
        self.swaps.send_modify(|n| *n += 1);
    }

    /// Forgets the keys of issuers that are not in `settings`.
    pub fn keep_issuers(&self, settings: &TokenSettings) {
        self.issuers.rcu(|before| before.only(settings));
        self.swaps.send_modify(|n| *n += 1);
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.swaps.subscribe()
    }
}
