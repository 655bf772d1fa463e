//! Who asks: people with a session here or at a product, machines with a key. One function,
//! [`Authenticator::caller`], turns a request into a [`Caller`], or says why it cannot. The rules
//! of `manage` settle what a caller may do, inside the store's transaction.
//!
//! A request has one credential. A key or a token takes precedence over cookies, which browsers
//! send unasked. With a key or a token, cookies are not read, and the request needs no protection
//! from forgery.

mod ask;
mod bootstrap;
mod confined;
mod csrf;
mod embed;
mod error;
mod key;
mod key_sets;
mod members;
mod oidc;
mod product;
mod product_session;
mod product_token;
mod routes;
mod session;
mod sidecar;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

pub use self::bootstrap::{BootstrapFor, SIGN_IN, bootstrap_link};
pub use self::csrf::FormToken;
use self::embed::looks_like_embed_token;
pub use self::embed::{EmbedToken, EmbedWish};
pub use self::error::AuthError;
use self::key_sets::KeySets;
pub use self::members::{KeysLeft, RoleChange, change_member, keep_finishing};
use self::oidc::OidcProviders;
pub use self::oidc::{OIDC_SIGN_IN, OidcError, OidcSignOut, WantedSignIn, clear_oidc_cookie};
use self::product::SeenPeople;
use self::product_session::{KeptSessions, ShownCookie};
pub use self::routes::routes;
use self::session::SessionDetail;
pub use self::session::{NewSession, clear_cookie};
use super::config::AdminToml;
use super::metrics::ServiceMetrics;
use super::request::{AskedBy, Peer, bearer, channel_of, client_of};
use super::store::{
    AudienceName, Channel, Member, Person, PersonId, SessionRow, Store, StoreActor, owner_subject,
};
use crate::clock::Clock;
use crate::core::{Limit, OrgId, Owner};
use crate::manage::operation::may::{HeldRights, PersonRole};
use crate::manage::registry::entry::RegistryEntry;
use crate::manage::service::PUBLIC_ID_FIELD;
use crate::token::{BoundedBuckets, looks_like_token, network_of};

/// How many times one address (in IPv6: one /64) may fail before it has to wait.
const FAILURES: (u32, std::time::Duration) = (30, std::time::Duration::from_secs(60));

/// How many sign-ins at a provider one address may begin: each is a row until it is finished.
const BEGINS: (u32, std::time::Duration) = (60, std::time::Duration::from_secs(60));

/// The header field that names an audience, where there are several. The query's `audience` can
/// name it as well.
const AUDIENCE: HeaderName = HeaderName::from_static("keygate-audience");

/// The header field with the public id of a pair, beside the configured one: programs that do not
/// know the product's name for it use this one.
static PUBLIC_ID: HeaderName = PUBLIC_ID_FIELD;

/// Who asks, in which org and audience.
#[derive(Clone, Debug)]
pub struct Caller {
    /// For the store's change requests.
    pub actor: StoreActor,
    /// The org that the caller is in. `None`: an operator, who is in none, or a person in several
    /// orgs who has not chosen one yet (see `orgs`). Code that reads or changes keys asks
    /// [`Caller::scope`].
    org: Option<OrgId>,
    /// The audience whose keys the caller asks about. Only [`Caller::in_audience`] switches to
    /// another.
    audience: AudienceName,
    /// The key that asks, as looked up with its secret. `None`: the caller is not a key, or code
    /// that needs its rights has to look it up.
    pub asking: Option<Box<RegistryEntry>>,
    /// `None`: a machine.
    pub person: Option<Person>,
    /// The person's role in `org`; for an operator [`PersonRole::Operator`].
    pub role: Option<PersonRole>,
    /// For audit lines.
    pub channel: Channel,
    pub by: CallerBy,
    /// The orgs that the person can choose from, by id. Empty unless the caller has a session.
    pub orgs: Vec<Member>,
    /// Belongs to `audience` alone: a key, a product's people, and people whose provider is for one
    /// audience.
    confined: bool,
    /// When the person proved who they are, in milliseconds since 1970-01-01T00:00:00Z; `None`:
    /// they did not do so here.
    pub signed_in_ms: Option<u64>,
    /// The session's public id.
    pub session: Option<Box<str>>,
    /// The token that forms of the page carry, where a cookie identifies the caller.
    pub form: Option<FormToken>,
}

