//! The API of the service, `/v1`, for people's scripts and machines. A handler reads a request,
//! asks the store and returns its answer; the store and the rules of `manage` decide.
//!
//! v1 only grows. docs/openapi.json describes it and is generated from the handlers; a test guards
//! it against removals.

pub mod access;
pub mod document;
pub mod drafts;
pub mod embed_tokens;
pub mod head;
pub mod keys;
pub mod lists;
pub mod members;
pub mod openapi;
pub mod policy;
pub mod problem;
pub mod publications;
pub mod requests;
#[cfg(test)]
mod tests;
pub mod usage;

use std::sync::OnceLock;

use axum::{Json, Router};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::problem::{ApiProblem, ProblemCode};
use super::app::App;

/// Routes below `/v1`, each with its description for the document.
fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::show, keys::change, keys::delete))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::disable))
        .routes(routes!(keys::enable))
        .routes(routes!(keys::revoke))
        .routes(routes!(keys::audit))
        .routes(routes!(usage::of_key))
        .routes(routes!(usage::findings))
        .routes(routes!(usage::report))
        .routes(routes!(lists::permissions))
        .routes(routes!(publications::publications))
        .routes(routes!(publications::signers))
        .routes(routes!(drafts::list))
        .routes(routes!(drafts::file))
        .routes(routes!(drafts::sign))
        .routes(routes!(lists::members, lists::put_member))
        .routes(routes!(policy::show, policy::change))
        .routes(routes!(embed_tokens::create))
        .routes(routes!(lists::sessions))
        .routes(routes!(lists::end_session))
        .routes(routes!(lists::audit))
        .routes(routes!(lists::whoami))
        .routes(routes!(document))
}

/// The API as OpenAPI 3.1.
pub fn openapi() -> &'static serde_json::Value {
    static DOCUMENT: OnceLock<serde_json::Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| openapi::finished(&described().into_openapi()))
}

/// Everything under `/v1`.
pub fn routes() -> Router<App> {
    let (router, _) = described().split_for_parts();
    let router = router.fallback(nothing).method_not_allowed_fallback(method);
    Router::new().nest("/v1", router)
}

/// This document
#[utoipa::path(
    get, path = "/openapi.json", tag = "callers", operation_id = "openapi",
    security(()),
    responses((status = 200, body = serde_json::Value)),
)]
async fn document() -> Json<&'static serde_json::Value> {
    Json(openapi())
}

async fn nothing() -> ApiProblem {
    ApiProblem::not_found()
}

async fn method() -> ApiProblem {
    ApiProblem::new(ProblemCode::MethodNotAllowed, "the path does not know this method")
}
