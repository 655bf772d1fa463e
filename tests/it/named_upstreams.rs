//! `[upstreams.NAME]`: each route leads to its own service, and nothing that is meant for one
//! service reaches another.

use std::io::copy;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use super::assertion::{claims, new_key};
use super::proto_ws::handshake;
use crate::support::client::{Client, exchange};
use crate::support::gate::{Folder, Gate, READER, Setup, keygate};
use crate::support::h2upstream::{Http2Upstream, Reply};
use crate::support::upstream::{Step, Upstream, answer, send};

/// Discard: a port that nothing listens on.
const DOWN: &str = "http://127.0.0.1:9";

/// Routes: `/v1/…` to `[upstream]`, `/keys/…` to `[upstreams.keys]`.
const RULES: &str = "[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n\
                     [[credentials]]\nsource = \"bearer\"\nprefixes = [\"wa_\"]\n\
                     [[routes]]\npath = \"/*\"\n\
                     [[routes]]\nid = \"manage\"\npath = \"/keys/*\"\naccess = \"key-or-pass\"\n\
                     upgrade = [\"websocket\"]\nupstream = \"keys\"\n";

fn setup(main: &Upstream, keys: &str) -> Setup {
    Gate::before(main).rules(RULES).also(&format!("[upstreams.keys]\nurl = \"{keys}\"\n"))
}

fn url(upstream: &Upstream) -> String {
    format!("http://{}", upstream.address)
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: api.example\r\n{fields}\r\n")
}

fn keyed(path: &str) -> String {
    get(path, &format!("x-api-key: {READER}\r\n"))
}

fn named(upstream: &str, series: &str, count: u64) -> String {
    format!("\nkeygate_upstream_{series}{{upstream=\"{upstream}\"}} {count}\n")
}

/// A Unix socket in front of a service on TCP. It ends with the test's process.
fn socket_before(path: &Path, service: SocketAddr) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(service) = TcpStream::connect(service) else { return };
            let (mut from, mut to) = (client.try_clone().unwrap(), service.try_clone().unwrap());
            thread::spawn(move || copy(&mut from, &mut to));
            let (mut from, mut to): (TcpStream, UnixStream) = (service, client);
            thread::spawn(move || copy(&mut from, &mut to));
        }
    });
}

