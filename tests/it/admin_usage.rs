//! The use of keys, from three real sidecars to the management service: it fetches the records, and
//! others report them twice, out of order and cut off. It shows what clients have sent. Also:
//! sidecars that read files are asked what they have.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use crate::support::client::{Client, exchange};
use crate::support::gate::{AUDIENCE, Folder, Gate, Key, keygatectl};
use crate::support::http::Message;
use crate::support::process::Process;

/// If set, clients send a million requests.
const FULL: &str = "KEYGATE_ADMIN_FULL";

const KEYS: usize = 25;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The secret of the key that calls the service.
const CALLER: &str = "wa_Caller0000000123456789abcd";

/// A running management service.
struct Service {
    folder: Folder,
    process: Process,
    address: SocketAddr,
}

// === impl Service ===

impl Service {
    /// Over the keys of the registry in `keys`, with more of a configuration.
    fn start(keys: &Folder, more: &str) -> Self {
        let folder = Folder::empty();
        let settings = format!(
            "state = \"state\"\n[listen]\naddress = \"127.0.0.1:0\"\n[[audiences]]\nname = \
             \"{AUDIENCE}\"\n{more}\n[[fleets]]\nname = \"web\"\naudiences = [\"{AUDIENCE}\"]\n\
             bearer_file = \"fleet.token\"\n"
        );
        folder.write("admin.toml", &settings);
        folder.write_secret("fleet.token", TOKEN);
        std::fs::create_dir(folder.file("out")).unwrap();
        for name in ["signer.pem", "signer.pub"] {
            std::fs::copy(keys.file(name), folder.file(name)).unwrap();
        }
        folder.ctl(&["admin", "migrate"]);
        folder.ctl(&["admin", "import", keys.file("keys.toml").to_str().unwrap()]);
        Self::serve(folder)
    }

    fn serve(folder: Folder) -> Self {
        let process = Process::start(keygatectl(folder.path()).args(["admin", "serve"]));
        let line = process.wait_for_line("listening on http://");
        let address = line.rsplit('/').next().unwrap().trim().parse().unwrap();
        Self { folder, process, address }
    }

    fn get(&self, path: &str) -> serde_json::Value {
        let told = exchange(
            self.address,
            format!(
                "GET {path} HTTP/1.1\r\nhost: {}\r\nx-api-key: {CALLER}\r\nconnection: close\r\n\r\n",
                self.address
            ),
        );
        assert_eq!(told.status(), 200, "{path}: {}", told.body_text());
        told.json()
    }

    /// Reports a record, in parts of at most 256 KiB as sidecars do.
    fn report(&self, record: &[u8]) -> Message {
        let head = format!(
            "POST /v1/usage HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: \
             {}\r\nconnection: close\r\n\r\n",
            self.address,
            record.len()
        );
        exchange(self.address, [head.as_bytes(), record].concat())
    }

    fn admitted(&self, n: usize) -> u64 {
        let usage = self.get(&format!("/v1/orgs/acme/keys/{}/usage", id(n)));
        let sum = |list: &str| -> u64 {
            usage[list].as_array().unwrap().iter().map(|b| b["admitted"].as_u64().unwrap()).sum()
        };
        assert_eq!(sum("hours"), sum("days"), "{usage}");
        sum("days")
    }
}

fn id(n: usize) -> String {
    format!("key_counted{n}")
}

fn secret(n: usize) -> String {
    format!("wa_Counted{n:06}0123456789abcd")
}

