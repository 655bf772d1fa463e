//! keygate itself reads a client's connection while its requests are plain, and hyper reads it for
//! one that is not. No request and no answer may show who read it, or get lost where the reader
//! changes.

use crate::support::client::Client;
use crate::support::gate::{Gate, READER};
use crate::support::http::Message;
use crate::support::upstream::{Step, Upstream, answer, send};

/// Name, request, status, body of the answer.
type Turn = (&'static str, String, u16, String);

fn head(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n{fields}\r\n")
}

/// Each has a name in its path, so that its answer shows which request it belongs to.
fn turns() -> Vec<Turn> {
    let line = |method: &str, path: &str| format!("{method} /v1/{path}");
    let large = "x".repeat(LARGE);
    let turn = |name, method: &str, fields: &str, body: &str, status, answer: &str| {
        (name, head(&line(method, name), fields) + body, status, answer.to_owned())
    };
    vec![
        turn("get", "GET", "", "", 200, "GET get"),
        turn("whole", "POST", "content-length: 4\r\n", "body", 200, "POST whole"),
        turn(
            "chunks",
            "POST",
            "transfer-encoding: chunked\r\n",
            "4\r\nbody\r\n0\r\n\r\n",
            200,
            "POST chunks",
        ),
        turn("head", "HEAD", "", "", 200, ""),
        turn("coded", "GET", "", "", 200, "GET coded"),
        turn("none", "GET", "", "", 204, ""),
        turn("same", "GET", "", "", 304, ""),
        turn("phrase", "GET", "", "", 200, "GET phrase"),
        turn("large", "GET", "", "", 200, &large),
        (
            "refused",
            "GET /v1/refused HTTP/1.1\r\nhost: a\r\nx-api-key: wa_nothing0123456789\r\n\r\n"
                .to_owned(),
            401,
            String::new(),
        ),
        (
            "old",
            format!(
                "GET /v1/old HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\nx-api-key: {READER}\r\n\r\n"
            ),
            200,
            "GET old".to_owned(),
        ),
    ]
}

const LARGE: usize = 100_000;

fn upstream() -> Upstream {
    Upstream::answering(|message| {
        let line = message.first_line();
        let mut words = line.split([' ', '/']);
        let (method, name) = (words.next().unwrap(), words.nth(2).unwrap());
        let body = format!("{method} {name}");
        match name {
            "coded" => send(format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            )),
            "none" => send("HTTP/1.1 204 No Content\r\n\r\n"),
            "same" => send("HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n"),
            "phrase" => answer("200 Fine", "", &body),
            "large" => answer("200 OK", "", &"x".repeat(LARGE)),
            "head" => vec![Step::Send(
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes(),
            )],
            _ => answer("200 OK", "", &body),
        }
    })
}

fn check((name, _, status, body): &Turn, after: &str, got: &Message) {
    assert_eq!(got.status(), *status, "{name} after {after}");
    assert_eq!(got.all("date").len(), 1, "{name} after {after}");
    assert_eq!(got.all("x-request-id").len(), 1, "{name} after {after}");
    let lengths = got.all("content-length").len() + got.all("transfer-encoding").len();
    assert_eq!(lengths, usize::from(*status != 204 && *status != 304), "{name} after {after}");
    if *status != 401 {
        assert_eq!(&got.body_text(), body, "{name} after {after}");
    }
}

fn response(client: &mut Client, turn: &Turn) -> Message {
    if turn.0 == "head" { client.response_to_head() } else { client.response() }
}

