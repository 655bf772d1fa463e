//! Tables: when one is due, who builds it, and how it becomes the one that patches are for.

use tokio::sync::oneshot;

use super::super::fault::PublishFault;
use super::super::make::{FoldedTable, IssueTerms, MakeError};
use super::current::{Current, PublishedFile};
use super::waiting::{Waiting, WaitingFile};
use super::{LOOK, Outbox};
use crate::manage::registry::settings::RawSettings;
use crate::registrar::store::sql::crash::point;
use crate::registrar::store::{
    ArtefactKind, ArtefactState, HeldLease, StoreError, StoredArtefact, TableToPublish, UsedLease,
};

/// How long the right to build a table lasts unless it is renewed. After that, another instance
/// replaces one that was killed.
const LEASE_MS: u64 = 8_000;

/// After a failure to build a table, how long to wait before trying again.
const FOLD_AGAIN_MS: u64 = 60_000;

// === impl Outbox ===

impl Outbox {
    /// Begins to build a table on a thread of its own. `None`: another instance is building it.
    pub(super) async fn build(
        &self,
        terms: &IssueTerms,
        settings: &RawSettings,
    ) -> Result<Option<oneshot::Receiver<Result<FoldedTable, MakeError>>>, PublishFault> {
        if self.store.is_shared() && self.take_lease().await?.is_none() {
            return Ok(None);
        }
        let snapshot = self.store.snapshot(&self.name, 0).await?;
        let (done, folded) = oneshot::channel();
        let (terms, settings) = (terms.clone(), settings.clone());
        let directory = self.directory.clone();
        std::thread::Builder::new()
            .name("fold".to_owned())
            .spawn(move || {
                // On Linux this affects the calling thread alone. If it is not allowed, nothing is
                // lost.
                let _ = rustix::process::setpriority_process(None, 10);
                // When the process ends, nobody waits for the result any more.
                done.send(terms.fold(snapshot, &settings, &directory)).ok();
            })
            .map_err(PublishFault::Thread)?;
        Ok(Some(folded))
    }

    /// Takes the right to build the audience's tables, or renews it. `None`: another instance has
    /// it, or nobody needs it.
    pub(super) async fn take_lease(&self) -> Result<Option<UsedLease>, StoreError> {
        if !self.store.is_shared() {
            return Ok(None);
        }
        let name = format!("fold {}", self.name);
        let now = self.clock.now().unix_ms;
        let held = self.store.lease(&name, &self.holder, now, now + LEASE_MS).await?;
        let used = |HeldLease { epoch, .. }| UsedLease {
            name: name.into(),
            holder: self.holder.clone(),
            epoch,
        };
        Ok(held.map(used))
    }

