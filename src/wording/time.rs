//! A moment as people read it. Imports nothing.

use std::time::{Duration, UNIX_EPOCH};

/// `2027-01-31T00:00:00Z`. Times after the year 9999 are shown as its last second: RFC 3339 has no
/// longer years, and a file may hold any number.
pub fn instant(unix_secs: u64) -> String {
    /// 9999-12-31T23:59:59Z.
    const LAST: u64 = 253_402_300_799;
    let at = UNIX_EPOCH + Duration::from_secs(unix_secs.min(LAST));
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_is_a_moment() {
        for (at, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_796_106_668, "2026-12-01T06:31:08Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(instant(at), want);
        }
    }
}
