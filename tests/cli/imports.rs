//! Existing keys: imported, reported, and accepted as they are.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{Room, holder};

const KONG: &str = r#"
consumers:
  - username: alice
    keyauth_credentials: [{ key: kg_alice-key-0123456789 }]
    plugins: [{ name: cors }]
  - username: bob
    keyauth_credentials: [{ key: short }]
"#;

#[test]
fn an_import_is_all_or_nothing_unless_told_otherwise() {
    let room = Room::with_registry();
    room.write("kong.yaml", KONG);
    let before = room.read("keys.toml");
    let import = ["keys", "import", "kong.yaml", "--format", "kong", "--permission", "read"];
    let told = room.fails(65, &import);
    assert!(told.contains("consumers[1].keyauth_credentials[0]"), "{told}");
    assert!(told.contains("fewer than 16 characters"), "{told}");
    assert!(!told.contains("short\n"), "{told}");
    assert_eq!(room.read("keys.toml"), before);

    let dry = room.run(&[&import[..], &["--dry-run", "--json"]].concat());
    assert_eq!(dry.code, 65);
    let report: serde_json::Value = serde_json::from_str(&dry.stdout).unwrap();
    assert_eq!((&report["imported"], &report["dry_run"]), (&json!(1), &json!(true)));
    assert_eq!(report["refused"].as_array().unwrap().len(), 1);
    assert_eq!(report["not_carried"].as_array().unwrap().len(), 1);
    assert_eq!(room.read("keys.toml"), before);

    let report = room.json(&[&import[..], &["--skip-bad"]].concat());
    assert_eq!((&report["imported"], &report["serial"]), (&json!(1), &json!(1)));
    let text = room.read("keys.toml");
    assert!(!text.contains("alice-key-0123456789"), "hashed on the way");
    // It begins with `kg_` and does not conform: the mark is removed, or the key would be refused
    // without a look-up.
    assert!(text.contains("checksummed = false"), "{text}");
    room.ok(&["table", "build", "-o", "t.kgt", "--signer", "signer.pem"]);
    let keys = room.in_force("t.kgt", None);
    let alice = holder(&keys, "kg_alice-key-0123456789").unwrap();
    assert_eq!((alice.org, alice.name), ("alice", "alice"));

    let again = room.json(&[&import[..], &["--skip-bad"]].concat());
    assert_eq!((&again["imported"], &again["present"]), (&json!(0), &json!(1)), "twice is once");
}

