//! Sign-in at an OpenID provider, and a forger in the provider's place.

mod forger;

use serde_json::json;

use self::forger::{Discovery, Forger, Signing, Token, Trip};
use super::*;
use crate::registrar::store::{AuditQuery, PersonId};

const GROUPS: &str = "groups_claim = \"groups\"\norg_claim = \"org\"\n\
    roles = { admins = \"admin\", owners = \"owner\", staff = \"member\" }\n";

/// The whole audit log.
async fn audit(desk: &TestDesk) -> String {
    let all = AuditQuery { limit: 200, ..Default::default() };
    format!("{:?}", desk.store.audit(all).await.unwrap().lines)
}

#[test]
fn a_provider_signs_somebody_in() {
    run(async {
        for signing in [Signing::Rs256, Signing::Ps256, Signing::Es256, Signing::EdDsa] {
            let idp = Forger::start();
            let desk = idp.desk(GROUPS);
            let page = desk.send(Ask::get("/sign-in")).await.body;
            assert!(
                page.contains("Sign in with Forge") && page.contains("name=\"token\""),
                "{page}"
            );
            let trip = Trip::begin(&desk, "forge", "").await;
            let asked = |name: &str| trip.asked(name);
            assert_eq!(asked("response_type"), "code");
            assert_eq!(asked("client_id"), "keys & co");
            assert_eq!(asked("scope"), "openid profile email");
            assert_eq!(asked("code_challenge_method"), "S256");
            assert_eq!(asked("redirect_uri"), "http://127.0.0.1:0/sign-in/oidc/forge");
            assert!(asked("prompt").is_empty() && asked("state").len() == 43);
            assert!(asked("nonce").len() == 43 && asked("code_challenge").len() == 43);
            let field = &trip.set_cookie;
            assert!(field.starts_with("__Host-keygate-sign-in="), "{field}");
            let rest = "; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=600";
            assert!(field.ends_with(rest), "{field}");
            let told = trip.answer(&desk, &idp, |token| token.signing = signing).await;
            assert_eq!(told.status, StatusCode::SEE_OTHER, "{signing:?}: {told:?}");
            let cookie = forger::session(&told).unwrap();
            let who = desk.send(Ask::get("/who").with("cookie", &cookie)).await.json();
            assert_eq!((&who["by"], &who["org"]), (&"session".into(), &"acme".into()), "{who}");
            assert_eq!(who["role"], "admin", "{who}");
            assert_eq!(who["name"], format!("{} u-1", idp.issuer()), "{who}");
            // The secret was sent as a form requires, and the code with the verifier of its
            // challenge.
            let token = idp.request("POST /token ");
            // keys%20%26%20co:s%2Bcret
            assert!(token.contains("Basic a2V5cyUyMCUyNiUyMGNvOnMlMkJjcmV0"), "{token}");
            assert!(token.contains("grant_type=authorization_code&code=code-"), "{token}");
            let lines = audit(&desk).await;
            assert!(lines.contains("sign in at") || lines.contains("sign-in at forge"), "{lines}");
            assert!(lines.contains("groups of forge"), "{lines}");
            for secret in ["s+cret", &asked("nonce"), &asked("state")] {
                assert!(!lines.contains(secret), "{secret}: {lines}");
            }
            let metrics = desk.app.metrics.render();
            let count = "{provider=\"forge\",result=\"signed_in\"} 1";
            assert!(metrics.contains(count), "{metrics}");
        }
    });
}

