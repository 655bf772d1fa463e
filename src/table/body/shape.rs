//! What records of one secret, in different files, require apart from time. No grant is decoded.

use super::{FoundRecord, RawGrant};

// === impl FoundRecord ===

impl FoundRecord<'_> {
    /// Whether it is of another kind of key, or names an environment that the other does not.
    pub(crate) fn is_other_kind(&self, other: &FoundRecord<'_>) -> bool {
        let (Some(ours), Some(theirs)) = (self.raw_grant(), other.raw_grant()) else { return true };
        let named = ours.environment().flatten();
        ours.kind() != theirs.kind() || named.is_some() && named != theirs.environment().flatten()
    }

    /// Whether it admits requests only from some networks.
    pub(crate) fn names_networks(&self) -> bool {
        self.raw_grant().is_some_and(|grant| grant.networks.get() > 0)
    }

    fn raw_grant(&self) -> Option<&RawGrant> {
        self.body.raw_grants().get(self.record.grant.get() as usize)
    }
}
