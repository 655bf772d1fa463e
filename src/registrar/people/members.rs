//! Who is in an org with which role, and what becomes of the keys of somebody who leaves or may do less
//! from now on.

use super::{AuthError, Authenticator, Caller, owner_subject};
use crate::core::{KeyId, OrgId};
use crate::manage::operation::StatusChange;
use crate::manage::operation::may::{
    Access, AccessRules, HeldPermissions, HeldRights, OrgPolicy, PersonRole,
};
use crate::manage::registry::entry::RegistryEntry;
use crate::registrar::store::{
    AuditEvent, ChangeRequest, Channel, KeyChange, KeyQuery, KeyRef, KeyRow, MemberChange,
    OwnerLeaves, PersonId, StoreActor, StoreError,
};

/// Another role for a person, a first one, or none.
#[derive(Clone, Debug)]
pub struct RoleChange {
    pub org: OrgId,
    pub id: PersonId,
    /// `None` removes the member.
    pub role: Option<PersonRole>,
    pub actor: StoreActor,
    pub channel: Channel,
}

/// Keys of somebody who lost the role that they need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysLeft {
    /// They stay, by the org's policy: somebody should look at them.
    pub kept: Vec<KeyId>,
    /// They are disabled.
    pub disabled: Vec<KeyId>,
}

/// Gives a person of the caller's org another role, or none. Needs a sign-in of the last minutes.
///
/// # Errors
/// The sign-in is older; what the store says: the caller's role does not allow it, the last owner.
pub async fn change_member(
    people: &Authenticator,
    caller: &Caller,
    id: PersonId,
    role: Option<PersonRole>,
) -> Result<Result<KeysLeft, StoreError>, AuthError> {
    caller.recently_signed_in(people)?;
    let org = caller.scope()?.ok_or(AuthError::NotFound)?.clone();
    let (actor, channel) = (caller.actor.clone(), caller.channel.clone());
    Ok(people.change_role(RoleChange { org, id, role, actor, channel }).await)
}

// === impl Authenticator ===

impl Authenticator {
    /// Changes a role and deals with the keys. Doing it again is safe, and finishes what an earlier
    /// attempt did not get to.
    ///
    /// # Errors
    /// The store's. The role may be changed already, and some keys not dealt with yet.
    pub async fn change_role(&self, wanted: RoleChange) -> Result<KeysLeft, StoreError> {
        let at_ms = self.clock.now().unix_ms;
        self.store
            .change_member(MemberChange {
                org: wanted.org.clone(),
                id: wanted.id.clone(),
                role: wanted.role,
                actor: wanted.actor.clone(),
                channel: wanted.channel.clone(),
                at_ms,
            })
            .await?;
        let policy = self.store.org(&wanted.org).await?.rules.owner_leaves;
        let mut left = KeysLeft::default();
        for row in self.orphans(&wanted.org, &wanted.id, wanted.role).await? {
            let key = row.entry.id;
            match policy {
                OwnerLeaves::Disable => {
                    self.disable(row, &wanted, at_ms).await?;
                    left.disabled.push(key);
                }
                OwnerLeaves::Keep => {
                    self.note_kept(row, &wanted, at_ms).await?;
                    left.kept.push(key);
                }
            }
        }
        Ok(left)
    }

    /// Keys of a person that somebody with `role` could not have made.
    ///
    /// # Errors
    /// The store's.
    pub async fn orphans(
        &self,
        org: &OrgId,
        id: &PersonId,
        role: Option<PersonRole>,
    ) -> Result<Vec<KeyRow>, StoreError> {
        if matches!(role, Some(PersonRole::Admin | PersonRole::Owner)) {
            return Ok(Vec::new());
        }
        let now = self.clock.now();
        let mut found = Vec::new();
        for audience in &self.settings.audiences {
            let mut query = KeyQuery::all(audience.name.clone(), Some(org.clone()), now.unix_ms);
            query.owner = Some(owner_subject(id).into());
            query.limit = KeyQuery::MOST;
            loop {
                let page = self.store.keys(query.clone()).await?;
                let ended = |entry: &RegistryEntry| {
                    entry.status.is_final()
                        || entry.expires.is_some_and(|ends| ends <= now.unix_secs())
                };
                found.extend(page.keys.into_iter().filter(|row| {
                    !ended(&row.entry)
                        && (role != Some(PersonRole::Member)
                            || exceeds_members(&audience.access, &row.entry))
                }));
                match page.next {
                    Some(next) => query.cursor = Some(next),
                    None => break,
                }
            }
        }
        Ok(found)
    }

    /// In whose name: a member change may be somebody's whose role does not reach to every key.
    async fn disable(
        &self,
        row: KeyRow,
        wanted: &RoleChange,
        at_ms: u64,
    ) -> Result<(), StoreError> {
        let by = format!("owner_leaves, for {} {}", wanted.actor.kind(), wanted.actor.name());
        let request = ChangeRequest {
            audience: row.audience,
            org: Some(wanted.org.clone()),
            actor: StoreActor::HostUser(by.into()),
            channel: wanted.channel.clone(),
            at_ms,
            idempotency: None,
            change: KeyChange::SetStatus {
                key: KeyRef::Id(row.entry.id),
                if_match: None,
                status: StatusChange::Disable,
            },
        };
        match self.store.change(request).await {
            // Somebody was faster.
            Ok(_) | Err(StoreError::NoSuchKey | StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn note_kept(
        &self,
        row: KeyRow,
        wanted: &RoleChange,
        at_ms: u64,
    ) -> Result<(), StoreError> {
        let event = AuditEvent {
            at_ms,
            audience: Some(row.audience),
            org: Some(wanted.org.clone()),
            actor: wanted.actor.clone(),
            channel: wanted.channel.clone(),
            action: "keep of former owner",
            object: row.entry.id.to_string().into(),
            detail: [("owner".to_owned(), wanted.id.to_string().into())].into_iter().collect(),
        };
        self.store.note(event).await.map(drop)
    }
}

/// Whether a key holds more than members may grant.
fn exceeds_members(rules: &AccessRules, entry: &RegistryEntry) -> bool {
    let held = HeldRights {
        permissions: HeldPermissions::These(rules.member.clone()),
        ..HeldRights::everything()
    };
    Access { rules, policy: &OrgPolicy::default(), now: 0 }.excess(&held, entry).is_some()
}
