//! Some rules are enforced next to observed ones, or from some time on: nobody can bypass that.

use crate::gate_observe::{NEW, REVOKED, RULES, gate, report, service};
use crate::proto_ws::{handshake, text};
use crate::support::client::{Client, exchange};
use crate::support::gate::{Gate, Key, MANAGER, READER};
use crate::support::http::Message;
use crate::support::upstream::{Step, Upstream, ok, send};

#[test]
fn routes_narrow_it() {
    let upstream = service();
    let gate = gate(&upstream, "[observe]\nroutes = [\"v1\"]").start();
    let ask =
        |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    let (good, bad) =
        (format!("x-api-key: {READER}\r\n"), "x-api-key: wa_nobody_has_this_key_012345\r\n");
    assert_eq!(exchange(gate.address, ask("/v1/a", &good)).status(), 200);
    assert_eq!(upstream.only().one("x-api-key").as_deref(), Some(READER));
    let underscore = format!("{good}my_header: 1\r\n");
    assert_eq!(exchange(gate.address, ask("/v1/a", &underscore)).status(), 200);
    assert_eq!(upstream.only().one("my_header"), None, "dropped beside rules that are enforced");
    assert!(gate.metrics().contains("\nkeygate_fields_dropped_total 1\n"), "{}", gate.metrics());
    let observed = exchange(gate.address, ask("/v1/a", bad));
    assert_eq!((observed.status(), observed.body_text().contains("service")), (401, true));
    upstream.take();
    gate.refuses("another route", ask("/admin/a", bad), 401, "invalid_key");
    gate.refuses("no route", ask("/b", &good), 403, "no_route");
    gate.refuses("no certain route", ask("/v1/../admin/a", &good), 400, "bad_path");
    let admin = ask("/admin/a", &format!("x-api-key: {MANAGER}\r\n"));
    exchange(gate.address, admin);
    assert_eq!(upstream.only().one("x-api-key"), None, "stripped where nothing is observed");
}

/// A service that decodes once more, cuts at `;` or merges slashes treats these as `admin`, which
/// is enforced, whatever else is wrong with the request.
#[test]
fn no_reading_of_an_observed_path_opens_an_enforced_rule() {
    let upstream = Upstream::start();
    let rules = r#"
[[credentials]]
source = "header"
name = "x-api-key"
prefixes = ["wa_"]
[[credentials]]
source = "bearer"
prefixes = ["wa_"]
[[routes]]
id = "admin"
path = "/v1/admin/*"
permissions = ["manage"]
[[routes]]
id = "item"
path = "/v1/{item}"
[[routes]]
id = "open"
path = "/v1/open/*"
access = "public"
[[routes]]
id = "vouched"
path = "/v1/vouched/{name}"
allow_encoded_slash = true
"#;
    for passage in ["", "credentials = \"strip\""] {
        let observe = format!("[observe]\nroutes = [\"item\", \"open\", \"vouched\"]\n{passage}\n");
        let gate = Gate::before(&upstream).rules(&format!("{rules}{observe}")).start();
        for path in [
            "/v1/admin%2fusers",
            "/v1/%2fadmin%2fusers",
            "/v1/admin%2F",
            "/v1/admin;x",
            "/v1/admin%252fusers",
            "/v1/%2561dmin",
            "/v1/%61dmin",
            "/v1/open//../admin/a",
            "/v1/open/%252e%252e/admin/a",
            "/v1/open/..%2fadmin/a",
            "/v1/open/a%2fb",
            "/v1/open/..;/admin/a",
            "/v1//admin",
            "//v1/item",
            "/v1/x/../admin/a",
            "/v1/vouched/a;b",
            "/v1/vouched/%252e%252e",
        ] {
            for fields in [
                String::new(),
                format!("x-api-key: {READER}\r\n"),
                // Other faults of the request, one of which outweighs that of the path.
                "x_api_key: junk\r\n".to_owned(),
                format!("x-api-key: {READER}\r\nx-api-key: {MANAGER}\r\n"),
                format!("authorization: ApiKey {READER}\r\n"),
            ] {
                let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
                let answer = exchange(gate.address, &request);
                assert_eq!(answer.status(), 400, "{passage} {path} {fields}");
            }
        }
        // keygate knows the rule of these, but a less strict service may use another one.
        for path in ["/v1/Admin", "/v1/admin.", "/v1/admin%2e", "/v1/ADMIN%20", "/v1/open/../Admin"]
        {
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
            let answer = exchange(gate.address, &request);
            assert!([400, 401].contains(&answer.status()), "{passage} {path}: {answer:?}");
        }
        assert!(upstream.take().is_empty(), "{passage}: one has reached the service");
        for path in ["/v1/item", "/v1/vouched/a%2fb", "/v1/open/a"] {
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
            assert_eq!(exchange(gate.address, request).status(), 200, "{passage} {path}");
        }
        assert_eq!(upstream.take().len(), 3);
    }
}

