//! Publishing: every committed change becomes a signed patch that sidecars can fetch, and patches
//! become tables. One comparison says whether there is work: `published < serial`. After a crash at
//! any point the next start does the same work again, and a serial never has two bodies, because
//! the store keeps the first.
//!
//! One thread per audience publishes; another one, of low priority, builds a new table.

pub mod answer_first;
pub mod behind;
mod fault;
pub mod fleet;
pub mod high_water;
pub mod hindrance;
pub mod host;
mod make;
mod metrics;
mod outbox;
pub mod recover;
pub mod status;
pub mod target;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use self::answer_first::{AnswerFirst, AnswersFirst};
use self::behind::{Behind, Evidence};
use self::fleet::SidecarBook;
use self::high_water::HighWaterFile;
use self::host::ServiceLock;
use self::metrics::MeteredAudience;
pub use self::outbox::WaitingDraft;
use self::outbox::{Outbox, OutboxParts};
use super::config::AdminToml;
use super::store::{AudienceName, AuditHead, SidecarReport, SignerRow, Store};
use crate::artefacts::{ArtefactShelf, ServedArtefacts};
use crate::clock::Clock;
use crate::exit::Exit;
use crate::manage::error::{Error, Result};
use crate::manage::files::START_WAIT;

/// What a publisher works with.
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    pub store: Arc<dyn Store>,
    pub settings: Arc<AdminToml>,
    /// Where sidecars fetch artefacts from.
    pub shelf: ArtefactShelf,
    pub book: SidecarBook,
    pub clock: Clock,
}

/// The threads that publish. [`Publisher::stop`] ends them.
#[derive(Debug)]
pub struct Publisher {
    handle: PublisherHandle,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    /// While it is held, no other process publishes.
    _lock: ServiceLock,
}

/// What other modules may know about publishing. Clones share one state.
#[derive(Clone, Debug)]
pub struct PublisherHandle {
    states: Arc<BTreeMap<AudienceName, watch::Receiver<PublicationState>>>,
    answers: Arc<BTreeMap<AudienceName, AnswersFirst>>,
    /// Names of the co-signers.
    co_signers: Arc<BTreeMap<AudienceName, Vec<Box<str>>>>,
    book: SidecarBook,
    clock: Clock,
}

/// How far an audience is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicationState {
    /// Of the last change.
    pub serial: u64,
    /// Of the newest artefact that has reached every target.
    pub published: u64,
    /// Of the newest table, or of the table that the newest patch is for.
    pub base: u64,
    /// Keys and bytes of the patch over that table.
    pub patch_keys: u64,
    pub patch_bytes: u64,
    /// When the newest artefact was published, in milliseconds since 1970-01-01T00:00:00Z; `None`:
    /// not by this process.
    pub published_ms: Option<u64>,
    /// How long that took, in microseconds, from the moment at which the publisher noticed the
    /// change.
    pub took_us: Option<u64>,
    /// Artefacts that this process has published.
    pub patches: u64,
    pub tables: u64,
    pub failures: u64,
    /// Why committed changes are not published; `None`: all are, or will be in a moment.
    pub unpublished: Option<Unpublished>,
    /// Drafts for others to sign, a table before its patch.
    pub drafts: Vec<WaitingDraft>,
    /// The database is older than what was published, so changes are refused.
    pub behind: Option<Behind>,
}

/// Why changes are not published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpublished {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub since_ms: u64,
    pub reason: UnpublishedReason,
    /// In full, for the people who look after the host.
    pub why: Box<str>,
}

/// The kinds of [`Unpublished`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnpublishedReason {
    /// This service has signed it, and it waits for others' signatures.
    AwaitingSignatures,
    /// The database is older than what was published.
    Behind,
    /// The database does not answer.
    Database,
    /// A target or the state directory is full.
    DiskFull,
    /// The configuration names no signer.
    NoSigner,
    /// Another process publishes from the same database.
    Overtaken,
    /// The signer answers, but refuses to sign this.
    SignerRefuses,
    SignerUnreachable,
    /// A target accepts nothing: it cannot be written, or has something newer.
    Target,
    /// The keys do not fit into a table of the configured format.
    Unfit,
}

