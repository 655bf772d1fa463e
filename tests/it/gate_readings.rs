//! A request that can be read in two ways passes only if both mean the same: paths with encoded
//! characters, `//`, field names with `_`, empty elements of a list. Bytes in, bytes out.

use crate::support::client::exchange;
use crate::support::gate::{Gate, MANAGER, READER};
use crate::support::h2raw::{self, H2};
use crate::support::upstream::Upstream;

const RULES: &str = r#"
[[credentials]]
source = "header"
name = "x-api-key"
[[credentials]]
source = "pair"
id = "x-pair-id"
secret = "x-pair-secret"
[[credentials]]
source = "subprotocol"
marker = "keygate.key."

[[routes]]
path = "/v1/{id}"
permissions = ["read"]
[[routes]]
path = "/two/a-b"
permissions = ["read"]
[[routes]]
path = "/two/{id}"
permissions = ["manage"]
[[routes]]
path = "/at/@me"
permissions = ["read"]
[[routes]]
path = "/at/*"
permissions = ["manage"]
[[routes]]
path = "/merge/*"
permissions = ["read"]
allow_empty_segment = true
[[routes]]
path = "/merge/admin/*"
permissions = ["manage"]
allow_empty_segment = true
[[routes]]
path = "/merge/{x}/one"
permissions = ["read"]
allow_empty_segment = true
[[routes]]
path = "/strict/*"
permissions = ["read"]
"#;

fn get(target: &str, key: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n{fields}\r\n")
}

#[test]
fn a_path_goes_through_where_every_reading_finds_one_rule() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).rules(RULES).start();
    for path in [
        "/v1/a%2Db",
        "/v1/a%2db",
        "/v1/%7Ealice",
        "/v1/a%5Fb%2Ec",
        "/v1/..%2E",
        "/two/a-b",
        "/at/@me",
        "/merge//a",
        "/merge/a//",
        "/merge/a//b///c/",
        "/merge/x//two",
        // An empty segment does not match a name: these are `/merge/*`, in both readings.
        "/merge//one",
        "/merge///one",
    ] {
        let answer = exchange(gate.address, get(path, READER, ""));
        assert_eq!(answer.status(), 200, "{path}: {}", answer.body_text());
        assert_eq!(upstream.only().first_line(), format!("GET {path} HTTP/1.1"));
        let mut h2 = H2::connect(gate.address);
        assert_eq!(h2.exchange(1, &h2raw::get(path, READER)).status, Some(200), "{path}");
        assert_eq!(upstream.only().first_line(), format!("GET {path} HTTP/1.1"));
    }
    for path in [
        // A caller who may do everything is refused as well: the path is at fault.
        "/two/a%2Db",
        "/two/%61-b",
        "/at/%40me",
        "/v1/%61",
        "/v1/%2E",
        "/v1/%2e%2E",
        "/v1/.%2e",
        "/v1//a",
        "/strict//a",
        "/strict/a//",
        "//merge/a",
        "///merge",
        // Merged, it belongs to another rule.
        "/merge//admin/a",
        "/merge//../a",
        "/merge//%2e%2e/a",
        "/merge//.",
    ] {
        for key in [READER, MANAGER] {
            gate.refuses(path, get(path, key, ""), 400, "bad_path");
        }
    }
    let said = gate.refuses("two", get("/two/a%2Db", MANAGER, ""), 400, "bad_path").body_text();
    assert!(said.contains("leads to two rules"), "{said}");
    assert_eq!(exchange(gate.address, get("/two/c%2Db", MANAGER, "")).status(), 200);
}

/// Salesforce sends `SFDC_STACK_DEPTH`, which nobody there can switch off.
#[test]
fn fields_with_an_underscore_are_dropped_counted_and_named_once() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).rules(RULES).start();
    let long = "l".repeat(100);
    let fields = format!(
        "SFDC_STACK_DEPTH: 1\r\nX_Org_Id: evil\r\nx-kept: 1\r\nX_Forwarded_For: 6.6.6.6\r\n\
         {long}_: 1\r\n_: 1\r\nproxy_authorization: Basic eA==\r\n"
    );
    for _ in 0..3 {
        assert_eq!(exchange(gate.address, get("/v1/a", READER, &fields)).status(), 200);
        let got = upstream.only();
        assert!(got.lines().skip(1).all(|l| !l.split(':').next().unwrap().contains('_')));
        assert_eq!(
            (got.all("x-org-id").as_slice(), got.all("x-kept")),
            (&["acme".into()][..], vec!["1".into()])
        );
        assert!(!got.all("x-forwarded-for").concat().contains("6.6.6.6"));
    }
    assert!(gate.metrics().contains("\nkeygate_fields_dropped_total 18\n"), "{}", gate.metrics());
    assert!(gate.log_soon("\"field\":\"sfdc_stack_depth\""), "{}", gate.log());
    let log = gate.log();
    assert_eq!(log.matches("\"field\":\"sfdc_stack_depth\"").count(), 1);
    assert!(
        log.contains(&format!("\"field\":\"{}\"", "l".repeat(64)))
            && !log.contains(&"l".repeat(65))
    );
    // Useless names fill the list. Later ones are only dropped and counted.
    for n in 0..100 {
        let fields = format!("name_{n}: 1\r\n");
        assert_eq!(exchange(gate.address, get("/v1/a", READER, &fields)).status(), 200);
    }
    assert!(gate.log_soon("more names of dropped fields are not logged"));
    assert_eq!(gate.log().matches("its name has an underscore").count(), 64);
    assert!(gate.metrics().contains("\nkeygate_fields_dropped_total 118\n"));
    // Over HTTP/2 too.
    upstream.take();
    let mut asked = h2raw::get("/v1/a", READER);
    asked.push(("sfdc_stack_depth", "1"));
    assert_eq!(H2::connect(gate.address).exchange(1, &asked).status, Some(200));
    assert!(upstream.only().all("sfdc_stack_depth").is_empty());
}

