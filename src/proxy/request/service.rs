//! One request is one page: facts → decide → charge → rewrite → send → answer.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::upgrade::OnUpgrade;

use super::client::Client;
use super::counted_body::CountedBody;
use super::credentials::Carried;
use super::download::{Download, RemainingBody, ResponseBody};
use super::exchange;
use super::facts;
use super::record::RequestRecord;
use super::reply::{self, RefusalContext, Reply};
use super::rewrite::{self, RewriteContext, answer};
use super::{asked_upgrade, cors, grpc, upgrade};
use crate::config::{Settings, TraceStart};
use crate::core::decision::Refused;
use crate::core::refusal::RateFields;
use crate::core::{Reason, Rejection, Verdict, decide};
use crate::proxy::body::{ClientBody, Coming, HyperBody, RequestBody, Upload, UploadProgress};
use crate::proxy::http1::answer_read::AnswerHead;
use crate::proxy::http1::answer_write::{AddField, AnswerLines, Writer};
use crate::proxy::http1::head::{RequestHead, is_extended_connect};
use crate::proxy::http1::location::cut_all;
use crate::proxy::ids::trace_id;
use crate::proxy::limits::Charged;
use crate::proxy::memory::holding::UnsentAnswers;
use crate::proxy::memory::rule::{ConnectionReach, Shortage};
use crate::proxy::outbound::{Forward, UpstreamRequest};
use crate::proxy::patience::{Patience, UploadPace};
use crate::proxy::streams::Stream;
use crate::proxy::upstream::{self, AnswerContent, Lease};
use crate::proxy::worker::Worker;
use crate::telemetry::{DecisionOutcome, RateDecision};

/// The service of one connection that hyper reads.
#[derive(Debug)]
pub(crate) struct Gate {
    worker: Rc<Worker>,
    client: Rc<Client>,
    /// Of HTTP/2: what its streams have left to be sent.
    unsent: Option<Arc<UnsentAnswers>>,
}

// === impl Gate ===

impl Gate {
    pub(crate) fn new(worker: &Rc<Worker>, client: &Rc<Client>) -> Self {
        Self::counting(worker, client, None)
    }

    /// Counts what HTTP/2 takes of answers and does not send.
    pub(crate) fn counting(
        worker: &Rc<Worker>,
        client: &Rc<Client>,
        unsent: Option<Arc<UnsentAnswers>>,
    ) -> Self {
        Self { worker: Rc::clone(worker), client: Rc::clone(client), unsent }
    }
}

impl Service<Request<Incoming>> for Gate {
    type Response = Response<CountedBody>;
    type Error = Unwritable;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let worker = Rc::clone(&self.worker);
        let client = Rc::clone(&self.client);
        if client.http2 && !worker.shared.memory.takes(Shortage::Stream) {
            let refused = h2::Error::from(h2::Reason::REFUSED_STREAM);
            return Box::pin(std::future::ready(Err(Unwritable::NoRoom(refused))));
        }
        let unsent = self.unsent.clone();
        let (mut parts, body) = request.into_parts();
        let connect = asked_upgrade::extended_connect(&mut parts);
        // Now and not with the first poll: hyper may look for the end of the client's side before.
        let head = RequestHead::from(parts);
        let record = RequestRecord::begin(&worker, &client.moments, &head, client.address.ip());
        let body = HyperBody::new(body, client.unread.clone());
        let body = ClientBody::Coming(Coming::Hyper(body));
        Box::pin(async move {
            let asked = (head, body, connect);
            match handle(worker, client, asked, Writer::Hyper, record).await {
                Reply::Http(response) => Ok(response.map(|body| CountedBody { body, unsent })),
                Reply::Lines(..) => Err(Unwritable::Lines),
            }
        })
    }
}

/// There is no answer that hyper could write.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwritable {
    /// It came as lines, which were not asked for.
    #[error("the answer has the shape of another writer")]
    Lines,
    /// hyper resets the stream with the source's reason.
    #[error("no memory is left for another stream")]
    NoRoom(#[source] h2::Error),
}

