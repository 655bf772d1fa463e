//! Changes of keys: their results, their serials, what simultaneous callers learn of each other.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::core::{Digest, KeyStatus};
use crate::manage::operation::may::{OrgPolicy, RequiredNetworks};
use crate::manage::operation::{DetailRequest, PlanChange};
use crate::manage::registry::entry::RegistryEntry;
use crate::manage::registry::entry::tests::full;
use crate::manage::registry::plans::PlanName;
use crate::manage::registry::settings::{RawSettings, VERSION};
use crate::registrar::store::{
    AuditQuery, IdempotencyKey, ImportBatch, ImportPart, KeyQuery, OrgChange, OrgRules, Replay, Uid,
};

pub(crate) async fn a_key_lives_from_creation_to_revocation(store: Arc<dyn Store>) {
    let made = create(&store, "CRM").await;
    assert_eq!((made.serial, made.key.version, made.replay), (1, 1, Replay::Fresh));
    let secret = made.secret.unwrap();
    let (id, uid) = (made.key.entry.id, made.key.uid);
    let acme = org("acme");
    let by_id = store.key(&audience(), Some(&acme), KeyRef::Id(id)).await.unwrap();
    let by_uid = store.key(&audience(), Some(&acme), KeyRef::Uid(uid)).await.unwrap();
    let by_secret = store.key_of_secret(&audience(), secret.digest()).await.unwrap();
    assert_eq!(by_id, *made.key);
    assert_eq!(by_uid, *made.key);
    assert_eq!(by_secret, Some(*made.key));
    let renamed = rename(&store, id, "CRM 2", Some(1)).await.unwrap();
    assert_eq!((renamed.serial, renamed.key.version), (2, 2));
    assert_eq!(&*renamed.before.unwrap().entry.name, "CRM");
    let rotated = store.change(request(admin("kim"), rotation(id, 3600))).await.unwrap();
    let successor = rotated.key.entry.clone();
    assert_eq!(successor.replaces, Some(id));
    let replaced = rotated.replaced.unwrap();
    assert_eq!((replaced.entry.id, replaced.entry.expires), (id, Some(NOW / 1000 + 3600)));
    assert_eq!((replaced.changed, rotated.key.changed), (3, 3), "one change, one serial");
    let revoked = revoke(&store, id).await;
    assert_eq!(revoked.key.entry.status, KeyStatus::Revoked);
    let again = store.change(request(admin("kim"), set(id, StatusChange::Enable))).await;
    assert!(matches!(again, Err(StoreError::Conflict { .. })), "{again:?}");
}

pub(crate) async fn sixty_four_callers_get_serials_without_gaps(store: Arc<dyn Store>) {
    let watch = store.watch();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..64 {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            let mut serials = Vec::new();
            for n in 0..4 {
                let made = create(&store, &format!("key {caller}.{n}")).await;
                // After the answer, everybody sees it immediately.
                let found = store.key(&audience(), None, KeyRef::Id(made.key.entry.id)).await;
                assert_eq!(found.unwrap().changed, made.serial);
                serials.push(made.serial);
            }
            assert!(serials.is_sorted(), "{serials:?}");
            serials
        });
    }
    let serials = callers.join_all().await.concat();
    let all: BTreeSet<u64> = serials.iter().copied().collect();
    assert_eq!(all, (1..=256).collect());
    assert_eq!(watch.borrow().of(&audience()), 256);
    let lines =
        store.audit(AuditQuery { limit: 200, ..AuditQuery::default() }).await.unwrap().lines;
    assert!(lines.iter().rev().map(|line| line.serial).is_sorted(), "the log is in their order");
    assert_eq!(store.verify_audit(Vec::new()).await.unwrap(), []);
}

pub(crate) async fn a_change_that_fails_takes_nothing_from_the_others(store: Arc<dyn Store>) {
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..64 {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            let mut wanted = new_key(&format!("key {caller}"));
            if caller % 2 == 1 {
                let plan = PlanChange(Some(PlanName::parse("none-such").unwrap()));
                wanted.details = DetailRequest { plan: Some(plan), ..DetailRequest::default() };
            }
            store.change(request(admin("kim"), KeyChange::Create(Box::new(wanted)))).await
        });
    }
    let done = callers.join_all().await;
    let serials: BTreeSet<u64> = done.iter().flatten().map(|made| made.serial).collect();
    assert_eq!(serials, (1..=32).collect());
    let fields: BTreeSet<String> = done
        .iter()
        .filter_map(|made| match made {
            Err(StoreError::Invalid { faults }) => Some(faults[0].field.to_string()),
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        })
        .collect();
    assert_eq!(fields, BTreeSet::from(["plan".to_owned()]));
    assert_eq!(store.audit_head().await.unwrap().seq, 32);
}

