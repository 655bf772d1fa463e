//! What the API shows: keys, changes, audit lines, publications and callers as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::core::{Environment, LimitSet, Owner};
use crate::manage::registry::words::{show_limit, show_network};
use crate::manage::time;
use crate::registrar::config::PermissionSentence;
use crate::registrar::store::{AuditLine, AuditPage, Changed, KeyRow, Replay};

/// A key. Its secret is stored nowhere and shown once, when it is made.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KeyDocument {
    #[schema(example = "key_4tq9vk2m7rwd")]
    pub id: String,
    #[schema(format = "uuid")]
    pub uid: String,
    pub org: String,
    pub audience: String,
    pub name: String,
    pub state: &'static str,
    pub permissions: Vec<String>,
    /// Addresses and networks from which it may be used; empty: any.
    pub networks: Vec<String>,
    pub environment: Option<&'static str>,
    /// Its own limits, by policy, such as `600/min`.
    pub limits: BTreeMap<String, String>,
    pub plan: Option<String>,
    /// Its limits together with those of its plan, as sidecars enforce them.
    pub limits_in_force: BTreeMap<String, String>,
    #[schema(format = "date-time")]
    pub created: Option<String>,
    #[schema(format = "date-time")]
    pub not_before: Option<String>,
    /// From then on it is refused; null: it has no end.
    #[schema(format = "date-time")]
    pub expires: Option<String>,
    /// When it is meant to go out of use. Callers are told so, but nothing is refused.
    #[schema(format = "date-time")]
    pub sunset: Option<String>,
    pub owner: Option<KeyOwnerDocument>,
    /// The name of the form of its secret.
    pub prefix: Option<String>,
    /// The first characters of the secret after its prefix.
    pub start: String,
    /// For a pair: what a caller sends in addition to the secret.
    pub public_id: Option<String>,
    /// The key that this one succeeds.
    pub replaces: Option<String>,
    /// Until when the former secret of a pair is valid as well.
    #[schema(format = "date-time")]
    pub former_secret_expires: Option<String>,
    pub note: String,
    /// As far as sidecars have reported; null: nobody has reported a use yet.
    pub last_used: Option<LastUseDocument>,
    /// For `If-Match`, in quotes. Rises with each change.
    pub version: u64,
    /// Serial of the last change.
    pub serial: u64,
    #[schema(format = "date-time")]
    pub changed: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeyOwnerDocument {
    pub subject: String,
    pub email: String,
    pub role: String,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LastUseDocument {
    #[schema(format = "date-time")]
    pub at: String,
    /// `203.0.113.0/24`, or empty.
    pub network: String,
}

/// A page of keys.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyPageDocument {
    pub keys: Vec<KeyDocument>,
    /// For `cursor`; null: this is the last page.
    pub next: Option<String>,
    /// How many keys match the filters, on the first page only. Counting stops at `10000+`.
    #[schema(pattern = r"^([0-9]{1,5}|10000\+)$")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<String>,
    /// For the component in a page: what it can grant to a new key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grantable: Option<Vec<PermissionDocument>>,
}

/// A permission that keys can be granted.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PermissionDocument {
    pub word: String,
    /// The heading that it is listed under; may be empty.
    pub group: String,
    /// What it allows.
    pub sentence: String,
}

/// The result of a change.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangeDocument {
    pub key: KeyDocument,
    /// The new secret. It is shown only once: it is stored nowhere and never shown again, not even
    /// when the same request is sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The key that the new one replaces, after a rotation: it has an end now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<KeyDocument>,
    /// The change is in force on a sidecar as soon as the sidecar has this serial.
    pub serial: u64,
    /// Where the change is in force, if `Prefer: wait` asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<InForceDocument>,
}

/// How far a change is in force.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct InForceDocument {
    /// Whether tables or patches with it are published.
    pub published: bool,
    /// Sidecars that have it in force.
    pub sidecars: u64,
    /// Sidecars that are known.
    pub of: u64,
    /// Sidecars that did not report it in time. `FLEET/*`: more than can be remembered.
    pub missing: Vec<String>,
}

/// A change that somebody made after the version that the caller named.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChangedSince {
    #[schema(format = "date-time")]
    pub at: String,
    /// `edit`, `rotate`, `disable`, …
    pub action: String,
    /// Each field with its value before and after.
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    pub fields: serde_json::Value,
}

/// One event.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditLineDocument {
    /// From 1, without gaps.
    pub seq: u64,
    #[schema(format = "date-time")]
    pub at: String,
    pub audience: String,
    pub org: String,
    /// 0 where the event changed no key.
    pub serial: u64,
    pub actor: AuditActorDocument,
    /// Of the caller, or empty.
    pub address: String,
    pub request_id: String,
    pub action: String,
    /// A key's id, or what else was changed.
    pub object: String,
    /// Each field with its value before and after.
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    pub fields: serde_json::Value,
    /// SHA-256 of the line together with all lines before it, in hex.
    pub hash: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AuditActorDocument {
    pub kind: String,
    pub name: String,
}

