//! Orgs, people, sessions, sign-ins.

use std::sync::Arc;

use super::*;
use crate::core::Digest;
use crate::registrar::store::{
    AuditQuery, MemberChange, NewEmbedToken, Person, Serials, SessionKind, SessionRow, SignIn,
};

fn session(name: &str, sub: &str, ends_ms: u64) -> SessionRow {
    SessionRow {
        digest: Digest::of(name.as_bytes()),
        id: name.into(),
        kind: SessionKind::Person,
        person: person(sub),
        org: Some(org("acme")),
        detail: serde_json::json!({"by": "bootstrap"}),
        epoch: 1,
        created_ms: NOW,
        seen_ms: NOW,
        ends_ms,
        address: "192.0.2.1".into(),
        agent: "Firefox".into(),
    }
}

pub(crate) async fn sessions_end(store: Arc<dyn Store>) {
    let kim = person("kim");
    for (name, sub, ends) in [("a", "kim", 10), ("b", "kim", 20), ("c", "lee", 20)] {
        store.put_session(session(name, sub, NOW + ends)).await.unwrap();
    }
    let a = Digest::of(b"a");
    assert_eq!(store.session(a, NOW).await.unwrap(), Some(session("a", "kim", NOW + 10)));
    assert_eq!(store.session(a, NOW + 10).await.unwrap(), None);
    store.touch_session(a, NOW + 5, Some(org("other"))).await.unwrap();
    let touched = store.session(a, NOW).await.unwrap().unwrap();
    assert_eq!((touched.seen_ms, touched.org), (NOW + 5, Some(org("other"))));
    assert_eq!(store.sessions(&kim, NOW).await.unwrap().len(), 2);
    assert!(!store.end_session(&kim, "c").await.unwrap(), "it is another's");
    assert!(store.end_session(&kim, "b").await.unwrap());
    assert_eq!(store.end_sessions(&kim).await.unwrap(), 1);
    assert_eq!(store.session(a, NOW).await.unwrap(), None);
    assert!(store.session(Digest::of(b"c"), NOW).await.unwrap().is_some());
}

pub(crate) async fn a_sign_in_is_used_once(store: Arc<dyn Store>) {
    let sign_in = |name: &str| SignIn {
        digest: Digest::of(name.as_bytes()),
        kind: "bootstrap".into(),
        detail: serde_json::json!({"org": "acme"}),
        created_ms: NOW,
        ends_ms: NOW + 900_000,
    };
    store.put_sign_in(sign_in("a")).await.unwrap();
    store.put_sign_in(sign_in("b")).await.unwrap();
    let a = Digest::of(b"a");
    let (one, other) = tokio::join!(store.take_sign_in(a, NOW), store.take_sign_in(a, NOW));
    let taken: Vec<SignIn> = [one.unwrap(), other.unwrap()].into_iter().flatten().collect();
    assert_eq!(taken, [sign_in("a")]);
    let late = NOW + 900_000;
    assert_eq!(store.take_sign_in(Digest::of(b"b"), late).await.unwrap(), None);
    assert_eq!(store.take_sign_in(Digest::of(b"b"), NOW).await.unwrap(), None, "used up");
}

/// What it holds, and whether it is in force, may change while it asks.
pub(crate) async fn a_key_that_makes_an_embed_token_is_looked_up_in_the_transaction(
    store: Arc<dyn Store>,
) {
    let wanted =
        CreateRequest { permissions: words(&["read", "embed:create"]), ..new_key("backend") };
    let made = store.change(request(host(), KeyChange::Create(Box::new(wanted)))).await.unwrap();
    let key = made.key.entry.id;
    let token = |name: &str, permissions: &[&str]| NewEmbedToken {
        audience: audience(),
        org: org("acme"),
        actor: StoreActor::Key(key),
        channel: Channel::default(),
        origin: "https://app.example.com".into(),
        permissions: PermissionSet::new(words(permissions)),
        session: SessionRow { kind: SessionKind::Embed, ..session(name, "kim", NOW + 10) },
    };
    let of = async |name: &str| store.session(Digest::of(name.as_bytes()), NOW).await.unwrap();
    store.put_embed_token(token("good", &["read"])).await.unwrap();
    assert_eq!(of("good").await.unwrap().kind, SessionKind::Embed);
    let query = AuditQuery { limit: 1, ..Default::default() };
    let lines = store.audit(query).await.unwrap().lines;
    assert_eq!((&*lines[0].action, &*lines[0].actor_kind), ("create embed token", "key"));
    let words_in = r#"{"origin":"https://app.example.com","permissions":["read"]}"#;
    assert_eq!(&*lines[0].detail, words_in);
    let foreign = NewEmbedToken { org: org("globex"), ..token("foreign", &["read"]) };
    let refused = store.put_embed_token(foreign).await;
    assert!(matches!(refused, Err(StoreError::NoSuchKey)), "{refused:?}");
    let refuses = async |name: &str, permissions: &[&str]| {
        let before = store.audit_head().await.unwrap();
        let refused = store.put_embed_token(token(name, permissions)).await;
        assert!(matches!(refused, Err(StoreError::Forbidden { .. })), "{name}: {refused:?}");
        assert_eq!(of(name).await, None, "{name}");
        assert_eq!(store.audit_head().await.unwrap(), before, "{name}");
    };
    refuses("more than it holds", &["read", "send"]).await;
    let fewer = EditRequest { permissions: Some(words(&["read"])), ..EditRequest::default() };
    let (key_ref, if_match) = (KeyRef::Id(key), None);
    let edit = KeyChange::Edit { key: key_ref, if_match, request: Box::new(fewer) };
    store.change(request(host(), edit)).await.unwrap();
    refuses("without the word", &["read"]).await;
    revoke(&store, key).await;
    refuses("revoked", &["read"]).await;
}

