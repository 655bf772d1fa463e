//! Patches that were signed lately, and what sidecars may have by them. Whoever has the service decides
//! what sidecars get of what was signed: one with an older table holds what later patches forbid, and
//! refuses keys that it should take. Pure. Imports table.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::table::{Base, Patch};

/// Patches that are kept apart. Where a table has one patch after the other, each has everything that
/// the one before it has, and stands for it.
const MOST: usize = 64;

/// The patches of one audience that a sidecar may have.
#[derive(Debug)]
pub struct SignedPatches {
    /// Of patches up to this serial nothing is known.
    since: u64,
    /// By serial.
    patches: Vec<Arc<Patch>>,
}

/// Which they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PatchList {
    pub since: u64,
    pub serials: Vec<u64>,
}

/// What a sidecar may have over a table.
#[derive(Clone, Debug)]
pub struct SidecarState {
    pub in_force: Option<Arc<Patch>>,
    /// What they forbid it holds.
    pub held: Vec<Arc<Patch>>,
}

// === impl SignedPatches ===

impl SignedPatches {
    /// `since`: the last serial that was signed before anybody kept patches.
    pub const fn since(since: u64) -> Self {
        Self { since, patches: Vec::new() }
    }

    /// Those of a list. `read`: one of them, if it is still there.
    pub fn of(list: &PatchList, read: impl Fn(u64) -> Option<Arc<Patch>>) -> Self {
        let mut known = Self::since(list.since);
        for serial in &list.serials {
            match read(*serial) {
                Some(patch) => known.patches.push(patch),
                None => known.since = known.since.max(*serial),
            }
        }
        known
    }

    pub fn list(&self) -> PatchList {
        let serials = self.patches.iter().map(|patch| patch.serial()).collect();
        PatchList { since: self.since, serials }
    }

    /// Whether it is known what a sidecar may hold over a table that has every change through `includes`.
    pub const fn knows(&self, includes: u64) -> bool {
        includes >= self.since
    }

    /// Of patches up to this serial nothing is known.
    pub const fn unknown(&self) -> u64 {
        self.since
    }

    pub fn get(&self, serial: u64) -> Option<Arc<Patch>> {
        self.patches.iter().find(|patch| patch.serial() == serial).cloned()
    }

    /// The newest over a table.
    pub fn newest_over(&self, table: Base) -> Option<&Arc<Patch>> {
        self.patches.iter().rev().find(|patch| patch.manifest().base == Some(table))
    }

    /// Everything that a sidecar may have over a table that has every change through `includes`, but the
    /// table alone. A patch in force takes the place of all that was signed before it.
    pub fn states(&self, table: Base, includes: u64) -> Vec<SidecarState> {
        let is_over = |patch: &&Arc<Patch>| patch.manifest().base == Some(table);
        let held_from = |serial: u64| -> Vec<_> {
            let later = self.patches.iter().filter(|patch| patch.serial() > serial);
            later.filter(|patch| !is_over(patch)).cloned().collect()
        };
        let over = self.patches.iter().filter(is_over).map(|patch| {
            let held = held_from(includes.max(patch.manifest().includes_through));
            SidecarState { in_force: Some(Arc::clone(patch)), held }
        });
        let alone = SidecarState { in_force: None, held: held_from(includes) };
        over.chain((!alone.held.is_empty()).then_some(alone)).collect()
    }

    /// Takes in a patch that is about to be signed. All together have at most `most_bytes`.
    pub fn note(&mut self, patch: Arc<Patch>, most_bytes: u64) {
        // Where one over another table is in between, a sidecar may have it with the earlier one alone.
        let base = patch.manifest().base;
        let from = self.patches.iter().rposition(|known| known.manifest().base != base);
        let mut at = 0;
        self.patches.retain(|known| {
            at += 1;
            from.is_some_and(|from| at <= from + 1) || !patch.ends_as_much_as(known)
        });
        self.patches.push(patch);
        let bytes = |patches: &[Arc<Patch>]| -> u64 {
            patches.iter().map(|patch| patch.file().len() as u64).sum()
        };
        while self.patches.len() > MOST
            || (self.patches.len() > 1 && bytes(&self.patches) > most_bytes)
        {
            self.since = self.since.max(self.patches.remove(0).serial());
        }
    }

    /// Forgets those of tables that are not `kept`, where every table has all changes through `includes`.
    pub fn forget(&mut self, kept: impl Fn(Base) -> bool, includes: u64) {
        self.patches
            .retain(|patch| patch.serial() > includes || patch.manifest().base.is_some_and(&kept));
    }
}

// === impl SidecarState ===

impl SidecarState {
    /// No sidecar refuses more keys by it that it should take: an entry of a patch is held against its
    /// secret and against its id, which has two secrets at most. A record of an active key counts too:
    /// where it has nothing in common with the table's, nothing is left.
    pub fn most_refused(&self) -> u64 {
        let patches = self.held.iter().chain(&self.in_force);
        patches.map(|patch| patch.entries().saturating_mul(3)).fold(0, u64::saturating_add)
    }
}
