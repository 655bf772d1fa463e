//! What records of one secret, in files of their own, ask for beside time. No grant is decoded.

use super::{FoundRecord, RawGrant};

// === impl FoundRecord ===

impl FoundRecord<'_> {
    /// Whether it is of another kind of key, or of another environment where both name one.
    pub(crate) fn is_other_kind(&self, other: &FoundRecord<'_>) -> bool {
        let (Some(ours), Some(theirs)) = (self.raw_grant(), other.raw_grant()) else { return true };
        let ours_in = ours.environment().flatten();
        let is_elsewhere = theirs
            .environment()
            .flatten()
            .is_some_and(|theirs| ours_in.is_some_and(|ours| ours != theirs));
        ours.kind() != theirs.kind() || is_elsewhere
    }

    /// Whether it takes requests from some networks alone.
    pub(crate) fn names_networks(&self) -> bool {
        self.raw_grant().is_some_and(|grant| grant.networks.get() > 0)
    }

    fn raw_grant(&self) -> Option<&RawGrant> {
        self.body.raw_grants().get(self.record.grant.get() as usize)
    }
}
