//! A thread per URL: fetches, verifies, waits for the verdict, keeps the copy on disk.
//! Imports `clock`, `table`, `reload::{files, pace, url}`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::files::{self, FileTurn};
use super::pace::{FetchEnd, NextFetch, WaitClaim, random_share};
use super::source::SourceError;
use super::terms::{LoadFailure, VerifyTerms};
use super::url::{Fetch, FetchAnswer, FetchFault, TransferDeadline, UrlSource, Validators};
use crate::clock::Clock;
use crate::table::FileKind;
use crate::table::{Buffer, Patch, Refusal, SignedHead, Table};
use crate::telemetry::control::ReloadKind;

/// What a source returned, verified.
#[derive(Clone, Debug)]
pub(super) enum Verified {
    Patch(Arc<Patch>),
    Table(Arc<Table>),
}

/// What a source returned, and how to recognise it.
pub(super) struct VerifiedArrival {
    pub(super) verified: Verified,
    /// `None`: it was not just fetched.
    pub(super) validators: Option<Validators>,
}

/// What the fetcher reports to the reload thread.
pub(super) struct Fetched {
    pub(super) artefact: ReloadKind,
    /// `Ok(None)`: nothing new.
    pub(super) result: Result<Option<Verified>, LoadFailure>,
    pub(super) took: Duration,
    /// Where to send the verdict on what was fetched.
    pub(super) verdict: SyncSender<FetchOutcome>,
}

/// The result of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FetchOutcome {
    Refused,
    /// It is in force now.
    Taken,
    /// It was in force already.
    Unchanged,
}

/// Commands from the reload thread to a fetcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FetchCommand {
    /// Fetch now, whatever was taken before.
    Again,
}

/// Whether copies are kept on disk. When the process is about to end, they belong to its successor.
/// All clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies(Arc<AtomicBool>);

/// One request's answer, verified.
struct Poll {
    /// `Ok(None)`: nothing new.
    result: Result<Option<VerifiedArrival>, LoadFailure>,
    claim: WaitClaim,
    /// The server did not answer, or said that it cannot.
    is_away: bool,
}

/// The state of one fetcher.
pub(super) struct Fetcher {
    pub(super) source: UrlSource,
    pub(super) artefact: ReloadKind,
    /// Where the last good copy is kept.
    pub(super) cache: Option<PathBuf>,
    pub(super) terms: Arc<ArcSwap<VerifyTerms>>,
    pub(super) clock: Clock,
    pub(super) copies: Copies,
}

// === impl Copies ===

impl Copies {
    pub(super) fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn are_kept(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }
}

// === impl Verified ===

impl Verified {
    pub(super) fn open(
        artefact: ReloadKind,
        bytes: Buffer,
        terms: &VerifyTerms,
    ) -> Result<Self, LoadFailure> {
        Ok(match artefact {
            ReloadKind::Patch => Self::Patch(terms.open_patch(bytes)?),
            ReloadKind::Table => Self::Table(terms.open_table(bytes)?),
        })
    }

    pub(super) fn table(&self) -> Result<Arc<Table>, LoadFailure> {
        match self {
            Self::Patch(_) => {
                Err(Refusal::Kind { found: FileKind::Patch, wanted: FileKind::Table }.into())
            }
            Self::Table(table) => Ok(Arc::clone(table)),
        }
    }

    pub(super) fn patch(&self) -> Result<Arc<Patch>, LoadFailure> {
        match self {
            Self::Patch(patch) => Ok(Arc::clone(patch)),
            Self::Table(_) => {
                Err(Refusal::Kind { found: FileKind::Table, wanted: FileKind::Patch }.into())
            }
        }
    }
}

// === impl FetchEnd ===

impl FetchEnd {
    fn of(verdict: FetchOutcome) -> Self {
        match verdict {
            FetchOutcome::Refused => Self::Failed { retry_after: None },
            FetchOutcome::Taken => Self::New,
            FetchOutcome::Unchanged => Self::Known,
        }
    }
}

