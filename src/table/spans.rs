//! When keys are active, according to the records: for counting keys that can be used, not merely
//! those with an active status. Imports core only.

use std::collections::HashMap;
use std::ops::Range;

use super::body::{FoundRecord, TableBody};
use super::file::{Patch, Table};
use super::hold::have_common_networks;
use crate::core::{Digest, Environment, KeyId, KeyKind, NetworkSet};

/// Unix seconds; the end is [`u64::MAX`] for a key that does not expire.
pub type ActiveSpan = Range<u64>;

/// A record, and the span in which it makes its key active.
#[derive(Clone, Copy)]
pub struct KeyLife<'t> {
    found: FoundRecord<'t>,
}

/// What a record requires of requests apart from secret and time, for code that keeps this without
/// the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTerms {
    kind: KeyKind,
    environment: Option<Environment>,
    networks: NetworkSet,
}

/// Where the records of a key are in a table. A record is found by its secret, but a patch speaks
/// of the key's other secret too. 4 bytes for each record.
#[derive(Debug)]
pub struct IdIndex(Vec<u32>);

/// The records of some patches, by key.
#[derive(Debug, Default)]
pub struct PatchedIds<'p>(HashMap<KeyId, Vec<KeyLife<'p>>>);

// === impl KeyLife ===

impl<'t> KeyLife<'t> {
    pub fn digest(&self) -> Digest {
        self.found.digest()
    }

    pub fn id(&self) -> KeyId {
        self.found.id()
    }

    /// Empty if its status says that it is not active.
    pub fn active(&self) -> ActiveSpan {
        self.found.active_span().unwrap_or(0..0)
    }

    /// Whether there may be requests that the other record admits and this one always refuses: it
    /// is of another kind, names another environment, or has other networks.
    pub fn excludes(&self, other: &KeyLife<'_>) -> bool {
        let (ours, theirs) = (&self.found, &other.found);
        ours.is_other_kind(theirs)
            || ours.names_networks()
                && theirs.names_networks()
                && !have_common_networks(&ours.view().grant.networks, &theirs.view().grant.networks)
    }

    pub fn terms(&self) -> KeyTerms {
        let grant = self.found.view().grant;
        KeyTerms {
            kind: grant.kind,
            environment: grant.environment,
            networks: grant.networks.clone(),
        }
    }

    /// Whether both belong to one key, and callers use the same name for it.
    pub fn is_same_key(&self, other: &KeyLife<'_>) -> bool {
        self.id() == other.id() && self.found.public_id() == other.found.public_id()
    }

    fn all_of(body: &'t TableBody) -> impl Iterator<Item = Self> {
        body.iter().map(|found| Self { found })
    }

    fn of(body: &'t TableBody, digest: &Digest) -> Option<Self> {
        body.find(&digest.0).map(|found| Self { found })
    }
}

impl std::fmt::Debug for KeyLife<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyLife").field("id", &self.id()).field("active", &self.active()).finish()
    }
}

// === impl KeyTerms ===

impl KeyTerms {
    /// Like [`KeyLife::excludes`].
    pub fn excludes(&self, other: &KeyLife<'_>) -> bool {
        let theirs = other.found.view().grant;
        self.kind != theirs.kind
            || self.environment.is_some() && self.environment != theirs.environment
            || !have_common_networks(&self.networks, &theirs.networks)
    }

    /// How many networks it names.
    pub fn networks(&self) -> usize {
        self.networks.iter().count()
    }
}

// === impl Table ===

impl Table {
    /// One for every record of an active key.
    pub fn active_spans(&self) -> impl Iterator<Item = ActiveSpan> {
        self.body().iter().filter_map(|found| found.active_span())
    }

    pub fn lives(&self) -> impl Iterator<Item = KeyLife<'_>> {
        KeyLife::all_of(self.body())
    }

    pub fn life(&self, digest: &Digest) -> Option<KeyLife<'_>> {
        KeyLife::of(self.body(), digest)
    }
}

// === impl Patch ===

impl Patch {
    /// One for every record of an active key in it.
    pub fn active_spans(&self) -> impl Iterator<Item = ActiveSpan> {
        self.body().iter().filter_map(|found| found.active_span())
    }

    /// One for every record of an active key that it replaces or removes in `table`.
    pub fn replaced_spans<'t>(&'t self, table: &'t Table) -> impl Iterator<Item = ActiveSpan> + 't {
        let replaced = self.body().iter().map(|found| found.record.digest);
        let digests = replaced.chain(self.body().removals().iter().map(|gone| gone.digest));
        digests.filter_map(|digest| table.body().find(&digest)?.active_span())
    }

    pub fn lives(&self) -> impl Iterator<Item = KeyLife<'_>> {
        KeyLife::all_of(self.body())
    }

    pub fn life(&self, digest: &Digest) -> Option<KeyLife<'_>> {
        KeyLife::of(self.body(), digest)
    }

    /// What is in force for a secret while this patch is over `table`.
    pub fn life_over<'t>(&'t self, table: &'t Table, digest: &Digest) -> Option<KeyLife<'t>> {
        match self.life(digest) {
            None if self.body().removal(&digest.0).is_none() => table.life(digest),
            life => life,
        }
    }
}

// === impl IdIndex ===

impl IdIndex {
    pub fn of(table: &Table) -> Self {
        let records = table.body().records();
        let mut order: Vec<u32> = (0..).take(records.len()).collect();
        let id = |index: &u32| records.get(*index as usize).map(|record| record.id);
        order.sort_unstable_by_key(id);
        Self(order)
    }

    /// The records of a key in `table`, which must be the table of this index.
    pub fn lives<'t>(&'t self, table: &'t Table, id: KeyId) -> impl Iterator<Item = KeyLife<'t>> {
        let body = table.body();
        let at = move |index: u32| body.record(index as usize).map(|found| KeyLife { found });
        let first = self.0.partition_point(|index| at(*index).is_some_and(|life| life.id() < id));
        let from_there = self.0.get(first..).unwrap_or_default().iter();
        from_there.map_while(move |index| at(*index).filter(|life| life.id() == id))
    }
}

// === impl PatchedIds ===

impl<'p> PatchedIds<'p> {
    pub fn of(patches: impl Iterator<Item = &'p Patch>) -> Self {
        let mut ids = HashMap::<_, Vec<_>>::new();
        for life in patches.flat_map(Patch::lives) {
            ids.entry(life.id()).or_default().push(life);
        }
        Self(ids)
    }

    pub fn lives(&self, id: KeyId) -> impl Iterator<Item = KeyLife<'p>> {
        self.0.get(&id).into_iter().flatten().copied()
    }
}