/// Answers everything, and records nothing.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let (mut seen, mut piece) = (Vec::new(), [0; 8192]);
                while let Ok(read) = stream.read(&mut piece) {
                    if read == 0 {
                        return;
                    }
                    seen.extend_from_slice(&piece[..read]);
                    while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                        seen.drain(..end + 4);
                        if stream
                            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                            .is_err()
                        {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

fn sidecar(upstream: SocketAddr, name: &str) -> Gate {
    let mut setup = Gate::before_address(upstream)
        .also(&format!("[workers]\ncount = 1\n[usage]\ninstance = \"{name}\""))
        .key(Key::new("key_caller", CALLER).may("usage:read").may("keys:read").may("audit:read"));
    for n in 0..KEYS {
        setup = setup.key(Key::new(&id(n), &secret(n)).may("read"));
    }
    setup.start()
}

/// Sends this many requests, with all keys in turn. Returns how many of each were admitted.
fn send(to: SocketAddr, first: usize, count: usize) -> HashMap<usize, u64> {
    let mut connection = Client::connect(to);
    let mut sent = HashMap::new();
    for n in 0..count {
        let key = (first + n * 7) % KEYS;
        let request =
            format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {}\r\n\r\n", secret(key));
        let told = connection.send(request).response();
        assert_eq!(told.status(), 200, "{}", told.body_text());
        *sent.entry(key).or_default() += 1;
    }
    sent
}

/// To all of them at once.
fn send_all(gates: &[&Gate], round: usize, count: usize, tally: &mut HashMap<usize, u64>) {
    let clients: Vec<_> = gates
        .iter()
        .enumerate()
        .map(|(n, gate)| {
            let address = gate.address;
            thread::spawn(move || send(address, n + round, count))
        })
        .collect();
    for client in clients {
        for (key, sent) in client.join().unwrap() {
            *tally.entry(key).or_default() += sent;
        }
    }
}

fn record(gate: &Gate) -> Vec<u8> {
    let told = gate.probe("/usage?since=0");
    assert_eq!(told.status(), 200, "{}", told.body_text());
    told.body
}

#[test]
fn sums_are_what_clients_have_sent_whatever_becomes_of_the_reports() {
    const ROUNDS: usize = 4;
    let requests = if std::env::var_os(FULL).is_some() { 1_000_000 } else { 3_000 };
    let each = requests / 3 / (ROUNDS + 1);
    let upstream = upstream();
    let gates = ["a", "b", "c"].map(|name| sidecar(upstream, name));
    // The service also fetches: a second reader of the same counts.
    let pulls: String = gates
        .iter()
        .map(|gate| format!("[[usage.pull]]\nurl = \"http://{}/usage\"\n", gate.admin))
        .collect();
    let service = Service::start(&gates[0].folder, &pulls);
    let mut tally = HashMap::new();
    let mut records = Vec::new();
    for round in 0..ROUNDS {
        send_all(&[&gates[0], &gates[1], &gates[2]], round, each, &mut tally);
        for gate in &gates {
            let whole = record(gate);
            // Cut off in the middle of a line: the complete lines still count once.
            let cut = service.report(&whole[..whole.len() * 2 / 3]);
            assert!([200, 400].contains(&cut.status()), "{}", cut.body_text());
            // Every third is reported much later, and the others twice.
            if (round + records.len()) % 3 != 0 {
                for _ in 0..2 {
                    let told = service.report(&whole);
                    assert_eq!(told.status(), 200, "{}", told.body_text());
                }
            }
            records.push(whole);
        }
    }
    for old in records.iter().rev() {
        assert_eq!(service.report(old).status(), 200);
    }
    for n in 0..KEYS {
        assert_eq!(service.admitted(n), tally[&n], "{}", id(n));
    }

    // One is killed: only what it has counted since its last report is lost.
    let [a, b, killed] = gates;
    let mut lost = HashMap::new();
    send_all(&[&killed], 9, each, &mut lost);
    // The process is ended by SIGKILL.
    drop(killed.process);
    send_all(&[&a, &b], 11, each, &mut tally);
    for gate in [&a, &b] {
        assert_eq!(service.report(&record(gate)).status(), 200);
    }
    let mut after = HashMap::new();
    for n in 0..KEYS {
        let shown = service.admitted(n);
        let most = tally[&n] + lost.get(&n).copied().unwrap_or_default();
        assert!((tally[&n]..=most).contains(&shown), "{}: {shown} of {most}", id(n));
        after.insert(n, shown);
    }
    // It starts again and counts from zero.
    let again = Gate::serve(killed.folder);
    again.wait_ready();
    send_all(&[&again], 13, each, &mut after);
    assert_eq!(service.report(&record(&again)).status(), 200);
    for old in &records {
        assert_eq!(service.report(old).status(), 200);
    }
    for n in 0..KEYS {
        assert_eq!(service.admitted(n), after[&n], "{}", id(n));
    }
}

/// A sidecar that reads files reports nothing: the service asks it, and so knows what it has.
#[test]
fn a_sidecar_that_reads_files_is_asked_what_it_has() {
    let setup = Gate::before_address(upstream())
        .key(Key::new("key_caller", CALLER).may("keys:read").may("audit:read"))
        .key(Key::new(&id(0), &secret(0)).may("read"));
    let keys = setup.folder();
    let published = "signer = \"signer.pem\"\n[[audiences.targets]]\ndirectory = \"out\"";
    let service = Service::start(&keys, published);
    let out = service.folder.file("out");
    service.process.eventually("a table", || out.join("keys.kgt").exists());
    // The sidecar reads what the service publishes.
    let table = format!("path = \"{}\"", out.join("keys.kgt").display());
    let patch = format!("{table}\npatch = \"{}\"", out.join("keys.kgp").display());
    keys.write("keygate.toml", &keys.read("keygate.toml").replace("path = \"keys.kgt\"", &patch));
    let gate = Gate::serve(keys);
    gate.wait_ready();
    let Service { folder, process, .. } = service;
    process.signal("TERM");
    assert!(process.wait(std::time::Duration::from_secs(20)).is_some());
    let asked = format!("[[status.pull]]\nurl = \"http://{}/status\"\n[[fleets]]", gate.admin);
    folder.write("admin.toml", &folder.read("admin.toml").replacen("[[fleets]]", &asked, 1));
    let service = Service::serve(folder);
    let sidecars = || {
        let request = "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        exchange(service.address, request).body_text()
    };
    let current = format!("keygate_admin_sidecars{{audience=\"{AUDIENCE}\",state=\"current\"}} 1");
    service.process.eventually("the sidecar has said it", || sidecars().contains(&current));
    // A change is known to be in force there, not only to be published.
    service.folder.ctl(&["admin", "revoke", &id(0)]);
    let refused = || {
        let request = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {}\r\n\r\n", secret(0));
        Client::connect(gate.address).send(request).response().status() == 401
    };
    gate.process.eventually("the revocation", refused);
    service.process.eventually("the sidecar is current again", || sidecars().contains(&current));
}
