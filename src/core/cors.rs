//! Which pages of other origins may read keygate's own answers, and the answers to their preflights
//! (Fetch standard, "CORS protocol"). Imports `core::route`.

use std::time::Duration;

use http::header::{self, HeaderName};

use super::route::Pattern;

/// All rules. The most specific path wins, as with routes.
#[derive(Clone, Debug, Default)]
pub struct CorsRules {
    rules: Vec<CorsRule>,
}

/// What pages may do under one path.
#[derive(Clone, Debug)]
pub struct CorsRule {
    pub pattern: Pattern,
    pub origins: Origins,
    pub credentials: Credentials,
    /// How long a browser may keep the answer to a preflight.
    pub max_age: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// `*`. Never with credentials: the Fetch standard forbids such an answer.
    Any,
    Listed(Box<[Origin]>),
}

/// Whether pages may send cookies and the like (`Access-Control-Allow-Credentials`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    Included,
    Omitted,
}

/// An origin as a browser writes it (lower-case, without a default port), or all origins whose host
/// has one label in place of a leading `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Exact(Box<str>),
    OneLabel {
        /// `https://`
        before: Box<str>,
        /// `.example.com:8443`
        after: Box<str>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    #[error("is the origin of every sandboxed page and local file")]
    Null,
    #[error("is not an origin")]
    Syntax,
    #[error("would take every site of a top-level domain")]
    TopLevel,
    #[error("`*` stands for one whole label, at the front of the host")]
    Star,
}

/// The rule for one request, with its origin if the rule allows it.
#[derive(Clone, Copy, Debug)]
pub struct Cors<'r> {
    rule: &'r CorsRule,
    origin: Option<&'r [u8]>,
}

// === impl CorsRules ===

impl CorsRules {
    pub fn new(mut rules: Vec<CorsRule>) -> Self {
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.pattern.specificity()));
        Self { rules }
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rule for `path`. `origin`: where the request says that it is from.
    pub fn find<'r>(&'r self, path: &str, origin: Option<&'r [u8]>) -> Option<Cors<'r>> {
        let rule = self.rules.iter().find(|rule| rule.pattern.matches(path))?;
        Some(Cors { rule, origin: origin.filter(|origin| rule.origins.take(origin)) })
    }
}

// === impl Cors ===

impl Cors<'_> {
    /// Whether pages of the request's origin may read the answer.
    pub fn is_allowed(&self) -> bool {
        self.origin.is_some()
    }

    /// Fields of keygate's own answer. `exposed`: names of fields that scripts may read in addition
    /// to those that are always readable.
    pub fn answer(&self, exposed: &str, mut put: impl FnMut(HeaderName, &[u8])) {
        // Also where the origin is not allowed: a cache must not give this answer to another
        // origin.
        put(header::VARY, b"origin");
        if self.allow(&mut put) {
            put(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed.as_bytes());
        }
    }

    /// Fields of the answer to a preflight for `method` with `fields`, a list of names. Everything
    /// requested is granted: keygate judges the request itself when it arrives, and the page can
    /// then read a refusal.
    pub fn preflight(
        &self,
        method: &[u8],
        fields: Option<&[u8]>,
        mut put: impl FnMut(HeaderName, &[u8]),
    ) {
        put(header::VARY, b"origin, access-control-request-method, access-control-request-headers");
        if !self.allow(&mut put) {
            return;
        }
        put(header::ACCESS_CONTROL_ALLOW_METHODS, method);
        if let Some(fields) = fields.filter(|list| is_list_of_names(list)) {
            put(header::ACCESS_CONTROL_ALLOW_HEADERS, fields);
        }
        let seconds = self.rule.max_age.as_secs();
        put(header::ACCESS_CONTROL_MAX_AGE, itoa::Buffer::new().format(seconds).as_bytes());
    }

    fn allow(&self, put: &mut impl FnMut(HeaderName, &[u8])) -> bool {
        let Some(origin) = self.origin else { return false };
        let named = if self.rule.origins == Origins::Any { b"*" } else { origin };
        put(header::ACCESS_CONTROL_ALLOW_ORIGIN, named);
        if self.rule.credentials == Credentials::Included {
            put(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, b"true");
        }
        true
    }
}

/// RFC 9110 tokens, commas and spaces, as browsers write the list. Longer lists are not repeated.
fn is_list_of_names(list: &[u8]) -> bool {
    const LONGEST: usize = 4096;
    let of_list = |b: &u8| {
        b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b) || matches!(b, b',' | b' ')
    };
    !list.is_empty() && list.len() <= LONGEST && list.iter().all(of_list)
}

// === impl Origins ===

impl Origins {
    fn take(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(list) => list.iter().any(|known| known.is(origin)),
        }
    }
}

// === impl Origin ===

