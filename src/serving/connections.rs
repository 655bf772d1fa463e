//! Who holds a connection to a listener. There is always a place for one more: the idlest
//! connection gives way, so that nobody can lock out a probe by keeping connections open.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The connections of one listener. All clones are the same.
#[derive(Clone, Debug)]
pub struct ConnectionPlaces(Arc<Mutex<HeldConnections>>);

#[derive(Debug)]
struct HeldConnections {
    most: usize,
    of_one_address: usize,
    /// By the number of the connection.
    places: HashMap<u64, ConnectionHolder>,
    /// Numbers connections, and orders their activity.
    next: u64,
}

#[derive(Debug)]
struct ConnectionHolder {
    address: IpAddr,
    /// When it last sent a request, or was accepted.
    busy: u64,
    /// Dropping it ends the connection.
    _end: oneshot::Sender<()>,
}

/// One connection's place, returned on drop.
#[derive(Debug)]
pub struct ConnectionPlace {
    places: ConnectionPlaces,
    number: u64,
}

// === impl ConnectionPlaces ===

impl ConnectionPlaces {
    /// `most`: connections of the listener. `of_one_address`: how many of these may be from one
    /// address. At least one each.
    pub fn new(most: usize, of_one_address: usize) -> Self {
        let places = HashMap::new();
        Self(Arc::new(Mutex::new(HeldConnections { most, of_one_address, places, next: 0 })))
    }

    /// A place for a connection from `address`, and a future that resolves when it has to give way.
    pub fn take(&self, address: IpAddr) -> (ConnectionPlace, oneshot::Receiver<()>) {
        // A client must not count twice because it is reached over IPv4 and over a dual-stack
        // socket.
        let address = address.to_canonical();
        let mut held = self.lock();
        if held.places.values().filter(|h| h.address == address).count() >= held.of_one_address {
            held.give_way(|holder| holder.address == address);
        }
        if held.places.len() >= held.most {
            held.give_way(|_| true);
        }
        let (end, ended) = oneshot::channel();
        let number = held.tick();
        held.places.insert(number, ConnectionHolder { address, busy: number, _end: end });
        (ConnectionPlace { places: self.clone(), number }, ended)
    }

    fn lock(&self) -> MutexGuard<'_, HeldConnections> {
        // The number and the map are consistent at every point where a thread could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl HeldConnections ===

impl HeldConnections {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Ends the idlest of those that `is_one` selects.
    fn give_way(&mut self, is_one: impl Fn(&ConnectionHolder) -> bool) {
        let those = self.places.iter().filter(|(_, holder)| is_one(holder));
        if let Some(number) = those.min_by_key(|(_, holder)| holder.busy).map(|(number, _)| *number)
        {
            self.places.remove(&number);
        }
    }
}

// === impl ConnectionPlace ===

impl ConnectionPlace {
    /// A request has arrived, so this connection is now the last to give way.
    pub fn touch(&self) {
        let mut held = self.places.lock();
        let now = held.tick();
        if let Some(holder) = held.places.get_mut(&self.number) {
            holder.busy = now;
        }
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.places.lock().places.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 48;
    const OF_ONE: usize = 16;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn the_idlest_of_all_gives_way() {
        let places = ConnectionPlaces::new(MOST, OF_ONE);
        let mut held: Vec<_> =
            (0..MOST).map(|n| places.take(address((n / OF_ONE) as u8))).collect();
        held[0].0.touch();
        let _one_more = places.take(address(200));
        assert!(held[0].1.try_recv() == Err(oneshot::error::TryRecvError::Empty), "was busy last");
        assert!(held[1].1.try_recv() == Err(oneshot::error::TryRecvError::Closed), "was idlest");
        assert_eq!(places.lock().places.len(), MOST);
    }

    #[test]
    fn one_address_pushes_out_its_own() {
        let places = ConnectionPlaces::new(MOST, OF_ONE);
        let mut other = places.take(address(1));
        let mut own: Vec<_> = (0..OF_ONE).map(|_| places.take(address(2))).collect();
        let mapped = "::ffff:10.0.0.2".parse().unwrap();
        let _one_more = places.take(mapped);
        assert!(other.1.try_recv() == Err(oneshot::error::TryRecvError::Empty), "another address");
        assert!(own[0].1.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert!(own[1].1.try_recv() == Err(oneshot::error::TryRecvError::Empty));
    }

    #[test]
    fn a_place_that_is_given_back_costs_nobody_anything() {
        let places = ConnectionPlaces::new(MOST, OF_ONE);
        let mut kept = places.take(address(1));
        for _ in 0..1000 {
            drop(places.take(address(1)));
        }
        assert!(kept.1.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        drop(kept);
        assert!(places.lock().places.is_empty());
    }
}
