//! Limits by policy as a registry writes them: `limit` for the policy `per-key`, `limits` for all
//! others. Imports core only.

use std::collections::BTreeMap;

use super::words::{FieldFault, parse_limit, parse_policy, show_limit, taken};
use crate::core::{LimitSet, NamedLimit, PolicyName};

/// Both fields together; `per-key` may be among the `limits` if there is no `limit`.
pub(super) fn parse_limits(
    plain: Option<&str>,
    limits: &BTreeMap<String, String>,
    faults: &mut Vec<FieldFault>,
) -> LimitSet {
    let plain = plain.map(|text| (PolicyName::PER_KEY, text, "limit"));
    if plain.is_some() && limits.contains_key(PolicyName::PER_KEY) {
        let why = "`per-key` is what `limit` states already; leave one of them out";
        faults.push(FieldFault::new("limits", why));
    }
    let named = limits.iter().map(|(name, text)| (name.as_str(), text.as_str(), "limits"));
    let parsed: Vec<_> = plain
        .into_iter()
        .chain(named)
        .filter_map(|(name, text, field)| {
            let policy = taken(field, parse_policy(name), faults)?;
            let limit = taken(field, parse_limit(text), faults)?;
            Some(NamedLimit { policy, limit })
        })
        .collect();
    let set = LimitSet::new(parsed);
    if set.len() > LimitSet::MOST {
        faults.push(FieldFault::new("limits", format!("at most {} limits", LimitSet::MOST)));
    }
    set
}

/// The field `limit`.
pub(super) fn raw_limit(limits: &LimitSet) -> Option<String> {
    limits.per_key().map(show_limit)
}

/// The field `limits`.
pub(super) fn raw_limits(limits: &LimitSet) -> BTreeMap<String, String> {
    let others = limits.iter().filter(|named| named.policy.as_str() != PolicyName::PER_KEY);
    others.map(|n| (n.policy.as_str().to_owned(), show_limit(n.limit))).collect()
}
