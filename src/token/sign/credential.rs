//! The upstream credential: for a service that insists on a credential of its own, sent with every
//! admitted request. Imports `core`.

use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::template::{ClaimSlot, ClaimValues, ClaimsTemplate};
use super::{MintedToken, SigningFailed, TokenKey, TokenLife};
use crate::core::{KeyView, Now, OwnerView};

/// `[upstream.credential]`.
#[derive(Debug)]
pub struct UpstreamCredential {
    /// First removed from every admitted request.
    pub field: HeaderName,
    pub form: CredentialForm,
}

/// What the credential is.
#[derive(Debug)]
pub enum CredentialForm {
    /// The same for every request.
    Fixed(FixedCredential),
    Token(UpstreamTokens),
}

/// A field's value. Never prints itself, and is wiped when it is dropped.
pub struct FixedCredential(Zeroizing<Box<str>>);

/// Tokens of the kind that the service gives its own users.
#[derive(Debug)]
pub struct UpstreamTokens {
    pub key: TokenKey,
    pub claims: ClaimsTemplate,
    /// In seconds, at most five minutes.
    pub life: u64,
    /// Prefix of the token: `Bearer `, or nothing.
    pub scheme: &'static str,
}

/// Why there is no token for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoToken {
    Failed,
    /// The claims require something that the key does not have.
    Missing(ClaimSlot),
}

// === impl UpstreamCredential ===

impl UpstreamCredential {
    /// What the claims require and this key does not have.
    pub fn missing(&self, key: &KeyView<'_>, owner: Option<OwnerView<'_>>) -> Option<ClaimSlot> {
        match &self.form {
            CredentialForm::Fixed(_) => None,
            CredentialForm::Token(tokens) => tokens.claims.missing(key, owner).next(),
        }
    }

    /// Every claim that requires something `key` does not have.
    pub fn all_missing(&self, key: &KeyView<'_>, owner: Option<OwnerView<'_>>) -> Vec<ClaimSlot> {
        match &self.form {
            CredentialForm::Fixed(_) => Vec::new(),
            CredentialForm::Token(tokens) => tokens.claims.missing(key, owner).collect(),
        }
    }
}

// === impl FixedCredential ===

impl FixedCredential {
    /// The value in a file's bytes, without surrounding white space. `None`: it is not a field
    /// value of 1 to 4,096 visible ASCII characters and spaces.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let value = bytes.trim_ascii();
        let fits = (1..=4096).contains(&value.len())
            && value.iter().all(|b| matches!(b, b' '..=b'~'))
            && HeaderValue::from_bytes(value).is_ok();
        let text = std::str::from_utf8(value).ok().filter(|_| fits)?;
        Some(Self(Zeroizing::new(text.into())))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for FixedCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FixedCredential").finish_non_exhaustive()
    }
}

// === impl UpstreamTokens ===

impl UpstreamTokens {
    /// A token for a request with `key`.
    ///
    /// # Errors
    /// See [`NoToken`].
    pub fn mint(
        &self,
        key: &KeyView<'_>,
        owner: Option<OwnerView<'_>>,
        now: Now,
    ) -> Result<MintedToken, NoToken> {
        let life = TokenLife::of(now, self.life, key.expires);
        let (issued, expires) = (life.issued, life.expires);
        let values = ClaimValues { key, owner, issued, expires };
        let claims = self.claims.render(&values).map_err(NoToken::Missing)?;
        let token = self.key.sign(claims.as_bytes()).map_err(|SigningFailed| NoToken::Failed)?;
        let text = match self.scheme {
            "" => token,
            scheme => format!("{scheme}{token}"),
        };
        Ok(MintedToken { text, renew_ns: life.renew_ns })
    }
}
