//! Whose signatures count. The algorithm is Ed25519 by our choice, never by the file's.
//! Imports core only.

use std::fmt;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::envelope::Envelope;
use super::refusal::Refusal;
use super::signer_id::SignerId;
use crate::core::SignerKey;

pub use crate::core::SignerError as PublicKeyError;

/// A [`SignerKey`] that signatures are verified with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(SignerKey);

/// Which files are accepted: signed by `required` of `signers`, for `audience`.
#[derive(Clone, Debug)]
pub struct Trust {
    signers: Option<Box<[PublicKey]>>,
    required: usize,
    audience: Option<Box<str>>,
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

// === impl PublicKey ===

impl PublicKey {
    /// Refuses keys that would make a signature worthless. aws-lc-rs itself accepts them.
    pub fn from_raw(bytes: [u8; 32]) -> Result<Self, PublicKeyError> {
        SignerKey::from_bytes(bytes).map(Self)
    }

    /// One PEM `PUBLIC KEY`, or `ed25519:` and the base64 of the raw key or of its SPKI.
    pub fn parse(text: &str) -> Result<Self, PublicKeyError> {
        let text = text.trim();
        if text.starts_with("ed25519:") {
            return SignerKey::from_inline(text).map(Self);
        }
        match SignerKey::from_pem(text)?.as_slice() {
            [one] => Ok(Self(*one)),
            _ => Err(PublicKeyError::Syntax),
        }
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// SubjectPublicKeyInfo, as `openssl pkey -pubout -outform DER` writes it.
    pub fn spki_der(&self) -> [u8; 44] {
        self.0.to_spki()
    }

    /// As `openssl pkey -pubout` prints it.
    pub fn spki_pem(&self) -> String {
        self.0.to_pem()
    }

    pub fn id(&self) -> SignerId {
        SignerId::of(&self.spki_der())
    }

    /// Also refuses malleable signatures (`S` not below the group order): aws-lc-rs does.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.as_bytes()).verify(message, signature).is_ok()
    }
}

impl From<SignerKey> for PublicKey {
    fn from(key: SignerKey) -> Self {
        Self(key)
    }
}

/// `ed25519:` and the base64 of the raw key, which [`PublicKey::parse`] accepts.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", BASE64_STANDARD.encode(self.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Trust ===

impl Trust {
    /// Requires `required` signatures of `signers`, and accepts only files for `audience`.
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

    /// Accepts any signer that the file names, or an unsigned file, for any audience. For
    /// inspecting a file: only `manage` calls it (`tests/it/layering.rs`), and
    /// [`Acceptance`](super::Acceptance) puts no draft in force.
    pub fn for_inspection() -> Self {
        Self { signers: None, required: 0, audience: None }
    }

    pub(crate) fn audience(&self) -> Option<&str> {
        self.audience.as_deref()
    }

    /// Whether signatures by these signers suffice. For checking what is in force against a changed
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

    /// The signers of a file whose signatures over its message are all valid, if they suffice.
    ///
    /// Untrusted signatures are verified too: a file with a wrong signature was altered.
    pub(crate) fn verify(&self, envelope: &Envelope<'_>) -> Result<Vec<PublicKey>, Refusal> {
        if envelope.signatures.is_empty() && self.required > 0 {
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
