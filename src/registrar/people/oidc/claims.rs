//! A provider's claims about somebody: the ID token, and the userinfo endpoint if the token lacks
//! claims.

use serde_json::Value;
use zeroize::Zeroizing;

use super::super::Authenticator;
use super::super::ask::{self, AskedProvider, AskedWith, RemoteQuestion};
use super::super::key_sets::{KeySource, WantedKeys};
use super::provider::{DEADLINE, ProviderMetadata};
use super::{OidcError, OidcFault};
use crate::core::TokenFault;
use crate::registrar::config::{JwksPlace, OidcConfig};
use crate::token::TokenAlgorithm;
use crate::token::product::{ProductClaims, ProductKeys, ProductTokenTerms};

/// For ID tokens. No HMAC: anybody with the client's secret could make up people.
const ALGORITHMS: [TokenAlgorithm; 4] =
    [TokenAlgorithm::EdDsa, TokenAlgorithm::Es256, TokenAlgorithm::Ps256, TokenAlgorithm::Rs256];

/// The longest answer of the userinfo endpoint, and the longest access token, in bytes.
const LONGEST_USERINFO: u64 = 64 * 1024;
const LONGEST_ACCESS_TOKEN: usize = 16 * 1024;

/// The longest name or address to show, in bytes.
const LONGEST_NAME: usize = 128;

/// Somebody whom a provider has signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OidcSaid {
    pub(super) subject: Box<str>,
    /// For people; proves nothing.
    pub(super) name: Box<str>,
    /// For people, as well; may be empty.
    pub(super) email: Box<str>,
    pub(super) orgs: Vec<String>,
    pub(super) groups: Vec<String>,
    /// When they proved who they are, in Unix seconds; `None`: the provider does not say.
    pub(super) signed_in: Option<u64>,
}

/// The claims of an ID token, and after them those of userinfo.
struct AllClaims<'c> {
    token: &'c ProductClaims,
    userinfo: Value,
}

// === impl AllClaims ===

impl AllClaims<'_> {
    /// A claim or, by a JSON pointer (RFC 6901), a part of one.
    fn get(&self, name: &str) -> Option<&Value> {
        let in_token = || match name.strip_prefix('/') {
            Some(path) => {
                let (first, rest) = path.find('/').map_or((path, ""), |at| path.split_at(at));
                self.token.value(&first.replace("~1", "/").replace("~0", "~"))?.pointer(rest)
            }
            None => self.token.value(name),
        };
        let in_userinfo = || match name.starts_with('/') {
            true => self.userinfo.pointer(name),
            false => self.userinfo.get(name),
        };
        in_token().or_else(in_userinfo)
    }

    /// A text, or a list of them.
    fn texts(&self, name: &str) -> Vec<String> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match self.get(name) {
            Some(Value::Array(all)) => all.iter().filter_map(text).collect(),
            Some(one) => text(one).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// One line to show; empty if there is no usable one.
    fn line(&self, name: &str) -> &str {
        let text = self.get(name).and_then(Value::as_str).unwrap_or_default().trim();
        match text.len() <= LONGEST_NAME && !text.chars().any(char::is_control) {
            true => text,
            false => "",
        }
    }
}

// === impl Authenticator ===

impl Authenticator {
    /// What the tokens say about the person who has signed in.
    ///
    /// # Errors
    /// [`OidcError::Refused`]: something about them is not as it has to be.
    pub(super) async fn what_is_said(
        &self,
        config: &OidcConfig,
        metadata: &ProviderMetadata,
        tokens: &Value,
        nonce: &str,
    ) -> Result<OidcSaid, OidcError> {
        let id_token = tokens.get("id_token").and_then(Value::as_str);
        let id_token = id_token.ok_or(OidcError::Refused(OidcFault::Answer))?;
        let token = self.id_token(config, metadata, id_token).await?;
        let subject = check(&token, config, nonce).map_err(OidcError::Refused)?;
        let mut claims = AllClaims { token: &token, userinfo: Value::Null };
        let rights = &config.rights;
        let needs: Vec<&str> =
            [rights.org_claim.as_deref(), rights.needs_groups().then_some(&*rights.groups_claim)]
                .into_iter()
                .flatten()
                .collect();
        let shows = ["name", "email"];
        let lacks = |names: &[&str]| names.iter().any(|name| claims.get(name).is_none());
        if (lacks(&needs) || lacks(&shows)) && metadata.userinfo.is_some() {
            match userinfo(config, metadata, tokens, &subject).await {
                Ok(told) => claims.userinfo = told,
                // Without a name the person's subject is shown instead. But without groups nobody
                // knows what the person may do.
                Err(error @ OidcError::Unreachable(_)) if !lacks(&needs) => {
                    tracing::warn!(provider = %config.name, %error, "no name was told");
                }
                Err(error) => return Err(error),
            }
        }
        // OpenID Connect Core, section 5.6.2: some providers leave out long lists of groups.
        let elsewhere =
            claims.get("_claim_names").and_then(|names| names.get(&*rights.groups_claim));
        if elsewhere.is_some() && rights.needs_groups() {
            return Err(OidcError::Refused(OidcFault::GroupsElsewhere));
        }
        let (email, shown) = (claims.line("email"), ["name", "preferred_username", "email"]);
        let name = shown.into_iter().map(|name| claims.line(name)).find(|name| !name.is_empty());
        Ok(OidcSaid {
            name: name.unwrap_or(&subject).into(),
            email: email.into(),
            orgs: rights.org_claim.as_deref().map(|name| claims.texts(name)).unwrap_or_default(),
            groups: claims.texts(&rights.groups_claim),
            signed_in: token.auth_time(),
            subject,
        })
    }

