//! The store of limits against two oracles: a sequential one, and the crate `governor`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Barrier;
use std::time::Duration;

use governor::clock::FakeRelativeClock;
use governor::{Quota, RateLimiter};
use proptest::prelude::*;

use super::*;
use crate::core::charge::ChargedSubject;
use crate::core::{PolicyName, QuotaPeriod};

const NAMES: [&str; 4] = ["per-key", "search", "daily", "burst"];

fn at(mono_ns: u64) -> Now {
    Now { unix_ms: 0, mono_ns }
}

fn key(n: u32) -> KeyId {
    KeyId::parse(&format!("key_{n}")).unwrap()
}

fn lone(limit: &str) -> Charge<'static> {
    let limits = ChargedLimits::PerKey(Limit::parse(limit).unwrap());
    Charge { caller: ChargedCaller::Key(key(1)), org: "acme", cost: 1, limits }
}

#[derive(Clone, Debug)]
struct TestPolicy {
    name: PolicyName,
    scope: PolicyScope,
    limit: Limit,
}

fn charge<'c>(policies: impl IntoIterator<Item = &'c TestPolicy>, cost: u32) -> Charge<'c> {
    let limits = policies.into_iter().map(|policy| PolicyCharge {
        policy: &policy.name,
        scope: policy.scope,
        limit: policy.limit,
        quota: None,
        item: None,
    });
    let limits = ChargedLimits::Several(limits.collect());
    Charge { caller: ChargedCaller::Key(key(1)), org: "acme", cost, limits }
}

/// Arrival times in a wider integer, one policy after the other.
#[derive(Default)]
struct Oracle(BTreeMap<PolicyName, u128>);

impl Oracle {
    fn interval(policy: &TestPolicy) -> u128 {
        policy.limit.window().as_nanos() / u128::from(policy.limit.count())
    }

    /// How much of the burst is taken at `now`, in nanoseconds, with `cost` more.
    fn ahead(&self, policy: &TestPolicy, cost: u32, now: u64) -> u128 {
        let arrival = self.0.get(&policy.name).copied().unwrap_or(0).max(now.into());
        arrival + Self::interval(policy) * u128::from(cost) - u128::from(now)
    }

    fn fits(&self, policy: &TestPolicy, cost: u32, now: u64) -> bool {
        let burst = u128::from(policy.limit.burst());
        self.ahead(policy, cost, now) <= Self::interval(policy) * burst
    }

    fn take(&mut self, policy: &TestPolicy, cost: u32, now: u64) {
        let ahead = self.ahead(policy, cost, now);
        self.0.insert(policy.name.clone(), u128::from(now) + ahead);
    }
}

fn quota(policy: &TestPolicy) -> Quota {
    let interval = Duration::from_nanos(Oracle::interval(policy) as u64);
    let burst = NonZeroU32::new(policy.limit.burst()).unwrap();
    Quota::with_period(interval).unwrap().allow_burst(burst)
}

prop_compose! {
    fn policies()(
        several in prop::collection::vec((1u32..40, 1u64..20_000, 1u32..40, any::<bool>()), 1..=4),
    ) -> Vec<TestPolicy> {
        let policy = |(at, (count, window_ms, burst, of_key)): (usize, (u32, u64, u32, bool))| {
            TestPolicy {
                name: PolicyName::parse(NAMES[at]).unwrap(),
                scope: if of_key { PolicyScope::Key } else { PolicyScope::Org },
                limit: Limit::new(count, Duration::from_millis(window_ms), burst.min(count)).unwrap(),
            }
        };
        several.into_iter().enumerate().map(policy).collect()
    }
}

/// At most the smallest burst: a larger cost counts as the burst, which the oracles do not do.
fn bounded(cost: u32, policies: &[TestPolicy]) -> u32 {
    policies.iter().map(|policy| policy.limit.burst()).min().unwrap().min(cost)
}

