//! ARCHITECTURE invariant 6: path and method confusion. keygate sends what it has judged, or
//! nothing.

use crate::support::client::exchange;
use crate::support::gate::{Gate, READER};
use crate::support::h2raw::{self, H2};
use crate::support::upstream::Upstream;

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n")
}

/// Envoy CVE-2019-9901, CVE-2021-29492, CVE-2026-73551; APISIX CVE-2021-43557; Tomcat's `..;`.
#[test]
fn what_an_upstream_could_read_otherwise_is_refused() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for path in [
        "/v1/../admin",
        "/v1/./a",
        "/v1/..",
        "/v1/.",
        "/public/../v1/a",
        "/v1/%2e%2e/admin",
        "/v1/.%2e/admin",
        "/v1/%2E/a",
        "/v1//a",
        "//v1/a",
        "/v1/a//",
        "/v1%2Fa",
        "/v1/a%2fb",
        "/v1/..%2fadmin",
        "/v1/%5C..%5Cadmin",
        "/v1/a%5cb",
        "/v1/a\\b",
        "/v1/..\\admin",
        "/v1/a%00",
        "/v1/a%00.json",
        "/v1/a%0d%0ax-org-id:%20evil",
        "/v1/a%09",
        "/v1/a%7f",
        "/v1/a%",
        "/v1/a%2",
        "/v1/a%zz",
        "/v1/a%u002e",
        "/v1/%c0%ae%c0%ae/admin",
        "/v1/%e0%80%ae/a",
        "/v1/%ff",
        "/v1/%252e%252e/admin",
        "/v1/a%252fb",
        "/v1/a%25%32%66b",
        "/v1/..;/admin",
        "/v1/.;/a",
        "/v1/..;x=y/admin",
        "/v1/a;b=c",
        "/v1;x/a",
        "/%76%31/a",
        "/v1/%61",
    ] {
        gate.refuses(path, get(path), 400, "bad_path");
    }
    // Bytes that no request target may have: whoever answers, the status is 400 and nothing is
    // sent.
    for path in ["/v1/a\x01b", "/v1/a\x7fb", "/v1/caf\u{e9}", "/v1/a b", "/v1/a\tb"] {
        gate.refuses_bytes(path, get(path).as_bytes(), 400);
    }
}

#[test]
fn what_was_judged_is_sent_byte_for_byte() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for target in [
        "/v1/a",
        "/v1/a/",
        "/v1/A%20B",
        "/v1/caf%C3%A9",
        "/v1/caf%c3%a9",
        "/v1/a.b..c/...",
        "/v1/a:b@c,d=e+f&g$h!i'(j)*k~l-m_n",
        "/v1/100%25",
        "/v1/a?",
        "/v1/a??",
        "/v1/a?b=/../c&d=%2F%00&e=;..%5C//",
        "/v1/a?b=c?d=e",
        "/v1/a?q=%zz&%",
    ] {
        let answer = exchange(gate.address, get(target));
        assert_eq!(answer.status(), 200, "{target}: {}", answer.body_text());
        assert_eq!(upstream.only().first_line(), format!("GET {target} HTTP/1.1"));
    }
}

/// A fragment has no place in a request. hyper drops it before anything is judged. Then the judged
/// and the sent target are still the same.
#[test]
fn a_fragment_never_travels() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for target in ["/v1/a#frag", "/v1/a?q#/../admin", "/v1/a#/../../admin"] {
        let answer = exchange(gate.address, get(target));
        match answer.status() {
            400 => assert!(upstream.take().is_empty()),
            200 => {
                let sent = upstream.only().first_line();
                let judged = target.split('#').next().unwrap();
                assert_eq!(sent, format!("GET {judged} HTTP/1.1"));
            }
            other => panic!("{target}: {other}"),
        }
    }
    // A fragment cannot lead to another rule.
    let hidden = "GET /admin/x#/../v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: ";
    let answer = exchange(gate.address, format!("{hidden}{READER}\r\n\r\n"));
    assert!([400, 403].contains(&answer.status()));
    assert!(upstream.take().is_empty());
}

