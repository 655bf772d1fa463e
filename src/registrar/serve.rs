//! The running service: what its handlers share, its routes, and what surrounds every request: a
//! request id, deadlines, a limit for bodies, header fields for browsers, metrics.

mod listen;
mod places;
#[cfg(test)]
pub(super) mod tests;
mod tls;

use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Router, http};
use http::header::{self, HeaderName, HeaderValue};
use http::{StatusCode, request::Parts};
use http_body_util::{BodyExt as _, Limited};

pub use self::listen::{ServiceListener, serve};
use self::places::ServicePlace;
pub use self::places::{MOST_OTHERS, MOST_SIDECARS};
pub use self::tls::{CertificateWatch, ServiceTls};
use super::app::{App, Publishing};
use super::metrics::method_word;
use super::request::{AskedBy, BODY_LIMIT, ClientAddress, FLEET, Peer, Problem, RequestId, bearer};
use super::{api, embed, endpoints, page, people};
use crate::core::Digest;
use crate::core::address::client_address;

/// From the head of a request to the head of its answer.
const ANSWER: Duration = Duration::from_secs(30);

/// The longest that `/healthz` waits for the database.
const HEALTH: Duration = Duration::from_secs(2);

/// Paths whose handlers limit bodies and time themselves: sidecars wait there, and post a lot.
const OWN_BOUNDS: [&str; 2] = ["/artefacts/", "/v1/usage"];

/// Target of the lines of the access log.
pub const ACCESS_LOG: &str = "access";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Header fields for browsers, in every answer that does not set its own. No page of the service
/// may be framed, send anything elsewhere, or run a script that is not its own. The referrer policy
/// is `same-origin`, because with `no-referrer` browsers send `Origin: null` with our own forms.
const BROWSER_FIELDS: [(HeaderName, &str); 7] = [
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; \
         require-trusted-types-for 'script'",
    ),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// Every route of the service.
pub fn router(app: App) -> Router {
    let rooms = rooms(&app);
    assemble(app, rooms)
}

/// The routes of the other rooms.
fn rooms(app: &App) -> Router<App> {
    let across = from_fn_with_state(app.clone(), embed::across);
    let shown = people::routes().merge(page::router(app));
    let shown = shown.merge(api::routes().layer(across)).merge(embed::routes(app));
    shown.merge(endpoints::routes(app))
}

fn assemble(app: App, rooms: Router<App>) -> Router {
    rooms
        .route("/healthz", get(health))
        .route("/metrics", get(show_metrics))
        .route("/artefacts/{*path}", any(artefacts))
        .fallback(no_route)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn_with_state(app.clone(), around))
        .with_state(app)
}

/// For paths that no room answers.
async fn no_route(State(app): State<App>, request: Request) -> Response {
    match endpoints::not_found(&app, &request) {
        Some(answer) => answer,
        None => nothing().await,
    }
}

async fn nothing() -> Response {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here").into_response()
}

/// Whether the database answers.
async fn health(State(app): State<App>) -> Response {
    match tokio::time::timeout(HEALTH, app.store.epoch()).await {
        Ok(Ok(_)) => "ok\n".into_response(),
        Ok(Err(_)) | Err(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response()
        }
    }
}

/// For callers with the configured token. Without one, for this host alone, unless something
/// suggests that a proxy forwards requests of others.
async fn show_metrics(State(app): State<App>, request: Request) -> Response {
    let peer = request.extensions().get::<Peer>();
    let is_open = match &app.settings.metrics_bearer {
        Some(token) => bearer(request.headers()).is_some_and(|t| Digest::of(t).matches(token)),
        None => {
            let address = peer.and_then(|peer| peer.address);
            app.settings.public_url.is_none()
                && app.settings.trusted_proxies.is_empty()
                && address.is_some_and(|address| address.to_canonical().is_loopback())
        }
    };
    match is_open {
        true => {
            let form = "text/plain; version=0.0.4; charset=utf-8";
            let published = app.publishing.map(|publishing| publishing.publisher.metrics());
            let text = app.metrics.render() + &published.unwrap_or_default();
            ([(header::CONTENT_TYPE, form)], text).into_response()
        }
        false => nothing().await,
    }
}

/// Tables and patches, for fleets' tokens.
async fn artefacts(State(app): State<App>, request: Request) -> Response {
    let Some(Publishing { artefacts, .. }) = app.publishing else { return nothing().await };
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.address);
    let shown = bearer(request.headers()).map(Digest::of);
    if let Some(shown) = shown
        && app.settings.fleets.iter().any(|fleet| fleet.bearer.matches(&shown))
        && let Some(place) = request.extensions().get::<ServicePlace>()
    {
        place.becomes_a_sidecars();
    }
    let (parts, _) = request.into_parts();
    // No handler reads the body.
    let answer = artefacts.answer(Request::from_parts(parts.clone(), ()), peer).await;
    if answer.status() != StatusCode::UNAUTHORIZED {
        AskedBy::note(&parts, FLEET);
    }
    answer.map(Body::new)
}

