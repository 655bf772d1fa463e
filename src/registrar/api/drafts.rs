//! Drafts that wait for signatures, for co-signers: with the token of their program, or as
//! operators. A signature is checked with the public key of its signer, whoever submits it.

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::AskingCaller;
use super::document::show_ms;
use super::head::PathNames;
use super::problem::{ApiProblem, ProblemCode, ProblemFault};
use crate::core::Digest;
use crate::manage::operation::may::PersonRole;
use crate::manage::publish::cosigned::{signers_of, with_signature};
use crate::registrar::app::App;
use crate::registrar::config::{AudienceConfig, CoSigner};
use crate::registrar::publish::{PublicationState, WaitingDraft};
use crate::registrar::request::{AskedBy, BODY_LIMIT, bearer, channel_of};
use crate::registrar::store::{
    ArtefactHead, ArtefactState, AudienceName, AuditEvent, StoreActor, StoredArtefact,
};

/// [`AskedBy`] of callers with a co-signer's token.
const CO_SIGNER: &str = "co-signer";

/// How often to try again when others add signatures at the same moment.
const MOST_TRIES: usize = 8;

#[derive(Debug, Serialize, ToSchema)]
pub struct DraftListDocument {
    /// How many signers have to sign.
    pub required: usize,
    /// A table before the patch over it.
    pub drafts: Vec<DraftDocument>,
}

/// A table or patch that waits for signatures.
#[derive(Debug, Serialize, ToSchema)]
pub struct DraftDocument {
    /// `table` or `patch`.
    pub kind: &'static str,
    pub serial: u64,
    pub bytes: u64,
    #[schema(format = "date-time")]
    pub made: String,
    /// Ids of those who have signed it.
    pub signed_by: Vec<String>,
    /// Names of those who have not.
    pub missing: Vec<String>,
}

/// A signature over a draft.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DraftSignature {
    /// Id of the signer.
    #[schema(example = "ed25519:0011223344556677")]
    pub signer: String,
    /// The 64 bytes of a plain Ed25519 signature over the head of the draft, in base64.
    pub signature: String,
}

/// The signatures that a draft has now.
#[derive(Debug, Serialize, ToSchema)]
pub struct DraftSignedDocument {
    pub signed_by: Vec<String>,
    /// How many signers have to sign.
    pub required: usize,
}

/// Somebody who may see drafts of an audience.
struct DraftCaller<'a> {
    audience: &'a AudienceConfig,
    actor: StoreActor,
}

// === impl DraftDocument ===

impl DraftDocument {
    pub(super) fn of(draft: &WaitingDraft) -> Self {
        Self {
            kind: draft.kind.as_str(),
            serial: draft.serial,
            bytes: draft.bytes,
            made: show_ms(draft.made_ms),
            signed_by: draft.signed_by.iter().map(ToString::to_string).collect(),
            missing: draft.missing.iter().map(ToString::to_string).collect(),
        }
    }
}

// === impl DraftCaller ===

impl<'a> DraftCaller<'a> {
    /// A co-signer's program, or an operator. For all others the audience does not exist.
    async fn of(app: &'a App, parts: &mut Parts, name: &str) -> Result<Self, ApiProblem> {
        let audience = AudienceName::parse(name).and_then(|name| app.settings.audience(&name));
        if let (Some(audience), Some(token)) = (audience, bearer(&parts.headers)) {
            let token = Digest::of(token);
            let is_theirs =
                |signer: &&CoSigner| signer.bearer.is_some_and(|own| own.matches(&token));
            if let Some(signer) = audience.co_signers.iter().find(is_theirs) {
                AskedBy::note(parts, CO_SIGNER);
                let who = format!("co-signer {}", signer.name);
                return Ok(Self { audience, actor: StoreActor::HostUser(who.into()) });
            }
        }
        let AskingCaller(caller) = AskingCaller::from_request_parts(parts, app).await?;
        match audience {
            Some(audience) if caller.role == Some(PersonRole::Operator) => {
                Ok(Self { audience, actor: caller.actor })
            }
            _ => Err(ApiProblem::not_found()),
        }
    }

