//! Sessions of people who have signed in here: 256 random bits in a cookie, of which the database
//! has only the SHA-256.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use axum::http::header::{COOKIE as COOKIE_FIELD, HeaderMap, HeaderValue, USER_AGENT};
use axum::http::request::Parts;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{AuthError, Authenticator, Caller, FormToken};
use crate::core::{Digest, OrgId};
use crate::registrar::config::OidcConfig;
use crate::registrar::request::{SESSION_COOKIE, client_of};
use crate::registrar::store::{PersonId, SessionKind, SessionRow, StoreError};

/// The most characters of a browser's name to store, so that the person can recognise it.
const AGENT: usize = 200;

/// The shortest time between two notes of a session's use: each is a write.
const TOUCH_MS: u64 = 60_000;

/// A session that is about to begin.
#[derive(Clone, Debug)]
pub struct NewSession {
    pub person: PersonId,
    pub org: Option<OrgId>,
    /// How the person signed in: `bootstrap`, `oidc`.
    pub by: &'static str,
    /// At which OpenID provider.
    pub provider: Option<Box<str>>,
    /// When that was, according to the provider, in milliseconds since 1970-01-01T00:00:00Z;
    /// `None`: the provider does not say, or there is none.
    pub signed_in_ms: Option<u64>,
}

/// What a session's row stores about its sign-in.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct SessionDetail {
    by: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) provider: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signed_in_ms: Option<u64>,
}

// === impl SessionDetail ===

impl SessionDetail {
    pub(super) fn of(row: &SessionRow) -> Self {
        serde_json::from_value(row.detail.clone()).unwrap_or_default()
    }
}

// === impl Authenticator ===

impl Authenticator {
    /// Begins a session, under a new random token. Returns the value of `Set-Cookie`.
    ///
    /// # Errors
    /// The store's; no randomness.
    pub async fn begin_session(
        &self,
        parts: &Parts,
        new: NewSession,
    ) -> Result<HeaderValue, AuthError> {
        let token = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(*random::<32>()?));
        let now_ms = self.clock.now().unix_ms;
        let life = self.settings.people.session_life.as_millis() as u64;
        let agent = parts.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        let agent: String = agent.unwrap_or_default().chars().take(AGENT).collect();
        let NewSession { by, provider, signed_in_ms, .. } = new;
        let detail = SessionDetail { by: by.into(), provider, signed_in_ms };
        let row = SessionRow {
            digest: Digest::of(token.as_bytes()),
            id: BASE64_URL_SAFE_NO_PAD.encode(*random::<12>()?).into(),
            kind: SessionKind::Person,
            person: new.person,
            org: new.org,
            detail: serde_json::to_value(detail).unwrap_or_default(),
            epoch: 0,
            created_ms: now_ms,
            seen_ms: now_ms,
            ends_ms: now_ms.saturating_add(life),
            address: client_of(parts).map(|a| a.to_string()).unwrap_or_default().into(),
            agent: agent.into(),
        };
        self.store.put_session(row).await?;
        let text = Zeroizing::new(format!("{SESSION_COOKIE}={}; {ATTRIBUTES}", *token));
        let mut value = HeaderValue::try_from(&**text).map_err(|_| AuthError::Unknown)?;
        value.set_sensitive(true);
        Ok(value)
    }

    pub(super) async fn by_session(&self, parts: &Parts, token: &str) -> Result<Caller, AuthError> {
        let digest = Digest::of(token.as_bytes());
        let now_ms = self.clock.now().unix_ms;
        let row = self.store.session(digest, now_ms).await?;
        let row = row.filter(|row| row.kind == SessionKind::Person).ok_or(AuthError::Unknown)?;
        if self.is_idle(&row, now_ms) {
            self.store.end_session(&row.person, &row.id).await?;
            return Err(AuthError::Unknown);
        }
        let caller = match self.person_caller(parts, &row, FormToken::of(token)).await {
            // If the person gets a role later, they have to sign in again for it.
            Err(AuthError::NoRole) => {
                if let Err(error) = self.store.end_session(&row.person, &row.id).await {
                    tracing::warn!(%error, "the session of somebody without a role was not ended");
                }
                return Err(AuthError::NoRole);
            }
            caller => caller?,
        };
        if now_ms.saturating_sub(row.seen_ms) >= TOUCH_MS {
            // Even a database that takes no changes now does not sign people out.
            if let Err(error) = self.store.touch_session(digest, now_ms, None).await {
                tracing::warn!(%error, "the use of a session was not noted");
            }
        }
        Ok(caller)
    }

    /// Whether nobody has used it for too long.
    fn is_idle(&self, row: &SessionRow, now_ms: u64) -> bool {
        let idle = self.settings.people.session_idle.as_millis() as u64;
        now_ms.saturating_sub(row.seen_ms) > idle
    }

    /// The provider at which a session began; `None`: at none.
    ///
    /// # Errors
    /// [`AuthError::Unknown`]: a provider that is no longer configured signs nobody in.
    pub(super) fn provider_of(&self, row: &SessionRow) -> Result<Option<&OidcConfig>, AuthError> {
        let Some(name) = SessionDetail::of(row).provider else { return Ok(None) };
        let all = &self.settings.people.oidc;
        let found = all.iter().find(|p| p.name == name && p.issuer == row.person.iss);
        found.map(Some).ok_or(AuthError::Unknown)
    }

    /// Sessions of a person that open something now, the newest first. Leaves out sessions that
    /// nobody has used for too long, and tokens of components whose session has ended.
    ///
    /// # Errors
    /// The store's.
    pub async fn living_sessions(&self, id: &PersonId) -> Result<Vec<SessionRow>, StoreError> {
        let now_ms = self.clock.now().unix_ms;
        let mut found = self.store.sessions(id, now_ms).await?;
        found.retain(|row| row.kind == SessionKind::Embed || !self.is_idle(row, now_ms));
        let people = found.iter().filter(|row| row.kind == SessionKind::Person);
        let open: Vec<Box<str>> = people.map(|row| row.id.clone()).collect();
        found.retain(|row| match row.kind {
            SessionKind::Embed => {
                made_in(row).is_none_or(|made| open.iter().any(|id| **id == *made))
            }
            SessionKind::Person => true,
        });
        Ok(found)
    }

    /// Switches the session of this request to another org of its person.
    ///
    /// # Errors
    /// [`AuthError::NotFound`]: the person is not in it.
    pub async fn choose_org(
        &self,
        parts: &Parts,
        caller: &Caller,
        org: OrgId,
    ) -> Result<(), AuthError> {
        let token = token_of(&parts.headers)?.ok_or(AuthError::NoCredential)?;
        if !caller.orgs.iter().any(|member| member.org == org) {
            return Err(AuthError::NotFound);
        }
        let now_ms = self.clock.now().unix_ms;
        let digest = Digest::of(token.as_bytes());
        Ok(self.store.touch_session(digest, now_ms, Some(org)).await?)
    }
}

