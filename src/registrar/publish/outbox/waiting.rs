//! Drafts: signed here, and kept until others have signed as well. One patch waits at a time, or a table
//! with the patch over it; changes that come meanwhile are behind it.

use super::super::fault::PublishFault;
use super::super::make::IssueTerms;
use super::Outbox;
use super::current::PublishedFile;
use crate::manage::publish::cosigned::signers_of;
use crate::registrar::store::{
    ArtefactHead, ArtefactKind, ArtefactState, Publication, StoredArtefact,
};
use crate::table::{Refusal, SignerId};

/// A draft that nobody else has signed stands so long; then newer changes take its place.
const STANDS_MS: u64 = 60_000;

/// One that others have signed, and not enough of them.
const STANDS_SIGNED_MS: u64 = 3_600_000;

/// What waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// Where a new table waits, with the patch over it.
    pub(super) table: Option<WaitingFile>,
    pub(super) patch: WaitingFile,
}

#[derive(Clone, Debug)]
pub(super) struct WaitingFile {
    pub(super) file: PublishedFile,
    pub(super) head: ArtefactHead,
}

/// A draft, for those who are to sign it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingDraft {
    pub kind: ArtefactKind,
    pub serial: u64,
    pub bytes: u64,
    /// When it was made, in milliseconds since 1970-01-01T00:00:00Z.
    pub made_ms: u64,
    /// Ids of those who have signed it.
    pub signed_by: Vec<Box<str>>,
    /// Names of those who have not.
    pub missing: Vec<Box<str>>,
}

// === impl Waiting ===

impl Waiting {
    fn files(&self) -> impl Iterator<Item = &WaitingFile> {
        self.table.iter().chain([&self.patch])
    }

    fn is_signed(&self) -> bool {
        self.files().all(|waiting| !waiting.is_draft())
    }

    /// Whether somebody beside this service has signed any of it.
    fn others_signed(&self) -> bool {
        self.files().any(|waiting| !waiting.is_draft() || waiting.signed_by().len() > 1)
    }

    /// Whether newer changes may take its place.
    fn is_over(&self, now_ms: u64) -> bool {
        let stands = if self.others_signed() { STANDS_SIGNED_MS } else { STANDS_MS };
        now_ms.saturating_sub(self.patch.head.made_ms) >= stands
    }

    /// Whether it has to be made anew, with changes or without: it is for other signers than those of
    /// the configuration, or half of its life is over.
    fn is_stale(&self, terms: &IssueTerms, now_ms: u64) -> bool {
        let age_ms = now_ms.saturating_sub(self.patch.head.made_ms);
        let half_over = terms.life.is_some_and(|life| age_ms >= life.saturating_mul(500));
        let named = terms.signer.public().ok().map(|own| terms.named(own.id()));
        let is_for_others = |waiting: &WaitingFile| {
            let mut of_file = waiting.file.manifest.signers.clone();
            let mut named = named.clone().unwrap_or_else(|| of_file.clone());
            of_file.sort();
            named.sort();
            of_file != named
        };
        half_over || self.files().any(is_for_others)
    }
}

// === impl WaitingFile ===

impl WaitingFile {
    pub(super) fn of(kept: StoredArtefact) -> Result<Self, Refusal> {
        Ok(Self { file: PublishedFile::of(kept.body)?, head: kept.head })
    }

    /// Whether others have to sign it.
    pub(super) fn is_draft(&self) -> bool {
        self.head.state == ArtefactState::Draft
    }

    fn signed_by(&self) -> Vec<SignerId> {
        let signed = signers_of(self.file.bytes()).unwrap_or_default();
        signed.iter().map(|key| key.id()).collect()
    }

    fn draft(&self, terms: &IssueTerms) -> WaitingDraft {
        let signed = self.signed_by();
        let missing = terms.others.iter().filter(|other| !signed.contains(&other.id));
        WaitingDraft {
            kind: self.head.kind,
            serial: self.head.serial,
            bytes: self.head.bytes,
            made_ms: self.head.made_ms,
            missing: missing.map(|other| other.name.clone()).collect(),
            signed_by: signed.iter().map(|id| id.to_string().into()).collect(),
        }
    }
}

// === impl Outbox ===

impl Outbox {
    /// What waits in the database, whoever has put it there: the newest patch, if it is a draft or over
    /// a table that is not in force yet.
    pub(super) async fn adopt_waiting(
        &mut self,
        publication: &Publication,
    ) -> Result<(), PublishFault> {
        let waits = |head: &&ArtefactHead| {
            head.state == ArtefactState::Draft || head.base > publication.base
        };
        let Some(head) = publication.patch.as_ref().filter(waits) else {
            if self.waiting.take().is_some() {
                self.tell(|state| state.drafts.clear());
            }
            return Ok(());
        };
        if self.waiting.as_ref().is_some_and(|known| known.patch.head.serial == head.serial) {
            return Ok(());
        }
        let patch = self.kept(ArtefactKind::Patch, head.serial).await?;
        let table = match head.base > publication.base {
            true => Some(self.kept(ArtefactKind::Table, head.base).await?),
            false => None,
        };
        self.waiting = Some(Waiting { table, patch });
        Ok(())
    }

