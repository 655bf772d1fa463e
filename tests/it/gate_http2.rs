//! RFC 9113 sections 8.2, 8.3 and 10.3: pseudo-fields, names and values that HTTP/1 cannot carry,
//! and lengths that contradict the frames. The bytes are from `py/h2_probe.py`, which
//! `make conformance` also sends to nginx and HAProxy. (Floods: `proto_h2.rs`.)

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::gate::{Gate, READER, expect_request};
use crate::support::h2raw::{END_STREAM, H2};
use crate::support::h2upstream::{Http2Upstream, Reply};
use crate::support::tools;
use crate::support::upstream::{Step, Upstream, answer};

fn probe(gate: &Gate, cases: &[Value]) -> Vec<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/py/h2_probe.py");
    let mut python = tools::python();
    python.arg(script).arg(gate.address.to_string());
    let mut child =
        python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(json!(cases).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The fields of a good request, followed by `more`.
fn good(path: &str, more: &[(&str, &str)]) -> Value {
    let mut fields = vec![
        json!([":method", "GET"]),
        json!([":scheme", "http"]),
        json!([":authority", "api.test"]),
        json!([":path", path]),
        json!(["x-api-key", READER]),
    ];
    fields.extend(more.iter().map(|(n, v)| json!([n, v])));
    json!({ "headers": fields })
}

/// A good request with the fields replaced by `fields`.
fn exactly(fields: &[(&str, &str)]) -> Value {
    json!({ "headers": fields })
}

fn with_body(mut case: Value, body: &[&str]) -> Value {
    case["headers"][0] = json!([":method", "POST"]);
    case["body"] = json!(body);
    case
}

#[test]
fn an_http2_request_arrives_as_http11() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let answers = probe(&gate, &[good("/v1/a?b=c", &[("x-custom", "Kept"), ("te", "trailers")])]);
    assert_eq!(answers[0]["status"], 200, "{}", answers[0]);
    assert_eq!(answers[0]["body"], "hello from upstream\n");
    expect_request(
        &upstream.only(),
        "GET /v1/a?b=c HTTP/1.1",
        &[
            "host: api.test",
            "x-custom: Kept",
            "x-environment: live",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: api.test",
            "x-forwarded-proto: http",
            "x-key-id: key_reader",
            "x-key-name: Production CRM",
            "x-org-id: acme",
            "x-permissions: read",
        ],
    );
}

/// A value that never recurs would displace others from the client's table, and from ours.
#[test]
fn what_no_other_answer_says_is_not_indexed() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let refused = exactly(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "api.test"),
        (":path", "/v1/a"),
        ("x-api-key", "wa_nothing0123456789"),
    ]);
    for answer in probe(&gate, &[good("/v1/a", &[]), refused]) {
        assert_eq!(answer["never_indexed"], json!(["x-request-id"]), "{answer}");
    }
}

