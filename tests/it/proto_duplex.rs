//! Answers that begin before their request is complete: neither body may delay the other, and the
//! end of the answer is not that of the request.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use crate::support::client::{Client, PATIENCE};
use crate::support::gate::{Gate, READER};
use crate::support::h2raw::{self, DATA, END_STREAM, H2, SETTINGS, WINDOW_UPDATE, frame};
use crate::support::upstream::{Step, Upstream, answer};

/// Far more than all buffers on the way can hold.
const LARGE: usize = 32 * 1024 * 1024;
const PIECE: usize = 64 * 1024;

/// Answers immediately with `LARGE` bytes, and reads the request meanwhile. Serves `connections`.
/// Reports how many bytes followed each head.
fn duplex_service(head: &'static str, connections: usize) -> (SocketAddr, mpsc::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().take(connections).flatten() {
            let tell = tell.clone();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(2 * PATIENCE)).unwrap();
            std::thread::spawn(move || {
                let mut seen = Vec::new();
                let mut buffer = vec![0; PIECE];
                while crate::support::http::find(&seen, b"\r\n\r\n").is_none() {
                    match stream.read(&mut buffer) {
                        Ok(count @ 1..) => seen.extend(&buffer[..count]),
                        Ok(0) | Err(_) => return,
                    }
                }
                let begun = crate::support::http::find(&seen, b"\r\n\r\n").unwrap() + 4;
                let mut out = stream.try_clone().unwrap();
                std::thread::spawn(move || {
                    let _ = out.write_all(head.as_bytes());
                    let piece = match head.contains("chunked") {
                        true => format!("{PIECE:x}\r\n{}\r\n", "a".repeat(PIECE)),
                        false => "a".repeat(PIECE),
                    };
                    for _ in 0..LARGE / PIECE {
                        if out.write_all(piece.as_bytes()).is_err() {
                            return;
                        }
                    }
                    if head.contains("chunked") {
                        let _ = out.write_all(b"0\r\n\r\n");
                    }
                });
                let mut bytes = seen.len() - begun;
                let mut is_chunked_end = seen.ends_with(b"0\r\n\r\n");
                while bytes < LARGE && !is_chunked_end {
                    match stream.read(&mut buffer) {
                        Ok(count @ 1..) => {
                            bytes += count;
                            is_chunked_end = buffer[..count].ends_with(b"0\r\n\r\n");
                        }
                        Ok(0) | Err(_) => break,
                    }
                }
                let _ = tell.send(bytes);
                // Until the peer closes.
                while matches!(stream.read(&mut buffer), Ok(1..)) {}
            });
        }
    });
    (address, told)
}

/// That service answers one request per connection.
const ONCE: &str = "reuse = \"never\"";

const COUNTED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 33554432\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

fn post(fields: &str) -> String {
    format!("POST /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n{fields}\r\n")
}

fn get(path: &str, fields: &str) -> String {
    format!("GET /v1/{path} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n{fields}\r\n")
}

/// A client that sends all of its body, however little of its answer it has read, and then reads.
#[test]
fn an_upload_goes_on_while_its_answer_is_not_read() {
    let counted = format!("content-length: {LARGE}\r\n");
    let chunked = "transfer-encoding: chunked\r\n";
    for (head, option, fields) in [
        (COUNTED, "", &*counted),
        (CHUNKED, "", &*counted),
        (COUNTED, "", chunked),
        (CHUNKED, "preserve_header_case = true", &*counted),
        (COUNTED, "preserve_header_case = true", chunked),
    ] {
        let about = format!("{head:?} {option} {fields}");
        let (service, told) = duplex_service(head, 1);
        let gate = Gate::before_address(service).upstream_option(option).start();
        let mut client = Client::connect(gate.address);
        client.send(post(fields));
        let piece = match fields == chunked {
            true => format!("{PIECE:x}\r\n{}\r\n", "b".repeat(PIECE)),
            false => "b".repeat(PIECE),
        };
        for _ in 0..LARGE / PIECE {
            client.send(&piece);
        }
        if fields == chunked {
            client.send("0\r\n\r\n");
        }
        let came = told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{about}: no body"));
        assert!(came >= LARGE, "{about}: {came} bytes");
        let got = client.response();
        assert_eq!((got.status(), got.body.len(), got.complete), (200, LARGE, true), "{about}");
    }
}

