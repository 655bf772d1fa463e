//! Two instances of the management service on one PostgreSQL, ended in turn while keys are created
//! and revoked at both. Every answered change is in force at real sidecars, none of which refuses a
//! table, a patch or a valid key. No serial has two bodies, and the audit log is complete.

mod one_address;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use keygate::table::Manifest;

use crate::postgres::server;
use crate::support::client::{Client, PATIENCE};
use crate::support::gate::{Folder, Gate, keygatectl};
use crate::support::process::Process;
use crate::support::upstream::Upstream;

/// If set, there are 10,000 changes.
const FULL: &str = "KEYGATE_ADMIN_FULL";

/// One of the two; killed on drop.
struct Instance {
    process: Process,
    address: SocketAddr,
}

/// A key that the service has returned.
struct Told {
    id: String,
    secret: String,
    is_revoked: bool,
    /// It is unknown what happened to its revocation.
    in_doubt: bool,
}

impl Instance {
    fn start(folder: &Folder, name: &str) -> Self {
        let config = format!("{name}.toml");
        let mut command = keygatectl(folder.path());
        let process = Process::start(command.args(["admin", "serve", "--config", &config]));
        // It reads what the other one has done meanwhile, on a busy machine.
        process.soon(PATIENCE * 6, || process.output().contains("listening on"));
        let line = process.wait_for_line("listening on http://");
        let address = line.rsplit('/').next().unwrap().trim().parse().unwrap();
        Self { process, address }
    }
}

/// Status and body. `None`: the instance was ended meanwhile.
fn ask(to: SocketAddr, key: &str, request: &str, body: &str) -> Option<(u16, serde_json::Value)> {
    let text = format!(
        "{request} HTTP/1.1\r\nhost: {to}\r\nx-api-key: {key}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(text.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}

/// Where the two are, and how many changes were answered.
#[derive(Default)]
struct Running {
    addresses: Mutex<[Option<SocketAddr>; 2]>,
    answered: AtomicUsize,
}

/// Creates keys and revokes every third, at whichever instance is running, until `changes` are
/// answered.
fn call(running: &Running, caller: &str, n: usize, changes: usize) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    let mut round = n;
    while running.answered.load(Ordering::SeqCst) < changes {
        round += 1;
        let addresses = *running.addresses.lock().unwrap();
        let Some(to) = addresses[round % 2].or(addresses[(round + 1) % 2]) else { continue };
        let living =
            told.iter_mut().rev().find(|key| !key.is_revoked).filter(|_| round.is_multiple_of(3));
        let answer = match living {
            Some(key) => {
                let request = format!("POST /v1/orgs/acme/keys/{}/revoke", key.id);
                let answer = ask(to, caller, &request, "");
                // Without an answer it is requested again: it may have happened already.
                key.is_revoked = matches!(answer, Some((200, _)));
                key.in_doubt = answer.is_none();
                answer
            }
            None => {
                let body = format!("{{\"name\":\"key {n}.{round}\",\"permissions\":[\"read\"]}}");
                let answer = ask(to, caller, "POST /v1/orgs/acme/keys", &body);
                if let Some((201, made)) = &answer {
                    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
                    let (id, secret) = (text(&made["key"]["id"]), text(&made["secret"]));
                    told.push(Told { id, secret, is_revoked: false, in_doubt: false });
                }
                answer
            }
        };
        match answer {
            Some((200 | 201, _)) => drop(running.answered.fetch_add(1, Ordering::SeqCst)),
            None => thread::sleep(Duration::from_millis(5)),
            Some((503, _)) => thread::sleep(Duration::from_millis(50)),
            Some(other) => panic!("{other:?}"),
        }
    }
    told
}

/// Every file that a target ever had, by kind and serial, with the hash of its body.
#[derive(Default)]
struct SeenFiles(Mutex<BTreeMap<(String, u64), String>>);

impl SeenFiles {
    fn look(&self, directories: &[PathBuf]) {
        for name in ["keys.kgt", "keys.kgp"] {
            for directory in directories {
                let Ok(bytes) = std::fs::read(directory.join(name)) else { continue };
                let manifest = Manifest::unverified(&bytes).unwrap();
                let key = (manifest.kind.to_string(), manifest.serial);
                let body = format!("{:?}", manifest.body_sha256);
                let mut seen = self.0.lock().unwrap();
                let first = seen.entry(key.clone()).or_insert_with(|| body.clone()).clone();
                assert_eq!(first, body, "{key:?} has two bodies");
            }
        }
    }

    fn tables(&self) -> usize {
        self.0.lock().unwrap().keys().filter(|(kind, _)| kind == "table").count()
    }
}

fn folder(database: &str) -> (Folder, String) {
    let folder = Folder::empty();
    folder.signer("signer");
    for name in ["a", "b"] {
        std::fs::create_dir(folder.file(&format!("out-{name}"))).unwrap();
        let settings = format!(
            "state = \"state-{name}\"\n[store]\ndatabase = \"{database}\"\n[listen]\naddress = \
             \"127.0.0.1:0\"\n[[audiences]]\nname = \"shop\"\nsigner = \"signer.pem\"\n\
             [[audiences.targets]]\ndirectory = \"out-{name}\"\n"
        );
        folder.write(&format!("{name}.toml"), &settings);
    }
    let registry = ["-r", "keys.jsonl"];
    let ctl = |arguments: &[&str]| folder.ctl(&[&registry[..], arguments].concat());
    ctl(&["keys", "init", "--audience", "shop", "--prefix", "kg"]);
    let words = "read,keys:read,keys:write,keys:revoke";
    let made =
        ctl(&["keys", "create", "--org", "acme", "--name", "all", "--permission", words, "--json"]);
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    folder.ctl(&["admin", "migrate", "--config", "a.toml"]);
    folder.ctl(&["admin", "migrate", "--config", "b.toml"]);
    folder.ctl(&["admin", "import", "keys.jsonl", "--config", "a.toml"]);
    (folder, made["secret"].as_str().unwrap().to_owned())
}

/// A sidecar that reads the files of one instance.
fn sidecar(folder: &Folder, upstream: &Upstream, name: &str) -> Gate {
    let own = Folder::empty();
    let from = |file: &str| folder.file(file).display().to_string();
    let config = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \
         \"http://{}\"\n[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n[[routes]]\npath = \
         \"/*\"\n[table]\naudience = \"shop\"\ntrusted_signers = [\"{}\"]\nstate_file = \"state\"\npath = \
         \"{}\"\npatch = \"{}\"\n",
        upstream.address,
        from("signer.pub"),
        from(&format!("out-{name}/keys.kgt")),
        from(&format!("out-{name}/keys.kgp")),
    );
    own.write("keygate.toml", &config);
    let gate = Gate::serve(own);
    gate.wait_ready();
    gate
}

