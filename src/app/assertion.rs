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
    /// The keys of the settings that were read last. Those in force may be older, if the rest of
    /// the reload failed.
    newest: Vec<PublicTokenKey>,
    /// Keys that were in force at one of the last reloads, each once.
    signed: Vec<SignedKey>,
}

#[derive(Debug)]
struct SignedKey {
    key: PublicTokenKey,
    /// On the process's clock: after this, verifiers accept none of its tokens any more, unless the
    /// key is still in force.
    until_ns: u64,
}

/// Verifiers' clocks differ, and so does their leeway.
const LEEWAY_SECS: u64 = 60;

/// The most former keys that are kept: each change of the file within their time adds one.
const MOST_FORMER: usize = 8;

// === impl AssertionKeys ===

impl AssertionKeys {
    pub(super) fn new(store: &Arc<Store>, clock: Clock) -> Arc<Self> {
        let keys = Self { store: Arc::clone(store), clock, known: Mutex::default() };
        keys.take(&store.load().settings);
        Arc::new(keys)
    }

    /// The reload thread has read these settings, and is about to put them in force unless another
    /// part of the reload fails. So verifiers find a new key here before its first token.
    pub(super) fn take(&self, settings: &Settings) {
        let now = self.clock.now().mono_ns;
        let in_force = Arc::clone(&self.store.load().settings);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.signed.retain(|signed| signed.until_ns > now);
        // The store knows which settings have signed: those that failed after they were read have
        // not. The thread that calls this also swaps the store, so nothing takes effect in between.
        if let Some(assertion) = &in_force.assertion {
            let until_ns = now.saturating_add((assertion.life + LEEWAY_SECS) * 1_000_000_000);
            for key in assertion.public_keys() {
                known.signed_until(key, until_ns);
            }
        }
        known.newest = public_keys(settings);
        known.forget_the_oldest(&public_keys(&in_force));
    }

    /// `None`: there is no assertion to verify.
    pub(super) fn jwk_set(&self) -> Option<String> {
        let now = self.clock.now().mono_ns;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = public_keys(&self.store.load().settings);
        let former = known.signed.iter().filter(|signed| signed.until_ns > now);
        let former = former.map(|signed| signed.key);
        for key in known.newest.iter().copied().chain(former) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        (!keys.is_empty()).then(|| jwk_set(&keys))
    }
}

// === impl KnownKeys ===

impl KnownKeys {
    /// If a reload sets a shorter life, earlier tokens still have theirs.
    fn signed_until(&mut self, key: PublicTokenKey, until_ns: u64) {
        match self.signed.iter_mut().find(|signed| signed.key == key) {
            Some(signed) => signed.until_ns = signed.until_ns.max(until_ns),
            None => self.signed.push(SignedKey { key, until_ns }),
        }
    }

    /// Keeps all keys of `in_force` and the newest settings, and of the others those whose tokens
    /// live longest.
    fn forget_the_oldest(&mut self, in_force: &[PublicTokenKey]) {
        let Self { newest, signed } = self;
        signed.sort_by_key(|signed| std::cmp::Reverse(signed.until_ns));
        let mut former = 0;
        signed.retain(|signed| {
            let needed = in_force.contains(&signed.key) || newest.contains(&signed.key);
            former += usize::from(!needed);
            needed || former <= MOST_FORMER
        });
    }
}

fn public_keys(settings: &Settings) -> Vec<PublicTokenKey> {
    settings.assertion.as_ref().map(|assertion| assertion.public_keys()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
