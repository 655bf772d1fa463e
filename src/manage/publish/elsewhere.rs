//! Patches that are published in a different folder from their table. A build of the next table
//! from another copy of the registry does not look there. Yet that table claims to include every
//! patch below its serial, so sidecars drop the patch and admit again what it revoked. A copy of
//! the patch next to the table makes it known. Imports files and table.

use std::path::{Path, PathBuf};

use super::super::error::Result;
use super::super::files::{self, Replacement};
use super::head::head;
use crate::core::Digest;
use crate::manage::output::Output;
use crate::table::{Bounds, Manifest};
use crate::wording::shell::quoted_path;

/// Separates the table's name from the hash of the place.
const MARK: &str = ".elsewhere-";

/// A patch about to be put in place.
#[derive(Clone, Copy, Debug)]
pub struct PatchAt<'a> {
    pub out: &'a Path,
    pub manifest: &'a Manifest,
    pub content: &'a [u8],
}

/// A copy next to a table.
#[derive(Debug)]
struct LeftCopy {
    path: PathBuf,
    /// What was there before: a copy of the patch that is being replaced, which is still published
    /// if this one cannot be.
    before: FormerCopy,
}

#[derive(Debug)]
enum FormerCopy {
    Bytes(Vec<u8>),
    /// Nothing was there.
    Gone,
    /// It could not be read.
    Unreadable,
}

/// Puts a finished patch in place, and leaves a copy of it next to each of `tables` in another
/// folder: its base, and the table that its registry publishes. The copies come first, so that no
/// table can be built in between without them.
pub fn put(to: Replacement, patch: PatchAt<'_>, tables: &[PathBuf], output: &Output) -> Result<()> {
    let copies = leave(patch, tables, output);
    let put = to.commit();
    if put.is_err() && !may_be_there(patch) {
        take_back(&copies, output);
    }
    put
}

/// A failure is a warning: a revocation must not wait for a disk.
fn leave(patch: PatchAt<'_>, tables: &[PathBuf], output: &Output) -> Vec<LeftCopy> {
    let PatchAt { out, manifest, content } = patch;
    let mut left: Vec<LeftCopy> = Vec::new();
    for table in tables {
        let is_ours = head(table).is_ok_and(|theirs| theirs.audience == manifest.audience);
        if !is_ours || folder(table) == folder(out) {
            continue;
        }
        let path = copy_of(table, out);
        if left.iter().any(|copy| copy.path == path) {
            continue;
        }
        let before = match files::read(&path, Bounds::default().max_bytes) {
            Ok(bytes) => FormerCopy::Bytes(bytes),
            Err(_) if !path.exists() => FormerCopy::Gone,
            Err(_) => FormerCopy::Unreadable,
        };
        if let Err(e) = files::replace(&path, content) {
            output.warn(&format!(
                "no copy of the patch was left beside {}: {e}\n\
                 hint: whoever builds the next table from another copy of the registry has to take \
                 the patch in first, or that table undoes it: `keygatectl keys fold {}`",
                table.display(),
                quoted_path(out)
            ));
        }
        // It may be there despite the error.
        left.push(LeftCopy { path, before });
    }
    left
}

/// Whether the patch is in place despite an error: the rename came before the fault. If that cannot
/// be determined, it may be.
fn may_be_there(patch: PatchAt<'_>) -> bool {
    let PatchAt { out, manifest, .. } = patch;
    let same = |theirs: Manifest| {
        (theirs.serial, theirs.body_sha256) == (manifest.serial, manifest.body_sha256)
    };
    head(out).map_or_else(|_| out.exists(), same)
}

