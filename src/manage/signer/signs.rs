//! Who signs tables: code that has a key, or that asks a process which has one; and why there is no
//! signature. Imports table.

use std::fmt;
use std::io::{Read, Seek, Write};

use crate::table::PublicKey;
use crate::table::write::Draft;

/// Signs, with a key of its own or by asking the process that has it.
pub trait SignsTables {
    /// The key that verifies its signatures.
    ///
    /// # Errors
    ///
    /// Why it cannot be asked.
    fn public(&self) -> std::result::Result<PublicKey, String>;

    /// A plain Ed25519 signature of the file's message.
    ///
    /// # Errors
    ///
    /// Why there is none; trying again later may be right.
    fn sign(&self, file: &mut dyn UnsignedFile) -> std::result::Result<[u8; 64], SignFault>;
}

/// A file to be signed: its message, and all of it for a signer that wants to see the keys.
pub trait UnsignedFile {
    fn message(&self) -> &[u8];

    /// Bytes of the whole file.
    fn file_bytes(&self) -> u64;

    /// Writes the whole file.
    ///
    /// # Errors
    ///
    /// A reader that is gone, or a file that cannot be read.
    fn write_to(&mut self, out: &mut dyn Write) -> std::io::Result<()>;
}

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignFault {
    /// Nobody answers.
    #[error("{0}")]
    Away(String),
    /// The signer answers, and does not sign this.
    #[error("{0}")]
    Refused(SigningRefusal),
}

/// Why a signer does not sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningReason {
    /// Not one of the audiences that it signs for.
    Audience,
    /// A patch over a table that it has not signed, or not lately.
    Base,
    /// Too many keys would go in one step.
    Brake,
    /// It is busy answering too many others.
    Busy,
    /// The audit log would go back, or its line differs from the signed one.
    Checkpoint,
    /// Neither table nor patch, in another version of the format, or damaged.
    File,
    /// It would be valid for longer than the signer allows, or only from a later time.
    Life,
    /// Its serial skips more than one step may.
    Leap,
    /// Its manifest does not name the signer.
    NotNamed,
    /// The serial was signed with other content.
    OtherContent,
    /// Something newer was signed.
    Serial,
    /// It lacks changes that were signed, or is below the signer's `min_serial`.
    Stale,
    /// More bytes than the signer takes.
    TooLarge,
    /// The signer cannot note what it signs.
    Unavailable,
}

/// A signer's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningRefusal {
    pub reason: SigningReason,
    /// One line for people.
    pub why: String,
}

// === impl Draft ===

impl<F: Read + Seek> UnsignedFile for Draft<F> {
    fn message(&self) -> &[u8] {
        Self::message(self)
    }

    fn file_bytes(&self) -> u64 {
        Self::file_bytes(self)
    }

    fn write_to(&mut self, mut out: &mut dyn Write) -> std::io::Result<()> {
        self.write(&mut out)
    }
}

// === impl SigningReason ===

impl SigningReason {
    pub const ALL: [Self; 14] = [
        Self::Audience,
        Self::Base,
        Self::Brake,
        Self::Busy,
        Self::Checkpoint,
        Self::File,
        Self::Life,
        Self::NotNamed,
        Self::OtherContent,
        Self::Serial,
        Self::TooLarge,
        Self::Unavailable,
        Self::Leap,
        Self::Stale,
    ];

    /// Its place in the list, from 1.
    pub fn code(self) -> u8 {
        let at = Self::ALL.iter().position(|reason| *reason == self).unwrap_or(Self::ALL.len());
        u8::try_from(at + 1).unwrap_or(u8::MAX)
    }

    /// Its name in the log of the signer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Audience => "audience",
            Self::Base => "base",
            Self::Brake => "brake",
            Self::Busy => "busy",
            Self::Checkpoint => "checkpoint",
            Self::File => "file",
            Self::Leap => "leap",
            Self::Life => "life",
            Self::NotNamed => "not_named",
            Self::OtherContent => "other_content",
            Self::Serial => "serial",
            Self::Stale => "stale",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
        }
    }
}

// === impl SigningRefusal ===

impl SigningRefusal {
    pub fn new(reason: SigningReason, why: impl Into<String>) -> Self {
        Self { reason, why: why.into() }
    }
}

impl fmt::Display for SigningRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}
