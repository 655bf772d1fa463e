//! Tables change while requests run: no request fails, none is judged by a mixture, and a revoked
//! key is dead as soon as `/status` shows the change.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use keygate::core::{
    Digest, Grant, KeyId, KeyKind, KeySpec, KeyStatus, LimitSet, NetworkSet, OrgId, Permission,
    PermissionSet,
};

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, Key, READER, Setup};
use crate::support::tables::TableSigner;
use crate::support::upstream::{Upstream, answer};

fn get(key: &str) -> String {
    format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n")
}

/// Every table shows in name and permissions which one it is; the two must never differ. (A key
/// that changes its org is a different key: requests that run on it end.)
const SPEAKING: &str = "wa_speaking0123456789abcdefgh";

/// The registry from which the table with this serial is built.
fn registry(serial: u64) -> String {
    let before = serial - 1;
    let digest = crate::support::gate::digest(SPEAKING);
    format!(
        "registry = 1\nserial = {before}\naudience = \"tests\"\n\
         [[key]]\nid = \"key_speaking\"\norg = \"acme\"\nname = \"name-{serial}\"\n\
         permissions = [\"read\", \"p{serial}\"]\ndigest = \"{digest}\"\n"
    )
}

/// A service that answers with the identity that it received.
fn identity_service() -> Upstream {
    Upstream::answering(|m| {
        let told = ["x-key-name", "x-permissions"].map(|n| m.one(n).unwrap_or_default());
        answer("200 OK", "", &told.join("|"))
    })
}

fn speaking(upstream: &Upstream) -> Setup {
    Gate::before(upstream).table("shrink_brake = \"100%\"").key(
        Key::new("key_speaking", SPEAKING).of_org("acme").named("name-1").may("p1").may("read"),
    )
}

/// Clients that constantly send requests with [`SPEAKING`], and fail at an answer that is not 200,
/// mixes two tables or returns to an earlier one.
struct Readers {
    done: Arc<AtomicUsize>,
    finished: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<()>>,
}

// === impl Readers ===

