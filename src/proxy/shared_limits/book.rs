//! Everything that this sidecar has taken from the store, by key, subject and org. Workers take
//! from it under the lock of one entry. The thread that asks the store adds to it. Imports `core`,
//! `token`.

use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::bucket::{LeaseLook, LeasedBucket};
use super::names::{BucketOwner, StoreBucket};
use crate::core::charge::{ChargedCaller, OrgSource, PolicyCharge};
use crate::core::limit::{PolicyId, Spent};
use crate::core::{Charge, KeyId, Limit, Now, PolicyScope};
use crate::token::BoundedBuckets;
use crate::token::buckets::{BucketState, org_of, subject_of};

/// Locks are taken in the order of the maps, one shard (or one part of a table) of each.
pub(super) struct LeaseBook {
    /// Buckets of subjects of user tokens, whose number depends on their issuers.
    subjects: BoundedBuckets<OwnedBuckets>,
    /// With the quick hash: clients cannot choose which ids are in the table.
    keys: DashMap<KeyId, OwnedBuckets, RandomState>,
    /// Buckets of orgs that the table knows.
    orgs: DashMap<Box<str>, OwnedBuckets, RandomState>,
    /// Buckets of all other orgs: user tokens can bring any number of names.
    foreign_orgs: BoundedBuckets<OwnedBuckets>,
    /// Buckets that may have something to return.
    listed: Mutex<Vec<Arc<StoreBucket>>>,
}

/// All buckets of one key, subject or org, by policy.
#[derive(Debug, Default)]
pub(super) struct OwnedBuckets {
    list: SmallVec<[(PolicyId, LeasedBucket); 1]>,
}

/// How long tokens taken in advance last, and whether the store can be asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseTerms {
    pub(super) lease_ns: u64,
    pub(super) may_ask: bool,
}

/// What the book says about a request. All amounts and waits are in the order of its limits.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BookVerdict {
    Taken {
        spent: SmallVec<[Spent; 4]>,
        /// What to ask for in advance, if anything.
        refill: Option<Amounts>,
    },
    /// The store refused as much a moment ago.
    Refused(SmallVec<[Option<Duration>; 4]>),
    /// The store has to grant something first.
    Short(ShortBuckets),
    /// Something is missing, and the store cannot be asked.
    Unknown,
}

pub(super) type Amounts = SmallVec<[u32; 4]>;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ShortBuckets {
    pub(super) taken: Amounts,
    pub(super) need: Amounts,
    pub(super) want: Amounts,
}

// === impl OwnedBuckets ===

