//! Makes tables and patches from the store's content.

use std::collections::HashMap;
use std::path::Path;

use super::super::store::{AudienceName, KeySnapshot, SnapshotKey, StoreError};
use crate::core::{Digest, KeyId, KeyStatus};
use crate::manage::publish::rows::{
    BuiltTable, ChangedRows, GoneSecret, RowsError, SealedFile, TableOfRows, signed_patch,
};
use crate::manage::registry::entry::RegistryEntry;
use crate::manage::registry::settings::{RawSettings, RegistrySettings};
use crate::manage::signing::source::SignerSource;
use crate::registrar::config::CoSigner;
use crate::table::{Acknowledge, Issue, Manifest, PublicKey, SignerId, TableFormat, Trust};

/// How much of a table is held in memory while it is built; the rest is in files without a name.
const MEMORY: usize = 32 << 20;

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    #[error("{0}")]
    Rows(#[from] RowsError),
    #[error("{0}")]
    Signer(String),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// What a manifest states that does not follow from the keys.
#[derive(Clone, Debug)]
pub(super) struct IssueTerms {
    pub(super) audience: AudienceName,
    pub(super) signer: SignerSource,
    pub(super) format: TableFormat,
    /// How long a file is valid, in seconds; `None`: without end.
    pub(super) life: Option<u64>,
    /// The other signers.
    pub(super) others: Vec<OtherSigner>,
    /// How many have to sign.
    pub(super) required: usize,
}

/// Somebody who signs in addition to this service.
#[derive(Clone, Debug)]
pub(super) struct OtherSigner {
    pub(super) id: SignerId,
    pub(super) public: PublicKey,
    pub(super) name: Box<str>,
}

/// What changed since a table. Kept from patch to patch, so that each patch reads only what is new.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) serial: u64,
    /// Every change up to this serial is in the table.
    since: u64,
    /// [`IssueTerms::mark`] of the settings that plans were resolved with.
    settings: String,
    entries: Vec<RegistryEntry>,
    places: HashMap<KeyId, usize>,
    /// Secrets that keys used to have, by key.
    gone: HashMap<KeyId, Vec<GoneSecret>>,
}

/// A table of one snapshot that has no serial yet.
#[derive(Debug)]
pub(super) struct FoldedTable {
    /// Every change up to this serial is in it.
    pub(super) includes: u64,
    /// Serial of the table that was in force when the keys were read.
    pub(super) after: u64,
    pub(super) built: BuiltTable,
    /// [`IssueTerms::mark`] of the settings that it was made with.
    pub(super) settings: String,
}

// === impl Changes ===

impl Changes {
    /// No changes yet since a table that includes all up to `since`.
    pub(super) fn since(since: u64, settings: String) -> Self {
        Self {
            serial: since,
            since,
            settings,
            entries: Vec::new(),
            places: HashMap::new(),
            gone: HashMap::new(),
        }
    }

    /// Whether these are changes since that table, read with those settings.
    pub(super) fn are_of(&self, since: u64, settings: &str) -> bool {
        self.since == since && self.settings == settings
    }

    /// Takes in what changed after [`Changes::serial`], up to the snapshot's end.
    pub(super) async fn read(&mut self, mut snapshot: KeySnapshot) -> Result<(), StoreError> {
        while let Some(batch) = snapshot.keys.recv().await {
            for key in batch? {
                self.take(key);
            }
        }
        self.serial = snapshot.serial;
        Ok(())
    }

    fn take(&mut self, key: SnapshotKey) {
        let id = key.entry.id;
        let gone = key.removed.iter().map(|digest| GoneSecret::of_key(*digest, id)).collect();
        self.gone.insert(id, gone);
        match self.places.get(&id).and_then(|at| self.entries.get_mut(*at)) {
            Some(known) => *known = key.entry,
            None => {
                self.places.insert(id, self.entries.len());
                self.entries.push(key.entry);
            }
        }
    }

    /// Keys in it.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The patch over the table with this manifest.
    pub(super) fn patch(
        &self,
        base: &Manifest,
        settings: &RegistrySettings,
        terms: &IssueTerms,
        now_ms: u64,
    ) -> Result<SealedFile, MakeError> {
        let gone: Vec<_> = self.gone.values().flatten().cloned().collect();
        let rows = ChangedRows { entries: &self.entries, gone: &gone, orgs: None };
        // It names every key that is gone, because somebody has made that change. Sidecars need not
        // take it for an accident, however many keys it is.
        let takes =
            !gone.is_empty() || self.entries.iter().any(|entry| entry.status != KeyStatus::Active);
        let acknowledge = match takes {
            true => vec![Acknowledge::Empty, Acknowledge::Shrink],
            // The table says so itself; the patch adds nothing to that.
            false if base.active == 0 => vec![Acknowledge::Empty],
            false => Vec::new(),
        };
        let issue = terms.issue(self.serial, self.serial, acknowledge, now_ms)?;
        let formats = settings.prefixes.values().cloned();
        Ok(signed_patch(base, formats, rows, issue, &terms.signer)?)
    }
}

