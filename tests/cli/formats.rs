//! What table format 2 has added, from the registry to a table and back.

use keygate::core::{KeyLookup, KeyStatus};
use keygate::table::TableFormat;
use serde_json::json;

use crate::support::{Room, holder};

/// An old registry: it does not mention formats.
fn old_registry() -> Room {
    let room = Room::with_registry();
    let text = room.read("keys.toml");
    let text: String =
        text.lines().filter(|l| !l.starts_with("format =")).map(|l| l.to_owned() + "\n").collect();
    room.write("keys.toml", text);
    room
}

const BUILD: [&str; 6] = ["table", "build", "--out", "t.kgt", "--signer", "signer.pem"];

#[test]
fn everything_new_goes_from_option_to_table() {
    let room = Room::with_registry();
    let key = room.create(&[
        "--limit",
        "600/min",
        "--limit",
        "search=2/s burst 1",
        "--sunset",
        "2031-01-01T00:00:00Z",
        "--owner",
        "cn=Kim, ou=Ops",
        "--owner-email",
        "kim@example.com",
        "--owner-role",
        "admin",
    ]);
    let canary = room.create(&["--canary", "--name", "bait"]);
    room.ok(&["orgs", "limit", "acme", "monthly=1000000/30d", "burst=50/s"]);
    room.ok(&["orgs", "limit", "acme", "burst=none"]);
    assert_eq!(
        room.json(&["orgs", "list"]),
        json!([{
            "org": "acme", "plan": null, "limits": { "monthly": "1000000/30d" }, "published": false,
        }])
    );
    room.ok(&BUILD);
    let keys = room.in_force("t.kgt", None);
    assert_eq!(keys.table().format(), TableFormat::V2);
    let view = holder(&keys, &key.secret).unwrap();
    assert_eq!(view.grant.limits.get("search").unwrap().burst(), 1);
    assert_eq!(view.grant.limits.per_key().unwrap().count(), 600);
    assert_eq!(view.grant.sunset, Some(1_924_992_000));
    let digest = keygate::core::Digest::of(key.secret.as_bytes());
    let owner = keys.owner(&digest).unwrap();
    assert_eq!(
        (owner.subject, owner.email, owner.role),
        ("cn=Kim, ou=Ops", "kim@example.com", "admin")
    );
    assert_eq!(holder(&keys, &canary.secret).unwrap().grant.status, KeyStatus::Canary);
    assert_eq!(keys.org_limits("acme").get("monthly").unwrap().count(), 1_000_000);
    assert_eq!(keys.policies().into_iter().collect::<Vec<_>>(), ["monthly", "per-key", "search"]);
    // And is shown wherever a key is shown.
    for shown in [
        room.ok(&["keys", "show", &key.id]),
        room.ok(&["table", "inspect", "t.kgt"]),
        room.ok(&["keys", "export"]),
        room.ok(&["keys", "export", "--format", "csv"]),
    ] {
        for wanted in
            ["search", "2/s burst 1", "2031-01-01T00:00:00Z", "cn=Kim, ou=Ops", "kim@example.com"]
        {
            assert!(shown.contains(wanted), "{wanted}: {shown}");
        }
    }
    for shown in [room.ok(&["table", "inspect", "t.kgt"]), room.ok(&["keys", "export"])] {
        assert!(shown.contains("canary"), "{shown}");
    }
    assert!(room.ok(&["keys", "list", "--state", "canary"]).contains("bait"));
    assert!(
        room.ok(&["table", "inspect", "t.kgt"])
            .contains("limits of the org acme: monthly=1000000/30d")
    );
    // An edit of each, reported by `table diff`.
    room.ok(&[
        "keys",
        "edit",
        &key.id,
        "--limit",
        "search=none",
        "--limit",
        "daily=9/d",
        "--owner",
        "lee",
        "--sunset",
        "never",
    ]);
    let diff = room.ok(&["table", "diff", "t.kgt", "keys.toml"]);
    for wanted in [
        "limits: search=2/s burst 1 → daily=9/d",
        "owner: cn=Kim, ou=Ops <kim@example.com> (admin) → lee",
        "sunset: 2031-01-01T00:00:00Z → -",
    ] {
        assert!(diff.contains(wanted), "{wanted}: {diff}");
    }
}

#[test]
fn exports_carry_everything_into_another_registry() {
    let room = Room::with_registry();
    let key = room.create(&[
        "--limit",
        "600/min",
        "--limit",
        "daily=9/d",
        "--sunset",
        "90d",
        "--owner",
        "u-1",
        "--owner-role",
        "admin",
    ]);
    room.create(&["--canary"]);
    let before = room.json(&["keys", "show", &key.id]);
    for format in ["csv", "jsonl", "toml"] {
        let file = format!("out.{format}");
        room.ok(&["keys", "export", "--format", format, "--out", &file]);
        let other = format!("{format}.toml");
        room.ok(&["-r", &other, "keys", "init", "--audience", "shop"]);
        if format != "toml" {
            room.ok(&["-r", &other, "keys", "import", &file]);
            let after = room.json(&["-r", &other, "keys", "show", &key.id]);
            for field in ["limit", "limits", "sunset", "owner", "status"] {
                assert_eq!(before[field], after[field], "{format}: {field}");
            }
            assert!(room.ok(&["-r", &other, "keys", "list"]).contains("canary"), "{format}");
        }
    }
}

