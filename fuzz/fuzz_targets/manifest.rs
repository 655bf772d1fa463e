//! The frame and the manifest: raw bytes as a file, and as a manifest behind a right signature.

#![cfg_attr(fuzzing, no_main)]

mod sealed;

use keygate::table::{Manifest, Patch, Table};
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;

/// The one file of the corpus that was signed by the signer that is trusted here.
const GENUINE: &[u8] = include_bytes!("../../tests/data/table/good/one-key.kgt");

fuzz_target!(|data: &[u8]| {
    let _ = Manifest::unverified(data);
    if Table::open(data.to_vec(), &sealed::trust(), &sealed::bounds()).is_ok() {
        assert_eq!(data, GENUINE, "forged");
    }
    for format in [1, 2] {
        let signed = sealed::file(format, data, &[0; 128]);
        if let Ok(table) = Table::open(signed.clone(), &sealed::trust(), &sealed::bounds()) {
            // What it states of the body can only be the truth.
            assert_eq!((table.manifest().keys, table.manifest().body_bytes), (0, 128));
        }
        let _ = Patch::open(signed, &sealed::trust(), &sealed::bounds());
    }
});
