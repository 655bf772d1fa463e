//! Requests per key and per org as metrics: a bounded number of series that never decrease. Imports
//! core, `table`, `telemetry`.
//!
//! A walk over all cells yields every count, so nothing is estimated. Once a minute, free places go
//! to the busiest keys and orgs without one. A series counts from then on, and one more series
//! counts everything that the others do not. All of them only grow, so rates stay correct when a
//! place changes hands.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;

use super::book::UseBook;
use crate::core::{Digest, KeyId, KeyUse};
use crate::telemetry::UseSeries;

/// A series that has not grown for this many minutes loses its place.
const IDLE: u32 = 24 * 60;

/// A key or org that was used within this many minutes may get a place.
const BUSY: u32 = 2;

/// The most orgs that one walk adds up in addition to those with a series.
const MOST_ORGS: usize = 65_536;

/// All series of one process.
#[derive(Debug, Default)]
pub(super) struct UseSeriesBook {
    keys: SeriesPlaces<KeyId>,
    orgs: SeriesPlaces<Box<str>>,
    /// The minute in which places were last assigned.
    given: u32,
}

/// The series of keys, or those of orgs.
#[derive(Debug)]
struct SeriesPlaces<N> {
    places: HashMap<N, SeriesPlace>,
    /// Everything that was ever counted.
    total: u64,
    /// What ended series had counted.
    ended: u64,
    /// Whether there may be series.
    is_shown: bool,
}

#[derive(Clone, Copy, Debug)]
struct SeriesPlace {
    /// What the last walk found. `None`: there was none since the series began.
    seen: Option<u64>,
    count: u64,
    /// The minute in which it last grew.
    grew: u32,
}

// === impl UseSeriesBook ===

impl UseSeriesBook {
    /// Reads every cell, and assigns at most this many places.
    pub(super) fn walk(&mut self, book: &UseBook, top_keys: usize, top_orgs: usize) {
        let now = book.now();
        let mut key_walk = SeriesWalk::new(&self.keys, top_keys, now);
        let mut org_sums: HashMap<Box<str>, KeyUse> = HashMap::new();
        let mut others = KeyUse::default();
        let mut from: Option<Digest> = None;
        loop {
            from = book.walk(from, |key| {
                let used = key.here;
                key_walk.add(key.id, used, key.former.admitted);
                let has_room = org_sums.len() < MOST_ORGS || self.orgs.places.contains_key(key.org);
                match org_sums.get_mut(key.org) {
                    Some(sum) => *sum = sum.and(used),
                    None if has_room => {
                        org_sums.insert(key.org.into(), used);
                    }
                    None => others = others.and(used),
                }
            });
            if from.is_none() {
                break;
            }
        }
        let mut org_walk = SeriesWalk::new(&self.orgs, top_orgs, now);
        for (org, used) in org_sums {
            let former = book.former_of_org(&org);
            org_walk.add(org, used, former);
        }
        org_walk.total = org_walk.total.saturating_add(others.admitted);
        let former = book.former_total();
        key_walk.total = key_walk.total.saturating_add(former);
        org_walk.total = org_walk.total.saturating_add(former);
        let give = std::mem::replace(&mut self.given, now) != now;
        let (key_walk, org_walk) = (key_walk.done(), org_walk.done());
        self.keys.settle(key_walk, now, give.then_some(top_keys));
        self.orgs.settle(org_walk, now, give.then_some(top_orgs));
    }

    pub(super) fn shown(&self) -> UseSeries {
        let name = |id: &KeyId| id.to_string();
        UseSeries {
            keys: self.keys.shown(name),
            other_keys: self.keys.is_shown.then(|| self.keys.other()),
            orgs: self.orgs.shown(|org| org.to_string()),
            other_orgs: self.orgs.is_shown.then(|| self.orgs.other()),
        }
    }
}

/// What one walk has seen.
struct SeriesWalk<'s, N> {
    known: &'s SeriesPlaces<N>,
    total: u64,
    /// What those with a place have used.
    counts: HashMap<N, SeriesSum>,
    /// The busiest of the others, the least of them on top.
    busiest: BinaryHeap<Reverse<(u64, N)>>,
    most: usize,
    now: u32,
}

