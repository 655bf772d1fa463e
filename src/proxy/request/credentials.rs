//! Finds the one credential for keygate in a request, and removes credentials from what keygate
//! forwards.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::header::{self, HeaderName};
use zeroize::Zeroize;

use crate::config::TokenSettings;
use crate::core::{BasicForm, CredentialSource, MissingHalf, Presented, Reason, Rejection};
use crate::proxy::http1::head::{Fields, RequestHead, asks_for_upgrade};
use crate::token::looks_like_token;

mod blank;
mod candidates;
mod cookie;
mod query;
mod strays;

pub(crate) use self::candidates::{Candidates, candidates};

/// The contents of the carriers of one request.
#[derive(Default)]
pub(crate) struct Carriers<'r> {
    found: FoundCredential<'r>,
    /// Some carrier holds a credential that is not for keygate.
    foreign: bool,
    /// Some carrier is present but empty: it carries nothing, and is removed anyway.
    blank: bool,
    /// The query has a parameter of ours.
    pub(crate) in_query: bool,
    pub(crate) in_cookie: bool,
    pub(crate) in_subprotocol: bool,
    /// `Authorization` holds a credential of ours.
    pub(crate) in_authorization: bool,
    /// A value in the form of a user token, where keygate accepts user tokens.
    pub(crate) token: Option<&'r [u8]>,
}

#[derive(Default)]
enum FoundCredential<'r> {
    #[default]
    Nothing,
    /// The half that is present is not looked up.
    HalfPair(MissingHalf<'r>),
    Pair {
        id: Bytes<'r>,
        secret: Bytes<'r>,
    },
    Single(Bytes<'r>),
}

/// Credential bytes. Decoded ones are wiped afterwards.
#[derive(PartialEq, Eq)]
struct Bytes<'r>(Cow<'r, [u8]>);

/// Checks every carrier. Refuses two carriers that hold a credential for keygate, equal or not:
/// never "the first wins" (Envoy CVE-2026-26308 and its kind). An empty carrier counts as absent:
/// templates and SDKs send the field of an option that nobody has set.
pub(crate) fn read<'r>(
    head: &'r RequestHead,
    sources: &'r [CredentialSource],
    tokens: &TokenSettings,
) -> Result<Carriers<'r>, Rejection> {
    let mut carriers = Carriers::default();
    let authorization = carriers.authorization(&head.fields, sources)?;
    for source in sources {
        match source {
            CredentialSource::Header { name, prefixes } => {
                if let Some(value) = carriers.only(&head.fields, name)? {
                    let ours = strays::judge(prefixes, value)?;
                    carriers.offer(ours.then_some(value.into()))?;
                }
            }
            CredentialSource::Pair { id, secret } => {
                let halves =
                    (carriers.only(&head.fields, id)?, carriers.only(&head.fields, secret)?);
                let missing = |half: &'r HeaderName| MissingHalf::Field(half.as_str());
                match halves {
                    (None, None) => {}
                    (Some(id), Some(secret)) => carriers.offer_pair(id.into(), secret.into())?,
                    (Some(id), None) => carriers.offer_half(id.into(), missing(secret))?,
                    (None, Some(secret)) => carriers.offer_half(secret.into(), missing(id))?,
                }
            }
            CredentialSource::Bearer { prefixes } => {
                if let Some(token) = authorization.and_then(|v| after_scheme(v, b"bearer")) {
                    let token = unwrap_secret_token(token);
                    let ours = prefixes.own(token);
                    carriers.in_authorization |= ours;
                    carriers.offer(ours.then_some(token.into()))?;
                }
            }
            CredentialSource::Basic { form, prefixes } => {
                if let Some(token) = authorization.and_then(|v| after_scheme(v, b"basic")) {
                    carriers.offer_basic(token, *form, |user| prefixes.own(user))?;
                }
            }
            CredentialSource::Query { name, prefixes } => {
                let query = head.target.query().unwrap_or_default();
                if query::hides_in(query, name, |value| prefixes.own(value)) {
                    return Err(Rejection::why(Reason::Malformed, "the key stands behind a `;`"));
                }
                if strays::in_query(query, name, prefixes) {
                    return Err(strays::refused());
                }
                for value in query::values(query, name) {
                    if blank::is_blank(&value) {
                        carriers.blank = true;
                        continue;
                    }
                    let ours = strays::judge(prefixes, &value)?;
                    carriers.in_query |= ours;
                    carriers.offer(ours.then_some(Bytes(value)))?;
                }
            }
            CredentialSource::Cookie { name, prefixes } => {
                if cookie::hides_in(&head.fields, name, |value| prefixes.own(value)) {
                    return Err(Rejection::why(Reason::Malformed, "the key stands behind a `,`"));
                }
                if strays::in_cookies(&head.fields, name, prefixes) {
                    return Err(strays::refused());
                }
                for value in cookie::values(&head.fields, name) {
                    if blank::is_blank(&value) {
                        carriers.blank = true;
                        continue;
                    }
                    let ours = strays::judge(prefixes, &value)?;
                    carriers.in_cookie |= ours;
                    carriers.offer(ours.then_some(Bytes(value)))?;
                }
            }
            CredentialSource::Subprotocol { marker } => carriers.read_subprotocols(head, marker)?,
        }
    }
    if let Some(value) = authorization
        && !carriers.in_authorization
        && sources.iter().any(|s| strays::in_authorization(s, value))
    {
        return Err(strays::refused());
    }
    // A token is recognised by its form and by not being a key: the prefixes are checked first, and
    // only once, here.
    if !tokens.is_empty()
        && !carriers.in_authorization
        && let Some(token) = authorization.and_then(|v| after_scheme(v, b"bearer"))
    {
        carriers.foreign = true;
        carriers.token = Some(token).filter(|token| looks_like_token(token));
    }
    Ok(carriers)
}

