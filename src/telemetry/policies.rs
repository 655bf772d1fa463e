//! Values of the label `policy`: names of policies, in the order in which they were first charged.
//! A bounded list that only grows, shared by all workers. Imports `core`.

use std::sync::OnceLock;

use crate::core::PolicyName;

/// The most values of the label `policy` in addition to that of `per-key`. Further policies share
/// the last.
pub(super) const POLICY_SLOTS: usize = 64;

/// No policy has a name with a space.
const OTHER_POLICIES: &str = "other policies";

/// For a policy whose name in a table is the label's name for `per-key`. A configuration and a
/// registry cannot have such a policy.
const NAMED_AS_LABEL: &str = "policy key";

#[derive(Debug)]
pub(super) struct PolicyLabels([OnceLock<Box<str>>; POLICY_SLOTS]);

// === impl PolicyLabels ===

impl PolicyLabels {
    /// The slot of a name, always the same for the same name.
    pub(super) fn slot(&self, name: &str) -> usize {
        let label = if name == PolicyName::METRIC_OF_PER_KEY { NAMED_AS_LABEL } else { name };
        let named = self.0.iter().take(POLICY_SLOTS - 1);
        named
            .enumerate()
            .find(|(_, slot)| **slot.get_or_init(|| label.into()) == *label)
            .map_or(POLICY_SLOTS - 1, |(at, _)| at)
    }

    /// The slots in use. The last one has its own name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &str)> {
        let named = self.0.iter().enumerate().map_while(|(at, slot)| Some((at, &**slot.get()?)));
        named.chain([(POLICY_SLOTS - 1, OTHER_POLICIES)])
    }
}

impl Default for PolicyLabels {
    fn default() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_stable_bounded_and_never_those_of_per_key() {
        let labels = PolicyLabels::default();
        assert_eq!((labels.slot("search"), labels.slot("key"), labels.slot("search")), (0, 1, 0));
        for n in 0..200 {
            assert!(labels.slot(&format!("p{n}")) < POLICY_SLOTS);
        }
        assert_eq!(labels.slot("p150"), POLICY_SLOTS - 1);
        assert_eq!(labels.slot("search"), 0);
        let shown: Vec<_> = labels.iter().map(|(_, name)| name).collect();
        assert_eq!(shown.len(), POLICY_SLOTS);
        assert_eq!((shown[0], shown[1]), ("search", "policy key"));
        assert_eq!(shown.last(), Some(&OTHER_POLICIES));
        assert!(!shown.contains(&"key"));
    }
}
