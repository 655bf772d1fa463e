//! How sessions end: signing out, losing a role, and what ends with them.

use serde_json::{Value, json};

use super::*;
use crate::core::Digest;
use crate::registrar::store::SessionKind;

const APP: &str = "https://app.example.com";
const KEYS: &str = "/v1/orgs/acme/keys";

fn kim() -> PersonId {
    suite::person("kim")
}

/// Makes Kim an operator, or not.
async fn put_kim(desk: &TestDesk, role: PersonRole) {
    let (name, email, operator) = ("kim".into(), "".into(), role == PersonRole::Operator);
    let person = Person { id: kim(), name, email, operator, seen_ms: NOW };
    desk.store.put_person(person).await.unwrap();
}

/// A session of Kim's that is in no org yet, as one from a provider is.
async fn open_session(desk: &TestDesk, name: &str, ends_ms: u64) -> String {
    session_with(desk, name, ends_ms, json!({})).await
}

async fn session_with(desk: &TestDesk, name: &str, ends_ms: u64, detail: Value) -> String {
    let row = SessionRow {
        digest: Digest::of(name.as_bytes()),
        id: format!("id-of-{name}").into(),
        kind: SessionKind::Person,
        person: kim(),
        org: None,
        detail,
        epoch: 0,
        created_ms: NOW,
        seen_ms: NOW,
        ends_ms,
        address: Box::default(),
        agent: Box::default(),
    };
    desk.store.put_session(row).await.unwrap();
    format!("__Host-keygate={name}")
}

async fn is_there(desk: &TestDesk, name: &str) -> bool {
    desk.store.session(Digest::of(name.as_bytes()), NOW).await.unwrap().is_some()
}

const LATE: u64 = NOW + 3_600_000;

/// A desk with another owner, so that Kim can leave.
async fn desk_of_two_owners(settings: &str) -> TestDesk {
    let desk = TestDesk::new(settings);
    signed_in(&desk, Some("acme"), "owner", "lee").await;
    put_kim(&desk, PersonRole::Owner).await;
    desk
}

#[test]
fn a_session_does_not_come_back_with_the_role() {
    run(async {
        let desk = desk_of_two_owners("").await;
        set_role(&desk, "acme", &kim(), Some(PersonRole::Owner)).await;
        open_session(&desk, "a", LATE).await;
        set_role(&desk, "acme", &kim(), None).await;
        assert!(!is_there(&desk, "a").await, "in no org, and of the role that is gone");
        // A session that is left from before says so once.
        let cookie = open_session(&desk, "b", LATE).await;
        let who = async || desk.send(Ask::get("/who").with("cookie", &cookie)).await.code();
        assert_eq!(who().await, "no_role");
        set_role(&desk, "acme", &kim(), Some(PersonRole::Owner)).await;
        assert_eq!(who().await, "invalid_credential");
        // Operators are in no org on purpose, but only a present operator may be.
        put_kim(&desk, PersonRole::Operator).await;
        open_session(&desk, "c", LATE).await;
        set_role(&desk, "acme", &kim(), Some(PersonRole::Member)).await;
        set_role(&desk, "acme", &kim(), None).await;
        assert!(is_there(&desk, "c").await);
        put_kim(&desk, PersonRole::Operator).await;
        assert!(is_there(&desk, "c").await);
        put_kim(&desk, PersonRole::Owner).await;
        assert!(!is_there(&desk, "c").await);
    });
}

