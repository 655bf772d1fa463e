//! The table that a configuration names, loaded by the same steps as at a start.

use std::path::{Path, PathBuf};

use crate::clock::Clock;
use crate::config::{Config, TableConfig, TableSource};
use crate::exit::Exit;
use crate::reload::{self, FirstLoadError, LoadFailure, Preview, SourceError, UseCounting};

/// Files to check instead of those that the configuration names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Instead<'a> {
    pub table: Option<&'a Path>,
    pub patch: Option<&'a Path>,
}

/// A start would not have keys. The message says which file or URL is to blame.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LoadError {
    message: String,
    exit: Exit,
}

/// Reads, verifies and accepts like a start. The state file is read, so that a rollback is noticed;
/// nothing is written.
pub fn load(config: &Config, instead: Instead<'_>, clock: &Clock) -> Result<Preview, LoadError> {
    let uses = UseCounting::from(&config.usage);
    let mut config = config.table.clone();
    let path = |path: &Path| TableSource::Path(PathBuf::from(path));
    if let Some(table) = instead.table {
        config.source = path(table);
    }
    if let Some(patch) = instead.patch {
        config.patch = Some(path(patch));
    }
    reload::look_first(&config, uses, clock).map_err(|error| LoadError::of(&error, &config))
}

/// The file itself if a directory holds it; a URL without its query, which may hold a secret.
fn shown(source: &TableSource, extension: &str) -> String {
    let path = match source {
        TableSource::Path(path) => path,
        TableSource::Url(url) => {
            return url.split(['?', '#']).next().unwrap_or_default().to_owned();
        }
    };
    let is_it = |file: &PathBuf| file.extension().is_some_and(|found| found == extension);
    let inside = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
    inside.into_iter().find(is_it).unwrap_or_else(|| path.clone()).display().to_string()
}

// === impl LoadError ===

impl LoadError {
    fn of(error: &FirstLoadError, config: &TableConfig) -> Self {
        let exit = Exit::from_code(error.exit());
        let FirstLoadError::Keys { what, failure } = error else {
            return Self { message: error.to_string(), exit };
        };
        let source = match (*what, &config.patch) {
            ("patch", Some(patch)) => shown(patch, "kgp"),
            _ => shown(&config.source, "kgt"),
        };
        let message = match failure {
            LoadFailure::Refused(refusal) => {
                format!("{source} is refused ({}): {refusal}", refusal.reason())
            }
            LoadFailure::Source(SourceError::Missing { path }) => format!(
                "{} cannot be read: it does not exist\nhint: `keygatectl table build` makes it; \
                 --config-only looks at no table",
                path.display()
            ),
            LoadFailure::Source(SourceError::Io { path, source }) => format!(
                "{} cannot be read: {source}\nhint: let the user that runs keygate read it, and \
                 enter every directory above it",
                path.display()
            ),
            // These messages name their path.
            LoadFailure::Source(
                named @ (SourceError::Credential(_)
                | SourceError::NotRegular { .. }
                | SourceError::Several { .. }),
            ) => named.to_string(),
            LoadFailure::Source(other) => format!("{source}: {other}"),
        };
        Self { message, exit }
    }

    pub const fn exit(&self) -> Exit {
        self.exit
    }
}
