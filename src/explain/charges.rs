//! The limits that an explained request would be charged under. Imports core only.

use std::fmt;

use serde::Serialize;

use crate::core::charge::{ChargedLimits, PolicyCharge};
use crate::core::{CallerKind, Charge, LimitSet, PolicyName, PolicyScope};

#[derive(Debug, Serialize)]
pub struct ExplainedCharge {
    pub policy: String,
    /// `key`; for a user token its `subject`; or `org`: all its keys and tokens together.
    pub scope: &'static str,
    pub limit: String,
    /// In requests.
    pub cost: u32,
    /// `configuration`: the default of a policy. `table`: stated for this key or org.
    pub stated_by: &'static str,
}

// === impl ExplainedCharge ===

impl ExplainedCharge {
    /// `stated`: what the table states for the key, and for its org.
    pub(super) fn all(
        charge: &Charge<'_>,
        caller: CallerKind,
        stated: [Option<&LimitSet>; 2],
    ) -> Vec<Self> {
        let per_key = PolicyName::per_key();
        let limits = match &charge.limits {
            ChargedLimits::PerKey(limit) => {
                let (policy, scope) = (&per_key, PolicyScope::Key);
                vec![PolicyCharge { policy, scope, limit: *limit, quota: None, item: None }]
            }
            ChargedLimits::Several(limits) => limits.to_vec(),
        };
        let [of_key, of_org] = stated;
        let by_table = |one: &PolicyCharge<'_>| {
            let set = if one.scope == PolicyScope::Key { of_key } else { of_org };
            set.is_some_and(|set| set.get(one.policy.as_str()).is_some())
        };
        let explained = |one: PolicyCharge<'_>| Self {
            policy: one.policy.as_str().to_owned(),
            scope: match (one.scope, caller) {
                (PolicyScope::Key, CallerKind::Token) => "subject",
                (scope, _) => scope.as_str(),
            },
            limit: one.to_string(),
            cost: charge.cost,
            stated_by: if by_table(&one) { "table" } else { "configuration" },
        };
        limits.into_iter().map(explained).collect()
    }
}

impl fmt::Display for ExplainedCharge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, scope, limit, cost, stated_by } = self;
        write!(f, "{cost} under {policy}, {limit} of the {scope}, by the {stated_by}")
    }
}
