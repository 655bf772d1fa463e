//! Whether the claims of a token hold now, and what they mean here (RFC 7519 section 4.1). keygate
//! checks them itself, by its own clock. With their defaults, libraries have accepted tokens whose
//! `exp` or `nbf` was text (CVE-2026-25537), whose `iss` was a list, or which had expired a minute
//! earlier.

use serde_json::Value;

use super::json::UniqueObject;
use super::rules::IssuerRules;
use crate::core::{ClaimReading, Now, OrgId, TokenFault};

/// How far the clock of an issuer may be ahead of ours, in seconds: for `nbf` and `iat`, since a
/// client uses its token immediately. `exp` has no leeway.
const AHEAD_SECS: u64 = 10;

/// Longest `sub`, in bytes (OpenID Connect Core section 2).
const LONGEST_SUBJECT: usize = 255;

/// The claims of one token. Whether they are really its issuer's is up to the signature.
#[derive(Debug)]
pub struct Claims(UniqueObject);

/// The meaning of valid claims. The fields are those of [`crate::core::VerifiedToken`].
#[derive(Debug)]
pub struct ClaimsMeaning {
    pub subject: Box<str>,
    pub org: Box<str>,
    pub words: Box<str>,
    /// Unix seconds.
    pub expires: u64,
    /// Unix seconds.
    pub issued: Option<u64>,
    pub audiences: Box<str>,
}

// === impl Claims ===

impl Claims {
    /// # Errors
    /// [`TokenFault::Malformed`]: they are not an object, or have a name twice.
    pub fn parse(json: &[u8]) -> Result<Self, TokenFault> {
        UniqueObject::parse(json).map(Self).ok_or(TokenFault::Malformed)
    }

    /// One string: a list of issuers counts as no issuer.
    pub fn issuer(&self) -> Option<&str> {
        self.0.text("iss")
    }

    /// Whether they hold by `rules`, which must be those of the issuer that they name.
    ///
    /// # Errors
    /// The first claim that does not hold.
    pub fn check(&self, rules: &IssuerRules, now: Now) -> Result<ClaimsMeaning, TokenFault> {
        if self.issuer() != Some(&*rules.issuer) {
            return Err(TokenFault::Issuer);
        }
        let audiences = self.audiences().ok_or(TokenFault::Audience)?;
        if !audiences.iter().any(|audience| rules.is_for(audience)) {
            return Err(TokenFault::Audience);
        }
        let at = now.unix_secs();
        let expires = self.time("exp")?.ok_or(TokenFault::Claims)?;
        if expires <= at {
            return Err(TokenFault::Expired);
        }
        let issued = self.time("iat")?;
        let not_before = self.time("nbf")?;
        if [issued, not_before].into_iter().flatten().any(|time| time > at + AHEAD_SECS) {
            return Err(TokenFault::NotYetValid);
        }
        rules.take_life(issued, expires, now)?;
        let subject = self.0.text("sub").ok_or(TokenFault::Claims)?;
        let is_subject = (1..=LONGEST_SUBJECT).contains(&subject.len());
        if !is_subject || subject.chars().any(char::is_control) {
            return Err(TokenFault::Claims);
        }
        let org = self.0.text(&rules.reading.org_claim).ok_or(TokenFault::Org)?;
        let org = OrgId::parse(org).map_err(|_| TokenFault::Org)?;
        Ok(ClaimsMeaning {
            subject: subject.into(),
            org: org.as_str().into(),
            words: self.words(&rules.reading)?,
            expires,
            issued,
            audiences: lines(&audiences),
        })
    }

    /// `aud` is one string or a list of them.
    fn audiences(&self) -> Option<Vec<&str>> {
        match self.0.get("aud")? {
            Value::Array(all) => all.iter().map(Value::as_str).collect(),
            one => Some(vec![one.as_str()?]),
        }
    }

    /// A number of seconds since 1970, whole or not (RFC 7519 section 2, NumericDate). Text that
    /// looks like a number is not one.
    fn time(&self, name: &str) -> Result<Option<u64>, TokenFault> {
        /// Beyond this a 64-bit float is not exact; it is about 285 million years away.
        const LATEST: f64 = 9_007_199_254_740_992.0;
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let number = value.as_f64().filter(|_| value.is_number()).ok_or(TokenFault::Claims)?;
        if !(0.0..=LATEST).contains(&number) {
            return Err(TokenFault::Claims);
        }
        Ok(Some(number as u64))
    }

    /// A string of words separated by spaces (RFC 8693 section 4.2), or a list of strings. A string
    /// of the list that is not a word, and so cannot occur in a map, is dropped.
    fn words(&self, reading: &ClaimReading) -> Result<Box<str>, TokenFault> {
        let Some(name) = &reading.permissions_claim else { return Ok(Box::default()) };
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(Box::default()),
            Some(Value::String(text)) => Ok(text.as_str().into()),
            Some(Value::Array(all)) => {
                let words: Option<Vec<_>> = all.iter().map(Value::as_str).collect();
                let mut words = words.ok_or(TokenFault::Claims)?;
                words.retain(|word| !word.contains(' '));
                Ok(words.join(" ").into())
            }
            Some(_) => Err(TokenFault::Claims),
        }
    }
}

/// Those that can be configured: without control characters.
fn lines(audiences: &[&str]) -> Box<str> {
    let possible = audiences.iter().filter(|name| !name.chars().any(char::is_control));
    possible.copied().collect::<Vec<_>>().join("\n").into()
}

#[cfg(test)]
mod tests;
