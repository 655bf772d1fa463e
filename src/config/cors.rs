//! `[[cors]]`: pages of other origins that may read keygate's answers.

use std::time::Duration;

use http::header;

use super::IdentityFields;
use super::fault::ConfigProblem;
use super::section::ConfigSection;
use crate::core::cors::{CorsRule, CorsRules, Credentials, Origin, OriginError, Origins};
use crate::core::refusal::Refusals;
use crate::core::route::Pattern;

/// Chromium keeps a preflight for at most two hours, whatever the server says.
const MAX_AGE: Duration = Duration::from_secs(600);

pub(super) fn rules(root: &ConfigSection<'_>) -> CorsRules {
    let mut rules: Vec<CorsRule> = Vec::new();
    for section in root.sections("cors") {
        let Some(rule) = rule(&section) else { continue };
        if rules.iter().any(|known| known.pattern.is_same(&rule.pattern)) {
            let problem = ConfigProblem::new("is the path of an earlier [[cors]]");
            section.fault("path", problem.hint("list all its origins in one"));
        }
        rules.push(rule);
    }
    CorsRules::new(rules)
}

fn rule(section: &ConfigSection<'_>) -> Option<CorsRule> {
    if !section.has("path") {
        section.missing("path", "for example path = \"/v1/*\"");
    }
    let pattern = section.parse("path", |text| {
        Pattern::parse(text)
            .map_err(|e| ConfigProblem::from(e).hint("patterns look like /a/{id}/b or /a/*"))
    });
    if section.texts("origins").is_empty() {
        section.missing("origins", "for example origins = [\"https://app.example\"]");
    }
    // `None`: every origin.
    let origins = section.parse_list("origins", |text| match text {
        "*" => Ok(None),
        text => Origin::parse(text).map(Some).map_err(with_hint),
    });
    let credentials = match section.flag("credentials") {
        true => Credentials::Included,
        false => Credentials::Omitted,
    };
    let any = origins.contains(&None);
    if any && origins.len() > 1 {
        section.fault("origins", ConfigProblem::new("has `*` beside other origins"));
    }
    if any && credentials == Credentials::Included {
        let problem = ConfigProblem::new("browsers take no `*` together with credentials");
        section.fault("credentials", problem.hint("list the origins, or leave credentials out"));
    }
    let origins = match any {
        true => Origins::Any,
        false => Origins::Listed(origins.into_iter().flatten().collect()),
    };
    let max_age = section.pause("max_age", MAX_AGE);
    Some(CorsRule { pattern: pattern?, origins, credentials, max_age })
}

fn with_hint(error: OriginError) -> ConfigProblem {
    let hint = match error {
        OriginError::Null => "serve the page from an address, and name that",
        OriginError::Syntax => {
            "origins have no path and look like https://app.example or http://localhost:3000"
        }
        OriginError::Star | OriginError::TopLevel => {
            "write https://*.example.com for each host one label below, or \"*\" for every origin"
        }
    };
    ConfigProblem::from(error).hint(hint)
}

/// The fields of refusals that scripts can read only if they are named.
pub(super) fn exposed(refusals: &Refusals, identity: &IdentityFields) -> Box<str> {
    let fixed = [header::RETRY_AFTER, header::WWW_AUTHENTICATE, identity.request_id.clone()];
    let names: Vec<_> = refusals.rate_fields.names().chain(fixed).collect();
    let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
    names.join(", ").into()
}
