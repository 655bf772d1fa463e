//! `WWW-Authenticate`: how to send a key, by the configured sources.

use http::{HeaderValue, header};

use crate::core::credential::{BasicForm, CredentialSource};
use crate::core::reason::Reason;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Not registered, but commonly used for a key in a field of its own.
    ApiKey,
    Basic,
    /// RFC 6750, with `error` and `scope`.
    Bearer,
}

/// The challenges of 401, in the order of the sources, and the sentence that says the same.
#[derive(Clone, Debug)]
pub struct Challenges {
    /// Quoted.
    realm: Box<str>,
    schemes: Box<[Scheme]>,
    advice: Box<str>,
}

// === impl Challenges ===

impl Challenges {
    /// `schemes`: what to offer. `None`: what `sources` accept. A 401 always offers something.
    pub fn new(realm: &str, schemes: Option<Vec<Scheme>>, sources: &[CredentialSource]) -> Self {
        let mut offered = schemes.unwrap_or_else(|| sources.iter().map(scheme).collect());
        if offered.is_empty() {
            offered.push(Scheme::ApiKey);
        }
        let mut unique = Vec::new();
        for scheme in offered {
            if !unique.contains(&scheme) {
                unique.push(scheme);
            }
        }
        let ways: Vec<String> = sources.iter().map(way).collect();
        let advice = match ways.as_slice() {
            [] => "send an API key of this service".to_owned(),
            ways => format!("send the key {}", ways.join(", or ")),
        };
        let realm = realm.replace('\\', "\\\\").replace('"', "\\\"");
        Self { realm: realm.into(), schemes: unique.into(), advice: advice.into() }
    }

    /// Adds the scheme of user tokens, whether or not keys also use it.
    #[must_use]
    pub fn with_tokens(mut self) -> Self {
        if !self.schemes.contains(&Scheme::Bearer) {
            let schemes = self.schemes.iter().copied().chain([Scheme::Bearer]);
            self.schemes = schemes.collect();
        }
        self
    }

    /// How to send a key.
    pub(super) fn advice(&self) -> &str {
        &self.advice
    }

    /// Every 401 has challenges (RFC 9110 §15.5.2). RFC 6750 §3.1 defines one for 403 and 400 too.
    /// `description`: the refusal's message (RFC 6750 §3).
    pub(super) fn for_refusal(
        &self,
        shown: Reason,
        description: &str,
        scope: &str,
    ) -> Option<HeaderValue> {
        let error = match (shown, shown.status()) {
            (Reason::Duplicate | Reason::Malformed, _) => Some("invalid_request"),
            // No credential at all: no error code (RFC 6750 §3.1).
            (Reason::Missing | Reason::TokenNeeded, _) => None,
            (Reason::Permission, _) => Some("insufficient_scope"),
            (_, 401) => Some("invalid_token"),
            _ => return None,
        };
        let bearer_only = shown.status() != 401;
        let mut text = String::new();
        for scheme in &self.schemes {
            if bearer_only && *scheme != Scheme::Bearer {
                continue;
            }
            if !text.is_empty() {
                text.push_str(", ");
            }
            let realm = &self.realm;
            match scheme {
                Scheme::ApiKey => text.push_str(&format!("ApiKey realm=\"{realm}\"")),
                Scheme::Basic => {
                    text.push_str(&format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
                }
                Scheme::Bearer => {
                    text.push_str(&format!("Bearer realm=\"{realm}\""));
                    if let Some(error) = error {
                        text.push_str(&format!(
                            ", error=\"{error}\", error_description=\"{description}\""
                        ));
                    }
                    // A permission is an RFC 6749 scope-token: it needs no quoting.
                    if !scope.is_empty() {
                        text.push_str(&format!(", scope=\"{scope}\""));
                    }
                }
            }
        }
        if text.is_empty() { None } else { HeaderValue::try_from(text).ok() }
    }
}

impl Default for Challenges {
    fn default() -> Self {
        Self::new("api", None, &[])
    }
}

fn scheme(source: &CredentialSource) -> Scheme {
    match source {
        CredentialSource::Basic { .. } => Scheme::Basic,
        CredentialSource::Bearer { .. } => Scheme::Bearer,
        CredentialSource::Cookie { .. }
        | CredentialSource::Header { .. }
        | CredentialSource::Pair { .. }
        | CredentialSource::Query { .. }
        | CredentialSource::Subprotocol { .. } => Scheme::ApiKey,
    }
}

/// To follow "send the key".
fn way(source: &CredentialSource) -> String {
    match source {
        CredentialSource::Basic { form: BasicForm::KeyAsPassword, .. } => {
            "as the password of Basic".into()
        }
        CredentialSource::Basic { form: BasicForm::KeyAsUser, .. } => {
            "as the user name of Basic, without a password".into()
        }
        CredentialSource::Basic { form: BasicForm::Pair, .. } => "and its secret by Basic".into(),
        CredentialSource::Bearer { .. } => format!("as `{}: Bearer KEY`", header::AUTHORIZATION),
        CredentialSource::Cookie { name, .. } => format!("in the cookie `{name}`"),
        CredentialSource::Header { name, .. } => format!("in the header `{name}`"),
        CredentialSource::Pair { id, secret } => {
            format!("in the header `{id}` and its secret in `{secret}`")
        }
        CredentialSource::Query { name, .. } => format!("in the query parameter `{name}`"),
        CredentialSource::Subprotocol { marker } => {
            format!("as the WebSocket subprotocol `{marker}KEY`")
        }
    }
}
