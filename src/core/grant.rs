//! What a key may do. Many keys share one grant, which a table stores once.

use super::address::NetworkSet;
use super::key::{Environment, KeyId, KeyKind, KeyStatus, OrgId, Permission};
use super::limit_set::LimitSet;
use super::owner::Owner;
use super::secret::Digest;
use super::use_cell::UseCell;

/// Everything that a key has in common with many others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant {
    pub status: KeyStatus,
    pub kind: KeyKind,
    /// `None`: valid in every deployment that does not require an environment.
    pub environment: Option<Environment>,
    /// Unix seconds before which the key is refused.
    pub not_before: Option<u64>,
    pub permissions: PermissionSet,
    pub networks: NetworkSet,
    /// By the names of policies. A table of format 1 states `per-key` only.
    pub limits: LimitSet,
    /// When the key is due to be retired, in Unix seconds. Callers are shown this (RFC 8594). It
    /// refuses nothing.
    pub sunset: Option<u64>,
}

/// Sorted, without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PermissionSet {
    words: Box<[Permission]>,
    /// The words joined by one space, as the identity header and RFC 6750 `scope` show them.
    joined: Box<str>,
}

/// One key as a look-up returns it. Borrows from the table or the overlay, and never outlives it.
#[derive(Clone, Copy, Debug)]
pub struct KeyView<'k> {
    pub id: KeyId,
    pub org: &'k str,
    /// UTF-8, free text, possibly empty. Never goes into a header unencoded.
    pub name: &'k str,
    /// Unix seconds from which on the key is refused.
    pub expires: Option<u64>,
    pub grant: &'k Grant,
    /// Where its uses are counted. `None`: they are not.
    pub uses: Option<&'k UseCell>,
}

/// One key as its author states it: tables are built from these. A pair whose secret was rotated is
/// two of them with one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec {
    pub id: KeyId,
    pub org: OrgId,
    /// UTF-8 without control characters, at most 200 bytes. May be empty.
    pub name: Box<str>,
    /// The digest of the secret.
    pub digest: Digest,
    /// What a caller of a pair presents as its id. `Some` exactly if `grant.kind` is `Pair`.
    pub public_id: Option<Box<str>>,
    /// Unix seconds from which on the key is refused. `None`: never.
    pub expires: Option<u64>,
    pub grant: Grant,
    /// Who issued it.
    pub owner: Option<Owner>,
}

// === impl KeySpec ===

impl KeySpec {
    /// The most bytes of a name.
    pub const MAX_NAME: usize = 200;

    /// Whether this can be the name of a key. It may be empty.
    pub fn is_name(text: &str) -> bool {
        text.len() <= Self::MAX_NAME && !text.chars().any(char::is_control)
    }

    /// Whether this can be the public id of a pair: 1 to 128 visible ASCII characters.
    pub fn is_public_id(text: &str) -> bool {
        (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
    }
}

// === impl PermissionSet ===

impl PermissionSet {
    pub fn new(words: impl IntoIterator<Item = Permission>) -> Self {
        let mut words: Vec<_> = words.into_iter().collect();
        words.sort_unstable();
        words.dedup();
        let joined = words.iter().map(Permission::as_str).collect::<Vec<_>>().join(" ");
        Self { words: words.into(), joined: joined.into() }
    }

    /// Whether a key with this set may do something that needs `wanted`.
    pub fn holds(&self, wanted: &Permission) -> bool {
        // A handful of short words: comparing them one by one is faster than hashing.
        self.words.iter().any(|w| w == wanted || w.as_str() == Permission::ALL)
    }

    pub fn joined(&self) -> &str {
        &self.joined
    }

    pub fn iter(&self) -> impl Iterator<Item = &Permission> {
        self.words.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> PermissionSet {
        PermissionSet::new(list.iter().filter_map(|w| Permission::parse(w).ok()))
    }

    #[test]
    fn star_holds_all_and_order_does_not_matter() {
        let read = Permission::parse("read").unwrap();
        assert!(words(&["send", "read"]).holds(&read));
        assert!(words(&["*"]).holds(&read));
        assert!(!words(&["send"]).holds(&read));
        assert!(!words(&[]).holds(&read));
        assert_eq!(words(&["send", "read", "send"]), words(&["read", "send"]));
        assert_eq!(words(&["send", "read"]).joined(), "read send");
    }
}
