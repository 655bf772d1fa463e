//! HTTP/2 at the front door, frame by frame: what is served and what is refused.

use std::time::{Duration, Instant};

use crate::support::client::exchange;
use crate::support::gate::{Gate, MANAGER, READER};
use crate::support::h2raw::*;
use crate::support::upstream::{Step, Upstream, answer, send};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn prior_knowledge_and_http1_share_a_port() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut h2 = H2::connect(gate.address);
    let answer = h2.exchange(1, &get("/v1/a?b=c", READER));
    assert_eq!(
        (answer.status, &*answer.body, answer.ended),
        (Some(200), &b"hello from upstream\n"[..], true)
    );
    let got = upstream.only();
    assert_eq!(got.first_line(), "GET /v1/a?b=c HTTP/1.1");
    assert_eq!(got.one("host").as_deref(), Some("a"));
    assert_eq!(got.one("x-org-id").as_deref(), Some("acme"));
    assert!(got.one("x-api-key").is_none() && !upstream.saw(READER.as_bytes()));
    // Another stream of the same connection, refused, and one more after it.
    let refused = h2.exchange(3, &get("/v1/a", "wa_no_such_key_0123456789"));
    assert_eq!((refused.status, refused.ended), (Some(401), true));
    assert_eq!(h2.exchange(5, &get("/admin/a", READER)).status, Some(403));
    assert_eq!(h2.exchange(7, &get("/v1/a", READER)).status, Some(200));
    assert_eq!(
        exchange(
            gate.address,
            format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n")
        )
        .status(),
        200
    );
}

/// RFC 9113 section 8.2.3: cookies may be split, but an HTTP/1 service sees one field. The
/// credential among them is removed.
#[test]
fn split_cookies_are_one_field() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut fields = get("/v1/a", READER);
    fields.extend([("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")]);
    assert_eq!(H2::connect(gate.address).exchange(1, &fields).status, Some(200));
    let got = upstream.only();
    assert_eq!(got.all("cookie"), ["a=1; b=2"]);
    assert_eq!(got.one("te"), None, "TE belongs to one connection");
    // A credential among split cookies.
    let kg_key = format!("kg_key={READER}");
    let mut fields = get("/v1/a", READER);
    fields.truncate(4);
    fields.extend([("cookie", "a=1"), ("cookie", &*kg_key), ("cookie", "b=2")]);
    assert_eq!(H2::connect(gate.address).exchange(1, &fields).status, Some(200));
    let got = upstream.only();
    assert_eq!(got.all("cookie"), ["a=1; b=2"]);
    assert!(!upstream.saw(READER.as_bytes()));
}

