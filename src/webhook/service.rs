//! What the listener answers: `POST /mutate`, and `POST /mutate/require` for namespaces that accept
//! nothing without the sidecar. Everything else is refused in words, since API servers show them to
//! the author of the pod.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use tokio::sync::Semaphore;

use super::certificate::WebhookCertificate;
use super::metrics::{WebhookMetrics, WebhookReadiness};
use super::review;
use super::room::{BodyPlace, BodyRoom};
use crate::clock::Clock;
use crate::inject::{InjectContext, InjectorSettings};

/// Longest review. API servers accept objects of up to 3 MiB, and etcd half of that.
pub const BODY_LIMIT: usize = 3 << 20;

/// How much of an overlong body is read and discarded, so that the client reads the answer and does
/// not get a reset.
const DISCARDED: usize = 16 << 20;

/// Bytes of bodies that may be held at a time, over all connections.
const BODIES: usize = 16 << 20;

/// A longer review waits for the one before it: as JSON in memory, each can take twenty times its
/// length.
const LONG: usize = 64 << 10;

/// Time for the whole body of a request.
const BODY_TIME: Duration = Duration::from_secs(10);

/// What all connections share.
#[derive(Debug)]
pub struct WebhookState {
    pub settings: InjectorSettings,
    pub certificate: WebhookCertificate,
    pub metrics: WebhookMetrics,
    pub clock: Clock,
    bodies: BodyRoom,
    /// One permit.
    long_review: Semaphore,
    drains: AtomicBool,
    /// Unix seconds of the last log line about a client that refuses the certificate.
    refusal_told: AtomicU64,
}

/// Why a request is not a readable review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RefusedRequest {
    Crowded,
    Encoding,
    Method,
    Path,
    Slow,
    TooLong,
    Type,
}

/// How much of a body has arrived.
enum ReadBody {
    Whole(Vec<u8>),
    /// The client went away.
    Gone,
}

// === impl WebhookState ===

impl WebhookState {
    pub fn new(
        settings: InjectorSettings,
        certificate: WebhookCertificate,
        metrics: WebhookMetrics,
        clock: Clock,
    ) -> Self {
        let (drains, refusal_told) = (AtomicBool::new(false), AtomicU64::new(0));
        let (bodies, long_review) = (BodyRoom::new(BODIES), Semaphore::new(1));
        Self { settings, certificate, metrics, clock, bodies, long_review, drains, refusal_told }
    }

    pub fn readiness(&self) -> WebhookReadiness {
        match self.certificate.current() {
            _ if self.drains() => WebhookReadiness::Draining,
            Some(_) => WebhookReadiness::Ready,
            None => WebhookReadiness::NoCertificate,
        }
    }

    pub fn drains(&self) -> bool {
        self.drains.load(Ordering::Relaxed)
    }

    /// From now on, answers end their connections, and readiness says no.
    pub fn drain(&self) {
        self.drains.store(true, Ordering::Relaxed);
    }

