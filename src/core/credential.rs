//! Where a credential is read, and whose it is.

use http::HeaderName;

/// One carrier of credentials, as configured. The order in the configuration says only which
/// challenge comes first: two filled carriers in one request are refused, never ranked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `Authorization: Basic`.
    Basic { form: BasicForm, prefixes: Prefixes },
    /// `Authorization: Bearer`; the scheme is case-insensitive (RFC 9110 §11.1).
    Bearer { prefixes: Prefixes },
    /// One cookie; the others travel on.
    Cookie { name: Box<str>, prefixes: Prefixes },
    /// A field of its own.
    Header { name: HeaderName, prefixes: Prefixes },
    /// A pair in two fields.
    Pair { id: HeaderName, secret: HeaderName },
    /// A query parameter; its name is compared after percent-decoding.
    Query { name: Box<str>, prefixes: Prefixes },
    /// An entry of `Sec-WebSocket-Protocol` that begins with `marker`; the rest of it is the key.
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

/// A credential in this carrier is ours when it begins with one of these; with none, always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes(Box<[Box<[u8]>]>);

// === impl Prefixes ===

impl Prefixes {
    pub fn new<'a>(prefixes: impl IntoIterator<Item = &'a str>) -> Self {
        Self(prefixes.into_iter().map(|p| p.as_bytes().into()).collect())
    }

    pub fn own(&self, credential: &[u8]) -> bool {
        self.0.is_empty() || self.0.iter().any(|p| credential.starts_with(p))
    }
}
