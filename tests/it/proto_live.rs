//! Requests that still run when the table changes: the one whose key ended is ended within 100 ms,
//! whether or not its client reads. Every other one continues. `src/app/tests.rs` shows without a
//! clock that the swap itself ends them, not a timer, and that no byte moves after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::support::client::Client;
use crate::support::gate::{Gate, Key, MANAGER, READER};
use crate::support::h2raw::*;
use crate::support::http::Message;
use crate::support::upstream::{Step, Upstream, send};

/// The bound that the manual states.
const BOUND: Duration = Duration::from_millis(100);
/// In addition, the time that a busy machine needs to run the test itself.
const SLACK: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(5);

/// A tenth of a second apart, for ever. `/v1/flood`: as fast as it is taken. `/ws/…`: what it is
/// sent.
fn service() -> Upstream {
    Upstream::answering(|m: &Message| {
        if let Some(key) = m.one("sec-websocket-key") {
            let mut steps = send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: {}\r\n\r\n",
                super::proto_ws::accept(&key)
            ));
            match m.first_line().split(' ').nth(1) {
                // The head of a frame of 100 bytes, and ten of them.
                Some("/ws/half") => {
                    steps.push(Step::Send([&[0x82, 100][..], &[b'x'; 10]].concat()));
                    steps.push(Step::Drain);
                }
                Some("/ws/flood") => flood(&mut steps, 4),
                _ => steps.push(Step::Echo),
            }
            return steps;
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut steps = send(head);
        if m.first_line().contains("flood") {
            flood(&mut steps, 0);
        } else if m.first_line().starts_with("POST") {
            // Reads as long as something arrives, and never answers.
            return vec![Step::Drain, Step::ReadBody];
        } else {
            for n in 0..200 {
                let event = format!("data: {n}\n\n");
                steps.push(Step::Send(format!("{:x}\r\n{event}\r\n", event.len()).into()));
                steps.push(Step::Wait(Duration::from_millis(50)));
            }
        }
        steps
    })
}

/// Chunks, or WebSocket frames, of 64 KiB without end.
fn flood(steps: &mut Vec<Step>, frame_head: usize) {
    let mut piece = match frame_head {
        0 => b"10000\r\n".to_vec(),
        _ => [&[0x82, 127][..], &65_536u64.to_be_bytes()].concat(),
    };
    piece.extend([b'x'; 65_536]);
    if frame_head == 0 {
        piece.extend(b"\r\n");
    }
    steps.extend((0..4_000).map(|_| Step::Send(piece.clone())));
}

fn get(path: &str, key: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n")
}

/// Changes a key by a `keygatectl` command and waits for the table. Returns when it was in force.
fn change(gate: &Gate, arguments: &[&str]) -> Instant {
    let publish = ["--registry", "keys.toml", "--publish", "keys.kgt", "--signer", "signer.pem"];
    gate.folder.ctl(&[&["keys"], arguments, &publish[..]].concat());
    let serial = || gate.probe("/status").json()["table"]["serial"].as_u64();
    gate.process.eventually("the new table", || serial() == Some(2));
    Instant::now()
}

fn revoke(gate: &Gate) -> Instant {
    change(gate, &["revoke", "key_reader"])
}

fn in_time(what: &str, swap: Instant, ended: Instant) {
    let took = ended.saturating_duration_since(swap);
    assert!(took < BOUND + SLACK, "{what} ended {took:?} after the swap");
}

fn ended(gate: &Gate, reason: &str, count: u32) {
    let line = format!("keygate_streams_ended_total{{reason=\"{reason}\"}} {count}");
    // The client's end of a stream may be visible before keygate's own bookkeeping of it.
    gate.process.eventually(&line, || gate.metrics().contains(&line));
}

/// Reads until the connection ends. Returns whether it ended like a complete message.
fn read_to_end(mut client: Client) -> (Client, Instant, bool) {
    let answer = client.response();
    (client, Instant::now(), answer.complete)
}

