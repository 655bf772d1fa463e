//! Reads what a request says: target, fields, credential, client. Whatever has more than one
//! reading is refused here, before anything is decided.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Version};

use super::credentials::{self, Carriers};
use crate::config::{Caps, Settings, Underscores};
use crate::core::headers::Field;
use crate::core::path::{self, Traits};
use crate::core::{Facts, Reason, Rejection, address};

/// What was read of one request. Borrows from its head.
#[derive(Debug)]
pub(crate) struct Reading<'r> {
    method: &'r Method,
    path: &'r str,
    traits: Traits,
    client: IpAddr,
    preflight: Option<Method>,
    pub(crate) carriers: Carriers<'r>,
    /// What has to go before anything of ours is put in.
    pub(crate) outgoing: Outgoing,
}

/// What the head needs on its way out, whoever the caller is. Owns all it says.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// Fields to remove: hop-by-hop, named by `Connection`, owned, forwarding.
    pub(crate) remove: Vec<HeaderName>,
    /// `Connection` asks for an upgrade.
    pub(crate) upgrade: bool,
    pub(crate) te_trailers: bool,
    /// From a trusted proxy: `X-Request-Id`, `X-Forwarded-For`, `-Proto` and `-Host` of the client.
    pub(crate) request_id: Option<HeaderValue>,
    pub(crate) forwarded_for: Vec<HeaderValue>,
    pub(crate) forwarded_proto: Option<HeaderValue>,
    pub(crate) forwarded_host: Option<HeaderValue>,
    /// What stays of `Sec-WebSocket-Protocol` without the credential.
    pub(crate) subprotocols: Option<Option<HeaderValue>>,
}

/// Reads and checks the head. The order of checks is the order of RFC 9112: target, Host, framing,
/// fields, credential.
///
/// # Errors
/// A [`Rejection`] with a fixed sentence; nothing of the request is in it.
pub(crate) fn read<'r>(
    parts: &'r Parts,
    settings: &Settings,
    caps: &Caps,
    peer: IpAddr,
) -> Result<Reading<'r>, Rejection> {
    let path = target(parts, caps)?;
    let traits = path::scan(path.as_bytes())
        .map_err(|_| Rejection::why(Reason::BadPath, "the path has more than one reading"))?;
    let mut outgoing = Outgoing::default();
    fields(parts, settings, caps, &mut outgoing)?;
    let trusted = !settings.trusted_proxies.is_empty() && settings.trusted_proxies.allows(peer);
    let client = if trusted { through_proxies(parts, settings, peer, &mut outgoing) } else { peer };
    let carriers = credentials::read(parts, &settings.sources)?;
    Ok(Reading {
        method: &parts.method,
        path,
        traits,
        client,
        preflight: preflight(parts),
        carriers,
        outgoing,
    })
}

impl<'r> Reading<'r> {
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            method: self.method,
            path: self.path,
            traits: self.traits,
            presented: self.carriers.presented(),
            client: self.client,
            preflight: self.preflight.as_ref(),
        }
    }

    pub(crate) fn into_outgoing(self) -> Outgoing {
        self.outgoing
    }

    pub(crate) fn client(&self) -> IpAddr {
        self.client
    }
}

/// The path, from an origin-form target, or an absolute one that names the same authority as Host.
fn target<'r>(parts: &'r Parts, caps: &Caps) -> Result<&'r str, Rejection> {
    if matches!(parts.method, Method::CONNECT | Method::TRACE) || parts.method.as_str() == "TRACK" {
        return Err(Reason::Method.into());
    }
    let uri = &parts.uri;
    let length = uri.path_and_query().map_or(0, |pq| pq.as_str().len());
    if length > caps.uri_bytes {
        return Err(Reason::UriTooLong.into());
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Rejection::why(Reason::BadHost, "more than one Host field"));
    }
    if let Some(host) = host
        && !is_authority(host.as_bytes())
    {
        return Err(Rejection::why(Reason::BadHost, "Host is not a host name with a port"));
    }
    match (parts.version, host, uri.authority()) {
        (Version::HTTP_11, None, _) => {
            return Err(Rejection::why(Reason::BadHost, "HTTP/1.1 needs a Host field"));
        }
        // RFC 9113 §8.3.1: `:authority` stands for Host; both must agree.
        (Version::HTTP_2, None, None) => {
            return Err(Rejection::why(Reason::BadHost, "no :authority and no Host"));
        }
        (_, Some(host), Some(authority)) => {
            if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) {
                return Err(Rejection::why(
                    Reason::BadHost,
                    "target and Host name two authorities",
                ));
            }
        }
        (_, None, Some(authority)) => {
            if !is_authority(authority.as_str().as_bytes()) {
                return Err(Rejection::why(Reason::BadHost, "the authority is not a host name"));
            }
        }
        (_, _, None) => {}
    }
    // `GET a` parses as an authority without a path.
    if uri.authority().is_some() && uri.scheme().is_none() {
        return Err(Rejection::why(Reason::BadTarget, "the target is not in origin form"));
    }
    if uri.scheme().is_some_and(|s| !matches!(s.as_str(), "http" | "https")) {
        return Err(Rejection::why(Reason::BadTarget, "the target's scheme is not HTTP"));
    }
    match uri.path() {
        "" | "*" => Err(Rejection::why(Reason::BadTarget, "the target is not in origin form")),
        path => Ok(path),
    }
}

