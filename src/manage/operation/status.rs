//! Suspending, admitting again and ending keys. Imports the registry's entries.

use super::super::registry::entry::RegistryEntry;
use super::fault::{OperationError, WrongState};
use crate::core::KeyStatus;

/// What becomes of a key without another grant or secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusChange {
    Canary,
    Disable,
    Enable,
    Revoke,
    /// Ends what a rotation has left behind: the former secret of a pair, or the key itself.
    RevokeFormer,
}

// === impl StatusChange ===

impl StatusChange {
    /// The key afterwards, at `now` (Unix seconds); `None` if it is so already.
    ///
    /// # Errors
    ///
    /// What would bring back a key that is revoked or a canary.
    pub fn apply(
        self,
        entry: &RegistryEntry,
        now: u64,
    ) -> Result<Option<RegistryEntry>, OperationError> {
        let status = match self {
            Self::Canary => KeyStatus::Canary,
            Self::Disable => KeyStatus::Disabled,
            Self::Enable => KeyStatus::Active,
            Self::RevokeFormer if entry.has_former_secret(now) => {
                refuse_final(entry)?;
                return Ok(Some(RegistryEntry { previous: None, ..entry.clone() }));
            }
            Self::Revoke | Self::RevokeFormer => KeyStatus::Revoked,
        };
        if entry.status == status {
            return Ok(None);
        }
        // Between revoked and canary nothing is admitted, only an alarm goes or comes.
        if !status.is_final() {
            refuse_final(entry)?;
        }
        Ok(Some(RegistryEntry { status, ..entry.clone() }))
    }
}

/// Refuses to admit a revoked key or a canary again.
pub fn refuse_final(entry: &RegistryEntry) -> Result<(), OperationError> {
    let state = match entry.status {
        KeyStatus::Active | KeyStatus::Disabled => return Ok(()),
        KeyStatus::Revoked => WrongState::Revoked,
        KeyStatus::Canary => WrongState::Canary,
    };
    Err(OperationError::State { id: entry.id, state })
}
