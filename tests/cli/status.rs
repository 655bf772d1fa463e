//! `keygatectl status` against admin listeners that answer arbitrarily.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use crate::support::Room;

/// Answers every request with this, until the test ends.
fn answering(status: &'static str, body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let length = body.len();
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        }
    });
    address
}

fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

const AT_42: &str =
    r#"{"serial":42,"table":{"serial":40,"x":1},"patch":{"serial":42},"keys":{"active":7}}"#;
const AT_40: &str = r#"{"serial":40,"table":{"serial":40},"patch":null,"keys":null,
    "last_reload":{"ok":false,"error":"none of its signers is trusted here"}}"#;

const WITHOUT_TABLE: &str = r#"{"serial":null,"table":null,"patch":null,"keys":null,
    "last_reload":{"ok":false,"what":"table","error":"keys.kgt does not exist"}}"#;

#[test]
fn in_force_everywhere_is_0_and_anything_else_75() {
    let room = Room::new();
    let ahead = answering("200 OK", AT_42).to_string();
    let behind = format!("http://{}/", answering("200 OK", AT_40));
    let down = refusing().to_string();
    let other = answering("404 Not Found", "no").to_string();
    let page = answering("200 OK", "<html>").to_string();
    room.ok(&["status", "--serial", "42", &ahead]);
    room.ok(&["status", &ahead]);
    let told = room.fails(75, &["status", &ahead, &behind]);
    assert!(told.contains("the last table or patch was not taken on 1 of 2 sidecars"), "{told}");
    let bare = answering("200 OK", WITHOUT_TABLE).to_string();
    let told = room.fails(75, &["status", &ahead, &bare]);
    assert!(told.contains("no table is in force on 1 of 2 sidecars"), "{told}");
    let all = ["status", "--serial", "42", &ahead, &behind, &down, &other, &page];
    let told = room.run(&all);
    assert_eq!(told.code, 75);
    assert!(
        told.stderr.contains("serial 42 is not in force on 4 of 5 sidecars"),
        "{}",
        told.stderr
    );
    let lines: Vec<_> = told.stdout.lines().collect();
    assert!(lines[1].contains("yes") && lines[1].contains("40") && lines[1].ends_with('7'));
    assert!(lines[2].contains("no") && lines[2].contains("none of its signers"), "{}", lines[2]);
    assert!(lines[3].contains("no answer"), "{}", lines[3]);
    assert!(lines[4].contains("answered 404") && lines[5].contains("something else"));
    let json = room.run(&[&all[..], &["--json"]].concat());
    let answers: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let in_force: Vec<_> =
        answers.as_array().unwrap().iter().map(|a| a["in_force"].as_bool().unwrap()).collect();
    assert_eq!(in_force, [true, false, false, false, false]);
}

#[test]
fn waiting_ends() {
    let room = Room::new();
    let behind = answering("200 OK", AT_40).to_string();
    room.fails(75, &["status", "--serial", "42", "--wait", "600ms", &behind]);
    let told = room.fails(75, &["status", "--serial", "1", "https://127.0.0.1:1"]);
    assert!(told.contains("not in force on 1 of 1"), "{told}");
}

const WITH_OLD_CONFIGURATION: &str = r#"{"serial":42,"table":{"serial":42},
    "last_reload":{"ok":true,"what":"table"},
    "config":{"loaded_at":"2026-11-28T15:00:00.000Z","error":"keygate.toml:3: no such key\nhint: x"}}"#;
const WAITS_FOR_A_RESTART: &str = r#"{"serial":42,"table":{"serial":42},
    "last_reload":{"ok":false,"what":"patch","error":"the patch is for another table"},
    "config":{"loaded_at":"2026-11-28T15:00:00.000Z","needs_restart":["listen","upstream.url"]}}"#;