/// `uri-host [":" port]`, without user information (RFC 9110 §7.2).
fn is_authority(host: &[u8]) -> bool {
    let (name, port) = match host {
        // An IPv6 literal has colons of its own.
        [b'[', rest @ ..] => match rest.iter().position(|b| *b == b']') {
            Some(end) => {
                let address = rest.get(..end).unwrap_or_default();
                if !address.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')) {
                    return false;
                }
                (address, rest.get(end + 1..).unwrap_or_default())
            }
            None => return false,
        },
        _ => {
            let end = host.iter().position(|b| *b == b':').unwrap_or(host.len());
            let (name, port) = host.split_at(end);
            let plain =
                |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
            if !name.iter().all(plain) {
                return false;
            }
            (name, port)
        }
    };
    let port_ok = match port {
        [] => true,
        [b':'] => true,
        // `u16` would take a sign.
        [b':', digits @ ..] => {
            digits.iter().all(u8::is_ascii_digit)
                && std::str::from_utf8(digits).is_ok_and(|d| d.parse::<u16>().is_ok())
        }
        _ => false,
    };
    !name.is_empty() && host.len() <= 300 && port_ok
}

/// One pass over all fields.
fn fields(
    parts: &Parts,
    settings: &Settings,
    caps: &Caps,
    outgoing: &mut Outgoing,
) -> Result<(), Rejection> {
    let headers = &parts.headers;
    if headers.len() > caps.headers {
        return Err(Reason::HeadersTooLarge.into());
    }
    let mut head_bytes = 0;
    for (name, value) in headers {
        head_bytes += name.as_str().len() + value.len() + 4;
        let text = name.as_str().as_bytes();
        let field = settings.fields.classify(text);
        if text.contains(&b'_') {
            match settings.underscores {
                Underscores::Refuse => {
                    return Err(Rejection::why(
                        Reason::BadHeader,
                        "a field name has an underscore",
                    ));
                }
                Underscores::Drop => {
                    outgoing.remove(name);
                    continue;
                }
                Underscores::Allow => {}
            }
        }
        match field {
            Field::Plain => {}
            // What these carry is looked at by name; another spelling is only removed.
            Field::Authorization => {
                if name != header::AUTHORIZATION {
                    outgoing.remove(name);
                }
            }
            Field::Cookie => {
                if name != header::COOKIE {
                    outgoing.remove(name);
                }
            }
            Field::Credential => {
                if !settings.sources.iter().any(|s| credentials::is_field_of(s, name)) {
                    outgoing.remove(name);
                }
            }
            Field::Subprotocol => {
                if name != header::SEC_WEBSOCKET_PROTOCOL {
                    outgoing.remove(name);
                }
            }
            Field::Host => {
                if name != header::HOST {
                    outgoing.remove(name);
                }
            }
            Field::Connection => connection(value, settings, outgoing)?,
            Field::Expect => {
                if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
                    return Err(Reason::BadExpect.into());
                }
                outgoing.remove(name);
            }
            Field::Framing => framing(parts, name, value, outgoing)?,
            Field::Te => {
                outgoing.te_trailers |= value.as_bytes().eq_ignore_ascii_case(b"trailers");
                outgoing.remove(name);
            }
            Field::Upgrade => outgoing.remove(name),
            Field::Forwarding | Field::HopByHop | Field::Identity | Field::Override => {
                outgoing.remove(name);
            }
        }
        if field == Field::Connection {
            outgoing.remove(name);
        }
    }
    if head_bytes > caps.head_bytes {
        return Err(Reason::HeadersTooLarge.into());
    }
    // RFC 9113 §8.2.1 calls it malformed; h2 lets it pass. An HTTP/1.1 upstream would trim it, and
    // read ` Bearer KEY`, which to us has no scheme that we know.
    if parts.version == Version::HTTP_2 && headers.values().any(|v| is_padded(v.as_bytes())) {
        return Err(Rejection::why(Reason::BadHeader, "a value begins or ends with a space"));
    }
    Ok(())
}

fn is_padded(value: &[u8]) -> bool {
    matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t'])
}

