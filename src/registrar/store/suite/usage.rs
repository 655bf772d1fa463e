//! The use of keys: sums that no repeat, disorder or second reader changes, and what stands out.

use std::sync::Arc;

use ipnet::IpNet;

use super::*;
use crate::registrar::store::{
    FindingQuery, KeyUsage, ReportedUse, UsageAlert, UsageBatch, UsageTaken, UseReporter, UsedLease,
};
use crate::usage::record::RecordPart;
use crate::usage::{ToldCounts, UsageHead};

const MINUTE: u32 = (NOW / 60_000) as u32;
const DAY: u64 = 86_400_000;

/// A report of one key.
#[derive(Clone, Copy)]
pub(crate) struct Report {
    pub(crate) instance: &'static str,
    pub(crate) boot: &'static str,
    pub(crate) key: KeyId,
    /// Minutes before now.
    pub(crate) ago: u32,
    pub(crate) admitted: u64,
    pub(crate) refused: (&'static str, u64),
}

pub(crate) fn batch(report: Report) -> UsageBatch {
    let now = MINUTE - report.ago;
    let (reason, count) = report.refused;
    UsageBatch {
        audience: audience(),
        head: UsageHead {
            usage: 1,
            instance: report.instance.into(),
            boot: report.boot.into(),
            audience: "shop".into(),
            started: now,
            now,
            since: 0,
            part: RecordPart::Last,
            serial: None,
            dropped: 0,
            dropped_traces: 0,
        },
        lines: vec![ReportedUse {
            key: report.key,
            last: if report.admitted > 0 { now } else { 0 },
            counts: ToldCounts {
                admitted: report.admitted,
                refused: (count > 0).then(|| (reason.into(), count)).into_iter().collect(),
            },
            nets: vec!["203.0.113.0/24".parse::<IpNet>().unwrap()],
        }],
        at_ms: NOW,
    }
}

async fn create_at(store: &Arc<dyn Store>, at_ms: u64) -> KeyId {
    let asked = request(admin("kim"), KeyChange::Create(Box::new(new_key("used"))));
    store.change(ChangeRequest { at_ms, ..asked }).await.unwrap().key.entry.id
}

async fn usage(store: &Arc<dyn Store>, key: KeyId) -> KeyUsage {
    store.key_usage(&audience(), Some(&org("acme")), KeyRef::Id(key), NOW).await.unwrap()
}

fn sums(usage: &KeyUsage) -> [u64; 4] {
    let sum = |all: &[crate::registrar::store::UsageBucket]| {
        [all.iter().map(|b| b.admitted).sum(), all.iter().map(|b| b.refused).sum()]
    };
    let ([a, b], [c, d]) = (sum(&usage.hours), sum(&usage.days));
    [a, b, c, d]
}

pub(crate) async fn repeats_and_disorder_add_nothing(store: Arc<dyn Store>) {
    let mut sums_of = Vec::new();
    for order in [vec![0, 1, 2, 3], vec![3, 2, 1, 0], vec![1, 1, 0, 3, 2, 3, 1], vec![1, 3, 2]] {
        let key = create_at(&store, NOW - 3_600_000).await;
        let report = |instance, boot, ago, admitted, refused| Report {
            instance,
            boot,
            key,
            ago,
            admitted,
            refused: ("rate_limited", refused),
        };
        let reports = [
            report("a", "1", 20, 5, 1),
            report("a", "1", 10, 9, 1),
            report("a", "2", 5, 2, 0),
            report("b", "1", 4, 7, 4),
        ];
        for at in order {
            store.take_usage(batch(reports[at])).await.unwrap();
        }
        let found = usage(&store, key).await;
        sums_of.push(sums(&found));
        assert_eq!(found.refused[0].count, 5);
        assert_eq!(found.networks.len(), 1);
        let last = found.last.unwrap();
        assert_eq!(
            (last.at_ms, &*last.network),
            (u64::from(MINUTE - 4) * 60_000, "203.0.113.0/24")
        );
    }
    assert_eq!(sums_of, [[18, 5, 18, 5]; 4]);
}

/// A record says the minute in which a key was used, and sidecars' clocks may be behind.
pub(crate) async fn no_key_is_used_before_it_is_made(store: Arc<dyn Store>) {
    let key = create_at(&store, NOW + 30_000).await;
    let report = |ago| Report {
        instance: "a",
        boot: "1",
        key,
        ago,
        admitted: u64::from(10 - ago),
        refused: ("expired", 0),
    };
    for ago in [2, 0, 0] {
        let told = UsageBatch { at_ms: NOW + 45_000, ..batch(report(ago)) };
        store.take_usage(told).await.unwrap();
        assert_eq!(usage(&store, key).await.last.unwrap().at_ms, NOW + 30_000, "{ago}");
    }
    let mut later = UsageBatch { at_ms: NOW + 150_000, ..batch(report(0)) };
    later.head.now = MINUTE + 2;
    later.lines[0].last = MINUTE + 2;
    store.take_usage(later).await.unwrap();
    assert_eq!(usage(&store, key).await.last.unwrap().at_ms, NOW + 120_000);
}

pub(crate) async fn a_report_of_strangers_keys_adds_nothing(store: Arc<dyn Store>) {
    let key = create(&store, "ours").await.key.entry.id;
    let other = KeyId::parse("key_stranger").unwrap();
    let report = Report {
        instance: "a",
        boot: "1",
        key: other,
        ago: 1,
        admitted: 3,
        refused: ("expired", 0),
    };
    let taken = store.take_usage(batch(report)).await.unwrap();
    assert_eq!(taken, UsageTaken { raised: 0, unknown: 1 });
    let late = Report { ago: 41 * 1440, key, ..report };
    assert_eq!(store.take_usage(batch(late)).await.unwrap(), UsageTaken::default(), "too late");
    let foreign = store.key_usage(&audience(), Some(&org("globex")), KeyRef::Id(key), NOW).await;
    assert!(matches!(foreign, Err(StoreError::NoSuchKey)));
    let serial = store.publication(&audience()).await.unwrap().serial;
    let early = Report { key, ago: 0, ..report };
    let ahead = UsageBatch { at_ms: NOW - 3_600_000, ..batch(early) };
    store.take_usage(ahead).await.unwrap();
    let found = usage(&store, key).await;
    assert!(found.hours[0].begin_ms <= NOW - 3_600_000, "a clock ahead is not believed");
    assert_eq!(store.publication(&audience()).await.unwrap().serial, serial, "no change");
}

pub(crate) async fn what_stands_out_is_found(store: Arc<dyn Store>) {
    let make = |name: &'static str| {
        let store = Arc::clone(&store);
        async move { create(&store, name).await.key.entry.id }
    };
    let (canary, revoked, limited, idle) =
        (make("canary").await, make("revoked").await, make("limited").await, make("idle").await);
    for (key, status) in [(canary, StatusChange::Canary), (revoked, StatusChange::Revoke)] {
        store.change(request(host(), set(key, status))).await.unwrap();
    }
    let base = Report {
        instance: "a",
        boot: "1",
        key: idle,
        ago: 1,
        admitted: 0,
        refused: ("rate_limited", 0),
    };
    for report in [
        Report { key: canary, refused: ("canary", 2), ..base },
        Report { key: revoked, refused: ("revoked", 3), ..base },
        Report { key: limited, refused: ("rate_limited", 10), ago: 2 * 1440, ..base },
        Report { key: limited, refused: ("rate_limited", 1000), ..base },
        // Before the examined day, so it means nothing now.
        Report { key: idle, admitted: 1, refused: ("rate_limited", 500), ago: 2 * 1440, ..base },
    ] {
        store.take_usage(batch(report)).await.unwrap();
    }
    let found = |at: u64| {
        let store = Arc::clone(&store);
        async move {
            let org = org("acme");
            let found = store
                .found_usage(FindingQuery::all(audience(), Some(org.clone()), at, 10))
                .await
                .unwrap();
            let mut found: Vec<_> = found
                .into_iter()
                .map(|f| (f.alert, f.name.to_string(), f.detail.to_string()))
                .collect();
            found.sort();
            found
        }
    };
    let told = |alert, name: &str, detail: &str| (alert, name.to_owned(), detail.to_owned());
    assert_eq!(
        found(NOW).await,
        [
            told(UsageAlert::Canary, "canary", "2"),
            told(UsageAlert::EndedUsed, "revoked", "3"),
            told(UsageAlert::RefusedTenfold, "limited", "990"),
        ]
    );
    // For a few keys alone, or for one person's alone.
    let of_acme = || FindingQuery::all(audience(), Some(org("acme")), NOW, 10);
    let few = FindingQuery { keys: Some(vec![revoked, idle]), ..of_acme() };
    let few = store.found_usage(few).await.unwrap();
    assert_eq!(
        few.iter().map(|f| (f.alert, f.key)).collect::<Vec<_>>(),
        [(UsageAlert::EndedUsed, revoked)]
    );
    let nobodys = FindingQuery { owner: Some("kim".into()), ..of_acme() };
    assert!(store.found_usage(nobodys).await.unwrap().is_empty());
    // Two weeks later a key is used from elsewhere, and 91 days later two are unused.
    let mut elsewhere = batch(Report { key: idle, admitted: 2, ..base });
    elsewhere.at_ms = NOW + 20 * DAY;
    elsewhere.head.now = MINUTE + 20 * 1440;
    elsewhere.lines[0].last = elsewhere.head.now;
    elsewhere.lines[0].nets = vec!["198.51.100.0/24".parse().unwrap()];
    store.take_usage(elsewhere).await.unwrap();
    let network = told(UsageAlert::NewNetwork, "idle", "198.51.100.0/24");
    assert_eq!(found(NOW + 20 * DAY).await, [network]);
    assert_eq!(found(NOW + 91 * DAY).await, [told(UsageAlert::Unused, "limited", "")]);
    assert!(
        store
            .found_usage(FindingQuery::all(audience(), Some(org("globex")), NOW, 10))
            .await
            .unwrap()
            .is_empty()
    );
}

