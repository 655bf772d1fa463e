//! Informs the service manager about the state of the process: sd_notify(3). Nothing waits for it:
//! a manager that does not read loses the messages.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::clock;

/// The socket of the manager. Without one, nothing is sent.
#[derive(Debug, Default)]
pub(super) struct Notifier(Option<Manager>);

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
}

// === impl Notifier ===

impl Notifier {
    /// The manager that the environment names, if any.
    pub(super) fn from_environment() -> Self {
        #[expect(clippy::disallowed_methods, reason = "no configuration: sd_notify(3)")]
        let Ok(name) = std::env::var("NOTIFY_SOCKET") else { return Self(None) };
        match Manager::at(&name) {
            Ok(manager) => Self(Some(manager)),
            Err(error) => {
                tracing::warn!(socket = name, %error, "cannot reach the service manager");
                Self(None)
            }
        }
    }

    /// Whether there is a manager to notify.
    pub(super) fn is_heard(&self) -> bool {
        self.0.is_some()
    }

    /// Requests are served. False: the message could not be sent now.
    pub(super) fn ready(&self, status: &str) -> bool {
        self.tell(&format!("READY=1\nSTATUS={}", line(status)))
    }

    /// SIGHUP was received. The time shows the manager that this answers its signal and not an
    /// earlier one.
    pub(super) fn reloading(&self) -> bool {
        let now = clock::monotonic_us();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS=reloading"))
    }

    /// The shutdown has begun.
    pub(super) fn stopping(&self) -> bool {
        self.tell("STOPPING=1\nSTATUS=draining")
    }

    /// For people, in `systemctl status`.
    pub(super) fn status(&self, status: &str) -> bool {
        self.tell(&format!("STATUS={}", line(status)))
    }

    fn tell(&self, text: &str) -> bool {
        let Some(Manager { socket, address }) = &self.0 else { return true };
        let sent = socket.send_to_addr(text.as_bytes(), address);
        if let Err(error) = &sent {
            tracing::debug!(%error, text, "cannot notify the service manager");
        }
        sent.is_ok()
    }
}

// === impl Manager ===

impl Manager {
    /// A path or, with `@` before it, a name in the abstract namespace.
    fn at(name: &str) -> std::io::Result<Self> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }
}

/// A second line would be another assignment.
fn line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let n = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }

    #[test]
    fn paths_and_abstract_names_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let path = path.to_str().unwrap();
        let name = format!("keygate-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, named) in [
            (UnixDatagram::bind(path).unwrap(), path.to_owned()),
            (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}")),
        ] {
            let notifier = Notifier(Some(Manager::at(&named).unwrap()));
            assert!(notifier.ready("serving\nREADY=0") && notifier.is_heard());
            assert_eq!(heard(&socket), "READY=1\nSTATUS=serving");
            assert!(notifier.reloading());
            let said = heard(&socket);
            let now = said.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
            assert!(said.starts_with("RELOADING=1\n"), "{said}");
            assert!(
                now.unwrap().parse::<u64>().unwrap().abs_diff(clock::monotonic_us()) < 60_000_000
            );
            assert!(notifier.stopping() && notifier.status("gone"));
            assert_eq!(heard(&socket), "STOPPING=1\nSTATUS=draining");
            assert_eq!(heard(&socket), "STATUS=gone");
        }
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier(Some(Manager::at(path.to_str().unwrap()).unwrap()));
        assert!((0..100_000).any(|_| !notifier.status("once more")), "its queue has an end");
        assert!(Notifier::default().ready("nobody") && !Notifier::default().is_heard());
    }
}
