//! An issuer's public keys: a JWK Set (RFC 7517), as keygate accepts it.
//!
//! The library would make an HMAC key of an `oct` entry, and would not notice that `crv`, `alg` and
//! `use` contradict each other. So keygate checks every entry before the library gets it.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde_json::Value;

use super::json::UniqueObject;
use super::rules::TokenAlgorithm;
use crate::core::{SignerPrint, TokenFault};

/// Longest set that is read, in bytes.
pub const LONGEST_SET: usize = 256 * 1024;

/// Most keys of a set.
const MOST_KEYS: usize = 64;

/// Accepted bits of an RSA modulus (NIST SP 800-131A; the library verifies no longer ones).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The keys that can verify tokens of one issuer.
#[derive(Debug, Default)]
pub struct JwkSet {
    keys: Vec<SigningJwk>,
    /// Entries that keygate cannot use: for encryption, of other kinds, or for algorithms that are
    /// not configured. Each with a description for people.
    pub ignored: Vec<String>,
    /// Entries with a private part, or a symmetric key. Anybody can sign with them now, so the set
    /// has none of their keys, under whatever name.
    pub leaked: usize,
}

struct SigningJwk {
    kid: Option<Box<str>>,
    /// What it can verify.
    algorithms: Vec<TokenAlgorithm>,
    key: DecodingKey,
    print: SignerPrint,
}

/// The public part of a key, whatever else its entry says.
struct KeyMaterial {
    /// What keys of this kind can verify.
    can: &'static [TokenAlgorithm],
    public: Vec<u8>,
}

/// How many characters of a member are shown to a person.
const SHOWN: usize = 64;

/// Members of a key that only its owner may know (RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1; `priv`
/// of `AKP` keys).
const PRIVATE: [&str; 9] = ["d", "dp", "dq", "k", "oth", "p", "priv", "q", "qi"];

/// Why a set is refused. The previous one stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    #[error("it is not a JWK Set: an object whose `keys` is a list of objects")]
    NotASet,
    #[error("two keys have the kid {0:?}")]
    SameKid(String),
    #[error("it is longer than 256 KiB")]
    TooLong,
    #[error("it has more than 64 keys")]
    TooMany,
}

// === impl JwkSet ===

impl JwkSet {
    /// A set without a usable key is still a set: its issuer trusts no key.
    ///
    /// # Errors
    /// See [`JwksError`].
    pub fn parse(json: &[u8], wanted: &[TokenAlgorithm]) -> Result<Self, JwksError> {
        if json.len() > LONGEST_SET {
            return Err(JwksError::TooLong);
        }
        let set = UniqueObject::parse(json).ok_or(JwksError::NotASet)?;
        let Some(Value::Array(entries)) = set.get("keys") else { return Err(JwksError::NotASet) };
        if entries.len() > MOST_KEYS {
            return Err(JwksError::TooMany);
        }
        let mut found = Self::default();
        let mut leaks = Vec::new();
        for entry in entries {
            let Value::Object(members) = entry else { return Err(JwksError::NotASet) };
            let is_symmetric = members.get("kty").is_some_and(|kty| kty == "oct");
            if is_symmetric || PRIVATE.iter().any(|name| members.contains_key(*name)) {
                leaks.push(entry);
                continue;
            }
            match SigningJwk::of(entry, wanted) {
                Some(key) => found.add(key)?,
                None => found.ignored.push(shown(members)),
            }
        }
        found.leaked = leaks.len();
        for leak in leaks {
            let print = KeyMaterial::of(leak).map(|material| material.print());
            let kid = leak.get("kid").and_then(Value::as_str);
            found.keys.retain(|key| {
                Some(key.print) != print && (kid.is_none() || key.kid.as_deref() != kid)
            });
        }
        Ok(found)
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn has(&self, print: SignerPrint) -> bool {
        self.keys.iter().any(|key| key.print == print)
    }

    /// Whether both have the same keys under the same names.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |a: &SigningJwk, b: &SigningJwk| {
            a.print == b.print && a.kid == b.kid && a.algorithms == b.algorithms
        };
        self.keys.len() == other.keys.len()
            && self.keys.iter().zip(&other.keys).all(|(a, b)| same(a, b))
    }

    /// The key that a token names, or, if it names none, the only one that fits.
    fn find(
        &self,
        kid: Option<&str>,
        algorithm: TokenAlgorithm,
    ) -> Result<&SigningJwk, TokenFault> {
        let fits = |key: &&SigningJwk| key.algorithms.contains(&algorithm);
        if kid.is_some() {
            let named = self.keys.iter().find(|key| key.kid.as_deref() == kid);
            let named = named.ok_or(TokenFault::KeyUnknown)?;
            return if fits(&named) { Ok(named) } else { Err(TokenFault::Algorithm) };
        }
        let mut fitting = self.keys.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(TokenFault::KeyUnknown),
        }
    }

    pub(super) fn signer(
        &self,
        kid: Option<&str>,
        algorithm: TokenAlgorithm,
    ) -> Result<SignerPrint, TokenFault> {
        self.find(kid, algorithm).map(|key| key.print)
    }

    /// Whether `signature`, in Base64url, is that of the key with `print` over `message`.
    pub(super) fn verifies(
        &self,
        print: SignerPrint,
        algorithm: TokenAlgorithm,
        message: &[u8],
        signature: &str,
    ) -> bool {
        let Some(key) = self.keys.iter().find(|key| key.print == print) else { return false };
        let algorithm = algorithm.of_library();
        jsonwebtoken::crypto::verify(signature, message, &key.key, algorithm).unwrap_or(false)
    }

    fn add(&mut self, key: SigningJwk) -> Result<(), JwksError> {
        if let Some(kid) = &key.kid
            && self.keys.iter().any(|known| known.kid.as_ref() == Some(kid))
        {
            return Err(JwksError::SameKid(kid.chars().take(SHOWN).collect()));
        }
        self.keys.push(key);
        Ok(())
    }
}

