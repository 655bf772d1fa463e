//! What a verified user token says, and every way in which one can fail. `token` makes both. A
//! decision reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Now;
use super::grant::PermissionSet;
use super::key::Permission;
use super::limit::Limit;
use super::reason::{Reason, Rejection};

/// A token whose signature and claims are valid. Only the verifier, `token::verify`, makes one: a
/// test reads the sources to ensure that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserToken {
    said: VerifiedToken,
    permissions: PermissionSet,
    reading: Arc<ClaimReading>,
}

/// What a token with a valid signature and valid claims says. It keeps everything that its issuer's
/// rules need, because these may change while a stream with the token is running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    /// The issuer, as configured.
    pub issuer: Arc<str>,
    /// `sub`: 1 to 255 bytes without control characters.
    pub subject: Box<str>,
    /// A legal [`super::OrgId`].
    pub org: Box<str>,
    /// The words of the claim that lists what the user may do, separated by one space.
    pub words: Box<str>,
    /// `exp`, in Unix seconds: from then on the token is refused, and its streams end.
    pub expires: u64,
    /// `iat`, in Unix seconds.
    pub issued: Option<u64>,
    /// `aud`: one per line. A value with a control character cannot be configured, and is left out.
    pub audiences: Box<str>,
    /// `typ` in lower case, without `application/`. Empty: there is none.
    pub typ: Box<str>,
    /// `alg`.
    pub algorithm: &'static str,
    /// The issuer's key that signed it.
    pub signed_by: SignerPrint,
    pub onward: TokenOnward,
    /// The limit of its subject.
    pub limit: Option<Limit>,
}

/// Which claims of an issuer's tokens are read, and what they mean here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimReading {
    /// The claim that names the org.
    pub org_claim: Box<str>,
    pub orgs: KnownOrgs,
    /// The claim that lists what the user may do. `None`: tokens have no permission.
    pub permissions_claim: Option<Box<str>>,
    /// The permissions that each of its words grants. Other words grant nothing.
    pub permissions: BTreeMap<Box<str>, Vec<Permission>>,
}

/// Distinguishes the keys of one issuer: the first bytes of a digest of the public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignerPrint(pub u64);

/// Which orgs an issuer may name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KnownOrgs {
    #[default]
    Any,
    /// The orgs that the table has.
    InTable,
}

/// What happens to an admitted token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenOnward {
    /// keygate forwards it, so that the service can read it too.
    Forward,
    /// keygate removes it, like a key.
    #[default]
    Remove,
}

/// The issuers in force, which decide about a token whose stream is still running.
pub trait IssuersNow {
    /// The token as it would be verified now, if it is still valid.
    ///
    /// # Errors
    /// Why a request with it would be refused.
    fn verified_again(
        &self,
        token: &Arc<UserToken>,
        now: Now,
    ) -> Result<Arc<UserToken>, TokenFault>;
}

/// Declares the enum with, per fault: the word in the metric, the reason of the refusal, and the
/// sentence for the caller.
macro_rules! faults {
    ($( $(#[doc = $doc:expr])* $name:ident $word:literal $reason:ident $why:literal, )*) => {
        /// Why a token is not accepted. A closed list that contains nothing of the token.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum TokenFault { $( $(#[doc = $doc])* $name, )* }

        impl TokenFault {
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The word in the metric `keygate_tokens_total`.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $word, )* }
            }

            pub const fn reason(self) -> Reason {
                match self { $( Self::$name => Reason::$reason, )* }
            }

            /// A fixed sentence.
            pub const fn why(self) -> &'static str {
                match self { $( Self::$name => $why, )* }
            }
        }
    };
}

