//! The deciding half of an admission: the key or the user token, the verdict, and the upstream of
//! the route.

use std::sync::Arc;

use super::{Admission, Passage};
use crate::core::decision::Refused;
use crate::core::observe::CredentialPassage;
use crate::core::route::FoundRoute;
use crate::core::{
    Facts, Now, Presented, Reason, Rejection, TokenFault, UserToken, Verdict, decide,
};
use crate::proxy::outbound::Forward;
use crate::proxy::request::facts::RequestReading;
use crate::proxy::request::record::RequestRecord;
use crate::proxy::request::reply::Reply;
use crate::proxy::tokens::TokenAsk;
use crate::snapshot::Snapshot;
use crate::telemetry::DecisionOutcome;

#[expect(clippy::result_large_err, reason = "a refusal is moved once, and then is the answer")]
impl<'s> Admission<'s> {
    /// Looks up the key and decides. A rejection is recorded and answered here.
    #[inline]
    pub(super) fn judge(
        &self,
        reading: &RequestReading<'_>,
        record: &mut RequestRecord,
    ) -> Result<Passage<'s>, Reply> {
        let Snapshot { settings, keys, route_slots } = &**self.snapshot;
        let keys = keys.as_deref();
        if let Some(keys) = keys {
            record.serials = (Some(keys.serial()), keys.patch_serial());
        }
        let slot_of = |index: usize| route_slots.get(index).copied().unwrap_or_default();
        let mut facts = reading.facts();
        let token = self.token(reading, &facts, record.started());
        match &token {
            Some(Ok(Ok(token))) => {
                // The token's signature is valid, whatever happens to the request.
                record.user = Some(Arc::clone(token));
                record.org = Some(token.org().into());
                facts.presented = Presented::Token(token);
            }
            Some(Ok(Err(fault))) => facts.presented = Presented::FaultyToken(*fault),
            Some(Err(both)) => facts.fault = Some(both),
            None => {}
        }
        let verdict = decide(&settings.policy, keys, &facts, record.started());
        let conduct = verdict.conduct();
        let credentials = CredentialPassage::Strip;
        let mut passage = match verdict {
            Verdict::Rejected(Refused { rejection, route, key, .. }) => {
                if let Some(route) = route {
                    record.set_route(&route.id, slot_of(route.index));
                }
                record.key = key.map(|k| k.id);
                if let Some(key) = &key {
                    self.worker.uses.refused(key, rejection.reason, reading.client());
                }
                record.org = key.map(|k| k.org.into()).or(record.org.take());
                record.decided(DecisionOutcome::Rejected(rejection.reason));
                // A key that keygate cannot remove with certainty must not be forwarded, whoever
                // calls.
                let observe = settings.policy.observe.as_deref();
                if rejection.reason == Reason::Malformed
                    && observe.is_some_and(|o| o.credentials == CredentialPassage::Strip)
                {
                    record.refused_while_observing(rejection.reason);
                }
                let profile = route.and_then(|r| r.profile.as_deref());
                return Err(self.refuse(&rejection, profile, record));
            }
            Verdict::Admitted(admitted) => {
                let route = admitted.route();
                Passage { forward: Forward::Admitted(admitted), route, conduct, credentials }
            }
            Verdict::Observed(observed) => {
                let route = observed.route();
                Passage { forward: Forward::Observed(observed), route, conduct, credentials }
            }
            Verdict::Passed(passed) => {
                let route = passed.route();
                Passage { forward: Forward::Passed(passed), route, conduct, credentials }
            }
        };
        let route = passage.route;
        if route.is_rule() {
            record.set_route(&route.id, slot_of(route.index));
        }
        if let Some(observe) = settings.policy.observe.as_deref()
            && observe.forwards_credentials(route)
        {
            passage.credentials = CredentialPassage::Forward;
        }
        Ok(passage)
    }

    /// The user token of the request, verified or not, if its route takes one. `None`: there is
    /// none, or it is not for keygate here. An error: the request carries a key as well.
    fn token(
        &self,
        reading: &RequestReading<'_>,
        facts: &Facts<'_>,
        now: Now,
    ) -> Option<Result<Result<Arc<UserToken>, TokenFault>, Rejection>> {
        let token = reading.carriers.token.filter(|_| facts.fault.is_none())?;
        let settings = &self.snapshot.settings;
        // Verifying costs more than finding the route a second time.
        match settings.policy.routes.find(facts.method, facts.path, facts.traits) {
            Ok(FoundRoute::Route(route)) if route.access.takes_tokens() => {}
            _ => return None,
        }
        if !matches!(facts.presented, Presented::Foreign | Presented::Nothing) {
            let (why, advice) = ("there is a key, and a user token", "send one of them");
            return Some(Err(Rejection::told(Reason::Duplicate, why.into(), advice.into())));
        }
        Some(Ok(self.worker.tokens.present(&TokenAsk {
            token,
            client: reading.client(),
            settings: &settings.tokens,
            store: &self.worker.shared.store,
            budgets: &self.worker.shared.token_budgets,
            cells: &self.worker.cells,
            now,
            is_counted: self.has_waited,
        })))
    }

    /// Names the upstream of the route. A reload keeps the upstreams that the process has, so each
    /// route has one. A request never goes to another upstream instead.
    #[inline]
    pub(super) fn choose_upstream(
        &self,
        passage: &Passage<'_>,
        record: &mut RequestRecord,
    ) -> Result<(), Reply> {
        let route = passage.route;
        record.goes_to(route.upstream).ok_or_else(|| {
            let reason = Reason::UpstreamConnect;
            record.failed(reason);
            self.refuse(&reason.into(), route.profile.as_deref(), record)
        })
    }
}
