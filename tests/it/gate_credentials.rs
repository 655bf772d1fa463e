//! Where a key may be, who a credential belongs to, and that none for keygate is forwarded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::client::exchange;
use crate::support::gate::{Gate, Key, MANAGER, READER};
use crate::support::upstream::Upstream;

/// Every carrier at once, two of them with prefixes.
const EVERY_CARRIER: &str = r#"
[[credentials]]
source = "header"
name = "x-api-key"
[[credentials]]
source = "bearer"
prefixes = ["wa_"]
[[credentials]]
source = "basic"
form = "user"
prefixes = ["wa_"]
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

const PAIR_SECRET: &str = "98765-zyxwv-43210-utsrq";

fn world(upstream: &Upstream) -> Gate {
    Gate::before(upstream)
        .rules(EVERY_CARRIER)
        .key(
            Key::new("key_pair", PAIR_SECRET)
                .may("read")
                .with("public_id = \"12345-abcde-67890-fghij\""),
        )
        .start()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// (name, target, fields) of a good credential in each carrier.
fn carriers(path: &str) -> Vec<(&'static str, String, String)> {
    let plain = |fields: String| (path.to_owned(), fields);
    let query = |query: &str| (format!("{path}?{query}"), String::new());
    [
        ("header", plain(format!("X-Api-Key: {READER}\r\n"))),
        ("header with spaces around", plain(format!("x-api-key: \t {READER} \r\n"))),
        ("bearer", plain(format!("Authorization: Bearer {READER}\r\n"))),
        ("bearer, scheme in any case", plain(format!("Authorization: bEaReR {READER}\r\n"))),
        ("bearer, more spaces", plain(format!("Authorization: Bearer  {READER}\r\n"))),
        ("basic", plain(format!("Authorization: {}\r\n", basic(READER, "")))),
        (
            "basic, scheme in any case",
            plain(format!("Authorization: {}\r\n", basic(READER, "").replace("Basic", "BASIC"))),
        ),
        ("query", query(&format!("api_key={READER}"))),
        ("query, first", query(&format!("api_key={READER}&b=2"))),
        ("query, last", query(&format!("b=2&api_key={READER}"))),
        ("query, middle", query(&format!("b=2&api_key={READER}&c=%20"))),
        ("query, name encoded", query(&format!("b=2&%61pi_ke%79={READER}"))),
        ("query, value encoded", query(&format!("api_key={}", READER.replace('_', "%5F")))),
        ("cookie", plain(format!("Cookie: kg_key={READER}\r\n"))),
        ("cookie among others", plain(format!("Cookie: a=1; kg_key={READER}; b=2\r\n"))),
        ("cookie of two lines", plain(format!("Cookie: a=1\r\nCookie: kg_key={READER}; b=2\r\n"))),
        ("cookie, name encoded", plain(format!("Cookie: a=1; %6bg_ke%79={READER}\r\n"))),
        (
            "cookie, value encoded",
            plain(format!("Cookie: kg_key={}\r\n", READER.replace('_', "%5F"))),
        ),
        ("pair", plain(format!("x-id: 12345-abcde-67890-fghij\r\nx-secret: {PAIR_SECRET}\r\n"))),
    ]
    .into_iter()
    .map(|(name, (target, fields))| (name, target, fields))
    .collect()
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

#[test]
fn each_carrier_opens_and_none_travels() {
    let upstream = Upstream::start();
    let gate = world(&upstream);
    for path in ["/key/a", "/either/a"] {
        for (name, target, fields) in carriers(path) {
            let answer = exchange(gate.address, get(&target, &fields));
            assert_eq!(answer.status(), 200, "{name}: {}", answer.body_text());
            let got = upstream.only();
            assert_eq!(got.all("x-org-id"), ["acme"], "{name}");
            assert!(got.all("x-anonymous").is_empty(), "{name}");
            for carrier in ["authorization", "x-api-key", "x-id", "x-secret"] {
                assert!(got.all(carrier).is_empty(), "{name}: {carrier} arrived");
            }
            let raw = String::from_utf8_lossy(&got.head).to_lowercase();
            for part in ["wa_live", "wa%5f", "98765", "kg_key", "pi_ke", "12345-abcde"] {
                assert!(!raw.contains(part), "{name}: {part} arrived:\n{raw}");
            }
        }
    }
}

/// Everything next to the credential belongs to the client and stays, byte for byte.
#[test]
fn neighbours_of_the_credential_stay() {
    let upstream = Upstream::start();
    let gate = world(&upstream);
    for (query, want) in [
        ("api_key=K", "/key/a"),
        ("api_key=K&b=2", "/key/a?b=2"),
        ("b=2&api_key=K", "/key/a?b=2"),
        ("b=%20+%2B&api_key=K&c&&d=?/", "/key/a?b=%20+%2B&c&&d=?/"),
        ("xapi_key=1&api_key=K&api_key_=2", "/key/a?xapi_key=1&api_key_=2"),
        ("API_KEY=1&api_key=K", "/key/a?API_KEY=1"),
    ] {
        let target = format!("/key/a?{}", query.replace("=K", &format!("={READER}")));
        assert_eq!(exchange(gate.address, get(&target, "")).status(), 200, "{query}");
        assert_eq!(upstream.only().first_line(), format!("GET {want} HTTP/1.1"), "{query}");
    }
    let cookies = format!("cookie: theme=dark; kg_key={READER}; session=abc\"=; KG_KEY=other\r\n");
    assert_eq!(exchange(gate.address, get("/key/a", &cookies)).status(), 200);
    assert_eq!(upstream.only().all("cookie"), ["theme=dark; session=abc\"=; KG_KEY=other"]);
    let only = format!("cookie: kg_key={READER}\r\n");
    assert_eq!(exchange(gate.address, get("/key/a", &only)).status(), 200);
    assert!(upstream.only().all("cookie").is_empty());
}

/// An admitted request loses every configured carrier, a user token included.
#[test]
fn an_admitted_request_loses_foreign_credentials_in_our_carriers() {
    let upstream = Upstream::start();
    let gate = world(&upstream);
    let fields = format!("x-api-key: {READER}\r\nauthorization: Bearer eyJhbGciOi.J9.x\r\n");
    let answer = exchange(gate.address, get("/key/a", &fields));
    assert_eq!(answer.status(), 200, "{}", answer.body_text());
    assert!(upstream.only().all("authorization").is_empty());
}

#[test]
fn what_is_not_ours_passes_only_where_the_route_says_so() {
    let upstream = Upstream::start();
    let gate = world(&upstream);
    for (name, authorization) in [
        ("user token", "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x".to_owned()),
        ("user's basic", basic("alice", "secret")),
        ("digest", "Digest username=\"a\"".into()),
        ("negotiate", "Negotiate YII=".into()),
    ] {
        let fields = format!("authorization: {authorization}\r\nx-org-id: evil\r\n");
        let answer = exchange(gate.address, get("/either/a", &fields));
        assert_eq!(answer.status(), 200, "{name}: {}", answer.body_text());
        let got = upstream.only();
        assert_eq!(got.all("authorization"), std::slice::from_ref(&authorization), "{name}");
        assert_eq!(got.all("x-anonymous"), ["true"], "{name}");
        assert!(got.all("x-org-id").is_empty(), "{name}");
        let answer = gate.refuses_bytes(name, get("/key/a", &fields).as_bytes(), 401);
        assert!(answer.one("www-authenticate").is_some(), "{name}");
    }
    // Nothing at all, and a session cookie without a key.
    for fields in ["", "cookie: session=abc\r\n"] {
        assert_eq!(exchange(gate.address, get("/either/a", fields)).status(), 200);
        assert_eq!(upstream.only().all("x-anonymous"), ["true"]);
        gate.refuses("nothing", get("/key/a", fields), 401, "missing_key");
    }
}

/// An invalid credential for keygate is refused on a `key-or-pass` route, never passed to the
/// service.
#[test]
fn ours_but_invalid_is_never_passed() {
    let upstream = Upstream::start();
    let gate = world(&upstream);
    let wrong = "wa_live_Wrong00123456789abcdefgh";
    for (name, target, fields) in carriers("/either/a") {
        let wrongly = |t: &str| {
            t.replace(READER, wrong)
                .replace(&READER.replace('_', "%5F"), wrong)
                .replace(PAIR_SECRET, "98765-zyxwv-43210-wrong")
                .replace(&basic(READER, ""), &basic(wrong, ""))
                .replace(&basic(READER, "").replace("Basic", "BASIC"), &basic(wrong, ""))
        };
        gate.refuses(name, get(&wrongly(&target), &wrongly(&fields)), 401, "invalid_key");
    }
}

/// On a public route keygate looks at nothing, yet a credential for keygate is not forwarded.
#[test]
fn public_routes_look_at_nothing_and_leak_nothing() {
    let upstream = Upstream::start();
    let gate = world(&upstream);
    for (name, target, fields) in carriers("/public/a") {
        let answer = exchange(gate.address, get(&target, &fields));
        assert_eq!(answer.status(), 200, "{name}: {}", answer.body_text());
        let got = upstream.only();
        assert!(got.all("x-org-id").is_empty(), "{name}: identity on a public route");
        let raw = String::from_utf8_lossy(&got.head).to_lowercase();
        for part in ["wa_live", "wa%5f", "98765"] {
            assert!(!raw.contains(part), "{name}: {part} arrived:\n{raw}");
        }
        assert!(!raw.contains(&basic(READER, "").to_lowercase()[6..]), "{name}");
    }
}

#[test]
fn forms_of_basic() {
    for (form, user, password) in [
        ("user", READER, ""),
        ("password", "anything", READER),
        ("password", "", READER),
        ("pair", "12345-abcde-67890-fghij", PAIR_SECRET),
    ] {
        let upstream = Upstream::start();
        let gate = Gate::before(&upstream)
            .rules(&format!(
                "[[credentials]]\nsource = \"basic\"\nform = \"{form}\"\n[[routes]]\npath = \"/*\"\n"
            ))
            .key(
                Key::new("key_pair", PAIR_SECRET)
                    .with("public_id = \"12345-abcde-67890-fghij\""),
            )
            .start();
        let ask = |value: String| get("/a", &format!("authorization: {value}\r\n"));
        assert_eq!(exchange(gate.address, ask(basic(user, password))).status(), 200, "{form}");
        assert!(upstream.only().all("authorization").is_empty());
        gate.refuses_bytes(form, ask(basic(user, &format!("{password}x"))).as_bytes(), 401);
        gate.refuses_bytes(form, ask(basic(&format!("{user}x"), "wrong")).as_bytes(), 401);
        for broken in ["Basic", "Basic ", "Basic !!!!", "Basic YQ", "Basic YWJj"] {
            let status = exchange(gate.address, ask(broken.into())).status();
            assert!([400, 401].contains(&status), "{form} {broken:?}: {status}");
        }
        assert!(upstream.take().is_empty());
    }
}

/// Half a pair, an unknown id and a wrong secret.
#[test]
fn pairs() {
    let upstream = Upstream::start();
    let gate = world(&upstream);
    let (id, secret) =
        ("x-id: 12345-abcde-67890-fghij\r\n", format!("x-secret: {PAIR_SECRET}\r\n"));
    for (name, fields, code) in [
        ("id alone", id.to_owned(), None),
        ("secret alone", secret.clone(), None),
        ("wrong secret", format!("{id}x-secret: nope\r\n"), Some("invalid_key")),
        ("unknown id", format!("x-id: nope\r\n{secret}"), Some("invalid_key")),
        ("secret in both", format!("x-id: {PAIR_SECRET}\r\n{secret}"), Some("invalid_key")),
        ("single key as pair", format!("{id}x-secret: {READER}\r\n"), Some("invalid_key")),
    ] {
        let answer = gate.refuses_bytes(name, get("/key/a", &fields).as_bytes(), 401);
        if let Some(code) = code {
            assert_eq!(answer.code(), code, "{name}");
        }
    }
    let twice = format!("{id}{secret}{secret}");
    gate.refuses("secret twice", get("/key/a", &twice), 400, "duplicate_credential");
    let and_single = format!("{id}{secret}x-api-key: {READER}\r\n");
    gate.refuses("pair and single", get("/key/a", &and_single), 400, "duplicate_credential");
    // A pair's secret is not a single key.
    let single = format!("x-api-key: {PAIR_SECRET}\r\n");
    gate.refuses("pair's secret alone in a header", get("/key/a", &single), 401, "invalid_key");
}

/// HAProxy takes `key\0anything`, nginx's map a key in another case: keys are bytes.
#[test]
fn keys_are_bytes() {
    let upstream = Upstream::start();
    let gate = world(&upstream);
    let swapped: String =
        READER
            .chars()
            .map(|c| {
                if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }
            })
            .collect();
    for (name, key) in [
        ("swapped case", swapped),
        ("upper case", READER.to_uppercase()),
        ("one less", READER[..READER.len() - 1].to_owned()),
        ("one more", format!("{READER}x")),
        ("quoted", format!("\"{READER}\"")),
        ("prefix alone", "wa_".into()),
        ("digest of it", crate::support::gate::digest(READER)),
        ("key id", "key_reader".into()),
    ] {
        let request = get("/key/a", &format!("x-api-key: {key}\r\n"));
        gate.refuses(name, request, 401, "invalid_key");
    }
    for (name, key) in [
        ("NUL and more", format!("{READER}\0anything")),
        ("NUL", format!("{READER}\0")),
        ("control", format!("{READER}\x01")),
        ("DEL", format!("{READER}\x7f")),
    ] {
        gate.refuses_bytes(name, get("/key/a", &format!("x-api-key: {key}\r\n")).as_bytes(), 400);
    }
    for (name, target) in [
        ("encoded NUL in query", format!("/key/a?api_key={READER}%00")),
        ("encoded LF in query", format!("/key/a?api_key={READER}%0a")),
    ] {
        gate.refuses_bytes(name, get(&target, "").as_bytes(), 400);
    }
}

/// ARCHITECTURE invariant 9: for the client, unknown and wrong are identical, byte for byte.
#[test]
fn unknown_wrong_revoked_and_disabled_answer_alike() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream)
        .rules(EVERY_CARRIER)
        .key(
            Key::new("key_pair", PAIR_SECRET)
                .may("read")
                .with("public_id = \"12345-abcde-67890-fghij\""),
        )
        .key(Key::new("key_revoked", "wa_revoked0123456789abcdefgh").with("status = \"revoked\""))
        .key(Key::new("key_disabled", "wa_disabled0123456789abcdefg").with("status = \"disabled\""))
        .start();
    let mut answers = Vec::new();
    for (name, fields, reason) in [
        ("unknown", "x-api-key: wa_unknown0123456789abcdefgh\r\n".to_owned(), "unknown"),
        ("revoked", "x-api-key: wa_revoked0123456789abcdefgh\r\n".into(), "revoked"),
        ("disabled", "x-api-key: wa_disabled0123456789abcdefg\r\n".into(), "disabled"),
        ("unknown pair", "x-id: no-such\r\nx-secret: nope\r\n".into(), "unknown"),
        (
            "wrong secret",
            "x-id: 12345-abcde-67890-fghij\r\nx-secret: nope\r\n".into(),
            "wrong_secret",
        ),
    ] {
        let answer = gate.refuses(name, get("/key/a", &fields), 401, "invalid_key");
        // What differs from request to request, and nothing else.
        let id = answer.one("x-request-id").unwrap_or_default();
        let head = String::from_utf8_lossy(&answer.head).into_owned();
        let head: Vec<_> = head.lines().filter(|l| !l.starts_with("date:")).collect();
        let text = format!("{}\n{}", head.join("\n"), answer.body_text());
        assert!(!id.is_empty(), "{name}: a refusal names its request");
        answers.push((name, text.replace(&id, "ID")));
        // Logs and metrics distinguish them.
        assert!(gate.log_soon(&format!("\"{reason}\"")), "{name}: {}", gate.log());
        assert!(gate.metrics().contains(&format!("reason=\"{reason}\"")), "{name}");
    }
    for (name, text) in &answers {
        assert_eq!(text, &answers[0].1, "{name}");
    }
}

