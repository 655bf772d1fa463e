//! The distributor between real origins and real peers: what it passes on, when, to whom, and what
//! it does while the origin is away and when it ends.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keygate::artefacts::{
    ArtefactFleet, ArtefactName, ArtefactPoll, ArtefactService, ArtefactShelf, ServedArtefact,
    ServedArtefacts,
};
use keygate::core::Digest;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};

use crate::support::client::{Client, exchange};
use crate::support::distributor::Distributor;
use crate::support::gate::{AUDIENCE, Folder, Gate, keygatectl};
use crate::support::http::Message;
use crate::support::origin::ArtefactOrigin;
#[cfg(feature = "admin")]
use crate::support::process::Process;
use crate::support::tools;
use crate::support::upstream::Upstream;

const ORIGIN_TOKEN: &str = "a-token-of-the-distributors";
const FLEET_TOKEN: &str = "a-token-of-the-fleet-1";

/// An origin with the table of a folder, and what it is asked.
struct House {
    folder: Folder,
    origin: ArtefactOrigin,
    shelf: ArtefactShelf,
    told: Arc<Mutex<Vec<ArtefactPoll>>>,
}

// === impl House ===

impl House {
    fn new() -> Self {
        let upstream = Upstream::start();
        let folder = Gate::before(&upstream).folder();
        folder.write_secret("origin.token", ORIGIN_TOKEN);
        folder.write_secret("fleet.token", FLEET_TOKEN);
        let told: Arc<Mutex<Vec<ArtefactPoll>>> = Arc::default();
        let shelf = ArtefactShelf::default();
        let fleet = ArtefactFleet {
            name: "distributors".into(),
            audiences: vec![AUDIENCE.into()],
            bearer: Some(Digest::of(ORIGIN_TOKEN.as_bytes())),
        };
        let polls = Arc::clone(&told);
        let service = ArtefactService::new(shelf.clone(), vec![fleet], move |poll| {
            polls.lock().unwrap().push(poll);
        });
        Self { folder, origin: ArtefactOrigin::start(service), shelf, told }
    }

    /// Serves what the folder holds.
    fn put(&self, table: u64, patch: Option<u64>) {
        let served = |name: &str, serial| {
            ServedArtefact::new(serial, std::fs::read(self.folder.file(name)).unwrap())
        };
        self.shelf.put(
            AUDIENCE,
            ServedArtefacts {
                table: Some(served("keys.kgt", table)).into(),
                patch: patch.map(|serial| served("keys.kgp", serial)).into(),
            },
        );
    }

    /// Changes a key, and serves the patch with the change.
    fn publish(&self, command: &str, table: u64) -> u64 {
        let registry = ["--registry", "keys.toml", "--signer", "signer.pem"];
        let publish = ["--publish-patch", "keys.kgp", "--base", "keys.kgt"];
        self.folder.ctl(&[&["keys", command, "key_reader"], &registry[..], &publish].concat());
        let serial = self.serial();
        self.put(table, Some(serial));
        serial
    }

    /// Of the last change of the registry.
    fn serial(&self) -> u64 {
        let registry = self.folder.read("keys.toml");
        let line = registry.lines().find_map(|line| line.strip_prefix("serial = ")).unwrap();
        line.trim().parse().unwrap()
    }

    fn distributor(&self, options: &[&str]) -> Distributor {
        let origin = format!("http://{}/artefacts", self.origin.address);
        let own = ["--origin", &origin, "--audience", AUDIENCE, "--instance", "distributor-1"];
        let token = ["--origin-bearer-file", "origin.token", "--trusted-signer", "signer.pub"];
        Distributor::start(self.folder.path(), &[&own[..], &token, options].concat())
    }
}

fn path(name: ArtefactName) -> String {
    format!("/artefacts/{AUDIENCE}/{}", name.file())
}

fn request(name: ArtefactName, token: &str, fields: &str) -> String {
    let path = path(name);
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n{fields}\r\n")
}

fn get(distributor: &Distributor, name: ArtefactName, fields: &str) -> Message {
    exchange(distributor.address, request(name, FLEET_TOKEN, fields))
}

const FLEET: [&str; 2] = ["--fleet", "web=fleet.token"];

