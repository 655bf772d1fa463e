//! What is signed about keys that appear later, and tables that lag behind what was signed.

use super::given::{Sidecar, most_stay, patch_of, sign, specs, table_of, unless};
use super::*;
use crate::core::Environment;
use crate::table::write::RemovalOf;

/// What somebody states about a key.
type Said = fn(&mut KeySpec);

fn networks(key: &mut KeySpec, network: &str) {
    key.grant.networks = crate::core::NetworkSet::new([network.parse().unwrap()]);
}

/// What a patch says about keys, and what they are once they exist. Together, nothing is left of
/// them.
const CONTRADICTIONS: [(&str, Said, Said); 7] = [
    ("environment", |key| key.grant.environment = Some(Environment::Test), |_| ()),
    (
        "both environments",
        |key| key.grant.environment = Some(Environment::Test),
        |key| key.grant.environment = Some(Environment::Live),
    ),
    ("kind", |_| (), |key| *key = KeySpec { public_id: Some("x".into()), ..key.clone() }),
    ("networks", |key| networks(key, "192.0.2.0/24"), |key| networks(key, "198.51.100.0/24")),
    ("status", |key| key.grant.status = KeyStatus::Disabled, |_| ()),
    ("end", |key| key.expires = Some(NOW / 1000 + 60), |_| ()),
    ("beginning", |key| key.grant.not_before = Some(4_000_000_000), |_| ()),
];

/// Keys without an environment, some of them changed by `change`.
fn keys(all: std::ops::Range<u32>, changed: std::ops::Range<u32>, change: Said) -> Vec<KeySpec> {
    let mut keys = specs(all, |key| key.grant.environment = None);
    for key in keys.iter_mut().filter(|key| changed.clone().any(|n| spec(n).id == key.id)) {
        change(key);
        // Callers of pairs have a name each.
        if key.public_id.is_some() {
            key.grant.kind = crate::core::KeyKind::Pair;
            key.public_id = Some(format!("pub-{}", key.id).into());
        }
    }
    keys
}

/// A sidecar of one environment is given the first table, then what lags behind the patch, and then
/// the withheld patch.
fn is_kept_back(
    what: &str,
    (first, patch): (&[KeySpec], impl Fn(&mut PatchDraft)),
    all: &[KeySpec],
) {
    let house = House::new();
    let mut keeper = house.keeper();
    let mut first = table_of(&house, 1, 1, first);
    let signed_first = sign(&house, &mut keeper, &mut first, NOW).unwrap();
    let base = first.opened();
    let patch = sign(&house, &mut keeper, &mut patch_of(&house, 2, &base, patch), NOW);
    let Some(patch) = unless(SigningReason::Brake, patch) else { return };
    let lagging = sign(&house, &mut keeper, &mut table_of(&house, 3, 1, all), NOW);
    let Some(lagging) = unless(SigningReason::Stale, lagging) else { return };
    let mut sidecar = Sidecar::of(&house, Some(Environment::Live));
    sidecar.offer(&signed_first, NOW);
    sidecar.offer(&lagging, NOW);
    let before = sidecar.count(all, NOW);
    sidecar.offer(&patch, NOW);
    most_stay(what, before, sidecar.count(all, NOW));
}

#[test]
fn what_is_said_of_keys_counts_once_they_are_there() {
    for (what, said, are) in CONTRADICTIONS {
        let (few, all) = (keys(0..10, 0..0, said), keys(0..100, 10..100, are));
        let puts = |draft: &mut PatchDraft| {
            keys(10..100, 10..100, said).into_iter().for_each(|key| draft.put(key));
        };
        is_kept_back(what, (&few, puts), &all);
        // They exist, and cannot be used yet.
        let off = keys(0..100, 10..100, |key| key.grant.status = KeyStatus::Disabled);
        let puts = |draft: &mut PatchDraft| {
            for mut key in keys(10..100, 10..100, said) {
                key.grant.status = KeyStatus::Disabled;
                draft.put(key);
            }
        };
        is_kept_back(&format!("{what}, of suspended keys"), (&off, puts), &all);
    }
    let removes = |draft: &mut PatchDraft| {
        (10..100).for_each(|n| draft.remove(spec(n).digest, spec(n).id, RemovalOf::Key));
    };
    is_kept_back("removals", (&keys(0..10, 0..0, |_| ()), removes), &keys(0..100, 0..0, |_| ()));
}