/// Settings that no table was made with so far.
fn change_settings(folder: &Folder, n: usize) {
    let exported = folder.ctl(&["admin", "export", "--config", "a.toml"]);
    let line = exported.lines().next().unwrap();
    let mut settings: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(line).unwrap();
    let limit = format!("{}/s", 100_000 + n);
    let orgs = serde_json::json!([{"id": "acme", "limits": {"requests": limit}}]);
    settings.insert("org".to_owned(), orgs);
    // These two begin the line, in this order.
    let [registry, serial] = ["registry", "serial"].map(|name| settings.remove(name).unwrap());
    let rest = serde_json::Value::from(settings).to_string();
    let line = format!("{{\"registry\":{registry},\"serial\":{serial},{}\n", &rest[1..]);
    folder.write("settings.jsonl", &line);
    folder.ctl(&["admin", "import", "settings.jsonl", "--config", "a.toml"]);
}

fn status(gate: &Gate, secret: &str) -> u16 {
    let request =
        format!("GET /x HTTP/1.1\r\nhost: a\r\nx-api-key: {secret}\r\nconnection: close\r\n\r\n");
    Client::connect(gate.address).send(request).response().status()
}

/// The metrics that count refused files, if they have counted any.
fn failures(gate: &Gate) -> Vec<String> {
    let metrics = gate.metrics();
    let counters =
        metrics.lines().filter(|line| line.starts_with("keygate_table_reload_failures_total"));
    counters.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
}