/// A holder that was held up between taking the lease and using it forgets nothing.
pub(crate) async fn usage_is_forgotten_by_the_holder_of_the_lease(store: Arc<dyn Store>) {
    let key = create(&store, "CRM").await.key.entry.id;
    let (instance, boot, refused) = ("a", "boot", ("revoked", 1));
    let report = Report { instance, boot, key, ago: 0, admitted: 1, refused };
    store.take_usage(batch(report)).await.unwrap();
    let late = NOW + 500 * DAY;
    let take = async |holder: &str, at: u64| {
        let held = store.lease("purge", holder, at, at + 10).await.unwrap().unwrap();
        UsedLease { name: "purge".into(), holder: holder.into(), epoch: held.epoch }
    };
    let former = take("a", late).await;
    let held = take("b", late + 10).await;
    assert_eq!(store.forget_usage(late, former).await.unwrap(), None);
    let stolen = UsedLease { holder: "a".into(), ..held.clone() };
    assert_eq!(store.forget_usage(late, stolen).await.unwrap(), None);
    let left = usage(&store, key).await;
    assert_eq!((left.days.len(), left.refused.len()), (1, 1), "{left:?}");
    let gone = store.forget_usage(late, held).await.unwrap();
    assert!(gone.is_some_and(|rows| rows > 0), "{gone:?}");
    let left = usage(&store, key).await;
    assert_eq!((left.days.len(), left.hours.len(), left.refused.len()), (0, 0, 0));
}

