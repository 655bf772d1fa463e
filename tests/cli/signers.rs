//! Tables with several signatures: their replacement has as many, or nothing is written.

use std::fs;

use keygate::core::KeyStatus;
use keygate::table::{Bounds, Patch, Table, Trust};

use crate::support::{Room, holder};

/// A table that `signer.pem` and `b.pem` of three signers have signed, and the trust of sidecars
/// that require two.
fn signed_by_two() -> (Room, String, Trust) {
    let room = Room::with_registry();
    let key = room.create(&["--name", "a"]);
    for name in ["b", "c"] {
        let (private, public) = (format!("{name}.pem"), format!("{name}.pub"));
        room.ok(&["signer", "new", "-o", &private, "--public-out", &public]);
    }
    let text = room.read("keys.toml");
    let publish = "[publish]\nsigner = \"signer.pem\"\ntable = \"t.kgt\"\n";
    room.write("keys.toml", text.replace("[publish]\n", publish));
    let both = ["--signer", "signer.pem", "--signer", "b.pem", "--signer-public", "c.pub"];
    room.ok(&[&["table", "build"], &both[..]].concat());
    let keys = ["signer.pem", "b.pem", "c.pem"].map(|signer| room.public_key(signer));
    let trust = Trust::new(keys, 2, "shop").unwrap();
    (room, key.secret, trust)
}

fn status(room: &Room, trust: &Trust, secret: &str) -> KeyStatus {
    let file = fs::read(room.path("t.kgt")).unwrap();
    let table = Table::open(file, trust, &Bounds::default()).unwrap();
    let keys = keygate::table::KeySet::new(std::sync::Arc::new(table), None, &[], None);
    holder(&keys, secret).unwrap().grant.status
}

/// Runs the commands of a hint as a shell does. `FILE-OF-ID` is the private key with that id, and
/// `FILE` is `b.pem`.
fn follow(room: &Room, told: &str) {
    let line = told.lines().find_map(|line| line.strip_prefix("  keygatectl ")).unwrap();
    let mut line = line.to_owned();
    for entry in fs::read_dir(room.root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".pem") {
            let id = room.json(&["signer", "show", &name])["id"].as_str().unwrap().to_owned();
            line = line.replace(&format!("FILE-OF-{}", id.trim_start_matches("ed25519:")), &name);
        }
    }
    assert!(!line.contains("FILE-OF-"), "no key of this id: {line}");
    for command in line.replace("FILE", "b.pem").split(" && ") {
        let words = command.split(' ').filter(|word| *word != "keygatectl");
        room.ok(&words.collect::<Vec<_>>());
    }
}

#[test]
fn nothing_with_fewer_signatures_replaces_a_table() {
    let (room, secret, trust) = signed_by_two();
    let before = (fs::read(room.path("t.kgt")).unwrap(), room.read("keys.toml"));
    let publish = ["--publish", "t.kgt"];
    let patch = ["--publish-patch", "t.kgp"];
    let named = ["--signer-public", "b.pub"];
    let refused: [&[&str]; 8] = [
        &["table", "build"],
        &["table", "build", "--signer", "signer.pem"],
        &["table", "build", "--signer", "c.pem"],
        // A draft is not a table either.
        &["table", "build", named[0], named[1]],
        &["keys", "revoke", "a", publish[0], publish[1]],
        // Sidecars would refuse a patch over it as well.
        &["keys", "revoke", "a", patch[0], patch[1]],
        &["patch", "--out", "t.kgp"],
        &["orgs", "limit", "acme", "monthly=5/30d", publish[0], publish[1]],
    ];
    for command in refused {
        let told = room.fails(65, command);
        assert!(told.contains("2 signers") && told.contains("--fewer-signatures"), "{told}");
        assert!(!room.path("t.kgp").exists(), "{command:?}");
        let now = (fs::read(room.path("t.kgt")).unwrap(), room.read("keys.toml"));
        assert!(now == before, "{command:?} changed something");
    }
    // A stranger's signature does not count, whatever rotation option is given.
    room.ok(&["signer", "new", "-o", "new.pem"]);
    room.fails(65, &["table", "build", "--signer", "signer.pem", "--signer", "new.pem"]);
    // Two of the allowed signers, in any combination: a different pair than before.
    let pair = ["table", "build", "--signer", "b.pem", "--signer", "c.pem"];
    room.ok(&[&pair[..], &["--signer-public", "signer.pem"]].concat());
    assert_eq!(status(&room, &trust, &secret), KeyStatus::Active);
    // Attaching a signature does not replace the table with something half-signed.
    let draft = ["table", "build", "--out", "d.kgt", "--unsigned"];
    let all = ["signer.pem", "b.pub", "c.pub"].map(|key| ["--signer-public", key]).concat();
    room.ok(&[&draft[..], &all].concat());
    let attach = ["table", "attach-signature", "d.kgt", "--signer"];
    room.fails(65, &[&attach[..], &["signer.pem", "--out", "t.kgt"]].concat());
    room.ok(&[&attach[..], &["signer.pem"]].concat());
    room.ok(&[&attach[..], &["c.pem", "--out", "t.kgt"]].concat());
    status(&room, &trust, &secret);
    // The next draft may replace the last one.
    room.ok(&[&draft[..], &all].concat());
    // An intentional reduction is stated, and recorded.
    room.ok(&["table", "build", "--fewer-signatures"]);
    assert!(room.read("keys.audit.jsonl").contains("\"fewer_signatures\":true"));
    room.ok(&["keys", "revoke", "a", "--publish", "t.kgt"]);
}

