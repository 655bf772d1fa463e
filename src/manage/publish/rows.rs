//! Tables and patches of rows, for a store that is not a registry: it knows what changed since its
//! last table without having that table. No lock and no clock: entries go in, and a draft comes
//! out, which is signed here or elsewhere. Imports the registry's entries, signers and table.
//!
//! Nothing is compared with what is published: the store has to do that first.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::Path;

use super::super::error::{Error, Result};
use super::super::registry::entry::RegistryEntry;
use super::super::signer::signs::{SignFault, SignsTables};
use super::super::signer::{Signer, sign_all};
use super::terms::Spill;
use crate::core::format::KeyFormat;
use crate::core::{Digest, KeyId, LimitSet, OrgId};
use crate::table::write::{
    BodyBuilder, BuildError, BuiltBody, Draft, PatchBase, PatchDraft, PatchError, RemovalOf,
};
use crate::table::{Issue, Manifest, TableFormat};

/// All differences between the keys and a table. Cumulative: it replaces every earlier patch over
/// the table.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChangedRows<'r> {
    /// Keys that are new or differ from the table, in their current form. Stating a key that has
    /// not changed does no harm.
    pub entries: &'r [RegistryEntry],
    /// Secrets of the table that no key has any more.
    pub gone: &'r [GoneSecret],
    /// Orgs whose limits differ, in their current form; no limits: those in the table are removed.
    pub orgs: Option<&'r BTreeMap<OrgId, LimitSet>>,
}

/// A secret of a table that is gone since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoneSecret {
    pub digest: Digest,
    pub id: KeyId,
    pub of: RemovalOf,
}

/// A table that is assembled row by row, in any order and in bounded memory.
pub struct TableOfRows(BodyBuilder<Spill>);

/// A table whose content is fixed, before it has a serial.
#[derive(Debug)]
pub struct BuiltTable(BuiltBody<File>);

/// Why there is no signed file.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    #[error("cannot put it together: {0}")]
    Build(#[from] BuildError),
    #[error("cannot put it together: {0}")]
    Make(#[from] PatchError),
    #[error("the base is in a format that this program does not know")]
    UnknownFormat,
    #[error("the signer does not sign: {0}")]
    Signer(SignFault),
    #[error("cannot read what was put together: {0}")]
    Read(#[from] std::io::Error),
}

/// A file with all signatures that it gets here, ready to be written where sidecars find it.
#[derive(Debug)]
pub struct SealedFile {
    pub manifest: Manifest,
    pub bytes: Vec<u8>,
}

/// Assembles a patch, which nobody has signed yet.
///
/// # Errors
///
/// [`PatchError`]: keys that cannot be in one patch (two with one digest), or that the format of the
/// table cannot hold.
pub fn patch_of_rows(
    base: PatchBase,
    rows: ChangedRows<'_>,
    issue: Issue,
) -> std::result::Result<Draft<Cursor<Vec<u8>>>, PatchError> {
    let mut draft = PatchDraft::over_base(base);
    for gone in rows.gone {
        draft.remove(gone.digest, gone.id, gone.of);
    }
    // After the secrets that are gone: a secret that is stated exists.
    for spec in rows.entries.iter().flat_map(RegistryEntry::specs) {
        draft.put(spec);
    }
    for (org, limits) in rows.orgs.into_iter().flatten() {
        draft.state_org_limits(org.clone(), limits.clone());
    }
    draft.build(issue)
}

// === impl TableOfRows ===

impl TableOfRows {
    /// In this version of the format, with the forms of its audience's secrets. Whatever does not
    /// fit into `memory` bytes goes into unnamed files in the folder of `target`.
    pub fn beside(target: &Path, memory: usize, format: TableFormat) -> Self {
        let mut builder = BodyBuilder::new(Spill::beside(target), memory);
        builder.set_format(format);
        Self(builder)
    }

    pub fn formats(&mut self, formats: impl IntoIterator<Item = KeyFormat>) {
        self.0.formats(formats);
    }

    pub fn org_limits(
        &mut self,
        org: &OrgId,
        limits: &LimitSet,
    ) -> std::result::Result<(), BuildError> {
        self.0.org_limits(org, limits)
    }

    pub fn push(&mut self, entry: &RegistryEntry) -> std::result::Result<(), BuildError> {
        entry.specs().try_for_each(|spec| self.0.push(&spec))
    }

    /// Fixes the content. This is the slow part; only serial and signature are still missing.
    ///
    /// # Errors
    ///
    /// [`PatchError`]: keys that cannot be in one table, or a full disk.
    pub fn built(self) -> std::result::Result<BuiltTable, PatchError> {
        Ok(BuiltTable(self.0.finish()?))
    }

    /// # Errors
    ///
    /// [`PatchError`]: keys that cannot be in one table, or a full disk.
    pub fn finish(self, issue: Issue) -> std::result::Result<Draft<File>, PatchError> {
        Ok(self.0.finish()?.into_table(issue)?)
    }
}

impl fmt::Debug for TableOfRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableOfRows").finish_non_exhaustive()
    }
}

