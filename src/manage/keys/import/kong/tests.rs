//! Kong's configuration in every form that people and its own programs write.

use super::super::ImportFormat;
use super::super::tests::{read, secret};

/// The result for one file: keys as `client networks limit permissions`, and the names under which
/// restrictions are reported.
fn check(name: &str, text: &str, keys: &[&str], wider: &[&str]) {
    let read = read(ImportFormat::Kong, text);
    let told = format!("{name}: {:?} {:?}", read.lost, read.faults);
    assert_eq!(read.keys(), keys, "{told}");
    assert_eq!(read.wider, wider, "{told}");
}

const ERP: &str = "consumers:\n- username: erp\n  id: c1\n  custom_id: x9\n  keyauth_credentials:\n  - key: erp-key-0123456789abc\n";

fn erp(rest: &str) -> String {
    format!("{ERP}{rest}\n")
}

#[test]
fn restrictions_are_carried_from_wherever_they_stand() {
    let ip = "config: {allow: [203.0.113.0/24]}";
    let all = "erp 203.0.113.0/24 - -";
    let cases = [
        ("by name", format!("plugins: [{{name: ip-restriction, consumer: erp, {ip}}}]"), all),
        ("by id", format!("plugins: [{{name: ip-restriction, consumer: c1, {ip}}}]"), all),
        ("by custom id", format!("plugins: [{{name: ip-restriction, consumer: x9, {ip}}}]"), all),
        ("{id}", format!("plugins: [{{name: ip-restriction, consumer: {{id: c1}}, {ip}}}]"), all),
        (
            "{username}",
            format!("plugins: [{{name: ip-restriction, consumer: {{username: erp}}, {ip}}}]"),
            all,
        ),
        ("for all", format!("plugins: [{{name: ip-restriction, {ip}}}]"), all),
        (
            "of another",
            format!("plugins: [{{name: ip-restriction, consumer: other, {ip}}}]"),
            "erp - - -",
        ),
        (
            "switched off",
            format!("plugins: [{{name: ip-restriction, consumer: erp, enabled: false, {ip}}}]"),
            "erp - - -",
        ),
        (
            "the old words",
            "plugins: [{name: ip-restriction, consumer: erp, config: {whitelist: [203.0.113.0/24]}}]"
                .to_owned(),
            all,
        ),
        (
            "denied as well",
            "plugins: [{name: ip-restriction, consumer: erp, config: {allow: [203.0.113.0/30], deny: [203.0.113.0/31]}}]".to_owned(),
            "erp 203.0.113.2/31 - -",
        ),
        (
            "by a group, members by name",
            format!(
                "consumer_groups: [{{name: gold, consumers: [erp], plugins: [{{name: ip-restriction, {ip}}}]}}]"
            ),
            all,
        ),
        (
            "by a group, flat",
            format!(
                "consumer_groups: [{{name: gold, id: g1}}]\nconsumer_group_consumers: [{{consumer: c1, consumer_group: gold}}]\nplugins: [{{name: ip-restriction, consumer_group: g1, {ip}}}]"
            ),
            all,
        ),
        (
            "its own before that of all",
            format!(
                "plugins: [{{name: ip-restriction, config: {{allow: [10.0.0.0/8]}}}}, {{name: ip-restriction, consumer: erp, {ip}}}]"
            ),
            all,
        ),
        (
            "settings of decK",
            "_plugin_configs: {office: {allow: [203.0.113.0/24]}}\nplugins: [{name: ip-restriction, consumer: erp, _config: office}]".to_owned(),
            all,
        ),
        ("acls", "acls: [{consumer: erp, group: read}, {consumer: {id: c1}, group: send}]".to_owned(), "erp - - read,send"),
        (
            "a limit",
            "plugins: [{name: rate-limiting, consumer: erp, config: {minute: 2, hour: null}}]".to_owned(),
            "erp - 2/min -",
        ),
        (
            "several windows",
            "plugins: [{name: rate-limiting, consumer: erp, config: {second: 5, hour: 1000}}]".to_owned(),
            "erp - 1000/h burst 5 -",
        ),
        (
            "the advanced limit",
            "plugins: [{name: rate-limiting-advanced, consumer: erp, config: {limit: [5], window_size: [30], identifier: consumer}}]".to_owned(),
            "erp - 5/30s -",
        ),
        (
            "by address, of one consumer",
            "plugins: [{name: rate-limiting, consumer: erp, config: {minute: 2, limit_by: ip}}]".to_owned(),
            "erp - 2/min -",
        ),
    ];
    for (name, rest, want) in cases {
        check(name, &erp(&rest), &[want], &[]);
    }
    let decked = "consumers:\n- username: erp\n  groups: [{name: gold}]\n  keyauth_credentials: [{key: erp-key-0123456789abc}]\nconsumer_groups:\n- name: gold\n  plugins: [{name: rate-limiting-advanced, config: {limit: [7], window_size: [60]}}]\n_info: {defaults: {}, select_tags: [a]}\n";
    check("as decK writes groups", decked, &["erp - 7/min -"], &[]);
}