impl Origin {
    /// `https://app.example`, `http://localhost:3000` or `https://*.example.com`.
    ///
    /// # Errors
    /// The text is not such an origin, or would allow more than anybody intends.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        if text == "null" {
            return Err(OriginError::Null);
        }
        let text = text.to_ascii_lowercase();
        let (scheme, authority) = text.split_once("://").ok_or(OriginError::Syntax)?;
        let of_scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if scheme.is_empty() || !scheme.bytes().all(of_scheme) {
            return Err(OriginError::Syntax);
        }
        let default = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        let authority = match authority.strip_suffix(default) {
            Some(host) if !default.is_empty() => host,
            _ => authority,
        };
        let of_authority =
            |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]".contains(&b) || b == b'*';
        if authority.is_empty() || !authority.bytes().all(of_authority) {
            return Err(OriginError::Syntax);
        }
        let before = format!("{scheme}://").into();
        match authority.strip_prefix("*.") {
            _ if !authority.contains('*') => {
                Ok(Self::Exact(format!("{scheme}://{authority}").into()))
            }
            Some(rest) if !rest.contains('*') && !rest.is_empty() => {
                let host = rest.split(':').next().unwrap_or_default();
                match host.contains('.') || host == "localhost" {
                    true => Ok(Self::OneLabel { before, after: format!(".{rest}").into() }),
                    false => Err(OriginError::TopLevel),
                }
            }
            _ => Err(OriginError::Star),
        }
    }

    fn is(&self, origin: &[u8]) -> bool {
        match self {
            Self::Exact(known) => known.as_bytes() == origin,
            Self::OneLabel { before, after } => origin
                .strip_prefix(before.as_bytes())
                .and_then(|rest| rest.strip_suffix(after.as_bytes()))
                .is_some_and(|label| {
                    let of_label = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
                    !label.is_empty() && label.iter().all(of_label)
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        for (rule, origin, want) in [
            ("https://app.example", "https://app.example", true),
            ("https://APP.example:443", "https://app.example", true),
            ("https://app.example", "https://app.example:443", false),
            ("https://app.example", "http://app.example", false),
            ("https://app.example", "https://app.example:8443", false),
            ("https://app.example", "https://app.example.evil.test", false),
            ("https://app.example", "https://xapp.example", false),
            ("https://app.example", "null", false),
            ("https://app.example", "", false),
            ("http://localhost:3000", "http://localhost:3000", true),
            ("capacitor://localhost", "capacitor://localhost", true),
            ("http://[::1]:3000", "http://[::1]:3000", true),
            ("https://*.example.com", "https://a.example.com", true),
            ("https://*.example.com", "https://a-1.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("https://*.example.com", "https://.example.com", false),
            ("https://*.example.com", "https://a.b.example.com", false),
            ("https://*.example.com", "https://a.example.com:8443", false),
            ("https://*.example.com", "https://evil.test/.example.com", false),
            ("https://*.example.com", "https://evil.test#.example.com", false),
            ("https://*.example.com", "https://a.example.com.evil.test", false),
            ("https://*.example.com", "https://evilexample.com", false),
            ("https://*.example.com:8443", "https://a.example.com:8443", true),
            ("http://*.localhost:3000", "http://a.localhost:3000", true),
        ] {
            assert_eq!(Origin::parse(rule).unwrap().is(origin.as_bytes()), want, "{rule} {origin}");
        }
        for (text, want) in [
            ("null", OriginError::Null),
            ("app.example", OriginError::Syntax),
            ("https://app.example/", OriginError::Syntax),
            ("https://me@app.example", OriginError::Syntax),
            ("https://caf\u{e9}.example", OriginError::Syntax),
            ("https://", OriginError::Syntax),
            ("://a", OriginError::Syntax),
            ("https://*.com", OriginError::TopLevel),
            ("https://*", OriginError::Star),
            ("https://a.*.example.com", OriginError::Star),
            ("https://*a.example.com", OriginError::Star),
            ("https://*.*.example.com", OriginError::Star),
        ] {
            assert_eq!(Origin::parse(text), Err(want), "{text}");
        }
    }

    #[test]
    fn the_most_specific_path_wins() {
        let rule = |path: &str, origin: &str| CorsRule {
            pattern: Pattern::parse(path).unwrap(),
            origins: Origins::Listed([Origin::parse(origin).unwrap()].into()),
            credentials: Credentials::Omitted,
            max_age: Duration::ZERO,
        };
        let rules = CorsRules::new(vec![
            rule("/*", "https://all"),
            rule("/v1/{id}", "https://one"),
            rule("/v1/*", "https://v1"),
            rule("/v1/me", "https://me"),
            rule("/v1/{id}/x", "https://x"),
        ]);
        for (path, origin) in [
            ("/", "https://all"),
            ("/v2", "https://all"),
            ("/v1", "https://v1"),
            ("/v1/", "https://v1"),
            ("/v1/a", "https://one"),
            ("/v1/me", "https://me"),
            ("/v1/%6de", "https://me"),
            ("/v1/me/", "https://me"),
            ("/v1/me/x", "https://x"),
            ("/v1/me/y", "https://v1"),
        ] {
            let found = rules.find(path, Some(origin.as_bytes())).unwrap();
            assert!(found.is_allowed(), "{path}");
        }
    }
}