/// Restores what was there before the copies of a patch that was not published after all. A copy of
/// the patch that is still published may be the only one that others see.
fn take_back(copies: &[LeftCopy], output: &Output) {
    for LeftCopy { path, before } in copies {
        let put_back = match before {
            FormerCopy::Bytes(bytes) => files::replace(path, bytes),
            FormerCopy::Gone => {
                std::fs::remove_file(path).ok();
                Ok(())
            }
            // The new copy stays: it can only make others ask more.
            FormerCopy::Unreadable => Ok(()),
        };
        if let Err(e) = put_back {
            output.warn(&format!(
                "{} is a copy of a patch that was not published, and the former copy could not be \
                 put back: {e}",
                path.display()
            ));
        }
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

/// `t.elsewhere-1a2b3c4d.kgp` next to `t.kgt`: one name for each place of a patch.
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::table::testkit::{Signer, issue, sealed, spec, table_file};
    use crate::table::write::PatchDraft;
    use crate::table::{Table, Trust};

    /// A table, and another folder for its patches.
    struct Room {
        _directory: tempfile::TempDir,
        table: PathBuf,
        out: PathBuf,
    }

    // === impl Room ===

    impl Room {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let table = directory.path().join("t.kgt");
            let signer = Signer::new(1);
            let file = table_file(&[spec(1), spec(2)], issue(1, &[&signer]), &[&signer]);
            fs::write(&table, file).unwrap();
            let far = directory.path().join("far");
            fs::create_dir(&far).unwrap();
            Self { table, out: far.join("t.kgp"), _directory: directory }
        }

        /// A patch of this serial over the table.
        fn patch(&self, serial: u64) -> Vec<u8> {
            let file = fs::read(&self.table).unwrap();
            let table = Table::open(file, &Trust::for_inspection(), &Bounds::default()).unwrap();
            let mut draft = PatchDraft::over(&table);
            draft.put(spec(serial as u32));
            let signer = Signer::new(1);
            sealed(draft.build(issue(serial, &[&signer])).unwrap(), &[&signer])
        }

        /// Puts it in place, after `meanwhile`.
        fn put(&self, content: &[u8], meanwhile: impl FnOnce()) -> Result<()> {
            let mut to = Replacement::of(&self.out)?;
            std::io::Write::write_all(&mut to, content).unwrap();
            meanwhile();
            let manifest = Manifest::unverified(content).unwrap();
            let patch = PatchAt { out: &self.out, manifest: &manifest, content };
            put(to, patch, std::slice::from_ref(&self.table), &Output::sink())
        }

        fn copy(&self) -> Option<Vec<u8>> {
            fs::read(copy_of(&self.table, &self.out)).ok()
        }

        /// Nothing can be renamed over a folder that is not empty.
        fn block(&self) {
            fs::create_dir_all(self.out.join("in the way")).unwrap();
        }
    }

    #[test]
    fn a_copy_of_what_is_published_stays_when_its_successor_fails() {
        let room = Room::new();
        let first = room.patch(3);
        room.put(&first, || ()).unwrap();
        assert_eq!(fs::read(&room.out).unwrap(), first);
        assert_eq!(room.copy(), Some(first.clone()));
        // The folder of the patch disappears, and with it the patch that readers still have.
        let gone = || fs::remove_dir_all(files::directory(&room.out)).unwrap();
        room.put(&room.patch(4), gone).unwrap_err();
        assert_eq!(room.copy(), Some(first), "the only one that others see");
    }

    #[test]
    fn a_copy_of_what_was_never_published_goes() {
        let room = Room::new();
        let gone = || fs::remove_dir_all(files::directory(&room.out)).unwrap();
        room.put(&room.patch(3), gone).unwrap_err();
        assert_eq!(room.copy(), None);
    }

    #[test]
    fn a_copy_stays_where_nobody_can_tell_whether_its_patch_is_there() {
        let room = Room::new();
        let content = room.patch(3);
        room.put(&content, || room.block()).unwrap_err();
        assert_eq!(room.copy(), Some(content.clone()));
        // The rename succeeded, and a later step failed.
        let room = Room::new();
        let manifest = Manifest::unverified(&content).unwrap();
        fs::write(&room.out, &content).unwrap();
        assert!(may_be_there(PatchAt { out: &room.out, manifest: &manifest, content: &content }));
        let other = room.patch(4);
        fs::write(&room.out, &other).unwrap();
        assert!(!may_be_there(PatchAt { out: &room.out, manifest: &manifest, content: &content }));
    }

    #[test]
    fn what_cannot_be_read_is_not_put_back() {
        let room = Room::new();
        let path = copy_of(&room.table, &room.out);
        fs::create_dir_all(path.join("in the way")).unwrap();
        let gone = || fs::remove_dir_all(files::directory(&room.out)).unwrap();
        room.put(&room.patch(3), gone).unwrap_err();
        assert!(path.join("in the way").exists());
    }
}