#[test]
fn events_stop_when_the_key_is_revoked() {
    let upstream = service();
    let gate = Gate::before(&upstream).start();
    let mut readers = Client::connect(gate.address);
    let mut managers = Client::connect(gate.address);
    let mut lazy = Client::connect(gate.address);
    readers.send(get("/v1/events", READER));
    managers.send(get("/v1/events", MANAGER));
    lazy.send(get("/v1/flood", READER));
    upstream.wait_for(3);
    assert_eq!(managers.response_head().status(), 200);
    std::thread::sleep(Duration::from_millis(100));
    let reading = std::thread::spawn(move || read_to_end(readers));
    let swap = revoke(&gate);
    // The flood notices immediately, the events with the next but one.
    assert!(upstream.wait_closed(1, SOON), "the service still sends");
    in_time("the upstream side", swap, Instant::now());
    assert!(upstream.wait_closed(2, SOON), "the service still sends");
    let (_, at, complete) = reading.join().unwrap();
    in_time("the reader", swap, at);
    assert!(!complete, "a cut stream must not look whole");
    // What the kernel held may still arrive, and then a reset.
    let mut last = 0;
    lazy.patience(Duration::from_secs(2));
    while let Ok(Some(answer)) = lazy.try_response(false) {
        assert!(!answer.complete);
        last += 1;
        if answer.body.is_empty() || last > 3 {
            break;
        }
    }
    // The other key's stream continues.
    let before = managers.seen().len();
    managers.read_some();
    managers.read_some();
    assert!(managers.seen().len() > before);
    ended(&gate, "revoked", 2);
    assert!(gate.log_soon("\"reason\":\"revoked\""));
    let mut again = Client::connect(gate.address);
    again.send(get("/v1/events", READER));
    assert_eq!(again.response().status(), 401);
}

#[test]
fn streams_of_one_http2_connection_end_one_by_one() {
    let upstream = service();
    let gate = Gate::before(&upstream).start();
    let mut h2 = H2::connect(gate.address);
    h2.headers(1, END_STREAM, &crate::support::h2raw::get("/v1/events", READER));
    h2.headers(3, END_STREAM, &crate::support::h2raw::get("/v1/events", MANAGER));
    let mut lazy = H2::connect(gate.address);
    lazy.polite = false;
    lazy.headers(1, END_STREAM, &crate::support::h2raw::get("/v1/flood", READER));
    upstream.wait_for(3);
    assert_eq!(h2.next_of(1, SOON).map(|f| f.kind), Some(HEADERS));
    assert_eq!(h2.next_of(3, SOON).map(|f| f.kind), Some(HEADERS));
    // Fills its windows and goes to sleep.
    std::thread::sleep(Duration::from_millis(300));
    let reading = std::thread::spawn(move || {
        let answer = h2.answer(1);
        (h2, answer, Instant::now())
    });
    let swap = revoke(&gate);
    // The flood notices immediately, the events with the next but one.
    assert!(upstream.wait_closed(1, SOON), "the service still sends");
    in_time("the upstream side", swap, Instant::now());
    assert!(upstream.wait_closed(2, SOON), "the service still sends");
    let (mut h2, answer, at) = reading.join().unwrap();
    in_time("the stream", swap, at);
    assert!(answer.reset.is_some() && answer.goaway.is_none(), "{answer:?}");
    assert_eq!(h2.next_of(3, SOON).map(|f| f.kind), Some(DATA), "the other stream goes on");
    assert!(lazy.answer(1).reset.is_some());
    ended(&gate, "revoked", 2);
}

#[test]
fn uploads_stop_when_the_key_is_revoked() {
    let upstream = service();
    let gate = Gate::before(&upstream).start();
    let stop = Arc::new(AtomicBool::new(false));
    let mut h1 = Client::connect(gate.address);
    h1.send(format!(
        "POST /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\ntransfer-encoding: chunked\r\n\r\n"
    ));
    let mut h2 = H2::connect(gate.address);
    h2.headers(1, 0, &request("POST", "/v1/a", READER));
    let mut others = Client::connect(gate.address);
    others.send(get("/v1/events", MANAGER));
    upstream.wait_for(3);
    let address = gate.address;
    let feeding = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                h1.send("5\r\nhello\r\n");
                h2.data(1, 0, b"hello");
                std::thread::sleep(Duration::from_millis(20));
            }
            (h1, h2)
        })
    };
    std::thread::sleep(Duration::from_millis(200));
    let swap = revoke(&gate);
    assert!(upstream.wait_closed(2, SOON), "the service still receives");
    in_time("the upload", swap, Instant::now());
    stop.store(true, Ordering::Relaxed);
    let (mut h1, mut h2) = feeding.join().unwrap();
    let told = h1.try_response(false).ok().flatten().map(|a| a.status());
    assert!(matches!(told, Some(401) | None), "{told:?}");
    let answer = h2.answer(1);
    assert!(answer.status == Some(401) || answer.reset.is_some(), "{answer:?}");
    drop((address, others));
}

