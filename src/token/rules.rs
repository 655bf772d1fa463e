//! The configuration of one issuer of user tokens.

use std::sync::Arc;
use std::time::Duration;

use crate::core::{ClaimReading, Limit, Now, TokenFault, TokenOnward, VerifiedToken};

/// What a token of this issuer must be, and what it means.
#[derive(Clone, Debug, PartialEq)]
pub struct IssuerRules {
    /// `iss`, compared byte for byte.
    pub issuer: Arc<str>,
    /// At least one; one of them must be in `aud`.
    pub audiences: Vec<Box<str>>,
    /// At least one.
    pub algorithms: Vec<TokenAlgorithm>,
    /// Allowed `typ`, without `application/` and in lower case; empty: any, or none.
    pub types: Vec<Box<str>>,
    /// Longest life of a token.
    pub max_life: Duration,
    /// What its claims mean. Tokens share it, and so can tell whether anything has changed.
    pub reading: Arc<ClaimReading>,
    pub onward: TokenOnward,
    /// For each subject.
    pub limit: Option<Limit>,
}

/// Signature algorithms that can be configured (RFC 7518, RFC 8037): asymmetric ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenAlgorithm {
    EdDsa,
    Es256,
    Es384,
    Ps256,
    Rs256,
}

// === impl IssuerRules ===

impl IssuerRules {
    /// Whether a token that was verified by other rules of this issuer is valid by these.
    ///
    /// # Errors
    /// The first thing wrong, in the order in which a request checks them.
    pub fn take(&self, token: &VerifiedToken, now: Now) -> Result<(), TokenFault> {
        if !self.algorithms.iter().any(|known| known.as_str() == token.algorithm) {
            return Err(TokenFault::Algorithm);
        }
        self.take_type(&token.typ)?;
        if !token.audiences.lines().any(|audience| self.is_for(audience)) {
            return Err(TokenFault::Audience);
        }
        if token.expires <= now.unix_secs() {
            return Err(TokenFault::Expired);
        }
        self.take_life(token.issued, token.expires, now)
    }

    /// `typ`: in lower case, without `application/`; empty: there is none.
    pub(super) fn take_type(&self, typ: &str) -> Result<(), TokenFault> {
        match self.types.is_empty() || self.types.iter().any(|known| **known == *typ) {
            true => Ok(()),
            false => Err(TokenFault::Type),
        }
    }

    pub(super) fn is_for(&self, audience: &str) -> bool {
        self.audiences.iter().any(|known| **known == *audience)
    }

    /// In Unix seconds. Without `issued`, a token's life counts from now.
    pub(super) fn take_life(
        &self,
        issued: Option<u64>,
        expires: u64,
        now: Now,
    ) -> Result<(), TokenFault> {
        let from = issued.unwrap_or(now.unix_secs()).min(expires);
        match expires - from > self.max_life.as_secs() {
            true => Err(TokenFault::Lifetime),
            false => Ok(()),
        }
    }
}

// === impl TokenAlgorithm ===

impl TokenAlgorithm {
    pub const ALL: [Self; 5] = [Self::EdDsa, Self::Es256, Self::Es384, Self::Ps256, Self::Rs256];

    /// `alg`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Ps256 => "PS256",
            Self::Rs256 => "RS256",
        }
    }

    pub fn parse(alg: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == alg)
    }

    /// The library's name for it.
    pub(super) const fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Es384 => jsonwebtoken::Algorithm::ES384,
            Self::Ps256 => jsonwebtoken::Algorithm::PS256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
        }
    }

    pub(super) fn from_library(alg: jsonwebtoken::Algorithm) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.of_library() == alg)
    }
}
