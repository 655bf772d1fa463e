//! The head on its way to the upstream, and the response's head on its way back.
//!
//! Order (DESIGN invariant 4): hop-by-hop and what `Connection` names out first, owned fields out
//! second, identity in last, by insert.

use std::cell::Cell;
use std::net::IpAddr;

use bytes::{BufMut, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri, Version};

use super::body::RequestBody;
use super::credentials::{self, Carried};
use super::facts::Outgoing;
use super::io::ClientAddr;
use crate::config::Settings;
use crate::core::headers::Field;
use crate::core::identity::{anonymous_field, identity_fields};
use crate::core::{Admitted, Observed, Passed};

/// A request that may be sent. Its one constructor takes a verdict: forgetting to authenticate
/// does not compile.
#[derive(Debug)]
pub(crate) struct UpstreamRequest {
    /// Of the client, without what does not travel on. Has none of the names in `added`.
    parts: Parts,
    /// Ours. Apart, so that a head that goes out as bytes needs no second place in a map.
    added: Vec<(HeaderName, HeaderValue)>,
    body: RequestBody,
    /// Written field by field as it stands here; else what hyper knows of it is needed.
    is_plain: bool,
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
    /// `traceparent`, if the client has sent none that is well-formed.
    pub(crate) trace: Option<HeaderValue>,
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

// === impl UpstreamRequest ===

impl UpstreamRequest {
    /// The only way to make one.
    pub(crate) fn new(
        forward: Forward<'_>,
        mut parts: Parts,
        body: RequestBody,
        outgoing: Outgoing,
        carried: Carried,
        mut around: Around<'_>,
    ) -> Box<Self> {
        let Around { settings, .. } = around;
        let mut added = Vec::with_capacity(ADDED_FIELDS);
        let had_length = parts.headers.contains_key(header::CONTENT_LENGTH);
        // The spellings are in an extension of hyper's that takes no changes: with a field of ours
        // among them, all are given up, so that ours are in lower case whoever wrote them first.
        let fields = &settings.fields;
        if !around.preserve_case
            || outgoing
                .remove
                .iter()
                .any(|n| fields.classify(n.as_str().as_bytes()) == Field::Identity)
        {
            parts.extensions.clear();
        } else {
            parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
            parts.extensions.remove::<hyper::ext::Protocol>();
        }
        for name in &outgoing.remove {
            parts.headers.remove(name);
        }
        let admitted = matches!(forward, Forward::Admitted(_));
        credentials::strip(&mut parts, &settings.sources, &carried, admitted);
        let named = set_target(&mut parts, &mut added, &around);
        let is_plain = matches!(body, RequestBody::Empty)
            && around.upgrade.is_none()
            && !around.http2
            && !around.preserve_case
            && parts.method != Method::HEAD;
        // hyper writes the length of a body; of an empty one only for methods that expect none.
        if had_length && matches!(body, RequestBody::Empty) {
            added.push((header::CONTENT_LENGTH, HeaderValue::from_static("0")));
        }
        if let Some(asked) = around.upgrade.take() {
            added.push((header::CONNECTION, HeaderValue::from_static("upgrade")));
            if let Some(key) = asked.key {
                // RFC 8441 section 5: HTTP/2 has no use for these, HTTP/1.1 needs them.
                parts.headers.remove(header::SEC_WEBSOCKET_KEY);
                added.push((header::SEC_WEBSOCKET_KEY, key));
                if !parts.headers.contains_key(header::SEC_WEBSOCKET_VERSION) {
                    let version = HeaderValue::from_static("13");
                    added.push((header::SEC_WEBSOCKET_VERSION, version));
                }
            }
            added.push((header::UPGRADE, asked.protocol));
            if let Some(Some(rest)) = &outgoing.subprotocols {
                added.push((header::SEC_WEBSOCKET_PROTOCOL, rest.clone()));
            }
        }
        if outgoing.te_trailers && around.http2 {
            added.push((header::TE, HeaderValue::from_static("trailers")));
        }
        forwarding(&mut added, outgoing, named, &around);
        added.push((settings.identity.request_id.clone(), around.request_id.clone()));
        if let Some(trace) = around.trace {
            parts.headers.remove(TRACEPARENT);
            added.push((TRACEPARENT, trace));
        }
        if let (Some(name), Some(subject)) = (&settings.identity.client_subject, around.subject) {
            added.push((name.clone(), subject.clone()));
        }
        match &forward {
            Forward::Admitted(admitted) => {
                added.extend(identity_fields(&settings.identity, admitted.key()));
            }
            Forward::Observed(_) | Forward::Passed(_) => {
                added.extend(anonymous_field(&settings.identity));
            }
        }
        // It changes hands several times on its way.
        Box::new(Self { parts, added, body, is_plain })
    }

