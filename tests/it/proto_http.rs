//! HTTP/1 as clients and services really speak it: old versions, pipelines, half-closed
//! connections, clients that go away, and bodies too large to hold.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::support::client::{Client, PATIENCE, exchange};
use crate::support::gate::{Gate, READER};
use crate::support::process::run;
use crate::support::tools;
use crate::support::upstream::{Step, Upstream, answer, ok, send};

const SOON: Duration = Duration::from_secs(5);

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n")
}

fn chunked_upstream() -> Upstream {
    Upstream::answering(|_| {
        send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    })
}

#[test]
fn http_1_0_without_host() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(format!("GET /v1/a HTTP/1.0\r\nx-api-key: {READER}\r\n\r\n"));
    let answer = client.response();
    assert_eq!((answer.status(), answer.body_text().as_str()), (200, "hello from upstream\n"));
    assert!(client.is_closed(), "HTTP/1.0 closes unless asked not to");
    let got = upstream.only();
    assert_eq!(got.first_line(), "GET /v1/a HTTP/1.1");
    // An HTTP/1.1 request must have a Host (RFC 9112 section 3.2).
    assert_eq!(got.all("host"), [upstream.address.to_string()]);
    assert_eq!(got.one("x-forwarded-host"), None, "the client has named none");
}

#[test]
fn http_1_0_keeps_the_connection_when_asked() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    for _ in 0..3 {
        client.send(format!(
            "GET /v1/a HTTP/1.0\r\nhost: old\r\nconnection: keep-alive\r\nx-api-key: {READER}\r\n\r\n"
        ));
        let answer = client.response();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.one("connection").as_deref(), Some("keep-alive"));
    }
    assert_eq!(upstream.wait_for(3)[2].all("host"), ["old"]);
}

/// A client of HTTP/1.0 does not know chunks: the end of the connection is the end of the body.
#[test]
fn http_1_0_gets_no_chunks() {
    let upstream = chunked_upstream();
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(format!("GET /v1/a HTTP/1.0\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n"));
    let answer = client.response();
    assert_eq!((answer.one("transfer-encoding"), answer.body_text().as_str()), (None, "hello"));
}

#[test]
fn pipelined_requests_are_answered_in_turn() {
    let upstream = Upstream::answering(|m| answer("200 OK", "", &m.first_line()));
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    let refused = "GET /v1/b HTTP/1.1\r\nhost: a\r\nx-api-key: wa_nothing0123456789\r\n\r\n";
    let post = format!(
        "POST /v1/c HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\ntransfer-encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\n\r\n"
    );
    let all = get("/v1/a") + refused + &post + &get("/v1/d");
    client.send(all);
    assert_eq!(client.response().body_text(), "GET /v1/a HTTP/1.1");
    assert_eq!(client.response().status(), 401);
    assert_eq!(client.response().body_text(), "POST /v1/c HTTP/1.1");
    assert_eq!(client.response().body_text(), "GET /v1/d HTTP/1.1");
    let got = upstream.wait_for(3);
    assert_eq!(got[1].body_text(), "abc");
}

#[test]
fn chunked_both_ways() {
    let upstream = chunked_upstream();
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(format!(
        "POST /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\ntransfer-encoding: chunked\r\n\r\n\
         2;name=\"value\"\r\nab\r\n1\r\nc\r\n0\r\nx-org-id: evil\r\n\r\n"
    ));
    let answer = client.response();
    assert_eq!(answer.one("transfer-encoding").as_deref(), Some("chunked"));
    assert_eq!(answer.body_text(), "hello");
    let got = upstream.only();
    assert_eq!((got.body_text().as_str(), got.one("content-length")), ("abc", None));
    assert!(!upstream.saw(b"evil") && !upstream.saw(b"name="));
}

