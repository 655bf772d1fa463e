//! Ways to reach the store of shared limits: a Unix socket, TLS with a user and a password, sentinels
//! that fail over, a cluster whose slots move.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::shared_limits::{PATIENT, SECRET, SharedFleet, ask, folder, is_up, status};
use crate::support::client::Client;
use crate::support::gate::Gate;
use crate::support::redis::{RedisReply, RedisServer};
use crate::support::upstream::Upstream;

const FALLBACKS: &str = "shared_limits_fallback_total";

#[test]
fn by_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("store.sock");
    let redis = RedisServer::start(&["--unixsocket", socket.to_str().unwrap()]);
    let store = format!("url = \"unix://{}\"\nlease = \"0s\"\n{PATIENT}", socket.display());
    let fleet = SharedFleet::start(2, "2/d", &store);
    let statuses: Vec<_> = fleet
        .gates
        .iter()
        .chain(&fleet.gates[..1])
        .map(|gate| ask(gate.address, SECRET).status())
        .collect();
    assert_eq!(statuses, [200, 200, 429]);
    assert!(!redis.keys("kg1:").is_empty());
}

#[test]
fn by_tls_with_a_user_whose_password_is_rotated() {
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str| files.path().join(name).display().to_string();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(file("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(file("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let redis = RedisServer::start(&[
        "--port",
        "0",
        "--tls-port",
        "PORT",
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &cert,
        "--tls-auth-clients",
        "no",
        "--user",
        "gate",
        "on",
        ">first-password",
        "~kg1:*",
        "+@all",
    ]);
    let upstream = Upstream::start();
    let store = format!(
        "url = \"rediss://gate@localhost:{}\"\nca = \"{cert}\"\npassword_file = \"redis.pass\"\n\
         {PATIENT}",
        redis.port()
    );
    let folder = folder(&upstream, "1000/d", &store);
    // The wrong one first: that is no reason not to start.
    folder.write_secret("redis.pass", "old-password\n");
    let gate = Gate::serve(folder);
    gate.wait_ready();
    let why = || gate.probe("/status").json()["shared_limits"]["why"].to_string();
    gate.process.eventually("a refusal", || why().contains("WRONGPASS"));
    assert_eq!(ask(gate.address, SECRET).status(), 200);
    gate.folder.write_secret("redis.pass", "first-password\n");
    gate.process.eventually("the new password", || is_up(&gate));
    assert_eq!(ask(gate.address, SECRET).status(), 200);
    assert!(!gate.log().contains("-password"), "{}", gate.log());
}

#[test]
fn a_password_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let upstream = Upstream::start();
    let folder = folder(&upstream, "1/s", "url = \"redis://a\"\npassword_file = \"redis.pass\"");
    folder.write_secret("redis.pass", "hunter2\n");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(folder.file("redis.pass"), open).unwrap();
    let mut command = crate::support::gate::keygate(folder.path());
    let output = command.args(["check", "--config", "keygate.toml"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("shared.password_file: others than its owner may use"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn by_sentinels_to_whoever_is_the_primary() {
    let primary = RedisServer::start(&[]);
    let port = primary.port().to_string();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]);
    let sentinel = RedisServer::start(&["--sentinel"]);
    sentinel.run(&["SENTINEL", "MONITOR", "limits", "127.0.0.1", &port, "1"]);
    for (option, value) in [("down-after-milliseconds", "1000"), ("failover-timeout", "3000")] {
        sentinel.run(&["SENTINEL", "SET", "limits", option, value]);
    }
    let store = format!("nodes = [\"127.0.0.1:{}\"]\nsentinel = \"limits\"", sentinel.port());
    let fleet = SharedFleet::start(2, "6000/min burst 3000", &store);
    let wait = |what: &str, condition: &dyn Fn() -> bool| {
        fleet.gates[0].process.eventually(what, condition);
    };
    wait("a replica that the sentinel knows", &|| {
        let known = sentinel.run(&["SENTINEL", "REPLICAS", "limits"]);
        let text = format!("{:?}", replica.run(&["INFO", "replication"]));
        known != RedisReply::List(vec![]) && text.contains("master_link_status:up")
    });
    for gate in &fleet.gates {
        assert_eq!(ask(gate.address, SECRET).status(), 200);
    }
    assert!(!primary.keys("kg1:").is_empty());
    wait("a fail-over", &|| {
        !matches!(sentinel.ask(&["SENTINEL", "FAILOVER", "limits"]), RedisReply::Error(_))
    });
    wait("the new primary", &|| {
        for gate in &fleet.gates {
            assert_eq!(ask(gate.address, SECRET).status(), 200);
        }
        // It closes its connections when it becomes the primary.
        replica.try_ask(&["ROLE"]).is_ok_and(|role| format!("{role:?}").contains("master"))
    });
    // The former primary is demoted while it goes on: it answers READONLY on open connections.
    primary.run(&["REPLICAOF", "127.0.0.1", &replica.port().to_string()]);
    // What it has then was written there.
    replica.run(&["FLUSHALL"]);
    wait("the new primary in use", &|| {
        for gate in &fleet.gates {
            assert_eq!(ask(gate.address, SECRET).status(), 200);
        }
        let has_bucket = replica.keys("kg1:").iter().any(|key| key.contains("key_a"));
        has_bucket && fleet.gates.iter().all(is_up)
    });
}

/// Three servers, each with a third of the slots.
fn cluster() -> Vec<RedisServer> {
    let options = [
        "--cluster-enabled",
        "yes",
        "--cluster-config-file",
        "nodes.conf",
        "--cluster-node-timeout",
        "5000",
    ];
    let nodes: Vec<_> = (0..3).map(|_| RedisServer::start(&options)).collect();
    let ranges = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
    for (node, (first, last)) in nodes.iter().zip(ranges) {
        node.run(&["CLUSTER", "ADDSLOTSRANGE", first, last]);
        let port = nodes[0].port().to_string();
        node.run(&["CLUSTER", "MEET", "127.0.0.1", &port]);
    }
    nodes
}

/// Until each of them knows all, and every slot has its server.
fn come_together(nodes: &[RedisServer]) {
    let is_whole = |node: &RedisServer| {
        let info = format!("{:?}", node.run(&["CLUSTER", "INFO"]));
        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
    };
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !nodes.iter().all(is_whole) {
        assert!(std::time::Instant::now() < until, "the cluster does not come together");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn seeds(nodes: &[RedisServer]) -> String {
    let seeds: Vec<_> = nodes.iter().map(|node| format!("\"127.0.0.1:{}\"", node.port())).collect();
    format!("nodes = [{}]\ncluster = true\n", seeds.join(", "))
}

/// No replica takes over: its slots are nobody's until it is there again.
#[test]
fn a_server_of_a_cluster_that_dies_is_no_callers_outage() {
    let nodes = cluster();
    come_together(&nodes);
    let store = format!("{}{PATIENT}", seeds(&nodes));
    let fleet = SharedFleet::start(2, "100000/d burst 5000", &store);
    for gate in &fleet.gates {
        assert_eq!(ask(gate.address, SECRET).status(), 200);
    }
    let has_bucket = |node: &&RedisServer| node.keys("kg1:").iter().any(|k| k.contains("key_a"));
    let dead = nodes.iter().find(has_bucket).expect("a bucket somewhere");
    dead.kill();
    for gate in &fleet.gates {
        gate.process.eventually("away", || {
            assert_eq!(ask(gate.address, SECRET).status(), 200);
            !is_up(gate)
        });
        for _ in 0..20 {
            assert_eq!(ask(gate.address, SECRET).status(), 200);
        }
    }
    assert!(fleet.total(FALLBACKS) > 0);
    dead.restart();
    come_together(&nodes);
    fleet.wait_up();
    let before = fleet.total(FALLBACKS);
    fleet.gates[0].process.eventually("it counts again", || {
        for gate in &fleet.gates {
            assert_eq!(ask(gate.address, SECRET).status(), 200);
        }
        has_bucket(&dead)
    });
    assert!(fleet.total(FALLBACKS) - before < 20, "it is used again");
}

#[test]
fn by_the_slots_of_a_cluster_while_one_moves() {
    let nodes = cluster();
    come_together(&nodes);
    // The servers that do not have the slot send on to the one that has.
    let store = format!("{}lease = \"0s\"\n{PATIENT}", seeds(&nodes));
    let fleet = SharedFleet::start(2, "100000/d", &store);
    for gate in &fleet.gates {
        assert_eq!(ask(gate.address, SECRET).status(), 200);
    }
    let has_bucket = |node: &RedisServer| node.keys("kg1:").iter().any(|key| key.contains("key_a"));
    let from = nodes.iter().find(|node| has_bucket(node)).expect("a bucket somewhere");
    let to = nodes.iter().find(|node| !has_bucket(node)).unwrap();
    let key = from.keys("kg1:").into_iter().find(|key| key.contains("key_a")).unwrap();
    let slot = from.run(&["CLUSTER", "KEYSLOT", &key]).number().to_string();
    let id = |node: &RedisServer| node.run(&["CLUSTER", "MYID"]).text();
    let (from_id, to_id) = (id(from), id(to));
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for gate in &fleet.gates {
            scope.spawn(|| {
                let mut client = Client::connect(gate.address);
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(status(&mut client, SECRET), 200);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let some_more = || {
            let before = asked.load(Ordering::Relaxed);
            let enough = || asked.load(Ordering::Relaxed) > before + 20;
            fleet.gates[0].process.eventually("requests meanwhile", enough);
        };
        some_more();
        to.run(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
        from.run(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
        some_more();
        let port = to.port().to_string();
        for key in from.keys("kg1:").iter().filter(|key| key.contains("key_a")) {
            from.run(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        }
        // Where the key is gone, the server sends on with ASK.
        some_more();
        for node in [to, from] {
            node.run(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
        }
        some_more();
        stop.store(true, Ordering::Relaxed);
    });
    let buckets = [to, from].map(|node| node.keys("kg1:"));
    assert!(has_bucket(to) && !has_bucket(from), "{key} in slot {slot}: {buckets:?}");
    assert_eq!(fleet.total(FALLBACKS), 0, "every request was counted in the cluster");
    let taken = asked.load(Ordering::Relaxed) + 2;
    // In a limit of a day, hardly anything has come back since.
    let value: f64 = to.run(&["GET", &key]).text().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let debt = (value / 1e6 - now.as_secs_f64()) / 0.864;
    assert!(debt <= taken as f64 + 1.0 && debt >= taken as f64 - 100.0, "{debt} of {taken}");
}