#[test]
fn what_a_key_cannot_say_stops() {
    let cases = [
        ("an unknown plugin", "plugins: [{name: our-own, consumer: erp}]", "our-own:erp"),
        ("bots", "plugins: [{name: bot-detection}]", "bot-detection"),
        ("a question", "plugins: [{name: request-callout, consumer: erp}]", "request-callout:erp"),
        (
            "sizes",
            "plugins: [{name: request-size-limiting, consumer: erp}]",
            "request-size-limiting:erp",
        ),
        (
            "of a group",
            "consumer_groups: [{name: gold, consumers: [erp], plugins: [{name: opa}]}]",
            "opa:group/gold",
        ),
        (
            "a second way in",
            "services: [{name: s, plugins: [{name: key-auth}, {name: jwt}]}]",
            "jwt:service/s",
        ),
        (
            "one service",
            "services: [{name: s, id: s1}]\nplugins: [{name: ip-restriction, service: s1, config: {allow: [10.0.0.0/8]}}]",
            "ip-restriction:service/s",
        ),
        (
            "one route",
            "services: [{name: s, routes: [{name: r, plugins: [{name: request-termination}]}]}]",
            "request-termination:route/r",
        ),
        (
            "one consumer at one service",
            "plugins: [{name: rate-limiting, service: s, consumer: erp, config: {minute: 2}}]",
            "rate-limiting:erp",
        ),
        (
            "denied group",
            "acls: [{consumer: erp, group: bad}]\nservices: [{name: s, plugins: [{name: acl, config: {deny: [bad]}}]}]",
            "acl:erp",
        ),
        (
            "an unreadable network",
            "plugins: [{name: ip-restriction, consumer: erp, config: {allow: [\"${OFFICE}\"]}}]",
            "ip-restriction:erp",
        ),
        (
            "an acl of one consumer",
            "plugins: [{name: acl, consumer: erp, config: {allow: [x]}}]",
            "acl:erp",
        ),
        (
            "settings elsewhere",
            "plugins: [{name: ip-restriction, consumer: erp, _config: gone}]",
            "ip-restriction:erp",
        ),
        (
            "counted for all",
            "plugins: [{name: rate-limiting, config: {minute: 2, limit_by: service}}]",
            "rate-limiting:erp",
        ),
        (
            "no limit in it",
            "plugins: [{name: rate-limiting, consumer: erp, config: {}}]",
            "rate-limiting:erp",
        ),
        (
            "a rare limit",
            "plugins: [{name: rate-limiting, consumer: erp, config: {year: 2}}]",
            "rate-limiting:erp",
        ),
        (
            "shared by two keys",
            "keyauth_credentials: [{key: second-key-0123456789, consumer: erp}]\nplugins: [{name: rate-limiting, consumer: erp, config: {minute: 2}}]",
            "rate-limiting:erp",
        ),
    ];
    for (name, rest, want) in cases {
        assert_eq!(read(ImportFormat::Kong, &erp(rest)).wider, [want], "{name}");
    }
}

