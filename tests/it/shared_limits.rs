//! One limit of several real sidecars, counted in a real redis-server: what all of them admit
//! together, what callers see, what is in the store. Also helpers for the other tests of shared
//! limits.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::client::{Client, exchange};
use crate::support::gate::{Folder, Gate, Key, keygate};
use crate::support::http::Message;
use crate::support::redis::RedisServer;
use crate::support::upstream::Upstream;

pub(crate) const SECRET: &str = "wa_First0123456789abcdefghijklm";
pub(crate) const OTHER: &str = "wa_Second0123456789abcdefghijkl";

pub(crate) const RULES: &str = r#"
[[credentials]]
source = "header"
name = "x-api-key"

[[routes]]
path = "/*"
"#;

/// So long that no request of a test on a busy machine waits without an answer.
pub(crate) const PATIENT: &str = "timeout = \"1s\"";

/// Sidecars that share their limits: `key_a` and `key_b` of one org have `limit` each.
pub(crate) struct SharedFleet {
    pub(crate) gates: Vec<Gate>,
    _upstream: Upstream,
}

// === impl SharedFleet ===

impl SharedFleet {
    /// `store`: the contents of `[shared]`.
    pub(crate) fn start(count: usize, limit: &str, store: &str) -> Self {
        let upstream = Upstream::start();
        let first = folder(&upstream, limit, store);
        // One table for all: each has a copy.
        let names = ["signer.pem", "signer.pub", "keys.toml", "keys.kgt", "keygate.toml"];
        let mut folders: Vec<_> = (1..count).map(|_| Folder::empty()).collect();
        for (name, to) in names.iter().flat_map(|name| folders.iter().map(move |to| (name, to))) {
            std::fs::copy(first.file(name), to.file(name)).expect("copy");
        }
        folders.push(first);
        let gates: Vec<_> = folders.into_iter().map(Gate::serve).collect();
        for gate in &gates {
            gate.wait_ready();
        }
        let fleet = Self { gates, _upstream: upstream };
        fleet.wait_up();
        fleet
    }

    /// Waits until all of them reach the store, and know how many they are.
    pub(crate) fn wait_up(&self) {
        for gate in &self.gates {
            gate.process.eventually("the store", || is_up(gate));
        }
    }

    /// A sum over all sidecars: `shared_limits_fallback_total`.
    pub(crate) fn total(&self, metric: &str) -> u64 {
        self.gates.iter().map(|gate| number(gate, metric)).sum()
    }
}

/// The files of one sidecar.
pub(crate) fn folder(upstream: &Upstream, limit: &str, store: &str) -> Folder {
    let limit = format!("limit = \"{limit}\"");
    let a = Key::new("key_a", SECRET).with(&limit);
    let b = Key::new("key_b", OTHER).with(&limit);
    let setup = Gate::before(upstream).rules(RULES).also(&format!("[shared]\n{store}\n"));
    setup.key(a).key(b).folder()
}

pub(crate) fn is_up(gate: &Gate) -> bool {
    number_of(gate, "shared_limits_up") == "1"
}

fn number_of(gate: &Gate, metric: &str) -> String {
    let metrics = gate.metrics();
    let name = format!("keygate_{metric} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {metric}\n{metrics}")).to_owned()
}

/// A counter: `shared_limits_requests_total{result="timeout"}`.
pub(crate) fn number(gate: &Gate, metric: &str) -> u64 {
    number_of(gate, metric).parse().unwrap()
}

pub(crate) fn ask(to: SocketAddr, secret: &str) -> Message {
    exchange(to, request(secret))
}

pub(crate) fn request(secret: &str) -> String {
    format!("GET /a HTTP/1.1\r\nhost: a\r\nx-api-key: {secret}\r\n\r\n")
}

/// The status of one request on a connection that stays.
pub(crate) fn status(client: &mut Client, secret: &str) -> u16 {
    client.send(request(secret)).response().status()
}

