//! A directory in which sidecars find table and patch. Files are written by rename, and never over
//! newer ones.

use std::path::Path;
use std::time::Duration;

use crate::manage::error::Error;
use crate::manage::files::{self, Lock};
use crate::manage::publish::head::head;
use crate::table::Manifest;

/// How long another writer of the same file may take.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// What happened to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    Written,
    /// It existed already.
    Same,
    /// There is a file that we must not replace: newer, or with other content for the same serial.
    Newer {
        serial: u64,
    },
}

/// The file that exists now; `None`: there is none.
///
/// # Errors
///
/// A file that cannot be read, or that is neither table nor patch.
pub fn there(path: &Path) -> Result<Option<Manifest>, Error> {
    match path.exists() {
        true => head(path).map(Some),
        false => Ok(None),
    }
}

/// Puts a file in its place, unless something newer is there.
///
/// # Errors
///
/// A directory or disk that cannot be written; a file of another kind or audience.
pub fn place(path: &Path, ours: &Manifest, bytes: &[u8]) -> Result<Placed, Error> {
    // Before taking the lock: sidecars notice every file that is written into their directory.
    if let Some(placed) = compared(path, ours)? {
        return Ok(placed);
    }
    let out = files::resolve(path)?;
    let _lock = Lock::take(&out, LOCK_TIMEOUT)?;
    if let Some(placed) = compared(&out, ours)? {
        return Ok(placed);
    }
    files::replace(&out, bytes)?;
    Ok(Placed::Written)
}

fn compared(path: &Path, ours: &Manifest) -> Result<Option<Placed>, Error> {
    let Some(theirs) = there(path)? else { return Ok(None) };
    if theirs.kind != ours.kind {
        let refusal = crate::table::Refusal::Kind { found: theirs.kind, wanted: ours.kind };
        return Err(Error::refused(path, refusal));
    }
    if theirs.audience != ours.audience {
        return Err(Error::audience(path, &theirs.audience, &ours.audience));
    }
    Ok(match theirs.serial.cmp(&ours.serial) {
        std::cmp::Ordering::Less => None,
        std::cmp::Ordering::Equal if theirs.body_sha256 == ours.body_sha256 => Some(Placed::Same),
        std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => {
            Some(Placed::Newer { serial: theirs.serial })
        }
    })
}
