//! Which limits a request is charged to. A policy has a name: the configuration says which routes
//! it is for and its default, and the table states limits by that name for keys and orgs.

use std::sync::LazyLock;

use smallvec::SmallVec;

use super::Now;
use super::grant::KeyView;
use super::key::KeyId;
use super::limit::{Exhausted, Limit, LimitStep, PolicyName};
use super::limit_set::LimitSet;
use super::policy_item::PolicyItem;
use super::quota::{QuotaPeriod, arrival_of, quota_step};
use super::route::Route;

/// Whose requests are counted together by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyScope {
    /// For a user token: its subject.
    Key,
    /// All keys and user tokens of one org.
    Org,
}

/// One `[[policies]]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitPolicy {
    pub name: PolicyName,
    pub scope: PolicyScope,
    /// Classes of the routes that it is for. Empty: all routes.
    pub classes: Box<[Box<str>]>,
    /// The limit of keys or orgs that the table states none for. `None`: no limit.
    pub limit: Option<Limit>,
    /// Set if it is counted by calendar: `limit`, and whatever the table states that is a count for
    /// the period.
    pub quota: Option<QuotaPeriod>,
}

/// All policies of the configuration, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitPolicies {
    list: Box<[LimitPolicy]>,
    /// How callers are shown each default.
    items: Box<[Option<PolicyItem>]>,
    /// Whatever its route, no key can be charged to anything but `per-key`.
    at_most_per_key: bool,
    /// Some org-wide policy has a default.
    has_org_default: bool,
}

/// What an admitted request still has to be charged: all of it, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge<'c> {
    pub caller: ChargedCaller<'c>,
    pub org: &'c str,
    /// In requests. At least 1.
    pub cost: u32,
    pub limits: ChargedLimits<'c>,
}

/// Who owns the limits that are not the org's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargedCaller<'c> {
    Key(KeyId),
    Subject(ChargedSubject<'c>),
}

/// The subject of a user token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChargedSubject<'c> {
    pub issuer: &'c str,
    pub subject: &'c str,
    pub org: &'c str,
    /// The limit of each subject of its issuer.
    pub limit: Option<Limit>,
    pub org_source: OrgSource,
}

/// Where the name of a caller's org is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrgSource {
    /// The table also names it, so there are no more such orgs than the table has.
    Table,
    /// The token alone: its issuer determines how many there are.
    Token,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChargedLimits<'c> {
    /// `per-key`, for a key or subject that no route charges to anything else.
    PerKey(Limit),
    /// The caller's first, then its org's.
    Several(SmallVec<[PolicyCharge<'c>; 4]>),
}

/// One limit that a request is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyCharge<'c> {
    pub policy: &'c PolicyName,
    /// Whose bucket it is.
    pub scope: PolicyScope,
    pub limit: Limit,
    /// `None`: a bucket that refills continuously.
    pub quota: Option<QuotaPeriod>,
    /// How callers are shown the limit, where that was written in advance.
    pub item: Option<&'c PolicyItem>,
}

/// The name of the limit that each subject of an issuer has: callers and metrics know it from keys.
static OF_SUBJECTS: LazyLock<PolicyName> = LazyLock::new(PolicyName::per_key);

// === impl LimitPolicy ===

impl LimitPolicy {
    /// Whether requests on this route are charged to it.
    pub fn is_for(&self, route: &Route) -> bool {
        let among = |class: &str| self.classes.iter().any(|known| **known == *class);
        self.classes.is_empty() || route.class.as_deref().is_some_and(among)
    }
}

// === impl Charge ===

impl Charge<'_> {
    /// Where the name of [`Self::org`] is from. For a key it is always the table.
    pub fn org_source(&self) -> OrgSource {
        match self.caller {
            ChargedCaller::Key(_) => OrgSource::Table,
            ChargedCaller::Subject(subject) => subject.org_source,
        }
    }
}

// === impl PolicyCharge ===

impl PolicyCharge<'_> {
    /// The state that follows `state` after a request of this cost.
    ///
    /// # Errors
    /// [`Exhausted`]: less is left than the cost.
    #[inline]
    pub fn step(&self, cost: u32, state: u64, now: Now) -> Result<LimitStep, Exhausted> {
        match self.quota {
            None => self.limit.step(cost, arrival_of(state), now.mono_ns),
            Some(period) => quota_step(self.limit, period, cost, state, now),
        }
    }
}

/// In the form that the configuration or a table uses.
impl std::fmt::Display for PolicyCharge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.quota {
            None => self.limit.fmt(f),
            Some(period) => write!(f, "{}/{}", self.limit.count(), period.as_str()),
        }
    }
}

// === impl LimitPolicies ===

impl LimitPolicies {
    /// The most policies of a configuration.
    pub const MOST: usize = 16;

