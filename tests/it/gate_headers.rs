//! ARCHITECTURE invariants 4 and 5: identity and credential headers. Each row is bytes in, an answer, bytes out.

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, Key, READER, expect_request};
use crate::support::upstream::Upstream;

/// What every request of the test's reader key gains.
const READER_IDENTITY: [&str; 5] = [
    "x-environment: live",
    "x-key-id: key_reader",
    "x-key-name: Production CRM",
    "x-org-id: acme",
    "x-permissions: read",
];

#[test]
fn an_admitted_request_arrives_with_identity_and_without_credential() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let answer = exchange(
        gate.address,
        format!(
            "POST /v1/messages?to=a%20b&x HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: {READER}\r\n\
             Content-Type: application/json\r\nX-Custom: Kept As Is\r\nContent-Length: 7\r\n\r\n{{\"a\":1}}"
        ),
    );
    assert_eq!((answer.status(), answer.body_text().as_str()), (200, "hello from upstream\n"));
    let got = upstream.only();
    expect_request(
        &got,
        "POST /v1/messages?to=a%20b&x HTTP/1.1",
        &[
            &READER_IDENTITY[..],
            &[
                "content-length: 7",
                "content-type: application/json",
                "host: api.test",
                "x-custom: Kept As Is",
                "x-forwarded-for: 127.0.0.1",
                "x-forwarded-host: api.test",
                "x-forwarded-proto: http",
            ],
        ]
        .concat(),
    );
    assert_eq!(got.body_text(), "{\"a\":1}");
    assert!(!upstream.saw(READER.as_bytes()));
}

/// oauth2-proxy CVE-2025-64484 and its family: a name that folds to one of ours is ours.
#[test]
fn no_spelling_of_an_owned_header_passes() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).top("underscores = \"allow\"").start();
    let mut spellings = Vec::new();
    for name in [
        "x-org-id",
        "x-key-id",
        "x-key-name",
        "x-permissions",
        "x-environment",
        "x-anonymous",
        "x-client-subject",
    ] {
        spellings.push(name.to_owned());
        spellings.push(name.to_uppercase());
        for other in ["_", ".", "!", "~", "*", "'", "|", "+", "^", "`", "#", "$", "%", "&"] {
            spellings.push(name.replace('-', other));
            spellings.push(name.replacen('-', other, 1).to_uppercase());
        }
    }
    for path in ["/v1/a", "/public/a", "/either/a"] {
        let key = if path == "/v1/a" { format!("x-api-key: {READER}\r\n") } else { String::new() };
        let forged: String = spellings.iter().map(|s| format!("{s}: evil-{s}\r\n")).collect();
        // In parts, to stay below the bound on fields.
        for part in forged.split_inclusive("\r\n").collect::<Vec<_>>().chunks(60) {
            let forged = part.concat();
            let answer = exchange(
                gate.address,
                format!("GET {path} HTTP/1.1\r\nhost: a\r\n{key}{forged}\r\n"),
            );
            assert_eq!(answer.status(), 200, "{path}");
            let got = upstream.only();
            let text = String::from_utf8_lossy(&got.head).to_lowercase();
            assert!(!text.contains("evil"), "{path}:\n{text}");
        }
    }
}

#[test]
fn names_with_underscore_are_refused_or_forwarded_where_configured() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).top("underscores = \"refuse\"").start();
    let request =
        format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\nx_other: 1\r\n\r\n");
    gate.refuses("underscore", &request, 400, "bad_header");

    let gate = Gate::before(&upstream).start();
    assert_eq!(exchange(gate.address, &request).status(), 200);
    assert_eq!(upstream.only().all("x_other"), Vec::<String>::new());

    let gate = Gate::before(&upstream).top("underscores = \"allow\"").start();
    assert_eq!(exchange(gate.address, &request).status(), 200);
    assert_eq!(upstream.only().all("x_other"), ["1"]);
}

