//! How many keys are active once a file is signed: of those that should be, and of those that every
//! sidecar accepts. Pure. Imports table.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::active::{ActiveCourse, CountedSpans};
use super::ended::{EndedKeys, JournalLines, KeyEnd, meet};
use super::held::HeldWords;
use crate::core::Digest;
use crate::table::{ActiveSpan, Base, KeyLife, Patch, Table};

/// What sidecars of an audience may have in addition to tables.
#[derive(Debug, Default)]
pub struct SignedLately {
    /// The newest patch over each table that patches may be over.
    pub patches: Vec<Arc<Patch>>,
    /// The last serial among patches that are missing from the disk; 0: none is missing.
    pub lost: u64,
    pub ended: EndedKeys,
    pub held: HeldWords,
    there: Option<EndedThere>,
}

/// Which of the ended keys are active in a table: usually a few.
#[derive(Debug)]
struct EndedThere {
    table: Base,
    day: u64,
    digests: HashSet<Digest>,
}

/// What a file amounts to once everything that was signed is in force.
#[derive(Debug)]
pub struct MeantKeys {
    /// By the file alone.
    pub counted: CountedSpans,
    pub table: Arc<Table>,
    /// The patch over the table.
    pub patch: Option<Arc<Patch>>,
    /// What the file ends of the keys that were active before.
    pub ends: FileEnds,
    /// What earlier patches that the file does not include end of its keys.
    pub held: Vec<KeyEnd>,
}

/// What a file ends.
#[derive(Debug)]
pub enum FileEnds {
    Known(Vec<KeyEnd>),
    /// Unknown: the table before it is lost.
    Unknown,
}

/// Those of a set of keys that every sidecar accepts, whichever of the recently signed files it was
/// given.
#[derive(Debug)]
pub struct LastingKeys {
    /// Before anything is held over them.
    pub unheld: ActiveCourse,
    pub all: ActiveCourse,
}

// === impl SignedLately ===

impl SignedLately {
    /// Nothing is known yet of what was signed up to `serial`.
    pub fn since(serial: u64) -> Self {
        Self { held: HeldWords::since(serial), ..Self::default() }
    }

    /// The newest patch over a table.
    pub fn over(&self, table: Base) -> Option<&Arc<Patch>> {
        self.patches.iter().find(|patch| patch.manifest().base == Some(table))
    }

    /// It replaces the one before it.
    pub fn take(&mut self, patch: &Arc<Patch>) {
        let base = patch.manifest().base;
        self.patches.retain(|known| known.manifest().base != base);
        self.patches.push(Arc::clone(patch));
        self.held.take(patch);
    }

    /// Notes what a file signed today ends. Returns lines for the journal.
    pub fn note_ends(&mut self, meant: &MeantKeys, today: u64) -> JournalLines {
        let ends = || meant.ends.known().iter().chain(&meant.held);
        if let Some(there) = self.there.as_mut().filter(|there| there.is_of(&meant.table, today)) {
            there.take(&meant.table, ends().map(|end| &end.digest));
        }
        self.ended.forget(today);
        self.ended.note(today, ends())
    }

    /// Forgets the patches over tables that patches may no longer be over. What was lost is
    /// included in the file signed now.
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

// === impl FileEnds ===

impl FileEnds {
    fn known(&self) -> &[KeyEnd] {
        match self {
            Self::Known(ends) => ends,
            Self::Unknown => &[],
        }
    }
}

// === impl MeantKeys ===

impl MeantKeys {
    /// Those that should be active if what is held over the file is in force too: it was counted
    /// when it was signed.
    pub fn meant(&self) -> CountedSpans {
        let mut meant = self.counted.clone();
        for (digest, held) in &strictest(&self.held) {
            if let Some(active) = self.life(digest).map(|life| life.active()) {
                shorten(&mut meant, &active, &meet(&active, held));
            }
        }
        meant
    }

    /// Those of these keys that every sidecar accepts.
    pub fn lasting(&self, lately: &mut SignedLately, today: u64) -> LastingKeys {
        let (now, held) = (strictest(self.ends.known()), strictest(&self.held));
        let mut digests = self.ended(lately, today);
        digests.extend(now.keys().chain(held.keys()).copied());
        let (mut unheld, mut all) = (self.counted.clone(), self.counted.clone());
        for digest in &digests {
            let Some(active) = self.life(digest).map(|life| life.active()) else { continue };
            let mut left = lately.ended.left(digest, &active, today);
            let both = |left: &ActiveSpan, end: Option<&ActiveSpan>| match end {
                Some(end) => meet(left, end),
                None => left.clone(),
            };
            left = both(&left, now.get(digest));
            shorten(&mut unheld, &active, &left);
            shorten(&mut all, &active, &both(&left, held.get(digest)));
        }
        let uncounted = match self.ends {
            FileEnds::Known(_) => lately.ended.uncounted(today),
            FileEnds::Unknown => u64::MAX,
        };
        let course = |counted: CountedSpans| counted.course().less(uncounted);
        LastingKeys { unheld: course(unheld), all: course(all) }
    }

    /// Those that were ended before. Walks over all keys once per table and day.
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

/// Lets a counted key count for less.
fn shorten(counted: &mut CountedSpans, active: &ActiveSpan, left: &ActiveSpan) {
    if left != active {
        counted.add(active, -1);
        counted.add(left, 1);
    }
}

/// By digest.
fn strictest(ends: &[KeyEnd]) -> HashMap<Digest, ActiveSpan> {
    let mut found = HashMap::new();
    for end in ends {
        let known = found.entry(end.digest).or_insert_with(|| end.left.clone());
        *known = meet(known, &end.left);
    }
    found
}
