//! Whose signatures count. The algorithm is Ed25519 by our choice, never by the file's.
//! Imports core only.

use std::fmt;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::envelope::Envelope;
use super::refusal::Refusal;
use crate::core::Digest;

/// An Ed25519 public key that is safe to trust: canonical and not of small order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// Name of a signer for people: the first eight bytes of the SHA-256 of its SPKI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignerId([u8; 8]);

/// Which files are taken: signed by `required` of `signers`, for `audience`.
#[derive(Clone, Debug)]
pub struct Trust {
    signers: Option<Box<[PublicKey]>>,
    required: usize,
    audience: Option<Box<str>>,
}

/// Why a public key is not one to trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    #[error("is not a canonical encoding (its y is 2^255 - 19 or more)")]
    NonCanonical,
    #[error("is a key of small order: anybody can make signatures for it")]
    SmallOrder,
    #[error(
        "is not an Ed25519 public key\n\
         hint: a PEM `PUBLIC KEY` as `keygatectl signer new` or `openssl pkey -pubout` prints it, \
         or `ed25519:` and the base64 of the 32 raw bytes"
    )]
    Syntax,
}

/// Why a set of trusted signers makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("signer {0} is listed twice")]
    Duplicate(SignerId),
    #[error("no trusted signer: nothing could ever be accepted")]
    NoSigner,
    #[error("{required} signatures required of {signers} trusted signers")]
    Required { required: usize, signers: usize },
}

/// DER of SubjectPublicKeyInfo for Ed25519 (RFC 8410) up to the 32 bytes of the key.
const SPKI_HEAD: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The y coordinates of the eight points of small order. With the sign bit set or not they are the
/// eight canonical encodings and the two of `x = 0` with a sign.
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    // y = 0: order 4
    [0; 32],
    // y = 1: the identity, which aws-lc-rs takes as a public key
    [
        1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0,
    ],
    // y = -1: order 2
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0x7f,
    ],
    // order 8
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    // order 8
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
];

// === impl PublicKey ===

impl PublicKey {
    /// Refuses what would make a signature worthless. aws-lc-rs itself takes such keys.
    pub fn from_raw(bytes: [u8; 32]) -> Result<Self, PublicKeyError> {
        let [.., top] = bytes;
        let mut y = bytes;
        if let Some(last) = y.last_mut() {
            *last = top & 0x7f;
        }
        // p = 2^255 - 19 is ed ff … ff 7f in little endian.
        let (low, rest) = y.split_first().unwrap_or((&0, &[]));
        let (high, middle) = rest.split_last().unwrap_or((&0, &[]));
        if *low >= 0xed && *high == 0x7f && middle.iter().all(|b| *b == 0xff) {
            return Err(PublicKeyError::NonCanonical);
        }
        if SMALL_ORDER_Y.contains(&y) {
            return Err(PublicKeyError::SmallOrder);
        }
        Ok(Self(bytes))
    }

    /// A PEM `PUBLIC KEY`, or `ed25519:` and the base64 of the raw key or of its SPKI.
    pub fn parse(text: &str) -> Result<Self, PublicKeyError> {
        let text = text.trim();
        let encoded: String = match text.strip_prefix("ed25519:") {
            Some(rest) => rest.to_owned(),
            None => text
                .strip_prefix("-----BEGIN PUBLIC KEY-----")
                .and_then(|t| t.strip_suffix("-----END PUBLIC KEY-----"))
                .ok_or(PublicKeyError::Syntax)?
                .split_ascii_whitespace()
                .collect(),
        };
        let der = BASE64_STANDARD.decode(encoded).map_err(|_| PublicKeyError::Syntax)?;
        let raw = der.strip_prefix(SPKI_HEAD.as_slice()).unwrap_or(&der);
        Self::from_raw(raw.try_into().map_err(|_| PublicKeyError::Syntax)?)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// SubjectPublicKeyInfo, as `openssl pkey -pubout -outform DER` writes it.
    pub fn spki_der(&self) -> Vec<u8> {
        [SPKI_HEAD.as_slice(), &self.0].concat()
    }

    /// As `openssl pkey -pubout` prints it.
    pub fn spki_pem(&self) -> String {
        let text = BASE64_STANDARD.encode(self.spki_der());
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    pub fn id(&self) -> SignerId {
        let Digest(hash) = Digest::of(&self.spki_der());
        let mut id = [0; 8];
        id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        SignerId(id)
    }

    /// Refuses malleable signatures (`S` not below the group order) as well: aws-lc-rs does.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

/// `ed25519:` and the base64 of the raw key: what [`PublicKey::parse`] takes.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl SignerId ===

impl SignerId {
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

// === impl Trust ===

impl Trust {
    /// `required` signatures of `signers`, and only files for `audience`.
    pub fn new(
        signers: impl IntoIterator<Item = PublicKey>,
        required: usize,
        audience: &str,
    ) -> Result<Self, TrustError> {
        let mut signers: Vec<_> = signers.into_iter().collect();
        signers.sort_unstable();
        if let Some(twice) =
            signers.windows(2).find_map(|w| w.first().filter(|first| w.last() == Some(first)))
        {
            return Err(TrustError::Duplicate(twice.id()));
        }
        if signers.is_empty() {
            return Err(TrustError::NoSigner);
        }
        if required == 0 || required > signers.len() {
            return Err(TrustError::Required { required, signers: signers.len() });
        }
        Ok(Self { signers: Some(signers.into()), required, audience: Some(audience.into()) })
    }

    /// Takes any signer that the file names, for any audience. For looking into a file; what it
    /// opens must never be put in force.
    pub fn for_inspection() -> Self {
        Self { signers: None, required: 1, audience: None }
    }

    pub(crate) fn audience(&self) -> Option<&str> {
        self.audience.as_deref()
    }

    /// Whether signatures by these signers suffice. Holds what is in force against a changed
    /// configuration.
    pub fn accepts(&self, signed_by: &[PublicKey]) -> Result<(), Refusal> {
        let Some(trusted) = &self.signers else {
            return Ok(());
        };
        let valid = signed_by.iter().filter(|key| trusted.contains(key)).count();
        if valid == 0 && !signed_by.is_empty() {
            let ids: Vec<_> = signed_by.iter().map(|key| key.id().to_string()).collect();
            return Err(Refusal::UnknownSigner { signers: ids.join(", ").into() });
        }
        if valid < self.required {
            return Err(Refusal::FewSigners { valid, required: self.required });
        }
        Ok(())
    }

    /// The signers of a file whose every signature holds over its message, if they suffice.
    ///
    /// Untrusted signatures are verified too: a file with a wrong signature was altered.
    pub(crate) fn verify(&self, envelope: &Envelope<'_>) -> Result<Vec<PublicKey>, Refusal> {
        if envelope.signatures.is_empty() {
            return Err(Refusal::Unsigned);
        }
        let mut keys = Vec::with_capacity(envelope.signatures.len());
        for (index, entry) in envelope.signatures.iter().enumerate() {
            let key = PublicKey::from_raw(entry.key).map_err(|_| Refusal::OutOfRange {
                what: "public key",
                of: "signature",
                index: index as u64,
            })?;
            keys.push(key);
        }
        self.accepts(&keys)?;
        for (key, entry) in keys.iter().zip(envelope.signatures) {
            if !key.verify(envelope.message, &entry.signature) {
                return Err(Refusal::BadSignature { signer: key.id() });
            }
        }
        Ok(keys)
    }
}
