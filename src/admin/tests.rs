//! The admin listener over real sockets.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::AtomicUsize;

use super::*;

struct Running {
    admin: Admin,
    readiness: Readiness,
    metrics: Metrics,
    drained: Arc<AtomicUsize>,
}

fn start() -> Running {
    let metrics = Metrics::new(1);
    let readiness = Readiness::new();
    let drained = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&drained);
    let state = AdminState {
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        status: StatusCell::default(),
        certificates: Box::new(Vec::new),
        clock: Clock::manual(1_700_000_000),
        log: None,
        drain: Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }),
    };
    let admin = serve(TcpListener::bind("127.0.0.1:0").unwrap(), state).unwrap();
    Running { admin, readiness, metrics, drained }
}

impl Running {
    /// Status and body.
    fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        (status, body.to_owned())
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    }
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
    let head = running.ask("HEAD /status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert_eq!(head, (200, String::new()));
    running.admin.stop();
}

#[test]
fn wrong_paths_and_methods() {
    let running = start();
    assert_eq!(running.get("/nothing").0, 404);
    assert_eq!(running.get("/drain").0, 405);
    let post = "POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(running.ask(post).0, 405);
    assert_eq!(running.ask("nonsense\r\n\r\n").0, 400);
    assert_eq!(running.drained.load(Ordering::Relaxed), 0);
    running.admin.stop();
}

#[test]
fn drain_is_for_this_host_and_no_browser() {
    let running = start();
    let browser = "POST /drain HTTP/1.1\r\nhost: x\r\norigin: https://evil.example\r\n\
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
    let request = http::Request::post("/drain").body(()).unwrap();
    let state = AdminState {
        metrics: running.metrics.clone(),
        readiness: running.readiness.clone(),
        status: StatusCell::default(),
        certificates: Box::new(Vec::new),
        clock: Clock::manual(0),
        log: None,
        drain: Box::new(|| panic!("must not drain")),
    };
    let answer = pages::answer(&state, "203.0.113.9:1".parse().unwrap(), &request);
    assert_eq!(answer.status(), 403);
    let mapped = pages::answer(&state, "[::ffff:203.0.113.9]:1".parse().unwrap(), &request);
    assert_eq!(mapped.status(), 403);
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
    // Ends by the listener's time-out, not by ours.
    assert!(stream.read_to_end(&mut answer).is_ok());
    running.admin.stop();
}
