//! APISIX consumers in every form.

use super::super::ImportFormat;
use super::super::tests::{read, secret};

const KEY: &str = "key-auth: {key: jack-key-0123456789}";

fn jack(plugins: &str) -> String {
    format!("consumers:\n- username: jack\n  plugins:\n    {KEY}\n    {plugins}\n")
}

#[test]
fn plugins_are_carried_told_or_stop() {
    // Plugins of the consumer, the key, and the name of what stops the import.
    let cases = [
        ("ip-restriction: {whitelist: [10.0.0.0/8]}", "jack 10.0.0.0/8 - -", ""),
        ("ip-restriction: {whitelist: [10.0.0.0/8], _meta: {disable: true}}", "jack - - -", ""),
        ("limit-count: {count: 5, time_window: 30, key: consumer_name}", "jack - 5/30s -", ""),
        ("limit-count: {count: 5, time_window: 60}", "jack - 5/min -", ""),
        ("limit-req: {rate: 10, burst: 4}", "jack - 10/s burst 5 -", ""),
        ("limit-req: {rate: 0.5, burst: 4}", "jack - 1/2s -", ""),
        ("limit-req: {rate: 1.5, burst: 4}", "jack - - -", "limit-req:jack"),
        ("limit-conn: {conn: 1}", "jack - - -", "limit-conn:jack"),
        ("limit-count: {count: $x}", "jack - - -", "limit-count:jack"),
        (
            "limit-count: {count: 5, time_window: 60, group: all}",
            "jack - 5/min -",
            "limit-count:jack",
        ),
        (
            "ip-restriction: {whitelist: [10.0.0.0/8], _meta: {filter: []}}",
            "jack - - -",
            "ip-restriction:jack",
        ),
        ("consumer-restriction: {whitelist: [jack]}", "jack - - -", "consumer-restriction:jack"),
        ("proxy-rewrite: {uri: /x}", "jack - - -", ""),
        ("jwt-auth: {key: jack}", "jack - - -", ""),
        ("our-own: {}", "jack - - -", "our-own:jack"),
        ("ip-restriction: {whitelist: 10.0.0.0/8}", "jack - - -", "ip-restriction:jack"),
        ("ip-restriction: {blacklist: 10.0.0.0/8}", "jack - - -", "ip-restriction:jack"),
        ("ip-restriction: {whitelist: {a: b}}", "jack - - -", "ip-restriction:jack"),
        ("ip-restriction: {whitelist: []}", "jack - - -", "ip-restriction:jack"),
        ("ip-restriction: null", "jack - - -", "ip-restriction:jack"),
        ("ip-restriction: x", "jack - - -", "ip-restriction:jack"),
        ("limit-count: {count: 5, time_window: 60, rules: [{}]}", "jack - - -", "limit-count:jack"),
        ("limit-count: {count: \"5\", time_window: 60}", "jack - - -", "limit-count:jack"),
        ("limit-req: {rate: \"1\"}", "jack - - -", "limit-req:jack"),
        (
            "limit-count: {count: 5, time_window: 60, group: 7}",
            "jack - 5/min -",
            "limit-count:jack",
        ),
    ];
    for (plugins, key, wider) in cases {
        let read = read(ImportFormat::Apisix, &jack(plugins));
        assert_eq!(read.keys(), [key], "{plugins}");
        assert_eq!(read.wider.join(" "), wider, "{plugins}");
    }
    let nowhere = jack("ip-restriction: {whitelist: [10.0.0.1], blacklist: [10.0.0.0/8]}");
    assert!(read(ImportFormat::Apisix, &nowhere).keys.is_empty());
}

