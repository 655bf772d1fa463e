//! Which header fields belong to whom, and so which of them are removed from requests. The fixed
//! ones are here, and the configuration adds others. One look-up per field name determines what
//! happens to it: `proxy::request::facts` collects the fields to remove, `proxy::request::rewrite`
//! removes them.

/// What a field means to keygate. Decides what happens to it on the way to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldClass {
    /// `Connection` itself.
    Connection,
    /// Its whole value is a credential for keygate: removed whenever one was used or tried.
    Credential,
    /// `Authorization`: for keygate only if scheme and prefix match.
    Authorization,
    /// `Cookie`: only our own cookie in it is ours.
    Cookie,
    /// `Expect`.
    Expect,
    /// `Forwarded`, `X-Forwarded-*`, `X-Real-IP` and the like: claims by strangers. keygate writes
    /// its own.
    Forwarding,
    /// `Content-Length`, `Transfer-Encoding`: set again for the upstream connection.
    Framing,
    Host,
    /// Other hop-by-hop fields (RFC 9110 §7.6.1) and `Proxy-Authorization`.
    HopByHop,
    /// Set by keygate alone. Every spelling from outside is removed.
    Identity,
    /// Names the URL or method again (`X-Original-URL`, `X-HTTP-Method-Override`).
    Override,
    /// Forwarded unchanged.
    Plain,
    /// `Sec-WebSocket-Protocol`, when it is a carrier.
    Subprotocol,
    /// `TE`: only `trailers` is kept, and only for HTTP/2.
    Te,
    /// `Upgrade`, `HTTP2-Settings`.
    Upgrade,
}

/// The fields that the configuration assigns to keygate, and the fixed ones, by folded name.
#[derive(Clone, Debug)]
pub struct FieldTable {
    /// Indexed by the length of the name. No name here is longer than [`MAX_NAME`].
    by_length: Vec<Vec<(Box<[u8]>, FieldClass)>>,
}

/// Longest configured field name. Longer names from clients are `Plain`.
pub const MAX_NAME: usize = 64;

const FIXED: &[(&str, FieldClass)] = &[
    ("authorization", FieldClass::Authorization),
    ("client-ip", FieldClass::Forwarding),
    ("connection", FieldClass::Connection),
    ("content-length", FieldClass::Framing),
    ("cookie", FieldClass::Cookie),
    ("expect", FieldClass::Expect),
    ("forwarded", FieldClass::Forwarding),
    ("host", FieldClass::Host),
    ("http2-settings", FieldClass::Upgrade),
    ("keep-alive", FieldClass::HopByHop),
    ("proxy-authenticate", FieldClass::HopByHop),
    ("proxy-authorization", FieldClass::HopByHop),
    ("proxy-connection", FieldClass::HopByHop),
    ("te", FieldClass::Te),
    ("trailer", FieldClass::HopByHop),
    ("transfer-encoding", FieldClass::Framing),
    ("true-client-ip", FieldClass::Forwarding),
    ("upgrade", FieldClass::Upgrade),
    ("x-client-ip", FieldClass::Forwarding),
    ("x-cluster-client-ip", FieldClass::Forwarding),
    ("x-forwarded", FieldClass::Forwarding),
    ("x-http-method", FieldClass::Override),
    ("x-http-method-override", FieldClass::Override),
    ("x-method-override", FieldClass::Override),
    ("x-original-forwarded-for", FieldClass::Forwarding),
    ("x-original-host", FieldClass::Override),
    ("x-original-uri", FieldClass::Override),
    ("x-original-url", FieldClass::Override),
    ("x-real-ip", FieldClass::Forwarding),
    ("x-rewrite-url", FieldClass::Override),
];

// === impl FieldTable ===

impl FieldTable {
    /// `owned` are the identity and credential names of the configuration, in any spelling. They
    /// take precedence over the fixed ones.
    pub fn new<'a>(owned: impl IntoIterator<Item = (&'a str, FieldClass)>) -> Self {
        let mut table = Self { by_length: vec![Vec::new(); MAX_NAME + 1] };
        for (name, field) in owned.into_iter().chain(FIXED.iter().copied()) {
            let folded: Box<[u8]> = name.bytes().map(fold).collect();
            if let Some(bucket) = table.by_length.get_mut(folded.len())
                && bucket.iter().all(|(known, _)| *known != folded)
            {
                bucket.push((folded, field));
            }
        }
        table
    }

    /// The configured or fixed name that `name` is a spelling of, folded.
    pub fn known(&self, name: &[u8]) -> Option<&str> {
        let bucket = self.by_length.get(name.len())?;
        let same = |known: &[u8]| known.iter().zip(name).all(|(k, n)| *k == fold(*n));
        let (known, _) = bucket.iter().find(|(known, _)| same(known))?;
        std::str::from_utf8(known).ok()
    }

    /// What the field `name` is. Names are compared lower-cased with every non-alphanumeric as `-`
    /// (oauth2-proxy CVE-2025-64484: `X_Forwarded_User` passed where `X-Forwarded-User` did not).
    pub fn classify(&self, name: &[u8]) -> FieldClass {
        let Some(bucket) = self.by_length.get(name.len()) else {
            return if has_forwarded_prefix(name) {
                FieldClass::Forwarding
            } else {
                FieldClass::Plain
            };
        };
        let same = |known: &[u8]| known.iter().zip(name).all(|(k, n)| *k == fold(*n));
        match bucket.iter().find(|(known, _)| same(known)) {
            Some((_, field)) => *field,
            None if has_forwarded_prefix(name) => FieldClass::Forwarding,
            None => FieldClass::Plain,
        }
    }
}

/// Converts to lower case, and everything except letters and digits to `-`.
const fn fold(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' | b'0'..=b'9' | b'-' => byte,
        b'A'..=b'Z' => byte + 32,
        _ => b'-',
    }
}

fn has_forwarded_prefix(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-forwarded-";
    matches!(name.first(), Some(b'x' | b'X'))
        && name.len() > PREFIX.len()
        && name.iter().zip(PREFIX).all(|(n, p)| fold(*n) == *p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_found() {
        let table = FieldTable::new([
            ("X-Org-Id", FieldClass::Identity),
            ("x-api-key", FieldClass::Credential),
        ]);
        let cases = [
            ("x-org-id", FieldClass::Identity),
            ("X-ORG-ID", FieldClass::Identity),
            ("x_org_id", FieldClass::Identity),
            ("x.org!id", FieldClass::Identity),
            ("x_api-key", FieldClass::Credential),
            ("x-api-keys", FieldClass::Plain),
            ("x-forwarded-for", FieldClass::Forwarding),
            ("x_forwarded_user", FieldClass::Forwarding),
            ("x-forwarded", FieldClass::Forwarding),
            ("x-forwarder", FieldClass::Plain),
            ("transfer_encoding", FieldClass::Framing),
            ("content-type", FieldClass::Plain),
            ("", FieldClass::Plain),
        ];
        for (name, want) in cases {
            assert_eq!(table.classify(name.as_bytes()), want, "{name}");
        }
        let long = format!("x-forwarded-{}", "a".repeat(100));
        assert_eq!(table.classify(long.as_bytes()), FieldClass::Forwarding);
    }

    #[test]
    fn configured_names_win() {
        let table = FieldTable::new([("X-Forwarded-User", FieldClass::Identity)]);
        assert_eq!(table.classify(b"x-forwarded-user"), FieldClass::Identity);
    }
}