/// The same over HTTP/2, with a window that the answer fills immediately.
#[test]
fn an_upload_over_http2_goes_on_while_its_answer_is_not_read() {
    let (service, told) = duplex_service(COUNTED, 1);
    let gate = Gate::before_address(service).start();
    let mut client = H2::connect(gate.address);
    client.polite = false;
    let length = LARGE.to_string();
    let mut fields = h2raw::request("POST", "/v1/a", READER);
    fields.push(("content-length", &length));
    client.headers(1, 0, &fields);
    let (mut of_connection, mut of_stream) = (65_535_usize, 65_535_usize);
    let (mut left, mut body) = (LARGE, Vec::<u8>::new());
    while left > 0 {
        let room = of_connection.min(of_stream).min(16 * 1024).min(left);
        if room > 0 {
            let flags = if room == left { END_STREAM } else { 0 };
            assert!(client.data(1, flags, &vec![b'b'; room]));
            (of_connection, of_stream, left) =
                (of_connection - room, of_stream - room, left - room);
            continue;
        }
        let next = client.next(PATIENCE).unwrap_or_else(|| panic!("stuck, {left} bytes left"));
        let number = |at: usize| u32::from_be_bytes(next.payload[at..at + 4].try_into().unwrap());
        match (next.kind, next.stream) {
            (WINDOW_UPDATE, 0) => of_connection += number(0) as usize,
            (WINDOW_UPDATE, _) => of_stream += number(0) as usize,
            (DATA, _) => body.extend(&next.payload),
            (SETTINGS, _) if next.flags == 0 => {
                client.send(&frame(SETTINGS, h2raw::ACK, 0, b""));
            }
            (h2raw::HEADERS | SETTINGS | h2raw::PING, _) => {}
            _ => panic!("{next:?}"),
        }
    }
    assert_eq!(told.recv_timeout(PATIENCE), Ok(LARGE));
    client.polite = true;
    let more = (body.len() as u32 + 65_535).to_be_bytes();
    client.send(&[frame(WINDOW_UPDATE, 0, 0, &more), frame(WINDOW_UPDATE, 0, 1, &more)].concat());
    let rest = client.answer_within(1, 3 * PATIENCE);
    assert!(rest.ended, "{:?} {:?}", rest.reset, rest.goaway);
    assert_eq!(body.len() + rest.body.len(), LARGE);
}

/// A client that is sending is not one that takes nothing for ever.
#[test]
fn timeouts_write_waits_for_a_client_that_still_sends() {
    for fields in ["content-length: 33554432\r\n", "transfer-encoding: chunked\r\n"] {
        let (service, _told) = duplex_service(COUNTED, 1);
        let gate = Gate::before_address(service).also("[timeouts]\nwrite = \"1s\"\n").start();
        let mut client = Client::connect(gate.address);
        client.send(post(fields));
        let piece = match fields.contains("chunked") {
            true => format!("{PIECE:x}\r\n{}\r\n", "b".repeat(PIECE)),
            false => "b".repeat(PIECE),
        };
        for _ in 0..30 {
            client.send(&piece);
            std::thread::sleep(Duration::from_millis(100));
        }
        let got = client.response();
        assert_eq!((got.status(), got.body.len(), got.complete), (200, LARGE, true), "{fields}");
    }
}

/// `timeouts.response_idle` is about the service: a client may take its time.
#[test]
fn a_client_that_pauses_is_not_a_silent_service() {
    for head in [COUNTED, CHUNKED] {
        let (service, _told) = duplex_service(head, 3);
        let idle = "[timeouts]\nresponse_idle = \"300ms\"\n";
        let gate = Gate::before_address(service).upstream_option(ONCE).also(idle).start();
        for fields in ["", "te: trailers\r\nconnection: te\r\n"] {
            let mut client = Client::connect(gate.address);
            client.send(get("a", fields));
            std::thread::sleep(Duration::from_millis(1500));
            let got = client.response();
            let seen = (got.status(), got.body.len(), got.complete);
            assert_eq!(seen, (200, LARGE, true), "{head:?} {fields:?}");
        }
        let mut client = H2::connect(gate.address);
        client.headers(1, END_STREAM, &h2raw::get("/v1/a", READER));
        std::thread::sleep(Duration::from_millis(1500));
        let got = client.answer_within(1, 3 * PATIENCE);
        assert_eq!((got.body.len(), got.ended), (LARGE, true), "{head:?} HTTP/2");
    }
}