proptest! {
    /// Verdict by verdict: what all oracles have space for is admitted, and nothing else. A refused
    /// request is charged nowhere. The reported wait is sufficient, and no longer than necessary.
    #[test]
    fn several_policies_agree_with_two_oracles(
        policies in policies(),
        steps in prop::collection::vec((0u64..400, 1u32..8), 1..150),
    ) {
        let clock = FakeRelativeClock::default();
        let governor = |p| RateLimiter::direct_with_clock(quota(p), clock.clone());
        let governors: Vec<_> = policies.iter().map(governor).collect();
        let (store, mut oracle, mut now) = (LimitStore::default(), Oracle::default(), 1_000_000);
        for (wait, cost) in steps {
            let cost = bounded(cost, &policies);
            clock.advance(Duration::from_millis(wait));
            now += wait * 1_000_000;
            let fits = policies.iter().all(|policy| oracle.fits(policy, cost, now));
            let asked = charge(&policies, cost);
            match store.charge(&asked, at(now)) {
                Ok(report) => {
                    prop_assert!(fits, "admitted above a limit");
                    let cost = NonZeroU32::new(cost).unwrap();
                    for (policy, governor) in policies.iter().zip(&governors) {
                        prop_assert!(governor.check_n(cost).unwrap().is_ok());
                        oracle.take(policy, cost.get(), now);
                    }
                    let (name, least) = report.shown().next().unwrap();
                    let left = |policy: &&TestPolicy| {
                        (1..=policy.limit.burst()).take_while(|n| oracle.fits(policy, *n, now)).count()
                    };
                    let lowest = policies.iter().map(|policy| left(&policy)).min().unwrap();
                    prop_assert_eq!(least.remaining as usize, lowest, "{}", name);
                }
                Err(report) => {
                    prop_assert!(!fits, "refused below all limits");
                    let refused: Vec<_> = report.shown().map(|(name, _)| name.to_owned()).collect();
                    for (policy, governor) in policies.iter().zip(&governors) {
                        let is_full = !oracle.fits(policy, cost, now);
                        let name = policy.name.as_str();
                        prop_assert_eq!(refused.iter().any(|n| n == name), is_full, "{}", name);
                        if is_full {
                            prop_assert!(governor.check_n(NonZeroU32::new(cost).unwrap()).unwrap().is_err());
                        }
                    }
                    let wait = report.longest_wait().as_nanos() as u64;
                    let later = |wait| policies.iter().all(|p| oracle.fits(p, cost, now + wait));
                    prop_assert!(later(wait) && !later(wait - 1), "waits {}", wait);
                }
            }
        }
    }

    /// Two threads in parallel, under changing sets of policies and with a key that begins with one
    /// limit: together they take exactly what was admitted, and no request is refused that had
    /// space.
    #[test]
    fn two_threads_take_all_that_is_there_and_no_more(
        policies in policies(),
        rounds in prop::collection::vec((0u64..400, [asks(), asks()]), 1..12),
    ) {
        let (store, mut oracle, mut now) = (LimitStore::default(), Oracle::default(), 1_000_000);
        for (wait, asked) in rounds {
            now += wait * 1_000_000;
            let start = Barrier::new(2);
            let run = |asks: &[(u32, u32)]| {
                start.wait();
                let one = |(cost, mask): &(u32, u32)| {
                    let chosen = chosen(&policies, *mask);
                    let cost = bounded(*cost, &chosen);
                    // A key's only limit is charged in the other map.
                    let asked = match chosen.as_slice() {
                        [only] if only.scope == PolicyScope::Key && only.name.as_str() == "per-key" => {
                            let limits = ChargedLimits::PerKey(only.limit);
                            Charge { limits, ..charge([], cost) }
                        }
                        several => charge(several, cost),
                    };
                    let admitted = store.charge(&asked, at(now)).is_ok();
                    (chosen.clone(), cost, admitted)
                };
                asks.iter().map(one).collect::<Vec<_>>()
            };
            let results = std::thread::scope(|scope| {
                let other = scope.spawn(|| run(&asked[1]));
                let mut results = run(&asked[0]);
                results.extend(other.join().unwrap());
                results
            });
            for (chosen, cost, _) in results.iter().filter(|(_, _, admitted)| *admitted) {
                for policy in chosen {
                    prop_assert!(oracle.fits(policy, *cost, now), "above {policy:?}");
                    oracle.take(policy, *cost, now);
                }
            }
            for (chosen, cost, _) in results.iter().filter(|(_, _, admitted)| !*admitted) {
                prop_assert!(chosen.iter().any(|p| !oracle.fits(p, *cost, now)), "too soon");
            }
            prop_assert!(store.several.get(&key(1)).is_none() || store.lone.get(&key(1)).is_none());
        }
    }
}

