//! The admin listener over real sockets.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::config::{Config, ThisHost};
use crate::core::observe::UpstreamClass;
use crate::core::{ClientNetwork, Now, Reason};
use crate::observe::{RowKind, Sighting, SightingReason};
use crate::reload::IssuerBoard;
use crate::snapshot::{Snapshot, Store};

const MINIMAL: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/minimal.toml"));

struct Running {
    admin: Admin,
    readiness: Readiness,
    metrics: Metrics,
    drained: Arc<AtomicUsize>,
}

/// For a gate that observes.
fn desk() -> ObserveDesk {
    let text = format!(
        "{MINIMAL}\n[[credentials]]\nsource = \"bearer\"\n[[routes]]\nid = \"all\"\npath = \"/*\"\n\
         [observe]\nenforce = \"10%\"\nroutes = [\"all\"]\nuntil = 2024-01-01T00:00:00Z\n"
    );
    let config = Config::parse(&ThisHost, Path::new("keygate.toml"), &text).unwrap();
    let settings = Arc::new(config.settings);
    let store = Store::new(Snapshot { settings, keys: None, route_slots: Box::default() });
    let (book, store) = (Arc::default(), Arc::new(store));
    ObserveDesk { book, store, instance: "here".into(), started: Now::default() }
}

fn start() -> Running {
    start_with(AdminAccess::default())
}

fn start_with(access: AdminAccess) -> Running {
    let metrics = Metrics::new(1);
    let readiness = Readiness::new();
    let drained = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&drained);
    let state = AdminState {
        probes: ProbePassages::new(Vec::new()),
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        status: StatusCell::default(),
        issuers: IssuerBoard::default(),
        exposure: ExposureCell::default(),
        named_exposure: Vec::new(),
        uses: None,
        observe: desk(),
        certificates: Box::new(Vec::new),
        shared_limits: Box::new(|| None),
        public_keys: Box::new(|| None),
        clock: Clock::manual(1_700_000_000),
        log: None,
        drain: Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }),
        access,
    };
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = serve(bind(), Some(bind()), state).unwrap();
    Running { admin, readiness, metrics, drained }
}

impl Running {
    /// Status and body.
    fn ask(&self, request: &str) -> (u16, String) {
        ask(self.admin.address, request)
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"))
    }
}

fn page_of(
    state: &AdminState,
    caller: AdminCaller,
    request: &http::Request<()>,
) -> http::Response<body::AdminBody> {
    pages::answer(state, caller, request, &Arc::new(Semaphore::new(1)))
}

fn ask(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

#[test]
fn probes_follow_readiness() {
    let running = start();
    let table = running.readiness.register("table");
    assert_eq!(running.get("/livez"), (200, "alive\n".into()));
    assert_eq!(running.get("/readyz"), (503, "not ready\ntable: starting\n".into()));
    assert_eq!(running.get("/startupz").0, 503);
    table.ready();
    assert_eq!(running.get("/readyz"), (200, "ready\n".into()));
    assert_eq!(running.get("/startupz").0, 200);
    assert!(running.get("/metrics").1.contains("\nkeygate_ready 1\n"));
    table.blocked("the table in force ran out");
    let (status, text) = running.get("/readyz");
    assert_eq!((status, &*text), (503, "not ready\ntable: the table in force ran out\n"));
    assert_eq!(running.get("/startupz").0, 200, "never goes back");
    assert!(running.get("/metrics").1.contains("\nkeygate_ready 0\n"));
    assert!(running.get("/metrics").1.contains("\nkeygate_upstream_healthy 1\n"));
    let upstream = running.readiness.register("upstream");
    assert!(running.get("/metrics").1.contains("\nkeygate_upstream_healthy 0\n"));
    upstream.ready();
    assert!(running.get("/metrics").1.contains("\nkeygate_upstream_healthy 1\n"));
    running.admin.stop();
}

#[test]
fn metrics_and_status_are_served() {
    let running = start();
    running.metrics.worker(0).duration(5);
    let (status, text) = running.get("/metrics");
    assert_eq!(status, 200);
    assert!(text.contains("keygate_request_duration_seconds_count 1\n"));
    assert!(text.contains("process_start_time_seconds 1700000000\n"));
    let (status, text) = running.get("/status");
    assert_eq!(status, 200);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["now"], "2023-11-14T22:13:20.000Z");
    assert!(json["table"].is_null());
    assert_eq!(json["ready"], true);
    let head = running.ask("HEAD /status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert_eq!(head, (200, String::new()));
    running.admin.stop();
}

/// Ten connections with a hundred pages each, and a probe that arrives last.
#[test]
fn a_probe_waits_for_no_more_than_a_few_pages() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let turns = Arc::new(Semaphore::new(1));
    let made = Arc::new(AtomicUsize::new(0));
    let before = runtime.block_on(async {
        for _ in 0..10 {
            let (turns, made) = (Arc::clone(&turns), Arc::clone(&made));
            tokio::spawn(async move {
                for _ in 0..100 {
                    in_turn(&turns, || made.fetch_add(1, Ordering::Relaxed)).await;
                }
            });
        }
        let made = Arc::clone(&made);
        tokio::spawn(async move { made.load(Ordering::Relaxed) }).await.unwrap()
    });
    assert!(before <= 3, "{before} pages came first");
}

