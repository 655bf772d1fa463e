//! What callers can look up in addition to keys: themselves, permissions, members, sessions, the
//! audit log.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::AskingCaller;
use super::document::{AuditPageDocument, PermissionDocument, show_ms};
use super::head::{ChangeCall, PathNames, QueryParameters};
use super::problem::ApiProblem;
use super::requests::{self, MemberAssignment};
use crate::core::{KeyId, Permission, PermissionSet};
use crate::manage::operation::may::{Actor, HeldPermissions, OrgAction, PersonRole};
use crate::registrar::app::App;
use crate::registrar::people::{Caller, change_member};
use crate::registrar::sight::CallerSight;
use crate::registrar::store::{AuditQuery, StoreActor, owner_subject};

/// Who you are to the service.
#[derive(Debug, Serialize, ToSchema)]
pub struct WhoamiDocument {
    /// `person`, `operator` or `key`.
    pub kind: &'static str,
    /// For a key its id, for a person issuer and subject.
    pub id: String,
    pub name: Option<String>,
    pub audience: String,
    pub org: Option<String>,
    pub role: Option<&'static str>,
    /// The organizations that you can choose from.
    pub orgs: Vec<OrgRoleDocument>,
    /// The permissions that you hold, and the most that you can grant; null: everything that is on
    /// offer.
    pub permissions: Option<Vec<String>>,
    /// How you have shown who you are.
    pub by: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct OrgRoleDocument {
    pub org: String,
    pub role: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct PermissionListDocument {
    pub permissions: Vec<PermissionDocument>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct MemberListDocument {
    pub members: Vec<MemberDocument>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct MemberDocument {
    pub issuer: String,
    pub subject: String,
    pub name: String,
    pub email: String,
    pub role: &'static str,
    /// The `owner.subject` of their keys.
    pub owner: String,
    #[schema(format = "date-time")]
    pub seen: String,
}

/// Keys of somebody who has lost the role that they need.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemberChangeDocument {
    /// Kept, as the organization's policy says. Somebody should look at them.
    pub kept: Vec<String>,
    /// Disabled, as the organization's policy says.
    pub disabled: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SessionListDocument {
    pub sessions: Vec<SessionDocument>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SessionDocument {
    pub id: String,
    pub org: Option<String>,
    #[schema(format = "date-time")]
    pub created: String,
    #[schema(format = "date-time")]
    pub seen: String,
    #[schema(format = "date-time")]
    pub ends: String,
    pub address: String,
    /// The browser, as it calls itself.
    pub agent: String,
    /// Whether you are using this session now.
    pub current: bool,
}

/// Show who you are to the service
#[utoipa::path(
    get, path = "/whoami", tag = "callers", operation_id = "whoami",
    responses((status = 200, body = WhoamiDocument), super::openapi::Problems),
)]
pub async fn whoami(
    State(app): State<App>,
    AskingCaller(caller): AskingCaller,
) -> Result<Json<WhoamiDocument>, ApiProblem> {
    let permissions = match &caller.actor {
        StoreActor::Key(_) => {
            let sight = AskingCaller(caller.clone()).in_own_org(&app).await?;
            match sight.actor {
                Actor::Key { holds, .. } => words_of(&holds.permissions),
                Actor::Host | Actor::Person { .. } => None,
            }
        }
        StoreActor::Person { role: PersonRole::Member, .. } => {
            let audience = app.settings.audience(caller.audience());
            audience.map(|a| a.access.member.iter().map(|p| p.as_str().to_owned()).collect())
        }
        StoreActor::Person { holds, .. } => words_of(&holds.permissions),
        StoreActor::HostUser(_) => None,
    };
    let orgs = caller.orgs.iter().map(|member| OrgRoleDocument {
        org: member.org.as_str().to_owned(),
        role: member.role.as_str(),
    });
    Ok(Json(WhoamiDocument {
        kind: caller.actor.kind(),
        id: caller.actor.name(),
        name: caller.person.as_ref().map(|person| person.name.to_string()),
        audience: caller.audience().to_string(),
        org: caller.org().map(|org| org.as_str().to_owned()),
        role: caller.role.map(PersonRole::as_str),
        orgs: orgs.collect(),
        permissions,
        by: caller.by.as_str(),
    }))
}

/// List the permissions on offer
///
/// With what each of them allows, in the order of the page. An organization's policy may offer
/// fewer.
#[utoipa::path(
    get, path = "/permissions", tag = "keys", operation_id = "listPermissions",
    responses((status = 200, body = PermissionListDocument), super::openapi::Problems),
)]
pub async fn permissions(
    State(app): State<App>,
    AskingCaller(caller): AskingCaller,
) -> Result<Json<PermissionListDocument>, ApiProblem> {
    let audience = app.settings.audience(caller.audience()).ok_or_else(ApiProblem::not_found)?;
    let policy = policy_permissions(&app, &caller).await?;
    let is_offered = |word: &Permission| has_word(policy.as_ref(), word);
    let permissions = audience.permissions.iter().filter(|p| is_offered(&p.word));
    let permissions = permissions.map(PermissionDocument::of);
    Ok(Json(PermissionListDocument { permissions: permissions.collect() }))
}

/// What the holder of a component's token can grant: those of its permissions that are on offer
/// and, for a member, that members may have. With their sentences, where they have some.
pub async fn grantable(
    app: &App,
    sight: &CallerSight,
) -> Result<Vec<PermissionDocument>, ApiProblem> {
    let audience = app.settings.audience(sight.audience()).ok_or_else(ApiProblem::not_found)?;
    let policy = policy_permissions(app, &sight.caller).await?;
    let Actor::Person { role, holds, .. } = &sight.actor else { return Ok(Vec::new()) };
    let HeldPermissions::These(held) = &holds.permissions else { return Ok(Vec::new()) };
    let rules = &audience.access;
    let is_open = |word: &Permission| {
        let may = *role != PersonRole::Member || rules.covers(&rules.member, word);
        may && has_word(rules.offered.as_ref(), word) && has_word(policy.as_ref(), word)
    };
    let described = |word: &Permission| {
        let told = audience.permissions.iter().find(|told| told.word == *word);
        told.map_or_else(
            || PermissionDocument {
                word: word.as_str().to_owned(),
                group: String::new(),
                sentence: String::new(),
            },
            PermissionDocument::of,
        )
    };
    Ok(held.iter().filter(|word| is_open(word)).map(described).collect())
}

/// The permissions that the org's policy offers; `None`: all.
async fn policy_permissions(
    app: &App,
    caller: &Caller,
) -> Result<Option<PermissionSet>, ApiProblem> {
    match caller.org() {
        Some(org) => Ok(app.store.org(org).await?.rules.policy.permissions),
        None => Ok(None),
    }
}

/// `None` contains every permission.
fn has_word(set: Option<&PermissionSet>, word: &Permission) -> bool {
    set.is_none_or(|set| set.iter().any(|offered| offered == word))
}

/// List the members of your organization
#[utoipa::path(
    get, path = "/members", tag = "people", operation_id = "listMembers",
    responses((status = 200, body = MemberListDocument), super::openapi::Problems),
)]
pub async fn members(
    State(app): State<App>,
    caller: AskingCaller,
) -> Result<Json<MemberListDocument>, ApiProblem> {
    let sight = caller.in_own_org(&app).await?;
    sight.may_in(OrgAction::SeeMembers)?;
    let org = sight.org.as_ref().ok_or_else(ApiProblem::not_found)?;
    let members = app.store.members(org).await?;
    let seen = members.iter().filter(|member| app.people.sees_person(&sight.caller, &member.id));
    let members = seen.map(|member| MemberDocument {
        issuer: member.id.iss.to_string(),
        subject: member.id.sub.to_string(),
        name: member.name.to_string(),
        email: member.email.to_string(),
        role: member.role.as_str(),
        owner: owner_subject(&member.id),
        seen: show_ms(member.seen_ms),
    });
    Ok(Json(MemberListDocument { members: members.collect() }))
}

