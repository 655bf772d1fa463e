//! Attempts of people who want more than they have.

use std::sync::Arc;

use axum::http::Method;
use serde_json::{Value, json};

use super::{COOKIE, Who, ask, ask_with, is, key, owned, path_of, person, target};
use crate::core::OrgId;
use crate::manage::operation::may::PersonRole;
use crate::registrar::serve::tests::{Ask, TestDesk, run};
use crate::registrar::store::suite::{self, NOW};
use crate::registrar::store::{KeyQuery, MemberChange, Person, PersonId, StoreError};

const KEYS: &str = "/v1/orgs/acme/keys";

fn membership(org: &str, id: PersonId, role: Option<PersonRole>) -> MemberChange {
    let org = OrgId::parse(org).unwrap();
    let (actor, channel) = (suite::host(), Default::default());
    MemberChange { org, id, role, about: None, within: None, actor, channel, at_ms: NOW }
}

/// Somebody who owns one org and is a member of another makes a member's keys in the latter,
/// whichever of the two they are looking at.
#[test]
fn a_role_in_one_org_says_nothing_in_another() {
    run(async {
        let desk = TestDesk::new("");
        let eve = person(&desk, PersonRole::Owner, "evil", "eve").await;
        let there = membership("acme", suite::person("eve"), Some(PersonRole::Member));
        desk.store.change_member(there).await.unwrap();
        let body = |more: Value| {
            let mut body = json!({"name": "n", "permissions": ["read"]});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Some(body)
        };
        for (org, role) in [("acme", "member"), ("evil", "owner")] {
            let path = format!("/v1/orgs/{org}/keys");
            let made = ask(&desk, &eve, Method::POST, &path, body(json!({}))).await;
            is(&made, 201);
            assert_eq!(made.json()["key"]["owner"]["role"], role, "{org}");
        }
        for more in [
            json!({"permissions": ["write"]}),
            json!({"owner": {"subject": owned("eve"), "role": "owner"}}),
        ] {
            is(&ask(&desk, &eve, Method::POST, KEYS, body(more)).await, 403);
        }
    });
}

/// The service behind may learn subject, email and role of a key's owner.
#[test]
fn a_key_speaks_for_nobody_but_members_as_they_are() {
    run(async {
        let desk = TestDesk::new("");
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        let admin = person(&desk, PersonRole::Admin, "acme", "admin").await;
        person(&desk, PersonRole::Member, "acme", "member").await;
        person(&desk, PersonRole::Owner, "other", "foreign").await;
        for (who, stated, want) in [
            (&admin, json!({"subject": owned("member")}), true),
            (&admin, json!({"subject": owned("member"), "role": "member"}), true),
            (&admin, json!({"subject": owned("admin"), "role": "admin"}), true),
            (&owner, json!({"subject": owned("admin"), "role": "admin"}), true),
            (&owner, json!({"subject": owned("owner"), "role": "owner"}), true),
            (&admin, json!({"subject": owned("member"), "role": "admin"}), false),
            (&admin, json!({"subject": owned("admin"), "role": "owner"}), false),
            (&admin, json!({"subject": owned("owner"), "role": "owner"}), false),
            (&owner, json!({"subject": owned("member"), "role": "super_admin"}), false),
            (&owner, json!({"subject": owned("owner"), "role": "operator"}), false),
            (&owner, json!({"subject": owned("member"), "email": "boss@example.com"}), false),
            (&owner, json!({"subject": owned("foreign")}), false),
            (&owner, json!({"subject": "nobody"}), false),
            (&owner, json!({"subject": "bootstrap:member"}), false),
        ] {
            let body = json!({"name": "n", "permissions": ["read"], "owner": stated});
            let made = ask(&desk, who, Method::POST, KEYS, Some(body)).await;
            is(&made, if want { 201 } else { 403 });
            let plain = path_of(&target(&desk, None).await, "");
            let body = Some(json!({"owner": stated}));
            let any = [("if-match", "*")];
            let edited = ask_with(&desk, who, Method::PATCH, &plain, body, &any).await;
            is(&edited, if want { 200 } else { 403 });
            if !want {
                assert_eq!(made.json()["errors"][0]["pointer"], "/owner", "{stated}");
            }
        }
        // An admin must not get a secret that speaks as the owner.
        let body = json!({"name": "n", "permissions": ["read"]});
        let made = ask(&desk, &owner, Method::POST, KEYS, Some(body)).await.json();
        let rotate = format!("{KEYS}/{}/rotate", made["key"]["id"].as_str().unwrap());
        is(&ask(&desk, &admin, Method::POST, &rotate, None).await, 403);
        is(&ask(&desk, &owner, Method::POST, &rotate, None).await, 200);
    });
}

