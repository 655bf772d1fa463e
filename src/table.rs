//! The key table: format, verification, look-up, patch overlay, acceptance. docs/table-format.md is
//! the normative description. Imports core and wording only. No I/O except through what callers
//! pass in, no clock, no log.
//!
//! ```text
//! registry → BodyBuilder → BuiltBody → Draft → signature → file              write/, manage alone
//! file → Table::open / Patch::open (verified) → Acceptance → KeySet (in force)
//! ```
//!
//! [`write`] is the half that makes files. The sidecar is built without a use of it:
//! `tests/it/layering.rs` lets only `manage` import it.

#![deny(clippy::indexing_slicing)]

pub mod accept;
mod body;
mod buffer;
mod cumulative;
mod directory;
mod entry;
mod envelope;
mod file;
mod file_kind;
mod format;
mod hold;
mod keyset;
mod layout;
pub mod manifest;
mod refusal;
mod signer_id;
mod spans;
#[cfg(test)]
pub(crate) mod testkit;
#[cfg(test)]
mod tests;
pub mod trust;
mod use_block;
pub mod write;

pub use self::accept::{
    AcceptOutcome, AcceptRules, Acceptance, Ledger, LedgerError, clock_behind_ms,
};
pub use self::body::Counts;
pub use self::buffer::Buffer;
pub use self::entry::{KeyEntry, OrgLimits};
pub use self::file::{Bounds, Patch, SignedHead, Table};
pub use self::file_kind::FileKind;
pub use self::format::TableFormat;
pub use self::keyset::KeySet;
pub use self::manifest::{Acknowledge, Base, BodyHash, Issue, Manifest};
pub use self::refusal::Refusal;
pub use self::signer_id::SignerId;
pub use self::spans::{ActiveSpan, IdIndex, KeyLife, KeyTerms, PatchedIds};
pub use self::trust::{PublicKey, PublicKeyError, Trust, TrustError};
pub use self::use_block::{UseBlock, UsedKey};
