//! What can go wrong during publishing, and where the printed remedies lead.

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
    // Naming a signer for this one file does not make sidecars trust it.
    let told = room.fails(65, &["table", "build", "--signer", "other.pem"]);
    assert!(told.contains("t.kgt: none of its signers"), "{told}");
    room.fails(65, &["patch", "--out", "t.kgp", "--signer", "other.pem"]);
    assert_eq!((fs::read(room.path("t.kgt")).unwrap(), room.read("keys.toml")), before);
    assert!(!room.path("t.kgp").exists());
    // A publisher who rotates the signer has to say so.
    room.ok(&["table", "build", "--signer", "other.pem", "--new-signer"]);
    assert!(room.read("keys.audit.jsonl").contains("\"new_signer\":true"));
    room.ok(&["keys", "revoke", "a", "--signer", "other.pem"]);
    let draft = ["table", "build", "--unsigned", "--signer-public", "signer.pub", "-o", "d.kgt"];
    room.ok(&draft);
    assert!(room.ok(&["table", "inspect", "d.kgt"]).contains(&keys[1].id), "for who will sign it");
    room.ok(&["table", "diff", "t.kgt", "d.kgt"]);
}

/// The private key is lost, and somebody follows the hint that one can be made.
#[test]
fn a_new_key_in_the_place_of_the_signer_publishes_nothing_unnoticed() {
    let (room, keys) = publishing(&["a", "b"]);
    let table = || fs::read(room.path("t.kgt")).unwrap();
    let published = table();
    fs::remove_file(room.path("signer.pem")).unwrap();
    let told = room.fails(66, &["keys", "revoke", "a"]);
    assert!(told.contains("signer new") && told.contains("trust"), "{told}");
    room.ok(&["signer", "new", "--public-out", "new.pub"]);
    room.ok(&["-r", "from.jsonl", "keys", "init", "--copy", "keys.toml"]);
    let registry = room.read("keys.toml");
    let from = ["table", "build", "--from", "from.jsonl", "--serial", "100", "--audience", "shop"];
    let signed = ["--signer", "signer.pem"];
    let refused: [&[&str]; 6] = [
        &["keys", "revoke", "a"],
        &["keys", "create", "--org", "acme"],
        &["keys", "revoke", "a", "--publish-patch", "t.kgp"],
        &["table", "build"],
        &["patch", "--out", "t.kgp"],
        &[&from[..], &["--out", "t.kgt"], &signed].concat(),
    ];
    for command in refused {
        let told = room.fails(65, command);
        assert!(told.contains("--new-signer") && told.contains("Rotate the signer"), "{told}");
        assert!(table() == published && !room.path("t.kgp").exists(), "{command:?}");
        assert_eq!(room.read("keys.toml"), registry, "{command:?}");
    }
    // The same applies to a signature that is added later.
    room.ok(&["keys", "disable", "b", "--no-publish"]);
    room.ok(&["table", "build", "--unsigned", "--signer-public", "new.pub", "--out", "d.kgt"]);
    let attach = ["table", "attach-signature", "d.kgt", "--out", "t.kgt", "--signer", "signer.pem"];
    room.fails(65, &attach);
    assert_eq!(table(), published);
    // Once every sidecar trusts the new one, it is introduced once.
    room.ok(&[&attach[..], &["--new-signer"]].concat());
    room.ok(&["keys", "revoke", "a"]);
    assert_eq!(status(&room, &keys[0].secret), Some(KeyStatus::Revoked));
}

