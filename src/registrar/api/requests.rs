//! What callers send: bodies of changes, turned into requests of `manage`, and their schemas.

use std::collections::BTreeMap;
use std::time::Duration;

use utoipa::ToSchema;

use super::members::{BodyMembers, Patched};
use super::problem::ApiProblem;
use crate::core::address::parse_typed_network;
use crate::core::{Environment, KeyKind, OrgId, Permission};
use crate::manage::operation::may::PersonRole;
use crate::manage::operation::{
    CreateRequest, DetailRequest, EditRequest, FormerSecret, LimitChange, OwnerChange, PlanChange,
    RotateRequest,
};
use crate::manage::registry::plans::PlanName;
use crate::manage::registry::words::{check_given_name, parse_limit, parse_policy};
use crate::manage::time::{self, When};
use crate::registrar::store::PersonId;

/// How long the old secret of a rotation stays valid, unless the caller says otherwise.
const OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);

/// A new key. What is left out means nothing: no permission, no end, no restriction to networks.
#[derive(Debug, ToSchema)]
pub struct KeyCreation {
    /// At most 200 bytes of UTF-8 without control characters, at least one character visible.
    #[schema(min_length = 1, max_length = 200, example = "Production CRM")]
    pub name: String,
    #[schema(required = false, max_items = 256)]
    pub permissions: Vec<String>,
    /// Addresses and networks, such as `203.0.113.7` and `2001:db8::/48`.
    #[schema(required = false, max_items = 256)]
    pub networks: Vec<String>,
    /// An instant such as `2027-01-31T00:00:00Z`, a day such as `2027-01-31` (UTC, to its end) or a
    /// time from now, such as `90d`; null: without end. Left out, it is the audience's default.
    pub expires: Option<String>,
    /// The same forms; null: valid immediately.
    pub not_before: Option<String>,
    /// When it is meant to go out of use, in the same forms.
    pub sunset: Option<String>,
    /// By policy, such as `{"per-key": "600/min"}`.
    #[schema(required = false)]
    pub limits: BTreeMap<String, String>,
    pub plan: Option<String>,
    #[schema(value_type = Option<EnvironmentWord>)]
    pub environment: Option<String>,
    /// A pair has a public id in addition to its secret. Left out, it is as `kind` of the audience
    /// says.
    #[schema(required = false)]
    pub pair: bool,
    /// The name of the form of its secret; null: the default.
    pub prefix: Option<String>,
    /// One line.
    #[schema(required = false)]
    pub note: String,
    /// Whether it is never valid, and raises an alarm when somebody uses it.
    #[schema(required = false)]
    pub canary: bool,
    /// Left out, it is the person who sends the request.
    pub owner: Option<KeyOwnerChange>,
}

/// A merge patch (RFC 7396): what it leaves out stays, and null removes.
#[derive(Debug, ToSchema)]
pub struct KeyPatch {
    #[schema(required = false, min_length = 1, max_length = 200)]
    pub name: String,
    /// Replaces its permissions.
    #[schema(max_items = 256)]
    pub permissions: Option<Vec<String>>,
    /// Replaces its networks; null or empty: it may be used from everywhere.
    #[schema(max_items = 256)]
    pub networks: Option<Vec<String>>,
    pub expires: Option<String>,
    pub not_before: Option<String>,
    pub sunset: Option<String>,
    /// By policy; null removes a limit.
    pub limits: Option<BTreeMap<String, Option<String>>>,
    pub plan: Option<String>,
    #[schema(value_type = Option<EnvironmentWord>)]
    pub environment: Option<String>,
    pub note: Option<String>,
    pub owner: Option<KeyOwnerChange>,
}

#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum EnvironmentWord {
    Live,
    Test,
}

/// Whom a key speaks for.
#[derive(Debug, ToSchema)]
pub struct KeyOwnerChange {
    pub subject: String,
    #[schema(required = false)]
    pub email: String,
    #[schema(required = false)]
    pub role: String,
}

