//! What cells do not hold: per key, why requests were refused and which networks it was used from.
//! This is a bounded map, which the longest untouched keys leave. Imports core only.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use foldhash::fast::RandomState;
use ipnet::IpNet;
use smallvec::SmallVec;

use crate::core::{ClientNetwork, KeyId, KeyUse, Now, Reason};

/// The most keys with a trace.
pub(super) const MOST_KEYS: usize = 65_536;

/// A sweep makes space for the new keys until the next sweep.
const AFTER_SWEEP: usize = MOST_KEYS / 4 * 3;

/// Networks per key.
const NETWORKS: usize = 4;

/// Shared by all workers.
#[derive(Debug, Default)]
pub(super) struct KeyTraces {
    /// With the quick hash: clients cannot choose which ids are in the table.
    keys: DashMap<KeyId, KeyTrace, RandomState>,
    /// Almost `keys.len()`, without visiting every shard.
    count: AtomicUsize,
    dropped: AtomicU64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct KeyTrace {
    /// The minute (since 1970) in which the latest refusal or new network was recorded here, which
    /// may be later than when it happened.
    pub(super) touched: u32,
    /// The value of the record's cell at that time.
    pub(super) used: KeyUse,
    pub(super) refused: SmallVec<[(Reason, u32); 2]>,
    /// The latest last. 0: none.
    networks: [u64; NETWORKS],
}

/// A request that named a key and was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct KeyRefusal {
    pub(super) id: KeyId,
    pub(super) reason: Reason,
    /// The network of the caller, if it has proved possession of the key.
    pub(super) network: Option<ClientNetwork>,
}

// === impl KeyTraces ===

impl KeyTraces {
    /// Records this many refusals. `used`: the value of the key's cell at the last of them. `now`:
    /// when they are recorded.
    pub(super) fn refused(&self, refusal: KeyRefusal, times: u32, used: KeyUse, now: Now) {
        self.touch(refusal.id, now, |trace| {
            trace.used = trace.used.max(used);
            let is_same = |(known, _): &&mut (Reason, u32)| *known == refusal.reason;
            match trace.refused.iter_mut().find(is_same) {
                Some((_, count)) => *count = count.saturating_add(times),
                None => trace.refused.push((refusal.reason, times)),
            }
            if let Some(network) = refusal.network {
                trace.came_from(network);
            }
        });
    }

    /// Records where a key was used from.
    pub(super) fn used_from(&self, id: KeyId, network: ClientNetwork, now: Now) {
        self.touch(id, now, |trace| trace.came_from(network));
    }

    fn touch(&self, id: KeyId, now: Now, change: impl FnOnce(&mut KeyTrace)) {
        let minute = now.unix_minute();
        let change = |trace: &mut KeyTrace| {
            trace.touched = trace.touched.max(minute);
            change(trace);
        };
        if let Some(mut trace) = self.keys.get_mut(&id) {
            return change(&mut trace);
        }
        if self.count.load(Ordering::Relaxed) >= MOST_KEYS {
            // There is no space until the next sweep, which follows within a second.
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut trace = self.keys.entry(id).or_insert_with(|| {
            self.count.fetch_add(1, Ordering::Relaxed);
            KeyTrace::default()
        });
        change(&mut trace);
    }

    pub(super) fn get(&self, id: KeyId) -> Option<KeyTrace> {
        self.keys.get(&id).map(|trace| trace.clone())
    }

    /// Keys that were refused, or used from a new network, in or since this minute.
    pub(super) fn since(&self, minute: u32) -> Vec<KeyId> {
        let touched = self.keys.iter().filter(|trace| trace.touched >= minute);
        touched.map(|trace| *trace.key()).collect()
    }

    /// Makes space once the map is almost full. Runs off the path, about once a second.
    pub(super) fn sweep(&self) {
        if self.count.load(Ordering::Relaxed) < MOST_KEYS / 8 * 7 {
            return;
        }
        let mut touched: Vec<u32> = self.keys.iter().map(|trace| trace.touched).collect();
        let leave = touched.len().saturating_sub(AFTER_SWEEP);
        if leave == 0 {
            return;
        }
        let (_, newest, _) = touched.select_nth_unstable(leave - 1);
        let (newest, mut leave) = (*newest, leave);
        // All that are older, and as many of that minute as necessary.
        let mut of_minute = leave - touched.iter().filter(|at| **at < newest).count().min(leave);
        self.keys.retain(|_, trace| {
            let leaves = match trace.touched.cmp(&newest) {
                std::cmp::Ordering::Less => leave > 0,
                std::cmp::Ordering::Equal => of_minute > 0,
                std::cmp::Ordering::Greater => false,
            };
            if leaves {
                leave = leave.saturating_sub(1);
                of_minute -= usize::from(trace.touched == newest);
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            !leaves
        });
        self.count.store(self.keys.len(), Ordering::Relaxed);
    }

    /// How many times a key left, or there was no space to record something about one.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

// === impl KeyTrace ===

impl KeyTrace {
    fn came_from(&mut self, network: ClientNetwork) {
        // It becomes the last. Its old place, or the oldest network, is given up.
        let at = self.networks.iter().position(|known| *known == network.as_number()).unwrap_or(0);
        if let Some(behind) = self.networks.get_mut(at..) {
            behind.rotate_left(1);
        }
        if let Some(last) = self.networks.last_mut() {
            *last = network.as_number();
        }
    }

    pub(super) fn networks(&self) -> Vec<IpNet> {
        let known = self.networks.iter().filter(|network| **network != 0);
        known.filter_map(|network| ClientNetwork::from_number(*network).network()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> KeyId {
        KeyId::parse(&format!("key_{n}")).unwrap()
    }

    fn revoked(n: usize) -> KeyRefusal {
        KeyRefusal { id: id(n), reason: Reason::Revoked, network: None }
    }

    fn at(minute: u64) -> Now {
        Now { unix_ms: minute * 60_000, mono_ns: 0 }
    }

    #[test]
    fn the_last_four_networks_are_known() {
        let traces = KeyTraces::default();
        for ip in ["10.0.0.1", "10.0.1.1", "2001:db8:1:2::3", "10.0.2.1", "10.0.1.9", "10.0.3.1"] {
            traces.used_from(id(1), ClientNetwork::of(ip.parse().unwrap()), at(7));
        }
        let networks = traces.get(id(1)).unwrap().networks();
        let shown: Vec<_> = networks.iter().map(IpNet::to_string).collect();
        assert_eq!(shown, ["2001:db8:1::/48", "10.0.2.0/24", "10.0.1.0/24", "10.0.3.0/24"]);
    }

    #[test]
    fn the_longest_untouched_leave_and_are_counted() {
        let traces = KeyTraces::default();
        for n in 0..MOST_KEYS + 10 {
            let minute = if n < 20_000 { 100 } else { 200 };
            traces.refused(revoked(n), 1, KeyUse::default(), at(minute));
        }
        assert_eq!(traces.keys.len(), MOST_KEYS);
        assert_eq!(traces.dropped(), 10);
        traces.sweep();
        assert_eq!(traces.keys.len(), AFTER_SWEEP);
        assert_eq!(traces.dropped(), 10 + (MOST_KEYS - AFTER_SWEEP) as u64);
        assert_eq!(traces.since(200).len(), MOST_KEYS - 20_000, "no younger one has left");
        traces.refused(revoked(0), 1, KeyUse::default(), at(300));
        assert_eq!(traces.since(300), [id(0)], "there is room again");
    }
}
