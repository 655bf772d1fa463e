//! The API server's refusals, in words that say what to do about them.

use crate::remote::RemoteFileError;

/// Why a request to the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("--api-server: `{0}` is no URL\nhint: it begins with https:// or http://")]
    BadUrl(String),
    /// Somebody else has changed the object since it was read, or made it first.
    #[error(
        "{action}: somebody else has changed it meanwhile\nhint: it is read anew and tried again"
    )]
    Conflict { action: String },
    /// 401 or 403.
    #[error("{action}: the API server does not allow it: {message}\nhint: {hint}")]
    Denied { action: String, message: String, hint: &'static str },
    #[error(transparent)]
    File(#[from] RemoteFileError),
    #[error("{action}: there is none\nhint: {hint}")]
    Missing { action: String, hint: &'static str },
    #[error(
        "this is no pod of a cluster: KUBERNETES_SERVICE_HOST is not set\n\
         hint: name the API server with --api-server, for instance http://127.0.0.1:8001 of `kubectl \
         proxy`"
    )]
    NoPod,
    /// Another status.
    #[error("{action}: the API server answers {status}: {message}")]
    Refused { action: String, status: u16, message: String },
    #[error(
        "{action}: the API server at {url} does not answer: {message}\n\
         hint: it is tried again; a NetworkPolicy may be in the way"
    )]
    Unreachable { action: String, url: Box<str>, message: String },
    #[error(
        "{action}: the answer of {url} is no JSON of the Kubernetes API\n\
         hint: look whether --api-server names the API server"
    )]
    Unreadable { action: String, url: Box<str> },
}

// === impl ClusterError ===

impl ClusterError {
    /// Whether the object was changed since it was read, so that reading it again is the remedy.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}
