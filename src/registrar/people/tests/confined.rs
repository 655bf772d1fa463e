//! Two products in one organization: people of one product reach nothing of the other, with any
//! credential, anywhere, however the request names it.

use std::os::unix::fs::PermissionsExt as _;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::manage::operation::{CreateRequest, DetailRequest, OwnerChange};
use crate::registrar::serve::tests::SETTINGS;
use crate::registrar::store::{
    BOOTSTRAP, KeyChange, KeyRef, OrgChange, OrgRules, OwnerLeaves, SessionKind,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const APP: &str = "https://app.example.com";

/// `corp` is for `shop`, `yard` for `back`, and people of `open` have their role in both.
const CORP: &str = "https://idp.example";
const YARD: &str = "https://yard.example";
const OPEN: &str = "https://open.example";

/// Everything that a product can document, for the keys of `back`.
const DIALECT: &str = r#"
[[dialect]]
name = "own"
audience = "back"
error = '{"message":"$message"}'
[[dialect.operation]]
does = "create"
on = "POST /api/back"
request = '{"name":"$name!"}'
answer = '{"id":"$id","secret":"$secret"}'
[[dialect.operation]]
does = "list"
on = "GET /api/back"
answer = '{"keys":["$keys"]}'
key = '"$name"'
[[dialect.operation]]
does = "get"
on = "GET /api/back/{id}"
answer = '{"name":"$name"}'
[[dialect.operation]]
does = "update"
on = "PATCH /api/back/{id}"
request = '{"name":"$name"}'
answer = '{"name":"$name"}'
[[dialect.operation]]
does = "rotate"
on = "POST /api/back/{id}/rotate"
answer = '{"secret":"$secret"}'
[[dialect.operation]]
does = "revoke"
on = "DELETE /api/back/{id}"
status = 204
answer = '{}'
"#;

fn desk() -> TestDesk {
    TestDesk::made(|folder| {
        for (name, text) in [("client.secret", "s"), ("jwt.secret", SECRET)] {
            let file = folder.join(name);
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let provider = |name: &str, issuer: &str, more: &str| {
            format!(
                "\n[[people.oidc]]\nname = \"{name}\"\nissuer = \"{issuer}\"\nclient_id = \"kg\"\n\
                 client_secret_file = \"client.secret\"\n{more}"
            )
        };
        let (corp, yard) = (
            provider("corp", CORP, "audience = \"shop\"\n"),
            provider("yard", YARD, "audience = \"back\"\n"),
        );
        let open = provider("open", OPEN, "");
        let tokens = "\n[[people.tokens]]\nname = \"inbox\"\naudience = \"shop\"\n\
            secret_file = \"jwt.secret\"\nroles = { owner = \"owner\" }\n";
        format!(
            "{SETTINGS}[[audiences]]\nname = \"back\"\n{DIALECT}[embed]\norigins = [\"{APP}\"]\n\
             {corp}{yard}{open}{tokens}"
        )
    })
}

fn back() -> AudienceName {
    AudienceName::parse("back").unwrap()
}

fn id(iss: &str, sub: &str) -> PersonId {
    PersonId { iss: iss.into(), sub: sub.into() }
}

/// Puts a person on the list of members of `acme`.
async fn member(desk: &TestDesk, id: &PersonId, role: Option<PersonRole>) {
    let person = Person {
        id: id.clone(),
        name: id.sub.clone(),
        email: Box::default(),
        operator: false,
        seen_ms: NOW,
    };
    desk.store.put_person(person).await.unwrap();
    set_role(desk, "acme", id, role).await;
}

/// The cookie of an owner of `acme` who has signed in at a provider a moment ago.
async fn owner_of(desk: &TestDesk, provider: &str, iss: &str, sub: &str) -> String {
    member(desk, &id(iss, sub), Some(PersonRole::Owner)).await;
    let token = format!("token-of-{provider}-{sub}");
    let row = SessionRow {
        digest: crate::core::Digest::of(token.as_bytes()),
        id: format!("session-of-{sub}").into(),
        kind: SessionKind::Person,
        person: id(iss, sub),
        org: None,
        detail: json!({"by": "oidc", "provider": provider, "signed_in_ms": NOW}),
        epoch: 0,
        created_ms: NOW,
        seen_ms: NOW,
        ends_ms: NOW + 3_600_000,
        address: Box::default(),
        agent: Box::default(),
    };
    desk.store.put_session(row).await.unwrap();
    format!("__Host-keygate={token}")
}

/// The `Authorization` of an owner whom the product itself vouches for.
fn product_owner(sub: &str) -> String {
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let at = NOW / 1000;
    let claims = json!({"sub": sub, "org": "acme", "role": "owner", "iat": at, "exp": at + 3600});
    let message = format!("{}.{}", encode(r#"{"alg":"HS256"}"#), encode(&claims.to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()).as_ref());
    format!("Bearer {message}.{tag}")
}

/// The header fields that identify a caller.
type Credential = Vec<(&'static str, String)>;

fn session(cookie: &str) -> Credential {
    vec![("cookie", cookie.to_owned()), ("sec-fetch-site", "same-origin".into())]
}

fn bearer(text: String) -> Credential {
    vec![("authorization", text), ("origin", APP.into())]
}

async fn ask(
    desk: &TestDesk,
    who: &Credential,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Told {
    let mut ask =
        who.iter().fold(Ask::new(method, path), |ask, (name, value)| ask.with(name, value));
    if let Some(body) = body {
        ask = ask.with("if-match", "*").body("application/json", &body.to_string());
    }
    desk.send(ask).await
}

/// A key of `back`, whose owner belongs to `corp` and has lost the role for it.
async fn key_of_back(desk: &TestDesk, owner: &PersonId) -> crate::core::KeyId {
    let details = DetailRequest {
        owner: OwnerChange::State { subject: Some(owner_subject(owner)), email: None, role: None },
        ..DetailRequest::default()
    };
    let wanted = CreateRequest { details, ..suite::new_key("Backstage") };
    let mut request = suite::request(suite::host(), KeyChange::Create(Box::new(wanted)));
    request.audience = back();
    desk.store.change(request).await.unwrap().key.entry.id
}

#[test]
fn who_is_of_one_product_reaches_nothing_of_another() {
    run(async {
        let desk = desk();
        let orphan = id(CORP, "orphan");
        member(&desk, &orphan, Some(PersonRole::Auditor)).await;
        let key = key_of_back(&desk, &orphan).await;
        let open = session(&owner_of(&desk, "open", OPEN, "olga").await);
        // A person of the other product, added to the list by somebody with a role in both.
        let backer = json!({"issuer": YARD, "subject": "backer", "role": "auditor"});
        let put = ask(&desk, &open, Method::PUT, "/v1/members", Some(backer)).await;
        assert_eq!(put.status, StatusCode::NO_CONTENT, "{put:?}");
        let corp = session(&owner_of(&desk, "corp", CORP, "cleo").await);
        let (_, plain) =
            desk.key(&["read", "keys:read", "keys:write", "keys:revoke", "audit:read"]).await;
        let wish = json!({"origin": APP, "permissions": ["read"]});
        let token = ask(&desk, &corp, Method::POST, "/v1/embed-tokens", Some(wish.clone())).await;
        let token = token.json()["token"].as_str().unwrap().to_owned();
        let callers = [
            ("provider's", corp),
            ("product's", bearer(product_owner("ann"))),
            ("key", bearer(format!("Bearer {plain}"))),
            ("token", bearer(format!("Bearer {token}"))),
        ];
        let (serial, changes) = (
            desk.store.publication(&back()).await.unwrap().serial,
            desk.store.org(&suite::org("acme")).await.unwrap().version,
        );
        let name = || Some(json!({"name": "mine"}));
        let paths: Vec<(Method, &str, Option<Value>)> = vec![
            (Method::GET, "/api/back", None),
            (Method::POST, "/api/back", name()),
            (Method::GET, "/api/back/KEY", None),
            (Method::PATCH, "/api/back/KEY", name()),
            (Method::POST, "/api/back/KEY/rotate", None),
            (Method::DELETE, "/api/back/KEY", None),
            (Method::GET, "/v1/orgs/acme/keys", None),
            (Method::POST, "/v1/orgs/acme/keys", name()),
            (Method::GET, "/v1/orgs/acme/keys/KEY", None),
            (Method::PATCH, "/v1/orgs/acme/keys/KEY", name()),
            (Method::POST, "/v1/orgs/acme/keys/KEY/rotate", None),
            (Method::POST, "/v1/orgs/acme/keys/KEY/disable", None),
            (Method::POST, "/v1/orgs/acme/keys/KEY/enable", None),
            (Method::POST, "/v1/orgs/acme/keys/KEY/revoke", None),
            (Method::DELETE, "/v1/orgs/acme/keys/KEY", None),
            (Method::GET, "/v1/orgs/acme/keys/KEY/audit", None),
            (Method::GET, "/v1/orgs/acme/keys/KEY/usage", None),
            (Method::GET, "/v1/orgs/acme/findings", None),
            (Method::GET, "/v1/orgs/acme/policy", None),
            (Method::PATCH, "/v1/orgs/acme/policy", Some(json!({"most_keys": 1}))),
            (Method::GET, "/v1/audiences/back/publications", None),
            (Method::GET, "/v1/permissions", None),
            (Method::GET, "/v1/members", None),
            (Method::GET, "/v1/audit", None),
            (Method::GET, "/v1/whoami", None),
            (Method::GET, "/v1/sessions", None),
            (Method::POST, "/v1/embed-tokens", Some(wish)),
            (Method::GET, "/keys", None),
            (Method::GET, "/keys/KEY", None),
            (Method::GET, "/findings", None),
            (Method::GET, "/audit", None),
            (Method::GET, "/members", None),
            (Method::GET, "/members?iss=https%3A%2F%2Fidp.example&sub=orphan", None),
            (Method::GET, "/policy", None),
            (Method::GET, "/publication", None),
        ];
        for (name, who) in &callers {
            let mut asking = who.clone();
            asking.push(("keygate-audience", "back".into()));
            for (method, path, body) in &paths {
                let path = path.replace("KEY", &key.to_string());
                let joint = if path.contains('?') { '&' } else { '?' };
                let named = format!("{path}{joint}audience=back");
                for (way, who, path) in
                    [("plain", who, &path), ("query", who, &named), ("field", &asking, &path)]
                {
                    let told = ask(&desk, who, method.clone(), path, body.clone()).await;
                    let about = format!("{name}, {way}: {method} {path}: {told:?}");
                    let is_answer = !told.status.is_server_error() && told.status != 429;
                    assert!(is_answer, "{about}");
                    assert!(!told.body.contains("Backstage"), "{about}");
                    assert!(!told.body.contains("backer"), "{about}");
                    let is_theirs = path.starts_with("/api/back")
                        || path.contains("back/publications")
                        || path.contains(&key.to_string())
                        || (*method == Method::PATCH && path.contains("/policy"));
                    assert!(!(is_theirs && told.status.is_success()), "{about}");
                }
            }
        }
        let now = desk.store.publication(&back()).await.unwrap().serial;
        assert_eq!(now, serial, "no key of the other product has changed");
        let now = desk.store.org(&suite::org("acme")).await.unwrap().version;
        assert_eq!(now, changes, "nor the policy, which is of both");
        // Somebody with a role in both sees all of it.
        let mut asking = open.clone();
        asking.push(("keygate-audience", "back".into()));
        for path in
            ["/api/back", "/v1/orgs/acme/keys", "/keys", "/audit", "/v1/members", "/members"]
        {
            let told = ask(&desk, &asking, Method::GET, path, None).await;
            assert_eq!(told.status, StatusCode::OK, "{path}: {told:?}");
            let marker = if path.contains("members") { "backer" } else { "Backstage" };
            let marker = if path == "/audit" { "backer" } else { marker };
            assert!(told.body.contains(marker), "{path}: {told:?}");
        }
        for (method, path, body) in [
            (Method::POST, "/api/back".to_owned(), name()),
            (Method::DELETE, format!("/api/back/{key}"), None),
            (Method::PATCH, "/v1/orgs/acme/policy".to_owned(), Some(json!({"most_keys": 9}))),
        ] {
            let told = ask(&desk, &open, method, &path, body).await;
            assert!(told.status.is_success(), "{path}: {told:?}");
        }
    });
}

#[test]
fn who_is_of_one_product_appoints_its_people_alone() {
    run(async {
        let desk = desk();
        let change = OrgChange {
            org: suite::org("acme"),
            rules: OrgRules { owner_leaves: OwnerLeaves::Disable, ..OrgRules::default() },
            if_match: None,
            actor: suite::host(),
            channel: Default::default(),
            at_ms: NOW,
        };
        desk.store.change_org(change).await.unwrap();
        let olga = session(&owner_of(&desk, "open", OPEN, "olga").await);
        let cleo = session(&owner_of(&desk, "corp", CORP, "cleo").await);
        let ann = bearer(product_owner("ann"));
        let yuri = id(YARD, "yuri");
        member(&desk, &yuri, Some(PersonRole::Owner)).await;
        let olgas = key_of_back(&desk, &id(OPEN, "olga")).await;
        let put = async |who: &Credential, iss: &str, sub: &str, role: Option<&str>| {
            let body = json!({"issuer": iss, "subject": sub, "role": role});
            ask(&desk, who, Method::PUT, "/v1/members", Some(body)).await.status.as_u16()
        };
        let strangers = [
            (OPEN, "mallory", 403),
            (OPEN, "olga", 403),
            (YARD, "mallory", 403),
            (YARD, "yuri", 403),
            (BOOTSTRAP, "kim", 403),
            ("https://unknown.example", "mallory", 403),
            ("product back", "u-1", 422),
            ("product shop", "nobody", 422),
        ];
        for (name, who) in [("cleo", &cleo), ("ann", &ann)] {
            for (iss, sub, want) in strangers {
                for role in [Some("owner"), Some("member"), None] {
                    let got = put(who, iss, sub, role).await;
                    assert_eq!(got, want, "{name}: {iss} {sub} {role:?}");
                }
            }
            // They may appoint people of the same product, whoever vouches for those.
            let new = format!("new-of-{name}");
            assert_eq!(put(who, CORP, &new, Some("owner")).await, 204, "{name}");
            assert_eq!(put(who, CORP, &new, None).await, 204, "{name}");
        }
        assert_eq!(put(&cleo, "product shop", "ann", None).await, 204);
        let row = desk.store.key(&back(), None, KeyRef::Id(olgas)).await.unwrap();
        assert_eq!(row.entry.status.as_str(), "active");
        // The page does not offer what the service refuses.
        let page = ask(&desk, &cleo, Method::GET, "/members", None).await.body;
        assert!(page.contains("olga") && !page.contains("yuri"), "{page}");
        assert!(page.contains(&format!("name=\"iss\" value=\"{CORP}\"")), "{page}");
        assert!(!page.contains(&format!("name=\"iss\" value=\"{OPEN}\"")), "{page}");
        let page = ask(&desk, &cleo, Method::GET, "/policy", None).await;
        assert!(page.body.contains("<fieldset class=\"whole\" disabled>"), "{page:?}");
        // A change by one product's owner affects only that product's keys.
        let both = id(CORP, "both");
        member(&desk, &both, Some(PersonRole::Owner)).await;
        let theirs = key_of_back(&desk, &both).await;
        assert_eq!(put(&cleo, CORP, "both", None).await, 204);
        let row = desk.store.key(&back(), None, KeyRef::Id(theirs)).await.unwrap();
        assert_eq!(row.entry.status.as_str(), "active");
        for (iss, sub) in [(CORP, "mallory"), (YARD, "yuri"), (BOOTSTRAP, "kim")] {
            assert!(put(&olga, iss, sub, Some("admin")).await < 300, "{iss} {sub}");
        }
    });
}

/// With only one audience, nothing is elsewhere: the product's owners look after all of it.
#[test]
fn with_one_product_its_owners_appoint_everybody() {
    run(async {
        let desk = TestDesk::made(|folder| {
            let file = folder.join("jwt.secret");
            std::fs::write(&file, SECRET).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            format!(
                "{SETTINGS}\n[[people.tokens]]\nname = \"inbox\"\nsecret_file = \"jwt.secret\"\n\
                 roles = {{ owner = \"owner\" }}\n"
            )
        });
        let ann = bearer(product_owner("ann"));
        let body = json!({"issuer": OPEN, "subject": "olga", "role": "owner"});
        let told = ask(&desk, &ann, Method::PUT, "/v1/members", Some(body)).await;
        assert_eq!(told.status, StatusCode::NO_CONTENT, "{told:?}");
        let most = Some(json!({"most_keys": 7}));
        let told = ask(&desk, &ann, Method::PATCH, "/v1/orgs/acme/policy", most).await;
        assert_eq!(told.status, StatusCode::OK, "{told:?}");
    });
}

/// What a policy offers for another product does not concern this one's people, nor does what it
/// offered before.
#[test]
fn words_of_another_product_are_in_no_line_of_the_log() {
    run(async {
        let offers = |word: &str| {
            format!("permissions = [{{ word = \"{word}\", sentence = \"May {word}\" }}]\n")
        };
        let desk = TestDesk::made(|_| {
            let (ours, theirs) = (offers("read"), offers("haul"));
            format!("{SETTINGS}{ours}[[audiences]]\nname = \"back\"\n{theirs}")
        });
        let (_, plain) = desk.key(&["read", "audit:read"]).await;
        let key = bearer(format!("Bearer {plain}"));
        let change = OrgChange {
            org: suite::org("acme"),
            rules: OrgRules::default(),
            if_match: None,
            actor: suite::host(),
            channel: Default::default(),
            at_ms: NOW,
        };
        for words in [["read", "haul"], ["haul", "haul"]] {
            let words = words.map(|word| crate::core::Permission::parse(word).unwrap());
            let mut change = change.clone();
            change.rules.policy.permissions = Some(crate::core::PermissionSet::new(words));
            desk.store.change_org(change).await.unwrap();
        }
        let told = ask(&desk, &key, Method::GET, "/v1/audit", None).await;
        assert!(told.body.contains("set policy") && !told.body.contains("haul"), "{told:?}");
        let lines = told.json();
        let policies = lines["lines"].as_array().unwrap().iter().filter_map(|line| {
            let both = line["fields"]["policy"].as_array()?;
            Some(both.iter().map(|policy| policy["permissions"].clone()).collect::<Vec<_>>())
        });
        let want = [vec![json!(["read"]), json!([])], vec![Value::Null, json!(["read"])]];
        assert_eq!(policies.collect::<Vec<_>>(), want);
    });
}
