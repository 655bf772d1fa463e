//! Tokens for `<keygate-keys>`, the component in somebody's page. A token is good for 15 minutes,
//! for the keys of one org, on pages of one origin, with part of the rights of its maker. The
//! database has only the SHA-256 of a token.

use axum::extract::MatchedPath;
use axum::http::header::ORIGIN;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::product::ProductWords;
use super::session::random;
use super::{AuthError, Authenticator, Caller, CallerBy};
use crate::core::{Digest, KeyId, OrgId, Owner, Permission, PermissionSet};
use crate::manage::operation::may::{
    Access, Actor, HeldPermissions, HeldRights, OrgAction, OrgPolicy, PersonRole,
};
use crate::registrar::request::channel_of;
use crate::registrar::store::{
    AudienceName, KeyRef, NewEmbedToken, Person, PersonId, SessionKind, SessionRow, StoreActor,
    StoreError,
};

/// A token begins with this, and 256 bits follow.
const PREFIX: &str = "kge_";
const LENGTH: usize = PREFIX.len() + 43;

/// How long a token is good.
const LIFE_MS: u64 = 15 * 60 * 1000;

/// A request for a token.
#[derive(Clone, Debug)]
pub struct EmbedWish {
    /// One of `embed.origins`.
    pub origin: Box<str>,
    /// The product's id of the person who looks at the page. A person who asks for themselves gives
    /// none or their own.
    pub subject: Option<String>,
    /// For people to read; may be empty.
    pub email: String,
    pub permissions: PermissionSet,
}

/// A token, shown once.
#[derive(Debug)]
pub struct EmbedToken {
    pub token: Zeroizing<String>,
    pub subject: Box<str>,
    pub org: OrgId,
    pub audience: AudienceName,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub ends_ms: u64,
}

/// What a token's row stores.
#[derive(Debug, Deserialize, Serialize)]
struct EmbedDetail {
    origin: Box<str>,
    audience: Box<str>,
    permissions: Vec<Box<str>>,
    /// The subject's role in the token's org.
    role: Box<str>,
    name: Box<str>,
    email: Box<str>,
    /// The key that made the token; `None`: its person made it.
    key: Option<Box<str>>,
    /// The session in which its person made it; `None`: a key made it, or somebody of a product.
    /// The list of sessions reads it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<Box<str>>,
}

/// The person that a token is for.
struct EmbedSubject {
    id: PersonId,
    name: Box<str>,
    email: Box<str>,
    role: PersonRole,
    key: Option<Box<str>>,
}

// === impl Authenticator ===

