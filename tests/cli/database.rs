//! `keygatectl admin`: the database of the management service, from the command line.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::support::Room;

const ADMIN: &str = "state = \"state\"\n\n[listen]\naddress = \"127.0.0.1:0\"\n\n[[audiences]]\nname = \
                     \"shop\"\n";

/// A registry of JSON Lines with a plan and four keys, and a database.
fn with_both() -> Room {
    let room = Room::with_registry();
    room.ok(&["plans", "set", "gold", "600/min"]);
    let create = ["keys", "create", "--org"];
    for (org, name, more) in [
        ("acme", "CRM", &["--plan", "gold", "--note", "asked for by Kim"][..]),
        ("acme", "Käse", &["--pair", "--allow-ip", "203.0.113.0/24"]),
        ("other", "ERP", &["--expires", "90d", "--limit", "search=2/s", "--owner", "u-1"]),
        ("other", "bait", &["--canary"]),
    ] {
        room.ok(&[&create[..], &[org, "--name", name, "--permission", "read,send"], more].concat());
    }
    room.ok(&["keys", "rotate", "CRM", "--overlap", "1h"]);
    room.ok(&["keys", "rotate", "Käse", "--overlap", "1h"]);
    room.ok(&["-r", "keys.jsonl", "keys", "init", "--copy", "keys.toml"]);
    fs::remove_file(room.path("keys.toml")).unwrap();
    room.write("admin.toml", ADMIN);
    room.ok(&["admin", "migrate"]);
    room
}

/// The keys of a registry's file, each as it is written.
fn keys(text: &str) -> Vec<Value> {
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line.get("key").cloned()).collect()
}

#[test]
fn keys_go_into_the_database_and_back_without_loss() {
    let room = with_both();
    let imported = room.json(&["admin", "import", "keys.jsonl"]);
    assert_eq!(imported["added"], 5, "{imported}");
    let exported = room.ok(&["admin", "export"]);
    let before = room.read("keys.jsonl");
    assert_eq!(keys(&exported), keys(&before));
    let settings = |text: &str| -> Value {
        let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        first["plan"].clone()
    };
    assert_eq!(settings(&exported), settings(&before));
    // Anything that is the same already is skipped.
    let again = room.json(&["admin", "import", "keys.jsonl"]);
    assert_eq!((&again["added"], &again["known"]), (&0.into(), &5.into()), "{again}");
    // The exported file is a registry.
    room.ok(&["admin", "export", "--out", "back.jsonl"]);
    let listed = |registry: &str| room.json(&["-r", registry, "keys", "list"]);
    assert_eq!(listed("back.jsonl"), listed("keys.jsonl"));
    room.ok(&["admin", "check"]);
}

/// Commands on files sign with a key in a file alone: a signer that they do not have is left out.
#[test]
fn an_export_names_no_signer_that_files_cannot_use() {
    let room = Room::with_registry();
    room.create(&["--name", "CRM"]);
    let publish = "[publish]\nsigner = \"signer.pem\"\ntable = \"t.kgt\"\n";
    room.write("keys.toml", room.read("keys.toml").replace("[publish]\n", publish));
    let public = room.json(&["signer", "show", "signer.pem"])["public_key"].clone();
    let public = format!("signer_public = {public}\n");
    let signers = [
        ("signer = \"signer.pem\"\n".to_owned(), true),
        (format!("signer = \"unix:/run/none/signer.sock\"\n{public}"), false),
        (format!("signer_command = [\"false\"]\n{public}"), false),
    ];
    for (signer, stays) in signers {
        room.write("admin.toml", format!("{ADMIN}{signer}"));
        if !room.path("state").exists() {
            room.ok(&["admin", "migrate"]);
            room.ok(&["admin", "import", "keys.toml"]);
        }
        let ran = room.run(&["admin", "export", "--out", "back.jsonl"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let first = room.read("back.jsonl").lines().next().unwrap().to_owned();
        let first: Value = serde_json::from_str(&first).unwrap();
        let told = ran.stderr.contains("without [publish]");
        assert_eq!((first["publish"].is_object(), told), (stays, !stays), "{signer}: {first}");
        room.ok(&["-r", "back.jsonl", "keys", "check"]);
        let build = ["-r", "back.jsonl", "table", "build", "--signer", "signer.pem", "--out"];
        room.ok(&[&build[..], &[&format!("{stays}.kgt")]].concat());
        fs::remove_file(room.path(&format!("{stays}.kgt"))).unwrap();
    }
}

/// For a registry and for other sources: a table without a place takes no serial.
#[test]
fn a_table_without_a_directory_takes_no_serial() {
    let room = Room::with_registry();
    room.create(&["--name", "CRM"]);
    let before = room.read("keys.toml");
    let build = ["table", "build", "--signer", "signer.pem", "--out"];
    let told = room.fails(73, &[&build[..], &["out/keys.kgt"]].concat());
    assert!(
        told.contains("there is no directory out") && told.contains("`mkdir -p out`"),
        "{told}"
    );
    assert_eq!(room.read("keys.toml"), before);
    fs::create_dir(room.path("out")).unwrap();
    room.ok(&[&build[..], &["out/keys.kgt"]].concat());
    let before = room.read("keys.toml");
    let patch = ["patch", "--signer", "signer.pem", "--base", "out/keys.kgt", "--out"];
    room.fails(73, &[&patch[..], &["gone/keys.kgp"]].concat());
    assert_eq!(room.read("keys.toml"), before);
}

#[test]
fn a_key_is_revoked_in_the_database_and_the_log_tells_of_it() {
    let room = with_both();
    room.ok(&["admin", "import", "keys.jsonl"]);
    let all = keys(&room.read("keys.jsonl"));
    let id = all[0]["id"].as_str().unwrap();
    let refused = room.run(&["admin", "revoke", id, "--org", "another"]);
    assert_eq!(refused.code, 66, "{}", refused.stderr);
    // Nobody signs here: the change is in the database alone.
    let ran = room.run(&["admin", "revoke", id, "--actor", "kim", "--json"]);
    assert_eq!(ran.code, 75, "{}", ran.stderr);
    assert!(ran.stderr.contains("no signer is configured"), "{}", ran.stderr);
    let revoked: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&revoked["status"], &revoked["published"]), (&"revoked".into(), &false.into()));
    let exported = keys(&room.ok(&["admin", "export"]));
    let key = exported.iter().find(|key| key["id"] == id).unwrap();
    assert_eq!(key["status"], "revoked");
    assert!(room.ok(&["admin", "verify-audit"]).starts_with("2 lines, "));
    let none = room.run(&["admin", "revoke", "key_none"]);
    assert_eq!(none.code, 66);
    assert!(none.stderr.contains("no such key\nhint: "), "{}", none.stderr);
}

