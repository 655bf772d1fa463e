//! What keys, subjects of user tokens and orgs have spent of their limits. It is kept outside every
//! table, by key id, subject and org, so that a reload never resets a limit. It has entries only
//! for those that were seen and are limited. Names that only a token gives have a place in a table
//! of fixed size.

mod attempt;
mod buckets;
mod kept;
#[cfg(test)]
mod tests;

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use dashmap::mapref::one::RefMut;
use foldhash::fast::RandomState;
use smallvec::SmallVec;

use self::attempt::Attempt;
use self::buckets::Buckets;
use crate::core::charge::{ChargedCaller, ChargedLimits, OrgSource, PolicyCharge};
use crate::core::limit::{Exhausted, LimitStep, PolicyId, Spent};
use crate::core::quota::arrival_of;
use crate::core::rate_fields::{LimitReport, LimitState};
use crate::core::{Charge, KeyId, Limit, LimitShare, Now, PolicyScope};
use crate::token::BoundedBuckets;
use crate::token::buckets::{BucketState as _, org_of, subject_of};

/// Shared by all workers: a limit holds for the sidecar, not per core.
///
/// Locks are taken in the order of the maps below, one shard (or one part of a table) of each, so
/// that no two charges wait for each other.
#[derive(Debug)]
pub struct LimitStore {
    /// Buckets of `per-key` of subjects of user tokens, whose number depends on their issuers.
    subjects: BoundedBuckets,
    /// Keys that were charged under several policies: all their buckets.
    several: DashMap<KeyId, Buckets, RandomState>,
    /// All other keys: the bucket of `per-key`, charged without a lock of its own. A key is in one
    /// of these two maps, never in both.
    ///
    /// With the quick hash: clients cannot choose which ids are in the table.
    lone: DashMap<KeyId, AtomicU64, RandomState>,
    /// What all keys and subjects of an org have spent together, for orgs that the table knows, or
    /// knew when they got their entry.
    orgs: DashMap<Box<str>, Buckets, RandomState>,
    /// All other orgs: user tokens can bring any number of names.
    foreign_orgs: BoundedBuckets<Buckets>,
    /// What was kept over a restart for orgs that have not called since, by a hash of their names.
    kept_orgs: DashMap<u128, Buckets, RandomState>,
}

// === impl LimitStore ===

impl Default for LimitStore {
    fn default() -> Self {
        Self {
            subjects: BoundedBuckets::new(RandomState::default().hash_one(0_u8)),
            several: DashMap::default(),
            lone: DashMap::default(),
            orgs: DashMap::default(),
            foreign_orgs: BoundedBuckets::new(RandomState::default().hash_one(1_u8)),
            kept_orgs: DashMap::default(),
        }
    }
}

impl LimitStore {
    /// Charges one request to all its limits, or to none.
    ///
    /// # Errors
    /// What the refusal says: which limits have less left than the request costs.
    #[inline]
    pub fn charge(&self, charge: &Charge<'_>, now: Now) -> Result<LimitReport, LimitReport> {
        let limit = match &charge.limits {
            ChargedLimits::PerKey(limit) => *limit,
            // Nothing stays locked while the report is written.
            ChargedLimits::Several(limits) => {
                let mut attempt = Attempt::new(charge.cost, limits, now);
                self.charge_several(charge, &mut attempt);
                return attempt.report(limits);
            }
        };
        self.charge_lone(charge, limit, limit, now)
    }

