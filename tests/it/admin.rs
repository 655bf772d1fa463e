//! The admin listener of the running program: however many connections are held, probes get
//! through. Also: who may read `/status`, and the listener for probes and metrics alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::client::{PATIENCE, exchange};
use crate::support::gate::{Folder, Gate, keygatectl};

const FIRST: &str = "first-token-0123456789";
const SECOND: &str = "second-token-0123456789";

fn folder(admin: &str) -> Folder {
    let folder = Gate::before_url("http://127.0.0.1:9").folder();
    let text = folder.read("keygate.toml");
    let changed = text.replace("[admin]\n", &format!("[admin]\n{admin}\n"));
    assert_ne!(text, changed);
    folder.write("keygate.toml", &changed);
    folder
}

/// The second listener's address, from the log.
fn public(gate: &Gate) -> SocketAddr {
    let line = gate.log().lines().find(|l| l.contains("\"listening\"")).unwrap().to_owned();
    let said: serde_json::Value = serde_json::from_str(&line).unwrap();
    said["public_admin"].as_str().expect("a second listener").parse().unwrap()
}

fn get(address: SocketAddr, path: &str, fields: &str) -> u16 {
    exchange(
        address,
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{fields}\r\n"),
    )
    .status()
}

/// Connections that were answered once and are kept open.
fn held(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let one = |n| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /livez HTTP/1.1\r\nhost: {address}\r\n\r\n").unwrap();
        assert!(stream.read(&mut [0; 512]).unwrap() > 0, "connection {n} is not answered");
        stream
    };
    (0..count).map(one).collect()
}

#[test]
fn a_probe_gets_through_beside_kept_connections() {
    let gate = Gate::serve(folder("public_address = \"127.0.0.1:0\""));
    gate.wait_ready();
    for address in [gate.admin, public(&gate)] {
        let answered = held(address, 70);
        // They never send anything: only the deadline for the head could end them otherwise.
        let silent: Vec<_> = (0..70).map(|_| TcpStream::connect(address).unwrap()).collect();
        for path in ["/livez", "/readyz", "/startupz", "/metrics"] {
            assert_eq!(get(address, path, ""), 200, "{path} on {address}");
        }
        drop((answered, silent));
    }
}

#[test]
fn a_kept_connection_that_is_used_outlives_idle_ones() {
    let gate = Gate::serve(folder(""));
    let mut used = held(gate.admin, 1).remove(0);
    for _ in 0..40 {
        let _idle = held(gate.admin, 1);
        write!(used, "GET /livez HTTP/1.1\r\nhost: {}\r\n\r\n", gate.admin).unwrap();
        assert!(used.read(&mut [0; 512]).unwrap() > 0, "the scraper's connection was ended");
    }
}

#[test]
fn the_public_listener_has_no_more_than_probes_and_metrics() {
    let gate = Gate::serve(folder("public_address = \"127.0.0.1:0\""));
    let public = public(&gate);
    for path in ["/livez", "/metrics"] {
        assert_eq!(get(public, path, ""), 200, "{path}");
    }
    for path in ["/", "/status", "/usage", "/drain"] {
        assert_eq!(get(public, path, ""), 404, "{path}");
    }
    assert_eq!(get(gate.admin, "/status", ""), 200);
}

#[test]
fn a_page_in_a_browser_cannot_rebind_the_listener() {
    let gate = Gate::serve(folder("hosts = [\"keygate.internal\"]"));
    let named = |host: &str| {
        exchange(
            gate.admin,
            format!("GET /status HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"),
        )
        .status()
    };
    assert_eq!(named("attacker.example:9901"), 421);
    assert_eq!(named("KEYGATE.internal:9901"), 200);
    assert_eq!(named("localhost"), 200);
}

/// A token that is sent is judged, on loopback too, which is the only peer a test can be.
#[test]
fn the_token_is_read_again_and_never_told() {
    let folder = folder("token_file = \"admin.token\"");
    folder.write("admin.token", &format!("{FIRST}\n"));
    let gate = Gate::serve(folder);
    let status =
        |token: &str| get(gate.admin, "/status", &format!("authorization: Bearer {token}\r\n"));
    assert_eq!((status(FIRST), status(SECOND), get(gate.admin, "/status", "")), (200, 401, 200));

    let asked = |token: &str| {
        gate.folder.write("mine.token", token);
        let mut command = keygatectl(gate.folder.path());
        command.args(["status", "--token-file", "mine.token", &gate.admin.to_string()]);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(asked(FIRST).0, Some(0), "{:?}", asked(FIRST));
    let (code, said) = asked(SECOND);
    assert_eq!(code, Some(75));
    assert!(said.contains("another token"), "{said}");

    gate.folder.write("next", SECOND);
    std::fs::rename(gate.folder.file("next"), gate.folder.file("admin.token")).unwrap();
    gate.process.eventually("the second token", || status(SECOND) == 200);
    assert_eq!(status(FIRST), 401);
    gate.folder.write("admin.token", "short");
    gate.process
        .eventually("the complaint", || gate.log().contains("the admin token in force stays"));
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(status(SECOND), 200);
    for secret in [FIRST, SECOND, "short\""] {
        assert!(!gate.log().contains(secret), "{}", gate.log());
        assert!(!gate.metrics().contains(secret));
    }
}

#[test]
fn a_token_that_everybody_on_the_machine_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder("token_file = \"admin.token\"");
    folder.write("admin.token", FIRST);
    for (mode, warned) in [(0o644, true), (0o640, false), (0o400, false)] {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.file("admin.token"), permissions).unwrap();
        let mut command = crate::support::gate::keygate(folder.path());
        let output = command.args(["check", "--config", "keygate.toml"]).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("everybody on this machine"), warned, "{mode:o}: {said}");
        assert!(!said.contains(FIRST), "{said}");
    }
}

#[test]
fn a_token_file_that_cannot_be_used_is_a_fault() {
    for (content, why) in [
        (None, "cannot be read"),
        (Some("tiny-token"), "shorter than 16 characters"),
        (Some("has a space 0123456789"), "may have letters"),
    ] {
        let folder = folder("token_file = \"admin.token\"");
        if let Some(content) = content {
            folder.write("admin.token", content);
        }
        let mut command = crate::support::gate::keygate(folder.path());
        let output = command.args(["check", "--config", "keygate.toml"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("admin.token_file") && said.contains(why), "{said}");
        assert!(content.is_none_or(|c| !said.contains(c)), "{said}");
    }
}