#[test]
fn a_backup_can_be_put_back() {
    let room = with_both();
    room.ok(&["admin", "import", "keys.jsonl"]);
    let manifest = room.json(&["admin", "backup", "copy.db"]);
    assert_eq!(manifest["audit_seq"], 1);
    let written: Value = serde_json::from_str(&room.read("copy.db.json")).unwrap();
    assert_eq!(written, manifest);
    let again = room.run(&["admin", "backup", "copy.db"]);
    assert_eq!(again.code, 73, "{}", again.stderr);
    let before = room.ok(&["admin", "export"]);
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(room.path(&format!("state/registrar.db{suffix}"))).ok();
    }
    fs::copy(room.path("copy.db"), room.path("state/registrar.db")).unwrap();
    room.ok(&["admin", "check"]);
    assert_eq!(room.ok(&["admin", "export"]), before);
}

#[test]
fn faults_of_configuration_and_database_say_what_to_do() {
    let room = Room::new();
    let none = room.run(&["admin", "check"]);
    assert_eq!(none.code, 78);
    assert!(none.stderr.contains("hint: name it with --config FILE (-c)"), "{}", none.stderr);
    room.write("admin.toml", ADMIN.replace("name = \"shop\"", "nmae = \"shop\""));
    let wrong = room.run(&["admin", "check"]);
    assert_eq!(wrong.code, 78);
    assert!(wrong.stderr.contains("admin.toml:7:1: audiences[0].nmae: unknown key"));
    assert!(wrong.stderr.contains("hint: did you mean `name`?"), "{}", wrong.stderr);
    room.write("admin.toml", ADMIN);
    let early = room.run(&["admin", "export"]);
    assert_eq!(early.code, 66);
    assert!(early.stderr.contains("`keygatectl admin migrate` makes it"), "{}", early.stderr);
    assert!(!room.path("state").exists(), "nothing is made by the way");
    room.ok(&["admin", "migrate"]);
    let mode = |name: &str| fs::metadata(room.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("state"), mode("state/registrar.db")), (0o700, 0o600));
    assert!(room.ok(&["admin", "migrate"]).contains("was there already"));
    room.write("state/registrar.db", "no database at all, but a text of some length".repeat(40));
    let strange = room.run(&["admin", "check"]);
    assert_eq!(strange.code, 65, "{}", strange.stderr);
}

/// Neither stops anything, and both are seldom meant.
#[test]
fn check_and_bootstrap_warn_of_settings_that_are_missing() {
    const NO_SIDECAR: &str = "shop: no sidecar is known";
    const NO_HOST: &str = "`listen.public_url` is missing";
    let room = Room::new();
    room.ok(&["signer", "new"]);
    fs::create_dir(room.path("served")).unwrap();
    let settings = "state = \"state\"\n[listen]\naddress = \"unix:/run/nowhere/keys.sock\"\n\
                    [[audiences]]\nname = \"shop\"\nsigner = \"signer.pem\"\n\
                    [[audiences.targets]]\ndirectory = \"served\"\n";
    room.write("admin.toml", settings);
    room.ok(&["admin", "migrate"]);
    let check = room.run(&["admin", "check"]);
    assert_eq!(check.code, 0, "{}", check.stderr);
    assert!(check.stderr.contains(NO_SIDECAR) && check.stderr.contains("[[status.pull]]"));
    let link = room.run(&["admin", "bootstrap", "--org", "acme"]);
    assert!(link.code == 0 && link.stdout.starts_with("/sign-in#"), "{}", link.stdout);
    assert!(link.stderr.contains(NO_HOST), "{}", link.stderr);
    let asked = "[[status.pull]]\nurl = \"http://127.0.0.1:9901/status\"\n";
    let url =
        "[listen]\npublic_url = \"https://keys.example.com\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    room.write("admin.toml", settings.replace("[listen]\n", url) + asked);
    let check = room.run(&["admin", "check"]);
    assert!(check.code == 0 && !check.stderr.contains(NO_SIDECAR), "{}", check.stderr);
    let link = room.run(&["admin", "bootstrap", "--org", "acme"]);
    assert!(link.stdout.starts_with("https://keys.example.com/sign-in#"), "{}", link.stdout);
    assert!(!link.stderr.contains(NO_HOST), "{}", link.stderr);
}
