//! Every limit and time-out of docs/limits.md: the status, the reason in log and metric, and what
//! happens to the connection.

use std::time::{Duration, Instant};

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, READER};
use crate::support::upstream::{Step, Upstream, send};

pub(super) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n")
}

pub(super) fn post(path: &str, fields: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n{fields}\r\n{body}")
}

/// The reason stands in the log and in a metric.
pub(super) fn told(gate: &Gate, reason: &str) {
    assert!(gate.log_soon(&format!("\"{reason}\"")), "{reason} is not logged:\n{}", gate.log());
    let label = format!("reason=\"{reason}\"");
    let counted = gate.metrics().lines().any(|l| l.contains(&label) && !l.ends_with(" 0"));
    assert!(counted, "{reason} is not counted");
}

#[test]
fn long_targets_are_414() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).also("[limits]\nuri_bytes = \"1KiB\"\n").start();
    let fits = format!("/v1/{}", "a".repeat(1_000));
    assert_eq!(exchange(gate.address, get(&fits)).status(), 200);
    upstream.only();
    for target in [format!("/v1/{}", "a".repeat(1_100)), format!("/v1/a?{}", "q".repeat(1_100))] {
        gate.refuses("long", get(&target), 414, "uri_too_long");
    }
    told(&gate, "uri_too_long");
}

#[test]
fn large_and_many_fields_are_431() {
    let upstream = Upstream::start();
    let gate =
        Gate::before(&upstream).also("[limits]\nhead_bytes = \"8KiB\"\nheaders = 50\n").start();
    let ask = |fields: String| get("/v1/a").replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
    assert_eq!(
        exchange(gate.address, ask(format!("x-a: {}\r\n", "b".repeat(4_000)))).status(),
        200
    );
    assert_eq!(exchange(gate.address, ask("x-a: b\r\n".repeat(40))).status(), 200);
    upstream.wait_for(2);
    for (name, fields) in [
        ("one large", format!("x-a: {}\r\n", "b".repeat(9_000))),
        ("many", "x-a: b\r\n".repeat(60)),
        ("endless name", "x".repeat(20_000)),
    ] {
        gate.refuses_bytes(name, ask(fields).as_bytes(), 431);
    }
    told(&gate, "headers_too_large");
}

#[test]
fn long_bodies_are_413() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    assert_eq!(
        exchange(gate.address, post("/small/a", "content-length: 10\r\n", "0123456789")).status(),
        200
    );
    upstream.only();
    // Known in advance: nothing reaches the upstream.
    gate.refuses(
        "length",
        post("/small/a", "content-length: 11\r\n", "0123456789a"),
        413,
        "body_too_large",
    );
    told(&gate, "body_too_large");
    // Found on the way: what has begun never becomes complete.
    let chunks = post(
        "/small/a",
        "transfer-encoding: chunked\r\n",
        "6\r\n012345\r\n6\r\n678901\r\n0\r\n\r\n",
    );
    let answer = Client::connect(gate.address).send(chunks).try_response(false).unwrap();
    assert_eq!(answer.map(|a| a.status()), Some(413));
    assert!(upstream.take().iter().all(|r| !r.complete));
}

/// hyper's own header time-out is inert without a timer, and does not run before the first byte.
#[test]
fn slow_heads_are_cut() {
    let upstream = Upstream::start();
    let gate =
        Gate::before(&upstream).also("[timeouts]\nheader = \"300ms\"\nidle = \"2s\"\n").start();
    let begun = Instant::now();
    let mut slow = Client::connect(gate.address);
    slow.send("GET /v1/a HTTP/1.1\r\nhost:");
    let answer = slow.try_response(false).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "cut after {:?}", begun.elapsed());
    assert!(answer.is_none_or(|a| a.status() == 408));
    told(&gate, "header_timeout");
    // Sending byte by byte does not avoid it.
    let begun = Instant::now();
    let mut drip = Client::connect(gate.address);
    drip.drip(&get("/v1/a").as_bytes()[..40], Duration::from_millis(50));
    let _ = drip.try_response(false);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(upstream.take().is_empty());
}

