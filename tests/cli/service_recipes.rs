//! What README.md and docs/management.md say about starting the management service, upgrading it
//! and going back to files, typed exactly as printed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keygate::core::KeyStatus;
use serde_json::Value;

use crate::postgres;
use crate::support::{Issued, Ran, Room, holder};

const ADMIN: &str = "state = \"state\"\n\n[listen]\naddress = \"127.0.0.1:0\"\n\n[[audiences]]\nname = \
                     \"shop\"\nsigner = \"signer.pem\"\n\n[[audiences.targets]]\ndirectory = \"out\"\n";

/// A running service, ended on drop.
struct Service {
    child: Child,
    url: String,
}

impl Service {
    fn start(room: &Room, arguments: &[&str]) -> Self {
        Self::logging(room, arguments, Stdio::null())
    }

    fn logging(room: &Room, arguments: &[&str], log: Stdio) -> Self {
        let mut command = room.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap_or_default().to_owned();
        Self { child, url }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The blocks of a language under a heading.
fn blocks(page: &str, heading: &str, language: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(page).unwrap();
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let begin = format!("```{language}\n");
    let blocks = section.split(&begin).skip(1).map(|b| b.split("```").next().unwrap().to_owned());
    blocks.collect()
}

/// Types the commands, and stops at the first that fails.
fn type_in(room: &Room, commands: &str) -> Ran {
    let programs = Path::new(env!("CARGO_BIN_EXE_keygatectl")).parent().unwrap();
    let script = format!("export PATH='{}':\"$PATH\"\n{commands}", programs.display());
    let mut bash = Command::new("bash");
    bash.args(["-ec", &script]).current_dir(room.root());
    Ran::of(bash.stdin(Stdio::null()).output().unwrap())
}

fn must(room: &Room, commands: &str) {
    let ran = type_in(room, commands);
    assert_eq!(ran.code, 0, "{commands}\n{}\n{}", ran.stdout, ran.stderr);
}

/// Three keys in a database, one of them revoked there, published into `out`.
fn published() -> (Room, [Issued; 2]) {
    let room = Room::with_registry();
    let keys = ["revoked", "kept"].map(|name| room.create(&["--name", name]));
    room.ok(&["-r", "first.jsonl", "keys", "init", "--copy", "keys.toml"]);
    fs::create_dir(room.path("out")).unwrap();
    fs::create_dir(room.path("backup")).unwrap();
    room.write("admin.toml", ADMIN);
    room.ok(&["admin", "migrate"]);
    room.ok(&["admin", "import", "first.jsonl"]);
    room.ok(&["admin", "revoke", &keys[0].id]);
    (room, keys)
}

#[test]
fn the_service_of_the_readme_starts_and_publishes() {
    let room = Room::new();
    let start = blocks("README.md", "Quick start", "sh");
    // Signer, registry and key, but not the folder that they are in, nor what is built.
    let typed = start[1].replace("mkdir try && cd try", "true");
    must(&room, &format!("{typed}\n{}", start[2]));
    let of_issued = room.read("issued");
    let heading = "Keys that your customers manage";
    let config = blocks("README.md", heading, "toml").remove(0);
    room.write("admin.toml", config.replace(":9920", ":0"));
    // The first builds programs with the service.
    let commands = blocks("README.md", heading, "sh").remove(1);
    let (first, serve) = commands.trim().rsplit_once('\n').unwrap();
    assert_eq!(serve, "keygatectl admin serve");
    must(&room, first);
    let service = Service::start(&room, &["admin", "serve"]);
    assert!(service.url.starts_with("http://127.0.0.1:"), "{}", service.url);
    let link = room.ok(&["admin", "bootstrap", "--org", "acme"]);
    assert!(link.contains("/sign-in#"), "{link}");
    // The running service publishes a key that is revoked on the command line.
    let id = of_issued.lines().find_map(|line| line.strip_prefix("key id")).unwrap().trim();
    room.ok(&["admin", "revoke", id]);
    for _ in 0..400 {
        let published = room.path("keys.kgp").exists()
            && room.ok(&["table", "inspect", "keys.kgp"]).contains("revoked");
        if published {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("the change is not published");
}

#[test]
fn a_database_is_brought_up_to_new_programs() {
    let (room, [_, kept]) = published();
    let commands = blocks("docs/management.md", "Upgrade", "sh").remove(0);
    must(&room, &commands.replace("/backup/", "backup/"));
    assert!(room.path("backup/before.db.json").exists());
    room.ok(&["admin", "revoke", &kept.id]);
}

#[test]
fn files_take_over_from_the_database_and_back() {
    let (room, [revoked, kept]) = published();
    let before = room.in_force("out/keys.kgt", Some("out/keys.kgp")).serial();
    let recipe = blocks("docs/management.md", "Back to files", "sh");
    must(&room, &recipe[0]);
    let keys = room.in_force("out/keys.kgt", None);
    assert!(keys.serial() > before, "{} after {before}", keys.serial());
    let status = |key: &Issued| holder(&keys, &key.secret).map(|key| key.grant.status);
    assert_eq!(status(&revoked), Some(KeyStatus::Revoked));
    assert_eq!(status(&kept), Some(KeyStatus::Active));
    // A key created in the file meanwhile is imported into the database again.
    let new = room.json(&["-r", "keys.jsonl", "keys", "create", "--org", "acme", "--name", "new"]);
    room.ok(&[
        "-r",
        "keys.jsonl",
        "table",
        "build",
        "--signer",
        "signer.pem",
        "-o",
        "out/keys.kgt",
    ]);
    room.fails(75, &["admin", "check"]);
    must(&room, &recipe[1]);
    room.ok(&["admin", "check"]);
    let exported = room.ok(&["admin", "export"]);
    assert!(exported.contains(new["id"].as_str().unwrap()));
    room.ok(&["admin", "revoke", &kept.id]);
    let keys = room.in_force("out/keys.kgt", Some("out/keys.kgp"));
    assert_eq!(holder(&keys, &kept.secret).unwrap().grant.status, KeyStatus::Revoked);
}

/// A second audience with everything that a key can have, and a key whose UUID is its own.
fn published_of_two() -> (Room, [Issued; 2]) {
    let (room, keys) = published();
    let registry = ["-r", "billing.toml"];
    let on = |arguments: &[&str]| room.ok(&[&registry[..], arguments].concat());
    on(&["keys", "init", "--audience", "billing"]);
    on(&["plans", "set", "gold", "600/min"]);
    on(&["orgs", "limit", "acme", "monthly=1000000/30d"]);
    for more in [
        &["plain", "--plan", "gold", "--note", "asked for by Kim"][..],
        &["pair", "--pair", "--allow-ip", "203.0.113.0/24"],
        &["owned", "--owner", "u-1", "--limit", "search=2/s", "--expires", "90d"],
    ] {
        on(&[&["keys", "create", "--org", "acme", "--name"], more].concat());
    }
    on(&["keys", "rotate", "plain", "--overlap", "1h"]);
    on(&["keys", "rotate", "pair", "--overlap", "1h"]);
    room.ok(&["-r", "billing.jsonl", "keys", "init", "--copy", "billing.toml"]);
    let own = "\"key\":{\"uid\":\"01234567-89ab-4def-8123-456789abcdef\",";
    room.write("billing.jsonl", room.read("billing.jsonl").replacen("\"key\":{", own, 1));
    let other = ADMIN.split_once("[[audiences]]").unwrap().1;
    let other = other.replace("\"shop\"", "\"billing\"").replace("\"out\"", "\"out2\"");
    room.write("admin.toml", format!("{ADMIN}\n[[audiences]]{other}"));
    fs::create_dir(room.path("out2")).unwrap();
    room.ok(&["admin", "import", "billing.jsonl", "--audience", "billing"]);
    // So that its target has a table.
    let exported = room.ok(&["admin", "export", "--audience", "billing"]);
    let owned = keys_of(&exported).into_iter().find(|(_, key)| key["name"] == "owned");
    let (id, _) = owned.unwrap();
    room.ok(&["admin", "revoke", &id, "--audience", "billing"]);
    assert!(room.path("out2/keys.kgt").exists());
    (room, keys)
}

/// The keys of an exported file by id, each as it is written.
fn keys_of(exported: &str) -> BTreeMap<String, Value> {
    let lines = exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let keys = lines.filter_map(|line| line.get("key").cloned());
    keys.map(|key| (key["id"].as_str().unwrap().to_owned(), key)).collect()
}

/// Everything of both audiences that moves: keys with UUIDs, plans, limits of organizations.
fn moved(room: &Room, more: &[&str]) -> Vec<(BTreeMap<String, Value>, Value)> {
    let of = |audience| {
        let text = room.ok(&[&["admin", "export", "--audience", audience], more].concat());
        let mut settings: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        settings["serial"] = Value::Null;
        (keys_of(&text), settings)
    };
    ["shop", "billing"].map(of).into()
}

/// Both directions as in docs/management.md, with a server of the test.
#[test]
fn keys_move_from_a_file_to_a_server_and_back() {
    let (room, [revoked, kept]) = published_of_two();
    let url = postgres::server().url(&postgres::server().database());
    let recipe = blocks("docs/management.md", "PostgreSQL", "sh");
    let before = moved(&room, &[]);
    let text = serde_json::to_string(&before[1].0).unwrap();
    for part in ["uid", "public_id", "owner", "\"plan\"", "previous", "revoked"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(before[1].1["org"].is_array() && before[1].1["plan"].is_array(), "{:?}", before[1].1);
    must(&room, &format!("DATABASE='{url}'\n{}", recipe[0]));
    assert_eq!(moved(&room, &["--database", &url]), before);
    // A key revoked there is published, and sidecars continue.
    let before = room.in_force("out/keys.kgt", Some("out/keys.kgp"));
    room.ok(&["admin", "revoke", &kept.id, "--audience", "shop", "--database", &url]);
    let keys = room.in_force("out/keys.kgt", Some("out/keys.kgp"));
    assert!(keys.serial() >= before.serial());
    assert_eq!(holder(&keys, &kept.secret).unwrap().grant.status, KeyStatus::Revoked);
    let told = room.fails(64, &["admin", "backup", "copy.db", "--database", &url]);
    assert!(told.contains("backups of its own"), "{told}");
    room.ok(&["admin", "verify-audit", "--database", &url]);
    room.ok(&["admin", "bootstrap", "--database", &url]);
    let secret = "postgres://someone:hunter2@db/keys";
    let told = room.fails(64, &["admin", "check", "--database", secret]);
    assert!(told.contains("has a password") && !told.contains("hunter2"), "{told}");

    let there = moved(&room, &["--database", &url]);
    must(&room, &format!("DATABASE='{url}'\n{}", recipe[1]));
    assert_eq!(moved(&room, &[]), there);
    for key in [&revoked, &kept] {
        assert_eq!(there[0].0[&key.id]["status"], "revoked", "{there:?}");
    }
    let made = room.json(&["admin", "check"]);
    assert_eq!(made["audit"].as_array().map(Vec::len), Some(0), "{made}");
}

/// A recovery would fill it with keys that the import then contradicts.
#[test]
fn an_empty_database_in_the_place_of_another_asks_for_the_import() {
    let (room, [_, kept]) = published_of_two();
    let before = moved(&room, &[]);
    for audience in ["shop", "billing"] {
        let out = format!("{audience}.out.jsonl");
        room.ok(&["admin", "export", "--audience", audience, "--out", &out]);
    }
    fs::rename(room.path("state"), room.path("state-old")).unwrap();
    room.ok(&["admin", "migrate"]);
    let revoke = ["admin", "revoke", &kept.id, "--audience", "shop"];
    for command in [&["admin", "check"][..], &revoke] {
        let told = room.fails(75, command);
        let at = |word: &str| told.find(word).unwrap_or_else(|| panic!("{word}: {told}"));
        assert!(at("admin import") < at("admin recover"), "{told}");
    }
    // Older than what is published: the keys that were revoked since would work again.
    let told = room.fails(75, &["admin", "import", "first.jsonl", "--audience", "shop"]);
    assert!(told.contains("import one that was written after that"), "{told}");
    for audience in ["billing", "shop"] {
        room.fails(75, &["admin", "check"]);
        let file = format!("{audience}.out.jsonl");
        room.ok(&["admin", "import", &file, "--audience", audience]);
    }
    room.ok(&["admin", "check"]);
    assert_eq!(moved(&room, &[]), before);
    room.ok(&revoke);
}

/// Waits until a file says something.
fn until_said(room: &Room, file: &str, what: &str) {
    for _ in 0..1200 {
        if fs::read_to_string(room.path(file)).is_ok_and(|text| text.contains(what)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("{file} does not say {what}");
}

/// Exports, begins a new database, and imports there.
fn move_shop(room: &Room) {
    room.ok(&["admin", "export", "--out", "shop.jsonl"]);
    fs::rename(room.path("state"), room.path("state-former")).unwrap();
    room.ok(&["admin", "migrate"]);
    room.ok(&["admin", "import", "shop.jsonl"]);
}

/// With their file outside `state`, as docs/management.md recommends.
#[test]
fn checkpoints_of_a_former_log_are_put_aside() {
    let (room, _) = published();
    fs::create_dir(room.path("evidence")).unwrap();
    let audit = "[audit]\ncheckpoints = \"evidence/checkpoints.jsonl\"\n";
    room.write("admin.toml", ADMIN.replace("[listen]", &format!("{audit}\n[listen]")));
    let service = Service::start(&room, &["admin", "serve"]);
    until_said(&room, "evidence/checkpoints.jsonl", "signature");
    drop(service);
    move_shop(&room);
    let told = room.fails(65, &["admin", "check"]);
    assert!(told.contains("put the file of `audit.checkpoints` aside"), "{told}");
    let log = || fs::File::create(room.path("log")).unwrap().into();
    let service = Service::logging(&room, &["admin", "serve"], log());
    until_said(&room, "log", "after a move to another database");
    drop(service);
    let aside = &blocks("docs/management.md", "PostgreSQL", "sh")[2];
    must(&room, &aside.replace("/evidence/", "evidence/"));
    room.ok(&["admin", "check"]);
    let service = Service::start(&room, &["admin", "serve"]);
    until_said(&room, "evidence/checkpoints.jsonl", "signature");
    drop(service);
    room.ok(&["admin", "verify-audit"]);
    // What is put aside proves the former log.
    let former = room.read("admin.toml").replacen("\"state\"", "\"state-former\"", 1);
    room.write("former.toml", former.replace("checkpoints.jsonl", "checkpoints-former.jsonl"));
    room.ok(&["admin", "-c", "former.toml", "verify-audit"]);
}

#[test]
fn a_signer_of_its_own_is_told_of_another_log() {
    use std::os::unix::fs::PermissionsExt as _;
    let (room, _) = published();
    fs::create_dir(room.path("signer")).unwrap();
    fs::set_permissions(room.path("signer"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(room.path("signer.pem"), room.path("signer/signer.pem")).unwrap();
    let socket = room.path("signer.sock");
    let (socket, us) = (socket.display(), rustix::process::geteuid().as_raw());
    room.write(
        "signer.toml",
        format!(
            "key = \"signer/signer.pem\"\nsocket = \"{socket}\"\nuids = [\"{us}\"]\n\
             checkpoints = true\n\n[[audiences]]\nname = \"shop\"\n"
        ),
    );
    let public = room.json(&["signer", "show", "signer/signer.pem"])["public_key"].clone();
    let remote = format!("signer = \"unix:{socket}\"\nsigner_public = {public}");
    room.write("admin.toml", ADMIN.replace("signer = \"signer.pem\"", &remote));
    let mut signer = room.command(&["signer", "serve"]);
    let log = fs::File::create(room.path("signer.log")).unwrap();
    let signer = signer.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let _signer = Service { child: signer, url: String::new() };
    until_said(&room, "signer.log", "listens on unix:");
    // More lines than the new log will have.
    room.ok(&["admin", "bootstrap", "--name", "kim"]);
    let service = Service::start(&room, &["admin", "serve"]);
    until_said(&room, "state/checkpoints.jsonl", "signature");
    drop(service);
    move_shop(&room);
    room.ok(&["admin", "check"]);
    let log = fs::File::create(room.path("log")).unwrap();
    let _service = Service::logging(&room, &["admin", "serve"], log.into());
    until_said(&room, "log", "which was signed; `keygatectl signer allow -c ");
    must(&room, &blocks("docs/management.md", "PostgreSQL", "sh")[3]);
    until_said(&room, "state/checkpoints.jsonl", "signature");
    room.ok(&["admin", "verify-audit"]);
}
