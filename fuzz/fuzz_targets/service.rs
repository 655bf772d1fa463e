//! The whole service between two socket pairs, and what may reach the upstream.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use keygate::config::{Config, ThisHost};
use keygate::core::{
    Digest, Environment, Grant, KeyId, KeySpec, Kind, NetworkSet, OrgId, Permission, PermissionSet,
    Status, path,
};
use keygate::proxy::fuzz::Service;
use keygate::snapshot::Snapshot;
use keygate::table::{BodyBuilder, InMemory, Issue, KeySet, Table};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

#[path = "sealed.rs"]
mod sealed;

pub const SECRET: &str = "wa_secret0123456789";

const CONFIG: &str = r#"
environment = "live"
[listen]
address = "127.0.0.1:0"
[upstream]
url = "unix:SOCKET"
[table]
path = "keys.kgt"
audience = "test"
trusted_signers = ["ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="]
[[credentials]]
source = "header"
name = "x-api-key"
[[credentials]]
source = "bearer"
prefixes = ["wa_"]
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
"#;

/// A runtime, a recording upstream, and the service twice: with the key, and with a table that has
/// none.
struct Bench {
    runtime: tokio::runtime::LocalRuntime,
    services: [Service; 2],
    sent: Rc<RefCell<Vec<Vec<u8>>>>,
}

thread_local!(static BENCH: Bench = Bench::new());

