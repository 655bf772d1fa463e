//! Tables and patches as `keygatectl` makes them, read like a sidecar does.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use keygate::core::{Digest, KeyLookup, KeyStatus, PairLookup};
use keygate::table::Refusal;
use serde_json::json;

use crate::support::{Room, holder};

#[test]
fn a_table_holds_the_registry() {
    let room = Room::with_registry();
    let key = room.create(&[
        "--name",
        "CRM",
        "--permission",
        "read,send",
        "--allow-ip",
        "203.0.113.0/24",
        "--limit",
        "600/min",
        "--env",
        "live",
        "--expires",
        "2030-01-01T00:00:00Z",
    ]);
    let pair = room.create(&["--pair", "--permission", "*"]);
    let built = room.json(&["table", "build", "--out", "t.kgt", "--signer", "signer.pem"]);
    assert_eq!((&built["keys"], &built["serial"]), (&json!(2), &json!(3)));
    let keys = room.in_force("t.kgt", None);
    let view = holder(&keys, &key.secret).unwrap();
    assert_eq!((view.id.to_string(), view.org, view.name), (key.id.clone(), "acme", "CRM"));
    assert_eq!(view.grant.permissions.joined(), "read send");
    assert_eq!(view.expires, Some(1_893_456_000));
    assert_eq!(view.grant.limits.per_key().unwrap().count(), 600);
    let secret = Digest::of(pair.secret.as_bytes());
    let found = keys.pair(pair.public_id.unwrap().as_bytes(), &secret);
    assert!(matches!(found, PairLookup::Found(view) if view.id.to_string() == pair.id));
    assert!(keys.single(&secret).is_none(), "a pair's secret alone is no key");
    // A junk secret of the same prefix is refused without a look-up.
    assert!(!keys.plausible(b"kg_live_junk"));
    let shown = room.ok(&["table", "inspect", "t.kgt", "--json"]);
    assert!(!shown.contains("sha256:"), "digests only when asked");
    assert!(room.ok(&["table", "inspect", "t.kgt", "--digests"]).contains("sha256:"));
}

/// A sidecar would refuse it, which is better known now.
#[test]
fn a_table_without_an_active_key_is_built_with_a_warning() {
    let room = Room::with_registry();
    let build = ["table", "build", "--out", "t.kgt", "--signer", "signer.pem"];
    let told = room.run(&build);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(told.stderr.contains("warning: the table has no active key"), "{}", told.stderr);
    assert!(told.stderr.contains("--acknowledge empty"), "{}", told.stderr);
    let told = room.run(&[&build[..], &["--acknowledge", "empty"]].concat());
    assert!(told.code == 0 && !told.stderr.contains("no active key"), "{}", told.stderr);
    room.create(&["--name", "CRM"]);
    let told = room.run(&build);
    assert!(told.code == 0 && !told.stderr.contains("no active key"), "{}", told.stderr);
}

/// Nothing can be compared with it, so nothing is published over it.
#[test]
fn an_emptied_table_is_said_to_be_empty_and_is_not_replaced() {
    let room = Room::with_registry();
    room.create(&["--name", "CRM"]);
    let build = ["table", "build", "--out", "t.kgt", "--signer", "signer.pem"];
    room.ok(&build);
    room.write("t.kgt", "");
    let told = room.fails(65, &build);
    assert!(told.contains("t.kgt: the file is empty\nhint: it may hold changes"), "{told}");
    assert_eq!(told.matches("hint: ").count(), 1, "{told}");
    let told = room.fails(65, &["table", "inspect", "t.kgt"]);
    assert!(told.contains("the file is empty\nhint: publish it again"), "{told}");
}