/// Status, tag, age and length of what curl gets.
fn curl(arguments: &[&str]) -> String {
    let mut command = tools::command("curl");
    command.args(["-sS", "--noproxy", "*", "-o", "/dev/null", "--max-time", "20", "-w"]);
    let form = "%{http_code} %header{etag} age=%header{age} %{size_download}";
    let output = command.arg(form).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_gets_what_the_origin_has() {
    let house = House::new();
    let table = house.serial();
    house.put(table, None);
    let distributor = house.distributor(&FLEET);
    distributor.wait_ready();
    let url = format!("http://{}{}", distributor.address, path(ArtefactName::Table));
    let bearer = format!("authorization: Bearer {FLEET_TOKEN}");
    let told = curl(&["-H", &bearer, &url]);
    let file = std::fs::read(house.folder.file("keys.kgt")).unwrap();
    let tag = ServedArtefact::new(table, file.clone()).tag.to_field();
    assert!(told.starts_with(&format!("200 {tag} age=")), "{told}");
    assert!(told.ends_with(&format!(" {}", file.len())), "{told}");
    let known = format!("if-none-match: {tag}");
    let told = curl(&["-H", &bearer, "-H", &known, &url]);
    assert!(told.starts_with(&format!("304 {tag} age=")), "{told}");
    assert!(curl(&[&url]).starts_with("401 "));
    let elsewhere = url.replace(AUDIENCE, "other");
    assert!(curl(&["-H", &bearer, &elsewhere]).starts_with("404 "));
    assert!(curl(&["-H", &bearer, "-X", "POST", &url]).starts_with("405 "));
    // No token of the fleet is sent to the origin, nor the origin's to the fleet.
    let asked = request(ArtefactName::Table, ORIGIN_TOKEN, "");
    assert_eq!(exchange(distributor.address, asked).status(), 401);
    assert!(house.told.lock().unwrap().iter().all(|poll| &*poll.fleet == "distributors"));
    // Waiting clients hear immediately, and however many wait, the origin is asked once.
    let waiting: Vec<_> = (0..20)
        .map(|n| {
            let mut client = Client::connect(distributor.address);
            let fields = format!("prefer: wait=50\r\nkeygate-instance: sidecar-{n}\r\n");
            client.send(request(ArtefactName::Patch, FLEET_TOKEN, &fields));
            client
        })
        .collect();
    let count = || distributor.metric("keygate_distributor_waiting", &[]);
    distributor.process.eventually("all wait", || count() == 20.0);
    let polls =
        || house.told.lock().unwrap().iter().filter(|p| p.name == ArtefactName::Patch).count();
    let before = polls();
    let serial = house.publish("revoke", table);
    for mut client in waiting {
        let answer = client.response();
        assert_eq!(answer.status(), 200);
        assert!(answer.one("etag").unwrap().starts_with(&format!("\"{serial}-")), "{answer:?}");
        assert_eq!(answer.one("preference-applied").as_deref(), Some("wait=50"));
    }
    assert!(polls() - before <= 3, "{} requests to the origin", polls() - before);
    let labels = ["artefact=\"patch\"", "status=\"200\""];
    let answers = || distributor.metric("keygate_distributor_requests_total", &labels);
    assert_eq!(answers(), 20.0);
    assert_eq!(distributor.metric("keygate_distributor_serial", &["patch"]), serial as f64);
    assert!(distributor.metric("keygate_distributor_news_seconds_count", &["patch"]) >= 20.0);
    assert_eq!(distributor.metric("keygate_distributor_refused_total", &["401"]), 2.0);
    assert_eq!(distributor.probe("/nothing").status(), 404);
    assert_eq!(distributor.probe("/livez").status(), 200);
}

/// A sidecar that learns of no patch serves without the revocations in it.
#[test]
fn what_is_not_known_is_not_said_to_be_missing() {
    let house = House::new();
    house.put(house.serial(), None);
    house.origin.goes();
    // A missing file is held back for as long, once it is known.
    let distributor = house.distributor(&[&FLEET[..], &["--long-poll", "60s"]].concat());
    for name in [ArtefactName::Table, ArtefactName::Patch] {
        let answer = get(&distributor, name, "");
        assert_eq!(answer.status(), 503, "{name:?}");
        assert_eq!(answer.one("retry-after").as_deref(), Some("1"));
    }
    let ready = distributor.probe("/readyz");
    assert_eq!(ready.status(), 503);
    assert!(ready.body_text().contains("has said nothing yet of the"), "{}", ready.body_text());
    assert_eq!(distributor.probe("/livez").status(), 200);
    house.origin.is_back();
    // It asks again within 10 s.
    let is_ready = || distributor.probe("/readyz").status() == 200;
    assert!(distributor.process.soon(Duration::from_secs(40), is_ready));
    assert_eq!(get(&distributor, ArtefactName::Table, "").status(), 200);
    assert_eq!(get(&distributor, ArtefactName::Patch, "").status(), 404);
}

/// An origin with nothing there and a wrong URL look the same.
#[test]
fn a_wrong_url_is_not_silent() {
    let house = House::new();
    house.shelf.put(AUDIENCE, ServedArtefacts::default());
    let distributor = house.distributor(&[&FLEET[..], &["--long-poll", "2s"]].concat());
    for hint in ["--audience or --table", "--audience or --patch"] {
        distributor.process.wait_for_line(hint);
    }
    assert_eq!(get(&distributor, ArtefactName::Table, "").status(), 404);
    let ready = distributor.probe("/readyz");
    assert_eq!(ready.status(), 503);
    assert!(ready.body_text().contains("the origin has no table of"), "{}", ready.body_text());
    house.put(house.serial(), None);
    distributor.wait_ready();
}

/// Sidecars that require two signatures wait for the second one.
#[test]
fn an_added_signature_is_passed_on() {
    let house = House::new();
    house.folder.signer("second");
    house.folder.build_as("keys.kgt", &["--signer-public", "second.pub"]);
    let serial = house.serial();
    house.put(serial, None);
    let distributor = house.distributor(&FLEET);
    distributor.wait_ready();
    let tag = || get(&distributor, ArtefactName::Table, "").one("etag");
    let own = || {
        let file = std::fs::read(house.folder.file("keys.kgt")).unwrap();
        Some(ServedArtefact::new(serial, file).tag.to_field())
    };
    let first = own();
    assert_eq!(tag(), first);
    house.folder.ctl(&["table", "attach-signature", "keys.kgt", "--signer", "second.pem"]);
    assert_ne!(own(), first);
    house.put(serial, None);
    distributor.process.eventually("passed on", || tag() == own());
}

#[test]
fn an_origin_that_is_away_takes_nothing_away() {
    let house = House::new();
    let table = house.serial();
    let first = house.publish("disable", table);
    let distributor = house.distributor(&[&FLEET[..], &["--long-poll", "2s"]].concat());
    distributor.wait_ready();
    let serial = |name: &str| distributor.metric("keygate_distributor_serial", &[name]);
    assert_eq!(serial("patch"), first as f64);
    house.origin.goes();
    let failures =
        || distributor.metric("keygate_distributor_origin_fetches_total", &["result=\"failed\""]);
    distributor.process.eventually("it notices", || failures() >= 2.0);
    let answer = get(&distributor, ArtefactName::Patch, "");
    assert_eq!(answer.status(), 200);
    assert!(answer.one("age").unwrap().parse::<u64>().is_ok());
    assert_eq!(distributor.probe("/readyz").status(), 200, "what it has is good");
    // What the origin no longer has, all sidecars still have in force.
    house.shelf.put(AUDIENCE, ServedArtefacts::default());
    house.origin.is_back();
    let missing =
        || distributor.metric("keygate_distributor_origin_fetches_total", &["result=\"missing\""]);
    let soon = Duration::from_secs(30);
    assert!(distributor.process.soon(soon, || missing() >= 1.0));
    assert_eq!(get(&distributor, ArtefactName::Patch, "").status(), 200);
    // Nothing older is passed on, and nothing without a trusted signature.
    let refused =
        || distributor.metric("keygate_distributor_origin_fetches_total", &["result=\"refused\""]);
    house.folder.signer("stranger");
    house.folder.ctl(&[
        "table",
        "build",
        "--registry",
        "keys.toml",
        "--signer",
        "stranger.pem",
        "--out",
        "strange.kgt",
    ]);
    let strange = std::fs::read(house.folder.file("strange.kgt")).unwrap();
    let strange = Some(ServedArtefact::new(900, strange)).into();
    house.shelf.put_one(AUDIENCE, ArtefactName::Table, strange);
    assert!(distributor.process.soon(soon, || refused() >= 1.0));
    assert_eq!(serial("table"), table as f64);
    let next = house.publish("enable", table);
    assert!(distributor.process.soon(soon, || serial("patch") == next as f64));
}

#[test]
fn whoever_waits_at_the_end_is_sent_on() {
    let house = House::new();
    let table = house.serial();
    house.put(table, None);
    let distributor = house.distributor(&[&FLEET[..], &["--drain", "2s"]].concat());
    distributor.wait_ready();
    let tag = get(&distributor, ArtefactName::Table, "").one("etag").unwrap();
    let fields = format!("prefer: wait=50\r\nif-none-match: {tag}\r\n");
    let mut waiting = Client::connect(distributor.address);
    waiting.send(request(ArtefactName::Table, FLEET_TOKEN, &fields));
    let mut patch = Client::connect(distributor.address);
    patch.send(request(ArtefactName::Patch, FLEET_TOKEN, "prefer: wait=50\r\n"));
    let mut idle = Client::connect(distributor.address);
    idle.send(request(ArtefactName::Table, FLEET_TOKEN, ""));
    assert_eq!(idle.response().status(), 200);
    distributor
        .process
        .eventually("both wait", || distributor.metric("keygate_distributor_waiting", &[]) == 2.0);
    distributor.process.signal("TERM");
    distributor.process.wait_for_line("draining");
    for (client, status) in [(&mut waiting, 304), (&mut patch, 404)] {
        let answer = client.response();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.one("connection").as_deref(), Some("close"));
        assert_eq!(answer.one("preference-applied").as_deref(), Some("wait=50"));
        assert!(client.is_closed());
    }
    let ended = distributor.process.wait(Duration::from_secs(20)).expect("an end");
    assert_eq!(ended.code(), Some(0));
    assert!(idle.is_closed());
}

