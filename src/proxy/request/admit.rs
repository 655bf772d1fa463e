//! From a request's head to a request that may be sent, or to keygate's own answer: read → decide →
//! charge → rewrite. Sends nothing and waits for nothing, so that the guard of the snapshot ends here.

mod observe;

use std::rc::Rc;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{StatusCode, Version};
use hyper::upgrade::OnUpgrade;

use super::answer_plan::AnswerPlan;
use super::client::Client;
use super::credentials::Carried;
use super::facts::{self, HeadChanges, KeptWith, RequestReading};
use super::record::RequestRecord;
use super::reply::{self, RefusalContext, Reply};
use super::rewrite::{self, RewriteContext, answer};
use super::sent_tokens::{self, SentCredential};
use super::upgrade_request::{self, UpgradeAsked, UpgradeRequest};
use super::{cors, grpc};
use crate::config::{Settings, TraceStart};
use crate::core::decision::Refused;
use crate::core::observe::{Conduct, CredentialPassage};
use crate::core::rate_fields::LimitReport;
use crate::core::reason::Detail;
use crate::core::route::FoundRoute;
use crate::core::{
    Admitted, Facts, Now, Presented, Reason, Rejection, Route, TokenFault, UserToken, Verdict,
    decide,
};
use crate::observe::HeadNotice;
use crate::proxy::body::{ClientBody, RequestBody, Upload, UploadProgress};
use crate::proxy::http1::answer_write::Writer;
use crate::proxy::http1::chunks::ChunkForm;
use crate::proxy::http1::head::{RequestHead, is_extended_connect};
use crate::proxy::ids::{Trace, trace_id};
use crate::proxy::leases::{SharedCharge, StoreOutcome, StoreWait};
use crate::proxy::memory::rule::ConnectionReach;
use crate::proxy::outbound::{Forward, UpstreamRequest};
use crate::proxy::streams::Stream;
use crate::proxy::tokens::TokenAsk;
use crate::proxy::worker::Worker;
use crate::snapshot::Snapshot;
use crate::telemetry::DecisionOutcome;

/// A request as the reader of its connection hands it over.
pub(crate) struct IncomingRequest {
    pub(crate) head: RequestHead,
    pub(crate) body: ClientBody,
    /// The stream of an extended CONNECT, which becomes a tunnel if the service agrees.
    pub(crate) connect: Option<OnUpgrade>,
    /// Who writes its answer.
    pub(crate) writer: Writer,
}

/// A request that may be sent, with what its answer will need.
pub(crate) struct AdmittedRequest {
    pub(super) request: UpstreamRequest,
    pub(super) plan: AnswerPlan,
    pub(super) stream: Stream,
    pub(super) upload: Option<Rc<UploadProgress>>,
    /// As in [`IncomingRequest`].
    pub(super) connect: Option<OnUpgrade>,
    pub(super) writer: Writer,
}

/// A request that goes no further, at least for now.
#[allow(clippy::large_enum_variant, reason = "moved once, and then is the answer")]
pub(crate) enum HaltedRequest {
    /// The answer: a refusal, or keygate's answer to a preflight.
    Answered(Reply),
    /// Until the store of shared limits has answered. Then it is decided anew.
    Waits(Box<WaitingRequest>),
}

/// As it came, and what it waits for.
pub(crate) struct WaitingRequest {
    pub(crate) incoming: IncomingRequest,
    pub(crate) wait: StoreWait,
}

/// What became of a charge.
enum ChargeOutcome {
    /// `None`: the caller has no limit.
    Done(Option<LimitReport>),
    Waits(StoreWait),
}

/// What every step of one request's admission needs.
struct Admission<'s> {
    worker: &'s Rc<Worker>,
    client: &'s Rc<Client>,
    snapshot: &'s Snapshot,
    writer: Writer,
    grpc: bool,
    /// Lets pages of other origins read a refusal.
    cors: Vec<(HeaderName, HeaderValue)>,
    /// `Accept`, where the client may choose the form of a refusal.
    accept: Option<Box<str>>,
    /// It was decided before, and has waited since.
    has_waited: bool,
}

