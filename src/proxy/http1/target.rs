//! The target of a request, as its client wrote it. [`http::Uri`] cannot hold a query with `"`, `<`
//! or `>`, which some clients send raw, and silently drops a fragment. So a target becomes a `Uri`
//! only where hyper writes the request.

#[cfg(test)]
mod tests;

use std::rc::Rc;

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

/// A request's target (RFC 9112 section 3.2). A query may hold a key.
#[derive(Clone)]
pub(crate) struct RequestTarget {
    /// Path and query. Without white space or control characters, so it cannot end a line.
    text: Rc<str>,
    /// Bytes of the path. The text ends after them, or a `?` follows.
    path_length: usize,
    /// From an absolute target. Over HTTP/2: `:scheme` and `:authority`.
    scheme: Option<Scheme>,
    authority: Option<Authority>,
}

/// Why a target cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadTarget {
    Form,
    Fragment,
    /// For HTTP/2 services, upgrades and preserved case.
    NotForHyper,
    Path,
}

opaque!(RequestTarget);

// === impl RequestTarget ===

impl RequestTarget {
    /// The text between method and version in the request line. The forms are those of
    /// [`http::Uri`], but a query may have any character that is visible or not ASCII.
    ///
    /// # Errors
    /// [`BadTarget`]: the target has another form, or a character that its place does not allow.
    pub(crate) fn parse(text: &str) -> Result<Self, BadTarget> {
        let mut path_length = text.len();
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                b'?' => {
                    path_length = at;
                    break;
                }
                b'#' => return Err(BadTarget::Fragment),
                b'<' | b'>' | b'`' => return Err(BadTarget::Path),
                0..=b' ' | 0x7f => return Err(BadTarget::Form),
                _ => {}
            }
        }
        let query = text.get(path_length..).unwrap_or_default();
        if query.bytes().any(|b| matches!(b, b'#' | 0..=b' ' | 0x7f)) {
            let is_fragment = query.contains('#');
            return Err(if is_fragment { BadTarget::Fragment } else { BadTarget::Form });
        }
        if text.starts_with('/') {
            return Ok(Self { text: text.into(), path_length, scheme: None, authority: None });
        }
        // An absolute target, an authority or `*`.
        let uri: Uri = text
            .get(..path_length)
            .and_then(|before| before.parse().ok())
            .ok_or(BadTarget::Form)?;
        let is_bare = uri.scheme_str().is_none_or(str::is_empty);
        if is_bare && (!query.is_empty() || uri.path() == "/") {
            return Err(BadTarget::Form);
        }
        let mut target = Self::from(uri);
        target.set_query(query.get(1..));
        Ok(target)
    }

    /// A target that could not be read. It has no path.
    pub(crate) fn unread() -> Self {
        Self { text: Rc::default(), path_length: 0, scheme: None, authority: None }
    }

    /// Path and query.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Empty for an authority alone.
    pub(crate) fn path(&self) -> &str {
        self.text.get(..self.path_length).unwrap_or_default()
    }

    pub(crate) fn query(&self) -> Option<&str> {
        self.text.get(self.path_length + 1..)
    }

    pub(crate) fn scheme(&self) -> Option<&Scheme> {
        self.scheme.as_ref()
    }

    pub(crate) fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// Replaces the query by `query`, which is a part of it. Nothing else changes.
    pub(crate) fn set_query(&mut self, query: Option<&str>) {
        self.text = match query {
            Some(query) => [self.path(), "?", query].concat().into(),
            None => self.path().into(),
        };
    }

    /// Sets the parts that HTTP/2 sends.
    pub(crate) fn set_origin(&mut self, scheme: Scheme, authority: Authority) {
        (self.scheme, self.authority) = (Some(scheme), Some(authority));
    }

    /// Leaves what HTTP/1.1 sends to a server: path and query alone.
    pub(crate) fn clear_origin(&mut self) {
        (self.scheme, self.authority) = (None, None);
    }

    /// Whether [`RequestTarget::to_uri`] can succeed.
    pub(crate) fn is_uri(&self) -> bool {
        let is_odd = |b| matches!(b, b'"' | b'<' | b'>');
        !self.query().unwrap_or_default().bytes().any(is_odd)
    }

    /// The form for hyper.
    ///
    /// # Errors
    /// [`BadTarget::NotForHyper`]: its query has a character that hyper cannot send.
    pub(crate) fn to_uri(&self) -> Result<Uri, BadTarget> {
        let mut parts = http::uri::Parts::default();
        (parts.scheme, parts.authority) = (self.scheme.clone(), self.authority.clone());
        if !self.text.is_empty() {
            let text = PathAndQuery::try_from(&*self.text).map_err(|_| BadTarget::NotForHyper)?;
            parts.path_and_query = Some(text);
        }
        Uri::from_parts(parts).map_err(|_| BadTarget::NotForHyper)
    }
}

impl From<Uri> for RequestTarget {
    fn from(uri: Uri) -> Self {
        let path_length = uri.path().len();
        // For an empty path, only `path` says that it is `/`.
        let text = match uri.query() {
            Some(query) => [uri.path(), "?", query].concat().into(),
            None => uri.path().into(),
        };
        let parts = uri.into_parts();
        Self { text, path_length, scheme: parts.scheme, authority: parts.authority }
    }
}

impl BadTarget {
    /// The reason, for the refusal.
    pub(crate) const fn why(self) -> &'static str {
        match self {
            Self::Form => "the target has no known form, or a character that has to be encoded",
            Self::Fragment => "the target has a fragment (`#`)",
            Self::Path => "the path has `<`, `>` or a backtick, which have to be encoded",
            Self::NotForHyper => {
                "the query has `\"`, `<` or `>`, which cannot be sent on here unless encoded"
            }
        }
    }
}
