//! A sidecar's statement about a request that it has let through: which key, or whose token. The
//! service believes it over our Unix socket from a configured user, or as an assertion that the
//! sidecar has signed. From anybody else it ignores the same fields.

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use super::key_sets::WantedKeys;
use super::product::{ProductPerson, ProductSource, ProductWords};
use super::{AuthError, Authenticator, Caller, CallerBy};
use crate::core::{KeyId, OrgId, TokenFault};
use crate::registrar::config::{JwksPlace, SidecarConfig, SidecarProof};
use crate::registrar::request::Peer;
use crate::registrar::store::{AudienceName, KeyRef, StoreError};
use crate::token::product::{ProductClaims, ProductKeys, ProductTokenTerms};

/// The longest life of an assertion, in seconds: the most that a sidecar can be configured for.
const LONGEST_LIFE: u64 = 300;

/// Who asks, as a sidecar has found out.
#[derive(Debug)]
pub(super) enum SidecarWord<'c> {
    /// A key that it has admitted.
    Key { audience: &'c AudienceName, org: OrgId, key: KeyId },
    /// A user token that it has verified.
    User { audience: &'c AudienceName, person: ProductPerson },
}

// === impl Authenticator ===

impl Authenticator {
    /// The sidecars' statement. `None`: there is none, or it says that nobody has shown a
    /// credential.
    ///
    /// # Errors
    /// The fields are not a valid statement, or two sidecars speak.
    pub(super) async fn said_by_sidecar(
        &self,
        parts: &Parts,
        peer: &Peer,
    ) -> Result<Option<SidecarWord<'_>>, AuthError> {
        let mut found = None;
        for config in &self.settings.people.sidecars {
            let word = match &config.proof {
                SidecarProof::Assertion { .. } => self.asserted(config, parts).await?,
                SidecarProof::Subjects(_) | SidecarProof::Uids(_) => match is_it(config, peer) {
                    true => fields(config, &parts.headers)?,
                    false => None,
                },
            };
            if let Some(word) = word
                && found.replace(word).is_some()
            {
                return Err(AuthError::TwoCredentials);
            }
        }
        Ok(found)
    }

    pub(super) async fn by_sidecar(
        &self,
        parts: &Parts,
        said: SidecarWord<'_>,
    ) -> Result<Caller, AuthError> {
        match said {
            // The sidecar may know an older table, so the key is looked up here.
            SidecarWord::Key { audience, org, key } => {
                match self.store.key(audience, Some(&org), KeyRef::Id(key)).await {
                    Ok(row) => self.key_caller(parts, row, CallerBy::Identity),
                    Err(StoreError::NoSuchKey) => Err(AuthError::Unknown),
                    Err(error) => Err(error.into()),
                }
            }
            SidecarWord::User { audience, person } => {
                let by = CallerBy::Identity;
                let source = ProductSource { name: "a sidecar", audience, by, said_ms: None };
                self.product_caller(parts, person, source, None, None).await
            }
        }
    }

    async fn asserted<'c>(
        &self,
        config: &'c SidecarConfig,
        parts: &Parts,
    ) -> Result<Option<SidecarWord<'c>>, AuthError> {
        let SidecarProof::Assertion { field, jwks_file, issuer, audience } = &config.proof else {
            return Ok(None);
        };
        let Some(token) = one(&parts.headers, field)? else { return Ok(None) };
        let now = self.clock.now();
        let place = JwksPlace::File(jwks_file.clone());
        let terms = ProductTokenTerms {
            issuer: Some(issuer),
            audience: Some(audience),
            longest_life: Some(LONGEST_LIFE),
        };
        let mut claims = Err(TokenFault::KeyUnknown);
        for wanted in [WantedKeys::AsKept, WantedKeys::Newer] {
            if claims.as_ref().err() == Some(&TokenFault::KeyUnknown)
                && let Some(set) = self.key_sets.of(&place, now, wanted).await
            {
                claims = ProductClaims::verify(token, ProductKeys::Set(&set), terms, now);
            }
        }
        let claims = claims.map_err(|_| AuthError::Unknown)?;
        if !is_bound_here(&claims, parts) {
            return Err(AuthError::Unknown);
        }
        let word = |name: &str| claims.word(name).ok_or(AuthError::Unknown);
        let org = OrgId::parse(&word("org")?).map_err(|_| AuthError::Unknown)?;
        let key = KeyId::parse(&word("sub")?).map_err(|_| AuthError::Unknown)?;
        Ok(Some(SidecarWord::Key { audience: &config.audience, org, key }))
    }
}

