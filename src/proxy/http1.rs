//! HTTP/1 heads, without I/O.

pub(crate) mod head;
