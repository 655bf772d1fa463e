//! Orgs and policies that a command names for the first time and that resemble known ones: a key of
//! the org `amce` belongs to nobody, and a limit for the policy `serch` limits nothing. Imports the
//! registry.

use std::collections::BTreeSet;

use super::error::Result;
use super::operation::LimitChange;
use super::output::Output;
use super::registry::{Filter, Form, Registry};
use crate::core::{LimitSet, OrgId, PolicyName};

/// A larger `keys.jsonl` is not read whole for this: the check must not take longer than writing
/// the change.
const READ_AT_MOST: u64 = 8 << 20;

/// Words that a registry uses.
#[derive(Debug, Default)]
pub struct KnownWords {
    orgs: BTreeSet<OrgId>,
    policies: BTreeSet<PolicyName>,
}

// === impl KnownWords ===

impl KnownWords {
    /// Words of the settings, and of the keys unless there are too many.
    pub fn of(registry: &Registry) -> Result<Self> {
        let settings = &registry.settings;
        let mut known = Self { orgs: settings.orgs.keys().cloned().collect(), ..Self::default() };
        let terms = settings.orgs.values().map(|terms| &terms.limits);
        settings.plans.values().chain(terms).for_each(|limits| known.take_policies(limits));
        let bytes = std::fs::metadata(&registry.real).map_or(0, |meta| meta.len());
        if registry.form == Form::Toml || bytes <= READ_AT_MOST {
            registry.scan(&Filter::default(), &mut |located| {
                known.take_policies(&located.entry.limits);
                known.orgs.insert(located.entry.org);
                Ok(())
            })?;
        }
        Ok(known)
    }

    fn take_policies(&mut self, limits: &LimitSet) {
        self.policies.extend(limits.iter().map(|named| named.policy.clone()));
    }

    pub fn warn_of_org(&self, org: &OrgId, output: &Output) {
        let near = nearest(org.as_str(), self.orgs.iter().map(OrgId::as_str));
        if let Some(near) = near {
            output.warn(&format!(
                "no other key is of the org `{}`\nhint: did you mean `{near}`?",
                org.as_str()
            ));
        }
    }

    pub fn warn_of_policies(&self, changes: &[LimitChange], output: &Output) {
        for LimitChange { policy, limit } in changes {
            let known = std::iter::once(PolicyName::PER_KEY)
                .chain(self.policies.iter().map(PolicyName::as_str));
            if limit.is_some()
                && let Some(near) = nearest(policy.as_str(), known)
            {
                output.warn(&format!(
                    "nothing else in the registry limits the policy `{}`\n\
                     hint: did you mean `{near}`?",
                    policy.as_str()
                ));
            }
        }
    }
}

/// The known word that an unknown one was probably meant to be. Words that differ in a number are
/// meant that way: `org-17` is not a typo for `org-16`.
fn nearest<'w>(typed: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let digits = |word: &str| word.bytes().filter(u8::is_ascii_digit).collect::<Vec<_>>();
    let of_typed = digits(typed);
    let mut nearest: Option<(usize, &str)> = None;
    for word in known {
        let distance = match word.eq_ignore_ascii_case(typed) {
            true if word == typed => return None,
            true => 0,
            false => strsim::damerau_levenshtein(typed, word),
        };
        let is_near = distance <= word.len().min(typed.len()) / 4 && digits(word) == of_typed;
        if is_near && nearest.is_none_or(|(least, _)| distance < least) {
            nearest = Some((distance, word));
        }
    }
    nearest.map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_told_from_another_word() {
        for (typed, known, want) in [
            ("amce", &["acme", "beta"][..], Some("acme")),
            ("ACME", &["acme"], Some("acme")),
            ("acme", &["acme", "amce"], None),
            ("serch", &["search", "per-key"], Some("search")),
            ("per_key", &["per-key"], Some("per-key")),
            ("org-17", &["org-16", "org-1"], None),
            ("org_17", &["org-17"], Some("org-17")),
            ("eu", &["us", "e"], None),
            ("acme-eu", &["acme"], None),
            ("daily", &["monthly", "weekly"], None),
            ("anything", &[], None),
        ] {
            assert_eq!(nearest(typed, known.iter().copied()), want, "{typed}");
        }
    }
}