/// How callers have shown who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerBy {
    /// A token for a web component.
    Embed,
    /// A sidecar's statement.
    Identity,
    Key,
    ProductSession,
    ProductToken,
    /// This service's own cookie.
    Session,
}

/// Finds out who asks. Clones share everything.
#[derive(Clone)]
pub struct Authenticator {
    store: Arc<dyn Store>,
    settings: Arc<AdminToml>,
    clock: Clock,
    metrics: Arc<ServiceMetrics>,
    failures: Arc<BoundedBuckets>,
    limit: Option<Limit>,
    begun: Arc<BoundedBuckets>,
    begin_limit: Option<Limit>,
    providers: Arc<OidcProviders>,
    key_sets: Arc<KeySets>,
    kept: Arc<KeptSessions>,
    seen: Arc<SeenPeople>,
}

/// A credential in a request that no browser adds unasked.
enum ShownCredential<'r> {
    /// A token of the component in somebody's page, or a key that looks like one.
    Embed(&'r str, ShownKey<'r>),
    Key(ShownKey<'r>),
    ProductToken(&'r str),
}

/// A key as a request shows it.
struct ShownKey<'r> {
    secret: &'r [u8],
    /// For a pair.
    public_id: Option<&'r [u8]>,
}

// === impl CallerBy ===

impl CallerBy {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Identity => "identity",
            Self::Key => "key",
            Self::ProductSession => "product-session",
            Self::ProductToken => "product-token",
            Self::Session => "session",
        }
    }

    /// Whether a browser adds it to requests that the person did not intend.
    pub const fn is_cookie(self) -> bool {
        matches!(self, Self::ProductSession | Self::Session)
    }
}

// === impl Caller ===

impl Caller {
    /// The same caller in `org`, for paths that name one. An org that the caller is not in looks
    /// like an org that does not exist.
    ///
    /// # Errors
    /// [`AuthError::NotFound`].
    pub fn in_org(mut self, org: &OrgId) -> Result<Self, AuthError> {
        if self.org.as_ref() == Some(org) {
            return Ok(self);
        }
        let StoreActor::Person { role, owner, .. } = &mut self.actor else {
            return Err(AuthError::NotFound);
        };
        let member = self.orgs.iter().find(|member| member.org == *org);
        let is_operator = self.person.as_ref().is_some_and(|person| person.operator);
        *role = match member {
            Some(member) => member.role,
            None if is_operator => PersonRole::Operator,
            None => return Err(AuthError::NotFound),
        };
        // Their keys state the role that they have in this org, not their role elsewhere.
        let said = owner.view();
        *owner =
            Owner::new(said.subject, said.email, role.as_str()).map_err(|_| AuthError::NotFound)?;
        self.role = Some(*role);
        self.org = Some(org.clone());
        Ok(self)
    }

    /// The same caller with the keys of `audience`, for paths that name one.
    ///
    /// # Errors
    /// [`AuthError::Unknown`]: the caller belongs to another audience alone, and opens nothing
    /// there.
    pub fn in_audience(mut self, audience: &AudienceName) -> Result<Self, AuthError> {
        match self.bound_to() {
            Some(own) if own != audience => Err(AuthError::Unknown),
            Some(_) => Ok(self),
            None => {
                self.audience = audience.clone();
                Ok(self)
            }
        }
    }

    pub const fn audience(&self) -> &AudienceName {
        &self.audience
    }

    /// For display only; see [`Caller::scope`].
    pub fn org(&self) -> Option<&OrgId> {
        self.org.as_ref()
    }

