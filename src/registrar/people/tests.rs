//! Each way to sign in, and each way to forge it.

use axum::http::{Method, StatusCode};

use super::bootstrap::BootstrapFor;
use super::*;
use crate::manage::operation::StatusChange;
use crate::registrar::serve::tests::{Ask, TestDesk, Told, run};
use crate::registrar::store::suite::{self, NOW};

/// The token of a fresh link.
async fn link(desk: &TestDesk, org: Option<&str>, role: &str, name: &str) -> String {
    let wanted = BootstrapFor {
        name: name.into(),
        org: org.map(str::to_owned),
        role: role.into(),
        by: "root (uid 0)".into(),
    };
    let now_ms = desk.clock.now().unix_ms;
    let url = bootstrap_link(&*desk.store, "http://h", &wanted, now_ms).await.unwrap();
    url.strip_prefix("http://h/sign-in#").unwrap().to_owned()
}

fn sign_in(token: &str) -> Ask {
    Ask::post("/sign-in").with("sec-fetch-site", "same-origin").form(&format!("token={token}"))
}

/// The cookie of somebody who has signed in by a link.
async fn signed_in(desk: &TestDesk, org: Option<&str>, role: &str, name: &str) -> String {
    let told = desk.send(sign_in(&link(desk, org, role, name).await)).await;
    assert_eq!(told.status, StatusCode::SEE_OTHER, "{told:?}");
    told.cookie()
}

/// Sends each request, which has a name, and compares its answer.
async fn table(desk: &TestDesk, cases: Vec<(&str, Ask, &str)>) {
    for (name, ask, want) in cases {
        let told = desk.send(ask).await;
        let got = match told.status {
            StatusCode::OK => told.json()["by"].as_str().unwrap().to_owned(),
            status => format!("{} {}", status.as_u16(), told.code()),
        };
        assert_eq!(got, want, "{name}");
    }
}

/// Sets somebody's role in an org, without a note of how they got it.
async fn set_role(desk: &TestDesk, org: &str, id: &PersonId, role: Option<PersonRole>) {
    let change = crate::registrar::store::MemberChange {
        org: suite::org(org),
        id: id.clone(),
        role,
        about: None,
        within: None,
        actor: suite::host(),
        channel: Default::default(),
        at_ms: NOW,
    };
    desk.store.change_member(change).await.unwrap();
}

#[test]
fn keys_by_every_forgery() {
    run(async {
        let desk = TestDesk::new("");
        let (made, key) = desk.key(&["keys:read"]).await;
        let (_, other) = desk.key(&["keys:read"]).await;
        let who = || Ask::get("/who");
        let bearer = |text: &str| format!("Bearer {text}");
        let mut wrong = key.clone();
        wrong.pop();
        let cases = vec![
            ("nothing", who(), "401 no_credential"),
            ("bearer", who().with("authorization", &bearer(&key)), "key"),
            ("field", who().with("x-api-key", &key), "key"),
            ("case of the scheme", who().with("authorization", &format!("bEARER {key}")), "key"),
            ("a wrong one", who().with("x-api-key", &wrong), "401 invalid_credential"),
            ("an empty one", who().with("x-api-key", ""), "401 invalid_credential"),
            ("Basic", who().with("authorization", "Basic YTpi"), "401 invalid_credential"),
            (
                "the same twice",
                who().with("x-api-key", &key).with("x-api-key", &key),
                "400 two_credentials",
            ),
            (
                "two fields",
                who().with("x-api-key", &key).with("authorization", &bearer(&other)),
                "400 two_credentials",
            ),
            ("its digest", who().with("x-api-key", "%00"), "401 invalid_credential"),
            (
                "its id",
                who().with("x-api-key", &made.key.entry.id.to_string()),
                "401 invalid_credential",
            ),
            ("a change from nowhere", Ask::post("/who").with("x-api-key", &key), "key"),
            (
                "a change from another site",
                Ask::post("/who")
                    .with("x-api-key", &key)
                    .with("sec-fetch-site", "cross-site")
                    .with("origin", "https://evil.example"),
                "key",
            ),
            ("another audience", Ask::get("/who?audience=other").with("x-api-key", &key), "key"),
        ];
        table(&desk, cases).await;
        let told = desk.send(who().with("x-api-key", &key)).await.json();
        assert_eq!((&told["org"], &told["actor"]), (&"acme".into(), &"key".into()), "{told}");
        for status in [StatusChange::Disable, StatusChange::Enable, StatusChange::Revoke] {
            let change = suite::set(made.key.entry.id, status);
            desk.store.change(suite::request(suite::host(), change)).await.unwrap();
            let want = match status {
                StatusChange::Enable => "key",
                _ => "401 invalid_credential",
            };
            table(&desk, vec![(want, who().with("x-api-key", &key), want)]).await;
        }
    });
}

