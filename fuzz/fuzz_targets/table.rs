//! A table's body behind a right signature: whatever the reader accepts can be looked up in, walked,
//! folded and drafted from.

#![cfg_attr(fuzzing, no_main)]

mod sealed;

use std::sync::Arc;

use keygate::core::{KeyLookup, KeyKind, PairLookup};
use keygate::table::{KeySet, Table};
use keygate::table::write::{PatchDraft, fold};
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (format, body) = sealed::format(input);
    let manifest = sealed::manifest(format, 1, None, body).to_string();
    let file = sealed::file(format, manifest.as_bytes(), body);
    let Ok(table) = Table::open(file, &sealed::trust(), &sealed::bounds()) else { return };
    let counts = table.counts();
    assert_eq!(counts.keys, counts.active + counts.disabled + counts.revoked + counts.canary);
    let same = PatchDraft::difference(&table, []);
    assert_eq!(same.len() as u64, counts.keys, "everything removed");
    let set = KeySet::new(Arc::new(table), None, &[], None);
    let mut keys = 0;
    for entry in set.iter() {
        keys += 1;
        let found = set.any(&entry.digest).expect("what is listed is found");
        assert_eq!(found.id, entry.view.id);
        assert_eq!(set.owner(&entry.digest), entry.owner);
        assert!(entry.owner.is_none_or(|owner| owner.is_valid()));
        match entry.view.grant.kind {
            KeyKind::Single => assert!(set.single(&entry.digest).is_some()),
            KeyKind::Pair => {
                assert!(set.single(&entry.digest).is_none(), "a pair is no single key");
                if let Some(id) = entry.public_id {
                    // Its tag may be wrong, then it is not found; it never is another key.
                    if let PairLookup::Found(view) = set.pair(id.as_bytes(), &entry.digest) {
                        assert_eq!(view.id, entry.view.id);
                    }
                }
            }
        }
        assert!(set.find_id(entry.view.id).count() > 0);
    }
    assert_eq!(keys, counts.keys);
    assert!(fold(&set).count() as u64 == counts.keys, "every key can be stated");
    for stated in set.iter_org_limits() {
        assert_eq!(set.org_limits(stated.org), stated.limits);
    }
    set.plausible(body);
});
