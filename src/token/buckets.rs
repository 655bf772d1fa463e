//! A rate for each of many callers, in a table of fixed size: names that strangers choose must not
//! make memory grow. When it is full, the least informative caller is evicted: one whose whole
//! burst is available again, or else the one not seen for longest (a clock per set of eight).

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::core::limit::{Exhausted, Spent};
use crate::core::{Digest, Limit, Now};

/// Callers of one table: 2 MiB with a rate for each.
const SLOTS: usize = 65_536;

/// Slots that one caller can be in; a power of two.
const WAYS: usize = 8;

/// Parts of one table, each with its own lock: a thread that holds one while it waits for another
/// lock delays only this share of all callers.
const PARTS: usize = 64;

/// Sets of one part.
const PART_SETS: usize = SLOTS / WAYS / PARTS;

/// What a table keeps for a caller.
pub trait BucketState: Default {
    /// Whether it carries no information any more. Then it may be forgotten.
    fn is_spent(&self, now: Now) -> bool;
}

/// The states of at most [`SLOTS`] callers. A part of the table is allocated on first use.
pub struct BoundedBuckets<S = AtomicU64> {
    parts: [Mutex<Vec<BucketSet<S>>>; PARTS],
    /// Mixed into the position of a caller, so that nobody can choose eight that collide.
    seed: u64,
}

#[derive(Debug, Default)]
struct BucketSet<S> {
    slots: [Bucket<S>; WAYS],
}

/// One caller's state.
#[derive(Debug, Default)]
struct Bucket<S> {
    /// Zero: the slot is free.
    caller: u128,
    state: S,
    /// Since the clock's hand has passed. The set's hand is in its first slot.
    used: u32,
    hand: u32,
}

/// Where a caller's state is.
struct BucketPlace {
    part: usize,
    set: usize,
}

/// The network that shares one budget: one IPv4 address, or a /64 of IPv6, which belongs to one
/// customer.
pub fn network_of(address: IpAddr) -> u128 {
    match address.to_canonical() {
        // Within ::ffff:0:0/96, which contains no /64 of a client.
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() & !u128::from(u64::MAX),
    }
}

/// A subject of an issuer, as a caller of a table.
pub fn subject_of(issuer: &str, subject: &str) -> u128 {
    caller_of(format!("{issuer}\0{subject}").as_bytes())
}

/// An org, as a caller of a table.
pub fn org_of(org: &str) -> u128 {
    caller_of(org.as_bytes())
}

fn caller_of(name: &[u8]) -> u128 {
    Digest::of(name).0.first_chunk().map_or(1, |first| u128::from_be_bytes(*first))
}

// === impl BucketState ===

impl BucketState for AtomicU64 {
    /// See [`Limit::charge`].
    fn is_spent(&self, now: Now) -> bool {
        self.load(Relaxed) > now.mono_ns
    }
}

// === impl BoundedBuckets ===

impl BoundedBuckets {
    /// Takes one from the caller's rate.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn charge(&self, caller: u128, limit: Limit, now: Now) -> Result<Spent, Exhausted> {
        self.with(caller, now, |state| limit.charge(1, state, now.mono_ns))
    }

    /// Whether one could be taken. Takes none, and makes no slot for a new caller.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn look(&self, caller: u128, limit: Limit, now: Now) -> Result<(), Exhausted> {
        let caller = caller.max(1);
        let place = self.place(caller);
        let sets = self.part(&place);
        let set = sets.get(place.set);
        let found = set.and_then(|set| set.slots.iter().find(|slot| slot.caller == caller));
        // Charging a copy takes nothing from the caller.
        let state = AtomicU64::new(found.map_or(0, |slot| slot.state.load(Relaxed)));
        limit.charge(1, &state, now.mono_ns).map(drop)
    }
}