#[test]
fn two_instances_that_end_in_turn_lose_nothing() {
    let changes = if std::env::var_os(FULL).is_some() { 10_000 } else { 120 };
    let database = server().url(&server().database());
    let (folder, caller) = folder(&database);
    let mut instances = [Some(Instance::start(&folder, "a")), Some(Instance::start(&folder, "b"))];
    let directories = [folder.file("out-a"), folder.file("out-b")];
    let at_both = |name: &str| directories.iter().all(|d| d.join(name).exists());
    instances[0].as_ref().unwrap().process.eventually("tables", || at_both("keys.kgt"));
    let upstream = Upstream::start();
    let gates = ["a", "b"].map(|name| sidecar(&folder, &upstream, name));

    // All the time, somebody checks every file and uses a key that is never changed.
    let (seen, ends) = (Arc::new(SeenFiles::default()), Arc::new(AtomicBool::new(false)));
    let looking = thread::spawn({
        let (seen, ends, directories) = (Arc::clone(&seen), Arc::clone(&ends), directories.clone());
        let (addresses, caller) = (gates.each_ref().map(|gate| gate.address), caller.clone());
        move || {
            let mut refused = 0_u32;
            while !ends.load(Ordering::SeqCst) {
                seen.look(&directories);
                for address in addresses {
                    let request = format!(
                        "GET /x HTTP/1.1\r\nhost: a\r\nx-api-key: {caller}\r\nconnection: close\r\n\r\n"
                    );
                    let answer = Client::connect(address).send(request).response();
                    refused += u32::from(answer.status() != 200);
                }
                thread::sleep(Duration::from_millis(2));
            }
            refused
        }
    });

    let running = Arc::new(Running::default());
    let tell = |instances: &[Option<Instance>; 2]| {
        let addresses = instances.each_ref().map(|i| i.as_ref().map(|i| i.address));
        *running.addresses.lock().unwrap() = addresses;
    };
    tell(&instances);
    let callers: Vec<_> = (0..4)
        .map(|n| {
            let (running, caller) = (Arc::clone(&running), caller.clone());
            thread::spawn(move || call(&running, &caller, n, changes))
        })
        .collect();
    // Ended in turn, abruptly and in the middle of changes, and started again a little later. Every
    // other time while both want to build a table.
    for round in 0..6 {
        let reached = |part: usize| {
            let wanted = changes * (4 * round + part) / 24;
            move |running: &Running| running.answered.load(Ordering::SeqCst) >= wanted
        };
        let wait = |is: &dyn Fn(&Running) -> bool| {
            let until = Instant::now() + PATIENCE * 100;
            while !is(&running) {
                assert!(Instant::now() < until, "the changes do not go on");
                thread::sleep(Duration::from_millis(2));
            }
        };
        wait(&reached(1));
        if round % 2 == 0 {
            change_settings(&folder, round);
        }
        let victim = round % 2;
        let ended = instances[victim].take();
        tell(&instances);
        drop(ended);
        wait(&reached(3));
        instances[victim] = Some(Instance::start(&folder, ["a", "b"][victim]));
        tell(&instances);
    }
    let told: Vec<Told> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();

    for (gate, name) in gates.iter().zip(["a", "b"]) {
        for key in told.iter().filter(|key| !key.in_doubt) {
            let what = format!("{} {} at {name}", key.id, key.is_revoked);
            gate.process.eventually(&what, || (status(gate, &key.secret) != 200) == key.is_revoked);
        }
    }
    // Each instance has the tables that the other one has built.
    gates[0].process.eventually("a new table", || {
        seen.look(&directories);
        seen.tables() >= 2
    });
    ends.store(true, Ordering::SeqCst);
    assert_eq!(looking.join().unwrap(), 0, "a living key was refused");
    for gate in &gates {
        assert_eq!(failures(gate), Vec::<String>::new(), "{}", gate.log());
    }
    for name in ["a.toml", "b.toml"] {
        folder.ctl(&["admin", "verify-audit", "--config", name]);
        folder.ctl(&["admin", "check", "--config", name]);
    }
    let bodies = "SELECT count(*) FROM audit WHERE action IN ('create', 'revoke')";
    let name = database.split(['/', '?']).nth(3).unwrap();
    let lines: usize = server().execute(name, bodies)[0][0].parse().unwrap();
    assert!(lines >= changes, "{lines} lines of {changes} changes");
}