/// A verdict that lets the request through, and the route that it is for.
struct Passage<'s> {
    forward: Forward<'s>,
    route: &'s Route,
    conduct: Conduct,
    credentials: CredentialPassage,
}

/// Decides whether the request may be sent, and prepares what is sent. Not a future: most of what
/// moving one costs would be a refusal's.
///
/// `waited`: what the store of shared limits has said since the request was decided first.
///
/// # Errors
/// A request that goes no further.
#[expect(clippy::result_large_err, reason = "a refusal is moved once, and then is the answer")]
pub(crate) fn admit(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    incoming: IncomingRequest,
    waited: Option<Box<StoreOutcome>>,
    record: &mut RequestRecord,
) -> Result<AdmittedRequest, HaltedRequest> {
    let IncomingRequest { head, body, connect, writer } = incoming;
    client.activity.body_open.set(!body.has_come());
    let snapshot = worker.shared.store.load();
    let settings = &snapshot.settings;
    record.log_every = settings.log_every;
    record.note(&head, settings);
    record.trace_id = trace_id(&head.fields);
    let rule = cors::of(&head, settings);
    let admission = Admission {
        worker,
        client,
        snapshot: &snapshot,
        writer,
        grpc: grpc::is_grpc(&head),
        accept: accepted(&head, settings),
        has_waited: waited.is_some(),
        cors: rule.map(|cors| cors::of_refusal(&cors, &head, settings)).unwrap_or_default(),
    };
    let reading = admission.read(&head, record)?;
    let preflight = rule
        .as_ref()
        .filter(|_| reading.fault.is_none())
        .and_then(|rule| cors::of_preflight(rule, &head, &facts::preflight(&head)?));
    if let Some(fields) = preflight {
        if !admission.observes(&reading, record) {
            record.status = StatusCode::NO_CONTENT.as_u16();
            record.decided(DecisionOutcome::Passed);
            let answer = reply::no_content(fields, settings, writer, &record.request_id);
            return Err(HaltedRequest::Answered(answer));
        }
        record.answers_preflight();
    }
    let passage = admission.judge(&reading, record)?;
    admission.choose_upstream(&passage, record)?;
    let is_observed = passage.conduct == Conduct::Observed;
    let (mut charged, mut assertion) = (None, None);
    let credential;
    if is_observed {
        let passes = passage.credentials;
        let sent =
            sent_tokens::observed(worker, &snapshot, &passage.forward, passes, &head, record);
        admission.observe(&passage, &reading, &body, &sent, record);
        (credential, assertion) = (sent.credential, sent.assertion);
    } else {
        credential = admission.credential(&snapshot, &passage, record)?;
        charged = match admission.charge(&passage, waited, record)? {
            ChargeOutcome::Done(charged) => charged,
            ChargeOutcome::Waits(wait) => {
                drop(reading);
                let incoming = IncomingRequest { head, body, connect, writer };
                return Err(HaltedRequest::Waits(Box::new(WaitingRequest { incoming, wait })));
            }
        };
        admission.check_body(&passage, &body, record)?;
    }
    let (client_ip, policy) = (reading.client(), &settings.policy);
    let ticket = match &passage.forward {
        Forward::Admitted(admitted) => Some(admitted.ticket(client_ip, policy)),
        Forward::Observed(observed) => observed.ticket(client_ip, policy),
        Forward::Passed(_) => None,
    };
    let mut carried = reading.carriers.carried();
    let mut changes = reading.into_changes();
    if passage.credentials == CredentialPassage::Forward {
        carried = Carried::default();
        changes.keep(KeptWith::Credentials);
    }
    if is_observed && admission.is_whole_gate() {
        changes.keep(KeptWith::Observed);
    }
    admission.note_dropped(&changes, &head);
    let upgrade = admission.upgrade(&passage, &head, &mut changes, carried, record)?;
    let trace = admission.start_trace(record);
    if !is_observed {
        assertion = admission.assertion(&snapshot, &passage, &head, record)?;
    }
    let Passage { forward, route, credentials, .. } = passage;
    let plan = AnswerPlan {
        method: head.method.clone(),
        grpc: admission.grpc,
        profile: settings
            .refusals
            .choose(route.profile.as_deref(), admission.accept.as_deref())
            .map(Box::from),
        charged,
        sunset: match &forward {
            Forward::Admitted(admitted) if !is_observed => {
                admitted.key().and_then(|key| key.grant.sunset)
            }
            Forward::Admitted(_) | Forward::Observed(_) | Forward::Passed(_) => None,
        },
        private: carried.in_query && !is_observed && matches!(forward, Forward::Admitted(_)),
        has_credential: credential.is_some(),
        upgrade: upgrade.clone(),
        close: worker.closing.get() && head.version != Version::HTTP_2,
        trailers: match changes.te_trailers || client.http2 {
            true => answer::Trailers::Announced,
            false => answer::Trailers::Dropped,
        },
        is_http10: head.version == Version::HTTP_10,
        request_id_name: settings.identity.request_id.clone(),
        cors: admission.cors,
    };
    let body_limit = route.body_limit.filter(|_| !is_observed);
    let (body, upload) = upstream_body(body, body_limit, client, record);
    let stream = worker.streams.register(ticket, settings, route.index);
    if !client.http2 {
        client.running.set(worker.streams.take_latest());
    }
    let upstream = record.upstream();
    let credential_field = settings.credential_for(upstream.index).map(|of| &of.field);
    let context = RewriteContext {
        settings,
        client: &client.address,
        https: client.https,
        request_id: &record.request_id,
        trace,
        host: upstream.host.as_ref(),
        authority: &upstream.authority,
        http2: upstream.is_http2(),
        upstream_https: upstream.is_https,
        preserve_case: upstream.preserve_case,
        upgrade,
        subject: client.subject.as_ref(),
        credentials,
        chunks: match writer {
            Writer::Plain => ChunkForm::Chunks,
            Writer::Hyper => ChunkForm::Data,
        },
        assertion,
        credential,
        credential_field,
    };
    match rewrite::rewrite(forward, head, body, changes, carried, context) {
        Ok(request) => Ok(AdmittedRequest { request, plan, stream, upload, connect, writer }),
        Err(bad) => {
            record.failed(Reason::BadTarget);
            record.refused_while_observing(Reason::BadTarget);
            let admission = Admission { cors: plan.cors, ..admission };
            let rejection = Rejection::why(Reason::BadTarget, bad.why());
            let answer = admission.refuse(&rejection, route.profile.as_deref(), record);
            Err(HaltedRequest::Answered(answer))
        }
    }
}

