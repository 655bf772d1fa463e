//! keygate's own answers.

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};

use super::download::ResponseBody;
use crate::config::Settings;
use crate::core::Rejection;
use crate::core::refusal::Context;
use crate::proxy::http1::answer_write::{AddField, AnswerLines, Writer, field_lines};
use crate::proxy::ids::RequestId;

/// An answer in the form that its writer needs.
pub(crate) enum Reply {
    Http(Response<ResponseBody>),
    Lines(AnswerLines, ResponseBody),
}

/// An extension that marks keygate's own response: no service needs the rest of the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnAnswer;

/// What the form of a refusal depends on.
pub(crate) struct RefusalContext<'r> {
    pub(crate) method: &'r Method,
    pub(crate) grpc: bool,
    /// The profile of the route, or the one that the client prefers.
    pub(crate) profile: Option<&'r str>,
    pub(crate) request_id: &'r RequestId,
    /// Fields that let pages of other origins read it.
    pub(crate) cors: &'r [(HeaderName, HeaderValue)],
}

/// A refusal as a response. HEAD gets the same fields without the body.
pub(crate) fn refuse(
    rejection: &Rejection,
    settings: &Settings,
    writer: Writer,
    asked: &RefusalContext<'_>,
) -> Reply {
    let context =
        Context { request_id: asked.request_id.as_str(), profile: asked.profile, grpc: asked.grpc };
    let request_id = &settings.identity.request_id;
    if writer == Writer::Plain
        && let Some(ready) = settings.refusals.ready(rejection, &context)
        && !ready.has(request_id)
        && !asked.cors.iter().any(|(name, _)| name != header::VARY && ready.has(name))
    {
        let mut lines = AnswerLines::new(ready.status(), None, LINES);
        lines.set(request_id, asked.request_id.as_bytes());
        for (name, value) in asked.cors {
            lines.put(name.as_str().as_bytes(), value.as_bytes());
        }
        lines.text.extend_from_slice(ready.fields(field_lines));
        return Reply::Lines(lines, ResponseBody::Full(ready.body()));
    }
    let mut rendered = settings.refusals.render(rejection, &context);
    // The rule overrides CORS fields of a template. `Vary` of both is kept.
    rendered.headers.retain(|(name, _)| {
        name == header::VARY || !asked.cors.iter().any(|(ours, _)| ours == name)
    });
    rendered.headers.extend(asked.cors.iter().cloned());
    if writer == Writer::Plain {
        let mut lines = AnswerLines::new(rendered.status, None, LINES);
        lines.set(request_id, asked.request_id.as_bytes());
        for (name, value) in rendered.headers.iter().filter(|(name, _)| name != request_id) {
            // A template may set it. The configuration may not set the other fields that the writer
            // writes itself.
            lines.is_dated |= name == header::DATE;
            lines.put(name.as_str().as_bytes(), value.as_bytes());
        }
        return Reply::Lines(lines, ResponseBody::Full(rendered.body));
    }
    let mut response = Response::new(ResponseBody::Empty);
    response.extensions_mut().insert(OwnAnswer);
    *response.status_mut() = rendered.status;
    let headers = response.headers_mut();
    for (name, value) in rendered.headers {
        #[expect(clippy::disallowed_methods, reason = "a response of ours; challenges repeat")]
        headers.append(name, value);
    }
    headers.set_unique(request_id, asked.request_id.as_bytes());
    if *asked.method == Method::HEAD {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(rendered.body.len()));
    } else {
        *response.body_mut() = ResponseBody::Full(rendered.body);
    }
    Reply::Http(response)
}

/// The answer to a preflight, without content.
pub(crate) fn no_content(
    fields: Vec<(HeaderName, HeaderValue)>,
    settings: &Settings,
    writer: Writer,
    request_id: &RequestId,
) -> Reply {
    let name = &settings.identity.request_id;
    if writer == Writer::Plain {
        let mut lines = AnswerLines::new(StatusCode::NO_CONTENT, None, LINES);
        lines.set(name, request_id.as_bytes());
        for (name, value) in &fields {
            lines.put(name.as_str().as_bytes(), value.as_bytes());
        }
        return Reply::Lines(lines, ResponseBody::Empty);
    }
    let mut response = Response::new(ResponseBody::Empty);
    response.extensions_mut().insert(OwnAnswer);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.extend(fields);
    headers.set_unique(name, request_id.as_bytes());
    Reply::Http(response)
}

/// Space for a refusal with its body.
const LINES: usize = 1024;

/// The status of a rejection, for the record.
pub(crate) fn status_of(rejection: &Rejection, asked: &RefusalContext<'_>) -> u16 {
    // Trailers-only: the HTTP status of a gRPC refusal is always 200.
    if asked.grpc { StatusCode::OK.as_u16() } else { rejection.reason.status() }
}