faults! {
    /// `alg` is not one that is configured for the issuer: `none` and HMAC never are.
    Algorithm "algorithm" TokenInvalid "its algorithm is not taken",
    /// No configured audience is in `aud`.
    Audience "audience" TokenInvalid "it is for another audience",
    /// Too many bad signatures from one address. This signature was not checked.
    Budget "budget" TokenBudget "too many tokens with a bad signature came from this address",
    /// A claim is missing or has the wrong type.
    Claims "claims" TokenInvalid "a claim is missing or has the wrong type",
    /// `crit` or `b64` (RFC 7515 section 4.1.11, RFC 7797).
    Critical "critical" TokenInvalid "its header asks for an extension that keygate lacks",
    Expired "expired" TokenExpired "its exp is over",
    /// `iss` is not configured.
    Issuer "issuer" TokenInvalid "its issuer is not taken",
    /// The issuer has no key with this `kid`, or several keys would fit a token without one.
    KeyUnknown "key_unknown" TokenKeyUnknown "its issuer has no such signing key",
    /// The issuer's keys could not be fetched, or are too old.
    KeysMissing "keys_missing" TokenKeysMissing "the issuer's keys cannot be had",
    /// It lives longer than configured.
    Lifetime "lifetime" TokenInvalid "it lives longer than allowed",
    /// Not three parts of Base64url and JSON, or a name that occurs twice.
    Malformed "malformed" TokenInvalid "it cannot be read",
    NotYetValid "not_yet_valid" TokenInvalid "its nbf or iat is in the future",
    /// The org claim is missing, is not a legal name, or is not known to the table.
    Org "org" TokenOrg "its org is missing or not known",
    Signature "signature" TokenInvalid "its signature does not match",
    /// More than 8 KiB.
    Size "size" TokenInvalid "it is longer than 8 KiB",
    /// `typ` is none of those configured.
    Type "type" TokenInvalid "its typ is not taken",
}

// === impl UserToken ===

impl UserToken {
    /// Only for the verifier. `reading`: how its issuer's claims are read.
    pub fn verified(said: VerifiedToken, reading: &Arc<ClaimReading>) -> Self {
        let permissions = reading.permissions_of(&said.words);
        Self { said, permissions, reading: Arc::clone(reading) }
    }

    /// The same token, if its claims are now to be read in another way. No copy is made if nothing
    /// has changed.
    ///
    /// # Errors
    /// [`TokenFault::Claims`]: other claims than before are needed, and they were not kept.
    pub fn read_again(
        self: &Arc<Self>,
        reading: &Arc<ClaimReading>,
    ) -> Result<Arc<Self>, TokenFault> {
        let before = &self.reading;
        if Arc::ptr_eq(before, reading) {
            return Ok(Arc::clone(self));
        }
        let kept = before.org_claim == reading.org_claim
            && (reading.permissions_claim.is_none()
                || before.permissions_claim == reading.permissions_claim);
        match kept {
            true => Ok(Arc::new(Self::verified(self.said.clone(), reading))),
            false => Err(TokenFault::Claims),
        }
    }

    /// What it says.
    pub fn said(&self) -> &VerifiedToken {
        &self.said
    }

    pub fn issuer(&self) -> &Arc<str> {
        &self.said.issuer
    }

    pub fn subject(&self) -> &str {
        &self.said.subject
    }

    pub fn org(&self) -> &str {
        &self.said.org
    }

    /// The permissions that the claim's words map to.
    pub fn permissions(&self) -> &PermissionSet {
        &self.permissions
    }

    /// In Unix seconds.
    pub fn expires(&self) -> u64 {
        self.said.expires
    }

    pub fn orgs(&self) -> KnownOrgs {
        self.reading.orgs
    }

    pub fn onward(&self) -> TokenOnward {
        self.said.onward
    }

    /// The limit of its subject.
    pub fn limit(&self) -> Option<Limit> {
        self.said.limit
    }
}

// === impl ClaimReading ===

impl ClaimReading {
    /// `words`: separated by one space.
    fn permissions_of(&self, words: &str) -> PermissionSet {
        let words = words.split(' ').filter(|_| self.permissions_claim.is_some());
        let mapped = words.filter_map(|word| self.permissions.get(word));
        PermissionSet::new(mapped.flatten().cloned())
    }
}

// === impl TokenFault ===

impl From<TokenFault> for Rejection {
    fn from(fault: TokenFault) -> Self {
        match fault {
            // Their texts are complete.
            TokenFault::Budget | TokenFault::Expired | TokenFault::KeysMissing => {
                fault.reason().into()
            }
            _ => Self::why(fault.reason(), fault.why()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn words_are_unique() {
        let words: HashSet<_> = TokenFault::ALL.iter().map(|fault| fault.as_str()).collect();
        assert_eq!(words.len(), TokenFault::ALL.len());
    }
}
