//! `keygatectl --server URL keys …` with a service whose answers are odd: what they do not state
//! with certainty is not believed, and no key stays whose secret nobody has.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::gate::{Folder, keygatectl};

const KEY: &str = "key_aaaaaaaaaaaa";
const OTHER: &str = "key_bbbbbbbbbbbb";
const SECRET: &str = "kg_5ecre7Ab3dE5f6Gh7iJ8kL9mN0";

/// Answers like a service, except for what `odd` returns for a request (`GET /v1/…`).
struct OddService {
    folder: Folder,
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// The output of a command.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    error: String,
}

// === impl OddService ===

impl OddService {
    fn start(odd: impl Fn(&str) -> Option<(u16, String)> + Send + 'static) -> Self {
        let folder = Folder::empty();
        folder.write_secret("key", "kg_0123456789abcdef0123456789abcdef");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&asked);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                let Some(request) = request_of(&client) else { continue };
                let (status, body) = odd(&request).unwrap_or_else(|| (200, usual(&request)));
                notes.lock().unwrap().push(request);
                let length = body.len();
                // A client that wants no more of it leaves.
                write!(
                    client,
                    "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nretry-after: 0\r\n\
                     connection: close\r\n\r\n{body}"
                )
                .ok();
                client.shutdown(Shutdown::Write).ok();
            }
        });
        Self { folder, address, asked }
    }

    fn run(&self, arguments: &[&str]) -> Said {
        let server = format!("http://{}", self.address);
        let output = keygatectl(self.folder.path())
            .args(["--server", &server, "--credential-file", "key"])
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code(), out: text(&output.stdout), error: text(&output.stderr) }
    }

    /// How often a request that ends like this was made.
    fn asked(&self, end: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|request| request.ends_with(end)).count()
    }
}

/// Method and target of a request, whose body is read to its end.
fn request_of(client: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(client);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().ok()?;
            }
            Some(_) => {}
            None => break,
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    Some(first.rsplit_once(' ')?.0.to_owned())
}

fn usual(request: &str) -> String {
    let (method, path) = request.split_once(' ').unwrap();
    let body = match (method, path) {
        (_, "/v1/whoami") => json!({"audience": "shop", "org": "acme"}),
        (_, path) if path.ends_with("/publications") => {
            json!({"published": 9, "unpublished": null})
        }
        ("GET", path) if path.contains("/keys?") => json!({"keys": [key(KEY)], "next": null}),
        ("GET", _) => key(KEY),
        _ => change(key(KEY), Value::Null),
    };
    body.to_string()
}

fn key(id: &str) -> Value {
    json!({
        "id": id, "org": "acme", "name": "CRM", "state": "active", "permissions": ["read"],
        "networks": [], "environment": null, "limits": {}, "plan": null, "limits_in_force": {},
        "created": "2020-01-01T00:00:00Z", "not_before": null, "expires": "2099-01-01T00:00:00Z",
        "sunset": null, "owner": null, "prefix": "kg", "start": "abcdefgh", "public_id": null,
        "replaces": null, "former_secret_expires": null, "note": "", "last_used": null,
        "version": 1, "serial": 5,
    })
}

fn with(mut key: Value, field: &str, value: Value) -> Value {
    key[field] = value;
    key
}

fn change(key: Value, secret: Value) -> Value {
    json!({"key": key, "secret": secret, "replaced": null, "serial": 6, "in_force": null})
}

const CREATE: [&str; 6] = ["keys", "create", "--name", "CRM", "--permission", "read"];

/// The secret is in an answer that cannot be read: the key is ended, and named.
#[test]
fn a_new_key_whose_answer_cannot_be_read_is_taken_back() {
    for (made, code, says) in [
        (change(with(key(KEY), "state", json!("quarantined")), json!(SECRET)), 65, "has a status"),
        (change(with(key(KEY), "version", json!("1")), json!(SECRET)), 65, "is not one of a"),
        (change(key(KEY), json!(7)), 65, "is not one of a"),
        (change(key(KEY), json!("")), 75, "the secret of key_aaaaaaaaaaaa got lost"),
        (change(key(KEY), Value::Null), 75, "the secret of key_aaaaaaaaaaaa got lost"),
    ] {
        let made = made.to_string();
        let odd = move |asked: &str| asked.ends_with("/keys").then(|| (201, made.clone()));
        let service = OddService::start(odd);
        let said = service.run(&CREATE);
        assert_eq!(said.code, Some(code), "{said:?}");
        assert!(said.error.contains(says), "{said:?}");
        assert!(said.error.contains(&format!("{KEY} was revoked")), "{said:?}");
        assert_eq!(said.error.matches("hint: ").count(), 1, "{said:?}");
        assert!(!said.error.contains(SECRET) && said.out.is_empty(), "{said:?}");
        assert_eq!(service.asked(&format!("POST /v1/orgs/acme/keys/{KEY}/revoke")), 1);
    }
}