/// How a key is rotated.
#[derive(Debug, ToSchema)]
pub struct KeyRotation {
    /// How long the old secret stays valid, such as `7d`, the default; `0s`: not at all.
    #[schema(required = false, example = "7d")]
    pub overlap: String,
    /// End of the new key; left out, the end that the old one would have had.
    pub expires: Option<String>,
    /// The name of the form of the new secret; left out, the old one's.
    pub prefix: Option<String>,
    /// What happens to a pair's former secret that is still valid: it ends now, or the rotation is
    /// refused.
    #[schema(required = false)]
    pub drop_former_secret: bool,
}

/// The role of a person in the organization.
#[derive(Debug, ToSchema)]
pub struct MemberAssignment {
    pub issuer: String,
    pub subject: String,
    /// Null removes the person from the organization.
    #[schema(value_type = Option<MemberRoleWord>)]
    pub role: Option<String>,
}

#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum MemberRoleWord {
    Admin,
    Auditor,
    Member,
    Owner,
}

/// The result of reading a member assignment.
#[derive(Debug)]
pub struct AssignedRole {
    pub id: PersonId,
    /// `None`: removed from the organization.
    pub role: Option<PersonRole>,
}

/// What a new key is if the body does not say so.
#[derive(Clone, Copy, Debug)]
pub struct NewKeyDefaults {
    pub kind: KeyKind,
    /// `None`: without end.
    pub life: Option<Duration>,
}

/// A new key of `org`.
pub fn new_key(
    body: &[u8],
    org: OrgId,
    defaults: NewKeyDefaults,
) -> Result<CreateRequest, ApiProblem> {
    let mut members = BodyMembers::read(body)?;
    let mut wanted = CreateRequest::plain(org);
    match members.some_text("name", given_name) {
        Some(name) => wanted.name = name,
        None if members.is_sound() => members.fault("name", "is missing"),
        None => {}
    }
    wanted.permissions =
        members.list("permissions", permission).or_null(Vec::new()).unwrap_or_default();
    wanted.networks =
        members.list("networks", parse_typed_network).or_null(Vec::new()).unwrap_or_default();
    wanted.expires = match members.text("expires", end) {
        Patched::Set(when) => Some(when),
        Patched::Removed => None,
        Patched::Kept => defaults.life.map(When::In),
    };
    wanted.not_before = members.text("not_before", When::parse_begin).set();
    wanted.limits = limits(&mut members);
    wanted.environment = members.text("environment", environment).set();
    wanted.kind = match members.boolean("pair") {
        Patched::Kept => defaults.kind,
        Patched::Set(true) => KeyKind::Pair,
        // As with every flag, null says no.
        Patched::Set(false) | Patched::Removed => KeyKind::Single,
    };
    wanted.prefix = members.text("prefix", text).set();
    wanted.note = members.text("note", text).set().unwrap_or_default();
    wanted.canary = members.flag("canary");
    wanted.details = details(&mut members);
    members.end(wanted)
}

/// Turns a merge patch into a request to edit a key.
pub fn key_patch(body: &[u8]) -> Result<EditRequest, ApiProblem> {
    let mut members = BodyMembers::read(body)?;
    let wanted = EditRequest {
        name: members.some_text("name", given_name),
        permissions: members.list("permissions", permission).or_null(Vec::new()),
        add_permissions: Vec::new(),
        remove_permissions: Vec::new(),
        networks: members.list("networks", parse_typed_network).or_null(Vec::new()),
        expires: members.text("expires", end).or_null(When::Never),
        not_before: members.text("not_before", When::parse_begin).or_null(When::Never),
        limits: limits(&mut members),
        environment: members.text("environment", |word| environment(word).map(Some)).or_null(None),
        note: members.text("note", text).or_null(String::new()),
        details: details(&mut members),
    };
    members.end(wanted)
}

