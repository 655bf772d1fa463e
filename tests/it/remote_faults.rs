//! `keygatectl --server URL keys …` when something is wrong: options, credentials, lost answers,
//! servers that are not a management service.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::remote_keys::{Both, FLEET, LOOKS, Told};
use crate::support::gate::{Folder, keygatectl};

#[test]
fn what_makes_no_sense_at_a_service_says_so() {
    let both = Both::start();
    for (arguments, code, word) in [
        (&["keys", "import", "x.csv"][..], 64, "works on a registry in files"),
        (&["keys", "check"], 64, "keygatectl admin check"),
        (&["keys", "list", "--usage", "x"], 64, "--usage: is for files"),
        (&["keys", "revoke", "--secret-stdin"], 64, "--secret-stdin: is for files"),
        (&["keys", "disable", "all", "--publish", "x"], 64, "publishes every change itself"),
        (&["keys", "disable", "all", "--no-publish"], 64, "publishes every change itself"),
        (&["keys", "unused", "--for", "30d", "--gone", "x"], 64, "--gone: is for files"),
        (&["keys", "show", "all", "--digests"], 64, "--digests: is for files"),
        (&["keys", "list", "-r", "keys.toml"], 64, "--registry: is for files"),
        (&["keys", "disable", "all", "--actor", "kim"], 64, "--actor: is for files"),
        (&["keys", "show", "wa_live_Ab3dE5f6Gh7iJ8kL9mN0"], 66, "no key `…`"),
        (&["table", "build"], 64, "--server: is for `keys`"),
        (&["admin", "check"], 64, "--server: is for `keys`"),
        (&["keys", "list", "--org", "globex"], 66, "not for this credential to see"),
    ] {
        let told = both.over_service(arguments);
        assert_eq!(told.code, Some(code), "{arguments:?}: {told:?}");
        assert!(told.error.contains(word), "{arguments:?}: {told:?}");
    }
    both.folder.write_secret("wrong", "kg_0000000000000000000000000000000000");
    let server = format!("http://{}", both.address);
    let told = both.at(&["--server", &server, "--credential-file", "wrong"], &["keys", "list"]);
    assert!(told.code == Some(65) && told.error.contains("hint: "), "{told:?}");
    let told = both.at(&["--server", &server], &["keys", "list"]);
    assert!(told.code == Some(64) && told.error.contains("--credential-file"), "{told:?}");
    let told = both.at(&["--server", "http://keys.example.com"], &["keys", "list"]);
    assert!(told.code == Some(64) && told.error.contains("https://"), "{told:?}");
    let told = both.at(&["--credential-file", "key"], &["keys", "list"]);
    assert!(told.code == Some(64) && told.error.contains("give --server"), "{told:?}");
    both.folder.write_secret("empty", "\n");
    let told = both.at(&["--server", &server, "--credential-file", "empty"], &["keys", "list"]);
    assert!(told.code == Some(64) && told.error.contains("--credential-file"), "{told:?}");
    both.folder.write("open", &both.folder.read("key"));
    let told = both.at(&["--server", &server, "--credential-file", "open"], &["keys", "list"]);
    assert!(told.code == Some(65) && told.error.contains("chmod 600"), "{told:?}");
    let told =
        both.at(&["--server", "http://127.0.0.1:1", "--credential-file", "key"], &["keys", "list"]);
    assert!(told.code == Some(75), "{told:?}");
}

