//! The screens of an org: its policy, its members' keys, what stands out.

use super::*;
use crate::registrar::store::suite::usage::{Report, batch};
use crate::registrar::store::{KeyRef, KeyRow};

async fn row(desk: &TestDesk, key: crate::core::KeyId) -> KeyRow {
    let audience = crate::registrar::store::suite::audience();
    desk.store.key(&audience, None, KeyRef::Id(key)).await.unwrap()
}

#[test]
fn an_owner_sets_the_policy_and_others_read_it() {
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let shown = kim.get("/policy").await;
        assert!(shown.body.contains("Save changes") && shown.body.contains("Read messages."));
        let hidden = kim.hidden("/policy").await;
        let wrong = "longest_life=soon&most_keys=0&offers=some&owner_leaves=disable";
        let told = kim.post("/policy", &format!("{hidden}&{wrong}")).await;
        assert_eq!(told.status, StatusCode::UNPROCESSABLE_ENTITY);
        for text in ["3 things need", "#longest_life", "#most_keys", "#permissions", "\"soon\""] {
            assert!(told.body.contains(text), "{text}: {}", told.body);
        }
        let good = "longest_life=30&most_keys=7&networks_required=1&offers=some&permission=read\
                    &owner_leaves=disable";
        let to = goes_to(&kim.post("/policy", &format!("{hidden}&{good}")).await);
        let saved = kim.get(&to).await;
        assert!(saved.body.contains("The policy is saved"), "{}", saved.body);
        for text in
            ["value=\"30\"", "value=\"7\"", "value=\"read\" data-chooses=\"offers-some\" checked"]
        {
            assert!(saved.body.contains(text), "{text}: {}", saved.body);
        }
        let rules = desk.store.org(&OrgId::parse("acme").unwrap()).await.unwrap().rules;
        assert_eq!(rules.policy.longest_life, Some(30 * 86_400));
        assert_eq!(rules.owner_leaves.as_str(), "disable");
        // Somebody else was faster: what was typed stays, and saving again is deliberate.
        let late = kim.post("/policy", &format!("{hidden}&longest_life=90&offers=all")).await;
        assert_eq!(late.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(late.body.contains("Somebody else has changed") && late.body.contains("\"90\""));
        let form = format!("{}&longest_life=90&offers=all", hidden_of(&late));
        goes_to(&kim.post("/policy", &form).await);
        // It restricts the form for a new key.
        let new = kim.hidden("/keys/new").await;
        let told = kim.post("/keys", &format!("{new}&name=A&permission=read&expires=never")).await;
        assert!(told.body.contains("a key lives at most 90d"), "{}", told.body);
        let ola = Browser::signed_in(&desk, Some("acme"), "admin").await;
        let read = ola.get("/policy").await;
        assert!(read.body.contains("disabled") && !read.body.contains("Save changes"));
        let told = ola.post("/policy", &format!("{}&offers=all", hidden_of(&read))).await;
        assert_eq!(told.status, StatusCode::FORBIDDEN);
        let max = Browser::signed_in(&desk, Some("acme"), "member").await;
        assert_eq!(max.get("/policy").await.status, StatusCode::FORBIDDEN);
    });
}

/// The form does not offer what the policy forbids, and the store accepts what the form proposes.
#[test]
fn the_form_offers_what_the_policy_leaves() {
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let free = kim.get("/keys/new").await.body;
        for text in ["value=\"never\"", "value=\"365d\"", "value=\"send\"", "(optional)"] {
            assert!(free.contains(text), "{text}: {free}");
        }
        let new = kim.hidden("/keys/new").await;
        let wide = format!("{new}&name=Wide&permission=send&expires=never");
        assert_eq!(kim.post("/keys", &wide).await.status, StatusCode::OK);
        for (life, chosen) in [(30, "30d"), (45, "45d")] {
            let hidden = kim.hidden("/policy").await;
            let policy =
                format!("longest_life={life}&networks_required=1&offers=some&permission=read");
            goes_to(&kim.post("/policy", &format!("{hidden}&{policy}")).await);
            let page = kim.get("/keys/new").await;
            let bound = &page.body;
            for text in ["value=\"never\"", "value=\"365d\"", "value=\"90d\"", "value=\"send\""] {
                assert!(!bound.contains(text), "{text}: {bound}");
            }
            for text in [
                &*format!("live at most {life}d"),
                "needs one at least",
                "spellcheck=\"false\" required",
                "value=\"read\"",
                &format!("value=\"{chosen}\" checked"),
            ] {
                assert!(bound.contains(text), "{text}: {bound}");
            }
            // As proposed, with the last day that can be chosen.
            let latest = bound.split("max=\"").nth(1).unwrap().split('"').next().unwrap();
            let date = format!("expires=date&expires_date={latest}");
            let form = format!("{}&name=K{life}&permission=read", hidden_of(&page));
            let told = kim.post("/keys", &format!("{form}&networks=192.0.2.1&{date}")).await;
            assert_eq!(told.status, StatusCode::OK, "{}", told.body);
        }
        // A key keeps what it has.
        let keys = kim.get("/keys?q=Wide").await.body;
        let id = keys.split("/keys/key_").nth(1).unwrap().split(['"', '?']).next().unwrap();
        let edit = kim.get(&format!("/keys/key_{id}/edit")).await.body;
        assert!(
            edit.contains("value=\"send\"") && edit.contains("value=\"keep\" checked"),
            "{edit}"
        );
        assert!(!edit.contains("value=\"never\""), "{edit}");
    });
}

