//! Answers that HTTP/2 clients do not take: each has its time, is counted, and ends with its key.

use std::time::Duration;

use crate::support::client::exchange;
use crate::support::gate::{Gate, READER, Setup};
use crate::support::h2raw::*;
use crate::support::upstream::{Step, Upstream, send};

const INITIAL_WINDOW_SIZE: u16 = 4;
const LENGTH: usize = 200_000;
const SOON: Duration = Duration::from_secs(10);

/// Answers of 200,000 bytes, in one piece with their head, and forms that end in other ways.
fn service() -> Upstream {
    Upstream::answering(|m| {
        let line = m.first_line();
        let target = line.split(' ').nth(1).unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let length = query.parse().unwrap_or(LENGTH);
        let body = "b".repeat(length);
        let sized = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        let chunked = |end: &str| {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: t\r\n\r\n";
            format!("{head}{length:x}\r\n{body}\r\n0\r\n{end}\r\n")
        };
        match path {
            "/v1/sized" => send(sized),
            "/v1/chunked" => send(chunked("")),
            "/v1/trailers" => send(chunked("t: 1\r\n")),
            "/v1/truncated" => {
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n";
                vec![Step::Send(format!("{head}{body}").into()), Step::Close]
            }
            "/v1/short" => send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nshort"),
            _ => send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        }
    })
}

/// With one worker, and upstream connections that read long answers in one piece.
fn warm(upstream: &Upstream, setup: Setup) -> Gate {
    let gate = setup.also("[workers]\ncount = 1\n").start();
    let mut h2 = H2::connect(gate.address);
    for n in 0..4 {
        let answer = h2.exchange(n * 2 + 1, &get("/v1/sized", READER));
        assert_eq!((answer.body.len(), answer.ended), (LENGTH, true));
    }
    assert_eq!(upstream.take().len(), 4);
    gate
}

/// A client whose streams begin with a window of this many bytes, and never enlarge it.
fn lazy(gate: &Gate, window: u32) -> H2 {
    let mut h2 = H2::with_settings(gate.address, &[(INITIAL_WINDOW_SIZE, window)]);
    h2.polite = false;
    h2
}

