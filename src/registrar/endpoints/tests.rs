//! The products' documented calls over the whole router, byte for byte, and everything that they
//! must not cause.

mod faults;

use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::core::Environment;
use crate::manage::operation::{CreateRequest, StatusChange};
use crate::registrar::people::{BootstrapFor, bootstrap_link};
use crate::registrar::serve::tests::{Ask, TestDesk, Told, run};
use crate::registrar::store::suite::{self, NOW};
use crate::registrar::store::{Changed, KeyChange, KeyRef};

const WHATOMATE: &str = r#"state = "state"
[listen]
address = "127.0.0.1:0"
[[audiences]]
name = "shop"
star = "everything"
[audiences.prefixes.whm]
prefix = "whm_"
alphabet = "hex"
random = 32
[[audiences.permissions]]
word = "*"
sentence = "Everything"
[[audiences.permissions]]
word = "read"
sentence = "Read"
[[dialect]]
name = "whatomate"
"#;

const WESHAPE: &str = r#"state = "state"
[listen]
address = "127.0.0.1:0"
[[audiences]]
name = "shop"
[audiences.management]
read = "apikeys:read"
write = "apikeys:write"
revoke = "apikeys:revoke"
[[audiences.permissions]]
word = "archives:read"
sentence = "Read archives"
[[audiences.permissions]]
word = "archives:write"
sentence = "Change archives"
[[dialect]]
name = "weshape"
"#;

/// With the operations that neither product documents.
const OWN: &str = r#"state = "state"
[listen]
address = "127.0.0.1:0"
[[audiences]]
name = "shop"
default_life = "90d"
member_permissions = ["read"]
kind = "pair"
[[dialect]]
name = "own"
error = '{"code":"$code","why":"$message","title":"$error"}'
[[dialect.operation]]
does = "create"
on = "POST /api/keys"
status = 201
request = '{"key":{"name":"$name!","may":"$permissions","from":"$networks","env":"$environment"}}'
answer = '{"id":"$id","pair":["$public_id","$secret"],"until":"$expires:unix","may":"$permissions","from":"$networks","env":"$environment"}'
[[dialect.operation]]
does = "get"
on = "GET /api/keys/{id}"
answer = '{"name":"$name","state":"$state"}'
[[dialect.operation]]
does = "update"
on = "PATCH /api/keys/{id}"
request = '{"name":"$name","until":"$expires:unix"}'
answer = '{"name":"$name","until":"$expires:unix"}'
[[dialect.operation]]
does = "rotate"
on = "POST /api/keys/{id}/rotate"
answer = '{"id":"$id","secret":"$secret"}'
overlap = "1h"
[[dialect.operation]]
does = "revoke"
on = "POST /api/keys/{id}/end"
status = 204
answer = '{}'
[[dialect.operation]]
does = "list"
on = "GET /api/keys"
answer = '{"of":"$org","keys":["$keys"]}'
key = '"$name"'
"#;

/// A request with a key and perhaps a body.
fn ask(method: Method, path: &str, key: &str, body: &str) -> Ask {
    Ask::new(method, path).with("x-api-key", key).body("application/json", body)
}

fn get(path: &str, key: &str) -> Ask {
    ask(Method::GET, path, key, "")
}

/// Status and body. Also checks that the answer declares its body as JSON.
fn told(answer: &Told) -> (u16, &str) {
    assert_eq!(answer.fields["content-type"], "application/json", "{answer:?}");
    (answer.status.as_u16(), &answer.body)
}

/// A key that the host makes.
async fn key(desk: &TestDesk, org: &str, wanted: CreateRequest) -> (Changed, String) {
    let org = suite::org(org);
    let wanted = CreateRequest { org: org.clone(), ..wanted };
    let change = KeyChange::Create(Box::new(wanted));
    let mut request = suite::request(suite::host(), change);
    request.org = Some(org);
    let changed = desk.store.change(request).await.unwrap();
    let secret = changed.secret.as_ref().unwrap().expose().to_vec();
    (changed, String::from_utf8(secret).unwrap())
}

fn wanted(name: &str, words: &[&str]) -> CreateRequest {
    CreateRequest { permissions: suite::words(words), ..suite::new_key(name) }
}