// === impl HaltedRequest ===

impl From<Reply> for HaltedRequest {
    fn from(answer: Reply) -> Self {
        Self::Answered(answer)
    }
}

/// The body as the upstream gets it, and its progress if the client still sends it.
fn upstream_body(
    body: ClientBody,
    limit: Option<u64>,
    client: &Client,
    record: &mut RequestRecord,
) -> (RequestBody, Option<Rc<UploadProgress>>) {
    match body {
        ClientBody::Whole(bytes) if !bytes.is_empty() => {
            record.bytes_in = bytes.len() as u64;
            (RequestBody::Whole(bytes), None)
        }
        body if body.has_come() => (RequestBody::Empty, None),
        body => {
            let upload = Upload::new(body, limit, Rc::clone(&client.activity));
            let progress = upload.progress();
            record.upload = Some(Rc::clone(&progress));
            (RequestBody::Stream(upload), Some(progress))
        }
    }
}

/// The values of `Accept`, as one list. `None` where nothing depends on it.
fn accepted(head: &RequestHead, settings: &Settings) -> Option<Box<str>> {
    if settings.refusals.by_accept.is_empty() {
        return None;
    }
    let values = head.fields.iter().filter(|(name, _)| *name == b"accept");
    let values: Vec<_> = values.filter_map(|(_, value)| std::str::from_utf8(value).ok()).collect();
    (!values.is_empty()).then(|| values.join(",").into())
}

