//! Whether NetworkPolicies keep clients off a port of a pod (networking.k8s.io/v1: policies add up;
//! a pod that no policy selects is open).

use std::ops::RangeInclusive;

use serde_json::Value;

use super::super::stream::ObjectRef;

/// What policies leave of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PolicyCover {
    /// This one admits somebody.
    Admits(String),
    Closed,
    /// No policy selects the pod.
    None,
}

/// `policies`: those of the pod's namespace. `names`: those that the port has in the pod.
pub(super) fn cover<'p>(
    policies: impl Iterator<Item = &'p Value>,
    labels: &Value,
    port: u16,
    names: &[&str],
) -> PolicyCover {
    let mut found = PolicyCover::None;
    for policy in policies {
        let spec = &policy["spec"];
        let kinds = spec["policyTypes"].as_array();
        let is_ingress = kinds.is_none_or(|kinds| kinds.iter().any(|kind| kind == "Ingress"));
        if !is_ingress || !is_selected(&spec["podSelector"], labels) {
            continue;
        }
        found = PolicyCover::Closed;
        let rules = spec["ingress"].as_array().into_iter().flatten();
        if rules.into_iter().any(|rule| admits(rule, port, names)) {
            return PolicyCover::Admits(ObjectRef::of(policy).name);
        }
    }
    found
}

/// A rule without ports admits all of them; a rule by name admits the ports that have the name in
/// this pod.
fn admits(rule: &Value, port: u16, names: &[&str]) -> bool {
    let Some(ports) = rule["ports"].as_array().filter(|ports| !ports.is_empty()) else {
        return true;
    };
    ports.iter().any(|entry| {
        let is_tcp = entry.get("protocol").and_then(Value::as_str).is_none_or(|p| p == "TCP");
        let first = match entry.get("port") {
            None | Some(Value::Null) => return is_tcp,
            Some(Value::String(name)) => return is_tcp && names.contains(&&**name),
            Some(first) => first.as_u64(),
        };
        let last = entry.get("endPort").and_then(Value::as_u64).or(first);
        is_tcp && first <= Some(u64::from(port)) && Some(u64::from(port)) <= last && first.is_some()
    })
}

/// The ports that policies admit by number.
pub(super) fn admitted<'p>(
    policies: &'p [&'p Value],
) -> impl Iterator<Item = RangeInclusive<u16>> + 'p {
    let rules = policies.iter().flat_map(|policy| policy["spec"]["ingress"].as_array());
    let entries = rules.flatten().flat_map(|rule| rule["ports"].as_array()).flatten();
    entries.filter_map(|entry| {
        let number = |name: &str| entry.get(name).and_then(Value::as_u64);
        let first = number("port").and_then(|first| u16::try_from(first).ok());
        let last = number("endPort").map_or(first, |last| u16::try_from(last).ok());
        Some(first?..=last?)
    })
}

/// A label selector; an empty one selects everything.
fn is_selected(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    wanted.into_iter().all(|(name, value)| labels.get(name) == Some(value))
        && expressions.into_iter().all(|expression| {
            let value = expression["key"].as_str().and_then(|key| labels.get(key));
            let values = expression["values"].as_array();
            let is_listed = || values.is_some_and(|v| value.is_some_and(|value| v.contains(value)));
            match expression["operator"].as_str() {
                Some("In") => is_listed(),
                Some("NotIn") => !is_listed(),
                Some("Exists") => value.is_some(),
                Some("DoesNotExist") => value.is_none(),
                _ => false,
            }
        })
}