#[test]
fn both_secrets_of_a_pair_in_rotation_work_and_of_a_single_key_both_keys() {
    let room = Room::with_registry();
    let pair = room.create(&["--pair"]);
    let single = room.create(&["--name", "single"]);
    let second = room.json(&["keys", "rotate", &pair.id, "--overlap", "7d"]);
    let successor = room.json(&["keys", "rotate", &single.id, "--overlap", "7d"]);
    assert_eq!(second["id"], pair.id.as_str(), "the key id stays");
    assert_ne!(successor["id"], single.id.as_str());
    room.ok(&["table", "build", "--out", "t.kgt", "--signer", "signer.pem"]);
    let keys = room.in_force("t.kgt", None);
    let id = pair.public_id.unwrap();
    for secret in [pair.secret.as_str(), second["secret"].as_str().unwrap()] {
        let found = keys.pair(id.as_bytes(), &Digest::of(secret.as_bytes()));
        assert!(matches!(found, PairLookup::Found(_)));
    }
    let old = holder(&keys, &single.secret).unwrap();
    assert!(old.expires.is_some(), "the old one runs out");
    assert!(holder(&keys, successor["secret"].as_str().unwrap()).unwrap().expires.is_none());
    room.ok(&["keys", "disable", &pair.id]);
    let told = room.fails(65, &["keys", "rotate", &pair.id, "--drop-previous"]);
    assert!(told.contains("and so would be its new secret"), "{told}");
    room.ok(&["keys", "enable", &pair.id]);
    let told = room.fails(65, &["keys", "rotate", &pair.id]);
    assert!(told.contains("in rotation already") && told.contains("--drop-previous"), "{told}");
    room.ok(&["keys", "rotate", &pair.id, "--drop-previous", "--overlap", "0s"]);
    room.ok(&["table", "build", "--out", "t.kgt", "--signer", "signer.pem"]);
    assert_eq!(room.in_force("t.kgt", None).table().counts().keys, 3);
}

#[test]
fn a_change_publishes_in_one_step() {
    let room = Room::with_registry();
    let key = room.create(&["--publish", "t.kgt", "--signer", "signer.pem"]);
    assert!(holder(&room.in_force("t.kgt", None), &key.secret).is_some());
    let publish = ["--publish-patch", "t.kgp", "--base", "t.kgt", "--signer", "signer.pem"];
    room.ok(&[&["keys", "revoke", &key.id], &publish[..]].concat());
    let keys = room.in_force("t.kgt", Some("t.kgp"));
    assert_eq!(holder(&keys, &key.secret).unwrap().grant.status, KeyStatus::Revoked);
    let added = room.create(&publish);
    let keys = room.in_force("t.kgt", Some("t.kgp"));
    assert!(holder(&keys, &added.secret).is_some());
    assert_eq!(holder(&keys, &key.secret).unwrap().grant.status, KeyStatus::Revoked, "cumulative");
    // The next table folds the patch.
    room.ok(&["table", "build", "--out", "t2.kgt", "--signer", "signer.pem"]);
    let keys = room.in_force("t2.kgt", None);
    assert_eq!(holder(&keys, &key.secret).unwrap().grant.status, KeyStatus::Revoked);
    let manifest = keys.table().manifest();
    let patch = room.in_force("t.kgt", Some("t.kgp")).patch_serial().unwrap();
    assert!(manifest.includes_through >= patch);
}

