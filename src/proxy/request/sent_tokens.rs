//! What keygate signs or adds for the service that gets an admitted request: the assertion, and the
//! credential of `[upstream.credential]` or of one of `[upstreams.NAME]`.

use std::rc::Rc;
use std::sync::Arc;

use super::record::RequestRecord;
use crate::core::observe::CredentialPassage;
use crate::core::{Admitted, Reason, Rejection};
use crate::proxy::http1::head::RequestHead;
use crate::proxy::outbound::Forward;
use crate::proxy::worker::Worker;
use crate::snapshot::Snapshot;
use crate::telemetry::TokenOrigin;
use crate::token::sign::assertion::{AssertionBinding, BoundRequest};
use crate::token::sign::credential::{CredentialForm, FixedCredential, NoToken};

/// The value of the credential's field, for one request.
pub(crate) enum SentCredential<'s> {
    Fixed(&'s FixedCredential),
    Token(SentToken),
}

/// A token, and whether it was signed for this request.
pub(crate) struct SentToken {
    pub(crate) text: Rc<str>,
    origin: TokenOrigin,
}

/// The tokens that are sent with a request.
#[derive(Default)]
pub(super) struct SentTokens<'s> {
    pub(super) credential: Option<SentCredential<'s>>,
    pub(super) assertion: Option<SentToken>,
}

/// What metrics say about them.
#[derive(Clone, Copy)]
pub(super) struct SentOrigins {
    credential: Option<TokenOrigin>,
    assertion: Option<TokenOrigin>,
}

/// The tokens that are sent with a request that is only observed, and why the others are not: if
/// enforced, the request would be refused for that.
#[derive(Default)]
pub(super) struct ObservedTokens<'s> {
    pub(super) sent: SentTokens<'s>,
    pub(super) no_credential: Option<Reason>,
    pub(super) no_assertion: Option<Reason>,
}

// === impl SentCredential ===

impl SentCredential<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Fixed(fixed) => fixed.as_str(),
            Self::Token(token) => &token.text,
        }
    }
}

// === impl SentTokens ===

impl SentTokens<'_> {
    pub(super) fn origins(&self) -> SentOrigins {
        let credential = match &self.credential {
            Some(SentCredential::Token(token)) => Some(token.origin),
            Some(SentCredential::Fixed(_)) | None => None,
        };
        SentOrigins { credential, assertion: self.assertion.as_ref().map(|token| token.origin) }
    }
}

// === impl SentOrigins ===

impl SentOrigins {
    /// Counts them, once per request, when nothing can refuse it any more.
    pub(super) fn count(self, worker: &Worker, record: &RequestRecord) {
        if let Some(origin) = self.credential {
            record.upstream().meter.credential(origin);
        }
        if let Some(origin) = self.assertion {
            worker.cells.assertion(origin);
        }
    }
}

/// The credential to send with the request. Only a request that a key has opened gets one. Never
/// called while the service gets the caller's own credential.
///
/// # Errors
/// The claims need something that the key does not have, or the token could not be signed.
pub(super) fn credential<'s>(
    snapshot: &'s Arc<Snapshot>,
    forward: &Forward<'_>,
    record: &RequestRecord,
) -> Result<Option<SentCredential<'s>>, Rejection> {
    let upstream = record.upstream();
    let Some(credential) = snapshot.settings.credential_for(upstream.index) else {
        return Ok(None);
    };
    let Forward::Admitted(admitted) = forward else { return Ok(None) };
    let Some(key) = admitted.key() else { return Ok(None) };
    let tokens = match &credential.form {
        CredentialForm::Fixed(fixed) => return Ok(Some(SentCredential::Fixed(fixed))),
        CredentialForm::Token(tokens) => tokens,
    };
    let now = record.started();
    upstream.minted.follow(snapshot);
    if let Some(text) = upstream.minted.credentials.get(admitted, now.mono_ns) {
        let origin = TokenOrigin::Cached;
        return Ok(Some(SentCredential::Token(SentToken { text, origin })));
    }
    let owner = snapshot.keys.as_deref().and_then(|keys| admitted.owner(keys));
    let minted = tokens.mint(key, owner, now).map_err(|why| match why {
        NoToken::Failed => Reason::Internal.into(),
        NoToken::Missing(slot) => slot.rejection(),
    })?;
    let text = upstream.minted.credentials.keep(admitted, minted);
    Ok(Some(SentCredential::Token(SentToken { text, origin: TokenOrigin::Signed })))
}