// === impl Fetcher ===

impl Fetcher {
    /// The first fetch, at start: what the server has, or otherwise the copy on disk.
    pub(super) fn first(&mut self) -> Result<VerifiedArrival, LoadFailure> {
        let failure = match self.fetch(TransferDeadline::AtOnce).result {
            Ok(Some(arrived)) => return Ok(arrived),
            // The request named no version that could be unmodified.
            Ok(None) => LoadFailure::Source(SourceError::Status { status: 304, retry_after: None }),
            Err(failure) => failure,
        };
        let Some(copy) = &self.cache else { return Err(failure) };
        match files::read(copy, self.terms.load().bounds.max_bytes) {
            Ok(Some(bytes)) => {
                tracing::warn!(
                    what = self.artefact.as_str(),
                    error = %failure,
                    copy = %copy.display(),
                    "cannot fetch the table; starting from the copy on disk"
                );
                let verified = Verified::open(self.artefact, bytes, &self.terms.load())?;
                Ok(VerifiedArrival { verified, validators: None })
            }
            Ok(None) => Err(failure),
            Err(error) => {
                tracing::error!(copy = %copy.display(), %error, "the copy on disk cannot be read");
                Err(failure)
            }
        }
    }

    /// What was fetched is in force: from now on only something newer is wanted, and a copy is
    /// kept.
    pub(super) fn taken(&mut self, verified: &Verified, validators: Validators) {
        let (serial, file) = match verified {
            Verified::Patch(patch) => (patch.serial(), patch.file()),
            Verified::Table(table) => (table.serial(), table.file()),
        };
        self.source.taken(validators.naming(serial, file, self.clock.now()));
        self.source.shows(SignedHead::bytes_of(file));
        self.keep(verified);
    }