// === impl GoneSecret ===

impl GoneSecret {
    /// A secret that its key has lost; the key lives on with others.
    pub fn of_key(digest: Digest, id: KeyId) -> Self {
        Self { digest, id, of: RemovalOf::Secret }
    }
}

// === impl BuiltTable ===

impl BuiltTable {
    /// Records of keys that are active.
    pub fn active(&self) -> u64 {
        self.0.active()
    }

    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// Adds serial and signature.
    ///
    /// # Errors
    ///
    /// A signer who does not sign; building the table again loses nothing.
    pub fn signed(
        self,
        issue: Issue,
        signer: &dyn SignsTables,
    ) -> std::result::Result<SealedFile, RowsError> {
        signed(self.0.into_table(issue).map_err(PatchError::from)?, signer)
    }
}

/// A patch over the table with this manifest, signed.
///
/// # Errors
///
/// Keys that cannot be in one patch, or that the format of the table cannot hold; a signer who does
/// not sign.
pub fn signed_patch(
    base: &Manifest,
    formats: impl IntoIterator<Item = KeyFormat>,
    rows: ChangedRows<'_>,
    issue: Issue,
    signer: &dyn SignsTables,
) -> std::result::Result<SealedFile, RowsError> {
    let base = PatchBase::of(base, formats).ok_or(RowsError::UnknownFormat)?;
    signed(patch_of_rows(base, rows, issue)?, signer)
}

fn signed<F>(
    mut draft: Draft<F>,
    signer: &dyn SignsTables,
) -> std::result::Result<SealedFile, RowsError>
where
    F: Read + Seek,
{
    let key = signer.public().map_err(|why| RowsError::Signer(SignFault::Away(why)))?;
    let signature = signer.sign(&mut draft).map_err(RowsError::Signer)?;
    let attached = draft.attach(&key, &signature);
    attached.map_err(|e| RowsError::Signer(SignFault::Away(e.to_string())))?;
    let mut bytes = Cursor::new(Vec::new());
    draft.write(&mut bytes)?;
    Ok(SealedFile { manifest: draft.manifest().clone(), bytes: bytes.into_inner() })
}

