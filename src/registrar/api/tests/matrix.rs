//! Who may do what: role × endpoint × own or foreign org. Nobody gets more than they hold.

use axum::http::Method;
use serde_json::{Value, json};

use super::{Who, ask, ask_with, is, key, owned, path_of, person, target};
use crate::manage::operation::may::PersonRole;
use crate::registrar::serve::tests::{TestDesk, run};

/// An endpoint, and what each of [`CALLERS`] gets.
struct Row {
    method: Method,
    /// `KEY` stands for a fresh key.
    path: &'static str,
    body: Option<Value>,
    /// In the order of [`CALLERS`].
    want: [u16; 13],
}

/// `other`: a member who looks at somebody else's key. `foreign`: an owner of another org.
const CALLERS: [&str; 13] = [
    "owner",
    "admin",
    "member",
    "other",
    "auditor",
    "operator",
    "foreign",
    "key read",
    "key write",
    "key revoke",
    "key audit",
    "key",
    "nobody",
];

fn rows() -> Vec<Row> {
    let row = |method, path, body, want| Row { method, path, body, want };
    let new = || Some(json!({"name": "new", "permissions": ["read"]}));
    let rename = || Some(json!({"name": "renamed"}));
    let role =
        || Some(json!({"issuer": "https://idp.example", "subject": "other", "role": "member"}));
    const KEYS: &str = "/v1/orgs/acme/keys";
    const KEY: &str = "/v1/orgs/acme/keys/KEY";
    vec![
        //                              owner admin member other auditor operator foreign read write revoke audit none nobody
        row(
            Method::GET,
            KEYS,
            None,
            [200, 200, 200, 200, 200, 200, 404, 200, 403, 403, 403, 403, 401],
        ),
        row(
            Method::POST,
            KEYS,
            new(),
            [201, 201, 201, 201, 403, 403, 404, 403, 201, 403, 403, 403, 401],
        ),
        row(
            Method::GET,
            KEY,
            None,
            [200, 200, 200, 404, 200, 200, 404, 200, 404, 404, 404, 404, 401],
        ),
        row(
            Method::PATCH,
            KEY,
            rename(),
            [200, 200, 200, 404, 403, 403, 404, 403, 200, 404, 404, 404, 401],
        ),
        row(
            Method::DELETE,
            KEY,
            None,
            [200, 200, 200, 404, 403, 200, 404, 403, 404, 200, 404, 404, 401],
        ),
        row(
            Method::POST,
            "/v1/orgs/acme/keys/KEY/rotate",
            None,
            [200, 200, 200, 404, 403, 403, 404, 403, 200, 404, 404, 404, 401],
        ),
        row(
            Method::POST,
            "/v1/orgs/acme/keys/KEY/disable",
            None,
            [200, 200, 200, 404, 403, 200, 404, 403, 200, 200, 404, 404, 401],
        ),
        row(
            Method::POST,
            "/v1/orgs/acme/keys/KEY/enable",
            None,
            [200, 200, 200, 404, 403, 403, 404, 403, 200, 404, 404, 404, 401],
        ),
        row(
            Method::POST,
            "/v1/orgs/acme/keys/KEY/revoke",
            None,
            [200, 200, 200, 404, 403, 200, 404, 403, 404, 200, 404, 404, 401],
        ),
        row(
            Method::GET,
            "/v1/orgs/acme/keys/KEY/audit",
            None,
            [200, 200, 200, 404, 200, 200, 404, 404, 404, 404, 200, 404, 401],
        ),
        row(
            Method::GET,
            "/v1/orgs/acme/keys/KEY/usage",
            None,
            [200, 200, 200, 404, 200, 200, 404, 404, 404, 404, 404, 404, 401],
        ),
        row(
            Method::GET,
            "/v1/orgs/acme/findings",
            None,
            [200, 200, 200, 200, 200, 200, 404, 403, 403, 403, 403, 403, 401],
        ),
        row(Method::POST, "/v1/usage", None, [401; 13]),
        row(
            Method::GET,
            "/v1/audit",
            None,
            [200, 200, 403, 403, 200, 200, 200, 403, 403, 403, 200, 403, 401],
        ),
        row(
            Method::GET,
            "/v1/members",
            None,
            [200, 200, 403, 403, 200, 404, 200, 404, 404, 404, 404, 404, 401],
        ),
        row(
            Method::PUT,
            "/v1/members",
            role(),
            [204, 204, 403, 403, 403, 404, 204, 404, 404, 404, 404, 404, 401],
        ),
        row(
            Method::GET,
            "/v1/orgs/acme/policy",
            None,
            [200, 200, 200, 200, 200, 200, 404, 200, 403, 403, 403, 403, 401],
        ),
        row(
            Method::PATCH,
            "/v1/orgs/acme/policy",
            Some(json!({"longest_life": null})),
            [200, 403, 403, 403, 403, 403, 404, 404, 404, 404, 404, 404, 401],
        ),
        row(
            Method::GET,
            "/v1/sessions",
            None,
            [200, 200, 200, 200, 200, 200, 200, 404, 404, 404, 404, 404, 401],
        ),
        row(
            Method::DELETE,
            "/v1/sessions/none",
            None,
            [404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 401],
        ),
        row(
            Method::GET,
            "/v1/whoami",
            None,
            [200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 401],
        ),
        row(
            Method::GET,
            "/v1/permissions",
            None,
            [200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 401],
        ),
        row(
            Method::GET,
            "/v1/signers",
            None,
            [200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 401],
        ),
        row(
            Method::GET,
            "/v1/audiences/shop/publications",
            None,
            [200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 401],
        ),
        row(
            Method::GET,
            "/v1/audiences/else/publications",
            None,
            [404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 401],
        ),
        row(
            Method::POST,
            "/v1/embed-tokens",
            Some(json!({"origin": "https://app.example.com", "permissions": ["read"]})),
            [201, 201, 403, 403, 403, 404, 201, 403, 403, 403, 403, 403, 401],
        ),
        row(
            Method::GET,
            "/v1/audiences/shop/drafts",
            None,
            [404, 404, 404, 404, 404, 200, 404, 404, 404, 404, 404, 404, 401],
        ),
        row(
            Method::GET,
            "/v1/audiences/shop/drafts/patch/7",
            None,
            [404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 401],
        ),
        row(
            Method::POST,
            "/v1/audiences/shop/drafts/patch/7/signatures",
            Some(json!({"signer": "ed25519:0011223344556677", "signature": ""})),
            [404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 404, 401],
        ),
        row(Method::GET, "/v1/openapi.json", None, [200; 13]),
        row(Method::GET, "/v1/nothing", None, [404; 13]),
    ]
}

