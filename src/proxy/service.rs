//! One request is one page: facts → decide → charge → rewrite → send → answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper::upgrade::OnUpgrade;

use super::body::{Download, Progress, RequestBody, ResponseBody, Rest, Upload};
use super::credentials::Carried;
use super::exchange::{self, Patience};
use super::facts;
use super::limits::Charged;
use super::record::RequestRecord;
use super::reply::{self, Asked};
use super::rewrite::{self, Around, Forward, UpstreamRequest};
use super::serve::Client;
use super::streams::Stream;
use super::upstream::{Content, Lease};
use super::worker::Worker;
use crate::config::Settings;
use crate::core::decision::Refused;
use crate::core::{Reason, Rejection, Verdict, decide};
use crate::telemetry::{Outcome, RateDecision};

pub(crate) use super::upgrade::Upgraded;

/// The service of one connection.
#[derive(Debug)]
pub(crate) struct Gate {
    worker: Rc<Worker>,
    client: Rc<Client>,
}

// === impl Gate ===

impl Gate {
    pub(crate) fn new(worker: &Rc<Worker>, client: &Rc<Client>) -> Self {
        Self { worker: Rc::clone(worker), client: Rc::clone(client) }
    }
}

impl Service<Request<Incoming>> for Gate {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let worker = Rc::clone(&self.worker);
        let client = Rc::clone(&self.client);
        let (mut parts, body) = request.into_parts();
        let connect = super::upgrade::extended_connect(&mut parts);
        // Now and not with the first poll: hyper may look for the end of the client's side before.
        let record = RequestRecord::begin(&worker, &client.moments, &parts, client.address.ip());
        Box::pin(handle(worker, client, (parts, body, connect), record))
    }
}

/// What hyper wants of a service.
type Answer = Result<Response<ResponseBody>, Infallible>;

/// From the head of a request to the head of its response.
async fn handle(
    worker: Rc<Worker>,
    client: Rc<Client>,
    (parts, body, connect): (Parts, Incoming, Option<OnUpgrade>),
    mut record: RequestRecord,
) -> Answer {
    client.moments.body_open.set(!hyper::body::Body::is_end_stream(&body));
    let grpc = reply::is_grpc(&parts.headers, parts.version);
    let cleared = match admit(&worker, &client, parts, body, grpc, &mut record) {
        Ok(cleared) => cleared,
        Err(response) => return Ok(response),
    };
    let Cleared { request, mut after, stream, upload } = cleared;
    // A claim alone must not lift the deadlines: over HTTP/1.1 there is no gRPC to wait for.
    let silent = grpc && worker.upstream_is_http2();
    let patience = Patience::new(&worker, upload.clone(), silent, record.started());
    let sent =
        exchange::send(&worker, request, &stream, &patience, &client.address, &mut record).await;
    let (response, lease) = match sent {
        Ok(answered) => answered,
        Err(reason) => {
            if let Some(upload) = &upload {
                upload.stop();
            }
            return Ok(fail(&worker, reason, &after, record));
        }
    };
    record.answered(response.status().as_u16());
    let snapshot = worker.shared.store.load();
    let settings = &snapshot.settings;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgraded =
            super::upgrade::accept(response, lease, stream, after.upgrade.take(), settings);
        return Ok(match upgraded {
            Ok((mut response, upgraded)) => {
                after.finish(response.headers_mut(), settings, &record);
                let upgraded = upgraded.with(record);
                match connect {
                    Some(connect) => upgraded.run_in_stream(&worker, connect),
                    None => *client.upgraded.borrow_mut() = Some(Box::new(upgraded)),
                }
                response
            }
            Err(reason) => fail(&worker, reason, &after, record),
        });
    }
    // Over HTTP/2 any success would open the tunnel (RFC 8441 section 5).
    if connect.is_some() && response.status().is_success() {
        return Ok(fail(&worker, Reason::UpstreamBadResponse, &after, record));
    }
    let (mut head, content) = response.into_parts();
    if !rewrite::is_framed_once(&head.headers) {
        // What hyper has chosen need not be what another reader of these bytes would.
        return Ok(fail(&worker, Reason::UpstreamBadResponse, &after, record));
    }
    // The version is that of a hop: ours, whatever the upstream speaks.
    head.version = http::Version::HTTP_11;
    rewrite::to_client(&mut head.headers, settings);
    after.finish(&mut head.headers, settings, &record);
    let body = pass_on(content, lease, stream, upload.map(|u| (u, patience)), record, grpc);
    Ok(Response::from_parts(head, body))
}

/// A request that may be sent, with what its answer will need.
struct Cleared {
    request: Box<UpstreamRequest>,
    after: After,
    stream: Stream,
    upload: Option<Rc<Progress>>,
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
    upgrade: Option<super::upgrade::Asked>,
    /// Say that the connection is about to close.
    close: bool,
    request_id_name: http::HeaderName,
}