#[test]
fn keys_of_somebody_who_leaves_are_listed() {
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let ola = Browser::signed_in(&desk, Some("acme"), "admin").await;
        let new = ola.hidden("/keys/new").await;
        let shown =
            ola.post("/keys", &format!("{new}&name=Export&permission=send&expires=90d")).await;
        assert_eq!(shown.status, StatusCode::OK, "{}", shown.body);
        let hidden = kim.hidden("/members").await;
        let sub = percent_encoding::utf8_percent_encode(
            "admin of Some(\"acme\")",
            percent_encoding::NON_ALPHANUMERIC,
        );
        let leave = format!("{hidden}&iss=bootstrap&sub={sub}&role=");
        let to = goes_to(&kim.post("/members", &leave).await);
        let listed = kim.get(&to).await;
        assert!(listed.body.contains("that their role does not cover"), "{}", listed.body);
        assert!(listed.body.contains("<bdi>Export</bdi>") && listed.body.contains("They stay"));
        assert!(!kim.get("/members").await.body.contains("their role does not cover"));
        let audit = kim.get("/audit").await;
        assert!(audit.body.contains("keep of former owner"), "{}", audit.body);
    });
}

#[test]
fn what_stands_out_is_on_list_and_key() {
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let none = kim.get("/findings").await;
        assert!(none.body.contains("Nothing stands out"), "{}", none.body);
        let (made, _) = desk.key(&["read"]).await;
        let (quiet, _) = desk.key(&["read"]).await;
        let id = made.key.entry.id;
        let path = format!("/keys/{id}");
        let ask = format!("{path}/revoke");
        // Nobody has reported, so nobody knows whether the key is in use.
        let asked = kim.get(&ask).await.body;
        assert!(asked.contains("Nobody knows whether it is in use"), "{asked}");
        assert!(asked.contains("Last used: Not reported"), "{asked}");
        assert!(kim.get("/keys").await.body.contains("Not reported"));
        let hidden = kim.hidden(&ask).await;
        assert_eq!(kim.post(&ask, &hidden).await.status, StatusCode::UNPROCESSABLE_ENTITY);
        let name = row(&desk, id).await.entry.name;
        goes_to(&kim.post(&ask, &format!("{hidden}&confirm={name}")).await);
        let report = Report {
            instance: "a",
            boot: "1",
            key: id,
            ago: 1,
            admitted: 0,
            refused: ("revoked", 3),
        };
        desk.store.take_usage(batch(report)).await.unwrap();
        assert!(row(&desk, id).await.entry.status.is_final());
        let ask = format!("/keys/{}/revoke", quiet.key.entry.id);
        let asked = kim.get(&ask).await.body;
        assert!(
            asked.contains("Nobody knows whether it is in use"),
            "no sidecar is known: {asked}"
        );
        // From now on silence means something, as long as reports arrive.
        super::evidence::fetches(&desk, "a", desk.clock.now().unix_ms).await;
        let asked = kim.get(&ask).await.body;
        assert!(asked.contains("none has seen it in the last 24 hours"), "{asked}");
        assert!(asked.contains("Last used: Never") && !asked.contains("Not reported"), "{asked}");
        let found = kim.get("/findings").await;
        assert!(found.body.contains("Used after its end") && found.body.contains(&path));
        let list = kim.get("/keys?filter=all").await;
        assert_eq!(list.body.matches("Used after its end").count(), 1, "{}", list.body);
        let key = kim.get(&path).await;
        assert!(key.body.contains("a program still sends it"), "{}", key.body);
        let other = kim.get(&format!("/keys/{}", quiet.key.entry.id)).await;
        assert!(!other.body.contains("a program still sends it"));
        // Members see only their own keys.
        let max = Browser::signed_in(&desk, Some("acme"), "member").await;
        assert!(max.get("/findings").await.body.contains("Nothing stands out"));
        let eve = Browser::signed_in(&desk, Some("globex"), "owner").await;
        assert!(eve.get("/findings").await.body.contains("Nothing stands out"));
    });
}
