//! Who is in an org with which role, and what happens to the keys of a member who leaves or gets a
//! lesser role.

use std::time::Duration;

use super::{AuthError, Authenticator, Caller};
use crate::core::{KeyId, OrgId};
use crate::manage::operation::may::{
    Access, AccessRules, HeldPermissions, HeldRights, OrgAction, OrgPolicy, PersonRole,
};
use crate::manage::operation::{DetailRequest, EditRequest, OwnerChange, StatusChange};
use crate::manage::registry::entry::RegistryEntry;
use crate::registrar::store::{
    AudienceName, AuditEvent, ChangeRequest, Channel, KeyChange, KeyQuery, KeyRef, KeyRow, KeysDue,
    MemberChange, OwnerLeaves, Person, PersonId, StoreActor, StoreError, may_in, owner_subject,
};

/// A change of a person's role: another role, a first one, or none.
#[derive(Clone, Debug)]
pub struct RoleChange {
    pub org: OrgId,
    pub id: PersonId,
    /// `None` removes the member.
    pub role: Option<PersonRole>,
    /// The audience whose keys follow: somebody who manages the org for one product touches no key
    /// of another. `None`: the keys of all audiences.
    pub within: Option<AudienceName>,
    pub actor: StoreActor,
    pub channel: Channel,
}

/// Keys of somebody who lost the role that they need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysLeft {
    /// They stay, by the org's policy. Somebody should look at them.
    pub kept: Vec<KeyId>,
    /// They are disabled now.
    pub disabled: Vec<KeyId>,
}

/// The longest issuer or subject of a member, in bytes.
const LONGEST_NAME: usize = 255;

/// Gives a person of the caller's org another role, or none. Needs a sign-in of the last minutes.
///
/// A person who was never here is created, so that the answer does not reveal who was. The product
/// alone decides which orgs its people are in: people who are there already can get another role
/// until the product speaks again, or be removed from the list. A caller whose own role counts at
/// one product alone can change only that product's people.
///
/// # Errors
/// The sign-in is older; the person's role counts elsewhere; the store's: the caller's role does
/// not allow it, the last owner.
pub async fn change_member(
    people: &Authenticator,
    caller: &Caller,
    id: PersonId,
    role: Option<PersonRole>,
) -> Result<Result<KeysLeft, StoreError>, AuthError> {
    caller.recently_signed_in(people)?;
    let org = caller.scope()?.ok_or(AuthError::NotFound)?.clone();
    let (actor, channel) = (caller.actor.clone(), caller.channel.clone());
    let within = caller.bound_to().cloned();
    let change = RoleChange { org, id, role, within, actor, channel };
    Ok(people.appoint(caller, change).await)
}

/// After this long nobody is dealing with the keys of a change of a role any more.
const LEFT_MS: u64 = 30_000;

/// How often to look for such keys.
const LOOK: Duration = Duration::from_secs(10);

/// Finishes changes of roles in which the database went away, or a process was killed: keys of
/// people who have left must not work for good. Runs until the service ends.
pub async fn keep_finishing(people: Authenticator) {
    let mut told: Option<String> = None;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let error = people.finish_all_roles().await.err().map(|error| error.to_string());
        if let Some(error) = &error
            && told.as_ref() != Some(error)
        {
            tracing::error!(
                error,
                "keys of people who lost a role are not dealt with; trying again"
            );
        }
        told = error;
    }
}

fn check_name(field: &str, text: &str) -> Result<(), StoreError> {
    match (1..=LONGEST_NAME).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(()),
        false => {
            let why = format!("must be 1 to {LONGEST_NAME} bytes without control characters");
            Err(StoreError::invalid(field, why))
        }
    }
}

// === impl KeysLeft ===

impl KeysLeft {
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.disabled.is_empty()
    }
}

// === impl Authenticator ===

impl Authenticator {
    async fn appoint(&self, caller: &Caller, wanted: RoleChange) -> Result<KeysLeft, StoreError> {
        check_name("issuer", &wanted.id.iss)?;
        check_name("subject", &wanted.id.sub)?;
        let members = self.store.members(&wanted.org).await?;
        let present = members.iter().find(|member| member.id == wanted.id);
        let is_products = wanted.id.product().is_some();
        if is_products && (present.is_none() || !self.sees_person(caller, &wanted.id)) {
            let why = "is of a product, whose people are where the product says";
            return Err(StoreError::invalid("subject", why));
        }
        // The same message for everybody, whether or not they are a member.
        if !self.may_appoint(caller, &wanted.id) {
            let why = "your role counts for one product alone, and this person's elsewhere as well: \
                       an owner of the organization in all products can change it";
            return Err(StoreError::Forbidden { why: why.to_owned(), field: None });
        }
        if present.is_none() && wanted.role.is_some() {
            let owners = members.iter().filter(|m| m.role == PersonRole::Owner).count() as u64;
            self.role_may_appoint(caller, &wanted, owners)?;
            if self.store.person(&wanted.id).await?.is_none() {
                let person = Person {
                    id: wanted.id.clone(),
                    name: wanted.id.sub.clone(),
                    email: Box::default(),
                    operator: false,
                    seen_ms: 0,
                };
                self.store.put_person(person).await?;
            }
        }
        self.change_role(wanted).await
    }

