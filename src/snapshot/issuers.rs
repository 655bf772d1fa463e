//! The signing keys of issuers in force. They are not part of the snapshot: they change
//! independently, and the threads that fetch them must not race with the one that swaps tables.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::config::{JwksSource, TokenIssuer, TokenSettings};
use crate::core::{IssuersNow, Now, TokenFault, UserToken};
use crate::token::verify::Issuers;
use crate::token::{IssuerRules, JwkSet};

/// What every issuer's source last returned.
#[derive(Clone, Debug, Default)]
pub struct IssuerKeys {
    /// Differs for every set of keys.
    pub generation: u64,
    held: Vec<HeldKeys>,
}

/// The keys of one issuer.
#[derive(Clone, Debug)]
pub struct HeldKeys {
    pub issuer: Arc<str>,
    /// Keys from another source are not valid for this one.
    pub source: JwksSource,
    pub keys: Arc<JwkSet>,
    /// Unix seconds of when the source last had them. The fetching thread sets it.
    pub had_at: Arc<AtomicU64>,
    pub wish: Arc<FetchWish>,
}

/// Rules and keys together: what is needed to verify a token.
#[derive(Debug)]
pub struct IssuersInForce<'s> {
    pub settings: &'s TokenSettings,
    pub keys: &'s IssuerKeys,
    /// Determines whether keys are too old. The thread that fetches them cannot, because it may be
    /// waiting.
    pub now: Now,
}

/// A request has named a key that is missing, so the keys may be fetched sooner. Nobody waits for
/// it.
#[derive(Debug, Default)]
pub struct FetchWish {
    made: AtomicBool,
    told: Mutex<WishState>,
    changed: Condvar,
    /// Separate from `told`, which requests wait for, because this is held while a copy is written.
    tenure: Mutex<Tenure>,
}

#[derive(Debug, Default)]
struct WishState {
    wished: bool,
    ended: bool,
}

/// Whether the fetching thread may still put anything in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Tenure {
    #[default]
    Current,
    Over,
}

/// Why a wait for a wish ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WishEnd {
    /// Nobody needs the keys any more.
    Ended,
    TimedOut,
    Wished,
}

// === impl IssuerKeys ===

impl IssuerKeys {
    pub fn find(&self, issuer: &str) -> Option<&HeldKeys> {
        self.held.iter().find(|held| *held.issuer == *issuer)
    }

    /// The keys from the currently configured source.
    pub fn of(&self, issuer: &TokenIssuer) -> Option<&HeldKeys> {
        let held = self.find(&issuer.rules.issuer)?;
        held.source.has_keys_of(&issuer.jwks).then_some(held)
    }

    /// The same with other keys of one issuer.
    #[must_use]
    pub(super) fn with(&self, new: HeldKeys) -> Self {
        let same = |old: &HeldKeys| Arc::ptr_eq(&old.keys, &new.keys);
        // Tokens that were verified with the same keys stay verified.
        let is_same = self.find(&new.issuer).is_some_and(same);
        let generation = self.generation + u64::from(!is_same);
        let mut held = self.held.clone();
        held.retain(|held| held.issuer != new.issuer);
        held.push(new);
        Self { generation, held }
    }

    /// The same without the issuers that are missing in `settings`.
    #[must_use]
    pub(super) fn only(&self, settings: &TokenSettings) -> Self {
        let mut held = self.held.clone();
        held.retain(|held| settings.find(&held.issuer).is_some());
        Self { generation: self.generation + 1, held }
    }
}

// === impl HeldKeys ===

impl HeldKeys {
    /// The time since their source had them.
    pub fn age(&self, now: Now) -> Duration {
        Duration::from_secs(now.unix_secs().saturating_sub(self.had_at.load(Ordering::Relaxed)))
    }

    /// Whether they are too old to be used, according to their issuer's configuration.
    pub fn is_stale(&self, issuer: &TokenIssuer, now: Now) -> bool {
        self.age(now) >= issuer.stale
    }
}

// === impl IssuersInForce ===

impl Issuers for IssuersInForce<'_> {
    fn rules(&self, issuer: &str) -> Option<&IssuerRules> {
        self.settings.find(issuer).map(|found| &found.rules)
    }

    fn keys(&self, issuer: &str) -> Option<&JwkSet> {
        let known = self.settings.find(issuer)?;
        let held = self.keys.of(known).filter(|held| !held.is_stale(known, self.now))?;
        Some(&*held.keys)
    }
}

impl IssuersInForce<'_> {
    /// Whether the key that signed it still belongs to its issuer.
    pub fn trusts(&self, token: &UserToken) -> bool {
        self.keys(token.issuer()).is_some_and(|keys| keys.has(token.said().signed_by))
    }
}

impl IssuersNow for IssuersInForce<'_> {
    fn verified_again(
        &self,
        token: &Arc<UserToken>,
        now: Now,
    ) -> Result<Arc<UserToken>, TokenFault> {
        let rules = self.rules(token.issuer()).ok_or(TokenFault::Issuer)?;
        rules.take(token.said(), now)?;
        let keys = self.keys(token.issuer()).ok_or(TokenFault::KeysMissing)?;
        if !keys.has(token.said().signed_by) {
            return Err(TokenFault::KeyUnknown);
        }
        token.read_again(&rules.reading)
    }
}

// === impl FetchWish ===

impl FetchWish {
    /// Cheap if a wish was already made.
    pub fn make(&self) {
        if !self.made.swap(true, Ordering::Relaxed) {
            self.tell(|state| state.wished = true);
        }
    }

    /// The waiting thread has nothing to wait for any more. When this returns, whatever
    /// [`Self::while_in_charge`] has begun is complete, and nothing more will follow.
    pub fn end(&self) {
        self.tell(|state| state.ended = true);
        *self.tenure.lock().unwrap_or_else(PoisonError::into_inner) = Tenure::Over;
    }

    /// Does what only one thread may do at a time: a fetch may outlast the settings that requested
    /// it, and its successor's keys and copy are newer. `None`: the end has come.
    pub fn while_in_charge<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        let tenure = self.tenure.lock().unwrap_or_else(PoisonError::into_inner);
        (*tenure == Tenure::Current).then(act)
    }

    /// Waits at most `longest` for a wish, or for the end.
    pub fn wait(&self, longest: Duration) -> WishEnd {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |state: &mut WishState| !state.wished && !state.ended;
        let waited = self.changed.wait_timeout_while(told, longest, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return WishEnd::Ended;
        }
        match std::mem::take(&mut state.wished) {
            true => WishEnd::Wished,
            false => WishEnd::TimedOut,
        }
    }

    /// From now on a request can wish again: the last wish has been tried.
    pub fn tried(&self) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).wished = false;
        self.made.store(false, Ordering::Relaxed);
    }

    fn tell(&self, change: impl FnOnce(&mut WishState)) {
        change(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}