/// An answer about a key that was not requested ends nothing.
#[test]
fn a_key_that_was_not_asked_for_is_not_ended() {
    for made in [
        with(key(KEY), "name", json!("ERP")),
        with(key(KEY), "org", json!("globex")),
        with(with(key(KEY), "org", json!("globex")), "state", json!("quarantined")),
    ] {
        let made = change(made, json!(SECRET)).to_string();
        let odd = move |asked: &str| asked.ends_with("/keys").then(|| (201, made.clone()));
        let service = OddService::start(odd);
        let said = service.run(&CREATE);
        assert_eq!(said.code, Some(65), "{said:?}");
        assert!(said.error.contains("keys list --org acme --name CRM`"), "{said:?}");
        assert!(!said.error.contains(SECRET) && said.out.is_empty(), "{said:?}");
        assert_eq!(service.asked("/revoke"), 0);
    }
}

#[test]
fn a_change_of_which_nothing_is_known_says_so() {
    let failed = |asked: &str| {
        let is_change = !asked.starts_with("GET ");
        is_change.then(|| (500, json!({"code": "internal", "detail": "no"}).to_string()))
    };
    let service = OddService::start(failed);
    for (arguments, says) in [
        (&CREATE[..], "there is no such key so far; look at `keygatectl --server "),
        (&["keys", "rotate", "CRM"], "key_aaaaaaaaaaaa is as before so far; look at `keygatectl "),
        (&["keys", "disable", "CRM"], "the same command may be given again"),
        (&["keys", "edit", "CRM", "--note", "x"], "the same command may be given again"),
    ] {
        let said = service.run(arguments);
        assert_eq!(said.code, Some(75), "{said:?}");
        assert!(said.error.contains("hint: whether it was done is not known"), "{said:?}");
        assert!(said.error.contains(says), "{said:?}");
    }
    // So does an answer longer than any that a service sends.
    let long = "x".repeat(17 << 20);
    let odd =
        move |asked: &str| asked.ends_with("T /v1/orgs/acme/keys").then(|| (201, long.clone()));
    let said = OddService::start(odd).run(&CREATE);
    assert_eq!(said.code, Some(75), "{said:?}");
    assert!(said.error.contains("whether it was done is not known"), "{said:?}");
    // A refused request was not carried out.
    let odd = |asked: &str| {
        let told = json!({"code": "busy", "detail": "too much at once"}).to_string();
        (!asked.starts_with("GET ")).then_some((503, told))
    };
    let said = OddService::start(odd).run(&CREATE);
    assert!(said.code == Some(75) && !said.error.contains("is not known"), "{said:?}");
}

/// The end of a rotated key is restored although the new one cannot be ended. If that fails as
/// well, the command that does it is named.
#[test]
fn what_cannot_be_taken_back_is_named() {
    let new = with(with(key(OTHER), "replaces", json!(KEY)), "state", json!("quarantined"));
    let made = with(change(new, json!(SECRET)), "replaced", key(KEY)).to_string();
    for is_given_back in [true, false] {
        let made = made.clone();
        let service = OddService::start(move |asked| {
            let no = || json!({"code": "forbidden", "detail": "not with this key"}).to_string();
            match asked {
                _ if asked.ends_with("/rotate") => Some((201, made.clone())),
                _ if asked.ends_with("/revoke") || asked.ends_with("/disable") => Some((403, no())),
                _ if asked.starts_with("PATCH ") && !is_given_back => Some((403, no())),
                _ => None,
            }
        });
        let said = service.run(&["keys", "rotate", "CRM"]);
        assert_eq!(said.code, Some(65), "{said:?}");
        let ends = format!("nobody has the secret of {OTHER}: `keygatectl --server ");
        assert!(said.error.contains(&ends), "{said:?}");
        assert!(said.error.contains(&format!("keys revoke {OTHER}` ends it")), "{said:?}");
        let edit = format!("keys edit {KEY} --expires 2099-01-01T00:00:00Z`");
        assert_eq!(said.error.contains(&edit), !is_given_back, "{said:?}");
        let is_as_before = format!("{KEY} is as before");
        assert_eq!(said.error.contains(&is_as_before), is_given_back, "{said:?}");
        assert_eq!(service.asked(&format!("PATCH /v1/orgs/acme/keys/{KEY}")), 1);
        assert!(!said.error.contains(SECRET), "{said:?}");
    }
}

