//! One look at table and patch: reads, verifies and offers what may have changed. Imports `table`,
//! `telemetry`.

use std::sync::Arc;
use std::time::Duration;

use super::super::fetch::{FetchOutcome, Fetched, Verified};
use super::super::keeper::OfferOutcome;
use super::super::lower_priority;
use super::super::source::{Contents, PathSource, SeenFile};
use super::super::terms::{LoadFailure, VerifyTerms};
use super::{PATIENCE, ReloadEvent, ReloadLoop, RunningSource, forget, nanos};
use crate::table::{Buffer, Patch, Table};
use crate::telemetry::control::ReloadKind;

/// Between two attempts at something that was refused because of the time.
const RETRY: Duration = Duration::from_secs(60);

/// A table up to this size is loaded on the reload thread itself.
const SMALL: u64 = 4 << 20;

/// A large table that was loaded in the background.
pub(in super::super) struct TableLoad {
    result: Result<Arc<Table>, LoadFailure>,
    seen: Option<SeenFile>,
    took: Duration,
    /// The terms it was verified with.
    terms: Arc<VerifyTerms>,
}

/// The purpose of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookAttempt {
    /// Somebody may be writing: what cannot be read yet is not a failure.
    Early,
    /// The current contents are final.
    Final,
}

// === impl ReloadLoop ===

impl ReloadLoop {
    /// One look at every path. What changed is read, verified and offered, and one swap puts it in
    /// force.
    pub(super) fn look(&mut self, how: LookAttempt) {
        // Arm first, then look: anything that happens after the look wakes us again.
        self.watch.refresh();
        let now = self.clock.now();
        self.timers.table_poll = now.mono_ns + nanos(self.config.poll);
        self.timers.patch_poll = match &self.patch {
            Some(RunningSource::Path(_)) => now.mono_ns + nanos(self.config.patch_poll),
            _ => u64::MAX,
        };
        let table = self.look_at_table(how);
        let patch = self.look_at_patch(how);
        if table == OfferOutcome::Changed || patch == OfferOutcome::Changed {
            self.swap(None);
        }
        self.show_sources();
        self.look_at_files();
    }

    fn look_at_table(&mut self, how: LookAttempt) -> OfferOutcome {
        let wall_ms = self.clock.now().unix_ms;
        let RunningSource::Path(source) = &mut self.table else { return OfferOutcome::Unchanged };
        match source.may_differ(wall_ms) {
            Ok(false) => return self.keeper.same_file(ReloadKind::Table),
            Ok(true) => {}
            Err(_) if how == LookAttempt::Early => return OfferOutcome::Unchanged,
            Err(error) => {
                let outcome = self.keeper.offer_table(Err(LoadFailure::Source(error)));
                return self.outcome(outcome);
            }
        }
        if source.bytes().is_some_and(|bytes| bytes > SMALL) {
            self.load_aside();
            return OfferOutcome::Unchanged;
        }
        self.load_table(how)
    }

    /// Loads the table here and now.
    pub(super) fn load_table(&mut self, how: LookAttempt) -> OfferOutcome {
        let RunningSource::Path(source) = &mut self.table else { return OfferOutcome::Unchanged };
        let began = self.clock.now();
        let terms = self.terms.load_full();
        let (result, seen) = open(source, began.unix_ms, |bytes| Ok(terms.open_table(bytes)?));
        if how == LookAttempt::Early && result.is_err() {
            return OfferOutcome::Unchanged;
        }
        if let Some(seen) = seen {
            source.processed(seen);
        }
        self.offer_table(result, self.since(began.mono_ns))
    }

    /// Loads a large table in the background. The result arrives as an event.
    fn load_aside(&mut self) {
        if std::mem::replace(&mut self.loading, true) {
            self.again = true;
            return;
        }
        let RunningSource::Path(source) = &self.table else { return };
        let (source, events, clock) = (source.clone(), self.events.clone(), self.clock.clone());
        let terms = self.terms.load_full();
        let spawned = std::thread::Builder::new().name("table-load".into()).spawn(move || {
            lower_priority();
            let began = clock.now();
            let (result, seen) = open(&source, began.unix_ms, |bytes| Ok(terms.open_table(bytes)?));
            let took = Duration::from_nanos(clock.now().mono_ns - began.mono_ns);
            let _ =
                events.send(ReloadEvent::Loaded(Box::new(TableLoad { result, seen, took, terms })));
        });
        if let Err(error) = spawned {
            self.loading = false;
            tracing::error!(%error, "cannot start the thread that loads tables; trying again");
        }
    }

