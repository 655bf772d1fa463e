//! The body of a request arrives as it was sent: for every method, framing, length and pair of
//! protocols, and after an answer of any version. Losing a body while the client gets a success is
//! the worst that a proxy can do.

use std::net::SocketAddr;

use crate::proto_ws::{self, handshake};
use crate::support::client::Client;
use crate::support::gate::{Gate, READER, Setup};
use crate::support::h2raw::*;
use crate::support::h2upstream::{Http2Upstream, Reply};
use crate::support::http::find;
use crate::support::upstream::{Step, Upstream, answer, send};

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"];
/// Nothing, less than a head, and several reads, within the first window of HTTP/2.
const LENGTHS: [usize; 3] = [0, 9, 65_000];

/// How the client frames a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// No body is announced.
    None,
    Counted,
    /// HTTP/1.1: in chunks; HTTP/2: DATA without content-length.
    Unknown,
}

/// One request.
#[derive(Clone, Copy, Debug)]
struct Case {
    method: &'static str,
    framing: Framing,
    length: usize,
}

/// What the service has answered on the connection earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    Http11,
    /// HTTP/1.0 that offers to keep the connection, with and without a body.
    Http10,
    Http10Empty,
}

// === impl Case ===

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        METHODS.into_iter().flat_map(|method| {
            let none = Self { method, framing: Framing::None, length: 0 };
            let framed =
                [Framing::Counted, Framing::Unknown].into_iter().flat_map(move |framing| {
                    LENGTHS.into_iter().map(move |length| Self { method, framing, length })
                });
            std::iter::once(none).chain(framed)
        })
    }

    fn body(&self) -> Vec<u8> {
        (0..self.length as u64).map(|n| (n ^ (n >> 8) ^ (n >> 16)).to_le_bytes()[0]).collect()
    }

    /// As HTTP/1.1.
    fn bytes(&self) -> Vec<u8> {
        let Self { method, framing, length } = self;
        let mut out = format!("{method} /v1/new HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n");
        match framing {
            Framing::None => {}
            Framing::Counted => out.push_str(&format!("Content-Length: {length}\r\n")),
            Framing::Unknown => out.push_str("Transfer-Encoding: chunked\r\n"),
        }
        out.push_str("\r\n");
        let mut out = out.into_bytes();
        if *framing == Framing::Unknown {
            for piece in self.body().chunks(30_000) {
                out.extend(format!("{:x}\r\n", piece.len()).into_bytes());
                out.extend(piece);
                out.extend(b"\r\n");
            }
            out.extend(b"0\r\n\r\n");
        } else {
            out.extend(self.body());
        }
        out
    }

    fn over_http1(&self, client: &mut Client) -> u16 {
        client.send(self.bytes());
        match self.method {
            "HEAD" => client.response_to_head().status(),
            _ => client.response().status(),
        }
    }

    fn over_http2(&self, gate: SocketAddr) -> u16 {
        let mut h2 = H2::connect(gate);
        let length = self.length.to_string();
        let mut fields = request(self.method, "/v1/new", READER);
        if self.framing == Framing::Counted {
            fields.push(("content-length", &length));
        }
        if self.framing == Framing::None {
            return h2.exchange(1, &fields).status.expect("an answer");
        }
        h2.headers(1, 0, &fields);
        let body = self.body();
        for piece in body.chunks(16_000) {
            h2.data(1, 0, piece);
        }
        h2.data(1, END_STREAM, b"");
        h2.answer(1).status.expect("an answer")
    }
}

/// Every method passes.
fn open_to_every_method(setup: Setup) -> Setup {
    setup.also("[workers]\ncount = 1").rules(
        "[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n[[routes]]\npath = \"/*\"\n\
         permissions = [\"read\"]\nupgrade = [\"websocket\"]",
    )
}

/// Answers `/v1/before/…` as the last part says. Opens WebSockets.
fn service() -> Upstream {
    Upstream::answering(|message| {
        let line = message.first_line();
        if line.contains("/Http10Empty") {
            return send("HTTP/1.0 204 No Content\r\nconnection: keep-alive\r\n\r\n");
        }
        if line.contains("/Http10") {
            return send(
                "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi",
            );
        }
        if let Some(key) = message.one("sec-websocket-key") {
            let accept = proto_ws::accept(&key);
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: {accept}\r\n\r\n"
            );
            return vec![Step::ReadBody, Step::Send(head.into_bytes()), Step::Drain];
        }
        match line.starts_with("HEAD") {
            true => send("HTTP/1.1 200 OK\r\n\r\n"),
            false => answer("200 OK", "", "ok"),
        }
    })
}

