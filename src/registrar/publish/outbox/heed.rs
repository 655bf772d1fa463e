//! Dealing with a signer that judges. What it is about to get is noted first. What it refuses may
//! pass in another way, or may show that the database is an older one.

use std::time::Duration;

use tokio::sync::oneshot;

use super::super::behind::{Behind, Evidence, EvidenceSource, newer};
use super::super::fault::PublishFault;
use super::super::make::IssueTerms;
use super::Outbox;
use crate::manage::registry::settings::RawSettings;
use crate::manage::signer::signs::{SignFault, SigningReason, SigningRefusal};
use crate::manage::signing::source::SignerSource;
use crate::registrar::store::{AudienceName, Publication, StoreError};

/// How long a start waits for a signer that does not answer.
pub(super) const ASKED: Duration = Duration::from_secs(2);

/// The signer's statement of how far it has signed.
pub(super) type ToldSerial = Result<Option<u64>, SignFault>;

/// How often to look for what another instance has signed and is about to store; the pause between
/// looks.
const KEEP_LOOKS: u32 = 30;
const KEEP_LOOK: Duration = Duration::from_millis(100);

// === impl Outbox ===

impl Outbox {
    /// Notes that something of this serial is about to be signed, if the signer remembers serials.
    /// If it is never stored, the database then knows why the signer is ahead. Returns what was
    /// noted before.
    pub(super) async fn note_signing(
        &mut self,
        terms: &IssueTerms,
        serial: u64,
    ) -> Result<u64, StoreError> {
        self.tried = serial;
        if !matches!(terms.signer, SignerSource::Socket { .. }) {
            return Ok(0);
        }
        let before = self.store.noted_signing(&self.name).await?;
        self.store.note_signing(&self.name, serial).await?;
        Ok(before)
    }

    /// What the signer refused, it did not sign.
    pub(super) async fn withdraw_refused<T, E: Into<PublishFault>>(
        &self,
        before: u64,
        made: Result<T, E>,
    ) -> Result<T, PublishFault> {
        let fault = match made {
            Ok(made) => return Ok(made),
            Err(fault) => fault.into(),
        };
        // A signer that cannot sign may still have noted the serial on its disk.
        let is_judged = |refusal: &SigningRefusal| refusal.reason != SigningReason::Unavailable;
        if fault.refusal().is_some_and(is_judged) {
            self.store.withdraw_signing(&self.name, self.tried, before).await?;
        }
        Err(fault)
    }

