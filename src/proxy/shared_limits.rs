//! Limits that several sidecars hold together. Each sidecar takes what it may admit from a store in
//! advance, and then uses it without asking (docs/rate-limits.md). Imports `clock`, `config`,
//! `core`, `telemetry`, `token`.
//!
//! A worker charges a request in [`SharedLimits::charge`]: from the [`book::LeaseBook`], by a
//! question that the request waits for, or from this sidecar's share. Only the thread
//! `shared-limits` ([`thread`]) talks to the store.

mod ask;
mod book;
mod bucket;
mod health;
mod names;
#[cfg(feature = "shared-limits")]
mod run;
mod script;
mod settings;
#[cfg(feature = "shared-limits")]
mod store;
#[cfg(test)]
#[cfg(feature = "shared-limits")]
mod tests;
mod thread;

use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot};

use self::ask::{AskedBucket, LeaseAsk, StoreAnswer, TokensInHand};
use self::book::{Amounts, BookVerdict, LeaseBook, LeaseTerms, ShortBuckets};
use self::bucket::LeasedBucket;
use self::health::StoreHealth;
use self::names::{BucketNames, StoreBucket};
pub use self::settings::StoreSettings;
pub use self::thread::{SharedLimitsError, SharedLimitsThread};
use super::limits::LimitStore;
use crate::core::charge::{ChargedCaller, ChargedLimits, PolicyCharge};
use crate::core::rate_fields::{LimitReport, LimitState};
use crate::core::{Charge, Now, PolicyName, PolicyScope};

/// Limits of all sidecars together, as the workers of one sidecar charge them.
#[derive(Debug)]
pub struct SharedLimits {
    book: Arc<LeaseBook>,
    health: Arc<StoreHealth>,
    names: BucketNames,
    asks: mpsc::Sender<LeaseAsk>,
    lease_ns: u64,
    timeout: Duration,
    /// What this sidecar has admitted on its own.
    own: Arc<LimitStore>,
}

/// The result of a charge.
#[derive(Debug)]
pub(crate) enum SharedCharge {
    Done(Result<LimitReport, LimitReport>),
    /// The store is being asked.
    Waits(StoreWait),
}

/// A request that waits for the store.
#[derive(Debug)]
pub(crate) struct StoreWait {
    limits: Arc<SharedLimits>,
    /// Tokens that it already holds.
    hand: TokensInHand,
    answer: oneshot::Receiver<StoreAnswer>,
    buckets: SmallVec<[Arc<StoreBucket>; 2]>,
    cost: u32,
}

/// What a request that has waited brings to its decision.
#[derive(Debug)]
pub(crate) struct StoreOutcome {
    /// The buckets that the store was asked about.
    buckets: SmallVec<[Arc<StoreBucket>; 2]>,
    cost: u32,
    said: StoreSaid,
}

#[derive(Debug)]
enum StoreSaid {
    Granted(TokensInHand),
    Refused(SmallVec<[Option<Duration>; 4]>),
    /// No answer in time.
    Nothing,
}

/// Whether the store answers, and what holds meanwhile.
#[derive(Clone, Debug)]
pub struct StoreStanding {
    pub up: bool,
    /// Why it does not answer.
    pub why: Option<Box<str>>,
    /// Number of sidecars that share the limits, as last counted.
    pub replicas: u32,
    /// The part of each limit that this sidecar admits while the store is away.
    pub share: f64,
}

static PER_KEY: LazyLock<PolicyName> = LazyLock::new(PolicyName::per_key);

// === impl SharedLimits ===

impl SharedLimits {
    /// Charges one request to all its limits, or to none.
    #[inline]
    pub(crate) fn charge(self: &Arc<Self>, charge: &Charge<'_>, now: Now) -> SharedCharge {
        if let (ChargedLimits::PerKey(limit), ChargedCaller::Key(key)) =
            (&charge.limits, charge.caller)
        {
            let terms = LeaseTerms { lease_ns: self.lease_ns, may_ask: true };
            if let Some(spent) = self.book.take_lone(key, charge.cost, *limit, terms, now) {
                let state =
                    LimitState { limit: *limit, remaining: spent.remaining, wait: spent.full_in };
                return SharedCharge::Done(Ok(LimitReport::PerKey(state)));
            }
        }
        self.charge_all(charge, now)
    }

    fn charge_all(self: &Arc<Self>, charge: &Charge<'_>, now: Now) -> SharedCharge {
        let limits = limits_of(charge);
        let may_ask = !self.health.is_away();
        let terms = LeaseTerms { lease_ns: self.lease_ns, may_ask };
        match self.take(charge, &limits, terms, now) {
            Ok(result) => SharedCharge::Done(result),
            Err(Some(short)) => self.ask(charge, &limits, short, now),
            Err(None) => SharedCharge::Done(self.charge_own(charge, now)),
        }
    }