    /// Looks at what waits. Afterwards nothing does any more: it was published, or something newer takes
    /// its place.
    ///
    /// # Errors
    ///
    /// [`PublishFault::Awaiting`]: it waits on.
    pub(super) async fn settle_waiting(
        &mut self,
        terms: &IssueTerms,
        publication: &Publication,
        began: u64,
    ) -> Result<(), PublishFault> {
        let Some(mut waiting) = self.waiting.take() else { return Ok(()) };
        for waits in waiting.table.iter_mut().chain([&mut waiting.patch]) {
            let kept = match waits.head.kind {
                ArtefactKind::Table => &publication.table,
                ArtefactKind::Patch => &publication.patch,
            };
            if kept.as_ref() != Some(&waits.head) {
                *waits = self.kept(waits.head.kind, waits.head.serial).await?;
            }
            if waits.is_draft() && is_enough(terms, waits) {
                let head = ArtefactHead { state: ArtefactState::Signed, ..waits.head.clone() };
                let signed = StoredArtefact { head, body: waits.file.bytes().to_vec() };
                let kept = self.store.sign_draft(signed).await?;
                *waits = WaitingFile::of(kept.ok_or(PublishFault::Overtaken)?)?;
            }
        }
        if waiting.is_signed() {
            return self.publish_waiting(&waiting, began).await;
        }
        let (serial, now_ms) = (waiting.patch.head.serial, self.clock.now().unix_ms);
        let is_stale = waiting.is_stale(terms, now_ms);
        if is_stale {
            // The next one needs a serial that no other content has.
            self.store.claim_serials(&self.name, 1).await?;
        }
        if is_stale || (publication.serial > serial && waiting.is_over(now_ms)) {
            tracing::warn!(audience = %self.name, serial, "a draft was not signed in time; another takes its place");
            self.wants_table = waiting.table.is_none() && !waiting.others_signed();
            self.tell(|state| state.drafts.clear());
            return Ok(());
        }
        Err(self.await_signatures(waiting))
    }

    /// Keeps it in mind, and says so.
    pub(super) fn await_signatures(&mut self, waiting: Waiting) -> PublishFault {
        let Some(terms) = &self.terms else { return PublishFault::NoSigner };
        let drafts = waiting.files().filter(|waiting| waiting.is_draft());
        let drafts: Vec<_> = drafts.map(|waiting| waiting.draft(terms)).collect();
        let signed = drafts.iter().map(|draft| draft.signed_by.len()).min().unwrap_or_default();
        let mut missing: Vec<_> = drafts.iter().flat_map(|draft| draft.missing.clone()).collect();
        missing.sort();
        missing.dedup();
        let (serial, required) = (waiting.patch.head.serial, terms.required);
        self.waiting = Some(waiting);
        self.tell(|state| state.drafts.clone_from(&drafts));
        PublishFault::Awaiting { serial, signed, required, missing: missing.join(", ") }
    }

    async fn publish_waiting(&mut self, waiting: &Waiting, began: u64) -> Result<(), PublishFault> {
        if let Some(table) = &waiting.table {
            self.store.release_table(&self.name, table.head.serial).await?;
            self.current = None;
        }
        let publication = self.store.publication(&self.name).await?;
        if let Some(table) = &waiting.table
            && publication.base < table.head.serial
        {
            // Another table has come in between: this one is made anew.
            self.store.claim_serials(&self.name, 1).await?;
            self.wants_table = true;
            self.tell(|state| state.drafts.clear());
            return self.load(&publication).await;
        }
        if self.current.is_none() {
            self.load(&publication).await?;
        }
        self.adopt(&publication).await?;
        self.tell(|state| state.drafts.clear());
        self.deliver(began).await?;
        self.tell(|state| match waiting.table {
            Some(_) => state.tables += 1,
            None => state.patches += 1,
        });
        Ok(())
    }

    async fn kept(&self, kind: ArtefactKind, serial: u64) -> Result<WaitingFile, PublishFault> {
        let kept = self.store.artefact(&self.name, kind, serial).await?;
        // Gone: another instance has put something newer in its place.
        Ok(WaitingFile::of(kept.ok_or(PublishFault::Overtaken)?)?)
    }
}

/// Whether as many have signed as have to. Only those count that the configuration names.
fn is_enough(terms: &IssueTerms, waiting: &WaitingFile) -> bool {
    let Ok(own) = terms.signer.public() else { return false };
    let named = terms.named(own.id());
    waiting.signed_by().iter().filter(|id| named.contains(id)).count() >= terms.required
}
