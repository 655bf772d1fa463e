//! The head of a request while it is judged and rewritten. Its fields are one piece of text, so
//! that a head costs two allocations however many fields it has, and finding a field needs no hash.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Extensions, Method, Request, Version};
use hyper::ext::Protocol;

use super::length::{BadLength, FramedOnce};
use super::target::{BadTarget, RequestTarget};
use super::text_span::{LineRun, TextSpan};

/// A request's head, of either reader. Not `Debug`: a target and values may hold a key.
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) target: RequestTarget,
    pub(crate) version: Version,
    pub(crate) fields: Fields,
    /// What its fields say about the length of its body.
    pub(crate) framing: Result<FramedOnce, BadLength>,
    /// hyper's extensions: the spelling of names, and what an upgrade waits for.
    pub(crate) extensions: Extensions,
}

/// Fields in the order of the message. Names are lower-case tokens, and values have no byte that
/// could end a line: callers parse a field before they insert it.
#[derive(Clone, Default)]
pub(crate) struct Fields {
    text: Vec<u8>,
    list: Vec<Field>,
}

/// Bytes and fields that keygate adds to most heads: who calls, and for whom they are forwarded.
const ROOM: usize = 512;
const FIELDS_ADDED: usize = 12;

/// Where a field is in the text.
#[derive(Clone, Copy, Debug)]
struct Field {
    name: TextSpan,
    value: TextSpan,
}

/// Names the field at one position, for as long as none was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At(u32);

// === impl RequestHead ===

impl RequestHead {
    /// A head that hyper has read. `framing` describes the head as the client sent it.
    pub(crate) fn read_by_hyper(parts: Parts, framing: Result<FramedOnce, BadLength>) -> Self {
        let Parts { method, uri, version, headers, extensions, .. } = parts;
        let length = headers.iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
        let mut fields = Fields::with_capacity(length, headers.len());
        for (name, value) in &headers {
            fields.push(name.as_str().as_bytes(), value.as_bytes());
        }
        Self { method, target: uri.into(), version, fields, framing, extensions }
    }

    /// For hyper.
    ///
    /// # Errors
    /// hyper cannot send the target.
    pub(crate) fn into_parts(self) -> Result<Parts, BadTarget> {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.uri = self.target.to_uri()?;
        parts.headers = self.fields.to_map();
        (parts.method, parts.version) = (self.method, self.version);
        parts.extensions = self.extensions;
        Ok(parts)
    }
}

// === impl Fields ===

impl Fields {
    /// Space for this many bytes in this many fields.
    pub(crate) fn with_capacity(bytes: usize, fields: usize) -> Self {
        Self { text: Vec::with_capacity(bytes), list: Vec::with_capacity(fields) }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Adds a field. `name` is in lower case.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        let name = self.put(name);
        let value = self.put(value);
        self.list.push(Field { name, value });
    }

    /// For a head that was read: copies its text as it is, with space for additions.
    /// [`Fields::note`] then records the fields in it.
    pub(crate) fn of_head(head: &[u8], fields: usize) -> Self {
        let mut text = Vec::with_capacity(head.len() + ROOM);
        text.extend_from_slice(head);
        Self { text, list: Vec::with_capacity(fields + FIELDS_ADDED) }
    }

    /// Adds a field whose name, in any case, and value are parts of the head that this was made
    /// from. `None`: they are not.
    pub(crate) fn note(&mut self, head: &[u8], name: &[u8], value: &[u8]) -> Option<()> {
        let (name, value) = (TextSpan::within(head, name)?, TextSpan::within(head, value)?);
        self.text.get_mut(name.range())?.make_ascii_lowercase();
        self.list.push(Field { name, value });
        Some(())
    }

    fn put(&mut self, text: &[u8]) -> TextSpan {
        let begin = self.text.len() as u32;
        self.text.extend_from_slice(text);
        TextSpan { begin, length: text.len() as u32 }
    }