/// A codec that yields after a long answer has not sent all of it yet. Half-closed or kept alive,
/// the client gets the last byte.
#[test]
fn the_last_of_a_long_answer_is_sent() {
    let upstream = Upstream::answering(|message| {
        let length: usize = message.first_line()["GET /v1/".len()..]
            .split(' ')
            .next()
            .and_then(|length| length.parse().ok())
            .unwrap();
        answer("200 OK", "", &"x".repeat(length))
    });
    let gate = Gate::before(&upstream).also("[workers]\ncount = 1\n").start();
    let mut kept = Client::connect(gate.address);
    for pieces in 1..160 {
        let length = pieces * 40_000;
        let request = get(&length.to_string(), "te: trailers\r\nconnection: te\r\n");
        let mut ends = Client::connect(gate.address);
        for client in [kept.send(&request), ends.send(&request).finish()] {
            let got = client.response();
            assert_eq!((got.body.len(), got.complete), (length, true), "{pieces} pieces");
        }
    }
}

/// Nor is a client gone that has closed its sending side and has not read yet.
#[test]
fn a_half_closed_client_may_pause() {
    let (service, _told) = duplex_service(COUNTED, 2);
    let times = "[timeouts]\nhalf_closed = \"300ms\"\n";
    let gate = Gate::before_address(service).upstream_option(ONCE).also(times).start();
    for fields in ["", "te: trailers\r\nconnection: te\r\n"] {
        let mut client = Client::connect(gate.address);
        client.send(get("a", fields)).finish();
        std::thread::sleep(Duration::from_millis(1500));
        let got = client.response();
        assert_eq!((got.body.len(), got.complete), (LARGE, true), "{fields:?}");
    }
}

/// And a service that sends nothing is cut, however its client reads.
#[test]
fn a_silent_service_is_cut_while_its_client_reads() {
    for first in [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let upstream = Upstream::answering(move |_| vec![Step::Send(first.into()), Step::Drain]);
        let idle = "[timeouts]\nresponse_idle = \"300ms\"\n";
        let gate = Gate::before(&upstream).also(idle).start();
        for (number, fields) in ["", "te: trailers\r\nconnection: te\r\n"].iter().enumerate() {
            let mut client = Client::connect(gate.address);
            client.send(get("a", fields));
            let got = client.try_response(false).unwrap();
            assert!(got.is_none_or(|got| !got.complete), "{first:?} {fields:?}");
            assert!(upstream.wait_closed(number + 1, PATIENCE));
        }
        let got = H2::connect(gate.address).exchange(1, &h2raw::get("/v1/a", READER));
        assert!(!got.ended, "{first:?} HTTP/2");
        assert!(gate.log_soon("upstream_timeout"), "{}", gate.log());
    }
}

const BODY: usize = 300_000;

/// Answers a POST before its body, with these bytes, and continues to read.
fn early(first: &'static str) -> Upstream {
    Upstream::answering(move |message| match message.first_line().starts_with("POST") {
        true => vec![Step::Send(first.into()), Step::ReadBody],
        false => answer("200 OK", "", "next"),
    })
}

const EARLY: [&str; 5] = [
    "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsoon",
    "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsoon\r\n0\r\n\r\n",
    "HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\n\r\nmuch",
];

/// The answer is complete and the service still reads: it gets the whole request, and its
/// connection serves the next one.
#[test]
fn the_rest_of_a_request_follows_its_answer() {
    let body = "x".repeat(BODY);
    for first in EARLY {
        for (option, fields) in [
            ("", "content-length: 300000\r\n"),
            ("", "transfer-encoding: chunked\r\n"),
            ("preserve_header_case = true", "content-length: 300000\r\n"),
        ] {
            let about = format!("{first:?} {option} {fields}");
            let upstream = early(first);
            let one = "[workers]\ncount = 1\n";
            let gate = Gate::before(&upstream).also(one).upstream_option(option).start();
            let mut client = Client::connect(gate.address);
            let is_chunked = fields.contains("chunked");
            let half = |text: &str| match is_chunked {
                true => format!("{:x}\r\n{text}\r\n", text.len()),
                false => text.to_owned(),
            };
            client.send(post(fields)).send(half(&body[..BODY / 2]));
            // All of it arrives before the request is complete.
            let got = client.response();
            let text = first.split_once("\r\n\r\n").unwrap().1;
            assert!(got.complete && text.contains(&*got.body_text()), "{about}: {got:?}");
            client.send(half(&body[BODY / 2..]));
            if is_chunked {
                client.send("0\r\n\r\n");
            }
            let came = upstream.watch();
            gate.process.eventually("the rest arrives", || came.bytes() > BODY);
            if option.is_empty() {
                let next = Client::connect(gate.address).send(get("next", "")).response();
                assert_eq!(next.body_text(), "next", "{about}");
                assert_eq!(upstream.connections(), 1, "{about}");
                let arrived = upstream.wait_for(2);
                assert!(arrived[0].complete && arrived[0].body == body.as_bytes(), "{about}");
            }
        }
    }
}