/// A caller who has proved possession learns more, unless the switch says no.
#[test]
fn what_is_told_after_possession_is_proved() {
    let upstream = Upstream::start();
    let world = |refusals: &str| {
        Gate::before(&upstream)
            .also(refusals)
            .key(
                Key::new("key_old", "wa_old0123456789abcdefghijkl")
                    .with("expires = \"2020-01-01T00:00:00Z\""),
            )
            .key(
                Key::new("key_new", "wa_new0123456789abcdefghijkl")
                    .with("not_before = \"2090-01-01T00:00:00Z\""),
            )
            .key(
                Key::new("key_test", "wa_test0123456789abcdefghijk").with("environment = \"test\""),
            )
            .start()
    };
    let keys = [
        ("wa_old0123456789abcdefghijkl", "expired_key"),
        ("wa_new0123456789abcdefghijkl", "key_not_yet_valid"),
        ("wa_test0123456789abcdefghijk", "wrong_environment"),
    ];
    let gate = world("");
    for (key, code) in keys {
        gate.refuses(code, get("/v1/a", &format!("x-api-key: {key}\r\n")), 401, code);
    }
    let gate = world("[refusals]\ndisclosure = \"uniform\"\n");
    for (key, code) in keys {
        gate.refuses(code, get("/v1/a", &format!("x-api-key: {key}\r\n")), 401, "invalid_key");
    }
}

