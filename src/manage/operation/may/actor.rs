//! Who asks for a change, and what they hold. Imports the registry's entries.

use ipnet::IpNet;

use super::super::super::registry::entry::RegistryEntry;
use super::NotAllowed;
use crate::core::{Environment, KeyId, KeyStatus, OrgId, Owner, PermissionSet};

/// The party that asks. Each may grant at most what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// An account on the host that the service runs on: it could change the database directly.
    Host,
    /// A key with management words, as [`Actor::of_key`] makes it.
    Key { id: KeyId, org: OrgId, owner: Option<Owner>, holds: HeldRights },
    Person {
        role: PersonRole,
        /// The org in which they have the role; meaningless for an operator.
        org: OrgId,
        /// The person, as their keys name them.
        owner: Owner,
        /// What their product lets them do, if it says so.
        holds: HeldRights,
    },
}

/// The role of a person in an org, or, for an operator, in the installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PersonRole {
    /// All keys, and the members of lower rank.
    Admin,
    /// Sees keys, usage and audit.
    Auditor,
    /// Their own keys, within what members may have.
    Member,
    /// Sees and ends keys of every org; issues nothing.
    Operator,
    /// All keys, members and the policy.
    Owner,
}

/// What an actor holds and may therefore grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRights {
    pub permissions: HeldPermissions,
    /// Empty: from everywhere.
    pub networks: Vec<IpNet>,
    pub environments: HeldEnvironments,
    /// Unix seconds; `None`: without end.
    pub ends: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldPermissions {
    /// Every word, including those that manage keys. Only people hold this.
    All,
    These(PermissionSet),
}

/// The environments of an actor. A key without an environment is valid where a `live` key is not,
/// and vice versa, so each can grant only its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldEnvironments {
    All,
    Only(Option<Environment>),
}

// === impl Actor ===

impl Actor {
    /// The key that asks, at `now` (Unix seconds), as it is stored, not as the sidecar admitted it.
    ///
    /// # Errors
    ///
    /// A key that is not in force.
    pub fn of_key(entry: &RegistryEntry, now: u64) -> Result<Self, NotAllowed> {
        match entry.state(now) {
            state if state == KeyStatus::Active.as_str() => Ok(Self::Key {
                id: entry.id,
                org: entry.org.clone(),
                owner: entry.owner.clone(),
                holds: HeldRights::of_key(entry),
            }),
            ended => Err(NotAllowed::ActorEnded(ended)),
        }
    }
}

// === impl HeldRights ===

impl HeldRights {
    pub fn everything() -> Self {
        Self {
            permissions: HeldPermissions::All,
            networks: Vec::new(),
            environments: HeldEnvironments::All,
            ends: None,
        }
    }

    /// What a key holds while it is in force.
    pub fn of_key(entry: &RegistryEntry) -> Self {
        let permissions = PermissionSet::new(entry.permissions.iter().cloned());
        Self {
            permissions: HeldPermissions::These(permissions),
            networks: entry.networks.clone(),
            environments: HeldEnvironments::Only(entry.environment),
            ends: entry.expires,
        }
    }
}

// === impl PersonRole ===

impl PersonRole {
    pub const ALL: [Self; 5] =
        [Self::Admin, Self::Auditor, Self::Member, Self::Operator, Self::Owner];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Auditor => "auditor",
            Self::Member => "member",
            Self::Operator => "operator",
            Self::Owner => "owner",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// Rank for comparing two roles: the higher may do more.
    pub const fn reach(self) -> u8 {
        match self {
            Self::Auditor => 0,
            Self::Member => 1,
            Self::Admin => 2,
            Self::Owner => 3,
            Self::Operator => 4,
        }
    }
}