/// Passes everything on except the answers to the first POSTs, which it swallows together with
/// their connections.
fn lossy(to: String, losses: u32) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let lost = Arc::new(AtomicU32::new(0));
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(&to).unwrap());
            let (mut back, mut from) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let swallow = Arc::new(AtomicBool::new(false));
            let (swallows, lost) = (Arc::clone(&swallow), Arc::clone(&lost));
            std::thread::spawn(move || {
                let mut bytes = [0; 65536];
                while let Ok(read @ 1..) = from.read(&mut bytes) {
                    if swallows.load(Ordering::SeqCst) || back.write_all(&bytes[..read]).is_err() {
                        break;
                    }
                }
                back.shutdown(Shutdown::Both).ok();
            });
            std::thread::spawn(move || {
                let mut bytes = [0; 65536];
                while let Ok(read @ 1..) = client.read(&mut bytes) {
                    if bytes.starts_with(b"POST ") && lost.fetch_add(1, Ordering::SeqCst) < losses {
                        swallow.store(true, Ordering::SeqCst);
                    }
                    if server.write_all(&bytes[..read]).is_err() {
                        break;
                    }
                }
                server.shutdown(Shutdown::Both).ok();
            });
        }
    });
    address
}

/// A command, with a service behind something that loses the first answer to a change.
fn over_lossy(both: &Both, arguments: &[&str]) -> Told {
    losing(both, 1, "key", arguments)
}

fn losing(both: &Both, losses: u32, credential: &str, arguments: &[&str]) -> Told {
    let server = format!("http://{}", lossy(both.address.clone(), losses));
    both.at(&["--server", &server, "--credential-file", credential], arguments)
}

fn shown(both: &Both, key: &str) -> Value {
    let told = both.over_service(&["keys", "show", key, "--json"]);
    serde_json::from_str(&told.raw).unwrap_or_else(|e| panic!("{e}: {told:?}"))
}

fn listed(both: &Both, name: &str) -> Vec<Value> {
    let told = both.over_service(&["keys", "list", "--name", name, "--json"]);
    serde_json::from_str(&told.raw).unwrap_or_else(|e| panic!("{e}: {told:?}"))
}

fn states(keys: &[Value]) -> Vec<&str> {
    keys.iter().map(|key| key["state"].as_str().unwrap()).collect()
}

/// The answer to a change gets lost: the change is requested again under the same name, and made
/// once. A secret that nobody has seen is revoked again.
#[test]
fn an_answer_that_is_lost_makes_one_key() {
    let both = Both::start();
    let create = |name| ["keys", "create", "--org", "acme", "--name", name, "--permission", "read"];
    let told = over_lossy(&both, &create("once"));
    assert_eq!(told.code, Some(75), "{told:?}");
    assert!(told.error.contains("the secret of KEY got lost"), "{told:?}");
    assert!(told.error.contains("KEY was revoked"), "{told:?}");
    assert_eq!(states(&listed(&both, "once")), ["revoked"]);
    // A change without a secret is made once and reported as if nothing had happened.
    assert_eq!(both.over_service(&create("twice")).code, Some(0));
    let told = over_lossy(&both, &["keys", "disable", "twice"]);
    assert_eq!((told.code, told.out.trim()), (Some(0), "KEY (twice) disabled; serial SERIAL"));
    // A rotated key is as before.
    both.over_service(&["keys", "enable", "twice"]);
    let before = shown(&both, "twice");
    let told = over_lossy(&both, &["keys", "rotate", "twice"]);
    assert!(told.code == Some(75) && told.error.contains("is as before"), "{told:?}");
    let after = listed(&both, "twice");
    assert_eq!(states(&after), ["active", "revoked"]);
    assert_eq!((&after[0]["id"], &after[0]["expires"]), (&before["id"], &Value::Null));
    // Nobody ends a pair that callers use.
    let pair = [&create("pair")[..], &["--pair"]].concat();
    assert_eq!(both.over_service(&pair).code, Some(0));
    let told = over_lossy(&both, &["keys", "rotate", "pair"]);
    assert!(told.code == Some(75) && told.error.contains("--drop-previous"), "{told:?}");
    let after = shown(&both, "pair");
    assert_eq!(after["state"], "active");
    assert!(after["former_secret_until"].is_string(), "{after}");
}

