//! ARCHITECTURE invariants 5 and 8: no secret in a log, a metric, an error body or `/status`; nothing from a client
//! unbounded in any of them.

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, Key, MANAGER, READER};
use crate::support::upstream::Upstream;

#[test]
fn nothing_secret_is_written_anywhere() {
    let upstream = Upstream::start();
    let pair_secret = "pair-secret-0123456789-abcdefghij";
    let gate = Gate::before(&upstream)
        .top("trusted_proxies = [\"127.0.0.0/8\"]")
        .key(Key::new("key_pair", pair_secret).with("public_id = \"pub-1\""))
        .start();
    let unknown = "wa_unknown_But_Somebodys_0123456789";
    let basic = "d2FfbGl2ZV9CYXNpY1NlY3JldDAxMjM0NTY3ODk6";
    let requests = [
        format!("GET /v1/a?api_key={READER}&token=q-secret-1 HTTP/1.1\r\nhost: a\r\n\r\n"),
        format!("GET /v1/a?api_key={unknown} HTTP/1.1\r\nhost: a\r\n\r\n"),
        format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n"),
        format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {unknown}\r\n\r\n"),
        format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {unknown}\0\r\n\r\n"),
        format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {MANAGER}\r\n\r\n"),
        format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nauthorization: Basic {basic}\r\n\r\n"),
        format!(
            "GET /v1/a HTTP/1.1\r\nhost: a\r\ncookie: kg_key={READER}; session=c-secret-1\r\n\r\n"
        ),
        format!("GET /v1//a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n"),
        format!("GET /v1/a HTTP/1.1\r\nx-api-key: {READER}\r\n\r\n"),
        format!(
            "GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\nx-api-key: {MANAGER}\r\n\r\n"
        ),
        format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-id: pub-1\r\nx-secret: {pair_secret}\r\n\r\n"),
        "GET /either/a HTTP/1.1\r\nhost: a\r\nauthorization: Bearer eyJ-user-token\r\n\r\n"
            .to_owned(),
        format!(
            "POST /small/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\ncontent-length: 50\r\n\r\n"
        ),
        format!("{READER} / HTTP/1.1\r\n\r\n"),
        format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key {READER}\r\n\r\n"),
    ];
    let mut written = String::new();
    for request in &requests {
        let answer = Client::connect(gate.address).send(request).try_response(false).unwrap();
        if let Some(answer) = answer {
            written += &String::from_utf8_lossy(&answer.head);
            written += &answer.body_text();
        }
    }
    upstream.take();
    assert!(gate.log_soon("/either/a"), "{}", gate.log());
    written += &gate.log();
    written += &gate.metrics();
    written += &gate.probe("/status").body_text();
    for secret in [
        &READER[8..],
        &MANAGER[3..],
        &pair_secret[5..],
        &unknown[3..],
        basic,
        "q-secret-1",
        "c-secret-1",
        "eyJ-user-token",
        &crate::support::gate::digest(READER)[7..],
    ] {
        assert!(!written.contains(secret), "`{secret}` was written");
    }
}

/// CVE-2022-21698 and its family: a client cannot create series.
#[test]
fn labels_are_bounded() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    exchange(gate.address, format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n"));
    exchange(gate.address, "GET /v1/a HTTP/1.1\r\nhost: a\r\n\r\n");
    exchange(gate.address, "BREW-0 /nowhere HTTP/1.1\r\nhost: a\r\n\r\n");
    let names = |text: &str| -> std::collections::BTreeSet<String> {
        text.lines()
            .filter(|l| !l.starts_with('#'))
            .filter_map(|l| l.rsplit_once(' ').map(|(name, _)| name.to_owned()))
            .collect()
    };
    let before = names(&gate.metrics());
    for n in 0..50 {
        let host = format!("host-{n}.evil.test");
        for request in [
            format!("GET /v1/path-{n} HTTP/1.1\r\nhost: {host}\r\nx-api-key: {READER}\r\n\r\n"),
            format!("GET /nowhere/path-{n} HTTP/1.1\r\nhost: {host}\r\n\r\n"),
            format!("BREW-{n} /nowhere HTTP/1.1\r\nhost: {host}\r\n\r\n"),
            format!(
                "GET /v1/a HTTP/1.1\r\nhost: {host}\r\nx-api-key: wa_unknown-{n}\r\nuser-agent: ua-{n}\r\n\r\n"
            ),
        ] {
            exchange(gate.address, request);
        }
    }
    let text = gate.metrics();
    let new: Vec<_> = names(&text).difference(&before).cloned().collect();
    assert!(new.len() < 20, "{} new series: {new:#?}", new.len());
    for word in ["path-", "evil", "BREW", "ua-", "wa_"] {
        assert!(!text.contains(word), "`{word}` in a metric");
    }
}

/// One request, one line, whatever bytes it contained.
#[test]
fn log_lines_cannot_be_forged() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let evil = [
        "GET /v1/%0a%7B%22status%22:200%7D HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        "GET /v1/\"},{\"forged\":\"1 HTTP/1.1\r\nhost: a\r\n\r\n".into(),
        format!("GET /v1/\"forged\" HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n"),
        "GET /v1/a HTTP/1.1\r\nhost: a\r\nx-request-id: forged\"}\r\nuser-agent: \x1b[31mforged\r\n\r\n".into(),
        "FORGED\"} /v1/a HTTP/1.1\r\nhost: a\r\n\r\n".into(),
        "GET /last-of-them HTTP/1.1\r\nhost: a\r\n\r\n".into(),
    ];
    for request in &evil {
        let _ = Client::connect(gate.address).send(request).try_response(false);
    }
    assert!(gate.log_soon("last-of-them"), "{}", gate.log());
    for line in gate.log().lines() {
        let value: serde_json::Value = serde_json::from_str(line)
            .unwrap_or_else(|e| panic!("not one JSON object: {e}: {line}"));
        assert!(value.get("forged").is_none(), "{line}");
        assert!(!line.contains('\x1b'), "{line:?}");
    }
}

#[test]
fn an_access_line_tells_what_happened() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let ok = format!(
        "POST /v1/told?secret=1 HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\ncontent-length: 3\r\n\r\nabc"
    );
    assert_eq!(exchange(gate.address, ok).status(), 200);
    let id = upstream.only().one("x-request-id").unwrap();
    assert!(gate.log_soon("/v1/told"), "{}", gate.log());
    let log = gate.log();
    let line = log.lines().find(|l| l.contains("/v1/told")).unwrap();
    let said: serde_json::Value = serde_json::from_str(line).unwrap();
    let text = said.to_string();
    for (what, needle) in [
        ("request id", id.as_str()),
        ("method", "\"POST\""),
        ("path without query", "\"/v1/told\""),
        ("status", "200"),
        ("key id", "\"key_reader\""),
        ("org", "\"acme\""),
        ("route", "\"v1\""),
        ("client", "127.0.0.1"),
    ] {
        assert!(text.contains(needle), "{what} is missing in {line}");
    }
    assert!(said.as_object().unwrap().keys().any(|k| k.contains("serial")), "{line}");
    assert!(!line.contains("secret"), "{line}");
}
