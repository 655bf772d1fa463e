//! The head on its way to the upstream, and the [answer]'s head on its way back.
//!
//! Order (ARCHITECTURE.md, invariant 4): remove hop-by-hop fields and those that only keygate may
//! set, which `facts` has marked, then those that `Connection` names, then credentials. Insert
//! identity last.

pub(crate) mod answer;

use std::rc::Rc;

use http::Version;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, Scheme};
use smallvec::SmallVec;

use super::credentials::{self, Carried, StripScope};
use super::head_changes::HeadChanges;
use super::sent_tokens::SentCredential;
use super::upgrade_request::UpgradeRequest;
use crate::config::Settings;
use crate::core::address::AddressText;
use crate::core::observe::CredentialPassage;
use crate::core::{OwnerView, Route, TokenOnward};
use crate::proxy::body::RequestBody;
use crate::proxy::http1::chunks::ChunkForm;
use crate::proxy::http1::head::{Fields, RequestHead};
use crate::proxy::http1::request_write::write_head;
use crate::proxy::http1::target::BadTarget;
use crate::proxy::ids::{RequestId, Trace};
use crate::proxy::net::io::ClientAddr;
use crate::proxy::outbound::{Added, Forward, RewrittenRequest, UpstreamRequest};

/// What the rewrite needs to know in addition to the head.
pub(crate) struct RewriteContext<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) client: &'a ClientAddr,
    /// The scheme that the client used.
    pub(crate) https: bool,
    pub(crate) request_id: &'a RequestId,
    /// Replaces the client's `traceparent` and `tracestate`.
    pub(crate) trace: Option<Trace>,
    /// `Host` to send instead of the client's.
    pub(crate) host: Option<&'a HeaderValue>,
    /// `Host` to send when the client sent none (HTTP/1.0).
    pub(crate) authority: &'a HeaderValue,
    /// The upstream speaks HTTP/2.
    pub(crate) http2: bool,
    /// The upstream is reached over TLS.
    pub(crate) upstream_https: bool,
    /// The upstream needs field names in the client's spelling.
    pub(crate) preserve_case: bool,
    /// `Upgrade` to pass on, allowed by the route.
    pub(crate) upgrade: Option<Box<UpgradeRequest>>,
    /// Subject of the verified client certificate.
    pub(crate) subject: Option<&'a HeaderValue>,
    /// The owner of the key, if an identity field is for it.
    pub(crate) owner: Option<OwnerView<'a>>,
    pub(crate) credentials: CredentialPassage,
    /// The form in which the answer's writer takes a chunked answer.
    pub(crate) chunks: ChunkForm,
    /// The assertion for an admitted request.
    pub(crate) assertion: Option<Rc<str>>,
    /// The credential for an admitted request, replacing what the client sent in that field.
    pub(crate) credential: Option<SentCredential<'a>>,
    /// The field of the credential for this upstream.
    pub(crate) credential_field: Option<&'a HeaderName>,
}

