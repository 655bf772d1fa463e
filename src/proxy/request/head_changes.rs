//! How the head of a request changes on its way to the service. `facts` records which fields to
//! remove, and the rewrite removes them.

use http::header::{HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::config::Settings;
use crate::core::headers::FieldClass;
use crate::observe::HeadNotice;
use crate::proxy::http1::head::{At, RequestHead};
use crate::proxy::ids::RequestId;

/// The most notices for one request.
const MOST_TOLD: usize = 8;

/// How the head changes on its way out, for any caller. Owns its text.
#[derive(Debug, Default)]
pub(crate) struct HeadChanges {
    /// Fields to remove, in order: hop-by-hop, owned, forwarding.
    pub(crate) remove: SmallVec<[At; 8]>,
    /// Names of fields to remove, which `Connection` has named.
    pub(crate) remove_named: Vec<HeaderName>,
    /// Some of these fields are removed because of an underscore in their name, unless the request
    /// keeps them.
    pub(super) may_drop: Option<DroppedName>,
    /// What `[observe]` wants to know. `None`: `[observe]` is not configured, and this costs
    /// nothing.
    pub(crate) watched: Option<Box<WatchedChanges>>,
    /// The fields to remove include one that only keygate may set.
    pub(crate) claims_identity: bool,
    /// `Connection` asks for an upgrade.
    pub(crate) upgrade: bool,
    pub(crate) te_trailers: bool,
    /// Fields from a trusted proxy.
    pub(crate) of_proxy: Option<Box<ProxyFields>>,
    /// What is left of `Sec-WebSocket-Protocol` without the credential.
    pub(crate) subprotocols: Option<Box<Option<HeaderValue>>>,
}

/// What a trusted proxy says about the client: `X-Request-Id`, `X-Forwarded-For`, `-Proto` and
/// `-Host`.
#[derive(Debug)]
pub(crate) struct ProxyFields {
    pub(crate) request_id: Option<RequestId>,
    pub(crate) forwarded_for: Vec<HeaderValue>,
    pub(crate) forwarded_proto: Option<HeaderValue>,
    pub(crate) forwarded_host: Option<HeaderValue>,
}

/// How the head of a request that may be observed changes.
#[derive(Debug, Default)]
pub(crate) struct WatchedChanges {
    /// Fields to remove that some requests keep nevertheless.
    kept: SmallVec<[KeptField; 2]>,
    /// A field that carries a credential is misspelt.
    pub(super) misspelt: Option<MisspeltCredential>,
    /// What differs from what the client sent.
    pub(crate) told: SmallVec<[HeadNotice; 1]>,
}

/// A field that is removed, unless the request is passed on as it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeptField {
    at: At,
    with: KeptWith,
}

/// Proof that such a field was present.
#[derive(Clone, Copy, Debug)]
pub(super) struct MisspeltCredential;

/// Proof that there was at least one.
#[derive(Clone, Copy, Debug)]
pub(super) struct DroppedName;

/// When a field that is due for removal is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeptWith {
    /// Credentials reach the service.
    Credentials,
    /// The caller is only observed.
    Observed,
}

// === impl HeadChanges ===

impl HeadChanges {
    pub(super) fn removes(&mut self, at: At, kept: KeptWith) {
        self.remove.push(at);
        if let Some(watched) = &mut self.watched {
            watched.kept.push(KeptField { at, with: kept });
        }
    }

    /// Leaves in the head what requests of this kind keep.
    pub(crate) fn keep(&mut self, with: KeptWith) {
        let Self { remove, watched, .. } = self;
        if let Some(watched) = watched {
            let keeps = |at| watched.kept.iter().any(|f| f.at == at && f.with == with);
            remove.retain(|at| !keeps(*at));
        }
    }

    /// Names of the fields that are removed because of an underscore in their name. Credentials are
    /// not among them.
    pub(crate) fn dropped<'h>(
        &self,
        head: &'h RequestHead,
        settings: &Settings,
    ) -> impl Iterator<Item = &'h [u8]> {
        let places = self.may_drop.map(|DroppedName| head.fields.places()).into_iter().flatten();
        places
            .filter(|(at, name, _)| name.contains(&b'_') && self.remove.contains(at))
            .map(|(_, name, _)| name)
            .filter(|name| {
                let field = settings.fields.classify(name);
                !matches!(field, FieldClass::Credential | FieldClass::Subprotocol)
            })
    }

    pub(super) fn tell(&mut self, notice: HeadNotice) {
        if let Some(WatchedChanges { told, .. }) = self.watched.as_deref_mut()
            && told.len() < MOST_TOLD
            && !told.contains(&notice)
        {
            told.push(notice);
        }
    }

    /// Records that a field of this class does not reach the service as it arrived.
    pub(super) fn tell_class(&mut self, field: FieldClass, name: &[u8], settings: &Settings) {
        match field {
            FieldClass::Identity if self.watched.is_some() => {
                // Uses the spelling of the configuration: the length of a client's spelling is not
                // bounded.
                if let Some(known) = settings.fields.known(name) {
                    let is_request_id = settings.identity.request_id.as_str() == known;
                    self.tell(match is_request_id {
                        true => HeadNotice::RequestId(known.into()),
                        false => HeadNotice::Owned(known.into()),
                    });
                }
            }
            FieldClass::Forwarding => self.tell(HeadNotice::Forwarding),
            FieldClass::Override => self.tell(HeadNotice::Override),
            _ => {}
        }
    }
}
