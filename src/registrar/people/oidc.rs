//! Sign-in at an OpenID provider: authorization code, PKCE, nonce (OpenID Connect Core 1.0, RFC
//! 9700).
//!
//! One cookie binds a round trip to the browser that began it. Nonce and PKCE verifier are derived
//! from it and from the state. So nobody can finish a round trip with what the database has, and an
//! answer meant for another browser, another provider or another round trip opens nothing.

mod claims;
mod provider;
mod standing;

use axum::http::HeaderValue;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub(super) use self::provider::OidcProviders;
use self::provider::{ProviderMetadata, form_encoded};
use super::ask::{self, AskError, AskedProvider, AskedWith, RemoteQuestion};
use super::session::{cookie, random};
use super::{AuthError, Authenticator, csrf};
use crate::core::Digest;
use crate::registrar::config::OidcConfig;
use crate::registrar::request::client_of;
use crate::registrar::store::{OIDC, PersonId, SignIn};

/// Path of the form that begins a sign-in. Below it each provider has an address to send people
/// back to, so that an answer of one provider cannot pass for another's, even without `iss`.
pub const OIDC_SIGN_IN: &str = "/sign-in/oidc";

/// For a round trip. The prefix makes browsers accept it from this host alone.
const COOKIE: &str = "__Host-keygate-sign-in";

/// How long somebody may take to return from the provider.
const LIFE_MS: u64 = 10 * 60 * 1000;

/// How far the provider's clock may be behind ours, in seconds.
const BEHIND_SECS: u64 = 10;

/// The longest answer to a code, in bytes.
const LONGEST_TOKENS: u64 = 64 * 1024;

/// The longest code or state in a provider's answer, in bytes.
const LONGEST_WORD: usize = 4096;

/// Which sign-in is good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedSignIn {
    /// An earlier one will do: somebody with a session at the provider need not sign in again.
    Any,
    /// Only one from the last minutes.
    Fresh,
}

/// Where to send a browser, and what binds its way back.
#[derive(Debug)]
pub struct OidcStart {
    /// At the provider.
    pub to: String,
    /// The provider's name, as people see it.
    pub label: Box<str>,
    /// The value of `Set-Cookie`.
    pub cookie: HeaderValue,
}

/// Why nobody was signed in. The page has a sentence for each; only the log has the details.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    #[error("{0}")]
    Auth(#[from] AuthError),
    /// The provider has refused to sign anybody in.
    #[error("the provider did not sign anybody in")]
    Denied,
    #[error("no role in any organization")]
    NoRole { id: PersonId },
    /// The answer cannot be trusted.
    #[error("the provider's answer cannot be trusted: {0}")]
    Refused(OidcFault),
    /// From another browser or another provider, used already, or too late.
    #[error("the sign-in was not begun here, was finished already, or took too long")]
    Stale,
    /// Not from the browser that began: without its cookie, or for an image or a frame of a page.
    /// Nobody can guess anything in this way, and any site can make a browser send such a request.
    #[error("the sign-in was not begun in this browser")]
    Stray,
    /// There is no such provider.
    #[error("there is nothing here")]
    Unknown,
    #[error("the provider does not answer: {0}")]
    Unreachable(String),
}

/// What is wrong with a provider's answer, for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OidcFault {
    #[error("the sign-in is too old, or the provider does not say when it was")]
    Age,
    #[error("the answer has no ID token that can be read")]
    Answer,
    #[error("the ID token is not for this client alone")]
    Client,
    #[error("the provider says that the groups are elsewhere (`_claim_names`)")]
    GroupsElsewhere,
    #[error("the ID token lacks a time")]
    Issued,
    #[error("`iss` of the answer is another provider's, or is missing")]
    Issuer,
    #[error("the ID token has another nonce")]
    Nonce,
    #[error("the provider's document is not one: {0}")]
    Metadata(&'static str),
    #[error("the ID token has no subject of 1 to 255 bytes")]
    Subject,
    #[error("the ID token is refused: {0}")]
    Token(Box<str>),
    #[error("the userinfo endpoint tells of somebody else")]
    Userinfo,
}

/// What the database stores about a round trip.
#[derive(Debug, Deserialize, Serialize)]
struct RoundTrip {
    provider: Box<str>,
    /// SHA-256 of the cookie, in Base64url.
    browser: String,
    /// A new sign-in is required; the provider's existing session is not enough.
    fresh: bool,
}

