//! Brings published keys into a database that is older than they are. After a backup is restored,
//! keys that were revoked since stay revoked, and keys that were made since work again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::behind::Evidence;
use super::of_store;
use super::target::there;
use crate::core::{KeyId, KeySpec, KeyStatus};
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::files;
use crate::manage::publish::fold::of_specs;
use crate::manage::publish::head::head;
use crate::manage::registry::entry::RegistryEntry;
use crate::registrar::config::{AdminToml, AudienceConfig};
use crate::registrar::store::{
    ArtefactKind, ArtefactState, AudienceName, KeySnapshot, RecoveredKeys, Store, StoreActor,
};
use crate::table::{Bounds, FileKind, KeySet, Manifest, Patch, Refusal, SignedHead, Table, Trust};
use crate::wording::visible::one_line;

/// The note on a key that only the published table knew.
const NOTE: &str = "recovered from the published table";

/// What to compare an audience's database with.
#[derive(Debug, Default)]
pub struct PublishedKeys {
    /// `None`: no file of the audience is available.
    set: Option<KeySet>,
    /// It contains everything up to this serial.
    pub serial: u64,
}

/// Published tables and patches.
#[derive(Debug, Default)]
struct PublishedFiles {
    bounds: Bounds,
    tables: Vec<Arc<Table>>,
    patches: Vec<Arc<Patch>>,
}

/// More was published of an audience than the available files contain.
#[derive(Clone, Debug)]
pub struct MissingFiles {
    pub audience: AudienceName,
    /// The highest serial that is available; 0: none.
    pub at_hand: u64,
    pub seen: Evidence,
}

/// The result of a recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredCounts {
    pub serial: u64,
    /// Keys of the database that now are as in the published table.
    pub changed: u64,
    /// Keys that the published table no longer has.
    pub revoked: u64,
    /// Keys that only the published table had.
    pub returned: u64,
    /// Keys that older files have in another form, and that stay as the database has them.
    pub differing: Vec<KeyId>,
}

/// Who recovers what, and when.
#[derive(Clone, Debug)]
pub struct RecoveryTerms {
    pub audience: AudienceName,
    pub actor: StoreActor,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// The highest serial seen anywhere.
    pub above: u64,
}

// === impl PublishedFiles ===

impl PublishedFiles {
    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        files::read(path, self.bounds.max_bytes)
    }

    fn take(&mut self, path: &Path, bytes: Vec<u8>, trust: &Trust) -> Result<()> {
        let refused = |e| Error::refused(path, e);
        match Manifest::unverified(&bytes).map_err(refused)?.kind {
            FileKind::Table => {
                let table = Table::open(bytes, trust, &self.bounds).map_err(refused)?;
                self.tables.push(Arc::new(table));
            }
            FileKind::Patch => {
                let patch = Patch::open(bytes, trust, &self.bounds).map_err(refused)?;
                self.patches.push(Arc::new(patch));
            }
        }
        Ok(())
    }

    /// The keys in force at a sidecar that has all of these files.
    fn newest(self) -> PublishedKeys {
        let Self { tables, mut patches, .. } = self;
        let newest = tables.into_iter().max_by_key(|table| table.serial());
        let Some(table) = newest else { return PublishedKeys::default() };
        let includes = table.manifest().includes_through;
        patches.retain(|patch| patch.serial() > includes);
        let over = patches.iter().filter(|patch| patch.is_over(&table));
        let patch = over.max_by_key(|patch| patch.serial()).cloned();
        let serial = patch.as_ref().map_or(table.serial(), |patch| patch.serial());
        patches.retain(|held| patch.as_ref().is_none_or(|p| held.serial() > p.serial()));
        let set = KeySet::new(table, patch, &patches, None);
        PublishedKeys { set: Some(set), serial }
    }
}

// === impl PublishedKeys ===

