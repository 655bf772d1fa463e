//! `/v1/embed-tokens`: tokens for the component `<keygate-keys>` in somebody's page.

use axum::Json;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::AskingCaller;
use super::document::show_ms;
use super::head::ChangeCall;
use super::members::BodyMembers;
use super::problem::{ApiProblem, ProblemFault};
use crate::core::{Permission, PermissionSet};
use crate::manage::operation::may::OrgAction;
use crate::registrar::app::App;
use crate::registrar::embed;
use crate::registrar::people::{AuthError, EmbedWish};

/// A token for the component in somebody's page.
#[derive(Debug, ToSchema)]
pub struct EmbedTokenCreation {
    /// Of the page that contains the component: one of `embed.origins`, as browsers send it.
    #[schema(example = "https://app.example.com")]
    pub origin: String,
    /// The product's id of the person who looks at the page. Keys that are made there belong to
    /// them. A key has to name it; a person always acts for themselves.
    pub subject: Option<String>,
    #[schema(required = false)]
    pub email: String,
    /// What keys that are made there can be granted: a part of what you hold, without permissions
    /// that manage keys.
    #[schema(max_items = 256)]
    pub permissions: Vec<String>,
}

/// A token, shown once. Hand it to the component: `element.open(async () => answer)`.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbedTokenDocument {
    pub token: String,
    #[schema(format = "date-time")]
    pub expires: String,
    pub org: String,
    pub audience: String,
    pub subject: String,
    pub origin: String,
    pub permissions: Vec<String>,
    /// URL of the component's script.
    pub script: String,
    /// For `integrity` of its `<script>`.
    pub integrity: String,
}

/// Make a token for the component in a page
///
/// It is good for 15 minutes, only for the keys of your organization and on pages of one origin. It
/// ends with the key or the session that made it.
#[utoipa::path(
    post, path = "/embed-tokens", tag = "keys", operation_id = "createEmbedToken",
    request_body = EmbedTokenCreation,
    responses((status = 201, body = EmbedTokenDocument), super::openapi::Problems),
)]
pub async fn create(
    State(app): State<App>,
    caller: AskingCaller,
    request: Request,
) -> Result<Response, ApiProblem> {
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts.clone(), body);
    let call = ChangeCall::from_request(request, &app).await?;
    let sight = caller.in_own_org(&app).await?;
    if sight.org.is_none() {
        return Err(ApiProblem::not_found());
    }
    let wish = read(&call.body, &app, |word| sight.rules.words.contain(word))?;
    sight.may_in(OrgAction::MakeEmbedToken(&wish.permissions))?;
    if sight.asking.is_some() && wish.subject.is_none() {
        return Err(ApiProblem::invalid(vec![ProblemFault::at("/subject", "is missing")]));
    }
    let made = app.people.embed_token(&parts, &sight.caller, &wish).await;
    let made = made.map_err(refused)?;
    let document = EmbedTokenDocument {
        token: made.token.to_string(),
        expires: show_ms(made.ends_ms),
        org: made.org.as_str().to_owned(),
        audience: made.audience.to_string(),
        subject: made.subject.to_string(),
        origin: wish.origin.to_string(),
        permissions: wish.permissions.iter().map(|word| word.as_str().to_owned()).collect(),
        script: embed::script_url(&app),
        integrity: embed::integrity().to_owned(),
    };
    Ok((StatusCode::CREATED, Json(document)).into_response())
}

fn refused(error: AuthError) -> ApiProblem {
    match error {
        AuthError::NotFound => {
            let why = "must be an id of the product; a person is themselves";
            ApiProblem::invalid(vec![ProblemFault::at("/subject", why)])
        }
        // For a right that the maker has lost in the meantime.
        AuthError::Store(error) => error.into(),
        error => error.into(),
    }
}

fn read(
    body: &[u8],
    app: &App,
    manages: impl Fn(&Permission) -> bool,
) -> Result<EmbedWish, ApiProblem> {
    let mut members = BodyMembers::read(body)?;
    let origin = members.some_text("origin", |text| match app.settings.embed.has(text) {
        true => Ok(Box::from(text)),
        false => Err("is none of `embed.origins`"),
    });
    if origin.is_none() && members.is_sound() {
        members.fault("origin", "is missing");
    }
    let subject = members.text("subject", line).set();
    let email = members.text("email", line).set().unwrap_or_default();
    let permissions = members.list("permissions", |text| {
        let word = Permission::parse(text).map_err(|error| error.to_string())?;
        match manages(&word) {
            true => Err("manages keys: no component may grant it".to_owned()),
            false => Ok(word),
        }
    });
    let permissions = members.not_null("permissions", permissions);
    if permissions.is_none() && members.is_sound() {
        members.fault("permissions", "is missing");
    }
    members.end(EmbedWish {
        origin: origin.unwrap_or_default(),
        subject,
        email,
        permissions: PermissionSet::new(permissions.unwrap_or_default()),
    })
}

fn line(text: &str) -> Result<String, &'static str> {
    match text.len() <= 128 && !text.chars().any(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err("must be at most 128 bytes without control characters"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registrar::store::StoreError;

    #[test]
    fn a_right_that_was_lost_meanwhile_is_no_outage() {
        let why = "the key that asks is revoked".to_owned();
        let lost = AuthError::Store(StoreError::Forbidden { why, field: None });
        assert_eq!(refused(lost).into_response().status(), StatusCode::FORBIDDEN);
        let foreign = AuthError::Store(StoreError::NoSuchKey);
        assert_eq!(refused(foreign).into_response().status(), StatusCode::NOT_FOUND);
    }
}
