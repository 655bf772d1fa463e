//! `Prefer: wait` (RFC 7240 section 4.3). Pure.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

pub(super) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(super) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Longest wait. Proxies end requests that stay silent for longer.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// How long the caller is willing to wait for something new, up to [`LONGEST`]; zero: not at all.
/// Unknown preferences are ignored, and the first of several counts (RFC 7240 section 2).
pub(super) fn wait(fields: &HeaderMap) -> Duration {
    let texts = fields.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut waits = texts.flat_map(|text| text.split(',')).filter_map(|preference| {
        let preference = preference.split(';').next()?;
        let (name, value) = preference.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"'))
    });
    let Some(text) = waits.next() else { return Duration::ZERO };
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // A number too large for an integer is a long wait.
    let seconds = if is_number { text.parse().unwrap_or(u64::MAX) } else { 0 };
    Duration::from_secs(seconds).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_wait_is_found_among_preferences() {
        for (text, seconds) in [
            ("wait=5", 5),
            ("Wait = \"5\"", 5),
            ("respond-async, wait=10;x=y", 10),
            ("wait=3, wait=9", 3),
            ("wait=99999999999999999999999", 60),
            ("wait=61", 60),
            ("wait", 0),
            ("wait=", 0),
            ("wait=-1", 0),
            ("wait=1.5", 0),
            ("waiting=5", 0),
            ("return=minimal", 0),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(PREFER, HeaderValue::from_static(text));
            assert_eq!(wait(&fields), Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(wait(&HeaderMap::new()), Duration::ZERO);
    }
}