#[test]
fn every_forged_answer_is_refused() {
    run(async {
        let idp = Forger::start();
        let desk = idp.desk(GROUPS);
        type Forgery = (&'static str, fn(&mut Token));
        let cases: [Forgery; 31] = [
            ("alg none", |t| t.signing = Signing::None),
            ("alg None", |t| (t.signing, t.alg) = (Signing::None, Some("None"))),
            ("HS256 with the public key", |t| t.signing = Signing::HmacOfPublicKey),
            ("HS256 with the client's secret", |t| t.signing = Signing::HmacOfSecret),
            ("another key", |t| t.signing = Signing::Stranger),
            ("another algorithm than it says", |t| t.alg = Some("PS256")),
            ("ES384", |t| (t.signing, t.alg) = (Signing::Es256, Some("ES384"))),
            ("unknown kid", |t| t.kid = Some("new".into())),
            ("another key's kid", |t| t.kid = Some("ed".into())),
            ("its own key", |t| (t.signing, t.jwk) = (Signing::Stranger, true)),
            ("crit", |t| t.crit = true),
            ("wrong iss", |t| t.set("iss", json!("https://evil.example"))),
            ("iss with a slash more", |t| t.edit("iss", |iss| json!(format!("{iss}/")))),
            ("no iss", |t| t.remove("iss")),
            ("wrong aud", |t| t.set("aud", json!("another"))),
            ("aud of others", |t| t.set("aud", json!(["another", "third"]))),
            ("several aud without azp", |t| t.set("aud", json!(["keys & co", "another"]))),
            ("wrong azp", |t| t.set("azp", json!("another"))),
            ("azp no text", |t| t.set("azp", json!(["keys & co"]))),
            ("no aud", |t| t.remove("aud")),
            ("wrong nonce", |t| t.set("nonce", json!("another"))),
            ("no nonce", |t| t.remove("nonce")),
            ("over", |t| t.edit("exp", |_| json!(t_now() - 1))),
            ("over now", |t| t.edit("exp", |_| json!(t_now()))),
            ("no exp", |t| t.remove("exp")),
            ("exp as text", |t| t.edit("exp", |_| json!((t_now() + 60).to_string()))),
            ("from the future", |t| t.edit("iat", |_| json!(t_now() + 60))),
            ("no iat", |t| t.remove("iat")),
            ("no sub", |t| t.remove("sub")),
            ("a number as sub", |t| t.set("sub", json!(7))),
            ("a sub of 256 bytes", |t| t.set("sub", json!("x".repeat(256)))),
        ];
        let mut before = 0;
        for (at, (name, forge)) in cases.into_iter().enumerate() {
            let from = [10, 0, 0, at as u8];
            let trip = Trip::begin_from(&desk, "forge", "", from).await;
            let told = trip.answer(&desk, &idp, forge).await;
            assert_eq!(told.status, StatusCode::BAD_GATEWAY, "{name}: {told:?}");
            assert!(told.body.contains("cannot be trusted"), "{name}: {told:?}");
            assert!(told.body.contains("name=\"token\""), "the other way: {name}");
            assert_eq!(forger::session(&told), None, "{name}");
            let metrics = desk.app.metrics.render();
            before += 1;
            let count = format!("result=\"untrusted\"}} {before}");
            assert!(metrics.contains(&count), "{name}: {metrics}");
        }
        let nobody = PersonId { iss: idp.issuer().into(), sub: "u-1".into() };
        assert_eq!(desk.store.person(&nobody).await.unwrap(), None);
        // Unusual but valid: several audiences, with this client as the authorized party.
        let trip = Trip::begin_from(&desk, "forge", "", [10, 0, 1, 1]).await;
        let told = trip.answer(&desk, &idp, |t| {
            t.set("aud", json!(["keys & co", "another"]));
            t.set("azp", json!("keys & co"));
        });
        assert_eq!(told.await.status, StatusCode::SEE_OTHER);
    });
}

/// The desk's clock does not move in that test.
fn t_now() -> u64 {
    NOW / 1000
}

#[test]
fn a_round_trip_is_of_one_browser_one_provider_and_one_time() {
    run(async {
        let (idp, other) = (Forger::start(), Forger::start());
        idp.play(|play| play.names_itself = true);
        let desk = idp.desk_beside(GROUPS, &other);
        let begin = async || Trip::begin(&desk, "forge", "").await;
        let stale = |told: &Told, name: &str| {
            assert_eq!(told.status, StatusCode::BAD_REQUEST, "{name}: {told:?}");
            assert_eq!(forger::session(told), None, "{name}");
            let clears = told.fields.get_all("set-cookie").iter();
            let mut clears = clears.filter_map(|field| field.to_str().ok());
            assert!(clears.any(|f| f.starts_with("__Host-keygate-sign-in=;")), "{name}");
        };
        // A link to us with a state that somebody else has begun.
        let (attackers, victims) = (begin().await, begin().await);
        idp.issue(&attackers, |_| {});
        let told = desk.send(attackers.back("forge").with("cookie", &victims.cookie)).await;
        stale(&told, "foreign state");
        // That has used the state up.
        let again = attackers.back("forge").with("cookie", &attackers.cookie);
        stale(&desk.send(again).await, "used up");
        // A preview of the link has no cookie, and does not use the state up.
        let trip = begin().await;
        idp.issue(&trip, |_| {});
        stale(&desk.send(trip.back("forge")).await, "no cookie");
        let told = desk.send(trip.back("forge").with("cookie", &trip.cookie)).await;
        assert_eq!(told.status, StatusCode::SEE_OTHER, "{told:?}");
        let trip = begin().await;
        idp.issue(&trip, |_| {});
        let mine = || trip.back("forge").with("cookie", &trip.cookie);
        assert_eq!(desk.send(mine()).await.status, StatusCode::SEE_OTHER);
        stale(&desk.send(mine()).await, "replayed");
        // The earlier code, in a round trip of its own.
        let next = begin().await;
        let told = next.back_with(&[("code", &trip.code()), ("iss", idp.issuer())], "forge");
        stale(&desk.send(told.with("cookie", &next.cookie)).await, "replayed code");
        // Mix-up: begun at one provider, answered at the other's address.
        let trip = begin().await;
        idp.issue(&trip, |_| {});
        stale(&desk.send(trip.back("other").with("cookie", &trip.cookie)).await, "mix-up by path");
        assert_eq!(other.count("POST /token"), 0, "its code goes to nobody else");
        for (name, query) in [
            ("iss of the other", vec![("code", "c"), ("iss", other.issuer())]),
            ("no iss", vec![("code", "c")]),
            ("iss with a slash", vec![("code", "c"), ("iss", "https://evil.example/")]),
        ] {
            let trip = begin().await;
            let asked = idp.count("POST /token");
            let told = trip.back_with(&query, "forge").with("cookie", &trip.cookie);
            let told = desk.send(told).await;
            assert_eq!(told.status, StatusCode::BAD_GATEWAY, "{name}: {told:?}");
            assert_eq!(idp.count("POST /token"), asked, "{name}: the code was not given away");
        }
        let trip = begin().await;
        let twice = [("code", "c"), ("code", "d"), ("iss", idp.issuer())];
        stale(
            &desk.send(trip.back_with(&twice, "forge").with("cookie", &trip.cookie)).await,
            "twice",
        );
        let trip = begin().await;
        let denied = [("error", "access_denied"), ("iss", idp.issuer())];
        let told = desk.send(trip.back_with(&denied, "forge").with("cookie", &trip.cookie)).await;
        assert_eq!(told.status, StatusCode::FORBIDDEN, "{told:?}");
        assert!(told.body.contains("Forge did not sign you in"), "{told:?}");
        let trip = begin().await;
        idp.issue(&trip, |_| {});
        desk.advance(10 * 60);
        stale(&desk.send(trip.back("forge").with("cookie", &trip.cookie)).await, "too late");
        // Another site cannot send anybody to a provider, and there is no third provider.
        let form = "provider=forge";
        let forged = Ask::post("/sign-in/oidc").with("sec-fetch-site", "cross-site").form(form);
        assert_eq!(desk.send(forged).await.status, StatusCode::FORBIDDEN);
        let third = Ask::post("/sign-in/oidc").with("sec-fetch-site", "same-origin");
        assert_eq!(desk.send(third.form("provider=third")).await.status, StatusCode::NOT_FOUND);
        assert_eq!(desk.send(Ask::get("/sign-in/oidc/third?state=x")).await.status, 404);
    });
}

#[test]
fn a_thousand_unknown_keys_are_one_question() {
    run(async {
        let idp = Forger::start();
        let desk = idp.desk(GROUPS);
        let trip = Trip::begin(&desk, "forge", "").await;
        assert_eq!(trip.answer(&desk, &idp, |_| {}).await.status, StatusCode::SEE_OTHER);
        assert_eq!(idp.count("GET /jwks"), 1);
        for at in 0..1000_u16 {
            let [high, low] = at.to_be_bytes();
            let trip = Trip::begin_from(&desk, "forge", "", [10, 1, high, low]).await;
            let kid = Some(format!("kid-{at}"));
            let told = trip.answer(&desk, &idp, |token| token.kid = kid).await;
            assert_eq!(told.status, StatusCode::BAD_GATEWAY, "{told:?}");
        }
        assert_eq!(idp.count("GET /jwks"), 1, "asked for again too soon");
        // The provider has a new key. Half a minute later the service reads it, and nobody notices.
        idp.play(|play| play.renamed = true);
        desk.advance(30);
        let trip = Trip::begin(&desk, "forge", "").await;
        let told = trip.answer(&desk, &idp, |token| token.kid = Some("rsa-2".into())).await;
        assert_eq!(told.status, StatusCode::SEE_OTHER, "{told:?}");
        assert_eq!(idp.count("GET /jwks"), 2);
        assert_eq!(idp.count("GET /.well-known/"), 1);
    });
}

#[test]
fn a_provider_that_is_away_keeps_nobody_else_out() {
    run(async {
        let idp = Forger::start();
        let desk = idp.desk(GROUPS);
        for (at, discovery) in Discovery::BAD.into_iter().enumerate() {
            idp.play(|play| play.discovery = discovery);
            let ask = Trip::form("forge", "").from(forger::peer([10, 2, 0, at as u8]));
            let told = desk.send(ask).await;
            assert_eq!(told.status, StatusCode::BAD_GATEWAY, "{discovery:?}: {told:?}");
            assert!(told.body.contains("name=\"token\""), "{discovery:?}: {told:?}");
            assert!(told.fields.get("set-cookie").is_none(), "{discovery:?}");
            // The provider is left alone for a while; then the service asks it again.
            let asked = idp.count("GET /.well-known/");
            desk.send(Trip::form("forge", "").from(forger::peer([10, 2, 1, at as u8]))).await;
            assert_eq!(idp.count("GET /.well-known/"), asked, "{discovery:?}");
            desk.advance(5);
        }
        assert_eq!(idp.count("GET /elsewhere"), 0, "a redirect was followed");
        signed_in(&desk, Some("acme"), "owner", "kim").await;
        idp.play(|play| play.discovery = Discovery::Good);
        let trip = Trip::begin(&desk, "forge", "").await;
        idp.issue(&trip, |_| {});
        // The provider answered a moment ago. While it is away the service uses that answer, but
        // gets no tokens.
        idp.play(|play| play.discovery = Discovery::Broken);
        idp.play(|play| play.token_status = "503 Service Unavailable");
        desk.advance(5 * 60);
        let told = desk.send(trip.back("forge").with("cookie", &trip.cookie)).await;
        assert_eq!(told.status, StatusCode::BAD_GATEWAY, "{told:?}");
        assert!(told.body.contains("does not answer"), "{told:?}");
        let metrics = desk.app.metrics.render();
        assert!(metrics.contains("result=\"unreachable\""), "{metrics}");
    });
}

#[test]
fn groups_decide_where_they_are_configured_to() {
    run(async {
        let idp = Forger::start();
        let desk = idp.desk(&format!("{GROUPS}[policy]\nowner_leaves = \"disable\"\n"));
        let come = async |groups: serde_json::Value, org: serde_json::Value| {
            let trip = Trip::begin(&desk, "forge", "").await;
            let told = trip.answer(&desk, &idp, |token| {
                token.set("groups", groups);
                token.set("org", org);
            });
            told.await
        };
        let told = come(json!(["staff", "admins"]), json!("acme")).await;
        let cookie = forger::session(&told).unwrap();
        let make = |cookie: &str, name: &str| {
            let body = json!({"name": name, "permissions": ["send"]}).to_string();
            let ask = Ask::post("/v1/orgs/acme/keys").with("cookie", cookie);
            ask.with("sec-fetch-site", "same-origin").body("application/json", &body)
        };
        let made = desk.send(make(&cookie, "by an admin")).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        let key = made.json()["key"]["id"].as_str().unwrap().to_owned();
        // Out of the group: the key that a member could not have made is disabled, and the page
        // says so. Also if the database goes away between the role and the key.
        break_keys(&desk);
        let told = come(json!(["staff"]), json!("acme")).await;
        assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE, "{told:?}");
        let due = desk.store.keys_due().await.unwrap();
        assert_eq!(due.len(), 1, "{due:?}");
        mend_keys(&desk);
        let told = come(json!(["staff"]), json!("acme")).await;
        let member = forger::session(&told).unwrap();
        let who = desk.send(Ask::get("/who").with("cookie", &member)).await.json();
        assert_eq!(who["role"], "member", "{who}");
        let found =
            desk.send(Ask::get(&format!("/v1/orgs/acme/keys/{key}")).with("cookie", &member));
        assert_eq!(found.await.json()["state"], "disabled");
        let lines = audit(&desk).await;
        assert!(lines.contains("owner_leaves, for host groups of forge"), "{lines}");
        // Several orgs, one of which the person chooses.
        let told = come(json!("owners"), json!(["acme", "globex"])).await;
        let cookie = forger::session(&told).unwrap();
        let who = desk.send(Ask::get("/who").with("cookie", &cookie)).await.json();
        assert_eq!(
            (&who["scope"], &who["orgs"]),
            (&"choose_org".into(), &json!(["acme", "globex"]))
        );
        let page = desk.send(Ask::get("/keys").with("cookie", &cookie)).await;
        assert_eq!(page.status, StatusCode::CONFLICT);
        assert!(page.body.contains("value=\"globex\""), "{}", page.body);
        let form = who["form"].as_str().unwrap();
        let choose = Ask::post("/session/org").with("cookie", &cookie);
        let choose = choose.with("sec-fetch-site", "same-origin");
        let told = desk.send(choose.form(&format!("org=globex&form={form}"))).await;
        assert_eq!(told.status, StatusCode::SEE_OTHER, "{told:?}");
        let page = desk.send(Ask::get("/keys").with("cookie", &cookie)).await.body;
        assert!(page.contains("<option value=\"globex\" selected>"), "{page}");
        // The last owner stays an owner, whatever the groups say.
        let told = come(json!([]), json!(["acme"])).await;
        assert_eq!(told.status, StatusCode::SEE_OTHER, "{told:?}");
        let person = PersonId { iss: idp.issuer().into(), sub: "u-1".into() };
        let roles = async || {
            let all = desk.store.memberships(&person).await.unwrap();
            all.into_iter()
                .map(|m| (m.org.as_str().to_owned(), m.role.as_str()))
                .collect::<Vec<_>>()
        };
        let owner = |org: &str| (org.to_owned(), "owner");
        assert_eq!(roles().await, [owner("acme"), owner("globex")]);
        // An answer that says where the groups are does not mean that there are none.
        signed_in(&desk, Some("acme"), "owner", "kim").await;
        signed_in(&desk, Some("globex"), "owner", "kim").await;
        let trip = Trip::begin(&desk, "forge", "").await;
        let told = trip.answer(&desk, &idp, |token| {
            token.remove("groups");
            token.set("_claim_names", json!({"groups": "src1"}));
        });
        assert_eq!(told.await.status, StatusCode::BAD_GATEWAY);
        // Nor does an answer whose userinfo cannot be read.
        idp.play(|play| play.userinfo = Err("500 Internal Server Error"));
        let trip = Trip::begin(&desk, "forge", "").await;
        let told = trip.answer(&desk, &idp, |token| token.remove("groups")).await;
        assert_eq!(told.status, StatusCode::BAD_GATEWAY, "{told:?}");
        assert_eq!(roles().await.len(), 2);
        // Userinfo about somebody else is refused.
        idp.play(|play| play.userinfo = Ok(json!({"sub": "u-2", "groups": ["owners"]})));
        let trip = Trip::begin(&desk, "forge", "").await;
        let told = trip.answer(&desk, &idp, |token| token.remove("groups")).await;
        assert_eq!(told.status, StatusCode::BAD_GATEWAY, "{told:?}");
        idp.play(|play| play.userinfo = Ok(json!({"sub": "u-1", "groups": ["staff"]})));
        let trip = Trip::begin(&desk, "forge", "").await;
        let told = trip.answer(&desk, &idp, |token| token.remove("groups")).await;
        assert_eq!(told.status, StatusCode::SEE_OTHER, "{told:?}");
        assert_eq!(roles().await, [("acme".to_owned(), "member")]);
        // Somebody who is in no group has no access any more, and learns the name by which to be
        // found.
        idp.play(|play| play.userinfo = Ok(json!({"sub": "u-1"})));
        let told = come(json!([]), json!("acme")).await;
        assert_eq!(told.status, StatusCode::FORBIDDEN, "{told:?}");
        assert!(told.body.contains("u-1") && told.body.contains(idp.issuer()), "{told:?}");
        assert!(roles().await.is_empty());
        let who = desk.send(Ask::get("/who").with("cookie", &member)).await;
        assert!(who.status == StatusCode::UNAUTHORIZED || who.code() == "no_role", "{who:?}");
    });
}