/// Whether a change is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeInForce {
    /// It has reached every target.
    pub published: bool,
    /// Sidecars that have reported within the last minutes. 0: none is known. Sidecars that read
    /// files do not report. Those of a fleet that nobody could remember count as one.
    pub sidecars: usize,
    /// Those of them that do not have the change yet, as `FLEET/INSTANCE`. `FLEET/*`: those that
    /// nobody could remember, and so knows nothing of.
    pub late: Vec<Box<str>>,
}

// === impl Publisher ===

impl Publisher {
    /// Begins to publish. First compares the database with what was published: one that is behind
    /// takes no changes from then on.
    ///
    /// # Errors
    ///
    /// Another process that publishes already and does not end within [`START_WAIT`]; a high-water
    /// file that cannot be read; a database that does not answer.
    pub async fn start(options: PublisherOptions) -> Result<Self> {
        let lock = ServiceLock::take(&options.settings.state, START_WAIT).await?;
        let high_water = HighWaterFile::open(&options.settings.state)?;
        let high_water = Arc::new(Mutex::new(high_water));
        let (stop, stopped) = watch::channel(false);
        let mut states = BTreeMap::new();
        let mut answers = BTreeMap::new();
        let mut co_signers = BTreeMap::new();
        let mut threads = Vec::new();
        let mut outboxes = Vec::new();
        for audience in &options.settings.audiences {
            let publication = options.store.publication(&audience.name).await.map_err(of_store)?;
            if audience.signer.is_some() || publication.base > 0 {
                // Unknown until the first artefact is loaded: a sidecar that heard that there is no
                // patch would start without its revocations.
                options.shelf.put(audience.name.as_str(), ServedArtefacts::UNKNOWN);
            }
            let (state, shown) = watch::channel(PublicationState::default());
            let parts = OutboxParts { options: &options, audience, state, high_water: &high_water };
            let mut outbox = Outbox::new(parts);
            outbox.begin().await.map_err(of_store)?;
            answers.insert(audience.name.clone(), outbox.answers());
            let others = audience.co_signers.iter().map(|signer| signer.name.clone());
            co_signers.insert(audience.name.clone(), others.collect());
            states.insert(audience.name.clone(), shown);
            outboxes.push(outbox);
        }
        note_signers(&options).await?;
        for outbox in outboxes {
            let stopped = stopped.clone();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .map_err(internal)?;
            let thread = std::thread::Builder::new()
                .name("publish".to_owned())
                .spawn(move || runtime.block_on(outbox.run(stopped)))
                .map_err(internal)?;
            threads.push(thread);
        }
        let PublisherOptions { book, clock, .. } = options;
        let (states, answers) = (Arc::new(states), Arc::new(answers));
        let co_signers = Arc::new(co_signers);
        let handle = PublisherHandle { states, answers, co_signers, book, clock };
        Ok(Self { handle, stop, threads, _lock: lock })
    }

    pub fn handle(&self) -> PublisherHandle {
        self.handle.clone()
    }

    /// Publishes what is in hand, then ends.
    pub fn stop(self) {
        self.stop.send_replace(true);
        for thread in self.threads {
            // The panic hook has reported a panic of that thread; there is nothing left to do.
            let _ = thread.join();
        }
    }
}

// === impl PublicationState ===

impl PublicationState {
    /// Why committed changes are not published; `None`: they are, or will be in a moment.
    pub fn hindrance(&self) -> Option<UnpublishedReason> {
        match (&self.behind, &self.unpublished) {
            (Some(_), _) => Some(UnpublishedReason::Behind),
            (None, unpublished) => unpublished.as_ref().map(|unpublished| unpublished.reason),
        }
    }

    /// The same as a sentence, which may name files of the host.
    pub fn hindrance_in_full(&self) -> Option<String> {
        match (&self.behind, &self.unpublished) {
            (Some(behind), _) => Some(behind.to_string()),
            (None, unpublished) => {
                unpublished.as_ref().map(|unpublished| unpublished.why.to_string())
            }
        }
    }
}

// === impl UnpublishedReason ===

