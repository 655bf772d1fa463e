//! Changes that nothing publishes: reported immediately, marked later, and published by the printed
//! command.

use std::fs;

use keygate::core::KeyStatus;
use serde_json::{Value, json};

use crate::support::{Ran, Room, holder};

/// The command after the note, split as a shell would.
fn printed(ran: &Ran) -> Vec<String> {
    let note = ran.stderr.split("not published").nth(1).unwrap_or_else(|| panic!("{}", ran.stderr));
    let line = note.lines().find_map(|line| line.strip_prefix("  keygatectl ")).unwrap();
    line.split(' ').map(str::to_owned).collect()
}

fn follow(room: &Room, command: &[String]) {
    room.ok(&command.iter().map(String::as_str).collect::<Vec<_>>());
}

fn marks(room: &Room) -> Vec<bool> {
    let list = room.json(&["keys", "list"]);
    list.as_array().unwrap().iter().map(|key| key["published"].as_bool().unwrap()).collect()
}

#[test]
fn every_change_says_that_no_sidecar_knows_of_it() {
    let room = Room::with_registry();
    room.write("new.csv", "name,org,secret\nold,acme,an-old-key-of-24-symbols\n");
    room.ok(&["keys", "create", "--org", "acme", "--name", "p"]);
    let changes: [&[&str]; 8] = [
        &["create", "--org", "acme", "--name", "q"],
        &["edit", "p", "--limit", "5/s"],
        &["disable", "p"],
        &["enable", "p"],
        &["rotate", "p", "--overlap", "0s"],
        &["import", "new.csv"],
        &["revoke", "q"],
        &["edit", "old", "--note", "x", "--no-publish"],
    ];
    for change in changes {
        let arguments = [&["keys"], change].concat();
        let ran = room.run(&arguments);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stderr.contains("not published: no sidecar knows"), "{}", ran.stderr);
        assert!(!ran.stdout.contains("not published"), "{}", ran.stdout);
        let command = printed(&ran);
        // The first time it is unknown where the table will be.
        let command: Vec<String> =
            command.into_iter().map(|w| if w == "FILE" { "t.kgt".into() } else { w }).collect();
        follow(&room, &command);
        let listed = room.run(&["keys", "list"]);
        assert!(!(listed.stdout + &listed.stderr).contains("not published"), "{change:?}");
    }
    // Repeating it repeats the note, as long as it is true.
    room.ok(&["keys", "disable", "old"]);
    let again = room.run(&["keys", "disable", "old"]);
    assert!(again.stderr.contains("is disabled already\nnot published"), "{}", again.stderr);
    follow(&room, &printed(&again));
    let again = room.run(&["keys", "disable", "old"]);
    assert!(!again.stderr.contains("not published"), "{}", again.stderr);
}

#[test]
fn programs_are_told_in_a_field() {
    let room = Room::with_registry();
    let made = room.json(&["keys", "create", "--org", "acme", "--name", "p"]);
    assert_eq!(made["published"], json!(false));
    let expected = json!("keygatectl table build --out FILE --signer signer.pem");
    assert_eq!(made["publish_with"], expected);
    let revoked = room.json(&["keys", "disable", "p"]);
    assert_eq!((&revoked["published"], &revoked["publish_with"]), (&json!(false), &expected));
    let publish = ["--publish", "t.kgt", "--signer", "signer.pem"];
    let enabled = room.json(&[&["keys", "enable", "p"], &publish[..]].concat());
    assert_eq!((&enabled["published"], &enabled["publish_with"]), (&json!(true), &Value::Null));
    let made = room.json(&[&["keys", "create", "--org", "acme"], &publish[..]].concat());
    assert_eq!(made["published"], Value::Null, "the answer comes before the publication");
    room.write("new.csv", "name,org,secret\nold,acme,an-old-key-of-24-symbols\n");
    let report = room.json(&["keys", "import", "new.csv"]);
    assert_eq!(report["published"], json!(false));
    assert_eq!(report["publish_with"], "keygatectl table build --out t.kgt --signer signer.pem");
    // A failed publication does not count.
    fs::write(room.path("t.kgt"), "no table").unwrap();
    let ran = room.run(&[&["keys", "revoke", "p", "--json"], &publish[..]].concat());
    assert_ne!(ran.code, 0);
}

