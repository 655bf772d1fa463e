//! One key: its details, and the forms that end, suspend or replace it.

use std::time::Duration;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;

use super::evidence::{self, FRESH, UseReports};
use super::view::{
    FindingView, HistoryLine, KeyDetails, KeyPage, Link, Moment, Notice, RevokePage, RevokeView,
    UsageView,
};
use super::visit::{PostedForm, Section, Visit};
use super::words::fill;
use super::{findings, force, html, show};
use crate::core::KeyStatus;
use crate::manage::operation::StatusChange;
use crate::manage::operation::may::{KeyAction, OrgAction};
use crate::manage::registry::entry::RegistryEntry;
use crate::registrar::store::{AuditQuery, KeyChange, KeyRef, KeyRow};

/// Lines of the history to show.
const HISTORY: usize = 20;

pub(super) async fn show(visit: Visit, Path(id): Path<String>) -> Result<Response, Response> {
    let key = visit.key(&id).await?;
    let w = visit.w;
    let entry = &key.entry;
    let reports = UseReports::of(&visit, &key).await?;
    let sees_history = visit.may_in(OrgAction::SeeAudit) || visit.may(KeyAction::SeeAudit, &key);
    let mut shell = visit.shell(Section::Keys, show::name(entry));
    shell.notice = notice(&visit).await?;
    let screen = KeyPage {
        w,
        shell,
        k: view(&visit, &key, &reports),
        findings: found(&visit, &key).await?,
        evidence: evidence::evidence(&visit, &key).await?,
        usage: usage(&visit, &key).await?,
        history: if sees_history { history(&visit, &key).await? } else { Vec::new() },
        sees_history,
        revoke: revoke_view(&visit, &key, &reports, "confirm"),
    };
    Ok(html(StatusCode::OK, &screen))
}

fn view(visit: &Visit, key: &KeyRow, reports: &UseReports) -> KeyDetails {
    let (w, entry, now) = (visit.w, &key.entry, visit.now());
    let at = |at: Option<u64>| at.map(|at| show::moment(w, at, now));
    let is_final = entry.status.is_final();
    let may = |action: KeyAction<'_>| visit.may(action, key);
    let can = |status| !is_final && may(KeyAction::SetStatus(status));
    let last = key.last_use.as_ref();
    let replaces = entry.replaces.map(|former| Link {
        href: visit.link(&format!("/keys/{former}"), &[]),
        label: former.to_string(),
    });
    let permissions = entry.permissions.iter();
    let may_rotate = !is_final && may(KeyAction::Rotate { to: entry, living: 0 });
    let disabled_pair = is_disabled_pair(entry);
    KeyDetails {
        href: visit.link(&format!("/keys/{}", entry.id), &[]),
        name: show::name(entry),
        id: entry.id.to_string(),
        uid: key.uid.to_string(),
        start: show::start(&visit.audience, entry),
        public_id: entry.public_id.as_deref().map(str::to_owned),
        state: show::state(w, entry, now),
        environment: entry.environment.map(|e| show::environment(w, e)),
        created: at(entry.created),
        not_before: at(entry.not_before.filter(|begin| *begin > now)),
        expires: at(entry.expires),
        sunset: at(entry.sunset),
        former_expires: at(former_end(entry, now)),
        changed: at(Some(key.changed_ms / 1000)),
        last_used: at(last.map(|last| last.at_ms / 1000)),
        no_use: reports.no_use(w),
        last_network: last.map(|last| last.network.to_string()).unwrap_or_default(),
        limits: show::limits(entry),
        owner: entry.owner.as_ref().map(|owner| owner.view().to_string()).unwrap_or_default(),
        plan: entry.plan.as_ref().map(|plan| plan.name.as_str().to_owned()).unwrap_or_default(),
        replaces,
        permissions: permissions
            .map(|word| show::permission(w, &visit.audience, word.as_str()))
            .collect(),
        networks: show::networks(entry),
        note: entry.note.to_string(),
        can_edit: entry.status != KeyStatus::Revoked
            && may(KeyAction::Edit { to: entry, living: 0 }),
        can_rotate: may_rotate && !disabled_pair,
        why_no_rotation: (may_rotate && disabled_pair).then(|| w.rotate_disabled_pair.to_string()),
        can_disable: entry.status == KeyStatus::Active && can(StatusChange::Disable),
        can_enable: entry.status == KeyStatus::Disabled && can(StatusChange::Enable),
        can_revoke: can(StatusChange::Revoke),
    }
}

/// A new secret of such a pair would be refused like its present one: it is enabled first.
pub(super) fn is_disabled_pair(entry: &RegistryEntry) -> bool {
    entry.public_id.is_some() && entry.status == KeyStatus::Disabled
}

/// Until when the former secret of a pair is valid as well, in Unix seconds.
pub(super) fn former_end(entry: &RegistryEntry, now: u64) -> Option<u64> {
    let former = entry.previous.filter(|_| entry.has_former_secret(now));
    former.map(|former| former.expires)
}

/// The outcome of the last change, after the redirect that followed it.
async fn notice(visit: &Visit) -> Result<Option<Notice>, Response> {
    let w = visit.w;
    let text = match visit.query.text("done") {
        "disabled" => &w.disabled_notice,
        "edited" => &w.edited_notice,
        "enabled" => &w.enabled_notice,
        "revoked" => &w.revoked_notice,
        _ => return Ok(None),
    };
    let serial = visit.query.text("serial").parse::<u64>().ok();
    let Some(serial) = serial else {
        return Ok(Some(Notice { text: text.to_string(), ..Notice::default() }));
    };
    let progress = force::wait(visit, serial, Duration::ZERO).await;
    let mut progress = progress.map_err(|e| visit.failed(&e))?;
    progress.took_ms = visit.query.text("ms").parse().ok().filter(|_| progress.is_complete());
    Ok(Some(Notice {
        text: text.to_string(),
        force: Some(progress.text(w)),
        follow: match progress.is_complete() {
            // Asking again would lose how long it took.
            true => String::new(),
            false => visit.link("/in-force", &[("serial", &serial.to_string())]),
        },
    }))
}

