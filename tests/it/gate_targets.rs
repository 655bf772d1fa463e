//! A request's target reaches the service byte for byte, or the request is refused, whoever reads
//! its head. A head after another request is judged like the first one.

use std::collections::HashMap;
use std::time::Duration;

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, READER};
use crate::support::h2upstream::{Http2Upstream, Reply};
use crate::support::http::Message;
use crate::support::upstream::{Upstream, send};

/// Name, method, end of the line, fields and body of requests that different readers read.
const READERS: &[(&str, &str, &str, &str)] = &[
    ("plain", "GET", "HTTP/1.1", "\r\n"),
    ("body", "POST", "HTTP/1.1", "content-length: 2\r\n\r\nhi"),
    ("chunked", "POST", "HTTP/1.1", "transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
    ("trailers", "POST", "HTTP/1.1", "transfer-encoding: chunked\r\n\r\n0\r\nx-t: 1\r\n\r\n"),
    ("te", "GET", "HTTP/1.1", "te: trailers\r\n\r\n"),
    ("expect", "PUT", "HTTP/1.1", "expect: 100-continue\r\ncontent-length: 0\r\n\r\n"),
    ("head", "HEAD", "HTTP/1.1", "\r\n"),
    ("old", "GET", "HTTP/1.0", "connection: keep-alive\r\n\r\n"),
    ("names", "GET", "HTTP/1.1", "connection: keep-alive, x-hop\r\n\r\n"),
    ("upgrade", "GET", "HTTP/1.1", "connection: upgrade\r\nupgrade: h2c\r\n\r\n"),
];

fn request(target: &str, (_, method, version, rest): (&str, &str, &str, &str)) -> String {
    format!("{method} {target} {version}\r\nhost: a\r\nx-api-key: {READER}\r\n{rest}")
}

fn answer_to(client: &mut Client, request: &str) -> Message {
    match request.starts_with("HEAD") {
        true => client.response_to_head(),
        false => client.response(),
    }
}

/// Refusals to be found in the log: request ids, reasons, and where they are from.
#[derive(Default)]
struct Refused(Vec<(String, &'static str, String)>);

impl Refused {
    /// It has its status, a code (but to HEAD) and a request id.
    fn add(&mut self, name: &str, refusal: &Message, (status, reason): (u16, &'static str)) {
        assert_eq!(refusal.status(), status, "{name}: {}", refusal.body_text());
        let id = refusal.one("x-request-id").unwrap_or_else(|| panic!("{name}: no request id"));
        if !refusal.body.is_empty() {
            assert_eq!(refusal.json()["request_id"], *id, "{name}");
            assert!(!refusal.code().is_empty(), "{name}");
        }
        self.0.push((id, reason, name.to_owned()));
    }

    /// Each has a line in the log.
    fn are_logged(self, gate: &Gate) {
        let read = || {
            let mut reasons = HashMap::new();
            for line in gate.log().lines().filter(|l| l.contains("\"request_id\"")) {
                // The last line may be incomplete.
                let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { continue };
                let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
                reasons.insert(word("request_id"), word("reason"));
            }
            reasons
        };
        // Each worker writes its own lines, soon.
        let is_written = || {
            let reasons = read();
            self.0.iter().all(|(id, ..)| reasons.contains_key(id))
        };
        gate.process.eventually("a line for each refusal", is_written);
        let reasons = read();
        for (id, reason, name) in &self.0 {
            assert_eq!(reasons.get(id).map(String::as_str), Some(*reason), "{name}");
        }
    }
}

/// All bytes that a target can have, in path and query.
#[test]
fn a_target_arrives_as_it_was_sent_or_is_refused() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut refused = Refused::default();
    let odd = (b'!'..=b'~').filter(|b| !b.is_ascii_alphanumeric()).map(char::from);
    for char in odd.chain(['é', '\u{202e}', '😀']) {
        let targets = [format!("/v1/a{char}b"), format!("/v1/a?q={char}{char}&r=1{char}")];
        for (at, target) in targets.iter().enumerate() {
            let is_path = at == 0;
            let passes = match char {
                '#' => false,
                // It begins a query, or cannot be decoded.
                '?' | '%' if is_path => char == '?',
                '/' if is_path => true,
                ';' | '\\' | '<' | '>' | '`' if is_path => false,
                _ => !is_path || char.is_ascii(),
            };
            for reader in READERS {
                let name = format!("{target} by {}", reader.0);
                let text = request(target, *reader);
                let mut client = Client::connect(gate.address);
                client.send(&text);
                let answer = answer_to(&mut client, &text);
                if passes {
                    assert_eq!(answer.status(), 200, "{name}: {}", answer.body_text());
                    let line = format!("{} {target} HTTP/1.1", reader.1);
                    assert_eq!(upstream.only().first_line(), line);
                } else {
                    let bad = !is_path || matches!(char, '#' | '<' | '>' | '`');
                    let reason = if bad { "bad_target" } else { "bad_path" };
                    refused.add(&name, &answer, (400, reason));
                    assert!(upstream.take().is_empty(), "{name}");
                }
            }
        }
    }
    // Not even text.
    for reader in READERS {
        let text = request("/v1/a?q=%", *reader).replace('%', "\u{1}").into_bytes();
        let text: Vec<u8> = text.into_iter().map(|b| if b == 1 { 0xff } else { b }).collect();
        let mut client = Client::connect(gate.address);
        client.send(text);
        let is_head = reader.1 == "HEAD";
        let answer = if is_head { client.response_to_head() } else { client.response() };
        refused.add(reader.0, &answer, (400, "bad_target"));
    }
    refused.are_logged(&gate);
    let absolute = request("http://a/v1/a?q=\"<>\"", READERS[0]);
    assert_eq!(exchange(gate.address, absolute).status(), 200);
    assert_eq!(upstream.only().first_line(), "GET /v1/a?q=\"<>\" HTTP/1.1");
}

/// A key leaves the query, and the rest stays as it was.
#[test]
fn a_key_in_a_query_takes_nothing_with_it() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for (before, after) in [
        ("q=\"<a>\"&api_key=KEY&r={|}^`\\", "?q=\"<a>\"&r={|}^`\\"),
        ("api_key=KEY&q=\"é\"&&r=%22%2F+;", "?q=\"é\"&&r=%22%2F+;"),
        ("a=\">\"&api%5Fkey=KEY", "?a=\">\""),
        ("api_key=KEY", ""),
    ] {
        for (name, method, version, rest) in READERS {
            let target = format!("/v1/a?{}", before.replace("KEY", READER));
            let text = format!("{method} {target} {version}\r\nhost: a\r\n{rest}");
            let mut client = Client::connect(gate.address);
            client.send(&text);
            assert_eq!(answer_to(&mut client, &text).status(), 200, "{before} by {name}");
            let line = format!("{method} /v1/a{after} HTTP/1.1");
            assert_eq!(upstream.only().first_line(), line, "{before} by {name}");
        }
        for quoted in [format!("api_key=\"{READER}\""), format!("api_key=<{READER}>")] {
            let text = format!("GET /v1/a?{quoted} HTTP/1.1\r\nhost: a\r\n\r\n");
            gate.refuses(&quoted, text, 401, "invalid_key");
        }
    }
    assert!(!gate.log().contains(READER));
}

/// Where hyper writes the request, these cannot be sent: the client learns that.
#[test]
fn what_hyper_cannot_send_is_refused() {
    let service = Http2Upstream::answering(|_| Reply::ok("x"));
    let upstream = Upstream::start();
    let over_http2 = Gate::before_url(&service.url()).start();
    let preserving = Gate::before(&upstream).upstream_option("preserve_header_case = true").start();
    for gate in [&over_http2, &preserving] {
        let mut refused = Refused::default();
        for sign in ['"', '<', '>'] {
            for reader in READERS {
                let name = format!("{sign} by {}", reader.0);
                let text = request(&format!("/v1/a?q={sign}"), *reader);
                let mut client = Client::connect(gate.address);
                client.send(&text);
                let refusal = answer_to(&mut client, &text);
                refused.add(&name, &refusal, (400, "bad_target"));
                assert!(reader.1 == "HEAD" || refusal.body_text().contains("unless encoded"));
            }
        }
        refused.are_logged(gate);
        let encoded = request("/v1/a?q=%22%3C%3E{|}^`\\é", READERS[0]);
        assert_eq!(exchange(gate.address, encoded).status(), 200);
    }
    assert!(service.take().iter().all(|seen| seen.target.query() == Some("q=%22%3C%3E{|}^`\\é")));
    assert!(upstream.take().iter().all(|r| r.first_line().contains("%22%3C%3E{|}^`\\é")));
}

/// The same in an upgrade that is passed on. One that its route does not allow is not an upgrade.
#[test]
fn an_upgrade_with_an_odd_query_is_refused() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let fields = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                  sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let ask = |target: &str| request(target, ("upgrade", "GET", "HTTP/1.1", fields));
    let refusal = gate.refuses("odd", ask("/ws/a?q=\"x\""), 400, "bad_target");
    assert!(refusal.body_text().contains("unless encoded"), "{}", refusal.body_text());
    for target in ["/ws/a?q=%22x%22", "/v1/a?q=\"x\""] {
        assert_eq!(exchange(gate.address, ask(target)).status(), 200, "{target}");
        assert_eq!(upstream.only().first_line(), format!("GET {target} HTTP/1.1"));
    }
}

/// The route and the key are judged first: the character reveals nothing more than its absence.
#[test]
fn an_odd_query_opens_nothing() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for (name, method, version, rest) in READERS {
        let text = format!("{method} /v1/a?q=\"<>\" {version}\r\nhost: a\r\n{rest}");
        let mut client = Client::connect(gate.address);
        client.send(&text);
        assert_eq!(answer_to(&mut client, &text).status(), 401, "{name}");
        let nowhere = text.replace("/v1/a", "/nowhere");
        let mut client = Client::connect(gate.address);
        client.send(&nowhere);
        assert_ne!(answer_to(&mut client, &nowhere).status(), 200, "{name}");
    }
    assert!(upstream.take().is_empty());
}