/// The close frame is between two frames. Where that is impossible, the connection is cut.
#[test]
fn websockets_are_told_1008() {
    let upstream = service();
    // Longer than a revocation takes on a machine that is busy.
    let gate = Gate::before(&upstream).also("[timeouts]\nwrite = \"4s\"\n").start();
    let mut echo = super::proto_ws::open(gate.address, "/ws/echo", READER);
    echo.send(super::proto_ws::text("hello"));
    assert_eq!(super::proto_ws::frame(&mut echo), (0x81, b"hello".to_vec()));
    let mut half = super::proto_ws::open(gate.address, "/ws/half", READER);
    while half.pending().is_empty() {
        half.read_some();
    }
    let lazy = super::proto_ws::open(gate.address, "/ws/flood", READER);
    let mut other = super::proto_ws::open(gate.address, "/ws/other", MANAGER);
    let mut h2 = H2::connect(gate.address);
    super::proto_ws::open_in_stream(&mut h2, 1, "/ws/echo", READER);
    super::proto_ws::open_in_stream(&mut h2, 3, "/ws/echo", MANAGER);
    let mut lazy_h2 = H2::connect(gate.address);
    super::proto_ws::open_in_stream(&mut lazy_h2, 1, "/ws/flood", READER);
    lazy_h2.polite = false;
    std::thread::sleep(Duration::from_millis(200));
    let reading = std::thread::spawn(move || {
        let frame = super::proto_ws::frame(&mut echo);
        let at = Instant::now();
        (frame, at, echo.is_closed())
    });
    let swap = revoke(&gate);
    assert!(upstream.wait_closed(5, SOON), "the service still has the tunnels");
    in_time("the upstream side", swap, Instant::now());
    let ((opcode, payload), at, closed) = reading.join().unwrap();
    in_time("the WebSocket", swap, at);
    assert_eq!((opcode, payload.get(..2)), (0x88, Some(&1008u16.to_be_bytes()[..])));
    assert!(closed);
    // In the middle of a frame: nothing that could be read as the rest of the frame.
    half.patience(SOON);
    assert!(half.try_response(false).is_err() || half.seen().is_empty() || half.is_closed());
    assert!(!half.seen().windows(2).any(|w| w == 1008u16.to_be_bytes()));
    // In a stream of HTTP/2.
    let data = h2.next_of(1, SOON).unwrap();
    assert_eq!((data.kind, &data.payload[..1]), (DATA, &[0x88][..]));
    assert_eq!(data.payload[2..4], 1008u16.to_be_bytes());
    h2.data(3, 0, &super::proto_ws::text("still here"));
    assert_eq!(h2.next_of(3, SOON).map(|f| f.payload[6..].to_vec()), Some(b"still here".to_vec()));
    assert!(lazy_h2.answer_within(1, SOON).reset.is_some(), "kept although it does not read");
    other.send(super::proto_ws::text("still here"));
    assert_eq!(super::proto_ws::frame(&mut other).1, b"still here");
    ended(&gate, "revoked", 5);
    drop(lazy);
}

/// Fewer permissions end a stream that needed them. More permissions, or another name, do not.
#[test]
fn only_what_matters_ends_a_stream() {
    let upstream = service();
    let gate = Gate::before(&upstream).start();
    let mut stream = Client::connect(gate.address);
    stream.send(get("/v1/events", READER));
    upstream.wait_for(1);
    assert_eq!(stream.response_head().status(), 200);
    change(&gate, &["edit", "key_reader", "--name", "Other", "--add-permission", "send"]);
    stream.read_some();
    assert!(!upstream.wait_closed(1, Duration::from_millis(300)));
    let publish = ["--registry", "keys.toml", "--publish", "keys.kgt", "--signer", "signer.pem"];
    let narrow = ["keys", "edit", "key_reader", "--remove-permission", "read"];
    gate.folder.ctl(&[&narrow[..], &publish[..]].concat());
    assert!(upstream.wait_closed(1, SOON));
    gate.wait_serial(3);
    ended(&gate, "permission", 1);
}

#[test]
fn a_patch_ends_streams_too() {
    let upstream = service();
    let gate = Gate::before(&upstream).table("patch = \"keys.kgp\"\npatch_poll = \"1s\"").start();
    let mut stream = Client::connect(gate.address);
    stream.send(get("/v1/events", READER));
    upstream.wait_for(1);
    gate.folder.ctl(&[
        "keys",
        "disable",
        "key_reader",
        "--registry",
        "keys.toml",
        "--publish-patch",
        "keys.kgp",
        "--base",
        "keys.kgt",
        "--signer",
        "signer.pem",
    ]);
    assert!(upstream.wait_closed(1, SOON));
    ended(&gate, "disabled", 1);
}

#[test]
fn expiry_ends_streams_on_time() {
    let upstream = service();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let at = now.as_secs() + 3;
    let stamp = humantime::format_rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(at));
    let brief = "wa_live_Brief0123456789abcdefghi";
    let gate = Gate::before(&upstream)
        .key(Key::new("key_brief", brief).may("read").with(&format!("expires = {stamp}")))
        .start();
    let mut stream = Client::connect(gate.address);
    stream.send(get("/v1/events", brief));
    upstream.wait_for(1);
    assert!(upstream.wait_closed(1, SOON));
    let late = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(at))
        .expect("not before its time");
    assert!(late < BOUND + SLACK, "{late:?} late");
    ended(&gate, "expired", 1);
}
