//! Use per key, as running sidecars count and show it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use keygate::core::KeyId;
use keygate::usage::{UsageMerge, UsageRecord};

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, Key, READER, keygate};
use crate::support::upstream::{Step, Upstream, answer};

fn get(key: &str) -> String {
    format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n")
}

fn secret(n: usize) -> String {
    format!("wa_Counted{n:06}0123456789abcd")
}

fn id(n: usize) -> KeyId {
    KeyId::parse(&format!("key_counted{n}")).unwrap()
}

/// A usage record, as the sidecar shows it now.
fn record(gate: &Gate, query: &str) -> Vec<u8> {
    let answer = gate.probe(&format!("/usage{query}"));
    assert_eq!(answer.status(), 200, "{}", answer.body_text());
    assert_eq!(answer.one("content-type").as_deref(), Some("application/x-ndjson"));
    answer.body
}

fn add(merge: &mut UsageMerge, record: &[u8]) {
    let mut place = None;
    for line in record.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        match UsageRecord::parse(line).unwrap() {
            UsageRecord::Head(head) => place = Some(merge.head(&head)),
            UsageRecord::Key(id, line) => merge.line(place.expect("a head first"), id, &line),
        }
    }
}

#[test]
fn three_sidecars_say_together_what_clients_have_sent() {
    const KEYS: usize = 40;
    const ROUNDS: u64 = 6;
    let upstream = Upstream::start();
    let start = |name: &str| {
        let mut setup = Gate::before(&upstream)
            .also(&format!("[workers]\ncount = 2\n[usage]\ninstance = \"{name}\""));
        for n in 0..KEYS {
            setup = setup.key(Key::new(&id(n).to_string(), &secret(n)).may("read"));
        }
        setup.start()
    };
    let mut gates = vec![start("a"), start("b"), start("c")];
    let mut records = Vec::new();
    let mut tally: HashMap<usize, u64> = HashMap::new();
    for round in 1..=ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = gates
            .iter()
            .flat_map(|gate| [gate.address; 2])
            .enumerate()
            .map(|(client, address)| {
                let stop = Arc::clone(&stop);
                thread::spawn(move || {
                    let mut connection = Client::connect(address);
                    let mut sent: HashMap<usize, u64> = HashMap::new();
                    let mut n = client * 7 + round as usize;
                    while !stop.load(Ordering::Relaxed) {
                        n = (n * 31 + 17) % (KEYS + 3);
                        let got = connection.send(get(&secret(n))).response();
                        match n < KEYS {
                            true => assert_eq!(got.status(), 200, "{}", got.body_text()),
                            false => assert_eq!(got.status(), 401),
                        }
                        if n < KEYS {
                            *sent.entry(n).or_default() += 1;
                        }
                    }
                    sent
                })
            })
            .collect();
        // Tables are replaced while the requests run, and pages are read at the same time.
        for gate in &gates {
            let serial = (round * 10).to_string();
            gate.folder.build_as("keys.kgt", &["--serial", &serial]);
            gate.wait_serial(round * 10);
            records.push(record(gate, ""));
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            for (n, count) in client.join().expect("no request failed") {
                *tally.entry(n).or_default() += count;
            }
        }
        for gate in &gates {
            records.push(record(gate, "?since=0"));
        }
        if round == 3 {
            // Killed, not asked to end. What it has reported is all that it had counted.
            drop(gates.remove(1));
        }
    }
    assert!(tally.values().sum::<u64>() > 500, "{tally:?}");
    let mut merge = UsageMerge::default();
    for record in records.iter().rev().chain(&records).step_by(3).chain(&records) {
        add(&mut merge, record);
    }
    assert_eq!(merge.dropped(), 0);
    for n in 0..KEYS {
        let counted = merge.key(id(n));
        assert_eq!(counted.admitted, tally.get(&n).copied().unwrap_or(0), "{}", id(n));
        assert_eq!(counted.nets.len(), 1, "all came from this host");
    }
    assert_eq!(merge.spans().len(), 3);
}

