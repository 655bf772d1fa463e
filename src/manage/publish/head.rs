//! What a published file says of itself. Imports table and this room's errors.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::super::error::{Error, Result};
use crate::table::{Manifest, PublicKey, SignedHead, Trust};

/// The manifest of a file that is there already. Not verified: it is compared, not trusted.
pub fn head(path: &Path) -> Result<Manifest> {
    Manifest::unverified(&beginning(path)?).map_err(|e| Error::refused(path, e))
}

/// Whose signatures of a file hold. None, where one is wrong: every sidecar refuses such a file.
pub fn signed_by(path: &Path) -> Result<Vec<PublicKey>> {
    let bytes = beginning(path)?;
    let kind = Manifest::unverified(&bytes).map_err(|e| Error::refused(path, e))?.kind;
    let head = SignedHead::open(&bytes, kind, &Trust::for_inspection());
    Ok(head.map(|head| head.signed_by().to_vec()).unwrap_or_default())
}

/// Whether nobody has signed a file yet. One whose signatures are wrong is another matter: somebody
/// may have damaged it.
pub fn is_unsigned(path: &Path) -> Result<bool> {
    let bytes = beginning(path)?;
    let kind = Manifest::unverified(&bytes).map_err(|e| Error::refused(path, e))?.kind;
    let head = SignedHead::open(&bytes, kind, &Trust::for_inspection());
    Ok(head.is_ok_and(|head| head.signed_by().is_empty()))
}

/// As much of a file as its manifest and signatures can take.
pub(super) fn beginning(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SignedHead::MAX_BYTES).read_to_end(&mut bytes))
        .map_err(Error::read(path))?;
    Ok(bytes)
}
