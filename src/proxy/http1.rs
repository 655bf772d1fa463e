//! HTTP/1.1 without I/O: bytes to heads and heads to bytes, of requests and of answers. Reads only
//! what has one meaning. It refuses what cannot be served, and leaves everything else to hyper,
//! with the bytes as they were received. Imports `core` alone.

pub(crate) mod answer_body;
pub(crate) mod answer_read;
pub(crate) mod answer_write;
pub(crate) mod chunks;
pub(crate) mod head;
pub(crate) mod length;
pub(crate) mod location;
pub(crate) mod request_read;
pub(crate) mod request_refuse;
pub(crate) mod request_span;
pub(crate) mod request_write;
pub(crate) mod target;
mod text_span;