#[test]
fn a_record_says_what_was_used_and_what_was_refused() {
    let upstream = Upstream::start();
    let limited = Key::new("key_limited", &secret(1)).may("read").with("limit = \"1/min\"");
    let revoked = Key::new("key_revoked", &secret(2)).may("read").with("status = \"revoked\"");
    let gate = Gate::before(&upstream).key(limited).key(revoked).start();
    let ask = |key: &str| exchange(gate.address, get(key)).status();
    assert_eq!((ask(READER), ask(READER)), (200, 200));
    assert_eq!((ask(&secret(1)), ask(&secret(1)), ask(&secret(2))), (200, 429, 401));
    assert_eq!(ask(&secret(3)), 401);
    // Refusals are passed on a few times a second.
    let has_all = || {
        let text = String::from_utf8(record(&gate, "")).unwrap();
        (text.contains("rate_limited") && text.contains("\"revoked\"")).then_some(text)
    };
    gate.process.soon(Duration::from_secs(10), || has_all().is_some());
    let text = has_all().expect("a record with both refusals");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let head = &lines[0];
    assert_eq!(
        (&head["usage"], &head["serial"], &head["dropped"]),
        (&1.into(), &1.into(), &0.into())
    );
    assert_eq!(head["audience"], "tests");
    assert_eq!(head["boot"].as_str().map(str::len), Some(16));
    let now = head["now"].as_u64().unwrap();
    assert!(head["started"].as_u64().unwrap() <= now && now > 29_000_000, "{head}");
    let of = |id: &str| {
        let mut found = lines.iter().filter(|line| line["key"] == id);
        let line = found.next().unwrap_or_else(|| panic!("no {id} in {text}"));
        assert!(found.next().is_none(), "{id} stands twice in {text}");
        line.clone()
    };
    assert_eq!(of("key_reader")["admitted"], 2);
    assert_eq!(of("key_reader")["nets"], serde_json::json!(["127.0.0.0/24"]));
    assert_eq!(of("key_limited")["admitted"], 1);
    assert_eq!(of("key_limited")["refused"], serde_json::json!({ "rate_limited": 1 }));
    assert_eq!(of("key_revoked")["admitted"], 0);
    assert_eq!(of("key_revoked")["last"], 0);
    assert_eq!(of("key_revoked")["refused"], serde_json::json!({ "revoked": 1 }));
    assert_eq!(lines.len(), 4, "a key that nobody used has no line: {text}");
    assert!(!text.contains("wa_"), "no part of a secret");
    // A value that is not a minute is refused, and so is a future minute: it is in seconds, or from
    // another clock.
    for since in [now + 2, now * 60] {
        let answer = gate.probe(&format!("/usage?since={since}"));
        assert_eq!(answer.status(), 400, "{since}");
        let told = answer.body_text();
        assert!(told.contains("since is in the future") && told.contains("now is 2"), "{told}");
    }
    for query in ["?since=yesterday", "?since=", "?since=-1", "?minute=7", "?since=1&since=2"] {
        assert_eq!(gate.probe(&format!("/usage{query}")).status(), 400, "{query}");
    }
    let metrics = gate.metrics();
    assert!(metrics.contains("decision=\"admitted\",reason=\"\",route=\"v1\"} 3"), "{metrics}");
}

#[test]
fn switched_off_nothing_is_counted() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).also("[usage]\nenabled = false").start();
    assert_eq!(exchange(gate.address, get(READER)).status(), 200);
    let answer = gate.probe("/usage");
    assert_eq!(answer.status(), 404);
    assert!(answer.body_text().contains("usage.enabled"), "{}", answer.body_text());
    assert!(!gate.process.soon(Duration::from_millis(200), || gate.log().contains("\"ERROR\"")));
}

/// Asked to end, a sidecar reports what it has counted: to its file and to the collector.
#[test]
fn the_last_record_is_written_and_posted() {
    let upstream = Upstream::start();
    let collector = Upstream::answering(|_| answer("204 No Content", "", ""));
    let url = format!("http://{}/v1/usage", collector.address);
    let folder = Gate::before(&upstream)
        .also(&format!(
            "[table.http]\nbearer_file = \"bearer\"\n\
             [usage]\nfile = \"usage.ndjson\"\npost_url = \"{url}\"\ninstance = \"${{POD:-}}\""
        ))
        .folder();
    folder.write("bearer", "collect-0123456789\n");
    let gate = Gate::serve_with(folder, &[("POD", "orders-7f")]);
    gate.wait_ready();
    for _ in 0..3 {
        assert_eq!(exchange(gate.address, get(READER)).status(), 200);
    }
    gate.process.signal("TERM");
    assert!(gate.process.wait(Duration::from_secs(20)).expect("an end").success());
    let posted = collector.take();
    let last = posted.last().expect("a post");
    assert_eq!(last.first_line(), "POST /v1/usage HTTP/1.1");
    assert_eq!(last.one("authorization").as_deref(), Some("Bearer collect-0123456789"));
    assert_eq!(last.one("content-type").as_deref(), Some("application/x-ndjson"));
    let reader = KeyId::parse("key_reader").unwrap();
    for record in [last.body.clone(), gate.folder.read("usage.ndjson").into_bytes()] {
        let mut merge = UsageMerge::default();
        add(&mut merge, &record);
        assert_eq!(merge.key(reader).admitted, 3);
        assert_eq!(merge.spans()[0].instance, "orders-7f");
    }
    assert!(!gate.log().contains("collect-0123456789"), "the credential is in the log");
}