#[test]
fn a_misspelt_credential_or_framing_field_is_heard_in_every_mode() {
    for mode in
        ["", "underscores = \"drop\"", "underscores = \"refuse\"", "underscores = \"allow\""]
    {
        let upstream = Upstream::start();
        let gate = Gate::before(&upstream).rules(RULES).top(mode).start();
        for field in [
            format!("x_api_key: {READER}"),
            format!("X_Api-Key: {READER}"),
            "x_api_key:".into(),
            "x_pair_id: a".into(),
            "x-pair_secret: a".into(),
            "sec_websocket_protocol: chat".into(),
            "Transfer_Encoding: chunked".into(),
            "transfer_encoding: identity".into(),
            "Content_Length: 5".into(),
        ] {
            let request = get("/v1/a", READER, &format!("{field}\r\n"));
            let answer = gate.refuses(&format!("{mode} {field}"), request, 400, "bad_header");
            if !mode.contains("refuse") {
                assert!(answer.body_text().contains("where `-` belongs"), "{}", answer.body_text());
            }
        }
        let answer = exchange(gate.address, get("/v1/a", READER, "other_name: 1\r\n"));
        let passed = if mode.contains("refuse") { 400 } else { 200 };
        assert_eq!(answer.status(), passed, "{mode}");
        let arrived = upstream.take().iter().any(|got| !got.all("other_name").is_empty());
        assert_eq!(arrived, mode.contains("allow"), "{mode}");
    }
}

#[test]
fn empty_elements_of_a_list_of_hops_say_nothing() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream)
        .rules(RULES)
        .top("trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]")
        .start();
    for (lines, want) in [
        (&["203.0.113.9,, 10.0.0.2"][..], "203.0.113.9"),
        (&["203.0.113.9, ,\t,"], "203.0.113.9"),
        (&["203.0.113.9", "", " , "], "203.0.113.9"),
        (&[",,"], "127.0.0.1"),
        (&["203.0.113.9, junk,,"], "127.0.0.1"),
    ] {
        let fields: String = lines.iter().map(|l| format!("x-forwarded-for: {l}\r\n")).collect();
        let name = format!("{lines:?}");
        let before = gate.log().matches(&format!("\"client\":\"{want}\"")).count();
        assert_eq!(exchange(gate.address, get("/v1/a", READER, &fields)).status(), 200, "{name}");
        let sent = upstream.only().all("x-forwarded-for");
        assert!(sent.len() == 1 && sent[0].ends_with("127.0.0.1"), "{name}: {sent:?}");
        assert!(!sent[0].starts_with(',') || lines[0].starts_with(','), "{name}: {sent:?}");
        let seen = || gate.log().matches(&format!("\"client\":\"{want}\"")).count() > before;
        gate.process.eventually(&name, seen);
    }
}

/// Trojan Source: characters that change the direction of text, or are invisible, are not in the
/// log literally.
#[test]
fn the_log_shows_what_is_there() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).rules(RULES).start();
    let marks: Vec<char> = ('\u{202a}'..='\u{202e}')
        .chain('\u{2066}'..='\u{2069}')
        .chain(['\u{200b}', '\u{200f}', '\u{61c}', '\u{2028}', '\u{feff}', '\u{85}', '\u{e0041}'])
        .collect();
    for mark in &marks {
        gate.refuses_bytes("mark", get(&format!("/v1/a{mark}z"), READER, "").as_bytes(), 400);
    }
    assert!(
        gate.log_soon("/v1/a\\u202ez") && gate.log_soon("/v1/a\\udb40\\udc41z"),
        "{}",
        gate.log()
    );
    assert!(!gate.log().contains(|c: char| marks.contains(&c)), "{}", gate.log());
}
