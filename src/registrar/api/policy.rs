//! `/v1/orgs/ORG/policy`: an organization's rules for all its keys, and for the keys of people who
//! leave.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::AskingCaller;
use super::head::{ChangeCall, PathNames};
use super::members::{BodyMembers, Patched};
use super::problem::{ApiProblem, ProblemDocument};
use crate::core::limit::show_duration;
use crate::core::{Permission, PermissionSet};
use crate::manage::operation::may::{OrgAction, RequiredNetworks};
use crate::manage::time;
use crate::registrar::app::App;
use crate::registrar::sight::CallerSight;
use crate::registrar::store::{OrgChange, OrgRow, OrgRules, OwnerLeaves};

/// The rules of an organization for its keys. Existing keys stay as they are; whatever a change
/// newly sets has to follow the rules, whoever makes the change.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyDocument {
    pub org: String,
    /// The longest life of a new key, such as `90d`; null: keys need no end.
    pub longest_life: Option<String>,
    /// Whether a key has to list the networks from which it may be used.
    pub networks_required: bool,
    /// The most live keys at a time; null: any number.
    pub most_keys: Option<u64>,
    /// Permissions on offer; null: all permissions of the audience.
    pub permissions: Option<Vec<String>>,
    /// What happens to the keys of people who leave, or lose the role that their keys need: `keep`
    /// or `disable`.
    pub owner_leaves: &'static str,
    /// For `If-Match`, in quotes. Rises with each change; 0: nobody has set anything, and the
    /// service's configuration applies.
    pub version: u64,
}

/// A merge patch (RFC 7396): what it leaves out stays, and null removes a cap.
#[derive(Debug, ToSchema)]
pub struct PolicyPatch {
    /// Such as `90d`.
    pub longest_life: Option<String>,
    #[schema(required = false)]
    pub networks_required: bool,
    #[schema(minimum = 1)]
    pub most_keys: Option<u64>,
    #[schema(max_items = 256)]
    pub permissions: Option<Vec<String>>,
    #[schema(required = false, value_type = OwnerLeavesWord)]
    pub owner_leaves: String,
}

#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum OwnerLeavesWord {
    Disable,
    Keep,
}

/// Show an organization's rules for its keys
#[utoipa::path(
    get, path = "/orgs/{org}/policy", tag = "people", operation_id = "getPolicy",
    params(("org" = String, Path)),
    responses(
        (status = 200, body = PolicyDocument, headers(("ETag" = String))),
        super::openapi::Problems,
    ),
)]
pub async fn show(
    State(app): State<App>,
    caller: AskingCaller,
    PathNames(org): PathNames<String>,
) -> Result<Response, ApiProblem> {
    let sight = caller.in_org(&app, &org).await?;
    sight.may_in(OrgAction::ListKeys)?;
    let org = sight.org.as_ref().ok_or_else(ApiProblem::not_found)?;
    Ok(answer(&app, &sight, app.store.org(org).await?))
}

/// Change an organization's rules for its keys
///
/// For its owners, except those of one product alone, because the policy covers all products. Needs
/// `If-Match` with the `ETag` that you have read.
#[utoipa::path(
    patch, path = "/orgs/{org}/policy", tag = "people", operation_id = "changePolicy",
    params(
        ("org" = String, Path),
        ("If-Match" = String, Header, description = "The `ETag` of the policy, or `*`."),
    ),
    request_body(content = PolicyPatch, content_type = "application/json"),
    responses(
        (status = 200, body = PolicyDocument, headers(("ETag" = String))),
        (status = 412, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 428, body = ProblemDocument, content_type = "application/problem+json"),
        super::openapi::Problems,
    ),
)]
pub async fn change(
    State(app): State<App>,
    caller: AskingCaller,
    PathNames(org): PathNames<String>,
    call: ChangeCall,
) -> Result<Response, ApiProblem> {
    let sight = caller.in_org(&app, &org).await?;
    let org = sight.org.clone().ok_or_else(ApiProblem::not_found)?;
    sight.may_in(OrgAction::ChangePolicy)?;
    let old = app.store.org(&org).await?;
    let rules = patched(&app, old.rules, &call.body)?;
    call.needs_match()?;
    let change = OrgChange {
        org,
        rules,
        // What the patch leaves out stays as it was read here.
        if_match: Some(call.version().unwrap_or(old.version)),
        actor: sight.caller.actor.clone(),
        channel: sight.caller.channel.clone(),
        at_ms: sight.now_ms,
    };
    Ok(answer(&app, &sight, app.store.change_org(change).await?))
}

fn answer(app: &App, sight: &CallerSight, mut row: OrgRow) -> Response {
    if let Some(words) = &row.rules.policy.permissions {
        let own = words.iter().filter(|word| sight.sees_word(app, word)).cloned();
        row.rules.policy.permissions = Some(PermissionSet::new(own));
    }
    let mut answer = Json(PolicyDocument::of(&row)).into_response();
    if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", row.version)) {
        answer.headers_mut().insert(header::ETAG, etag);
    }
    answer
}

/// Applies a merge patch to the rules.
fn patched(app: &App, old: OrgRules, body: &[u8]) -> Result<OrgRules, ApiProblem> {
    let mut rules = old;
    let mut members = BodyMembers::read(body)?;
    let policy = &mut rules.policy;
    let life = members.text("longest_life", |text| match time::duration(text) {
        Ok(life) if life.as_secs() == 0 => Err("must be at least `1s`".to_owned()),
        life => life.map(|life| life.as_secs()).map_err(|e| e.to_string()),
    });
    life.put_into(&mut policy.longest_life);
    match members.boolean("networks_required") {
        Patched::Kept => {}
        Patched::Set(true) => policy.networks = RequiredNetworks::Required,
        Patched::Set(false) | Patched::Removed => policy.networks = RequiredNetworks::Optional,
    }
    members.number("most_keys", 1).put_into(&mut policy.most_keys);
    let is_known = |word: &Permission| app.settings.audiences.iter().any(|a| a.offers(word));
    let words = members.list("permissions", |text| match Permission::parse(text) {
        Ok(word) if !is_known(&word) => Err("is no permission here".to_owned()),
        word => word.map_err(|e| e.to_string()),
    });
    words.map(PermissionSet::new).put_into(&mut policy.permissions);
    let leaves = members.some_text("owner_leaves", |word| match word {
        "disable" => Ok(OwnerLeaves::Disable),
        "keep" => Ok(OwnerLeaves::Keep),
        _ => Err("must be `keep` or `disable`"),
    });
    rules.owner_leaves = leaves.unwrap_or(rules.owner_leaves);
    members.end(rules)
}

// === impl PolicyDocument ===

impl PolicyDocument {
    fn of(row: &OrgRow) -> Self {
        let OrgRules { policy, owner_leaves } = &row.rules;
        let words = |set: &PermissionSet| set.iter().map(|word| word.as_str().to_owned()).collect();
        Self {
            org: row.id.as_str().to_owned(),
            longest_life: policy.longest_life.map(|s| show_duration(Duration::from_secs(s))),
            networks_required: policy.networks == RequiredNetworks::Required,
            most_keys: policy.most_keys,
            permissions: policy.permissions.as_ref().map(words),
            owner_leaves: owner_leaves.as_str(),
            version: row.version,
        }
    }
}
