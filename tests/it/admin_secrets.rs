//! A new secret is shown once, and is nowhere afterwards: not in the database, its write-ahead log,
//! a backup or the service's output, nor in a core file, of which there is none.

use std::collections::HashSet;
use std::path::Path;

use crate::support::client::exchange;
use crate::support::gate::{Folder, keygatectl};
use crate::support::http::Message;
use crate::support::process::Process;

const SETTINGS: &str = "state = \"state\"\n\n[listen]\naddress = \"127.0.0.1:0\"\n\n\
    [[audiences]]\nname = \"shop\"\nsigner = \"signer.pem\"\n\n\
    [[audiences.targets]]\ndirectory = \"out\"\n";

/// Bytes at the end of a secret that are searched for.
const TAIL: usize = 16;

/// Files below `folder` that contain one of the tails.
fn files_with(folder: &Path, tails: &HashSet<Vec<u8>>, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_with(&path, tails, found);
        } else if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            if bytes.windows(TAIL).any(|window| tails.contains(window)) {
                found.push(path.display().to_string());
            }
        }
    }
}

#[test]
fn a_thousand_secrets_are_nowhere_after_they_were_shown() {
    let folder = Folder::empty();
    folder.write("admin.toml", SETTINGS);
    std::fs::create_dir(folder.path().join("out")).unwrap();
    folder.ctl(&["signer", "new", "--out", "signer.pem"]);
    folder.ctl(&["admin", "migrate"]);
    let process = Process::start(keygatectl(folder.path()).args(["admin", "serve"]));
    let line = process.wait_for_line("listening on http://");
    let address: std::net::SocketAddr = line.rsplit('/').next().unwrap().trim().parse().unwrap();
    let post = |path: &str, fields: &str, body: &str| {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}");
        exchange(address, format!("{head}\r\nconnection: close\r\n{fields}\r\n{body}"))
    };
    let link = folder.ctl(&["admin", "bootstrap", "--org", "acme"]);
    let token = link.lines().next().unwrap().split('#').nth(1).unwrap().to_owned();
    let form = "sec-fetch-site: same-origin\r\ncontent-type: application/x-www-form-urlencoded\r\n";
    let told = post("/sign-in", form, &format!("token={token}"));
    let cookie = told.one("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let path = "/v1/orgs/acme/keys";
    let fields = |n: usize| {
        format!(
            "cookie: {cookie}\r\nsec-fetch-site: same-origin\r\ncontent-type: application/json\r\n\
             idempotency-key: k-{n}\r\n"
        )
    };
    let secret_of = |told: &Message| {
        let json: serde_json::Value = serde_json::from_slice(&told.body).unwrap();
        json["secret"].as_str().map(str::to_owned)
    };
    let secrets: Vec<String> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..8)
            .map(|maker| {
                let (fields, post, secret_of) = (&fields, &post, &secret_of);
                scope.spawn(move || {
                    let make = |n| secret_of(&post(path, &fields(n), r#"{"name": "n"}"#)).unwrap();
                    (0..125).map(|n| make(maker * 125 + n)).collect::<Vec<_>>()
                })
            })
            .collect();
        makers.into_iter().flat_map(|maker| maker.join().unwrap()).collect()
    });
    assert_eq!(secrets.iter().collect::<HashSet<_>>().len(), 1000);
    // Sent again, the answer has none of them.
    let again = post(path, &fields(0), r#"{"name": "n"}"#);
    assert_eq!((again.status(), secret_of(&again)), (201, None));
    // A fault in a request that contains one does not repeat it.
    let wrong = post(path, &fields(1), &format!(r#"{{"expires": "{}"}}"#, secrets[0]));
    assert!(wrong.status() == 422 && !wrong.body_text().contains(&secrets[0]));
    folder.ctl(&["admin", "backup", "copy.db"]);
    let tail = |text: &str| text.as_bytes()[text.len() - TAIL..].to_vec();
    let sessions = [tail(&token), tail(&cookie)];
    let tails: HashSet<Vec<u8>> = secrets.iter().map(|s| tail(s)).chain(sessions).collect();
    let mut found = Vec::new();
    files_with(folder.path(), &tails, &mut found);
    assert_eq!(found, Vec::<String>::new());
    let said = process.output();
    assert!(!said.as_bytes().windows(TAIL).any(|window| tails.contains(window)), "{said}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let core: Vec<&str> = core.split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"], "a core file would have what buffers still hold");
}
