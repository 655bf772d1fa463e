//! Many keys: bounded memory, other sources, bad lines. The numbers for a million keys are in
//! docs/registry.md. Here the same code runs with fewer.

use std::fmt::Write as _;
use std::fs;

use keygate::core::Digest;
use keygate::table::{Bounds, Table};

use crate::support::{Room, holder};

/// Keys of other programs, with digests.
fn csv(keys: usize) -> String {
    let mut text = String::from("id,org,name,permissions,digest\n");
    for n in 0..keys {
        let digest: String =
            Digest::of(secret(n).as_bytes()).0.iter().map(|b| format!("{b:02x}")).collect();
        let _ = writeln!(text, "key_{n},org_{},name {n},read,sha256:{digest}", n % 50);
    }
    text
}

fn secret(n: usize) -> String {
    format!("secret-of-the-key-{n}")
}

#[test]
fn a_table_is_built_from_csv_and_json_lines_within_its_memory() {
    const KEYS: usize = 30_000;
    let room = Room::with_registry();
    room.write("keys.csv", csv(KEYS));
    let build = ["table", "build", "--from", "keys.csv", "--serial", "7", "--audience", "shop"];
    let signed = ["--signer", "signer.pem", "--memory", "1MiB"];
    // 1 MiB is far less than these keys need: they are sorted on disk.
    let built = room.json(&[&build[..], &signed, &["-o", "csv.kgt"]].concat());
    assert_eq!(built["keys"], KEYS);
    let keys = room.in_force("csv.kgt", None);
    for n in [0, KEYS / 2, KEYS - 1] {
        assert_eq!(holder(&keys, &secret(n)).unwrap().id.to_string(), format!("key_{n}"));
    }
    let leftovers = fs::read_dir(room.root()).unwrap().flatten();
    assert!(leftovers.map(|e| e.file_name()).all(|n| !n.to_string_lossy().ends_with(".tmp")));

    room.ok(&["-r", "all.jsonl", "keys", "init", "--audience", "shop"]);
    room.ok(&["-r", "all.jsonl", "keys", "import", "keys.csv", "--conforming"]);
    room.ok(&["-r", "all.jsonl", "keys", "export", "--format", "jsonl", "-o", "plain.jsonl"]);
    let build = ["table", "build", "--from", "plain.jsonl", "--serial", "7", "--audience", "shop"];
    room.ok(&[&build[..], &signed, &["-o", "jsonl.kgt"]].concat());
    let sha = |file: &str| {
        let file = fs::read(room.path(file)).unwrap();
        let table = Table::open(file, &room.trust("signer.pem"), &Bounds::default()).unwrap();
        table.manifest().body_sha256
    };
    assert_eq!(sha("csv.kgt"), sha("jsonl.kgt"), "the same keys are the same bytes");

    let id = format!("key_{}", KEYS - 7);
    room.ok(&["-r", "all.jsonl", "keys", "revoke", &id]);
    assert_eq!(room.json(&["-r", "all.jsonl", "keys", "show", &id])["state"], "revoked");
    let named = room.json(&["-r", "all.jsonl", "keys", "show", "name 4711"]);
    assert_eq!(named["id"], "key_4711");
}

#[test]
fn bad_lines_are_named_and_may_be_left_out() {
    let room = Room::with_registry();
    let mut text = csv(5);
    text = text.replace("key_1,org_1", "key_1,not an org").replace("key_3,", "no id,");
    room.write("keys.csv", &text);
    let build = ["table", "build", "--from", "keys.csv", "--serial", "1", "--audience", "shop"];
    let build = [&build[..], &["--signer", "signer.pem", "-o", "t.kgt"]].concat();
    let all = room.fails(65, &build);
    assert!(all.contains("keys.csv:3: org:") && all.contains("keys.csv:5: id:"), "{all}");
    assert!(!room.path("t.kgt").exists());
    let first = room.fails(65, &[&build[..], &["--on-bad-line", "stop"]].concat());
    assert!(first.contains("keys.csv:3: org:") && !first.contains("keys.csv:5"), "{first}");
    let skipped = room.run(&[&build[..], &["--on-bad-line", "skip"]].concat());
    assert_eq!(skipped.code, 0, "{}", skipped.stderr);
    assert_eq!(skipped.stderr.matches("warning: left out: keys.csv:").count(), 2);
    assert_eq!(room.in_force("t.kgt", None).table().counts().keys, 3);
}

