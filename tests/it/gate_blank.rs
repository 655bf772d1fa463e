//! Carriers that are present and empty, halves of pairs, and one key in two places.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::client::exchange;
use crate::support::gate::{Gate, Key, READER};
use crate::support::upstream::Upstream;

const EVERY_CARRIER: &str = r#"
[[credentials]]
source = "header"
name = "x-api-key"
[[credentials]]
source = "bearer"
[[credentials]]
source = "basic"
form = "FORM"
[[credentials]]
source = "query"
name = "api_key"
[[credentials]]
source = "cookie"
name = "kg_key"
[[credentials]]
source = "pair"
id = "x-id"
secret = "x-secret"
[[credentials]]
source = "subprotocol"
marker = "keygate.key."

[[routes]]
path = "/key/*"
permissions = ["read"]
[[routes]]
path = "/either/*"
access = "key-or-pass"
permissions = ["read"]
[[routes]]
path = "/public/*"
access = "public"
"#;

const ID: &str = "12345-abcde-67890-fghij";
const SECRET: &str = "98765-zyxwv-43210-utsrq";

fn world(upstream: &Upstream, form: &str, prefixes: &str) -> Gate {
    let rules = EVERY_CARRIER.replace("FORM", form);
    let rules = ["bearer\"", "name = \"x-api-key\"", "name = \"api_key\"", "name = \"kg_key\""]
        .iter()
        .chain([&format!("form = \"{form}\"").as_str()])
        .fold(rules, |rules, line| rules.replace(line, &format!("{line}\n{prefixes}")));
    Gate::before(upstream)
        .rules(&rules)
        .key(Key::new("key_pair", SECRET).may("read").with(&format!("public_id = \"{ID}\"")))
        .start()
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

fn basic(pair: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(pair))
}

/// (query, fields) of a carrier that is present and empty.
fn blanks() -> Vec<(&'static str, String)> {
    let field = |line: &str| ("", format!("{line}\r\n"));
    vec![
        field("X-Api-Key:"),
        field("X-Api-Key: \t "),
        field("X-Api-Key:\r\nX-Api-Key:"),
        field("Authorization:"),
        field("Authorization: Bearer"),
        field("Authorization: bearer "),
        field("Authorization: Bearer secret-token:"),
        field("Authorization: Basic"),
        ("", basic(":")),
        ("?api_key", String::new()),
        ("?api_key=", String::new()),
        ("?api_key=%20", String::new()),
        ("?%61pi_key=&api_key=", String::new()),
        field("Cookie: kg_key="),
        field("Cookie: kg_key=\"\""),
        field("x-id:\r\nx-secret: "),
        field("Sec-WebSocket-Protocol: keygate.key."),
    ]
}

/// The parts of an empty carrier that must not arrive.
const NAMES: [&str; 7] = [
    "x-api-key",
    "authorization",
    "cookie",
    "x-id",
    "x-secret",
    "sec-websocket-protocol",
    "api_key",
];

fn no_carrier_in(head: &[u8], name: &str) {
    let raw = String::from_utf8_lossy(head).to_lowercase();
    for part in NAMES {
        assert!(!raw.contains(part), "{name}: {part} arrived:\n{raw}");
    }
}

#[test]
fn an_empty_carrier_is_not_there_and_does_not_travel() {
    let upstream = Upstream::start();
    for prefixes in ["", "prefixes = [\"wa_\"]"] {
        let gate = world(&upstream, "user", prefixes);
        for (query, fields) in blanks() {
            let name = format!("{prefixes} {query} {fields}");
            // Alone.
            let ask = |path: &str| get(&format!("{path}{query}"), &fields);
            gate.refuses(&name, ask("/key/a"), 401, "missing_key");
            for path in ["/either/a", "/public/a"] {
                let answer = exchange(gate.address, ask(path));
                assert_eq!(answer.status(), 200, "{path} {name}: {}", answer.body_text());
                let got = upstream.only();
                assert_eq!(got.first_line(), format!("GET {path} HTTP/1.1"), "{name}");
                no_carrier_in(&got.head, &name);
            }
            // Together with a good key, in another carrier and in the same.
            for good in [
                format!("X-Api-Key: {READER}\r\n"),
                format!("Authorization: Bearer {READER}\r\n"),
                format!("x-id: {ID}\r\nx-secret: {SECRET}\r\n"),
            ] {
                let request = get(&format!("/key/a{query}"), &format!("{fields}{good}"));
                let answer = exchange(gate.address, request);
                assert_eq!(answer.status(), 200, "{name} + {good}: {}", answer.body_text());
                let got = upstream.only();
                assert_eq!(got.first_line(), "GET /key/a HTTP/1.1", "{name} + {good}");
                no_carrier_in(&got.head, &name);
            }
        }
    }
}

