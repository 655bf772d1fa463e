//! The limits of one key or org, by the names of policies.

use super::limit::{Limit, PolicyName};
use super::policy_item::PolicyItem;

/// What a key or an org may do under one policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedLimit {
    pub policy: PolicyName,
    pub limit: Limit,
}

/// The limits of a key or an org by the names of policies: sorted, each name once, at most
/// [`LimitSet::MOST`]. Decoded once per grant. A look-up borrows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitSet {
    named: Box<[NamedLimit]>,
    /// How callers are shown each of them. Empty for a plain set: most keys have no other limit.
    items: Box<[PolicyItem]>,
    /// The limit of [`PolicyName::PER_KEY`], found once.
    per_key: Option<Limit>,
}

// === impl LimitSet ===

impl LimitSet {
    /// The most limits of one key or org.
    pub const MOST: usize = 8;

    /// Of two limits with one name, the last one counts. The caller ensures [`LimitSet::MOST`].
    pub fn new(limits: impl IntoIterator<Item = NamedLimit>) -> Self {
        let by_name = |named: NamedLimit| (named.policy, named.limit);
        let sorted: std::collections::BTreeMap<_, _> = limits.into_iter().map(by_name).collect();
        let named: Box<[_]> =
            sorted.into_iter().map(|(policy, limit)| NamedLimit { policy, limit }).collect();
        let per_key = Self::find(&named, PolicyName::PER_KEY);
        let mut set = Self { named, items: Box::default(), per_key };
        if !set.is_plain() {
            let item = |named: &NamedLimit| PolicyItem::new(&named.policy, named.limit);
            set.items = set.named.iter().map(item).collect();
        }
        set
    }

    /// As a table of format 1 states it.
    pub fn of_key(limit: Option<Limit>) -> Self {
        Self::new(limit.map(|limit| NamedLimit { policy: PolicyName::per_key(), limit }))
    }

    /// The limit of the policy `per-key`.
    pub const fn per_key(&self) -> Option<Limit> {
        self.per_key
    }

    pub fn get(&self, policy: &str) -> Option<Limit> {
        Self::find(&self.named, policy)
    }

    fn find(named: &[NamedLimit], policy: &str) -> Option<Limit> {
        named.iter().find(|named| named.policy.as_str() == policy).map(|named| named.limit)
    }

    /// In the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = &NamedLimit> {
        self.named.iter()
    }

    /// The same, each with how callers are shown it, where that was written in advance.
    pub fn iter_shown(&self) -> impl Iterator<Item = (&NamedLimit, Option<&PolicyItem>)> {
        self.named.iter().enumerate().map(|(at, named)| (named, self.items.get(at)))
    }

    /// The same without the limit of this policy.
    #[must_use]
    pub fn without(&self, policy: &str) -> Self {
        Self::new(self.named.iter().filter(|named| named.policy.as_str() != policy).cloned())
    }

    /// The same with this limit, replacing the one that the policy had.
    #[must_use]
    pub fn with(&self, policy: PolicyName, limit: Limit) -> Self {
        Self::new(self.named.iter().cloned().chain([NamedLimit { policy, limit }]))
    }

    /// What both allow: every name of either, and the slower limit where both have one.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        other.iter().fold(self.clone(), |met, named| {
            let limit = match met.get(named.policy.as_str()) {
                Some(limit) => limit.slower(named.limit),
                None => named.limit,
            };
            met.with(named.policy.clone(), limit)
        })
    }

    /// Whether it has no limit except `per-key`, if any.
    pub const fn is_plain(&self) -> bool {
        self.named.len() == self.per_key.is_some() as usize
    }

    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    pub fn len(&self) -> usize {
        self.named.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::key::NameError;

    #[test]
    fn sets_are_sorted_and_know_the_plain_limit() {
        let limit = |text| Limit::parse(text).unwrap();
        let name = |text| PolicyName::parse(text).unwrap();
        let set = LimitSet::of_key(Some(limit("600/min"))).with(name("daily"), limit("9/d"));
        assert_eq!(set.iter().map(|n| n.policy.as_str()).collect::<Vec<_>>(), ["daily", "per-key"]);
        assert_eq!(set.per_key(), Some(limit("600/min")));
        assert_eq!(set.with(name("per-key"), limit("1/s")).per_key(), Some(limit("1/s")));
        assert_eq!(set.without("per-key").per_key(), None);
        assert_eq!(set.get("daily"), Some(limit("9/d")));
        for text in ["", "Daily", "per key", "a.b", &"x".repeat(65)] {
            assert_eq!(PolicyName::parse(text), Err(NameError::Policy), "{text}");
        }
    }
}
