//! Bodies both ways: of every length, in any pieces, past a socket or through keygate's memory, and
//! with an answer that does not wait for the end of the request.

use std::sync::LazyLock;
use std::time::Duration;

use crate::support::client::Client;
use crate::support::gate::{Gate, READER};
use crate::support::h2upstream::{Http2Upstream, Reply};
use crate::support::http::Message;
use crate::support::upstream::{Step, Upstream, answer, send};

fn post(path: &str, length: usize) -> String {
    format!(
        "POST /v1/{path} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\ncontent-length: {length}\r\n\r\n"
    )
}

fn get(path: &str) -> String {
    format!("GET /v1/{path} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n")
}

/// Bytes that cannot be mistaken for each other.
fn body(length: usize) -> Vec<u8> {
    // Made once: if a busy machine makes them again for each request, clients are silent for longer
    // than `timeouts.header` allows.
    static LONGEST: LazyLock<Vec<u8>> = LazyLock::new(|| {
        (0..8_000_000u64).map(|n| (n ^ (n >> 8) ^ (n >> 16)).to_le_bytes()[0]).collect()
    });
    LONGEST[..length].to_vec()
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in body.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// Near every size at which something changes: a buffer, a piece, a pipe.
const LENGTHS: [usize; 12] =
    [0, 1, 7_000, 8_192, 16_385, 65_535, 65_536, 65_537, 131_072, 262_145, 300_000, 2_000_003];

/// Returns the length and content of the body that arrived, in the way that the path names.
fn mirror() -> Upstream {
    Upstream::answering(|message| {
        let line = message.first_line();
        let path = line.split(' ').nth(1).unwrap();
        let length: usize = path.rsplit('/').next().unwrap().parse().unwrap();
        let bytes = body(length);
        let mut out = Vec::new();
        if path.contains("chunks") {
            out.extend_from_slice(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            out.extend(chunked(&bytes, 50_000));
        } else {
            out.extend_from_slice(
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes(),
            );
            out.extend(&bytes);
        }
        send(out)
    })
}

fn holds(got: &Message, length: usize, what: &str) {
    assert_eq!(got.status(), 200, "{what}");
    assert!(got.body == body(length), "{what}: {} of {length} bytes", got.body.len());
}

/// What returns is what was requested, what arrives is what was sent, and the next request begins
/// where the body ends.
#[test]
fn any_length_both_ways() {
    let upstream = mirror();
    let gate = Gate::before(&upstream).start();
    for way in ["counted", "chunks"] {
        for length in LENGTHS {
            let what = format!("{way} {length}");
            let mut client = Client::connect(gate.address);
            let path = format!("{way}/{length}");
            let (head, next) = (post(&path, length), get(&path));
            client.send([head.as_bytes(), &body(length), next.as_bytes()].concat());
            for _ in 0..2 {
                holds(&client.response(), length, &what);
            }
            // The same with a body that arrives late, and after its head in two pieces.
            let (first, second) = (body(length / 3), body(length));
            client.send(post(&path, length));
            std::thread::sleep(Duration::from_millis(5));
            client.send(&first);
            std::thread::sleep(Duration::from_millis(5));
            client.send(&second[length / 3..]).send(get(&path));
            for _ in 0..2 {
                holds(&client.response(), length, &what);
            }
            let arrived = upstream.wait_for(4);
            assert_eq!(arrived.len(), 4, "{what}");
            for message in arrived {
                let is_post = message.first_line().starts_with("POST");
                let sent = if is_post { body(length) } else { Vec::new() };
                assert!(message.body == sent, "{what}: {} bytes arrived", message.body.len());
                assert_eq!(message.all("content-length").len(), usize::from(is_post), "{what}");
                assert_eq!(message.all("transfer-encoding").len(), 0, "{what}");
            }
        }
    }
}

/// The others are served, and none loses a byte.
#[test]
fn clients_that_do_not_read_hold_up_nobody() {
    let upstream = mirror();
    let gate = Gate::before(&upstream).also("[workers]\ncount = 1").start();
    let length = 8_000_000;
    let (path, sent) = (format!("counted/{length}"), body(length));
    let mut slow: Vec<_> = (0..20).map(|_| Client::connect(gate.address)).collect();
    for client in &mut slow {
        client.send(get(&path));
        assert_eq!(client.response_head().status(), 200);
    }
    std::thread::sleep(Duration::from_millis(200));
    let mut quick = Client::connect(gate.address);
    holds(&quick.send(get("counted/2000003")).response(), 2_000_003, "beside them");
    for (number, client) in slow.iter_mut().enumerate() {
        while client.pending().len() < length {
            client.read_some();
        }
        assert!(client.take(length) == sent, "the slow client {number}");
        // And it can be used again.
        holds(&client.send(get("counted/65537")).response(), 65_537, "after all");
    }
}

/// More uploads at the same time than a worker has pipes, none of which the service takes.
#[test]
fn uploads_that_wait_for_the_service() {
    let upstream = Upstream::answering(|message| {
        if message.first_line().starts_with("GET") {
            return answer("200 OK", "", "beside");
        }
        let wait = Step::Wait(Duration::from_millis(500));
        [vec![wait, Step::ReadBody], answer("200 OK", "", "whole")].concat()
    });
    let gate = Gate::before(&upstream).also("[workers]\ncount = 1").start();
    let sent = body(8_000_000);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut client = Client::connect(gate.address);
                client.send(post("x", sent.len())).send(&sent);
                assert_eq!(client.response().body_text(), "whole");
                assert_eq!(client.send(get("after")).response().body_text(), "beside");
            });
        }
        std::thread::sleep(Duration::from_millis(200));
        let mut quick = Client::connect(gate.address);
        assert_eq!(quick.send(get("quick")).response().body_text(), "beside");
    });
    let arrived = upstream.wait_for(41);
    let bodies = arrived.iter().filter(|message| message.body == sent).count();
    assert_eq!((arrived.len(), bodies), (41, 20));
}

