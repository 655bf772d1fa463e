//! The head on its way to the upstream, and the [answer]'s head on its way back.
//!
//! Order (DESIGN invariant 4): hop-by-hop and what `Connection` names out first, owned fields out
//! second, identity in last, by insert.

pub(crate) mod answer;

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Uri, Version};
use smallvec::SmallVec;

use super::credentials::{self, Carried};
use super::facts::Outgoing;
use crate::config::Settings;
use crate::core::identity::{anonymous_field, identity_fields};
use crate::core::{Admitted, Observed, Passed};
use crate::proxy::body::{RequestBody, Upload};
use crate::proxy::http1::head::{Fields, Head};
pub(crate) use crate::proxy::ids::{Ids, Trace, trace_id};
use crate::proxy::net::io::ClientAddr;

/// A request that may be sent. Its one constructor takes a verdict: forgetting to authenticate
/// does not compile.
pub(crate) struct UpstreamRequest {
    idempotent: bool,
    shape: Shape,
}

/// The shape that its connection needs.
enum Shape {
    /// Without a body, or with one of known length, and asking for nothing but a response: head
    /// and body as they go over an HTTP/1.1 connection, but for what the client still sends.
    Bytes { bytes: Vec<u8>, body: BodyBehind },
    /// hyper writes it. `None`: one with a body has gone, and did not come back.
    Http(Option<Box<Request<RequestBody>>>),
}

/// The body of a request in [bytes](Shape::Bytes).
enum BodyBehind {
    None,
    /// With the head.
    Here,
    /// Of known length; the client still sends it.
    Coming(Upload),
    /// It has gone, and does not come back.
    Gone,
    /// It has gone, but for this.
    Rest(Option<Upload>),
}

/// The fields of ours, in the shape of their request.
enum Added {
    Fields(Vec<(HeaderName, HeaderValue)>),
    /// Lines of a head.
    Lines(Vec<u8>),
}

/// The verdicts that let a request through.
#[derive(Debug)]
pub(crate) enum Forward<'k> {
    Admitted(Admitted<'k>),
    Observed(Observed<'k>),
    Passed(#[expect(dead_code, reason = "the proof itself")] Passed<'k>),
}

/// What the rewrite needs to know beside the head.
pub(crate) struct Around<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) client: &'a ClientAddr,
    /// The scheme that the client used.
    pub(crate) https: bool,
    pub(crate) request_id: &'a HeaderValue,
    /// In place of the client's `traceparent` and `tracestate`.
    pub(crate) trace: Option<Trace>,
    /// `Host` to send instead of the client's.
    pub(crate) host: Option<&'a HeaderValue>,
    /// `Host` to send when the client has named none (HTTP/1.0).
    pub(crate) authority: &'a HeaderValue,
    /// The upstream speaks HTTP/2.
    pub(crate) http2: bool,
    /// The upstream is reached over TLS.
    pub(crate) upstream_https: bool,
    /// The upstream needs field names as the client wrote them.
    pub(crate) preserve_case: bool,
    /// `Upgrade` to pass on, allowed by the route.
    pub(crate) upgrade: Option<super::upgrade::Asked>,
    /// Subject of the verified client certificate.
    pub(crate) subject: Option<&'a HeaderValue>,
}

opaque!(UpstreamRequest);

// === impl UpstreamRequest ===