#[test]
fn each_route_goes_to_its_own_service() {
    let (main, keys) = (Upstream::start(), Upstream::start());
    let gate = setup(&main, &url(&keys)).also("[workers]\ncount = 1\n").start();
    for _ in 0..2 {
        assert_eq!(exchange(gate.address, keyed("/keys/a?b=c")).status(), 200);
    }
    assert_eq!(exchange(gate.address, keyed("/v1/a")).status(), 200);
    assert_eq!(main.only().one("x-key-name").as_deref(), Some("Production CRM"));
    let got = keys.wait_for(2);
    assert_eq!(got.len(), 2);
    for request in &got {
        assert!(request.head.starts_with(b"GET /keys/a?b=c HTTP/1.1\r\n"));
        assert_eq!(request.one("x-key-name").as_deref(), Some("Production CRM"));
        assert_eq!(request.one("x-api-key"), None);
    }
    // Their connections are separate, and so are their numbers.
    let metrics = gate.metrics();
    for line in [named("keys", "connections_total", 1), named("keys", "reused_total", 1)] {
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    assert!(metrics.contains("\nkeygate_upstream_connections_total 1\n"), "{metrics}");
    let count = "keygate_upstream_response_seconds_count{upstream=\"keys\"} 2";
    assert!(metrics.contains(count), "{metrics}");
    // The log names the upstream unless it is `[upstream]`.
    assert!(gate.log_soon("\"path\":\"/v1/a\""));
    let log = gate.log();
    let lines: Vec<_> = log.lines().filter(|l| l.contains("\"path\":\"/")).collect();
    assert_eq!(lines.len(), 3, "{log}");
    for line in lines {
        let is_named = line.contains("\"upstream\":\"keys\"");
        assert_eq!(is_named, line.contains("\"path\":\"/keys/a\""), "{line}");
    }
}

/// Only its own routes fail, and nothing goes to the other service instead.
#[test]
fn a_named_service_that_is_down_takes_only_its_routes_along() {
    let main = Upstream::start();
    let health = "health_path = \"/healthz\"\nhealth_interval = \"50ms\"\n";
    let gate = setup(&main, DOWN).also(health).start();
    gate.wait_ready();
    let refused = exchange(gate.address, keyed("/keys/a"));
    assert_eq!(refused.status(), 502);
    assert_eq!(refused.code(), "bad_gateway");
    assert_eq!(exchange(gate.address, keyed("/v1/a")).status(), 200);
    assert_eq!(main.take().len(), 1);
    assert_eq!(gate.probe("/readyz").status(), 200);
    let metrics = gate.metrics();
    let errors =
        "\nkeygate_upstream_errors_total{reason=\"upstream_connect\",upstream=\"keys\"} 1\n";
    assert!(metrics.contains(errors), "{metrics}");
    assert!(metrics.contains("\nkeygate_upstream_errors_total{reason=\"upstream_connect\"} 0\n"));
    let ill = named("keys", "healthy", 0);
    gate.process.eventually("a failed check", || gate.metrics().contains(&ill));
    assert!(gate.log_soon("the upstream fails its health check"));
    assert!(gate.metrics().contains("\nkeygate_upstream_healthy 1\n"));
    assert_eq!(gate.probe("/readyz").status(), 200, "the health of a named one is shown alone");
}

#[test]
fn a_service_behind_a_unix_socket_and_its_own_host() {
    let (main, keys) = (Upstream::start(), Upstream::start());
    let setup = setup(&main, "unix:SOCKET").also("host = \"registrar\"\n");
    let folder = setup.folder();
    let socket = folder.file("registrar.sock");
    let text = folder.read("keygate.toml").replace("SOCKET", socket.to_str().unwrap());
    folder.write("keygate.toml", &text);
    socket_before(&socket, keys.address);
    let gate = Gate::serve(folder);
    gate.wait_ready();
    // Without a key too: the caller's own token reaches the service, and says nothing about
    // keygate.
    let user = get("/keys/a", "authorization: Bearer user-token\r\nx-key-id: key_forged\r\n");
    assert_eq!(exchange(gate.address, user).status(), 200);
    let got = keys.only();
    assert_eq!(got.one("host").as_deref(), Some("registrar"));
    assert_eq!(got.one("authorization").as_deref(), Some("Bearer user-token"));
    assert_eq!((got.one("x-key-id"), got.one("x-anonymous").as_deref()), (None, Some("true")));
    assert_eq!(exchange(gate.address, keyed("/keys/a")).status(), 200);
    let got = keys.only();
    assert!(got.one("x-key-id").is_some());
    assert!(!got.all("x-api-key").iter().any(|value| value.contains(READER)));
    assert_eq!(exchange(gate.address, keyed("/v1/a")).status(), 200);
    assert_eq!(main.only().one("host").as_deref(), Some("api.example"));
}

fn secrets(folder: &Folder) {
    folder.write_secret("main-token", "Bearer main-secret\n");
    folder.write_secret("keys-token", "keys-secret\n");
    folder.write_secret("assertion.pem", &new_key());
}

/// Whatever makes one service believe keygate is valuable there: the other must not see it.
#[test]
fn credential_and_assertion_of_one_service_never_reach_another() {
    let (main, keys) = (Upstream::start(), Upstream::start());
    let credential = "[upstream.credential]\nkind = \"fixed\"\nsecret_file = \"main-token\"\n\
                      [assertion]\nkey_file = \"assertion.pem\"\naudience = \"orders\"\n";
    let own = "[upstreams.keys.credential]\nkind = \"fixed\"\nfield = \"x-registrar\"\n\
               secret_file = \"keys-token\"\n";
    for (more, has_own) in [("", false), (own, true)] {
        let audience = if has_own { "assertion_audience = \"registrar\"\n" } else { "" };
        let folder = setup(&main, &url(&keys)).also(audience).also(more).also(credential).folder();
        secrets(&folder);
        let gate = Gate::serve(folder);
        gate.wait_ready();
        for _ in 0..2 {
            assert_eq!(exchange(gate.address, keyed("/v1/a")).status(), 200);
            let got = main.only();
            assert_eq!(got.one("authorization").as_deref(), Some("Bearer main-secret"));
            assert_eq!(got.one("x-registrar"), None);
            assert_eq!(claims(&got.one("x-identity-assertion").unwrap())["aud"], "orders");
            assert_eq!(exchange(gate.address, keyed("/keys/a")).status(), 200);
            let got = keys.only();
            assert_eq!(got.one("authorization"), None);
            assert!(!String::from_utf8_lossy(&got.head).contains("main-secret"));
            assert_eq!(got.one("x-registrar").as_deref(), has_own.then_some("keys-secret"));
            let assertion = got.one("x-identity-assertion");
            assert_eq!(assertion.is_some(), has_own);
            assert!(assertion.is_none_or(|token| claims(&token)["aud"] == "registrar"));
        }
        // A client cannot write either of them.
        let forged = "x-registrar: forged\r\nx-identity-assertion: forged\r\n";
        let request = get("/keys/a", &format!("x-api-key: {READER}\r\n{forged}"));
        assert_eq!(exchange(gate.address, request).status(), 200);
        let got = keys.only();
        assert!(!got.all("x-identity-assertion").contains(&"forged".to_owned()));
        if has_own {
            assert_eq!(got.all("x-registrar"), ["keys-secret"]);
        }
    }
}

/// A 401 of one service says nothing about the other's credential.
#[test]
fn a_refused_credential_is_counted_for_its_service() {
    let main = Upstream::start();
    let keys = Upstream::answering(|_| answer("401 Unauthorized", "", ""));
    let own = "[upstreams.keys.credential]\nkind = \"fixed\"\nsecret_file = \"keys-token\"\n";
    let folder = setup(&main, &url(&keys)).also(own).folder();
    secrets(&folder);
    let gate = Gate::serve(folder);
    gate.wait_ready();
    assert_eq!(exchange(gate.address, keyed("/keys/a")).status(), 401);
    let metrics = gate.metrics();
    assert!(metrics.contains(&named("keys", "credential_refused_total", 1)), "{metrics}");
    assert!(metrics.contains("\nkeygate_upstream_credential_refused_total 0\n"), "{metrics}");
    assert!(gate.log_soon("upstreams.keys.credential"), "{}", gate.log());
}

#[test]
fn location_is_cut_by_the_address_of_the_service_that_sent_it() {
    let location = |got: &crate::support::http::Message| {
        let to = got.one("x-to").unwrap_or_default();
        answer("302 Found", &format!("location: {to}\r\n"), "")
    };
    let (main, keys) = (Upstream::answering(location), Upstream::answering(location));
    let gate = setup(&main, &url(&keys)).start();
    for (path, own, other) in [("/v1/a", &main, &keys), ("/keys/a", &keys, &main)] {
        for (to, want) in [
            (format!("{}/next", url(own)), "/next".to_owned()),
            (format!("{}/next", url(other)), format!("{}/next", url(other))),
        ] {
            let request = get(path, &format!("x-api-key: {READER}\r\nx-to: {to}\r\n"));
            let got = exchange(gate.address, request);
            assert_eq!(got.one("location").as_deref(), Some(want.as_str()), "{path}");
        }
    }
}

/// One has no queue. The other does not notice.
#[test]
fn limits_of_connections_are_those_of_the_service() {
    let main = Upstream::start();
    let keys = Upstream::answering(|_| vec![Step::Wait(std::time::Duration::from_secs(2))]);
    let gate = setup(&main, &url(&keys))
        .also("max_connections = 1\nmax_queue = 0\n[workers]\ncount = 1\n")
        .start();
    let mut first = Client::connect(gate.address);
    first.send(keyed("/keys/a"));
    keys.wait_for(1);
    let full = exchange(gate.address, keyed("/keys/a"));
    assert_eq!(full.status(), 503);
    assert_eq!(full.code(), "overloaded");
    assert_eq!(exchange(gate.address, keyed("/v1/a")).status(), 200);
}

#[test]
fn upgrades_go_to_the_named_service() {
    let main = Upstream::start();
    let keys = Upstream::answering(|_| {
        send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )
    });
    let gate = setup(&main, &url(&keys)).start();
    let mut client = Client::connect(gate.address);
    client.send(handshake("/keys/live", &format!("x-api-key: {READER}\r\n")));
    assert_eq!(client.response_head().status(), 101);
    assert_eq!((keys.take().len(), main.take().len()), (1, 0));
}

