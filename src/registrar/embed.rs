//! What the component `<keygate-keys>` needs outside this service's own pages: its script, with a
//! hash for `integrity`, and answers that pages of the listed origins may read (CORS). It never
//! uses the browser's credentials: cookies do not count there.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA384, digest};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, http};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::app::App;
use super::page::words::Words;
use super::request::Problem;

/// Path of the script.
const SCRIPT: &str = "/embed/keys.js";

/// How long browsers remember the answer to a preflight, in seconds.
const PREFLIGHT: &str = "600";

/// The script as the service sends it: with texts from the page's catalogue, and none of its own.
static SOURCE: LazyLock<String> = LazyLock::new(|| {
    let words = words(Words::preferred("en"));
    include_str!("embed/keys.js").replacen("/* words */ {}", &words.to_string(), 1)
});

static INTEGRITY: LazyLock<String> = LazyLock::new(|| {
    let hash = digest(&SHA384, SOURCE.as_bytes());
    format!("sha384-{}", BASE64_STANDARD.encode(hash.as_ref()))
});

/// The texts of the component.
fn words(w: &Words) -> Value {
    let texts: [(&str, &str); 47] = [
        ("again", &w.start_again),
        ("cancel", &w.cancel),
        ("copied", &w.copied),
        ("copy", &w.copy_secret),
        ("copyId", &w.embed_copy_id),
        ("create", &w.embed_create),
        ("days30", &w.days_30),
        ("days365", &w.days_365),
        ("days90", &w.days_90),
        ("done", &w.done),
        ("empty", &w.empty_text),
        ("emptyTitle", &w.empty_title),
        ("expires", &w.expires),
        ("failed", &w.trouble_title),
        ("formerEnds", &w.embed_former_ends),
        ("keep", &w.store_safe),
        ("lastUsed", &w.last_used),
        ("more", &w.next_page),
        ("name", &w.key_name),
        ("nameHelp", &w.name_help),
        ("never", &w.never),
        ("neverExpires", &w.never_expires),
        ("newKey", &w.embed_new),
        ("offline", &w.embed_offline),
        ("overlap", &w.old_key_works),
        ("pairSecret", &w.embed_pair_secret),
        ("permissions", &w.permissions),
        ("permissionsHelp", &w.permissions_help),
        ("publicId", &w.embed_public_id),
        ("revoke", &w.revoke),
        ("revokeKey", &w.revoke_key),
        ("revokeText", &w.revoke_consequence),
        ("revokeTitle", &w.revoke_title),
        ("revoked", &w.revoked_notice),
        ("rotate", &w.rotate),
        ("rotateButton", &w.rotate_button),
        ("rotateText", &w.rotate_lead),
        ("rotateTitle", &w.rotate_title),
        ("secret", &w.store_title),
        ("sentBefore", &w.fault_sent_before),
        ("start", &w.key_start),
        ("state", &w.state),
        ("title", &w.embed_title),
        ("unsettled", &w.embed_unsettled),
        ("wait", &w.embed_wait),
        ("wasShown", &w.was_shown_title),
        ("wasShownText", &w.was_shown_text),
    ];
    let states: [(&str, &str); 6] = [
        ("active", &w.active_filter),
        ("canary", &w.canary),
        ("disabled", &w.disabled),
        ("expired", &w.expired),
        ("not_yet_valid", &w.not_yet_valid),
        ("revoked", &w.revoked),
    ];
    let object = |pairs: &[(&str, &str)]| -> Map<String, Value> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), Value::from(*text))).collect()
    };
    let mut all = object(&texts);
    all.insert("lang".to_owned(), w.lang.into());
    all.insert("states".to_owned(), Value::Object(object(&states)));
    Value::Object(all)
}

/// The `integrity` attribute of the script's element.
pub fn integrity() -> &'static str {
    &INTEGRITY
}

/// The URL of the script, for other sites' pages.
pub fn script_url(app: &App) -> String {
    format!("{}{SCRIPT}", app.settings.reached_at())
}

/// The script and its header fields. If no origin may have it, there is no script.
pub fn routes(app: &App) -> Router<App> {
    match app.settings.embed.origins.is_empty() {
        true => Router::new(),
        false => Router::new().route(SCRIPT, get(script)).route("/embed/keys.json", get(about)),
    }
}

async fn script() -> Response {
    // Anybody may read it: `integrity` requires that, and the script reveals nothing about anybody.
    let fields = [
        (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=300"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
    ];
    (fields, SOURCE.as_str()).into_response()
}

async fn about(State(app): State<App>) -> Json<Value> {
    Json(json!({"script": script_url(&app), "integrity": integrity()}))
}

/// Lets pages of the listed origins read answers about keys. All other answers are for our own
/// pages.
pub async fn across(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.settings.embed.origins.is_empty() || !is_of_keys(request.uri().path()) {
        return next.run(request).await;
    }
    let origin = listed(&app, request.headers());
    let is_preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut answer = match (&origin, is_preflight) {
        (Some(_), true) => preflight(),
        (None, true) => {
            let why = "no page of this origin may have the component";
            Problem::new(StatusCode::FORBIDDEN, "forbidden", why).into_response()
        }
        (_, false) => next.run(request).await,
    };
    let fields = answer.headers_mut();
    fields.insert(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let shown = "etag, keygate-serial, retry-after, x-request-id, idempotency-replayed";
        let shown = HeaderValue::from_static(shown);
        fields.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, shown);
    }
    answer
}

fn preflight() -> Response {
    let fields = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PATCH, DELETE"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, idempotency-key, if-match, prefer",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT),
    ];
    (StatusCode::NO_CONTENT, fields).into_response()
}

/// The request's origin, if it is listed and occurs once.
fn listed(app: &App, fields: &HeaderMap) -> Option<HeaderValue> {
    let mut all = fields.get_all(http::header::ORIGIN).iter();
    let (origin, None) = (all.next()?, all.next()) else { return None };
    app.settings.embed.has(origin.to_str().ok()?).then(|| origin.clone())
}

/// `/v1/orgs/ORG/keys…`
fn is_of_keys(path: &str) -> bool {
    let below = path.strip_prefix("/v1/orgs/").and_then(|rest| rest.split_once('/'));
    below.is_some_and(|(_, rest)| rest == "keys" || rest.starts_with("keys/"))
}

#[cfg(test)]
mod tests;