/// Somebody who is removed while the body of their request trickles in changes nothing with it.
#[test]
fn a_body_that_comes_late_finds_the_rights_of_then() {
    run(async {
        let desk = TestDesk::new("");
        person(&desk, PersonRole::Owner, "acme", "kim").await;
        for role in [None, Some(PersonRole::Auditor)] {
            let who = person(&desk, PersonRole::Admin, "acme", "lee").await;
            let Who::Person(token) = who else { unreachable!() };
            let store = Arc::clone(&desk.store);
            let put_out = async move {
                let change = membership("acme", suite::person("lee"), role);
                store.change_member(change).await.unwrap();
            };
            let ask = Ask::post(KEYS)
                .with("cookie", &format!("{COOKIE}={token}"))
                .with("sec-fetch-site", "same-origin")
                .late("application/json", r#"{"name": "late"}"#, put_out);
            let told = desk.send(ask).await;
            assert!(told.status.is_client_error(), "{role:?}: {told:?}");
        }
        let (maker, secret) = desk.key(&["read", "keys:write"]).await;
        let store = Arc::clone(&desk.store);
        let ended = maker.key.entry.id;
        let revoke = async move {
            let change = suite::set(ended, crate::manage::operation::StatusChange::Revoke);
            store.change(suite::request(suite::host(), change)).await.unwrap();
        };
        let ask = Ask::post(KEYS).with("x-api-key", &secret);
        let told = desk.send(ask.late("application/json", r#"{"name": "late"}"#, revoke)).await;
        assert_eq!(told.status, 401, "{told:?}");
        let all = KeyQuery::all(suite::audience(), None, NOW);
        let keys = desk.store.keys(all).await.unwrap().keys;
        assert!(keys.iter().all(|row| &*row.entry.name != "late"), "{keys:?}");
    });
}

/// The transaction checks again: the role that somebody had when the request began may be gone by
/// then.
#[test]
fn a_role_counts_as_it_is_inside_the_transaction() {
    run(async {
        let desk = TestDesk::new("");
        person(&desk, PersonRole::Owner, "acme", "kim").await;
        person(&desk, PersonRole::Admin, "acme", "lee").await;
        let crate::registrar::store::StoreActor::Person { role, owner, holds, .. } =
            suite::admin("lee")
        else {
            unreachable!()
        };
        let actor = |role| crate::registrar::store::StoreActor::Person {
            id: suite::person("lee"),
            role,
            owner: owner.clone(),
            holds: holds.clone(),
        };
        let create = |role| {
            let change = crate::registrar::store::KeyChange::Create(Box::new(suite::new_key("n")));
            desk.store.change(suite::request(actor(role), change))
        };
        create(role).await.unwrap();
        for claimed in [PersonRole::Owner, PersonRole::Member, PersonRole::Operator] {
            let refused = create(claimed).await;
            assert!(matches!(refused, Err(StoreError::Forbidden { .. })), "{refused:?}");
        }
        let own = MemberChange {
            actor: actor(PersonRole::Owner),
            ..membership("acme", suite::person("kim"), None)
        };
        let refused = desk.store.change_member(own).await;
        assert!(matches!(refused, Err(StoreError::Forbidden { .. })), "{refused:?}");
        desk.store.change_member(membership("acme", suite::person("lee"), None)).await.unwrap();
        let refused = create(role).await;
        assert!(matches!(refused, Err(StoreError::Forbidden { .. })), "{refused:?}");
    });
}

/// Adding people to one's own org must not reveal names and addresses of another org's people, nor
/// who was ever here.
#[test]
fn nobody_learns_of_people_of_other_orgs() {
    run(async {
        let desk = TestDesk::new("");
        let eve = person(&desk, PersonRole::Owner, "evil", "eve").await;
        let id = PersonId::of_product(&suite::audience(), "u-1");
        let known = Person {
            id: id.clone(),
            name: "Kim Petersen".into(),
            email: "kim@acme.example".into(),
            operator: false,
            seen_ms: NOW,
        };
        desk.store.put_person(known).await.unwrap();
        let here = membership("acme", id, Some(PersonRole::Member));
        desk.store.change_member(here).await.unwrap();
        let mut told = Vec::new();
        for subject in ["u-1", "u-2"] {
            let body = json!({"issuer": "product shop", "subject": subject, "role": "member"});
            let put = ask(&desk, &eve, Method::PUT, "/v1/members", Some(body)).await;
            is(&put, 422);
            told.push(put.body);
        }
        assert_eq!(told[0], told[1]);
        let members = ask(&desk, &eve, Method::GET, "/v1/members", None).await;
        assert!(!members.body.contains("acme.example"), "{}", members.body);
        person(&desk, PersonRole::Member, "acme", "lee").await;
        for subject in ["lee", "nobody"] {
            let issuer = "https://idp.example";
            let body = json!({"issuer": issuer, "subject": subject, "role": "member"});
            is(&ask(&desk, &eve, Method::PUT, "/v1/members", Some(body)).await, 204);
        }
        for (issuer, subject) in [("", "a"), ("a", ""), ("a", "b\n"), ("a\u{0}", "b")] {
            let body = json!({"issuer": issuer, "subject": subject, "role": "member"});
            is(&ask(&desk, &eve, Method::PUT, "/v1/members", Some(body)).await, 422);
        }
        let reader = key(&desk, &["read", "keys:read"]).await;
        is(&ask(&desk, &reader, Method::GET, "/v1/members", None).await, 404);
    });
}