#[test]
fn a_misspelt_column_builds_no_table() {
    let room = Room::with_registry();
    room.write("keys.csv", csv(3).replacen("permissions", "permisions", 1));
    let build = ["table", "build", "--from", "keys.csv", "--serial", "1", "--audience", "shop"];
    let told = room.fails(65, &[&build[..], &["--signer", "signer.pem", "-o", "t.kgt"]].concat());
    assert!(told.contains("keys.csv:1: permisions: "), "{told}");
    assert!(!room.path("t.kgt").exists());
}

#[test]
fn duplicates_are_found_on_disk_and_named() {
    let room = Room::new();
    room.ok(&["signer", "new"]);
    room.ok(&["-r", "keys.jsonl", "keys", "init", "--audience", "shop"]);
    room.ok(&["keys", "create", "--org", "acme"]);
    let text = room.read("keys.jsonl");
    let line = text.lines().last().unwrap();
    let twin = line.replacen("\"id\":\"key_", "\"id\":\"key_z", 1);
    room.write("keys.jsonl", format!("{text}{twin}\n"));
    let told = room.fails(65, &["table", "build", "-o", "t.kgt", "--signer", "signer.pem"]);
    assert!(told.contains("keys.jsonl:2: ") && told.contains("keys.jsonl:3: "), "{told}");
    assert!(told.contains("the same secret twice"), "{told}");
    assert!(!room.path("t.kgt").exists());
}

/// A limit on the size of files simulates a full disk.
#[test]
fn a_disk_that_runs_full_while_writing_loses_nothing() {
    let room = Room::with_registry();
    room.create(&[]);
    room.ok(&["-r", "keys.jsonl", "keys", "init", "--copy", "keys.toml"]);
    room.write("keys.csv", csv(2000));
    room.ok(&["table", "build", "-o", "t.kgt", "--signer", "signer.pem"]);
    let limited = |blocks: u32, arguments: &[&str]| {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_keygatectl")]).args(arguments);
        crate::support::Ran::of(command.current_dir(room.root()).output().unwrap())
    };
    let files = ["keys.toml", "keys.jsonl", "t.kgt"];
    let before = files.map(|file| fs::read(room.path(file)).unwrap());
    let build = ["table", "build", "--from", "keys.csv", "--serial", "99", "--audience", "shop"];
    let runs = [
        limited(16, &[&build[..], &["-o", "t.kgt", "--signer", "signer.pem"]].concat()),
        limited(0, &["-r", "keys.toml", "keys", "create", "--org", "acme"]),
        limited(0, &["-r", "keys.jsonl", "keys", "create", "--org", "acme"]),
    ];
    for ran in runs {
        assert_eq!(ran.code, 73, "{}", ran.stderr);
        assert!(ran.stderr.contains("cannot write"), "{}", ran.stderr);
        assert!(!ran.stdout.contains("secret"), "no secret of a key that is not there");
    }
    assert_eq!(files.map(|file| fs::read(room.path(file)).unwrap()), before);
    room.ok(&["-r", "keys.jsonl", "keys", "create", "--org", "acme"]);
    room.create(&[]);
}

#[test]
fn a_full_disk_is_told_and_leaves_what_was_there() {
    // Every write to this device fails with "no space left".
    let full = std::path::Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let room = Room::with_registry();
    room.create(&[]);
    let command = room.command(&["keys", "list"]).stdout(fs::File::create(full).unwrap()).output();
    let output = command.unwrap();
    assert_eq!(output.status.code(), Some(73));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("hint: free some space"), "{told}");
}
