//! Suspending keys, admitting them again, and ending them. Imports the registry's entries.

use super::super::registry::entry::RegistryEntry;
use super::fault::{OperationError, WrongState};
use crate::core::KeyStatus;

/// A change of status, which leaves grant and secret alone.
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
    /// The key afterwards, at `now` (Unix seconds); `None` if it already has that status.
    ///
    /// # Errors
    ///
    /// A change that would revive a key that is revoked or a canary.
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
        // Neither a revoked key nor a canary is ever admitted; switching between them only arms or
        // disarms an alarm.
        if !status.is_final() {
            refuse_final(entry)?;
        }
        Ok(Some(RegistryEntry { status, ..entry.clone() }))
    }
}

/// An error for a revoked key or a canary, which must not be admitted again.
pub fn refuse_final(entry: &RegistryEntry) -> Result<(), OperationError> {
    let state = match entry.status {
        KeyStatus::Active | KeyStatus::Disabled => return Ok(()),
        KeyStatus::Revoked => WrongState::Revoked,
        KeyStatus::Canary => WrongState::Canary,
    };
    Err(OperationError::State { id: entry.id, state })
}
