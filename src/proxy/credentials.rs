//! Finds the one credential of ours in a request, and takes credentials out of what is sent on.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;
use zeroize::Zeroize;

use super::head::{Fields, Head};
use crate::core::{BasicForm, CredentialSource, Presented, Reason, Rejection};

mod strays;

/// What the carriers of one request hold.
#[derive(Default)]
pub(crate) struct Carriers<'r> {
    found: Found<'r>,
    /// Some carrier holds a credential that is not ours.
    foreign: bool,
    /// The query has a parameter of ours.
    pub(crate) in_query: bool,
    pub(crate) in_cookie: bool,
    pub(crate) in_subprotocol: bool,
    /// `Authorization` holds a credential of ours.
    pub(crate) in_authorization: bool,
}

#[derive(Default)]
enum Found<'r> {
    #[default]
    Nothing,
    Pair {
        id: Bytes<'r>,
        secret: Bytes<'r>,
    },
    Single(Bytes<'r>),
}

/// Credential bytes; those that had to be decoded are wiped afterwards.
struct Bytes<'r>(Cow<'r, [u8]>);

/// Looks at every carrier. Two that hold a credential of ours are refused, equal or not: never
/// "the first wins" (Envoy CVE-2026-26308 and its kind).
pub(crate) fn read<'r>(
    head: &'r Head,
    sources: &[CredentialSource],
) -> Result<Carriers<'r>, Rejection> {
    let mut carriers = Carriers::default();
    for source in sources {
        match source {
            CredentialSource::Header { name, prefixes } => {
                if let Some(value) = only(&head.fields, name)? {
                    carriers.offer(value.into(), strays::judge(prefixes, value)?)?;
                }
            }
            CredentialSource::Pair { id, secret } => {
                match (only(&head.fields, id)?, only(&head.fields, secret)?) {
                    (None, None) => {}
                    // Half a pair is an attempt with a pair, and never right.
                    (id, secret) => carriers.offer_pair(
                        id.unwrap_or_default().into(),
                        secret.unwrap_or_default().into(),
                    )?,
                }
            }
            CredentialSource::Bearer { prefixes } => {
                if let Some(token) = authorization(&head.fields, b"bearer")? {
                    let token = unwrap_secret_token(token);
                    let ours = prefixes.own(token);
                    carriers.in_authorization |= ours;
                    carriers.offer(token.into(), ours)?;
                }
            }
            CredentialSource::Basic { form, prefixes } => {
                if let Some(token) = authorization(&head.fields, b"basic")? {
                    carriers.offer_basic(token, *form, |user| prefixes.own(user))?;
                }
            }
            CredentialSource::Query { name, prefixes } => {
                let query = head.uri.query().unwrap_or_default();
                if hides_in_query(query, name, |value| prefixes.own(value)) {
                    return Err(Rejection::why(Reason::Malformed, "the key stands behind a `;`"));
                }
                if strays::in_query(query, name, prefixes) {
                    return Err(strays::refused());
                }
                for value in values_in_query(query, name) {
                    let ours = strays::judge(prefixes, &value.0)?;
                    carriers.in_query |= ours;
                    carriers.offer(value, ours)?;
                }
            }
            CredentialSource::Cookie { name, prefixes } => {
                if hides_in_cookies(&head.fields, name, |value| prefixes.own(value)) {
                    return Err(Rejection::why(Reason::Malformed, "the key stands behind a `,`"));
                }
                for value in values_in_cookies(&head.fields, name) {
                    let ours = strays::judge(prefixes, value)?;
                    carriers.in_cookie |= ours;
                    carriers.offer(value.into(), ours)?;
                }
            }
            CredentialSource::Subprotocol { marker } => {
                for entry in subprotocols(&head.fields) {
                    if let Some(key) = entry.strip_prefix(marker.as_bytes()) {
                        carriers.in_subprotocol = true;
                        carriers.offer(key.into(), true)?;
                    } else if strays::in_subprotocol(entry, marker) {
                        return Err(strays::refused());
                    }
                }
            }
        }
    }
    if let Some(value) = only(&head.fields, &header::AUTHORIZATION)?
        && !carriers.in_authorization
        && sources.iter().any(|s| strays::in_authorization(s, value))
    {
        return Err(strays::refused());
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

/// Takes the credentials out of the head. `all`: every configured carrier (the request was
/// admitted); else only what is ours (DESIGN invariant 5).
pub(crate) fn strip(head: &mut Head, sources: &[CredentialSource], carried: &Carried, all: bool) {
    for source in sources {
        match source {
            CredentialSource::Header { name, prefixes } => {
                let ours = |value: &[u8]| prefixes.own(value);
                if all || head.fields.get(name).is_some_and(ours) {
                    head.fields.remove(name);
                }
            }
            CredentialSource::Pair { id, secret } => {
                head.fields.remove(id);
                head.fields.remove(secret);
            }
            CredentialSource::Basic { .. } | CredentialSource::Bearer { .. } => {
                if all || carried.in_authorization {
                    head.fields.remove(header::AUTHORIZATION);
                }
            }
            CredentialSource::Query { name, prefixes } => {
                let drop = |value: &[u8]| all || prefixes.own(value);
                if all || carried.in_query {
                    strip_query(head, name, drop);
                }
                strays::strip_referer(&mut head.fields, name, drop);
            }
            CredentialSource::Cookie { name, prefixes } => {
                if all || carried.in_cookie {
                    strip_cookies(&mut head.fields, name, |value| all || prefixes.own(value));
                }
            }
            CredentialSource::Subprotocol { .. } => {}
        }
    }
    if carried.in_subprotocol {
        // Replaced by what stays of it if the upgrade is passed on; without one it has no meaning.
        head.fields.remove(header::SEC_WEBSOCKET_PROTOCOL);
    }
}

/// Where credentials of ours were found; outlives the borrow of the head.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Carried {
    in_authorization: bool,
    in_cookie: bool,
    pub(crate) in_query: bool,
    pub(crate) in_subprotocol: bool,
}

