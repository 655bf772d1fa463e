//! `[[policies]]`: which limits there are in addition to each key's own, and whom they apply to.

use std::path::Path;

use super::fault::ConfigProblem;
use super::raw::ConfigPlace;
use super::routes::{Rule, class};
use super::section::ConfigSection;
use crate::core::limit::LimitError;
use crate::core::{Limit, LimitPolicies, LimitPolicy, PolicyName, PolicyScope, QuotaPeriod};

/// One policy, and its place in the file.
struct PlacedPolicy {
    policy: LimitPolicy,
    name: ConfigPlace,
}

pub(super) fn policies(root: &ConfigSection<'_>, rules: &[Rule]) -> LimitPolicies {
    let mut found: Vec<PlacedPolicy> = Vec::new();
    for section in root.sections("policies") {
        let Some(policy) = policy(&section, rules) else { continue };
        let name = section.place_of("name");
        if let Some(other) = found.iter().find(|known| known.policy.name == policy.name) {
            let line = root.reader().line(&other.name);
            let problem = ConfigProblem::new(format!(
                "policy `{}` is there already (line {line})",
                policy.name.as_str()
            ));
            section.fault("name", problem.hint("a policy has one limit; give the other a name"));
            continue;
        }
        found.push(PlacedPolicy { policy, name });
    }
    if found.len() > LimitPolicies::MOST {
        let problem = ConfigProblem::new(format!("at most {} policies", LimitPolicies::MOST));
        root.fault("policies", problem.hint("every one of them is looked at with every request"));
    }
    costs(root, &found, rules);
    classes(root, &found, rules);
    LimitPolicies::new(found.into_iter().map(|placed| placed.policy))
}

fn policy(section: &ConfigSection<'_>, rules: &[Rule]) -> Option<LimitPolicy> {
    if !section.has("name") {
        section.missing(
            "name",
            "for example name = \"per-key\", which is the policy of a key's limit",
        );
    }
    let name = section.parse("name", |text| match PolicyName::parse(text) {
        Ok(name) if name.as_str() == PolicyName::METRIC_OF_PER_KEY => {
            Err(ConfigProblem::new("metrics call the policy `per-key` so")
                .hint("give it another name; \"per-key\" is the policy of a key's `limit`"))
        }
        Ok(name) => Ok(name),
        Err(error) => Err(ConfigProblem::from(error)),
    });
    let words = [("key", PolicyScope::Key), ("org", PolicyScope::Org)];
    let scope = section.choice("scope", PolicyScope::Key, &words);
    let limit = section.parse("limit", |text| {
        Limit::parse(text).map_err(|error: LimitError| {
            ConfigProblem::new(error.to_string())
                .hint("limits look like \"600/min\", \"10/s\" or \"600/min burst 50\"")
        })
    });
    let quota = section.parse("quota", |text| {
        QuotaPeriod::parse(text).map_err(|error| match error {
            LimitError::Syntax => ConfigProblem::new("must be a count for a day or a month")
                .hint("quotas look like \"1000000/month\" or \"5000/day\", by calendar, in UTC"),
            error => ConfigProblem::new(error.to_string()),
        })
    });
    if section.has("quota") && section.has("limit") {
        let problem = ConfigProblem::new("cannot be combined with policies.limit");
        section.fault("quota", problem.hint("make two policies of them, each with its name"));
    }
    let (quota, limit) = match quota {
        Some((period, count)) => (Some(period), Some(count)),
        None => (None, limit),
    };
    let classes = section.parse_list("classes", class);
    if section.has("classes") && section.texts("classes").is_empty() {
        let problem = ConfigProblem::new("is empty").hint("leave it out for all routes");
        section.fault("classes", problem);
    }
    for text in section.texts("classes") {
        let is_it = |rule: &Rule| rule.route().class.as_deref() == Some(&*text.text);
        if class(&text.text).is_ok() && !rules.iter().any(is_it) {
            let problem = ConfigProblem::new(format!("no route has the class `{}`", text.text));
            let hint = "set class in [[routes]]; a policy for no route would limit nobody";
            section.reader().fault(&text.place, problem.hint(hint));
        }
    }
    Some(LimitPolicy { name: name?, scope, classes: classes.into(), limit, quota })
}

/// A quota that starts again at every restart is seldom intended.
pub(super) fn keep(root: &ConfigSection<'_>, policies: &LimitPolicies, file: Option<&Path>) {
    if file.is_some() || !policies.iter().any(|policy| policy.quota.is_some()) {
        return;
    }
    let problem = ConfigProblem::new("has a quota, which begins anew with every restart");
    let hint = "name a file that outlives the process, under [quotas]: file = \"keygate.quotas\"";
    root.warn("policies", problem.hint(hint));
}

/// A cost above a default's burst: the request would take all of it.
fn costs(root: &ConfigSection<'_>, found: &[PlacedPolicy], rules: &[Rule]) {
    for rule in rules {
        let cost = rule.route().cost;
        for PlacedPolicy { policy, name } in found {
            let Some(limit) = policy.limit.filter(|limit| cost > limit.burst()) else { continue };
            if policy.is_for(rule.route()) {
                let problem = ConfigProblem::new(format!(
                    "{cost} is above the burst of policy `{}` (line {}), which is {}",
                    policy.name.as_str(),
                    root.reader().line(name),
                    limit.burst()
                ));
                let hint = "lower the cost, or raise the limit: no more than its burst can be asked \
                            for at once";
                root.reader().fault(rule.cost_place(), problem.hint(hint));
            }
        }
    }
}

/// A class that no policy names is probably misspelt.
fn classes(root: &ConfigSection<'_>, found: &[PlacedPolicy], rules: &[Rule]) {
    for rule in rules {
        let Some(class) = &rule.route().class else { continue };
        if !found.iter().any(|placed| placed.policy.classes.contains(class)) {
            let problem = ConfigProblem::new(format!("no policy is for the class `{class}`"));
            let hint = "name it in `classes` of a [[policies]], or leave it out";
            root.reader().warn(rule.class_place(), problem.hint(hint));
        }
    }
}
