//! Who asks the API, and about what.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;

use super::head::{ChangeCall, PathNames};
use super::problem::ApiProblem;
use crate::core::OrgId;
use crate::manage::operation::may::{KeyAction, NotAllowed};
use crate::registrar::app::App;
use crate::registrar::people::Caller;
use crate::registrar::sight::{self, CallerSight, SightError};
use crate::registrar::store::{KeyRef, KeyRow, StoreError};

/// A caller, or the problem that says why there is none.
#[derive(Debug)]
pub struct AskingCaller(pub Caller);

/// A requested change of an existing key: `/orgs/ORG/keys/KEY…`.
#[derive(Debug)]
pub struct KeyCall {
    pub sight: CallerSight,
    pub key: KeyRef,
    pub call: ChangeCall,
}

// === impl AskingCaller ===

impl FromRequestParts<App> for AskingCaller {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiProblem> {
        Caller::from_request_parts(parts, app).await.map(Self).map_err(ApiProblem::from)
    }
}

impl AskingCaller {
    /// In the org of a path.
    pub async fn in_org(self, app: &App, org: &str) -> Result<CallerSight, ApiProblem> {
        let org = OrgId::parse(org).map_err(|_| ApiProblem::not_found())?;
        Ok(CallerSight::of(app, self.0.in_org(&org)?).await?)
    }

    /// In the org that the caller is in, for paths that name none.
    pub async fn in_own_org(self, app: &App) -> Result<CallerSight, ApiProblem> {
        Ok(CallerSight::of(app, self.0).await?)
    }
}

// === impl KeyCall ===

impl FromRequest<App> for KeyCall {
    type Rejection = ApiProblem;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiProblem> {
        let (mut parts, body) = request.into_parts();
        let caller = AskingCaller::from_request_parts(&mut parts, app).await?;
        let PathNames((org, key)) =
            PathNames::<(String, String)>::from_request_parts(&mut parts, app).await?;
        let call = ChangeCall::from_request(Request::from_parts(parts, body), app).await?;
        let sight = caller.in_org(app, &org).await?;
        Ok(Self { sight, key: key_ref(&key)?, call })
    }
}

/// A key's id or UUID. Anything else names no key.
pub fn key_ref(name: &str) -> Result<KeyRef, ApiProblem> {
    sight::key_ref(name).ok_or_else(ApiProblem::not_found)
}

/// The key with this name, if the caller may see it in this way. Unknown, foreign and forbidden
/// look the same.
pub async fn seen_key(
    app: &App,
    sight: &CallerSight,
    name: &str,
    action: KeyAction<'_>,
) -> Result<KeyRow, ApiProblem> {
    match sight.key(app, key_ref(name)?, action).await {
        Err(SightError::NotAllowed(_)) => Err(StoreError::NoSuchKey.into()),
        found => Ok(found?),
    }
}

impl From<SightError> for ApiProblem {
    fn from(error: SightError) -> Self {
        match error {
            SightError::Auth(error) => error.into(),
            SightError::NotAllowed(why) => why.into(),
            SightError::Store(error) => error.into(),
        }
    }
}

impl From<NotAllowed> for ApiProblem {
    fn from(why: NotAllowed) -> Self {
        match why {
            NotAllowed::Unseen => Self::not_found(),
            why => Self::forbidden(why.to_string()),
        }
    }
}
