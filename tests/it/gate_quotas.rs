//! Quotas by calendar: what callers see, what survives a drain and a kill, and what sidecars share.

use std::time::{Duration, Instant};

use crate::shared_limits::{PATIENT, SECRET, ask, is_up, number};
use crate::support::gate::{Folder, Gate, Key, keygate};
use crate::support::redis::RedisServer;
use crate::support::upstream::Upstream;

const RULES: &str = r#"
[[credentials]]
source = "header"
name = "x-api-key"
[[policies]]
name = "monthly"
scope = "org"
quota = "8/month"
[[routes]]
path = "/*"
"#;

fn setup(upstream: &Upstream, also: &str) -> Folder {
    Gate::before(upstream).rules(RULES).also(also).key(Key::new("key_a", SECRET)).folder()
}

fn started(folder: Folder) -> Gate {
    let gate = Gate::serve(folder);
    gate.wait_ready();
    gate
}

/// How many of this many requests are admitted.
fn admitted(gate: &Gate, requests: usize) -> usize {
    (0..requests).filter(|_| ask(gate.address, SECRET).status() == 200).count()
}

fn seconds_of_this_month() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let span = keygate::core::QuotaPeriod::Month.span(now.as_millis() as u64);
    span.end_ms() / 1000 - now.as_secs()
}