/// What surrounds every request.
async fn around(State(app): State<App>, request: Request, next: Next) -> Response {
    let begin = app.clock.now();
    let (mut parts, body) = request.into_parts();
    let peer = parts.extensions.get::<Peer>().cloned().unwrap_or_default();
    let id = request_id(&app, &parts, &peer);
    let client = address_of(&app, &parts, &peer);
    parts.extensions.insert(ClientAddress(client));
    parts.extensions.insert(id.clone());
    let asked = AskedBy::default();
    parts.extensions.insert(asked.clone());
    let method = parts.method.clone();
    let path: Box<str> = match parts.extensions.get::<MatchedPath>() {
        Some(path) => path.as_str().into(),
        None => "other".into(),
    };
    let has_own_bounds = OWN_BOUNDS.iter().any(|start| parts.uri.path().starts_with(start));
    let stated = parts.headers.get(header::CONTENT_LENGTH);
    let stated = stated.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let mut answer = if has_own_bounds {
        next.run(Request::from_parts(parts, body)).await
    } else {
        let run = async {
            let body = match stated.is_some_and(|length| length > BODY_LIMIT as u64) {
                true => unreadable(),
                false => whole(body).await,
            };
            next.run(Request::from_parts(parts, body)).await
        };
        tokio::time::timeout(ANSWER, run).await.unwrap_or_else(|_| {
            let why = "the request took too long";
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "timeout", why).into_response()
        })
    };
    let fields = answer.headers_mut();
    for (name, value) in BROWSER_FIELDS {
        if !fields.contains_key(&name) {
            fields.insert(name, HeaderValue::from_static(value));
        }
    }
    if app.settings.public_url.as_ref().is_some_and(|url| url.starts_with("https:")) {
        let year = HeaderValue::from_static("max-age=31536000");
        fields.insert(header::STRICT_TRANSPORT_SECURITY, year);
    }
    if let Ok(value) = HeaderValue::try_from(&*id.0) {
        fields.insert(REQUEST_ID, value);
    }
    let took = app.clock.now().mono_ns.saturating_sub(begin.mono_ns);
    app.metrics.answered(&method, &path, answer.status(), Duration::from_nanos(took));
    tracing::info!(
        target: ACCESS_LOG,
        request_id = &*id.0,
        client = client.map(tracing::field::display),
        method = method_word(&method),
        route = &*path,
        status = answer.status().as_u16(),
        caller = asked.kind(),
        duration_us = took / 1000,
        "answered"
    );
    answer
}

/// Reads the whole body first. The caller is looked up after that, so that somebody who loses their
/// rights while a body trickles in changes nothing with it. A body that is too long or cut off
/// becomes an error for its reader.
async fn whole(body: Body) -> Body {
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => Body::from(body.to_bytes()),
        Err(_) => unreadable(),
    }
}

/// An error for the body's reader, which reports it in the form that suits the request.
fn unreadable() -> Body {
    Body::new(Limited::new(Body::from("?"), 0))
}

/// A sidecar's own id, if we believe that sidecar; otherwise a random one.
fn request_id(app: &App, parts: &Parts, peer: &Peer) -> RequestId {
    let sent = parts.headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let fits =
        |id: &&str| (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    if let Some(id) = sent.filter(fits)
        && app.people.believes(peer)
    {
        return RequestId(id.into());
    }
    let mut random = [0; 16];
    // Without randomness nothing else works either; an id of zeros is the least of the problems.
    let _ = SystemRandom::new().fill(&mut random);
    RequestId(format!("{:032x}", u128::from_be_bytes(random)).into())
}

/// The last address that only trusted proxies and sidecars can have written.
fn address_of(app: &App, parts: &Parts, peer: &Peer) -> Option<IpAddr> {
    let entries = parts.headers.get_all("x-forwarded-for").iter();
    let entries: Vec<&str> =
        entries.filter_map(|value| value.to_str().ok()).flat_map(|line| line.split(',')).collect();
    let trusted = &app.settings.trusted_proxies;
    if app.people.believes(peer) {
        // A sidecar appends the address that it has seen.
        let (last, rest) = entries.split_last()?;
        let last = last.trim().parse().ok()?;
        return Some(client_address(last, rest.iter().copied(), trusted));
    }
    Some(client_address(peer.address?, entries.into_iter(), trusted))
}
