//! Statements of sidecars, and strangers who make the same statements.

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::*;
use crate::core::{Grant, KeyKind, KeyStatus, KeyView, LimitSet, NetworkSet, PermissionSet};
use crate::registrar::serve::tests::SETTINGS;
use crate::token::sign::assertion::{AssertionBinding, Assertions, BoundRequest};
use crate::token::sign::{TokenKey, jwk_set};

fn socket(more: &str) -> String {
    SETTINGS.replace("127.0.0.1:0", "unix:/run/keygate/registrar.sock") + more
}

fn sidecar() -> Peer {
    Peer { uid: Some(998), ..Peer::default() }
}

/// The same subject at another issuer is somebody else.
#[test]
fn a_user_is_of_the_products_issuer() {
    run(async {
        let more = "[[people.sidecars]]\nuids = [\"998\"]\nroles = { manage = \"admin\" }\n\
                    issuers = [\"https://idp.example/\"]\n";
        let desk = TestDesk::made(|_| socket(more));
        let user = || {
            let ask = Ask::get("/who").with("x-subject", "u-1").with("x-org-id", "acme");
            ask.with("x-permissions", "manage").from(sidecar())
        };
        let by = |issuer: &str| user().with("x-token-issuer", issuer);
        let unknown = "401 invalid_credential";
        let cases = vec![
            ("the product's", by("https%3A%2F%2Fidp.example%2F"), "identity"),
            ("another", by("https%3A%2F%2Fpartner.example%2F"), unknown),
            ("a longer one", by("https%3A%2F%2Fidp.example%2Fx"), unknown),
            ("none", user(), unknown),
            ("no text", by("%ff"), unknown),
            ("two", by("a").with("x-token-issuer", "b"), "400 two_credentials"),
        ];
        table(&desk, cases).await;
    });
}

#[test]
fn fields_count_from_a_configured_user_alone() {
    run(async {
        let more =
            "[[people.sidecars]]\nuids = [\"998\"]\nroles = { \"keys:manage\" = \"admin\" }\n";
        let desk = TestDesk::made(|_| socket(more));
        let (made, key) = desk.key(&["keys:read"]).await;
        let id = made.key.entry.id.to_string();
        let said = || Ask::get("/who").with("x-key-id", &id).with("x-org-id", "acme");
        let user = |words: &str| {
            let ask = Ask::get("/who").with("x-subject", "u%20-1").with("x-org-id", "acme");
            ask.with("x-permissions", words).from(sidecar())
        };
        let other = Peer { uid: Some(1000), ..Peer::default() };
        let unknown = "401 invalid_credential";
        let cases = vec![
            ("the sidecar", said().from(sidecar()), "identity"),
            ("another user", said().from(other), "401 no_credential"),
            ("over TCP", said(), "401 no_credential"),
            (
                "another user, with a key",
                said().from(Peer { uid: Some(0), ..Peer::default() }).with("x-api-key", &key),
                "key",
            ),
            (
                "another org",
                Ask::get("/who").with("x-key-id", &id).with("x-org-id", "other").from(sidecar()),
                unknown,
            ),
            ("no org", Ask::get("/who").with("x-key-id", &id).from(sidecar()), unknown),
            (
                "no such key",
                Ask::get("/who")
                    .with("x-key-id", "key_none")
                    .with("x-org-id", "acme")
                    .from(sidecar()),
                unknown,
            ),
            ("two keys", said().with("x-key-id", &id).from(sidecar()), "400 two_credentials"),
            ("and a key", said().with("x-api-key", &key).from(sidecar()), "400 two_credentials"),
            (
                "key and user",
                said().with("x-subject", "u-1").from(sidecar()),
                "400 two_credentials",
            ),
            (
                "nobody",
                Ask::get("/who").with("x-anonymous", "true").from(sidecar()),
                "401 no_credential",
            ),
            (
                "passed on with a key",
                Ask::get("/who").with("x-api-key", &key).from(sidecar()),
                "key",
            ),
            ("a user", user("read keys:manage"), "identity"),
            ("a user without a role", user("read"), "403 no_role"),
        ];
        table(&desk, cases).await;
        let told = desk.send(user("keys:manage")).await.json();
        assert_eq!(told["name"], "product shop u -1", "{told}");
        // Its statements of address and request id are believed as well.
        let ask =
            said().with("x-request-id", "r-7").with("x-forwarded-for", "9.9.9.9, 203.0.113.9");
        let told = desk.send(ask.from(sidecar())).await.json();
        assert_eq!((&told["address"], &told["request_id"]), (&"203.0.113.9".into(), &"r-7".into()));
        // The sidecar's table may be old.
        let change = suite::set(made.key.entry.id, StatusChange::Revoke);
        desk.store.change(suite::request(suite::host(), change)).await.unwrap();
        table(&desk, vec![("revoked", said().from(sidecar()), unknown)]).await;
    });
}

