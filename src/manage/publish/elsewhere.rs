//! Patches that are published in another folder than their table. Whoever builds the next table, from
//! another copy of the registry, does not look there; and that table claims to include every patch
//! below its serial, so that sidecars drop the patch and admit again what it revoked. A copy of the
//! patch beside the table tells them. Imports files and table.

use std::path::{Path, PathBuf};

use super::super::files;
use super::head::head;
use crate::core::Digest;
use crate::manage::output::Output;
use crate::table::Manifest;
use crate::wording::shell::quoted_path;

/// Between the table's name and the word for the place.
const MARK: &str = ".elsewhere-";

/// A patch that is about to be put in its place.
#[derive(Clone, Copy, Debug)]
pub struct PatchAt<'a> {
    pub out: &'a Path,
    pub manifest: &'a Manifest,
    pub content: &'a [u8],
}

/// Leaves a copy of the patch beside each of `tables` that is in another folder: that which it is
/// over, and that which its registry publishes. What was written. A failure is a warning: a
/// revocation must not wait for a disk.
pub fn leave(patch: PatchAt<'_>, tables: &[PathBuf], output: &Output) -> Vec<PathBuf> {
    let PatchAt { out, manifest, content } = patch;
    let mut written: Vec<PathBuf> = Vec::new();
    for table in tables {
        let is_ours = head(table).is_ok_and(|theirs| theirs.audience == manifest.audience);
        if !is_ours || folder(table) == folder(out) {
            continue;
        }
        let copy = copy_of(table, out);
        if written.contains(&copy) {
            continue;
        }
        match files::replace(&copy, content) {
            Ok(()) => written.push(copy),
            Err(e) => output.warn(&format!(
                "no copy of the patch was left beside {}: {e}\n\
                 hint: whoever builds the next table from another copy of the registry has to take \
                 the patch in first, or that table undoes it: `keygatectl keys fold {}`",
                table.display(),
                quoted_path(out)
            )),
        }
    }
    written
}

/// Removes copies of a patch that was not published after all.
pub fn take_back(copies: &[PathBuf]) {
    for copy in copies {
        std::fs::remove_file(copy).ok();
    }
}

/// Removes the copies that `table`, just published at `path`, includes.
pub fn clear(path: &Path, table: &Manifest) {
    let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { return };
    let begin = format!("{stem}{MARK}");
    for copy in files::siblings(path, "kgp").unwrap_or_default() {
        let is_copy =
            copy.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&begin));
        if is_copy && head(&copy).is_ok_and(|patch| patch.serial <= table.includes_through) {
            std::fs::remove_file(copy).ok();
        }
    }
}

/// `t.elsewhere-1a2b3c4d.kgp` beside `t.kgt`: one name for each place of a patch.
fn copy_of(table: &Path, patch: &Path) -> PathBuf {
    let real = folder(patch).join(patch.file_name().unwrap_or_default());
    let Digest([a, b, c, d, ..]) = Digest::of(real.as_os_str().as_encoded_bytes());
    let word = u32::from_be_bytes([a, b, c, d]);
    let stem = table.file_stem().unwrap_or_default().to_string_lossy();
    table.with_file_name(format!("{stem}{MARK}{word:08x}.kgp"))
}

fn folder(path: &Path) -> PathBuf {
    let folder = files::directory(path);
    std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned())
}
