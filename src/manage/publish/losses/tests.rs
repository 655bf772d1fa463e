//! [`losses`] against an oracle that asks every question a caller could ask.

use proptest::prelude::*;

use super::super::super::registry::entry::{Previous, RawEntry, RegistryEntry, show_digest};
use super::*;
use crate::core::{Digest, Grant, KeyKind};

const SECRETS: [&[u8]; 3] = [b"a", b"b", b"c"];
const WORDS: [&str; 3] = ["read", "send", "manage"];
const NETWORKS: [&str; 5] =
    ["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "2001:db8::/32"];
const ADDRESSES: [&str; 5] = ["10.1.2.3", "10.2.0.1", "10.200.0.1", "192.0.2.1", "2001:db8::1"];
const LIMITS: [&str; 3] = ["10/s", "5/s", "600/min"];
const TIMES: [u64; 3] = [100, 200, 300];

/// A request, and the deployment that it meets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) secret: Digest,
    word: &'static str,
    address: &'static str,
    pub(crate) at: u64,
    pub(crate) deployment: u8,
    /// Requests in one burst.
    burst: u32,
    /// Requests in a minute.
    steady: u64,
}

impl Question {
    pub(crate) fn is_admitted(&self, by: &[KeySpec]) -> bool {
        let Some(spec) = by.iter().find(|spec| spec.digest == self.secret) else { return false };
        let grant = &spec.grant;
        let limit = grant.limits.iter().all(|NamedLimit { limit, .. }| {
            let minute = u64::from(limit.count()) * 60_000 / limit.window().as_millis() as u64;
            self.burst <= limit.burst() && self.steady <= minute
        });
        grant.status == KeyStatus::Active
            && spec.expires.is_none_or(|end| self.at < end)
            && grant.not_before.is_none_or(|begin| self.at >= begin)
            && deployments(grant.environment) & self.deployment != 0
            && grant.permissions.holds(&Permission::parse(self.word).unwrap())
            && grant.networks.allows(self.address.parse().unwrap())
            && limit
    }
}

pub(crate) fn questions() -> Vec<Question> {
    let mut all = Vec::new();
    for secret in SECRETS.map(Digest::of) {
        for word in ["read", "send", "manage", "other"] {
            for address in ADDRESSES {
                for at in [50, 150, 250, 350] {
                    for deployment in [1, 2, 4, 8, 16] {
                        for (burst, steady) in [(1, 1), (10, 1), (600, 1), (1, 300), (1, 600)] {
                            all.push(Question {
                                secret,
                                word,
                                address,
                                at,
                                deployment,
                                burst,
                                steady,
                            });
                        }
                    }
                }
            }
        }
    }
    all
}

fn some<T: Clone + std::fmt::Debug + 'static>(of: &[T]) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.4, prop::sample::select(of.to_vec()))
}

prop_compose! {
    fn grant()(
        status in prop::sample::select(vec![
            KeyStatus::Active, KeyStatus::Active, KeyStatus::Active, KeyStatus::Disabled, KeyStatus::Revoked,
            KeyStatus::Canary,
        ]),
        environment in some(&[Environment::Live, Environment::Test]),
        not_before in some(&TIMES),
        words in prop::sample::subsequence(WORDS.to_vec(), 0..=3),
        all in prop::bool::weighted(0.2),
        networks in prop::sample::subsequence(NETWORKS.to_vec(), 0..=2),
        limits in prop::collection::vec(some(&LIMITS), 2),
    ) -> Grant {
        let words = words.into_iter().chain(all.then_some("*"));
        Grant {
            status,
            kind: KeyKind::Single,
            environment,
            not_before,
            permissions: PermissionSet::new(words.map(|word| Permission::parse(word).unwrap())),
            networks: NetworkSet::new(networks.iter().map(|net| net.parse().unwrap())),
            limits: LimitSet::new(["per-key", "daily"].into_iter().zip(limits).filter_map(|(name, limit)| {
                let limit = Limit::parse(limit?).unwrap();
                Some(NamedLimit { policy: PolicyName::parse(name).unwrap(), limit })
            })),
            sunset: None,
        }
    }
}

