//! The observing half of an admission: who is only observed, and what would have been refused.

use super::{Admission, IncomingRequest, Passage};
use crate::core::observe::{Conduct, ObserveReach};
use crate::core::{Reason, decide};
use crate::proxy::memory::rule::ConnectionReach;
use crate::proxy::outbound::Forward;
use crate::proxy::request::facts::RequestReading;
use crate::proxy::request::record::RequestRecord;
use crate::proxy::request::sent_tokens::{self, SentTokens};
use crate::proxy::shared_limits::SharedCharge;
use crate::snapshot::Snapshot;
use crate::telemetry::DecisionOutcome;

impl<'s> Admission<'s> {
    /// Whether the caller of this request is only observed.
    pub(super) fn observes(&self, reading: &RequestReading<'_>, record: &RequestRecord) -> bool {
        let Snapshot { settings, keys, .. } = &**self.snapshot;
        settings.policy.observe.is_some() && {
            let now = record.started();
            let verdict = decide(&settings.policy, keys.as_deref(), &reading.facts(), now);
            verdict.conduct() == Conduct::Observed
        }
    }

    /// Whether all rules are only observed. If so, there is no enforced rule to bypass with a
    /// target that the service reads differently from keygate.
    pub(super) fn is_whole_gate(&self) -> bool {
        let observe = self.snapshot.settings.policy.observe.as_deref();
        observe.is_some_and(|observe| observe.reach == ObserveReach::WholeGate)
    }

    /// Records what would have been refused, and refuses nothing. The limit is charged anyway, to
    /// show who would exceed it.
    pub(super) fn observe(
        &self,
        passage: &Passage<'_>,
        reading: &RequestReading<'_>,
        incoming: &IncomingRequest,
        record: &mut RequestRecord,
    ) -> SentTokens<'s> {
        let IncomingRequest { head, body, .. } = incoming;
        let (forward, credentials) = (&passage.forward, passage.credentials);
        let tokens = sent_tokens::observed(self.snapshot, forward, credentials, head, record);
        let route = passage.route;
        let mut denied = tokens.no_credential;
        let mut key = None;
        match forward {
            Forward::Admitted(admitted) => {
                self.reaches(ConnectionReach::Admitted);
                key = admitted.key().copied();
                // A request never waits only to be observed. What the store grants later serves the
                // next request, so in the end each has taken one.
                let charged = self.take(admitted, None, record.started());
                if let Some(SharedCharge::Done(Err(_))) = charged {
                    denied = denied.or(Some(Reason::RateLimited));
                }
                self.worker.uses.admitted(admitted, record.client(), record.started());
            }
            Forward::Observed(observed) => {
                self.reaches(ConnectionReach::Passed);
                key = observed.key().copied();
                denied = Some(observed.rejection().reason);
            }
            Forward::Passed(_) => self.reaches(ConnectionReach::Passed),
        }
        let is_too_large = route.body_limit.is_some_and(|limit| body.least() > limit);
        let denied = denied.or(is_too_large.then_some(Reason::BodyTooLarge));
        let denied = denied.or(tokens.no_assertion);
        record.key = key.map(|key| key.id);
        record.org = key.map(|key| key.org.into()).or(record.org.take());
        let watched = reading.changes.watched.as_ref();
        let told = watched.map(|watched| watched.told.clone()).unwrap_or_default();
        let is_admitted = matches!(forward, Forward::Admitted(_));
        let denied = record.observed(denied, told, route.body_limit);
        record.decided(match denied {
            Some(reason) => DecisionOutcome::Observed(reason),
            None if is_admitted => DecisionOutcome::Admitted,
            None => DecisionOutcome::Passed,
        });
        let took_ns = record.now_ns().saturating_sub(record.started().mono_ns);
        self.worker.cells.auth_duration(took_ns);
        tokens.sent
    }
}