/// Each service has its own protocol.
#[test]
fn one_service_speaks_http2_and_the_other_does_not() {
    let main = Upstream::start();
    let keys = Http2Upstream::answering(|_| Reply::ok(""));
    let gate = setup(&main, &keys.url()).start();
    for path in ["/keys/a", "/v1/a", "/keys/a"] {
        assert_eq!(exchange(gate.address, keyed(path)).status(), 200, "{path}");
    }
    assert_eq!(main.only().one("x-key-name").as_deref(), Some("Production CRM"));
}

/// A process keeps its connections. A reload moves routes among them, never to another service.
#[test]
fn a_reload_moves_routes_among_the_services_of_the_start() {
    let (main, keys, other) = (Upstream::start(), Upstream::start(), Upstream::start());
    let beside = format!("[upstreams.zeta]\nurl = \"{}\"\n", url(&other));
    let zeta = "[[routes]]\npath = \"/zeta/*\"\nupstream = \"zeta\"\n";
    let folder = setup(&main, &url(&keys)).also(&beside).also(zeta).folder();
    let text = folder.read("keygate.toml");
    let gate = Gate::serve(folder);
    gate.wait_ready();
    let reload = |text: &str| {
        let before = gate.probe("/status").json()["config"].clone();
        gate.folder.write("keygate.toml", text);
        gate.process.eventually("a reload", || gate.probe("/status").json()["config"] != before);
    };
    // One that the process does not run. Its name precedes the others, so that indices shift.
    let added = "[upstreams.alpha]\nurl = \"http://127.0.0.1:9\"\n";
    reload(&format!("{text}{added}"));
    let status = gate.probe("/status").json();
    assert_eq!(status["config"]["needs_restart"], serde_json::json!(["upstreams"]), "{status}");
    for (path, upstream) in [("/keys/a", &keys), ("/zeta/a", &other), ("/v1/a", &main)] {
        assert_eq!(exchange(gate.address, keyed(path)).status(), 200, "{path}");
        assert_eq!(upstream.take().len(), 1, "{path}");
    }
    // A route to it: refused as a whole, with the remedy.
    let moved = text.replace("upstream = \"zeta\"", "upstream = \"alpha\"");
    reload(&format!("{moved}{added}"));
    let status = gate.probe("/status").json();
    let error = status["config"]["error"].as_str().unwrap_or_default();
    assert!(error.contains("alpha") && error.contains("hint: restart"), "{status}");
    assert_eq!(exchange(gate.address, keyed("/zeta/a")).status(), 200);
    assert_eq!(other.take().len(), 1);
    // Among those that run, immediately.
    reload(&text.replace("upstream = \"zeta\"", "upstream = \"keys\""));
    assert_eq!(exchange(gate.address, keyed("/zeta/a")).status(), 200);
    assert_eq!((keys.take().len(), other.take().len()), (1, 0));
}

#[test]
fn explain_and_check_say_which_service_a_route_goes_to() {
    let main = Upstream::start();
    let folder = setup(&main, "http://127.0.0.1:9").folder();
    let run = |arguments: &[&str]| {
        let output = keygate(folder.path()).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let config = ["--config", "keygate.toml"];
    let said = run(&[&["check"], &config[..]].concat());
    assert!(said.contains("\nupstream keys: manage\n"), "{said}");
    let said = run(
        &[&["explain"], &config[..], &["--key-id", "key_reader", "--path", "/keys/a"]].concat()
    );
    assert!(said.contains("to upstream keys"), "{said}");
    let said =
        run(&[&["explain"], &config[..], &["--key-id", "key_reader", "--path", "/v1/a"]].concat());
    assert!(!said.contains("to upstream"), "{said}");
}