    /// Whether doing it twice is doing it once (RFC 9110 §9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        self.parts.method.is_idempotent()
    }

    /// Whether it can be made again, for another try: it has no body.
    pub(crate) fn is_repeatable(&self) -> bool {
        matches!(self.body, RequestBody::Empty)
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// The whole request as it goes over an HTTP/1.1 connection, if it is one without body that
    /// asks for nothing but a response. Every part of it was checked when its type was made, so
    /// none can end a line.
    pub(crate) fn to_bytes(&self) -> Option<Vec<u8>> {
        if !self.is_plain {
            return None;
        }
        // Not as one string: of an empty path only this says that it is `/`.
        let (path, query) = (self.parts.uri.path(), self.parts.uri.query());
        let fields = || self.parts.headers.iter().chain(self.added.iter().map(|(n, v)| (n, v)));
        let lengths: usize = fields().map(|(n, v)| n.as_str().len() + v.len() + 4).sum();
        let method = self.parts.method.as_str();
        let target = path.len() + 1 + query.map_or(0, str::len);
        let mut head = Vec::with_capacity(method.len() + target + lengths + 16);
        let mark = if query.is_some() { "?" } else { "" };
        for part in [method, " ", path, mark, query.unwrap_or_default(), " HTTP/1.1\r\n"] {
            head.extend_from_slice(part.as_bytes());
        }
        for (name, value) in fields() {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        Some(head)
    }

    /// The request for hyper.
    pub(crate) fn into_http(self) -> Request<RequestBody> {
        let Self { mut parts, added, body, .. } = self;
        parts.headers.reserve(added.len());
        for (name, value) in added {
            parts.headers.insert(name, value);
        }
        Request::from_parts(parts, body)
    }

    /// A copy for hyper of a request that [is repeatable](Self::is_repeatable).
    pub(crate) fn to_http(&self) -> Request<RequestBody> {
        let copy = Self {
            parts: self.parts.clone(),
            added: self.added.clone(),
            body: RequestBody::Empty,
            is_plain: self.is_plain,
        };
        copy.into_http()
    }
}

/// Fields that a rewrite adds, usually at most.
const ADDED_FIELDS: usize = 12;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Target, version and Host as the upstream's protocol wants them. The path stays as it was judged.
/// Returns the host that the client has named.
fn set_target(
    parts: &mut Parts,
    added: &mut Vec<(HeaderName, HeaderValue)>,
    around: &Around<'_>,
) -> Option<HeaderValue> {
    let of_target = parts.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    let absolute = of_target.is_some();
    let named = parts.headers.get(header::HOST).cloned().or(of_target);
    let host = around.host.or(named.as_ref()).unwrap_or(around.authority);
    if around.http2 {
        // `:authority` carries what Host says; the two must not both travel.
        parts.headers.remove(header::HOST);
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.scheme = Some(match around.upstream_https {
            true => http::uri::Scheme::HTTPS,
            false => http::uri::Scheme::HTTP,
        });
        uri.authority = http::uri::Authority::try_from(host.as_bytes())
            .ok()
            .or_else(|| Some(http::uri::Authority::from_static("upstream")));
        parts.uri = Uri::from_parts(uri).unwrap_or_default();
        parts.version = Version::HTTP_2;
        return named;
    }
    if parts.headers.get(header::HOST) != Some(host) {
        added.push((header::HOST, host.clone()));
        parts.headers.remove(header::HOST);
    }
    if absolute {
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.scheme = None;
        uri.authority = None;
        // `http://a#b` was judged as `/`, and without its scheme would be sent as nothing at all
        // (found by fuzzing). The default is `/`.
        let uri = Uri::from_parts(uri).ok().filter(|uri| !uri.path().is_empty());
        parts.uri = uri.unwrap_or_default();
    }
    // RFC 9113 §8.2.3: cookies that HTTP/2 split are one field again.
    join_cookies(&mut parts.headers);
    parts.version = Version::HTTP_11;
    named
}

fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// What we say of the client, in place of what strangers said. A trusted proxy's list goes on.
fn forwarding(
    added: &mut Vec<(HeaderName, HeaderValue)>,
    outgoing: Outgoing,
    named: Option<HeaderValue>,
    around: &Around<'_>,
) {
    let Around { client, https, .. } = *around;
    let mut list = BytesMut::with_capacity(64);
    for before in &outgoing.forwarded_for {
        list.put_slice(before.as_bytes());
        list.put_slice(b", ");
    }
    put_address(&mut list, client.ip());
    if let Ok(value) = HeaderValue::from_maybe_shared(list.freeze()) {
        added.push((X_FORWARDED_FOR, value));
    }
    let proto = outgoing.forwarded_proto.unwrap_or(HeaderValue::from_static(if https {
        "https"
    } else {
        "http"
    }));
    added.push((X_FORWARDED_PROTO, proto));
    if let Some(host) = outgoing.forwarded_host.or(named) {
        added.push((X_FORWARDED_HOST, host));
    }
}

fn put_address(out: &mut BytesMut, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            let mut decimal = itoa::Buffer::new();
            for (at, octet) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.put_u8(b'.');
                }
                out.put_slice(decimal.format(octet).as_bytes());
            }
        }
        IpAddr::V6(v6) => out.put_slice(v6.to_string().as_bytes()),
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
            Field::Connection => {
                remove.push(name.clone());
                for token in value.as_bytes().split(|b| *b == b',') {
                    if let Ok(named) = HeaderName::from_bytes(token.trim_ascii())
                        && !is_end_to_end(&named)
                    {
                        remove.push(named);
                    }
                }
            }
            Field::HopByHop | Field::Te | Field::Upgrade => remove.push(name.clone()),
            Field::Framing if name == header::TRANSFER_ENCODING => remove.push(name.clone()),
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