#[test]
fn a_key_is_good_for_its_time_and_its_networks() {
    run(async {
        let desk = TestDesk::new("");
        let wanted = crate::manage::operation::CreateRequest {
            networks: vec!["203.0.113.0/24".parse().unwrap()],
            expires: Some(crate::manage::time::When::At(NOW / 1000 + 60)),
            ..suite::new_key("short")
        };
        let change = crate::registrar::store::KeyChange::Create(Box::new(wanted));
        let made = desk.store.change(suite::request(suite::host(), change)).await.unwrap();
        let key = String::from_utf8(made.secret.unwrap().expose().to_vec()).unwrap();
        let from = |address: [u8; 4]| {
            let peer = Peer { address: Some(address.into()), ..Peer::default() };
            Ask::get("/who").with("x-api-key", &key).from(peer)
        };
        let cases = vec![
            ("from there", from([203, 0, 113, 9]), "key"),
            ("from elsewhere", from([192, 0, 2, 7]), "403 address_not_allowed"),
            ("from nowhere", from([0, 0, 0, 0]).from(Peer::default()), "403 address_not_allowed"),
        ];
        table(&desk, cases).await;
        desk.advance(60);
        table(&desk, vec![("over", from([203, 0, 113, 9]), "401 invalid_credential")]).await;
    });
}

#[test]
fn of_a_pair_both_halves_are_needed() {
    run(async {
        let desk = TestDesk::new(
            "[people]\nkey_fields = [\"x-api-secret\"]\npublic_id_field = \"x-api-key\"\n",
        );
        let made = suite::create_pair(&desk.store, "pair").await;
        let secret = String::from_utf8(made.secret.unwrap().expose().to_vec()).unwrap();
        let id = made.key.entry.public_id.unwrap();
        let who = || Ask::get("/who").with("x-api-secret", &secret);
        let cases = vec![
            ("both", who().with("x-api-key", &id), "key"),
            ("the secret alone", who(), "401 invalid_credential"),
            ("the id alone", Ask::get("/who").with("x-api-key", &id), "401 invalid_credential"),
            ("another id", who().with("x-api-key", "other"), "401 invalid_credential"),
            ("two ids", who().with("x-api-key", &id).with("x-api-key", "x"), "400 two_credentials"),
            ("our own field", who().with("keygate-public-id", &id), "key"),
            ("another in it", who().with("keygate-public-id", "x"), "401 invalid_credential"),
            (
                "both fields",
                who().with("x-api-key", &id).with("keygate-public-id", &id),
                "400 two_credentials",
            ),
        ];
        table(&desk, cases).await;
        // Where the product's field is not configured, ours is there.
        let desk = TestDesk::new("");
        let made = suite::create_pair(&desk.store, "pair").await;
        let secret = String::from_utf8(made.secret.unwrap().expose().to_vec()).unwrap();
        let id = made.key.entry.public_id.unwrap();
        let who = || Ask::get("/who").with("authorization", &format!("Bearer {secret}"));
        let cases = vec![
            ("both", who().with("keygate-public-id", &id), "key"),
            ("the secret alone", who(), "401 invalid_credential"),
        ];
        table(&desk, cases).await;
    });
}

#[test]
fn a_link_is_good_once_and_for_a_while() {
    run(async {
        let desk = TestDesk::new("");
        let token = link(&desk, Some("acme"), "owner", "kim").await;
        assert_eq!(token.len(), 43);
        // Looking at the page does not use the link up: the page does not even receive the token.
        let page = desk.send(Ask::get("/sign-in")).await;
        assert!(page.body.contains("<form method=\"post\" action=\"/sign-in\""), "{page:?}");
        let forged = [
            ("no origin", Ask::post("/sign-in").form(&format!("token={token}"))),
            (
                "another site",
                Ask::post("/sign-in")
                    .with("sec-fetch-site", "cross-site")
                    .form(&format!("token={token}")),
            ),
            (
                "a sibling",
                Ask::post("/sign-in")
                    .with("sec-fetch-site", "same-site")
                    .form(&format!("token={token}")),
            ),
            (
                "origin",
                Ask::post("/sign-in")
                    .with("origin", "http://evil.example")
                    .form(&format!("token={token}")),
            ),
        ];
        for (name, ask) in forged {
            assert_eq!(desk.send(ask).await.code(), "cross_site", "{name}");
        }
        let told = desk.send(sign_in(&token)).await;
        let field = told.fields["set-cookie"].to_str().unwrap();
        let (cookie, rest) = field.split_once("; ").unwrap();
        assert!(cookie.starts_with("__Host-keygate=") && cookie.len() == 15 + 43, "{field}");
        assert_eq!(rest, "Path=/; Secure; HttpOnly; SameSite=Lax");
        assert_eq!(desk.send(sign_in(&token)).await.code(), "invalid_credential", "twice");
        let who = desk.send(Ask::get("/who").with("cookie", cookie)).await.json();
        assert_eq!((&who["org"], &who["role"]), (&"acme".into(), &"owner".into()), "{who}");
        let late = link(&desk, Some("acme"), "owner", "kim").await;
        desk.advance(900);
        assert_eq!(desk.send(sign_in(&late)).await.code(), "invalid_credential", "late");
        assert_eq!(desk.send(sign_in(&"x".repeat(43))).await.code(), "invalid_credential");
        let lines = desk
            .store
            .audit(crate::registrar::store::AuditQuery { limit: 200, ..Default::default() })
            .await
            .unwrap()
            .lines;
        assert!(lines.iter().any(|line| &*line.action == "sign in"), "{lines:?}");
        assert!(!format!("{lines:?}").contains(&token));
    });
}

