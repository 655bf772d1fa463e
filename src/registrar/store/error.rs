//! Why a store did not do it. The list is closed: an interface above has an answer for each of
//! them.

use std::time::Duration;

use super::rows::KeyRow;

/// Nothing was changed, except possibly with [`StoreError::Away`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No key of this id, or one of another org: the two cannot be told apart.
    #[error("no such key")]
    NoSuchKey,
    /// The configuration names no such audience.
    #[error("no such audience")]
    NoSuchAudience,
    /// The caller may not do this. `why` names the permission, network, bound or role that the
    /// caller lacks; `field` names the part of the request that asks for too much, as
    /// [`ChangeFault::field`].
    #[error("not allowed: {why}")]
    Forbidden { why: String, field: Option<Box<str>> },
    /// The request makes no sense, whoever asks.
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
    /// The request conflicts with the state of the key: a revoked key cannot be enabled.
    #[error("{why}")]
    Conflict { why: String },
    /// An org keeps at least one owner.
    #[error("the last owner of an organization stays")]
    LastOwner,
    /// Another process holds the database, or the queue is full. Trying again helps.
    #[error("the database is busy")]
    Busy { retry_after: Duration },
    /// The database server does not answer. A change may have been made although its answer was
    /// lost with the connection. Its idempotency key tells in the end.
    #[error("the database does not answer: {why}")]
    Away { why: String },
    /// The database takes no changes now.
    #[error("the database takes no changes: {why}")]
    ReadOnly { why: String },
    /// A newer program has migrated the database.
    #[error("the database has schema {found}, and this program knows up to {known}")]
    NewerSchema { found: u32, known: u32 },
    /// The database is damaged, or holds something that no program of ours has written.
    #[error("the database is not sound: {what}")]
    Broken { what: String },
}

/// What is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeFault {
    /// As the request names it: `name`, `permissions`, `expires`, `cursor`. Callers can turn it
    /// into a JSON pointer or the field of a form.
    pub field: Box<str>,
    pub why: Box<str>,
}

// === impl StoreError ===

impl StoreError {
    /// How long a caller should wait before it tries again; `None`: trying again does not help.
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
