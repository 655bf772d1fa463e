//! Whether the claims of a token hold now, and what they mean here (RFC 7519 section 4.1). keygate
//! checks them itself, by its own clock: the defaults of libraries have let tokens through whose
//! `exp` or `nbf` was text (CVE-2026-25537), whose `iss` was a list, or which were over by a minute.

use serde_json::Value;

use super::json::UniqueObject;
use super::rules::IssuerRules;
use crate::core::{Now, OrgId, Permission, PermissionSet, TokenFault};

/// How far the clock of an issuer may be ahead of ours, in seconds: for `nbf` and `iat`, since a
/// client uses its token at once. `exp` has no leeway.
const AHEAD_SECS: u64 = 10;

/// Longest `sub`, in bytes (OpenID Connect Core section 2).
const LONGEST_SUBJECT: usize = 255;

/// The claims of one token. Whether they are its issuer's is for the signature to say.
#[derive(Debug)]
pub struct Claims(UniqueObject);

/// What claims that hold say.
#[derive(Debug)]
pub struct ClaimsMeaning {
    pub subject: Box<str>,
    pub org: Box<str>,
    pub permissions: PermissionSet,
    /// Unix seconds.
    pub expires: u64,
}

// === impl Claims ===

impl Claims {
    /// # Errors
    /// [`TokenFault::Malformed`]: they are no object, or have a name twice.
    pub fn parse(json: &[u8]) -> Result<Self, TokenFault> {
        UniqueObject::parse(json).map(Self).ok_or(TokenFault::Malformed)
    }

    /// One string: a list of issuers is none.
    pub fn issuer(&self) -> Option<&str> {
        self.0.text("iss")
    }

    /// Whether they hold by `rules`, of the issuer that they name.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&self, rules: &IssuerRules, now: Now) -> Result<ClaimsMeaning, TokenFault> {
        if self.issuer() != Some(&*rules.issuer) {
            return Err(TokenFault::Issuer);
        }
        if !self.is_for(rules) {
            return Err(TokenFault::Audience);
        }
        let now = now.unix_secs();
        let expires = self.time("exp")?.ok_or(TokenFault::Claims)?;
        if expires <= now {
            return Err(TokenFault::Expired);
        }
        let issued = self.time("iat")?;
        let not_before = self.time("nbf")?;
        if [issued, not_before].into_iter().flatten().any(|at| at > now + AHEAD_SECS) {
            return Err(TokenFault::NotYetValid);
        }
        // Without `iat` it lives at least from now on.
        if expires - issued.unwrap_or(now).min(expires) > rules.max_life.as_secs() {
            return Err(TokenFault::Lifetime);
        }
        let subject = self.0.text("sub").ok_or(TokenFault::Claims)?;
        let is_subject = (1..=LONGEST_SUBJECT).contains(&subject.len());
        if !is_subject || subject.chars().any(char::is_control) {
            return Err(TokenFault::Claims);
        }
        let org = self.0.text(&rules.org_claim).ok_or(TokenFault::Org)?;
        let org = OrgId::parse(org).map_err(|_| TokenFault::Org)?;
        Ok(ClaimsMeaning {
            subject: subject.into(),
            org: org.as_str().into(),
            permissions: self.permissions(rules)?,
            expires,
        })
    }

    /// `aud` is one string or a list of them.
    fn is_for(&self, rules: &IssuerRules) -> bool {
        let is_ours = |value: &Value| {
            value.as_str().is_some_and(|text| rules.audiences.iter().any(|known| **known == *text))
        };
        match self.0.get("aud") {
            Some(Value::Array(all)) => all.iter().all(Value::is_string) && all.iter().any(is_ours),
            Some(one) => is_ours(one),
            None => false,
        }
    }

    /// A number of seconds since 1970, whole or not (RFC 7519 section 2, NumericDate). Text that
    /// looks like a number is none.
    fn time(&self, name: &str) -> Result<Option<u64>, TokenFault> {
        /// Beyond this a 64-bit float is not exact; it is some 285 million years away.
        const LATEST: f64 = 9_007_199_254_740_992.0;
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let number = value.as_f64().filter(|_| value.is_number()).ok_or(TokenFault::Claims)?;
        if !(0.0..=LATEST).contains(&number) {
            return Err(TokenFault::Claims);
        }
        Ok(Some(number as u64))
    }

    /// A string of words between spaces (RFC 8693 section 4.2), or a list of strings. What the map
    /// does not have is dropped.
    fn permissions(&self, rules: &IssuerRules) -> Result<PermissionSet, TokenFault> {
        let Some(name) = &rules.permissions_claim else { return Ok(none()) };
        let words: Vec<&str> = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(none()),
            Some(Value::String(text)) => text.split(' ').collect(),
            Some(Value::Array(all)) => {
                let words: Option<_> = all.iter().map(Value::as_str).collect();
                words.ok_or(TokenFault::Claims)?
            }
            Some(_) => return Err(TokenFault::Claims),
        };
        let mapped = words.into_iter().filter_map(|word| rules.permissions.get(word));
        Ok(PermissionSet::new(mapped.flatten().map(Permission::clone)))
    }
}

fn none() -> PermissionSet {
    PermissionSet::new([])
}

#[cfg(test)]
mod tests;