    /// A check before a person is created from a name. The store checks again.
    fn role_may_appoint(
        &self,
        caller: &Caller,
        wanted: &RoleChange,
        owners: u64,
    ) -> Result<(), StoreError> {
        let audience = self.settings.audience(caller.audience());
        let rules = &audience.ok_or(StoreError::NoSuchAudience)?.access;
        let policy = OrgPolicy::default();
        let access = Access { rules, policy: &policy, now: self.clock.now().unix_secs() };
        let action = OrgAction::ChangeMember { from: None, to: wanted.role, owners };
        may_in(&access, &wanted.actor, action, &wanted.org)
    }

    /// Changes a role and deals with the keys. A repetition is safe, and finishes what an earlier
    /// attempt did not get to; [`keep_finishing`] does so without one.
    ///
    /// # Errors
    /// The store's. The role may have changed already, while some keys have not been dealt with
    /// yet.
    pub async fn change_role(&self, wanted: RoleChange) -> Result<KeysLeft, StoreError> {
        let at_ms = self.clock.now().unix_ms;
        self.store
            .change_member(MemberChange {
                org: wanted.org.clone(),
                id: wanted.id.clone(),
                role: wanted.role,
                about: self.audience_about(&wanted.id),
                within: wanted.within.clone(),
                actor: wanted.actor.clone(),
                channel: wanted.channel.clone(),
                at_ms,
            })
            .await?;
        let due = self.keys_due_of(&wanted.id).await?;
        let left = self.deal_with_keys(&wanted, at_ms).await?;
        // Also what an attempt before this one has left, if these are all of its keys.
        for due in due {
            if due.org == wanted.org
                && wanted.within.as_ref().is_none_or(|_| due.within == wanted.within)
            {
                self.store.settle_keys(due).await?;
            }
        }
        Ok(left)
    }

    async fn keys_due_of(&self, id: &PersonId) -> Result<Vec<KeysDue>, StoreError> {
        let mut due = self.store.keys_due().await?;
        due.retain(|due| due.id == *id);
        Ok(due)
    }

