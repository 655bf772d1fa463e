//! The sum of all cells, and how counts move from a key set that is no longer in force to the one
//! that is. Imports `clock`, `config`, `core`, `snapshot`, `table`, `telemetry`, `usage`.
//!
//! A key is found by its digest and must have the same id: if a secret was given to another key,
//! its counts do not follow. Under the lock every use is in exactly one place, so that no reader
//! counts one twice or misses one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use super::traces::KeyTraces;
use crate::clock::Clock;
use crate::config::UseReports;
use crate::core::{Digest, KeyId, KeyUse, UseCell};
use crate::snapshot::Store;
use crate::table::{KeySet, UseBlock, UsedKey};
use crate::telemetry::UseSeries;
use crate::usage::UsageHead;
use crate::usage::record::{RecordPart, VERSION};

/// Records that one step of a walk looks at. A swap waits for that long.
const STEP: usize = 2_048;

/// The most keys that are in no table any more but whose uses are still known.
pub(super) const MOST_FORMER: usize = 65_536;

/// Records that are settled while holding the lock once.
const CHUNK: usize = 8_192;

/// The identity of this process.
#[derive(Clone, Debug)]
pub struct BookIdentity {
    pub instance: String,
    /// 16 hexadecimal digits, chosen at random at the start.
    pub boot: String,
    /// As configured. Once there is a table, its audience is used instead.
    pub audience: String,
}

/// The uses of all keys. Shared by everybody who counts or shows them.
#[derive(Debug)]
pub struct UseBook {
    store: Arc<Store>,
    clock: Clock,
    identity: BookIdentity,
    started: u32,
    ledger: Mutex<UseLedger>,
    traces: KeyTraces,
    /// As of the last walk.
    series: Mutex<UseSeries>,
    /// The thread that settles, so that it can be woken.
    settler: OnceLock<Thread>,
}

#[derive(Debug, Default)]
struct UseLedger {
    /// No longer in force, but a request or a reader may still hold it.
    retired: Vec<Arc<KeySet>>,
    /// Nobody counts in it any more. Its contents are being moved to where they belong.
    draining: Vec<UseBlock>,
    /// Uses of secrets that no key has any more, by key.
    former: HashMap<KeyId, KeyUse>,
    /// The same by org, including keys that were dropped. At most [`MOST_FORMER`].
    former_orgs: HashMap<Box<str>, u64>,
    /// Number of keys that had to leave `former`.
    dropped: u64,
    /// Uses of the keys that were dropped.
    forgotten: u64,
}

/// A key as a walk finds it by one of its secrets.
#[derive(Clone, Copy, Debug)]
pub(super) struct WalkedKey<'w> {
    pub(super) id: KeyId,
    pub(super) org: &'w str,
    /// Uses under this secret.
    pub(super) here: KeyUse,
    /// Uses under all secrets that it has or had.
    pub(super) total: KeyUse,
    /// Of that, under secrets that are in no table any more.
    pub(super) former: KeyUse,
}

// === impl UseBook ===

impl UseBook {
    pub fn new(store: Arc<Store>, clock: Clock, identity: BookIdentity) -> Self {
        let started = clock.now().unix_minute();
        Self {
            store,
            clock,
            identity,
            started,
            ledger: Mutex::default(),
            traces: KeyTraces::default(),
            series: Mutex::default(),
            settler: OnceLock::new(),
        }
    }

    /// `old` is about to be replaced. Call this before the swap, so that a reader sees it as long
    /// as it holds a count.
    pub fn retire(&self, old: Arc<KeySet>) {
        self.lock().retired.push(old);
        if let Some(settler) = self.settler.get() {
            settler.unpark();
        }
    }

    /// Wakes this thread when there is something to settle.
    pub(super) fn settled_by(&self, thread: Thread) {
        // A second settler would find nothing to do.
        let _ = self.settler.set(thread);
    }

