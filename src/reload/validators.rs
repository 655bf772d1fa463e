//! What a server calls the version that it sent. It goes back to whichever server is asked next, so
//! only what can be true of the file is kept. Imports `artefacts` and `core`.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, header};

use crate::artefacts::ArtefactTag;
use crate::core::{Digest, Now};

/// What a server sends to identify a version.
#[derive(Clone, Debug, Default)]
pub struct Validators {
    pub(super) etag: Option<HeaderValue>,
    pub(super) last_modified: Option<HeaderValue>,
}

// === impl Validators ===

impl Validators {
    pub(super) fn of_answer(fields: &HeaderMap) -> Self {
        Self {
            etag: fields.get(header::ETAG).cloned(),
            last_modified: fields.get(header::LAST_MODIFIED).cloned(),
        }
    }

    /// Without those that cannot be of this file. Nobody signs them: with a false one, whoever
    /// carries the file once could make every honest server say that nothing has changed.
    #[must_use]
    pub fn naming(self, serial: u64, file: &[u8], now: Now) -> Self {
        Self {
            etag: self.etag.filter(|etag| may_name(etag, serial, file)),
            last_modified: self.last_modified.filter(|date| is_past(date, now)),
        }
    }
}

/// Whether it is one tag, and not the tag of another file. A distributor sends nothing to a caller
/// that names a higher serial than its own.
fn may_name(etag: &HeaderValue, serial: u64, file: &[u8]) -> bool {
    let text = etag.as_bytes();
    let text = text.strip_prefix(b"W/").unwrap_or(text);
    let quoted = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
    let is_one = match quoted {
        // RFC 9110 section 8.8.3.
        Some(opaque) => opaque.iter().all(|b| *b > b' ' && *b != b'"' && *b != 0x7f),
        // Some servers forget the quotes. `*` would match everything, and a list several.
        None => text.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:+/=".contains(b)),
    };
    let opaque = std::str::from_utf8(quoted.unwrap_or(text)).unwrap_or_default();
    is_one
        && ArtefactTag::parse(opaque).is_none_or(|tag| {
            tag.serial == serial && tag == ArtefactTag::of(serial, &Digest::of(file))
        })
}

/// Whether a file can have changed then. Until a date that is still to come, a server would not
/// send what changes.
fn is_past(date: &HeaderValue, now: Now) -> bool {
    let date = date.to_str().ok().and_then(|text| httpdate::parse_http_date(text).ok());
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now.unix_ms);
    date.is_some_and(|date| date <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_of_the_file_is_kept() {
        let own = ArtefactTag::of(7, &Digest::of(b"abc")).to_field();
        let digits = "ba7816bf8f01cfea414140de5dae2223";
        let kept = |etag: &str| {
            let mut fields = HeaderMap::new();
            fields.insert(header::ETAG, HeaderValue::from_bytes(etag.as_bytes()).unwrap());
            let now = Now { unix_ms: 0, mono_ns: 0 };
            Validators::of_answer(&fields).naming(7, b"abc", now).etag.is_some()
        };
        for etag in [
            &own,
            &format!("W/{own}"),
            "\"7\"",
            "\"65a1-2f\"",
            "\"\"",
            "65a1-2f",
            "\"a,b\"",
            "\"ü\"",
        ] {
            assert!(kept(etag), "{etag}");
        }
        for etag in [
            format!("\"9000000000000000-{}\"", "0".repeat(32)),
            format!("W/\"8-{digits}\""),
            format!("\"6-{digits}\""),
            format!("\"7-{}\"", "0".repeat(32)),
            format!("8-{digits}"),
            format!("{own}, \"8-{digits}\""),
            format!("\"a\", \"8-{digits}\""),
            "*".to_owned(),
            " * ".to_owned(),
            "a,*".to_owned(),
            "\"a b\"".to_owned(),
        ] {
            assert!(!kept(&etag), "{etag}");
        }
    }

    #[test]
    fn nothing_has_changed_after_now() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = Now { unix_ms: 784_111_777_500, mono_ns: 0 };
        for (date, wanted) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", true),
            ("Sun, 06 Nov 1994 08:49:38 GMT", false),
            ("Fri, 31 Dec 9999 23:59:59 GMT", false),
            ("yesterday", false),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(header::LAST_MODIFIED, HeaderValue::from_static(date));
            let kept = Validators::of_answer(&fields).naming(7, b"abc", now);
            assert_eq!(kept.last_modified.is_some(), wanted, "{date}");
        }
    }
}
