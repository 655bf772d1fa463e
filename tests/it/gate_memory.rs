//! The memory budget: strangers cannot exhaust it with heads or HTTP/2 streams, and a caller with a
//! key is still served. The sidecar runs in a memory cgroup of its own if the test can make one.
//! Elsewhere the same budget is configured, and its peak of memory is checked.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::client::{Client, PATIENCE};
use crate::support::gate::{Gate, READER, Setup};
use crate::support::h2raw::*;
use crate::support::upstream::Upstream;

/// Of the cgroup: 16 MiB remain for connections.
const LIMIT: u64 = 48 << 20;
const BUDGET: u64 = 16 << 20;

/// 31 KB, and not the end of it.
fn unfinished_head() -> Vec<u8> {
    [b"GET /v1/a HTTP/1.1\r\nhost: a\r\nx-pad: ".to_vec(), vec![b'a'; 31_000]].concat()
}

#[test]
fn unfinished_heads_of_one_address_end_with_good_clients_served() {
    let (gate, cage) = start(Setup::also, "[timeouts]\nheader = \"60s\"\n");
    let mut before = customer(&gate);
    let attackers: Vec<_> = (0..600)
        .map(|_| {
            let mut stream = connect_from(2, gate.address);
            let _ = stream.write_all(&unfinished_head());
            stream
        })
        .collect();
    // Without the budget: some 44 MB.
    gate.process.eventually("connections closed", || counted(&gate, "address") >= 500);
    assert_attack_ends(&gate, cage.as_ref(), &mut before, attackers);
}

#[test]
fn streams_behind_closed_windows_end_with_good_clients_served() {
    let (gate, cage) = start(Setup::also, "");
    let mut before = customer(&gate);
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let attackers: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = connect_from(2, gate.address);
            let mut bytes = PREFACE.to_vec();
            bytes.extend(frame(SETTINGS, 0, 0, &[0, INITIAL_WINDOW_SIZE as u8, 0, 0, 0, 0]));
            for n in 0..100 {
                let fields = request("GET", "/v1/a", "");
                let flags = END_STREAM | END_HEADERS;
                bytes.extend(frame(HEADERS, flags, n * 2 + 1, &block(&fields[..4])));
            }
            let _ = stream.write_all(&bytes);
            stream
        })
        .collect();
    // Without the budget: some 36 MB.
    gate.process.eventually("connections closed", || counted(&gate, "address") >= 80);
    assert_attack_ends(&gate, cage.as_ref(), &mut before, attackers);
}

/// Many addresses, each within its quarter: nothing new is accepted above 80 %, strangers are
/// closed above 95 %, and admitted callers stay, over either protocol.
#[test]
fn many_addresses_are_shed_and_the_admitted_stay() {
    let (gate, cage) = start(Setup::also, "[timeouts]\nheader = \"60s\"\n");
    let mut plain = customer(&gate);
    let mut h2 = H2::connect(gate.address);
    assert_eq!(h2.exchange(1, &get("/v1/a", READER)).status, Some(200));
    let mut strangers: Vec<_> = (0..250).map(|n| connect_from(10 + n % 5, gate.address)).collect();
    for stranger in &mut strangers {
        let _ = stranger.write_all(&unfinished_head());
    }
    gate.process.eventually("strangers closed", || counted(&gate, "pressure") > 0);
    gate.process.eventually("settled", || held(&gate) <= BUDGET / 100 * 95);
    assert_eq!(counted(&gate, "address"), 0, "each is within its quarter");
    assert!(held(&gate) > BUDGET / 100 * 80, "no more is closed than has to be");
    let mut late = Client::connect(gate.address);
    let answer = late.send(ask()).try_response(false);
    assert!(!matches!(answer, Ok(Some(_))), "taken above 80 %: {answer:?}");
    const REFUSED_STREAM: u32 = 7;
    assert_eq!(h2.exchange(3, &get("/v1/a", READER)).reset, Some(REFUSED_STREAM));
    gate.process.eventually("both counted", || {
        counted(&gate, "connection") > 0 && counted(&gate, "stream") > 0
    });
    assert_served(&mut plain);
    assert_bounded(&gate, cage.as_ref());
    drop(strangers);
    gate.process.eventually("memory given back", || held(&gate) < BUDGET / 10);
    assert_eq!(h2.exchange(5, &get("/v1/a", READER)).status, Some(200), "and taken again");
    assert_served(&mut customer(&gate));
}

/// A request on a public route does not turn a stranger into a customer, and a proxy's address has
/// no quarter.
#[test]
fn public_requests_do_not_count_as_admitted_and_proxies_have_no_share() {
    let fill = |gate: &Gate| {
        let mut clients: Vec<_> = (0..100).map(|_| connect_from(2, gate.address)).collect();
        for client in &mut clients {
            let public = b"GET /public/a HTTP/1.1\r\nhost: a\r\n\r\n";
            let _ = client.write_all(public);
        }
        gate.process.eventually("answered", || {
            gate.metrics().contains(
                "keygate_requests_total{code=\"200\",method=\"GET\",route=\"public\"} 100",
            )
        });
        for client in &mut clients {
            let _ = client.write_all(&unfinished_head());
        }
        clients
    };
    let header = "[timeouts]\nheader = \"60s\"\n";
    let (gate, _cage) = start(Setup::also, header);
    let _public = fill(&gate);
    gate.process.eventually("connections closed", || counted(&gate, "address") >= 30);
    drop(gate);
    let trusting =
        |setup: Setup, also: &str| setup.top("trusted_proxies = [\"127.0.0.2\"]").also(also);
    let (gate, _cage) = start(trusting, header);
    let _proxied = fill(&gate);
    gate.process.eventually("heads held", || held(&gate) > BUDGET / 100 * 35);
    assert_eq!(counted(&gate, "address"), 0);
}

