//! A database that was restored from a backup, and its recovery.

use super::super::recover::{PublishedKeys, RecoveredCounts, RecoveryTerms};
use super::recovered::{copies, fetched};
use super::*;
use crate::registrar::store::{KeyChange, Serials};

/// Backup, changes, restore, start: no key that was revoked since works again, at any time.
#[test]
fn a_restored_database_brings_nothing_back() {
    let house = House::new();
    let mut sidecar = house.sidecar();
    run(async {
        let service = house.serve().await;
        let leaked = create(&service.store, "leaked").await;
        let kept = create(&service.store, "kept").await;
        service.published(kept.serial).await;
        let copy = house.root.join("copy.db");
        SqliteStore::backup(&house.database(), &copy, Duration::from_secs(5), 7).unwrap();
        revoke(&service.store, leaked.key.entry.id).await.unwrap();
        let newer = create(&service.store, "newer").await;
        service.published(newer.serial).await;
        sidecar.look(&house).unwrap();
        service.publisher.stop();
        let digest = leaked.key.entry.digest;
        assert_eq!(sidecar.status(&digest), Some(KeyStatus::Revoked));
        close(&house, service.store).await;

        restore(&house, &copy);
        let service = house.serve().await;
        let state = service.state();
        let said = state.behind.clone().unwrap().to_string();
        assert!(said.contains("at serial"), "{said}");
        assert!(matches!(
            service.store.change(request(host(), KeyChange::Create(Box::new(new_key("x"))))).await,
            Err(StoreError::ReadOnly { .. })
        ));
        assert!(service.shelf.get("shop").table.served().is_none(), "nothing older is served");
        sidecar.look(&house).unwrap();
        assert_eq!(sidecar.status(&digest), Some(KeyStatus::Revoked));
        let mut fresh = house.sidecar();
        fresh.look(&house).unwrap();
        assert_eq!(fresh.status(&digest), Some(KeyStatus::Revoked));

        recover(&house, &service.store).await;
        service.until(|state| state.behind.is_none() && state.published_ms.is_some()).await;
        for sidecar in [&mut sidecar, &mut fresh, &mut house.sidecar()] {
            sidecar.look(&house).unwrap();
            assert_eq!(sidecar.status(&digest), Some(KeyStatus::Revoked));
            for made in [&kept, &newer] {
                let digest = made.key.entry.digest;
                assert_eq!(sidecar.status(&digest), Some(KeyStatus::Active));
            }
        }
        let back =
            service.store.key(&audience(), None, suite_ref(newer.key.entry.id)).await.unwrap();
        assert!(back.entry.note.contains("recovered"));
        assert_eq!(back.uid, newer.key.uid, "its callers know it by that");
        assert_eq!(back.entry.created, Some(suite::NOW / 1000), "when it was recovered");
        let known = service.store.key(&audience(), None, suite_ref(leaked.key.entry.id)).await;
        assert_eq!(known.unwrap().uid, leaked.key.uid);
        // It continues from there.
        let serial = revoke(&service.store, kept.key.entry.id).await.unwrap();
        service.published(serial).await;
        sidecar.look(&house).unwrap();
        assert_eq!(sidecar.status(&kept.key.entry.digest), Some(KeyStatus::Revoked));
        let log = service.store.verify_audit(Vec::new()).await.unwrap();
        assert!(log.is_empty(), "{log:?}");
        service.publisher.stop();
        assert!(house.serve().await.state().behind.is_none());
    });
}