impl<S: BucketState> BoundedBuckets<S> {
    /// `seed` must be random.
    pub fn new(seed: u64) -> Self {
        Self { parts: std::array::from_fn(|_| Mutex::default()), seed }
    }

    /// Passes the caller's state to `charge`, which has exclusive use of it. `charge` may take only
    /// locks that nobody holds while waiting for this table.
    pub fn with<T>(&self, caller: u128, now: Now, charge: impl FnOnce(&mut S) -> T) -> T {
        let caller = caller.max(1);
        let place = self.place(caller);
        let mut sets = self.part(&place);
        if sets.is_empty() {
            sets.resize_with(PART_SETS, BucketSet::default);
        }
        match sets.get_mut(place.set).and_then(|set| set.slot(caller, now)) {
            Some(slot) => charge(&mut slot.state),
            None => charge(&mut S::default()),
        }
    }

    /// Shows the state of every caller, a part of the table at a time.
    pub fn each(&self, mut show: impl FnMut(u128, &S)) {
        for part in &self.parts {
            let sets = part.lock().unwrap_or_else(PoisonError::into_inner);
            for slot in sets.iter().flat_map(|set| &set.slots).filter(|slot| slot.caller != 0) {
                show(slot.caller, &slot.state);
            }
        }
    }

    /// Forgets the caller. `None`: the table has nothing on it.
    pub fn take(&self, caller: u128) -> Option<S> {
        let caller = caller.max(1);
        let place = self.place(caller);
        let mut sets = self.part(&place);
        let mut slots = sets.get_mut(place.set)?.slots.iter_mut();
        let slot = slots.find(|slot| slot.caller == caller)?;
        slot.caller = 0;
        Some(std::mem::take(&mut slot.state))
    }
}

impl<S> BoundedBuckets<S> {
    fn part(&self, place: &BucketPlace) -> MutexGuard<'_, Vec<BucketSet<S>>> {
        let [first, ..] = &self.parts;
        let part = self.parts.get(place.part).unwrap_or(first);
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, caller: u128) -> BucketPlace {
        let low = u128::from(caller as u64 ^ self.seed) * 0x9e37_79b9_7f4a_7c15;
        let high = u128::from((caller >> 64) as u64 ^ self.seed.rotate_left(32));
        let mixed = low ^ (high * 0xd6e8_feb8_6659_fd93);
        let mixed = (mixed as u64) ^ (mixed >> 64) as u64;
        let place = (mixed as usize) % (PARTS * PART_SETS);
        BucketPlace { part: place / PART_SETS, set: place % PART_SETS }
    }
}

impl<S> std::fmt::Debug for BoundedBuckets<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoundedBuckets(..)")
    }
}

// === impl BucketSet ===

impl<S: BucketState> BucketSet<S> {
    /// The caller's slot: its own, or a newly assigned one.
    fn slot(&mut self, caller: u128, now: Now) -> Option<&mut Bucket<S>> {
        let own = self.slots.iter().position(|slot| slot.caller == caller);
        let full = |slot: &Bucket<S>| slot.caller == 0 || !slot.state.is_spent(now);
        let at = own.or_else(|| self.slots.iter().position(full)).unwrap_or_else(|| self.oldest());
        let slot = self.slots.get_mut(at)?;
        if slot.caller != caller {
            *slot = Bucket { caller, hand: slot.hand, ..Bucket::default() };
        }
        slot.used = 1;
        Some(slot)
    }

