//! What comes of a request to the upstream: the head of its answer and what is behind it, or why
//! there is none.

use bytes::Bytes;
use http::{StatusCode, response};
use hyper::body::Incoming;

use crate::core::Reason;
use crate::proxy::http1::answer_read::RawHead;

/// Why there is no response. Says what the client gets and whether another try may help.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    /// Not one byte of the request was sent, and it can be taken again.
    pub(crate) unsent: bool,
    /// The upstream has said that it did nothing with it.
    pub(crate) unprocessed: bool,
    /// A kept-alive connection broke before the response began.
    pub(crate) stale: bool,
}

/// The head of a response.
#[derive(Debug)]
pub(crate) enum Head {
    /// hyper's.
    Parsed(response::Parts),
    Raw(RawHead),
}

/// What comes behind the head of a response.
#[derive(Debug)]
pub(crate) enum Content {
    /// All of it came with the head.
    Whole(Bytes),
    /// What came with the head, and how many bytes are to come ([`Lease::poll_body`]).
    Counted {
        first: Bytes,
        left: u64,
    },
    Coming(Incoming),
}

// === impl Head ===

impl Head {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Parsed(parts) => parts.status,
            Self::Raw(head) => head.status,
        }
    }

    pub(super) fn of(response: http::Response<Incoming>) -> (Self, Content) {
        let (parts, body) = response.into_parts();
        (Self::Parsed(parts), Content::Coming(body))
    }

    pub(crate) fn into_parts(self) -> response::Parts {
        match self {
            Self::Parsed(parts) => parts,
            Self::Raw(head) => {
                let (mut parts, ()) = http::Response::new(()).into_parts();
                (parts.status, parts.headers) = (head.status, head.into_map());
                parts
            }
        }
    }
}

// === impl Failure ===

impl Failure {
    pub(super) const fn of(reason: Reason) -> Self {
        Self { reason, unsent: false, unprocessed: false, stale: false }
    }
}
