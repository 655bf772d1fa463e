//! How long the body of a message is (RFC 9112 section 6). This is the only reader of
//! `Content-Length` and `Transfer-Encoding`.

#[cfg(test)]
mod tests;

use http::header::HeaderMap;
use http::{StatusCode, Version};

/// How to find the end of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// There is no body.
    None,
    /// The body has this many bytes.
    Counted(u64),
    /// Each chunk says how long it is.
    Chunked,
    /// The body ends with the connection.
    UntilClose,
}

/// How to find the end of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestBodyEnd {
    /// The last chunk marks it.
    Chunked,
    /// The body has this many bytes: 0 without a body.
    Counted(u64),
}

/// What the fields of one head say about the length of its body.
#[derive(Debug, Default)]
pub(crate) struct LengthFields {
    counted: Option<u64>,
    is_chunked: bool,
}

/// Proof that the fields of a request's head allow only one reading of where its body ends. Only
/// [`LengthFields::of_request`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FramedOnce(());

/// The head can be read in two ways, or in one that is not reliable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.why())]
pub(crate) enum BadLength {
    NoNumber,
    Repeated,
    OtherCoding,
    CodingOutsideHttp11,
    Both,
    /// The head could not be read.
    Unread,
}

/// The value of a `Content-Length` field: digits alone, at most 2^63 - 1.
///
/// A sign, a list or a larger number is `None`: other readers overflow (HAProxy took 2^64 for 0) or
/// take the first element of the list.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let length = value.iter().try_fold(0_u64, |length, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        length.checked_mul(10)?.checked_add(digit.into())
    })?;
    (length <= i64::MAX as u64).then_some(length)
}

// === impl LengthFields ===

impl LengthFields {
    /// Looks at one field of the head.
    ///
    /// # Errors
    /// A second `Content-Length`, even an equal one, a value that is not a number, or a transfer
    /// coding other than a single `chunked`.
    #[inline]
    pub(crate) fn read(&mut self, name: &[u8], value: &[u8]) -> Result<(), BadLength> {
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = content_length(value).ok_or(BadLength::NoNumber)?;
                if self.counted.replace(length).is_some() {
                    return Err(BadLength::Repeated);
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadLength::OtherCoding);
                }
                self.is_chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// The length fields of a head that hyper has read.
    ///
    /// # Errors
    /// As [`LengthFields::read`].
    pub(crate) fn of_map(map: &HeaderMap) -> Result<Self, BadLength> {
        let mut lengths = Self::default();
        for (name, value) in map {
            lengths.read(name.as_str().as_bytes(), value.as_bytes())?;
        }
        Ok(lengths)
    }

    /// Where a request's body ends. Over HTTP/1, the reader of the body must not have chosen
    /// already: hyper merges equal lengths and drops a length next to `chunked` (RFC 9112 section
    /// 6.3 allows both), and code after it would not learn that there was a second reading. Over
    /// HTTP/2 the frames show where the body ends, and h2 checks a length against them.
    ///
    /// # Errors
    /// Both fields are there, or a request outside HTTP/1.1 is chunked.
    pub(crate) fn of_request(
        self,
        version: Version,
    ) -> Result<(RequestBodyEnd, FramedOnce), BadLength> {
        let end = match (self.is_chunked, self.counted) {
            (true, _) if version != Version::HTTP_11 => return Err(BadLength::CodingOutsideHttp11),
            (true, Some(_)) => return Err(BadLength::Both),
            (true, None) => RequestBodyEnd::Chunked,
            (false, length) => RequestBodyEnd::Counted(length.unwrap_or(0)),
        };
        Ok((end, FramedOnce(())))
    }

    /// The length of an answer's body (RFC 9112 section 6.3).
    ///
    /// # Errors
    /// Both fields are there, or an answer of HTTP/1.0 is chunked.
    pub(crate) fn of_answer(
        self,
        status: StatusCode,
        to: AnswerTo,
    ) -> Result<BodyLength, BadLength> {
        if self.is_chunked && self.counted.is_some() {
            return Err(BadLength::Both);
        }
        if self.is_chunked && to.is_http10 {
            return Err(BadLength::CodingOutsideHttp11);
        }
        let has_no_body = to.is_head
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        Ok(match self.counted {
            _ if has_no_body => BodyLength::None,
            Some(length) => BodyLength::Counted(length),
            None if self.is_chunked => BodyLength::Chunked,
            None => BodyLength::UntilClose,
        })
    }
}

// === impl BadLength ===

impl BadLength {
    /// An explanation for the client that sent it.
    pub(crate) const fn why(self) -> &'static str {
        match self {
            Self::NoNumber => "Content-Length is not a number below 2^63",
            Self::Repeated => "more than one Content-Length",
            Self::OtherCoding => "Transfer-Encoding is not `chunked` alone",
            Self::CodingOutsideHttp11 => "Transfer-Encoding outside HTTP/1.1",
            Self::Both => "Content-Length beside Transfer-Encoding",
            Self::Unread => "the fields of the head were not read",
        }
    }
}

/// What else determines an answer's body.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AnswerTo {
    /// The request was HEAD.
    pub(crate) is_head: bool,
    /// The answer says HTTP/1.0.
    pub(crate) is_http10: bool,
}
