//! New secrets and ids, from random bytes that the caller provides. Imports core.

use super::ChosenForm;
use super::fault::OperationError;
use crate::core::format::KeyFormat;
use crate::core::{Digest, Environment, KeyId, Secret};

/// Where random bytes come from: outside tests, the operating system.
pub trait RandomSource {
    /// Fills `to` with unpredictable bytes.
    fn fill(&mut self, to: &mut [u8]) -> Result<(), NoRandomness>;
}

/// The source has no bytes to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRandomness;

/// A new secret, with the parts of it that may be stored.
#[derive(Debug)]
pub struct IssuedSecret {
    pub secret: Secret,
    pub digest: Digest,
    /// The first symbols after prefix and environment.
    pub key_prefix: Box<str>,
}

// === impl IssuedSecret ===

impl IssuedSecret {
    /// A new secret in this form.
    pub fn new(
        form: &ChosenForm,
        environment: Option<Environment>,
        random: &mut dyn RandomSource,
    ) -> Result<Self, OperationError> {
        let format = &form.format;
        // About one byte in four is discarded; 1 KiB is far more than the longest form needs.
        let bytes = zeroize::Zeroizing::new(bytes::<1024>(random)?);
        let secret = format.encode(environment, *bytes).ok_or(OperationError::NoRandomness)?;
        let rest = secret.expose().get(format.head_of(secret.expose())..).unwrap_or_default();
        let key_prefix = start_of(rest, form.shown);
        Ok(Self { digest: secret.digest(), key_prefix, secret })
    }
}

impl From<NoRandomness> for OperationError {
    fn from(NoRandomness: NoRandomness) -> Self {
        Self::NoRandomness
    }
}

/// `key_` and 12 symbols: 60 bits. The caller makes another in the unlikely case that it is in use.
pub fn new_key_id(random: &mut dyn RandomSource) -> Result<KeyId, OperationError> {
    const SYMBOLS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut text = String::from(KeyId::PREFIX);
    for byte in bytes::<12>(random)? {
        text.push(char::from(*SYMBOLS.get(usize::from(byte & 31)).unwrap_or(&b'0')));
    }
    KeyId::parse(&text).map_err(|_| OperationError::NoRandomness)
}

/// A new public id, formatted like the secret but shorter and without a checksum. It need not be
/// secret.
pub fn new_public_id(
    format: &KeyFormat,
    environment: Option<Environment>,
    random: &mut dyn RandomSource,
) -> Result<Box<str>, OperationError> {
    let form = KeyFormat {
        random: if format.group == 0 { 16 } else { format.group.saturating_mul(4) },
        checksum: 0,
        checksummed: false,
        ..format.clone()
    };
    let id = form.encode(environment, bytes::<1024>(random)?);
    let id = id.ok_or(OperationError::NoRandomness)?;
    Ok(String::from_utf8_lossy(id.expose()).into())
}

/// The first `count` characters, as far as they are visible ASCII.
pub fn start_of(secret: &[u8], count: usize) -> Box<str> {
    let shown = secret.iter().take(count).take_while(|b| b.is_ascii_graphic());
    shown.map(|b| char::from(*b)).collect::<String>().into()
}

fn bytes<const N: usize>(random: &mut dyn RandomSource) -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    random.fill(&mut bytes)?;
    Ok(bytes)
}