/// All uses of a key or org.
#[derive(Clone, Copy, Debug, Default)]
struct SeriesSum {
    /// Under secrets of the tables.
    here: u64,
    /// Under secrets that are in no table any more.
    former: u64,
}

struct SeriesSeen<N> {
    total: u64,
    counts: HashMap<N, SeriesSum>,
    /// The busiest first.
    busiest: Vec<N>,
}

// === impl SeriesWalk ===

impl<'s, N: Clone + Eq + Hash + Ord> SeriesWalk<'s, N> {
    fn new(known: &'s SeriesPlaces<N>, most: usize, now: u32) -> Self {
        let (counts, busiest) = (HashMap::new(), BinaryHeap::new());
        Self { known, total: 0, counts, busiest, most, now }
    }

    /// `used`: under one of its secrets. `former`: under all that it has no more.
    fn add(&mut self, name: N, used: KeyUse, former: u64) {
        self.total = self.total.saturating_add(used.admitted);
        if self.known.places.contains_key(&name) {
            // A pair in rotation occurs twice.
            let sum = self.counts.entry(name).or_default();
            (sum.here, sum.former) = (sum.here.saturating_add(used.admitted), former);
        } else if used.last.saturating_add(BUSY) > self.now {
            self.busiest.push(Reverse((used.admitted, name)));
            if self.busiest.len() > self.most {
                self.busiest.pop();
            }
        }
    }

    fn done(self) -> SeriesSeen<N> {
        let mut busiest: Vec<_> = self.busiest.into_iter().map(|Reverse(one)| one).collect();
        busiest.sort_by(|a, b| b.cmp(a));
        let busiest = busiest.into_iter().map(|(_, name)| name).collect();
        SeriesSeen { total: self.total, counts: self.counts, busiest }
    }
}

// === impl SeriesPlaces ===

impl<N> Default for SeriesPlaces<N> {
    fn default() -> Self {
        Self { places: HashMap::new(), total: 0, ended: 0, is_shown: false }
    }
}

impl<N: Clone + Eq + Hash + Ord> SeriesPlaces<N> {
    /// `places`: how many there may be, if it is time to assign them.
    fn settle(&mut self, seen: SeriesSeen<N>, now: u32, places: Option<usize>) {
        // Counts of forgotten keys still count.
        self.total = self.total.max(seen.total);
        for (name, SeriesSum { here, former }) in seen.counts {
            let Some(place) = self.places.get_mut(&name) else { continue };
            let sum = here.saturating_add(former);
            // A sum falls if former uses are forgotten. What follows is new all the same.
            let rise = place.seen.map_or(0, |seen| sum.saturating_sub(seen));
            place.seen = Some(sum);
            if rise > 0 {
                (place.count, place.grew) = (place.count.saturating_add(rise), now);
            }
        }
        let Some(most) = places else { return };
        self.is_shown = most > 0;
        let fewer = self.places.len().saturating_sub(most);
        if fewer > 0 {
            // The configuration allows fewer, so the quietest end.
            let mut all: Vec<_> = self.places.iter().map(|(n, p)| (p.count, n.clone())).collect();
            all.sort();
            for (_, name) in all.into_iter().take(fewer) {
                self.end(&name);
            }
        }
        let idle = |place: &SeriesPlace| place.grew.saturating_add(IDLE) <= now;
        let idle: Vec<_> =
            self.places.iter().filter(|(_, p)| idle(p)).map(|(name, _)| name.clone()).collect();
        idle.iter().for_each(|name| self.end(name));
        for name in seen.busiest {
            if self.places.len() >= most {
                break;
            }
            self.places.insert(name, SeriesPlace { seen: None, count: 0, grew: now });
        }
    }

    fn end(&mut self, name: &N) {
        if let Some(place) = self.places.remove(name) {
            self.ended = self.ended.saturating_add(place.count);
        }
    }

    /// Everything that no series has counted.
    fn other(&self) -> u64 {
        let running: u64 = self.places.values().map(|place| place.count).sum();
        self.total.saturating_sub(running).saturating_sub(self.ended)
    }

    fn shown(&self, name: impl Fn(&N) -> String) -> Vec<(String, u64)> {
        let mut shown: Vec<_> = self.places.iter().map(|(n, p)| (name(n), p.count)).collect();
        shown.sort();
        shown
    }
}
