//! Does keygate report when clients can bypass it to reach the service? Real services on loopback,
//! on every address and on Unix sockets, in front of the real programs.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::Value;

use crate::support::gate::{Gate, keygate};
use crate::support::process::run;

/// Part of both forms of the alarm, and of nothing else.
const AROUND: &str = "reach the service around keygate: ";

fn before(listener: &TcpListener, host: &str) -> Gate {
    let port = listener.local_addr().unwrap().port();
    Gate::before_url(&format!("http://{host}:{port}")).start()
}

fn gauge(gate: &Gate) -> String {
    let metrics = gate.metrics();
    let line = metrics.lines().find(|line| line.starts_with("keygate_upstream_exposed "));
    line.expect("the gauge").split(' ').nth(1).unwrap().to_owned()
}

fn status(gate: &Gate) -> Value {
    gate.probe("/status").json()["upstream_exposure"].clone()
}

/// Waits for a check with this result.
fn expect(gate: &Gate, state: &str, value: &str) -> Value {
    gate.process.eventually(state, || status(gate)["state"] == state);
    assert_eq!(gauge(gate), value);
    status(gate)
}

fn warnings(gate: &Gate) -> usize {
    gate.log().matches(AROUND).count()
}

/// What `check` says in addition. The service and keygate may both run meanwhile.
fn checked(gate: &Gate, more: &[&str]) -> String {
    let mut command = keygate(gate.folder.path());
    run(command.args(["check", "--config", "keygate.toml"]).args(more))
}

/// Whether this machine has an address other than loopback, which such a test needs.
fn has_addresses() -> bool {
    let trie = fs::read_to_string("/proc/self/net/fib_trie").unwrap_or_default();
    let mut leaf = "";
    trie.lines().map(str::trim).any(|line| {
        leaf = line.strip_prefix("|-- ").unwrap_or(leaf);
        line == "/32 host LOCAL" && !leaf.starts_with("127.")
    })
}

#[test]
fn a_service_on_loopback_is_closed() {
    for (bind, host) in
        [("127.0.0.1:0", "127.0.0.1"), ("127.0.0.1:0", "localhost"), ("[::1]:0", "[::1]")]
    {
        let Ok(service) = TcpListener::bind(bind) else { continue };
        let gate = before(&service, host);
        let found = expect(&gate, "closed", "0");
        assert_eq!(found, serde_json::json!({ "state": "closed" }), "{host}");
        assert_eq!(warnings(&gate), 0, "{}", gate.log());
        // Nobody has connected in order to check.
        service.set_nonblocking(true).unwrap();
        assert!(service.accept().is_err(), "{host}");
        assert!(!checked(&gate, &[]).contains(AROUND), "{host}");
    }
}

/// Each named service has its own state.
#[test]
fn named_services_are_in_the_status_too() {
    let (main, other) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let url = |service: &TcpListener| format!("http://{}", service.local_addr().unwrap());
    let named = format!("[upstreams.keys]\nurl = \"{}\"\n", url(&other));
    let rules = r#"
[[credentials]]
source = "header"
name = "x-api-key"
[[routes]]
path = "/*"
[[routes]]
path = "/keys/*"
upstream = "keys"
"#;
    let gate = Gate::before_url(&url(&main)).rules(rules).also(&named).start();
    gate.process.eventually("closed", || {
        gate.probe("/status").json()["named_upstream_exposure"]["keys"]["state"] == "closed"
    });
}

