//! [`decide`]: who is calling, and may they do this here and now?

mod conduct;
#[cfg(test)]
mod tests;
mod ticket;

use std::net::IpAddr;
use std::sync::Arc;

use http::Method;

use super::Now;
use super::charge::{Charge, ChargedSubject, LimitPolicies, OrgSource};
use super::credential::MissingHalf;
use super::grant::{KeyView, PermissionSet};
use super::key::{Environment, KeyStatus};
use super::limit_set::LimitSet;
use super::observe::{Conduct, Observe};
use super::owner::OwnerView;
use super::path::Traits;
use super::reason::{CallerKind, Detail, Reason, Rejection};
use super::route::{Access, FoundRoute, Needs, Route, RouteTable};
use super::secret::Digest;
use super::user_token::{KnownOrgs, TokenFault, UserToken};

use self::ticket::ObservedOrigin;
pub use self::ticket::Ticket;

/// The part of the configuration that a decision depends on.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub routes: RouteTable,
    /// The environment of this deployment. A key of the other environment is refused.
    pub environment: Option<Environment>,
    /// Refuse keys that name no environment.
    pub require_environment: bool,
    /// Whose requests are only observed. `None`: nobody's.
    pub observe: Option<Box<Observe>>,
    /// The policies that admitted requests are charged to.
    pub limits: LimitPolicies,
}

/// The keys in force: a table with its patch.
pub trait KeyLookup {
    /// False only for a secret that cannot be a key because of its checksum, so that no look-up is
    /// needed.
    fn plausible(&self, secret: &[u8]) -> bool;
    fn single(&self, digest: &Digest) -> Option<KeyView<'_>>;
    /// Takes the same time for an unknown id as for a wrong secret.
    fn pair(&self, id: &[u8], secret: &Digest) -> PairLookup<'_>;
    /// The key of either kind that has this digest.
    fn any(&self, digest: &Digest) -> Option<KeyView<'_>>;
    /// Who issued the key that has this digest. This is a separate look-up because most requests
    /// need no owner.
    fn owner(&self, digest: &Digest) -> Option<OwnerView<'_>>;
    /// Whether the table or the patch names this org.
    fn knows_org(&self, org: &str) -> bool;
    /// The limits that all keys of an org share. `None`: this org has none, or no org has any.
    fn org_limits(&self, org: &str) -> Option<&LimitSet>;
    /// Unix seconds from which on nothing is admitted (`after_expiry = "refuse"`).
    fn refuse_from(&self) -> Option<u64>;
}

#[derive(Clone, Copy, Debug)]
pub enum PairLookup<'k> {
    Found(KeyView<'k>),
    UnknownId,
    /// The key with this id. Only for the log: its caller has proved nothing.
    WrongSecret(KeyView<'k>),
}

/// What the request says, read and checked at the edge.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'r> {
    pub method: &'r Method,
    /// Accepted by [`super::path::scan`]. Without the query.
    pub path: &'r str,
    pub traits: Traits,
    pub presented: Presented<'r>,
    /// In canonical form, determined through trusted hops.
    pub client: IpAddr,
    /// `Access-Control-Request-Method` of an OPTIONS request that has `Origin` as well.
    pub preflight: Option<&'r Method>,
    /// What may be a key. Used for the share only.
    pub candidates: KeyCandidates<'r>,
    /// What is wrong with the request itself. It is refused before anything else is decided, unless
    /// the caller is only observed.
    pub fault: Option<&'r Rejection>,
}

/// The parts of a request that may be a key where its credential is not certain: there are two, or
/// it is malformed or misspelt. None of them opens anything.
#[derive(Clone, Copy, Debug, Default)]
pub enum KeyCandidates<'r> {
    /// [`Presented`] holds the complete answer.
    #[default]
    Certain,
    These(&'r [Digest]),
    /// There are too many of them, or keys do not affect the verdict at this time
    /// ([`Observe::depends_on_caller`]).
    NotRead,
}

