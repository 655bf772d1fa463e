//! What is read without hyper, and what is left to it.

use super::{Parsed, parse};

fn kind(answer: &str) -> String {
    match parse(answer.as_bytes()) {
        Parsed::Plain { status, head_length, left, .. } => {
            let body = &answer.as_bytes()[head_length..];
            let more = if left > 0 { format!(" and {left}") } else { String::new() };
            format!("{} {}{more}", status.as_u16(), body.escape_ascii())
        }
        Parsed::Partial => "partial".to_owned(),
        Parsed::Other => "hyper".to_owned(),
    }
}

#[test]
fn only_what_leaves_nothing_to_decide_is_read_here() {
    let cases = [
        ("whole", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\r\n\r\nhi", "200 hi"),
        ("empty", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 "),
        ("no content", "HTTP/1.1 204 No Content\r\n\r\n", "204 "),
        (
            "kept alive",
            "HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nKeep-Alive: timeout=5\r\ncontent-length: 0\r\n\r\n",
            "200 ",
        ),
        ("half a head", "HTTP/1.1 200 OK\r\nContent-Le", "partial"),
        ("nothing", "", "partial"),
        ("half a body", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", "200 hi and 1"),
        (
            "huge",
            "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n",
            "200  and 9223372036854775807",
        ),
        ("too huge", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", "hyper"),
        ("bytes behind it", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nhi", "hyper"),
        ("no length", "HTTP/1.1 200 OK\r\n\r\nhi", "hyper"),
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
            "hyper",
        ),
        ("a sign", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi", "hyper"),
        ("no digits", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", "hyper"),
        ("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "hyper"),
        (
            "both",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            "hyper",
        ),
        (
            "closed after it",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "hyper",
        ),
        (
            "names a field",
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, x\r\nContent-Length: 0\r\n\r\n",
            "hyper",
        ),
        (
            "interim",
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "hyper",
        ),
        ("switch", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "hyper"),
        (
            "upgrade offered",
            "HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
            "hyper",
        ),
        ("not modified", "HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\n\r\n", "hyper"),
        ("204 with a body", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi", "hyper"),
        ("old", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "hyper"),
        ("own phrase", "HTTP/1.1 200 Fine\r\nContent-Length: 0\r\n\r\n", "hyper"),
        ("folded", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n", "hyper"),
        ("space before colon", "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n", "hyper"),
        ("not HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n", "hyper"),
    ];
    for (name, answer, want) in cases {
        assert_eq!(kind(answer), want, "{name}");
    }
    let many = "A: b\r\n".repeat(super::FIELDS + 1);
    let many = format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n");
    assert_eq!(kind(&many), "hyper", "many fields");
}