/// Whichever command introduces it, the audit file records it.
#[test]
fn the_audit_file_tells_of_a_new_signer() {
    let commands: [&[&str]; 4] = [
        &["keys", "revoke", "a"],
        &["keys", "create", "--org", "acme"],
        &["orgs", "limit", "acme", "bulk=9/s"],
        &["table", "build"],
    ];
    for command in commands {
        let (room, _) = publishing(&["a", "b"]);
        fs::remove_file(room.path("signer.pem")).unwrap();
        room.ok(&["signer", "new"]);
        room.ok(&[command, &["--new-signer"]].concat());
        let audit = room.read("keys.audit.jsonl");
        let last = audit.lines().last().unwrap();
        assert!(last.contains(r#""new_signer":true"#), "{command:?}: {last}");
    }
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

/// One secret, imported twice: the other publisher has revoked it under another id.
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

/// A table that was built for inspection is not what was published.
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
    // And a target that is gone is reported.
    fs::remove_file(room.path("t.kgt")).unwrap();
    let ran = room.run(&build("copy.toml", "t.kgt"));
    assert!(ran.stderr.contains("warning: t.kgt is gone"), "{}", ran.stderr);
}

/// A table claims to include every patch below its serial, wherever that is.
#[test]
fn a_patch_in_another_folder_is_not_undone() {
    for with_base in ["given", "set"] {
        let room = Room::with_registry();
        fs::create_dir_all(room.path("far/away")).unwrap();
        let key = room.create(&["--name", "a"]);
        let build = |registry: &'static str| {
            ["-r", registry, "table", "build", "-o", "t.kgt", "--signer", "signer.pem"]
        };
        room.ok(&build("keys.toml"));
        fs::copy(room.path("keys.toml"), room.path("copy.toml")).unwrap();
        if with_base == "set" {
            let text = room.read("keys.toml");
            room.write("keys.toml", text.replace("[publish]\n", "[publish]\ntable = \"t.kgt\"\n"));
        }
        let patch = ["--publish-patch", "far/away/hot.kgp", "--signer", "signer.pem"];
        let base = if with_base == "given" { &["--base", "t.kgt"][..] } else { &[] };
        room.ok(&[&["keys", "revoke", "a"], &patch[..], base].concat());
        // Other work, so that the other's serial is higher than the patch's.
        for name in ["b", "c"] {
            room.ok(&["-r", "copy.toml", "keys", "create", "--org", "acme", "--name", name]);
        }
        let told = room.fails(77, &build("copy.toml"));
        assert!(told.contains(&key.id) && told.contains("keygatectl keys fold"), "{told}");
        // A lost registry also learns of it from the table's folder.
        fs::copy(room.path("copy.toml"), room.path("kept.toml")).unwrap();
        room.ok(&["-r", "lost.toml", "keys", "init", "--audience", "shop"]);
        room.ok(&["-r", "lost.toml", "keys", "fold", "t.kgt"]);
        let lost = room.json(&["-r", "lost.toml", "keys", "show", &key.id]);
        assert_eq!(lost["state"], "revoked");
        room.ok(&["-r", "copy.toml", "keys", "fold", "t.kgt"]);
        room.ok(&build("copy.toml"));
        assert_eq!(status(&room, &key.secret), Some(KeyStatus::Revoked));
        let left = fs::read_dir(room.root()).unwrap();
        let left = left.filter(|e| e.as_ref().unwrap().path().extension() == Some("kgp".as_ref()));
        assert_eq!(left.count(), 0, "the table includes it, so that its copy goes");
    }
}

#[test]
fn a_draft_patch_that_nobody_has_signed_is_in_nobodys_way() {
    let (room, keys) = publishing(&["a"]);
    let draft = ["patch", "--out", "d.kgp", "--unsigned", "--signer-public", "signer.pub"];
    fs::copy(room.path("keys.toml"), room.path("copy.toml")).unwrap();
    room.ok(&["keys", "revoke", "a", "--no-publish"]);
    room.ok(&draft);
    // Its serial is higher. Something unsigned counts for nobody.
    let edit = ["-r", "copy.toml", "keys", "edit", "a"];
    for note in ["x", "y", "z"] {
        room.ok(&[&edit[..], &["--note", note]].concat());
    }
    assert_eq!(status(&room, &keys[0].secret), Some(KeyStatus::Active), "nothing revoked it yet");
}

/// The registry's memory of its publications is not what is actually there.
#[test]
fn what_is_published_is_read_and_not_remembered() {
    for registry in ["keys.toml", "keys.jsonl"] {
        let room = Room::new();
        room.ok(&["signer", "new"]);
        let publish = ["--signer", "signer.pem", "--publish", "t.kgt"];
        let init = ["-r", registry, "keys", "init", "--audience", "shop"];
        room.ok(&[&init[..], &publish[..]].concat());
        let key = room.create(&["--name", "a"]);
        let older = fs::read(room.path("t.kgt")).unwrap();
        room.ok(&["keys", "revoke", "a"]);
        let published = |room: &Room| room.json(&["keys", "list"])[0]["published"] == true;
        assert!(published(&room), "{registry}");
        // Somebody restores the older table, or removes the table.
        for undo in ["older", "gone"] {
            match undo {
                "older" => room.write("t.kgt", &older),
                _ => fs::remove_file(room.path("t.kgt")).unwrap(),
            }
            assert!(!published(&room), "{registry}: {undo}");
            room.ok(&["keys", "revoke", "a"]);
            assert_eq!(status(&room, &key.secret), Some(KeyStatus::Revoked), "{registry}: {undo}");
            assert!(published(&room), "{registry}: {undo}");
        }
        // The same for a patch.
        let other = room.create(&["--name", "b"]);
        let patch = ["--publish-patch", "t.kgp"];
        for _ in 0..2 {
            room.ok(&[&["keys", "disable", "b"], &patch[..]].concat());
            let there = room.in_force("t.kgt", Some("t.kgp"));
            let view = holder(&there, &other.secret).unwrap();
            assert_eq!(view.grant.status, KeyStatus::Disabled, "{registry}");
            fs::remove_file(room.path("t.kgp")).unwrap();
        }
    }
}

#[test]
fn a_status_that_is_final_stays_so_whatever_a_hand_or_a_merge_makes_of_it() {
    for (command, word) in [("canary", "canary"), ("revoke", "revoked")] {
        let (room, keys) = publishing(&["a"]);
        room.ok(&["keys", command, "a"]);
        let text = room.read("keys.toml").replace(&format!("status = \"{word}\"\n"), "");
        room.write("keys.toml", text);
        let told = room.fails(77, &["table", "build"]);
        assert!(told.contains(&format!("is {word} there")), "{told}");
        assert!(told.contains(&keys[0].id), "{told}");
        let status = status(&room, &keys[0].secret).unwrap();
        assert!(status.is_final(), "{word}");
    }
}

#[test]
fn builds_elsewhere_do_not_make_it_forget_its_own_place() {
    let (room, keys) = publishing(&["a"]);
    for n in 0..6 {
        room.ok(&["table", "build", "-o", &format!("review{n}.kgt")]);
    }
    // Ordinary work: nothing is questioned.
    room.ok(&["keys", "disable", "a"]);
    for n in 0..6 {
        room.ok(&["table", "build", "-o", &format!("review{n}.kgt")]);
    }
    room.ok(&["keys", "enable", "a"]);
    assert_eq!(status(&room, &keys[0].secret), Some(KeyStatus::Active));
}

#[test]
fn a_change_that_is_given_again_is_published() {
    let (room, keys) = publishing(&["a"]);
    let limit = ["orgs", "limit", "acme", "monthly=5/30d"];
    room.ok(&[&limit[..], &["--no-publish"]].concat());
    room.ok(&["keys", "edit", "a", "--allow-ip", "10.0.0.0/8", "--no-publish"]);
    room.ok(&limit);
    assert_eq!(room.in_force("t.kgt", None).iter_org_limits().count(), 1);
    room.ok(&["keys", "edit", "a", "--limit", "7/s", "--no-publish"]);
    room.ok(&["keys", "edit", "a", "--limit", "7/s"]);
    let there = room.in_force("t.kgt", None);
    assert!(holder(&there, &keys[0].secret).unwrap().grant.limits.per_key().is_some());
    let before = room.read("keys.toml");
    for same in [&["keys", "edit", "a", "--limit", "7/s"][..], &limit] {
        room.ok(same);
    }
    assert_eq!(room.read("keys.toml"), before, "as it is published, nothing is left to do");
}

/// A `keys.toml` and the `keys.jsonl` that it was copied into have the same files next to them.
#[test]
fn two_forms_side_by_side_do_not_take_each_others_notes() {
    let room = Room::with_registry();
    let key = room.create(&["--name", "a"]);
    let build = |registry: &'static str| {
        ["-r", registry, "table", "build", "-o", "t.kgt", "--signer", "signer.pem"]
    };
    room.ok(&build("keys.toml"));
    let copied = room.run(&["-r", "keys.jsonl", "keys", "init", "--copy", "keys.toml"]);
    assert!(copied.stderr.contains("move keys.toml away"), "{}", copied.stderr);
    let told = room.run(&["-r", "keys.toml", "keys", "disable", "a"]);
    assert!(told.stderr.contains("keys.jsonl is in one folder with keys.toml"), "{}", told.stderr);
    // The other form makes its own notes. It says nothing about a change that it has not seen.
    room.ok(&["-r", "keys.jsonl", "keys", "create", "--org", "acme", "--name", "b"]);
    room.ok(&build("keys.toml"));
    let told = room.fails(77, &[&build("keys.jsonl")[..], &["--serial", "50"]].concat());
    assert!(told.contains(&key.id), "{told}");
    let audit = room.read("keys.audit.jsonl");
    assert!(!audit.contains("not applied"), "{audit}");
    let of = |form: &str| audit.lines().filter(|line| line.contains(form)).count();
    assert_eq!((of("\"keys.toml\""), of("\"keys.jsonl\"")), (2, 1), "{audit}");
}

