//! Limits of a million keys, charged in random order: nanoseconds per check, admitted and refused,
//! and bytes per bucket. The clock advances with every check.
//!
//! `cargo bench --bench limits -- [KEYS]`. Every case runs in a process of its own, so that its
//! memory can be measured separately.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a bench reads the clock and ends at the first surprise"
)]

use std::hint::black_box;
use std::time::Instant;

use keygate::core::charge::{ChargedCaller, ChargedLimits, PolicyCharge};
use keygate::core::{Charge, KeyId, Limit, Now, PolicyName, PolicyScope};
use keygate::proxy::LimitStore;

const KEYS: u32 = 1_000_000;
const CHECKS: u32 = 4_000_000;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Number of policies of a key, and whether its org has one as well.
const CASES: [(&str, usize, usize); 5] = [
    ("per-key alone", 0, 0),
    ("two of the key", 2, 0),
    ("three of the key", 3, 0),
    ("four of the key", 4, 0),
    ("two of the key, one of the org", 2, 1),
];

/// Every check of it is admitted, if checks are at least [`STEP`] apart. The exception is the one
/// key of the hot walk, whose checks are a whole interval apart.
const ROOMY: &str = "1000000/d";

/// Every check of it is refused except a key's first.
const NARROW: &str = "1/d";

/// Nanoseconds that the clock advances per check: a million checks per second.
const STEP: u64 = 1_000;

/// Nanoseconds in which one request of [`ROOMY`] is available again.
const INTERVAL: u64 = 86_400_000_000;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("--child"), Some(case)) => {
            let keys = arguments.next().unwrap().parse().unwrap();
            child(CASES[case.parse::<usize>().unwrap()], keys);
        }
        (keys, _) => {
            let keys = keys.map_or(KEYS, |keys| keys.replace('_', "").parse().expect("a number"));
            println!(
                "{:<32} {:>9} {:>6} {:>10} {:>10}",
                "ns", "random", "hot", "refused", "bytes/key"
            );
            for case in 0..CASES.len() {
                let program = std::env::current_exe().unwrap();
                let arguments = ["--child".to_owned(), case.to_string(), keys.to_string()];
                let status = std::process::Command::new(program).args(arguments).status();
                assert!(status.unwrap().success());
            }
        }
    }
}

fn child((name, of_key, of_org): (&str, usize, usize), keys: u32) {
    let names = ["per-key", "burst", "daily", "search"].map(|n| PolicyName::parse(n).unwrap());
    let limits_of = |limit: Limit| {
        let one = |policy, scope| PolicyCharge { policy, scope, limit, quota: None };
        let several: Vec<_> = names
            .iter()
            .take(of_key)
            .map(|policy| one(policy, PolicyScope::Key))
            .chain(names.iter().take(of_org).map(|policy| one(policy, PolicyScope::Org)))
            .collect();
        match several.is_empty() {
            true => ChargedLimits::PerKey(limit),
            false => ChargedLimits::Several(several.as_slice().into()),
        }
    };
    let ids: Vec<KeyId> =
        (0..keys).map(|n| KeyId::parse(&format!("key_{n:012}")).unwrap()).collect();
    let orgs: Vec<String> = (0..10_000).map(|n| format!("org-{n}")).collect();
    // A walk in random order, the same in every run (xorshift).
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % u64::from(keys)) as usize
    };
    let walk: Vec<usize> = (0..CHECKS).map(|_| next()).collect();
    let mut bench = Bench { ids: &ids, orgs: &orgs, now: Now { unix_ms: 0, mono_ns: 1 } };
    let roomy = limits_of(Limit::parse(ROOMY).unwrap());
    let store = LimitStore::default();
    let bytes = bench.fill(&store, &roomy);
    let (random, admitted) = bench.walk(&store, &roomy, &mut walk.iter().copied(), STEP);
    assert_eq!(admitted, CHECKS, "random");
    let mut one = std::iter::repeat_n(7, CHECKS as usize);
    let (hot, admitted) = bench.walk(&store, &roomy, &mut one, INTERVAL);
    assert_eq!(admitted, CHECKS, "hot");
    drop(store);
    let narrow = limits_of(Limit::parse(NARROW).unwrap());
    let store = LimitStore::default();
    bench.fill(&store, &narrow);
    let (refused, admitted) = bench.walk(&store, &narrow, &mut walk.iter().copied(), STEP);
    assert_eq!(admitted, 0, "refused");
    println!("{name:<32} {random:>9.0} {hot:>6.0} {refused:>10.0} {bytes:>10.1}");
}

struct Bench<'b> {
    ids: &'b [KeyId],
    orgs: &'b [String],
    now: Now,
}

impl<'b> Bench<'b> {
    fn charge(&self, n: usize, limits: &ChargedLimits<'b>) -> Charge<'b> {
        let caller = ChargedCaller::Key(self.ids[n]);
        Charge { caller, org: &self.orgs[n % self.orgs.len()], cost: 1, limits: limits.clone() }
    }

    /// Charges every key once. Returns the bytes that a key took.
    fn fill(&self, store: &LimitStore, limits: &ChargedLimits<'b>) -> f64 {
        let before = resident();
        let mut charge = self.charge(0, limits);
        for (n, id) in self.ids.iter().enumerate() {
            (charge.caller, charge.org) =
                (ChargedCaller::Key(*id), &self.orgs[n % self.orgs.len()]);
            // An org has many keys: the narrow limit refuses most of them.
            let _ = black_box(store.charge(&charge, self.now));
        }
        resident().saturating_sub(before) as f64 / self.ids.len() as f64
    }

    /// Returns nanoseconds per check, and how many were admitted.
    fn walk(
        &mut self,
        store: &LimitStore,
        limits: &ChargedLimits<'b>,
        walk: &mut dyn Iterator<Item = usize>,
        step: u64,
    ) -> (f64, u32) {
        let mut charge = self.charge(0, limits);
        let mut admitted = 0;
        let begun = Instant::now();
        for n in walk {
            charge.caller = ChargedCaller::Key(self.ids[n]);
            charge.org = &self.orgs[n % self.orgs.len()];
            self.now.mono_ns += step;
            admitted += u32::from(black_box(store.charge(black_box(&charge), self.now)).is_ok());
        }
        (begun.elapsed().as_nanos() as f64 / f64::from(CHECKS), admitted)
    }
}

/// Bytes in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
