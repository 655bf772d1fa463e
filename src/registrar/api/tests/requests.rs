//! The parts of a request, and their effect.

use axum::http::Method;
use serde_json::{Value, json};

use super::{Who, ask, ask_with, is, key, owned, path_of, person, target};
use crate::manage::operation::may::PersonRole;
use crate::registrar::api::problem::ApiProblem;
use crate::registrar::serve::tests::{Ask, SETTINGS, TestDesk, run};
use crate::registrar::store::StoreError;
use crate::registrar::store::suite;

const KEYS: &str = "/v1/orgs/acme/keys";

#[test]
fn a_key_from_creation_to_revocation() {
    run(async {
        let desk = TestDesk::new("");
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        let body = json!({
            "name": "Production CRM", "permissions": ["read"], "networks": ["203.0.113.0/24"],
            "expires": "90d", "environment": "live", "limits": {"per-key": "600/min"}, "note": "n",
        });
        let made = ask(&desk, &owner, Method::POST, KEYS, Some(body)).await;
        is(&made, 201);
        let (json, field) = (made.json(), |name: &str| made.fields[name].to_str().unwrap());
        let id = json["key"]["id"].as_str().unwrap();
        let path = format!("{KEYS}/{id}");
        assert_eq!((field("location"), field("etag")), (&*path, "\"1\""));
        assert_eq!((field("keygate-serial"), &json["serial"]), ("1", &json!(1)));
        assert_eq!(json["key"]["owner"]["subject"], owned("owner"));
        assert_eq!(json["key"]["limits"], json!({"per-key": "600/min"}));
        let secret = json["secret"].as_str().unwrap().to_owned();
        let shown = ask(&desk, &owner, Method::GET, &path, None).await;
        is(&shown, 200);
        assert_eq!(shown.json(), json["key"]);
        assert!(!shown.body.contains(&secret));
        let uid = format!("{KEYS}/{}", json["key"]["uid"].as_str().unwrap());
        assert_eq!(ask(&desk, &owner, Method::GET, &uid, None).await.body, shown.body);
        let patch =
            json!({"name": "CRM", "expires": null, "networks": null, "limits": {"per-key": null}});
        let match_1 = [("if-match", "\"1\"")];
        let changed = ask_with(&desk, &owner, Method::PATCH, &path, Some(patch), &match_1).await;
        is(&changed, 200);
        let now = &changed.json()["key"];
        assert_eq!((&now["name"], &now["expires"]), (&json!("CRM"), &Value::Null));
        assert_eq!((&now["networks"], &now["limits"]), (&json!([]), &json!({})));
        assert_eq!(now["note"], "n", "what a patch does not say stays");
        let rotated = ask(&desk, &owner, Method::POST, &format!("{path}/rotate"), None).await;
        is(&rotated, 200);
        assert_eq!(rotated.json()["key"]["replaces"], id);
        assert_eq!(rotated.json()["replaced"]["id"], id);
        assert!(rotated.json()["secret"].is_string());
        for (verb, state) in [("disable", "disabled"), ("enable", "active"), ("revoke", "revoked")]
        {
            let told = ask(&desk, &owner, Method::POST, &format!("{path}/{verb}"), None).await;
            is(&told, 200);
            assert_eq!(told.json()["key"]["state"], state);
        }
        let again = ask(&desk, &owner, Method::POST, &format!("{path}/enable"), None).await;
        is(&again, 409);
        assert_eq!(again.code(), "conflict");
        let log = ask(&desk, &owner, Method::GET, &format!("{path}/audit"), None).await.json();
        let actions: Vec<_> =
            log["lines"].as_array().unwrap().iter().map(|l| &l["action"]).collect();
        assert_eq!(actions, ["revoke", "enable", "disable", "rotate", "edit", "create"]);
        assert!(!log.to_string().contains(&secret));
    });
}

