//! From when to when keys are active, as the records say: for whoever counts keys that can be used, and
//! not only those whose status says so. Grants are not decoded. Imports core only.

use std::collections::HashSet;
use std::ops::Range;

use super::file::{Patch, Table};
use super::keyset::KeySet;
use crate::core::{KeyStatus, KeyView};

/// Unix seconds; the end is [`u64::MAX`] for a key that does not expire.
pub type ActiveSpan = Range<u64>;

// === impl Table ===

impl Table {
    /// Of every record of an active key.
    pub fn active_spans(&self) -> impl Iterator<Item = ActiveSpan> {
        self.body().iter().filter_map(|found| found.active_span())
    }
}

// === impl Patch ===

impl Patch {
    /// Of every record of an active key in it.
    pub fn active_spans(&self) -> impl Iterator<Item = ActiveSpan> {
        self.body().iter().filter_map(|found| found.active_span())
    }

    /// Of every record of an active key that it replaces or removes in `table`.
    pub fn replaced_spans<'t>(&'t self, table: &'t Table) -> impl Iterator<Item = ActiveSpan> + 't {
        let replaced = self.body().iter().map(|found| found.record.digest);
        let digests = replaced.chain(self.body().removals().iter().map(|gone| gone.digest));
        digests.filter_map(|digest| table.body().find(&digest)?.active_span())
    }

    /// Whether it has every removal of `other`, and every record, with no longer life.
    pub fn ends_as_much_as(&self, other: &Self) -> bool {
        let removals = |patch: &Self| -> HashSet<([u8; 32], [u8; 16], u8)> {
            patch.body().removals().iter().map(|gone| (gone.digest, gone.id, gone.whole)).collect()
        };
        let (ours, theirs) = (removals(self), removals(other));
        let is_within =
            |span: Option<ActiveSpan>, in_span: &Option<ActiveSpan>| match (span, in_span) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(span), Some(other)) => span.start >= other.start && span.end <= other.end,
            };
        theirs.is_subset(&ours)
            && other.body().iter().all(|found| {
                let span = found.active_span();
                match self.body().find(&found.record.digest) {
                    Some(ours) => ours.id() == found.id() && is_within(ours.active_span(), &span),
                    None => false,
                }
            })
    }
}

// === impl KeySet ===

impl KeySet {
    /// Of every key that is active in it, restrictions of held patches counted in. Walks all of it.
    pub fn active_spans(&self) -> impl Iterator<Item = ActiveSpan> {
        self.iter().filter_map(|entry| span(&entry.view))
    }

    /// Keys that are active here, and of which `other` leaves less although its table or patch has them:
    /// when they are active here, and what is left of that. Walks all of these keys.
    pub fn less_active_in<'k>(
        &'k self,
        other: &'k Self,
    ) -> impl Iterator<Item = (ActiveSpan, ActiveSpan)> + 'k {
        let bodies = [Some(other.table().body()), other.patch().map(|patch| patch.body())];
        self.iter().filter_map(move |entry| {
            let here = span(&entry.view)?;
            let mut bodies = bodies.iter().flatten();
            bodies.find_map(|body| body.find(&entry.digest.0))?;
            let there = other.find_digest(&entry.digest).and_then(|found| span(&found.view));
            let left =
                there.map_or(0..0, |there| here.start.max(there.start)..here.end.min(there.end));
            (left != here).then_some((here, left))
        })
    }
}

fn span(view: &KeyView<'_>) -> Option<ActiveSpan> {
    (view.grant.status == KeyStatus::Active)
        .then(|| view.grant.not_before.unwrap_or(0)..view.expires.unwrap_or(u64::MAX))
}