/// Answers half a request. `later`: what is sent of the answer once the rest has arrived.
fn hasty(first: &'static [u8], later: Option<&'static [u8]>) -> Upstream {
    Upstream::answering(move |message| {
        if message.first_line().starts_with("GET") {
            return answer("200 OK", "", "next");
        }
        let mut steps = vec![Step::Send(first.to_vec())];
        if let Some(later) = later {
            steps.extend([Step::ReadBody, Step::Send(later.to_vec())]);
        } else {
            // Never asks for the body, and does not mistake it for a request either.
            steps.extend([Step::Drain, Step::ReadBody]);
        }
        steps
    })
}

const LONG: usize = 1_500_000;

/// The answer is final: it arrives, the client may stop, and whatever it still sends is not
/// anybody's next request.
#[test]
fn an_answer_before_the_end_of_the_body_ends_the_connection() {
    let answers: [&[u8]; 4] = [
        b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 4\r\n\r\nmuch",
        b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 4\r\n\r\nmuch",
        b"HTTP/1.1 413 Content Too Large\r\ntransfer-encoding: chunked\r\n\r\n4\r\nmuch\r\n0\r\n\r\n",
        b"HTTP/1.1 413 Too much\r\ncontent-length: 4\r\n\r\nmuch",
    ];
    for first in answers {
        let what = first.escape_ascii().to_string();
        let upstream = hasty(first, None);
        let gate = Gate::before(&upstream).also("[timeouts]\nbody = \"1s\"\n").start();
        let mut client = Client::connect(gate.address);
        client.send(post("x", LONG)).send(&body(LONG)[..300_000]);
        let got = client.response();
        assert_eq!((got.status(), got.body_text()), (413, "much".to_owned()), "{what}");
        client.send(get("smuggled"));
        assert!(client.is_closed(), "{what}");
        // Nor is the connection to the service used again.
        let mut next = Client::connect(gate.address);
        assert_eq!(next.send(get("next")).response().body_text(), "next", "{what}");
        assert_eq!(upstream.connections(), 2, "{what}");
        let arrived = upstream.take();
        assert!(arrived.iter().all(|r| !r.first_line().contains("smuggled")), "{what}");
    }
}

/// An answer that begins early and ends late: both bodies continue in parallel.
#[test]
fn an_answer_beside_its_request() {
    let answers: [(&[u8], &[u8]); 4] = [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", b" done"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            b"5\r\n done\r\n0\r\n\r\n",
        ),
        (b"HTTP/1.1 200 Fine\r\ncontent-length: 9\r\n\r\nhalf", b" done"),
        (
            b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
            b" done",
        ),
    ];
    for (first, later) in answers {
        let what = first.escape_ascii().to_string();
        let upstream = hasty(first, Some(later));
        let gate = Gate::before(&upstream).start();
        let mut client = Client::connect(gate.address);
        let sent = body(LONG);
        client.send(post("x", LONG)).send(&sent[..300_000]);
        let head = client.response_head();
        assert_eq!(head.status(), 200, "{what}");
        client.send(&sent[300_000..]);
        while !client.seen().windows(5).any(|w| w == b" done") {
            assert!(!client.read_some().is_empty(), "{what}");
        }
        let arrived = upstream.only();
        assert!(arrived.body == sent, "{what}: {} bytes arrived", arrived.body.len());
    }
}

