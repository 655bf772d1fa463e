//! What a client asks to upgrade to, if its route allows it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use super::credentials::Carried;
use super::facts;
use super::head_changes::HeadChanges;
use super::subprotocol::Offer;
use crate::config::Settings;
use crate::core::observe::{Conduct, CredentialPassage};
use crate::core::{CredentialSource, Route};
use crate::proxy::http1::head::{RequestHead, is_extended_connect};

/// An upgrade that may be passed on.
#[derive(Clone, Debug)]
pub(crate) struct UpgradeRequest {
    /// Lower-case.
    pub(crate) protocol: HeaderValue,
    /// `Sec-WebSocket-Key`. keygate makes it when the client asked over HTTP/2, where there is
    /// none.
    pub(crate) key: Option<HeaderValue>,
    pub(crate) offer: Offer,
    pub(crate) close_code: u16,
}

/// What an upgrade depends on in addition to the head.
pub(crate) struct UpgradeAsked<'r> {
    pub(crate) route: &'r Route,
    pub(crate) carried: Carried,
    pub(crate) conduct: Conduct,
    pub(crate) credentials: CredentialPassage,
}

/// The upgrade that the request asks for, if its route allows it. Any other upgrade is dropped
/// silently, as a server does with one that it does not know (RFC 9110 §7.8).
pub(crate) fn read(
    head: &RequestHead,
    changes: &mut HeadChanges,
    asked: &UpgradeAsked<'_>,
    settings: &Settings,
) -> Option<Box<UpgradeRequest>> {
    let UpgradeAsked { route, carried, conduct, credentials } = *asked;
    let token = facts::read_upgrade(head, changes)?;
    // A request with both a body and a switch is a way to get bytes past a gate (Pingora
    // CVE-2026-2833).
    let bodiless = !head.fields.has(header::TRANSFER_ENCODING)
        && head.fields.get(header::CONTENT_LENGTH).is_none_or(|v| v == b"0");
    let websocket = token == "websocket";
    let is_of_route = route.upgrades.iter().any(|u| **u == *token);
    // Other tunnels could carry anything: `h2c` and `TLS/1.2` carry requests that keygate never
    // reads, with forged identity in them.
    let may_pass = is_of_route || (conduct == Conduct::Observed && websocket);
    if !may_pass
        || !bodiless
        // A preflight has no key: it opens nothing but itself.
        || head.method == Method::OPTIONS
        || (websocket && head.method != Method::GET)
    {
        return None;
    }
    let protocol = HeaderValue::from_str(&token).ok()?;
    let key = is_extended_connect(head).then(websocket_key);
    let mut offer = Offer::default();
    if websocket {
        let markers = match credentials {
            // keygate offers the service everything that the client offers.
            CredentialPassage::Forward => Vec::new(),
            CredentialPassage::Strip => markers(settings),
        };
        let values = head.fields.all(&header::SEC_WEBSOCKET_PROTOCOL);
        let values: Vec<_> = values.filter_map(|v| HeaderValue::from_bytes(v).ok()).collect();
        offer = Offer::new(&values, &markers).ok()?;
        if carried.in_subprotocol {
            changes.subprotocols = Some(Box::new(offer.forward.clone()));
        }
    }
    Some(Box::new(UpgradeRequest { protocol, key, offer, close_code: settings.close_code }))
}

/// What opens the tunnel of an extended CONNECT. Its head is judged like the GET of an HTTP/1.1
/// upgrade. Protocols other than `websocket`, and plain CONNECT, stay as they are.
pub(crate) fn extended_connect(parts: &mut Parts) -> Option<OnUpgrade> {
    if parts.version != Version::HTTP_2 || parts.method != Method::CONNECT {
        return None;
    }
    let websocket = parts.extensions.get::<Protocol>()?.as_str() == "websocket";
    let connect = parts.extensions.remove::<OnUpgrade>().filter(|_| websocket)?;
    parts.method = Method::GET;
    Some(connect)
}

/// 16 random bytes in Base64. They are random so that nothing cached can answer (RFC 6455 section
/// 1.3).
fn websocket_key() -> HeaderValue {
    let mut random = [0; 16];
    // Without randomness the key is only less useful: it protects nothing here.
    let _ = aws_lc_rs::rand::fill(&mut random);
    HeaderValue::from_str(&BASE64_STANDARD.encode(random)).unwrap_or(HeaderValue::from_static(""))
}

// === impl UpgradeRequest ===

impl UpgradeRequest {
    /// Whether the rule allows it.
    pub(crate) fn is_of(&self, route: &Route) -> bool {
        route.upgrades.iter().any(|token| token.as_bytes() == self.protocol.as_bytes())
    }
}

fn markers(settings: &Settings) -> Vec<&str> {
    settings
        .sources
        .iter()
        .filter_map(|s| match s {
            CredentialSource::Subprotocol { marker } => Some(&**marker),
            _ => None,
        })
        .collect()
}