    /// Fits [`ChangeRequest::org`](super::store::ChangeRequest): `None` for an operator, who sees
    /// every org's keys.
    ///
    /// # Errors
    /// [`AuthError::ChooseOrg`]: the caller is in orgs, but has not said in which one to act.
    pub fn scope(&self) -> Result<Option<&OrgId>, AuthError> {
        match (&self.org, self.role) {
            (Some(org), _) => Ok(Some(org)),
            (None, Some(PersonRole::Operator)) => Ok(None),
            (None, _) => Err(AuthError::ChooseOrg),
        }
    }

    /// The audience whose people and audit lines the caller sees, in addition to those without an
    /// audience. A key, a product's people and people whose provider is for one audience belong to
    /// one audience; another product may have an org of the same name. `None`: anybody else, who is
    /// signed in to the service itself and has their role in all audiences.
    pub fn bound_to(&self) -> Option<&AudienceName> {
        self.confined.then_some(&self.audience)
    }

    /// For changes of members and for recovery.
    ///
    /// # Errors
    /// [`AuthError::SignInAgain`]: the sign-in is older than `people.recent_sign_in`.
    pub fn recently_signed_in(&self, people: &Authenticator) -> Result<(), AuthError> {
        let longest = people.settings.people.recent_sign_in.as_millis() as u64;
        let now = people.clock.now().unix_ms;
        match self.signed_in_ms {
            Some(at) if now.saturating_sub(at) <= longest => Ok(()),
            _ => Err(AuthError::SignInAgain),
        }
    }

    /// For a form of the page: checks the token that it carries, in addition to the fields that
    /// browsers set.
    ///
    /// # Errors
    /// [`AuthError::CrossSite`].
    pub fn check_form(&self, token: &str) -> Result<(), AuthError> {
        match &self.form {
            Some(form) if form.matches(token) => Ok(()),
            Some(_) => Err(AuthError::CrossSite),
            None => Ok(()),
        }
    }
}

impl<S> FromRequestParts<S> for Caller
where
    Authenticator: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = AuthError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AuthError> {
        let people = Authenticator::from_ref(state);
        let peer = parts.extensions.get::<Peer>().cloned().unwrap_or_default();
        let found = people.caller(parts, &peer).await;
        if let Err(error) = &found {
            people.metrics.refused(error.code());
        }
        found
    }
}

// === impl Authenticator ===

impl Authenticator {
    pub fn new(
        store: Arc<dyn Store>,
        settings: Arc<AdminToml>,
        clock: Clock,
        metrics: Arc<ServiceMetrics>,
    ) -> Self {
        let seed = session::random::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (count, window) = FAILURES;
        let limit = Limit::new(count, window, count).ok();
        let failures = Arc::new(BoundedBuckets::new(seed));
        let (count, window) = BEGINS;
        let begin_limit = Limit::new(count, window, count).ok();
        let begun = Arc::new(BoundedBuckets::new(seed));
        let (providers, key_sets, kept, seen) = Default::default();
        Self {
            store,
            settings,
            clock,
            metrics,
            failures,
            limit,
            begun,
            begin_limit,
            providers,
            key_sets,
            kept,
            seen,
        }
    }

    /// Whether the peer is one of our sidecars. If it is, its identity fields, its request ids and
    /// the addresses that it has seen count.
    pub fn believes(&self, peer: &Peer) -> bool {
        self.settings.people.sidecars.iter().any(|config| sidecar::is_it(config, peer))
    }

    /// Finds out who asks. Also checks a request that changes something for forgery.
    ///
    /// # Errors
    /// No credential, a credential that opens nothing, two credentials, or a request that another
    /// site made a browser send.
    pub async fn caller(&self, parts: &Parts, peer: &Peer) -> Result<Caller, AuthError> {
        let found = self.identify(parts, peer).await;
        if let Err(error) = &found
            && error.is_failure()
        {
            self.failed(client_of(parts))?;
        }
        let caller = found?;
        AskedBy::note(parts, caller.by.as_str());
        csrf::check(parts, &caller, &self.settings)?;
        Ok(caller)
    }

