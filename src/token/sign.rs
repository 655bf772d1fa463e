//! Makes JSON Web Tokens for the service: compact JWS (RFC 7515 section 7.1) by Ed25519 or
//! HMAC-SHA-256. What is signed here always begins with a JOSE header (`eyJ`), so it is never a
//! table. Imports `core`.

pub mod assertion;
pub mod cache;
pub mod credential;
pub mod template;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;
use zeroize::{Zeroize as _, Zeroizing};

use crate::core::{Digest, Now};

/// A secret that signs tokens. Never prints itself, and is wiped when it is dropped: a key pair by
/// aws-lc, which clears whatever it frees.
pub struct TokenKey {
    secret: TokenSecret,
    /// The JOSE header in base64url, and a dot.
    head: Box<str>,
}

enum TokenSecret {
    EdDsa(Ed25519KeyPair, PublicTokenKey),
    /// An `hmac::Key` would leave copies of itself behind wherever it is moved.
    Hs256(Zeroizing<Vec<u8>>),
    /// Never signs.
    #[cfg(test)]
    Broken,
}

/// The public part of an Ed25519 [`TokenKey`], as verifiers get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicTokenKey([u8; 32]);

/// Why a file holds no key that could sign tokens. Says nothing about the file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenKeyError {
    #[error("the file holds no PKCS#8 private key in PEM (`-----BEGIN PRIVATE KEY-----`)")]
    NotPem,
    #[error("the key in the file is not an Ed25519 key")]
    NotEd25519,
    #[error("the file holds a public key; the private one signs")]
    Public,
    #[error("the file holds more than two keys")]
    TooMany,
}

/// The library could not sign; it states no reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token could not be signed")]
pub struct SigningFailed;

/// A token, and how long it may be reused.
pub struct MintedToken {
    pub text: String,
    /// On the process's clock: half of its life is over.
    pub renew_ns: u64,
}

/// From when to when a token is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TokenLife {
    /// Unix seconds.
    issued: u64,
    /// Unix seconds.
    expires: u64,
    /// On the process's clock.
    renew_ns: u64,
}

/// The claims of a JOSE header (RFC 7515 section 4.1).
#[derive(Serialize)]
struct JoseHead<'h> {
    alg: &'h str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'h str>,
    typ: &'h str,
}

/// A public key (RFC 8037 section 2).
#[derive(Serialize)]
struct Jwk {
    kty: &'static str,
    crv: &'static str,
    x: String,
    kid: String,
    #[serde(rename = "use")]
    purpose: &'static str,
    alg: &'static str,
}

const PEM_BEGIN: &str = "-----BEGIN ";
const PRIVATE: &str = "PRIVATE KEY";
const PUBLIC: &str = "PUBLIC KEY";

/// Keys in one file: the one that signs, and one more that is only published.
const MOST_KEYS: usize = 2;

// === impl TokenKey ===

impl TokenKey {
    /// HMAC-SHA-256 with a shared secret.
    pub fn hs256(secret: &[u8], key_id: Option<&str>) -> Self {
        let secret = TokenSecret::Hs256(Zeroizing::new(secret.to_vec()));
        Self { secret, head: jose_head("HS256", key_id) }
    }

    #[cfg(test)]
    pub fn broken() -> Self {
        Self { secret: TokenSecret::Broken, head: jose_head("HS256", None) }
    }

    /// Every private key of a PEM file, one or two: PKCS#8, Ed25519, as `keygatectl signer new` and
    /// `openssl genpkey -algorithm ed25519` write it. Its key id is `key_id`, or else its thumbprint.
    ///
    /// # Errors
    /// The file holds something else.
    pub fn from_pem(pem: &[u8], key_id: Option<&str>) -> Result<Vec<Self>, TokenKeyError> {
        let mut rest = std::str::from_utf8(pem).map_err(|_| TokenKeyError::NotPem)?;
        let mut keys = Vec::new();
        while let Some((_, after)) = rest.split_once(PEM_BEGIN) {
            let (label, after) = after.split_once("-----").ok_or(TokenKeyError::NotPem)?;
            let (body, after) = after.split_once("-----END ").ok_or(TokenKeyError::NotPem)?;
            rest = after;
            match label {
                PRIVATE => keys.push(Self::ed25519(&decoded(body)?, key_id)?),
                PUBLIC => return Err(TokenKeyError::Public),
                _ => return Err(TokenKeyError::NotPem),
            }
        }
        match keys.len() {
            0 => Err(TokenKeyError::NotPem),
            1..=MOST_KEYS => Ok(keys),
            _ => Err(TokenKeyError::TooMany),
        }
    }

