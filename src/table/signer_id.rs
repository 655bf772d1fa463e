//! The name of a signer, as manifests, logs and messages state it. Imports core only.

use std::fmt;

use crate::core::Digest;

/// Name of a signer for people: the first eight bytes of the SHA-256 of its SPKI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignerId([u8; 8]);

// === impl SignerId ===

impl SignerId {
    /// The id of the signer with this SubjectPublicKeyInfo (44 bytes of DER).
    pub fn of(spki: &[u8]) -> Self {
        let Digest(hash) = Digest::of(spki);
        let mut id = [0; 8];
        id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        Self(id)
    }

    /// The form that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("ed25519:").filter(|h| h.len() == 16)?;
        let lower = hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        lower.then(|| u64::from_str_radix(hex, 16).ok())?.map(|n| Self(n.to_be_bytes()))
    }
}

impl fmt::Display for SignerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SignerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for SignerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SignerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom("a signer id is `ed25519:` and 16 lower-case hex digits")
        })
    }
}
