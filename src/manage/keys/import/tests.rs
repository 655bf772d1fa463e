//! Each importer on a file as its program writes it.

use std::path::Path;

use super::collect::{Candidate, Defaults, UnknownSecrets, unmarks};
use super::*;
use crate::core::Digest;
use crate::core::format::KeyFormat;
use crate::manage::registry::settings::RegistrySettings;

/// What one file yields.
#[derive(Default)]
pub(super) struct Read {
    pub(super) keys: Vec<Candidate>,
    pub(super) lost: Vec<String>,
    pub(super) faults: Vec<String>,
    /// By the names that allow them.
    pub(super) wider: Vec<String>,
}

pub(super) fn read(format: ImportFormat, text: &str) -> Read {
    read_keys_in(format, text.as_bytes(), &[])
}

pub(super) fn read_keys_in(format: ImportFormat, mut text: &[u8], keys_in: &[String]) -> Read {
    let mut read = Read::default();
    let done = format.read(&mut text, Path::new("f"), keys_in, &mut |found| {
        match found {
            ImportItem::Wider(wider) => read.wider.push(wider.name()),
            ImportItem::Fault(fault) => read.faults.push(fault.to_string()),
            ImportItem::Key(key) => read.keys.push(*key),
            ImportItem::Lost(fault) => read.lost.push(fault.to_string()),
        }
        Ok(())
    });
    if let Err(e) = done {
        read.faults.push(e.to_string());
    }
    read
}

fn settings() -> RegistrySettings {
    RegistrySettings {
        serial: 0,
        audience: None,
        prefixes: [("wa".to_owned(), KeyFormat::standard("wa_"))].into(),
        shown: [].into(),
        default_prefix: None,
        publish: Default::default(),
        plans: std::collections::BTreeMap::new(),
        orgs: std::collections::BTreeMap::new(),
        published: Vec::new(),
    }
}

fn defaults() -> Defaults<'static> {
    Defaults {
        org: None,
        permissions: &[],
        networks: &[],
        limit: None,
        environment: None,
        expires: None,
        now: 1_795_230_000,
        accept_short: false,
    }
}

pub(super) fn secret(candidate: &Candidate) -> &[u8] {
    candidate.secret.as_ref().map_or(&[], |secret| secret.expose())
}

impl Read {
    /// `client networks limit permissions` of every key.
    pub(super) fn keys(&self) -> Vec<String> {
        let shown = |key: &Candidate| {
            let raw = &key.raw;
            let limit = raw.limit.as_deref().unwrap_or("-");
            let (networks, words) = (raw.networks.join(","), raw.permissions.join(","));
            let or = |text: String| if text.is_empty() { "-".to_owned() } else { text };
            format!("{} {} {limit} {}", key.client, or(networks), or(words))
        };
        self.keys.iter().map(shown).collect()
    }
}

#[test]
fn csv() {
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let text = format!(
        "Name,Org,key,sha256,permissions,expires_at,colour\n\
         \"CRM, old\",acme,secret-of-the-crm-0001,,read send,2027-01-01T00:00:00Z,red\n\
         Batch,acme,,{hash},read|send,never,\n\
         Bad,acme,too,many,values,here,x,y\n\
         Short,acme,and,few\n"
    );
    let read = read(ImportFormat::Csv, &text);
    assert_eq!(read.lost, ["f:1: colour: no field of a key has this name; it was not carried"]);
    assert_eq!(read.faults, ["f:4: 8 values for 7 columns", "f:5: 4 values for 7 columns"]);
    let [crm, batch] = read.keys.as_slice() else { panic!("{} keys", read.keys.len()) };
    assert_eq!((secret(crm), crm.line), (&b"secret-of-the-crm-0001"[..], 2));
    assert_eq!(crm.raw.name, "CRM, old");
    assert_eq!(crm.raw.permissions, ["read", "send"]);
    assert_eq!(batch.raw.digest, format!("sha256:{hash}"));
    assert_eq!(batch.raw.permissions, ["read", "send"]);
    assert!(batch.raw.expires.is_none());
}

