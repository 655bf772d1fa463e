//! A store of shared limits that pauses, hangs, dies, forgets, refuses, is slow or holds garbage:
//! no caller within its limit is refused, nobody waits long, and the store is used again when it is
//! well.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::process::Signal;

use crate::shared_limits::{
    OTHER, PATIENT, SECRET, SharedFleet, ask, folder, is_up, number, request, status,
};
use crate::support::client::Client;
use crate::support::gate::Gate;
use crate::support::redis::RedisServer;
use crate::support::upstream::Upstream;

const TIMEOUTS: &str = "shared_limits_requests_total{result=\"timeout\"}";
const FALLBACKS: &str = "shared_limits_fallback_total";

/// One way for a store to be away, and how it returns.
struct StoreTrouble {
    name: &'static str,
    begins: fn(&RedisServer),
    /// Part of what `/status` says about it.
    why: &'static str,
    ends: fn(&RedisServer),
}

/// One request after the other to both sidecars, all of them within the limit.
fn all_are_admitted(fleet: &SharedFleet, rounds: usize, name: &str) {
    for _ in 0..rounds {
        for gate in &fleet.gates {
            assert_eq!(ask(gate.address, SECRET).status(), 200, "{name}");
        }
    }
}

fn survives(trouble: &StoreTrouble) {
    survives_of(&RedisServer::start(&[]), trouble);
}

fn survives_of(redis: &RedisServer, trouble: &StoreTrouble) {
    let name = trouble.name;
    let fleet = SharedFleet::start(2, "1200/min burst 600", &format!("url = \"{}\"", redis.url()));
    all_are_admitted(&fleet, 3, name);
    let before: Vec<_> = fleet.gates.iter().map(|gate| number(gate, TIMEOUTS)).collect();
    (trouble.begins)(redis);
    // Each key asks again: tokens taken in advance would hide the trouble.
    for gate in &fleet.gates {
        gate.process.eventually("away", || {
            assert_eq!(ask(gate.address, SECRET).status(), 200, "{name}");
            assert_eq!(ask(gate.address, OTHER).status(), 200, "{name}");
            !is_up(gate)
        });
    }
    all_are_admitted(&fleet, 20, name);
    for (gate, before) in fleet.gates.iter().zip(before) {
        let waited = number(gate, TIMEOUTS) - before;
        assert!(waited <= 3, "{name}: {waited} requests have waited in vain");
        assert!(number(gate, FALLBACKS) > 0, "{name}");
        // What it reports when it is tried again.
        gate.process.eventually(&format!("{name}: what it says"), || {
            let why = gate.probe("/status").json()["shared_limits"]["why"].clone();
            why.as_str().is_some_and(|why| why.contains(trouble.why))
        });
    }
    (trouble.ends)(redis);
    fleet.wait_up();
    all_are_admitted(&fleet, 3, name);
}

#[test]
fn a_store_that_pauses() {
    survives(&StoreTrouble {
        name: "CLIENT PAUSE",
        begins: |redis| drop(redis.run(&["CLIENT", "PAUSE", "30000", "WRITE"])),
        why: "not answer",
        ends: |redis| drop(redis.run(&["CLIENT", "UNPAUSE"])),
    });
}

#[test]
fn a_store_that_is_stopped() {
    survives(&StoreTrouble {
        name: "SIGSTOP",
        begins: |redis| redis.signal(Signal::STOP),
        why: "not answer",
        ends: |redis| redis.signal(Signal::CONT),
    });
}

#[test]
fn a_store_that_is_killed() {
    survives(&StoreTrouble {
        name: "SIGKILL",
        begins: RedisServer::kill,
        why: "",
        ends: RedisServer::restart,
    });
}

/// It has returned, and is loading its data.
#[test]
fn a_store_that_loads() {
    // Half a millisecond for each of 60,000 keys, until it is asked to hurry. It answers meanwhile.
    let slow = "--enable-debug-command yes --key-load-delay 500 \
                --loading-process-events-interval-bytes 1024";
    survives_of(
        &RedisServer::start(&slow.split(' ').collect::<Vec<_>>()),
        &StoreTrouble {
            name: "LOADING",
            begins: |redis| {
                redis.run(&["DEBUG", "POPULATE", "60000", "x", "100"]);
                redis.run(&["SAVE"]);
                redis.restart();
            },
            why: "LOADING",
            ends: |redis| drop(redis.run(&["CONFIG", "SET", "key-load-delay", "0"])),
        },
    );
}