fn metric(gate: &Gate, name: &str) -> u64 {
    let text = gate.metrics();
    let line = text.lines().find(|l| l.strip_prefix(name).is_some_and(|l| l.starts_with(' ')));
    line.and_then(|l| l.rsplit(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{name}: {text}"))
}

fn held(gate: &Gate) -> u64 {
    metric(gate, "keygate_memory_held_bytes")
}

/// Whatever the form of the answer, and however little of it the client takes.
#[test]
fn what_is_not_taken_is_reset() {
    let upstream = service();
    let gate = warm(&upstream, Gate::before(&upstream).also("[timeouts]\nwrite = \"500ms\"\n"));
    let paths = ["/v1/sized", "/v1/chunked", "/v1/trailers", "/v1/truncated", "/none", "/v1/short"];
    for window in [0, 1, 10_000, 65_535] {
        let mut h2 = lazy(&gate, window);
        let aborted = metric(&gate, "keygate_requests_aborted_total");
        let mut resets = 0;
        for (n, path) in paths.iter().enumerate() {
            let stream = n as u32 * 2 + 1;
            h2.headers(stream, END_STREAM, &get(path, READER));
        }
        for (n, path) in paths.iter().enumerate() {
            let fits = match *path {
                "/none" => window >= 10_000,
                "/v1/short" => window >= 5,
                // Other streams use up its connection's window.
                _ => false,
            };
            let answer = h2.answer_within(n as u32 * 2 + 1, SOON);
            assert!(answer.body.len() <= window as usize);
            // The windows of the streams together are more than the connection's.
            if window < 65_535 {
                assert_eq!(answer.ended, fits, "{path} with {window}: {answer:?}");
            }
            assert!(answer.ended || answer.reset.is_some(), "{path} with {window}: {answer:?}");
            resets += u64::from(answer.reset.is_some());
        }
        gate.process.eventually("counted", || {
            metric(&gate, "keygate_requests_aborted_total") >= aborted + resets - 1
        });
        // The connection is fine.
        h2.send(&frame(WINDOW_UPDATE, 0, 0, &1_000_000u32.to_be_bytes()));
        assert_eq!(h2.exchange(99, &get("/v1/empty", READER)).status, Some(200));
    }
}

/// A client that repeatedly takes a little gets all of it, however long that lasts.
#[test]
fn what_is_taken_slowly_is_not_reset() {
    let upstream = service();
    let gate = warm(&upstream, Gate::before(&upstream).also("[timeouts]\nwrite = \"2s\"\n"));
    let mut h2 = lazy(&gate, 0);
    h2.headers(1, END_STREAM, &get("/v1/sized", READER));
    // One piece of 64 KiB takes longer than the time-out.
    for _ in 0..14 {
        std::thread::sleep(Duration::from_millis(200));
        h2.send(&frame(WINDOW_UPDATE, 0, 1, &1000u32.to_be_bytes()));
    }
    h2.send(&frame(WINDOW_UPDATE, 0, 1, &1_000_000u32.to_be_bytes()));
    h2.send(&frame(WINDOW_UPDATE, 0, 0, &1_000_000u32.to_be_bytes()));
    let answer = h2.answer(1);
    assert_eq!((answer.body.len(), answer.ended), (LENGTH, true), "{:?}", answer.reset);
}

/// An answer that keygate holds completely (a short one arrives in one read) keeps no upstream
/// connection from others.
#[test]
fn what_is_not_taken_keeps_no_upstream_connection() {
    let upstream = service();
    let setup = Gate::before(&upstream)
        .upstream_option("max_connections = 1")
        .also("[timeouts]\nwrite = \"60s\"\nqueue = \"5s\"\n");
    let gate = warm(&upstream, setup);
    let mut h2 = lazy(&gate, 0);
    for (n, path) in
        ["/v1/sized?40000", "/v1/chunked?40000", "/v1/trailers?40000"].iter().enumerate()
    {
        h2.headers(n as u32 * 2 + 1, END_STREAM, &get(path, READER));
        upstream.wait_for(1);
        let request = format!("GET /v1/sized HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
        assert_eq!(exchange(gate.address, request).status(), 200, "{path}");
        let more = 1_000_000u32.to_be_bytes();
        h2.send(&frame(WINDOW_UPDATE, 0, 0, &more));
        h2.send(&frame(WINDOW_UPDATE, 0, n as u32 * 2 + 1, &more));
        let answer = h2.answer(n as u32 * 2 + 1);
        assert_eq!((answer.body.len(), answer.ended), (40_000, true), "{path}");
        assert_eq!(answer.header_blocks, if path.contains("trailers") { 2 } else { 1 });
        upstream.take();
    }
}

#[test]
fn what_is_not_taken_is_counted() {
    const STREAMS: u32 = 10;
    let upstream = service();
    let gate = warm(&upstream, Gate::before(&upstream).also("[timeouts]\nwrite = \"60s\"\n"));
    let mut eager = H2::connect(gate.address);
    let mut next = 1;
    for (window, path) in [(0, "/v1/sized"), (1000, "/v1/chunked")] {
        gate.process.eventually("quiet", || held(&gate) < 200_000);
        let before = held(&gate);
        let mut h2 = lazy(&gate, window);
        for n in 0..STREAMS {
            // The connection that it leaves idle reads as much in one go.
            assert!(eager.exchange(next, &get("/v1/sized", READER)).ended);
            next += 2;
            h2.headers(n * 2 + 1, END_STREAM, &get(path, READER));
            assert_eq!(h2.next_of(n * 2 + 1, SOON).map(|f| f.kind), Some(HEADERS));
        }
        // Some may have arrived in two pieces.
        let least = u64::from(STREAMS) * 120_000;
        gate.process.eventually("counted", || held(&gate) > before + least);
        drop(h2);
        gate.process.eventually("given back", || held(&gate) < before + least / 10);
    }
}

/// Nothing of it is forwarded once its key is revoked, whatever window the client opens then.
#[test]
fn what_is_not_taken_ends_with_its_key() {
    let upstream = service();
    let gate = warm(&upstream, Gate::before(&upstream).also("[timeouts]\nwrite = \"60s\"\n"));
    let paths = ["/v1/sized", "/v1/chunked", "/v1/trailers", "/v1/truncated"];
    let mut clients: Vec<_> = [0, 1000, 15_000].map(|window| (lazy(&gate, window), window)).into();
    for (h2, _) in &mut clients {
        for (n, path) in paths.iter().enumerate() {
            h2.headers(n as u32 * 2 + 1, END_STREAM, &get(path, READER));
        }
    }
    upstream.wait_for(paths.len() * clients.len());
    std::thread::sleep(Duration::from_millis(300));
    let publish = ["--registry", "keys.toml", "--publish", "keys.kgt", "--signer", "signer.pem"];
    gate.folder.ctl(&[&["keys", "revoke", "key_reader"], &publish[..]].concat());
    let line = "keygate_streams_ended_total{reason=\"revoked\"} 12";
    gate.process.eventually(line, || gate.metrics().contains(line));
    for (h2, window) in &mut clients {
        let more = 1_000_000u32.to_be_bytes();
        h2.send(&frame(WINDOW_UPDATE, 0, 0, &more));
        for (n, path) in paths.iter().enumerate() {
            let stream = n as u32 * 2 + 1;
            h2.send(&frame(WINDOW_UPDATE, 0, stream, &more));
            let answer = h2.answer(stream);
            assert!(answer.reset.is_some(), "{path} with {window}: {answer:?}");
            assert!(answer.body.len() <= *window as usize, "{path}: {}", answer.body.len());
        }
    }
}
