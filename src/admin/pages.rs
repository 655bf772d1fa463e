//! The answer of each admin path.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::access::{AdminCaller, DeniedAccess, EndpointReach};
use super::body::{AdminBody, UsageBody};
use super::observing::ObserveStatus;
use super::{AdminState, CertificateStatus, SharedLimitsStatus};
use crate::exposure::Exposure;
use crate::meter::UsePages;
use crate::reload::{IssuerStatus, StatusReport, Time};
use crate::telemetry::UseSeries;
use crate::telemetry::readiness::PendingPart;

/// The readiness part for the upstream's health check, if one is configured.
const UPSTREAM: &str = "upstream";

const TEXT: &str = "text/plain; charset=utf-8";

/// One JSON value per line.
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// RFC 7517 section 8.5.2.
const KEY_SET: &str = "application/jwk-set+json";

/// Prometheus text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /status`.
#[derive(Serialize)]
struct StatusPage<'s> {
    version: &'static str,
    now: Time,
    ready: bool,
    draining: bool,
    pending: Vec<PendingPart>,
    certificates: Vec<CertificateStatus>,
    issuers: Vec<IssuerStatus>,
    /// Whether clients can bypass keygate to reach the service.
    upstream_exposure: &'s Exposure,
    /// The same of each `[upstreams.NAME]`.
    named_upstream_exposure: BTreeMap<&'s str, &'s Exposure>,
    /// `null`: limits apply per sidecar.
    shared_limits: Option<SharedLimitsStatus>,
    /// `null`: everything is enforced.
    observe: Option<ObserveStatus>,
    #[serde(flatten)]
    status: &'s StatusReport,
}

/// A page: who reaches it, and how.
struct AdminEndpoint {
    path: &'static str,
    reach: EndpointReach,
    method: AllowedMethod,
    turn: AnswerTurn,
    answer: AdminAnswer,
}

/// When a page is made. One thread makes all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerTurn {
    /// A probe: cheap, and nothing may delay it.
    AtOnce,
    /// One at a time on all connections. After each, the others get a turn.
    Waits,
}

