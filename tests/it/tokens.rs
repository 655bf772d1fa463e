//! User tokens beside keys: what the service learns, what is refused, and an identity provider that
//! is down, slow, or rotates its keys.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, MANAGER, READER, Setup, keygate};
use crate::support::upstream::{Step, Upstream, answer};

const ROUTES: &str = r#"
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
struct Signer(Ed25519KeyPair);

impl Signer {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn jwk(&self, kid: &str) -> Value {
        let x = b64(self.0.public_key());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": "EdDSA", "use": "sig", "x": x})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.0.sign(message.as_bytes());
        format!("{message}.{}", b64(signature))
    }

    /// A token of `kid` with these claims changed.
    fn token(&self, kid: &str, changes: Value) -> String {
        let mut claims = json!({
            "iss": "https://idp.example/", "aud": "orders", "sub": "user-7", "org": "acme",
            "exp": now() + 600, "scope": "orders:read",
        });
        for (name, value) in changes.as_object().unwrap() {
            claims.as_object_mut().unwrap().insert(name.clone(), value.clone());
        }
        self.sign(&json!({"alg": "EdDSA", "kid": kid}), &claims)
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn tokens(source: &str, more: &str) -> String {
    format!(
        "[[tokens]]\nissuer = \"https://idp.example/\"\naudiences = [\"orders\"]\n\
         algorithms = [\"EdDSA\"]\njwks = \"{source}\"\norg_claim = \"org\"\n\
         permissions_claim = \"scope\"\npermissions = {{ \"orders:read\" = [\"read\"] }}\n{more}\n"
    )
}

/// A sidecar whose issuer's keys are a file.
fn with_file(setup: Setup, keys: &[Value], more: &str) -> Gate {
    let folder = setup.rules(ROUTES).also(&tokens("jwks.json", more)).folder();
    folder.write("jwks.json", &jwks(keys));
    let gate = Gate::serve(folder);
    gate.wait_ready();
    gate
}

fn bearer(path: &str, token: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n")
}

fn code(body: &str) -> String {
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
    // Where no token is taken it is a stranger's.
    for path in ["/pass/a", "/open/a"] {
        assert_eq!(exchange(gate.address, bearer(path, &token)).status(), 200);
        let got = upstream.only();
        assert_eq!(got.one("authorization"), Some(format!("Bearer {token}")), "{path}");
        assert_eq!(got.one("x-subject"), None, "{path}");
    }
    // A key beside it loses the token: an admitted request carries no credential on.
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
    // One comes back every two seconds.
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

/// Users and keys of one org share what the table and the configuration state for it; what one limit
/// refuses takes nothing from another.
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
    // Another subject of the org has a limit of its own left, and the class has not.
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
    // Another org is another matter: it has the class's default, and no `monthly`.
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

/// The issuer answers only when it is told to. Until then nobody has waited for it.
#[test]
fn no_request_waits_for_an_issuer() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let released = Arc::new(AtomicBool::new(false));
    let (its, set) = (Arc::clone(&released), jwks(&[issuer.jwk("one")]));
    let idp = Upstream::answering(move |_| {
        for _ in 0..800 {
            if its.load(Ordering::SeqCst) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        answer("200 OK", "", &set)
    });
    let source = format!("http://{}/jwks", idp.address);
    let gate = Gate::before(&upstream).rules(ROUTES).also(&tokens(&source, "")).start();
    let token = issuer.token("one", json!({}));
    for _ in 0..5 {
        let refused = exchange(gate.address, bearer("/both/a", &token));
        assert_eq!((refused.status(), code(&refused.body_text())), (503, "unavailable".into()));
        assert!(refused.one("retry-after").is_some());
    }
    assert!(!released.load(Ordering::SeqCst), "the issuer was still silent");
    assert_eq!(exchange(gate.address, bearer("/both/a", READER)).status(), 200, "keys do not care");
    released.store(true, Ordering::SeqCst);
    gate.process.eventually("the keys are there", || {
        exchange(gate.address, bearer("/both/a", &token)).status() == 200
    });
}

#[test]
fn a_copy_on_disk_serves_while_the_issuer_is_down() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    // Nothing listens there.
    let source = "http://127.0.0.1:1/jwks";
    let also = tokens(source, "jwks_copy = \"idp.json\"");
    let folder = Gate::before(&upstream).rules(ROUTES).also(&also).folder();
    let copy = |url: &str| {
        let set = json!({"keys": [issuer.jwk("one")]});
        json!({"issuer": "https://idp.example/", "url": url, "fetched": now(), "jwks": set})
    };
    folder.write("idp.json", &copy(source).to_string());
    let gate = Gate::serve(folder);
    gate.wait_ready();
    let token = issuer.token("one", json!({}));
    assert_eq!(exchange(gate.address, bearer("/both/a", &token)).status(), 200);
    assert!(gate.log_soon("cannot get its signing keys"));
    // Keys of a URL that the operator has left are believed no longer.
    let folder = Gate::before(&upstream).rules(ROUTES).also(&also).folder();
    folder.write("idp.json", &copy("http://127.0.0.1:1/old").to_string());
    let gate = Gate::serve(folder);
    gate.wait_ready();
    assert_eq!(exchange(gate.address, bearer("/both/a", &token)).status(), 503);
    assert!(gate.log_soon("is ignored"));
}

/// What the service would not see enforced it does not see observed.
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
fn a_copy_never_takes_the_place_of_another_file() {
    let upstream = Upstream::start();
    let url = "https://idp.example/jwks";
    let check = |tokens: &str, top: &str| {
        let folder = Gate::before(&upstream).rules(ROUTES).also(tokens).top(top).folder();
        let mut command = keygate(folder.path());
        let said = command.args(["check", "--config", "keygate.toml", "--config-only"]).output();
        let said = said.unwrap();
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        (said.status.code(), text + &String::from_utf8_lossy(&said.stdout))
    };
    let copy = |name: &str| tokens(url, &format!("jwks_copy = \"{name}\""));
    let twice = copy("c.json") + &copy("./c.json").replace("//idp.", "//other.");
    for tokens in [twice, copy("keygate.toml"), copy("keys.kgt"), copy("./keys.kgt")] {
        let (code, said) = check(&tokens, "");
        assert_eq!(code, Some(78), "{tokens}{said}");
        assert!(said.contains("as well"), "{said}");
        assert!(said.contains("hint: give every copy a file of its own"), "{said}");
    }
    let (code, said) = check(&copy("c.json"), "");
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("jwks_stale") && !said.contains("trusted_proxies"), "{said}");
    let stale = copy("c.json") + "jwks_stale = \"10m\"\n";
    let (code, said) = check(&stale, "trusted_proxies = [\"0.0.0.0/0\"]");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("between two fetches") && said.contains("every client"), "{said}");
    let two = copy("c.json") + &copy("d.json").replace("//idp.", "//other.");
    let (code, said) = check(&(two + "[identity]\nissuer = false\n"), "");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("identity.issuer") && said.contains("cannot tell a subject"), "{said}");
    for name in ["authorization", "origin", "user-agent", "cookie", "host", "x_api_key"] {
        for key in ["subject", "issuer", "org"] {
            let named = format!("{}[identity]\n{key} = \"{name}\"\n", copy("c.json"));
            let (code, said) = check(&named, "");
            assert_eq!(code, Some(78), "{name}: {said}");
        }
    }
}

