//! A product's own session: asks the product's endpoint whose cookie it is. The cookie goes to the
//! configured URL and nowhere else, and no other cookie goes with it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use axum::http::request::Parts;
use serde_json::Value;
use zeroize::Zeroizing;

use super::ask::{self, AskedProvider, AskedWith, RemoteQuestion};
use super::product::{ProductPerson, ProductSource, ProductWords};
use super::{AuthError, Authenticator, Caller, CallerBy, FormToken};
use crate::core::Digest;
use crate::registrar::config::ProductSessionConfig;
use crate::registrar::request::client_of;

/// How long an answer counts. A failure counts once only.
const KEPT: Duration = Duration::from_secs(5);

/// The most answers to keep.
const MOST_KEPT: usize = 4096;

/// The longest answer, and how long the product may take for it.
const LONGEST: u64 = 64 * 1024;
const DEADLINE: Duration = Duration::from_secs(2);

/// The longest cookie to pass on.
const LONGEST_COOKIE: usize = 4096;

/// What products have said about cookies, by the SHA-256 of each cookie.
#[derive(Debug, Default)]
pub(super) struct KeptSessions(Mutex<HashMap<Digest, KeptSession>>);

#[derive(Clone, Debug)]
struct KeptSession {
    person: ProductPerson,
    /// On the process's clock.
    until_ns: u64,
}

/// A product's cookie in a request.
pub(super) struct ShownCookie<'r> {
    pub(super) config: &'r ProductSessionConfig,
    pub(super) value: &'r str,
}

// === impl Authenticator ===

impl Authenticator {
    pub(super) async fn by_product_session(
        &self,
        parts: &Parts,
        shown: ShownCookie<'_>,
    ) -> Result<Caller, AuthError> {
        let ShownCookie { config, value } = shown;
        if value.len() > LONGEST_COOKIE {
            return Err(AuthError::Unknown);
        }
        let text = Zeroizing::new(format!("{}={value}", config.cookie));
        let digest = Digest::of(text.as_bytes());
        let now_ns = self.clock.now().mono_ns;
        let person = match self.kept.find(&digest, now_ns) {
            Some(person) => person,
            None => {
                // Each question is work for the product, so somebody who guesses is stopped here.
                self.still_listened_to(client_of(parts))?;
                let person = self.ask_product(config, text).await?;
                // The product was asked just now: the answer is no older than that. For people whom
                // it refuses, it is asked again.
                if person.role.is_some() {
                    self.kept.keep(digest, person.clone(), now_ns);
                }
                person
            }
        };
        let source = ProductSource {
            name: &config.name,
            audience: &config.audience,
            by: CallerBy::ProductSession,
            said_ms: Some(self.clock.now().unix_ms),
        };
        let form = Some(FormToken::of(value));
        self.product_caller(parts, person, source, None, form).await
    }

    async fn ask_product(
        &self,
        config: &ProductSessionConfig,
        cookie: Zeroizing<String>,
    ) -> Result<ProductPerson, AuthError> {
        let question = RemoteQuestion {
            of: AskedProvider::Session(config.name.clone()),
            url: config.url.to_string(),
            ca: config.ca.clone(),
            with: AskedWith::Cookie(cookie),
            longest: LONGEST,
            deadline: DEADLINE,
        };
        let body = match ask::ask(question).await {
            Ok(body) => body,
            Err(error) => {
                let is_unreachable = error.is_unreachable();
                match error {
                    ask::AskError::Status(401 | 403 | 404) => {}
                    error => tracing::warn!(%error, product = %config.name, "no session was told"),
                }
                // A product that is away has not said that the cookie is a guess.
                return Err(match is_unreachable {
                    true => AuthError::Unreachable,
                    false => AuthError::Unknown,
                });
            }
        };
        let answer: Value = serde_json::from_slice(&body).map_err(|_| AuthError::Unknown)?;
        let at = |pointer: &str| match answer.pointer(pointer)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) if number.is_u64() => Some(number.to_string()),
            _ => None,
        };
        let words = ProductWords {
            org: at(&config.org),
            user: at(&config.user),
            role: at(&config.role),
            email: config.email.as_deref().and_then(at),
        };
        words.read(&config.roles)
    }
}

// === impl KeptSessions ===

impl KeptSessions {
    fn find(&self, digest: &Digest, now_ns: u64) -> Option<ProductPerson> {
        let kept = self.0.lock().ok()?;
        kept.get(digest).filter(|kept| kept.until_ns > now_ns).map(|kept| kept.person.clone())
    }

    fn keep(&self, digest: Digest, person: ProductPerson, now_ns: u64) {
        let Ok(mut kept) = self.0.lock() else { return };
        if kept.len() >= MOST_KEPT {
            kept.retain(|_, session| session.until_ns > now_ns);
        }
        if kept.len() < MOST_KEPT {
            let until_ns = now_ns.saturating_add(KEPT.as_nanos() as u64);
            kept.insert(digest, KeptSession { person, until_ns });
        }
    }
}