/// Neighbours of an empty carrier stay, and so does a stranger's credential next to it.
#[test]
fn only_the_empty_carrier_goes() {
    let upstream = Upstream::start();
    let gate = world(&upstream, "password", "prefixes = [\"wa_\"]");
    let token = "Authorization: Bearer eyJhbGciOi.J9.x\r\n";
    let fields = format!("X-Api-Key:\r\nCookie: a=1; kg_key=; b=2\r\nAuthorization:\r\n{token}");
    let answer = exchange(gate.address, get("/either/a?x=1&api_key=&y=%20", &fields));
    assert_eq!(answer.status(), 200, "{}", answer.body_text());
    let got = upstream.only();
    assert_eq!(got.first_line(), "GET /either/a?x=1&y=%20 HTTP/1.1");
    assert_eq!(got.all("cookie"), ["a=1; b=2"]);
    assert_eq!(got.all("authorization"), ["Bearer eyJhbGciOi.J9.x"]);
    assert!(got.all("x-api-key").is_empty());
    // A stranger's user name with an empty password is the stranger's.
    let answer = exchange(gate.address, get("/either/a", &basic("alice:")));
    assert_eq!(answer.status(), 200);
    assert_eq!(upstream.only().all("authorization"), [basic("alice:")[15..].trim_end()]);
}

#[test]
fn half_a_pair_says_which_half_is_missing() {
    let upstream = Upstream::start();
    let gate = world(&upstream, "pair", "");
    for (fields, missing) in [
        (format!("x-id: {ID}\r\n"), "the field x-secret is missing"),
        (format!("x-id: {ID}\r\nx-secret:\r\n"), "the field x-secret is missing"),
        (format!("x-secret: {SECRET}\r\n"), "the field x-id is missing"),
        (format!("x-id: \r\nx-secret: {SECRET}\r\n"), "the field x-id is missing"),
        (basic(&format!("{ID}:")), "the password of Authorization: Basic is missing"),
        (basic(&format!(":{SECRET}")), "the user name of Authorization: Basic is missing"),
    ] {
        // On a route that also admits strangers, it is still an attempt.
        for path in ["/key/a", "/either/a"] {
            let answer = gate.refuses(missing, get(path, &fields), 401, "invalid_key");
            let said = answer.body_text();
            assert!(said.contains(missing) && said.contains("both halves"), "{fields}: {said}");
            assert!(!said.contains("12345") && !said.contains("98765"), "{said}");
        }
    }
    // Next to a complete key it is a second credential.
    let fields = format!("x-id: {ID}\r\nx-api-key: {READER}\r\n");
    gate.refuses("half and whole", get("/key/a", &fields), 400, "duplicate_credential");
}

#[test]
fn a_refusal_says_whether_two_credentials_are_the_same() {
    let upstream = Upstream::start();
    let gate = world(&upstream, "user", "");
    let other = "wa_live_Other00123456789abcdefgh";
    let header = format!("X-Api-Key: {READER}\r\n");
    for (target, fields, same) in [
        ("/key/a".to_owned(), format!("Authorization: Bearer {READER}\r\n"), true),
        ("/key/a".to_owned(), header.clone(), true),
        (format!("/key/a?api_key={}", READER.replace('_', "%5F")), String::new(), true),
        ("/key/a".to_owned(), format!("Cookie: kg_key={READER}\r\n"), true),
        ("/key/a".to_owned(), basic(&format!("{READER}:")), true),
        ("/key/a".to_owned(), format!("Authorization: Bearer {other}\r\n"), false),
        ("/key/a".to_owned(), format!("X-Api-Key: {other}\r\n"), false),
        ("/key/a".to_owned(), format!("x-id: {ID}\r\nx-secret: {SECRET}\r\n"), false),
    ] {
        let request = get(&target, &format!("{header}{fields}"));
        let answer = gate.refuses(&target, request, 400, "duplicate_credential");
        let said = answer.body_text();
        assert_eq!(said.contains("the same credential is there more than once"), same, "{said}");
        assert_eq!(said.contains("they differ"), !same, "{said}");
        assert!(!said.contains("wa_live"), "{said}");
    }
}

/// A browser that offers nothing but the key closes the connection (1006), whatever the service says.
#[test]
fn a_key_alone_among_subprotocols_is_told_what_to_offer_beside_it() {
    let upstream = Upstream::start();
    let gate = world(&upstream, "user", "");
    let shake = |offer: &str| {
        let fields = format!(
            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: {offer}\r\n"
        );
        get("/key/a", &fields)
    };
    for offer in [
        format!("keygate.key.{READER}"),
        format!(", keygate.key.{READER},"),
        format!("keygate.key., keygate.key.{READER}"),
    ] {
        let answer = gate.refuses(&offer, shake(&offer), 400, "malformed_credential");
        let said = answer.body_text();
        assert!(said.contains("offer the subprotocol keygate.key beside it"), "{said}");
        let all = [answer.head.as_slice(), said.as_bytes()].concat();
        assert!(!String::from_utf8_lossy(&all).contains("wa_live"), "the answer has the key");
    }
    for beside in ["keygate.key", "chat"] {
        let offer = format!("{beside}, keygate.key.{READER}");
        assert_eq!(exchange(gate.address, shake(&offer)).status(), 200, "{offer}");
        assert!(!upstream.only().all("sec-websocket-protocol").concat().contains("wa_"));
    }
}
