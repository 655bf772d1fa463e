//! The org and its people: audit log, members, sessions.

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};

use super::data::FormData;
use super::form::{faults_of, faults_title, refused};
use super::view::{
    AuditLogPage, Choice, FormFault, KeyLeftView, KeysLeftView, Link, MemberView, MembersPage,
    SessionView, SessionsPage,
};
use super::visit::{PostedForm, Section, Visit};
use super::words::{Words, fill};
use super::{html, show};
use crate::core::OrgId;
use crate::manage::operation::may::{KeyAction, OrgAction, PersonRole};
use crate::registrar::people::{self, SIGN_IN};
use crate::registrar::store::{AuditQuery, Member, OwnerLeaves, PersonId};

/// The most keys of somebody who has left to name.
const KEYS_LEFT: usize = 50;

/// Lines on a page of the log.
const LINES: usize = 50;

pub(super) async fn audit(visit: Visit) -> Result<Response, Response> {
    if !visit.may_in(OrgAction::SeeAudit) {
        return Err(forbidden(&visit));
    }
    let query = AuditQuery {
        before: visit.query.text("before").parse().ok(),
        limit: LINES,
        ..AuditQuery::default()
    };
    let page = visit.sight.audit(&visit.app, query).await.map_err(|e| visit.failed(&e))?;
    let link = |id: &str| visit.link(&format!("/keys/{id}"), &[]);
    let screen = AuditLogPage {
        w: visit.w,
        shell: visit.shell(Section::Audit, visit.w.audit_title.to_string()),
        lines: page.lines.iter().map(|l| show::line(visit.w, l, visit.now(), link)).collect(),
        older: page.next.map(|next| visit.link("/audit", &[("before", &next.to_string())])),
    };
    Ok(html(StatusCode::OK, &screen))
}

pub(super) async fn members(visit: Visit) -> Result<Response, Response> {
    let page = members_page(&visit, Vec::new(), &FormData::default()).await?;
    Ok(html(StatusCode::OK, &page))
}

async fn members_page<'w>(
    visit: &Visit,
    faults: Vec<FormFault>,
    typed: &FormData,
) -> Result<MembersPage<'w>, Response> {
    let w = visit.w;
    let Some(org) = visit.sight.org.as_ref().filter(|_| visit.may_in(OrgAction::SeeMembers)) else {
        return Err(forbidden(visit));
    };
    let members = visit.app.store.members(org).await.map_err(|e| visit.failed(&e))?;
    let owners = members.iter().filter(|m| m.role == PersonRole::Owner).count() as u64;
    let me = visit.sight.caller.person.as_ref().map(|person| &person.id);
    let view = |member: &Member| MemberView {
        name: match &*member.name {
            "" => member.id.sub.to_string(),
            name => name.to_owned(),
        },
        email: member.email.to_string(),
        identity: member.id.to_string(),
        iss: member.id.iss.to_string(),
        sub: member.id.sub.to_string(),
        seen: show::moment(w, member.seen_ms / 1000, visit.now()),
        role: role_name(w, member.role),
        roles: roles(visit, Some(member.role), owners, Some(member.role)),
        is_me: Some(&member.id) == me,
        can_change: visit.app.people.may_appoint(&visit.sight.caller, &member.id),
    };
    let add_roles = roles(visit, None, owners, Some(PersonRole::Member));
    let left = keys_left(visit, org, &members).await?;
    Ok(MembersPage {
        w,
        shell: visit.shell(Section::Members, w.members_title.to_string()),
        in_org: visit.in_org(),
        can_change: add_roles.len() > 1,
        can_add: add_roles.len() > 1 && visit.app.people.may_add_people(&visit.sight.caller),
        members: members
            .iter()
            .filter(|member| visit.app.people.sees_person(&visit.sight.caller, &member.id))
            .map(view)
            .collect(),
        add_iss: typed.text("iss").to_owned(),
        add_sub: typed.text("sub").to_owned(),
        add_roles,
        left,
        faults_title: faults_title(w, &faults),
        faults,
    })
}

/// The roles that somebody may be given. For a person who has a role, the last choice is none.
fn roles(
    visit: &Visit,
    from: Option<PersonRole>,
    owners: u64,
    chosen: Option<PersonRole>,
) -> Vec<Choice> {
    let w = visit.w;
    let all = [PersonRole::Owner, PersonRole::Admin, PersonRole::Member, PersonRole::Auditor];
    let each = all.into_iter().map(Some).chain(from.map(|_| None));
    let open = each.filter(|to| {
        let action = OrgAction::ChangeMember { from, to: *to, owners: owners.max(2) };
        *to == from || visit.may_in(action)
    });
    let choice = |to: Option<PersonRole>| Choice {
        value: to.map(PersonRole::as_str).unwrap_or_default().to_owned(),
        label: to.map_or_else(|| w.role_remove.to_string(), |role| role_name(w, role)),
        chosen: to == chosen,
    };
    open.map(choice).collect()
}

fn role_name(w: &Words, role: PersonRole) -> String {
    let name = match role {
        PersonRole::Admin => &w.role_admin,
        PersonRole::Auditor => &w.role_auditor,
        PersonRole::Member => &w.role_member,
        PersonRole::Operator => &w.role_operator,
        PersonRole::Owner => &w.role_owner,
    };
    name.to_string()
}