impl OwnedBuckets {
    #[inline]
    fn bucket(&mut self, policy: PolicyId) -> &mut LeasedBucket {
        let at = self.list.iter().position(|(known, _)| *known == policy);
        let at = at.unwrap_or_else(|| {
            self.list.push((policy, LeasedBucket::default()));
            self.list.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or pushed above")]
        &mut self.list[at].1
    }
}

impl BucketState for OwnedBuckets {
    fn is_spent(&self, now: Now) -> bool {
        self.list.iter().any(|(_, bucket)| bucket.is_alive(now))
    }
}

// === impl LeaseBook ===

impl Default for LeaseBook {
    fn default() -> Self {
        Self {
            subjects: BoundedBuckets::new(RandomState::default().hash_one(0_u8)),
            keys: DashMap::default(),
            orgs: DashMap::default(),
            foreign_orgs: BoundedBuckets::new(RandomState::default().hash_one(1_u8)),
            listed: Mutex::default(),
        }
    }
}

impl LeaseBook {
    /// Charges a request to the one limit of a key, if that is possible without asking the store.
    /// Most requests end here.
    #[inline]
    pub(super) fn take_lone(
        &self,
        key: KeyId,
        cost: u32,
        limit: Limit,
        terms: LeaseTerms,
        now: Now,
    ) -> Option<Spent> {
        let mut owned = self.keys.get_mut(&key)?;
        let (_, bucket) = owned.list.iter_mut().find(|(known, _)| *known == PolicyId::PER_KEY)?;
        if bucket.is_quota() {
            return None;
        }
        let now_ns = now.mono_ns;
        let cost = cost.min(limit.burst());
        // Not if the charge would make it ask the store: a question needs more than is available
        // here.
        if bucket.look(cost, limit, now) != LeaseLook::Enough
            || bucket.will_want(cost, limit, terms.lease_ns, now_ns)
        {
            return None;
        }
        bucket.demanded(cost, now_ns);
        bucket.take(cost);
        Some(bucket.state(limit, now))
    }

    /// Charges a request to all its limits, or to none.
    pub(super) fn charge(
        &self,
        charge: &Charge<'_>,
        limits: &[PolicyCharge<'_>],
        terms: LeaseTerms,
        now: Now,
    ) -> BookVerdict {
        let is_of = |scope: PolicyScope| limits.iter().any(|limit| limit.scope == scope);
        let (of_key, of_org) = (is_of(PolicyScope::Key), is_of(PolicyScope::Org));
        let all = |caller: Option<&mut OwnedBuckets>| {
            let all = |org: Option<&mut OwnedBuckets>| {
                charge_all(charge.cost, limits, caller, org, terms, now)
            };
            match of_org {
                true => self.with_org(charge.org, charge.org_source(), now, |org| all(Some(org))),
                false => all(None),
            }
        };
        match (of_key, charge.caller) {
            (false, _) => all(None),
            (true, ChargedCaller::Key(key)) => all(Some(&mut self.keys.entry(key).or_default())),
            (true, ChargedCaller::Subject(of)) => {
                let subject = subject_of(of.issuer, of.subject);
                self.subjects.with(subject, now, |subject| all(Some(subject)))
            }
        }
    }

    fn with_org<T>(
        &self,
        org: &str,
        source: OrgSource,
        now: Now,
        act: impl FnOnce(&mut OwnedBuckets) -> T,
    ) -> T {
        match source {
            OrgSource::Token => self.foreign_orgs.with(org_of(org), now, act),
            OrgSource::Table => match self.orgs.get_mut(org) {
                Some(mut found) => act(&mut found),
                None => act(&mut self.orgs.entry(org.into()).or_default()),
            },
        }
    }

    fn with_owner<T>(
        &self,
        owner: &BucketOwner,
        now: Now,
        act: impl FnOnce(&mut OwnedBuckets) -> T,
    ) -> T {
        match owner {
            BucketOwner::Key(key) => act(&mut self.keys.entry(*key).or_default()),
            BucketOwner::Subject(subject) => self.subjects.with(*subject, now, act),
            BucketOwner::Org(org) => self.with_org(org, OrgSource::Table, now, act),
            BucketOwner::ForeignOrg(org) => self.foreign_orgs.with(*org, now, act),
        }
    }

    /// Hands over one bucket, which nobody else can use meanwhile.
    pub(super) fn with<T>(
        &self,
        bucket: &StoreBucket,
        now: Now,
        act: impl FnOnce(&mut LeasedBucket) -> T,
    ) -> T {
        self.with_owner(&bucket.owner, now, |owned| act(owned.bucket(bucket.policy)))
    }

    /// Returns tokens that were taken and not used.
    pub(super) fn put_back(&self, bucket: &Arc<StoreBucket>, tokens: u32) {
        self.with(bucket, Now::default(), |leased| leased.put_back(tokens, bucket.span));
        self.list(bucket, Now::default());
    }

    /// Lists the bucket: it may have something to return.
    pub(super) fn list(&self, bucket: &Arc<StoreBucket>, now: Now) {
        let is_new = self.with(bucket, now, |leased| {
            leased.has_tokens() && !std::mem::replace(&mut leased.is_listed, true)
        });
        if is_new {
            self.listed().push(Arc::clone(bucket));
        }
    }

    /// Removes tokens that have not been used for `idle_ns`, so that they can be returned to the
    /// store.
    pub(super) fn take_idle(&self, idle_ns: u64, now: Now) -> Vec<(Arc<StoreBucket>, u32)> {
        let take_list = || std::mem::take(&mut *self.listed());
        let mut idle = Vec::new();
        let mut kept = take_list();
        kept.retain(|bucket| {
            self.with(bucket, now, |leased| {
                if leased.span() != bucket.span {
                    // It belongs to a day or month that is over. The next one is listed separately.
                    leased.is_listed = false;
                    return false;
                }
                let tokens = leased.give_back(idle_ns, now.mono_ns);
                if tokens > 0 {
                    idle.push((Arc::clone(bucket), tokens));
                }
                leased.is_listed = leased.has_tokens();
                leased.is_listed
            })
        });
        self.listed().append(&mut kept);
        idle
    }

    fn listed(&self) -> std::sync::MutexGuard<'_, Vec<Arc<StoreBucket>>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of a bucket, for reports to callers.
    pub(super) fn state(&self, bucket: &StoreBucket, now: Now) -> Spent {
        self.with(bucket, now, |leased| leased.state(bucket.of.limit, now))
    }

    /// Forgets entries that no longer mean anything. Called about once a minute, off the workers.
    pub(super) fn sweep(&self, now: Now) {
        self.keys.retain(|_, owned| owned.is_spent(now));
        self.orgs.retain(|_, owned| owned.is_spent(now));
    }

    /// Number of keys and orgs with an entry, except those in a table of fixed size.
    pub(super) fn len(&self) -> usize {
        self.keys.len() + self.orgs.len()
    }
}

fn charge_all(
    cost: u32,
    limits: &[PolicyCharge<'_>],
    mut of_caller: Option<&mut OwnedBuckets>,
    mut of_org: Option<&mut OwnedBuckets>,
    terms: LeaseTerms,
    now: Now,
) -> BookVerdict {
    let now_ns = now.mono_ns;
    let (mut is_short, mut is_refused) = (false, false);
    let mut waits = SmallVec::new();
    let mut each = |act: &mut dyn FnMut(&PolicyCharge<'_>, u32, &mut LeasedBucket)| {
        for one in limits {
            let owned = match one.scope {
                PolicyScope::Key => of_caller.as_deref_mut(),
                PolicyScope::Org => of_org.as_deref_mut(),
            };
            if let Some(owned) = owned {
                // A cost above the burst takes the whole burst.
                let cost = cost.min(one.limit.burst());
                act(one, cost, owned.bucket(one.policy.id()));
            }
        }
    };
    each(&mut |one, cost, bucket| {
        bucket.settle(one.quota.map(|period| period.span(now.unix_ms)));
        bucket.demanded(cost, now_ns);
        let look = bucket.look(cost, one.limit, now);
        is_short |= matches!(look, LeaseLook::Short(_));
        is_refused |= matches!(look, LeaseLook::Refused(_));
        waits.push(match look {
            LeaseLook::Refused(wait) => Some(wait),
            LeaseLook::Enough | LeaseLook::Short(_) => None,
        });
    });
    if is_refused {
        return BookVerdict::Refused(waits);
    }
    if is_short && !terms.may_ask {
        return BookVerdict::Unknown;
    }
    let (mut taken, mut need, mut want) = (Amounts::new(), Amounts::new(), Amounts::new());
    let mut spent = SmallVec::new();
    each(&mut |one, cost, bucket| {
        let had = bucket.take(cost);
        let more = if terms.may_ask { bucket.wants(one.limit, terms.lease_ns, now_ns) } else { 0 };
        bucket.is_refilling |= more > 0;
        taken.push(had);
        need.push(cost - had);
        want.push(more);
        if !is_short {
            spent.push(bucket.state(one.limit, now));
        }
    });
    match is_short {
        true => BookVerdict::Short(ShortBuckets { taken, need, want }),
        false => {
            let refill = want.iter().any(|more| *more > 0).then_some(want);
            BookVerdict::Taken { spent, refill }
        }
    }
}

impl std::fmt::Debug for LeaseBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseBook").field("entries", &self.len()).finish_non_exhaustive()
    }
}
