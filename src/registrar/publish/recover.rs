//! Takes what was published into a database that is older: after a restored backup nothing comes back
//! that was revoked since, and what was made since works again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::behind::Evidence;
use super::target::there;
use crate::core::{KeyId, KeySpec, KeyStatus};
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::files;
use crate::manage::publish::fold::of_specs;
use crate::manage::registry::entry::RegistryEntry;
use crate::registrar::store::{AudienceName, KeySnapshot, RecoveredKeys, Store, StoreActor};
use crate::table::{Bounds, FileKind, KeySet, Patch, PublicKey, Table, Trust};

/// What the note of a key says that only the published table knew.
const NOTE: &str = "recovered from the published table";

/// What an audience's database is compared with.
#[derive(Debug, Default)]
pub struct PublishedKeys {
    /// `None`: nothing of it is at hand.
    set: Option<KeySet>,
    /// Up to which serial it says all.
    pub serial: u64,
}

/// What a recovery has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveredCounts {
    pub serial: u64,
    /// They were there, and are as the published table has them now.
    pub changed: u64,
    /// The published table has them no more.
    pub revoked: u64,
    /// Only the published table had them.
    pub returned: u64,
}

/// Who recovers what, and when.
#[derive(Clone, Debug)]
pub struct RecoveryTerms {
    pub audience: AudienceName,
    pub actor: StoreActor,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// The highest serial that was seen anywhere.
    pub above: u64,
}

// === impl PublishedKeys ===

impl PublishedKeys {
    /// The newest table among files that `signer` has signed, with the patches that it does not
    /// include: what a sidecar would have in force that has all of them. Files that are not there are
    /// passed over.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or that another signer has signed.
    pub fn of_files(paths: &[PathBuf], audience: &AudienceName, signer: PublicKey) -> Result<Self> {
        let trust = Trust::new([signer], 1, audience.as_str())
            .map_err(|e| Error::Added { message: e.to_string(), exit: Exit::Config })?;
        let bounds = Bounds::default();
        let mut tables: Vec<Arc<Table>> = Vec::new();
        let mut patches: Vec<Arc<Patch>> = Vec::new();
        for path in paths {
            let Some(manifest) = there(path)? else { continue };
            let bytes = files::read(path, bounds.max_bytes)?;
            let refused = |e| Error::refused(path, e);
            match manifest.kind {
                FileKind::Table => {
                    tables.push(Arc::new(Table::open(bytes, &trust, &bounds).map_err(refused)?))
                }
                FileKind::Patch => {
                    patches.push(Arc::new(Patch::open(bytes, &trust, &bounds).map_err(refused)?))
                }
            }
        }
        let newest = tables.into_iter().max_by_key(|table| table.serial());
        let Some(table) = newest else { return Ok(Self { set: None, serial: 0 }) };
        let includes = table.manifest().includes_through;
        patches.retain(|patch| patch.serial() > includes);
        let over = patches.iter().filter(|patch| patch.is_over(&table));
        let patch = over.max_by_key(|patch| patch.serial()).cloned();
        let serial = patch.as_ref().map_or(table.serial(), |patch| patch.serial());
        patches.retain(|held| patch.as_ref().is_none_or(|p| held.serial() > p.serial()));
        let set = KeySet::new(table, patch, &patches, None);
        Ok(Self { set: Some(set), serial })
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

    /// Brings the database's keys to what was published, which is newer.
    ///
    /// # Errors
    ///
    /// A database that takes nothing; then nothing was changed.
    pub async fn recover(
        &self,
        store: &dyn Store,
        mut snapshot: KeySnapshot,
        terms: RecoveryTerms,
    ) -> Result<RecoveredCounts> {
        let mut published = self.by_id();
        let mut counts = RecoveredCounts::default();
        let mut entries = Vec::new();
        while let Some(batch) = snapshot.keys.recv().await {
            for key in batch.map_err(super::of_store)? {
                let ours = key.entry;
                let theirs = published.remove(&ours.id);
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
        for theirs in published.values() {
            if let Some(entry) = of_specs(theirs, None) {
                counts.returned += 1;
                entries.push(RegistryEntry { note: NOTE.into(), ..entry });
            }
        }
        let RecoveryTerms { audience, actor, at_ms, above } = terms;
        let batch = RecoveredKeys { audience, actor, at_ms, above, entries };
        counts.serial = store.recover(batch).await.map_err(super::of_store)?;
        Ok(counts)
    }
}

/// A key as it was published, if the database has it otherwise. Revoked stays revoked.
fn newer(ours: &RegistryEntry, theirs: &[KeySpec]) -> Option<RegistryEntry> {
    let own: Vec<KeySpec> = ours.specs().collect();
    if own.len() == theirs.len() && own.iter().all(|spec| theirs.contains(spec)) {
        return None;
    }
    let entry = of_specs(theirs, Some(ours))?;
    let same_limits = own.first().map(|spec| &spec.grant.limits) == Some(&entry.limits);
    let entry = match same_limits {
        // A table knows no plans.
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

/// What a command says where what is at hand is older than what was seen.
pub fn is_missing(audience: &AudienceName, at_hand: u64, seen: &Evidence) -> Error {
    let has = match at_hand {
        0 => "there is no table at hand".to_owned(),
        serial => format!("the newest at hand is of serial {serial}"),
    };
    let message = format!(
        "{audience}: {} is at serial {}, and {has}: what was changed between the two would be \
         lost\nhint: give table and patch of a sidecar, which keeps them in its cache_dir: `--file \
         table.kgt --file patch.kgp`. If there are none, --accept-loss goes on without: keys that \
         were revoked in between work again, so look through the list",
        seen.source, seen.serial
    );
    Error::Added { message, exit: Exit::NoInput }
}

/// Files of an audience's targets.
pub fn target_files<'a>(
    targets: impl IntoIterator<Item = &'a crate::registrar::config::PublishTarget>,
    given: &[PathBuf],
) -> Vec<PathBuf> {
    let own = targets.into_iter().flat_map(|target| [target.table.clone(), target.patch.clone()]);
    own.chain(given.iter().map(|path| Path::new(path).to_owned())).collect()
}