/// The parameters with which a provider sends people back.
#[derive(Debug, Default)]
struct ComeBack {
    code: Option<String>,
    state: Option<String>,
    issuer: Option<String>,
    error: Option<String>,
}

/// The secrets of one round trip.
struct RoundTripSecrets<'r> {
    browser: &'r str,
    state: &'r str,
}

// === impl OidcError ===

impl OidcError {
    fn unreachable(error: AskError) -> Self {
        Self::Unreachable(error.to_string())
    }

    /// For the metric: from a closed list.
    pub const fn result(&self) -> &'static str {
        match self {
            Self::Auth(_) | Self::Unknown => "refused",
            Self::Denied => "denied",
            Self::NoRole { .. } => "no_role",
            Self::Refused(_) => "untrusted",
            Self::Stale | Self::Stray => "stale",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

// === impl RoundTripSecrets ===

impl RoundTripSecrets<'_> {
    fn derived(&self, what: &str) -> Zeroizing<String> {
        let text = Zeroizing::new(format!("keygate {what}\0{}\0{}", self.browser, self.state));
        Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(Digest::of(text.as_bytes()).0))
    }

    /// RFC 7636, section 4.1.
    fn verifier(&self) -> Zeroizing<String> {
        self.derived("verifier")
    }

    /// `S256`.
    fn challenge(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(Digest::of(self.verifier().as_bytes()).0)
    }

    fn nonce(&self) -> Zeroizing<String> {
        self.derived("nonce")
    }
}

// === impl ComeBack ===

impl ComeBack {
    /// `None`: a parameter occurs twice, or none is usable.
    fn read(query: &str) -> Option<Self> {
        let mut found = Self::default();
        for (name, value) in form_pairs(query) {
            let place = match &*name {
                "code" => &mut found.code,
                "state" => &mut found.state,
                "iss" => &mut found.issuer,
                "error" => &mut found.error,
                _ => continue,
            };
            if value.len() > LONGEST_WORD || place.replace(value).is_some() {
                return None;
            }
        }
        found.state.is_some().then_some(found)
    }
}

// === impl Authenticator ===

impl Authenticator {
    /// Begins a sign-in: where to send the browser.
    ///
    /// # Errors
    /// See [`OidcError`].
    pub async fn begin_oidc(
        &self,
        parts: &Parts,
        provider: &str,
        wanted: WantedSignIn,
    ) -> Result<OidcStart, OidcError> {
        csrf::same_origin(&parts.headers, &self.settings)?;
        let config = self.oidc_config(provider).ok_or(OidcError::Unknown)?;
        self.begins(client_of(parts))?;
        let begun = self.begin_at(config, wanted).await;
        if let Err(error) = &begun {
            self.note_oidc(config, error);
        }
        begun
    }

