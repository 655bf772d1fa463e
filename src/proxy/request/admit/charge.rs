//! The charging half of an admission: what the request costs its caller, and what else may refuse it
//! once the verdict has let it through.

use super::{Admission, ChargeOutcome, Passage};
use crate::core::observe::CredentialPassage;
use crate::core::reason::Detail;
use crate::core::{Admitted, Now, Reason, Rejection};
use crate::proxy::body::ClientBody;
use crate::proxy::memory::rule::ConnectionReach;
use crate::proxy::outbound::Forward;
use crate::proxy::request::record::RequestRecord;
use crate::proxy::request::reply::Reply;
use crate::proxy::request::sent_tokens::{self, SentCredential};
use crate::proxy::shared_limits::{SharedCharge, StoreOutcome};
use crate::snapshot::Snapshot;
use crate::telemetry::DecisionOutcome;

#[expect(clippy::result_large_err, reason = "a refusal is moved once, and then is the answer")]
impl<'s> Admission<'s> {
    /// The credential that the service gets, or none where the service gets the caller's own. If
    /// the key lacks what a claim of the credential needs, the request is refused here, before
    /// anything is charged.
    #[inline]
    pub(super) fn credential(
        &self,
        passage: &Passage<'_>,
        record: &mut RequestRecord,
    ) -> Result<Option<SentCredential<'s>>, Reply> {
        if passage.credentials == CredentialPassage::Forward {
            return Ok(None);
        }
        let sent = sent_tokens::credential(self.snapshot, &passage.forward, record);
        sent.map_err(|rejection| {
            if let Forward::Admitted(admitted) = &passage.forward
                && let Some(key) = admitted.key()
            {
                record.key = Some(key.id);
                record.org = Some(key.org.into());
                self.worker.uses.refused(key, rejection.reason, record.client());
            }
            record.decided(DecisionOutcome::Rejected(rejection.reason));
            self.refuse(&rejection, passage.route.profile.as_deref(), record)
        })
    }

    /// Charges the limits of key and org, if they have any, and records the outcome of the decision.
    #[inline]
    pub(super) fn charge(
        &self,
        passage: &Passage<'_>,
        waited: Option<Box<StoreOutcome>>,
        record: &mut RequestRecord,
    ) -> Result<ChargeOutcome, Reply> {
        let mut charged = None;
        match &passage.forward {
            Forward::Admitted(admitted) => {
                self.reaches(ConnectionReach::Admitted);
                record.key = admitted.key().map(|key| key.id);
                record.org = Some(admitted.org().into());
                match self.take(admitted, waited, record.started()) {
                    Some(SharedCharge::Done(Ok(report))) => charged = Some(report),
                    Some(SharedCharge::Waits(wait)) => return Ok(ChargeOutcome::Waits(wait)),
                    Some(SharedCharge::Done(Err(report))) => {
                        let reason = Reason::RateLimited;
                        let rejection = Rejection { reason, detail: Detail::RetryAfter(report) };
                        if let Some(key) = admitted.key() {
                            self.worker.uses.refused(key, reason, record.client());
                        }
                        record.decided(DecisionOutcome::Rejected(reason));
                        let profile = passage.route.profile.as_deref();
                        return Err(self.refuse(&rejection, profile, record));
                    }
                    None => {}
                }
                self.worker.uses.admitted(admitted, record.client(), record.started());
                record.decided(DecisionOutcome::Admitted);
            }
            // `decide` never observes a caller whose requests are enforced.
            Forward::Observed(_) | Forward::Passed(_) => {
                self.reaches(ConnectionReach::Passed);
                record.decided(DecisionOutcome::Passed);
            }
        }
        // Time spent waiting for a store has a histogram of its own.
        if !self.has_waited {
            let took_ns = record.now_ns().saturating_sub(record.started().mono_ns);
            self.worker.cells.auth_duration(took_ns);
        }
        Ok(ChargeOutcome::Done(charged))
    }

    /// Charges the request to all limits of its key or subject and of its org, or to none. `None`:
    /// it has no limit.
    #[inline]
    pub(super) fn take(
        &self,
        admitted: &Admitted<'s>,
        waited: Option<Box<StoreOutcome>>,
        now: Now,
    ) -> Option<SharedCharge> {
        let Snapshot { settings, keys, .. } = &**self.snapshot;
        let (shared, cells) = (&self.worker.shared, &self.worker.cells);
        let charge = admitted.charge(&settings.policy, keys.as_deref()?);
        // Read where it was written: to move what was just written is slow.
        let charge = charge.as_ref()?;
        let charged = match (&shared.shared_limits, waited) {
            (None, _) => SharedCharge::Done(shared.limits.charge(charge, now)),
            (Some(limits), None) => limits.charge(charge, now),
            (Some(limits), Some(waited)) => {
                SharedCharge::Done(limits.charge_after(*waited, charge, now))
            }
        };
        if let SharedCharge::Done(result) = &charged {
            cells.ratelimit(&charge.limits, result);
        }
        Some(charged)
    }

    /// Refuses a body whose length, as far as it is known, exceeds the limit of its route.
    #[inline]
    pub(super) fn check_body(
        &self,
        passage: &Passage<'_>,
        body: &ClientBody,
        record: &mut RequestRecord,
    ) -> Result<(), Reply> {
        let route = passage.route;
        if route.body_limit.is_some_and(|limit| body.least() > limit) {
            record.failed(Reason::BodyTooLarge);
            let rejection = Reason::BodyTooLarge.into();
            return Err(self.refuse(&rejection, route.profile.as_deref(), record));
        }
        Ok(())
    }

    /// Records how far the connection has got, which decides whether the memory budget may end it.
    pub(super) fn reaches(&self, reach: ConnectionReach) {
        if let Some(held) = self.client.activity.held() {
            held.rises_to(reach);
        }
    }
}
