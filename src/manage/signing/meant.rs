//! How many keys are active once a file is signed: of those that should be, and of those that every
//! sidecar takes. Pure. Imports table.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::active::{ActiveCourse, CountedSpans};
use super::ended::{EndedKeys, JournalLines, KeyEnd, meet};
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
    there: Option<EndedThere>,
}

/// Which of the keys that were ended are active in a table: a few of them, as a rule.
#[derive(Debug)]
struct EndedThere {
    table: Base,
    day: u64,
    digests: HashSet<Digest>,
}

/// What a file comes to where everything that was signed is in force.
#[derive(Debug)]
pub struct MeantKeys {
    pub counted: CountedSpans,
    pub table: Arc<Table>,
    /// Over the table.
    pub patch: Option<Arc<Patch>>,
    /// What the file ends of the keys that were active before; `None`: nobody knows, because the table
    /// before is lost.
    pub ends: Option<Vec<KeyEnd>>,
}

// === impl SignedLately ===

impl SignedLately {
    /// Of what was signed up to `serial` nothing is known yet.
    pub fn since(serial: u64) -> Self {
        Self { held: HeldWords::since(serial), ..Self::default() }
    }

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

    /// Notes what a file ends that is signed today: lines for the journal.
    pub fn note_ends(&mut self, meant: &MeantKeys, today: u64) -> JournalLines {
        let ends = meant.ends.as_deref().unwrap_or_default();
        if let Some(there) = self.there.as_mut().filter(|there| there.is_of(&meant.table, today)) {
            there.take(&meant.table, ends.iter().map(|end| &end.digest));
        }
        self.ended.forget(today);
        self.ended.note(today, ends)
    }

    /// Forgets those of tables that no patch may be over any more. What is lost is in what was signed now.
    pub fn forget_patches(&mut self, is_kept: impl Fn(Base) -> bool) {
        self.patches.retain(|patch| patch.manifest().base.is_some_and(&is_kept));
        self.lost = 0;
    }
}

// === impl EndedThere ===

impl EndedThere {
    fn of<'d>(table: &Table, day: u64, digests: impl Iterator<Item = &'d Digest>) -> Self {
        let base = table.manifest().as_base();
        let mut there = Self { table: base, day, digests: HashSet::new() };
        there.take(table, digests);
        there
    }

    fn is_of(&self, table: &Table, day: u64) -> bool {
        self.table == table.manifest().as_base() && self.day == day
    }

    fn take<'d>(&mut self, table: &Table, digests: impl Iterator<Item = &'d Digest>) {
        let is_active =
            |digest: &&Digest| table.life(digest).is_some_and(|life| !life.active().is_empty());
        self.digests.extend(digests.filter(is_active));
    }
}

// === impl MeantKeys ===

impl MeantKeys {
    /// Of these keys, what every sidecar takes, whatever it was given of what was signed in the last days.
    pub fn lasting(&self, lately: &mut SignedLately, today: u64) -> ActiveCourse {
        let mut now = HashMap::new();
        for end in self.ends.iter().flatten() {
            let known = now.entry(end.digest).or_insert_with(|| end.left.clone());
            *known = meet(known, &end.left);
        }
        let mut counted = self.counted.clone();
        for digest in self.ended(lately, today).union(&now.keys().copied().collect()) {
            let Some(active) = self.life(digest).map(|life| life.active()) else { continue };
            let left = lately.ended.left(digest, &active, today);
            let left = now.get(digest).map_or(left.clone(), |now| meet(&left, now));
            if left != active {
                counted.add(&active, -1);
                counted.add(&left, 1);
            }
        }
        match &self.ends {
            Some(_) => counted.course().less(lately.ended.uncounted(today)),
            None => counted.course().less(u64::MAX),
        }
    }

    /// Those that were ended before. A walk over all of them once for a table and a day.
    fn ended(&self, lately: &mut SignedLately, today: u64) -> HashSet<Digest> {
        let SignedLately { ended, there, .. } = lately;
        let known = there.take().filter(|there| there.is_of(&self.table, today));
        let known = known.unwrap_or_else(|| EndedThere::of(&self.table, today, ended.digests()));
        let patched = self.patch.iter().flat_map(|patch| patch.lives());
        let patched = patched.map(|life| life.digest()).filter(|digest| ended.has(digest));
        let all = known.digests.iter().copied().chain(patched).collect();
        *there = Some(known);
        all
    }

    fn life(&self, digest: &Digest) -> Option<KeyLife<'_>> {
        match &self.patch {
            Some(patch) => patch.life_over(&self.table, digest),
            None => self.table.life(digest),
        }
    }
}