/// 100 Continue is keygate's promise to read the body, so it is sent only after admission.
#[test]
fn continue_is_said_after_admission() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let ask = |key: &str| {
        let mut client = Client::connect(gate.address);
        client.send(format!(
            "POST /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\ncontent-length: 5\r\n\
             expect: 100-continue\r\n\r\n"
        ));
        client
    };
    let mut refused = ask("wa_nothing0123456789");
    assert_eq!(refused.response().status(), 401);
    let mut admitted = ask(READER);
    assert_eq!(admitted.response().status(), 100);
    admitted.send("hello");
    assert_eq!(admitted.response().status(), 200);
    let got = upstream.only();
    assert_eq!((got.one("expect"), got.body_text().as_str()), (None, "hello"));
}

/// A body that was asked for and read to its end leaves nothing behind: its connection continues.
#[test]
fn an_upload_that_was_asked_for_keeps_its_connection() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for (fields, body) in [
        ("content-length: 5\r\n", "hello"),
        ("transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "2\r\nhe\r\n3\r\nllo\r\n0\r\nx-sum: 1\r\n\r\n"),
    ] {
        for (expect, cut) in [("expect: 100-continue\r\n", body.len() - 2), ("", 0), ("", 3)] {
            let about = format!("{fields}{expect}{body:?} cut at {cut}");
            let mut client = Client::connect(gate.address);
            for _ in 0..3 {
                client.send(format!(
                    "POST /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n{fields}{expect}\r\n"
                ));
                if !expect.is_empty() {
                    assert_eq!(client.response().status(), 100, "{about}");
                }
                client.send(&body[..cut]);
                std::thread::sleep(std::time::Duration::from_millis(5));
                let got = client.send(&body[cut..]).response();
                assert_eq!((got.status(), got.one("connection")), (200, None), "{about}");
                assert_eq!(upstream.only().body_text(), "hello", "{about}");
            }
        }
    }
}

#[test]
fn header_case_is_kept_where_it_must_be() {
    let upstream = Upstream::start();
    let gate =
        Gate::before_url(&format!("http://{}\"\npreserve_header_case = true\n#", upstream.address))
            .start();
    let request =
        format!("GET /v1/a HTTP/1.1\r\nHost: a\r\nX-API-Key: {READER}\r\nX-Odd-CASE: 1\r\n\r\n");
    assert_eq!(exchange(gate.address, &request).status(), 200);
    assert!(upstream.saw(b"Host: a\r\n") && upstream.saw(b"X-Odd-CASE: 1\r\n"));
    assert!(upstream.saw(b"x-org-id: acme\r\n"));
    // No field of ours may get the client's spelling.
    let spoofed = request.replace("X-Odd", "X-Org-ID: evil\r\nX-Odd");
    assert_eq!(exchange(gate.address, &spoofed).status(), 200);
    assert!(!upstream.saw(b"X-Org-ID") && !upstream.saw(b"evil"), "owned: lower case");
    let gate = Gate::before(&upstream).start();
    assert_eq!(exchange(gate.address, &request).status(), 200);
    assert!(upstream.saw(b"x-odd-case: 1\r\n"));
}

/// A client that announces that it has no more to send still gets its answer.
#[test]
fn a_half_closed_client_is_answered() {
    let upstream =
        Upstream::answering(|_| [vec![Step::Wait(Duration::from_millis(300))], ok()].concat());
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(get("/v1/a")).finish();
    assert_eq!(client.response().body_text(), "hello from upstream\n");
    let mut upload = Client::connect(gate.address);
    upload.send(format!(
        "POST /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\ncontent-length: 5\r\n\r\nhello"
    ));
    upload.finish();
    assert_eq!(upload.response().status(), 200);
    // keygate does not wait for a body that can never be complete.
    let mut cut = Client::connect(gate.address);
    cut.send(format!(
        "POST /v1/cut HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\ncontent-length: 50\r\n\r\nhello"
    ));
    cut.finish();
    let begun = Instant::now();
    let told = cut.try_response(false).ok().flatten().map(|a| a.status());
    assert!(told.is_none_or(|s| s == 400 || s == 408), "{told:?}");
    assert!(begun.elapsed() < SOON);
}

