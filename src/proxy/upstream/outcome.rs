//! What comes of a request to the upstream: the head of its answer and what is behind it, or why
//! there is none.

use bytes::Bytes;
use http::{StatusCode, response};
use hyper::body::Incoming;

use crate::core::Reason;
use crate::core::observe::UpstreamClass;
use crate::proxy::http1::answer_body::AnswerBody;
use crate::proxy::http1::answer_read::AnswerHead;
use crate::proxy::http1::chunks::ChunkForm;

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
pub(crate) enum AnswerHeadSource {
    Hyper(response::Parts),
    Own(AnswerHead),
}

/// What comes behind the head of a response.
#[derive(Debug)]
pub(crate) enum AnswerContent {
    /// All of it arrived with the head, which says how long it is.
    Whole(Bytes),
    /// All of it arrived with the head, in chunks. It is sent on in chunks too, as it would if its end
    /// had come a moment later.
    WholeChunked(WholeChunks),
    /// What of it came with the head, and how the rest is to be read
    /// ([`Lease::poll_body`](super::Lease::poll_body)).
    Coming {
        first: Bytes,
        body: AnswerBody,
    },
    Hyper(Incoming),
}

/// A body that came in chunks.
#[derive(Debug)]
pub(crate) struct WholeChunks {
    pub(crate) bytes: Bytes,
    /// What `bytes` are.
    pub(crate) form: ChunkForm,
    /// Bytes of its data.
    pub(crate) data: u64,
}

// === impl AnswerHeadSource ===

impl AnswerHeadSource {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Hyper(parts) => parts.status,
            Self::Own(head) => head.status,
        }
    }

    /// What it says to the caller. A gRPC call that failed at once has HTTP 200 and its status in the
    /// head.
    pub(crate) fn class(&self) -> UpstreamClass {
        let status = self.status();
        let grpc = match self {
            Self::Hyper(parts) if status == StatusCode::OK => parts.headers.get("grpc-status"),
            Self::Hyper(_) | Self::Own(_) => None,
        };
        match grpc.and_then(|status| status.to_str().ok()?.parse().ok()) {
            Some(status) => UpstreamClass::of_grpc(status),
            None => UpstreamClass::of(status.as_u16()),
        }
    }

    pub(super) fn of(response: http::Response<Incoming>) -> (Self, AnswerContent) {
        let (parts, body) = response.into_parts();
        (Self::Hyper(parts), AnswerContent::Hyper(body))
    }

    pub(crate) fn into_parts(self) -> response::Parts {
        match self {
            Self::Hyper(parts) => parts,
            Self::Own(head) => head.into_parts(),
        }
    }
}

// === impl Failure ===

impl Failure {
    pub(super) const fn of(reason: Reason) -> Self {
        Self { reason, unsent: false, unprocessed: false, stale: false }
    }
}