    /// The same with a part of each limit. Callers are shown the whole limits.
    ///
    /// # Errors
    /// As [`LimitStore::charge`].
    pub fn charge_share(
        &self,
        charge: &Charge<'_>,
        share: LimitShare,
        now: Now,
    ) -> Result<LimitReport, LimitReport> {
        let limits = match &charge.limits {
            ChargedLimits::PerKey(limit) => {
                return self.charge_lone(charge, share.of_limit(*limit), *limit, now);
            }
            ChargedLimits::Several(limits) => limits,
        };
        let part = |one: &PolicyCharge<'_>| match one.quota {
            None => share.of_limit(one.limit),
            Some(_) => share.of_count(one.limit),
        };
        let parts: SmallVec<[_; 4]> =
            limits.iter().map(|one| PolicyCharge { limit: part(one), ..*one }).collect();
        let mut attempt = Attempt::new(charge.cost, &parts, now);
        self.charge_several(charge, &mut attempt);
        attempt.report(limits)
    }

    /// Charges the only limit, `limit`. Callers are shown `told`.
    #[inline]
    fn charge_lone(
        &self,
        charge: &Charge<'_>,
        limit: Limit,
        told: Limit,
        now: Now,
    ) -> Result<LimitReport, LimitReport> {
        let result = match charge.caller {
            ChargedCaller::Key(key) => match self.lone.get(&key) {
                // Charged under the map's lock, so that a sweep cannot drop the state in between.
                Some(state) => limit.charge(charge.cost, &state, now.mono_ns),
                None => self.charge_elsewhere(key, charge.cost, limit, now),
            },
            ChargedCaller::Subject(of) => {
                let subject = subject_of(of.issuer, of.subject);
                let take = |state: &mut AtomicU64| limit.charge(charge.cost, state, now.mono_ns);
                self.subjects.with(subject, now, take)
            }
        };
        match result {
            Ok(Spent { remaining, full_in }) => {
                Ok(LimitReport::PerKey(LimitState { limit: told, remaining, wait: full_in }))
            }
            Err(Exhausted { retry_in, .. }) => {
                Err(LimitReport::PerKey(LimitState { limit: told, remaining: 0, wait: retry_in }))
            }
        }
    }

    /// Charges a key that `lone` does not have: it is new, or had several limits before a reload.
    fn charge_elsewhere(
        &self,
        key: KeyId,
        cost: u32,
        limit: Limit,
        now: Now,
    ) -> Result<Spent, Exhausted> {
        // While the place in `several` is locked, nobody else can add the key to either map.
        match self.several.entry(key) {
            Entry::Occupied(mut found) => {
                let buckets = found.get_mut();
                let seen = arrival_of(buckets.arrival(PolicyId::PER_KEY));
                let (arrival, charged) = match limit.step(cost, seen, now.mono_ns) {
                    Ok(LimitStep { arrival, spent }) => (arrival, Ok(spent)),
                    Err(exhausted) => (exhausted.arrival, Err(exhausted)),
                };
                buckets.set(PolicyId::PER_KEY, arrival, now);
                charged
            }
            Entry::Vacant(_place) => {
                let state = self.lone.entry(key).or_default();
                limit.charge(cost, &state, now.mono_ns)
            }
        }
    }

    /// Makes the attempt on the buckets of the charge's caller and org.
    fn charge_several(&self, charge: &Charge<'_>, attempt: &mut Attempt<'_, '_>) {
        match charge.caller {
            ChargedCaller::Key(key) if attempt.is_of(PolicyScope::Key) => {
                let mut of_key = self.buckets_of_key(key);
                self.charge_all(charge, Some(&mut of_key), attempt);
            }
            ChargedCaller::Subject(of) if attempt.is_of(PolicyScope::Key) => {
                let subject = subject_of(of.issuer, of.subject);
                self.subjects.with(subject, attempt.now(), |state| {
                    let before = state.load(Ordering::Relaxed);
                    let mut of_subject = Buckets::of_one(PolicyId::PER_KEY, before);
                    self.charge_all(charge, Some(&mut of_subject), attempt);
                    state.store(of_subject.arrival(PolicyId::PER_KEY), Ordering::Relaxed);
                });
            }
            ChargedCaller::Key(_) | ChargedCaller::Subject(_) => {
                self.charge_all(charge, None, attempt);
            }
        }
    }

    /// `of_caller`: the buckets of the key or subject, locked. `None`: it has no limit of its own.
    fn charge_all(
        &self,
        charge: &Charge<'_>,
        of_caller: Option<&mut Buckets>,
        attempt: &mut Attempt<'_, '_>,
    ) {
        if !attempt.is_of(PolicyScope::Org) {
            return attempt.make(of_caller, None);
        }
        // An org that has an entry keeps it, even if the table no longer knows the org.
        if let Some(mut found) = self.orgs.get_mut(charge.org) {
            return attempt.make(of_caller, Some(&mut found));
        }
        let foreign = org_of(charge.org);
        match charge.org_source() {
            OrgSource::Table => {
                let place = self.orgs.entry(charge.org.into());
                // Includes what its tokens had spent before the table knew it.
                let before = || {
                    let of_tokens = || self.foreign_orgs.take(foreign).unwrap_or_default();
                    self.take_kept_org(foreign).unwrap_or_else(of_tokens)
                };
                let mut new = place.or_insert_with(before);
                attempt.make(of_caller, Some(&mut new));
            }
            OrgSource::Token => self.foreign_orgs.with(foreign, attempt.now(), |of_org| {
                if let Some(kept) = self.take_kept_org(foreign) {
                    *of_org = kept;
                }
                attempt.make(of_caller, Some(of_org));
            }),
        }
    }

    /// Includes what the key had spent under `per-key` before it got a second limit.
    fn buckets_of_key(&self, key: KeyId) -> RefMut<'_, KeyId, Buckets> {
        if let Some(found) = self.several.get_mut(&key) {
            return found;
        }
        match self.several.entry(key) {
            Entry::Occupied(found) => found.into_ref(),
            Entry::Vacant(place) => {
                let before = self.lone.remove(&key).map(|(_, state)| state.into_inner());
                place.insert(match before {
                    Some(arrival) => Buckets::of_one(PolicyId::PER_KEY, arrival),
                    None => Buckets::default(),
                })
            }
        }
    }

    /// Forgets keys and orgs whose whole bursts are available again: their state means nothing any
    /// more. Called about once a minute, off the workers.
    pub fn sweep(&self, now: Now) {
        self.several.retain(|_, buckets| buckets.is_spent(now));
        self.lone.retain(|_, state| state.load(Ordering::Relaxed) > now.mono_ns);
        self.orgs.retain(|_, buckets| buckets.is_spent(now));
        self.sweep_kept(now);
    }

    /// Number of keys and orgs with an entry, except those in a table of fixed size.
    pub fn len(&self) -> usize {
        self.several.len() + self.lone.len() + self.orgs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
