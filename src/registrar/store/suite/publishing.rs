//! The publisher's reads and writes, and the audit log.

use std::sync::Arc;

use super::*;
use crate::core::Digest;
use crate::registrar::store::{
    ArtefactHead, ArtefactKind, ArtefactState, AuditHead, AuditQuery, ChainFault, Checkpoint,
    PublishedBase, SidecarReport, SnapshotKey, StoredArtefact, TableToPublish,
};
use crate::table::testkit::{Signer, issue, spec, table_file};

async fn snapshot(store: &Arc<dyn Store>, since: u64) -> Vec<SnapshotKey> {
    let mut snapshot = store.snapshot(&audience(), since).await.unwrap();
    let mut keys = Vec::new();
    while let Some(batch) = snapshot.keys.recv().await {
        keys.extend(batch.unwrap());
    }
    keys
}

pub(crate) async fn a_snapshot_is_of_one_serial(store: Arc<dyn Store>) {
    for n in 0..10 {
        create(&store, &format!("key {n}")).await;
    }
    let mut taken = store.snapshot(&audience(), 0).await.unwrap();
    create(&store, "afterwards").await;
    assert_eq!(taken.serial, 10);
    let mut seen = 0;
    while let Some(batch) = taken.keys.recv().await {
        seen += batch.unwrap().len();
    }
    assert_eq!(seen, 10);
    let changed = snapshot(&store, 9).await;
    assert_eq!(changed.iter().map(|key| key.changed).collect::<Vec<_>>(), [10, 11]);
    let nowhere = AudienceName::parse("nowhere").unwrap();
    let none = store.snapshot(&nowhere, 0).await;
    assert!(matches!(none, Err(StoreError::NoSuchAudience)), "{none:?}");
}

pub(crate) async fn removed_secrets_stay_until_the_next_table(store: Arc<dyn Store>) {
    let made = create_pair(&store, "pair").await;
    let (id, first) = (made.key.entry.id, made.key.entry.digest);
    let rotate = |overlap, at_ms| {
        let request = request(admin("kim"), rotation(id, overlap));
        store.change(ChangeRequest { at_ms, ..request })
    };
    let second = rotate(60, NOW).await.unwrap().key.entry.digest;
    let found = store.key_of_secret(&audience(), first).await.unwrap();
    assert_eq!(found.unwrap().entry.id, id, "both are valid");
    rotate(60, NOW + 61_000).await.unwrap();
    assert_eq!(store.key_of_secret(&audience(), first).await.unwrap(), None, "a former former one");
    let keys = snapshot(&store, 0).await;
    assert_eq!(keys[0].removed, [first]);
    assert_eq!(keys[0].entry.previous.unwrap().digest, second);
    store.change(request(admin("kim"), set(id, StatusChange::RevokeFormer))).await.unwrap();
    let mut gone = [first, second];
    gone.sort();
    assert_eq!(snapshot(&store, 0).await[0].removed, gone);
    store.set_base(base(3)).await.unwrap();
    assert_eq!(snapshot(&store, 0).await[0].removed, [second], "the table knows the third");
    store.set_base(base(4)).await.unwrap();
    assert_eq!(snapshot(&store, 0).await[0].removed, []);
}

fn base(serial: u64) -> PublishedBase {
    PublishedBase { audience: audience(), serial, includes: serial }
}

fn artefact(kind: ArtefactKind, serial: u64, body: &[u8]) -> StoredArtefact {
    let head = ArtefactHead {
        audience: audience(),
        kind,
        serial,
        base: 1,
        state: ArtefactState::Signed,
        sha256: Digest::of(body),
        bytes: body.len() as u64,
        made_ms: NOW,
    };
    StoredArtefact { head, body: body.to_vec() }
}

