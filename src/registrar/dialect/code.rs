//! What can go wrong at a documented endpoint: a closed list of codes, each with its status and the
//! sentence that it has unless the dialect states another. Imports nothing from the service.

use std::collections::BTreeMap;

use http::StatusCode;

/// One of the keys of `messages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialectCode {
    BadBody,
    BadCredentials,
    BadEnvironment,
    BadExpiry,
    BadId,
    BadName,
    BadNetworks,
    BadPermissions,
    BadRequest,
    Conflict,
    Forbidden,
    Internal,
    MethodNotAllowed,
    NameMissing,
    NoSuchKey,
    NotFound,
    PastExpiry,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
}

/// Something that went wrong, and its details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialectError {
    pub code: DialectCode,
    /// Replaces the usual sentence, unless the dialect has one of its own; empty: no detail.
    pub detail: Box<str>,
}

/// A dialect's sentences, by code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DialectMessages(BTreeMap<DialectCode, Box<str>>);

// === impl DialectCode ===

impl DialectCode {
    pub const ALL: [Self; 21] = [
        Self::BadBody,
        Self::BadCredentials,
        Self::BadEnvironment,
        Self::BadExpiry,
        Self::BadId,
        Self::BadName,
        Self::BadNetworks,
        Self::BadPermissions,
        Self::BadRequest,
        Self::Conflict,
        Self::Forbidden,
        Self::Internal,
        Self::MethodNotAllowed,
        Self::NameMissing,
        Self::NoSuchKey,
        Self::NotFound,
        Self::PastExpiry,
        Self::TooLarge,
        Self::TooMany,
        Self::Unauthenticated,
        Self::Unavailable,
    ];

    /// As `messages` and the slot `$code` write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadBody => "bad_body",
            Self::BadCredentials => "bad_credentials",
            Self::BadEnvironment => "bad_environment",
            Self::BadExpiry => "bad_expiry",
            Self::BadId => "bad_id",
            Self::BadName => "bad_name",
            Self::BadNetworks => "bad_networks",
            Self::BadPermissions => "bad_permissions",
            Self::BadRequest => "bad_request",
            Self::Conflict => "conflict",
            Self::Forbidden => "forbidden",
            Self::Internal => "internal",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NameMissing => "name_missing",
            Self::NoSuchKey => "no_such_key",
            Self::NotFound => "not_found",
            Self::PastExpiry => "past_expiry",
            Self::TooLarge => "too_large",
            Self::TooMany => "too_many",
            Self::Unauthenticated => "unauthenticated",
            Self::Unavailable => "unavailable",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }

    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadBody
            | Self::BadCredentials
            | Self::BadEnvironment
            | Self::BadExpiry
            | Self::BadId
            | Self::BadName
            | Self::BadNetworks
            | Self::BadPermissions
            | Self::BadRequest
            | Self::NameMissing
            | Self::PastExpiry => StatusCode::BAD_REQUEST,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoSuchKey | Self::NotFound => StatusCode::NOT_FOUND,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// As the product's sidecar calls it where it refuses for the same reason, so that a client needs
    /// one list of words; otherwise [`Self::as_str`].
    pub const fn refusal(self) -> &'static str {
        match self {
            Self::Forbidden => "insufficient_permission",
            Self::TooMany => "rate_limited",
            Self::Unauthenticated => "invalid_key",
            code => code.as_str(),
        }
    }

    /// The name of its status.
    pub fn reason(self) -> &'static str {
        self.status().canonical_reason().unwrap_or_default()
    }

    /// The sentence, if neither the dialect nor the case has another.
    const fn sentence(self) -> &'static str {
        match self {
            Self::BadBody => "The body is not the JSON object that this endpoint takes",
            Self::BadCredentials => "Send one credential alone",
            Self::BadEnvironment => "The environment must be live or test",
            Self::BadExpiry => "The expiration date is not a time in the documented form",
            Self::BadId => "The id is not one of a key",
            Self::BadName => "The name must be one visible line of at most 200 bytes",
            Self::BadNetworks => "The networks must be a list of addresses such as 203.0.113.0/24",
            Self::BadPermissions => "The permissions must be a list of those on offer",
            Self::BadRequest => "The request cannot be meant so",
            Self::Conflict => "The key is in a state that does not allow it",
            Self::Forbidden => "Not allowed",
            Self::Internal => "Something went wrong here",
            Self::MethodNotAllowed => "This URL does not take the method",
            Self::NameMissing => "The name is missing",
            Self::NoSuchKey => "No such key",
            Self::NotFound => "There is nothing at this URL",
            Self::PastExpiry => "The expiration date is in the past",
            Self::TooLarge => "The body is larger than 64 KiB",
            Self::TooMany => "Too many failures, try again later",
            Self::Unauthenticated => "No valid credential",
            Self::Unavailable => "Keys cannot be changed at the moment, try again later",
        }
    }
}

// === impl DialectError ===

impl DialectError {
    pub fn of(code: DialectCode) -> Self {
        Self { code, detail: Box::default() }
    }

    /// With the part of the request that is at fault.
    pub fn told(code: DialectCode, word: &str) -> Self {
        const MOST: usize = 64;
        let word: String = word.chars().filter(|c| !c.is_control()).take(MOST).collect();
        Self { code, detail: format!("{}, not {word}", code.sentence()).into() }
    }
}

// === impl DialectMessages ===

impl DialectMessages {
    /// Sets the sentence for `code`, and replaces a former one.
    pub fn set(&mut self, code: DialectCode, text: Box<str>) {
        self.0.insert(code, text);
    }

    /// Sets all sentences of `others`, and replaces former ones.
    pub fn set_all(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The sentence about `error`.
    pub fn of<'m>(&'m self, error: &'m DialectError) -> &'m str {
        match self.0.get(&error.code) {
            Some(own) => own,
            None if error.detail.is_empty() => error.code.sentence(),
            None => &error.detail,
        }
    }
}
