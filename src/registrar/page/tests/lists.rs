//! The list of keys: what finds a key, and what each tab lists.

use super::*;
use crate::core::KeyId;
use crate::manage::operation::{CreateRequest, StatusChange};
use crate::manage::time::When;
use crate::registrar::store::suite::usage::{Report, batch};
use crate::registrar::store::{ChangeRequest, KeyChange};

const DAY: u64 = 86_400;

/// Its settings have a form of secrets with a prefix and an environment.
fn prefixed() -> TestDesk {
    let form = "[audiences.prefixes.wa]\nprefix = \"wa_\"\nenvironment = true\nrandom = 32\n";
    TestDesk::new(&format!("{PERMISSIONS}{form}"))
}

#[test]
fn what_the_list_shows_of_a_secret_finds_its_key() {
    run(async {
        let desk = prefixed();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let mut secrets = Vec::new();
        for name in ["First", "Second"] {
            let hidden = kim.hidden("/keys/new").await;
            let form = format!("{hidden}&name={name}&expires=never&environment=live");
            secrets.push(secret_of(&kim.post("/keys", &form).await).unwrap());
        }
        let secret = &secrets[0];
        assert!(secret.starts_with("wa_live_") && secret.len() == 40, "{secret}");
        let start = &secret[..16];
        assert!(kim.get("/keys").await.body.contains(&format!("{start}…")));
        let found = |told: &Told| {
            assert_eq!(told.status, StatusCode::OK, "{}", told.body);
            told.body.matches("class=\"key-name\"").count()
        };
        for text in [start, &format!("{start}%E2%80%A6"), &start[8..], &format!("{start}...")] {
            let list = kim.get(&format!("/keys?q={text}")).await;
            assert_eq!(found(&list), 1, "{text}");
            assert!(list.body.contains(">First<"), "{text}");
        }
        assert_eq!(found(&kim.get("/keys?q=wa_live_nothing1").await), 0);
        // Of a whole secret only the beginning stays in the address.
        let to = goes_to(&kim.get(&format!("/keys?q={secret}&filter=active")).await);
        assert!(to.contains("filter=active") && !to.contains(&secret[16..]), "{to}");
        let list = kim.get(&to).await;
        assert_eq!(found(&list), 1);
        assert!(!list.body.contains(&secret[16..]), "{}", list.body);
    });
}

/// A key of `acme` that is made now.
async fn made(desk: &TestDesk, name: &str, expires: Option<u64>) -> KeyId {
    let wanted = CreateRequest { expires: expires.map(When::At), ..suite::new_key(name) };
    let asked = suite::request(suite::host(), KeyChange::Create(Box::new(wanted)));
    let asked = ChangeRequest { at_ms: desk.clock.now().unix_ms, ..asked };
    desk.store.change(asked).await.unwrap().key.entry.id
}

/// The names in the list, by name.
async fn listed(kim: &Browser<'_>, query: &str) -> Vec<String> {
    let told = kim.get(&format!("/keys{query}")).await;
    assert_eq!(told.status, StatusCode::OK, "{query}: {}", told.body);
    let names = told.body.split("class=\"key-name\"").skip(1);
    let names = names.map(|rest| {
        let (_, name) = rest.split_once("<bdi>").unwrap();
        name.split_once('<').unwrap().0.to_owned()
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn each_tab_lists_what_it_says() {
    run(async {
        let desk = desk();
        let begin = desk.clock.now().unix_ms / 1000;
        made(&desk, "Idle", None).await;
        made(&desk, "Ended", Some(begin + DAY)).await;
        let used = made(&desk, "Used once", None).await;
        let report =
            Report { instance: "a", boot: "1", key: used, ago: 1, admitted: 3, refused: ("", 0) };
        desk.store.take_usage(batch(report)).await.unwrap();
        desk.advance(100 * DAY);
        let now = begin + 100 * DAY;
        made(&desk, "Ends in 13 days", Some(now + 13 * DAY)).await;
        made(&desk, "Ends in 15 days", Some(now + 15 * DAY)).await;
        let busy = made(&desk, "In use", None).await;
        let mut today = batch(Report { key: busy, boot: "2", ..report });
        let minutes = u32::try_from(100 * DAY / 60).unwrap();
        (today.head.now, today.head.started) = (today.head.now + minutes, today.head.now);
        today.lines[0].last += minutes;
        today.at_ms += 100 * DAY * 1000;
        desk.store.take_usage(today).await.unwrap();
        let off = made(&desk, "Off", None).await;
        let gone = made(&desk, "Gone", None).await;
        for (key, status) in [(off, StatusChange::Disable), (gone, StatusChange::Revoke)] {
            desk.store
                .change(suite::request(suite::host(), suite::set(key, status)))
                .await
                .unwrap();
        }
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let ends = ["Ends in 13 days", "Ends in 15 days"];
        let current =
            ["Ended", ends[0], ends[1], "Idle", "In use", "Off", "Used once"].map(str::to_owned);
        let all = ["Ended", ends[0], ends[1], "Gone", "Idle", "In use", "Off", "Used once"]
            .map(str::to_owned);
        for (query, want) in [
            ("", &current[..]),
            ("?filter=nonsense", &current),
            (
                "?filter=active",
                &[ends[0], ends[1], "Idle", "In use", "Used once"].map(str::to_owned),
            ),
            ("?filter=expires-soon", &[ends[0].to_owned()]),
            ("?filter=never-used", &[ends[0], ends[1], "Idle"].map(str::to_owned)),
            ("?filter=unused", &["Idle", "Used once"].map(str::to_owned)),
            ("?filter=disabled", &["Off".to_owned()]),
            ("?filter=expired", &["Ended".to_owned()]),
            ("?filter=revoked", &["Gone".to_owned()]),
            ("?filter=all", &all),
            // A search finds every key, and stays in the tab that was chosen.
            ("?q=Gone", &["Gone".to_owned()]),
            ("?q=Ends&filter=expires-soon", &[ends[0].to_owned()]),
        ] {
            assert_eq!(listed(&kim, query).await, want, "{query}");
        }
        // The screen offers each of them.
        let screen = kim.get("/keys").await.body;
        for tab in ["active", "expires%2Dsoon", "never%2Dused", "unused", "disabled", "expired"] {
            assert!(screen.contains(&format!("filter={tab}\"")), "{tab}: {screen}");
        }
    });
}