/// Requests that the two sides could read differently end their stream, or the connection. None
/// reaches the service.
#[test]
fn malformed_requests_go_no_further() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let with = |extra: &[(&'static str, &'static str)]| {
        let mut fields = get("/v1/a", READER);
        fields.extend(extra);
        fields
    };
    let swapped = |name: &str, value: &'static str| {
        let mut fields = get("/v1/a", READER);
        for field in &mut fields {
            if field.0 == name {
                field.1 = value;
            }
        }
        fields
    };
    let without = |name: &str| {
        let mut fields = get("/v1/a", READER);
        fields.retain(|f| f.0 != name);
        fields
    };
    let mut late = get("/v1/a", READER);
    let pseudo = late.remove(2);
    late.push(pseudo);
    let mut twice = get("/v1/a", READER);
    twice.insert(3, (":path", "/admin/a"));
    let mut two_methods = get("/v1/a", READER);
    two_methods.insert(0, (":method", "POST"));
    let mut two_authorities = get("/v1/a", READER);
    two_authorities.insert(3, (":authority", "b"));
    let mut unknown = get("/v1/a", READER);
    unknown.insert(0, (":sheme", "http"));
    let mut status = get("/v1/a", READER);
    status.insert(0, (":status", "200"));
    let protocol = {
        let mut fields = get("/v1/a", READER);
        fields.insert(0, (":protocol", "websocket"));
        fields
    };
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("pseudo-header after a field", late),
        ("two paths", twice),
        ("two methods", two_methods),
        ("two authorities", two_authorities),
        ("unknown pseudo-header", unknown),
        ("pseudo-header of responses", status),
        (":protocol without CONNECT", protocol),
        ("no method", without(":method")),
        ("no path", without(":path")),
        ("no scheme", without(":scheme")),
        ("empty path", swapped(":path", "")),
        ("path without slash", swapped(":path", "v1/a")),
        ("asterisk", swapped(":path", "*")),
        ("absolute path", swapped(":path", "http://a/v1/a")),
        ("space in path", swapped(":path", "/v1/a HTTP/1.1")),
        ("line break in path", swapped(":path", "/v1/a\r\nx-org-id: evil")),
        ("space in method", swapped(":method", "GET /admin HTTP/1.1\r\nx: y")),
        ("user information", swapped(":authority", "x@a")),
        ("line break in authority", swapped(":authority", "a\r\nx-org-id: evil")),
        ("upper case name", with(&[("X-Up", "1")])),
        ("connection", with(&[("connection", "x-org-id")])),
        ("keep-alive", with(&[("keep-alive", "1")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te other than trailers", with(&[("te", "gzip")])),
        ("line break in a value", with(&[("x-a", "b\r\nx-org-id: evil")])),
        ("line feed in a value", with(&[("x-a", "b\nx-org-id: evil")])),
        ("NUL in a value", with(&[("x-a", "b\0c")])),
        ("line break in a name", with(&[("x-a: b\r\nx-org-id", "evil")])),
        ("colon in a name", with(&[("x-a:b", "c")])),
        ("space behind a name", with(&[("x-org-id ", "evil")])),
        ("empty name", with(&[("", "c")])),
        ("another host", with(&[("host", "b")])),
        ("two hosts", with(&[("host", "a"), ("host", "a")])),
        ("two keys", with(&[("x-api-key", MANAGER)])),
        ("underscore", with(&[("x_api_key", READER)])),
        ("content-length with a sign", with(&[("content-length", "+0")])),
        ("two content-lengths", with(&[("content-length", "0"), ("content-length", "5")])),
        ("expect", with(&[("expect", "200-ok")])),
    ];
    for (name, fields) in cases {
        let mut h2 = H2::connect(gate.address);
        let answer = h2.exchange(1, &fields);
        let refused = answer.status.is_some_and(|s| (400..500).contains(&s))
            || answer.reset.is_some()
            || answer.goaway.is_some();
        // The library drops fields of a connection before we see them. Then the request may be
        // served, and the service must not see them.
        if !refused {
            assert!(
                matches!(name, "connection" | "keep-alive" | "te other than trailers"),
                "{name}: {answer:?}"
            );
        }
        for got in upstream.take() {
            assert!(
                matches!(name, "connection" | "keep-alive" | "te other than trailers"),
                "{name}: reached the service: {}",
                String::from_utf8_lossy(&got.head)
            );
            for field in ["connection", "keep-alive", "te"] {
                assert_eq!(got.one(field), None, "{name}");
            }
            assert_eq!(got.one("x-org-id").as_deref(), Some("acme"), "{name}");
        }
        // A refused stream leaves the connection unchanged, unless the connection was at fault.
        if refused && answer.goaway.is_none() {
            assert_eq!(h2.exchange(3, &get("/v1/a", READER)).status, Some(200), "{name}");
            upstream.take();
        }
    }
    assert!(!upstream.saw(b"evil"));
    // hyper removes a fragment before we see it, so the service must not see it either.
    let answer = H2::connect(gate.address).exchange(1, &swapped(":path", "/v1/a#b"));
    assert_eq!(answer.status, Some(200));
    assert_eq!(upstream.only().first_line(), "GET /v1/a HTTP/1.1");
}

/// The announced and the actual length must agree. Otherwise the rest would be the next request.
#[test]
fn content_length_is_held_against_data() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut fields = request("POST", "/v1/a", READER);
    fields.push(("content-length", "5"));
    for (name, body) in [("longer", &b"helloGET /admin HTTP/1.1\r\n"[..]), ("shorter", b"hel")] {
        let mut h2 = H2::connect(gate.address);
        h2.headers(1, 0, &fields);
        h2.data(1, END_STREAM, body);
        let answer = h2.answer(1);
        assert!(answer.status != Some(200), "{name}: {answer:?}");
        assert_eq!(h2.exchange(3, &get("/v1/a", READER)).status, Some(200), "{name}");
        for got in upstream.take() {
            assert!(got.first_line() != "GET /admin HTTP/1.1", "{name}");
        }
    }
    assert!(!upstream.saw(b"/admin"));
    // Without a length, the body is chunked for HTTP/1.
    let mut h2 = H2::connect(gate.address);
    h2.headers(1, 0, &request("POST", "/v1/a", READER));
    h2.data(1, 0, b"hello ");
    h2.data(1, END_STREAM, b"world");
    assert_eq!(h2.answer(1).status, Some(200));
    let got = upstream.take().pop().unwrap();
    assert_eq!(
        (got.body_text().as_str(), got.one("transfer-encoding").as_deref()),
        ("hello world", Some("chunked"))
    );
}