/// Nobody works for a client that has left: before the answer, and in the middle of it.
#[test]
fn a_client_that_goes_away_cancels() {
    let upstream = Upstream::answering(|m| {
        if m.first_line().contains("waits") {
            return vec![Step::Wait(Duration::from_millis(10)), Step::Drain];
        }
        let mut steps = send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        for _ in 0..1_000 {
            steps.push(Step::Send(b"1\r\nx\r\n".to_vec()));
            steps.push(Step::Wait(Duration::from_millis(10)));
        }
        steps
    });
    let gate = Gate::before(&upstream).start();
    let mut waiting = Client::connect(gate.address);
    waiting.send(get("/v1/waits"));
    upstream.wait_for(1);
    waiting.reset();
    assert!(upstream.wait_closed(1, SOON), "still waited for");
    let mut reading = Client::connect(gate.address);
    reading.send(get("/v1/a"));
    assert_eq!(reading.response_head().status(), 200);
    drop(reading);
    assert!(upstream.wait_closed(2, SOON), "still read");
    gate.process
        .eventually("counted", || gate.metrics().contains("keygate_requests_aborted_total 2"));
}

/// Each event reaches the client when the service sends it.
#[test]
fn events_are_not_held_back() {
    let upstream = Upstream::answering(|_| {
        let mut steps = send(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        );
        for _ in 0..5 {
            steps.push(Step::Send(b"8\r\ndata: x\n\r\n".to_vec()));
            steps.push(Step::Wait(Duration::from_millis(200)));
        }
        steps
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(get("/v1/events"));
    client.response_head();
    let begun = Instant::now();
    while client.pending().len() < 11 {
        client.read_some();
    }
    assert!(begun.elapsed() < Duration::from_millis(150), "{:?}", begun.elapsed());
}

#[test]
fn unused_upstream_connections_are_closed_first() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).also("[timeouts]\nupstream_idle = \"300ms\"\n").start();
    assert_eq!(exchange(gate.address, get("/v1/a")).status(), 200);
    let begun = Instant::now();
    assert!(upstream.wait_closed(1, SOON), "kept");
    assert!(begun.elapsed() > Duration::from_millis(100), "not kept at all");
    assert_eq!(exchange(gate.address, get("/v1/a")).status(), 200);
}

/// Out of descriptors: accepting pauses and continues, and connected clients are served.
#[test]
fn running_out_of_descriptors_is_survived() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut before = Client::connect(gate.address);
    before.send(get("/v1/a"));
    assert_eq!(before.response().status(), 200);
    let used = std::fs::read_dir(format!("/proc/{}/fd", gate.process.id())).unwrap().count();
    let limit = format!("--nofile={}", used + 4);
    run(tools::command("prlimit").args(["--pid", &gate.process.id().to_string(), &limit]));
    let crowd: Vec<_> = (0..40).map(|_| Client::connect(gate.address)).collect();
    gate.process.eventually("refused by the system", || {
        // The admin listener shares the limit, so look at the log.
        gate.log().contains("out of file descriptors")
    });
    before.send(get("/v1/a"));
    assert_eq!(before.response().status(), 200, "who is connected is served");
    drop(crowd);
    gate.process.eventually("room again", || {
        let mut client = Client::connect(gate.address);
        client.patience(Duration::from_secs(1)).send(get("/v1/a"));
        client.try_response(false).is_ok_and(|a| a.is_some_and(|a| a.status() == 200))
    });
    let metrics = gate.metrics();
    let line = metrics.lines().find(|l| l.starts_with("keygate_accept_errors_total")).unwrap();
    assert!(!line.ends_with(" 0"), "{line}");
}