impl UnpublishedReason {
    pub const ALL: [Self; 10] = [
        Self::AwaitingSignatures,
        Self::Behind,
        Self::Database,
        Self::DiskFull,
        Self::NoSigner,
        Self::Overtaken,
        Self::SignerRefuses,
        Self::SignerUnreachable,
        Self::Target,
        Self::Unfit,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AwaitingSignatures => "awaiting_signatures",
            Self::Behind => "behind",
            Self::Database => "database",
            Self::DiskFull => "disk_full",
            Self::NoSigner => "no_signer",
            Self::Overtaken => "overtaken",
            Self::SignerRefuses => "signer_refuses",
            Self::SignerUnreachable => "signer_unreachable",
            Self::Target => "target",
            Self::Unfit => "unfit",
        }
    }
}

// === impl PublisherHandle ===

impl PublisherHandle {
    /// `None`: the configuration names no such audience.
    pub fn state(&self, audience: &AudienceName) -> Option<PublicationState> {
        Some(self.states.get(audience)?.borrow().clone())
    }

    /// For all audiences.
    pub fn states(&self) -> impl Iterator<Item = (&AudienceName, PublicationState)> {
        self.states.iter().map(|(name, state)| (name, state.borrow().clone()))
    }

    /// Holds up publishing of an audience until an answer has gone out. `None`: the configuration
    /// names no such audience.
    pub fn answer_first(&self, audience: &AudienceName) -> Option<AnswerFirst> {
        self.answers.get(audience).map(AnswersFirst::begin)
    }

    /// Wakes when the state of an audience changes.
    pub fn watch(&self, audience: &AudienceName) -> Option<watch::Receiver<PublicationState>> {
        self.states.get(audience).cloned()
    }

    /// Every sidecar that was not forgotten.
    pub fn sidecars(&self, audience: &AudienceName) -> Vec<SidecarReport> {
        self.book.all(audience)
    }

    /// All of it, in Prometheus's text format.
    pub fn metrics(&self) -> String {
        let audiences: Vec<_> = self
            .states()
            .map(|(name, state)| MeteredAudience {
                name,
                state,
                sidecars: self.book.all(name),
                co_signers: self.co_signers.get(name).map(Vec::as_slice).unwrap_or_default(),
            })
            .collect();
        metrics::render(&audiences, self.clock.now().unix_ms)
    }

    /// Waits until the change with this serial is in force on every known sidecar, but no longer
    /// than `wait`.
    pub async fn in_force(
        &self,
        audience: &AudienceName,
        serial: u64,
        wait: Duration,
    ) -> ChangeInForce {
        let Some(mut state) = self.watch(audience) else {
            return ChangeInForce { published: false, sidecars: 0, late: Vec::new() };
        };
        let mut news = self.book.watch();
        let until = tokio::time::sleep(wait);
        tokio::pin!(until);
        loop {
            news.mark_unchanged();
            let published = state.borrow_and_update().published >= serial;
            let now = self.clock.now().unix_ms;
            let known = self.book.known(audience, now);
            let late = known.iter().filter(|sidecar| sidecar.serial < serial);
            let late = late.map(|s| format!("{}/{}", s.fleet, s.instance).into());
            let overfull = self.book.overfull(audience, now);
            let sidecars = known.len() + overfull.len();
            let others = overfull.iter().map(|fleet| format!("{fleet}/*").into());
            let found = ChangeInForce { published, sidecars, late: late.chain(others).collect() };
            if found.is_complete() || wait.is_zero() {
                return found;
            }
            tokio::select! {
                () = &mut until => return found,
                changed = state.changed() => if changed.is_err() { return found },
                changed = news.changed() => if changed.is_err() { return found },
            }
        }
    }
}

// === impl ChangeInForce ===

impl ChangeInForce {
    /// Published, and every known sidecar has it.
    pub fn is_complete(&self) -> bool {
        self.published && self.late.is_empty()
    }
}

/// An audience, compared with everything that shows how far it had come.
#[derive(Clone, Debug)]
pub struct ComparedAudience {
    pub audience: AudienceName,
    /// `None`: the database is not behind.
    pub behind: Option<Behind>,
    pub evidence: Vec<Evidence>,
}