#[test]
fn wrong_paths_and_methods() {
    let running = start();
    assert_eq!(running.get("/nothing").0, 404);
    assert_eq!(running.get("/drain").0, 405);
    let post = "POST /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert_eq!(running.ask(post).0, 405);
    assert_eq!(running.ask("nonsense\r\n\r\n").0, 400);
    for hosts in ["", "host: localhost\r\nhost: localhost\r\n"] {
        let request = format!("GET /livez HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        assert_eq!(running.ask(&request).0, 400, "{hosts:?}");
    }
    assert_eq!(running.ask("GET /livez HTTP/1.0\r\n\r\n").0, 200);
    assert_eq!(running.drained.load(Ordering::Relaxed), 0);
    running.admin.stop();
}

#[test]
fn drain_is_for_this_host_and_no_browser() {
    let running = start();
    let browser = "POST /drain HTTP/1.1\r\nhost: localhost\r\norigin: https://evil.example\r\n\
                   connection: close\r\n\r\n";
    assert_eq!(running.ask(browser).0, 403);
    assert_eq!(running.drained.load(Ordering::Relaxed), 0);
    request_drain(running.admin.address).unwrap();
    assert_eq!(running.drained.load(Ordering::Relaxed), 1);
    assert!(running.readiness.is_draining());
    assert_eq!(running.get("/readyz"), (503, "not ready\ndraining: about to stop\n".into()));
    let address = running.admin.address;
    running.admin.stop();
    assert!(matches!(request_drain(address), Err(DrainError::Io { .. })));
}

#[test]
fn drain_from_elsewhere_is_refused() {
    let running = start();
    let request = http::Request::post("/drain").header("host", "orders.svc").body(()).unwrap();
    let state = AdminState {
        probes: ProbePassages::new(Vec::new()),
        metrics: running.metrics.clone(),
        readiness: running.readiness.clone(),
        status: StatusCell::default(),
        issuers: IssuerBoard::default(),
        exposure: ExposureCell::default(),
        named_exposure: Vec::new(),
        uses: None,
        observe: desk(),
        certificates: Box::new(Vec::new),
        shared_limits: Box::new(|| None),
        public_keys: Box::new(|| None),
        clock: Clock::manual(0),
        log: None,
        drain: Box::new(|| panic!("must not drain")),
        access: AdminAccess::default(),
    };
    for peer in ["203.0.113.9:1", "[::ffff:203.0.113.9]:1", "[2001:db8::1]:1"] {
        let answer = page_of(&state, from(peer), &request);
        assert_eq!(answer.status(), 403, "{peer}");
    }
    // From this host, under a name that is not its own: a page in a browser, through DNS rebinding.
    let rebound = http::Request::post("/drain").header("host", "evil.example").body(()).unwrap();
    assert_eq!(page_of(&state, from("127.0.0.1:1"), &rebound).status(), 421);
    assert!(!running.readiness.is_draining());
    running.admin.stop();
}

#[test]
fn a_silent_client_is_dropped() {
    let running = start();
    let mut stream = TcpStream::connect(running.admin.address).unwrap();
    stream.set_read_timeout(Some(HEADER * 3)).unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\n").unwrap();
    let mut answer = Vec::new();
    // The listener's time-out ends it, not ours.
    assert!(stream.read_to_end(&mut answer).is_ok());
    running.admin.stop();
}

const TOKEN: &str = "0123456789abcdef-first";

fn token_file(token: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, format!("{token}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    (folder, path)
}

/// A caller of a listener that is bound to every address.
fn from(peer: &str) -> AdminCaller {
    AdminCaller { peer: peer.parse().unwrap(), door: AdminDoor::Admin, on_loopback: false }
}

fn state_with(access: AdminAccess) -> AdminState {
    AdminState {
        probes: ProbePassages::new(Vec::new()),
        metrics: Metrics::new(1),
        readiness: Readiness::new(),
        status: StatusCell::default(),
        issuers: IssuerBoard::default(),
        exposure: ExposureCell::default(),
        named_exposure: Vec::new(),
        uses: None,
        observe: desk(),
        certificates: Box::new(Vec::new),
        shared_limits: Box::new(|| None),
        public_keys: Box::new(|| None),
        clock: Clock::manual(0),
        log: None,
        drain: Box::new(|| {}),
        access,
    }
}

#[test]
fn probes_get_through_however_many_connections_are_held() {
    let running = start();
    for address in [running.admin.address, running.admin.public_address.unwrap()] {
        let mut held = Vec::new();
        for n in 0..80 {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut byte = [0; 512];
            stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
            assert!(stream.read(&mut byte).unwrap() > 0, "connection {n} is not answered");
            held.push(stream);
        }
        let probe = "GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
        assert_eq!(ask(address, probe), (200, "ready\n".into()));
        let mut open = 0;
        for stream in &mut held {
            stream.set_nonblocking(true).unwrap();
            let mut byte = [0; 1];
            let read = stream.read(&mut byte);
            open += usize::from(read.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock));
        }
        assert!(open <= OF_ONE_ADDRESS, "{open} of one address are open");
        let mut last = held.pop().unwrap();
        last.set_nonblocking(false).unwrap();
        last.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        assert!(last.read(&mut [0; 512]).unwrap() > 0, "the latest but one goes on");
    }
    running.admin.stop();
}

#[test]
fn a_name_that_is_not_ours_is_misdirected() {
    let running = start_with(AdminAccess { hosts: vec!["keygate.internal".into()], token: None });
    let get = |path: &str, host: &str| {
        running.ask(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).0
    };
    for path in ["/status", "/metrics", "/livez", "/nothing"] {
        assert_eq!(get(path, "evil.example"), 421, "{path}");
    }
    assert_eq!(get("/status", "keygate.internal:9901"), 200);
    assert_eq!(get("/status", "[::1]:9901"), 200);
    assert_eq!(running.ask("GET /livez HTTP/1.0\r\n\r\n").0, 200, "a probe by hand");
    running.admin.stop();
}

#[test]
fn the_public_listener_has_probes_and_metrics_alone() {
    let (_folder, path) = token_file(TOKEN);
    let token = Some(AdminToken::load(&path).unwrap());
    let running = start_with(AdminAccess { hosts: Vec::new(), token });
    let public = running.admin.public_address.unwrap();
    let get = |path: &str, also: &str| {
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{also}\r\n");
        ask(public, &head).0
    };
    running.readiness.register("table").ready();
    for path in ["/livez", "/readyz", "/startupz", "/metrics"] {
        assert_eq!(get(path, ""), 200, "{path}");
    }
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    for path in ["/", "/status", "/usage", "/drain", "/nothing"] {
        assert_eq!(get(path, ""), 404, "{path}");
        assert_eq!(get(path, &bearer), 404, "{path}, with the token");
    }
    let drain = "POST /drain HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";
    assert_eq!(ask(public, drain).0, 404);
    assert_eq!(running.drained.load(Ordering::Relaxed), 0);
    running.admin.stop();
}

#[test]
fn status_beyond_this_host_needs_the_token() {
    let request = |path: &str, token: Option<&str>, host: &str| {
        let request = http::Request::get(path).header("host", host);
        let request = match token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        request.body(()).unwrap()
    };
    let (_folder, path) = token_file(TOKEN);
    let with = state_with(AdminAccess {
        hosts: Vec::new(),
        token: Some(AdminToken::load(&path).unwrap()),
    });
    let without = state_with(AdminAccess::default());
    let (far, near) = ("203.0.113.9:1", "127.0.0.1:1");
    for (state, peer, token, host, want) in [
        (&with, far, None, "orders.svc", 401),
        (&with, far, Some("0123456789abcdef-other"), "orders.svc", 401),
        (&with, far, Some(""), "orders.svc", 401),
        (&with, far, Some(&TOKEN[..TOKEN.len() - 1]), "orders.svc", 401),
        (&with, far, Some(TOKEN), "orders.svc", 200),
        (&with, near, None, "127.0.0.1", 200),
        (&with, near, Some("0123456789abcdef-other"), "127.0.0.1", 401),
        (&with, near, None, "evil.example", 421),
        (&with, near, Some(TOKEN), "orders.svc", 200),
        (&without, far, None, "orders.svc", 403),
        (&without, far, Some(TOKEN), "orders.svc", 403),
        (&without, near, None, "localhost", 200),
        (&without, near, None, "evil.example", 421),
    ] {
        // Nothing is counted here, and a caller who may not ask does not learn that.
        for (path, found) in [("/status", 200), ("/usage", 404)] {
            let answer = page_of(state, from(peer), &request(path, token, host));
            let want = if want == 200 { found } else { want };
            assert_eq!(answer.status(), want, "{path} {peer} {token:?} {host}");
            assert_eq!(answer.headers().contains_key("www-authenticate"), want == 401);
        }
    }
    // Metrics need no token. A token that is shown is judged, because they would need it.
    let other = Some("0123456789abcdef-other");
    for (state, peer, token, want) in [
        (&with, far, None, 200),
        (&with, far, Some(TOKEN), 200),
        (&with, far, other, 401),
        (&with, near, other, 401),
        (&with, near, None, 200),
        (&without, far, other, 200),
    ] {
        let answer = page_of(state, from(peer), &request("/metrics", token, "127.0.0.1"));
        assert_eq!(answer.status(), want, "{peer} {token:?}");
        assert_eq!(answer.headers().contains_key("www-authenticate"), want == 401);
    }
    let public = AdminCaller { door: AdminDoor::Public, ..from(far) };
    let answer = page_of(&with, public, &request("/metrics", other, "orders.svc"));
    assert_eq!(answer.status(), 200, "there no token is of use");
}

#[test]
fn a_new_token_takes_over_and_a_bad_one_changes_nothing() {
    let (_folder, path) = token_file(TOKEN);
    let token = AdminToken::load(&path).unwrap();
    let state = state_with(AdminAccess { hosts: Vec::new(), token: Some(token) });
    let status = |token: &str| {
        let bearer = format!("Bearer {token}");
        let request = http::Request::get("/status").header("host", "orders.svc");
        let request = request.header("authorization", bearer).body(()).unwrap();
        page_of(&state, from("203.0.113.9:1"), &request).status().as_u16()
    };
    let next = "0123456789abcdef-second";
    std::fs::write(&path, next).unwrap();
    upkeep(&state);
    assert_eq!((status(TOKEN), status(next)), (401, 200));
    for bad in ["", "short", "0123456789 abcdef"] {
        std::fs::write(&path, bad).unwrap();
        upkeep(&state);
        assert_eq!(status(next), 200, "{bad:?}");
        assert_eq!(status(bad), 401);
    }
    std::fs::remove_file(&path).unwrap();
    upkeep(&state);
    assert_eq!(status(next), 200);
    std::fs::write(&path, TOKEN).unwrap();
    upkeep(&state);
    assert_eq!((status(TOKEN), status(next)), (200, 401));
    let shown = format!("{:?}", state.access);
    assert!(!shown.contains("0123456789"), "{shown}");
    assert!(AdminToken::load(&path.with_extension("none")).is_err());
}

#[test]
fn the_report_of_observing_is_for_the_operator() {
    let desk = desk();
    desk.book.note(&Sighting {
        kind: RowKind::Deny,
        reason: SightingReason::Verdict(Reason::Missing),
        route: "all",
        key: None,
        network: ClientNetwork::of("192.0.2.7".parse().unwrap()),
        upstream: UpstreamClass::Success,
        request_id: "id",
        now: Now { unix_ms: 1_700_000_000_000, mono_ns: 0 },
    });
    let lines = String::from_utf8(desk.lines(Now { unix_ms: 5, mono_ns: 0 })).unwrap();
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["observe"], 1);
    assert_eq!((lines[0]["rows"].as_u64(), lines[0]["observing"].as_bool()), (Some(1), Some(true)));
    assert_eq!(lines[0]["enforced_share"], 0.1);
    assert_eq!(lines[0]["lost"], serde_json::json!({}));
    assert_eq!(lines[1]["network"], "192.0.2.0/24");
    assert_eq!((&lines[1]["breaks"], &lines[1]["upstream"]["2xx"]), (&true.into(), &1.into()));
    let running = start();
    let (status, body) = running.get("/status");
    assert_eq!(status, 200);
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(page["observe"]["credentials"], "forward");
    assert_eq!(page["observe"]["routes"][0], "all");
    assert_eq!(page["observe"]["until"], "2024-01-01T00:00:00.000Z");
    assert_eq!(running.get("/observe").0, 200);
}
