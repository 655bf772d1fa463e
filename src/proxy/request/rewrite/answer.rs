//! Which parts of the head of an answer that hyper has read go to the client.

#[cfg(test)]
mod tests;

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName};

use crate::config::Settings;
use crate::core::headers::FieldClass;
use crate::core::refusal::RateFields;
use crate::proxy::http1::answer_write::is_end_to_end;
use crate::proxy::http1::length::{AnswerTo, LengthFields};

/// Whether a response that hyper has read states its length in exactly one way (RFC 9112 section
/// 6.3).
pub(crate) fn is_framed_once(status: StatusCode, headers: &HeaderMap) -> bool {
    let mut lengths = LengthFields::default();
    headers
        .iter()
        .all(|(name, value)| lengths.read(name.as_str().as_bytes(), value.as_bytes()).is_ok())
        && lengths.of_answer(status, AnswerTo::default()).is_ok()
}

/// Removes from a response what belongs to the connection to the upstream (RFC 9110 §7.6.1).
///
/// An answer to an upgrade keeps `Connection` and `Upgrade`: the caller has checked it.
pub(crate) fn to_client(headers: &mut HeaderMap, settings: &Settings, trailers: Trailers) {
    let mut remove: Vec<HeaderName> = Vec::new();
    for (name, value) in &*headers {
        match settings.fields.classify(name.as_str().as_bytes()) {
            FieldClass::Connection => {
                remove.push(name.clone());
                for token in value.as_bytes().split(|b| *b == b',') {
                    if let Ok(named) = HeaderName::from_bytes(token.trim_ascii())
                        && !is_end_to_end(named.as_str().as_bytes())
                    {
                        remove.push(named);
                    }
                }
            }
            FieldClass::HopByHop if name == header::TRAILER && trailers == Trailers::Announced => {}
            FieldClass::HopByHop | FieldClass::Te | FieldClass::Upgrade => {
                remove.push(name.clone())
            }
            FieldClass::Framing if name == header::TRANSFER_ENCODING => remove.push(name.clone()),
            _ => {}
        }
    }
    for name in remove {
        headers.remove(name);
    }
}

/// Removes from trailers what they must not contain (RFC 9110 section 6.5.1). That is what belongs
/// to a connection, how to read the answer or what to do with it, and what only keygate says in
/// heads.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap, settings: &Settings) {
    let is_allowed = |name: &HeaderName| {
        let text = name.as_str();
        let is_plain = settings.fields.classify(text.as_bytes()) == FieldClass::Plain;
        is_plain
            && !ONLY_IN_HEADS.contains(&text)
            && !is_said_by_keygate(name, settings)
            && !text.starts_with("access-control-")
            // Names from all drafts of the standard.
            && !text.starts_with("ratelimit")
    };
    let refused: Vec<HeaderName> =
        trailers.keys().filter(|name| !is_allowed(name)).cloned().collect();
    for name in refused {
        trailers.remove(name);
    }
}

/// Whether keygate writes this field into heads of answers, whatever it is configured to write: a
/// client that treats trailers as head fields must not believe the service's value.
fn is_said_by_keygate(name: &HeaderName, settings: &Settings) -> bool {
    *name == settings.identity.request_id
        || *name == SUNSET
        || RateFields::ALL.names().any(|rate_field| rate_field == *name)
}

/// When the key will be retired (RFC 8594 section 3).
pub(crate) const SUNSET: HeaderName = HeaderName::from_static("sunset");

const ONLY_IN_HEADS: [&str; 17] = [
    "age",
    "allow",
    "cache-control",
    "clear-site-data",
    "content-encoding",
    "content-location",
    "content-range",
    "content-security-policy",
    "content-type",
    "date",
    "expires",
    "location",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "vary",
    "www-authenticate",
];

/// Whether the client learns which trailers will follow. hyper writes only announced ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trailers {
    /// The client accepts trailers (`TE: trailers`), or speaks HTTP/2.
    Announced,
    Dropped,
}