/// Request trailers could carry an identity, so they end here.
#[test]
fn request_trailers_are_dropped_towards_http1() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut h2 = H2::connect(gate.address);
    h2.headers(1, 0, &request("POST", "/v1/a", READER));
    h2.data(1, 0, b"hello");
    h2.headers(1, END_STREAM, &[("x-org-id", "evil"), ("x-late", "1")]);
    assert_eq!(h2.answer(1).status, Some(200));
    assert_eq!(upstream.only().body_text(), "hello");
    assert!(!upstream.saw(b"evil") && !upstream.saw(b"x-late"));
}

/// Trailers of the service reach the client as the last header block.
#[test]
fn response_trailers_travel() {
    let upstream = Upstream::answering(|_| {
        send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
             5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n",
        )
    });
    let gate = Gate::before(&upstream).start();
    let answer = H2::connect(gate.address).exchange(1, &get("/v1/a", READER));
    assert_eq!((answer.header_blocks, &*answer.body, answer.ended), (2, &b"hello"[..], true));
}

/// A refusal in front of an unread body ends the stream and nothing else.
#[test]
fn early_refusals_leave_the_connection_alone() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut h2 = H2::connect(gate.address);
    h2.headers(1, 0, &request("POST", "/v1/a", "wa_no_such_key_0123456789"));
    assert_eq!(h2.answer(1).status, Some(401));
    for _ in 0..4 {
        h2.data(1, 0, &[b'x'; 16_000]);
    }
    h2.headers(3, 0, &request("POST", "/small/a", READER));
    h2.data(3, END_STREAM, b"more than ten bytes");
    let answer = h2.answer(3);
    assert_eq!(answer.status, Some(413), "{answer:?}");
    assert_eq!(h2.exchange(5, &get("/v1/a", READER)).status, Some(200));
}

#[test]
fn large_heads_are_431_or_end_the_stream() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let long = "x".repeat(15_000);
    let mut fields = get("/v1/a", READER);
    fields.extend([("x-long", &*long), ("x-more", &long[..4000])]);
    let mut h2 = H2::connect(gate.address);
    let bytes = block(&fields);
    h2.send(&frame(HEADERS, END_STREAM, 1, &bytes[..16_000]));
    h2.send(&frame(CONTINUATION, END_HEADERS, 1, &bytes[16_000..]));
    let answer = h2.answer(1);
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!((answer.status, answer.ended), (Some(431), true), "{answer:?}");
    assert!(body.contains("headers_too_large"), "{body}");
    assert!(upstream.take().is_empty());
    assert!(
        gate.metrics().contains("reason=\"headers_too_large\",route=\"none\"} 1\n"),
        "{}",
        gate.metrics()
    );
    assert_eq!(h2.exchange(3, &get("/v1/a", READER)).status, Some(200));
    upstream.take();
    // Requests that h2 does not pass on, it answers itself.
    fields.push(("x-much-more", &long));
    let bytes = block(&fields);
    let mut h2 = H2::connect(gate.address);
    h2.send(&frame(HEADERS, END_STREAM, 1, &bytes[..16_000]));
    h2.send(&frame(CONTINUATION, 0, 1, &bytes[16_000..32_000]));
    h2.send(&frame(CONTINUATION, END_HEADERS, 1, &bytes[32_000..]));
    let answer = h2.answer(1);
    assert_eq!((answer.status, &*answer.body), (Some(431), &b""[..]), "{answer:?}");
    assert_eq!(h2.exchange(3, &get("/v1/a", READER)).status, Some(200));
    upstream.take();
    // Many small fields.
    let names: Vec<_> = (0..150).map(|n| format!("x-{n}")).collect();
    let mut fields = get("/v1/a", READER);
    fields.extend(names.iter().map(|n| (&**n, "")));
    assert_eq!(H2::connect(gate.address).exchange(1, &fields).status, Some(431));
    let target = format!("/v1/{}", "a".repeat(9000));
    assert_eq!(H2::connect(gate.address).exchange(1, &get(&target, READER)).status, Some(414));
    assert!(upstream.take().is_empty());
}

