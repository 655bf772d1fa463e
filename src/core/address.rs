//! Addresses and networks: one canonical form, and the walk through trusted proxies.

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// Why a network was refused. Every case is a mistake in the configuration or the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("names a single address of a network; write the network, `{0}`, or the address alone")]
    HostBits(IpNet),
    #[error("is an IPv4-mapped IPv6 network; write it as IPv4")]
    Mapped,
    #[error("is neither an address nor a network such as 203.0.113.0/24 or 2001:db8::/32")]
    Syntax,
}

/// Networks that a key may be used from. Empty: from everywhere. IPv4-mapped networks are never in
/// it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkSet(Box<[IpNet]>);

/// An address as text, for heads and log lines: `Display` takes a third of the time of such a line.
#[derive(Clone, Copy, Debug)]
pub struct AddressText {
    text: [u8; Self::ROOM],
    length: usize,
}

/// `::ffff:a.b.c.d` is `a.b.c.d` (slskd#1606: a mapped client missed the IPv4 allow list).
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whether the host of a URL is this machine by its name alone: `localhost` or a loopback address, with or
/// without the brackets of IPv6. Nobody else hears what is sent there in clear.
pub fn is_this_host(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    host.eq_ignore_ascii_case("localhost")
        || inner.unwrap_or(host).parse::<IpAddr>().is_ok_and(|ip| canonical(ip).is_loopback())
}

/// A network, or an address as the network of that one address. Host bits are cleared.
pub fn parse_network(text: &str) -> Result<IpNet, NetworkError> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_| NetworkError::Syntax)?),
    };
    // A mapped network would match nothing (keygate compares canonical addresses) or, with a short
    // prefix, everything: 3proxy#807.
    if let IpNet::V6(v6) = net
        && is_mapped(v6.addr())
    {
        return Err(NetworkError::Mapped);
    }
    Ok(net.trunc())
}

// === impl AddressText ===

impl AddressText {
    /// The longest IPv6 address has 45 bytes.
    const ROOM: usize = 48;

    pub fn of(address: IpAddr) -> Self {
        let mut it = Self { text: [0; Self::ROOM], length: 0 };
        match address {
            IpAddr::V4(v4) => {
                for octet in v4.octets() {
                    it.put_octet(octet);
                }
                // Without the last dot.
                it.length -= 1;
            }
            IpAddr::V6(v6) => {
                let mut room = &mut it.text[..];
                // There is room for every address.
                let _ = write!(room, "{v6}");
                it.length = Self::ROOM - room.len();
            }
        }
        it
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.text.get(..self.length).unwrap_or_default()
    }

    /// Writes the octet and a dot.
    fn put_octet(&mut self, octet: u8) {
        let digit = |n: u8| b'0' + n % 10;
        let (text, length) = match octet {
            0..10 => ([digit(octet), b'.', 0, 0], 2),
            10..100 => ([digit(octet / 10), digit(octet), b'.', 0], 3),
            100.. => ([digit(octet / 100), digit(octet / 10), digit(octet), b'.'], 4),
        };
        if let Some(to) = self.text.get_mut(self.length..self.length + text.len()) {
            to.copy_from_slice(&text);
            self.length += length;
        }
    }
}

/// As [`parse_network`], for input that somebody types: `10.0.0.1/8` may mean one address or all of
/// `10.0.0.0/8`, and is not silently widened to the network.
pub fn parse_typed_network(text: &str) -> Result<IpNet, NetworkError> {
    let net = parse_network(text)?;
    match text.parse::<IpNet>() {
        Ok(typed) if typed != net => Err(NetworkError::HostBits(net)),
        _ => Ok(net),
    }
}

fn is_mapped(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some()
}

/// The client's address: the peer, or, while the hop is a trusted proxy, the next entry of
/// `X-Forwarded-For` from the right. `entries` are all values of all its lines in order.
///
/// Stops at the first untrusted hop, and at an entry that is not an address (oauth2-proxy#3478,
/// APISIX CVE-2022-24112): a stranger wrote everything to the left of it.
pub fn client_address<'a>(
    peer: IpAddr,
    entries: impl DoubleEndedIterator<Item = &'a str>,
    trusted: &NetworkSet,
) -> IpAddr {
    let mut hop = canonical(peer);
    if trusted.is_empty() {
        return hop;
    }
    for entry in entries.rev() {
        if !trusted.allows(hop) {
            break;
        }
        let entry = entry.trim_matches([' ', '\t']);
        // RFC 9110 section 5.6.1: an empty element means nothing.
        if entry.is_empty() {
            continue;
        }
        match parse_hop(entry) {
            Some(next) => hop = next,
            None => break,
        }
    }
    hop
}

/// One X-Forwarded-For entry: an address or, as several proxies write it, an address with a port. A
/// scope (`fe80::1%eth0`) is dropped: it means nothing outside the host (Envoy CVE-2026-26310).
fn parse_hop(entry: &str) -> Option<IpAddr> {
    let bare = match entry.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => match entry.split_once(':') {
            Some((v4, _)) if v4.contains('.') => v4,
            _ => entry,
        },
    };
    let unscoped = bare.split_once('%').map_or(bare, |(address, _)| address);
    unscoped.parse().ok().map(canonical)
}

