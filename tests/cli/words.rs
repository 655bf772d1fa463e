//! The messages of both programs: one form of errors, singular and plural, man pages.

use std::process::Command;

use crate::support::{Ran, Room};

/// Both programs, and how each is run in a room.
fn keygate(room: &Room, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keygate"));
    command.args(arguments).current_dir(room.root());
    Ran::of(command.output().unwrap())
}

/// `error: ` first, lower case, no final period, and the remedy on a separate line.
#[test]
fn errors_of_both_programs_have_one_form() {
    let room = Room::with_registry();
    room.write("bad.toml", "registry = 1\nserial = x\n");
    let ctl: [&[&str]; 9] = [
        &["-r", "nope.toml", "keys", "list"],
        &["-r", "bad.toml", "keys", "list"],
        &["keys", "revoke"],
        &["keys", "show", "nobody"],
        &["keys", "init", "--audience", "again"],
        &["nonsense"],
        &["signer", "show", "nope.pem"],
        &["table", "build"],
        &["keys", "list", "--expiring", "5x"],
    ];
    let gate: [&[&str]; 5] = [
        &["serve", "-c", "nope.toml"],
        &["drain", "-c", "nope.toml"],
        &["nonsense"],
        &["check", "--nope"],
        &["explain"],
    ];
    let runs = ctl.iter().map(|arguments| (arguments, room.run(arguments)));
    let runs = runs.chain(gate.iter().map(|arguments| (arguments, keygate(&room, arguments))));
    for (arguments, ran) in runs {
        let said = &ran.stderr;
        assert_ne!(ran.code, 0, "{arguments:?}");
        assert!(ran.stdout.is_empty(), "{arguments:?}: {}", ran.stdout);
        let first = said.lines().next().unwrap_or_default();
        // Faults of a file are a list, each with its place.
        let text =
            first.strip_prefix("error: ").or(first.split_once(".toml:").map(|(_, rest)| rest));
        let text = text.unwrap_or_else(|| panic!("{arguments:?}: {said}"));
        assert!(!text.starts_with(char::is_uppercase) && !text.ends_with('.'), "{said}");
        assert!(said.contains("\nhint: "), "{arguments:?}: {said}");
    }
}

#[test]
fn one_is_one_and_two_are_two() {
    let room = Room::with_registry();
    room.create(&["--name", "first"]);
    let check = || room.ok(&["keys", "check"]);
    assert!(check().contains("1 key,"), "{}", check());
    let build = ["table", "build", "--signer", "signer.pem", "-o", "t.kgt"];
    assert!(room.ok(&build).contains("1 record,"));
    room.create(&["--name", "second"]);
    assert!(check().contains("2 keys,"), "{}", check());
    assert!(room.ok(&build).contains("2 records,"));
    let public = room.ok(&["signer", "show", "signer.pem", "--json"]);
    let public: serde_json::Value = serde_json::from_str(&public).unwrap();
    let rule = "[[routes]]\npath = \"/PATH/*\"\naccess = \"public\"\n";
    for (rules, said) in [(1, "1 route, 1 credential source"), (2, "2 routes, 1 credential source")]
    {
        let rules: String = (0..rules).map(|n| rule.replace("PATH", &format!("p{n}"))).collect();
        room.write(
            "keygate.toml",
            format!(
                "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
                 [upstream]\nurl = \"http://127.0.0.1:9\"\n[table]\npath = \"t.kgt\"\n\
                 audience = \"shop\"\ntrusted_signers = [{}]\n\
                 [[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n{rules}",
                public["public_key"]
            ),
        );
        let ran = keygate(&room, &["check", "--config-only"]);
        assert!(ran.stdout.contains(said), "{}{}", ran.stdout, ran.stderr);
    }
}

/// The key that ends first is first, whatever the order in the registry.
#[test]
fn keys_that_expire_are_listed_by_when() {
    for form in ["keys.toml", "keys.jsonl"] {
        let room = Room::new();
        room.ok(&["-r", form, "keys", "init", "--audience", "shop"]);
        for (name, life) in
            [("late", "20d"), ("soon", "1d"), ("never", ""), ("between", "5d"), ("far", "90d")]
        {
            let life: &[&str] = if life.is_empty() { &[] } else { &["--expires", life] };
            let create = ["-r", form, "keys", "create", "--org", "acme", "--name", name];
            room.ok(&[&create[..], life].concat());
        }
        let listed = room.json(&["-r", form, "keys", "list", "--expiring", "30d"]);
        let names: Vec<_> = listed.as_array().unwrap().iter().map(|key| &key["name"]).collect();
        assert_eq!(names, ["soon", "between", "late"], "{form}");
        let text = room.ok(&["-r", form, "keys", "list", "--expiring", "30d"]);
        let at = |name: &str| text.find(&format!("  {name} ")).unwrap_or_else(|| panic!("{text}"));
        assert!(at("soon") < at("between") && at("between") < at("late"), "{text}");
    }
}

/// As `man` shows them: every page, without a warning.
#[test]
fn man_pages_are_read_without_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(keygate::cli::definition(), directory.path()).unwrap();
    clap_mangen::generate_to(keygate::manage::definition(&[]), directory.path()).unwrap();
    let mut pages = 0;
    for page in std::fs::read_dir(directory.path()).unwrap() {
        let page = page.unwrap().path();
        let shown = Command::new("groff").args(["-man", "-Tutf8", "-ww"]).arg(&page).output();
        let shown = shown.expect("groff, which tests/tools.sh installs");
        let warned = String::from_utf8_lossy(&shown.stderr);
        assert!(shown.status.success() && warned.is_empty(), "{}: {warned}", page.display());
        assert!(shown.stdout.len() > 200, "{}", page.display());
        pages += 1;
    }
    assert!(pages > 30, "{pages}");
}