#[test]
fn what_restricts_no_key_is_told_and_passes() {
    let cases = [
        ("cors", "plugins: [{name: cors, consumer: erp}]", 1),
        ("the guard itself", "plugins: [{name: key-auth, config: {key_names: [apikey]}}]", 0),
        (
            "a service without keys",
            "services: [{name: a, plugins: [{name: key-auth}]}, {name: b, plugins: [{name: jwt}]}]",
            1,
        ),
        (
            "other credentials",
            "basicauth_credentials: [{consumer: erp, username: a, password: b}]",
            1,
        ),
        ("upstreams", "upstreams: [{name: u}]\ncertificates: [{cert: x}]", 2),
        ("a group without plugins", "consumer_groups: [{name: gold, consumers: [erp]}]", 1),
        (
            "an allowed group",
            "acls: [{consumer: erp, group: read}]\nplugins: [{name: acl, config: {allow: [read]}}]",
            1,
        ),
    ];
    for (name, rest, lost) in cases {
        let read = read(ImportFormat::Kong, &erp(rest));
        assert_eq!((read.keys.len(), read.lost.len()), (1, lost), "{name}: {:?}", read.lost);
        assert!(read.wider.is_empty() && read.faults.is_empty(), "{name}: {:?}", read.wider);
    }
}

#[test]
fn whom_kong_refuses_gets_no_key() {
    let cases = [
        (
            "terminated",
            "plugins: [{name: request-termination, consumer: erp, config: {status_code: 403}}]",
        ),
        ("terminated for all", "plugins: [{name: request-termination}]"),
        ("in no allowed group", "plugins: [{name: acl, config: {allow: [read]}}]"),
        (
            "in a denied group",
            "acls: [{consumer: erp, group: bad}]\nplugins: [{name: acl, config: {deny: [bad]}}]",
        ),
        (
            "from nowhere",
            "plugins: [{name: ip-restriction, consumer: erp, config: {allow: [10.0.0.1], deny: [10.0.0.0/8]}}]",
        ),
    ];
    for (name, rest) in cases {
        let read = read(ImportFormat::Kong, &erp(rest));
        assert!(read.keys.is_empty() && read.wider.is_empty(), "{name}: {:?}", read.wider);
        assert!(read.lost.iter().any(|l| l.contains("consumers[0]: ")), "{name}: {:?}", read.lost);
    }
    let grouped = erp("services: [{name: s, plugins: [{name: acl, config: {allow: [read]}}]}]");
    assert!(read(ImportFormat::Kong, &grouped).keys[0].grouped, "no default permission for it");
    let star = erp("acls: [{consumer: erp, group: '*'}]");
    assert_eq!(read(ImportFormat::Kong, &star).faults.len(), 1, "not every permission");
}

#[test]
fn keys_of_every_form_with_their_lines() {
    let text = r#"
_format_version: "3.0"
consumers:
  - username: alice
    tags: [gold]
    acls: [{ group: read }, { group: send }]
    keyauth_credentials:
      - key: alice-key-0123456789
        created_at: 1795230000
        ttl: 3600
      - key: 12345
      - key: 7e1234567890123456
  - custom_id: "42"
    keyauth_credentials:
      - key: "{vault://env/bob}"
      - key: ${{ env "DECK_BOB" }}
      - id: k1
      - { key: ttl-key-0123456789, ttl: 60 }
  - id: 0b1f8e6c
    username: null
keyauth_credentials:
  - key: carol-key-0123456789
    consumer: 0b1f8e6c
    id: 4c
    tags: null
    ttl: null
  - key: stranger-key-0123456789
    consumer: nobody
"#;
    let read = read(ImportFormat::Kong, text);
    let keys: Vec<_> =
        read.keys.iter().map(|k| (k.client.as_str(), secret(k).len(), k.line)).collect();
    assert_eq!(keys, [("alice", 20, 8), ("42", 17, 15), ("42", 21, 16), ("0b1f8e6c", 20, 22)]);
    assert_eq!(read.keys[0].raw.permissions, ["read", "send"]);
    assert_eq!(read.keys[0].raw.expires.as_ref().unwrap().0, "2026-11-21T04:00:00Z");
    let faults = [
        "f:11: consumers[0].keyauth_credentials[1]: the key is a number in this YAML",
        "f:12: consumers[0].keyauth_credentials[2]: the key is a number in this YAML",
        "f:17: consumers[1].keyauth_credentials[2]: the key is missing",
        "f:18: consumers[1].keyauth_credentials[3]: `ttl` counts from `created_at`",
        "f:27: keyauth_credentials[1]: its consumer is not in this file",
    ];
    for want in faults {
        assert!(read.faults.iter().any(|f| f.starts_with(want)), "{want}: {:?}", read.faults);
    }
    assert_eq!(read.faults.len(), faults.len(), "{:?}", read.faults);
}