#[test]
fn list_marks_what_is_not_published_as_shown() {
    for registry in ["keys.toml", "keys.jsonl"] {
        let room = Room::new();
        room.ok(&["signer", "new"]);
        room.ok(&["-r", registry, "keys", "init", "--audience", "shop"]);
        let keys: Vec<_> = (0..3).map(|_| room.create(&[])).collect();
        assert_eq!(marks(&room), [false; 3], "{registry}: nothing was ever published");
        room.ok(&["table", "build", "-o", "t.kgt", "--signer", "signer.pem"]);
        assert_eq!(marks(&room), [true; 3], "{registry}");
        room.ok(&["keys", "revoke", &keys[1].id]);
        let listed = room.run(&["keys", "list"]);
        let line = listed.stdout.lines().find(|line| line.contains(&keys[1].id)).unwrap();
        assert!(line.contains("revoked (not published)"), "{registry}: {}", listed.stdout);
        assert!(listed.stderr.starts_with("1 key is not published as shown"), "{}", listed.stderr);
        assert_eq!(room.json(&["keys", "show", &keys[1].id])["published"], false, "{registry}");
        assert_eq!(room.json(&["keys", "show", &keys[0].id])["published"], true, "{registry}");
        // It is still admitted, as the mark says.
        let status = |n: usize| {
            let keys = (room.in_force("t.kgt", None), &keys[n].secret);
            holder(&keys.0, keys.1).unwrap().grant.status
        };
        assert_eq!(status(1), KeyStatus::Active, "{registry}");
        follow(&room, &printed(&listed));
        assert_eq!(status(1), KeyStatus::Revoked, "{registry}");
        let listed = room.run(&["keys", "list"]);
        assert!(!(listed.stdout + &listed.stderr).contains("not published"), "{registry}");
    }
}

#[test]
fn a_draft_is_not_published_before_it_is_in_its_place() {
    let room = Room::with_registry();
    room.create(&[]);
    room.ok(&["signer", "new", "-o", "b.pem", "--public-out", "b.pub"]);
    room.ok(&["signer", "new", "-o", "c.pem", "--public-out", "c.pub"]);
    let named = ["--signer-public", "b.pub", "--signer-public", "c.pub"];
    let draft = ["table", "build", "-o", "draft.kgt", "--signer", "signer.pem"];
    room.ok(&[&draft[..], &named].concat());
    assert_eq!(marks(&room), [false], "one of three has signed");
    let attach = ["table", "attach-signature", "draft.kgt", "--signer", "b.pem"];
    room.ok(&attach);
    assert_eq!(marks(&room), [false]);
    room.ok(&[&attach[..], &["-o", "t.kgt"]].concat());
    assert_eq!(marks(&room), [true], "two of three are enough for whoever puts it there");
}

/// Sidecars refuse what a former signer signs, so no hint names it.
#[test]
fn a_former_signer_is_in_no_hint() {
    let room = Room::with_registry();
    room.ok(&["signer", "new", "-o", "new.pem"]);
    for (signer, named) in [("signer.pem", "signer.pem"), ("new.pem", "FILE")] {
        room.ok(&["table", "build", "-o", "t.kgt", "--signer", signer, "--new-signer"]);
        let ran = room.run(&["keys", "create", "--org", "acme"]);
        let command = format!("  keygatectl table build --out t.kgt --signer {named}\n");
        assert!(ran.stderr.contains(&command), "{}", ran.stderr);
    }
}

#[test]
fn edits_by_hand_are_marked_too() {
    let room = Room::with_registry();
    room.create(&["--permission", "read"]);
    room.ok(&["table", "build", "-o", "t.kgt", "--signer", "signer.pem"]);
    let text = room.read("keys.toml").replace("permissions = [\"read\"]", "permissions = []");
    room.write("keys.toml", text);
    assert_eq!(marks(&room), [false]);
}

#[test]
fn the_command_names_registry_and_files_as_a_shell_takes_them() {
    let room = Room::new();
    fs::create_dir(room.path("a b")).unwrap();
    room.ok(&["signer", "new", "-o", "a b/signer.pem"]);
    room.ok(&["-r", "a b/shop.toml", "keys", "init", "--audience", "shop"]);
    let ran = room.run(&["-r", "a b/shop.toml", "keys", "create", "--org", "acme"]);
    let command =
        "  keygatectl -r 'a b/shop.toml' table build --out FILE --signer 'a b/signer.pem'\n";
    assert!(ran.stderr.contains(command), "{}", ran.stderr);
    // With everything in the registry the command is short, and a patch is not needed.
    let publish = ["--signer", "signer.pem", "--publish", "t.kgt"];
    room.ok(&["signer", "new"]);
    room.ok(&[&["keys", "init", "--audience", "shop"], &publish[..]].concat());
    let ran = room.run(&["keys", "create", "--org", "acme", "--no-publish"]);
    assert!(ran.stderr.ends_with("publishes it:\n  keygatectl table build\n"), "{}", ran.stderr);
    follow(&room, &printed(&ran));
    assert_eq!(room.in_force("t.kgt", None).table().counts().keys, 1);
}