/// Somebody has changed the rotated key before the rotation could be undone: their choice stays.
#[test]
fn an_end_that_somebody_else_has_chosen_stays() {
    let changed = with(key(KEY), "version", json!(3)).to_string();
    // Noticed in time, by the service alone, and from an answer that does not say what the rotation
    // has left.
    for (version, shown, patches) in [(json!(2), 3, 0), (json!(1), 1, 1), (json!("1"), 1, 0)] {
        let new = with(key(OTHER), "replaces", json!(KEY));
        let rotated = with(key(KEY), "version", version.clone());
        let made = with(change(new, Value::Null), "replaced", rotated).to_string();
        let (changed, is_asked) = (changed.clone(), Arc::new(Mutex::new(false)));
        let service = OddService::start(move |asked| match asked {
            _ if asked.ends_with("/rotate") => {
                *is_asked.lock().unwrap() = true;
                Some((201, made.clone()))
            }
            _ if asked.ends_with("/revoke") => {
                let revoked = with(key(OTHER), "state", json!("revoked"));
                Some((200, change(revoked, Value::Null).to_string()))
            }
            _ if asked.starts_with("PATCH ") => {
                Some((412, json!({"code": "changed", "detail": "was changed"}).to_string()))
            }
            _ if asked.ends_with(KEY) && *is_asked.lock().unwrap() && shown == 3 => {
                Some((200, changed.clone()))
            }
            _ => None,
        });
        let said = service.run(&["keys", "rotate", "CRM"]);
        assert!(said.code.is_some_and(|code| code != 0), "{said:?}");
        assert!(!said.error.contains("is as before"), "{version}: {said:?}");
        assert!(said.error.contains(&format!("{OTHER} was revoked")), "{version}: {said:?}");
        assert!(said.error.contains(&format!("keys show {KEY}`")), "{version}: {said:?}");
        let patched = service.asked(&format!("PATCH /v1/orgs/acme/keys/{KEY}"));
        assert_eq!(patched, patches, "{version}");
    }
}

#[test]
fn an_answer_about_another_key_is_refused() {
    let (by_id, by_org) = (key(OTHER), with(key(KEY), "org", json!("globex")));
    for other in [by_id, by_org] {
        let shown = other.to_string();
        let odd = move |asked: &str| asked.ends_with(KEY).then(|| (200, shown.clone()));
        let said = OddService::start(odd).run(&["keys", "show", KEY]);
        assert!(said.code == Some(65) && said.error.contains("was asked about"), "{said:?}");
        assert_eq!(said.out, "");
        for arguments in [&["keys", "disable", KEY][..], &["keys", "edit", KEY, "--note", "x"]] {
            let told = change(other.clone(), Value::Null).to_string();
            let odd = move |asked: &str| (!asked.starts_with("GET ")).then(|| (200, told.clone()));
            let said = OddService::start(odd).run(arguments);
            assert!(said.code == Some(65) && said.error.contains("was asked about"), "{said:?}");
            assert_eq!(said.out, "", "{arguments:?}");
        }
    }
    // A key of another organization, in a list.
    let list = json!({"keys": [with(key(KEY), "org", json!("globex"))], "next": null}).to_string();
    let odd = move |asked: &str| asked.contains("/keys?").then(|| (200, list.clone()));
    let said = OddService::start(odd).run(&["keys", "list"]);
    assert!(said.code == Some(65) && said.out.is_empty(), "{said:?}");
}

#[test]
fn a_list_that_repeats_itself_has_an_end() {
    for keys in [json!([]), json!([key(KEY)])] {
        let page = json!({"keys": keys, "next": "again"}).to_string();
        let odd = move |asked: &str| asked.contains("/keys?").then(|| (200, page.clone()));
        let service = OddService::start(odd);
        let said = service.run(&["keys", "list"]);
        assert!(said.code == Some(65) && said.error.contains("has no end"), "{said:?}");
        assert!(service.asked("cursor=again") <= 2);
    }
}

