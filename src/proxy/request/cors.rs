//! Which pages of other origins may read keygate's own answers. The service decides about its
//! answers.

use http::header::{self, HeaderName, HeaderValue};

use super::grpc::is_grpc;
use crate::config::Settings;
use crate::core::cors::Cors;
use crate::proxy::http1::head::RequestHead;

/// The rule for a request, whatever else is wrong with the request.
pub(crate) fn of<'r>(head: &'r RequestHead, settings: &'r Settings) -> Option<Cors<'r>> {
    if settings.cors.is_empty() {
        return None;
    }
    let mut origins = head.fields.all(&header::ORIGIN);
    let origin = origins.next().filter(|_| origins.next().is_none());
    settings.cors.find(head.target.path(), origin)
}

/// Fields of a refusal.
pub(crate) fn of_refusal(
    cors: &Cors<'_>,
    head: &RequestHead,
    settings: &Settings,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields = Vec::with_capacity(4);
    let exposed = match is_grpc(head) {
        // gRPC-Web: the verdict is in fields.
        true => format!("{}, grpc-status, grpc-message", settings.cors_exposed),
        false => settings.cors_exposed.to_string(),
    };
    cors.answer(&exposed, |name, value| put(&mut fields, name, value));
    fields
}

/// Fields of the answer to a preflight. `None`: keygate does not answer this request as a
/// preflight.
pub(crate) fn of_preflight(
    cors: &Cors<'_>,
    head: &RequestHead,
    method: &http::Method,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    if !cors.is_allowed() {
        return None;
    }
    let mut fields = Vec::with_capacity(6);
    let wanted = head.fields.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    cors.preflight(method.as_str().as_bytes(), wanted, |name, value| {
        put(&mut fields, name, value);
    });
    Some(fields)
}

fn put(fields: &mut Vec<(HeaderName, HeaderValue)>, name: HeaderName, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        fields.push((name, value));
    }
}