#[test]
fn whoever_signs_out_is_out() {
    run(async {
        let desk = desk_of_two_owners("").await;
        let out = |cookie: Option<&str>, site: &str| {
            let ask = Ask::post("/sign-out").with("sec-fetch-site", site).form("form=");
            match cookie {
                Some(cookie) => ask.with("cookie", cookie),
                None => ask,
            }
        };
        // Without a role; and from a provider that is no longer configured: the session opens
        // nothing, but would work again if the provider returned.
        for (name, detail) in [("a", json!({})), ("b", json!({"by": "oidc", "provider": "gone"}))] {
            let cookie = session_with(&desk, name, LATE, detail.clone()).await;
            let told = desk.send(out(Some(&cookie), "cross-site")).await;
            assert_eq!(told.code(), "cross_site", "{name}");
            assert!(!told.fields.contains_key("set-cookie"), "{name}: {told:?}");
            assert_eq!(is_there(&desk, name).await, name == "b", "{name}");
            if name == "a" {
                session_with(&desk, name, LATE, detail).await;
            }
            let told = desk.send(out(Some(&cookie), "same-origin")).await;
            assert_eq!(told.status, StatusCode::SEE_OTHER, "{name}: {told:?}");
            assert!(told.fields["set-cookie"].to_str().unwrap().ends_with("Max-Age=0"));
            assert!(!is_there(&desk, name).await, "{name}");
        }
        // No other site can delete the cookie. Browsers do not send it from there, but the answer
        // would still count.
        for site in ["cross-site", "same-site", "none"] {
            let told = desk.send(out(None, site)).await;
            assert_eq!(told.code(), "cross_site", "{site}");
            assert!(!told.fields.contains_key("set-cookie"), "{site}: {told:?}");
        }
        let told = desk.send(out(None, "same-origin")).await;
        assert_eq!(told.status, StatusCode::SEE_OTHER, "{told:?}");
    });
}

#[test]
fn a_components_token_ends_with_the_session_that_made_it() {
    run(async {
        let settings = format!("[embed]\norigins = [\"{APP}\"]\n");
        for way in ["sign out", "from the list", "by the list of another", "over", "stays"] {
            let desk = desk_of_two_owners(&settings).await;
            set_role(&desk, "acme", &kim(), Some(PersonRole::Owner)).await;
            let cookie = open_session(&desk, "a", NOW + 120_000).await;
            let other = open_session(&desk, "b", LATE).await;
            let by = |ask: Ask, cookie: &str| {
                ask.with("cookie", cookie).with("sec-fetch-site", "same-origin")
            };
            let wish = json!({"origin": APP, "permissions": ["read"]}).to_string();
            let wish = Ask::post("/v1/embed-tokens").body("application/json", &wish);
            let told = desk.send(by(wish, &cookie)).await.json();
            let token = format!("Bearer {}", told["token"].as_str().unwrap());
            let look = async || {
                let ask = Ask::get(KEYS).with("authorization", &token).with("origin", APP);
                desk.send(ask).await.status.as_u16()
            };
            assert_eq!(look().await, 200, "{way}");
            let listed = async || {
                let told = desk.send(by(Ask::get("/v1/sessions"), &other)).await;
                told.body.contains(APP)
            };
            assert!(listed().await, "{way}");
            let form = async |cookie: &str| {
                let who = desk.send(Ask::get("/who").with("cookie", cookie)).await.json();
                format!("form={}", who["form"].as_str().unwrap())
            };
            match way {
                "sign out" => {
                    let out = Ask::post("/sign-out").form(&form(&cookie).await);
                    let told = desk.send(by(out, &cookie)).await;
                    assert_eq!(told.status, StatusCode::SEE_OTHER, "{told:?}");
                }
                "from the list" => {
                    let end = Ask::new(Method::DELETE, "/v1/sessions/id-of-a");
                    let told = desk.send(by(end, &other)).await;
                    assert_eq!(told.status, StatusCode::NO_CONTENT, "{told:?}");
                }
                "by the list of another" => {
                    let fields = format!("{}&in_org=acme&others=1", form(&other).await);
                    let told =
                        desk.send(by(Ask::post("/sessions/end").form(&fields), &other)).await;
                    assert_eq!(told.status, StatusCode::SEE_OTHER, "{told:?}");
                }
                "over" => desk.advance(121),
                _ => {
                    let end = Ask::new(Method::DELETE, "/v1/sessions/id-of-b");
                    desk.send(by(end, &cookie)).await;
                    assert_eq!(look().await, 200, "another session of the same person");
                    continue;
                }
            }
            assert_eq!(look().await, 401, "{way}");
            assert!(!listed().await, "{way}");
        }
    });
}