    /// Moves the counts of key sets that nobody holds any more. False: some are still held. Only
    /// one thread may call this.
    pub fn settle(&self) -> bool {
        let Some(current) = self.store.load().keys.clone() else {
            // Nothing is in force, so there is nowhere to move it.
            return self.lock().retired.is_empty();
        };
        let targets: Vec<_> = current.use_blocks().collect();
        let released = self.lock().release(&targets);
        // Dropping a table takes milliseconds, for which nobody should wait.
        drop(released);
        while let Some(block) = self.next_draining() {
            let mut start = 0;
            while start < block.len() {
                let end = block.len().min(start + CHUNK);
                let mut ledger = self.lock();
                while let Some(at) = block.first_used(start..end) {
                    ledger.bring_over(&block, at, &targets);
                    start = at + 1;
                }
                start = end;
            }
            self.lock().draining.remove(0);
        }
        self.traces.sweep();
        self.lock().retired.is_empty()
    }

    fn next_draining(&self) -> Option<UseBlock> {
        self.lock().draining.first().cloned()
    }

    /// The head of a record of everything used in or since the minute `since`.
    pub fn head(&self, since: u32) -> UsageHead {
        let keys = self.store.load().keys.clone();
        let serial = |keys: &Arc<KeySet>| keys.serial().max(keys.patch_serial().unwrap_or(0));
        UsageHead {
            usage: VERSION,
            instance: self.identity.instance.clone(),
            boot: self.identity.boot.clone(),
            audience: match &keys {
                Some(keys) => keys.table().manifest().audience.to_string(),
                None => self.identity.audience.clone(),
            },
            started: self.started,
            now: self.now(),
            since,
            part: RecordPart::Last,
            serial: keys.as_ref().map(serial),
            dropped: self.lock().dropped,
            dropped_traces: self.traces.dropped(),
        }
    }

