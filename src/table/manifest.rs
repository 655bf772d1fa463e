//! The manifest: what a file states about itself, inside the signed bytes. Imports core and wording
//! only.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::envelope::Envelope;
use super::file_kind::FileKind;
use super::refusal::Refusal;
use super::signer_id::SignerId;
use crate::wording::visible::one_line;

/// Highest serial: the largest number that every JSON reader can hold exactly.
pub const MAX_SERIAL: u64 = (1 << 53) - 1;

/// Highest serial that a publisher chooses, or continues after: half of what a manifest can state,
/// so that no choice uses up the serials of future changes.
pub const MAX_CHOSEN_SERIAL: u64 = 1 << 52;

/// What a publisher did on purpose and a sidecar would otherwise refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acknowledge {
    /// No active key at all.
    Empty,
    /// Far fewer active keys than before.
    Shrink,
}

/// SHA-256 of a body. Unlike a [`crate::core::Digest`] it may be shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BodyHash(pub [u8; 32]);

/// The table that a patch was made over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    pub serial: u64,
    pub body_sha256: BodyHash,
}

/// What the publisher decides about one file; the rest of the manifest follows from the body.
#[derive(Clone, Debug)]
pub struct Issue {
    pub serial: u64,
    /// Every change published with a serial at or below this one is in the file. A publisher who
    /// knows everything published before states the file's own serial.
    pub includes_through: u64,
    pub issued_at_ms: u64,
    /// From this time in Unix seconds, the file is no longer accepted.
    pub expires_at: Option<u64>,
    pub audience: Box<str>,
    /// Who may sign it.
    pub signers: Vec<SignerId>,
    pub acknowledge: Vec<Acknowledge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version byte again.
    pub format: u8,
    pub kind: FileKind,
    pub serial: u64,
    pub includes_through: u64,
    /// Unix milliseconds; the publish time of a patch.
    pub issued_at_ms: u64,
    /// Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    pub audience: Box<str>,
    pub signers: Vec<SignerId>,
    /// Records in the body.
    pub keys: u64,
    /// Records of keys that are active.
    pub active: u64,
    /// Removals in the body; only a patch has any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub removed: u64,
    /// Present exactly in a patch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    pub body_bytes: u64,
    pub body_sha256: BodyHash,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acknowledge: Vec<Acknowledge>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

// === impl Manifest ===

impl Manifest {
    /// What a file states, not verified. For showing people why a file is refused.
    pub fn unverified(file: &[u8]) -> Result<Self, Refusal> {
        Self::parse(&Envelope::parse(file)?)
    }

    pub(crate) fn parse(envelope: &Envelope<'_>) -> Result<Self, Refusal> {
        let bad = |why: &str| Refusal::Manifest { why: why.into() };
        // serde's message quotes the content, which nobody may have vouched for.
        let manifest: Self = serde_json::from_slice(envelope.manifest)
            .map_err(|e| bad(&one_line(&e.to_string())))?;
        if manifest.format != envelope.format.number() {
            return Err(bad("its format is not the version byte's"));
        }
        if manifest.serial == 0 || manifest.serial > MAX_SERIAL {
            return Err(bad("the serial must be 1 to 2^53 - 1"));
        }
        if manifest.includes_through > manifest.serial {
            return Err(bad("includes_through is above the serial"));
        }
        if (manifest.kind == FileKind::Patch) != manifest.base.is_some() {
            return Err(bad("a patch states its base, a table has none"));
        }
        if manifest.base.is_some_and(|base| base.serial >= manifest.serial) {
            return Err(bad("the base's serial is not below the patch's own"));
        }
        if manifest.kind == FileKind::Table && manifest.removed != 0 {
            return Err(bad("a table removes nothing"));
        }
        Ok(manifest)
    }

    /// The table of this manifest, as a patch refers to it.
    pub fn as_base(&self) -> Base {
        Base { serial: self.serial, body_sha256: self.body_sha256 }
    }

    pub fn acknowledges(&self, what: Acknowledge) -> bool {
        self.acknowledge.contains(&what)
    }
}

// === impl BodyHash ===

impl BodyHash {
    pub fn parse(text: &str) -> Option<Self> {
        let mut out = [0u8; 32];
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 64 || !text.bytes().all(lower) {
            return None;
        }
        for (to, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *to = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(out))
    }
}

impl fmt::Display for BodyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for BodyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for BodyHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BodyHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom("a SHA-256 is 64 lower-case hex digits"))
    }
}