/// The one credential of a request.
#[derive(Clone, Copy)]
pub enum Presented<'r> {
    /// A user token that is not valid.
    FaultyToken(TokenFault),
    /// A credential in a place that keygate reads, but not for keygate: a session, or a user token
    /// on a route that does not accept any.
    Foreign,
    /// One half of a pair: a failed attempt to use a pair, and never valid.
    HalfPair(MissingHalf<'r>),
    Nothing,
    Pair {
        id: &'r [u8],
        secret: &'r [u8],
    },
    Single(&'r [u8]),
    /// A verified user token.
    Token(&'r Arc<UserToken>),
}

#[derive(Debug)]
pub enum Verdict<'k> {
    Admitted(Admitted<'k>),
    Observed(Observed<'k>),
    Passed(Passed<'k>),
    Rejected(Refused<'k>),
}

/// Proof that a key or a user token opened this route. Only [`decide`] makes one.
#[derive(Debug)]
pub struct Admitted<'k> {
    caller: AdmittedCaller<'k>,
    route: &'k Route,
    conduct: Conduct,
}

/// Who is admitted.
#[derive(Debug)]
enum AdmittedCaller<'k> {
    Key { key: KeyView<'k>, digest: Digest },
    Token(Arc<UserToken>),
}

/// Proof that this route lets the request through without a key. Only [`decide`] makes one.
#[derive(Debug)]
pub struct Passed<'k> {
    route: &'k Route,
    conduct: Conduct,
}

/// Proof that `[observe]` lets a request through that would be refused. Only [`decide`] makes one.
#[derive(Debug)]
pub struct Observed<'k> {
    /// The rule, or its substitute where none matches.
    route: &'k Route,
    rejection: Rejection,
    /// The key. With [`Reason::WrongSecret`], the caller has only named it.
    key: Option<KeyView<'k>>,
    origin: Box<ObservedOrigin>,
}

/// A rejection, and what else the log may say.
#[derive(Debug)]
pub struct Refused<'k> {
    pub rejection: Rejection,
    pub route: Option<&'k Route>,
    /// The key, when it was identified. For the log only: with [`Reason::WrongSecret`] the caller
    /// has named it without proving possession.
    pub key: Option<KeyView<'k>>,
    /// The digest of the secret, where it was looked up.
    digest: Option<Digest>,
}

/// What is known about the caller, whatever the verdict.
#[derive(Debug, Default)]
struct SeenCaller<'k> {
    key: Option<KeyView<'k>>,
    /// The digest of the secret, where it was looked up.
    digest: Option<Digest>,
}

/// The verdict on one request. Total: every input has a verdict, and every refusal has a reason.
pub fn decide<'k, K: KeyLookup>(
    policy: &'k Policy,
    keys: Option<&'k K>,
    facts: &Facts<'_>,
    now: Now,
) -> Verdict<'k> {
    match policy.observe.as_deref().filter(|observe| observe.is_on(now)) {
        None => enforce(policy, keys, facts, now),
        Some(observe) => {
            let verdict = enforce(policy, keys, facts, now);
            conduct::carry_out(policy, observe, keys, facts, verdict)
        }
    }
}

