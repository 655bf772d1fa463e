//! A provider's description of itself: its document (OpenID Connect Discovery 1.0), kept for a
//! while. It is not believed about who the provider is: the configuration says that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::sync::Mutex;

use super::super::ask::{self, AskedProvider, AskedWith, RemoteQuestion};
use super::{OidcError, OidcFault};
use crate::core::{Now, address};
use crate::registrar::config::OidcConfig;

/// For the whole answer to any question.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// The longest document, in bytes.
const LONGEST: u64 = 256 * 1024;

/// After this long, the document is read again.
const FRESH: Duration = Duration::from_secs(10 * 60);

/// How long the last document is used while it cannot be read again.
const BELIEVED: Duration = Duration::from_secs(60 * 60);

/// How long a provider that did not answer is left alone, because strangers can begin sign-ins.
const PAUSE: Duration = Duration::from_secs(5);

/// The provider's addresses, by purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProviderMetadata {
    pub(super) authorization: Box<str>,
    pub(super) token: Box<str>,
    pub(super) jwks: Box<str>,
    pub(super) userinfo: Option<Box<str>>,
    pub(super) end_session: Option<Box<str>>,
    /// Whether it sends `iss` with every answer (RFC 9207).
    pub(super) names_itself: bool,
    /// Whether it takes the client's secret in the form alone.
    pub(super) secret_in_form: bool,
}

/// The documents of providers, each with a lock of its own, so that a slow provider holds up nobody
/// else's people.
#[derive(Debug, Default)]
pub(in super::super) struct OidcProviders(
    std::sync::Mutex<HashMap<Box<str>, Arc<Mutex<KeptDocument>>>>,
);

/// On the process's clock: when it arrived, and when it was last asked for without success.
#[derive(Debug, Default)]
struct KeptDocument {
    metadata: Option<Arc<ProviderMetadata>>,
    had_ns: u64,
    failed: Option<(u64, String)>,
}

// === impl OidcProviders ===

impl OidcProviders {
    /// The provider's description of itself. While one request asks, others for the same provider
    /// wait: one question serves all.
    pub(super) async fn metadata(
        &self,
        config: &OidcConfig,
        now: Now,
    ) -> Result<Arc<ProviderMetadata>, OidcError> {
        let unreachable = |why: &str| OidcError::Unreachable(why.to_owned());
        let kept = match self.0.lock() {
            Ok(mut all) => Arc::clone(all.entry(config.name.clone()).or_default()),
            Err(_) => return Err(unreachable("a thread has failed")),
        };
        let mut kept = kept.lock().await;
        let since = |then: u64| Duration::from_nanos(now.mono_ns.saturating_sub(then));
        let old = kept.metadata.clone().filter(|_| since(kept.had_ns) < BELIEVED);
        if let Some(metadata) = &old
            && since(kept.had_ns) < FRESH
        {
            return Ok(Arc::clone(metadata));
        }
        if let Some((at, why)) = &kept.failed
            && since(*at) < PAUSE
        {
            return old.ok_or_else(|| unreachable(why));
        }
        match fetch(config).await {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                *kept = KeptDocument {
                    metadata: Some(Arc::clone(&metadata)),
                    had_ns: now.mono_ns,
                    failed: None,
                };
                Ok(metadata)
            }
            Err(error) => {
                tracing::warn!(provider = %config.name, %error, "its document cannot be had");
                kept.failed = Some((now.mono_ns, error.to_string()));
                old.ok_or(error)
            }
        }
    }
}

async fn fetch(config: &OidcConfig) -> Result<ProviderMetadata, OidcError> {
    let place = config.issuer.trim_end_matches('/');
    let question = RemoteQuestion {
        of: AskedProvider::Oidc(config.name.clone()),
        url: format!("{place}/.well-known/openid-configuration"),
        ca: config.ca.clone(),
        with: AskedWith::Nothing,
        longest: LONGEST,
        deadline: DEADLINE,
    };
    let body = ask::ask(question).await.map_err(OidcError::unreachable)?;
    ProviderMetadata::read(&body, &config.issuer)
        .map_err(|why| OidcError::Refused(OidcFault::Metadata(why)))
}

