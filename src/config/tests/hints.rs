//! What a message proposes: the place of a key that belongs elsewhere, TOML to paste, commands, and
//! no secret.

use super::*;

#[track_caller]
fn only(text: &str, wanted: &str) {
    assert_eq!(faults(text), [wanted], "{text}");
}

#[test]
fn a_key_of_another_section_is_told_where_it_belongs() {
    let with = |more: &str| format!("{SMALL}{more}\n");
    let cases = [
        ("proxy_protocol_from = []", "routes[0].proxy_protocol_from", "is a key of `listen`"),
        ("state_file = \"x\"", "routes[0].state_file", "is a key of `table`"),
        ("[log]\nidle = \"3s\"", "log.idle", "is a key of `timeouts`"),
        ("[routes.timeouts]\n", "routes[0].timeouts", "is a section of its own, [timeouts]"),
        ("[routes.policies]\n", "routes[0].policies", "is a section of its own, [[policies]]"),
        (
            "environment = \"live\"",
            "routes[0].environment",
            "is a key of the top of the file, before the first [section]",
        ),
        ("[drain]\nadress = \"x\"", "drain.adress", "hint: `address` is a key of `"),
    ];
    for (more, key, hint) in cases {
        let found = faults(&with(more));
        let [fault] = &found[..] else { panic!("{more}: {found:?}") };
        assert!(fault.contains(key) && fault.contains(hint), "{fault}");
    }
    let found = faults(&with("[nonsense]\nx = 1"));
    assert!(found[0].contains("nonsense: unknown key\nhint: keys here: admin, "), "{found:?}");
}

#[test]
fn one_table_and_lists_of_tables() {
    only(
        &format!("{SMALL}[[observe]]\n"),
        "15:3: observe: is one table, got a list\nhint: write [observe], not [[observe]]",
    );
    let twice = faults(&format!("{SMALL}[policies]\nname = \"a\"\n[policies]\nname = \"b\"\n"));
    let first = "17:2: policies: duplicate key, first on line 15\n\
                 hint: write [[policies]] for each, also for the first";
    assert_eq!(twice[0], first, "{twice:?}");
    let named = faults(&format!("{SMALL}[policies.search]\nlimit = \"1/s\"\n"));
    let hint = "policies.search: unknown key\nhint: write [[policies]] for each; keys there: ";
    assert!(named.iter().any(|fault| fault.contains(hint)), "{named:?}");
}

/// Every fault has a key and a remedy.
#[test]
fn values_of_another_type_and_lines_that_are_not_toml() {
    for (more, want) in [
        ("[table]\n", "15:2: table: duplicate key, first on line "),
        ("[table]\n", "\nhint: put the keys of both below one [table]"),
        (
            "[log]\nlevel = \"info\"\nlevel = \"warn\"",
            "17:1: log.level: duplicate key, first on line 16",
        ),
        ("[log", "log: unclosed table, expected `]`\nhint: write [log] on a line of its own"),
        ("[log]\nlevel = info", "log.level: "),
        ("[log]\nlevel = info", "\nhint: a line is KEY = VALUE: strings are in quotes"),
        ("[log]\nlevel = \"warning\"", "\nhint: did you mean `warn`?"),
        (
            "[observe]\nenforce = 10",
            "observe.enforce: must be a string, got an integer\nhint: write it in quotes, as enforce = \"10%\"",
        ),
        (
            "[timeouts]\nidle = 30",
            "timeouts.idle: must be a string, got an integer\nhint: write it in quotes, as idle = \"30s\"",
        ),
        (
            "permissions = \"read\"",
            "routes[0].permissions: must be a list of strings, got a string\nhint: write it in brackets, as [\"…\", \"…\"]",
        ),
        (
            "[log]\naccess = \"yes\"",
            "log.access: must be true or false, got a string\nhint: write true or false",
        ),
        ("[[cors]\n", "cors: "),
        ("[[cors]\n", "\nhint: write [[cors]] on a line of its own"),
        ("[log]\nlevel = [\"info\"]", "got an array\nhint: write one value, in quotes"),
        ("log = 1", "\nhint: write [log]"),
    ] {
        let text = match more.starts_with("log =") {
            true => format!("{more}\n{SMALL}"),
            false => format!("{SMALL}{more}\n"),
        };
        let found = faults(&text);
        assert!(found.iter().any(|fault| fault.contains(want)), "{more}: {found:?}");
    }
}