    /// Runs until nobody listens any more, when `tell` returns false.
    pub(super) fn run(mut self, commands: &Receiver<FetchCommand>, tell: impl Fn(Fetched) -> bool) {
        let mut pace = self.source.pace();
        let mut rest = match self.source.waits() {
            // News since the first fetch must not wait for a poll.
            true => Duration::ZERO,
            false => NextFetch::After(self.poll()).rest(Duration::ZERO, random_share()),
        };
        loop {
            let patience = match commands.recv_timeout(rest) {
                Ok(FetchCommand::Again) => {
                    // Any number of commands counts as one.
                    while commands.try_recv().is_ok() {}
                    self.source.forget();
                    TransferDeadline::AtOnce
                }
                Err(RecvTimeoutError::Timeout) => TransferDeadline::Wait,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let began = self.clock.now().mono_ns;
            let Poll { result, claim, is_away } = self.fetch(patience);
            let took = self.since(began);
            let (verdict, answer) = sync_channel(1);
            let message = |result| Fetched { artefact: self.artefact, result, took, verdict };
            let (heard, end) = match result {
                Ok(None) => (tell(message(Ok(None))), FetchEnd::Nothing),
                Ok(Some(VerifiedArrival { verified, validators })) => {
                    let copy = verified.clone();
                    let heard = tell(message(Ok(Some(verified))));
                    let outcome = answer.recv().unwrap_or(FetchOutcome::Refused);
                    if outcome != FetchOutcome::Refused {
                        self.taken(&copy, validators.unwrap_or_default());
                    }
                    (heard, FetchEnd::of(outcome))
                }
                Err(failure) => {
                    let end = match is_away {
                        true => FetchEnd::Away { retry_after: failure.retry_after() },
                        false => self.end_of(&failure, took, claim),
                    };
                    (tell(message(Err(failure))), end)
                }
            };
            if !heard {
                return;
            }
            let next = match (end, patience) {
                (FetchEnd::New | FetchEnd::Known | FetchEnd::Nothing, TransferDeadline::AtOnce)
                    if self.source.waits() =>
                {
                    NextFetch::AtOnce
                }
                _ => pace.after(end, claim, took, self.poll()),
            };
            rest = next.rest(self.since(began), random_share());
        }
    }

    fn end_of(&self, failure: &LoadFailure, took: Duration, claim: WaitClaim) -> FetchEnd {
        match failure {
            // Nothing has been published yet, which is not a fault of the server.
            failure if failure.is_missing() && self.artefact == ReloadKind::Patch => {
                FetchEnd::Nothing
            }
            // Without a table there is a problem, but not with a server that holds the answer until
            // one exists.
            failure if failure.is_missing() && claim.is_true_of(took) => FetchEnd::Nothing,
            failure => FetchEnd::Failed { retry_after: failure.retry_after() },
        }
    }

    /// Asks once, and verifies the answer.
    fn fetch(&self, patience: TransferDeadline) -> Poll {
        let terms = self.terms.load_full();
        let missing = |retry_after| SourceError::Status { status: 404, retry_after };
        match self.source.fetch(patience, terms.bounds.max_bytes) {
            Ok(Fetch { answer, claim, .. }) => {
                let result = match answer {
                    FetchAnswer::Unchanged => Ok(None),
                    FetchAnswer::Missing { retry_after } => Err(missing(retry_after).into()),
                    FetchAnswer::Changed { bytes, validators } => {
                        let verified = Verified::open(self.artefact, bytes, &terms);
                        let validators = Some(validators);
                        verified.map(|verified| Some(VerifiedArrival { verified, validators }))
                    }
                };
                Poll { result, claim, is_away: false }
            }
            Err(FetchFault { error, is_away }) => {
                Poll { result: Err(error.into()), claim: WaitClaim::NotAsked, is_away }
            }
        }
    }

    fn since(&self, began_ns: u64) -> Duration {
        Duration::from_nanos(self.clock.now().mono_ns.saturating_sub(began_ns))
    }

    fn poll(&self) -> Duration {
        let terms = self.terms.load();
        match self.artefact {
            ReloadKind::Patch => terms.patch_poll,
            ReloadKind::Table => terms.poll,
        }
    }

    /// Keeps a copy for the next start, which verifies it again. So nothing depends on a safe
    /// directory.
    fn keep(&self, verified: &Verified) {
        let Some(copy) = self.cache.as_ref().filter(|_| self.copies.are_kept()) else { return };
        if let Err(error) = self.replace(copy, verified) {
            tracing::error!(
                copy = %copy.display(), %error,
                "no copy of what is in force could be kept: keygate cannot start while the URL is \
                 down\nhint: give it a writable cache_dir with room for the table"
            );
        }
    }
}

impl Fetcher {
    /// Never replaces a newer copy: another process of this configuration, where one is replacing
    /// the other, may have kept a newer one while this one was being fetched. The state file knows
    /// about that one, and would refuse a start from the older copy.
    fn replace(&self, copy: &Path, verified: &Verified) -> io::Result<()> {
        let turn = FileTurn::take(copy)?;
        let (bytes, serial) = match verified {
            Verified::Patch(patch) => (patch.file(), patch.serial()),
            Verified::Table(table) => (table.file(), table.serial()),
        };
        let kind = match self.artefact {
            ReloadKind::Patch => FileKind::Patch,
            ReloadKind::Table => FileKind::Table,
        };
        // A copy that cannot be read, or has no good signature, is worthless.
        let there = files::read_head(copy, SignedHead::MAX_BYTES).ok().flatten();
        let trust = &self.terms.load().trust;
        let there = there.and_then(|head| SignedHead::open(&head, kind, trust).ok());
        if there.is_some_and(|there| there.manifest.serial > serial) {
            return Ok(());
        }
        turn.place(bytes)?.force()
    }
}

/// The path of the copy of an artefact.
pub(super) fn cache_file(directory: &Path, artefact: ReloadKind) -> PathBuf {
    directory.join(match artefact {
        ReloadKind::Patch => "patch.kgp",
        ReloadKind::Table => "table.kgt",
    })
}
