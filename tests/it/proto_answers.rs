//! Answers of every kind, split wherever a packet may end: whoever reads them, and whoever the
//! client is, what arrives is what the service sent.

use std::time::Duration;

use crate::support::client::Client;
use crate::support::gate::{Gate, READER};
use crate::support::h2raw::{self, H2};
use crate::support::upstream::{Step, Upstream, answer, send};

/// Name, answer, whether the connection may be used again, status, body.
type Kind = (&'static str, &'static str, u16, &'static str);

const KINDS: &[Kind] = &[
    (
        "counted",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Kind: counted\r\n\r\nhello",
        200,
        "hello",
    ),
    ("empty", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, ""),
    (
        "chunked",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7;a=b\r\n, world\r\n0\r\n\r\n",
        200,
        "hello, world",
    ),
    ("nothing", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, ""),
    (
        "trailers",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\na\r\n0\r\nX-Sum: 97\r\n\r\n",
        200,
        "a",
    ),
    ("closing", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", 200, "hi"),
    ("until", "HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, "until the end"),
    ("old", "HTTP/1.0 200 OK\r\n\r\nfrom another time", 200, "from another time"),
    (
        "old-counted",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
        200,
        "hi",
    ),
    ("none", "HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
    ("same", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 9\r\n\r\n", 304, ""),
    ("phrase", "HTTP/1.1 299 Rather Good\r\nContent-Length: 2\r\n\r\nhi", 299, "hi"),
    (
        "hints",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        200,
        "hi",
    ),
    (
        "named",
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Secret\r\nX-Secret: s\r\nContent-Length: 2\r\n\r\nhi",
        200,
        "hi",
    ),
];

/// Answers `/v1/KIND/AT` with that kind, split after `AT` bytes.
fn upstream() -> Upstream {
    Upstream::answering(|message| {
        let line = message.first_line();
        let path = line.split(' ').nth(1).unwrap();
        let mut words = path.trim_start_matches("/v1/").split('/');
        let (name, at) = (words.next().unwrap(), words.next().unwrap().parse().unwrap());
        let (_, text, ..) = KINDS.iter().find(|kind| kind.0 == name).unwrap();
        let (first, rest) = text.as_bytes().split_at(at);
        let mut steps = Vec::new();
        if !first.is_empty() {
            steps.push(Step::Send(first.to_vec()));
            steps.push(Step::Wait(Duration::from_millis(1)));
        }
        steps.push(Step::Send(rest.to_vec()));
        if ["closing", "until", "old", "old-counted"].contains(&name) {
            steps.push(Step::Close);
        }
        steps
    })
}

fn get(path: &str, fields: &str) -> String {
    format!("GET /v1/{path} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n{fields}\r\n")
}

#[test]
fn every_answer_arrives_wherever_it_is_cut() {
    let upstream = upstream();
    let gate = Gate::before(&upstream).start();
    let mut own = Client::connect(gate.address);
    // A client whose requests hyper reads, so that the answer goes through a map of fields.
    let mut hyper = Client::connect(gate.address);
    for (name, text, status, body) in KINDS {
        for at in 0..text.len() {
            let path = format!("{name}/{at}");
            for (reader, client, fields) in
                [("own", &mut own, ""), ("hyper", &mut hyper, "te: trailers\r\nconnection: te\r\n")]
            {
                let answer = client.send(get(&path, fields)).response();
                let about = format!("{path}, {reader}");
                assert_eq!((answer.status(), &*answer.body_text()), (*status, *body), "{about}");
                assert_eq!(answer.one("x-secret"), None, "{about}");
                assert_eq!(answer.one("link"), None, "{about}");
                if *name == "same" && reader == "own" {
                    assert_eq!(answer.one("content-length").as_deref(), Some("9"), "{about}");
                }
                if *name == "phrase" {
                    assert_eq!(answer.first_line(), "HTTP/1.1 299 Rather Good", "{about}");
                }
            }
        }
    }
}

/// A service's chunks reach an HTTP/1.1 client unchanged, without the needless parts of their
/// lines, wherever the service's packets end, and also if they are large. The log counts the data.
#[test]
fn chunks_of_an_answer_arrive_as_chunks() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let odd = "5\r\nhello\r\n000000000000000000001;a=\"b\"\r\n,\r\n6 \t\r\n world\r\n0;c\r\nx-a: b\r\n\r\n";
    let large = |line: &str, count: usize| {
        format!("{line}\r\n{}\r\n", "x".repeat(0x1000)).repeat(count) + "0\r\n\r\n"
    };
    for (name, body, want, data) in [
        ("odd", odd.to_owned(), "5\r\nhello\r\n1\r\n,\r\n6\r\n world\r\n0\r\n\r\n".into(), 12),
        ("usual", large("1000", 40), large("1000", 40), 40 * 0x1000),
        ("extended", large("1000;a=b", 40), large("1000", 40), 40 * 0x1000),
    ] {
        let text = format!("{HEAD}{body}").into_bytes();
        let cuts: Vec<usize> = match name {
            "odd" => (0..text.len()).collect(),
            _ => [0, HEAD.len(), HEAD.len() + 3, 5_000, 70_001, text.len() - 5].into(),
        };
        let steps: Vec<Vec<Step>> = cuts
            .iter()
            .map(|cut| {
                let (first, rest) = text.split_at(*cut);
                let mut steps = vec![Step::Send(first.to_vec())];
                steps.push(Step::Wait(Duration::from_millis(2)));
                steps.push(Step::Send(rest.to_vec()));
                steps.retain(|step| !matches!(step, Step::Send(bytes) if bytes.is_empty()));
                steps
            })
            .collect();
        let upstream = Upstream::answering(move |message| {
            let line = message.first_line();
            let at: usize = line.split(['/', ' ']).nth(3).unwrap().parse().unwrap();
            steps[at].clone()
        });
        let gate = Gate::before(&upstream).start();
        for (at, cut) in cuts.iter().enumerate() {
            let mut client = Client::connect(gate.address);
            let fields = "connection: close\r\n";
            let got = client.send(get(&at.to_string(), fields)).response();
            assert!(got.complete && client.is_closed(), "{name} cut at {cut}");
            assert_eq!(got.body.len(), data, "{name} cut at {cut}");
            let head = got.head.len();
            let chunks = &client.seen()[head..];
            let same = chunks == String::as_bytes(&want);
            assert!(
                same,
                "{name} cut at {cut}: {}",
                chunks[..200.min(chunks.len())].escape_ascii()
            );
        }
        gate.process.eventually("every answer is logged", || {
            gate.log().matches(&format!("\"bytes_out\":{data}}}")).count() == cuts.len()
        });
    }
}

#[test]
fn every_answer_arrives_over_http2() {
    let upstream = upstream();
    let gate = Gate::before(&upstream).start();
    let mut client = H2::connect(gate.address);
    let mut stream = 1;
    for (name, text, status, body) in KINDS {
        for at in [0, text.len() / 2, text.len() - 1] {
            // The second time, HPACK refers to this status by its place in the table.
            if *name == "phrase" && at > 0 {
                continue;
            }
            let path = format!("/v1/{name}/{at}");
            let answer = client.exchange(stream, &h2raw::get(&path, READER));
            stream += 2;
            assert_eq!(answer.status, Some(*status), "{path}");
            assert_eq!(String::from_utf8_lossy(&answer.body), *body, "{path}");
            let blocks = if *name == "trailers" { 2 } else { 1 };
            assert_eq!((answer.header_blocks, answer.ended), (blocks, true), "{path}");
        }
    }
}

/// RFC 9110 section 6.5.1: only to a client that has declared that it accepts them.
#[test]
fn trailers_reach_a_client_that_takes_them() {
    let upstream = upstream();
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(get("trailers/0", "te: trailers\r\nconnection: te\r\n"));
    let answer = client.response();
    assert_eq!(answer.one("trailer").as_deref(), Some("X-Sum"));
    let seen = String::from_utf8_lossy(client.seen()).to_lowercase();
    assert!(seen.ends_with("0\r\nx-sum: 97\r\n\r\n"), "{seen}");
    let mut client = Client::connect(gate.address);
    let answer = client.send(get("trailers/0", "")).response();
    assert_eq!((answer.one("trailer"), &*answer.body_text()), (None, "a"));
    assert!(!String::from_utf8_lossy(client.seen()).to_lowercase().contains("x-sum"));
}

/// `ab -k`, which believed a `keep-alive` that was not kept.
#[test]
fn http10_clients_learn_that_an_answer_of_unknown_length_is_the_last() {
    let upstream = upstream();
    let gate = Gate::before(&upstream).start();
    for (name, last) in [("chunked", true), ("until", true), ("counted", false)] {
        let mut client = Client::connect(gate.address);
        for _ in 0..2 {
            let line = format!("GET /v1/{name}/0 HTTP/1.0\r\nhost: a\r\nx-api-key: {READER}\r\n");
            client.send(line + "connection: keep-alive\r\n\r\n");
            let answer = client.response();
            let connection = answer.one("connection").unwrap_or_default();
            assert_eq!(connection, if last { "close" } else { "keep-alive" }, "{name}");
            assert_eq!(answer.one("transfer-encoding"), None, "{name}");
            if last {
                assert!(client.is_closed(), "{name}");
                break;
            }
        }
    }
}

/// An invalid first chunk: there is no answer yet, so keygate can refuse.
#[test]
fn a_broken_first_chunk_is_502() {
    for chunk in
        ["zz\r\nhello\r\n", "5\r\nhelloX\r\n", "\r\n", "5;a\nhello", "8000000000000000\r\n"]
    {
        let upstream = Upstream::answering(move |_| {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            vec![Step::Send([head, chunk].concat().into_bytes()), Step::Close]
        });
        let gate = Gate::before(&upstream).start();
        let mut client = Client::connect(gate.address);
        let answer = client.send(get("x", "")).response();
        assert_eq!((answer.status(), &*answer.code()), (502, "bad_gateway"), "{chunk:?}");
        assert!(gate.log_soon("upstream_bad_response"), "{}", gate.log());
    }
}

/// A service that refuses a body before its end and closes: the client gets what it said.
#[test]
fn an_early_refusal_of_a_chunked_upload_arrives() {
    let upstream = Upstream::answering(|_| {
        let head =
            "HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 5\r\n\r\nlarge";
        // The body stays unread.
        vec![Step::Send(head.into()), Step::Close, Step::ReadBody]
    });
    let gate = Gate::before(&upstream).start();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
    for run in 0..20 {
        let mut client = Client::connect(gate.address);
        client.send(format!(
            "POST /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\ntransfer-encoding: chunked\r\n\r\n{}",
            chunk.repeat(4)
        ));
        let answer = client.response();
        assert_eq!((answer.status(), &*answer.body_text()), (413, "large"), "run {run}");
    }
}

/// Endless interim answers are not an answer, and delay nobody else.
#[test]
fn a_flood_of_interim_answers_is_502() {
    let upstream = Upstream::answering(|message| match message.first_line().contains("/flood") {
        true => vec![Step::Send("HTTP/1.1 100 C\r\n\r\n".repeat(20_000).into_bytes()), Step::Drain],
        false => answer("200 OK", "", &"x".repeat(300_000)),
    });
    let gate = Gate::before(&upstream).also("[workers]\ncount = 1").start();
    let mut client = Client::connect(gate.address);
    // So that the connection expects long answers.
    assert_eq!(client.send(get("long", "")).response().body_text().len(), 300_000);
    let answer = client.send(get("flood", "")).response();
    assert_eq!((answer.status(), &*answer.code()), (502, "bad_gateway"));
    assert_eq!(client.send(get("long", "")).response().status(), 200);
}

/// RFC 9110 section 6.5.1: fields that must not be in trailers are not passed on.
#[test]
fn trailers_say_only_what_trailers_may() {
    let upstream = Upstream::answering(|_| {
        send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
             Trailer: X-Sum, Connection, Location, X-Request-Id, Access-Control-Allow-Origin\r\n\r\n\
             1\r\na\r\n0\r\nX-Sum: 97\r\nConnection: close\r\nLocation: http://inner/\r\n\
             X-Request-Id: forged\r\nAccess-Control-Allow-Origin: *\r\nKeep-Alive: x\r\n\r\n",
        )
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(get("a", "te: trailers\r\nconnection: te\r\n"));
    assert_eq!(client.response().body_text(), "a");
    let seen = String::from_utf8_lossy(client.seen()).to_lowercase();
    assert!(seen.ends_with("0\r\nx-sum: 97\r\n\r\n"), "{seen}");
    let mut client = H2::connect(gate.address);
    let answer = client.exchange(1, &h2raw::get("/v1/a", READER));
    assert_eq!((answer.reset, answer.ended, &*answer.body), (None, true, &b"a"[..]));
}

/// A stream that its client abandons with NO_ERROR is cut short, not complete.
#[test]
fn half_an_upload_over_http2_is_no_whole_one() {
    let upstream = Upstream::answering(|_| answer("200 OK", "", "hello"));
    let gate = Gate::before(&upstream).start();
    for code in [0u32, 8] {
        let mut client = H2::connect(gate.address);
        client.headers(1, 4, &h2raw::request("POST", "/v1/a", READER));
        client.data(1, 0, b"half of a body");
        // The service has it before the stream ends.
        std::thread::sleep(Duration::from_millis(200));
        client.send(&h2raw::frame(3, 0, 1, &code.to_be_bytes()));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!upstream.saw(b"0\r\n\r\n"), "code {code}: the service took it for whole");
    }
}