// === impl Carriers ===

impl<'r> Carriers<'r> {
    pub(crate) fn presented(&self) -> Presented<'_> {
        match &self.found {
            Found::Pair { id, secret } => Presented::Pair { id: &id.0, secret: &secret.0 },
            Found::Single(secret) => Presented::Single(&secret.0),
            Found::Nothing if self.foreign => Presented::Foreign,
            Found::Nothing => Presented::Nothing,
        }
    }

    pub(crate) fn carried(&self) -> Carried {
        Carried {
            in_authorization: self.in_authorization,
            in_cookie: self.in_cookie,
            in_query: self.in_query,
            in_subprotocol: self.in_subprotocol,
        }
    }

    fn offer(&mut self, value: Bytes<'r>, ours: bool) -> Result<(), Rejection> {
        if !ours {
            self.foreign = true;
            return Ok(());
        }
        self.take(Found::Single(value.checked()?))
    }

    fn offer_pair(&mut self, id: Bytes<'r>, secret: Bytes<'r>) -> Result<(), Rejection> {
        self.take(Found::Pair { id: id.checked()?, secret: secret.checked()? })
    }

    fn take(&mut self, found: Found<'r>) -> Result<(), Rejection> {
        if !matches!(self.found, Found::Nothing) {
            return Err(duplicate());
        }
        self.found = found;
        Ok(())
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
        // Whose it is does not depend on whether it is right: one of ours that is written wrongly
        // must not travel on as a stranger's.
        let Some(colon) = decoded.iter().position(|b| *b == b':') else {
            let ours = own(&decoded);
            decoded.zeroize();
            self.foreign |= !ours;
            return if ours { Err(Rejection::why(Reason::Malformed, WHY)) } else { Ok(()) };
        };
        let (user, password) = decoded.split_at(colon);
        let password = password.get(1..).unwrap_or_default();
        let (ours, key) = match form {
            // With a password it is no key that was ever issued: unknown, as any wrong one.
            BasicForm::KeyAsUser if password.is_empty() => (own(user), user.to_vec()),
            BasicForm::KeyAsUser => (own(user), decoded.clone()),
            BasicForm::KeyAsPassword => (own(password), password.to_vec()),
            BasicForm::Pair => {
                let (ours, pair) = (own(user), (user.to_vec(), password.to_vec()));
                decoded.zeroize();
                self.in_authorization |= ours;
                self.foreign |= !ours;
                return if ours { self.offer_pair(pair.0.into(), pair.1.into()) } else { Ok(()) };
            }
        };
        decoded.zeroize();
        self.in_authorization |= ours;
        self.offer(key.into(), ours)
    }
}

/// Takes Basic with and without padding: some servers do, so both are ours to judge.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

impl Bytes<'_> {
    /// Bytes that no issued credential has are refused, not looked up: HAProxy 2.6 took
    /// `key\0anything` for `key`.
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
    Rejection::why(Reason::Duplicate, "more than one credential in one request")
}

/// The value of a field that may stand only once.
fn only<'r>(fields: &'r Fields, name: &HeaderName) -> Result<Option<&'r [u8]>, Rejection> {
    let mut values = fields.all(name);
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(duplicate()),
        (value, None) => Ok(value),
    }
}

