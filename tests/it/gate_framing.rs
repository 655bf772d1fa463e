//! Request smuggling, client side (RFC 9112 section 11.2): a request can be read in exactly one
//! way, or is refused.

use std::time::Duration;

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, READER};
use crate::support::http::find;
use crate::support::upstream::{Step, Upstream, send};

fn post(fields: &str, body: &str) -> String {
    format!("POST /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n{fields}\r\n{body}")
}

/// hyper would only look at the last coding and pass the raw list on (RFC 9112 section 6.3).
#[test]
fn transfer_encoding_is_chunked_or_refused() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for value in [
        "gzip, chunked",
        "identity, chunked",
        "chunked, chunked",
        ",chunked",
        "chunked,",
        "gzip",
        "identity",
        "xchunked",
        "chunked;q=1",
        "\"chunked\"",
        "chunked\x0b",
        "",
    ] {
        let request = post(&format!("transfer-encoding: {value}\r\n"), "0\r\n\r\n");
        gate.refuses_bytes(value, request.as_bytes(), 400);
    }
    for lines in [
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    ] {
        gate.refuses_bytes(lines, post(lines, "0\r\n\r\n").as_bytes(), 400);
    }
    for value in ["chunked", "Chunked", "CHUNKED"] {
        let request = post(&format!("transfer-encoding: {value}\r\n"), "3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(exchange(gate.address, request).status(), 200, "{value}");
        let got = upstream.only();
        assert_eq!(
            (got.all("transfer-encoding"), got.body_text()),
            (vec!["chunked".into()], "abc".into())
        );
    }
}

/// Both are present: RFC 9112 section 6.3 lets a server choose, so two servers may choose
/// differently.
#[test]
fn length_beside_transfer_encoding_is_refused() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for fields in [
        "content-length: 3\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 3\r\n",
        "content-length: 100\r\ntransfer-encoding: chunked\r\n",
        "content-length: 0\r\nTransfer-Encoding: Chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: x\r\n",
        "transfer-encoding: chunked\r\nte: trailers\r\ncontent-length: 3\r\n",
    ] {
        let mut client = Client::connect(gate.address);
        client.send(post(fields, "0\r\n\r\nGET /admin/x HTTP/1.1\r\nhost: a\r\n\r\n"));
        let answer = client.response();
        let told = (answer.status(), answer.code());
        assert_eq!(told, (400, "bad_framing".to_owned()), "{fields}");
        assert_eq!(answer.all("connection"), ["close"], "{fields}");
        assert!(client.is_closed(), "{fields}: the rest must not be read as a request");
        assert!(upstream.take().is_empty(), "{fields}");
        assert!(!upstream.saw(b"/admin"));
    }
}

/// The service does not even learn of a request whose first chunks are invalid.
#[test]
fn broken_chunks_that_come_with_the_head_reach_nobody() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for body in [
        "3\nabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "x\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "10000000000000000\r\nabc",
        "-1\r\n\r\n",
        "\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nno colon\r\n\r\n",
        "0\r\na : b\r\n\r\n",
        "0\r\na: b\r\n c: d\r\n\r\n",
        "0\r\na: b\0\r\n\r\n",
        "0\r\n: b\r\n\r\n",
        &format!("0\r\na: {}\r\n\r\n", "b".repeat(17_000)),
        &format!("0\r\n{}\r\n", "a: b\r\n".repeat(101)),
        &format!("{}3\r\nabc\r\n0\r\n\r\n", "0".repeat(17_000)),
    ] {
        for fields in
            ["transfer-encoding: chunked\r\n", "Transfer-Encoding: Chunked\r\nte: trailers\r\n"]
        {
            let mut client = Client::connect(gate.address);
            client.send(post(fields, body));
            let answer = client.response();
            let told = (answer.status(), answer.code());
            assert_eq!(told, (400, "bad_framing".to_owned()), "{body:?}");
            assert_eq!(answer.all("x-request-id").len(), 1, "{body:?}");
            assert!(client.is_closed(), "{body:?}: the rest must not be read as a request");
            assert!(upstream.take().is_empty(), "{body:?}");
        }
    }
}

