//! User tokens in addition to keys: what the service learns, what is refused, and an identity
//! provider that is down, slow, or rotates its keys.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, MANAGER, READER, Setup};
use crate::support::upstream::{Step, Upstream};

pub(crate) const ROUTES: &str = r#"
[[credentials]]
source = "header"
name = "x-api-key"
[[credentials]]
source = "bearer"
prefixes = ["wa_"]
[[routes]]
path = "/both/*"
access = "key-or-token"
permissions = ["read"]
[[routes]]
path = "/users/*"
access = "token"
[[routes]]
path = "/admin/*"
access = "key-or-token"
permissions = ["manage"]
[[routes]]
path = "/keys/*"
[[routes]]
path = "/pass/*"
access = "key-or-pass"
[[routes]]
path = "/open/*"
access = "public"
"#;

/// Signs as the issuer, or as somebody else.
pub(crate) struct Signer(Ed25519KeyPair);

impl Signer {
    pub(crate) fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    pub(crate) fn jwk(&self, kid: &str) -> Value {
        let x = b64(self.0.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": "EdDSA", "use": "sig", "x": x})
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.0.sign(message.as_bytes());
        format!("{message}.{}", b64(signature))
    }

    /// A token of `kid` with these claims changed.
    pub(crate) fn token(&self, kid: &str, changes: Value) -> String {
        self.token_with(&json!({"alg": "EdDSA", "kid": kid}), changes)
    }

    /// The same with a given header.
    pub(crate) fn token_with(&self, header: &Value, changes: Value) -> String {
        let mut claims = json!({
            "iss": "https://idp.example/", "aud": "orders", "sub": "user-7", "org": "acme",
            "exp": now() + 600, "scope": "orders:read",
        });
        for (name, value) in changes.as_object().unwrap() {
            claims.as_object_mut().unwrap().insert(name.clone(), value.clone());
        }
        self.sign(header, &claims)
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

pub(crate) fn tokens(source: &str, more: &str) -> String {
    format!(
        "[[tokens]]\nissuer = \"https://idp.example/\"\naudiences = [\"orders\"]\n\
         algorithms = [\"EdDSA\"]\njwks = \"{source}\"\norg_claim = \"org\"\n\
         permissions_claim = \"scope\"\npermissions = {{ \"orders:read\" = [\"read\"] }}\n{more}\n"
    )
}

/// A sidecar whose issuer's keys are a file.
pub(crate) fn with_file(setup: Setup, keys: &[Value], more: &str) -> Gate {
    let folder = setup.rules(ROUTES).also(&tokens("jwks.json", more)).folder();
    folder.write("jwks.json", &jwks(keys));
    let gate = Gate::serve(folder);
    gate.wait_ready();
    gate
}

pub(crate) fn bearer(path: &str, token: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n")
}

pub(crate) fn code(body: &str) -> String {
    serde_json::from_str::<Value>(body).unwrap()["code"].as_str().unwrap().to_owned()
}

#[test]
fn keys_and_tokens_share_routes() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let gate = with_file(Gate::before(&upstream), &[issuer.jwk("one")], "");
    let token = issuer.token("one", json!({}));
    for path in ["/both/a", "/users/a"] {
        let forged = bearer(path, &token).replace(
            "\r\n\r\n",
            "\r\nx-subject: root\r\nx-token-issuer: https://evil/\r\nX_Credential: key\r\nx-key-id: key_x\r\n\r\n",
        );
        assert_eq!(exchange(gate.address, forged).status(), 200, "{path}");
        let got = upstream.only();
        for (name, want) in [
            ("x-subject", "user-7"),
            ("x-token-issuer", "https://idp.example/"),
            ("x-org-id", "acme"),
            ("x-permissions", "read"),
            ("x-credential", "token"),
        ] {
            assert_eq!(got.one(name).as_deref(), Some(want), "{name} on {path}");
        }
        for gone in ["authorization", "x-key-id", "x-key-name", "x-environment", "x-anonymous"] {
            assert_eq!(got.one(gone), None, "{gone} on {path}");
        }
    }
    let key = format!("GET /both/a HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {READER}\r\n\r\n");
    assert_eq!(exchange(gate.address, key).status(), 200);
    let got = upstream.only();
    assert_eq!(got.one("x-credential").as_deref(), Some("key"));
    assert_eq!(got.one("x-key-id").as_deref(), Some("key_reader"));
    assert_eq!(got.one("x-subject"), None);
    // Where no tokens are accepted, it is a stranger's.
    for path in ["/pass/a", "/open/a"] {
        assert_eq!(exchange(gate.address, bearer(path, &token)).status(), 200);
        let got = upstream.only();
        assert_eq!(got.one("authorization"), Some(format!("Bearer {token}")), "{path}");
        assert_eq!(got.one("x-subject"), None, "{path}");
    }
    // With a key next to it the token is removed: an admitted request forwards no credential.
    let beside =
        bearer("/keys/a", &token).replace("\r\n\r\n", &format!("\r\nx-api-key: {MANAGER}\r\n\r\n"));
    assert_eq!(exchange(gate.address, beside).status(), 200);
    assert_eq!(upstream.only().one("authorization"), None);
    assert!(gate.log_soon("user-7"));
    let log = gate.log();
    assert!(log.contains("\"issuer\":\"https://idp.example/\",\"subject\":\"user-7\""), "{log}");
    assert!(!log.contains(&token[..40]), "a token is in the log");
    let metrics = gate.metrics();
    for line in [
        r#"keygate_tokens_total{issuer="https://idp.example/",result="accepted"} 2"#,
        r#"keygate_jwks_fetches_total{issuer="https://idp.example/",result="changed"}"#,
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

/// The signature has proved whose token it is. Whether it opens anything is another question.
#[test]
fn a_refused_token_is_logged_with_its_user() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let gate = with_file(Gate::before(&upstream), &[issuer.jwk("one")], "limit = \"1/h\"");
    let user = "\"issuer\":\"https://idp.example/\",\"subject\":";
    let token = |sub: &str, scope: &str| issuer.token("one", json!({"sub": sub, "scope": scope}));
    for (name, sent, status, reason) in [
        ("no-permission", token("no-permission", "other"), 403, "permission"),
        ("too-fast", token("too-fast", "orders:read"), 200, "rate_limited"),
    ] {
        assert_eq!(exchange(gate.address, bearer("/both/a", &sent)).status(), status, "{name}");
        if reason == "rate_limited" {
            assert_eq!(exchange(gate.address, bearer("/both/a", &sent)).status(), 429);
        }
        let line = || {
            let log = gate.log();
            let of_reason = format!("\"reason\":\"{reason}\"");
            log.lines().find(|line| line.contains(&of_reason)).map(str::to_owned)
        };
        gate.process.eventually(name, || line().is_some());
        let line = line().unwrap();
        assert!(line.contains(&format!("{user}\"{name}\"")), "{line}");
        assert!(line.contains("\"org\":\"acme\""), "{line}");
    }
    // A token that somebody else has signed proves nothing.
    let forged = Signer::new(2).token("one", json!({"sub": "forged"}));
    assert_eq!(exchange(gate.address, bearer("/both/a", &forged)).status(), 401);
    assert!(gate.log_soon("\"reason\":\"token_invalid\""), "{}", gate.log());
    assert!(!gate.log().contains("forged"), "{}", gate.log());
}

#[test]
fn what_is_wrong_with_a_token_is_told() {
    let upstream = Upstream::start();
    let (issuer, stranger) = (Signer::new(1), Signer::new(2));
    let keys = [issuer.jwk("one")];
    let gate = with_file(Gate::before(&upstream), &keys, "");
    let token = |changes| issuer.token("one", changes);
    let good = token(json!({}));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let none = format!("{}.{}.", b64(r#"{"alg":"none"}"#), message.split_once('.').unwrap().1);
    let hmac = {
        let head = format!("{}.{}", b64(r#"{"alg":"HS256","kid":"one"}"#), b64("{}"));
        let key =
            aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, issuer.0.public_key().as_ref());
        format!("{head}.{}", b64(aws_lc_rs::hmac::sign(&key, head.as_bytes())))
    };
    for (name, path, token, status, want, result) in [
        ("expired", "/both/a", token(json!({"exp": now() - 1})), 401, "expired_token", "expired"),
        (
            "exp as text",
            "/both/a",
            token(json!({"exp": "9999999999"})),
            401,
            "invalid_token",
            "claims",
        ),
        (
            "iss as list",
            "/both/a",
            token(json!({"iss": ["https://idp.example/"]})),
            401,
            "invalid_token",
            "issuer",
        ),
        (
            "another audience",
            "/both/a",
            token(json!({"aud": "billing"})),
            401,
            "invalid_token",
            "audience",
        ),
        (
            "too long a life",
            "/both/a",
            token(json!({"exp": now() + 90_000})),
            401,
            "invalid_token",
            "lifetime",
        ),
        (
            "not yet",
            "/both/a",
            token(json!({"nbf": now() + 300})),
            401,
            "invalid_token",
            "not_yet_valid",
        ),
        ("no org", "/both/a", token(json!({"org": 7})), 403, "unknown_org", "org"),
        (
            "unknown kid",
            "/both/a",
            issuer.token("two", json!({})),
            401,
            "invalid_token",
            "key_unknown",
        ),
        (
            "a stranger's signature",
            "/both/a",
            stranger.token("one", json!({})),
            401,
            "invalid_token",
            "signature",
        ),
        (
            "another signature",
            "/both/a",
            format!("{message}.{}", signature.chars().rev().collect::<String>()),
            401,
            "invalid_token",
            "signature",
        ),
        ("none", "/both/a", none, 401, "invalid_token", "algorithm"),
        ("HMAC with the public key", "/both/a", hmac, 401, "invalid_token", "algorithm"),
        ("9 KiB", "/both/a", token(json!({"pad": "x".repeat(9000)})), 401, "invalid_token", "size"),
        (
            "a permission is missing",
            "/admin/a",
            good.clone(),
            403,
            "insufficient_permission",
            "accepted",
        ),
        ("not where keys alone open", "/keys/a", good.clone(), 401, "not_an_api_key", ""),
        ("a key where tokens alone open", "/users/a", READER.to_owned(), 401, "token_required", ""),
        ("no form of a token", "/users/a", "abc".to_owned(), 401, "token_required", ""),
        ("no form of anything", "/both/a", "abc".to_owned(), 401, "not_an_api_key", ""),
    ] {
        let refused = exchange(gate.address, bearer(path, &token));
        assert_eq!(
            (refused.status(), code(&refused.body_text())),
            (status, want.to_owned()),
            "{name}"
        );
        let challenge = refused.one("www-authenticate").unwrap_or_default();
        assert_eq!(
            challenge.contains("Bearer"),
            status == 401 || want == "insufficient_permission",
            "{name}: {challenge}"
        );
        if !result.is_empty() {
            let metrics = gate.metrics();
            let word = format!("result=\"{result}\"}}");
            assert!(
                metrics.lines().any(|l| l.starts_with("keygate_tokens_total") && l.contains(&word)),
                "{name}"
            );
        }
    }
    let both =
        bearer("/both/a", &good).replace("\r\n\r\n", &format!("\r\nx-api-key: {READER}\r\n\r\n"));
    let refused = exchange(gate.address, both);
    assert_eq!(
        (refused.status(), code(&refused.body_text())),
        (400, "duplicate_credential".into())
    );
    assert_eq!(upstream.take().len(), 0, "the service has seen one of them");
}

#[test]
fn a_token_is_forwarded_only_by_choice() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let gate = with_file(Gate::before(&upstream), &[issuer.jwk("one")], "forward = true");
    let token = issuer.token("one", json!({}));
    assert_eq!(exchange(gate.address, bearer("/both/a", &token)).status(), 200);
    let got = upstream.only();
    assert_eq!(got.one("authorization"), Some(format!("Bearer {token}")));
    assert_eq!(got.one("x-subject").as_deref(), Some("user-7"));
}

#[test]
fn an_org_can_be_one_of_the_table() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let gate = with_file(Gate::before(&upstream), &[issuer.jwk("one")], "orgs = \"table\"");
    let of = |org: &str| {
        exchange(gate.address, bearer("/both/a", &issuer.token("one", json!({"org": org}))))
    };
    assert_eq!(of("acme").status(), 200);
    for org in ["acm", "acme2", "zebra", "a"] {
        let refused = of(org);
        assert_eq!(
            (refused.status(), code(&refused.body_text())),
            (403, "unknown_org".into()),
            "{org}"
        );
    }
}

#[test]
fn bad_signatures_have_a_budget() {
    let upstream = Upstream::start();
    let (issuer, stranger) = (Signer::new(1), Signer::new(2));
    let gate =
        with_file(Gate::before(&upstream).top("workers = { count = 1 }"), &[issuer.jwk("one")], "");
    let known = issuer.token("one", json!({"sub": "known"}));
    assert_eq!(exchange(gate.address, bearer("/both/a", &known)).status(), 200);
    let mut client = Client::connect(gate.address);
    let mut statuses = Vec::new();
    for n in 0..40 {
        let forged = stranger.token("one", json!({"sub": format!("u{n}")}));
        statuses.push(client.send(bearer("/both/a", &forged)).response().status());
    }
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!(statuses[..30].iter().all(|status| *status == 401), "{statuses:?}");
    // One becomes available every two seconds.
    assert!((5..=10).contains(&refused), "{statuses:?}");
    let fresh =
        client.send(bearer("/both/a", &issuer.token("one", json!({"sub": "new"})))).response();
    assert_eq!((fresh.status(), code(&fresh.body_text())), (429, "too_many_attempts".into()));
    assert_eq!(fresh.one("retry-after").as_deref(), Some("2"));
    assert_eq!(client.send(bearer("/both/a", &known)).response().status(), 200, "verified before");
    assert_eq!(client.send(bearer("/both/a", READER)).response().status(), 200, "a key");
    let metrics = gate.metrics();
    assert!(metrics.contains(r#"result="budget"}"#), "{metrics}");
}

#[test]
fn each_subject_has_its_limit() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let gate = with_file(Gate::before(&upstream), &[issuer.jwk("one")], "limit = \"2/h\"");
    let as_user = |sub: &str| {
        exchange(gate.address, bearer("/both/a", &issuer.token("one", json!({"sub": sub}))))
    };
    for (sub, want) in [("a", 200), ("a", 200), ("a", 429), ("b", 200), ("a", 429)] {
        assert_eq!(as_user(sub).status(), want, "{sub}");
    }
    let refused = as_user("a");
    assert_eq!(code(&refused.body_text()), "rate_limited");
    assert!(refused.one("retry-after").unwrap().parse::<u64>().unwrap() > 1000);
}

/// Users and keys of one org share what the table and the configuration state for it. If one limit
/// refuses a request, the others lose nothing.
#[test]
fn tokens_are_charged_by_the_policies_of_their_org() {
    const POLICIES: &str = r#"
[[policies]]
name = "per-key"
limit = "3/h"
[[policies]]
name = "monthly"
scope = "org"
[[policies]]
name = "search"
scope = "org"
classes = ["search"]
limit = "4/h"
[[routes]]
id = "search"
path = "/search"
access = "key-or-token"
class = "search"
cost = 3
[[routes]]
id = "free"
path = "/free"
access = "token"
cost = 0
"#;
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let rules = format!("{ROUTES}{POLICIES}");
    let settings = tokens("jwks.json", "limit = \"5/h\"");
    let folder = Gate::before(&upstream).rules(&rules).also(&settings).folder();
    folder.write("jwks.json", &jwks(&[issuer.jwk("one")]));
    let org = "[[org]]\nid = \"acme\"\nlimits = { monthly = \"8/h\" }\n[[key]]\n";
    folder.write("keys.toml", &folder.read("keys.toml").replacen("[[key]]\n", org, 1));
    folder.build_as("keys.kgt", &["--format", "2"]);
    let gate = Gate::serve(folder);
    gate.wait_ready();
    let ask = |path: &str, sub: &str, org: &str| {
        let token = issuer.token("one", json!({"sub": sub, "org": org}));
        exchange(gate.address, bearer(path, &token))
    };
    let first = ask("/both/a", "a", "acme");
    assert_eq!(first.status(), 200);
    let policies = r#""per-key";q=5;w=3600, "monthly";q=8;w=3600"#;
    assert_eq!(first.one("ratelimit-policy").as_deref(), Some(policies));
    assert!(first.one("ratelimit").unwrap().starts_with(r#""per-key";r=4;"#));
    // Three more each under `monthly` (4 left), `search` (1 left) and the subject's (1 left).
    assert_eq!(ask("/search", "a", "acme").status(), 200);
    // Another subject of the org still has its own limit, but the class has nothing left.
    for _ in 0..5 {
        let refused = ask("/search", "b", "acme");
        assert_eq!(refused.status(), 429);
        assert!(refused.one("ratelimit").unwrap().starts_with(r#""search";r=0;"#), "by name");
        assert!(!refused.one("ratelimit").unwrap().contains(','), "by no other");
    }
    // None of these took anything: b has five, and the org four.
    for left in [4, 3, 2] {
        let answer = ask("/users/a", "b", "acme");
        assert_eq!(answer.status(), 200);
        let limits = answer.one("ratelimit").unwrap();
        let monthly = format!(r#""monthly";r={};"#, left - 1);
        assert!(limits.starts_with(&monthly), "{limits}");
    }
    // A key takes the org's last, and then neither key nor user gets more.
    assert_eq!(exchange(gate.address, bearer("/both/a", READER)).status(), 200);
    let refused = ask("/both/a", "b", "acme");
    assert_eq!((refused.status(), code(&refused.body_text())), (429, "rate_limited".into()));
    assert!(refused.one("ratelimit").unwrap().starts_with(r#""monthly";r=0;"#));
    assert_eq!(exchange(gate.address, bearer("/both/a", READER)).status(), 429);
    assert_eq!(ask("/free", "b", "acme").status(), 200, "no cost");
    // Another org is independent: it has the class's default, and no `monthly`.
    assert_eq!(ask("/search", "a", "globex").status(), 429, "one is left to the subject");
    assert_eq!(ask("/search", "c", "globex").status(), 200);
    assert_eq!(ask("/search", "d", "globex").status(), 429, "and one to its class");
    assert_eq!(ask("/both/a", "d", "globex").status(), 200);
    let text = exchange(gate.admin, "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").body_text();
    for (series, count) in [
        ("decision=\"limited\",policy=\"search\"", 6),
        ("decision=\"limited\",policy=\"monthly\"", 2),
        ("decision=\"allowed\",policy=\"monthly\"", 6),
    ] {
        let line = format!("keygate_ratelimit_decisions_total{{{series}}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}

/// What the service does not see when enforced, it does not see when observed.
#[test]
fn observing_with_strip_forwards_no_token() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let headers =
        ROUTES.replace("[[credentials]]\nsource = \"bearer\"\nprefixes = [\"wa_\"]\n", "");
    assert_ne!(headers, ROUTES);
    for routes in [ROUTES, &headers] {
        let more = tokens("jwks.json", "") + "[observe]\ncredentials = \"strip\"\n";
        let folder = Gate::before(&upstream).rules(routes).also(&more).folder();
        folder.write("jwks.json", &jwks(&[issuer.jwk("one")]));
        let gate = Gate::serve(folder);
        gate.wait_ready();
        let good = issuer.token("one", json!({}));
        let twice = bearer("/both/a", &good)
            .replace("\r\n\r\n", &format!("\r\nauthorization: Bearer {good}\r\n\r\n"));
        let key = format!("\r\nx-api-key: {READER}\r\n\r\n");
        for (name, request) in [
            ("good", bearer("/both/a", &good)),
            ("expired", bearer("/both/a", &issuer.token("one", json!({"exp": now() - 5})))),
            ("no permission", bearer("/admin/a", &good)),
            ("a bad path", bearer("/both//a", &good)),
            ("on a rule for keys", bearer("/keys/a", &good)),
            ("twice", twice),
            ("beside a key", bearer("/both/a", &good).replace("\r\n\r\n", &key)),
        ] {
            exchange(gate.address, request);
            for got in upstream.take() {
                assert_eq!(got.one("authorization"), None, "{name}");
            }
        }
        exchange(gate.address, bearer("/open/a", &good));
        assert!(upstream.only().one("authorization").is_some(), "the service's own");
    }
}

/// Two issuers know the same name.
#[test]
fn subjects_of_two_issuers_are_two() {
    let upstream = Upstream::start();
    let (one, other) = (Signer::new(1), Signer::new(2));
    let more = tokens("other.json", "limit = \"1/h\"").replace("//idp.", "//other.");
    let folder = Gate::before(&upstream)
        .rules(ROUTES)
        .also(&(tokens("jwks.json", "limit = \"1/h\"") + &more))
        .folder();
    folder.write("jwks.json", &jwks(&[one.jwk("one")]));
    folder.write("other.json", &jwks(&[other.jwk("one")]));
    let gate = Gate::serve(folder);
    gate.wait_ready();
    for (signer, issuer) in [(&one, "https://idp.example/"), (&other, "https://other.example/")] {
        let token = signer.token("one", json!({"iss": issuer}));
        assert_eq!(exchange(gate.address, bearer("/both/a", &token)).status(), 200, "{issuer}");
        let got = upstream.only();
        assert_eq!(got.one("x-token-issuer").as_deref(), Some(issuer));
        assert_eq!(got.one("x-subject").as_deref(), Some("user-7"));
        assert_eq!(exchange(gate.address, bearer("/both/a", &token)).status(), 429, "{issuer}");
    }
}

#[test]
fn streams_end_at_exp() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n";
    let upstream = Upstream::answering(move |_| vec![Step::Send(head.into()), Step::Drain]);
    let issuer = Signer::new(1);
    let gate = with_file(Gate::before(&upstream), &[issuer.jwk("one")], "");
    let mut stream = Client::connect(gate.address);
    stream.send(bearer("/both/a", &issuer.token("one", json!({"exp": now() + 2}))));
    assert_eq!(stream.response_head().status(), 200);
    while !stream.read_some().is_empty() {}
    let ended = r#"keygate_streams_ended_total{reason="token_expired"} 1"#;
    gate.process.eventually("the stream is counted", || gate.metrics().contains(ended));
}