/// No sum overflows, and no unreadable time is skipped: a key in use is never called unused.
#[test]
fn uses_that_are_told_badly_are_uses() {
    let usage = |last: Value, days: Value| {
        let told = json!({
            "last_used": last, "as_of": "2100-01-01T00:00:00Z", "since": "2020-01-01T00:00:00Z",
            "days": days, "networks": [],
        });
        let told = told.to_string();
        OddService::start(move |asked| asked.ends_with("/usage").then(|| (200, told.clone())))
    };
    let day = |admitted: u64, refused: u64| json!({"begin": "2098-12-31T00:00:00Z", "admitted": admitted, "refused": refused});
    for (last, days, code) in [
        (Value::Null, json!([day(u64::MAX, u64::MAX), day(1, 1)]), 1),
        (Value::Null, json!([day(7, 0)]), 1),
        (json!({"at": "yesterday"}), json!([]), 65),
        (Value::Null, json!([{"begin": "today", "admitted": 1, "refused": 0}]), 65),
        (Value::Null, json!([]), 0),
    ] {
        let service = usage(last.clone(), days.clone());
        let said = service.run(&["keys", "safe-to-revoke", KEY, "--for", "30d"]);
        assert_eq!(said.code, Some(code), "{last} {days}: {said:?}");
        let said = service.run(&["keys", "unused", "--for", "30d"]);
        let is_unused = said.out.contains(KEY);
        assert_eq!(is_unused, code == 0, "{last} {days}: {said:?}");
        assert_eq!(said.code, Some(if code == 1 { 0 } else { code }), "{last} {days}: {said:?}");
    }
}

/// A stored change is reported as done only once it is published.
#[test]
fn a_change_that_is_not_published_ends_with_75() {
    let so_far = |published: u64| json!({"published": published, "unpublished": null}).to_string();
    let hindered = json!({"published": 5, "unpublished": {
        "reason": "signer_refuses", "since": null, "detail": "too few\nhint: x",
    }});
    let no = json!({"code": "not_found", "title": "no"}).to_string();
    for (status, answer, code, says) in [
        (200, so_far(6), 0, ""),
        (200, so_far(5), 75, "not published within 10 s"),
        (200, hindered.to_string(), 75, "not published everywhere: signer_refuses: too few\n"),
        (404, no, 75, "whether it is published cannot be asked"),
    ] {
        let service = OddService::start(move |asked: &str| {
            asked.ends_with("/publications").then(|| (status, answer.clone()))
        });
        let said = service.run(&["keys", "revoke", KEY]);
        assert_eq!(said.code, Some(code), "{said:?}");
        assert!(said.error.contains(says) && !said.error.contains("as soon as"), "{said:?}");
        assert!(said.out.contains(KEY), "{said:?}");
    }
}

/// The same if nobody can confirm it, whatever the command: for a new secret, and for a change that
/// was already made.
#[test]
fn what_may_not_be_published_ends_with_75_whatever_the_command() {
    let no = json!({"code": "not_found", "title": "no"}).to_string();
    let made = change(key(KEY), json!(SECRET)).to_string();
    let rotated = change(with(key(OTHER), "replaces", json!(KEY)), json!(SECRET)).to_string();
    let revoked = with(key(KEY), "state", json!("revoked"));
    for (arguments, known) in [
        (&CREATE[..], key(KEY)),
        (&["keys", "rotate", KEY], key(KEY)),
        (&["keys", "edit", KEY, "--name", "CRM"], key(KEY)),
        (&["keys", "revoke", KEY], revoked),
    ] {
        let (no, made, rotated) = (no.clone(), made.clone(), rotated.clone());
        let list = json!({"keys": [known.clone()], "next": null}).to_string();
        let service = OddService::start(move |asked: &str| match asked.split_once(' ').unwrap() {
            ("POST", path) if path.ends_with("/keys") => Some((201, made.clone())),
            ("POST", path) if path.ends_with("/rotate") => Some((201, rotated.clone())),
            (_, path) if path.ends_with("/publications") => Some((404, no.clone())),
            ("GET", path) if path.contains("/keys?") => Some((200, list.clone())),
            ("GET", path) if path.contains("/keys/") => Some((200, known.to_string())),
            _ => None,
        });
        let said = service.run(arguments);
        assert_eq!(said.code, Some(75), "{arguments:?}: {said:?}");
        let why = "whether it is published cannot be asked";
        assert!(said.error.contains(why), "{arguments:?}: {said:?}");
        let is_issued = ["create", "rotate"].contains(&arguments[1]);
        assert_eq!(said.out.contains(SECRET), is_issued, "{arguments:?}: {said:?}");
    }
}