#[test]
fn what_http1_cannot_carry_is_refused() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let base = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "api.test"),
        (":path", "/v1/a"),
        ("x-api-key", READER),
    ];
    let without = |name: &str| -> Value {
        exactly(&base.iter().copied().filter(|(n, _)| *n != name).collect::<Vec<_>>())
    };
    let instead = |name: &str, value: &str| -> Value {
        exactly(&base.map(|(n, v)| (n, if n == name { value } else { v })))
    };
    let mut cases = vec![
        ("trailing space in a name", good("/v1/a", &[("x-org-id ", "evil")])),
        ("upper-case name", good("/v1/a", &[("X-Org-Id", "evil")])),
        ("colon in a name", good("/v1/a", &[("x-a:b", "c")])),
        ("CR LF in a name", good("/v1/a", &[("x-a\r\nx-org-id", "evil")])),
        ("CR LF in a value", good("/v1/a", &[("x-a", "b\r\nx-org-id: evil")])),
        ("LF in a value", good("/v1/a", &[("x-a", "b\nx-org-id: evil")])),
        ("NUL in a value", good("/v1/a", &[("x-a", "b\0c")])),
        ("empty name", good("/v1/a", &[("", "b")])),
        ("space before a value", good("/v1/a", &[("x-a", " b")])),
        ("tab behind a value", good("/v1/a", &[("x-a", "b\t")])),
        ("a value of one space", good("/v1/a", &[("x-a", " ")])),
        ("underscore alias", good("/v1/a", &[("x_api_key", READER)])),
        ("pseudo-field behind a field", good("/v1/a", &[(":path", "/admin/a")])),
        ("unknown pseudo-field", good("/v1/a", &[(":evil", "1")])),
        ("connection", good("/v1/a", &[("connection", "x-org-id")])),
        ("transfer-encoding", good("/v1/a", &[("transfer-encoding", "chunked")])),
        ("upgrade", good("/v1/a", &[("upgrade", "websocket")])),
        ("keep-alive", good("/v1/a", &[("keep-alive", "1")])),
        ("proxy-connection", good("/v1/a", &[("proxy-connection", "close")])),
        ("te other than trailers", good("/v1/a", &[("te", "gzip")])),
        ("another host", good("/v1/a", &[("host", "evil.test")])),
        ("two hosts", good("/v1/a", &[("host", "api.test"), ("host", "evil.test")])),
        ("two keys", good("/v1/a", &[("x-api-key", READER)])),
        ("no method", without(":method")),
        ("no path", without(":path")),
        ("no authority and no host", without(":authority")),
        ("method twice", exactly(&[&[(":method", "GET")][..], &base].concat())),
        ("path twice", exactly(&[&[(":path", "/admin/a")][..], &base].concat())),
        ("authority twice", exactly(&[&[(":authority", "evil.test")][..], &base].concat())),
        ("CR LF in the path", instead(":path", "/v1/a HTTP/1.1\r\nx-org-id: evil\r\nx: ")),
        ("space in the path", instead(":path", "/v1/a b")),
        ("CR LF in the method", instead(":method", "GET /admin HTTP/1.1\r\nx: ")),
        ("CR LF in the authority", instead(":authority", "a\r\nx-org-id: evil")),
        ("user in the authority", instead(":authority", "evil@api.test")),
        ("empty path", instead(":path", "")),
        ("path without slash", instead(":path", "v1/a")),
        ("asterisk", instead(":path", "*")),
        ("absolute path", instead(":path", "http://evil.test/v1/a")),
        ("dot segments", instead(":path", "/v1/../admin/a")),
        ("double slash", instead(":path", "/v1//a")),
        ("TRACE", instead(":method", "TRACE")),
        (
            "CONNECT",
            exactly(&[
                (":method", "CONNECT"),
                (":authority", "evil.test:80"),
                ("x-api-key", READER),
            ]),
        ),
        (
            "extended CONNECT of something",
            exactly(
                &[&[(":method", "CONNECT"), (":protocol", "connect-udp")][..], &base[1..]].concat(),
            ),
        ),
    ];
    cases.push((
        "length above the data",
        with_body(good("/v1/a", &[("content-length", "5")]), &["abc"]),
    ));
    cases.push((
        "length below the data",
        with_body(good("/v1/a", &[("content-length", "2")]), &["abc"]),
    ));
    cases.push((
        "length that is none",
        with_body(good("/v1/a", &[("content-length", "+3")]), &["abc"]),
    ));
    cases.push((
        "two lengths",
        with_body(good("/v1/a", &[("content-length", "3"), ("content-length", "4")]), &["abc"]),
    ));
    let requests: Vec<_> = cases.iter().map(|(_, case)| case.clone()).collect();
    for ((name, _), got) in cases.iter().zip(probe(&gate, &requests)) {
        let status = got["status"].as_u64();
        let refused = match status {
            Some(status) => [400, 405, 417, 502].contains(&status),
            None => {
                ["reset", "goaway", "closed"].contains(&got["end"].as_str().unwrap_or_default())
            }
        };
        assert!(refused, "{name}: {got}");
    }
    // A body that contradicts its length may have begun, but it never became complete.
    assert!(upstream.take().iter().all(|r| !r.complete && r.first_line().starts_with("POST ")));
    for word in ["evil", "/admin"] {
        assert!(!upstream.saw(word.as_bytes()), "`{word}` reached the upstream");
    }
}

