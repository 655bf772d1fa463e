//! Answers of documented URLs: JSON from a skeleton, and errors in the product's form.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::status;
use crate::manage::operation::may::NotAllowed;
use crate::registrar::dialect::code::{DialectCode, DialectError};
use crate::registrar::dialect::operation::Dialect;
use crate::registrar::people::AuthError;
use crate::registrar::sight::SightError;
use crate::registrar::store::StoreError;
use crate::registrar::store::error::ChangeFault;

/// Why a request was not carried out.
#[derive(Clone, Debug)]
pub(super) struct EndpointError {
    pub(super) error: DialectError,
    /// When it makes sense to try again.
    retry_after: Option<Duration>,
}

/// An answer with this body.
pub(super) fn json(number: u16, body: String) -> Response {
    let form = [(header::CONTENT_TYPE, "application/json")];
    // A client that is promised no content must not get any.
    match number {
        204 | 205 => status(number).into_response(),
        _ => (status(number), form, Body::from(body)).into_response(),
    }
}

/// An error, in the product's words.
pub(super) fn refusal(dialect: &Dialect, told: &EndpointError, request_id: &str) -> Response {
    let code = told.error.code;
    let mut answer = json(code.status().as_u16(), dialect.refuse(&told.error, request_id));
    let fields = answer.headers_mut();
    if code == DialectCode::Unauthenticated {
        let challenge = HeaderValue::from_static("Bearer realm=\"keygate\"");
        fields.insert(header::WWW_AUTHENTICATE, challenge);
    }
    if let Some(wait) = told.retry_after {
        fields.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    answer
}

// === impl EndpointError ===

impl EndpointError {
    /// `why` is the rules' explanation.
    pub(super) fn forbidden(why: &str) -> Self {
        Self::told(DialectCode::Forbidden, why)
    }

    fn told(code: DialectCode, why: &str) -> Self {
        DialectError { code, detail: why.into() }.into()
    }
}

impl From<DialectError> for EndpointError {
    fn from(error: DialectError) -> Self {
        Self { error, retry_after: None }
    }
}

impl From<AuthError> for EndpointError {
    fn from(error: AuthError) -> Self {
        let retry_after = error.retry_after().map(Duration::from_secs);
        let told = |code| Self::told(code, &error.to_string());
        let answer = match &error {
            AuthError::NoCredential | AuthError::Unknown => told(DialectCode::Unauthenticated),
            AuthError::NotFound => DialectError::of(DialectCode::NoSuchKey).into(),
            AuthError::Store(error) => return error.clone().into(),
            AuthError::TooMany { .. } => told(DialectCode::TooMany),
            AuthError::TwoCredentials => told(DialectCode::BadCredentials),
            AuthError::Unreachable => told(DialectCode::Unavailable),
            AuthError::Address
            | AuthError::ChooseOrg
            | AuthError::CrossSite
            | AuthError::NoRole
            | AuthError::SignInAgain => told(DialectCode::Forbidden),
        };
        Self { retry_after, ..answer }
    }
}

impl From<NotAllowed> for EndpointError {
    fn from(why: NotAllowed) -> Self {
        match why {
            NotAllowed::Unseen => DialectError::of(DialectCode::NoSuchKey).into(),
            why => Self::forbidden(&why.to_string()),
        }
    }
}

impl From<SightError> for EndpointError {
    fn from(error: SightError) -> Self {
        match error {
            SightError::Auth(error) => error.into(),
            SightError::NotAllowed(why) => why.into(),
            SightError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for EndpointError {
    fn from(error: StoreError) -> Self {
        let retry_after = error.retry_after();
        let answer = match error {
            StoreError::NoSuchKey => DialectError::of(DialectCode::NoSuchKey).into(),
            StoreError::Forbidden { why, .. } => Self::forbidden(&why),
            StoreError::Invalid { faults } => invalid(&faults),
            StoreError::Conflict { .. }
            | StoreError::IdempotencyConflict
            | StoreError::LastOwner
            | StoreError::OrgVersionMismatch { .. }
            | StoreError::VersionMismatch { .. } => {
                Self::told(DialectCode::Conflict, &error.to_string())
            }
            StoreError::Away { .. } | StoreError::Busy { .. } | StoreError::ReadOnly { .. } => {
                DialectError::of(DialectCode::Unavailable).into()
            }
            StoreError::Broken { .. }
            | StoreError::NewerSchema { .. }
            | StoreError::NoSuchAudience => {
                tracing::error!(%error, "a documented endpoint could not answer");
                DialectError::of(DialectCode::Internal).into()
            }
        };
        Self { retry_after, ..answer }
    }
}

/// The products' answers have room for only one fault.
fn invalid(faults: &[ChangeFault]) -> EndpointError {
    let Some(fault) = faults.first() else {
        return DialectError::of(DialectCode::BadRequest).into();
    };
    let code = match &*fault.field {
        "environment" => DialectCode::BadEnvironment,
        "expires" => DialectCode::BadExpiry,
        "name" => DialectCode::BadName,
        "networks" => DialectCode::BadNetworks,
        "permissions" => DialectCode::BadPermissions,
        _ => DialectCode::BadRequest,
    };
    EndpointError::told(code, &format!("{}: {}", fault.field, fault.why))
}
