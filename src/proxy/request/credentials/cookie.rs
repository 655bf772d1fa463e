//! A cookie as a carrier. Its name and value are decoded like those of a query parameter, because
//! many frameworks (PHP, Express) decode them and would find what keygate had missed.

use std::borrow::Cow;

use http::header::{self, HeaderValue};
use percent_encoding::percent_decode;

use crate::proxy::http1::head::Fields;

/// The values of all cookies of this name.
pub(super) fn values<'r>(fields: &'r Fields, name: &str) -> impl Iterator<Item = Cow<'r, [u8]>> {
    all(fields).filter_map(move |cookie| value_of(cookie, name))
}

/// Names and decoded values of all cookies.
pub(super) fn pairs(fields: &Fields) -> impl Iterator<Item = (&[u8], Cow<'_, [u8]>)> {
    all(fields).filter_map(pair)
}

/// One of our cookies after a `,`: RFC 2109 allowed that separator, and some servers still do.
pub(super) fn hides_in(fields: &Fields, name: &str, own: impl Fn(&[u8]) -> bool) -> bool {
    all(fields)
        .flat_map(|cookie| cookie.split(|b| *b == b',').skip(1))
        .filter_map(|cookie| value_of(cookie, name))
        .any(|value| own(&value))
}

/// Removes the cookies of this name for whose value `drop` says so.
pub(super) fn strip(fields: &mut Fields, name: &str, drop: impl Fn(&[u8]) -> bool) {
    let goes = |cookie: &&[u8]| value_of(cookie, name).is_some_and(|value| drop(&value));
    if !all(fields).any(|cookie| goes(&cookie)) {
        return;
    }
    let kept: Vec<&[u8]> = all(fields)
        .filter(|cookie| !goes(cookie))
        .map(<[u8]>::trim_ascii)
        .filter(|cookie| !cookie.is_empty())
        .collect();
    match HeaderValue::from_bytes(&kept.join(&b"; "[..])) {
        Ok(value) if !value.is_empty() => {
            fields.set(&header::COOKIE, &value);
        }
        _ => {
            fields.remove(header::COOKIE);
        }
    }
}

pub(super) fn is_named(raw: &[u8], name: &str) -> bool {
    percent_decode(raw).eq(name.bytes())
}

fn all(fields: &Fields) -> impl Iterator<Item = &[u8]> {
    fields.all(&header::COOKIE).flat_map(|line| line.split(|b| *b == b';'))
}

fn value_of<'r>(cookie: &'r [u8], name: &str) -> Option<Cow<'r, [u8]>> {
    pair(cookie).filter(|(raw, _)| is_named(raw, name)).map(|(_, value)| value)
}

fn pair(cookie: &[u8]) -> Option<(&[u8], Cow<'_, [u8]>)> {
    let equals = cookie.iter().position(|b| *b == b'=')?;
    let (name, value) = cookie.split_at_checked(equals)?;
    let value = value.get(1..).unwrap_or_default().trim_ascii();
    // RFC 6265 §4.1.1: a value may be in double quotes.
    let bare = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
    Some((name.trim_ascii(), percent_decode(bare).into()))
}