impl UpstreamRequest {
    /// The only way to make one.
    pub(crate) fn new(
        forward: Forward<'_>,
        mut head: Head,
        body: RequestBody,
        outgoing: Outgoing,
        carried: Carried,
        mut around: Around<'_>,
    ) -> Self {
        let Around { settings, .. } = around;
        let had_length = head.fields.has(header::CONTENT_LENGTH);
        // The spellings are in an extension of hyper's that takes no changes: with a field of ours
        // among them, all are given up, so that ours are in lower case whoever wrote them first.
        if !around.preserve_case || outgoing.claims_identity {
            head.extensions.clear();
        } else {
            head.extensions.remove::<hyper::upgrade::OnUpgrade>();
            head.extensions.remove::<hyper::ext::Protocol>();
        }
        head.fields.remove_at(&outgoing.remove);
        for name in &outgoing.remove_named {
            head.fields.remove(name);
        }
        let admitted = matches!(forward, Forward::Admitted(_));
        credentials::strip(&mut head, &settings.sources, &carried, admitted);
        let named = set_target(&mut head, &around);
        if around.trace.is_some() {
            head.fields.remove(TRACEPARENT);
            // It belongs to the trace that is not gone on with (W3C Trace Context section 4.3).
            head.fields.remove(TRACESTATE);
        }
        let idempotent = head.method.is_idempotent();
        let coming = match &body {
            RequestBody::Stream(upload) => upload.length(),
            RequestBody::Empty | RequestBody::Whole(_) => None,
        };
        let is_plain = (!matches!(body, RequestBody::Stream(_)) || coming.is_some())
            && around.upgrade.is_none()
            && !around.http2
            && !around.preserve_case
            && head.method != Method::HEAD;
        let mut added = match is_plain {
            true => Added::Lines(write_head(&head, body.here().len())),
            false => Added::Fields(Vec::with_capacity(ADDED_FIELDS)),
        };
        match &body {
            // hyper writes the length of a body; of an empty one only for methods that expect none.
            RequestBody::Empty if had_length => added.put(&header::CONTENT_LENGTH, b"0"),
            RequestBody::Whole(bytes) if is_plain => added
                .put(&header::CONTENT_LENGTH, itoa::Buffer::new().format(bytes.len()).as_bytes()),
            // Unless told so, hyper takes a body of unknown length for none where the method is GET
            // or HEAD.
            RequestBody::Stream(_) if coming.is_none() && !around.http2 => {
                added.put(&header::TRANSFER_ENCODING, b"chunked");
            }
            RequestBody::Empty | RequestBody::Stream(_) | RequestBody::Whole(_) => {}
        }
        if let Some(length) = coming.filter(|_| is_plain) {
            added.put(&header::CONTENT_LENGTH, itoa::Buffer::new().format(length).as_bytes());
        }
        if let Some(asked) = around.upgrade.take() {
            added.put(&header::CONNECTION, b"upgrade");
            if let Some(key) = asked.key {
                // RFC 8441 section 5: HTTP/2 has no use for these, HTTP/1.1 needs them.
                head.fields.remove(header::SEC_WEBSOCKET_KEY);
                added.put(&header::SEC_WEBSOCKET_KEY, key.as_bytes());
                if !head.fields.has(header::SEC_WEBSOCKET_VERSION) {
                    added.put(&header::SEC_WEBSOCKET_VERSION, b"13");
                }
            }
            added.put(&header::UPGRADE, asked.protocol.as_bytes());
            if let Some(Some(rest)) = &outgoing.subprotocols {
                added.put(&header::SEC_WEBSOCKET_PROTOCOL, rest.as_bytes());
            }
        }
        if outgoing.te_trailers && around.http2 {
            added.put(&header::TE, b"trailers");
        }
        let named = match &named {
            Named::AsSent => head.fields.get(header::HOST),
            Named::Other(named) => named.as_ref().map(HeaderValue::as_bytes),
        };
        forwarding(&mut added, outgoing, named, &around);
        added.put(&settings.identity.request_id, around.request_id.as_bytes());
        if let Some(trace) = &around.trace {
            added.put(&TRACEPARENT, &trace.0);
        }
        if let (Some(name), Some(subject)) = (&settings.identity.client_subject, around.subject) {
            added.put(name, subject.as_bytes());
        }
        let mut put = |name: &HeaderName, value: &str| added.put_told(name, value);
        match &forward {
            Forward::Admitted(admitted) => {
                identity_fields(&settings.identity, admitted.key(), put);
            }
            Forward::Observed(_) | Forward::Passed(_) => {
                if let Some((name, value)) = anonymous_field(&settings.identity) {
                    put(name, value);
                }
            }
        }
        let shape = match added {
            Added::Lines(mut bytes) => {
                bytes.extend_from_slice(b"\r\n");
                bytes.extend_from_slice(body.here());
                let body = match body {
                    RequestBody::Stream(upload) => BodyBehind::Coming(upload),
                    RequestBody::Whole(_) => BodyBehind::Here,
                    RequestBody::Empty => BodyBehind::None,
                };
                Shape::Bytes { bytes, body }
            }
            Added::Fields(fields) => {
                let mut parts = head.into_parts();
                parts.headers.reserve(fields.len());
                for (name, value) in fields {
                    parts.headers.insert(name, value);
                }
                Shape::Http(Some(Box::new(Request::from_parts(parts, body))))
            }
        };
        Self { idempotent, shape }
    }

    /// Whether doing it twice is doing it once (RFC 9110 §9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// Whether it can be made again, for another try: it has no body.
    pub(crate) fn is_repeatable(&self) -> bool {
        match &self.shape {
            Shape::Bytes { body, .. } => matches!(body, BodyBehind::None),
            Shape::Http(request) => {
                request.as_ref().is_some_and(|r| matches!(r.body(), RequestBody::Empty))
            }
        }
    }

    /// Whether it may be a short exchange.
    pub(crate) fn is_short(&self) -> bool {
        matches!(&self.shape, Shape::Bytes { body, .. } if !matches!(body, BodyBehind::Gone))
    }

