//! Every way to be refused: one closed enum for logs, metric labels and refusal bodies.

use super::key::Permission;
use super::rate_fields::LimitReport;

/// Declares the enum with, per reason: the word in logs and metrics, the stable code that a client
/// sees, and the status. `anyway` marks reasons for which keygate refuses a request even while it
/// observes: it never forwards such requests. `bad_header` and `malformed` cover requests of both
/// kinds.
macro_rules! reasons {
    (@is_anyway anyway) => { true };
    (@is_anyway) => { false };
    ($(
        $(#[doc = $doc:expr])*
        $name:ident $word:literal $code:literal $status:literal $($anyway:ident)?,
    )*) => {
        /// Why a request was refused. Alphabetical; the word is stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $( $(#[doc = $doc])* $name, )* }

        impl Reason {
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The word in log lines and metric labels.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $word, )* }
            }

            /// The code in a refusal body if the caller may know everything
            /// ([`Disclosure::Detailed`]).
            const fn detailed_code(self) -> &'static str {
                match self { $( Self::$name => $code, )* }
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $( Self::$name => $status, )* }
            }

            /// Whether keygate refuses requests for this reason even while it observes, so that
            /// such a refusal does not show that it enforces.
            pub const fn is_refused_anyway(self) -> bool {
                match self { $( Self::$name => reasons!(@is_anyway $($anyway)?), )* }
            }
        }
    };
}

reasons! {
    /// The client's address is not in the key's networks.
    Address "ip" "address_not_allowed" 403,
    /// A `Connection` token names an owned, credential, framing or Host field.
    BadConnection "bad_connection" "bad_connection_header" 400 anyway,
    /// `Expect` other than `100-continue`.
    BadExpect "bad_expect" "expectation_failed" 417 anyway,
    /// Transfer-Encoding or Content-Length that can be read in more than one way.
    BadFraming "bad_framing" "bad_framing" 400 anyway,
    /// A header name or value that another server could read differently.
    BadHeader "bad_header" "bad_header" 400,
    /// No Host, more than one, or one that contradicts the target.
    BadHost "bad_host" "bad_host" 400 anyway,
    /// A method that keygate never forwards: CONNECT, TRACE, TRACK, or one with a lower-case
    /// letter. For an extended CONNECT: the service speaks HTTP/2, where keygate opens no tunnels.
    BadMethod "bad_method" "method_not_allowed" 405 anyway,
    /// A path that cannot be judged safely.
    BadPath "bad_path" "bad_path" 400,
    /// A request target that is not in origin form.
    BadTarget "bad_target" "bad_target" 400 anyway,
    /// The body stalled.
    BodyTimeout "body_timeout" "request_timeout" 408,
    /// The body is longer than the route allows.
    BodyTooLarge "body_too_large" "body_too_large" 413,
    /// A canary: somebody uses a secret that was planted to be stolen. Answered like an unknown key.
    Canary "canary" "invalid_key" 401,
    /// The key is disabled for now.
    Disabled "disabled" "invalid_key" 401,
    /// Two credentials in one request.
    Duplicate "duplicate" "duplicate_credential" 400,
    Expired "expired" "expired_key" 401,
    /// A credential that is not for keygate, where the route accepts only keys.
    Foreign "foreign" "not_an_api_key" 401,
    /// The head took too long.
    HeaderTimeout "header_timeout" "request_timeout" 408,
    HeadersTooLarge "headers_too_large" "headers_too_large" 431 anyway,
    /// A fault in keygate itself. Fails closed.
    Internal "internal" "unavailable" 503,
    /// A credential with bytes that no credential can have (NUL, control, 8-bit).
    Malformed "malformed" "malformed_credential" 400,
    /// No rule for the path has the method.
    Method "method" "method_not_allowed" 405,
    Missing "missing" "missing_key" 401,
    /// No table is loaded, or the one in force ran out under `after_expiry = "refuse"`.
    NoTable "no_table" "unavailable" 503,
    /// The service gets a credential with claims, and the key has no value for one of them.
    NoUpstreamIdentity "no_upstream_identity" "no_upstream_identity" 403,
    NotYetValid "not_yet_valid" "key_not_yet_valid" 401,
    /// The queue for an upstream connection is full.
    Overloaded "overloaded" "overloaded" 503,
    Permission "permission" "insufficient_permission" 403,
    RateLimited "rate_limited" "rate_limited" 429,
    Revoked "revoked" "invalid_key" 401,
    /// No route rule matches: refused by default.
    Route "route" "no_route" 403,
    /// keygate ended, and the request outlived `drain.deadline`.
    Shutdown "shutdown" "unavailable" 503,
    /// Too many tokens with a bad signature were sent from this address. This one was not verified.
    TokenBudget "token_budget" "too_many_attempts" 429,
    TokenExpired "token_expired" "expired_token" 401,
    /// A user token with a fault in its form, claims or signature.
    TokenInvalid "token_invalid" "invalid_token" 401,
    /// A user token that names a signing key which its issuer does not publish, or does not publish
    /// yet.
    TokenKeyUnknown "token_key_unknown" "invalid_token" 401,
    /// The keys of a token's issuer are not available, or are too old. Fails closed.
    TokenKeysMissing "token_keys_missing" "unavailable" 503,
    /// The route accepts user tokens, and the request has none.
    TokenNeeded "token_needed" "token_required" 401,
    /// A user token without an org, or whose org is not known.
    TokenOrg "token_org" "unknown_org" 403,
    /// No key has this secret.
    Unknown "unknown" "invalid_key" 401,
    /// The upstream's answer is not HTTP that keygate would pass on.
    UpstreamBadResponse "upstream_bad_response" "bad_gateway" 502,
    /// The upstream closed the connection before it answered.
    UpstreamClosed "upstream_closed" "bad_gateway" 502,
    UpstreamConnect "upstream_connect" "bad_gateway" 502,
    UpstreamConnectTimeout "upstream_connect_timeout" "gateway_timeout" 504,
    /// No response head in time.
    UpstreamTimeout "upstream_timeout" "gateway_timeout" 504,
    UriTooLong "uri_too_long" "uri_too_long" 414 anyway,
    WrongEnvironment "wrong_environment" "wrong_environment" 401,
    /// The pair's id exists, but has another secret.
    WrongSecret "wrong_secret" "invalid_key" 401,
}

