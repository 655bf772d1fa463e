//! Whatever our readers accept, hyper's accept too, and read the same.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(future)
}

/// Lines that belong in a head, and some that do not.
const LINES: &[&str] = &[
    "Content-Length: 5\r\n",
    "content-length: 0\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: 5, 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "transfer-encoding : chunked\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive, X-A\r\n",
    "X-A: 1\r\n",
    "X-A:2\r\n",
    "X-A: \t3 \r\n",
    " folded\r\n",
    "X-B: \u{e4}\r\n",
    "X-C: a\nX-D: b\r\n",
    "Upgrade: h2c\r\n",
    "TE: trailers\r\n",
    "Expect: 100-continue\r\n",
    "Host: a\r\n",
    ": nameless\r\n",
    "X-E\r\n",
];

/// Pieces of a body.
const PIECES: &[&str] = &[
    "hello",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\n",
    "X-Sum: 1\r\n",
    "\r\n",
    "5;a=b\r\nhello\r\n",
    "05 \r\nhello\r\n",
    "5\nhello\r\n",
    "ffffffffffffffff\r\n",
    "HTTP/1.1 200 OK\r\n\r\n",
    "a: b\n",
];

const STATUSES: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "HTTP/1.1 205 Reset Content\r\n",
    "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 Fine\r\n",
    "HTTP/1.1 200\r\n",
    "HTTP/1.1 999 What\r\n",
    "HTTP/1.1  200 OK\r\n",
    "\r\nHTTP/1.1 200 OK\r\n",
];

const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a?b=c HTTP/1.1\r\n",
    "get / HTTP/1.1\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "GET http://a/b HTTP/1.1\r\n",
    "GET /a#b HTTP/1.1\r\n",
    "GET /a?\"b\" HTTP/1.1\r\n",
    "GET /a?<b> HTTP/1.1\r\n",
    "GET / HTTP/1.0\r\n",
    "HEAD / HTTP/1.1\r\n",
    "GET  / HTTP/1.1\r\n",
    "\r\nGET / HTTP/1.1\r\n",
    "GET /\u{e4} HTTP/1.1\r\n",
];

fn message(first: &'static [&'static str]) -> impl Strategy<Value = String> {
    let lines = prop::collection::vec(select(LINES), 0..5);
    let pieces = prop::collection::vec(select(PIECES), 0..5);
    (select(first), lines, pieces).prop_map(|(first, lines, pieces)| {
        [first, &lines.concat(), "\r\n", &pieces.concat()].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn answers(text in message(STATUSES), cut in 0usize..64) {
        if let Some(ours) = our_answer(text.as_bytes(), cut) {
            prop_assert_eq!(run(hypers_answer(text.as_bytes())), Some(ours));
        }
    }

    #[test]
    fn requests(text in message(REQUESTS)) {
        if let Some(ours) = our_request(text.as_bytes()) {
            prop_assert_eq!(run(hypers_request(text.as_bytes())), Some(ours));
        }
    }

    #[test]
    fn ends(text in message(REQUESTS)) {
        if let Some((ours, bytes)) = our_span(text.as_bytes()) {
            let hypers = run(hypers_span(&bytes));
            prop_assert!(
                [HypersSpan::Whole(ours.clone()), HypersSpan::BadBody].contains(&hypers),
                "{ours:?}, but hyper {hypers:?}"
            );
        }
    }
}

/// The properties above do test something.
#[test]
fn both_take_the_usual() {
    let answer =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n";
    let ours = our_answer(answer, 3).unwrap();
    assert_eq!((&*ours.body, ours.trailers.len()), (&b"hi"[..], 1));
    assert_eq!(run(hypers_answer(answer)), Some(ours));
    let request = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let ours = our_request(request).unwrap();
    assert_eq!((&*ours.target, &*ours.body), ("/a", &b"hi"[..]));
    assert_eq!(run(hypers_request(request)), Some(ours));
    let chunked = b"POST /a?b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET";
    let (ours, bytes) = our_span(chunked).unwrap();
    assert_eq!((ours.length, &*ours.target), (chunked.len() - 3, "/a?b"));
    assert_eq!(run(hypers_span(&bytes)), HypersSpan::Whole(ours));
    let (ours, bytes) = our_span(b"HEAD /a?\"b\" HTTP/1.1\r\n\r\nGET").unwrap();
    assert_eq!((ours.length, &*ours.target), (bytes.len() - 3, "*"));
    assert_eq!(run(hypers_span(&bytes)), HypersSpan::Whole(ours));
}
