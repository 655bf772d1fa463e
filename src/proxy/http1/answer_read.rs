//! The head of an answer as the upstream sent it: read once, and kept as those bytes.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, response};

use super::length::{AnswerTo, BodyLength, LengthFields};
use super::text_span::{LineRun, TextSpan};

/// The head of an answer: its lines, and where names and values are in them.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    pub(crate) status: StatusCode,
    bytes: Vec<u8>,
    fields: Vec<FieldLine>,
    /// The phrase after the status, where it is not the usual one.
    phrase: Option<TextSpan>,
    /// `Connection` names fields other than itself, which go no further.
    names_fields: bool,
}

/// What was found at the start of an answer.
#[derive(Debug)]
pub(crate) struct FoundHead {
    pub(crate) status: StatusCode,
    /// Bytes of the head.
    pub(crate) length: usize,
    pub(crate) body: BodyLength,
    /// The connection can serve another request after this answer.
    pub(crate) keeps_alive: bool,
    fields: Vec<FieldLine>,
    phrase: Option<TextSpan>,
    names_fields: bool,
}

/// What the request was. An answer to HEAD has no body, whatever its fields say (RFC 9110 section
/// 9.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestMethod {
    Head,
    Other,
}

/// Where one field of the head is.
#[derive(Clone, Copy, Debug)]
struct FieldLine {
    name: TextSpan,
    value: TextSpan,
    /// Only `: ` is between them, and only the end of the line follows them.
    is_tidy: bool,
}

/// A field of the head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerField<'h> {
    /// In lower case.
    pub(crate) name: &'h [u8],
    pub(crate) value: &'h [u8],
    /// Its whole line, where keygate would write it the same way.
    pub(crate) line: Option<LineRun>,
}

/// Space for the fields of a head, which the next head on the connection then need not allocate.
#[derive(Debug, Default)]
pub(crate) struct FieldRoom(Vec<FieldLine>);

/// The bytes are not an answer that can be read in exactly one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upstream's answer is not HTTP/1, or has two readings")]
pub(crate) struct BadAnswer;

/// The most fields of a head. More make a bad answer.
pub(crate) const MOST_FIELDS: usize = 256;
/// The most bytes of a head.
pub(crate) const LONGEST_HEAD: usize = 256 * 1024;
/// Number of fields that need no allocation.
const USUAL_FIELDS: usize = 32;
/// Number of fields that an upstream's answer gets on its way to the client.
const ADDED_FIELDS: usize = 4;

/// Looks for the head of an answer at the start of `read`. `None`: it is not complete yet.
///
/// # Errors
/// [`BadAnswer`]: not HTTP/1.0 or 1.1, too many fields, or a length that is stated in two ways.
pub(crate) fn find_head(
    read: &[u8],
    asked: RequestMethod,
    room: &mut FieldRoom,
) -> Result<Option<FoundHead>, BadAnswer> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; USUAL_FIELDS];
    let mut head = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut head, read, &mut fields) {
        Ok(httparse::Status::Complete(length)) => {
            describe(read, length, &head, asked, room).map(Some)
        }
        Ok(httparse::Status::Partial) if read.len() < LONGEST_HEAD => Ok(None),
        Ok(httparse::Status::Partial) => Err(BadAnswer),
        Err(httparse::Error::TooManyHeaders) => find_large_head(read, asked),
        Err(_) => Err(BadAnswer),
    }
}

