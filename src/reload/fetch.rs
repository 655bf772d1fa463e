//! A thread per URL: fetches, verifies, waits for the verdict, keeps the copy on disk.
//! Imports `clock`, `table`, `reload::{keeper, url, files}`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::files::{self, FileTurn};
use super::source::SourceError;
use super::terms::{LoadFailure, VerifyTerms};
use super::url::{Fetch, FetchAnswer, TransferDeadline, UrlSource, Validators};
use crate::clock::Clock;
use crate::table::FileKind;
use crate::table::{Buffer, Patch, Refusal, SignedHead, Table};
use crate::telemetry::control::ReloadKind;

/// Longest pause after failures, unless polling is slower still.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// Shortest pause after a failure, and between two answers of a server that waits.
const MIN_PAUSE: Duration = Duration::from_millis(500);

/// What a source gave, verified.
#[derive(Clone, Debug)]
pub(super) enum Verified {
    Patch(Arc<Patch>),
    Table(Arc<Table>),
}

/// What a source gave, and what to recognise it by.
pub(super) struct VerifiedArrival {
    pub(super) verified: Verified,
    /// `None`: it was not fetched just now.
    pub(super) validators: Option<Validators>,
}

/// What the fetcher tells the reload thread.
pub(super) struct Fetched {
    pub(super) artefact: ReloadKind,
    /// `Ok(None)`: nothing new.
    pub(super) result: Result<Option<Verified>, LoadFailure>,
    pub(super) took: Duration,
    /// Where the verdict on what was fetched goes.
    pub(super) verdict: SyncSender<FetchOutcome>,
}

/// What became of what was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FetchOutcome {
    Refused,
    Taken,
}

/// What the reload thread tells a fetcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FetchCommand {
    /// Fetch now, whatever was taken before.
    Again,
}

/// Whether copies are kept on the disk: until the process is about to end, when they are its
/// successor's. Clones are one and the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies(Arc<AtomicBool>);

/// One fetcher's belongings.
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

// === impl Fetcher ===

