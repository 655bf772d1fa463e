//! The whole service between a client and an upstream of the input's making.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use keygate::config::{Config, ThisHost};
use keygate::core::{Digest, Environment, Grant, KeyId, KeyKind, KeySpec, KeyStatus, LimitSet, NetworkSet, OrgId, Permission, PermissionSet};
use keygate::proxy::fuzz::Service;
use keygate::snapshot::Snapshot;
use keygate::table::{Issue, KeySet, Table};
use keygate::table::write::{BodyBuilder, InMemory};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

#[path = "oracle.rs"]
mod oracle;
#[path = "sealed.rs"]
mod sealed;
#[path = "upstream.rs"]
mod upstream;

use upstream::{MARK, Record, Ways};

pub const SECRET: &str = "wa_secret0123456789";

const CONFIG: &str = concat!(
    "environment = \"live\"\n",
    include_str!("../../tests/data/minimal.toml"),
    r#"[[credentials]]
source = "header"
name = "x-api-key"
[[credentials]]
source = "bearer"
prefixes = ["wa_"]
[[credentials]]
source = "basic"
prefixes = ["wa_"]
[[credentials]]
source = "pair"
id = "x-pair-id"
secret = "x-pair-secret"
[[credentials]]
source = "subprotocol"
marker = "keygate.key."
[[credentials]]
source = "query"
name = "api_key"
[[credentials]]
source = "cookie"
name = "key"
[[routes]]
path = "/*"
permissions = ["read"]
[[routes]]
path = "/open/*"
access = "public"
[[routes]]
path = "/either/*"
access = "key-or-pass"
permissions = ["read"]
[[routes]]
id = "watched"
path = "/watched/*"
permissions = ["write"]
[[routes]]
path = "/ws/*"
permissions = ["read"]
upgrade = ["websocket"]
[observe]
routes = ["watched"]
credentials = "strip"
"#
);

/// A runtime, a recording upstream, and the service twice: with the keys, and with a table that has
/// none.
struct Bench {
    runtime: tokio::runtime::LocalRuntime,
    services: [Service; 2],
    record: Rc<Record>,
    _socket: TempDir,
}

/// What came of an input: by connection to the upstream, and to the client.
struct Outcome {
    sent: Vec<Vec<u8>>,
    got: Vec<u8>,
}

thread_local!(static BENCH: Bench = Bench::new());

