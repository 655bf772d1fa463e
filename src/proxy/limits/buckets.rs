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

/// Where a bucket was found. `None`: in the separate list, or nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BucketPlace(Option<usize>);

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
        self.find(policy).1
    }

    /// Where the bucket of this policy is, and its arrival time.
    #[inline]
    pub(super) fn find(&self, policy: PolicyId) -> (BucketPlace, u64) {
        for (at, (known, arrival)) in self.policies.iter().zip(self.arrivals).enumerate() {
            if *known == policy && arrival != 0 {
                return (BucketPlace(Some(at)), arrival);
            }
        }
        let more = self.more.iter().flat_map(|more| &more.list);
        let found = more.copied().find(|(known, _)| *known == policy);
        (BucketPlace(None), found.map_or(0, |(_, arrival)| arrival))
    }

    /// As [`Buckets::set`], for a policy that [`Buckets::find`] has found at `place`. Another policy
    /// may have got the place since, if this one's time was over.
    #[inline]
    pub(super) fn set_at(&mut self, place: BucketPlace, policy: PolicyId, arrival: u64, now: Now) {
        let at = place.0.unwrap_or(INLINE);
        match (self.policies.get(at), self.arrivals.get_mut(at)) {
            (Some(known), Some(seen)) if *known == policy => *seen = arrival,
            _ => self.set(policy, arrival, now),
        }
    }

    /// All its buckets, zeros included.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PolicyId, u64)> {
        let more = self.more.iter().flat_map(|more| &more.list).copied();
        self.policies.into_iter().zip(self.arrivals).chain(more)
    }

    /// Sets the state. A bucket whose time is over means nothing any more, and frees its place.
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
    fn a_place_that_another_policy_has_got_is_not_taken_from_it() {
        let mut buckets = Buckets::default();
        for n in 0..4 {
            buckets.set(id(n), 100 + u64::from(n), at(0));
        }
        // The time of the first is over: its place is free for the next one.
        let (place, arrival) = buckets.find(id(0));
        assert_eq!(arrival, 100);
        buckets.set(id(9), 900, at(100));
        buckets.set_at(place, id(0), 800, at(100));
        assert_eq!((buckets.arrival(id(9)), buckets.arrival(id(0))), (900, 800));
        let (place, _) = buckets.find(id(1));
        buckets.set_at(place, id(1), 700, at(100));
        assert_eq!(buckets.arrival(id(1)), 700);
    }

    #[test]
    fn a_key_with_several_policies_takes_80_bytes() {
        assert_eq!(size_of::<(crate::core::KeyId, Buckets)>(), 80);
    }
}
