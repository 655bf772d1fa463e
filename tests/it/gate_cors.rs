//! What pages of other origins can read, by the rules of the Fetch standard: a refusal that passes
//! the "CORS check", and a preflight after which the browser sends the request.

use crate::support::client::exchange;
use crate::support::gate::{Gate, Key, READER};
use crate::support::http::Message;
use crate::support::upstream::Upstream;

const RULES: &str = r#"
[[cors]]
path = "/v1/*"
origins = ["https://app.example", "https://*.partner.example:8443"]
[[cors]]
path = "/v1/cookie/*"
origins = ["https://app.example"]
credentials = true
max_age = "1h"
[[cors]]
path = "/v1/open/*"
origins = ["*"]

[[credentials]]
source = "header"
name = "x-api-key"
[[credentials]]
source = "bearer"
prefixes = ["wa_"]

[[routes]]
path = "/v1/*"
methods = ["GET", "POST", "PUT"]
permissions = ["read"]
[[routes]]
path = "/v1/admin/*"
permissions = ["manage"]
[[routes]]
path = "/v1/small/*"
methods = ["POST"]
body_limit = "1B"
[[routes]]
path = "/elsewhere/*"
[[routes]]
path = "/v1/legacy/*"
preflight = true
"#;

const APP: &str = "https://app.example";
const SLOW: &str = "wa_live_Slow000123456789abcdefgh";

fn world(upstream: &Upstream) -> Gate {
    Gate::before(upstream)
        .rules(RULES)
        .key(Key::new("key_slow", SLOW).may("read").with("limit = \"1/h\""))
        .start()
}