/// Whether the connection is from this sidecar.
pub(super) fn is_it(config: &SidecarConfig, peer: &Peer) -> bool {
    match &config.proof {
        SidecarProof::Assertion { .. } => false,
        SidecarProof::Subjects(subjects) => {
            peer.subject.as_ref().is_some_and(|subject| subjects.contains(subject))
        }
        SidecarProof::Uids(uids) => peer.uid.is_some_and(|uid| uids.contains(&uid)),
    }
}

/// An assertion may be good for one request only: then it names method, path and request id.
fn is_bound_here(claims: &ProductClaims, parts: &Parts) -> bool {
    let sent_id = parts.headers.get("x-request-id").and_then(|value| value.to_str().ok());
    let here = [
        ("method", Some(parts.method.as_str())),
        ("path", Some(parts.uri.path())),
        ("request_id", sent_id),
    ];
    here.into_iter().all(|(name, is)| match claims.word(name) {
        Some(stated) => is == Some(&stated),
        None => !claims.has(name),
    })
}

fn fields<'c>(
    config: &'c SidecarConfig,
    headers: &HeaderMap,
) -> Result<Option<SidecarWord<'c>>, AuthError> {
    let key = one(headers, &config.key_id_field)?;
    let subject = one(headers, &config.subject_field)?;
    let org = one(headers, &config.org_field)?;
    let audience = &config.audience;
    match (key, subject) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(AuthError::TwoCredentials),
        (Some(key), None) => {
            let key = KeyId::parse(key).map_err(|_| AuthError::Unknown)?;
            let org = OrgId::parse(org.unwrap_or_default()).map_err(|_| AuthError::Unknown)?;
            Ok(Some(SidecarWord::Key { audience, org, key }))
        }
        (None, Some(subject)) => {
            if !is_of_its_issuers(config, one(headers, &config.issuer_field)?) {
                return Err(AuthError::Unknown);
            }
            let words = one(headers, &config.permissions_field)?.unwrap_or_default();
            let role = config.roles.strongest(words.split(' ')).ok_or(AuthError::NoRole)?;
            let user = percent_encoding::percent_decode_str(subject).decode_utf8();
            let words = ProductWords {
                org: org.map(str::to_owned),
                user: Some(user.map_err(|_| AuthError::Unknown)?.into_owned()),
                role: None,
                email: None,
            };
            let person = words.with_role(Some(role))?;
            Ok(Some(SidecarWord::User { audience, person }))
        }
    }
}

/// Whether a token comes from one of the product's issuers: the same subject at another issuer is
/// somebody else.
fn is_of_its_issuers(config: &SidecarConfig, said: Option<&str>) -> bool {
    let said = said.map(|said| percent_encoding::percent_decode_str(said).decode_utf8());
    match said {
        _ if config.issuers.is_empty() => true,
        Some(Ok(said)) => config.issuers.iter().any(|issuer| **issuer == *said),
        Some(Err(_)) | None => false,
    }
}

/// The value of a field that occurs at most once.
fn one<'r>(fields: &'r HeaderMap, name: &HeaderName) -> Result<Option<&'r str>, AuthError> {
    let mut all = fields.get_all(name).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| AuthError::Unknown),
        (Some(_), Some(_)) => Err(AuthError::TwoCredentials),
    }
}
