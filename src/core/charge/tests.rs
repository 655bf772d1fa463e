//! Which policies a request is charged to.

use super::*;
use crate::core::address::NetworkSet;
use crate::core::key::{KeyKind, KeyStatus};
use crate::core::path::Traits;
use crate::core::route::{Access, Needs, Pattern};
use crate::core::{Grant, NamedLimit, PermissionSet};

fn policy(name: &str, scope: PolicyScope, classes: &[&str], limit: Option<&str>) -> LimitPolicy {
    LimitPolicy {
        name: PolicyName::parse(name).unwrap(),
        scope,
        classes: classes.iter().map(|class| (*class).into()).collect(),
        limit: limit.map(|text| Limit::parse(text).unwrap()),
        quota: None,
    }
}

fn set(limits: &[(&str, &str)]) -> LimitSet {
    LimitSet::new(limits.iter().map(|(name, text)| NamedLimit {
        policy: PolicyName::parse(name).unwrap(),
        limit: Limit::parse(text).unwrap(),
    }))
}

fn route(class: Option<&str>, cost: u32) -> Route {
    Route {
        index: 0,
        id: "r".into(),
        pattern: Pattern::parse("/*").unwrap(),
        methods: Vec::new(),
        access: Access::Key(Needs::default()),
        allow: Traits::default(),
        body_limit: None,
        upgrades: Vec::new(),
        preflight: false,
        profile: None,
        class: class.map(Into::into),
        cost,
        upstream: 0,
    }
}

/// What is charged, as text: `*` before the limit of a key that has no other limit.
fn charged(
    policies: &LimitPolicies,
    key_limits: &[(&str, &str)],
    org_limits: &[(&str, &str)],
    route: &Route,
) -> String {
    let grant = Grant {
        status: KeyStatus::Active,
        kind: KeyKind::Single,
        environment: None,
        not_before: None,
        permissions: PermissionSet::default(),
        networks: NetworkSet::default(),
        limits: set(key_limits),
        sunset: None,
    };
    let id = KeyId::parse("key_a").unwrap();
    let key = KeyView { id, org: "acme", name: "", expires: None, grant: &grant, uses: None };
    let org_limits = set(org_limits);
    let of_org = Some(&org_limits).filter(|set| !set.is_empty());
    let Some(charge) = policies.charge(&key, of_org, route) else { return String::new() };
    let caller = ChargedCaller::Key(id);
    assert_eq!((charge.caller, charge.org, charge.cost), (caller, "acme", route.cost));
    text(&charge.limits)
}

/// The same for a user token whose subject has this limit.
fn charged_token(
    policies: &LimitPolicies,
    limit: Option<&str>,
    org_limits: &[(&str, &str)],
    route: &Route,
) -> String {
    let limit = limit.map(|text| Limit::parse(text).unwrap());
    let subject = ChargedSubject {
        issuer: "https://idp.example/",
        subject: "ann",
        org: "acme",
        limit,
        org_source: OrgSource::Token,
    };
    let org_limits = set(org_limits);
    let of_org = Some(&org_limits).filter(|set| !set.is_empty());
    let Some(charge) = policies.charge_token(subject, of_org, route) else { return String::new() };
    let caller = ChargedCaller::Subject(subject);
    assert_eq!((charge.caller, charge.org, charge.cost), (caller, "acme", route.cost));
    text(&charge.limits)
}