/// On a host whose high-water file is alone in knowing a line that was lost: the database has gone on
/// since, and the published files at hand are older.
#[test]
fn files_older_than_the_database_take_nothing_back() {
    let house = House::new();
    run(async {
        let service = house.serve().await;
        let kept = create(&service.store, "kept").await;
        let last = create(&service.store, "last").await;
        service.published(last.serial).await;
        let old = copies(&house);
        let leaked = kept.key.entry.id;
        revoke(&service.store, leaked).await.unwrap();
        let disabled = request(host(), set(last.key.entry.id, StatusChange::Disable));
        service.store.change(disabled).await.unwrap();
        let newer = create(&service.store, "newer").await;
        service.published(newer.serial).await;
        service.publisher.stop();
        let published = published_in(&house, &old, &service.store).await;
        assert!(published.serial < newer.serial);
        let counts = recovered(&published, &service.store, newer.serial + 7).await;
        assert_eq!((counts.changed, counts.revoked, counts.returned), (0, 0, 0));
        assert_eq!(counts.differing, [last.key.entry.id], "for people to look at");
        assert_eq!(counts.serial, newer.serial + 8);
        for (id, status) in [
            (leaked, KeyStatus::Revoked),
            (last.key.entry.id, KeyStatus::Disabled),
            (newer.key.entry.id, KeyStatus::Active),
        ] {
            let key = service.store.key(&audience(), None, suite_ref(id)).await.unwrap();
            assert_eq!(key.entry.status, status, "{}", key.entry.name);
        }
    });
}

/// A database that went back, and was changed before anybody noticed.
#[test]
fn a_published_revocation_reaches_a_database_that_went_another_way() {
    let house = House::new();
    run(async {
        let service = house.serve().await;
        let leaked = create(&service.store, "leaked").await;
        service.published(leaked.serial).await;
        let copy = house.root.join("copy.db");
        SqliteStore::backup(&house.database(), &copy, Duration::from_secs(5), 7).unwrap();
        let serial = revoke(&service.store, leaked.key.entry.id).await.unwrap();
        service.published(serial).await;
        let files = copies(&house);
        service.publisher.stop();
        close(&house, service.store).await;
        restore(&house, &copy);
        let store = house.store();
        for name in ["a", "b", "c"] {
            create(&store, name).await;
        }
        let published = published_in(&house, &files, &store).await;
        let counts = recovered(&published, &store, serial).await;
        assert_eq!((counts.changed, counts.revoked, counts.returned), (0, 1, 0));
        let key = store.key(&audience(), None, suite_ref(leaked.key.entry.id)).await.unwrap();
        assert_eq!(key.entry.status, KeyStatus::Revoked);
    });
}

/// Puts a copy in the place of the database.
fn restore(house: &House, copy: &Path) {
    for tail in ["-wal", "-shm"] {
        fs::remove_file(house.root.join(format!("state/registrar.db{tail}"))).ok();
    }
    fs::rename(copy, house.database()).unwrap();
}

async fn published_in(house: &House, files: &[PathBuf], store: &Arc<dyn Store>) -> PublishedKeys {
    PublishedKeys::of_audience(&fetched(house), files, &**store).await.unwrap()
}

async fn recovered(
    published: &PublishedKeys,
    store: &Arc<dyn Store>,
    above: u64,
) -> RecoveredCounts {
    let snapshot = store.snapshot(&audience(), 0).await.unwrap();
    let terms = RecoveryTerms { audience: audience(), actor: host(), at_ms: suite::NOW, above };
    published.recover(&**store, snapshot, terms).await.unwrap()
}

/// The steps of `admin recover`.
async fn recover(house: &House, store: &Arc<dyn Store>) {
    let settings = house.settings();
    let compared = compare(&settings, store, &Clock::system()).await.unwrap().remove(0);
    let seen = compared.evidence.iter().map(|evidence| evidence.serial).max().unwrap();
    let published =
        PublishedKeys::of_audience(&settings.audiences[0], &[], &**store).await.unwrap();
    assert_eq!(published.serial, seen);
    let counts = recovered(&published, store, seen).await;
    assert_eq!((counts.changed, counts.revoked, counts.returned), (1, 0, 1));
    let above = Serials([(audience(), counts.serial)].into());
    store.begin_epoch(above, suite::recovery()).await.unwrap();
    let head = store.audit_head().await.unwrap();
    settle_high_water(&settings.state, head).unwrap();
}