impl PublishedKeys {
    /// The newest table among an audience's files, with the patches that it does not include: what
    /// a sidecar that has all of them would have in force. The files are `given` and those that
    /// exist at the audience's targets.
    ///
    /// The service puts nothing at a target, and marks nothing as signed in its database, before as
    /// many have signed as had to. So for files from these places one signature is enough, however
    /// many are required by now. Files from elsewhere need all signatures, because a draft has the
    /// service's own signature too.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, that somebody else has signed, or that too few have signed.
    pub async fn of_audience(
        config: &AudienceConfig,
        given: &[PathBuf],
        store: &dyn Store,
    ) -> Result<Self> {
        let name = &config.name;
        let Some(signer) = &config.signer else {
            return match given.first() {
                Some(path) => Err(nobody_signs(path, name)),
                None => Ok(Self::default()),
            };
        };
        let own = signer.public().map_err(|why| Error::Added {
            message: format!("{name}: {why}"),
            exit: Exit::NoInput,
        })?;
        let trust = |required| {
            let others = config.co_signers.iter().map(|signer| signer.public);
            Trust::new([own].into_iter().chain(others), required, name.as_str())
                .map_err(|e| Error::Added { message: e.to_string(), exit: Exit::Config })
        };
        let (all, one) = (trust(config.required_signers)?, trust(1)?);
        let mut files = PublishedFiles::default();
        for path in config.targets.iter().flat_map(|target| [&target.table, &target.patch]) {
            if there(path)?.is_some() {
                files.take(path, files.read(path)?, &one)?;
            }
        }
        for path in given {
            let bytes = files.read(path)?;
            let manifest = Manifest::unverified(&bytes).map_err(|e| Error::refused(path, e))?;
            let trust = match SignedHead::open(&bytes, manifest.kind, &all) {
                Err(Refusal::FewSigners { valid, required }) => {
                    if !is_kept(store, name, &manifest, &bytes).await? {
                        return Err(too_few(path, name, valid, required));
                    }
                    &one
                }
                // Opening the file will report anything else that is wrong with it.
                _ => &all,
            };
            files.take(path, bytes, trust)?;
        }
        Ok(files.newest())
    }

    /// By id. A key in rotation has two.
    fn by_id(&self) -> BTreeMap<KeyId, Vec<KeySpec>> {
        let mut found: BTreeMap<KeyId, Vec<KeySpec>> = BTreeMap::new();
        for entry in self.set.iter().flat_map(KeySet::iter) {
            if let Some(spec) = entry.to_spec() {
                found.entry(spec.id).or_default().push(spec);
            }
        }
        found
    }

    /// Brings the database's keys up to what was published, if that is newer. Of older files only
    /// revocations count: the database has later changes, and a key that it made since is not one
    /// that was removed.
    ///
    /// # Errors
    ///
    /// A database that takes no changes; then nothing was changed.
    pub async fn recover(
        &self,
        store: &dyn Store,
        mut snapshot: KeySnapshot,
        terms: RecoveryTerms,
    ) -> Result<RecoveredCounts> {
        let mut published = self.by_id();
        let mut counts = RecoveredCounts::default();
        let mut entries = Vec::new();
        let is_older = self.serial < snapshot.serial;
        while let Some(batch) = snapshot.keys.recv().await {
            for key in batch.map_err(of_store)? {
                let ours = key.entry;
                let theirs = published.remove(&ours.id);
                if is_older {
                    let theirs = theirs.filter(|_| ours.status != KeyStatus::Revoked);
                    match theirs {
                        Some(theirs) if is_revoked(&theirs) => {
                            counts.revoked += 1;
                            entries.push(RegistryEntry { status: KeyStatus::Revoked, ..ours });
                        }
                        Some(theirs) if newer(&ours, &theirs).is_some() => {
                            counts.differing.push(ours.id);
                        }
                        _ => {}
                    }
                    continue;
                }
                match (theirs, self.set.is_some()) {
                    (Some(theirs), _) => {
                        if let Some(entry) = newer(&ours, &theirs) {
                            counts.changed += 1;
                            entries.push(entry);
                        }
                    }
                    (None, true) if ours.status != KeyStatus::Revoked => {
                        counts.revoked += 1;
                        entries.push(RegistryEntry { status: KeyStatus::Revoked, ..ours });
                    }
                    (None, _) => {}
                }
            }
        }
        for theirs in published.values().filter(|_| !is_older) {
            if let Some(entry) = of_specs(theirs, None) {
                counts.returned += 1;
                // A table does not say when they were made.
                let created = Some(terms.at_ms / 1000);
                entries.push(RegistryEntry { created, note: NOTE.into(), ..entry });
            }
        }
        let RecoveryTerms { audience, actor, at_ms, above } = terms;
        let batch = RecoveredKeys { audience, actor, at_ms, above, entries };
        counts.serial = store.recover(batch).await.map_err(of_store)?;
        Ok(counts)
    }
}

/// Whether all secrets of a key are revoked.
fn is_revoked(theirs: &[KeySpec]) -> bool {
    theirs.iter().all(|spec| spec.grant.status == KeyStatus::Revoked)
}

