//! Why something is not published, and what kind of reason that is.

use std::io::ErrorKind;

use super::UnpublishedReason;
use super::make::MakeError;
use crate::manage::publish::rows::RowsError;
use crate::manage::signer::signs::{SignFault, SigningRefusal};
use crate::registrar::store::StoreError;

/// Why something is not published. The publisher tries again in every case.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishFault {
    #[error("{0}")]
    Make(#[from] MakeError),
    #[error("{0}")]
    Store(#[from] StoreError),
    /// This service has signed it, but not enough others have.
    #[error("serial {serial} is signed by {signed} of {required}, and not yet by {missing}")]
    Awaiting { serial: u64, signed: usize, required: usize, missing: String },
    #[error("no signer is configured for this audience")]
    NoSigner,
    /// A target, or a file of ours, that cannot be written.
    #[error("{0}")]
    Files(#[from] crate::manage::error::Error),
    #[error("{path} has serial {serial} already")]
    Newer { path: String, serial: u64 },
    #[error("no thread for a table: {0}")]
    Thread(std::io::Error),
    /// Another process has published something else, over another table.
    #[error("another process has published meanwhile")]
    Overtaken,
    #[error("the store has an artefact that cannot be read: {0}")]
    Odd(#[from] crate::table::Refusal),
}

// === impl PublishFault ===

impl PublishFault {
    /// The signer's refusal, if it has refused.
    pub(super) fn refusal(&self) -> Option<&SigningRefusal> {
        match self {
            Self::Make(MakeError::Rows(RowsError::Signer(SignFault::Refused(refusal)))) => {
                Some(refusal)
            }
            _ => None,
        }
    }

    /// A target, or a file of ours, is at fault; the publication itself is signed and stored.
    pub(super) fn is_of_target(&self) -> bool {
        matches!(self, Self::Files(_) | Self::Newer { .. })
    }

    pub(super) fn reason(&self) -> UnpublishedReason {
        if is_disk_full(self) {
            return UnpublishedReason::DiskFull;
        }
        match self {
            Self::Make(MakeError::Rows(RowsError::Signer(SignFault::Refused(_)))) => {
                UnpublishedReason::SignerRefuses
            }
            Self::Make(MakeError::Rows(RowsError::Signer(_)) | MakeError::Signer(_)) => {
                UnpublishedReason::SignerUnreachable
            }
            Self::Make(MakeError::Store(_)) | Self::Store(_) => UnpublishedReason::Database,
            Self::Make(MakeError::Rows(_)) | Self::Odd(_) => UnpublishedReason::Unfit,
            Self::Awaiting { .. } => UnpublishedReason::AwaitingSignatures,
            Self::NoSigner => UnpublishedReason::NoSigner,
            Self::Overtaken => UnpublishedReason::Overtaken,
            Self::Files(_) | Self::Newer { .. } | Self::Thread(_) => UnpublishedReason::Target,
        }
    }
}

/// Whether a full disk is the root cause.
fn is_disk_full(fault: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(fault);
    while let Some(fault) = next {
        let kind = fault.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
            return true;
        }
        next = fault.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::manage::error::Error;
    use crate::manage::signer::signs::SigningReason;

    #[test]
    fn each_fault_is_of_a_kind() {
        let of = |kind: ErrorKind| io::Error::from(kind);
        let write = |kind| PublishFault::Files(Error::Write { path: "x".into(), source: of(kind) });
        let rows = |error| PublishFault::Make(MakeError::Rows(error));
        for (fault, want) in [
            (write(ErrorKind::StorageFull), UnpublishedReason::DiskFull),
            (write(ErrorKind::QuotaExceeded), UnpublishedReason::DiskFull),
            (write(ErrorKind::PermissionDenied), UnpublishedReason::Target),
            (rows(RowsError::Read(of(ErrorKind::StorageFull))), UnpublishedReason::DiskFull),
            (
                rows(RowsError::Signer(SignFault::Away("away".into()))),
                UnpublishedReason::SignerUnreachable,
            ),
            (
                rows(RowsError::Signer(SignFault::Refused(SigningRefusal::new(
                    SigningReason::Brake,
                    "too few",
                )))),
                UnpublishedReason::SignerRefuses,
            ),
            (rows(RowsError::UnknownFormat), UnpublishedReason::Unfit),
            (MakeError::Signer("away".into()).into(), UnpublishedReason::SignerUnreachable),
            (StoreError::NoSuchAudience.into(), UnpublishedReason::Database),
            (
                PublishFault::Awaiting {
                    serial: 7,
                    signed: 1,
                    required: 2,
                    missing: "security".into(),
                },
                UnpublishedReason::AwaitingSignatures,
            ),
            (PublishFault::NoSigner, UnpublishedReason::NoSigner),
            (PublishFault::Overtaken, UnpublishedReason::Overtaken),
        ] {
            assert_eq!(fault.reason(), want, "{fault}");
        }
        let words: std::collections::BTreeSet<_> =
            UnpublishedReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), UnpublishedReason::ALL.len());
    }
}