/// Traefik CVE-2021-32813 and CVE-2024-45410, Fabio CVE-2025-48865.
#[test]
fn connection_may_not_name_what_is_ours() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for token in [
        "x-org-id",
        "X-Org-Id",
        "X_Org_Id",
        "x-key-id",
        "x-permissions",
        "x-api-key",
        "authorization",
        "cookie",
        "content-length",
        "transfer-encoding",
        "host",
        "x-request-id",
        "x-forwarded-for",
    ] {
        for value in
            [token.to_owned(), format!("close, {token}"), format!("keep-alive,\t{token} ,")]
        {
            let request = format!(
                "GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\nConnection: {value}\r\n\r\n"
            );
            gate.refuses(&value, request, 400, "bad_connection_header");
        }
        let two_lines = format!(
            "GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\
             Connection: keep-alive\r\nConnection: {token}\r\n\r\n"
        );
        gate.refuses(token, two_lines, 400, "bad_connection_header");
    }
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let answer = exchange(
        gate.address,
        format!(
            "GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\
             Connection: keep-alive, X-Once, x-twice\r\nX-Once: 1\r\nX-Twice: 2\r\nX-Twice: 3\r\n\
             Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic aaa\r\n\
             Proxy-Authenticate: Basic\r\nTE: trailers, deflate\r\nTrailer: x-sum\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nx-stays: 1\r\n\r\n"
        ),
    );
    assert_eq!(answer.status(), 200);
    expect_request(
        &upstream.only(),
        "GET /v1/a HTTP/1.1",
        &[
            &READER_IDENTITY[..],
            &[
                "host: a",
                "x-forwarded-for: 127.0.0.1",
                "x-forwarded-host: a",
                "x-forwarded-proto: http",
                "x-stays: 1",
            ],
        ]
        .concat(),
    );
}

#[test]
fn strangers_claims_about_address_and_target_are_dropped() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let claims = [
        "Forwarded: for=6.6.6.6;host=evil",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Host: evil",
        "X-Forwarded-Proto: evil",
        "X-Forwarded-Port: 66",
        "X-Forwarded-Prefix: /evil",
        "X-Forwarded-Uri: /evil",
        "X-Forwarded-Method: EVIL",
        "X-Forwarded-User: evil",
        "X-Forwarded-Anything-At-All: evil",
        "X-Real-IP: 6.6.6.6",
        "X-Client-IP: 6.6.6.6",
        "Client-IP: 6.6.6.6",
        "True-Client-IP: 6.6.6.6",
        "X-Forwarded: for=6.6.6.6",
        "X-Original-Forwarded-For: 6.6.6.6",
        "X-Cluster-Client-IP: 6.6.6.6",
        "X-Original-URL: /evil",
        "X-Original-URI: /evil",
        "X-Rewrite-URL: /evil",
        "X-HTTP-Method-Override: EVIL",
        "X-HTTP-Method: EVIL",
        "X-Method-Override: EVIL",
        "X-Request-Id: evil",
    ];
    for path in ["/v1/a", "/public/a", "/either/a"] {
        let key = if path == "/v1/a" { format!("x-api-key: {READER}\r\n") } else { String::new() };
        let lines = claims.join("\r\n");
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n{key}{lines}\r\n\r\n");
        assert_eq!(exchange(gate.address, request).status(), 200);
        let got = upstream.only();
        let text = String::from_utf8_lossy(&got.head).to_lowercase();
        assert!(!text.contains("evil") && !text.contains("6.6.6.6"), "{path}:\n{text}");
        assert_eq!(got.all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(got.all("x-forwarded-host"), ["a"]);
        assert_eq!(got.all("x-forwarded-proto"), ["http"]);
        assert_eq!(got.all("x-request-id").len(), 1);
    }
}

/// Envoy CVE-2026-26308 and its family: one header with one value, or a refusal.
#[test]
fn two_credentials_are_refused_whatever_they_are() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let cases = [
        ("same key twice", format!("x-api-key: {READER}\r\nx-api-key: {READER}\r\n")),
        ("good and bad", format!("x-api-key: {READER}\r\nx-api-key: wa_live_nope\r\n")),
        ("bad and good", format!("x-api-key: wa_live_nope\r\nX-API-Key: {READER}\r\n")),
        ("header and bearer", format!("x-api-key: {READER}\r\nauthorization: Bearer {READER}\r\n")),
        (
            "two bearers",
            format!("authorization: Bearer {READER}\r\nauthorization: bearer {READER}\r\n"),
        ),
        ("header and cookie", format!("x-api-key: {READER}\r\ncookie: kg_key={READER}\r\n")),
        ("two cookies", format!("cookie: kg_key={READER}; kg_key={READER}\r\n")),
        ("two cookie lines", format!("cookie: kg_key={READER}\r\ncookie: kg_key={READER}\r\n")),
    ];
    for (name, fields) in cases {
        let request = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        gate.refuses(name, request, 400, "duplicate_credential");
    }
    for (name, target) in [
        ("query twice", format!("/v1/a?api_key={READER}&api_key={READER}")),
        ("query twice, one encoded", format!("/v1/a?api_key={READER}&api%5fkey=x")),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
        gate.refuses(name, request, 400, "duplicate_credential");
    }
    let both =
        format!("GET /v1/a?api_key={READER} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    gate.refuses("header and query", both, 400, "duplicate_credential");
}

