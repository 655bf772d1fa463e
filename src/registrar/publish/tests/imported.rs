//! An import that stopped half-way: the keys that are missing end at no sidecar.

use super::*;
use crate::registrar::publish::behind::Behind;
use crate::registrar::store::KeyChange;

fn part_of(entries: &[RegistryEntry], above: u64, part: ImportPart) -> ImportBatch {
    ImportBatch {
        audience: audience(),
        actor: host(),
        channel: Channel::default(),
        at_ms: suite::NOW,
        settings: None,
        above,
        part,
        entries: entries.to_vec(),
    }
}

#[test]
fn keys_that_are_not_in_yet_stay_in_force() {
    let house = House::new();
    let mut sidecar = house.sidecar();
    run(async {
        let service = house.serve().await;
        let keys = import(&service.store, 4).await;
        let above = service.store.publication(&audience()).await.unwrap().serial;
        service.published(above).await;
        service.publisher.stop();
        close(&house, service.store).await;
        fs::remove_dir_all(house.root.join("state")).unwrap();
        fs::create_dir(house.root.join("state")).unwrap();

        // The process is killed, or the database goes away, after the first batch.
        let store = house.store();
        let above = above.max(sidecar_serial(&house));
        store.import(part_of(&keys[..2], above, ImportPart::Early)).await.unwrap();
        close(&house, store).await;
        let service = house.serve().await;
        assert_eq!(service.state().behind, Some(Behind::Import { of: above }));
        let change = request(host(), KeyChange::Create(Box::new(new_key("x"))));
        let refused = service.store.change(change).await;
        assert!(matches!(refused, Err(StoreError::ReadOnly { .. })), "{refused:?}");
        // Longer than between two looks.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(service.shelf.get("shop").table.served().is_none(), "nothing is served");
        sidecar.look(&house).unwrap();
        for key in &keys {
            assert_eq!(sidecar.status(&key.digest), Some(KeyStatus::Active));
        }
        service.publisher.stop();
        close(&house, service.store).await;

        // The same import again passes over what is in.
        let store = house.store();
        store.import(part_of(&keys[..2], above, ImportPart::Early)).await.unwrap();
        let done = store.import(part_of(&keys[2..], above, ImportPart::Last)).await.unwrap();
        close(&house, store).await;
        let service = house.serve().await;
        assert_eq!(service.state().behind, None);
        service.published(done.serial).await;
        sidecar.look(&house).unwrap();
        for key in &keys {
            assert_eq!(sidecar.status(&key.digest), Some(KeyStatus::Active));
        }
        service.publisher.stop();
    });
}

/// Of the newest published file.
fn sidecar_serial(house: &House) -> u64 {
    let files = ["keys.kgt", "keys.kgp"].map(|name| house.root.join("out").join(name));
    let manifests =
        files.iter().filter_map(|path| super::super::target::there(path).ok().flatten());
    manifests.map(|manifest| manifest.serial).max().unwrap_or_default()
}
