//! Start, drain, end: exit codes, messages, and no request lost on the way out.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{Client, PATIENCE, exchange};
use crate::support::gate::{Folder, Gate, Key, READER, Setup, keygate, keygatectl};
use crate::support::upstream::{Step, Upstream, send};

fn get() -> String {
    format!("GET /v1/a HTTP/1.1\r\nhost: a\r\nx-api-key: {READER}\r\n\r\n")
}

/// Exit code and standard error of a command that must end without a signal.
fn ends(mut command: Command) -> (i32, String) {
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            panic!("{command:?} did not end");
        }
        thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let code = output.status.code().unwrap_or(-1);
    (code, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn serve(folder: &Folder) -> (i32, String) {
    let mut command = keygate(folder.path());
    command.args(["serve", "--config", "keygate.toml"]);
    ends(command)
}

fn setup() -> Setup {
    Gate::before_url("http://127.0.0.1:9")
}

#[test]
fn a_taken_address_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (code, said) = serve(&setup().listen(&format!("address = \"{address}\"")).folder());
    assert_eq!(code, 73, "{said}");
    assert!(said.contains(&address.to_string()), "{said}");

    let folder = setup().folder();
    let text = folder.read("keygate.toml");
    folder.write(
        "keygate.toml",
        &text.replace(
            "[admin]\naddress = \"127.0.0.1:0\"",
            &format!("[admin]\naddress = \"{address}\""),
        ),
    );
    let (code, said) = serve(&folder);
    assert_eq!(code, 73, "{said}");
    assert!(said.contains(&address.to_string()), "{said}");
}

#[test]
fn errors_of_the_configuration_come_all_at_once() {
    let folder = setup().folder();
    folder.write(
        "keygate.toml",
        "[listen]\naddress = \"nowhere\"\nadress = 1\n[upstream]\nurl = \"http://a/b\"\n\
         [table]\npath = \"keys.kgt\"\naudience = \"tests\"\ntrusted_signers = [\"missing.pub\"]\n\
         [[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n\
         [[routes]]\npath = \"/a/{x}\"\n[[routes]]\npath = \"/a/{y}\"\ntrusted = 1\n",
    );
    let (code, said) = serve(&folder);
    assert_eq!(code, 78, "{said}");
    for what in [
        "listen.address",
        "listen.adress",
        "upstream.url",
        "table.trusted_signers",
        "routes[1]",
        "keygate.toml:2",
        "keygate.toml:3",
        "hint: ",
    ] {
        assert!(said.contains(what), "`{what}` is missing in\n{said}");
    }
    // `check` says the same.
    let mut check = keygate(folder.path());
    check.args(["check", "--config", "keygate.toml"]);
    let (code, checked) = ends(check);
    assert_eq!(code, 78, "{checked}");
    assert!(checked.contains("listen.adress"), "{checked}");
}

