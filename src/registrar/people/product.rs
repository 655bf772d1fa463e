//! People whom a product knows, however the service asked it. A role that the product states counts
//! immediately; the list of members follows.
//!
//! However people of one audience sign in, they are the same product's people: a user with a token
//! and a user with a session are the same person if their ids are equal.

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

/// How long the list of members may be behind the product, and the most people to remember as
/// written down.
const KNOWN_MS: u64 = 60_000;
const MOST_KNOWN: usize = 10_000;

/// What a product has stated about somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProductPerson {
    pub(super) org: OrgId,
    pub(super) user: Box<str>,
    /// `None`: the product's word for it maps to no role here.
    pub(super) role: Option<PersonRole>,
    /// May be empty.
    pub(super) email: Box<str>,
}

/// The same, before it has been checked.
#[derive(Clone, Debug, Default)]
pub(super) struct ProductWords {
    pub(super) org: Option<String>,
    pub(super) user: Option<String>,
    pub(super) role: Option<String>,
    pub(super) email: Option<String>,
}

/// Which product stated it, and in whose name changes of its people are recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProductSource<'c> {
    pub(super) name: &'c str,
    pub(super) audience: &'c AudienceName,
    pub(super) by: CallerBy,
    /// When the product stated it, in milliseconds since 1970-01-01T00:00:00Z; `None`: nobody
    /// knows.
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
    /// All three, each in its proper form.
    ///
    /// # Errors
    /// [`AuthError::Unknown`]: one is missing or malformed.
    pub(super) fn read(mut self, roles: &ProductRoles) -> Result<ProductPerson, AuthError> {
        let role = self.role.take().ok_or(AuthError::Unknown)?;
        self.with_role(roles.of(&role))
    }

    /// The same, if the role is known already.
    ///
    /// # Errors
    /// [`AuthError::Unknown`].
    pub(super) fn with_role(self, role: Option<PersonRole>) -> Result<ProductPerson, AuthError> {
        let (Some(org), Some(user)) = (self.org, self.user) else {
            return Err(AuthError::Unknown);
        };
        let org = OrgId::parse(&org).map_err(|_| AuthError::Unknown)?;
        // The prefixes of people who sign in otherwise: a product's user with such a name would
        // pass for one.
        let is_taken = |way| user.strip_prefix(way).is_some_and(|rest| rest.starts_with(':'));
        if [BOOTSTRAP, OIDC].into_iter().any(is_taken) {
            return Err(AuthError::Unknown);
        }
        let email = self.email.unwrap_or_default();
        // An address that no key could have is ignored.
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
    /// [`AuthError::NoRole`]: the product's word for the person's role maps to no role here. If the
    /// person had a role, they lose it, provided that the product has said so since they were last
    /// here.
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
                // Even a database that takes no changes now does not keep people out.
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

    /// Makes the list of members agree with the product. The org's policy decides about keys of
    /// somebody who has lost the role that the keys need.
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
        // What an earlier change has left must not keep a role that is lost now.
        let finished = self.finish_roles(&person.id).await;
        let members = self.store.memberships(&person.id).await?;
        let known = members.iter().find(|member| member.org == *org).map(|member| member.role);
        if known == role {
            return finished;
        }
        // A token from before a promotion stays valid for a while. It must not take the role away.
        if role.is_none() {
            let seen = self.store.person(&person.id).await?.map_or(0, |known| known.seen_ms);
            if source.said_ms.is_none_or(|said| said < seen) {
                return finished;
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
            // The list keeps its last owner. For this request, the product's statement counts.
            Ok(_) | Err(StoreError::LastOwner) => finished,
            Err(error) => Err(error),
        }
    }
}