/// What produces a page.
enum AdminAnswer {
    Page(fn(&AdminState) -> Response<Full<Bytes>>),
    /// The operator gets more of it.
    Metrics,
    /// Depends on the query, and takes as long as it takes: each part has its own turn.
    Stream(fn(&AdminState, &str, &Arc<Semaphore>) -> Response<AdminBody>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AllowedMethod {
    /// GET and HEAD.
    Read,
    Post,
}

/// Every page. docs/operations.md has the same list.
const ENDPOINTS: &[AdminEndpoint] = &[
    AdminEndpoint {
        path: "/",
        reach: EndpointReach::Operator,
        method: AllowedMethod::Read,
        turn: AnswerTurn::Waits,
        answer: AdminAnswer::Page(index),
    },
    AdminEndpoint {
        path: "/drain",
        reach: EndpointReach::ThisHost,
        method: AllowedMethod::Post,
        turn: AnswerTurn::Waits,
        answer: AdminAnswer::Page(drain),
    },
    AdminEndpoint {
        path: "/jwks.json",
        reach: EndpointReach::Public,
        method: AllowedMethod::Read,
        turn: AnswerTurn::AtOnce,
        answer: AdminAnswer::Page(public_keys),
    },
    AdminEndpoint {
        path: "/livez",
        reach: EndpointReach::Public,
        method: AllowedMethod::Read,
        turn: AnswerTurn::AtOnce,
        answer: AdminAnswer::Page(alive),
    },
    AdminEndpoint {
        path: "/metrics",
        reach: EndpointReach::Public,
        method: AllowedMethod::Read,
        turn: AnswerTurn::Waits,
        answer: AdminAnswer::Metrics,
    },
    AdminEndpoint {
        path: "/observe",
        reach: EndpointReach::Operator,
        method: AllowedMethod::Read,
        turn: AnswerTurn::Waits,
        answer: AdminAnswer::Page(observe),
    },
    AdminEndpoint {
        path: "/readyz",
        reach: EndpointReach::Public,
        method: AllowedMethod::Read,
        turn: AnswerTurn::AtOnce,
        answer: AdminAnswer::Page(ready),
    },
    AdminEndpoint {
        path: "/startupz",
        reach: EndpointReach::Public,
        method: AllowedMethod::Read,
        turn: AnswerTurn::AtOnce,
        answer: AdminAnswer::Page(started),
    },
    AdminEndpoint {
        path: "/status",
        reach: EndpointReach::Operator,
        method: AllowedMethod::Read,
        turn: AnswerTurn::Waits,
        answer: AdminAnswer::Page(status),
    },
    AdminEndpoint {
        path: "/usage",
        reach: EndpointReach::Operator,
        method: AllowedMethod::Read,
        turn: AnswerTurn::Waits,
        answer: AdminAnswer::Stream(usage),
    },
];

/// When the answer to a request is made.
pub(super) fn turn_of<B>(request: &Request<B>) -> AnswerTurn {
    let path = request.uri().path();
    let endpoint = ENDPOINTS.iter().find(|endpoint| endpoint.path == path);
    // A refusal costs no more than a probe.
    endpoint.map_or(AnswerTurn::AtOnce, |endpoint| endpoint.turn)
}

/// The answer to a probe of the service. `None`: the request is for something else.
pub(super) async fn passed_probe<B>(
    state: &AdminState,
    caller: AdminCaller,
    request: &Request<B>,
) -> Option<Response<AdminBody>> {
    let probe = state.probes.of_path(request.uri().path())?;
    let answer = match state.access.hears(caller, request) {
        Err(denied) => refuse(denied),
        Ok(()) if !AllowedMethod::Read.has(request.method()) => not_allowed(AllowedMethod::Read),
        Ok(()) => match state.probes.ask(probe).await {
            Ok(()) => page(StatusCode::OK, TEXT, "well\n"),
            Err(failure) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{failure}\n")),
        },
    };
    Some(answer.map(AdminBody::Page))
}

/// `turns`: for the parts that are made while the answer is sent.
pub(super) fn answer<B>(
    state: &AdminState,
    caller: AdminCaller,
    request: &Request<B>,
    turns: &Arc<Semaphore>,
) -> Response<AdminBody> {
    match page_or_stream(state, caller, request, turns) {
        Ok(answer) => answer,
        Err(page) => page.map(AdminBody::Page),
    }
}

#[expect(clippy::result_large_err, reason = "either is moved once, and then is the answer")]
fn page_or_stream<B>(
    state: &AdminState,
    caller: AdminCaller,
    request: &Request<B>,
    turns: &Arc<Semaphore>,
) -> Result<Response<AdminBody>, Response<Full<Bytes>>> {
    if let Err(denied) = state.access.hears(caller, request) {
        return Err(refuse(denied));
    }
    let path = request.uri().path();
    let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == path) else {
        return Err(refuse(DeniedAccess::NoSuchPage));
    };
    if let Err(denied) = state.access.admits(caller, endpoint.reach, request) {
        return Err(refuse(denied));
    }
    if !endpoint.method.has(request.method()) {
        return Err(not_allowed(endpoint.method));
    }
    match endpoint.answer {
        AdminAnswer::Page(answer) => Err(answer(state)),
        AdminAnswer::Metrics => {
            let operator = state.access.admits(caller, EndpointReach::Operator, request);
            // A caller that sends a token wants what it is for, and learns that it is the wrong
            // one.
            if operator == Err(DeniedAccess::WrongToken) {
                return Err(refuse(DeniedAccess::WrongToken));
            }
            let uses = state.uses.as_ref().filter(|_| operator.is_ok());
            Err(metrics(state, &uses.map(|uses| uses.series()).unwrap_or_default()))
        }
        AdminAnswer::Stream(answer) => {
            Ok(answer(state, request.uri().query().unwrap_or_default(), turns))
        }
    }
}

fn not_allowed(method: AllowedMethod) -> Response<Full<Bytes>> {
    let (text, allow) = method.words();
    let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
    refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    refusal
}

fn refuse(denied: DeniedAccess) -> Response<Full<Bytes>> {
    let (status, text) = match denied {
        DeniedAccess::NoSuchPage => (StatusCode::NOT_FOUND, "no such page\n"),
        DeniedAccess::NotOneHost => {
            (StatusCode::BAD_REQUEST, "HTTP/1.1 needs exactly one Host field\n")
        }
        DeniedAccess::Misdirected => (
            StatusCode::MISDIRECTED_REQUEST,
            "this listener is for an address, localhost, and the names in admin.hosts\n",
        ),
        DeniedAccess::NoTokenConfigured => (
            StatusCode::FORBIDDEN,
            "only from this host, or with the bearer token of admin.token_file: none is configured\n",
        ),
        DeniedAccess::NoTokenShown | DeniedAccess::WrongToken => {
            (StatusCode::UNAUTHORIZED, "send the bearer token of admin.token_file\n")
        }
        DeniedAccess::NotThisHost => (StatusCode::FORBIDDEN, "only from this host\n"),
        DeniedAccess::Browser => (StatusCode::FORBIDDEN, "not from a browser\n"),
    };
    let mut refusal = page(status, TEXT, text);
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"keygate admin\"");
        refusal.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    refusal
}

fn index(_: &AdminState) -> Response<Full<Bytes>> {
    let mut text = String::from("keygate\n");
    for endpoint in ENDPOINTS {
        let method = if endpoint.method == AllowedMethod::Post { "POST " } else { "" };
        text.push_str(&format!("{method}{}\n", endpoint.path));
    }
    page(StatusCode::OK, TEXT, text)
}

/// Public keys, for those who verify an assertion.
fn public_keys(state: &AdminState) -> Response<Full<Bytes>> {
    match (state.public_keys)() {
        Some(set) => page(StatusCode::OK, KEY_SET, set),
        None => {
            page(StatusCode::NOT_FOUND, TEXT, "no assertion is signed: there is no [assertion]\n")
        }
    }
}