/// The service leaves in the middle of an upload, with or without an answer.
#[test]
fn an_upload_that_the_service_does_not_take() {
    let last_word = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
    let ends: [(Vec<Step>, u16); 3] = [
        (vec![Step::Reset, Step::ReadBody], 502),
        (vec![Step::Close, Step::ReadBody], 502),
        (vec![Step::Send(last_word.to_vec()), Step::HalfClose, Step::Drain, Step::ReadBody], 400),
    ];
    for (steps, status) in ends {
        let upstream = Upstream::answering(move |_| steps.clone());
        let gate = Gate::before(&upstream).start();
        let mut client = Client::connect(gate.address);
        client.send(post("x", LONG)).send(&body(LONG)[..200_000]);
        let got = client.response();
        assert_eq!(got.status(), status, "{}", got.first_line());
        assert!(client.is_closed());
    }
}

/// The client leaves in the middle of its body: the service must not mistake half for the whole,
/// and its connection serves no other request.
#[test]
fn a_client_that_ends_in_the_middle_of_its_body() {
    for resets in [true, false] {
        let upstream = Upstream::start();
        let gate = Gate::before(&upstream).start();
        let mut client = Client::connect(gate.address);
        client.send(post("x", LONG)).send(&body(LONG)[..200_000]);
        gate.process.eventually("it arrives", || upstream.watch().bytes() > 150_000);
        if resets {
            client.reset();
            assert!(gate.log_soon("\"status\":499"), "{}", gate.log());
        } else {
            assert_eq!(client.finish().response().status(), 400);
            assert!(client.is_closed());
        }
        assert!(upstream.wait_closed(1, Duration::from_secs(5)), "resets: {resets}");
        assert!(upstream.take().is_empty(), "half a request is none");
    }
}

/// The same during an answer that has begun: it breaks off, and nobody waits for a deadline.
#[test]
fn a_client_that_ends_beside_an_answer() {
    for coming in
        ["content-length: 9\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
    {
        let first = format!("HTTP/1.1 200 OK\r\n{coming}");
        let upstream = Upstream::answering(move |_| {
            vec![Step::Send(first.clone().into_bytes()), Step::Drain, Step::ReadBody]
        });
        let gate = Gate::before(&upstream).also("[timeouts]\nhalf_closed = \"5m\"").start();
        let mut client = Client::connect(gate.address);
        client.send(post("x", LONG)).send(&body(LONG)[..100_000]);
        assert_eq!(client.response_head().status(), 200, "{coming}");
        client.finish();
        while !client.read_some().is_empty() {}
        assert!(!client.seen().ends_with(b"0\r\n\r\n"), "{coming}: half is not the whole");
        assert!(upstream.wait_closed(1, Duration::from_secs(5)), "{coming}");
    }
}

/// After a complete body, the wait is no longer than after one that arrived with its head. A body
/// that has not begun has its own time.
#[test]
fn the_first_byte_is_waited_for_from_the_end_of_the_body() {
    let upstream =
        Upstream::answering(|_| vec![Step::ReadBody, Step::Wait(Duration::from_secs(60))]);
    let times = "[timeouts]\nfirst_byte = \"700ms\"\nbody = \"5m\"";
    let gate = Gate::before(&upstream).also(times).start();
    let mut client = Client::connect(gate.address);
    client.send(post("x", 100_000));
    std::thread::sleep(Duration::from_millis(1500));
    client.send(body(100_000));
    assert_eq!(client.response().status(), 504);
    assert_eq!(upstream.take().len(), 1);
}

/// The same to HTTP/2, where a body has an end of its own: complete, or not at all.
#[test]
fn half_a_body_is_not_ended_towards_http2() {
    for resets in [true, false] {
        let upstream = Http2Upstream::answering(|_| Reply::ok("whole"));
        let gate = Gate::before_url(&upstream.url()).start();
        let sent = body(LONG);
        let mut client = Client::connect(gate.address);
        client.send(post("x", LONG)).send(&sent);
        assert_eq!(client.response().body_text(), "whole");
        assert!(upstream.only().body == sent);
        client.send(post("x", LONG)).send(&sent[..200_000]);
        std::thread::sleep(Duration::from_millis(100));
        if resets {
            client.reset();
        } else {
            assert_eq!(client.finish().response().status(), 400);
        }
        let seen = upstream.only();
        assert!(!seen.complete, "resets: {resets}, {} bytes", seen.body.len());
    }
}

/// A refused body is not read, and the contents of it are not treated as a request.
#[test]
fn the_body_of_a_refused_request_is_no_request() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for length in [40, 400, 100_000] {
        let hidden = get("hidden");
        let mut client = Client::connect(gate.address);
        client.send(post("x", length + hidden.len()).replace(READER, "wa_nothing0123456789"));
        assert_eq!(client.response().status(), 401);
        client.send(body(length)).send(&hidden).send(get("behind"));
        assert!(client.is_closed(), "{length}");
    }
    assert!(upstream.take().is_empty());
}
