//! The words of a key, each parsed once into a type that cannot hold an invalid value.

use std::fmt;

/// Why a word of a key was refused. The message names the rule, not the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("must be `live` or `test`")]
    Environment,
    #[error("must be `key_` followed by 1 to 16 letters, digits, `-` or `_`")]
    KeyId,
    #[error("must be 1 to 128 visible ASCII characters")]
    Org,
    #[error(
        "must be 1 to 64 visible ASCII characters without `\"` and `\\` (RFC 6749 scope-token)"
    )]
    Permission,
    #[error(
        "a subject is 1 to 128 bytes of UTF-8, email and role at most 128 bytes or empty, all \
         without control characters"
    )]
    Owner,
    #[error("must be 1 to 64 of `a` to `z`, `0` to `9`, `-` and `_`")]
    Policy,
    #[error("must be `active`, `disabled`, `revoked` or `canary`")]
    Status,
}

/// Public, loggable name of a key: `key_` + 1 to 16 of `[0-9A-Za-z_-]`. Never secret.
///
/// Held as 16 bytes, padded with NUL, without the `key_`: a table's record stores it this way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

/// The organization that a key belongs to: 1 to 128 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrgId(Box<str>);

/// An opaque word that a key holds and a route requires: RFC 6749 `scope-token`, at most 64
/// characters. A key that holds `*` holds all permissions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permission(Box<str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Environment {
    Live,
    Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// Public key id and secret, in two headers or in Basic.
    Pair,
    /// One secret.
    Single,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyStatus {
    Active,
    /// Refused for now. May become active again.
    Disabled,
    /// Refused permanently.
    Revoked,
    /// Never valid: planted where only a thief looks. Callers cannot tell it from an unknown key,
    /// but the operator of the sidecar learns that somebody used it. It is last, so that it
    /// prevails over every other status when two statements about one key conflict.
    Canary,
}

// === impl KeyId ===

impl KeyId {
    pub const PREFIX: &'static str = "key_";

    pub fn parse(text: &str) -> Result<Self, NameError> {
        let rest = text.strip_prefix(Self::PREFIX).ok_or(NameError::KeyId)?;
        let mut bytes = [0u8; 16];
        if rest.is_empty() || rest.len() > bytes.len() {
            return Err(NameError::KeyId);
        }
        for (to, from) in bytes.iter_mut().zip(rest.bytes()) {
            *to = from;
        }
        Self::from_bytes(bytes)
    }

    /// The 16 bytes of a table's record: 1 to 16 allowed characters, then only NUL.
    pub fn from_bytes(bytes: [u8; 16]) -> Result<Self, NameError> {
        let used = bytes.iter().take_while(|b| **b != 0).count();
        let (text, padding) = bytes.split_at(used);
        let ok = used > 0
            && text.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && padding.iter().all(|b| *b == 0);
        if ok { Ok(Self(bytes)) } else { Err(NameError::KeyId) }
    }

    /// From bytes that [`KeyId::from_bytes`] has accepted before: a record of an opened table.
    pub(crate) const fn from_checked(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The part after `key_`.
    pub fn suffix(&self) -> &str {
        // Only ASCII is accepted, so this cannot fail. An empty suffix would merely look odd.
        std::str::from_utf8(self.suffix_bytes()).unwrap_or_default()
    }

    /// The same as bytes, without checking them again.
    pub fn suffix_bytes(&self) -> &[u8] {
        // Zeros occur only after it.
        let unused = u128::from_le_bytes(self.0).leading_zeros() as usize / 8;
        self.0.get(..self.0.len() - unused).unwrap_or_default()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::PREFIX)?;
        f.write_str(self.suffix())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl OrgId ===

impl OrgId {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if Self::is_valid(text.as_bytes()) { Ok(Self(text.into())) } else { Err(NameError::Org) }
    }

    pub fn is_valid(bytes: &[u8]) -> bool {
        (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl Permission ===

impl Permission {
    /// A key that holds this one holds all.
    pub const ALL: &'static str = "*";

    pub fn parse(text: &str) -> Result<Self, NameError> {
        let ok = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
        if ok { Ok(Self(text.into())) } else { Err(NameError::Permission) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl Environment ===

impl Environment {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match text {
            "live" => Ok(Self::Live),
            "test" => Ok(Self::Test),
            _ => Err(NameError::Environment),
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }
}

// === impl KeyStatus ===

impl KeyStatus {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match text {
            "active" => Ok(Self::Active),
            "disabled" => Ok(Self::Disabled),
            "revoked" => Ok(Self::Revoked),
            "canary" => Ok(Self::Canary),
            _ => Err(NameError::Status),
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
            Self::Revoked => "revoked",
            Self::Canary => "canary",
        }
    }

    /// Whether no later change admits the key again.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Revoked | Self::Canary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids() {
        let cases = [
            ("shortest", "key_a", true),
            ("longest", "key_0123456789abcdef", true),
            ("too long", "key_0123456789abcdef0", false),
            ("empty", "key_", false),
            ("no prefix", "abc123", false),
            ("space", "key_a b", false),
            ("nul", "key_a\0b", false),
            ("dash and underscore", "key_a-b_c", true),
        ];
        for (name, text, ok) in cases {
            let parsed = KeyId::parse(text);
            assert_eq!(parsed.is_ok(), ok, "{name}");
            if let Ok(id) = parsed {
                assert_eq!(id.to_string(), text, "{name}");
                assert_eq!(KeyId::from_bytes(*id.as_bytes()), Ok(id), "{name}");
            }
        }
        let mut gap = [0u8; 16];
        gap[0] = b'a';
        gap[2] = b'b';
        assert!(KeyId::from_bytes(gap).is_err(), "NUL inside");
    }

    #[test]
    fn words() {
        assert!(Permission::parse("send_message").is_ok());
        assert!(Permission::parse("a b").is_err());
        assert!(Permission::parse("a\"b").is_err());
        assert!(OrgId::parse("acme\r\nx: y").is_err());
        assert!(OrgId::parse("").is_err());
        assert_eq!(Environment::parse("live").map(Environment::as_str), Ok("live"));
        assert_eq!(KeyStatus::parse("leaked"), Err(NameError::Status));
    }
}
