//! Each importer on a file as its program writes it.

use std::path::Path;

use super::collect::{Candidate, Defaults, Found, unmarks};
use super::*;
use crate::core::Digest;
use crate::core::format::KeyFormat;
use crate::manage::registry::settings::Settings;

/// What one file yields.
#[derive(Default)]
struct Read {
    keys: Vec<Candidate>,
    lost: Vec<String>,
    faults: Vec<String>,
}

fn read(format: Format, text: &str) -> Read {
    let mut read = Read::default();
    let done = format.read(&mut text.as_bytes(), Path::new("f"), &mut |found| {
        match found {
            Found::Fault(fault) => read.faults.push(fault.to_string()),
            Found::Key(key) => read.keys.push(*key),
            Found::Lost(fault) => read.lost.push(fault.to_string()),
        }
        Ok(())
    });
    if let Err(e) = done {
        read.faults.push(e.to_string());
    }
    read
}

fn settings() -> Settings {
    Settings {
        serial: 0,
        audience: None,
        prefixes: [("wa".to_owned(), KeyFormat::standard("wa_"))].into(),
        default_prefix: None,
        publish: Default::default(),
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

fn secret(candidate: &Candidate) -> &[u8] {
    candidate.secret.as_ref().map_or(&[], |secret| secret.expose())
}

#[test]
fn csv() {
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let text = format!(
        "Name,Org,key,sha256,permissions,expires_at,colour\n\
         \"CRM, old\",acme,secret-of-the-crm-0001,,read send,2027-01-01T00:00:00Z,red\n\
         Batch,acme,,{hash},read|send,never,\n\
         Bad,acme,too,many,values,here,x,y\n"
    );
    let read = read(Format::Csv, &text);
    assert_eq!(
        read.lost,
        ["f:1: colour: no field of a key has this name; the column was not carried"]
    );
    assert_eq!(read.faults, ["f:4: 8 values for 7 columns"]);
    let [crm, batch] = read.keys.as_slice() else { panic!("{} keys", read.keys.len()) };
    assert_eq!((secret(crm), crm.line), (&b"secret-of-the-crm-0001"[..], 2));
    assert_eq!(crm.raw.name, "CRM, old");
    assert_eq!(crm.raw.permissions, ["read", "send"]);
    assert_eq!(batch.raw.digest, format!("sha256:{hash}"));
    assert_eq!(batch.raw.permissions, ["read", "send"]);
    assert!(batch.raw.expires.is_none());
}

#[test]
fn csv_without_header() {
    let read = read(Format::Csv, "acme,hunter2hunter2hunter2\n");
    assert!(read.keys.is_empty());
    assert!(read.faults[0].contains("must name the columns"), "{:?}", read.faults);
    assert!(!read.faults[0].contains("hunter2"));
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
    let read = read(Format::Jsonl, text);
    let lines: Vec<_> = read.keys.iter().map(|key| key.line).collect();
    assert_eq!(lines, [2, 4, 8]);
    assert_eq!(read.keys[0].raw.permissions, ["read", "send"]);
    assert_eq!(secret(&read.keys[0]), b"with spaces is one secret");
    assert_eq!(read.keys[1].raw.id, "key_a");
    assert_eq!(read.faults.len(), 3, "{:?}", read.faults);
    assert_eq!(read.lost, ["f:8: tier: no field of a key has this name"]);
}

#[test]
fn htpasswd() {
    let text = "# clients\n\
        alice:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n\
        bob:{SHA256}ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=\n\
        carol:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n\
        hunter2\n";
    let read = read(Format::Htpasswd, text);
    let abc = show_digest(&Digest::of(b"abc"));
    let clients: Vec<_> = read.keys.iter().map(|k| (k.client.as_str(), &*k.raw.digest)).collect();
    assert_eq!(clients, [("alice", abc.as_str()), ("bob", abc.as_str())]);
    assert!(read.faults[0].starts_with("f:4: carol: is no SHA-256"), "{:?}", read.faults);
    assert!(read.faults[1].starts_with("f:5: must be"), "{:?}", read.faults);
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
    let read = read(Format::NginxMap, text);
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
fn kong() {
    let text = r#"
_format_version: "3.0"
consumers:
  - username: alice
    tags: [gold]
    acls: [{ group: read }, { group: send }]
    plugins:
      - name: rate-limiting
        config: { minute: 600, policy: local }
      - name: ip-restriction
        config: { allow: [203.0.113.0/24], deny: [203.0.113.9] }
      - name: cors
    keyauth_credentials:
      - key: alice-key-0123456789
        created_at: 1795230000
        ttl: 3600
      - key: 12345
  - username: bob
    keyauth_credentials:
      - key: "{vault://env/bob}"
keyauth_credentials:
  - key: carol-key-0123456789
    consumer: carol
"#;
    let read = read(Format::Kong, text);
    let keys: Vec<_> = read.keys.iter().map(|k| (k.client.as_str(), secret(k))).collect();
    assert_eq!(
        keys,
        [("alice", &b"alice-key-0123456789"[..]), ("carol", &b"carol-key-0123456789"[..])]
    );
    let alice = &read.keys[0].raw;
    assert_eq!(alice.permissions, ["read", "send"]);
    assert_eq!(alice.networks, ["203.0.113.0/24"]);
    assert_eq!(alice.limit.as_deref(), Some("600/min"));
    assert_eq!(alice.expires.as_ref().unwrap().0, "2026-11-21T04:00:00Z");
    assert_eq!(read.faults.len(), 2, "{:?}", read.faults);
    assert!(read.faults[0].contains("consumers[0].keyauth_credentials[1]: the key is a number"));
    assert!(read.faults[1].contains("kept elsewhere"));
    assert_eq!(read.lost.len(), 3, "{:?}", read.lost);
}

#[test]
fn apisix() {
    let yaml = "
consumers:
  - username: jack
    desc: the first
    plugins:
      key-auth: { key: jack-key-0123456789 }
      limit-count: { count: 5, time_window: 30, rejected_code: 429 }
      ip-restriction: { whitelist: [10.0.0.0/8] }
      proxy-rewrite: { uri: /x }
  - username: jill
    plugins:
      key-auth: { key: \"$ENV://JILL\" }
#END
";
    let found = read(Format::Apisix, yaml);
    assert_eq!(found.keys.len(), 1);
    let jack = &found.keys[0];
    assert_eq!((jack.client.as_str(), secret(jack)), ("jack", &b"jack-key-0123456789"[..]));
    assert_eq!(jack.raw.limit.as_deref(), Some("5/30s"));
    assert_eq!(jack.raw.networks, ["10.0.0.0/8"]);
    assert_eq!((found.lost.len(), found.faults.len()), (1, 1));
    let json = r#"{"total":1,"list":[{"key":"/apisix/consumers/jo","value":
        {"username":"jo","plugins":{"key-auth":{"key":"jo-key-0123456789012"}}}}]}"#;
    let found = read(Format::Apisix, json);
    assert_eq!(secret(&found.keys[0]), b"jo-key-0123456789012");
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
    let read = read(Format::Envoy, text);
    let clients: Vec<_> = read.keys.iter().map(|k| k.client.as_str()).collect();
    assert_eq!(clients, ["one_client", "two_client"]);
    assert_eq!(read.keys[1].place, "http_filters[0].typed_config.credentials[1]");
}

#[test]
fn kubernetes() {
    let text = "
apiVersion: v1
kind: Secret
metadata: { name: clients }
data:
  client1: c3VwZXJzZWNyZXQtb25lLTAwMQo=
  client2: '***'
---
apiVersion: v1
kind: Secret
metadata: { name: more }
stringData: { client3: supersecret-three-003 }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: other }
";
    let read = read(Format::Kubernetes, text);
    let keys: Vec<_> = read.keys.iter().map(|k| (k.client.as_str(), secret(k))).collect();
    assert_eq!(
        keys,
        [("client1", &b"supersecret-one-001"[..]), ("client3", &b"supersecret-three-003"[..])]
    );
    assert_eq!(read.faults, ["f: clients.data.client2: the key is not Base64"]);
    assert_eq!(read.lost.len(), 1);
}

