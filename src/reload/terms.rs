//! The conditions for offering a table or patch, and why one is not in force. Imports `config`,
//! `table` and its neighbours.

use std::sync::Arc;
use std::time::Duration;

use super::source::SourceError;
use crate::config::{TableConfig, UsageConfig};
use crate::table::{Bounds, Buffer, Patch, PublicKey, Refusal, Table, Trust, TrustError};

/// Why a table or patch is not in force.
#[derive(Debug, thiserror::Error)]
pub enum LoadFailure {
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Source(#[from] SourceError),
}

/// What sources on threads of their own use. A changed configuration replaces it as a whole.
#[derive(Clone, Debug)]
pub(super) struct VerifyTerms {
    pub(super) trust: Trust,
    pub(super) bounds: Bounds,
    pub(super) uses: UseCounting,
    pub(super) poll: Duration,
    pub(super) patch_poll: Duration,
}

/// Whether uses of keys are counted. Constant for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UseCounting {
    Off,
    On,
}

// === impl LoadFailure ===

impl LoadFailure {
    /// A word of the list in docs/operations.md.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Source(error) => error.reason(),
        }
    }

    /// Whether the same bytes may be accepted later: they were refused because of the time, or for
    /// lack of memory or space.
    pub(super) fn may_pass(&self) -> bool {
        use Refusal::{Expired, HoldFull, Memory};
        matches!(self, Self::Refused(Expired { .. } | HoldFull { .. } | Memory { .. }))
    }

    /// What helps only a start: the end of a hint.
    pub(super) fn more_at_start(&self) -> &'static str {
        match self {
            Self::Source(SourceError::Missing { .. }) => {
                "; with `wait_for_table = true` keygate starts without it"
            }
            _ => "",
        }
    }

    /// The pause that the server asks for.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Source(SourceError::Status { retry_after, .. }) => *retry_after,
            _ => None,
        }
    }

    /// Nothing was published there.
    pub(super) fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::Source(SourceError::Missing { .. } | SourceError::Status { status: 404, .. })
        )
    }
}

// === impl UseCounting ===

impl From<&UsageConfig> for UseCounting {
    fn from(config: &UsageConfig) -> Self {
        if config.enabled { Self::On } else { Self::Off }
    }
}

// === impl VerifyTerms ===

impl VerifyTerms {
    pub(super) fn new(config: &TableConfig, uses: UseCounting) -> Result<Self, TrustError> {
        // The configuration has already refused keys that are not safe to trust.
        let signers = config.trusted_signers.iter().filter_map(|k| PublicKey::from_raw(*k).ok());
        Ok(Self {
            trust: Trust::new(signers, config.required_signers, &config.audience)?,
            bounds: Bounds { max_bytes: config.max_bytes },
            uses,
            poll: config.poll,
            patch_poll: config.patch_poll,
        })
    }

    /// Verifies a table and allocates everything that it needs: once it is accepted, nothing may
    /// fail any more.
    pub(super) fn open_table(&self, bytes: Buffer) -> Result<Arc<Table>, Refusal> {
        let table = Table::open(bytes, &self.trust, &self.bounds)?;
        if self.uses == UseCounting::On {
            table.count_uses()?;
        }
        Ok(Arc::new(table))
    }

    /// As [`Self::open_table`].
    pub(super) fn open_patch(&self, bytes: Buffer) -> Result<Arc<Patch>, Refusal> {
        let patch = Patch::open(bytes, &self.trust, &self.bounds)?;
        if self.uses == UseCounting::On {
            patch.count_uses()?;
        }
        Ok(Arc::new(patch))
    }
}
