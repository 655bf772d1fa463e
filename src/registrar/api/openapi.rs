//! The API's document: its head, what all operations have in common, and what the macros cannot
//! express.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::{Info, OpenApi, Paths, Ref, RefOr, Response};
use utoipa::{IntoResponses, ToSchema};

use super::problem::ProblemDocument;

/// Problems that every operation may answer with.
pub struct Problems;

/// Each with its meaning.
const PROBLEMS: [(&str, &str); 13] = [
    ("400", "The request cannot be read, or shows two credentials."),
    ("401", "No credential, or one that opens nothing."),
    ("403", "You may not do that, or not grant that much."),
    ("404", "No such resource, or none that you may see: the two look the same."),
    ("405", "The path does not know the method."),
    ("409", "The state of the key, or of the organization, forbids it."),
    ("413", "The body is longer than the service reads."),
    ("415", "The body is no JSON."),
    ("422", "A field cannot be what it is, or the `Idempotency-Key` was used for another request."),
    ("429", "Too many credentials from this address opened nothing."),
    ("500", "Something is wrong inside the service."),
    ("503", "The service takes no changes now. `Retry-After` says when to try again."),
    ("504", "The service took too long."),
];

/// Bodies of requests. The service refuses a member that the schema does not have.
const BODIES: [&str; 8] = [
    "DraftSignature",
    "EmbedTokenCreation",
    "KeyCreation",
    "KeyOwnerChange",
    "KeyPatch",
    "KeyRotation",
    "MemberAssignment",
    "PolicyPatch",
];

/// The ways in which callers identify themselves. One of these is enough.
fn security_schemes() -> Value {
    json!({
        "key": {
            "type": "http", "scheme": "bearer",
            "description": "A key of the audience that holds words which manage keys.",
        },
        "fleet": {
            "type": "http", "scheme": "bearer",
            "description": "The token that the sidecars of a fleet share.",
        },
        "co_signer": {
            "type": "http", "scheme": "bearer",
            "description": "The token of somebody who signs tables as well.",
        },
        "session": {
            "type": "apiKey", "in": "cookie", "name": crate::registrar::request::SESSION_COOKIE,
            "description": "Of somebody who is signed in. What changes something also has to come \
                            from a page of the service.",
        },
    })
}

/// The document to which the routes are added.
pub fn head() -> OpenApi {
    OpenApi::new(Info::new("keygate management service", "1"), Paths::new())
}

/// The document as the service returns it, with what the macros cannot express.
pub fn finished(made: &OpenApi) -> Value {
    let mut document = serde_json::to_value(made).unwrap_or_default();
    document["openapi"] = json!("3.1.0");
    document["info"]["description"] = json!(
        "Keys of an organization: list, create, change, rotate, revoke, and see what became of \
         them. Version 1 grows only. Answers are JSON; refusals are problem details (RFC 9457) \
         with a `code` of a closed list."
    );
    document["security"] = json!([{"key": []}, {"session": []}]);
    document["components"]["securitySchemes"] = security_schemes();
    document["components"]["responses"] = problem_responses();
    for name in BODIES {
        let schema = &mut document["components"]["schemas"][name];
        if schema.is_object() {
            schema["additionalProperties"] = json!(false);
        }
    }
    if let Some(paths) = document["paths"].as_object_mut() {
        let below: Map<String, Value> = std::mem::take(paths);
        paths.extend(below.into_iter().map(|(path, item)| (format!("/v1{path}"), item)));
    }
    document
}

// === impl Problems ===

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let named = |status: &str| Ref::from_response_name(response_name(status)).into();
        PROBLEMS.iter().map(|(status, _)| ((*status).to_owned(), named(status))).collect()
    }
}

fn response_name(status: &str) -> String {
    format!("Problem{status}")
}

/// The responses that [`Problems`] refers to.
fn problem_responses() -> Value {
    let schema = format!("#/components/schemas/{}", ProblemDocument::name());
    let response = |what: &str| {
        json!({
            "description": what,
            "content": {"application/problem+json": {"schema": {"$ref": schema}}},
        })
    };
    PROBLEMS.iter().map(|(status, what)| (response_name(status), response(what))).collect()
}
