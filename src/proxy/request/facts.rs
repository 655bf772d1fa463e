//! Reads what a request says: target, fields, credential, client. Anything that can be read in more
//! than one way is refused here, before anything is decided.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Version};

use super::credentials::{self, Candidates, Carriers};
use super::head_changes::{DroppedName, HeadChanges, KeptWith, MisspeltCredential, ProxyFields};
use crate::config::{Caps, Settings, Underscores};
use crate::core::decision::KeyCandidates;
use crate::core::headers::FieldClass;
use crate::core::path::{self, Traits};
use crate::core::{Facts, Now, Reason, Rejection, address};
use crate::observe::HeadNotice;
use crate::proxy::http1::head::{RequestHead, is_extended_connect, text_of};
use crate::proxy::ids::RequestId;

/// What was read from one request. Borrows from its head.
#[derive(Debug)]
pub(crate) struct RequestReading<'r> {
    method: &'r Method,
    path: &'r str,
    traits: Traits,
    client: IpAddr,
    preflight: Option<Method>,
    /// Set where `[observe]` is configured and it is uncertain which credential counts.
    candidates: Option<Candidates>,
    /// What keygate refuses unless the caller is only observed.
    pub(crate) fault: Option<Box<Rejection>>,
    pub(crate) carriers: Carriers<'r>,
    /// What to remove before keygate inserts its own fields.
    pub(crate) changes: HeadChanges,
}

/// Reads and checks the head. The order of checks is the order of RFC 9112: target, Host, framing,
/// fields, credential.
///
/// What makes the request itself doubtful (target, Host, framing, syntax) is an error. What only
/// the rules forbid is a fact, [`RequestReading::fault`], for `decide` to judge.
///
/// # Errors
/// A [`Rejection`] with a fixed sentence that contains nothing of the request.
pub(crate) fn read<'r>(
    head: &'r RequestHead,
    settings: &'r Settings,
    caps: &Caps,
    peer: IpAddr,
    now: Now,
) -> Result<RequestReading<'r>, Rejection> {
    let path = target(head, caps)?;
    let mut fault = None;
    let traits = path::scan(path.as_bytes()).unwrap_or_else(|_| {
        let why = "the path has more than one reading";
        fault = Some(Box::new(Rejection::why(Reason::BadPath, why)));
        Traits::default()
    });
    let mut changes = HeadChanges::default();
    fields(head, settings, caps, &mut changes, &mut fault)?;
    let trusted = !settings.trusted_proxies.is_empty() && settings.trusted_proxies.allows(peer);
    let client = if trusted { through_proxies(head, settings, peer, &mut changes) } else { peer };
    if trusted && let Some(watched) = &mut changes.watched {
        watched
            .told
            .retain(|told| !matches!(told, HeadNotice::Forwarding | HeadNotice::RequestId(_)));
    }
    let carriers = credentials::read(head, &settings.sources, &settings.tokens);
    let is_certain = carriers.is_ok()
        && changes.watched.as_ref().is_none_or(|watched| watched.misspelt.is_none());
    let candidates = match &settings.policy.observe {
        Some(observe) if !is_certain => Some(match observe.depends_on_caller(now) {
            true => credentials::candidates(head, settings),
            // Nobody needs the digests of everything that may be a key, so do not compute them.
            false => Candidates::NotRead,
        }),
        _ => None,
    };
    let carriers = carriers.unwrap_or_else(|rejection| {
        // A key outside any carrier outweighs other faults: keygate cannot remove what it cannot
        // find.
        if fault.is_none() || rejection.reason == Reason::Malformed {
            fault = Some(Box::new(rejection));
        }
        Carriers::unread()
    });
    Ok(RequestReading {
        method: &head.method,
        path,
        traits,
        client,
        preflight: preflight(head),
        candidates,
        fault,
        carriers,
        changes,
    })
}

