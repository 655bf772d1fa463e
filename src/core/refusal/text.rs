//! What a refusal says. All wording is here, and none of it contains a byte of the request.

use crate::core::reason::Reason;

pub(super) struct Explanation {
    /// Short, in the tone of the products whose clients read it. Visible ASCII and spaces, without
    /// `"` and `\`: it is also used as `error_description` (RFC 6750 §3).
    pub(super) message: &'static str,
    /// `None`: how to send a key, which depends on the configured sources.
    pub(super) advice: Option<&'static str>,
}

/// [`Reason::Permission`] to somebody who has sent a user token.
pub(super) const TOKEN_LACKS_PERMISSION: Explanation = Explanation {
    message: "Token lacks required permissions",
    advice: Some("get a token that has them from its issuer, or have them granted to you there"),
};

/// One match from reason to text.
pub(super) fn text(shown: Reason) -> Explanation {
    let (message, advice) = match shown {
        Reason::Address => (
            "API key may not be used from this address",
            "call from an address that the key allows, or have yours added to the key",
        ),
        Reason::BadConnection => (
            "Connection names a field that cannot be hop-by-hop",
            "send Connection without field names",
        ),
        Reason::BadExpect => ("Unsupported Expect", "send only Expect: 100-continue, or none"),
        Reason::BadFraming => (
            "Message framing is ambiguous",
            "send either one Content-Length or Transfer-Encoding: chunked",
        ),
        Reason::BadHeader => (
            "A header field cannot be read safely",
            "use letters, digits and dashes in names, and no control characters in values",
        ),
        Reason::BadHost => ("Host is missing, repeated or contradicts the target", "send one Host"),
        Reason::BadMethod => (
            "Method is never forwarded",
            "use another method than CONNECT, TRACE and TRACK, and write it in capitals",
        ),
        Reason::BadPath => (
            "The path cannot be read safely",
            "send a plain path: no dot segments, empty segments or needless encoding",
        ),
        Reason::BadTarget => (
            "The request target is not a path",
            "send the path with its query, such as GET /api/items?page=2",
        ),
        Reason::BodyTimeout => ("The request body stalled", "send it again without a pause"),
        Reason::BodyTooLarge => ("The request body is too large", "send less in one request"),
        Reason::Duplicate => {
            ("More than one credential in the request", "send the credential once, in one place")
        }
        Reason::Expired => ("API key has expired", "create a new key and switch to it"),
        Reason::Foreign => return to_send("Credential is not an API key of this service"),
        Reason::HeaderTimeout => ("The request head took too long", "send it at once"),
        Reason::HeadersTooLarge => {
            ("The header fields are too large", "send fewer or shorter ones")
        }
        Reason::Internal | Reason::NoTable | Reason::Shutdown => {
            ("Service unavailable", "try again; if it lasts, report the request id")
        }
        Reason::Malformed => (
            "Credential has characters that no API key has",
            "check that it was copied whole and alone, without line ends",
        ),
        Reason::Method => {
            ("Method is not allowed for this path", "use one of the methods in the Allow field")
        }
        Reason::Missing => return to_send("API key is missing"),
        Reason::NoUpstreamIdentity => (
            "API key names nobody whom the service knows",
            "use a key that was issued by a user of the service",
        ),
        Reason::NotYetValid => ("API key is not valid yet", "use it from its start time on"),
        Reason::Overloaded => ("The service is overloaded", "try again after the pause given"),
        Reason::Permission => (
            "API key lacks required permissions",
            "use a key that has them, or have them added to this one",
        ),
        Reason::RateLimited => {
            ("Rate limit exceeded", "wait for the seconds in Retry-After, then send more slowly")
        }
        Reason::Route => (
            "No rule opens this path",
            "check the path; if it is right, the service's operator has to open it",
        ),
        Reason::TokenBudget => (
            "Too many tokens with a bad signature came from this address",
            "wait for a minute, then send a valid token",
        ),
        Reason::TokenExpired => ("Token has expired", "get a new token from its issuer"),
        Reason::TokenInvalid => (
            "Token is not valid",
            "get a new token from its issuer; if that fails too, report the request id",
        ),
        Reason::TokenKeyUnknown => (
            "Token is signed with an unknown key",
            "try again in a minute; if it lasts, get a new token from its issuer",
        ),
        Reason::TokenKeysMissing => {
            ("Tokens cannot be verified now", "try again; if it lasts, report the request id")
        }
        Reason::TokenNeeded => (
            "A user token is needed",
            "send a token of the identity provider as `Authorization: Bearer TOKEN`",
        ),
        Reason::TokenOrg => (
            "Token names no organization of this service",
            "get a token for an organization of this service",
        ),
        Reason::Canary
        | Reason::Disabled
        | Reason::Revoked
        | Reason::Unknown
        | Reason::WrongSecret => (
            "Invalid API key provided",
            "check that the whole key was copied; if it was replaced, use its successor",
        ),
        Reason::UpstreamBadResponse | Reason::UpstreamClosed | Reason::UpstreamConnect => {
            ("The service did not answer properly", "try again; if it lasts, report the request id")
        }
        Reason::UpstreamConnectTimeout | Reason::UpstreamTimeout => {
            ("The service did not answer in time", "try again; if it lasts, report the request id")
        }
        Reason::UriTooLong => ("The request target is too long", "send long values in the body"),
        Reason::WrongEnvironment => (
            "API key belongs to another environment",
            "use a live key for the live service and a test key for the test service",
        ),
    };
    Explanation { message, advice: Some(advice) }
}

const fn to_send(message: &'static str) -> Explanation {
    Explanation { message, advice: None }
}