// === impl SigningJwk ===

impl SigningJwk {
    /// `None`: it is for something else, or its members contradict each other.
    fn of(entry: &Value, wanted: &[TokenAlgorithm]) -> Option<Self> {
        if entry.get("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        if let Some(operations) = entry.get("key_ops") {
            operations.as_array()?.iter().find(|operation| *operation == "verify")?;
        }
        let material = KeyMaterial::of(entry)?;
        let stated = match entry.get("alg") {
            Some(alg) => Some(TokenAlgorithm::parse(alg.as_str()?)?),
            None => None,
        };
        let fits = |algorithm: &&TokenAlgorithm| {
            stated.is_none_or(|stated| stated == **algorithm) && wanted.contains(algorithm)
        };
        let algorithms: Vec<_> = material.can.iter().filter(fits).copied().collect();
        if algorithms.is_empty() {
            return None;
        }
        let kid = match entry.get("kid") {
            Some(kid) => Some(kid.as_str()?.into()),
            None => None,
        };
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(entry.clone()).ok()?;
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { kid, algorithms, key, print: material.print() })
    }
}

// === impl KeyMaterial ===

impl KeyMaterial {
    /// `None`: it is of another kind, or lacks a member that a key of its kind has.
    fn of(entry: &Value) -> Option<Self> {
        let text = |name: &str| entry.get(name).and_then(Value::as_str);
        let bytes = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let (can, public): (&[TokenAlgorithm], Vec<u8>) = match (text("kty")?, text("crv")) {
            ("EC", Some("P-256")) => {
                (&[TokenAlgorithm::Es256], point(&bytes("x")?, &bytes("y")?, 32)?)
            }
            ("EC", Some("P-384")) => {
                (&[TokenAlgorithm::Es384], point(&bytes("x")?, &bytes("y")?, 48)?)
            }
            ("OKP", Some("Ed25519")) => {
                (&[TokenAlgorithm::EdDsa], bytes("x").filter(|x| x.len() == 32)?)
            }
            ("RSA", None) => {
                let modulus = bytes("n")?;
                RSA_BITS.contains(&bits(&modulus)).then_some(())?;
                let mut both = bytes("e").filter(|e| !e.is_empty() && e.len() <= 8)?;
                both.extend_from_slice(&modulus);
                (&[TokenAlgorithm::Ps256, TokenAlgorithm::Rs256], both)
            }
            _ => return None,
        };
        Some(Self { can, public })
    }

    fn print(&self) -> SignerPrint {
        let hash = digest::digest(&digest::SHA256, &self.public);
        SignerPrint(hash.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first)))
    }
}

impl std::fmt::Debug for SigningJwk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningJwk").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// Never the key itself.
impl std::fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyMaterial").field("can", &self.can).finish_non_exhaustive()
    }
}

/// `kid "one" (kty RSA, alg RS512)`. A stranger may have written it, so it is quoted, escaped and
/// short.
fn shown(entry: &serde_json::Map<String, Value>) -> String {
    let member = |name: &str| {
        let text = entry.get(name)?.as_str()?;
        Some(format!("{:?}", text.chars().take(SHOWN).collect::<String>()))
    };
    let kid =
        member("kid").map_or_else(|| "one without a kid".to_owned(), |kid| format!("kid {kid}"));
    let facts = ["kty", "crv", "alg", "use"].iter();
    let facts: Vec<_> =
        facts.filter_map(|name| Some(format!("{name} {}", member(name)?))).collect();
    match facts.is_empty() {
        true => kid,
        false => format!("{kid} ({})", facts.join(", ")),
    }
}

/// Both coordinates, which RFC 7518 section 6.2.1.2 requires at full width.
fn point(x: &[u8], y: &[u8], width: usize) -> Option<Vec<u8>> {
    (x.len() == width && y.len() == width).then(|| [x, y].concat())
}

fn bits(number: &[u8]) -> usize {
    let from = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    let number = number.get(from..).unwrap_or_default();
    let first = number.first().map_or(0, |byte| byte.leading_zeros() as usize);
    (number.len() * 8).saturating_sub(first)
}

#[cfg(test)]
mod tests;