#[test]
fn the_same_form_twice_makes_one_key() {
    run(async {
        let desk = TestDesk::new("");
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        let admin = person(&desk, PersonRole::Admin, "acme", "admin").await;
        let body = |name: &str| Some(json!({"name": name, "permissions": ["read"]}));
        let named = [("idempotency-key", "form-1")];
        let send = |who: &Who, name: &str| {
            let (who, name) = (who.clone(), name.to_owned());
            let desk = &desk;
            async move { ask_with(desk, &who, Method::POST, KEYS, body(&name), &named).await }
        };
        let first = send(&owner, "one").await;
        let second = send(&owner, "one").await;
        is(&first, 201);
        is(&second, 201);
        let (mut was, again) = (first.json(), second.json());
        assert!(was["secret"].is_string());
        was.as_object_mut().unwrap().remove("secret");
        assert_eq!(was, again, "the same answer without the secret");
        assert_eq!(second.fields["idempotency-replayed"], "true");
        assert!(!first.fields.contains_key("idempotency-replayed"));
        for name in ["location", "etag", "keygate-serial"] {
            assert_eq!(first.fields[name], second.fields[name]);
        }
        let other = send(&owner, "two").await;
        is(&other, 422);
        assert_eq!(other.code(), "idempotency_conflict");
        is(&send(&admin, "two").await, 201);
        let list = ask(&desk, &owner, Method::GET, KEYS, None).await.json();
        assert_eq!(list["count"], "2");
        let writer = key(&desk, &["read", "keys:write"]).await;
        is(&send(&writer, "one").await, 201);
        assert!(send(&writer, "one").await.fields.contains_key("idempotency-replayed"));
        desk.advance(24 * 3600 + 1);
        let late = send(&writer, "one").await;
        is(&late, 201);
        assert!(late.json()["secret"].is_string(), "a day later it is another request");
    });
}

#[test]
fn of_two_editors_the_second_is_told_what_the_first_did() {
    run(async {
        let desk = TestDesk::new("");
        let (one, two) = (
            person(&desk, PersonRole::Owner, "acme", "one").await,
            person(&desk, PersonRole::Admin, "acme", "two").await,
        );
        let made = target(&desk, None).await;
        let path = path_of(&made, "");
        let without = ask(&desk, &one, Method::PATCH, &path, Some(json!({"name": "a"}))).await;
        is(&without, 428);
        assert_eq!(without.code(), "precondition_required");
        let read = [("if-match", "\"1\"")];
        let first = Some(json!({"name": "first", "note": "by one"}));
        is(&ask_with(&desk, &one, Method::PATCH, &path, first, &read).await, 200);
        is(&ask(&desk, &one, Method::POST, &path_of(&made, "/disable"), None).await, 200);
        let late = Some(json!({"permissions": []}));
        let told = ask_with(&desk, &two, Method::PATCH, &path, late.clone(), &read).await;
        is(&told, 412);
        let json = told.json();
        assert_eq!(
            (&json["current"]["name"], &json["current"]["version"]),
            (&json!("first"), &json!(3))
        );
        let changed = json["changed"].as_array().unwrap();
        let actions: Vec<_> = changed.iter().map(|change| &change["action"]).collect();
        assert_eq!(actions, ["disable", "edit"]);
        assert!(changed[1]["fields"].get("name").is_some(), "{json}");
        let read = [("if-match", "\"3\"")];
        is(&ask_with(&desk, &two, Method::PATCH, &path, late, &read).await, 200);
        for bad in ["3", "W/\"3\"", "\"x\"", "\"1\", \"2\""] {
            let body = Some(json!({"name": "b"}));
            let told =
                ask_with(&desk, &two, Method::PATCH, &path, body, &[("if-match", bad)]).await;
            is(&told, 400);
            assert_eq!(told.json()["errors"][0]["parameter"], "If-Match");
        }
    });
}