/// Whether `source` reads the field `name`.
pub(crate) fn is_field_of(source: &CredentialSource, name: &[u8]) -> bool {
    let is = |known: &HeaderName| known.as_str().as_bytes() == name;
    match source {
        CredentialSource::Header { name, .. } => is(name),
        CredentialSource::Pair { id, secret } => is(id) || is(secret),
        CredentialSource::Basic { .. }
        | CredentialSource::Bearer { .. }
        | CredentialSource::Cookie { .. }
        | CredentialSource::Query { .. }
        | CredentialSource::Subprotocol { .. } => false,
    }
}

/// What [`strip`] removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StripScope {
    /// Every configured carrier: the request was admitted.
    EveryCarrier,
    /// Every configured carrier but `Authorization`: its user token is forwarded by choice.
    AllButToken,
    /// None: `[observe]` forwards them.
    Nothing,
    /// Our keys (ARCHITECTURE.md, invariant 5) and carriers that are empty.
    OursAndEmpty,
    /// The same, and user tokens, however many there are and whatever is wrong with them.
    OursTokensAndEmpty,
}

/// Removes the credentials from the head.
pub(crate) fn strip(
    head: &mut RequestHead,
    sources: &[CredentialSource],
    carried: &Carried,
    scope: StripScope,
) {
    let (all, all_schemes) = match scope {
        StripScope::AllButToken => (true, false),
        StripScope::EveryCarrier => (true, true),
        StripScope::Nothing => return,
        StripScope::OursAndEmpty | StripScope::OursTokensAndEmpty => (false, false),
    };
    if scope == StripScope::OursTokensAndEmpty {
        // Judged by its form alone: a fault in the request may have kept keygate from reading it.
        head.fields.remove_if(header::AUTHORIZATION, |value: &[u8]| {
            after_scheme(value, b"bearer").is_some_and(looks_like_token)
        });
    }
    if all_schemes && carried.token {
        // Possibly no source reads this field.
        head.fields.remove(header::AUTHORIZATION);
    }
    for source in sources {
        match source {
            CredentialSource::Header { name, prefixes } => {
                let goes = |value: &[u8]| all || prefixes.own(value) || blank::is_blank(value);
                head.fields.remove_if(name, goes);
            }
            CredentialSource::Pair { id, secret } => {
                head.fields.remove(id);
                head.fields.remove(secret);
            }
            CredentialSource::Basic { .. } | CredentialSource::Bearer { .. } => {
                if all_schemes || carried.in_authorization {
                    head.fields.remove(header::AUTHORIZATION);
                } else if carried.blank {
                    let goes = |value: &[u8]| blank::is_blank_authorization(value, sources);
                    head.fields.remove_if(header::AUTHORIZATION, goes);
                }
            }
            CredentialSource::Query { name, prefixes } => {
                let drop = |value: &[u8]| all || prefixes.own(value);
                if all || carried.in_query || carried.blank {
                    query::strip(head, name, |value| drop(value) || blank::is_blank(value));
                }
                strays::strip_referer(&mut head.fields, name, drop);
            }
            CredentialSource::Cookie { name, prefixes } => {
                if all || carried.in_cookie || carried.blank {
                    cookie::strip(&mut head.fields, name, |value| {
                        all || prefixes.own(value) || blank::is_blank(value)
                    });
                }
            }
            CredentialSource::Subprotocol { .. } => {}
        }
    }
    if carried.in_subprotocol {
        // If the upgrade is passed on, the remainder replaces it. Without an upgrade it has no
        // meaning.
        head.fields.remove(header::SEC_WEBSOCKET_PROTOCOL);
    }
}