    /// Finishes what changes of this person's roles have left, before their roles are compared:
    /// those are as wanted already.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn finish_roles(&self, id: &PersonId) -> Result<(), StoreError> {
        for due in self.keys_due_of(id).await? {
            self.finish(due).await?;
        }
        Ok(())
    }

    /// By the role that the person has now, which may be another one than that of the change.
    async fn finish(&self, due: KeysDue) -> Result<(), StoreError> {
        let roles = self.store.memberships(&due.id).await?;
        let role = roles.iter().find(|member| member.org == due.org).map(|member| member.role);
        let wanted = RoleChange {
            org: due.org.clone(),
            id: due.id.clone(),
            role,
            within: due.within.clone(),
            actor: StoreActor::HostUser(due.by.clone()),
            channel: Channel::default(),
        };
        self.deal_with_keys(&wanted, self.clock.now().unix_ms).await?;
        self.store.settle_keys(due).await
    }

    /// Finishes what changes of roles have left that are not under way any more. Goes on after a
    /// failure: one person's keys wait for nobody else's.
    ///
    /// # Errors
    /// The store's last one.
    pub async fn finish_all_roles(&self) -> Result<(), StoreError> {
        let now_ms = self.clock.now().unix_ms;
        let mut done = Ok(());
        for due in self.store.keys_due().await? {
            if now_ms.saturating_sub(due.since_ms) >= LEFT_MS {
                done = self.finish(due).await.and(done);
            }
        }
        done
    }

    async fn deal_with_keys(
        &self,
        wanted: &RoleChange,
        at_ms: u64,
    ) -> Result<KeysLeft, StoreError> {
        let policy = self.store.org(&wanted.org).await?.rules.owner_leaves;
        let (mut left, mut kept) = (KeysLeft::default(), Vec::new());
        for row in self.living_keys(&wanted.org, &wanted.id, wanted.within.as_ref()).await? {
            let key = row.entry.id;
            if !self.is_orphan(&row, wanted.role) {
                self.say_role(row, wanted, at_ms).await?;
                continue;
            }
            match policy {
                OwnerLeaves::Disable => {
                    self.disable(row, wanted, at_ms).await?;
                    left.disabled.push(key);
                }
                OwnerLeaves::Keep => kept.push(row),
            }
        }
        // Last, because a repetition would note them again.
        for row in kept {
            let key = row.entry.id;
            self.note_kept(row, wanted, at_ms).await?;
            left.kept.push(key);
        }
        Ok(left)
    }

    /// Live keys of a person that somebody with `role` could not have made, `within` an audience or
    /// in all of them.
    ///
    /// # Errors
    /// The store's.
    pub async fn orphans(
        &self,
        org: &OrgId,
        id: &PersonId,
        role: Option<PersonRole>,
        within: Option<&AudienceName>,
    ) -> Result<Vec<KeyRow>, StoreError> {
        let mut keys = self.living_keys(org, id, within).await?;
        keys.retain(|row| self.is_orphan(row, role));
        Ok(keys)
    }

    /// Whether somebody with `role` could not have made the key.
    fn is_orphan(&self, row: &KeyRow, role: Option<PersonRole>) -> bool {
        match role {
            Some(PersonRole::Admin | PersonRole::Owner) => false,
            Some(PersonRole::Member) => {
                let audience = self.settings.audience(&row.audience);
                audience.is_none_or(|audience| exceeds_members(&audience.access, &row.entry))
            }
            Some(PersonRole::Auditor | PersonRole::Operator) | None => true,
        }
    }

    /// Keys of a person that have not ended. At another product, the same id belongs to another
    /// person.
    async fn living_keys(
        &self,
        org: &OrgId,
        id: &PersonId,
        within: Option<&AudienceName>,
    ) -> Result<Vec<KeyRow>, StoreError> {
        let now = self.clock.now();
        let mut found = Vec::new();
        let is_theirs = |name: &AudienceName| {
            id.product().is_none_or(|product| product == name.as_str())
                && within.is_none_or(|within| within == name)
        };
        for audience in self.settings.audiences.iter().filter(|a| is_theirs(&a.name)) {
            let mut query = KeyQuery::all(audience.name.clone(), Some(org.clone()), now.unix_ms);
            query.owner = Some(owner_subject(id).into());
            query.limit = KeyQuery::MOST;
            loop {
                let page = self.store.keys(query.clone()).await?;
                let ended = |entry: &RegistryEntry| {
                    entry.status.is_final()
                        || entry.expires.is_some_and(|ends| ends <= now.unix_secs())
                };
                found.extend(page.keys.into_iter().filter(|row| !ended(&row.entry)));
                match page.next {
                    Some(next) => query.cursor = Some(next),
                    None => break,
                }
            }
        }
        Ok(found)
    }

    async fn disable(
        &self,
        row: KeyRow,
        wanted: &RoleChange,
        at_ms: u64,
    ) -> Result<(), StoreError> {
        let key = KeyRef::Id(row.entry.id);
        let status = StatusChange::Disable;
        let change = KeyChange::SetStatus { key, if_match: None, status };
        self.follow("owner_leaves", row.audience, change, wanted, at_ms).await
    }

    /// Makes a key state no more about its owner's role to the service behind than is true now.
    async fn say_role(
        &self,
        row: KeyRow,
        wanted: &RoleChange,
        at_ms: u64,
    ) -> Result<(), StoreError> {
        let said = row.entry.owner.as_ref().map(|owner| owner.view().role);
        let said = said.and_then(PersonRole::parse);
        let (Some(said), Some(role)) = (said, wanted.role) else { return Ok(()) };
        if said.reach() <= role.reach() {
            return Ok(());
        }
        let owner =
            OwnerChange::State { subject: None, email: None, role: Some(role.as_str().to_owned()) };
        let details = DetailRequest { owner, ..DetailRequest::default() };
        let request = Box::new(EditRequest { details, ..EditRequest::default() });
        let change = KeyChange::Edit { key: KeyRef::Id(row.entry.id), if_match: None, request };
        self.follow("owner's role", row.audience, change, wanted, at_ms).await
    }

    /// Carries out what follows for a key. The host's user is the actor, because the role of the
    /// member who made the change may not reach every key.
    async fn follow(
        &self,
        why: &str,
        audience: AudienceName,
        change: KeyChange,
        wanted: &RoleChange,
        at_ms: u64,
    ) -> Result<(), StoreError> {
        let by = format!("{why}, for {} {}", wanted.actor.kind(), wanted.actor.name());
        let request = ChangeRequest {
            audience,
            org: Some(wanted.org.clone()),
            actor: StoreActor::HostUser(by.into()),
            channel: wanted.channel.clone(),
            at_ms,
            idempotency: None,
            change,
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