/// Without a table of roles the provider says who somebody is, and owners decide what they may do.
#[test]
fn without_groups_owners_give_roles() {
    run(async {
        let idp = Forger::start();
        let desk = idp.desk("audience = \"shop\"\n[[audiences]]\nname = \"back\"\n");
        let come = async |sub: &str| {
            let trip = Trip::begin(&desk, "forge", "").await;
            trip.answer(&desk, &idp, |token| {
                token.set("sub", json!(sub));
                token.set("email", json!("kim@example.com"));
            })
            .await
        };
        assert_eq!(come("u-1").await.status, StatusCode::FORBIDDEN);
        let owner = signed_in(&desk, Some("acme"), "owner", "kim").await;
        let body = json!({"issuer": idp.issuer(), "subject": "u-1", "role": "admin"}).to_string();
        let put = Ask::new(Method::PUT, "/v1/members").with("cookie", &owner);
        let put = put.with("sec-fetch-site", "same-origin").body("application/json", &body);
        let told = desk.send(put).await;
        assert!(told.status.is_success(), "{told:?}");
        let cookie = forger::session(&come("u-1").await).unwrap();
        let who = async |path: &str| desk.send(Ask::get(path).with("cookie", &cookie)).await;
        assert_eq!(who("/who").await.json()["role"], "admin");
        // Its people manage the keys of one audience.
        assert_eq!(who("/who?audience=back").await.status, StatusCode::NOT_FOUND);
        let page = who("/keys").await.body;
        assert!(page.contains("audience=shop") && !page.contains("audience=back"), "{page}");
        // The same address with another subject at the same provider is another person.
        idp.play(|play| play.userinfo = Ok(json!({"sub": "u-2", "email": "kim@example.com"})));
        let told = come("u-2").await;
        assert_eq!(told.status, StatusCode::FORBIDDEN, "{told:?}");
        // A provider that is no longer configured signs nobody in: the session records which one it
        // was.
        let sessions = PersonId { iss: idp.issuer().into(), sub: "u-1".into() };
        let rows = desk.store.sessions(&sessions, NOW).await.unwrap();
        assert_eq!(rows[0].detail["provider"], "forge", "{rows:?}");
    });
}

