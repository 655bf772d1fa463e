//! Why a request has no caller, and how the answer says so. Interfaces with error formats of their
//! own (a product's documented errors) match on the variants.

use std::time::Duration;

use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::super::request::Problem;
use super::super::store::StoreError;

#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthError {
    #[error("the key may not be used from this address")]
    Address,
    #[error("choose an organization first")]
    ChooseOrg,
    /// Another site made a browser send the request, or one cannot tell.
    #[error("a cookie does not prove that you meant this: the request came from another site")]
    CrossSite,
    #[error("a credential is needed")]
    NoCredential,
    /// Unknown, foreign and forbidden get the same answer.
    #[error("there is nothing here")]
    NotFound,
    /// Nobody has given this person a role.
    #[error("no role in any organization")]
    NoRole,
    #[error("sign in again: this needs a sign-in of the last minutes")]
    SignInAgain,
    #[error("the database did not answer")]
    Store(#[from] StoreError),
    #[error("too many failures from this address")]
    TooMany {
        /// How long to wait before the next attempt.
        wait: Duration,
    },
    #[error("two credentials in one request")]
    TwoCredentials,
    /// Unknown, wrong or expired. A stranger does not learn which.
    #[error("the credential is not valid")]
    Unknown,
    /// Whoever has to say whether the credential is valid does not answer.
    #[error("the server that knows this credential did not answer")]
    Unreachable,
}

// === impl AuthError ===

impl AuthError {
    /// A closed list; docs/admin.md has all of them.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Address => "address_not_allowed",
            Self::ChooseOrg => "choose_org",
            Self::CrossSite => "cross_site",
            Self::NoCredential => "no_credential",
            Self::NotFound => "not_found",
            Self::NoRole => "no_role",
            Self::SignInAgain => "sign_in_again",
            Self::Store(_) | Self::Unreachable => "unavailable",
            Self::TooMany { .. } => "too_many_failures",
            Self::TwoCredentials => "two_credentials",
            Self::Unknown => "invalid_credential",
        }
    }

    pub const fn status(&self) -> StatusCode {
        match self {
            Self::NoCredential | Self::Unknown => StatusCode::UNAUTHORIZED,
            Self::Address | Self::CrossSite | Self::NoRole | Self::SignInAgain => {
                StatusCode::FORBIDDEN
            }
            Self::ChooseOrg => StatusCode::CONFLICT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Store(_) | Self::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::TwoCredentials => StatusCode::BAD_REQUEST,
        }
    }

    /// Seconds, for `Retry-After`.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Store(error) => Some(error.retry_after().map_or(1, |wait| wait.as_secs().max(1))),
            Self::TooMany { wait } => Some(wait.as_secs().max(1)),
            Self::Unreachable => Some(1),
            _ => None,
        }
    }

    /// Whether a guess would cause it.
    pub(super) const fn is_failure(&self) -> bool {
        matches!(self, Self::Unknown | Self::TwoCredentials)
    }
}

impl IntoResponse for AuthError {
    fn into_response(self) -> Response {
        if let Self::Store(error) = &self {
            tracing::error!(%error, "a caller could not be looked up");
        }
        let problem = Problem::new(self.status(), self.code(), self.to_string());
        let mut answer = problem.into_response();
        if self.status() == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"keygate\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after() {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        answer
    }
}
