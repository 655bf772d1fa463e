//! Tables that this command has opened. A publication looks at the table in force several times:
//! for what differs from it, for what it would undo, and for what sidecars would make of it.
//! Reading, hashing and indexing a table of a million keys each time was most of the cost of a
//! revocation. Imports table and this room.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use super::super::error::Result;
use super::super::files;
use super::head::beginning;
use crate::table::{Bounds, FileKind, Refusal, SignedHead, Table, Trust};

thread_local! {
    /// The last one. Each thread opens its own.
    static LAST: RefCell<Option<Arc<Table>>> = const { RefCell::new(None) };
}

/// The table at `path`; `trust` names the signers to accept, given its head. The head is read and
/// its signatures are verified each time. A file with the head of the table opened last has the
/// same body: the hash in the head was compared when the body was read.
///
/// # Errors
///
/// A file that cannot be read; inside, what is wrong with the table.
pub(super) fn table(
    path: &Path,
    trust: impl Fn(&[u8]) -> Trust,
) -> Result<std::result::Result<Arc<Table>, Refusal>> {
    let head = beginning(path)?;
    let signed = match SignedHead::open(&head, FileKind::Table, &trust(&head)) {
        Ok(signed) => signed,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let known = LAST.with_borrow(|last| last.clone());
    let same = |known: &Arc<Table>| {
        *known.manifest() == signed.manifest && *known.signed_by() == *signed.signed_by()
    };
    if let Some(known) = known.filter(same) {
        return Ok(Ok(known));
    }
    let bounds = Bounds::default();
    let file = files::read(path, bounds.max_bytes)?;
    // By now it may be a different file.
    let trust = trust(&file);
    Ok(Table::open(file, &trust, &bounds).map(|table| {
        let table = Arc::new(table);
        LAST.set(Some(Arc::clone(&table)));
        table
    }))
}
