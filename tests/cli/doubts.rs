//! What keygatectl refuses or questions because it is seldom intended: words that resemble known
//! ones, dates that contradict each other, an owner who leaves and stays.

use serde_json::json;

use crate::support::Room;

#[test]
fn an_org_that_looks_like_a_known_one_is_doubted() {
    for registry in ["keys.toml", "keys.jsonl"] {
        let room = Room::with_registry();
        if registry != "keys.toml" {
            room.ok(&["-r", registry, "keys", "init", "--audience", "shop"]);
        }
        let run = |org: &str| {
            let ran = room.run(&["-r", registry, "keys", "create", "--org", org, "--no-publish"]);
            assert_eq!(ran.code, 0, "{}", ran.stderr);
            ran.stderr
        };
        assert!(!run("acme-shop").contains("did you mean"), "the first");
        assert!(!run("acme-shop").contains("did you mean"), "known");
        let told = run("acme-shpo");
        assert!(
            told.contains("warning: no other key is of the org `acme-shpo`\n")
                && told.contains("hint: did you mean `acme-shop`?"),
            "{told}"
        );
        assert!(!run("acme-shpo").contains("did you mean"), "known by now");
        assert!(!run("other").contains("did you mean"), "another word");
        run("team-1");
        assert!(!run("team-2").contains("did you mean"), "the next number");
    }
}

#[test]
fn a_policy_that_looks_like_a_known_one_is_doubted() {
    let room = Room::with_registry();
    let key = room.create(&["--limit", "search=2/s"]);
    let hint = "hint: did you mean `search`?";
    let told = |arguments: &[&str]| {
        let ran = room.run(arguments);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stderr
    };
    assert!(!told(&["keys", "edit", &key.id, "--limit", "search=3/s"]).contains("warning"));
    assert!(!told(&["keys", "edit", &key.id, "--limit", "daily=9/d"]).contains("warning"));
    let create = ["keys", "create", "--org", "acme", "--limit", "serch=2/s"];
    assert!(told(&create).contains(hint));
    let room = Room::with_registry();
    room.create(&["--limit", "search=2/s"]);
    let told = |arguments: &[&str]| room.run(arguments).stderr;
    assert!(told(&["plans", "set", "gold", "saerch=2/s"]).contains(hint));
    assert!(told(&["orgs", "limit", "acme", "searhc=2/s"]).contains(hint));
    assert!(told(&["orgs", "limit", "amce", "daily=2/d"]).contains("did you mean `acme`?"));
    let per_key = told(&["keys", "create", "--org", "acme", "--limit", "per_key=2/s"]);
    assert!(per_key.contains("did you mean `per-key`?"), "{per_key}");
}

#[test]
fn an_owner_does_not_go_and_stay() {
    let room = Room::with_registry();
    let key = room.create(&["--owner", "u-17", "--owner-email", "kim@example.com"]);
    for more in [["--owner-email", "lee@example.com"], ["--owner-role", "admin"]] {
        for command in [&["keys", "edit", &key.id][..], &["keys", "create", "--org", "acme"]] {
            let told = room.fails(64, &[command, &["--owner", "none"], &more].concat());
            assert!(
                told.starts_with("error: --owner: `none` removes the owner")
                    && told.contains("hint: leave out --owner-email and --owner-role"),
                "{told}"
            );
        }
    }
    let shown = || room.json(&["keys", "show", &key.id]);
    assert_eq!(shown()["owner"]["email"], "kim@example.com", "nothing was changed");
    room.ok(&["keys", "edit", &key.id, "--owner", "none"]);
    assert_eq!(shown()["owner"], json!(null));
}

#[test]
fn a_sunset_lies_ahead_and_not_behind_the_end() {
    let room = Room::with_registry();
    let key = room.create(&["--name", "CRM", "--expires", "2031-01-01T00:00:00Z"]);
    let past = room.fails(64, &["keys", "edit", "CRM", "--sunset", "2020-01-01"]);
    assert!(past.starts_with("error: --sunset: is in the past\nhint: "), "{past}");
    assert!(past.contains("--expires ends a key"), "{past}");
    room.fails(64, &["keys", "create", "--org", "acme", "--sunset", "2020-01-01"]);
    let late = room.fails(64, &["keys", "edit", "CRM", "--sunset", "2032-01-01T00:00:00Z"]);
    assert!(late.contains("--sunset: is later than the end of the key, 2031-01-01T00:00:00Z"));
    assert!(late.contains("hint: give an earlier --sunset, or a later --expires"), "{late}");
    room.ok(&["keys", "edit", "CRM", "--sunset", "2030-06-01"]);
    // An end that has to be sooner is not refused because of an announcement.
    let sooner = room.run(&["keys", "edit", "CRM", "--expires", "2030-01-01T00:00:00Z"]);
    assert_eq!(sooner.code, 0, "{}", sooner.stderr);
    assert!(sooner.stderr.contains(&format!("warning: {} ends at 2030-01-01T00:00:00Z", key.id)));
    assert!(sooner.stderr.contains("--sunset never"), "{}", sooner.stderr);
    let renamed = room.run(&["keys", "edit", "CRM", "--name", "ERP"]);
    assert!(!renamed.stderr.contains("warning"), "said once: {}", renamed.stderr);
    // The replaced key of a rotation does not announce a day after its end.
    let other = room.create(&["--sunset", "90d"]);
    room.ok(&["keys", "rotate", &other.id, "--overlap", "7d"]);
    let replaced = room.json(&["keys", "show", &other.id]);
    assert_eq!(replaced["sunset"], replaced["expires"]);
    let dead = room.fails(64, &["keys", "rotate", "ERP", "--expires", "2020-01-01"]);
    assert!(dead.starts_with("error: --expires: is in the past"), "{dead}");
}

#[test]
fn all_faults_of_a_request_are_told_at_once() {
    let room = Room::with_registry();
    let create =
        ["keys", "create", "--org", "acme", "--note", "two\nlines", "--expires", "2020-01-01"];
    let told = room.fails(64, &create);
    assert!(told.contains("--note: must be one line\n--expires: is in the past"), "{told}");
}

#[cfg(unix)]
#[test]
fn a_warning_is_said_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let room = Room::with_registry();
    room.create(&[]);
    let signer = room.path("signer.pem");
    std::fs::set_permissions(&signer, std::fs::Permissions::from_mode(0o644)).unwrap();
    let publish = ["--signer", "signer.pem", "--publish", "t.kgt"];
    let ran = room.run(&[&["keys", "create", "--org", "acme"][..], &publish].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let times = ran.stderr.matches("others can read").count();
    assert_eq!(times, 1, "the key is read before the change and after it:\n{}", ran.stderr);
}
