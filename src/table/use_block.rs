//! The counted uses of one table or patch, walked in the order of its digests. Imports core only.

use std::ops::Range;
use std::sync::Arc;

use super::body::{FoundRecord, TableBody};
use super::file::{Patch, Table};
use crate::core::{Digest, KeyId, UseCell};

/// One table or patch and the cells of its records.
#[derive(Clone, Debug)]
pub enum UseBlock {
    Patch(Arc<Patch>),
    Table(Arc<Table>),
}

/// A record whose uses are counted.
#[derive(Clone, Copy, Debug)]
pub struct UsedKey<'b> {
    pub id: KeyId,
    pub org: &'b str,
    pub digest: Digest,
    /// For a pair, which may have two records.
    pub public_id: Option<&'b str>,
    pub uses: &'b UseCell,
}

// === impl UseBlock ===

impl UseBlock {
    /// Whether both are the same table or patch in memory.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Patch(one), Self::Patch(other)) => Arc::ptr_eq(one, other),
            (Self::Table(one), Self::Table(other)) => Arc::ptr_eq(one, other),
            (Self::Patch(_), Self::Table(_)) | (Self::Table(_), Self::Patch(_)) => false,
        }
    }

    /// Records with a cell. 0 if uses are not counted.
    pub fn len(&self) -> usize {
        self.cells().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first record of `range` that was ever used. Reads only cells.
    pub fn first_used(&self, range: Range<usize>) -> Option<usize> {
        let start = range.start;
        let cells = self.cells().get(range)?;
        cells.iter().position(|cell| cell.read().admitted > 0).map(|at| start + at)
    }

    pub fn key(&self, index: usize) -> Option<UsedKey<'_>> {
        let uses = self.cells().get(index)?;
        self.body().record(index).map(|found| used(found, uses))
    }

    /// How many records have a digest below this one.
    pub fn below(&self, digest: &Digest) -> usize {
        self.body().records().partition_point(|record| record.digest < digest.0)
    }

    /// The count of the key with this id under this digest.
    pub fn cell(&self, id: KeyId, digest: &Digest) -> Option<&UseCell> {
        let found = self.body().find(&digest.0)?;
        found.uses().filter(|_| found.id() == id)
    }

    /// The cells of a pair: one for each of its secrets.
    pub fn pair_cells<'b>(
        &'b self,
        id: KeyId,
        public_id: &str,
    ) -> impl Iterator<Item = &'b UseCell> {
        let found: Vec<_> = self.body().find_pair(public_id.as_bytes()).collect();
        found.into_iter().filter(move |found| found.id() == id).filter_map(|found| found.uses())
    }

    fn cells(&self) -> &[UseCell] {
        self.body().use_cells()
    }

    fn body(&self) -> &TableBody {
        match self {
            Self::Patch(patch) => patch.body(),
            Self::Table(table) => table.body(),
        }
    }
}

fn used<'b>(found: FoundRecord<'b>, uses: &'b UseCell) -> UsedKey<'b> {
    UsedKey {
        id: found.id(),
        org: found.org(),
        digest: found.digest(),
        public_id: found.public_id(),
        uses,
    }
}