    async fn identify(&self, parts: &Parts, peer: &Peer) -> Result<Caller, AuthError> {
        let said = self.said_by_sidecar(parts, peer).await?;
        match (said, self.shown(&parts.headers)?) {
            (Some(_), Some(_)) => return Err(AuthError::TwoCredentials),
            (Some(said), None) => return self.by_sidecar(parts, said).await,
            (None, Some(ShownCredential::Key(key))) => return self.by_key(parts, &key).await,
            (None, Some(ShownCredential::Embed(token, key))) => {
                return match self.by_embed_token(parts, token).await? {
                    Some(caller) => Ok(caller),
                    // A product may have keys that look like that.
                    None => self.by_key(parts, &key).await,
                };
            }
            (None, Some(ShownCredential::ProductToken(token))) => {
                return self.by_product_token(parts, token).await;
            }
            (None, None) => {}
        }
        // Our own cookie goes first: a browser may add the cookie of a product on a sibling host
        // unasked.
        if let Some(token) = session::token_of(&parts.headers)? {
            return self.by_session(parts, token).await;
        }
        let mut shown = None;
        for config in &self.settings.people.sessions {
            if let Some(value) = session::cookie(&parts.headers, &config.cookie)?
                && shown.replace(ShownCookie { config, value }).is_some()
            {
                return Err(AuthError::TwoCredentials);
            }
        }
        match shown {
            Some(shown) => self.by_product_session(parts, shown).await,
            None => Err(AuthError::NoCredential),
        }
    }

