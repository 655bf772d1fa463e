//! What is in force, with its memory, its metrics and its `/status`. One thread owns it. Imports
//! `clock`, `config`, `core`, `table`, `telemetry`.

mod show;

use std::sync::Arc;
use std::time::Duration;

use super::files::Placed;
use super::source::SourceError;
use super::state::StateFile;
use super::status::{
    AttemptStatus, ConfigStatus, MountedFileStatus, SourceStatus, StatusCell, StatusReport, Time,
};
use super::terms::{LoadFailure, UseCounting, VerifyTerms};
use crate::clock::Clock;
use crate::config::{AfterExpiry, TableConfig};
use crate::core::Now;
use crate::core::observe::Conduct;
use crate::table::{
    AcceptOutcome, AcceptRules, Acceptance, KeySet, Manifest, Patch, PublicKey, Refusal, Table,
    clock_behind_ms,
};
use crate::telemetry::Metrics;
use crate::telemetry::control::{FetchResult, ReloadKind};
use crate::telemetry::readiness::ReadinessPart;

/// A publisher's clock that is ahead of ours by more than this is reported in the log.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// A failure that persists.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    text: String,
    /// The file itself is at fault: only another file ends it, not that the source can be seen
    /// again.
    refused: bool,
}

/// What is wrong with table or patch now.
#[derive(Debug)]
struct Failing {
    said: Said,
    attempt: AttemptStatus,
}

/// The result of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfferOutcome {
    /// Other keys have to be put in force.
    Changed,
    Failed,
    Unchanged,
}

pub(super) struct KeysInForce {
    desk: Acceptance,
    state: StateFile,
    clock: Clock,
    metrics: Metrics,
    part: ReadinessPart,
    cell: StatusCell,
    status: StatusReport,
    min_serial: u64,
    after_expiry: AfterExpiry,
    /// The patch was asked for and its source answered, even if it has none. Until then nothing is
    /// served: a revocation could be missing.
    patch_known: bool,
    /// What was last logged about each artefact, so that a poll does not repeat it.
    failing: [Option<Failing>; 2],
    since: [Option<(u64, Time)>; 2],
    signers: Vec<String>,
    /// When the log last mentioned expiry, in nanoseconds of the process's clock.
    reminded: Option<u64>,
    /// Issue time of a patch whose lag must be reported once it is in force.
    lag_from: Option<u64>,
    /// The start reports failures itself, and what was published while keygate was down has no lag
    /// to report.
    starting: bool,
    /// The log has said that the patch's file is gone.
    patch_gone: bool,
    /// Why the latest patch is refused as a patch, although its restrictions apply.
    restricted: Option<Refusal>,
    /// Written, and not yet forced to disk.
    unforced: Option<Placed>,
    /// Whether requests are let through regardless of what is in force.
    conduct: Conduct,
}

fn rules(config: &TableConfig) -> AcceptRules {
    AcceptRules {
        min_serial: config.min_serial,
        shrink_brake: config.shrink_brake,
        refuse_after: match config.after_expiry {
            AfterExpiry::Refuse => Some(config.grace.as_secs()),
            AfterExpiry::Serve => None,
        },
    }
}

// === impl KeysInForce ===

impl KeysInForce {
    pub(super) fn new(
        config: &TableConfig,
        terms: &VerifyTerms,
        clock: Clock,
        metrics: Metrics,
        part: ReadinessPart,
        mut state: StateFile,
    ) -> Self {
        for artefact in [ReloadKind::Table, ReloadKind::Patch] {
            let reasons = Refusal::REASONS.iter().map(|r| r.0).chain(SourceError::REASONS.to_vec());
            for reason in reasons {
                metrics.control().table_reload_failures(artefact, reason).increment(0);
            }
        }
        let ledger = state.take_remembered();
        let (desk, dropped) =
            Acceptance::restore(rules(config), ledger, &terms.trust, &terms.bounds);
        for refusal in dropped {
            tracing::error!(
                reason = refusal.reason(),
                error = %refusal,
                "a patch remembered in the state file is no longer valid; its removals are lost"
            );
        }
        for patch in desk.shelf().iter().filter(|_| terms.uses == UseCounting::On) {
            // Its restrictions are worth more than a count.
            if let Err(error) = patch.count_uses() {
                let serial = patch.serial();
                tracing::error!(serial, %error, "uses of the keys of a patch are not counted");
            }
        }
        let mut keeper = Self {
            desk,
            state,
            clock,
            metrics,
            part,
            cell: StatusCell::default(),
            status: StatusReport::default(),
            min_serial: config.min_serial,
            after_expiry: config.after_expiry,
            patch_known: config.patch.is_none(),
            failing: [None, None],
            since: [None, None],
            signers: Vec::new(),
            reminded: None,
            lag_from: None,
            starting: true,
            patch_gone: false,
            restricted: None,
            unforced: None,
            conduct: Conduct::Enforced,
        };
        keeper.publish();
        keeper
    }