fn enforce<'k, K: KeyLookup>(
    policy: &'k Policy,
    keys: Option<&'k K>,
    facts: &Facts<'_>,
    now: Now,
) -> Verdict<'k> {
    let refused = |reason: Rejection| {
        Verdict::Rejected(Refused { rejection: reason, route: None, key: None, digest: None })
    };
    if let Some(fault) = facts.fault {
        return refused(fault.clone());
    }
    let Some(keys) = keys.filter(|k| k.refuse_from().is_none_or(|at| now.unix_secs() < at)) else {
        return refused(Reason::NoTable.into());
    };
    let Ok(found) = policy.routes.find(facts.method, facts.path, facts.traits) else {
        return refused(Rejection::why(Reason::BadPath, TWO_RULES));
    };
    let route = match &found {
        FoundRoute::Route(route) => Some(*route),
        FoundRoute::Nothing | FoundRoute::OtherMethods(_) => None,
    };
    let allowed = route.map(|r| r.allow).unwrap_or_default();
    if facts.traits.within(allowed).is_err() {
        return refused(Reason::BadPath.into());
    }
    if let Some(wanted) = facts.preflight
        && let Ok(FoundRoute::Route(target)) = policy.routes.find(wanted, facts.path, facts.traits)
        && target.preflight
    {
        return Verdict::Passed(Passed { route: target, conduct: Conduct::Enforced });
    }
    let mut seen = SeenCaller::default();
    match judge(policy, keys, facts, now, &found, &mut seen) {
        Ok(verdict) => verdict,
        Err(rejection) => {
            let SeenCaller { key, digest } = seen;
            Verdict::Rejected(Refused { rejection, route, key, digest })
        }
    }
}

const TWO_RULES: &str = "as it is sent and decoded it leads to two rules";

fn judge<'k, K: KeyLookup>(
    policy: &'k Policy,
    keys: &'k K,
    facts: &Facts<'_>,
    now: Now,
    found: &FoundRoute<'k>,
    seen: &mut SeenCaller<'k>,
) -> Result<Verdict<'k>, Rejection> {
    if let FoundRoute::Route(route) = found {
        match (&route.access, facts.presented) {
            (Access::Public, _)
            | (
                Access::KeyOrPass(_),
                Presented::FaultyToken(_)
                | Presented::Foreign
                | Presented::Nothing
                | Presented::Token(_),
            ) => {
                return Ok(Verdict::Passed(Passed { route, conduct: Conduct::Enforced }));
            }
            (Access::KeyOrToken(_) | Access::Token(_), Presented::Token(token)) => {
                return judge_token(keys, token, route, now).map(Verdict::Admitted);
            }
            (Access::KeyOrToken(_) | Access::Token(_), Presented::FaultyToken(fault)) => {
                return Err(fault.into());
            }
            // A key opens nothing here, so the caller must not learn whether it has sent one.
            (Access::Token(_), _) => return Err(Reason::TokenNeeded.into()),
            (Access::Key(_) | Access::KeyOrPass(_) | Access::KeyOrToken(_), _) => {}
        }
    }
    // Do not ask for a key where none would help. A key that was sent is judged first: a wrong key
    // is wrong for any request.
    if let Presented::FaultyToken(_)
    | Presented::Foreign
    | Presented::Nothing
    | Presented::Token(_) = facts.presented
    {
        match found {
            FoundRoute::Nothing => return Err(Reason::Route.into()),
            FoundRoute::OtherMethods(methods) => return Err(other_methods(methods)),
            FoundRoute::Route(_) => {}
        }
    }
    let (key, digest) = identify(keys, facts.presented, seen)?;
    seen.key = Some(key);
    check_key(policy, &key, facts.client, now)?;
    let route = match found {
        FoundRoute::Route(route) => *route,
        FoundRoute::Nothing => return Err(Reason::Route.into()),
        FoundRoute::OtherMethods(methods) => return Err(other_methods(methods)),
    };
    if let Some(needs) = route.access.needs()
        && !needs.met_by(&key.grant.permissions)
    {
        return Err(lacking(needs, CallerKind::Key));
    }
    let caller = AdmittedCaller::Key { key, digest };
    let conduct = Conduct::Enforced;
    Ok(Verdict::Admitted(Admitted { caller, route, conduct }))
}