    /// Charges one request to all its limits, or to none, without waiting: this sidecar's share
    /// covers what is missing.
    pub(crate) fn charge_now(
        self: &Arc<Self>,
        charge: &Charge<'_>,
        now: Now,
    ) -> Result<LimitReport, LimitReport> {
        let terms = LeaseTerms { lease_ns: self.lease_ns, may_ask: false };
        match self.take(charge, &limits_of(charge), terms, now) {
            Ok(result) => result,
            Err(_) => self.charge_own(charge, now),
        }
    }

    /// Decides again about a request that has waited. The tokens that it asked for fit no other
    /// limits: where another table has changed what is charged, they are returned.
    pub(crate) fn charge_after(
        self: &Arc<Self>,
        outcome: StoreOutcome,
        charge: &Charge<'_>,
        now: Now,
    ) -> Result<LimitReport, LimitReport> {
        let limits = limits_of(charge);
        let is_same = outcome.cost == charge.cost
            && outcome.buckets == self.names.of_charge(charge, &limits, now);
        match outcome.said {
            StoreSaid::Granted(hand) if is_same => {
                hand.use_up();
                let spent: SmallVec<[_; 4]> =
                    outcome.buckets.iter().map(|bucket| self.book.state(bucket, now)).collect();
                Ok(report(
                    charge,
                    &limits,
                    |limits| LimitReport::spent(limits, spent.iter().copied()),
                    || {
                        let spent = spent.first()?;
                        Some((spent.remaining, spent.full_in))
                    },
                ))
            }
            StoreSaid::Refused(waits) if is_same => Err(refusal(charge, &limits, &waits)),
            StoreSaid::Nothing => self.charge_own(charge, now),
            said => {
                // Dropped before anything else is taken.
                drop(said);
                self.charge_now(charge, now)
            }
        }
    }

    /// Charges what this sidecar holds. An error: what is missing, or that the store cannot be
    /// asked.
    fn take(
        &self,
        charge: &Charge<'_>,
        limits: &[PolicyCharge<'_>],
        terms: LeaseTerms,
        now: Now,
    ) -> Result<Result<LimitReport, LimitReport>, Option<ShortBuckets>> {
        match self.book.charge(charge, limits, terms, now) {
            BookVerdict::Taken { spent, refill } => {
                if let Some(want) = refill {
                    self.refill(charge, limits, &want, now);
                }
                Ok(Ok(report(
                    charge,
                    limits,
                    |limits| LimitReport::spent(limits, spent.iter().copied()),
                    || {
                        let spent = spent.first()?;
                        Some((spent.remaining, spent.full_in))
                    },
                )))
            }
            BookVerdict::Refused(waits) => Ok(Err(refusal(charge, limits, &waits))),
            BookVerdict::Short(short) => Err(Some(short)),
            BookVerdict::Unknown => Err(None),
        }
    }

    /// This sidecar's share of each limit.
    fn charge_own(&self, charge: &Charge<'_>, now: Now) -> Result<LimitReport, LimitReport> {
        self.health.fallbacks.increment(1);
        let result = self.own.charge_share(charge, self.health.share(), now);
        let limits = limits_of(charge);
        if result.is_ok() && limits.iter().any(|limit| limit.quota.is_some()) {
            for bucket in self.names.of_charge(charge, &limits, now) {
                self.book.with(&bucket, now, |leased| leased.owe(charge.cost));
            }
        }
        result
    }

    /// Asks for later requests. What cannot be asked now is asked with one of them.
    #[cold]
    fn refill(&self, charge: &Charge<'_>, limits: &[PolicyCharge<'_>], want: &Amounts, now: Now) {
        let buckets = self.names.of_charge(charge, limits, now);
        let asked = buckets.into_iter().zip(want).filter(|(_, want)| **want > 0);
        let asked = asked.map(|(bucket, want)| self.asked(bucket, 0, *want, now));
        let ask = LeaseAsk { buckets: asked.collect(), waiter: None, asked_ns: now.mono_ns };
        if let Err(refused) = self.asks.try_send(ask) {
            let (mpsc::error::TrySendError::Full(ask) | mpsc::error::TrySendError::Closed(ask)) =
                refused;
            self.forget(&ask);
        }
    }

