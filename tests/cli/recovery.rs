//! `keygatectl admin`: what is published from the command line, and a database that was restored from a
//! backup, by the commands of docs/management.md.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use keygate::core::KeyStatus;

use crate::support::{Issued, Room};

const ADMIN: &str = "state = \"state\"\n\n[listen]\naddress = \"127.0.0.1:0\"\n\n[[audiences]]\nname = \
                     \"shop\"\nsigner = \"signer.pem\"\n\n[[audiences.targets]]\ndirectory = \"out\"\n";

/// Three keys in a database that publishes into `out`.
fn published() -> (Room, [Issued; 3]) {
    let room = Room::with_registry();
    let keys = ["leaked", "kept", "pair"].map(|name| match name {
        "pair" => room.create(&["--name", name, "--pair"]),
        name => room.create(&["--name", name]),
    });
    room.ok(&["-r", "keys.jsonl", "keys", "init", "--copy", "keys.toml"]);
    fs::create_dir(room.path("out")).unwrap();
    room.write("admin.toml", ADMIN);
    room.ok(&["admin", "migrate"]);
    room.ok(&["admin", "import", "keys.jsonl"]);
    (room, keys)
}

fn status(room: &Room, key: &Issued) -> Option<KeyStatus> {
    let set = room.in_force("out/keys.kgt", Some("out/keys.kgp"));
    let digest = keygate::core::Digest::of(key.secret.as_bytes());
    Some(set.find_digest(&digest)?.view.grant.status)
}

#[test]
fn a_key_that_is_revoked_while_the_service_is_down_is_published() {
    let (room, [leaked, kept, _]) = published();
    room.ok(&["admin", "revoke", &leaked.id]);
    assert_eq!(status(&room, &leaked), Some(KeyStatus::Revoked));
    assert_eq!(status(&room, &kept), Some(KeyStatus::Active));
    // While a target accepts nothing, the change is kept, and the same command publishes it later.
    fs::rename(room.path("out"), room.path("away")).unwrap();
    let error = room.fails(75, &["admin", "revoke", &kept.id]);
    assert!(error.contains("in the database, and not published: "), "{error}");
    fs::rename(room.path("away"), room.path("out")).unwrap();
    assert_eq!(status(&room, &kept), Some(KeyStatus::Active));
    room.ok(&["admin", "revoke", &kept.id]);
    assert_eq!(status(&room, &kept), Some(KeyStatus::Revoked));
}

/// Exit code 0 means that it is in force.
#[test]
fn a_revocation_that_only_the_service_publishes_says_so() {
    let (room, [leaked, kept, pair]) = published();
    room.ok(&["admin", "revoke", &pair.id]);
    let (audience, targets) = ADMIN.split_once("\n[[audiences.targets]]").unwrap();
    room.write("admin.toml", audience);
    let told = room.fails(75, &["admin", "revoke", &leaked.id]);
    assert!(told.contains("not published: the service does not run, and "), "{told}");
    assert!(told.contains("start the service"), "{told}");
    assert_eq!(status(&room, &leaked), Some(KeyStatus::Active));
    // With other targets, sidecars fetch.
    room.write("web.token", "0123456789abcdef0123456789abcdef");
    fs::set_permissions(room.path("web.token"), fs::Permissions::from_mode(0o600)).unwrap();
    let fleet =
        "\n[[fleets]]\nname = \"web\"\naudiences = [\"shop\"]\nbearer_file = \"web.token\"\n";
    room.write("admin.toml", format!("{audience}\n[[audiences.targets]]{targets}{fleet}"));
    for _ in 0..2 {
        let told = room.fails(75, &["admin", "revoke", &kept.id]);
        assert!(told.contains("(fleets: web)") && told.contains("start the service"), "{told}");
    }
    for key in [&leaked, &kept] {
        assert_eq!(status(&room, key), Some(KeyStatus::Revoked));
    }
    let told = room.json(&["admin", "check"]);
    assert_eq!(told["running"], false, "{told}");
    assert!(room.fails(75, &["admin", "check", "--running"]).contains("no service runs on "));
}

/// The commands under the heading.
fn recipe(heading: &str) -> Vec<String> {
    let page =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/management.md")).unwrap();
    let (_, section) = page.split_once(heading).unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    block.lines().map(str::to_owned).collect()
}