impl Fetcher {
    /// The first fetch, at start: what the server has, or else the copy on disk.
    pub(super) fn first(&mut self) -> Result<VerifiedArrival, LoadFailure> {
        let failure = match self.fetch(TransferDeadline::AtOnce) {
            Ok((Some(arrived), _)) => return Ok(arrived),
            // Nothing was asked for that could be unmodified.
            Ok((None, _)) => {
                LoadFailure::Source(SourceError::Status { status: 304, retry_after: None })
            }
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

    /// What was fetched is in force: only something newer is wanted, and a copy is kept.
    pub(super) fn taken(&mut self, verified: &Verified, validators: Validators) {
        self.source.taken(validators);
        self.keep(verified);
    }

    /// Until nobody listens any more: `tell` says false.
    pub(super) fn run(mut self, commands: &Receiver<FetchCommand>, tell: impl Fn(Fetched) -> bool) {
        let mut failures = 0u32;
        let mut pause = jittered(self.poll());
        loop {
            let patience = match commands.recv_timeout(pause) {
                Ok(FetchCommand::Again) => {
                    // Any number of them is one.
                    while commands.try_recv().is_ok() {}
                    self.source.forget();
                    TransferDeadline::AtOnce
                }
                Err(RecvTimeoutError::Timeout) => TransferDeadline::Wait,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let began = self.clock.now().mono_ns;
            let poll = self.poll();
            let fetched = self.fetch(patience);
            let took = Duration::from_nanos(self.clock.now().mono_ns.saturating_sub(began));
            let (verdict, answer) = sync_channel(1);
            let message = |result| Fetched { artefact: self.artefact, result, took, verdict };
            let (heard, next) = match fetched {
                Ok((None, waited)) => {
                    failures = 0;
                    // A server that holds the answer back paces us itself; one that says so and
                    // does not must not be asked in a loop.
                    let paced = waited && took >= MIN_PAUSE;
                    (tell(message(Ok(None))), if paced { MIN_PAUSE } else { poll })
                }
                Ok((Some(VerifiedArrival { verified, validators }), waited)) => {
                    let copy = verified.clone();
                    let heard = tell(message(Ok(Some(verified))));
                    if answer.recv() == Ok(FetchOutcome::Taken) {
                        failures = 0;
                        self.taken(&copy, validators.unwrap_or_default());
                        (heard, if waited { MIN_PAUSE } else { poll })
                    } else {
                        failures += 1;
                        (heard, back_off(poll, failures, None))
                    }
                }
                Err(failure) => {
                    let retry_after = match &failure {
                        // Nothing was published yet: that is no trouble of the server's.
                        f if f.is_missing() && self.artefact == ReloadKind::Patch => None,
                        LoadFailure::Source(SourceError::Status { retry_after, .. }) => {
                            failures += 1;
                            *retry_after
                        }
                        _ => {
                            failures += 1;
                            None
                        }
                    };
                    let pause = match failures {
                        0 => poll,
                        n => back_off(poll, n, retry_after),
                    };
                    (tell(message(Err(failure))), pause)
                }
            };
            if !heard {
                return;
            }
            pause = jittered(next);
        }
    }

    /// `None`: nothing new. The second part: whether the server held the answer back.
    fn fetch(
        &self,
        patience: TransferDeadline,
    ) -> Result<(Option<VerifiedArrival>, bool), LoadFailure> {
        let terms = self.terms.load_full();
        let Fetch { answer, waited, .. } = self.source.fetch(patience, terms.bounds.max_bytes)?;
        match answer {
            FetchAnswer::Unchanged => Ok((None, waited)),
            FetchAnswer::Changed { bytes, validators } => {
                let verified = Verified::open(self.artefact, bytes, &terms)?;
                Ok((Some(VerifiedArrival { verified, validators: Some(validators) }), waited))
            }
        }
    }

    fn poll(&self) -> Duration {
        let terms = self.terms.load();
        match self.artefact {
            ReloadKind::Patch => terms.patch_poll,
            ReloadKind::Table => terms.poll,
        }
    }

    /// Keeps a copy for the next start. It is verified again then, so that nothing depends on the
    /// directory being safe.
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
    /// Never by an older one: another process of this configuration, of which one replaces the other,
    /// may have kept a newer one while this one was fetched. The state file knows of that, and would
    /// refuse a start from the older one.
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
        // What cannot be read, or has no good signature, is worth nothing.
        let there = files::read_head(copy, SignedHead::MAX_BYTES).ok().flatten();
        let trust = &self.terms.load().trust;
        let there = there.and_then(|head| SignedHead::open(&head, kind, trust).ok());
        if there.is_some_and(|there| there.manifest.serial > serial) {
            return Ok(());
        }
        turn.place(bytes)?.force()
    }
}

/// Where the copy of an artefact lies.
pub(super) fn cache_file(directory: &Path, artefact: ReloadKind) -> PathBuf {
    directory.join(match artefact {
        ReloadKind::Patch => "patch.kgp",
        ReloadKind::Table => "table.kgt",
    })
}

/// Doubles with each failure. A server's own word counts, within reason.
fn back_off(poll: Duration, failures: u32, retry_after: Option<Duration>) -> Duration {
    let longest = MAX_PAUSE.max(poll);
    let doubled = poll.max(MIN_PAUSE).saturating_mul(1 << failures.min(16));
    doubled.max(retry_after.unwrap_or_default()).min(longest)
}

/// Up to a quarter less or more, so that a fleet that was started together does not ask together.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0u8; 2];
    // Without randomness the fleet asks together; that is all.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    pause.mul_f64(0.75 + f64::from(u16::from_le_bytes(byte)) / f64::from(u16::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_failures_and_have_an_end() {
        let poll = Duration::from_secs(10);
        assert_eq!(back_off(poll, 1, None), Duration::from_secs(20));
        assert_eq!(back_off(poll, 3, None), Duration::from_secs(80));
        assert_eq!(back_off(poll, 99, None), MAX_PAUSE);
        assert_eq!(back_off(poll, 1, Some(Duration::from_secs(60))), Duration::from_secs(60));
        assert_eq!(back_off(poll, 1, Some(Duration::from_secs(86_400))), MAX_PAUSE);
        assert_eq!(back_off(Duration::ZERO, 1, None), MIN_PAUSE * 2);
        let hour = Duration::from_secs(3600);
        assert_eq!(back_off(hour, 5, None), hour, "never asks more often than when all is well");
    }

    #[test]
    fn jitter_spreads_within_a_quarter() {
        let pauses: Vec<_> = (0..200).map(|_| jittered(Duration::from_secs(100))).collect();
        assert!(pauses.iter().all(|p| (75.0..=125.0).contains(&p.as_secs_f64())));
        assert!(pauses.iter().any(|p| *p != pauses[0]));
    }
}
