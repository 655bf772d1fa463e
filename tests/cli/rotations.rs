//! During a rotation two keys have one name, or one pair has two secrets.

use serde_json::Value;

use crate::support::Room;

/// Two keys named CRM, and the id of the one that was replaced, then that of its successor.
fn rotated(room: &Room, registry: &str) -> [String; 2] {
    room.ok(&["-r", registry, "keys", "init", "--audience", "shop", "--prefix", "kg"]);
    let create = ["-r", registry, "keys", "create", "--org", "acme", "--name", "CRM"];
    let made = room.json(&[&create[..], &["--allow-ip", "10.0.0.0/8", "--limit", "5/s"]].concat());
    let next = room.json(&["-r", registry, "keys", "rotate", "CRM", "--overlap", "1h"]);
    [made, next].map(|key| key["id"].as_str().unwrap().to_owned())
}

fn state(room: &Room, registry: &str, id: &str) -> Value {
    room.json(&["-r", registry, "keys", "show", id])["state"].clone()
}

#[test]
fn a_name_alone_changes_nothing_and_both_commands_are_printed() {
    for registry in ["keys.toml", "other.jsonl"] {
        let room = Room::new();
        let [former, successor] = rotated(&room, registry);
        let before = room.read(registry);
        for action in ["revoke", "disable", "enable"] {
            let told = room.fails(65, &["-r", registry, "keys", action, "CRM"]);
            let program = match registry {
                "keys.toml" => "keygatectl".to_owned(),
                _ => format!("keygatectl -r {registry}"),
            };
            for id in [&former, &successor] {
                assert!(told.contains(&format!("`{program} keys {action} {id}`")), "{told}");
            }
        }
        assert_eq!(room.read(registry), before, "nothing was changed");
        // The printed command does what it says.
        room.ok(&["-r", registry, "keys", "revoke", &former]);
        assert_eq!(state(&room, registry, &successor), "active");
        // Two keys of one name without a rotation: the message has the ids, and does not mention a
        // rotation.
        let twin = ["-r", registry, "keys", "create", "--org", "acme", "--name", "twin"];
        room.ok(&twin);
        room.ok(&twin);
        let told = room.fails(65, &["-r", registry, "keys", "revoke", "twin"]);
        assert!(told.contains("hint: give the key id") && !told.contains("rotation"), "{told}");
    }
}

#[test]
fn former_ends_the_key_that_was_replaced_whatever_names_it() {
    for by in ["name", "former", "successor", "renamed"] {
        let room = Room::new();
        let [former, successor] = rotated(&room, "keys.toml");
        let key = match by {
            "former" => &former,
            "successor" => &successor,
            "renamed" => {
                room.ok(&["keys", "edit", &successor, "--name", "CRM 2"]);
                "CRM 2"
            }
            _ => "CRM",
        };
        let told = room.ok(&["keys", "revoke", key, "--former"]);
        assert!(told.starts_with(&format!("{former} (CRM) revoked")), "{by}: {told}");
        assert_eq!(state(&room, "keys.toml", &former), "revoked", "{by}");
        assert_eq!(state(&room, "keys.toml", &successor), "active", "{by}");
        // Again: nothing is left to do, and the successor is not changed.
        let again = room.run(&["keys", "revoke", key, "--former"]);
        assert!(again.code == 0 && again.stderr.contains("revoked already"), "{}", again.stderr);
        assert_eq!(state(&room, "keys.toml", &successor), "active", "{by}");
    }
}

#[test]
fn former_of_a_pair_is_its_former_secret() {
    let room = Room::with_registry();
    let made = room.create(&["--name", "CRM", "--pair"]);
    let told = room.fails(65, &["keys", "revoke", "CRM", "--former"]);
    assert!(told.contains("in no rotation"), "{told}");
    room.ok(&["keys", "rotate", "CRM", "--overlap", "1h"]);
    assert!(room.json(&["keys", "show", "CRM"])["former_secret_until"].is_string());
    let told = room.ok(&["keys", "revoke", "CRM", "--former"]);
    assert!(told.contains("has lost its former secret"), "{told}");
    let shown = room.json(&["keys", "show", "CRM"]);
    assert!(shown["former_secret_until"].is_null() && shown["state"] == "active", "{shown}");
    room.ok(&["table", "build", "--out", "t.kgt", "--signer", "signer.pem"]);
    let keys = room.in_force("t.kgt", None);
    let records = keys.find_id(keygate::core::KeyId::parse(&made.id).unwrap()).count();
    assert_eq!(records, 1, "one record per secret: the former one is in no table");
    room.fails(66, &["keys", "revoke", "Nobody", "--former"]);
}

#[test]
fn a_name_that_expired_keys_have_too_means_the_living_one() {
    let room = Room::new();
    room.ok(&["keys", "init", "--audience", "shop"]);
    room.ok(&["keys", "create", "--org", "acme", "--name", "CRM"]);
    let next = room.json(&["keys", "rotate", "CRM", "--overlap", "0s"]);
    assert_eq!(room.json(&["keys", "show", "CRM"])["id"], next["id"]);
}

#[test]
fn a_list_says_what_replaced_a_key_and_what_bounds_it() {
    for registry in ["keys.toml", "keys.jsonl"] {
        let room = Room::new();
        let [former, successor] = rotated(&room, registry);
        let listed = room.json(&["-r", registry, "keys", "list"]);
        let [old, new] = listed.as_array().unwrap().as_slice() else { panic!("{listed}") };
        assert_eq!(
            (&old["replaced_by"], &old["replaces"]),
            (&successor.clone().into(), &Value::Null)
        );
        assert_eq!((&new["replaced_by"], &new["replaces"]), (&Value::Null, &former.clone().into()));
        let shown = room.json(&["-r", registry, "keys", "show", &former]);
        assert_eq!(shown["replaced_by"], successor.as_str());
        let text = room.ok(&["-r", registry, "keys", "list"]);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].contains("KEY PREFIX") && lines[0].ends_with("REPLACED BY"), "{text}");
        assert!(lines[1].ends_with(&successor) && lines[2].ends_with('-'), "{text}");
        for line in &lines[1..] {
            assert!(line.contains("10.0.0.0/8  5/s"), "{text}");
        }
        // One word, one value: the table shows what JSON and `show` call the key prefix.
        let prefix = old["key_prefix"].as_str().unwrap();
        assert!(prefix.len() == 8 && lines[1].contains(&format!(" {prefix}…")), "{text}");
        let shown = room.ok(&["-r", registry, "keys", "show", &former]);
        let line = shown.lines().find(|line| line.starts_with("key prefix ")).unwrap();
        assert!(line.ends_with(&format!(" {prefix}")), "{shown}");
    }
}