    /// For a short exchange, if it may be one: what of it is here, and what follows that.
    pub(crate) fn begin(&mut self) -> Option<(&[u8], Option<Upload>)> {
        let Shape::Bytes { bytes, body } = &mut self.shape else { return None };
        match body {
            BodyBehind::None | BodyBehind::Here => Some((bytes, None)),
            BodyBehind::Coming(_) => match std::mem::replace(body, BodyBehind::Gone) {
                BodyBehind::Coming(upload) => Some((bytes, Some(upload))),
                _ => None,
            },
            // Without its body the head would take the next request for it.
            BodyBehind::Gone | BodyBehind::Rest(_) => None,
        }
    }

    /// It was sent, but for `rest`.
    pub(crate) fn rest_of_body(&mut self, rest: Option<Upload>) {
        if let Shape::Bytes { body, .. } = &mut self.shape
            && matches!(body, BodyBehind::Gone)
        {
            *body = BodyBehind::Rest(rest);
        }
    }

    /// None of it was sent.
    pub(crate) fn put_back_body(&mut self, upload: Upload) {
        if let Shape::Bytes { body: body @ BodyBehind::Gone, .. } = &mut self.shape {
            *body = BodyBehind::Coming(upload);
        }
    }

    /// For hyper. `None`: it has gone, and did not come back.
    pub(crate) fn take_http(&mut self) -> Option<Request<RequestBody>> {
        match &mut self.shape {
            Shape::Bytes { bytes, body } => {
                let mut request = read_head(bytes)?;
                match std::mem::replace(body, BodyBehind::Gone) {
                    kept @ (BodyBehind::None | BodyBehind::Here) => *body = kept,
                    BodyBehind::Coming(upload) => *request.body_mut() = RequestBody::Stream(upload),
                    BodyBehind::Rest(rest) => {
                        // Of the rest hyper knows the length itself.
                        request.headers_mut().remove(header::CONTENT_LENGTH);
                        if let Some(rest) = rest {
                            *request.body_mut() = RequestBody::Stream(rest);
                        }
                    }
                    BodyBehind::Gone => return None,
                }
                Some(request)
            }
            Shape::Http(slot) => {
                let request = *slot.take()?;
                if let RequestBody::Empty = request.body() {
                    let (parts, body) = request.into_parts();
                    let copy = Request::from_parts(parts.clone(), RequestBody::Empty);
                    *slot = Some(Box::new(copy));
                    return Some(Request::from_parts(parts, body));
                }
                Some(request)
            }
        }
    }

    /// hyper has not begun to send it.
    pub(crate) fn put_back(&mut self, unsent: Request<RequestBody>) {
        match &mut self.shape {
            Shape::Http(request) => *request = Some(Box::new(unsent)),
            Shape::Bytes { .. } => {
                if let RequestBody::Stream(upload) = unsent.into_body() {
                    self.put_back_body(upload);
                }
            }
        }
    }
}

/// The client's part of a head as it goes over an HTTP/1.1 connection, with room for what comes behind
/// it. Every part was checked when its type was made, so none can end a line.
fn write_head(head: &Head, body_length: usize) -> Vec<u8> {
    // Not as one string: of an empty path only this says that it is `/`.
    let (path, query) = (head.uri.path(), head.uri.query());
    let method = head.method.as_str();
    let target = path.len() + 1 + query.map_or(0, str::len);
    let room = method.len() + target + head.fields.wire_length() + 16 + ADDED_BYTES + body_length;
    let mut out = Vec::with_capacity(room);
    let mark = if query.is_some() { "?" } else { "" };
    for part in [method, " ", path, mark, query.unwrap_or_default(), " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in head.fields.iter() {
        put_line(&mut out, name, value);
    }
    out
}

fn put_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The way back from [`write_head`], for the rare connection that only hyper can read.
fn read_head(bytes: &[u8]) -> Option<Request<RequestBody>> {
    let most = bytes.iter().filter(|b| **b == b'\n').count();
    let mut fields = vec![httparse::EMPTY_HEADER; most];
    let mut head = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes).ok()? else { return None };
    let body = match bytes.get(length..)? {
        [] => RequestBody::Empty,
        body => RequestBody::Whole(Bytes::copy_from_slice(body)),
    };
    let mut request = Request::new(body);
    *request.method_mut() = Method::from_bytes(head.method?.as_bytes()).ok()?;
    *request.uri_mut() = Uri::try_from(head.path?).ok()?;
    for field in &*head.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(field.value).ok()?;
        #[expect(clippy::disallowed_methods, reason = "a client's field may repeat; ours do not")]
        request.headers_mut().append(name, value);
    }
    Some(request)
}