/// RFC 9112 section 7.1: `1*HEXDIG`, and the last chunk is `1*("0")`. The service gets sizes in
/// keygate's own form.
#[test]
fn a_chunk_size_may_begin_with_zeros() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for zeros in [1, 15, 16, 17, 40, 5_000] {
        let zeros = "0".repeat(zeros);
        let body = format!("{zeros}3\r\nabc\r\n{zeros}\r\n\r\n");
        for cut in [0, 1, zeros.len(), zeros.len() + 1, body.len() - 4, body.len()] {
            let mut client = Client::connect(gate.address);
            client.send(post("transfer-encoding: chunked\r\n", &body[..cut]));
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(client.send(&body[cut..]).response().status(), 200, "{} {cut}", zeros.len());
            assert_eq!(upstream.only().body_text(), "abc", "{} {cut}", zeros.len());
            // At the start of a line, because a request id may also contain such digits.
            assert!(!upstream.saw(b"\n03") && !upstream.saw(b"\n00"));
        }
    }
}

/// HAProxy 2.6 reads 2^64 as 0 and the body as a request; hyper takes 2^63.
#[test]
fn content_length_has_one_reading() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for value in [
        "+5",
        "-5",
        "0x5",
        "5 5",
        "5,6",
        "5;",
        "5.0",
        "1e1",
        "",
        " ",
        "\u{665}",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999",
    ] {
        let request = post(&format!("content-length: {value}\r\n"), "abcde");
        gate.refuses(&format!("`{value}`"), request, 400, "bad_framing");
    }
    for lines in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 6\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ncontent-length: 5\r\n",
        "content-length: 5\r\nte: trailers\r\nContent-Length: 005\r\n",
    ] {
        gate.refuses(lines, post(lines, "abcdef"), 400, "bad_framing");
    }
    // Leading zeros are digits.
    let answer = exchange(gate.address, post("content-length: 005\r\n", "abcde"));
    match answer.status() {
        400 => assert!(upstream.take().is_empty()),
        200 => assert_eq!((upstream.only().body_text().as_str()), "abcde"),
        other => panic!("{other}"),
    }
}

/// Pingora CVE-2026-2835; bodies of HTTP/1.0 end by their length, never by the close.
#[test]
fn http_10() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let request = |fields: &str| {
        format!("POST /v1/a HTTP/1.0\r\nhost: a\r\nx-api-key: {READER}\r\n{fields}\r\n")
    };
    gate.refuses_bytes(
        "TE in 1.0",
        (request("transfer-encoding: chunked\r\n") + "0\r\n\r\n").as_bytes(),
        400,
    );
    let mut client = Client::connect(gate.address);
    client.send(request("content-length: 3\r\n") + "abc");
    assert_eq!(client.response().status(), 200);
    assert!(client.is_closed(), "1.0 without keep-alive");
    assert_eq!(upstream.only().body_text(), "abc");
    // Kept alive when asked for.
    let mut client = Client::connect(gate.address);
    let get = format!(
        "GET /v1/a HTTP/1.0\r\nhost: a\r\nx-api-key: {READER}\r\nconnection: keep-alive\r\n\r\n"
    );
    for _ in 0..2 {
        client.send(&get);
        assert_eq!(client.response().status(), 200);
    }
    assert_eq!(upstream.wait_for(2).len(), 2);
    // An invented version is invalid.
    for version in ["HTTP/1.2", "HTTP/0.9", "HTTP/2.0", "HTTP/11", "http/1.1", "HTTP/1.1 "] {
        let request = format!("GET /v1/a {version}\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
        let answer = Client::connect(gate.address).send(request).try_response(false).unwrap();
        if let Some(answer) = answer {
            assert!([400, 505].contains(&answer.status()), "{version}: {}", answer.status());
        }
        assert!(upstream.take().is_empty(), "{version}");
    }
}

