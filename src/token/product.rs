//! Tokens for the management service: those that a product gives its own people, and the assertions
//! of our own sidecars. A product's claims have the names that the product chose. It signs them
//! with a secret that the service shares (HS256) or with keys of a set.
//!
//! A sidecar never accepts HMAC: it would have to know the secret that makes users. The management
//! service runs next to the product, and some products have nothing else.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

use super::json::UniqueObject;
use super::jwks::JwkSet;
use super::rules::TokenAlgorithm;
use super::verify::{LONGEST_TOKEN, looks_like_token};
use crate::core::{Now, TokenFault};

/// How far an issuer's clock may be ahead of ours, in seconds. `exp` has no leeway.
const AHEAD_SECS: u64 = 10;

/// What proves that the product made a token. Each variant accepts its own algorithms, whatever the
/// token says: a public key is not an HMAC secret (RFC 8725 section 2.1).
#[derive(Clone, Copy, Debug)]
pub enum ProductKeys<'k> {
    /// HS256 only.
    Shared(&'k SharedSecret),
    Set(&'k JwkSet),
}

/// A secret of HS256. Never prints itself.
pub struct SharedSecret(hmac::Key);

/// Whom a token must be from and for, if that is configured.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProductTokenTerms<'r> {
    /// `iss`, byte for byte.
    pub issuer: Option<&'r str>,
    /// One of `aud`.
    pub audience: Option<&'r str>,
    /// Longest life, in seconds: from `iat`, or, if that is missing, from now.
    pub longest_life: Option<u64>,
}

/// The claims of a valid token.
#[derive(Debug)]
pub struct ProductClaims(UniqueObject);

// === impl SharedSecret ===

impl SharedSecret {
    /// Least bytes of a secret (RFC 7518 section 3.2: as long as the hash).
    pub const LEAST: usize = 32;

    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }
}

impl std::fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedSecret(..)")
    }
}

// === impl ProductClaims ===

