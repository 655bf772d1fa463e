//! What SQLite's errors mean to a caller.

use std::time::Duration;

use rusqlite::ErrorCode;

use super::super::error::StoreError;

/// SQLite has no answer for how long another process will hold its lock.
const RETRY: Duration = Duration::from_secs(1);

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        match code {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => busy(),
            Some(ErrorCode::DiskFull) => Self::ReadOnly { why: "the disk is full".to_owned() },
            Some(ErrorCode::ReadOnly) => {
                Self::ReadOnly { why: "the disk or the file is read-only".to_owned() }
            }
            // Not a word of the row: it may hold what is nobody's business.
            Some(ErrorCode::SystemIoFailure) => {
                Self::ReadOnly { why: format!("the disk fails: {}", text(&error)) }
            }
            Some(ErrorCode::ConstraintViolation) => {
                Self::Conflict { why: "an id or a secret is there already".to_owned() }
            }
            _ => Self::broken(text(&error)),
        }
    }
}

/// More is waiting than is done.
pub(super) fn busy() -> StoreError {
    StoreError::Busy { retry_after: RETRY }
}

/// SQLite's own words, without the statement.
fn text(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(code, words) => {
            words.clone().unwrap_or_else(|| code.to_string())
        }
        other => other.to_string(),
    }
}