/// Sends `input` as a client. Of `first`, bit 0 says whether there are keys; 2 and above are
/// [`Ways`]. Panics when the upstream gets what it must not, or the client what is not its own.
pub fn run(first: u8, input: &[u8]) {
    BENCH.with(|bench| {
        let outcome = bench.exchange(first, input);
        let judged = outcome.sent.iter().flat_map(|c| oracle::judge(c, first & 1 == 1));
        let mut once: Vec<&str> = judged.collect();
        once.sort_unstable();
        assert!(once.windows(2).all(|w| w[0] != w[1]), "sent twice: {once:?}");
        oracle::judge_answers(&outcome.got);
        let forged = oracle::find(&outcome.got, MARK).is_some();
        assert!(!forged || oracle::find(input, MARK).is_some(), "a forged answer was believed");
    });
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .expect("a runtime");
        let folder = TempDir::new().expect("a folder");
        let socket = folder.path().join("upstream");
        let url = format!("unix:{}", socket.display());
        let text = CONFIG.replace("http://127.0.0.1:1", &url);
        let (services, listener) = runtime.block_on(async {
            // libFuzzer's `main` is not Rust's, which makes of a closed socket an error only.
            let _ = signal(SignalKind::pipe()).expect("a handler");
            let listener = UnixListener::bind(&socket).expect("a socket");
            let config = || {
                Config::parse(&ThisHost, Path::new("keygate.toml"), &text).expect("a configuration")
            };
            let make = |key| {
                let snapshot = |settings, route_slots| Snapshot {
                    settings,
                    keys: Some(Arc::new(keys(key))),
                    route_slots,
                };
                Service::new(config(), snapshot, 1_767_225_600)
            };
            ([make(false), make(true)], listener)
        });
        let record = Rc::<Record>::default();
        runtime.spawn_local(Rc::clone(&record).listen(listener));
        let bench = Self { runtime, services, record, _socket: folder };
        bench.check();
        bench
    }

    /// An oracle that sees nothing would find nothing.
    fn check(&self) {
        let get = "GET /x HTTP/1.1\r\nhost: a\r\nx-api-key: wa_secret0123456789\r\n\r\n";
        let twice = [get, get].concat();
        // Closed, kept, and kept with bytes behind the answer: at once, and when it is idle.
        for (ways, connections) in [(0, 2), (4, 1), (4 | 0x80, 2), (4 | 0xc0, 2)] {
            let Outcome { sent, got } = self.exchange(1 | ways, twice.as_bytes());
            let shown = sent.concat().escape_ascii().to_string();
            assert_eq!(shown.matches("x-key-id: key_fuzz").count(), 2, "{ways}: {shown}");
            assert_eq!(sent.len(), connections, "{ways}: {shown}");
            let got = got.escape_ascii().to_string();
            assert_eq!(got.matches("x-echo: ").count(), 2, "{ways}: {got}");
        }
    }

    fn exchange(&self, first: u8, input: &[u8]) -> Outcome {
        let service = &self.services[usize::from(first & 1)];
        let ways = Ways(first);
        self.record.ways.set(ways);
        // Behind the first head, also one of bare line feeds: never two requests at once.
        let ends = [
            oracle::find(input, b"\n\r\n").map(|at| at + 3),
            oracle::find(input, b"\n\n").map(|at| at + 2),
        ];
        let held = ends.into_iter().flatten().min().filter(|_| ways.holds());
        let (now, later) = input.split_at(held.unwrap_or(input.len()));
        self.record.held.set(!later.is_empty());
        self.runtime.block_on(async {
            let (mut near, far) = UnixStream::pair().expect("a pair");
            service.start(far, "192.0.2.7:4711".parse().expect("an address"));
            near.write_all(now).await.expect("inputs are smaller than a socket's buffer");
            let mut got = Vec::new();
            let mut buffer = [0; 4096];
            let mut quiet = 0;
            // All happens in this thread: when nothing moves for some turns, nothing will.
            while quiet < 2 * STILL && service.open() > 0 || quiet < 2 {
                quiet += 1;
                if quiet == STILL {
                    if self.record.held.replace(false) {
                        let _ = near.write_all(later).await;
                        quiet = 0;
                    } else {
                        let _ = near.shutdown().await;
                    }
                }
                while let Ok(n @ 1..) = near.try_read(&mut buffer) {
                    got.extend_from_slice(&buffer[..n]);
                    self.record.moved.set(true);
                }
                if self.record.moved.take() {
                    quiet = if quiet < STILL { 0 } else { STILL };
                }
                tokio::task::yield_now().await;
            }
            drop(near);
            service.cut();
            for _ in 0..64 {
                if service.open() == 0 {
                    break;
                }
                tokio::task::yield_now().await;
            }
            assert_eq!(service.open(), 0, "a connection that is cut ends");
            let sent = self.record.take().await;
            // Sees that they have ended.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            service.sweep();
            Outcome { sent, got }
        })
    }
}

/// Turns without a movement after which the client goes on.
const STILL: usize = 12;

/// A key and a pair that may read, or none.
fn keys(with_key: bool) -> KeySet {
    let mut builder = BodyBuilder::new(InMemory, 1 << 20);
    let of = |id, kind, secret: &str, public_id: Option<&str>| KeySpec {
        id: KeyId::parse(id).expect("an id"),
        org: OrgId::parse("acme").expect("an organisation"),
        name: "Fuzz".into(),
        digest: Digest::of(secret.as_bytes()),
        public_id: public_id.map(Into::into),
        expires: None,
        grant: Grant {
            status: KeyStatus::Active,
            kind,
            environment: Some(Environment::Live),
            not_before: None,
            permissions: PermissionSet::new([Permission::parse("read").expect("a word")]),
            networks: NetworkSet::default(),
            limits: LimitSet::default(),
            sunset: None,
        },
        owner: None,
    };
    if with_key {
        builder.push(&of("key_fuzz", KeyKind::Single, SECRET, None)).expect("a key");
        builder.push(&of("key_pair", KeyKind::Pair, "pair_secret", Some("pair_id"))).expect("a pair");
    }
    let issue = Issue {
        serial: 1,
        includes_through: 1,
        issued_at_ms: 1_000_000,
        expires_at: None,
        audience: sealed::AUDIENCE.into(),
        signers: vec![sealed::public_key().id()],
        acknowledge: vec![keygate::table::Acknowledge::Empty],
    };
    let mut draft = builder.finish().expect("a body").into_table(issue).expect("a draft");
    let signature = sealed::pair().sign(draft.message());
    let signature = signature.as_ref().try_into().expect("64 bytes");
    draft.attach(&sealed::public_key(), &signature).expect("a signature");
    let mut file = Vec::new();
    draft.write(&mut file).expect("memory");
    let table = Table::open(file, &sealed::trust(), &sealed::bounds()).expect("a table");
    KeySet::new(Arc::new(table), None, &[], None)
}