/// A record in which no key was used: it covers the time since `from`, of a process that began at
/// `started`, and arrives at `at`; in minutes before now.
pub(crate) fn idle(instance: &str, boot: &str, [started, from, at]: [u32; 3]) -> UsageBatch {
    let key = KeyId::parse("key_nobodys").unwrap();
    let report =
        Report { instance: "", boot: "", key, ago: at, admitted: 0, refused: ("expired", 0) };
    let told = batch(report);
    let head = UsageHead {
        instance: instance.into(),
        boot: boot.into(),
        started: MINUTE - started,
        since: MINUTE - from,
        ..told.head
    };
    UsageBatch { head, lines: Vec::new(), at_ms: NOW - u64::from(at) * 60_000, ..told }
}

async fn reporters(store: &Arc<dyn Store>, after_ms: u64) -> Vec<(String, Option<u64>, u64)> {
    let found = store.use_reporters(&audience(), after_ms).await.unwrap();
    let ago = |at_ms: u64| (NOW - at_ms) / 60_000;
    let told = found.into_iter().map(|UseReporter { instance, since_ms, last_ms }| {
        (instance.to_string(), since_ms.map(ago), ago(last_ms))
    });
    told.collect()
}

pub(crate) async fn who_reports_is_known_and_since_when(store: Arc<dyn Store>) {
    create(&store, "ours").await;
    let told = |name: &str, since, last| (name.to_owned(), Some(since), last);
    for (record, want) in [
        // The first record has all since the start, even if it is late.
        (idle("a", "1", [100, 100, 90]), told("a", 100, 90)),
        (idle("a", "1", [100, 91, 80]), told("a", 100, 80)),
        // A restart, and then one from before it again.
        (idle("a", "2", [78, 78, 77]), told("a", 100, 77)),
        (idle("a", "1", [100, 91, 80]), told("a", 100, 77)),
        // A process whose reports did not arrive has ended in between.
        (idle("a", "3", [70, 70, 69]), told("a", 70, 69)),
        // Only what was used lately: the rest went elsewhere.
        (idle("a", "3", [70, 60, 59]), told("a", 60, 59)),
        (idle("a", "3", [70, 70, 58]), told("a", 70, 58)),
        // A clock that is ahead proves nothing of what is to come.
        (idle("b", "1", [0, 0, 50]), told("b", 50, 50)),
    ] {
        store.take_usage(record).await.unwrap();
        let found = reporters(&store, 0).await;
        assert!(found.contains(&want), "{want:?}: {found:?}");
    }
    assert_eq!(reporters(&store, NOW - 55 * 60_000).await, [told("b", 50, 50)]);
    // That it began long ago is not forgotten while it reports.
    let later = UsageBatch { at_ms: NOW + 50 * DAY, ..idle("b", "1", [50, 50, 0]) };
    let later = UsageBatch { head: UsageHead { now: MINUTE + 50 * 1440, ..later.head }, ..later };
    store.take_usage(later).await.unwrap();
    let held = store.lease("purge", "a", NOW, NOW + 10).await.unwrap().unwrap();
    let lease = UsedLease { name: "purge".into(), holder: "a".into(), epoch: held.epoch };
    store.forget_usage(NOW + 51 * DAY, lease).await.unwrap();
    let left = store.use_reporters(&audience(), 0).await.unwrap();
    let [UseReporter { instance, since_ms, last_ms }] = &*left else { panic!("{left:?}") };
    assert_eq!((&**instance, *since_ms, *last_ms), ("b", Some(NOW - 50 * 60_000), NOW + 50 * DAY));
}

/// A key that is in no part so far may be in one that never arrives.
pub(crate) async fn a_part_of_a_record_proves_nothing(store: Arc<dyn Store>) {
    let key = create_at(&store, NOW - DAY).await;
    let part = |told: UsageBatch| {
        let head = UsageHead { part: RecordPart::More, ..told.head };
        UsageBatch { head, ..told }
    };
    store.take_usage(part(idle("a", "1", [100, 100, 90]))).await.unwrap();
    assert!(reporters(&store, 0).await.is_empty());
    let report =
        Report { instance: "a", boot: "1", key, ago: 1, admitted: 3, refused: ("expired", 0) };
    assert_eq!(store.take_usage(part(batch(report))).await.unwrap().raised, 1);
    assert_eq!(reporters(&store, 0).await, [("a".to_owned(), None, 60)]);
    store.take_usage(batch(report)).await.unwrap();
    assert_eq!(reporters(&store, 0).await, [("a".to_owned(), Some(1), 0)]);
    store.take_usage(part(batch(Report { admitted: 4, ..report }))).await.unwrap();
    assert_eq!(reporters(&store, 0).await, [("a".to_owned(), Some(1), 0)]);
}
