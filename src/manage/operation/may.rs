//! Who may do what to a key. Nobody hands out more than they hold. Every path to a change calls one
//! function, [`Access::may`], inside the transaction that makes the change.
//!
//! A key with the right to make keys must not be able to make a stronger one
//! (calimero-network/core#3222, getarcaneapp/arcane#2918). So a grant lies within what the actor
//! holds; a key touches only keys that hold no more than it does; and only people grant the words
//! that manage keys. Imports the registry's entries.

pub mod actor;
pub mod org;
#[cfg(test)]
mod tests;

pub use self::actor::{Actor, HeldEnvironments, HeldPermissions, HeldRights, PersonRole};
pub use self::org::{OrgAction, OrgPolicy, PolicyFault, RequiredNetworks};
use super::super::registry::entry::{RegistryEntry, show_network};
use super::super::time;
use super::fault::KeyField;
use super::status::StatusChange;
use crate::core::{Environment, NameError, Owner, Permission, PermissionSet};

/// The words by which a key may manage keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagementWords {
    /// See keys.
    pub read: Permission,
    /// Create, change, rotate and suspend keys, and admit them again.
    pub write: Permission,
    /// End and suspend keys.
    pub revoke: Permission,
    pub usage: Permission,
    pub audit: Permission,
    /// Make tokens for the component in a person's page.
    pub embed: Permission,
}

/// Whether `*` includes the management words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StarCovers {
    /// "Full access to all endpoints", including those for keys. Then a key that holds `*` may
    /// grant `*`.
    Everything,
    #[default]
    ProductOnly,
}

/// What the operator has configured for an audience.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRules {
    pub words: ManagementWords,
    pub star: StarCovers,
    /// What a member may grant and touch.
    pub member: PermissionSet,
    /// Permissions that new keys can get, in addition to the management words; `None`: any.
    pub offered: Option<PermissionSet>,
}

/// The rules of an audience, the policy of the key's org, and the time.
#[derive(Clone, Copy, Debug)]
pub struct Access<'r> {
    pub rules: &'r AccessRules,
    pub policy: &'r OrgPolicy,
    /// Unix seconds.
    pub now: u64,
}

/// What an actor wants to do with a key.
#[derive(Clone, Copy, Debug)]
pub enum KeyAction<'a> {
    /// The entry is the new key.
    Create {
        /// Keys of its org that are neither final nor expired.
        living: u64,
    },
    Edit {
        /// The key as it would be after the change.
        to: &'a RegistryEntry,
        living: u64,
    },
    Rotate {
        /// The key whose secret is shown.
        to: &'a RegistryEntry,
        living: u64,
    },
    See,
    SeeAudit,
    SeeUsage,
    SetStatus(StatusChange),
}

/// Why the actor may not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// The key that asks is revoked, disabled or expired.
    #[error("the key that asks is {0}")]
    ActorEnded(&'static str),
    /// The change would grant more than the actor holds.
    #[error("{0}")]
    Exceeds(Excess),
    /// The key to be changed holds more than the actor.
    #[error("the key holds more than whoever asks: {0}")]
    HoldsMore(Excess),
    #[error("the last owner of an organization cannot go")]
    LastOwner,
    /// The key that asks lacks a management word.
    #[error("needs the permission `{}`", .0.as_str())]
    Lacks(Permission),
    #[error("only people grant `{}`", .0.as_str())]
    PeopleOnly(Permission),
    #[error("the policy of the organization: {0}")]
    Policy(PolicyFault),
    #[error("needs another role than {}", .0.as_str())]
    Role(PersonRole),
    /// It belongs to the org in all audiences, but the actor's role counts in one only.
    #[error("your role counts for one product alone, and the policy is that of all of them")]
    Shared,
    /// The key belongs to another org, or is not one of the member's own. The actor must not learn
    /// that it exists.
    #[error("no such key")]
    Unseen,
}

