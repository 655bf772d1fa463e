//! A rate for each of many callers, in a table of fixed size: what strangers choose the names of
//! must not make memory grow. Where it is full, the caller goes that says least: one whose whole
//! burst is there again, or else one that was not seen for longest (a clock per set of eight).

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use crate::core::limit::{Exhausted, Spent};
use crate::core::{Digest, Limit, Now};

/// Callers of one table: 2 MiB.
const SLOTS: usize = 65_536;

/// Slots that one caller can have; a power of two.
const WAYS: usize = 8;

/// At most [`SLOTS`] rates. Made when it is first used.
pub struct BoundedBuckets {
    sets: Mutex<Vec<BucketSet>>,
    /// Mixed into the place of a caller, so that nobody can choose eight that collide.
    seed: u64,
}

#[derive(Debug, Default)]
struct BucketSet {
    slots: [Bucket; WAYS],
}

/// One caller's rate.
#[derive(Debug, Default)]
struct Bucket {
    /// Zero: nobody's.
    caller: u128,
    /// See [`Limit::charge`].
    state: AtomicU64,
    /// Since the clock's hand has passed. The set's hand is in the first slot of it.
    used: u32,
    hand: u32,
}

/// The network that a budget is for: one IPv4 address, or a /64 of IPv6, which is one customer's.
pub fn network_of(address: IpAddr) -> u128 {
    match address.to_canonical() {
        // Within ::ffff:0:0/96, which no /64 of a client is in.
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() & !u128::from(u64::MAX),
    }
}

/// A subject of an issuer, as a caller of a table.
pub fn subject_of(issuer: &str, subject: &str) -> u128 {
    let digest = Digest::of(format!("{issuer}\0{subject}").as_bytes());
    digest.0.first_chunk().map_or(1, |first| u128::from_be_bytes(*first))
}

// === impl BoundedBuckets ===

impl BoundedBuckets {
    /// `seed` must be random.
    pub fn new(seed: u64) -> Self {
        Self { sets: Mutex::new(Vec::new()), seed }
    }

    /// Takes one out of the caller's rate.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn charge(&self, caller: u128, limit: Limit, now: Now) -> Result<Spent, Exhausted> {
        self.with(caller, now, |state| limit.charge(1, state, now.mono_ns))
    }

    /// Whether one could be taken. Takes none, and makes no room for a new caller.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn look(&self, caller: u128, limit: Limit, now: Now) -> Result<(), Exhausted> {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let caller = caller.max(1);
        let set = sets.get(self.place(caller));
        let found = set.and_then(|set| set.slots.iter().find(|slot| slot.caller == caller));
        // Charging a copy takes nothing from the caller.
        let state = AtomicU64::new(found.map_or(0, |slot| slot.state.load(Relaxed)));
        limit.charge(1, &state, now.mono_ns).map(drop)
    }

    /// Hands over the caller's state ([`Limit::charge`]), which is nobody else's meanwhile.
    pub fn with<T>(&self, caller: u128, now: Now, charge: impl FnOnce(&AtomicU64) -> T) -> T {
        let caller = caller.max(1);
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if sets.is_empty() {
            sets.resize_with(SLOTS / WAYS, BucketSet::default);
        }
        let place = self.place(caller);
        match sets.get_mut(place).and_then(|set| set.slot(caller, now)) {
            Some(slot) => charge(&slot.state),
            None => charge(&AtomicU64::new(0)),
        }
    }

    fn place(&self, caller: u128) -> usize {
        let low = u128::from(caller as u64 ^ self.seed) * 0x9e37_79b9_7f4a_7c15;
        let high = u128::from((caller >> 64) as u64 ^ self.seed.rotate_left(32));
        let mixed = low ^ (high * 0xd6e8_feb8_6659_fd93);
        let mixed = (mixed as u64) ^ (mixed >> 64) as u64;
        (mixed as usize) % (SLOTS / WAYS)
    }
}

impl std::fmt::Debug for BoundedBuckets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoundedBuckets(..)")
    }
}

// === impl BucketSet ===

impl BucketSet {
    /// The caller's slot: its own, or one that it gets.
    fn slot(&mut self, caller: u128, now: Now) -> Option<&mut Bucket> {
        let own = self.slots.iter().position(|slot| slot.caller == caller);
        let full = |slot: &Bucket| slot.caller == 0 || slot.state.load(Relaxed) <= now.mono_ns;
        let at = own.or_else(|| self.slots.iter().position(full)).unwrap_or_else(|| self.oldest());
        let slot = self.slots.get_mut(at)?;
        if slot.caller != caller {
            *slot = Bucket { caller, hand: slot.hand, ..Bucket::default() };
        }
        slot.used = 1;
        Some(slot)
    }

    /// Moves the hand on to a slot that was not used since it passed.
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
        assert_eq!(size_of::<Bucket>(), 32);
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
        let sets = buckets.sets.lock().unwrap();
        assert_eq!(sets.len() * WAYS, SLOTS);
        let taken = sets.iter().flat_map(|s| &s.slots).filter(|slot| slot.caller != 0).count();
        assert!(taken > SLOTS * 9 / 10, "places are spread: {taken}");
    }

    #[test]
    fn who_goes_is_not_the_one_that_is_busy() {
        let mut set = BucketSet::default();
        let limit = Limit::parse("30/min").unwrap();
        for caller in 1..=8 {
            let _ = limit.charge(1, &set.slot(caller, at(0)).unwrap().state, at(0).mono_ns);
        }
        // The hand passes all; then one is used again, and another comes.
        let _ = limit.charge(1, &set.slot(9, at(0)).unwrap().state, at(0).mono_ns);
        let left: Vec<_> = set.slots.iter().map(|slot| slot.caller).collect();
        let busy = *left.iter().find(|caller| **caller < 9).unwrap();
        set.slot(busy, at(0));
        set.slot(10, at(0));
        assert!(set.slots.iter().any(|slot| slot.caller == busy));
    }
}