/// Signs a draft and returns its bytes.
///
/// # Errors
///
/// [`Error::Signer`]: a signer whom the manifest does not name.
pub fn sealed<F>(mut draft: Draft<F>, signers: &[Signer]) -> Result<SealedFile>
where
    F: Read + Seek,
{
    let place = Path::new(&draft.manifest().kind.to_string()).to_owned();
    sign_all(&mut draft, signers, &place)?;
    let mut bytes = Cursor::new(Vec::new());
    draft.write(&mut bytes).map_err(Error::write(&place))?;
    Ok(SealedFile { manifest: draft.manifest().clone(), bytes: bytes.into_inner() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::registry::entry::Previous;
    use super::super::super::registry::entry::tests::full;
    use super::*;
    use crate::core::{KeyStatus, PolicyName};
    use crate::manage::output::Output;
    use crate::manage::registry::entry::parse_limit;
    use crate::table::{Bounds, KeySet, Patch, Table, Trust};

    fn key(id: &str) -> RegistryEntry {
        RegistryEntry {
            id: KeyId::parse(id).unwrap(),
            status: KeyStatus::Active,
            plan: None,
            public_id: Some(format!("public-{id}").into()),
            digest: Digest::of(id.as_bytes()),
            previous: None,
            ..full()
        }
    }

    fn limits(text: &str) -> LimitSet {
        LimitSet::default().with(PolicyName::parse("daily").unwrap(), parse_limit(text).unwrap())
    }

    fn issue(serial: u64, signer: &Signer) -> Issue {
        Issue {
            serial,
            includes_through: serial,
            issued_at_ms: 1_795_230_000_000,
            expires_at: None,
            audience: "shop".into(),
            signers: vec![crate::manage::signer::table_key(signer.public()).unwrap().id()],
            acknowledge: Vec::new(),
        }
    }

    /// Only the head of the table and the changes are available, and a reader of both has in force
    /// what the rows say.
    #[test]
    fn a_patch_of_rows_is_over_a_table_that_is_not_at_hand() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signer.pem");
        crate::manage::signer::new(&path, None, &mut Output::sink()).unwrap();
        let signers = [Signer::load(&path).unwrap()];
        let former = Previous { digest: Digest::of(b"former"), expires: 1_795_239_000 };
        let rotated = RegistryEntry { previous: Some(former), ..key("key_rotated") };
        let mut table = TableOfRows::beside(&dir.path().join("t.kgt"), 1 << 20, TableFormat::V2);
        for entry in [key("key_kept"), key("key_revoked"), key("key_gone"), rotated] {
            table.push(&entry).unwrap();
        }
        for (org, text) in [("acme", "9/d"), ("left", "9/d")] {
            table.org_limits(&OrgId::parse(org).unwrap(), &limits(text)).unwrap();
        }
        let table = sealed(table.finish(issue(5, &signers[0])).unwrap(), &signers).unwrap();

        let revoked = RegistryEntry { status: KeyStatus::Revoked, ..key("key_revoked") };
        let entries = [revoked, key("key_new"), key("key_rotated")];
        let gone = [
            GoneSecret { digest: former.digest, id: entries[2].id, of: RemovalOf::Secret },
            GoneSecret {
                digest: key("key_gone").digest,
                id: key("key_gone").id,
                of: RemovalOf::Key,
            },
        ];
        let org = |text| OrgId::parse(text).unwrap();
        let orgs = [(org("acme"), limits("5/d")), (org("left"), LimitSet::default())].into();
        let rows = ChangedRows { entries: &entries, gone: &gone, orgs: Some(&orgs) };
        let base = PatchBase::of(&table.manifest, []).unwrap();
        let draft = patch_of_rows(base, rows, issue(9, &signers[0])).unwrap();
        let patch = sealed(draft, &signers).unwrap();
        assert_eq!((patch.manifest.serial, patch.manifest.removed), (9, 2));
        assert_eq!(patch.manifest.base.unwrap().serial, 5);

        let (trust, bounds) = (Trust::for_inspection(), Bounds::default());
        let table = Arc::new(Table::open(table.bytes, &trust, &bounds).unwrap());
        let patch = Arc::new(Patch::open(patch.bytes, &trust, &bounds).unwrap());
        assert_eq!(patch.signed_by().len(), 1);
        assert!(patch.is_over(&table));
        let set = KeySet::new(table, Some(patch), &[], None);
        let status = |digest: &Digest| Some(set.find_digest(digest)?.view.grant.status);
        assert_eq!(status(&key("key_kept").digest), Some(KeyStatus::Active));
        assert_eq!(status(&key("key_new").digest), Some(KeyStatus::Active));
        assert_eq!(status(&key("key_rotated").digest), Some(KeyStatus::Active));
        assert_eq!(status(&key("key_revoked").digest), Some(KeyStatus::Revoked));
        assert_eq!(status(&key("key_gone").digest), None);
        assert_eq!(status(&former.digest), None);
        assert_eq!(set.org_limits("acme"), &limits("5/d"));
        assert!(set.org_limits("left").is_empty());
        let empty = ChangedRows::default();
        let base = PatchBase::of(set.table().manifest(), []).unwrap();
        assert!(patch_of_rows(base, empty, issue(6, &signers[0])).is_ok(), "nothing changed");
    }
}