#[test]
fn a_store_that_refuses() {
    let refusals: [StoreTrouble; 3] = [
        StoreTrouble {
            name: "OOM",
            begins: |redis| drop(redis.run(&["CONFIG", "SET", "maxmemory", "1"])),
            why: "OOM",
            ends: |redis| drop(redis.run(&["CONFIG", "SET", "maxmemory", "0"])),
        },
        StoreTrouble {
            name: "READONLY",
            begins: |redis| drop(redis.run(&["REPLICAOF", "127.0.0.1", "1"])),
            why: "READONLY",
            ends: |redis| drop(redis.run(&["REPLICAOF", "NO", "ONE"])),
        },
        StoreTrouble {
            name: "MASTERDOWN",
            begins: |redis| {
                redis.run(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
                redis.run(&["REPLICAOF", "127.0.0.1", "1"]);
            },
            why: "MASTERDOWN",
            ends: |redis| drop(redis.run(&["REPLICAOF", "NO", "ONE"])),
        },
    ];
    for refusal in &refusals {
        survives(refusal);
    }
}

#[test]
fn a_store_that_is_not_there_at_the_start_is_no_outage() {
    let upstream = Upstream::start();
    // Nobody listens on port 1.
    let gate = Gate::serve(folder(&upstream, "10/s", "url = \"redis://127.0.0.1:1\""));
    gate.wait_ready();
    assert_eq!(ask(gate.address, SECRET).status(), 200);
    assert!(!is_up(&gate));
    assert!(number(&gate, FALLBACKS) > 0);
}

#[test]
fn a_store_that_forgets_is_asked_on() {
    let redis = RedisServer::start(&[]);
    let store = format!("url = \"{}\"\nlease = \"0s\"\n{PATIENT}", redis.url());
    let fleet = SharedFleet::start(2, "20/d", &store);
    all_are_admitted(&fleet, 5, "before");
    redis.run(&["FLUSHALL"]);
    // It has forgotten the scripts as well: each is sent again.
    redis.run(&["SCRIPT", "FLUSH"]);
    // At most one more burst.
    all_are_admitted(&fleet, 10, "after");
    assert_eq!(ask(fleet.gates[0].address, SECRET).status(), 429);
    assert_eq!(fleet.total(FALLBACKS), 0);
    for gate in &fleet.gates {
        assert!(is_up(gate));
    }
}

#[test]
fn garbage_and_clock_steps_in_a_bucket_lock_nobody_out() {
    let redis = RedisServer::start(&[]);
    let store = format!("url = \"{}\"\nlease = \"0s\"\n{PATIENT}", redis.url());
    let fleet = SharedFleet::start(1, "2/s", &store);
    let gate = &fleet.gates[0];
    assert_eq!(ask(gate.address, SECRET).status(), 200);
    let key = redis.keys("kg1:").into_iter().find(|key| key.contains("key_a")).unwrap();
    let refill =
        || gate.process.eventually("its limit", || ask(gate.address, SECRET).status() == 200);
    for garbage in ["garbage", "nan", "", "-5", "0x", "\u{1f512}"] {
        redis.run(&["SET", &key, garbage]);
        assert_eq!(ask(gate.address, SECRET).status(), 200, "{garbage:?}");
        // Limited as before, by the new value.
        let value: f64 = redis.run(&["GET", &key]).text().parse().unwrap();
        assert!(value > 1e15, "{garbage:?}: {value}");
    }
    redis.run(&["DEL", &key]);
    redis.run(&["RPUSH", &key, "a", "list"]);
    assert_eq!(ask(gate.address, SECRET).status(), 200, "another type");
    // An hour ahead, and beyond all time: the longest wait is that of a burst.
    for step in ["3600000000", "inf", "1e300"] {
        let value = match step.parse::<u64>() {
            Ok(step) => (now_us() + step).to_string(),
            Err(_) => step.to_owned(),
        };
        redis.run(&["SET", &key, &value]);
        let answer = ask(gate.address, SECRET);
        assert_eq!(answer.status(), 429, "{step}");
        assert_eq!(answer.one("retry-after").as_deref(), Some("1"), "{step}");
        refill();
    }
    assert!(is_up(gate));
    assert_eq!(fleet.total(FALLBACKS), 0);
}

fn now_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_micros() as u64
}