/// How much a refusal tells a caller who has proved possession of a key (ARCHITECTURE invariant 9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disclosure {
    /// Expired, not yet valid and wrong environment read differently from an unknown key.
    #[default]
    Detailed,
    /// Every 401 for a presented key reads the same.
    Uniform,
}

/// A refusal with what its answer needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: Reason,
    pub detail: Detail,
}

/// What a caller knows itself by: people who have sent a token do not know about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerKind {
    Key,
    Token,
}

/// What a refusal can say in addition to its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Methods that the path has rules for (405 `Allow`).
    Allow(Box<str>),
    #[default]
    None,
    /// The permissions that the route requires (403 `scope`).
    Permissions { words: Box<[Permission]>, caller: CallerKind },
    /// The limits that refused it, and how long to wait (429).
    RetryAfter(LimitReport),
    /// What was wrong, and what to do about it, in words that name configured items. Never contains
    /// client bytes.
    Told { why: Box<str>, advice: Box<str> },
    /// A fixed sentence about what was wrong with the request. Never contains client bytes.
    Why(&'static str),
}

// === impl Reason ===

impl Reason {
    /// The reason that a caller may see. Some look like an unknown key to everybody; under
    /// [`Disclosure::Uniform`] every fault of a key does.
    pub const fn shown(self, disclosure: Disclosure) -> Self {
        match (self, disclosure) {
            (Self::Canary | Self::Disabled | Self::Revoked | Self::WrongSecret, _)
            | (Self::Expired | Self::NotYetValid | Self::WrongEnvironment, Disclosure::Uniform) => {
                Self::Unknown
            }
            _ => self,
        }
    }

    /// The stable code in a refusal body. docs/refusals.md has a section per code.
    pub const fn code(self, disclosure: Disclosure) -> &'static str {
        self.shown(disclosure).detailed_code()
    }

    /// Whether a client, rather than the upstream or keygate, is at fault.
    pub const fn is_client_fault(self) -> bool {
        self.status() < 500
    }

    /// The reason with this word in logs and metrics. `None`: this version has none of that name.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == word)
    }
}

// === impl Rejection ===

impl Rejection {
    pub const fn new(reason: Reason) -> Self {
        Self { reason, detail: Detail::None }
    }

    pub const fn why(reason: Reason, why: &'static str) -> Self {
        Self { reason, detail: Detail::Why(why) }
    }

    /// A rejection that names configured items. Neither text contains client bytes.
    pub fn told(reason: Reason, why: String, advice: String) -> Self {
        Self { reason, detail: Detail::Told { why: why.into(), advice: advice.into() } }
    }
}

impl From<Reason> for Rejection {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn words_are_unique_and_statuses_are_errors() {
        let words: HashSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!((400..600).contains(&reason.status()), "{reason:?}");
        }
    }

    #[test]
    fn what_observing_lets_through_is_not_refused_anyway() {
        let anyway: Vec<_> =
            Reason::ALL.iter().filter(|r| r.is_refused_anyway()).map(|r| r.as_str()).collect();
        let want = [
            "bad_connection",
            "bad_expect",
            "bad_framing",
            "bad_host",
            "bad_method",
            "bad_target",
            "headers_too_large",
            "uri_too_long",
        ];
        assert_eq!(anyway, want);
        assert_eq!(Reason::of_word("bad_method"), Some(Reason::BadMethod));
        assert_eq!(Reason::of_word("later"), None);
    }

    #[test]
    fn unknown_wrong_revoked_and_disabled_look_alike() {
        for disclosure in [Disclosure::Detailed, Disclosure::Uniform] {
            for reason in [Reason::WrongSecret, Reason::Revoked, Reason::Disabled, Reason::Canary] {
                assert_eq!(reason.code(disclosure), Reason::Unknown.code(disclosure));
                assert_eq!(reason.status(), Reason::Unknown.status());
            }
        }
        assert_eq!(Reason::Expired.code(Disclosure::Uniform), "invalid_key");
        assert_eq!(Reason::Expired.code(Disclosure::Detailed), "expired_key");
    }
}
