//! What is kept of a request while its response runs, to determine whether it would still be let
//! through.

use std::net::IpAddr;
use std::sync::Arc;

use super::{
    Admitted, AdmittedCaller, Facts, KeyLookup, Observed, Policy, Presented, Refused, check_key,
    check_org,
};
use crate::core::Now;
use crate::core::client_network::ClientNetwork;
use crate::core::key::KeyId;
use crate::core::observe::{Conduct, ShareCaller, ShareCallers};
use crate::core::reason::Reason;
use crate::core::route::{Access, Route};
use crate::core::secret::Digest;
use crate::core::user_token::{IssuersNow, TokenFault, UserToken};

/// What is kept of a request while its response runs, to check it against later tables and
/// configurations.
#[derive(Clone, Debug)]
pub struct Ticket {
    holder: TicketHolder,
    org: u64,
    client: IpAddr,
    /// While it is only observed: the callers that the share counts.
    observed: Option<Box<ShareCallers>>,
    /// Unix seconds. While the request is only observed: when observing ends.
    pub expires: Option<u64>,
}

#[derive(Clone, Debug)]
enum TicketHolder {
    /// It would not have been let through. If there is a digest, the key was the reason, and
    /// another table may admit it.
    Denied {
        reason: Reason,
        digest: Option<Digest>,
    },
    Key {
        id: KeyId,
        digest: Digest,
    },
    /// As last read by its issuer's rules.
    Token(Arc<UserToken>),
}

/// What is kept, for its ticket, of a request that `[observe]` lets through.
#[derive(Debug)]
pub(super) struct ObservedOrigin {
    callers: ShareCallers,
    digest: Option<Digest>,
    /// A valid user token that another table may admit.
    token: Option<Arc<UserToken>>,
}

// === impl ObservedOrigin ===

impl ObservedOrigin {
    pub(super) fn of(callers: ShareCallers, facts: &Facts<'_>, refused: &Refused<'_>) -> Self {
        let digest_of = |secret| refused.digest.unwrap_or_else(|| Digest::of(secret));
        let digest = match (refused.rejection.reason, facts.presented) {
            (
                Reason::Address
                | Reason::Canary
                | Reason::Disabled
                | Reason::Expired
                | Reason::NoTable
                | Reason::NotYetValid
                | Reason::Permission
                | Reason::Revoked
                | Reason::Unknown
                | Reason::WrongEnvironment,
                Presented::Single(secret),
            ) => Some(digest_of(secret)),
            (reason, Presented::Pair { secret, .. })
                if refused.key.is_some()
                    && !matches!(reason, Reason::WrongSecret | Reason::Route | Reason::Method) =>
            {
                Some(digest_of(secret))
            }
            _ => None,
        };
        let token = match (refused.rejection.reason, facts.presented) {
            (Reason::NoTable | Reason::Permission | Reason::TokenOrg, Presented::Token(token)) => {
                Some(Arc::clone(token))
            }
            _ => None,
        };
        Self { callers, digest, token }
    }
}

// === impl Admitted ===

impl Admitted<'_> {
    /// What the stream registry keeps of this request, which `policy` has judged.
    pub fn ticket(&self, client: IpAddr, policy: &Policy) -> Ticket {
        let (holder, caller, expires) = match &self.caller {
            AdmittedCaller::Key { key, digest } => {
                let holder = TicketHolder::Key { id: key.id, digest: *digest };
                (holder, ShareCaller::Key(key.id), key.expires)
            }
            AdmittedCaller::Token(token) => {
                let network = ShareCaller::Network(ClientNetwork::of(client));
                (TicketHolder::Token(Arc::clone(token)), network, Some(token.expires()))
            }
        };
        let (observed, expires) = match self.conduct {
            Conduct::Enforced => (None, expires),
            Conduct::Observed => (Some(Box::new(caller.into())), end_of_observing(policy)),
        };
        Ticket { holder, org: fingerprint(self.org()), client, observed, expires }
    }
}

// === impl Observed ===

