//! Which of the keys that sidecars may have in force are ended by a file. Pure. Imports table.
//!
//! A sidecar holds what a patch forbids over every table other than the patch's base, by secret and
//! by key id. A table or patch that it puts in force replaces everything before it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::ended::{KeyEnd, less_of};
use crate::core::{Digest, KeyId};
use crate::table::{ActiveSpan, IdIndex, KeyLife, Patch, PatchedIds, Table};

/// A table with an index to the records of a key.
#[derive(Debug)]
pub struct IndexedTable {
    pub table: Arc<Table>,
    /// Built on first use.
    ids: OnceLock<IdIndex>,
}

/// What sidecars may have in force, as far as a file can end keys of it: the tables that the file
/// replaces or is over; and the newest patch over every table that patches may be over.
#[derive(Debug)]
pub struct KeysBefore<'f> {
    pub tables: Vec<&'f IndexedTable>,
    pub patches: &'f [Arc<Patch>],
    pub now_ms: u64,
}

/// Ends by digest, the strictest for each.
#[derive(Debug, Default)]
struct FoundEnds(HashMap<Digest, ActiveSpan>);

// === impl IndexedTable ===

impl IndexedTable {
    pub const fn new(table: Arc<Table>) -> Self {
        Self { table, ids: OnceLock::new() }
    }

    fn lives_of(&self, id: KeyId) -> impl Iterator<Item = KeyLife<'_>> {
        self.ids.get_or_init(|| IdIndex::of(&self.table)).lives(&self.table, id)
    }
}

// === impl KeysBefore ===

impl KeysBefore<'_> {
    /// Which accepted keys a sidecar refuses once it puts `table` in force.
    pub fn ends_of_table(&self, table: &Table) -> Vec<KeyEnd> {
        let mut ends = FoundEnds::default();
        let before = self.tables.iter().flat_map(|known| known.table.lives());
        for before in before.chain(self.patches.iter().flat_map(|patch| patch.lives())) {
            self.compare(&mut ends, &before, table.life(&before.digest()));
        }
        ends.into_list()
    }

    /// Which accepted keys a sidecar refuses once it holds `patch`, or puts it in force over
    /// `base`.
    pub fn ends_of_patch(&self, patch: &Patch, base: &Table) -> Vec<KeyEnd> {
        let mut ends = FoundEnds::default();
        let patched = PatchedIds::of(self.patches.iter().map(|patch| &**patch));
        for stated in patch.lives() {
            for before in self.with_digest(stated.digest()) {
                self.compare(&mut ends, &before, Some(stated));
            }
            for before in self.with_id(&patched, stated.id()) {
                if !self.is_first_stated(patch, &before) {
                    let left = if stated.excludes(&before) { 0..0 } else { stated.active() };
                    self.restrict(&mut ends, &before, &left);
                }
            }
        }
        for (digest, id, is_whole) in patch.removals() {
            for before in self.with_digest(digest) {
                self.restrict(&mut ends, &before, &(0..0));
            }
            if is_whole {
                for before in self.with_id(&patched, id) {
                    self.restrict(&mut ends, &before, &(0..0));
                }
            }
        }
        // It replaces the patch before it, and those over older tables.
        let replaced = self.patches.iter().filter(|replaced| {
            replaced.manifest().base.is_some_and(|of| of.serial <= base.serial())
        });
        for before in replaced.flat_map(|replaced| replaced.lives()) {
            self.compare(&mut ends, &before, patch.life_over(base, &before.digest()));
        }
        ends.into_list()
    }

    fn with_digest(&self, digest: Digest) -> impl Iterator<Item = KeyLife<'_>> {
        let tables = self.tables.iter().filter_map(move |known| known.table.life(&digest));
        tables.chain(self.patches.iter().filter_map(move |patch| patch.life(&digest)))
    }

    fn with_id<'s>(
        &'s self,
        patched: &'s PatchedIds<'s>,
        id: KeyId,
    ) -> impl Iterator<Item = KeyLife<'s>> {
        let tables = self.tables.iter().flat_map(move |known| known.lives_of(id));
        tables.chain(patched.lives(id))
    }

    /// Whether a secret first appeared in this patch, or in those before it over the same table. A
    /// sidecar that holds the patch over another table does not know the secret, so the end of a
    /// former secret does not end its successor.
    fn is_first_stated(&self, patch: &Patch, before: &KeyLife<'_>) -> bool {
        let digest = before.digest();
        let others = self.patches.iter().filter(|o| o.manifest().base != patch.manifest().base);
        patch.life(&digest).is_some()
            && self.tables.iter().all(|known| known.table.life(&digest).is_none())
            && others.into_iter().all(|other| other.life(&digest).is_none())
    }

    /// `after`: what the file has for the same secret.
    fn compare(&self, ends: &mut FoundEnds, before: &KeyLife<'_>, after: Option<KeyLife<'_>>) {
        let left = match after {
            Some(after) if after.is_same_key(before) && !after.excludes(before) => after.active(),
            _ => 0..0,
        };
        self.restrict(ends, before, &left);
    }

    fn restrict(&self, ends: &mut FoundEnds, before: &KeyLife<'_>, left: &ActiveSpan) {
        if let Some(left) = less_of(&before.active(), left, self.now_ms) {
            ends.note(before.digest(), left);
        }
    }
}

// === impl FoundEnds ===

impl FoundEnds {
    fn note(&mut self, digest: Digest, left: ActiveSpan) {
        let known = self.0.entry(digest).or_insert_with(|| left.clone());
        *known = known.start.max(left.start)..known.end.min(left.end);
    }

    fn into_list(self) -> Vec<KeyEnd> {
        self.0.into_iter().map(|(digest, left)| KeyEnd { digest, left }).collect()
    }
}