/// With a database that refuses anything that contains `poison`, after the rest of the change was
/// written.
pub(crate) async fn what_the_database_refuses_takes_nothing_from_the_others(store: Arc<dyn Store>) {
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..64 {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            let name = if caller % 8 == 7 { "poison" } else { "key" };
            let wanted = new_key(&format!("{name} {caller}"));
            store.change(request(admin("kim"), KeyChange::Create(Box::new(wanted)))).await
        });
    }
    let done = callers.join_all().await;
    let serials: BTreeSet<u64> = done.iter().flatten().map(|made| made.serial).collect();
    assert_eq!(serials, (1..=56).collect());
    assert_eq!(store.audit_head().await.unwrap().seq, 56);
    assert_eq!(store.publication(&audience()).await.unwrap().serial, 56);
    assert_eq!(store.verify_audit(Vec::new()).await.unwrap(), []);
    assert_eq!(store.unlogged_keys(9).await.unwrap(), []);
    let all = KeyQuery { limit: 200, ..KeyQuery::all(audience(), Some(org("acme")), NOW) };
    let names: Vec<_> =
        store.keys(all).await.unwrap().keys.into_iter().map(|key| key.entry.name).collect();
    assert_eq!(names.len(), 56);
    assert!(names.iter().all(|name| !name.contains("poison")), "{names:?}");
}

/// A key that takes its own rights away can do nothing more, not even at the same moment.
pub(crate) async fn of_what_a_key_holds_the_changes_before_count(store: Arc<dyn Store>) {
    let mut wanted = new_key("caller");
    wanted.permissions = words(&["keys:read", "keys:write", "keys:revoke", "read"]);
    let made = store.change(request(host(), KeyChange::Create(Box::new(wanted)))).await.unwrap();
    let id = made.key.entry.id;
    let asks = |change| store.change(request(StoreActor::Key(id), change));
    let status = StatusChange::Revoke;
    let key = KeyRef::Id(id);
    // All of them are waiting for the writer when the first one begins.
    let (before, revoked, after) = tokio::join!(
        asks(KeyChange::Create(Box::new(new_key("before")))),
        asks(KeyChange::SetStatus { key, if_match: None, status }),
        asks(KeyChange::Create(Box::new(new_key("after")))),
    );
    assert!(before.is_ok(), "{before:?}");
    assert!(revoked.is_ok(), "{revoked:?}");
    assert!(matches!(after, Err(StoreError::Forbidden { .. })), "{after:?}");
}

pub(crate) async fn of_two_editors_the_second_learns_of_the_first(store: Arc<dyn Store>) {
    let made = create(&store, "CRM").await;
    let id = made.key.entry.id;
    rename(&store, id, "first", Some(1)).await.unwrap();
    match rename(&store, id, "second", Some(1)).await {
        Err(StoreError::VersionMismatch { current }) => {
            assert_eq!((current.version, &*current.entry.name), (2, "first"));
        }
        other => panic!("{other:?}"),
    }
    rename(&store, id, "second", Some(2)).await.unwrap();
    assert_eq!(store.publication(&audience()).await.unwrap().serial, 3);
}

pub(crate) async fn the_same_request_twice_makes_one_key(store: Arc<dyn Store>) {
    let twice = |body: &str| {
        let name = IdempotencyKey { name: "form-1".into(), body: Digest::of(body.as_bytes()) };
        let change = KeyChange::Create(Box::new(new_key("CRM")));
        ChangeRequest { idempotency: Some(name), ..request(admin("kim"), change) }
    };
    let first = store.change(twice("a")).await.unwrap();
    let second = store.change(twice("a")).await.unwrap();
    assert_eq!(second.replay, Replay::Replayed);
    assert!(first.secret.is_some() && second.secret.is_none());
    assert_eq!((first.serial, &first.key), (second.serial, &second.key));
    let other = store.change(twice("b")).await;
    assert!(matches!(other, Err(StoreError::IdempotencyConflict)), "{other:?}");
    assert_eq!(store.publication(&audience()).await.unwrap().serial, 1);
    // Both at the same time.
    let at_once = || {
        let name = IdempotencyKey { name: "form-2".into(), body: Digest::of(b"a") };
        let change = KeyChange::Create(Box::new(new_key("CRM")));
        ChangeRequest { idempotency: Some(name), ..request(admin("kim"), change) }
    };
    let (one, other) = tokio::join!(store.change(at_once()), store.change(at_once()));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.key.entry.id, other.key.entry.id);
    assert_ne!(one.replay, other.replay);
}