/// Compares every audience of the configuration. From then on, the store refuses changes to those
/// that are behind.
///
/// # Errors
///
/// A high-water file that cannot be read; a database that does not answer.
pub async fn compare(
    settings: &Arc<AdminToml>,
    store: &Arc<dyn Store>,
    clock: &Clock,
) -> Result<Vec<ComparedAudience>> {
    let options = PublisherOptions {
        store: Arc::clone(store),
        settings: Arc::clone(settings),
        shelf: ArtefactShelf::default(),
        book: SidecarBook::default(),
        clock: clock.clone(),
    };
    let high_water = Arc::new(Mutex::new(HighWaterFile::open(&settings.state)?));
    let mut compared = Vec::new();
    for audience in &settings.audiences {
        let (state, shown) = watch::channel(PublicationState::default());
        let parts = OutboxParts { options: &options, audience, state, high_water: &high_water };
        let mut outbox = Outbox::new(parts);
        outbox.begin().await.map_err(of_store)?;
        let behind = shown.borrow().behind.clone();
        let audience = audience.name.clone();
        compared.push(ComparedAudience { audience, behind, evidence: outbox.evidence() });
    }
    Ok(compared)
}

/// Notes where the audit log of a recovered database ends.
///
/// # Errors
///
/// A file that cannot be read or written.
pub fn settle_high_water(state: &Path, audit: AuditHead) -> Result<()> {
    let mut file = HighWaterFile::open(state)?;
    file.settle(audit);
    file.write()
}

/// For people and machines that ask who signs. A signer that the configuration does not name any
/// more has retired. Where two instances differ, as while they are restarted one by one, what the
/// last one to start says holds.
async fn note_signers(options: &PublisherOptions) -> Result<()> {
    let PublisherOptions { store, settings, clock, .. } = options;
    let now_ms = clock.now().unix_ms;
    let known = store.signers().await.map_err(of_store)?;
    let mut named = BTreeSet::new();
    let mut is_complete = true;
    for audience in &settings.audiences {
        let own = audience.signer.as_ref().and_then(|signer| signer.public().ok());
        is_complete &= own.is_some();
        let own = own.map(|key| (key, Box::from("this service")));
        let others = audience.co_signers.iter().map(|signer| (signer.public, signer.name.clone()));
        for (key, note) in own.into_iter().chain(others) {
            let signer = SignerRow {
                id: key.id().to_string().into(),
                public_key: *key.as_bytes(),
                note,
                added_ms: now_ms,
                retired_ms: None,
            };
            named.insert(signer.id.clone());
            store.put_signer(signer).await.map_err(of_store)?;
        }
    }
    // An instance that does not sign an audience says nothing about who does; nor does one that
    // cannot read a key of its own, which may be any of them.
    if named.is_empty() || !is_complete {
        return Ok(());
    }
    for signer in known {
        if signer.retired_ms.is_none() && !named.contains(&signer.id) {
            let retired = SignerRow { retired_ms: Some(now_ms), ..signer };
            store.put_signer(retired).await.map_err(of_store)?;
        }
    }
    Ok(())
}

/// A command's message about a database that is behind, with exit code 75.
///
/// What was published has neither names nor notes of keys. Of a database that has nothing yet, most
/// often because keys are about to move there, a recovery would make one that an import of the same
/// keys contradicts.
pub fn is_behind(behind: &Behind) -> Error {
    let message = match behind {
        Behind::Import { .. } => format!(
            "{behind}: the keys that are still missing would end at every sidecar\nhint: nothing is \
             changed or published until the same `keygatectl admin import`, given again, has ended: \
             it passes over what is in"
        ),
        behind if behind.is_of_empty() => format!(
            "{behind}: nothing has been put into this one yet\nhint: `keygatectl admin import FILE \
             --audience NAME`, for each audience, takes in the registry or what `keygatectl admin \
             export` has written of the former database. Only if neither exists, `keygatectl admin \
             recover` makes keys without names of what was published"
        ),
        behind => format!(
            "{behind}: it was restored from a backup, another one was put in its place, or somebody \
             else has published there\nhint: nothing is changed or published until it has caught \
             up. `keygatectl admin recover` takes in what was published since"
        ),
    };
    Error::Added { message, exit: Exit::TryAgain }
}

fn of_store(error: super::store::StoreError) -> Error {
    Error::Added { message: error.to_string(), exit: Exit::TryAgain }
}

fn internal(error: std::io::Error) -> Error {
    Error::Added { message: error.to_string(), exit: Exit::Internal }
}