#[test]
fn faults_are_told_with_their_places() {
    run(async {
        let desk = TestDesk::new("");
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        for (body, want) in [
            (json!({}), vec!["/name"]),
            (json!({"name": "a", "permission": ["x"]}), vec!["/permission"]),
            (
                json!({"name": 1, "permissions": ["a b", 2], "networks": ["10.0.0.1/8", "x"]}),
                vec!["/name", "/permissions/0", "/permissions/1", "/networks/0", "/networks/1"],
            ),
            (json!({"name": "a", "expires": "never"}), vec!["/expires"]),
            (json!({"name": "a", "expires": "2001-01-01"}), vec!["/expires"]),
            (
                json!({"name": "a", "limits": {"per-key": "lots"}, "plan": "gold"}),
                vec!["/limits/per-key"],
            ),
            (json!({"name": "a", "plan": "gold", "note": "a\nb"}), vec!["/note", "/plan"]),
            (
                json!({"name": "a".repeat(201), "environment": "prod"}),
                vec!["/name", "/environment"],
            ),
            (json!({"name": "a".repeat(201)}), vec!["/name"]),
            (json!({"name": ""}), vec!["/name"]),
            (json!({"name": "   "}), vec!["/name"]),
            (json!({"name": "\u{200b}"}), vec!["/name"]),
            (json!({"name": "a", "owner": {"subject": "s", "age": 3}}), vec!["/owner/age"]),
            (json!({"name": "a", "pair": "yes"}), vec!["/pair"]),
        ] {
            let told = ask(&desk, &owner, Method::POST, KEYS, Some(body.clone())).await;
            is(&told, 422);
            let json = told.json();
            let found: Vec<_> = json["errors"]
                .as_array()
                .unwrap()
                .iter()
                .map(|fault| fault["pointer"].as_str().unwrap())
                .collect();
            assert_eq!(found, want, "{body}");
        }
        let raw = |kind: &str, body: &str| {
            let Who::Person(token) = &owner else { unreachable!() };
            Ask::post(KEYS)
                .with("cookie", &format!("{}={token}", crate::registrar::request::SESSION_COOKIE))
                .with("sec-fetch-site", "same-origin")
                .body(kind, body)
        };
        for (kind, body, status, code) in [
            ("application/json", "{", 400, "invalid_request"),
            ("application/json", r#"{"name":"a","name":"b"}"#, 400, "invalid_request"),
            ("application/json", "\u{0}", 400, "invalid_request"),
            ("text/plain", r#"{"name":"a"}"#, 415, "unsupported_media_type"),
            ("application/merge-patch+json", r#"{"name":"a"}"#, 415, "unsupported_media_type"),
            ("application/json", &"x".repeat(65_537), 413, "too_large"),
        ] {
            let told = desk.send(raw(kind, body)).await;
            assert_eq!((told.status.as_u16(), &*told.code()), (status, code), "{kind} {told:?}");
        }
        for query in [
            "stat=active",
            "state=alive",
            "limit=0",
            "limit=201",
            "limit=x",
            "sort=up",
            "environment=prod",
            "expires_before=soon",
            "unused_since=-",
            "permission=a%20b",
            "limit=1&limit=2",
            "cursor=x",
        ] {
            let told = ask(&desk, &owner, Method::GET, &format!("{KEYS}?{query}"), None).await;
            assert!(matches!(told.status.as_u16(), 400 | 422), "{query}: {told:?}");
            assert!(told.json()["errors"][0]["parameter"].is_string(), "{query}: {told:?}");
        }
        let told = ask(&desk, &owner, Method::PUT, KEYS, None).await;
        assert_eq!((told.status.as_u16(), &*told.code()), (405, "method_not_allowed"));
    });
}

#[test]
fn a_name_that_nobody_sees_is_no_name() {
    run(async {
        let desk = TestDesk::new("");
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        let made = target(&desk, None).await;
        let path = path_of(&made, "");
        for name in ["", " ", "\u{200b}\u{3164}", "\u{a0}"] {
            let body = Some(json!({"name": name}));
            let any = [("if-match", "*")];
            let told = ask_with(&desk, &owner, Method::PATCH, &path, body, &any).await;
            is(&told, 422);
            let fault = &told.json()["errors"][0];
            assert_eq!(fault["pointer"], "/name", "{told:?}");
            assert!(fault["detail"].as_str().unwrap().contains("visible"), "{told:?}");
        }
    });
}

/// The audience says what its keys are, unless the request does.
#[test]
fn a_key_of_an_audience_with_pairs_is_a_pair() {
    run(async {
        let pairs = |of: &str| {
            TestDesk::made(|_| of.replace("name = \"shop\"", "name = \"shop\"\nkind = \"pair\""))
        };
        let desk = pairs(SETTINGS);
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        for (pair, is_pair) in
            [(None, true), (Some(json!(true)), true), (Some(json!(false)), false)]
        {
            let mut body = json!({"name": "n"});
            if let Some(pair) = &pair {
                body["pair"] = pair.clone();
            }
            let told = ask(&desk, &owner, Method::POST, KEYS, Some(body)).await;
            is(&told, 201);
            let json = told.json();
            assert_eq!(json["key"]["public_id"].is_string(), is_pair, "{pair:?}: {json}");
        }
        let desk = TestDesk::new("");
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        let told = ask(&desk, &owner, Method::POST, KEYS, Some(json!({"name": "n"}))).await;
        assert!(told.json()["key"]["public_id"].is_null(), "{told:?}");
    });
}

#[test]
fn lists_are_pages_of_what_was_asked_for() {
    run(async {
        let desk = TestDesk::new("");
        let reader = key(&desk, &["keys:read"]).await;
        for n in 0..5 {
            suite::create(&desk.store, &format!("Item {n}")).await;
        }
        let mut names = Vec::new();
        let mut path = format!("{KEYS}?q=item&sort=name&limit=2");
        loop {
            let told = ask(&desk, &reader, Method::GET, &path, None).await;
            is(&told, 200);
            let json = told.json();
            assert_eq!(json["count"].as_str(), names.is_empty().then_some("5"), "{path}");
            let keys = json["keys"].as_array().unwrap();
            names.extend(keys.iter().map(|key| key["name"].as_str().unwrap().to_owned()));
            let Some(next) = json["next"].as_str() else { break };
            path = format!("{KEYS}?q=item&sort=name&limit=2&cursor={next}");
        }
        assert_eq!(names, ["Item 0", "Item 1", "Item 2", "Item 3", "Item 4"]);
        let gone = desk
            .store
            .keys(crate::registrar::store::KeyQuery::all(suite::audience(), None, suite::NOW))
            .await
            .unwrap()
            .keys
            .remove(0);
        suite::revoke(&desk.store, gone.entry.id).await;
        for (query, count) in [
            ("state=revoked", "1"),
            ("state=active", "5"),
            ("permission=read", "5"),
            ("environment=test", "0"),
            ("unused_since=90d", "0"),
            ("unused_since=2100-01-01", "6"),
            ("expires_before=14d", "0"),
            ("q=", "6"),
        ] {
            let told = ask(&desk, &reader, Method::GET, &format!("{KEYS}?{query}"), None).await;
            is(&told, 200);
            assert_eq!(told.json()["count"], count, "{query}");
        }
    });
}

/// However much of it somebody has: what a list shows, or a secret that was found somewhere.
#[test]
fn a_search_finds_a_secret_by_its_beginning() {
    run(async {
        let form = "[audiences.prefixes.wa]\nprefix = \"wa_\"\nrandom = 32\nshown = 6\n";
        let desk = TestDesk::new(form);
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        let mut secrets = Vec::new();
        for name in ["First", "Second"] {
            let told = ask(&desk, &owner, Method::POST, KEYS, Some(json!({ "name": name }))).await;
            secrets.push(told.json()["secret"].as_str().unwrap().to_owned());
        }
        for text in [&secrets[0][..], &secrets[0][..9], &secrets[0][3..9], &secrets[0][..7]] {
            for text in [text.to_owned(), format!("{text}%E2%80%A6")] {
                let told = ask(&desk, &owner, Method::GET, &format!("{KEYS}?q={text}"), None).await;
                let json = told.json();
                let names: Vec<_> =
                    json["keys"].as_array().unwrap().iter().map(|key| &key["name"]).collect();
                assert_eq!(names, ["First"], "{text}");
            }
        }
    });
}

#[test]
fn a_wait_ends_with_what_is_known() {
    run(async {
        let desk = TestDesk::new("");
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        let made = target(&desk, None).await;
        let wait = [("prefer", "wait=0")];
        let path = path_of(&made, "/disable");
        let told = ask_with(&desk, &owner, Method::POST, &path, None, &wait).await;
        is(&told, 200);
        let want = json!({"published": false, "sidecars": 0, "of": 0, "missing": []});
        assert_eq!(told.json()["in_force"], want);
        assert_eq!(told.fields["preference-applied"], "wait=0");
        let wait = [("prefer", "respond-async, wait=5")];
        let path = path_of(&made, "/enable");
        let publish = async {
            for _ in 0..20 {
                desk.store.set_published(&suite::audience(), 100).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let asking = ask_with(&desk, &owner, Method::POST, &path, None, &wait);
        let (told, ()) = tokio::join!(asking, publish);
        assert_eq!(told.json()["in_force"]["published"], true, "{told:?}");
    });
}

#[test]
fn a_store_that_takes_no_changes_says_when_to_try_again() {
    use axum::response::IntoResponse as _;
    let busy = StoreError::Busy { retry_after: std::time::Duration::from_millis(200) };
    let read_only = StoreError::ReadOnly { why: "behind what is published".into() };
    let broken = StoreError::Broken { what: "row 7 of key says x".into() };
    let away = || StoreError::Away { why: "connection to db.internal refused".into() };
    let asking = ApiProblem::from(crate::registrar::people::AuthError::Store(away()));
    for (problem, status, retry) in [
        (busy.into(), 503, Some("1")),
        (read_only.into(), 503, Some("30")),
        (broken.into(), 500, None),
        (ApiProblem::from(away()), 503, Some("2")),
        // Whoever asks cannot be looked up either.
        (asking, 503, Some("2")),
    ] {
        let response = problem.into_response();
        let after = response.headers().get("retry-after").map(|value| value.to_str().unwrap());
        assert_eq!((response.status().as_u16(), after), (status, retry));
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
}
