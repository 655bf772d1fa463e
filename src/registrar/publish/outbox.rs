//! What one audience has to publish, and the thread that does it.

mod compare;
mod current;
mod deliver;
mod heed;
mod marking;
mod patches;
mod tables;
mod waiting;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use self::current::{Current, PublishedFile};
use self::deliver::unless_target;
use self::heed::ToldSerial;
use self::waiting::Waiting;
pub use self::waiting::WaitingDraft;
use super::answer_first::AnswersFirst;
use super::behind::{Behind, Evidence};
use super::fault::PublishFault;
use super::fleet::SidecarBook;
use super::high_water::HighWaterFile;
use super::make::{Changes, FoldedTable, IssueTerms, MakeError};
use super::status::FLEET;
use super::{PublicationState, PublisherOptions, Unpublished, UnpublishedReason};
use crate::artefacts::ArtefactShelf;
use crate::clock::Clock;
use crate::manage::error::Error;
use crate::manage::registry::settings::RawSettings;
use crate::registrar::asked;
use crate::registrar::config::{AudienceConfig, PublishTarget};
use crate::registrar::store::{
    ArtefactKind, AudienceName, Publication, SidecarReport, Store, StoreError,
};

/// Between two checks while nothing wakes the thread: another process may have changed the
/// database, or the clock has moved on.
const LOOK: Duration = Duration::from_secs(1);

/// From this many changes in one publication on, the next one waits a little.
const MANY: u64 = 16;

/// How long it waits, as a multiple of what the last one took, and at most.
const REST_TIMES: u32 = 3;
const MOST_REST: Duration = Duration::from_millis(50);

/// Between two looks for sidecars that have been silent for too long to be remembered.
const FORGET: Duration = Duration::from_secs(60);

/// How often to try again immediately after another instance has been faster.
const TRIES: u32 = 3;

/// The parts of an outbox.
pub(super) struct OutboxParts<'a> {
    pub(super) options: &'a PublisherOptions,
    pub(super) audience: &'a AudienceConfig,
    pub(super) state: watch::Sender<PublicationState>,
    pub(super) high_water: &'a Arc<Mutex<HighWaterFile>>,
}

/// One audience's publications.
pub(super) struct Outbox {
    name: AudienceName,
    store: Arc<dyn Store>,
    /// `None`: the configuration names no signer.
    terms: Option<IssueTerms>,
    targets: Vec<PublishTarget>,
    directory: PathBuf,
    shelf: ArtefactShelf,
    book: SidecarBook,
    /// Host and port of the sidecars that the service asks.
    asked: Vec<Box<str>>,
    answers: AnswersFirst,
    clock: Clock,
    state: watch::Sender<PublicationState>,
    high_water: Arc<Mutex<HighWaterFile>>,
    current: Option<Current>,
    /// The changes in the last patch.
    changes: Option<Changes>,
    /// The task that is writing the high-water file.
    marking: Option<JoinHandle<Result<(), Error>>>,
    /// Signed here, but not by enough others yet.
    waiting: Option<Waiting>,
    /// Not enough signers have signed the last draft in time: they may not know the table that it
    /// is over.
    wants_table: bool,
    /// A table that is being built.
    folding: Option<oneshot::Receiver<Result<FoldedTable, MakeError>>>,
    /// This instance's name as a holder of leases.
    holder: Box<str>,
    /// When to ask the database next what sidecars have told other instances.
    ask_others_ns: u64,
    /// When to look next for sidecars to forget.
    forget_ns: u64,
    /// How many tables in a row changes have overtaken while they were being signed.
    overtaken: u32,
    /// The last serial that was given to the signer.
    tried: u64,
    /// Do not build a table before this moment, in milliseconds since 1970-01-01T00:00:00Z.
    fold_not_before_ms: u64,
    /// The audit log lacks the line that was noted.
    audit: Option<Behind>,
    /// The signer has said how far it has signed.
    heard_signer: bool,
    /// The question to the signer, which has not answered yet.
    asked_signer: Option<oneshot::Receiver<ToldSerial>>,
    /// The signer has signed something that the database does not know of.
    signed: Option<Evidence>,
}

// === impl Outbox ===