/// Makes the upstream's request out of the client's and the verdict.
///
/// # Errors
/// Only hyper could send the request, and hyper cannot send its target.
pub(crate) fn rewrite(
    forward: Forward<'_>,
    mut head: RequestHead,
    body: RequestBody,
    changes: HeadChanges,
    carried: Carried,
    mut context: RewriteContext<'_>,
) -> Result<UpstreamRequest, BadTarget> {
    let RewriteContext { settings, chunks, .. } = context;
    let had_length = head.fields.has(header::CONTENT_LENGTH);
    let credential_field = context.credential.as_ref().and(context.credential_field);
    drop_extensions(&mut head, &changes, &context);
    head.fields.remove_at(&changes.remove);
    for name in &changes.remove_named {
        head.fields.remove(name);
    }
    let scope = strip_scope(&forward, settings, context.credentials);
    credentials::strip(&mut head, &settings.sources, &carried, scope);
    if let Some(field) = credential_field {
        head.fields.remove(field);
    }
    let named = set_target(&mut head, &context);
    if context.trace.is_some() {
        head.fields.remove(TRACEPARENT);
        // It belongs to the trace that is not continued (W3C Trace Context section 4.3).
        head.fields.remove(TRACESTATE);
    }
    let is_plain = context.upgrade.is_none() && !context.http2 && !context.preserve_case;
    let mut added = match is_plain {
        true => Added::Lines(write_head(&head, body.here().len())),
        false => Added::Fields(Vec::with_capacity(ADDED_FIELDS)),
    };
    match &body {
        // hyper writes the length of a body. For an empty body it does so only for methods that
        // expect none.
        RequestBody::Empty if had_length => added.put(&header::CONTENT_LENGTH, b"0"),
        RequestBody::Whole(bytes) if is_plain => {
            added.put(&header::CONTENT_LENGTH, itoa::Buffer::new().format(bytes.len()).as_bytes())
        }
        RequestBody::Stream(upload) => match upload.length() {
            Some(length) if is_plain => {
                added.put(&header::CONTENT_LENGTH, itoa::Buffer::new().format(length).as_bytes());
            }
            Some(_) => {}
            // Without this, hyper treats a body of unknown length as absent where the method is GET
            // or HEAD.
            None if !context.http2 => added.put(&header::TRANSFER_ENCODING, b"chunked"),
            None => {}
        },
        RequestBody::Empty | RequestBody::Whole(_) => {}
    }
    if let Some(asked) = context.upgrade.take() {
        put_upgrade(&mut head, &mut added, &asked, changes.subprotocols.as_deref());
    }
    if changes.te_trailers && context.http2 {
        added.put(&header::TE, b"trailers");
    }
    let named = match &named {
        Named::AsSent => head.fields.get(header::HOST),
        Named::Other(named) => named.as_ref().map(HeaderValue::as_bytes),
    };
    forwarding(&mut added, changes, named, &context);
    added.put(&settings.identity.request_id, context.request_id.as_bytes());
    if let Some(trace) = &context.trace {
        added.put(&TRACEPARENT, &trace.0);
    }
    if let (Some(name), Some(subject)) = (&settings.identity.client_subject, context.subject) {
        added.put(name, subject.as_bytes());
    }
    if let (Some(field), Some(credential)) = (credential_field, &context.credential) {
        added.put_secret(field, credential.as_str());
    }
    if let (Some(assertions), Some(assertion)) = (&settings.assertion, &context.assertion) {
        added.put_secret(&assertions.field, assertion);
    }
    UpstreamRequest::new(
        forward,
        RewrittenRequest { head, body, added, chunks },
        &settings.identity,
        context.owner,
    )
}

/// The number of fields that a rewrite usually adds at most.
const ADDED_FIELDS: usize = 12;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The host that the client named.
enum Named {
    /// `Host` still has it.
    AsSent,
    Other(Option<HeaderValue>),
}

/// Drops what the client's reader noted that the upstream must not get.
fn drop_extensions(head: &mut RequestHead, changes: &HeadChanges, context: &RewriteContext<'_>) {
    // hyper keeps the spellings in an extension that cannot be edited. If one of them belongs to a
    // field of keygate, drop them all: a client must not choose the spelling of that field.
    let field = context.credential.as_ref().and(context.credential_field);
    let replaces = field.is_some_and(|field| head.fields.has(field));
    if !context.preserve_case || changes.claims_identity || replaces {
        head.extensions.clear();
    } else {
        head.extensions.remove::<hyper::upgrade::OnUpgrade>();
        head.extensions.remove::<hyper::ext::Protocol>();
    }
}

/// Which of the client's credentials must not reach the service.
fn strip_scope(
    forward: &Forward<'_>,
    settings: &Settings,
    passage: CredentialPassage,
) -> StripScope {
    let lets_pass = |route: &Route| route.is_rule() && route.access.lets_strangers_pass();
    match (passage, forward) {
        (CredentialPassage::Forward, _) => StripScope::Nothing,
        (CredentialPassage::Strip, Forward::Admitted(admitted)) => {
            match admitted.token().map(|token| token.onward()) {
                Some(TokenOnward::Forward) => StripScope::AllButToken,
                Some(TokenOnward::Remove) | None => StripScope::EveryCarrier,
            }
        }
        // Enforced, such a request would not reach the service, and neither would its token. On
        // rules that let strangers pass, the token may be the service's own.
        (CredentialPassage::Strip, Forward::Observed(observed))
            if !settings.tokens.is_empty() && !lets_pass(observed.route()) =>
        {
            StripScope::OursTokensAndEmpty
        }
        (CredentialPassage::Strip, Forward::Observed(_) | Forward::Passed(_)) => {
            StripScope::OursAndEmpty
        }
    }
}

