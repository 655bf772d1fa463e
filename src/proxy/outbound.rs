//! A request that may be sent to the upstream. It is built from a verdict here, and taken apart by
//! the connection that sends it.

use http::header::{HeaderName, HeaderValue};
use http::{Method, Request};

use crate::core::identity::{IdentityFields, anonymous_field, identity_fields, token_fields};
use crate::core::{Admitted, Observed, OwnerView, Passed};
use crate::proxy::body::{RequestBody, Upload};
use crate::proxy::http1::chunks::ChunkForm;
use crate::proxy::http1::head::RequestHead;
use crate::proxy::http1::request_write::put_line;
use crate::proxy::http1::target::BadTarget;

/// A request that may be sent. Its one constructor takes a verdict, so code that forgets to
/// authenticate does not compile.
pub(crate) struct UpstreamRequest {
    idempotent: bool,
    /// How a chunked answer is kept, unless hyper reads it.
    chunks: ChunkForm,
    shape: Shape,
}

/// The form that its connection needs.
enum Shape {
    /// A request that expects nothing but a response. Head and body are as sent over an HTTP/1.1
    /// connection, except for what the client still has to send. Without `body`, the body was sent
    /// and will not return.
    Bytes { bytes: Vec<u8>, is_head: bool, body: Option<RequestBody> },
    /// hyper writes it. `None`: one with a body was sent, and did not return.
    Http(Option<Box<Request<RequestBody>>>),
}

/// keygate's own fields, in the form of their request. Lines are a whole head except for the last
/// line.
pub(crate) enum Added {
    Fields(Vec<(HeaderName, HeaderValue)>),
    /// Lines of a head.
    Lines(Vec<u8>),
}

/// A request that is rewritten, except for who is asking.
pub(crate) struct RewrittenRequest {
    pub(crate) head: RequestHead,
    pub(crate) body: RequestBody,
    pub(crate) added: Added,
    /// The form in which the answer's writer takes a chunked answer.
    pub(crate) chunks: ChunkForm,
}

/// The verdicts that let a request through.
#[derive(Debug)]
pub(crate) enum Forward<'k> {
    Admitted(Admitted<'k>),
    Observed(Observed<'k>),
    Passed(#[expect(dead_code, reason = "the proof itself")] Passed<'k>),
}

/// What a request needs from its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionNeeds {
    /// A response.
    Response,
    /// Something that only hyper can do: an upgrade, or names in the client's spelling.
    Hyper,
}

/// A request as it is sent over an HTTP/1.1 connection.
pub(crate) struct Sendable<'a> {
    /// The head, and as much of the body as has arrived.
    pub(crate) bytes: &'a [u8],
    /// The answer has no body, whatever its head says.
    pub(crate) is_head: bool,
    /// How a chunked answer is kept.
    pub(crate) chunks: ChunkForm,
    /// The part of the body that the client still has to send.
    pub(crate) coming: Option<Upload>,
}

opaque!(UpstreamRequest);

// === impl UpstreamRequest ===

impl UpstreamRequest {
    /// The only way to make one: it takes the verdict, which says who is asking. `owner`: the
    /// key's, if it is sent.
    ///
    /// # Errors
    /// hyper would have to send it, and cannot send its target.
    pub(crate) fn new(
        forward: Forward<'_>,
        draft: RewrittenRequest,
        names: &IdentityFields,
        owner: Option<OwnerView<'_>>,
    ) -> Result<Self, BadTarget> {
        let RewrittenRequest { head, body, mut added, chunks } = draft;
        let idempotent = head.method.is_idempotent();
        let is_head = head.method == Method::HEAD;
        let mut put = |name: &HeaderName, value: &str| added.put_told(name, value);
        match &forward {
            Forward::Admitted(admitted) => match (admitted.key(), admitted.token()) {
                (Some(key), _) => identity_fields(names, key, owner, put),
                (None, Some(token)) => token_fields(names, token, put),
                (None, None) => {}
            },
            Forward::Observed(_) | Forward::Passed(_) => {
                if let Some((name, value)) = anonymous_field(names) {
                    put(name, value);
                }
            }
        }
        let shape = match added {
            Added::Lines(mut bytes) => {
                bytes.extend_from_slice(b"\r\n");
                bytes.extend_from_slice(body.here());
                Shape::Bytes { bytes, is_head, body: Some(body) }
            }
            Added::Fields(fields) => {
                let mut parts = head.into_parts()?;
                parts.headers.reserve(fields.len());
                for (name, value) in fields {
                    parts.headers.insert(name, value);
                }
                Shape::Http(Some(Box::new(Request::from_parts(parts, body))))
            }
        };
        Ok(Self { idempotent, chunks, shape })
    }

