//! Requests that another site made a browser send. The browser adds a cookie to them unasked, so a
//! cookie alone proves nothing for a request that changes something. The browser also has to say
//! that the request came from our own page, and forms of the page carry a token as well. Keys and
//! tokens need none of this, because no browser adds them of its own accord.

use std::fmt;

use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::{AuthError, Caller};
use crate::core::Digest;
use crate::registrar::config::{AdminToml, origin_of};

/// Derived from the cookie, so that a form of one session is useless in another. Nothing is stored.
#[derive(Clone)]
pub struct FormToken(Digest);

// === impl FormToken ===

impl FormToken {
    pub(super) fn of(cookie: &str) -> Self {
        Self(Digest::of(format!("keygate form\0{cookie}").as_bytes()))
    }

    /// For a hidden field of a form.
    pub fn text(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0.0)
    }

    pub(super) fn matches(&self, shown: &str) -> bool {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(shown).ok();
        let shown = bytes.and_then(|bytes| bytes.try_into().ok()).map(Digest);
        shown.is_some_and(|shown| shown.matches(&self.0))
    }
}

impl fmt::Debug for FormToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FormToken(..)")
    }
}

/// Refuses a request that a cookie authenticates and that changes something, unless it came from
/// our page.
pub(super) fn check(parts: &Parts, caller: &Caller, settings: &AdminToml) -> Result<(), AuthError> {
    let is_safe = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    if is_safe || !caller.by.is_cookie() {
        return Ok(());
    }
    same_origin(&parts.headers, settings)
}

/// Whether the browser says that our page has sent the request.
///
/// `Sec-Fetch-Site` counts if it is present (Fetch Metadata, no script can set it). Older browsers
/// send only `Origin`, with every POST.
///
/// # Errors
/// [`AuthError::CrossSite`], also if both are missing: no browser leaves out both.
pub(super) fn same_origin(fields: &HeaderMap, settings: &AdminToml) -> Result<(), AuthError> {
    let one = |name: &str| {
        let mut all = fields.get_all(name).iter();
        let first = all.next().map(|value| value.to_str().unwrap_or("?"));
        if all.next().is_some() { Some("?") } else { first }
    };
    let origin = one(ORIGIN.as_str());
    let is_same = match (one("sec-fetch-site"), origin) {
        (Some("same-origin"), None) => true,
        (Some("same-origin"), Some(origin)) => origin != "null",
        (Some(_), _) => false,
        (None, Some(origin)) => is_ours(origin, one(HOST.as_str()), settings),
        (None, None) => false,
    };
    if is_same { Ok(()) } else { Err(AuthError::CrossSite) }
}

/// Whether a person's browser has navigated to the address, as far as it says so: the request is
/// not for an image, script or frame of a page.
pub(super) fn is_navigation(fields: &HeaderMap) -> bool {
    let is = |name: &str, want: &str| {
        let mut all = fields.get_all(name).iter();
        // Older browsers send none of these fields.
        all.all(|value| value.as_bytes() == want.as_bytes())
    };
    is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document")
}

/// Whether `origin` is that of the page: the configured origin or, if none is configured, the host
/// that the request went to.
fn is_ours(origin: &str, host: Option<&str>, settings: &AdminToml) -> bool {
    let origin = origin_of(origin);
    let configured = settings.public_url.as_deref().map(origin_of);
    if settings.people.origins.iter().any(|other| origin_of(other) == origin) {
        return true;
    }
    match (configured, host) {
        (Some(ours), _) => ours == origin,
        (None, Some(host)) => ["http", "https"]
            .iter()
            .any(|scheme| origin_of(&format!("{scheme}://{host}")) == origin),
        (None, None) => false,
    }
}
