//! The artefacts of each audience that are served now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::etag::ArtefactTag;
use crate::core::Digest;

/// Which file of an audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArtefactName {
    Patch,
    Table,
}

/// A file as it is sent.
#[derive(Clone, Debug)]
pub struct ServedArtefact {
    pub tag: ArtefactTag,
    pub bytes: Bytes,
}

/// What is known of an artefact.
#[derive(Clone, Debug, Default)]
pub enum ShelvedArtefact {
    /// Nothing was published yet.
    #[default]
    Missing,
    Served(ServedArtefact),
    /// It is not known yet whether anything was published. A sidecar that is told there is no patch
    /// would serve without the revocations in it.
    Unknown,
}

/// What an audience has.
#[derive(Clone, Debug, Default)]
pub struct ServedArtefacts {
    pub table: ShelvedArtefact,
    pub patch: ShelvedArtefact,
}

/// Artefacts by audience. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct ArtefactShelf(Arc<Mutex<ShelfBoards>>);

#[derive(Debug, Default)]
struct ShelfBoards {
    is_closed: bool,
    audiences: BTreeMap<Box<str>, watch::Sender<ServedArtefacts>>,
}

// === impl ArtefactName ===

impl ArtefactName {
    /// The last part of its path.
    pub const fn file(self) -> &'static str {
        match self {
            Self::Patch => "patch.kgp",
            Self::Table => "table.kgt",
        }
    }

    pub(super) fn of_file(file: &str) -> Option<Self> {
        [Self::Patch, Self::Table].into_iter().find(|name| name.file() == file)
    }
}

// === impl ServedArtefact ===

impl ServedArtefact {
    pub fn new(serial: u64, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { tag: ArtefactTag::of(serial, &Digest::of(&bytes)), bytes }
    }
}

// === impl ShelvedArtefact ===

impl ShelvedArtefact {
    /// The file, if there is one.
    pub fn served(&self) -> Option<&ServedArtefact> {
        match self {
            Self::Served(artefact) => Some(artefact),
            Self::Missing | Self::Unknown => None,
        }
    }
}

/// For the publisher, who knows.
impl From<Option<ServedArtefact>> for ShelvedArtefact {
    fn from(published: Option<ServedArtefact>) -> Self {
        published.map_or(Self::Missing, Self::Served)
    }
}

// === impl ServedArtefacts ===

impl ServedArtefacts {
    /// For a server that has not asked yet.
    pub const UNKNOWN: Self =
        Self { table: ShelvedArtefact::Unknown, patch: ShelvedArtefact::Unknown };

    pub fn get(&self, name: ArtefactName) -> &ShelvedArtefact {
        match name {
            ArtefactName::Patch => &self.patch,
            ArtefactName::Table => &self.table,
        }
    }
}

// === impl ArtefactShelf ===

impl ArtefactShelf {
    /// Serves these from now on, both in one step, and wakes everybody who waits for either.
    pub fn put(&self, audience: &str, artefacts: ServedArtefacts) {
        self.sender(audience).send_replace(artefacts);
    }

    /// Serves this one from now on, and the other as before.
    pub fn put_one(&self, audience: &str, name: ArtefactName, state: ShelvedArtefact) {
        self.sender(audience).send_modify(|artefacts| match name {
            ArtefactName::Patch => artefacts.patch = state,
            ArtefactName::Table => artefacts.table = state,
        });
    }

    /// What is served now.
    pub fn get(&self, audience: &str) -> ServedArtefacts {
        self.sender(audience).borrow().clone()
    }

    /// Lets all waiting callers go, now and from now on: the process is about to end.
    pub fn close(&self) {
        let mut boards = self.lock();
        boards.is_closed = true;
        // Holders of a receiver notice that nobody sends any more.
        boards.audiences.clear();
    }

    pub(super) fn watch(&self, audience: &str) -> watch::Receiver<ServedArtefacts> {
        self.sender(audience).subscribe()
    }

    fn sender(&self, audience: &str) -> watch::Sender<ServedArtefacts> {
        let mut boards = self.lock();
        match boards.is_closed {
            true => watch::Sender::default(),
            false => boards.audiences.entry(audience.into()).or_default().clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ShelfBoards> {
        // Wherever a thread could panic, the map is consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