    /// The key or token, which may be in one place only.
    fn shown<'r>(&self, fields: &'r HeaderMap) -> Result<Option<ShownCredential<'r>>, AuthError> {
        let Some(key) = self.shown_key(fields)? else { return Ok(None) };
        let is_bearer = bearer(fields).is_some();
        if let Ok(token) = std::str::from_utf8(key.secret)
            && is_bearer
            && key.public_id.is_none()
            && looks_like_embed_token(token)
        {
            return Ok(Some(ShownCredential::Embed(token, key)));
        }
        let is_token = is_bearer
            && key.public_id.is_none()
            && !self.settings.people.tokens.is_empty()
            && looks_like_token(key.secret);
        match std::str::from_utf8(key.secret) {
            Ok(token) if is_token => Ok(Some(ShownCredential::ProductToken(token))),
            _ => Ok(Some(ShownCredential::Key(key))),
        }
    }

    /// The key, which may be in one place only.
    fn shown_key<'r>(&self, fields: &'r HeaderMap) -> Result<Option<ShownKey<'r>>, AuthError> {
        let mut found: Option<&[u8]> = None;
        let mut take = |secret: &'r [u8]| match found.replace(secret) {
            None => Ok(()),
            Some(_) => Err(AuthError::TwoCredentials),
        };
        for value in fields.get_all(AUTHORIZATION) {
            let value = value.as_bytes();
            match value.split_first_chunk::<7>() {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => {
                    take(token.trim_ascii())?;
                }
                _ => return Err(AuthError::Unknown),
            }
        }
        let people = &self.settings.people;
        for value in people.key_fields.iter().flat_map(|name| fields.get_all(name)) {
            take(value.as_bytes().trim_ascii())?;
        }
        let own = people.public_id_field.iter().filter(|name| **name != PUBLIC_ID);
        let mut ids = own.chain([&PUBLIC_ID]).flat_map(|name| fields.get_all(name));
        let public_id = ids.next().map(|value| value.as_bytes().trim_ascii());
        match (found, public_id, ids.next()) {
            (_, _, Some(_)) => Err(AuthError::TwoCredentials),
            (None, Some(_), None) => Err(AuthError::Unknown),
            (Some(secret), public_id, None) => Ok(Some(ShownKey { secret, public_id })),
            (None, None, None) => Ok(None),
        }
    }

    /// The audience that a person means: the one they named, or the only one. `only`: the audience
    /// that their provider is for.
    fn audience_of(
        &self,
        parts: &Parts,
        only: Option<&AudienceName>,
    ) -> Result<AudienceName, AuthError> {
        let in_query = parts.uri.query().and_then(|query| {
            let mut members = query.split('&');
            members.find_map(|member| member.strip_prefix("audience="))
        });
        let in_query = in_query.map(|value| percent_encoding::percent_decode_str(value));
        let in_query = in_query.and_then(|value| value.decode_utf8().ok());
        let in_field = parts.headers.get(AUDIENCE).and_then(|value| value.to_str().ok());
        let named = in_field.or(in_query.as_deref());
        let all = self.settings.audiences.iter().map(|audience| &audience.name);
        let mut open = all.filter(|name| only.is_none_or(|only| only == *name));
        let found = match named {
            Some(named) => open.find(|name| name.as_str() == named),
            None => open.next(),
        };
        found.cloned().ok_or(AuthError::NotFound)
    }

    /// Checks whether the address has failures left, before work that a stranger could cause.
    fn still_listened_to(&self, address: Option<IpAddr>) -> Result<(), AuthError> {
        let (Some(address), Some(limit)) = (address, self.limit) else { return Ok(()) };
        let look = self.failures.look(network_of(address), limit, self.clock.now());
        look.map_err(|exhausted| AuthError::TooMany { wait: exhausted.retry_in })
    }

    /// Counts a failure of the address.
    fn failed(&self, address: Option<IpAddr>) -> Result<(), AuthError> {
        let (Some(address), Some(limit)) = (address, self.limit) else { return Ok(()) };
        let now = self.clock.now();
        let charged = self.failures.charge(network_of(address), limit, now);
        charged.map(drop).map_err(|exhausted| AuthError::TooMany { wait: exhausted.retry_in })
    }

    /// Counts a sign-in at a provider that the address begins.
    fn begins(&self, address: Option<IpAddr>) -> Result<(), AuthError> {
        let (Some(address), Some(limit)) = (address, self.begin_limit) else { return Ok(()) };
        let charged = self.begun.charge(network_of(address), limit, self.clock.now());
        charged.map(drop).map_err(|exhausted| AuthError::TooMany { wait: exhausted.retry_in })
    }

    /// Somebody with a session, in the org that it is for.
    async fn person_caller(
        &self,
        parts: &Parts,
        row: &SessionRow,
        form: FormToken,
    ) -> Result<Caller, AuthError> {
        let provider = self.provider_of(row)?;
        let only = provider.and_then(|provider| provider.audience.as_ref());
        let person = self.store.person(&row.person).await?.ok_or(AuthError::Unknown)?;
        let orgs = self.store.memberships(&row.person).await?;
        let member = match (&row.org, orgs.as_slice()) {
            (Some(chosen), orgs) => orgs.iter().find(|member| member.org == *chosen),
            (None, [only]) if !person.operator => Some(only),
            (None, _) => None,
        };
        let (org, role) = match member {
            Some(member) => (Some(member.org.clone()), member.role),
            None if person.operator => (None, PersonRole::Operator),
            // The person is in several orgs and has chosen none, or is no longer in any.
            None if orgs.is_empty() => return Err(AuthError::NoRole),
            None => (None, PersonRole::Auditor),
        };
        Ok(Caller {
            asking: None,
            actor: StoreActor::Person {
                id: row.person.clone(),
                role,
                owner: owner(&row.person, &person, role)?,
                holds: HeldRights::everything(),
            },
            role: (org.is_some() || role == PersonRole::Operator).then_some(role),
            org,
            audience: self.audience_of(parts, only)?,
            person: Some(person),
            channel: channel_of(parts),
            by: CallerBy::Session,
            orgs,
            confined: only.is_some(),
            signed_in_ms: match provider {
                Some(_) => SessionDetail::of(row).signed_in_ms,
                None => Some(row.created_ms),
            },
            session: Some(row.id.clone()),
            form: Some(form),
        })
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

/// A person, as the keys that they make name them.
fn owner(id: &PersonId, person: &Person, role: PersonRole) -> Result<Owner, AuthError> {
    let subject = owner_subject(id);
    Owner::new(&subject, &person.email, role.as_str()).map_err(|_| AuthError::Unknown)
}