fn assertions(audience: &str, binding: AssertionBinding, pem: &str) -> Assertions {
    Assertions {
        field: axum::http::HeaderName::from_static("x-identity-assertion"),
        issuer: "keygate".into(),
        audience: audience.into(),
        life: 60,
        binding,
        key: TokenKey::from_pem(pem.as_bytes(), None).unwrap().remove(0),
        also_published: Vec::new(),
    }
}

fn pem() -> String {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    let text = BASE64_STANDARD.encode(pkcs8.as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

#[test]
fn an_assertion_counts_whoever_brings_it() {
    run(async {
        let (ours, theirs) = (pem(), pem());
        let plain = assertions("registrar", AssertionBinding::Key, &ours);
        let desk = TestDesk::made(|folder| {
            let set = jwk_set(&plain.public_keys());
            std::fs::write(folder.join("jwks.json"), set).unwrap();
            format!(
                "{SETTINGS}[[people.sidecars]]\n[people.sidecars.assertion]\n\
                 jwks_file = \"jwks.json\"\naudience = \"registrar\"\n"
            )
        });
        let (made, key) = desk.key(&["keys:read"]).await;
        let grant = Grant {
            status: KeyStatus::Active,
            kind: KeyKind::Single,
            environment: None,
            not_before: None,
            permissions: PermissionSet::default(),
            networks: NetworkSet::default(),
            limits: LimitSet::default(),
            sunset: None,
        };
        let id = made.key.entry.id;
        let now = desk.clock.now();
        let mint = |by: &Assertions, org: &str, bound: Option<BoundRequest<'_>>| {
            let view = KeyView { id, org, name: "", expires: None, grant: &grant, uses: None };
            by.mint(&view, &by.audience, bound, now).unwrap().text
        };
        let who = |assertion: &str| Ask::get("/who").with("x-identity-assertion", assertion);
        let good = mint(&plain, "acme", None);
        let elsewhere = assertions("orders", AssertionBinding::Key, &ours);
        let forged = assertions("registrar", AssertionBinding::Key, &theirs);
        let bound = |method: &'static str, path: &'static str| {
            mint(&plain, "acme", Some(BoundRequest { method, path, request_id: "r-1" }))
        };
        let unknown = "401 invalid_credential";
        let here = bound("GET", "/who");
        let cases = vec![
            ("good", who(&good), "identity"),
            ("for another service", who(&mint(&elsewhere, "acme", None)), unknown),
            ("signed by another", who(&mint(&forged, "acme", None)), unknown),
            ("of another org", who(&mint(&plain, "other", None)), unknown),
            ("cut", who(&good[..good.len() - 2]), unknown),
            ("twice", who(&good).with("x-identity-assertion", &good), "400 two_credentials"),
            ("and a key", who(&good).with("x-api-key", &key), "400 two_credentials"),
            (
                "as a key",
                Ask::get("/who").with("authorization", &format!("Bearer {good}")),
                unknown,
            ),
            (
                "its fields alone",
                Ask::get("/who").with("x-key-id", &id.to_string()).with("x-org-id", "acme"),
                "401 no_credential",
            ),
            ("bound here", who(&here).with("x-request-id", "r-1"), "identity"),
            ("another request", who(&here).with("x-request-id", "r-2"), unknown),
            ("another method", who(&bound("POST", "/who")).with("x-request-id", "r-1"), unknown),
            ("another path", who(&bound("GET", "/v1")).with("x-request-id", "r-1"), unknown),
        ];
        table(&desk, cases).await;
        desk.advance(60);
        table(&desk, vec![("over", who(&good), unknown)]).await;
    });
}

/// Statements that anybody could write are refused before the service listens.
#[test]
fn a_sidecar_without_a_proof_is_refused_at_start() {
    use crate::config::ThisHost;
    use crate::registrar::config::AdminToml;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jwks.json"), "{\"keys\":[]}").unwrap();
    let file = folder.path().join("admin.toml");
    let assertion = "[people.sidecars.assertion]\njwks_file = \"jwks.json\"\naudience = \"a\"\n";
    let cases = [
        (format!("{SETTINGS}[[people.sidecars]]\n"), "says nothing that proves who it is"),
        (format!("{SETTINGS}[[people.sidecars]]\nkey_id_field = \"x-key\"\n"), "says nothing"),
        (format!("{SETTINGS}[[people.sidecars]]\nuids = [\"998\"]\n"), "means nothing over TCP"),
        (socket("[[people.sidecars]]\nuids = []\n"), "names nobody"),
        (socket("[[people.sidecars]]\nuids = [\"kim\"]\n"), "is not a user's number"),
        (
            socket(&format!("[[people.sidecars]]\nuids = [\"998\"]\n{assertion}")),
            "stands beside assertion",
        ),
        (
            format!("{SETTINGS}[[people.sidecars]]\n{}", assertion.replace("audience", "issuer")),
            "assertion.audience: is missing",
        ),
    ];
    for (text, want) in cases {
        std::fs::write(&file, &text).unwrap();
        let told = AdminToml::load(&ThisHost, &file).unwrap_err().to_string();
        assert!(told.contains(want) && told.contains("\nhint: "), "{text}\n{told}");
    }
}