// === impl OtherSigner ===

impl From<&CoSigner> for OtherSigner {
    fn from(signer: &CoSigner) -> Self {
        Self { id: signer.public.id(), public: signer.public, name: signer.name.clone() }
    }
}

// === impl IssueTerms ===

impl IssueTerms {
    fn issue(
        &self,
        serial: u64,
        includes_through: u64,
        acknowledge: Vec<Acknowledge>,
        now_ms: u64,
    ) -> Result<Issue, MakeError> {
        let signer = self.signer.public().map_err(MakeError::Signer)?;
        Ok(Issue {
            serial,
            includes_through,
            issued_at_ms: now_ms,
            expires_at: self.life.map(|life| (now_ms / 1000).saturating_add(life)),
            audience: self.audience.as_str().into(),
            signers: self.named(signer.id()),
            acknowledge,
        })
    }

    /// The signers that a manifest names, the service first.
    pub(super) fn named(&self, own: SignerId) -> Vec<SignerId> {
        [own].into_iter().chain(self.others.iter().map(|other| other.id)).collect()
    }

    /// Which files count as published: those that enough signers have signed. `None`: our own key
    /// is unknown.
    pub(super) fn trust(&self) -> Option<Trust> {
        let own = self.signer.public().ok()?;
        let all = [own].into_iter().chain(self.others.iter().map(|other| other.public));
        Trust::new(all, self.required, self.audience.as_str()).ok()
    }

    /// Identifies everything that a table states except its keys. When it changes, patches over the
    /// table no longer say everything, and a new table is needed. So is one for sidecars that
    /// require other signers than the table has.
    pub(super) fn mark(&self, settings: &RawSettings) -> String {
        let settings = RawSettings { serial: 0, published: Vec::new(), ..settings.clone() };
        let text = serde_json::to_string(&settings).unwrap_or_default();
        let others: Vec<_> = self.others.iter().map(|other| other.id.to_string()).collect();
        let signers = match self.required {
            1 => String::new(),
            required => format!("{required} {} ", others.join(" ")),
        };
        let digest = Digest::of(format!("{signers}{} {text}", self.format.number()).as_bytes());
        digest.0.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Puts a table of all keys together. Its content does not change afterwards.
    pub(super) fn fold(
        &self,
        mut snapshot: KeySnapshot,
        settings: &RawSettings,
        state: &Path,
    ) -> Result<FoldedTable, MakeError> {
        let registry = parsed(settings)?;
        // Only the directory matters.
        let mut table = TableOfRows::beside(&state.join("table"), MEMORY, self.format);
        table.formats(registry.prefixes.values().cloned());
        for (org, limits) in registry.org_limits() {
            table.org_limits(&org, &limits).map_err(RowsError::from)?;
        }
        while let Some(batch) = snapshot.keys.blocking_recv() {
            for key in batch? {
                table.push(&key.entry).map_err(RowsError::from)?;
            }
        }
        let built = table.built().map_err(RowsError::Make)?;
        let settings = self.mark(settings);
        Ok(FoldedTable { includes: snapshot.serial, after: snapshot.base, built, settings })
    }

    /// Gives a folded table its serial and signature. `before`: the table that it replaces.
    pub(super) fn seal(
        &self,
        folded: FoldedTable,
        serial: u64,
        before: Option<&Manifest>,
        now_ms: u64,
    ) -> Result<SealedFile, MakeError> {
        let active = folded.built.active();
        let mut acknowledge = Vec::new();
        if active == 0 {
            acknowledge.push(Acknowledge::Empty);
        }
        // Patches have named each key that is gone since the last table. A sidecar that has not had
        // them sees all of that at the same time.
        if before.is_some_and(|before| active < before.active) {
            acknowledge.push(Acknowledge::Shrink);
        }
        let issue = self.issue(serial, folded.includes, acknowledge, now_ms)?;
        Ok(folded.built.signed(issue, &self.signer)?)
    }
}

/// Plans, limits of orgs and prefixes of an audience.
pub(super) fn parsed(settings: &RawSettings) -> Result<RegistrySettings, StoreError> {
    RegistrySettings::from_raw(settings.clone(), Path::new("settings"), &|_| 0).map_err(|faults| {
        let what = faults.first().map(|fault| fault.why.clone()).unwrap_or_default();
        StoreError::Broken { what: format!("settings of an audience: {what}") }
    })
}
