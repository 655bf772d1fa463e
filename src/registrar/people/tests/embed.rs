//! Tokens for the component in somebody's page: every forgery, who may make them, and what other
//! sites' pages may read.

use serde_json::{Value, json};

use super::*;
use crate::registrar::embed;
use crate::registrar::store::{AuditQuery, BOOTSTRAP};

const APP: &str = "https://app.example.com";
const EMBED: &str =
    "[embed]\norigins = [\"https://app.example.com\", \"https://b.example:8443\"]\n";

/// Everything that a product's backend needs to hand the component to its people.
const BACKEND: [&str; 6] =
    ["read", "send", "keys:read", "keys:write", "keys:revoke", "embed:create"];

fn mint(key: &str, body: &Value) -> Ask {
    let ask = Ask::post("/v1/embed-tokens").with("authorization", &format!("Bearer {key}"));
    ask.body("application/json", &body.to_string())
}

fn wish() -> Value {
    json!({"origin": APP, "subject": "u-1", "permissions": ["read"]})
}

async fn token(desk: &TestDesk, key: &str) -> String {
    let told = desk.send(mint(key, &wish())).await;
    assert_eq!(told.status, StatusCode::CREATED, "{told:?}");
    assert!(told.fields["cache-control"] == "no-store", "{told:?}");
    told.json()["token"].as_str().unwrap().to_owned()
}

/// From a page of `origin`.
fn with(ask: Ask, token: &str, origin: &str) -> Ask {
    ask.with("authorization", &format!("Bearer {token}")).with("origin", origin)
}

const KEYS: &str = "/v1/orgs/acme/keys";

#[test]
fn a_component_manages_the_keys_of_its_person() {
    run(async {
        let desk = TestDesk::new(EMBED);
        let (_, backend) = desk.key(&BACKEND).await;
        let told = desk.send(mint(&backend, &wish())).await.json();
        assert_eq!((&told["org"], &told["subject"]), (&"acme".into(), &"u-1".into()), "{told}");
        assert_eq!(told["script"], "http://127.0.0.1:0/embed/keys.js");
        assert_eq!(told["integrity"], embed::integrity());
        let token = told["token"].as_str().unwrap();
        let ask = |ask: Ask| desk.send(with(ask, token, APP));
        let page = ask(Ask::get(KEYS)).await;
        assert_eq!(page.status, StatusCode::OK, "{page:?}");
        assert_eq!(page.json()["keys"], json!([]), "others' keys are not theirs");
        let want = json!([{"word": "read", "group": "", "sentence": ""}]);
        assert_eq!(page.json()["grantable"], want);
        let make = |permissions: Value| {
            let body = json!({"name": "CRM", "permissions": permissions}).to_string();
            ask(Ask::post(KEYS).body("application/json", &body))
        };
        let made = make(json!(["read"])).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        let key = made.json();
        assert_eq!(key["key"]["owner"]["subject"], "u-1", "{key}");
        assert_eq!(key["key"]["owner"]["role"], "member", "{key}");
        // Neither permissions that the token lacks, nor permissions that manage keys.
        for more in [json!(["send"]), json!(["keys:read"]), json!(["*"])] {
            assert_eq!(make(more.clone()).await.status, StatusCode::FORBIDDEN, "{more}");
        }
        let id = key["key"]["id"].as_str().unwrap();
        let turned = ask(Ask::post(&format!("{KEYS}/{id}/rotate"))).await;
        assert_eq!(turned.status, StatusCode::OK, "{turned:?}");
        let next = turned.json()["key"]["id"].as_str().unwrap().to_owned();
        let gone = ask(Ask::new(Method::DELETE, &format!("{KEYS}/{next}"))).await;
        assert_eq!(gone.json()["key"]["state"], "revoked", "{gone:?}");
        // The token's maker does not appear: the person has made the key.
        let all = AuditQuery { limit: 200, ..Default::default() };
        let lines = desk.store.audit(all).await.unwrap().lines;
        let by = |action: &str| lines.iter().find(|line| &*line.action == action).unwrap();
        assert_eq!(&*by("create embed token").actor_kind, "key");
        assert_eq!(&*by("rotate").actor, "product shop u-1");
        assert!(!format!("{lines:?}").contains(token));
    });
}

