//! Files of both formats, alone and over one another.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::{KeyLookup, KeySpec, KeyStatus, Limit, LimitSet, Now, OrgId, Owner};
use crate::table::testkit::*;
use crate::table::write::{BodyBuilder, BuildError, InMemory, PatchDraft, PatchError, fold};
use crate::table::*;

const FORMATS: [TableFormat; 2] = [TableFormat::V1, TableFormat::V2];
const NOW: Now = Now { unix_ms: 1_000_000, mono_ns: 0 };

fn org(text: &str) -> OrgId {
    OrgId::parse(text).unwrap()
}

/// A key with one of everything that format 1 has no place for.
fn rich(n: u32) -> KeySpec {
    let mut rich = KeySpec { owner: Owner::new("u-1", "", "").ok(), ..spec(n) };
    rich.grant.limits = LimitSet::new([named("per-key", "9/s"), named("daily", "100/d")]);
    rich.grant.sunset = Some(2_000_000_000);
    rich
}

fn limited(n: u32) -> KeySpec {
    let mut limited = spec(n);
    limited.grant.limits = LimitSet::of_key(Limit::parse("600/min").ok());
    limited
}

#[test]
fn what_both_hold_is_the_same_key_in_either() {
    let specs = [limited(1), pair_spec(2), spec(3)];
    let loaded = FORMATS.map(|format| {
        let table = table_in(format, 1, &specs, &BTreeMap::new());
        assert_eq!((table.format(), table.manifest().format), (format, format.number()));
        let set = KeySet::new(Arc::new(table), None, &[], None);
        let view = set.single(&spec(1).digest).unwrap();
        assert_eq!(view.grant.limits.per_key(), Limit::parse("600/min").ok(), "{format}");
        assert!(set.owner(&spec(1).digest).is_none());
        fold(&set).collect::<Vec<_>>()
    });
    assert_eq!(loaded[0], loaded[1]);
}

#[test]
fn format_1_names_everything_that_it_would_lose() {
    let mut canary = spec(2);
    canary.grant.status = KeyStatus::Canary;
    let mut builder = BodyBuilder::new(InMemory, 1 << 20);
    builder.set_format(TableFormat::V1);
    [rich(1), canary.clone(), limited(3)].iter().for_each(|spec| builder.push(spec).unwrap());
    builder.org_limits(&org("acme"), &LimitSet::new([named("daily", "1/d")])).unwrap();
    let error = builder.finish().unwrap_err();
    assert!(matches!(error, BuildError::Format { .. }));
    assert_eq!(
        error.to_string().lines().next().unwrap(),
        "format 1 cannot hold everything that is stated: key_00000001 (limits of other policies \
         than per-key), key_00000001 (sunset), key_00000001 (owner), key_00000002 (canary), acme \
         (limits of an org)"
    );
    let mut many = BodyBuilder::new(InMemory, 1 << 20);
    many.set_format(TableFormat::V1);
    (0..50).for_each(|n| many.push(&KeySpec { owner: rich(1).owner, ..spec(n) }).unwrap());
    let error = many.finish().unwrap_err().to_string();
    assert!(error.contains(", and 30 more\nhint: "), "{error}");
    // A patch over a table of format 1 has format 1, and is no less strict.
    let base = table_in(TableFormat::V1, 1, &[spec(1)], &BTreeMap::new());
    let patch = PatchDraft::difference(&base, [spec(1), canary]).build(issue(2, &[]));
    assert!(matches!(patch, Err(PatchError::Build(BuildError::Format { .. }))));
}

