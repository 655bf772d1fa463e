//! What README.md and docs/management.md say about starting the management service, upgrading it
//! and going back to files, typed exactly as printed.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keygate::core::KeyStatus;

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
        let mut command = room.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
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

/// Both directions as in docs/management.md, with a server of the test.
#[test]
fn keys_move_from_a_file_to_a_server_and_back() {
    let (room, [revoked, kept]) = published();
    let url = postgres::server().url(&postgres::server().database());
    let recipe = blocks("docs/management.md", "PostgreSQL", "sh");
    let there = format!("DATABASE='{url}'\n{}", recipe[0]);
    must(&room, &there);
    let exported = room.ok(&["admin", "export", "--database", &url]);
    for key in [&revoked, &kept] {
        assert!(exported.contains(&key.id), "{exported}");
    }
    // A key revoked there is published, and sidecars continue.
    let before = room.in_force("out/keys.kgt", Some("out/keys.kgp"));
    room.ok(&["admin", "revoke", &kept.id, "--database", &url]);
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

    must(&room, &format!("DATABASE='{url}'\n{}", recipe[1]));
    let exported = room.ok(&["admin", "export"]);
    let line = |id: &str| exported.lines().find(|line| line.contains(id)).unwrap().to_owned();
    for key in [&revoked, &kept] {
        assert!(line(&key.id).contains("revoked"), "{exported}");
    }
    let made = room.json(&["admin", "check"]);
    assert_eq!(made["audit"].as_array().map(Vec::len), Some(0), "{made}");
}