#[test]
fn a_token_by_every_forgery() {
    run(async {
        let desk = TestDesk::new(EMBED);
        let (_, backend) = desk.key(&BACKEND).await;
        let (other, _) = desk.key(&["read"]).await;
        let token = token(&desk, &backend).await;
        let get = |path: &str| with(Ask::get(path), &token, APP);
        let bare = |path: &str| Ask::get(path).with("authorization", &format!("Bearer {token}"));
        let owner = signed_in(&desk, Some("acme"), "owner", "kim").await;
        let foreign = format!("{KEYS}/{}", other.key.entry.id);
        let unknown = (401, "invalid_credential");
        let nothing = (404, "not_found");
        let cases = [
            ("no origin", bare(KEYS), unknown),
            ("another origin", bare(KEYS).with("origin", "https://evil.example"), unknown),
            ("another listed one", bare(KEYS).with("origin", "https://b.example:8443"), unknown),
            ("null", bare(KEYS).with("origin", "null"), unknown),
            ("twice", get(KEYS).with("origin", APP), unknown),
            ("with a port", bare(KEYS).with("origin", "https://app.example.com:443"), unknown),
            (
                "in another field",
                Ask::get(KEYS).with("x-api-key", &token).with("origin", APP),
                unknown,
            ),
            ("changed", with(Ask::get(KEYS), &token.replace("kge_", "kgf_"), APP), unknown),
            ("with a key", get(KEYS).with("x-api-key", &backend), (400, "two_credentials")),
            ("a cookie as well", get("/v1/members").with("cookie", &owner), nothing),
            ("another org", get("/v1/orgs/globex/keys"), nothing),
            ("somebody else's key", get(&foreign), nothing),
            ("its own audit", get(&format!("{foreign}/audit")), nothing),
            ("its own usage", get(&format!("{foreign}/usage")), nothing),
            ("members", get("/v1/members"), nothing),
            ("audit", get("/v1/audit"), nothing),
            ("sessions", get("/v1/sessions"), nothing),
            ("whoami", get("/v1/whoami"), nothing),
            ("permissions", get("/v1/permissions"), nothing),
            ("policy", get("/v1/orgs/acme/policy"), nothing),
            (
                "another token",
                with(Ask::post("/v1/embed-tokens"), &token, APP)
                    .body("application/json", &wish().to_string()),
                nothing,
            ),
        ];
        for (name, ask, (status, code)) in cases {
            let told = desk.send(ask).await;
            assert_eq!((told.status.as_u16(), &*told.code()), (status, code), "{name}: {told:?}");
        }
        assert_eq!(desk.send(get("/keys")).await.status, StatusCode::NOT_FOUND, "no page");
        assert_eq!(desk.send(get(KEYS)).await.status, StatusCode::OK);
        let as_cookie = Ask::get(KEYS).with("cookie", &format!("__Host-keygate={token}"));
        assert_eq!(desk.send(as_cookie).await.code(), "invalid_credential");
        desk.advance(15 * 60);
        assert_eq!(desk.send(get(KEYS)).await.code(), "invalid_credential", "over");
    });
}

