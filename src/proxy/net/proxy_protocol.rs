//! PROXY protocol v1 and v2: the header that a load balancer puts before the first byte of a
//! connection, read from listed peers only, and written to an upstream that wants it.
//! Imports core only.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::core::address::canonical;

/// The most bytes after the 16 fixed ones of a v2 header: addresses and TLVs. Real senders stay
/// below 1 KiB. The length field would allow 64 KiB (Envoy CVE-2026-47692).
pub const V2_MAX_LENGTH: usize = 4096;

/// Longest v1 header, its CRLF included (section 2.1 of the specification).
const V1_MAX: usize = 107;
/// Signature, version, family and length of a v2 header.
const V2_FIXED: usize = 16;
/// Holds any v1 header and a v2 header with the usual TLVs in one read.
const FIRST_READ: usize = 512;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Why a connection from a listed peer was closed before its first request. In all cases the peer
/// or its configuration is at fault.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("the peer closed inside its PROXY header")]
    Closed,
    #[error("could not read the PROXY header: {0}")]
    Io(#[from] io::Error),
    #[error("malformed PROXY header")]
    Malformed,
    #[error(
        "the connection does not begin with a PROXY header\nhint: this peer is listed as one that \
         sends it: switch it on there, or take the peer off the listener's list"
    )]
    Missing,
    #[error("PROXY header is too long")]
    TooLong,
}

/// What the bytes so far contain.
enum HeaderProgress {
    /// The header ends at this offset.
    Complete { source: Option<SocketAddr>, length: usize },
    /// At least this many bytes are needed in all.
    Needs(usize),
}

/// Reads the header, which must be present. Returns the client's address in canonical form, and the
/// bytes after the header that arrived with it. The address is `None` where the header does not
/// give one: `LOCAL`, `UNKNOWN`, a Unix socket.
///
/// There is no time-out here: the caller's handshake deadline covers it.
pub async fn read_header<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<(Option<SocketAddr>, Bytes), ProxyError> {
    let mut buffer = BytesMut::with_capacity(FIRST_READ);
    loop {
        match parse(&buffer)? {
            HeaderProgress::Complete { source, length } => {
                let leftover = buffer.split_off(length.min(buffer.len()));
                return Ok((source, leftover.freeze()));
            }
            HeaderProgress::Needs(total) => buffer.reserve(total.saturating_sub(buffer.len())),
        }
        // `buffer` never grows past V2_FIXED + V2_MAX_LENGTH (rounded up by the allocator).
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(if buffer.is_empty() { ProxyError::Missing } else { ProxyError::Closed });
        }
    }
}

/// A v2 header that tells the upstream who the client is and which address it connected to. If only
/// one of the two is IPv4, it is written as IPv4-mapped IPv6.
pub fn write_v2(source: SocketAddr, destination: SocketAddr) -> Bytes {
    let (source_ip, destination_ip) = (canonical(source.ip()), canonical(destination.ip()));
    let mut header = BytesMut::with_capacity(52);
    header.put_slice(V2_START);
    header.put_u8(0x21);
    match (source_ip, destination_ip) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.put_u8(0x11);
            header.put_u16(12);
            header.put_slice(&from.octets());
            header.put_slice(&to.octets());
        }
        (from, to) => {
            header.put_u8(0x21);
            header.put_u16(36);
            header.put_slice(&in_v6(from).octets());
            header.put_slice(&in_v6(to).octets());
        }
    }
    header.put_u16(source.port());
    header.put_u16(destination.port());
    header.freeze()
}

/// A v2 header for a connection of keygate's own (a health check, a client on a Unix socket).
pub fn write_v2_local() -> Bytes {
    Bytes::from_static(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00")
}

fn in_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Judges the bytes so far. Junk is refused at its first byte, not when enough bytes have arrived.
fn parse(bytes: &[u8]) -> Result<HeaderProgress, ProxyError> {
    if is_prefix(bytes, V2_START) {
        parse_v2(bytes)
    } else if is_prefix(bytes, V1_START) {
        parse_v1(bytes)
    } else {
        Err(ProxyError::Missing)
    }
}

/// Whether one of the two is the beginning of the other.
fn is_prefix(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(b, s)| b == s)
}