/// Bodies pass through without being collected. `KEYGATE_TEST_MIB` makes them larger.
#[test]
fn large_bodies_take_no_memory() {
    let size = std::env::var("KEYGATE_TEST_MIB").ok().and_then(|v| v.parse().ok()).unwrap_or(48)
        * (1 << 20);
    let upstream = bulk();
    let gate = Gate::before_address(upstream).start();
    assert_eq!(exchange(gate.address, get("/v1/0")).status(), 200);
    let before = peak(&gate);
    let mut client = TcpStream::connect(gate.address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(get(&format!("/v1/{size}")).as_bytes()).unwrap();
    assert_eq!(drain(&mut client), size, "download");
    let length = format!("content-length: {size}");
    for framing in [&*length, "transfer-encoding: chunked"] {
        let mut client = TcpStream::connect(gate.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let head =
            format!("POST /v1/0 HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n{framing}\r\n\r\n");
        client.write_all(head.as_bytes()).unwrap();
        let piece = vec![b'x'; 1 << 16];
        for _ in 0..size / piece.len() {
            if framing != length {
                client.write_all(b"10000\r\n").unwrap();
            }
            client.write_all(&piece).unwrap();
            if framing != length {
                client.write_all(b"\r\n").unwrap();
            }
        }
        if framing != length {
            client.write_all(b"0\r\n\r\n").unwrap();
        }
        let mut text = [0; 4096];
        let n = client.read(&mut text).unwrap();
        let text = String::from_utf8_lossy(&text[..n]).into_owned();
        assert!(text.contains(&format!("x-received: {size}")), "{framing}: {text}");
    }
    let grown = peak(&gate).saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} KiB more than before");
}

/// Largest resident memory so far, in KiB.
fn peak(gate: &Gate) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gate.process.id())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Reads a response with Content-Length; the length of its body.
fn drain(from: &mut TcpStream) -> usize {
    let mut buffer = vec![0; 1 << 16];
    let (mut head, mut body) = (Vec::new(), None);
    let mut length = usize::MAX;
    while body.is_none_or(|b| b < length) {
        let n = from.read(&mut buffer).expect("more in time");
        assert!(n > 0, "cut at {body:?}");
        match &mut body {
            Some(body) => *body += n,
            None => {
                head.extend(&buffer[..n]);
                if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
                    let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
                    let value = text.split("content-length: ").nth(1).expect("a length");
                    length = value.lines().next().unwrap().parse().unwrap();
                    body = Some(head.len() - end - 4);
                }
            }
        }
    }
    body.unwrap_or_default()
}

/// `GET /v1/N`: N bytes. A body is read to its end, and its length reported. Nothing is recorded.
fn bulk() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve_bulk(stream));
        }
    });
    address
}

fn serve_bulk(mut stream: TcpStream) -> Option<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let mut seen = Vec::new();
        let end = loop {
            let n = stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
            seen.extend(&buffer[..n]);
            if let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
        let wanted: usize = head.split(['/', ' ']).nth(3)?.parse().ok()?;
        let mut received = 0;
        if let Some(length) = head.split("content-length: ").nth(1) {
            let length: usize = length.lines().next()?.parse().ok()?;
            received = seen.len() - end;
            while received < length {
                received += stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
            }
        } else if head.contains("transfer-encoding") {
            // Counts the `x` of the chunks until the last chunk.
            let count = |bytes: &[u8]| bytes.iter().filter(|b| **b == b'x').count();
            let mut rest = seen[end..].to_vec();
            loop {
                received += count(&rest);
                if rest.ends_with(b"0\r\n\r\n") {
                    break;
                }
                let n = stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
                rest = buffer[..n].to_vec();
            }
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\nx-received: {received}\r\ncontent-length: {wanted}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        buffer.fill(b'y');
        for at in (0..wanted).step_by(buffer.len()) {
            stream.write_all(&buffer[..buffer.len().min(wanted - at)]).ok()?;
        }
    }
}
