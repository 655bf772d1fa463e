//! The API's refusals: problem details (RFC 9457) with a `code` from a closed list, and the place
//! of each fault in the request.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::document::{ChangedSince, KeyDocument};
use crate::registrar::people::AuthError;
use crate::registrar::store::StoreError;

/// Why a request was not carried out. v1 keeps all of these codes; more may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// The asking key may not be used from this address.
    AddressNotAllowed,
    /// Others are changing too much at the same time, or the database is locked. Try again.
    Busy,
    /// You are in several organizations: the request has to name one.
    ChooseOrg,
    /// The key is in a state in which this makes no sense.
    Conflict,
    /// A cookie arrived with a request that another site made the browser send.
    CrossSite,
    /// You may not do that, or may not grant that much.
    Forbidden,
    /// The same `Idempotency-Key` was used for another request within 24 h.
    IdempotencyConflict,
    /// Something is wrong inside the service.
    Internal,
    /// The credential opens nothing.
    InvalidCredential,
    /// A field of the request has a value that it cannot have.
    InvalidField,
    /// The request cannot be read.
    InvalidRequest,
    /// An organization keeps at least one owner.
    LastOwner,
    MethodNotAllowed,
    NoCredential,
    /// Nobody has given you a role.
    NoRole,
    /// No such resource, or one that you may not see: the two look the same.
    NotFound,
    /// The request needs `If-Match`, so that it does not undo what somebody else did in the
    /// meantime.
    PreconditionRequired,
    /// The service takes no changes now.
    ReadOnly,
    /// Your sign-in is too old for that.
    SignInAgain,
    /// The service took too long.
    Timeout,
    /// The body is longer than the service reads.
    TooLarge,
    /// Too many credentials from this address opened nothing.
    TooManyFailures,
    TwoCredentials,
    /// The database did not answer.
    Unavailable,
    UnsupportedMediaType,
    /// Somebody has changed it since you read it.
    VersionMismatch,
}

/// One fault of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProblemFault {
    /// JSON pointer (RFC 6901) to the member of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Or the name of a query parameter or header field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<&'static str>,
    pub detail: String,
}

/// Problem details (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemDocument {
    /// `about:blank`: `code` says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub title: &'static str,
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    pub code: ProblemCode,
    pub detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemFault>,
    /// With `version_mismatch`: the key as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Box<KeyDocument>>,
    /// With `version_mismatch`: what was changed since the version that you named, the newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<ChangedSince>,
}

/// A refusal that is about to be sent.
#[derive(Debug)]
pub struct ApiProblem {
    document: Box<ProblemDocument>,
    /// Seconds.
    retry_after: Option<u64>,
}

// === impl ProblemCode ===

impl ProblemCode {
    const fn status(self) -> StatusCode {
        match self {
            Self::Busy | Self::ReadOnly | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::ChooseOrg | Self::Conflict | Self::LastOwner => StatusCode::CONFLICT,
            Self::AddressNotAllowed
            | Self::CrossSite
            | Self::Forbidden
            | Self::NoRole
            | Self::SignInAgain => StatusCode::FORBIDDEN,
            Self::IdempotencyConflict | Self::InvalidField => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::InvalidRequest | Self::TwoCredentials => StatusCode::BAD_REQUEST,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyFailures => StatusCode::TOO_MANY_REQUESTS,
            Self::InvalidCredential | Self::NoCredential => StatusCode::UNAUTHORIZED,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::VersionMismatch => StatusCode::PRECONDITION_FAILED,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::AddressNotAllowed => "Not from this address",
            Self::Busy => "Busy",
            Self::ChooseOrg => "Choose an organization",
            Self::Conflict => "Not in this state",
            Self::CrossSite => "From another site",
            Self::Forbidden => "Not allowed",
            Self::IdempotencyConflict => "Idempotency key used for another request",
            Self::Internal => "Internal error",
            Self::InvalidCredential => "Invalid credential",
            Self::InvalidField => "Invalid field",
            Self::InvalidRequest => "Invalid request",
            Self::LastOwner => "The last owner stays",
            Self::MethodNotAllowed => "Method not allowed",
            Self::NoCredential => "No credential",
            Self::NoRole => "No role",
            Self::NotFound => "Not found",
            Self::PreconditionRequired => "If-Match required",
            Self::ReadOnly => "No changes now",
            Self::SignInAgain => "Sign in again",
            Self::Timeout => "Timed out",
            Self::TooLarge => "Body too long",
            Self::TooManyFailures => "Too many failures",
            Self::TwoCredentials => "Two credentials",
            Self::Unavailable => "Unavailable",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::VersionMismatch => "Changed meanwhile",
        }
    }
}

// === impl ProblemFault ===

impl ProblemFault {
    /// At this member of the body.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), parameter: None, detail: detail.into() }
    }

    /// At this parameter of the query or field of the head.
    pub fn of(parameter: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: Some(parameter), detail: detail.into() }
    }
}

// === impl ApiProblem ===