#[test]
fn a_quota_is_told_and_refuses_until_the_month_is_over() {
    let upstream = Upstream::start();
    let gate = started(setup(&upstream, "[quotas]\nfile = \"used\""));
    let answer = ask(gate.address, SECRET);
    // A month has no window in seconds.
    assert_eq!(answer.one("ratelimit-policy").as_deref(), Some("\"monthly\";q=8"));
    let field = answer.one("ratelimit").unwrap();
    let left = seconds_of_this_month();
    let until: u64 = field.strip_prefix("\"monthly\";r=7;t=").unwrap().parse().unwrap();
    assert!(until.abs_diff(left) <= 5 || left > until, "{field}: {left}");
    assert_eq!(admitted(&gate, 9), 7);
    let refused = ask(gate.address, SECRET);
    assert_eq!(refused.json()["violated-policies"], serde_json::json!(["monthly"]));
    let wait: u64 = refused.one("retry-after").unwrap().parse().unwrap();
    assert!(wait.abs_diff(seconds_of_this_month()) <= 5, "{wait}");
    let explained = keygate(gate.folder.path())
        .args(["explain", "--key-id", "key_a", "--path", "/", "--config", "keygate.toml"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&explained.stdout);
    assert!(text.contains("1 under monthly, 8/month of the org, by the configuration"), "{text}");
}

#[test]
fn a_quota_outlives_a_drain() {
    let upstream = Upstream::start();
    let gate = started(setup(&upstream, "[quotas]\nfile = \"used\""));
    assert_eq!(admitted(&gate, 5), 5);
    gate.process.signal("TERM");
    assert!(gate.process.wait(Duration::from_secs(20)).is_some());
    let Gate { folder, .. } = gate;
    let gate = started(folder);
    assert_eq!(admitted(&gate, 8), 3, "{}", gate.log());
    // A damaged file keeps nothing down, and is moved aside.
    gate.process.signal("TERM");
    assert!(gate.process.wait(Duration::from_secs(20)).is_some());
    let Gate { folder, .. } = gate;
    folder.write("used", "no quotas");
    let gate = started(folder);
    assert_eq!(admitted(&gate, 9), 8);
    assert!(gate.log_soon("used quotas cannot be read"), "{}", gate.log());
    assert_eq!(gate.folder.read("used.damaged"), "no quotas");
}

#[test]
fn a_quota_outlives_a_kill_but_for_ten_seconds() {
    let upstream = Upstream::start();
    let gate = started(setup(&upstream, "[quotas]\nfile = \"used\""));
    assert_eq!(admitted(&gate, 5), 5);
    let written = || std::fs::metadata(gate.folder.file("used")).is_ok_and(|meta| meta.len() > 12);
    let until = Instant::now() + Duration::from_secs(30);
    while !written() {
        assert!(Instant::now() < until, "nothing is written");
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = rustix::process::Pid::from_raw(gate.process.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(gate.process.wait(Duration::from_secs(20)).is_some());
    let Gate { folder, .. } = gate;
    let gate = started(folder);
    assert_eq!(admitted(&gate, 8), 3, "{}", gate.log());
}

#[test]
fn a_quota_without_a_file_is_worth_a_warning() {
    let upstream = Upstream::start();
    let folder = setup(&upstream, "");
    let output =
        keygate(folder.path()).args(["check", "--config", "keygate.toml"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("has a quota, which begins anew with every restart"), "{text}");
}

#[test]
fn a_shared_quota_heals_a_store_that_was_wiped() {
    let redis = RedisServer::start(&[]);
    let upstream = Upstream::start();
    let also = format!(
        "[quotas]\nfile = \"used\"\n[shared]\nurl = \"{}\"\nlease = \"0s\"\n{PATIENT}",
        redis.url()
    );
    let first = setup(&upstream, &also);
    let second = Folder::empty();
    for name in ["signer.pem", "signer.pub", "keys.toml", "keys.kgt", "keygate.toml"] {
        std::fs::copy(first.file(name), second.file(name)).expect("copy");
    }
    let gates = [started(first), started(second)];
    for gate in &gates {
        gate.process.eventually("the store", || is_up(gate));
    }
    let [one, two] = &gates;
    assert_eq!((admitted(one, 2), admitted(two, 3)), (2, 3));
    let key = redis.keys("kg1:").into_iter().find(|key| key.contains(":monthly:month")).unwrap();
    assert_eq!(redis.run(&["GET", &key]).text(), "5 0");
    assert!(redis.run(&["PTTL", &key]).number() > 86_400_000);
    // Wiped, or failed over to a replica that knew less: the second one has seen five.
    redis.run(&["FLUSHALL"]);
    assert_eq!(admitted(two, 1), 1);
    assert_eq!(redis.run(&["GET", &key]).text(), "6 0");
    redis.run(&["SET", &key, "1 0"]);
    assert_eq!(admitted(one, 1), 1, "it knew of two");
    assert_eq!(redis.run(&["GET", &key]).text(), "3 0");
    assert_eq!(admitted(two, 9), 2, "it knew of six, and two are left of eight");
    // Garbage is not a quota for ever.
    redis.run(&["SET", &key, "garbage"]);
    assert_eq!(ask(two.address, SECRET).status(), 429);
    for gate in &gates {
        assert_eq!(number(gate, "shared_limits_fallback_total"), 0);
    }
}

#[test]
fn what_was_admitted_without_the_store_counts_when_it_is_back() {
    let redis = RedisServer::start(&[]);
    let upstream = Upstream::start();
    let also = format!("[quotas]\nfile = \"used\"\n[shared]\nurl = \"{}\"\n", redis.url());
    let gate = started(setup(&upstream, &also));
    gate.process.eventually("the store", || is_up(&gate));
    redis.kill();
    gate.process.eventually("away", || {
        // When the store is asked, the connection turns out to be broken.
        let _ = ask(gate.address, SECRET);
        !is_up(&gate)
    });
    let own = admitted(&gate, 20);
    assert!((1..=8).contains(&own), "{own}");
    redis.restart();
    gate.process.eventually("back", || is_up(&gate));
    // All of it was admitted without the store, which learns of it with the first question.
    assert_eq!(admitted(&gate, 9), 0);
    let key = redis.keys("kg1:").into_iter().find(|key| key.contains(":monthly:month")).unwrap();
    let text = redis.run(&["GET", &key]).text();
    let taken: u64 = text.split(' ').next().unwrap().parse().unwrap();
    assert!(taken >= 8, "{text}");
}
