//! Lists: pages, searches, filters, counts.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::usage::{Report, batch};
use super::*;
use crate::manage::registry::entry::tests::full;
use crate::manage::time::When;
use crate::registrar::store::{
    Cursor, ImportBatch, ImportPart, KeyCount, KeyQuery, KeySort, KeyState, UnusedKeys, UsageBatch,
};

fn all() -> KeyQuery {
    KeyQuery::all(audience(), Some(org("acme")), NOW)
}

async fn names(store: &Arc<dyn Store>, query: KeyQuery) -> BTreeSet<String> {
    let page = store.keys(query).await.unwrap();
    page.keys.iter().map(|key| key.entry.name.to_string()).collect()
}

fn set_of(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn make(store: &Arc<dyn Store>, wanted: CreateRequest, at_ms: u64) -> KeyId {
    let request = request(admin("kim"), KeyChange::Create(Box::new(wanted)));
    store.change(ChangeRequest { at_ms, ..request }).await.unwrap().key.entry.id
}

pub(crate) async fn pages_show_every_key_once(store: Arc<dyn Store>) {
    for n in 0..95u64 {
        // Several with the same second, and with the same name.
        let ends = When::In(std::time::Duration::from_secs(3600 + n / 3));
        let wanted = CreateRequest { expires: Some(ends), ..new_key(&format!("Key {:02}", n / 2)) };
        make(&store, wanted, NOW + n / 4 * 1000).await;
    }
    make(&store, CreateRequest { org: org("acme"), ..new_key("for ever") }, NOW).await;
    for (sort, total) in
        [(KeySort::Newest, 96), (KeySort::Oldest, 96), (KeySort::Name, 96), (KeySort::Expires, 95)]
    {
        let mut cursor = None;
        let mut seen = Vec::new();
        loop {
            let query = KeyQuery { sort, limit: 10, cursor: cursor.take(), ..all() };
            let page = store.keys(query).await.unwrap();
            seen.extend(page.keys);
            match page.next {
                Some(next) => cursor = Some(Cursor::of(next.as_str())),
                None => break,
            }
            if seen.len() == 30 && sort == KeySort::Newest {
                // A newer key belongs on an earlier page; it moves nothing here.
                make(&store, new_key("meanwhile"), NOW + 1_000_000).await;
            }
        }
        let ids: BTreeSet<KeyId> = seen.iter().map(|key| key.entry.id).collect();
        let total = total + usize::from(!matches!(sort, KeySort::Newest | KeySort::Expires));
        assert_eq!((seen.len(), ids.len()), (total, total), "{sort:?}");
        let entries = seen.iter().map(|key| &key.entry);
        let in_order = match sort {
            KeySort::Newest => entries.rev().map(|e| e.created).is_sorted(),
            KeySort::Oldest => entries.map(|e| e.created).is_sorted(),
            KeySort::Name => entries.map(|e| e.name.to_lowercase()).is_sorted(),
            KeySort::Expires => entries.map(|e| e.expires).is_sorted(),
        };
        assert!(in_order, "{sort:?}");
    }
    assert_eq!(store.count_keys(all()).await.unwrap(), KeyCount::Exactly(97));
    let next = store.keys(KeyQuery { limit: 10, ..all() }).await.unwrap().next.unwrap();
    let foreign = KeyQuery { sort: KeySort::Name, cursor: Some(next), ..all() };
    let nonsense = KeyQuery { cursor: Some(Cursor::of("x'; --")), ..all() };
    for query in [foreign, nonsense] {
        match store.keys(query).await {
            Err(StoreError::Invalid { faults }) => assert_eq!(&*faults[0].field, "cursor"),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn searches_find_parts_of_names_and_ids(store: Arc<dyn Store>) {
    let mut ids = Vec::new();
    for name in ["CRM export", "Ümlaut Käse", "a\"b OR 1", "x*y", "日本語のキー", "50% off_"]
    {
        ids.push((name, create(&store, name).await.key.entry));
    }
    let request = request(admin("kim"), KeyChange::Create(Box::new(new_key("CRM of others"))));
    let other = CreateRequest { org: org("other"), ..new_key("CRM of others") };
    let change = KeyChange::Create(Box::new(other));
    store.change(ChangeRequest { org: Some(org("other")), change, ..request }).await.unwrap();
    let found = |text: &str| names(&store, KeyQuery { search: Some(text.into()), ..all() });
    for (text, want) in [
        ("crm", "CRM export"),
        ("M EXP", "CRM export"),
        ("ümlaut", "Ümlaut Käse"),
        ("KÄSE", "Ümlaut Käse"),
        ("a\"b", "a\"b OR 1"),
        ("OR 1", "a\"b OR 1"),
        ("x*y", "x*y"),
        ("本語の", "日本語のキー"),
        ("0% off_", "50% off_"),
        ("cr", "CRM export"),
        ("日", "日本語のキー"),
    ] {
        assert_eq!(found(text).await, set_of(&[want]), "{text}");
    }
    for none in ["zzz", "rm_export", "%", "_", "NEAR(a b)", "folded:crm"] {
        assert_eq!(found(none).await, BTreeSet::new(), "{none}");
    }
    for (name, entry) in &ids {
        assert!(found(&entry.id.to_string()[4..]).await.contains(*name), "by id");
        assert!(found(&entry.key_prefix).await.contains(*name), "by the first characters");
    }
    rename(&store, ids[0].1.id, "Renamed", None).await.unwrap();
    assert_eq!(found("crm").await, BTreeSet::new());
    assert_eq!(found("renam").await, set_of(&["Renamed"]));
    let query = KeyQuery { search: Some("ename".into()), ..all() };
    assert_eq!(store.count_keys(query).await.unwrap(), KeyCount::Exactly(1));
}

pub(crate) async fn states_and_grants_choose(store: Arc<dyn Store>) {
    let ends = |secs| Some(When::In(std::time::Duration::from_secs(secs)));
    make(&store, new_key("active"), NOW).await;
    make(&store, CreateRequest { expires: ends(60), ..new_key("expired") }, NOW - 120_000).await;
    make(&store, CreateRequest { expires: ends(600), ..new_key("soon") }, NOW).await;
    make(&store, CreateRequest { not_before: ends(600), ..new_key("later") }, NOW).await;
    make(&store, CreateRequest { permissions: words(&["*"]), ..new_key("star") }, NOW).await;
    let disabled = make(&store, new_key("disabled"), NOW).await;
    let revoked = make(&store, new_key("revoked"), NOW).await;
    store.change(request(admin("kim"), set(disabled, StatusChange::Disable))).await.unwrap();
    revoke(&store, revoked).await;
    let live = ["active", "soon", "star"];
    for (state, want) in [
        (KeyState::Active, &live[..]),
        (KeyState::Expired, &["expired"]),
        (KeyState::NotYetValid, &["later"]),
        (KeyState::Disabled, &["disabled"]),
        (KeyState::Revoked, &["revoked"]),
        (KeyState::Canary, &[]),
        (KeyState::Kept, &["active", "soon", "star", "expired", "later", "disabled"]),
    ] {
        let query = KeyQuery { state: Some(state), ..all() };
        assert_eq!(names(&store, query).await, set_of(want), "{state:?}");
    }
    let send = Permission::parse("send").unwrap();
    let query = KeyQuery { permission: Some(send), ..all() };
    assert_eq!(names(&store, query).await, set_of(&["star"]));
    let query = KeyQuery { expires_before_ms: Some(NOW + 700_000), ..all() };
    assert_eq!(names(&store, query).await, set_of(&["expired", "soon"]));
    let query = KeyQuery { unused: Some(UnusedKeys::Never), ..all() };
    assert_eq!(store.count_keys(query).await.unwrap(), KeyCount::Exactly(7), "none was used");
    let query = KeyQuery { owner: Some("kim".into()), ..all() };
    assert_eq!(names(&store, query).await, BTreeSet::new());
}

pub(crate) async fn a_new_key_is_not_unused_since_long_ago(store: Arc<dyn Store>) {
    const DAY: u64 = 86_400_000;
    let old = make(&store, new_key("old"), NOW - 100 * DAY).await;
    let used = make(&store, new_key("used"), NOW - 100 * DAY).await;
    make(&store, new_key("at the bound"), NOW - 90 * DAY).await;
    make(&store, new_key("new"), NOW).await;
    let mut ageless = full();
    ageless.created = None;
    ageless.plan = None;
    ageless.name = "of unknown age".into();
    let import = ImportBatch {
        audience: audience(),
        actor: host(),
        channel: Channel::default(),
        at_ms: NOW,
        settings: None,
        above: 0,
        part: ImportPart::Last,
        entries: vec![ageless],
    };
    store.import(import).await.unwrap();
    let report = Report {
        instance: "a",
        boot: "1",
        key: used,
        ago: 60,
        admitted: 1,
        refused: ("expired", 0),
    };
    store.take_usage(batch(report)).await.unwrap();
    let unused = |unused, sort| names(&store, KeyQuery { unused: Some(unused), sort, ..all() });
    let since = UnusedKeys::Since(NOW - 90 * DAY);
    for sort in [KeySort::Newest, KeySort::Oldest, KeySort::Name] {
        let want = set_of(&["old", "at the bound", "of unknown age"]);
        assert_eq!(unused(since, sort).await, want, "{sort:?}");
        let want = set_of(&["old", "at the bound", "of unknown age", "new"]);
        assert_eq!(unused(UnusedKeys::Never, sort).await, want, "{sort:?}");
    }
    let report = Report { key: old, ago: 100 * 1440 - 1, ..report };
    store.take_usage(UsageBatch { at_ms: NOW - 99 * DAY, ..batch(report) }).await.unwrap();
    let want = set_of(&["old", "at the bound", "of unknown age"]);
    assert_eq!(unused(since, KeySort::Newest).await, want, "used once, long ago");
    let query = KeyQuery { unused: Some(since), search: Some("unknown".into()), ..all() };
    assert_eq!(store.count_keys(query).await.unwrap(), KeyCount::Exactly(1));
}