/// Heads that nobody serves, and how they are refused.
const BAD_HEADS: &[(&str, u16, &str)] = &[
    ("\x16\x03\x01\x02\r\n\r\n", 400, "bad_target"),
    ("GET /v1/a HTTP/2.0\r\n\r\n", 400, "bad_target"),
    ("GET /v1/<a> HTTP/1.1\r\nhost: a\r\n\r\n", 400, "bad_target"),
    ("GET /v1/a#b HTTP/1.1\r\nhost: a\r\n\r\n", 400, "bad_target"),
    ("POST /v1/a HTTP/1.1\r\na b: c\r\n\r\n", 400, "bad_header"),
    ("GET /v1/a HTTP/1.1\r\nhost: a\r\na: b\0\r\n\r\n", 400, "bad_header"),
    ("POST /v1/a HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad_framing"),
    ("POST /v1/a HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", 400, "bad_framing"),
    ("POST /v1/a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", 400, "bad_framing"),
];

/// Sends `text` in two pieces.
fn send_cut(client: &mut Client, text: &str, cut: usize) {
    let (first, second) = text.as_bytes().split_at(cut.min(text.len()));
    client.send(first);
    if !second.is_empty() {
        std::thread::sleep(Duration::from_millis(2));
        client.send(second);
    }
}

