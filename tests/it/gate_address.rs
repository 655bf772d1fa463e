//! X-Forwarded-For and PROXY headers of strangers: where a request is from, and how much it may
//! still spend.

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, Key, READER, Setup};
use crate::support::upstream::Upstream;

const OFFICE: &str = "wa_office0123456789abcdefghij";
const HERE: &str = "wa_here0123456789abcdefghijkl";
const TWO: &str = "wa_two0123456789abcdefghijklm";

fn world(upstream: &Upstream) -> Setup {
    Gate::before(upstream)
        .key(
            Key::new("key_office", OFFICE)
                .may("read")
                .with("networks = [\"203.0.113.0/24\", \"2001:db8::/32\"]"),
        )
        .key(Key::new("key_here", HERE).may("read").with("networks = [\"127.0.0.0/8\"]"))
        .key(Key::new("key_two", TWO).may("read").with("limit = \"2/h\""))
}

fn get(key: &str, more: &str) -> String {
    format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n{more}\r\n")
}

/// APISIX CVE-2022-24112, gin CVE-2020-28483: what a stranger writes does not say where the
/// stranger is.
#[test]
fn claims_of_untrusted_peers_count_for_nothing() {
    let upstream = Upstream::start();
    let gate = world(&upstream).start();
    for claim in [
        "x-forwarded-for: 203.0.113.9",
        "X-Forwarded-For: 203.0.113.9, 127.0.0.1",
        "x-real-ip: 203.0.113.9",
        "forwarded: for=203.0.113.9",
        "true-client-ip: 203.0.113.9",
        "x-client-ip: 203.0.113.9",
        "x-cluster-client-ip: 203.0.113.9",
        "cf-connecting-ip: 203.0.113.9",
    ] {
        let request = get(OFFICE, &format!("{claim}\r\n"));
        gate.refuses(claim, request, 403, "address_not_allowed");
    }
    assert_eq!(exchange(gate.address, get(HERE, "x-forwarded-for: 6.6.6.6\r\n")).status(), 200);
    assert_eq!(upstream.only().all("x-forwarded-for"), ["127.0.0.1"]);
}

/// Right to left, up to the first hop that is not trusted.
#[test]
fn trusted_hops_are_walked_from_the_right() {
    let upstream = Upstream::start();
    let gate = world(&upstream).top("trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]").start();
    for (xff, opens) in [
        ("203.0.113.9", true),
        ("203.0.113.9, 10.0.0.1", true),
        ("6.6.6.6, 203.0.113.9, 10.0.0.1, 10.0.0.2", true),
        ("203.0.113.9, 6.6.6.6", false),
        ("203.0.113.9, 6.6.6.6, 10.0.0.1", false),
        ("203.0.113.9, junk, 10.0.0.1", false),
        // An empty element means nothing (RFC 9110 section 5.6.1).
        ("203.0.113.9,", true),
        ("::ffff:203.0.113.9", true),
        ("2001:db8::7", true),
        ("[2001:db8::7]:4711", true),
        ("203.0.113.9:4711", true),
        ("2001:db9::7", false),
        ("", false),
    ] {
        let request = get(OFFICE, &format!("x-forwarded-for: {xff}\r\n"));
        let answer = exchange(gate.address, request);
        assert_eq!(answer.status(), if opens { 200 } else { 403 }, "{xff}");
        assert_eq!(upstream.take().len(), usize::from(opens), "{xff}");
    }
    // Two lines are one list.
    let lines = "x-forwarded-for: 203.0.113.9\r\nx-forwarded-for: 6.6.6.6\r\n";
    gate.refuses("two lines", get(OFFICE, lines), 403, "address_not_allowed");
    let lines = "x-forwarded-for: 6.6.6.6\r\nx-forwarded-for: 203.0.113.9\r\n";
    assert_eq!(exchange(gate.address, get(OFFICE, lines)).status(), 200);
    upstream.only();
}