/// Sends `input` as a client. Panics when the upstream gets what it must not.
pub fn run(with_key: bool, input: &[u8]) {
    BENCH.with(|bench| {
        let sent = bench.exchange(with_key, input);
        for connection in sent {
            judge(&connection, with_key);
        }
    });
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .expect("a runtime");
        let socket = std::env::temp_dir().join(format!("keygate-fuzz-{}", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let text = CONFIG.replace("SOCKET", socket.to_str().expect("UTF-8"));
        let sent = Rc::new(RefCell::new(Vec::new()));
        let (services, listener) = runtime.block_on(async {
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
        let record = Rc::clone(&sent);
        runtime.spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(upstream(stream, Rc::clone(&record)));
            }
        });
        let bench = Self { runtime, services, sent };
        // An oracle that sees nothing would find nothing.
        let admitted = bench.exchange(
            true,
            b"GET /x HTTP/1.1\r\nhost: a\r\nx-api-key: wa_secret0123456789\r\n\r\n",
        );
        let shown = admitted.concat().escape_ascii().to_string();
        assert!(shown.contains("x-key-id: key_fuzz"), "the service forwards: {shown}");
        bench
    }

    fn exchange(&self, with_key: bool, input: &[u8]) -> Vec<Vec<u8>> {
        let service = &self.services[usize::from(with_key)];
        self.runtime.block_on(async {
            let (mut near, far) = UnixStream::pair().expect("a pair");
            service.start(far, "192.0.2.7:4711".parse().expect("an address"));
            near.write_all(input).await.expect("inputs are smaller than a socket's buffer");
            let mut buffer = [0; 4096];
            let mut quiet = 0;
            // All happens in this thread: when nothing moves for some turns, nothing will.
            while quiet < 24 && service.open() > 0 || quiet < 2 {
                quiet += 1;
                if quiet == 12 {
                    let _ = near.shutdown().await;
                }
                while near.try_read(&mut buffer).is_ok_and(|n| n > 0) {
                    quiet = quiet.min(12);
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
        });
        self.sent.borrow_mut().drain(..).collect()
    }
}

/// Answers one request per connection as soon as its head is there, and records every byte.
async fn upstream(mut stream: UnixStream, record: Rc<RefCell<Vec<Vec<u8>>>>) {
    let at = {
        let mut record = record.borrow_mut();
        record.push(Vec::new());
        record.len() - 1
    };
    let mut answered = false;
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        let whole = {
            let mut record = record.borrow_mut();
            // Of an input that is over: judged without this.
            let Some(bytes) = record.get_mut(at) else { return };
            bytes.extend_from_slice(&buffer[..n]);
            bytes.windows(4).any(|w| w == b"\r\n\r\n")
        };
        if whole && !answered {
            answered = true;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}

/// The oracle, without the crate's parsers but the path's.
fn judge(bytes: &[u8], with_key: bool) {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        assert!(bytes.is_empty(), "half a head: {}", bytes.escape_ascii());
        return;
    };
    let shown = bytes.escape_ascii().to_string();
    let head = &bytes[..end];
    assert!(head.iter().all(|b| !matches!(b, 0 | 0x7f)), "control byte: {shown}");
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(at) = rest.windows(2).position(|w| w == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    assert!(lines.iter().all(|l| !l.contains(&b'\r') && !l.contains(&b'\n')), "bare end: {shown}");
    let request = std::str::from_utf8(lines[0]).expect("a request line in ASCII");
    let words: Vec<&str> = request.split(' ').collect();
    assert!(words.len() == 3 && words[2] == "HTTP/1.1", "request line: {shown}");
    let (path, query) = words[1].split_once('?').unwrap_or((words[1], ""));
    path::scan(path.as_bytes()).expect("the path that is sent is one that was judged");
    let mut identified = false;
    let mut framing = 0;
    let mut hosts = 0;
    for line in &lines[1..] {
        let colon = line.iter().position(|b| *b == b':').unwrap_or_else(|| panic!("{shown}"));
        let name = line[..colon].to_ascii_lowercase();
        let value = line[colon + 1..].trim_ascii();
        assert!(!name.is_empty() && !name.contains(&b'_') && !name.contains(&b' '), "{shown}");
        // As a lenient server reads it.
        let folded: String = name
            .iter()
            .map(|b| if b.is_ascii_alphanumeric() { char::from(*b) } else { '-' })
            .collect();
        match folded.as_str() {
            "x-org-id" => assert_eq!(value, b"acme", "{shown}"),
            "x-key-id" => assert_eq!(value, b"key_fuzz", "{shown}"),
            "x-key-name" => assert_eq!(value, b"Fuzz", "{shown}"),
            "x-permissions" => assert_eq!(value, b"read", "{shown}"),
            "x-forwarded-for" | "x-real-ip" => assert_eq!(value, b"192.0.2.7", "{shown}"),
            "x-api-key" | "proxy-authorization" | "te" | "upgrade" | "trailer" => {
                panic!("{folded}: {shown}")
            }
            "authorization" => {
                let text = String::from_utf8_lossy(value).to_ascii_lowercase();
                let token = text.strip_prefix("bearer ").unwrap_or("").trim();
                assert!(!token.starts_with("wa_"), "{shown}");
            }
            "cookie" => {
                for cookie in value.split(|b| *b == b';') {
                    // Whitespace around a name is no part of it; inside, it makes another name.
                    let name = cookie.split(|b| *b == b'=').next().unwrap_or_default();
                    assert!(name.trim_ascii() != b"key" || !cookie.contains(&b'='), "{shown}");
                }
            }
            "content-length" | "transfer-encoding" => framing += 1,
            "host" => hosts += 1,
            _ => {}
        }
        identified |= matches!(folded.as_str(), "x-org-id" | "x-key-id");
    }
    assert!(framing <= 1 && hosts == 1, "framing or Host: {shown}");
    let ours = |pair: &str| {
        let decoded = percent_encoding::percent_decode_str(pair).collect::<Vec<_>>();
        decoded.starts_with(b"api_key=")
    };
    assert!(!query.split('&').any(ours), "{shown}");
    assert!(!identified || with_key, "identity without a key: {shown}");
    assert!(
        identified || path == "/open" || path.starts_with("/open/"),
        "nobody was admitted: {shown}"
    );
}

/// One key that may read, or none.
fn keys(with_key: bool) -> KeySet {
    let mut builder = BodyBuilder::new(InMemory, 1 << 20);
    if with_key {
        builder
            .push(&KeySpec {
                id: KeyId::parse("key_fuzz").expect("an id"),
                org: OrgId::parse("acme").expect("an organisation"),
                name: "Fuzz".into(),
                digest: Digest::of(SECRET.as_bytes()),
                public_id: None,
                expires: None,
                grant: Grant {
                    status: Status::Active,
                    kind: Kind::Single,
                    environment: Some(Environment::Live),
                    not_before: None,
                    permissions: PermissionSet::new([Permission::parse("read").expect("a word")]),
                    networks: NetworkSet::default(),
                    limit: None,
                },
            })
            .expect("a key");
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
