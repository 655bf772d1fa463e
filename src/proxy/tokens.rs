//! User tokens on their way into a decision: found in the worker's cache, or verified, or refused
//! before that because the sender has sent too many bad ones. Never waits.

use std::cell::RefCell;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::config::TokenSettings;
use crate::core::{Digest, Limit, Now, TokenFault, UserToken};
use crate::snapshot::{IssuersInForce, Store};
use crate::telemetry::{CacheResult, WorkerCells};
use crate::token::verify::UnreadToken;
use crate::token::{BoundedBuckets, LONGEST_TOKEN, TokenCache, Unverified, network_of};

/// Bad signatures allowed for one address: each costs up to 100 µs, twelve times as much as a
/// refusal.
const BAD_SIGNATURES: &str = "30/min";

/// What strangers have spent, for all workers: a budget applies to the sidecar.
#[derive(Debug)]
pub struct TokenBudgets {
    bad_signatures: BoundedBuckets,
    budget: Option<Limit>,
}

/// One worker's verified tokens.
#[derive(Debug, Default)]
pub(crate) struct TokenDesk {
    kept: RefCell<KeptTokens>,
}

#[derive(Debug, Default)]
struct KeptTokens {
    cache: TokenCache,
    /// The settings that the tokens were verified with.
    settings: Option<Arc<TokenSettings>>,
}

/// A token and what it is judged against.
pub(crate) struct TokenAsk<'r> {
    pub(crate) token: &'r [u8],
    pub(crate) client: IpAddr,
    pub(crate) settings: &'r Arc<TokenSettings>,
    pub(crate) store: &'r Store,
    pub(crate) budgets: &'r TokenBudgets,
    pub(crate) cells: &'r WorkerCells,
    pub(crate) now: Now,
    /// The request has presented it before, and was counted then.
    pub(crate) is_counted: bool,
}

// === impl TokenBudgets ===

impl Default for TokenBudgets {
    fn default() -> Self {
        Self {
            bad_signatures: BoundedBuckets::new(RandomState::default().hash_one(0_u8)),
            budget: Limit::parse(BAD_SIGNATURES).ok(),
        }
    }
}

// === impl TokenDesk ===

impl TokenDesk {
    /// The token, if it is valid.
    ///
    /// # Errors
    /// Why it is not. This is counted, by issuer where the issuer is configured.
    pub(crate) fn present(&self, ask: &TokenAsk<'_>) -> Result<Arc<UserToken>, TokenFault> {
        if ask.token.len() > LONGEST_TOKEN {
            ask.count(None, Some(TokenFault::Size));
            return Err(TokenFault::Size);
        }
        let keys = ask.store.issuers();
        let digest = Digest::of(ask.token);
        let issuers = IssuersInForce { settings: ask.settings, keys: &keys, now: ask.now };
        // Keys can become too old without a new generation.
        let kept = self.kept_for(ask, keys.generation, &digest);
        if let Some(token) = kept.filter(|token| issuers.trusts(token)) {
            ask.count_look(CacheResult::Hit);
            ask.count(Some(token.issuer()), None);
            return Ok(token);
        }
        ask.count_look(CacheResult::Miss);
        let unverified = Unverified::read(ask.token, &issuers, ask.now).map_err(|unread| {
            let UnreadToken { fault, issuer } = unread;
            let issuer = issuer.map(|rules| &*rules.issuer);
            if fault == TokenFault::KeyUnknown
                && let Some(held) = issuer.and_then(|issuer| keys.find(issuer))
            {
                held.wish.make();
            }
            ask.count(issuer, Some(fault));
            fault
        })?;
        let issuer = Arc::clone(&unverified.issuer().issuer);
        let budgets = ask.budgets;
        let from = network_of(ask.client);
        let verified = match budgets.budget {
            Some(budget) if budgets.bad_signatures.look(from, budget, ask.now).is_err() => {
                Err(TokenFault::Budget)
            }
            budget => unverified.verify().inspect_err(|_| {
                if let Some(budget) = budget {
                    // The budget is checked before the next signature.
                    let _ = budgets.bad_signatures.charge(from, budget, ask.now);
                }
            }),
        };
        ask.count(Some(&issuer), verified.as_ref().err().copied());
        let token = verified?;
        self.kept.borrow_mut().cache.insert(&digest, Arc::clone(&token));
        Ok(token)
    }

    fn kept_for(&self, ask: &TokenAsk<'_>, keys: u64, digest: &Digest) -> Option<Arc<UserToken>> {
        let mut kept = self.kept.borrow_mut();
        if kept.settings.as_ref().is_none_or(|known| !Arc::ptr_eq(known, ask.settings)) {
            *kept = KeptTokens {
                cache: TokenCache::default(),
                settings: Some(Arc::clone(ask.settings)),
            };
        }
        kept.cache.settle(keys);
        kept.cache.find(digest, ask.now)
    }
}

// === impl TokenAsk ===

impl TokenAsk<'_> {
    fn count(&self, issuer: Option<&str>, fault: Option<TokenFault>) {
        if !self.is_counted {
            self.cells.token(issuer, fault);
        }
    }

    fn count_look(&self, result: CacheResult) {
        if !self.is_counted {
            self.cells.token_cache(result);
        }
    }
}
