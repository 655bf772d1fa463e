//! Heads that cannot be served. hyper's server would refuse some heads itself, with an empty answer
//! that has neither code nor request id. They are found here before hyper sees them. So is a body
//! whose end can be read in two ways: hyper would choose one of them silently. This file may find
//! more than hyper refuses, never less: `request::facts` judges what hyper accepts.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::ops::Range;

use bytes::Bytes;
use http::{Extensions, Method, Version};

use super::head::{Fields, RequestHead};
use super::length::{BadLength, FramedOnce, LengthFields};
use super::request_span::{RequestSpan, SpanBytes};
use super::target::RequestTarget;
use crate::core::{Reason, Rejection};

/// What happens to a head that is not plain.
pub(crate) enum Judged {
    /// hyper accepts it.
    Servable(Box<HyperHead>),
    Partial,
    Refused(Box<RefusedHead>),
}

/// A complete head that hyper is to read.
pub(crate) struct HyperHead {
    judged: JudgedHead,
    /// Where the target is.
    place: Range<usize>,
    /// Has read everything that came with the head.
    span: RequestSpan,
    /// What those bytes are.
    came: SpanBytes,
}

/// Which bytes of a request are for hyper, and which are not.
pub(crate) struct ForHyper {
    /// What has arrived of the request, without its trailers.
    pub(crate) bytes: Bytes,
    /// What has arrived after it.
    pub(crate) behind: Bytes,
    /// Has read both.
    pub(crate) span: RequestSpan,
    pub(crate) judged: JudgedHead,
}

/// The parts of a head that hyper reads but does not hand on.
#[derive(Clone)]
pub(crate) struct JudgedHead {
    /// The target as it was received. hyper's target may differ.
    pub(crate) target: RequestTarget,
    pub(crate) framing: FramedOnce,
}

/// Why a head is refused, and what could be read of it, without fields.
pub(crate) struct RefusedHead {
    pub(crate) head: RequestHead,
    pub(crate) rejection: Rejection,
}

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadBounds {
    pub(crate) bytes: usize,
    pub(crate) fields: usize,
}

/// Longest target that hyper accepts, and longest name of a field, in bytes.
const LONGEST_TARGET: usize = 65_534;
const LONGEST_NAME: usize = 65_535;

pub(crate) fn judge(read: &[u8], bounds: HeadBounds) -> Judged {
    let mut fields = vec![httparse::EMPTY_HEADER; bounds.fields];
    let mut head = httparse::Request::new(&mut fields);
    let rejection = match head.parse(read) {
        Ok(httparse::Status::Partial) if read.len() < bounds.bytes => return Judged::Partial,
        Ok(httparse::Status::Complete(length)) if length <= bounds.bytes => {
            match complete(&head, read, length) {
                Ok(head) => return Judged::Servable(Box::new(head)),
                Err(rejection) => rejection,
            }
        }
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Reason::HeadersTooLarge.into(),
        Err(error) => syntax(&head, error),
    };
    Judged::Refused(Box::new(RefusedHead { head: readable(&head), rejection }))
}

/// A head that did not arrive completely. `read` is its beginning.
pub(crate) fn unfinished(read: &[u8], reason: Reason) -> RefusedHead {
    let mut fields = [];
    let mut head = httparse::Request::new(&mut fields);
    // Parsed as far as it goes.
    let _ = head.parse(read);
    RefusedHead { head: readable(&head), rejection: reason.into() }
}