#[test]
fn token_and_certificate_change_without_a_restart() {
    let house = House::new();
    house.put(house.serial(), None);
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    house.folder.write("ca.pem", &ca.self_signed(&ca_key).unwrap().pem());
    let issuer = Issuer::new(ca, ca_key);
    let certify = |serial: u64| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.serial_number = Some(serial.into());
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "localhost");
        let certificate = params.signed_by(&key, &issuer).unwrap();
        house.folder.write_secret("tls.key", &key.serialize_pem());
        house.folder.write("tls.pem", &certificate.pem());
    };
    certify(4711);
    let tls = ["--tls-certificate", "tls.pem", "--tls-key", "tls.key"];
    let distributor = house.distributor(&[&FLEET[..], &tls].concat());
    distributor.wait_ready();
    let port = distributor.address.port();
    let url = format!("https://localhost:{port}{}", path(ArtefactName::Table));
    let authority = house.folder.file("ca.pem").display().to_string();
    let get = |token: &str| {
        let bearer = format!("authorization: Bearer {token}");
        let to = format!("localhost:{port}:127.0.0.1");
        curl(&["--cacert", &authority, "--resolve", &to, "-H", &bearer, &url])
    };
    assert!(get(FLEET_TOKEN).starts_with("200 "));
    let shown = || {
        let to = format!("127.0.0.1:{port}");
        let mut client = tools::command("openssl");
        client.args(["s_client", "-connect", &to, "-servername", "localhost"]);
        let output = client.stdin(std::process::Stdio::null()).output().unwrap();
        let mut reader = tools::command("openssl");
        reader.args(["x509", "-noout", "-serial"]).stdin(std::process::Stdio::piped());
        let mut reader = reader.stdout(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut reader.stdin.take().unwrap(), &output.stdout).unwrap();
        String::from_utf8(reader.wait_with_output().unwrap().stdout).unwrap()
    };
    assert!(shown().contains("1267"), "4711 in hexadecimal: {}", shown());
    certify(51966);
    distributor.process.wait_for_line("certificates reloaded");
    assert!(shown().contains("CAFE"), "{}", shown());
    assert!(
        distributor.metric("keygate_distributor_certificate_expiry_timestamp_seconds", &[]) > 0.0
    );
    // A key that does not fit changes nothing.
    house.folder.write_secret("tls.key", &KeyPair::generate().unwrap().serialize_pem());
    distributor.process.wait_for_line("certificates not reloaded");
    assert!(get(FLEET_TOKEN).starts_with("200 "));
    let next = "a-token-of-the-fleet-2";
    house.folder.write_secret("fleet.token", &format!("{FLEET_TOKEN}\n{next}\n"));
    distributor.process.eventually("the second token", || get(next).starts_with("200 "));
    assert!(get(FLEET_TOKEN).starts_with("200 "));
    house.folder.write_secret("fleet.token", next);
    distributor.process.eventually("the first is out", || get(FLEET_TOKEN).starts_with("401 "));
    assert!(!distributor.process.output().contains("a-token"));
}