/// How much of a limit is left, according to an answer.
fn left(answer: &Message) -> u32 {
    let field = answer.one("ratelimit").unwrap_or_else(|| panic!("no ratelimit"));
    let rest = field.split(";r=").nth(1).unwrap();
    rest.split(';').next().unwrap().parse().unwrap()
}

#[test]
fn a_pool_is_used_up_to_the_last_token_and_no_further() {
    let redis = RedisServer::start(&[]);
    // Almost nothing is refilled while the test runs: one in 14 minutes.
    let store = format!("url = \"{}\"\n{PATIENT}", redis.url());
    let fleet = SharedFleet::start(3, "100/d burst 100", &store);
    let (mut admitted, mut refused_at_last) = (0, 0);
    let mut clients: Vec<_> =
        fleet.gates.iter().map(|gate| Client::connect(gate.address)).collect();
    let until = Instant::now() + Duration::from_secs(20);
    // Tokens that a sidecar has in advance return to the others when they are not used.
    while refused_at_last < 30 && Instant::now() < until {
        for client in &mut clients {
            match status(client, SECRET) {
                200 => (admitted, refused_at_last) = (admitted + 1, 0),
                429 => refused_at_last += 1,
                other => panic!("{other}"),
            }
        }
        if refused_at_last > 0 {
            std::thread::sleep(Duration::from_millis(40));
        }
    }
    assert_eq!(fleet.total("shared_limits_fallback_total"), 0);
    assert!((100..=101).contains(&admitted), "{admitted} of 100");
    // The other key of the org has its own.
    assert_eq!(status(&mut clients[0], OTHER), 200);
    // One hash tag for the org, and names that people can read.
    let keys = redis.keys("kg1:");
    let of_keys: Vec<_> = keys.iter().filter(|key| key.contains(":k:")).collect();
    assert_eq!(of_keys.len(), 2, "{keys:?}");
    assert!(of_keys.iter().any(|key| key.ends_with("}:k:key_a:per-key")), "{keys:?}");
    let tag = |key: &str| key.split(['{', '}']).nth(1).unwrap().to_owned();
    assert_eq!(tag(of_keys[0]), tag(of_keys[1]));
    let digits = tag(of_keys[0]);
    assert!(digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{digits}");
}

#[test]
fn a_rate_is_held_by_all_together() {
    let redis = RedisServer::start(&[]);
    let store = format!("url = \"{}\"\n{PATIENT}", redis.url());
    // A burst of five seconds: a busy machine may do something else for that long without a loss.
    let fleet = SharedFleet::start(3, "1200/min burst 100", &store);
    let began = Instant::now();
    let end = began + Duration::from_secs(5);
    let addresses: Vec<_> = fleet.gates.iter().map(|gate| gate.address).collect();
    let workers: Vec<_> = (0..9)
        .map(|n| {
            let to = addresses[n % addresses.len()];
            std::thread::spawn(move || {
                let mut client = Client::connect(to);
                let mut admitted = 0;
                loop {
                    match status(&mut client, SECRET) {
                        200 => admitted += 1,
                        // By then, nothing is left that was taken in advance.
                        429 if Instant::now() > end => return admitted,
                        429 => std::thread::sleep(Duration::from_millis(10)),
                        other => panic!("{other}"),
                    }
                }
            })
        })
        .collect();
    let admitted: u32 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    let took = began.elapsed().as_secs_f64();
    assert_eq!(fleet.total("shared_limits_fallback_total"), 0);
    let due = 100.0 + 20.0 * took;
    assert!(f64::from(admitted) <= due + 1.0, "{admitted} of {due:.1} in {took:.2} s");
    // What arrives in 50 ms may still be in the store.
    let least = 0.98 * due - 3.0;
    assert!(f64::from(admitted) >= least, "{admitted} of {due:.1} in {took:.2} s");
}

#[test]
fn callers_are_told_what_all_of_them_have_left() {
    let redis = RedisServer::start(&[]);
    let store = format!("url = \"{}\"\nlease = \"0s\"\n{PATIENT}", redis.url());
    let fleet = SharedFleet::start(2, "10/d", &store);
    let [one, two] = &fleet.gates[..] else { unreachable!() };
    let answer = ask(one.address, SECRET);
    assert_eq!(answer.one("ratelimit-policy").as_deref(), Some("\"per-key\";q=10;w=86400"));
    assert_eq!(left(&answer), 9);
    assert_eq!(left(&ask(two.address, SECRET)), 8);
    assert_eq!(left(&ask(one.address, SECRET)), 7);
    // A question for each, none in advance.
    assert_eq!(fleet.total("shared_limits_requests_total{result=\"granted\"}"), 3);
    for _ in 0..7 {
        assert_eq!(ask(two.address, SECRET).status(), 200);
    }
    let refused = ask(one.address, SECRET);
    assert_eq!((refused.status(), refused.code().as_str()), (429, "rate_limited"));
    assert_eq!(left(&refused), 0);
    let wait: u64 = refused.one("retry-after").unwrap().parse().unwrap();
    assert!((8_600..=8_640).contains(&wait), "{wait}");
    // The same again without a question: the answer is known for as long.
    let asked = fleet.total("shared_limits_requests_total{result=\"refused\"}");
    assert_eq!(ask(one.address, SECRET).status(), 429);
    assert_eq!(fleet.total("shared_limits_requests_total{result=\"refused\"}"), asked);
}

#[test]
fn several_limits_are_taken_together_or_not_at_all() {
    let redis = RedisServer::start(&[]);
    let upstream = Upstream::start();
    let rules = r#"
[[credentials]]
source = "header"
name = "x-api-key"
[[policies]]
name = "shared"
scope = "org"
limit = "12/d"
[[policies]]
name = "search"
classes = ["search"]
limit = "10/d"
[[routes]]
path = "/*"
[[routes]]
path = "/search"
class = "search"
cost = 5
"#;
    let store = format!("[shared]\nurl = \"{}\"\n{PATIENT}\n", redis.url());
    let setup = Gate::before(&upstream).rules(rules).also(&store);
    let gate = setup.key(Key::new("key_a", SECRET)).key(Key::new("key_b", OTHER)).start();
    gate.process.eventually("the store", || is_up(&gate));
    let search = |secret: &str| {
        let head = format!("GET /search HTTP/1.1\r\nhost: a\r\nx-api-key: {secret}\r\n\r\n");
        exchange(gate.address, head)
    };
    assert_eq!([search(SECRET).status(), search(SECRET).status()], [200, 200]);
    let refused = search(SECRET);
    assert_eq!(refused.json()["violated-policies"], serde_json::json!(["search", "shared"]));
    // It took nothing: the org's last two are available to its other key.
    assert_eq!([ask(gate.address, OTHER).status(), ask(gate.address, OTHER).status()], [200, 200]);
    let refused = ask(gate.address, OTHER);
    assert_eq!(refused.json()["violated-policies"], serde_json::json!(["shared"]));
}

#[test]
fn a_drain_gives_back_what_was_taken_in_advance() {
    let redis = RedisServer::start(&[]);
    let store = format!("url = \"{}\"\nlease = \"10s\"\n{PATIENT}", redis.url());
    let fleet = SharedFleet::start(1, "1000/d burst 1000", &store);
    let gate = &fleet.gates[0];
    let mut client = Client::connect(gate.address);
    assert_eq!(status(&mut client, SECRET), 200);
    let key = redis.keys("kg1:").into_iter().find(|key| key.ends_with(":per-key")).unwrap();
    // How much is taken, by how far the value is ahead of now: 86.4 s for each.
    let taken = || {
        let value: f64 = redis.run(&["GET", &key]).text().parse().unwrap();
        let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        ((value / 1e6 - seconds.as_secs_f64()) / 86.4).round() as i64
    };
    // How much it takes depends on the rate that it sees, and that on the machine.
    let mut sent = 1;
    while sent < 60 || taken() <= sent {
        assert!(sent < 900, "nothing was taken in advance: {} of {sent}", taken());
        assert_eq!(status(&mut client, SECRET), 200);
        sent += 1;
    }
    let counted = || redis.keys("kg1:").iter().any(|key| key.ends_with(":replicas"));
    assert!(counted());
    gate.process.signal("TERM");
    assert!(gate.process.wait(Duration::from_secs(20)).is_some(), "it ends");
    assert_eq!(taken(), sent);
    assert!(!counted(), "it is still counted as one of them");
}

#[test]
fn status_says_how_the_store_stands() {
    let redis = RedisServer::start(&[]);
    let fleet = SharedFleet::start(2, "10/s", &format!("url = \"{}\"", redis.url()));
    // The earlier one learns of the other with its next count.
    let last = &fleet.gates[1];
    let status = last.probe("/status").json()["shared_limits"].clone();
    assert_eq!(status["up"], true);
    assert!(status["replicas"].as_u64().unwrap() <= 2 && status.get("why").is_none(), "{status}");
    redis.kill();
    let mut client = Client::connect(last.address);
    last.process
        .eventually("away", || !is_up(last) || client_asks(&mut Client::connect(last.address)));
    assert_eq!(self::status(&mut client, SECRET), 200, "its own share");
    let status = last.probe("/status").json()["shared_limits"].clone();
    assert_eq!(status["up"], false, "{status}");
    assert!(!status["why"].as_str().unwrap().is_empty());
    assert!(last.log_soon("the store of shared limits is away"), "{}", last.log());
}

/// A request by which a sidecar contacts its store. `false`: ask again.
fn client_asks(client: &mut Client) -> bool {
    status(client, OTHER);
    false
}

#[test]
fn faults_of_the_configuration_name_line_and_remedy() {
    let upstream = Upstream::start();
    for (store, want) in [
        ("", "shared.url: is missing\nhint: the store, for example url = \"redis://limits:6379\""),
        (
            "url = \"redis://gate:hunter2@limits\"",
            "shared.url: must not hold a password\nhint: put it in a file and name it as \
             shared.password_file",
        ),
        ("url = \"http://limits\"", "shared.url: is not the URL of a store, got \"http://limits\""),
        (
            "url = \"redis://a\"\nnodes = [\"b\"]",
            "shared.nodes: cannot be combined with shared.url",
        ),
        ("nodes = [\"a:26379\"]", "shared.nodes: do not say what they are\nhint: add sentinel"),
        (
            "url = \"redis://a\"\nsentinel = \"m\"",
            "shared.nodes: is missing\nhint: name the servers",
        ),
        ("nodes = [\"a\"]\ncluster = true\nsentinel = \"m\"", "shared.cluster: cannot be combined"),
        (
            "url = \"redis://a\"\npassword = \"hunter2\"",
            "shared.password: a secret does not belong",
        ),
        ("url = \"redis://gate@a\"", "shared.password_file: is missing"),
        ("url = \"redis://a\"\nca = \"signer.pub\"", "shared.ca: is for rediss://"),
        (
            "url = \"redis://a\"\nfallback_share = \"0%\"",
            "shared.fallback_share: must be at least 1%",
        ),
        ("url = \"redis://a\"\nlease = \"1m\"", "shared.lease: must be at most 10s"),
        (
            "url = \"redis://a\"\nleese = \"1s\"",
            "shared.leese: unknown key\nhint: did you mean `lease`?",
        ),
    ] {
        let folder = folder(&upstream, "1/s", store);
        let output =
            keygate(folder.path()).args(["check", "--config", "keygate.toml"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{store}: {text}");
        assert!(text.contains(want), "{store}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
        let place = text.lines().find(|line| line.contains("keygate.toml:")).unwrap_or_default();
        assert!(place.split(':').nth(1).is_some_and(|line| line.parse::<u32>().is_ok()), "{text}");
    }
}