pub(crate) async fn the_first_artefact_of_a_serial_stays(store: Arc<dyn Store>) {
    let large = vec![7; (1 << 20) * 2 + 5];
    let first = artefact(ArtefactKind::Patch, 5, &large);
    assert_eq!(store.put_artefact(first.clone()).await.unwrap(), first);
    let second = artefact(ArtefactKind::Patch, 5, b"other");
    assert_eq!(store.put_artefact(second).await.unwrap(), first);
    let kept = store.artefact(&audience(), ArtefactKind::Patch, 5).await.unwrap();
    assert_eq!(kept, Some(first.clone()));
    assert_eq!(store.artefact(&audience(), ArtefactKind::Table, 5).await.unwrap(), None);
    for serial in [1, 7, 9] {
        let table = artefact(ArtefactKind::Table, serial, b"table");
        store.put_artefact(table).await.unwrap();
        store.set_base(base(serial)).await.unwrap();
    }
    let there = |kind, serial| {
        let store = Arc::clone(&store);
        async move { store.artefact(&audience(), kind, serial).await.unwrap().is_some() }
    };
    assert!(!there(ArtefactKind::Table, 1).await && !there(ArtefactKind::Patch, 5).await);
    assert!(there(ArtefactKind::Table, 7).await && there(ArtefactKind::Table, 9).await);
}

/// As it is while others have to sign it.
fn draft(kind: ArtefactKind, serial: u64, base: u64, body: &[u8]) -> StoredArtefact {
    let made = artefact(kind, serial, body);
    let head = ArtefactHead { state: ArtefactState::Draft, base, ..made.head };
    StoredArtefact { head, ..made }
}

fn signed(draft: &StoredArtefact, body: &[u8]) -> StoredArtefact {
    let made = artefact(draft.head.kind, draft.head.serial, body);
    StoredArtefact { head: ArtefactHead { base: draft.head.base, ..made.head }, ..made }
}

pub(crate) async fn a_draft_gets_more_signatures_and_never_fewer(store: Arc<dyn Store>) {
    create(&store, "CRM").await;
    let first = draft(ArtefactKind::Patch, 6, 0, b"draft");
    assert_eq!(store.put_artefact(first.clone()).await.unwrap(), first);
    let other = draft(ArtefactKind::Patch, 6, 0, b"DRAFT, made again");
    assert_eq!(store.put_artefact(other).await.unwrap(), first, "the first stays");
    // As many signatures as the stored one has, by somebody else: the second one gets the stored
    // one.
    let other = draft(ArtefactKind::Patch, 6, 0, b"DRAFT");
    assert_eq!(store.sign_draft(other).await.unwrap(), Some(first.clone()));
    let more = draft(ArtefactKind::Patch, 6, 0, b"draft and");
    assert_eq!(store.sign_draft(more.clone()).await.unwrap(), Some(more.clone()));
    assert_eq!(store.sign_draft(first.clone()).await.unwrap(), Some(more.clone()));
    let early = signed(&first, b"draft");
    assert_eq!(store.sign_draft(early).await.unwrap(), Some(more.clone()), "one would be lost");
    assert_eq!(store.publication(&audience()).await.unwrap().signed_patch, None);
    let done = signed(&first, b"draft and");
    assert_eq!(store.sign_draft(done.clone()).await.unwrap(), Some(done.clone()));
    let late = draft(ArtefactKind::Patch, 6, 0, b"draft and and");
    assert_eq!(store.sign_draft(late).await.unwrap(), Some(done.clone()), "it is published");
    let publication = store.publication(&audience()).await.unwrap();
    assert_eq!(publication.patch, Some(done.head.clone()));
    assert_eq!(publication.signed_patch, Some(done.head));
    let unknown = draft(ArtefactKind::Patch, 9, 0, b"draft");
    assert_eq!(store.sign_draft(unknown).await.unwrap(), None);
    // Enough have signed a table that is not in force yet, but more may have to by then.
    let table = table_draft(20, 0);
    assert!(store.publish_table(table.clone()).await.unwrap());
    let mut body = table.artefact.body.clone();
    let done = signed(&table.artefact, &body);
    assert_eq!(store.sign_draft(done.clone()).await.unwrap(), Some(done.clone()));
    assert_eq!(store.sign_draft(table.artefact.clone()).await.unwrap(), Some(done));
    body.extend(b"and");
    let more = draft(ArtefactKind::Table, 20, 20, &body);
    let kept = store.sign_draft(more).await.unwrap();
    assert_eq!(kept, Some(signed(&table.artefact, &body)), "it stays signed");
}

fn table_draft(serial: u64, after: u64) -> TableToPublish {
    let file = table_file(&[spec(1)], issue(serial, &[&Signer::new(1)]), &[&Signer::new(1)]);
    let artefact = draft(ArtefactKind::Table, serial, serial, &file);
    TableToPublish { artefact, includes: 1, after, settings: "mark".into(), lease: None }
}