/// How something goes beyond what an actor holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    #[error("valid in {}", environment(*.0))]
    Environment(Option<Environment>),
    /// Unix seconds; `None`: the key never ends.
    #[error("ends {}, and whoever asks holds nothing from {} on", end(*.is), time::show(*.held))]
    Ends { is: Option<u64>, held: u64 },
    /// `None`: the key may be used from everywhere.
    #[error("may be used from {}", .0.as_ref().map_or_else(|| "everywhere".into(), show_network))]
    Network(Option<ipnet::IpNet>),
    #[error("is owned by somebody else, for whom it would speak")]
    Owner,
    #[error("holds `{}`", .0.as_str())]
    Permission(Permission),
    /// The role that the key would carry.
    #[error("would speak with the role `{0}`")]
    Role(Box<str>),
}

// === impl ManagementWords ===

impl ManagementWords {
    /// `keys:read`, `keys:write`, `keys:revoke`, `usage:read`, `audit:read` and `embed:create`.
    pub fn standard() -> Result<Self, NameError> {
        Ok(Self {
            read: Permission::parse("keys:read")?,
            write: Permission::parse("keys:write")?,
            revoke: Permission::parse("keys:revoke")?,
            usage: Permission::parse("usage:read")?,
            audit: Permission::parse("audit:read")?,
            embed: Permission::parse("embed:create")?,
        })
    }

    pub fn contain(&self, word: &Permission) -> bool {
        let Self { read, write, revoke, usage, audit, embed } = self;
        [read, write, revoke, usage, audit, embed].contains(&word)
    }
}

// === impl AccessRules ===

impl AccessRules {
    /// Whether an actor that holds `held` also holds `word`.
    pub fn covers(&self, held: &PermissionSet, word: &Permission) -> bool {
        let exactly = held.iter().any(|h| h == word);
        exactly
            || held.holds(word)
                && (self.star == StarCovers::Everything || !self.words.contain(word))
    }
}

// === impl Access ===