/// Where credentials for keygate were found. Outlives the borrow of the head.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Carried {
    blank: bool,
    in_authorization: bool,
    in_cookie: bool,
    pub(crate) in_query: bool,
    pub(crate) in_subprotocol: bool,
    /// `Authorization` holds a value in the form of a user token.
    token: bool,
}

// === impl Carriers ===

impl<'r> Carriers<'r> {
    /// For a request whose credential could not be read: any carrier may hold one.
    pub(crate) fn unread() -> Self {
        Self {
            found: FoundCredential::Nothing,
            foreign: false,
            blank: true,
            in_query: true,
            in_cookie: true,
            in_subprotocol: true,
            in_authorization: true,
            token: None,
        }
    }

    pub(crate) fn presented(&self) -> Presented<'_> {
        match &self.found {
            FoundCredential::Pair { id, secret } => {
                Presented::Pair { id: &id.0, secret: &secret.0 }
            }
            FoundCredential::HalfPair(missing) => Presented::HalfPair(*missing),
            FoundCredential::Single(secret) => Presented::Single(&secret.0),
            FoundCredential::Nothing if self.foreign => Presented::Foreign,
            FoundCredential::Nothing => Presented::Nothing,
        }
    }

    pub(crate) fn carried(&self) -> Carried {
        Carried {
            blank: self.blank,
            in_authorization: self.in_authorization,
            in_cookie: self.in_cookie,
            in_query: self.in_query,
            in_subprotocol: self.in_subprotocol,
            token: self.token.is_some(),
        }
    }

    /// The value of a field that may carry only once. Empty ones do not count.
    fn only(
        &mut self,
        fields: &'r Fields,
        name: &HeaderName,
    ) -> Result<Option<&'r [u8]>, Rejection> {
        self.only_filled(fields, name, blank::is_blank)
    }

    /// The value of `Authorization`, unless it is empty or names one of our schemes with nothing
    /// after it.
    fn authorization(
        &mut self,
        fields: &'r Fields,
        sources: &[CredentialSource],
    ) -> Result<Option<&'r [u8]>, Rejection> {
        let is_blank = |value: &[u8]| blank::is_blank_authorization(value, sources);
        self.only_filled(fields, &header::AUTHORIZATION, is_blank)
    }

    fn only_filled(
        &mut self,
        fields: &'r Fields,
        name: &HeaderName,
        is_blank: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<&'r [u8]>, Rejection> {
        let mut found = None;
        for value in fields.all(name) {
            if is_blank(value) {
                self.blank = true;
                continue;
            }
            match found.replace(value) {
                Some(other) if other == value => return Err(repeated()),
                Some(_) => return Err(duplicate()),
                None => {}
            }
        }
        Ok(found)
    }

    fn read_subprotocols(&mut self, head: &'r RequestHead, marker: &str) -> Result<(), Rejection> {
        let mut others = false;
        let mut keys = 0;
        for entry in subprotocols(&head.fields).filter(|entry| !entry.is_empty()) {
            let Some(key) = entry.strip_prefix(marker.as_bytes()) else {
                if strays::in_subprotocol(entry, marker) {
                    return Err(strays::refused());
                }
                others = true;
                continue;
            };
            // Our entry is never forwarded, whatever follows its marker.
            self.in_subprotocol = true;
            if !blank::is_blank(key) {
                keys += 1;
                self.offer(Some(key.into()))?;
            }
        }
        // A browser closes the connection (1006) if it offered something and nothing was selected.
        // The key is never selected, because the answer would carry it.
        if keys > 0 && !others && asks_for_upgrade(head) {
            let beside = marker.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            return Err(Rejection::told(
                Reason::Malformed,
                "the key is alone in Sec-WebSocket-Protocol, where no server can select it".into(),
                format!("offer the subprotocol {beside} beside it, or one of the service's"),
            ));
        }
        Ok(())
    }

    /// `None`: there is a credential, and it is not for keygate.
    fn offer(&mut self, ours: Option<Bytes<'r>>) -> Result<(), Rejection> {
        let Some(value) = ours else {
            self.foreign = true;
            return Ok(());
        };
        self.take(FoundCredential::Single(value.checked()?))
    }

    fn offer_pair(&mut self, id: Bytes<'r>, secret: Bytes<'r>) -> Result<(), Rejection> {
        self.take(FoundCredential::Pair { id: id.checked()?, secret: secret.checked()? })
    }

    /// Half a pair is a failed attempt to use a pair, and never valid.
    fn offer_half(&mut self, half: Bytes<'r>, missing: MissingHalf<'r>) -> Result<(), Rejection> {
        half.checked()?;
        self.take(FoundCredential::HalfPair(missing))
    }

    fn take(&mut self, found: FoundCredential<'r>) -> Result<(), Rejection> {
        let again = match (&self.found, &found) {
            (FoundCredential::Nothing, _) => {
                self.found = found;
                return Ok(());
            }
            (FoundCredential::Single(one), FoundCredential::Single(other)) => one == other,
            (
                FoundCredential::Pair { id: one_id, secret: one },
                FoundCredential::Pair { id: other_id, secret: other },
            ) => one_id == other_id && one == other,
            _ => false,
        };
        Err(if again { repeated() } else { duplicate() })
    }

    fn offer_basic(
        &mut self,
        token: &[u8],
        form: BasicForm,
        own: impl Fn(&[u8]) -> bool,
    ) -> Result<(), Rejection> {
        const WHY: &str = "the Basic credential cannot be read";
        let Ok(mut decoded) = LENIENT.decode(token) else {
            return Err(Rejection::why(Reason::Malformed, WHY));
        };
        // Whether it is for keygate does not depend on its form: keygate must not forward a
        // malformed key as somebody else's credential.
        let Some(colon) = decoded.iter().position(|b| *b == b':') else {
            let ours = own(&decoded);
            decoded.zeroize();
            self.foreign |= !ours;
            return if ours { Err(Rejection::why(Reason::Malformed, WHY)) } else { Ok(()) };
        };
        let (user, password) = decoded.split_at(colon);
        let password = password.get(1..).unwrap_or_default();
        if blank::is_blank_basic(user, password, form, &own) {
            decoded.zeroize();
            self.blank = true;
            return Ok(());
        }
        let (ours, key) = match form {
            // With a password it was never issued as a key: it is unknown, like any wrong key.
            BasicForm::KeyAsUser if password.is_empty() => (own(user), user.to_vec()),
            BasicForm::KeyAsUser => (own(user), decoded.clone()),
            BasicForm::KeyAsPassword => (own(password), password.to_vec()),
            BasicForm::Pair => {
                let (ours, pair) = (own(user), (user.to_vec(), password.to_vec()));
                decoded.zeroize();
                self.in_authorization |= ours;
                self.foreign |= !ours;
                let (id, secret) = (Bytes::from(pair.0), Bytes::from(pair.1));
                return match (ours, id.0.is_empty(), secret.0.is_empty()) {
                    (false, ..) => Ok(()),
                    (true, true, _) => self.offer_half(secret, MissingHalf::BasicUser),
                    (true, _, true) => self.offer_half(id, MissingHalf::BasicPassword),
                    (true, false, false) => self.offer_pair(id, secret),
                };
            }
        };
        decoded.zeroize();
        self.in_authorization |= ours;
        self.offer(ours.then_some(key.into()))
    }
}

