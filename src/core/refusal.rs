//! From a [`Rejection`] to status, fields and body: one match, for every profile.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::reason::{Disclosure, Rejection};

/// The configured profiles and what all refusals share.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    pub disclosure: Disclosure,
}

/// What of the request a refusal is rendered for.
#[derive(Clone, Copy, Debug)]
pub struct Context<'r> {
    pub request_id: &'r str,
    /// Profile of the route; `None`: the default one.
    pub profile: Option<&'r str>,
    /// The request is gRPC by its content type.
    pub grpc: bool,
}

/// A refusal ready to be sent.
#[derive(Debug)]
pub struct Rendered {
    pub status: http::StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

impl Refusals {
    pub fn profiles(&self) -> impl Iterator<Item = &str> {
        ["problem+json"].into_iter()
    }

    pub fn has_profile(&self, name: &str) -> bool {
        self.profiles().any(|p| p == name)
    }

    pub fn render(&self, rejection: &Rejection, _context: &Context<'_>) -> Rendered {
        Rendered {
            status: http::StatusCode::from_u16(rejection.reason.status())
                .unwrap_or(http::StatusCode::SERVICE_UNAVAILABLE),
            headers: Vec::new(),
            body: Bytes::from(rejection.reason.code(self.disclosure)),
        }
    }
}