/// The same with trailers, split anywhere: they go no further, the service gets the end of the
/// body, and the client's connection serves the next request.
#[test]
fn an_upload_with_trailers_ends_behind_its_answer() {
    let body = "5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nx-sum: 1\r\nx-org-id: evil\r\n\r\n";
    for first in EARLY {
        let upstream = early(first);
        let gate = Gate::before(&upstream).start();
        let text = first.split_once("\r\n\r\n").unwrap().1;
        for cut in [0, 4, 10, 21, 24, 31, 33, body.len() - 2, body.len() - 1] {
            let about = format!("{first:?} cut at {cut}");
            let (now, later) = body.split_at(cut);
            let mut client = Client::connect(gate.address);
            client.send(post("transfer-encoding: chunked\r\n") + now);
            let got = client.response();
            assert!(got.complete && text.contains(&*got.body_text()), "{about}: {got:?}");
            assert_eq!(got.one("connection"), None, "{about}");
            client.send(later.to_owned() + &get("next", ""));
            assert_eq!(client.response().body_text(), "next", "{about}");
            let arrived = upstream.wait_for(2);
            let upload = arrived.iter().find(|got| got.first_line().starts_with("POST")).unwrap();
            assert_eq!((upload.complete, &*upload.body_text()), (true, "hello!"), "{about}");
            assert!(!upstream.saw(b"evil"), "{about}");
            upstream.take();
        }
    }
}

#[test]
fn the_rest_of_a_request_over_http2_follows_its_answer() {
    for first in EARLY {
        let upstream = early(first);
        let gate = Gate::before(&upstream).also("[workers]\ncount = 1\n").start();
        let mut client = H2::connect(gate.address);
        client.headers(1, 0, &h2raw::request("POST", "/v1/a", READER));
        client.data(1, 0, &[b'x'; 15_000]);
        let got = client.answer(1);
        assert!(got.ended, "{first:?}: {got:?}");
        client.data(1, END_STREAM, &[b'x'; 15_000]);
        let came = upstream.watch();
        gate.process.eventually("the rest arrives", || came.bytes() > 30_000);
        gate.process.eventually("its end arrives", || upstream.saw(b"\r\n0\r\n\r\n"));
        let next = client.exchange(3, &h2raw::get("/v1/next", READER));
        assert_eq!(next.body, b"next", "{first:?}");
        assert_eq!(upstream.connections(), 1, "{first:?}");
        let arrived = upstream.wait_for(2);
        assert_eq!((arrived[0].complete, arrived[0].body.len()), (true, 30_000), "{first:?}");
    }
}

/// Nobody waits for ever for the rest: it is cut, the service can recognise that, and its
/// connection serves no other request.
#[test]
fn a_request_that_stops_behind_its_answer_is_cut() {
    let limits = "[timeouts]\nbody = \"500ms\"\n[limits]\nbody_rate = 0\n";
    for fields in ["content-length: 300000\r\n", "transfer-encoding: chunked\r\n"] {
        for leaves in [false, true] {
            let about = format!("{fields:?}, the client leaves: {leaves}");
            let upstream = early(EARLY[0]);
            let gate = Gate::before(&upstream).also(limits).start();
            let mut client = TcpStream::connect(gate.address).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let begun = match fields.contains("chunked") {
                true => "5\r\nbegun\r\n",
                false => "begun",
            };
            client.write_all([&post(fields), begun].concat().as_bytes()).unwrap();
            let mut seen = [0; 12];
            client.read_exact(&mut seen).unwrap();
            assert_eq!(&seen, b"HTTP/1.1 200", "{about}");
            if leaves {
                client.shutdown(Shutdown::Both).unwrap();
            } else {
                client.read_to_end(&mut Vec::new()).unwrap();
            }
            assert!(upstream.wait_closed(1, PATIENCE), "{about}");
            assert!(upstream.take().iter().all(|request| !request.complete), "{about}");
        }
    }
}

