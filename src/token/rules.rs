//! What is configured of one issuer of user tokens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::core::{KnownOrgs, Limit, Permission, TokenOnward};

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
    /// The claim that names the org.
    pub org_claim: Box<str>,
    pub orgs: KnownOrgs,
    /// The claim that lists what the user may do; `None`: tokens have no permission.
    pub permissions_claim: Option<Box<str>>,
    /// What each of its words stands for. A word that is not here stands for nothing.
    pub permissions: BTreeMap<Box<str>, Vec<Permission>>,
    pub onward: TokenOnward,
    /// Of each subject.
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

    /// As the library calls it.
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
