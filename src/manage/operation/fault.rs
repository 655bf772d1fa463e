//! Why an operation was not carried out: the field of the request, or the state of the key. The
//! texts name neither options nor files: callers add their own name for a field, and what to do
//! about it. Imports core and words.

use std::fmt;

use super::super::time::{self, TimeError};
use crate::core::{KeyId, LimitSet, NameError, Permission, PolicyName};

/// One part of a request, by its name in the registry and the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyField {
    /// Permissions that an edit adds or takes away.
    AddPermissions,
    Environment,
    Expires,
    Limits,
    Name,
    Networks,
    NotBefore,
    Note,
    /// The organization; only for a new key.
    Org,
    /// How long the old secret stays valid.
    Overlap,
    Owner,
    Permissions,
    Plan,
    Prefix,
    RemovePermissions,
    Sunset,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFault {
    pub field: KeyField,
    pub why: FieldError,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("would end the key before it begins")]
    EndsBeforeItBegins,
    #[error("is in the past")]
    InPast,
    #[error("{0}")]
    Name(&'static str),
    #[error("the prefix of the new secret is neither given nor set")]
    NoPrefix,
    #[error("{id} does not hold `{}`", .permission.as_str())]
    NotHeld { id: KeyId, permission: Permission },
    #[error("must be one line")]
    NotOneLine,
    #[error("{0}")]
    Owner(NameError),
    #[error("`none` removes the owner, who then has neither an email address nor a role")]
    OwnerRemovedAndStated,
    #[error("the owner's subject is neither given nor set")]
    OwnerWithoutSubject,
    #[error("is later than the end of the key, {}, from which on it is refused", time::show(*.ends))]
    SunsetAfterEnd {
        /// Unix seconds.
        ends: u64,
    },
    #[error("{0}")]
    Time(TimeError),
    #[error("at most {} limits", LimitSet::MOST)]
    TooManyLimits,
    #[error("at most {} limits, with those of its plan", LimitSet::MOST)]
    TooManyWithPlan,
    #[error("two limits for the policy {}", .0.as_str())]
    TwoLimits(PolicyName),
    /// With the plans that exist.
    #[error("{0}")]
    UnknownPlan(String),
    #[error("no prefix `{name}`")]
    UnknownPrefix { name: Box<str>, known: Vec<String> },
}

/// Why an operation was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// The parts of the request that are wrong, at least one, each with its fault.
    #[error("{}", list(.0))]
    Invalid(Vec<RequestFault>),
    #[error("the operating system gives no random bytes")]
    NoRandomness,
    #[error("{id} is {state}")]
    State { id: KeyId, state: WrongState },
}

/// A state of a key in which an operation makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongState {
    #[error("a canary, which is never valid")]
    Canary,
    #[error("disabled, and so would be its new secret")]
    DisabledPair,
    #[error("expired")]
    Expired,
    #[error("in rotation already: its former secret is valid until {}", time::show(*.until))]
    InRotation {
        /// Unix seconds.
        until: u64,
    },
    #[error("revoked, which is final")]
    Revoked,
}

/// Faults of one request, collected so that they are all reported together.
#[derive(Debug, Default)]
pub struct RequestFaults(Vec<RequestFault>);

// === impl KeyField ===

impl KeyField {
    pub const ALL: [Self; 16] = [
        Self::AddPermissions,
        Self::Environment,
        Self::Expires,
        Self::Limits,
        Self::Name,
        Self::Networks,
        Self::NotBefore,
        Self::Note,
        Self::Org,
        Self::Overlap,
        Self::Owner,
        Self::Permissions,
        Self::Plan,
        Self::Prefix,
        Self::RemovePermissions,
        Self::Sunset,
    ];

    /// The name as a member of a JSON object and as a form's field.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AddPermissions => "add_permissions",
            Self::Environment => "environment",
            Self::Expires => "expires",
            Self::Limits => "limits",
            Self::Name => "name",
            Self::Networks => "networks",
            Self::NotBefore => "not_before",
            Self::Note => "note",
            Self::Org => "org",
            Self::Overlap => "overlap",
            Self::Owner => "owner",
            Self::Permissions => "permissions",
            Self::Plan => "plan",
            Self::Prefix => "prefix",
            Self::RemovePermissions => "remove_permissions",
            Self::Sunset => "sunset",
        }
    }

    /// JSON pointer (RFC 6901) to the field, from the request's object.
    pub fn pointer(self) -> String {
        format!("/{}", self.name())
    }
}

impl fmt::Display for KeyField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl RequestFaults ===

impl RequestFaults {
    pub fn add(&mut self, field: KeyField, why: FieldError) {
        self.0.push(RequestFault { field, why });
    }

    /// The value. A fault goes on the list instead.
    pub fn taken<T>(&mut self, field: KeyField, value: Result<T, FieldError>) -> Option<T> {
        value.map_err(|why| self.add(field, why)).ok()
    }

    /// The result of an operation: `value`, or all faults that were collected.
    pub fn none_or<T>(self, value: Option<T>) -> Result<T, OperationError> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(OperationError::Invalid(self.0)),
        }
    }
}

impl From<RequestFault> for OperationError {
    fn from(fault: RequestFault) -> Self {
        Self::Invalid(vec![fault])
    }
}

impl From<TimeError> for FieldError {
    fn from(error: TimeError) -> Self {
        Self::Time(error)
    }
}

impl fmt::Display for RequestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

fn list(faults: &[RequestFault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