/// Patches are never for something half-signed, and of two waiting tables or patches the later one
/// stays.
pub(crate) async fn a_draft_gives_way_to_the_next(store: Arc<dyn Store>) {
    for n in 0..3 {
        create(&store, &format!("key {n}")).await;
    }
    let put = |draft: StoredArtefact| {
        let store = Arc::clone(&store);
        async move { store.put_artefact(draft).await }
    };
    let release = |serial| {
        let store = Arc::clone(&store);
        async move { store.release_table(&audience(), serial).await.unwrap() }
    };
    let there = |kind, serial| {
        let store = Arc::clone(&store);
        async move { store.artefact(&audience(), kind, serial).await.unwrap().is_some() }
    };
    let (table, patch) = (ArtefactKind::Table, ArtefactKind::Patch);
    let first = table_draft(4, 0);
    assert!(store.publish_table(first.clone()).await.unwrap());
    let publication = store.publication(&audience()).await.unwrap();
    assert_eq!((publication.serial, publication.base), (5, 0), "its serial is taken");
    let over = draft(patch, 5, 4, b"patch");
    put(over.clone()).await.unwrap();
    assert!(!release(4).await, "neither is signed");
    let done = signed(&over, b"patch, signed");
    store.sign_draft(done.clone()).await.unwrap().unwrap();
    assert!(!release(4).await, "the table is not");
    let body = first.artefact.body.clone();
    store.sign_draft(signed(&first.artefact, &body)).await.unwrap().unwrap();
    assert!(release(4).await);
    let publication = store.publication(&audience()).await.unwrap();
    assert_eq!((publication.base, publication.settings.as_deref()), (4, Some("mark")));
    assert_eq!(publication.signed_patch, Some(done.head));
    let stale = store.publish_table(table_draft(9, 0)).await.unwrap();
    assert!(!stale, "its keys were read before the table in force");
    // A second table waits with its patch, and gives way to a patch over the first.
    create(&store, "next").await;
    assert!(store.publish_table(table_draft(7, 4)).await.unwrap());
    put(draft(patch, 8, 7, b"patch")).await.unwrap();
    create(&store, "after it").await;
    put(draft(patch, 9, 4, b"another")).await.unwrap();
    assert!(!there(table, 7).await && !there(patch, 8).await, "given up");
    assert!(there(table, 4).await && there(patch, 5).await, "in force");
    for (late, why) in [
        (draft(patch, 8, 4, b"late"), "a later patch is kept"),
        (draft(patch, 10, 7, b"late"), "the table of this patch was given up"),
    ] {
        match put(late).await {
            Err(StoreError::Conflict { why: told }) => assert_eq!(told, why),
            other => panic!("{why}: {other:?}"),
        }
    }
    // A table is useless behind a patch that sidecars have.
    assert!(store.publish_table(table_draft(11, 4)).await.unwrap());
    let ahead = draft(patch, 13, 4, b"signed meanwhile");
    put(signed(&ahead, b"signed meanwhile")).await.unwrap();
    let late = put(draft(patch, 14, 11, b"over it")).await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
    assert!(!release(11).await);
    assert_eq!(store.publication(&audience()).await.unwrap().base, 4);
}

pub(crate) async fn what_is_published_never_goes_back(store: Arc<dyn Store>) {
    for n in 0..3 {
        create(&store, &format!("key {n}")).await;
    }
    for (set, want) in [(2, 2), (1, 2), (3, 3), (99, 3)] {
        store.set_published(&audience(), set).await.unwrap();
        assert_eq!(store.publication(&audience()).await.unwrap().published, want, "{set}");
    }
    store.set_base(base(2)).await.unwrap();
    store.set_base(base(1)).await.unwrap();
    assert_eq!(store.publication(&audience()).await.unwrap().base, 2);
}

pub(crate) async fn sidecars_are_known_by_their_last_word(store: Arc<dyn Store>) {
    let report = |instance: &str, serial, seen_ms| SidecarReport {
        audience: audience(),
        fleet: "web".into(),
        instance: instance.into(),
        serial,
        base: 1,
        seen_ms,
        error: None,
    };
    for (instance, serial, seen) in [("b", 1, 10), ("a", 3, 20), ("a", 2, 15)] {
        store.put_sidecar(report(instance, serial, NOW + seen)).await.unwrap();
    }
    let known = store.sidecars(&audience()).await.unwrap();
    assert_eq!(known, [report("a", 3, NOW + 20), report("b", 1, NOW + 10)]);
    // One of them has reported since.
    let silent = vec![report("a", 2, NOW + 19), report("b", 1, NOW + 10), report("c", 1, NOW)];
    assert_eq!(store.forget_sidecars(silent).await.unwrap(), 1);
    assert_eq!(store.sidecars(&audience()).await.unwrap(), [report("a", 3, NOW + 20)]);
}

