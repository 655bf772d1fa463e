//! From the bytes of a token to what it says. Two steps, so that a caller can decline to pay for
//! the second one: [`Unverified::read`] costs a few microseconds, [`Unverified::verify`] up to a
//! hundred (an ECDSA signature).

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::claims::{Claims, ClaimsMeaning};
use super::jwks::JwkSet;
use super::rules::{IssuerRules, TokenAlgorithm};
use crate::core::{Now, SignerPrint, TokenFault, UserToken, VerifiedToken};

/// Longest token that is read, in bytes.
pub const LONGEST_TOKEN: usize = 8 * 1024;

/// A token that is right in everything but its signature, which has not been checked yet.
#[derive(Debug)]
pub struct Unverified<'t> {
    rules: &'t IssuerRules,
    keys: &'t JwkSet,
    signer: SignerPrint,
    algorithm: TokenAlgorithm,
    /// As [`VerifiedToken::typ`].
    typ: Box<str>,
    /// Header and claims, as they were signed.
    message: &'t [u8],
    signature: &'t str,
    meaning: ClaimsMeaning,
}

/// What a token says about itself before anything is checked: enough to find its issuer.
struct TokenParts<'t> {
    header: jsonwebtoken::Header,
    claims: Claims,
    message: &'t [u8],
    signature: &'t str,
}

/// Provides the rules and the keys of issuers.
pub trait Issuers {
    fn rules(&self, issuer: &str) -> Option<&IssuerRules>;
    /// `None`: there are none that may be used now.
    fn keys(&self, issuer: &str) -> Option<&JwkSet>;
}

/// Whether a credential has the form of a signed token (RFC 7515 section 7.1): three parts of
/// Base64url, separated by two dots. Whether it is one is a later question.
pub fn looks_like_token(credential: &[u8]) -> bool {
    let mut parts = 1;
    let mut length = 0;
    for byte in credential {
        match byte {
            b'.' if length == 0 => return false,
            b'.' => (parts, length) = (parts + 1, 0),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => length += 1,
            _ => return false,
        }
    }
    // The last part is empty if `alg` is `none`: still a token, and refused as one.
    parts == 3
}

// === impl Unverified ===

impl<'t> Unverified<'t> {
    /// Reads a token and checks everything except its signature.
    ///
    /// # Errors
    /// The first thing wrong, together with the issuer if its name is among those configured.
    pub fn read(
        token: &'t [u8],
        issuers: &'t impl Issuers,
        now: Now,
    ) -> Result<Self, UnreadToken<'t>> {
        let early = |fault| UnreadToken { fault, issuer: None };
        if token.len() > LONGEST_TOKEN {
            return Err(early(TokenFault::Size));
        }
        let parts = TokenParts::of(token).map_err(early)?;
        let rules = parts.claims.issuer().and_then(|issuer| issuers.rules(issuer));
        let rules = rules.ok_or_else(|| early(TokenFault::Issuer))?;
        Self::check(parts, rules, issuers, now)
            .map_err(|fault| UnreadToken { fault, issuer: Some(rules) })
    }

    fn check(
        parts: TokenParts<'t>,
        rules: &'t IssuerRules,
        issuers: &'t impl Issuers,
        now: Now,
    ) -> Result<Self, TokenFault> {
        let TokenParts { header, claims, message, signature } = parts;
        let algorithm = TokenAlgorithm::from_library(header.alg)
            .filter(|algorithm| rules.algorithms.contains(algorithm))
            .ok_or(TokenFault::Algorithm)?;
        // RFC 7515 section 4.1.9: `application/` may be left out, and case does not count.
        let typ = header.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
        let typ: Box<str> = typ.strip_prefix("application/").unwrap_or(&typ).into();
        rules.take_type(&typ)?;
        let meaning = claims.check(rules, now)?;
        // `jku`, `x5u`, `x5c` and `jwk` are ignored: they would let a token choose its key.
        let keys = issuers.keys(&rules.issuer).ok_or(TokenFault::KeysMissing)?;
        let signer = keys.signer(header.kid.as_deref(), algorithm)?;
        Ok(Self { rules, keys, signer, algorithm, typ, message, signature, meaning })
    }

    pub fn issuer(&self) -> &'t IssuerRules {
        self.rules
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`TokenFault::Signature`].
    pub fn verify(self) -> Result<Arc<UserToken>, TokenFault> {
        let Self { rules, keys, signer, algorithm, typ, message, signature, meaning } = self;
        if !keys.verifies(signer, algorithm, message, signature) {
            return Err(TokenFault::Signature);
        }
        let ClaimsMeaning { subject, org, words, expires, issued, audiences } = meaning;
        let said = VerifiedToken {
            issuer: Arc::clone(&rules.issuer),
            subject,
            org,
            words,
            expires,
            issued,
            audiences,
            typ,
            algorithm: algorithm.as_str(),
            signed_by: signer,
            onward: rules.onward,
            limit: rules.limit,
        };
        Ok(Arc::new(UserToken::verified(said, &rules.reading)))
    }
}

/// A token that is refused, whatever its signature.
#[derive(Debug)]
pub struct UnreadToken<'t> {
    pub fault: TokenFault,
    /// The issuer that it names, if that one is configured.
    pub issuer: Option<&'t IssuerRules>,
}

// === impl TokenParts ===

impl<'t> TokenParts<'t> {
    fn of(token: &'t [u8]) -> Result<Self, TokenFault> {
        if !looks_like_token(token) {
            return Err(TokenFault::Malformed);
        }
        let text = std::str::from_utf8(token).map_err(|_| TokenFault::Malformed)?;
        let (message, signature) = text.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        let (head, claims) = message.split_once('.').ok_or(TokenFault::Malformed)?;
        let decode =
            |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Malformed);
        // The library's reader refuses duplicate members, except `crit`, and reports nothing about
        // an algorithm that it does not know.
        let raw = super::json::UniqueObject::parse(&decode(head)?).ok_or(TokenFault::Malformed)?;
        if raw.has("crit") || raw.has("b64") {
            return Err(TokenFault::Critical);
        }
        let alg = raw.text("alg").ok_or(TokenFault::Malformed)?;
        if TokenAlgorithm::parse(alg).is_none() {
            return Err(TokenFault::Algorithm);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenFault::Malformed)?;
        let claims = Claims::parse(&decode(claims)?)?;
        Ok(Self { header, claims, message: message.as_bytes(), signature })
    }
}

#[cfg(test)]
mod tests;