/// The tokens of `Connection`: each names a field that goes no further. One that names a field of
/// ours would take out what we put in (Traefik CVE-2024-45410).
fn connection(
    value: &HeaderValue,
    settings: &Settings,
    outgoing: &mut Outgoing,
) -> Result<(), Rejection> {
    const WHY: &str = "a Connection token names a field that is not hop-by-hop";
    for token in value.as_bytes().split(|b| *b == b',') {
        let token = token.trim_ascii();
        if token.is_empty()
            || token.eq_ignore_ascii_case(b"close")
            || token.eq_ignore_ascii_case(b"keep-alive")
        {
            continue;
        }
        if token.eq_ignore_ascii_case(b"upgrade") {
            outgoing.upgrade = true;
            continue;
        }
        match settings.fields.classify(token) {
            Field::Connection | Field::HopByHop | Field::Te | Field::Upgrade => {}
            Field::Plain => match HeaderName::from_bytes(token) {
                Ok(name) => outgoing.remove(&name),
                Err(_) => {
                    return Err(Rejection::why(Reason::BadConnection, "not a field name"));
                }
            },
            _ => return Err(Rejection::why(Reason::BadConnection, WHY)),
        }
    }
    Ok(())
}

/// Content-Length and Transfer-Encoding never travel on; the client side of hyper writes one of
/// them anew. Here only what two servers could read differently is refused.
fn framing(
    parts: &Parts,
    name: &HeaderName,
    value: &HeaderValue,
    outgoing: &mut Outgoing,
) -> Result<(), Rejection> {
    let refuse = |why| Err(Rejection::why(Reason::BadFraming, why));
    outgoing.remove(name);
    if name == header::CONTENT_LENGTH {
        let digits = value.as_bytes();
        let number = (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
            .then(|| value.to_str().ok()?.parse::<u64>().ok())
            .flatten();
        return match number {
            Some(n) if i64::try_from(n).is_ok() => {
                if parts.headers.get_all(name).iter().nth(1).is_some() {
                    return refuse("more than one Content-Length");
                }
                Ok(())
            }
            _ => refuse("Content-Length is not a number below 2^63"),
        };
    }
    if name != header::TRANSFER_ENCODING {
        // `transfer_encoding` and the like: not framing to us, maybe to the upstream.
        return Ok(());
    }
    if parts.version != Version::HTTP_11 {
        return refuse("Transfer-Encoding outside HTTP/1.1");
    }
    if !value.as_bytes().eq_ignore_ascii_case(b"chunked")
        || parts.headers.get_all(name).iter().nth(1).is_some()
    {
        return refuse("Transfer-Encoding is not `chunked` alone");
    }
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        return refuse("Content-Length beside Transfer-Encoding");
    }
    Ok(())
}

/// What a trusted proxy says about the client.
fn through_proxies(
    parts: &Parts,
    settings: &Settings,
    peer: IpAddr,
    outgoing: &mut Outgoing,
) -> IpAddr {
    let named = |name: &'static str| parts.headers.get_all(name).iter();
    // A value that is not text ends the walk: it becomes one entry that is no address.
    let entries: Vec<&str> =
        named("x-forwarded-for").flat_map(|v| v.to_str().unwrap_or("?").split(',')).collect();
    outgoing.forwarded_for.extend(named("x-forwarded-for").cloned());
    let last = |name| named(name).next_back().cloned();
    outgoing.forwarded_proto =
        last("x-forwarded-proto").filter(|v| matches!(v.as_bytes(), b"http" | b"https"));
    outgoing.forwarded_host = last("x-forwarded-host").filter(|v| is_authority(v.as_bytes()));
    outgoing.request_id = parts
        .headers
        .get(&settings.identity.request_id)
        .filter(|v| (1..=128).contains(&v.len()) && v.as_bytes().iter().all(u8::is_ascii_graphic))
        .cloned();
    address::client_address(peer, entries.into_iter(), &settings.trusted_proxies)
}

/// The method that a CORS preflight asks for (Fetch §3.2.2).
fn preflight(parts: &Parts) -> Option<Method> {
    if parts.method != Method::OPTIONS || !parts.headers.contains_key(header::ORIGIN) {
        return None;
    }
    let wanted = parts.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(wanted.as_bytes()).ok()
}

/// The one protocol that `Upgrade` asks for, lower-case, when `Connection` says so too.
pub(crate) fn read_upgrade<'r>(parts: &'r Parts, outgoing: &Outgoing) -> Option<Cow<'r, str>> {
    if super::upgrade::is_extended_connect(parts) {
        return Some(Cow::Borrowed("websocket"));
    }
    if !outgoing.upgrade || parts.version != Version::HTTP_11 {
        return None;
    }
    let mut values = parts.headers.get_all(header::UPGRADE).iter();
    let (Some(only), None) = (values.next(), values.next()) else { return None };
    let token = only.to_str().ok()?.trim();
    let plain = token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'/'));
    (plain && !token.is_empty()).then(|| {
        if token.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(token.to_ascii_lowercase())
        } else {
            Cow::Borrowed(token)
        }
    })
}

// === impl Outgoing ===

impl Outgoing {
    pub(crate) fn remove(&mut self, name: &HeaderName) {
        self.remove.push(name.clone());
    }
}
