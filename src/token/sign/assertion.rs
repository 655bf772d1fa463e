//! The signed assertion: who calls, as keygate has decided, in a token that the service can verify
//! with just a public key. Imports `core`.

use http::HeaderName;
use serde::Serialize;

use super::{MintedToken, PublicTokenKey, SigningFailed, TokenKey, TokenLife};
use crate::core::{Environment, KeyView, Now};

/// `[assertion]`: what assertions say and which key signs them.
#[derive(Debug)]
pub struct Assertions {
    /// Only keygate may set it.
    pub field: HeaderName,
    pub issuer: Box<str>,
    pub audience: Box<str>,
    /// In seconds, at most five minutes.
    pub life: u64,
    pub binding: AssertionBinding,
    pub key: TokenKey,
    /// Published next to that of `key`: for a key that will sign soon, or has signed before.
    pub also_published: Vec<PublicTokenKey>,
}

/// What an assertion is valid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssertionBinding {
    /// Every request of its key.
    Key,
    /// One request: the assertion names method, path and id.
    Request,
}

/// The request that an assertion is bound to.
#[derive(Clone, Copy, Debug)]
pub struct BoundRequest<'r> {
    pub method: &'r str,
    /// As sent to the service, without the query.
    pub path: &'r str,
    pub request_id: &'r str,
}

#[derive(Serialize)]
struct AssertionClaims<'c> {
    iss: &'c str,
    aud: &'c str,
    /// Id of the key.
    sub: &'c str,
    org: &'c str,
    /// Permissions, with a space between two (RFC 8693 section 4.2); may be empty.
    scope: &'c str,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<&'c str>,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'c str>,
}

// === impl Assertions ===

impl Assertions {
    /// The keys that a verifier has to know, the signing one first.
    pub fn public_keys(&self) -> Vec<PublicTokenKey> {
        self.key.public().into_iter().chain(self.also_published.iter().copied()).collect()
    }

    /// What keygate tells the service of `audience` about a request with `key`. `bound`: valid only
    /// for this one.
    ///
    /// # Errors
    /// The library could not sign.
    pub fn mint(
        &self,
        key: &KeyView<'_>,
        audience: &str,
        bound: Option<BoundRequest<'_>>,
        now: Now,
    ) -> Result<MintedToken, SigningFailed> {
        let life = TokenLife::of(now, self.life, key.expires);
        let claims = AssertionClaims {
            iss: &self.issuer,
            aud: audience,
            sub: &key.id.to_string(),
            org: key.org,
            scope: key.grant.permissions.joined(),
            env: key.grant.environment.map(Environment::as_str),
            iat: life.issued,
            exp: life.expires,
            method: bound.map(|request| request.method),
            path: bound.map(|request| request.path),
            request_id: bound.map(|request| request.request_id),
        };
        let claims = serde_json::to_vec(&claims).map_err(|_| SigningFailed)?;
        Ok(MintedToken { text: self.key.sign(&claims)?, renew_ns: life.renew_ns })
    }
}
