//! `[observe]` in front of a service that checks keys itself: nothing changes for anybody, and the
//! report names who would be refused.

use std::collections::BTreeSet;

use crate::proto_ws::{handshake, text};
use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, Key, MANAGER, READER, Setup};
use crate::support::h2raw::H2;
use crate::support::http::Message;
use crate::support::upstream::{Step, Upstream, answer, send};

/// In the table, and unknown to the service.
pub(crate) const NEW: &str = "wa_New0123456789abcdefghijklmnop";
/// Known to the service, but in no table.
const LEGACY: &str = "old-style-key-of-the-service";
const LIMITED: &str = "wa_Limited0123456789abcdefghijk";
/// Revoked in the table, but valid for the service.
pub(crate) const REVOKED: &str = "wa_Revoked0123456789abcdefghijk";

pub(crate) const RULES: &str = r#"
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

[[routes]]
id = "v1"
path = "/v1/*"
methods = ["GET", "POST"]
permissions = ["read"]
body_limit = "10B"
[[routes]]
id = "admin"
path = "/admin/*"
permissions = ["manage"]
"#;

/// Answers according to its own keys, and repeats what it was asked.
pub(crate) fn service() -> Upstream {
    Upstream::answering(|asked: &Message| {
        if let Some(key) = asked.one("sec-websocket-key") {
            let accept = crate::proto_ws::accept(&key);
            let mut steps = send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            ));
            steps.push(Step::Echo);
            return steps;
        }
        let line = asked.first_line();
        let spelt = ["x-api-key", "x_api_key"].iter().find_map(|name| asked.all(name).pop());
        let query = line.split(['?', '&', ' ']).find_map(|part| part.strip_prefix("api_key="));
        let bearer = asked.all("authorization").pop();
        let key = spelt.or(bearer).or(query.map(str::to_owned)).unwrap_or_default();
        let key = key.trim_start_matches("Bearer ");
        let seen: Vec<_> = ["my_header", "x-api-key", "authorization", "x-http-method-override"]
            .iter()
            .map(|name| format!("{name}={:?}", asked.all(name)))
            .collect();
        let body = format!("{line}\n{}\n{}\n", seen.join("\n"), asked.body.len());
        let fields =
            "date: Sat, 28 Nov 2026 00:00:00 GMT\r\nx-service: yes\r\nratelimit: \"x\";r=1\r\n";
        let good = [READER, LEGACY, LIMITED, REVOKED].contains(&key);
        match (good, line.contains("/nothing")) {
            (true, false) => answer("200 OK", fields, &body),
            (true, true) => answer("404 Not Found", fields, &body),
            (false, _) => answer("401 Unauthorized", fields, "the service knows no such key\n"),
        }
    })
}

pub(crate) fn gate(upstream: &Upstream, observe: &str) -> Setup {
    Gate::before(upstream)
        .rules(&format!("{RULES}\n{observe}\n"))
        .key(Key::new("key_new", NEW).may("read"))
        .key(Key::new("key_limited", LIMITED).may("read").with("limit = \"1/h\""))
        .key(Key::new("key_revoked", REVOKED).may("read").with("status = \"revoked\""))
}

