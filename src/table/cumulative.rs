//! Which patch over a base makes an earlier one superfluous while the base has not arrived. Imports
//! core only.
//!
//! Patches are cumulative: what one states, the next one over the same base states as it is now. So
//! the earlier one need not be kept. A publisher may leave out a key that has become what it is in
//! the base; but the base is not there, so nobody knows what that is. Then the earlier patch stays,
//! and what it forbids stays forbidden.
//!
//! Every signer of the earlier patch has to have signed the next one too. Otherwise, if the next one's
//! signer were no longer trusted, a revocation would be forgotten that the earlier one had kept.

use std::collections::HashSet;

use super::body::TableBody;
use super::manifest::Manifest;
use super::trust::PublicKey;
use crate::core::KeyId;

/// What a patch states.
#[derive(Clone, Copy)]
pub(super) struct StatedPatch<'p> {
    pub(super) manifest: &'p Manifest,
    pub(super) body: &'p TableBody,
    pub(super) signed_by: &'p [PublicKey],
}

/// Removes those that another one replaces.
pub(super) fn without_replaced<T>(
    patches: &mut Vec<T>,
    stated: impl Fn(&T) -> Option<StatedPatch<'_>>,
) {
    let all: Vec<_> = patches.iter().map(&stated).collect();
    let is_replaced =
        |older: &StatedPatch<'_>| all.iter().flatten().any(|newer| newer.replaces(*older));
    let keep: Vec<bool> =
        all.iter().map(|patch| !patch.as_ref().is_some_and(is_replaced)).collect();
    let mut keep = keep.into_iter();
    patches.retain(|_| keep.next().unwrap_or(true));
}

// === impl StatedPatch ===

impl StatedPatch<'_> {
    fn replaces(self, older: Self) -> bool {
        self.knows_of(older)
            && older.signed_by.iter().all(|signer| self.signed_by.contains(signer))
            && self.states_all_of(older)
    }

    /// Whether its publisher made it over the same base, and knew of the older one.
    fn knows_of(self, older: Self) -> bool {
        let (newer, older) = (self.manifest, older.manifest);
        newer.base == older.base
            && older.serial < newer.serial
            && older.serial <= newer.includes_through
    }

    /// Whether it speaks of every secret, key and org of which the other one says something.
    fn states_all_of(self, other: Self) -> bool {
        let secret = |digest: &[u8; 32]| {
            self.body.find(digest).is_some() || self.body.removal(digest).is_some()
        };
        // A record, and the removal of a whole key, also restrict the key's other secrets.
        let own: HashSet<KeyId> = self.keys().collect();
        other.body.iter().all(|found| secret(&found.record.digest))
            && other.body.removals().iter().all(|removal| secret(&removal.digest))
            && other.keys().all(|id| own.contains(&id))
            && other.body.org_limits().all(|of| self.body.limits_of_org(of.org).is_some())
    }

    /// Keys that it states, or removes as a whole.
    fn keys(&self) -> impl Iterator<Item = KeyId> {
        let whole = self.body.removals().iter().filter(|removal| removal.whole == 1);
        let removed = whole.map(|removal| KeyId::from_checked(removal.id));
        self.body.iter().map(|found| found.id()).chain(removed)
    }
}