    fn ed25519(pkcs8: &[u8], key_id: Option<&str>) -> Result<Self, TokenKeyError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8);
        let pair = pair.map_err(|_| TokenKeyError::NotEd25519)?;
        let raw = pair.public_key().as_ref().try_into().map_err(|_| TokenKeyError::NotEd25519)?;
        let public = PublicTokenKey(raw);
        let head = match key_id {
            Some(key_id) => jose_head("EdDSA", Some(key_id)),
            None => jose_head("EdDSA", Some(&public.key_id())),
        };
        Ok(Self { secret: TokenSecret::EdDsa(pair, public), head })
    }

    /// `None`: it is a shared secret.
    pub fn public(&self) -> Option<PublicTokenKey> {
        match &self.secret {
            TokenSecret::EdDsa(_, public) => Some(*public),
            TokenSecret::Hs256(_) => None,
            #[cfg(test)]
            TokenSecret::Broken => None,
        }
    }

    /// `claims` is a JSON object.
    pub(super) fn sign(&self, claims: &[u8]) -> Result<String, SigningFailed> {
        let mut token = String::with_capacity(self.head.len() + claims.len() * 4 / 3 + 96);
        token.push_str(&self.head);
        BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let input = token.len();
        token.push('.');
        let signed = token.get(..input).unwrap_or_default().as_bytes();
        match &self.secret {
            TokenSecret::EdDsa(pair, _) => {
                let signature = pair.try_sign(signed).map_err(|_| SigningFailed)?;
                BASE64_URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
            }
            TokenSecret::Hs256(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                BASE64_URL_SAFE_NO_PAD.encode_string(hmac::sign(&key, signed).as_ref(), &mut token);
            }
            #[cfg(test)]
            TokenSecret::Broken => return Err(SigningFailed),
        }
        Ok(token)
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").finish_non_exhaustive()
    }
}

fn jose_head(alg: &str, kid: Option<&str>) -> Box<str> {
    // Three texts always make valid JSON.
    let head = serde_json::to_vec(&JoseHead { alg, kid, typ: "JWT" }).unwrap_or_default();
    let mut head = BASE64_URL_SAFE_NO_PAD.encode(head);
    head.push('.');
    head.into()
}

fn decoded(body: &str) -> Result<Zeroizing<Vec<u8>>, TokenKeyError> {
    let packed: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
    let mut der = Zeroizing::new(Vec::with_capacity(packed.len()));
    match BASE64_STANDARD.decode_vec(packed.as_bytes(), &mut der) {
        Ok(()) => Ok(der),
        Err(_) => {
            der.zeroize();
            Err(TokenKeyError::NotPem)
        }
    }
}

// === impl PublicTokenKey ===

impl PublicTokenKey {
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its thumbprint (RFC 7638 with RFC 8037 section 2): everybody computes the same one.
    pub fn key_id(&self) -> String {
        let text = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.x());
        BASE64_URL_SAFE_NO_PAD.encode(Digest::of(text.as_bytes()).0)
    }

    fn x(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0)
    }

    fn jwk(&self) -> Jwk {
        let (x, kid) = (self.x(), self.key_id());
        Jwk { kty: "OKP", crv: "Ed25519", x, kid, purpose: "sig", alg: "EdDSA" }
    }
}

/// The keys as a JSON Web Key Set (RFC 7517 section 5).
pub fn jwk_set(keys: &[PublicTokenKey]) -> String {
    let keys: Vec<Jwk> = keys.iter().map(PublicTokenKey::jwk).collect();
    serde_json::json!({ "keys": keys }).to_string()
}

// === impl TokenLife ===

impl TokenLife {
    /// `seconds` from now, but not beyond the end of the key that it speaks for.
    fn of(now: Now, seconds: u64, key_expires: Option<u64>) -> Self {
        let issued = now.unix_secs();
        let expires = issued.saturating_add(seconds).min(key_expires.unwrap_or(u64::MAX));
        let half_ns = expires.saturating_sub(issued).saturating_mul(1_000_000_000 / 2);
        Self { issued, expires, renew_ns: now.mono_ns.saturating_add(half_ns) }
    }
}

// === impl MintedToken ===

impl std::fmt::Debug for MintedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MintedToken").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