/// The assertion about a request that a key has opened.
///
/// # Errors
/// It could not be signed. Without it, the service would attribute the request to somebody else.
pub(super) fn assertion(
    snapshot: &Arc<Snapshot>,
    forward: &Forward<'_>,
    head: &RequestHead,
    record: &RequestRecord,
) -> Result<Option<SentToken>, Reason> {
    let upstream = record.upstream();
    let Some((assertions, audience)) = snapshot.settings.assertion_for(upstream.index) else {
        return Ok(None);
    };
    let Forward::Admitted(admitted) = forward else { return Ok(None) };
    let now = record.started();
    let Some(key) = admitted.key() else { return Ok(None) };
    if assertions.binding == AssertionBinding::Request {
        let bound = BoundRequest {
            method: head.method.as_str(),
            path: head.target.path(),
            request_id: record.request_id.as_str(),
        };
        let minted =
            assertions.mint(key, audience, Some(bound), now).map_err(|_| Reason::Internal)?;
        let (text, origin) = (minted.text.into(), TokenOrigin::Signed);
        return Ok(Some(SentToken { text, origin }));
    }
    upstream.minted.follow(snapshot);
    if let Some(text) = upstream.minted.assertions.get(admitted, now.mono_ns) {
        return Ok(Some(SentToken { text, origin: TokenOrigin::Cached }));
    }
    let minted = assertions.mint(key, audience, None, now).map_err(|_| Reason::Internal)?;
    let text = upstream.minted.assertions.keep(admitted, minted);
    Ok(Some(SentToken { text, origin: TokenOrigin::Signed }))
}

/// Both, as far as they can be made: a fault in keygate must not refuse a request that it only
/// observes.
pub(super) fn observed<'s>(
    snapshot: &'s Arc<Snapshot>,
    forward: &Forward<'_>,
    passage: CredentialPassage,
    head: &RequestHead,
    record: &RequestRecord,
) -> ObservedTokens<'s> {
    let mut observed = ObservedTokens::default();
    match (passage, forward) {
        // The service gets the caller's own credential.
        (CredentialPassage::Forward, Forward::Admitted(admitted)) => {
            let is_missing = lacks_claim(snapshot, admitted, record);
            observed.no_credential = is_missing.then_some(Reason::NoUpstreamIdentity);
        }
        (CredentialPassage::Forward, Forward::Observed(_) | Forward::Passed(_)) => {}
        (CredentialPassage::Strip, _) => match credential(snapshot, forward, record) {
            Ok(credential) => observed.sent.credential = credential,
            Err(rejection) => observed.no_credential = Some(rejection.reason),
        },
    }
    match assertion(snapshot, forward, head, record) {
        Ok(assertion) => observed.sent.assertion = assertion,
        Err(reason) => observed.no_assertion = Some(reason),
    }
    observed
}

/// Whether the credential's claims need something that the key does not have. If enforced, its
/// requests would be refused.
fn lacks_claim(snapshot: &Snapshot, admitted: &Admitted<'_>, record: &RequestRecord) -> bool {
    let credential = snapshot.settings.credential_for(record.upstream().index);
    credential.is_some_and(|credential| {
        let owner = snapshot.keys.as_deref().and_then(|keys| admitted.owner(keys));
        admitted.key().is_some_and(|key| credential.missing(key, owner).is_some())
    })
}