impl Access<'_> {
    /// Whether `actor` may do this to `entry`: the key as it is, or the new one.
    ///
    /// # Errors
    ///
    /// The first rule that forbids it. Answer [`NotAllowed::Unseen`] as if the key did not exist.
    pub fn may(
        &self,
        actor: &Actor,
        action: KeyAction<'_>,
        entry: &RegistryEntry,
    ) -> Result<(), NotAllowed> {
        match actor {
            Actor::Host => {}
            Actor::Key { id, org, holds, owner } => {
                if *org != entry.org {
                    return Err(NotAllowed::Unseen);
                }
                if *id == entry.id && is_end_or_look(action) {
                    return Ok(());
                }
                self.needs_word(holds, action)?;
                self.touches(holds, action, entry)?;
                self.keeps_voices(owner.as_ref(), action, entry)?;
                self.stays_within(holds, action, entry)?;
                self.owns(owner.as_ref(), action, entry)?;
                self.grants_no_management(action, entry)?;
            }
            Actor::Person { role, org, owner, holds } => {
                if *role != PersonRole::Operator && *org != entry.org {
                    return Err(NotAllowed::Unseen);
                }
                self.has_role(*role, owner, action, entry)?;
                if !is_end_or_look(action) {
                    self.touches(holds, action, entry)?;
                }
                self.stays_within(holds, action, entry)?;
                speaks_within(*role, owner, action, entry)?;
                if *role == PersonRole::Member {
                    let own = HeldRights {
                        permissions: HeldPermissions::These(self.rules.member.clone()),
                        ..HeldRights::everything()
                    };
                    if !is_end_or_look(action) {
                        self.touches(&own, action, entry)?;
                    }
                    self.stays_within(&own, action, entry)?;
                    self.owns(Some(owner), action, entry)?;
                    // A key without an owner belongs to no member.
                    if granted(action, entry).is_some_and(|granted| granted.owner.is_none()) {
                        return Err(NotAllowed::Exceeds(Excess::Owner));
                    }
                }
            }
        }
        self.policy_allows(action, entry).map_err(NotAllowed::Policy)
    }

    fn needs_word(&self, holds: &HeldRights, action: KeyAction<'_>) -> Result<(), NotAllowed> {
        let words = &self.rules.words;
        let (needed, other) = match action {
            KeyAction::Create { .. }
            | KeyAction::Edit { .. }
            | KeyAction::Rotate { .. }
            | KeyAction::SetStatus(StatusChange::Enable) => (&words.write, None),
            KeyAction::See => (&words.read, None),
            KeyAction::SeeAudit => (&words.audit, None),
            KeyAction::SeeUsage => (&words.usage, None),
            KeyAction::SetStatus(StatusChange::Disable) => (&words.revoke, Some(&words.write)),
            KeyAction::SetStatus(
                StatusChange::Canary | StatusChange::Revoke | StatusChange::RevokeFormer,
            ) => (&words.revoke, None),
        };
        let is_held = std::iter::once(needed).chain(other).any(|word| self.holds_word(holds, word));
        if is_held { Ok(()) } else { Err(NotAllowed::Lacks(needed.clone())) }
    }

    fn holds_word(&self, holds: &HeldRights, word: &Permission) -> bool {
        match &holds.permissions {
            HeldPermissions::All => true,
            HeldPermissions::These(held) => self.rules.covers(held, word),
        }
    }

    fn has_role(
        &self,
        role: PersonRole,
        owner: &Owner,
        action: KeyAction<'_>,
        entry: &RegistryEntry,
    ) -> Result<(), NotAllowed> {
        let is_look = matches!(action, KeyAction::See | KeyAction::SeeAudit | KeyAction::SeeUsage);
        let may = match role {
            PersonRole::Admin | PersonRole::Owner => true,
            PersonRole::Auditor => is_look,
            PersonRole::Member => {
                let is_new = matches!(action, KeyAction::Create { .. });
                let is_own =
                    entry.owner.is_some() && !is_of_another(entry.owner.as_ref(), Some(owner));
                if !is_new && !is_own {
                    return Err(NotAllowed::Unseen);
                }
                true
            }
            PersonRole::Operator => is_end_or_look(action),
        };
        if may { Ok(()) } else { Err(NotAllowed::Role(role)) }
    }

    /// A key that is to be changed must hold no more than the actor.
    fn touches(
        &self,
        holds: &HeldRights,
        action: KeyAction<'_>,
        entry: &RegistryEntry,
    ) -> Result<(), NotAllowed> {
        let excess = match action {
            KeyAction::Create { .. }
            | KeyAction::See
            | KeyAction::SeeAudit
            | KeyAction::SeeUsage => None,
            KeyAction::Edit { .. }
            | KeyAction::Rotate { .. }
            | KeyAction::SetStatus(StatusChange::Enable) => self.excess(holds, entry),
            // How long a key lives says nothing about what it could do until then.
            KeyAction::SetStatus(_) => {
                let forever = HeldRights { ends: None, ..holds.clone() };
                self.excess(&forever, entry)
            }
        };
        excess.map_or(Ok(()), |excess| Err(NotAllowed::HoldsMore(excess)))
    }

    /// The resulting key must hold no more than the actor.
    fn stays_within(
        &self,
        holds: &HeldRights,
        action: KeyAction<'_>,
        entry: &RegistryEntry,
    ) -> Result<(), NotAllowed> {
        let excess = granted(action, entry).and_then(|granted| self.excess(holds, granted));
        excess.map_or(Ok(()), |excess| Err(NotAllowed::Exceeds(excess)))
    }

    /// A key gets no secret that speaks for another person or with a stronger role. Nor does it
    /// make a key of one person speak for another.
    fn keeps_voices(
        &self,
        owner: Option<&Owner>,
        action: KeyAction<'_>,
        entry: &RegistryEntry,
    ) -> Result<(), NotAllowed> {
        let of_key = entry.owner.as_ref();
        let is_taken = match action {
            KeyAction::Rotate { .. } => is_of_another(of_key, owner),
            KeyAction::Edit { to, .. } => to.owner != entry.owner && is_of_another(of_key, owner),
            _ => return Ok(()),
        };
        if is_taken {
            return Err(NotAllowed::HoldsMore(Excess::Owner));
        }
        let own = owner.map_or("", |owner| owner.view().role);
        match (action, of_key.map(|owner| owner.view().role)) {
            (KeyAction::Rotate { .. }, Some(role)) if is_stronger(role, own) => {
                Err(NotAllowed::HoldsMore(Excess::Role(role.into())))
            }
            _ => Ok(()),
        }
    }

    /// Only owners and admins make a key speak for another person: the credential that the service
    /// gets may state the owner's role.
    fn owns(
        &self,
        owner: Option<&Owner>,
        action: KeyAction<'_>,
        entry: &RegistryEntry,
    ) -> Result<(), NotAllowed> {
        match stated_owner(action, entry) {
            Some(stated) if Some(stated) != owner => Err(NotAllowed::Exceeds(Excess::Owner)),
            _ => Ok(()),
        }
    }

    /// A key grants no management words, not even those that it holds itself: a person decides
    /// which key is trusted with keys.
    fn grants_no_management(
        &self,
        action: KeyAction<'_>,
        entry: &RegistryEntry,
    ) -> Result<(), NotAllowed> {
        let Some(granted) = granted(action, entry) else { return Ok(()) };
        let had: &[Permission] = match action {
            // An edit hands out no secret, and a person granted what the key already has.
            KeyAction::Edit { .. } => &entry.permissions,
            KeyAction::SetStatus(_) => &entry.permissions,
            _ => &[],
        };
        let is_new = |word: &&Permission| self.rules.words.contain(word) && !had.contains(word);
        match granted.permissions.iter().find(is_new) {
            Some(word) => Err(NotAllowed::PeopleOnly(word.clone())),
            None => Ok(()),
        }
    }

    /// What of `entry` goes beyond `holds`; `None`: nothing. A final key holds nothing.
    pub fn excess(&self, holds: &HeldRights, entry: &RegistryEntry) -> Option<Excess> {
        if entry.status.is_final() {
            return None;
        }
        if let Some(word) = entry.permissions.iter().find(|word| !self.holds_word(holds, word)) {
            return Some(Excess::Permission(word.clone()));
        }
        if !holds.networks.is_empty() {
            let held = ipnet::IpNet::aggregate(&holds.networks);
            let beyond = |network: &&ipnet::IpNet| !held.iter().any(|h| h.contains(*network));
            if entry.networks.is_empty() {
                return Some(Excess::Network(None));
            }
            if let Some(network) = entry.networks.iter().find(beyond) {
                return Some(Excess::Network(Some(*network)));
            }
        }
        match holds.environments {
            HeldEnvironments::Only(held) if held != entry.environment => {
                return Some(Excess::Environment(entry.environment));
            }
            HeldEnvironments::All | HeldEnvironments::Only(_) => {}
        }
        let held = holds.ends?;
        let is_longer = entry.expires.is_none_or(|ends| ends > held);
        is_longer.then_some(Excess::Ends { is: entry.expires, held })
    }
}

