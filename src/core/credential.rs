//! Where a credential is read, and whose it is.

use http::HeaderName;

/// One carrier of credentials, as configured. The order in the configuration only determines which
/// challenge is first: two filled carriers in one request are refused, never ranked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// `Authorization: Basic`.
    Basic { form: BasicForm, prefixes: Prefixes },
    /// `Authorization: Bearer`. The scheme is case-insensitive (RFC 9110 §11.1).
    Bearer { prefixes: Prefixes },
    /// One cookie. The others are forwarded.
    Cookie { name: Box<str>, prefixes: Prefixes },
    /// A field of its own.
    Header { name: HeaderName, prefixes: Prefixes },
    /// A pair in two fields.
    Pair { id: HeaderName, secret: HeaderName },
    /// A query parameter. Its name is compared after percent-decoding.
    Query { name: Box<str>, prefixes: Prefixes },
    /// An entry of `Sec-WebSocket-Protocol` that begins with `marker`. The rest of it is the key.
    Subprotocol { marker: Box<str> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasicForm {
    /// The key is the password, the user name is ignored.
    KeyAsPassword,
    /// The key is the user name, the password is empty.
    KeyAsUser,
    /// Pair id and secret.
    Pair,
}

/// The half of a pair that the request lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingHalf<'r> {
    /// `Authorization: Basic` has no password.
    BasicPassword,
    /// `Authorization: Basic` has no user name.
    BasicUser,
    /// The field of this name.
    Field(&'r str),
}

/// A credential in this carrier is for keygate if it begins with one of these. Without prefixes, it
/// always is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes(Box<[Box<[u8]>]>);

// === impl MissingHalf ===

impl std::fmt::Display for MissingHalf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BasicPassword => f.write_str("the password of Authorization: Basic"),
            Self::BasicUser => f.write_str("the user name of Authorization: Basic"),
            Self::Field(name) => write!(f, "the field {name}"),
        }
    }
}

// === impl Prefixes ===

impl Prefixes {
    pub fn new<'a>(prefixes: impl IntoIterator<Item = &'a str>) -> Self {
        Self(prefixes.into_iter().map(|p| p.as_bytes().into()).collect())
    }

    pub fn own(&self, credential: &[u8]) -> bool {
        self.0.is_empty() || self.0.iter().any(|p| credential.starts_with(p))
    }

    /// Whether `value` begins with one of the prefixes, or contains text that looks like a key with
    /// such a prefix: in quotes, after a word, in a list. Without prefixes it is always false.
    ///
    /// A prefix in the middle of a longer token does not count: three letters and `_` are in many a
    /// JWT.
    pub fn found_in(&self, value: &[u8]) -> bool {
        const SHORTEST: usize = 16;
        let of_token = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b);
        let of_key = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let mut before = None;
        for (at, byte) in value.iter().enumerate() {
            let rest = value.get(at..).unwrap_or_default();
            if !before.replace(*byte).is_some_and(of_token)
                && self.0.iter().any(|p| {
                    rest.strip_prefix(&**p)
                        .and_then(|r| r.get(..SHORTEST))
                        .is_some_and(|secret| secret.iter().all(of_key))
                })
            {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_within_a_value() {
        let prefixes = Prefixes::new(["wa_", "kg_live_"]);
        let key = "wa_0123456789abcdefgh";
        for (value, want) in [
            (key.to_owned(), true),
            (format!("\"{key}\""), true),
            (format!("Token {key}"), true),
            (format!("Token token={key}, a=b"), true),
            (format!("x,{key}"), true),
            (format!("Bearer\u{a0}{key}"), true),
            ("kg_live_0123456789abcdef".to_owned(), true),
            ("wa_short".to_owned(), false),
            ("Digest username=\"wa_bob\"".to_owned(), false),
            (format!("eyJhbGciOiJ.{key}.x"), false),
            (format!("e30{key}"), false),
            (format!("a/{key}"), false),
            (String::new(), false),
        ] {
            assert_eq!(prefixes.found_in(value.as_bytes()), want, "{value}");
        }
        assert!(!Prefixes::default().found_in(key.as_bytes()));
    }
}