#[test]
fn made_up_kids_do_not_flood_the_issuer() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, set) = (Arc::clone(&asked), jwks(&[issuer.jwk("one")]));
    let idp = Upstream::answering(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        answer("200 OK", "", &set)
    });
    let source = format!("http://{}/jwks", idp.address);
    let gate = Gate::before(&upstream).rules(ROUTES).also(&tokens(&source, "")).start();
    let good = issuer.token("one", json!({}));
    gate.process.eventually("the keys are there", || {
        exchange(gate.address, bearer("/both/a", &good)).status() == 200
    });
    let mut client = Client::connect(gate.address);
    for n in 0..10_000 {
        let token = issuer.token(&format!("kid-{n}"), json!({}));
        assert_eq!(client.send(bearer("/both/a", &token)).response().status(), 401);
    }
    assert_eq!(client.send(bearer("/both/a", &good)).response().status(), 200);
    // The first fetch, and one for every half minute that this may have taken.
    assert!(asked.load(Ordering::SeqCst) <= 2, "{}", asked.load(Ordering::SeqCst));
}

/// Rotation under load: whoever has a good token at any moment is served, and the old key's tokens
/// and streams end when it leaves the set.
#[test]
fn keys_rotate_under_load_and_streams_end_with_them() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let upstream =
        Upstream::answering(move |request| match request.first_line().contains("stream") {
            true => vec![Step::Send(format!("{head}data: 1\n\n").into()), Step::Drain],
            false => answer("200 OK", "", "ok"),
        });
    let (old, new) = (Signer::new(1), Signer::new(2));
    let gate = with_file(Gate::before(&upstream), &[old.jwk("old")], "");
    let (old_token, new_token) = (old.token("old", json!({})), new.token("new", json!({})));
    let mut stream = Client::connect(gate.address);
    stream.send(bearer("/both/stream", &old_token));
    assert_eq!(stream.response_head().status(), 200);
    let failures = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (failures, stop, address) = (Arc::clone(&failures), Arc::clone(&stop), gate.address);
        let token = old_token.clone();
        std::thread::spawn(move || {
            let mut client = Client::connect(address);
            while !stop.load(Ordering::SeqCst) {
                let status = client.send(bearer("/both/a", &token)).response().status();
                if status != 200 {
                    failures.lock().unwrap().push(status);
                }
            }
        })
    };
    assert_eq!(exchange(gate.address, bearer("/both/a", &new_token)).status(), 401);
    gate.folder.write("jwks.json", &jwks(&[old.jwk("old"), new.jwk("new")]));
    gate.process.eventually("the new key counts", || {
        exchange(gate.address, bearer("/both/a", &new_token)).status() == 200
    });
    stop.store(true, Ordering::SeqCst);
    load.join().unwrap();
    assert!(failures.lock().unwrap().is_empty(), "{failures:?}");
    gate.folder.write("jwks.json", &jwks(&[new.jwk("new")]));
    gate.process.eventually("the old key is gone", || {
        exchange(gate.address, bearer("/both/a", &old_token)).status() == 401
    });
    while !stream.read_some().is_empty() {}
    assert_eq!(exchange(gate.address, bearer("/both/a", &new_token)).status(), 200);
    let ended = r#"keygate_streams_ended_total{reason="token_key_unknown"} 1"#;
    gate.process.eventually("the stream is counted", || gate.metrics().contains(ended));
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

