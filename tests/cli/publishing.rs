//! What can go wrong while something is published, and what the printed remedies lead to.

use std::fs;

use keygate::core::KeyStatus;

use crate::support::{Issued, Ran, Room, holder};

/// A registry that publishes every change to `t.kgt`, with these keys.
fn publishing(names: &[&str]) -> (Room, Vec<Issued>) {
    let room = Room::new();
    room.ok(&["signer", "new", "--public-out", "signer.pub"]);
    let publish = ["--signer", "signer.pem", "--publish", "t.kgt"];
    room.ok(&[&["keys", "init", "--audience", "shop", "--prefix", "ord"], &publish[..]].concat());
    let keys = names.iter().map(|name| room.create(&["--name", name])).collect();
    (room, keys)
}

fn status(room: &Room, secret: &str) -> Option<KeyStatus> {
    holder(&room.in_force("t.kgt", None), secret).map(|view| view.grant.status)
}

/// The command on the last line of a hint.
fn follow(room: &Room, told: &str) {
    let line = told.lines().find_map(|line| line.strip_prefix("  keygatectl ")).unwrap();
    room.ok(&line.split(' ').collect::<Vec<_>>());
}

#[test]
fn a_failed_publication_is_made_up_for() {
    let (room, keys) = publishing(&["a", "b"]);
    let elsewhere = |name: &'static str| ["keys", "revoke", name, "--publish", "none/t.kgt"];
    let ran = room.run(&elsewhere("a"));
    assert_eq!(ran.code, 73, "{}", ran.stderr);
    assert_eq!(status(&room, &keys[0].secret), Some(KeyStatus::Active));
    // The same change again, and the command that is printed.
    room.ok(&["keys", "revoke", "a"]);
    assert_eq!(status(&room, &keys[0].secret), Some(KeyStatus::Revoked));
    let told = room.run(&elsewhere("b")).stderr;
    assert!(told.contains("  keygatectl table build --out none/t.kgt"), "{told}");
    fs::create_dir(room.path("none")).unwrap();
    follow(&room, &told);
    let there = room.in_force("none/t.kgt", None);
    assert_eq!(holder(&there, &keys[1].secret).unwrap().grant.status, KeyStatus::Revoked);
}

