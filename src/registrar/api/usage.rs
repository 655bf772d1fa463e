//! The use of keys: how one was used, what stands out, and what sidecars report.

use std::time::Duration;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use serde::Serialize;
use utoipa::ToSchema;

use super::access::{AskingCaller, seen_key};
use super::document::{LastUseDocument, show_ms};
use super::head::{PathNames, QueryParameters};
use super::problem::{ApiProblem, ProblemCode, ProblemFault};
use crate::core::Digest;
use crate::manage::operation::may::{KeyAction, OrgAction};
use crate::registrar::app::App;
use crate::registrar::people::AuthError;
use crate::registrar::request::{AskedBy, FLEET, bearer};
use crate::registrar::sight::CallerSight;
use crate::registrar::store::{FindingQuery, FoundUsage, KeyRef, KeyUsage, UsageBucket};
use crate::registrar::usage::{UsageIntake, UsageRefusal};

/// The longest body of a report: sidecars post parts of 256 KiB, and never cut a line.
const REPORT: usize = 1024 * 1024;

/// For one whole report with its body.
const WHOLE: Duration = Duration::from_secs(30);

/// How many keys of one finding to show.
const MOST: usize = 200;

/// How a key was used, as far as sidecars have reported.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyUsageDocument {
    pub last_used: Option<LastUseDocument>,
    /// When a sidecar last reported; null: none has.
    #[schema(format = "date-time")]
    pub as_of: Option<String>,
    /// When a sidecar reported for the first time: nobody knows of uses before that.
    #[schema(format = "date-time")]
    pub since: Option<String>,
    /// The last 8 days, without hours in which nothing happened, the oldest first.
    pub hours: Vec<UsageBucketDocument>,
    /// The last 400 days, without days in which nothing happened, the oldest first.
    pub days: Vec<UsageBucketDocument>,
    /// The last 30 days, the most frequent reason first.
    pub refused: Vec<RefusedDocument>,
    /// The latest first.
    pub networks: Vec<UsedNetworkDocument>,
    /// What stands out.
    pub findings: Vec<FindingDocument>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct UsageBucketDocument {
    #[schema(format = "date-time")]
    pub begin: String,
    pub admitted: u64,
    pub refused: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct RefusedDocument {
    pub reason: String,
    pub count: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct UsedNetworkDocument {
    pub network: String,
    #[schema(format = "date-time")]
    pub first: String,
    #[schema(format = "date-time")]
    pub last: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FindingListDocument {
    pub findings: Vec<FindingDocument>,
}

/// A key whose use stands out.
#[derive(Debug, Serialize, ToSchema)]
pub struct FindingDocument {
    /// `canary`, `ended_used` (a revoked or expired key is still used), `new_network`,
    /// `refused_tenfold` or `unused` (for 90 days).
    pub finding: &'static str,
    pub key: String,
    pub org: String,
    pub name: String,
    /// Since when, or when last; null: never.
    #[schema(format = "date-time")]
    pub at: Option<String>,
    /// How many requests, or which network.
    pub detail: String,
}

/// The result of a report.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageTakenDocument {
    /// Lines that reported something new.
    pub raised: u64,
    /// Lines of keys that the audience does not have.
    pub unknown: u64,
}

/// Show how a key was used
#[utoipa::path(
    get, path = "/orgs/{org}/keys/{key}/usage", tag = "keys", operation_id = "getKeyUsage",
    params(("org" = String, Path), ("key" = String, Path)),
    responses((status = 200, body = KeyUsageDocument), super::openapi::Problems),
)]
pub async fn of_key(
    State(app): State<App>,
    caller: AskingCaller,
    PathNames((org, key)): PathNames<(String, String)>,
) -> Result<Json<KeyUsageDocument>, ApiProblem> {
    let sight = caller.in_org(&app, &org).await?;
    let row = seen_key(&app, &sight, &key, KeyAction::SeeUsage).await?;
    let query = FindingQuery { keys: Some(vec![row.entry.id]), ..finding_query(&sight) };
    let found = app.store.found_usage(query).await?;
    let key = KeyRef::Id(row.entry.id);
    let usage =
        app.store.key_usage(sight.audience(), sight.org.as_ref(), key, sight.now_ms).await?;
    Ok(Json(KeyUsageDocument::of(&usage, &found)))
}