#[test]
fn whatomates_calls_are_answered_as_its_page_says() {
    run(async {
        let desk = TestDesk::made(|_| WHATOMATE.into());
        let owner = crate::manage::operation::OwnerChange::State {
            subject: Some("user-1".into()),
            email: Some("admin@example.com".into()),
            role: Some("admin".into()),
        };
        let mut first = wanted("First", &["*"]);
        first.details.owner = owner;
        let (_, admin) = key(&desk, "acme", first).await;
        let now = crate::manage::time::show(NOW / 1000);
        let body = r#"{"name":"Production Integration","expires_at":"2031-12-31T23:59:59Z"}"#;
        desk.advance(1);
        let made = desk.send(ask(Method::POST, "/api/api-keys", &admin, body)).await;
        let later = crate::manage::time::show(NOW / 1000 + 1);
        let json = made.json();
        let [id, secret] = ["id", "key"].map(|name| json["data"][name].as_str().unwrap());
        let start = &secret[4..12];
        let want = format!(
            r#"{{"status":"success","data":{{"id":"{id}","name":"Production Integration","key":"{secret}","key_prefix":"{start}","expires_at":"2031-12-31T23:59:59Z","created_at":"{later}"}}}}"#
        );
        assert_eq!(told(&made), (200, &*want));
        assert!(secret.starts_with("whm_") && secret.len() == 36, "{secret}");
        assert!(made.fields.contains_key("keygate-serial"));
        // It inherits everything, and speaks for the same person.
        let uid = crate::registrar::store::Uid::parse(id).unwrap();
        let row = desk.store.key(&suite::audience(), None, KeyRef::Uid(uid)).await.unwrap();
        assert_eq!(row.entry.permissions, suite::words(&["*"]));
        assert_eq!(row.entry.owner.as_ref().unwrap().view().subject, "user-1");
        let list = desk.send(get("/api/api-keys", secret)).await;
        let entry = |id: &str, name: &str, start: &str, end: &str, made: &str| {
            format!(
                r#"{{"id":"{id}","name":"{name}","key_prefix":"{start}",{end}"is_active":true,"created_at":"{made}"}}"#
            )
        };
        let rest = list.json()["data"][1].clone();
        let older = entry(rest["id"].as_str().unwrap(), "First", &admin[4..12], "", &now);
        let end = r#""expires_at":"2031-12-31T23:59:59Z","#;
        let newer = entry(id, "Production Integration", start, end, &later);
        let want = format!(r#"{{"status":"success","data":[{newer},{older}]}}"#);
        assert_eq!(told(&list), (200, &*want));
        // Null is no end. So is an empty text, which the product's own view sends.
        for end in ["null", "\"\""] {
            let body = format!(r#"{{"name":"Without end","expires_at":{end}}}"#);
            let made = desk.send(ask(Method::POST, "/api/api-keys", &admin, &body)).await;
            assert_eq!(made.status, StatusCode::OK, "{made:?}");
            assert!(made.json()["data"].get("expires_at").is_none(), "{made:?}");
        }
        let path = format!("/api/api-keys/{id}");
        let gone = desk.send(ask(Method::DELETE, &path, &admin, "")).await;
        let want = r#"{"status":"success","data":{"message":"API key deleted successfully"}}"#;
        assert_eq!(told(&gone), (200, want));
        // Immediately and permanently: for the key itself, in the list, and for a second delete.
        let refused = desk.send(get("/api/api-keys", secret)).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{refused:?}");
        let list = desk.send(get("/api/api-keys", &admin)).await;
        assert!(!list.body.contains(id), "{list:?}");
        let again = desk.send(ask(Method::DELETE, &path, &admin, "")).await;
        let want = r#"{"status":"error","message":"API key not found","data":null}"#;
        assert_eq!(told(&again), (404, want));
        // The record stays.
        desk.store.key(&suite::audience(), None, KeyRef::Uid(uid)).await.unwrap();
    });
}

#[test]
fn whatomates_errors_are_its_own() {
    run(async {
        let desk = TestDesk::made(|_| WHATOMATE.into());
        let (mine, admin) = key(&desk, "acme", wanted("First", &["*"])).await;
        let (_, reader) = key(&desk, "acme", wanted("Reader", &["read"])).await;
        let (theirs, _) = key(&desk, "globex", wanted("Theirs", &["*"])).await;
        let post = |body: &str| ask(Method::POST, "/api/api-keys", &admin, body);
        let delete =
            |key: &str, id: &str| ask(Method::DELETE, &format!("/api/api-keys/{id}"), key, "");
        let unknown = "0b0e8b0a-6a3a-4c56-9a3d-3f1c2a8f6f10";
        let uid = |changed: &Changed| changed.key.uid.to_string();
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(201));
        let cases = vec![
            (post("{}"), 400, "Name is required"),
            (post(""), 400, "Name is required"),
            (post(r#"{"name":""}"#), 400, "Name is required"),
            (
                post(r#"{"name":"CI","expires_at":"2031-12-31"}"#),
                400,
                "Invalid expires_at format. Use RFC3339 format",
            ),
            (
                post(r#"{"name":"CI","expires_at":"2020-01-01T00:00:00Z"}"#),
                400,
                "The expiration date is in the past",
            ),
            (post("{"), 400, "The body is not the JSON object that this endpoint takes"),
            (delete(&admin, "7"), 400, "Invalid API key ID"),
            (delete(&admin, unknown), 404, "API key not found"),
            (delete(&admin, &uid(&theirs)), 404, "API key not found"),
            (get("/api/api-keys", &reader), 403, "Admin access required"),
            (
                ask(Method::POST, "/api/api-keys", &reader, r#"{"name":"CI"}"#),
                403,
                "Admin access required",
            ),
            (delete(&reader, &uid(&mine)), 403, "Admin access required"),
            (Ask::get("/api/api-keys"), 401, "a credential is needed"),
            (get("/api/api-keys", "whm_nothing"), 401, "the credential is not valid"),
            (
                get("/api/api-keys", &admin).with("x-api-key", &reader),
                400,
                "two credentials in one request",
            ),
            (
                ask(Method::PUT, "/api/api-keys", &admin, ""),
                405,
                "This URL does not take the method",
            ),
        ];
        for (ask, status, message) in cases {
            let answer = desk.send(ask).await;
            let want = format!(r#"{{"status":"error","message":"{message}","data":null}}"#);
            assert_eq!(told(&answer), (status, &*want));
            assert_eq!(answer.fields.contains_key("www-authenticate"), status == 401);
            assert_eq!(answer.fields.contains_key("allow"), status == 405);
        }
        let answer = desk.send(post(&long)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        // None of it had any effect.
        let list = desk.send(get("/api/api-keys", &admin)).await;
        assert_eq!(list.json()["data"].as_array().unwrap().len(), 2, "{list:?}");
    });
}

#[test]
fn weshapes_calls_are_answered_as_its_page_says() {
    run(async {
        let desk = TestDesk::made(|_| WESHAPE.into());
        let manager = &["apikeys:read", "apikeys:write", "archives:read"];
        let (_, key_a) = key(&desk, "acme", wanted("Production Key", manager)).await;
        let (b, key_b) = key(&desk, "acme", wanted("Development Key", &["archives:read"])).await;
        let more = &["archives:read", "archives:write"];
        let (stronger, _) = key(&desk, "acme", wanted("Stronger", more)).await;
        let (theirs, _) = key(&desk, "globex", wanted("Theirs", &["archives:read"])).await;
        let made = crate::manage::time::show(NOW / 1000);
        let id = |changed: &Changed| changed.key.entry.id.to_string();
        let list = desk.send(get("/api/auth/apikeys", &key_a)).await;
        let want = format!(
            r#"{{"id":"{}","name":"Development Key","createdAt":"{made}","lastUsed":null}}"#,
            id(&b)
        );
        assert!(list.body.starts_with(r#"{"apiKeys":[{"id":"key_"#), "{list:?}");
        assert!(list.body.ends_with("}]}") && list.body.contains(&want), "{list:?}");
        assert_eq!(list.json()["apiKeys"].as_array().unwrap().len(), 3);
        let path = |company: &str, id: &str| {
            format!("/api/v3/companies/{company}/api-keys/{id}/permissions")
        };
        let of_b = path("acme", &id(&b));
        for path in [of_b.clone(), of_b.replacen("/api", "", 1)] {
            let answer = desk.send(get(&path, &key_a)).await;
            assert_eq!(told(&answer), (200, r#"{"permissions":["archives:read"]}"#));
        }
        let put = |path: &str, key: &str, words: &[&str]| {
            ask(Method::PUT, path, key, &json!({ "permissions": words }).to_string())
        };
        // The words of a PUT replace the former ones, and apply to the next request.
        for words in [&[][..], &["archives:read"][..]] {
            let answer = desk.send(put(&of_b, &key_a, words)).await;
            let want = json!({ "permissions": words }).to_string();
            assert_eq!(told(&answer), (200, &*want));
            assert_eq!(desk.send(get(&of_b, &key_a)).await.body, want);
        }
        let error = |title: &str, message: &str, code: &str| {
            format!(
                r#"{{"error":"{title}","errorMessage":"{message}","code":"{code}","requestId":"ID"}}"#
            )
        };
        let forbidden = "API key lacks required permissions";
        let forbidden = error("Forbidden", forbidden, "insufficient_permission");
        let unknown = error("Not Found", "API key not found", "no_such_key");
        let strange = error(
            "Bad Request",
            "The permissions must be a list of those on offer, not archives:burn",
            "bad_permissions",
        );
        let no_list = "The permissions must be a list of those on offer";
        let no_list = error("Bad Request", no_list, "bad_permissions");
        let invalid = error("Unauthorized", "Invalid API key provided", "invalid_key");
        // With the id that the answer's own field has.
        let named = |answer: &Told, want: &str| {
            want.replace("ID", answer.fields["x-request-id"].to_str().unwrap())
        };
        let cases = vec![
            // More than the caller's own.
            (put(&of_b, &key_a, &["archives:read", "archives:write"]), 403, &forbidden),
            // A key makes no managers, not even with permissions that it holds.
            (put(&of_b, &key_a, &["apikeys:write"]), 403, &forbidden),
            // A key that holds more than the caller.
            (put(&path("acme", &id(&stronger)), &key_a, &["archives:read"]), 403, &forbidden),
            (put(&of_b, &key_a, &["archives:burn"]), 400, &strange),
            (ask(Method::PUT, &of_b, &key_a, "{}"), 400, &no_list),
            (put(&of_b, &key_b, &[]), 403, &forbidden),
            (get(&of_b, &key_b), 200, &String::new()),
            (get("/api/auth/apikeys", &key_b), 403, &forbidden),
            (put(&path("globex", &id(&theirs)), &key_a, &[]), 404, &unknown),
            (put(&path("acme", &id(&theirs)), &key_a, &[]), 404, &unknown),
            (get(&path("globex", &id(&b)), &key_a), 404, &unknown),
            (get(&path("acme", "key_nothing"), &key_a), 404, &unknown),
            (get("/api/auth/apikeys", "wrong"), 401, &invalid),
            (Ask::get("/api/auth/apikeys"), 401, &invalid),
        ]
        .into_iter()
        .map(|(ask, status, want)| (ask, status, want.clone()))
        .collect::<Vec<_>>();
        for (ask, status, want) in cases {
            let answer = desk.send(ask).await;
            match status {
                // A key sees itself.
                200 => assert_eq!(answer.status, StatusCode::OK, "{answer:?}"),
                status => assert_eq!(told(&answer), (status, &*named(&answer, &want))),
            }
        }
        let change = suite::set(b.key.entry.id, StatusChange::Revoke);
        desk.store.change(suite::request(suite::host(), change)).await.unwrap();
        for ask in [get(&of_b, &key_a), put(&of_b, &key_a, &[])] {
            let answer = desk.send(ask).await;
            assert_eq!(told(&answer), (404, &*named(&answer, &unknown)));
        }
    });
}

#[test]
fn a_dialect_of_ones_own_can_do_the_rest() {
    run(async {
        let desk = TestDesk::made(|_| OWN.into());
        let words = &["keys:read", "keys:write", "keys:revoke", "read"];
        let live = CreateRequest { environment: Some(Environment::Live), ..wanted("CI", words) };
        let (_, manager) = key(&desk, "acme", live).await;
        let body = r#"{"key":{"name":"New","may":["read"],"from":["192.0.2.0/24"]}}"#;
        let made = desk.send(ask(Method::POST, "/api/keys", &manager, body)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        let json = made.json();
        let (id, pair) = (json["id"].as_str().unwrap(), json["pair"].as_array().unwrap());
        assert!(pair.iter().all(|half| half.as_str().is_some_and(|half| half.len() > 8)));
        assert_eq!(json["until"], NOW / 1000 + 90 * 86_400, "the operator's default");
        assert_eq!((&json["may"], &json["from"]), (&json!(["read"]), &json!(["192.0.2.0/24"])));
        assert_eq!(json["env"], "live", "that of the key that asks");
        let path = format!("/api/keys/{id}");
        let told_of = |answer: &Told| answer.body.clone();
        let seen = desk.send(get(&path, &manager)).await;
        assert_eq!(told_of(&seen), r#"{"name":"New","state":"active"}"#);
        let until = NOW / 1000 + 5;
        let body = format!(r#"{{"until":{until}}}"#);
        let changed = desk.send(ask(Method::PATCH, &path, &manager, &body)).await;
        assert_eq!(told_of(&changed), format!(r#"{{"name":"New","until":{until}}}"#));
        let rotated = desk.send(ask(Method::POST, &format!("{path}/rotate"), &manager, "")).await;
        assert_eq!(rotated.json()["id"], id, "a pair keeps its id");
        assert_ne!(rotated.json()["secret"], pair[1]);
        let list = desk.send(get("/api/keys", &manager)).await;
        assert_eq!(told_of(&list), r#"{"of":"acme","keys":["New","CI"]}"#);
        let end = || ask(Method::POST, &format!("{path}/end"), &manager, "");
        let ended = desk.send(end()).await;
        assert_eq!((ended.status, &*ended.body), (StatusCode::NO_CONTENT, ""));
        let again = desk.send(end()).await;
        let want = r#"{"code":"no_such_key","why":"No such key","title":"Not Found"}"#;
        assert_eq!(told(&again), (404, want));
        // More than the caller holds, with the rule's own message.
        let body = r#"{"key":{"name":"New","may":["send"]}}"#;
        let refused = desk.send(ask(Method::POST, "/api/keys", &manager, body)).await;
        assert_eq!(refused.json()["code"], "forbidden");
        assert!(refused.json()["why"].as_str().unwrap().contains("`send`"), "{refused:?}");
    });
}

/// Below its URLs a product's client gets the product's answers, to what it was never told of as well.
#[test]
fn what_is_below_a_documented_url_is_told_in_its_form() {
    run(async {
        let whatomate =
            r#"{"status":"error","message":"There is nothing at this URL","data":null}"#;
        let weshape = r#"{"error":"Not Found","errorMessage":"There is nothing at this URL","code":"not_found","requestId":"ID"}"#;
        let own =
            r#"{"code":"not_found","why":"There is nothing at this URL","title":"Not Found"}"#;
        for (settings, want, paths) in [
            (WHATOMATE, whatomate, &["/api/api-keys/", "/api/api-keys/x/y"][..]),
            (
                WESHAPE,
                weshape,
                &[
                    "/api/auth/apikeys/",
                    "/api/auth/apikeys/x",
                    "/api/v3/companies",
                    "/api/v3/companies/acme/api-keys/x",
                    "/v3/companies/acme/api-keys/x/permissions/",
                ],
            ),
            (OWN, own, &["/api/keys/", "/api/keys/x/y/z"]),
        ] {
            let desk = TestDesk::made(|_| settings.into());
            for path in paths {
                for method in [Method::GET, Method::POST, Method::DELETE] {
                    let answer = desk.send(Ask::new(method, path)).await;
                    let want = want.replace("ID", answer.fields["x-request-id"].to_str().unwrap());
                    assert_eq!(told(&answer), (404, &*want), "{path}");
                }
            }
            // What is beside them is no product's.
            for path in ["/api", "/api/api-keysx", "/api/auth", "/nothing"] {
                let answer = desk.send(Ask::get(path)).await;
                assert_eq!(answer.fields["content-type"], "application/problem+json", "{path}");
            }
        }
    });
}

#[test]
fn a_name_that_nobody_sees_is_missing() {
    run(async {
        let desk = TestDesk::made(|_| WHATOMATE.into());
        let (_, admin) = key(&desk, "acme", wanted("CI", &["*"])).await;
        let want = r#"{"status":"error","message":"Name is required","data":null}"#;
        for name in ["", "   ", "\u{200b}", "\u{3164}"] {
            let body = json!({"name": name}).to_string();
            let answer = desk.send(ask(Method::POST, "/api/api-keys", &admin, &body)).await;
            assert_eq!(told(&answer), (400, want), "{name:?}");
        }
        let desk = TestDesk::made(|_| OWN.into());
        let words = &["keys:read", "keys:write", "read"];
        let (made, manager) = key(&desk, "acme", wanted("CI", words)).await;
        let path = format!("/api/keys/{}", made.key.entry.id);
        let blank = ask(Method::PATCH, &path, &manager, r#"{"name":"  "}"#);
        let answer = desk.send(blank).await;
        assert_eq!(answer.json()["code"], "bad_name", "{answer:?}");
    });
}

/// A list of more keys than a page of the store arrives complete, and in order.
#[test]
fn a_long_list_comes_whole() {
    run(async {
        let desk = TestDesk::made(|_| OWN.into());
        let (_, manager) = key(&desk, "acme", wanted("0000", &["keys:read"])).await;
        for n in 1..=450 {
            desk.advance(1);
            let mut request = suite::request(
                suite::host(),
                KeyChange::Create(Box::new(wanted(&format!("{n:04}"), &["read"]))),
            );
            request.at_ms = NOW + n * 1000;
            desk.store.change(request).await.unwrap();
        }
        let list = desk.send(get("/api/keys", &manager)).await.json();
        let names: Vec<_> =
            list["keys"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        let want: Vec<_> = (0..=450).rev().map(|n| format!("{n:04}")).collect();
        assert_eq!(names, want);
    });
}

/// The cookie of somebody who has signed in to `acme` in this role.
async fn signed_in(desk: &TestDesk, name: &str, role: &str) -> String {
    let wanted = BootstrapFor {
        name: name.into(),
        org: Some("acme".into()),
        role: role.into(),
        by: "root (uid 0)".into(),
    };
    let now_ms = desk.clock.now().unix_ms;
    let url = bootstrap_link(&*desk.store, "http://h", &wanted, now_ms).await.unwrap();
    let token = url.strip_prefix("http://h/sign-in#").unwrap();
    let form = Ask::post("/sign-in").with("sec-fetch-site", "same-origin");
    desk.send(form.form(&format!("token={token}"))).await.cookie()
}

/// A member sees and ends their own keys, and another site cannot make anybody's browser do
/// anything.
#[test]
fn people_have_their_roles_here_too() {
    run(async {
        let desk = TestDesk::made(|_| OWN.into());
        let (machine, _) = key(&desk, "acme", wanted("CI", &["read"])).await;
        let [member, admin, auditor] = [("Kim", "member"), ("Lee", "admin"), ("Ray", "auditor")];
        let mut cookies = Vec::new();
        for (name, role) in [member, admin, auditor] {
            cookies.push(signed_in(&desk, name, role).await);
        }
        let ask = |cookie: &str, method: Method, path: &str, body: &str| {
            Ask::new(method, path).with("cookie", cookie).body("application/json", body)
        };
        let same = |ask: Ask| ask.with("sec-fetch-site", "same-origin");
        let make = |cookie: &str, body: &str| ask(cookie, Method::POST, "/api/keys", body);
        let body = r#"{"key":{"name":"Mine","may":["read"]}}"#;
        let forged = make(&cookies[0], body).with("sec-fetch-site", "cross-site");
        for forged in [forged, make(&cookies[0], body)] {
            let told = desk.send(forged).await;
            assert_eq!((told.status, told.code()), (StatusCode::FORBIDDEN, "forbidden".into()));
        }
        let made = desk.send(same(make(&cookies[0], body))).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        let id = made.json()["id"].as_str().unwrap().to_owned();
        let more = r#"{"key":{"name":"More","may":["send"]}}"#;
        assert_eq!(desk.send(same(make(&cookies[0], more))).await.code(), "forbidden");
        assert_eq!(desk.send(same(make(&cookies[2], body))).await.code(), "forbidden");
        let lists = [r#"["Mine"]"#, r#"["Mine","CI"]"#, r#"["Mine","CI"]"#];
        for (cookie, want) in cookies.iter().zip(lists) {
            let list = desk.send(ask(cookie, Method::GET, "/api/keys", "")).await;
            assert_eq!(list.body, format!(r#"{{"of":"acme","keys":{want}}}"#));
        }
        let end = |cookie: &str, id: &str| {
            same(ask(cookie, Method::POST, &format!("/api/keys/{id}/end"), ""))
        };
        let foreign = machine.key.entry.id.to_string();
        assert_eq!(desk.send(end(&cookies[0], &foreign)).await.code(), "no_such_key");
        assert_eq!(desk.send(end(&cookies[2], &id)).await.code(), "forbidden");
        assert_eq!(desk.send(end(&cookies[0], &id)).await.status, StatusCode::NO_CONTENT);
        assert_eq!(desk.send(end(&cookies[1], &foreign)).await.status, StatusCode::NO_CONTENT);
    });
}