#[test]
fn a_session_by_every_forgery() {
    run(async {
        let desk = TestDesk::new("");
        let cookie = signed_in(&desk, Some("acme"), "owner", "kim").await;
        let other = signed_in(&desk, Some("other"), "member", "lee").await;
        let (_, key) = desk.key(&["keys:read"]).await;
        let who = || Ask::get("/who");
        let change = |method: Method| Ask::new(method, "/who").with("cookie", &cookie);
        let same = |method| change(method).with("sec-fetch-site", "same-origin");
        let cases = vec![
            ("cookie", who().with("cookie", &cookie), "session"),
            ("beside others", who().with("cookie", &format!("a=b; {cookie}; c")), "session"),
            ("changed", who().with("cookie", &format!("{cookie}x")), "401 invalid_credential"),
            (
                "another name",
                who().with("cookie", &cookie.replace("__Host-", "")),
                "401 no_credential",
            ),
            (
                "two people",
                who().with("cookie", &format!("{cookie}; {other}")),
                "400 two_credentials",
            ),
            (
                "in two fields",
                who().with("cookie", &cookie).with("cookie", &other),
                "400 two_credentials",
            ),
            (
                "as a key",
                who().with("x-api-key", cookie.split_once('=').unwrap().1),
                "401 invalid_credential",
            ),
            ("with a key, the key", who().with("cookie", &cookie).with("x-api-key", &key), "key"),
            (
                "with a wrong key",
                who().with("cookie", &cookie).with("x-api-key", "no"),
                "401 invalid_credential",
            ),
            (
                "a look from another site",
                who().with("cookie", &cookie).with("sec-fetch-site", "cross-site"),
                "session",
            ),
            ("a change from nowhere", change(Method::POST), "403 cross_site"),
            (
                "from another site",
                change(Method::POST).with("sec-fetch-site", "cross-site"),
                "403 cross_site",
            ),
            (
                "from a sibling",
                change(Method::DELETE).with("sec-fetch-site", "same-site"),
                "403 cross_site",
            ),
            ("typed", change(Method::POST).with("sec-fetch-site", "none"), "403 cross_site"),
            (
                "both said",
                change(Method::POST)
                    .with("sec-fetch-site", "same-origin")
                    .with("sec-fetch-site", "cross-site"),
                "403 cross_site",
            ),
            ("from our page", same(Method::POST), "session"),
            ("patch", same(Method::PATCH), "session"),
            ("origin", change(Method::PUT).with("origin", "http://127.0.0.1:9920"), "session"),
            (
                "another origin",
                change(Method::PUT).with("origin", "http://127.0.0.1:9921"),
                "403 cross_site",
            ),
            ("origin null", change(Method::PUT).with("origin", "null"), "403 cross_site"),
            ("null and same", same(Method::PUT).with("origin", "null"), "403 cross_site"),
            ("an odd method", change(Method::from_bytes(b"X").unwrap()), "403 cross_site"),
        ];
        table(&desk, cases).await;
    });
}