/// A client without a token cannot lock out one that has it.
#[test]
fn strangers_give_way() {
    let house = House::new();
    house.put(house.serial(), None);
    let more = ["--max-connections", "3", "--drain", "0s"];
    let distributor = house.distributor(&[&FLEET[..], &more].concat());
    distributor.wait_ready();
    let refused = exchange(distributor.address, request(ArtefactName::Table, "not-a-token", ""));
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.one("connection").as_deref(), Some("close"));
    let mut waiting = Client::connect(distributor.address);
    waiting.send(request(ArtefactName::Patch, FLEET_TOKEN, "prefer: wait=50\r\n"));
    let count = |name: &str| distributor.metric(name, &[]);
    let waits = || count("keygate_distributor_waiting") == 1.0;
    distributor.process.eventually("one waits", waits);
    let mut silent: Vec<_> = (0..2).map(|_| Client::connect(distributor.address)).collect();
    let connections = || count("keygate_distributor_connections") == 3.0;
    distributor.process.eventually("all places are taken", connections);
    let head = request(ArtefactName::Table, FLEET_TOKEN, "connection: close\r\n");
    let answer = exchange(distributor.address, head.replacen("GET", "HEAD", 1));
    assert_eq!(answer.status(), 200);
    assert_eq!(count("keygate_distributor_connections_turned_away_total"), 1.0);
    assert!(silent.remove(0).is_closed(), "the oldest");
    assert!(waits(), "who has a token stays");
    // The head of an idle connection has 30 s, and the first head has less.
    let is_cut = || count("keygate_distributor_connections") == 1.0;
    assert!(distributor.process.soon(Duration::from_secs(25), is_cut), "who says nothing is cut");
    assert_eq!(count("keygate_distributor_sent_bytes_total"), 0.0, "a head is no table");
    distributor.process.signal("HUP");
    assert_eq!(waiting.response().status(), 404);
    let ended = distributor.process.wait(Duration::from_secs(30)).expect("an end");
    assert_eq!(ended.code(), Some(0));
}

