//! What is published, why something is not, and who signs.

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use utoipa::ToSchema;

use super::access::AskingCaller;
use super::document::show_ms;
use super::drafts::DraftDocument;
use super::head::PathNames;
use super::problem::ApiProblem;
use crate::manage::operation::may::{OrgAction, PersonRole};
use crate::registrar::app::App;
use crate::registrar::publish::PublicationState;
use crate::registrar::store::{ArtefactHead, AudienceName, SidecarReport};

/// How far an audience is published.
#[derive(Debug, Serialize, ToSchema)]
pub struct PublicationDocument {
    pub audience: String,
    /// Of the last change.
    pub serial: u64,
    /// Changes up to this serial are published.
    pub published: u64,
    pub epoch: u64,
    pub table: Option<ArtefactDocument>,
    pub patch: Option<ArtefactDocument>,
    /// Drafts that wait for other signatures, a table before the patch over it.
    pub drafts: Vec<DraftDocument>,
    /// Why changes are not published; null: they are, or will be in a moment.
    pub unpublished: Option<UnpublishedDocument>,
    /// Whether the database is older than what was published. Then nothing can be changed until it
    /// has caught up; on the host, `keygatectl admin check` says how.
    pub behind: bool,
    /// Null: you may not see them.
    pub sidecars: Option<Vec<SidecarDocument>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct UnpublishedDocument {
    /// `awaiting_signatures`, `behind`, `database`, `disk_full`, `no_signer`, `overtaken`, `signer_refuses`,
    /// `signer_unreachable`, `target` or `unfit`.
    pub reason: &'static str,
    /// Null: at least since the service started.
    #[schema(format = "date-time")]
    pub since: Option<String>,
    /// In full, for operators; null for others.
    pub detail: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ArtefactDocument {
    pub serial: u64,
    /// Serial of the table that a patch is for; for a table, its own serial.
    pub base: u64,
    /// `signed`, or `draft` while others have to sign it.
    pub state: &'static str,
    pub bytes: u64,
    #[schema(format = "date-time")]
    pub made: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SidecarDocument {
    pub fleet: String,
    pub instance: String,
    /// Of what it has in force.
    pub serial: u64,
    pub base: u64,
    /// When it last reported; the beginning of 1970: never, as `answered` says.
    #[schema(format = "date-time")]
    pub seen: String,
    /// `false`: it was asked, and has never answered.
    pub answered: bool,
    pub error: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SignerListDocument {
    pub signers: Vec<SignerDocument>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct SignerDocument {
    pub id: String,
    /// Raw Ed25519 key, in base64.
    pub public_key: String,
    pub note: String,
    #[schema(format = "date-time")]
    pub added: String,
    #[schema(format = "date-time")]
    pub retired: Option<String>,
}

/// Show how far an audience is published
#[utoipa::path(
    get, path = "/audiences/{audience}/publications", tag = "publishing",
    operation_id = "getPublication", params(("audience" = String, Path)),
    responses((status = 200, body = PublicationDocument), super::openapi::Problems),
)]
pub async fn publications(
    State(app): State<App>,
    caller: AskingCaller,
    PathNames(audience): PathNames<String>,
) -> Result<Json<PublicationDocument>, ApiProblem> {
    let sight = caller.in_own_org(&app).await?;
    let audience = AudienceName::parse(&audience).filter(|name| name == sight.audience());
    let audience = audience.ok_or_else(ApiProblem::not_found)?;
    let found = app.store.publication(&audience).await?;
    let sidecars = match sight.may_in(OrgAction::SeeAudit) {
        Ok(()) => Some(match &app.publishing {
            Some(publishing) => publishing.publisher.sidecars(&audience),
            None => app.store.sidecars(&audience).await?,
        }),
        Err(_) => None,
    };
    let state = app.publishing.as_ref().and_then(|p| p.publisher.state(&audience));
    let state = state.unwrap_or_default();
    Ok(Json(PublicationDocument {
        audience: audience.to_string(),
        serial: found.serial,
        published: found.published,
        epoch: found.epoch,
        table: found.table.as_ref().map(ArtefactDocument::of),
        patch: found.patch.as_ref().map(ArtefactDocument::of),
        drafts: state.drafts.iter().map(DraftDocument::of).collect(),
        unpublished: UnpublishedDocument::of(&state, sight.caller.role),
        behind: state.behind.is_some(),
        sidecars: sidecars.map(|all| all.iter().map(SidecarDocument::of).collect()),
    }))
}

/// List who signs tables
#[utoipa::path(
    get, path = "/signers", tag = "publishing", operation_id = "listSigners",
    responses((status = 200, body = SignerListDocument), super::openapi::Problems),
)]
pub async fn signers(
    State(app): State<App>,
    _caller: AskingCaller,
) -> Result<Json<SignerListDocument>, ApiProblem> {
    let signers = app.store.signers().await?;
    let signers = signers.iter().map(|signer| SignerDocument {
        id: signer.id.to_string(),
        public_key: BASE64_STANDARD.encode(signer.public_key),
        note: signer.note.to_string(),
        added: show_ms(signer.added_ms),
        retired: signer.retired_ms.map(show_ms),
    });
    Ok(Json(SignerListDocument { signers: signers.collect() }))
}

// === impl UnpublishedDocument ===

impl UnpublishedDocument {
    fn of(state: &PublicationState, role: Option<PersonRole>) -> Option<Self> {
        let found = state.unpublished.as_ref();
        Some(Self {
            reason: state.hindrance()?.as_str(),
            since: found.map(|unpublished| show_ms(unpublished.since_ms)),
            // It may name files of the host.
            detail: state.hindrance_in_full().filter(|_| role == Some(PersonRole::Operator)),
        })
    }
}

// === impl ArtefactDocument ===

impl ArtefactDocument {
    fn of(head: &ArtefactHead) -> Self {
        Self {
            serial: head.serial,
            base: head.base,
            state: head.state.as_str(),
            bytes: head.bytes,
            made: show_ms(head.made_ms),
        }
    }
}

// === impl SidecarDocument ===

impl SidecarDocument {
    fn of(report: &SidecarReport) -> Self {
        Self {
            fleet: report.fleet.to_string(),
            instance: report.instance.to_string(),
            serial: report.serial,
            base: report.base,
            seen: show_ms(report.seen_ms),
            answered: report.heard_ms().is_some(),
            error: report.error.as_ref().map(ToString::to_string),
        }
    }
}