pub fn rotation(body: &[u8]) -> Result<RotateRequest, ApiProblem> {
    let mut members = BodyMembers::read(body)?;
    let wanted = RotateRequest {
        overlap: members.some_text("overlap", time::duration).unwrap_or(OVERLAP),
        expires: members.text("expires", end).or_null(When::Never),
        prefix: members.text("prefix", text).set(),
        former: match members.flag("drop_former_secret") {
            true => FormerSecret::Drop,
            false => FormerSecret::Keep,
        },
    };
    members.end(wanted)
}

/// A body that asks for nothing: empty, or an object without members.
pub fn nothing(body: &[u8]) -> Result<(), ApiProblem> {
    BodyMembers::read(body)?.end(())
}

pub fn member(body: &[u8]) -> Result<AssignedRole, ApiProblem> {
    let mut members = BodyMembers::read(body)?;
    let issuer = members.some_text("issuer", name_of_person);
    let subject = members.some_text("subject", name_of_person);
    let role = members.text("role", role);
    if role == Patched::Kept && members.is_sound() {
        members.fault("role", "is missing; null removes the person");
    }
    for (name, found) in [("issuer", &issuer), ("subject", &subject)] {
        if found.is_none() && members.is_sound() {
            members.fault(name, "is missing");
        }
    }
    let id = PersonId { iss: issuer.unwrap_or_default(), sub: subject.unwrap_or_default() };
    members.end(AssignedRole { id, role: role.set() })
}

fn details(members: &mut BodyMembers) -> DetailRequest {
    let plan = members.text("plan", PlanName::parse);
    let owner = members.object("owner", |owner| OwnerChange::State {
        subject: owner.some_text("subject", text),
        email: owner.text("email", text).or_null(String::new()),
        role: owner.text("role", text).or_null(String::new()),
    });
    DetailRequest {
        plan: match plan {
            Patched::Kept => None,
            Patched::Removed => Some(PlanChange(None)),
            Patched::Set(name) => Some(PlanChange(Some(name))),
        },
        sunset: members.text("sunset", end).or_null(When::Never),
        owner: match owner {
            Patched::Kept => OwnerChange::Keep,
            Patched::Removed => OwnerChange::Remove,
            Patched::Set(owner) => owner,
        },
    }
}

fn limits(members: &mut BodyMembers) -> Vec<LimitChange> {
    let found = members.object("limits", |limits| {
        limits.each(|policy, limit| {
            let policy = parse_policy(policy)?;
            let limit = limit.map(|text| parse_limit(text).map_err(|e| e.to_string()));
            Ok::<_, String>(LimitChange { policy, limit: limit.transpose()? })
        })
    });
    found.set().unwrap_or_default()
}

fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn given_name(text: &str) -> Result<String, &'static str> {
    check_given_name(text).map(|()| text.to_owned())
}

fn permission(word: &str) -> Result<Permission, crate::core::NameError> {
    Permission::parse(word)
}

/// `never` belongs to the command line; here it is null.
fn end(text: &str) -> Result<When, String> {
    match When::parse(text) {
        Ok(When::Never) => Err("must be null, which means never".to_owned()),
        parsed => parsed.map_err(|e| e.to_string()),
    }
}

fn environment(word: &str) -> Result<Environment, String> {
    Environment::parse(word).map_err(|_| "must be `live` or `test`".to_owned())
}

fn role(word: &str) -> Result<PersonRole, String> {
    match PersonRole::parse(word) {
        Some(role) if role != PersonRole::Operator => Ok(role),
        _ => Err("must be `owner`, `admin`, `member` or `auditor`".to_owned()),
    }
}

fn name_of_person(text: &str) -> Result<Box<str>, String> {
    match (1..=255).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(text.into()),
        false => Err("must be 1 to 255 bytes without control characters".to_owned()),
    }
}
