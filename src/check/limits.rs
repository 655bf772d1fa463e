//! Compares limits that the table states with the policies and costs of the configuration. Imports
//! core, table and wording.

use std::collections::{BTreeMap, HashSet};

use super::Finding;
use crate::core::{
    Grant, Limit, LimitPolicies, LimitSet, PolicyName, PolicyScope, Route, RouteTable,
};
use crate::table::KeySet;
use crate::wording::count::count;

/// What the table states about policies for keys, or for orgs.
#[derive(Default)]
struct StatedLimits<'k> {
    by_name: BTreeMap<&'k str, Stated<'k>>,
}

/// Of one of them.
struct Stated<'k> {
    policy: &'k PolicyName,
    /// The smallest burst.
    burst: u32,
    /// The key or org that has it.
    whose: String,
    /// Grants or orgs with such a limit.
    many: u64,
    limits: Vec<Limit>,
}

/// Errors, and warnings that only deserve a look.
#[derive(Debug, Default)]
pub(super) struct LimitFindings {
    pub(super) errors: Vec<Finding>,
    pub(super) warnings: Vec<Finding>,
}

pub(super) fn look(policies: &LimitPolicies, routes: &RouteTable, keys: &KeySet) -> LimitFindings {
    let mut found = LimitFindings::default();
    for (scope, stated) in [
        (PolicyScope::Key, StatedLimits::of_keys(keys)),
        (PolicyScope::Org, StatedLimits::of_orgs(keys)),
    ] {
        for stated in stated.by_name.values() {
            found.unknown(policies, stated);
            found.scope(policies, scope, stated);
            found.cost(policies, routes, scope, stated);
            found.quota(policies, stated);
        }
    }
    // A name may be unknown for both keys and orgs.
    found.warnings.dedup();
    found
}

// === impl StatedLimits ===

impl<'k> StatedLimits<'k> {
    fn of_keys(keys: &'k KeySet) -> Self {
        let mut stated = Self::default();
        // Many keys share a grant: one of them represents all.
        let mut seen: HashSet<*const Grant> = HashSet::new();
        for entry in keys.iter() {
            let grant = entry.view.grant;
            if !grant.limits.is_empty() && seen.insert(std::ptr::from_ref(grant)) {
                stated.add(&grant.limits, || entry.view.id.to_string());
            }
        }
        stated
    }

    fn of_orgs(keys: &'k KeySet) -> Self {
        let mut stated = Self::default();
        for found in keys.iter_org_limits() {
            stated.add(found.limits, || found.org.to_owned());
        }
        stated
    }

    fn add(&mut self, limits: &'k LimitSet, whose: impl Fn() -> String) {
        for named in limits.iter() {
            let burst = named.limit.burst();
            let stated = self.by_name.entry(named.policy.as_str()).or_insert_with(|| Stated {
                policy: &named.policy,
                burst: u32::MAX,
                whose: String::new(),
                many: 0,
                limits: Vec::new(),
            });
            if !stated.limits.contains(&named.limit) {
                stated.limits.push(named.limit);
            }
            stated.many += 1;
            if burst < stated.burst {
                (stated.burst, stated.whose) = (burst, whose());
            }
        }
    }
}

// === impl LimitFindings ===

impl LimitFindings {
    fn unknown(&mut self, policies: &LimitPolicies, stated: &Stated<'_>) {
        let name = stated.policy.as_str();
        if policies.get(stated.policy).is_some() || name == PolicyName::PER_KEY {
            return;
        }
        self.warnings.push(Finding {
            kind: "policy_unknown",
            subject: format!("policy `{name}`"),
            message: "the table states limits for it, and no [[policies]] names it: it is charged \
                      on every route"
                .to_owned(),
            hint: Some(format!(
                "add a [[policies]] with name = \"{name}\" and the classes of its routes; without \
                 classes it is for all of them"
            )),
        });
    }

    fn scope(&mut self, policies: &LimitPolicies, scope: PolicyScope, stated: &Stated<'_>) {
        let Some(policy) = policies.get(stated.policy).filter(|policy| policy.scope != scope)
        else {
            return;
        };
        let (name, its) = (policy.name.as_str(), policy.scope.as_str());
        let (whose, counted) = match scope {
            PolicyScope::Key => ("keys", "each of these keys is counted for itself"),
            PolicyScope::Org => ("orgs", "all keys of such an org are counted together"),
        };
        self.warnings.push(Finding {
            kind: "policy_scope",
            subject: format!("policy `{name}`"),
            message: format!(
                "its scope is `{its}`, and the table states it for {whose}: {counted}, beside \
                 its default"
            ),
            hint: Some("state it where its scope is, or give one of the two another name".into()),
        });
    }

    /// A limit in place of a quota that is not a count for its period.
    fn quota(&mut self, policies: &LimitPolicies, stated: &Stated<'_>) {
        let Some(policy) = policies.get(stated.policy) else { return };
        let Some(period) = policy.quota else { return };
        let Some(other) = stated.limits.iter().find(|limit| !period.counts(**limit)) else {
            return;
        };
        let (name, period) = (policy.name.as_str(), period.as_str());
        let window = if period == "day" { "1d" } else { "30d" };
        self.warnings.push(Finding {
            kind: "policy_quota",
            subject: format!("policy `{name}`"),
            message: format!(
                "it is a quota for a {period}, and the table states {other}: that is counted as a \
                 limit, not by calendar"
            ),
            hint: Some(format!("state a count for {window}, such as {name} = \"5000/{window}\"")),
        });
    }

    fn cost(
        &mut self,
        policies: &LimitPolicies,
        routes: &RouteTable,
        scope: PolicyScope,
        stated: &Stated<'_>,
    ) {
        let is_charged = |route: &&Route| {
            let policy = policies.get(stated.policy);
            route.access.needs().is_some() && policy.is_none_or(|policy| policy.is_for(route))
        };
        let dearest = routes.iter().filter(is_charged).max_by_key(|route| route.cost);
        let Some(route) = dearest.filter(|route| route.cost > stated.burst) else { return };
        let Stated { policy, burst, whose, many, .. } = stated;
        let others = match many - 1 {
            0 => String::new(),
            more => {
                let word = if scope == PolicyScope::Key { "grant" } else { "org" };
                format!(" (the smallest of that and {})", count(more, word))
            }
        };
        self.errors.push(Finding {
            kind: "cost_above_burst",
            subject: format!("route `{}`", route.id),
            message: format!(
                "its cost of {} is above the burst of {burst} that `{whose}` has under policy \
                 `{}`{others}: such a request takes all of it",
                route.cost,
                policy.as_str()
            ),
            hint: Some("lower the cost, or raise the limit that the table states".to_owned()),
        });
    }
}