#[test]
fn members_are_changed_after_a_fresh_sign_in_alone() {
    run(async {
        let idp = Forger::start();
        let desk = idp.desk(GROUPS);
        let come = async |fresh: &str, auth_time: Option<u64>| {
            let trip = Trip::begin(&desk, "forge", fresh).await;
            let prompt = (trip.asked("prompt"), trip.asked("max_age"));
            let told = trip.answer(&desk, &idp, |token| {
                token.set("groups", json!(["owners"]));
                match auth_time {
                    Some(at) => token.set("auth_time", json!(at)),
                    None => token.remove("auth_time"),
                }
            });
            (told.await, prompt)
        };
        let now = || desk.clock.now().unix_secs();
        let change = async |cookie: &str| {
            let who = desk.send(Ask::get("/who").with("cookie", cookie)).await.json();
            let form = who["form"].as_str().unwrap().to_owned();
            let ask = Ask::post("/members").with("cookie", cookie);
            let fields = format!("form={form}&in_org=acme&iss=x&sub=y&role=member");
            desk.send(ask.with("sec-fetch-site", "same-origin").form(&fields)).await
        };
        for (name, auth_time, may) in [
            ("just now", Some(now()), true),
            ("at the provider an hour ago", Some(now() - 3600), false),
            ("nobody says when", None, false),
        ] {
            let (told, _) = come("", auth_time).await;
            let told = change(&forger::session(&told).unwrap()).await;
            let want = if may { StatusCode::SEE_OTHER } else { StatusCode::FORBIDDEN };
            assert_eq!(told.status, want, "{name}: {told:?}");
            assert!(may || told.body.contains("/sign-in?again"), "{name}: {told:?}");
        }
        let page = desk.send(Ask::get("/sign-in?again")).await.body;
        assert!(page.contains("name=\"fresh\" value=\"1\""), "{page}");
        let (told, asked) = come("&fresh=1", Some(now())).await;
        assert_eq!(asked, ("login".to_owned(), "600".to_owned()));
        let cookie = forger::session(&told).unwrap();
        assert_eq!(change(&cookie).await.status, StatusCode::SEE_OTHER);
        // The service does not believe a provider that has not asked again, or does not say so.
        for auth_time in [Some(now() - 3600), None] {
            let (told, _) = come("&fresh=1", auth_time).await;
            assert_eq!(told.status, StatusCode::BAD_GATEWAY, "{auth_time:?}: {told:?}");
        }
        desk.advance(601);
        assert_eq!(change(&cookie).await.status, StatusCode::FORBIDDEN);
    });
}