/// A target without a path is judged as `/`, so it is sent as `/` (found by fuzzing: the service
/// got a request line without a target). A target with a fragment is invalid.
#[test]
fn an_empty_path_is_sent_as_a_slash() {
    let upstream = Upstream::start();
    let rules = "[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n\
                 [[routes]]\npath = \"/*\"\npermissions = [\"read\"]\n";
    let gate = Gate::before(&upstream).rules(rules).start();
    for target in ["http://a", "http://a?", "http://a/"] {
        assert_eq!(exchange(gate.address, get(target)).status(), 200, "{target}");
        let sent = upstream.only().first_line();
        assert!(["GET / HTTP/1.1", "GET /? HTTP/1.1"].contains(&&*sent), "{target}: {sent}");
    }
    for target in ["http://a#b", "http://a?#b", "http://a/#b", "#b", "/#", "/?#b"] {
        gate.refuses(target, get(target), 400, "bad_target");
    }
    let answer = H2::connect(gate.address).exchange(1, &h2raw::get("#b", READER));
    for sent in upstream.take() {
        assert_eq!((answer.status, &*sent.first_line()), (Some(200), "GET / HTTP/1.1"));
    }
}

#[test]
fn routes_can_allow_what_their_service_means() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for path in ["/loose/a%2Fb", "/loose/a;v=1", "/loose/a%252e"] {
        assert_eq!(exchange(gate.address, get(path)).status(), 200, "{path}");
        assert_eq!(upstream.only().first_line(), format!("GET {path} HTTP/1.1"));
    }
    for path in ["/loose/..;/a", "/loose/..%2fadmin", "/loose/.;/a", "/loose/a%5cb", "/loose/a%00"]
    {
        gate.refuses(path, get(path), 400, "bad_path");
    }
}

#[test]
fn no_rule_no_entry() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for path in ["/", "/v2/a", "/V1/a", "/v1x/a", "/v1", "/Public/a", "/v1.0/a", "/admin"] {
        let answer = exchange(gate.address, get(path));
        let allowed_by_pattern = path == "/v1" || path == "/admin";
        match answer.status() {
            // `/v1/*` covers `/v1` itself, `/admin/*` covers `/admin` (which needs more).
            200 if path == "/v1" => drop(upstream.only()),
            403 => assert!(path == "/admin" || !allowed_by_pattern, "{path}"),
            other => panic!("{path}: {other}"),
        }
        assert!(upstream.take().is_empty(), "{path}");
    }
}

#[test]
fn a_permission_opens_its_routes_only() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let answer = gate.refuses("needs manage", get("/admin/users"), 403, "insufficient_permission");
    let challenge = answer.one("www-authenticate").unwrap_or_default();
    assert!(answer.body_text().contains("manage"), "{}", answer.body_text());
    assert!(challenge.contains("insufficient_scope"), "{challenge}");
}