impl Readers {
    fn of(address: SocketAddr) -> Self {
        let (done, finished) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let reader = || {
            let (done, finished) = (Arc::clone(&done), Arc::clone(&finished));
            thread::spawn(move || {
                let mut client = Client::connect(address);
                let mut newest = 0;
                while !finished.load(Ordering::SeqCst) {
                    client.send(get(SPEAKING));
                    let got = client.response();
                    assert_eq!(got.status(), 200, "{}", got.body_text());
                    let text = got.body_text();
                    let serial: u64 = text.split(['-', '|']).nth(1).unwrap().parse().unwrap();
                    assert_eq!(text, format!("name-{serial}|p{serial} read"), "a mixture");
                    assert!(serial >= newest, "went back from {newest} to {serial}");
                    newest = serial;
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let clients = (0..4).map(|_| reader()).collect();
        Self { done, finished, clients }
    }

    /// Waits until there were `requests`, or one has failed.
    fn finish(self, requests: usize) {
        let failed = || self.clients.iter().any(thread::JoinHandle::is_finished);
        while self.done.load(Ordering::SeqCst) < requests && !failed() {
            thread::sleep(Duration::from_millis(10));
        }
        self.finished.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().expect("no request failed");
        }
    }
}

#[test]
fn ten_thousand_requests_during_a_hundred_reloads() {
    const REQUESTS: usize = 10_000;
    const RELOADS: u64 = 100;
    let upstream = identity_service();
    let gate = speaking(&upstream).start();
    // Tables are built in advance, so that the reloads follow each other as fast as they can be
    // accepted.
    let mut tables = Vec::new();
    for serial in 2..RELOADS + 2 {
        gate.folder.write("keys.toml", &registry(serial));
        let name = format!("{serial}.kgt");
        gate.folder.build_as(&name, &["--serial", &serial.to_string()]);
        tables.push((serial, name));
    }
    let readers = Readers::of(gate.address);
    for (serial, name) in &tables {
        std::fs::rename(gate.folder.file(name), gate.folder.file("keys.kgt")).unwrap();
        gate.wait_serial(*serial);
    }
    readers.finish(REQUESTS);
    assert_eq!(exchange(gate.address, get(SPEAKING)).body_text(), "name-101|p101 read");
}

#[test]
fn each_way_of_delivery_is_noticed() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).table("poll = \"1h\"").start();
    let build = |serial: u64, out: &str| {
        gate.folder.build_as(out, &["--serial", &serial.to_string()]);
    };
    build(2, "next.kgt");
    std::fs::rename(gate.folder.file("next.kgt"), gate.folder.file("keys.kgt")).unwrap();
    gate.wait_serial(2);
    // In place: truncated and written again.
    build(3, "next.kgt");
    let bytes = std::fs::read(gate.folder.file("next.kgt")).unwrap();
    std::fs::write(gate.folder.file("keys.kgt"), bytes).unwrap();
    gate.wait_serial(3);
    // A plain read by anybody causes no reload. (Late effects of the write, such as forcing the
    // state file to a busy disk, cause a look too. Reading would cause one each time.)
    let quiet = (0..30).any(|_| {
        let before = reloads(&gate);
        for _ in 0..20 {
            std::fs::read(gate.folder.file("keys.kgt")).unwrap();
        }
        thread::sleep(Duration::from_millis(300));
        reloads(&gate) == before
    });
    assert!(quiet, "{:?}", reloads(&gate));
    // The same content under another name: read, nothing put in force, nothing wrong.
    std::fs::copy(gate.folder.file("keys.kgt"), gate.folder.file("same.kgt")).unwrap();
    std::fs::rename(gate.folder.file("same.kgt"), gate.folder.file("keys.kgt")).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(gate.metrics().contains("keygate_table_last_reload_successful 1"));
    gate.wait_serial(3);
    // SIGHUP.
    build(4, "keys.kgt");
    gate.process.signal("HUP");
    gate.wait_serial(4);
}

fn reloads(gate: &Gate) -> Vec<String> {
    let metrics = gate.metrics();
    let wanted = [
        "keygate_table_reloads_total",
        "keygate_table_reload_failures_total",
        "keygate_source_fetches_total",
    ];
    let wanted = |l: &&str| wanted.iter().any(|w| l.starts_with(w));
    let mut lines: Vec<_> = metrics.lines().filter(wanted).map(String::from).collect();
    lines.sort();
    lines
}

/// As [`registry`] has it.
fn speaking_key(serial: u64) -> KeySpec {
    let permissions = [format!("p{serial}"), "read".into()];
    let permissions = permissions.map(|word| Permission::parse(&word).unwrap());
    KeySpec {
        id: KeyId::parse("key_speaking").unwrap(),
        org: OrgId::parse("acme").unwrap(),
        name: format!("name-{serial}").into(),
        digest: Digest::of(SPEAKING.as_bytes()),
        public_id: None,
        expires: None,
        grant: Grant {
            status: KeyStatus::Active,
            kind: KeyKind::Single,
            environment: None,
            not_before: None,
            permissions: PermissionSet::new(permissions),
            networks: NetworkSet::default(),
            limits: LimitSet::default(),
            sunset: None,
        },
        owner: None,
    }
}

/// The kubelet's way: `..data` is a link to a folder and is swapped as a whole, a thousand times
/// under load. The test waits for each of the first hundred. The others follow as fast as files can
/// be written.
#[test]
fn a_thousand_swaps_of_a_mounted_secret_under_load() {
    const SWAPS: u64 = 1000;
    let upstream = identity_service();
    let setup = speaking(&upstream).table("poll = \"1h\"");
    let folder = setup.folder();
    let signer = TableSigner::new();
    let config = folder.read("keygate.toml").replace("path = \"keys.kgt\"", "path = \"mount\"");
    folder.write(
        "keygate.toml",
        &config.replace("\"signer.pub\"", &format!("{:?}", signer.public())),
    );
    let mount = folder.file("mount");
    let swap = |serial: u64| {
        let new = mount.join(format!("..{serial}"));
        std::fs::create_dir_all(&new).unwrap();
        std::fs::write(new.join("keys.kgt"), signer.table(serial, &speaking_key(serial))).unwrap();
        symlink(&new, mount.join("..data_tmp")).unwrap();
        std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        let _ = std::fs::remove_dir_all(mount.join(format!("..{}", serial - 1)));
    };
    swap(1);
    symlink("..data/keys.kgt", mount.join("keys.kgt")).unwrap();
    let gate = Gate::serve(folder);
    gate.wait_ready();
    let readers = Readers::of(gate.address);
    for serial in 2..=SWAPS {
        swap(serial);
        if serial <= 100 {
            gate.wait_serial(serial);
        }
    }
    gate.wait_serial(SWAPS);
    readers.finish(1000);
    let last = format!("name-{SWAPS}|p{SWAPS} read");
    assert_eq!(exchange(gate.address, get(SPEAKING)).body_text(), last);
    // A torn table would be refused, and a file that is gone would be a failure to read.
    assert_eq!(failures(&gate), 0, "{}", gate.log());
}

/// Invariant 7: an unacceptable table changes only counters, gauges and the log.
#[test]
fn bad_tables_leave_the_last_good_one_in_force() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let good = std::fs::read(gate.folder.file("keys.kgt")).unwrap();
    let flipped = {
        let mut bytes = good.clone();
        let at = bytes.len() - 3;
        bytes[at] ^= 0x40;
        bytes
    };
    gate.folder.signer("other");
    let build = |signer: &str, serial: &str| {
        gate.folder.ctl(&[
            "table",
            "build",
            "--registry",
            "keys.toml",
            "--signer",
            signer,
            "--out",
            "bad.kgt",
            "--new-signer",
            "--serial",
            serial,
        ]);
        std::fs::read(gate.folder.file("bad.kgt")).unwrap()
    };
    let foreign = build("other.pem", "5");
    let cases: Vec<(&str, Option<Vec<u8>>)> = vec![
        ("flipped bit", Some(flipped)),
        ("truncated", Some(good[..good.len() / 2].to_vec())),
        ("empty", Some(Vec::new())),
        ("not a table", Some(b"hello".repeat(100))),
        ("other signer", Some(foreign)),
        ("gone", None),
    ];
    for (name, bytes) in &cases {
        let before = failures(&gate);
        match bytes {
            Some(bytes) => {
                std::fs::write(gate.folder.file("new.kgt"), bytes).unwrap();
                std::fs::rename(gate.folder.file("new.kgt"), gate.folder.file("keys.kgt")).unwrap();
            }
            None => std::fs::remove_file(gate.folder.file("keys.kgt")).unwrap(),
        }
        gate.process.eventually(name, || failures(&gate) > before);
        assert_eq!(exchange(gate.address, get(READER)).status(), 200, "{name}");
        upstream.only();
        assert!(gate.metrics().contains("keygate_table_last_reload_successful 0"), "{name}");
        let status = gate.probe("/status").json();
        assert_eq!(status["table"]["serial"], 1, "{name}");
    }
    // Back to good.
    let next = build("signer.pem", "6");
    std::fs::write(gate.folder.file("new.kgt"), next).unwrap();
    std::fs::rename(gate.folder.file("new.kgt"), gate.folder.file("keys.kgt")).unwrap();
    gate.wait_serial(6);
    assert!(gate.metrics().contains("keygate_table_last_reload_successful 1"));
    // An older table, validly signed, is refused now and after a restart.
    let before = failures(&gate);
    std::fs::write(gate.folder.file("new.kgt"), &good).unwrap();
    std::fs::rename(gate.folder.file("new.kgt"), gate.folder.file("keys.kgt")).unwrap();
    gate.process.eventually("rollback", || failures(&gate) > before);
    assert!(gate.metrics().contains("reason=\"rollback\""));
}