impl Authenticator {
    /// Makes a token. The store settles whether the caller may make it, and holds these
    /// permissions.
    ///
    /// # Errors
    /// [`AuthError::NotFound`]: a subject that the caller cannot speak for; the store's.
    pub async fn embed_token(
        &self,
        parts: &Parts,
        caller: &Caller,
        wish: &EmbedWish,
    ) -> Result<EmbedToken, AuthError> {
        let org = caller.scope()?.ok_or(AuthError::NotFound)?.clone();
        let subject = self.embed_subject(caller, wish, &org)?;
        let token =
            Zeroizing::new(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(*random::<32>()?)));
        let now_ms = self.clock.now().unix_ms;
        let ends_ms = now_ms.saturating_add(LIFE_MS);
        let detail = EmbedDetail {
            origin: wish.origin.clone(),
            audience: caller.audience.as_str().into(),
            permissions: wish.permissions.iter().map(|word| word.as_str().into()).collect(),
            role: subject.role.as_str().into(),
            name: subject.name.clone(),
            email: subject.email.clone(),
            key: subject.key.clone(),
            session: caller.session.clone(),
        };
        let row = SessionRow {
            digest: Digest::of(token.as_bytes()),
            id: BASE64_URL_SAFE_NO_PAD.encode(*random::<12>()?).into(),
            kind: SessionKind::Embed,
            person: subject.id.clone(),
            org: Some(org.clone()),
            detail: serde_json::to_value(detail).unwrap_or_default(),
            epoch: 0,
            created_ms: now_ms,
            seen_ms: now_ms,
            ends_ms,
            address: Box::default(),
            // The list of sessions shows this to the person.
            agent: wish.origin.clone(),
        };
        let made = NewEmbedToken {
            audience: caller.audience.clone(),
            org: org.clone(),
            actor: caller.actor.clone(),
            channel: channel_of(parts),
            origin: wish.origin.clone(),
            permissions: wish.permissions.clone(),
            session: row,
        };
        self.store.put_embed_token(made).await?;
        Ok(EmbedToken {
            token,
            subject: subject.id.sub,
            org,
            audience: caller.audience.clone(),
            ends_ms,
        })
    }

    /// A key speaks for users of its product, as members; a person speaks for themselves.
    fn embed_subject(
        &self,
        caller: &Caller,
        wish: &EmbedWish,
        org: &OrgId,
    ) -> Result<EmbedSubject, AuthError> {
        match &caller.actor {
            StoreActor::Key(key) => {
                let words = ProductWords {
                    org: Some(org.as_str().to_owned()),
                    user: wish.subject.clone(),
                    role: None,
                    email: Some(wish.email.clone()),
                };
                let role = PersonRole::Member;
                let said = words.with_role(Some(role)).map_err(|_| AuthError::NotFound)?;
                Ok(EmbedSubject {
                    id: PersonId::of_product(&caller.audience, &said.user),
                    name: if said.email.is_empty() { said.user } else { said.email.clone() },
                    email: said.email,
                    role,
                    key: Some(key.to_string().into()),
                })
            }
            StoreActor::Person { id, role, owner, .. } => {
                if wish.subject.as_ref().is_some_and(|subject| **subject != *id.sub) {
                    return Err(AuthError::NotFound);
                }
                let name = caller.person.as_ref().map(|person| person.name.clone());
                Ok(EmbedSubject {
                    id: id.clone(),
                    name: name.unwrap_or_else(|| id.sub.clone()),
                    email: owner.view().email.into(),
                    role: *role,
                    key: None,
                })
            }
            StoreActor::HostUser(_) => Err(AuthError::NotFound),
        }
    }

    /// The caller who shows a token; `None`: there is no such token.
    ///
    /// # Errors
    /// [`AuthError::Unknown`]: another origin, or the token's maker is no longer in force;
    /// [`AuthError::NotFound`]: something that the token does not open.
    pub(super) async fn by_embed_token(
        &self,
        parts: &Parts,
        token: &str,
    ) -> Result<Option<Caller>, AuthError> {
        let now_ms = self.clock.now().unix_ms;
        let row = self.store.session(Digest::of(token.as_bytes()), now_ms).await?;
        let Some(row) = row.filter(|row| row.kind == SessionKind::Embed) else { return Ok(None) };
        let detail: EmbedDetail =
            serde_json::from_value(row.detail.clone()).map_err(|_| AuthError::Unknown)?;
        let origin = only_origin(&parts.headers).ok_or(AuthError::Unknown)?;
        if origin != &*detail.origin || !self.settings.embed.has(origin) {
            return Err(AuthError::Unknown);
        }
        let org = row.org.clone().ok_or(AuthError::Unknown)?;
        // The matched route: in a router nested below others, the path lacks its beginning.
        let route = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let asks = embed_need(&parts.method, route).ok_or(AuthError::NotFound)?;
        let audience = AudienceName::parse(&detail.audience).ok_or(AuthError::Unknown)?;
        let role = PersonRole::parse(&detail.role).ok_or(AuthError::Unknown)?;
        let words: Result<Vec<Permission>, _> =
            detail.permissions.iter().map(|word| Permission::parse(word)).collect();
        let permissions = PermissionSet::new(words.map_err(|_| AuthError::Unknown)?);
        let holds = match detail.key.as_deref().map(KeyId::parse) {
            Some(Ok(key)) => {
                self.of_embedding_key(&audience, &org, key, &permissions, asks).await?
            }
            Some(Err(_)) => return Err(AuthError::Unknown),
            None => {
                self.still_has(&row.person, &org, role).await?;
                self.still_signed_in(&row.person, detail.session.as_deref(), &audience).await?;
                HeldRights {
                    permissions: HeldPermissions::These(permissions),
                    ..HeldRights::everything()
                }
            }
        };
        let subject = super::owner_subject(&row.person);
        let owner = Owner::new(&subject, &detail.email, role.as_str());
        let owner = owner.map_err(|_| AuthError::Unknown)?;
        let person = Person {
            id: row.person.clone(),
            name: detail.name,
            email: detail.email,
            operator: false,
            seen_ms: row.seen_ms,
        };
        Ok(Some(Caller {
            asking: None,
            actor: StoreActor::Person { id: row.person, role, owner, holds },
            org: Some(org),
            audience,
            person: Some(person),
            role: Some(role),
            channel: channel_of(parts),
            by: CallerBy::Embed,
            orgs: Vec::new(),
            confined: true,
            signed_in_ms: None,
            session: None,
            form: None,
        }))
    }

    /// What the key that made a token holds of the token's permissions now. The key still has to be
    /// in force, to hold all of them, and to hold the permissions for the request: a token lets
    /// nobody do what the key could not do.
    async fn of_embedding_key(
        &self,
        audience: &AudienceName,
        org: &OrgId,
        key: KeyId,
        permissions: &PermissionSet,
        asks: EmbedNeed,
    ) -> Result<HeldRights, AuthError> {
        let row = match self.store.key(audience, Some(org), KeyRef::Id(key)).await {
            Ok(row) => row,
            Err(StoreError::NoSuchKey) => return Err(AuthError::Unknown),
            Err(error) => return Err(error.into()),
        };
        let config = self.settings.audience(audience).ok_or(AuthError::Unknown)?;
        let now = self.clock.now().unix_secs();
        let policy = OrgPolicy::default();
        let access = Access { rules: &config.access, policy: &policy, now };
        let actor = Actor::of_key(&row.entry, now).map_err(|_| AuthError::Unknown)?;
        access
            .may_in(&actor, OrgAction::MakeEmbedToken(permissions), org)
            .map_err(|_| AuthError::Unknown)?;
        let words = &config.access.words;
        let held = PermissionSet::new(row.entry.permissions.iter().cloned());
        let holds_word = |word| config.access.covers(&held, word);
        let may = match asks {
            EmbedNeed::Read => holds_word(&words.read),
            EmbedNeed::Revoke => holds_word(&words.revoke),
            EmbedNeed::Suspend => holds_word(&words.revoke) || holds_word(&words.write),
            EmbedNeed::Write => holds_word(&words.write),
        };
        if !may {
            return Err(AuthError::NotFound);
        }
        Ok(HeldRights {
            permissions: HeldPermissions::These(permissions.clone()),
            ..HeldRights::of_key(&row.entry)
        })
    }

    /// Whether the person who made a token still has the role from then. For a product's people the
    /// product decides that, and nobody asks it here: they keep the role until the token ends.
    async fn still_has(
        &self,
        person: &PersonId,
        org: &OrgId,
        role: PersonRole,
    ) -> Result<(), AuthError> {
        if person.product().is_some() {
            return Ok(());
        }
        let members = self.store.memberships(person).await?;
        match members.iter().any(|member| member.org == *org && member.role == role) {
            true => Ok(()),
            false => Err(AuthError::Unknown),
        }
    }

    /// Whether the session in which somebody made a token still opens this audience. However the
    /// session ends, what the person has left open in other sites' pages ends with it. People of a
    /// product have no session here.
    async fn still_signed_in(
        &self,
        person: &PersonId,
        session: Option<&str>,
        audience: &AudienceName,
    ) -> Result<(), AuthError> {
        if person.product().is_some() {
            return Ok(());
        }
        let made = session.ok_or(AuthError::Unknown)?;
        let open = self.living_sessions(person).await?;
        let is_it = |row: &&SessionRow| row.kind == SessionKind::Person && *row.id == *made;
        let row = open.iter().find(is_it).ok_or(AuthError::Unknown)?;
        let provider = self.provider_of(row)?;
        match provider.and_then(|provider| provider.audience.as_ref()) {
            Some(only) if only != audience => Err(AuthError::Unknown),
            Some(_) | None => Ok(()),
        }
    }
}

