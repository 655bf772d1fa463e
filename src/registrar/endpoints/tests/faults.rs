//! Requests while another process holds the database: the API, a documented endpoint and the page.
//! And a product's refusals beside those of its sidecar.

use rusqlite::Connection;

use super::*;

/// Its value in a page.
fn value_of(page: &str, name: &str) -> String {
    let (_, rest) = page.split_once(&format!("name=\"{name}\" value=\"")).unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

#[test]
fn a_locked_database_is_503_everywhere_and_changes_nothing() {
    run(async {
        let mut file = std::path::PathBuf::new();
        let desk = TestDesk::made(|folder| {
            file = folder.join("registrar.db");
            format!("{WHATOMATE}[store]\nbusy_timeout = \"50ms\"\n")
        });
        let (_, admin) = key(&desk, "acme", wanted("First", &["*"])).await;
        let cookie = signed_in(&desk, "Kim", "owner").await;
        let form = |page: &str| {
            let [form, once] = ["form", "once"].map(|name| value_of(page, name));
            format!("form={form}&once={once}&in_org=acme&name=Page&permission=read&expires=never")
        };
        let body = r#"{"name":"New"}"#;
        let api = || ask(Method::POST, "/v1/orgs/acme/keys", &admin, body);
        let endpoint = || ask(Method::POST, "/api/api-keys", &admin, body);
        let page = |typed: &str| {
            let ask = Ask::post("/keys").with("cookie", &cookie);
            ask.with("sec-fetch-site", "same-origin").form(typed)
        };
        let other = Connection::open(&file).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let first = desk.send(Ask::get("/keys/new").with("cookie", &cookie)).await;
        assert_eq!(first.status, StatusCode::OK, "reading goes on");
        let typed = form(&first.body);
        let answers =
            [desk.send(api()).await, desk.send(endpoint()).await, desk.send(page(&typed)).await];
        for told in &answers {
            assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE, "{told:?}");
            let wait = told.fields["retry-after"].to_str().unwrap();
            assert!(wait.parse::<u64>().is_ok_and(|wait| wait > 0), "{told:?}");
        }
        let [of_api, of_endpoint, of_page] = &answers;
        assert_eq!(of_api.code(), "busy");
        let message = "Keys cannot be changed at the moment, try again later";
        let want = format!(r#"{{"status":"error","message":"{message}","data":null}}"#);
        assert_eq!(told(of_endpoint), (503, &*want));
        // The form is there still, with what was typed.
        assert!(of_page.body.contains("value=\"Page\""), "{}", of_page.body);
        other.execute_batch("ROLLBACK").unwrap();
        assert_eq!(desk.send(api()).await.status, StatusCode::CREATED);
        assert_eq!(desk.send(endpoint()).await.status, StatusCode::OK);
        let again = form(&of_page.body);
        assert_eq!(again, typed, "under the same name");
        let made = desk.send(page(&again)).await;
        assert!(made.body.contains("id=\"secret\""), "{}", made.body);
        let list = desk.send(get("/api/api-keys", &admin)).await;
        assert_eq!(list.json()["data"].as_array().unwrap().len(), 4, "{list:?}");
    });
}

/// A client of the product reads one form, whoever refuses it.
#[test]
fn weshapes_refusals_are_those_of_its_sidecar() {
    use crate::core::Reason;
    use crate::core::refusal::{Context, Profile, Refusals};
    run(async {
        let desk = TestDesk::made(|_| WESHAPE.into());
        let (_, reader) = key(&desk, "acme", wanted("Reader", &["archives:read"])).await;
        let refusals = Refusals { default: Profile::ErrorMessage, ..Refusals::default() };
        let compare = |answer: &Told, reason: Reason| {
            let request_id = answer.fields["x-request-id"].to_str().unwrap();
            let context = Context { request_id, profile: None, grpc: false };
            let sidecar = refusals.render(&reason.into(), &context);
            let body = std::str::from_utf8(&sidecar.body).unwrap();
            assert_eq!(told(answer), (sidecar.status.as_u16(), body));
        };
        let path = "/api/auth/apikeys";
        compare(&desk.send(get(path, &reader)).await, Reason::Permission);
        compare(&desk.send(get(path, "wrong")).await, Reason::Unknown);
        for _ in 0..100 {
            let answer = desk.send(get(path, "wrong")).await;
            if answer.status == StatusCode::TOO_MANY_REQUESTS {
                assert!(answer.fields.contains_key("retry-after"), "{answer:?}");
                return compare(&answer, Reason::RateLimited);
            }
        }
        panic!("nobody stops a flood of wrong keys");
    });
}