#[test]
fn a_session_ends_by_itself_and_at_once() {
    run(async {
        let desk = TestDesk::new("");
        let who = |cookie: &str| Ask::get("/who").with("cookie", cookie);
        let over = "401 invalid_credential";
        let idle = signed_in(&desk, Some("acme"), "owner", "kim").await;
        desk.advance(30 * 60);
        table(&desk, vec![("half an hour", who(&idle), "session")]).await;
        desk.advance(30 * 60 + 1);
        table(&desk, vec![("a second more", who(&idle), over), ("again", who(&idle), over)]).await;
        let busy = signed_in(&desk, Some("acme"), "owner", "kim").await;
        for _ in 0..24 {
            table(&desk, vec![("in use", who(&busy), "session")]).await;
            desk.advance(30 * 60);
        }
        table(&desk, vec![("12 h", who(&busy), over)]).await;
        let gone = signed_in(&desk, Some("acme"), "owner", "kim").await;
        let out = |form: &str| {
            let ask = Ask::post("/sign-out").with("cookie", &gone);
            ask.with("sec-fetch-site", "same-origin").form(&format!("form={form}"))
        };
        assert_eq!(desk.send(out("")).await.code(), "cross_site", "the form has no token");
        let form = desk.send(who(&gone)).await.json()["form"].as_str().unwrap().to_owned();
        let told = desk.send(out(&form)).await;
        assert_eq!(told.status, StatusCode::SEE_OTHER, "{told:?}");
        assert!(told.fields["set-cookie"].to_str().unwrap().ends_with("Max-Age=0"));
        table(&desk, vec![("signed out", who(&gone), over)]).await;
        // A recovery ends all sessions.
        let before = signed_in(&desk, Some("acme"), "owner", "kim").await;
        desk.store.begin_epoch(Default::default(), suite::recovery()).await.unwrap();
        table(&desk, vec![("of before a recovery", who(&before), over)]).await;
    });
}

#[test]
fn somebody_in_several_orgs_is_in_the_chosen_one() {
    run(async {
        let desk = TestDesk::new("");
        signed_in(&desk, Some("other"), "member", "kim").await;
        let cookie = signed_in(&desk, Some("acme"), "owner", "kim").await;
        let who = async || desk.send(Ask::get("/who").with("cookie", &cookie)).await.json();
        let told = who().await;
        assert_eq!((&told["org"], &told["role"]), (&"acme".into(), &"owner".into()), "{told}");
        assert_eq!(told["orgs"], serde_json::json!(["acme", "other"]));
        let form = told["form"].as_str().unwrap();
        let choose = |org: &str| {
            let ask = Ask::post("/session/org").with("cookie", &cookie);
            ask.with("sec-fetch-site", "same-origin").form(&format!("org={org}&form={form}"))
        };
        assert_eq!(desk.send(choose("foreign")).await.code(), "not_found");
        assert_eq!(desk.send(choose("other")).await.status, StatusCode::SEE_OTHER);
        let told = who().await;
        assert_eq!((&told["org"], &told["role"]), (&"other".into(), &"member".into()), "{told}");
        let operator = signed_in(&desk, None, "operator", "op").await;
        let told: Told = desk.send(Ask::get("/who").with("cookie", &operator)).await;
        assert_eq!(told.json()["scope"], "all");
        assert_eq!(told.json()["role"], "operator");
    });
}

#[test]
fn whoever_guesses_is_told_to_wait() {
    run(async {
        let desk = TestDesk::new("");
        let (_, key) = desk.key(&["keys:read"]).await;
        let guess = || Ask::get("/who").with("x-api-key", "guess");
        for _ in 0..30 {
            assert_eq!(desk.send(guess()).await.status, StatusCode::UNAUTHORIZED);
        }
        let told = desk.send(guess()).await;
        assert_eq!(told.code(), "too_many_failures");
        assert!(told.fields.contains_key("retry-after"));
        table(&desk, vec![("others there", Ask::get("/who").with("x-api-key", &key), "key")]).await;
        let elsewhere = Peer { address: Some([192, 0, 2, 8].into()), ..Peer::default() };
        assert_eq!(desk.send(guess().from(elsewhere)).await.status, StatusCode::UNAUTHORIZED);
        desk.advance(60);
        assert_eq!(desk.send(guess()).await.status, StatusCode::UNAUTHORIZED);
    });
}

mod confined;
mod embed;
mod leaving;
mod members;
mod oidc;
mod product;
mod sidecar;

/// From now on no key can be changed, as if the database went away in the middle of something.
fn break_keys(desk: &TestDesk) {
    let fail = "SELECT abs(-9223372036854775807 - 1)";
    meddle(desk, &format!("CREATE TRIGGER away BEFORE UPDATE ON \"key\" BEGIN {fail}; END"));
}

fn mend_keys(desk: &TestDesk) {
    meddle(desk, "DROP TRIGGER away");
}

fn meddle(desk: &TestDesk, sql: &str) {
    let path = desk.app.settings.state.parent().unwrap().join("registrar.db");
    rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
}