#[test]
fn a_table_that_cannot_be_had_ends_the_start() {
    for (name, code, word, spoil) in [
        (
            "missing",
            66,
            "keys.kgt",
            (|f: &Folder| std::fs::remove_file(f.file("keys.kgt")).unwrap()) as fn(&Folder),
        ),
        ("truncated", 65, "", |f| {
            let bytes = std::fs::read(f.file("keys.kgt")).unwrap();
            std::fs::write(f.file("keys.kgt"), &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("empty", 65, "", |f| std::fs::write(f.file("keys.kgt"), b"").unwrap()),
        ("flipped bit", 65, "", |f| {
            let mut bytes = std::fs::read(f.file("keys.kgt")).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(f.file("keys.kgt"), bytes).unwrap();
        }),
        ("other signer", 65, "sign", |f| {
            f.signer("other");
            f.ctl(&[
                "table",
                "build",
                "--registry",
                "keys.toml",
                "--signer",
                "other.pem",
                "--new-signer",
                "--out",
                "keys.kgt",
            ]);
        }),
        ("other audience", 65, "audience", |f| {
            let text = f.read("keys.toml").replace("\"tests\"", "\"others\"");
            f.write("keys.toml", &text);
            // A build does not replace a table of another audience.
            std::fs::remove_file(f.file("keys.kgt")).unwrap();
            f.build();
        }),
    ] {
        let folder = setup().folder();
        spoil(&folder);
        let (got, said) = serve(&folder);
        assert_eq!(got, code, "{name}: {said}");
        assert!(said.contains(word), "{name}: {said}");
    }
}

#[test]
fn wrong_arguments_end_with_64_and_a_hint() {
    let here = std::path::Path::new(".");
    for arguments in [&[][..], &["frobnicate"], &["serve", "--bogus"], &["explain"]] {
        let mut command = keygate(here);
        command.args(arguments);
        let (code, said) = ends(command);
        assert_eq!(code, 64, "keygate {arguments:?}: {said}");
        assert!(said.contains("Usage") || said.contains("--help"), "{said}");
    }
    for arguments in [&["keys"][..], &["frobnicate"], &["keys", "create", "--bogus"]] {
        let mut command = keygatectl(here);
        command.args(arguments);
        let (code, said) = ends(command);
        assert_eq!(code, 64, "keygatectl {arguments:?}: {said}");
        assert!(said.contains("Usage") || said.contains("--help"), "{said}");
    }
    let mut missing = keygate(here);
    missing.args(["serve", "--config", "/nowhere/keygate.toml"]);
    assert_eq!(ends(missing).0, 78);
}

#[test]
fn unready_until_a_table_is_loaded() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).without_table().start_unready();
    assert_eq!(gate.probe("/livez").status(), 200);
    let not_yet = gate.probe("/readyz");
    assert_eq!(not_yet.status(), 503);
    assert!(not_yet.body_text().contains("table"), "{}", not_yet.body_text());
    assert_eq!(gate.probe("/startupz").status(), 503);
    gate.folder.build();
    gate.wait_ready();
    assert_eq!(gate.probe("/startupz").status(), 200);
    assert_eq!(exchange(gate.address, get()).status(), 200);
}

#[test]
fn status_and_metrics_tell_what_is_in_force() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream).start();
    exchange(gate.address, get());
    let status = gate.probe("/status").json();
    assert_eq!(status["table"]["serial"], 1, "{status}");
    assert!(status.to_string().contains(env!("CARGO_PKG_VERSION")), "{status}");
    // Keys are counted off the request path, a moment after the start.
    let counted = "keygate_keys{state=\"active\"} 2";
    gate.process.eventually(counted, || gate.metrics().contains(counted));
    let metrics = gate.metrics();
    for name in [
        "keygate_auth_decisions_total",
        "keygate_requests_total",
        "keygate_request_duration_seconds_bucket",
        "keygate_auth_duration_seconds_bucket",
        "keygate_table_serial 1",
        "keygate_keys{state=\"active\"} 2",
        "keygate_build_info",
    ] {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
    // Prometheus' own tool does not complain about them.
    let file = gate.folder.file("metrics.txt");
    std::fs::write(&file, &metrics).unwrap();
    let output = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(&file).unwrap())
        .output()
        .expect("promtool\nhint: make tools");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// Readiness ends first, then no new connections are accepted, then what is running is finished,
/// then exit 0.
#[test]
fn sigterm_finishes_what_runs() {
    let upstream = Upstream::answering(|_| {
        vec![
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".to_vec()),
            Step::Wait(Duration::from_millis(800)),
            Step::Send(b"whole".to_vec()),
        ]
    });
    let gate =
        Gate::before(&upstream).also("[drain]\ndelay = \"300ms\"\ndeadline = \"5s\"\n").start();
    let mut running = Client::connect(gate.address);
    running.send(get());
    assert_eq!(running.response_head().status(), 200);
    let mut idle = Client::connect(gate.address);
    gate.process.signal("TERM");
    // Within the delay: un-ready, still accepting.
    gate.process.eventually("un-ready", || gate.probe("/readyz").status() == 503);
    let mut late = Client::connect(gate.address);
    late.send(get());
    let answered = late.response();
    assert_eq!(answered.body_text(), "whole");
    let mut body = running.pending().to_vec();
    while body.len() < 5 {
        body.extend(running.read_some());
    }
    assert_eq!(body, b"whole");
    assert!(idle.is_closed(), "an idle connection is let go");
    let status = gate.process.wait(Duration::from_secs(6)).expect("ends by itself");
    assert_eq!(status.code(), Some(0), "{}", gate.log());
    assert!(TcpStream::connect(gate.address).is_err());
}

#[test]
fn the_deadline_cuts_and_a_second_sigterm_cuts_at_once() {
    let hang =
        |head: &'static str| Upstream::answering(move |_| [send(head), vec![Step::Drain]].concat());
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
    for (twice, head) in [(false, half), (true, half), (false, "")] {
        let upstream = hang(head);
        let deadline = if twice { "60s" } else { "500ms" };
        let more = format!("[drain]\ndeadline = \"{deadline}\"\n[log]\naccess_file = \"log\"\n");
        let gate = Gate::before(&upstream).also(&more).start();
        let mut running = Client::connect(gate.address);
        running.send(get());
        match head {
            "" => assert_eq!(upstream.wait_for(1).len(), 1),
            _ => assert_eq!(running.response_head().status(), 200),
        }
        gate.process.signal("TERM");
        if twice {
            gate.process.eventually("un-ready", || {
                TcpStream::connect(gate.admin).is_err() || gate.probe("/readyz").status() == 503
            });
            gate.process.signal("TERM");
        }
        assert!(gate.process.wait(Duration::from_secs(5)).is_some(), "cut ({twice})");
        let log = gate.folder.read("log");
        assert!(log.contains("\"reason\":\"shutdown\"") && log.lines().count() == 1, "{log}");
        // Nobody failed to wait.
        let status = if head.is_empty() { "\"status\":503" } else { "\"status\":200" };
        assert!(log.contains(status), "{log}");
    }
}