/// Every kind of request after every other: waiting for each, and all in one piece.
#[test]
fn any_request_may_follow_any_other() {
    let upstream = upstream();
    let gate = Gate::before(&upstream).start();
    let turns = turns();
    let mut sent = 0;
    for first in &turns {
        for second in &turns {
            let mut one_by_one = Client::connect(gate.address);
            let mut at_once = Client::connect(gate.address);
            let all = [first, second, first, second];
            at_once.send(all.map(|turn| turn.1.as_str()).concat());
            let mut before = "nothing";
            for turn in all {
                one_by_one.send(&turn.1);
                check(turn, before, &response(&mut one_by_one, turn));
                check(turn, before, &response(&mut at_once, turn));
                before = turn.0;
                sent += if turn.0 == "refused" { 0 } else { 2 };
            }
        }
    }
    let arrived = upstream.wait_for(sent);
    assert_eq!(arrived.len(), sent, "none was lost, none came twice");
    for message in arrived {
        assert_eq!(message.one("x-api-key"), None, "{}", message.first_line());
        assert_eq!(message.all("x-org-id").len(), 1, "{}", message.first_line());
        let body = if message.first_line().starts_with("POST") { "body" } else { "" };
        assert_eq!(message.body_text(), body, "{}", message.first_line());
    }
}

/// A client that has finished sending still gets what it has requested, whoever writes it.
#[test]
fn a_half_closed_client_is_answered() {
    let upstream = upstream();
    let gate = Gate::before(&upstream).start();
    let turns = turns();
    for turn in &turns {
        for before in [None, Some(&turns[0]), Some(turn)] {
            let mut client = Client::connect(gate.address);
            let all: Vec<_> = before.into_iter().chain([turn]).collect();
            client.send(all.iter().map(|t| t.1.as_str()).collect::<String>()).finish();
            for one in all {
                check(one, "the end of the client's side", &response(&mut client, one));
            }
            assert!(client.is_closed(), "{}", turn.0);
        }
    }
}

/// A head may have the full length, whoever reads it: a request that was passed on is not refused
/// afterwards.
#[test]
fn a_long_head_is_refused_once() {
    let upstream = upstream();
    let gate = Gate::before(&upstream).also("[limits]\nhead_bytes = \"4KiB\"").start();
    for name in ["get", "same", "phrase"] {
        let line = format!("GET /v1/{name}?{}", "q".repeat(6000));
        let mut client = Client::connect(gate.address);
        assert_eq!(client.send(head(&line, "")).response().status(), 431, "{name}");
    }
    assert!(upstream.take().is_empty());
}

/// A body that arrives in pieces, after its head or split in the middle, is passed on as it
/// arrives, and the next request is read from where it ends.
#[test]
fn a_request_may_come_in_any_pieces() {
    let upstream = upstream();
    let gate = Gate::before(&upstream).start();
    let turns = turns();
    let post = &turns[1];
    let get = &turns[0];
    let all = format!("{}{}{}", post.1, get.1, post.1);
    let cuts: Vec<usize> = (1..all.len()).step_by(7).collect();
    let mut clients: Vec<_> = cuts.iter().map(|_| Client::connect(gate.address)).collect();
    for (client, cut) in clients.iter_mut().zip(&cuts) {
        client.send(&all[..*cut]);
    }
    // All of them have probably been read by now. The outcome must not depend on it.
    std::thread::sleep(std::time::Duration::from_millis(50));
    for (client, cut) in clients.iter_mut().zip(&cuts) {
        client.send(&all[*cut..]);
    }
    for client in &mut clients {
        for turn in [post, get, post] {
            check(turn, "a cut", &client.response());
        }
    }
    let arrived = upstream.wait_for(3 * cuts.len());
    assert_eq!(arrived.len(), 3 * cuts.len());
    let bodies = arrived.iter().filter(|message| message.body_text() == "body").count();
    assert_eq!(bodies, 2 * cuts.len());
}

/// A template's date is the only one, whoever writes the refusal.
#[test]
fn a_refusal_has_one_date() {
    let upstream = upstream();
    let gate = Gate::before(&upstream)
        .also("[refusals]\nprofile = \"ours\"\n[refusals.templates.ours]\nbody = '{\"c\":\"{{code}}\"}'")
        .also("headers = { date = \"Thu, 01 Jan 1970 00:00:00 GMT\" }")
        .start();
    for line in ["GET /v1/x HTTP/1.1", "HEAD /v1/x HTTP/1.1", "GET /v1/x HTTP/1.0"] {
        let mut client = Client::connect(gate.address);
        client.send(format!("{line}\r\nhost: a\r\n\r\n"));
        let turn = if line.starts_with("HEAD") { "head" } else { "get" };
        let got = response(&mut client, &(turn, String::new(), 401, String::new()));
        assert_eq!((got.status(), got.all("date").len()), (401, 1), "{line}");
        assert!(got.one("date").unwrap().contains("1970"), "{line}");
        assert_eq!(got.all("content-length").len(), 1, "{line}");
    }
}