#[test]
fn keys_of_the_documented_products_are_taken_as_they_are() {
    let room = Room::with_registry();
    room.write(
        "old.csv",
        "name,org,secret,public_id,permissions,env\n\
         CRM,acme,98765-zyxwv-43210-utsrq,12345-abcde-67890-fghij,send_message,\n\
         Production Integration,acme,whm_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6,,*,\n\
         Inventory,acme,wsk_live_your_production_key,,archives:read,live\n",
    );
    room.ok(&["keys", "import", "old.csv"]);
    room.ok(&["table", "build", "-o", "t.kgt", "--signer", "signer.pem"]);
    let keys = room.in_force("t.kgt", None);
    assert!(holder(&keys, "whm_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6").is_some());
    assert!(holder(&keys, "wsk_live_your_production_key").is_some());
    let list = room.json(&["keys", "list"]);
    let kinds: BTreeSet<_> =
        list.as_array().unwrap().iter().map(|k| k["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["pair", "single"].into());
}

#[test]
fn the_products_forms_are_issued() {
    let room = Room::new();
    room.ok(&["-r", "wa.toml", "keys", "init", "--audience", "a", "--prefix", "wa"]);
    room.ok(&["-r", "whm.toml", "keys", "init", "--audience", "a", "--prefix", "whm", "--compact"]);
    room.ok(&["-r", "wsk.toml", "keys", "init", "--audience", "a", "--prefix", "wsk"]);
    room.ok(&["-r", "link.toml", "keys", "init", "--audience", "a", "--dashed"]);
    let create = |registry: &str, extra: &[&str]| {
        let create = ["-r", registry, "keys", "create", "--org", "acme"];
        room.json(&[&create[..], extra].concat())
    };
    let secret = |value: &serde_json::Value| value["secret"].as_str().unwrap().to_owned();
    assert!(secret(&create("wa.toml", &[])).starts_with("wa_"));
    let whm = secret(&create("whm.toml", &["--env", "live"]));
    assert_eq!((whm.len(), &whm[..4]), (36, "whm_"));
    assert!(secret(&create("wsk.toml", &["--env", "live"])).starts_with("wsk_live_"));
    assert!(secret(&create("wsk.toml", &["--env", "test"])).starts_with("wsk_test_"));
    let link = create("link.toml", &["--pair"]);
    let groups = |text: &str| text.split('-').map(str::len).collect::<Vec<_>>();
    assert_eq!(groups(link["public_id"].as_str().unwrap()), [5; 4]);
    assert_eq!(groups(&secret(&link)), [5; 5]);
}

#[test]
fn exports_carry_every_key_and_no_secret() {
    let room = Room::with_registry();
    let key = room.create(&["--name", "Käse, \"CRM\"", "--permission", "read", "--limit", "5/s"]);
    let pair = room.create(&["--pair", "--env", "test", "--expires", "2030-01-01T00:00:00Z"]);
    // Both of its secrets are valid during the rotation: none may be lost on the way.
    room.ok(&["keys", "rotate", &pair.id, "--overlap", "7d"]);
    let shown = room.json(&["keys", "show", &pair.id]);
    let original = room.json(&["keys", "list"]);
    for format in ["toml", "jsonl", "csv"] {
        let file = format!("keys.{format}.out");
        room.ok(&["keys", "export", "--format", format, "-o", &file]);
        assert!(!room.read(&file).contains(&key.secret), "{format}");
        let plain = room.ok(&["keys", "export", "--format", format, "--no-digests"]);
        assert!(!plain.contains("sha256"), "{format}");
    }
    for format in ["jsonl", "csv"] {
        let copy = format!("{format}.toml");
        room.ok(&["-r", &copy, "keys", "init", "--audience", "shop"]);
        let file = format!("keys.{format}.out");
        room.ok(&["-r", &copy, "keys", "import", &file, "--format", format, "--conforming"]);
        assert_eq!(room.json(&["-r", &copy, "keys", "list"]), original, "{format}");
        assert_eq!(room.json(&["-r", &copy, "keys", "show", &pair.id]), shown, "{format}");
        let table = format!("{format}.kgt");
        room.ok(&["-r", &copy, "table", "build", "-o", &table, "--signer", "signer.pem"]);
        let keys = room.in_force(&table, None);
        assert_eq!(keys.table().counts().keys, 3, "{format}: a pair's two secrets and one key");
    }
}

const RESTRICTED: &str = r#"
consumers:
  - username: erp
    keyauth_credentials: [{ key: erp-key-0123456789abc }]
    plugins: [{ name: bot-detection, config: { deny: [curl] } }]
  - username: shop
    keyauth_credentials: [{ key: shop-key-0123456789abc }]
"#;

#[test]
fn an_import_that_would_admit_more_widely_stops() {
    let room = Room::with_registry();
    room.write("kong.yaml", RESTRICTED);
    let before = room.read("keys.toml");
    let import = ["keys", "import", "kong.yaml", "--format", "kong"];
    let stops = [&[][..], &["--skip-bad"], &["--allow-wider", "bot-detection:shop"]];
    for more in stops {
        let told = room.fails(65, &[&import[..], more].concat());
        assert!(
            told.contains("kong.yaml:5: consumers[0].plugins[0]: plugin `bot-detection`"),
            "{told}"
        );
        assert!(
            told.contains("more widely") && told.contains("--allow-wider bot-detection:erp"),
            "{told}"
        );
        assert_eq!(room.read("keys.toml"), before, "nothing is written");
    }
    let dry = room.run(&[&import[..], &["--dry-run", "--json"]].concat());
    assert_eq!(dry.code, 65);
    let report: serde_json::Value = serde_json::from_str(&dry.stdout).unwrap();
    let wider = &report["wider"][0];
    assert_eq!((&wider["name"], &wider["allowed"]), (&json!("bot-detection:erp"), &json!(false)));
    assert_eq!(room.read("keys.toml"), before);

    let allowed = [&import[..], &["--allow-wider", "bot-detection:erp", "--allow-wider", "acl"]];
    let said = room.ok(&allowed.concat());
    assert!(said.contains("2 keys imported"), "{said}");
    assert!(said.contains("1 restriction lost, as allowed:"), "{said}");
    assert!(said.contains("--allow-wider acl: nothing here has this name"), "{said}");
    assert!(room.read("keys.audit.jsonl").contains(r#""allowed_wider":["bot-detection:erp"]"#));
}

#[test]
fn a_restriction_that_is_carried_restricts_in_the_table() {
    let room = Room::with_registry();
    room.write(
        "kong.yaml",
        "_format_version: \"3.0\"\nconsumers:\n- username: erp\nkeyauth_credentials:\n\
         - consumer: erp\n  key: mobile-api-key-123456\nacls:\n- consumer: erp\n  group: read\nplugins:\n\
         - name: ip-restriction\n  consumer: erp\n  config: {allow: [203.0.113.0/24]}\n\
         - name: rate-limiting\n  consumer: erp\n  config: {minute: 2, policy: local}\n",
    );
    room.ok(&["keys", "import", "kong.yaml", "--format", "kong"]);
    room.ok(&["table", "build", "-o", "t.kgt", "--signer", "signer.pem"]);
    let keys = room.in_force("t.kgt", None);
    let erp = holder(&keys, "mobile-api-key-123456").unwrap();
    assert!(erp.grant.networks.allows("203.0.113.7".parse().unwrap()));
    assert!(!erp.grant.networks.allows("198.51.100.7".parse().unwrap()));
    assert_eq!(erp.grant.limits.per_key().unwrap().to_string(), "2/min");
    assert_eq!(erp.grant.permissions.joined(), "read");
}

#[test]
fn what_stands_where_a_key_belongs_is_refused_by_line() {
    let room = Room::with_registry();
    room.write(
        "keys.csv",
        "name;org;key\r\nbilling;acme;${BILLING_API_KEY}\r\n\r\nportal;acme;<your-api-key-goes-here>\r\n\
         Käse;acme;hR7tYw2kQp9LmX4vZc8N\r\n",
    );
    let told = room.fails(65, &["keys", "import", "keys.csv"]);
    assert!(told.contains("keys.csv:2: the key is a placeholder"), "{told}");
    assert!(told.contains("keys.csv:4: the key is a placeholder"), "{told}");
    assert!(!told.contains("BILLING_API_KEY"), "{told}");
    room.ok(&["keys", "import", "keys.csv", "--skip-bad"]);
    assert_eq!(room.json(&["keys", "list"])[0]["name"], "Käse");
}

/// Imports a file that one restriction stops, and then again with that restriction allowed.
fn stops_until_allowed(room: &Room, file: &str, format: &str, allow: &str) {
    let import = ["keys", "import", file, "--format", format];
    let told = room.fails(65, &[&import[..], &["--skip-bad"]].concat());
    assert!(told.contains("admitted more widely"), "{file}: {told}");
    assert!(!room.read("keys.toml").contains("[[key]]"), "{file}");
    room.ok(&[&import[..], &["--dry-run", "--allow-wider", allow]].concat());
}

#[test]
fn a_restriction_in_another_form_is_never_dropped() {
    let room = Room::with_registry();
    let kong = |plugins: &str| {
        format!(
            "consumers:\n- username: erp\n  keyauth_credentials: [{{key: erpkeyerpkeyerpkey01}}]\n  plugins: {plugins}\n"
        )
    };
    let apisix = |plugin: &str| {
        format!(
            "consumers:\n- username: erp\n  plugins:\n    key-auth: {{key: erpkeyerpkeyerpkey01}}\n    {plugin}\n"
        )
    };
    let csv = |column: &str, value: &str| {
        format!("org,key,{column}\nacme,csvkeycsvkeycsvkey01,{value}\n")
    };
    let nginx = |rest: &str| {
        format!(
            "map $http_x_api_key $client {{ nginxkeynginxkey001 acme; }}\nserver {{ {rest} }}\n"
        )
    };
    let cases = [
        ("kong", kong("[{name: ip-restriction, config: {allow: 10.0.0.0/8}}]"), "ip-restriction"),
        ("kong", kong("[{name: ip-restriction}]"), "ip-restriction"),
        ("kong", kong("[{name: ip-restriction, config: text}]"), "ip-restriction"),
        ("kong", kong("{name: ip-restriction, config: {allow: [10.0.0.0/8]}}"), "plugins"),
        ("apisix", apisix("ip-restriction: {whitelist: 10.0.0.0/8}"), "ip-restriction"),
        ("csv", csv("state", "inactive"), "state"),
        ("csv", csv("rpm", "60"), "rpm"),
        ("csv", csv("tenant", "x"), "tenant"),
        ("nginx-map", nginx("if ($client = acme) { return 403; }"), "if"),
        ("nginx-map", nginx("if ($blocked) { return 403; }"), "if"),
        ("nginx-map", nginx("js_access x.y;"), "js_access"),
    ];
    for (format, text, allow) in cases {
        room.write("old", text);
        stops_until_allowed(&room, "old", format, allow);
    }
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_panic() {
    let room = Room::with_registry();
    let kong = |fields: &str| {
        format!(
            "consumers:\n- username: erp\n  keyauth_credentials: [{{key: erpkeyerpkeyerpkey01, {fields}}}]\n"
        )
    };
    let cases = [
        ("kong", kong("ttl: 3600, created_at: 1600000000000")),
        ("kong", kong("ttl: 1, created_at: 18446744073709551615")),
        ("kong", kong("ttl: 9000000000000000, created_at: 9000000000000000")),
        ("kong", kong("ttl: -5, created_at: 1600000000")),
        (
            "csv",
            "org,key,expires,valid_until\nacme,csvkeycsvkeycsvkey01,2099-01-01,2020-01-01\n".into(),
        ),
        ("csv", "org,key,key\nacme,csvkeycsvkeycsvkey01,csvkeycsvkeycsvkey02\n".into()),
        ("csv", "org,key,sha256\nacme,csvkeycsvkeycsvkey01,".to_owned() + &"0".repeat(64) + "\n"),
        ("csv", "org,key,networks\nacme,csvkeycsvkeycsvkey01\n".into()),
        (
            "jsonl",
            r#"{"org":"acme","key":"csvkeycsvkeycsvkey01","expires":"2020-01-01","expires":null}"#
                .into(),
        ),
        ("nginx-map", "map $http_x_api_key $client {\n nginxkeynginxkey001 acme;\n".into()),
    ];
    for (format, text) in cases {
        room.write("old", &text);
        let told = room.fails(65, &["keys", "import", "old", "--format", format]);
        assert!(!told.contains("csvkey") && !told.contains("erpkey"), "{text}: {told}");
        assert!(!room.read("keys.toml").contains("[[key]]"), "{text}");
    }
    room.write(
        "two.csv",
        format!(
            "id,org,digest,expires,valid_until\nkey_a,acme,sha256:{},2020-01-01,2099-01-01\n",
            "0".repeat(64)
        ),
    );
    let build = ["table", "build", "--from", "two.csv", "--serial", "1", "--audience", "a"];
    let told = room.fails(
        65,
        &[&build[..], &["--on-bad-line", "skip", "--signer", "signer.pem", "-o", "t.kgt"]].concat(),
    );
    assert!(told.contains("the same field of a key"), "{told}");
}

#[test]
fn hints_can_be_typed_whatever_the_names() {
    let room = Room::with_registry();
    let names =
        ["Jane Doe", "$(touch PWNED); x y", "it's", "`id`", "esc\u{1b}[31m\u{202e}", "a\nb"];
    for name in names {
        let quoted = serde_json::to_string(name).unwrap();
        room.write("kong.yaml", format!("consumers:\n- username: {quoted}\n  keyauth_credentials: [{{key: janekeyjanekeyjanekey1}}]\n  plugins: [{{name: bot-detection}}]\n"));
        let told = room.fails(65, &["keys", "import", "kong.yaml", "--format", "kong"]);
        let hint = told.lines().find(|line| line.starts_with("hint: ")).unwrap();
        let (_, flags) = hint.split_once("not wanted:").unwrap();
        let script = format!("exec \"$0\" keys import kong.yaml --format kong --dry-run{flags}");
        let ran = std::process::Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_keygatectl")])
            .current_dir(room.root())
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        // The key itself may be refused because of its name. The flags were understood anyway.
        assert!(
            said.contains("restriction lost, as allowed") && !said.contains("warning: --allow"),
            "{said}"
        );
        for text in [&told, &said] {
            let raw = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
            assert!(!text.contains(raw), "{text:?}");
        }
        assert!(!room.path("PWNED").exists(), "{name}");
    }
    room.ok(&["-r", "my keys.toml", "keys", "init", "--audience", "shop"]);
    let ran = room.run(&["-r", "my keys.toml", "keys", "create", "--org", "acme"]);
    assert!(ran.stderr.contains("keygatectl -r 'my keys.toml' table build"), "{}", ran.stderr);
}

#[test]
fn every_lost_restriction_is_in_the_hint() {
    let room = Room::with_registry();
    let consumers: String = (0..40)
        .map(|n| format!("- username: c{n}\n  keyauth_credentials: [{{key: keykeykeykeykeykey{n:02}}}]\n  plugins: [{{name: bot-detection}}]\n"))
        .collect();
    room.write("kong.yaml", format!("consumers:\n{consumers}"));
    let import = ["keys", "import", "kong.yaml", "--format", "kong"];
    let told = room.fails(65, &import);
    assert!(told.ends_with("not wanted: --allow-wider bot-detection\n"), "{told}");
    room.ok(&[&import[..], &["--allow-wider", "bot-detection"]].concat());
}
