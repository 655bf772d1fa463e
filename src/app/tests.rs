//! A whole worker in one thread, over socket pairs: what no test from outside can show, because
//! there it would depend on the machine's load. Nothing here waits for time: turns of the scheduler
//! are counted.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderName;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::config::{Config, Settings, ThisHost};
use crate::core::{Digest, KeySpec, KeyStatus};
use crate::proxy::fuzz::Service;
use crate::snapshot::Snapshot;
use crate::table::{KeySet, testkit};
use crate::token::sign::TokenKey;
use crate::token::sign::assertion::{AssertionBinding, Assertions};
use crate::token::sign::credential::{CredentialForm, UpstreamCredential, UpstreamTokens};
use crate::token::sign::template::ClaimsTemplate;

const CONFIG: &str = concat!(
    "environment = \"live\"\n",
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/minimal.toml")),
    r#"[[credentials]]
source = "header"
name = "x-api-key"
[[routes]]
path = "/*"
permissions = ["read"]
"#
);

const GOES: &str = "wa_secret_that_goes";
const STAYS: &str = "wa_secret_that_stays";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// After this many turns nothing moves any more, whatever the test has done. A turn checks every
/// socket and runs every task that was woken.
const TURNS: usize = 32;

struct Bench {
    service: Service,
    upstream: UnixListener,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

/// Keys of table `serial`: one that disappears with table 2, one that stays.
fn keys(serial: u64) -> KeySet {
    let key =
        |n, secret: &str| KeySpec { digest: Digest::of(secret.as_bytes()), ..testkit::spec(n) };
    let mut goes = key(1, GOES);
    if serial > 1 {
        goes.grant.status = KeyStatus::Revoked;
    }
    let table = testkit::table(serial, &[goes, key(2, STAYS)]);
    KeySet::new(Arc::new(table), None, &[], None)
}

fn head(method: &str, path: &str, secret: &str) -> Vec<u8> {
    let more = if method == "POST" { "transfer-encoding: chunked\r\n" } else { "" };
    format!("{method} {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {secret}\r\n{more}\r\n").into()
}

fn request(path: &str, secret: &str) -> http::Request<Empty<Bytes>> {
    let request = http::Request::get(format!("http://a{path}")).header("x-api-key", secret);
    request.body(Empty::new()).unwrap()
}

async fn turns() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

/// The bytes that can be read, and whether the peer has closed or reset the connection.
fn drained(stream: &UnixStream) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        match stream.try_read(&mut buffer) {
            Ok(0) => return (all, true),
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return (all, false),
            Err(_) => return (all, true),
        }
    }
}

/// Writes until the other side takes no more.
async fn fill(stream: &UnixStream, piece: &[u8]) {
    let mut quiet = 0;
    while quiet < 3 {
        match stream.try_write(piece) {
            Ok(_) => quiet = 0,
            Err(_) => quiet += 1,
        }
        turns().await;
    }
}

#[derive(Clone)]
struct Here;

impl<F: Future + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

// === impl Bench ===

impl Bench {
    fn run<F: Future<Output = ()>>(test: impl FnOnce(Rc<Self>) -> F) {
        Self::run_with("", test);
    }

    /// The same with an addition to the configuration.
    fn run_with<F: Future<Output = ()>>(more: &str, test: impl FnOnce(Rc<Self>) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("upstream");
            let upstream = UnixListener::bind(&socket).unwrap();
            let url = format!("unix:{}", socket.display());
            let text = CONFIG.replace("http://127.0.0.1:1", &url) + more;
            let config = Config::parse(&ThisHost, Path::new("keygate.toml"), &text).unwrap();
            let snapshot = |settings, route_slots| Snapshot {
                settings,
                keys: Some(Arc::new(keys(1))),
                route_slots,
            };
            let service = Service::new(config, snapshot, 1_767_225_600);
            let bench = Rc::new(Self { service, upstream, socket, _folder: folder });
            // Limits a test that waits for something that never happens.
            let limit = std::time::Duration::from_secs(20);
            tokio::time::timeout(limit, test(bench)).await.expect("an end in time");
        });
    }

    fn connect(&self) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        self.service.start(far, "192.0.2.7:4711".parse().unwrap());
        near
    }

    async fn connect_http2(&self) -> SendRequest<Empty<Bytes>> {
        let io = TokioIo::new(self.connect());
        let (sender, connection) = hyper::client::conn::http2::handshake(Here, io).await.unwrap();
        tokio::task::spawn_local(connection);
        sender
    }

    /// The upstream's side of the next request that arrives over a new connection, its head read.
    async fn accept(&self) -> UnixStream {
        self.accept_head().await.0
    }

    /// The same, with the head.
    async fn accept_head(&self) -> (UnixStream, String) {
        let (mut stream, _) = self.upstream.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        (stream, String::from_utf8(head).unwrap())
    }

    fn revoke(&self) {
        self.service.swap(|now| Snapshot {
            settings: Arc::clone(&now.settings),
            keys: Some(Arc::new(keys(2))),
            route_slots: now.route_slots.clone(),
        });
    }

    fn shows(&self, line: &str) {
        let metrics = self.service.metrics();
        assert!(metrics.lines().any(|l| l == line), "{line}:\n{metrics}");
    }
}

