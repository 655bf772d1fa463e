//! The form for a new key, and for editing one. Nothing that was typed is lost: if the store
//! rejects it, it is shown again in the form.

pub mod fields;
pub mod request;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use axum::response::Response;

use self::fields::{Original, Typed};
use super::data::FormData;
use super::view::{ChangedField, FormFault, FormPage, Shell, ShownPage};
use super::visit::{PostedForm, Section, Visit};
use super::words::{Words, fill};
use super::{force, html, show};
use crate::manage::operation::EditRequest;
use crate::manage::operation::may::OrgPolicy;
use crate::registrar::store::{Changed, KeyChange, KeyRef, KeyRow, StoreError};

pub(super) async fn new(visit: Visit) -> Result<Response, Response> {
    if !visit.can_create() {
        return Err(may_not(&visit));
    }
    let policy = policy(&visit).await?;
    let typed = Typed::new_key(&visit, &policy);
    Ok(html(StatusCode::OK, &new_page(&visit, &policy, &typed, Vec::new())))
}

pub(super) async fn create(PostedForm { visit, form }: PostedForm) -> Result<Response, Response> {
    let policy = policy(&visit).await?;
    let mut typed = Typed::of(&form);
    let adds_address = typed.adds_address(&visit, &form);
    let again = |faults, error: Option<&StoreError>| {
        let page = new_page(&visit, &policy, &typed, faults);
        FormPage { shell: sent_again(page.shell, &form, error), ..page }
    };
    if adds_address {
        return Ok(html(StatusCode::OK, &again(Vec::new(), None)));
    }
    let asked = match request::create(&visit, &typed) {
        Ok(asked) => asked,
        Err(faults) => return Ok(refused(&again(faults, None), None)),
    };
    match visit.change(KeyChange::Create(Box::new(asked)), &form).await {
        Ok(changed) => shown_once(&visit, changed).await,
        Err(error) => match faults_of(visit.w, &error, &visit.w.fault_sent_before) {
            Some(faults) => Ok(refused(&again(faults, Some(&error)), Some(&error))),
            None => Err(visit.failed(&error)),
        },
    }
}

pub(super) async fn edit(visit: Visit, Path(id): Path<String>) -> Result<Response, Response> {
    let key = visit.key(&id).await?;
    let policy = policy(&visit).await?;
    let original = Original::of(&visit, &key);
    let typed = Typed::of_key(&key);
    let state = EditState::of(&key, original);
    Ok(html(StatusCode::OK, &edit_page(&visit, &policy, &key, &typed, state)))
}

pub(super) async fn save(
    Path(id): Path<String>,
    PostedForm { visit, form }: PostedForm,
) -> Result<Response, Response> {
    let key = visit.key(&id).await?;
    let policy = policy(&visit).await?;
    let mut typed = Typed::of(&form);
    let read = Original::read(form.text("read"));
    let version = form.text("version").parse().unwrap_or(key.version);
    let adds_address = typed.adds_address(&visit, &form);
    let again = |faults, error: Option<&StoreError>| {
        let state = EditState { version, read: read.clone(), faults, conflict: Vec::new() };
        let page = edit_page(&visit, &policy, &key, &typed, state);
        FormPage { shell: sent_again(page.shell, &form, error), ..page }
    };
    if adds_address {
        return Ok(html(StatusCode::OK, &again(Vec::new(), None)));
    }
    let asked: EditRequest = match request::edit(&visit, &key, &typed) {
        Ok(asked) => asked,
        Err(faults) => return Ok(refused(&again(faults, None), None)),
    };
    let change = KeyChange::Edit {
        key: KeyRef::Id(key.entry.id),
        if_match: Some(version),
        request: Box::new(asked),
    };
    match visit.change(change, &form).await {
        Ok(changed) => force::done(&visit, &changed, "edited").await,
        Err(StoreError::VersionMismatch { current }) => {
            let now = Original::of(&visit, &current);
            let conflict = read.changes(visit.w, &now);
            let state = EditState { conflict, ..EditState::of(&current, now) };
            let page = edit_page(&visit, &policy, &current, &typed, state);
            Ok(html(StatusCode::PRECONDITION_FAILED, &page))
        }
        Err(error) => match faults_of(visit.w, &error, &visit.w.fault_edit_sent_before) {
            Some(faults) => Ok(refused(&again(faults, Some(&error)), Some(&error))),
            None => Err(visit.failed(&error)),
        },
    }
}