    /// The caller has ensured that no name occurs twice.
    pub fn new(policies: impl IntoIterator<Item = LimitPolicy>) -> Self {
        let mut list: Vec<_> = policies.into_iter().collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        let may_charge_more = |policy: &LimitPolicy| {
            let is_other =
                policy.scope == PolicyScope::Org || policy.name.as_str() != PolicyName::PER_KEY;
            policy.quota.is_some() || (policy.limit.is_some() && is_other)
        };
        let has_org_default =
            list.iter().any(|policy| policy.scope == PolicyScope::Org && policy.limit.is_some());
        let at_most_per_key = !list.iter().any(may_charge_more);
        let item = |policy: &LimitPolicy| Some(PolicyItem::new(&policy.name, policy.limit?));
        let items = list.iter().map(item).collect();
        Self { list: list.into(), items, at_most_per_key, has_org_default }
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &LimitPolicy> {
        self.list.iter()
    }

    pub fn get(&self, name: &PolicyName) -> Option<&LimitPolicy> {
        self.list.iter().find(|policy| policy.name == *name)
    }

    /// What a request with this key on this route is charged. `None`: nothing.
    ///
    /// A limit in the table counts requests per key if it is stated for the key, and per org if it
    /// is stated for the org. A name that only the table knows applies to every route: a limited
    /// caller must not become unlimited because a configuration does not name the policy.
    #[inline]
    pub fn charge<'c>(
        &'c self,
        key: &KeyView<'c>,
        org_limits: Option<&'c LimitSet>,
        route: &Route,
    ) -> Option<Charge<'c>> {
        if org_limits.is_some() || !self.has_no_part_in(key) {
            return self.charge_listed(key, org_limits, route);
        }
        let limits = ChargedLimits::PerKey(key.grant.limits.per_key()?);
        let cost = Some(route.cost).filter(|cost| *cost > 0)?;
        Some(Charge { caller: ChargedCaller::Key(key.id), org: key.org, cost, limits })
    }

    fn charge_listed<'c>(
        &'c self,
        key: &KeyView<'c>,
        org_limits: Option<&'c LimitSet>,
        route: &Route,
    ) -> Option<Charge<'c>> {
        let (caller, org, cost) = (ChargedCaller::Key(key.id), key.org, route.cost);
        let limits = ChargedLimits::Several(SmallVec::new());
        // The list is written where it stays: to move one that was just written is slow.
        let mut charge = Some(Charge { caller, org, cost, limits });
        let Some(Charge { limits, .. }) = &mut charge else { return None };
        if let ChargedLimits::Several(charges) = limits {
            self.add(charges, PolicyScope::Key, Some(&key.grant.limits), route);
            if org_limits.is_some() || self.has_org_default {
                self.add(charges, PolicyScope::Org, org_limits, route);
            }
            let first = charges.first().map(|first| first.limit);
            let is_lone =
                self.at_most_per_key && key.grant.limits.is_plain() && org_limits.is_none();
            match first {
                Some(first) if is_lone => *limits = ChargedLimits::PerKey(first),
                Some(_) => {}
                None => charge = None,
            }
        }
        charge.filter(|charge| charge.cost > 0)
    }

    /// What a request with this user token on this route is charged. `None`: nothing.
    ///
    /// It is charged to the limit that its issuer's subjects have, and to the limits of its org.
    /// Policies with the scope `key` do not apply to tokens.
    pub fn charge_token<'c>(
        &'c self,
        subject: ChargedSubject<'c>,
        org_limits: Option<&'c LimitSet>,
        route: &Route,
    ) -> Option<Charge<'c>> {
        let mut charges = SmallVec::new();
        charges.extend(subject.limit.map(|limit| PolicyCharge {
            policy: &OF_SUBJECTS,
            scope: PolicyScope::Key,
            limit,
            quota: None,
            item: None,
        }));
        if org_limits.is_some() || self.has_org_default {
            self.add(&mut charges, PolicyScope::Org, org_limits, route);
        }
        let limits = match charges.as_slice() {
            [] => return None,
            [PolicyCharge { scope: PolicyScope::Key, limit, .. }] => ChargedLimits::PerKey(*limit),
            _ => ChargedLimits::Several(charges),
        };
        let cost = Some(route.cost).filter(|cost| *cost > 0)?;
        Some(Charge { caller: ChargedCaller::Subject(subject), org: subject.org, cost, limits })
    }

    /// True without `[[policies]]` for a key that has only the one limit.
    fn has_no_part_in(&self, key: &KeyView<'_>) -> bool {
        self.list.is_empty() && key.grant.limits.is_plain()
    }

    /// Adds the limits of one scope: what the table states, and the defaults of what it does not.
    fn add<'c>(
        &'c self,
        charges: &mut SmallVec<[PolicyCharge<'c>; 4]>,
        scope: PolicyScope,
        stated: Option<&'c LimitSet>,
        route: &Route,
    ) {
        for (named, item) in stated.into_iter().flat_map(LimitSet::iter_shown) {
            let policy = self.get(&named.policy);
            if policy.is_none_or(|policy| policy.is_for(route)) {
                let limit = named.limit;
                let quota = policy.and_then(|policy| policy.quota).filter(|q| q.counts(limit));
                let policy = &named.policy;
                charges.push(PolicyCharge { policy, scope, limit, quota, item });
            }
        }
        for (policy, item) in self.list.iter().zip(&self.items) {
            let is_stated = || stated.is_some_and(|set| set.get(policy.name.as_str()).is_some());
            if let Some(limit) = policy.limit
                && policy.scope == scope
                && policy.is_for(route)
                && !is_stated()
            {
                let (quota, item) = (policy.quota, item.as_ref());
                charges.push(PolicyCharge { policy: &policy.name, scope, limit, quota, item });
            }
        }
    }
}

// === impl PolicyScope ===

impl PolicyScope {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Org => "org",
        }
    }
}

#[cfg(test)]
mod tests;