/// Whether the head of an HTTP/2 request is no larger than `most`, counted as in RFC 9113 section
/// 6.5.2: 32 bytes for each field, plus its name and value. h2 accepts somewhat larger heads, so
/// that they get an answer that their client can read.
///
/// # Errors
/// The head is larger: [`Reason::HeadersTooLarge`].
pub(crate) fn fits(head: &RequestHead, most: u32) -> Result<(), Rejection> {
    const OF_EACH: usize = 32;
    if head.version != Version::HTTP_2 {
        return Ok(());
    }
    let target = &head.target;
    let pseudo = [
        (":method", head.method.as_str().len()),
        (":scheme", target.scheme().map_or(0, |s| s.as_str().len())),
        (":authority", target.authority().map_or(0, |a| a.as_str().len())),
        (":path", target.as_str().len()),
    ];
    let pseudo = pseudo.iter().map(|(name, value)| name.len() + value + OF_EACH).sum::<usize>();
    let fields = head.fields.iter().map(|(n, v)| n.len() + v.len() + OF_EACH).sum::<usize>();
    if pseudo + fields > most as usize {
        return Err(Reason::HeadersTooLarge.into());
    }
    Ok(())
}

impl<'r> RequestReading<'r> {
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            method: self.method,
            path: self.path,
            traits: self.traits,
            presented: self.carriers.presented(),
            client: self.client,
            preflight: self.preflight.as_ref(),
            candidates: match &self.candidates {
                None => KeyCandidates::Certain,
                Some(Candidates::These(digests)) => KeyCandidates::These(digests),
                Some(Candidates::NotRead) => KeyCandidates::NotRead,
            },
            fault: self.fault.as_deref(),
        }
    }

    pub(crate) fn into_changes(self) -> HeadChanges {
        self.changes
    }

    pub(crate) fn client(&self) -> IpAddr {
        self.client
    }
}