/// Panics where keygate logs that it cannot reach the upstream: a fault in the middle of a request
/// that needs no hook in the program.
struct Trap;

impl tracing::Subscriber for Trap {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "keygate::proxy::upstream::connect"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        panic!("a fault of ours");
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_panic_ends_its_request_only() {
    Bench::run(async |bench| {
        let mut h1 = bench.connect();
        h1.write_all(&head("GET", "/slow", STAYS)).await.unwrap();
        let mut first = bench.accept().await;
        let mut h2 = bench.connect_http2().await;
        let running = tokio::task::spawn_local(h2.send_request(request("/slow", STAYS)));
        let mut second = bench.accept().await;
        std::fs::remove_file(&bench.socket).unwrap();
        let trap = tracing::subscriber::set_default(Trap);
        // Over HTTP/1 the request's connection is closed. Over HTTP/2 its stream is reset.
        let mut broken = bench.connect();
        broken.write_all(&head("GET", "/x", STAYS)).await.unwrap();
        let mut seen = Vec::new();
        broken.read_to_end(&mut seen).await.unwrap();
        assert!(seen.is_empty(), "{}", seen.escape_ascii());
        let error = h2.send_request(request("/x", STAYS)).await.unwrap_err();
        assert!(!error.is_closed(), "{error:?}");
        drop(trap);
        // The requests that ran in parallel are answered.
        first.write_all(OK).await.unwrap();
        second.write_all(OK).await.unwrap();
        let mut answer = vec![0; 15];
        h1.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200 OK");
        let answer = running.await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
        // The worker, the connection of the reset stream and the upstream's places still work.
        let unknown = h2.send_request(request("/x", "wa_nobody")).await.unwrap();
        assert_eq!(unknown.status(), 401);
        drop((first, second));
        let down = h2.send_request(request("/x", STAYS)).await.unwrap();
        assert_eq!(down.status(), 502);
        let mut next = bench.connect();
        next.write_all(&head("GET", "/x", "wa_nobody")).await.unwrap();
        next.read_exact(&mut [0; 12]).await.unwrap();
        turns().await;
        bench.shows("keygate_panics_total 2");
        bench.shows("keygate_requests_in_flight 0");
        bench.shows("keygate_requests_aborted_total 0");
        let counted = bench.service.metrics();
        let line = "keygate_requests_total{code=\"500\",method=\"GET\",route=\"";
        assert!(counted.lines().any(|l| l.starts_with(line) && l.ends_with(" 2")), "{counted}");
        assert_eq!(bench.service.running(), 0);
    });
}

/// Whatever a drain cuts off, its client was still there.
#[test]
fn a_drain_counts_nobody_as_gone() {
    Bench::run(async |bench| {
        let mut waits = bench.connect();
        waits.write_all(&head("GET", "/slow", STAYS)).await.unwrap();
        let _silent = bench.accept().await;
        let mut reads = bench.connect();
        reads.write_all(&head("GET", "/slow", STAYS)).await.unwrap();
        let mut half = bench.accept().await;
        half.write_all(CHUNKED).await.unwrap();
        reads.read_exact(&mut [0; 12]).await.unwrap();
        let mut h2 = bench.connect_http2().await;
        let running = tokio::task::spawn_local(h2.send_request(request("/slow", STAYS)));
        let mut second = bench.accept().await;
        second.write_all(CHUNKED).await.unwrap();
        let answer = running.await.unwrap().unwrap();
        turns().await;
        bench.service.cut();
        turns().await;
        drop(answer);
        bench.shows("keygate_requests_in_flight 0");
        bench.shows("keygate_requests_failed_total{reason=\"shutdown\"} 3");
        bench.shows("keygate_requests_aborted_total 0");
        let counted = bench.service.metrics();
        for (code, count) in [("200", " 2"), ("503", " 1")] {
            let line = format!("keygate_requests_total{{code=\"{code}\",method=\"GET\",route=\"");
            let is_it = |l: &str| l.starts_with(&line) && l.ends_with(count);
            assert!(counted.lines().any(is_it), "{counted}");
        }
    });
}

/// The swap itself wakes the code that ends streams: no timer runs here, and the clock stands
/// still. Bytes that were ready to be read at the moment of the swap, on either side, are not
/// passed on.
#[test]
fn a_swap_ends_its_streams_at_once() {
    Bench::run(async |bench| {
        bench.service.watch_snapshots();
        turns().await;
        // Read by their clients: one whose key is removed, one whose key stays.
        let goes = bench.connect();
        goes.writable().await.unwrap();
        goes.try_write(&head("GET", "/events", GOES)).unwrap();
        let from_goes = bench.accept().await;
        let stays = bench.connect();
        stays.try_write(&head("GET", "/events", STAYS)).unwrap();
        let from_stays = bench.accept().await;
        for upstream in [&from_goes, &from_stays] {
            upstream.try_write(CHUNKED).unwrap();
            upstream.try_write(b"5\r\nfirst\r\n").unwrap();
        }
        // Read by nobody.
        let lazy = bench.connect();
        lazy.try_write(&head("GET", "/flood", GOES)).unwrap();
        let from_lazy = bench.accept().await;
        from_lazy.try_write(CHUNKED).unwrap();
        fill(&from_lazy, &[b"1000\r\n".as_slice(), &[b'x'; 4096], b"\r\n"].concat()).await;
        // Sends, and gets no answer.
        let upload = bench.connect();
        upload.try_write(&head("POST", "/upload", GOES)).unwrap();
        let to_upload = bench.accept().await;
        upload.try_write(b"5\r\nfirst\r\n").unwrap();
        // A stream whose client requests no more of it.
        let mut h2 = bench.connect_http2().await;
        let asked = tokio::task::spawn_local(h2.send_request(request("/flood", GOES)));
        let from_h2 = bench.accept().await;
        from_h2.try_write(CHUNKED).unwrap();
        let held = asked.await.unwrap().unwrap();
        fill(&from_h2, &[b"1000\r\n".as_slice(), &[b'x'; 4096], b"\r\n"].concat()).await;
        turns().await;
        assert!(drained(&goes).0.ends_with(b"5\r\nfirst\r\n"));
        assert!(drained(&stays).0.ends_with(b"5\r\nfirst\r\n"));
        assert_eq!(drained(&to_upload).0, b"5\r\nfirst\r\n");
        assert_eq!(bench.service.running(), 5);

        from_goes.try_write(b"4\r\nlate\r\n").unwrap();
        upload.try_write(b"4\r\nlate\r\n").unwrap();
        bench.revoke();
        turns().await;

        assert_eq!(bench.service.running(), 1, "all but one have ended");
        assert_eq!(drained(&goes), (Vec::new(), true), "not one byte more, and not a whole body");
        assert_eq!(drained(&to_upload), (Vec::new(), true), "not one byte more");
        for upstream in [&from_goes, &from_lazy, &from_h2] {
            assert!(drained(upstream).1, "the upstream is still read from");
        }
        let (answer, _) = drained(&upload);
        assert!(answer.starts_with(b"HTTP/1.1 401"), "{}", answer.escape_ascii());
        let error = held.into_body().collect().await.unwrap_err();
        assert!(!error.is_closed(), "the stream is reset, not its connection: {error:?}");
        bench.shows("keygate_streams_ended_total{reason=\"revoked\"} 4");
        // What is on its way to the client that does not read ends with a reset, or not at all.
        let (flood, over) = drained(&lazy);
        assert!(over && !flood.ends_with(b"0\r\n\r\n"));
        // The other key notices nothing.
        from_stays.try_write(b"4\r\nlate\r\n").unwrap();
        turns().await;
        assert_eq!(drained(&stays), (b"4\r\nlate\r\n".to_vec(), false));
        drop(h2);
    });
}

/// `until` needs no reload, no thread and no new connection, and running requests continue.
#[test]
fn observing_ends_by_itself_in_the_middle_of_traffic() {
    const CLOSES: &[u8] =
        b"HTTP/1.1 401 X\r\nconnection: close\r\ncontent-length: 7\r\n\r\nservice";
    Bench::run_with("[observe]\nuntil = 2026-01-01T00:01:00Z\n", async |bench| {
        let mut client = bench.connect();
        let ask = head("GET", "/a", "wa_nobody");
        for _ in 0..2 {
            client.write_all(&ask).await.unwrap();
            let (mut upstream, head) = bench.accept_head().await;
            assert!(head.contains("x-api-key: wa_nobody"), "{head}");
            upstream.write_all(CLOSES).await.unwrap();
            drop(upstream);
            turns().await;
            let (answer, _) = drained(&client);
            assert!(answer.ends_with(b"service"), "{}", answer.escape_ascii());
        }
        let running = bench.connect();
        running.try_write(&head("GET", "/events", "wa_nobody")).unwrap();
        let events = bench.accept().await;
        events.try_write(CHUNKED).unwrap();
        events.try_write(b"5\r\nfirst\r\n").unwrap();
        turns().await;
        assert!(drained(&running).0.ends_with(b"5\r\nfirst\r\n"));

        bench.service.advance(std::time::Duration::from_millis(59_999));
        client.write_all(&ask).await.unwrap();
        drop(bench.accept().await);
        turns().await;
        assert!(drained(&client).0.starts_with(b"HTTP/1.1 502"), "the service broke off");

        bench.service.advance(std::time::Duration::from_millis(1));
        client.write_all(&ask).await.unwrap();
        turns().await;
        let (answer, _) = drained(&client);
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.starts_with("HTTP/1.1 401") && text.contains("invalid_key"), "{text}");
        // A good key is admitted, and reaches the service, which still checks it.
        client.write_all(&head("GET", "/a", STAYS)).await.unwrap();
        let (mut upstream, head) = bench.accept_head().await;
        assert!(
            head.contains(&format!("x-api-key: {STAYS}")) && head.contains("x-key-id"),
            "{head}"
        );
        upstream.write_all(OK).await.unwrap();
        turns().await;
        assert!(drained(&client).0.ends_with(b"ok"));
        events.try_write(b"4\r\nlate\r\n").unwrap();
        turns().await;
        assert_eq!(drained(&running), (b"4\r\nlate\r\n".to_vec(), false));
    });
}

