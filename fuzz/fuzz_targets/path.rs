//! A path that is accepted without a trait that a route must allow means the same to every server.

#![cfg_attr(fuzzing, no_main)]

use keygate::core::path::{Traits, decode, scan};
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &[u8]| {
    let Ok(traits) = scan(path) else { return };
    assert!(path[0] == b'/' && path.is_ascii());
    assert!(!path.iter().any(|b| matches!(b, 0..=0x20 | 0x7f | b'\\' | b'#' | b'?')));
    let once = decode(path);
    assert!(std::str::from_utf8(&once).is_ok(), "an overlong or torn sequence");
    for text in [path, &once] {
        let may_be_empty = traits.encoded_slash || traits.empty_segment;
        assert!(!text.windows(2).any(|w| w == b"//") || may_be_empty, "an empty segment");
        for segment in text.split(|b| *b == b'/') {
            let name = segment.split(|b| *b == b';').next().unwrap_or_default();
            assert!(name != b"." && name != b"..", "a dot segment");
        }
    }
    assert!(!once.iter().any(|b| matches!(b, 0..=0x1f | 0x7f | b'\\')), "a control byte");
    // Every route allows what is merely encoded.
    if (traits == Traits { encoded: traits.encoded, ..Traits::default() }) {
        assert_eq!(
            once.iter().filter(|b| **b == b'/').count(),
            path.iter().filter(|b| **b == b'/').count()
        );
        assert_eq!(decode(&once), once, "twice decoded is something else");
    }
});