#[test]
fn groups_credentials_and_rules_for_all() {
    let member = jack("").replace("- username: jack\n", "- username: jack\n  group_id: g1\n");
    let group =
        "consumer_groups:\n- id: g1\n  plugins: {ip-restriction: {whitelist: [10.0.0.0/8]}}\n";
    let apart = "consumers:\n- username: jack\n- id: jack/credentials/one\n  plugins: {key-auth: {key: jack-key-0123456789}}\n";
    let adc = "consumers:\n- username: jack\n  credentials:\n  - {name: one, type: key-auth, config: {key: jack-key-0123456789}}\n  - {name: two, type: jwt-auth, config: {key: x}}\n";
    let nested = "consumer_groups:\n- name: g\n  plugins: {limit-count: {count: 5, time_window: 60}}\n  consumers:\n  - username: jack\n    plugins: {key-auth: {key: jack-key-0123456789}}\n";
    let off = "consumers:\n- username: jack\n  plugins: {key-auth: {key: jack-key-0123456789, _meta: {disable: true}}}\n";
    let admin = r#"{"list":[{"key":"/apisix/consumers/jack","value":{"username":"jack"}},
        {"key":"/apisix/consumers/jack/credentials/1","value":{"plugins":{"key-auth":{"key":"jack-key-0123456789"}}}}]}"#;
    let one = r#"{"key":"/apisix/consumers/jack","value":{"username":"jack","plugins":{"key-auth":{"key":"jack-key-0123456789"}}}}"#;
    let jack_at = |rest: &str| jack("") + rest;
    let cases: [(&str, String, &[&str], &str); 14] = [
        ("a group", member.clone() + group, &["jack 10.0.0.0/8 - -"], ""),
        ("a group that is not there", member, &["jack - - -"], "group_id:jack"),
        ("a credential apart", apart.to_owned(), &["jack - - -"], ""),
        ("adc", adc.to_owned(), &["jack - - -"], ""),
        ("adc, in its group", nested.to_owned(), &["jack - 5/min -"], ""),
        ("switched off", off.to_owned(), &[], ""),
        ("the admin api", admin.to_owned(), &["jack - - -"], ""),
        ("the admin api, one", one.to_owned(), &["jack - - -"], ""),
        (
            "a global rule",
            jack_at("global_rules: [{id: 1, plugins: {ip-restriction: {whitelist: [10.0.0.1]}}}]"),
            &["jack - - -"],
            "ip-restriction",
        ),
        (
            "a global rule of adc",
            jack_at("global_rules: {uri-blocker: {block_rules: [x]}}"),
            &["jack - - -"],
            "uri-blocker",
        ),
        (
            "a route with keys",
            jack_at("routes: [{id: r, plugins: {key-auth: {}, consumer-restriction: {}}}]"),
            &["jack - - -"],
            "consumer-restriction:route/r",
        ),
        (
            "a route without",
            jack_at("routes: [{id: r, plugins: {key-auth: {}}}, {id: s, plugins: {jwt-auth: {}}}]"),
            &["jack - - -"],
            "",
        ),
        (
            "a route with keys among other ways",
            jack_at(
                "routes: [{id: r, plugins: {multi-auth: {auth_plugins: [{key-auth: {}}, {jwt-auth: {}}], _meta: {disable: false}}, ip-restriction: {whitelist: [10.0.0.1]}}}, {id: s, plugins: {key-auth: {}}}]",
            ),
            &["jack - - -"],
            "multi-auth:route/r ip-restriction:route/r",
        ),
        (
            "a second way in",
            jack_at("routes: [{id: r, plugins: {key-auth: {}, jwt-auth: {}}}]"),
            &["jack - - -"],
            "jwt-auth:route/r",
        ),
    ];
    for (name, text, keys, wider) in cases {
        let read = read(ImportFormat::Apisix, &text);
        assert_eq!(read.keys(), keys, "{name}: {:?} {:?}", read.lost, read.faults);
        assert_eq!(read.wider.join(" "), wider, "{name}");
        assert!(read.keys.iter().all(|k| secret(k) == b"jack-key-0123456789"), "{name}");
    }
    let two = jack("limit-count: {count: 5, time_window: 60}")
        + "  credentials: [{plugins: {key-auth: {key: second-key-0123456789}}}]\n";
    assert_eq!(
        read(ImportFormat::Apisix, &two).wider,
        ["limit-count:jack", "limit-count:jack"][..1]
    );
    let alone =
        "consumers:\n- id: jo/credentials/x\n  plugins: {key-auth: {key: jo-key-0123456789}}\n";
    let alone = read(ImportFormat::Apisix, alone);
    assert_eq!((alone.keys.len(), alone.faults.len()), (0, 1), "{:?}", alone.faults);
}

#[test]
fn a_file_of_another_shape_stops() {
    let cases = [
        (
            jack("").replace("- username: jack\n", "- username: jack\n  group_id: [g1]\n"),
            "group_id:jack",
        ),
        (jack("") + "routes: {id: r}\n", "routes"),
        (jack("") + "services: s\n", "services"),
        (
            jack("") + "global_rules: [{id: 1, plugins: [ip-restriction]}]\n",
            "plugins:global_rules[0]",
        ),
        (
            jack("") + "routes: [{id: r, remote_addrs: [10.0.0.0/8], plugins: {key-auth: {}}}]\n",
            "remote_addrs:route/r",
        ),
        (
            jack("") + "routes: [{id: r, vars: [[http_x, ==, 1]], plugins: {key-auth: {}}}]\n",
            "vars:route/r",
        ),
    ];
    for (text, wider) in cases {
        assert_eq!(read(ImportFormat::Apisix, &text).wider.join(" "), wider, "{text}");
    }
}
