//! What of the head of an answer that hyper has read goes to the client.

#[cfg(test)]
mod tests;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::config::Settings;
use crate::core::headers::FieldClass;

/// Whether a response says in one way only how long it is (RFC 9112 §6.3).
pub(crate) fn is_framed_once(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        // Any other coding would be undone by nobody: the field goes no further.
        (None, _) => {
            let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
            let chunked = |c: &HeaderValue| c.as_bytes().eq_ignore_ascii_case(b"chunked");
            codings.next().is_none_or(chunked) && codings.next().is_none()
        }
        (Some(_), Some(_)) => false,
        (Some(length), None) => {
            length.as_bytes().iter().all(u8::is_ascii_digit)
                && !headers.contains_key(header::TRANSFER_ENCODING)
        }
    }
}

/// Takes out of a response what belongs to the connection to the upstream (RFC 9110 §7.6.1).
///
/// An answer to an upgrade keeps `Connection` and `Upgrade`: the caller has checked it.
pub(crate) fn to_client(headers: &mut HeaderMap, settings: &Settings) {
    let mut remove: Vec<HeaderName> = Vec::new();
    for (name, value) in &*headers {
        match settings.fields.classify(name.as_str().as_bytes()) {
            FieldClass::Connection => {
                remove.push(name.clone());
                for token in value.as_bytes().split(|b| *b == b',') {
                    if let Ok(named) = HeaderName::from_bytes(token.trim_ascii())
                        && !is_end_to_end(&named)
                    {
                        remove.push(named);
                    }
                }
            }
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

/// Fields of a response that a `Connection` token cannot take away.
fn is_end_to_end(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONTENT_LENGTH
            | header::CONTENT_TYPE
            | header::CACHE_CONTROL
            | header::SET_COOKIE
            | header::DATE
    )
}
