//! Limits of a million keys, charged in random order: nanoseconds a check and bytes a bucket.
//!
//! `cargo bench --bench limits -- [KEYS]`. Every case runs in a process of its own, so that its
//! memory is its own.

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

/// Policies of a key, and whether its org has one beside them.
const CASES: [(&str, usize, usize); 5] = [
    ("per-key alone", 0, 0),
    ("two of the key", 2, 0),
    ("three of the key", 3, 0),
    ("four of the key", 4, 0),
    ("two of the key, one of the org", 2, 1),
];

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("--child"), Some(case)) => {
            let keys = arguments.next().unwrap().parse().unwrap();
            child(CASES[case.parse::<usize>().unwrap()], keys);
        }
        (keys, _) => {
            let keys = keys.map_or(KEYS, |keys| keys.replace('_', "").parse().expect("a number"));
            println!("{:<32} {:>9} {:>9} {:>9}", "", "random ns", "hot ns", "bytes/key");
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
    let limit = Limit::parse("1000/d").unwrap();
    let one = |policy, scope| PolicyCharge { policy, scope, limit };
    let several: Vec<_> = names
        .iter()
        .take(of_key)
        .map(|policy| one(policy, PolicyScope::Key))
        .chain(names.iter().take(of_org).map(|policy| one(policy, PolicyScope::Org)))
        .collect();
    let ids: Vec<KeyId> =
        (0..keys).map(|n| KeyId::parse(&format!("key_{n:012}")).unwrap()).collect();
    let orgs: Vec<String> = (0..10_000).map(|n| format!("org-{n}")).collect();
    let limits = match several.is_empty() {
        true => ChargedLimits::PerKey(limit),
        false => ChargedLimits::Several(several.as_slice().into()),
    };
    let mut charge = Charge { caller: ChargedCaller::Key(ids[0]), org: &orgs[0], cost: 1, limits };
    let store = LimitStore::default();
    let now = Now { unix_ms: 0, mono_ns: 1 };
    let before = resident();
    for (n, id) in ids.iter().enumerate() {
        (charge.caller, charge.org) = (ChargedCaller::Key(*id), &orgs[n % orgs.len()]);
        black_box(store.charge(&charge, now)).unwrap();
    }
    let bytes = (resident() - before) as f64 / f64::from(keys);
    // A walk without order, the same in every run (xorshift).
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % u64::from(keys)) as usize
    };
    let walk: Vec<usize> = (0..CHECKS).map(|_| next()).collect();
    // What only the walk itself costs: the id of the key and the name of its org.
    let mut run = |walk: &mut dyn Iterator<Item = usize>| {
        let begun = Instant::now();
        for n in walk {
            (charge.caller, charge.org) = (ChargedCaller::Key(ids[n]), &orgs[n % orgs.len()]);
            let _ = black_box(store.charge(black_box(&charge), now));
        }
        begun.elapsed().as_nanos() as f64 / f64::from(CHECKS)
    };
    let random = run(&mut walk.iter().copied());
    let hot = run(&mut std::iter::repeat_n(7, CHECKS as usize));
    println!("{name:<32} {random:>9.0} {hot:>9.0} {bytes:>9.1}");
}

/// Bytes in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