async fn history(visit: &Visit, key: &KeyRow) -> Result<Vec<HistoryLine>, Response> {
    let query = AuditQuery {
        org: visit.sight.org.clone(),
        audience: Some(visit.audience.name.clone()),
        object: Some(key.entry.id.to_string().into()),
        before: None,
        limit: HISTORY,
    };
    let page = visit.app.store.audit(query).await.map_err(|e| visit.failed(&e))?;
    let link = |id: &str| visit.link(&format!("/keys/{id}"), &[]);
    let lines = page.lines.iter().map(|line| show::line(visit.w, line, visit.now(), link));
    Ok(lines.collect())
}

/// How the key was used, if anybody has reported it.
async fn usage(visit: &Visit, key: &KeyRow) -> Result<Option<UsageView>, Response> {
    if !visit.may(KeyAction::SeeUsage, key) {
        return Ok(None);
    }
    let key = KeyRef::Id(key.entry.id);
    let store = &visit.app.store;
    let usage = store
        .key_usage(&visit.audience.name, visit.sight.org.as_ref(), key, visit.sight.now_ms)
        .await;
    let usage = usage.map_err(|e| visit.failed(&e))?;
    Ok(show::usage(visit.w, &usage, visit.now()))
}

/// Findings about its use.
async fn found(visit: &Visit, key: &KeyRow) -> Result<Vec<FindingView>, Response> {
    let found = findings::of_keys(visit, vec![key.entry.id]).await.map_err(|e| visit.failed(&e))?;
    Ok(found.iter().map(|found| findings::view(visit, found)).collect())
}

pub(super) fn last_used(visit: &Visit, key: &KeyRow) -> Option<Moment> {
    let last = key.last_use.as_ref();
    last.map(|last| show::moment(visit.w, last.at_ms / 1000, visit.now()))
}

// --- revoke

fn revoke_view(
    visit: &Visit,
    key: &KeyRow,
    reports: &UseReports,
    field: &'static str,
) -> RevokeView {
    let w = visit.w;
    let path = format!("/keys/{}", key.entry.id);
    let name = show::name(&key.entry);
    let used = key.last_use.as_ref().map(|last| last.at_ms / 1000);
    RevokeView {
        title: fill(&w.revoke_title, &[("name", &name)]),
        name,
        action: visit.link(&format!("{path}/revoke"), &[]),
        back: visit.link(&path, &[]),
        in_org: visit.in_org(),
        last_used: last_used(visit, key),
        no_use: reports.no_use(w),
        types_name: match used.is_some_and(|at| at + FRESH > visit.now()) {
            true => Some(w.revoke_type_name.to_string()),
            false if reports.are_whole() => None,
            false => Some(w.revoke_type_name_unknown.to_string()),
        },
        field,
        fault: None,
    }
}

pub(super) async fn ask_revoke(visit: Visit, Path(id): Path<String>) -> Result<Response, Response> {
    let key = visit.key(&id).await?;
    let reports = UseReports::of(&visit, &key).await?;
    let asked = revoke_view(&visit, &key, &reports, "confirm");
    Ok(html(StatusCode::OK, &revoke_page(&visit, asked)))
}

fn revoke_page<'w>(visit: &Visit, revoke: RevokeView) -> RevokePage<'w> {
    let w = visit.w;
    RevokePage { w, shell: visit.shell(Section::Keys, w.revoke_key.to_string()), revoke }
}

pub(super) async fn revoke(
    Path(id): Path<String>,
    posted: PostedForm,
) -> Result<Response, Response> {
    let PostedForm { visit, form } = &posted;
    let key = visit.key(&id).await?;
    let reports = UseReports::of(visit, &key).await?;
    let mut asked = revoke_view(visit, &key, &reports, "confirm");
    if asked.types_name.is_some() && form.text("confirm") != asked.name.trim() {
        asked.fault = Some(visit.w.fault_name_confirm.to_string());
        let page = revoke_page(visit, asked);
        return Ok(html(StatusCode::UNPROCESSABLE_ENTITY, &page));
    }
    set_status(&posted, &key, StatusChange::Revoke).await
}

pub(super) async fn disable(
    Path(id): Path<String>,
    posted: PostedForm,
) -> Result<Response, Response> {
    let key = posted.visit.key(&id).await?;
    set_status(&posted, &key, StatusChange::Disable).await
}

pub(super) async fn enable(
    Path(id): Path<String>,
    posted: PostedForm,
) -> Result<Response, Response> {
    let key = posted.visit.key(&id).await?;
    set_status(&posted, &key, StatusChange::Enable).await
}

async fn set_status(
    PostedForm { visit, form }: &PostedForm,
    key: &KeyRow,
    status: StatusChange,
) -> Result<Response, Response> {
    let what = match status {
        StatusChange::Disable => "disabled",
        StatusChange::Enable => "enabled",
        StatusChange::Canary | StatusChange::Revoke | StatusChange::RevokeFormer => "revoked",
    };
    let change = KeyChange::SetStatus { key: KeyRef::Id(key.entry.id), if_match: None, status };
    let changed = visit.change(change, form).await.map_err(|e| visit.failed(&e))?;
    force::done(visit, &changed, what).await
}
