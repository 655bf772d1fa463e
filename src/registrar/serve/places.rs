//! How many connections there may be at a time, and whose. Somebody who opens connections and sends
//! nothing must not keep out people or sidecars, and waiting sidecars must not keep out people.
//! Imports `token` alone.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::token::network_of;

/// The most simultaneous connections of clients that are not sidecars. Others wait to be accepted.
pub const MOST_OTHERS: usize = 1024;

/// Of these, the most from one address (in IPv6: one /64). Further ones are closed immediately.
const OF_AN_ADDRESS: usize = 256;

/// The most simultaneous connections that have shown a fleet's token: two for each sidecar.
pub const MOST_SIDECARS: usize = 8192;

/// Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct ServicePlaces {
    others: Arc<Semaphore>,
    sidecars: Arc<Semaphore>,
    addresses: CountedAddresses,
}

/// One connection's place. Each of its requests has a clone.
#[derive(Clone, Debug)]
pub(super) struct ServicePlace(Arc<Mutex<HeldPlace>>);

#[derive(Debug)]
struct HeldPlace {
    _permit: OwnedSemaphorePermit,
    _address: Option<AddressPlace>,
    /// Where a sidecar's place comes from; `None`: it has one already.
    sidecars: Option<Arc<Semaphore>>,
}

#[derive(Clone, Debug, Default)]
struct CountedAddresses(Arc<Mutex<HashMap<u128, usize>>>);

/// One of the places of an address; returned when dropped.
#[derive(Debug)]
struct AddressPlace {
    counts: CountedAddresses,
    network: u128,
}

// === impl ServicePlaces ===

impl ServicePlaces {
    pub(super) fn new() -> Self {
        Self {
            others: Arc::new(Semaphore::new(MOST_OTHERS)),
            sidecars: Arc::new(Semaphore::new(MOST_SIDECARS)),
            addresses: CountedAddresses::default(),
        }
    }

    /// Waits until there is room for one more.
    pub(super) async fn room(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.others).acquire_owned().await
    }

    /// Takes a place for a connection. `counted`: the address that it comes from, if that is one
    /// person's and not a proxy's. `None`: the address has as many as it may.
    pub(super) fn take(
        &self,
        permit: OwnedSemaphorePermit,
        counted: Option<IpAddr>,
    ) -> Option<ServicePlace> {
        let address = match counted {
            Some(address) => Some(self.addresses.take(network_of(address))?),
            None => None,
        };
        let sidecars = Some(Arc::clone(&self.sidecars));
        let held = HeldPlace { _permit: permit, _address: address, sidecars };
        Some(ServicePlace(Arc::new(Mutex::new(held))))
    }

    /// Waits until no connection is left.
    pub(super) async fn emptied(&self) {
        let all = |places: usize| u32::try_from(places).unwrap_or(u32::MAX);
        // Nobody closes the semaphores.
        let _ = self.others.acquire_many(all(MOST_OTHERS)).await;
        let _ = self.sidecars.acquire_many(all(MOST_SIDECARS)).await;
    }
}

// === impl ServicePlace ===

impl ServicePlace {
    /// Call it when a fleet's token was shown. From then on the connection counts among those of
    /// sidecars, if they have room.
    pub(super) fn becomes_a_sidecars(&self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sidecars) = held.sidecars.clone() else { return };
        if let Ok(permit) = sidecars.try_acquire_owned() {
            *held = HeldPlace { _permit: permit, _address: None, sidecars: None };
        }
    }
}

// === impl CountedAddresses ===

impl CountedAddresses {
    fn take(&self, network: u128) -> Option<AddressPlace> {
        let mut counts = self.lock();
        let count = counts.entry(network).or_default();
        if *count >= OF_AN_ADDRESS {
            return None;
        }
        *count += 1;
        Some(AddressPlace { counts: self.clone(), network })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u128, usize>> {
        // Counts are consistent at every point where a thread could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&self.network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_an_address_nor_a_fleet_takes_the_places_of_others() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let places = ServicePlaces::new();
            let address = |text: &str| Some(text.parse().unwrap());
            let take = async |from: Option<IpAddr>| places.take(places.room().await.unwrap(), from);
            let mut held = Vec::new();
            for n in 0..OF_AN_ADDRESS {
                held.push(take(address(&format!("2001:db8::{n:x}"))).await.unwrap());
            }
            assert!(take(address("2001:db8::ffff")).await.is_none(), "of the same network");
            assert!(take(address("2001:db8:0:1::1")).await.is_some());
            assert!(take(None).await.is_some(), "a proxy, or a socket of this host");
            assert_eq!(places.others.available_permits(), MOST_OTHERS - OF_AN_ADDRESS);
            held.iter().for_each(ServicePlace::becomes_a_sidecars);
            held.iter().for_each(ServicePlace::becomes_a_sidecars);
            assert_eq!(places.others.available_permits(), MOST_OTHERS);
            assert_eq!(places.sidecars.available_permits(), MOST_SIDECARS - OF_AN_ADDRESS);
            assert!(take(address("2001:db8::ffff")).await.is_some(), "its places are free again");
            drop(held);
            assert!(places.addresses.lock().is_empty());
            places.emptied().await;
        });
    }
}
