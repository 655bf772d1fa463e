//! Listening sockets that a parent has opened and passes on, so that they outlive this process:
//! sd_listen_fds(3) of systemd, or any parent that implements it.

use std::io;
use std::net::SocketAddr;

use listenfd::ListenFd;
use socket2::SockRef;

use crate::admin::AdminDoor;
use crate::config::Bind;
use crate::proxy::BoundSocket;

/// Name of a descriptor that is for the admin listener, whatever its address.
const ADMIN: &str = "admin";

/// The same for the listener of `admin.public_address`.
const PUBLIC: &str = "admin-public";

/// Name of descriptors that are for the listeners, in the order of the configuration, whatever
/// their addresses.
const LISTEN: &str = "listen";

/// The first descriptor that sd_listen_fds(3) passes.
const FIRST: usize = 3;

/// More descriptors than any parent passes. The list of them is built before any of them is
/// examined.
const MOST: u16 = u16::MAX;

/// Sockets that were passed and not yet taken.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    descriptors: Vec<Descriptor>,
}

#[derive(Debug)]
struct Descriptor {
    number: usize,
    name: String,
    socket: BoundSocket,
}

/// Why the passed sockets cannot be used. Then nothing is served: clients would wait at a socket
/// that nobody reads.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    #[error(
        "LISTEN_FDS is not a number of descriptors from 0 to {MOST}: {value:?}\n\
         hint: set it to how many sockets you pass from descriptor 3 on, or unset it"
    )]
    BadCount { value: String },
    #[error(
        "LISTEN_PID is not the number of a process: {value:?}\n\
         hint: set it to the process id of keygate, or unset LISTEN_PID and LISTEN_FDS"
    )]
    BadProcess { value: String },
    #[error(
        "the admin listener takes TCP only, and descriptor {number} is a Unix socket\n\
         hint: pass a TCP socket as `{name}`, or none"
    )]
    AdminIsUnix { number: usize, name: &'static str },
    #[error(
        "descriptor {number} (`{name}`), passed by LISTEN_FDS, is no listening stream socket\n\
         hint: pass TCP or Unix sockets that listen (ListenStream= of a systemd socket)"
    )]
    NotListening { number: usize, name: String },
    #[error(
        "descriptor {number} (`{name}`), passed by LISTEN_FDS, belongs to no listener: it is bound \
         to {address}\n\
         hint: give a listener that address, or name the descriptor `listen`, \
         `admin` or `admin-public` (FileDescriptorName= of a systemd socket)"
    )]
    Unclaimed { number: usize, name: String, address: String },
}

// === impl Inherited ===

impl Inherited {
    /// What the parent has passed to this process. Removes the variables from the environment, so
    /// it must be called before there is a second thread.
    pub(super) fn from_parent() -> Result<Self, InheritedError> {
        #[expect(clippy::disallowed_methods, reason = "no configuration: sd_listen_fds(3)")]
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let variable =
            |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        // `ListenFd` ignores what it cannot read.
        check(variable("LISTEN_FDS"), variable("LISTEN_PID"), std::process::id())?;
        let mut passed = ListenFd::from_env();
        let mut descriptors = Vec::new();
        for at in 0..passed.len() {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown");
            let (number, name) = (FIRST + at, name.to_owned());
            match socket(&mut passed, at) {
                Some(socket) => descriptors.push(Descriptor { number, name, socket }),
                None => return Err(InheritedError::NotListening { number, name }),
            }
        }
        Ok(Self { descriptors })
    }

    /// The socket of each listener, in order. `None`: it has to be bound here.
    pub(super) fn listeners(&mut self, binds: &[&Bind]) -> Vec<Option<BoundSocket>> {
        let mut sockets: Vec<_> = binds.iter().map(|bind| self.bound_to(bind)).collect();
        for socket in sockets.iter_mut().filter(|socket| socket.is_none()) {
            *socket = self.named(LISTEN).map(|descriptor| descriptor.socket);
        }
        sockets
    }