// === impl NotAllowed ===

impl NotAllowed {
    /// The field of the request that asks for too much, if there is one.
    pub const fn field(&self) -> Option<KeyField> {
        match self {
            Self::Exceeds(excess) => Some(excess.field()),
            Self::PeopleOnly(_) => Some(KeyField::Permissions),
            Self::Policy(fault) => fault.field(),
            Self::ActorEnded(_)
            | Self::HoldsMore(_)
            | Self::LastOwner
            | Self::Lacks(_)
            | Self::Role(_)
            | Self::Shared
            | Self::Unseen => None,
        }
    }
}

// === impl Excess ===

impl Excess {
    pub const fn field(&self) -> KeyField {
        match self {
            Self::Ends { .. } => KeyField::Expires,
            Self::Environment(_) => KeyField::Environment,
            Self::Network(_) => KeyField::Networks,
            Self::Owner | Self::Role(_) => KeyField::Owner,
            Self::Permission(_) => KeyField::Permissions,
        }
    }
}

/// What an action grants: the resulting key.
fn granted<'a>(action: KeyAction<'a>, entry: &'a RegistryEntry) -> Option<&'a RegistryEntry> {
    match action {
        KeyAction::Create { .. } | KeyAction::SetStatus(StatusChange::Enable) => Some(entry),
        KeyAction::Edit { to, .. } | KeyAction::Rotate { to, .. } => Some(to),
        KeyAction::See
        | KeyAction::SeeAudit
        | KeyAction::SeeUsage
        | KeyAction::SetStatus(
            StatusChange::Canary
            | StatusChange::Disable
            | StatusChange::Revoke
            | StatusChange::RevokeFormer,
        ) => None,
    }
}