/// Asks the service for the client's upgrade. `subprotocols`: what is left of the client's list, if a
/// credential was in it.
fn put_upgrade(
    head: &mut RequestHead,
    added: &mut Added,
    asked: &UpgradeRequest,
    subprotocols: Option<&Option<HeaderValue>>,
) {
    added.put(&header::CONNECTION, b"upgrade");
    if let Some(key) = &asked.key {
        // RFC 8441 section 5: HTTP/2 does not use these, HTTP/1.1 needs them.
        head.fields.remove(header::SEC_WEBSOCKET_KEY);
        added.put(&header::SEC_WEBSOCKET_KEY, key.as_bytes());
        if !head.fields.has(header::SEC_WEBSOCKET_VERSION) {
            added.put(&header::SEC_WEBSOCKET_VERSION, b"13");
        }
    }
    added.put(&header::UPGRADE, asked.protocol.as_bytes());
    if let Some(Some(rest)) = subprotocols {
        added.put(&header::SEC_WEBSOCKET_PROTOCOL, rest.as_bytes());
    }
}

/// Writes target, version and Host as the upstream's protocol needs them. The path stays as it was
/// judged.
fn set_target(head: &mut RequestHead, context: &RewriteContext<'_>) -> Named {
    let of_target = head.target.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    let absolute = of_target.is_some();
    if !context.http2 && !absolute && context.host.is_none() && head.fields.has(header::HOST) {
        join_cookies(&mut head.fields);
        head.version = Version::HTTP_11;
        return Named::AsSent;
    }
    let named = head.fields.get(header::HOST).and_then(|v| HeaderValue::from_bytes(v).ok());
    let named = named.or(of_target);
    let host = context.host.or(named.as_ref()).unwrap_or(context.authority);
    if context.http2 {
        // `:authority` carries the value of Host. Only one of them may be sent.
        head.fields.remove(header::HOST);
        let scheme = if context.upstream_https { Scheme::HTTPS } else { Scheme::HTTP };
        let authority = Authority::try_from(host.as_bytes())
            .unwrap_or_else(|_| Authority::from_static("upstream"));
        head.target.set_origin(scheme, authority);
        head.version = Version::HTTP_2;
        return Named::Other(named);
    }
    head.fields.set(&header::HOST, host);
    head.target.clear_origin();
    // RFC 9113 §8.2.3: joins cookies that HTTP/2 split into one field again.
    join_cookies(&mut head.fields);
    head.version = Version::HTTP_11;
    Named::Other(named)
}

fn join_cookies(fields: &mut Fields) {
    if !fields.repeats(header::COOKIE) {
        return;
    }
    let all: Vec<_> = fields.all(&header::COOKIE).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        fields.set(&header::COOKIE, &joined);
    }
}

/// Describes the client, replacing what untrusted peers sent. Extends a trusted proxy's list.
fn forwarding(
    added: &mut Added,
    changes: HeadChanges,
    named: Option<&[u8]>,
    context: &RewriteContext<'_>,
) {
    let RewriteContext { client, https, .. } = *context;
    let of_proxy = changes.of_proxy.as_deref();
    let mut list = SmallVec::<[u8; 64]>::new();
    for before in of_proxy.into_iter().flat_map(|fields| &fields.forwarded_for) {
        list.extend_from_slice(before.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(AddressText::of(client.ip()).as_bytes());
    added.put(&X_FORWARDED_FOR, &list);
    match of_proxy.and_then(|fields| fields.forwarded_proto.as_ref()) {
        Some(proto) => added.put(&X_FORWARDED_PROTO, proto.as_bytes()),
        None => added.put(&X_FORWARDED_PROTO, if https { b"https" } else { b"http" }),
    }
    let forwarded = of_proxy.and_then(|fields| fields.forwarded_host.as_ref());
    if let Some(host) = forwarded.map(HeaderValue::as_bytes).or(named) {
        added.put(&X_FORWARDED_HOST, host);
    }
}
