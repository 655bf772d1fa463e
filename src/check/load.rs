//! The table that a configuration names, taken as a sidecar would take it at start.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{AfterExpiry, TableConfig, TableSource};
use crate::core::Now;
use crate::exit::Exit;
use crate::table::{
    Accepted, Bounds, Desk, KeySet, Ledger, LedgerError, Patch, PublicKey, PublicKeyError, Refusal,
    Rules, Table, Trust, TrustError,
};

/// Files to look at instead of those that the configuration names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Instead<'a> {
    pub table: Option<&'a Path>,
    pub patch: Option<&'a Path>,
}

/// What would be in force after a start.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub keys: Arc<KeySet>,
    /// The patch is genuine and its restrictions are in force, but it is refused as a patch.
    pub restricted: Option<Refusal>,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{} holds {found} files *.{extension}, and must hold one", directory.display())]
    Directory { directory: PathBuf, extension: &'static str, found: usize },
    #[error("state file {}: {source}", path.display())]
    Ledger { path: PathBuf, source: LedgerError },
    #[error("{} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is refused ({}): {refusal}", path.display(), refusal.reason())]
    Refused { path: PathBuf, refusal: Refusal },
    #[error(
        "{what} comes from {url}, which is not fetched here\nhint: name a copy of it with --{what} FILE"
    )]
    Remote { what: &'static str, url: Box<str> },
    #[error("table.trusted_signers: {0}")]
    Signer(#[from] PublicKeyError),
    #[error("table.trusted_signers: {0}")]
    Trust(#[from] TrustError),
}

/// Reads, verifies and accepts. The state file is read, so that a rollback shows; nothing is
/// written.
pub fn load(config: &TableConfig, instead: Instead<'_>, now: Now) -> Result<Loaded, LoadError> {
    let signers: Result<Vec<_>, _> =
        config.trusted_signers.iter().map(|raw| PublicKey::from_raw(*raw)).collect();
    let trust = Trust::new(signers?, config.required_signers, &config.audience)?;
    let bounds = Bounds { max_bytes: config.max_bytes };
    let rules = Rules {
        min_serial: config.min_serial,
        shrink_brake: config.shrink_brake,
        refuse_after: match config.after_expiry {
            AfterExpiry::Refuse => Some(config.grace.as_secs()),
            AfterExpiry::Serve => None,
        },
    };
    let ledger = match &config.state_file {
        Some(path) => ledger(path)?,
        None => Ledger::default(),
    };
    let (mut desk, _) = Desk::restore(rules, ledger, &trust, &bounds);

    let path = locate(&config.source, instead.table, "table", "kgt")?;
    let refused = |refusal| LoadError::Refused { path: path.clone(), refusal };
    let bytes = read(&path, config.max_bytes)?;
    let table = Table::open(bytes, &trust, &bounds).map_err(refused)?;
    desk.offer_table(Arc::new(table), now).map_err(refused)?;

    let patch = match (&config.patch, instead.patch) {
        (_, Some(path)) => Some(path.to_owned()),
        (Some(source), None) => Some(locate(source, None, "patch", "kgp")?),
        (None, None) => None,
    };
    let restricted = match patch {
        Some(path) => offer_patch(&mut desk, path, config.max_bytes, (&trust, &bounds), now)?,
        None => None,
    };
    // A table was just accepted; if the desk had none, it would have been refused.
    let keys = desk.current().cloned().ok_or_else(|| refused(Refusal::Empty))?;
    Ok(Loaded { keys, restricted })
}

fn offer_patch(
    desk: &mut Desk,
    path: PathBuf,
    max_bytes: u64,
    (trust, bounds): (&Trust, &Bounds),
    now: Now,
) -> Result<Option<Refusal>, LoadError> {
    let bytes = match read(&path, max_bytes) {
        Ok(bytes) => bytes,
        // There is a patch only once something was published over the table.
        Err(LoadError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let refused = |refusal| LoadError::Refused { path: path.clone(), refusal };
    let patch = Patch::open(bytes, trust, bounds).map_err(refused)?;
    match desk.offer_patch(Arc::new(patch), now).map_err(refused)? {
        Accepted::Restricted(refusal) => Ok(Some(refusal)),
        Accepted::Held | Accepted::Included | Accepted::InForce | Accepted::Unchanged => Ok(None),
    }
}

fn ledger(path: &Path) -> Result<Ledger, LoadError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
        Err(source) => return Err(LoadError::Read { path: path.to_owned(), source }),
    };
    Ledger::parse(&text).map_err(|source| LoadError::Ledger { path: path.to_owned(), source })
}

/// The file itself, where a directory holds it.
fn locate(
    source: &TableSource,
    instead: Option<&Path>,
    what: &'static str,
    extension: &'static str,
) -> Result<PathBuf, LoadError> {
    let path = match (instead, source) {
        (Some(path), _) => path,
        (None, TableSource::Path(path)) => path,
        (None, TableSource::Url(url)) => {
            return Err(LoadError::Remote { what, url: url.clone() });
        }
    };
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let unreadable = |source| LoadError::Read { path: path.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_some_and(|e| e == extension) {
            found.push(file);
        }
    }
    match (found.pop(), found.len()) {
        (Some(file), 0) => Ok(file),
        // A patch's directory may be empty: then there is none yet.
        (None, _) if extension == "kgp" => Ok(path.join("none.kgp")),
        (last, more) => Err(LoadError::Directory {
            directory: path.to_owned(),
            extension,
            found: more + usize::from(last.is_some()),
        }),
    }
}

/// At most one byte more than allowed is read.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, LoadError> {
    let unreadable = |source| LoadError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        let refusal = Refusal::TooLarge { bytes: bytes.len() as u64, limit };
        return Err(LoadError::Refused { path: path.to_owned(), refusal });
    }
    Ok(bytes)
}

// === impl LoadError ===

impl LoadError {
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Directory { .. } | Self::Read { .. } | Self::Remote { .. } => Exit::NoInput,
            Self::Ledger { .. } | Self::Refused { .. } => Exit::Data,
            Self::Signer(_) | Self::Trust(_) => Exit::Config,
        }
    }
}