/// A tunnel to anything else could carry requests that nobody reads.
#[test]
fn only_websockets_upgrade_without_a_rule() {
    let switching = Upstream::answering(|asked: &Message| match asked.one("upgrade") {
        Some(protocol) => {
            let mut steps = send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n"
            ));
            steps.push(Step::Echo);
            steps
        }
        None => ok(),
    });
    let rules = "[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n\
                 [[routes]]\nid = \"v1\"\npath = \"/v1/*\"\n\
                 [[routes]]\nid = \"own\"\npath = \"/own/*\"\nupgrade = [\"acme\"]\n[observe]\n";
    let gate = Gate::before(&switching).rules(rules).start();
    let status = |path: &str, protocol: &str| {
        let mut client = Client::connect(gate.address);
        client.send(format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
        ));
        client.response_head().status()
    };
    for protocol in [
        "h2c",
        "h2",
        "tls",
        "TLS/1.0",
        "TLS/1.2",
        "tls/1.3",
        "HTTP/2.0",
        "SPDY/3.1",
        "connect-udp",
        "connect-ip",
        "foo/1",
        "acme/1",
        "websocket/13",
        "websocket2",
        "h2c, websocket",
        "masque",
    ] {
        assert_eq!(status("/v1/a", protocol), 200, "{protocol}");
        assert_eq!(switching.only().one("upgrade"), None, "{protocol}");
    }
    assert_eq!(status("/own/a", "acme"), 101, "its rule allows it");
    gate.process.eventually("the row", || {
        let rows = report(&gate);
        let row = rows.iter().find(|row| row["reason"] == "upgrade");
        row.is_some_and(|row| row["count"] == 16 && row["route"] == "v1")
    });
}

