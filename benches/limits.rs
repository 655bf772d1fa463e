//! Limits of a million keys, charged in random order: nanoseconds that limits take of a request, and
//! bytes per bucket. That is to find which limits there are, to charge them, and to write the fields
//! that tell the caller. The clock advances with every request.
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

use keygate::core::path::Traits;
use keygate::core::rate_fields::RateFields;
use keygate::core::route::{Access, Needs, Pattern};
use keygate::core::{
    Grant, KeyId, KeyKind, KeyStatus, KeyView, Limit, LimitPolicies, LimitPolicy, LimitSet,
    NamedLimit, NetworkSet, Now, PermissionSet, PolicyName, PolicyScope, Route,
};
use keygate::proxy::LimitStore;

const KEYS: u32 = 1_000_000;
const REQUESTS: u32 = 4_000_000;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many limits the table states for a key, how many others the configuration has for all keys,
/// and how many the table states for the key's org.
const CASES: [(&str, usize, usize, usize); 6] = [
    ("per-key alone", 1, 0, 0),
    ("per-key, one for all keys", 1, 1, 0),
    ("two of the key", 2, 0, 0),
    ("three of the key", 3, 0, 0),
    ("four of the key", 4, 0, 0),
    ("two of the key, one of the org", 2, 0, 1),
];

/// Every request is admitted, if they are at least [`STEP`] apart. The exception is the one key of the
/// hot walk, whose requests are a whole interval apart.
const ROOMY: &str = "1000000/d";

/// Every request is refused except a key's first.
const NARROW: &str = "1/d";

/// Nanoseconds that the clock advances per request: a million requests per second.
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

fn child((name, of_key, of_all, of_org): (&str, usize, usize, usize), keys: u32) {
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
    let walk: Vec<usize> = (0..REQUESTS).map(|_| next()).collect();
    let mut bench =
        Bench { ids: &ids, orgs: &orgs, route: any_route(), now: Now { unix_ms: 0, mono_ns: 1 } };
    let roomy = Stated::new(Limit::parse(ROOMY).unwrap(), of_key, of_all, of_org);
    let store = LimitStore::default();
    let bytes = bench.fill(&store, &roomy);
    let (random, admitted) = bench.walk(&store, &roomy, &mut walk.iter().copied(), STEP);
    assert_eq!(admitted, REQUESTS, "random");
    let mut one = std::iter::repeat_n(7, REQUESTS as usize);
    let (hot, admitted) = bench.walk(&store, &roomy, &mut one, INTERVAL);
    assert_eq!(admitted, REQUESTS, "hot");
    drop(store);
    let narrow = Stated::new(Limit::parse(NARROW).unwrap(), of_key, of_all, of_org);
    let store = LimitStore::default();
    bench.fill(&store, &narrow);
    let (refused, admitted) = bench.walk(&store, &narrow, &mut walk.iter().copied(), STEP);
    assert_eq!(admitted, 0, "refused");
    println!("{name:<32} {random:>9.0} {hot:>6.0} {refused:>10.0} {bytes:>10.1}");
}

/// What the table and the configuration state.
struct Stated {
    grant: Grant,
    of_all: LimitPolicies,
    of_org: Option<LimitSet>,
}

impl Stated {
    fn new(limit: Limit, of_key: usize, of_all: usize, of_org: usize) -> Self {
        let names = ["per-key", "burst", "daily", "search"].map(|n| PolicyName::parse(n).unwrap());
        let set = |count| {
            let named = names.iter().take(count).cloned();
            LimitSet::new(named.map(|policy| NamedLimit { policy, limit }))
        };
        let grant = Grant {
            status: KeyStatus::Active,
            kind: KeyKind::Single,
            environment: None,
            not_before: None,
            permissions: PermissionSet::default(),
            networks: NetworkSet::default(),
            limits: set(of_key),
            sunset: None,
        };
        let of_all =
            LimitPolicies::new(names.iter().skip(1).take(of_all).map(|name| LimitPolicy {
                name: name.clone(),
                scope: PolicyScope::Key,
                classes: Box::default(),
                limit: Some(limit),
                quota: None,
            }));
        Self { grant, of_all, of_org: Some(set(of_org)).filter(|set| !set.is_empty()) }
    }
}

struct Bench<'b> {
    ids: &'b [KeyId],
    orgs: &'b [String],
    route: Route,
    now: Now,
}

impl Bench<'_> {
    /// What limits take of one request. Whether it was admitted.
    fn request(&self, n: usize, store: &LimitStore, stated: &Stated) -> bool {
        let org = &*self.orgs[n % self.orgs.len()];
        let id = self.ids[n];
        let key = KeyView { id, org, name: "", expires: None, grant: &stated.grant, uses: None };
        let charge = stated.of_all.charge(black_box(&key), stated.of_org.as_ref(), &self.route);
        let result = store.charge(charge.as_ref().expect("limits are stated"), self.now);
        let (Ok(report) | Err(report)) = &result;
        RateFields::default().each(report, |_, value| {
            black_box(value);
        });
        result.is_ok()
    }

    /// Charges every key once. Returns the bytes that a key took.
    fn fill(&self, store: &LimitStore, stated: &Stated) -> f64 {
        let before = resident();
        for n in 0..self.ids.len() {
            // An org has many keys: the narrow limit refuses most of them.
            self.request(n, store, stated);
        }
        resident().saturating_sub(before) as f64 / self.ids.len() as f64
    }

    /// Returns nanoseconds per request, and how many were admitted.
    fn walk(
        &mut self,
        store: &LimitStore,
        stated: &Stated,
        walk: &mut dyn Iterator<Item = usize>,
        step: u64,
    ) -> (f64, u32) {
        let mut admitted = 0;
        let begun = Instant::now();
        for n in walk {
            self.now.mono_ns += step;
            admitted += u32::from(self.request(n, store, stated));
        }
        (begun.elapsed().as_nanos() as f64 / f64::from(REQUESTS), admitted)
    }
}

/// A rule for every path.
fn any_route() -> Route {
    Route {
        index: 0,
        id: "all".into(),
        pattern: Pattern::parse("/*").expect("a pattern"),
        methods: Vec::new(),
        access: Access::Key(Needs::default()),
        allow: Traits::default(),
        body_limit: None,
        upgrades: Vec::new(),
        preflight: false,
        profile: None,
        class: None,
        cost: 1,
        upstream: 0,
    }
}

/// Bytes in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