async fn callers(desk: &TestDesk) -> Vec<Who> {
    vec![
        person(desk, PersonRole::Owner, "acme", "owner").await,
        person(desk, PersonRole::Admin, "acme", "admin").await,
        person(desk, PersonRole::Member, "acme", "member").await,
        person(desk, PersonRole::Member, "acme", "other").await,
        person(desk, PersonRole::Auditor, "acme", "auditor").await,
        person(desk, PersonRole::Operator, "-", "operator").await,
        person(desk, PersonRole::Owner, "globex", "foreign").await,
        key(desk, &["read", "keys:read"]).await,
        key(desk, &["read", "keys:write"]).await,
        key(desk, &["read", "keys:revoke"]).await,
        key(desk, &["read", "audit:read"]).await,
        key(desk, &["read"]).await,
        Who::Nobody,
    ]
}

#[test]
fn every_role_at_every_endpoint() {
    run(async {
        let desk = TestDesk::new("[embed]\norigins = [\"https://app.example.com\"]\n");
        let callers = callers(&desk).await;
        let mut faults = Vec::new();
        for row in rows() {
            for ((name, who), want) in CALLERS.iter().zip(&callers).zip(row.want) {
                let owner = if name.starts_with("key") { None } else { Some("member") };
                let made = target(&desk, owner).await;
                let path = row.path.replace("KEY", &made.key.entry.id.to_string());
                let fields = [("if-match", "*")];
                let fields = if row.method == Method::PATCH { &fields[..] } else { &[] };
                let body = row.body.clone();
                let told = ask_with(&desk, who, row.method.clone(), &path, body, fields).await;
                if told.status.as_u16() != want {
                    let got = told.status.as_u16();
                    faults.push(format!("{name}: {} {}: {got}, not {want}", row.method, row.path));
                }
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    });
}

/// A key that does not exist, one of another org and one that the caller may not see: byte for byte
/// the same.
#[test]
fn unknown_foreign_and_forbidden_are_one() {
    run(async {
        let desk = TestDesk::new("");
        let made = target(&desk, Some("somebody")).await;
        let there = made.key.entry.id.to_string();
        let member = person(&desk, PersonRole::Member, "acme", "member").await;
        let foreign = person(&desk, PersonRole::Owner, "globex", "foreign").await;
        let (revoker, none) = (key(&desk, &["read"]).await, key(&desk, &["read", "x"]).await);
        let mut bodies = std::collections::BTreeSet::new();
        for who in [&member, &foreign, &revoker, &none] {
            for org in ["acme", "globex", "nowhere", "a%20b"] {
                for id in [&*there, "key_nothere", "x", "00000000-0000-4000-8000-000000000000"] {
                    for (method, rest) in [
                        (Method::GET, ""),
                        (Method::DELETE, ""),
                        (Method::POST, "/rotate"),
                        (Method::POST, "/disable"),
                        (Method::POST, "/enable"),
                        (Method::GET, "/audit"),
                    ] {
                        let path = format!("/v1/orgs/{org}/keys/{id}{rest}");
                        let told = ask(&desk, who, method, &path, None).await;
                        is(&told, 404);
                        bodies.insert(told.body);
                    }
                }
            }
        }
        assert_eq!(bodies.len(), 1, "{bodies:?}");
    });
}

#[test]
fn nobody_gets_more_than_they_hold() {
    run(async {
        let desk = TestDesk::new("");
        let writer = key(&desk, &["read", "keys:read", "keys:write"]).await;
        let member = person(&desk, PersonRole::Member, "acme", "member").await;
        let admin = person(&desk, PersonRole::Admin, "acme", "admin").await;
        person(&desk, PersonRole::Owner, "acme", "owner").await;
        let create = "/v1/orgs/acme/keys";
        let with = |more: Value| {
            let mut body = json!({"name": "n", "permissions": ["read"]});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Some(body)
        };
        for (who, more, pointer) in [
            (&writer, json!({"permissions": ["write"]}), "/permissions"),
            (&writer, json!({"permissions": ["*"]}), "/permissions"),
            (&writer, json!({"permissions": ["keys:write"]}), "/permissions"),
            (&writer, json!({"owner": {"subject": owned("owner")}}), "/owner"),
            (&member, json!({"permissions": ["write"]}), "/permissions"),
            (&member, json!({"permissions": ["keys:read"]}), "/permissions"),
            (&member, json!({"owner": {"subject": owned("owner")}}), "/owner"),
            (&member, json!({"owner": {"subject": owned("member"), "role": "owner"}}), "/owner"),
            (&member, json!({"owner": null}), "/owner"),
        ] {
            let told = ask(&desk, who, Method::POST, create, with(more.clone())).await;
            is(&told, 403);
            assert_eq!(told.json()["errors"][0]["pointer"], pointer, "{more}");
        }
        // Nor through an existing key.
        let own = ask(&desk, &member, Method::POST, create, with(json!({}))).await;
        is(&own, 201);
        let own = format!("{create}/{}", own.json()["key"]["id"].as_str().unwrap());
        let strong = target(&desk, None).await;
        let strong = path_of(&strong, "");
        let stronger = Some(json!({"permissions": ["write"]}));
        let any = [("if-match", "*")];
        is(&ask_with(&desk, &admin, Method::PATCH, &strong, stronger, &any).await, 200);
        for (who, path, body, want) in [
            (&member, &own, json!({"permissions": ["write"]}), 403),
            (&member, &own, json!({"owner": {"subject": owned("owner")}}), 403),
            (&member, &strong, json!({"owner": {"subject": owned("member")}}), 404),
            (&writer, &strong, json!({"name": "mine"}), 403),
            (&writer, &own, json!({"permissions": ["read", "keys:read"]}), 403),
        ] {
            let told = ask_with(&desk, who, Method::PATCH, path, Some(body), &any).await;
            is(&told, want);
        }
        is(&ask(&desk, &writer, Method::POST, &format!("{strong}/rotate"), None).await, 403);
        for (who, subject, role) in
            [(&member, "member", "owner"), (&admin, "admin", "owner"), (&admin, "owner", "member")]
        {
            let body = json!({"issuer": "https://idp.example", "subject": subject, "role": role});
            is(&ask(&desk, who, Method::PUT, "/v1/members", Some(body)).await, 403);
        }
    });
}