fn request(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

fn one(answer: &Message, name: &str) -> Option<String> {
    let all = answer.all(name);
    assert!(all.len() <= 1, "{name} is there {} times", all.len());
    all.into_iter().next()
}

/// Fetch section 4.10, "CORS check". `credentials`: the request's credentials mode is `include`.
fn may_read(answer: &Message, origin: &str, credentials: bool) -> bool {
    let Some(allowed) = one(answer, "access-control-allow-origin") else { return false };
    if !credentials && allowed == "*" {
        return true;
    }
    let told = one(answer, "access-control-allow-credentials");
    allowed == origin && (!credentials || told.as_deref() == Some("true"))
}

/// Fetch section 3.3.5: what `response.headers.get(name)` finds.
fn is_exposed(answer: &Message, name: &str) -> bool {
    let list = one(answer, "access-control-expose-headers").unwrap_or_default();
    list.split(',').any(|exposed| exposed.trim().eq_ignore_ascii_case(name))
}

/// Fetch section 4.8, "CORS-preflight fetch": whether the request would be sent.
fn may_send(
    answer: &Message,
    (origin, credentials): (&str, bool),
    method: &str,
    names: &[&str],
) -> bool {
    if !may_read(answer, origin, credentials) || !(200..300).contains(&answer.status()) {
        return false;
    }
    let list = |name: &str| -> Vec<String> {
        let text = one(answer, name).unwrap_or_default();
        text.split(',').map(|n| n.trim().to_owned()).collect()
    };
    let methods = list("access-control-allow-methods");
    let fields = list("access-control-allow-headers");
    (["GET", "HEAD", "POST"].contains(&method) || methods.iter().any(|m| m == method))
        && names.iter().all(|name| fields.iter().any(|f| f.eq_ignore_ascii_case(name)))
}

fn preflight(gate: &Gate, path: &str, origin: &str, method: &str, names: &str) -> Message {
    let names = match names {
        "" => String::new(),
        names => format!("access-control-request-headers: {names}\r\n"),
    };
    let fields = format!("origin: {origin}\r\naccess-control-request-method: {method}\r\n{names}");
    exchange(gate.address, request("OPTIONS", path, &fields))
}

/// Every status that keygate itself answers with, and what a page needs in it.
#[test]
fn refusals_can_be_read_by_the_pages_that_are_allowed() {
    let upstream = Upstream::start();
    let gate = world(&upstream);
    let key = format!("x-api-key: {READER}\r\n");
    let slow = format!("x-api-key: {SLOW}\r\n");
    assert_eq!(exchange(gate.address, request("GET", "/v1/a", &slow)).status(), 200);
    upstream.only();
    let cases = [
        ("GET", "/v1/a", String::new(), 401, "www-authenticate"),
        ("GET", "/v1/a", "x-api-key: wa_nope\r\n".into(), 401, "www-authenticate"),
        ("GET", "/v1/admin/a", key.clone(), 403, "x-request-id"),
        ("DELETE", "/v1/a", key.clone(), 405, "x-request-id"),
        ("GET", "/v1/a", slow, 429, "retry-after"),
        ("GET", "/v1/a", format!("{key}{key}"), 400, "x-request-id"),
        ("GET", "/v1/a/../b", key.clone(), 400, "x-request-id"),
        ("GET", "/v1/a", format!("{key}expect: x\r\n"), 417, "x-request-id"),
        ("POST", "/v1/small/a", format!("{key}content-length: 9\r\n"), 413, "x-request-id"),
    ];
    for (method, path, fields, status, wanted) in &cases {
        for origin in [APP, "https://a.partner.example:8443"] {
            let fields = format!("origin: {origin}\r\n{fields}");
            let name = format!("{method} {path} {origin}");
            let request = request(method, path, &fields);
            let answer = gate.refuses_bytes(&name, request.as_bytes(), *status);
            assert!(may_read(&answer, origin, false), "{name}: {:?}", answer.all("vary"));
            assert!(!may_read(&answer, origin, true), "{name}: nobody allowed credentials");
            assert!(is_exposed(&answer, wanted) && one(&answer, wanted).is_some(), "{name}");
            assert_eq!(one(&answer, "vary").as_deref(), Some("origin"), "{name}");
            assert!(answer.body_text().contains("\"code\""), "{name}");
        }
        // Others learn nothing, and caches do not give them the answers for allowed pages.
        for origin in ["origin: https://evil.example\r\n", "origin: null\r\n", ""] {
            let request = request(method, path, &format!("{origin}{fields}"));
            let answer = gate.refuses_bytes(origin, request.as_bytes(), *status);
            assert_eq!(one(&answer, "access-control-allow-origin"), None, "{origin}");
            assert_eq!(one(&answer, "vary").as_deref(), Some("origin"), "{origin}");
        }
    }
    let twice = format!("origin: {APP}\r\norigin: https://evil.example\r\n");
    let answer = gate.refuses_bytes("two origins", request("GET", "/v1/a", &twice).as_bytes(), 401);
    assert_eq!(one(&answer, "access-control-allow-origin"), None);
    // Outside the rules nothing changes.
    let elsewhere = request("GET", "/elsewhere/a", &format!("origin: {APP}\r\n"));
    let answer = gate.refuses_bytes("elsewhere", elsewhere.as_bytes(), 401);
    assert!(one(&answer, "access-control-allow-origin").is_none() && answer.all("vary").is_empty());
}

/// Byte for byte: the fields of one refusal, and the list of what a script may read.
#[test]
fn the_fields_of_a_refusal() {
    let upstream = Upstream::start();
    let gate = world(&upstream);
    let ask = |path: &str| {
        let request = request("GET", path, &format!("origin: {APP}\r\n"));
        let answer = gate.refuses_bytes(path, request.as_bytes(), 401);
        let head = String::from_utf8_lossy(&answer.head).into_owned();
        let ours = |l: &&str| l.starts_with("access-control-") || l.starts_with("vary");
        head.lines().filter(ours).map(str::to_owned).collect::<Vec<_>>()
    };
    let exposed = "access-control-expose-headers: \
                   ratelimit, ratelimit-policy, retry-after, www-authenticate, x-request-id";
    let named = "access-control-allow-origin: https://app.example";
    assert_eq!(ask("/v1/a"), ["vary: origin", named, exposed]);
    let credentials = "access-control-allow-credentials: true";
    assert_eq!(ask("/v1/cookie/a"), ["vary: origin", named, credentials, exposed]);
    let any = "access-control-allow-origin: *";
    assert_eq!(ask("/v1/open/a"), ["vary: origin", any, exposed]);
}

/// A template's own CORS fields are not sent together with those of the rule.
#[test]
fn a_template_does_not_contradict_the_rule() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream)
        .rules(RULES)
        .also(
            "[refusals]\nprofile = \"own\"\n[refusals.templates.own]\nbody = '{\"c\":\"{{code}}\"}'\n\
             [refusals.templates.own.headers]\nAccess-Control-Allow-Origin = \"*\"\n\
             Vary = \"accept\"\n",
        )
        .start();
    let ask =
        |path: &str| exchange(gate.address, request("GET", path, &format!("origin: {APP}\r\n")));
    let answer = ask("/v1/cookie/a");
    assert!(may_read(&answer, APP, true), "{:?}", answer.all("access-control-allow-origin"));
    assert_eq!(answer.all("vary").len(), 2);
    assert!(may_read(&ask("/elsewhere/a"), APP, false));
}