#[test]
fn silent_and_idle_connections_are_closed() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream)
        .also("[timeouts]\nheader = \"400ms\"\nidle = \"400ms\"\nhandshake = \"400ms\"\n")
        .start();
    let begun = Instant::now();
    let mut silent = Client::connect(gate.address);
    let closed = silent.try_response(false).unwrap();
    assert!(closed.is_none_or(|a| a.status() == 408), "a silent client outlived every time-out");
    assert!(begun.elapsed() < Duration::from_secs(3));
    let mut idle = Client::connect(gate.address);
    idle.send(get("/v1/a"));
    assert_eq!(idle.response().status(), 200);
    let begun = Instant::now();
    assert!(idle.is_closed());
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[test]
fn stalled_bodies_are_408() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).also("[timeouts]\nbody = \"300ms\"\n").start();
    let mut stalled = Client::connect(gate.address);
    stalled.send(post("/v1/a", "content-length: 10\r\n", "abc"));
    let answer = stalled.try_response(false).unwrap();
    assert_eq!(answer.map(|a| a.status()), Some(408));
    assert!(stalled.is_closed());
    assert!(upstream.take().iter().all(|r| !r.complete));
    told(&gate, "body_timeout");
}

/// Slow progress is fine: the time-out is for lack of progress.
#[test]
fn slow_bodies_that_move_are_served() {
    let upstream = Upstream::start();
    let setup = "[timeouts]\nbody = \"400ms\"\n[limits]\nbody_rate = 0\n";
    let gate = Gate::before(&upstream).also(setup).start();
    let mut slow = Client::connect(gate.address);
    slow.send(post("/v1/a", "content-length: 10\r\n", ""));
    slow.drip(b"0123456789", Duration::from_millis(100));
    assert_eq!(slow.response().status(), 200);
    assert_eq!(upstream.only().body_text(), "0123456789");
}

/// Progress alone is not enough: an occasional byte would hold an upstream connection for ever.
#[test]
fn dripping_bodies_are_408() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).also("[timeouts]\nbody = \"400ms\"\n").start();
    let mut slow = Client::connect(gate.address);
    slow.send(post("/v1/a", "content-length: 1000\r\n", ""));
    slow.drip(b"0123456789", Duration::from_millis(100));
    let answer = slow.try_response(false).unwrap();
    assert_eq!(answer.map(|a| a.status()), Some(408));
    assert!(upstream.take().iter().all(|r| !r.complete));
    told(&gate, "body_timeout");
}

#[test]
fn a_client_that_does_not_read_is_reset() {
    let upstream = Upstream::answering(|_| {
        let mut steps = send("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n");
        steps.extend((0..1_000).map(|_| Step::Send(vec![b'x'; 100_000])));
        steps
    });
    let gate = Gate::before(&upstream).also("[timeouts]\nwrite = \"500ms\"\n").start();
    let mut lazy = Client::connect(gate.address);
    lazy.send(get("/v1/a"));
    assert!(
        upstream.wait_closed(1, Duration::from_secs(10)),
        "the upstream waits for a client that sleeps"
    );
}

#[test]
fn the_upstreams_time_outs() {
    let upstream = Upstream::answering(|m| {
        if m.first_line().contains("/v1/stalls") {
            vec![
                Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_vec()),
                Step::Drain,
            ]
        } else {
            vec![Step::Drain]
        }
    });
    let gate = Gate::before(&upstream)
        .also("[timeouts]\nfirst_byte = \"300ms\"\nresponse_idle = \"300ms\"\n")
        .start();
    gate_is_slow(&gate, "/v1/silent");
    told(&gate, "upstream_timeout");
    let mut stalled = Client::connect(gate.address);
    stalled.send(get("/v1/stalls"));
    let answer = stalled.response();
    assert_eq!((answer.status(), answer.complete), (200, false), "a stalled answer is cut");
}

fn gate_is_slow(gate: &Gate, path: &str) {
    let answer = exchange(gate.address, get(path));
    assert_eq!((answer.status(), answer.code().as_str()), (504, "gateway_timeout"));
}

