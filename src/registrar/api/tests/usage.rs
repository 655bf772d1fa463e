//! What sidecars report, in both ways, and what callers see of it.

use std::io::{Read as _, Write as _};

use axum::http::Method;
use serde_json::json;

use super::{Who, ask, is, path_of, person, target};
use crate::config::UrlOptions;
use crate::manage::operation::may::PersonRole;
use crate::registrar::config::AskedSidecar;
use crate::registrar::serve::tests::{Ask, SETTINGS, TestDesk, Told, run};
use crate::registrar::store::SidecarReport;
use crate::registrar::store::suite::{self, NOW};
use crate::registrar::usage::pull_once;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn desk() -> TestDesk {
    use std::os::unix::fs::PermissionsExt as _;
    TestDesk::made(|folder| {
        let file = folder.join("fleet.token");
        std::fs::write(&file, TOKEN).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let fleet = "name = \"web\"\naudiences = [\"shop\"]\nbearer_file = \"fleet.token\"";
        format!("{SETTINGS}[[fleets]]\n{fleet}\n")
    })
}

/// A record of one key, `admitted` uses in the minute before now.
fn record(audience: &str, key: &str, admitted: u64) -> String {
    let now = NOW / 60_000;
    let head = json!({
        "usage": 1, "instance": "a", "boot": "1", "audience": audience, "started": now - 60,
        "now": now, "serial": 1, "dropped": 0,
    });
    let line = json!({
        "key": key, "last": now - 1, "admitted": admitted, "refused": {"rate_limited": 2},
        "nets": ["203.0.113.0/24"],
    });
    format!("{head}\n{line}\n")
}

async fn report(desk: &TestDesk, token: &str, body: &str) -> Told {
    let told = desk
        .send(
            Ask::post("/v1/usage")
                .with("authorization", &format!("Bearer {token}"))
                .body("application/x-ndjson", body),
        )
        .await;
    super::openapi::declares(&Method::POST, "/v1/usage", &told);
    told
}

async fn admitted(desk: &TestDesk, who: &Who, path: &str) -> (u64, u64) {
    let told = ask(desk, who, Method::GET, path, None).await;
    is(&told, 200);
    let json = told.json();
    let sum = |list: &str| {
        let all = json[list].as_array().unwrap().iter();
        all.map(|bucket| bucket["admitted"].as_u64().unwrap()).sum()
    };
    (sum("hours"), sum("days"))
}

#[test]
fn a_fleet_reports_and_owners_see_it() {
    run(async {
        let desk = desk();
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        let made = target(&desk, None).await;
        let (key, path) = (made.key.entry.id.to_string(), path_of(&made, "/usage"));
        let before = ask(&desk, &owner, Method::GET, &path, None).await.json();
        assert_eq!((&before["last_used"], &before["as_of"]), (&json!(null), &json!(null)));
        assert_eq!(before["since"], json!(null));
        let told = report(&desk, TOKEN, &record("shop", &key, 7)).await;
        is(&told, 200);
        assert_eq!(told.json(), json!({"raised": 1, "unknown": 0}));
        for body in [record("shop", &key, 7), record("shop", &key, 3), "\n".to_owned()] {
            let again = report(&desk, TOKEN, &body).await;
            assert_eq!(again.json(), json!({"raised": 0, "unknown": 0}), "{body}");
        }
        assert_eq!(admitted(&desk, &owner, &path).await, (7, 7));
        let seen = ask(&desk, &owner, Method::GET, &path, None).await.json();
        assert_eq!(seen["refused"], json!([{"reason": "rate_limited", "count": 2}]));
        assert_eq!(seen["last_used"]["network"], "203.0.113.0/24");
        assert!(seen["since"].is_string() && seen["since"] == seen["as_of"], "{seen}");
        let shown = ask(&desk, &owner, Method::GET, &path_of(&made, ""), None).await.json();
        assert_eq!(shown["last_used"], seen["last_used"]);
        assert_eq!(shown["version"], 1, "a use changes no key");
        for (token, body, status, code) in [
            ("wrong", record("shop", &key, 9), 401, "invalid_credential"),
            (TOKEN, record("other", &key, 9), 404, "not_found"),
            (TOKEN, "{}".to_owned(), 400, "invalid_request"),
            (
                TOKEN,
                record("shop", &key, 9).lines().last().unwrap().to_owned(),
                400,
                "invalid_request",
            ),
            (TOKEN, "x".repeat((1 << 20) + 1), 413, "too_large"),
        ] {
            let told = report(&desk, token, &body).await;
            assert_eq!((told.status.as_u16(), &*told.code()), (status, code), "{told:?}");
        }
        let unknown = report(&desk, TOKEN, &record("shop", "key_elsewhere", 9)).await;
        assert_eq!(unknown.json(), json!({"raised": 0, "unknown": 1}));
        assert_eq!(admitted(&desk, &owner, &path).await, (7, 7));
    });
}