#[test]
fn a_file_of_another_kind_is_told() {
    let cases = [
        (Format::Kong, "a: 1"),
        (Format::Apisix, "a: 1"),
        (Format::Envoy, "a: 1"),
        (Format::Kubernetes, "kind: Secret\nmetadata: {}"),
        (Format::Kong, "a: [unclosed hunter2"),
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
    assert_eq!(&*entry.start, "wa_01234");
    assert_eq!(unmarks(&taken, &settings(), false).len(), 1, "it does not conform");
}

#[test]
fn a_conforming_secret_keeps_the_mark_and_a_digest_may_not() {
    let form = KeyFormat::standard("wa_");
    let secret = form.encode(None, std::iter::repeat(7)).unwrap();
    let candidate =
        Candidate { client: "acme".into(), secret: Some(secret), ..Candidate::default() };
    let taken = candidate.finish(&defaults(), &settings(), None).unwrap().unwrap();
    assert!(unmarks(&taken, &settings(), false).is_empty());
    let mut candidate = Candidate { client: "acme".into(), ..Candidate::default() };
    candidate.raw.digest = show_digest(&Digest::of(b"x")).into();
    let taken = candidate.finish(&defaults(), &settings(), None).unwrap().unwrap();
    assert_eq!(unmarks(&taken, &settings(), false).len(), 1);
    assert!(unmarks(&taken, &settings(), true).is_empty());
}

#[test]
fn what_is_no_secret() {
    let cases = [
        ("short", &b"hunter2"[..], "fewer than 16"),
        ("empty", b"", "is empty"),
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
        assert!(faults[0].1.contains(why), "{name}: {faults:?}");
        assert!(!faults[0].1.contains("hunter2"), "{name}");
    }
}

const FORMATS: [Format; 8] = [
    Format::Apisix,
    Format::Csv,
    Format::Envoy,
    Format::Htpasswd,
    Format::Jsonl,
    Format::Kong,
    Format::Kubernetes,
    Format::NginxMap,
];

proptest::proptest! {
    /// Files come from other programs: none may end the importer otherwise than with a fault.
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
