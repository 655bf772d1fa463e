//! Heads that can be read in exactly one way, and those that cannot be read, or in two ways.

use super::*;
use BodyLength::{Chunked, Counted, None as Bodiless, UntilClose};

fn found(head: &str) -> FoundHead {
    find_head(head.as_bytes(), RequestMethod::Other, &mut FieldRoom::default()).unwrap().unwrap()
}

#[test]
fn heads_and_what_follows_them() {
    let rows: &[(&str, &str, u16, BodyLength, bool)] = &[
        ("counted", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, Counted(5), true),
        ("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, Chunked, true),
        ("until it closes", "HTTP/1.1 200 OK\r\n\r\nhello", 200, UntilClose, false),
        ("no content", "HTTP/1.1 204 No Content\r\n\r\n", 204, Bodiless, true),
        (
            "not modified",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            304,
            Bodiless,
            true,
        ),
        ("interim", "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n", 103, Bodiless, true),
        (
            "closing",
            "HTTP/1.1 200 OK\r\nconnection: Close\r\nContent-Length: 0\r\n\r\n",
            200,
            Counted(0),
            false,
        ),
        (
            "closing in a list",
            "HTTP/1.1 200 OK\r\nconnection: x, close\r\nContent-Length: 0\r\n\r\n",
            200,
            Counted(0),
            false,
        ),
        ("HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, Counted(0), false),
        (
            "HTTP/1.0 that offers more",
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
            200,
            Counted(0),
            false,
        ),
        ("no phrase", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, Counted(0), true),
        ("bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", 200, Counted(0), true),
        (
            "an unknown status",
            "HTTP/1.1 799 What\r\nContent-Length: 0\r\n\r\n",
            799,
            Counted(0),
            true,
        ),
    ];
    for (name, head, status, body, keeps_alive) in rows {
        let found = found(head);
        let got = (found.status.as_u16(), found.body, found.keeps_alive);
        assert_eq!(got, (*status, *body, *keeps_alive), "{name}");
    }
}

#[test]
fn an_answer_to_head_has_no_body() {
    for fields in ["Content-Length: 5", "Transfer-Encoding: chunked", "x: y"] {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
        let found = find_head(head.as_bytes(), RequestMethod::Head, &mut FieldRoom::default())
            .unwrap()
            .unwrap();
        assert_eq!((found.body, found.keeps_alive), (Bodiless, true), "{fields}");
    }
}

#[test]
fn what_is_no_answer() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MOST_FIELDS + 1));
    let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(LONGEST_HEAD));
    let rows: &[(&str, &str)] = &[
        ("not HTTP", "SSH-2.0-OpenSSH_9.2\r\n"),
        ("HTTP/2 in an old dress", "HTTP/2.0 200 OK\r\n\r\n"),
        ("no number", "HTTP/1.1 abc OK\r\n\r\n"),
        ("a number too small", "HTTP/1.1 099 OK\r\n\r\n"),
        ("folded", "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n"),
        ("no name", "HTTP/1.1 200 OK\r\n: b\r\n\r\n"),
        ("space before the colon", "HTTP/1.1 200 OK\r\na : b\r\n\r\n"),
        ("NUL", "HTTP/1.1 200 OK\r\na: \0\r\n\r\n"),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
        (
            "two framings",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        ("a coding nobody undoes", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"),
        ("too many fields", &many),
        ("too long", &long),
    ];
    for (name, head) in rows {
        assert!(
            find_head(head.as_bytes(), RequestMethod::Other, &mut FieldRoom::default()).is_err(),
            "{name}"
        );
    }
}

#[test]
fn a_head_is_found_with_its_last_byte() {
    let head = format!(
        "HTTP/1.1 404 Gone Fishing\r\n{}Content-Length: 3\r\n\r\n",
        "X-Field: value\r\n".repeat(USUAL_FIELDS + 2)
    );
    for at in 0..head.len() {
        let (come, _) = head.split_at(at);
        assert!(
            find_head(come.as_bytes(), RequestMethod::Other, &mut FieldRoom::default())
                .unwrap()
                .is_none(),
            "after {at} bytes"
        );
    }
    let whole = format!("{head}abc");
    let head_length = head.len();
    let head = found(&whole);
    assert_eq!(head.length, head_length);
    let head = head.with(whole.into_bytes());
    assert_eq!(head.length(), head_length);
    assert_eq!(head.phrase(), Some(&b"Gone Fishing"[..]));
    assert_eq!(head.fields().count(), USUAL_FIELDS + 3);
    let parts = head.into_parts();
    assert_eq!(parts.headers["content-length"], "3");
    assert_eq!(parts.headers.get_all("x-field").iter().count(), USUAL_FIELDS + 2);
    let phrase = parts.extensions.get::<hyper::ext::ReasonPhrase>().unwrap();
    assert_eq!(phrase.as_bytes(), b"Gone Fishing");
}

#[test]
fn what_connection_names() {
    let text = "HTTP/1.1 200 OK\r\nConnection: close, X-One\r\nconnection: x-two\r\n\r\n";
    let head = found(text).with(text.as_bytes().to_vec());
    for (name, want) in [("x-one", true), ("X-Two", true), ("x-three", false), ("date", false)] {
        assert_eq!(head.is_named(name.as_bytes()), want, "{name}");
    }
}