/// From the head of a request to the head of its response.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    client: Rc<Client>,
    (head, body, connect): (RequestHead, ClientBody, Option<OnUpgrade>),
    writer: Writer,
    mut record: RequestRecord,
) -> Reply {
    client.moments.body_open.set(!body.has_come());
    let grpc = grpc::is_grpc(&head);
    let cleared = match admit(&worker, &client, head, body, (grpc, writer), &mut record) {
        Ok(cleared) => cleared,
        Err(response) => return response,
    };
    let Cleared { request, mut after, stream, upload } = cleared;
    // A claim alone must not lift the deadlines: over HTTP/1.1 there is no gRPC to wait for.
    let pace = match grpc && worker.upstream_is_http2() {
        true => UploadPace::Any,
        false => UploadPace::Steady,
    };
    let patience = Patience::new(
        &worker.shared.timeouts,
        &worker.shared.caps,
        upload.clone(),
        pace,
        record.started(),
    );
    let sent =
        exchange::send(&worker, request, &stream, &patience, &client.address, &mut record).await;
    let (answer, content, lease) = match sent {
        Ok(answered) => answered,
        Err(reason) => {
            if let Some(upload) = &upload {
                upload.stop();
            }
            return fail(&worker, reason, &after, writer, record);
        }
    };
    record.answered(answer.status().as_u16());
    let snapshot = worker.shared.store.load();
    let settings = &snapshot.settings;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let asked = after.upgrade.take();
        return match upgrade::accept(answer.into_parts(), lease, stream, asked, settings) {
            Ok((mut response, upgraded)) => {
                after.finish(response.headers_mut(), settings, &record);
                let upgraded = upgraded.with(record);
                match connect {
                    Some(connect) => upgraded.run_in_stream(&worker, connect),
                    None => *client.upgraded.borrow_mut() = Some(Box::new(upgraded)),
                }
                Reply::Http(response)
            }
            Err(reason) => fail(&worker, reason, &after, writer, record),
        };
    }
    // Over HTTP/2 any success would open the tunnel (RFC 8441 section 5).
    if connect.is_some() && answer.status().is_success() {
        return fail(&worker, Reason::UpstreamBadResponse, &after, writer, record);
    }
    let upload = upload.map(|u| (u, patience));
    let mut head = match answer {
        upstream::AnswerHeadSource::Own(head) if writer == Writer::Plain => {
            let lines = after.lines(&head, settings, &record);
            lease.recycle(head);
            return Reply::Lines(lines, pass_on(content, lease, stream, upload, record, &after));
        }
        answer => answer.into_parts(),
    };
    if !answer::is_framed_once(head.status, &head.headers) {
        // What hyper has chosen need not be what another reader of these bytes would.
        return fail(&worker, Reason::UpstreamBadResponse, &after, writer, record);
    }
    // The version is that of a hop: ours, whatever the upstream speaks.
    head.version = Version::HTTP_11;
    answer::to_client(&mut head.headers, settings, after.trailers);
    cut_all(&mut head.headers, worker.own_address.as_ref());
    after.finish(&mut head.headers, settings, &record);
    after.finish_map(&mut head.headers);
    let body = pass_on(content, lease, stream, upload, record, &after);
    if after.is_http10 && body.size_hint().exact().is_none() {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        // Else hyper adds `keep-alive`.
        head.version = Version::HTTP_10;
        client.until_close.set(true);
    }
    Reply::Http(Response::from_parts(head, body))
}

/// How far a connection has come decides whether the memory budget may end it.
fn reaches(client: &Client, reach: ConnectionReach) {
    if let Some(held) = client.moments.held() {
        held.rises_to(reach);
    }
}

/// A request that may be sent, with what its answer will need.
struct Cleared {
    request: UpstreamRequest,
    after: After,
    stream: Stream,
    upload: Option<Rc<UploadProgress>>,
}

/// What of the request its answer depends on.
struct After {
    method: Method,
    grpc: bool,
    profile: Option<Box<str>>,
    charged: Option<Charged>,
    /// The credential came in the query: shared caches must not keep the answer (RFC 6750 §2.3).
    private: bool,
    /// The upgrade that was passed on.
    upgrade: Option<asked_upgrade::UpgradeRequest>,
    /// Say that the connection is about to close.
    close: bool,
    trailers: answer::Trailers,
    /// The client speaks HTTP/1.0: only the end of the connection ends a body of unknown length.
    is_http10: bool,
    request_id_name: http::HeaderName,
    /// For an answer of keygate's own.
    cors: Vec<(http::HeaderName, HeaderValue)>,
}

