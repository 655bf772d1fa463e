//! What hyper would refuse is found, and what it accepts is left to it.

use super::{HeadBounds, Judged, RefusedHead, judge, unfinished};
use crate::core::Reason;

const BOUNDS: HeadBounds = HeadBounds { bytes: 256, fields: 8 };

fn refused(head: &[u8]) -> Option<RefusedHead> {
    match judge(head, BOUNDS) {
        Judged::Refused(refused) => Some(*refused),
        Judged::Servable(_) | Judged::Partial => None,
    }
}

#[test]
fn what_is_refused_and_why() {
    let get = "GET /a HTTP/1.1\r\nhost: a\r\n";
    let chunked = "transfer-encoding: chunked\r\n";
    let cases: &[(String, Reason)] = &[
        (format!("{get}x: {}", "a".repeat(300)), Reason::HeadersTooLarge),
        (format!("{get}x: {}\r\n\r\n", "a".repeat(300)), Reason::HeadersTooLarge),
        (format!("{get}{}\r\n", "a:b\r\n".repeat(9)), Reason::HeadersTooLarge),
        ("GET /a<b HTTP/1.1\r\nhost: a\r\n\r\n".into(), Reason::BadTarget),
        ("GET /a?b#c HTTP/1.1\r\nhost: a\r\n\r\n".into(), Reason::BadTarget),
        ("GET v1/a HTTP/1.1\r\nhost: a\r\n\r\n".into(), Reason::BadTarget),
        ("GET /a b HTTP/1.1\r\nhost: a\r\n\r\n".into(), Reason::BadTarget),
        ("GET /a HTTP/2.0\r\nhost: a\r\n\r\n".into(), Reason::BadTarget),
        ("\x16\x03\x01\x02".into(), Reason::BadTarget),
        (format!("{get}a b: c\r\n\r\n"), Reason::BadHeader),
        (format!("{get}: c\r\n\r\n"), Reason::BadHeader),
        (format!("{get}a: b\0c\r\n\r\n"), Reason::BadHeader),
        (format!("{get}a: b\r\n c\r\n\r\n"), Reason::BadHeader),
        (format!("{get}content-length: +5\r\n\r\n"), Reason::BadFraming),
        (format!("{get}content-length: 18446744073709551615\r\n\r\n"), Reason::BadFraming),
        (format!("{get}content-length: 5\r\ncontent-length: 6\r\n\r\n"), Reason::BadFraming),
        (format!("{get}content-length: 5\r\nContent-Length: 5\r\n\r\n"), Reason::BadFraming),
        (format!("{get}transfer-encoding: gzip\r\n\r\n"), Reason::BadFraming),
        (format!("{get}transfer-encoding: gzip, chunked\r\n\r\n"), Reason::BadFraming),
        (format!("{get}{chunked}{chunked}\r\n"), Reason::BadFraming),
        (format!("{get}{chunked}content-length: 5\r\n\r\n"), Reason::BadFraming),
        (format!("{get}content-length: 5\r\n{chunked}\r\n"), Reason::BadFraming),
        (format!("{get}{chunked}content-length: x\r\n\r\n"), Reason::BadFraming),
        (format!("{get}transfer-encoding: \u{e9}, chunked\r\n\r\n"), Reason::BadFraming),
        ("GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n".into(), Reason::BadFraming),
    ];
    for (head, want) in cases {
        let found = refused(head.as_bytes()).map(|r| r.rejection.reason);
        assert_eq!(found, Some(*want), "{head:?}");
    }
}

#[test]
fn what_hyper_takes_is_left_to_it() {
    for fields in [
        "",
        "te: trailers\r\n",
        "content-length: 5\r\n",
        "transfer-encoding: chunked\r\n",
        "Transfer-Encoding: Chunked\r\n",
    ] {
        let head = format!("GET /a HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        assert!(matches!(judge(head.as_bytes(), BOUNDS), Judged::Servable(_)), "{fields}");
        let begun = &head.as_bytes()[..head.len() - 1];
        assert!(matches!(judge(begun, BOUNDS), Judged::Partial), "{fields}");
    }
}

#[test]
fn the_log_has_what_could_be_read() {
    let head = refused(b"POST /a<b?c=d HTTP/1.1\r\nx y: z\r\n\r\n").unwrap().head;
    assert_eq!((head.method.as_str(), head.target.path()), ("POST", "/a%3Cb"));
    let head = unfinished(b"GET /a/b HTTP/1.1\r\nhost", Reason::HeaderTimeout).head;
    assert_eq!((head.method.as_str(), head.target.path()), ("GET", "/a/b"));
    let head = unfinished(b"GE", Reason::HeaderTimeout).head;
    assert_eq!((head.method.as_str(), head.target.path()), ("UNREAD", ""));
}