/// Costs, and which policies each is charged under.
fn asks() -> impl Strategy<Value = Vec<(u32, u32)>> {
    prop::collection::vec((1u32..5, any::<u32>()), 0..8)
}

/// The policies of the mask's bits. The first one if it has none.
fn chosen(policies: &[TestPolicy], mask: u32) -> Vec<TestPolicy> {
    let among = |(at, policy): (usize, &TestPolicy)| (mask >> at & 1 == 1).then(|| policy.clone());
    let chosen: Vec<_> = policies.iter().enumerate().filter_map(among).collect();
    if chosen.is_empty() { policies.iter().take(1).cloned().collect() } else { chosen }
}

fn policy(name: &str, scope: PolicyScope, limit: &str) -> TestPolicy {
    let name = PolicyName::parse(name).unwrap();
    TestPolicy { name, scope, limit: Limit::parse(limit).unwrap() }
}

#[test]
fn state_goes_when_it_says_nothing() {
    let store = LimitStore::default();
    let org = policy("daily", PolicyScope::Org, "2/s");
    assert!(store.charge(&lone("2/s"), at(0)).is_ok());
    assert!(store.charge(&charge([&org], 1), at(0)).is_ok());
    store.sweep(at(1));
    assert_eq!(store.len(), 2, "half a second of debt is left");
    assert!(store.charge(&lone("2/s"), at(1)).is_ok());
    assert!(store.charge(&lone("2/s"), at(2)).is_err(), "the sweep reset nothing");
    store.sweep(at(2_000_000_000));
    assert!(store.is_empty());
}

#[test]
fn a_second_limit_does_not_forget_what_the_first_has_spent_nor_the_way_back() {
    let store = LimitStore::default();
    for _ in 0..3 {
        store.charge(&lone("5/min"), at(0)).unwrap();
    }
    let two = ["per-key", "search"].map(|name| policy(name, PolicyScope::Key, "5/min"));
    // As after a reload that added a second policy.
    let report = store.charge(&charge(&two, 1), at(0)).unwrap();
    assert_eq!(report.shown().next().unwrap().1.remaining, 1);
    assert_eq!((store.several.len(), store.lone.len()), (1, 0));
    // And after one that removed it again.
    store.charge(&lone("5/min"), at(0)).unwrap();
    assert!(store.charge(&lone("5/min"), at(0)).is_err());
    assert_eq!((store.several.len(), store.lone.len()), (1, 0));
    store.sweep(at(61_000_000_000));
    store.charge(&lone("5/min"), at(61_000_000_000)).unwrap();
    assert_eq!((store.several.len(), store.lone.len()), (0, 1));
}

#[test]
fn what_one_limit_refuses_costs_no_other_one_and_no_bystander() {
    let store = LimitStore::default();
    let org = policy("daily", PolicyScope::Org, "10/d");
    let tight = policy("burst", PolicyScope::Key, "1/min");
    let of = |n: u32| Charge { caller: ChargedCaller::Key(key(n)), ..charge([&tight, &org], 1) };
    store.charge(&of(1), at(0)).unwrap();
    for _ in 0..50 {
        let refused = store.charge(&of(1), at(0)).unwrap_err();
        assert_eq!(refused.shown().map(|(name, _)| name).collect::<Vec<_>>(), ["burst"]);
    }
    // The org has nine left for its other keys.
    for n in 2..11 {
        store.charge(&of(n), at(0)).unwrap();
    }
    let refused = store.charge(&of(11), at(0)).unwrap_err();
    assert_eq!(refused.shown().map(|(name, _)| name).collect::<Vec<_>>(), ["daily"]);
    let refused = store.charge(&of(1), at(0)).unwrap_err();
    assert_eq!(refused.shown().map(|(name, _)| name).collect::<Vec<_>>(), ["burst", "daily"]);
    assert_eq!(refused.longest_wait(), Duration::from_secs(8640), "the longer of both");
}

fn user(subject: &str) -> ChargedSubject<'_> {
    ChargedSubject {
        issuer: "https://idp.example/",
        subject,
        org: "acme",
        limit: None,
        org_source: OrgSource::Table,
    }
}