/// Switches to an echo, or answers with a stream that does not end.
fn endless() -> Upstream {
    Upstream::answering(|asked: &Message| {
        let (mut steps, last) = match asked.one("sec-websocket-key") {
            Some(key) => {
                let accept = crate::proto_ws::accept(&key);
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n";
                (
                    send(format!(
                        "{head}Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                    )),
                    Step::Echo,
                )
            }
            None => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
                (send(format!("{head}transfer-encoding: chunked\r\n\r\n1\r\nx\r\n")), Step::Drain)
            }
        };
        steps.push(last);
        steps
    })
}

fn tunnel(gate: &Gate, key: &str) -> Client {
    let mut client = Client::connect(gate.address);
    client.send(handshake("/v1/ws", &format!("x-api-key: {key}\r\n")));
    assert_eq!(client.response_head().status(), 101, "{key}");
    client
}

fn events(gate: &Gate, fields: &str) -> Client {
    let mut client = Client::connect(gate.address);
    client.send(format!("GET /v1/events HTTP/1.1\r\nhost: a\r\n{fields}\r\n"));
    assert_eq!(client.response_head().status(), 200, "{fields}");
    client
}

fn echoes(client: &mut Client) {
    client.send(text("hello"));
    assert!(crate::proto_ws::frame(client).1.ends_with(b"hello"));
}

/// Waits for the end. A client that waits without success panics.
fn ends(client: &mut Client) {
    while !client.read_some().is_empty() {}
}

const STREAMS: &str = r#"
[[credentials]]
source = "header"
name = "x-api-key"
prefixes = ["wa_"]
[[routes]]
id = "v1"
path = "/v1/*"
permissions = ["read"]
upgrade = ["websocket"]
"#;

/// A stream that began while it was observed is judged when observing ends. It ends if it would not
/// be let through, and otherwise follows the table like any other stream.
#[test]
fn streams_that_were_observed_end_once_they_are_enforced() {
    let upstream = endless();
    let start = |observe: &str| {
        Gate::before(&upstream)
            .rules(&format!("{STREAMS}{observe}\n"))
            .key(Key::new("key_revoked", REVOKED).may("read").with("status = \"revoked\""))
            .start()
    };
    for (observe, later) in [
        ("[observe]", ""),
        ("[observe]", "[observe]\nenforce = \"100%\""),
        ("[observe]", "[observe]\nuntil = 2020-01-01T00:00:00Z"),
    ] {
        let gate = start(observe);
        let mut good = tunnel(&gate, READER);
        let mut revoked = tunnel(&gate, REVOKED);
        let mut unknown = tunnel(&gate, "wa_nobody_has_this_key_012345");
        let mut anonymous = events(&gate, "");
        let mut forbidden = events(&gate, "x-api-key: old-style-key\r\n");
        for client in [&mut good, &mut revoked, &mut unknown] {
            echoes(client);
        }
        let config = gate.folder.read("keygate.toml");
        gate.folder.write("keygate.toml", &config.replace("[observe]", later));
        for client in [&mut revoked, &mut unknown, &mut anonymous, &mut forbidden] {
            ends(client);
        }
        echoes(&mut good);
        let registry = gate.folder.read("keys.toml");
        let revoking = "id = \"key_reader\"\nstatus = \"revoked\"";
        gate.folder.write("keys.toml", &registry.replace("id = \"key_reader\"", revoking));
        gate.folder.build();
        ends(&mut good);
    }
}

#[test]
fn streams_that_were_observed_end_at_its_end() {
    let upstream = endless();
    let until = std::time::SystemTime::now() + std::time::Duration::from_secs(6);
    let until = humantime::format_rfc3339_seconds(until);
    let rules = format!("{STREAMS}[observe]\nuntil = {until}\n");
    let gate = Gate::before(&upstream).rules(&rules).start();
    let mut good = tunnel(&gate, READER);
    let mut unknown = tunnel(&gate, "wa_nobody_has_this_key_012345");
    let mut anonymous = events(&gate, "");
    echoes(&mut unknown);
    ends(&mut unknown);
    ends(&mut anonymous);
    echoes(&mut good);
}

/// A table that admits a key keeps its stream, and a revoked one continues while it is observed.
#[test]
fn streams_follow_the_table_only_once_they_are_enforced() {
    let upstream = endless();
    let gate = Gate::before(&upstream).rules(&format!("{STREAMS}[observe]\n")).start();
    let (mut reader, mut new) = (tunnel(&gate, READER), tunnel(&gate, NEW));
    let registry = gate.folder.read("keys.toml");
    let revoked =
        registry.replace("id = \"key_reader\"", "id = \"key_reader\"\nstatus = \"revoked\"");
    gate.folder
        .write("keys.toml", &format!("{revoked}{}", Key::new("key_new", NEW).may("read").toml()));
    gate.folder.build();
    gate.wait_serial(2);
    echoes(&mut reader);
    let config = gate.folder.read("keygate.toml");
    gate.folder.write("keygate.toml", &config.replace("[observe]", ""));
    ends(&mut reader);
    echoes(&mut new);
}

/// A second key, a misspelt field or a path that can be read in two ways takes nobody out of the
/// enforced share.
#[test]
fn no_fault_leads_out_of_the_enforced_share() {
    let upstream = Upstream::start();
    let (inside, outside) = ("wa_InTheShare0123456789abcdefgh", "wa_OutOfIt0123456789abcdefghijkl");
    let rules = format!("{RULES}\n[observe]\nenforce = \"10%\"\n");
    let gate = Gate::before(&upstream)
        .top("trusted_proxies = [\"127.0.0.1/32\"]")
        .rules(&rules)
        // Of `key_0` to `key_59`, 4, 23, 27 and 48 are in the first tenth.
        .key(Key::new("key_4", inside).may("read"))
        .key(Key::new("key_0", outside).may("read"))
        .start();
    let ask = |network: u32, path: &str, fields: &str| {
        exchange(
            gate.address,
            format!(
                "GET {path} HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 198.51.{network}.7\r\n{fields}\r\n"
            ),
        )
        .status()
    };
    let enforced = (0..250).find(|n| ask(*n, "/v1/a", "") == 401).unwrap();
    let observed = (0..250).find(|n| ask(*n, "/v1/a", "") == 200).unwrap();
    let with = |key: &str, more: &str| format!("x-api-key: {key}\r\n{more}");
    let junk = "wa_junk0123456789abcdefghijklmno";
    let doubtful = |key: &str| {
        let basic = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("{key}:"));
        [
            with(key, "x_api_key: junk\r\n"),
            with(junk, &format!("x_api_key: {key}\r\n")),
            with(key, &format!("x-api-key: {key}\r\n")),
            with(key, &format!("x-api-key: {junk}\r\n")),
            with(junk, &format!("x-api-key: {key}\r\n")),
            with(junk, &format!("authorization: Bearer {key}\r\n")),
            with(junk, &format!("authorization: Basic {basic}\r\n")),
            format!("authorization: ApiKey {key}\r\n"),
        ]
    };
    for network in [observed, enforced] {
        assert_eq!(ask(network, "/admin/a", &with(inside, "")), 403);
        assert_eq!(ask(network, "/admin/a", &with(outside, "")), 200);
        for path in ["//admin/a", "/admin/../v1/a", "/admin/a;b", "/admin/a%2fb"] {
            assert_eq!(ask(network, path, &with(inside, "")), 400, "{path}");
            assert_eq!(ask(network, path, &with(outside, "")), 200, "{path}");
        }
        for fields in doubtful(inside) {
            assert_eq!(ask(network, "/v1/a", &fields), 400, "{fields}");
        }
        for fields in doubtful(outside) {
            let want = if network == observed { 200 } else { 400 };
            assert_eq!(ask(network, "/v1/a", &fields), want, "{fields}");
        }
    }
    let many = "x-api-key: wa_many_0123456789abcdefghijklmn\r\n".repeat(20);
    let lists = format!("x-api-key: {}\r\n", "junk ".repeat(300));
    assert_eq!(ask(observed, "/v1/a", &many), 200);
    assert_eq!(ask(observed, "/v1/a", &format!("{many}{lists}")), 400, "too many to look at");
}
