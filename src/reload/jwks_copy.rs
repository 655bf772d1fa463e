//! The copy of an issuer's key set on disk. It records the owner: keys of another issuer, or of
//! another URL, must not be believed. Imports `reload::{files, source}` and `token`.

use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files::FileTurn;
use super::source;
use crate::token::jwks::{JwksError, LONGEST_SET};

/// Longest copy that is read, in bytes: writing a set as JSON again may make it longer.
const LONGEST_COPY: u64 = 4 * LONGEST_SET as u64;

/// A set as its URL returned it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptSet {
    issuer: String,
    url: String,
    /// Unix seconds.
    pub(super) fetched: u64,
    pub(super) jwks: Value,
}

/// Why a copy is unusable, or cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error("there is none")]
    Missing,
    #[error("it is of another issuer or another URL")]
    Other,
    #[error("it is no copy that keygate has written")]
    NotACopy,
    #[error("a file is there that is no copy, and stays as it is")]
    Foreign,
    #[error("{0}")]
    Set(#[from] JwksError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

// === impl KeptSet ===

impl KeptSet {
    /// `set`: a JWK Set in JSON.
    ///
    /// # Errors
    /// It is not JSON.
    pub(super) fn new(
        issuer: &str,
        url: &str,
        fetched: u64,
        set: &[u8],
    ) -> Result<Self, CopyError> {
        let jwks = serde_json::from_slice(set).map_err(|_| JwksError::NotASet)?;
        Ok(Self { issuer: issuer.to_owned(), url: url.to_owned(), fetched, jwks })
    }

    /// # Errors
    /// There is none, or the file is something else.
    pub(super) fn read(path: &Path) -> Result<Self, CopyError> {
        let file = source::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CopyError::Missing,
            _ => CopyError::Io(error),
        })?;
        if !file.metadata()?.is_file() {
            return Err(CopyError::NotACopy);
        }
        let mut bytes = Vec::new();
        file.take(LONGEST_COPY).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            return Err(CopyError::Missing);
        }
        serde_json::from_slice(&bytes).map_err(|_| CopyError::NotACopy)
    }

    pub(super) fn is_of(&self, issuer: &str, url: &str) -> bool {
        self.issuer == issuer && self.url == url
    }

    /// Replaces an earlier copy, and nothing else.
    ///
    /// # Errors
    /// Something else is there, or the file cannot be written.
    pub(super) fn place(&self, path: &Path) -> Result<(), CopyError> {
        let turn = FileTurn::take(path)?;
        match Self::read(path) {
            Ok(_) | Err(CopyError::Missing) => {}
            Err(CopyError::NotACopy) => return Err(CopyError::Foreign),
            Err(error) => return Err(error),
        }
        let bytes = serde_json::to_vec(self).map_err(io::Error::from)?;
        Ok(turn.place(&bytes)?.force()?)
    }
}
