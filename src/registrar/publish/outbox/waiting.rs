//! Drafts: signed here, and stored until others have signed as well. Only one patch waits at a
//! time, or a table with the patch over it; changes made in the meantime queue behind it. A draft
//! that is not signed in time gives way to a table, and keeps waiting until that table is stored.

use super::super::fault::PublishFault;
use super::super::make::IssueTerms;
use super::Outbox;
use super::current::PublishedFile;
use crate::manage::publish::cosigned::signers_of;
use crate::registrar::store::{
    ArtefactHead, ArtefactKind, ArtefactState, Publication, StoredArtefact,
};
use crate::table::{Refusal, SignerId};

/// How long a draft that nobody else has signed waits before a table replaces it.
const STANDS_MS: u64 = 60_000;

/// How long a draft waits that others have signed, but not enough of them.
const STANDS_SIGNED_MS: u64 = 3_600_000;

/// If a draft was made later than this from now, the clock was ahead.
const AHEAD_MS: u64 = 60_000;

/// What waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// Set when a new table waits, with the patch over it.
    pub(super) table: Option<WaitingFile>,
    pub(super) patch: WaitingFile,
    /// It was not signed in time, and a table has to replace it.
    gives_way: bool,
}

#[derive(Clone, Debug)]
pub(super) struct WaitingFile {
    pub(super) file: PublishedFile,
    pub(super) head: ArtefactHead,
}

/// A draft, as shown to those who have to sign it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingDraft {
    pub kind: ArtefactKind,
    pub serial: u64,
    pub bytes: u64,
    /// When it was made, in milliseconds since 1970-01-01T00:00:00Z.
    pub made_ms: u64,
    /// Ids of those who have signed it.
    pub signed_by: Vec<Box<str>>,
    /// Names of those who have not signed it.
    pub missing: Vec<Box<str>>,
}

// === impl Waiting ===

impl Waiting {
    pub(super) fn new(table: Option<WaitingFile>, patch: WaitingFile) -> Self {
        Self { table, patch, gives_way: false }
    }

    fn files(&self) -> impl Iterator<Item = &WaitingFile> {
        self.table.iter().chain([&self.patch])
    }

    /// Whether as many have signed all of it as the configuration requires now, whatever was
    /// required when they signed.
    fn is_signed(&self, terms: &IssueTerms) -> bool {
        self.files().all(|waiting| waiting.is_enough(terms))
    }

    /// Whether anybody except this service has signed any of it.
    fn others_signed(&self) -> bool {
        self.files().any(|waiting| waiting.signed_by().len() > 1)
    }

    /// Whether a table has to replace it.
    ///
    /// A patch: once its time is over, with newer changes or without. A signer that does not know
    /// the table under it never signs it, however long it waits. A table with its patch: only once
    /// there are newer changes as well, because the same table again would help nobody.
    /// well; another one of the same would help nobody.
    fn is_over(&self, newest: u64, now_ms: u64) -> bool {
        let stands = if self.others_signed() { STANDS_SIGNED_MS } else { STANDS_MS };
        let has_news = self.table.is_none() || newest > self.patch.head.serial;
        has_news && now_ms.saturating_sub(self.patch.head.made_ms) >= stands
    }

