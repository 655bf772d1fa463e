//! The registry keeps what it was given, whoever writes at the same time and whenever it is cut
//! off.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Ran, Room};

const FORMS: [&str; 2] = ["keys.toml", "keys.jsonl"];

fn room(registry: &str) -> Room {
    let room = Room::new();
    room.ok(&["-r", registry, "keys", "init", "--audience", "shop"]);
    room
}

#[test]
fn parallel_creates_lose_nothing() {
    const WRITERS: usize = 12;
    const EACH: usize = 3;
    for registry in FORMS {
        let room = room(registry);
        let ids: Vec<String> = std::thread::scope(|scope| {
            let writer = |n: usize| {
                let room = &room;
                scope.spawn(move || {
                    let name = format!("writer {n}");
                    let create = ["-r", registry, "keys", "create", "--org", "acme", "--json"];
                    let create = [&create[..], &["--name", &name]].concat();
                    let id = |_| {
                        let text = room.ok(&create);
                        let value: Value = serde_json::from_str(&text).unwrap();
                        value["id"].as_str().unwrap().to_owned()
                    };
                    (0..EACH).map(id).collect::<Vec<_>>()
                })
            };
            let writers: Vec<_> = (0..WRITERS).map(writer).collect();
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
        });
        let listed = room.json(&["-r", registry, "keys", "list"]);
        let listed: BTreeSet<_> =
            listed.as_array().unwrap().iter().map(|k| k["id"].as_str().unwrap()).collect();
        assert_eq!(listed.len(), WRITERS * EACH, "{registry}");
        assert!(ids.iter().all(|id| listed.contains(id.as_str())), "{registry}");
        let checked = room.json(&["-r", registry, "keys", "check"]);
        assert_eq!(checked["serial"], WRITERS * EACH, "{registry}: one serial each");
        let audit = room.read("keys.audit.jsonl");
        let serials: BTreeSet<u64> = audit
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["serial"].as_u64().unwrap())
            .collect();
        assert_eq!(serials, (1..=(WRITERS * EACH) as u64).collect(), "{registry}");
    }
}

#[test]
fn a_key_goes_through_its_life() {
    for registry in FORMS {
        let room = room(registry);
        let run = |arguments: &[&str]| room.json(&[&["-r", registry], arguments].concat());
        let made =
            run(&["keys", "create", "--org", "acme", "--name", "CRM", "--permission", "read"]);
        let id = made["id"].as_str().unwrap().to_owned();
        let state = |id: &str| run(&["keys", "show", id])["state"].as_str().unwrap().to_owned();
        run(&["keys", "disable", "CRM"]);
        assert_eq!(state(&id), "disabled", "{registry}");
        run(&["keys", "enable", &id]);
        assert_eq!(state(&id), "active", "{registry}");
        let edited = run(&[
            "keys",
            "edit",
            &id,
            "--add-permission",
            "send",
            "--allow-ip",
            "10.0.0.0/8",
            "--limit",
            "5/s",
            "--expires",
            "2h",
        ]);
        assert_eq!(edited["key"]["permissions"], serde_json::json!(["read", "send"]), "{registry}");
        let successor = run(&["keys", "rotate", &id, "--overlap", "1h"]);
        assert_eq!(successor["replaces"], id.as_str(), "{registry}");
        let shown = run(&["keys", "show", successor["id"].as_str().unwrap()]);
        assert_eq!(shown["networks"], serde_json::json!(["10.0.0.0/8"]), "{registry}");
        assert!(run(&["keys", "show", &id])["expires"].as_str() < shown["expires"].as_str());
        let both = room.fails(65, &["-r", registry, "keys", "show", "CRM"]);
        assert!(both.contains("names 2 keys:\n  key_") && both.contains("expires 20"), "{both}");
        assert!(both.contains("hint: give the key id"), "{both}");
        assert!(both.contains(&format!("replaces {id}")), "{both}");
        run(&["keys", "revoke", &id]);
        assert_eq!(state(&id), "revoked", "{registry}");
        assert_eq!(state("CRM"), "active", "{registry}: the living one is meant");
        let again = room.fails(65, &["-r", registry, "keys", "enable", &id]);
        assert!(again.contains("which is final"), "{registry}: {again}");
        assert_eq!(run(&["keys", "list"]).as_array().unwrap().len(), 2, "{registry}");
    }
}

