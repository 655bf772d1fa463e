//! One key of a table or patch, as a walk over them shows it. Imports core only.

use crate::core::{Digest, KeySpec, KeyView, OrgId};

/// One key as `inspect`, `diff` and `explain` see it.
#[derive(Clone, Copy, Debug)]
pub struct KeyEntry<'k> {
    pub view: KeyView<'k>,
    pub digest: Digest,
    /// What a caller of a pair presents as its id.
    pub public_id: Option<&'k str>,
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
        })
    }
}