impl Observed<'_> {
    /// What the stream registry keeps of this request, which `policy` has judged. `None`: any table
    /// would let it through.
    pub fn ticket(&self, client: IpAddr, policy: &Policy) -> Option<Ticket> {
        let ObservedOrigin { callers, digest, token } = &*self.origin;
        let reason = self.rejection.reason;
        let passes = matches!(self.route.access, Access::Public | Access::KeyOrPass(_));
        if passes && digest.is_none() && reason == Reason::NoTable {
            return None;
        }
        let holder = match token {
            Some(token) if !passes => TicketHolder::Token(Arc::clone(token)),
            Some(_) | None => TicketHolder::Denied { reason, digest: *digest },
        };
        Some(Ticket {
            holder,
            org: 0,
            client,
            observed: Some(Box::new(callers.clone())),
            expires: end_of_observing(policy),
        })
    }
}

fn end_of_observing(policy: &Policy) -> Option<u64> {
    policy.observe.as_deref().and_then(|observe| observe.until)
}

// === impl Ticket ===

impl Ticket {
    /// Records that a request with this key is still running. Uses of a user token are not counted.
    pub fn touch<K: KeyLookup>(&self, keys: &K, now: Now) {
        let TicketHolder::Key { id, digest } = &self.holder else { return };
        if let Some(key) = keys.any(digest).filter(|key| key.id == *id)
            && let Some(uses) = key.uses
        {
            uses.touch(now);
        }
    }

    /// Why its stream ends once [`Ticket::expires`] has passed. `None`: it is only observed, and
    /// the next step is a [`Ticket::recheck`].
    pub fn expired(&self) -> Option<Reason> {
        match (&self.observed, &self.holder) {
            (Some(_), _) => None,
            (None, TicketHolder::Denied { .. } | TicketHolder::Key { .. }) => Some(Reason::Expired),
            (None, TicketHolder::Token(_)) => Some(Reason::TokenExpired),
        }
    }

    /// Whether the request would still be let through, and until when (Unix seconds) no further
    /// check is needed. A request that was only observed continues as long as its caller is
    /// observed; from then on it is judged like any other.
    ///
    /// `route` is the one at the time of the request. A token is checked against the rules and keys
    /// of its issuer as in a new request, and its org against the table.
    ///
    /// # Errors
    /// Why it would not.
    pub fn recheck<K: KeyLookup>(
        &mut self,
        policy: &Policy,
        keys: Option<&K>,
        issuers: &impl IssuersNow,
        route: Option<&Route>,
        now: Now,
    ) -> Result<Option<u64>, Reason> {
        if let Some(callers) = &self.observed {
            match is_observed(policy, callers, route, now) {
                Conduct::Observed => return Ok(end_of_observing(policy)),
                Conduct::Enforced => self.observed = None,
            }
        }
        let keys = keys.filter(|keys| keys.refuse_from().is_none_or(|at| now.unix_secs() < at));
        let keys = keys.ok_or(Reason::NoTable)?;
        let needs = route.and_then(|route| route.access.needs());
        let key = match &mut self.holder {
            TicketHolder::Denied { reason, digest } => {
                digest.and_then(|digest| keys.any(&digest)).ok_or(*reason)?
            }
            TicketHolder::Key { id, digest } => {
                let key = keys.any(digest).ok_or(Reason::Revoked)?;
                if key.id != *id || fingerprint(key.org) != self.org {
                    return Err(Reason::Revoked);
                }
                key
            }
            TicketHolder::Token(token) => {
                let now_read = issuers.verified_again(token, now).map_err(TokenFault::reason)?;
                check_org(keys, &now_read).map_err(TokenFault::reason)?;
                if needs.is_some_and(|needs| !needs.met_by(now_read.permissions())) {
                    return Err(Reason::Permission);
                }
                *token = now_read;
                return Ok(Some(token.expires()));
            }
        };
        check_key(policy, &key, self.client, now)?;
        match needs {
            Some(needs) if !needs.met_by(&key.grant.permissions) => Err(Reason::Permission),
            _ => Ok(key.expires),
        }
    }
}

fn is_observed(
    policy: &Policy,
    callers: &ShareCallers,
    route: Option<&Route>,
    now: Now,
) -> Conduct {
    let Some(observe) = policy.observe.as_deref().filter(|observe| observe.is_on(now)) else {
        return Conduct::Enforced;
    };
    // The rule may have another position in a later configuration.
    let rule = route.and_then(|route| policy.routes.iter().find(|rule| rule.id == route.id));
    match observe.reaches(rule) && !callers.any_in(observe.share) {
        true => Conduct::Observed,
        false => Conduct::Enforced,
    }
}

/// FNV-1a. Detects a changed org without keeping a copy of its name per stream.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