// === impl NetworkSet ===

impl NetworkSet {
    /// The caller must have refused IPv4-mapped networks ([`parse_network`]).
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let mut networks: Vec<_> = networks.into_iter().map(|n| n.trunc()).collect();
        networks.sort_unstable();
        networks.dedup();
        Self(networks.into())
    }

    pub fn allows(&self, client: IpAddr) -> bool {
        let client = canonical(client);
        self.0.is_empty() || self.0.iter().any(|n| n.contains(&client))
    }

    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, xff: &str, trusted: &[&str]) -> String {
        let trusted = NetworkSet::new(trusted.iter().map(|t| parse_network(t).unwrap()));
        client_address(peer.parse().unwrap(), xff.split(','), &trusted).to_string()
    }

    #[test]
    fn text_is_that_of_the_formatter() {
        let octets = (0..=255).map(|n: u8| IpAddr::from([n, n ^ 0xa5, 255 - n, n / 3]));
        let v6 = ["::", "::1", "2001:db8::7", "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255"];
        let v6 = v6.into_iter().map(|text| text.parse().unwrap());
        for address in octets.chain(v6) {
            let text = AddressText::of(address);
            assert_eq!(std::str::from_utf8(text.as_bytes()).unwrap(), address.to_string());
        }
    }

    #[test]
    fn this_host() {
        for (host, is_here) in [
            ("localhost", true),
            ("LOCALHOST", true),
            ("127.0.0.1", true),
            ("127.8.0.1", true),
            ("::1", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("", false),
            ("localhost.", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("[127.0.0.1", false),
            ("192.0.2.1", false),
            ("[2001:db8::1]", false),
        ] {
            assert_eq!(is_this_host(host), is_here, "{host}");
        }
    }

    #[test]
    fn walk() {
        let cases = [
            ("nobody trusted", "10.0.0.1", "1.1.1.1", &[][..], "10.0.0.1"),
            ("peer not trusted", "9.9.9.9", "1.1.1.1", &["10.0.0.0/8"], "9.9.9.9"),
            ("one hop", "10.0.0.1", "1.1.1.1", &["10.0.0.0/8"], "1.1.1.1"),
            ("spoofed left part", "10.0.0.1", "6.6.6.6, 1.1.1.1", &["10.0.0.0/8"], "1.1.1.1"),
            ("two hops", "10.0.0.1", "1.1.1.1, 10.0.0.2", &["10.0.0.0/8"], "1.1.1.1"),
            ("all trusted", "10.0.0.1", "10.0.0.3, 10.0.0.2", &["10.0.0.0/8"], "10.0.0.3"),
            ("junk stops", "10.0.0.1", "1.1.1.1, junk", &["10.0.0.0/8"], "10.0.0.1"),
            ("empty", "10.0.0.1", "", &["10.0.0.0/8"], "10.0.0.1"),
            ("empty elements", "10.0.0.1", ", 1.1.1.1,, \t,10.0.0.2, ", &["10.0.0.0/8"], "1.1.1.1"),
            ("nothing but empty ones", "10.0.0.1", ",, ,", &["10.0.0.0/8"], "10.0.0.1"),
            ("junk among empty ones", "10.0.0.1", "1.1.1.1,,junk,", &["10.0.0.0/8"], "10.0.0.1"),
            ("mapped peer", "::ffff:10.0.0.1", "1.1.1.1", &["10.0.0.0/8"], "1.1.1.1"),
            ("mapped entry", "10.0.0.1", "::ffff:1.1.1.1", &["10.0.0.0/8"], "1.1.1.1"),
            ("port", "10.0.0.1", "1.1.1.1:443", &["10.0.0.0/8"], "1.1.1.1"),
            ("v6 with port", "10.0.0.1", "[2001:db8::1]:443", &["10.0.0.0/8"], "2001:db8::1"),
            ("scope", "10.0.0.1", "fe80::1%eth0", &["10.0.0.0/8"], "fe80::1"),
        ];
        for (name, peer, xff, trusted, want) in cases {
            assert_eq!(client(peer, xff, trusted), want, "{name}");
        }
    }

    #[test]
    fn networks() {
        assert_eq!(parse_network("::ffff:10.0.0.0/104"), Err(NetworkError::Mapped));
        assert_eq!(parse_network("10.0.0.300"), Err(NetworkError::Syntax));
        assert_eq!(parse_network("10.0.0.7/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(parse_network("10.0.0.7").unwrap().to_string(), "10.0.0.7/32");
    }

    #[test]
    fn mapped_client_address_meets_its_ipv4_network() {
        let set = NetworkSet::new(["203.0.113.0/24".parse().unwrap()]);
        assert!(set.allows("203.0.113.9".parse().unwrap()));
        assert!(set.allows("::ffff:203.0.113.9".parse().unwrap()));
        assert!(!set.allows("203.0.114.9".parse().unwrap()));
        assert!(NetworkSet::default().allows("::1".parse().unwrap()));
    }
}