    /// The socket of the admin listener, or of the listener for probes and metrics. `None`: it has
    /// to be bound here.
    pub(super) fn admin(
        &mut self,
        door: AdminDoor,
        address: SocketAddr,
    ) -> Result<Option<std::net::TcpListener>, InheritedError> {
        let name = match door {
            AdminDoor::Admin => ADMIN,
            AdminDoor::Public => PUBLIC,
        };
        if let Some(descriptor) = self.named(name) {
            return match descriptor.socket {
                BoundSocket::Tcp(listener) => Ok(Some(listener)),
                BoundSocket::Unix(_) => {
                    Err(InheritedError::AdminIsUnix { number: descriptor.number, name })
                }
            };
        }
        match self.bound_to(&Bind::Tcp(address)) {
            Some(BoundSocket::Tcp(listener)) => Ok(Some(listener)),
            _ => Ok(None),
        }
    }

    /// Call this once all sockets were taken.
    pub(super) fn finish(self) -> Result<(), InheritedError> {
        match self.descriptors.into_iter().next() {
            None => Ok(()),
            Some(Descriptor { number, name, socket }) => {
                let address = socket.to_string();
                Err(InheritedError::Unclaimed { number, name, address })
            }
        }
    }

    fn bound_to(&mut self, bind: &Bind) -> Option<BoundSocket> {
        let at = self.descriptors.iter().position(|descriptor| {
            // A name that identifies the owner is more informative than the address.
            ![ADMIN, LISTEN, PUBLIC].contains(&descriptor.name.as_str())
                && is_bound(&descriptor.socket, bind)
        });
        at.map(|at| self.descriptors.remove(at).socket)
    }

    fn named(&mut self, name: &str) -> Option<Descriptor> {
        let at = self.descriptors.iter().position(|descriptor| descriptor.name == name)?;
        Some(self.descriptors.remove(at))
    }
}

/// Whether the variables of sd_listen_fds(3) are valid, if they are meant for process `own`. An
/// empty one counts as absent.
fn check(count: Option<String>, process: Option<String>, own: u32) -> Result<(), InheritedError> {
    let Some(count) = count.filter(|count| !count.is_empty()) else { return Ok(()) };
    if let Some(value) = process.filter(|process| !process.is_empty()) {
        match number::<u32>(&value) {
            None => return Err(InheritedError::BadProcess { value }),
            // They belong to another process, and are not ours to judge.
            Some(process) if process != own => return Ok(()),
            Some(_) => {}
        }
    }
    match number::<u16>(&count) {
        Some(_) => Ok(()),
        None => Err(InheritedError::BadCount { value: count }),
    }
}

/// Digits only: a sign is not allowed.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn socket(passed: &mut ListenFd, at: usize) -> Option<BoundSocket> {
    let tcp = passed.take_tcp_listener(at).ok().flatten().map(BoundSocket::Tcp);
    let socket = match tcp {
        Some(tcp) => tcp,
        None => BoundSocket::Unix(passed.take_unix_listener(at).ok().flatten()?),
    };
    let listens = match &socket {
        BoundSocket::Tcp(listener) => SockRef::from(listener).is_listener(),
        BoundSocket::Unix(listener) => SockRef::from(listener).is_listener(),
    };
    listens.is_ok_and(|listens| listens).then_some(socket)
}

/// Whether `socket` is what `bind` asks for. A socket of `[::]` that also accepts IPv4 (which
/// `ListenStream=8080` of systemd makes) matches every address.
fn is_bound(socket: &BoundSocket, bind: &Bind) -> bool {
    match (socket, bind) {
        (BoundSocket::Tcp(listener), Bind::Tcp(wanted)) => {
            let Ok(bound) = listener.local_addr() else { return false };
            let both = bound.ip().is_unspecified() && is_dual(listener, bound).unwrap_or(false);
            bound == *wanted
                || (both && wanted.ip().is_unspecified() && bound.port() == wanted.port())
        }
        (BoundSocket::Unix(listener), Bind::Unix(path)) => {
            let bound = listener.local_addr().ok();
            bound.is_some_and(|bound| bound.as_pathname() == Some(path))
        }
        _ => false,
    }
}