// === impl ProviderMetadata ===

impl ProviderMetadata {
    fn read(body: &[u8], issuer: &str) -> Result<Self, &'static str> {
        let document: Value = serde_json::from_slice(body).map_err(|_| "it is no JSON")?;
        let text = |name: &str| document.get(name).and_then(Value::as_str);
        if text("issuer") != Some(issuer) {
            return Err("it is of another issuer than the configuration's");
        }
        let place = |name: &str| match text(name) {
            Some(url) if is_place(url, issuer) => Ok(Some(Box::from(url))),
            Some(_) => Err("a place in it is no https:// URL"),
            None => Ok(None),
        };
        let needed = |name: &str| place(name)?.ok_or("it lacks a place that is needed");
        let methods = document.get("token_endpoint_auth_methods_supported");
        let takes = |method: &str| {
            let listed = methods.and_then(Value::as_array)?;
            Some(listed.iter().any(|listed| listed == method))
        };
        Ok(Self {
            authorization: needed("authorization_endpoint")?,
            token: needed("token_endpoint")?,
            jwks: needed("jwks_uri")?,
            userinfo: place("userinfo_endpoint")?,
            end_session: place("end_session_endpoint")?,
            names_itself: document.get("authorization_response_iss_parameter_supported")
                == Some(&Value::Bool(true)),
            secret_in_form: takes("client_secret_basic") == Some(false)
                && takes("client_secret_post") == Some(true),
        })
    }
}

/// Whether a URL may be asked, or people may be sent to it: https. For a provider on this host also
/// http on this host.
fn is_place(url: &str, issuer: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    let is_safe = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => {
            issuer.starts_with("http:") && uri.host().is_some_and(address::is_this_host)
        }
        _ => false,
    };
    is_safe && !has_user && !url.contains('#') && url.bytes().all(|byte| byte.is_ascii_graphic())
}

/// All characters except the unreserved ones of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `application/x-www-form-urlencoded`.
pub(super) fn form_encoded(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
    let pairs = pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_the_issuers_own_and_leads_nowhere_else() {
        let read = |from: &str, to: &str, issuer: &str| {
            let text = r#"{"issuer":"https://a.example","authorization_endpoint":"https://a.example/auth",
                "token_endpoint":"https://t.example/token","jwks_uri":"https://a.example/jwks",
                "userinfo_endpoint":"https://a.example/me"}"#;
            ProviderMetadata::read(text.replacen(from, to, 1).as_bytes(), issuer)
        };
        let good = read("", "", "https://a.example").unwrap();
        assert_eq!(&*good.token, "https://t.example/token");
        assert!(!good.names_itself && !good.secret_in_form && good.end_session.is_none());
        let posts = "\"token_endpoint_auth_methods_supported\":[\"client_secret_post\"],\"issuer\"";
        assert!(read("\"issuer\"", posts, "https://a.example").unwrap().secret_in_form);
        for (from, to) in [
            ("https://a.example\",", "https://a.example/\","),
            ("\"issuer\"", "\"other\""),
            ("https://t.example/token", "http://t.example/token"),
            ("https://t.example/token", "http://127.0.0.1/token"),
            ("https://t.example/token", "https://u:p@t.example/token"),
            ("https://t.example/token", "file:///etc/passwd"),
            ("https://a.example/auth", "javascript:alert(1)"),
            ("https://a.example/auth", "https://a.example/auth#f"),
            ("\"token_endpoint\"", "\"other\""),
            ("\"jwks_uri\"", "\"other\""),
            ("}", ""),
        ] {
            assert!(read(from, to, "https://a.example").is_err(), "{to}");
        }
        assert_eq!(form_encoded(&[("a", "b c&d"), ("e", "é")]), "a=b%20c%26d&e=%C3%A9");
    }
}