/// CVE-2025-22871, CVE-2025-55315, CVE-2025-58056: chunk grammar. What is refused in the middle of
/// a body reaches the upstream as a request that never ended.
#[test]
fn chunk_grammar() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for (name, body) in [
        ("size is no number", "x\r\nabc\r\n0\r\n\r\n"),
        ("negative size", "-3\r\nabc\r\n0\r\n\r\n"),
        ("plus sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("empty size", "\r\nabc\r\n0\r\n\r\n"),
        ("17 digits", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("overflow", "ffffffffffffffff1\r\nabc\r\n0\r\n\r\n"),
        ("bare LF behind size", "3\nabc\r\n0\r\n\r\n"),
        ("bare CR behind size", "3\rabc\r\n0\r\n\r\n"),
        ("LF inside extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
        ("no CRLF behind data", "3\r\nabcX\r\n0\r\n\r\n"),
        ("LF behind data", "3\r\nabc\n0\r\n\r\n"),
        ("data longer than size", "3\r\nabcdef\r\n0\r\n\r\n"),
        ("endless extension", &format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(200_000))),
        ("endless trailers", &format!("3\r\nabc\r\n0\r\n{}\r\n", "a: b\r\n".repeat(50_000))),
    ] {
        let mut client = Client::connect(gate.address);
        client.send(post("transfer-encoding: chunked\r\n", body));
        client.send("GET /admin/x HTTP/1.1\r\nhost: a\r\n\r\n");
        let answer = client.try_response(false).unwrap();
        let status = answer.as_ref().map(|a| a.status());
        assert!(status.is_none_or(|s| [400, 408, 413, 431].contains(&s)), "{name}: {status:?}");
        // Whatever was on its way did not arrive as a complete request.
        assert!(upstream.take().iter().all(|r| !r.complete), "{name}");
        assert!(!upstream.saw(b"/admin"), "{name}");
    }
}

#[test]
fn chunks_are_made_anew() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let body = "1;ext=evil\r\na\r\n2 ;x=\"evil;\"\r\nbc\r\n00003\r\ndef\r\n0;last=evil\r\n\r\n";
    let answer = exchange(gate.address, post("transfer-encoding: chunked\r\n", body));
    match answer.status() {
        // `2 ` with a space before the extension is bad whitespace: it may be refused.
        400 => assert!(upstream.take().iter().all(|r| !r.complete)),
        200 => assert_eq!(upstream.only().body_text(), "abcdef"),
        other => panic!("{other}"),
    }
    assert!(!upstream.saw(b"evil"));
}

/// Pingora CVE-2025-4366: a refusal before the body was read leaves no body behind as a request.
#[test]
fn an_unread_body_is_never_the_next_request() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let smuggled = format!("GET /v1/smuggled HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    for (name, head, status) in [
        ("401", "POST /v1/a HTTP/1.1\r\nhost: a\r\n".to_owned(), 401),
        ("403", format!("POST /admin/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n"), 403),
        ("405", format!("DELETE /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n"), 405),
        ("400", format!("POST /v1//a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n"), 400),
    ] {
        for (framing, body) in [
            (format!("content-length: {}\r\n\r\n", smuggled.len()), smuggled.clone()),
            (
                "transfer-encoding: chunked\r\n\r\n".into(),
                format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len()),
            ),
            // More than keygate ever drains: the connection must end.
            ("content-length: 100000000\r\n\r\n".into(), smuggled.repeat(2_000)),
        ] {
            let mut client = Client::connect(gate.address);
            client.send(format!("{head}{framing}{body}"));
            assert_eq!(client.response().status(), status, "{name}");
            // Either the connection ends, or the next real request is the next one answered.
            client.send(format!("GET /v1/next HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n"));
            if let Ok(Some(next)) = client.try_response(false) {
                assert_eq!(next.status(), 200, "{name}");
                assert_eq!(upstream.only().first_line(), "GET /v1/next HTTP/1.1", "{name}");
            }
            let seen: Vec<_> = upstream.take().iter().map(|r| r.first_line()).collect();
            assert!(!seen.iter().any(|l| l.contains("smuggled")), "{name}: {seen:?}");
        }
    }
    assert!(!upstream.saw(b"smuggled"));
}

/// Only the exact token counts, only after admission, and it is keygate's own.
#[test]
fn expect() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(post("expect: 100-continue\r\ncontent-length: 3\r\n", ""));
    assert_eq!(client.response().first_line(), "HTTP/1.1 100 Continue");
    client.send("abc");
    assert_eq!(client.response().status(), 200);
    let got = upstream.only();
    assert!(got.all("expect").is_empty());
    assert_eq!(got.body_text(), "abc");

    // Not admitted: an immediate answer, and no invitation to send the body.
    let mut client = Client::connect(gate.address);
    client.send(
        "POST /v1/a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n",
    );
    assert_eq!(client.response().status(), 401);
    assert!(find(client.seen(), b"100 Continue").is_none());
    assert!(upstream.take().is_empty());

    for value in ["100-continue, x", "y 100-continue", "x", "100-continued", ""] {
        let request = post(&format!("expect: {value}\r\ncontent-length: 3\r\n"), "abc");
        gate.refuses(value, request, 417, "expectation_failed");
    }
    let two = post("expect: 100-continue\r\nexpect: x\r\ncontent-length: 3\r\n", "abc");
    gate.refuses("two lines", two, 417, "expectation_failed");
}