#[test]
fn a_restored_database_is_refused_until_it_has_recovered() {
    let (room, [leaked, kept, pair]) = published();
    room.ok(&["admin", "revoke", &pair.id]);
    room.ok(&["admin", "backup", "keys-1.db"]);
    room.ok(&["admin", "revoke", &leaked.id]);
    assert_eq!(status(&room, &leaked), Some(KeyStatus::Revoked));
    let commands = recipe("## Backup and restore");
    assert_eq!(commands.len(), 4, "{commands:?}");
    for command in commands {
        let (command, comment) = command.split_once('#').unwrap_or((&command, ""));
        let command = command.replace("/backup/", "");
        match command.trim().strip_prefix("keygatectl ") {
            Some(arguments) => {
                let arguments: Vec<_> = arguments.split_whitespace().collect();
                match comment.contains("exit code 75") {
                    true => {
                        let error = room.fails(75, &arguments);
                        assert!(error.contains("the database is at serial "), "{error}");
                        assert!(error.contains("hint: "), "{error}");
                        // Nothing can be changed meanwhile.
                        room.fails(75, &["admin", "revoke", &kept.id]);
                        room.fails(75, &["admin", "import", "keys.jsonl"]);
                        assert_eq!(status(&room, &leaked), Some(KeyStatus::Revoked));
                    }
                    false => drop(room.ok(&arguments)),
                }
            }
            None => {
                let mut shell = std::process::Command::new("sh");
                let done = shell.args(["-c", &command]).current_dir(room.root()).status().unwrap();
                assert!(done.success(), "{command}");
            }
        }
    }
    room.ok(&["admin", "check"]);
    let log = room.json(&["admin", "verify-audit"]);
    assert_eq!(log["faults"], serde_json::json!([]), "{log}");
    let again = room.ok(&["admin", "recover"]);
    assert_eq!(again, "", "there is nothing to recover");
    // The next publication has all of it.
    room.ok(&["admin", "revoke", &kept.id]);
    for key in [&leaked, &kept, &pair] {
        assert_eq!(status(&room, key), Some(KeyStatus::Revoked));
    }
}

/// Without a file, everything revoked since the backup would be lost.
#[test]
fn a_recovery_without_the_published_files_is_refused() {
    let (room, [leaked, kept, _]) = published();
    room.ok(&["admin", "revoke", &kept.id]);
    room.ok(&["admin", "backup", "keys-1.db"]);
    room.ok(&["admin", "revoke", &leaked.id]);
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(room.path(&format!("state/registrar.db{suffix}"))).ok();
    }
    fs::rename(room.path("keys-1.db"), room.path("state/registrar.db")).unwrap();
    fs::rename(room.path("out"), room.path("sidecar")).unwrap();
    fs::create_dir(room.path("out")).unwrap();
    room.fails(75, &["admin", "check"]);
    let error = room.fails(66, &["admin", "recover"]);
    assert!(error.contains("high-water.json is at serial "), "{error}");
    assert!(error.contains("--accept-loss"), "{error}");
    let files = ["--file", "sidecar/keys.kgt", "--file", "sidecar/keys.kgp"];
    let told = room.json(&[&["admin", "recover"], &files[..]].concat());
    assert_eq!(told["audiences"]["shop"]["changed"], 1, "{told}");
    room.ok(&["admin", "check"]);
    room.ok(&["admin", "revoke", &kept.id]);
    assert_eq!(status(&room, &leaked), Some(KeyStatus::Revoked));
}

