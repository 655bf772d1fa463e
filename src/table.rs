//! The key table: format, verification, look-up, patch overlay, acceptance. docs/table-format.md is
//! the normative description. Imports core only. No I/O but through what it is handed, no clock,
//! no log.
//!
//! ```text
//! registry → BodyBuilder → BuiltBody → Draft → signature → file
//! file → Table::open / Patch::open (verified) → Desk (accepted) → KeySet (in force)
//! ```

#![deny(clippy::indexing_slicing)]

pub mod accept;
mod body;
mod buffer;
pub mod build;
mod directory;
mod envelope;
mod file;
mod hold;
mod keyset;
mod layout;
pub mod manifest;
mod output;
pub mod patch;
mod refusal;
pub mod seal;
pub mod sort;
#[cfg(test)]
pub(crate) mod testkit;
#[cfg(test)]
mod tests;
pub mod trust;

pub use self::accept::{Accepted, Desk, Ledger, LedgerError, Rules, clock_behind_ms};
pub use self::body::Counts;
pub use self::buffer::Buffer;
pub use self::build::{BodyBuilder, BuildError, BuiltBody};
pub use self::envelope::{FORMAT, OLDEST_FORMAT};
pub use self::file::{Bounds, Patch, Table};
pub use self::keyset::{Entry, KeySet};
pub use self::manifest::{Acknowledge, Base, BodyHash, Issue, Manifest};
pub use self::patch::{PatchDraft, PatchError, fold};
pub use self::refusal::Refusal;
pub use self::seal::{Draft, SealError};
pub use self::sort::{InMemory, Spool};
pub use self::trust::{PublicKey, PublicKeyError, SignerId, Trust, TrustError};
