//! What keygate signs or adds for the service, of an admitted request: the assertion, and the
//! credential of `[upstream.credential]`.

use std::rc::Rc;
use std::sync::Arc;

use super::record::RequestRecord;
use crate::config::Settings;
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
    Token(Rc<str>),
}

// === impl SentCredential ===

impl SentCredential<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Fixed(fixed) => fixed.as_str(),
            Self::Token(text) => text,
        }
    }
}

/// The credential that the request takes along: of one alone that a key has opened. Never asked for while the
/// service gets the caller's own.
///
/// # Errors
/// The claims ask for what the key does not have, or the token could not be signed.
pub(super) fn credential<'s>(
    worker: &Worker,
    snapshot: &'s Arc<Snapshot>,
    forward: &Forward<'_>,
    record: &RequestRecord,
) -> Result<Option<SentCredential<'s>>, Rejection> {
    let Settings { credential: Some(credential), .. } = &*snapshot.settings else {
        return Ok(None);
    };
    let Forward::Admitted(admitted) = forward else { return Ok(None) };
    let Some(key) = admitted.key() else { return Ok(None) };
    let tokens = match &credential.form {
        CredentialForm::Fixed(fixed) => return Ok(Some(SentCredential::Fixed(fixed))),
        CredentialForm::Token(tokens) => tokens,
    };
    let now = record.started();
    worker.minted.follow(snapshot);
    if let Some(text) = worker.minted.credentials.get(admitted, now.mono_ns) {
        worker.cells.upstream_credential(TokenOrigin::Cached);
        return Ok(Some(SentCredential::Token(text)));
    }
    let owner = snapshot.keys.as_deref().and_then(|keys| admitted.owner(keys));
    let minted = tokens.mint(key, owner, now).map_err(|why| match why {
        NoToken::Failed => Reason::Internal.into(),
        NoToken::Missing(slot) => slot.rejection(),
    })?;
    worker.cells.upstream_credential(TokenOrigin::Signed);
    let text = worker.minted.credentials.keep(admitted, minted);
    Ok(Some(SentCredential::Token(text)))
}

/// The assertion about a request that a key has opened.
///
/// # Errors
/// It could not be signed. Without it the service would take the request for somebody else's.
pub(super) fn assertion(
    worker: &Worker,
    snapshot: &Arc<Snapshot>,
    forward: &Forward<'_>,
    head: &RequestHead,
    record: &RequestRecord,
) -> Result<Option<Rc<str>>, Reason> {
    let (Some(assertions), Forward::Admitted(admitted)) = (&snapshot.settings.assertion, forward)
    else {
        return Ok(None);
    };
    let (cells, now) = (&worker.cells, record.started());
    let Some(key) = admitted.key() else { return Ok(None) };
    if assertions.binding == AssertionBinding::Request {
        let bound = BoundRequest {
            method: head.method.as_str(),
            path: head.target.path(),
            request_id: record.request_id.as_str(),
        };
        let minted = assertions.mint(key, Some(bound), now).map_err(|_| Reason::Internal)?;
        cells.assertion(TokenOrigin::Signed);
        return Ok(Some(minted.text.into()));
    }
    worker.minted.follow(snapshot);
    if let Some(text) = worker.minted.assertions.get(admitted, now.mono_ns) {
        cells.assertion(TokenOrigin::Cached);
        return Ok(Some(text));
    }
    let minted = assertions.mint(key, None, now).map_err(|_| Reason::Internal)?;
    cells.assertion(TokenOrigin::Signed);
    Ok(Some(worker.minted.assertions.keep(admitted, minted)))
}

/// Whether the credential's claims ask for what the key does not have: enforced, its requests would be
/// refused.
pub(super) fn lacks_claim(snapshot: &Snapshot, admitted: &Admitted<'_>) -> bool {
    snapshot.settings.credential.as_ref().is_some_and(|credential| {
        let owner = snapshot.keys.as_deref().and_then(|keys| admitted.owner(keys));
        admitted.key().is_some_and(|key| credential.missing(key, owner).is_some())
    })
}
