//! What is read without hyper, and what is left to hyper.

use super::{Parsed, parse};

const MOST: usize = 4096;

fn kind(request: &str) -> String {
    match parse(request.as_bytes(), MOST) {
        Parsed::Asked(asked, length) => {
            let end = if asked.closes { ", the last" } else { "" };
            let left = if asked.left > 0 { format!("..{}", asked.left) } else { String::new() };
            let fields: Vec<_> = asked
                .head
                .fields
                .iter()
                .map(|(n, v)| format!("{}={}", n.escape_ascii(), v.escape_ascii()))
                .collect();
            let behind = request.len() - length;
            format!(
                "{} {} [{}] \"{}\"{left} +{behind}{end}",
                asked.head.method,
                asked.head.target.as_str(),
                fields.join(" "),
                asked.body.escape_ascii()
            )
        }
        Parsed::Partial => "partial".to_owned(),
        Parsed::Other => "hyper".to_owned(),
    }
}

#[test]
fn only_what_leaves_nothing_to_decide_is_read_here() {
    let cases = [
        ("plain", "GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a?b [host=h] \"\" +0"),
        ("pipelined", "GET / HTTP/1.1\r\nA: b\r\n\r\nGET / H", "GET / [a=b] \"\" +7"),
        (
            "short body",
            "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi",
            "POST / [content-length=2] \"hi\" +0",
        ),
        (
            "body and behind it",
            "PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET",
            "PUT / [content-length=2] \"hi\" +3",
        ),
        (
            "no body",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "POST / [content-length=0] \"\" +0",
        ),
        (
            "any case",
            "GET / HTTP/1.1\r\nX-ABC: D\r\nx-Abc: e\r\n\r\n",
            "GET / [x-abc=D x-abc=e] \"\" +0",
        ),
        (
            "kept",
            "GET / HTTP/1.1\r\nConnection: Keep-Alive\r\n\r\n",
            "GET / [connection=Keep-Alive] \"\" +0",
        ),
        (
            "closed",
            "GET / HTTP/1.1\r\nConnection: CLOSE\r\n\r\n",
            "GET / [connection=CLOSE] \"\" +0, the last",
        ),
        ("no Host is a matter of the gate", "GET / HTTP/1.1\r\n\r\n", "GET / [] \"\" +0"),
        ("half a head", "GET / HTTP/1.1\r\nHos", "partial"),
        ("nothing", "", "partial"),
        (
            "half a body",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nhi",
            "POST / [content-length=3] \"hi\"..1 +0",
        ),
        (
            "a body to come",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
            "POST / [content-length=3] \"\"..3 +0",
        ),
        ("trailers may be wanted", "GET / HTTP/1.1\r\nTE: trailers\r\n\r\n", "hyper"),
        ("chunked", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "hyper"),
        (
            "two framings",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "hyper",
        ),
        ("another coding", "POST / HTTP/1.1\r\ntransfer-ENCODING: gzip\r\n\r\n", "hyper"),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
            "hyper",
        ),
        ("a list of lengths", "POST / HTTP/1.1\r\nContent-Length: 0, 0\r\n\r\n", "hyper"),
        ("a sign", "POST / HTTP/1.1\r\nContent-Length: +0\r\n\r\n", "hyper"),
        ("no digits", "POST / HTTP/1.1\r\nContent-Length: \r\n\r\n", "hyper"),
        (
            "too long for a number",
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n",
            "hyper",
        ),
        (
            "wraps around",
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n",
            "hyper",
        ),
        (
            "expects",
            "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
            "hyper",
        ),
        ("upgrade", "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "hyper"),
        ("upgrade alone", "GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", "hyper"),
        ("names a field", "GET / HTTP/1.1\r\nConnection: close, x-org-id\r\n\r\n", "hyper"),
        (
            "says it twice",
            "GET / HTTP/1.1\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n",
            "GET / [connection=close connection=keep-alive] \"\" +0, the last",
        ),
        (
            "names one behind",
            "GET / HTTP/1.1\r\nConnection: close\r\nConnection: x-org-id\r\n\r\n",
            "hyper",
        ),
        ("old", "GET / HTTP/1.0\r\nHost: h\r\n\r\n", "hyper"),
        ("HEAD", "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", "hyper"),
        ("CONNECT", "CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", "hyper"),
        ("folded", "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "hyper"),
        ("space before colon", "GET / HTTP/1.1\r\nHost : h\r\n\r\n", "hyper"),
        ("no name", "GET / HTTP/1.1\r\n: h\r\n\r\n", "hyper"),
        ("NUL", "GET / HTTP/1.1\r\nA: b\0\r\n\r\n", "hyper"),
        ("bare CR", "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", "hyper"),
        ("no target", "GET  HTTP/1.1\r\n\r\n", "hyper"),
        ("not HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n", "hyper"),
    ];
    for (name, request, want) in cases {
        assert_eq!(kind(request), want, "{name}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(MOST));
    assert_eq!(kind(&long), "hyper", "a long head");
    let many = "A: b\r\n".repeat(super::FIELDS + 1);
    assert_eq!(kind(&format!("GET / HTTP/1.1\r\n{many}\r\n")), "hyper", "many fields");
}
