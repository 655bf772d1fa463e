//! What keygate tells the service about the caller: one list of fields for the proxy and
//! `explain`.

use http::HeaderName;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::grant::KeyView;
use super::key::{Environment, KeyId};
use super::owner::OwnerView;
use super::user_token::UserToken;

/// Names of the identity fields. `None`: not sent, but still removed from requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFields {
    pub org: Option<HeaderName>,
    pub key_id: Option<HeaderName>,
    pub key_name: Option<HeaderName>,
    /// Subject of the key's owner. Not sent unless the configuration names a field.
    pub owner: Option<HeaderName>,
    pub permissions: Option<HeaderName>,
    pub environment: Option<HeaderName>,
    /// Set to `true` on requests that passed without a key for keygate.
    pub anonymous: Option<HeaderName>,
    /// Verified client-certificate subject.
    pub client_subject: Option<HeaderName>,
    /// Subject of a user token.
    pub subject: Option<HeaderName>,
    /// Issuer of a user token: subjects of two issuers may have the same name.
    pub issuer: Option<HeaderName>,
    /// Whether a `key` or a `token` opened the route.
    pub credential: Option<HeaderName>,
    /// Default `x-request-id`.
    pub request_id: HeaderName,
}

/// Every byte outside printable ASCII, and `%` itself, so that decoding restores the name.
const NAME: &AsciiSet = &CONTROLS.add(b'%');
/// For a name that begins or ends with a space, which a receiver would trim.
const SPACED_NAME: &AsciiSet = &NAME.add(b' ');

/// The fields that say who is calling. They are inserted after every spelling of them was removed.
///
/// A field without a value (no name, no permission, no environment) is not sent. An org, a name or
/// a permission that is not a valid field value cannot get into a table.
///
/// `owner`: the key's. Only needed if its field has a name.
pub fn identity_fields(
    names: &IdentityFields,
    key: &KeyView<'_>,
    owner: Option<OwnerView<'_>>,
    mut put: impl FnMut(&HeaderName, &str),
) {
    let mut put = |name: &Option<HeaderName>, text: &str| {
        if let Some(name) = name
            && !text.is_empty()
        {
            put(name, text);
        }
    };
    put(&names.org, key.org);
    put(&names.key_id, key_id_text(key.id, &mut [0; KEY_ID]));
    put(&names.key_name, &encode_name(key.name));
    if let Some(owner) = owner {
        put(&names.owner, &encode_name(owner.subject));
    }
    put(&names.permissions, key.grant.permissions.joined());
    put(&names.environment, key.grant.environment.map_or("", Environment::as_str));
    put(&names.credential, "key");
}

/// The same for a user token. It has a subject instead of a key's id, name and environment.
pub fn token_fields(
    names: &IdentityFields,
    token: &UserToken,
    mut put: impl FnMut(&HeaderName, &str),
) {
    let mut put = |name: &Option<HeaderName>, text: &str| {
        if let Some(name) = name
            && !text.is_empty()
        {
            put(name, text);
        }
    };
    put(&names.org, token.org());
    put(&names.subject, &encode_name(token.subject()));
    put(&names.issuer, &encode_name(token.issuer()));
    put(&names.permissions, token.permissions().joined());
    put(&names.credential, "token");
}

/// The field that marks a request as forwarded without a key for keygate.
pub fn anonymous_field(names: &IdentityFields) -> Option<(&HeaderName, &'static str)> {
    names.anonymous.as_ref().map(|name| (name, "true"))
}

/// The longest text of a key id.
const KEY_ID: usize = KeyId::PREFIX.len() + 16;

fn key_id_text(id: KeyId, text: &mut [u8; KEY_ID]) -> &str {
    let suffix = id.suffix_bytes();
    let (prefix, rest) = text.split_at_mut(KeyId::PREFIX.len());
    prefix.copy_from_slice(KeyId::PREFIX.as_bytes());
    if let Some(to) = rest.get_mut(..suffix.len()) {
        to.copy_from_slice(suffix);
    }
    let used = KeyId::PREFIX.len() + suffix.len();
    text.get(..used).and_then(|t| std::str::from_utf8(t).ok()).unwrap_or_default()
}

fn encode_name(name: &str) -> std::borrow::Cow<'_, str> {
    let spaced = name.starts_with(' ') || name.ends_with(' ');
    let is_plain = |b: u8| matches!(b, b' '..=b'~') & (b != b'%');
    // Not `all`: without an early exit, many bytes can be checked at the same time.
    if !spaced && name.bytes().fold(true, |all, b| all & is_plain(b)) {
        return name.into();
    }
    let set = if spaced { SPACED_NAME } else { NAME };
    utf8_percent_encode(name, set).into()
}

