//! What is known about a request before anybody looks at its credential, and the answer to a
//! request that cannot be served. Imports nothing from the room.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::store::Channel;

/// Our session cookie. The prefix makes browsers accept it only for this host, for all paths, and
/// from us alone (RFC 6265bis section 4.1.3.2): no sibling host can plant one.
pub const SESSION_COOKIE: &str = "__Host-keygate";

/// The longest body of a request, in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// For TCP.
    pub address: Option<IpAddr>,
    /// User of the process at the other end of a Unix socket, according to the kernel (unix(7),
    /// `SO_PEERCRED`).
    pub uid: Option<u32>,
    /// Of the certificate that the handshake verified, in the form of RFC 2253.
    pub subject: Option<Box<str>>,
}

/// The id of one request, for logs, the audit line and the answer: 32 hexadecimal digits, or a
/// trusted sidecar's id for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub Box<str>);

/// Where a request came from, seen through trusted proxies; `None`: a Unix socket without any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub Option<IpAddr>);

/// [`AskedBy`] of sidecars with their fleet's token.
pub const FLEET: &str = "fleet";

/// How the caller has shown who they are, once that is known. Clones belong to one request.
#[derive(Clone, Debug, Default)]
pub struct AskedBy(Arc<OnceLock<&'static str>>);

/// An answer that states what is wrong (RFC 9457).
#[derive(Clone, Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// From a closed list, which docs/admin.md has.
    pub code: &'static str,
    pub detail: Box<str>,
}

/// The token of `Authorization: Bearer`.
pub fn bearer(fields: &HeaderMap) -> Option<&[u8]> {
    let value = fields.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_first_chunk::<7>()?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// The address that a request came from.
pub fn client_of(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<ClientAddress>().and_then(|address| address.0)
}

/// The channel of a request, for its audit line.
pub fn channel_of(parts: &Parts) -> Channel {
    let request_id = parts.extensions.get::<RequestId>();
    Channel {
        address: client_of(parts),
        request_id: request_id.map(|id| id.0.clone()).unwrap_or_default(),
    }
}

// === impl AskedBy ===

impl AskedBy {
    /// Notes it for this request. Only the first note counts.
    pub fn note(parts: &Parts, kind: &'static str) {
        if let Some(asked) = parts.extensions.get::<Self>() {
            asked.0.get_or_init(|| kind);
        }
    }

    /// `None`: no trusted statement says who asks.
    pub fn kind(&self) -> Option<&'static str> {
        self.0.get().copied()
    }
}

// === impl Problem ===

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Box<str>>) -> Self {
        Self { status, code, detail: detail.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        let form = [(CONTENT_TYPE, "application/problem+json")];
        (self.status, form, body.to_string()).into_response()
    }
}
