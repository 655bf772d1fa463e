//! What a user's token says once it is verified, and every way in which it can fail. `token` makes
//! both; a decision reads them.

use std::sync::Arc;

use super::grant::PermissionSet;
use super::limit::Limit;
use super::reason::{Reason, Rejection};

/// A token whose signature and claims hold. Only `token::Unverified` makes one from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserToken {
    /// The issuer, as configured.
    pub issuer: Arc<str>,
    /// `sub`: 1 to 255 bytes without control characters.
    pub subject: Box<str>,
    /// A legal [`super::OrgId`].
    pub org: Box<str>,
    /// What the claim's words map to.
    pub permissions: PermissionSet,
    /// `exp`, in Unix seconds: from then on the token is refused, and its streams end.
    pub expires: u64,
    /// The issuer's key that has signed it.
    pub signed_by: SignerPrint,
    pub orgs: KnownOrgs,
    pub onward: TokenOnward,
    /// Of its subject.
    pub limit: Option<Limit>,
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

/// Whether the key that signed a token is still one of its issuer's.
pub trait TokenSigners {
    fn trusts(&self, issuer: &str, signer: SignerPrint) -> bool;
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
