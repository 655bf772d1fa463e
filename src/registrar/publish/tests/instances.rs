//! Two instances on one database: each publishes what the other publishes, with the same bodies,
//! and sidecars of both accept all of it, even while tables are built.

use std::collections::BTreeMap;

use super::*;
use crate::registrar::store::{
    ArtefactKind, ArtefactState, StoredArtefact, TableToPublish, UsedLease,
};
use crate::table::Manifest;

#[test]
fn two_instances_publish_the_same_and_sidecars_take_it() {
    let a = House::on_server();
    let b = a.beside();
    let mut sidecars = [a.sidecar(), b.sidecar()];
    let mut bodies: BTreeMap<(String, u64), String> = BTreeMap::new();
    let mut look = |sidecars: &mut [Sidecar; 2]| {
        for (sidecar, house) in sidecars.iter_mut().zip([&a, &b]) {
            sidecar.look(house).unwrap();
            for name in ["keys.kgt", "keys.kgp"] {
                let bytes = fs::read(house.root.join("out").join(name)).unwrap();
                let manifest = Manifest::unverified(&bytes).unwrap();
                let place = (manifest.kind.to_string(), manifest.serial);
                let body = format!("{:?}", manifest.body_sha256);
                let first = bodies.entry(place.clone()).or_insert_with(|| body.clone());
                assert_eq!(*first, body, "{place:?}");
            }
        }
    };
    run(async {
        let services = [a.serve().await, b.serve().await];
        for service in &services {
            service.until(|state| state.published > 0).await;
        }
        let mut tables = services[0].state().base;
        for n in 0..24 {
            let service = &services[n % 2];
            let made = create(&service.store, &format!("key {n}")).await;
            let serial = match n % 3 {
                0 => revoke(&service.store, made.key.entry.id).await.unwrap(),
                _ => made.serial,
            };
            if n % 8 == 7 {
                change_settings(&service.store, n).await;
                for service in &services {
                    service.until(|state| state.base > tables).await;
                }
                tables = services[0].state().base;
            }
            for service in &services {
                service.published(serial).await;
            }
            look(&mut sidecars);
            let wanted = if n % 3 == 0 { KeyStatus::Revoked } else { KeyStatus::Active };
            for sidecar in &sidecars {
                assert_eq!(sidecar.status(&made.key.entry.digest), Some(wanted), "{n}");
            }
        }
        for service in services {
            assert_eq!(service.state().behind, None);
            assert_eq!(service.store.verify_audit(Vec::new()).await.unwrap(), []);
            service.publisher.stop();
        }
    });
}

/// Only the holder of the lease publishes a table, above all changes; no patch is for a former
/// table.
#[test]
fn a_table_is_published_by_its_holder_alone() {
    let house = House::on_server();
    run(async {
        let store = house.store();
        create(&store, "CRM").await;
        let table = |serial: u64, after: u64, holder: &str, epoch: u64| {
            let body = b"a table".to_vec();
            let head = crate::registrar::store::ArtefactHead {
                audience: audience(),
                kind: ArtefactKind::Table,
                serial,
                base: serial,
                state: ArtefactState::Signed,
                sha256: Digest::of(&body),
                bytes: body.len() as u64,
                made_ms: suite::NOW,
            };
            let name = "fold shop".into();
            TableToPublish {
                artefact: StoredArtefact { head, body },
                includes: 1,
                after,
                settings: "mark".into(),
                lease: Some(UsedLease { name, holder: holder.into(), epoch }),
            }
        };
        let lease = |holder: &'static str, at: u64| {
            store.lease("fold shop", holder, suite::NOW + at, suite::NOW + at + 10)
        };
        let first = lease("a", 0).await.unwrap().unwrap().epoch;
        let second = lease("b", 20).await.unwrap().unwrap().epoch;
        assert!(second > first);
        for (serial, after, holder, epoch, want) in [
            (5, 0, "a", first, false),
            (5, 0, "b", first, false),
            (1, 0, "b", second, false),
            (5, 0, "b", second, true),
            (5, 0, "b", second, false),
            // Its keys were read before the table with serial 5.
            (9, 0, "b", second, false),
        ] {
            let done = store.publish_table(table(serial, after, holder, epoch)).await.unwrap();
            assert_eq!(done, want, "{serial} {after} {holder} {epoch}");
        }
        let publication = store.publication(&audience()).await.unwrap();
        assert_eq!((publication.serial, publication.base), (6, 5));
        assert_eq!(publication.settings.as_deref(), Some("mark"));
        let mut late = table(7, 5, "a", first).artefact;
        (late.head.kind, late.head.base) = (ArtefactKind::Patch, 1);
        let refused = store.put_artefact(late).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    });
}
