//! Keys of a registry on their way into the database.

use super::change::{Channel, StoreActor};
use super::names::AudienceName;
use crate::manage::registry::entry::RegistryEntry;
use crate::manage::registry::settings::RawSettings;

/// Some keys of a registry. All go in, or none.
#[derive(Clone, Debug)]
pub struct ImportBatch {
    pub audience: AudienceName,
    pub actor: StoreActor,
    pub channel: Channel,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// Replaces the audience's settings. The audience and the serial in it are ignored.
    pub settings: Option<Box<RawSettings>>,
    /// The audience's serial continues above this one. It is the serial of the registry, whose
    /// tables sidecars have.
    pub above: u64,
    pub part: ImportPart,
    pub entries: Vec<RegistryEntry>,
}

/// Where a batch stands in its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportPart {
    /// Others follow. If this one lifts the serial, the audience is not published until the last
    /// one is in: sidecars would take the keys that are still missing for ended ones.
    Early,
    /// All of it is in, also of batches before.
    Last,
}

/// Keys of a published table on their way back into a database that was restored.
#[derive(Clone, Debug)]
pub struct RecoveredKeys {
    pub audience: AudienceName,
    pub actor: StoreActor,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// The highest serial seen anywhere.
    pub above: u64,
    /// As they have to be afterwards.
    pub entries: Vec<RegistryEntry>,
}

/// The result of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportedBatch {
    pub serial: u64,
    pub added: u64,
    /// Keys that existed with the same content.
    pub known: u64,
}
