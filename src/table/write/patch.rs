//! What changed since a table: drafted from a comparison, or change by change over the previous
//! patch. Imports core only.

use std::collections::{BTreeMap, HashSet};
use std::io::Cursor;

use super::build::{BodyBuilder, RemovalOf};
use super::fault::BuildError;
use super::seal::Draft;
use super::sort::InMemory;
use crate::core::format::KeyFormat;
use crate::core::{Digest, KeyId, KeySpec, LimitSet, OrgId};
use crate::table::file::{Patch, Table};
use crate::table::format::TableFormat;
use crate::table::keyset::KeySet;
use crate::table::manifest::{Base, Issue, Manifest};
use crate::table::refusal::Refusal;

/// A patch in preparation. Cumulative: it replaces every earlier patch over its base.
#[derive(Debug)]
pub struct PatchDraft {
    base: Base,
    format: TableFormat,
    changes: BTreeMap<Digest, PatchChange>,
    org_limits: BTreeMap<OrgId, LimitSet>,
    formats: Vec<KeyFormat>,
}

/// What a patch has to know about its base. The table itself is not needed: its
/// [manifest](Manifest) states the first two, and its maker knows the third.
#[derive(Clone, Debug)]
pub struct PatchBase {
    pub base: Base,
    /// Readers of the table have to be able to read the patch as well.
    pub format: TableFormat,
    pub formats: Vec<KeyFormat>,
}

/// A table and what it should hold, compared key by key.
#[derive(Debug)]
pub struct PatchDifference<'t> {
    table: &'t Table,
    draft: PatchDraft,
    /// Records of the table that the target has as well, changed or not.
    seen: Vec<bool>,
    /// Distinguishes a removed key from a pair that has ended its rotation.
    left: HashSet<KeyId>,
}

#[derive(Debug)]
enum PatchChange {
    Put(Box<KeySpec>),
    Remove { id: KeyId, of: RemovalOf },
}

