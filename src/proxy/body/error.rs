//! Why a body could not continue.

use std::io;

use crate::proxy::http1::chunks::BadChunk;

/// Why a body could not continue. hyper turns it into the end of the connection or stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("request body is longer than its route allows")]
    TooLarge,
    #[error("request ended by keygate")]
    Ended,
    #[error("the client closed in the middle of its body")]
    Truncated,
    /// Nothing is lost: the bytes have to pass through our memory.
    #[error("cannot be moved by the kernel")]
    Unmoved,
    #[error("the upstream closed in the middle of its body: {0}")]
    Upstream(#[from] io::Error),
    #[error("the upstream's chunks are broken: {0}")]
    BadChunk(#[from] BadChunk),
    #[error("body failed: {0}")]
    Hyper(#[from] hyper::Error),
}