#[test]
fn issuers_come_and_go_with_the_configuration() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let gate = with_file(Gate::before(&upstream), &[issuer.jwk("one")], "");
    let token = issuer.token("one", json!({}));
    assert_eq!(exchange(gate.address, bearer("/both/a", &token)).status(), 200);
    let config = gate.folder.read("keygate.toml");
    gate.folder.write("keygate.toml", &config.replace("[\"orders\"]", "[\"billing\"]"));
    gate.process.eventually("the audience is another", || {
        exchange(gate.address, bearer("/both/a", &token)).status() == 401
    });
    let billing = issuer.token("one", json!({"aud": "billing"}));
    gate.process.eventually("and its tokens are taken", || {
        exchange(gate.address, bearer("/both/a", &billing)).status() == 200
    });
}

/// User tokens have cost the sidecar two packages.
#[test]
fn the_dependencies_of_tokens_are_two() {
    let lock: toml::Table = include_str!("../../Cargo.lock").parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let reached = |without: &str| {
        let mut seen = std::collections::BTreeSet::new();
        let mut open = vec!["keygate".to_owned()];
        while let Some(name) = open.pop() {
            let bare = name.split(' ').next().unwrap().to_owned();
            if bare == without || !seen.insert(bare.clone()) {
                continue;
            }
            for package in packages.iter().filter(|p| p["name"].as_str() == Some(&bare)) {
                let needs = package.get("dependencies").and_then(|d| d.as_array());
                let needs = needs.into_iter().flatten().filter_map(|d| d.as_str());
                open.extend(needs.map(str::to_owned));
            }
        }
        seen
    };
    let (all, others) = (reached(""), reached("jsonwebtoken"));
    let more: Vec<_> = all.difference(&others).map(String::as_str).collect();
    assert_eq!(more, ["jsonwebtoken", "signature"]);
}

