//! Patches: what has changed since a table, signed and stored.

use super::super::fault::PublishFault;
use super::super::make::{Changes, IssueTerms, parsed};
use super::Outbox;
use super::current::Current;
use super::waiting::{Waiting, WaitingFile};
use crate::core::Digest;
use crate::manage::registry::settings::RawSettings;
use crate::registrar::store::sql::crash::point;
use crate::registrar::store::{
    ArtefactHead, ArtefactKind, ArtefactState, StoreError, StoredArtefact,
};
use crate::table::Manifest;

/// A patch in the store.
pub(super) struct MadePatch {
    pub(super) made: WaitingFile,
    pub(super) keys: usize,
}

// === impl Outbox ===

impl Outbox {
    pub(super) async fn publish_patch(
        &mut self,
        terms: &IssueTerms,
        settings: &RawSettings,
        began: u64,
    ) -> Result<(), PublishFault> {
        let Some(current) = self.current.clone() else { return Ok(()) };
        let base = &current.table.manifest;
        let Some(patch) = self.make_patch(terms, base, settings).await? else {
            return Ok(());
        };
        if patch.made.is_draft() {
            return Err(self.await_signatures(Waiting::new(None, patch.made)));
        }
        self.current = Some(Current {
            patch_keys: patch.keys,
            patch: Some(patch.made.file),
            is_tried: false,
            is_placed: false,
            ..current
        });
        self.deliver(began).await?;
        self.tell(|state| state.patches += 1);
        Ok(())
    }

    /// Makes, signs and stores a patch with everything that differs from the table `base`. `None`:
    /// the newest patch has every change.
    pub(super) async fn make_patch(
        &mut self,
        terms: &IssueTerms,
        base: &Manifest,
        settings: &RawSettings,
    ) -> Result<Option<MadePatch>, PublishFault> {
        let changes = self.changes_since(base.includes_through, settings).await?;
        if changes.serial <= base.serial {
            self.changes = Some(changes);
            return Ok(None);
        }
        let now_ms = self.clock.now().unix_ms;
        let noted = self.note_signing(terms, changes.serial).await?;
        let made = changes.patch(base, &parsed(settings)?, terms, now_ms);
        let made = self.withdraw_refused(noted, made).await?;
        let (serial, keys) = (changes.serial, changes.len());
        self.changes = Some(changes);
        point("after sign");
        let kept = self.keep(ArtefactKind::Patch, serial, base.serial, made.bytes).await;
        let kept = kept.map_err(|e| match e {
            StoreError::Conflict { .. } => PublishFault::Overtaken,
            e => e.into(),
        })?;
        point("after store");
        let made = WaitingFile::of(kept)?;
        if made.file.manifest.base != Some(base.as_base()) {
            // A run that was further has stored it: its table is the base.
            self.current = None;
            return Err(PublishFault::Overtaken);
        }
        Ok(Some(MadePatch { made, keys }))
    }

    /// Everything that changed since a table that includes all up to `since`.
    async fn changes_since(
        &mut self,
        since: u64,
        settings: &RawSettings,
    ) -> Result<Changes, PublishFault> {
        let mark = self.mark(settings);
        let known = self.changes.take().filter(|known| known.are_of(since, &mark));
        if let Some(mut known) = known {
            let snapshot = self.store.snapshot(&self.name, known.serial).await?;
            point("after snapshot");
            // If the snapshot is behind what was read before, the database is another one.
            if snapshot.serial >= known.serial {
                known.read(snapshot).await?;
                return Ok(known);
            }
        }
        let snapshot = self.store.snapshot(&self.name, since).await?;
        point("after snapshot");
        let mut changes = Changes::since(since, mark);
        changes.read(snapshot).await?;
        Ok(changes)
    }

    /// Identifies everything except the keys that a table is made with.
    pub(super) fn mark(&self, settings: &RawSettings) -> String {
        self.terms.as_ref().map(|terms| terms.mark(settings)).unwrap_or_default()
    }

    async fn keep(
        &self,
        kind: ArtefactKind,
        serial: u64,
        base: u64,
        body: Vec<u8>,
    ) -> Result<StoredArtefact, StoreError> {
        let head = self.head(kind, serial, base, &body);
        self.store.put_artefact(StoredArtefact { head, body }).await
    }

    pub(super) fn head(
        &self,
        kind: ArtefactKind,
        serial: u64,
        base: u64,
        body: &[u8],
    ) -> ArtefactHead {
        ArtefactHead {
            audience: self.name.clone(),
            kind,
            serial,
            base,
            state: match self.terms.as_ref().is_some_and(|terms| terms.required > 1) {
                true => ArtefactState::Draft,
                false => ArtefactState::Signed,
            },
            sha256: Digest::of(body),
            bytes: body.len() as u64,
            made_ms: self.clock.now().unix_ms,
        }
    }
}
