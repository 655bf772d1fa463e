//! Listening sockets on the service's port, and whether they answer to other machines.

use std::fs::File;
use std::io::{self, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};
use std::time::Duration;

use super::Exposure;
use super::own::{self, OwnAddress};
use crate::config::Families;

/// A connection to this machine is accepted immediately, unless the socket's queue is full.
const PATIENCE: Duration = Duration::from_millis(250);

/// After this many addresses without an answer, the check stops trying.
const SILENT: usize = 3;

/// A port of the service, and keygate's own sockets on it.
#[derive(Debug)]
pub(super) struct ServicePort {
    port: u16,
    /// The address that keygate connects to.
    address: IpAddr,
    /// Sockets of keygate with the same port: reaching them does not bypass it.
    ours: Vec<OwnSocket>,
}

#[derive(Debug)]
struct OwnSocket {
    ip: IpAddr,
    families: Families,
}

/// Whether a connection succeeded there.
enum ConnectAttempt {
    Accepted,
    Refused,
    /// No answer in time, or the attempt failed locally.
    Unclear,
}

// === impl ServicePort ===

impl ServicePort {
    /// `None`: `host` is a name whose addresses are unknown here.
    pub(super) fn new(
        host: &str,
        port: u16,
        ours: impl Iterator<Item = (SocketAddr, Families)>,
    ) -> Option<Self> {
        let literal = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let address = match literal.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical(),
            // RFC 6761, section 6.3.
            Err(_) if literal.eq_ignore_ascii_case("localhost") => Ipv4Addr::LOCALHOST.into(),
            Err(_) => return None,
        };
        let ours = ours
            .filter(|(at, _)| at.port() == port)
            .map(|(at, families)| OwnSocket { ip: at.ip().to_canonical(), families })
            .collect();
        Some(Self { port, address, ours })
    }

    pub(super) fn look(&self) -> Exposure {
        let own = match own::addresses() {
            Ok(own) => own,
            Err(error) => return unreadable(&error),
        };
        // Connecting to 0.0.0.0 or [::] leads to loopback.
        let is_here = self.address.is_loopback()
            || self.address.is_unspecified()
            || own.iter().any(|own| own.ip == self.address);
        if !is_here {
            return Exposure::unknown(&format!("the service is on another host: {}", self.address));
        }
        match listening(self.port) {
            Ok(sockets) => self.judge(&sockets, &own, connect),
            Err(error) => unreadable(&error),
        }
    }

    fn judge(
        &self,
        sockets: &[IpAddr],
        own: &[OwnAddress],
        connect: impl Fn(SocketAddr) -> ConnectAttempt,
    ) -> Exposure {
        let (mut exposed, mut reached, mut silent) = (Vec::new(), Vec::new(), Vec::new());
        for socket in sockets {
            if socket.is_loopback() || self.ours.iter().any(|ours| ours.ip == *socket) {
                continue;
            }
            for candidate in own.iter().filter(|own| is_served(*socket, own.ip)) {
                if self.ours.iter().any(|ours| ours.takes(candidate.ip)) || silent.len() >= SILENT {
                    continue;
                }
                let at = match candidate.ip {
                    IpAddr::V6(ip) => SocketAddrV6::new(ip, self.port, 0, candidate.scope).into(),
                    IpAddr::V4(_) => SocketAddr::new(candidate.ip, self.port),
                };
                match connect(at) {
                    ConnectAttempt::Accepted => {
                        exposed.push(SocketAddr::new(*socket, self.port).to_string());
                        reached.push(at.to_string());
                        break;
                    }
                    ConnectAttempt::Refused => {}
                    ConnectAttempt::Unclear => silent.push(at.to_string()),
                }
            }
        }
        if !exposed.is_empty() {
            Exposure::exposed(exposed, reached)
        } else if silent.is_empty() {
            Exposure::closed()
        } else {
            let at = silent.join(", ");
            Exposure::unknown(&format!("it listens beyond loopback, but does not answer on {at}"))
        }
    }
}

// === impl OwnSocket ===

impl OwnSocket {
    /// Whether a connection to `address` arrives here.
    fn takes(&self, address: IpAddr) -> bool {
        match self.ip {
            ip if !ip.is_unspecified() => ip == address,
            IpAddr::V4(_) => address.is_ipv4(),
            IpAddr::V6(_) => address.is_ipv6() || self.families == Families::Both,
        }
    }
}

/// Whether the kernel may give a connection to `address` to a socket that is bound to `socket`.
/// `[::]` also accepts IPv4 unless it is `IPV6_V6ONLY`, which `/proc` does not show but a
/// connection does.
fn is_served(socket: IpAddr, address: IpAddr) -> bool {
    match socket {
        ip if !ip.is_unspecified() => ip == address,
        IpAddr::V4(_) => address.is_ipv4(),
        IpAddr::V6(_) => true,
    }
}

/// Closes the connection immediately: the service sees a client that asks for nothing.
fn connect(at: SocketAddr) -> ConnectAttempt {
    match TcpStream::connect_timeout(&at, PATIENCE) {
        Ok(_) => ConnectAttempt::Accepted,
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => ConnectAttempt::Refused,
            _ => ConnectAttempt::Unclear,
        },
    }
}

fn unreadable(error: &io::Error) -> Exposure {
    Exposure::unknown(&format!("/proc/self/net cannot be read: {error}"))
}

/// The addresses that sockets of this network namespace listen on with `port`, without repetition.
fn listening(port: u16) -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    collect(BufReader::new(File::open("/proc/self/net/tcp")?), port, &mut found)?;
    match File::open("/proc/self/net/tcp6") {
        Ok(file) => collect(BufReader::new(file), port, &mut found)?,
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(found)
}

/// proc_pid_net(5): number, local address, remote address, state, … Read line by line, because a
/// busy machine has hundreds of thousands.
fn collect(lines: impl io::BufRead, port: u16, found: &mut Vec<IpAddr>) -> io::Result<()> {
    for line in lines.lines() {
        if let Some(at) = listener(&line?)
            && at.port() == port
            && !found.contains(&at.ip())
        {
            found.push(at.ip());
        }
    }
    Ok(())
}

/// `None`: it is not a listening socket.
fn listener(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_ascii_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    // TCP_LISTEN of include/net/tcp_states.h.
    if words.nth(1)? != "0A" {
        return None;
    }
    let port = u16::from_str_radix(port, 16).ok()?;
    // 32-bit words in the byte order of the machine.
    let word = |at: usize| {
        let digits = address.get(at * 8..(at + 1) * 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests;