/// No attempt is answered: nothing is promised about another one, and what was created is named.
#[test]
fn a_change_that_nobody_has_answered_is_looked_for() {
    let both = Both::start();
    let create = ["keys", "create", "--name", "once", "--permission", "read"];
    let told = losing(&both, 3, "key", &create);
    assert_eq!(told.code, Some(75), "{told:?}");
    for says in ["whether it was done is not known", "KEY of this name has come", "revoke KEY`"] {
        assert!(told.error.contains(says), "{told:?}");
    }
    let made = listed(&both, "once");
    assert_eq!(states(&made), ["active"]);
    let told = losing(&both, 3, "key", &["keys", "rotate", "once", "--overlap", "1h"]);
    assert_eq!(told.code, Some(75), "{told:?}");
    for says in ["KEY replaces KEY now", "revoke KEY` ends it", "edit KEY --expires never`"] {
        assert!(told.error.contains(says), "{told:?}");
    }
    assert_eq!(listed(&both, "once").len(), 2);
    // What can safely be done twice may be repeated.
    let id = made[0]["id"].as_str().unwrap();
    let told = losing(&both, 3, "key", &["keys", "revoke", id]);
    assert_eq!(told.code, Some(75), "{told:?}");
    for says in ["whether it was done is not known", "the same command may be given again"] {
        assert!(told.error.contains(says), "{told:?}");
    }
    assert_eq!(both.over_service(&["keys", "revoke", id]).code, Some(0));
    // A pair has a former secret, so its key is never revoked.
    let pair = ["keys", "create", "--name", "pair", "--permission", "read", "--pair"];
    assert_eq!(both.over_service(&pair).code, Some(0));
    let told = losing(&both, 3, "key", &["keys", "rotate", "pair"]);
    assert!(told.code == Some(75) && told.error.contains("--drop-previous"), "{told:?}");
    assert_eq!(shown(&both, "pair")["state"], "active");
}

/// A new key that may not be revoked is disabled, and the rotated key is as before.
#[test]
fn a_credential_that_may_not_revoke_takes_back_what_it_can() {
    let both = Both::start();
    let create = ["keys", "create", "--name", "kept", "--permission", "read", "--expires", "90d"];
    assert_eq!(both.over_service(&create).code, Some(0));
    let before = shown(&both, "kept");
    let told = losing(&both, 1, "writer", &["keys", "rotate", "kept", "--overlap", "1h"]);
    assert_eq!(told.code, Some(75), "{told:?}");
    for says in ["of KEY, which was disabled", "keys revoke KEY` ends it", "KEY is as before"] {
        assert!(told.error.contains(says), "{told:?}");
    }
    let after = listed(&both, "kept");
    assert_eq!(states(&after), ["active", "disabled"]);
    assert_eq!((&after[0]["id"], &after[0]["expires"]), (&before["id"], &before["expires"]));
}

/// The commands in hints work wherever the command worked.
#[test]
fn hints_name_the_service() {
    let both = Both::start();
    let server = both.server();
    let told = both.over_service(&["keys", "show", "nobody"]);
    let hint = format!("hint: `keygatectl --server {server} --credential-file key keys list`");
    assert!(told.error.contains(&hint), "{told:?}");
    let command = hint.trim_start_matches("hint: `keygatectl ").trim_end_matches('`');
    let words: Vec<_> = command.split(' ').collect();
    assert_eq!(both.at(&[], &words).code, Some(0), "{words:?}");
}