fn parse_v1(bytes: &[u8]) -> Result<HeaderProgress, ProxyError> {
    let window = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = window.iter().position(|b| *b == b'\n') else {
        if bytes.len() >= V1_MAX {
            return Err(ProxyError::TooLong);
        }
        return Ok(HeaderProgress::Needs(V1_MAX));
    };
    let line = window.get(..=end).ok_or(ProxyError::Malformed)?;
    let text = line.strip_suffix(b"\r\n").ok_or(ProxyError::Malformed)?;
    // Stricter than `ppp`: no control or 8-bit bytes, and no `+80`, which `u16::from_str` accepts.
    if !text.iter().all(|b| (b' '..=b'~').contains(b)) {
        return Err(ProxyError::Malformed);
    }
    let header = v1::Header::try_from(line).map_err(|_| ProxyError::Malformed)?;
    let source = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(_) | v1::Addresses::Tcp6(_) if text.contains(&b'+') => {
            return Err(ProxyError::Malformed);
        }
        v1::Addresses::Tcp4(pair) => Some(socket(pair.source_address.into(), pair.source_port)),
        v1::Addresses::Tcp6(pair) => Some(socket(pair.source_address.into(), pair.source_port)),
    };
    Ok(HeaderProgress::Complete { source, length: line.len() })
}