    /// Name and value of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.list.iter().map(|f| (self.part(f.name), self.part(f.value)))
    }

    /// The same with each whole line, where keygate would write it the same way.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8], Option<LineRun>)> {
        self.list.iter().map(|f| {
            (self.part(f.name), self.part(f.value), LineRun::tidy(&self.text, f.name, f.value))
        })
    }

    /// The text of some lines.
    pub(super) fn text(&self, run: LineRun) -> &[u8] {
        run.of_text(&self.text)
    }

    /// The same as [`Fields::iter`], with the place of each.
    pub(crate) fn places(&self) -> impl Iterator<Item = (At, &[u8], &[u8])> {
        self.iter().enumerate().map(|(at, (name, value))| (At(at as u32), name, value))
    }

    /// The first field of this name, which is in lower case.
    pub(crate) fn get(&self, name: impl AsRef<[u8]>) -> Option<&[u8]> {
        let name = name.as_ref();
        self.list.iter().find(|f| self.is_named(f, name)).map(|f| self.part(f.value))
    }

    /// All fields of this name, which is in lower case.
    pub(crate) fn all<'f>(
        &'f self,
        name: &(impl AsRef<[u8]> + ?Sized),
    ) -> impl DoubleEndedIterator<Item = &'f [u8]> {
        let name = name.as_ref();
        self.list.iter().filter(move |f| self.is_named(f, name)).map(|f| self.part(f.value))
    }

    pub(crate) fn has(&self, name: impl AsRef<[u8]>) -> bool {
        self.get(name).is_some()
    }

    /// Whether there is more than one field of this name.
    pub(crate) fn repeats(&self, name: impl AsRef<[u8]>) -> bool {
        let name = name.as_ref();
        self.list.iter().filter(|f| self.is_named(f, name)).nth(1).is_some()
    }

    pub(crate) fn remove(&mut self, name: impl AsRef<[u8]>) {
        let (name, text) = (name.as_ref(), &self.text);
        self.list.retain(|f| f.name.of(text) != name);
    }

    /// Removes those fields of this name whose value `goes` selects.
    pub(crate) fn remove_if(&mut self, name: impl AsRef<[u8]>, goes: impl Fn(&[u8]) -> bool) {
        let (name, text) = (name.as_ref(), &self.text);
        self.list.retain(|f| f.name.of(text) != name || !goes(f.value.of(text)));
    }

    /// Removes the fields at these places, which are in order.
    pub(crate) fn remove_at(&mut self, places: &[At]) {
        let mut places = places.iter().peekable();
        let mut at = 0;
        self.list.retain(|_| {
            let goes = places.next_if(|p| p.0 == at).is_some();
            at += 1;
            !goes
        });
    }

    /// Replaces all fields of this name.
    pub(crate) fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.remove(name);
        self.push(name.as_str().as_bytes(), value.as_bytes());
    }

    /// Bytes of all names and values, with the separators and line ends of HTTP/1.1.
    pub(crate) fn wire_length(&self) -> usize {
        self.list.iter().map(|f| f.name.length as usize + f.value.length as usize + 4).sum()
    }

    fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.list.len());
        for (name, value) in self.iter() {
            // Parsing accepts only names and values that convert.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                #[expect(clippy::disallowed_methods, reason = "as the client has sent them")]
                map.append(name, value);
            }
        }
        map
    }

    fn is_named(&self, field: &Field, name: &[u8]) -> bool {
        field.name.length as usize == name.len() && self.part(field.name) == name
    }

    fn part(&self, span: TextSpan) -> &[u8] {
        span.of(&self.text)
    }
}

/// Whether the request asks for an upgrade, allowed or not.
pub(crate) fn asks_for_upgrade(head: &RequestHead) -> bool {
    head.fields.has(header::UPGRADE) || is_extended_connect(head)
}

/// Whether this is an extended CONNECT for a WebSocket (RFC 8441) that was turned into the GET that
/// it replaces.
pub(crate) fn is_extended_connect(head: &RequestHead) -> bool {
    head.version == Version::HTTP_2
        && head.method == Method::GET
        && head.extensions.get::<Protocol>().is_some()
}

impl std::fmt::Debug for Fields {
    /// Values may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned());
        f.debug_list().entries(names).finish()
    }
}

/// A value as text, if it is visible ASCII (with spaces and tabs).
pub(crate) fn text_of(value: &[u8]) -> Option<&str> {
    let visible = value.iter().all(|b| matches!(b, b' '..=b'~' | b'\t'));
    std::str::from_utf8(value).ok().filter(|_| visible)
}
