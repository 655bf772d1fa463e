//! What `[observe]` makes of a verdict, and by whom its share is counted.

use super::ticket::ObservedOrigin;
use super::{
    Admitted, Facts, KeyCandidates, KeyLookup, Observed, Passed, Policy, Refused, Verdict, identify,
};
use crate::core::client_network::ClientNetwork;
use crate::core::observe::{Conduct, CredentialPassage, Observe, ShareCaller, ShareCallers};
use crate::core::path;
use crate::core::reason::{Reason, Rejection};
use crate::core::route::{FoundRoute, Route};

/// Makes of a verdict what `[observe]` says: as it is for callers whose requests are enforced, and
/// for others one that lets the request through.
pub(super) fn carry_out<'k, K: KeyLookup>(
    policy: &'k Policy,
    observe: &'k Observe,
    keys: Option<&'k K>,
    facts: &Facts<'_>,
    verdict: Verdict<'k>,
) -> Verdict<'k> {
    let callers = callers(&verdict, keys, facts);
    if callers.any_in(observe.share) {
        return verdict;
    }
    match verdict {
        Verdict::Admitted(admitted) if observe.reaches(Some(admitted.route)) => {
            Verdict::Admitted(Admitted { conduct: Conduct::Observed, ..admitted })
        }
        Verdict::Passed(passed) if observe.reaches(Some(passed.route)) => {
            Verdict::Passed(Passed { conduct: Conduct::Observed, ..passed })
        }
        Verdict::Rejected(Refused { rejection, route, key })
            if may_pass(observe, facts.fault, &rejection) =>
        {
            let route = route.or_else(|| rule_of(policy, facts));
            match observe.reaches(route) {
                true => {
                    let origin = ObservedOrigin::of(callers, facts, key.as_ref(), &rejection);
                    let route = route.unwrap_or(observe.unmatched());
                    Verdict::Observed(Observed { route, rejection, key, origin: Box::new(origin) })
                }
                false => Verdict::Rejected(Refused { rejection, route, key }),
            }
        }
        other => other,
    }
}

/// By whom the share is counted: by the key, also of a request that was refused before anybody
/// looked it up, so that no `//` and no misspelt field moves a caller out of the share.
fn callers<K: KeyLookup>(
    verdict: &Verdict<'_>,
    keys: Option<&K>,
    facts: &Facts<'_>,
) -> ShareCallers {
    let network = ShareCaller::Network(ClientNetwork::of(facts.client));
    let by_key = |id: Option<_>| id.map_or(network, ShareCaller::Key);
    match (verdict, facts.candidates) {
        (Verdict::Admitted(admitted), _) => by_key(admitted.key().map(|key| key.id)).into(),
        (_, KeyCandidates::TooMany) => ShareCaller::Unsure.into(),
        (_, KeyCandidates::These(digests)) => {
            let mut callers = ShareCallers::from(network);
            let known = digests.iter().filter_map(|digest| keys?.any(digest));
            known.for_each(|key| callers.add(ShareCaller::Key(key.id)));
            callers
        }
        (Verdict::Rejected(refused), KeyCandidates::Certain)
            if refused.rejection.reason != Reason::WrongSecret =>
        {
            let looked_up = || {
                let (key, _) = identify(keys?, facts.presented, &mut None).ok()?;
                Some(key.id)
            };
            by_key(refused.key.map(|key| key.id).or_else(looked_up)).into()
        }
        (_, KeyCandidates::Certain) => network.into(),
    }
}

/// A key in a place where it cannot be found with certainty cannot be removed with certainty
/// either: with `credentials = "strip"` such a request is refused as ever.
fn may_pass(observe: &Observe, fault: Option<&Rejection>, rejection: &Rejection) -> bool {
    observe.credentials == CredentialPassage::Forward
        || [fault, Some(rejection)].into_iter().flatten().all(|r| r.reason != Reason::Malformed)
}

/// The rule of a request that was refused before its rule counted.
///
/// `None` as well where a path has readings that the rule does not allow: a service that decodes the
/// slash, or cuts at the `;`, may take it to another rule, and that one may be enforced.
fn rule_of<'k>(policy: &'k Policy, facts: &Facts<'_>) -> Option<&'k Route> {
    // Scanned again: another fault may have replaced the one of the path.
    let traits = path::scan(facts.path.as_bytes()).ok()?;
    match policy.routes.find(facts.method, facts.path, traits) {
        Ok(FoundRoute::Route(route)) => Some(route).filter(|r| traits.within(r.allow).is_ok()),
        Ok(FoundRoute::Nothing | FoundRoute::OtherMethods(_)) | Err(_) => None,
    }
}