    /// Moves the hand on to a slot that was not used since the hand last passed.
    fn oldest(&mut self) -> usize {
        let [first, ..] = &self.slots;
        let mut hand = first.hand as usize % WAYS;
        for _ in 0..=WAYS {
            hand = (hand + 1) % WAYS;
            match self.slots.get_mut(hand) {
                Some(slot) if slot.used != 0 => slot.used = 0,
                _ => break,
            }
        }
        let [first, ..] = &mut self.slots;
        first.hand = hand as u32;
        hand
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Now {
        Now { unix_ms: 0, mono_ns: secs * 1_000_000_000 + 1 }
    }

    #[test]
    fn a_rate_per_caller_by_steps() {
        assert_eq!(size_of::<Bucket<AtomicU64>>(), 32);
        let buckets = BoundedBuckets::new(7);
        let limit = Limit::parse("30/min").unwrap();
        let one = network_of("192.0.2.1".parse().unwrap());
        for _ in 0..30 {
            assert!(buckets.look(one, limit, at(0)).is_ok());
            assert!(buckets.charge(one, limit, at(0)).is_ok());
        }
        assert!(buckets.look(one, limit, at(0)).is_err());
        assert!(buckets.charge(one, limit, at(0)).is_err());
        let other = network_of("192.0.2.2".parse().unwrap());
        assert!(buckets.charge(other, limit, at(0)).is_ok(), "another address");
        assert!(buckets.look(one, limit, at(2)).is_ok(), "one more after two seconds");
    }

    #[test]
    fn one_customer_is_one_caller() {
        let of = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn a_flood_of_addresses_stays_in_its_room() {
        let buckets = BoundedBuckets::new(0x1234_5678_9abc_def0);
        let limit = Limit::parse("30/min").unwrap();
        for n in 0..200_000_u32 {
            let _ = buckets.charge(network_of(IpAddr::from(n.to_be_bytes())), limit, at(0));
        }
        let (mut room, mut taken) = (0, 0);
        for part in &buckets.parts {
            let sets = part.lock().unwrap();
            room += sets.len() * WAYS;
            taken += sets.iter().flat_map(|s| &s.slots).filter(|slot| slot.caller != 0).count();
        }
        assert_eq!(room, SLOTS);
        assert!(taken > SLOTS * 9 / 10, "places are spread: {taken}");
    }

    #[test]
    fn who_holds_one_caller_keeps_others_waiting_only_in_its_part() {
        let buckets = BoundedBuckets::new(7);
        let limit = Limit::parse("30/min").unwrap();
        let part_of = |caller| buckets.place(caller).part;
        let other = (2..).find(|caller| part_of(*caller) != part_of(1)).unwrap();
        // With one lock for all, this would wait for itself.
        buckets.with(1, at(0), |_| buckets.charge(other, limit, at(0)).unwrap());
        let parts: std::collections::BTreeSet<_> = (1..10_000).map(part_of).collect();
        assert_eq!(parts.len(), PARTS, "callers are in all parts");
    }

    #[test]
    fn what_is_taken_out_is_there_no_more() {
        let buckets = BoundedBuckets::new(7);
        let limit = Limit::parse("1/min").unwrap();
        assert!(buckets.take(1).is_none());
        buckets.charge(1, limit, at(0)).unwrap();
        buckets.charge(2, limit, at(0)).unwrap();
        assert!(buckets.take(1).unwrap().is_spent(at(0)));
        assert!(buckets.take(1).is_none());
        assert!(buckets.charge(1, limit, at(0)).is_ok());
        assert!(buckets.charge(2, limit, at(0)).is_err(), "another's is still there");
    }

    #[test]
    fn who_goes_is_not_the_one_that_is_busy() {
        let mut set = BucketSet::default();
        let limit = Limit::parse("30/min").unwrap();
        for caller in 1..=8 {
            let _ = limit.charge(1, &set.slot(caller, at(0)).unwrap().state, at(0).mono_ns);
        }
        // The hand passes all; then one is used again, and another caller arrives.
        let _ = limit.charge(1, &set.slot(9, at(0)).unwrap().state, at(0).mono_ns);
        let left: Vec<_> = set.slots.iter().map(|slot| slot.caller).collect();
        let busy = *left.iter().find(|caller| **caller < 9).unwrap();
        set.slot(busy, at(0));
        set.slot(10, at(0));
        assert!(set.slots.iter().any(|slot| slot.caller == busy));
    }
}