/// A distributor asks for all files of its fleet under one name.
#[cfg(feature = "admin")]
#[test]
fn a_distributor_of_many_audiences_waits_for_all_of_them() {
    const MANY: usize = 12;
    let folder = Folder::empty();
    folder.signer("signer");
    folder.write_secret("origin.token", ORIGIN_TOKEN);
    let names: Vec<_> = (0..MANY).map(|n| format!("audience-{n}")).collect();
    let audiences = names
        .iter()
        .map(|name| format!("[[audiences]]\nname = \"{name}\"\nsigner = \"signer.pem\"\n"))
        .collect::<String>();
    folder.write(
        "admin.toml",
        &format!(
            "state = \"state\"\n[listen]\naddress = \"127.0.0.1:0\"\n{audiences}[[fleets]]\n\
             name = \"distributors\"\naudiences = {names:?}\nbearer_file = \"origin.token\"\n"
        ),
    );
    folder.ctl(&["admin", "migrate"]);
    let service = Process::start(keygatectl(folder.path()).args(["admin", "serve"]));
    let line = service.wait_for_line("listening on http://");
    let address: std::net::SocketAddr = line.rsplit('/').next().unwrap().trim().parse().unwrap();
    let waiting: Vec<_> = names
        .iter()
        .flat_map(|name| [(name, "table.kgt"), (name, "patch.kgp")])
        .map(|(name, file)| {
            let mut client = Client::connect(address);
            client.send(format!(
                "GET /artefacts/{name}/{file} HTTP/1.1\r\nhost: a\r\nprefer: wait=5\r\n\
                 if-none-match: *\r\nauthorization: Bearer {ORIGIN_TOKEN}\r\n\
                 keygate-instance: distributor-1\r\n\r\n"
            ));
            client
        })
        .collect();
    for mut client in waiting {
        let answer = client.response();
        assert_eq!(answer.one("preference-applied").as_deref(), Some("wait=5"), "{answer:?}");
    }
}

