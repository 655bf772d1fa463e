//! An org's rules for its keys, and for the keys of people who leave.

use super::*;
use crate::registrar::serve::tests::run;
use crate::registrar::store::KeyRef;

const POLICY: &str = "/v1/orgs/acme/policy";

async fn patch(desk: &TestDesk, who: &Who, version: &str, body: Value) -> Told {
    let fields = [("if-match", version)];
    ask_with(desk, who, Method::PATCH, POLICY, Some(body), &fields).await
}

#[test]
fn an_owner_sets_what_keys_keep_to() {
    run(async {
        let desk = TestDesk::new("\n[policy]\nmost_keys = 5\nowner_leaves = \"disable\"\n");
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        let member = person(&desk, PersonRole::Member, "acme", "member").await;
        let told = ask(&desk, &member, Method::GET, POLICY, None).await;
        is(&told, 200);
        assert_eq!(told.fields["etag"], "\"0\"");
        let standard = json!({"org": "acme", "longest_life": null, "networks_required": false,
            "most_keys": 5, "permissions": null, "owner_leaves": "disable", "version": 0});
        assert_eq!(told.json(), standard, "as the configuration says");
        let body = json!({"longest_life": "30d", "networks_required": true, "most_keys": null,
            "permissions": ["read", "keys:read"]});
        is(&ask(&desk, &owner, Method::PATCH, POLICY, Some(body.clone())).await, 428);
        let told = patch(&desk, &owner, "\"0\"", body.clone()).await;
        is(&told, 200);
        let set = json!({"org": "acme", "longest_life": "30d", "networks_required": true,
            "most_keys": null, "permissions": ["keys:read", "read"], "owner_leaves": "disable",
            "version": 1});
        assert_eq!(told.json(), set);
        is(&patch(&desk, &owner, "\"0\"", body).await, 412);
        let told = patch(&desk, &owner, "\"1\"", json!({"owner_leaves": "keep"})).await;
        assert_eq!(told.json()["owner_leaves"], "keep");
        assert_eq!(told.json()["longest_life"], "30d", "what is not said stays");
        // It binds immediately, whoever asks.
        let new = |more: Value| {
            let mut body = json!({"name": "n", "permissions": ["read"], "expires": "20d",
                "networks": ["203.0.113.7"]});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Some(body)
        };
        let keys = "/v1/orgs/acme/keys";
        is(&ask(&desk, &owner, Method::POST, keys, new(json!({}))).await, 201);
        for (more, pointer) in [
            (json!({"expires": "31d"}), "/expires"),
            (json!({"expires": null}), "/expires"),
            (json!({"networks": []}), "/networks"),
            (json!({"permissions": ["write"]}), "/permissions"),
        ] {
            let told = ask(&desk, &owner, Method::POST, keys, new(more.clone())).await;
            is(&told, 403);
            assert_eq!(told.json()["errors"][0]["pointer"], pointer, "{more}");
        }
        let told = ask(&desk, &member, Method::GET, "/v1/permissions", None).await;
        is(&told, 200);
        let audit = ask(&desk, &owner, Method::GET, "/v1/audit", None).await;
        assert!(audit.body.contains("\"set policy\""), "{}", audit.body);
    });
}

#[test]
fn a_policy_that_makes_no_sense_is_refused_with_its_place() {
    run(async {
        let desk = TestDesk::new("");
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        for (body, pointer) in [
            (json!({"longest_life": "soon"}), "/longest_life"),
            (json!({"longest_life": "0s"}), "/longest_life"),
            (json!({"longest_life": 90}), "/longest_life"),
            (json!({"most_keys": 0}), "/most_keys"),
            (json!({"most_keys": "5"}), "/most_keys"),
            (json!({"networks_required": "yes"}), "/networks_required"),
            (json!({"permissions": ["a b"]}), "/permissions/0"),
            (json!({"owner_leaves": "delete"}), "/owner_leaves"),
            (json!({"owner_leaves": null}), "/owner_leaves"),
            (json!({"longest_live": "90d"}), "/longest_live"),
        ] {
            let told = patch(&desk, &owner, "*", body.clone()).await;
            is(&told, 422);
            assert_eq!(told.json()["errors"][0]["pointer"], pointer, "{body}");
        }
        let told = ask(&desk, &owner, Method::GET, POLICY, None).await;
        assert_eq!(told.json()["version"], 0, "nothing was changed");
    });
}

#[test]
fn keys_of_somebody_who_leaves_are_named() {
    run(async {
        let desk = TestDesk::new("");
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        person(&desk, PersonRole::Admin, "acme", "lee").await;
        let made = target(&desk, Some("lee")).await;
        let id = made.key.entry.id;
        let role = |role: Value| {
            Some(json!({"issuer": "https://idp.example", "subject": "lee", "role": role}))
        };
        let told = ask(&desk, &owner, Method::PUT, "/v1/members", role(json!("member"))).await;
        is(&told, 204);
        let told = ask(&desk, &owner, Method::PUT, "/v1/members", role(Value::Null)).await;
        is(&told, 200);
        assert_eq!(told.json(), json!({"kept": [id.to_string()], "disabled": []}));
        is(&patch(&desk, &owner, "*", json!({"owner_leaves": "disable"})).await, 200);
        // A repetition finishes what was left undone.
        let told = ask(&desk, &owner, Method::PUT, "/v1/members", role(Value::Null)).await;
        is(&told, 200);
        assert_eq!(told.json(), json!({"kept": [], "disabled": [id.to_string()]}));
        let row = desk.store.key(&suite::audience(), None, KeyRef::Id(id)).await.unwrap();
        assert_eq!(row.entry.status.as_str(), "disabled");
    });
}