/// CONNECT, TRACE and TRACK never pass. For a method without a rule, the answer lists the methods
/// that have one.
#[test]
fn methods() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for method in ["TRACE", "TRACK", "DELETE", "PURGE", "get", "Get", "M-SEARCH"] {
        let request = format!("{method} /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
        gate.refuses(method, request, 405, "method_not_allowed");
    }
    // Also where a rule accepts every method. A service that ignores case would see another one.
    for method in ["TRACE", "TRACK", "delete", "dELETE", "Get", "trace", "Track", "propfind"] {
        let request = format!("{method} /public/a HTTP/1.1\r\nhost: a\r\n\r\n");
        gate.refuses(method, request, 405, "method_not_allowed");
    }
    // What a rule could allow, and what none can, are two reasons.
    let reasons = |gate: &Gate, word: &str| {
        gate.log().matches(&format!("\"verdict\":\"rejected\",\"reason\":\"{word}\"")).count()
    };
    gate.process.eventually("the log", || reasons(&gate, "bad_method") == 12);
    assert_eq!(reasons(&gate, "method"), 3);
    let delete = format!("DELETE /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    let allow = exchange(gate.address, delete).one("allow").expect("Allow");
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    for target in ["a:443", "evil.test:80", "/v1/a"] {
        let request =
            format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nx-api-key: {READER}\r\n\r\n");
        let answer = exchange(gate.address, request);
        assert!([400, 405].contains(&answer.status()), "CONNECT {target}");
        assert!(upstream.take().is_empty());
    }
}

/// The target never chooses the upstream, and never names another host than Host does.
#[test]
fn forms_of_the_target() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for target in [
        "*",
        "a",
        "*x",
        "v1/a",
        "a/v1/a",
        "http://evil.test/v1/a",
        "http://a@evil.test/v1/a",
        "https://evil.test:1/v1/a",
        "http:///v1/a",
        "//evil.test/v1/a",
        "ftp://a/v1/a",
        "?a",
        "",
    ] {
        gate.refuses_bytes(target, get(target).as_bytes(), 400);
    }
    // Without a path it is the root (RFC 9112 §3.2.2), which has no rule.
    gate.refuses_bytes("http://a", get("http://a").as_bytes(), 403);
    // Absolute form that agrees with Host: refused, or forwarded in origin form.
    let answer = exchange(gate.address, get("http://a/v1/a?q"));
    match answer.status() {
        400 => assert!(upstream.take().is_empty()),
        200 => {
            let got = upstream.only();
            assert_eq!(got.first_line(), "GET /v1/a?q HTTP/1.1");
            assert_eq!(got.all("host"), ["a"]);
        }
        other => panic!("absolute form: {other}"),
    }
    let options = format!("OPTIONS * HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    gate.refuses_bytes("OPTIONS *", options.as_bytes(), 400);
}

/// hyper accepts no Host and two Hosts (hyperium/hyper#3777). The service must not have to choose.
#[test]
fn host() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    for (name, fields) in [
        ("none", ""),
        ("two equal", "host: a\r\nhost: a\r\n"),
        ("two different", "host: a\r\nhost: b\r\n"),
        ("two spellings", "Host: a\r\nhOST: a\r\n"),
        ("list", "host: a, b\r\n"),
        ("space", "host: a b\r\n"),
        ("user", "host: me@a\r\n"),
        ("path", "host: a/b\r\n"),
        ("query", "host: a?b\r\n"),
        ("fragment", "host: a#b\r\n"),
        ("bad port", "host: a:port\r\n"),
        ("port too high", "host: a:65536\r\n"),
        ("backslash", "host: a\\b\r\n"),
        ("empty", "host:\r\n"),
    ] {
        let request = format!("GET /v1/a HTTP/1.1\r\n{fields}x-api-key: {READER}\r\n\r\n");
        gate.refuses(name, request, 400, "bad_host");
    }
    for host in ["a", "A.Test", "a:8080", "127.0.0.1", "[::1]:80", "a-b.c_d"] {
        let request = format!("GET /v1/a HTTP/1.1\r\nHost: {host}\r\nx-api-key: {READER}\r\n\r\n");
        assert_eq!(exchange(gate.address, request).status(), 200, "{host}");
        assert_eq!(upstream.only().all("host"), [host]);
    }
}

/// One preflight option per route, and only for real preflights.
#[test]
fn cors_preflight_is_an_option() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let preflight = |path: &str, fields: &str| {
        format!("OPTIONS {path} HTTP/1.1\r\nhost: a\r\nx-org-id: evil\r\n{fields}\r\n")
    };
    let real = "origin: https://app.test\r\naccess-control-request-method: POST\r\n";
    let answer = exchange(gate.address, preflight("/browser/a", real));
    assert_eq!(answer.status(), 200);
    assert!(upstream.only().all("x-org-id").is_empty());
    for (name, path, fields) in [
        ("no option", "/v1/a", real),
        ("no origin", "/browser/a", "access-control-request-method: POST\r\n"),
        ("no method", "/browser/a", "origin: https://app.test\r\n"),
        (
            "method without rule",
            "/browser/a",
            "origin: https://a\r\naccess-control-request-method: BREW\r\n",
        ),
    ] {
        let answer = exchange(gate.address, preflight(path, fields));
        assert!([401, 405].contains(&answer.status()), "{name}: {}", answer.status());
        assert!(upstream.take().is_empty(), "{name}");
    }
}
