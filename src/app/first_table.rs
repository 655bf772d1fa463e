//! The table that the sidecar starts with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{TableConfig, TableSource};
use crate::core::Now;
use crate::exit::Exit;
use crate::table::{Bounds, KeySet, PublicKey, Refusal, Table, Trust};

#[derive(Debug, thiserror::Error)]
pub enum FirstTableError {
    #[error("cannot read the key table {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("key table {path}: {refusal}")]
    Refused { path: PathBuf, refusal: Refusal },
    #[error("{0}")]
    Trust(String),
}

impl FirstTableError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Read { .. } => Exit::NoInput,
            Self::Refused { .. } => Exit::Data,
            Self::Trust(_) => Exit::Config,
        }
    }
}

pub(super) fn load(
    config: &TableConfig,
    _now: Now,
) -> Result<Option<Arc<KeySet>>, FirstTableError> {
    let TableSource::Path(path) = &config.source else {
        return Err(FirstTableError::Trust("url".into()));
    };
    let path: &Path = path;
    let bytes = std::fs::read(path)
        .map_err(|source| FirstTableError::Read { path: path.to_owned(), source })?;
    let signers = config
        .trusted_signers
        .iter()
        .map(|raw| PublicKey::from_raw(*raw))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| FirstTableError::Trust(e.to_string()))?;
    let trust = Trust::new(signers, config.required_signers, &config.audience)
        .map_err(|e| FirstTableError::Trust(e.to_string()))?;
    let table = Table::open(bytes, &trust, &Bounds { max_bytes: config.max_bytes })
        .map_err(|refusal| FirstTableError::Refused { path: path.to_owned(), refusal })?;
    Ok(Some(Arc::new(KeySet::new(Arc::new(table), None, &[], None))))
}
