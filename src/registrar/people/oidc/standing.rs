//! Makes roles here follow a provider's statements about somebody's groups, and begins their
//! session.

use std::collections::BTreeMap;

use axum::http::HeaderValue;
use axum::http::request::Parts;

use super::super::members::RoleChange;
use super::super::{AuthError, Authenticator, NewSession};
use super::OidcError;
use super::claims::OidcSaid;
use crate::core::OrgId;
use crate::manage::operation::may::PersonRole;
use crate::registrar::config::OidcConfig;
use crate::registrar::request::channel_of;
use crate::registrar::store::{AuditEvent, OIDC, Person, PersonId, StoreActor, StoreError};

// === impl Authenticator ===

impl Authenticator {
    /// Writes down who has signed in, with the roles that they have now, and begins a session.
    ///
    /// # Errors
    /// [`OidcError::NoRole`]: nobody has given them a role, and they are not an operator. Roles
    /// that they have lost are removed anyway.
    pub(super) async fn admit(
        &self,
        parts: &Parts,
        config: &OidcConfig,
        said: OidcSaid,
    ) -> Result<HeaderValue, OidcError> {
        let id = PersonId { iss: config.issuer.clone(), sub: said.subject.clone() };
        let now_ms = self.clock.now().unix_ms;
        let standing = config.rights.standing(&said.orgs, &said.groups);
        let known = self.store.person(&id).await.map_err(AuthError::from)?;
        let was_operator = known.as_ref().is_some_and(|person| person.operator);
        let operator = standing.operator.unwrap_or(was_operator);
        let comes_in = operator || !standing.roles.is_empty();
        if comes_in || known.is_some() {
            let person = Person {
                id: id.clone(),
                name: said.name.clone(),
                email: said.email.clone(),
                operator,
                seen_ms: now_ms,
            };
            self.store.put_person(person).await.map_err(AuthError::from)?;
        }
        let by = format!("groups of {}", config.name);
        if operator != was_operator {
            let detail = [("operator".to_owned(), serde_json::json!([was_operator, operator]))];
            let event = AuditEvent {
                at_ms: now_ms,
                audience: None,
                org: None,
                actor: StoreActor::HostUser(by.as_str().into()),
                channel: channel_of(parts),
                action: "set operator",
                object: id.to_string().into(),
                detail: detail.into_iter().collect(),
            };
            self.store.note(event).await.map_err(AuthError::from)?;
        }
        self.follow_groups(parts, config, &id, &standing.roles).await.map_err(AuthError::from)?;
        let orgs = self.store.memberships(&id).await.map_err(AuthError::from)?;
        if orgs.is_empty() && !operator {
            return Err(OidcError::NoRole { id });
        }
        let event = AuditEvent {
            at_ms: now_ms,
            audience: config.audience.clone(),
            org: match orgs.as_slice() {
                [only] => Some(only.org.clone()),
                _ => None,
            },
            actor: StoreActor::HostUser(format!("sign-in at {}", config.name).into()),
            channel: channel_of(parts),
            action: "sign in",
            object: id.to_string().into(),
            detail: [
                ("by".to_owned(), OIDC.into()),
                ("provider".to_owned(), (*config.name).into()),
            ]
            .into_iter()
            .collect(),
        };
        self.store.note(event).await.map_err(AuthError::from)?;
        // Ends any earlier session of this browser, which has another one now.
        super::super::routes::end_present(self, &parts.headers).await?;
        let new = NewSession {
            person: id,
            org: None,
            by: OIDC,
            provider: Some(config.name.clone()),
            signed_in_ms: said.signed_in.map(|at| at.saturating_mul(1000).min(now_ms)),
        };
        Ok(self.begin_session(parts, new).await?)
    }

    /// Sets roles in the orgs that the provider decides about to what it says. The org's policy
    /// decides about keys of somebody who has lost the role that the keys need.
    async fn follow_groups(
        &self,
        parts: &Parts,
        config: &OidcConfig,
        id: &PersonId,
        roles: &BTreeMap<OrgId, PersonRole>,
    ) -> Result<(), StoreError> {
        // What an earlier change has left must not keep a role that is lost now.
        let finished = self.finish_roles(id).await;
        let present = self.store.memberships(id).await?;
        let present: BTreeMap<OrgId, PersonRole> =
            present.into_iter().map(|member| (member.org, member.role)).collect();
        let lost =
            present.keys().filter(|org| !roles.contains_key(*org) && config.rights.governs(org));
        let wanted = roles.iter().map(|(org, role)| (org, Some(*role)));
        for (org, role) in wanted.chain(lost.map(|org| (org, None))) {
            if present.get(org).copied() == role {
                continue;
            }
            let change = RoleChange {
                org: org.clone(),
                id: id.clone(),
                role,
                // Somebody who is gone at their provider is gone everywhere.
                within: None,
                actor: StoreActor::HostUser(format!("groups of {}", config.name).into()),
                channel: channel_of(parts),
            };
            match self.change_role(change).await {
                Ok(_) => {}
                // Groups do not take the last owner away: afterwards nobody could give the role
                // back.
                Err(StoreError::LastOwner) => {
                    let (person, org) = (id.to_string(), org.as_str());
                    tracing::warn!(
                        provider = %config.name, person, org,
                        "the groups make the last owner of an organization something else; \
                         the role stays"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        finished
    }
}