/// What a stranger, or somebody who took over a place, has put where tables are.
#[test]
fn nothing_is_taken_in_that_no_known_signer_has_signed() {
    for registry in ["keys.toml", "keys.jsonl"] {
        let room = Room::new();
        let publish = ["--signer", "signer.pem", "--publish", "t.kgt"];
        room.ok(&["signer", "new", "--public-out", "signer.pub"]);
        let init = ["-r", registry, "keys", "init", "--audience", "shop"];
        room.ok(&[&init[..], &publish].concat());
        room.create(&["--name", "a"]);
        // The thief's registry, with the same audience and a higher serial.
        room.ok(&["signer", "new", "-o", "thief.pem", "--public-out", "thief.pub"]);
        fs::create_dir(room.path("theirs")).unwrap();
        let evil = ["-r", "theirs/keys.toml", "keys"];
        room.ok(&[&evil[..], &["init", "--audience", "shop"]].concat());
        room.ok(&[&evil[..], &["create", "--org", "acme", "--name", "evil"]].concat());
        let build = ["-r", "theirs/keys.toml", "table", "build"];
        let signed = ["--signer", "thief.pem"];
        let evil_table = ["-o", "theirs/evil.kgt", "--serial", "600"];
        let unsigned = ["-o", "unsigned.kgt", "--serial", "500", "--unsigned", "--signer-public"];
        room.ok(&[&build[..], &unsigned, &["signer.pub"]].concat());
        room.ok(&[&build[..], &evil_table, &signed].concat());
        let patch = ["-r", "theirs/keys.toml", "patch", "--base", "theirs/evil.kgt", "-o"];
        room.ok(&[&evil[..], &["create", "--org", "acme", "--name", "more"]].concat());
        room.ok(&[&patch[..], &["theirs/evil.kgp"], &signed].concat());
        let before = room.read(registry);
        let own = |words: &[&'static str]| -> Vec<&'static str> {
            let registry = if registry == "keys.toml" { "keys.toml" } else { "keys.jsonl" };
            [&["-r", registry], words].concat()
        };
        for file in ["theirs/evil.kgt", "unsigned.kgt", "theirs/evil.kgp"] {
            let told = room.fails(65, &own(&["keys", "fold", file]));
            let is_told = told.contains("--trusted-signer") && told.contains("compromised");
            assert!(is_told && told.contains("nothing was taken"), "{registry}: {file}: {told}");
            assert_eq!(room.read(registry), before, "{registry}: {file}");
        }
        let told = room.fails(65, &own(&["table", "build", "--fold-patch", "theirs/evil.kgp"]));
        assert!(told.contains("--trusted-signer"), "{told}");
        // In the place where the registry publishes, with the hint of the refusal followed.
        let good = fs::read(room.path("t.kgt")).unwrap();
        room.write("t.kgt", fs::read(room.path("theirs/evil.kgt")).unwrap());
        room.run(&own(&["keys", "disable", "a"]));
        room.fails(65, &own(&["keys", "fold"]));
        // A forged patch next to the genuine table is not folded in with it either.
        room.write("t.kgt", &good);
        fs::copy(room.path("theirs/evil.kgp"), room.path("t.kgp")).unwrap();
        let told = room.fails(65, &own(&["keys", "fold"]));
        assert!(told.contains("t.kgp"), "{told}");
        fs::remove_file(room.path("t.kgp")).unwrap();
        let listed = room.json(&own(&["keys", "list"]));
        assert!(listed.as_array().unwrap().iter().all(|k| k["name"] != "evil"), "{listed}");
        // If the signer is named, other available signers do not count.
        let trusting = ["keys", "fold", "theirs/evil.kgt", "--trusted-signer"];
        room.fails(65, &own(&[&trusting[..], &["signer.pub"]].concat()));
        room.ok(&own(&[&trusting[..], &["thief.pub", "--no-publish"]].concat()));
        let listed = room.json(&own(&["keys", "list"]));
        assert!(listed.as_array().unwrap().iter().any(|k| k["name"] == "evil"), "{listed}");
    }
}

/// Without a setting in the registry, `signer.pem` next to it counts. If that is gone, nobody does.
#[test]
fn without_a_known_signer_nothing_is_taken_in() {
    let room = Room::with_registry();
    room.create(&["--name", "a"]);
    room.ok(&["table", "build", "-o", "t.kgt", "--signer", "signer.pem"]);
    room.ok(&["-r", "lost.toml", "keys", "init", "--audience", "shop"]);
    fs::rename(room.path("signer.pem"), room.path("away.pem")).unwrap();
    let told = room.fails(65, &["-r", "lost.toml", "keys", "fold", "t.kgt"]);
    assert!(told.contains("no signer is known here"), "{told}");
    room.ok(&["-r", "lost.toml", "keys", "fold", "t.kgt", "--trusted-signer", "away.pem"]);
}

/// A loss that sidecars would treat as an accident does not replace what they have.
#[test]
fn a_signature_is_not_attached_to_what_sidecars_would_brake() {
    for (lost, word) in [(3, "shrink"), (4, "empty")] {
        let (room, keys) = publishing(&["a", "b", "c", "d"]);
        // By hand: no line says that they were revoked.
        let text = room.read("keys.toml");
        let pieces: Vec<&str> = text.split("[[key]]").collect();
        room.write("keys.toml", pieces[..pieces.len() - lost].join("[[key]]"));
        let published = fs::read(room.path("t.kgt")).unwrap();
        let draft = ["table", "build", "--unsigned", "--signer-public", "signer.pub"];
        let draft = [&draft[..], &["--out", "d.kgt"]].concat();
        let attach = ["table", "attach-signature", "d.kgt", "--signer", "signer.pem"];
        let attach = [&attach[..], &["--out", "t.kgt"]].concat();
        room.ok(&draft);
        let told = room.fails(65, &attach);
        assert!(told.contains(&format!("--acknowledge {word}")), "{told}");
        let told = room.fails(65, &["table", "build"]);
        assert!(told.contains(&format!("--acknowledge {word}")), "{told}");
        assert_eq!(fs::read(room.path("t.kgt")).unwrap(), published, "{word}");
        room.ok(&[&draft[..], &["--acknowledge", word]].concat());
        room.ok(&attach);
        assert_eq!(status(&room, &keys[3].secret), None, "{word}");
    }
}