pub(crate) async fn what_was_about_to_be_signed_is_kept(store: Arc<dyn Store>) {
    assert_eq!(store.noted_signing(&audience()).await.unwrap(), 0);
    for (serial, highest) in [(7, 7), (5, 7), (9, 9)] {
        store.note_signing(&audience(), serial).await.unwrap();
        assert_eq!(store.noted_signing(&audience()).await.unwrap(), highest);
    }
    for (refused, before, noted) in [(7, 5, 9), (9, 7, 7), (7, 0, 0)] {
        store.withdraw_signing(&audience(), refused, before).await.unwrap();
        assert_eq!(store.noted_signing(&audience()).await.unwrap(), noted);
    }
}

pub(crate) async fn a_lease_has_one_holder(store: Arc<dyn Store>) {
    let take = |holder: &'static str, at: u64| store.lease("fold", holder, NOW + at, NOW + at + 10);
    assert_eq!(take("a", 0).await.unwrap().unwrap().epoch, 1);
    assert_eq!(take("b", 5).await.unwrap(), None);
    assert_eq!(take("a", 8).await.unwrap().unwrap().epoch, 1, "renewed");
    assert_eq!(take("b", 18).await.unwrap().unwrap().epoch, 2, "the first has let it run out");
    assert_eq!(take("a", 19).await.unwrap(), None);
    let year = 365 * 86_400_000;
    assert_eq!(take("b", year).await.unwrap().unwrap().epoch, 2, "its clock is ahead");
    assert_eq!(take("a", 25).await.unwrap().unwrap().epoch, 3, "and binds nobody");
    assert_eq!(take("a", 36).await.unwrap().unwrap().epoch, 3);
    assert_eq!(take("b", 30).await.unwrap(), None, "clocks that differ by little");
}

pub(crate) async fn the_log_tells_of_every_change_in_order(store: Arc<dyn Store>) {
    let made = create(&store, "CRM").await;
    let id = made.key.entry.id;
    rename(&store, id, "CRM 2", None).await.unwrap();
    store.change(request(admin("kim"), rotation(id, 60))).await.unwrap();
    let query = AuditQuery { object: Some(id.to_string().into()), limit: 2, ..Default::default() };
    let page = store.audit(query.clone()).await.unwrap();
    let actions: Vec<_> = page.lines.iter().map(|line| &*line.action).collect();
    assert_eq!(actions, ["rotate", "edit"]);
    let older = store.audit(AuditQuery { before: page.next, ..query }).await.unwrap();
    assert_eq!((older.lines.len(), older.next), (1, None));
    let edit = &page.lines[1];
    assert_eq!(&*edit.detail, r#"{"name":["CRM","CRM 2"]}"#);
    assert_eq!(&*edit.actor, "product shop kim");
    assert_eq!((&*edit.address, &*edit.request_id, edit.serial), ("192.0.2.7", "r-1", 2));
    let head = store.audit_head().await.unwrap();
    assert_eq!(head.seq, 4, "a rotation of a single key tells of both keys");
    assert_eq!(store.verify_audit(vec![head]).await.unwrap(), []);
    let further = AuditHead { seq: 9, ..head };
    let cut = ChainFault::TailCut { found: 4, known: 9 };
    assert_eq!(store.verify_audit(vec![further]).await.unwrap(), [cut]);
    let checkpoint = Checkpoint {
        head: AuditHead { seq: 2, hash: head.hash },
        signer: "s".into(),
        signature: vec![1],
        at_ms: NOW,
    };
    store.put_checkpoint(checkpoint.clone()).await.unwrap();
    assert_eq!(store.checkpoints().await.unwrap(), [checkpoint]);
    let other = ChainFault::OtherTail { seq: 2 };
    assert_eq!(store.verify_audit(Vec::new()).await.unwrap(), [other]);
}
