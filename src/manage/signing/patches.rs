//! Patches that were signed lately. A sidecar holds what a patch forbids over every table that does not
//! know of it, so a table is judged with them. Pure. Imports table.

use std::sync::Arc;

use crate::table::Patch;

/// Patches that are kept apart. One that takes no less than an earlier one stands for it, so that there
/// are few: each has everything since its table.
const MOST: usize = 64;

/// The patches of one audience that a sidecar may have.
#[derive(Debug)]
pub struct SignedPatches {
    /// Of patches up to this serial nothing is known.
    since: u64,
    /// By serial.
    patches: Vec<Arc<Patch>>,
}

// === impl SignedPatches ===

impl SignedPatches {
    /// `since`: the last serial that was signed before anybody kept patches.
    pub const fn since(since: u64) -> Self {
        Self { since, patches: Vec::new() }
    }

    /// What a sidecar may hold over a table that has every change through `includes`.
    ///
    /// # Errors
    ///
    /// Through which serial it has to have them: of patches before that nothing is known.
    pub fn over(&self, includes: u64) -> Result<Vec<Arc<Patch>>, u64> {
        if includes < self.since {
            return Err(self.since);
        }
        Ok(self.patches.iter().filter(|patch| patch.serial() > includes).cloned().collect())
    }

    /// Takes in a patch that is signed. All together have at most `most_bytes`.
    pub fn note(&mut self, patch: Arc<Patch>, most_bytes: u64) {
        self.patches.retain(|known| !patch.ends_as_much_as(known));
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

    /// Every table from now on has every change through `includes`.
    pub fn forget(&mut self, includes: u64) {
        self.patches.retain(|patch| patch.serial() > includes);
    }
}