/// Refusals are the same as over HTTP/1.1, and the connection continues.
#[test]
fn refusals_over_http2() {
    let upstream = Upstream::answering(|_| answer("200 OK", "x-a: 1\r\n", "body"));
    let gate = Gate::before(&upstream).start();
    let no_key = exactly(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/v1/a"),
    ]);
    let mut grpc = good("/admin/a", &[("content-type", "application/grpc")]);
    grpc["headers"][0] = json!([":method", "POST"]);
    let got = probe(&gate, &[no_key, good("/admin/a", &[]), grpc]);
    assert_eq!((&got[0]["status"], &got[0]["end"]), (&json!(401), &json!("done")));
    assert!(got[0]["body"].as_str().unwrap().contains("missing_key"));
    assert_eq!(got[1]["status"], 403);
    // gRPC: trailers-only, PERMISSION_DENIED.
    assert_eq!(got[2]["status"], 200, "{}", got[2]);
    let field = |name: &str| {
        got[2]["headers"].as_array().unwrap().iter().find(|f| f[0] == name).map(|f| f[1].clone())
    };
    assert_eq!(field("grpc-status"), Some(json!("7")));
    assert!(field("grpc-message").is_some_and(|m| m.as_str().unwrap().contains("manage")));
    assert!(upstream.take().is_empty());
}

/// RFC 9113 section 8.2.1. HTTP/1.1 trims a value, so an upstream would read a key for keygate
/// where keygate saw an unknown scheme. On a route that needs no key, it got through.
#[test]
fn a_padded_key_does_not_reach_the_upstream() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let padded = [
        ("authorization", format!(" Bearer {READER}")),
        ("authorization", format!("\tBearer {READER}")),
        ("authorization", format!("Bearer {READER} ")),
        ("x-api-key", format!(" {READER}")),
        ("cookie", format!(" kg_key={READER}")),
    ];
    let mut cases = Vec::new();
    for path in ["/either/a", "/public/a", "/watched/a", "/v1/a"] {
        for (name, value) in &padded {
            cases.push(exactly(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "a"),
                (":path", path),
                (*name, value.as_str()),
            ]));
        }
    }
    for (case, got) in cases.iter().zip(probe(&gate, &cases)) {
        assert_eq!(got["status"], 400, "{case}: {got}");
        assert!(got["body"].as_str().unwrap().contains("bad_header"), "{case}: {got}");
    }
    assert!(upstream.take().is_empty());
}

/// The client chooses the content type: it must not lift the deadlines of a request that cannot be
/// gRPC. Otherwise anybody could hold every connection to an HTTP/1.1 service with a few bytes.
#[test]
fn claiming_to_be_grpc_does_not_lift_the_deadlines() {
    let upstream = Upstream::answering(|_| vec![Step::Drain]);
    let limits = "[timeouts]\nbody = \"300ms\"\nfirst_byte = \"300ms\"\n";
    let gate = Gate::before(&upstream).also(limits).start();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/public/a"),
        (":authority", "a"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut h2 = H2::connect(gate.address);
    h2.headers(1, 0, &fields);
    h2.data(1, 0, b"x");
    let answer = h2.answer_within(1, Duration::from_secs(5));
    assert_eq!((answer.status, answer.header_blocks), (Some(200), 1), "trailers-only: {answer:?}");
    assert!(upstream.wait_closed(1, Duration::from_secs(5)), "the connection is held");
    assert!(gate.log_soon("\"body_timeout\""), "{}", gate.log());
}

/// A stream to a gRPC service may be silent for as long as it likes. Once the client has finished,
/// the time for the answer counts as for all others.
#[test]
fn an_answer_to_grpc_is_waited_for_from_the_end_of_the_request() {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = std::sync::Mutex::new(ended);
    let upstream = Http2Upstream::answering(move |_| {
        let _ = ended.lock().unwrap().recv_timeout(Duration::from_secs(30));
        Reply::ok("late")
    });
    let limits = "[timeouts]\nbody = \"300ms\"\nfirst_byte = \"500ms\"\n";
    let gate = Gate::before_url(&upstream.url()).also(limits).start();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/public/a"),
        (":authority", "a"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut h2 = H2::connect(gate.address);
    h2.headers(1, 0, &fields);
    h2.data(1, 0, b"x");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!gate.log().contains("upstream_timeout"), "{}", gate.log());
    h2.data(1, END_STREAM, b"y");
    let answer = h2.answer_within(1, Duration::from_secs(10));
    assert_eq!((answer.status, answer.header_blocks), (Some(200), 1), "trailers-only: {answer:?}");
    assert!(gate.log_soon("\"upstream_timeout\""), "{}", gate.log());
    let _ = end.send(());
}