/// Everything that is decided before anything is sent. Synchronous: the snapshot's guard ends with
/// it.
#[expect(clippy::result_large_err, reason = "a refusal is moved once, and then is the answer")]
fn admit(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    head: RequestHead,
    body: ClientBody,
    (grpc, writer): (bool, Writer),
    record: &mut RequestRecord,
) -> Result<Cleared, Reply> {
    let snapshot = worker.shared.store.load();
    let settings = &snapshot.settings;
    record.log_every = settings.log_every;
    record.note(&head, settings);
    record.trace_id = trace_id(&head.fields);
    let rule = cors::of(&head, settings);
    let preflight = rule.and_then(|cors| {
        facts::preflight(&head).and_then(|method| cors::of_preflight(&cors, &head, &method))
    });
    let cors = rule.map(|cors| cors::of_refusal(&cors, &head, settings)).unwrap_or_default();
    let refuse = |rejection: &Rejection, profile: Option<&str>, record: &mut RequestRecord| {
        let request_id = &record.request_id;
        let asked =
            RefusalContext { method: record.method(), grpc, profile, request_id, cors: &cors };
        let status = reply::status_of(rejection, &asked);
        let reply = reply::refuse(rejection, settings, writer, &asked);
        record.status = status;
        reply
    };
    let most = worker.shared.http2.header_list_bytes;
    let reading = match facts::fits(&head, most)
        .and_then(|()| facts::read(&head, settings, &worker.shared.caps, client.address.ip()))
    {
        Ok(reading) => reading,
        Err(rejection) => {
            record.decided(DecisionOutcome::Rejected(rejection.reason));
            return Err(refuse(&rejection, None, record));
        }
    };
    record.set_client(reading.client());
    if reading.outgoing.dropped > 0 {
        worker.cells.fields_dropped(u64::from(reading.outgoing.dropped));
        for (name, _) in head.fields.iter().filter(|(name, _)| name.contains(&b'_')) {
            worker.shared.dropped_names.note(name);
        }
    }
    if let Some(id) = &reading.outgoing.request_id {
        record.request_id = id.clone();
    }
    if let Some(fields) = preflight {
        record.status = StatusCode::NO_CONTENT.as_u16();
        record.decided(DecisionOutcome::Passed);
        return Err(reply::no_content(fields, settings, writer, &record.request_id));
    }
    let keys = snapshot.keys.as_deref();
    if let Some(keys) = keys {
        record.serials = (Some(keys.serial()), keys.patch_serial());
    }
    let started = record.started();
    let verdict = decide(&settings.policy, keys, &reading.facts(), started);
    let slot_of = |index: usize| snapshot.route_slots.get(index).copied().unwrap_or_default();
    let (forward, route) = match verdict {
        Verdict::Rejected(Refused { rejection, route, key }) => {
            if let Some(route) = route {
                record.set_route(&route.id, slot_of(route.index));
            }
            record.key = key.map(|k| k.id);
            record.org = key.and_then(|k| HeaderValue::from_str(k.org).ok());
            record.decided(DecisionOutcome::Rejected(rejection.reason));
            let profile = route.and_then(|r| r.profile.as_deref());
            return Err(refuse(&rejection, profile, record));
        }
        Verdict::Admitted(admitted) => {
            let route = admitted.route();
            (Forward::Admitted(admitted), route)
        }
        Verdict::Observed(observed) => {
            let route = observed.route();
            (Forward::Observed(observed), route)
        }
        Verdict::Passed(passed) => {
            let route = passed.route();
            (Forward::Passed(passed), route)
        }
    };
    let profile = route.profile.as_deref();
    record.set_route(&route.id, slot_of(route.index));
    let mut charged = None;
    let mut ticket = None;
    match &forward {
        Forward::Admitted(admitted) => {
            let key = admitted.key();
            reaches(client, ConnectionReach::Admitted);
            record.key = Some(key.id);
            record.org = HeaderValue::from_str(key.org).ok();
            if let Some(charge) = admitted.charge() {
                match worker.shared.limits.charge(charge, started) {
                    Ok(spent) => {
                        worker.cells.ratelimit(RateDecision::Allowed);
                        charged = Some(spent);
                    }
                    Err(rejection) => {
                        worker.cells.ratelimit(RateDecision::Limited);
                        record.decided(DecisionOutcome::Rejected(rejection.reason));
                        return Err(refuse(&rejection, profile, record));
                    }
                }
            }
            ticket = Some(admitted.ticket(reading.client()));
            record.decided(DecisionOutcome::Admitted);
        }
        Forward::Observed(observed) => {
            reaches(client, ConnectionReach::Passed);
            record.key = observed.key();
            record.decided(DecisionOutcome::Observed(observed.rejection().reason));
        }
        Forward::Passed(_) => {
            reaches(client, ConnectionReach::Passed);
            record.decided(DecisionOutcome::Passed);
        }
    }
    let decided_ns = record.now_ns();
    worker.cells.auth_duration(decided_ns.saturating_sub(started.mono_ns));
    if route.body_limit.is_some_and(|limit| body.least() > limit) {
        record.failed(Reason::BodyTooLarge);
        return Err(refuse(&Reason::BodyTooLarge.into(), profile, record));
    }
    let carried: Carried = reading.carriers.carried();
    let mut outgoing = reading.into_outgoing();
    let http2 = worker.upstream_is_http2();
    let upgrade =
        asked_upgrade::asked(&head, &mut outgoing, route, settings, carried).filter(|_| !http2);
    if upgrade.is_none() && is_extended_connect(&head) {
        record.failed(Reason::Method);
        return Err(refuse(&Reason::Method.into(), profile, record));
    }
    let trace = match settings.trace {
        TraceStart::Start(sampled) if record.trace_id.is_none() => {
            Some(worker.ids.begin_trace(&record.request_id, sampled))
        }
        TraceStart::Start(_) | TraceStart::Pass => None,
    };
    if let Some(trace) = &trace {
        record.trace_id = trace.id();
    }
    let after = After {
        method: head.method.clone(),
        grpc,
        profile: route.profile.clone(),
        charged,
        private: carried.in_query && matches!(forward, Forward::Admitted(_)),
        upgrade: upgrade.clone(),
        close: worker.closing.get() && head.version != Version::HTTP_2,
        trailers: match outgoing.te_trailers || client.http2 {
            true => answer::Trailers::Announced,
            false => answer::Trailers::Dropped,
        },
        is_http10: head.version == Version::HTTP_10,
        request_id_name: settings.identity.request_id.clone(),
        cors,
    };
    let (body, upload) = match body {
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
    };
    let stream = worker.streams.register(ticket, settings, route.index);
    if !client.http2 {
        client.running.set(worker.streams.take_latest());
    }
    let around = RewriteContext {
        settings,
        client: &client.address,
        https: client.https,
        request_id: &record.request_id,
        trace,
        host: worker.upstream_host(),
        authority: &worker.authority,
        http2,
        upstream_https: worker.shared.upstream_tls.is_some(),
        preserve_case: worker.shared.upstream.preserve_case,
        upgrade,
        subject: client.subject.as_ref(),
    };
    let request = rewrite::rewrite(forward, head, body, outgoing, carried, around);
    Ok(Cleared { request, after, stream, upload })
}

