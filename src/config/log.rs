//! `[log]`: what is logged, in which form, and where.

use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
    /// Access log. `None`: standard error, together with the operator log.
    pub access_file: Option<PathBuf>,
    pub access: bool,
}

/// The lowest level that the operator log shows. It does not affect the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

/// Optional fields of the access log, whose content is from the client.
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