/// What follows the scheme in `Authorization`, when it is this scheme.
fn authorization<'r>(fields: &'r Fields, scheme: &[u8]) -> Result<Option<&'r [u8]>, Rejection> {
    let Some(value) = only(fields, &header::AUTHORIZATION)? else { return Ok(None) };
    let Some((word, rest)) = value.split_at_checked(scheme.len()) else { return Ok(None) };
    // RFC 9110 §11.4: one or more spaces.
    let token = rest.trim_ascii_start();
    let fits = word.eq_ignore_ascii_case(scheme) && (rest.is_empty() || token.len() < rest.len());
    Ok(fits.then(|| token.trim_ascii_end()))
}

/// RFC 8959: `secret-token:` may stand before a key.
fn unwrap_secret_token(token: &[u8]) -> &[u8] {
    token.strip_prefix(b"secret-token:").unwrap_or(token)
}

fn values_in_query<'r>(query: &'r str, name: &str) -> impl Iterator<Item = Bytes<'r>> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        is_named(key, name).then(|| Bytes(percent_decode_str(value).into()))
    })
}

/// A parameter of ours behind a `;`: some servers part a query there as well.
fn hides_in_query(query: &str, name: &str, own: impl Fn(&[u8]) -> bool) -> bool {
    query.contains(';')
        && query.split('&').flat_map(|part| part.split(';').skip(1)).any(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            is_named(key, name) && own(&Cow::from(percent_decode_str(value)))
        })
}

fn is_named(raw: &str, name: &str) -> bool {
    percent_decode_str(raw).eq(name.bytes())
}

fn strip_query(head: &mut Head, name: &str, drop: impl Fn(&[u8]) -> bool) {
    let Some(kept) = head.uri.query().and_then(|q| without(q, name, drop)) else { return };
    let path = head.uri.path().to_owned();
    let target = if kept.is_empty() { path.clone() } else { format!("{path}?{kept}") };
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    // A part of a valid target is valid; were it not, the path alone is what was judged.
    uri.path_and_query =
        PathAndQuery::try_from(target).or_else(|_| PathAndQuery::try_from(path)).ok();
    if let Ok(uri) = http::Uri::from_parts(uri) {
        head.uri = uri;
    }
}

/// The query without the parameters `name` of which the value is to go; `None`: there are none.
fn without(query: &str, name: &str, drop: impl Fn(&[u8]) -> bool) -> Option<String> {
    let keep = |pair: &&str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        !is_named(key, name) || !drop(&Cow::from(percent_decode_str(value)))
    };
    if query.split('&').all(|pair| keep(&pair)) {
        return None;
    }
    Some(query.split('&').filter(keep).collect::<Vec<_>>().join("&"))
}

fn values_in_cookies<'r>(fields: &'r Fields, name: &str) -> impl Iterator<Item = &'r [u8]> {
    fields
        .all(&header::COOKIE)
        .flat_map(|line| line.split(|b| *b == b';'))
        .filter_map(move |cookie| value_of_cookie(cookie, name))
}

/// A cookie of ours behind a `,`: RFC 2109 parted cookies there, and some servers still do.
fn hides_in_cookies(fields: &Fields, name: &str, own: impl Fn(&[u8]) -> bool) -> bool {
    fields
        .all(&header::COOKIE)
        .flat_map(|line| line.split(|b| *b == b';'))
        .flat_map(|cookie| cookie.split(|b| *b == b',').skip(1))
        .filter_map(|cookie| value_of_cookie(cookie, name))
        .any(own)
}

fn value_of_cookie<'r>(cookie: &'r [u8], name: &str) -> Option<&'r [u8]> {
    let value = cookie.trim_ascii().strip_prefix(name.as_bytes())?.trim_ascii_start();
    let value = value.strip_prefix(b"=")?.trim_ascii();
    // RFC 6265 §4.1.1: a value may stand in double quotes.
    Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
}

fn strip_cookies(fields: &mut Fields, name: &str, drop: impl Fn(&[u8]) -> bool) {
    let ours = |cookie: &&[u8]| value_of_cookie(cookie, name).is_some_and(&drop);
    let cookies = || fields.all(&header::COOKIE).flat_map(|line| line.split(|b| *b == b';'));
    if !cookies().any(|c| ours(&c)) {
        return;
    }
    let kept: Vec<&[u8]> =
        cookies().filter(|c| !ours(c)).map(<[u8]>::trim_ascii).filter(|c| !c.is_empty()).collect();
    match HeaderValue::from_bytes(&kept.join(&b"; "[..])) {
        Ok(value) if !value.is_empty() => {
            fields.set(&header::COOKIE, &value);
        }
        _ => {
            fields.remove(header::COOKIE);
        }
    }
}

fn subprotocols(fields: &Fields) -> impl Iterator<Item = &[u8]> {
    fields
        .all(&header::SEC_WEBSOCKET_PROTOCOL)
        .flat_map(|line| line.split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
}
