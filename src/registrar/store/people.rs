//! Rows of orgs, people, their sessions and sign-ins.

use serde::{Deserialize, Serialize};

use super::change::{Channel, StoreActor};
use super::names::{AudienceName, PersonId};
use crate::core::{Digest, OrgId, Permission, PermissionSet};
use crate::manage::operation::may::{OrgPolicy, PersonRole, RequiredNetworks};

/// What an org has set for all its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrgRules {
    /// Caps on what its keys may be.
    pub policy: OrgPolicy,
    /// What happens to a person's keys when the person loses the role that the keys need.
    pub owner_leaves: OwnerLeaves,
}

/// [`OrgRules`] as a row has them.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct RawOrgRules {
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    longest_life: Option<u64>,
    networks_required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    most_keys: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<Vec<String>>,
    owner_leaves: OwnerLeaves,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnerLeaves {
    Disable,
    /// An employee who leaves is not an outage.
    #[default]
    Keep,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrgRow {
    pub id: OrgId,
    pub rules: OrgRules,
    /// From 1; 0: nobody has set a policy.
    pub version: u64,
}

/// A new policy that somebody asks for.
#[derive(Clone, Debug)]
pub struct OrgChange {
    pub org: OrgId,
    pub rules: OrgRules,
    /// The version that the caller has read.
    pub if_match: Option<u64>,
    pub actor: StoreActor,
    pub channel: Channel,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub id: PersonId,
    /// For people; proves nothing.
    pub name: Box<str>,
    /// For people, as well; may be empty.
    pub email: Box<str>,
    /// Operates the installation.
    pub operator: bool,
    /// When the person was seen last, in milliseconds since 1970-01-01T00:00:00Z.
    pub seen_ms: u64,
}

/// A person's role in an org.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub org: OrgId,
    pub id: PersonId,
    pub role: PersonRole,
    /// Of the person.
    pub name: Box<str>,
    pub email: Box<str>,
    /// When the person was seen last, in milliseconds since 1970-01-01T00:00:00Z.
    pub seen_ms: u64,
}

/// A change of a membership.
#[derive(Clone, Debug)]
pub struct MemberChange {
    pub org: OrgId,
    /// Must exist already ([`Store::put_person`](super::Store::put_person)).
    pub id: PersonId,
    /// `None` removes the member.
    pub role: Option<PersonRole>,
    /// The only audience in which the person's role counts: people of another audience do not see
    /// the audit line. `None`: it counts in all.
    pub about: Option<AudienceName>,
    /// The audience whose keys are to follow ([`KeysDue`]); `None`: the keys of all.
    pub within: Option<AudienceName>,
    pub actor: StoreActor,
    pub channel: Channel,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
}

/// Keys that have to follow a change of their owner's role, and may not all have done so yet: the
/// role is changed first, because it is what ends access, and each key then has its own transaction.
/// It stays noted until [`Store::settle_keys`](super::Store::settle_keys), whatever happens in
/// between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysDue {
    pub org: OrgId,
    pub id: PersonId,
    /// `None`: the keys of all audiences.
    pub within: Option<AudienceName>,
    /// Who has changed the role; a person or a key with the word for that.
    pub by: Box<str>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub since_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// A web component's token, for the keys of one org alone.
    Embed,
    Person,
}

/// A session. The token that opens it is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Of the token of 256 bits.
    pub digest: Digest,
    /// The person sees the session in a list by this id. It opens nothing.
    pub id: Box<str>,
    pub kind: SessionKind,
    pub person: PersonId,
    /// The org that the person looks at.
    pub org: Option<OrgId>,
    /// What the room that made the session stores with it.
    pub detail: serde_json::Value,
    /// The database's epoch when the session began. The store sets it.
    pub epoch: u64,
    /// All three in milliseconds since 1970-01-01T00:00:00Z.
    pub created_ms: u64,
    pub seen_ms: u64,
    /// From then on the session is over, used or not.
    pub ends_ms: u64,
    /// Network address and browser, so that the person can recognise the session.
    pub address: Box<str>,
    pub agent: Box<str>,
}

/// A token to be stored for the component in somebody's page, and whose rights it rests on.
#[derive(Clone, Debug)]
pub struct NewEmbedToken {
    pub audience: AudienceName,
    pub org: OrgId,
    /// The person who makes it.
    pub actor: StoreActor,
    pub channel: Channel,
    /// Of the page.
    pub origin: Box<str>,
    /// What the keys that are made with it can be granted.
    pub permissions: PermissionSet,
    /// Of [`SessionKind::Embed`]; it begins at `created_ms`.
    pub session: SessionRow,
}

/// A sign-in that can be used once: a bootstrap link, the state of a round trip to a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    /// Of the token.
    pub digest: Digest,
    /// `bootstrap`, `oidc`, …
    pub kind: Box<str>,
    /// What the room that made it stores with it.
    pub detail: serde_json::Value,
    /// Both in milliseconds since 1970-01-01T00:00:00Z.
    pub created_ms: u64,
    pub ends_ms: u64,
}

// === impl OrgRules ===

impl OrgRules {
    /// As a row and an audit line have them.
    pub fn to_json(&self) -> serde_json::Value {
        let OrgPolicy { longest_life, networks, most_keys, permissions } = &self.policy;
        let words = |set: &PermissionSet| set.iter().map(|p| p.as_str().to_owned()).collect();
        let raw = RawOrgRules {
            longest_life: *longest_life,
            networks_required: *networks == RequiredNetworks::Required,
            most_keys: *most_keys,
            permissions: permissions.as_ref().map(words),
            owner_leaves: self.owner_leaves,
        };
        serde_json::to_value(raw).unwrap_or_default()
    }

    /// `None`: no program of ours has written this text.
    pub(super) fn of_json(text: &str) -> Option<Self> {
        let raw: RawOrgRules = serde_json::from_str(text).ok()?;
        let words = |words: Vec<String>| {
            let parsed: Result<Vec<_>, _> = words.iter().map(|w| Permission::parse(w)).collect();
            parsed.ok().map(PermissionSet::new)
        };
        let networks = match raw.networks_required {
            true => RequiredNetworks::Required,
            false => RequiredNetworks::Optional,
        };
        let permissions = match raw.permissions {
            Some(list) => Some(words(list)?),
            None => None,
        };
        let RawOrgRules { longest_life, most_keys, owner_leaves, .. } = raw;
        let policy = OrgPolicy { longest_life, networks, most_keys, permissions };
        Some(Self { policy, owner_leaves })
    }
}

// === impl OwnerLeaves ===

impl OwnerLeaves {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Keep => "keep",
        }
    }
}

// === impl SessionKind ===

impl SessionKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Person => "person",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Embed, Self::Person].into_iter().find(|kind| kind.as_str() == text)
    }
}