fn text(limits: &ChargedLimits<'_>) -> String {
    match limits {
        ChargedLimits::PerKey(limit) => format!("*{limit}"),
        ChargedLimits::Several(limits) => limits
            .iter()
            .map(|one| format!("{}.{} {}", one.scope.as_str(), one.policy.as_str(), one.limit))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

#[test]
fn the_table_states_and_the_configuration_has_defaults() {
    use PolicyScope::{Key, Org};
    let none = LimitPolicies::default();
    let default = LimitPolicies::new([policy("per-key", Key, &[], Some("5/s"))]);
    let classed = LimitPolicies::new([
        policy("search", Key, &["search"], Some("2/s")),
        policy("daily", Org, &[], Some("1000/d")),
        policy("only-stated", Key, &["search"], None),
    ]);
    let (plain, search) = (route(None, 1), route(Some("search"), 5));
    let per_key = [("per-key", "9/s")].as_slice();
    for (name, policies, key, org, route, want) in [
        ("no limit", &none, [].as_slice(), [].as_slice(), &plain, ""),
        ("the key's own", &none, per_key, &[], &plain, "*9/s"),
        ("a default", &default, &[], &[], &plain, "*5/s"),
        ("its own instead of the default", &default, per_key, &[], &search, "*9/s"),
        ("free of charge", &default, per_key, &[], &self::route(None, 0), ""),
        (
            "a name that only the table knows is for every route",
            &none,
            &[("burst", "7/s")],
            &[],
            &plain,
            "key.burst 7/s",
        ),
        ("by class, not here", &classed, per_key, &[], &plain, "key.per-key 9/s, org.daily 1000/d"),
        (
            "by class, here",
            &classed,
            &[("only-stated", "3/s"), ("search", "4/s")],
            &[],
            &search,
            "key.only-stated 3/s, key.search 4/s, org.daily 1000/d",
        ),
        (
            "a class keeps what the table states off other routes",
            &classed,
            &[("only-stated", "3/s"), ("search", "4/s")],
            &[("daily", "7/d")],
            &plain,
            "org.daily 7/d",
        ),
        (
            "stated elsewhere than its scope: counted where it is stated, and the default stays",
            &classed,
            &[("daily", "1/d")],
            &[("search", "1/s")],
            &search,
            "key.daily 1/d, key.search 2/s, org.search 1/s, org.daily 1000/d",
        ),
        (
            "an org's limit beside a key's",
            &none,
            per_key,
            &[("per-key", "20/s")],
            &plain,
            "key.per-key 9/s, org.per-key 20/s",
        ),
    ] {
        assert_eq!(charged(policies, key, org, route), want, "{name}");
    }
}

#[test]
fn whether_a_key_has_one_limit_does_not_depend_on_the_route() {
    use PolicyScope::Key;
    // On a route without the class only `per-key` is charged, although the key has two limits.
    let policies = LimitPolicies::new([policy("search", Key, &["search"], Some("2/s"))]);
    let here = charged(&policies, &[("per-key", "9/s")], &[], &route(None, 1));
    assert_eq!(here, "key.per-key 9/s");
    // A policy without a default charges only those for whom a limit is stated.
    let policies = LimitPolicies::new([policy("search", Key, &["search"], None)]);
    assert_eq!(charged(&policies, &[("per-key", "9/s")], &[], &route(None, 1)), "*9/s");
}

#[test]
fn a_user_token_is_charged_by_its_subject_and_its_org() {
    use PolicyScope::{Key, Org};
    let none = LimitPolicies::default();
    let policies = LimitPolicies::new([
        policy("per-key", Key, &["search"], Some("1/s")),
        policy("daily", Org, &[], Some("1000/d")),
        policy("search", Org, &["search"], Some("2/s")),
    ]);
    let (plain, search) = (route(None, 1), route(Some("search"), 5));
    for (name, policies, subject, org, route, want) in [
        ("no limit", &none, None, [].as_slice(), &plain, ""),
        ("the subject's alone", &none, Some("9/s"), &[], &plain, "*9/s"),
        ("the org's alone", &none, None, &[("daily", "7/d")], &plain, "org.daily 7/d"),
        (
            "no default of keys, and the subject's on every route",
            &policies,
            Some("9/s"),
            &[],
            &plain,
            "key.per-key 9/s, org.daily 1000/d",
        ),
        (
            "what the table states for its org, and classes",
            &policies,
            Some("9/s"),
            &[("daily", "7/d")],
            &search,
            "key.per-key 9/s, org.daily 7/d, org.search 2/s",
        ),
        ("free of charge", &policies, Some("9/s"), &[], &self::route(None, 0), ""),
    ] {
        assert_eq!(charged_token(policies, subject, org, route), want, "{name}");
    }
}

#[test]
fn a_quota_counts_what_the_table_states_for_its_period() {
    let monthly = LimitPolicy {
        quota: Some(QuotaPeriod::Month),
        ..policy("monthly", PolicyScope::Org, &[], Some("1000/30d"))
    };
    let policies = LimitPolicies::new([monthly]);
    let quotas = |org_limits: &[(&str, &str)]| {
        let subject = ChargedSubject {
            issuer: "https://idp.example/",
            subject: "ann",
            org: "acme",
            limit: None,
            org_source: OrgSource::Token,
        };
        let set = set(org_limits);
        let of_org = Some(&set).filter(|set| !set.is_empty());
        let charge = policies.charge_token(subject, of_org, &route(None, 1)).unwrap();
        let ChargedLimits::Several(limits) = charge.limits else { panic!("a lone limit") };
        limits.iter().map(|one| format!("{one}")).collect::<Vec<_>>()
    };
    assert_eq!(quotas(&[]), ["1000/month"], "the default");
    assert_eq!(quotas(&[("monthly", "5000/30d")]), ["5000/month"], "the table's count");
    assert_eq!(quotas(&[("monthly", "5000/30d burst 9")]), ["5000/30d burst 9"], "no count");
    assert_eq!(quotas(&[("monthly", "9/d")]), ["9/d"], "another period");
}

#[test]
fn a_key_with_a_quota_alone_is_not_charged_as_one_with_a_limit_alone() {
    let daily = LimitPolicy {
        quota: Some(QuotaPeriod::Day),
        ..policy("per-key", PolicyScope::Key, &[], None)
    };
    let policies = LimitPolicies::new([daily]);
    let here = charged(&policies, &[("per-key", "9/d")], &[], &route(None, 1));
    assert_eq!(here, "key.per-key 9/d");
}