prop_compose! {
    /// One key of at most two secrets, or none. One grant for all of its secrets.
    pub(crate) fn key()(
        grant in grant(),
        secrets in prop::sample::subsequence(SECRETS.to_vec(), 0..=2),
        ends in prop::collection::vec(some(&TIMES), 2),
    ) -> Vec<KeySpec> {
        secrets.iter().zip(ends).map(|(secret, expires)| KeySpec {
            id: KeyId::parse("key_a").unwrap(),
            org: OrgId::parse("acme").unwrap(),
            name: "p".into(),
            digest: Digest::of(secret),
            public_id: None,
            expires,
            grant: grant.clone(),
            owner: None,
        }).collect()
    }
}

/// The key as a registry holds it: a pair if it has two secrets, the former of which ends.
pub(crate) fn as_entry(specs: &[KeySpec]) -> Option<RegistryEntry> {
    let (current, former) = (specs.first()?, specs.get(1));
    let raw = RawEntry { id: "key_a".into(), org: "acme".into(), ..RawEntry::default() };
    let digest = show_digest(&current.digest);
    let mut entry = RawEntry { digest: digest.into(), ..raw }.parse().ok()?;
    let grant = &current.grant;
    entry.status = grant.status;
    entry.environment = grant.environment;
    entry.not_before = grant.not_before;
    entry.permissions = grant.permissions.iter().cloned().collect();
    entry.networks = grant.networks.iter().copied().collect();
    entry.limits = grant.limits.clone();
    entry.expires = current.expires;
    entry.previous = former
        .map(|spec| Previous { digest: spec.digest, expires: spec.expires.unwrap_or(u64::MAX) });
    Some(entry)
}

fn compared(base: Baseline, theirs: &[KeySpec], ours: &[KeySpec]) -> ThreeWayKey {
    let id = KeyId::parse("key_a").unwrap();
    ThreeWayKey { id, base, theirs: theirs.to_vec(), ours: ours.to_vec() }
}

fn of(key: &ThreeWayKey) -> Vec<Difference> {
    let lost = losses([key.clone()], &Acknowledged::default());
    lost.into_iter().flat_map(|loss| loss.differences).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_theirs_ended_and_ours_admits_again_is_found(
        base in key(), theirs in key(), ours in key(),
    ) {
        let undone = questions().into_iter().find(|question| {
            question.is_admitted(&base)
                && !question.is_admitted(&theirs)
                && question.is_admitted(&ours)
        });
        let found = of(&compared(Baseline::Known(base.clone()), &theirs, &ours));
        prop_assert!(undone.is_none() || !found.is_empty(), "{undone:?}");
        // Without a base, everything counts as admitted before.
        if !theirs.is_empty() {
            let undone = questions().into_iter().find(|question| {
                !question.is_admitted(&theirs) && question.is_admitted(&ours)
            });
            let found = of(&compared(Baseline::Unknown, &theirs, &ours));
            prop_assert!(undone.is_none() || !found.is_empty(), "{undone:?}");
        }
        // And that is all that has to be acknowledged.
        let id = KeyId::parse("key_a").unwrap();
        let key = compared(Baseline::Known(base), &theirs, &ours);
        let both = Acknowledged { readmit: [id].into(), drop: [id].into(), ..Acknowledged::default() };
        prop_assert!(losses([key], &both).is_empty());
    }

    #[test]
    fn what_theirs_left_alone_or_ours_has_too_is_not_asked(key in key(), other in key()) {
        let base = Baseline::Known(key.clone());
        prop_assert_eq!(of(&compared(base, &key, &other)), vec![], "only ours changed it");
        for base in [Baseline::Known(key.clone()), Baseline::Unknown] {
            prop_assert_eq!(of(&compared(base, &other, &other)), vec![], "both changed it alike");
        }
    }
}