/// Impossible counts spoil neither a key's sums nor the reports of others.
#[test]
fn absurd_counts_leave_room_for_true_ones() {
    run(async {
        let desk = desk();
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        let made = target(&desk, None).await;
        let (key, path) = (made.key.entry.id.to_string(), path_of(&made, "/usage"));
        for (boot, count) in
            [u64::MAX, i64::MAX as u64, i64::MAX as u64, 1 << 53].iter().enumerate()
        {
            let absurd = record("shop", &key, *count)
                .replace("\"boot\":\"1\"", &format!("\"boot\":\"liar {boot}\""))
                .replace(
                    "\"rate_limited\":2",
                    &format!("\"rate_limited\":{count},\"expired\":{count}"),
                );
            is(&report(&desk, TOKEN, &absurd).await, 200);
        }
        let told = report(&desk, TOKEN, &record("shop", &key, 7)).await;
        assert_eq!(told.json(), json!({"raised": 1, "unknown": 0}));
        let most = (1 << 53) - 1;
        assert_eq!(admitted(&desk, &owner, &path).await, (most, most));
        is(&ask(&desk, &owner, Method::GET, "/v1/orgs/acme/findings", None).await, 200);
        // Nor does a report keep the database busy for long: each head is a transaction.
        let head = record("shop", &key, 1).lines().next().unwrap().to_owned();
        let heads = vec![head; 65].join("\n");
        let told = report(&desk, TOKEN, &heads).await;
        assert_eq!((told.status.as_u16(), &*told.code()), (400, "invalid_request"));
    });
}

/// A record that is both posted and fetched counts once.
#[test]
fn a_sidecar_is_asked_for_its_record() {
    run(async {
        let desk = desk();
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        let made = target(&desk, None).await;
        let (key, path) = (made.key.entry.id.to_string(), path_of(&made, "/usage"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pull = AskedSidecar {
            url: format!("http://{}/usage", listener.local_addr().unwrap()).into(),
            audience: suite::audience(),
            options: UrlOptions {
                ca: None,
                bearer_file: None,
                basic_file: None,
                long_poll: std::time::Duration::ZERO,
            },
        };
        let whole = record("shop", &key, 5);
        let cut = whole[..whole.len() - 9].replace("\"instance\":\"a\"", "\"instance\":\"b\"");
        let bodies = [("200 OK", whole.clone()), ("200 OK", cut), ("503 Busy", String::new())];
        let sidecar = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for (status, body) in bodies {
                let (mut client, _) = listener.accept().unwrap();
                let mut head = [0; 1024];
                let read = client.read(&mut head).unwrap();
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                asked.push(head.lines().next().unwrap().to_owned());
                let length = body.len();
                write!(client, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").unwrap();
            }
            asked
        });
        let now = u32::try_from(NOW / 60_000).unwrap();
        assert_eq!(pull_once(&desk.app, &pull, 0).await, Ok(Some(now)));
        pull_once(&desk.app, &pull, now).await.unwrap_err();
        pull_once(&desk.app, &pull, now).await.unwrap_err();
        let want = [0, now, now].map(|since| format!("GET /usage?since={since} HTTP/1.1"));
        assert_eq!(sidecar.join().unwrap(), want);
        // It is known by its address, too, under which `[[status.pull]]` asks it. A record that was
        // cut off says nothing of the keys that it lacks.
        let told = desk.store.use_reporters(&suite::audience(), 0).await.unwrap();
        let told: Vec<_> = told.iter().map(|reporter| &*reporter.instance).collect();
        let address = pull.url.strip_prefix("http://").unwrap().strip_suffix("/usage").unwrap();
        assert_eq!(told, [address, "a"]);
        is(&report(&desk, TOKEN, &whole).await, 200);
        assert_eq!(admitted(&desk, &owner, &path).await, (5, 5));
    });
}

#[test]
fn a_sidecar_that_has_never_answered_is_called_that() {
    run(async {
        let desk = desk();
        let owner = person(&desk, PersonRole::Owner, "acme", "owner").await;
        for (instance, seen_ms) in [("a", NOW), ("b", 0)] {
            let report = SidecarReport {
                audience: suite::audience(),
                fleet: "files".into(),
                instance: instance.into(),
                serial: 0,
                base: 0,
                seen_ms,
                error: (seen_ms == 0).then(|| "connection refused".into()),
            };
            desk.store.put_sidecar(report).await.unwrap();
        }
        let path = "/v1/audiences/shop/publications";
        let told = ask(&desk, &owner, Method::GET, path, None).await;
        is(&told, 200);
        let json = told.json();
        let answered = [0, 1].map(|at: usize| json["sidecars"][at]["answered"].clone());
        assert_eq!(answered, [json!(true), json!(false)], "{json}");
    });
}