#[test]
fn tables_of_every_spreadsheet() {
    let rows =
        "name;org;key\r\nKäse;acme;first-0123456789abc\r\n\r\n\"a\nb\";acme;x\r\nlast;acme;y";
    let wide = |text: &str| {
        let marked = format!("\u{feff}{text}");
        marked.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()
    };
    let want = [("Käse", 2), ("a\nb", 4), ("last", 6)];
    let cases = [
        ("a heading for people", rows.replace(";key", ";API Key").into_bytes()),
        ("semicolons", rows.as_bytes().to_vec()),
        ("a mark", format!("\u{feff}{rows}").into_bytes()),
        ("tabs in utf-16", wide(&rows.replace(';', "\t"))),
        ("commas", rows.replace(';', ",").into_bytes()),
        ("unix lines", rows.replace("\r\n", "\n").into_bytes()),
    ];
    for (name, bytes) in cases {
        let read = read_keys_in(ImportFormat::Csv, &bytes, &[]);
        let keys: Vec<_> = read.keys.iter().map(|k| (&*k.raw.name, k.line)).collect();
        assert_eq!(keys, want, "{name}: {:?} {:?}", read.faults, read.lost);
    }
    let sep = format!("sep=;\r\n{rows}");
    let read = read_keys_in(ImportFormat::Csv, sep.as_bytes(), &[]);
    let lines: Vec<_> = read.keys.iter().map(|k| k.line).collect();
    assert_eq!(lines, [3, 5, 7], "the line `sep=;` counts");
    let read = read_keys_in(ImportFormat::Csv, b"name,key\nx,\xe4\n", &[]);
    assert!(read.faults[0].starts_with("f:2: is not UTF-8"), "{:?}", read.faults);
}