/// Without any limit there is no budget.
#[test]
fn the_budget_can_be_switched_off() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).also("[limits]\nmemory = \"none\"\n").start();
    let _client = customer(&gate);
    assert_eq!(metric(&gate, "keygate_memory_budget_bytes"), 0);
    gate.process.eventually("connections add up all the same", || held(&gate) > 0);
}

/// A sidecar whose connections may hold some 16 MiB.
fn start(with: impl FnOnce(Setup, &str) -> Setup, also: &str) -> (Gate, Option<Cage>) {
    let upstream = Box::leak(Box::new(Upstream::start()));
    let cage = Cage::make();
    let mut setup = with(Gate::before(upstream), "[workers]\ncount = 2\n").also(also);
    if cage.is_none() {
        setup = setup.also(&format!("[limits]\nmemory = \"{BUDGET}B\"\n"));
    }
    let folder = setup.folder();
    let keygate = env!("CARGO_BIN_EXE_keygate");
    let mut command = Command::new("sh");
    match &cage {
        Some(_) => command.args(["-c", "echo $$ > \"$1\" && exec \"$0\" serve -c keygate.toml"]),
        None => command.args(["-c", "exec \"$0\" serve -c keygate.toml"]),
    };
    command.arg(keygate).current_dir(folder.path());
    command.args(cage.iter().map(|cage| cage.0.join("cgroup.procs")));
    let gate = Gate::serve_by(folder, command);
    gate.wait_ready();
    gate.process.eventually("a budget", || metric(&gate, "keygate_memory_budget_bytes") > 0);
    let budget = metric(&gate, "keygate_memory_budget_bytes");
    assert!(budget <= BUDGET && budget > BUDGET - (1 << 20), "{budget}");
    (gate, cage)
}

fn ask() -> String {
    format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n")
}

/// A client with a key that has been served.
fn customer(gate: &Gate) -> Client {
    let mut client = Client::connect(gate.address);
    assert_served(&mut client);
    client
}

fn assert_served(client: &mut Client) {
    client.send(ask());
    assert_eq!(client.response().status(), 200);
}

/// A connection from 127.0.0.`last`.
fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let from = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0));
    socket.bind(&from.into()).unwrap();
    socket.connect_timeout(&to.into(), PATIENCE).expect("connect");
    socket.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.into()
}

fn metric(gate: &Gate, name: &str) -> u64 {
    let text = gate.metrics();
    let line = text.lines().find(|l| l.strip_prefix(name).is_some_and(|l| l.starts_with(' ')));
    line.and_then(|l| l.rsplit(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{name}: {text}"))
}

fn counted(gate: &Gate, reason: &str) -> u64 {
    metric(gate, &format!("keygate_memory_turned_away_total{{reason=\"{reason}\"}}"))
}

fn held(gate: &Gate) -> u64 {
    metric(gate, "keygate_memory_held_bytes")
}

/// Earlier and new clients are served, and what the attackers held is released with them.
fn assert_attack_ends(
    gate: &Gate,
    cage: Option<&Cage>,
    before: &mut Client,
    attackers: Vec<TcpStream>,
) {
    assert_served(before);
    assert_served(&mut customer(gate));
    assert_bounded(gate, cage);
    drop(attackers);
    gate.process.eventually("memory given back", || held(gate) < BUDGET / 10);
}

/// The process's peak is within the limit that it was given.
fn assert_bounded(gate: &Gate, cage: Option<&Cage>) {
    if let Some(cage) = cage {
        assert_eq!(cage.kills(), 0, "the kernel ended it");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", gate.process.id())).unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).expect("RssAnon");
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib << 10 < LIMIT, "{kib} KiB");
}

/// A memory cgroup of the test's own, removed with it.
struct Cage(PathBuf);

impl Cage {
    /// `None`: this user or machine cannot make one.
    fn make() -> Option<Self> {
        let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = |controller: &str| {
            membership.lines().find_map(|l| l.split_once(controller)?.1.strip_prefix('/'))
        };
        let v1 = path(":memory:")
            .map(|own| (Path::new("/sys/fs/cgroup/memory").join(own), "memory.limit_in_bytes"));
        let v2 = path("0::").map(|own| (Path::new("/sys/fs/cgroup").join(own), "memory.max"));
        let (above, limit) = v1.or(v2)?;
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let cage = Self(above.join(format!("keygate-test-{}-{n}", std::process::id())));
        fs::create_dir(&cage.0).ok()?;
        fs::write(cage.0.join(limit), LIMIT.to_string()).ok()?;
        Some(cage)
    }

    /// Processes that the kernel has ended in it.
    fn kills(&self) -> u64 {
        let text = ["memory.oom_control", "memory.events"]
            .iter()
            .find_map(|file| fs::read_to_string(self.0.join(file)).ok())
            .unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("oom_kill "));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // Only an empty one can be removed; the process has just been ended.
        for _ in 0..100 {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => return,
            }
        }
    }
}