#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    #[error("{0}")]
    Build(#[from] BuildError),
    #[error("{0}")]
    Refused(#[from] Refusal),
}

// === impl PatchBase ===

impl PatchBase {
    /// The base with this manifest. `None`: it is written in a version that this program does not
    /// know.
    pub fn of(manifest: &Manifest, formats: impl IntoIterator<Item = KeyFormat>) -> Option<Self> {
        Some(Self {
            base: manifest.as_base(),
            format: TableFormat::of_number(manifest.format)?,
            formats: formats.into_iter().collect(),
        })
    }
}

// === impl PatchDifference ===

impl<'t> PatchDifference<'t> {
    /// Not compared with any key yet.
    pub fn from(table: &'t Table) -> Self {
        let seen = vec![false; table.body().records().len()];
        Self { table, draft: PatchDraft::over(table), seen, left: HashSet::new() }
    }

    /// A record that should exist. They may arrive in any order.
    pub fn push(&mut self, spec: KeySpec) {
        self.left.insert(spec.id);
        let body = self.table.body();
        let index = body.index_of(&spec.digest.0);
        let there = index.and_then(|index| body.record(index)).and_then(|r| r.entry().to_spec());
        if let Some(slot) = index.and_then(|index| self.seen.get_mut(index)) {
            *slot = true;
        }
        if there.as_ref() != Some(&spec) {
            self.draft.put(spec);
        }
    }

    /// All were pushed: table records that were not seen are removed.
    pub fn finish(mut self) -> PatchDraft {
        for (found, seen) in self.table.body().iter().zip(self.seen) {
            if !seen {
                let of = match self.left.contains(&found.id()) {
                    true => RemovalOf::Secret,
                    false => RemovalOf::Key,
                };
                self.draft.remove(found.digest(), found.id(), of);
            }
        }
        self.draft
    }
}

// === impl PatchDraft ===

impl PatchDraft {
    /// No change yet.
    pub fn over(table: &Table) -> Self {
        Self::over_base(PatchBase {
            base: table.manifest().as_base(),
            format: table.format(),
            formats: table.formats().iter().cloned().collect(),
        })
    }

    /// No change yet, over a table that need not be available.
    pub fn over_base(PatchBase { base, format, formats }: PatchBase) -> Self {
        Self { base, format, changes: BTreeMap::new(), org_limits: BTreeMap::new(), formats }
    }

    /// Continues from a patch: everything that it states stays stated. Needs no table.
    pub fn after(patch: &Patch) -> Option<Self> {
        let mut draft = Self {
            base: patch.manifest().base?,
            format: patch.format(),
            changes: BTreeMap::new(),
            org_limits: BTreeMap::new(),
            formats: patch.body().formats().iter().cloned().collect(),
        };
        for found in patch.body().iter() {
            draft.put(found.entry().to_spec()?);
        }
        for stated in patch.org_limits() {
            draft.org_limits.insert(OrgId::parse(stated.org).ok()?, stated.limits.clone());
        }
        for removal in patch.body().removals() {
            let id = KeyId::from_checked(removal.id);
            let of = if removal.whole == 1 { RemovalOf::Key } else { RemovalOf::Secret };
            draft.remove(Digest(removal.digest), id, of);
        }
        Some(draft)
    }

    /// All differences between `target` and `table`. `target` may be in any order.
    pub fn difference(table: &Table, target: impl IntoIterator<Item = KeySpec>) -> Self {
        let mut difference = PatchDifference::from(table);
        target.into_iter().for_each(|spec| difference.push(spec));
        difference.finish()
    }

    /// States a key: added, or in its new form.
    pub fn put(&mut self, spec: KeySpec) {
        self.changes.insert(spec.digest, PatchChange::Put(Box::new(spec)));
    }

    /// States that a secret is gone, and possibly the whole key with it.
    pub fn remove(&mut self, digest: Digest, id: KeyId, of: RemovalOf) {
        self.changes.insert(digest, PatchChange::Remove { id, of });
    }

    /// The version to write, if it differs from that of the draft's origin: readers of the base
    /// have to be able to read the patch as well.
    pub fn set_format(&mut self, format: TableFormat) {
        self.format = format;
    }

    /// States the current limits of orgs: those that differ from `table`, and those in the table
    /// that `target` lacks.
    pub fn org_limits(&mut self, table: &Table, target: &BTreeMap<OrgId, LimitSet>) {
        let body = table.body();
        self.org_limits = target
            .iter()
            .filter(|(org, limits)| body.limits_of_org(org.as_str()) != Some(*limits))
            .map(|(org, limits)| (org.clone(), limits.clone()))
            .collect();
        for gone in body.org_limits().filter_map(|stated| OrgId::parse(stated.org).ok()) {
            if !target.contains_key(&gone) {
                self.org_limits.insert(gone, LimitSet::default());
            }
        }
    }

    /// States the current limits of an org; an empty set removes what the table states.
    pub fn state_org_limits(&mut self, org: OrgId, limits: LimitSet) {
        self.org_limits.insert(org, limits);
    }

    pub fn formats(&mut self, formats: impl IntoIterator<Item = KeyFormat>) {
        self.formats = formats.into_iter().collect();
    }

    /// The table that it is over.
    pub fn base(&self) -> Base {
        self.base
    }

    pub fn len(&self) -> usize {
        self.changes.len() + self.org_limits.len()
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.org_limits.is_empty()
    }

    pub fn build(self, issue: Issue) -> Result<Draft<Cursor<Vec<u8>>>, PatchError> {
        let mut builder = BodyBuilder::new(InMemory, usize::MAX);
        builder.set_format(self.format);
        builder.formats(self.formats);
        for (org, limits) in &self.org_limits {
            builder.org_limits(org, limits)?;
        }
        for (digest, change) in self.changes {
            match change {
                PatchChange::Put(spec) => builder.push(&spec)?,
                PatchChange::Remove { id, of } => builder.remove(digest, id, of),
            }
        }
        Ok(builder.finish()?.into_patch(self.base, issue)?)
    }
}

/// The keys of a table with its patch and all restrictions folded in: what the next table is built
/// from when no registry is available.
pub fn fold(set: &KeySet) -> impl Iterator<Item = KeySpec> {
    set.iter().filter_map(|entry| entry.to_spec())
}
