//! Plans: sets of limits that keys and orgs share, in both forms of a registry.

use std::fs;

use serde_json::json;

use crate::support::{Room, holder};

/// Both forms of a registry with its plan `gold`, which publish nothing on their own.
fn rooms() -> [(Room, &'static str); 2] {
    ["keys.toml", "keys.jsonl"].map(|registry| {
        let room = Room::with_registry();
        if registry == "keys.jsonl" {
            room.ok(&["-r", registry, "keys", "init", "--copy", "keys.toml"]);
            fs::remove_file(room.path("keys.toml")).unwrap();
        }
        room.ok(&["plans", "set", "gold", "600/min", "search=2/s"]);
        (room, registry)
    })
}

const TABLE: [&str; 6] = ["table", "build", "--out", "t.kgt", "--signer", "signer.pem"];
const PATCH: [&str; 7] = ["patch", "--base", "t.kgt", "--out", "t.kgp", "--signer", "signer.pem"];

/// The limits of a key as a sidecar has them.
fn limits(room: &Room, patch: Option<&str>, secret: &str) -> Vec<String> {
    let keys = room.in_force("t.kgt", patch);
    let limits = &holder(&keys, secret).unwrap().grant.limits;
    limits.iter().map(|named| format!("{}={}", named.policy.as_str(), named.limit)).collect()
}

#[test]
fn a_plan_goes_to_the_table_and_a_change_of_it_into_the_patch() {
    for (room, registry) in rooms() {
        let plain = room.create(&["--plan", "gold", "--name", "plain"]);
        let own = room.create(&["--plan", "gold", "--limit", "search=9/s", "--limit", "daily=5/d"]);
        let other = room.create(&["--limit", "1/s"]);
        room.ok(&TABLE);
        assert_eq!(limits(&room, None, &plain.secret), ["per-key=600/min", "search=2/s"]);
        let overridden = ["daily=5/d", "per-key=600/min", "search=9/s"];
        assert_eq!(limits(&room, None, &own.secret), overridden, "{registry}");
        let shown = room.json(&["keys", "show", "plain"]);
        assert_eq!((&shown["plan"], &shown["limit"]), (&json!("gold"), &json!("600/min")));
        assert_eq!(
            (&shown["limits"], &shown["published"]),
            (&json!({"search": "2/s"}), &json!(true))
        );
        assert!(room.ok(&["keys", "list"]).contains("gold: 600/min, search=2/s"));

        // No line of a key changes, but the keys still differ from the published ones.
        let before = room.read(registry);
        let told = room.ok(&["plan", "set", "gold", "700/min", "search=none", "burst=50/s"]);
        assert!(told.contains("gold: 700/min, burst=50/s; 2 keys and 0 orgs; serial 6"), "{told}");
        if registry == "keys.jsonl" {
            assert_eq!(room.read(registry).lines().count(), before.lines().count() + 1);
        }
        for (key, published) in [(&plain, false), (&own, false), (&other, true)] {
            assert_eq!(room.json(&["keys", "show", &key.id])["published"], json!(published));
        }
        let differing = room.ok(&["table", "diff", "t.kgt", registry]);
        assert!(differing.contains(&plain.id) && !differing.contains(&other.id), "{differing}");
        room.ok(&PATCH);
        let patch = Some("t.kgp");
        assert_eq!(limits(&room, patch, &plain.secret), ["burst=50/s", "per-key=700/min"]);
        let overridden = ["burst=50/s", "daily=5/d", "per-key=700/min", "search=9/s"];
        assert_eq!(limits(&room, patch, &own.secret), overridden);
        assert_eq!(limits(&room, patch, &other.secret), ["per-key=1/s"]);

        // A patch is made over the table, whatever the previous patch contained.
        room.ok(&["keys", "edit", &other.id, "--limit", "2/s"]);
        room.ok(&PATCH);
        assert_eq!(limits(&room, patch, &plain.secret), ["burst=50/s", "per-key=700/min"]);
        assert_eq!(limits(&room, patch, &other.secret), ["per-key=2/s"]);
        room.ok(&TABLE);
        assert_eq!(limits(&room, None, &plain.secret), ["burst=50/s", "per-key=700/min"]);
        room.ok(&["keys", "edit", "plain", "--plan", "none"]);
        room.ok(&PATCH);
        assert!(limits(&room, patch, &plain.secret).is_empty(), "{registry}");
        room.ok(&["keys", "check"]);
        let audit = room.read("keys.audit.jsonl");
        assert!(
            audit.contains(r#""action":"plans set""#) && audit.contains(r#""keys":2"#),
            "{audit}"
        );
    }
}

#[test]
fn a_plan_of_an_org_is_published_and_its_change_too() {
    for (room, registry) in rooms() {
        room.create(&[]);
        room.ok(&["plans", "set", "big", "monthly=100/30d", "daily=9/d"]);
        room.ok(&["orgs", "limit", "acme", "--plan", "big", "daily=5/d"]);
        room.ok(&TABLE);
        let of = |patch, policy| {
            let keys = room.in_force("t.kgt", patch);
            keys.org_limits("acme").get(policy).map(|limit| limit.count())
        };
        assert_eq!((of(None, "monthly"), of(None, "daily")), (Some(100), Some(5)));
        let list = room.json(&["orgs", "list"]);
        assert_eq!((&list[0]["plan"], &list[0]["published"]), (&json!("big"), &json!(true)));
        room.ok(&["plans", "set", "big", "monthly=200/30d"]);
        assert_eq!(room.json(&["orgs", "list"])[0]["published"], json!(false), "{registry}");
        room.ok(&PATCH);
        assert_eq!(of(Some("t.kgp"), "monthly"), Some(200));
        assert_eq!(
            room.json(&["plans", "list"]),
            json!([
                { "name": "big", "limits": { "daily": "9/d", "monthly": "200/30d" },
                  "keys": 0, "orgs": 1 },
                { "name": "gold", "limits": { "per-key": "600/min", "search": "2/s" },
                  "keys": 0, "orgs": 0 },
            ])
        );
        let told = room.fails(64, &["plans", "remove", "big"]);
        assert!(told.contains("`big` is the plan of 0 keys and 1 org"), "{told}");
        room.ok(&["orgs", "limit", "acme", "--plan", "none"]);
        room.ok(&["plans", "remove", "big"]);
        assert_eq!(room.json(&["orgs", "list"])[0]["limits"], json!({ "daily": "5/d" }));
    }
}

#[test]
fn a_plan_that_is_not_there_is_a_fault_with_its_line() {
    for (room, registry) in rooms() {
        let told = room.fails(64, &["keys", "create", "--org", "acme", "--plan", "gild"]);
        assert!(told.contains("--plan: no plan `gild`: the registry has gold"), "{told}");
        let told = room.fails(64, &["orgs", "limit", "acme", "--plan", "gild"]);
        assert!(told.contains("--plan: no plan `gild`: the registry has gold"), "{told}");
        room.create(&["--plan", "gold"]);
        let told = room.fails(64, &["plans", "remove", "gold"]);
        assert!(told.contains("`gold` is the plan of 1 key and 0 orgs"), "{told}");
        assert!(told.contains("hint: `keygatectl keys edit KEY --plan none`"), "{told}");
        let told = room.fails(64, &["plans", "set", "gold", "none", "search=none"]);
        assert!(told.contains("would leave gold without a limit"), "{told}");

        // Removed by hand.
        let text = room.read(registry);
        let (text, line) = match registry {
            "keys.toml" => {
                let text = text.replace("plan = \"gold\"", "plan = \"gild\"");
                let line = text.lines().position(|line| line.starts_with("plan =")).unwrap() + 1;
                (text, line)
            }
            _ => {
                let text = text.replace("\"plan\":\"gold\"", "\"plan\":\"gild\"");
                (text.clone(), text.lines().position(|l| l.contains("gild")).unwrap() + 1)
            }
        };
        room.write(registry, text);
        let want = format!("{registry}:{line}: plan: no plan `gild`: the registry has gold");
        for command in [&["keys", "check"][..], &TABLE, &["keys", "list"]] {
            let told = room.fails(65, command);
            assert!(told.contains(&want), "{told}");
        }
    }
}

#[test]
fn what_somebody_else_has_published_is_met_without_their_plan() {
    for (room, registry) in rooms() {
        let key = room.create(&["--plan", "gold"]);
        room.ok(&TABLE);
        let other = registry.replace("keys", "other");
        std::fs::copy(room.path(registry), room.path(&other)).unwrap();
        let there = |arguments: &[&str]| {
            let publish = ["--publish", "t.kgt", "--signer", "signer.pem"];
            room.ok(&[&["-r", other.as_str()], arguments, &publish[..]].concat());
        };
        there(&["plans", "set", "gold", "5/min", "search=3/s"]);
        let told = room.fails(77, &[&TABLE[..], &["--serial", "90"]].concat());
        assert!(told.contains("has the limit 5/min there"), "{told}");
        room.ok(&["keys", "fold", "t.kgt"]);
        // Theirs is slower for `per-key`, ours for `search`: the key has both, and the plan stays
        // ours.
        let shown = room.json(&["keys", "show", &key.id]);
        assert_eq!(
            (&shown["plan"], &shown["limit"], &shown["limits"]),
            (&json!("gold"), &json!("5/min"), &json!({ "search": "2/s" })),
            "{registry}"
        );
        assert_eq!(room.json(&["plans", "list"])[0]["limits"]["per-key"], "600/min");
        room.ok(&TABLE);
        assert_eq!(limits(&room, None, &key.secret), ["per-key=5/min", "search=2/s"]);
    }
}

#[test]
fn a_copy_keeps_the_plans_and_an_export_the_limits() {
    for (room, registry) in rooms() {
        room.create(&["--plan", "gold", "--name", "a"]);
        let exported = room.run(&["keys", "export"]);
        assert!(exported.stdout.contains("limit = \"600/min\"\nlimits = { search = \"2/s\" }"));
        assert!(!exported.stdout.contains("plan ="), "{}", exported.stdout);
        assert!(exported.stderr.contains("plans are not in it"), "{}", exported.stderr);
        let form = if registry == "keys.toml" { "copy.jsonl" } else { "copy.toml" };
        room.ok(&["-r", form, "keys", "init", "--copy", registry]);
        assert_eq!(room.json(&["-r", form, "plans", "list"])[0]["keys"], 1, "{form}");
        // A file of keys has no plans of its own.
        room.write(
            "in.jsonl",
            r#"{"id":"key_x","org":"acme","plan":"gold","digest":""#.to_owned()
                + &format!("sha256:{}\"}}\n", "0".repeat(64)),
        );
        let told = room.fails(65, &["keys", "import", "in.jsonl"]);
        assert!(told.contains("in.jsonl:1: plan: "), "{registry}: {told}");
        let from = ["table", "build", "--from", "in.jsonl", "--serial", "1", "--audience", "shop"];
        let out = ["--out", "x.kgt", "--signer", "signer.pem"];
        let told = room.fails(65, &[&from[..], &out].concat());
        assert!(told.contains("in.jsonl:1: plan: no plan `gold`"), "{told}");
    }
}

/// Somebody has edited a plan by hand, in the last line of settings.
#[test]
fn a_plan_that_was_edited_by_hand_is_compared_too() {
    for (room, registry) in rooms() {
        let key = room.create(&["--plan", "gold"]);
        room.ok(&TABLE);
        let text = room.read(registry);
        let edited = text.replace("600/min", "900/min");
        let text = match registry {
            "keys.toml" => edited,
            // Appended, so that what the table was made from is unchanged.
            _ => {
                let settings =
                    edited.lines().rfind(|line| line.starts_with("{\"registry\"")).unwrap();
                format!("{text}{settings}\n")
            }
        };
        room.write(registry, text);
        assert_eq!(room.json(&["keys", "show", &key.id])["published"], json!(false), "{registry}");
        room.ok(&["keys", "create", "--org", "acme"]);
        room.ok(&PATCH);
        assert_eq!(limits(&room, Some("t.kgp"), &key.secret), ["per-key=900/min", "search=2/s"]);
    }
}

/// The lines of two branches, as `merge=union` combines them in one file.
fn merged(room: &Room, first: &str, second: &str, into: &str) {
    let (mut text, theirs) = (room.read(first), room.read(second));
    for line in theirs.lines().filter(|line| !room.read(first).contains(*line)) {
        text.push_str(line);
        text.push('\n');
    }
    room.write(into, text);
}

/// The last settings line counts as a whole: what the other branch has changed must not get lost
/// silently.
#[test]
fn a_merge_that_loses_settings_is_told_with_its_remedy() {
    let room = Room::new();
    room.ok(&["signer", "new"]);
    let (a, b, both) = ("a.jsonl", "b.jsonl", "both.jsonl");
    room.ok(&["-r", a, "keys", "init", "--audience", "shop"]);
    room.ok(&["-r", a, "plans", "set", "gold", "10/s"]);
    room.ok(&["-r", a, "keys", "create", "--org", "acme", "--plan", "gold", "--name", "p0"]);
    let build = ["table", "build", "--signer", "signer.pem", "--out"];
    let publish = |registry: &str, out: &str| {
        room.ok(&[&["-r", registry], &build[..], &[out]].concat());
    };
    publish(a, "t.kgt");
    fs::copy(room.path(a), room.path(b)).unwrap();
    // Both publish, and neither changes a setting.
    publish(a, "a.kgt");
    publish(b, "b.kgt");
    for (first, second) in [(a, b), (b, a)] {
        merged(&room, first, second, both);
        room.ok(&["-r", both, "keys", "check"]);
    }
    // One changes a plan.
    room.ok(&["-r", a, "plans", "set", "gold", "1/s"]);
    merged(&room, b, a, both);
    room.ok(&["-r", both, "keys", "check"]);
    let shown = room.json(&["-r", both, "keys", "show", "p0"]);
    assert_eq!(shown["limit"], "1/s");
    // If its lines are first, those of the other would undo it.
    merged(&room, a, b, both);
    let before = room.read(both);
    let revoke: [&[&str]; 3] = [&["keys", "check"], &["keys", "revoke", "p0"], &["plans", "list"]];
    for command in revoke {
        let told = room.fails(65, &[&["-r", both], command].concat());
        assert!(told.contains("after: these settings were not made on those of line"), "{told}");
        assert_eq!(room.read(both), before);
    }
    // Both have made the same change: nothing is lost.
    room.ok(&["-r", b, "plans", "set", "gold", "1/s"]);
    merged(&room, a, b, both);
    room.ok(&["-r", both, "keys", "check"]);
    // Each has a different one. The remedy: both in the last line, without `after`.
    room.ok(&["-r", b, "plans", "set", "silver", "5/s"]);
    room.ok(&["-r", a, "plans", "set", "bronze", "2/s"]);
    merged(&room, a, b, both);
    room.fails(65, &["-r", both, "keys", "check"]);
    let text = room.read(both);
    let last = text.lines().rfind(|line| line.starts_with("{\"registry\"")).unwrap();
    let mut settings: serde_json::Value = serde_json::from_str(last).unwrap();
    settings.as_object_mut().unwrap().remove("after").unwrap();
    let bronze = json!({ "name": "bronze", "limit": "2/s" });
    settings["plan"].as_array_mut().unwrap().push(bronze);
    let settings = settings.to_string();
    // The version marks a line of settings, and is first.
    let rest = settings.replace("\"registry\":1,", "").replace(",\"registry\":1", "");
    let mended = format!("{{\"registry\":1,{}", &rest[1..]);
    room.write(both, text.replace(last, &mended));
    room.ok(&["-r", both, "keys", "check"]);
    assert_eq!(room.json(&["-r", both, "plans", "list"]).as_array().unwrap().len(), 3);
    // And the next change continues from there.
    room.ok(&["-r", both, "plans", "set", "gold", "3/s"]);
    room.ok(&["-r", both, "keys", "revoke", "p0"]);
}
