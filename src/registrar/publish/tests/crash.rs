//! A process that ends at each point of publishing.

use std::process::Command;

use super::*;
use crate::registrar::store::sql::crash::in_tests::VARIABLE;

/// Where a process may end.
const POINTS: [&str; 9] = [
    "after snapshot",
    "after sign",
    "after store",
    "after claim",
    "after table",
    "after base",
    "after targets",
    "after published",
    "between targets",
];

/// A child publishes until it is killed at a point. The next process publishes what was
/// acknowledged, no serial has two bodies, and a sidecar refuses nothing of it.
fn crash_round(house: &House, point: &str, count: u64) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "registrar::publish::tests::crash::child", "--ignored", "--nocapture"])
        .env(VARIABLE, format!("{point}:{count}"))
        .env("KEYGATE_TEST_HOUSE", &house.root)
        .output()
        .unwrap();
    assert!(!child.status.success(), "{point}:{count}: the child was not ended");
    let told = String::from_utf8_lossy(&child.stdout).into_owned();
    let mut sidecar = house.sidecar();
    let before: Vec<_> = ["keys.kgt", "keys.kgp"]
        .iter()
        .filter_map(|name| fs::read(house.root.join("out").join(name)).ok())
        .map(|bytes| crate::table::Manifest::unverified(&bytes).unwrap())
        .collect();
    if house.root.join("out/keys.kgt").exists() {
        sidecar.look(house).unwrap_or_else(|e| panic!("{point}:{count}: {e}"));
    }
    run(async {
        let service = house.serve().await;
        service.until(|state| state.published_ms.is_some()).await;
        let serial = service.store.publication(&audience()).await.unwrap().serial;
        service.published(serial).await;
        sidecar.look(house).unwrap_or_else(|e| panic!("{point}:{count}: {e}"));
        for line in told.lines().filter_map(|line| line.strip_prefix("done ")) {
            let (id, status) = line.split_once(' ').unwrap();
            let id = KeyId::parse(id).unwrap();
            let key = service.store.key(&audience(), None, suite_ref(id)).await.unwrap();
            // It may have revoked the key without having said so.
            let is = key.entry.status;
            assert!(is.as_str() == status || is == KeyStatus::Revoked, "{point}:{count}");
            assert_eq!(sidecar.status(&key.entry.digest), Some(is), "{point}:{count}");
        }
        for manifest in before {
            for name in ["keys.kgt", "keys.kgp"] {
                let now = fs::read(house.root.join("out").join(name)).unwrap();
                let now = crate::table::Manifest::unverified(&now).unwrap();
                if (now.serial, now.kind) == (manifest.serial, manifest.kind) {
                    assert_eq!(now.body_sha256, manifest.body_sha256, "{point}:{count}");
                }
            }
        }
        assert_eq!(service.state().behind, None, "{point}:{count}");
        service.publisher.stop();
    });
}

#[test]
fn a_process_that_ends_while_it_publishes_loses_nothing() {
    for (n, point) in POINTS.iter().enumerate() {
        // The first table passes all of them once; later rounds are about patches alone.
        let often = !matches!(*point, "after claim" | "after table" | "after base");
        crash_round(&House::new(), point, 1);
        if often && n % 2 == 0 {
            crash_round(&House::new(), point, 4);
        }
    }
}

#[test]
fn a_process_that_ends_while_it_publishes_from_a_server_loses_nothing() {
    for point in POINTS {
        crash_round(&House::on_server(), point, 1);
    }
}

#[test]
#[ignore = "takes minutes: `make test-admin-full`"]
fn a_process_that_ends_while_it_publishes_loses_nothing_in_many_rounds() {
    for round in 0..200_u64 {
        let point = POINTS[round as usize % POINTS.len()];
        let often = !matches!(point, "after claim" | "after table" | "after base");
        let house = if round % 2 == 0 { House::new() } else { House::on_server() };
        crash_round(&house, point, if often { 1 + round / 8 % 7 } else { 1 });
    }
}

/// The child process that the tests above kill.
#[test]
#[ignore = "is run by the tests above, as a process of its own"]
fn child() {
    let root = std::env::var_os("KEYGATE_TEST_HOUSE").map(PathBuf::from).unwrap();
    run(async {
        let service = House::at(&root).serve().await;
        for n in 0..20 {
            let made = create(&service.store, &format!("key {n}")).await;
            println!("done {} active", made.key.entry.id);
            if n % 3 == 0 {
                let serial = revoke(&service.store, made.key.entry.id).await.unwrap();
                println!("done {} revoked", made.key.entry.id);
                service.published(serial).await;
            }
        }
    });
}