    fn state(&self, app: &App) -> PublicationState {
        let publishing = app.publishing.as_ref();
        publishing.and_then(|p| p.publisher.state(&self.audience.name)).unwrap_or_default()
    }

    /// A draft that waits now, with its bytes.
    async fn draft(
        &self,
        app: &App,
        kind: &str,
        serial: &str,
    ) -> Result<StoredArtefact, ApiProblem> {
        let serial = serial_of(serial).ok_or_else(ApiProblem::not_found)?;
        let state = self.state(app);
        let is_it = |draft: &&WaitingDraft| draft.kind.as_str() == kind && draft.serial == serial;
        let Some(draft) = state.drafts.iter().find(is_it) else {
            return Err(match serial > state.serial {
                true => ApiProblem::not_found(),
                false => outdated(kind, serial),
            });
        };
        let kept = app.store.artefact(&self.audience.name, draft.kind, serial).await?;
        let Some(kept) = kept else { return Err(outdated(kind, serial)) };
        // Enough had signed it, but more have to now.
        let waits = kept.head.state == ArtefactState::Draft
            || kept.head.base > app.store.publication(&self.audience.name).await?.base;
        if waits { Ok(kept) } else { Err(outdated(kind, serial)) }
    }
}

/// A serial as paths contain it: only digits, and in only one spelling.
fn serial_of(text: &str) -> Option<u64> {
    let serial: u64 = text.parse().ok()?;
    (serial.to_string() == text).then_some(serial)
}

/// List the drafts that wait for signatures
///
/// For the co-signers' programs, and for operators.
#[utoipa::path(
    get, path = "/audiences/{audience}/drafts", tag = "publishing", operation_id = "listDrafts",
    security(("co_signer" = []), ("session" = [])), params(("audience" = String, Path)),
    responses((status = 200, body = DraftListDocument), super::openapi::Problems),
)]
pub async fn list(
    State(app): State<App>,
    PathNames(audience): PathNames<String>,
    request: Request,
) -> Result<Json<DraftListDocument>, ApiProblem> {
    let (mut parts, _) = request.into_parts();
    let caller = DraftCaller::of(&app, &mut parts, &audience).await?;
    let drafts = caller.state(&app).drafts.iter().map(DraftDocument::of).collect();
    Ok(Json(DraftListDocument { required: caller.audience.required_signers, drafts }))
}

/// Get the bytes of a draft
///
/// A table or patch in the format that sidecars read, except that signatures are missing:
/// docs/table-format.md. Signers sign its head.
#[utoipa::path(
    get, path = "/audiences/{audience}/drafts/{kind}/{serial}", tag = "publishing",
    operation_id = "getDraft", security(("co_signer" = []), ("session" = [])),
    params(("audience" = String, Path), ("kind" = String, Path), ("serial" = String, Path)),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        super::openapi::Problems,
    ),
)]
pub async fn file(
    State(app): State<App>,
    PathNames((audience, kind, serial)): PathNames<(String, String, String)>,
    request: Request,
) -> Result<Response, ApiProblem> {
    let (mut parts, _) = request.into_parts();
    let caller = DraftCaller::of(&app, &mut parts, &audience).await?;
    let draft = caller.draft(&app, &kind, &serial).await?;
    let form = [(CONTENT_TYPE, "application/octet-stream")];
    Ok((form, Bytes::from(draft.body)).into_response())
}