/// Every base with every patch: what the patch's author wrote is in force.
#[test]
fn patches_of_either_format_over_tables_of_either() {
    let orgs = BTreeMap::from([
        (org("org-0"), LimitSet::new([named("daily", "9/d")])),
        (org("org-1"), LimitSet::new([named("daily", "8/d")])),
    ]);
    let none = BTreeMap::new();
    for base_format in FORMATS {
        let (specs, base_orgs) = match base_format {
            TableFormat::V1 => (vec![limited(1), spec(2), spec(3)], &none),
            TableFormat::V2 => (vec![rich(1), spec(2), spec(3)], &orgs),
        };
        for format in FORMATS {
            let base = table_in(base_format, 1, &specs, base_orgs);
            let mut disabled = spec(2);
            disabled.grant.status = KeyStatus::Disabled;
            let mut after = vec![specs[0].clone(), disabled, spec(3)];
            let mut after_orgs = base_orgs.clone();
            if format == TableFormat::V2 {
                after.push(rich(4));
                after_orgs.remove(&org("org-1"));
                after_orgs.insert(org("org-2"), LimitSet::new([named("daily", "7/d")]));
            }
            let mut draft = PatchDraft::difference(&base, after.clone());
            draft.org_limits(&base, &after_orgs);
            draft.set_format(format);
            let patch = Arc::new(patch(draft, issue(2, &[&Signer::new(1)])));
            let case = format!("{format} over {base_format}");
            assert_eq!(patch.format(), format, "{case}");
            let again = PatchDraft::after(&patch).unwrap();
            let again = crate::table::testkit::patch(again, issue(3, &[&Signer::new(1)]));
            assert_eq!(again.manifest().body_sha256, patch.manifest().body_sha256, "{case}");
            let mut desk = Acceptance::new(AcceptRules::default());
            desk.offer_table(Arc::new(base), NOW).unwrap();
            assert_eq!(desk.offer_patch(patch, NOW), Ok(AcceptOutcome::InForce), "{case}");
            let set = desk.current().unwrap();
            let mut found: Vec<_> = fold(set).collect();
            found.sort_by_key(|spec| spec.id);
            assert_eq!(found, after, "{case}");
            let found = set.iter_org_limits().map(|s| (org(s.org), s.limits.clone()));
            assert_eq!(found.collect::<BTreeMap<_, _>>(), after_orgs, "{case}");
            for (name, limits) in &after_orgs {
                assert_eq!(set.org_limits(name.as_str()), limits, "{case}");
            }
            assert!(set.org_limits("nobody").is_empty());
        }
    }
}

/// A publisher moves to format 2, and back: the same serials, the same rules.
#[test]
fn a_reader_follows_its_publisher_to_format_2_and_back() {
    let mut desk = Acceptance::new(AcceptRules::default());
    for (serial, format) in [(1, FORMATS[0]), (2, FORMATS[1]), (3, FORMATS[0])] {
        let table = table_in(format, serial, &[limited(1)], &BTreeMap::new());
        assert_eq!(desk.offer_table(Arc::new(table), NOW), Ok(AcceptOutcome::InForce));
        assert_eq!(desk.current().unwrap().serial(), serial);
    }
    let old = table_in(TableFormat::V2, 2, &[spec(1)], &BTreeMap::new());
    let refused = desk.offer_table(Arc::new(old), NOW).unwrap_err();
    assert_eq!(refused.reason(), "rollback");
}

/// What a held patch says about an org applies to every table that does not know of it.
#[test]
fn a_held_patch_lowers_limits_of_orgs_and_ends_canaries() {
    let limits = |text| LimitSet::new([named("daily", text)]);
    let of = |text| BTreeMap::from([(org("acme"), limits(text))]);
    let base = table_in(TableFormat::V2, 1, &[spec(1), spec(2)], &of("100/d"));
    let mut canary = spec(1);
    canary.grant.status = KeyStatus::Canary;
    let mut draft = PatchDraft::difference(&base, [canary, spec(2)]);
    draft.org_limits(&base, &of("5/d"));
    let patch = Arc::new(patch(draft, issue(2, &[&Signer::new(1)])));
    for (own, wanted) in [("100/d", "5/d"), ("3/d", "3/d")] {
        let unaware = Arc::new(table_in(TableFormat::V2, 3, &[spec(1), spec(2)], &of(own)));
        let set = KeySet::new(unaware, None, std::slice::from_ref(&patch), None);
        assert_eq!(set.org_limits("acme"), &limits(wanted));
        let view = set.single(&spec(1).digest).unwrap();
        assert_eq!(view.grant.status, KeyStatus::Canary);
        assert_eq!((set.counts().active, set.counts().canary), (1, 1));
    }
}

#[test]
fn too_many_limits_and_late_sunsets_make_no_table() {
    let mut many = spec(1);
    let names = (0..=LimitSet::MOST).map(|n| named(&format!("p{n}"), "1/s"));
    many.grant.limits = LimitSet::new(names);
    let mut late = spec(1);
    late.grant.sunset = Some(1 << 32);
    let mut builder = BodyBuilder::new(InMemory, 1 << 20);
    assert!(matches!(builder.push(&many), Err(BuildError::Limits(_))));
    assert!(matches!(builder.push(&late), Err(BuildError::Sunset(_))));
    assert!(matches!(
        builder.org_limits(&org("acme"), &many.grant.limits),
        Err(BuildError::Limits(_))
    ));
}