    /// Metrics per key and org.
    pub fn series(&self) -> UseSeries {
        self.series.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn show_series(&self, series: UseSeries) {
        *self.series.lock().unwrap_or_else(PoisonError::into_inner) = series;
    }

    /// The part that a reload of the configuration can change.
    pub(super) fn reports(&self) -> UseReports {
        self.store.load().settings.use_reports.clone()
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// This minute, since 1970.
    pub fn now(&self) -> u32 {
        self.clock.now().unix_minute()
    }

    pub(super) fn traces(&self) -> &KeyTraces {
        &self.traces
    }

    /// One step of a walk over every key that was ever used, in the order of digests, starting at
    /// `from`. Returns where the next step begins.
    pub(super) fn walk(
        &self,
        from: Option<Digest>,
        mut each: impl FnMut(WalkedKey<'_>),
    ) -> Option<Digest> {
        let (ledger, blocks) = self.read();
        let start = |block: &UseBlock| from.map_or(0, |digest| block.below(&digest));
        // The largest block determines the length of the step, and the others follow.
        let largest = blocks.iter().max_by_key(|block| block.len());
        let until = largest.and_then(|b| b.key(start(b) + STEP)).map(|key| key.digest);
        let mut used: Vec<UsedKey<'_>> = Vec::new();
        for block in &blocks {
            let end = until.map_or(block.len(), |digest| block.below(&digest));
            let mut at = start(block);
            while let Some(found) = block.first_used(at..end) {
                used.extend(block.key(found));
                at = found + 1;
            }
        }
        used.sort_unstable_by_key(|key| (key.digest, key.id));
        for same in used.chunk_by(|a, b| (a.digest, a.id) == (b.digest, b.id)) {
            let Some(key) = same.first() else { continue };
            let here = sum(same.iter().map(|key| key.uses));
            let known = match key.public_id {
                None => here,
                Some(public) => sum(blocks.iter().flat_map(|b| b.pair_cells(key.id, public))),
            };
            let former = ledger.former(key.id);
            each(WalkedKey { id: key.id, org: key.org, here, total: known.and(former), former });
        }
        until
    }

    /// Uses of the key under secrets that it no longer has.
    pub(super) fn former(&self, id: KeyId) -> KeyUse {
        self.lock().former(id)
    }

    /// Keys that were used in or since this minute under secrets that they no longer have.
    pub(super) fn former_since(&self, minute: u32) -> Vec<KeyId> {
        let ledger = self.lock();
        ledger.former.iter().filter(|(_, used)| used.last >= minute).map(|(id, _)| *id).collect()
    }

    /// Uses under secrets that no table has any more, of all keys.
    pub(super) fn former_total(&self) -> u64 {
        let ledger = self.lock();
        ledger.former.values().fold(ledger.forgotten, |sum, used| sum.saturating_add(used.admitted))
    }

    /// Uses of keys of this org under secrets that they no longer have.
    pub(super) fn former_of_org(&self, org: &str) -> u64 {
        self.lock().former_orgs.get(org).copied().unwrap_or(0)
    }

    /// What counts at this moment, and the lock that keeps it that way.
    fn read(&self) -> (MutexGuard<'_, UseLedger>, Vec<UseBlock>) {
        let ledger = self.lock();
        let mut blocks: Vec<UseBlock> = Vec::new();
        let current = self.store.load().keys.clone();
        let sets = current.iter().chain(&ledger.retired);
        let draining = ledger.draining.iter().cloned();
        for block in sets.flat_map(|keys| keys.use_blocks()).chain(draining) {
            if !blocks.iter().any(|known| known.is(&block)) {
                blocks.push(block);
            }
        }
        (ledger, blocks)
    }

    fn lock(&self) -> MutexGuard<'_, UseLedger> {
        // Every step leaves each use in one place, so a panic in between has lost nothing.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl UseLedger ===

impl UseLedger {
    /// Takes out the key sets that nobody else holds. Counts that only they had are drained from
    /// now on.
    fn release(&mut self, targets: &[UseBlock]) -> Vec<Arc<KeySet>> {
        let mut released = Vec::new();
        let mut at = 0;
        while let Some(keys) = self.retired.get_mut(at) {
            // This synchronizes with the threads that dropped it: all their counts are visible.
            match Arc::get_mut(keys) {
                Some(_) => released.push(self.retired.swap_remove(at)),
                None => at += 1,
            }
        }
        let held: Vec<_> = self.retired.iter().flat_map(|keys| keys.use_blocks()).collect();
        for block in released.iter().flat_map(|keys| keys.use_blocks()) {
            let is_it = |known: &UseBlock| known.is(&block);
            if !held.iter().chain(targets).chain(&self.draining).any(is_it) {
                self.draining.push(block);
            }
        }
        released
    }

    fn bring_over(&mut self, block: &UseBlock, at: usize, targets: &[UseBlock]) {
        let Some(key) = block.key(at) else { return };
        let used = key.uses.take();
        let cell = targets.iter().find_map(|target| target.cell(key.id, &key.digest));
        match cell {
            Some(cell) => cell.add(used),
            None => self.keep_former(key.id, key.org, used),
        }
    }

    fn keep_former(&mut self, id: KeyId, org: &str, used: KeyUse) {
        let has_room = self.former_orgs.len() < MOST_FORMER;
        match self.former_orgs.get_mut(org) {
            Some(sum) => *sum = sum.saturating_add(used.admitted),
            None if has_room => drop(self.former_orgs.insert(org.into(), used.admitted)),
            None => {}
        }
        let known = self.former.entry(id).or_default();
        *known = known.and(used);
        if self.former.len() > MOST_FORMER {
            // The longest unused quarter has to leave.
            let mut minutes: Vec<u32> = self.former.values().map(|used| used.last).collect();
            let (_, oldest_kept, _) = minutes.select_nth_unstable(MOST_FORMER / 4);
            let (oldest_kept, before) = (*oldest_kept, self.former.len());
            let mut room = before - MOST_FORMER / 4 * 3;
            let forgotten = &mut self.forgotten;
            self.former.retain(|_, used| {
                let leaves = room > 0 && used.last <= oldest_kept;
                room -= usize::from(leaves);
                *forgotten += if leaves { used.admitted } else { 0 };
                !leaves
            });
            self.dropped += (before - self.former.len()) as u64;
        }
    }

    fn former(&self, id: KeyId) -> KeyUse {
        self.former.get(&id).copied().unwrap_or_default()
    }
}

fn sum<'c>(cells: impl Iterator<Item = &'c UseCell>) -> KeyUse {
    cells.fold(KeyUse::default(), |sum, cell| sum.and(cell.read()))
}
