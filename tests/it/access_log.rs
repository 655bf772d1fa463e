//! What the access log of the real program shows for a request: optional fields, time spent on
//! connecting, and what only a trusted hop may state.

use std::net::{TcpListener, TcpStream};

use crate::support::client::{PATIENCE, exchange};
use crate::support::gate::{Gate, READER, keygate};
use crate::support::process::Process;
use crate::support::upstream::Upstream;

/// The line of the request to `path`.
fn line_of(gate: &Gate, path: &str) -> serde_json::Value {
    let word = format!("\"path\":\"{path}\"");
    gate.process.eventually("the access line", || gate.log().contains(&word));
    let log = gate.log();
    let line = log.lines().find(|line| line.contains(&word)).unwrap();
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

#[test]
fn host_and_user_agent_are_there_by_choice_bounded_and_escaped() {
    let upstream = Upstream::start();
    let long = "a".repeat(1000);
    let ask = |gate: &Gate, path: &str, agent: &str| {
        let bytes = format!(
            "GET {path} HTTP/1.1\r\nhost: api.example:81\r\nx-api-key: {READER}\r\n\
             user-agent: {agent}\r\n\r\n"
        );
        exchange(gate.address, bytes).status()
    };
    let plain = Gate::before(&upstream).start();
    assert_eq!(ask(&plain, "/v1/plain", "curl/8"), 200);
    let line = line_of(&plain, "/v1/plain");
    assert!(line.get("host").is_none() && line.get("user_agent").is_none(), "{line}");
    let chosen = "[log]\nfields = [\"host\", \"user_agent\"]\n";
    let gate = Gate::before(&upstream).also(chosen).start();
    assert_eq!(ask(&gate, "/v1/short", "curl/8 \"x\\"), 200);
    let line = line_of(&gate, "/v1/short");
    assert_eq!(
        (&line["host"], &line["user_agent"]),
        (&"api.example:81".into(), &"curl/8 \"x\\".into())
    );
    assert_eq!(ask(&gate, "/v1/long", &long), 200);
    assert_eq!(line_of(&gate, "/v1/long")["user_agent"].as_str().unwrap().len(), 256);
    // A refusal also has them.
    assert_eq!(ask(&gate, "/nowhere", "curl/8"), 403);
    assert_eq!(line_of(&gate, "/nowhere")["user_agent"], "curl/8");
}

/// A field that a source reads may hold a key: it is never a field of the log.
#[test]
fn a_carrier_is_not_logged_by_choice() {
    let upstream = Upstream::start();
    let rules = "[[credentials]]\nsource = \"header\"\nname = \"user-agent\"\n\
                 [[routes]]\npath = \"/*\"\n[log]\nfields = [\"user_agent\"]\n";
    let gate = Gate::before(&upstream).rules(rules).start();
    let bytes = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nuser-agent: {READER}\r\n\r\n");
    assert_eq!(exchange(gate.address, bytes).status(), 200);
    assert!(line_of(&gate, "/v1/a").get("user_agent").is_none());
    assert!(!gate.log().contains(READER));
}

/// The first request waits for its connection, the next one reuses it, and the two times are
/// separate.
#[test]
fn connecting_has_a_time_of_its_own() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).also("[workers]\ncount = 1\n").start();
    for path in ["/v1/first", "/v1/second"] {
        let bytes = format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
        assert_eq!(exchange(gate.address, bytes).status(), 200);
    }
    let (first, second) = (line_of(&gate, "/v1/first"), line_of(&gate, "/v1/second"));
    for line in [&first, &second] {
        assert!(line["connect_us"].is_u64() && line["upstream_us"].is_u64(), "{line}");
        let parts = line["connect_us"].as_u64().unwrap() + line["upstream_us"].as_u64().unwrap();
        assert!(parts <= line["duration_us"].as_u64().unwrap() + 1, "{line}");
    }
    // If nobody listens, all of the time was spent on connecting.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gate = Gate::before_address(nobody).start();
    let bytes = format!("GET /v1/none HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    assert_eq!(exchange(gate.address, bytes).status(), 502);
    let line = line_of(&gate, "/v1/none");
    assert!(line["connect_us"].is_u64() && line.get("upstream_us").is_none(), "{line}");
}

/// `X-Request-Id`, `X-Forwarded-Proto` and `-Host`: believed from a trusted hop, replaced from
/// anybody else.
#[test]
fn only_a_trusted_hop_says_id_scheme_and_host() {
    let upstream = Upstream::start();
    let said = "x-request-id: from-the-edge-1\r\nx-forwarded-proto: https\r\nx-forwarded-host: api.example\r\n";
    for (trusted, networks) in [(true, "\"127.0.0.0/8\""), (false, "\"10.0.0.0/8\""), (false, "")] {
        let top = format!("trusted_proxies = [{networks}]");
        let gate = Gate::before(&upstream).top(&top).start();
        let bytes =
            format!("GET /v1/a HTTP/1.1\r\nhost: inner\r\nx-api-key: {READER}\r\n{said}\r\n");
        let answer = exchange(gate.address, bytes);
        assert_eq!(answer.status(), 200);
        let got = upstream.only();
        let is = |name: &str, value: &str| got.all(name) == [value];
        assert_eq!(is("x-request-id", "from-the-edge-1"), trusted, "{networks}");
        assert_eq!(is("x-forwarded-proto", "https"), trusted, "{networks}");
        assert_eq!(is("x-forwarded-host", "api.example"), trusted, "{networks}");
        assert_eq!(got.all("x-request-id").len(), 1);
        let id = line_of(&gate, "/v1/a")["request_id"].as_str().unwrap().to_owned();
        assert_eq!(got.all("x-request-id"), [id.as_str()], "one id everywhere");
        assert_eq!(answer.one("x-request-id"), Some(id));
    }
}

/// The lowest level is configured, and the access log does not depend on it.
#[test]
fn the_level_of_the_operator_log_is_configured() {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = free();
    let at = |level: &str| format!("\"level\":\"{level}\"");
    // At `warn` the log does not say where it listens, so the address is given.
    for (level, shown, hidden) in [("debug", "DEBUG", None), ("warn", "WARN", Some("INFO"))] {
        // The system may give the same port twice.
        let address = std::iter::repeat_with(free).find(|address| *address != nobody).unwrap();
        let folder = Gate::before_address(nobody)
            .listen(&format!("address = \"{address}\""))
            .also(&format!("[log]\nlevel = \"{level}\"\n"))
            .folder();
        // Without a state file a start warns.
        let text = folder.read("keygate.toml").replace("state_file = \"state\"\n", "");
        folder.write("keygate.toml", &text);
        let process = Process::start(keygate(folder.path()).args(["serve"]));
        process.eventually("it listens", || TcpStream::connect(address).is_ok());
        let bytes = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
        assert_eq!(exchange(address, bytes).status(), 502);
        process.wait_for_line("\"reason\":\"upstream_connect\"");
        process.wait_for_line(&at(shown));
        process.signal("TERM");
        assert!(process.wait(PATIENCE).is_some(), "{}", process.output());
        let log = process.output();
        assert!(hidden.is_none_or(|hidden| !log.contains(&at(hidden))), "{level}: {log}");
    }
    let gate = Gate::before_address(nobody).start();
    let bytes = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    assert_eq!(exchange(gate.address, bytes).status(), 502);
    assert_eq!(line_of(&gate, "/v1/a")["reason"], "upstream_connect");
    assert!(gate.log().contains(&at("INFO")) && !gate.log().contains(&at("DEBUG")));
}