    /// What to serve. `None`: nothing may be served.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.desk.current().filter(|_| self.patch_known).cloned()
    }

    /// For the admin listener.
    pub(super) fn cell(&self) -> StatusCell {
        self.cell.clone()
    }

    /// See the field.
    pub(super) fn restricted(&self) -> Option<&Refusal> {
        self.restricted.as_ref()
    }

    pub(super) fn table(&self) -> Option<&Arc<Table>> {
        self.desk.current().map(|set| set.table())
    }

    /// The patch's source was checked: it has none, or returned one.
    pub(super) fn patch_is_known(&mut self) -> OfferOutcome {
        let changes = !std::mem::replace(&mut self.patch_known, true);
        if changes { OfferOutcome::Changed } else { OfferOutcome::Unchanged }
    }

    /// A table has arrived, or the reason why none has.
    pub(super) fn offer_table(
        &mut self,
        arrived: Result<Arc<Table>, LoadFailure>,
    ) -> Result<OfferOutcome, LoadFailure> {
        let now = self.clock.now();
        let serial = arrived.as_ref().ok().map(|t| t.serial());
        let accepted = arrived.and_then(|table| {
            self.check_clock(table.manifest(), now);
            Ok((self.desk.offer_table(Arc::clone(&table), now)?, table))
        });
        match accepted {
            Ok((AcceptOutcome::Unchanged, _)) => Ok(self.unchanged(ReloadKind::Table)),
            Ok((_, table)) => {
                let manifest = table.manifest();
                tracing::info!(
                    serial = manifest.serial,
                    signers = %ids(table.signed_by()),
                    keys = manifest.keys,
                    active = manifest.active,
                    patch = self.desk.current().and_then(|set| set.patch_serial()),
                    held_patches = self.desk.current().map_or(0, |set| set.held_patches()),
                    "table in force"
                );
                Ok(self.succeeded(ReloadKind::Table, manifest.serial))
            }
            Err(failure) => {
                self.failed(ReloadKind::Table, serial, &failure);
                Err(failure)
            }
        }
    }

    /// A patch has arrived, or the reason why none has.
    pub(super) fn offer_patch(
        &mut self,
        arrived: Result<Arc<Patch>, LoadFailure>,
    ) -> Result<OfferOutcome, LoadFailure> {
        let now = self.clock.now();
        let serial = arrived.as_ref().ok().map(|p| p.serial());
        let accepted = arrived.and_then(|patch| {
            self.check_clock(patch.manifest(), now);
            Ok((self.desk.offer_patch(Arc::clone(&patch), now)?, patch))
        });
        let (accepted, patch) = match accepted {
            Ok(both) => both,
            Err(failure) => {
                self.failed(ReloadKind::Patch, serial, &failure);
                return Err(failure);
            }
        };
        let serial = patch.serial();
        let base = patch.manifest().base.map_or(0, |b| b.serial);
        let entries = patch.entries();
        match accepted {
            AcceptOutcome::Included | AcceptOutcome::Unchanged => {
                self.unchanged(ReloadKind::Patch);
                return Ok(self.patch_is_known());
            }
            AcceptOutcome::InForce => tracing::info!(serial, base, entries, "patch in force"),
            AcceptOutcome::Held => tracing::info!(
                serial,
                base,
                entries,
                "patch waits for its table; its removals and restrictions are in force"
            ),
            AcceptOutcome::Restricted(refusal) => {
                // Genuine, but not made for what is in force: its restrictions apply anyway.
                self.restricted = Some(refusal.clone());
                self.failed(ReloadKind::Patch, Some(serial), &LoadFailure::Refused(refusal));
                self.lag_from = Some(patch.manifest().issued_at_ms);
                self.patch_known = true;
                return Ok(OfferOutcome::Changed);
            }
        }
        self.lag_from = Some(patch.manifest().issued_at_ms);
        self.patch_known = true;
        Ok(self.succeeded(ReloadKind::Patch, serial))
    }

    fn failed(&mut self, artefact: ReloadKind, serial: Option<u64>, failure: &LoadFailure) {
        let control = self.metrics.control();
        control.source_fetches(artefact, FetchResult::Failed).increment(1);
        control.table_reload_failures(artefact, failure.reason()).increment(1);
        control.table_last_reload_successful.set(0);
        let text = failure.to_string();
        let refused = matches!(failure, LoadFailure::Refused(_));
        let said = Said { text: text.clone(), refused };
        if !self.starting && self.said(artefact) != Some(&said) {
            let current = self.desk.current();
            tracing::error!(
                what = artefact.as_str(),
                reason = failure.reason(),
                refused_serial = serial,
                in_force_serial = current.map(|set| set.serial()),
                in_force_patch = current.and_then(|set| set.patch_serial()),
                error = %text,
                "not put in force; {}",
                match current {
                    Some(_) => "what is in force stays",
                    None => "no table is in force",
                }
            );
        }
        let attempted = AttemptStatus {
            at: Time { unix_ms: self.clock.now().unix_ms },
            what: artefact.as_str(),
            ok: false,
            serial,
            reason: Some(failure.reason()),
            error: Some(text.clone()),
        };
        *self.failing(artefact) = Some(Failing { said, attempt: attempted.clone() });
        self.status.last_failure = Some(attempted.clone());
        self.status.last_reload = Some(attempted);
        self.publish();
    }

    /// A look found the file that was processed before, whatever the result was.
    pub(super) fn same_file(&mut self, artefact: ReloadKind) -> OfferOutcome {
        if self.said(artefact).is_some_and(|said| said.refused) {
            self.metrics.control().source_fetches(artefact, FetchResult::Unchanged).increment(1);
            return OfferOutcome::Unchanged;
        }
        self.unchanged(artefact)
    }

    /// A look found what is in force.
    pub(super) fn unchanged(&mut self, artefact: ReloadKind) -> OfferOutcome {
        self.metrics.control().source_fetches(artefact, FetchResult::Unchanged).increment(1);
        if self.failing(artefact).take().is_some() {
            // What failed before now succeeds, with no other version.
            self.right_again(artefact, None);
            self.publish();
        }
        OfferOutcome::Unchanged
    }

    /// There is no patch where one could be. Not a failure: perhaps none was published.
    pub(super) fn no_patch(&mut self) -> OfferOutcome {
        if self.desk.current().is_some_and(|set| set.patch().is_some())
            && !std::mem::replace(&mut self.patch_gone, true)
        {
            tracing::warn!("the patch's file is gone; the patch stays in force");
        }
        self.metrics
            .control()
            .source_fetches(ReloadKind::Patch, FetchResult::Unchanged)
            .increment(1);
        if self.failing(ReloadKind::Patch).take().is_some() {
            // Removing a bad file resolves the failure.
            self.right_again(ReloadKind::Patch, None);
            self.publish();
        }
        self.patch_is_known()
    }

    pub(super) fn took(&self, artefact: ReloadKind, took: Duration) {
        self.metrics.control().table_load_duration(artefact, took);
    }

    /// Checks what is in force against a changed configuration.
    pub(super) fn reconfigure(&mut self, config: &TableConfig, terms: &VerifyTerms) {
        self.min_serial = config.min_serial;
        self.after_expiry = config.after_expiry;
        self.desk.set_rules(rules(config));
        let dropped = self.desk.set_trust(&terms.trust);
        if !dropped.is_empty() {
            self.state.begin_anew();
        }
        for (what, refusal) in dropped {
            let error = refusal.to_string();
            tracing::error!(
                serial = what.serial,
                reason = refusal.reason(),
                // Its own hint would suggest trusting the signer again.
                error = error.lines().next(),
                in_force_serial = self.desk.current().map(|set| set.serial()),
                in_force_patch = self.desk.current().and_then(|set| set.patch_serial()),
                "taken out of force: its signer is no longer trusted\n\
                 hint: publish anew with a signer that is: `keygatectl table build --signer FILE`"
            );
        }
        self.reminded = None;
        self.publish();
    }

    /// Before the swap: writes what is about to be in force.
    pub(super) fn write_down(&mut self) -> Option<Placed> {
        self.state.place(&self.desk.ledger())
    }

    /// After the swap: updates what is reported. The next tick handles the disk: neither this
    /// revocation nor the next one waits for it.
    pub(super) fn in_force(&mut self, placed: Option<Placed>) {
        if let Some(issued_ms) = self.lag_from.take() {
            let lag = self.clock.now().unix_ms.saturating_sub(issued_ms);
            self.metrics.control().revocation_lag(Duration::from_millis(lag));
        }
        if let Some(placed) = placed {
            self.unforced = Some(match self.unforced.take() {
                Some(earlier) => placed.after(earlier),
                None => placed,
            });
        }
        self.publish();
    }

    pub(super) fn started(&mut self) {
        self.lag_from = None;
        self.starting = false;
    }

    /// What is written and not yet forced to disk. The caller forces it, and then calls
    /// [`Self::forced`].
    pub(super) fn take_unforced(&mut self) -> Option<Placed> {
        self.unforced.take()
    }

    pub(super) fn forced(&mut self, result: std::io::Result<()>) {
        let before = self.state.is_persistent();
        self.state.forced(result);
        if self.state.is_persistent() != before {
            self.publish();
        }
    }

    /// Once a second, and at the end: ages, expiry, and anything that could not be written before.
    pub(super) fn tick(&mut self, conduct: Conduct) {
        self.conduct = conduct;
        self.tend_state();
        self.show_ages();
        self.remind();
    }

    /// Writes the state file if it could not be written before, or if somebody has removed or
    /// changed it.
    pub(super) fn tend_state(&mut self) {
        let was_persistent = self.state.is_persistent();
        self.state.look_after(|| self.desk.ledger());
        if self.state.is_settled() {
            return;
        }
        if let Some(placed) = self.write_down() {
            self.in_force(Some(placed));
        } else if self.state.is_persistent() != was_persistent {
            self.publish();
        }
    }

    pub(super) fn show_sources(&mut self, sources: Vec<SourceStatus>) {
        if self.status.sources != sources {
            self.status.sources = sources;
            self.cell.store(self.status.clone());
        }
    }

    /// The process is about to end: from now on a successor may write the state file, and this
    /// process does not.
    pub(super) fn leave(&mut self) {
        self.tend_state();
        self.state.leave();
    }

    /// Files that are mounted alone, each reported once.
    pub(super) fn show_mounted(&mut self, mounted: Vec<MountedFileStatus>) {
        for file in mounted.iter().filter(|file| !self.status.mounted_files.contains(file)) {
            tracing::error!(
                key = file.key,
                path = file.path,
                "this file is a mount of its own and will never see a replacement: what is renamed \
                 into its place outside does not arrive here\n\
                 hint: mount the directory that holds it, without subPath; until then a change \
                 takes a restart of the container"
            );
        }
        if self.status.mounted_files != mounted {
            self.status.mounted_files = mounted;
            self.cell.store(self.status.clone());
        }
    }

    /// The configuration in force. Its error, if any, is from the last attempt.
    pub(super) fn show_config(&mut self, config: ConfigStatus) {
        self.status.config = config;
        self.publish();
    }

    pub(super) fn config_failed(&mut self, error: String) {
        let at = Time { unix_ms: self.clock.now().unix_ms };
        self.status.config.error = Some(error.clone());
        let what = "config";
        let failed = AttemptStatus {
            at,
            what,
            ok: false,
            serial: None,
            reason: Some(what),
            error: Some(error),
        };
        self.status.last_failure = Some(failed.clone());
        self.status.last_reload = Some(failed);
        self.publish();
    }

    fn succeeded(&mut self, artefact: ReloadKind, serial: u64) -> OfferOutcome {
        let now_ms = self.clock.now().unix_ms;
        let control = self.metrics.control();
        control.source_fetches(artefact, FetchResult::Changed).increment(1);
        control.table_reloads(artefact).increment(1);
        control.table_last_reload_timestamp.set(now_ms as f64 / 1000.0);
        *self.failing(artefact) = None;
        if artefact == ReloadKind::Patch {
            self.patch_gone = false;
        }
        self.right_again(artefact, Some(serial));
        OfferOutcome::Changed
    }

    fn right_again(&mut self, artefact: ReloadKind, serial: Option<u64>) {
        // The other artefact may still be wrong.
        let right = self.failing.iter().all(Option::is_none);
        self.metrics.control().table_last_reload_successful.set(u8::from(right));
        self.status.last_reload = Some(AttemptStatus {
            at: Time { unix_ms: self.clock.now().unix_ms },
            what: artefact.as_str(),
            ok: true,
            serial,
            reason: None,
            error: None,
        });
    }

    fn failing(&mut self, artefact: ReloadKind) -> &mut Option<Failing> {
        let [table, patch] = &mut self.failing;
        match artefact {
            ReloadKind::Patch => patch,
            ReloadKind::Table => table,
        }
    }

    fn said(&mut self, artefact: ReloadKind) -> Option<&Said> {
        self.failing(artefact).as_ref().map(|failing| &failing.said)
    }

    fn check_clock(&self, manifest: &Manifest, now: Now) {
        if let Some(behind) = clock_behind_ms(manifest, now)
            && Duration::from_millis(behind) > CLOCK_TOLERANCE
        {
            tracing::warn!(
                serial = manifest.serial,
                behind_ms = behind,
                "issued in the future: this machine's clock is behind the publisher's; expiry and \
                 not-before of keys are judged by this machine's\n\
                 hint: set the clocks by NTP"
            );
        }
    }
}

fn ids(signed_by: &[PublicKey]) -> String {
    signed_by.iter().map(|k| k.id().to_string()).collect::<Vec<_>>().join(" ")
}