/// The exchange with the upstream came to nothing.
fn fail(
    worker: &Worker,
    reason: Reason,
    after: &After,
    writer: Writer,
    mut record: RequestRecord,
) -> Reply {
    record.failed(reason);
    if !reason.is_client_fault() {
        worker.cells.upstream_error(reason);
    }
    let rejection = Rejection::new(reason);
    let snapshot = worker.shared.store.load();
    let asked = RefusalContext {
        method: &after.method,
        grpc: after.grpc,
        profile: after.profile.as_deref(),
        request_id: &record.request_id,
        cors: &after.cors,
    };
    let status = reply::status_of(&rejection, &asked);
    let reply = reply::refuse(&rejection, &snapshot.settings, writer, &asked);
    record.status = status;
    reply
}

/// The response's body. A short one that has come already needs nothing more of the upstream, so
/// its connection goes back at once.
fn pass_on(
    content: AnswerContent,
    lease: Lease,
    stream: Stream,
    upload: Option<(Rc<UploadProgress>, Patience)>,
    mut record: RequestRecord,
    after: &After,
) -> ResponseBody {
    let uploaded = upload.as_ref().is_none_or(|(u, _)| !u.is_open());
    let (first, rest) = match content {
        AnswerContent::Whole(bytes) => {
            record.complete(bytes.len() as u64);
            lease.give_back(record.last_ns());
            return ResponseBody::Full(bytes);
        }
        AnswerContent::WholeChunked(bytes) => {
            record.complete(bytes.len() as u64);
            lease.give_back(record.last_ns());
            return ResponseBody::Unmeasured(bytes);
        }
        AnswerContent::Coming { first, body } => {
            (Some(first).filter(|f| !f.is_empty()), RemainingBody::Own(body))
        }
        AnswerContent::Hyper(incoming) if incoming.is_end_stream() && uploaded => {
            record.complete(0);
            lease.give_back(record.last_ns());
            return ResponseBody::Empty;
        }
        AnswerContent::Hyper(mut incoming) => {
            let mut first = None;
            if let Some(length) = incoming.size_hint().exact()
                && lease.is_driven()
                && uploaded
                && let Some(bytes) = exchange::first_frame(&mut incoming, length)
            {
                if bytes.len() as u64 == length {
                    record.complete(length);
                    lease.give_back(record.last_ns());
                    return ResponseBody::Full(bytes);
                }
                first = Some(bytes);
            }
            (first, RemainingBody::Hyper(incoming))
        }
    };
    let timeouts = &record.worker().shared.timeouts;
    let idle_ns = timeouts.response_idle.map(|d| d.as_nanos() as u64);
    let total_ns =
        timeouts.total.map(|d| record.started().mono_ns.saturating_add(d.as_nanos() as u64));
    let silent_ns = idle_ns.map_or(u64::MAX, |idle| record.last_ns().saturating_add(idle));
    let total_ns = total_ns.unwrap_or(u64::MAX);
    stream.set_deadline(silent_ns.min(total_ns));
    let (upload, patience) = upload.unzip();
    let over_http2 = record.is_http2();
    ResponseBody::Stream(Box::new(Download {
        first,
        rest,
        lease: Some(lease),
        stream,
        upload,
        record,
        grpc: after.grpc,
        http2: over_http2,
        idle_ns,
        silent_ns,
        patience: patience.filter(|_| !uploaded),
        stalled: false,
        total_ns,
    }))
}