/// Give a person of your organization a role, or take it away
///
/// Needs a sign-in of the last minutes. The last owner stays. Somebody whose own role counts at one
/// product alone can change only that product's people.
#[utoipa::path(
    put, path = "/members", tag = "people", operation_id = "putMember",
    request_body = MemberAssignment,
    responses(
        (
            status = 200, body = MemberChangeDocument,
            description = "Done; keys of theirs need a role that they do not have any more."
        ),
        (status = 204, description = "Done."),
        super::openapi::Problems,
    ),
)]
pub async fn put_member(
    State(app): State<App>,
    caller: AskingCaller,
    call: ChangeCall,
) -> Result<Response, ApiProblem> {
    let sight = caller.in_own_org(&app).await?;
    sight.may_in(OrgAction::SeeMembers)?;
    sight.caller.recently_signed_in(&app.people)?;
    let assigned = requests::member(&call.body)?;
    // This also deals with the keys of somebody who lost the role that they need, by the org's
    // policy.
    let left = change_member(&app.people, &sight.caller, assigned.id, assigned.role).await??;
    if left.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let ids = |keys: &[KeyId]| keys.iter().map(ToString::to_string).collect();
    let document = MemberChangeDocument { kept: ids(&left.kept), disabled: ids(&left.disabled) };
    Ok(Json(document).into_response())
}

