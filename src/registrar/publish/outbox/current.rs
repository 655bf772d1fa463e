//! What an audience published last, and whether a new table is due.

use bytes::Bytes;

use super::super::high_water::HighMark;
use super::super::make::IssueTerms;
use crate::artefacts::{ServedArtefact, ServedArtefacts};
use crate::table::Manifest;

/// A patch with more keys than this becomes a table.
const MOST_KEYS: usize = 4096;

/// A patch of more bytes than this becomes a table.
const MOST_BYTES: u64 = 512 * 1024;

/// A patch over a table that is older than this becomes a table.
const OLDEST_MS: u64 = 3_600_000;

/// What is published now.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub(super) table: PublishedFile,
    /// `None`: no patch has been made yet.
    pub(super) patch: Option<PublishedFile>,
    /// Keys in the patch.
    pub(super) patch_keys: usize,
    /// [`IssueTerms::mark`] of the table.
    pub(super) settings: String,
    /// Somebody has begun to put it at the targets.
    pub(super) is_tried: bool,
    /// It has reached every target.
    pub(super) is_placed: bool,
}

#[derive(Clone, Debug)]
pub(super) struct PublishedFile {
    pub(super) manifest: Manifest,
    /// The bytes, and the tags that identify them.
    pub(super) served: ServedArtefact,
}

// === impl PublishedFile ===

impl PublishedFile {
    pub(super) fn of(body: Vec<u8>) -> Result<Self, crate::table::Refusal> {
        let manifest = Manifest::unverified(&body)?;
        let served = ServedArtefact::new(manifest.serial, body);
        Ok(Self { manifest, served })
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.served.bytes
    }
}

// === impl Current ===

impl Current {
    /// Everything is published up to this serial.
    pub(super) fn serial(&self) -> u64 {
        self.newest().manifest.serial
    }

    pub(super) fn newest(&self) -> &PublishedFile {
        self.patch.as_ref().unwrap_or(&self.table)
    }

    pub(super) fn served(&self) -> ServedArtefacts {
        ServedArtefacts {
            table: Some(self.table.served.clone()).into(),
            patch: self.patch.as_ref().map(|patch| patch.served.clone()).into(),
        }
    }

    pub(super) fn mark(&self) -> HighMark {
        let newest = self.newest();
        HighMark {
            serial: newest.manifest.serial,
            base: self.table.manifest.serial,
            hash: newest.served.tag.hash.to_string(),
            settings: self.settings.clone(),
        }
    }

    pub(super) fn is_due(&self, terms: &IssueTerms, settings: &str, now_ms: u64) -> bool {
        let age = now_ms.saturating_sub(self.table.manifest.issued_at_ms);
        let bytes = self.patch.as_ref().map_or(0, |patch| patch.bytes().len() as u64);
        let half_over = terms.life.is_some_and(|life| age >= life.saturating_mul(500));
        self.patch_keys > MOST_KEYS
            || bytes > MOST_BYTES
            || (self.patch_keys > 0 && age > OLDEST_MS)
            || half_over
            || self.settings != settings
    }
}