fn alive(_: &AdminState) -> Response<Full<Bytes>> {
    page(StatusCode::OK, TEXT, "alive\n")
}

fn metrics(state: &AdminState, uses: &UseSeries) -> Response<Full<Bytes>> {
    let control = state.metrics.control();
    control.ready.set(u8::from(state.readiness.is_ready()));
    let ill = state.readiness.pending().iter().any(|p| p.part == UPSTREAM);
    control.upstream_healthy.set(u8::from(!ill));
    page(StatusCode::OK, EXPOSITION, state.metrics.render_with(uses))
}

fn ready(state: &AdminState) -> Response<Full<Bytes>> {
    match state.readiness.is_ready() {
        true => page(StatusCode::OK, TEXT, "ready\n"),
        false => not_ready(state),
    }
}

fn started(state: &AdminState) -> Response<Full<Bytes>> {
    match state.readiness.is_started() {
        true => page(StatusCode::OK, TEXT, "started\n"),
        false => not_ready(state),
    }
}

fn not_ready(state: &AdminState) -> Response<Full<Bytes>> {
    let mut text = String::from("not ready\n");
    if state.readiness.is_draining() {
        text.push_str("draining: about to stop\n");
    }
    for PendingPart { part, why } in state.readiness.pending() {
        text.push_str(&format!("{part}: {why}\n"));
    }
    page(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
}

fn status(state: &AdminState) -> Response<Full<Bytes>> {
    let (status, exposure) = (state.status.load(), state.exposure.load());
    let named: Vec<_> =
        state.named_exposure.iter().map(|(name, cell)| (&**name, cell.load())).collect();
    let now = state.clock.now();
    let shown = StatusPage {
        version: env!("CARGO_PKG_VERSION"),
        now: Time { unix_ms: now.unix_ms },
        ready: state.readiness.is_ready(),
        draining: state.readiness.is_draining(),
        pending: state.readiness.pending(),
        certificates: (state.certificates)(),
        issuers: state.issuers.all(now),
        upstream_exposure: &exposure,
        named_upstream_exposure: named.iter().map(|(name, of)| (*name, &**of)).collect(),
        shared_limits: (state.shared_limits)(),
        observe: state.observe.status(now),
        status: &status,
    };
    match serde_json::to_vec_pretty(&shown) {
        Ok(mut json) => {
            json.push(b'\n');
            page(StatusCode::OK, "application/json", json)
        }
        Err(error) => {
            tracing::error!(%error, "/status cannot be written");
            page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "see the log\n")
        }
    }
}

/// Who would be refused, as observed so far.
fn observe(state: &AdminState) -> Response<Full<Bytes>> {
    let mut response = page(StatusCode::OK, TEXT, state.observe.lines(state.clock.now()));
    response.headers_mut().insert(header::CONTENT_TYPE, LINES);
    response
}

/// The usage record, streamed.
fn usage(state: &AdminState, query: &str, turns: &Arc<Semaphore>) -> Response<AdminBody> {
    let refuse = |status, text: String| page(status, TEXT, text).map(AdminBody::Page);
    let Some(book) = &state.uses else {
        let text = "uses of keys are not counted: usage.enabled = false\n";
        return refuse(StatusCode::NOT_FOUND, text.to_owned());
    };
    let since = match query.strip_prefix("since=") {
        Some(minute) => minute.parse().ok(),
        None => query.is_empty().then_some(0),
    };
    let Some(since) = since else {
        let text = "the query may be since=MINUTE, in whole minutes since 1970-01-01T00:00:00Z\n";
        return refuse(StatusCode::BAD_REQUEST, text.to_owned());
    };
    // The value is in seconds or milliseconds, or from another clock: an empty record would say
    // that nothing was used.
    let now = book.now();
    if since > now {
        let text = format!("since is in the future, and counts minutes: now is {now}\n");
        return refuse(StatusCode::BAD_REQUEST, text);
    }
    let mut response = page(StatusCode::OK, TEXT, Bytes::new())
        .map(|_| AdminBody::Usage(UsageBody::new(UsePages::new(book, since), turns)));
    response.headers_mut().insert(header::CONTENT_TYPE, LINES);
    response
}

/// A preStop hook on the same host calls it.
fn drain(state: &AdminState) -> Response<Full<Bytes>> {
    state.readiness.drain();
    (state.drain)();
    page(StatusCode::ACCEPTED, TEXT, "draining\n")
}

// === impl AllowedMethod ===

impl AllowedMethod {
    fn has(self, method: &Method) -> bool {
        match self {
            Self::Read => matches!(*method, Method::GET | Method::HEAD),
            Self::Post => method == Method::POST,
        }
    }

    /// The text of a refusal, and its `Allow`.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Read => ("use GET\n", "GET, HEAD"),
            Self::Post => ("use POST\n", "POST"),
        }
    }
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}
