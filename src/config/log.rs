//! `[log]`: what is said, in which form, and where.

use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
    /// Access log; `None`: standard error with the operator log.
    pub access_file: Option<PathBuf>,
    pub access: bool,
}

/// The operator log says this and what is graver. Not the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

/// Fields of the access log that are there by choice: what is in them is the client's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogFields {
    pub host: bool,
    pub user_agent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}
