//! What a user's token says once it is verified, and every way in which it can fail. `token` makes
//! both; a decision reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Now;
use super::grant::PermissionSet;
use super::key::Permission;
use super::limit::Limit;
use super::reason::{Reason, Rejection};

/// A token whose signature and claims hold. Only the verifier makes one, `token::verify`: a test
/// reads the sources for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserToken {
    said: VerifiedToken,
    permissions: PermissionSet,
    reading: Arc<ClaimReading>,
}

/// What a token says, once its signature and claims hold. It keeps what the rules of its issuer ask
/// about, because these may change while a stream of it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    /// The issuer, as configured.
    pub issuer: Arc<str>,
    /// `sub`: 1 to 255 bytes without control characters.
    pub subject: Box<str>,
    /// A legal [`super::OrgId`].
    pub org: Box<str>,
    /// Of the claim that lists what the user may do: its words, with one space between two.
    pub words: Box<str>,
    /// `exp`, in Unix seconds: from then on the token is refused, and its streams end.
    pub expires: u64,
    /// `iat`, in Unix seconds.
    pub issued: Option<u64>,
    /// `aud`: one a line. One with a control character is no name that can be configured, and is
    /// not here.
    pub audiences: Box<str>,
    /// `typ` in lower case, without `application/`; empty: there is none.
    pub typ: Box<str>,
    /// `alg`.
    pub algorithm: &'static str,
    /// The issuer's key that has signed it.
    pub signed_by: SignerPrint,
    pub onward: TokenOnward,
    /// Of its subject.
    pub limit: Option<Limit>,
}

/// Which claims of an issuer's tokens are read, and what they mean here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimReading {
    /// The claim that names the org.
    pub org_claim: Box<str>,
    pub orgs: KnownOrgs,
    /// The claim that lists what the user may do; `None`: tokens have no permission.
    pub permissions_claim: Option<Box<str>>,
    /// What each of its words stands for. A word that is not here stands for nothing.
    pub permissions: BTreeMap<Box<str>, Vec<Permission>>,
}

/// Tells the keys of one issuer apart: the first bytes of a digest of the public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignerPrint(pub u64);

/// Which orgs an issuer may name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KnownOrgs {
    #[default]
    Any,
    /// Those that the table has.
    InTable,
}

/// What becomes of an admitted token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenOnward {
    /// keygate forwards it: the service reads it too.
    Forward,
    /// keygate removes it, like a key.
    #[default]
    Remove,
}

/// The issuers in force, asked about a token whose stream runs still.
pub trait IssuersNow {
    /// The token as it would be verified now, if it would.
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
        /// Why a token is not taken. A closed list; nothing of the token is in it.
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
    /// Too many bad signatures from one address. The signature was not looked at.
    Budget "budget" TokenBudget "too many tokens with a bad signature came from this address",
    /// A claim is missing or has the wrong type.
    Claims "claims" TokenInvalid "a claim is missing or has the wrong type",
    /// `crit` or `b64` (RFC 7515 section 4.1.11, RFC 7797).
    Critical "critical" TokenInvalid "its header asks for an extension that keygate lacks",
    Expired "expired" TokenExpired "its exp is over",
    /// `iss` is not configured.
    Issuer "issuer" TokenInvalid "its issuer is not taken",
    /// No key of the issuer has this `kid`, or several would fit a token without one.
    KeyUnknown "key_unknown" TokenKeyUnknown "its issuer has no such signing key",
    /// The issuer's keys could not be fetched, or are too old.
    KeysMissing "keys_missing" TokenKeysMissing "the issuer's keys cannot be had",
    /// It lives longer than configured.
    Lifetime "lifetime" TokenInvalid "it lives longer than allowed",
    /// Not three parts of Base64url and JSON, or a name that is there twice.
    Malformed "malformed" TokenInvalid "it cannot be read",
    NotYetValid "not_yet_valid" TokenInvalid "its nbf or iat is in the future",
    /// The org claim is missing, is no legal name, or is not known to the table.
    Org "org" TokenOrg "its org is missing or not known",
    Signature "signature" TokenInvalid "its signature does not match",
    /// More than 8 KiB.
    Size "size" TokenInvalid "it is longer than 8 KiB",
    /// `typ` is none of those configured.
    Type "type" TokenInvalid "its typ is not taken",
}

// === impl UserToken ===

impl UserToken {
    /// For the verifier alone. `reading`: that of its issuer.
    pub fn verified(said: VerifiedToken, reading: &Arc<ClaimReading>) -> Self {
        let permissions = reading.permissions_of(&said.words);
        Self { said, permissions, reading: Arc::clone(reading) }
    }

    /// The same token where its claims are to be read in another way. Without a copy where nothing
    /// has changed.
    ///
    /// # Errors
    /// [`TokenFault::Claims`]: other claims than before are to be read, and nobody has kept those.
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

    /// What the claim's words map to.
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

    /// Of its subject.
    pub fn limit(&self) -> Option<Limit> {
        self.said.limit
    }
}

// === impl ClaimReading ===

impl ClaimReading {
    /// `words`: with one space between two.
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
            // Their texts say all there is to say.
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
