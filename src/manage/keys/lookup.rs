//! The key of a secret that turned up somewhere. Imports the registry.

use super::super::error::{Error, Result};
use super::super::registry::change::Change;
use super::super::registry::{Filter, Located};
use crate::core::Digest;

/// The key that has this secret.
pub fn holder(change: &Change, digest: Digest) -> Result<Located> {
    let filter = Filter { digest: Some(digest), ..Filter::default() };
    change.registry().find(&filter)?.pop().ok_or_else(|| Error::NoSuchKey {
        selector: "(the secret from standard input)".into(),
        path: change.registry().path.clone(),
    })
}

/// The digest of the secret on standard input; a line end after it is not part of it.
pub fn secret_digest() -> Result<Digest> {
    let mut text = zeroize::Zeroizing::new(String::with_capacity(4096));
    let path = std::path::Path::new("standard input");
    std::io::stdin().read_line(&mut text).map_err(Error::read(path))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Error::argument("--secret-stdin", "standard input is empty")),
        secret => Ok(Digest::of(secret.as_bytes())),
    }
}