/// Brings the service's connection into the state that `before` names.
fn prepare(before: Before, gate: &Gate, upstream: &Upstream) {
    if before == Before::Nothing {
        return;
    }
    let mut client = Client::connect(gate.address);
    client.send(format!(
        "GET /v1/before/{before:?} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n"
    ));
    assert!(matches!(client.response().status(), 200 | 204));
    upstream.wait_for(1);
}

#[test]
fn a_body_arrives_at_an_http1_service() {
    let befores = [Before::Nothing, Before::Http11, Before::Http10, Before::Http10Empty];
    for preserve in [false, true] {
        let upstream = service();
        let url = format!("http://{}\"\npreserve_header_case = {preserve}\n#", upstream.address);
        let gate = open_to_every_method(Gate::before_url(&url)).start();
        for case in Case::all() {
            for before in befores {
                for http2 in [false, true] {
                    let what = format!("{case:?}, {before:?}, http2 {http2}, case {preserve}");
                    prepare(before, &gate, &upstream);
                    let status = match http2 {
                        true => case.over_http2(gate.address),
                        false => case.over_http1(&mut Client::connect(gate.address)),
                    };
                    assert_eq!(status, 200, "{what}");
                    let got = upstream.only();
                    assert_eq!(got.first_line(), format!("{} /v1/new HTTP/1.1", case.method));
                    assert!(got.body == case.body(), "{what}: {} bytes", got.body.len());
                    let framed = (got.all("content-length"), got.all("transfer-encoding"));
                    let length = vec![case.length.to_string()];
                    let want = match case.framing {
                        Framing::None => (vec![], vec![]),
                        Framing::Counted => (length, vec![]),
                        Framing::Unknown => (vec![], vec!["chunked".to_owned()]),
                    };
                    assert_eq!(framed, want, "{what}");
                }
            }
        }
        // Not one request was sent as HTTP/1.0, and no byte was left over for the next.
        assert!(!upstream.saw(b" HTTP/1.0\r\n"), "case {preserve}");
    }
}

#[test]
fn a_body_arrives_at_an_http2_service() {
    let upstream = Http2Upstream::answering(|_| Reply { status: 200, ..Reply::default() });
    let gate = open_to_every_method(Gate::before_url(&upstream.url())).start();
    for case in Case::all() {
        for http2 in [false, true] {
            let what = format!("{case:?}, http2 {http2}");
            let status = match http2 {
                true => case.over_http2(gate.address),
                false => case.over_http1(&mut Client::connect(gate.address)),
            };
            assert_eq!(status, 200, "{what}");
            let got = upstream.only();
            assert_eq!(got.method.as_str(), case.method, "{what}");
            assert!(got.complete && got.body == case.body(), "{what}: {} bytes", got.body.len());
        }
    }
}

/// Requests of every kind one after another on the client's connection: each body belongs to its
/// own request, and none is read as the next request.
#[test]
fn bodies_one_after_another() {
    let upstream = service();
    let gate = open_to_every_method(Gate::before(&upstream)).start();
    let mut client = Client::connect(gate.address);
    for case in Case::all() {
        assert_eq!(case.over_http1(&mut client), 200, "{case:?}");
        let got = upstream.only();
        assert!(got.body == case.body(), "{case:?}: {} bytes", got.body.len());
    }
}

/// A service that always answers with HTTP/1.0: every request gets a connection of its own.
#[test]
fn a_service_of_http_1_0_is_sent_whole_requests() {
    let upstream = Upstream::answering(|message| {
        let length = if message.first_line().starts_with("HEAD") { "" } else { "ok" };
        send(format!(
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n{length}"
        ))
    });
    let gate = open_to_every_method(Gate::before(&upstream)).start();
    let mut client = Client::connect(gate.address);
    for (number, case) in Case::all().enumerate() {
        assert_eq!(case.over_http1(&mut client), 200, "{case:?}");
        let got = upstream.only();
        assert!(got.body == case.body(), "{case:?}: {} bytes", got.body.len());
        assert_eq!(got.connection, number, "{case:?}");
    }
    assert!(!upstream.saw(b" HTTP/1.0\r\n"));
}

/// An upgrade does not exist in HTTP/1.0.
#[test]
fn a_websocket_opens_after_an_answer_of_http_1_0() {
    let upstream = service();
    let gate = open_to_every_method(Gate::before(&upstream)).start();
    for before in [Before::Http10, Before::Http10Empty] {
        prepare(before, &gate, &upstream);
        let mut client = Client::connect(gate.address);
        client.send(handshake("/v1/new", &format!("x-api-key: {READER}\r\n")));
        assert_eq!(client.response_head().status(), 101, "{before:?}");
        let got = upstream.only();
        assert_eq!(got.first_line(), "GET /v1/new HTTP/1.1");
        assert_eq!(got.one("upgrade").as_deref(), Some("websocket"));
    }
    assert!(upstream.raw().iter().all(|c| find(c, b" HTTP/1.0\r\n").is_none()));
}
