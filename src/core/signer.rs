//! Ed25519 public keys of signers: which ones are accepted, and their names.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::secret::Digest;

/// A public key that a table's signature may be checked against: canonical and of full order.
///
/// aws-lc-rs accepts the identity point as a key, and then "verifies" signatures that anybody can
/// make (measured). So such keys are refused here, before any signature is checked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignerKey([u8; 32]);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    #[error("is the id of a signer, not its public key")]
    Id,
    #[error("is not a canonical encoding of an Ed25519 public key")]
    NonCanonical,
    #[error("is not an Ed25519 public key (SPKI, RFC 8410)")]
    NotEd25519,
    #[error("is a private key; a sidecar needs only the public one")]
    Private,
    #[error("is a point of small order: anybody could sign for it")]
    SmallOrder,
    #[error("is neither `ed25519:` and the base64 of a public key, nor a PEM of one")]
    Syntax,
}

/// The DER before the 32 bytes of an Ed25519 key in SubjectPublicKeyInfo (RFC 8410 §4).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// 2^255 - 19, little-endian.
const P: [u8; 32] = {
    let mut p = [0xff; 32];
    p[0] = 0xed;
    p[31] = 0x7f;
    p
};

/// The y coordinates of the eight points of order 1, 2, 4 and 8, little-endian. Each represents the
/// one or two points that differ in the sign of x.
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    // y = 0: order 4, both signs.
    [0; 32],
    // y = 1: the identity.
    {
        let mut y = [0; 32];
        y[0] = 1;
        y
    },
    // y = -1: order 2.
    {
        let mut y = P;
        y[0] = 0xec;
        y
    },
    // Order 8, both signs of each.
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
];

// === impl SignerKey ===

impl SignerKey {
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, SignerError> {
        let mut y = bytes;
        let [.., last] = &mut y;
        *last &= 0x7f;
        if !y.iter().rev().lt(P.iter().rev()) {
            return Err(SignerError::NonCanonical);
        }
        if SMALL_ORDER_Y.contains(&y) {
            return Err(SignerError::SmallOrder);
        }
        Ok(Self(bytes))
    }

    pub fn from_spki(der: &[u8]) -> Result<Self, SignerError> {
        let key = der.strip_prefix(&SPKI_PREFIX).ok_or(SignerError::NotEd25519)?;
        Self::from_bytes(key.try_into().map_err(|_| SignerError::NotEd25519)?)
    }

