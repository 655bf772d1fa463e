//! Files that hold a secret: read here, never shown, and readable only by their owner.
//!
//! A message names a file only if it exists: somebody may have pasted the secret itself instead of
//! the path.

use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::fault::ConfigProblem;
use super::section::{ConfigSection, unreadable};
use super::watched::{FileAccess, WatchedFile};
use crate::wording::shell::quoted_path;

/// The contents of a file, and its name in messages.
pub(crate) struct SecretFile {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    /// Quoted for a shell.
    pub(crate) name: String,
}

// === impl SecretFile ===

impl SecretFile {
    /// What is wrong with its content, and where the file is.
    pub(crate) fn problem(&self, what: &str) -> ConfigProblem {
        ConfigProblem::new(format!("{}: {what}", self.name))
    }
}

/// The contents of the file under `key`. Also records that keygate reads the file again when it
/// changes. `make`: the command that makes such a file, with `FILE` instead of its name.
pub(crate) fn secret(
    section: &ConfigSection<'_>,
    key: &'static str,
    known_as: &'static str,
    make: &str,
) -> Option<SecretFile> {
    let path = section.path(key)?;
    let reader = section.reader();
    reader.names(&section.place_of(key), &path);
    reader.holds_secret(WatchedFile { key: known_as, path: path.clone() });
    let name = quoted_path(&path);
    let read = reader.read(&path).map(Zeroizing::new);
    let is_file = !matches!(&read, Err(error) if error.kind() == io::ErrorKind::IsADirectory);
    match reader.access(&path) {
        FileAccess::GroupReads if is_file => {
            let problem =
                ConfigProblem::new(format!("the group of {name} can read the secret as well"));
            section.warn(key, problem.hint("let nobody else be in that group"));
        }
        FileAccess::TooMany(mode) if is_file => {
            let problem = ConfigProblem::new(format!(
                "others than its owner may use {name}: its mode is {mode:04o}"
            ));
            let hint = format!("`chmod 600 {name}`, owned by the user that runs keygate");
            section.fault(key, problem.hint(hint));
        }
        _ => {}
    }
    match read {
        Ok(bytes) if bytes.trim_ascii().is_empty() => {
            let problem = ConfigProblem::new(format!("{name} is empty"));
            section.fault(key, problem.hint(made_by(make, &name)));
            None
        }
        Ok(bytes) => Some(SecretFile { bytes, name }),
        Err(error) => {
            section.fault(key, unreadable_secret(&path, &error, make));
            None
        }
    }
}

/// A file that holds a secret and is read later.
pub(crate) fn secret_path(section: &ConfigSection<'_>, key: &'static str) -> Option<PathBuf> {
    let path = section.path(key)?;
    if let Err(error) = section.reader().read(&path) {
        section.fault(key, unreadable_secret(&path, &error, "cat > FILE"));
    }
    section.reader().names(&section.place_of(key), &path);
    Some(path)
}

/// Why the secret is unavailable. `make`: see [`secret`].
pub(crate) fn unreadable_secret(path: &Path, error: &io::Error, make: &str) -> ConfigProblem {
    let name = quoted_path(path);
    match error.kind() {
        io::ErrorKind::IsADirectory => {
            ConfigProblem::new(format!("{name} is a directory")).hint("name the file in it")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::FileTooLarge => {
            ConfigProblem::new(format!("{name} cannot be read: {error}")).hint(unreadable(error))
        }
        io::ErrorKind::NotFound => {
            let hint = format!(
                "give the path of a file, relative to the configuration file; {}",
                made_by(make, "FILE")
            );
            ConfigProblem::new(format!("the file cannot be read: {error}")).hint(hint)
        }
        _ => ConfigProblem::new(format!("the file cannot be read: {error}"))
            .hint("give the path of a file that holds the secret"),
    }
}

/// The command that makes the file, readable only by its owner.
pub(crate) fn made_by(make: &str, name: &str) -> String {
    format!("`(umask 077; {})` makes it for its owner alone", make.replace("FILE", name))
}
