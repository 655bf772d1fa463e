//! The head of an answer on its way to the client, as lines, and what adds fields to it, whether it
//! is lines or a map for hyper.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::answer_read::{AnswerField, AnswerHead};
use super::location::{OwnAddress, is_location};
use super::request_write::put_line;
use super::text_span::LineRun;
use crate::core::headers::{FieldClass, FieldTable};

/// Who writes the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    Hyper,
    /// keygate, which accepts ready lines.
    Plain,
}

/// A head as sent over HTTP/1.1, except for `Content-Length`, `Date` and `Connection`, which its
/// writer adds.
#[derive(Debug)]
pub(crate) struct AnswerLines {
    pub(crate) status: StatusCode,
    pub(crate) text: Vec<u8>,
    /// It has a `Date` already.
    pub(crate) is_dated: bool,
    /// The connection must end after this answer.
    pub(crate) closes: bool,
    /// Where the names of keygate's own fields are in `text`: no other field may have them.
    own: SmallVec<[(usize, usize); 6]>,
}

/// Accepts the fields that are added to an answer.
pub(crate) trait AddField {
    /// Replaces any other field of this name.
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

    /// Sets a value that HPACK does not index (RFC 7541 section 7.1.3): it would displace values
    /// that recur, and the encoder would search for it without ever finding it.
    fn set_unique(&mut self, name: &HeaderName, value: &[u8]) {
        if let Ok(mut value) = HeaderValue::from_bytes(value) {
            value.set_sensitive(true);
            self.insert(name.clone(), value);
        }
    }
}

impl AddField for AnswerLines {
    /// Called before the upstream's fields are added, which must not repeat the name.
    fn set(&mut self, name: &HeaderName, value: &[u8]) {
        let begin = self.text.len();
        self.put(name.as_str().as_bytes(), value);
        self.own.push((begin, name.as_str().len()));
    }
}

// === impl AnswerLines ===

impl AnswerLines {
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

    /// Adds a field, which may be one of several of its name. Name and value were checked when
    /// their types were made or their head was parsed, so neither can end a line.
    pub(crate) fn put(&mut self, name: &[u8], value: &[u8]) {
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(b": ");
        self.text.extend_from_slice(value);
        self.text.extend_from_slice(b"\r\n");
    }

    fn is_own(&self, name: &[u8]) -> bool {
        self.own.iter().any(|&(begin, length)| {
            length == name.len()
                && self.text.get(begin..begin + length).is_some_and(|own| own == name)
        })
    }

    /// Copies the fields that go to the client: the same ones that are left of an answer that hyper
    /// has read.
    pub(crate) fn copy_end_to_end(
        &mut self,
        head: &AnswerHead,
        fields: &FieldTable,
        own: Option<&OwnAddress>,
    ) {
        // A 304 gives the length of the answer that the client already has (RFC 9110 section 8.6).
        let keeps_length = head.status == StatusCode::NOT_MODIFIED;
        // Unchanged lines that follow one another are copied as one piece.
        let mut run = LineRun::default();
        for AnswerField { name, value, line } in head.fields() {
            match fields.classify(name) {
                FieldClass::Connection
                | FieldClass::HopByHop
                | FieldClass::Te
                | FieldClass::Upgrade => continue,
                FieldClass::Framing if name == b"transfer-encoding" => continue,
                FieldClass::Framing if !keeps_length => continue,
                _ if self.is_own(name) => continue,
                _ if head.is_named(name) && !is_end_to_end(name) => continue,
                _ => {}
            }
            self.is_dated |= name == b"date";
            let cut = own.filter(|_| is_location(name)).and_then(|own| own.cut(value));
            match line.filter(|_| cut.is_none()) {
                Some(line) if run.goes_on(line) => {}
                Some(line) => {
                    self.text.extend_from_slice(head.text(std::mem::replace(&mut run, line)));
                }
                None => {
                    self.text.extend_from_slice(head.text(std::mem::take(&mut run)));
                    self.put(name, cut.as_deref().unwrap_or(value));
                }
            }
        }
        self.text.extend_from_slice(head.text(run));
    }

    /// Whether there is a field of this name, which is in lower case.
    pub(crate) fn has(&self, name: &HeaderName) -> bool {
        let name = name.as_str().as_bytes();
        self.text
            .split(|b| *b == b'\n')
            .any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(b": ")))
    }
}

/// The fields as lines, each with its end.
pub(crate) fn field_lines(fields: &[(HeaderName, HeaderValue)]) -> Bytes {
    let mut lines = Vec::new();
    for (name, value) in fields {
        put_line(&mut lines, name.as_str().as_bytes(), value.as_bytes());
    }
    lines.into()
}

/// Fields of an answer that a `Connection` token cannot take away.
pub(crate) fn is_end_to_end(name: &[u8]) -> bool {
    [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CACHE_CONTROL,
        header::SET_COOKIE,
        header::DATE,
    ]
    .iter()
    .any(|field| name.eq_ignore_ascii_case(field.as_str().as_bytes()))
}