#[test]
fn patches_of_both_forms_of_a_registry_say_the_same() {
    let room = Room::with_registry();
    let kept = room.create(&[]);
    let revoked = room.create(&[]);
    let pair = room.create(&["--pair"]);
    let signer = ["--signer", "signer.pem"];
    room.ok(&[&["table", "build", "--out", "t.kgt"], &signer[..]].concat());
    room.ok(&["-r", "keys.jsonl", "keys", "init", "--copy", "keys.toml"]);
    for (registry, patch) in [("keys.toml", "toml.kgp"), ("keys.jsonl", "jsonl.kgp")] {
        room.ok(&["-r", registry, "keys", "revoke", &revoked.id]);
        let new = room.json(&["-r", registry, "keys", "rotate", &pair.id, "--overlap", "0s"]);
        let base = ["-r", registry, "patch", "--out", patch, "--base", "t.kgt"];
        room.ok(&[&base[..], &signer[..]].concat());
        let keys = room.in_force("t.kgt", Some(patch));
        assert!(holder(&keys, &kept.secret).is_some(), "{registry}");
        let status = holder(&keys, &revoked.secret).unwrap().grant.status;
        assert_eq!(status, KeyStatus::Revoked, "{registry}");
        let id = pair.public_id.clone().unwrap();
        let look = |secret: &str| keys.pair(id.as_bytes(), &Digest::of(secret.as_bytes()));
        assert!(
            matches!(look(new["secret"].as_str().unwrap()), PairLookup::Found(_)),
            "{registry}"
        );
        assert!(matches!(look(&pair.secret), PairLookup::WrongSecret(_)), "{registry}");
        assert_eq!(keys.patch().unwrap().entries(), 3, "{registry}: only what changed");
        // The other registry rotates the pair as well, and would otherwise be questioned about this
        // secret.
        std::fs::remove_file(room.path(patch)).unwrap();
    }
}

#[test]
fn two_publishers_the_later_serial_wins_and_the_earlier_is_told() {
    let room = Room::with_registry();
    room.create(&[]);
    // Another copy of the registry, one change behind.
    fs::copy(room.path("keys.toml"), room.path("copy.toml")).unwrap();
    room.create(&[]);
    let build =
        |registry| ["-r", registry, "table", "build", "-o", "t.kgt", "--signer", "signer.pem"];
    room.ok(&build("keys.toml"));
    let winner = fs::read(room.path("t.kgt")).unwrap();
    let told = room.fails(75, &build("copy.toml"));
    assert!(told.contains("holds serial 3 already, published 20"), "{told}");
    assert!(told.contains("serial 2 was not written over it"), "{told}");
    assert!(told.contains("hint:"), "{told}");
    assert_eq!(fs::read(room.path("t.kgt")).unwrap(), winner, "nothing was lost");
    // The same with a patch.
    room.ok(&["patch", "-o", "t.kgp", "--base", "t.kgt", "--signer", "signer.pem"]);
    let late =
        ["-r", "copy.toml", "patch", "-o", "t.kgp", "--base", "t.kgt", "--signer", "signer.pem"];
    let told = room.fails(75, &late);
    assert!(told.contains("already, published"), "{told}");
    // If publishing a change fails, the command says that the change is made.
    room.ok(&build("keys.toml"));
    room.ok(&build("keys.toml"));
    let late = [
        "-r",
        "copy.toml",
        "keys",
        "create",
        "--org",
        "acme",
        "--publish",
        "t.kgt",
        "--signer",
        "signer.pem",
    ];
    let told = room.run(&late);
    assert_eq!(told.code, 75, "{}", told.stderr);
    assert!(told.stdout.contains("secret"), "the secret was shown all the same");
    assert!(told.stderr.contains("the change is in the registry"), "{}", told.stderr);
}

#[test]
fn racing_publishers_leave_the_highest_serial() {
    let room = Room::with_registry();
    room.create(&[]);
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let build = |_| {
            let room = &room;
            scope.spawn(move || {
                room.run(&["table", "build", "-o", "t.kgt", "--signer", "signer.pem"]).code
            })
        };
        let builds: Vec<_> = (0..6).map(build).collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    assert!(codes.iter().all(|code| [0, 75].contains(code)), "{codes:?}");
    assert!(codes.contains(&0));
    let registry = room.json(&["keys", "check"])["serial"].as_u64().unwrap();
    assert_eq!(room.in_force("t.kgt", None).serial(), registry, "the last serial is in place");
}