#[test]
fn a_secret_that_cannot_be_written_is_taken_back() {
    let both = Both::start();
    let server = both.server();
    let into_full = |arguments: &[&str]| {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = keygatectl(both.folder.path())
            .args(["--server", &server, "--credential-file", "key"])
            .args(arguments)
            .stdout(Stdio::from(full))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let create = ["keys", "create", "--org", "acme", "--name", "lost", "--permission", "read"];
    let (code, error) = into_full(&create);
    assert!(code == Some(73) && error.contains("was revoked"), "{error}");
    assert_eq!(states(&listed(&both, "lost")), ["revoked"]);
    let create = [&create[..4], &["--name", "kept", "--expires", "90d"]].concat();
    assert_eq!(both.over_service(&create).code, Some(0));
    let before = shown(&both, "kept");
    let (code, error) = into_full(&["keys", "rotate", "kept", "--overlap", "0s"]);
    assert!(code == Some(73) && error.contains("is as before"), "{error}");
    let after = shown(&both, "kept");
    assert_eq!((&after["id"], &after["expires"]), (&before["id"], &before["expires"]));
    assert_eq!(after["state"], "active");
}

#[test]
fn a_change_that_is_not_published_says_why() {
    let both = Both::start();
    std::fs::remove_dir_all(both.folder.file("served")).unwrap();
    both.folder.write("served", "no folder any more");
    let server = both.server();
    let place = ["--server", &server, "--credential-file", "key"];
    let create = ["keys", "create", "--org", "acme", "--name", "late", "--permission", "read"];
    let mut told = both.at(&place, &create);
    assert!(told.out.contains("secret SECRET"), "{told:?}");
    for turn in ["disable", "enable"].iter().cycle().take(10) {
        told = both.at(&place, &["keys", turn, "late"]);
        if told.code != Some(0) {
            break;
        }
    }
    assert!(
        told.code == Some(75) && told.error.contains("published everywhere: target"),
        "{told:?}"
    );
    assert!(told.out.contains("(late)"), "{told:?}");
    // A second attempt does not report that all is well.
    both.at(&place, &["keys", "revoke", "late"]);
    let told = both.at(&place, &["keys", "revoke", "late"]);
    assert!(told.code == Some(75) && told.out.is_empty(), "{told:?}");
}

/// Answers everything with this, and counts the requests.
fn stub(answer: &'static str) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicU32::new(0));
    let counts = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            counts.fetch_add(1, Ordering::SeqCst);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && client.read_exact(&mut byte).is_ok() {
                head.extend(byte);
            }
            client.write_all(answer.as_bytes()).ok();
            client.shutdown(Shutdown::Both).ok();
        }
    });
    (address, asked)
}

#[test]
fn servers_that_are_none_of_ours() {
    let folder = Folder::empty();
    folder.write_secret("key", "kg_0123456789abcdef0123456789abcdef");
    let ask = |address: &str| {
        let server = format!("http://{address}");
        let output = keygatectl(folder.path())
            .args(["--server", &server, "--credential-file", "key", "keys", "list"])
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (target, reached) = stub("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
    let moved = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{target}/v1/whoami\r\ncontent-length: 0\r\n\r\n"
    );
    let (address, _) = stub(Box::leak(moved.into_boxed_str()));
    let (code, error) = ask(&address);
    assert!(code == Some(65) && error.contains("leads elsewhere"), "{error}");
    assert_eq!(reached.load(Ordering::SeqCst), 0, "the credential is for one server");
    for (answer, code, word, tries) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", 65, "not one of a management", 1),
        ("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", 65, "without /v1", 1),
        ("HTTP/1.1 503 No\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n", 75, "try again", 3),
        ("", 75, "the same command may be given again", 3),
        (
            "HTTP/1.1 403 No\r\ncontent-length: 75\r\n\r\n\
             {\"code\":\"forbidden\",\"detail\":\"no\\u001b[2J\\nerror: none\\u202e\", \"errors\":[]}",
            65,
            "no\\u001b[2J\\u000aerror: none\\u202e",
            1,
        ),
    ] {
        let (address, asked) = stub(answer);
        let (ended, error) = ask(&address);
        assert!(ended == Some(code) && error.contains(word), "{answer:?}: {ended:?} {error}");
        assert!(!error.contains("0123456789abcdef"), "{error}");
        assert_eq!(asked.load(Ordering::SeqCst), tries, "{answer:?}");
    }
}