/// What the table says about a verified token, and what the route needs from it.
fn judge_token<'k, K: KeyLookup>(
    keys: &'k K,
    token: &Arc<UserToken>,
    route: &'k Route,
    now: Now,
) -> Result<Admitted<'k>, Rejection> {
    if token.expires() <= now.unix_secs() {
        return Err(TokenFault::Expired.into());
    }
    check_org(keys, token)?;
    if let Some(needs) = route.access.needs()
        && !needs.met_by(token.permissions())
    {
        return Err(lacking(needs, CallerKind::Token));
    }
    let (caller, conduct) = (AdmittedCaller::Token(Arc::clone(token)), Conduct::Enforced);
    Ok(Admitted { caller, route, conduct })
}

fn lacking(needs: &Needs, caller: CallerKind) -> Rejection {
    let detail = Detail::Permissions { words: needs.permissions.clone(), caller };
    Rejection { reason: Reason::Permission, detail }
}

fn check_org<K: KeyLookup>(keys: &K, token: &UserToken) -> Result<(), TokenFault> {
    match token.orgs() {
        KnownOrgs::InTable if !keys.knows_org(token.org()) => Err(TokenFault::Org),
        KnownOrgs::Any | KnownOrgs::InTable => Ok(()),
    }
}

fn other_methods(methods: &[&Method]) -> Rejection {
    let allow = methods.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(", ");
    Rejection { reason: Reason::Method, detail: Detail::Allow(allow.into()) }
}

fn identify<'k, K: KeyLookup>(
    keys: &'k K,
    presented: Presented<'_>,
    seen: &mut SeenCaller<'k>,
) -> Result<(KeyView<'k>, Digest), Rejection> {
    match presented {
        Presented::FaultyToken(_) | Presented::Foreign | Presented::Token(_) => {
            Err(Reason::Foreign.into())
        }
        Presented::HalfPair(missing) => Err(Rejection::told(
            Reason::Unknown,
            format!("{missing} is missing"),
            "send both halves of the pair".into(),
        )),
        Presented::Nothing => Err(Reason::Missing.into()),
        Presented::Single(secret) => {
            if !keys.plausible(secret) {
                return Err(Reason::Unknown.into());
            }
            let digest = *seen.digest.insert(Digest::of(secret));
            let key = keys.single(&digest).ok_or(Reason::Unknown)?;
            Ok((key, digest))
        }
        Presented::Pair { id, secret } => {
            let digest = *seen.digest.insert(Digest::of(secret));
            match keys.pair(id, &digest) {
                PairLookup::Found(key) => Ok((key, digest)),
                PairLookup::UnknownId => Err(Reason::Unknown.into()),
                PairLookup::WrongSecret(key) => {
                    seen.key = Some(key);
                    Err(Reason::WrongSecret.into())
                }
            }
        }
    }
}

/// KeyStatus, window, environment, address: the checks of a key that apply to any request.
fn check_key(policy: &Policy, key: &KeyView<'_>, client: IpAddr, now: Now) -> Result<(), Reason> {
    let grant = key.grant;
    match grant.status {
        KeyStatus::Active => {}
        KeyStatus::Disabled => return Err(Reason::Disabled),
        KeyStatus::Revoked => return Err(Reason::Revoked),
        KeyStatus::Canary => return Err(Reason::Canary),
    }
    if grant.not_before.is_some_and(|at| now.unix_secs() < at) {
        return Err(Reason::NotYetValid);
    }
    if key.expires.is_some_and(|at| now.unix_secs() >= at) {
        return Err(Reason::Expired);
    }
    let fits = match (policy.environment, grant.environment) {
        (Some(ours), Some(its)) => ours == its,
        (_, None) => !policy.require_environment,
        (None, Some(_)) => true,
    };
    if !fits {
        return Err(Reason::WrongEnvironment);
    }
    if !grant.networks.allows(client) {
        return Err(Reason::Address);
    }
    Ok(())
}

// === impl Verdict ===

impl Verdict<'_> {
    /// A rejection is always enforced.
    pub fn conduct(&self) -> Conduct {
        match self {
            Self::Admitted(admitted) => admitted.conduct,
            Self::Observed(_) => Conduct::Observed,
            Self::Passed(passed) => passed.conduct,
            Self::Rejected(_) => Conduct::Enforced,
        }
    }
}