#[test]
fn a_token_ends_with_what_has_made_it() {
    run(async {
        let desk = TestDesk::new(EMBED);
        let alive = async |token: &str| {
            desk.send(with(Ask::get(KEYS), token, APP)).await.status == StatusCode::OK
        };
        let (made, backend) = desk.key(&BACKEND).await;
        let mine = token(&desk, &backend).await;
        assert!(alive(&mine).await);
        for (status, works) in [
            (StatusChange::Disable, false),
            (StatusChange::Enable, true),
            (StatusChange::Revoke, false),
        ] {
            let change = suite::set(made.key.entry.id, status);
            desk.store.change(suite::request(suite::host(), change)).await.unwrap();
            assert_eq!(alive(&mine).await, works, "{status:?}");
        }
        // A key that loses a permission that it has passed on, or the permission for the request.
        let (made, backend) = desk.key(&BACKEND).await;
        let mine = token(&desk, &backend).await;
        let keep = async |words: &[&str]| {
            let request = crate::manage::operation::EditRequest {
                permissions: Some(suite::words(words)),
                ..Default::default()
            };
            let change = crate::registrar::store::KeyChange::Edit {
                key: crate::registrar::store::KeyRef::Id(made.key.entry.id),
                if_match: None,
                request: Box::new(request),
            };
            desk.store.change(suite::request(suite::host(), change)).await.unwrap();
        };
        keep(&["read", "keys:read", "embed:create"]).await;
        assert!(alive(&mine).await);
        let body = json!({"name": "CRM", "permissions": ["read"]}).to_string();
        let make = with(Ask::post(KEYS), &mine, APP).body("application/json", &body);
        assert_eq!(desk.send(make).await.status, StatusCode::NOT_FOUND, "without keys:write");
        keep(&["keys:read", "embed:create"]).await;
        assert!(!alive(&mine).await, "without what it gave away");
        keep(&["read", "keys:read"]).await;
        assert!(!alive(&mine).await, "without embed:create");
        keep(&BACKEND).await;
        assert!(alive(&mine).await);
        // A recovery ends all of them.
        desk.store.begin_epoch(Default::default(), suite::recovery()).await.unwrap();
        assert!(!alive(&mine).await);
    });
}

#[test]
fn who_may_make_one_and_for_whom() {
    run(async {
        let desk = TestDesk::new(EMBED);
        let (_, backend) = desk.key(&BACKEND).await;
        let (_, plain) = desk.key(&["read", "keys:read", "keys:write"]).await;
        let but = |name: &str, value: Value| {
            let mut wish = wish();
            wish[name] = value;
            wish
        };
        let cases = [
            ("without the word", &plain, wish(), 403),
            ("more than it holds", &backend, but("permissions", json!(["read", "burn"])), 403),
            ("to manage keys", &backend, but("permissions", json!(["keys:read"])), 422),
            ("another origin", &backend, but("origin", json!("https://evil.example")), 422),
            ("no origin", &backend, but("origin", Value::Null), 422),
            ("nobody", &backend, but("subject", Value::Null), 422),
            ("an empty one", &backend, but("subject", json!("")), 422),
            ("somebody of a link", &backend, but("subject", json!("bootstrap:kim")), 422),
            ("somebody of a provider", &backend, but("subject", json!("oidc:x:kim")), 422),
            ("no list", &backend, but("permissions", Value::Null), 422),
            ("another member", &backend, but("role", json!("owner")), 422),
        ];
        for (name, key, body, want) in cases {
            let told = desk.send(mint(key, &body)).await;
            assert_eq!(told.status.as_u16(), want, "{name}: {told:?}");
        }
        // A person makes one for themselves, from our page.
        let owner = signed_in(&desk, Some("acme"), "owner", "kim").await;
        let by_owner = |body: Value, site: &str| {
            let ask = Ask::post("/v1/embed-tokens").with("cookie", &owner);
            ask.with("sec-fetch-site", site).body("application/json", &body.to_string())
        };
        let body = json!({"origin": APP, "permissions": ["read"]});
        assert_eq!(desk.send(by_owner(body.clone(), "cross-site")).await.code(), "cross_site");
        let of_other = desk.send(by_owner(wish(), "same-origin")).await;
        assert_eq!(of_other.status.as_u16(), 422, "{of_other:?}");
        let told = desk.send(by_owner(body, "same-origin")).await.json();
        let token = told["token"].as_str().unwrap();
        let see = async || desk.send(with(Ask::get(KEYS), token, APP)).await;
        let seen = see().await.json();
        assert_eq!(seen["keys"].as_array().unwrap().len(), 2, "an owner sees all: {seen}");
        // It is on their list of sessions, and ends with their role.
        let page = desk.send(Ask::get("/sessions").with("cookie", &owner)).await.body;
        assert!(page.contains(APP), "{page}");
        signed_in(&desk, Some("acme"), "owner", "lee").await;
        let kim = crate::registrar::store::PersonId { iss: BOOTSTRAP.into(), sub: "kim".into() };
        set_role(&desk, "acme", &kim, Some(PersonRole::Member)).await;
        assert_eq!(see().await.code(), "invalid_credential");
        // If no origin is listed, there is nothing to embed.
        let without = TestDesk::new("");
        let (_, backend) = without.key(&BACKEND).await;
        assert_eq!(without.send(mint(&backend, &wish())).await.status.as_u16(), 422);
        assert_eq!(without.send(Ask::get("/embed/keys.js")).await.status.as_u16(), 404);
    });
}