#[test]
fn a_word_of_ours_is_found_behind_an_asterisk() {
    let set = |words: &[&str]| {
        PermissionSet::new(words.iter().map(|word| Permission::parse(word).unwrap()))
    };
    let words = |list: Vec<Permission>| -> Vec<String> {
        list.iter().map(|word| word.as_str().to_owned()).collect()
    };
    let (all, read, both) = (set(&["*"]), set(&["read"]), set(&["read", "send"]));
    assert_eq!(words(permissions(Some(&all), &read, &all)), ["*"]);
    assert_eq!(words(permissions(Some(&all), &read, &both)), ["send"]);
    assert_eq!(words(permissions(Some(&both), &read, &all)), ["send"]);
    assert!(permissions(Some(&read), &read, &all).is_empty(), "new in ours");
    assert_eq!(words(permissions(None, &read, &both)), ["send"]);
}

#[test]
fn an_owner_is_theirs_to_change_and_a_sunset_is_no_loss() {
    let owner = |subject: &str| Some(Owner::new(subject, "", "").unwrap());
    let grant = crate::table::testkit::grant();
    let of_owner = |owner: Option<Owner>, sunset: Option<u64>| {
        let mut spec = KeySpec { owner, ..crate::table::testkit::spec(1) };
        spec.grant = Grant { sunset, ..grant.clone() };
        vec![spec]
    };
    let (kim, lee) = (of_owner(owner("kim"), None), of_owner(owner("lee"), Some(5)));
    let base = Baseline::Known(kim.clone());
    assert_eq!(of(&compared(base.clone(), &lee, &kim)), [Difference::Owner(owner("lee"))]);
    assert_eq!(of(&compared(base.clone(), &kim, &lee)), [], "ours changed it");
    let told = of_owner(owner("kim"), Some(5));
    assert_eq!(of(&compared(base, &told, &kim)), [], "callers were told, nothing was refused");
}

#[test]
fn limits_of_orgs_that_ours_would_loosen() {
    let org = |text| OrgId::parse(text).unwrap();
    let limits = |texts: &[&str]| {
        let parse = crate::manage::registry::words::parse_named_limit;
        LimitSet::new(texts.iter().map(|text| parse(text).unwrap()))
    };
    let theirs = BTreeMap::from([(org("acme"), limits(&["daily=100/d", "burst=5/s"]))]);
    let of = |ours: &[&str], meant: &Acknowledged| {
        let ours = BTreeMap::from([(org("acme"), limits(ours))]);
        org_losses(&theirs, &ours, meant).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let none = Acknowledged::default();
    assert_eq!(of(&["daily=100/d", "burst=4/s", "more=1/d"], &none), Vec::<String>::new());
    let lost = ["the org acme: has the limit 100/d for daily there"];
    assert_eq!(of(&["daily=101/d", "burst=5/s"], &none), lost);
    assert_eq!(of(&["burst=5/s"], &none), lost, "without a limit there is none");
    let meant = Acknowledged { orgs: [org("acme")].into(), ..Acknowledged::default() };
    assert_eq!(of(&[], &meant), Vec::<String>::new());
}

#[test]
fn networks_that_cover_one_another_take_nothing_away() {
    let set = |nets: &[&str]| NetworkSet::new(nets.iter().map(|net| net.parse().unwrap()));
    let halves = set(&["10.0.0.0/9", "10.128.0.0/9"]);
    let whole = set(&["10.0.0.0/8"]);
    assert!(!networks(Some(&whole), &halves, &whole));
    assert!(networks(Some(&whole), &set(&["10.0.0.0/9"]), &whole));
    assert!(!networks(Some(&whole), &set(&["10.0.0.0/9"]), &set(&["10.1.0.0/16"])));
    assert!(networks(None, &whole, &set(&[])));
    assert!(!networks(Some(&whole), &whole, &set(&[])), "ours opened it");
    assert!(!networks(None, &set(&["0.0.0.0/0", "::/0"]), &set(&[])), "that is everywhere");
}