/// A request of one kind of caller.
struct Caller {
    name: &'static str,
    method: &'static str,
    target: String,
    fields: Vec<(&'static str, String)>,
    body: &'static str,
    /// The row that shows how the caller would break: reason and rule.
    breaks: Option<(&'static str, &'static str)>,
}

fn caller(name: &'static str, target: &str, key: &str) -> Caller {
    let fields = vec![("x-api-key", key.to_owned())];
    Caller { name, method: "GET", target: target.into(), fields, body: "", breaks: None }
}

fn with(mut caller: Caller, field: &'static str, value: &str) -> Caller {
    caller.fields.push((field, value.into()));
    caller
}

fn breaking(caller: Caller, reason: &'static str, route: &'static str) -> Caller {
    Caller { breaks: Some((reason, route)), ..caller }
}

fn callers() -> Vec<Caller> {
    let nobody = |target| Caller { fields: Vec::new(), ..caller("no key", target, "") };
    let misspelt = Caller { fields: Vec::new(), ..caller("x_api_key", "/v1/a", "") };
    let body =
        Caller { method: "POST", body: "longer than ten bytes", ..caller("body", "/v1/a", READER) };
    let in_query = format!("/v1/a?x=1&api_key={READER}");
    vec![
        caller("good key", "/v1/a", READER),
        caller("bad key", "/v1/a", "wa_nobody_has_this_key_012345"),
        nobody("/v1/a"),
        nobody("/elsewhere"),
        Caller { fields: Vec::new(), ..caller("key in the query", &in_query, "") },
        breaking(
            with(caller("two credentials", "/v1/a", READER), "authorization", "Bearer wa_other"),
            "duplicate",
            "v1",
        ),
        breaking(with(misspelt, "x_api_key", READER), "bad_header", "v1"),
        with(caller("underscore", "/v1/a", READER), "my_header", "1"),
        with(caller("override", "/v1/a", READER), "x-http-method-override", "PUT"),
        breaking(caller("double slash", "//v1/a", READER), "bad_path", "none"),
        breaking(caller("dots", "/v1/../v1/a", READER), "bad_path", "none"),
        breaking(caller("over the limit", "/v1/a", LIMITED), "rate_limited", "v1"),
        breaking(caller("no route", "/elsewhere", READER), "route", "none"),
        breaking(
            Caller { method: "DELETE", ..caller("no method", "/v1/a", READER) },
            "method",
            "none",
        ),
        breaking(caller("no permission", "/admin/a", READER), "permission", "admin"),
        breaking(body, "body_too_large", "v1"),
        // Not ours by its prefix: what other services call a user's token.
        breaking(caller("a key of the service alone", "/v1/a", LEGACY), "foreign", "v1"),
        breaking(caller("malformed", "/v1/a", &format!("Bearer {READER}")), "malformed", "v1"),
        breaking(caller("revoked", "/v1/a", REVOKED), "revoked", "v1"),
        breaking(
            with(caller("a name of ours", "/v1/a", READER), "x-org-id", "mine"),
            "field:x-org-id",
            "v1",
        ),
        caller("a key of the table alone", "/v1/a", NEW),
        caller("not found", "/v1/nothing", READER),
        with(caller("forwarded", "/v1/a", READER), "x-forwarded-for", "203.0.113.9"),
    ]
}

impl Caller {
    fn http1(&self) -> String {
        let fields: String = self.fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let length = match self.body.len() {
            0 => String::new(),
            length => format!("content-length: {length}\r\n"),
        };
        format!(
            "{} {} HTTP/1.1\r\nhost: a\r\n{fields}{length}\r\n{}",
            self.method, self.target, self.body
        )
    }
}

/// Status, body and fields, except for the request id and what belongs to the hop.
fn seen(answer: &Message) -> (u16, String, BTreeSet<String>) {
    let lines = answer.lines().skip(1).map(|line| line.to_ascii_lowercase());
    let lines = lines.filter(|line| !line.starts_with("x-request-id:") && !line.is_empty());
    (answer.status(), answer.body_text(), lines.collect())
}

pub(crate) fn report(gate: &Gate) -> Vec<serde_json::Value> {
    let page = gate.probe("/observe");
    assert_eq!(page.status(), 200);
    let text = page.body_text();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Reason and rule of every row by which somebody would break.
pub(crate) fn breakers(gate: &Gate) -> BTreeSet<(String, String)> {
    let rows = report(gate).into_iter().skip(1).filter(|row| row["breaks"] == true);
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    rows.map(|row| (word(&row["reason"]), word(&row["route"]))).collect()
}

fn planted() -> BTreeSet<(String, String)> {
    let all = callers();
    all.iter()
        .filter_map(|c| c.breaks)
        .map(|(reason, route)| (reason.into(), route.into()))
        .collect()
}

fn nothing_changes(setup: impl Fn(&Upstream) -> Setup) -> (Upstream, Gate) {
    let upstream = service();
    let gate = setup(&upstream).start();
    for caller in callers() {
        let direct = exchange(upstream.address, caller.http1());
        for round in 0..3 {
            let through = exchange(gate.address, caller.http1());
            assert_eq!(seen(&through), seen(&direct), "{}, round {round}", caller.name);
            assert!(through.one("x-request-id").is_some(), "{}", caller.name);
        }
    }
    assert_eq!(breakers(&gate), planted());
    (upstream, gate)
}

#[test]
fn nothing_changes_for_anybody_who_is_observed() {
    let (_upstream, gate) = nothing_changes(|upstream| gate(upstream, "[observe]"));
    let rows = report(&gate);
    let head = &rows[0];
    assert_eq!((head["observing"].as_bool(), head["dropped"].as_u64()), (Some(true), Some(0)));
    let row = |reason: &str| {
        let found = rows.iter().skip(1).find(|row| row["reason"] == reason);
        found.unwrap_or_else(|| panic!("no row for {reason}: {rows:#?}"))
    };
    assert_eq!(row("rate_limited")["key"], "key_limited");
    assert_eq!(row("rate_limited")["count"], 2, "the first one is within the limit");
    assert_eq!(row("duplicate")["network"], "127.0.0.0/24");
    assert_eq!(row("unknown")["upstream"]["401"], 3);
    assert_eq!(row("unknown")["breaks"], false);
    let missing_here = row("admitted");
    assert_eq!((&missing_here["key"], &missing_here["kind"]), (&"key_new".into(), &"admit".into()));
    for (notice, route) in [("forwarding", "v1"), ("underscore", "v1"), ("override", "v1")] {
        assert_eq!(
            (&row(notice)["kind"], &row(notice)["route"]),
            (&"changed".into(), &route.into())
        );
    }
    assert_eq!(row("revoked")["request_id"].as_str().unwrap().len(), 32);
    let metrics = gate.metrics();
    for line in [
        r#"keygate_observe_total{reason="route",route="none",upstream="2xx",verdict="deny"} 3"#,
        r#"keygate_observe_total{reason="",route="v1",upstream="404",verdict="admit"} 3"#,
        r#"keygate_observe_total{reason="",route="v1",upstream="401",verdict="admit"} 3"#,
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(metrics.contains("\nkeygate_fields_dropped_total 0\n"), "kept: {metrics}");
    assert!(!gate.log().contains("its name has an underscore"), "{}", gate.log());
    let status = gate.probe("/status").json();
    assert_eq!(status["observe"]["credentials"], "forward");
    assert!(gate.log_soon("credentials for keygate reach the service"), "{}", gate.log());
}

/// The same when hyper reads and writes the requests.
#[test]
fn nothing_changes_for_requests_that_hyper_reads() {
    nothing_changes(|upstream| {
        gate(upstream, "[observe]").upstream_option("preserve_header_case = true")
    });
}

#[test]
fn nothing_changes_over_http2() {
    let upstream = service();
    let gate = gate(&upstream, "[observe]").start();
    for caller in callers() {
        let direct = exchange(upstream.address, caller.http1());
        let mut fields = vec![
            (":method", caller.method),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", caller.target.as_str()),
        ];
        fields.extend(caller.fields.iter().map(|(name, value)| (*name, value.as_str())));
        for _ in 0..3 {
            let mut h2 = H2::connect(gate.address);
            let answer = match caller.body {
                "" => h2.exchange(1, &fields),
                body => {
                    h2.headers(1, 0, &fields);
                    h2.data(1, 1, body.as_bytes());
                    h2.answer(1)
                }
            };
            assert_eq!(answer.status, Some(direct.status()), "{}", caller.name);
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!(body, direct.body_text(), "{}", caller.name);
        }
    }
    assert_eq!(breakers(&gate), planted());
}

/// A body of unknown length also passes, and is reported once it turns out to be too long.
#[test]
fn a_streamed_body_beyond_the_limit_is_reported() {
    let upstream = service();
    let gate = gate(&upstream, "[observe]").start();
    let request = format!(
        "POST /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\
         transfer-encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n"
    );
    assert_eq!(exchange(gate.address, request).status(), 200);
    gate.process.eventually("the row", || !breakers(&gate).is_empty());
    assert_eq!(breakers(&gate), [("body_too_large".to_owned(), "v1".to_owned())].into());
}

#[test]
fn upgrades_pass_without_a_rule_for_them() {
    let upstream = service();
    let gate = gate(&upstream, "[observe]").start();
    for target in ["/v1/ws", "/elsewhere/ws"] {
        let mut client = Client::connect(gate.address);
        client.send(handshake(target, &format!("x-api-key: {READER}\r\n")));
        assert_eq!(client.response_head().status(), 101, "{target}");
        client.send(text("hello"));
        client.read_some();
        assert!(client.pending().ends_with(b"hello"), "{target}");
    }
    gate.process.eventually("rows", || {
        let rows = report(&gate);
        let told = |route: &str| {
            rows.iter().any(|row| row["reason"] == "upgrade" && row["route"] == route)
        };
        told("v1") && told("none")
    });
    assert!(upstream.saw(READER.as_bytes()), "the service checks the key");
}

/// The subprotocol that carries a key reaches the service, which may select another.
#[test]
fn a_key_among_subprotocols_reaches_the_service() {
    let upstream = service();
    let rules = "[[credentials]]\nsource = \"subprotocol\"\nmarker = \"keygate.key.\"\n\
                 [[routes]]\nid = \"all\"\npath = \"/*\"\n[observe]\n";
    let gate = Gate::before(&upstream).rules(rules).start();
    let mut client = Client::connect(gate.address);
    let offer = format!("sec-websocket-protocol: chat, keygate.key.{READER}\r\n");
    client.send(handshake("/ws", &offer));
    assert_eq!(client.response_head().status(), 101);
    let got = upstream.only().one("sec-websocket-protocol");
    assert_eq!(got, Some(format!("chat, keygate.key.{READER}")));
}

/// Enforcing and stripping are two switches: a service that checks keys gets them for as long as it
/// does, whatever is enforced.
#[test]
fn credentials_outlive_observing() {
    for observe in ["[observe]\nenforce = \"100%\"", "[observe]\nuntil = 2020-01-01T00:00:00Z"] {
        let upstream = service();
        let gate = gate(&upstream, observe).start();
        let ask = |key: &str| format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n\r\n");
        assert_eq!(exchange(gate.address, ask(READER)).status(), 200, "{observe}");
        assert_eq!(upstream.only().one("x-api-key").as_deref(), Some(READER));
        gate.refuses("a bad key", ask("wa_nobody_has_this_key_012345"), 401, "invalid_key");
        gate.refuses("no route", ask(READER).replace("/v1/a", "/b"), 403, "no_route");
        let statuses = [200, 429].map(|_| exchange(gate.address, ask(LIMITED)).status());
        assert_eq!(statuses, [200, 429], "limits hold");
    }
}

#[test]
fn stripping_observes_without_credentials() {
    let upstream = Upstream::start();
    let gate = gate(&upstream, "[observe]\ncredentials = \"strip\"").start();
    for (name, fields) in [
        ("good key", format!("x-api-key: {READER}\r\n")),
        ("unknown key", "x-api-key: wa_nobody_has_this_key_012345\r\n".into()),
        ("two credentials", format!("x-api-key: {READER}\r\nauthorization: Bearer {MANAGER}\r\n")),
        ("misspelt", format!("x_api_key: {READER}\r\n")),
    ] {
        let request = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        assert_eq!(exchange(gate.address, request).status(), 200, "{name}");
        let head = upstream.only().head.clone();
        assert!(!String::from_utf8_lossy(&head).contains("wa_"), "{name}: a credential travelled");
    }
    // What cannot be found with certainty cannot be removed either.
    let stray = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nauthorization: ApiKey {READER}\r\n\r\n");
    gate.refuses("a stray", stray, 400, "malformed_credential");
    assert!(report(&gate).iter().any(|row| row["reason"] == "malformed"));
}

/// A missing table must not block a service that does not need one.
#[test]
fn requests_pass_without_a_table() {
    let upstream = service();
    let gate = gate(&upstream, "[observe]").without_table().start_unready();
    let ask = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    assert_eq!(exchange(gate.address, ask).status(), 200);
    assert_eq!(gate.probe("/readyz").status(), 503, "nobody is to be sent here yet");
    assert_eq!(breakers(&gate), [("no_table".to_owned(), "v1".to_owned())].into());
}

/// `[observe]` appears and disappears with a reload, and so does its share.
#[test]
fn a_reload_begins_and_ends_it() {
    let upstream = service();
    let gate = gate(&upstream, "[observe]").start();
    let bad = "GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: wa_nobody_has_this_key_012345\r\n\r\n";
    let by_service = || exchange(gate.address, bad).body_text().contains("service");
    assert!(by_service());
    let config = gate.folder.read("keygate.toml");
    gate.folder
        .write("keygate.toml", &config.replace("[observe]", "[observe]\nenforce = \"100%\""));
    gate.process.eventually("enforced", || !by_service());
    gate.process
        .eventually("the gauge", || gate.metrics().contains("keygate_observe_enforced_share 1\n"));
    gate.folder.write("keygate.toml", &config.replace("[observe]", ""));
    let good = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    gate.process.eventually("stripped", || exchange(gate.address, &good).status() == 401);
    gate.folder.write("keygate.toml", &config);
    gate.process.eventually("observed again", by_service);
    assert!(gate.metrics().contains("keygate_observe_until_timestamp_seconds 0\n"));
}

/// keygate answers preflights only where it enforces.
#[test]
fn preflights_reach_the_service_that_answers_them_today() {
    let upstream = Upstream::answering(|_| answer("204 No Content", "x-by: service\r\n", ""));
    let cors = "[[cors]]\npath = \"/*\"\norigins = [\"https://app.example\"]\n";
    let preflight = "OPTIONS /v1/a HTTP/1.1\r\nhost: a\r\norigin: https://app.example\r\n\
                     access-control-request-method: GET\r\n\r\n";
    let observing = gate(&upstream, &format!("{cors}[observe]")).start();
    assert_eq!(exchange(observing.address, preflight).one("x-by").as_deref(), Some("service"));
    assert!(breakers(&observing).is_empty(), "keygate would answer it");
    let enforcing = gate(&upstream, &format!("{cors}[observe]\nenforce = \"100%\"")).start();
    let answer = exchange(enforcing.address, preflight);
    assert_eq!((answer.status(), answer.one("x-by")), (204, None));
}

/// Every spelling of a name of ours is still removed.
#[test]
fn nobody_can_claim_an_identity_while_observing() {
    let upstream = service();
    let gate = gate(&upstream, "[observe]").start();
    for spelling in ["x-org-id", "X-Org-Id", "x_org_id", "x.org!id"] {
        let fields = format!("{spelling}: evil\r\nx-api-key: {READER}\r\n");
        let request = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        assert_eq!(exchange(gate.address, request).status(), 200, "{spelling}");
        let got = upstream.only();
        assert_eq!(got.all("x-org-id"), ["acme"], "{spelling}");
        assert!(!String::from_utf8_lossy(&got.head).contains("evil"), "{spelling}");
    }
    assert_eq!(breakers(&gate), [("field:x-org-id".to_owned(), "v1".to_owned())].into());
    let anonymous = "GET /v1/a HTTP/1.1\r\nhost: a\r\nx-key-id: key_manager\r\n\r\n";
    exchange(gate.address, anonymous);
    let got = upstream.only();
    assert_eq!((got.all("x-key-id"), got.all("x-anonymous")), (vec![], vec!["true".to_owned()]));
}

/// A table that runs out under `after_expiry = "refuse"` is an outage everywhere else.
#[test]
fn requests_pass_when_the_table_has_expired() {
    let upstream = service();
    let setup = gate(&upstream, "[observe]").table("after_expiry = \"refuse\"");
    let folder = setup.folder();
    folder.build_as("keys.kgt", &["--expires", "6s"]);
    let gate = Gate::serve(folder);
    gate.wait_ready();
    gate.process.eventually("the expiry", || gate.metrics().contains("keygate_table_expired 1\n"));
    let ask = format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n");
    assert_eq!(exchange(gate.address, ask).status(), 200);
    assert_eq!(gate.probe("/readyz").status(), 200, "un-ready it would be taken out of service");
    assert!(breakers(&gate).contains(&("no_table".to_owned(), "v1".to_owned())));
}

/// A stranger's token that the service refuses says nothing about keys.
#[test]
fn a_users_token_is_no_key_that_is_missing() {
    let upstream = service();
    let rules = RULES.replace("id = \"v1\"", "id = \"v1\"\naccess = \"key-or-pass\"");
    let gate = Gate::before(&upstream).rules(&format!("{rules}\n[observe]\n")).start();
    let ask = "GET /v1/a HTTP/1.1\r\nhost: a\r\nauthorization: Bearer eyJ.user.token\r\n\r\n";
    assert_eq!(exchange(gate.address, ask).status(), 401);
    assert_eq!(report(&gate).len(), 1, "no row");
    let line = r#"keygate_observe_total{reason="",route="v1",upstream="401",verdict="admit"} 1"#;
    assert!(gate.metrics().contains(line));
}