impl Outbox {
    pub(super) fn new(parts: OutboxParts<'_>) -> Self {
        let OutboxParts { options, audience, state, high_water } = parts;
        let terms = audience.signer.clone().map(|signer| IssueTerms {
            audience: audience.name.clone(),
            signer,
            format: audience.format,
            life: audience.life.map(|life| life.as_secs()),
            others: audience.co_signers.iter().map(Into::into).collect(),
            required: audience.required_signers,
        });
        Self {
            name: audience.name.clone(),
            store: Arc::clone(&options.store),
            terms,
            targets: audience.targets.clone(),
            directory: options.settings.state.clone(),
            shelf: options.shelf.clone(),
            book: options.book.clone(),
            asked: {
                let pulls = options.settings.status_pulls.iter();
                let pulls = pulls.filter(|pull| pull.audience == audience.name);
                pulls.map(|pull| asked::address(&pull.url).into()).collect()
            },
            answers: AnswersFirst::default(),
            clock: options.clock.clone(),
            state,
            high_water: Arc::clone(high_water),
            current: None,
            changes: None,
            marking: None,
            waiting: None,
            wants_table: false,
            folding: None,
            holder: tables::holder(),
            ask_others_ns: 0,
            forget_ns: 0,
            overtaken: 0,
            tried: 0,
            fold_not_before_ms: 0,
            audit: None,
            heard_signer: false,
            asked_signer: None,
            signed: None,
        }
    }

    /// The answers that go out before anything is published.
    pub(super) fn answers(&self) -> AnswersFirst {
        self.answers.clone()
    }

