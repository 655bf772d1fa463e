//! A table with a patch over it equals the table that would be built from both.

use std::sync::Arc;

use proptest::prelude::*;

use super::round_trip::{key_set, keys, sorted};
use crate::core::{Digest, KeyLookup, KeySpec, KeyStatus, PairLookup};
use crate::table::testkit::*;
use crate::table::write::{PatchDraft, fold};
use crate::table::*;

/// What a request could learn about a key.
fn answer(set: &KeySet, spec: &KeySpec) -> String {
    let single = set.single(&spec.digest);
    let pair = spec.public_id.as_ref().map(|public| {
        let wrong = set.pair(public.as_bytes(), &Digest::of(b"wrong"));
        let wrong = matches!(wrong, PairLookup::UnknownId);
        (format!("{:?}", set.pair(public.as_bytes(), &spec.digest)), wrong)
    });
    format!("{single:?} {pair:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn overlay_equals_the_folded_build(
        before in keys(30),
        more in keys(30),
        fate in prop::collection::vec(0u8..5, 60),
    ) {
        // Each key stays, goes, is edited, or takes over the content of a key from the other list.
        let mut after: Vec<KeySpec> = Vec::new();
        for (spec, fate) in before.iter().zip(fate.iter().cycle()) {
            match fate {
                0 => {}
                1 => {
                    let mut spec = spec.clone();
                    spec.grant.status = KeyStatus::Revoked;
                    spec.name = "edited".into();
                    after.push(spec);
                }
                _ => after.push(spec.clone()),
            }
        }
        let ids: std::collections::HashSet<_> = before.iter().map(|s| s.id).collect();
        after.extend(more.into_iter().filter(|s| !ids.contains(&s.id)));

        let base = table(1, &before);
        let draft = PatchDraft::difference(&base, after.clone());
        let patch = Arc::new(patch(draft, issue(2, &[&Signer::new(1)])));
        let overlay = KeySet::new(Arc::new(base), Some(patch.clone()), &[], None);
        let built = key_set(table(2, &after));

        prop_assert_eq!(overlay.patch_serial(), Some(2));
        prop_assert_eq!(sorted(fold(&overlay).collect()), sorted(after.clone()));
        let folded: Vec<_> = fold(&overlay).collect();
        prop_assert_eq!(body(&folded).sha256(), body(&after).sha256());
        prop_assert_eq!(overlay.counts(), built.counts());
        for spec in before.iter().chain(&after) {
            prop_assert_eq!(answer(&overlay, spec), answer(&built, spec));
        }
        // Continuing from the patch states the same again.
        let again = PatchDraft::after(&patch).unwrap();
        prop_assert_eq!(again.len() as u64, patch.entries());
        let again = crate::table::testkit::patch(again, issue(3, &[&Signer::new(1)]));
        prop_assert_eq!(again.manifest().body_sha256, patch.manifest().body_sha256);
    }
}

#[test]
fn a_patch_over_another_table_is_left_out() {
    let (one, other) = (table(1, &[spec(1)]), table(1, &[spec(2)]));
    let patch = patch(PatchDraft::difference(&other, []), issue(2, &[&Signer::new(1)]));
    let set = KeySet::new(Arc::new(one), Some(Arc::new(patch)), &[], None);
    assert_eq!(set.patch_serial(), None);
    assert!(set.single(&spec(1).digest).is_some());
}
