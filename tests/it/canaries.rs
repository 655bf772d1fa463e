//! What a sidecar does with the additions of table format 2, over real sockets: a canary cannot be
//! told from an unknown key, a sunset is announced, and tables of both formats can follow each
//! other.

use crate::support::client::exchange;
use crate::support::gate::{Gate, Key};
use crate::support::upstream::{Upstream, answer};

const GOOD: &str = "wa_good0123456789abcdefghijk";
const CANARY: &str = "wa_canary0123456789abcdefghi";
const UNKNOWN: &str = "wa_nobody0123456789abcdefghi";
const PLAIN: &str = "wa_plain0123456789abcdefghij";

fn get(path: &str, key: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n")
}

/// Builds the registry as it is, in this format.
fn build(gate: &Gate, format: &str, serial: u64) {
    let options = ["--format", format, "--serial", &serial.to_string()];
    gate.folder.build_as("keys.kgt", &options);
    gate.wait_serial(serial);
}

fn start(upstream: &Upstream) -> Gate {
    let mut gate = Gate::before(upstream);
    for (id, secret) in [("key_good", GOOD), ("key_bird", CANARY), ("key_plain", PLAIN)] {
        gate = gate.key(Key::new(id, secret).may("read").may("p1"));
    }
    gate.start()
}

/// Adds fields to keys of the registry.
fn edit(gate: &Gate, edits: &[(&str, &str)]) {
    let mut registry = gate.folder.read("keys.toml");
    for (id, fields) in edits {
        let line = format!("id = \"{id}\"\n");
        assert!(registry.contains(&line), "{registry}");
        registry = registry.replace(&line, &format!("{line}{fields}\n"));
    }
    gate.folder.write("keys.toml", &registry);
}

#[test]
fn a_canary_is_answered_like_an_unknown_key_and_told_apart_inside() {
    let upstream = Upstream::start();
    let gate = start(&upstream);
    assert_eq!(exchange(gate.address, get("/v1/a", CANARY)).status(), 200, "not one yet");
    edit(&gate, &[("key_bird", "status = \"canary\"")]);
    build(&gate, "2", 2);
    assert!(gate.metrics().contains("\nkeygate_canary_used_total 0\n"));
    let whole = |path: &str, key: &str| {
        let answer = exchange(gate.address, get(path, key));
        let id = answer.one("x-request-id").expect("a request id");
        // Everything except what is new in each request.
        let head: Vec<_> = answer
            .lines()
            .filter(|line| !line.starts_with("x-request-id:") && !line.starts_with("date:"))
            .collect();
        (answer.status(), head, answer.body_text().replace(&id, "ID"))
    };
    for path in ["/v1/a", "/nowhere", "/v1/a?x=1"] {
        assert_eq!(whole(path, CANARY), whole(path, UNKNOWN), "{path}");
        assert_eq!(whole(path, CANARY).0, 401, "{path}");
    }
    let metrics = gate.metrics();
    assert!(metrics.contains("\nkeygate_canary_used_total 6\n"), "{metrics}");
    // Each worker writes its own lines, without an order between workers.
    let wanted = ["a canary was used", "key_bird", "127.0.0.1", "\"/v1/a\""];
    let is_told = |line: &str| wanted.iter().all(|word| line.contains(word));
    gate.process.eventually("the line", || gate.log().lines().any(is_told));
    let log = gate.log();
    assert!(!log.contains(CANARY));
    assert_eq!(exchange(gate.address, get("/v1/a", GOOD)).status(), 200);
}

#[test]
fn a_sunset_is_told_and_refuses_nothing() {
    let upstream = Upstream::answering(|_| answer("200 OK", "sunset: whenever\r\n", "hello"));
    let gate = start(&upstream);
    edit(&gate, &[("key_good", "sunset = 2020-01-01T00:00:00Z")]);
    build(&gate, "2", 2);
    let told = exchange(gate.address, get("/v1/a", GOOD));
    assert_eq!((told.status(), told.body_text().as_str()), (200, "hello"));
    assert_eq!(told.one("sunset").as_deref(), Some("Wed, 01 Jan 2020 00:00:00 GMT"));
    let other = exchange(gate.address, get("/v1/a", PLAIN));
    assert_eq!(other.one("sunset").as_deref(), Some("whenever"), "the service's own");
}

#[test]
fn formats_follow_one_another_and_a_newer_one_keeps_the_last_table() {
    let upstream = Upstream::start();
    let gate = start(&upstream);
    edit(&gate, &[("key_good", "limit = \"2/h\"")]);
    for (serial, format) in [(2, "2"), (3, "1"), (4, "2")] {
        build(&gate, format, serial);
    }
    // The limit of `per-key`, spent over formats and tables.
    let statuses: Vec<_> =
        (0..3).map(|_| exchange(gate.address, get("/v1/a", GOOD)).status()).collect();
    assert_eq!(statuses, [200, 200, 429]);
    let mut next = std::fs::read(gate.folder.file("keys.kgt")).unwrap();
    next[7] = 3;
    std::fs::write(gate.folder.file("next.kgt"), next).unwrap();
    std::fs::rename(gate.folder.file("next.kgt"), gate.folder.file("keys.kgt")).unwrap();
    gate.process.eventually("the refusal", || {
        gate.metrics().contains("keygate_table_last_reload_successful 0")
    });
    let status = gate.probe("/status").body_text();
    assert!(status.contains("format version 3; this keygate reads 1 to 2"), "{status}");
    gate.wait_serial(4);
    assert_eq!(exchange(gate.address, get("/v1/a", PLAIN)).status(), 200);
}
