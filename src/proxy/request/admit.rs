//! From a request's head to a request that may be sent, or to keygate's own answer: read → decide →
//! charge → rewrite. Sends nothing and waits for nothing, so that the guard of the snapshot ends here.

use std::rc::Rc;

use http::header::{HeaderName, HeaderValue};
use http::{StatusCode, Version};
use hyper::upgrade::OnUpgrade;

use super::answer_plan::AnswerPlan;
use super::client::Client;
use super::credentials::Carried;
use super::facts::{self, HeadChanges, RequestReading};
use super::record::RequestRecord;
use super::reply::{self, RefusalContext, Reply};
use super::rewrite::{self, RewriteContext, answer};
use super::upgrade_request::{self, UpgradeRequest};
use super::{cors, grpc};
use crate::config::{Settings, TraceStart};
use crate::core::decision::Refused;
use crate::core::{Reason, Rejection, Route, Verdict, decide};
use crate::proxy::body::{ClientBody, RequestBody, Upload, UploadProgress};
use crate::proxy::http1::answer_write::Writer;
use crate::proxy::http1::head::{RequestHead, is_extended_connect};
use crate::proxy::ids::{Trace, trace_id};
use crate::proxy::limits::Charged;
use crate::proxy::memory::rule::ConnectionReach;
use crate::proxy::outbound::{Forward, UpstreamRequest};
use crate::proxy::streams::Stream;
use crate::proxy::worker::Worker;
use crate::snapshot::Snapshot;
use crate::telemetry::{DecisionOutcome, RateDecision};

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
}

/// A verdict that lets the request through, and the route that it is for.
struct Passage<'s> {
    forward: Forward<'s>,
    route: &'s Route,
}

/// Decides whether the request may be sent, and prepares what is sent. Not a future: most of what
/// moving one costs would be a refusal's.
///
/// # Errors
/// The answer to a request that goes no further: a refusal, or keygate's answer to a preflight.
#[expect(clippy::result_large_err, reason = "a refusal is moved once, and then is the answer")]
pub(crate) fn admit(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    incoming: IncomingRequest,
    record: &mut RequestRecord,
) -> Result<AdmittedRequest, Reply> {
    let IncomingRequest { head, body, connect, writer } = incoming;
    client.moments.body_open.set(!body.has_come());
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
        cors: rule.map(|cors| cors::of_refusal(&cors, &head, settings)).unwrap_or_default(),
    };
    let reading = admission.read(&head, record)?;
    if let Some(rule) = &rule
        && let Some(method) = facts::preflight(&head)
        && let Some(fields) = cors::of_preflight(rule, &head, &method)
    {
        record.status = StatusCode::NO_CONTENT.as_u16();
        record.decided(DecisionOutcome::Passed);
        return Err(reply::no_content(fields, settings, writer, &record.request_id));
    }
    let passage = admission.judge(&reading, record)?;
    let charged = admission.charge(&passage, record)?;
    admission.check_body(&passage, &body, record)?;
    let ticket = match &passage.forward {
        Forward::Admitted(admitted) => Some(admitted.ticket(reading.client())),
        Forward::Observed(_) | Forward::Passed(_) => None,
    };
    let carried = reading.carriers.carried();
    let mut changes = reading.into_changes();
    let upgrade = admission.upgrade(&passage, &head, &mut changes, carried, record)?;
    let trace = admission.start_trace(record);
    let Passage { forward, route } = passage;
    let plan = AnswerPlan {
        method: head.method.clone(),
        grpc: admission.grpc,
        profile: settings
            .refusals
            .choose(route.profile.as_deref(), admission.accept.as_deref())
            .map(Box::from),
        charged,
        sunset: match &forward {
            Forward::Admitted(admitted) => admitted.key().grant.sunset,
            Forward::Observed(_) | Forward::Passed(_) => None,
        },
        private: carried.in_query && matches!(forward, Forward::Admitted(_)),
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
    let (body, upload) = upstream_body(body, route, client, record);
    let stream = worker.streams.register(ticket, settings, route.index);
    if !client.http2 {
        client.running.set(worker.streams.take_latest());
    }
    let context = RewriteContext {
        settings,
        client: &client.address,
        https: client.https,
        request_id: &record.request_id,
        trace,
        host: worker.upstream_host(),
        authority: &worker.authority,
        http2: worker.upstream_is_http2(),
        upstream_https: worker.shared.upstream_tls.is_some(),
        preserve_case: worker.shared.upstream.preserve_case,
        upgrade,
        subject: client.subject.as_ref(),
    };
    match rewrite::rewrite(forward, head, body, changes, carried, context) {
        Ok(request) => Ok(AdmittedRequest { request, plan, stream, upload, connect, writer }),
        Err(bad) => {
            record.failed(Reason::BadTarget);
            let admission = Admission { cors: plan.cors, ..admission };
            let rejection = Rejection::why(Reason::BadTarget, bad.why());
            Err(admission.refuse(&rejection, route.profile.as_deref(), record))
        }
    }
}