impl ApiProblem {
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        let document = ProblemDocument {
            kind: "about:blank",
            title: code.title(),
            status: code.status().as_u16(),
            code,
            detail: detail.into(),
            errors: Vec::new(),
            current: None,
            changed: Vec::new(),
        };
        Self { document: Box::new(document), retry_after: None }
    }

    /// For what does not exist, and for what the caller may not see: byte for byte the same.
    pub fn not_found() -> Self {
        Self::new(ProblemCode::NotFound, "there is no such resource, or none that you may see")
    }

    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(ProblemCode::Forbidden, detail)
    }

    /// Fields with values that they cannot have; at least one.
    pub fn invalid(faults: Vec<ProblemFault>) -> Self {
        Self::with(ProblemCode::InvalidField, faults)
    }

    /// A request that cannot be read, and where.
    pub fn unreadable(faults: Vec<ProblemFault>) -> Self {
        Self::with(ProblemCode::InvalidRequest, faults)
    }

    pub fn code(&self) -> ProblemCode {
        self.document.code
    }

    /// Adds what somebody else has changed about the key.
    #[must_use]
    pub fn with_current(mut self, current: KeyDocument, changed: Vec<ChangedSince>) -> Self {
        self.document.current = Some(Box::new(current));
        self.document.changed = changed;
        self
    }

    fn with(code: ProblemCode, errors: Vec<ProblemFault>) -> Self {
        let told: Vec<_> = errors
            .iter()
            .map(|fault| match (&fault.pointer, fault.parameter) {
                (Some(place), _) => format!("{place}: {}", fault.detail),
                (None, Some(place)) => format!("{place}: {}", fault.detail),
                (None, None) => fault.detail.clone(),
            })
            .collect();
        let mut problem = Self::new(code, told.join("; "));
        problem.document.errors = errors;
        problem
    }
}

impl From<StoreError> for ApiProblem {
    fn from(error: StoreError) -> Self {
        let retry_after = error.retry_after().map(|after| after.as_secs().max(1));
        let mut problem = match &error {
            StoreError::NoSuchKey | StoreError::NoSuchAudience => Self::not_found(),
            StoreError::Forbidden { why, field } => {
                let mut problem = Self::forbidden(why.clone());
                if let Some(field) = field {
                    let fault = ProblemFault::at(format!("/{field}"), why.clone());
                    problem.document.errors = vec![fault];
                }
                problem
            }
            StoreError::Invalid { faults } => {
                let fault =
                    |fault: &crate::registrar::store::error::ChangeFault| match &*fault.field {
                        "cursor" => ProblemFault::of("cursor", fault.why.to_string()),
                        field => ProblemFault::at(format!("/{field}"), fault.why.to_string()),
                    };
                Self::invalid(faults.iter().map(fault).collect())
            }
            StoreError::VersionMismatch { .. } | StoreError::OrgVersionMismatch { .. } => {
                Self::new(ProblemCode::VersionMismatch, error.to_string())
            }
            StoreError::IdempotencyConflict => {
                let why = "the same `Idempotency-Key` was used for another request within 24 h";
                Self::new(ProblemCode::IdempotencyConflict, why)
            }
            StoreError::Conflict { why } => Self::new(ProblemCode::Conflict, why.clone()),
            StoreError::LastOwner => Self::new(ProblemCode::LastOwner, error.to_string()),
            StoreError::Busy { .. } => Self::new(ProblemCode::Busy, error.to_string()),
            StoreError::Away { .. } => {
                tracing::error!(%error, "the database does not answer");
                Self::new(ProblemCode::Unavailable, "the database does not answer")
            }
            StoreError::ReadOnly { .. } => Self::new(ProblemCode::ReadOnly, error.to_string()),
            // Internal faults are for the operator to read, not for the caller.
            StoreError::NewerSchema { .. } | StoreError::Broken { .. } => {
                tracing::error!(%error, "the database failed a request");
                Self::new(ProblemCode::Internal, "the service failed; its log says why")
            }
        };
        problem.retry_after = retry_after;
        problem
    }
}

impl From<AuthError> for ApiProblem {
    fn from(error: AuthError) -> Self {
        let code = match &error {
            AuthError::Address => ProblemCode::AddressNotAllowed,
            AuthError::ChooseOrg => ProblemCode::ChooseOrg,
            AuthError::CrossSite => ProblemCode::CrossSite,
            AuthError::NoCredential => ProblemCode::NoCredential,
            AuthError::NoRole => ProblemCode::NoRole,
            AuthError::NotFound => return Self::not_found(),
            AuthError::SignInAgain => ProblemCode::SignInAgain,
            AuthError::Store(inner) => {
                tracing::error!(error = %inner, "a caller could not be looked up");
                ProblemCode::Unavailable
            }
            AuthError::TooMany { .. } => ProblemCode::TooManyFailures,
            AuthError::TwoCredentials => ProblemCode::TwoCredentials,
            AuthError::Unknown => ProblemCode::InvalidCredential,
            AuthError::Unreachable => ProblemCode::Unavailable,
        };
        let mut problem = Self::new(code, error.to_string());
        problem.retry_after = error.retry_after();
        problem
    }
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        let status = self.document.code.status();
        let body = serde_json::to_vec(&self.document).unwrap_or_default();
        let mut response = (status, body).into_response();
        let head = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        head.insert(header::CONTENT_TYPE, kind);
        if let Some(seconds) = self.retry_after {
            head.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            head.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"keygate\""),
            );
        }
        response
    }
}
