//! What a caller presents, and its digest. Neither ever prints its value.

use std::fmt;

use aws_lc_rs::{constant_time, digest};
use zeroize::Zeroizing;

/// A secret that keygate itself holds (just issued, or read for import). Wiped on drop.
///
/// On the request path, a presented secret stays in the request's buffer and is only borrowed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// SHA-256 of a secret. Digests of secrets with at least 128 random bits reveal nothing usable.
/// They still do not print: a digest in a log would let a reader confirm a guess.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

// === impl Secret ===

impl Secret {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The secret itself. Call it only to hash the secret or to show it once to its owner.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

// === impl Digest ===

impl Digest {
    pub fn of(secret: &[u8]) -> Self {
        let mut out = [0u8; 32];
        let hash = digest::digest(&digest::SHA256, secret);
        // SHA-256 is 32 bytes long by definition, so zip cannot drop any.
        for (to, from) in out.iter_mut().zip(hash.as_ref()) {
            *to = *from;
        }
        Self(out)
    }

    /// Equality in time that does not depend on where the two differ.
    pub fn matches(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_sha256() {
        // FIPS 180-2 appendix B.1.
        let want = [
            0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae,
            0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61,
            0xf2, 0x00, 0x15, 0xad,
        ];
        assert_eq!(Digest::of(b"abc").0, want);
        assert!(Digest::of(b"abc").matches(&Secret::new(*b"abc").digest()));
        assert!(!Digest::of(b"abc").matches(&Digest::of(b"abd")));
    }

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new(*b"wa_live_hunter2");
        assert_eq!(format!("{secret:?} {:?}", secret.digest()), "Secret(..) Digest(..)");
    }
}