    /// `ed25519:` and the base64 of the 32 bytes or of the SPKI.
    pub fn from_inline(text: &str) -> Result<Self, SignerError> {
        let encoded = text.strip_prefix("ed25519:").ok_or(SignerError::Syntax)?.trim();
        if encoded.len() == 16 && encoded.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(SignerError::Id);
        }
        let bytes = STANDARD.decode(encoded).map_err(|_| SignerError::Syntax)?;
        match <[u8; 32]>::try_from(bytes.as_slice()) {
            Ok(raw) => Self::from_bytes(raw),
            Err(_) => Self::from_spki(&bytes),
        }
    }

    /// Every `PUBLIC KEY` block of a PEM file, at least one. Text between the blocks is skipped.
    pub fn from_pem(text: &str) -> Result<Vec<Self>, SignerError> {
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some((_, after)) = rest.split_once("-----BEGIN ") {
            let (label, after) = after.split_once("-----").ok_or(SignerError::Syntax)?;
            let (body, after) = after.split_once("-----END ").ok_or(SignerError::Syntax)?;
            rest = after;
            if label.ends_with("PRIVATE KEY") {
                return Err(SignerError::Private);
            }
            if label != "PUBLIC KEY" {
                return Err(SignerError::NotEd25519);
            }
            let packed: String = body.split_ascii_whitespace().collect();
            let der = STANDARD.decode(packed).map_err(|_| SignerError::Syntax)?;
            keys.push(Self::from_spki(&der)?);
        }
        if keys.is_empty() { Err(SignerError::Syntax) } else { Ok(keys) }
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn to_spki(self) -> [u8; 44] {
        let mut der = [0; 44];
        for (to, from) in der.iter_mut().zip(SPKI_PREFIX.iter().chain(&self.0)) {
            *to = *from;
        }
        der
    }

    /// The PEM that `openssl pkey -pubout` prints.
    pub fn to_pem(self) -> String {
        let body = STANDARD.encode(self.to_spki());
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    /// `ed25519:` and the first 16 hexadecimal digits of the SHA-256 of the SPKI: its name in logs,
    /// `/status` and `inspect`.
    pub fn id(&self) -> String {
        let hash = Digest::of(&self.to_spki());
        let hex = hash.0.iter().take(8).map(|b| format!("{b:02x}")).collect::<String>();
        format!("ed25519:{hex}")
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032 §7.1, test 1.
    const GOOD: [u8; 32] = [
        0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07,
        0x3a, 0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07,
        0x51, 0x1a,
    ];

    fn hex(text: &str) -> [u8; 32] {
        let mut out = [0; 32];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap();
        }
        out
    }

    #[test]
    fn the_eight_points_of_small_order_are_refused() {
        let eight = [
            ("identity", "0100000000000000000000000000000000000000000000000000000000000000"),
            ("order 2", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            ("order 4", "0000000000000000000000000000000000000000000000000000000000000000"),
            ("order 4, -x", "0000000000000000000000000000000000000000000000000000000000000080"),
            ("order 8", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
            ("order 8, -x", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
            ("order 8 b", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
            ("order 8 b, -x", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
        ];
        for (name, text) in eight {
            assert_eq!(SignerKey::from_bytes(hex(text)), Err(SignerError::SmallOrder), "{name}");
        }
    }

    #[test]
    fn non_canonical_encodings_are_refused() {
        // p, p + 1 and 2^255 - 1, with and without the sign bit, and the identity with a sign.
        let cases = [
            ("p", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            ("p, -x", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"),
            ("p + 1", "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            ("2^255 - 1", "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        ];
        for (name, text) in cases {
            assert_eq!(SignerKey::from_bytes(hex(text)), Err(SignerError::NonCanonical), "{name}");
        }
        let signed_identity = "0100000000000000000000000000000000000000000000000000000000000080";
        assert!(SignerKey::from_bytes(hex(signed_identity)).is_err());
    }

    #[test]
    fn spellings_of_one_key() {
        let key = SignerKey::from_bytes(GOOD).unwrap();
        let raw = format!("ed25519:{}", STANDARD.encode(GOOD));
        let spki = format!("ed25519:{}", STANDARD.encode(key.to_spki()));
        assert_eq!(SignerKey::from_inline(&raw), Ok(key));
        assert_eq!(SignerKey::from_inline(&spki), Ok(key));
        let two = format!("# old\n{}\n# new\r\n{}", key.to_pem(), key.to_pem());
        assert_eq!(SignerKey::from_pem(&two), Ok(vec![key, key]));
        assert!(key.id().starts_with("ed25519:") && key.id().len() == 24, "{}", key.id());
    }

    #[test]
    fn what_is_no_key() {
        let cases = [
            ("id", "ed25519:0123456789abcdef", SignerError::Id),
            ("no prefix", "AAAA", SignerError::Syntax),
            ("short", "ed25519:AAAA", SignerError::NotEd25519),
            ("junk", "ed25519:!!", SignerError::Syntax),
        ];
        for (name, text, want) in cases {
            assert_eq!(SignerKey::from_inline(text), Err(want), "{name}");
        }
        let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(SignerKey::from_pem(private), Err(SignerError::Private));
        assert_eq!(SignerKey::from_pem("nothing"), Err(SignerError::Syntax));
        assert_eq!(
            SignerKey::from_pem("-----BEGIN PUBLIC KEY-----\nAAAA\n"),
            Err(SignerError::Syntax)
        );
    }
}
