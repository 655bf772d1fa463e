//! The built-in bodies.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderValue;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

use super::Saying;

pub(super) static JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) static PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// RFC 9457, with `code` and `request_id` in each body, and what is missing or how long to wait.
#[derive(Serialize)]
struct ProblemJson<'s> {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<Cow<'static, str>>,
    title: &'s str,
    status: u16,
    detail: String,
    code: &'s str,
    request_id: &'s str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    required_permissions: Vec<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(rename = "violated-policies", skip_serializing_if = "<[_]>::is_empty")]
    violated: &'s [&'s str],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorMessage<'s> {
    error: &'s str,
    error_message: &'s str,
    code: &'s str,
    request_id: &'s str,
}

#[derive(Serialize)]
struct ErrorEnvelope<'s> {
    status: &'s str,
    message: &'s str,
    code: &'s str,
    request_id: &'s str,
}

/// The problem type of a limit that is used up (draft-ietf-httpapi-ratelimit-headers-10, Problem
/// Types).
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

pub(super) fn problem(saying: &Saying<'_>) -> Bytes {
    let standard = (!saying.violated.is_empty()).then_some(Cow::Borrowed(QUOTA_EXCEEDED));
    let page = saying.docs.map(|page| Cow::Owned(format!("{page}#{}", saying.code)));
    json(&ProblemJson {
        // Without either the type is about:blank, for which the title is the status's phrase.
        kind: page.or(standard),
        title: phrase(saying),
        status: saying.status.as_u16(),
        detail: format!("{}; {}", saying.message, saying.advice),
        code: saying.code,
        request_id: saying.request_id,
        required_permissions: saying.permissions.split(' ').filter(|w| !w.is_empty()).collect(),
        retry_after: saying.retry_after,
        violated: &saying.violated,
    })
}

pub(super) fn error_message(saying: &Saying<'_>) -> Bytes {
    let Saying { code, message, request_id, .. } = saying;
    json(&ErrorMessage { error: phrase(saying), error_message: message, code, request_id })
}

pub(super) fn envelope(saying: &Saying<'_>) -> Bytes {
    let Saying { code, message, request_id, .. } = saying;
    json(&ErrorEnvelope { status: "error", message, code, request_id })
}

/// Percent-encoded as `grpc-message` has to be: space to `~` without `%`.
pub(super) fn grpc_message(text: &str) -> String {
    const SET: &AsciiSet = &CONTROLS.add(b'%');
    utf8_percent_encode(text, SET).to_string()
}

pub(super) fn phrase(saying: &Saying<'_>) -> &'static str {
    saying.status.canonical_reason().unwrap_or("Error")
}

fn json(body: &impl Serialize) -> Bytes {
    // Strings and numbers always serialise.
    serde_json::to_vec(body).unwrap_or_default().into()
}
