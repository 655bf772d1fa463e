//! The recipes of docs/recipes.md, step by step.

use std::fs;
use std::process::Command;

use keygate::table::{Bounds, Refusal, Table, Trust};

use crate::support::{Room, holder, openssl};

fn open(room: &Room, table: &str, trust: &Trust) -> Result<Table, Refusal> {
    Table::open(fs::read(room.path(table)).unwrap(), trust, &Bounds::default())
}

fn trusting(room: &Room, signers: &[&str], required: usize) -> Trust {
    Trust::new(signers.iter().map(|s| room.public_key(s)), required, "shop").unwrap()
}

#[test]
fn a_signer_is_rotated_without_a_gap() {
    let room = Room::with_registry();
    let key = room.create(&[]);
    room.ok(&["table", "build", "-o", "t.kgt", "--signer", "signer.pem"]);
    // 1. A new signer.
    room.ok(&["signer", "new", "-o", "new.pem", "--public-out", "new.pub"]);
    let old_only = trusting(&room, &["signer.pem"], 1);
    // 2. Sidecars trust both.
    let both = trusting(&room, &["signer.pem", "new.pub"], 1);
    assert!(open(&room, "t.kgt", &old_only).is_ok());
    assert!(open(&room, "t.kgt", &both).is_ok());
    // 3. The new one signs, and needs no further option.
    let build = ["table", "build", "-o", "t.kgt", "--signer", "new.pem"];
    let told = room.fails(65, &build);
    assert!(told.contains("--new-signer publishes"), "{told}");
    assert!(open(&room, "t.kgt", &old_only).is_ok(), "untouched");
    room.ok(&[&build[..], &["--new-signer"]].concat());
    room.ok(&build);
    assert!(open(&room, "t.kgt", &both).is_ok());
    assert!(matches!(open(&room, "t.kgt", &old_only), Err(Refusal::UnknownSigner { .. })));
    // 4. Sidecars drop the old one.
    let new_only = trusting(&room, &["new.pub"], 1);
    let table = open(&room, "t.kgt", &new_only).unwrap();
    assert_eq!(table.counts().active, 1);
    let _ = key;
}

#[test]
fn a_compromised_signer_is_dropped_and_its_tables_refused() {
    let room = Room::with_registry();
    room.create(&[]);
    room.ok(&["table", "build", "-o", "forged.kgt", "--signer", "signer.pem"]);
    room.ok(&["signer", "new", "-o", "new.pem"]);
    // 1. Signed by both: accepted before and after the switch.
    let both = ["--signer", "signer.pem", "--signer", "new.pem"];
    room.ok(&[&["table", "build", "-o", "t.kgt"], &both[..]].concat());
    assert!(open(&room, "t.kgt", &trusting(&room, &["signer.pem"], 1)).is_ok());
    // 2. The old one is dropped.
    let trust = trusting(&room, &["new.pem"], 1);
    let refused = open(&room, "forged.kgt", &trust).unwrap_err();
    assert_eq!(refused.reason(), "unknown_signer");
    let table = open(&room, "t.kgt", &trust).unwrap();
    assert!(trust.accepts(table.signed_by()).is_ok(), "in force before, in force after");
    // Until then, the old signer alone cannot publish anything that sidecars would refuse.
    for signer in ["signer.pem", "new.pem"] {
        room.fails(65, &["table", "build", "-o", "t.kgt", "--signer", signer]);
    }
    room.ok(&[&["table", "build", "-o", "t.kgt"], &both[..]].concat());
    assert!(open(&room, "t.kgt", &trust).is_ok());
    // 3. The new one alone.
    let alone = ["table", "build", "-o", "t.kgt", "--signer", "new.pem", "--fewer-signatures"];
    room.ok(&alone);
    assert!(open(&room, "t.kgt", &trust).is_ok());
}

#[test]
fn openssl_makes_the_key_and_the_signature() {
    let room = Room::with_registry();
    let key = room.create(&[]);
    openssl(&room, &["genpkey", "-algorithm", "ed25519", "-out", "hsm.pem"]);
    openssl(&room, &["pkey", "-in", "hsm.pem", "-pubout", "-out", "hsm.pub"]);
    let build = ["table", "build", "--unsigned", "--signer-public", "hsm.pub", "-o", "draft.kgt"];
    room.ok(&[&build[..], &["--message", "message"]].concat());
    let trust = trusting(&room, &["hsm.pub"], 1);
    assert_eq!(open(&room, "draft.kgt", &trust).unwrap_err().reason(), "unsigned");
    room.ok(&["table", "inspect", "draft.kgt"]);
    openssl(
        &room,
        &["pkeyutl", "-sign", "-rawin", "-inkey", "hsm.pem", "-in", "message", "-out", "sig"],
    );
    let attach = ["table", "attach-signature", "draft.kgt", "--signature", "sig"];
    room.ok(&[&attach[..], &["--signer-public", "hsm.pub", "-o", "t.kgt"]].concat());
    assert_eq!(open(&room, "t.kgt", &trust).unwrap().counts().active, 1);
    // openssl can check the file as well: the message is its beginning.
    let message = fs::read(room.path("message")).unwrap();
    assert!(fs::read(room.path("t.kgt")).unwrap().starts_with(&message));
    openssl(
        &room,
        &[
            "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "hsm.pub", "-in", "message",
            "-sigfile", "sig",
        ],
    );
    // And keygatectl signs with a key that openssl made.
    room.ok(&["table", "build", "-o", "direct.kgt", "--signer", "hsm.pem"]);
    assert!(open(&room, "direct.kgt", &trust).is_ok());
    let _ = key;
}

