//! The addresses of this machine, as `/proc/self/net` lists them. getifaddrs(3) would ask over
//! netlink, which a hardened unit forbids (`RestrictAddressFamilies`).

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address, and the interface that is needed to connect to a link-local one (0: none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnAddress {
    pub(super) ip: IpAddr,
    pub(super) scope: u32,
}

/// All addresses except loopback. Fails where `/proc` is not mounted.
pub(super) fn addresses() -> io::Result<Vec<OwnAddress>> {
    let mut found = ipv4(&fs::read_to_string("/proc/self/net/fib_trie")?);
    match fs::read_to_string("/proc/self/net/if_inet6") {
        Ok(text) => found.extend(ipv6(&text)),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    found.retain(|address| !address.ip.is_loopback());
    Ok(found)
}

/// The tries of all routing tables: a leaf `|-- ADDRESS`, followed by its type.
fn ipv4(trie: &str) -> Vec<OwnAddress> {
    let mut found: Vec<OwnAddress> = Vec::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(ip) = leaf
        {
            let own = OwnAddress { ip: ip.into(), scope: 0 };
            if !found.contains(&own) {
                found.push(own);
            }
        }
    }
    found
}

/// A line per address: 32 hex digits, interface, length of the prefix, scope, flags, name.
fn ipv6(lines: &str) -> Vec<OwnAddress> {
    let own = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let ip = Ipv6Addr::from(u128::from_str_radix(words.next()?, 16).ok()?);
        let interface = u32::from_str_radix(words.next()?, 16).ok()?;
        let scope = if ip.is_unicast_link_local() { interface } else { 0 };
        Some(OwnAddress { ip: ip.into(), scope })
    };
    lines.lines().filter_map(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_addresses_are_read_and_networks_are_not() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                    Local:\n        |-- 127.0.0.0\n           /8 host LOCAL\n        |-- 10.1.2.3\n\
                    \x20          /32 host LOCAL\n        |-- 10.1.2.255\n           /32 link BROADCAST\n\
                    Local:\n        |-- 10.1.2.3\n           /32 host LOCAL\n        |-- nonsense\n\
                    \x20          /32 host LOCAL\n";
        let own = OwnAddress { ip: "10.1.2.3".parse().unwrap(), scope: 0 };
        assert_eq!(ipv4(trie), [own]);
        assert_eq!(ipv4(""), []);
    }

    #[test]
    fn a_link_local_address_has_its_interface() {
        let lines = "fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n\
                     fd000000000000000000000000000002 0a 40 00 82     eth1\n\nxx 1\nfd00\n";
        let own = |ip: &str, scope| OwnAddress { ip: ip.parse().unwrap(), scope };
        assert_eq!(ipv6(lines), [own("fe80::fc:ff:fe00:1", 4), own("fd00::2", 0)]);
    }
}