#[test]
fn a_bad_head_behind_any_request_is_refused_in_full() {
    let upstream = Upstream::start();
    for option in ["", "preserve_header_case = true"] {
        let gate = Gate::before(&upstream).upstream_option(option).start();
        let mut refused = Refused::default();
        let many = format!("PUT /v1/a HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
        let long = format!("GET /v1/a HTTP/1.1\r\nx-a: {}", "b".repeat(40_000));
        let large = [(&*many, 431, "headers_too_large"), (&*long, 431, "headers_too_large")];
        for reader in READERS {
            let first = request("/v1/first?q=1", *reader);
            for (bad, status, reason) in BAD_HEADS.iter().copied().chain(large) {
                let all = format!("{first}{bad}");
                let near = first.len();
                for cut in [all.len(), near / 2, near - 1, near, near + 1, near + bad.len() / 2] {
                    let start = bad.get(..20).unwrap_or(bad);
                    let name = format!("{start:?} behind {}, cut at {cut}", reader.0);
                    let mut client = Client::connect(gate.address);
                    send_cut(&mut client, &all, cut);
                    let answer = answer_to(&mut client, &first);
                    assert_eq!(answer.status(), 200, "{name}");
                    let refusal = client.response();
                    refused.add(&name, &refusal, (status, reason));
                    assert!(!refusal.body.is_empty(), "{name}");
                    assert!(client.is_closed(), "{name}");
                }
            }
        }
        refused.are_logged(&gate);
        let arrived = upstream.take();
        assert!(arrived.iter().all(|r| r.first_line().contains("/v1/first")), "a bad head got on");
    }
}

/// The same after a refusal whose body nobody wanted.
#[test]
fn a_request_behind_a_refused_one_is_answered_or_the_connection_is_closed() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let mut refused = Refused::default();
    let good = request("/v1/next", READERS[0]);
    for (name, method, version, rest) in READERS {
        let begun = format!("{method} /v1/a {version}\r\nhost: a\r\n{rest}");
        for behind in [&*good, BAD_HEADS[0].0] {
            let mut client = Client::connect(gate.address);
            client.send(format!("{begun}{behind}"));
            assert_eq!(answer_to(&mut client, &begun).status(), 401, "{name}");
            match client.try_response(false).unwrap_or(None) {
                Some(answer) if behind == good => assert_eq!(answer.status(), 200, "{name}"),
                Some(answer) => refused.add(name, &answer, (400, "bad_target")),
                None => {}
            }
        }
    }
    refused.are_logged(&gate);
    assert!(upstream.take().iter().all(|r| r.first_line().contains("/v1/next")));
}