fn parse_v2(bytes: &[u8]) -> Result<HeaderProgress, ProxyError> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else {
        return Ok(HeaderProgress::Needs(V2_FIXED));
    };
    let [.., high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > V2_MAX_LENGTH {
        return Err(ProxyError::TooLong);
    }
    let total = V2_FIXED + length;
    let Some(whole) = bytes.get(..total) else {
        // A bad version or family is refused before its addresses arrive.
        return match v2::Header::try_from(bytes) {
            Err(v2::ParseError::Incomplete(_) | v2::ParseError::Partial(..)) => {
                Ok(HeaderProgress::Needs(total))
            }
            _ => Err(ProxyError::Malformed),
        };
    };
    let header = v2::Header::try_from(whole).map_err(|_| ProxyError::Malformed)?;
    let source = match (header.command, &header.addresses) {
        // The sender's own connection, a health check: the rest must be ignored.
        (v2::Command::Local, _) => None,
        (v2::Command::Proxy, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
        // The address of a datagram over a stream: neither the sender nor the address can be
        // trusted.
        (v2::Command::Proxy, _) if header.protocol != v2::Protocol::Stream => {
            return Err(ProxyError::Malformed);
        }
        (v2::Command::Proxy, v2::Addresses::IPv4(pair)) => {
            Some(socket(pair.source_address.into(), pair.source_port))
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(pair)) => {
            Some(socket(pair.source_address.into(), pair.source_port))
        }
    };
    // TLVs are not used, but if a part of the header is invalid, do not believe the rest.
    if source.is_some() && header.tlvs().any(|tlv| tlv.is_err()) {
        return Err(ProxyError::Malformed);
    }
    Ok(HeaderProgress::Complete { source, length: total })
}

fn socket(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(canonical(address), port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    /// Feeds `parts` one read at a time, then closes.
    async fn read(parts: &[&[u8]]) -> Result<(Option<String>, Vec<u8>), ProxyError> {
        // A duplex that holds one part: the reader sees each part separately.
        let longest = parts.iter().map(|p| p.len()).max().unwrap_or(1).max(1);
        let (mut near, mut far) = duplex(longest);
        let feed = async {
            for part in parts {
                if far.write_all(part).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(far);
        };
        let read = async move {
            let (source, leftover) = read_header(&mut near).await?;
            let mut rest = leftover.to_vec();
            near.read_to_end(&mut rest).await?;
            Ok((source.map(|s| s.to_string()), rest))
        };
        tokio::join!(feed, read).1
    }

    fn v2(version_command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = V2_START.to_vec();
        bytes.extend([version_command, family]);
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    const V4: &[u8] = &[203, 0, 113, 7, 192, 0, 2, 1, 0x1f, 0x90, 0, 80];

    fn v6(source: &str) -> Vec<u8> {
        let mut bytes = source.parse::<Ipv6Addr>().unwrap().octets().to_vec();
        bytes.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend([0x1f, 0x90, 0, 80]);
        bytes
    }

    fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
        [V4, tlvs].concat()
    }

    #[tokio::test]
    async fn accepted() {
        let padding = [&[0x04, 0x0f, 0xf1][..], &[0; 0xff1][..]].concat();
        let cases: Vec<(&str, Vec<u8>, Option<&str>)> = vec![
            (
                "v1 tcp4",
                b"PROXY TCP4 203.0.113.7 192.0.2.1 8080 80\r\n".to_vec(),
                Some("203.0.113.7:8080"),
            ),
            (
                "v1 tcp6",
                b"PROXY TCP6 2001:db8::7 2001:db8::1 8080 80\r\n".to_vec(),
                Some("[2001:db8::7]:8080"),
            ),
            (
                "v1 mapped",
                b"PROXY TCP6 ::ffff:203.0.113.7 ::1 8080 80\r\n".to_vec(),
                Some("203.0.113.7:8080"),
            ),
            ("v1 unknown", b"PROXY UNKNOWN\r\n".to_vec(), None),
            ("v1 unknown with text", b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            ("v2 tcp4", v2(0x21, 0x11, V4), Some("203.0.113.7:8080")),
            ("v2 tcp6", v2(0x21, 0x21, &v6("2001:db8::7")), Some("[2001:db8::7]:8080")),
            ("v2 mapped", v2(0x21, 0x21, &v6("::ffff:203.0.113.7")), Some("203.0.113.7:8080")),
            (
                "v2 tlv",
                v2(0x21, 0x11, &with_tlvs(&[0x01, 0, 2, b'h', b'2'])),
                Some("203.0.113.7:8080"),
            ),
            ("v2 longest", v2(0x21, 0x11, &with_tlvs(&padding)), Some("203.0.113.7:8080")),
            ("v2 local", v2(0x20, 0x00, b""), None),
            ("v2 local with address", v2(0x20, 0x11, V4), None),
            ("v2 unspecified", v2(0x21, 0x00, b"anything"), None),
            ("v2 unix", v2(0x21, 0x31, &[b'/'; 216]), None),
        ];
        for (name, header, want) in &cases {
            let request = b"GET / HTTP/1.1\r\n";
            let whole = [header, &request[..]].concat();
            let want = want.map(str::to_owned);
            let got = read(&[&whole]).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(got, (want.clone(), request.to_vec()), "{name}");
            // However the network splits it, the answer is the same.
            let single: Vec<&[u8]> = whole.chunks(1).collect();
            assert_eq!(read(&single).await.unwrap(), (want.clone(), request.to_vec()), "{name}");
            for at in [1, 5, 6, 12, 15, 16, 17, header.len() - 1, header.len()] {
                let (a, b) = whole.split_at(at.min(whole.len()));
                let got = read(&[a, b]).await.unwrap();
                assert_eq!(got, (want.clone(), request.to_vec()), "{name} cut at {at}");
            }
        }
    }

    #[tokio::test]
    async fn refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "a".repeat(92));
        assert_eq!(long.len(), 108);
        let v1 = |line: &str| format!("{line}\r\n").into_bytes();
        let cases: Vec<(&str, Vec<u8>, &str)> = vec![
            ("plain HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), "Missing"),
            ("nothing", Vec::new(), "Missing"),
            ("TLS hello", vec![0x16, 3, 1, 0, 5], "Missing"),
            ("lower case", v1("proxy TCP4 1.1.1.1 2.2.2.2 1 2"), "Missing"),
            ("v1 closed", b"PROXY TCP4 1.1".to_vec(), "Closed"),
            ("v1 too long", long.into_bytes(), "TooLong"),
            ("v1 bare LF", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\nGET".to_vec(), "Malformed"),
            ("v1 bare CR", v1("PROXY UNKNOWN a\rb"), "Malformed"),
            ("v1 NUL", v1("PROXY UNKNOWN \0"), "Malformed"),
            ("v1 8-bit", b"PROXY UNKNOWN \xff\r\n".to_vec(), "Malformed"),
            ("v1 plus port", v1("PROXY TCP4 1.1.1.1 2.2.2.2 +1 2"), "Malformed"),
            ("v1 zero port", v1("PROXY TCP4 1.1.1.1 2.2.2.2 01 2"), "Malformed"),
            ("v1 port range", v1("PROXY TCP4 1.1.1.1 2.2.2.2 65536 2"), "Malformed"),
            ("v1 family", v1("PROXY TCP4 ::1 ::2 1 2"), "Malformed"),
            ("v1 five", v1("PROXY TCP5 ::1 ::2 1 2"), "Malformed"),
            ("v1 short", v1("PROXY TCP4 1.1.1.1"), "Malformed"),
            ("v1 extra", v1("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3"), "Malformed"),
            ("v1 empty", v1("PROXY "), "Malformed"),
            ("v2 closed", v2(0x21, 0x11, V4)[..20].to_vec(), "Closed"),
            ("v2 version", v2(0x11, 0x11, V4), "Malformed"),
            ("v2 command", v2(0x22, 0x11, V4), "Malformed"),
            ("v2 family", v2(0x21, 0x41, V4), "Malformed"),
            ("v2 datagram", v2(0x21, 0x12, V4), "Malformed"),
            ("v2 no address", v2(0x21, 0x11, &V4[..8]), "Malformed"),
            ("v2 torn TLV", v2(0x21, 0x11, &with_tlvs(&[1, 0, 9, 1])), "Malformed"),
            ("v2 too long", v2(0x21, 0x11, &[0; V2_MAX_LENGTH + 1]), "TooLong"),
            ("v2 64 KiB", v2(0x21, 0x11, &[0; 65535])[..16].to_vec(), "TooLong"),
        ];
        for (name, bytes, want) in cases {
            let error = read(&[&bytes]).await.unwrap_err();
            let got = format!("{error:?}");
            assert!(got.starts_with(want), "{name}: {got}");
        }
    }

    /// A refusal does not wait for bytes that the peer never sends.
    #[tokio::test]
    async fn junk_is_refused_while_the_peer_keeps_the_connection_open() {
        for bytes in [&b"G"[..], b"PROXZ", b"\r\n\r\nX", &v2(0x51, 0x11, V4)[..16]] {
            let (mut near, mut far) = duplex(64);
            far.write_all(bytes).await.unwrap();
            assert!(read_header(&mut near).await.is_err());
        }
    }

    #[test]
    fn written_headers_read_back() {
        let cases = [
            ("203.0.113.7:8080", "192.0.2.1:80", "203.0.113.7:8080", 28),
            ("[2001:db8::7]:8080", "[2001:db8::1]:80", "[2001:db8::7]:8080", 52),
            ("203.0.113.7:8080", "[2001:db8::1]:80", "203.0.113.7:8080", 52),
            ("[::ffff:203.0.113.7]:8080", "192.0.2.1:80", "203.0.113.7:8080", 28),
        ];
        for (source, destination, want, length) in cases {
            let bytes = write_v2(source.parse().unwrap(), destination.parse().unwrap());
            assert_eq!(bytes.len(), length);
            match parse(&bytes).unwrap() {
                HeaderProgress::Complete { source, length } => {
                    assert_eq!(source.unwrap().to_string(), want);
                    assert_eq!(length, bytes.len());
                }
                HeaderProgress::Needs(_) => panic!("{source}: incomplete"),
            }
        }
        // The crate's own writer agrees byte for byte.
        let (source, destination): (SocketAddr, SocketAddr) =
            ("203.0.113.7:8080".parse().unwrap(), "192.0.2.1:80".parse().unwrap());
        let oracle = v2::Builder::with_addresses(
            v2::Version::Two | v2::Command::Proxy,
            v2::Protocol::Stream,
            (source, destination),
        );
        assert_eq!(write_v2(source, destination), oracle.build().unwrap());
        assert!(matches!(
            parse(&write_v2_local()),
            Ok(HeaderProgress::Complete { source: None, length: 16 })
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            start in prop_oneof![
                Just(&b""[..]),
                Just(V1_START),
                Just(&b"PROXY TCP4 "[..]),
                Just(V2_START),
            ],
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [start, &rest].concat();
            // Whatever is complete stays complete, with the same answer, when more bytes follow.
            if let Ok(HeaderProgress::Complete { source, length }) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
                let more = [&bytes[..], b"more"].concat();
                match parse(&more) {
                    Ok(HeaderProgress::Complete { source: s, length: l }) => {
                        prop_assert_eq!((s, l), (source, length));
                    }
                    _ => prop_assert!(false, "changed its mind"),
                }
            }
            // And whatever is refused is also refused with more bytes.
            if parse(&bytes).is_err() {
                let more = [&bytes[..], b"more\r\n"].concat();
                prop_assert!(parse(&more).is_err());
            }
        }
    }
}