/// Sign a draft
///
/// Once enough signers have signed it, it is published. Sending the same signature again changes
/// nothing.
#[utoipa::path(
    post, path = "/audiences/{audience}/drafts/{kind}/{serial}/signatures", tag = "publishing",
    operation_id = "signDraft", security(("co_signer" = []), ("session" = [])),
    params(("audience" = String, Path), ("kind" = String, Path), ("serial" = String, Path)),
    request_body = DraftSignature,
    responses((status = 200, body = DraftSignedDocument), super::openapi::Problems),
)]
pub async fn sign(
    State(app): State<App>,
    PathNames((audience, kind, serial)): PathNames<(String, String, String)>,
    request: Request,
) -> Result<Json<DraftSignedDocument>, ApiProblem> {
    let (mut parts, body) = request.into_parts();
    // Read before the credential is checked, because a role may end in the meantime.
    let body = to_bytes(body, BODY_LIMIT).await;
    let caller = DraftCaller::of(&app, &mut parts, &audience).await?;
    let body = body.map_err(|_| ApiProblem::new(ProblemCode::TooLarge, "the body is too long"))?;
    let mut draft = caller.draft(&app, &kind, &serial).await?;
    let (signer, signature) = read(&body, caller.audience)?;
    for _ in 0..MOST_TRIES {
        if has(&draft, signer) {
            break;
        }
        let body = with_signature(&draft.body, &signer.public, &signature).map_err(|_| {
            let why = format!("is no signature by {} over this draft", signer.name);
            ApiProblem::invalid(vec![ProblemFault::at("/signature", why)])
        })?;
        let head = ArtefactHead {
            sha256: Digest::of(&body),
            bytes: body.len() as u64,
            ..draft.head.clone()
        };
        // If two sign at the same time, the second one gets what the first one stored.
        let event = co_signed(&app, &caller, &parts, signer, &head);
        let kept = app.store.co_sign(StoredArtefact { head, body }, event).await?;
        draft = kept.ok_or_else(|| outdated(&kind, draft.head.serial))?;
    }
    if !has(&draft, signer) {
        let why = "others sign it at the same moment; try again";
        return Err(ApiProblem::new(ProblemCode::Busy, why));
    }
    let signed = signers_of(&draft.body).unwrap_or_default();
    let signed_by = signed.iter().map(|key| key.id().to_string()).collect();
    Ok(Json(DraftSignedDocument { signed_by, required: caller.audience.required_signers }))
}

/// It no longer waits. The signer should look for the draft that does.
fn outdated(kind: &str, serial: u64) -> ApiProblem {
    let why = format!(
        "the {kind} of serial {serial} waits for no signature any more: it is published, or something \
         newer has taken its place. Sign what is listed as a draft now"
    );
    ApiProblem::new(ProblemCode::Conflict, why)
}

fn has(draft: &StoredArtefact, signer: &CoSigner) -> bool {
    signers_of(&draft.body).is_ok_and(|signed| signed.contains(&signer.public))
}

fn read<'a>(
    body: &[u8],
    audience: &'a AudienceConfig,
) -> Result<(&'a CoSigner, [u8; 64]), ApiProblem> {
    let read: DraftSignature = serde_json::from_slice(body)
        .map_err(|e| ApiProblem::unreadable(vec![ProblemFault::at("", e.to_string())]))?;
    let is_it = |signer: &&CoSigner| signer.public.id().to_string() == read.signer;
    let signer = audience.co_signers.iter().find(is_it);
    let invalid = |pointer, why: &str| ApiProblem::invalid(vec![ProblemFault::at(pointer, why)]);
    let signer = signer.ok_or_else(|| invalid("/signer", "is none of audiences.co_signers"))?;
    let bytes = BASE64_STANDARD.decode(read.signature.trim()).ok();
    let bytes = bytes.and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
    Ok((signer, bytes.ok_or_else(|| invalid("/signature", "is not the base64 of 64 bytes"))?))
}

/// The audit line of a signature.
fn co_signed(
    app: &App,
    caller: &DraftCaller<'_>,
    parts: &Parts,
    signer: &CoSigner,
    head: &ArtefactHead,
) -> AuditEvent {
    let ArtefactHead { kind, serial, .. } = head;
    let mut detail = serde_json::Map::new();
    detail.insert("signer".to_owned(), signer.public.id().to_string().into());
    detail.insert("name".to_owned(), signer.name.to_string().into());
    AuditEvent {
        at_ms: app.clock.now().unix_ms,
        audience: Some(caller.audience.name.clone()),
        org: None,
        actor: caller.actor.clone(),
        channel: channel_of(parts),
        action: "co-sign",
        object: format!("{} {serial}", kind.as_str()).into(),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_written_in_one_way() {
        assert_eq!(serial_of("0"), Some(0));
        assert_eq!(serial_of("18446744073709551615"), Some(u64::MAX));
        for text in
            ["", "+1", "01", "00", "-0", " 1", "1 ", "1_0", "18446744073709551616", "\u{663}"]
        {
            assert_eq!(serial_of(text), None, "{text:?}");
        }
    }
}