/// The serial can be in force everywhere while a sidecar does not trust the next signer.
#[test]
fn configuration_errors_are_shown_and_end_with_75() {
    let room = Room::new();
    let good = answering("200 OK", AT_42).to_string();
    let old = answering("200 OK", WITH_OLD_CONFIGURATION).to_string();
    let waits = answering("200 OK", WAITS_FOR_A_RESTART).to_string();
    for asked in [&["status", "--serial", "42"][..], &["status"]] {
        let told = room.run(&[asked, &[&good, &old, &waits]].concat());
        assert_eq!(told.code, 75);
        assert!(told.stderr.contains("errors on 1 of 3 sidecars"), "{}", told.stderr);
        assert!(!told.stderr.contains("not in force"), "{}", told.stderr);
        let lines: Vec<_> = told.stdout.lines().collect();
        assert!(lines[2].ends_with("configuration: keygate.toml:3: no such key"), "{}", lines[2]);
        assert!(lines[3].contains("the patch is for another table"), "{}", lines[3]);
        assert!(lines[3].ends_with("waits for a restart: listen, upstream.url"), "{}", lines[3]);
    }
    room.ok(&["status", "--serial", "42", &good, &waits]);
    let json = room.run(&["status", "--json", &old]);
    let answers: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(answers[0]["config_error"], "keygate.toml:3: no such key\nhint: x");
    assert_eq!(answers[0]["config_loaded_at"], "2026-11-28T15:00:00.000Z");
}

const EXPIRED: &str = r#"{"serial":42,"ready":true,"table":{"serial":42,"expired":true}}"#;
const REFUSES: &str = r#"{"serial":42,"ready":false,"table":{"serial":42,"expired":true},
    "pending":[{"part":"table","why":"the table in force has expired and x"}]}"#;
const ILL_SERVICE: &str = r#"{"serial":42,"ready":false,"table":{"serial":42},
    "pending":[{"part":"upstream","why":"health check: 500"}]}"#;
const TWO_LINES: &str = r#"{"serial":42,"table":{"serial":42},
    "config":{"error":"the configuration has an error\nkeygate.toml:1:1: x: unknown key\nhint: y"}}"#;

/// The serial is in force, and nobody sends the sidecar a request.
#[test]
fn an_expired_table_is_shown_and_a_refusing_one_ends_with_75() {
    let room = Room::new();
    let expired = answering("200 OK", EXPIRED).to_string();
    let ill = answering("200 OK", ILL_SERVICE).to_string();
    let refuses = answering("200 OK", REFUSES).to_string();
    for asked in [&["status", "--serial", "42"][..], &["status"]] {
        room.ok(&[asked, &[&ill]].concat());
        let told = room.run(&[asked, &[&expired]].concat());
        assert_eq!(told.code, 0, "{}", told.stderr);
        assert!(told.stdout.contains("the table in force has expired"), "{}", told.stdout);
        let told = room.run(&[asked, &[&expired, &refuses]].concat());
        assert_eq!(told.code, 75);
        assert!(told.stderr.contains("keeps 1 of 2 sidecars from being ready"), "{}", told.stderr);
        assert!(told.stdout.contains("not ready: the table in force"), "{}", told.stdout);
    }
    let told = room.run(&["status", &answering("200 OK", TWO_LINES).to_string()]);
    assert!(
        told.stdout.trim_end().ends_with("configuration: keygate.toml:1:1: x: unknown key"),
        "{}",
        told.stdout
    );
}

#[test]
fn a_token_is_asked_for_and_never_shown() {
    let room = Room::new();
    let locked = answering("401 Unauthorized", "").to_string();
    let closed = answering("403 Forbidden", "").to_string();
    let elsewhere = answering("421 Misdirected Request", "").to_string();
    let told = room.run(&["status", &locked, &closed, &elsewhere]);
    assert_eq!(told.code, 75);
    for hint in ["--token-file", "`admin.token_file`", "`admin.hosts`"] {
        assert!(told.stdout.contains(hint), "{}", told.stdout);
    }
    room.write("token", "secret-0123456789\n");
    let told = room.run(&["status", "--token-file", "token", &locked]);
    assert!(told.stdout.contains("it has another token"), "{}", told.stdout);
    assert!(!told.stdout.contains("secret-") && !told.stderr.contains("secret-"));
    room.write("token", "\n");
    room.fails(65, &["status", "--token-file", "token", &locked]);
    room.fails(66, &["status", "--token-file", "no-such-file", &locked]);
}