/// The path, from an origin-form target, or an absolute one that names the same authority as Host.
fn target<'r>(head: &'r RequestHead, caps: &Caps) -> Result<&'r str, Rejection> {
    if matches!(head.method, Method::CONNECT | Method::TRACE) || head.method.as_str() == "TRACK" {
        return Err(Reason::BadMethod.into());
    }
    // Methods are case-sensitive, but many frameworks ignore case: `delete` would bypass the rule
    // for DELETE, and then be carried out as DELETE.
    if head.method.as_str().bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(Rejection::why(Reason::BadMethod, "a method is written in capitals"));
    }
    let target = &head.target;
    if target.as_str().len() > caps.uri_bytes {
        return Err(Reason::UriTooLong.into());
    }
    let mut hosts = head.fields.all(&header::HOST);
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Rejection::why(Reason::BadHost, "more than one Host field"));
    }
    if let Some(host) = host
        && !is_authority(host)
    {
        return Err(Rejection::why(Reason::BadHost, "Host is not a host name with a port"));
    }
    match (head.version, host, target.authority()) {
        (Version::HTTP_11, None, _) => {
            return Err(Rejection::why(Reason::BadHost, "HTTP/1.1 needs a Host field"));
        }
        // RFC 9113 §8.3.1: `:authority` takes the place of Host; both must agree.
        (Version::HTTP_2, None, None) => {
            return Err(Rejection::why(Reason::BadHost, "no :authority and no Host"));
        }
        (_, Some(host), Some(authority)) => {
            if !host.eq_ignore_ascii_case(authority.as_str().as_bytes()) {
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
    if target.authority().is_some() && target.scheme().is_none() {
        return Err(Rejection::why(Reason::BadTarget, "the target is not in origin form"));
    }
    if target.scheme().is_some_and(|s| !matches!(s.as_str(), "http" | "https")) {
        return Err(Rejection::why(Reason::BadTarget, "the target's scheme is not HTTP"));
    }
    match target.path() {
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
        // `u16` would accept a sign.
        [b':', digits @ ..] => {
            digits.iter().all(u8::is_ascii_digit)
                && std::str::from_utf8(digits).is_ok_and(|d| d.parse::<u16>().is_ok())
        }
        _ => false,
    };
    !name.is_empty() && host.len() <= 300 && port_ok
}

/// Checks all fields in one pass.
fn fields(
    head: &RequestHead,
    settings: &Settings,
    caps: &Caps,
    changes: &mut HeadChanges,
    fault: &mut Option<Box<Rejection>>,
) -> Result<(), Rejection> {
    changes.watched = settings.policy.observe.is_some().then(Box::default);
    if head.fields.len() > caps.headers {
        return Err(Reason::HeadersTooLarge.into());
    }
    if head.fields.wire_length() > caps.head_bytes {
        return Err(Reason::HeadersTooLarge.into());
    }
    for (at, name, value) in head.fields.places() {
        let field = settings.fields.classify(name);
        if name.contains(&b'_') {
            // A client that misspells these must learn of it, and the fields must never get
            // through.
            match field {
                FieldClass::Credential | FieldClass::Subprotocol => {
                    fault.get_or_insert_with(|| Box::new(misspelt(CREDENTIAL)));
                    if let Some(watched) = &mut changes.watched {
                        watched.misspelt = Some(MisspeltCredential);
                    }
                    changes.removes(at, KeptWith::Credentials);
                    continue;
                }
                FieldClass::Framing => return Err(misspelt(FRAMING)),
                _ => {}
            }
            match settings.underscores {
                Underscores::Refuse => {
                    fault.get_or_insert_with(|| {
                        let why = "a field name has an underscore";
                        Box::new(Rejection::why(Reason::BadHeader, why))
                    });
                }
                Underscores::Drop => changes.may_drop = Some(DroppedName),
                Underscores::Allow => {}
            }
            if settings.underscores != Underscores::Allow {
                match field {
                    FieldClass::Plain | FieldClass::Override => {
                        changes.removes(at, KeptWith::Observed);
                        changes.tell(HeadNotice::Underscore);
                    }
                    _ => {
                        changes.remove.push(at);
                        changes.tell_class(field, name, settings);
                    }
                }
                continue;
            }
        }
        let goes = match field {
            FieldClass::Plain => false,
            // Their contents are looked up by the exact name. A field in another spelling is only
            // removed.
            FieldClass::Authorization => name != header::AUTHORIZATION.as_str().as_bytes(),
            FieldClass::Cookie => name != header::COOKIE.as_str().as_bytes(),
            FieldClass::Credential => {
                if !settings.sources.iter().any(|s| credentials::is_field_of(s, name)) {
                    changes.removes(at, KeptWith::Credentials);
                }
                false
            }
            FieldClass::Override => {
                changes.tell_class(field, name, settings);
                changes.removes(at, KeptWith::Observed);
                false
            }
            FieldClass::Subprotocol => name != header::SEC_WEBSOCKET_PROTOCOL.as_str().as_bytes(),
            FieldClass::Host => name != header::HOST.as_str().as_bytes(),
            FieldClass::Connection => {
                connection(value, settings, changes)?;
                true
            }
            FieldClass::Expect => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Reason::BadExpect.into());
                }
                true
            }
            FieldClass::Te => {
                changes.te_trailers |= value.eq_ignore_ascii_case(b"trailers");
                true
            }
            FieldClass::Identity => {
                changes.claims_identity = true;
                changes.tell_class(field, name, settings);
                true
            }
            // The fields that give the body's length are written again.
            FieldClass::Framing | FieldClass::HopByHop | FieldClass::Upgrade => true,
            FieldClass::Forwarding => {
                changes.tell_class(field, name, settings);
                true
            }
        };
        if goes {
            changes.remove.push(at);
        }
    }
    head.framing.map_err(|bad| Rejection::why(Reason::BadFraming, bad.why()))?;
    // RFC 9113 §8.2.1 calls it malformed, but h2 accepts it. An HTTP/1.1 upstream would trim it and
    // read ` Bearer KEY`, in which keygate sees no scheme that it knows.
    if head.version == Version::HTTP_2 && head.fields.iter().any(|(_, v)| is_padded(v)) {
        return Err(Rejection::why(Reason::BadHeader, "a value begins or ends with a space"));
    }
    Ok(())
}

fn misspelt(why: &'static str) -> Rejection {
    Rejection::why(Reason::BadHeader, why)
}

const CREDENTIAL: &str = "a field that carries a credential has `_` in its name where `-` belongs";
const FRAMING: &str = "a field that frames the body has `_` in its name where `-` belongs";