const CORS: &str = "[[cors]]\npath = \"/v1/*\"\norigins = [\"https://a.example\"]\n";

/// keygate's own answers: name, request line and fields, status.
const OWN: [(&str, &str, u16); 4] = [
    ("no key", "POST /v1/a HTTP/1.1\r\n", 401),
    ("bad path", "POST /v1//a HTTP/1.1\r\n", 400),
    (
        "preflight",
        "OPTIONS /v1/a HTTP/1.1\r\norigin: https://a.example\r\n\
         access-control-request-method: POST\r\n",
        204,
    ),
    ("no service", "POST /v1/a HTTP/1.1\r\nx-api-key: @KEY@\r\n", 502),
];

/// Whatever of a body is still to come when keygate answers itself, and whoever reads it: if the
/// connection ends after the answer, the answer says so. Otherwise the next request is answered.
#[test]
fn no_connection_ends_unannounced_behind_an_answer_of_ours() {
    let chunked = "transfer-encoding: chunked\r\n";
    let nowhere = "http://127.0.0.1:9";
    let http2 = "http://127.0.0.1:9\"\nprotocol = \"http2\"\n#";
    for url in [nowhere, http2] {
        let gate = Gate::before_url(url).also(CORS).start();
        for (name, line, status) in OWN {
            for (fields, body) in [
                (chunked, "5\r\nhello\r\n0\r\n\r\n".to_owned()),
                (chunked, "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n".to_owned()),
                (chunked, "1\r\nh\r\n".repeat(20) + "0\r\nx-sum: 1\r\n\r\n"),
                ("content-length: 5\r\n", "hello".to_owned()),
                ("content-length: 5\r\nte: trailers\r\n", "hello".to_owned()),
                ("content-length: 5\r\nexpect: 100-continue\r\n", "hello".to_owned()),
            ] {
                for early in [body.len(), body.len() / 2, 0] {
                    let about = format!("{url} {name} {fields:?}, {early} of {}", body.len());
                    let line = line.replace("@KEY@", READER);
                    let (now, late) = body.split_at(early);
                    let mut client = Client::connect(gate.address);
                    client.send(format!("{line}host: a\r\n{fields}\r\n{now}"));
                    let asks = fields.contains("expect") && status == 502;
                    let mut got = client.response();
                    if asks && got.status() == 100 {
                        got = client.response();
                    }
                    assert_eq!(got.status(), status, "{about}");
                    if got.all("connection").contains(&"close".to_owned()) {
                        assert!(early < body.len() || fields.contains("expect"), "{about}");
                        assert!(client.send(late).is_closed(), "{about}");
                        continue;
                    }
                    assert!(late.is_empty(), "{about}: {:?}", got.first_line());
                    client.send("GET /v1/next HTTP/1.1\r\nhost: a\r\n\r\n");
                    assert_eq!(client.response().status(), 401, "{about}");
                }
            }
        }
    }
}

/// HTTP/1.0 with `keep-alive`: it gets no promise that keygate does not keep.
#[test]
fn an_http_10_client_is_not_told_to_keep_a_connection_that_ends() {
    let gate = Gate::before_url("http://127.0.0.1:9").start();
    let head = "POST /v1/a HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\n";
    let mut client = Client::connect(gate.address);
    let got = client.send(head).response();
    assert_eq!((got.status(), got.all("connection")), (401, vec!["close".to_owned()]));
    assert!(client.is_closed());
    let mut client = Client::connect(gate.address);
    let got = client.send(format!("{head}hello")).response();
    assert_eq!((got.status(), got.all("connection")), (401, vec!["keep-alive".to_owned()]));
    client.send("GET /v1/a HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().status(), 401);
}