pub(super) async fn change_member(
    PostedForm { visit, form }: PostedForm,
) -> Result<Response, Response> {
    let w = visit.w;
    if visit.sight.org.is_none() {
        return Err(forbidden(&visit));
    }
    let (iss, sub, role) = (form.text("iss"), form.text("sub"), form.text("role"));
    let known = PersonRole::parse(role);
    if iss.is_empty() || sub.is_empty() || (known.is_none() && !role.is_empty()) {
        let field = if iss.is_empty() { "iss" } else { "sub" };
        let label = if iss.is_empty() { &w.member_iss } else { &w.member_sub };
        let why = w.fault_missing.to_string();
        let fault = FormFault { field: field.to_owned(), label: label.to_string(), why };
        let page = members_page(&visit, vec![fault], &form).await?;
        return Ok(html(StatusCode::UNPROCESSABLE_ENTITY, &page));
    }
    let id = PersonId { iss: iss.into(), sub: sub.into() };
    let done = match people::change_member(&visit.app.people, &visit.sight.caller, id, known).await
    {
        Ok(done) => done,
        Err(error) => {
            let (status, text) = (error.status(), error.to_string());
            let again = format!("{}{SIGN_IN}?again", visit.app.settings.base());
            return Err(visit.error_to(status, &w.sign_in_again_title, text, again));
        }
    };
    match done {
        Ok(left) if left.is_empty() => Ok(visit.go("/members", &[])),
        // That address lists their keys, and still does when somebody returns to it.
        Ok(_) => Ok(visit.go("/members", &[("iss", iss), ("sub", sub)])),
        Err(error) => match faults_of(w, &error, &w.fault_sent_before) {
            Some(faults) => {
                let page = members_page(&visit, faults, &form).await?;
                Ok(refused(&page, Some(&error)))
            }
            None => Err(visit.failed(&error)),
        },
    }
}

/// Keys of the person that the query names, if the person's role does not cover them (any more).
async fn keys_left(
    visit: &Visit,
    org: &OrgId,
    members: &[Member],
) -> Result<Option<KeysLeftView>, Response> {
    let (iss, sub) = (visit.query.text("iss"), visit.query.text("sub"));
    if iss.is_empty() || sub.is_empty() {
        return Ok(None);
    }
    let id = PersonId { iss: iss.into(), sub: sub.into() };
    if !visit.app.people.sees_person(&visit.sight.caller, &id) {
        return Ok(None);
    }
    let (w, app) = (visit.w, &visit.app);
    let role = members.iter().find(|member| member.id == id).map(|member| member.role);
    let found = app
        .people
        .orphans(org, &id, role, visit.sight.caller.bound_to())
        .await
        .map_err(|e| visit.failed(&e))?;
    let person = app.store.person(&id).await.map_err(|e| visit.failed(&e))?;
    let policy = app.store.org(org).await.map_err(|e| visit.failed(&e))?.rules.owner_leaves;
    let mut keys = found.iter().filter(|key| visit.may(KeyAction::See, key));
    let shown = keys.by_ref().take(KEYS_LEFT).map(|key| KeyLeftView {
        link: Link {
            href: visit.link(&format!("/keys/{}", key.entry.id), &[]),
            label: show::name(&key.entry),
        },
        state: show::state(w, &key.entry, visit.now()),
    });
    let shown: Vec<_> = shown.collect();
    let more = keys.count();
    let name = person.map_or_else(|| id.sub.to_string(), |person| person.name.to_string());
    Ok((!shown.is_empty()).then(|| KeysLeftView {
        title: fill(&w.keys_left_title, &[("name", &name)]),
        text: match policy {
            OwnerLeaves::Keep => w.keys_left_keep.to_string(),
            OwnerLeaves::Disable => w.keys_left_disable.to_string(),
        },
        keys: shown,
        more: (more > 0).then(|| fill(&w.keys_left_more, &[("count", &show::number(more as u64))])),
    }))
}

pub(super) async fn sessions(visit: Visit) -> Result<Response, Response> {
    let Some(person) = &visit.sight.caller.person else { return Err(forbidden(&visit)) };
    let w = visit.w;
    let found = visit.app.people.living_sessions(&person.id).await;
    let found = found.map_err(|e| visit.failed(&e))?;
    let at = |ms: u64| show::moment(w, ms / 1000, visit.now());
    let view = found.iter().map(|session| SessionView {
        id: session.id.to_string(),
        agent: match &*session.agent {
            "" => "–".to_owned(),
            agent => agent.to_owned(),
        },
        address: session.address.to_string(),
        created: at(session.created_ms),
        seen: at(session.seen_ms),
        current: Some(&session.id) == visit.sight.caller.session.as_ref(),
    });
    let sessions = view.collect();
    let shell = visit.shell(Section::Sessions, w.sessions_title.to_string());
    Ok(html(StatusCode::OK, &SessionsPage { w, shell, sessions }))
}

pub(super) async fn end_sessions(
    PostedForm { visit, form }: PostedForm,
) -> Result<Response, Response> {
    let Some(person) = &visit.sight.caller.person else { return Err(forbidden(&visit)) };
    let store = &visit.app.store;
    let mine = visit.sight.caller.session.as_deref().unwrap_or_default();
    let ended: Vec<Box<str>> = match form.has("others") {
        true => {
            let found = store.sessions(&person.id, visit.sight.now_ms).await;
            let found = found.map_err(|e| visit.failed(&e))?;
            found.into_iter().map(|s| s.id).filter(|id| **id != *mine).collect()
        }
        false => vec![form.text("session").into()],
    };
    for id in &ended {
        store.end_session(&person.id, id).await.map_err(|e| visit.failed(&e))?;
    }
    match ended.iter().any(|id| **id == *mine) {
        true => {
            Ok(Redirect::to(&format!("{}{SIGN_IN}", visit.app.settings.base())).into_response())
        }
        false => Ok(visit.go("/sessions", &[])),
    }
}

pub(super) fn forbidden(visit: &Visit) -> Response {
    let w = visit.w;
    visit.error(StatusCode::FORBIDDEN, &w.forbidden_title, w.forbidden_text.to_string())
}
