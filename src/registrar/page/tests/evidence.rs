//! When the page says that an old key is unused, and that a sidecar is there.

use super::*;
use crate::registrar::store::SidecarReport;
use crate::registrar::store::suite::usage::idle;

/// In minutes.
const DAY: u32 = 1440;

/// A sidecar fetches, or is asked.
pub(super) async fn fetches(desk: &TestDesk, instance: &str, seen_ms: u64) {
    let report = SidecarReport {
        audience: suite::audience(),
        fleet: "web".into(),
        instance: instance.into(),
        serial: 0,
        base: 0,
        seen_ms,
        error: None,
    };
    desk.store.put_sidecar(report).await.unwrap();
}

/// Three sidecars fetch. While the reports of one do not arrive, nobody knows whether the old key is
/// used there.
#[test]
fn an_old_key_is_safe_to_revoke_once_every_sidecar_has_reported_for_a_day() {
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let (made, _) = desk.key(&["read"]).await;
        let path = format!("/keys/{}", made.key.entry.id);
        let hidden = kim.hidden(&format!("{path}/rotate")).await;
        let shown = kim.post(&format!("{path}/rotate"), &format!("{hidden}&overlap=7d")).await;
        let href = shown.body.split("href=\"").find(|part| part.starts_with("/keys/key_"));
        let successor = href.unwrap().split('"').next().unwrap().to_owned();
        let told = async |what: &str, want: &str| {
            let body = kim.get(&successor).await.body;
            assert!(body.contains(want), "{what}: {want}: {body}");
            assert_eq!(body.contains("safe to revoke"), want.contains("safe to"), "{what}");
            let dialog = kim.get(&format!("{path}/revoke")).await.body;
            let asks = dialog.contains("Nobody knows whether it is in use");
            // The key was made after that gap.
            let is_known = want.contains("safe to") || want.contains("without a gap");
            assert_eq!(asks, !is_known, "{what}: {dialog}");
        };
        let report = async |name: &str, times| {
            desk.store.take_usage(idle(name, "1", times)).await.unwrap();
        };
        told("nobody reports", "no use was ever reported").await;
        report("a", [DAY + 9, DAY + 9, DAY + 1]).await;
        report("a", [DAY + 9, DAY + 1, 0]).await;
        told("no sidecar is known", "no sidecar is known to this service").await;
        for name in ["a", "b", "c"] {
            fetches(&desk, name, suite::NOW - 60_000).await;
        }
        report("c", [DAY, DAY, 0]).await;
        told("one does not report", "b has not reported the use of keys within").await;
        report("b", [DAY + 9, DAY + 9, 9]).await;
        told("its reports fail", "b has not reported the use of keys since").await;
        report("b", [3, 3, 0]).await;
        told("it ended before they arrived", "b has reported the use of keys without a gap").await;
        // Its record from before the gap is there, too.
        report("b", [DAY + 9, DAY + 9, 0]).await;
        told("all report", "3 of 3 sidecars have reported: safe to revoke").await;
        fetches(&desk, "d", suite::NOW - 6 * 60_000).await;
        told("one is silent", "d has been silent since").await;
        fetches(&desk, "e", 0).await;
        fetches(&desk, "d", suite::NOW).await;
        told("one has never answered", "e has never answered.").await;
        // Where it says when a sidecar was last seen, too.
        let body = kim.get("/publication").await.body;
        assert!(body.contains("Never answered") && !body.contains("1970-01-01"), "{body}");
    });
}