/// The frame of a form that is shown again, under the name that it had: a store that did not answer
/// may have made the change, and whoever then sends the form again must not make it twice. Only what
/// was made out of other content needs another name.
pub(super) fn sent_again(shell: Shell, form: &FormData, error: Option<&StoreError>) -> Shell {
    match error {
        Some(StoreError::IdempotencyConflict) => shell,
        _ => Shell { once: form.text("once").to_owned(), ..shell },
    }
}

/// What a form for editing a key has in addition to its fields.
struct EditState {
    version: u64,
    read: Original,
    faults: Vec<FormFault>,
    conflict: Vec<ChangedField>,
}

// === impl EditState ===

impl EditState {
    fn of(key: &KeyRow, read: Original) -> Self {
        Self { version: key.version, read, faults: Vec::new(), conflict: Vec::new() }
    }
}

/// What the org's policy allows. The form does not offer what the policy forbids; the store refuses
/// it in any case.
pub(super) async fn policy(visit: &Visit) -> Result<OrgPolicy, Response> {
    let Some(org) = &visit.sight.org else { return Ok(OrgPolicy::default()) };
    let rules = visit.app.store.org(org).await.map_err(|e| visit.failed(&e))?.rules;
    Ok(rules.policy)
}

fn new_page<'w>(
    visit: &Visit,
    policy: &OrgPolicy,
    typed: &Typed,
    faults: Vec<FormFault>,
) -> FormPage<'w> {
    let w = visit.w;
    FormPage {
        w,
        shell: visit.shell(Section::Keys, &*visit.audience.labels.new),
        back: visit.link("/keys", &[]),
        back_label: w.back_to_keys.to_string(),
        lead: w.new_key_lead.to_string(),
        action: visit.link("/keys", &[]),
        submit: visit.audience.labels.create.to_string(),
        in_org: visit.in_org(),
        version: None,
        read: String::new(),
        f: typed.fields(visit, policy, None),
        faults_title: faults_title(w, &faults),
        faults,
        conflict: Vec::new(),
    }
}

fn edit_page<'w>(
    visit: &Visit,
    policy: &OrgPolicy,
    key: &KeyRow,
    typed: &Typed,
    state: EditState,
) -> FormPage<'w> {
    let w = visit.w;
    let path = format!("/keys/{}", key.entry.id);
    let title = fill(&w.edit_title, &[("name", &show::name(&key.entry))]);
    FormPage {
        w,
        shell: visit.shell(Section::Keys, title),
        back: visit.link(&path, &[]),
        back_label: w.back_to_key.to_string(),
        lead: String::new(),
        action: visit.link(&format!("{path}/edit"), &[]),
        submit: w.save.to_string(),
        in_org: visit.in_org(),
        version: Some(state.version),
        read: state.read.text(),
        f: typed.fields(visit, policy, Some(key)),
        faults_title: faults_title(w, &state.faults),
        faults: state.faults,
        conflict: state.conflict,
    }
}

