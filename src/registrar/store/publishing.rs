//! Rows of publications, artefacts, sidecars, signers and leases.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::audit::AuditHead;
use super::error::StoreError;
use super::names::AudienceName;
use crate::core::Digest;
use crate::manage::registry::entry::RegistryEntry;

/// Serials by audience.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serials(pub BTreeMap<AudienceName, u64>);

/// How far an audience is published. `published < serial`: there is something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    pub audience: AudienceName,
    /// Of the last change.
    pub serial: u64,
    /// Changes up to this serial are published.
    pub published: u64,
    /// Of the table in force, which patches are for; 0: there is none yet.
    pub base: u64,
    /// Of the audience; a recovery raises it.
    pub epoch: u64,
    /// What the table `base` was made with, as [`TableToPublish::settings`]; `None`: unknown.
    pub settings: Option<Box<str>>,
    /// The newest stored ones.
    pub table: Option<ArtefactHead>,
    pub patch: Option<ArtefactHead>,
    /// The newest patch over the table in force that enough have signed.
    pub signed_patch: Option<ArtefactHead>,
    /// Serial of a registry that was not imported to its end: some of its keys are missing.
    pub importing: Option<u64>,
}

/// A table that is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedBase {
    pub audience: AudienceName,
    pub serial: u64,
    /// Every change up to this serial is in it. Below `serial` if changes were made while the table
    /// was built.
    pub includes: u64,
}

/// A table that patches are about to be for. A draft becomes that once others have signed it.
#[derive(Clone, Debug)]
pub struct TableToPublish {
    pub artefact: StoredArtefact,
    /// Every change up to this serial is in it.
    pub includes: u64,
    /// Serial of the table that was in force when its keys were read; 0: none. If another table is
    /// in force now, that one may have changes that this table lacks.
    pub after: u64,
    /// Identifies everything except the keys that the table was made with.
    pub settings: Box<str>,
    /// The lease that allows publishing it; `None`: nobody else publishes from this database.
    pub lease: Option<UsedLease>,
}

/// A lease that is checked in the transaction that uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedLease {
    pub name: Box<str>,
    pub holder: Box<str>,
    pub epoch: u64,
}

/// Keys as they are at one serial.
#[derive(Debug)]
pub struct KeySnapshot {
    /// The serial of the audience in this snapshot: that of an artefact made from it.
    pub serial: u64,
    pub base: u64,
    /// The keys in batches, in the order in which they were added. Ends after the last; an error is
    /// the last item.
    pub keys: mpsc::Receiver<Result<Vec<SnapshotKey>, StoreError>>,
}

/// One key for a table or patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotKey {
    /// With its plan resolved.
    pub entry: RegistryEntry,
    /// Serial of its last change.
    pub changed: u64,
    /// Secrets that the key has lost but the table in force may still know: a patch has to refuse
    /// them.
    pub removed: Vec<Digest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtefactKind {
    Patch,
    Table,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtefactState {
    /// Waits for others' signatures.
    Draft,
    Signed,
}

/// An artefact without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtefactHead {
    pub audience: AudienceName,
    pub kind: ArtefactKind,
    pub serial: u64,
    /// Serial of the table that a patch is for; for a table, its own serial.
    pub base: u64,
    pub state: ArtefactState,
    /// Of the whole file.
    pub sha256: Digest,
    pub bytes: u64,
    /// When it was made, in milliseconds since 1970-01-01T00:00:00Z.
    pub made_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredArtefact {
    pub head: ArtefactHead,
    pub body: Vec<u8>,
}

/// What a sidecar has reported about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidecarReport {
    pub audience: AudienceName,
    /// The fleet whose bearer token it used, or the name under which the service asked it.
    pub fleet: Box<str>,
    /// `Keygate-Instance`.
    pub instance: Box<str>,
    /// Serials that it has in force: of the patch (else the table), and of the table.
    pub serial: u64,
    pub base: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z; 0: it was asked and has never answered.
    pub seen_ms: u64,
    /// Why the service could not ask it.
    pub error: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerRow {
    /// As manifests name it.
    pub id: Box<str>,
    /// Raw Ed25519 key.
    pub public_key: [u8; 32],
    pub note: Box<str>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub added_ms: u64,
    pub retired_ms: Option<u64>,
}

/// A signed end of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub head: AuditHead,
    /// Id of the signer.
    pub signer: Box<str>,
    pub signature: Vec<u8>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
}

/// The right to do work that only one instance may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLease {
    /// Rises with each new holder. A transaction that uses the lease checks it.
    pub epoch: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub until_ms: u64,
}

// === impl ArtefactKind ===

impl ArtefactKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Patch => "patch",
            Self::Table => "table",
        }
    }
}

// === impl SidecarReport ===

impl SidecarReport {
    /// When it last reported; `None`: never.
    pub fn heard_ms(&self) -> Option<u64> {
        Some(self.seen_ms).filter(|at| *at > 0)
    }
}

// === impl ArtefactState ===

impl ArtefactState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Signed => "signed",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Draft, Self::Signed].into_iter().find(|state| state.as_str() == text)
    }
}

// === impl Serials ===

impl Serials {
    /// 0 for an audience without a change.
    pub fn of(&self, audience: &AudienceName) -> u64 {
        self.0.get(audience).copied().unwrap_or_default()
    }
}
