//! How many keys are active once a file is signed: of those that should be, and of those that every
//! sidecar takes. Pure. Imports table.

use std::collections::HashMap;
use std::sync::Arc;

use super::active::{ActiveCourse, CountedSpans};
use super::ended::{EndedKeys, KeyEnd, meet};
use super::held::HeldWords;
use crate::core::Digest;
use crate::table::{Base, KeyLife, Patch, Table};

/// What sidecars of an audience may have beside tables.
#[derive(Debug, Default)]
pub struct SignedLately {
    /// The newest patch over each table that patches may be over.
    pub patches: Vec<Arc<Patch>>,
    /// The last serial of those that are gone from the disk; 0: none is.
    pub lost: u64,
    pub ended: EndedKeys,
    pub held: HeldWords,
}

/// What a file comes to where everything that was signed is in force.
#[derive(Debug)]
pub struct MeantKeys {
    pub counted: CountedSpans,
    pub table: Arc<Table>,
    /// Over the table.
    pub patch: Option<Arc<Patch>>,
    /// What the file ends of the keys that were active before.
    pub ends: Vec<KeyEnd>,
}

// === impl SignedLately ===

impl SignedLately {
    /// The newest patch over a table.
    pub fn over(&self, table: Base) -> Option<&Arc<Patch>> {
        self.patches.iter().find(|patch| patch.manifest().base == Some(table))
    }

    /// It takes the place of the one before it.
    pub fn take(&mut self, patch: &Arc<Patch>) {
        let base = patch.manifest().base;
        self.patches.retain(|known| known.manifest().base != base);
        self.patches.push(Arc::clone(patch));
        self.held.take(patch);
    }

    /// Forgets those of tables that no patch may be over any more. What is lost is in what was signed now.
    pub fn forget_patches(&mut self, is_kept: impl Fn(Base) -> bool) {
        self.patches.retain(|patch| patch.manifest().base.is_some_and(&is_kept));
        self.lost = 0;
    }
}

// === impl MeantKeys ===

impl MeantKeys {
    /// Of these keys, what every sidecar takes, whatever it was given of what was signed in the last days.
    pub fn lasting(&self, ended: &EndedKeys, today: u64) -> ActiveCourse {
        let mut now = HashMap::new();
        for end in &self.ends {
            let known = now.entry(end.digest).or_insert_with(|| end.left.clone());
            *known = meet(known, &end.left);
        }
        let only_now = now.keys().filter(|digest| !ended.has(digest));
        let mut counted = self.counted.clone();
        for digest in ended.digests().chain(only_now) {
            let Some(active) = self.life(digest).map(|life| life.active()) else { continue };
            let left = ended.left(digest, &active, today);
            let left = now.get(digest).map_or(left.clone(), |now| meet(&left, now));
            if left != active {
                counted.add(&active, -1);
                counted.add(&left, 1);
            }
        }
        counted.course().less(ended.uncounted(today))
    }

    fn life(&self, digest: &Digest) -> Option<KeyLife<'_>> {
        match &self.patch {
            Some(patch) => patch.life_over(&self.table, digest),
            None => self.table.life(digest),
        }
    }
}