#[test]
fn a_service_with_tls_of_its_own() {
    let folder = Folder::empty();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    folder.write("tls.pem", &made.cert.pem());
    folder.write_secret("tls.key", &made.signing_key.serialize_pem());
    let tls = "[listen.tls]\ncertificate = \"tls.pem\"\nkey = \"tls.key\"\n";
    let both = Both::listening(folder, tls);
    let (_, port) = both.address.rsplit_once(':').unwrap();
    let server = format!("https://localhost:{port}");
    let told = both.at(&["--server", &server, "--credential-file", "key"], &["keys", "list"]);
    assert!(told.code == Some(75) && told.error.contains("--server-ca"), "{told:?}");
    let place = ["--server", &server, "--server-ca", "tls.pem"];
    let output = keygatectl(both.folder.path())
        .args(place)
        .args(["keys", "list"])
        .env("KEYGATE_CREDENTIAL", both.folder.read("key"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("keys:revoke"), "{output:?}");
}

/// Posts a sidecar's counts.
fn report(both: &Both, lines: &[Value]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60;
    let head = json!({
        "usage": 1, "instance": "a", "boot": "1", "audience": "shop", "started": now - 60,
        "now": now, "serial": 1, "dropped": 0,
    });
    let mut body = format!("{head}\n");
    for line in lines {
        let mut line = line.clone();
        line["last"] = (now - 1).into();
        body.push_str(&format!("{line}\n"));
    }
    let mut stream = TcpStream::connect(&both.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST /v1/usage HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {FLEET}\r\ncontent-type: \
         application/x-ndjson\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn what_sidecars_have_told_a_service() {
    let both = Both::start();
    for name in ["used", "tried", "idle"] {
        let create = ["keys", "create", "--org", "acme", "--name", name, "--permission", "read"];
        assert_eq!(both.over_service(&create).code, Some(0));
    }
    // Nobody has reported, so any answer would be a guess.
    for period in ["1s", "90d"] {
        let told = both.over_service(&["keys", "unused", "--for", period]);
        assert!(told.code == Some(75) && told.error.contains("has reported yet"), "{told:?}");
        assert_eq!(told.out, "");
    }
    let safe = |key, period| both.over_service(&["keys", "safe-to-revoke", key, "--for", period]);
    let told = safe("idle", "1s");
    assert!(told.code == Some(75) && told.error.contains("has reported yet"), "{told:?}");
    let unused = |period| both.over_service(&["keys", "unused", "--for", period, "--json"]);
    let id = |name| shown(&both, name)["id"].clone();
    report(
        &both,
        &[
            json!({"key": id("used"), "admitted": 7, "refused": {}, "nets": ["203.0.113.0/24"]}),
            json!({"key": id("tried"), "admitted": 0, "refused": {"rate_limited": 2}, "nets": []}),
        ],
    );
    let told = safe("used", "30d");
    assert!(told.code == Some(1) && told.out.contains("is in use: last at"), "{told:?}");
    assert!(told.out.contains("from 203.0.113.0/24"), "{told:?}");
    let told = safe("tried", "30d");
    assert!(told.code == Some(1) && told.out.contains("2 requests with it refused"), "{told:?}");
    let told = safe("idle", "30d");
    assert!(told.code == Some(75) && told.error.contains("does not cover"), "{told:?}");
    // As soon as the period is covered there is an answer.
    let mut told = (safe("idle", "1s"), unused("1s"));
    for _ in 0..LOOKS {
        if told.0.code == Some(0) && told.1.code == Some(0) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        told = (safe("idle", "1s"), unused("1s"));
    }
    assert!(told.0.code == Some(0) && told.0.out.contains("was not used since"), "{told:?}");
    let found: Vec<Value> = serde_json::from_str(&told.1.raw).unwrap();
    let names: Vec<_> = found.iter().map(|key| key["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"idle") && !names.contains(&"tried"), "{names:?}");
}