    /// Waits for a table and keeps the right to it. `None`: its thread has panicked, or another
    /// instance has the right now.
    pub(super) async fn holding(
        &self,
        folded: oneshot::Receiver<Result<FoldedTable, MakeError>>,
    ) -> Result<Option<Result<FoldedTable, MakeError>>, StoreError> {
        tokio::pin!(folded);
        loop {
            match tokio::time::timeout(LOOK, &mut folded).await {
                Ok(folded) => return Ok(folded.ok()),
                Err(_) => {
                    let lease = self.take_lease().await?;
                    if self.store.is_shared() && lease.is_none() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    pub(super) async fn fold_if_due(
        &mut self,
        terms: &IssueTerms,
        settings: &RawSettings,
    ) -> Result<(), PublishFault> {
        let now_ms = self.clock.now().unix_ms;
        let Some(current) = &self.current else { return Ok(()) };
        let is_due = self.wants_table || current.is_due(terms, &terms.mark(settings), now_ms);
        // If it is later than that, the clock was ahead when a table was built.
        let is_early = self
            .fold_not_before_ms
            .checked_sub(now_ms)
            .is_some_and(|left_ms| (1..=FOLD_AGAIN_MS).contains(&left_ms));
        if !is_due || self.folding.is_some() || is_early {
            return Ok(());
        }
        self.folding = self.build(terms, settings).await?;
        if self.folding.is_some() {
            self.fold_not_before_ms = now_ms + FOLD_AGAIN_MS;
        }
        Ok(())
    }

    /// Publishes the table that is due, if one is. Where several sign, it goes before the next
    /// patch, because only one of the two can wait at a time.
    pub(super) async fn folded_first(
        &mut self,
        terms: &IssueTerms,
        settings: &RawSettings,
    ) -> Result<Option<FoldedTable>, PublishFault> {
        self.fold_if_due(terms, settings).await?;
        let Some(folding) = self.folding.take() else { return Ok(None) };
        Ok(self.holding(folding).await?.transpose()?)
    }

    pub(super) async fn folded(
        &mut self,
        folded: Option<Result<FoldedTable, MakeError>>,
    ) -> Result<(), PublishFault> {
        let began = self.clock.now().mono_ns;
        // The thread has ended without a result: a panic, which the hook has reported.
        let Some(folded) = folded else { return Ok(()) };
        self.publish_folded(folded?, began).await?;
        self.fold_not_before_ms = 0;
        Ok(())
    }

    /// Publishes a table. If a judging signer objects, another table may pass; that one is made
    /// whether anything else changes or not.
    pub(super) async fn publish_folded(
        &mut self,
        folded: FoldedTable,
        began: u64,
    ) -> Result<(), PublishFault> {
        let published = self.publish_table(folded, began).await;
        if let (Err(fault), Some(terms)) = (&published, self.terms.clone()) {
            let settings = self.store.settings(&self.name).await?;
            self.heed(fault, &terms, &settings).await?;
        }
        published
    }

    /// Publishes a table together with the patch over it, which has the changes made while the
    /// table was built. The table's serial is above everything published for the former one, and
    /// stays so: the store takes the table in one transaction, and afterwards no patch over the
    /// former one. While others publish, this chooses a serial ahead of theirs.
    async fn publish_table(&mut self, folded: FoldedTable, began: u64) -> Result<(), PublishFault> {
        let terms = self.terms.clone().ok_or(PublishFault::NoSigner)?;
        let settings = self.store.settings(&self.name).await?;
        let (includes, after, mark) = (folded.includes, folded.after, folded.settings.clone());
        let before = self.current.as_ref().map(|current| current.table.manifest.clone());
        let lease = self.take_lease().await?;
        if self.store.is_shared() && lease.is_none() {
            return Ok(());
        }
        let newest = self.store.publication(&self.name).await?.serial;
        // Expect as many changes while it is signed as arrived while it was built.
        let meanwhile = newest.saturating_sub(includes) << self.overtaken.min(16);
        let serial = newest + meanwhile + 64 * u64::from(self.overtaken) + 1;
        let now_ms = self.clock.now().unix_ms;
        let noted = self.note_signing(&terms, serial).await?;
        let sealed = terms.seal(folded, serial, before.as_ref(), now_ms);
        let sealed = self.withdraw_refused(noted, sealed).await?;
        point("after claim");
        let file = PublishedFile::of(sealed.bytes.clone())?;
        let head = self.head(ArtefactKind::Table, serial, serial, &sealed.bytes);
        let table = WaitingFile { file, head: head.clone() };
        let artefact = StoredArtefact { head, body: sealed.bytes };
        let settings_of_table = mark.clone().into();
        let to_publish =
            TableToPublish { artefact, includes, after, settings: settings_of_table, lease };
        if !self.store.publish_table(to_publish).await? {
            self.overtaken = self.overtaken.saturating_add(1);
            self.fold_not_before_ms = 0;
            return Ok(());
        }
        self.overtaken = 0;
        self.wants_table = false;
        point("after table");
        let made = self.make_patch(&terms, &table.file.manifest, &settings).await?;
        let patch = made.ok_or(PublishFault::Overtaken)?;
        point("after base");
        if table.head.state == ArtefactState::Draft {
            return Err(self.await_signatures(Waiting::new(Some(table), patch.made)));
        }
        self.current = Some(Current {
            table: table.file,
            patch: Some(patch.made.file),
            patch_keys: patch.keys,
            settings: mark,
            is_tried: false,
            is_placed: false,
        });
        self.deliver(began).await?;
        self.tell(|state| state.tables += 1);
        Ok(())
    }
}

/// A name that no other instance uses.
pub(super) fn holder() -> Box<str> {
    let mut bytes = [0; 8];
    // Without randomness, the process's number tells it from others on this host.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        bytes = u64::from(std::process::id()).to_be_bytes();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}
