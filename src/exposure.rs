//! Can clients bypass the gate to reach the service? For a service on this machine, its sockets
//! show that. Imports config.
//!
//! A gate protects a service only if nobody can reach it another way. A service that listens on
//! every address of the machine (the default of many frameworks) can be reached without a key. The
//! check reads the sockets of the network namespace that keygate runs in: in a pod, those of all
//! containers.

mod own;
mod ports;
mod socket_file;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::Serialize;

use self::ports::ServicePort;
use crate::config::{Bind, Config, UpstreamAddress, UpstreamConfig};

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exposure {
    pub state: ExposureState,
    /// Sockets and files through which the service can be reached: `0.0.0.0:9000`,
    /// `/run/app.sock (mode 0777)`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<String>,
    /// An address of this machine for each such socket, where a connection was accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reached: Vec<String>,
    /// Why nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExposureState {
    /// No socket of the service can be reached from another machine, or by other users.
    Closed,
    Exposed,
    /// The service is on another machine, or the system did not say.
    Unknown,
}

/// The latest [`Exposure`]. All clones are the same.
#[derive(Clone, Debug)]
pub struct ExposureCell(Arc<ArcSwap<Exposure>>);

/// What to check.
#[derive(Debug)]
pub struct ExposureCheck {
    target: WatchedUpstream,
}

#[derive(Debug)]
enum WatchedUpstream {
    /// `upstream.exposure_check = false`.
    Off,
    /// Only a resolver knows its addresses, and nothing here asks one.
    Named(Box<str>),
    Port(ServicePort),
    SocketFile(PathBuf),
}

// === impl ExposureCheck ===

impl ExposureCheck {
    /// `upstream`: one of those in `config`.
    pub fn of(config: &Config, upstream: &UpstreamConfig) -> Self {
        let target = match &upstream.address {
            _ if !upstream.exposure_check => WatchedUpstream::Off,
            UpstreamAddress::Unix(path) => WatchedUpstream::SocketFile(path.clone()),
            UpstreamAddress::Tcp { host, port } => {
                let gate = config.listeners.iter().filter_map(|listener| match listener.bind {
                    Bind::Tcp(at) => Some((at, listener.families)),
                    Bind::Unix(_) => None,
                });
                let admin = &config.admin;
                let public = admin.public.map(|at| (at, admin.public_families));
                let ours = gate.chain([(admin.bind, admin.families)]).chain(public);
                match ServicePort::new(host, *port, ours) {
                    Some(port) => WatchedUpstream::Port(port),
                    None => WatchedUpstream::Named(host.clone()),
                }
            }
        };
        Self { target }
    }

    /// Whether a later check can have another result.
    pub fn is_needed(&self) -> bool {
        matches!(self.target, WatchedUpstream::Port(_) | WatchedUpstream::SocketFile(_))
    }

    /// Reads `/proc` and connects to addresses of this machine. Blocks for at most about a second.
    pub fn look(&self) -> Exposure {
        match &self.target {
            WatchedUpstream::Off => Exposure::unknown("upstream.exposure_check is off"),
            WatchedUpstream::Named(host) => {
                Exposure::unknown(&format!("the service has a name, not an address here: {host}"))
            }
            WatchedUpstream::Port(port) => port.look(),
            WatchedUpstream::SocketFile(path) => socket_file::look(path),
        }
    }
}

// === impl Exposure ===

impl Exposure {
    fn closed() -> Self {
        Self { state: ExposureState::Closed, sockets: Vec::new(), reached: Vec::new(), why: None }
    }

    fn exposed(sockets: Vec<String>, reached: Vec<String>) -> Self {
        Self { state: ExposureState::Exposed, sockets, reached, why: None }
    }

    fn unknown(why: &str) -> Self {
        Self { state: ExposureState::Unknown, why: Some(why.to_owned()), ..Self::closed() }
    }

    /// One line for a person, if the service is exposed.
    pub fn message(&self) -> Option<String> {
        if self.state != ExposureState::Exposed {
            return None;
        }
        let sockets = self.sockets.join(", ");
        Some(match self.reached.as_slice() {
            [] => {
                format!("other users of this machine reach the service around keygate: {sockets}")
            }
            reached => format!(
                "clients reach the service around keygate: it listens on {sockets} and answers on {}",
                reached.join(", ")
            ),
        })
    }

    /// What helps.
    pub fn hint(&self) -> &'static str {
        match self.reached.is_empty() {
            true => {
                "let only the service's and keygate's user or group own and write to the socket and \
                 the directories on the way to it (chmod o-w, chown, chgrp)"
            }
            false => {
                "let the service listen on 127.0.0.1, [::1] or a Unix socket. Only where a firewall \
                 or NetworkPolicy keeps clients off that port, set upstream.exposure_check = false"
            }
        }
    }

    /// Whether both have the same result. Addresses of a machine change without any action.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.state == other.state && self.sockets == other.sockets
    }

    /// The value of the metric.
    pub fn gauge(&self) -> i8 {
        match self.state {
            ExposureState::Closed => 0,
            ExposureState::Exposed => 1,
            ExposureState::Unknown => -1,
        }
    }
}

// === impl ExposureCell ===

impl Default for ExposureCell {
    fn default() -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Exposure::unknown("nobody has looked yet"))))
    }
}

impl ExposureCell {
    pub fn load(&self) -> Arc<Exposure> {
        self.0.load_full()
    }

    pub fn store(&self, exposure: Exposure) {
        self.0.store(Arc::new(exposure));
    }
}

#[cfg(test)]
mod tests;