    /// Whether sending it twice has the same effect as sending it once (RFC 9110 §9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// Whether it can be made again for a retry: it has no body.
    pub(crate) fn is_repeatable(&self) -> bool {
        match &self.shape {
            Shape::Bytes { body, .. } => matches!(body, Some(RequestBody::Empty)),
            Shape::Http(request) => {
                request.as_ref().is_some_and(|r| matches!(r.body(), RequestBody::Empty))
            }
        }
    }

    /// What it needs from its connection.
    pub(crate) fn needs(&self) -> ConnectionNeeds {
        match self.shape {
            Shape::Bytes { .. } => ConnectionNeeds::Response,
            Shape::Http(_) => ConnectionNeeds::Hyper,
        }
    }

    /// For a connection that keygate writes itself: the bytes at hand, and what follows them.
    /// `None`: hyper must send it, or its body is gone.
    pub(crate) fn begin(&mut self) -> Option<Sendable<'_>> {
        let Shape::Bytes { bytes, is_head, body } = &mut self.shape else { return None };
        // Without its body, the next request would be read as the body of this head.
        let coming = match body.take()? {
            RequestBody::Stream(upload) => Some(upload),
            here => {
                *body = Some(here);
                None
            }
        };
        Some(Sendable { bytes, is_head: *is_head, chunks: self.chunks, coming })
    }

    /// Puts the body back: none of it was sent.
    pub(crate) fn put_back_body(&mut self, upload: Upload) {
        if let Shape::Bytes { body: body @ None, .. } = &mut self.shape {
            *body = Some(RequestBody::Stream(upload));
        }
    }

    /// For hyper. `None`: it is not for hyper, or it was sent and did not return.
    pub(crate) fn take_http(&mut self) -> Option<Request<RequestBody>> {
        let Shape::Http(slot) = &mut self.shape else { return None };
        let request = *slot.take()?;
        if let RequestBody::Empty = request.body() {
            let (parts, body) = request.into_parts();
            let copy = Request::from_parts(parts.clone(), RequestBody::Empty);
            *slot = Some(Box::new(copy));
            return Some(Request::from_parts(parts, body));
        }
        Some(request)
    }

    /// Puts the request back: hyper has not begun to send it.
    pub(crate) fn put_back(&mut self, unsent: Request<RequestBody>) {
        if let Shape::Http(request) = &mut self.shape {
            *request = Some(Box::new(unsent));
        }
    }
}

// === impl Added ===

impl Added {
    /// Adds a field with a valid value: ours, or of a type that has checked it.
    pub(crate) fn put(&mut self, name: &HeaderName, value: &[u8]) {
        match self {
            Self::Fields(fields) => {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    fields.push((name.clone(), value));
                }
            }
            Self::Lines(lines) => put_line(lines, name.as_str().as_bytes(), value),
        }
    }

    /// Adds a field that no log and no header compression table keeps (RFC 7541 section 7.1.3).
    pub(crate) fn put_secret(&mut self, name: &HeaderName, value: &str) {
        match self {
            Self::Fields(fields) => {
                if let Ok(mut value) = HeaderValue::from_str(value) {
                    value.set_sensitive(true);
                    fields.push((name.clone(), value));
                }
            }
            Self::Lines(lines) => put_line(lines, name.as_str().as_bytes(), value.as_bytes()),
        }
    }

    /// Adds a field with a value from the table. It was checked there. A value that could end a
    /// line is left out anyway.
    fn put_told(&mut self, name: &HeaderName, value: &str) {
        let is_control = |b: u8| (b < b' ' && b != b'\t') | (b == 0x7f);
        // Not `any`: without an early exit, many bytes can be checked at the same time.
        if !value.bytes().fold(false, |any, b| any | is_control(b)) {
            self.put(name, value.as_bytes());
        }
    }
}