#[test]
fn an_old_registry_writes_format_1_until_it_says_2() {
    let room = old_registry();
    room.create(&["--limit", "600/min"]);
    room.ok(&BUILD);
    assert_eq!(room.in_force("t.kgt", None).table().format(), TableFormat::V1);
    // Anything that format 1 cannot hold is named, and nothing is written.
    let owned = room.create(&["--owner", "u-1"]);
    let canary = room.create(&["--canary"]);
    room.ok(&["orgs", "limit", "acme", "monthly=1/d"]);
    let before = std::fs::read(room.path("t.kgt")).unwrap();
    let said = room.fails(65, &BUILD);
    for wanted in [
        format!("{} (owner)", owned.id).as_str(),
        format!("{} (canary)", canary.id).as_str(),
        "acme (limits of an org)",
        "`format = 2`",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert_eq!(std::fs::read(room.path("t.kgt")).unwrap(), before);
    // A patch is written for the readers of its table.
    let patch = ["patch", "--base", "t.kgt", "--out", "t.kgp", "--signer", "signer.pem"];
    let said = room.fails(65, &patch);
    assert!(said.contains(&format!("{} (canary)", canary.id)), "{said}");
    room.ok(&[&patch[..], &["--format", "2"]].concat());
    let keys = room.in_force("t.kgt", Some("t.kgp"));
    assert_eq!(keys.patch().unwrap().format(), TableFormat::V2);
    assert_eq!(holder(&keys, &canary.secret).unwrap().grant.status, KeyStatus::Canary);
    assert_eq!(keys.org_limits("acme").len(), 1);
    room.ok(&[&BUILD[..], &["--format", "2"]].concat());
    assert_eq!(room.in_force("t.kgt", None).table().format(), TableFormat::V2);
}

#[test]
fn a_change_that_cannot_be_published_is_not_made() {
    let room = old_registry();
    let key = room.create(&[]);
    room.ok(&BUILD);
    let before = room.read("keys.toml");
    for change in [
        vec!["keys", "canary", &key.id],
        vec!["keys", "edit", &key.id, "--owner", "u-1"],
        vec!["orgs", "limit", "acme", "daily=1/d"],
    ] {
        for publish in
            [vec!["--publish", "t.kgt"], vec!["--publish-patch", "t.kgp", "--base", "t.kgt"]]
        {
            let all = [&change[..], &publish[..], &["--signer", "signer.pem"]].concat();
            let said = room.fails(65, &all);
            assert!(said.contains("format 1 cannot hold"), "{said}");
            assert_eq!(room.read("keys.toml"), before, "{all:?}");
        }
    }
}

#[test]
fn a_canary_is_never_admitted_again() {
    let room = Room::with_registry();
    let key = room.create(&["--name", "bait"]);
    room.ok(&["keys", "canary", &key.id]);
    for change in ["enable", "disable", "rotate"] {
        let said = room.run(&["keys", change, &key.id]);
        assert_ne!(said.code, 0, "{change}");
        assert!(said.stderr.contains("a canary, which is never valid"), "{}", said.stderr);
    }
    room.ok(&["keys", "revoke", &key.id]);
    room.ok(&["keys", "canary", &key.id]);
    let pair = room.create(&["--pair", "--canary"]);
    assert_eq!(room.json(&["keys", "show", &pair.id])["status"], "canary");
}

#[test]
fn limits_of_orgs_that_somebody_else_has_published_are_not_loosened() {
    let room = Room::with_registry();
    room.create(&[]);
    room.ok(&["orgs", "limit", "acme", "daily=100/d"]);
    room.ok(&BUILD);
    std::fs::copy(room.path("keys.toml"), room.path("other.toml")).unwrap();
    room.ok(&[
        "-r",
        "other.toml",
        "orgs",
        "limit",
        "acme",
        "daily=5/d",
        "--publish",
        "t.kgt",
        "--signer",
        "signer.pem",
    ]);
    let said = room.fails(77, &[&BUILD[..], &["--serial", "90"]].concat());
    assert!(said.contains("the org acme: has the limit 5/d for daily there"), "{said}");
    room.ok(&["keys", "fold", "t.kgt"]);
    assert_eq!(room.json(&["orgs", "list"])[0]["limits"]["daily"], "5/d");
    room.ok(&BUILD);
    // And intentionally.
    std::fs::copy(room.path("keys.toml"), room.path("other.toml")).unwrap();
    room.ok(&[
        "-r",
        "other.toml",
        "orgs",
        "limit",
        "acme",
        "daily=4/d",
        "--publish",
        "t.kgt",
        "--signer",
        "signer.pem",
    ]);
    room.ok(&[&BUILD[..], &["--serial", "99", "--readmit-org", "acme"]].concat());
    assert_eq!(room.in_force("t.kgt", None).org_limits("acme").get("daily").unwrap().count(), 5);
}

#[test]
fn limits_of_orgs_are_compared_and_marked_until_they_are_published() {
    let room = Room::with_registry();
    room.create(&["--sunset", "2031-01-01T00:00:00Z", "--owner", "u-17"]);
    let published = |room: &Room| room.json(&["orgs", "list"])[0]["published"].clone();
    room.ok(&["orgs", "limit", "acme", "daily=100/d"]);
    assert_eq!(published(&room), json!(false), "nothing was ever published");
    let left = "the limits of 1 org are not published";
    let listed = room.run(&["keys", "list"]);
    assert!(listed.stderr.contains(left), "{}", listed.stderr);
    for shown in ["SUNSET", "OWNER", "2031-01-01", "u-17"] {
        assert!(listed.stdout.contains(shown), "{shown}: {}", listed.stdout);
    }
    room.ok(&BUILD);
    std::fs::copy(room.path("t.kgt"), room.path("old.kgt")).unwrap();
    assert_eq!(published(&room), json!(true));
    assert!(room.ok(&["orgs", "list"]).contains("yes"));
    assert_eq!(room.run(&["keys", "list"]).stderr, "");
    let same = ["table", "diff", "old.kgt", "keys.toml", "--exit-code"];
    assert!(room.ok(&same).contains("no difference"));
    // Changed, added and removed, one after the other.
    room.ok(&["orgs", "limit", "acme", "daily=5/d", "monthly=9/30d"]);
    room.ok(&["orgs", "limit", "beta", "daily=1/d"]);
    assert_eq!(published(&room), json!(false));
    let told = room.run(&same);
    assert_eq!(told.code, 1, "{}", told.stderr);
    let wanted = "~ limits of the org acme\n    limits: daily=100/d → daily=5/d, monthly=9/30d\n\
                  + limits of the org beta\n    limits: - → daily=1/d\n";
    assert_eq!(told.stdout, wanted);
    let lines = room.ok(&["table", "diff", "--json", "old.kgt", "keys.toml"]);
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines,
        [
            json!({ "limits_of_org": "acme", "change": "changed", "fields": { "limits":
                [{ "daily": "100/d" }, { "daily": "5/d", "monthly": "9/30d" }] } }),
            json!({ "limits_of_org": "beta", "change": "added", "fields": { "limits":
                [null, { "daily": "1/d" }] } }),
        ]
    );
    room.ok(&BUILD);
    room.ok(&["orgs", "limit", "beta", "daily=none"]);
    let list = room.run(&["orgs", "list"]);
    let beta = list.stdout.lines().find(|line| line.starts_with("beta")).expect("still in force");
    assert!(beta.contains("no limits") && beta.ends_with("no"), "{beta}");
    assert!(list.stderr.contains(left) && list.stderr.contains("table build"), "{}", list.stderr);
    let gone = room.ok(&["table", "diff", "t.kgt", "keys.toml"]);
    assert_eq!(gone, "- limits of the org beta\n    limits: daily=1/d → -\n");
    // A patch publishes this as well.
    room.ok(&["patch", "--base", "t.kgt", "--out", "t.kgp", "--signer", "signer.pem"]);
    assert!(!room.ok(&["orgs", "list"]).contains("beta"));
    // If the registry's table is somewhere else, this cannot be judged.
    for file in ["t.kgt", "t.kgp", "old.kgt"] {
        std::fs::remove_file(room.path(file)).unwrap();
    }
    assert_eq!(published(&room), serde_json::Value::Null);
    assert!(room.ok(&["orgs", "list"]).contains("unknown"));
}

#[test]
fn a_successor_does_not_inherit_the_announced_end() {
    let room = Room::with_registry();
    let old = room.create(&["--sunset", "90d", "--owner", "u-1"]);
    let new = room.json(&["keys", "rotate", &old.id]);
    let shown = |id: &str| room.json(&["keys", "show", id]);
    let id = new["id"].as_str().unwrap();
    assert_eq!(shown(id)["sunset"], serde_json::Value::Null);
    assert_eq!(shown(id)["owner"]["subject"], "u-1");
    assert_ne!(shown(&old.id)["sunset"], serde_json::Value::Null);
    // A pair stays the same key.
    let pair = room.create(&["--pair", "--sunset", "90d"]);
    room.ok(&["keys", "rotate", &pair.id]);
    assert_ne!(shown(&pair.id)["sunset"], serde_json::Value::Null);
}