/// The session in which a component's token was made, if it was one of ours.
fn made_in(token: &SessionRow) -> Option<&str> {
    token.detail.get("session").and_then(serde_json::Value::as_str)
}

const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Lax";

/// Makes a browser forget the session.
pub fn clear_cookie() -> HeaderValue {
    HeaderValue::from_static("__Host-keygate=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0")
}

/// The token in the cookie.
///
/// # Errors
/// The cookie occurs twice with different values: somebody has planted one.
pub(super) fn token_of(fields: &HeaderMap) -> Result<Option<&str>, AuthError> {
    cookie(fields, SESSION_COOKIE)
}

/// The value of a cookie (RFC 6265 section 4.2.1).
pub(super) fn cookie<'r>(fields: &'r HeaderMap, name: &str) -> Result<Option<&'r str>, AuthError> {
    let mut found = None;
    for line in fields.get_all(COOKIE_FIELD) {
        // A line that is not ASCII contains no cookie of ours.
        let Ok(line) = line.to_str() else { continue };
        for pair in line.split(';') {
            let Some((is, value)) = pair.trim().split_once('=') else { continue };
            if is != name {
                continue;
            }
            match found.replace(value) {
                Some(other) if other != value => return Err(AuthError::TwoCredentials),
                _ => {}
            }
        }
    }
    Ok(found.filter(|value| !value.is_empty()))
}

/// Bytes that nobody can guess.
///
/// # Errors
/// The system has no randomness.
pub(super) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, AuthError> {
    let mut bytes = Zeroizing::new([0; N]);
    let filled = SystemRandom::new().fill(&mut *bytes);
    filled.map(|()| bytes).map_err(|_| {
        let what = "no randomness".into();
        AuthError::Store(crate::registrar::store::StoreError::Broken { what })
    })
}
