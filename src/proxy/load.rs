//! How much every worker has to do, for who hands out new connections; and the caps on them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use crate::config::Caps;

/// Open connections and running streams by worker, and connections by address.
#[derive(Debug)]
pub struct Load {
    workers: Vec<WorkerLoad>,
    total: AtomicUsize,
    by_address: DashMap<IpAddr, usize>,
    lingering: AtomicUsize,
    lingering_by_address: DashMap<IpAddr, usize>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerLoad {
    connections: AtomicUsize,
    streams: AtomicUsize,
}

/// A connection's place in [`Load`]; given back on drop.
#[derive(Debug)]
pub(crate) struct Counted {
    load: Arc<Load>,
    worker: usize,
    address: Option<IpAddr>,
}

/// The right of a connection that is through to be read on for a while; given back on drop.
#[derive(Debug)]
pub(crate) struct LingerPlace {
    load: Arc<Load>,
    address: IpAddr,
}

/// Connections that are read on at once: of the process, and of one address.
const MOST_LINGERING: usize = 256;
const MOST_LINGERING_PER_ADDRESS: usize = 16;

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Address,
    All,
}

// === impl Load ===

impl Load {
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers.max(1)).map(|_| WorkerLoad::default()).collect(),
            total: AtomicUsize::new(0),
            by_address: DashMap::new(),
            lingering: AtomicUsize::new(0),
            lingering_by_address: DashMap::new(),
        }
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Says how many streams run on a worker.
    pub(crate) fn report_streams(&self, worker: usize, count: usize) {
        if let Some(load) = self.workers.get(worker) {
            load.streams.store(count, Ordering::Relaxed);
        }
    }

    /// The worker that a new connection goes to: fewest connections, then fewest streams. `here`
    /// wins a tie, because staying costs nothing.
    pub(crate) fn choose(&self, here: usize) -> usize {
        let of = |load: &WorkerLoad| {
            (load.connections.load(Ordering::Relaxed), load.streams.load(Ordering::Relaxed))
        };
        let own = self.workers.get(here).map(of);
        let best = self.workers.iter().enumerate().min_by_key(|(_, load)| of(load));
        match (best, own) {
            (Some((index, load)), Some(own)) if of(load) < own => index,
            _ => here,
        }
    }
}

impl Counted {
    /// Counts a new connection, if there is room for it.
    pub(crate) fn take(
        load: &Arc<Load>,
        caps: &Caps,
        worker: usize,
        address: Option<IpAddr>,
    ) -> Result<Self, Full> {
        if load.total.fetch_add(1, Ordering::Relaxed) >= caps.connections {
            load.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::All);
        }
        let bounded = caps.connections_per_address < caps.connections;
        let address = address.filter(|_| bounded);
        if let Some(address) = address {
            let mut count = load.by_address.entry(address).or_insert(0);
            if *count >= caps.connections_per_address {
                drop(count);
                load.total.fetch_sub(1, Ordering::Relaxed);
                return Err(Full::Address);
            }
            *count += 1;
        }
        if let Some(own) = load.workers.get(worker) {
            own.connections.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Self { load: Arc::clone(load), worker, address })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let load = &self.load;
        load.total.fetch_sub(1, Ordering::Relaxed);
        if let Some(own) = load.workers.get(self.worker) {
            own.connections.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(address) = self.address {
            count_down(&load.by_address, address);
        }
    }
}

impl LingerPlace {
    /// `None`: all places are taken, or all that one address may have.
    pub(crate) fn take(load: &Arc<Load>, address: IpAddr) -> Option<Self> {
        if load.lingering.fetch_add(1, Ordering::Relaxed) >= MOST_LINGERING {
            load.lingering.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mut count = load.lingering_by_address.entry(address).or_insert(0);
        if *count >= MOST_LINGERING_PER_ADDRESS {
            drop(count);
            load.lingering.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        *count += 1;
        drop(count);
        Some(Self { load: Arc::clone(load), address })
    }
}

impl Drop for LingerPlace {
    fn drop(&mut self) {
        self.load.lingering.fetch_sub(1, Ordering::Relaxed);
        count_down(&self.load.lingering_by_address, self.address);
    }
}

/// One less of this address; none leaves no entry.
fn count_down(counts: &DashMap<IpAddr, usize>, address: IpAddr) {
    let is_last = counts.get_mut(&address).is_some_and(|mut count| {
        *count = count.saturating_sub(1);
        *count == 0
    });
    if is_last {
        counts.remove_if(&address, |_, count| *count == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads by worker: connections, streams.
    fn choose(loads: &[(usize, usize)], here: usize) -> usize {
        let load = Load::new(loads.len());
        for (worker, (connections, streams)) in load.workers.iter().zip(loads) {
            worker.connections.store(*connections, Ordering::Relaxed);
            worker.streams.store(*streams, Ordering::Relaxed);
        }
        load.choose(here)
    }

    #[test]
    fn places_to_linger_are_few_and_come_back() {
        let load = Arc::new(Load::new(1));
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let take = |last| LingerPlace::take(&load, address(last));
        let of_one: Vec<_> = (0..MOST_LINGERING_PER_ADDRESS).map(|_| take(0).unwrap()).collect();
        assert!(take(0).is_none(), "one address has its share");
        let mut others: Vec<_> =
            (of_one.len()..MOST_LINGERING).map(|n| take(n as u8).unwrap()).collect();
        assert!(take(255).is_none(), "the process has no more");
        others.pop();
        assert!(take(255).is_some(), "one came back");
        drop((of_one, others));
        assert_eq!(load.lingering.load(Ordering::Relaxed), 0);
        assert!(load.lingering_by_address.is_empty());
    }

    #[test]
    fn fewest_connections_then_fewest_streams() {
        assert_eq!(choose(&[(2, 0), (1, 9), (3, 0)], 0), 1, "connections come first");
        assert_eq!(choose(&[(1, 5), (1, 2), (1, 3)], 0), 1, "then streams");
        assert_eq!(choose(&[(1, 2), (1, 2), (1, 2)], 2), 2, "a tie stays here");
        assert_eq!(choose(&[(0, 1), (0, 0), (0, 0)], 0), 1, "the first of the best");
        assert_eq!(choose(&[(0, 0)], 0), 0);
    }
}