/// The whole way: a change in the management service, a distributor, a sidecar, a refusal.
#[cfg(feature = "admin")]
#[test]
fn a_key_revoked_at_the_service_is_refused_behind_a_distributor() {
    let upstream = Upstream::start();
    let folder = Folder::empty();
    folder.signer("signer");
    folder.write_secret("origin.token", ORIGIN_TOKEN);
    folder.write_secret("fleet.token", FLEET_TOKEN);
    folder.write(
        "admin.toml",
        "state = \"state\"\n[listen]\naddress = \"127.0.0.1:0\"\n[[audiences]]\nname = \"shop\"\n\
         signer = \"signer.pem\"\n[[fleets]]\nname = \"distributors\"\naudiences = [\"shop\"]\n\
         bearer_file = \"origin.token\"\n",
    );
    folder.ctl(&["admin", "migrate"]);
    folder.ctl(&["-r", "keys.jsonl", "keys", "init", "--audience", "shop", "--prefix", "kg"]);
    let create = ["-r", "keys.jsonl", "keys", "create", "--org", "acme", "--name", "CRM", "--json"];
    let made: serde_json::Value = serde_json::from_str(&folder.ctl(&create)).unwrap();
    let (id, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    folder.ctl(&["admin", "import", "keys.jsonl"]);
    let service = Process::start(keygatectl(folder.path()).args(["admin", "serve"]));
    let line = service.wait_for_line("listening on http://");
    let origin = format!("{}/artefacts", line.rsplit(' ').next().unwrap().trim());
    let options = ["--origin", &origin, "--audience", "shop", "--trusted-signer", "signer.pub"];
    let rest = ["--origin-bearer-file", "origin.token", "--fleet", "web=fleet.token"];
    let distributor = Distributor::start(folder.path(), &[&options[..], &rest].concat());
    distributor.wait_ready();
    let url = format!("http://{}/artefacts/shop", distributor.address);
    folder.write(
        "keygate.toml",
        &format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\n\
             url = \"http://{}\"\n[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n\
             [[routes]]\npath = \"/*\"\n[table]\naudience = \"shop\"\n\
             trusted_signers = [\"signer.pub\"]\nstate_file = \"gate.state\"\n\
             url = \"{url}/table.kgt\"\npatch = \"{url}/patch.kgp\"\npoll = \"10m\"\n\
             patch_poll = \"10m\"\n[table.http]\nbearer_file = \"fleet.token\"\n\
             long_poll = \"30s\"\n",
            upstream.address
        ),
    );
    let gate = Gate::serve(folder);
    gate.wait_ready();
    let asked = format!("GET /x HTTP/1.1\r\nhost: a\r\nx-api-key: {secret}\r\n\r\n");
    let status = || exchange(gate.address, &asked).status();
    assert_eq!(status(), 200);
    gate.folder.ctl(&["admin", "revoke", id]);
    gate.process.eventually("a refusal", || status() == 401);
    // Both wait again, for the next one.
    distributor
        .process
        .eventually("both wait", || distributor.metric("keygate_distributor_waiting", &[]) == 2.0);
}

#[test]
fn options_that_cannot_be_are_refused_at_once() {
    let folder = Folder::empty();
    let mut command: Command = keygatectl(folder.path());
    let output = command.args(["distributor", "--origin", "http://a", "--audience", "s"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("--fleet: none is given") && told.contains("hint: "), "{told}");
}