impl ProductClaims {
    /// Reads and verifies a token.
    ///
    /// # Errors
    /// The first thing wrong. The signature is checked before the claims.
    pub fn verify(
        token: &str,
        keys: ProductKeys<'_>,
        terms: ProductTokenTerms<'_>,
        now: Now,
    ) -> Result<Self, TokenFault> {
        if token.len() > LONGEST_TOKEN {
            return Err(TokenFault::Size);
        }
        if !looks_like_token(token.as_bytes()) {
            return Err(TokenFault::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        let (head, claims) = message.split_once('.').ok_or(TokenFault::Malformed)?;
        let decode =
            |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Malformed);
        let head = UniqueObject::parse(&decode(head)?).ok_or(TokenFault::Malformed)?;
        if head.has("crit") || head.has("b64") {
            return Err(TokenFault::Critical);
        }
        let alg = head.text("alg").ok_or(TokenFault::Malformed)?;
        match keys {
            ProductKeys::Shared(secret) => {
                if alg != "HS256" {
                    return Err(TokenFault::Algorithm);
                }
                let signature = decode(signature)?;
                hmac::verify(&secret.0, message.as_bytes(), &signature)
                    .map_err(|_| TokenFault::Signature)?;
            }
            ProductKeys::Set(set) => {
                let alg = TokenAlgorithm::parse(alg).ok_or(TokenFault::Algorithm)?;
                // `jku`, `x5u`, `x5c` and `jwk` would let a token choose its key.
                let print = set.signer(head.text("kid"), alg)?;
                if !set.verifies(print, alg, message.as_bytes(), signature) {
                    return Err(TokenFault::Signature);
                }
            }
        }
        let claims = Self(UniqueObject::parse(&decode(claims)?).ok_or(TokenFault::Malformed)?);
        claims.check(terms, now)?;
        Ok(claims)
    }

    fn check(&self, terms: ProductTokenTerms<'_>, now: Now) -> Result<(), TokenFault> {
        let at = now.unix_secs();
        if terms.issuer.is_some() && self.0.text("iss") != terms.issuer {
            return Err(TokenFault::Issuer);
        }
        if let Some(audience) = terms.audience {
            let is_it = |value: &Value| value.as_str() == Some(audience);
            let is_for_us = match self.0.get("aud") {
                Some(Value::Array(all)) => all.iter().any(is_it),
                Some(one) => is_it(one),
                None => false,
            };
            if !is_for_us {
                return Err(TokenFault::Audience);
            }
        }
        let expires = self.time("exp")?.ok_or(TokenFault::Claims)?;
        if expires <= at {
            return Err(TokenFault::Expired);
        }
        let issued = self.time("iat")?;
        let early = [issued, self.time("nbf")?].into_iter().flatten();
        if early.into_iter().any(|time| time > at + AHEAD_SECS) {
            return Err(TokenFault::NotYetValid);
        }
        let life = expires.saturating_sub(issued.unwrap_or(at));
        match terms.longest_life {
            Some(longest) if life > longest => Err(TokenFault::Lifetime),
            _ => Ok(()),
        }
    }

    /// A text, or a whole number as text: some products number their people.
    pub fn word(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) if number.is_u64() => Some(number.to_string()),
            _ => None,
        }
    }

    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// When the person signed in, if stated. Unix seconds.
    pub fn auth_time(&self) -> Option<u64> {
        self.time("auth_time").ok().flatten()
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.has(name)
    }

    /// When the person signed in, or else when the token was made. Unix seconds.
    pub fn signed_in(&self) -> Option<u64> {
        [self.time("auth_time"), self.time("iat")].into_iter().find_map(|time| time.ok().flatten())
    }

    /// When it was made. Unix seconds.
    pub fn issued(&self) -> Option<u64> {
        self.time("iat").ok().flatten()
    }

    /// A number of seconds since 1970, whole or not. Text that looks like a number is not one.
    fn time(&self, name: &str) -> Result<Option<u64>, TokenFault> {
        /// Beyond this a 64-bit float is not exact.
        const LATEST: f64 = 9_007_199_254_740_992.0;
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let number = value.as_f64().filter(|_| value.is_number()).ok_or(TokenFault::Claims)?;
        match (0.0..=LATEST).contains(&number) {
            true => Ok(Some(number as u64)),
            false => Err(TokenFault::Claims),
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::Ed25519KeyPair;

    use super::*;
    use crate::token::sign::{TokenKey, jwk_set};

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn at(seconds: u64) -> Now {
        Now { unix_ms: seconds * 1000, mono_ns: 0 }
    }

    fn encode(text: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(text)
    }

    /// As a product makes one.
    fn signed(head: &str, claims: &str, secret: &[u8]) -> String {
        let message = format!("{}.{}", encode(head), encode(claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let tag = hmac::sign(&key, message.as_bytes());
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag.as_ref()))
    }

    #[test]
    fn a_shared_secret_by_every_forgery() {
        const HEAD: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
        const GOOD: &str = r#"{"user_id":7,"organization_id":"o","role":"admin","iss":"w","aud":["a","k"],"iat":900,"exp":2000}"#;
        let secret = SharedSecret::new(SECRET);
        let terms =
            ProductTokenTerms { issuer: Some("w"), audience: Some("k"), longest_life: Some(3600) };
        let verify = |token: &str| {
            ProductClaims::verify(token, ProductKeys::Shared(&secret), terms, at(1000))
        };
        let good = signed(HEAD, GOOD, SECRET);
        let claims = verify(&good).unwrap();
        assert_eq!(claims.word("user_id").as_deref(), Some("7"));
        assert_eq!(claims.word("role").as_deref(), Some("admin"));
        assert_eq!(
            (claims.word("aud"), claims.word("none"), claims.signed_in()),
            (None, None, Some(900))
        );
        let but = |from: &str, to: &str| signed(HEAD, &GOOD.replacen(from, to, 1), SECRET);
        let (message, _) = good.rsplit_once('.').unwrap();
        let none = r#"{"alg":"none"}"#;
        let unsigned = format!("{}.{}.", encode(none), encode(GOOD));
        let cases = [
            ("another secret", signed(HEAD, GOOD, b"another"), TokenFault::Signature),
            ("no signature", format!("{message}."), TokenFault::Signature),
            ("none", unsigned, TokenFault::Algorithm),
            ("none, signed", signed(none, GOOD, SECRET), TokenFault::Algorithm),
            ("HS512", signed(r#"{"alg":"HS512"}"#, GOOD, SECRET), TokenFault::Algorithm),
            ("EdDSA", signed(r#"{"alg":"EdDSA"}"#, GOOD, SECRET), TokenFault::Algorithm),
            ("crit", signed(r#"{"alg":"HS256","crit":["x"]}"#, GOOD, SECRET), TokenFault::Critical),
            (
                "two algs",
                signed(r#"{"alg":"none","alg":"HS256"}"#, GOOD, SECRET),
                TokenFault::Malformed,
            ),
            ("two roles", but("\"role\"", "\"role\":\"x\",\"role\""), TokenFault::Malformed),
            ("over", but("2000", "1000"), TokenFault::Expired),
            ("no end", but(",\"exp\":2000", ""), TokenFault::Claims),
            ("end as text", but("2000", "\"2000\""), TokenFault::Claims),
            ("early", but("900", "1011"), TokenFault::NotYetValid),
            ("not before", but("\"iat\"", "\"nbf\":1011,\"iat\""), TokenFault::NotYetValid),
            ("too long", but("2000", "4501"), TokenFault::Lifetime),
            ("another issuer", but("\"w\"", "\"x\""), TokenFault::Issuer),
            ("no issuer", but("\"iss\":\"w\",", ""), TokenFault::Issuer),
            ("another audience", but("\"k\"", "\"x\""), TokenFault::Audience),
            ("two parts", message.to_owned(), TokenFault::Malformed),
            ("no object", signed(HEAD, "[]", SECRET), TokenFault::Malformed),
            ("long", format!("{good}{}", "A".repeat(9000)), TokenFault::Size),
        ];
        for (name, token, want) in cases {
            assert_eq!(verify(&token).err(), Some(want), "{name}");
        }
    }

    fn token_key() -> TokenKey {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let text = base64::prelude::BASE64_STANDARD.encode(pkcs8.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
        TokenKey::from_pem(pem.as_bytes(), None).unwrap().remove(0)
    }

    /// The public key of a set is not a secret of HS256, and a set accepts no HMAC.
    #[test]
    fn a_set_takes_signatures_of_its_keys_alone() {
        let key = token_key();
        let set = jwk_set(&[key.public().unwrap()]);
        let wanted = TokenAlgorithm::ALL;
        let parsed = JwkSet::parse(set.as_bytes(), &wanted).unwrap();
        let claims = r#"{"exp":2000}"#;
        let token = key.sign(claims.as_bytes()).unwrap();
        let verify = |token: &str| {
            let terms = ProductTokenTerms::default();
            ProductClaims::verify(token, ProductKeys::Set(&parsed), terms, at(1000)).map(drop)
        };
        assert_eq!(verify(&token), Ok(()));
        let forged = signed(r#"{"alg":"HS256"}"#, claims, set.as_bytes());
        assert_eq!(verify(&forged), Err(TokenFault::Algorithm));
        let other = token_key();
        let other = other.sign(claims.as_bytes()).unwrap();
        assert_eq!(verify(&other), Err(TokenFault::KeyUnknown), "its kid is another");
    }
}
