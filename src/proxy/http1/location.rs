//! A service that does not know about the gate names its own address in `Location`. Clients would
//! follow it past the gate, or nowhere. If a value names the address that keygate connects to,
//! keygate shortens it to its path, which every client resolves against the address that it has
//! used (RFC 9110 section 10.2.2). keygate never derives anything from the client's Host.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderValue};

/// Scheme and authority of `upstream.url`.
#[derive(Debug)]
pub(crate) struct OwnAddress {
    scheme: &'static str,
    default_port: u16,
    host: Box<str>,
    port: u16,
}

/// Shortens the fields of a map.
pub(crate) fn cut_all(headers: &mut HeaderMap, own: Option<&OwnAddress>) {
    let Some(own) = own else { return };
    for (name, value) in headers.iter_mut() {
        if is_location(name.as_str().as_bytes())
            && let Some(cut) = own.cut(value.as_bytes())
            && let Ok(cut) = HeaderValue::from_bytes(&cut)
        {
            *value = cut;
        }
    }
}

/// Whether the field gives a location.
pub(crate) fn is_location(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(header::LOCATION.as_str().as_bytes())
        || name.eq_ignore_ascii_case(header::CONTENT_LOCATION.as_str().as_bytes())
}

// === impl OwnAddress ===

impl OwnAddress {
    pub(crate) fn new(scheme: &'static str, default_port: u16, host: Box<str>, port: u16) -> Self {
        Self { scheme, default_port, host, port }
    }

    /// Path, query and fragment of a value that names this address. `None`: the value stays as it
    /// is.
    pub(crate) fn cut<'v>(&self, value: &'v [u8]) -> Option<Cow<'v, [u8]>> {
        let (scheme, rest) = value.split_at_checked(self.scheme.len())?;
        let rest = rest.strip_prefix(b"://")?;
        let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at_checked(end)?;
        if !scheme.eq_ignore_ascii_case(self.scheme.as_bytes()) || !self.is(authority) {
            return None;
        }
        match rest.first() {
            Some(b'/') if begins_authority(rest) => None,
            Some(b'/') => Some(rest.into()),
            // An empty path is `/` (RFC 3986 section 6.2.3).
            Some(_) | None => Some([b"/", rest].concat().into()),
        }
    }

    fn is(&self, authority: &[u8]) -> bool {
        let (host, port) = match authority {
            [b'[', rest @ ..] => match rest.iter().position(|b| *b == b']') {
                Some(end) => rest.split_at(end),
                None => return false,
            },
            _ => authority
                .split_at(authority.iter().position(|b| *b == b':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(b"]").unwrap_or(port) {
            [] | [b':'] => Some(self.default_port),
            [b':', digits @ ..] if digits.iter().all(u8::is_ascii_digit) => {
                std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok())
            }
            _ => None,
        };
        port == Some(self.port) && host.eq_ignore_ascii_case(self.host.as_bytes())
    }
}

/// Whether a browser would read this path as `//host`: browsers treat `\` as `/`, and drop tabs and
/// line ends wherever they are (URL Standard, "basic URL parser").
fn begins_authority(path: &[u8]) -> bool {
    let mut seen = path.iter().skip(1).filter(|b| !matches!(b, b'\t' | b'\r' | b'\n'));
    matches!(seen.next(), Some(b'/' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(scheme: &'static str, host: &str, port: u16) -> OwnAddress {
        let default_port = if scheme == "https" { 443 } else { 80 };
        OwnAddress { scheme, default_port, host: host.into(), port }
    }

    #[test]
    fn what_is_cut_and_what_stays() {
        let loopback = own("http", "127.0.0.1", 9000);
        let named = own("http", "app", 80);
        let secure = own("https", "app.svc", 443);
        let six = own("http", "::1", 9000);
        let cases: &[(&OwnAddress, &str, Option<&str>)] = &[
            (&loopback, "http://127.0.0.1:9000/a?b", Some("/a?b")),
            (&loopback, "HTTP://127.0.0.1:9000/a/b?c=d#e", Some("/a/b?c=d#e")),
            (&loopback, "http://127.0.0.1:9000", Some("/")),
            (&loopback, "http://127.0.0.1:9000/", Some("/")),
            (&loopback, "http://127.0.0.1:9000?b", Some("/?b")),
            (&loopback, "http://127.0.0.1:9000#f", Some("/#f")),
            (&loopback, "http://127.0.0.1:9000/a//b", Some("/a//b")),
            (&loopback, "http://127.0.0.1:9000/caf\u{e9}", Some("/caf\u{e9}")),
            (
                &loopback,
                "http://127.0.0.1:9000/?u=http://127.0.0.1:9000/x",
                Some("/?u=http://127.0.0.1:9000/x"),
            ),
            (&named, "http://APP/a", Some("/a")),
            (&named, "http://app:80/a", Some("/a")),
            (&named, "http://app:/a", Some("/a")),
            (&secure, "https://app.svc/a", Some("/a")),
            (&secure, "https://app.svc:443/a", Some("/a")),
            (&six, "http://[::1]:9000/a", Some("/a")),
            // Another authority, scheme or form.
            (&loopback, "/a?b", None),
            (&loopback, "a", None),
            (&loopback, "", None),
            (&loopback, "http:", None),
            (&loopback, "https://127.0.0.1:9000/a", None),
            (&loopback, "http://127.0.0.1/a", None),
            (&loopback, "http://127.0.0.1:9001/a", None),
            (&loopback, "http://127.0.0.1:90000/a", None),
            (&loopback, "http://127.0.0.1:+9000/a", None),
            (&loopback, "http://127.0.0.1:9000.evil.example/a", None),
            (&loopback, "http://127.0.0.1:9000\\evil.example/a", None),
            (&loopback, "http://evil.example/http://127.0.0.1:9000/", None),
            (&loopback, "//127.0.0.1:9000/a", None),
            (&loopback, "http:/127.0.0.1:9000/a", None),
            (&secure, "https://app.svc.evil.example/", None),
            (&six, "http://[::1/a", None),
            (&six, "http://[::1]x:9000/a", None),
            // User information.
            (&loopback, "http://me@127.0.0.1:9000/a", None),
            (&loopback, "http://me:pw@127.0.0.1:9000/a", None),
            (&loopback, "http://127.0.0.1:9000@evil.example/a", None),
            // If shortened, these would lead elsewhere.
            (&loopback, "http://127.0.0.1:9000//evil.example/", None),
            (&loopback, "http://127.0.0.1:9000/\\evil.example/", None),
            (&loopback, "http://127.0.0.1:9000/\t/evil.example/", None),
            (&loopback, "http://127.0.0.1:9000/\t\t\\evil.example/", None),
        ];
        for (own, value, want) in cases {
            let cut = own.cut(value.as_bytes());
            assert_eq!(cut.as_deref(), want.map(str::as_bytes), "{value:?}");
        }
    }
}