    /// Adds what the store has to learn about a quota.
    fn asked(&self, bucket: Arc<StoreBucket>, need: u32, want: u32, now: Now) -> AskedBucket {
        let told = match bucket.span {
            None => (0, 0, 0),
            Some(_) => self.book.with(&bucket, now, LeasedBucket::tell),
        };
        AskedBucket { bucket, need, want, told }
    }

    /// The question was never sent.
    fn forget(&self, ask: &LeaseAsk) {
        for asked in &ask.buckets {
            let (_, _, owed) = asked.told;
            self.book.with(&asked.bucket, Now::default(), |leased| {
                leased.unanswered(asked.want);
                leased.owe(owed);
            });
        }
    }

    #[cold]
    fn ask(
        self: &Arc<Self>,
        charge: &Charge<'_>,
        limits: &[PolicyCharge<'_>],
        short: ShortBuckets,
        now: Now,
    ) -> SharedCharge {
        let buckets = self.names.of_charge(charge, limits, now);
        let mut hand = TokensInHand::new(&self.book);
        let mut asked = SmallVec::new();
        let amounts = short.taken.iter().zip(&short.need).zip(&short.want);
        for (bucket, ((taken, need), want)) in buckets.iter().zip(amounts) {
            hand.add(bucket, *taken);
            asked.push(self.asked(Arc::clone(bucket), *need, *want, now));
        }
        let (waiter, answer) = oneshot::channel();
        let ask = LeaseAsk { buckets: asked, waiter: Some(waiter), asked_ns: now.mono_ns };
        if let Err(refused) = self.asks.try_send(ask) {
            let (mpsc::error::TrySendError::Full(ask) | mpsc::error::TrySendError::Closed(ask)) =
                refused;
            self.forget(&ask);
            drop(hand);
            return SharedCharge::Done(self.charge_own(charge, now));
        }
        let (limits, cost) = (Arc::clone(self), charge.cost);
        SharedCharge::Waits(StoreWait { limits, hand, answer, buckets, cost })
    }

    /// Forgets entries that no longer mean anything. Called about once a minute, off the workers.
    pub fn sweep(&self, now: Now) {
        self.book.sweep(now);
    }

    pub fn standing(&self) -> StoreStanding {
        StoreStanding {
            up: !self.health.is_away(),
            why: self.health.why(),
            replicas: self.health.replicas(),
            share: self.health.share().fraction(),
        }
    }
}

// === impl StoreWait ===

impl StoreWait {
    /// Waits as long as the configuration allows, and no longer.
    pub(crate) async fn outcome(self) -> StoreOutcome {
        let Self { limits, mut hand, answer, buckets, cost } = self;
        let said = match tokio::time::timeout(limits.timeout, answer).await {
            Ok(Ok(StoreAnswer::Granted(more))) => {
                hand.merge(more);
                StoreSaid::Granted(hand)
            }
            Ok(Ok(StoreAnswer::Refused(waits))) => StoreSaid::Refused(waits),
            Ok(Ok(StoreAnswer::Failed) | Err(_)) => StoreSaid::Nothing,
            Err(_) => {
                limits.health.timed_out();
                StoreSaid::Nothing
            }
        };
        StoreOutcome { buckets, cost, said }
    }
}

/// All limits of a charge, even if it only has `per-key`.
fn limits_of<'c>(charge: &Charge<'c>) -> SmallVec<[PolicyCharge<'c>; 4]> {
    match &charge.limits {
        ChargedLimits::PerKey(limit) => {
            let (policy, scope) = (&*PER_KEY, PolicyScope::Key);
            SmallVec::from_iter([PolicyCharge {
                policy,
                scope,
                limit: *limit,
                quota: None,
                item: None,
            }])
        }
        ChargedLimits::Several(limits) => limits.clone(),
    }
}

/// The report, in the same form as the charge.
fn report<'c>(
    charge: &Charge<'_>,
    limits: &[PolicyCharge<'c>],
    several: impl FnOnce(&[PolicyCharge<'c>]) -> LimitReport,
    lone: impl FnOnce() -> Option<(u32, Duration)>,
) -> LimitReport {
    match &charge.limits {
        ChargedLimits::PerKey(limit) => {
            let (remaining, wait) = lone().unwrap_or_default();
            LimitReport::PerKey(LimitState { limit: *limit, remaining, wait })
        }
        ChargedLimits::Several(_) => several(limits),
    }
}

fn refusal(
    charge: &Charge<'_>,
    limits: &[PolicyCharge<'_>],
    waits: &[Option<Duration>],
) -> LimitReport {
    report(
        charge,
        limits,
        |limits| LimitReport::refused(limits, waits.iter().copied()),
        || {
            let wait = waits.iter().flatten().max();
            Some((0, wait.copied().unwrap_or_default()))
        },
    )
}
