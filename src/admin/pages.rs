//! What each admin path answers.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use super::{AdminState, CertificateStatus};
use crate::reload::{StatusReport, Time};
use crate::telemetry::readiness::Pending;

/// The part of readiness that is the upstream's health check, where one is configured.
const UPSTREAM: &str = "upstream";

const TEXT: &str = "text/plain; charset=utf-8";

/// Prometheus text format.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /status`.
#[derive(Serialize)]
struct StatusPage<'s> {
    version: &'static str,
    now: Time,
    ready: bool,
    draining: bool,
    pending: Vec<Pending>,
    certificates: Vec<CertificateStatus>,
    #[serde(flatten)]
    status: &'s StatusReport,
}

pub(super) fn answer<B>(
    state: &AdminState,
    peer: SocketAddr,
    request: &Request<B>,
) -> Response<Full<Bytes>> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let allow = match request.uri().path() {
        "/drain" => return drain(state, peer, request),
        "/metrics" | "/livez" | "/readyz" | "/startupz" | "/status" | "/" if !reads => {
            let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n");
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        path => path,
    };
    match allow {
        "/" => page(
            StatusCode::OK,
            TEXT,
            "keygate\n/livez /readyz /startupz /status /metrics, POST /drain\n",
        ),
        "/livez" => page(StatusCode::OK, TEXT, "alive\n"),
        "/metrics" => {
            let control = state.metrics.control();
            control.ready.set(u8::from(state.readiness.is_ready()));
            let ill = state.readiness.pending().iter().any(|p| p.part == UPSTREAM);
            control.upstream_healthy.set(u8::from(!ill));
            page(StatusCode::OK, EXPOSITION, state.metrics.render())
        }
        "/readyz" => readiness(state, state.readiness.is_ready(), "ready\n"),
        "/startupz" => readiness(state, state.readiness.is_started(), "started\n"),
        "/status" => status(state),
        _ => page(StatusCode::NOT_FOUND, TEXT, "no such page\n"),
    }
}

fn readiness(state: &AdminState, ok: bool, word: &'static str) -> Response<Full<Bytes>> {
    if ok {
        return page(StatusCode::OK, TEXT, word);
    }
    let mut text = String::from("not ready\n");
    if state.readiness.is_draining() {
        text.push_str("draining: about to stop\n");
    }
    for Pending { part, why } in state.readiness.pending() {
        text.push_str(&format!("{part}: {why}\n"));
    }
    page(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
}

fn status(state: &AdminState) -> Response<Full<Bytes>> {
    let status = state.status.load();
    let shown = StatusPage {
        version: env!("CARGO_PKG_VERSION"),
        now: Time { unix_ms: state.clock.now().unix_ms },
        ready: state.readiness.is_ready(),
        draining: state.readiness.is_draining(),
        pending: state.readiness.pending(),
        certificates: (state.certificates)(),
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

/// A preStop hook calls it from the same host. A browser must not be led to: it would send `Origin`.
fn drain<B>(state: &AdminState, peer: SocketAddr, request: &Request<B>) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "use POST\n");
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return refusal;
    }
    if !peer.ip().to_canonical().is_loopback() {
        return page(StatusCode::FORBIDDEN, TEXT, "only from this host\n");
    }
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return page(StatusCode::FORBIDDEN, TEXT, "not from a browser\n");
    }
    state.readiness.drain();
    (state.drain)();
    page(StatusCode::ACCEPTED, TEXT, "draining\n")
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
