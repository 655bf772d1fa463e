//! Counts stay exact over any succession of tables and patches.

mod outlets;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::book::MOST_FORMER;
use super::*;
use crate::clock::Clock;
use crate::config::{Config, ThisHost, UrlOptions};
use crate::core::{ClientNetwork, Digest, KeyId, KeyLookup, KeySpec, KeyUse, PairLookup, Reason};
use crate::snapshot::{Snapshot, Store};
use crate::table::KeySet;
use crate::table::testkit::{Signer, issue, pair_spec, patch, spec, table};
use crate::table::write::PatchDraft;
use crate::telemetry::Metrics;
use crate::usage::{MergedUse, UsageMerge, UsageRecord};

const MINIMAL: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/minimal.toml"));

const NOW: u64 = 1_795_000_000;

/// A book over a store whose keys a test swaps.
struct Bench {
    store: Arc<Store>,
    book: Arc<UseBook>,
    clock: Clock,
}

impl Bench {
    fn new(keys: KeySet) -> Self {
        let text =
            format!("{MINIMAL}\n[[credentials]]\nsource = \"bearer\"\n[[routes]]\npath = \"/*\"\n");
        let config = Config::parse(&ThisHost, Path::new("keygate.toml"), &text).unwrap();
        let clock = Clock::manual(NOW);
        let keys = counted(keys);
        let settings = Arc::new(config.settings);
        let snapshot = Snapshot { settings, keys: Some(keys), route_slots: Box::default() };
        let store = Arc::new(Store::new(snapshot));
        let identity =
            BookIdentity { instance: "here".into(), boot: "1".into(), audience: "test".into() };
        let book = Arc::new(UseBook::new(Arc::clone(&store), clock.clone(), identity));
        Self { store, book, clock }
    }

    /// As the reload thread does.
    fn swap(&self, keys: Arc<KeySet>) {
        let before = self.store.load();
        let (settings, old) = (Arc::clone(&before.settings), before.keys.clone());
        drop(before);
        self.book.retire(old.unwrap());
        self.store.swap(Snapshot { settings, keys: Some(keys), route_slots: Box::default() });
    }

    fn count(&self, digest: &Digest) {
        count(&self.store, &self.clock, digest);
    }

    /// What a reader of the record sees.
    fn record(&self, since: u32) -> UsageMerge {
        let mut pages = UsePages::new(&self.book, since);
        let (mut merge, mut place, mut more) = (UsageMerge::default(), None, true);
        while more {
            let mut page = Vec::new();
            more = pages.next_page(&mut page);
            for line in page.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                match UsageRecord::parse(line).unwrap() {
                    UsageRecord::Head(head) => place = Some(merge.head(&head)),
                    UsageRecord::Key(id, line) => merge.line(place.unwrap(), id, &line),
                }
            }
        }
        merge
    }

    fn admitted(&self, id: KeyId) -> u64 {
        self.record(0).key(id).admitted
    }
}

fn counted(keys: KeySet) -> Arc<KeySet> {
    keys.table().count_uses().unwrap();
    keys.patch().map_or(Ok(()), |patch| patch.count_uses()).unwrap();
    Arc::new(keys)
}

fn set(serial: u64, specs: &[KeySpec]) -> KeySet {
    KeySet::new(Arc::new(table(serial, specs)), None, &[], None)
}

/// One admitted request. The guard is held as a request holds it.
fn count(store: &Store, clock: &Clock, digest: &Digest) -> bool {
    let snapshot = store.load();
    let view = snapshot.keys.as_ref().and_then(|keys| keys.single(digest));
    view.map(|view| view.uses.unwrap().count(clock.now())).is_some()
}

#[test]
fn a_hundred_swaps_under_load_lose_no_count_and_add_none() {
    exact_over_swaps(400, 100);
}

#[test]
#[ignore = "takes a minute and a gigabyte of memory: make test-large"]
fn a_million_keys_are_exact_over_a_hundred_swaps() {
    exact_over_swaps(1_000_000, 100);
}

