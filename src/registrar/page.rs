//! The page in the browser: HTML from the server, one stylesheet, one script. It shows what is in
//! the store and asks the store for changes; the store decides what somebody may do. Works without
//! script, except for copying.

pub mod data;
mod evidence;
pub mod findings;
pub mod force;
pub mod form;
pub mod installation;
pub mod key;
pub mod list;
pub mod org;
pub mod policy;
pub mod rotate;
pub mod show;
pub mod sign_in;
#[cfg(test)]
mod tests;
pub mod view;
pub mod visit;
pub mod words;

use std::sync::LazyLock;

use axum::Router;
use axum::extract::{MatchedPath, State};
use axum::http::header::{ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};

use self::view::Shell;
use self::words::Words;
use super::app::App;
use super::people::{OIDC_SIGN_IN, SIGN_IN};
use crate::core::Digest;

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const MARK: &str = include_str!("page/mark.svg");

/// Part of the URLs of files that never change within a version of the program.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let all = [STYLE, SCRIPT, MARK].concat();
    let Digest(hash) = Digest::of(all.as_bytes());
    hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
});

/// Every screen: at the service's own address, where people sign in, and again at the product's
/// path, where they are signed in already.
pub fn router(app: &App) -> Router<App> {
    let signing_in = Router::new()
        .route(SIGN_IN, get(sign_in::show))
        .route(OIDC_SIGN_IN, post(sign_in::begin))
        .route(&format!("{OIDC_SIGN_IN}/{{provider}}"), get(sign_in::finish));
    let own = signed_in().merge(signing_in);
    match &app.settings.mount {
        Some(mount) => own.nest(mount, signed_in()).route(&format!("{mount}/"), get(home)),
        None => own,
    }
}

/// The screens for people who are signed in, and their files.
fn signed_in() -> Router<App> {
    Router::new()
        .route("/", get(home))
        .route("/keys", get(list::list).post(form::create))
        .route("/keys/new", get(form::new))
        .route("/keys/{id}", get(key::show))
        .route("/keys/{id}/edit", get(form::edit).post(form::save))
        .route("/keys/{id}/rotate", get(rotate::ask).post(rotate::rotate))
        .route("/keys/{id}/revoke", get(key::ask_revoke).post(key::revoke))
        .route("/keys/{id}/disable", post(key::disable))
        .route("/keys/{id}/enable", post(key::enable))
        .route("/in-force", get(force::follow))
        .route("/publication", get(installation::publication))
        .route("/signers", get(installation::signers))
        .route("/audit", get(org::audit))
        .route("/members", get(org::members).post(org::change_member))
        .route("/policy", get(policy::show).post(policy::save))
        .route("/findings", get(findings::show))
        .route("/sessions", get(org::sessions))
        .route("/sessions/end", post(org::end_sessions))
        .route("/page.css", get(|| async { asset("text/css; charset=utf-8", STYLE) }))
        .route("/page.js", get(|| async { asset("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/mark.svg", get(|| async { asset("image/svg+xml", MARK) }))
}

async fn home(State(app): State<App>, parts: Parts) -> Redirect {
    Redirect::to(&format!("{}/keys", base_of(&app, &parts)))
}

/// The frame of a screen for people who are not signed in.
fn bare_shell(app: &App, base: String) -> Shell {
    Shell {
        place: app.settings.title.to_string(),
        style: format!("{base}/page.css?{}", *VERSION),
        script: format!("{base}/page.js?{}", *VERSION),
        mark: format!("{base}/mark.svg?{}", *VERSION),
        base,
        ..Shell::default()
    }
}

/// The path that precedes every link: the product's for requests that arrived there, otherwise the
/// one under which people reach the service.
fn base_of(app: &App, parts: &Parts) -> String {
    let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    match &app.settings.mount {
        Some(mount) if is_below(mount, path) => mount.to_string(),
        _ => app.settings.base().to_owned(),
    }
}

/// Whether a request arrived at the product's path.
fn is_mounted(app: &App, parts: &Parts) -> bool {
    let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    app.settings.mount.as_deref().is_some_and(|mount| is_below(mount, path))
}

fn is_below(mount: &str, path: &str) -> bool {
    path.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn language(fields: &HeaderMap) -> &'static Words {
    let accept = fields.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    Words::preferred(accept.unwrap_or_default())
}

fn html(status: StatusCode, page: &impl askama::Template) -> Response {
    match page.render() {
        Ok(text) => (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "a screen could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn asset(form: &'static str, text: &'static str) -> Response {
    let fields = [(CONTENT_TYPE, form), (CACHE_CONTROL, "public, max-age=31536000, immutable")];
    (fields, text).into_response()
}
