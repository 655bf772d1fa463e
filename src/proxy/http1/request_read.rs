//! Reads the head of a plain request: HTTP/1.1, every part of which has one meaning, without a body
//! or with one of declared length. Anything less simple is left to hyper.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{Extensions, Method, Version};

use super::head::{Fields, RequestHead};
use super::length::{LengthFields, RequestBodyEnd};
use super::target::RequestTarget;

/// The most fields of a head that is read here.
const FIELDS: usize = 64;
/// The most bytes of a body that is read here.
const LONGEST_BODY: usize = usize::MAX / 4;

/// A request.
pub(crate) struct PlainRequest {
    pub(crate) head: RequestHead,
    /// The part of the body that has arrived.
    pub(crate) body: Bytes,
    /// Bytes of it still to come.
    pub(crate) left: u64,
    /// Its answer is the last one on the connection.
    pub(crate) closes: bool,
}

#[expect(clippy::large_enum_variant, reason = "moved once")]
pub(crate) enum Parsed {
    /// The request, and how much of it has arrived.
    Asked(PlainRequest, usize),
    Partial,
    Other,
}

/// `most`: the most bytes that a head may have.
pub(crate) fn parse(read: &[u8], most: usize) -> Parsed {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; FIELDS];
    let mut head = httparse::Request::new(&mut []);
    match head.parse_with_uninit_headers(read, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length > most => Parsed::Other,
        Ok(httparse::Status::Complete(length)) => {
            build(read, length, &head).unwrap_or(Parsed::Other)
        }
        Ok(httparse::Status::Partial) => Parsed::Partial,
        Err(_) => Parsed::Other,
    }
}

/// The request that `head` belongs to, if it leaves nothing to decide: HTTP/1.1, no transfer
/// coding, expectation or upgrade, at most one length, and in `Connection` only whether to keep it.
/// hyper has the rules for all others, and for HEAD.
fn build(read: &[u8], head_length: usize, head: &httparse::Request<'_, '_>) -> Option<Parsed> {
    let method = Method::from_bytes(head.method?.as_bytes()).ok()?;
    if head.version != Some(1) || matches!(method, Method::CONNECT | Method::HEAD) {
        return None;
    }
    let target = RequestTarget::parse(head.path?).ok()?;
    let mut lengths = LengthFields::default();
    let mut closes = false;
    let (text, behind) = read.split_at_checked(head_length)?;
    let mut fields = Fields::of_head(text, head.headers.len());
    for field in &*head.headers {
        let (name, value) = (field.name.as_bytes(), field.value);
        match name.len() {
            // The client may want trailers.
            2 if name.eq_ignore_ascii_case(b"te") => return None,
            6 if name.eq_ignore_ascii_case(b"expect") => return None,
            7 if name.eq_ignore_ascii_case(b"upgrade") => return None,
            10 if name.eq_ignore_ascii_case(b"connection") => {
                if value.eq_ignore_ascii_case(b"close") {
                    closes = true;
                } else if !value.eq_ignore_ascii_case(b"keep-alive") {
                    return None;
                }
            }
            14 => lengths.read(name, value).ok()?,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => return None,
            _ => {}
        }
        fields.note(text, name, value)?;
    }
    // No body is longer, so the bytes after it can be counted.
    let (end, framing) = lengths.of_request(Version::HTTP_11).ok()?;
    let RequestBodyEnd::Counted(declared) = end else { return None };
    let declared = usize::try_from(declared).ok().filter(|d| *d <= LONGEST_BODY)?;
    let body = behind.get(..declared).unwrap_or(behind);
    let (here, left) = (body.len(), (declared - body.len()) as u64);
    let body = Bytes::copy_from_slice(body);
    let (version, framing, extensions) = (Version::HTTP_11, Ok(framing), Extensions::new());
    let head = RequestHead { method, target, version, fields, framing, extensions };
    Some(Parsed::Asked(PlainRequest { head, body, left, closes }, head_length + here))
}
