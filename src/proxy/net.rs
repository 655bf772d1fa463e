//! Bytes in and out: sockets, TLS streams, the PROXY header, and the activity from which deadlines are
//! measured. Knows no HTTP.

pub(crate) mod accepted;
pub(crate) mod bind;
pub(crate) mod buffers;
pub(crate) mod connections;
pub(crate) mod io;
pub(crate) mod pipe;
pub mod proxy_protocol;
pub(crate) mod transport;
