//! What a published file states about itself. Imports table and this room's errors.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::super::error::{Error, Result};
use crate::table::{Manifest, PublicKey, SignedHead, Trust};

/// The manifest of an existing file. It is not verified: it is compared, not trusted.
pub fn head(path: &Path) -> Result<Manifest> {
    Manifest::unverified(&beginning(path)?).map_err(|e| Error::refused(path, e))
}

/// The same of a file that counts for its readers, so that nothing is published over it unread.
pub(super) fn readable_head(path: &Path) -> Result<Manifest> {
    head(path).map_err(|e| match e {
        Error::Refused { path, refusal } => Error::unreadable(&path, refusal),
        other => other,
    })
}

/// The signers whose signatures of a file are valid. None if any is invalid: every sidecar refuses
/// such a file.
pub fn signed_by(path: &Path) -> Result<Vec<PublicKey>> {
    let bytes = beginning(path)?;
    let kind = Manifest::unverified(&bytes).map_err(|e| Error::refused(path, e))?.kind;
    let head = SignedHead::open(&bytes, kind, &Trust::for_inspection());
    Ok(head.map(|head| head.signed_by().to_vec()).unwrap_or_default())
}

/// Whether nobody has signed a file yet. A file with invalid signatures is a different case: it may
/// have been damaged.
pub fn is_unsigned(path: &Path) -> Result<bool> {
    let bytes = beginning(path)?;
    let kind = Manifest::unverified(&bytes).map_err(|e| Error::refused(path, e))?.kind;
    let head = SignedHead::open(&bytes, kind, &Trust::for_inspection());
    Ok(head.is_ok_and(|head| head.signed_by().is_empty()))
}

/// As much of a file as its manifest and signatures can occupy.
pub(super) fn beginning(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SignedHead::MAX_BYTES).read_to_end(&mut bytes))
        .map_err(Error::read(path))?;
    Ok(bytes)
}
