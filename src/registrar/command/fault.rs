//! Messages on the command line for faults of the configuration and of the store, and their exit
//! codes.

use super::super::store::StoreError;
use crate::config::ConfigError;
use crate::exit::Exit;
use crate::manage::error::Error;

pub(super) fn of_config(error: ConfigError) -> Error {
    let message = match error {
        // The sidecar's message names its own option.
        ConfigError::Unreadable { file, source } => format!(
            "configuration {} cannot be read: {source}\nhint: name it with --config FILE (-c)",
            file.display()
        ),
        invalid @ ConfigError::Invalid { .. } => invalid.to_string(),
    };
    Error::Added { message, exit: Exit::Config }
}

pub(super) fn of_store(error: StoreError) -> Error {
    let (exit, hint) = match &error {
        StoreError::Away { .. } => (Exit::TryAgain, "look at the server, and at store.database"),
        StoreError::Busy { .. } => (Exit::TryAgain, "another process writes; try again"),
        StoreError::ReadOnly { .. } => {
            (Exit::CannotCreate, "nothing was changed; make room, or mount it for writing")
        }
        StoreError::NewerSchema { .. } => {
            (Exit::NewerSchema, "run the newer keygatectl, or restore a backup from before")
        }
        StoreError::NoSuchKey => (Exit::NoInput, "give its id or UUID, and its --audience"),
        StoreError::NoSuchAudience => {
            (Exit::Config, "[[audiences]] of the configuration names all")
        }
        StoreError::Broken { .. } => {
            (Exit::Data, "docs/management.md says how to restore a backup")
        }
        StoreError::Conflict { .. }
        | StoreError::Forbidden { .. }
        | StoreError::IdempotencyConflict
        | StoreError::Invalid { .. }
        | StoreError::LastOwner
        | StoreError::OrgVersionMismatch { .. }
        | StoreError::VersionMismatch { .. } => (Exit::Data, ""),
    };
    let text = error.to_string();
    let message = match hint.is_empty() || text.contains("\nhint: ") {
        true => text,
        false => format!("{text}\nhint: {hint}"),
    };
    Error::Added { message, exit }
}
