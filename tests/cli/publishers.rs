//! Two publishers with copies of one registry: the other one does not undo a published restriction
//! of a key unless the key's id is named.

use std::collections::BTreeSet;
use std::fs;

use keygate::core::KeyStatus;

use crate::support::{Issued, Room, holder};

const UNDONE: i32 = 77;
const SIGNER: [&str; 2] = ["--signer", "signer.pem"];

/// What B knows of its copy of the registry.
const COPY: &str = "copy.toml";

/// Keys p0 to p`count - 1` in a published table, and a copy of their registry.
fn copied(count: usize) -> (Room, Vec<Issued>) {
    let room = Room::with_registry();
    let keys = (0..count)
        .map(|n| {
            let name = format!("p{n}");
            room.create(&["--name", &name, "--permission", "read,send", "--limit", "10/s"])
        })
        .collect();
    room.ok(&build("keys.toml", &[]));
    fs::copy(room.path("keys.toml"), room.path(COPY)).unwrap();
    (room, keys)
}

fn build<'a>(registry: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["-r", registry, "table", "build", "-o", "t.kgt"], &SIGNER[..], more].concat()
}

fn keys<'a>(registry: &'a str, command: &[&'a str]) -> Vec<&'a str> {
    [&["-r", registry, "keys"], command].concat()
}

fn status(room: &Room, key: &Issued) -> Option<KeyStatus> {
    holder(&room.in_force("t.kgt", None), &key.secret).map(|view| view.grant.status)
}

#[test]
fn a_hint_followed_brings_no_revoked_key_back() {
    let (room, ids) = copied(2);
    room.ok(&keys("keys.toml", &["revoke", &ids[0].id]));
    room.ok(&build("keys.toml", &[]));
    let published = fs::read(room.path("t.kgt")).unwrap();
    room.ok(&keys(COPY, &["revoke", &ids[1].id]));
    let told = room.fails(75, &build(COPY, &[]));
    assert!(told.contains("`keygatectl keys fold t.kgt`"), "{told}");
    assert!(told.contains("change keys in it (`keygatectl --server URL keys …`)"), "{told}");
    assert!(!told.contains("--serial"), "a higher serial is no way out: {told}");
    let before = room.read(COPY);
    let told = room.fails(UNDONE, &build(COPY, &["--serial", "100"]));
    assert!(told.contains(&format!("{} (p0, acme): is revoked there", ids[0].id)), "{told}");
    assert!(!told.contains(&ids[1].id), "only what would be undone: {told}");
    assert!(!told.contains(&format!("--readmit {}", ids[0].id)), "nothing to paste: {told}");
    // Another key's id is not an acknowledgement, and neither is the other option.
    for wrong in [["--readmit", &ids[1].id], ["--drop", &ids[0].id]] {
        room.fails(UNDONE, &build(COPY, &[&["--serial", "100"], &wrong[..]].concat()));
    }
    assert_eq!(fs::read(room.path("t.kgt")).unwrap(), published, "nothing was written");
    assert_eq!(room.read(COPY), before, "and no serial was taken");
    // The hint, exactly as printed.
    room.ok(&keys(COPY, &["fold", "t.kgt"]));
    room.ok(&build(COPY, &[]));
    assert_eq!(status(&room, &ids[0]), Some(KeyStatus::Revoked));
    assert_eq!(status(&room, &ids[1]), Some(KeyStatus::Revoked));
    // And the first publisher in turn.
    room.ok(&keys("keys.toml", &["create", "--org", "acme"]));
    room.fails(UNDONE, &build("keys.toml", &["--serial", "200"]));
    room.ok(&keys("keys.toml", &["fold", "t.kgt"]));
    room.ok(&build("keys.toml", &[]));
    assert_eq!(status(&room, &ids[1]), Some(KeyStatus::Revoked));
}

/// Everything by which a key can lose something, and the word for it.
#[test]
fn whatever_theirs_takes_away_is_named_until_it_is_acknowledged() {
    let ways: [(&[&str], &str); 10] = [
        (&["revoke", "p0"], "is revoked there"),
        (&["disable", "p0"], "is disabled there"),
        (&["edit", "p0", "--remove-permission", "send"], "does not hold `send` there"),
        (&["edit", "p0", "--allow-ip", "10.0.0.0/8"], "is for 10.0.0.0/8 only there"),
        (&["edit", "p0", "--limit", "5/s"], "has the limit 5/s there"),
        (&["edit", "p0", "--env", "live"], "is for live only there"),
        (&["edit", "p0", "--expires", "2050-01-01T00:00:00Z"], "ends 2050-01-01T00:00:00Z there"),
        (&["edit", "p0", "--not-before", "2040-01-01T00:00:00Z"], "begins 2040-01-01T00:00:00Z"),
        (&["rotate", "p0"], "ends 20"),
        (&["create", "--org", "acme", "--name", "new"], "is only there"),
    ];
    for (way, word) in ways {
        let (room, ids) = copied(2);
        room.ok(&keys("keys.toml", way));
        room.ok(&build("keys.toml", &[]));
        let published = fs::read(room.path("t.kgt")).unwrap();
        // Ordinary work of the other publisher: nothing of it is questioned.
        room.ok(&keys(COPY, &["edit", "p1", "--add-permission", "manage", "--limit", "none"]));
        room.ok(&keys(COPY, &["create", "--org", "acme", "--name", "ours"]));
        let told = room.fails(UNDONE, &build(COPY, &["--serial", "100"]));
        assert!(told.contains(word), "{way:?}: {told}");
        assert!(!told.contains(&ids[1].id) && !told.contains("ours"), "{way:?}: {told}");
        assert_eq!(fs::read(room.path("t.kgt")).unwrap(), published, "{way:?}");
        let named: BTreeSet<String> = told
            .lines()
            .filter_map(|line| line.strip_prefix("  key_"))
            .map(|line| format!("key_{}", line.split(' ').next().unwrap()))
            .collect();
        let mut meant = vec!["--serial", "100"];
        for id in &named {
            meant.extend(["--readmit", id, "--drop", id]);
        }
        room.ok(&build(COPY, &meant));
        let audit = room.read("copy.audit.jsonl");
        assert!(
            named.iter().all(|id| audit.contains(&format!("\"readmit\":[\"{id}\""))
                || audit.contains(&format!("\"{id}\"]"))),
            "{way:?}: {audit}"
        );
    }
}

#[test]
fn a_publisher_alone_is_asked_nothing() {
    let (room, ids) = copied(3);
    let work: [&[&str]; 9] = [
        &["disable", "p0"],
        &["enable", "p0"],
        &["edit", "p1", "--expires", "1d", "--allow-ip", "10.0.0.0/8"],
        &["edit", "p1", "--expires", "never", "--any-ip", "--permission", "*"],
        &["rotate", "p2", "--overlap", "0s"],
        &["revoke", "p1"],
        &["create", "--org", "acme", "--pair", "--name", "pair"],
        &["rotate", "pair"],
        &["edit", "pair", "--limit", "1/s"],
    ];
    for way in work {
        room.ok(&keys("keys.toml", way));
        room.ok(&build("keys.toml", &[]));
    }
    // By hand as well.
    let text = room.read("keys.toml");
    let at = text.find("[[key]]").unwrap();
    let next = at + 1 + text[at + 1..].find("[[key]]").unwrap();
    room.write("keys.toml", format!("{}{}", &text[..at], &text[next..]));
    room.ok(&build("keys.toml", &[]));
    assert_eq!(status(&room, &ids[0]), None);
    // A publisher whose copy says the same may continue from it, too.
    fs::copy(room.path("keys.toml"), room.path(COPY)).unwrap();
    room.ok(&keys(COPY, &["revoke", &ids[2].id]));
    room.ok(&build(COPY, &[]));
}

#[test]
fn a_change_that_publishes_is_refused_before_it_is_made() {
    let (room, ids) = copied(3);
    let publish = ["--publish", "t.kgt", "--signer", "signer.pem"];
    room.ok(&keys("keys.toml", &[&["revoke", &ids[0].id], &publish[..]].concat()));
    // Its serials are higher: only the comparison prevents it.
    for _ in 0..3 {
        room.ok(&keys(COPY, &["edit", "p2", "--note", "x"]));
        room.ok(&keys(COPY, &["edit", "p2", "--note", "y"]));
    }
    let before = room.read(COPY);
    for change in [
        &["revoke", "p1"][..],
        &["create", "--org", "acme"],
        &["rotate", "p1"],
        &["disable", "p1"],
        &["edit", "p1", "--name", "x"],
    ] {
        let told = room.fails(UNDONE, &keys(COPY, &[change, &publish[..]].concat()));
        assert!(told.contains(&ids[0].id), "{told}");
        assert_eq!(room.read(COPY), before, "{change:?}");
    }
    // Making the same change is a way out, too.
    room.ok(&keys(COPY, &[&["revoke", &ids[0].id], &publish[..]].concat()));
    assert_eq!(status(&room, &ids[0]), Some(KeyStatus::Revoked));
}

#[test]
fn a_patch_counts_as_much_as_a_table() {
    for second in ["table", "patch", "change"] {
        let (room, ids) = copied(2);
        let patch = ["--publish-patch", "t.kgp", "--base", "t.kgt", "--signer", "signer.pem"];
        room.ok(&keys("keys.toml", &[&["revoke", &ids[0].id], &patch[..]].concat()));
        let published = fs::read(room.path("t.kgp")).unwrap();
        room.ok(&keys(COPY, &["revoke", &ids[1].id]));
        let late =
            ["-r", COPY, "patch", "-o", "t.kgp", "--base", "t.kgt", "--signer", "signer.pem"];
        let told = match second {
            "table" => room.fails(UNDONE, &build(COPY, &["--serial", "100"])),
            "patch" => room.fails(UNDONE, &[&late[..], &["--serial", "100"]].concat()),
            _ => {
                room.ok(&keys(COPY, &["create", "--org", "acme"]));
                let create = [&["create", "--org", "acme"], &patch[..]].concat();
                room.fails(UNDONE, &keys(COPY, &create))
            }
        };
        assert!(told.contains(&ids[0].id) && told.contains("t.kgp"), "{second}: {told}");
        assert_eq!(fs::read(room.path("t.kgp")).unwrap(), published, "{second}");
        // The hint: it works although the registry names no place to publish.
        room.ok(&build(COPY, &["--fold-patch", "t.kgp"]));
        assert_eq!(status(&room, &ids[0]), Some(KeyStatus::Revoked), "{second}");
        assert_eq!(status(&room, &ids[1]), Some(KeyStatus::Revoked), "{second}");
    }
}

#[test]
fn folding_undoes_nothing_that_was_not_published_yet() {
    let (room, ids) = copied(3);
    room.ok(&keys("keys.toml", &["edit", "p0", "--name", "renamed"]));
    room.ok(&keys("keys.toml", &["edit", "p1", "--permission", "read,manage"]));
    room.ok(&build("keys.toml", &[]));
    room.ok(&keys(COPY, &["revoke", &ids[0].id]));
    room.ok(&keys(COPY, &["edit", "p1", "--allow-ip", "10.0.0.0/8"]));
    room.ok(&keys(COPY, &["disable", "p2"]));
    room.ok(&keys(COPY, &["fold", "t.kgt"]));
    let shown = |key: &Issued| room.json(&keys(COPY, &["show", &key.id]));
    assert_eq!(shown(&ids[0])["state"], "revoked");
    assert_eq!(shown(&ids[1])["networks"], serde_json::json!(["10.0.0.0/8"]));
    let permissions = shown(&ids[1])["permissions"].clone();
    assert_eq!(permissions, serde_json::json!(["read"]), "what both admit, and not `manage`");
    assert_eq!(shown(&ids[2])["state"], "disabled");
    room.ok(&build(COPY, &[]));
    // What only one of them restricted is restricted. What one of them widened is not taken over.
    room.ok(&keys("keys.toml", &["fold", "t.kgt"]));
    room.ok(&keys("keys.toml", &["edit", "p2", "--add-permission", "manage"]));
    room.ok(&build("keys.toml", &[]));
    room.ok(&keys(COPY, &["edit", "p2", "--limit", "7/s"]));
    room.ok(&keys(COPY, &["fold", "t.kgt"]));
    let permissions = shown(&ids[2])["permissions"].clone();
    assert_eq!(permissions, serde_json::json!(["read", "send"]));
    assert_eq!(shown(&ids[2])["limit"], "7/s");
    // What was folded in is known: changing it later is ordinary work.
    room.ok(&keys(COPY, &["edit", "p1", "--permission", "*"]));
    room.ok(&build(COPY, &[]));
}

/// A patch of a `keys.jsonl` is made from the lines that are newer than its table.
#[test]
fn a_patch_after_folding_still_states_what_was_changed_before() {
    let room = Room::new();
    room.ok(&["signer", "new"]);
    let (a, b) = ("a.jsonl", "b.jsonl");
    room.ok(&keys(a, &["init", "--audience", "shop"]));
    let create = |name: &str| {
        let made = room.json(&keys(a, &["create", "--org", "acme", "--name", name]));
        (made["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
    };
    let made = [create("p0"), create("p1")];
    room.ok(&build(a, &[]));
    fs::copy(room.path(a), room.path(b)).unwrap();
    room.ok(&keys(a, &["revoke", "p0"]));
    room.ok(&build(a, &[]));
    room.ok(&keys(b, &["revoke", "p1"]));
    let patch = ["-r", b, "patch", "-o", "t.kgp", "--base", "t.kgt", "--signer", "signer.pem"];
    room.fails(75, &patch);
    room.ok(&keys(b, &["fold", "t.kgt"]));
    room.ok(&patch);
    let in_force = room.in_force("t.kgt", Some("t.kgp"));
    for (id, secret) in made {
        let status = holder(&in_force, &secret).unwrap().grant.status;
        assert_eq!(status, KeyStatus::Revoked, "{id}");
    }
}

#[test]
fn a_restored_backup_brings_nothing_back() {
    let (room, ids) = copied(2);
    fs::copy(room.path("keys.toml"), room.path("backup.toml")).unwrap();
    room.ok(&keys("keys.toml", &["revoke", &ids[0].id]));
    room.ok(&build("keys.toml", &[]));
    room.ok(&keys("keys.toml", &["edit", "p1", "--note", "not published"]));
    // Only the registry itself is restored. The files next to it are newer.
    fs::copy(room.path("backup.toml"), room.path("keys.toml")).unwrap();
    room.ok(&keys("keys.toml", &["edit", "p1", "--limit", "20/s"]));
    room.fails(75, &build("keys.toml", &[]));
    let told = room.fails(UNDONE, &build("keys.toml", &["--serial", "50"]));
    assert!(told.contains(&ids[0].id) && !told.contains(&ids[1].id), "{told}");
    room.ok(&keys("keys.toml", &["fold", "t.kgt"]));
    room.ok(&build("keys.toml", &[]));
    assert_eq!(status(&room, &ids[0]), Some(KeyStatus::Revoked));
}

#[test]
fn signatures_made_elsewhere_undo_nothing_either() {
    let (room, ids) = copied(2);
    room.ok(&["signer", "new", "-o", "b.pem", "--public-out", "b.pub"]);
    let draft = [
        "-r",
        COPY,
        "table",
        "build",
        "-o",
        "draft.kgt",
        "--signer",
        "signer.pem",
        "--signer-public",
        "b.pub",
        "--serial",
        "100",
    ];
    room.ok(&draft);
    room.ok(&keys("keys.toml", &["revoke", &ids[0].id]));
    room.ok(&build("keys.toml", &[]));
    let published = fs::read(room.path("t.kgt")).unwrap();
    let attach = ["table", "attach-signature", "draft.kgt", "--signer", "b.pem", "-o", "t.kgt"];
    // With the registry that made it, with another one, and without any.
    for registry in [COPY, "keys.toml", "none.toml"] {
        let told = room.fails(UNDONE, &[&["-r", registry], &attach[..]].concat());
        assert!(told.contains(&ids[0].id) && !told.contains(&ids[1].id), "{registry}: {told}");
        let folds = told.contains("keys fold");
        assert_eq!(folds, registry == COPY, "no other registry is sent to take it in: {told}");
    }
    assert_eq!(fs::read(room.path("t.kgt")).unwrap(), published);
    room.ok(&[&attach[..], &["--readmit", &ids[0].id]].concat());
    assert_eq!(status(&room, &ids[0]), Some(KeyStatus::Active), "it was meant");
}

#[test]
fn drafts_that_wait_for_signatures_are_ordinary_work() {
    let (room, ids) = copied(2);
    room.ok(&["signer", "new", "-o", "b.pem", "--public-out", "b.pub"]);
    let draft = ["table", "build", "-o", "draft.kgt", "--unsigned", "--signer-public", "b.pub"];
    let attach = ["table", "attach-signature", "draft.kgt", "--signer", "b.pem", "-o", "t.kgt"];
    for change in [["disable", "p0"], ["enable", "p0"], ["revoke", "p1"]] {
        room.ok(&keys("keys.toml", &change));
        room.ok(&draft);
        room.ok(&[&attach[..], &["--new-signer"]].concat());
        fs::remove_file(room.path("draft.kgt")).unwrap();
    }
    let told = room.run(&["table", "verify", "t.kgt", "--signer", "b.pub", "--audience", "shop"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    let _ = ids;
}

#[test]
fn another_audience_or_a_damaged_table_is_never_written_over() {
    let (room, _) = copied(1);
    room.ok(&["-r", "other.toml", "keys", "init", "--audience", "else"]);
    let told = room.fails(65, &build("other.toml", &["--serial", "100"]));
    assert!(told.contains("else") && told.contains("shop"), "{told}");
    // From a copy, over something that cannot be compared.
    let mut bytes = fs::read(room.path("t.kgt")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    room.ok(&keys("keys.toml", &["edit", "p0", "--limit", "1/s"]));
    room.ok(&build("keys.toml", &[]));
    let mut damaged = fs::read(room.path("t.kgt")).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    room.write("t.kgt", &damaged);
    let told = room.fails(65, &build(COPY, &["--serial", "100"]));
    assert!(told.contains("hint: it may hold changes"), "{told}");
    assert_eq!(fs::read(room.path("t.kgt")).unwrap(), damaged);
}

/// A rotated single key is a new key: its callers are those of the key that it replaced.
#[test]
fn a_successor_takes_over_what_is_said_against_the_key_that_it_replaced() {
    let ways: [(&[&str], &str, &str); 5] = [
        (&["revoke", "p0"], "state", "disabled"),
        (&["disable", "p0"], "state", "disabled"),
        (&["edit", "p0", "--allow-ip", "10.0.0.0/8"], "networks", "10.0.0.0/8"),
        (&["edit", "p0", "--limit", "1/s"], "limit", "1/s"),
        (&["edit", "p0", "--expires", "2050-01-01T00:00:00Z"], "expires", "2050-01-01T00:00:00Z"),
    ];
    for (way, field, want) in ways {
        for rotations in [1, 2] {
            let (room, ids) = copied(2);
            room.ok(&keys("keys.toml", way));
            room.ok(&build("keys.toml", &[]));
            let mut last = ids[0].id.clone();
            for _ in 0..rotations {
                let rotated = room.json(&keys(COPY, &["rotate", &last]));
                last = rotated["id"].as_str().unwrap().to_owned();
            }
            room.ok(&keys(COPY, &["rotate", "p1"]));
            let ran = room.run(&keys(COPY, &["fold", "t.kgt"]));
            assert!(ran.code == 0 && ran.stderr.contains(&last), "{way:?}: {}", ran.stderr);
            let shown = room.json(&keys(COPY, &["show", &last]));
            let shown = match &shown[field] {
                serde_json::Value::Array(list) => list[0].clone(),
                one => one.clone(),
            };
            assert_eq!(shown, want, "{way:?}");
            // Nothing was taken away from the other key.
            let list = room.json(&keys(COPY, &["list", "--name", "p1"]));
            let list = list.as_array().unwrap();
            assert!(list.iter().all(|key| key["state"] == "active"), "{way:?}: {list:?}");
            assert!(list.iter().any(|key| key["expires"].is_null()), "{way:?}: {list:?}");
        }
    }
}