    pub(super) fn loaded(&mut self, load: TableLoad) {
        self.loading = false;
        if !Arc::ptr_eq(&load.terms, &self.terms.load_full()) {
            // Verified with terms that are no longer configured.
            self.again = true;
        }
        if std::mem::take(&mut self.again) {
            self.forget();
            self.timers.look = Some(self.clock.now().mono_ns);
            return;
        }
        let now = self.clock.now().mono_ns;
        if load.result.is_err() && self.timers.writing.is_some_and(|at| now < at + nanos(PATIENCE))
        {
            // Still being written: the close or the end of patience triggers the next look.
            return;
        }
        if let (RunningSource::Path(source), Some(seen)) = (&mut self.table, load.seen) {
            source.processed(seen);
        }
        if self.offer_table(load.result, load.took) == OfferOutcome::Changed {
            self.swap(None);
        }
    }

    pub(super) fn look_at_patch(&mut self, how: LookAttempt) -> OfferOutcome {
        let began = self.clock.now();
        let Some(RunningSource::Path(source)) = &mut self.patch else {
            return OfferOutcome::Unchanged;
        };
        let terms = self.terms.load_full();
        let result = match source.may_differ(began.unix_ms) {
            Ok(false) => return self.keeper.same_file(ReloadKind::Patch),
            Ok(true) => {
                let (result, seen) =
                    open(source, began.unix_ms, |bytes| Ok(terms.open_patch(bytes)?));
                if let Some(seen) = seen.filter(|_| how == LookAttempt::Final || result.is_ok()) {
                    source.processed(seen);
                }
                result
            }
            Err(error) => Err(LoadFailure::Source(error)),
        };
        if let Err(failure) = &result
            && failure.is_missing()
        {
            return self.keeper.no_patch();
        }
        if how == LookAttempt::Early && result.is_err() {
            return OfferOutcome::Unchanged;
        }
        self.offer_patch(result, self.since(began.mono_ns))
    }

    fn offer_table(
        &mut self,
        table: Result<Arc<Table>, LoadFailure>,
        took: Duration,
    ) -> OfferOutcome {
        self.keeper.took(ReloadKind::Table, took);
        let outcome = self.keeper.offer_table(table);
        if outcome.as_ref().is_ok_and(|o| *o == OfferOutcome::Changed) {
            // A patch that did not fit the last table may fit this one.
            forget(self.patch.as_mut());
        }
        self.outcome(outcome)
    }

    fn offer_patch(
        &mut self,
        patch: Result<Arc<Patch>, LoadFailure>,
        took: Duration,
    ) -> OfferOutcome {
        self.keeper.took(ReloadKind::Patch, took);
        let outcome = self.keeper.offer_patch(patch);
        self.outcome(outcome)
    }

    fn outcome(&mut self, outcome: Result<OfferOutcome, LoadFailure>) -> OfferOutcome {
        outcome.unwrap_or_else(|failure| {
            if failure.may_pass() {
                self.timers.retry = Some(self.clock.now().mono_ns + nanos(RETRY));
            }
            OfferOutcome::Failed
        })
    }

    /// A URL's answer.
    pub(super) fn fetched(&mut self, fetched: Fetched) {
        let Fetched { artefact, result, took, verdict } = fetched;
        let outcome = match result {
            Ok(None) => self.keeper.unchanged(artefact),
            Ok(Some(Verified::Table(table))) => self.offer_table(Ok(table), took),
            Ok(Some(Verified::Patch(patch))) => self.offer_patch(Ok(patch), took),
            Err(failure) if artefact == ReloadKind::Patch && failure.is_missing() => {
                self.keeper.no_patch()
            }
            Err(failure) => {
                let outcome = match artefact {
                    ReloadKind::Patch => self.keeper.offer_patch(Err(failure)),
                    ReloadKind::Table => self.keeper.offer_table(Err(failure)),
                };
                self.outcome(outcome)
            }
        };
        if outcome == OfferOutcome::Changed {
            self.swap(None);
        }
        let _ = verdict.send(match outcome {
            OfferOutcome::Changed => FetchOutcome::Taken,
            OfferOutcome::Failed => FetchOutcome::Refused,
            OfferOutcome::Unchanged => FetchOutcome::Unchanged,
        });
        self.show_sources();
    }
}

/// Reads and verifies one buffer, and uses the same buffer.
fn open<T>(
    source: &PathSource,
    wall_ms: u64,
    verify: impl FnOnce(Buffer) -> Result<T, LoadFailure>,
) -> (Result<T, LoadFailure>, Option<SeenFile>) {
    match source.read(wall_ms) {
        Ok(Contents { bytes, seen }) => (verify(bytes), Some(seen)),
        Err(error) => (Err(LoadFailure::Source(error)), None),
    }
}
