//! The first way in, and the last: a link that somebody makes on the host. It is good once, for 15
//! minutes. Without a link nothing is open.
//!
//! The token is in the fragment, which browsers send to nobody: it appears in no log and no
//! Referer. The page that the link opens posts the token when somebody presses the button, so that
//! a preview of the link does not use it up.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use axum::http::HeaderValue;
use axum::http::request::Parts;

use super::session::random;
use super::{AuthError, Authenticator, NewSession};
use crate::core::{Digest, OrgId};
use crate::manage::operation::may::PersonRole;
use crate::registrar::request::channel_of;
use crate::registrar::store::{
    AuditEvent, BOOTSTRAP, MemberChange, Person, PersonId, SignIn, Store, StoreActor,
};

/// Path of the page that takes the token.
pub const SIGN_IN: &str = "/sign-in";

/// How long an unused link is good.
const LIFE_MS: u64 = 15 * 60 * 1000;

/// The person that a link is for.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct BootstrapFor {
    /// The person's name: somebody with the same name later is the same person again.
    pub name: Box<str>,
    /// `None`: an operator.
    pub org: Option<String>,
    pub role: String,
    /// Who made the link, for the audit line.
    pub by: Box<str>,
}

/// Stores a new sign-in, and makes the link that uses it up. `url`: the address at which people
/// reach the service.
///
/// # Errors
/// The store's; no randomness.
pub async fn bootstrap_link(
    store: &dyn Store,
    url: &str,
    wanted: &BootstrapFor,
    now_ms: u64,
) -> Result<Zeroizing<String>, AuthError> {
    let token = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(*random::<32>()?));
    let sign_in = SignIn {
        digest: Digest::of(token.as_bytes()),
        kind: BOOTSTRAP.into(),
        detail: serde_json::to_value(wanted).unwrap_or_default(),
        created_ms: now_ms,
        ends_ms: now_ms.saturating_add(LIFE_MS),
    };
    store.put_sign_in(sign_in).await?;
    Ok(Zeroizing::new(format!("{url}{SIGN_IN}#{}", *token)))
}

// === impl Authenticator ===

impl Authenticator {
    /// Uses a link up and begins a session. Returns the value of `Set-Cookie`.
    ///
    /// # Errors
    /// [`AuthError::Unknown`]: no such link, or it was used, has expired, or is from before a
    /// recovery.
    pub async fn sign_in(&self, parts: &Parts, token: &str) -> Result<HeaderValue, AuthError> {
        let now_ms = self.clock.now().unix_ms;
        let digest = Digest::of(token.trim().as_bytes());
        let taken = self.store.take_sign_in(digest, now_ms).await?;
        let taken = taken.filter(|sign_in| &*sign_in.kind == BOOTSTRAP);
        let Some(sign_in) = taken else {
            self.failed(channel_of(parts).address)?;
            return Err(AuthError::Unknown);
        };
        let wanted: BootstrapFor =
            serde_json::from_value(sign_in.detail).map_err(|_| AuthError::Unknown)?;
        let role = PersonRole::parse(&wanted.role).ok_or(AuthError::Unknown)?;
        let org = wanted.org.as_deref().map(OrgId::parse).transpose();
        let org = org.map_err(|_| AuthError::Unknown)?;
        let id = PersonId { iss: BOOTSTRAP.into(), sub: wanted.name.clone() };
        let known = self.store.person(&id).await?;
        let was_operator = known.is_some_and(|person| person.operator);
        self.store
            .put_person(Person {
                id: id.clone(),
                name: wanted.name.clone(),
                email: Box::default(),
                operator: was_operator || role == PersonRole::Operator,
                seen_ms: now_ms,
            })
            .await?;
        let actor = StoreActor::HostUser(wanted.by);
        if let Some(org) = &org {
            let members = self.store.memberships(&id).await?;
            let present = members.iter().find(|member| member.org == *org);
            // A link takes no role away: people need it when something is missing.
            if present.is_none_or(|member| member.role.reach() < role.reach()) {
                let change = MemberChange {
                    org: org.clone(),
                    id: id.clone(),
                    role: Some(role),
                    about: None,
                    within: None,
                    actor: actor.clone(),
                    channel: channel_of(parts),
                    at_ms: now_ms,
                };
                self.store.change_member(change).await?;
            }
        }
        let event = AuditEvent {
            at_ms: now_ms,
            audience: None,
            org: org.clone(),
            actor,
            channel: channel_of(parts),
            action: "sign in",
            object: id.to_string().into(),
            detail: [
                ("by".to_owned(), BOOTSTRAP.into()),
                ("role".to_owned(), role.as_str().into()),
            ]
            .into_iter()
            .collect(),
        };
        self.store.note(event).await?;
        let (provider, signed_in_ms) = (None, None);
        let new = NewSession { person: id, org, by: BOOTSTRAP, provider, signed_in_ms };
        self.begin_session(parts, new).await
    }
}
