//! The screens of an org, as texts: members, sessions, the audit log, its policy, what stands out.

use askama::Template;

use super::super::words::Words;
use super::{Badge, Choice, FormFault, HistoryLine, Link, Moment, PermissionGroup, Shell};

#[derive(Debug, Template)]
#[template(path = "audit.html")]
pub struct AuditLogPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub lines: Vec<HistoryLine>,
    pub older: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct MemberView {
    pub name: String,
    pub email: String,
    pub identity: String,
    pub iss: String,
    pub sub: String,
    pub seen: Moment,
    pub role: String,
    pub roles: Vec<Choice>,
    pub is_me: bool,
    /// Whether the caller may change their role.
    pub can_change: bool,
}

#[derive(Debug, Template)]
#[template(path = "members.html")]
pub struct MembersPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub in_org: String,
    pub can_change: bool,
    pub can_add: bool,
    pub members: Vec<MemberView>,
    pub add_iss: String,
    pub add_sub: String,
    pub add_roles: Vec<Choice>,
    pub left: Option<KeysLeftView>,
    pub faults: Vec<FormFault>,
    pub faults_title: String,
}

#[derive(Clone, Debug, Default)]
pub struct SessionView {
    pub id: String,
    pub agent: String,
    pub address: String,
    pub created: Moment,
    pub seen: Moment,
    pub current: bool,
}

#[derive(Debug, Template)]
#[template(path = "sessions.html")]
pub struct SessionsPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub sessions: Vec<SessionView>,
}

/// Keys of somebody whose role no longer covers them.
#[derive(Clone, Debug, Default)]
pub struct KeysLeftView {
    pub title: String,
    pub text: String,
    pub keys: Vec<KeyLeftView>,
    pub more: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct KeyLeftView {
    pub link: Link,
    pub state: Badge,
}

/// An org's rules for its keys, as they were typed.
#[derive(Clone, Debug, Default)]
pub struct PolicyFields {
    /// `90`, in days, or as durations are written.
    pub longest_life: String,
    pub networks_required: bool,
    pub most_keys: String,
    /// Only ticked permissions are on offer.
    pub limits_permissions: bool,
    pub groups: Vec<PermissionGroup>,
    pub owner_leaves: Vec<Choice>,
}

#[derive(Debug, Template)]
#[template(path = "policy.html")]
pub struct PolicyPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub in_org: String,
    pub version: u64,
    pub can_change: bool,
    pub f: PolicyFields,
    pub faults: Vec<FormFault>,
    pub faults_title: String,
}

// === impl PolicyPage ===

impl PolicyPage<'_> {
    fn fault_of(&self, field: &str) -> Option<&str> {
        let fault = self.faults.iter().find(|fault| fault.field == field);
        fault.map(|fault| fault.why.as_str())
    }
}

/// Something that stands out in the use of a key.
#[derive(Clone, Debug, Default)]
pub struct FindingView {
    pub badge: Badge,
    /// What it means, and what to do about it.
    pub text: String,
    /// A number of requests, or a network.
    pub detail: String,
    pub at: Option<Moment>,
    pub key: Link,
    /// For operators, who see every org.
    pub org: String,
}

#[derive(Debug, Template)]
#[template(path = "findings.html")]
pub struct FindingsPage<'w> {
    pub w: &'w Words,
    pub shell: Shell,
    pub findings: Vec<FindingView>,
    /// There are more keys than these.
    pub more: bool,
}