fn failures(gate: &Gate) -> u64 {
    let metrics = gate.metrics();
    metrics
        .lines()
        .filter(|l| l.starts_with("keygate_table_reload_failures_total"))
        .filter_map(|l| l.rsplit_once(' ').and_then(|(_, n)| n.parse::<f64>().ok()))
        .sum::<f64>() as u64
}

/// Create, use, revoke: each a moment later, by the commands of the manual.
#[test]
fn keys_created_and_revoked_while_it_runs() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let created = gate.folder.ctl(&[
        "keys",
        "create",
        "--registry",
        "keys.toml",
        "--org",
        "acme",
        "--name",
        "Fresh",
        "--permission",
        "read",
        "--json",
        "--publish",
        "keys.kgt",
        "--signer",
        "signer.pem",
    ]);
    let created: serde_json::Value = serde_json::from_str(&created).unwrap();
    let secret = created["secret"].as_str().expect("the secret, once").to_owned();
    let id = created["id"].as_str().expect("id").to_owned();
    assert!(!gate.folder.read("keys.toml").contains(&secret), "the registry holds no secret");
    gate.process.eventually("the new key", || exchange(gate.address, get(&secret)).status() == 200);
    assert_eq!(upstream.take().last().unwrap().all("x-key-id"), std::slice::from_ref(&id));
    gate.folder.ctl(&[
        "keys",
        "revoke",
        "--registry",
        "keys.toml",
        &id,
        "--publish",
        "keys.kgt",
        "--signer",
        "signer.pem",
    ]);
    gate.process.eventually("revoked", || exchange(gate.address, get(&secret)).status() == 401);
    // The audit file tells the story.
    let audit = std::fs::read_dir(gate.folder.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.to_string_lossy().contains("audit"))
        .expect("an audit file beside the registry");
    let story = std::fs::read_to_string(audit).unwrap();
    assert!(story.contains(&id) && story.contains("revoke"), "{story}");
    assert!(!story.contains(&secret));
}