#[test]
fn a_key_that_nobody_has_the_secret_of_is_taken_back() {
    if !std::path::Path::new("/dev/full").exists() {
        return;
    }
    let (room, keys) = publishing(&["kept"]);
    let full = |arguments: &[&str]| {
        let to = fs::File::create("/dev/full").unwrap();
        let ran = Ran::of(room.command(arguments).stdout(to).output().unwrap());
        assert_eq!(ran.code, 73, "{arguments:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("unchanged"), "{}", ran.stderr);
    };
    full(&["keys", "create", "--org", "acme", "--name", "lost"]);
    full(&["keys", "rotate", "kept", "--overlap", "0s"]);
    let list = room.json(&["keys", "list"]);
    let living: Vec<_> =
        list.as_array().unwrap().iter().filter(|key| key["state"] == "active").collect();
    assert_eq!(living.len(), 1, "{list}");
    assert_eq!(living[0]["id"], keys[0].id.as_str());
    assert_eq!(status(&room, &keys[0].secret), Some(KeyStatus::Active));
    full(&["signer", "new", "-o", "new.pem"]);
    assert!(!room.path("new.pem").exists());
    let closed = "exec \"$0\" keys create --org acme >&-";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", closed, env!("CARGO_BIN_EXE_keygatectl")]).current_dir(room.root());
    assert_eq!(Ran::of(shell.output().unwrap()).code, 73, "standard output is closed");
    assert_eq!(room.json(&["keys", "list"]), list);
}

#[test]
fn what_sidecars_would_refuse_does_not_replace_what_they_accept() {
    let (room, keys) = publishing(&["a", "b"]);
    room.ok(&["signer", "new", "-o", "other.pem", "--public-out", "other.pub"]);
    let before = (fs::read(room.path("t.kgt")).unwrap(), room.read("keys.toml"));
    let told = room.fails(65, &["table", "build", "--unsigned", "--signer-public", "signer.pub"]);
    assert!(told.contains("--out for a draft"), "{told}");
    room.fails(65, &["keys", "revoke", "a", "--signer", "other.pem"]);
    assert_eq!((fs::read(room.path("t.kgt")).unwrap(), room.read("keys.toml")), before);
    // Who rotates the signer names it, and is warned.
    let ran = room.run(&["table", "build", "--signer", "other.pem"]);
    assert!(ran.code == 0 && ran.stderr.contains("warning: t.kgt: none of its"), "{}", ran.stderr);
    room.ok(&["keys", "revoke", "a", "--signer", "other.pem"]);
    let draft = ["table", "build", "--unsigned", "--signer-public", "signer.pub", "-o", "d.kgt"];
    room.ok(&draft);
    assert!(room.ok(&["table", "inspect", "d.kgt"]).contains(&keys[1].id), "for who will sign it");
    room.ok(&["table", "diff", "t.kgt", "d.kgt"]);
}

#[test]
fn a_registry_elsewhere_names_its_files_from_there() {
    let room = Room::new();
    fs::create_dir(room.path("sub")).unwrap();
    room.ok(&["signer", "new", "--public-out", "signer.pub"]);
    let init = |signer: &str, table: &str| -> i32 {
        let audience = ["-r", "sub/keys.toml", "keys", "init", "--audience", "shop"];
        room.run(&[&audience[..], &["--signer", signer, "--publish", table]].concat()).code
    };
    assert_eq!(init("none.pem", "t.kgt"), 66);
    assert_eq!(init("signer.pub", "t.kgt"), 65);
    assert_eq!(init("signer.pem", "sub/keys.toml"), 64);
    assert_eq!(init("signer.pem", "t.kgt"), 0);
    room.ok(&["-r", "sub/keys.toml", "keys", "create", "--org", "acme"]);
    assert_eq!(room.in_force("t.kgt", None).table().counts().keys, 1);
}

#[test]
fn no_serial_uses_up_those_to_come() {
    let (room, _) = publishing(&["a"]);
    let before = room.read("keys.toml");
    for serial in ["9007199254740991", "9007199254740989", "18446744073709551615"] {
        room.fails(64, &["table", "build", "--serial", serial]);
    }
    assert_eq!(room.read("keys.toml"), before);
    room.ok(&["table", "build", "--serial", "4503599627370496"]);
    room.ok(&["keys", "revoke", "a"]);
}

/// One secret, imported twice: theirs has revoked it under another id.
#[test]
fn a_secret_is_the_same_under_another_id() {
    let room = Room::new();
    room.ok(&["signer", "new"]);
    let begin = || room.ok(&["keys", "init", "--audience", "shop"]);
    let build = ["table", "build", "-o", "t.kgt", "--signer", "signer.pem"];
    let secret = "SECRETSECRETSECRET0001abcd";
    room.write("old.csv", format!("org,name,key\nacme,crm,{secret}\n"));
    begin();
    room.ok(&["keys", "import", "old.csv"]);
    room.ok(&["keys", "revoke", "crm"]);
    room.ok(&build);
    for file in ["keys.toml", "keys.unpublished.jsonl"] {
        fs::remove_file(room.path(file)).ok();
    }
    begin();
    room.ok(&["keys", "import", "old.csv"]);
    let theirs = holder(&room.in_force("t.kgt", None), secret).unwrap().id.to_string();
    let forced = [&build[..], &["--serial", "50", "--drop", &theirs]].concat();
    let told = room.fails(77, &forced);
    assert!(told.contains(&format!("whose secret is that of {theirs}: is revoked")), "{told}");
    room.ok(&["keys", "fold", "t.kgt"]);
    room.ok(&build);
    assert_eq!(status(&room, secret), Some(KeyStatus::Revoked));
}

/// A table that was built to be looked at is not what was published.
#[test]
fn a_review_is_no_publication() {
    let room = Room::with_registry();
    let key = room.create(&["--name", "a"]);
    let build = |registry: &'static str, out: &'static str| {
        ["-r", registry, "table", "build", "-o", out, "--signer", "signer.pem"]
    };
    room.ok(&build("keys.toml", "t.kgt"));
    fs::copy(room.path("keys.toml"), room.path("copy.toml")).unwrap();
    room.ok(&["keys", "disable", "a"]);
    room.ok(&build("keys.toml", "review.kgt"));
    room.ok(&["-r", "copy.toml", "keys", "edit", "a", "--note", "x"]);
    room.ok(&["-r", "copy.toml", "keys", "disable", "a"]);
    room.ok(&build("copy.toml", "t.kgt"));
    room.ok(&["keys", "enable", "a"]);
    room.fails(77, &build("keys.toml", "t.kgt"));
    assert_eq!(status(&room, &key.secret), Some(KeyStatus::Disabled));
    // And a target that is gone is said to be.
    fs::remove_file(room.path("t.kgt")).unwrap();
    let ran = room.run(&build("copy.toml", "t.kgt"));
    assert!(ran.stderr.contains("warning: t.kgt is gone"), "{}", ran.stderr);
}
