//! `keygatectl status` against admin listeners that answer as they like.

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

#[test]
fn in_force_everywhere_is_0_and_anything_else_75() {
    let room = Room::new();
    let ahead = answering("200 OK", AT_42).to_string();
    let behind = format!("http://{}/", answering("200 OK", AT_40));
    let down = refusing().to_string();
    let other = answering("404 Not Found", "no").to_string();
    let page = answering("200 OK", "<html>").to_string();
    room.ok(&["status", "--serial", "42", &ahead]);
    room.ok(&["status", &ahead, &behind]);
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
