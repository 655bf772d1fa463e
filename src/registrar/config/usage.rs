//! `[[usage.pull]]`: sidecars whose record of use is fetched.

use super::super::store::AudienceName;
use super::AudienceConfig;
use crate::config::UrlOptions;
use crate::config::reader::{ConfigProblem, ConfigSection, secret_path};

/// One sidecar.
#[derive(Clone, Debug)]
pub struct UsagePull {
    /// Of `/usage` on its admin listener.
    pub url: Box<str>,
    /// That it is believed about.
    pub audience: AudienceName,
    pub options: UrlOptions,
}

pub(super) fn pulls(root: &ConfigSection<'_>, audiences: &[AudienceConfig]) -> Vec<UsagePull> {
    let usage = root.section("usage");
    let mut found: Vec<UsagePull> = Vec::new();
    for section in usage.sections("pull") {
        let url = section.parse("url", |text| {
            let uri: http::Uri = text.parse().map_err(|_| ConfigProblem::new("is not a URL"))?;
            let is_plain = uri.authority().is_some_and(|a| !a.as_str().contains('@'));
            match (uri.scheme_str(), uri.query()) {
                (Some("http" | "https"), None) if is_plain => Ok(Box::<str>::from(text)),
                _ => Err(ConfigProblem::new("must be http:// or https://, host and path alone")
                    .hint("for example url = \"http://10.0.0.7:9901/usage\"")),
            }
        });
        if !section.has("url") {
            section.missing("url", "for example url = \"http://10.0.0.7:9901/usage\"");
        }
        let named = section.parse("audience", |text| {
            let known = audiences.iter().find(|audience| audience.name.as_str() == text);
            known.map(|audience| audience.name.clone()).ok_or_else(|| {
                ConfigProblem::new("is no audience of this file")
                    .hint("name it as in [[audiences]] name")
            })
        });
        let audience = match (named, audiences) {
            (Some(named), _) => Some(named),
            (None, [only]) => Some(only.name.clone()),
            (None, _) => {
                if !section.has("audience") {
                    section.missing("audience", "whose keys the sidecar counts");
                }
                None
            }
        };
        let options = UrlOptions {
            ca: section.file("ca"),
            bearer_file: secret_path(&section, "bearer_file"),
            basic_file: None,
            long_poll: std::time::Duration::ZERO,
        };
        let (Some(url), Some(audience)) = (url, audience) else { continue };
        if found.iter().any(|other| other.url == url) {
            section.fault("url", ConfigProblem::new("is there twice"));
            continue;
        }
        found.push(UsagePull { url, audience, options });
    }
    found
}
