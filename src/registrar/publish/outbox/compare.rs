//! Checks, before anything else, whether the database is older than what was published.

use std::sync::PoisonError;

use super::super::behind::{Behind, Evidence, EvidenceSource, audit_behind, newer};
use super::super::high_water::{HighMark, HighWaterFile};
use super::super::make::IssueTerms;
use super::super::target::there;
use super::Outbox;
use super::heed::ASKED;
use crate::registrar::store::{AuditHead, AuditQuery, Publication, StoreError};

impl Outbox {
    /// Compares the database with what was published, before anybody changes it.
    pub(in super::super) async fn begin(&mut self) -> Result<(), StoreError> {
        self.look_at_audit().await?;
        self.hear_signer(ASKED).await?;
        let publication = self.store.publication(&self.name).await?;
        let trust = self.terms.as_ref().and_then(IssueTerms::trust);
        self.book.trusts(&self.name, trust);
        self.book.publishes(&self.name, publication.serial);
        let known = self.store.sidecars(&self.name).await?;
        self.book.remember(known, self.clock.now().unix_ms, |report| self.asks(report));
        let found = self.look_behind(&publication).await?;
        self.tell(|state| {
            (state.serial, state.published) = (publication.serial, publication.published);
            state.base = publication.base;
        });
        self.settle_behind(found);
        Ok(())
    }

    pub(super) fn marked(&self) -> HighMark {
        self.high_water.lock().unwrap_or_else(PoisonError::into_inner).mark(self.name.as_str())
    }

    fn noted_audit(&self) -> AuditHead {
        self.high_water.lock().unwrap_or_else(PoisonError::into_inner).audit()
    }

    /// Whether the log has the line that was noted. Returns where the log ends.
    pub(super) async fn look_at_audit(&mut self) -> Result<AuditHead, StoreError> {
        let noted = self.noted_audit();
        let head = self.store.audit_head().await?;
        let query = AuditQuery { before: Some(noted.seq + 1), limit: 1, ..AuditQuery::default() };
        let there = self.store.audit(query).await?.lines.first().map(|line| line.head());
        self.audit = audit_behind(noted, head, there);
        // Another audience may have come further meanwhile, or the file been read again.
        if self.audit.is_none() && self.noted_audit() == noted {
            self.store.note_audit(noted);
        }
        Ok(head)
    }

    pub(super) async fn look_behind(
        &mut self,
        publication: &Publication,
    ) -> Result<Option<Behind>, StoreError> {
        if self.audit.is_some() {
            // A recovery by another process settles it. The lock keeps this process from writing the
            // file between reading it and taking over what it says.
            let mut known = self.high_water.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(file) = HighWaterFile::open(&self.directory) {
                known.follow(file);
            }
        }
        // A running server's database goes back too: to a standby that lacks the last changes.
        self.look_at_audit().await?;
        let (mut importing, has) = (publication.importing, publication.serial);
        let found = match newer(publication, &self.evidence()) {
            // Another process may have changed and published something since it was read, or begun
            // an import, which lifts the serial before all keys are there.
            Some(evidence) => {
                let again = self.store.publication(&self.name).await?;
                importing = importing.or(again.importing);
                newer(&again, &[evidence])
            }
            None => None,
        };
        let found = found.map(|evidence| Behind::Serial { has, evidence });
        // Whatever else was published since: a part of the keys is no beginning for a recovery.
        let import = importing.map(|of| Behind::Import { of });
        Ok(import.or(found).or_else(|| self.audit.clone()))
    }

    /// All evidence of how far the audience had come.
    pub(in super::super) fn evidence(&self) -> Vec<Evidence> {
        let mark = self.marked();
        let mut found = vec![Evidence { serial: mark.serial, source: EvidenceSource::HighWater }];
        for target in &self.targets {
            for path in [&target.table, &target.patch] {
                // A file that cannot be read is reported when something has to be written there.
                if let Ok(Some(manifest)) = there(path)
                    && *manifest.audience == *self.name.as_str()
                {
                    let source = EvidenceSource::Target(path.display().to_string().into());
                    found.push(Evidence { serial: manifest.serial, source });
                }
            }
        }
        found.extend(self.signed.clone());
        found.extend(self.book.all(&self.name).into_iter().map(|report| Evidence {
            serial: report.serial.max(report.base),
            source: EvidenceSource::Sidecar { fleet: report.fleet, instance: report.instance },
        }));
        found
    }

    /// A sidecar or the signer has shown more than the database knows. The next start has to know
    /// it before anybody asks again.
    pub(super) fn remember_proof(&self, found: Option<&Behind>) {
        let Some(Behind::Serial { evidence, .. }) = found else { return };
        if matches!(evidence.source, EvidenceSource::Sidecar { .. } | EvidenceSource::Signer) {
            self.remember_evidence(evidence);
        }
    }

    pub(super) fn remember_evidence(&self, evidence: &Evidence) {
        let mut file = self.high_water.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = HighMark { serial: evidence.serial, ..file.mark(self.name.as_str()) };
        if file.raise(self.name.as_str(), mark, AuditHead::default())
            && let Err(error) = file.write()
        {
            tracing::error!(audience = %self.name, %error, "that the database is behind was not noted");
        }
    }

    pub(super) fn settle_behind(&mut self, found: Option<Behind>) {
        let known = self.state.borrow().behind.clone();
        if known == found {
            return;
        }
        match found {
            Some(behind) => self.tell_behind(behind),
            None => {
                tracing::info!(audience = %self.name, "the database has caught up");
                self.store.refuse_changes(&self.name, None);
                self.tell(|state| state.behind = None);
            }
        }
    }

    pub(super) fn tell_behind(&self, behind: Behind) {
        tracing::error!(audience = %self.name, %behind, "the database is behind what was published: it takes no changes until it has caught up, and `keygatectl admin check` says how");
        self.store.refuse_changes(&self.name, Some(behind.to_string().into()));
        self.tell(|state| state.behind = Some(behind));
    }
}
