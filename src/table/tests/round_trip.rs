//! What is built is exactly what is loaded.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::core::{
    Digest, Environment, Grant, KeyId, KeyKind, KeyLookup, KeySpec, KeyStatus, Limit, LimitSet,
    NamedLimit, NetworkSet, OrgId, Owner, OwnerView, PairLookup, PolicyName,
};
use crate::table::testkit::*;
use crate::table::write::{BodyBuilder, InMemory, fold};
use crate::table::*;

fn grants() -> impl Strategy<Value = Grant> {
    let status = prop::sample::select(vec![
        KeyStatus::Active,
        KeyStatus::Disabled,
        KeyStatus::Revoked,
        KeyStatus::Canary,
    ]);
    let environment =
        prop_oneof![Just(None), Just(Some(Environment::Live)), Just(Some(Environment::Test))];
    let words = prop::sample::subsequence(vec!["*", "read", "send", "manage"], 0..4);
    let networks = prop::sample::subsequence(
        vec!["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "::/0", "0.0.0.0/0"],
        0..4,
    );
    let limits = prop::collection::vec(prop::option::of((1u32..1000, 1u64..100_000)), 3);
    let times = (prop::option::of(1u64..1 << 40), prop::option::of(1u64..1 << 32));
    (status, environment, times, words, networks, limits).prop_map(
        |(status, environment, (not_before, sunset), words, networks, limits)| Grant {
            status,
            kind: KeyKind::Single,
            environment,
            not_before,
            permissions: permissions(&words),
            networks: NetworkSet::new(networks.iter().map(|n| n.parse().unwrap())),
            limits: LimitSet::new(
                ["burst", "daily", "per-key"].into_iter().zip(limits).filter_map(
                    |(name, limit)| {
                        let (n, ms) = limit?;
                        let limit = Limit::new(n, Duration::from_millis(ms), n).unwrap();
                        Some(NamedLimit { policy: PolicyName::parse(name).unwrap(), limit })
                    },
                ),
            ),
            sunset,
        },
    )
}

/// Keys with distinct ids and digests; about a third are pairs, some of them in rotation.
pub(super) fn keys(most: usize) -> impl Strategy<Value = Vec<KeySpec>> {
    let key = (
        grants(),
        prop::option::of(1u64..u32::MAX.into()),
        "\\PC{0,20}",
        0u8..6,
        "[a-z]{1,4}",
        prop::option::of(("[a-c]{1,2}", "[a-c]{0,2}", "[ab]{0,1}")),
    );
    prop::collection::vec(key, 0..most).prop_map(|list| {
        let mut specs = Vec::new();
        for (n, (grant, expires, name, form, org, owner)) in list.into_iter().enumerate() {
            let mut spec = KeySpec {
                id: KeyId::parse(&format!("key_{n}")).unwrap(),
                org: OrgId::parse(&org).unwrap(),
                name: name.into(),
                digest: Digest::of(format!("secret {n}").as_bytes()),
                public_id: None,
                expires,
                grant,
                owner: owner.map(|(s, e, r)| Owner::new(&s, &e, &r).unwrap()),
            };
            if form < 2 {
                spec.grant.kind = KeyKind::Pair;
                spec.public_id = Some(format!("public-{n}").into());
            }
            if form == 0 {
                let digest = Digest::of(format!("second secret {n}").as_bytes());
                specs.push(KeySpec { digest, ..spec.clone() });
            }
            specs.push(spec);
        }
        specs
    })
}

pub(super) fn sorted(mut specs: Vec<KeySpec>) -> Vec<KeySpec> {
    specs.sort_by_key(|spec| spec.digest);
    specs
}

pub(super) fn key_set(table: Table) -> KeySet {
    KeySet::new(Arc::new(table), None, &[], None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn build_then_load_is_identity(specs in keys(40)) {
        let set = key_set(table(3, &specs));
        let loaded: Vec<_> = fold(&set).collect();
        prop_assert_eq!(&loaded, &sorted(specs.clone()));
        // And every key is found the way a request finds it.
        for spec in &specs {
            match &spec.public_id {
                None => {
                    let view = set.single(&spec.digest).unwrap();
                    prop_assert_eq!(view.id, spec.id);
                    prop_assert_eq!(view.grant, &spec.grant);
                    let owner = set.owner(&spec.digest).as_ref().and_then(OwnerView::to_owner);
                    prop_assert_eq!(&owner, &spec.owner);
                }
                Some(public) => {
                    prop_assert!(set.single(&spec.digest).is_none(), "a pair is no single key");
                    let found = set.pair(public.as_bytes(), &spec.digest);
                    prop_assert!(matches!(found, PairLookup::Found(view) if view.id == spec.id));
                    let wrong = set.pair(public.as_bytes(), &Digest::of(b"wrong"));
                    prop_assert!(matches!(wrong, PairLookup::WrongSecret(v) if v.id == spec.id));
                }
            }
            prop_assert_eq!(set.find_id(spec.id).count(), specs.iter().filter(|s| s.id == spec.id).count());
        }
        prop_assert!(set.single(&Digest::of(b"nobody's")).is_none());
        prop_assert!(matches!(set.pair(b"nobody", &Digest::of(b"x")), PairLookup::UnknownId));
        // Building again from what was loaded gives the same bytes, in whatever order.
        let again = body(&loaded);
        let first = body(&specs.into_iter().rev().collect::<Vec<_>>());
        prop_assert_eq!(again.sha256(), first.sha256());
    }

    #[test]
    fn a_small_memory_builds_the_same_bytes(specs in keys(60)) {
        let mut builder = BodyBuilder::with_memory(InMemory, 4096);
        specs.iter().for_each(|spec| builder.push(spec).unwrap());
        prop_assert_eq!(builder.finish().unwrap().sha256(), body(&specs).sha256());
    }
}

#[test]
fn any_single_flipped_bit_is_refused() {
    let (a, b) = (Signer::new(1), Signer::new(2));
    let specs = [spec(1), pair_spec(2), spec(3)];
    let file = table_file(&specs, issue(3, &[&a, &b]), &[&a, &b]);
    // One of the two signatures would be enough.
    let trust = Trust::new([a.key, b.key], 1, AUDIENCE).unwrap();
    assert!(Table::open(file.clone(), &trust, &Bounds::default()).is_ok());
    for bit in 0..file.len() * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let opened = Table::open(flipped, &trust, &Bounds::default());
        assert!(opened.is_err(), "bit {bit} of byte {}", bit / 8);
    }
}

#[test]
fn any_truncation_is_refused() {
    let signer = Signer::new(1);
    let file = table_file(&[spec(1)], issue(3, &[&signer]), &[&signer]);
    for length in 0..file.len() {
        let opened = Table::open(file[..length].to_vec(), &signer.trust(), &Bounds::default());
        let Err(refusal @ Refusal::Truncated { missing, .. }) = opened else {
            panic!("{length} bytes");
        };
        let text = refusal.to_string();
        assert!(text.ends_with("\nhint: publish it again, or restore it from a backup"), "{text}");
        match (length, missing) {
            (0, _) => assert!(text.starts_with("the file is empty\n"), "{text}"),
            (_, None) => {
                assert!(text.starts_with(&format!("it ends after {length} byte")), "{text}")
            }
            (_, Some(_)) => assert!(text.contains("stops short of the end that the manifest")),
        }
    }
}
