//! The screens for people who are not signed in yet: with a link from the host, or at an OpenID
//! provider.
//!
//! The answer to the form that begins a sign-in at a provider is a page that leads there. A
//! redirect would not work: browsers check every redirect after a form against `form-action`,
//! including redirects from the provider to other sites.

use axum::extract::{Form, Path, Request, State};
use axum::http::header::{LOCATION, RETRY_AFTER, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse as _, Response};
use axum::{RequestExt as _, http::request::Parts};
use serde::Deserialize;

use super::data::FormData;
use super::view::{GoingPage, Link, ProviderView, Shell, SignInNote, SignInPage};
use super::words::{Words, fill};
use super::{bare_shell, html, language};
use crate::registrar::app::App;
use crate::registrar::people::{AuthError, OidcError, WantedSignIn, clear_oidc_cookie};

#[derive(Deserialize)]
struct ProviderForm {
    provider: String,
    #[serde(default)]
    fresh: String,
}

/// `?used`: the link that somebody tried opened nothing; `?again`: a fresh sign-in is needed;
/// `?out=NAME`: somebody who had signed in at that provider has signed out.
pub(super) async fn show(State(app): State<App>, request: Request) -> Response {
    let w = language(request.headers());
    let query = FormData::parse(request.uri().query().unwrap_or_default());
    let told = if query.has("used") {
        Some(SignInNote { text: w.sign_in_used.to_string(), is_bad: true, ..SignInNote::default() })
    } else if query.has("again") {
        let text = w.sign_in_again_text.to_string();
        Some(SignInNote { text, ..SignInNote::default() })
    } else if query.has("out") {
        let out = app.people.oidc_sign_out(query.text("out")).await;
        let link = out.map(|out| Link {
            href: out.to,
            label: fill(&w.sign_out_there, &[("provider", &out.label)]),
        });
        let text = w.signed_out_notice.to_string();
        Some(SignInNote { text, link, ..SignInNote::default() })
    } else {
        None
    };
    let wanted = if query.has("again") { WantedSignIn::Fresh } else { WantedSignIn::Any };
    html(StatusCode::OK, &page(&app, w, told, wanted))
}

/// Leads to a provider.
pub(super) async fn begin(State(app): State<App>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let w = language(&parts.headers);
    let request = Request::from_parts(parts.clone(), body);
    let form: Result<Form<ProviderForm>, _> = request.extract().await;
    let Ok(Form(form)) = form else {
        return refused(&app, &parts.headers, "", &OidcError::Unknown);
    };
    let wanted = if form.fresh.is_empty() { WantedSignIn::Any } else { WantedSignIn::Fresh };
    match app.people.begin_oidc(&parts, &form.provider, wanted).await {
        Ok(start) => {
            let title = fill(&w.going_title, &[("provider", &start.label)]);
            let label = fill(&w.going_link, &[("provider", &start.label)]);
            let shell = Shell { title, ..bare_shell(&app, app.settings.base().to_owned()) };
            let mut answer = html(StatusCode::OK, &GoingPage { w, shell, to: start.to, label });
            answer.headers_mut().insert(SET_COOKIE, start.cookie);
            answer
        }
        Err(error) => refused(&app, &parts.headers, &form.provider, &error),
    }
}

/// Somebody returns from a provider.
pub(super) async fn finish(
    State(app): State<App>,
    Path(provider): Path<String>,
    parts: Parts,
) -> Response {
    match app.people.finish_oidc(&parts, &provider).await {
        Ok(cookie) => {
            let to = [(LOCATION, format!("{}/", app.settings.base()))];
            let cookies = [(SET_COOKIE, cookie), (SET_COOKIE, clear_oidc_cookie())];
            (StatusCode::SEE_OTHER, to, AppendHeaders(cookies)).into_response()
        }
        Err(error) => {
            let mut answer = refused(&app, &parts.headers, &provider, &error);
            answer.headers_mut().insert(SET_COOKIE, clear_oidc_cookie());
            answer
        }
    }
}

/// The sign-in page, with a sentence about what went wrong. It also offers the other ways to sign
/// in.
fn refused(app: &App, fields: &HeaderMap, provider: &str, error: &OidcError) -> Response {
    let w = language(fields);
    let all = &app.settings.people.oidc;
    let label = all.iter().find(|p| *p.name == *provider).map_or("", |p| &p.label);
    let of = |text: &str| fill(text, &[("provider", label)]);
    let (status, text) = match error {
        OidcError::Auth(error) => {
            app.metrics.refused(error.code());
            if let AuthError::Store(error) = error {
                tracing::error!(%error, "nobody could be signed in");
            }
            let text = match error {
                AuthError::Store(_) => w.busy_text.to_string(),
                AuthError::TooMany { .. } => w.sign_in_too_many.to_string(),
                AuthError::CrossSite => w.oidc_stale.to_string(),
                error => error.to_string(),
            };
            (error.status(), text)
        }
        OidcError::Denied => (StatusCode::FORBIDDEN, of(&w.oidc_denied)),
        OidcError::NoRole { .. } => (StatusCode::FORBIDDEN, of(&w.oidc_no_role)),
        OidcError::Refused(_) => (StatusCode::BAD_GATEWAY, of(&w.oidc_untrusted)),
        OidcError::Stale | OidcError::Stray => (StatusCode::BAD_REQUEST, w.oidc_stale.to_string()),
        OidcError::Unknown => (StatusCode::NOT_FOUND, w.no_such_page.to_string()),
        OidcError::Unreachable(_) => (StatusCode::BAD_GATEWAY, of(&w.oidc_unreachable)),
    };
    let identity = match error {
        OidcError::NoRole { id } => Some((id.iss.to_string(), id.sub.to_string())),
        _ => None,
    };
    let note = SignInNote { text, is_bad: true, identity, link: None };
    let mut answer = html(status, &page(app, w, Some(note), WantedSignIn::Any));
    if let OidcError::Auth(error) = error
        && let Some(seconds) = error.retry_after()
    {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

fn page(
    app: &App,
    w: &'static Words,
    told: Option<SignInNote>,
    wanted: WantedSignIn,
) -> SignInPage<'static> {
    let providers = app.settings.people.oidc.iter().map(|provider| ProviderView {
        name: provider.name.to_string(),
        label: fill(&w.sign_in_with, &[("provider", &provider.label)]),
    });
    let shell = Shell {
        title: w.sign_in_button.to_string(),
        ..bare_shell(app, app.settings.base().to_owned())
    };
    let fresh = wanted == WantedSignIn::Fresh;
    SignInPage { w, shell, told, providers: providers.collect(), fresh }
}