/// A key as it was published, if it differs in the database. A revoked key stays revoked.
fn newer(ours: &RegistryEntry, theirs: &[KeySpec]) -> Option<RegistryEntry> {
    let own: Vec<KeySpec> = ours.specs().collect();
    if own.len() == theirs.len() && own.iter().all(|spec| theirs.contains(spec)) {
        return None;
    }
    let entry = of_specs(theirs, Some(ours))?;
    let same_limits = own.first().map(|spec| &spec.grant.limits) == Some(&entry.limits);
    let entry = match same_limits {
        // A table does not contain plans.
        true => RegistryEntry { limits: ours.limits.clone(), plan: ours.plan.clone(), ..entry },
        false => entry,
    };
    let status = match ours.status {
        KeyStatus::Revoked => KeyStatus::Revoked,
        _ => entry.status,
    };
    let entry = RegistryEntry { status, ..entry };
    (entry != *ours).then_some(entry)
}

/// The files that `--file` names, by the audience that each is made for.
///
/// # Errors
///
/// A file that does not exist, is neither table nor patch, or is made for no audience of the
/// configuration.
pub fn by_audience(
    given: &[PathBuf],
    settings: &AdminToml,
) -> Result<BTreeMap<AudienceName, Vec<PathBuf>>> {
    let mut found: BTreeMap<AudienceName, Vec<PathBuf>> = BTreeMap::new();
    for path in given {
        let made_for = head(path)?.audience;
        let names = settings.audiences.iter().map(|audience| &audience.name);
        let Some(name) = names.clone().find(|name| name.as_str() == &*made_for) else {
            let known: Vec<_> = names.map(AudienceName::as_str).collect();
            let message = format!(
                "{}: made for the audience {}, which the configuration does not have: it has {}\n\
                 hint: leave this file out, or add the audience to the configuration",
                path.display(),
                one_line(&made_for),
                known.join(", ")
            );
            return Err(Error::Added { message, exit: Exit::Data });
        };
        found.entry(name.clone()).or_default().push(path.clone());
    }
    Ok(found)
}

/// Whether the database has this file as one that enough have signed.
async fn is_kept(
    store: &dyn Store,
    audience: &AudienceName,
    manifest: &Manifest,
    bytes: &[u8],
) -> Result<bool> {
    let kind = match manifest.kind {
        FileKind::Table => ArtefactKind::Table,
        FileKind::Patch => ArtefactKind::Patch,
    };
    let kept = store.artefact(audience, kind, manifest.serial).await.map_err(of_store)?;
    Ok(kept.is_some_and(|kept| kept.head.state == ArtefactState::Signed && kept.body == bytes))
}

fn too_few(path: &Path, audience: &AudienceName, valid: usize, required: usize) -> Error {
    let message = format!(
        "{}: {valid} of the signers of {audience} signed it, and {required} have to: it is a draft, or \
         is from before `required_signers` was raised\nhint: give table and patch that a sidecar has \
         in its cache_dir. Of what was published with fewer signatures, files at the targets and those \
         that the database has count as they are; for others give a configuration (`-c`) with the \
         `required_signers` of that time",
        path.display()
    );
    Error::Added { message, exit: Exit::Data }
}

fn nobody_signs(path: &Path, audience: &AudienceName) -> Error {
    let message = format!(
        "{}: made for the audience {audience}, for which nobody signs here\nhint: \
         `audiences.signer` says whose signature it needs; with a key that is elsewhere, \
         `signer_command` and `signer_public`",
        path.display()
    );
    Error::Added { message, exit: Exit::Config }
}

/// A command's message when the available files of one audience or several are older than what was
/// seen.
pub fn are_missing(missing: &[MissingFiles]) -> Error {
    let lost = "what was changed between the two would be lost";
    let lines: Vec<_> = missing.iter().map(|missing| format!("{missing}: {lost}")).collect();
    let message = format!(
        "{}\nhint: give table and patch of a sidecar of each, which keeps them in its cache_dir: \
         `--file table.kgt --file patch.kgp`. If there are none, --accept-loss goes on without: keys \
         that were revoked in between work again, so look through the list",
        lines.join("\n")
    );
    Error::Added { message, exit: Exit::NoInput }
}

// === impl MissingFiles ===

/// One line, without advice on what to do.
impl std::fmt::Display for MissingFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { audience, at_hand, seen } = self;
        write!(f, "{audience}: {} is at serial {}, and ", seen.source, seen.serial)?;
        match at_hand {
            0 => f.write_str("there is no table of this audience at hand"),
            serial => write!(f, "the newest at hand is of serial {serial}"),
        }
    }
}