    /// Whether it has to be made again, with newer changes or without. Reasons: it is for other
    /// signers than the configuration's, half of its life is over, or the clock was ahead when it
    /// was made.
    fn is_stale(&self, terms: &IssueTerms, now_ms: u64) -> bool {
        let age_ms = now_ms.saturating_sub(self.patch.head.made_ms);
        let half_over = terms.life.is_some_and(|life| age_ms >= life.saturating_mul(500));
        let is_ahead = self.patch.head.made_ms > now_ms.saturating_add(AHEAD_MS);
        let named = terms.signer.public().ok().map(|own| terms.named(own.id()));
        let is_for_others = |waiting: &WaitingFile| {
            let mut of_file = waiting.file.manifest.signers.clone();
            let mut named = named.clone().unwrap_or_else(|| of_file.clone());
            of_file.sort();
            named.sort();
            of_file != named
        };
        half_over || is_ahead || self.files().any(is_for_others)
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

    /// How many of the signers that the configuration names have signed it.
    fn signatures(&self, terms: &IssueTerms) -> usize {
        let Ok(own) = terms.signer.public() else { return 0 };
        let named = terms.named(own.id());
        self.signed_by().iter().filter(|id| named.contains(id)).count()
    }

    fn is_enough(&self, terms: &IssueTerms) -> bool {
        self.signatures(terms) >= terms.required
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
    /// Adopts what waits in the database, whoever has put it there: the newest patch, if it is a
    /// draft or over a table that is not in force yet.
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
        self.waiting = Some(Waiting::new(table, patch));
        Ok(())
    }

    /// Checks what waits. Afterwards, either nothing waits because it was published, or a table has
    /// to replace it, and it waits until that table is stored.
    ///
    /// # Errors
    ///
    /// [`PublishFault::Awaiting`]: it goes on waiting.
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
        }
        if waiting.is_signed(terms) {
            for waits in waiting.table.iter_mut().chain([&mut waiting.patch]) {
                if waits.is_draft() {
                    let head = ArtefactHead { state: ArtefactState::Signed, ..waits.head.clone() };
                    let signed = StoredArtefact { head, body: waits.file.bytes().to_vec() };
                    let kept = self.store.sign_draft(signed).await?;
                    *waits = WaitingFile::of(kept.ok_or(PublishFault::Overtaken)?)?;
                }
            }
            return self.publish_waiting(waiting, began).await;
        }
        let now_ms = self.clock.now().unix_ms;
        if waiting.is_stale(terms, now_ms) || waiting.is_over(publication.serial, now_ms) {
            self.give_way(waiting);
            return Ok(());
        }
        Err(self.await_signatures(waiting))
    }

    /// Wants a table in its place. That table takes serials of its own only once it is stored, so a
    /// table that is never made uses none up. Until then this draft may still be signed.
    fn give_way(&mut self, waiting: Waiting) {
        if !waiting.gives_way {
            let serial = waiting.patch.head.serial;
            tracing::warn!(audience = %self.name, serial, "a draft was not signed in time; a table takes its place");
        }
        self.wants_table = true;
        self.waiting = Some(Waiting { gives_way: true, ..waiting });
    }

    /// For as long as nothing has replaced it.
    ///
    /// # Errors
    ///
    /// [`PublishFault::Awaiting`], if something waits.
    pub(super) fn waits_on(&mut self) -> Result<(), PublishFault> {
        match self.waiting.take() {
            Some(waiting) => Err(self.await_signatures(waiting)),
            None => Ok(()),
        }
    }

    /// Remembers it, and reports that it waits.
    pub(super) fn await_signatures(&mut self, waiting: Waiting) -> PublishFault {
        let Some(terms) = &self.terms else { return PublishFault::NoSigner };
        let drafts = waiting.files().filter(|waiting| !waiting.is_enough(terms));
        let drafts: Vec<_> = drafts.map(|waiting| waiting.draft(terms)).collect();
        let signed = waiting.files().map(|waiting| waiting.signatures(terms)).min();
        let mut missing: Vec<_> = drafts.iter().flat_map(|draft| draft.missing.clone()).collect();
        missing.sort();
        missing.dedup();
        let (serial, required) = (waiting.patch.head.serial, terms.required);
        self.waiting = Some(waiting);
        self.tell(|state| state.drafts.clone_from(&drafts));
        let signed = signed.unwrap_or_default();
        PublishFault::Awaiting { serial, signed, required, missing: missing.join(", ") }
    }

    async fn publish_waiting(&mut self, waiting: Waiting, began: u64) -> Result<(), PublishFault> {
        if let Some(table) = &waiting.table {
            self.store.release_table(&self.name, table.head.serial).await?;
            self.current = None;
        }
        let publication = self.store.publication(&self.name).await?;
        if let Some(table) = &waiting.table
            && publication.base < table.head.serial
        {
            // Another table, or a patch over the former one, was faster: this one has to be made
            // again.
            self.give_way(waiting);
            return self.load(&publication).await;
        }
        if self.current.is_none() {
            self.load(&publication).await?;
        }
        self.adopt(&publication).await?;
        // If a table was wanted in its place, it no longer is.
        self.wants_table = false;
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
        // Gone: another instance has replaced it with something newer.
        Ok(WaitingFile::of(kept.ok_or(PublishFault::Overtaken)?)?)
    }
}
