//! `keygatectl admin`: what is published from the command line, and a database that was restored from a
//! backup, by the commands of docs/management.md.

use std::fs;

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
    // While a target takes nothing, the change is kept, and made up for by the same command.
    fs::rename(room.path("out"), room.path("away")).unwrap();
    let error = room.fails(75, &["admin", "revoke", &kept.id]);
    assert!(error.contains("in the database, and not published: "), "{error}");
    fs::rename(room.path("away"), room.path("out")).unwrap();
    assert_eq!(status(&room, &kept), Some(KeyStatus::Active));
    room.ok(&["admin", "revoke", &kept.id]);
    assert_eq!(status(&room, &kept), Some(KeyStatus::Revoked));
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
                        // Nothing is changed meanwhile.
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
    // What is published next has all of it.
    room.ok(&["admin", "revoke", &kept.id]);
    for key in [&leaked, &kept, &pair] {
        assert_eq!(status(&room, key), Some(KeyStatus::Revoked));
    }
}

/// With no file at hand, what was revoked since the backup would be lost.
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