#[test]
fn orgs_that_only_tokens_name_stay_in_their_room() {
    let store = LimitStore::default();
    let org = policy("daily", PolicyScope::Org, "2/d");
    let foreign = ChargedSubject { org_source: OrgSource::Token, ..user("ann") };
    let caller = ChargedCaller::Subject(foreign);
    let of = |org_name| Charge { caller, org: org_name, ..charge([&org], 1) };
    for n in 0..100_000 {
        let name = format!("org-{n}");
        let charged = Charge { caller, org: &name, ..charge([&org], 1) };
        assert!(store.charge(&charged, at(0)).is_ok());
    }
    assert_eq!(store.len(), 0, "no name of theirs is kept");
    // Each has its limit, whole or not at all.
    store.charge(&of("last"), at(0)).unwrap();
    store.charge(&of("last"), at(0)).unwrap();
    assert!(store.charge(&of("last"), at(0)).is_err());
    // The table learns of the org: spent amounts stay spent, for keys as well.
    let named = |org_name| Charge { org: org_name, ..charge([&org], 1) };
    assert!(store.charge(&named("last"), at(0)).is_err());
    assert!(store.charge(&named("other"), at(0)).is_ok());
    assert_eq!(store.orgs.len(), 2);
    // The table forgets it again.
    assert!(store.charge(&of("last"), at(0)).is_err());
    store.charge(&of("other"), at(0)).unwrap();
    assert!(store.charge(&of("other"), at(0)).is_err(), "one of its two was a key's");
}

#[test]
fn subjects_of_user_tokens_share_their_org_with_keys() {
    let store = LimitStore::default();
    let org = policy("daily", PolicyScope::Org, "10/d");
    let own = policy("per-key", PolicyScope::Key, "3/min");
    let (ann, bob) = (user("ann"), user("bob"));
    let of = |user| Charge { caller: ChargedCaller::Subject(user), ..charge([&own, &org], 1) };
    let names = |report: LimitReport| report.shown().map(|n| n.0.to_owned()).collect::<Vec<_>>();
    for _ in 0..3 {
        store.charge(&of(ann), at(0)).unwrap();
    }
    for _ in 0..50 {
        assert_eq!(names(store.charge(&of(ann), at(0)).unwrap_err()), ["per-key"]);
    }
    for _ in 0..2 {
        store.charge(&of(bob), at(0)).unwrap();
    }
    // A key can use five of the org's ten. A request that this refuses leaves bob his third.
    store.charge(&charge([&org], 5), at(0)).unwrap();
    for _ in 0..50 {
        assert_eq!(names(store.charge(&of(bob), at(0)).unwrap_err()), ["daily"]);
    }
    let alone = ChargedLimits::PerKey(own.limit);
    let alone = Charge { limits: alone, ..of(bob) };
    store.charge(&alone, at(0)).unwrap();
    assert_eq!(names(store.charge(&alone, at(0)).unwrap_err()), ["per-key"]);
    // Of the store's maps, only that of orgs has an entry.
    assert_eq!((store.several.len(), store.lone.len(), store.orgs.len()), (0, 0, 1));
}

#[test]
fn a_renewed_limit_keeps_what_was_spent_under_its_name() {
    let store = LimitStore::default();
    let daily = policy("daily", PolicyScope::Key, "10/d");
    for _ in 0..10 {
        store.charge(&charge([&daily], 1), at(0)).unwrap();
    }
    let wider = policy("daily", PolicyScope::Key, "20/d");
    assert!(store.charge(&charge([&wider], 1), at(0)).is_err());
    let other = policy("hourly", PolicyScope::Key, "10/d");
    assert!(store.charge(&charge([&other], 1), at(0)).is_ok(), "another policy is another bucket");
}

#[test]
fn a_limit_with_a_shorter_window_admits_after_its_own_wait() {
    let long = [policy("a", PolicyScope::Key, "3/d"), policy("b", PolicyScope::Org, "100/min")];
    let short = [policy("a", PolicyScope::Key, "600/min burst 1"), long[1].clone()];
    let store = LimitStore::default();
    for _ in 0..4 {
        let _ = store.charge(&charge(&long, 1), at(0));
    }
    let refused = store.charge(&charge(&short, 1), at(1)).unwrap_err();
    let wait = refused.longest_wait().as_nanos() as u64;
    assert!(wait <= 100_000_000, "{wait}");
    assert!(store.charge(&charge(&short, 1), at(1 + wait)).is_ok());
}