#[test]
fn a_column_that_may_restrict_is_carried_or_stops() {
    let key = "0123456789abcdefghij";
    // Column, value, and what happens to the key.
    let cases = [
        ("enabled", "false", "disabled"),
        ("active", "yes", ""),
        ("is_active", "0", "disabled"),
        ("disabled", "true", "disabled"),
        ("revoked", "1", "revoked"),
        ("expiry_date", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
        ("valid_until", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
        ("valid_until", "2026-12-31", "2027-01-01T00:00:00Z"),
        ("allowed_ips", "10.0.0.0/8", "10.0.0.0/8"),
        ("ip_whitelist", "10.0.0.0/8", "10.0.0.0/8"),
        ("rate_limit", "5/s", "5/s"),
    ];
    for (column, value, want) in cases {
        let read = read(ImportFormat::Csv, &format!("name,key,{column}\nx,{key},{value}\n"));
        assert!(read.wider.is_empty() && read.lost.is_empty(), "{column}: {:?}", read.wider);
        let raw = &read.keys[0].raw;
        let has = raw.status.as_deref().unwrap_or_default() == want
            || raw.expires.as_ref().is_some_and(|e| e.0 == want)
            || raw.networks.iter().any(|n| n == want)
            || raw.limit.as_deref() == Some(want);
        assert!(has, "{column}");
    }
    let others = [
        "role",
        "Blocked IPs",
        "requests_per_day",
        "quota",
        "denylist",
        "group",
        "ttl",
        "state",
        "rpm",
        "throttle",
        "max_uses",
        "read_only",
        "methods",
        "allowed_paths",
        "allowed_origins",
        "plan",
        "tenant",
        "zugelassen",
    ];
    for column in others {
        let read = read(ImportFormat::Csv, &format!("name,key,{column}\nx,{key},\ny,{key}1,v\n"));
        assert_eq!(read.wider, [column], "{column}");
        let json = serde_json::json!({ "name": "x", "key": key, column: "v" }).to_string();
        assert_eq!(super::tests::read(ImportFormat::Jsonl, &json).wider, [column], "{column}");
        let empty = format!("name,key,{column}\nx,{key},\n");
        assert!(
            super::tests::read(ImportFormat::Csv, &empty).wider.is_empty(),
            "{column}: no value"
        );
    }
    let read = read(ImportFormat::Csv, &format!("name,key,enabled\nx,{key},perhaps\n"));
    assert_eq!(read.faults, ["f:2: enabled: must be `true` or `false`"]);
}

#[test]
fn two_columns_for_one_field_stop() {
    let (key, digest) = ("0123456789abcdefghij", Digest::of(b"0123456789abcdefghij"));
    let pairs = [
        ("expires", "valid_until", "2099-01-01", "2020-01-01"),
        ("networks", "allowed_ips", "10.0.0.0/8", "192.168.0.0/16"),
        ("limit", "Rate Limit", "5/s", "9/s"),
        ("enabled", "isActive", "true", "false"),
        ("note", "note", "a", "b"),
        ("not_before", "valid_from", "2020-01-01", "2099-01-01"),
    ];
    for (one, other, a, b) in pairs {
        let text = format!("name,key,{one},{other}\nx,{key},{a},{b}\n");
        let read = read(ImportFormat::Csv, &text);
        assert!(read.keys.is_empty(), "{one}, {other}");
        assert!(read.faults[0].contains("is the same field of a key as"), "{:?}", read.faults);
        let json = format!(r#"{{"name":"x","key":"{key}","{one}":"{a}","{other}":"{b}"}}"#);
        let read = super::tests::read(ImportFormat::Jsonl, &json);
        assert!(read.keys.is_empty() && read.faults.len() == 1, "{json}: {:?}", read.faults);
    }
    for text in ["key,key", "api_key,secret", "key,token"] {
        let read = read(ImportFormat::Csv, &format!("{text}\n{key},{key}\n"));
        assert!(read.keys.is_empty() && !read.faults[0].contains(key), "{:?}", read.faults);
    }
    let digests = [(show_digest(&digest), true), (show_digest(&Digest::of(b"x")), false)];
    for (digest, agrees) in digests {
        let mut read =
            read(ImportFormat::Csv, &format!("name,org,key,sha256\nx,acme,{key},{digest}\n"));
        let taken = read.keys.remove(0).finish(&defaults(), &settings(), None).unwrap();
        assert_eq!(taken.is_ok(), agrees, "{digest}");
    }
    let read =
        read(ImportFormat::Jsonl, &format!(r#"{{"name":"x","key":"{key}","key":"{key}2"}}"#));
    assert_eq!(read.faults, ["f:1: a name stands twice in one object"]);
}

#[test]
fn a_begin_in_a_column_of_another_meaning_stops() {
    let read = read(ImportFormat::Csv, "name,key,start\nx,0123456789abcdefghij,2099-01-01\n");
    assert!(read.keys.is_empty() && read.faults[0].contains("`not_before`"), "{:?}", read.faults);
}

#[test]
fn csv_without_header() {
    let read = read(ImportFormat::Csv, "acme,hunter2hunter2hunter2\n");
    assert!(read.keys.is_empty());
    assert!(read.faults[0].contains("must name the columns"), "{:?}", read.faults);
    assert!(!read.faults[0].contains("hunter2"));
    assert!(read.lost.is_empty(), "the headings are keys: {:?}", read.lost);
}

#[test]
fn json_lines() {
    let text = r#"{"registry":1,"serial":4}
{"name":"A","org":"acme","secret":"with spaces is one secret","permissions":["read","send"]}

{"serial":3,"key":{"id":"key_a","org":"acme","digest":"sha256:00"}}
{"name":"B","org":7,"secret":"x"}
["no object"]
{"name":
{"name":"C","org":"acme","secret":"0123456789abcdef","tier":"gold"}"#;
    let read = read(ImportFormat::Jsonl, text);
    let lines: Vec<_> = read.keys.iter().map(|key| key.line).collect();
    assert_eq!(lines, [2, 4, 8]);
    assert_eq!(read.keys[0].raw.permissions, ["read", "send"]);
    assert_eq!(secret(&read.keys[0]), b"with spaces is one secret");
    assert_eq!(read.keys[1].raw.id, "key_a");
    assert_eq!(read.faults.len(), 3, "{:?}", read.faults);
    assert_eq!(read.wider, ["tier"]);
}

#[test]
fn htpasswd() {
    let text = "# clients\n\
        alice:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n\
        bob:{SHA256}ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=\n\
        carol:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n\
        hunter2\n";
    let read = read(ImportFormat::Htpasswd, text);
    let abc = show_digest(&Digest::of(b"abc"));
    let clients: Vec<_> = read.keys.iter().map(|k| (k.client.as_str(), &*k.raw.digest)).collect();
    assert_eq!(clients, [("alice", abc.as_str()), ("bob", abc.as_str())]);
    assert!(read.faults[0].starts_with("f:4: carol: is no SHA-256"), "{:?}", read.faults);
    assert!(read.faults[1].starts_with("f:5: must be"), "{:?}", read.faults);
}

#[test]
fn nginx_maps_hold_keys_only_over_what_a_client_sends() {
    let entry = "{ a-name-of-20-characters client; }";
    let carriers =
        ["$http_x_api_key", "$HTTP_X_API_KEY", "${http_apikey}", "$arg_key", "$cookie_session"];
    for source in carriers {
        let read = read(ImportFormat::NginxMap, &format!("map {source} $client {entry}"));
        assert_eq!(read.keys.len(), 1, "{source}");
    }
    let others = [
        "$host",
        "$http_host",
        "$uri",
        "$request_uri",
        "$remote_addr",
        "$http_user_agent",
        "$http_referer",
        "$http_upgrade",
        "$http_x_forwarded_for",
        "$http_sec_fetch_site",
        "$ssl_client_s_dn",
        "$scheme",
        "$http_x_api_key$request_method",
        "\"$arg_key:$uri\"",
        "$http_",
        "$request_method",
        "literal",
    ];
    for source in others {
        let read = read(ImportFormat::NginxMap, &format!("map {source} $backend {entry}"));
        assert!(read.keys.is_empty(), "{source}");
        assert_eq!((read.lost.len(), read.faults.len()), (1, 1), "{source}");
        assert!(read.lost[0].starts_with("f:1: map "), "{source}: {:?}", read.lost);
    }
}

#[test]
fn a_whole_nginx_configuration() {
    let text = r#"
worker_processes auto;
http {
    map $http_upgrade $connection_upgrade { default upgrade; '' close; }
    map $http_authorization $client {
        default "";
        "Bearer hR7tYw2kQp9LmX4vZc8N" billing;
    }
    map $http_x_api_key $client {
        "0000" $variable;
        'portal\key-0123456789' portal;
    }
    map $http_x_api_key $tier { 'portal\key-0123456789' gold; "other-key-0123456789" silver; }
    limit_req_zone $client zone=one:1m rate=1r/s;
    server {
        server_name internal.example.com;
        listen 443 ssl;
        if ($client = "") { return 401; }
        location / {
            allow 203.0.113.0/24;
            deny all;
            limit_req zone=one;
            proxy_pass http://backend.internal.example.com;
        }
    }
}
"#;
    let read = read(ImportFormat::NginxMap, text);
    let keys: Vec<_> = read.keys.iter().map(|k| (secret(k), k.client.as_str(), k.line)).collect();
    assert_eq!(
        keys,
        [
            (&b"hR7tYw2kQp9LmX4vZc8N"[..], "billing", 7),
            (&b"portal\\key-0123456789"[..], "portal", 11),
            (&b"other-key-0123456789"[..], "silver", 13),
        ]
    );
    // The last key has no `$client`.
    assert_eq!(read.wider, ["allow", "deny", "limit_req", "if:line18"]);
    assert!(read.faults.is_empty(), "{:?}", read.faults);
    assert!(
        read.lost.iter().any(|l| l.contains("f:13: a key of the map to `$client`")),
        "{:?}",
        read.lost
    );
}

#[test]
fn what_nginx_refuses_beside_the_key_stops() {
    let map = "map $http_x_api_key $client { a-name-of-20-characters client; }";
    let cases = [
        ("if ($client = \"\") { return 401; }", ""),
        ("if ($http_x_api_key = '') { return 401 \"no key\"; }", ""),
        ("if ($Client !~ .) { return 403; }", ""),
        ("if ($client = nobody) { return 401; }", ""),
        ("if ($client != client) { return 401; }", ""),
        ("if ($client = client) { return 403; }", "if"),
        ("if ($client) { return 403; }", "if"),
        ("if ($http_x_api_key = a-name-of-20-characters) { return 403; }", "if"),
        ("if ($blocked) { return 403; }", "if"),
        ("if ($client$blocked = x) { return 444; }", "if"),
        ("if ($request_method != GET) { return 405; }", "if"),
        ("if ($blocked) { set $client \"\"; }", "set"),
        ("js_access main.check;", "js_access"),
        ("auth_ldap \"x\";", "auth_ldap"),
        ("include snippets/deny.conf;", "include:snippets/deny.conf"),
        ("include /etc/nginx/mime.types;", ""),
        (
            "access_by_lua_block { local t = { \"}\", #x } -- don't {\n ngx.exit(403) }",
            "access_by_lua_block",
        ),
        ("if ($scheme != https) { return 301 https://$host$request_uri; }", ""),
        ("if ($request_method = TRACE) { return 405; }", "if"),
        ("access_by_lua_file check.lua;", "access_by_lua_file"),
        ("access_by_lua_block { ngx.exit(403) }", "access_by_lua_block"),
        ("location / { limit_except GET { deny all; } }", "limit_except deny"),
        ("modsecurity on;", "modsecurity"),
        ("modsecurity off; auth_jwt off;", ""),
        ("auth_jwt_require $valid;", "auth_jwt_require"),
        ("location /admin { return 403; }", "return"),
        ("return 444;", "return"),
        ("location /up { return 200; } location /old { return 301 /new; }", ""),
        ("error_page 401 @denied; location @denied { return 401 \"no\"; }", ""),
    ];
    for (rest, wider) in cases {
        for text in [format!("{map}\nserver {{ {rest} }}"), format!("server {{ {rest} }}\n{map}")] {
            let read = read(ImportFormat::NginxMap, &text);
            // The line of an `if` is part of its name.
            let names = read.wider.iter().map(|name| match name.split_once(":line") {
                Some((name, _)) => name,
                None => name,
            });
            assert_eq!(names.collect::<Vec<_>>().join(" "), wider, "{text}: {:?}", read.faults);
            assert_eq!(read.keys.len(), 1, "{text}");
        }
    }
}

#[test]
fn an_nginx_configuration_that_is_cut_short_is_refused() {
    let map = "map $http_x_api_key $client {\n  a-name-of-20-characters client;\n";
    for text in [
        map.to_owned(),
        format!("{map}}}\nserver {{ "),
        format!("{map}}}\nallow 10"),
        format!("{map}}} }}"),
    ] {
        let read = read(ImportFormat::NginxMap, &text);
        assert!(read.faults.last().unwrap().contains("nginx -t"), "{text}: {:?}", read.faults);
    }
    let two = "map $http_x_api_key $client { a-name-of-20-characters one; }\n\
               map $http_x_api_key $tier { default free; another-name-of-20-characters gold; }\n\
               server { if ($tier = free) { return 403; } }";
    assert_eq!(read(ImportFormat::NginxMap, two).wider, ["if:line3"], "the default is a value too");
}

#[test]
fn nginx_map() {
    let text = "map $http_x_api_key $client {\n\
        \x20   volatile; default \"\"; # nobody\n\
        \x20   \"key one; with {signs}\" acme;   'esc\\'aped-0123456789' \"beta corp\";\n\
        \x20   plain-key-0123456789   gamma ;\n\
        \x20   ~^wa_ delta;\n\
        \x20   include more.map;\n\
        \x20   off-key-0123456789 0;\n\
        }\n";
    let read = read(ImportFormat::NginxMap, text);
    let keys: Vec<_> = read.keys.iter().map(|k| (secret(k), k.client.as_str(), k.line)).collect();
    assert_eq!(
        keys,
        [
            (&b"key one; with {signs}"[..], "acme", 3),
            (&b"esc'aped-0123456789"[..], "beta corp", 3),
            (&b"plain-key-0123456789"[..], "gamma", 4),
        ]
    );
    assert_eq!(read.lost.len(), 5, "{:?}", read.lost);
    assert!(read.faults.is_empty(), "{:?}", read.faults);
}

#[test]
fn envoy() {
    let text = "
http_filters:
- name: envoy.filters.http.api_key_auth
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth
    credentials:
    - key: one_key_0123456789
      client: one_client
    - { key: two_key_0123456789, client: two_client }
    key_sources: [{ header: x-api-key }]
";
    let read = read(ImportFormat::Envoy, text);
    let clients: Vec<_> = read.keys.iter().map(|k| k.client.as_str()).collect();
    assert_eq!(clients, ["one_client", "two_client"]);
    assert_eq!(read.keys[1].place, "http_filters[0].typed_config.credentials[1]");
}

#[test]
fn a_file_of_another_kind_is_told() {
    let cases = [
        (ImportFormat::Kong, "a: 1"),
        (ImportFormat::Apisix, "a: 1"),
        (ImportFormat::Envoy, "a: 1"),
        (ImportFormat::Kubernetes, "kind: Secret\nmetadata: {}"),
        (ImportFormat::Kong, "a: [unclosed hunter2"),
    ];
    for (format, text) in cases {
        let read = read(format, text);
        assert_eq!((read.keys.len(), read.faults.len()), (0, 1), "{format:?} {:?}", read.faults);
        assert!(!read.faults[0].contains("hunter2"), "{:?}", read.faults);
    }
}

#[test]
fn a_candidate_becomes_a_key() {
    let mut candidate = Candidate { client: "acme".into(), ..Candidate::default() };
    candidate.secret = Some(crate::core::Secret::new(*b"wa_0123456789abcdefghij"));
    let taken = candidate.finish(&defaults(), &settings(), None).unwrap().unwrap();
    let entry = &taken.entry;
    assert_eq!(entry.digest, Digest::of(b"wa_0123456789abcdefghij"));
    assert_eq!((entry.org.as_str(), &*entry.name), ("acme", "acme"));
    assert_eq!(entry.prefix.as_deref(), Some("wa"));
    assert_eq!(&*entry.key_prefix, "01234");
    assert_eq!(
        unmarks(&taken, &settings(), UnknownSecrets::MayNotConform).len(),
        1,
        "it does not conform"
    );
}

#[test]
fn a_conforming_secret_keeps_the_mark_and_a_digest_may_not() {
    let form = KeyFormat::standard("wa_");
    let secret = form.encode(None, (0u8..).cycle()).unwrap();
    let candidate =
        Candidate { client: "acme".into(), secret: Some(secret), ..Candidate::default() };
    let taken = candidate.finish(&defaults(), &settings(), None).unwrap().unwrap();
    assert!(unmarks(&taken, &settings(), UnknownSecrets::MayNotConform).is_empty());
    let mut candidate = Candidate { client: "acme".into(), ..Candidate::default() };
    candidate.raw.digest = show_digest(&Digest::of(b"x")).into();
    let taken = candidate.finish(&defaults(), &settings(), None).unwrap().unwrap();
    assert_eq!(unmarks(&taken, &settings(), UnknownSecrets::MayNotConform).len(), 1);
    assert!(unmarks(&taken, &settings(), UnknownSecrets::Conform).is_empty());
}

#[test]
fn what_is_no_secret() {
    let cases = [
        ("short", &b"hunter2"[..], "fewer than 16"),
        ("empty", b"", "is empty"),
        ("placeholder", b"${BILLING_API_KEY}", "is a placeholder"),
        ("hash", b"$2y$05$c4WoMPo3SXsafkva.HHa6uXQZ", "is the hash of a password"),
        ("space", b"0123456789 abcdef", "visible ASCII"),
        ("8-bit", "0123456789äbcdef".as_bytes(), "visible ASCII"),
    ];
    for (name, bytes, why) in cases {
        let candidate = Candidate {
            client: "acme".into(),
            secret: Some(crate::core::Secret::new(bytes)),
            ..Candidate::default()
        };
        let faults = candidate.finish(&defaults(), &settings(), None).unwrap().unwrap_err();
        assert!(faults[0].why.contains(why), "{name}: {faults:?}");
        assert!(!faults[0].why.contains("hunter2"), "{name}");
    }
}

#[test]
fn names_of_any_language_get_an_org() {
    let org = |client: &str| {
        let secret = Some(crate::core::Secret::new(*b"0123456789abcdefghij"));
        let candidate = Candidate { client: client.into(), secret, ..Candidate::default() };
        let taken = candidate.finish(&defaults(), &settings(), None).unwrap();
        taken.map(|t| (t.entry.org.as_str().to_owned(), t.entry.name.to_string()))
    };
    let cases = [
        ("acme", "acme"),
        ("Käse GmbH", "K%C3%A4se%20GmbH"),
        ("100% Müller", "100%25%20M%C3%BCller"),
        ("株式会社", "%E6%A0%AA%E5%BC%8F%E4%BC%9A%E7%A4%BE"),
    ];
    for (client, want) in cases {
        assert_eq!(org(client), Ok((want.to_owned(), client.to_owned())));
    }
    assert_eq!(org("${TENANT}"), Err(vec![FieldFault::new("org", "is a placeholder")]));
}

const FORMATS: [ImportFormat; 8] = [
    ImportFormat::Apisix,
    ImportFormat::Csv,
    ImportFormat::Envoy,
    ImportFormat::Htpasswd,
    ImportFormat::Jsonl,
    ImportFormat::Kong,
    ImportFormat::Kubernetes,
    ImportFormat::NginxMap,
];

proptest::proptest! {
    /// Files come from other programs: none may make the importer end with anything but a fault.
    #[test]
    fn no_file_breaks_an_importer(
        text in "\\PC{0,120}|(consumers|keyauth_credentials|key|: |\n|  |- |\"|'|;|\\{|\\}|,|[a-z0-9]){0,60}",
    ) {
        for format in FORMATS {
            let _ = read(format, &text);
        }
    }
}

fn show_digest(digest: &Digest) -> String {
    crate::manage::registry::entry::show_digest(digest)
}