/// What follows is read from the end of the first request, also with odd targets.
#[test]
fn requests_in_one_piece_are_all_served() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let targets = ["/v1/0?q=\"1\"", "/v1/1", "/v1/2?<>"];
    for first in READERS {
        for second in READERS {
            let all = [
                request(targets[0], *first),
                request(targets[1], *second),
                request(targets[2], *first),
            ];
            let text = all.concat();
            for cut in [text.len(), all[0].len() - 2, all[0].len() + 3] {
                let mut client = Client::connect(gate.address);
                send_cut(&mut client, &text, cut);
                for one in &all {
                    let answer = answer_to(&mut client, one);
                    assert_eq!(answer.status(), 200, "{} then {}: {one}", first.0, second.0);
                }
                let arrived = upstream.wait_for(3);
                for (got, target) in arrived.iter().zip(targets) {
                    assert!(got.first_line().contains(&format!(" {target} ")));
                    assert!(!got.message.body_text().contains("GET"));
                }
            }
        }
    }
}

/// A head that has begun when the drain begins is still served, or refused like any other, even if
/// its client sends no more.
#[test]
fn a_half_read_head_is_served_or_refused() {
    let upstream = Upstream::start();
    for (end, status) in [("\r\n", 200), ("a b: c\r\n\r\n", 400)] {
        let gate = Gate::before(&upstream).start();
        let mut refused = Refused::default();
        let mut idle = Client::connect(gate.address);
        idle.send(request("/v1/a", READERS[0]));
        assert_eq!(idle.response().status(), 200);
        let mut half = Client::connect(gate.address);
        half.send(format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n"));
        let mut behind = Client::connect(gate.address);
        let te = request("/v1/a", READERS[4]);
        behind.send(format!("{te}GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n"));
        assert_eq!(behind.response().status(), 200);
        // The half heads have been read once a later request is answered.
        let mut last = Client::connect(gate.address);
        last.send(request("/v1/a", READERS[0]));
        assert_eq!(last.response().status(), 200);
        std::thread::sleep(Duration::from_millis(50));
        gate.process.signal("TERM");
        assert!(idle.is_closed(), "an idle connection outlives the drain");
        for client in [&mut half, &mut behind] {
            client.send(end);
            let answer = client.response();
            assert_eq!(answer.one("connection").as_deref(), Some("close"));
            match status {
                200 => assert_eq!(answer.status(), 200),
                _ => refused.add(end, &answer, (400, "bad_header")),
            }
            assert!(client.is_closed());
        }
        refused.are_logged(&gate);
    }
    let gate = Gate::before(&upstream).start();
    let mut refused = Refused::default();
    for (head, want) in [("GET /v1/a HTTP/1.1\r\nhost: a\r\n", true), ("\r\n", false)] {
        let mut client = Client::connect(gate.address);
        client.send(head).finish();
        let answer = client.try_response(false).expect("no reset");
        assert_eq!(answer.is_some(), want, "{head:?}");
        if let Some(answer) = answer {
            refused.add(head, &answer, (400, "bad_header"));
        }
    }
    refused.are_logged(&gate);
}

/// RFC 9110 section 8.6: a 304 may give the length of the answer that the client has.
#[test]
fn a_304_keeps_its_length_whoever_writes_it() {
    let length = "content-length: 9\r\n";
    let upstream = Upstream::answering(move |m| {
        let length = if m.first_line().contains("/counted") { length } else { "" };
        send(format!("HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n{length}\r\n"))
    });
    for option in ["", "preserve_header_case = true"] {
        let gate = Gate::before(&upstream).upstream_option(option).start();
        for reader in READERS {
            let mut client = Client::connect(gate.address);
            for (path, want) in [("/v1/counted", &["9"][..]), ("/v1/none", &[])] {
                let text = request(path, *reader);
                client.send(&text);
                let answer = client.response_to_head();
                assert_eq!(answer.status(), 304, "{path} by {}", reader.0);
                assert_eq!(answer.all("content-length"), want, "{path} by {}", reader.0);
                let others = [answer.all("transfer-encoding"), answer.all("connection")].concat();
                assert!(others.iter().all(|v| v == "keep-alive"), "{path} by {}", reader.0);
            }
        }
    }
}
