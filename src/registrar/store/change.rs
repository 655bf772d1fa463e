//! A change of keys as data: who asks, through which channel, for what, and the result. The store
//! carries it out in one transaction.

use std::net::IpAddr;

use super::names::{AudienceName, PersonId, Uid};
use super::rows::KeyRow;
use crate::core::{Digest, KeyId, OrgId, Owner, Secret};
use crate::manage::operation::may::{Actor, HeldRights, PersonRole};
use crate::manage::operation::{CreateRequest, EditRequest, RotateRequest, StatusChange};

/// One change that somebody asks for.
#[derive(Clone, Debug)]
pub struct ChangeRequest {
    pub audience: AudienceName,
    /// The org whose keys the caller may see: for a key of another org the answer is
    /// [`StoreError::NoSuchKey`]. `None`: every org's, for operators and users of the host.
    ///
    /// [`StoreError::NoSuchKey`]: super::StoreError::NoSuchKey
    pub org: Option<OrgId>,
    pub actor: StoreActor,
    pub channel: Channel,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    pub idempotency: Option<IdempotencyKey>,
    pub change: KeyChange,
}

/// Who asks. The rules of `manage` settle inside the transaction what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreActor {
    /// Somebody signed in to an org, or, as an operator, to the installation.
    Person {
        id: PersonId,
        /// In the org of the request.
        role: PersonRole,
        /// The person, as the keys that they make name them.
        owner: Owner,
        /// The rights that their product gives them, where it states them.
        holds: HeldRights,
    },
    /// A caller with a key of this audience. The transaction looks up its grant, so a revoked key
    /// can no longer do anything.
    Key(KeyId),
    /// A user of the host on the command line, as `audit::who` names them. May do everything.
    HostUser(Box<str>),
}

/// The channel through which the request came, for the audit line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channel {
    /// Network address of the caller; `None` on the host.
    pub address: Option<IpAddr>,
    /// Of the HTTP request, or empty.
    pub request_id: Box<str>,
}

/// A name that the caller chose for the request, so that it can send it again: within 24 h the same
/// name with the same body changes nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// 1 to 255 visible ASCII characters. Names of different callers never collide.
    pub name: Box<str>,
    /// Of the method, path and body.
    pub body: Digest,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum KeyChange {
    /// A new key of `request.org`, which must be the org of the [`ChangeRequest`] if that has one.
    Create(Box<CreateRequest>),
    Edit {
        key: KeyRef,
        /// The version that the caller has read; with another one the answer is
        /// [`StoreError::VersionMismatch`](super::StoreError::VersionMismatch). `None`: any
        /// version.
        if_match: Option<u64>,
        request: Box<EditRequest>,
    },
    Rotate {
        key: KeyRef,
        if_match: Option<u64>,
        request: Box<RotateRequest>,
    },
    /// Disable, enable, revoke, mark as a canary.
    SetStatus {
        key: KeyRef,
        if_match: Option<u64>,
        status: StatusChange,
    },
}

/// How a caller names a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRef {
    Id(KeyId),
    Uid(Uid),
}

/// The result of a change. All of it is committed.
#[derive(Debug)]
pub struct Changed {
    /// The audience's serial with this change in force. If the change found nothing to do, this is
    /// the serial of the last change.
    pub serial: u64,
    /// The key as it was; `None`: it is new.
    pub before: Option<Box<KeyRow>>,
    /// The key that the caller asked about, as it is now: the new key, the edited one, the successor.
    pub key: Box<KeyRow>,
    /// The replaced key, after a single key was rotated: it has an end now.
    pub replaced: Option<Box<KeyRow>>,
    /// Shown once and stored nowhere. `None` in a replay, and where no secret was made.
    pub secret: Option<Secret>,
    pub replay: Replay,
}

/// Whether the change happened just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    Fresh,
    /// The same request was carried out before. The answer is the one from then, without the
    /// secret.
    Replayed,
}

/// Something that happened and changed no key.
#[derive(Clone, Debug)]
pub struct AuditEvent {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    pub audience: Option<AudienceName>,
    pub org: Option<OrgId>,
    pub actor: StoreActor,
    pub channel: Channel,
    /// `sign in`, `recover`, …
    pub action: &'static str,
    /// The object of the action; may be empty.
    pub object: Box<str>,
    /// Fields before and after. Never a secret or a digest.
    pub detail: serde_json::Map<String, serde_json::Value>,
}

// === impl StoreActor ===

impl StoreActor {
    /// `person`, `operator`, `key` or `host`, as the audit log writes it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Person { role: PersonRole::Operator, .. } => "operator",
            Self::Person { .. } => "person",
            Self::Key(_) => "key",
            Self::HostUser(_) => "host",
        }
    }

    /// Kind and name. Never the same for two callers.
    pub fn label(&self) -> String {
        format!("{} {}", self.kind(), self.name())
    }

    /// The name within that kind.
    pub fn name(&self) -> String {
        match self {
            Self::Person { id, .. } => id.to_string(),
            Self::Key(id) => id.to_string(),
            Self::HostUser(name) => name.to_string(),
        }
    }

    /// The actor as the rules see them in this org. `None`: a key, which has to be looked up.
    pub fn in_org(&self, org: Option<&OrgId>) -> Option<Actor> {
        match self {
            Self::HostUser(_) => Some(Actor::Host),
            Self::Key(_) => None,
            Self::Person { role, owner, holds, .. } => Some(Actor::Person {
                role: *role,
                // An operator has no org and needs none; everybody else always has one.
                org: org.cloned().or_else(|| OrgId::parse("-").ok())?,
                owner: owner.clone(),
                holds: holds.clone(),
            }),
        }
    }
}

// === impl KeyChange ===

impl KeyChange {
    /// `create`, `edit`, `rotate`, `revoke`, …: as the audit log writes it.
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Edit { .. } => "edit",
            Self::Rotate { .. } => "rotate",
            Self::SetStatus { status, .. } => match status {
                StatusChange::Canary => "canary",
                StatusChange::Disable => "disable",
                StatusChange::Enable => "enable",
                StatusChange::Revoke => "revoke",
                StatusChange::RevokeFormer => "revoke former",
            },
        }
    }
}
