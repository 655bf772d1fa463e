//! Rows of docs/limits.md that need more than a request and its answer: what happens to the
//! connection, who is counted, and waits on either side. `documents.rs` compares the rows with the
//! names of these tests.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::gate_limits::{get, post, told};
use crate::support::client::{Client, exchange};
use crate::support::gate::Gate;
use crate::support::upstream::{Step, Upstream, answer, ok, send};

const SOON: Duration = Duration::from_secs(5);

fn counted(gate: &Gate, line: &str) {
    gate.process.eventually(line, || gate.metrics().lines().any(|l| l == line));
}

fn turned_away(gate: &Gate, reason: &str, count: u32) {
    counted(gate, &format!("keygate_connections_turned_away_total{{reason=\"{reason}\"}} {count}"));
}

/// The connection serves another request.
fn is_kept(client: &mut Client) {
    client.send(get("/public/next"));
    assert_eq!(client.response().status(), 200, "not kept");
}

/// Closed or reset, without an answer.
fn is_gone(client: &mut Client) {
    client.patience(SOON);
    match client.try_response(false) {
        Ok(None) => {}
        Ok(Some(answer)) => panic!("answered {}", answer.status()),
        Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn refused_heads_close_or_keep_their_connection() {
    let upstream = Upstream::start();
    let setup = "[limits]\nuri_bytes = \"1KiB\"\nhead_bytes = \"8KiB\"\nheaders = 50\n";
    let gate = Gate::before(&upstream).also(setup).start();
    let mut kept = Client::connect(gate.address);
    kept.send(get(&format!("/v1/{}", "a".repeat(1_100))));
    assert_eq!(kept.response().status(), 414);
    is_kept(&mut kept);
    for (name, fields, kept) in [
        ("large", format!("x-a: {}\r\n", "b".repeat(9_000)), false),
        ("endless", format!("x-a: {}", "b".repeat(300_000)), false),
        ("many", "x-a: b\r\n".repeat(120), false),
        ("more than a lowered limit", "x-a: b\r\n".repeat(60), true),
    ] {
        let mut client = Client::connect(gate.address);
        client.send(get("/v1/a").replace("\r\n\r\n", &format!("\r\n{fields}\r\n")));
        let refusal = client.response();
        let told = (refusal.status(), refusal.code());
        assert_eq!(told, (431, "headers_too_large".to_owned()), "{name}");
        if kept {
            is_kept(&mut client);
        } else {
            is_gone(&mut client);
        }
    }
    let mut slow = Client::connect(gate.address);
    slow.send(post("/small/a", "content-length: 11\r\n", "0123456789a"));
    assert_eq!(slow.response().status(), 413);
    is_kept(&mut slow);
    let mut long = Client::connect(gate.address);
    long.send(post("/small/a", "content-length: 100000000\r\n", &"x".repeat(400_000)));
    assert_eq!(long.response().status(), 413);
    is_gone(&mut long);
    let mut found = Client::connect(gate.address);
    found.send(post("/small/a", "transfer-encoding: chunked\r\n", "b\r\n0123456789a\r\n"));
    assert_eq!(found.response().status(), 413);
    is_gone(&mut found);
}

/// A head that no reader accepts is refused like any other: with a code, a request id, and a log
/// line with both and with what could be read.
#[test]
fn heads_that_cannot_be_read_are_refused_in_full() {
    let upstream = Upstream::start();
    let good = "GET /public/before HTTP/1.1\r\nhost: a\r\n\r\n";
    let by_hyper = "GET /public/before HTTP/1.1\r\nhost: a\r\nte: trailers\r\n\r\n";
    let long = format!("GET /v1/a HTTP/1.1\r\nx-a: {}", "b".repeat(40_000));
    let many = format!("PUT /v1/a HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
    let cases = [
        ("nothing known", "\x16\x03\x01\x02\r\n\r\n", 400, "bad_target", ("other", "")),
        ("version", "GET /v1/a HTTP/2.0\r\n\r\n", 400, "bad_target", ("GET", "/v1/a")),
        ("target", "GET /v1/<a>?k HTTP/1.1\r\n\r\n", 400, "bad_target", ("GET", "/v1/%3Ca%3E")),
        ("query", "GET /v1/a?k#l HTTP/1.1\r\n\r\n", 400, "bad_target", ("GET", "/v1/a")),
        ("name", "POST /v1/a HTTP/1.1\r\na b: c\r\n\r\n", 400, "bad_header", ("POST", "/v1/a")),
        ("value", "GET /v1/a HTTP/1.1\r\na: b\0\r\n\r\n", 400, "bad_header", ("GET", "/v1/a")),
        (
            "coding",
            "POST /v1/a HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "bad_framing",
            ("POST", "/v1/a"),
        ),
        (
            "length",
            "GET /v1/a HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
            400,
            "bad_framing",
            ("GET", "/v1/a"),
        ),
        ("long", &long, 431, "headers_too_large", ("GET", "/v1/a")),
        ("many", &many, 431, "headers_too_large", ("PUT", "/v1/a")),
        ("late", "GET /v1/a HTTP/1.1\r\nhos", 408, "header_timeout", ("GET", "/v1/a")),
    ];
    for option in ["", "preserve_header_case = true"] {
        let waits = "[timeouts]\nheader = \"500ms\"\n";
        let gate = Gate::before(&upstream).also(waits).upstream_option(option).start();
        for (name, head, status, reason, (method, path)) in cases {
            for before in ["", good, by_hyper] {
                let mut client = Client::connect(gate.address);
                if !before.is_empty() {
                    client.send(before);
                    assert_eq!(client.response().status(), 200);
                }
                client.send(head);
                let refusal = client.response();
                let code = if status == 408 { "request_timeout" } else { reason };
                assert_eq!((refusal.status(), refusal.code().as_str()), (status, code), "{name}");
                assert_eq!(refusal.one("connection").as_deref(), Some("close"), "{name}");
                let id = refusal.one("x-request-id").expect("a request id");
                assert_eq!(refusal.json()["request_id"], *id, "{name}");
                is_gone(&mut client);
                assert!(gate.log_soon(&id), "{name}: no line has {id}:\n{}", gate.log());
                let log = gate.log();
                let line = log.lines().find(|l| l.contains(&id)).expect("the line");
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                assert_eq!(line["reason"], reason, "{name}");
                assert_eq!(line["status"], status, "{name}");
                assert_eq!((&line["method"], &line["path"]), (&method.into(), &path.into()));
            }
        }
        for reason in ["bad_target", "bad_header", "bad_framing", "headers_too_large"] {
            let line = format!("keygate_requests_failed_total{{reason=\"{reason}\"}}");
            assert!(gate.metrics().lines().any(|l| l.starts_with(&line) && !l.ends_with(" 0")));
        }
    }
    assert!(upstream.take().iter().all(|r| r.first_line().contains("/public/before")));
}

/// A refused HEAD gets an answer without the bytes of its body, and its client, which is still
/// sending, can read the answer.
#[test]
fn a_refused_head_is_readable_while_its_client_sends() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut head = Client::connect(gate.address);
    head.send("HEAD /v1/a HTTP/1.1\r\na b: c\r\n\r\n");
    assert_eq!(head.response_head().status(), 400);
    assert!(head.is_closed(), "bytes behind an answer to HEAD");
    let mut upload = Client::connect(gate.address);
    upload.send("POST /v1/a HTTP/1.1\r\na b: c\r\ncontent-length: 2000000\r\n\r\n");
    upload.send("x".repeat(2_000_000));
    assert_eq!((upload.response().status(), upstream.take().len()), (400, 0));
}

/// A body that cannot end: 400, or a cut answer if that has begun.
#[test]
fn broken_bodies_are_400() {
    let upstream = Upstream::answering(|m| match m.first_line().contains("/v1/early") {
        true => {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
            [send(head), vec![Step::ReadBody, Step::Drain]].concat()
        }
        false => ok(),
    });
    let gate = Gate::before(&upstream).start();
    let long = "x".repeat(20_000);
    for (name, body) in [
        ("broken off", "5\r\nhel".to_owned()),
        ("size above 2^64", "10000000000000000\r\nhello".to_owned()),
        ("long extension", format!("5;{long}\r\nhello\r\n0\r\n\r\n")),
        ("long trailers", format!("5\r\nhello\r\n0\r\nx-a: {long}{long}\r\n\r\n")),
        ("many trailers", format!("5\r\nhello\r\n0\r\n{}\r\n", "x-a: b\r\n".repeat(101))),
    ] {
        let mut client = Client::connect(gate.address);
        client.send(post("/v1/a", "transfer-encoding: chunked\r\n", &body));
        if name == "broken off" {
            client.finish();
        }
        let refusal = client.response();
        assert_eq!((refusal.status(), refusal.code().as_str()), (400, "bad_framing"), "{name}");
        is_gone(&mut client);
        assert!(upstream.take().iter().all(|r| !r.complete), "{name}");
    }
    told(&gate, "bad_framing");
    let mut begun = Client::connect(gate.address);
    begun.send(post("/v1/early", "transfer-encoding: chunked\r\n", "5\r\nhello\r\n"));
    assert_eq!(begun.response_head().status(), 200);
    while begun.pending().is_empty() {
        begun.read_some();
    }
    begun.send("10000000000000000\r\n");
    begun.patience(SOON);
    assert!(begun.try_response(false).is_err() || !begun.seen().ends_with(b"0\r\n\r\n"));
}

/// A client that sends nothing before TLS or PROXY, or nothing at all, gets no byte, and does not
/// stay.
#[test]
fn clients_that_say_nothing_are_closed() {
    let upstream = Upstream::start();
    let listen = "address = \"127.0.0.1:0\"\nproxy_protocol_from = [\"127.0.0.0/8\"]";
    let waits = "[timeouts]\nhandshake = \"300ms\"\nheader = \"300ms\"\n";
    let gate = Gate::before(&upstream).listen(listen).also(waits).start();
    for said in ["", "PROXY TCP4 203."] {
        let mut silent = Client::connect(gate.address);
        silent.send(said);
        is_gone(&mut silent);
    }
    turned_away(&gate, "handshake_timeout", 2);
    let gate = Gate::before(&upstream).also(waits).start();
    is_gone(&mut Client::connect(gate.address));
    let none = "keygate_requests_failed_total{reason=\"header_timeout\"} 0";
    assert!(gate.metrics().contains(none), "it has asked for nothing");
    // A client that begins a request gets an answer and is counted, even if it could still become
    // HTTP/2.
    for (n, begun) in ["GET /v1/a HTTP/1.1\r\nhost:", "P", "PRI * HTTP/2.0\r\n"].iter().enumerate()
    {
        let mut slow = Client::connect(gate.address);
        slow.send(begun);
        let refusal = slow.response();
        let told = (refusal.status(), refusal.code());
        assert_eq!(told, (408, "request_timeout".to_owned()), "{begun}");
        is_gone(&mut slow);
        let line = "keygate_requests_failed_total{reason=\"header_timeout\"}";
        counted(&gate, &format!("{line} {}", n + 1));
    }
}

/// A client that has closed its side is waited for only for a moment.
#[test]
fn half_closed_clients_end_soon() {
    let upstream = Upstream::answering(|_| vec![Step::Drain]);
    let gate = Gate::before(&upstream).also("[timeouts]\nhalf_closed = \"300ms\"\n").start();
    let mut client = Client::connect(gate.address);
    client.send(get("/v1/a")).finish();
    is_gone(&mut client);
    assert!(upstream.wait_closed(1, SOON), "the service still works for nobody");
    counted(&gate, "keygate_requests_aborted_total 1");
    assert!(gate.log_soon("\"status\":499"), "{}", gate.log());
}

#[test]
fn clients_that_take_nothing_are_reset_and_counted() {
    let upstream = Upstream::answering(|_| {
        let mut steps = send("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n");
        steps.extend((0..1_000).map(|_| Step::Send(vec![b'x'; 100_000])));
        steps
    });
    let gate = Gate::before(&upstream).also("[timeouts]\nwrite = \"500ms\"\n").start();
    let mut lazy = Client::connect(gate.address);
    lazy.send(get("/v1/a"));
    assert!(upstream.wait_closed(1, 2 * SOON), "the service waits for a client that sleeps");
    counted(&gate, "keygate_requests_aborted_total 1");
    lazy.patience(SOON);
    assert!(lazy.try_response(false).map_or(true, |a| a.is_none_or(|a| !a.complete)));
}

#[test]
fn a_total_without_an_answer_is_504() {
    let upstream = Upstream::answering(|_| vec![Step::Drain]);
    let gate = Gate::before(&upstream).also("[timeouts]\ntotal = \"300ms\"\n").start();
    let refusal = exchange(gate.address, get("/v1/a"));
    assert_eq!((refusal.status(), refusal.code().as_str()), (504, "gateway_timeout"));
    told(&gate, "upstream_timeout");
}

/// An address that accepts no connection: its queue is full, and the kernel drops whatever arrives.
fn full_queue() -> (SocketAddr, Vec<TcpStream>, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
    let queue = std::iter::from_fn(connect).take(16).collect();
    (address, queue, socket)
}

#[test]
fn a_service_that_cannot_be_reached_is_502_or_504() {
    let (full, _queue, _socket) = full_queue();
    let gate = Gate::before_address(full).also("[timeouts]\nconnect = \"300ms\"\n").start();
    let mut client = Client::connect(gate.address);
    for _ in 0..2 {
        client.send(get("/v1/a"));
        let refusal = client.response();
        assert_eq!((refusal.status(), refusal.code().as_str()), (504, "gateway_timeout"));
    }
    told(&gate, "upstream_connect_timeout");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let label = "x".repeat(64);
    for url in [format!("http://{nobody}"), format!("http://{label}.invalid:80")] {
        let gate = Gate::before_url(&url).start();
        let mut client = Client::connect(gate.address);
        for _ in 0..2 {
            client.send(get("/v1/a"));
            let refusal = client.response();
            assert_eq!((refusal.status(), refusal.code().as_str()), (502, "bad_gateway"));
        }
        told(&gate, "upstream_connect");
    }
}

/// The client's connection outlives the service's, unless its answer was cut.
#[test]
fn failures_of_the_service_close_its_connection_only() {
    let upstream = Upstream::answering(|m| match m.first_line().split(' ').nth(1) {
        Some("/v1/silent") => vec![Step::Drain],
        Some("/v1/closes") => vec![Step::Close],
        Some("/v1/odd") => send("HTTP/9.9 maybe\r\n\r\n"),
        Some("/v1/stalls") => {
            let begun = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc";
            [send(begun), vec![Step::Drain]].concat()
        }
        _ => ok(),
    });
    let waits = "[timeouts]\nfirst_byte = \"300ms\"\nresponse_idle = \"300ms\"\n";
    let gate = Gate::before(&upstream).also(waits).start();
    let mut client = Client::connect(gate.address);
    for (n, (path, status, reason)) in [
        ("/v1/silent", 504, "upstream_timeout"),
        ("/v1/closes", 502, "upstream_closed"),
        ("/v1/odd", 502, "upstream_bad_response"),
    ]
    .into_iter()
    .enumerate()
    {
        // POST: an idempotent request would be retried.
        client.send(post(path, "content-length: 0\r\n", ""));
        assert_eq!(client.response().status(), status, "{path}");
        assert!(upstream.wait_closed(n + 1, SOON), "{path}: the service's connection is kept");
        told(&gate, reason);
    }
    is_kept(&mut client);
    let closed = upstream.connections();
    client.send(get("/v1/stalls"));
    let cut = client.response();
    assert_eq!((cut.status(), cut.complete), (200, false));
    is_gone(&mut client);
    assert!(upstream.wait_closed(closed, SOON), "the service's connection is kept");
}

#[test]
fn all_connections_together_are_capped() {
    let upstream = Upstream::answering(|_| answer("200 OK", "", "x"));
    let gate = Gate::before(&upstream).also("[limits]\nconnections = 3\n").start();
    let mut open: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Client::connect(gate.address);
            client.send(get("/v1/a"));
            assert_eq!(client.response().status(), 200);
            client
        })
        .collect();
    is_gone(&mut Client::connect(gate.address));
    turned_away(&gate, "cap", 1);
    open.iter_mut().for_each(is_kept);
    drop(open.pop());
    gate.process.eventually("room", || {
        let mut client = Client::connect(gate.address);
        client.send(get("/v1/a"));
        client.try_response(false).is_ok_and(|a| a.is_some_and(|a| a.status() == 200))
    });
}

/// Connections go to the worker with the fewest, even if the kernel wakes one worker more often.
#[test]
fn connections_spread_over_the_workers() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).also("[workers]\ncount = 3\n").start();
    let mut open = Vec::new();
    for n in 1..=9 {
        let mut client = Client::connect(gate.address);
        client.send(get("/v1/a"));
        assert_eq!(client.response().status(), 200);
        open.push(client);
        let spread = by_worker(&gate);
        let (least, most) = (spread.iter().min(), spread.iter().max());
        assert_eq!(spread.iter().sum::<u64>(), n);
        assert!(most.zip(least).is_some_and(|(m, l)| m - l <= 1), "{spread:?}");
    }
    open.clear();
    gate.process.eventually("all gone", || by_worker(&gate).iter().sum::<u64>() == 0);
}

fn by_worker(gate: &Gate) -> Vec<u64> {
    gate.metrics()
        .lines()
        .filter(|l| l.starts_with("keygate_connections_open{"))
        .map(|l| l.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number"))
        .collect()
}
