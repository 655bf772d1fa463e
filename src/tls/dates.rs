//! The dates between which certificates are valid, and how messages describe them.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::TlsError;
use crate::core::Now;

/// When a certificate is valid, in Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

// === impl Validity ===

impl Validity {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let validity = parsed.validity();
        Some(Self {
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    pub(super) fn includes(self, now: Now) -> bool {
        (self.not_before..=self.not_after).contains(&unix(now))
    }

    pub(super) fn check(self, path: &Path, now: Now) -> Result<(), TlsError> {
        let path = || path.to_owned();
        if unix(now) < self.not_before {
            return Err(TlsError::NotYetValid { path: path(), from: rfc3339(self.not_before) });
        }
        if unix(now) > self.not_after {
            return Err(TlsError::Expired { path: path(), at: rfc3339(self.not_after) });
        }
        Ok(())
    }

    /// Seconds until it expires. Negative once it has.
    pub(super) fn remaining(self, now: Now) -> i64 {
        self.not_after.saturating_sub(unix(now))
    }

    pub(super) fn lifetime(self) -> i64 {
        self.not_after.saturating_sub(self.not_before)
    }
}

fn unix(now: Now) -> i64 {
    i64::try_from(now.unix_secs()).unwrap_or(i64::MAX)
}

/// Dates before 1970 and after 9999 need no distinction.
pub(super) fn rfc3339(unix: i64) -> String {
    const LAST: u64 = 253_402_300_799;
    let seconds = u64::try_from(unix).unwrap_or(0).min(LAST);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}
