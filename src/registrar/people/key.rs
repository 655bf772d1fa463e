//! Machines: a key of an audience. It is looked up in the database, so that a key that was revoked
//! a moment ago is refused now.

use axum::http::request::Parts;

use super::{AuthError, Authenticator, Caller, CallerBy, ShownKey};
use crate::core::address::canonical;
use crate::core::{Digest, KeyStatus};
use crate::registrar::request::{channel_of, client_of};
use crate::registrar::store::{KeyRow, StoreActor};

/// The longest secret to look up.
const LONGEST: usize = 1024;

// === impl Authenticator ===

impl Authenticator {
    pub(super) async fn by_key(
        &self,
        parts: &Parts,
        shown: &ShownKey<'_>,
    ) -> Result<Caller, AuthError> {
        if shown.secret.is_empty() || shown.secret.len() > LONGEST {
            return Err(AuthError::Unknown);
        }
        let digest = Digest::of(shown.secret);
        for audience in &self.settings.audiences {
            let Some(row) = self.store.key_of_secret(&audience.name, digest).await? else {
                continue;
            };
            if !self.opens(&row, &digest, shown) {
                return Err(AuthError::Unknown);
            }
            return self.key_caller(parts, row, CallerBy::Key);
        }
        Err(AuthError::Unknown)
    }

    /// A caller with a key that is in force, from an address that it may be used from.
    pub(super) fn key_caller(
        &self,
        parts: &Parts,
        row: KeyRow,
        by: CallerBy,
    ) -> Result<Caller, AuthError> {
        let entry = row.entry;
        if entry.state(self.clock.now().unix_secs()) != KeyStatus::Active.as_str() {
            if entry.status == KeyStatus::Canary {
                let (key, address) = (entry.id.to_string(), client_of(parts));
                tracing::warn!(%key, ?address, "a canary was shown: its secret was stolen");
            }
            return Err(AuthError::Unknown);
        }
        if !entry.networks.is_empty() {
            let address = client_of(parts).map(canonical).ok_or(AuthError::Address)?;
            if !entry.networks.iter().any(|network| network.contains(&address)) {
                return Err(AuthError::Address);
            }
        }
        Ok(Caller {
            actor: StoreActor::Key(entry.id),
            org: Some(entry.org.clone()),
            audience: row.audience,
            asking: Some(Box::new(entry)),
            person: None,
            role: None,
            channel: channel_of(parts),
            by,
            orgs: Vec::new(),
            confined: true,
            signed_in_ms: None,
            session: None,
            form: None,
        })
    }

    /// Whether the secret is the present one, or the former one in its last days. For a pair, the
    /// id has to be there as well.
    fn opens(&self, row: &KeyRow, digest: &Digest, shown: &ShownKey<'_>) -> bool {
        let now = self.clock.now().unix_secs();
        let entry = &row.entry;
        let is_former = |former: &crate::manage::registry::entry::Previous| {
            former.digest.matches(digest) && former.expires > now
        };
        let is_secret =
            entry.digest.matches(digest) || entry.previous.as_ref().is_some_and(is_former);
        let is_id = match &entry.public_id {
            Some(id) => {
                // The id is not secret, but is compared as if it were.
                let shown = shown.public_id.map(Digest::of);
                shown.is_some_and(|shown| shown.matches(&Digest::of(id.as_bytes())))
            }
            None => shown.public_id.is_none(),
        };
        is_secret && is_id
    }
}
