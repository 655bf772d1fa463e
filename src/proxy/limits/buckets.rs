//! The buckets of one key or one org: what it has spent under each policy. Imports core, `token`.

use crate::core::limit::PolicyId;
use crate::core::{Now, quota};
use crate::token::buckets::BucketState;

/// The buckets of one key or org, by policy. 64 bytes; beyond four policies, a separate list.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// Arrival times in nanoseconds ([`crate::core::Limit::step`]), or counts by calendar
    /// ([`quota::QuotaCount`]). Zero is a free place.
    arrivals: [u64; INLINE],
    policies: [PolicyId; INLINE],
    more: Option<Box<MoreBuckets>>,
}

/// Few callers have as many policies as this.
const INLINE: usize = 4;

#[derive(Debug, Default)]
struct MoreBuckets {
    list: Vec<(PolicyId, u64)>,
}

// === impl Buckets ===

impl Buckets {
    pub(super) fn of_one(policy: PolicyId, arrival: u64) -> Self {
        let mut buckets = Self::default();
        if let (Some(first), Some(named)) =
            (buckets.arrivals.first_mut(), buckets.policies.first_mut())
        {
            (*first, *named) = (arrival, policy);
        }
        buckets
    }

    /// The arrival time under this policy. Zero if it was never charged.
    #[inline]
    pub(super) fn arrival(&self, policy: PolicyId) -> u64 {
        for (known, arrival) in self.policies.iter().zip(self.arrivals) {
            if *known == policy && arrival != 0 {
                return arrival;
            }
        }
        let more = self.more.iter().flat_map(|more| &more.list);
        more.copied().find(|(known, _)| *known == policy).map_or(0, |(_, arrival)| arrival)
    }

    /// All its buckets, zeros included.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PolicyId, u64)> {
        let more = self.more.iter().flat_map(|more| &more.list).copied();
        self.policies.into_iter().zip(self.arrivals).chain(more)
    }

    /// Sets the state. A bucket whose time is over means nothing any more, and frees its place.
    #[inline]
    pub(super) fn set(&mut self, policy: PolicyId, arrival: u64, now: Now) {
        let mut free = None;
        for (at, (known, seen)) in self.policies.iter().zip(&mut self.arrivals).enumerate() {
            if *known == policy && *seen != 0 {
                *seen = arrival;
                return;
            }
            if !quota::is_spent(*seen, now) {
                free = free.or(Some(at));
            }
        }
        if let Some(more) = &mut self.more {
            if let Some((_, seen)) = more.list.iter_mut().find(|(known, _)| *known == policy) {
                *seen = arrival;
                return;
            }
            more.list.retain(|(_, seen)| quota::is_spent(*seen, now));
        }
        let place =
            free.and_then(|at| Some((self.policies.get_mut(at)?, self.arrivals.get_mut(at)?)));
        match place {
            Some((known, seen)) => (*known, *seen) = (policy, arrival),
            None => self.more.get_or_insert_default().list.push((policy, arrival)),
        }
    }
}

impl BucketState for Buckets {
    /// Whether any of them still means something.
    fn is_spent(&self, now: Now) -> bool {
        self.iter().any(|(_, state)| quota::is_spent(state, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::PolicyName;

    fn at(mono_ns: u64) -> Now {
        Now { unix_ms: 0, mono_ns }
    }

    fn id(n: u32) -> PolicyId {
        PolicyName::parse(&format!("p{n}")).unwrap().id()
    }

    #[test]
    fn more_policies_than_places_lose_nothing() {
        let mut buckets = Buckets::default();
        for n in 0..12 {
            buckets.set(id(n), 100 + u64::from(n), at(0));
        }
        for n in 0..12 {
            assert_eq!(buckets.arrival(id(n)), 100 + u64::from(n), "{n}");
        }
        // Places of expired buckets are used again, and nothing else changes.
        buckets.set(id(50), 900, at(102));
        assert_eq!(buckets.arrival(id(0)), 0);
        assert_eq!(buckets.arrival(id(11)), 111);
        assert_eq!(buckets.arrival(id(50)), 900);
        assert!(buckets.is_spent(at(899)) && !buckets.is_spent(at(900)));
        for n in 100..200 {
            buckets.set(id(n), 1_000 + u64::from(n), at(900 + u64::from(n)));
        }
        assert!(buckets.more.unwrap().list.len() < 200, "bounded by what still says something");
    }

    #[test]
    fn a_key_with_several_policies_takes_80_bytes() {
        assert_eq!(size_of::<(crate::core::KeyId, Buckets)>(), 80);
    }
}