#[test]
fn signing_out_here_offers_to_sign_out_there() {
    run(async {
        let idp = Forger::start();
        let desk = idp.desk(&format!("sign_out = true\n{GROUPS}"));
        let trip = Trip::begin(&desk, "forge", "").await;
        let cookie = forger::session(&trip.answer(&desk, &idp, |_| {}).await).unwrap();
        let who = desk.send(Ask::get("/who").with("cookie", &cookie)).await.json();
        let form = format!("form={}", who["form"].as_str().unwrap());
        let out = Ask::post("/sign-out").with("cookie", &cookie);
        let told = desk.send(out.with("sec-fetch-site", "same-origin").form(&form)).await;
        assert_eq!(told.fields["location"], "/sign-in?out=forge", "{told:?}");
        assert_eq!(desk.send(Ask::get("/who").with("cookie", &cookie)).await.status, 401);
        let page = desk.send(Ask::get("/sign-in?out=forge")).await.body;
        let link = format!("{}/end?client_id=keys%20%26%20co&#38;post_logout", idp.issuer());
        assert!(page.contains(&link), "{page}");
        for other in ["/sign-in?out=third", "/sign-in?out=%3Cscript%3E", "/sign-in"] {
            assert!(!desk.send(Ask::get(other)).await.body.contains("/end?"), "{other}");
        }
    });
}

