//! Reads the head of a plain answer: final, HTTP/1.1, kept alive, of one declared length. The rules
//! for all others are left to hyper.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The head of a plain answer as it was read.
#[derive(Debug)]
pub(crate) struct RawHead {
    pub(crate) status: StatusCode,
    bytes: Vec<u8>,
    /// Where names and values are in `bytes`.
    fields: Vec<(Part, Part)>,
}

/// Where it begins, and how long it is.
pub(crate) type Part = (u16, u16);

/// Fields of a head that is read here.
const FIELDS: usize = 32;

/// What was found at the start of what has come.
pub(crate) enum Parsed {
    Plain {
        status: StatusCode,
        head_length: usize,
        /// Bytes of the body that are to come.
        left: usize,
        fields: Vec<(Part, Part)>,
    },
    /// The head is not complete.
    Partial,
    Other,
}

/// Reads the head of a plain response: final, HTTP/1.1, kept alive, of one declared length (or 204,
/// which has none) with nothing behind it. The rules for all others (RFC 9112 section 6.3) are hyper's.
pub(crate) fn parse(come: &[u8]) -> Parsed {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; FIELDS];
    let mut head = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut head,
        come,
        &mut fields,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Other,
    };
    build(come, length, &head).unwrap_or(Parsed::Other)
}

fn build(come: &[u8], head_length: usize, head: &httparse::Response<'_, '_>) -> Option<Parsed> {
    let status = StatusCode::from_u16(head.code?).ok()?;
    let has_own_rules = matches!(status, StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    if head.version != Some(1)
        || status.is_informational()
        || has_own_rules
        // hyper hands an unusual phrase on to the client.
        || head.reason != status.canonical_reason()
    {
        return None;
    }
    let mut declared = None;
    let mut fields = Vec::with_capacity(head.headers.len());
    let part = |of: &[u8]| {
        let begin = (of.as_ptr() as usize).checked_sub(come.as_ptr() as usize)?;
        Some((u16::try_from(begin).ok()?, u16::try_from(of.len()).ok()?))
    };
    for field in &*head.headers {
        let name = field.name.as_bytes();
        match name.len() {
            10 if name.eq_ignore_ascii_case(b"connection")
                && !field.value.eq_ignore_ascii_case(b"keep-alive") =>
            {
                return None;
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let digits = Some(field.value).filter(|v| v.iter().all(u8::is_ascii_digit))?;
                let length = std::str::from_utf8(digits).ok()?.parse::<usize>().ok()?;
                if declared.replace(length).is_some() {
                    return None;
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => return None,
            7 if name.eq_ignore_ascii_case(b"upgrade") => return None,
            _ => {}
        }
        fields.push((part(name)?, part(field.value)?));
    }
    let here = come.len().checked_sub(head_length)?;
    let left = match status {
        StatusCode::NO_CONTENT if declared.is_some() => return None,
        StatusCode::NO_CONTENT => 0usize.checked_sub(here)?,
        _ => declared?.checked_sub(here)?,
    };
    Some(Parsed::Plain { status, head_length, left, fields })
}

// === impl RawHead ===

impl RawHead {
    /// Of `bytes`, in which [`parse`] has found `status` and `fields`.
    pub(crate) fn new(status: StatusCode, bytes: Vec<u8>, fields: Vec<(Part, Part)>) -> Self {
        Self { status, bytes, fields }
    }

    /// Names, in any case, and values.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let at = |(begin, length): Part| {
            let begin = usize::from(begin);
            self.bytes.get(begin..begin + usize::from(length)).unwrap_or_default()
        };
        self.fields.iter().map(move |(name, value)| (at(*name), at(*value)))
    }

    pub(crate) fn length(&self) -> usize {
        self.bytes.len()
    }

    #[cfg(test)]
    pub(crate) fn read(head: &str) -> Option<Self> {
        match parse(head.as_bytes()) {
            Parsed::Plain { status, fields, .. } => {
                Some(Self { status, bytes: head.as_bytes().to_vec(), fields })
            }
            Parsed::Partial | Parsed::Other => None,
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// For hyper.
    pub(crate) fn into_map(self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.fields.len() + ADDED_FIELDS);
        let bytes = Bytes::from(self.bytes);
        let at = |(begin, length): Part| {
            let begin = usize::from(begin);
            bytes.slice(begin..begin + usize::from(length))
        };
        for (name, value) in self.fields {
            let name = HeaderName::from_bytes(&at(name));
            let value = HeaderValue::from_maybe_shared(at(value));
            // A head that was parsed has nothing else.
            if let (Ok(name), Ok(value)) = (name, value) {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "what the upstream sent; may repeat"
                )]
                map.append(name, value);
            }
        }
        map
    }
}

/// Fields that an answer of the upstream gets on its way to the client.
const ADDED_FIELDS: usize = 4;
