//! The network of a client, which reports show for a caller without a key. Imports nothing of the
//! crate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A /24 of IPv4 or a /48 of IPv6, as one number that is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientNetwork(u64);

// === impl ClientNetwork ===

impl ClientNetwork {
    const IPV4: u64 = 4 << 60;
    const IPV6: u64 = 6 << 60;

    /// `client` is canonical.
    pub fn of(client: IpAddr) -> Self {
        Self(match client {
            IpAddr::V4(ip) => Self::IPV4 | u64::from(ip.to_bits() >> 8),
            IpAddr::V6(ip) => Self::IPV6 | (ip.to_bits() >> 80) as u64,
        })
    }

    /// The number that [`Self::from_number`] accepts. Never 0.
    pub const fn as_number(self) -> u64 {
        self.0
    }

    /// From a number that [`Self::as_number`] returned.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    pub fn network(self) -> Option<IpNet> {
        let bits = self.0 & ((1 << 60) - 1);
        match self.0 & !((1 << 60) - 1) {
            Self::IPV4 => {
                let ip = Ipv4Addr::from_bits((bits as u32) << 8);
                Ipv4Net::new(ip, 24).ok().map(IpNet::V4)
            }
            _ => {
                let ip = Ipv6Addr::from_bits(u128::from(bits) << 80);
                Ipv6Net::new(ip, 48).ok().map(IpNet::V6)
            }
        }
    }
}