// === impl Admitted ===

impl<'k> Admitted<'k> {
    /// `None`: a user token opened the route.
    pub fn key(&self) -> Option<&KeyView<'k>> {
        match &self.caller {
            AdmittedCaller::Key { key, .. } => Some(key),
            AdmittedCaller::Token(_) => None,
        }
    }

    /// `None`: a key opened the route.
    pub fn token(&self) -> Option<&Arc<UserToken>> {
        match &self.caller {
            AdmittedCaller::Key { .. } => None,
            AdmittedCaller::Token(token) => Some(token),
        }
    }

    /// The org on whose behalf the caller acts.
    pub fn org(&self) -> &str {
        match &self.caller {
            AdmittedCaller::Key { key, .. } => key.org,
            AdmittedCaller::Token(token) => token.org(),
        }
    }

    pub fn permissions(&self) -> &PermissionSet {
        match &self.caller {
            AdmittedCaller::Key { key, .. } => &key.grant.permissions,
            AdmittedCaller::Token(token) => token.permissions(),
        }
    }

    pub fn route(&self) -> &'k Route {
        self.route
    }

    /// What still has to be charged to the limits. `None`: nothing. `policy` and `keys` are those
    /// that decided.
    #[inline]
    pub fn charge<'c>(
        &'c self,
        policy: &'c Policy,
        keys: &'c impl KeyLookup,
    ) -> Option<Charge<'c>> {
        let of_org = keys.org_limits(self.org());
        match &self.caller {
            AdmittedCaller::Key { key, .. } => policy.limits.charge(key, of_org, self.route),
            AdmittedCaller::Token(token) => {
                let is_named = of_org.is_some() || keys.knows_org(token.org());
                let org_source = if is_named { OrgSource::Table } else { OrgSource::Token };
                let subject = ChargedSubject {
                    issuer: token.issuer(),
                    subject: token.subject(),
                    org: token.org(),
                    limit: token.limit(),
                    org_source,
                };
                policy.limits.charge_token(subject, of_org, self.route)
            }
        }
    }

    /// Who issued the key, from `keys`, which decided. A user token has no owner.
    pub fn owner<'o>(&self, keys: &'o impl KeyLookup) -> Option<OwnerView<'o>> {
        match &self.caller {
            AdmittedCaller::Key { digest, .. } => keys.owner(digest),
            AdmittedCaller::Token(_) => None,
        }
    }

    /// The first bytes of the secret's digest: random, and the same for the same secret. 0 for a
    /// user token.
    pub fn digest_start(&self) -> u64 {
        match &self.caller {
            AdmittedCaller::Key { digest, .. } => {
                digest.0.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
            }
            AdmittedCaller::Token(_) => 0,
        }
    }
}

// === impl Passed ===

impl<'k> Passed<'k> {
    pub fn route(&self) -> &'k Route {
        self.route
    }
}

// === impl Observed ===

impl<'k> Observed<'k> {
    /// The rule or, where none matches, [`Observe::unmatched`].
    pub fn route(&self) -> &'k Route {
        self.route
    }

    pub fn rejection(&self) -> &Rejection {
        &self.rejection
    }

    /// The key, if it was identified. With [`Reason::WrongSecret`], the caller has named it without
    /// proving possession.
    pub fn key(&self) -> Option<&KeyView<'k>> {
        self.key.as_ref()
    }
}

impl std::fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::FaultyToken(_) => "FaultyToken(..)",
            Self::Foreign => "Foreign",
            Self::HalfPair(_) => "HalfPair(..)",
            Self::Nothing => "Nothing",
            Self::Pair { .. } => "Pair(..)",
            Self::Single(_) => "Single(..)",
            Self::Token(_) => "Token(..)",
        })
    }
}
