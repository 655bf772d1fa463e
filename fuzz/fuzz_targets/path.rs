//! A path that is accepted without any trait means the same to every server.

#![no_main]

use keygate::core::path::{Traits, decode, scan};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &[u8]| {
    let Ok(traits) = scan(path) else { return };
    assert!(path[0] == b'/' && path.is_ascii());
    assert!(!path.iter().any(|b| matches!(b, 0..=0x20 | 0x7f | b'\\' | b'#' | b'?')));
    let once = decode(path);
    assert!(std::str::from_utf8(&once).is_ok(), "an overlong or torn sequence");
    for text in [path, &once] {
        assert!(!text.windows(2).any(|w| w == b"//") || traits.encoded_slash, "an empty segment");
        for segment in text.split(|b| *b == b'/') {
            let name = segment.split(|b| *b == b';').next().unwrap_or_default();
            assert!(name != b"." && name != b"..", "a dot segment");
        }
    }
    assert!(!once.iter().any(|b| matches!(b, 0..=0x1f | 0x7f | b'\\')), "a control byte");
    if traits == Traits::default() {
        assert_eq!(
            once.iter().filter(|b| **b == b'/').count(),
            path.iter().filter(|b| **b == b'/').count()
        );
        assert_eq!(decode(&once), once, "twice decoded is something else");
    }
});