/// Routes and profiles reload with the file. A change that needs a restart is reported.
#[test]
fn the_configuration_reloads() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let elsewhere = format!("GET /v9/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    gate.refuses("before", &elsewhere, 403, "no_route");
    let text = gate.folder.read("keygate.toml");
    gate.folder.write("keygate.toml", &format!("{text}\n[[routes]]\npath = \"/v9/*\"\n"));
    gate.process.signal("HUP");
    gate.process.eventually("the new route", || exchange(gate.address, &elsewhere).status() == 200);
    // An error changes nothing, loudly.
    gate.folder.write("keygate.toml", &format!("{text}\n[[routes]]\npth = \"/v8/*\"\n"));
    gate.process.signal("HUP");
    gate.process.eventually("the failure", || {
        gate.metrics().contains("keygate_config_last_reload_successful 0")
    });
    assert_eq!(exchange(gate.address, &elsewhere).status(), 200);
    assert!(gate.log_soon("routes"), "{}", gate.log());
    // Settings that cannot change without a restart are named.
    let other = text.replace("[upstream]\nurl = \"", "[upstream]\nmax_queue = 7\nurl = \"");
    gate.folder.write("keygate.toml", &other);
    gate.process.signal("HUP");
    assert!(gate.log_soon("upstream"), "{}", gate.log());
    assert!(gate.log_soon("restart"), "{}", gate.log());
}

/// The brake is for accidents. A key that was revoked by name is not an accident, even if it is the
/// last one. Keys that were lost at the same time are.
#[test]
fn the_brake_lets_meant_revocations_through_and_nothing_else() {
    let upstream = Upstream::start();
    let revoke = |gate: &Gate, key: &str| {
        let publish = ["--publish", "keys.kgt", "--signer", "signer.pem"];
        gate.folder.ctl(&[&["keys", "revoke", key][..], &publish].concat());
    };
    let gate = Gate::before(&upstream).start();
    revoke(&gate, "key_reader");
    gate.wait_serial(2);
    revoke(&gate, "key_manager");
    gate.wait_serial(3);
    assert_eq!(exchange(gate.address, get(READER)).status(), 401);
    // Four keys, of which an editor lost two while one was revoked.
    let gate = Gate::before(&upstream)
        .key(Key::new("key_c", "wa_c0123456789abcdefghijklmn"))
        .key(Key::new("key_d", "wa_d0123456789abcdefghijklmn"))
        .start();
    let registry = gate.folder.read("keys.toml");
    let (kept, _) = registry.split_once("[[key]]\nid = \"key_c\"").expect("key_c");
    gate.folder.write("keys.toml", kept);
    let before = failures(&gate);
    gate.folder.ctl(&["keys", "revoke", "key_manager", "--no-publish"]);
    // keygatectl would not replace the published table with it.
    gate.folder.ctl(&["table", "build", "--out", "new.kgt", "--signer", "signer.pem"]);
    std::fs::rename(gate.folder.file("new.kgt"), gate.folder.file("keys.kgt")).unwrap();
    gate.process.eventually("the brake", || failures(&gate) > before);
    assert!(
        gate.metrics().contains("artefact=\"table\",reason=\"shrink\"} 1"),
        "{}",
        gate.metrics()
    );
}
