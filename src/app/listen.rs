//! The sockets of the process: locked against strangers, inherited or bound.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use super::StartError;
use super::address_lock::AddressLock;
use super::prepare::bind_hint;
use crate::config::{self, Bind, Sharing};
use crate::proxy::{self, Bound, BoundSocket};
use crate::telemetry::Metrics;
use crate::tls::ServerTls;

/// If other processes of this user may also listen, they must have the same audience.
pub(super) fn lock_addresses(
    listeners: &[config::Listener],
    table: &config::TableConfig,
) -> Result<Vec<AddressLock>, StartError> {
    let mut locks = Vec::new();
    for listener in listeners.iter().filter(|listener| listener.sharing == Sharing::SameUser) {
        // Port 0 is a port of our own. Without a state file, the configuration was refused.
        if let (Bind::Tcp(address), Some(state_file)) = (&listener.bind, &table.state_file)
            && address.port() != 0
        {
            locks.push(AddressLock::take(state_file, *address, &table.audience)?);
        }
    }
    Ok(locks)
}

/// Gives each listener its certificates and its inherited socket, or binds one.
pub(super) fn bind_all(
    listeners: &[config::Listener],
    sockets: Vec<Option<BoundSocket>>,
    tls: Vec<Option<Arc<ServerTls>>>,
    metrics: &Metrics,
) -> Result<(Vec<proxy::Listening>, Vec<Option<SocketAddr>>), StartError> {
    let mut listening = Vec::new();
    let mut addresses = Vec::new();
    for ((listener, socket), tls) in listeners.iter().zip(sockets).zip(tls) {
        let name = match &listener.bind {
            Bind::Tcp(address) => address.to_string(),
            Bind::Unix(path) => format!("unix:{}", path.display()),
        };
        let slot = metrics.intern_listener(&name);
        let listen = |bound| proxy::listen(bound, listener, slot, tls);
        let bound = match socket {
            Some(socket) => Ok(Bound::Inherited(socket)),
            None => proxy::bind(listener),
        };
        let (bound, address) = bound.and_then(listen).map_err(|source| {
            let hint = bind_hint(&listener.bind, &source);
            StartError::Bind { what: "the listener", address: name, source, hint }
        })?;
        listening.push(bound);
        addresses.push(address);
    }
    Ok((listening, addresses))
}

pub(super) fn bind_admin(
    bind: SocketAddr,
    families: config::Families,
    sharing: Sharing,
) -> Result<TcpListener, StartError> {
    /// The same value as in std.
    const BACKLOG: i32 = 128;
    let bound = proxy::bind_tcp(bind, families, sharing);
    let listening = bound.and_then(|socket| {
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    });
    listening.map_err(|source| StartError::Bind {
        what: "the admin listener",
        address: bind.to_string(),
        hint: bind_hint(&Bind::Tcp(bind), &source),
        source,
    })
}
