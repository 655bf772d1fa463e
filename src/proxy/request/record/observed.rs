//! A request that is only observed: its verdict waits for the service's answer, so that the two can
//! be compared.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::RequestRecord;
use crate::core::observe::UpstreamClass;
use crate::core::{ClientNetwork, Reason};
use crate::observe::{HeadNotice, RowKind, Sighting, SightingReason};
use crate::proxy::upstream::AnswerHeadSource;
use crate::proxy::worker::Worker;
use crate::telemetry::NO_ROUTE;

/// The part of a request that waits for the service's answer.
#[derive(Debug, Default)]
pub(super) struct AwaitedComparison {
    /// keygate would answer the request itself, without looking for a key.
    answers_preflight: bool,
    denied: Option<Reason>,
    told: SmallVec<[HeadNotice; 1]>,
    /// The most bytes that the rule allows for the body.
    body_limit: Option<u64>,
    /// The class of the service's answer, once it has arrived.
    upstream: Option<UpstreamClass>,
}

impl RequestRecord {
    /// keygate would answer this preflight itself.
    pub(in crate::proxy::request) fn answers_preflight(&mut self) {
        self.observed = Some(Box::new(AwaitedComparison {
            answers_preflight: true,
            ..AwaitedComparison::default()
        }));
    }

    /// What the request would be refused for, if anything. Not set where keygate would answer it
    /// itself.
    pub(in crate::proxy::request) fn observed(
        &mut self,
        denied: Option<Reason>,
        told: SmallVec<[HeadNotice; 1]>,
        body_limit: Option<u64>,
    ) -> Option<Reason> {
        let before = self.observed.take();
        let denied = denied.filter(|_| !before.is_some_and(|before| before.answers_preflight));
        self.observed = Some(Box::new(AwaitedComparison {
            denied,
            told,
            body_limit,
            ..AwaitedComparison::default()
        }));
        denied
    }

    /// Adds what the head of an observed request would lose if the caller were enforced.
    pub(in crate::proxy::request) fn tell(&mut self, notice: HeadNotice) {
        if let Some(observed) = &mut self.observed {
            observed.told.push(notice);
        }
    }

    /// keygate refuses the request although it observes: such a request must never be forwarded.
    pub(crate) fn refused_while_observing(&mut self, reason: Reason) {
        self.observed = None;
        let snapshot = self.worker.shared.store.load();
        let observe = snapshot.settings.policy.observe.as_deref();
        if observe.is_some_and(|observe| observe.is_on(self.started)) {
            self.worker.cells.compared(self.route_slot, Some(reason), UpstreamClass::None);
            let reason = SightingReason::Verdict(reason);
            self.sight(RowKind::Refused, reason, UpstreamClass::None);
        }
    }

    /// The head of the service's answer has arrived.
    pub(in crate::proxy::request) fn compare_with(&mut self, answer: &AnswerHeadSource) {
        if self.observed.is_some() {
            self.compare(answer.class());
        }
    }

    /// The request is over. It got no answer, or its body exceeded the limit only after the answer.
    pub(super) fn end_comparison(&mut self) {
        match self.observed.as_ref().and_then(|observed| observed.upstream) {
            None => {
                self.compare(UpstreamClass::None);
                // Without keygate, the caller would have got the service's answer.
                if let Some(reason @ (Reason::UpstreamBadResponse | Reason::UpstreamTimeout)) =
                    self.failure()
                {
                    let reason = SightingReason::Verdict(reason);
                    self.sight(RowKind::Refused, reason, UpstreamClass::None);
                }
            }
            Some(upstream) => {
                if self.has_too_large_body() {
                    let reason = SightingReason::Verdict(Reason::BodyTooLarge);
                    self.sight(RowKind::Deny, reason, upstream);
                }
            }
        }
    }

    fn compare(&mut self, upstream: UpstreamClass) {
        if self.has_too_large_body()
            && let Some(observed) = &mut self.observed
        {
            observed.denied = Some(Reason::BodyTooLarge);
        }
        let Some(observed) = &mut self.observed else { return };
        observed.upstream = Some(upstream);
        let (denied, told) = (observed.denied, std::mem::take(&mut observed.told));
        self.worker.cells.compared(self.route_slot, denied, upstream);
        self.worker.shared.observed.compared(self.started());
        let is_turned_away =
            matches!(upstream, UpstreamClass::Unauthorized | UpstreamClass::Forbidden);
        match denied {
            Some(reason) => self.sight(RowKind::Deny, SightingReason::Verdict(reason), upstream),
            // Without a key, the service cannot lack one: it may be a user's token, say.
            None if is_turned_away && self.key.is_some() => {
                self.sight(RowKind::Admit, SightingReason::Admitted, upstream);
            }
            None => {}
        }
        for notice in &told {
            self.sight(RowKind::Changed, SightingReason::Notice(notice), upstream);
        }
    }

    /// Whether the body has by now exceeded what the rule allows, and nothing else is wrong.
    fn has_too_large_body(&self) -> bool {
        let limit =
            self.observed.as_ref().filter(|o| o.denied.is_none()).and_then(|o| o.body_limit);
        let sent = self.upload.as_ref().map_or(0, |upload| upload.bytes.get());
        limit.is_some_and(|limit| sent > limit)
    }

    fn sight(&self, kind: RowKind, reason: SightingReason<'_>, upstream: UpstreamClass) {
        self.worker.shared.observed.note(&Sighting {
            kind,
            reason,
            route: self.route.as_deref().unwrap_or("none"),
            key: self.key,
            network: ClientNetwork::of(self.client),
            upstream,
            request_id: self.request_id.as_str(),
            now: self.started,
        });
    }
}

/// A head that never became a request was refused although keygate observes.
pub(super) fn note_unread(worker: &Worker, client: IpAddr, reason: Reason) {
    let snapshot = worker.shared.store.load();
    let now = worker.clock.now();
    if snapshot.settings.policy.observe.as_deref().is_some_and(|observe| observe.is_on(now)) {
        worker.cells.compared(NO_ROUTE, Some(reason), UpstreamClass::None);
        worker.shared.observed.note(&Sighting {
            kind: RowKind::Refused,
            reason: SightingReason::Verdict(reason),
            route: "none",
            key: None,
            network: ClientNetwork::of(client),
            upstream: UpstreamClass::None,
            request_id: "",
            now,
        });
    }
}