/// Some of `keys` keys are missing in every other table, no more than the book remembers. Patches
/// replace and remove some.
fn exact_over_swaps(keys: u32, swaps: u64) {
    let all: Vec<KeySpec> = (0..keys).map(spec).collect();
    let stays = |n: usize| !n.is_multiple_of(7) || n / 7 >= MOST_FORMER;
    let some: Vec<KeySpec> =
        all.iter().enumerate().filter(|(n, _)| stays(*n)).map(|(_, s)| s.clone()).collect();
    let tables = [Arc::new(table(1, &all)), Arc::new(table(2, &some))];
    let bench = Bench::new(KeySet::new(Arc::clone(&tables[0]), None, &[], None));
    let tally: Arc<Vec<AtomicU64>> = Arc::new((0..keys).map(|_| AtomicU64::new(0)).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..2u64)
        .map(|worker| {
            let (store, clock) = (Arc::clone(&bench.store), bench.clock.clone());
            let (tally, stop) = (Arc::clone(&tally), Arc::clone(&stop));
            let digests: Vec<Digest> = all.iter().map(|spec| spec.digest).collect();
            std::thread::spawn(move || {
                let mut random = worker * 2 + 1;
                while !stop.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let n = (random >> 33) as usize % digests.len();
                    if count(&store, &clock, &digests[n]) {
                        tally[n].fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let parts = MeterParts {
        metrics: Metrics::new(1),
        file: None,
        url_options: UrlOptions::default(),
        begin: || {},
    };
    let settler = Meter::start(&bench.book, parts).unwrap();
    for swap in 1..=swaps {
        let base = &tables[swap as usize / 4 % 2];
        let over = (swap % 4 > 0).then(|| {
            let mut draft = PatchDraft::over(base);
            for n in 0..20 {
                draft.put(all[(swap as usize * 31 + n * 7) % all.len()].clone());
            }
            Arc::new(patch(draft, issue(1000 + swap, &[&Signer::new(1)])))
        });
        bench.clock.advance(std::time::Duration::from_secs(7));
        // A table that was in force before is read from its file again.
        let base = match swap % 4 {
            0 => Arc::new(table(10 + swap, if swap / 4 % 2 == 0 { &all } else { &some })),
            _ => Arc::clone(base),
        };
        bench.swap(counted(KeySet::new(base, over, &[], None)));
        std::thread::yield_now();
        if keys < 10_000 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    stop.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    settler.stop();
    let exact = |when: &str| {
        let record = bench.record(0);
        let (mut sum, mut wrong) = (0, 0);
        for (n, spec) in all.iter().enumerate() {
            let counted = tally[n].load(Ordering::Relaxed);
            sum += counted;
            wrong += usize::from(record.key(spec.id).admitted != counted);
        }
        assert_eq!((wrong, record.dropped()), (0, 0), "{when}: {wrong} of {keys} keys are wrong");
        assert!(sum > 1000, "only {sum} were counted");
    };
    exact("with sets that are still to be settled");
    for _ in 0..3 {
        assert!(bench.book.settle(), "nobody holds an old set any more");
    }
    exact("settled");
    let gone = counted(set(1_000_000, &[spec(u32::MAX)]));
    bench.swap(gone);
    bench.book.settle();
    if keys < 10_000 {
        exact("of keys that are in no table any more");
    }
}

/// Every used key leaves a trace. Correct uses must not depend on space for traces.
#[test]
fn forgotten_traces_are_no_forgotten_uses() {
    let bench = Bench::new(set(1, &[spec(1)]));
    bench.count(&spec(1).digest);
    let now = bench.clock.now();
    for n in 0..super::traces::MOST_KEYS + 10 {
        let id = KeyId::parse(&format!("key_{n}")).unwrap();
        let refusal = super::traces::KeyRefusal { id, reason: Reason::Revoked, network: None };
        bench.book.traces().refused(refusal, 1, KeyUse::default(), now);
    }
    let head = bench.book.head(0);
    assert_eq!((head.dropped, head.dropped_traces), (0, 10));
    assert_eq!(bench.record(0).dropped(), 0);
}

#[test]
fn a_held_snapshot_is_waited_for() {
    let bench = Bench::new(set(1, &[spec(1)]));
    let (id, digest) = (spec(1).id, spec(1).digest);
    let held = bench.store.load().keys.clone().unwrap();
    bench.count(&digest);
    bench.swap(counted(set(2, &[spec(1)])));
    assert!(!bench.book.settle(), "a request may still count there");
    held.single(&digest).unwrap().uses.unwrap().count(bench.clock.now());
    bench.count(&digest);
    assert_eq!(bench.admitted(id), 3, "what waits is shown");
    drop(held);
    assert!(bench.book.settle());
    assert_eq!(bench.admitted(id), 3);
    assert_eq!(bench.store.load().keys.as_ref().unwrap().use_blocks().count(), 1);
}

#[test]
fn a_secret_that_another_key_has_now_brings_no_counts_along() {
    let bench = Bench::new(set(1, &[spec(1)]));
    bench.count(&spec(1).digest);
    let other = KeySpec { id: spec(2).id, ..spec(1) };
    bench.swap(counted(set(2, std::slice::from_ref(&other))));
    bench.book.settle();
    bench.count(&other.digest);
    bench.count(&other.digest);
    assert_eq!((bench.admitted(spec(1).id), bench.admitted(spec(2).id)), (1, 2));
    // And when the first one returns, its count continues.
    bench.swap(counted(set(3, &[spec(1)])));
    bench.book.settle();
    bench.count(&spec(1).digest);
    assert_eq!((bench.admitted(spec(1).id), bench.admitted(spec(2).id)), (2, 2));
}

#[test]
fn a_pair_counts_under_each_of_its_secrets() {
    let successor = KeySpec { digest: Digest::of(b"the next"), ..pair_spec(1) };
    let last = KeySpec { digest: Digest::of(b"and the next"), ..pair_spec(1) };
    let bench = Bench::new(set(1, &[pair_spec(1), successor.clone()]));
    let use_pair = |digest: &Digest| {
        let snapshot = bench.store.load();
        let PairLookup::Found(view) = snapshot.keys.as_ref().unwrap().pair(b"pub-1", digest) else {
            panic!("not found")
        };
        view.uses.unwrap().count(bench.clock.now());
    };
    use_pair(&pair_spec(1).digest);
    use_pair(&successor.digest);
    use_pair(&successor.digest);
    assert_eq!(bench.admitted(pair_spec(1).id), 3);
    bench.swap(counted(set(2, &[successor.clone(), last.clone()])));
    bench.book.settle();
    use_pair(&last.digest);
    assert_eq!(bench.admitted(pair_spec(1).id), 4, "the former secret's uses are the key's");
}

#[test]
fn a_record_since_a_minute_has_what_was_used_or_refused_since() {
    let bench = Bench::new(set(1, &[spec(1), spec(2), spec(3), spec(4)]));
    let minute = |n: u64| bench.clock.advance(std::time::Duration::from_secs(60 * n));
    let begin = bench.clock.now().unix_minute();
    bench.count(&spec(1).digest);
    bench.count(&spec(2).digest);
    minute(5);
    bench.count(&spec(2).digest);
    let probe = UseProbe::new(Some(Arc::clone(&bench.book)));
    let snapshot = bench.store.load();
    let view = snapshot.keys.as_ref().unwrap().single(&spec(3).digest).unwrap();
    let client = "203.0.113.9".parse().unwrap();
    probe.refused(&view, Reason::RateLimited, client);
    probe.refused(&view, Reason::WrongSecret, "198.51.100.1".parse().unwrap());
    assert!(bench.record(begin + 1).key(spec(3).id).refused.is_empty(), "it keeps them for now");
    probe.hand_on();
    let keys = |since| {
        let mut keys: Vec<_> =
            bench.record(since).keys().map(|(id, used)| (id.to_string(), used)).collect();
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        keys.into_iter().collect::<HashMap<_, _>>()
    };
    let all = keys(0);
    assert_eq!(all.len(), 3);
    assert_eq!(all[&spec(1).id.to_string()].last, begin);
    let later = keys(begin + 1);
    assert_eq!(later.len(), 2);
    assert_eq!(later[&spec(2).id.to_string()].admitted, 2);
    let refused = &later[&spec(3).id.to_string()];
    let wanted = MergedUse {
        refused: [("rate_limited".into(), 1), ("wrong_secret".into(), 1)].into(),
        nets: vec!["203.0.113.0/24".parse().unwrap()],
        ..MergedUse::default()
    };
    assert_eq!(refused, &wanted);
    assert!(keys(begin + 6).is_empty());
}

/// A worker counts at the end of a minute, and others see it when a record of the next minute
/// already exists. The record after that one has to include it.
#[test]
fn nothing_that_is_counted_late_is_missing_from_the_records_of_changes() {
    for seconds_late in [0, 1, 30, 61, 600] {
        let bench = Bench::new(set(1, &[spec(1), spec(2), spec(3), spec(4)]));
        let wait = |secs| bench.clock.advance(std::time::Duration::from_secs(secs));
        wait(59 - NOW % 60);
        let minute = bench.clock.now().unix_minute();
        let snapshot = bench.store.load();
        let view = |n: u32| snapshot.keys.as_ref().unwrap().single(&spec(n).digest).unwrap();
        let client = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
        let probe = UseProbe::new(Some(Arc::clone(&bench.book)));
        // Two workers judge requests in the last second of the minute.
        let judged = bench.clock.now();
        probe.refused(&view(1), Reason::RateLimited, client("203.0.113.9"));
        probe.refused(&view(1), Reason::Revoked, client("198.51.100.1"));
        probe.refused(&view(2), Reason::WrongSecret, client("203.0.113.9"));
        wait(1);
        let since = UsePages::new(&bench.book, 0).next_since();
        let missed = bench.record(0);
        assert_eq!(missed.keys().count(), 0, "nobody has seen anything yet");
        // The request itself is counted within a minute. Refusals are passed on whenever there is
        // time.
        view(3).uses.unwrap().count(judged);
        let network = ClientNetwork::of(client("192.0.2.1"));
        bench.book.traces().used_from(spec(4).id, network, judged);
        wait(seconds_late);
        probe.hand_on();
        let next = bench.record(since);
        let of = |n: u32| next.key(spec(n).id);
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
        let refused = [("rate_limited".into(), 1), ("revoked".into(), 1)].into();
        let of_networks = nets(&["198.51.100.0/24", "203.0.113.0/24"]);
        let wanted = MergedUse { refused, nets: of_networks, ..MergedUse::default() };
        assert_eq!(of(1), wanted, "{seconds_late} s late");
        assert_eq!(of(2).refused, [("wrong_secret".into(), 1)].into(), "{seconds_late} s late");
        assert_eq!((of(3).last, of(3).admitted), (minute, 1), "{seconds_late} s late");
        assert_eq!(of(4).nets, nets(&["192.0.2.0/24"]), "{seconds_late} s late");
    }
}

#[test]
fn what_a_refusal_has_seen_of_a_key_is_not_counted_twice() {
    let bench = Bench::new(set(1, &[spec(1)]));
    for _ in 0..5 {
        bench.count(&spec(1).digest);
    }
    let probe = UseProbe::new(Some(Arc::clone(&bench.book)));
    let snapshot = bench.store.load();
    let view = snapshot.keys.as_ref().unwrap().single(&spec(1).digest).unwrap();
    probe.refused(&view, Reason::RateLimited, "203.0.113.9".parse().unwrap());
    probe.hand_on();
    drop(snapshot);
    assert_eq!(bench.admitted(spec(1).id), 5);
    // The table drops the key: its uses are former ones now.
    bench.swap(counted(set(2, &[spec(2)])));
    assert!(bench.book.settle());
    assert_eq!(bench.admitted(spec(1).id), 5);
}

/// For two days, other keys are busy every few hours, tables are replaced, and the configuration
/// allows more and then fewer series.
#[test]
fn no_series_falls_and_together_they_are_all_requests() {
    const KEYS: u32 = 60;
    let specs: Vec<KeySpec> = (0..KEYS).map(spec).collect();
    let bench = Bench::new(set(1, &specs));
    let mut book = super::series::UseSeriesBook::default();
    let (mut random, mut sent, mut serial) = (7_u64, 0_u64, 1);
    let mut before: HashMap<String, u64> = HashMap::new();
    // How much every series has grown, including ended ones and the combined series of the others.
    let (mut grown, mut ended, mut most) = (0, 0, 0);
    for minute in 0..48 * 60_u32 {
        let top = [5, 5, 8, 3][minute as usize / 700 % 4];
        let busy = minute / 97 * 13 % KEYS;
        for _ in 0..20 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let n = match random >> 60 {
                0..12 => busy + (random >> 33) as u32 % 6,
                _ => (random >> 33) as u32,
            };
            if count(&bench.store, &bench.clock, &spec(n % KEYS).digest) {
                sent += 1;
            }
        }
        if minute % 300 == 299 {
            serial += 1;
            let kept = specs.iter().filter(|_| true).take(KEYS as usize - serial as usize % 5);
            bench.swap(counted(set(serial, &kept.cloned().collect::<Vec<_>>())));
            bench.book.settle();
        }
        book.walk(&bench.book, top, 2);
        let shown = book.shown();
        let all = |list: &[(String, u64)], other: Option<u64>| -> HashMap<String, u64> {
            list.iter().cloned().chain(other.map(|n| ("other".to_owned(), n))).collect()
        };
        let now = all(&shown.keys, shown.other_keys);
        most = most.max(shown.keys.len());
        assert!(shown.keys.len() <= 8 && shown.orgs.len() <= 2);
        for (name, count) in &now {
            let earlier = before.get(name).copied().unwrap_or(0);
            assert!(*count >= earlier, "minute {minute}: {name} falls from {earlier} to {count}");
            grown += count - earlier;
        }
        ended += before.keys().filter(|name| !now.contains_key(*name)).count();
        assert_eq!(grown, sent, "minute {minute}: series and the others together");
        let orgs = all(&shown.orgs, shown.other_orgs);
        assert_eq!(orgs.values().sum::<u64>(), sent, "no org was idle for a day");
        before = now;
        bench.clock.advance(std::time::Duration::from_secs(60));
    }
    assert!(most == 8 && ended > 4, "{ended} series have ended, at most {most} ran");
    // A key that was idle for a day loses its place.
    bench.clock.advance(std::time::Duration::from_secs(25 * 3600));
    book.walk(&bench.book, 8, 2);
    assert!(book.shown().keys.is_empty() && book.shown().orgs.is_empty());
    assert_eq!(book.shown().other_keys.map(|other| other - before["other"]), Some(0));
    book.walk(&bench.book, 0, 0);
    bench.clock.advance(std::time::Duration::from_secs(60));
    book.walk(&bench.book, 0, 0);
    assert_eq!((book.shown().other_keys, book.shown().other_orgs), (None, None));
}

/// A key that loses a secret, and an org that loses a key, go on from what they had.
#[test]
fn what_follows_a_lost_secret_or_key_is_counted_in_the_same_series() {
    let successor = KeySpec { digest: Digest::of(b"the next"), ..pair_spec(1) };
    // Keys 1, 4 and 7 are of one org.
    let all = [pair_spec(1), spec(4), spec(7)];
    let bench = Bench::new(set(1, &all));
    let mut book = super::series::UseSeriesBook::default();
    let use_key = |spec: &KeySpec, times: u32| {
        for _ in 0..times {
            let snapshot = bench.store.load();
            let keys = snapshot.keys.as_ref().unwrap();
            let view = keys.any(&spec.digest).unwrap();
            view.uses.unwrap().count(bench.clock.now());
        }
    };
    all.iter().for_each(|spec| use_key(spec, 100));
    book.walk(&bench.book, 10, 10);
    book.walk(&bench.book, 10, 10);
    let mut serial = 1;
    let mut now_in_force = |specs: &[KeySpec]| {
        serial += 1;
        bench.swap(counted(set(serial, specs)));
        while !bench.book.settle() {}
    };
    let series = |shown: &[(String, u64)], name: &str| {
        shown.iter().find(|(known, _)| known == name).map(|(_, count)| *count)
    };
    let org = spec(1).org.as_str().to_owned();
    let id = pair_spec(1).id.to_string();
    // The secret is rotated, and later the former one is gone. Key 4 goes, and returns.
    let (mut of_key, mut of_org) = (0, 0);
    for specs in [
        vec![pair_spec(1), successor.clone(), spec(4), spec(7)],
        vec![successor.clone(), spec(4), spec(7)],
        vec![successor.clone(), spec(7)],
        vec![successor.clone(), spec(4), spec(7)],
    ] {
        now_in_force(&specs);
        book.walk(&bench.book, 10, 10);
        let last = if specs.contains(&successor) { &successor } else { &specs[0] };
        use_key(last, 20);
        use_key(&spec(7), 3);
        (of_key, of_org) = (of_key + 20, of_org + 23);
        book.walk(&bench.book, 10, 10);
        let shown = book.shown();
        assert_eq!(series(&shown.keys, &id), Some(of_key), "{} keys", specs.len());
        assert_eq!(series(&shown.orgs, &org), Some(of_org), "{} keys", specs.len());
        assert_eq!(shown.other_keys, Some(300), "those before the series began");
        bench.clock.advance(std::time::Duration::from_secs(60));
    }
}

/// The last record is passed on. Nobody waits for anything else that still runs.
#[test]
fn a_walk_over_many_keys_does_not_hold_up_the_end() {
    static WALKS: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let bench = Bench::new(set(1, &[spec(1)]));
    let walks = WALKS.lock().unwrap();
    let begin = || {
        if std::thread::current().name() == Some("meter") {
            drop(WALKS.lock());
        }
    };
    let (metrics, url_options) = (Metrics::new(1), UrlOptions::default());
    let meter = Meter::start(&bench.book, MeterParts { metrics, file: None, url_options, begin });
    assert!(meter.unwrap().reporters_end(), "the settler is still at it");
    drop(walks);
}
