//! A key as the service stores it.

use super::names::{AudienceName, Uid};
use crate::manage::registry::entry::RegistryEntry;

/// One key with what only the service knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    pub audience: AudienceName,
    pub uid: Uid,
    /// As a registry holds it, its plan resolved.
    pub entry: RegistryEntry,
    /// From 1; rises with each change. `If-Match` names it.
    pub version: u64,
    /// Serial of the last change.
    pub changed: u64,
    /// When that was, in milliseconds since 1970-01-01T00:00:00Z.
    pub changed_ms: u64,
    /// `None`: nobody has reported a use yet.
    pub last_use: Option<LastUse>,
}

/// When and from where a key was last used, as far as sidecars have reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastUse {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// `203.0.113.0/24`, or empty.
    pub network: Box<str>,
}