/// The header that a hint proposes is TOML, and names the section of the same element.
#[test]
fn headers_in_hints_fit_lists() {
    let without = SMALL.replace("[[routes]]\npath = \"/*\"\n", "");
    let listen = |more: &str| SMALL.replace("[listen]\n", &format!("[[listen]]\n{more}"));
    let twice = "address = \"127.0.0.1:1\"\n[listen.tls]\ncertificate = \"tls.crt\"\n[[listen]]\n\
                 address = \"127.0.0.1:2\"\n[listen.tls]\n[listen.tls]\n[[listen]]\n";
    for (text, want) in [
        (format!("routes = [\"x\"]\n{without}"), "\nhint: write [[routes]] on a line of its own"),
        (format!("routes = 1\n{without}"), "\nhint: write [[routes]] on a line of its own"),
        (listen("tls = true\n"), "\nhint: write [listen.tls] on a line of its own"),
        (listen(twice), "9:9: listen.tls: duplicate key, first on line 8"),
        (
            format!("{SMALL}[[routes]]\npath = \"/b\"\nmethods = [[\"GET\"]]\n"),
            "got an array\nhint: write one value, in quotes",
        ),
    ] {
        let found = faults(&text);
        assert!(found.iter().any(|fault| fault.contains(want)), "{text}: {found:?}");
    }
}

/// At the top of a file that lacks the section, each is accepted.
#[test]
fn toml_of_a_hint_can_be_pasted() {
    let sections = ["listen", "upstream", "credentials", "routes"];
    let starts = ["[listen]", "[upstream]", "[[credentials]]", "[[routes]]"];
    for (section, start) in sections.into_iter().zip(starts) {
        let (before, after) = SMALL.split_once(start).unwrap();
        let after = after.find("\n[").map_or("", |at| &after[at..]);
        let without = format!("{before}{after}");
        let found = faults(&without);
        let hint = found.iter().find_map(|fault| fault.split_once("at the top of the file: "));
        let (_, toml) = hint.unwrap_or_else(|| panic!("{section}: {found:?}"));
        let toml = toml.split(", which").next().unwrap();
        assert_eq!(faults(&format!("{toml}\n{without}")), [] as [&str; 0], "{toml}");
    }
}

#[test]
fn secrets_are_named_by_their_file_if_it_is_there() {
    let mut machine = machine();
    let file = |name: &str| PathBuf::from(format!("/etc/keygate/{name}"));
    machine.files.insert(file("empty"), b" \n".to_vec());
    machine.files.insert(file("bare"), b"0a1b2c3d4e5f".to_vec());
    machine.files.insert(file("open file"), b"0123456789abcdef0123456789abcdef".to_vec());
    machine.access.insert(file("open file"), FileAccess::TooMany(0o644));
    let read = |kind: &str, name: &str| {
        let text = format!("{SMALL}[upstream.credential]\nsecret_file = \"{name}\"\n{kind}\n");
        match Config::parse(&machine, Path::new("/etc/keygate/keygate.toml"), &text) {
            Ok(config) => config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            Err(ConfigError::Invalid { faults, .. }) => {
                faults.iter().map(ToString::to_string).collect()
            }
            Err(other) => panic!("{other}"),
        }
        .join("\n")
    };
    let hs256 = "kind = \"jwt\"\nalgorithm = \"HS256\"\nclaims = '{\"exp\":\"$exp\"}'";
    let fixed = "kind = \"fixed\"";
    let said = read(hs256, "open file");
    assert!(said.contains("others than its owner may use '/etc/keygate/open file'"), "{said}");
    assert!(said.contains("hint: `chmod 600 '/etc/keygate/open file'`"), "{said}");
    let said = read(hs256, "empty");
    assert!(said.contains("/etc/keygate/empty is empty\nhint: `(umask 077; cat >"), "{said}");
    // It could be the secret itself.
    let said = read(hs256, "hunter2hunter2hunter2");
    assert!(said.contains("the file cannot be read") && !said.contains("hunter2"), "{said}");
    // The service has the secret already.
    assert!(said.contains("`(umask 077; cat > FILE)`"), "{said}");
    let said = read(fixed, "bare");
    assert!(said.contains("/etc/keygate/bare: the value has no scheme"), "{said}");
    assert!(!said.contains("0a1b2c"), "{said}");
    assert!(!read(&format!("{fixed}\nfield = \"x-api-key-2\""), "bare").contains("scheme"));
}

/// A public key is not a shared secret.
#[test]
fn no_algorithm_is_proposed_in_the_place_of_another_kind() {
    let read = |word: &str| {
        let text = format!(
            "{SMALL}[upstream.credential]\nkind = \"jwt\"\nalgorithm = \"{word}\"\n\
             secret_file = \"token\"\nclaims = '{{\"exp\":\"$exp\"}}'\n"
        );
        faults(&text).join("\n")
    };
    for word in ["RS256", "rs256", "ES384", "PS512"] {
        let said = read(word);
        assert!(!said.contains("did you mean") && said.contains("let the service take"), "{said}");
    }
    assert!(read("hs256").contains("did you mean `HS256`?"));
    assert!(read("eddsa").contains("did you mean `EdDSA`?"));
}