    async fn begin_at(
        &self,
        config: &OidcConfig,
        wanted: WantedSignIn,
    ) -> Result<OidcStart, OidcError> {
        let metadata = self.providers.metadata(config, self.clock.now()).await?;
        let browser = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(*random::<32>()?));
        let state = BASE64_URL_SAFE_NO_PAD.encode(*random::<32>()?);
        let trip = RoundTrip {
            provider: config.name.clone(),
            browser: BASE64_URL_SAFE_NO_PAD.encode(Digest::of(browser.as_bytes()).0),
            fresh: wanted == WantedSignIn::Fresh,
        };
        let now_ms = self.clock.now().unix_ms;
        let sign_in = SignIn {
            digest: Digest::of(state.as_bytes()),
            kind: OIDC.into(),
            detail: serde_json::to_value(trip).unwrap_or_default(),
            created_ms: now_ms,
            ends_ms: now_ms.saturating_add(LIFE_MS),
        };
        self.store.put_sign_in(sign_in).await.map_err(AuthError::from)?;
        let secrets = RoundTripSecrets { browser: &browser, state: &state };
        let scopes = config.scopes.join(" ");
        let back = self.redirect_uri(config);
        let (challenge, nonce) = (secrets.challenge(), secrets.nonce());
        let mut asked = vec![
            ("response_type", "code"),
            ("client_id", &*config.client_id),
            ("redirect_uri", &*back),
            ("scope", &*scopes),
            ("state", &*state),
            ("nonce", &**nonce),
            ("code_challenge", &*challenge),
            ("code_challenge_method", "S256"),
        ];
        let age = self.settings.people.recent_sign_in.as_secs().to_string();
        if wanted == WantedSignIn::Fresh {
            asked.extend([("prompt", "login"), ("max_age", &*age)]);
        }
        let joint = if metadata.authorization.contains('?') { '&' } else { '?' };
        let to = format!("{}{joint}{}", metadata.authorization, form_encoded(&asked));
        let text = Zeroizing::new(format!("{COOKIE}={}; {ATTRIBUTES}", *browser));
        let mut cookie = HeaderValue::try_from(&**text).map_err(|_| AuthError::Unknown)?;
        cookie.set_sensitive(true);
        Ok(OidcStart { to, label: config.label.clone(), cookie })
    }

    /// Finishes the sign-in of somebody who returns from a provider: begins their session. Returns
    /// the value of `Set-Cookie`.
    ///
    /// # Errors
    /// See [`OidcError`].
    pub async fn finish_oidc(
        &self,
        parts: &Parts,
        provider: &str,
    ) -> Result<HeaderValue, OidcError> {
        let config = self.oidc_config(provider).ok_or(OidcError::Unknown)?;
        self.still_listened_to(client_of(parts))?;
        match self.finish_at(parts, config).await {
            Ok(cookie) => {
                self.metrics.oidc(&config.name, "signed_in");
                Ok(cookie)
            }
            Err(error) => {
                self.note_oidc(config, &error);
                if matches!(error, OidcError::Stale | OidcError::Refused(_)) {
                    self.failed(client_of(parts))?;
                }
                Err(error)
            }
        }
    }

    async fn finish_at(
        &self,
        parts: &Parts,
        config: &OidcConfig,
    ) -> Result<HeaderValue, OidcError> {
        let browser = match cookie(&parts.headers, COOKIE)? {
            Some(browser) if csrf::is_navigation(&parts.headers) => browser,
            Some(_) | None => return Err(OidcError::Stray),
        };
        let back = ComeBack::read(parts.uri.query().unwrap_or_default()).ok_or(OidcError::Stale)?;
        let state = back.state.as_deref().unwrap_or_default();
        let trip = self.take_trip(config, browser, state).await?;
        let now = self.clock.now();
        let metadata = self.providers.metadata(config, now).await?;
        // RFC 9207: another provider's answer, sent here to be mixed up with this one's.
        match &back.issuer {
            Some(issuer) if **issuer != *config.issuer => {
                return Err(OidcError::Refused(OidcFault::Issuer));
            }
            None if metadata.names_itself => return Err(OidcError::Refused(OidcFault::Issuer)),
            Some(_) | None => {}
        }
        let code = match (&back.code, &back.error) {
            (Some(code), None) => code,
            (_, Some(error)) => {
                let error: String = error.chars().filter(char::is_ascii_graphic).take(64).collect();
                tracing::info!(provider = %config.name, %error, "the provider signs nobody in");
                return Err(OidcError::Denied);
            }
            (None, None) => return Err(OidcError::Stale),
        };
        let secrets = RoundTripSecrets { browser, state };
        let tokens = self.redeem(config, &metadata, code, &secrets).await?;
        let said = self.what_is_said(config, &metadata, &tokens, &secrets.nonce()).await?;
        if trip.fresh {
            let longest = self.settings.people.recent_sign_in.as_secs() + BEHIND_SECS;
            let is_young = |at: u64| now.unix_secs().saturating_sub(at) <= longest;
            if !said.signed_in.is_some_and(is_young) {
                return Err(OidcError::Refused(OidcFault::Age));
            }
        }
        self.admit(parts, config, said).await
    }

    /// Takes the round trip that this browser began at this provider. It cannot be used again.
    async fn take_trip(
        &self,
        config: &OidcConfig,
        browser: &str,
        state: &str,
    ) -> Result<RoundTrip, OidcError> {
        let digest = Digest::of(state.as_bytes());
        let taken = self.store.take_sign_in(digest, self.clock.now().unix_ms).await;
        let taken = taken.map_err(AuthError::from)?.filter(|taken| *taken.kind == *OIDC);
        let trip: Option<RoundTrip> =
            taken.and_then(|taken| serde_json::from_value(taken.detail).ok());
        let trip = trip.filter(|trip| trip.provider == config.name).ok_or(OidcError::Stale)?;
        let begun = BASE64_URL_SAFE_NO_PAD.decode(&trip.browser).ok();
        let begun = begun.and_then(|bytes| bytes.try_into().ok()).map(Digest);
        match begun.is_some_and(|begun| begun.matches(&Digest::of(browser.as_bytes()))) {
            true => Ok(trip),
            false => Err(OidcError::Stale),
        }
    }

    /// Exchanges the code for tokens. The provider accepts each code once.
    async fn redeem(
        &self,
        config: &OidcConfig,
        metadata: &ProviderMetadata,
        code: &str,
        secrets: &RoundTripSecrets<'_>,
    ) -> Result<serde_json::Value, OidcError> {
        let (back, verifier) = (self.redirect_uri(config), secrets.verifier());
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &*back),
            ("code_verifier", &**verifier),
        ];
        let secret = config.client_secret.expose();
        let basic = match metadata.secret_in_form {
            true => {
                form.extend([("client_id", &*config.client_id), ("client_secret", secret)]);
                None
            }
            // RFC 6749, section 2.3.1: both are encoded as in a form.
            false => {
                let encode = |text: &str| form_encoded(&[("", text)]).split_off(1);
                let pair = Zeroizing::new(format!(
                    "{}:{}",
                    encode(&config.client_id),
                    *Zeroizing::new(encode(secret))
                ));
                Some(Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes())))
            }
        };
        let question = RemoteQuestion {
            of: AskedProvider::Oidc(config.name.clone()),
            url: metadata.token.to_string(),
            ca: config.ca.clone(),
            with: AskedWith::Form { body: Zeroizing::new(form_encoded(&form)), basic },
            longest: LONGEST_TOKENS,
            deadline: provider::DEADLINE,
        };
        let answer = ask::ask(question).await.map_err(|error| match error {
            // The code belongs to another client or another round trip, or was used before.
            AskError::Refused { ref error, .. } if **error == *"invalid_grant" => OidcError::Stale,
            error => OidcError::unreachable(error),
        })?;
        serde_json::from_slice(&answer).map_err(|_| OidcError::Refused(OidcFault::Answer))
    }

    fn oidc_config(&self, provider: &str) -> Option<&OidcConfig> {
        self.settings.people.oidc.iter().find(|config| *config.name == *provider)
    }

    /// Where the provider sends people back to. It has to know this address, byte for byte.
    fn redirect_uri(&self, config: &OidcConfig) -> String {
        format!("{}{OIDC_SIGN_IN}/{}", self.settings.reached_at(), config.name)
    }

    /// Where somebody who has signed out here can sign out of the provider as well; `None`: the
    /// configuration does not want that, or the provider has no such place.
    pub async fn oidc_sign_out(&self, provider: &str) -> Option<OidcSignOut> {
        let config = self.oidc_config(provider).filter(|config| config.signs_out)?;
        let metadata = self.providers.metadata(config, self.clock.now()).await.ok()?;
        let end = metadata.end_session.as_deref()?;
        let back = format!("{}{}", self.settings.reached_at(), super::SIGN_IN);
        let asked =
            [("client_id", &*config.client_id), ("post_logout_redirect_uri", back.as_str())];
        let joint = if end.contains('?') { '&' } else { '?' };
        let to = format!("{end}{joint}{}", form_encoded(&asked));
        Some(OidcSignOut { to, label: config.label.clone() })
    }

    fn note_oidc(&self, config: &OidcConfig, error: &OidcError) {
        self.metrics.oidc(&config.name, error.result());
        match error {
            // Otherwise anybody could fill the log with strays.
            OidcError::Auth(_) | OidcError::Denied | OidcError::Stray | OidcError::Unknown => {}
            OidcError::NoRole { id } => {
                tracing::info!(provider = %config.name, person = %id, "signed in without a role");
            }
            error => tracing::warn!(provider = %config.name, %error, "nobody was signed in"),
        }
    }
}

/// Where to sign out of a provider.
#[derive(Clone, Debug)]
pub struct OidcSignOut {
    pub to: String,
    /// The provider's name, as people see it.
    pub label: Box<str>,
}

/// Lax: the browser sends it when the provider sends the browser back.
const ATTRIBUTES: &str = "Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=600";

/// Makes a browser forget a round trip.
pub fn clear_oidc_cookie() -> HeaderValue {
    HeaderValue::from_static(
        "__Host-keygate-sign-in=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0",
    )
}

/// Pairs of a query, decoded. Invalid UTF-8 is replaced: it names nothing.
fn form_pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}