// === impl Admission ===

#[expect(clippy::result_large_err, reason = "a refusal is moved once, and then is the answer")]
impl<'s> Admission<'s> {
    fn refuse(
        &self,
        rejection: &Rejection,
        profile: Option<&str>,
        record: &mut RequestRecord,
    ) -> Reply {
        let refusals = &self.snapshot.settings.refusals;
        let context = RefusalContext {
            method: record.method(),
            grpc: self.grpc,
            profile: refusals.choose(profile, self.accept.as_deref()),
            request_id: &record.request_id,
            cors: &self.cors,
        };
        let status = reply::status_of(rejection, &context);
        let reply = reply::refuse(rejection, &self.snapshot.settings, self.writer, &context);
        record.status = status;
        reply
    }

    /// Reads what the decision depends on; refuses a head that has two readings.
    fn read<'r>(
        &self,
        head: &'r RequestHead,
        record: &mut RequestRecord,
    ) -> Result<RequestReading<'r>, Reply>
    where
        's: 'r,
    {
        let (settings, shared) = (&self.snapshot.settings, &self.worker.shared);
        let reading = facts::fits(head, shared.http2.header_list_bytes).and_then(|()| {
            let peer = self.client.address.ip();
            facts::read(head, settings, &shared.caps, peer, record.started())
        });
        let reading = match reading {
            Ok(reading) => reading,
            Err(rejection) => {
                record.decided(DecisionOutcome::Rejected(rejection.reason));
                record.refused_while_observing(rejection.reason);
                return Err(self.refuse(&rejection, None, record));
            }
        };
        record.set_client(reading.client());
        if let Some(id) = &reading.changes.request_id {
            record.request_id = id.clone();
        }
        Ok(reading)
    }

    /// Notes the fields that the service does not get for an underscore in their name.
    fn note_dropped(&self, changes: &HeadChanges, head: &RequestHead) {
        for name in changes.dropped(head, &self.snapshot.settings) {
            self.worker.cells.fields_dropped(1);
            self.worker.shared.dropped_names.note(name);
        }
    }

    /// Looks up the key and decides; a rejection is recorded and answered here.
    fn judge(
        &self,
        reading: &RequestReading<'_>,
        record: &mut RequestRecord,
    ) -> Result<Passage<'s>, Reply> {
        let Snapshot { settings, keys, route_slots } = self.snapshot;
        let keys = keys.as_deref();
        if let Some(keys) = keys {
            record.serials = (Some(keys.serial()), keys.patch_serial());
        }
        let slot_of = |index: usize| route_slots.get(index).copied().unwrap_or_default();
        let mut facts = reading.facts();
        let token = self.token(reading, &facts, record.started());
        match &token {
            Some(Ok(Ok(token))) => {
                // Its signature holds, whatever becomes of the request.
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
                // A key that cannot be removed with certainty may not be sent on, whoever calls.
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

    /// Names the upstream of the route. A reload keeps to those that the process has, so that each
    /// route has one; a request never goes to another instead.
    fn choose_upstream(
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

    /// The credential that the service is to get: none as long as it gets that of the caller. A key
    /// without what the credential says is refused here, before anything is charged.
    fn credential(
        &self,
        snapshot: &'s Arc<Snapshot>,
        passage: &Passage<'_>,
        record: &mut RequestRecord,
    ) -> Result<Option<SentCredential<'s>>, Reply> {
        if passage.credentials == CredentialPassage::Forward {
            return Ok(None);
        }
        let sent = sent_tokens::credential(snapshot, &passage.forward, record);
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

    /// What the service is told of the caller in a form that it can verify.
    fn assertion(
        &self,
        snapshot: &Arc<Snapshot>,
        passage: &Passage<'_>,
        head: &RequestHead,
        record: &mut RequestRecord,
    ) -> Result<Option<Rc<str>>, Reply> {
        sent_tokens::assertion(self.worker, snapshot, &passage.forward, head, record).map_err(
            |reason| {
                record.failed(reason);
                self.refuse(&reason.into(), passage.route.profile.as_deref(), record)
            },
        )
    }

    /// Charges the limits of key and org, if they have any, and records the outcome of the decision.
    fn charge(
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
            // `decide` observes nobody whose requests are enforced.
            Forward::Observed(_) | Forward::Passed(_) => {
                self.reaches(ConnectionReach::Passed);
                record.decided(DecisionOutcome::Passed);
            }
        }
        // What a store took to answer has a histogram of its own.
        if !self.has_waited {
            let took_ns = record.now_ns().saturating_sub(record.started().mono_ns);
            self.worker.cells.auth_duration(took_ns);
        }
        Ok(ChargeOutcome::Done(charged))
    }

    /// Takes the request out of all limits of its key or subject and of its org, or out of none.
    /// `None`: it has no limit.
    #[inline]
    fn take(
        &self,
        admitted: &Admitted<'s>,
        waited: Option<Box<StoreOutcome>>,
        now: Now,
    ) -> Option<SharedCharge> {
        let Snapshot { settings, keys, .. } = self.snapshot;
        let (shared, cells) = (&self.worker.shared, &self.worker.cells);
        let charge = admitted.charge(&settings.policy, keys.as_deref()?)?;
        let charged = match (&shared.shared_limits, waited) {
            (None, _) => SharedCharge::Done(shared.limits.charge(&charge, now)),
            (Some(limits), None) => limits.charge(&charge, now),
            (Some(limits), Some(waited)) => {
                SharedCharge::Done(limits.charge_after(*waited, &charge, now))
            }
        };
        if let SharedCharge::Done(result) = &charged {
            cells.ratelimit(&charge.limits, result);
        }
        Some(charged)
    }

    /// The user token of the request, verified or not, if its route takes one. `None`: there is
    /// none, or it is not for keygate here. An error: a key is there as well.
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

    /// How far a connection has come decides whether the memory budget may end it.
    fn reaches(&self, reach: ConnectionReach) {
        if let Some(held) = self.client.activity.held() {
            held.rises_to(reach);
        }
    }

    /// Refuses a body whose length, as far as it is known, exceeds the limit of its route.
    fn check_body(
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

    /// The upgrade to pass on. An HTTP/2 upstream gets none, and an extended CONNECT that its route
    /// does not allow is refused.
    fn upgrade(
        &self,
        passage: &Passage<'_>,
        head: &RequestHead,
        changes: &mut HeadChanges,
        carried: Carried,
        record: &mut RequestRecord,
    ) -> Result<Option<UpgradeRequest>, Reply> {
        let (settings, route) = (&self.snapshot.settings, passage.route);
        let asked = UpgradeAsked {
            route,
            carried,
            conduct: passage.conduct,
            credentials: passage.credentials,
        };
        let upgrade = upgrade_request::read(head, changes, &asked, settings)
            .filter(|_| !record.upstream().is_http2());
        if facts::asks_upgrade(head, changes)
            && !upgrade.as_ref().is_some_and(|upgrade| upgrade.is_of(route))
        {
            record.tell(HeadNotice::Upgrade);
        }
        if upgrade.is_none() && is_extended_connect(head) {
            let reason = match record.upstream().is_http2() {
                // No rule could allow it.
                true => Reason::BadMethod,
                false => Reason::Method,
            };
            record.failed(reason);
            record.refused_while_observing(reason);
            return Err(self.refuse(&reason.into(), route.profile.as_deref(), record));
        }
        Ok(upgrade)
    }

    /// Starts a trace if the client has brought none and the configuration asks for one.
    fn start_trace(&self, record: &mut RequestRecord) -> Option<Trace> {
        let TraceStart::Start(sampled) = self.snapshot.settings.trace else { return None };
        if record.trace_id.is_some() {
            return None;
        }
        let trace = self.worker.ids.begin_trace(&record.request_id, sampled);
        record.trace_id = trace.id();
        Some(trace)
    }
}
