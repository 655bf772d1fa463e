//! A connection that was accepted, on its way to the worker that serves it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::core::NetworkSet;
use crate::proxy::load::Counted;
use crate::tls::ServerTls;

/// What connections of one listener have in common.
#[derive(Debug)]
pub(crate) struct About {
    /// Slot of the metric label.
    pub slot: u32,
    pub tls: Option<Arc<ServerTls>>,
    pub proxy_from: Option<NetworkSet>,
    /// Another process keeps the socket open: what it holds when we leave belongs to a successor.
    pub outlives_us: bool,
}

/// A connection on its way to its worker.
#[derive(Debug)]
pub struct Accepted {
    pub(crate) socket: AcceptedSocket,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) about: Arc<About>,
    pub(crate) counted: Counted,
}

#[derive(Debug)]
pub(crate) enum AcceptedSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

// === impl About ===

impl About {
    pub(crate) fn needs_handshake(&self) -> bool {
        self.tls.is_some() || self.proxy_from.is_some()
    }
}
