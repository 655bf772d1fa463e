//! [`meet`] against what a caller may do: never more than either side admits.

use proptest::prelude::*;

use super::super::losses::tests::{as_entry, key, questions};
use super::*;
use crate::core::KeyId;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_merged_admits_nothing_that_either_refuses(
        base in key(), theirs in key(), ours in key(), is_known in any::<bool>(),
    ) {
        let Some(entry) = as_entry(&ours) else { return Ok(()) };
        let base = if is_known { Baseline::Known(base) } else { Baseline::Unknown };
        let id = KeyId::parse("key_a").unwrap();
        let ours: Vec<KeySpec> = entry.specs().collect();
        let key = ThreeWayKey { id, base: base.clone(), theirs: theirs.clone(), ours: ours.clone() };
        let met: Vec<KeySpec> = meet(&entry, &key, 0).entry.specs().collect();
        let had = |digest: Digest| match &base {
            Baseline::Known(base) => base.iter().any(|spec| spec.digest == digest),
            _ => true,
        };
        let is_new_key = base == Baseline::Known(Vec::new());
        for question in questions() {
            if !question.is_admitted(&met) || named_for_one(&ours, &theirs, question.deployment) {
                continue;
            }
            let has = |specs: &[KeySpec]| specs.iter().any(|spec| spec.digest == question.secret);
            // A secret that one side has made since the base is judged by the rest of the other
            // side's key, including its end.
            let lives = |specs: &[KeySpec]| {
                specs.iter().any(|spec| spec.expires.is_none_or(|end| question.at < end))
            };
            let is_newer = |than: &[KeySpec]| !has(than) && !had(question.secret) && lives(than);
            let by_ours = question.is_admitted(&ours) || is_newer(&ours);
            let by_theirs = question.is_admitted(&theirs)
                || is_newer(&theirs)
                || theirs.is_empty() && is_new_key;
            prop_assert!(by_ours && by_theirs, "{question:?}");
        }
    }
}

/// A deployment that requires an environment, when only one of the two gives the key one: its
/// author meant to narrow the key to it.
fn named_for_one(ours: &[KeySpec], theirs: &[KeySpec], deployment: u8) -> bool {
    let has = |specs: &[KeySpec]| specs.first().is_some_and(|s| s.grant.environment.is_some());
    deployment >= 8 && has(ours) != has(theirs)
}

/// One side ended a pair earlier, and the other gave it a new secret.
#[test]
fn an_earlier_end_outlives_the_rotation_of_the_other_side() {
    let id = KeyId::parse("key_a").unwrap();
    let of = |secrets: &[(&[u8], Option<u64>)]| -> Vec<KeySpec> {
        let specs = secrets.iter().map(|(secret, expires)| KeySpec {
            id,
            digest: Digest::of(secret),
            expires: *expires,
            ..crate::table::testkit::pair_spec(1)
        });
        specs.collect()
    };
    let base = of(&[(b"a", None)]);
    let (ended, rotated) = (of(&[(b"a", Some(500))]), of(&[(b"b", None), (b"a", Some(900))]));
    for (ours, theirs) in [(&ended, &rotated), (&rotated, &ended)] {
        let mut entry = as_entry(ours).unwrap();
        entry.org = ours[0].org.clone();
        entry.public_id = ours[0].public_id.clone();
        let base = Baseline::Known(base.clone());
        let key = ThreeWayKey { id, base, theirs: theirs.clone(), ours: ours.clone() };
        let met = meet(&entry, &key, 0).entry;
        assert_eq!(met.status, KeyStatus::Active);
        assert_eq!((met.digest, met.expires), (Digest::of(b"b"), Some(500)));
        assert_eq!(met.previous.map(|previous| previous.expires), Some(500));
    }
}

#[test]
fn bounds_are_met_dimension_by_dimension() {
    let limit = |text: &str| super::super::super::registry::words::parse_limit(text).unwrap();
    for (one, other, both) in [
        ("1/s burst 1", "100/s burst 10", "1/s"),
        ("1000/h", "50/s", "1000/h burst 50"),
        ("60/min", "1/s", "60/min burst 1"),
    ] {
        assert_eq!(limit(one).slower(limit(other)), limit(both), "{one} and {other}");
        let back = limit(other).slower(limit(one));
        assert!(back.burst() == limit(both).burst(), "{other} and {one}");
    }
    let nets = |list: &[&str]| -> Vec<IpNet> { list.iter().map(|n| n.parse().unwrap()).collect() };
    let (a, b) = (nets(&["10.0.0.0/8", "192.0.2.0/24"]), nets(&["10.1.0.0/16", "198.51.100.0/24"]));
    assert_eq!(networks(&a, &b), Some(nets(&["10.1.0.0/16"])));
    assert_eq!(networks(&nets(&["10.1.0.0/16"]), &nets(&["10.2.0.0/16"])), None);
    assert_eq!(networks(&[], &b), Some(b.clone()));
    let words = |list: &[&str]| -> Vec<Permission> {
        list.iter().map(|word| Permission::parse(word).unwrap()).collect()
    };
    let set = |list: &[&str]| PermissionSet::new(words(list));
    assert_eq!(permissions(&words(&["*"]), &set(&["read"])), words(&["read"]));
    assert_eq!(permissions(&words(&["read", "send"]), &set(&["*"])), words(&["read", "send"]));
    assert_eq!(permissions(&words(&["read"]), &set(&["send"])), words(&[]));
}