    /// Whether it is time to report that a client refuses the certificate: once a minute.
    pub(super) fn tells_refusal(&self) -> bool {
        let now = self.clock.now().unix_secs();
        let told = self.refusal_told.load(Ordering::Relaxed);
        now.saturating_sub(told) >= 60 && {
            let taken =
                self.refusal_told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed);
            taken.is_ok()
        }
    }

    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = match self.reviewed(request).await {
            Ok(response) => response,
            Err(refused) => {
                self.metrics.refused(refused.status());
                refused.response()
            }
        };
        if self.drains() {
            response.headers_mut().insert(header::CONNECTION, CLOSE);
        }
        response
    }

    async fn reviewed(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, RefusedRequest> {
        let context = match request.uri().path() {
            "/mutate" => InjectContext { is_required: false },
            "/mutate/require" => InjectContext { is_required: true },
            _ => return Err(RefusedRequest::Path),
        };
        if request.method() != Method::POST {
            return Err(RefusedRequest::Method);
        }
        if !is_json(request.headers()) {
            return Err(RefusedRequest::Type);
        }
        let is_coded = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
        if request.headers().get(header::CONTENT_ENCODING).is_some_and(is_coded) {
            return Err(RefusedRequest::Encoding);
        }
        let (place, gives_way) = self.bodies.take();
        let read = tokio::time::timeout(BODY_TIME, read_body(request.into_body(), &place));
        let read = tokio::select! {
            read = read => read.map_err(|_| RefusedRequest::Slow)??,
            // Dropping the sender signals it.
            _ = gives_way => return Err(RefusedRequest::Crowded),
        };
        let body = match read {
            ReadBody::Whole(body) => body,
            // Nobody reads the answer.
            ReadBody::Gone => return Err(RefusedRequest::Slow),
        };
        let _turn = match body.len() > LONG {
            true => self.long_review.acquire().await.ok(),
            false => None,
        };
        let begin = self.clock.now();
        let answer = review::answer(&body, &context, &self.settings);
        let took = self.clock.now().mono_ns.saturating_sub(begin.mono_ns);
        self.metrics.admitted(answer.result, answer.reason, Duration::from_nanos(took));
        tracing::info!(
            namespace = answer.pod.namespace,
            name = answer.pod.name,
            dry_run = answer.pod.dry_run,
            result = answer.result.as_str(),
            reason = answer.reason,
            told = answer.told,
            "admission"
        );
        let form = match answer.status {
            StatusCode::OK => HeaderValue::from_static("application/json"),
            _ => TEXT,
        };
        let mut response = Response::new(Full::new(Bytes::from(answer.body)));
        *response.status_mut() = answer.status;
        response.headers_mut().insert(header::CONTENT_TYPE, form);
        Ok(response)
    }
}

/// API servers show the text of an answer that is not a review.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

const CLOSE: HeaderValue = HeaderValue::from_static("close");

fn is_json(fields: &HeaderMap) -> bool {
    let Some(form) = fields.get(header::CONTENT_TYPE) else { return false };
    let form = form.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    form.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

async fn read_body(mut body: Incoming, place: &BodyPlace<'_>) -> Result<ReadBody, RefusedRequest> {
    let stated = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    // Space for all of it, or a little if its length is not stated.
    let mut bytes = Vec::with_capacity(stated.min(BODY_LIMIT));
    let mut length: usize = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Ok(ReadBody::Gone) };
        let Some(data) = frame.data_ref() else { continue };
        length = length.saturating_add(data.len());
        if length > DISCARDED {
            return Err(RefusedRequest::TooLong);
        }
        if length <= BODY_LIMIT {
            bytes.extend_from_slice(data);
            place.grow(data.len());
        } else {
            bytes = Vec::new();
        }
    }
    if length > BODY_LIMIT { Err(RefusedRequest::TooLong) } else { Ok(ReadBody::Whole(bytes)) }
}

// === impl RefusedRequest ===

impl RefusedRequest {
    const fn status(self) -> StatusCode {
        match self {
            Self::Crowded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Encoding | Self::Type => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Path => StatusCode::NOT_FOUND,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Crowded => "there are many long reviews at a time, and this one is the longest\n",
            Self::Encoding => "a review comes without a content coding\n",
            Self::Method => "reviews come by POST\n",
            Self::Path => {
                "there is nothing here\nhint: clientConfig.service.path is /mutate, or /mutate/require\n"
            }
            Self::Slow => "the review did not arrive within 10 s\n",
            Self::TooLong => "the review is longer than 3 MiB\n",
            Self::Type => "a review has the content type application/json\n",
        }
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from_static(self.text().as_bytes())));
        *response.status_mut() = self.status();
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, TEXT);
        if self == Self::Method {
            fields.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        // The unread part of the request would be taken for the next one.
        fields.insert(header::CONNECTION, CLOSE);
        response
    }
}
