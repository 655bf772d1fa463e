//! What the publisher reads and writes down, and the audit log.

use std::sync::Arc;

use super::*;
use crate::core::Digest;
use crate::registrar::store::{
    ArtefactHead, ArtefactKind, ArtefactState, AuditHead, AuditQuery, ChainFault, Checkpoint,
    PublishedBase, SidecarReport, SnapshotKey, StoredArtefact,
};

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
    let mut draft = artefact(ArtefactKind::Patch, 6, b"draft");
    draft.head.state = ArtefactState::Draft;
    store.put_artefact(draft).await.unwrap();
    let signed = artefact(ArtefactKind::Patch, 6, b"draft, signed");
    assert_eq!(store.put_artefact(signed.clone()).await.unwrap(), signed);
    let publication = store.publication(&audience()).await.unwrap();
    assert_eq!(publication.patch, Some(signed.head));
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
    assert_eq!(store.forget_sidecars(&audience(), NOW + 20).await.unwrap(), 1);
    assert_eq!(store.sidecars(&audience()).await.unwrap().len(), 1);
}

pub(crate) async fn what_was_about_to_be_signed_is_kept(store: Arc<dyn Store>) {
    assert_eq!(store.noted_signing(&audience()).await.unwrap(), 0);
    for (serial, highest) in [(7, 7), (5, 7), (9, 9)] {
        store.note_signing(&audience(), serial).await.unwrap();
        assert_eq!(store.noted_signing(&audience()).await.unwrap(), highest);
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