/// Streams beyond the maximum are refused in a way that says: nothing has happened, try again.
#[test]
fn streams_are_bounded() {
    let upstream = Upstream::answering(|_| vec![Step::Drain]);
    let gate = Gate::before(&upstream).also("[http2]\nmax_streams = 4\n").start();
    let mut h2 = H2::connect(gate.address);
    for n in 0..4 {
        h2.headers(n * 2 + 1, END_STREAM, &get("/v1/a", READER));
    }
    upstream.wait_for(4);
    h2.headers(9, END_STREAM, &get("/v1/a", READER));
    let answer = h2.answer(9);
    assert!(answer.reset == Some(7) || answer.goaway.is_some(), "REFUSED_STREAM: {answer:?}");
}

/// Peers that open a connection and then send nothing, or half of something.
#[test]
fn slow_and_silent_peers_are_ended() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream)
        .also("[timeouts]\nheader = \"300ms\"\nidle = \"400ms\"\nbody = \"300ms\"\n")
        .start();
    let mut half_preface = H2::silent(gate.address);
    half_preface.send(&PREFACE[..10]);
    assert!(half_preface.end(SOON).0, "half a preface is kept");
    let mut only_preface = H2::silent(gate.address);
    only_preface.send(PREFACE);
    assert!(only_preface.end(SOON).0, "a preface without SETTINGS is kept");
    let mut idle = H2::connect(gate.address);
    assert_eq!(idle.exchange(1, &get("/v1/a", READER)).status, Some(200));
    assert_eq!(idle.end(SOON), (true, Some(0)), "idle");
    let mut half_head = H2::connect(gate.address);
    half_head.send(&frame(HEADERS, END_STREAM, 1, &block(&get("/v1/a", READER))[..20]));
    assert!(half_head.end(SOON).0, "half a header block is kept");
    let mut slow_post = H2::connect(gate.address);
    slow_post.headers(1, 0, &request("POST", "/v1/a", READER));
    slow_post.data(1, 0, b"abc");
    assert_eq!(slow_post.answer(1).status, Some(408));
}

/// A stream that takes nothing is reset after the write time-out and releases its upstream
/// connection. The other streams of its connection continue.
#[test]
fn a_stream_that_does_not_read_is_reset() {
    let upstream = Upstream::answering(|m| {
        if m.first_line().contains("/v1/small") {
            return answer("200 OK", "", "small");
        }
        let mut steps = send("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n");
        steps.extend((0..1_000).map(|_| Step::Send(vec![b'x'; 100_000])));
        steps
    });
    let gate = Gate::before(&upstream).also("[timeouts]\nwrite = \"500ms\"\n").start();
    let mut h2 = H2::connect(gate.address);
    h2.polite = false;
    h2.headers(1, END_STREAM, &get("/v1/a", READER));
    upstream.wait_for(1);
    let begun = Instant::now();
    let answer = h2.answer(1);
    assert!(answer.reset.is_some() || answer.closed, "{:?}", answer.reset);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(upstream.wait_closed(1, SOON), "the service still sends");
    // The connection itself is fine: at most, the lazy stream's bytes have used up its window.
    h2.send(&frame(WINDOW_UPDATE, 0, 0, &100_000u32.to_be_bytes()));
    assert_eq!(h2.exchange(3, &get("/v1/small", READER)).status, Some(200));
}