/// List your sessions, the newest first
#[utoipa::path(
    get, path = "/sessions", tag = "people", operation_id = "listSessions",
    responses((status = 200, body = SessionListDocument), super::openapi::Problems),
)]
pub async fn sessions(
    State(app): State<App>,
    AskingCaller(caller): AskingCaller,
) -> Result<Json<SessionListDocument>, ApiProblem> {
    let StoreActor::Person { id, .. } = &caller.actor else { return Err(ApiProblem::not_found()) };
    let sessions = app.people.living_sessions(id).await?;
    let sessions = sessions.iter().map(|session| SessionDocument {
        id: session.id.to_string(),
        org: session.org.as_ref().map(|org| org.as_str().to_owned()),
        created: show_ms(session.created_ms),
        seen: show_ms(session.seen_ms),
        ends: show_ms(session.ends_ms),
        address: session.address.to_string(),
        agent: session.agent.to_string(),
        current: caller.session.as_ref() == Some(&session.id),
    });
    Ok(Json(SessionListDocument { sessions: sessions.collect() }))
}

/// End one of your sessions
#[utoipa::path(
    delete, path = "/sessions/{session}", tag = "people", operation_id = "endSession",
    params(("session" = String, Path)),
    responses((status = 204, description = "Ended."), super::openapi::Problems),
)]
pub async fn end_session(
    State(app): State<App>,
    AskingCaller(caller): AskingCaller,
    PathNames(session): PathNames<String>,
) -> Result<StatusCode, ApiProblem> {
    let StoreActor::Person { id, .. } = &caller.actor else { return Err(ApiProblem::not_found()) };
    match app.store.end_session(id, &session).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiProblem::not_found()),
    }
}

/// List what happened in your organization, the newest first
///
/// An operator who is in no organization sees everything.
#[utoipa::path(
    get, path = "/audit", tag = "audit", operation_id = "listAudit",
    params(
        ("before" = Option<u64>, Query, description = "`next` of the page before."),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 if left out."),
    ),
    responses((status = 200, body = AuditPageDocument), super::openapi::Problems),
)]
pub async fn audit(
    State(app): State<App>,
    caller: AskingCaller,
    parts: Parts,
) -> Result<Json<AuditPageDocument>, ApiProblem> {
    let sight = caller.in_own_org(&app).await?;
    sight.may_in(OrgAction::SeeAudit)?;
    Ok(Json(AuditPageDocument::of(&sight.audit(&app, audit_query(&parts)?).await?)))
}

/// Which page of the audit log the query asks for.
pub fn audit_query(parts: &Parts) -> Result<AuditQuery, ApiProblem> {
    let mut given = QueryParameters::of(parts, &["before", "limit"])?;
    let number = |text: &str| text.parse().map_err(|_| "must be a number".to_owned());
    let query = AuditQuery {
        before: given.take("before", number),
        limit: given.limit().unwrap_or(50),
        ..AuditQuery::default()
    };
    given.end(query)
}

fn words_of(held: &HeldPermissions) -> Option<Vec<String>> {
    match held {
        HeldPermissions::All => None,
        HeldPermissions::These(set) => Some(set.iter().map(|p| p.as_str().to_owned()).collect()),
    }
}