#[test]
fn hints_lead_to_a_table_that_sidecars_accept() {
    let (room, secret, trust) = signed_by_two();
    let told = room.fails(65, &["keys", "revoke", "a", "--publish", "t.kgt"]);
    assert!(told.contains("--no-publish"), "{told}");
    // The note of the change itself suggests the same.
    let ran = room.run(&["keys", "revoke", "a", "--no-publish"]);
    assert!(ran.stderr.contains(" && keygatectl table attach-signature"), "{}", ran.stderr);
    follow(&room, &ran.stderr);
    assert_eq!(status(&room, &trust, &secret), KeyStatus::Revoked);
    let listed = room.run(&["keys", "list"]);
    assert!(!listed.stderr.contains("not published"), "{}", listed.stderr);
    // And that of the refusal.
    room.ok(&["keys", "create", "--org", "acme", "--no-publish"]);
    let told = room.fails(65, &["table", "build"]);
    follow(&room, &told);
    status(&room, &trust, &secret);
}

/// Two people, two machines: no private key leaves its machine.
#[test]
fn a_patch_is_signed_by_two_at_two_places() {
    let (room, secret, trust) = signed_by_two();
    room.ok(&["keys", "revoke", "a", "--no-publish"]);
    let told = room.fails(65, &["patch", "--out", "t.kgp"]);
    follow(&room, &told);
    let bounds = Bounds::default();
    let table = Table::open(fs::read(room.path("t.kgt")).unwrap(), &trust, &bounds).unwrap();
    let patch = Patch::open(fs::read(room.path("t.kgp")).unwrap(), &trust, &bounds).unwrap();
    assert!(patch.is_over(&table));
    let patch = Some(std::sync::Arc::new(patch));
    let keys = keygate::table::KeySet::new(std::sync::Arc::new(table), patch, &[], None);
    assert_eq!(holder(&keys, &secret).unwrap().grant.status, KeyStatus::Revoked);
    // By a program that only makes signatures.
    let draft = ["patch", "--out", "d.kgp", "--unsigned", "--message", "m"];
    let named = ["--signer-public", "b.pub", "--signer-public", "c.pub"];
    let missing = room.fails(64, &draft[..4]);
    assert!(missing.contains("--signer-public"), "{missing}");
    room.ok(&[&draft[..], &named].concat());
    assert!(fs::read(room.path("d.kgp")).unwrap().starts_with(&fs::read(room.path("m")).unwrap()));
    let attach = ["table", "attach-signature", "d.kgp", "--signer"];
    room.ok(&[&attach[..], &["b.pem"]].concat());
    room.ok(&[&attach[..], &["c.pem", "--base", "t.kgt", "--out", "t.kgp"]].concat());
    Patch::open(fs::read(room.path("t.kgp")).unwrap(), &trust, &bounds).unwrap();
}