pub(crate) async fn an_org_keeps_an_owner(store: Arc<dyn Store>) {
    for sub in ["kim", "lee"] {
        let id = person(sub);
        let (name, email) = (sub.into(), "".into());
        store.put_person(Person { id, name, email, operator: false, seen_ms: NOW }).await.unwrap();
    }
    let change = |sub: &str, role| MemberChange {
        org: org("acme"),
        id: person(sub),
        role,
        about: None,
        within: None,
        actor: host(),
        channel: Channel::default(),
        at_ms: NOW,
    };
    let unknown = store.change_member(change("nobody", Some(PersonRole::Member))).await;
    assert!(matches!(unknown, Err(StoreError::Invalid { .. })), "{unknown:?}");
    store.change_member(change("kim", Some(PersonRole::Owner))).await.unwrap();
    for role in [Some(PersonRole::Admin), None] {
        let refused = store.change_member(change("kim", role)).await;
        assert!(matches!(refused, Err(StoreError::LastOwner)), "{refused:?}");
    }
    store.change_member(change("lee", Some(PersonRole::Owner))).await.unwrap();
    store.put_session(session("a", "kim", NOW + 10)).await.unwrap();
    let by_lee = MemberChange { actor: admin("lee"), ..change("kim", None) };
    let refused = store.change_member(by_lee).await;
    assert!(matches!(refused, Err(StoreError::Forbidden { .. })), "an admin: {refused:?}");
    store.change_member(change("kim", Some(PersonRole::Member))).await.unwrap();
    assert_eq!(store.session(Digest::of(b"a"), NOW).await.unwrap(), None);
    // This includes a session that is in no org yet. One in another org stays.
    let of_none = SessionRow { org: None, ..session("b", "kim", NOW + 10) };
    store.put_session(of_none).await.unwrap();
    let elsewhere = SessionRow { org: Some(org("other")), ..session("c", "kim", NOW + 10) };
    store.put_session(elsewhere).await.unwrap();
    store.change_member(change("kim", Some(PersonRole::Auditor))).await.unwrap();
    store.change_member(change("kim", Some(PersonRole::Member))).await.unwrap();
    assert_eq!(store.session(Digest::of(b"b"), NOW).await.unwrap(), None);
    assert!(store.session(Digest::of(b"c"), NOW).await.unwrap().is_some());
    let members = store.members(&org("acme")).await.unwrap();
    let shown: Vec<_> = members.iter().map(|m| (&*m.id.sub, m.role)).collect();
    assert_eq!(shown, [("kim", PersonRole::Member), ("lee", PersonRole::Owner)]);
    assert_eq!(store.memberships(&person("lee")).await.unwrap(), members[1..]);
    assert_eq!(store.audit_head().await.unwrap().seq, 5);
}

pub(crate) async fn an_epoch_ends_what_was_before(store: Arc<dyn Store>) {
    create(&store, "CRM").await;
    store.put_session(session("a", "kim", NOW + 10)).await.unwrap();
    let above = Serials([(audience(), 70)].into());
    assert_eq!(store.begin_epoch(above, recovery()).await.unwrap(), 2);
    assert_eq!(store.epoch().await.unwrap(), 2);
    assert_eq!(store.session(Digest::of(b"a"), NOW).await.unwrap(), None);
    assert_eq!(store.publication(&audience()).await.unwrap().serial, 71);
    assert_eq!(store.watch().borrow().of(&audience()), 71);
    assert_eq!(create(&store, "ERP").await.serial, 72);
}
