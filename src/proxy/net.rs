//! Bytes in and out: sockets, TLS, the PROXY header, and the activity from which deadlines are
//! measured. Knows no HTTP.

pub(crate) mod accepted;
pub(crate) mod bind;
pub(crate) mod buffers;
pub(crate) mod connections;
pub(crate) mod io;
pub(crate) mod pipe;
pub mod proxy_protocol;
pub mod tls;
pub(crate) mod transport;
