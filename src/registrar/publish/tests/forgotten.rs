//! Sidecars that are gone for good, and those that are too many.

use super::super::fleet::{FORGET_MS, MOST};
use super::super::status::FLEET;
use super::*;

fn report(fleet: &str, instance: &str, seen_ms: u64) -> SidecarReport {
    SidecarReport {
        audience: audience(),
        fleet: fleet.into(),
        instance: instance.into(),
        serial: 0,
        base: 0,
        seen_ms,
        error: None,
    }
}

async fn until(service: &Service, want: &[&str]) {
    let look = async {
        loop {
            let stored = service.store.sidecars(&audience()).await.unwrap();
            let stored: Vec<_> = stored.iter().map(|report| &*report.instance).collect();
            let known = service.publisher.handle().sidecars(&audience());
            let known: Vec<_> = known.iter().map(|report| &*report.instance).collect();
            if stored == want && known == want {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, look).await.unwrap();
}

/// At the start and while the service runs, in the database too.
#[test]
fn a_sidecar_that_is_silent_for_a_day_is_forgotten() {
    let house = House::new();
    let file = house.root.join("admin.toml");
    let asked = "[[status.pull]]\nurl = \"http://127.0.0.1:1/status\"\n";
    fs::write(&file, format!("{}{asked}", fs::read_to_string(&file).unwrap())).unwrap();
    run(async {
        let clock = Clock::manual(suite::NOW / 1000);
        let now_ms = clock.now().unix_ms;
        let store = house.store();
        for told in [
            report("web", "pod-1", now_ms - FORGET_MS - 1),
            report("web", "pod-2", now_ms - FORGET_MS / 2),
            report(FLEET, "127.0.0.1:1", 0),
            // Nobody asks it any more.
            report(FLEET, "127.0.0.1:2", 0),
        ] {
            store.put_sidecar(told).await.unwrap();
        }
        drop(store);
        let service = house.serve_at(clock.clone()).await;
        until(&service, &["127.0.0.1:1", "pod-2"]).await;
        clock.advance(Duration::from_millis(FORGET_MS / 2 + 1));
        until(&service, &["127.0.0.1:1"]).await;
        assert!(service.publisher.handle().metrics().contains("state=\"silent\"} 1"));
        service.publisher.stop();
    });
}

#[test]
fn no_change_is_in_force_on_sidecars_that_nobody_can_remember() {
    let house = House::new();
    run(async {
        let service = house.serve().await;
        service.until(|state| state.published > 0).await;
        let made = create(&service.store, "CRM").await;
        service.published(made.serial).await;
        let handle = service.publisher.handle();
        let now_ms = Clock::system().now().unix_ms;
        let all = (0..=MOST).map(|n| SidecarReport {
            serial: made.serial,
            ..report("web", &format!("pod-{n}"), now_ms)
        });
        service.book.learn(all.collect(), now_ms);
        let found = handle.in_force(&audience(), made.serial, Duration::ZERO).await;
        assert!(found.published && !found.is_complete());
        assert_eq!((found.sidecars, &*found.late), (MOST + 1, &["web/*".into()][..]));
        service.publisher.stop();
    });
}
