//! `[[usage.pull]]` and `[[status.pull]]`: sidecars that the service asks for their usage record,
//! and for what they have in force.

use super::super::store::AudienceName;
use super::AudienceConfig;
use crate::config::UrlOptions;
use crate::config::reader::{ConfigProblem, ConfigSection, secret_path};

/// One sidecar.
#[derive(Clone, Debug)]
pub struct AskedSidecar {
    /// URL of a page of its admin listener.
    pub url: Box<str>,
    /// The audience about which it is believed.
    pub audience: AudienceName,
    pub options: UrlOptions,
}

/// What to ask a sidecar for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AskedFor {
    Status,
    Usage,
}

pub(super) fn pulls(
    root: &ConfigSection<'_>,
    audiences: &[AudienceConfig],
    what: AskedFor,
) -> Vec<AskedSidecar> {
    let (key, example) = match what {
        AskedFor::Status => ("status", "for example url = \"http://10.0.0.7:9901/status\""),
        AskedFor::Usage => ("usage", "for example url = \"http://10.0.0.7:9901/usage\""),
    };
    let mut found: Vec<AskedSidecar> = Vec::new();
    for section in root.section(key).sections("pull") {
        let url = section.parse("url", |text| {
            let uri: http::Uri = text.parse().map_err(|_| ConfigProblem::new("is not a URL"))?;
            let is_plain = uri.authority().is_some_and(|a| !a.as_str().contains('@'));
            match (uri.scheme_str(), uri.query()) {
                (Some("http" | "https"), None) if is_plain => Ok(Box::<str>::from(text)),
                _ => Err(ConfigProblem::new("must be http:// or https://, host and path alone")
                    .hint(example)),
            }
        });
        if !section.has("url") {
            section.missing("url", example);
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
                    section.missing("audience", "whose keys the sidecar has");
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
        found.push(AskedSidecar { url, audience, options });
    }
    found
}