#[test]
fn preflights_are_answered_and_nothing_reaches_the_service() {
    let upstream = Upstream::start();
    let gate = world(&upstream);
    let names = "authorization,content-type,x-api-key";
    let all: Vec<&str> = names.split(',').collect();
    for (path, origin, credentials, age) in [
        ("/v1/a", APP, false, "600"),
        ("/v1/a", "https://a.partner.example:8443", false, "600"),
        // Also where the request itself would be refused: only then can the page read the refusal.
        ("/v1/no/such/method", APP, false, "600"),
        ("/v1/cookie/a", APP, true, "3600"),
        ("/v1/open/a", "https://anybody.example", false, "600"),
        ("/v1/open/a", "null", false, "600"),
        ("/v1/legacy/a", APP, false, "600"),
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            let answer = preflight(&gate, path, origin, method, names);
            let name = format!("{method} {path} {origin}");
            assert_eq!(answer.status(), 204, "{name}: {}", answer.body_text());
            assert!(may_send(&answer, (origin, credentials), method, &all), "{name}");
            assert_eq!(one(&answer, "access-control-max-age").as_deref(), Some(age), "{name}");
            let varies = one(&answer, "vary").unwrap();
            assert!(varies.contains("origin") && varies.contains("request-headers"), "{varies}");
            assert!(answer.body.is_empty() && one(&answer, "content-length").is_none(), "{name}");
            assert!(one(&answer, "x-request-id").is_some(), "{name}");
        }
        assert!(may_send(&preflight(&gate, path, origin, "GET", ""), (origin, false), "GET", &[]));
    }
    assert!(upstream.take().is_empty());
    assert!(gate.log_soon("\"status\":204,\"verdict\":\"passed\""), "{}", gate.log());
    // Anything that is not allowed is judged as usual.
    for (path, origin) in [
        ("/v1/a", "https://evil.example"),
        ("/v1/a", "https://a.b.partner.example:8443"),
        ("/v1/a", "null"),
        ("/elsewhere/a", APP),
    ] {
        let answer = preflight(&gate, path, origin, "PUT", names);
        assert!([401, 405].contains(&answer.status()), "{path} {origin}: {}", answer.status());
        assert!(!may_send(&answer, (origin, false), "PUT", &all), "{path} {origin}");
    }
    // An invalid list is not repeated.
    let answer = preflight(&gate, "/v1/a", APP, "PUT", "x\"y");
    assert_eq!((answer.status(), one(&answer, "access-control-allow-headers")), (204, None));
    // An OPTIONS that is not a preflight is a request like any other.
    let plain = request("OPTIONS", "/v1/a", &format!("origin: {APP}\r\n"));
    gate.refuses_bytes("no preflight", plain.as_bytes(), 405);
    // A preflight that can be read in two ways is refused too, and the page may read why.
    let asks = "access-control-request-method: GET\r\n";
    let twice = request("OPTIONS", "/v1/a%252Fb/%2e%2e/c", &format!("origin: {APP}\r\n{asks}"));
    assert!(may_read(&gate.refuses("path", twice, 400, "bad_path"), APP, false));
    // No page can choose its framing, so this is no browser.
    let smuggled = "access-control-request-method: GET\r\ntransfer-encoding: x, chunked\r\n";
    let smuggled = request("OPTIONS", "/v1/a", &format!("origin: {APP}\r\n{smuggled}"));
    gate.refuses("framing", smuggled, 400, "bad_framing");
    assert!(upstream.take().is_empty());
}

/// The service's own answers are left alone, including what they tell browsers.
#[test]
fn answers_of_the_service_are_left_alone() {
    let upstream = Upstream::start();
    let gate = world(&upstream);
    let fields = format!("origin: {APP}\r\nx-api-key: {READER}\r\n");
    let answer = exchange(gate.address, request("GET", "/v1/a", &fields));
    assert_eq!(answer.status(), 200);
    assert!(one(&answer, "access-control-allow-origin").is_none() && answer.all("vary").is_empty());
    assert_eq!(upstream.only().all("origin"), [APP]);
    // If the service is away, keygate gives the answer.
    drop(upstream);
    let gone = Gate::before_url("http://127.0.0.1:1").rules(RULES).start_unready();
    let answer = exchange(gone.address, request("GET", "/v1/a", &fields));
    assert_eq!((answer.status(), may_read(&answer, APP, false)), (502, true));
}