/// Neither a silent collector nor an unwritable file affects a request or keeps the process alive.
/// What could never work is refused at the start.
#[test]
fn a_collector_or_file_that_fails_holds_nobody_up() {
    let upstream = Upstream::start();
    let silent = Upstream::answering(|_| vec![Step::Wait(Duration::from_secs(60))]);
    let folder = Gate::before(&upstream)
        .also(&format!(
            "[usage]\nfile = \"sub/usage.ndjson\"\npost_url = \"http://{}/\"",
            silent.address
        ))
        .folder();
    std::fs::create_dir(folder.file("sub")).unwrap();
    let gate = Gate::serve(folder);
    gate.wait_ready();
    assert_eq!(exchange(gate.address, get(READER)).status(), 200);
    std::fs::remove_dir_all(gate.folder.file("sub")).unwrap();
    gate.process.signal("TERM");
    assert!(gate.process.wait(Duration::from_secs(20)).expect("an end").success());
    assert!(gate.log().contains("usage.file"), "{}", gate.log());

    for (options, why) in [
        ("file = \"keys.toml\"", "something else than usage records"),
        ("file = \"none/usage.ndjson\"", "No such file"),
        ("file = \".\"", "no regular file"),
    ] {
        let folder = Gate::before(&upstream).also(&format!("[usage]\n{options}")).folder();
        let keys = folder.read("keys.toml");
        let check = keygate(folder.path()).args(["check", "--config", "keygate.toml"]).output();
        let check = check.unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&check.stdout),
            String::from_utf8_lossy(&check.stderr)
        );
        assert_eq!(check.status.code(), Some(78), "{options}: {said}");
        assert!(said.contains("usage.file") && said.contains(why), "{options}: {said}");
        assert!(said.contains("hint: "), "{said}");
        let serve = keygate(folder.path()).args(["serve", "--config", "keygate.toml"]).output();
        assert_eq!(serve.unwrap().status.code(), Some(73), "{options}");
        assert_eq!(folder.read("keys.toml"), keys);
    }
}

#[test]
fn orgs_have_series_for_the_operator_alone() {
    let upstream = Upstream::start();
    let token = "operator-token-0123456789";
    let folder = Gate::before(&upstream).also("[metrics]\ntop_keys = 1").folder();
    folder.write("admin.token", token);
    let text = folder.read("keygate.toml");
    let admin = "[admin]\npublic_address = \"127.0.0.1:0\"\ntoken_file = \"admin.token\"\n";
    folder.write("keygate.toml", &text.replace("[admin]\n", admin));
    let gate = Gate::serve(folder);
    gate.wait_ready();
    assert_eq!(exchange(gate.address, get(READER)).status(), 200);
    gate.process.eventually("series of the first walk", || {
        gate.metrics().contains("keygate_org_requests_total{org=\"other orgs\"} 0\n")
    });
    let log = gate.log();
    let line = log.lines().find(|l| l.contains("\"listening\"")).unwrap();
    let said: serde_json::Value = serde_json::from_str(line).unwrap();
    let public = said["public_admin"].as_str().unwrap().parse().unwrap();
    let get = |address: std::net::SocketAddr, field: &str| {
        let head =
            format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{field}\r\n");
        exchange(address, head)
    };
    let other = "authorization: Bearer another-token-0123456789\r\n";
    let wrong = get(gate.admin, other);
    assert_eq!(wrong.status(), 401, "a scraper whose token was replaced has to notice");
    assert_eq!(wrong.one("www-authenticate").as_deref(), Some("Bearer realm=\"keygate admin\""));
    let right = get(gate.admin, &format!("authorization: Bearer {token}\r\n"));
    for (answer, shown) in [(get(public, ""), false), (get(public, other), false), (right, true)] {
        assert_eq!(answer.status(), 200);
        let text = answer.body_text();
        assert_eq!(text.contains("{org=\"other orgs\"}"), shown, "{text}");
        assert_eq!(text.contains("{key=\"other keys\"}"), shown);
        assert!(text.contains("# TYPE keygate_org_requests_total counter"));
    }
}
