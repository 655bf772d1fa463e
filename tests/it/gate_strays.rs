//! Keys for keygate outside their carriers: in another spelling they are refused, whatever the
//! route. In the address of a page (`Referer`) they are removed.

use crate::support::client::exchange;
use crate::support::gate::{Gate, READER};
use crate::support::upstream::Upstream;

const PREFIXED: &str = r#"
[[credentials]]
source = "header"
name = "x-api-key"
prefixes = ["wa_"]
[[credentials]]
source = "bearer"
prefixes = ["wa_"]
[[credentials]]
source = "query"
name = "api_key"
prefixes = ["wa_"]
[[credentials]]
source = "cookie"
name = "kg_key"
prefixes = ["wa_"]
[[credentials]]
source = "subprotocol"
marker = "keygate.key."

[[routes]]
path = "/key/*"
permissions = ["read"]
[[routes]]
path = "/either/*"
access = "key-or-pass"
permissions = ["read"]
[[routes]]
path = "/public/*"
access = "public"
[[routes]]
id = "watched"
path = "/watched/*"
permissions = ["manage"]
[observe]
routes = ["watched"]
credentials = "strip"
"#;

const PATHS: [&str; 4] = ["/key/a", "/either/a", "/public/a", "/watched/a"];

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

#[test]
fn a_key_in_another_spelling_is_refused_everywhere() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).rules(PREFIXED).start();
    let field = |line: String| (String::new(), format!("{line}\r\n"));
    let query = |name: &str| {
        let equals = if name.contains('=') { "" } else { "=" };
        (format!("?b=2&{name}{equals}{READER}"), String::new())
    };
    let protocol = |entry: String| field(format!("sec-websocket-protocol: chat, {entry}"));
    let strays = [
        field(format!("authorization: {READER}")),
        field(format!("authorization: ApiKey {READER}")),
        field(format!("authorization: Token token=\"{READER}\"")),
        field(format!("authorization: Bearer \"{READER}\"")),
        field(format!("authorization: Bearer Bearer {READER}")),
        field(format!("authorization: Bearer x, Bearer {READER}")),
        field(format!("authorization: Secret-Token:{READER}")),
        field(format!("authorization: Basic {READER}")),
        field(format!("x-api-key: Bearer {READER}")),
        field(format!("x-api-key: \"{READER}\"")),
        field(format!("cookie: a=b; kg_key=\"{READER}")),
        field(format!("cookie: kg_key=Bearer {READER}")),
        field(format!("cookie: KG_KEY={READER}")),
        field(format!("cookie: a=b; kgkey=\"{READER}\"; c=d")),
        field(format!("cookie: %4bG-key={}", READER.replace('_', "%5f"))),
        query("api_key=%22"),
        query("api_key=Bearer%20"),
        query("API_KEY"),
        query("apikey"),
        query("api-key"),
        query("api_key[]"),
        query("%41PI%5fKEY"),
        protocol(format!("Keygate.Key.{READER}")),
        protocol(format!("\"keygate.key.{READER}\"")),
        protocol(format!("v1 keygate.key.{READER}")),
    ];
    for path in PATHS {
        for (more, fields) in &strays {
            let name = format!("{path}{more} {fields}");
            let answer =
                gate.refuses_bytes(&name, get(&format!("{path}{more}"), fields).as_bytes(), 400);
            assert_eq!(answer.code(), "malformed_credential", "{name}");
            assert!(!answer.body_text().contains("wa_live"), "{name}");
        }
    }
    assert!(!upstream.saw(b"wa_live") && !gate.log().contains("wa_live"));
}

/// What only resembles one is left alone.
#[test]
fn what_is_no_key_of_ours_passes() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).rules(PREFIXED).start();
    for (more, field) in [
        ("", format!("authorization: Bearer eyJhbGciOiJIUzI1NiJ9.{READER}.x")),
        ("", "authorization: Digest username=\"wa_bob\", realm=\"x\"".into()),
        ("?API_KEY=1&apikey=wa_&api_key=other", "x-a: b".into()),
        ("?b=1", "referer: http://a/b?c=d&api_keys=1#e".into()),
        ("", "sec-websocket-protocol: chat, keygate.key, v2".into()),
    ] {
        let answer =
            exchange(gate.address, get(&format!("/either/a{more}"), &format!("{field}\r\n")));
        assert_eq!(answer.status(), 200, "{more} {field}: {}", answer.body_text());
        let got = upstream.only();
        assert_eq!(got.first_line(), format!("GET /either/a{more} HTTP/1.1"));
        assert!(got.lines().any(|l| l == field), "{field}");
    }
}

/// A page that was opened with a key in its address sends that address with everything that it
/// loads.
#[test]
fn a_key_in_the_referer_goes_no_further() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).rules(PREFIXED).start();
    let open = format!("?api_key={READER}");
    for path in PATHS {
        for (query, fields) in
            [(open.as_str(), String::new()), ("", format!("x-api-key: {READER}\r\n"))]
        {
            for (referer, want) in [
                (format!("http://b/p?api_key={READER}"), Some("http://b/p")),
                (format!("http://b/p?x=%20&api_key={READER}&y=?"), Some("http://b/p?x=%20&y=?")),
                (format!("http://b/p?%61pi_key={READER}#z"), Some("http://b/p")),
                (format!("http://b/p?x;api_key={READER}"), None),
                (format!("\u{e9}?x=1&api_key={READER}"), Some("\u{e9}?x=1")),
            ] {
                let fields = format!("{fields}referer: {referer}\r\n");
                let answer = exchange(gate.address, get(&format!("{path}{query}"), &fields));
                assert_eq!(answer.status(), 200, "{path} {referer}: {}", answer.body_text());
                let want: Vec<&str> = want.into_iter().collect();
                assert_eq!(upstream.only().all("referer"), want, "{path} {referer}");
            }
            let twice = format!("{fields}referer: http://b/\r\nreferer: http://b/{open}\r\n");
            assert_eq!(
                exchange(gate.address, get(&format!("{path}{query}"), &twice)).status(),
                200
            );
            upstream.only();
        }
    }
    assert!(!upstream.saw(b"wa_live"));
}