/// A service that announces the close has announced that it reads no more.
#[test]
fn a_service_that_closes_is_sent_no_rest() {
    let last = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nlast";
    let upstream = early(last);
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(post("content-length: 300000\r\n")).send("begun");
    assert_eq!(client.response().body_text(), "last");
    assert!(upstream.wait_closed(1, PATIENCE));
    assert!(client.is_closed());
}

/// A service over HTTP/2 that answers immediately and opens no further window. Reports how each
/// request ended: with its end, or with a reset for this reason.
fn unreading() -> (SocketAddr, mpsc::Receiver<Option<u32>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, ends) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let serve = async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let mut builder = h2::server::Builder::new();
            let handshake = builder.initial_window_size(1_000).handshake::<_, bytes::Bytes>(stream);
            let mut connection = handshake.await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let ended = ended.clone();
                tokio::spawn(async move {
                    let mut out = respond.send_response(http::Response::new(()), false).unwrap();
                    out.send_data("soon".into(), true).unwrap();
                    let mut body = request.into_body();
                    let end = loop {
                        match body.data().await {
                            None => break None,
                            Some(Err(error)) => break error.reason().map(u32::from),
                            Some(Ok(_)) => {}
                        }
                    };
                    let _ = ended.send(end);
                });
            }
        };
        runtime.block_on(async { tokio::time::timeout(PATIENCE, serve).await.ok() });
    });
    (address, ends)
}

/// A gate in front of it that knows its window: one request has returned.
fn before_unreading() -> (Gate, mpsc::Receiver<Option<u32>>) {
    let (service, ends) = unreading();
    let limits = "[timeouts]\nbody = \"500ms\"\n[limits]\nbody_rate = 0\n[workers]\ncount = 1\n";
    let url = format!("http://{service}\"\nprotocol = \"http2\"\n#");
    let gate = Gate::before_url(&url).also(limits).start();
    assert_eq!(Client::connect(gate.address).send(get("first", "")).response().status(), 200);
    assert_eq!(ends.recv_timeout(PATIENCE), Ok(None));
    (gate, ends)
}

const CANCEL: u32 = 8;

/// Wherever the upload waits: read by nobody yet, in hyper's hands, or all of it.
#[test]
fn a_service_without_a_window_does_not_hold_the_rest_of_a_request() {
    let piece = "x".repeat(5_000);
    let chunk = format!("1388\r\n{piece}\r\n");
    for (fields, body) in [
        ("content-length: 300000\r\n", piece.repeat(4)),
        ("content-length: 300000\r\nte: trailers\r\n", piece.repeat(4)),
        ("transfer-encoding: chunked\r\n", chunk.repeat(4)),
        ("transfer-encoding: chunked\r\n", chunk.repeat(4) + "0\r\n\r\n"),
    ] {
        let about = format!("{fields:?}, {} bytes", body.len());
        let (gate, ends) = before_unreading();
        let mut client = Client::connect(gate.address);
        client.send(post(fields));
        for piece in body.as_bytes().chunks(5_000) {
            client.send(piece);
        }
        assert_eq!(client.response().body_text(), "soon", "{about}");
        assert_eq!(ends.recv_timeout(PATIENCE), Ok(Some(CANCEL)), "{about}");
        // It no longer waits for anything: closed, or ready for another request.
        client.send(get("next", ""));
        if let Ok(Some(next)) = client.try_response(false) {
            assert_eq!(next.body_text(), "soon", "{about}");
        }
    }
}

#[test]
fn a_service_without_a_window_does_not_hold_an_upload_over_http2() {
    let (gate, ends) = before_unreading();
    let mut client = H2::connect(gate.address);
    client.headers(1, 0, &h2raw::request("POST", "/v1/a", READER));
    for _ in 0..3 {
        client.data(1, 0, &[b'x'; 5_000]);
    }
    let got = client.answer(1);
    assert!(got.ended && got.body == b"soon", "{got:?}");
    assert_eq!(ends.recv_timeout(PATIENCE), Ok(Some(CANCEL)));
    let is_reset = |frame: &h2raw::Frame| frame.kind == h2raw::RST_STREAM && frame.stream == 1;
    assert!(
        std::iter::from_fn(|| client.next(PATIENCE)).any(|frame| is_reset(&frame)),
        "the client's stream goes on"
    );
}