/// Forwards bytes to a server and back, delaying each direction by this much.
fn slow_way(to: u16, late: Duration) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        // Ends with the process of the test.
        while let Ok((client, _)) = listener.accept() {
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).expect("connect");
            let pairs =
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
            for (mut from, mut into) in pairs {
                std::thread::spawn(move || {
                    let mut bytes = [0; 16_384];
                    while let Ok(count @ 1..) = from.read(&mut bytes) {
                        std::thread::sleep(late);
                        if into.write_all(&bytes[..count]).is_err() {
                            break;
                        }
                    }
                    let _ = into.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    port
}

#[test]
fn a_store_that_is_always_late_is_waited_for_three_times() {
    let redis = RedisServer::start(&[]);
    let port = slow_way(redis.port(), Duration::from_millis(50));
    let upstream = Upstream::start();
    let gate = Gate::serve(folder(
        &upstream,
        "1200/min burst 600",
        &format!("url = \"redis://127.0.0.1:{port}\"\ntimeout = \"20ms\""),
    ));
    gate.wait_ready();
    // It answers each attempt, and always too late.
    gate.process.eventually("a first attempt", || {
        let status = gate.probe("/status").json();
        status["shared_limits"]["why"] == "it answers later than shared.timeout"
    });
    let mut client = Client::connect(gate.address);
    for _ in 0..100 {
        assert_eq!(status(&mut client, SECRET), 200);
    }
    assert!(number(&gate, TIMEOUTS) <= 3);
    assert!(number(&gate, FALLBACKS) >= 100 - 3);
}

#[test]
fn a_key_that_ends_while_its_request_waits_is_refused() {
    let redis = RedisServer::start(&[]);
    let store = format!("url = \"{}\"\n{PATIENT}", redis.url());
    let fleet = SharedFleet::start(1, "1000/d", &store);
    let gate = &fleet.gates[0];
    let mut client = Client::connect(gate.address);
    assert_eq!(status(&mut client, SECRET), 200);
    gate.folder.ctl(&["--registry", "keys.toml", "keys", "revoke", "key_b"]);
    gate.folder.build_as("next.kgt", &[]);
    redis.run(&["CLIENT", "PAUSE", "950", "ALL"]);
    let mut waiting = Client::connect(gate.address);
    waiting.send(request(OTHER));
    std::thread::sleep(Duration::from_millis(100));
    std::fs::rename(gate.folder.file("next.kgt"), gate.folder.file("keys.kgt")).expect("rename");
    let answer = waiting.response();
    assert_eq!(answer.status(), 401, "{}", answer.body_text());
    assert_eq!(status(&mut client, SECRET), 200);
}

#[test]
fn a_client_that_leaves_while_it_waits_costs_nothing() {
    let redis = RedisServer::start(&[]);
    let store = format!("url = \"{}\"\nlease = \"0s\"\n{PATIENT}", redis.url());
    let fleet = SharedFleet::start(1, "3/d", &store);
    let gate = &fleet.gates[0];
    assert_eq!(ask(gate.address, SECRET).status(), 200);
    redis.run(&["CLIENT", "PAUSE", "300", "ALL"]);
    let mut waiting = Client::connect(gate.address);
    waiting.send(request(SECRET));
    std::thread::sleep(Duration::from_millis(50));
    waiting.reset();
    gate.process.eventually("an answer", || {
        number(gate, "shared_limits_requests_total{result=\"granted\"}") >= 1
            && number(gate, "requests_in_flight") == 0
    });
    // Two are left, and none was lost with it.
    assert_eq!(
        [ask(gate.address, SECRET).status(), ask(gate.address, SECRET).status()],
        [200, 200]
    );
    assert_eq!(ask(gate.address, SECRET).status(), 429);
}
