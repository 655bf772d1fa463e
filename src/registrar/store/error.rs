//! Why a store did not do it. Closed: an interface above has an answer for each of them.

use std::time::Duration;

use super::rows::KeyRow;

/// Nothing was changed, whichever it is but [`StoreError::Away`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No key of this id, or one of another org: the two cannot be told apart.
    #[error("no such key")]
    NoSuchKey,
    /// The configuration names no such audience.
    #[error("no such audience")]
    NoSuchAudience,
    /// The caller may not do this. `why` names the permission, network, bound or role that it lacks,
    /// `field` what of the request asks for too much, as [`ChangeFault::field`].
    #[error("not allowed: {why}")]
    Forbidden { why: String, field: Option<Box<str>> },
    /// The request cannot be meant so, whoever asks.
    #[error("{}", list(.faults))]
    Invalid { faults: Vec<ChangeFault> },
    /// Somebody has changed the key since the caller read it.
    #[error("the key has changed: it has version {} now", .current.version)]
    VersionMismatch { current: Box<KeyRow> },
    /// The org's policy has changed since the caller read it.
    #[error("the policy has changed: it has version {current} now")]
    OrgVersionMismatch { current: u64 },
    /// The same idempotency key was used for another request within 24 h.
    #[error("the idempotency key was used for another request")]
    IdempotencyConflict,
    /// What was asked for is at odds with the state of the key: a revoked key cannot be enabled.
    #[error("{why}")]
    Conflict { why: String },
    /// An org keeps one owner at least.
    #[error("the last owner of an organization stays")]
    LastOwner,
    /// Another process holds the database, or more is waiting than is done. Trying again is right.
    #[error("the database is busy")]
    Busy { retry_after: Duration },
    /// The server of the database does not answer. A change may have been made whose answer was lost
    /// with the connection; in the end its idempotency key tells.
    #[error("the database does not answer: {why}")]
    Away { why: String },
    /// The database takes no changes now.
    #[error("the database takes no changes: {why}")]
    ReadOnly { why: String },
    /// A newer program has migrated the database.
    #[error("the database has schema {found}, and this program knows up to {known}")]
    NewerSchema { found: u32, known: u32 },
    /// The database is damaged, or says what no program of ours has written.
    #[error("the database is not sound: {what}")]
    Broken { what: String },
}

/// What is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeFault {
    /// As the request names it: `name`, `permissions`, `expires`, `cursor`. A JSON pointer and a field
    /// of a form can be made of it.
    pub field: Box<str>,
    pub why: Box<str>,
}

// === impl StoreError ===

impl StoreError {
    /// How long a caller is asked to wait before it tries again; `None`: trying again is no use.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after } => Some(*retry_after),
            Self::Away { .. } => Some(Duration::from_secs(2)),
            Self::ReadOnly { .. } => Some(Duration::from_secs(30)),
            _ => None,
        }
    }

    pub(in crate::registrar) fn invalid(field: &str, why: impl Into<Box<str>>) -> Self {
        Self::Invalid { faults: vec![ChangeFault { field: field.into(), why: why.into() }] }
    }

    pub(super) fn broken(what: impl std::fmt::Display) -> Self {
        Self::Broken { what: what.to_string() }
    }
}

fn list(faults: &[ChangeFault]) -> String {
    let one = |fault: &ChangeFault| format!("{}: {}", fault.field, fault.why);
    faults.iter().map(one).collect::<Vec<_>>().join("; ")
}
