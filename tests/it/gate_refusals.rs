//! Which form a refusal has: by route, by code and by the client's preference (`Accept`).

use crate::support::client::exchange;
use crate::support::gate::{Gate, READER};
use crate::support::http::Message;
use crate::support::upstream::Upstream;

const RULES: &str = r#"
[refusals]
accept = ["page", "envelope"]

[refusals.templates.page]
content_type = "text/html; charset=utf-8"
body = "<p>{{code}}</p>"
[refusals.templates.page.bodies]
missing_key = "<p>sign in ({{request_id}})</p>"

[[credentials]]
source = "bearer"

[[cors]]
path = "/v1/*"
origins = ["https://app.example"]

[[routes]]
path = "/v1/*"
permissions = ["read"]
[[routes]]
path = "/v1/admin/*"
permissions = ["manage"]
profile = "error-message"
[[routes]]
path = "/gone/*"
"#;

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn ask(gate: &Gate, path: &str, fields: &str) -> Message {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    exchange(gate.address, request.as_bytes())
}

/// Sorted, because the order depends on who writes the answer.
fn varies(answer: &Message) -> Vec<String> {
    let mut names = answer.all("vary");
    names.sort();
    names
}

fn kind(answer: &Message) -> String {
    answer.one("content-type").unwrap_or_default()
}

#[test]
fn a_client_chooses_the_form_of_a_refusal() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).rules(RULES).start();
    let key = format!("authorization: Bearer {READER}\r\n");
    for (path, fields, wanted) in [
        ("/v1/a", String::new(), "application/problem+json"),
        ("/v1/a", "accept: */*\r\n".to_owned(), "application/problem+json"),
        ("/v1/a", format!("accept: {BROWSER}\r\n"), "text/html; charset=utf-8"),
        ("/v1/a", "accept: application/json\r\n".to_owned(), "application/json"),
        ("/v1/a", "accept: image/png\r\n".to_owned(), "application/problem+json"),
        // Two lines are one list.
        (
            "/v1/a",
            "accept: */*;q=0.1\r\naccept: text/html\r\n".to_owned(),
            "text/html; charset=utf-8",
        ),
        // hyper reads this one.
        ("/v1/a", format!("accept: {BROWSER}\r\nte: trailers\r\n"), "text/html; charset=utf-8"),
        ("/v1/admin/a", key.clone(), "application/json"),
        ("/v1/admin/a", format!("{key}accept: {BROWSER}\r\n"), "text/html; charset=utf-8"),
    ] {
        let answer = ask(&gate, path, &fields);
        assert!(answer.status() >= 400, "{path} {fields}: {}", answer.status());
        assert_eq!(kind(&answer), wanted, "{path} {fields}");
        assert_eq!(varies(&answer), ["Accept", "origin"], "{path} {fields}");
    }
    let page = ask(&gate, "/v1/a", &format!("accept: {BROWSER}\r\n"));
    let body = String::from_utf8(page.body.clone()).unwrap();
    let id = page.one("x-request-id").unwrap();
    assert_eq!(body, format!("<p>sign in ({id})</p>"));
    let other = ask(&gate, "/v1/admin/a", &format!("{key}accept: text/html\r\n"));
    assert_eq!(other.body, b"<p>insufficient_permission</p>");
    // Caches must distinguish both, and pages of other origins read it as before.
    let cross = ask(&gate, "/v1/a", "origin: https://app.example\r\naccept: text/html\r\n");
    assert_eq!(varies(&cross), ["Accept", "origin"]);
    assert_eq!(cross.one("access-control-allow-origin").as_deref(), Some("https://app.example"));
}

#[test]
fn a_failed_exchange_is_told_in_the_form_that_was_asked_for() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).rules(RULES).start();
    drop(upstream);
    let key = format!("authorization: Bearer {READER}\r\n");
    let answer = ask(&gate, "/v1/a", &format!("{key}accept: text/html\r\n"));
    assert_eq!((answer.status(), kind(&answer).as_str()), (502, "text/html; charset=utf-8"));
    assert_eq!(answer.body, b"<p>bad_gateway</p>");
    let answer = ask(&gate, "/v1/a", &key);
    assert_eq!((answer.status(), kind(&answer).as_str()), (502, "application/problem+json"));
}