#[test]
fn every_401_challenges() {
    let upstream = Upstream::start();
    let gate = world(&upstream);
    for (name, fields) in [
        ("missing", String::new()),
        ("unknown", "x-api-key: wa_nope\r\n".into()),
        ("foreign", "authorization: Bearer eyJ.a.b\r\n".into()),
    ] {
        let answer = gate.refuses_bytes(name, get("/key/a", &fields).as_bytes(), 401);
        let challenges = answer.all("www-authenticate").join(", ");
        assert!(challenges.contains("Bearer"), "{name}: {challenges}");
        assert_eq!(
            challenges.contains("error=\"invalid_token\""),
            name != "missing",
            "{name}: {challenges}"
        );
    }
    // Caches must not keep a key in the query.
    let answer = gate.refuses("query", get("/key/a?api_key=wa_nope", ""), 401, "invalid_key");
    assert!(answer.all("cache-control").iter().any(|c| c.contains("no-store")));
}

#[test]
fn environments_and_permissions() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    let ask = |path: &str, key: &str| get(path, &format!("x-api-key: {key}\r\n"));
    assert_eq!(exchange(gate.address, ask("/admin/a", MANAGER)).status(), 200);
    assert_eq!(upstream.only().all("x-permissions"), ["*"]);
    gate.refuses("reader on admin", ask("/admin/a", READER), 403, "insufficient_permission");
    let gate = Gate::before(&upstream).top("require_environment = true").start();
    gate.refuses("no environment", ask("/v1/a", MANAGER), 401, "wrong_environment");
    assert_eq!(exchange(gate.address, ask("/v1/a", READER)).status(), 200);
    upstream.only();
}
