//! One key of a table or patch, as a walk over them shows it. Imports core only.

use crate::core::{Digest, KeySpec, KeyView, LimitSet, OrgId, OwnerView};

/// One key as `inspect`, `diff` and `explain` see it.
#[derive(Clone, Copy, Debug)]
pub struct KeyEntry<'k> {
    pub view: KeyView<'k>,
    pub digest: Digest,
    /// The id that the caller of a pair presents.
    pub public_id: Option<&'k str>,
    /// Who issued it.
    pub owner: Option<OwnerView<'k>>,
}

/// The limits that a table or patch states for an org.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrgLimits<'k> {
    pub org: &'k str,
    /// Empty only in a patch, which removes them that way.
    pub limits: &'k LimitSet,
}

// === impl KeyEntry ===

impl KeyEntry<'_> {
    /// The key as its author would state it.
    pub fn to_spec(&self) -> Option<KeySpec> {
        Some(KeySpec {
            id: self.view.id,
            org: OrgId::parse(self.view.org).ok()?,
            name: self.view.name.into(),
            digest: self.digest,
            public_id: self.public_id.map(Into::into),
            expires: self.view.expires,
            grant: self.view.grant.clone(),
            owner: match self.owner {
                Some(owner) => Some(owner.to_owner()?),
                None => None,
            },
        })
    }
}
