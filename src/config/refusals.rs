//! `[refusals]`: what callers see.

use http::header::{self, HeaderName, HeaderValue};

use super::fault::ConfigProblem;
use super::raw::ConfigText;
use super::section::ConfigSection;
use crate::core::reason::Disclosure;
use crate::core::refusal::{
    Challenges, PreparedRefusals, Profile, RateFields, Refusals, Scheme, Template, TemplateError,
};
use crate::core::{CredentialSource, Reason};

const REALM: &str = "api";

pub(super) fn refusals(section: &ConfigSection<'_>, sources: &[CredentialSource]) -> Refusals {
    let disclosure = section.choice(
        "disclosure",
        Disclosure::Detailed,
        &[("detailed", Disclosure::Detailed), ("uniform", Disclosure::Uniform)],
    );
    let mut refusals = Refusals {
        disclosure,
        default: Profile::default(),
        by_accept: Vec::new(),
        templates: templates(section, disclosure),
        challenges: challenges(section, sources),
        rate_fields: rate_fields(section),
        docs: section.parse("docs", |text| {
            match (text.starts_with("https://") || text.starts_with("http://"))
                && text.bytes().all(|b| b.is_ascii_graphic())
                && !text.contains('#')
            {
                true => Ok(Box::<str>::from(text)),
                false => Err(ConfigProblem::new("must be a URL without a fragment")),
            }
        }),
        prepared: PreparedRefusals::default(),
    };
    let default = section
        .parse("profile", |text| refusals.profile(text).ok_or_else(|| unknown_profile(&refusals)));
    refusals.default = default.unwrap_or_default();
    refusals.by_accept = section.parse_list("accept", |text| match refusals.has_profile(text) {
        true => Ok(Box::from(text)),
        false => Err(unknown_profile(&refusals)),
    });
    refusals
}

pub(super) fn unknown_profile(refusals: &Refusals) -> ConfigProblem {
    let known = refusals.profiles().collect::<Vec<_>>().join(", ");
    ConfigProblem::new("is no refusal profile")
        .hint(format!("profiles: {known}; more in [refusals.templates.NAME]"))
}

fn challenges(section: &ConfigSection<'_>, sources: &[CredentialSource]) -> Challenges {
    let realm = section.parse("realm", |text| {
        match (1..=128).contains(&text.len()) && text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            true => Ok(text.to_owned()),
            false => Err(ConfigProblem::new("must be 1 to 128 printable ASCII characters")),
        }
    });
    let schemes = section.parse_list("challenges", |text| {
        let words =
            [("bearer", Scheme::Bearer), ("basic", Scheme::Basic), ("api-key", Scheme::ApiKey)];
        super::raw::pick(text, &words)
    });
    let schemes = section.has("challenges").then_some(schemes);
    Challenges::new(realm.as_deref().unwrap_or(REALM), schemes, sources)
}

fn rate_fields(section: &ConfigSection<'_>) -> RateFields {
    let words = section.parse_list("rate_limit_fields", |text| {
        super::raw::pick(text, &[("ratelimit", false), ("x-ratelimit", true)])
    });
    match section.has("rate_limit_fields") {
        true => RateFields { standard: words.contains(&false), x: words.contains(&true) },
        false => RateFields::default(),
    }
}

fn templates(section: &ConfigSection<'_>, disclosure: Disclosure) -> Vec<(Box<str>, Template)> {
    let mut templates = Vec::new();
    for (name, section) in section.named("templates") {
        if Profile::BUILT_IN.iter().any(|(known, _)| *known == name) {
            let problem = ConfigProblem::new("is the name of a built-in profile");
            section.reader().fault(&section.place(), problem.hint("choose another name"));
        }
        let content_type = section.parse("content_type", |text| {
            match text.contains('/').then(|| HeaderValue::from_str(text)) {
                Some(Ok(value)) => Ok(value),
                _ => Err(ConfigProblem::new("is not a content type")),
            }
        });
        let content_type =
            content_type.unwrap_or_else(|| HeaderValue::from_static("application/json"));
        let headers = headers(&section);
        if !section.has("body") {
            section.missing("body", "for example body = '{\"code\":\"{{code}}\"}'");
        }
        let template = section
            .parse("body", |text| Template::parse(content_type, headers, text).map_err(hinted));
        let bodies = section.pairs("bodies");
        let template = template.map(|mut template| {
            bodies_by_code(&section, &bodies, &mut template, disclosure);
            template
        });
        // An invalid template still has its name, so that routes that use it add no fault.
        let empty = || Template::parse(HeaderValue::from_static("text/plain"), Vec::new(), "").ok();
        if let Some(template) = template.or_else(empty) {
            templates.push((name.into(), template));
        }
    }
    templates
}

/// Bodies for single codes.
fn bodies_by_code(
    section: &ConfigSection<'_>,
    bodies: &[(ConfigText, ConfigText)],
    template: &mut Template,
    disclosure: Disclosure,
) {
    let reader = section.reader();
    for (code, body) in bodies {
        let code = reader.parse(code, |text| {
            let mut shown: Vec<_> = Reason::ALL.iter().map(|r| r.code(disclosure)).collect();
            shown.sort_unstable();
            shown.dedup();
            shown.iter().find(|code| **code == text).copied().ok_or_else(|| {
                let problem = ConfigProblem::new("is no code of a refusal");
                problem.hint(format!("codes: {}", shown.join(", ")))
            })
        });
        if let Some(code) = code {
            let _added = reader.parse(body, |text| template.add_body(code, text).map_err(hinted));
        }
    }
}

fn hinted(error: TemplateError) -> ConfigProblem {
    let known = Template::placeholders().collect::<Vec<_>>().join(", ");
    ConfigProblem::from(error).hint(format!("placeholders, written {{{{name}}}}: {known}"))
}

/// Extra fields of a template, except those that keygate writes itself.
fn headers(section: &ConfigSection<'_>) -> Vec<(HeaderName, HeaderValue)> {
    const OURS: [HeaderName; 10] = [
        header::ALLOW,
        header::CACHE_CONTROL,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::RETRY_AFTER,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::WWW_AUTHENTICATE,
    ];
    let reader = section.reader();
    let mut fields: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, value) in section.pairs("headers") {
        let parsed = reader.parse(&name, |text| match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) if OURS.contains(&name) => Err(ConfigProblem::new("is written by keygate")),
            Ok(name) if fields.iter().any(|(known, _)| *known == name) => {
                Err(ConfigProblem::new("is listed twice"))
            }
            Ok(name) => Ok(name),
            Err(_) => Err(ConfigProblem::new("is not a header name")),
        });
        let value = reader.parse(&value, |text| {
            HeaderValue::from_str(text).map_err(|_| ConfigProblem::new("is not a header value"))
        });
        if let (Some(name), Some(value)) = (parsed, value) {
            fields.push((name, value));
        }
    }
    fields
}
