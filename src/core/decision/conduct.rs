//! How `[observe]` changes a verdict, and which callers its share counts.

use http::Method;

use super::ticket::ObservedOrigin;
use super::{
    Admitted, Facts, KeyCandidates, KeyLookup, Observed, Passed, Policy, Refused, SeenCaller,
    Verdict, identify,
};
use crate::core::client_network::ClientNetwork;
use crate::core::observe::{
    Conduct, CredentialPassage, EnforcedShare, Observe, ObserveReach, ShareCaller, ShareCallers,
};
use crate::core::path;
use crate::core::reason::{Reason, Rejection};
use crate::core::route::{FoundRoute, Route};

/// Applies `[observe]` to a verdict. For callers whose requests are enforced, it stays as it is.
/// For others, it becomes one that lets the request through.
pub(super) fn carry_out<'k, K: KeyLookup>(
    policy: &'k Policy,
    observe: &'k Observe,
    keys: Option<&'k K>,
    facts: &Facts<'_>,
    mut verdict: Verdict<'k>,
) -> Verdict<'k> {
    if observe.share == EnforcedShare::ALL {
        return verdict;
    }
    let callers = callers(&mut verdict, keys, facts);
    if callers.any_in(observe.share) {
        return verdict;
    }
    let covers = |route: Option<&Route>, method: &Method| {
        observe.reaches(route) && leads_nowhere_else(policy, observe, facts.path, method)
    };
    match verdict {
        Verdict::Admitted(admitted) if covers(Some(admitted.route), facts.method) => {
            Verdict::Admitted(Admitted { conduct: Conduct::Observed, ..admitted })
        }
        Verdict::Passed(passed)
            if covers(Some(passed.route), facts.preflight.unwrap_or(facts.method)) =>
        {
            Verdict::Passed(Passed { conduct: Conduct::Observed, ..passed })
        }
        Verdict::Rejected(refused) if may_pass(observe, facts.fault, &refused.rejection) => {
            let route = refused.route.or_else(|| rule_of(policy, facts));
            match covers(route, facts.method) {
                true => {
                    let origin = Box::new(ObservedOrigin::of(callers, facts, &refused));
                    let Refused { rejection, key, .. } = refused;
                    let route = route.unwrap_or(observe.unmatched());
                    Verdict::Observed(Observed { route, rejection, key, origin })
                }
                false => Verdict::Rejected(Refused { route, ..refused }),
            }
        }
        other => other,
    }
}

/// The callers that the share counts: the key, even if the request was refused before the key was
/// looked up. So `//` or a misspelt field cannot move a caller out of the share.
fn callers<K: KeyLookup>(
    verdict: &mut Verdict<'_>,
    keys: Option<&K>,
    facts: &Facts<'_>,
) -> ShareCallers {
    let network = ShareCaller::Network(ClientNetwork::of(facts.client));
    let by_key = |id: Option<_>| id.map_or(network, ShareCaller::Key);
    match (verdict, facts.candidates) {
        (Verdict::Admitted(admitted), _) => by_key(admitted.key().map(|key| key.id)).into(),
        (_, KeyCandidates::NotRead) => ShareCaller::Unsure.into(),
        (_, KeyCandidates::These(digests)) => {
            let mut callers = ShareCallers::from(network);
            let known = digests.iter().filter_map(|digest| keys?.any(digest));
            known.for_each(|key| callers.add(ShareCaller::Key(key.id)));
            callers
        }
        (Verdict::Rejected(refused), KeyCandidates::Certain)
            if refused.rejection.reason != Reason::WrongSecret =>
        {
            let id = match (refused.key, refused.digest, keys) {
                (Some(key), _, _) => Some(key.id),
                (None, None, Some(keys)) => {
                    let mut seen = SeenCaller::default();
                    let found = identify(keys, facts.presented, &mut seen);
                    refused.digest = seen.digest;
                    found.ok().map(|(key, _)| key.id)
                }
                // There is no caller, or it is unknown.
                (None, _, _) => None,
            };
            by_key(id).into()
        }
        (_, KeyCandidates::Certain) => network.into(),
    }
}

/// A key that cannot be found with certainty cannot be removed with certainty either: with
/// `credentials = "strip"`, such a request is still refused.
fn may_pass(observe: &Observe, fault: Option<&Rejection>, rejection: &Rejection) -> bool {
    observe.credentials == CredentialPassage::Forward
        || [fault, Some(rejection)].into_iter().flatten().all(|r| r.reason != Reason::Malformed)
}

/// The rule of a request that was refused before its rule counted.
///
/// Also `None` if a path has readings that the rule does not allow: a service that decodes the
/// slash, or cuts at the `;`, may use another rule for it, and that rule may be enforced.
fn rule_of<'k>(policy: &'k Policy, facts: &Facts<'_>) -> Option<&'k Route> {
    // Scan again: another fault may have replaced the one of the path.
    let traits = path::scan(facts.path.as_bytes()).ok()?;
    match policy.routes.find(facts.method, facts.path, traits) {
        Ok(FoundRoute::Route(route)) => Some(route).filter(|r| traits.within(r.allow).is_ok()),
        Ok(FoundRoute::Nothing | FoundRoute::OtherMethods(_)) | Err(_) => None,
    }
}

/// Whether a service that reads paths loosely would find nothing enforced under this one either: to
/// many services (Express, IIS), `/v1/Admin` is `/v1/admin`. An enforced rule says what a path
/// needs. An observed rule next to it, which needs nothing, must not open the path under another
/// spelling.
fn leads_nowhere_else(policy: &Policy, observe: &Observe, path: &str, method: &Method) -> bool {
    match observe.reach {
        ObserveReach::WholeGate => true,
        ObserveReach::Routes(_) => policy
            .routes
            .find_loosely(method, path)
            .is_some_and(|found| found.iter().all(|route| observe.reaches(*route))),
    }
}