/// The only answer that contains the secret. `no-store` keeps it out of caches, and after a reload
/// the form's name has been used up.
pub(super) async fn shown_once(visit: &Visit, changed: Changed) -> Result<Response, Response> {
    let w = visit.w;
    let entry = &changed.key.entry;
    let labels = &visit.audience.labels;
    let progress = force::wait(visit, changed.serial, force::LONGEST_WAIT).await;
    let progress = progress.map_err(|e| visit.failed(&e))?;
    let secret = changed.secret.as_ref().map(|secret| String::from_utf8_lossy(secret.expose()));
    let secret = secret.unwrap_or_default().into_owned();
    let title = match secret.is_empty() {
        true => &w.was_shown_title,
        false => &w.store_title,
    };
    let public_id = entry.public_id.as_deref().map(str::to_owned);
    let example = match &public_id {
        Some(id) => fill(&labels.pair_example, &[("key", id), ("secret", &secret)]),
        None => fill(&labels.example, &[("secret", &secret)]),
    };
    let page = ShownPage {
        w,
        shell: visit.shell(Section::Keys, title.to_string()),
        name: show::name(entry),
        id_label: labels.key.to_string(),
        secret_label: match public_id {
            Some(_) => labels.secret.to_string(),
            None => labels.key.to_string(),
        },
        public_id,
        curl: example,
        secret,
        force: Some(progress.text(w)),
        follow: visit.link("/in-force", &[("serial", &changed.serial.to_string())]),
        href: visit.link(&format!("/keys/{}", entry.id), &[]),
    };
    Ok(html(StatusCode::OK, &page))
}

/// A form that is shown again, with why. If trying again later helps, machines are told so too.
pub(super) fn refused(page: &impl askama::Template, error: Option<&StoreError>) -> Response {
    let Some(wait) = error.and_then(StoreError::retry_after) else {
        return html(StatusCode::UNPROCESSABLE_ENTITY, page);
    };
    let mut answer = html(StatusCode::SERVICE_UNAVAILABLE, page);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    answer
}

fn may_not(visit: &Visit) -> Response {
    let w = visit.w;
    visit.error(StatusCode::FORBIDDEN, &w.forbidden_title, w.may_not_create.to_string())
}

pub(super) fn faults_title(w: &Words, faults: &[FormFault]) -> String {
    match faults.len() {
        1 => w.faults_title_one.to_string(),
        n => fill(&w.faults_title_many, &[("count", &n.to_string())]),
    }
}

/// The parts of an error that belong to fields of a form. `None`: it is about something else.
/// `sent_before`: what to say if the form was sent before with other content, and was carried out.
pub(super) fn faults_of(
    w: &Words,
    error: &StoreError,
    sent_before: &str,
) -> Option<Vec<FormFault>> {
    let fault = |field: &str, why: String| {
        let (id, label) = field_of(w, field);
        FormFault { field: id.to_owned(), label, why }
    };
    match error {
        StoreError::Invalid { faults } => {
            Some(faults.iter().map(|f| fault(&f.field, f.why.to_string())).collect())
        }
        StoreError::Forbidden { why, field: Some(field) } => Some(vec![fault(field, why.clone())]),
        StoreError::Forbidden { why, field: None } | StoreError::Conflict { why } => {
            Some(vec![fault("", why.clone())])
        }
        StoreError::Away { .. } => Some(vec![fault("", w.away_text.to_string())]),
        StoreError::Busy { .. } => Some(vec![fault("", w.busy_text.to_string())]),
        StoreError::IdempotencyConflict => Some(vec![fault("", sent_before.to_owned())]),
        _ => None,
    }
}

/// The id of the page's element for a field of a request, and the page's name for the field.
fn field_of(w: &Words, field: &str) -> (&'static str, String) {
    let (id, label) = match field {
        "name" => ("name", &w.field_name),
        "permissions" | "add_permissions" | "remove_permissions" => {
            ("permissions", &w.field_permissions)
        }
        "networks" => ("networks", &w.field_networks),
        "expires" | "not_before" | "sunset" => ("expires", &w.field_expires),
        "environment" => ("environment", &w.environment),
        "limits" | "plan" => ("limits", &w.field_limit),
        "prefix" => ("prefix", &w.prefix),
        "note" => ("note", &w.field_note),
        "issuer" => ("iss", &w.member_iss),
        "overlap" => ("overlap", &w.overlap),
        "subject" => ("sub", &w.member_sub),
        _ => ("", &w.error),
    };
    (id, label.to_string())
}
