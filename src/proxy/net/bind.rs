//! Binds addresses before anybody can connect: a start then listens on them, `check` releases them.
//! Imports `config` alone.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Bind, Families, Listener, Sharing, SocketFile};

/// A socket with its address that does not listen yet.
#[derive(Debug)]
pub enum Bound {
    Tcp(Socket),
    Unix(Socket),
    /// A parent process listens on it already, and will continue after our end.
    Inherited(BoundSocket),
}

/// A socket that listens.
#[derive(Debug)]
pub enum BoundSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// Takes the address of a listener.
pub fn bind(listener: &Listener) -> io::Result<Bound> {
    match &listener.bind {
        Bind::Tcp(address) => {
            bind_tcp(*address, listener.families, listener.sharing).map(Bound::Tcp)
        }
        Bind::Unix(path) => bind_unix(path, listener.socket).map(Bound::Unix),
    }
}

/// Takes a TCP address. Only a socket that listens there and does not share it can prevent that.
pub fn bind_tcp(address: SocketAddr, families: Families, sharing: Sharing) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for old connections. Another listener still conflicts.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if families == Families::OnlyIpv6 {
        socket.set_only_v6(true)?;
    }
    if sharing == Sharing::SameUser {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind_unix(path: &Path, file: SocketFile) -> io::Result<Socket> {
    let socket = file.bind(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

// === impl BoundSocket ===

/// The address in the form that the configuration uses.
impl fmt::Display for BoundSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "{address}"),
                Err(error) => write!(f, "an unknown address ({error})"),
            },
            Self::Unix(listener) => {
                let address = listener.local_addr().ok();
                match address.as_ref().and_then(|address| address.as_pathname()) {
                    Some(path) => write!(f, "unix:{}", path.display()),
                    None => write!(f, "a Unix socket without a path"),
                }
            }
        }
    }
}