fn is_padded(value: &[u8]) -> bool {
    matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t'])
}

/// The tokens of `Connection`: each names a field that goes no further. Naming one of our fields
/// would remove what keygate put in (Traefik CVE-2024-45410).
fn connection(
    value: &[u8],
    settings: &Settings,
    changes: &mut HeadChanges,
) -> Result<(), Rejection> {
    const WHY: &str = "a Connection token names a field that is not hop-by-hop";
    for token in value.split(|b| *b == b',') {
        let token = token.trim_ascii();
        if token.is_empty()
            || token.eq_ignore_ascii_case(b"close")
            || token.eq_ignore_ascii_case(b"keep-alive")
        {
            continue;
        }
        if token.eq_ignore_ascii_case(b"upgrade") {
            changes.upgrade = true;
            continue;
        }
        match settings.fields.classify(token) {
            FieldClass::Connection
            | FieldClass::HopByHop
            | FieldClass::Te
            | FieldClass::Upgrade => {}
            FieldClass::Plain => match HeaderName::from_bytes(token) {
                Ok(name) => changes.remove_named.push(name),
                Err(_) => {
                    return Err(Rejection::why(Reason::BadConnection, "not a field name"));
                }
            },
            _ => return Err(Rejection::why(Reason::BadConnection, WHY)),
        }
    }
    Ok(())
}

/// What a trusted proxy says about the client.
fn through_proxies(
    head: &RequestHead,
    settings: &Settings,
    peer: IpAddr,
    changes: &mut HeadChanges,
) -> IpAddr {
    let named = |name: &'static str| head.fields.all(name);
    let value_of = |value: &[u8]| HeaderValue::from_bytes(value).ok();
    // A value that is not text ends the walk: it becomes one entry that is not an address.
    let entries: Vec<&str> =
        named("x-forwarded-for").flat_map(|v| text_of(v).unwrap_or("?").split(',')).collect();
    let is_filled = |value: &&[u8]| value.iter().any(|b| !matches!(b, b',' | b' ' | b'\t'));
    let lists = named("x-forwarded-for").filter(is_filled);
    let last = |name| named(name).next_back();
    let proto = last("x-forwarded-proto").filter(|v| matches!(*v, b"http" | b"https"));
    let host = last("x-forwarded-host").filter(|v| is_authority(v));
    changes.of_proxy = Some(Box::new(ProxyFields {
        request_id: head.fields.get(&settings.identity.request_id).and_then(RequestId::given),
        forwarded_for: lists.filter_map(value_of).collect(),
        forwarded_proto: proto.and_then(value_of),
        forwarded_host: host.and_then(value_of),
    }));
    address::client_address(peer, entries.into_iter(), &settings.trusted_proxies)
}

/// The method that a CORS preflight asks for (Fetch §3.2.2).
pub(crate) fn preflight(head: &RequestHead) -> Option<Method> {
    if head.method != Method::OPTIONS || !head.fields.has(header::ORIGIN) {
        return None;
    }
    let wanted = head.fields.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(wanted).ok()
}

/// Whether the request asks for an upgrade, to whatever protocol.
pub(crate) fn asks_upgrade(head: &RequestHead, changes: &HeadChanges) -> bool {
    is_extended_connect(head) || (changes.upgrade && head.fields.has(header::UPGRADE))
}

/// The one protocol that `Upgrade` asks for, lower-case, when `Connection` says so too.
pub(crate) fn read_upgrade<'r>(
    head: &'r RequestHead,
    changes: &HeadChanges,
) -> Option<Cow<'r, str>> {
    if is_extended_connect(head) {
        return Some(Cow::Borrowed("websocket"));
    }
    if !changes.upgrade || head.version != Version::HTTP_11 {
        return None;
    }
    let mut values = head.fields.all(&header::UPGRADE);
    let (Some(only), None) = (values.next(), values.next()) else { return None };
    let token = text_of(only)?.trim();
    let plain = token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'/'));
    (plain && !token.is_empty()).then(|| {
        if token.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(token.to_ascii_lowercase())
        } else {
            Cow::Borrowed(token)
        }
    })
}