// === impl Added ===

impl Added {
    /// A field with a value that is one: ours, or of a type that has checked it.
    fn put(&mut self, name: &HeaderName, value: &[u8]) {
        match self {
            Self::Fields(fields) => {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    fields.push((name.clone(), value));
                }
            }
            Self::Lines(lines) => put_line(lines, name.as_str().as_bytes(), value),
        }
    }

    /// A field with a value out of the table. It was checked there; one that could end a line is left
    /// out all the same.
    fn put_told(&mut self, name: &HeaderName, value: &str) {
        let is_control = |b: u8| (b < b' ' && b != b'\t') | (b == 0x7f);
        // Not `any`: without an early end it is done on many bytes at once.
        if !value.bytes().fold(false, |any, b| any | is_control(b)) {
            self.put(name, value.as_bytes());
        }
    }
}

/// Fields that a rewrite adds, usually at most.
const ADDED_FIELDS: usize = 12;
/// And their lines.
const ADDED_BYTES: usize = 512;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The host that the client has named.
enum Named {
    /// What `Host` still says.
    AsSent,
    Other(Option<HeaderValue>),
}

/// Target, version and Host as the upstream's protocol wants them. The path stays as it was judged.
fn set_target(head: &mut Head, around: &Around<'_>) -> Named {
    let of_target = head.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    let absolute = of_target.is_some();
    if !around.http2 && !absolute && around.host.is_none() && head.fields.has(header::HOST) {
        join_cookies(&mut head.fields);
        head.version = Version::HTTP_11;
        return Named::AsSent;
    }
    let named = head.fields.get(header::HOST).and_then(|v| HeaderValue::from_bytes(v).ok());
    let named = named.or(of_target);
    let host = around.host.or(named.as_ref()).unwrap_or(around.authority);
    if around.http2 {
        // `:authority` carries what Host says; the two must not both travel.
        head.fields.remove(header::HOST);
        let mut uri = std::mem::take(&mut head.uri).into_parts();
        uri.scheme = Some(match around.upstream_https {
            true => http::uri::Scheme::HTTPS,
            false => http::uri::Scheme::HTTP,
        });
        uri.authority = http::uri::Authority::try_from(host.as_bytes())
            .ok()
            .or_else(|| Some(http::uri::Authority::from_static("upstream")));
        head.uri = Uri::from_parts(uri).unwrap_or_default();
        head.version = Version::HTTP_2;
        return Named::Other(named);
    }
    head.fields.set(&header::HOST, host);
    if absolute {
        let mut uri = std::mem::take(&mut head.uri).into_parts();
        uri.scheme = None;
        uri.authority = None;
        // `http://a#b` was judged as `/`, and without its scheme would be sent as nothing at all
        // (found by fuzzing). The default is `/`.
        let uri = Uri::from_parts(uri).ok().filter(|uri| !uri.path().is_empty());
        head.uri = uri.unwrap_or_default();
    }
    // RFC 9113 §8.2.3: cookies that HTTP/2 split are one field again.
    join_cookies(&mut head.fields);
    head.version = Version::HTTP_11;
    Named::Other(named)
}

fn join_cookies(fields: &mut Fields) {
    if !fields.repeats(header::COOKIE) {
        return;
    }
    let all: Vec<_> = fields.all(&header::COOKIE).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        fields.set(&header::COOKIE, &joined);
    }
}

/// What we say of the client, in place of what strangers said. A trusted proxy's list goes on.
fn forwarding(added: &mut Added, outgoing: Outgoing, named: Option<&[u8]>, around: &Around<'_>) {
    let Around { client, https, .. } = *around;
    let mut list = SmallVec::<[u8; 64]>::new();
    for before in &outgoing.forwarded_for {
        list.extend_from_slice(before.as_bytes());
        list.extend_from_slice(b", ");
    }
    put_address(&mut list, client.ip());
    added.put(&X_FORWARDED_FOR, &list);
    match &outgoing.forwarded_proto {
        Some(proto) => added.put(&X_FORWARDED_PROTO, proto.as_bytes()),
        None => added.put(&X_FORWARDED_PROTO, if https { b"https" } else { b"http" }),
    }
    let forwarded = outgoing.forwarded_host.as_ref().map(HeaderValue::as_bytes);
    if let Some(host) = forwarded.or(named) {
        added.put(&X_FORWARDED_HOST, host);
    }
}

fn put_address(out: &mut SmallVec<[u8; 64]>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            let mut decimal = itoa::Buffer::new();
            for (at, octet) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(decimal.format(octet).as_bytes());
            }
        }
        IpAddr::V6(v6) => out.extend_from_slice(v6.to_string().as_bytes()),
    }
}
