//! Requests that another site has made a browser send. A cookie comes with them unasked, so a cookie
//! alone proves nothing for a request that changes something: the browser has to say that it came from
//! our own page, and forms of the page carry a token besides. Keys and tokens need none of this, since
//! no browser adds them by itself.

use std::fmt;

use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::{AuthError, Caller};
use crate::core::Digest;
use crate::registrar::config::{AdminToml, origin_of};

/// Derived from the cookie, so that a form of one session is of no use in another. Nothing is stored.
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

/// Refuses what a cookie authenticates, changes something, and did not come from a page of ours.
pub(super) fn check(parts: &Parts, caller: &Caller, settings: &AdminToml) -> Result<(), AuthError> {
    let is_safe = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    if is_safe || !caller.by.is_cookie() {
        return Ok(());
    }
    same_origin(&parts.headers, settings)
}

/// Whether the browser says that a page of ours has sent the request.
///
/// `Sec-Fetch-Site` counts where it is there (Fetch Metadata, no script can set it); older browsers
/// send `Origin` alone with every POST.
///
/// # Errors
/// [`AuthError::CrossSite`], also where neither is there: no browser leaves out both.
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

/// Whether a person's browser has gone to the address itself, as far as it says so: no image, script or
/// frame of a page has asked for it.
pub(super) fn is_navigation(fields: &HeaderMap) -> bool {
    let is = |name: &str, want: &str| {
        let mut all = fields.get_all(name).iter();
        // Older browsers say nothing.
        all.all(|value| value.as_bytes() == want.as_bytes())
    };
    is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document")
}

/// Whether `origin` is that of the page: as configured, or, where nothing is, the host that the
/// request went to.
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
