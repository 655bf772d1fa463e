//! Tokens that a worker has made for one upstream, by key, while they may be used again.
//! Imports `snapshot` and `token`.
//!
//! They belong to one snapshot: a table, a patch, a restriction, other settings or another secret
//! that comes into force empties the cache. So a key that has lost some or all rights never meets
//! an earlier token.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Weak};

use crate::snapshot::Snapshot;
use crate::token::sign::cache::MintedCache;

/// Everything that a worker has made and may use again.
#[derive(Debug, Default)]
pub(crate) struct Minted {
    /// The snapshot that the tokens belong to. While this exists, its memory cannot be reused, so
    /// an equal address means the same snapshot.
    snapshot: RefCell<Weak<Snapshot>>,
    pub(crate) assertions: MintedCache,
    pub(crate) credentials: MintedCache,
    /// When it was last logged that the service does not accept the credential, on the process's
    /// clock.
    refusal_told_ns: Cell<Option<u64>>,
}

const REFUSAL_EVERY_NS: u64 = 60_000_000_000;

// === impl Minted ===

impl Minted {
    /// Forgets all tokens that do not belong to `snapshot`.
    pub(crate) fn follow(&self, snapshot: &Arc<Snapshot>) {
        let mut known = self.snapshot.borrow_mut();
        if !std::ptr::eq(known.as_ptr(), Arc::as_ptr(snapshot)) {
            self.assertions.clear();
            self.credentials.clear();
            *known = Arc::downgrade(snapshot);
        }
    }

    /// The service has answered 401 to a request with our credential. Logged once a minute.
    ///
    /// `upstream`: one of `[upstreams.NAME]`.
    pub(crate) fn tell_refusal(&self, upstream: Option<&str>, now_ns: u64) {
        let told = self.refusal_told_ns.get();
        if told.is_none_or(|told| now_ns.saturating_sub(told) >= REFUSAL_EVERY_NS) {
            self.refusal_told_ns.set(Some(now_ns));
            let key = upstream.map_or("upstream".to_owned(), |name| format!("upstreams.{name}"));
            tracing::warn!(
                upstream,
                "the service answered 401 to the credential that keygate sends it\n\
                 hint: compare secret, algorithm and claims of {key}.credential with what the \
                 service verifies; the callers are not at fault"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ThisHost};

    /// Settings, table, patch: whatever makes a new snapshot.
    #[test]
    fn another_snapshot_is_known_by_more_than_its_address() {
        let text = concat!(
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/minimal.toml")),
            "[[credentials]]\nsource = \"bearer\"\n[[routes]]\npath = \"/*\"\n"
        );
        let config = Config::parse(&ThisHost, std::path::Path::new("/k.toml"), text).unwrap();
        let settings = Arc::new(config.settings);
        let snapshot = || {
            let settings = Arc::clone(&settings);
            Arc::new(Snapshot { settings, keys: None, route_slots: Box::default() })
        };
        let minted = Minted::default();
        let first = snapshot();
        minted.follow(&first);
        let known = minted.snapshot.borrow().as_ptr();
        assert_eq!(known, Arc::as_ptr(&first));
        minted.follow(&first);
        // Its memory would be free for the next one if it were not kept.
        drop(first);
        for _ in 0..100 {
            let next = snapshot();
            let before = minted.snapshot.borrow().as_ptr();
            assert_ne!(before, Arc::as_ptr(&next));
            minted.follow(&next);
        }
    }
}