#[test]
fn a_restriction_of_another_shape_stops() {
    let key = |fields: &str| {
        format!(
            "consumers:\n- username: erp\n  keyauth_credentials:\n  - {{key: erp-key-0123456789abc, created_at: 1600000000, {fields}}}\n"
        )
    };
    for ttl in
        ["\"${{ env \\\"TTL\\\" }}\"", "3600.5", "-5", "[1]", "{a: 1}", "soon", "true", "\"\""]
    {
        let read = read(ImportFormat::Kong, &key(&format!("ttl: {ttl}")));
        assert!(read.keys.is_empty(), "{ttl}");
        assert!(read.faults[0].contains("`ttl` is no whole number"), "{ttl}: {:?}", read.faults);
    }
    for (ttl, want) in [
        ("\"3600\"", Some(1_600_003_600)),
        ("3600", Some(1_600_003_600)),
        ("0", None),
        ("null", None),
    ] {
        let read = read(ImportFormat::Kong, &key(&format!("ttl: {ttl}")));
        let want = want.map(crate::manage::registry::entry::RawTime::of);
        assert_eq!(read.keys[0].raw.expires, want, "{ttl}");
    }
    for created in ["1600000000000", "18446744073709551615"] {
        let text = key("ttl: 3600").replace("1600000000", created);
        let read = read(ImportFormat::Kong, &text);
        for key in read.keys {
            assert!(key.raw.parse().is_err(), "{created}: a time that no key can hold");
        }
    }
    let plugin = |config: &str| erp(&format!("plugins: [{{name: ip-restriction, {config}}}]"));
    let shapes =
        ["10.0.0.0/8", "\"${{ env \\\"X\\\" }}\"", "{a: b}", "[null]", "[7]", "7", "[]", "null"];
    for shape in shapes {
        for list in ["allow", "deny", "whitelist", "blacklist"] {
            let text = plugin(&format!("config: {{{list}: {shape}}}"));
            check(&text, &text, &["erp - - -"], &["ip-restriction:erp"]);
        }
    }
    for config in ["tags: [a]", "config: x", "config: []", "config: null", "_config: [x]"] {
        let read = read(ImportFormat::Kong, &plugin(config));
        assert_eq!(read.wider.len(), 1, "{config}: {:?}", read.wider);
    }
    let limits = [
        "minute: \"60\"",
        "minute: [60], hour: 5",
        "minute: x",
        "minute: -1, hour: 10",
        "minute: 1.5",
    ];
    for limit in limits {
        let text = erp(&format!("plugins: [{{name: rate-limiting, config: {{{limit}}}}}]"));
        check(&text, &text, &["erp - - -"], &["rate-limiting:erp"]);
    }
    let elsewhere = [
        ("plugins: {name: ip-restriction, config: {allow: [10.0.0.0/8]}}", "plugins"),
        ("plugins: ip-restriction", "plugins"),
        ("plugins: [[{name: ip-restriction}]]", "plugins"),
        ("services: {name: s, plugins: []}", "services"),
        ("acls: gold", "acls"),
        ("acls: [{consumer: erp, group: [a]}]", "groups:acls[0]"),
        (
            "plugins: [{name: ip-restriction, consumer: [erp], config: {allow: [10.0.0.0/8]}}]",
            "ip-restriction",
        ),
        ("plugins: [{name: acl, config: {allow: [gold], deny: banned}}]", "acl"),
    ];
    for (rest, wider) in elsewhere {
        let read = read(ImportFormat::Kong, &erp(rest));
        assert_eq!(read.wider.first().map(String::as_str), Some(wider), "{rest}");
    }
    let member = ERP.replace("  custom_id: x9\n", "  groups: [gold]\n");
    check("a group that is not there", &member, &["erp - - -"], &["consumer_groups:erp"]);
    let member = ERP.replace("  custom_id: x9\n", "  plugins: {ip-restriction: {}}\n");
    check("plugins of a consumer", &member, &["erp - - -"], &["plugins:consumers[0]"]);
}
