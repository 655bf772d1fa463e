//! The result of a request to the upstream: the head of its answer and what follows it, or why
//! there is none.

use bytes::Bytes;
use http::{StatusCode, response};
use hyper::body::Incoming;

use crate::core::Reason;
use crate::core::observe::UpstreamClass;
use crate::proxy::http1::answer_body::AnswerBody;
use crate::proxy::http1::answer_read::AnswerHead;
use crate::proxy::http1::chunks::ChunkForm;

/// Why there is no response. Determines what the client gets and whether a retry may help.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    /// Not one byte of the request was sent, so it can be sent again.
    pub(crate) unsent: bool,
    /// The upstream has declared that it did not process it.
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

/// What follows the head of a response.
#[derive(Debug)]
pub(crate) enum AnswerContent {
    /// All of it arrived with the head, which gives its length.
    Whole(Bytes),
    /// All of it arrived with the head, in chunks. keygate also forwards it in chunks, as it would
    /// if the end had arrived a moment later.
    WholeChunked(WholeChunks),
    /// The part that arrived with the head, and how to read the rest
    /// ([`PooledConnection::poll_body`](super::PooledConnection::poll_body)).
    Coming {
        first: Bytes,
        body: AnswerBody,
    },
    Hyper(Incoming),
}

/// A body that arrived in chunks.
#[derive(Debug)]
pub(crate) struct WholeChunks {
    pub(crate) bytes: Bytes,
    /// The form of `bytes`.
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

    /// What it tells the caller. A gRPC call that failed immediately has HTTP 200 and its status in
    /// the head.
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