/// Any site can make a browser request the return address. That does not count as a guess, and does
/// not lock out other people behind the same address.
#[test]
fn a_page_of_another_site_locks_nobody_out() {
    run(async {
        let idp = Forger::start();
        let desk = idp.desk(GROUPS);
        let trip = Trip::begin(&desk, "forge", "").await;
        idp.issue(&trip, |_| {});
        let stray = || Ask::get("/sign-in/oidc/forge?state=x&code=y");
        let mine = || stray().with("cookie", &trip.cookie);
        let cases: [fn(Ask) -> Ask; 4] = [
            |ask| ask,
            |ask| ask.with("sec-fetch-mode", "no-cors").with("sec-fetch-dest", "image"),
            |ask| ask.with("sec-fetch-mode", "navigate").with("sec-fetch-dest", "iframe"),
            |ask| ask.with("sec-fetch-mode", "cors").with("sec-fetch-dest", "empty"),
        ];
        for _ in 0..=FAILURES.0 {
            assert_eq!(desk.send(stray()).await.status, StatusCode::BAD_REQUEST);
            for case in &cases[1..] {
                for ask in [stray(), mine()] {
                    assert_eq!(desk.send(case(ask)).await.status, StatusCode::BAD_REQUEST);
                }
            }
        }
        // An image does not use the round trip up either.
        let back = || trip.back("forge").with("cookie", &trip.cookie);
        assert_eq!(desk.send(cases[1](back())).await.status, StatusCode::BAD_REQUEST);
        let told = desk.send(sign_in(&"x".repeat(43))).await;
        assert_eq!(told.code(), "invalid_credential", "a link is listened to: {told:?}");
        let told = desk.send(back()).await;
        assert_eq!(told.status, StatusCode::SEE_OTHER, "{told:?}");
        // Somebody who does guess, with the cookie of a round trip, has to wait.
        let guess = || mine().with("sec-fetch-mode", "navigate").with("sec-fetch-dest", "document");
        for _ in 0..FAILURES.0 {
            desk.send(guess()).await;
        }
        assert_eq!(desk.send(guess()).await.status, StatusCode::TOO_MANY_REQUESTS);
    });
}