    /// What a judging signer refused may pass in another way.
    pub(super) async fn heed(
        &mut self,
        fault: &PublishFault,
        terms: &IssueTerms,
        settings: &RawSettings,
    ) -> Result<(), PublishFault> {
        match fault.refusal().map(|refusal| refusal.reason) {
            // The signer does not know our table, or no longer knows it, or knows a table without
            // what was signed since: make a new one for it.
            Some(SigningReason::Base | SigningReason::Stale) => {
                // What was signed but not stored is in no change: a table of the same changes would
                // lack it again.
                if self.pass_over_signed().await? {
                    self.fold_not_before_ms = 0;
                }
                if let Some(current) = &mut self.current {
                    current.settings.clear();
                }
                self.fold_if_due(terms, settings).await
            }
            Some(SigningReason::Serial | SigningReason::OtherContent) => {
                if self.heed_serial().await? {
                    self.fold_not_before_ms = 0;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A judging signer has refused a serial because it has signed that one or a later one. If the
    /// database says that something was about to be signed, and it was not stored or another
    /// instance has stored it, serials continue above it. Otherwise the database is an older one:
    /// it does not know what was signed, and nobody may change it until it does. Returns whether
    /// serials continue now.
    async fn heed_serial(&self) -> Result<bool, StoreError> {
        let tried = self.tried;
        if self.store.noted_signing(&self.name).await? >= tried {
            return self.pass_over_signed().await;
        }
        if self.others_keep(tried).await? {
            return Ok(false);
        }
        let evidence = Evidence { serial: tried + 1, source: EvidenceSource::Signer };
        self.remember_evidence(&evidence);
        let publication = self.store.publication(&self.name).await?;
        if let Some(evidence) = newer(&publication, &[evidence]) {
            self.tell_behind(Behind::Serial { has: publication.serial, evidence });
        }
        Ok(false)
    }

    /// Continues serials above what was about to be signed, if nothing of that serial was stored.
    /// Returns whether there was such a serial.
    async fn pass_over_signed(&self) -> Result<bool, StoreError> {
        let noted = self.store.noted_signing(&self.name).await?;
        let newest = self.store.publication(&self.name).await?.serial;
        if noted < newest || noted == 0 {
            return Ok(false);
        }
        // One more: a patch with a table's own serial would be different content for that serial.
        self.store.claim_serials(&self.name, noted - newest + 1).await?;
        Ok(true)
    }

    /// Asks a signer that remembers how far it has signed, until it has said so once. An older
    /// database shows by this before it serves anybody. A signer that is away holds nothing up:
    /// either the answer arrives within `wait`, or the next call looks for it.
    pub(super) async fn hear_signer(&mut self, wait: Duration) -> Result<(), StoreError> {
        let signer = self.terms.as_ref().map(|terms| &terms.signer);
        let Some(signer @ SignerSource::Socket { .. }) = signer else { return Ok(()) };
        if self.heard_signer {
            return Ok(());
        }
        let asked = self.asked_signer.take().or_else(|| ask(signer.clone(), &self.name));
        let Some(mut asked) = asked else { return Ok(()) };
        let serial = match tokio::time::timeout(wait, &mut asked).await {
            Ok(Ok(Ok(Some(serial)))) => serial,
            // One question at a time: a busy signer gets no more of them.
            Err(_) => {
                self.asked_signer = Some(asked);
                return Ok(());
            }
            // A signer of a version before this question refuses it. A refusal is an answer, too.
            Ok(Ok(Err(SignFault::Refused(SigningRefusal { reason, why }))))
                if !matches!(reason, SigningReason::Busy | SigningReason::Unavailable) =>
            {
                let audience = &self.name;
                tracing::info!(%audience, %why, "the signer does not say how far it has signed");
                self.heard_signer = true;
                return Ok(());
            }
            Ok(answer) => {
                let audience = &self.name;
                tracing::debug!(%audience, ?answer, "the signer does not say how far it has signed");
                return Ok(());
            }
        };
        // Read this after the answer: whatever is signed for this database was noted in it first.
        let noted = self.store.noted_signing(&self.name).await?;
        let newest = self.store.publication(&self.name).await?.serial;
        self.heard_signer = true;
        if serial > newest.max(noted) {
            self.signed = Some(Evidence { serial, source: EvidenceSource::Signer });
        }
        Ok(())
    }

    /// Whether another instance, which signs as well, has stored a table or patch of this serial or
    /// above.
    async fn others_keep(&self, serial: u64) -> Result<bool, StoreError> {
        for _ in 0..KEEP_LOOKS {
            let Publication { table, patch, .. } = self.store.publication(&self.name).await?;
            if table.iter().chain(&patch).any(|kept| kept.serial >= serial) {
                return Ok(true);
            }
            if !self.store.is_shared() {
                break;
            }
            tokio::time::sleep(KEEP_LOOK).await;
        }
        Ok(false)
    }
}

/// On a thread of its own, so that the end of the process does not wait for a question.
fn ask(signer: SignerSource, audience: &AudienceName) -> Option<oneshot::Receiver<ToldSerial>> {
    let (answer, answered) = oneshot::channel();
    let audience = audience.clone();
    let asking = std::thread::Builder::new().name("ask".to_owned()).spawn(move || {
        // A caller that has gone wants no answer.
        answer.send(signer.last_serial(audience.as_str())).ok();
    });
    asking.is_ok().then_some(answered)
}