/// A list is not a key: neither part opens anything.
#[test]
fn a_list_in_one_field_is_not_a_key() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for value in [format!("{READER},{READER}"), format!("{READER}, x"), format!("x, {READER}")] {
        let request = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {value}\r\n\r\n");
        let answer = exchange(gate.address, request);
        assert!([400, 401].contains(&answer.status()), "{value}");
        assert!(upstream.take().is_empty());
    }
}

/// Apache CVE-2013-5704: trailers are never merged into the head, nor passed on.
#[test]
fn request_trailers_do_not_travel() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let answer = exchange(
        gate.address,
        format!(
            "POST /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\ntrailer: x-org-id\r\n\
             transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Org-Id: evil\r\nx-sum: evil\r\n\r\n"
        ),
    );
    assert_eq!(answer.status(), 200);
    let got = upstream.only();
    assert_eq!((got.body_text().as_str(), got.trailers.len()), ("abc", 0));
    assert_eq!(got.all("x-org-id"), ["acme"]);
    assert!(!upstream.saw(b"evil"));
}

/// Trailers cannot hold a key either: only the head is judged.
#[test]
fn a_key_in_the_trailer_opens_nothing() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let request = format!(
        "POST /v1/a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\nx-api-key: {READER}\r\n\r\n"
    );
    gate.refuses("key in trailer", request, 401, "missing_key");
}

/// HAProxy CVE-2023-25725 and other things that a field name cannot be.
#[test]
fn malformed_fields_are_refused() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for (name, line) in [
        ("empty name", ": x"),
        ("space before colon", "x-a : b"),
        ("tab before colon", "x-a\t: b"),
        ("no colon", "x-a"),
        ("obs-fold", "x-a: b\r\n c"),
        ("obs-fold with tab", "x-a: b\r\n\tc"),
        ("NUL in value", "x-a: b\0c"),
        ("NUL in name", "x-\0a: b"),
        ("bare CR in value", "x-a: b\rc"),
        ("bare CR before a forged line", "x-a: b\rx-org-id: evil"),
        ("space in name", "x a: b"),
        ("8-bit name", "x-\u{e9}: b"),
        ("bracket in name", "x[a]: b"),
        ("DEL in value", "x-a: b\x7fc"),
    ] {
        let request =
            format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n{line}\r\n\r\n");
        gate.refuses(name, request, 400, "bad_header");
    }
}

#[test]
fn no_header_is_a_free_pass() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for line in [
        "user-agent: kube-probe/1.33",
        "user-agent: GoogleHC/1.0",
        "user-agent: ELB-HealthChecker/2.0",
        "x-keygate-bypass: 1",
        "x-org-id: acme",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-uri: /public/a",
        "x-original-url: /public/a",
        "x-http-method-override: OPTIONS",
        "connection: close",
        "authorization: Basic YWRtaW46YWRtaW4=",
    ] {
        let request = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\n{line}\r\n\r\n");
        let answer = exchange(gate.address, request);
        assert_eq!(answer.status(), 401, "{line}");
        assert!(upstream.take().is_empty(), "{line}");
    }
}

/// Names are free text, but the service gets printable ASCII on one line.
#[test]
fn names_of_keys_are_encoded() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream)
        .key(
            Key::new("key_umlaut", "wa_live_Umlaut0123456789abcdefgh")
                .named("Büro 100% ✓")
                .may("read"),
        )
        .start();
    let request =
        "GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: wa_live_Umlaut0123456789abcdefgh\r\n\r\n";
    assert_eq!(exchange(gate.address, request).status(), 200);
    assert_eq!(upstream.only().one("x-key-name").unwrap(), "B%C3%BCro 100%25 %E2%9C%93");
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn traced(gate: &Gate, upstream: &Upstream, more: &str) -> (Vec<String>, Vec<String>) {
    let request = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n{more}\r\n");
    assert_eq!(exchange(gate.address, request).status(), 200, "{more}");
    let got = upstream.only();
    (got.all("traceparent"), got.all("tracestate"))
}

