//! `Location` and `Content-Location` of a service that names its own address.

use crate::support::client::exchange;
use crate::support::gate::{Gate, READER};
use crate::support::http::Message;
use crate::support::upstream::{Upstream, answer};

/// A service that sends its own address, followed by what the request's query says.
fn redirecting(framing: &'static str) -> Upstream {
    Upstream::answering(move |got| {
        let host = got.one("x-own").unwrap_or_default();
        let behind = got.one("x-behind").unwrap_or_default();
        let location = format!("http://{host}{behind}");
        let fields = format!("location: {location}\r\nContent-Location: {location}\r\n{framing}");
        match framing {
            "" => answer("302 Found", &fields, "body"),
            _ => crate::support::upstream::send(format!(
                "HTTP/1.1 302 Found\r\n{fields}\r\n4\r\nbody\r\n0\r\n\r\n"
            )),
        }
    })
}

fn ask(gate: &Gate, own: &str, behind: &str) -> Message {
    exchange(
        gate.address,
        format!(
            "GET /v1/a HTTP/1.1\r\nhost: api.example\r\nx-api-key: {READER}\r\n\
             x-own: {own}\r\nx-behind: {behind}\r\n\r\n"
        ),
    )
}

fn both(answer: &Message) -> [String; 2] {
    assert_eq!((answer.status(), answer.body_text().as_str()), (302, "body"));
    ["location", "content-location"].map(|name| answer.one(name).expect(name))
}

/// Counted answers are copied as lines. Chunked ones may take another path.
#[test]
fn the_services_own_address_is_cut_off() {
    for framing in ["", "transfer-encoding: chunked\r\n"] {
        let upstream = redirecting(framing);
        let gate = Gate::before(&upstream).start();
        let own = upstream.address.to_string();
        for (behind, want) in [("/a?b", "/a?b"), ("/a/b#c", "/a/b#c"), ("", "/"), ("?x=1", "/?x=1")]
        {
            assert_eq!(both(&ask(&gate, &own, behind)), [want, want], "{framing}{behind}");
        }
        for (own, behind) in [
            ("evil.example", "/a"),
            ("me@127.0.0.1:9", "/a"),
            (own.as_str(), "//evil.example/"),
            (own.as_str(), "/\\evil.example/"),
            (own.as_str(), ".evil.example/"),
        ] {
            let want = format!("http://{own}{behind}");
            assert_eq!(both(&ask(&gate, own, behind)), [want.clone(), want], "{framing}");
        }
    }
}

/// The other way of an answer's head: as a map, as HTTP/2 clients and kept spellings need it.
#[test]
fn as_a_map_as_well() {
    let upstream = redirecting("");
    let gate = Gate::before(&upstream).upstream_option("preserve_header_case = true").start();
    let own = upstream.address.to_string();
    assert_eq!(both(&ask(&gate, &own, "/a?b")), ["/a?b", "/a?b"]);
    let other = format!("http://{own}//evil.example/");
    assert_eq!(both(&ask(&gate, &own, "//evil.example/")), [other.clone(), other]);
}

#[test]
fn it_can_be_switched_off() {
    let upstream = redirecting("");
    let gate = Gate::before(&upstream).upstream_option("rewrite_location = false").start();
    let own = upstream.address.to_string();
    let want = format!("http://{own}/a?b");
    assert_eq!(both(&ask(&gate, &own, "/a?b")), [want.clone(), want]);
}
