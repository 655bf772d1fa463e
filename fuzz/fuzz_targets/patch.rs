//! A patch's body behind a right signature, over a table: whatever is accepted does what it says, and
//! its removals outlive it.

#![cfg_attr(fuzzing, no_main)]

mod sealed;

use std::sync::{Arc, LazyLock};

use keygate::core::{KeyLookup, Now};
use keygate::table::{AcceptOutcome, Acceptance, Patch, AcceptRules, Table};
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;

const NOW: Now = Now { unix_ms: 1_767_225_600_000, mono_ns: 0 };

/// tests/data/table/good/basic.kgt, serial 5; and the same keys as serial 8 by somebody who has not
/// heard of any patch.
static BASE: LazyLock<[Arc<Table>; 2]> = LazyLock::new(|| {
    let basic = include_bytes!("../../tests/data/table/good/basic.kgt");
    let open =
        |file| Arc::new(Table::open(file, &sealed::trust(), &sealed::bounds()).expect("good"));
    let base = open(basic.to_vec());
    let body = &basic[basic.len() - base.manifest().body_bytes as usize..];
    let mut unaware = sealed::manifest(1, 8, None, body);
    unaware["includes_through"] = 5.into();
    [base, open(sealed::file(1, unaware.to_string().as_bytes(), body))]
});

fuzz_target!(|input: &[u8]| {
    let (format, body) = sealed::format(input);
    let [base, unaware] = &*BASE;
    let manifest = sealed::manifest(format, 7, Some(base.manifest().as_base()), body).to_string();
    let file = sealed::file(format, manifest.as_bytes(), body);
    let Ok(patch) = Patch::open(file, &sealed::trust(), &sealed::bounds()) else { return };
    let mut desk = Acceptance::new(AcceptRules::default());
    desk.offer_table(base.clone(), NOW).expect("the base");
    let before: Vec<_> = desk.current().expect("in force").iter().map(|e| e.digest).collect();
    assert_eq!(desk.offer_patch(Arc::new(patch), NOW), Ok(AcceptOutcome::InForce));
    let patched = desk.current().expect("in force").clone();
    assert_eq!(patched.patch_serial(), Some(7));
    let listed = patched.iter().count() as u64;
    assert_eq!(listed, patched.counts().keys, "counted as listed");
    let orgs: Vec<_> =
        patched.iter_org_limits().map(|s| (s.org.to_owned(), s.limits.clone())).collect();
    let gone: Vec<_> = before.into_iter().filter(|d| patched.any(d).is_none()).collect();
    desk.offer_table(unaware.clone(), NOW).expect("a later table");
    let after = desk.current().expect("in force");
    assert_eq!(after.held_patches(), 1);
    for digest in gone {
        assert!(after.any(&digest).is_none(), "a removed key came back");
    }
    for (org, limits) in orgs {
        assert_eq!(after.org_limits(&org), &limits, "a held patch's limit is gone");
    }
    // A held patch is also against other secrets of the keys it names, and those are not counted out.
    assert!(after.iter().count() as u64 <= after.counts().keys, "more listed than counted");
});
