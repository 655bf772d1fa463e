//! Files that hold a secret which keygate uses: read here, never shown, and for their owner alone.

use zeroize::Zeroizing;

use super::fault::ConfigProblem;
use super::section::ConfigSection;
use super::watched::{FileAccess, WatchedFile};

/// What the file under `key` holds, and that it is one that keygate reads again when it changes.
/// The path is not shown: a secret pasted here by mistake would be.
pub(super) fn secret(
    section: &ConfigSection<'_>,
    key: &'static str,
    known_as: &'static str,
) -> Option<Zeroizing<Vec<u8>>> {
    let path = section.path(key)?;
    let reader = section.reader();
    reader.names(&section.place_of(key), &path);
    reader.holds_secret(WatchedFile { key: known_as, path: path.clone() });
    match reader.access(&path) {
        FileAccess::OwnerAlone => {}
        FileAccess::GroupReads => {
            let problem = ConfigProblem::new("the group of the file can read the secret as well");
            section.warn(key, problem.hint("let nobody else be in that group"));
        }
        FileAccess::TooMany(mode) => {
            let problem = ConfigProblem::new(format!(
                "others than its owner may use the file: its mode is {mode:04o}"
            ));
            section.fault(key, problem.hint("chmod 600, owned by the user that runs keygate"));
        }
    }
    match reader.read(&path).map(Zeroizing::new) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            let problem = ConfigProblem::new(format!("the file cannot be read: {error}"));
            section.fault(key, problem.hint(super::section::unreadable(&error)));
            None
        }
    }
}