const fn is_end_or_look(action: KeyAction<'_>) -> bool {
    match action {
        KeyAction::See | KeyAction::SeeAudit | KeyAction::SeeUsage => true,
        KeyAction::SetStatus(change) => !matches!(change, StatusChange::Enable),
        KeyAction::Create { .. } | KeyAction::Edit { .. } | KeyAction::Rotate { .. } => false,
    }
}

/// The owner that a change gives to a key.
fn stated_owner<'a>(action: KeyAction<'a>, entry: &'a RegistryEntry) -> Option<&'a Owner> {
    match action {
        KeyAction::Create { .. } => entry.owner.as_ref(),
        KeyAction::Edit { to, .. } if to.owner != entry.owner => to.owner.as_ref(),
        _ => None,
    }
}

/// The service may get a credential with the role of a key's owner. So no person makes a key, or
/// gets a secret, that carries a stronger role than theirs. Only the host grants words that are not
/// among keygate's roles.
fn speaks_within(
    role: PersonRole,
    owner: &Owner,
    action: KeyAction<'_>,
    entry: &RegistryEntry,
) -> Result<(), NotAllowed> {
    let stated = stated_owner(action, entry).filter(|stated| *stated != owner);
    if let Some(said) = stated.map(|stated| stated.view().role)
        && is_stronger(said, role.as_str())
    {
        return Err(NotAllowed::Exceeds(Excess::Role(said.into())));
    }
    let shown = match action {
        KeyAction::Rotate { to, .. } => to.owner.as_ref().map(|owner| owner.view().role),
        _ => None,
    };
    match shown {
        Some(said) if PersonRole::parse(said).is_some() && is_stronger(said, role.as_str()) => {
            Err(NotAllowed::HoldsMore(Excess::Role(said.into())))
        }
        _ => Ok(()),
    }
}

/// Whether a key with the role `said` may do more than a person with the role `own`. keygate cannot
/// rank words that are not its own roles, so a different word counts as stronger.
fn is_stronger(said: &str, own: &str) -> bool {
    if said.is_empty() || said == own {
        return false;
    }
    match (PersonRole::parse(said), PersonRole::parse(own)) {
        (Some(said), Some(own)) => said.reach() > own.reach(),
        _ => true,
    }
}

/// Whether a key has an owner, and the owner is not `owner`.
fn is_of_another(of_key: Option<&Owner>, owner: Option<&Owner>) -> bool {
    let subject = |owner: &Owner| owner.view().subject.to_owned();
    of_key.is_some() && of_key.map(subject) != owner.map(subject)
}

fn environment(environment: Option<Environment>) -> String {
    match environment {
        Some(environment) => format!("the environment `{}`", environment.as_str()),
        None => "every environment that asks for none".to_owned(),
    }
}

fn end(at: Option<u64>) -> String {
    at.map_or_else(|| "never".to_owned(), time::show)
}