#[test]
fn the_total_bounds_a_request() {
    let upstream = Upstream::answering(|_| {
        let mut steps = send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for _ in 0..100 {
            steps.push(Step::Send(b"1\r\nx\r\n".to_vec()));
            steps.push(Step::Wait(Duration::from_millis(50)));
        }
        steps
    });
    let gate = Gate::before(&upstream).also("[timeouts]\ntotal = \"500ms\"\n").start();
    let begun = Instant::now();
    let mut client = Client::connect(gate.address);
    client.send(get("/v1/a"));
    let answer = client.response();
    assert!(!answer.complete && begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn the_queue_for_the_upstream_is_bounded() {
    let upstream = Upstream::answering(|_| {
        [vec![Step::Wait(Duration::from_secs(2))], crate::support::upstream::ok()].concat()
    });
    let setup =
        Gate::before(&upstream).also("[workers]\ncount = 1\n[timeouts]\nqueue = \"300ms\"\n");
    let folder = setup.folder();
    let config = folder.read("keygate.toml");
    folder.write(
        "keygate.toml",
        &config.replace("[upstream]\n", "[upstream]\nmax_connections = 1\nmax_queue = 1\n"),
    );
    let gate = Gate::serve(folder);
    gate.wait_ready();
    let mut first = Client::connect(gate.address);
    first.send(get("/v1/a"));
    upstream.wait_for(0);
    std::thread::sleep(Duration::from_millis(100));
    let mut others: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Client::connect(gate.address);
            client.send(get("/v1/a"));
            client
        })
        .collect();
    for client in &mut others {
        let answer = client.response();
        assert_eq!((answer.status(), answer.code().as_str()), (503, "overloaded"));
        assert!(answer.one("retry-after").is_some());
    }
    assert_eq!(first.response().status(), 200);
    told(&gate, "overloaded");
}

#[test]
fn connections_are_capped() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream)
        .also("[limits]\nconnections = 8\nconnections_per_address = 4\n")
        .start();
    let mut open: Vec<_> = (0..4)
        .map(|_| {
            let mut client = Client::connect(gate.address);
            client.send(get("/v1/a"));
            assert_eq!(client.response().status(), 200);
            client
        })
        .collect();
    let mut fifth = Client::connect(gate.address);
    fifth.send(get("/v1/a"));
    let answer = fifth.try_response(false).unwrap();
    assert!(answer.is_none_or(|a| a.status() == 503), "the cap per address does not hold");
    assert!(
        gate.metrics()
            .contains("keygate_connections_turned_away_total{reason=\"cap_per_address\"} 1")
    );
    // One leaves, so one may enter.
    drop(open.pop());
    gate.process.eventually("room", || {
        let mut client = Client::connect(gate.address);
        client.send(get("/v1/a"));
        client.try_response(false).is_ok_and(|a| a.is_some_and(|a| a.status() == 200))
    });
}

/// Slow clients do not delay the others.
#[test]
fn slow_clients_hold_nobody_up() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).also("[workers]\ncount = 1\n").start();
    let mut slow = Vec::new();
    for n in 0..200 {
        let mut client = Client::connect(gate.address);
        client.send(match n % 3 {
            0 => "GET /v1/a HT".to_owned(),
            1 => post("/v1/a", "content-length: 1000\r\n", "abc"),
            _ => String::new(),
        });
        slow.push(client);
    }
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(exchange(gate.address, get("/v1/a")).status(), 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// An answer that has begun does not exempt its request from the deadline for the body.
#[test]
fn a_stalled_body_is_cut_beside_its_answer() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n";
    // Begins its answer, then reads.
    let upstream =
        Upstream::answering(move |_| vec![Step::Send(head.into()), Step::ReadBody, Step::Close]);
    let limits = "[timeouts]\nbody = \"400ms\"\n[limits]\nbody_rate = 0\n";
    let gate = Gate::before(&upstream).also(limits).start();
    let mut client = Client::connect(gate.address);
    client.send(post("/v1/a", "content-length: 100\r\n", "x"));
    assert_eq!(client.response_head().status(), 200);
    assert!(upstream.wait_closed(1, Duration::from_secs(5)), "the connection is held");
    assert!(gate.log_soon("\"body_timeout\""), "{}", gate.log());
    // One that makes progress continues.
    let mut client = Client::connect(gate.address);
    client.send(post("/v1/a", "content-length: 100\r\n", "x"));
    assert_eq!(client.response_head().status(), 200);
    client.drip(&[b'y'; 12], Duration::from_millis(100));
    assert!(!upstream.wait_closed(2, Duration::ZERO), "it moved, and was cut");
}
