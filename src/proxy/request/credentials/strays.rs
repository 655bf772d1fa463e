//! Finds keys outside their carriers: in a variant spelling of a carrier, or in the address of the
//! page that a request refers to. keygate refuses a misplaced key, so that neither the service nor
//! its log gets it, and the caller learns where a key belongs.
//!
//! It does not look for keys in a field, a cookie or a body that no source is configured for:
//! searching every byte would slow down every request to catch a rare mistake.

use base64::Engine;
use http::header::{self, HeaderValue};
use percent_encoding::{percent_decode, percent_decode_str};
use zeroize::Zeroize;

use super::query::{self, is_named, without};
use super::{LENIENT, cookie};
use crate::core::{CredentialSource, Prefixes, Reason, Rejection};
use crate::proxy::http1::head::Fields;

pub(super) fn refused() -> Rejection {
    Rejection::why(Reason::Malformed, "the key is not where, or as, it is read")
}

/// Whether a carrier's value is a key for keygate. Extra text around a key is an error:
/// `X-Api-Key: Bearer KEY`, `api_key="KEY"`.
pub(super) fn judge(prefixes: &Prefixes, value: &[u8]) -> Result<bool, Rejection> {
    let ours = prefixes.own(value);
    if !ours && prefixes.found_in(value) { Err(refused()) } else { Ok(ours) }
}

/// Whether `Authorization` holds a key for keygate in the wrong form: in a scheme that keygate does
/// not read, with extra text around it (`ApiKey KEY`, `KEY`, `Bearer "KEY"`,
/// `Bearer x, Bearer KEY`), in the other half of Basic, or in Basic where only Bearer is
/// configured.
pub(super) fn in_authorization(source: &CredentialSource, value: &[u8]) -> bool {
    match source {
        CredentialSource::Basic { prefixes, .. } | CredentialSource::Bearer { prefixes } => {
            prefixes.found_in(value) || in_basic(prefixes, value)
        }
        CredentialSource::Cookie { .. }
        | CredentialSource::Header { .. }
        | CredentialSource::Pair { .. }
        | CredentialSource::Query { .. }
        | CredentialSource::Subprotocol { .. } => false,
    }
}

fn in_basic(prefixes: &Prefixes, value: &[u8]) -> bool {
    let Some((scheme, token)) = value.split_at_checked(BASIC.len()) else { return false };
    if !scheme.eq_ignore_ascii_case(BASIC) {
        return false;
    }
    let Ok(mut decoded) = LENIENT.decode(token.trim_ascii()) else { return false };
    let found = prefixes.found_in(&decoded);
    decoded.zeroize();
    found
}

const BASIC: &[u8] = b"basic ";

/// `API_KEY=`, `apikey=`, `api_key[]=` for `api_key=`, with a key for keygate.
pub(super) fn in_query(query: &str, name: &str, prefixes: &Prefixes) -> bool {
    !query.is_empty()
        && query.split('&').any(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let same = folded(percent_decode_str(key)).eq(folded(name.bytes()));
            if same && is_named(key, name) {
                return false;
            }
            same && prefixes.found_in(&std::borrow::Cow::from(percent_decode_str(value)))
        })
}

/// The same for a cookie: `SID=` for `sid=`, with a key for keygate.
pub(super) fn in_cookies(fields: &Fields, name: &str, prefixes: &Prefixes) -> bool {
    cookie::pairs(fields).any(|(raw, value)| {
        folded(percent_decode(raw)).eq(folded(name.bytes()))
            && !cookie::is_named(raw, name)
            && prefixes.found_in(&value)
    })
}

fn folded(name: impl Iterator<Item = u8>) -> impl Iterator<Item = u8> {
    name.filter(u8::is_ascii_alphanumeric).map(|b| b.to_ascii_lowercase())
}

/// The marker in another case, in quotes or after a word, but not at the end of a longer name.
pub(super) fn in_subprotocol(entry: &[u8], marker: &str) -> bool {
    let marker = marker.as_bytes();
    let begins_at = |at: usize| {
        let before = at.checked_sub(1).and_then(|before| entry.get(before));
        !before.is_some_and(|b| b.is_ascii_alphanumeric() || b"-._".contains(b))
    };
    !marker.is_empty()
        && entry
            .windows(marker.len())
            .enumerate()
            .any(|(at, w)| w.eq_ignore_ascii_case(marker) && begins_at(at))
}

/// Browsers send the address of a page, including its query, with every request that the page
/// makes. Without this, a key that opened the page would be forwarded in `Referer`.
pub(super) fn strip_referer(fields: &mut Fields, name: &str, drop: impl Fn(&[u8]) -> bool) {
    let Some(first) = fields.get(header::REFERER) else { return };
    let is_clean = |value| part_of(value).is_some_and(|(_, q)| !holds(q, name, &drop));
    if fields.all(&header::REFERER).all(is_clean) {
        return;
    }
    let kept =
        part_of(first).filter(|(_, q)| !query::hides_in(q, name, &drop)).and_then(|(p, q)| {
            let rest = without(q, name, &drop)?;
            let address = if rest.is_empty() { p.to_owned() } else { format!("{p}?{rest}") };
            HeaderValue::from_maybe_shared(bytes::Bytes::from(address)).ok()
        });
    match kept {
        Some(kept) => fields.set(&header::REFERER, &kept),
        None => fields.remove(header::REFERER),
    }
}

/// Address and query. `None`: it is not text.
fn part_of(referer: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(referer).ok()?;
    Some(text.split_once('?').unwrap_or((text, "")))
}

fn holds(query: &str, name: &str, drop: impl Fn(&[u8]) -> bool) -> bool {
    without(query, name, &drop).is_some() || query::hides_in(query, name, drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_not_the_end_of_another_name() {
        for (entry, want) in [
            ("Api-Key.wa_1", true),
            ("\"api-key.wa_1\"", true),
            ("x api-key.wa_1", true),
            ("my-api-key.v2", false),
            ("xapi-key.v2", false),
            ("chat.v2", false),
        ] {
            assert_eq!(in_subprotocol(entry.as_bytes(), "api-key."), want, "{entry}");
        }
    }
}