#[test]
fn a_patch_from_elsewhere_is_not_overruled_but_folded() {
    let room = Room::with_registry();
    let key = room.create(&[]);
    let text = room.read("keys.toml");
    let publish = "signer = \"signer.pem\"\ntable = \"t.kgt\"\npatch = \"t.kgp\"\n";
    room.write("keys.toml", text.replace("[publish]\n", &format!("[publish]\n{publish}")));
    room.ok(&["table", "build"]);
    fs::copy(room.path("keys.toml"), room.path("laptop.toml")).unwrap();
    // An emergency: revoked from a laptop, from its copy of the registry.
    room.ok(&["-r", "laptop.toml", "keys", "revoke", &key.id, "--publish-patch", "t.kgp"]);
    let told = room.fails(75, &["table", "build"]);
    assert!(told.contains("--fold-patch"), "{told}");
    room.ok(&["table", "build", "--fold-patch"]);
    let keys = room.in_force("t.kgt", None);
    assert_eq!(holder(&keys, &key.secret).unwrap().grant.status, KeyStatus::Revoked);
    assert_eq!(room.json(&["keys", "show", &key.id])["state"], "revoked", "the registry knows it");
    assert!(room.read("keys.audit.jsonl").contains("table build: fold"));
}

#[test]
fn verify_tells_faults_apart_by_exit_code() {
    let room = Room::with_registry();
    room.create(&[]);
    room.ok(&["signer", "new", "--out", "other.pem"]);
    room.ok(&["table", "build", "-o", "good.kgt", "--signer", "signer.pem"]);
    let good = fs::read(room.path("good.kgt")).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    room.write("flipped.kgt", flipped);
    room.write("short.kgt", &good[..good.len() - 1]);
    room.write("text.kgt", "hello, this is not a table");
    room.ok(&["table", "build", "-o", "old.kgt", "--signer", "signer.pem", "--expires", "1s"]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let audience = ["--audience", "shop"];
    let verify = |file: &str, extra: &[&str]| {
        room.run(&[&["table", "verify", file, "--signer", "signer.pem"], extra].concat())
    };
    assert_eq!(verify("good.kgt", &audience).code, 0);
    let cases = [
        ("flipped bit", verify("flipped.kgt", &audience)),
        ("truncated", verify("short.kgt", &audience)),
        ("no table", verify("text.kgt", &audience)),
        ("expired", verify("old.kgt", &audience)),
        ("other audience", verify("good.kgt", &["--audience", "else"])),
        ("rollback", verify("good.kgt", &["--audience", "shop", "--min-serial", "99"])),
        ("too large", verify("good.kgt", &["--audience", "shop", "--max-bytes", "100"])),
        (
            "too few signers",
            verify("good.kgt", &["--signer", "other.pem", "--required", "2", "--audience", "shop"]),
        ),
        (
            "other signer",
            room.run(&[
                "table",
                "verify",
                "good.kgt",
                "--signer",
                "other.pem",
                "--audience",
                "shop",
            ]),
        ),
        ("missing", verify("none.kgt", &audience)),
    ];
    let mut codes = std::collections::BTreeMap::new();
    for (name, ran) in cases {
        assert_ne!(ran.code, 0, "{name}");
        assert!(ran.stderr.starts_with("error: "), "{name}: {}", ran.stderr);
        assert_eq!(codes.insert(ran.code, name), None, "{name} has a code of its own");
    }
    assert_eq!(codes.get(&66), Some(&"missing"));
    assert_eq!(room.run(&["table", "verify", "good.kgt"]).code, 64, "trust must be said");
    assert_eq!(room.run(&["table", "verify", "good.kgt", "--any-signer"]).code, 0);
}

/// Every file of tests/data/table/bad: the reason recorded next to it and its exit code, after the
/// table that it names.
#[test]
fn every_reason_has_its_exit_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/table");
    let room = Room::new();
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(folder.join("bad")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|e| e == "txt") {
            continue;
        }
        let why = fs::read_to_string(file.with_extension("txt")).unwrap();
        let (head, _) = why.split_once(": ").unwrap();
        let (reason, given) = head.split_once(" (").unwrap_or((head, ""));
        let path = |name: &str| folder.join(name).display().to_string();
        let mut verify = vec!["table".to_owned(), "verify".into(), file.display().to_string()];
        verify.extend(["--audience", "test", "--max-bytes", "16384", "--signer"].map(String::from));
        verify.push(path("signer-1.pem"));
        match given {
            "" => {}
            "after good/basic.kgt)" => verify.extend(["--after".into(), path("good/basic.kgt")]),
            _ => verify.extend([
                "--signer".into(),
                path("signer-2.pem"),
                "--required".into(),
                "2".into(),
            ]),
        }
        let ran = room.run(&verify.iter().map(String::as_str).collect::<Vec<_>>());
        let (_, code) = Refusal::REASONS.iter().find(|(word, _)| *word == reason).unwrap();
        assert_eq!(ran.code, i32::from(*code), "{}: {}", file.display(), ran.stderr);
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
        seen.insert(reason.to_owned());
    }
    let all = Refusal::REASONS.iter().map(|(word, _)| (*word).to_owned());
    let missing: Vec<_> = all.filter(|word| !seen.contains(word)).collect();
    // Nine publishers who do not know about each other concern a sidecar. Lack of memory concerns
    // no file.
    assert_eq!(missing, ["hold_full", "memory"]);
}