/// Accepts Basic with and without padding. Some servers do, so keygate must judge both.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

impl Bytes<'_> {
    /// Refuses bytes that never occur in an issued credential, instead of looking them up: HAProxy
    /// 2.6 took `key\0anything` for `key`.
    fn checked(self) -> Result<Self, Rejection> {
        if self.0.iter().all(u8::is_ascii_graphic) {
            Ok(self)
        } else {
            Err(Rejection::why(Reason::Malformed, "the credential has a byte that none can have"))
        }
    }
}

impl<'r> From<&'r [u8]> for Bytes<'r> {
    fn from(bytes: &'r [u8]) -> Self {
        Self(Cow::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for Bytes<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Cow::Owned(bytes))
    }
}

impl Drop for Bytes<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(bytes) = &mut self.0 {
            bytes.zeroize();
        }
    }
}

impl std::fmt::Debug for Carriers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Carriers").field("presented", &self.presented()).finish_non_exhaustive()
    }
}

fn duplicate() -> Rejection {
    Rejection::why(Reason::Duplicate, "they differ, and none of them was tried")
}

fn repeated() -> Rejection {
    Rejection::why(Reason::Duplicate, "the same credential is there more than once")
}

/// The text after the scheme in `Authorization`, if the scheme is this one.
fn after_scheme<'r>(value: &'r [u8], scheme: &[u8]) -> Option<&'r [u8]> {
    let (word, rest) = value.split_at_checked(scheme.len())?;
    // RFC 9110 §11.4: one or more spaces.
    let token = rest.trim_ascii_start();
    let fits = word.eq_ignore_ascii_case(scheme) && (rest.is_empty() || token.len() < rest.len());
    fits.then(|| token.trim_ascii_end())
}

/// RFC 8959: `secret-token:` may precede a key.
fn unwrap_secret_token(token: &[u8]) -> &[u8] {
    token.strip_prefix(b"secret-token:").unwrap_or(token)
}

fn subprotocols(fields: &Fields) -> impl Iterator<Item = &[u8]> {
    fields
        .all(&header::SEC_WEBSOCKET_PROTOCOL)
        .flat_map(|line| line.split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
}