pub(crate) async fn an_idempotency_key_is_one_callers_for_a_day(store: Arc<dyn Store>) {
    let send = |sub: &str, at_ms: u64| {
        let name = IdempotencyKey { name: "form-1".into(), body: Digest::of(b"a") };
        let change = KeyChange::Create(Box::new(new_key("CRM")));
        let request = request(admin(sub), change);
        store.change(ChangeRequest { idempotency: Some(name), at_ms, ..request })
    };
    let day = 24 * 3_600_000;
    assert_eq!(send("kim", NOW).await.unwrap().replay, Replay::Fresh);
    assert_eq!(send("lee", NOW).await.unwrap().replay, Replay::Fresh);
    assert_eq!(send("kim", NOW + day - 1).await.unwrap().replay, Replay::Replayed);
    assert_eq!(send("kim", NOW + day).await.unwrap().replay, Replay::Fresh);
}

pub(crate) async fn a_foreign_key_is_none(store: Arc<dyn Store>) {
    let made = create(&store, "CRM").await;
    let id = made.key.entry.id;
    let other = org("other");
    let read = store.key(&audience(), Some(&other), KeyRef::Id(id)).await;
    assert!(matches!(read, Err(StoreError::NoSuchKey)), "{read:?}");
    for change in [set(id, StatusChange::Revoke), rotation(id, 0)] {
        let request = ChangeRequest { org: Some(other.clone()), ..request(admin("kim"), change) };
        let refused = store.change(request).await;
        assert!(matches!(refused, Err(StoreError::NoSuchKey)), "{refused:?}");
    }
    let into_acme = KeyChange::Create(Box::new(new_key("theirs")));
    let request = ChangeRequest { org: Some(other), ..request(admin("kim"), into_acme) };
    let refused = store.change(request).await;
    assert!(matches!(refused, Err(StoreError::NoSuchKey)), "{refused:?}");
    let nowhere = AudienceName::parse("nowhere").unwrap();
    let read = store.key(&nowhere, None, KeyRef::Id(id)).await;
    assert!(matches!(read, Err(StoreError::NoSuchAudience)), "{read:?}");
}