/// A head with valid syntax, in the first `length` bytes of `read`.
fn complete(
    head: &httparse::Request<'_, '_>,
    read: &[u8],
    length: usize,
) -> Result<HyperHead, Rejection> {
    let text = head.path.unwrap_or_default();
    if text.len() > LONGEST_TARGET {
        return Err(Reason::UriTooLong.into());
    }
    if Method::from_bytes(head.method.unwrap_or_default().as_bytes()).is_err() {
        return Err(Rejection::why(Reason::BadTarget, "the method is none"));
    }
    let target =
        RequestTarget::parse(text).map_err(|bad| Rejection::why(Reason::BadTarget, bad.why()))?;
    if head.headers.iter().any(|f| f.name.len() > LONGEST_NAME) {
        return Err(Reason::HeadersTooLarge.into());
    }
    let begin = text.as_ptr() as usize - read.as_ptr() as usize;
    let mut lengths = LengthFields::default();
    let read_all =
        head.headers.iter().try_for_each(|field| lengths.read(field.name.as_bytes(), field.value));
    let version = if head.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let (end, framing) = read_all
        .and_then(|()| lengths.of_request(version))
        .map_err(|bad| Rejection::why(Reason::BadFraming, bad.why()))?;
    let mut span = RequestSpan::new(length, end);
    // Check this before the service learns of the request: later, it would get a head without the
    // rest.
    let came = span
        .read(read)
        .map_err(|_| Rejection::why(Reason::BadFraming, "the body is not in well-formed chunks"))?;
    let judged = JudgedHead { target, framing };
    Ok(HyperHead { judged, place: begin..begin + text.len(), span, came })
}

fn syntax(head: &httparse::Request<'_, '_>, error: httparse::Error) -> Rejection {
    match error {
        httparse::Error::HeaderName => Rejection::why(
            Reason::BadHeader,
            "a field name is empty or has a character that none can have",
        ),
        httparse::Error::HeaderValue => {
            Rejection::why(Reason::BadHeader, "a field value has a control character")
        }
        httparse::Error::Version => {
            Rejection::why(Reason::BadTarget, "the request line does not end with HTTP/1.1")
        }
        _ if head.version.is_some() => {
            Rejection::why(Reason::BadHeader, "a line of the head is no field")
        }
        _ => Rejection::why(Reason::BadTarget, "the first line is no request line"),
    }
}

// === impl HyperHead ===

impl HyperHead {
    /// `read` is what was judged.
    pub(crate) fn hand_over(self, mut read: Bytes) -> ForHyper {
        let Self { judged, place, span, came: SpanBytes { used, trailers } } = self;
        let is_uri = judged.target.is_uri();
        let behind = read.split_off(used.min(read.len()));
        if is_uri && trailers.is_empty() {
            return ForHyper { bytes: read, behind, span, judged };
        }
        let part = |part: Range<usize>| read.get(part).unwrap_or_default();
        let written = if is_uri { part(place.clone()) } else { STAND_IN };
        let (body, end) = match trailers.is_empty() {
            true => (place.end..used, used..used),
            false => (place.end..trailers.start, trailers.end..used),
        };
        let bytes = [part(0..place.start), written, part(body), part(end)].concat().into();
        ForHyper { bytes, behind, span, judged }
    }
}

/// Replaces a target that hyper would refuse. Nothing is served under it.
const STAND_IN: &[u8] = b"*";

/// What the log may show of it: method and path, if they have arrived.
fn readable(head: &httparse::Request<'_, '_>) -> RequestHead {
    let method = head.method.and_then(|m| Method::from_bytes(m.as_bytes()).ok());
    let path = head.path.unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut shown = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'!' | b'$'..=b';' | b'=' | b'@'..=b'Z' | b'_' | b'a'..=b'z' | b'~' => {
                shown.push(char::from(byte));
            }
            _ => {
                let _ = write!(shown, "%{byte:02X}");
            }
        }
    }
    let target =
        Some(shown).filter(|s| s.starts_with('/')).and_then(|s| RequestTarget::parse(&s).ok());
    RequestHead {
        method: method.or_else(|| Method::from_bytes(UNREAD).ok()).unwrap_or_default(),
        // Without a path, the log shows none.
        target: target.unwrap_or_else(RequestTarget::unread),
        version: if head.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 },
        fields: Fields::default(),
        framing: Err(BadLength::Unread),
        extensions: Extensions::new(),
    }
}

/// Takes the place of the method of a head that could not be read. No method has this name, so the
/// log shows it like every other unknown method.
const UNREAD: &[u8] = b"UNREAD";
