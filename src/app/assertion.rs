//! Public keys of the assertion, for those who verify it: the ones in force, and former ones for as
//! long as their tokens live.

use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;
use crate::config::Settings;
use crate::snapshot::Store;
use crate::token::sign::{PublicTokenKey, jwk_set};

/// What `/jwks.json` shows. Shared by the reload thread and the admin thread.
#[derive(Debug)]
pub(super) struct AssertionKeys {
    store: Arc<Store>,
    clock: Clock,
    known: Mutex<KnownKeys>,
}

#[derive(Debug, Default)]
struct KnownKeys {
    /// Of the settings that were read last. Those in force may be older, should the rest of the
    /// reload have failed.
    newest: Vec<PublicTokenKey>,
    /// In seconds, of the tokens in force.
    life: u64,
    former: Vec<FormerKey>,
}

#[derive(Debug)]
struct FormerKey {
    key: PublicTokenKey,
    /// On the process's clock: none of its tokens is taken any more.
    until_ns: u64,
}

/// Verifiers' clocks differ, and so do their leeways.
const LEEWAY_SECS: u64 = 60;

/// Former keys that are shown, at most: each change of the file within their time makes one.
const MOST_FORMER: usize = 8;

// === impl AssertionKeys ===

impl AssertionKeys {
    pub(super) fn new(store: &Arc<Store>, clock: Clock) -> Arc<Self> {
        let keys = Self { store: Arc::clone(store), clock, known: Mutex::default() };
        keys.take(&store.load().settings);
        Arc::new(keys)
    }

    /// These settings are about to come into force. Whoever verifies finds a new key here before the
    /// first token of it.
    pub(super) fn take(&self, settings: &Settings) {
        let now = self.clock.now().mono_ns;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let next = public_keys(settings);
        let until_ns = now.saturating_add((known.life + LEEWAY_SECS) * 1_000_000_000);
        let before = std::mem::take(&mut known.newest);
        known.former.retain(|former| former.until_ns > now && !next.contains(&former.key));
        for key in before.into_iter().filter(|key| !next.contains(key)) {
            known.former.push(FormerKey { key, until_ns });
        }
        let over = known.former.len().saturating_sub(MOST_FORMER);
        known.former.drain(..over);
        if let Some(assertion) = &settings.assertion {
            known.life = assertion.life;
        }
        known.newest = next;
    }

    /// `None`: there is no assertion to verify.
    pub(super) fn jwk_set(&self) -> Option<String> {
        let now = self.clock.now().mono_ns;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = public_keys(&self.store.load().settings);
        let former = known.former.iter().filter(|f| f.until_ns > now).map(|former| former.key);
        for key in known.newest.iter().copied().chain(former) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        (!keys.is_empty()).then(|| jwk_set(&keys))
    }
}

fn public_keys(settings: &Settings) -> Vec<PublicTokenKey> {
    settings.assertion.as_ref().map(|assertion| assertion.public_keys()).unwrap_or_default()
}
