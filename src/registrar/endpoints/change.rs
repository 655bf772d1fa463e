//! Documented URLs that create, change and end keys: requests become changes, and the skeleton
//! writes the result.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

use super::EndpointCall;
use super::answer::{EndpointError, json};
use crate::core::{Owner, Permission};
use crate::manage::operation::{
    CreateRequest, EditRequest, FormerSecret, OwnerChange, RotateRequest, StatusChange,
};
use crate::manage::time::When;
use crate::registrar::app::MadeChange;
use crate::registrar::dialect::code::{DialectCode, DialectError};
use crate::registrar::dialect::map::{KeyValues, SlotKind};
use crate::registrar::dialect::operation::DialectOperation;
use crate::registrar::store::{ChangeRequest, KeyChange, KeyRef, KeyRow, StoreActor, StoreError};

/// The longest wait until the known sidecars have a change. The change is made in any case.
const IN_FORCE: Duration = Duration::from_secs(2);

const SERIAL: HeaderName = HeaderName::from_static("keygate-serial");

// === impl EndpointCall ===

impl EndpointCall<'_> {
    pub(super) async fn create(
        &self,
        operation: &DialectOperation,
        body: &[u8],
    ) -> Result<Response, EndpointError> {
        let asked = operation.request.read(body)?;
        let audience = self.app.settings.audience(self.audience());
        let audience = audience.ok_or(StoreError::NoSuchAudience)?;
        let asking = self.sight.asking.as_ref();
        let owner = match &self.sight.caller.actor {
            StoreActor::Person { owner, .. } => Some(owner),
            StoreActor::Key(_) | StoreActor::HostUser(_) => {
                asking.and_then(|key| key.owner.as_ref())
            }
        };
        let mut wanted = CreateRequest::plain(self.org.clone());
        wanted.kind = audience.kind;
        wanted.name = asked.name.unwrap_or_default();
        wanted.permissions = asked.permissions.unwrap_or_else(|| operation.grants.clone());
        self.check_words(&wanted.permissions)?;
        wanted.networks = asked.networks.unwrap_or_default();
        wanted.expires = match asked.expires {
            // A page without a field for the end leaves it to the operator.
            None if !operation.request.asks_for(SlotKind::Expires) => {
                audience.default_life.map(When::In)
            }
            expires => expires,
        };
        self.check_end(wanted.expires)?;
        // A key can only create keys for its own environment.
        let environment = asking.and_then(|key| key.environment);
        wanted.environment = asked.environment.unwrap_or(environment);
        wanted.details.owner = owner.map_or(OwnerChange::Keep, stated);
        let changed = self.change(KeyChange::Create(Box::new(wanted))).await?;
        self.changed(operation, changed).await
    }

    pub(super) async fn update(
        &self,
        operation: &DialectOperation,
        key: KeyRef,
        body: &[u8],
    ) -> Result<Response, EndpointError> {
        let asked = operation.request.read(body)?;
        self.living(key).await?;
        if let Some(words) = &asked.permissions {
            self.check_words(words)?;
        }
        self.check_end(asked.expires)?;
        let request = EditRequest {
            name: asked.name,
            permissions: asked.permissions,
            networks: asked.networks,
            expires: asked.expires,
            environment: asked.environment,
            ..EditRequest::default()
        };
        let edit = KeyChange::Edit { key, if_match: None, request: Box::new(request) };
        let changed = self.change(edit).await?;
        self.changed(operation, changed).await
    }

    pub(super) async fn rotate(
        &self,
        operation: &DialectOperation,
        key: KeyRef,
    ) -> Result<Response, EndpointError> {
        self.living(key).await?;
        let request = RotateRequest {
            overlap: operation.overlap,
            expires: None,
            prefix: None,
            former: FormerSecret::Drop,
        };
        let rotate = KeyChange::Rotate { key, if_match: None, request: Box::new(request) };
        let changed = self.change(rotate).await?;
        self.changed(operation, changed).await
    }

    pub(super) async fn revoke(
        &self,
        operation: &DialectOperation,
        key: KeyRef,
    ) -> Result<Response, EndpointError> {
        self.living(key).await?;
        let status = StatusChange::Revoke;
        let changed = self.change(KeyChange::SetStatus { key, if_match: None, status }).await?;
        self.changed(operation, changed).await
    }

    async fn change(&self, change: KeyChange) -> Result<MadeChange, StoreError> {
        let request = ChangeRequest {
            audience: self.audience().clone(),
            org: Some(self.org.clone()),
            actor: self.sight.caller.actor.clone(),
            channel: self.sight.caller.channel.clone(),
            at_ms: self.sight.now_ms,
            idempotency: None,
            change,
        };
        self.app.change(request).await
    }

    /// The answer to a change.
    async fn changed(
        &self,
        operation: &DialectOperation,
        made: MadeChange,
    ) -> Result<Response, EndpointError> {
        let MadeChange { changed, first } = made;
        // Waits, so that a client can use a new key immediately and a deleted one is refused. A key
        // that ends itself gets its answer first.
        if let Some(publishing) = &self.app.publishing
            && first.is_none()
            && self.app.settings.audience(self.audience()).is_some_and(|a| a.signer.is_some())
            && let Some(_place) = self.app.waits.take(self.sight.caller.actor.label())
        {
            publishing.publisher.in_force(self.audience(), changed.serial, IN_FORCE).await;
        }
        let secret = changed.secret.as_ref().map(|secret| secret.expose());
        let secret = secret.and_then(|bytes| std::str::from_utf8(bytes).ok());
        let values = KeyValues { row: &changed.key, secret, now: self.sight.now() };
        let mut answer = json(operation.status, operation.answer.of_key(values));
        answer.headers_mut().insert(SERIAL, HeaderValue::from(changed.serial));
        Ok(match first {
            Some(first) => first.attach(answer),
            None => answer,
        })
    }

    /// The answer about a key without a new secret.
    pub(super) fn written(&self, operation: &DialectOperation, row: &KeyRow) -> String {
        operation.answer.of_key(KeyValues { row, secret: None, now: self.sight.now() })
    }

    /// A permission that the audience does not have is the caller's mistake, whatever the caller
    /// holds.
    fn check_words(&self, words: &[Permission]) -> Result<(), EndpointError> {
        let audience = self.app.settings.audience(self.audience());
        let audience = audience.ok_or(StoreError::NoSuchAudience)?;
        match words.iter().find(|word| !audience.offers(word)) {
            Some(word) => {
                Err(DialectError::told(DialectCode::BadPermissions, word.as_str()).into())
            }
            None => Ok(()),
        }
    }

    fn check_end(&self, end: Option<When>) -> Result<(), EndpointError> {
        match end {
            Some(When::At(at)) if at <= self.sight.now() => {
                Err(DialectError::of(DialectCode::PastExpiry).into())
            }
            _ => Ok(()),
        }
    }
}

/// A new key speaks for its maker.
fn stated(owner: &Owner) -> OwnerChange {
    let owner = owner.view();
    OwnerChange::State {
        subject: Some(owner.subject.to_owned()),
        email: Some(owner.email.to_owned()),
        role: Some(owner.role.to_owned()),
    }
}
