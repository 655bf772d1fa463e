//! What a published file says of itself. Imports table and this room's errors.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::super::error::{Error, Result};
use crate::table::Manifest;

/// Head of a file with its manifest and signatures, with room to spare.
const HEAD: u64 = 16 * 1024;

/// The manifest of a file that is there already. Not verified: it is compared, not trusted.
pub fn head(path: &Path) -> Result<Manifest> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(HEAD).read_to_end(&mut bytes))
        .map_err(Error::read(path))?;
    Manifest::unverified(&bytes).map_err(|e| Error::refused(path, e))
}
