//! People whom a product knows, however it was asked. What the product says of somebody's role counts
//! at once; the list of members follows it.
//!
//! All ways by which people of one audience come speak of one product's people: a user of the token and
//! one of the session with the same id are the same person.

use std::collections::HashMap;
use std::sync::Mutex;

use axum::http::request::Parts;

use super::members::RoleChange;
use super::{AuthError, Authenticator, Caller, CallerBy, FormToken};
use crate::core::{OrgId, Owner};
use crate::manage::operation::may::{HeldRights, PersonRole};
use crate::registrar::config::ProductRoles;
use crate::registrar::request::channel_of;
use crate::registrar::store::{
    AudienceName, BOOTSTRAP, OIDC, Person, PersonId, StoreActor, StoreError,
};

/// How long the list of members may be behind what the product says, and most people that are
/// remembered as written down.
const KNOWN_MS: u64 = 60_000;
const MOST_KNOWN: usize = 10_000;

/// What a product has said of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProductPerson {
    pub(super) org: OrgId,
    pub(super) user: Box<str>,
    /// `None`: the word for it stands for none here.
    pub(super) role: Option<PersonRole>,
    /// Possibly empty.
    pub(super) email: Box<str>,
}

/// The same, before anybody has looked at it.
#[derive(Clone, Debug, Default)]
pub(super) struct ProductWords {
    pub(super) org: Option<String>,
    pub(super) user: Option<String>,
    pub(super) role: Option<String>,
    pub(super) email: Option<String>,
}

/// By which product's word, and in whose name changes of its people are written down.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProductSource<'c> {
    pub(super) name: &'c str,
    pub(super) audience: &'c AudienceName,
    pub(super) by: CallerBy,
    /// When it said so, in milliseconds since 1970-01-01T00:00:00Z; `None`: nobody knows.
    pub(super) said_ms: Option<u64>,
}

/// Who was written down a moment ago, so that not every request writes.
#[derive(Debug, Default)]
pub(super) struct SeenPeople(Mutex<HashMap<(PersonId, OrgId), SeenRole>>);

#[derive(Clone, Copy, Debug)]
struct SeenRole {
    role: Option<PersonRole>,
    at_ms: u64,
}

// === impl ProductWords ===

impl ProductWords {
    /// All three, each as it should be.
    ///
    /// # Errors
    /// [`AuthError::Unknown`]: one is missing or strange.
    pub(super) fn read(mut self, roles: &ProductRoles) -> Result<ProductPerson, AuthError> {
        let role = self.role.take().ok_or(AuthError::Unknown)?;
        self.with_role(roles.of(&role))
    }

    /// The same where the role is known already.
    ///
    /// # Errors
    /// [`AuthError::Unknown`].
    pub(super) fn with_role(self, role: Option<PersonRole>) -> Result<ProductPerson, AuthError> {
        let (Some(org), Some(user)) = (self.org, self.user) else {
            return Err(AuthError::Unknown);
        };
        let org = OrgId::parse(&org).map_err(|_| AuthError::Unknown)?;
        // What people of other ways are called: a product's user of that name would be one of them.
        let is_taken = |way| user.strip_prefix(way).is_some_and(|rest| rest.starts_with(':'));
        if [BOOTSTRAP, OIDC].into_iter().any(is_taken) {
            return Err(AuthError::Unknown);
        }
        let email = self.email.unwrap_or_default();
        // An address that no key could have says nothing.
        let email = if Owner::new(&user, &email, "").is_ok() { email } else { String::new() };
        Owner::new(&user, "", "").map_err(|_| AuthError::Unknown)?;
        Ok(ProductPerson { org, user: user.into(), role, email: email.into() })
    }
}

// === impl SeenPeople ===

impl SeenPeople {
    /// Whether this was written down within the last minute.
    fn has(&self, key: &(PersonId, OrgId), role: Option<PersonRole>, now_ms: u64) -> bool {
        let Ok(seen) = self.0.lock() else { return false };
        let found = seen.get(key);
        found.is_some_and(|seen| seen.role == role && now_ms.saturating_sub(seen.at_ms) < KNOWN_MS)
    }

    fn note(&self, key: (PersonId, OrgId), role: Option<PersonRole>, at_ms: u64) {
        let Ok(mut seen) = self.0.lock() else { return };
        if seen.len() >= MOST_KNOWN {
            seen.clear();
        }
        seen.insert(key, SeenRole { role, at_ms });
    }
}

// === impl Authenticator ===

impl Authenticator {
    /// # Errors
    /// [`AuthError::NoRole`]: what the product calls the person stands for no role here. Who had one
    /// has none from then on, if the product has said so since they were last here.
    pub(super) async fn product_caller(
        &self,
        parts: &Parts,
        said: ProductPerson,
        source: ProductSource<'_>,
        signed_in_ms: Option<u64>,
        form: Option<FormToken>,
    ) -> Result<Caller, AuthError> {
        let ProductPerson { org, user, role, email } = said;
        let id = PersonId::of_product(source.audience, &user);
        let now_ms = self.clock.now().unix_ms;
        let name = if email.is_empty() { id.sub.clone() } else { email.clone() };
        let word = role.map(PersonRole::as_str).unwrap_or_default();
        let owner = Owner::new(&id.sub, &email, word).map_err(|_| AuthError::Unknown)?;
        let person = Person { id: id.clone(), name, email, operator: false, seen_ms: now_ms };
        let key = (id.clone(), org.clone());
        if !self.seen.has(&key, role, now_ms) {
            match self.write_down(parts, &person, &org, role, source).await {
                Ok(()) => self.seen.note(key, role, now_ms),
                // A database that takes no changes now does not keep people out.
                Err(error) => tracing::warn!(%error, "a person of the product was not noted"),
            }
        }
        let role = role.ok_or(AuthError::NoRole)?;
        Ok(Caller {
            asking: None,
            actor: StoreActor::Person { id, role, owner, holds: HeldRights::everything() },
            org: Some(org),
            audience: source.audience.clone(),
            person: Some(person),
            role: Some(role),
            channel: channel_of(parts),
            by: source.by,
            orgs: Vec::new(),
            confined: true,
            signed_in_ms,
            session: None,
            form,
        })
    }

    /// Lets the list of members say what the product says. Keys of somebody who has lost the role
    /// that they need go the way of the org's policy.
    async fn write_down(
        &self,
        parts: &Parts,
        person: &Person,
        org: &OrgId,
        role: Option<PersonRole>,
        source: ProductSource<'_>,
    ) -> Result<(), StoreError> {
        if role.is_some() {
            self.store.put_person(person.clone()).await?;
        }
        let members = self.store.memberships(&person.id).await?;
        let known = members.iter().find(|member| member.org == *org).map(|member| member.role);
        if known == role {
            return Ok(());
        }
        // A token of before their promotion is good for a while; it takes nothing away.
        if role.is_none() {
            let seen = self.store.person(&person.id).await?.map_or(0, |known| known.seen_ms);
            if source.said_ms.is_none_or(|said| said < seen) {
                return Ok(());
            }
        }
        let change = RoleChange {
            org: org.clone(),
            id: person.id.clone(),
            role,
            within: None,
            actor: StoreActor::HostUser(format!("roles of {}", source.name).into()),
            channel: channel_of(parts),
        };
        match self.change_role(change).await {
            // The list keeps its owner; what the product says now counts for this request.
            Ok(_) | Err(StoreError::LastOwner) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
