//! The UUID of a key, for products whose documented ids are UUIDs. Imports core only.

use std::fmt;

use crate::core::{Digest, KeyId};

/// A UUID (RFC 9562) of a key. It is no secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub [u8; 16]);

// === impl Uid ===

impl Uid {
    /// That of a key which states none. It follows from what every table says, so the key has it
    /// again after it was exported and imported, or recovered from a published table.
    ///
    /// It says version 4, as the products' own do. RFC 9562 has version 8 for this, which older
    /// validators refuse: that of `uuid` for Node takes 1 to 5 before its release 10.
    pub fn of_key(audience: &str, id: KeyId) -> Self {
        let digest = Digest::of(format!("keygate key UUID\0{audience}\0{id}").as_bytes());
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(digest.0) {
            *to = from;
        }
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// 36 characters with hyphens, in either case.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let is_hyphen = |at: usize| matches!(at, 8 | 13 | 18 | 23);
        if bytes.len() != 36 {
            return None;
        }
        let mut digits = Vec::with_capacity(32);
        for (at, byte) in bytes.iter().enumerate() {
            match (is_hyphen(at), byte) {
                (true, b'-') => {}
                (false, _) => digits.push(char::from(*byte).to_digit(16)? as u8),
                (true, _) => return None,
            }
        }
        let mut out = [0; 16];
        for (to, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            let &[high, low] = pair else { return None };
            *to = high << 4 | low;
        }
        Some(Self(out))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_read_as_they_are_written() {
        let uid = Uid(*b"0123456789abcdef");
        let text = uid.to_string();
        assert_eq!(text, "30313233-3435-3637-3839-616263646566");
        assert_eq!(Uid::parse(&text), Some(uid));
        assert_eq!(Uid::parse(&text.to_uppercase()), Some(uid));
        for bad in ["", "3031323334353637383961626364656610", &text[..35], &text.replace('-', "_")]
        {
            assert_eq!(Uid::parse(bad), None, "{bad}");
        }
        assert_eq!(Uid::parse("3031323-33435-4637-b839-6162636465666"), None);
    }

    /// Stored nowhere but in tables' ids: it must be the same in every later release.
    #[test]
    fn a_key_has_the_same_uuid_for_ever() {
        let of = |audience, id| Uid::of_key(audience, KeyId::parse(id).unwrap());
        assert_eq!(of("shop", "key_a").to_string(), "1ff40130-2966-4180-84f2-86e33419dea8");
        assert_ne!(of("shop", "key_b"), of("shop", "key_a"));
        assert_ne!(of("bank", "key_a"), of("shop", "key_a"), "an id is one audience's");
    }
}
