//! What is wrong with a configuration: all faults together, each with its place and a remedy.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Both end a program with 78.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}", shown(file, faults))]
    Invalid { file: PathBuf, faults: Vec<ConfigFault> },
    #[error("configuration {} cannot be read: {source}\nhint: {}", file.display(), remedy(source))]
    Unreadable { file: PathBuf, source: io::Error },
}

/// What helps if a configuration cannot be read.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "name it with --config FILE (-c) or KEYGATE_CONFIG",
        io::ErrorKind::PermissionDenied => {
            "it is there: let the user that runs keygate read it, and enter every directory above it"
        }
        io::ErrorKind::IsADirectory => "that is a directory: name the file in it",
        io::ErrorKind::InvalidData => "save it as UTF-8; TOML is nothing else",
        io::ErrorKind::FileTooLarge => "is it the right file? a configuration is a few pages",
        _ => "check the disk and the mount",
    }
}

/// One fault, or one setting that deserves a second look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigFault {
    /// From 1. 0: the file does not have the key, and the fault is in its default.
    #[serde(skip_serializing_if = "is_default")]
    pub line: usize,
    /// From 1, in characters. 0 in the same case as the line.
    #[serde(skip_serializing_if = "is_default")]
    pub column: usize,
    /// `routes[2].access`. Empty if the file is not TOML at all.
    pub key: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What is wrong with a key that does not exist.
pub(crate) const UNKNOWN_KEY: &str = "unknown key";

// `serde` passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that `serde` asks for")]
fn is_default(place: &usize) -> bool {
    *place == 0
}

/// What is wrong with one value, before its place is known.
#[derive(Debug)]
pub(crate) struct ConfigProblem {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

fn shown(file: &Path, faults: &[ConfigFault]) -> String {
    let mut text = match faults {
        [_] => "the configuration has an error".to_owned(),
        _ => format!("the configuration has {} errors", faults.len()),
    };
    for fault in faults {
        text.push_str(&format!("\n{}:{fault}", file.display()));
    }
    text
}

// === impl ConfigFault ===

impl ConfigFault {
    /// Whether no configuration may have its key, whatever the value.
    pub fn is_unknown_key(&self) -> bool {
        self.message == UNKNOWN_KEY
    }
}

impl fmt::Display for ConfigFault {
    /// Written to follow a file name and a colon.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, " {} (its default): ", self.key)?,
            line => {
                write!(f, "{line}:{}: ", self.column)?;
                if !self.key.is_empty() {
                    write!(f, "{}: ", self.key)?;
                }
            }
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

// === impl ConfigProblem ===

impl ConfigProblem {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl<E: std::error::Error> From<E> for ConfigProblem {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}