/// List keys whose use stands out
///
/// Members see only those of their own keys.
#[utoipa::path(
    get, path = "/orgs/{org}/findings", tag = "keys", operation_id = "listFindings",
    params(("org" = String, Path)),
    responses((status = 200, body = FindingListDocument), super::openapi::Problems),
)]
pub async fn findings(
    State(app): State<App>,
    caller: AskingCaller,
    PathNames(org): PathNames<String>,
    parts: Parts,
) -> Result<Json<FindingListDocument>, ApiProblem> {
    let sight = caller.in_org(&app, &org).await?;
    sight.may_in(OrgAction::SeeUsage)?;
    QueryParameters::of(&parts, &[])?.end(())?;
    let found = app.store.found_usage(finding_query(&sight)).await?;
    Ok(Json(FindingListDocument { findings: found.iter().map(FindingDocument::of).collect() }))
}

fn finding_query(sight: &CallerSight) -> FindingQuery {
    let (audience, org) = (sight.audience().clone(), sight.org.clone());
    let owner = sight.own_keys_only();
    FindingQuery { owner, ..FindingQuery::all(audience, org, sight.now_ms, MOST) }
}

/// Report the use of keys
///
/// For sidecars: `usage.post_url` posts here, with the bearer token of the sidecar's fleet. A
/// fleet's reports count only for its own audiences. Sending the same report again changes nothing.
#[utoipa::path(
    post, path = "/usage", tag = "sidecars", operation_id = "reportUsage",
    security(("fleet" = [])),
    request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = 200, body = UsageTakenDocument), super::openapi::Problems),
)]
pub async fn report(
    State(app): State<App>,
    request: Request,
) -> Result<Json<UsageTakenDocument>, ApiProblem> {
    let (parts, body) = request.into_parts();
    let token = bearer(&parts.headers).ok_or(AuthError::NoCredential)?;
    let token = Digest::of(token);
    let fleet = app.settings.fleets.iter().find(|fleet| fleet.bearer.matches(&token));
    let fleet = fleet.ok_or(AuthError::Unknown)?;
    AskedBy::note(&parts, FLEET);
    let take = async {
        let body = to_bytes(body, REPORT)
            .await
            .map_err(|_| ApiProblem::new(ProblemCode::TooLarge, "a report is at most 1 MiB"))?;
        let mut intake = UsageIntake::new(&app, &fleet.audiences).of_a_post();
        for line in body.split(|byte| *byte == b'\n') {
            intake.line(line).await?;
        }
        Ok::<_, ApiProblem>(intake.end().await?)
    };
    let taken = tokio::time::timeout(WHOLE, take)
        .await
        .map_err(|_| ApiProblem::new(ProblemCode::Timeout, "the report took too long"))?;
    let taken = taken?;
    Ok(Json(UsageTakenDocument { raised: taken.raised, unknown: taken.unknown }))
}

impl From<UsageRefusal> for ApiProblem {
    fn from(refusal: UsageRefusal) -> Self {
        match refusal {
            UsageRefusal::Store(error) => error.into(),
            // Only an audience's own callers may learn that it exists.
            UsageRefusal::Audience { .. } => Self::not_found(),
            UsageRefusal::Heads { .. }
            | UsageRefusal::Line { .. }
            | UsageRefusal::NoHead { .. } => {
                Self::unreadable(vec![ProblemFault::at("", refusal.to_string())])
            }
        }
    }
}

// === impl KeyUsageDocument ===

impl KeyUsageDocument {
    fn of(usage: &KeyUsage, found: &[FoundUsage]) -> Self {
        let buckets = |all: &[UsageBucket]| all.iter().map(UsageBucketDocument::of).collect();
        Self {
            last_used: usage.last.as_ref().map(|last| LastUseDocument {
                at: show_ms(last.at_ms),
                network: last.network.to_string(),
            }),
            as_of: usage.as_of_ms.map(show_ms),
            since: usage.since_ms.map(show_ms),
            findings: found.iter().map(FindingDocument::of).collect(),
            hours: buckets(&usage.hours),
            days: buckets(&usage.days),
            refused: usage
                .refused
                .iter()
                .map(|r| RefusedDocument { reason: r.reason.to_string(), count: r.count })
                .collect(),
            networks: usage
                .networks
                .iter()
                .map(|used| UsedNetworkDocument {
                    network: used.network.to_string(),
                    first: show_ms(used.first_ms),
                    last: show_ms(used.last_ms),
                })
                .collect(),
        }
    }
}

// === impl UsageBucketDocument ===

impl UsageBucketDocument {
    fn of(bucket: &UsageBucket) -> Self {
        Self { begin: show_ms(bucket.begin_ms), admitted: bucket.admitted, refused: bucket.refused }
    }
}

// === impl FindingDocument ===

impl FindingDocument {
    fn of(found: &FoundUsage) -> Self {
        Self {
            finding: found.alert.as_str(),
            key: found.key.to_string(),
            org: found.org.as_str().to_owned(),
            name: found.name.to_string(),
            at: found.at_ms.map(show_ms),
            detail: found.detail.to_string(),
        }
    }
}
