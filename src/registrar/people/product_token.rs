//! A product's own tokens: `Authorization: Bearer` with three parts and two dots. The form of our
//! keys is configured elsewhere, and no key looks like that.

use axum::http::request::Parts;

use super::key_sets::WantedKeys;
use super::product::{ProductSource, ProductWords};
use super::{AuthError, Authenticator, Caller, CallerBy};
use crate::core::{Now, TokenFault};
use crate::registrar::config::{ProductTokenConfig, TokenProof};
use crate::token::product::{ProductClaims, ProductKeys, ProductTokenTerms};

// === impl Authenticator ===

impl Authenticator {
    pub(super) async fn by_product_token(
        &self,
        parts: &Parts,
        token: &str,
    ) -> Result<Caller, AuthError> {
        let now = self.clock.now();
        let mut without_role = None;
        let mut otherwise = AuthError::Unknown;
        for config in &self.settings.people.tokens {
            let claims = match self.claims(config, token, now).await {
                Ok(claims) => claims,
                Err(fault) => {
                    // Nobody has said that the token is a guess.
                    if fault == TokenFault::KeysMissing {
                        otherwise = AuthError::Unreachable;
                    }
                    continue;
                }
            };
            let word = |name: &str| claims.word(name);
            let words = ProductWords {
                org: word(&config.org_claim),
                user: word(&config.user_claim),
                role: word(&config.role_claim),
                email: config.email_claim.as_deref().and_then(word),
            };
            let Ok(said) = words.read(&config.roles) else { continue };
            let source = ProductSource {
                name: &config.name,
                audience: &config.audience,
                by: CallerBy::ProductToken,
                said_ms: claims.issued().map(|seconds| seconds.saturating_mul(1000)),
            };
            if said.role.is_none() {
                // Another product may know the person's role.
                without_role.get_or_insert((said, source));
                continue;
            }
            let at = claims.signed_in().map(|seconds| seconds.saturating_mul(1000));
            return self.product_caller(parts, said, source, at, None).await;
        }
        match without_role {
            Some((said, source)) => self.product_caller(parts, said, source, None, None).await,
            None => Err(otherwise),
        }
    }

    async fn claims(
        &self,
        config: &ProductTokenConfig,
        token: &str,
        now: Now,
    ) -> Result<ProductClaims, TokenFault> {
        let terms = ProductTokenTerms {
            issuer: config.issuer.as_deref(),
            audience: config.token_audience.as_deref(),
            longest_life: Some(config.longest_life.as_secs()),
        };
        match &config.proof {
            TokenProof::Secret(secret) => {
                ProductClaims::verify(token, ProductKeys::Shared(secret), terms, now)
            }
            TokenProof::Keys(place) => {
                let set = self.key_sets.of(place, now, WantedKeys::AsKept).await;
                let set = set.ok_or(TokenFault::KeysMissing)?;
                let first = ProductClaims::verify(token, ProductKeys::Set(&set), terms, now);
                // Keys rotate: an unknown one may be new.
                if !matches!(first, Err(TokenFault::KeyUnknown)) {
                    return first;
                }
                let set = self.key_sets.of(place, now, WantedKeys::Newer).await;
                let set = set.ok_or(TokenFault::KeysMissing)?;
                ProductClaims::verify(token, ProductKeys::Set(&set), terms, now)
            }
        }
    }
}