#[test]
fn a_service_on_every_address_raises_the_alarm_until_it_does_not() {
    if !has_addresses() {
        return;
    }
    for bind in ["0.0.0.0:0", "[::]:0"] {
        let Ok(service) = TcpListener::bind(bind) else { continue };
        let at = service.local_addr().unwrap();
        let gate = before(&service, "127.0.0.1");
        let found = expect(&gate, "exposed", "1");
        assert_eq!(found["sockets"][0], at.to_string());
        let reached = found["reached"][0].as_str().unwrap().to_owned();
        assert!(reached.ends_with(&format!(":{}", at.port())), "{reached}");
        assert!(!reached.starts_with("127.") && !reached.starts_with("[::1]"), "{reached}");
        // Another check has the same result, and logs nothing.
        for _ in 0..3 {
            gate.process.signal("HUP");
        }
        let said = checked(&gate, &[]);
        let warning = "warning: upstream.url: clients reach the service around keygate";
        assert!(said.contains(warning) && said.contains(&reached), "{said}");
        assert!(said.contains("\nhint: let the service listen on 127.0.0.1"), "{said}");
        let json: Value = serde_json::from_str(&checked(&gate, &["--json"])).unwrap();
        let found = json["findings"].as_array().unwrap();
        assert!(found.iter().any(|f| f["kind"] == "upstream_exposed"), "{json}");
        assert!(!checked(&gate, &["--config-only"]).contains(AROUND), "of this machine");
        assert!(gate.log_soon(AROUND));
        assert_eq!(warnings(&gate), 1, "{}", gate.log());
        // It listens on loopback alone from now on.
        drop(service);
        let Ok(_service) = TcpListener::bind(("127.0.0.1", at.port())) else { continue };
        gate.process.signal("HUP");
        expect(&gate, "closed", "0");
        assert!(gate.log_soon("can no longer be reached around keygate"));
        assert!(!checked(&gate, &[]).contains(AROUND));
    }
}

#[test]
fn the_check_can_be_switched_off() {
    let service = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = service.local_addr().unwrap().port();
    let setup = Gate::before_url(&format!("http://127.0.0.1:{port}"));
    let gate = setup.upstream_option("exposure_check = false").start();
    let found = expect(&gate, "unknown", "-1");
    assert_eq!(found["why"], "upstream.exposure_check is off");
    assert!(!checked(&gate, &[]).contains(AROUND));
    assert_eq!(warnings(&gate), 0);
}

#[test]
fn another_host_is_unknown() {
    // 203.0.113.0/24 is for documents (RFC 5737), `.invalid` is never resolved (RFC 6761).
    for url in ["http://203.0.113.77:9", "http://app.invalid:9"] {
        let gate = Gate::before_url(url).start();
        gate.process.eventually("a look", || {
            status(&gate)["why"].as_str().is_some_and(|why| !why.contains("yet"))
        });
        expect(&gate, "unknown", "-1");
        assert!(!checked(&gate, &[]).contains(AROUND), "{url}");
    }
}

#[test]
fn a_socket_file_raises_the_alarm_where_others_may_write() {
    let dir = tempfile::tempdir().unwrap();
    let chmod = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    if !dir.path().ancestors().skip(1).all(|above| mode(above) & 1 != 0) {
        return;
    }
    chmod(dir.path(), 0o755);
    let path = dir.path().join("app.sock");
    let _service = UnixListener::bind(&path).unwrap();
    chmod(&path, 0o660);
    let gate = Gate::before_url(&format!("unix:{}", path.display())).start();
    expect(&gate, "closed", "0");
    for (target, open, closed) in [(&*path, 0o777, 0o660), (dir.path(), 0o777, 0o755)] {
        chmod(target, open);
        gate.process.signal("HUP");
        let found = expect(&gate, "exposed", "1");
        let want = format!("{} (mode 0777)", target.display());
        assert_eq!(found["sockets"], serde_json::json!([want]));
        assert!(found["reached"].is_null(), "{found}");
        let said = checked(&gate, &[]);
        assert!(said.contains("other users of this machine reach the service"), "{said}");
        assert!(said.contains(&want) && said.contains("hint: let only"), "{said}");
        chmod(target, closed);
        gate.process.signal("HUP");
        expect(&gate, "closed", "0");
    }
    assert!(gate.log_soon("can no longer be reached"));
    assert_eq!(warnings(&gate), 2, "{}", gate.log());
}