    /// Runs until `stopped` says so.
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut serials = self.store.watch();
        loop {
            serials.mark_unchanged();
            self.answers.out().await;
            let (began, before) = (self.clock.now().mono_ns, self.state.borrow().published);
            let done = self.turn().await;
            let failed = done.is_err();
            let rest = self.rest(began, before);
            self.note(done);
            if *stopped.borrow_and_update() {
                let noted = self.noted().await;
                if noted.is_err() {
                    self.note(noted);
                }
                return;
            }
            let folded = async {
                match &mut self.folding {
                    Some(folding) => folding.await.ok(),
                    None => std::future::pending().await,
                }
            };
            let marked = async {
                match &mut self.marking {
                    Some(marking) => marking.await,
                    None => std::future::pending().await,
                }
            };
            let changed = async {
                match failed {
                    // What has just failed is not tried again immediately.
                    true => std::future::pending().await,
                    false => {
                        tokio::time::sleep(rest).await;
                        serials.changed().await
                    }
                }
            };
            tokio::select! {
                // Publish first what was committed until now.
                told = stopped.changed() => {
                    // Nobody is left who could stop it, and asking again would be told so forever.
                    if told.is_err() {
                        return;
                    }
                }
                _ = changed => {}
                folded = folded => {
                    self.folding = None;
                    let done = self.folded(folded).await;
                    self.note(done);
                }
                marked = marked => {
                    let done = self.is_marked(marked);
                    if done.is_err() {
                        self.note(done);
                    }
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// While changes come faster than they can be published one by one, it rests for longer than it
    /// has worked, so that the processor is left to the changes: the next publication has more of
    /// them.
    fn rest(&self, began: u64, before: u64) -> Duration {
        let published = self.state.borrow().published.saturating_sub(before);
        let worked = Duration::from_nanos(self.clock.now().mono_ns.saturating_sub(began));
        match published < MANY {
            true => Duration::ZERO,
            false => (worked * REST_TIMES).min(MOST_REST),
        }
    }

    /// Does whatever there is to do.
    pub(super) async fn turn(&mut self) -> Result<(), PublishFault> {
        for _ in 1..TRIES {
            match self.attempt().await {
                // An instance that works on the same database was faster: load what it has
                // published.
                Err(PublishFault::Overtaken) => self.current = None,
                done => return self.ended(done),
            }
        }
        let done = self.attempt().await;
        self.ended(done)
    }

    /// Forgets what a failed attempt has read.
    fn ended(&mut self, done: Result<(), PublishFault>) -> Result<(), PublishFault> {
        if done.is_err() && self.store.is_shared() {
            // They may have been read from a server that has gone back since. What is published is
            // compared with the log before the next attempt, these are not.
            self.changes = None;
        }
        done
    }

    async fn attempt(&mut self) -> Result<(), PublishFault> {
        let began = self.clock.now().mono_ns;
        self.hear_signer(Duration::ZERO).await?;
        let publication = self.store.publication(&self.name).await?;
        let found = self.look_behind(&publication).await?;
        self.book.publishes(&self.name, publication.published);
        self.tell(|state| state.serial = publication.serial);
        let is_behind = found.is_some();
        self.remember_proof(found.as_ref());
        self.settle_behind(found);
        self.keep_reports().await?;
        if is_behind {
            (self.current, self.waiting, self.changes) = (None, None, None);
            // Its keys may be a part of them.
            self.folding = None;
            self.tell(|state| state.drafts.clear());
            return Ok(());
        }
        if self.current.as_ref().is_some_and(|c| c.table.manifest.serial < publication.base) {
            // Another instance has published a table.
            (self.current, self.folding, self.wants_table) = (None, None, false);
        }
        if self.current.is_none() {
            self.load(&publication).await?;
        }
        self.adopt(&publication).await?;
        let Some(terms) = self.terms.clone() else {
            // What others sign, or somebody signed here before, is served on.
            if self.is_undelivered() {
                self.deliver(began).await?;
            }
            return match publication.published < publication.serial {
                true => Err(PublishFault::NoSigner),
                false => Ok(()),
            };
        };
        self.adopt_waiting(&publication).await?;
        // What is signed goes out even if nothing more can be signed now: sidecars that start in the
        // meantime get what is in force.
        let mut delivered = self.deliver_untried(began).await?;
        let settings = self.store.settings(&self.name).await?;
        let signed = match self.sign_due(&terms, &settings, &publication, began).await {
            Err(PublishFault::Overtaken) => return Err(PublishFault::Overtaken),
            Err(fault) if fault.is_of_target() => {
                delivered = Err(fault);
                Ok(FoldNext::IfDue)
            }
            signed => signed,
        };
        if delivered.is_ok() && self.is_undelivered() {
            delivered = unless_target(self.deliver(began).await)?;
        }
        // A target that cannot be written keeps no table from the others.
        let folded = match signed {
            Ok(FoldNext::IfDue) => self.fold_if_due(&terms, &settings).await,
            Ok(FoldNext::Later) => Ok(()),
            Err(fault) => Err(fault),
        };
        delivered.and(folded)
    }

    /// Signs and delivers what has changed.
    async fn sign_due(
        &mut self,
        terms: &IssueTerms,
        settings: &RawSettings,
        publication: &Publication,
        began: u64,
    ) -> Result<FoldNext, PublishFault> {
        if self.folding.is_some() {
            self.take_lease().await?;
        }
        let settled;
        let publication = match self.waiting.is_some() {
            true => {
                self.settle_waiting(terms, publication, began).await?;
                settled = self.store.publication(&self.name).await?;
                &settled
            }
            false => publication,
        };
        if self.current.is_none() {
            let Some(folded) = self.build(terms, settings).await? else {
                return self.waits_on().map(|()| FoldNext::Later);
            };
            let folded = self.holding(folded).await?.ok_or(PublishFault::Overtaken)??;
            self.publish_folded(folded, began).await?;
            return Ok(FoldNext::Later);
        }
        if (terms.required > 1 || self.waiting.is_some())
            && let Some(folded) = self.folded_first(terms, settings).await?
        {
            self.publish_folded(folded, began).await?;
            return Ok(FoldNext::Later);
        }
        if self.waiting.is_some() {
            // The table that replaces it is still to come, and no patch may go first.
            return self.waits_on().map(|()| FoldNext::Later);
        }
        let newest = self.current.as_ref().map_or(0, Current::serial);
        let is_due = publication.serial > newest || publication.published < publication.serial;
        if is_due && let Err(fault) = self.publish_patch(terms, settings, began).await {
            if !fault.is_of_target() {
                self.heed(&fault, terms, settings).await?;
            }
            return Err(fault);
        }
        Ok(FoldNext::IfDue)
    }

    /// Loads what is in force.
    async fn load(&mut self, publication: &Publication) -> Result<(), PublishFault> {
        let base = publication.base;
        let Some(table) = self.artefact(ArtefactKind::Table, base).await? else { return Ok(()) };
        let patch = match &publication.signed_patch {
            Some(head) => self.artefact(ArtefactKind::Patch, head.serial).await?,
            None => None,
        };
        let patch = patch.filter(|patch| patch.manifest.base == Some(table.manifest.as_base()));
        let mark = self.marked();
        let settings = match (&publication.settings, mark.base == base) {
            (Some(settings), _) => settings.to_string(),
            (None, true) => mark.settings,
            (None, false) => String::new(),
        };
        let patch_keys = patch.as_ref().map_or(0, |p| p.manifest.keys + p.manifest.removed);
        let patch_keys = usize::try_from(patch_keys).unwrap_or(usize::MAX);
        let (is_tried, is_placed) = (false, false);
        self.current = Some(Current { table, patch, patch_keys, settings, is_tried, is_placed });
        Ok(())
    }

    /// Adopts a patch that another instance has made, or that others have signed now.
    async fn adopt(&mut self, publication: &Publication) -> Result<(), PublishFault> {
        let (Some(current), Some(head)) = (&self.current, &publication.signed_patch) else {
            return Ok(());
        };
        let table = &current.table.manifest;
        if head.serial <= current.serial() || head.base != table.serial {
            return Ok(());
        }
        let Some(patch) = self.artefact(ArtefactKind::Patch, head.serial).await? else {
            return Ok(());
        };
        if patch.manifest.base == Some(table.as_base())
            && let Some(current) = &mut self.current
        {
            let keys = patch.manifest.keys + patch.manifest.removed;
            current.patch_keys = usize::try_from(keys).unwrap_or(usize::MAX);
            current.patch = Some(patch);
            (current.is_tried, current.is_placed) = (false, false);
        }
        Ok(())
    }

    async fn artefact(
        &self,
        kind: ArtefactKind,
        serial: u64,
    ) -> Result<Option<PublishedFile>, PublishFault> {
        let kept = self.store.artefact(&self.name, kind, serial).await?;
        Ok(kept.map(|kept| PublishedFile::of(kept.body)).transpose()?)
    }

    // --- state

    /// Records what sidecars have told this instance and, once a second, what they have told
    /// others. Forgets those that have been silent for long.
    async fn keep_reports(&mut self) -> Result<(), StoreError> {
        for report in self.book.take_news(&self.name) {
            self.store.put_sidecar(report).await?;
        }
        let now = self.clock.now();
        if now.mono_ns >= self.forget_ns {
            self.forget_ns = now.mono_ns + FORGET.as_nanos() as u64;
            self.book.forget(&self.name, now.unix_ms, |report| self.asks(report));
        }
        let gone = self.book.take_gone(&self.name);
        if !gone.is_empty()
            && let Err(error) = self.store.forget_sidecars(gone.clone()).await
        {
            self.book.keep_gone(gone);
            return Err(error);
        }
        if self.store.is_shared() && now.mono_ns >= self.ask_others_ns {
            self.ask_others_ns = now.mono_ns + LOOK.as_nanos() as u64;
            self.book.learn(self.store.sidecars(&self.name).await?, now.unix_ms);
        }
        Ok(())
    }

    /// Whether the service asks this sidecar what it has.
    fn asks(&self, sidecar: &SidecarReport) -> bool {
        *sidecar.fleet == *FLEET && self.asked.contains(&sidecar.instance)
    }

    fn note(&self, done: Result<(), PublishFault>) {
        let fault = done.err();
        let why = fault.as_ref().map(PublishFault::to_string);
        let reason = fault.as_ref().map(PublishFault::reason);
        let known = self.state.borrow().unpublished.clone();
        // Somebody has to act, but nothing has failed.
        let waits = reason == Some(UnpublishedReason::AwaitingSignatures);
        match (&why, &known) {
            (Some(why), Some(known)) if waits && *known.why == **why => {}
            (Some(why), _) if waits => {
                tracing::info!(audience = %self.name, %why, "not published yet");
            }
            (Some(why), None) => {
                tracing::error!(audience = %self.name, error = %why, "not published; trying again");
            }
            (None, Some(_)) => tracing::info!(audience = %self.name, "published again"),
            _ => {}
        }
        let now_ms = self.clock.now().unix_ms;
        self.tell(|state| {
            state.failures += u64::from(why.is_some() && !waits);
            state.unpublished = reason.zip(why).map(|(reason, why)| Unpublished {
                since_ms: known.map_or(now_ms, |known| known.since_ms),
                reason,
                why: why.into(),
            });
        });
    }

    fn tell(&self, change: impl FnOnce(&mut PublicationState)) {
        self.state.send_if_modified(|state| {
            let before = state.clone();
            change(state);
            *state != before
        });
    }
}

/// What follows once everything that is due is signed.
enum FoldNext {
    /// A table, if one is due.
    IfDue,
    /// Nothing now.
    Later,
}
