//! How much every worker has to do, for handing out new connections, and the caps on them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::{DashMap, Entry};
use foldhash::quality::RandomState;

use crate::config::Caps;

/// Open connections and running streams by worker, and connections by address.
#[derive(Debug)]
pub struct Load {
    workers: Vec<WorkerLoad>,
    total: AtomicUsize,
    by_address: AddressCounts,
    lingering: AtomicUsize,
    lingering_by_address: AddressCounts,
}

/// How many connections each address has. The hash is quick, with a seed that is secret: clients
/// choose their addresses, and there are no more entries than connections.
#[derive(Debug, Default)]
struct AddressCounts(DashMap<IpAddr, usize, RandomState>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct WorkerLoad {
    connections: AtomicUsize,
    streams: AtomicUsize,
}

/// A connection's place in [`Load`], returned on drop.
#[derive(Debug)]
pub(crate) struct Counted {
    load: Arc<Load>,
    worker: usize,
    address: Option<IpAddr>,
}

/// The right of a connection to be read for a while after its last answer, returned on drop.
#[derive(Debug)]
pub(crate) struct LingerPlace {
    load: Arc<Load>,
    address: IpAddr,
}

/// The most connections that linger at the same time: of the process, and of one address.
const MOST_LINGERING: usize = 256;
const MOST_LINGERING_PER_ADDRESS: usize = 16;

/// Why a connection is not accepted.
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
            by_address: AddressCounts::default(),
            lingering: AtomicUsize::new(0),
            lingering_by_address: AddressCounts::default(),
        }
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Reports how many streams run on a worker.
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
        if let Some(address) = address
            && !load.by_address.count_up(address, caps.connections_per_address)
        {
            load.total.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Address);
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
            load.by_address.count_down(address);
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
        if !load.lingering_by_address.count_up(address, MOST_LINGERING_PER_ADDRESS) {
            load.lingering.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self { load: Arc::clone(load), address })
    }
}

impl Drop for LingerPlace {
    fn drop(&mut self) {
        self.load.lingering.fetch_sub(1, Ordering::Relaxed);
        self.load.lingering_by_address.count_down(self.address);
    }
}

// === impl AddressCounts ===

impl AddressCounts {
    /// Adds one for this address. False if it has too many already.
    fn count_up(&self, address: IpAddr, most: usize) -> bool {
        let mut count = self.0.entry(address).or_insert(0);
        let fits = *count < most;
        *count += usize::from(fits);
        fits
    }

    /// Subtracts one for this address. At zero, removes the entry.
    fn count_down(&self, address: IpAddr) {
        let Entry::Occupied(mut count) = self.0.entry(address) else { return };
        match count.get().saturating_sub(1) {
            0 => drop(count.remove()),
            left => *count.get_mut() = left,
        }
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
        assert!(load.lingering_by_address.0.is_empty());
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