#[test]
fn check_names_each_fault_with_its_line_and_a_remedy() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let check = |rules: &str, tokens: &str, set: &str| {
        let folder = Gate::before(&upstream).rules(rules).also(tokens).folder();
        folder.write("jwks.json", set);
        let mut command = keygate(folder.path());
        let said = command.args(["check", "--config", "keygate.toml", "--config-only"]).output();
        let said = said.unwrap();
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        (said.status.code(), text + &String::from_utf8_lossy(&said.stdout))
    };
    let set = jwks(&[issuer.jwk("one")]);
    let good = tokens("jwks.json", "");
    let (code, said) = check(ROUTES, &good, &set);
    assert_eq!(code, Some(0), "{said}");
    let bearer = "prefixes = [\"wa_\"]\n";
    let url = "https://idp.example/jwks";
    for (name, rules, tokens, set, want) in [
        ("no issuer", ROUTES.to_owned(), String::new(), set.as_str(), "no issuer is configured"),
        ("every bearer", ROUTES.replace(bearer, ""), good.clone(), &set, "counts as a key"),
        ("HMAC", ROUTES.into(), good.replace("EdDSA", "HS256"), &set, "make one"),
        ("clear text", ROUTES.into(), tokens("http://idp.example/", ""), &set, "https://"),
        ("a slash", ROUTES.into(), tokens("https:/idp.example/", ""), &set, "is not a URL"),
        ("no such file", ROUTES.into(), tokens("nowhere.json", ""), &set, "nowhere.json"),
        ("no set", ROUTES.into(), good.clone(), "{}", "not a JWK Set"),
        (
            "a secret",
            ROUTES.into(),
            good.clone(),
            r#"{"keys":[{"kty":"oct","k":"AA"}]}"#,
            "symmetric",
        ),
        (
            "a cost above the burst",
            ROUTES.replace("\"token\"\n", "\"token\"\ncost = 3\n"),
            tokens("jwks.json", "limit = \"60/min burst 2\""),
            &set,
            "3 is above the burst of tokens.limit of `https://idp.example/`, which is 2",
        ),
        (
            "a long life",
            ROUTES.into(),
            tokens("jwks.json", "max_life = \"90d\""),
            &set,
            "at most 30d",
        ),
        (
            "a copy of a file",
            ROUTES.into(),
            tokens("jwks.json", "jwks_copy = \"x\""),
            &set,
            "from a URL",
        ),
        ("no CA", ROUTES.into(), tokens(url, "jwks_ca = \"no.pem\""), &set, "no.pem"),
        ("orgs", ROUTES.into(), tokens("jwks.json", "orgs = \"some\""), &set, "`any`, `table`"),
        ("a limit", ROUTES.into(), tokens("jwks.json", "limit = \"many\""), &set, "tokens"),
        ("twice", ROUTES.into(), format!("{good}{good}"), &set, "earlier [[tokens]]"),
        ("no audience", ROUTES.into(), good.replace("[\"orders\"]", "[]"), &set, "is empty"),
        ("no claim", ROUTES.into(), good.replace("org_claim = \"org\"\n", ""), &set, "org_claim"),
        ("a typo", ROUTES.into(), tokens("jwks.json", "forwrad = true"), &set, "`forward`"),
        ("a word", ROUTES.into(), good.replace("orders:read\" =", "a b\" ="), &set, "one word"),
        ("no map", ROUTES.into(), good.replace("permissions = {", "#"), &set, "permissions"),
    ] {
        let (code, said) = check(&rules, &tokens, set);
        assert_eq!(code, Some(78), "{name}: {said}");
        assert!(said.contains(want), "{name}: {said}");
        assert!(said.contains("keygate.toml:"), "{name}: {said}");
        // Those two say in the message itself what may stand there.
        let says_it = ["a limit", "orgs"].contains(&name);
        assert!(said.contains("hint: ") || says_it, "{name}: {said}");
    }
}

#[test]
fn explain_judges_a_token_without_its_issuer() {
    let upstream = Upstream::start();
    let issuer = Signer::new(1);
    let folder = Gate::before(&upstream).rules(ROUTES).also(&tokens("jwks.json", "")).folder();
    folder.write("jwks.json", &jwks(&[issuer.jwk("one")]));
    let explain = |path: &str, token: &str| {
        folder.write("token", token);
        let input = std::fs::File::open(folder.file("token")).unwrap();
        let mut command = keygate(folder.path());
        command
            .args(["explain", "--config", "keygate.toml", "--path", path, "--json"])
            .stdin(input);
        serde_json::from_slice::<Value>(&command.output().unwrap().stdout).unwrap()
    };
    let told = explain("/both/a", &issuer.token("one", json!({})));
    assert_eq!(told["verdict"], "admitted", "{told}");
    assert_eq!(told["token"]["subject"], "user-7");
    assert!(
        told["headers"].as_array().unwrap().contains(&json!(["x-credential", "token"])),
        "{told}"
    );
    let over = explain("/both/a", &issuer.token("one", json!({"exp": now() - 5})));
    assert_eq!((&over["verdict"], &over["reason"]), (&json!("rejected"), &json!("token_expired")));
    let forged = explain("/both/a", &Signer::new(2).token("one", json!({})));
    assert_eq!(forged["reason"], "token_invalid", "{forged}");
    assert_eq!(explain("/keys/a", &issuer.token("one", json!({})))["reason"], "foreign");
    assert_eq!(explain("/pass/a", &issuer.token("one", json!({})))["verdict"], "passed");
    let key = explain("/both/a", READER);
    assert_eq!((&key["verdict"], &key["key"]["id"]), (&json!("admitted"), &json!("key_reader")));
}