pub(crate) async fn a_key_that_asks_is_looked_up_in_the_transaction(store: Arc<dyn Store>) {
    let wanted =
        CreateRequest { permissions: words(&["keys:write", "read"]), ..new_key("provisioner") };
    let change = KeyChange::Create(Box::new(wanted));
    let manager = store.change(request(admin("kim"), change)).await.unwrap().key.entry.id;
    let by_key = |wanted: CreateRequest| {
        let change = KeyChange::Create(Box::new(wanted));
        store.change(request(StoreActor::Key(manager), change))
    };
    by_key(new_key("made by a key")).await.unwrap();
    let more = CreateRequest { permissions: words(&["read", "send"]), ..new_key("more") };
    match by_key(more).await {
        Err(StoreError::Forbidden { why, field }) => {
            assert_eq!(field.as_deref(), Some("permissions"));
            assert!(why.contains("`send`"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    revoke(&store, manager).await;
    match by_key(new_key("too late")).await {
        Err(StoreError::Forbidden { why, .. }) => assert!(why.contains("revoked"), "{why}"),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_policy_caps_what_is_new(store: Arc<dyn Store>) {
    let before = create(&store, "before").await.key.entry.id;
    let change = |most_keys, if_match| OrgChange {
        org: org("acme"),
        rules: OrgRules {
            policy: OrgPolicy {
                most_keys: Some(most_keys),
                networks: RequiredNetworks::Required,
                ..OrgPolicy::default()
            },
            ..OrgRules::default()
        },
        if_match,
        actor: StoreActor::Person {
            id: PersonId::of_product(&audience(), "kim"),
            role: PersonRole::Owner,
            owner: Owner::new("kim", "", "").unwrap(),
            holds: HeldRights::everything(),
        },
        channel: Channel::default(),
        at_ms: NOW,
    };
    let set = store.change_org(change(2, Some(0))).await.unwrap();
    assert_eq!(store.org(&org("acme")).await.unwrap(), set);
    let late = store.change_org(change(3, Some(0))).await;
    assert!(matches!(late, Err(StoreError::OrgVersionMismatch { current: 1 })), "{late:?}");
    let by_admin = OrgChange { actor: admin("lee"), ..change(3, None) };
    let refused = store.change_org(by_admin).await;
    assert!(matches!(refused, Err(StoreError::Forbidden { .. })), "{refused:?}");
    let make = |networks: &str| {
        let networks = networks.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let wanted = CreateRequest { networks, ..new_key("new") };
        store.change(request(admin("kim"), KeyChange::Create(Box::new(wanted))))
    };
    match make("").await {
        Err(StoreError::Forbidden { field, .. }) => assert_eq!(field.as_deref(), Some("networks")),
        other => panic!("{other:?}"),
    }
    make("192.0.2.0/24").await.unwrap();
    let third = make("192.0.2.0/24").await;
    assert!(matches!(third, Err(StoreError::Forbidden { .. })), "{third:?}");
    rename(&store, before, "what was there stays", None).await.unwrap();
}

pub(crate) async fn a_change_of_nothing_has_no_serial(store: Arc<dyn Store>) {
    let id = create(&store, "CRM").await.key.entry.id;
    revoke(&store, id).await;
    let again = revoke(&store, id).await;
    assert_eq!((again.serial, again.key.version), (2, 2));
    let other = create(&store, "ERP").await.key.entry.id;
    let same = rename(&store, other, "ERP", None).await.unwrap();
    assert_eq!((same.serial, same.key.version), (3, 1));
    assert_eq!(store.publication(&audience()).await.unwrap().serial, 3);
    assert_eq!(store.watch().borrow().of(&audience()), 3);
    assert_eq!(store.audit_head().await.unwrap().seq, 3);
}

fn import_of(
    settings: Option<RawSettings>,
    above: u64,
    entries: Vec<RegistryEntry>,
) -> ImportBatch {
    ImportBatch {
        audience: audience(),
        actor: host(),
        channel: Channel::default(),
        at_ms: NOW,
        settings: settings.map(Box::new),
        above,
        part: ImportPart::Last,
        entries,
    }
}

pub(crate) async fn an_import_of_nothing_new_has_no_serial(store: Arc<dyn Store>) {
    let settings = |limit: &str| -> Option<RawSettings> {
        let plan = format!(r#"[{{"name":"gold","limit":"{limit}"}}]"#);
        serde_json::from_str(&format!(r#"{{"registry":{VERSION},"serial":7,"plan":{plan}}}"#)).ok()
    };
    let steps = [
        (settings("9/s"), 40, 41, "new"),
        (settings("9/s"), 40, 41, "the same file again"),
        (None, 40, 41, "without settings"),
        (settings("8/s"), 40, 42, "another plan"),
        (settings("8/s"), 42, 42, "of the serial that it has"),
        (settings("8/s"), 50, 51, "a registry that has gone on"),
    ];
    let mut lines = Vec::new();
    for (settings, above, serial, what) in steps {
        let done = store.import(import_of(settings, above, vec![full()])).await.unwrap();
        assert_eq!(done.serial, serial, "{what}");
        assert_eq!(store.publication(&audience()).await.unwrap().serial, serial, "{what}");
        assert_eq!(store.watch().borrow().of(&audience()), serial, "{what}");
        lines.push(store.audit_head().await.unwrap().seq);
    }
    assert_eq!(lines, [1, 1, 1, 2, 2, 3]);
}

/// Also one that an earlier release made at random.
pub(crate) async fn a_key_keeps_its_uuid_in_an_import(store: Arc<dyn Store>) {
    let key = |id: &str, uid: Option<Uid>| RegistryEntry {
        id: KeyId::parse(id).unwrap(),
        digest: Digest::of(id.as_bytes()),
        public_id: None,
        previous: None,
        plan: None,
        uid,
        ..full()
    };
    let there = async |id: &str| {
        store.key(&audience(), None, KeyRef::Id(KeyId::parse(id).unwrap())).await.unwrap()
    };
    let derived = |id: &str| Uid::of_key("shop", KeyId::parse(id).unwrap());
    let own = Uid(*b"0123456789abcdef");
    let first = vec![key("key_own", Some(own)), key("key_plain", None)];
    store.import(import_of(None, 0, first)).await.unwrap();
    let (kept, plain) = (there("key_own").await, there("key_plain").await);
    assert_eq!((kept.uid, kept.entry.uid), (own, Some(own)), "it is exported again");
    assert_eq!((plain.uid, plain.entry.uid), (derived("key_plain"), None));
    let made = create(&store, "made").await.key;
    assert_eq!(made.uid, Uid::of_key("shop", made.entry.id));
    // A file from before it was stated.
    let again = store.import(import_of(None, 0, vec![key("key_own", None)])).await.unwrap();
    assert_eq!((again.added, again.known), (0, 1));
    assert_eq!(there("key_own").await.uid, own);
    // Lines that somebody has copied.
    let other = Uid(*b"fedcba9876543210");
    let copies = [("key_copy", own), ("key_new", other), ("key_twin", other)];
    let copies = copies.map(|(id, uid)| key(id, Some(uid))).into();
    let done = store.import(import_of(None, 0, copies)).await.unwrap();
    assert_eq!(done.added, 3);
    assert_eq!(there("key_copy").await.uid, derived("key_copy"));
    assert_eq!(there("key_new").await.uid, other);
    assert_eq!(there("key_twin").await.uid, derived("key_twin"));
}

pub(crate) async fn an_import_goes_in_as_a_whole(store: Arc<dyn Store>) {
    let plans: RawSettings = serde_json::from_str(&format!(
        r#"{{"registry":{VERSION},"serial":0,"plan":[{{"name":"gold","limit":"9/s"}}]}}"#
    ))
    .unwrap();
    let batch = |entries| import_of(Some(plans.clone()), 40, entries);
    let done = store.import(batch(vec![full()])).await.unwrap();
    assert_eq!((done.serial, done.added, done.known), (41, 1, 0));
    let there = store.key(&audience(), None, KeyRef::Id(full().id)).await.unwrap();
    assert_eq!(there.entry.without_plan().limits.len(), 2, "the plan's limit and its own");
    let raw = |entry: &RegistryEntry| serde_json::to_string(&entry.raw()).unwrap();
    assert_eq!(raw(&there.entry), raw(&full()), "nothing is lost");
    let again = store.import(batch(vec![full()])).await.unwrap();
    assert_eq!((again.added, again.known), (0, 1));
    let mut other = full();
    other.id = KeyId::parse("key_other").unwrap();
    let refused = store.import(batch(vec![other.clone()])).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "the same secret: {refused:?}");
    other.digest = Digest::of(b"another");
    other.previous = None;
    other.public_id = None;
    let mut changed = full();
    changed.name = "changed".into();
    let refused = store.import(batch(vec![other.clone(), changed])).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    let none = store.key(&audience(), None, KeyRef::Id(other.id)).await;
    assert!(matches!(none, Err(StoreError::NoSuchKey)), "all or none: {none:?}");
    assert_eq!(store.verify_audit(Vec::new()).await.unwrap(), []);
}

/// From the batch that lifts the serial until the last one.
pub(crate) async fn an_import_that_has_not_ended_is_known(store: Arc<dyn Store>) {
    let key = |n: u64| RegistryEntry {
        id: KeyId::parse(&format!("key_{n}")).unwrap(),
        digest: Digest::of(n.to_string().as_bytes()),
        public_id: None,
        previous: None,
        plan: None,
        ..full()
    };
    let steps = [
        (0, ImportPart::Early, None, "adds to what is published, and lifts nothing"),
        (40, ImportPart::Early, Some(40), "lifts"),
        (40, ImportPart::Early, Some(40), "the same again"),
        (30, ImportPart::Last, Some(40), "an older one, which lacks keys"),
        (40, ImportPart::Last, None, "the end"),
        (40, ImportPart::Last, None, "nothing is new"),
        (90, ImportPart::Early, Some(90), "a later one"),
        (95, ImportPart::Last, None, "a later one yet, which has all of them"),
    ];
    for (n, (above, part, known, what)) in (0..).zip(steps) {
        let batch = ImportBatch { part, ..import_of(None, above, vec![key(n / 2)]) };
        store.import(batch).await.unwrap();
        assert_eq!(store.publication(&audience()).await.unwrap().importing, known, "{what}");
    }
}