// === impl After ===

impl After {
    /// What keygate adds to every answer of the upstream.
    fn finish(&self, fields: &mut impl AddField, settings: &Settings, record: &RequestRecord) {
        if let Some(Charged { charge, spent }) = &self.charged {
            settings.refusals.limit_fields(charge.limit, *spent, |name, value| {
                match RateFields::is_constant(&name) {
                    true => fields.set(&name, value),
                    false => fields.set_unique(&name, value),
                }
            });
        }
        fields.set_unique(&self.request_id_name, record.request_id.as_bytes());
    }

    /// What depends on the fields that are there.
    fn finish_map(&self, headers: &mut HeaderMap) {
        if self.private {
            headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private"));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// The head of an answer that is written as lines.
    fn lines(&self, head: &AnswerHead, settings: &Settings, record: &RequestRecord) -> AnswerLines {
        let mut lines = AnswerLines::new(head.status, head.phrase(), head.length() + ADDED_BYTES);
        self.finish(&mut lines, settings, record);
        let own = record.worker().own_address.as_ref();
        lines.copy_end_to_end(head, &settings.fields, own);
        if self.private && !lines.has(&header::CACHE_CONTROL) {
            lines.put(b"cache-control", b"private");
        }
        lines.closes = self.close;
        lines
    }
}

/// Room for what is added to an answer, and for what its writer adds.
const ADDED_BYTES: usize = 384;