/// What a request with a token needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EmbedNeed {
    Read,
    Revoke,
    Suspend,
    Write,
}

/// `None`: a token opens nothing there.
fn embed_need(method: &Method, route: &str) -> Option<EmbedNeed> {
    let segments: Vec<&str> = route.strip_prefix("/v1/orgs/")?.split('/').collect();
    match (method.as_str(), segments.as_slice()) {
        ("GET" | "HEAD", [_, "keys"] | [_, "keys", _]) => Some(EmbedNeed::Read),
        ("POST", [_, "keys"] | [_, "keys", _, "rotate" | "enable"]) | ("PATCH", [_, "keys", _]) => {
            Some(EmbedNeed::Write)
        }
        ("POST", [_, "keys", _, "disable"]) => Some(EmbedNeed::Suspend),
        ("POST", [_, "keys", _, "revoke"]) | ("DELETE", [_, "keys", _]) => Some(EmbedNeed::Revoke),
        _ => None,
    }
}

/// Whether a credential has the form of such a token.
pub(super) fn looks_like_embed_token(credential: &str) -> bool {
    credential.len() == LENGTH && credential.starts_with(PREFIX)
}

/// `Origin`, if it is present exactly once.
fn only_origin(fields: &HeaderMap) -> Option<&str> {
    let mut all = fields.get_all(ORIGIN).iter();
    match (all.next(), all.next()) {
        (Some(origin), None) => origin.to_str().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_keys_alone() {
        for (method, path, want) in [
            ("GET", "/v1/orgs/acme/keys", Some(EmbedNeed::Read)),
            ("GET", "/v1/orgs/acme/keys/k", Some(EmbedNeed::Read)),
            ("POST", "/v1/orgs/acme/keys", Some(EmbedNeed::Write)),
            ("POST", "/v1/orgs/acme/keys/k/rotate", Some(EmbedNeed::Write)),
            ("PATCH", "/v1/orgs/acme/keys/k", Some(EmbedNeed::Write)),
            ("POST", "/v1/orgs/acme/keys/k/disable", Some(EmbedNeed::Suspend)),
            ("DELETE", "/v1/orgs/acme/keys/k", Some(EmbedNeed::Revoke)),
            ("GET", "/v1/orgs/acme/keys/k/audit", None),
            ("GET", "/v1/orgs/acme/keys/k/usage", None),
            ("GET", "/v1/orgs/acme/policy", None),
            ("POST", "/v1/embed-tokens", None),
            ("GET", "/v1/members", None),
            ("GET", "/v1/audit", None),
            ("GET", "/v1/whoami", None),
            ("GET", "/keys", None),
            ("GET", "/v1/orgs/acme/keys/k/", None),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(embed_need(&method, path), want, "{method} {path}");
        }
    }
}
