//! What sidecars go by: publications and signers.

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::view::{Badge, DraftView, PublicationPage, SidecarView, SignerView, SignersPage, Tile};
use super::visit::{Section, Visit};
use super::words::{Words, fill};
use super::{html, show};
use crate::manage::operation::may::{OrgAction, PersonRole};
use crate::registrar::publish::{UnpublishedReason, WaitingDraft};
use crate::registrar::store::{ArtefactHead, ArtefactKind, ArtefactState, SidecarReport};

/// A sidecar that has been quiet for this long is called silent.
const SILENT_MS: u64 = 5 * 60 * 1000;

pub(super) async fn publication(visit: Visit) -> Result<Response, Response> {
    let w = visit.w;
    let store = &visit.app.store;
    let state = store.publication(&visit.audience.name).await.map_err(|e| visit.failed(&e))?;
    let sees_sidecars = visit.may_in(OrgAction::SeeAudit);
    let sidecars = match sees_sidecars {
        true => store.sidecars(&visit.audience.name).await.map_err(|e| visit.failed(&e))?,
        false => Vec::new(),
    };
    let waiting = state.serial.saturating_sub(state.published);
    let publisher = visit.app.publishing.as_ref().map(|publishing| &publishing.publisher);
    let told = publisher.and_then(|p| p.state(&visit.audience.name)).unwrap_or_default();
    let badge = match (state.published, waiting) {
        _ if told.behind.is_some() => Badge { class: "bad", label: w.behind_title.to_string() },
        (0, 0) => Badge { class: "warn", label: w.publication_none.to_string() },
        // A table that cannot be built does not hold patches up, so far.
        (_, 0) if told.unpublished.is_some() => {
            Badge { class: "warn", label: w.publication_all.to_string() }
        }
        (_, 0) => Badge { class: "good", label: w.publication_all.to_string() },
        (_, n) => Badge {
            class: "warn",
            label: fill(&w.publication_behind, &[("count", &show::number(n))]),
        },
    };
    let artefact = |label: &str, head: Option<&ArtefactHead>| Tile {
        label: label.to_owned(),
        value: head.map_or_else(|| "–".to_owned(), |head| head.serial.to_string()),
        detail: match head {
            // Sidecars do not have the newest one.
            Some(head) if head.state == ArtefactState::Draft || head.base > state.base => {
                format!("{} · {}", show::size(head.bytes), w.drafts_title)
            }
            Some(head) => show::size(head.bytes),
            None => String::new(),
        },
        at: head.map(|head| show::moment(w, head.made_ms / 1000, visit.now())),
    };
    let sidecar = |car: &SidecarReport| {
        let behind = state.published.saturating_sub(car.serial);
        let is_silent = car.seen_ms + SILENT_MS < visit.sight.now_ms;
        let state = match (is_silent, behind) {
            (true, _) => Badge { class: "bad", label: w.sidecar_silent.to_string() },
            (false, 0) => Badge { class: "good", label: w.sidecar_current.to_string() },
            (false, n) => Badge {
                class: "warn",
                label: fill(&w.sidecar_late, &[("count", &show::number(n))]),
            },
        };
        SidecarView {
            instance: car.instance.to_string(),
            fleet: car.fleet.to_string(),
            serial: car.serial,
            seen: car.heard_ms().map(|at_ms| show::moment(w, at_ms / 1000, visit.now())),
            state,
            error: car.error.as_deref().unwrap_or_default().to_owned(),
        }
    };
    let published = Tile {
        label: w.serial.to_string(),
        value: state.serial.to_string(),
        detail: format!("{} {}", w.published, state.published),
        at: None,
    };
    let screen = PublicationPage {
        w,
        shell: visit.shell(Section::Publication, w.publication_title.to_string()),
        state: badge,
        why: told.hindrance().map(|reason| hindrance(w, reason)).unwrap_or_default(),
        since: told.unpublished.as_ref().map(|u| show::moment(w, u.since_ms / 1000, visit.now())),
        // It may name files of the host.
        detail: match visit.role() {
            PersonRole::Operator => told.hindrance_in_full().unwrap_or_default(),
            _ => String::new(),
        },
        sees_sidecars,
        tiles: vec![
            published,
            artefact(&w.artefact_table, state.table.as_ref()),
            artefact(&w.artefact_patch, state.patch.as_ref()),
        ],
        drafts_lead: fill(
            &w.draft_required,
            &[("count", &show::number(visit.audience.required_signers as u64))],
        ),
        drafts: drafts(&visit, &told.drafts),
        sidecars: sidecars.iter().map(sidecar).collect(),
    };
    Ok(html(StatusCode::OK, &screen))
}

/// The drafts that wait, with the names of those who have signed them and those who have not.
fn drafts(visit: &Visit, waiting: &[WaitingDraft]) -> Vec<DraftView> {
    let w = visit.w;
    let own = visit.audience.signer.as_ref().and_then(|signer| signer.public().ok());
    let own = own.map(|key| (key.id().to_string(), w.draft_own.to_string()));
    let others = visit.audience.co_signers.iter();
    let others = others.map(|signer| (signer.public.id().to_string(), signer.name.to_string()));
    let named: Vec<_> = own.into_iter().chain(others).collect();
    let view = waiting.iter().map(|draft| {
        let names = |has_signed: bool| {
            let is_it = |id: &str| draft.signed_by.iter().any(|by| **by == *id) == has_signed;
            let names = named.iter().filter(|(id, _)| is_it(id)).map(|(_, name)| name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let kind = match draft.kind {
            ArtefactKind::Patch => &w.artefact_patch,
            ArtefactKind::Table => &w.artefact_table,
        };
        DraftView {
            label: format!("{kind} {}", draft.serial),
            made: show::moment(w, draft.made_ms / 1000, visit.now()),
            signed_by: names(true),
            missing: names(false),
        }
    });
    view.collect()
}

fn hindrance(w: &Words, reason: UnpublishedReason) -> String {
    let text = match reason {
        UnpublishedReason::AwaitingSignatures => &w.unpublished_awaiting,
        UnpublishedReason::Behind => &w.unpublished_behind,
        UnpublishedReason::Database => &w.unpublished_database,
        UnpublishedReason::DiskFull => &w.unpublished_disk_full,
        UnpublishedReason::NoSigner => &w.unpublished_no_signer,
        UnpublishedReason::Overtaken => &w.unpublished_overtaken,
        UnpublishedReason::SignerRefuses => &w.unpublished_refused,
        UnpublishedReason::SignerUnreachable => &w.unpublished_signer,
        UnpublishedReason::Target => &w.unpublished_target,
        UnpublishedReason::Unfit => &w.unpublished_unfit,
    };
    text.to_string()
}

pub(super) async fn signers(visit: Visit) -> Result<Response, Response> {
    let w = visit.w;
    let found = visit.app.store.signers().await.map_err(|e| visit.failed(&e))?;
    let view = found.iter().map(|signer| SignerView {
        id: signer.id.to_string(),
        note: signer.note.to_string(),
        key: BASE64_STANDARD.encode(signer.public_key),
        added: show::moment(w, signer.added_ms / 1000, visit.now()),
        state: match signer.retired_ms {
            Some(_) => Badge { class: "", label: w.retired.to_string() },
            None => Badge { class: "good", label: w.active_filter.to_string() },
        },
    });
    let signers = view.collect();
    let shell = visit.shell(Section::Signers, w.signers_title.to_string());
    Ok(html(StatusCode::OK, &SignersPage { w, shell, signers }))
}