#[test]
fn the_secret_is_nowhere_but_in_the_answer() {
    for registry in FORMS {
        let room = room(registry);
        let made = room.json(&["-r", registry, "keys", "create", "--org", "acme", "--pair"]);
        let secret = made["secret"].as_str().unwrap();
        let body = &secret[secret.len() - 20..];
        for entry in fs::read_dir(room.root()).unwrap() {
            let content = fs::read(entry.unwrap().path()).unwrap();
            let found = content.windows(body.len()).any(|w| w == body.as_bytes());
            assert!(!found, "{registry}");
        }
    }
}

#[test]
fn a_crash_half_way_leaves_the_old_registry() {
    // TOML: the replacement was being written when its writer died.
    let room = room("keys.toml");
    room.ok(&["keys", "create", "--org", "acme"]);
    let before = room.read("keys.toml");
    room.write(".keys.toml.a1b2.tmp", &before[..before.len() / 2]);
    assert_eq!(room.json(&["keys", "list"]).as_array().unwrap().len(), 1);
    room.ok(&["keys", "create", "--org", "acme"]);
    assert!(!room.path(".keys.toml.a1b2.tmp").exists(), "the leftover is cleared away");
    // JSON Lines: the line was cut short.
    let room = self::room("keys.jsonl");
    room.ok(&["keys", "create", "--org", "acme"]);
    let before = room.read("keys.jsonl");
    let torn = format!("{before}{}", &before.lines().last().unwrap()[..40]);
    room.write("keys.jsonl", &torn);
    assert_eq!(room.json(&["keys", "list"]).as_array().unwrap().len(), 1);
    room.ok(&["keys", "create", "--org", "acme"]);
    assert_eq!(room.json(&["keys", "list"]).as_array().unwrap().len(), 2);
    assert!(room.read("keys.jsonl").starts_with(&before), "what was complete is untouched");
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_whole_registry() {
    for registry in FORMS {
        let room = room(registry);
        for n in 0..12u64 {
            let mut child = room
                .command(&["-r", registry, "keys", "create", "--org", "acme"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(std::time::Duration::from_millis(n));
            child.kill().unwrap();
            child.wait().unwrap();
            let checked = room.json(&["-r", registry, "keys", "check"]);
            let keys = checked["keys"].as_u64().unwrap();
            // Every key that is there is in the audit file.
            let audit = fs::read_to_string(room.path("keys.audit.jsonl")).unwrap_or_default();
            let created = audit.lines().filter(|l| l.contains("\"keys create\"")).count() as u64;
            assert!(created >= keys, "{registry}: {created} in the audit file, {keys} keys");
        }
        room.ok(&["-r", registry, "keys", "create", "--org", "acme"]);
    }
}

#[test]
fn a_change_that_was_recorded_but_not_written_is_recorded_as_such() {
    let room = room("keys.toml");
    let line = r#"{"time":"2026-01-01T00:00:00Z","serial":1,"who":"kim","action":"keys create"}"#;
    room.write("keys.audit.jsonl", format!("{line}\n"));
    room.ok(&["keys", "create", "--org", "acme"]);
    let audit = room.read("keys.audit.jsonl");
    let actions: Vec<_> = audit
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["action"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(actions, ["keys create", "not applied", "keys create"]);
}

#[test]
fn a_held_lock_is_waited_for_and_then_named() {
    let room = room("keys.toml");
    let lock = fs::File::create(room.path("keys.toml.lock")).unwrap();
    lock.lock().unwrap();
    let told = room.fails(75, &["keys", "create", "--org", "acme", "--lock-timeout", "100ms"]);
    assert!(told.contains("hint: try again"), "{told}");
    // Reading needs no lock.
    room.ok(&["keys", "list"]);
    drop(lock);
    room.ok(&["keys", "create", "--org", "acme"]);
}

#[test]
fn a_registry_in_a_directory_that_cannot_be_written_is_told() {
    // Root may write everywhere, so a name that no file can have is used instead.
    let room = Room::new();
    let told = room.fails(73, &["-r", "none/keys.toml", "keys", "init", "--audience", "shop"]);
    assert!(told.contains("cannot write none/keys.toml"), "{told}");
    let told = room.fails(66, &["-r", "none/keys.toml", "keys", "create", "--org", "acme"]);
    assert!(told.contains("hint: `keygatectl keys init`"), "{told}");
}

#[test]
fn faults_are_named_by_line_and_nothing_is_written() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let key = |id: &str, digest: &str| {
        format!("[[key]]\nid = \"{id}\"\norg = \"acme\"\ndigest = \"{digest}\"\n")
    };
    let other = format!("sha256:{}", "cd".repeat(32));
    let head = "registry = 1\nserial = 1\naudience = \"shop\"\n";
    let cases = [
        (
            "the same id",
            key("key_a", &digest) + &key("key_a", &other),
            "keys.toml:8: id: key_a is already at line 4",
        ),
        (
            "the same digest",
            key("key_a", &digest) + &key("key_b", &digest),
            "keys.toml:8: digest: the same digest",
        ),
        (
            "an unknown field",
            key("key_a", &digest) + "colour = \"red\"\n",
            "keys.toml:8: unknown field `colour`",
        ),
        (
            "a secret for a digest",
            key("key_a", "kg_live_hunter2hunter2"),
            "keys.toml:7: digest: must be `sha256:`",
        ),
        ("a wrong type", key("key_a", &digest) + "name = 7\n", "keys.toml:8: wrong type"),
    ];
    for (name, keys, want) in cases {
        let room = Room::new();
        let text = format!("{head}{keys}");
        room.write("keys.toml", &text);
        for arguments in [&["keys", "check"][..], &["keys", "create", "--org", "acme"]] {
            let told = room.fails(65, arguments);
            assert!(told.contains(want), "{name}: {told}");
            assert!(!told.contains("hunter2"), "{name}: {told}");
        }
        assert_eq!(room.read("keys.toml"), text, "{name}");
    }
}

#[test]
fn hand_edits_and_comments_survive_a_change() {
    let room = room("keys.toml");
    room.ok(&["keys", "create", "--org", "acme", "--name", "one"]);
    let id = room.json(&["keys", "list"])[0]["id"].as_str().unwrap().to_owned();
    let edited = room
        .read("keys.toml")
        .replace("permissions = []", "permissions = [\n  \"read\", # lists\n]  # reviewed by Kim")
        .replace("serial = 1", "serial = 1 ");
    room.write("keys.toml", &edited);
    room.ok(&["keys", "disable", &id]);
    let after = room.read("keys.toml");
    for kept in ["\"read\", # lists", "# reviewed by Kim", "rises with every change"] {
        assert!(after.contains(kept), "{kept}: {after}");
    }
    assert_eq!(room.json(&["keys", "show", &id])["permissions"], serde_json::json!(["read"]));
}

#[test]
fn two_branches_that_changed_one_key_are_found_after_their_merge() {
    let room = room("keys.jsonl");
    let id = room.json(&["keys", "create", "--org", "acme"])["id"].as_str().unwrap().to_owned();
    let base = room.read("keys.jsonl");
    room.ok(&["keys", "disable", &id]);
    let ours = room.read("keys.jsonl");
    room.write("keys.jsonl", &base);
    room.ok(&["keys", "edit", &id, "--name", "theirs"]);
    let theirs = room.read("keys.jsonl");
    room.write("keys.jsonl", format!("{ours}{}", theirs.strip_prefix(&base).unwrap()));
    let told = room.fails(65, &["keys", "check"]);
    assert!(told.contains("two edits of one key were merged"), "{told}");
}

#[test]
fn compacting_keeps_every_key_as_it_is() {
    let room = room("keys.jsonl");
    let ids: Vec<_> = (0..5)
        .map(|_| room.json(&["keys", "create", "--org", "acme"])["id"].as_str().unwrap().to_owned())
        .collect();
    room.ok(&["keys", "disable", &ids[1]]);
    room.ok(&["keys", "enable", &ids[1]]);
    room.ok(&["keys", "revoke", &ids[2]]);
    let before = room.json(&["keys", "list"]);
    room.ok(&["keys", "compact"]);
    assert_eq!(room.read("keys.jsonl").lines().count(), 6);
    let after = room.json(&["keys", "list"]);
    let states = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(ToString::to_string).collect()
    };
    assert_eq!(states(&before), states(&after));
    room.ok(&["keys", "revoke", &ids[1]]);
    let toml = self::room("keys.toml");
    let told = toml.fails(64, &["keys", "compact"]);
    assert!(told.contains("has no superseded lines"), "{told}");
}

#[test]
fn a_registry_can_change_its_form() {
    let room = room("keys.toml");
    for n in 0..4 {
        room.ok(&["keys", "create", "--org", "acme", "--name", &format!("key {n}"), "--pair"]);
    }
    room.ok(&["-r", "keys.jsonl", "keys", "init", "--copy", "keys.toml"]);
    room.ok(&["-r", "back.toml", "keys", "init", "--copy", "keys.jsonl"]);
    let list = |registry: &str| room.json(&["-r", registry, "keys", "list"]);
    assert_eq!(list("keys.toml"), list("keys.jsonl"));
    assert_eq!(list("keys.toml"), list("back.toml"));
    let told = room.fails(73, &["-r", "back.toml", "keys", "init", "--copy", "keys.jsonl"]);
    assert!(told.contains("already exists"), "{told}");
}

#[test]
fn a_leaked_secret_leads_to_its_key() {
    let room = room("keys.toml");
    let made = room.json(&["keys", "create", "--org", "acme"]);
    let with_secret = |arguments: &[&str]| {
        use std::io::Write;
        let mut child = room
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let secret = made["secret"].as_str().unwrap();
        writeln!(child.stdin.take().unwrap(), "{secret}").unwrap();
        Ran::of(child.wait_with_output().unwrap())
    };
    let shown = with_secret(&["keys", "show", "--secret-stdin", "--json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["id"], made["id"]);
    assert_eq!(with_secret(&["keys", "revoke", "--secret-stdin"]).code, 0);
    assert_eq!(room.json(&["keys", "list"])[0]["state"], "revoked");
}

#[test]
fn wrong_arguments_end_with_64_and_a_hint() {
    let room = room("keys.toml");
    let cases: [&[&str]; 8] = [
        &["keys", "create"],
        &["keys", "create", "--org", "a b"],
        &["keys", "create", "--org", "acme", "--permission", "a\"b"],
        &["keys", "create", "--org", "acme", "--allow-ip", "10.0.0.0/99"],
        &["keys", "create", "--org", "acme", "--expires", "soon"],
        &["keys", "create", "--org", "acme", "--limit", "many"],
        &["keys", "create", "--org", "acme", "--env", "prod"],
        &["keys", "explode"],
    ];
    for arguments in cases {
        let told = room.fails(64, arguments);
        assert!(told.contains("--help") || told.contains("Usage"), "{arguments:?}: {told}");
    }
    assert_eq!(room.json(&["keys", "check"])["keys"], 0, "nothing was created");
}

#[test]
fn names_are_found_however_json_spells_them() {
    let room = room("keys.jsonl");
    for name in ["Käse", "a \"quoted\" one", "back\\slash", "plain"] {
        room.ok(&["keys", "create", "--org", "acme", "--name", name]);
    }
    let escaped = room.read("keys.jsonl").replace("Käse", "K\\u00e4se");
    assert!(escaped.contains("\\u00e4"));
    room.write("keys.jsonl", escaped);
    for name in ["Käse", "a \"quoted\" one", "back\\slash", "plain"] {
        assert_eq!(room.json(&["keys", "show", name])["name"], name);
    }
    room.ok(&["keys", "edit", "plain", "--name", "renamed"]);
    room.fails(66, &["keys", "show", "plain"]);
    assert_eq!(room.json(&["keys", "list", "--name", "renamed"]).as_array().unwrap().len(), 1);
    assert_eq!(room.json(&["keys", "list", "--org", "other"]).as_array().unwrap().len(), 0);
}

/// The examples of docs/registry.md, with digests instead of the ellipses.
#[test]
fn the_documented_registries_are_registries() {
    let text = include_str!("../../docs/registry.md");
    let block = |language: &str| {
        let (_, rest) = text.split_once(&format!("```{language}\n")).unwrap();
        let mut block = rest.split_once("```").unwrap().0.to_owned();
        let mut n = 0;
        while block.contains('…') {
            n += 1;
            block = block.replacen('…', &format!("{n:064x}"), 1);
        }
        block
    };
    let room = Room::new();
    room.write("keys.toml", block("toml"));
    assert_eq!(room.json(&["keys", "check"])["keys"], 2);
    assert_eq!(room.json(&["keys", "show", "key_pair"])["kind"], "pair");
    room.write("keys.jsonl", block("json"));
    assert_eq!(room.json(&["-r", "keys.jsonl", "keys", "list"])[0]["state"], "revoked");
}

/// Two branches of one registry, merged with all lines of both: the next publication has every
/// change of both, whoever published what from where and whichever side's lines are first.
#[test]
fn after_a_merge_the_next_patch_holds_what_both_sides_changed() {
    // What each side does after the common table. `publish` adds a table of that side's own.
    let sides: [(&[&str], &[&str]); 5] = [
        (&["revoke p1", "publish"], &["revoke p2"]),
        (&["revoke p1"], &["revoke p2", "disable p3", "publish"]),
        (&["revoke p1", "disable p0", "enable p0", "publish"], &["revoke p2"]),
        (&["revoke p1", "publish"], &["revoke p2", "publish"]),
        (&["revoke p1"], &["revoke p2"]),
    ];
    for (n, (ours, theirs)) in sides.into_iter().enumerate() {
        for ours_first in [true, false] {
            // Which side's table is published where sidecars look: the one of the side that has
            // one.
            let published = if ours.contains(&"publish") { "ours.kgt" } else { "theirs.kgt" };
            let room = room("keys.jsonl");
            room.ok(&["signer", "new"]);
            let keys: Vec<_> = (0..4).map(|n| room.create(&["--name", &format!("p{n}")])).collect();
            let build = |out| ["table", "build", "-o", out, "--signer", "signer.pem"];
            room.ok(&build("ours.kgt"));
            fs::copy(room.path("ours.kgt"), room.path("theirs.kgt")).unwrap();
            let base = room.read("keys.jsonl");
            let branch = |steps: &[&str], out| {
                room.write("keys.jsonl", &base);
                for step in steps {
                    match step.split_once(' ') {
                        Some((command, key)) => room.ok(&["keys", command, key]),
                        None => room.ok(&build(out)),
                    };
                }
                room.read("keys.jsonl").strip_prefix(&base).unwrap().to_owned()
            };
            let (ours, theirs) = (branch(ours, "ours.kgt"), branch(theirs, "theirs.kgt"));
            let merged = if ours_first { ours + &theirs } else { theirs + &ours };
            room.write("keys.jsonl", format!("{base}{merged}"));
            fs::remove_file(room.path("keys.unpublished.jsonl")).ok();
            room.ok(&["keys", "check"]);
            let states: Vec<Value> = keys
                .iter()
                .map(|key| room.json(&["keys", "show", &key.id])["state"].clone())
                .collect();
            assert_eq!((&states[1], &states[2]), (&"revoked".into(), &"revoked".into()));
            let patch = ["patch", "-o", "p.kgp", "--base", published, "--signer", "signer.pem"];
            room.ok(&patch);
            // And the next change, made by the same rules.
            room.ok(&["keys", "revoke", "p0"]);
            room.ok(&patch);
            let in_force = room.in_force(published, Some("p.kgp"));
            for (key, state) in keys.iter().zip(&states) {
                let there = crate::support::holder(&in_force, &key.secret);
                let there = there.map(|view| view.grant.status.as_str().to_owned());
                let state = if key.id == keys[0].id { &Value::from("revoked") } else { state };
                assert_eq!(there.as_deref(), state.as_str(), "case {n}, ours first: {ours_first}");
            }
        }
    }
}

/// The contents of older lines count as well: an edit by hand is published.
#[test]
fn a_line_that_was_edited_by_hand_is_in_the_next_patch() {
    let room = room("keys.jsonl");
    room.ok(&["signer", "new"]);
    let key = room.create(&["--permission", "read"]);
    room.ok(&["table", "build", "-o", "t.kgt", "--signer", "signer.pem"]);
    let edited = room.read("keys.jsonl").replace("[\"read\"]", "[\"send\"]");
    room.write("keys.jsonl", edited);
    let listed = room.json(&["keys", "list"]);
    assert_eq!(listed[0]["published"], false, "{listed}");
    room.ok(&["patch", "-o", "p.kgp", "--base", "t.kgt", "--signer", "signer.pem"]);
    let in_force = room.in_force("t.kgt", Some("p.kgp"));
    let view = crate::support::holder(&in_force, &key.secret).unwrap();
    assert!(view.grant.permissions.holds(&keygate::core::Permission::parse("send").unwrap()));
}

#[test]
fn secrets_are_found_in_whatever_they_were_copied_with() {
    use std::io::Write as _;
    let room = Room::with_registry();
    let feed = |arguments: &[&str], input: &str| {
        let mut command = room.command(arguments);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        crate::support::Ran::of(child.wait_with_output().unwrap())
    };
    let state = |id: &str| room.json(&["keys", "show", id])["state"].as_str().unwrap().to_owned();
    let keys: Vec<_> = ["a", "b", "c", "d"].map(|name| room.create(&["--name", name])).into();
    let revoke = ["keys", "revoke", "--secret-stdin"];
    let two = format!("{}\n\n  {}\r\n", keys[0].secret, keys[1].secret);
    assert_eq!(feed(&revoke, &two).code, 0);
    assert_eq!((&*state(&keys[0].id), &*state(&keys[1].id)), ("revoked", "revoked"));
    let header = format!("\u{feff}Authorization: Bearer {}\n", keys[2].secret);
    assert_eq!(feed(&revoke, &header).code, 0);
    assert_eq!(state(&keys[2].id), "revoked");
    let mixed = format!("{}\nsome-other-secret-0123456789\n", keys[3].secret);
    let ran = feed(&revoke, &mixed);
    assert_eq!(ran.code, 66);
    assert!(ran.stderr.contains("line 2:") && !ran.stderr.contains("0123456789"), "{}", ran.stderr);
    assert_eq!(state(&keys[3].id), "active", "all or nothing");

    let pair = room.create(&["--pair", "--name", "pair"]);
    room.ok(&["keys", "rotate", "pair", "--overlap", "7d"]);
    let ran = feed(&revoke, &pair.secret);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("has lost its former secret"), "{}", ran.stdout);
    assert_eq!(state(&pair.id), "active", "the new secret did not leak");
    assert_eq!(feed(&revoke, &pair.secret).code, 66);
}

#[test]
fn no_message_shows_a_secret_or_a_trick_again() {
    let room = Room::with_registry();
    let key = room.create(&["--name", "a"]);
    let told = room.fails(66, &["keys", "revoke", &key.secret]);
    assert!(!told.contains(&key.secret) && told.contains("--secret-stdin"), "{told}");
    for arguments in [
        &["keys", "revoke", "--expires", &key.secret][..],
        &["keys", "create", "--org", "acme", "--expires", &key.secret],
        &["keys", "list", &key.secret],
        &[&*key.secret],
        &["status", "--serial", &key.secret],
    ] {
        let told = room.fails(64, arguments);
        assert!(!told.contains(&key.secret), "{told}");
    }
    let told = room.fails(64, &["keys", "list", "x\u{202e}y\nerror: z"]);
    assert!(told.contains("x\\u202ey\\u000aerror: z"), "{told}");
    room.ok(&["keys", "edit", "a", "--note", "n", "--actor", "kim\u{202e}\n\u{1b}"]);
    let audit = room.read("keys.audit.jsonl");
    assert!(!audit.contains('\u{202e}') && !audit.contains('\u{1b}'), "{audit}");
    for line in audit.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[test]
fn only_verify_has_a_code_per_reason() {
    let room = Room::with_registry();
    room.create(&["--name", "a"]);
    room.ok(&["table", "build", "-o", "t.kgt", "--signer", "signer.pem"]);
    for arguments in [
        &["table", "inspect", "signer.pem"][..],
        &["keys", "fold", "signer.pem"],
        &["table", "build", "-o", "keys.toml", "--signer", "signer.pem"],
        &["patch", "-o", "t.kgt", "--base", "t.kgt", "--signer", "signer.pem"],
        &["table", "diff", "t.kgt", "signer.pem"],
    ] {
        room.fails(65, arguments);
    }
    let verify = ["table", "verify", "signer.pem", "--signer", "signer.pem", "--audience", "shop"];
    room.fails(23, &verify);
}

#[test]
fn a_signer_is_made_whole_or_not_at_all() {
    let room = Room::new();
    room.write("public.pem", "somebody's");
    let told = room.fails(73, &["signer", "new", "-o", "x.pem", "--public-out", "public.pem"]);
    assert!(told.contains("public.pem") && told.contains("another --public-out"), "{told}");
    assert!(!room.path("x.pem").exists());
    assert_eq!(room.read("public.pem"), "somebody's");
    let told = room.fails(73, &["signer", "new", "-o", "x.pem", "--public-out", "none/public.pem"]);
    assert!(!room.path("x.pem").exists(), "{told}");
}

#[test]
fn what_is_typed_is_not_widened_in_silence() {
    let room = Room::with_registry();
    let create = ["keys", "create", "--org", "acme", "--name", "a"];
    let told = room.fails(64, &[&create[..], &["--allow-ip", "10.0.0.1/8"]].concat());
    assert!(told.contains("10.0.0.0/8"), "{told}");
    let told = room.fails(64, &[&create[..], &["--expires", "2200-01-01"]].concat());
    assert!(told.contains("2106-02-06"), "{told}");
    let both = ["--expires", "2030-01-01", "--not-before", "2031-01-01"];
    room.fails(64, &[&create[..], &both].concat());
    room.ok(&[&create[..], &["--expires", "2030-01-01"]].concat());
    room.fails(64, &["keys", "edit", "a", "--not-before", "2031-01-01"]);
    room.fails(64, &["keys", "edit", "a", "--expires", "2030-01-01", "--not-before", "2030-06-01"]);
}