// === impl IdentityFields ===

impl IdentityFields {
    /// Every name that only keygate may set.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        [
            &self.org,
            &self.key_id,
            &self.key_name,
            &self.owner,
            &self.permissions,
            &self.environment,
            &self.anonymous,
            &self.client_subject,
            &self.subject,
            &self.issuer,
            &self.credential,
        ]
        .into_iter()
        .flatten()
        .chain([&self.request_id])
    }
}

impl Default for IdentityFields {
    fn default() -> Self {
        Self {
            org: Some(HeaderName::from_static("x-org-id")),
            key_id: Some(HeaderName::from_static("x-key-id")),
            key_name: Some(HeaderName::from_static("x-key-name")),
            // It can be a person's name or address, which not every service may learn.
            owner: None,
            permissions: Some(HeaderName::from_static("x-permissions")),
            environment: Some(HeaderName::from_static("x-environment")),
            anonymous: Some(HeaderName::from_static("x-anonymous")),
            client_subject: Some(HeaderName::from_static("x-client-subject")),
            // Without user tokens there is nothing to distinguish.
            subject: None,
            issuer: None,
            credential: None,
            request_id: HeaderName::from_static("x-request-id"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::key::{Environment, KeyKind, KeyStatus, Permission};
    use crate::core::{Grant, NetworkSet, PermissionSet};

    fn grant(words: &[&str], environment: Option<Environment>) -> Grant {
        Grant {
            status: KeyStatus::Active,
            kind: KeyKind::Single,
            environment,
            not_before: None,
            permissions: PermissionSet::new(words.iter().map(|w| Permission::parse(w).unwrap())),
            networks: NetworkSet::default(),
            limits: crate::core::LimitSet::default(),
            sunset: None,
        }
    }

    fn shown(name: &str, grant: &Grant, names: &IdentityFields) -> Vec<String> {
        let id = KeyId::parse("key_abc").unwrap();
        let key = KeyView { id, org: "acme", name, expires: None, grant, uses: None };
        let mut shown = Vec::new();
        identity_fields(names, &key, None, |name, value| shown.push(format!("{name}: {value}")));
        shown
    }

    #[test]
    fn all_fields() {
        let grant = grant(&["send", "read"], Some(Environment::Live));
        assert_eq!(
            shown("Production CRM", &grant, &IdentityFields::default()),
            [
                "x-org-id: acme",
                "x-key-id: key_abc",
                "x-key-name: Production CRM",
                "x-permissions: read send",
                "x-environment: live",
            ]
        );
    }

    #[test]
    fn names_are_encoded_so_that_decoding_gives_them_back() {
        let grant = grant(&[], None);
        let cases = [
            ("Büro", "B%C3%BCro"),
            ("100% €", "100%25 %E2%82%AC"),
            (" lead", "%20lead"),
            ("tab\there", "tab%09here"),
            ("x\r\ny: z", "x%0D%0Ay: z"),
        ];
        for (name, want) in cases {
            let fields = shown(name, &grant, &IdentityFields::default());
            assert_eq!(fields.last().unwrap(), &format!("x-key-name: {want}"), "{name}");
            let back = percent_encoding::percent_decode_str(want).decode_utf8().unwrap();
            assert_eq!(back, name);
        }
    }

    #[test]
    fn the_owner_is_sent_only_in_a_field_that_is_named() {
        let (grant, id) = (grant(&[], None), KeyId::parse("key_abc").unwrap());
        let key = KeyView { id, org: "acme", name: "", expires: None, grant: &grant, uses: None };
        let owner = OwnerView { subject: "kim@büro", email: "kim@example.com", role: "admin" };
        let mut names = IdentityFields::default();
        let mut fields = Vec::new();
        identity_fields(&names, &key, Some(owner), |name, _| fields.push(name.to_string()));
        assert_eq!(fields, ["x-org-id", "x-key-id"]);
        names.owner = Some(HeaderName::from_static("x-key-owner"));
        let mut sent = None;
        identity_fields(&names, &key, Some(owner), |name, value| {
            if name == "x-key-owner" {
                sent = Some(value.to_owned());
            }
        });
        assert_eq!(sent.as_deref(), Some("kim@b%C3%BCro"));
        assert!(names.names().any(|name| name == "x-key-owner"), "nobody else may set it");
    }

    #[test]
    fn nothing_to_say_is_not_sent() {
        let names = IdentityFields { org: None, ..IdentityFields::default() };
        assert_eq!(shown("", &grant(&[], None), &names), ["x-key-id: key_abc"]);
    }
}
