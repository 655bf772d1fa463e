//! Which requests are gRPC, and how a gRPC stream that keygate ends is closed.

use http::Version;
use http::header::{self, HeaderMap, HeaderValue};

use crate::core::Reason;
use crate::proxy::http1::head::RequestHead;

/// Whether a request is gRPC by its content type.
pub(crate) fn is_grpc(head: &RequestHead) -> bool {
    head.version == Version::HTTP_2
        && head.fields.get(header::CONTENT_TYPE).is_some_and(|v| v.starts_with(b"application/grpc"))
}

/// The trailers of a gRPC stream whose key ended, or that took too long. No RFC covers this: see
/// the gRPC protocol over HTTP/2, "Responses".
pub(crate) fn grpc_trailers(reason: Reason) -> HeaderMap {
    let (status, message) = match reason.status() {
        401 => ("16", "the%20API%20key%20no%20longer%20opens%20this%20stream"),
        403 => ("7", "the%20API%20key%20no%20longer%20has%20the%20permission"),
        504 => ("4", "the%20upstream%20took%20too%20long"),
        _ => ("14", "unavailable"),
    };
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    trailers
}