#[test]
fn openssl_reads_the_key_that_keygatectl_makes() {
    let room = Room::new();
    room.ok(&["signer", "new", "--public-out", "ours.pub"]);
    openssl(&room, &["pkey", "-in", "signer.pem", "-pubout", "-out", "theirs.pub"]);
    assert_eq!(room.read("ours.pub"), room.read("theirs.pub"));
}

#[test]
fn a_signature_that_does_not_fit_is_refused_and_nothing_written() {
    let room = Room::with_registry();
    room.create(&[]);
    room.ok(&["signer", "new", "-o", "other.pem"]);
    room.ok(&["signer", "new", "-o", "hsm.pem", "--public-out", "hsm.pub"]);
    let build = ["table", "build", "--unsigned", "--signer-public", "hsm.pub", "-o", "t.kgt"];
    room.ok(&build);
    let before = fs::read(room.path("t.kgt")).unwrap();
    let stranger = room.fails(65, &["table", "attach-signature", "t.kgt", "--signer", "other.pem"]);
    assert!(stranger.contains("not among the signers"), "{stranger}");
    room.write("sig", [7u8; 64]);
    let attach = ["table", "attach-signature", "t.kgt", "--signature", "sig"];
    let wrong = room.fails(65, &[&attach[..], &["--signer-public", "hsm.pub"]].concat());
    assert!(wrong.contains("signature of ed25519:"), "{wrong}");
    room.write("sig", [7u8; 63]);
    let short = room.fails(65, &[&attach[..], &["--signer-public", "hsm.pub"]].concat());
    assert!(short.contains("holds 63 bytes"), "{short}");
    assert_eq!(fs::read(room.path("t.kgt")).unwrap(), before);
    room.ok(&["table", "attach-signature", "t.kgt", "--signer", "hsm.pem"]);
}

#[test]
fn two_of_three_signers() {
    let room = Room::with_registry();
    let key = room.create(&[]);
    for name in ["b", "c"] {
        room.ok(&["signer", "new", "-o", &format!("{name}.pem"), "--public-out", name]);
    }
    let trust = trusting(&room, &["signer.pem", "b", "c"], 2);
    let build = ["table", "build", "-o", "t.kgt", "--signer", "signer.pem"];
    room.ok(&[&build[..], &["--signer-public", "b", "--signer-public", "c"]].concat());
    assert_eq!(open(&room, "t.kgt", &trust).unwrap_err().reason(), "few_signers");
    room.ok(&["table", "attach-signature", "t.kgt", "--signer", "c.pem"]);
    assert!(open(&room, "t.kgt", &trust).is_ok());
    let keys = room.in_force("t.kgt", None);
    assert!(holder(&keys, &key.secret).is_some());
}

#[test]
fn a_lost_registry_takes_in_what_is_published() {
    let room = Room::with_registry();
    let kept = room.create(&["--name", "kept", "--permission", "read"]);
    let pair = room.create(&["--pair"]);
    let revoked = room.create(&["--name", "revoked"]);
    room.ok(&["keys", "revoke", &revoked.id]);
    room.ok(&["table", "build", "-o", "t.kgt", "--signer", "signer.pem"]);
    let before = room.in_force("t.kgt", None);
    fs::remove_file(room.path("keys.toml")).unwrap();
    fs::remove_file(room.path("keys.audit.jsonl")).unwrap();
    room.ok(&["keys", "init", "--audience", "shop"]);
    let new = room.create(&["--name", "new"]);
    // Neither a plain build nor a higher serial loses the keys of the table.
    let build = ["table", "build", "-o", "t.kgt", "--signer", "signer.pem"];
    let told = room.fails(75, &build);
    assert!(told.contains("`keygatectl keys fold t.kgt`"), "{told}");
    let told = room.fails(77, &[&build[..], &["--serial", "100"]].concat());
    for key in [&kept, &pair, &revoked] {
        assert!(told.contains(&format!("{} ", key.id)), "{told}");
    }
    assert_eq!(fs::read(room.path("t.kgt")).unwrap(), before.table().file());
    room.ok(&["keys", "fold", "t.kgt"]);
    room.ok(&build);
    let keys = room.in_force("t.kgt", None);
    assert!(keys.serial() > before.serial(), "the registry goes on above what was published");
    assert_eq!(room.json(&["keys", "check"])["serial"], keys.serial());
    let grant = |keys| holder(keys, &kept.secret).map(|view| view.grant.clone());
    assert_eq!(grant(&keys), grant(&before));
    assert!(holder(&keys, &new.secret).is_some());
    assert_eq!(room.json(&["keys", "show", &revoked.id])["state"], "revoked");
    // Or each key is dropped by its id.
    let room = Room::with_registry();
    let gone = room.create(&[]);
    room.ok(&build);
    fs::remove_file(room.path("keys.toml")).unwrap();
    room.ok(&["keys", "init", "--audience", "shop"]);
    room.ok(&[&build[..], &["--serial", "100", "--drop", &gone.id]].concat());
    assert_eq!(room.in_force("t.kgt", None).table().counts().keys, 0);
}