/// slskd#1606 and its family: a mapped address is its IPv4 address.
#[test]
fn mapped_peers_meet_ipv4_networks() {
    let upstream = Upstream::start();
    let gate = world(&upstream).listen("address = \"[::]:0\"").start();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], gate.address.port()));
    assert_eq!(exchange(address, get(HERE, "")).status(), 200);
    assert_eq!(upstream.only().all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(exchange(address, get(OFFICE, "")).status(), 403);
}

/// The limit belongs to the key: no header and no connection gives more.
#[test]
fn limits_are_per_key_whatever_the_client_says() {
    let upstream = Upstream::start();
    let gate = world(&upstream).start();
    let mut statuses = Vec::new();
    for n in 0..6 {
        let more =
            format!("x-forwarded-for: 6.6.6.{n}\r\nx-real-ip: 7.7.7.{n}\r\nuser-agent: {n}\r\n");
        statuses.push(exchange(gate.address, get(TWO, &more)).status());
    }
    assert_eq!(statuses, [200, 200, 429, 429, 429, 429]);
    assert_eq!(upstream.take().len(), 2);
    let refused = gate.refuses("used up", get(TWO, ""), 429, "rate_limited");
    let wait: u64 = refused.one("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=1800).contains(&wait), "{wait}");
    assert!(refused.one("ratelimit-policy").is_some_and(|p| p.contains("q=2")));
    assert!(refused.one("ratelimit").is_some_and(|p| p.contains("r=0")));
    // Another key is not affected.
    assert_eq!(exchange(gate.address, get(HERE, "")).status(), 200);
}

/// Refused requests cost the key nothing.
#[test]
fn only_admitted_requests_are_charged() {
    let upstream = Upstream::start();
    let gate = world(&upstream).start();
    for _ in 0..5 {
        let elsewhere = format!("GET /admin/a HTTP/1.1\r\nhost: a\r\nx-api-key: {TWO}\r\n\r\n");
        gate.refuses("no permission", elsewhere, 403, "insufficient_permission");
    }
    assert_eq!(exchange(gate.address, get(TWO, "")).status(), 200);
}

/// PROXY headers of listed peers are required and believed.
#[test]
fn proxy_headers_of_listed_peers_are_believed() {
    let upstream = Upstream::start();
    let gate = world(&upstream)
        .listen("address = \"127.0.0.1:0\"\nproxy_protocol_from = [\"127.0.0.0/8\"]")
        .start();
    let request = get(OFFICE, "");
    let v1 = format!("PROXY TCP4 203.0.113.9 127.0.0.1 4711 80\r\n{request}");
    let v2 = [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x09\x7f\0\0\x01\x12\x67\0\x50".as_slice(),
        request.as_bytes(),
    ]
    .concat();
    for bytes in [v1.as_bytes(), &v2] {
        assert_eq!(exchange(gate.address, bytes).status(), 200);
        assert_eq!(upstream.only().all("x-forwarded-for"), ["203.0.113.9"]);
    }
    for (name, bytes) in [
        ("none", request.into_bytes()),
        ("another client", b"PROXY TCP4 6.6.6.6 127.0.0.1 1 2\r\n".to_vec()),
        ("broken", b"PROXY TCP4 203.0.113.9\r\n".to_vec()),
        ("endless", [b"PROXY ".as_slice(), &b"x".repeat(500)].concat()),
        (
            "v2 with a huge length",
            [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".as_slice(), &[0; 300]].concat(),
        ),
    ] {
        let follow = if name == "another client" { get(OFFICE, "") } else { String::new() };
        let mut client = Client::connect(gate.address);
        client.send(bytes).send(follow).finish();
        let answer = client.try_response(false).unwrap();
        assert!(answer.is_none_or(|a| [400, 403].contains(&a.status())), "{name}");
        assert!(upstream.take().is_empty(), "{name}");
    }
    let local = [b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".as_slice(), get(HERE, "").as_bytes()].concat();
    let answer = Client::connect(gate.address).send(local).try_response(false).unwrap();
    assert!(answer.is_none_or(|a| [200, 400].contains(&a.status())), "LOCAL");
}

#[test]
fn the_reader_key_works_from_here() {
    let upstream = Upstream::start();
    let gate = world(&upstream).start();
    assert_eq!(exchange(gate.address, get(READER, "")).status(), 200);
}
