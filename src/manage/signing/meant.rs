//! How many keys are active once a file is signed: of those that should be, and of those that every
//! sidecar takes. Pure. Imports table.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::active::{ActiveCourse, CountedSpans};
use super::ended::{EndedKeys, JournalLines, KeyEnd, meet};
use super::held::HeldWords;
use crate::core::Digest;
use crate::table::{ActiveSpan, Base, KeyLife, Patch, Table};

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
    /// By the file itself.
    pub counted: CountedSpans,
    pub table: Arc<Table>,
    /// Over the table.
    pub patch: Option<Arc<Patch>>,
    /// What the file ends of the keys that were active before.
    pub ends: FileEnds,
    /// What patches end of its keys that were signed before it and that it does not have.
    pub held: Vec<KeyEnd>,
}

/// What a file ends.
#[derive(Debug)]
pub enum FileEnds {
    Known(Vec<KeyEnd>),
    /// Nobody knows: the table before is lost.
    Unknown,
}

/// Of some keys those that every sidecar takes, whatever it was given of what was signed in the last days.
#[derive(Debug)]
pub struct LastingKeys {
    /// Where nothing is held over them.
    pub unheld: ActiveCourse,
    pub all: ActiveCourse,
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
        let ends = || meant.ends.known().iter().chain(&meant.held);
        if let Some(there) = self.there.as_mut().filter(|there| there.is_of(&meant.table, today)) {
            there.take(&meant.table, ends().map(|end| &end.digest));
        }
        self.ended.forget(today);
        self.ended.note(today, ends())
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
    /// Those that should be active where what is held over the file is in force as well: whoever has signed
    /// that has counted it.
    pub fn meant(&self) -> CountedSpans {
        let mut meant = self.counted.clone();
        for (digest, held) in &strictest(&self.held) {
            if let Some(active) = self.life(digest).map(|life| life.active()) {
                shorten(&mut meant, &active, &meet(&active, held));
            }
        }
        meant
    }

    /// Of these keys, what every sidecar takes.
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

/// Has a key that was counted count for less.
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