/// A page of the audit log, the newest line first.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditPageDocument {
    pub lines: Vec<AuditLineDocument>,
    /// For `before`; null: there are no older lines.
    pub next: Option<u64>,
}

/// Milliseconds since 1970 as RFC 3339.
pub fn show_ms(ms: u64) -> String {
    time::show(ms / 1000)
}

// === impl PermissionDocument ===

impl PermissionDocument {
    pub fn of(told: &PermissionSentence) -> Self {
        Self {
            word: told.word.as_str().to_owned(),
            group: told.group.to_string(),
            sentence: told.sentence.to_string(),
        }
    }
}

// === impl KeyDocument ===

impl KeyDocument {
    /// The key as it is at `now_ms`.
    pub fn of(row: &KeyRow, now_ms: u64) -> Self {
        let entry = &row.entry;
        let shown = |at: Option<u64>| at.map(time::show);
        let former = entry.previous.filter(|_| entry.has_former_secret(now_ms / 1000));
        Self {
            id: entry.id.to_string(),
            uid: row.uid.to_string(),
            org: entry.org.as_str().to_owned(),
            audience: row.audience.to_string(),
            name: entry.name.to_string(),
            state: match entry.state(now_ms / 1000) {
                "not yet valid" => "not_yet_valid",
                state => state,
            },
            permissions: entry.permissions.iter().map(|p| p.as_str().to_owned()).collect(),
            networks: entry.networks.iter().map(show_network).collect(),
            environment: entry.environment.map(Environment::as_str),
            limits: limits_of(&entry.limits),
            limits_in_force: limits_of(&entry.limits_in_force()),
            plan: entry.plan.as_ref().map(|plan| plan.name.as_str().to_owned()),
            created: shown(entry.created),
            not_before: shown(entry.not_before),
            expires: shown(entry.expires),
            sunset: shown(entry.sunset),
            owner: entry.owner.as_ref().map(KeyOwnerDocument::of),
            prefix: entry.prefix.as_deref().map(str::to_owned),
            start: entry.key_prefix.to_string(),
            public_id: entry.public_id.as_deref().map(str::to_owned),
            replaces: entry.replaces.map(|id| id.to_string()),
            former_secret_expires: shown(former.map(|former| former.expires)),
            note: entry.note.to_string(),
            last_used: row.last_use.as_ref().map(|last| LastUseDocument {
                at: show_ms(last.at_ms),
                network: last.network.to_string(),
            }),
            version: row.version,
            serial: row.changed,
            changed: show_ms(row.changed_ms),
        }
    }
}

fn limits_of(limits: &LimitSet) -> BTreeMap<String, String> {
    limits.iter().map(|n| (n.policy.as_str().to_owned(), show_limit(n.limit))).collect()
}

// === impl KeyOwnerDocument ===

impl KeyOwnerDocument {
    fn of(owner: &Owner) -> Self {
        let owner = owner.view();
        Self {
            subject: owner.subject.to_owned(),
            email: owner.email.to_owned(),
            role: owner.role.to_owned(),
        }
    }
}

// === impl ChangeDocument ===

impl ChangeDocument {
    /// Moves the secret into it, if one was just made.
    pub fn of(changed: &Changed, now_ms: u64) -> Self {
        let secret = changed.secret.as_ref().filter(|_| changed.replay == Replay::Fresh);
        Self {
            key: KeyDocument::of(&changed.key, now_ms),
            secret: secret.map(|s| String::from_utf8_lossy(s.expose()).into_owned()),
            replaced: changed.replaced.as_ref().map(|row| KeyDocument::of(row, now_ms)),
            serial: changed.serial,
            in_force: None,
        }
    }
}

// === impl AuditPageDocument ===

impl AuditPageDocument {
    pub fn of(page: &AuditPage) -> Self {
        Self { lines: page.lines.iter().map(AuditLineDocument::of).collect(), next: page.next }
    }
}

// === impl AuditLineDocument ===

impl AuditLineDocument {
    pub fn of(line: &AuditLine) -> Self {
        Self {
            seq: line.seq,
            at: show_ms(line.at_ms),
            audience: line.audience.to_string(),
            org: line.org.to_string(),
            serial: line.serial,
            actor: AuditActorDocument {
                kind: line.actor_kind.to_string(),
                name: line.actor.to_string(),
            },
            address: line.address.to_string(),
            request_id: line.request_id.to_string(),
            action: line.action.to_string(),
            object: line.object.to_string(),
            fields: fields_of(line),
            hash: line.hash.to_string(),
        }
    }
}

// === impl ChangedSince ===

impl ChangedSince {
    pub fn of(line: &AuditLine) -> Self {
        let (at, action) = (show_ms(line.at_ms), line.action.to_string());
        Self { at, action, fields: fields_of(line) }
    }
}

fn fields_of(line: &AuditLine) -> serde_json::Value {
    serde_json::from_str(&line.detail).unwrap_or_else(|_| serde_json::json!({}))
}