/// The body as the upstream gets it, and its progress if the client still sends it.
fn upstream_body(
    body: ClientBody,
    route: &Route,
    client: &Client,
    record: &mut RequestRecord,
) -> (RequestBody, Option<Rc<UploadProgress>>) {
    match body {
        ClientBody::Coming(incoming) if !incoming.is_end_stream() => {
            let upload = Upload::new(incoming, route.body_limit, Rc::clone(&client.moments));
            let progress = upload.progress();
            record.upload = Some(Rc::clone(&progress));
            (RequestBody::Stream(upload), Some(progress))
        }
        ClientBody::Whole(bytes) if !bytes.is_empty() => {
            record.bytes_in = bytes.len() as u64;
            (RequestBody::Whole(bytes), None)
        }
        ClientBody::Coming(_) | ClientBody::Whole(_) => (RequestBody::Empty, None),
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
        let reading = facts::fits(head, shared.http2.header_list_bytes)
            .and_then(|()| facts::read(head, settings, &shared.caps, self.client.address.ip()));
        let reading = match reading {
            Ok(reading) => reading,
            Err(rejection) => {
                record.decided(DecisionOutcome::Rejected(rejection.reason));
                return Err(self.refuse(&rejection, None, record));
            }
        };
        record.set_client(reading.client());
        if reading.changes.dropped > 0 {
            self.worker.cells.fields_dropped(u64::from(reading.changes.dropped));
            for (name, _) in head.fields.iter().filter(|(name, _)| name.contains(&b'_')) {
                shared.dropped_names.note(name);
            }
        }
        if let Some(id) = &reading.changes.request_id {
            record.request_id = id.clone();
        }
        Ok(reading)
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
        let passage = match decide(&settings.policy, keys, &reading.facts(), record.started()) {
            Verdict::Rejected(Refused { rejection, route, key }) => {
                if let Some(route) = route {
                    record.set_route(&route.id, slot_of(route.index));
                }
                record.key = key.map(|k| k.id);
                if let Some(key) = &key {
                    let uses = &self.worker.uses;
                    uses.refused(key, rejection.reason, reading.client(), record.started());
                }
                record.org = key.map(|k| k.org.into());
                record.decided(DecisionOutcome::Rejected(rejection.reason));
                let profile = route.and_then(|r| r.profile.as_deref());
                return Err(self.refuse(&rejection, profile, record));
            }
            Verdict::Admitted(admitted) => {
                Passage { route: admitted.route(), forward: Forward::Admitted(admitted) }
            }
            Verdict::Observed(observed) => {
                Passage { route: observed.route(), forward: Forward::Observed(observed) }
            }
            Verdict::Passed(passed) => {
                Passage { route: passed.route(), forward: Forward::Passed(passed) }
            }
        };
        record.set_route(&passage.route.id, slot_of(passage.route.index));
        Ok(passage)
    }

    /// Charges the key's limit, if it has one, and records the outcome of the decision.
    fn charge(
        &self,
        passage: &Passage<'_>,
        record: &mut RequestRecord,
    ) -> Result<Option<Charged>, Reply> {
        let mut charged = None;
        match &passage.forward {
            Forward::Admitted(admitted) => {
                let key = admitted.key();
                self.reaches(ConnectionReach::Admitted);
                record.key = Some(key.id);
                record.org = Some(key.org.into());
                if let Some(charge) = admitted.charge() {
                    match self.worker.shared.limits.charge(charge, record.started()) {
                        Ok(spent) => {
                            self.worker.cells.ratelimit(RateDecision::Allowed);
                            charged = Some(spent);
                        }
                        Err(rejection) => {
                            self.worker.cells.ratelimit(RateDecision::Limited);
                            let (client, now) = (record.client(), record.started());
                            self.worker.uses.refused(key, rejection.reason, client, now);
                            record.decided(DecisionOutcome::Rejected(rejection.reason));
                            let profile = passage.route.profile.as_deref();
                            return Err(self.refuse(&rejection, profile, record));
                        }
                    }
                }
                self.worker.uses.admitted(admitted, record.client(), record.started());
                record.decided(DecisionOutcome::Admitted);
            }
            Forward::Observed(observed) => {
                self.reaches(ConnectionReach::Passed);
                record.key = observed.key();
                record.decided(DecisionOutcome::Observed(observed.rejection().reason));
            }
            Forward::Passed(_) => {
                self.reaches(ConnectionReach::Passed);
                record.decided(DecisionOutcome::Passed);
            }
        }
        let took_ns = record.now_ns().saturating_sub(record.started().mono_ns);
        self.worker.cells.auth_duration(took_ns);
        Ok(charged)
    }

    /// How far a connection has come decides whether the memory budget may end it.
    fn reaches(&self, reach: ConnectionReach) {
        if let Some(held) = self.client.moments.held() {
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
        let upgrade = upgrade_request::read(head, changes, route, settings, carried)
            .filter(|_| !self.worker.upstream_is_http2());
        if upgrade.is_none() && is_extended_connect(head) {
            record.failed(Reason::Method);
            let rejection = Reason::Method.into();
            return Err(self.refuse(&rejection, route.profile.as_deref(), record));
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