#[test]
fn pages_of_listed_origins_read_answers_about_keys_and_nothing_else() {
    run(async {
        let desk = TestDesk::new(EMBED);
        let (_, backend) = desk.key(&BACKEND).await;
        let token = token(&desk, &backend).await;
        let preflight = |path: &str, origin: &str| {
            let ask = Ask::new(Method::OPTIONS, path).with("origin", origin);
            ask.with("access-control-request-method", "POST")
                .with("access-control-request-headers", "authorization")
        };
        let allowed = |told: &Told| {
            assert!(!told.fields.contains_key("access-control-allow-credentials"), "{told:?}");
            let field = told.fields.get("access-control-allow-origin");
            field.map(|field| field.to_str().unwrap().to_owned())
        };
        let told = desk.send(preflight(KEYS, APP)).await;
        assert_eq!(told.status, StatusCode::NO_CONTENT, "{told:?}");
        assert_eq!(allowed(&told).as_deref(), Some(APP));
        assert!(
            told.fields["access-control-allow-headers"].to_str().unwrap().contains("authorization")
        );
        for (path, origin) in [
            (KEYS, "https://evil.example"),
            (KEYS, "null"),
            ("/v1/members", APP),
            ("/v1/embed-tokens", APP),
            ("/v1/orgs/acme/policy", APP),
            ("/keys", APP),
        ] {
            let told = desk.send(preflight(path, origin)).await;
            assert_eq!(allowed(&told), None, "{path} {origin}");
        }
        let told = desk.send(with(Ask::get(KEYS), &token, APP)).await;
        assert_eq!(allowed(&told).as_deref(), Some(APP));
        assert_eq!(told.fields["vary"], "origin");
        // Pages can read refusals as well; otherwise nobody could say what is wrong.
        let told = desk.send(with(Ask::get(KEYS), "wrong", APP)).await;
        assert_eq!((told.status.as_u16(), allowed(&told).as_deref()), (401, Some(APP)));
        let told = desk.send(with(Ask::get(KEYS), &token, "https://evil.example")).await;
        assert_eq!(allowed(&told), None);
        assert!(
            told.fields["content-security-policy"]
                .to_str()
                .unwrap()
                .contains("frame-ancestors 'none'")
        );
        let script = desk.send(Ask::get("/embed/keys.js")).await;
        assert_eq!(script.fields["access-control-allow-origin"], "*");
        assert_eq!(script.fields["cross-origin-resource-policy"], "cross-origin");
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, script.body.as_bytes());
        let hash = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, hash.as_ref());
        assert_eq!(embed::integrity(), format!("sha384-{hash}"));
        let about = desk.send(Ask::get("/embed/keys.json")).await.json();
        assert_eq!(about["integrity"], embed::integrity());
    });
}
