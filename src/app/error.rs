//! Why the sidecar did not start.

use std::io;

use super::address_lock::AddressLockError;
use super::inherited::InheritedError;
use crate::admin::AdminTokenError;
use crate::config;
use crate::exit::Exit;
use crate::meter::UsageFileError;
use crate::proxy::SharedLimitsError;
use crate::reload::{self, LoadFailure};
use crate::telemetry::log::LogError;

/// Why the sidecar did not start. One message with the remedy. Each kind has its exit code.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    AdminToken(#[from] AdminTokenError),
    #[error("{0}")]
    AccessLog(#[from] crate::telemetry::access::AccessLogError),
    #[error("cannot bind {what} {address}: {source}\nhint: {hint}")]
    Bind { what: &'static str, address: String, source: io::Error, hint: String },
    #[error("{0}")]
    AddressLock(#[from] AddressLockError),
    #[error("{0}")]
    Config(#[from] config::ConfigError),
    #[error("{0}")]
    Inherited(#[from] InheritedError),
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
    #[error("{0}")]
    Keys(#[from] reload::FirstLoadError),
    #[error("{0}")]
    SharedLimits(#[from] SharedLimitsError),
    #[error("{0}")]
    UsageFile(#[from] UsageFileError),
}

// === impl StartError ===

impl StartError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::AccessLog(_) | Self::AddressLock(_) | Self::Bind { .. } | Self::UsageFile(_) => {
                Exit::CannotCreate
            }
            Self::AdminToken(_) | Self::Config(_) | Self::Inherited(_) | Self::Log(_) => {
                Exit::Config
            }
            // `keygatectl table verify` distinguishes refusals. A start only says that the data is
            // bad.
            Self::Keys(reload::FirstLoadError::Keys {
                failure: LoadFailure::Refused(_), ..
            }) => Exit::Data,
            Self::Keys(error) => Exit::from_code(error.exit()),
            Self::SharedLimits(_) | Self::Signals(_) | Self::Thread(_) => Exit::Internal,
        }
    }

    /// On standard error, because there may be no log yet.
    pub(super) fn say(&self) {
        use std::io::Write as _;
        // Nothing can be done if standard error is closed.
        let _ = writeln!(io::stderr(), "error: {self}");
    }
}
