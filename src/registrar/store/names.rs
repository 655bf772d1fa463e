//! The names in the service's rows that `core` does not have, each parsed once.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::core::Digest;
use crate::manage::registry::settings::is_audience;
pub use crate::manage::registry::uid::Uid;

/// Whom a table is for: 1 to 128 visible ASCII characters, as in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AudienceName(Arc<str>);

/// The `iss` of people who sign in with a link made on the host, and the name of that way to sign
/// in.
pub const BOOTSTRAP: &str = "bootstrap";

/// The `iss` of a product's people begins with this; the name of the audience follows.
const PRODUCT: &str = "product ";

/// A person as their identity provider knows them. Never an email address: those change hands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersonId {
    /// `iss` of an ID token. For other ways to sign in, a name from the configuration.
    pub iss: Box<str>,
    /// `sub`, or what the other way uses instead.
    pub sub: Box<str>,
}

// === impl AudienceName ===

impl AudienceName {
    /// `None`: not 1 to 128 visible ASCII characters.
    pub fn parse(text: &str) -> Option<Self> {
        is_audience(text).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AudienceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl PersonId ===

impl PersonId {
    /// Somebody whom the product of an audience knows by this id.
    pub fn of_product(audience: &AudienceName, id: &str) -> Self {
        Self { iss: format!("{PRODUCT}{audience}").into(), sub: id.into() }
    }

    /// The audience whose product knows this person; `None`: no product does.
    pub fn product(&self) -> Option<&str> {
        self.iss.strip_prefix(PRODUCT)
    }
}

/// The owner field of an OpenID provider's people begins with this.
pub const OIDC: &str = "oidc";

/// The longest subject of a provider, in bytes, that an owner field holds unchanged.
const LONGEST_SUBJECT: usize = 100;

/// What the owner field of a person's keys contains. For a product's people it is the product's own
/// id, which the product understands. For all others, the way they sign in precedes it, so that no
/// user of a product is mistaken for one of them, and no user of one provider for one of another.
pub fn owner_subject(id: &PersonId) -> String {
    /// Fits into an owner field, however long the text is.
    fn short(text: &str, bytes: usize) -> String {
        let digest = Digest::of(text.as_bytes()).0;
        BASE64_URL_SAFE_NO_PAD.encode(digest.get(..bytes).unwrap_or_default())
    }
    match &*id.iss {
        BOOTSTRAP => format!("{BOOTSTRAP}:{}", id.sub),
        _ if id.product().is_some() => id.sub.to_string(),
        issuer => match id.sub.len() <= LONGEST_SUBJECT {
            true => format!("{OIDC}:{}:{}", short(issuer, 12), id.sub),
            false => format!("{OIDC}:{}::{}", short(issuer, 12), short(&id.sub, 32)),
        },
    }
}

impl fmt::Display for PersonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.iss, self.sub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_people_have_the_same_place_as_owner() {
        let of =
            |iss: &str, sub: &str| owner_subject(&PersonId { iss: iss.into(), sub: sub.into() });
        let long = "x".repeat(255);
        let longer = format!("{}y", &long[..254]);
        let all = [
            of("product shop", "u-1"),
            of("bootstrap", "u-1"),
            of("https://a.example", "u-1"),
            of("https://b.example", "u-1"),
            of("https://a.example", &long),
            of("https://a.example", &longer),
        ];
        let different: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{all:?}");
        assert_eq!((&*all[0], &*all[1]), ("u-1", "bootstrap:u-1"));
        assert!(all[2].starts_with("oidc:") && all[2].ends_with(":u-1"), "{all:?}");
        for subject in &all {
            crate::core::Owner::new(subject, "", "").unwrap();
        }
    }
}
