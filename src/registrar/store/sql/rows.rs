//! The types that rows are read into: a key with its number, and the settings of an audience.

use super::super::rows::KeyRow;
use crate::manage::keys::operation_settings;
use crate::manage::operation::OperationSettings;
use crate::manage::operation::may::AccessRules;
use crate::manage::registry::settings::RegistrySettings;

/// A row with its number in the database.
#[derive(Clone, Debug)]
pub(super) struct NumberedKey {
    pub(super) row: u64,
    pub(super) key: KeyRow,
}

/// What changes and rows of an audience depend on.
#[derive(Debug)]
pub(super) struct AudienceSettings {
    pub(super) registry: RegistrySettings,
    /// `None`: the configuration does not name the audience, so nobody but the host changes its
    /// keys.
    pub(super) access: Option<AccessRules>,
}

// === impl AudienceSettings ===

impl AudienceSettings {
    pub(super) fn operation(&self) -> OperationSettings<'_> {
        operation_settings(&self.registry)
    }
}