/// An added field would take the sampling decision from the service, so none is added, whatever the
/// client sent.
#[test]
fn a_trace_is_the_clients_and_the_services_affair() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let kept = format!("00-{TRACE}-b7ad6b7169203331-01");
    for parents in [vec![], vec![kept.as_str()], vec!["forged"], vec![&kept, &kept]] {
        for states in [vec![], vec!["a=1,b=2"], vec!["a=1", "b=2"]] {
            let lines = |name: &str, values: &[&str]| {
                values.iter().map(|v| format!("{name}: {v}\r\n")).collect::<String>()
            };
            let more = lines("traceparent", &parents) + &lines("tracestate", &states);
            let (parent, state) = traced(&gate, &upstream, &more);
            assert_eq!(
                (parent, state),
                (
                    parents.iter().map(ToString::to_string).collect(),
                    states.iter().map(ToString::to_string).collect(),
                )
            );
        }
    }
    assert!(gate.log_soon(&format!("\"trace_id\":\"{TRACE}\"")), "{}", gate.log());
    assert!(!gate.log().contains("forged"));
}

#[test]
fn a_trace_begins_here_where_the_configuration_says_so() {
    let upstream = Upstream::start();
    for (word, flags) in [("sampled", "01"), ("unsampled", "00")] {
        let gate = Gate::before(&upstream).also(&format!("[trace]\nstart = \"{word}\"")).start();
        let kept = format!("00-{TRACE}-b7ad6b7169203331-01");
        let later = format!("01-{TRACE}-b7ad6b7169203331-01-more");
        for valid in [&kept, &later] {
            let fields = format!("traceparent: {valid}\r\ntracestate: a=1\r\n");
            let (parent, state) = traced(&gate, &upstream, &fields);
            assert_eq!((parent, state), (vec![valid.clone()], vec!["a=1".into()]));
        }
        for fields in [
            String::new(),
            "tracestate: a=1\r\n".into(),
            "traceparent: forged\r\ntracestate: a=1\r\n".into(),
            format!("traceparent: {kept}\r\ntraceparent: {kept}\r\ntracestate: a=1\r\n"),
            format!("traceparent: {}\r\n", kept.replace("00-", "ff-")),
        ] {
            let (parent, state) = traced(&gate, &upstream, &fields);
            let [begun] = parent.as_slice() else { panic!("{parent:?}") };
            assert!(state.is_empty(), "{fields}: {state:?}");
            let parts: Vec<_> = begun.split('-').collect();
            let hex = |p: &str| p.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            let lengths = parts.iter().map(|p| p.len()).collect::<Vec<_>>();
            assert_eq!(lengths, [2, 32, 16, 2], "{begun}");
            assert!(parts.iter().all(|p| hex(p)) && parts[3] == flags, "{begun}");
            assert_ne!(parts[1], TRACE);
            let logged = format!("\"trace_id\":\"{}\"", parts[1]);
            assert!(gate.log_soon(&logged), "{logged}: {}", gate.log());
        }
    }
}

/// Fail closed: without a table nothing is forwarded, not even on a key's route with a good key.
#[test]
fn without_a_table_nothing_passes() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).without_table().start_unready();
    let request = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    gate.refuses("no table", request, 503, "unavailable");
    assert_eq!(upstream.connections(), 0);
}

/// Fields that the service sends for its own hop do not reach the client.
#[test]
fn hop_by_hop_fields_of_the_answer_are_removed() {
    let upstream = Upstream::answering(|_| {
        crate::support::upstream::answer(
            "200 OK",
            "connection: x-inner, keep-alive\r\nx-inner: 1\r\nkeep-alive: timeout=5\r\n\
             proxy-connection: x\r\nupgrade: h2c\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx-out: 1\r\n",
            "body",
        )
    });
    let gate = Gate::before(&upstream).start();
    let mut client = Client::connect(gate.address);
    client.send(format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n"));
    let got = client.response();
    assert_eq!(got.status(), 200);
    assert_eq!(got.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(got.all("x-out"), ["1"]);
    for name in ["x-inner", "keep-alive", "proxy-connection", "upgrade"] {
        assert!(got.all(name).is_empty(), "{name}");
    }
}