/// A key of the audience `other`, in addition to those of `shop`. Both are in a database that was
/// restored from a copy made before the last revocations of `shop` and `other`, while sidecars have
/// what was published since.
fn restored_with_two_audiences() -> (Room, [String; 2]) {
    let (room, [leaked, ..]) = published();
    for name in ["other", "elsewhere"] {
        let registry = format!("{name}.toml");
        room.ok(&["-r", &registry, "keys", "init", "--audience", name]);
        let made = ["-r", &registry, "keys", "create", "--org", "acme", "--name", "leaked"];
        room.ok(&made);
    }
    let build = ["-r", "elsewhere.toml", "table", "build", "--signer", "signer.pem"];
    room.ok(&[&build[..], &["--out", "elsewhere.kgt"]].concat());
    let other = ADMIN.split_once("[[audiences]]").unwrap().1;
    let other = other.replace("\"shop\"", "\"other\"").replace("\"out\"", "\"out2\"");
    room.write("admin.toml", format!("{ADMIN}\n[[audiences]]{other}"));
    fs::create_dir(room.path("out2")).unwrap();
    room.ok(&["-r", "other.jsonl", "keys", "init", "--copy", "other.toml"]);
    room.ok(&["admin", "import", "other.jsonl", "--audience", "other"]);
    let keys = room.json(&["-r", "other.toml", "keys", "list"]);
    let keys = [leaked.id, keys[0]["id"].as_str().unwrap().to_owned()];
    room.ok(&["admin", "backup", "keys-1.db"]);
    for (id, audience) in keys.iter().zip(["shop", "other"]) {
        room.ok(&["admin", "revoke", id, "--audience", audience]);
    }
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(room.path(&format!("state/registrar.db{suffix}"))).ok();
    }
    fs::rename(room.path("keys-1.db"), room.path("state/registrar.db")).unwrap();
    for (out, sidecar) in [("out", "shop"), ("out2", "other")] {
        fs::rename(room.path(out), room.path(sidecar)).unwrap();
        fs::create_dir(room.path(out)).unwrap();
    }
    (room, keys)
}

/// Status of a key in the database.
fn kept_status(room: &Room, audience: &str, id: &str) -> String {
    let out = format!("{audience}-export.jsonl");
    room.ok(&["admin", "export", "--audience", audience, "--out", &out]);
    let key = room.json(&["-r", &out, "keys", "show", id]);
    fs::remove_file(room.path(&out)).unwrap();
    key["status"].as_str().unwrap().to_owned()
}

fn recover<'a>(files: &[&[&'a str]]) -> Vec<&'a str> {
    [&["admin", "recover"][..], &files.concat()].concat()
}

/// There is one audit log: after a restore, all audiences are behind, and each has its own files.
#[test]
fn each_audience_recovers_from_its_own_files() {
    let (room, [shops, others]) = restored_with_two_audiences();
    let error = room.fails(66, &["admin", "recover"]);
    for name in ["shop", "other"] {
        let says = format!("{name}: high-water.json is at serial ");
        assert!(error.contains(&says), "{error}");
    }
    let shop = ["--file", "shop/keys.kgt", "--file", "shop/keys.kgp"];
    let other = ["--file", "other/keys.kgp", "--file", "other/keys.kgt"];
    let error = room.fails(66, &recover(&[&shop]));
    assert!(!error.contains("shop: "), "{error}");
    assert!(error.contains("other: ") && error.contains("no table of this audience"), "{error}");
    // For an audience that is unknown here, and for a missing one.
    let error = room.fails(65, &recover(&[&shop, &["--file", "elsewhere.kgt"], &other]));
    assert!(error.contains("elsewhere.kgt: made for the audience elsewhere"), "{error}");
    assert!(error.contains("it has shop, other"), "{error}");
    let error = room.fails(66, &recover(&[&shop, &other, &["--file", "shop/keys.kgx"]]));
    assert!(error.contains("keys.kgx"), "{error}");
    assert_eq!(kept_status(&room, "shop", &shops), "active", "nothing has changed so far");
    let told = room.json(&recover(&[&shop, &other]));
    for (name, id) in [("shop", &shops), ("other", &others)] {
        assert_eq!(told["audiences"][name]["changed"], 1, "{told}");
        assert_eq!(kept_status(&room, name, id), "revoked", "{name}");
    }
    room.ok(&["admin", "check"]);
}

/// The available files of one audience are folded in anyway.
#[test]
fn a_loss_that_is_accepted_is_that_of_one_audience() {
    let (room, [shops, others]) = restored_with_two_audiences();
    let arguments = ["admin", "recover", "--accept-loss", "--file", "shop/keys.kgt"];
    let ran = room.run(&[&arguments[..], &["--file", "shop/keys.kgp"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("other: high-water.json is at serial "), "{}", ran.stderr);
    assert!(ran.stderr.contains("is lost") && !ran.stderr.contains("shop: "), "{}", ran.stderr);
    assert_eq!(kept_status(&room, "shop", &shops), "revoked");
    assert_eq!(kept_status(&room, "other", &others), "active");
}