/// As documented, with a patch in a folder that nothing in the new registry names. It was published
/// before copies of such patches were kept next to the table.
#[test]
fn a_lost_registry_takes_in_a_patch_from_another_folder() {
    let room = Room::with_registry();
    fs::create_dir(room.path("elsewhere")).unwrap();
    let key = room.create(&["--name", "a"]);
    let build = ["table", "build", "--out", "table.kgt", "--signer", "signer.pem"];
    room.ok(&build);
    let patch = ["--publish-patch", "elsewhere/table.kgp", "--base", "table.kgt"];
    room.ok(&[&["keys", "revoke", "a", "--signer", "signer.pem"], &patch[..]].concat());
    for entry in fs::read_dir(room.root()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("keys.") || name.contains(".elsewhere-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    room.ok(&["keys", "init", "--audience", "shop"]);
    room.ok(&["keys", "fold", "table.kgt"]);
    room.ok(&["keys", "fold", "elsewhere/table.kgp"]);
    room.ok(&build);
    let keys = room.in_force("table.kgt", None);
    assert!(holder(&keys, &key.secret).unwrap().grant.status.is_final());
}

/// Two keys of one name, until the old one is ended as the recipe says.
#[test]
fn a_rotation_ends_with_one_key_of_the_name() {
    let room = Room::with_registry();
    room.create(&["--name", "CRM"]);
    room.ok(&["keys", "rotate", "CRM", "--overlap", "7d"]);
    room.fails(65, &["keys", "edit", "CRM", "--sunset", "90d"]);
    room.ok(&["keys", "revoke", "--former", "CRM"]);
    room.ok(&["keys", "edit", "CRM", "--sunset", "90d"]);
}

#[test]
fn a_fleet_moves_to_format_2_and_gets_a_canary() {
    let room = Room::with_registry();
    // A registry from before format 2.
    let text = room.read("keys.toml");
    let before = text.lines().filter(|line| !line.starts_with("format ="));
    room.write("keys.toml", before.map(|line| format!("{line}\n")).collect::<String>());
    let key = room.create(&["--name", "CRM"]);
    let build = ["table", "build", "-o", "t.kgt", "--signer", "signer.pem"];
    room.ok(&build);
    assert_eq!(room.in_force("t.kgt", None).table().manifest().format, 1);
    // 1. and 2. are the sidecars; the registry says so.
    let version = Command::new(env!("CARGO_BIN_EXE_keygate")).args(["version", "--json"]).output();
    let version: serde_json::Value = serde_json::from_slice(&version.unwrap().stdout).unwrap();
    assert_eq!(version["table_formats"], serde_json::json!([1, 2]));
    let text = room.read("keys.toml");
    let text = match text.contains("[publish]") {
        true => text.replace("[publish]\n", "[publish]\nformat = 2\n"),
        false => text.replace("[[key]]", "[publish]\nformat = 2\n\n[[key]]"),
    };
    room.write("keys.toml", text);
    room.ok(&build);
    assert_eq!(room.in_force("t.kgt", None).table().manifest().format, 2);
    // Back for a sidecar that was forgotten, then forward again.
    room.ok(&[&build[..], &["--format", "1"]].concat());
    assert_eq!(room.in_force("t.kgt", None).table().manifest().format, 1);
    // A canary, and the announced end of a key.
    let bait = room.create(&["--name", "canary: build server", "--canary"]);
    room.ok(&["keys", "edit", "CRM", "--sunset", "90d"]);
    room.fails(65, &[&build[..], &["--format", "1"]].concat());
    room.ok(&build);
    let keys = room.in_force("t.kgt", None);
    assert!(holder(&keys, &key.secret).unwrap().grant.sunset.is_some());
    assert!(holder(&keys, &bait.secret).unwrap().grant.status.is_final());
    // A leaked key becomes one.
    room.ok(&["keys", "canary", "CRM"]);
    room.ok(&build);
    assert!(holder(&room.in_force("t.kgt", None), &key.secret).unwrap().grant.status.is_final());
}