fn is_dual(listener: &std::net::TcpListener, bound: SocketAddr) -> io::Result<bool> {
    Ok(bound.is_ipv6() && !SockRef::from(listener).only_v6()?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn passed(sockets: Vec<(&str, BoundSocket)>) -> Inherited {
        let descriptors = sockets.into_iter().enumerate().map(|(at, (name, socket))| Descriptor {
            number: FIRST + at,
            name: name.to_owned(),
            socket,
        });
        Inherited { descriptors: descriptors.collect() }
    }

    fn tcp(address: &str) -> (BoundSocket, SocketAddr) {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        (BoundSocket::Tcp(listener), address)
    }

    #[test]
    fn each_listener_gets_its_own_by_address() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("http.sock");
        let unix = BoundSocket::Unix(UnixListener::bind(&path).unwrap());
        let ((one, first), (two, second), (three, admin)) =
            (tcp("127.0.0.1:0"), tcp("127.0.0.1:0"), tcp("127.0.0.1:0"));
        // In any order, under any names.
        let mut all =
            passed(vec![("x", two), ("unknown", three), ("keygate.socket", unix), ("x", one)]);
        let binds = [Bind::Tcp(first), Bind::Unix(path), Bind::Tcp(second)];
        let sockets = all.listeners(&binds.iter().collect::<Vec<_>>());
        for (bind, socket) in binds.iter().zip(&sockets) {
            assert!(is_bound(socket.as_ref().unwrap(), bind), "{bind:?}");
        }
        assert!(all.admin(AdminDoor::Admin, admin).unwrap().is_some());
        all.finish().unwrap();
    }

    #[test]
    fn names_say_whose_it_is_whatever_the_address() {
        let ((one, first), (two, second), (admin, _)) =
            (tcp("127.0.0.1:0"), tcp("127.0.0.1:0"), tcp("127.0.0.1:0"));
        let mut all = passed(vec![("admin", admin), ("listen", one), ("listen", two)]);
        let elsewhere = Bind::Tcp("127.0.0.1:0".parse().unwrap());
        let sockets = all.listeners(&[&elsewhere, &elsewhere, &elsewhere]);
        assert!(is_bound(sockets[0].as_ref().unwrap(), &Bind::Tcp(first)));
        assert!(is_bound(sockets[1].as_ref().unwrap(), &Bind::Tcp(second)));
        assert!(sockets[2].is_none(), "to be bound here");
        assert!(all.admin(AdminDoor::Admin, "127.0.0.1:9901".parse().unwrap()).unwrap().is_some());
        all.finish().unwrap();
    }

    #[test]
    fn a_socket_for_both_families_is_every_address_s() {
        let Ok(listener) = TcpListener::bind("[::]:0") else { return };
        let port = listener.local_addr().unwrap().port();
        let socket = BoundSocket::Tcp(listener);
        for (address, want) in [("0.0.0.0", true), ("[::]", true), ("127.0.0.1", false)] {
            let bind = Bind::Tcp(format!("{address}:{port}").parse().unwrap());
            assert_eq!(is_bound(&socket, &bind), want, "{address}");
        }
    }

    #[test]
    fn variables_that_cannot_be_read_are_errors() {
        let check = |count: &str, process: &str| {
            let given = |text: &str| Some(text).filter(|t| *t != "-").map(str::to_owned);
            check(given(count), given(process), 42).map_err(|error| error.to_string())
        };
        for (count, process) in
            [("-", "-"), ("", "x"), ("0", "-"), ("2", "42"), ("65535", ""), ("abc", "41")]
        {
            assert_eq!(check(count, process), Ok(()), "{count:?} {process:?}");
        }
        for (count, process, variable) in [
            ("abc", "-", "LISTEN_FDS"),
            ("-1", "42", "LISTEN_FDS"),
            ("+1", "", "LISTEN_FDS"),
            (" 1", "-", "LISTEN_FDS"),
            ("1,2", "-", "LISTEN_FDS"),
            ("65536", "42", "LISTEN_FDS"),
            ("4294967297", "-", "LISTEN_FDS"),
            ("1", "me", "LISTEN_PID"),
            ("1", "-42", "LISTEN_PID"),
            ("1", "4294967338", "LISTEN_PID"),
        ] {
            let said = check(count, process).unwrap_err();
            let hint = said.contains("\nhint: ");
            assert!(said.starts_with(variable) && hint, "{count:?} {process:?}: {said}");
        }
    }

    #[test]
    fn what_nobody_takes_is_an_error() {
        let (one, address) = tcp("127.0.0.1:0");
        let mut all = passed(vec![("web", one)]);
        assert!(all.listeners(&[&Bind::Tcp("127.0.0.1:1".parse().unwrap())])[0].is_none());
        assert!(all.admin(AdminDoor::Admin, "127.0.0.1:2".parse().unwrap()).unwrap().is_none());
        let said = all.finish().unwrap_err().to_string();
        assert!(said.contains("descriptor 3 (`web`)") && said.contains(&address.to_string()));
    }
}
