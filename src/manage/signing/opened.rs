//! A file that a signer is asked to sign, read as a sidecar reads it. Pure. Imports table.

use std::io::Cursor;
use std::sync::Arc;

use super::super::signer::signs::{SigningReason, SigningRefusal};
use crate::table::write::Draft;
use crate::table::{Bounds, Buffer, FileKind, Manifest, Patch, Table, Trust};

/// A file whose body was read.
#[derive(Debug)]
pub enum OpenedFile {
    Table(Arc<Table>),
    Patch(Arc<Patch>),
}

// === impl OpenedFile ===

impl OpenedFile {
    pub fn manifest(&self) -> &Manifest {
        match self {
            Self::Table(table) => table.manifest(),
            Self::Patch(patch) => patch.manifest(),
        }
    }
}

/// Reads the whole file. Returns the bytes of it to sign, with every count of the manifest checked
/// against the body.
///
/// # Errors
///
/// What is wrong with it.
pub fn opened(file: Buffer, max_bytes: u64) -> Result<(Vec<u8>, OpenedFile), SigningRefusal> {
    // One line only: the rest is a remedy for the publisher.
    let odd = |why: String| {
        SigningRefusal::new(SigningReason::File, why.lines().next().unwrap_or_default())
    };
    let stated = Manifest::unverified(&file).map_err(|e| odd(e.to_string()))?;
    let draft = Draft::read(Cursor::new(&*file)).map_err(|e| odd(e.to_string()))?;
    let message = draft.message().to_vec();
    let (trust, bounds) = (Trust::for_inspection(), Bounds { max_bytes });
    let opened = match stated.kind {
        FileKind::Table => {
            Table::open(file, &trust, &bounds).map(|table| OpenedFile::Table(Arc::new(table)))
        }
        FileKind::Patch => {
            Patch::open(file, &trust, &bounds).map(|patch| OpenedFile::Patch(Arc::new(patch)))
        }
    };
    Ok((message, opened.map_err(|e| odd(e.to_string()))?))
}