fn find_large_head(read: &[u8], asked: RequestMethod) -> Result<Option<FoundHead>, BadAnswer> {
    let mut fields = vec![httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    match head.parse(read) {
        Ok(httparse::Status::Complete(length)) => {
            describe(read, length, &head, asked, &mut FieldRoom::default()).map(Some)
        }
        Ok(httparse::Status::Partial) if read.len() < LONGEST_HEAD => Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => Err(BadAnswer),
    }
}

fn describe(
    read: &[u8],
    length: usize,
    head: &httparse::Response<'_, '_>,
    asked: RequestMethod,
    room: &mut FieldRoom,
) -> Result<FoundHead, BadAnswer> {
    let part = |of: &[u8]| {
        let begin = (of.as_ptr() as usize).checked_sub(read.as_ptr() as usize)?;
        Some(TextSpan { begin: u32::try_from(begin).ok()?, length: u32::try_from(of.len()).ok()? })
    };
    let status = head.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(BadAnswer)?;
    let is_http10 = head.version == Some(0);
    // An HTTP/1.0 server may not understand the next request, which may have a chunked body.
    let mut keeps_alive = !is_http10;
    let mut names_fields = false;
    let mut lengths = LengthFields::default();
    let mut fields = std::mem::take(&mut room.0);
    fields.clear();
    fields.reserve(head.headers.len());
    for field in &*head.headers {
        let name = field.name.as_bytes();
        match name.len() {
            10 if name.eq_ignore_ascii_case(b"connection") => {
                for token in tokens(field.value) {
                    match token {
                        _ if token.eq_ignore_ascii_case(b"close") => keeps_alive = false,
                        _ if token.eq_ignore_ascii_case(b"keep-alive") || token.is_empty() => {}
                        _ => names_fields = true,
                    }
                }
            }
            14 | 17 => lengths.read(name, field.value).map_err(|_| BadAnswer)?,
            _ => {}
        }
        let (name, value) = part(name).zip(part(field.value)).ok_or(BadAnswer)?;
        let is_tidy = LineRun::tidy(read, name, value).is_some();
        fields.push(FieldLine { name, value, is_tidy });
    }
    let to = AnswerTo { is_head: asked == RequestMethod::Head, is_http10 };
    let body = lengths.of_answer(status, to).map_err(|_| BadAnswer)?;
    let phrase = head.reason.filter(|phrase| Some(*phrase) != status.canonical_reason());
    let phrase = phrase.and_then(|phrase| part(phrase.as_bytes()));
    keeps_alive &= body != BodyLength::UntilClose;
    Ok(FoundHead { status, length, body, keeps_alive, fields, phrase, names_fields })
}

/// The elements of a comma-separated list.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

// === impl FoundHead ===

impl FoundHead {
    /// Joins it with `bytes`, which begin with the head that was found.
    pub(crate) fn with(self, mut bytes: Vec<u8>) -> AnswerHead {
        bytes.truncate(self.length);
        let Self { status, fields, phrase, names_fields, .. } = self;
        for FieldLine { name, .. } in &fields {
            if let Some(name) = bytes.get_mut(name.range()) {
                name.make_ascii_lowercase();
            }
        }
        AnswerHead { status, bytes, fields, phrase, names_fields }
    }
}

// === impl AnswerHead ===

impl AnswerHead {
    pub(crate) fn fields(&self) -> impl Iterator<Item = AnswerField<'_>> {
        self.fields.iter().map(|&FieldLine { name, value, is_tidy }| AnswerField {
            name: self.part(name),
            value: self.part(value),
            line: is_tidy.then(|| LineRun::of(name, value)),
        })
    }

    /// The text of some lines.
    pub(crate) fn text(&self, run: LineRun) -> &[u8] {
        run.of_text(&self.bytes)
    }

    /// The phrase after the status, where it is not the usual one.
    pub(crate) fn phrase(&self) -> Option<&[u8]> {
        self.phrase.map(|phrase| self.part(phrase))
    }

    /// Whether `Connection` names this field: such a field is only for the upstream and us (RFC
    /// 9110 section 7.6.1).
    pub(crate) fn is_named(&self, name: &[u8]) -> bool {
        self.names_fields
            && self
                .fields()
                .filter(|field| field.name == b"connection")
                .any(|field| tokens(field.value).any(|t| t.eq_ignore_ascii_case(name)))
    }

    /// Bytes of the head.
    pub(crate) fn length(&self) -> usize {
        self.bytes.len()
    }

    /// What the next head can be read into: the bytes, and the fields unless they take an unusual
    /// amount of space.
    pub(crate) fn recycle(self) -> (Vec<u8>, Option<FieldRoom>) {
        let room = (self.fields.capacity() <= USUAL_FIELDS).then_some(FieldRoom(self.fields));
        (self.bytes, room)
    }

    /// The form for hyper, which writes it to the client.
    pub(crate) fn into_parts(self) -> response::Parts {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = self.status;
        let mut map = HeaderMap::with_capacity(self.fields.len() + ADDED_FIELDS);
        let bytes = Bytes::from(self.bytes);
        let at = |span: TextSpan| bytes.slice(span.range());
        for FieldLine { name, value, .. } in self.fields {
            let name = HeaderName::from_bytes(&at(name));
            let value = HeaderValue::from_maybe_shared(at(value));
            // A parsed head has only names and values that convert.
            if let (Ok(name), Ok(value)) = (name, value) {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "what the upstream sent; may repeat"
                )]
                map.append(name, value);
            }
        }
        parts.headers = map;
        let phrase = self.phrase.map(at);
        if let Some(Ok(phrase)) = phrase.map(|p| hyper::ext::ReasonPhrase::try_from(&*p)) {
            parts.extensions.insert(phrase);
        }
        parts
    }

    fn part(&self, span: TextSpan) -> &[u8] {
        span.of(&self.bytes)
    }
}