#[test]
fn what_is_no_table_is_never_overwritten() {
    let room = Room::with_registry();
    room.create(&[]);
    let before = room.read("keys.toml");
    let told = room.run(&["table", "build", "-o", "keys.audit.jsonl", "--signer", "signer.pem"]);
    assert_eq!(told.code, 65, "{}", told.stderr);
    let audit = room.read("keys.audit.jsonl");
    assert!(audit.starts_with("{\"time\""), "{audit}");
    assert!(room.read("keys.toml").len() >= before.len());
}

#[test]
fn diff_tells_what_changes_for_callers() {
    let room = Room::with_registry();
    let changed = room.create(&["--name", "CRM", "--permission", "read"]);
    room.ok(&["table", "build", "-o", "a.kgt", "--signer", "signer.pem"]);
    room.ok(&["keys", "edit", &changed.id, "--permission", "read,send"]);
    let added = room.create(&["--name", "new"]);
    room.ok(&["table", "build", "-o", "b.kgt", "--signer", "signer.pem"]);
    let lines = room.ok(&["table", "diff", "a.kgt", "b.kgt", "--json"]);
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |id: &str| lines.iter().find(|line| line["id"] == id).unwrap();
    assert_eq!(of(&changed.id)["fields"], json!({"permissions": ["read", "read send"]}));
    assert_eq!(of(&added.id)["change"], "added");
    assert_eq!(room.run(&["table", "diff", "a.kgt", "b.kgt", "--exit-code"]).code, 1);
    assert_eq!(room.run(&["table", "diff", "b.kgt", "keys.toml", "--exit-code"]).code, 0);
}

#[test]
fn an_unsigned_or_unreadable_publication_changes_nothing() {
    let room = Room::with_registry();
    let before = room.read("keys.toml");
    let told = room.fails(64, &["keys", "create", "--org", "acme", "--publish", "t.kgt"]);
    assert!(told.contains("the signer is neither given nor set\nhint:"), "{told}");
    room.fails(
        66,
        &["keys", "create", "--org", "acme", "--publish", "t.kgt", "--signer", "no.pem"],
    );
    let patch = ["keys", "create", "--org", "acme", "--publish-patch", "t.kgp", "--base", "no.kgt"];
    room.fails(66, &[&patch[..], &["--signer", "signer.pem"]].concat());
    assert_eq!(room.read("keys.toml"), before);
    assert!(!room.path("t.kgt").exists());
}