/// A caller who is only observed must not notice a fault in keygate.
#[test]
fn what_cannot_be_signed_refuses_nobody_who_is_observed() {
    for passage in ["forward", "strip"] {
        let observe = format!("[observe]\ncredentials = \"{passage}\"\n");
        Bench::run_with(&observe, async |bench| {
            let unsigned = |settings: &Settings| {
                let claims = ClaimsTemplate::parse(r#"{"org":"$org","exp":"$exp"}"#).unwrap();
                let tokens =
                    UpstreamTokens { key: TokenKey::broken(), claims, life: 60, scheme: "Bearer " };
                let credential = UpstreamCredential {
                    field: http::header::AUTHORIZATION,
                    form: CredentialForm::Token(tokens),
                };
                let assertion = Assertions {
                    field: HeaderName::from_static("x-identity-assertion"),
                    issuer: "keygate".into(),
                    audience: "orders".into(),
                    life: 60,
                    binding: AssertionBinding::Request,
                    key: TokenKey::broken(),
                    also_published: Vec::new(),
                };
                Settings {
                    assertion: Some(Arc::new(assertion)),
                    credential: Some(Arc::new(credential)),
                    ..settings.clone()
                }
            };
            bench.service.swap(|now| Snapshot {
                settings: Arc::new(unsigned(&now.settings)),
                keys: now.keys.clone(),
                route_slots: now.route_slots.clone(),
            });
            let mut client = bench.connect();
            client.write_all(&head("GET", "/a", STAYS)).await.unwrap();
            let (mut upstream, head) = bench.accept_head().await;
            assert!(head.contains("x-key-id") && !head.contains("x-identity-assertion"), "{head}");
            upstream.write_all(OK).await.unwrap();
            turns().await;
            assert!(drained(&client).0.ends_with(b"ok"));
            bench.shows(
                "keygate_observe_total{reason=\"internal\",route=\"/*\",upstream=\"2xx\",\
                 verdict=\"deny\"} 1",
            );
        });
    }
}