    /// Keys rotate: an unknown one may be new. The provider is asked again at most every 30 s.
    async fn id_token(
        &self,
        config: &OidcConfig,
        metadata: &ProviderMetadata,
        token: &str,
    ) -> Result<ProductClaims, OidcError> {
        let now = self.clock.now();
        let place = JwksPlace::Url(metadata.jwks.clone());
        let source = KeySource { place: &place, ca: config.ca.as_ref(), algorithms: &ALGORITHMS };
        let terms = ProductTokenTerms {
            issuer: Some(&config.issuer),
            audience: Some(&config.client_id),
            longest_life: None,
        };
        let mut found = Err(TokenFault::KeyUnknown);
        for wanted in [WantedKeys::AsKept, WantedKeys::Newer] {
            if !matches!(found, Err(TokenFault::KeyUnknown | TokenFault::KeysMissing)) {
                break;
            }
            found = match self.key_sets.of_issuer(source, now, wanted).await {
                Some(set) => ProductClaims::verify(token, ProductKeys::Set(&set), terms, now),
                None => Err(TokenFault::KeysMissing),
            };
        }
        found.map_err(|fault| match fault {
            TokenFault::KeysMissing => OidcError::Unreachable("its keys cannot be had".to_owned()),
            fault => OidcError::Refused(OidcFault::Token(fault.as_str().into())),
        })
    }
}

/// Checks what signature, issuer, audience and end leave open (OpenID Connect Core, section
/// 3.1.3.7). Returns the token's subject.
fn check(token: &ProductClaims, config: &OidcConfig, nonce: &str) -> Result<Box<str>, OidcFault> {
    let text = |name: &str| token.value(name).and_then(Value::as_str);
    let is_for_several = matches!(token.value("aud"), Some(Value::Array(all)) if all.len() > 1);
    let is_ours = match token.value("azp") {
        Some(party) => party.as_str() == Some(&*config.client_id),
        None => !is_for_several,
    };
    if !is_ours {
        return Err(OidcFault::Client);
    }
    if text("nonce") != Some(nonce) {
        return Err(OidcFault::Nonce);
    }
    if token.issued().is_none() {
        return Err(OidcFault::Issued);
    }
    let subject = text("sub").filter(|subject| (1..=255).contains(&subject.len()));
    let subject = subject.filter(|subject| !subject.chars().any(char::is_control));
    subject.map(Into::into).ok_or(OidcFault::Subject)
}

/// Claims that the ID token lacks. An answer about another subject is refused.
async fn userinfo(
    config: &OidcConfig,
    metadata: &ProviderMetadata,
    tokens: &Value,
    subject: &str,
) -> Result<Value, OidcError> {
    let untrusted = || OidcError::Refused(OidcFault::Userinfo);
    let access = tokens.get("access_token").and_then(Value::as_str).filter(|token| {
        token.len() <= LONGEST_ACCESS_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic())
    });
    let (Some(access), Some(url)) = (access, &metadata.userinfo) else {
        return Err(OidcError::Refused(OidcFault::Answer));
    };
    let question = RemoteQuestion {
        of: AskedProvider::Oidc(config.name.clone()),
        url: url.to_string(),
        ca: config.ca.clone(),
        with: AskedWith::Bearer(Zeroizing::new(access.to_owned())),
        longest: LONGEST_USERINFO,
        deadline: DEADLINE,
    };
    let body = ask::ask(question).await.map_err(OidcError::unreachable)?;
    let told: Value = serde_json::from_slice(&body).map_err(|_| untrusted())?;
    match told.get("sub").and_then(Value::as_str) == Some(subject) {
        true => Ok(told),
        false => Err(untrusted()),
    }
}