/// Under load, no client sees a failed request if its head was received before SIGTERM plus the
/// delay.
#[test]
fn drain_under_load_loses_nothing() {
    let upstream = Upstream::start();
    let gate =
        Gate::before(&upstream).also("[drain]\ndelay = \"500ms\"\ndeadline = \"5s\"\n").start();
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let address = gate.address;
    let clients: Vec<_> = (0..4)
        .map(|n| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            thread::spawn(move || keep_asking(address, n % 2 == 0, &stop, &done))
        })
        .collect();
    gate.process.eventually("load", || done.load(Ordering::SeqCst) > 200);
    gate.process.signal("TERM");
    thread::sleep(Duration::from_millis(350));
    // Still inside the delay: from now on the clients may be unable to connect.
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("no request failed");
    }
    assert_eq!(gate.process.wait(Duration::from_secs(8)).and_then(|s| s.code()), Some(0));
}

/// Sends requests until stopped. Every request must be answered.
fn keep_asking(address: SocketAddr, kept: bool, stop: &AtomicBool, done: &AtomicUsize) {
    let mut client = Client::connect(address);
    while !stop.load(Ordering::SeqCst) {
        client.send(get());
        let answer = client.response();
        assert_eq!(answer.status(), 200);
        done.fetch_add(1, Ordering::SeqCst);
        let closing = answer.all("connection").iter().any(|c| c.contains("close"));
        if closing || !kept {
            client = Client::connect(address);
        }
    }
}

/// `keygate drain`, for a preStop hook.
#[test]
fn drain_by_command() {
    let upstream = Upstream::start();
    let gate =
        Gate::before(&upstream).also("[drain]\ndelay = \"200ms\"\ndeadline = \"2s\"\n").start();
    // The configuration says port 0. The hook of a real one has the port there.
    let text = gate.folder.read("keygate.toml");
    gate.folder.write(
        "hook.toml",
        &text.replace(
            "[admin]\naddress = \"127.0.0.1:0\"",
            &format!("[admin]\naddress = \"{}\"", gate.admin),
        ),
    );
    let mut command = keygate(gate.folder.path());
    command.args(["drain", "--config", "hook.toml"]);
    let (code, said) = ends(command);
    assert_eq!(code, 0, "{said}");
    gate.process.eventually("refusing connections", || {
        TcpStream::connect(gate.admin).is_err() || gate.probe("/readyz").status() == 503
    });
    let nobody = ends({
        let mut command = keygate(gate.folder.path());
        gate.process.signal("TERM");
        gate.process.wait(Duration::from_secs(5));
        command.args(["drain", "--config", "hook.toml"]);
        command
    });
    assert_eq!(nobody.0, 75, "{}", nobody.1);
}

#[test]
fn explain_agrees_with_the_proxy() {
    let upstream = Upstream::start();
    let gate = Gate::before(&upstream)
        .key(
            Key::new("key_old", "wa_old0123456789abcdefghijkl")
                .with("expires = \"2020-01-01T00:00:00Z\""),
        )
        .start();
    for (id, secret, method, path) in [
        ("key_reader", READER, "GET", "/v1/a"),
        ("key_reader", READER, "DELETE", "/v1/a"),
        ("key_reader", READER, "GET", "/admin/a"),
        ("key_reader", READER, "GET", "/nowhere"),
        ("key_old", "wa_old0123456789abcdefghijkl", "GET", "/v1/a"),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {secret}\r\n\r\n");
        let status = exchange(gate.address, request).status();
        let mut command = keygate(gate.folder.path());
        command.args([
            "explain",
            "--config",
            "keygate.toml",
            "--key-id",
            id,
            "--method",
            method,
            "--path",
            path,
            "--from",
            "127.0.0.1",
        ]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            output.status.code(),
            Some(0),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let agrees = match status {
            200 => said.contains("x-org-id") && said.contains("acme"),
            other => said.contains(&other.to_string()),
        };
        assert!(agrees, "{method} {path}: {status}, but explain says\n{said}");
    }
}
