//! The form that makes a new secret for a key.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;

use super::evidence::UseReports;
use super::form::fields::{Typed, choice};
use super::form::{faults_of, faults_title, policy, refused, request, sent_again, shown_once};
use super::key::{former_end, is_disabled_pair, last_used};
use super::view::{FormFault, RotatePage};
use super::visit::{PostedForm, Section, Visit};
use super::words::fill;
use super::{html, show};
use crate::manage::operation::{FormerSecret, RotateRequest};
use crate::manage::time;
use crate::registrar::store::{KeyChange, KeyRef, KeyRow, StoreError};

/// What somebody has chosen.
struct TypedRotation {
    /// How long the old secret stays valid.
    overlap: String,
    /// The new end.
    end: Typed,
    /// What becomes of a pair's secret before the present one.
    former: FormerSecret,
}

// === impl TypedRotation ===

impl TypedRotation {
    /// As the form first appears. A key that has ended needs another end.
    async fn of_key(visit: &Visit, key: &KeyRow) -> Result<Self, Response> {
        let end = match has_ended(visit, key) {
            true => Typed::new_key(visit, &policy(visit).await?),
            false => Typed { expires: "keep".to_owned(), ..Typed::default() },
        };
        Ok(Self { overlap: "24h".to_owned(), end, former: FormerSecret::Keep })
    }
}

fn has_ended(visit: &Visit, key: &KeyRow) -> bool {
    key.entry.expires.is_some_and(|end| end <= visit.now())
}

pub(super) async fn ask(visit: Visit, Path(id): Path<String>) -> Result<Response, Response> {
    let key = visit.key(&id).await?;
    if is_disabled_pair(&key.entry) {
        let w = visit.w;
        let text = w.rotate_disabled_pair.to_string();
        let back = visit.link(&format!("/keys/{}", key.entry.id), &[]);
        return Err(visit.error_to(StatusCode::CONFLICT, &w.not_done_title, text, back));
    }
    let typed = TypedRotation::of_key(&visit, &key).await?;
    Ok(html(StatusCode::OK, &page(&visit, &key, &typed, Vec::new()).await?))
}

async fn page<'w>(
    visit: &Visit,
    key: &KeyRow,
    typed: &TypedRotation,
    faults: Vec<FormFault>,
) -> Result<RotatePage<'w>, Response> {
    let w = visit.w;
    let path = format!("/keys/{}", key.entry.id);
    let overlap = |value: &str, label: &str| choice(value, label, &typed.overlap);
    let title = fill(&w.rotate_title, &[("name", &show::name(&key.entry))]);
    let is_pair = key.entry.public_id.is_some();
    // A pair stays the key that it is; the successor of another begins now.
    let of = Some(key).filter(|_| is_pair);
    let mut f = typed.end.fields(visit, &policy(visit).await?, of);
    f.expiry.retain(|choice| choice.value != "keep");
    if !has_ended(visit, key) {
        let end = key.entry.expires.map_or_else(|| w.never_expires.to_string(), show::date);
        let label = fill(&w.keep_expiry, &[("end", &end)]);
        f.expiry.insert(0, choice("keep", &label, &typed.end.expires));
    }
    let former = former_end(&key.entry, visit.now()).map(|end| show::moment(w, end, visit.now()));
    Ok(RotatePage {
        w,
        shell: visit.shell(Section::Keys, title),
        back: visit.link(&path, &[]),
        action: visit.link(&format!("{path}/rotate"), &[]),
        in_org: visit.in_org(),
        overlaps: vec![
            overlap("0s", &w.overlap_none),
            overlap("1h", &w.hour_1),
            overlap("24h", &w.hours_24),
            overlap("7d", &w.days_7),
            overlap("30d", &w.days_30),
        ],
        works_on: match is_pair {
            true => w.old_secret_works.to_string(),
            false => w.old_key_works.to_string(),
        },
        f,
        former,
        drops_former: typed.former == FormerSecret::Drop,
        last_used: last_used(visit, key),
        no_use: UseReports::of(visit, key).await?.no_use(w),
        faults_title: faults_title(w, &faults),
        faults,
    })
}

pub(super) async fn rotate(
    Path(id): Path<String>,
    PostedForm { visit, form }: PostedForm,
) -> Result<Response, Response> {
    let key = visit.key(&id).await?;
    let w = visit.w;
    let typed = TypedRotation {
        overlap: form.text("overlap").to_owned(),
        end: match form.has("expires") {
            true => Typed::of(&form),
            false => Typed { expires: "keep".to_owned(), ..Typed::default() },
        },
        former: match form.has("drop_former") {
            true => FormerSecret::Drop,
            false => FormerSecret::Keep,
        },
    };
    let Ok(overlap) = time::duration(&typed.overlap) else {
        let typed = TypedRotation::of_key(&visit, &key).await?;
        return Ok(html(StatusCode::OK, &page(&visit, &key, &typed, Vec::new()).await?));
    };
    let (expires, faults) = match request::end(&visit, &typed.end) {
        Ok(expires) => (expires, Vec::new()),
        Err(faults) => (None, faults),
    };
    if !faults.is_empty() {
        let page = page(&visit, &key, &typed, faults).await?;
        let page = RotatePage { shell: sent_again(page.shell, &form, None), ..page };
        return Ok(refused(&page, None));
    }
    let request = RotateRequest { overlap, expires, prefix: None, former: typed.former };
    let change = KeyChange::Rotate {
        key: KeyRef::Id(key.entry.id),
        if_match: None,
        request: Box::new(request),
    };
    match visit.change(change, &form).await {
        Ok(changed) => shown_once(&visit, changed).await,
        Err(error) => match faults_of(w, &error, &w.fault_rotation_sent_before) {
            Some(mut faults) => {
                // Asked of the store first: of a rotation that is sent again, the secret that would
                // have to make room is the one in use.
                let keeps = typed.former == FormerSecret::Keep
                    && former_end(&key.entry, visit.now()).is_some();
                if keeps && matches!(error, StoreError::Conflict { .. }) {
                    faults = vec![FormFault {
                        field: "former".to_owned(),
                        label: w.former_secret.to_string(),
                        why: w.fault_former.to_string(),
                    }];
                }
                let page = page(&visit, &key, &typed, faults).await?;
                let shell = sent_again(page.shell, &form, Some(&error));
                Ok(refused(&RotatePage { shell, ..page }, Some(&error)))
            }
            None => Err(visit.failed(&error)),
        },
    }
}