/// A table lags behind for fewer than half of its keys. What a sidecar had of it counts for a day.
#[test]
fn what_came_with_a_lagging_table_counts_in_the_next_fall() {
    let house = House::new();
    let mut keeper = house.keeper();
    let mut first = house.table(1, 0..60);
    sign(&house, &mut keeper, &mut first, NOW).unwrap();
    let mut removes = patch_of(&house, 2, &first.opened(), |draft| {
        (60..100).for_each(|n| draft.remove(spec(n).digest, spec(n).id, RemovalOf::Key));
    });
    sign(&house, &mut keeper, &mut removes, NOW).unwrap();
    let mut lagging = table_of(&house, 3, 1, &specs(0..100, |_| ()));
    sign(&house, &mut keeper, &mut lagging, NOW).unwrap();
    let of_the_rest = sign(&house, &mut keeper, &mut house.patch(4, &mut lagging, 20..100), NOW);
    assert_eq!(of_the_rest.unwrap_err().reason, SigningReason::Brake, "40 of 100 are left");
    sign(&house, &mut keeper, &mut house.patch(4, &mut lagging, 9..100), NOW).unwrap();
}

/// A table was begun before most keys were revoked, which somebody has allowed. It is signed, and
/// so is the patch over it that revokes them again, without another allowance.
#[test]
fn a_table_that_lags_behind_an_allowed_fall_stops_nothing() {
    let house = House::new();
    let mut keeper = house.keeper();
    let mut first = house.table(1, 0..100);
    first.by(&mut keeper).unwrap();
    house.allow(fall(30), NOW);
    house.patch(2, &mut first, 70..100).by(&mut keeper).unwrap();
    let mut lagging = table_of(&house, 3, 1, &specs(0..100, |_| ()));
    lagging.by(&mut keeper).unwrap();
    house.patch(4, &mut lagging, 70..100).by(&mut keeper).unwrap();
    house.patch(5, &mut lagging, 71..100).by(&mut keeper).unwrap();
    let most = house.patch(6, &mut lagging, 90..100).by(&mut keeper);
    assert_eq!(most, Err(SigningReason::Brake));
}

/// Keys were made while a table was built. Nobody is asked to allow the fall: the next table has
/// them.
#[test]
fn a_lagging_table_that_falls_needs_no_word_but_a_newer_one() {
    let house = House::new();
    let mut keeper = house.keeper();
    let mut first = house.table(1, 0..100);
    first.by(&mut keeper).unwrap();
    house.patch(2, &mut first, 0..400).by(&mut keeper).unwrap();
    house.allow(fall(0), NOW);
    let mut lagging = table_of(&house, 3, 1, &specs(0..100, |_| ()));
    let refusal = sign(&house, &mut keeper, &mut lagging, NOW).unwrap_err();
    assert_eq!(refusal.reason, SigningReason::Stale, "{refusal}");
    assert!(!refusal.why.contains("signer allow"), "{refusal}");
    table_of(&house, 3, 2, &specs(0..400, |_| ())).by(&mut keeper).unwrap();
    assert!(
        Allowance::is_given(house.root.path(), NOW, |pass| *pass == fall(0)),
        "it is there yet"
    );
    // One that has everything and falls needs it.
    house.table(4, 0..100).by(&mut keeper).unwrap();
    assert_eq!(house.table(5, 0..20).by(&mut keeper), Err(SigningReason::Brake));
}