/// A quota of an org, and a limit of a key whose debt outlives the process.
fn kept_charges() -> [Charge<'static>; 3] {
    use std::sync::LazyLock;
    static NAMES: LazyLock<[PolicyName; 2]> =
        LazyLock::new(|| ["monthly", "daily"].map(|name| PolicyName::parse(name).unwrap()));
    let [monthly, daily] = &*NAMES;
    let quota = |policy, scope, period: QuotaPeriod, text: &str| {
        let (_, limit) = QuotaPeriod::parse(text).unwrap();
        PolicyCharge { policy, scope, limit, quota: Some(period), item: None }
    };
    let several = |limits| ChargedLimits::Several(SmallVec::from_iter([limits]));
    let of_key = |number, limits| Charge {
        caller: ChargedCaller::Key(key(number)),
        org: "acme",
        cost: 1,
        limits,
    };
    [
        of_key(1, several(quota(monthly, PolicyScope::Org, QuotaPeriod::Month, "5/month"))),
        of_key(2, several(quota(daily, PolicyScope::Key, QuotaPeriod::Day, "3/day"))),
        of_key(3, ChargedLimits::PerKey(Limit::parse("2/d").unwrap())),
    ]
}

#[test]
fn quotas_and_long_debts_outlive_the_process() {
    // 2026-11-29T23:00:00Z, in a process that has run for a while.
    let evening = Now { unix_ms: 1_795_993_200_000, mono_ns: 7_000_000_000 };
    let store = LimitStore::default();
    for charge in &kept_charges() {
        for _ in 0..2 {
            store.charge(charge, evening).unwrap();
        }
    }
    store.charge(&lone("600/min"), evening).unwrap();
    let bytes = store.keep(evening);
    // Magic and checksum, and 32 bytes each. A limit that is whole again in a second is not kept.
    assert_eq!(bytes.len(), 12 + 3 * 32);
    let later = Now { unix_ms: evening.unix_ms + 60_000, mono_ns: 1_000 };
    let anew = LimitStore::default();
    assert_eq!(anew.restore(&bytes, later), Ok(3));
    assert_eq!(anew.keep(later).len(), bytes.len(), "kept on, touched or not");
    let left = |charge: &Charge<'_>, now| {
        anew.charge(charge, now)
            .map(|report| report.shown().map(|(_, state)| state.remaining).collect::<Vec<_>>())
    };
    let [monthly, daily, debt] = &kept_charges();
    assert_eq!(left(monthly, later).unwrap(), [2]);
    assert_eq!(left(daily, later).unwrap(), [0]);
    assert!(left(daily, later).is_err());
    let wait = left(debt, later).unwrap_err();
    assert!(wait.longest_wait() > Duration::from_secs(40_000), "{wait:?}");
    // Midnight by the wall clock: the day is over, the month is not.
    let midnight = Now { unix_ms: evening.unix_ms + 3_600_000, mono_ns: 2_000 };
    assert_eq!(left(daily, midnight).unwrap(), [2]);
    assert_eq!(left(monthly, midnight).unwrap(), [1]);
    let december = Now { unix_ms: evening.unix_ms + 25 * 3_600_000, mono_ns: 3_000 };
    assert_eq!(left(monthly, december).unwrap(), [4]);
}

#[test]
fn what_is_no_whole_file_of_quotas_changes_nothing() {
    let now = Now { unix_ms: 1_795_993_200_000, mono_ns: 7 };
    let store = LimitStore::default();
    store.charge(&kept_charges()[0], now).unwrap();
    let bytes = store.keep(now);
    let anew = LimitStore::default();
    for damaged in [&[][..], b"kgquota1", b"something else", &bytes[..bytes.len() - 1]] {
        assert!(anew.restore(damaged, now).is_err());
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x20;
        assert!(anew.restore(&damaged, now).is_err(), "byte {at}");
    }
    assert_eq!(anew.keep(now).len(), 12);
    assert_eq!(anew.restore(&bytes, now), Ok(1));
}
