//! The head of an answer on its way to the client: as lines, or as a map for hyper.

mod location;
#[cfg(test)]
mod tests;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use smallvec::SmallVec;

pub(crate) use self::location::{OwnAddress, cut_all};

use crate::config::Settings;
use crate::core::headers::{FieldClass, FieldTable};
use crate::proxy::body::ResponseBody;
use crate::proxy::upstream::RawHead;

/// An answer in the shape that its writer wants.
pub(crate) enum Reply {
    Http(Response<ResponseBody>),
    Lines(Lines, ResponseBody),
}

/// Who writes the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    Hyper,
    /// [`crate::proxy::client::serve`], which takes lines as they are.
    Plain,
}

/// A head as it goes over HTTP/1.1, but for `Content-Length`, `Date` and `Connection`, which are
/// its writer's.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) status: StatusCode,
    pub(crate) text: Vec<u8>,
    /// It has a `Date` already.
    pub(crate) is_dated: bool,
    /// The connection is to end with this answer.
    pub(crate) closes: bool,
    /// Where the names of ours are in `text`: no other field may have them.
    own: SmallVec<[(usize, usize); 6]>,
}

/// Takes the fields that are added to an answer.
pub(crate) trait AddField {
    /// In place of any other field of this name.
    fn set(&mut self, name: &HeaderName, value: &[u8]);

    /// The same with a value that no other answer has.
    fn set_unique(&mut self, name: &HeaderName, value: &[u8]) {
        self.set(name, value);
    }
}

impl AddField for HeaderMap {
    fn set(&mut self, name: &HeaderName, value: &[u8]) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            self.insert(name.clone(), value);
        }
    }

    /// Marked so that HPACK gives it no place in its table, where it would push out what comes again,
    /// and be searched for each time (RFC 7541 section 7.1.3).
    fn set_unique(&mut self, name: &HeaderName, value: &[u8]) {
        if let Ok(mut value) = HeaderValue::from_bytes(value) {
            value.set_sensitive(true);
            self.insert(name.clone(), value);
        }
    }
}

impl AddField for Lines {
    /// Before the upstream's fields are, which must not say the same again.
    fn set(&mut self, name: &HeaderName, value: &[u8]) {
        let begin = self.text.len();
        self.put(name.as_str().as_bytes(), value);
        self.own.push((begin, name.as_str().len()));
    }
}

// === impl Lines ===

impl Lines {
    /// `phrase`: instead of the usual one.
    pub(crate) fn new(status: StatusCode, phrase: Option<&[u8]>, room: usize) -> Self {
        let mut text = Vec::with_capacity(room);
        text.extend_from_slice(b"HTTP/1.1 ");
        text.extend_from_slice(status.as_str().as_bytes());
        text.push(b' ');
        let usual = || status.canonical_reason().unwrap_or_default().as_bytes();
        text.extend_from_slice(phrase.unwrap_or_else(usual));
        text.extend_from_slice(b"\r\n");
        Self { status, text, is_dated: false, closes: false, own: SmallVec::new() }
    }

    /// A field, which may stand beside others of its name. Name and value were checked when their
    /// types were made or their head was parsed: neither can end a line.
    pub(crate) fn put(&mut self, name: &[u8], value: &[u8]) {
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(b": ");
        self.text.extend_from_slice(value);
        self.text.extend_from_slice(b"\r\n");
    }

    fn is_own(&self, name: &[u8]) -> bool {
        self.own.iter().any(|&(begin, length)| {
            length == name.len()
                && self
                    .text
                    .get(begin..begin + length)
                    .is_some_and(|n| n.eq_ignore_ascii_case(name))
        })
    }

    /// What of a plain answer's fields goes to the client: the same as [`to_client`] leaves.
    pub(crate) fn take_over(
        &mut self,
        head: &RawHead,
        fields: &FieldTable,
        own: Option<&OwnAddress>,
    ) {
        for (name, value) in head.fields() {
            match fields.classify(name) {
                // A plain answer's says `keep-alive` at most, and so names no field.
                FieldClass::Connection
                | FieldClass::HopByHop
                | FieldClass::Te
                | FieldClass::Upgrade => continue,
                FieldClass::Framing if name.eq_ignore_ascii_case(b"content-length") => continue,
                _ if self.is_own(name) => continue,
                _ => {}
            }
            self.is_dated |= name.eq_ignore_ascii_case(b"date");
            let begin = self.text.len();
            let cut = own.filter(|_| location::is_location(name)).and_then(|own| own.cut(value));
            self.put(name, cut.as_deref().unwrap_or(value));
            if let Some(name) = self.text.get_mut(begin..begin + name.len()) {
                name.make_ascii_lowercase();
            }
        }
    }

    /// Whether a field of this name is there, in lower case.
    pub(crate) fn has(&self, name: &HeaderName) -> bool {
        let name = name.as_str().as_bytes();
        self.text
            .split(|b| *b == b'\n')
            .any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(b": ")))
    }
}

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