/// Unique names for requests and traces: random start per worker, then counted. Not secret.
#[derive(Debug)]
pub(crate) struct Ids {
    high: u64,
    low: Cell<u64>,
}

// === impl Ids ===

impl Ids {
    pub(crate) fn new(seed: [u8; 16]) -> Self {
        let seed = u128::from_le_bytes(seed);
        Self { high: (seed >> 64) as u64, low: Cell::new(seed as u64) }
    }

    /// 32 hexadecimal digits.
    pub(crate) fn next(&self) -> HeaderValue {
        let mut text = [0; 32];
        let (high, low) = text.split_at_mut(16);
        put_hex(high, self.high);
        put_hex(low, self.step());
        value_of(&text)
    }

    /// A `traceparent` that begins a trace (W3C Trace Context, version 00, not sampled).
    pub(crate) fn begin_trace(&self, request_id: &HeaderValue) -> HeaderValue {
        let mut text = *b"00-................................-................-00";
        let (trace, rest) = text.split_at_mut(35);
        if let Some(trace) = trace.get_mut(3..) {
            if request_id.len() == trace.len() {
                trace.copy_from_slice(request_id.as_bytes());
            } else {
                let (high, low) = trace.split_at_mut(16);
                put_hex(high, self.high);
                put_hex(low, self.step());
            }
        }
        if let Some(span) = rest.get_mut(1..17) {
            put_hex(span, self.step());
        }
        value_of(&text)
    }

    /// Weyl sequence through a mixer (SplitMix64): distinct for 2^64 steps.
    fn step(&self) -> u64 {
        let next = self.low.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.low.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Fills `out` with the last digits of `number`.
fn put_hex(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        let value = (number & 0xf) as u8;
        *digit = value + if value < 10 { b'0' } else { b'a' - 10 };
        number >>= 4;
    }
}

/// Hexadecimal digits and dashes are always a value.
fn value_of(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("0"))
}

/// Whether a `traceparent` of the client is well-formed; else a new trace begins.
pub(crate) fn is_traceparent(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let hex = |part: Option<&[u8]>| {
        part.is_some_and(|p| p.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    let nonzero = |part: Option<&[u8]>| part.is_some_and(|p| p.iter().any(|b| *b != b'0'));
    bytes.len() == 55
        && bytes.starts_with(b"00-")
        && [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'))
        && hex(bytes.get(3..35))
        && hex(bytes.get(36..52))
        && hex(bytes.get(53..55))
        && nonzero(bytes.get(3..35))
        && nonzero(bytes.get(36..52))
}
