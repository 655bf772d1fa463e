//! Response splitting, upstream side (RFC 9112 section 11.1): an answer that can be read in two
//! ways is a 502, and its connection is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, READER, Setup};
use crate::support::relay::Relay;
use crate::support::upstream::{Step, Upstream, answer, ok, send};

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n")
}

#[test]
fn answers_with_two_readings_are_502_and_never_reused() {
    for (name, bytes) in [
        ("not HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        ("bad version", "HTTP/9.9 200 OK\r\n\r\n"),
        ("bad status", "HTTP/1.1 2OO OK\r\n\r\n"),
        ("status too long", "HTTP/1.1 2000 OK\r\n\r\n"),
        ("bad length", "HTTP/1.1 200 OK\r\ncontent-length: 5x\r\n\r\nhello"),
        ("plus length", "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello"),
        ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello"),
        ("empty length", "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nhello"),
        (
            "gzip, chunked",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "chunked, gzip",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        ("identity", "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nhello"),
        (
            "chunked twice",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n",
        ),
        ("obs-fold", "HTTP/1.1 200 OK\r\nx-a: b\r\n c\r\ncontent-length: 5\r\n\r\nhello"),
        ("space before colon", "HTTP/1.1 200 OK\r\nx-a : b\r\ncontent-length: 5\r\n\r\nhello"),
        ("NUL", "HTTP/1.1 200 OK\r\nx-a: b\0c\r\ncontent-length: 5\r\n\r\nhello"),
        ("bare CR", "HTTP/1.1 200 OK\r\nx-a: b\rc\r\ncontent-length: 5\r\n\r\nhello"),
        ("empty name", "HTTP/1.1 200 OK\r\n: b\r\ncontent-length: 5\r\n\r\nhello"),
        (
            "unsolicited 101",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        ),
        ("101 without upgrade", "HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        ("nothing", ""),
        ("half a head", "HTTP/1.1 200 OK\r\nx-a: "),
        ("many fields", &format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-a: b\r\n".repeat(257))),
        ("large head", &format!("HTTP/1.1 200 OK\r\nx-a: {}\r\n\r\n", "b".repeat(600 * 1024))),
    ] {
        let bytes = bytes.to_owned();
        let upstream =
            Upstream::answering(move |_| [send(&*bytes), vec![Step::HalfClose]].concat());
        let gate = Gate::before(&upstream).start();
        let mut client = Client::connect(gate.address);
        client.send(get("/v1/a"));
        let got = client.response();
        assert_eq!(got.status(), 502, "{name}: {}", got.body_text());
        assert_eq!(got.code(), "bad_gateway", "{name}");
        assert!(!got.body_text().contains("hello"), "{name}");
        drop(client);
        assert!(upstream.wait_closed(1, Duration::from_secs(5)), "{name}: connection kept");
    }
}

/// Bytes after an answer belong to nobody: the next request uses another connection.
#[test]
fn bytes_behind_an_answer_end_the_connection() {
    let turn = Arc::new(AtomicUsize::new(0));
    let turns = Arc::clone(&turn);
    let upstream = Upstream::answering(move |_| {
        if turns.fetch_add(1, Ordering::SeqCst) == 0 {
            send(
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst\
                 HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx-forged: 1\r\n\r\nevil",
            )
        } else {
            ok()
        }
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(get("/v1/a"));
    assert_eq!(client.response().body_text(), "first");
    std::thread::sleep(Duration::from_millis(100));
    client.send(get("/v1/b"));
    let second = client.response();
    assert_eq!(second.body_text(), "hello from upstream\n");
    assert!(second.all("x-forged").is_empty());
    assert_eq!(upstream.wait_for(2)[1].connection, 1);
}

#[test]
fn both_framings_in_an_answer_leave_one_and_no_reuse() {
    let upstream = Upstream::answering(|_| {
        send(
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(get("/v1/a"));
    // `response` itself fails on an answer with both fields.
    let got = client.response();
    match got.status() {
        502 => {}
        200 => assert_eq!(got.body_text(), "hello"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_cut_answer_is_seen_as_cut() {
    for (name, bytes) in [
        ("length", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello"),
        ("chunked", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        (
            "bad chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n\r\n",
        ),
    ] {
        let upstream = Upstream::answering(move |_| [send(bytes), vec![Step::Close]].concat());
        let gate = Gate::before(&upstream).start();
        let mut client = Client::connect(gate.address);
        client.send(get("/v1/a"));
        // Closed before the head, a 502, or a head with a body that visibly ends too early.
        if let Some(got) = client.try_response(false).unwrap() {
            assert!(got.status() == 502 || !got.complete, "{name}: a cut body must not look whole");
        }
    }
}

#[test]
fn interim_answers_are_consumed() {
    let upstream = Upstream::answering(|_| {
        [
            send("HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"),
            vec![Step::Wait(Duration::from_millis(30))],
            send("HTTP/1.1 102 Processing\r\n\r\n"),
            vec![Step::Wait(Duration::from_millis(30))],
            ok(),
        ]
        .concat()
    });
    let gate = Gate::before(&upstream).start();
    let got = exchange(gate.address, get("/v1/a"));
    assert_eq!((got.status(), got.all("link").len()), (200, 0));
    gate.process.eventually("both counted", || {
        gate.metrics().contains("keygate_upstream_informational_responses_total 2")
    });
}

/// The version of an answer is that of its own hop.
#[test]
fn the_version_of_the_upstream_stays_on_its_hop() {
    let upstream = Upstream::answering(|_| {
        [send("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi"), vec![Step::Close]].concat()
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    for _ in 0..2 {
        client.send(get("/v1/a"));
        assert_eq!(client.response().first_line(), "HTTP/1.1 200 OK");
    }
}

#[test]
fn heads_and_bodiless_answers() {
    let upstream = Upstream::answering(|m| match m.first_line().split(' ').nth(1) {
        Some("/v1/204") => send("HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n"),
        Some("/v1/304") => {
            send("HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\ncontent-length: 5\r\n\r\n")
        }
        _ => send("HTTP/1.1 200 OK\r\ncontent-length: 12345\r\nx-head: 1\r\n\r\n"),
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(format!("HEAD /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n"));
    let head = client.response_to_head();
    assert_eq!((head.status(), head.all("content-length")), (200, vec!["12345".to_owned()]));
    client.send(get("/v1/204"));
    let none = client.response();
    assert_eq!((none.status(), none.all("content-length").len()), (204, 0));
    client.send(get("/v1/304"));
    assert_eq!(client.response().status(), 304);
    // A refused HEAD has no body either.
    client.send("HEAD /v1/a HTTP/1.1\r\nhost: a\r\n\r\n");
    let refused = client.response_to_head();
    assert_eq!(refused.status(), 401);
    client.send(get("/v1/204"));
    assert_eq!(client.response().status(), 204, "the refusal of HEAD left bytes behind");
}

#[test]
fn trailers_of_the_answer_travel() {
    let upstream = Upstream::answering(|_| {
        send(
            "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
        )
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(format!(
        "GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\nte: trailers\r\n\r\n"
    ));
    let got = client.response();
    assert_eq!((got.body_text().as_str(), got.complete), ("abc", true));
}

#[test]
fn the_upstream_down_or_slow_is_said_so() {
    let upstream = Upstream::answering(|_| vec![Step::Wait(Duration::from_secs(20))]);
    let gate = Gate::before(&upstream).also("[timeouts]\nfirst_byte = \"200ms\"\n").start();
    let slow = exchange(gate.address, get("/v1/a"));
    assert_eq!((slow.status(), slow.code().as_str()), (504, "gateway_timeout"));
    assert!(gate.log_soon("upstream_timeout"), "{}", gate.log());

    let gone = Upstream::start();
    let address = gone.address;
    let gate = Gate::before_address(address).start();
    drop(gone);
    // The listener's socket closes a moment after the drop.
    for _ in 0..100 {
        let got = exchange(gate.address, get("/v1/a"));
        if got.status() == 502 {
            assert_eq!(got.code(), "bad_gateway");
            if gate.log().contains("upstream_connect") {
                return;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no upstream_connect in the log");
}

/// A kept connection that the service closed is not the client's fault. What was not sent is sent
/// again. What may have been seen twice is not.
#[test]
fn stale_connections_are_retried_only_when_safe() {
    let upstream = Upstream::answering(|_| [ok(), vec![Step::Close]].concat());
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    for n in 0..10 {
        client.send(get(&format!("/v1/{n}")));
        assert_eq!(client.response().status(), 200, "{n}");
        assert_eq!(upstream.only().first_line(), format!("GET /v1/{n} HTTP/1.1"));
    }
    // A POST that the service accepted and did not answer is sent once.
    let upstream = Upstream::answering(|_| vec![Step::Close]);
    let gate = Gate::before(&upstream).start();
    let post = format!(
        "POST /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\ncontent-length: 2\r\n\r\nhi"
    );
    let got = exchange(gate.address, post);
    assert_eq!((got.status(), got.code().as_str()), (502, "bad_gateway"));
    assert_eq!(upstream.take().len(), 1);
}

#[test]
fn connections_are_kept_and_reused() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).also("[workers]\ncount = 1\n").start();
    let mut client = Client::connect(gate.address);
    for _ in 0..50 {
        client.send(get("/v1/a"));
        assert_eq!(client.response().status(), 200);
    }
    assert_eq!(upstream.connections(), 1);
}

/// keygate itself reads short answers and leaves all others to hyper: the connection changes from
/// one reader to the other and back without losing a byte.
#[test]
fn a_connection_survives_every_change_of_its_reader() {
    let upstream = every_reader();
    change_readers(&upstream, Gate::before(&upstream));
}

#[test]
fn a_unix_connection_survives_every_change_of_its_reader() {
    let upstream = every_reader();
    let relay = Relay::unix(&upstream);
    change_readers(&upstream, Gate::before_url(&relay.url));
}

#[test]
fn a_tls_connection_survives_every_change_of_its_reader() {
    let upstream = every_reader();
    let relay = Relay::tls(&upstream);
    let gate = Gate::before_url(&relay.url).upstream_option(&relay.options);
    change_readers(&upstream, gate);
}

/// Answers that are short, and in each of the ways that only hyper reads.
fn every_reader() -> Upstream {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    Upstream::answering(|m| match m.first_line().split(' ').nth(1) {
        Some("/v1/chunked") => send(format!("{CHUNKED}3\r\nabc\r\n0\r\n\r\n")),
        Some("/v1/slow") => {
            let rest =
                [Step::Wait(Duration::from_millis(30)), Step::Send(b"c\r\n0\r\n\r\n".into())];
            [send(format!("{CHUNKED}3\r\nab")), rest.into()].concat()
        }
        Some("/v1/split") => {
            let wait = || vec![Step::Wait(Duration::from_millis(30))];
            let head = send("HTTP/1.1 200 OK\r\ncontent-le");
            [head, wait(), send("ngth: 3\r\n\r\na"), wait(), send("bc")].concat()
        }
        Some("/v1/interim") => {
            send("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc")
        }
        Some("/v1/large") => answer("200 OK", "", &"x".repeat(100_000)),
        _ => answer("200 OK", "", "abc"),
    })
}

fn change_readers(upstream: &Upstream, gate: Setup) {
    let gate = gate.also("[workers]\ncount = 1\n").start();
    let mut client = Client::connect(gate.address);
    let paths = ["chunked", "slow", "split", "interim", "large", "post"];
    // Every kind after every other.
    for (before, after) in paths.iter().flat_map(|a| paths.iter().map(move |b| (a, b))) {
        for path in [before, &"short", after] {
            if *path == "post" {
                let fields = "host: a\r\ncontent-length: 2\r\n";
                client.send(format!(
                    "POST /v1/post HTTP/1.1\r\n{fields}x-api-key: {READER}\r\n\r\nhi"
                ));
            } else {
                client.send(get(&format!("/v1/{path}")));
            }
            let body = client.response().body_text();
            match *path {
                "large" => assert_eq!(body.len(), 100_000),
                _ => assert_eq!(body, "abc", "{path} of {before}, {after}"),
            }
        }
    }
    assert_eq!(upstream.connections(), 1);
    let sent = upstream.take();
    assert_eq!(sent.len(), 3 * paths.len() * paths.len(), "nothing was sent twice");
}

/// An early answer of the service while the client still sends.
#[test]
fn an_early_answer_reaches_the_client() {
    let upstream = Upstream::answering(|_| {
        [
            answer("413 Content Too Large", "connection: close\r\n", "too big"),
            vec![Step::ReadBody, Step::Close],
        ]
        .concat()
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(format!(
        "POST /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\ncontent-length: 1000\r\n\r\nabc"
    ));
    let got = client.response();
    assert_eq!((got.status(), got.body_text().as_str()), (413, "too big"));
}

/// Many large answers in parallel: streamed, never collected.
#[test]
fn bodies_stream_both_ways() {
    let upstream = Upstream::answering(|_| {
        vec![
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst".to_vec()),
            Step::Wait(Duration::from_millis(700)),
            Step::Send(b"-last".to_vec()),
        ]
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.patience(Duration::from_millis(600));
    client.send(get("/v1/a"));
    assert_eq!(client.response_head().status(), 200);
    let mut early = client.pending().to_vec();
    if early.is_empty() {
        early = client.read_some();
    }
    assert_eq!(early, b"first", "the first part must not wait for the last");
}