/// Pingora CVE-2026-2833, Envoy CVE-2026-73548: no tunnel before the upstream's own 101.
#[test]
fn bytes_behind_an_upgrade_request_stay_http() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for upgrade in ["websocket", "h2c", "TLS/1.0", "anything"] {
        let mut client = Client::connect(gate.address);
        client.send(format!(
            "GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\nconnection: upgrade\r\n\
             upgrade: {upgrade}\r\n\r\nGET /admin/raw HTTP/1.1\r\nhost: a\r\nx-org-id: evil\r\n\r\n"
        ));
        let first = client.response();
        assert_eq!(first.status(), 200, "{upgrade}");
        let second = client.try_response(false).unwrap();
        assert!(second.is_none_or(|s| s.status() == 401), "{upgrade}");
        let got = upstream.only();
        assert!(got.all("upgrade").is_empty(), "{upgrade}");
        assert!(got.all("connection").iter().all(|c| !c.contains("pgrade")), "{upgrade}");
        assert!(!upstream.saw(b"/admin/raw"), "{upgrade}");
    }
}

#[test]
fn bytes_behind_an_allowed_upgrade_wait_for_the_101() {
    let upstream = Upstream::answering(|_| send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno"));
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(format!(
        "GET /ws/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nGET /admin/raw HTTP/1.1\r\nhost: a\r\n\r\n"
    ));
    assert_eq!(client.response().status(), 200);
    let _ = client.try_response(false);
    assert_eq!(upstream.only().all("upgrade"), ["websocket"]);
    assert!(!upstream.saw(b"/admin/raw"));
}

#[test]
fn a_tunnel_carries_both_ways_after_the_101() {
    let upstream = Upstream::answering(|_| {
        let mut steps = send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        steps.push(Step::Echo);
        steps
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(format!(
        "GET /ws/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ));
    let answer = client.response();
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.all("upgrade"), ["websocket"]);
    client.send("\u{1}ping");
    let mut got = client.pending().to_vec();
    while got.len() < 5 {
        got.extend(client.read_some());
    }
    assert_eq!(got, b"\x01ping");
    assert!(!upstream.saw(READER.as_bytes()));
}

/// httparse accepts a bare LF as a line end. It must not reach the upstream as one.
#[test]
fn bare_line_feeds_do_not_travel() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let request = format!("GET /v1/a HTTP/1.1\nhost: a\nx-api-key: {READER}\nx-b: 1\n\n");
    let answer = Client::connect(gate.address).send(request).try_response(false).unwrap();
    match answer.map(|a| a.status()) {
        None | Some(400) => assert!(upstream.take().is_empty()),
        Some(200) => {
            let got = upstream.only();
            let feeds = got.head.iter().filter(|b| **b == b'\n').count();
            let ends = got.head.windows(2).filter(|w| w == b"\r\n").count();
            assert_eq!(feeds, ends, "a bare LF reached the upstream");
        }
        Some(other) => panic!("{other}"),
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::answering(|m| {
        let path = m.first_line().split(' ').nth(1).unwrap().to_owned();
        crate::support::upstream::answer("200 OK", "", &path)
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    let mut batch = String::new();
    for n in 0..20 {
        if n % 5 == 4 {
            batch += "GET /v1/none HTTP/1.1\r\nhost: a\r\n\r\n";
        } else {
            batch += &format!("GET /v1/{n} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
        }
    }
    client.send(batch);
    for n in 0..20 {
        let answer = client.response();
        if n % 5 == 4 {
            assert_eq!(answer.status(), 401, "{n}");
        } else {
            assert_eq!(answer.body_text(), format!("/v1/{n}"));
        }
    }
    assert_eq!(upstream.wait_for(16).len(), 16);
}

/// A PROXY header from a peer that is not listed is bad HTTP, not an address.
#[test]
fn proxy_headers_of_strangers_are_bad_http() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let get = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    let v1 = format!("PROXY TCP4 6.6.6.6 7.7.7.7 1 2\r\n{get}");
    let v2 = [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x06\x06\x06\x06\x07\x07\x07\x07\0\x01\0\x02"
            .as_slice(),
        get.as_bytes(),
    ]
    .concat();
    for bytes in [v1.as_bytes(), &v2] {
        let answer = Client::connect(gate.address).send(bytes).try_response(false).unwrap();
        assert!(answer.is_none_or(|a| a.status() == 400));
        assert!(upstream.take().is_empty());
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_client_that_goes_away_takes_its_upstream_connection_along() {
    let upstream = Upstream::answering(|_| {
        let mut steps = send("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nstart");
        steps.push(Step::Drain);
        steps
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n"));
    assert_eq!(client.response_head().status(), 200);
    upstream.only();
    client.reset();
    assert!(upstream.wait_closed(1, Duration::from_secs(5)), "the upstream connection stayed open");
}