/// Everything that is decided before anything is sent. Synchronous: the snapshot's guard ends with
/// it.
#[expect(clippy::result_large_err, reason = "a refusal is moved once, and then is the answer")]
fn admit(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    parts: Parts,
    body: Incoming,
    grpc: bool,
    record: &mut RequestRecord,
) -> Result<Cleared, Response<ResponseBody>> {
    let snapshot = worker.shared.store.load();
    let settings = &snapshot.settings;
    record.log_every = settings.log_every;
    let refuse = |rejection: &Rejection, profile: Option<&str>, record: &mut RequestRecord| {
        record.status = reply::status_of(rejection, grpc);
        let asked =
            Asked { method: record.method(), grpc, profile, request_id: &record.request_id };
        reply::refuse(rejection, settings, &asked)
    };
    let reading = match facts::read(&parts, settings, &worker.shared.caps, client.address.ip()) {
        Ok(reading) => reading,
        Err(rejection) => {
            record.decided(Outcome::Rejected(rejection.reason));
            return Err(refuse(&rejection, None, record));
        }
    };
    record.set_client(reading.client());
    if let Some(id) = &reading.outgoing.request_id {
        record.request_id = id.clone();
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
            record.decided(Outcome::Rejected(rejection.reason));
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
                        record.decided(Outcome::Rejected(rejection.reason));
                        return Err(refuse(&rejection, profile, record));
                    }
                }
            }
            ticket = Some(admitted.ticket(reading.client()));
            record.decided(Outcome::Admitted);
        }
        Forward::Observed(observed) => {
            record.key = observed.key();
            record.decided(Outcome::Observed(observed.rejection().reason));
        }
        Forward::Passed(_) => record.decided(Outcome::Passed),
    }
    let decided_ns = record.now_ns();
    worker.cells.auth_duration(decided_ns.saturating_sub(started.mono_ns));
    let too_large =
        route.body_limit.is_some_and(|limit| hyper::body::Body::size_hint(&body).lower() > limit);
    if too_large {
        record.failed(Reason::BodyTooLarge);
        return Err(refuse(&Reason::BodyTooLarge.into(), profile, record));
    }
    let carried: Carried = reading.carriers.carried();
    let mut outgoing = reading.into_outgoing();
    let http2 = worker.upstream_is_http2();
    let upgrade =
        super::upgrade::asked(&parts, &mut outgoing, route, settings, carried).filter(|_| !http2);
    if upgrade.is_none() && super::upgrade::is_extended_connect(&parts) {
        record.failed(Reason::Method);
        return Err(refuse(&Reason::Method.into(), profile, record));
    }
    let traced = parts.headers.get(rewrite::TRACEPARENT).is_some_and(rewrite::is_traceparent);
    let trace = (!traced).then(|| worker.ids.begin_trace(&record.request_id));
    let after = After {
        method: parts.method.clone(),
        grpc,
        profile: route.profile.clone(),
        charged,
        private: carried.in_query && matches!(forward, Forward::Admitted(_)),
        upgrade: upgrade.clone(),
        close: worker.closing.get() && parts.version != http::Version::HTTP_2,
        request_id_name: settings.identity.request_id.clone(),
    };
    let (body, upload) = if hyper::body::Body::is_end_stream(&body) {
        (RequestBody::Empty, None)
    } else {
        let upload = Upload::new(body, route.body_limit, Rc::clone(&client.moments));
        let progress = upload.progress();
        record.upload = Some(Rc::clone(&progress));
        (RequestBody::Stream(upload), Some(progress))
    };
    let stream = worker.streams.register(ticket, settings, route.index);
    if !client.http2 {
        client.running.set(worker.streams.take_latest());
    }
    let around = Around {
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
    let request = UpstreamRequest::new(forward, parts, body, outgoing, carried, around);
    Ok(Cleared { request, after, stream, upload })
}

/// The exchange with the upstream came to nothing.
fn fail(
    worker: &Worker,
    reason: Reason,
    after: &After,
    mut record: RequestRecord,
) -> Response<ResponseBody> {
    record.failed(reason);
    if !reason.is_client_fault() {
        worker.cells.upstream_error(reason);
    }
    let rejection = Rejection::new(reason);
    record.status = reply::status_of(&rejection, after.grpc);
    let snapshot = worker.shared.store.load();
    let asked = Asked {
        method: &after.method,
        grpc: after.grpc,
        profile: after.profile.as_deref(),
        request_id: &record.request_id,
    };
    reply::refuse(&rejection, &snapshot.settings, &asked)
}

/// The response's body. A short one that has come already needs nothing more of the upstream, so
/// its connection goes back at once.
fn pass_on(
    content: Content,
    lease: Lease,
    stream: Stream,
    upload: Option<(Rc<Progress>, Patience)>,
    mut record: RequestRecord,
    grpc: bool,
) -> ResponseBody {
    use hyper::body::Body;
    let uploaded = upload.as_ref().is_none_or(|(u, _)| !u.is_open());
    let (first, rest) = match content {
        Content::Whole(bytes) => {
            record.complete(bytes.len() as u64);
            lease.give_back(record.last_ns(), true);
            return ResponseBody::Full(bytes);
        }
        Content::Counted { first, left } => {
            (Some(first).filter(|f| !f.is_empty()), Rest::Counted(left))
        }
        Content::Coming(incoming) if incoming.is_end_stream() && uploaded => {
            record.complete(0);
            lease.give_back(record.last_ns(), false);
            return ResponseBody::Empty;
        }
        Content::Coming(mut incoming) => {
            let mut first = None;
            if let Some(length) = incoming.size_hint().exact()
                && lease.is_driven()
                && uploaded
                && let Some(bytes) = exchange::first_frame(&mut incoming, length)
            {
                if bytes.len() as u64 == length {
                    record.complete(length);
                    lease.give_back(record.last_ns(), true);
                    return ResponseBody::Full(bytes);
                }
                first = Some(bytes);
            }
            (first, Rest::Hyper(incoming))
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
        grpc,
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
    /// What keygate adds to an answer of the upstream.
    fn finish(&self, headers: &mut http::HeaderMap, settings: &Settings, record: &RequestRecord) {
        if let Some(Charged { charge, spent }) = &self.charged {
            settings.refusals.limit_fields(charge.limit, *spent, |name, value| {
                headers.insert(name, value);
            });
        }
        if self.private {
            headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private"));
        }
        headers.insert(self.request_id_name.clone(), record.request_id.clone());
        if self.close && !headers.contains_key(header::UPGRADE) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}
