//! What a database's errors mean to a caller.

use std::time::Duration;

use rusqlite::ErrorCode;
use tokio_postgres::error::SqlState;

use super::super::error::StoreError;

/// Neither database can say how long another process will hold its lock.
const RETRY: Duration = Duration::from_secs(1);

/// Why a statement failed.
#[derive(Debug)]
pub(in super::super) enum SqlError {
    /// The requested row does not exist.
    NoRow,
    Sqlite(rusqlite::Error),
    Server(ServerError),
}

/// Errors of a database on a server.
#[derive(Clone, Debug)]
pub(in super::super) enum ServerError {
    /// The server's own error: a class, and a sentence that contains no value of a row.
    Said { state: SqlState, sentence: String },
    /// The server cannot be reached, or the connection broke.
    Away { why: String },
    /// A column does not have our type.
    Strange { what: String },
}

/// For rows that may be missing.
pub(in super::super) trait OptionalExtension<T> {
    /// `None`: the row does not exist.
    fn optional(self) -> Result<Option<T>, SqlError>;
}

// === impl SqlError ===

impl SqlError {
    pub(super) fn column(column: &impl std::fmt::Display) -> Self {
        let what = format!("column `{column}` has a strange value");
        Self::Server(ServerError::Strange { what })
    }
}

impl<T> OptionalExtension<T> for Result<T, SqlError> {
    fn optional(self) -> Result<Option<T>, SqlError> {
        match self {
            Ok(found) => Ok(Some(found)),
            Err(SqlError::NoRow) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl From<rusqlite::Error> for SqlError {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::QueryReturnedNoRows => Self::NoRow,
            error => Self::Sqlite(error),
        }
    }
}

impl From<tokio_postgres::Error> for SqlError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error.into())
    }
}

impl From<tokio_postgres::Error> for ServerError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // Without the detail, which contains values of rows.
            Some(said) => {
                Self::Said { state: said.code().clone(), sentence: said.message().to_owned() }
            }
            None if error.is_closed() => Self::Away { why: "the connection broke".to_owned() },
            None => {
                use std::error::Error as _;
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                let why = format!("{error}{cause}");
                match error.source().is_some_and(|cause| cause.is::<std::io::Error>()) {
                    true => Self::Away { why },
                    false => Self::Strange { what: why },
                }
            }
        }
    }
}

// === impl ServerError ===

impl ServerError {
    /// Whether the server ends the connection with this error, or accepts no new one for the time
    /// being. 25P03: a transaction was idle for too long.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::Away { .. } => true,
            Self::Said { state, .. } => {
                let code = state.code();
                code.starts_with("08")
                    || code.starts_with("57P")
                    || ["53300", "25P03"].contains(&code)
            }
            Self::Strange { .. } => false,
        }
    }

    /// Whether it is certain that the statement had no effect: the server said so.
    pub(super) fn is_certain(&self) -> bool {
        matches!(self, Self::Said { .. }) && !self.is_away()
    }

    /// A prepared statement does not exist, or its name belongs to another one: a pooler that the
    /// service does not know of gives transactions other clients' sessions.
    pub(super) fn names_another_session(&self) -> bool {
        match self {
            Self::Said { state, .. } => ["26000", "42P05"].contains(&state.code()),
            Self::Away { .. } | Self::Strange { .. } => false,
        }
    }
}

impl From<SqlError> for StoreError {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::NoRow => Self::broken("a row is missing"),
            SqlError::Sqlite(error) => error.into(),
            SqlError::Server(error) => error.into(),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        match code {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => busy(),
            Some(ErrorCode::DiskFull) => Self::ReadOnly { why: "the disk is full".to_owned() },
            Some(ErrorCode::ReadOnly) => {
                Self::ReadOnly { why: "the disk or the file is read-only".to_owned() }
            }
            // Nothing of the row: it may be confidential.
            Some(ErrorCode::SystemIoFailure) => {
                Self::ReadOnly { why: format!("the disk fails: {}", text(&error)) }
            }
            Some(ErrorCode::ConstraintViolation) => conflict(),
            _ => Self::broken(text(&error)),
        }
    }
}

impl From<ServerError> for StoreError {
    fn from(error: ServerError) -> Self {
        if error.is_away() {
            let why = match error {
                ServerError::Away { why } | ServerError::Strange { what: why } => why,
                ServerError::Said { sentence, .. } => sentence,
            };
            return Self::Away { why };
        }
        match error {
            ServerError::Away { why } => Self::Away { why },
            ServerError::Strange { what } => Self::broken(what),
            ServerError::Said { state, sentence } => match state.code() {
                // A statement that took too long, a lock that was not granted, a deadlock, a
                // rolled-back transaction.
                "57014" | "55P03" | "40P01" | "40001" => busy(),
                // The next attempt prepares nothing.
                "26000" | "42P05" => busy(),
                "53100" => Self::ReadOnly { why: "the server's disk is full".to_owned() },
                "25006" => {
                    Self::ReadOnly { why: "the server is read-only, as a standby is".to_owned() }
                }
                // From unique indexes and foreign keys.
                "23505" | "23503" => conflict(),
                // A text with a null byte, which no column can hold.
                "22021" => Self::invalid("text", "has a character that cannot be stored"),
                code => Self::broken(format!("{sentence} ({code})")),
            },
        }
    }
}

fn conflict() -> StoreError {
    StoreError::Conflict { why: "an id or a secret is there already".to_owned() }
}

/// The database or the queue is busy: the caller should try again.
pub(super) fn busy() -> StoreError {
    StoreError::Busy { retry_after: RETRY }
}

/// SQLite's message, without the statement.
fn text(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(code, words) => {
            words.clone().unwrap_or_else(|| code.to_string())
        }
        other => other.to_string(),
    }
}
