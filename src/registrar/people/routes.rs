//! Signing in and out. The page's design is elsewhere; these routes work without it.

use axum::extract::{Form, FromRef, Request, State};
use axum::http::header::{ACCEPT, LOCATION, SET_COOKIE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{RequestExt as _, Router};
use serde::Deserialize;

use super::session::{self, SessionDetail, clear_cookie};
use super::{AuthError, Authenticator, Caller, SIGN_IN, csrf};
use crate::core::{Digest, OrgId};

#[derive(Deserialize)]
struct SignInForm {
    token: String,
}

#[derive(Deserialize)]
struct OrgForm {
    org: String,
    #[serde(default)]
    form: String,
}

#[derive(Deserialize)]
struct PlainForm {
    #[serde(default)]
    form: String,
}

/// `/sign-in`, `/sign-out`, `/session/org`.
pub fn routes<S>() -> Router<S>
where
    Authenticator: FromRef<S>,
    S: Clone + Send + Sync + 'static,
{
    Router::new()
        .route(SIGN_IN, post(sign_in))
        .route("/sign-out", post(sign_out))
        .route("/session/org", post(choose_org))
}

/// No other site may sign anybody in here: it would make them work in somebody else's name.
async fn sign_in(State(people): State<Authenticator>, request: Request) -> Response {
    let fields = request.headers().clone();
    match begin(&people, request).await {
        Ok(cookie) => see_other(&format!("{}/", people.settings.base()), cookie),
        Err(error) => {
            people.metrics.refused(error.code());
            // A person sees on the page what to do; a program gets the code.
            let accepts = fields.get(ACCEPT).and_then(|value| value.to_str().ok());
            match (&error, accepts) {
                (AuthError::Unknown, Some(accepts)) if accepts.contains("text/html") => {
                    let to = format!("{}{SIGN_IN}?used", people.settings.base());
                    (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response()
                }
                _ => error.into_response(),
            }
        }
    }
}

async fn begin(people: &Authenticator, request: Request) -> Result<HeaderValue, AuthError> {
    let (parts, body) = request.into_parts();
    csrf::same_origin(&parts.headers, &people.settings)?;
    let request = Request::from_parts(parts.clone(), body);
    let form: Form<SignInForm> = request.extract().await.map_err(|_| AuthError::Unknown)?;
    let cookie = people.sign_in(&parts, &form.0.token).await?;
    // Ends any earlier session of this browser, which has another one now.
    end_present(people, &parts.headers).await?;
    Ok(cookie)
}

/// Ends the session and makes the browser forget it, even if the session no longer opens anything.
async fn sign_out(
    State(people): State<Authenticator>,
    caller: Result<Caller, AuthError>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let fields = parts.headers.clone();
    // Checked even without a cookie: the answer deletes the cookie, and no other site may cause
    // that.
    if let Err(error) = csrf::same_origin(&fields, &people.settings) {
        return error.into_response();
    }
    let form: Result<Form<PlainForm>, _> = Request::from_parts(parts, body).extract().await;
    let form = form.map(|form| form.0.form).unwrap_or_default();
    let may = match caller {
        Ok(caller) => caller.check_form(&form),
        Err(
            error @ (AuthError::CrossSite
            | AuthError::Store(_)
            | AuthError::TwoCredentials
            | AuthError::Unreachable),
        ) => Err(error),
        // The session opens nothing now, so no page has a form for it. Signing out ends it anyway;
        // otherwise it would work again as soon as the person got the role back.
        Err(_) => Ok(()),
    };
    if let Err(error) = may {
        return error.into_response();
    }
    let to = |rest: &str| format!("{}{SIGN_IN}{rest}", people.settings.base());
    match end_present(&people, &fields).await {
        // The page offers to sign out of the provider as well.
        Ok(Some(provider)) => see_other(&to(&format!("?out={provider}")), clear_cookie()),
        Ok(None) => see_other(&to(""), clear_cookie()),
        Err(error) => error.into_response(),
    }
}

/// Ends the session of the request's cookie. Returns the provider at which it began.
pub(super) async fn end_present(
    people: &Authenticator,
    fields: &axum::http::HeaderMap,
) -> Result<Option<Box<str>>, AuthError> {
    let Some(token) = session::token_of(fields)? else { return Ok(None) };
    let now_ms = people.clock.now().unix_ms;
    let row = people.store.session(Digest::of(token.as_bytes()), now_ms).await?;
    let Some(row) = row else { return Ok(None) };
    people.store.end_session(&row.person, &row.id).await?;
    Ok(SessionDetail::of(&row).provider)
}

async fn choose_org(
    State(people): State<Authenticator>,
    caller: Caller,
    request: Request,
) -> Result<Response, AuthError> {
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts.clone(), body);
    let form: Form<OrgForm> = request.extract().await.map_err(|_| AuthError::NotFound)?;
    caller.check_form(&form.0.form)?;
    let org = OrgId::parse(&form.0.org).map_err(|_| AuthError::NotFound)?;
    people.choose_org(&parts, &caller, org).await?;
    let to = format!("{}/", people.settings.base());
    Ok((StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response())
}

fn see_other(to: &str, cookie: HeaderValue) -> Response {
    match HeaderValue::try_from(to) {
        Ok(to) => (StatusCode::SEE_OTHER, [(LOCATION, to), (SET_COOKIE, cookie)]).into_response(),
        // Our own paths are always valid values.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
