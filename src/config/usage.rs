//! `[usage]` and `[metrics]`: whether uses of keys are counted, and where the count is shown.

use std::path::PathBuf;

use super::delivery::remote_url;
use super::fault::ConfigProblem;
use super::section::ConfigSection;
use crate::core::address;

const TOP_ORGS: u64 = 50;
/// No scrape should have more series than this.
const MOST: u64 = 1_000;

/// Where uses of keys are shown in addition to `/usage`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UseReports {
    /// Usage records are posted there.
    pub post_url: Option<Box<str>>,
    /// The most keys with their own metric. 0: none.
    pub top_keys: usize,
    /// The most orgs with their own metric. 0: none.
    pub top_orgs: usize,
}

/// How keygate counts and reports the uses of each key.
#[derive(Clone, Debug)]
pub struct UsageConfig {
    /// Uses are counted, which takes 8 bytes per key.
    pub enabled: bool,
    /// The name that counts are reported under. `None`: the host's name.
    pub instance: Option<Box<str>>,
    /// Usage records are added to it.
    pub file: Option<PathBuf>,
}

pub(super) fn usage(section: &ConfigSection<'_>) -> UsageConfig {
    let usage = UsageConfig {
        enabled: section.flag_unless_off("enabled"),
        instance: section.parse("instance", instance).flatten(),
        file: section.path("file"),
    };
    for key in ["file", "post_url"] {
        if !usage.enabled && section.has(key) {
            let problem = ConfigProblem::new("has no effect while usage.enabled is false");
            section.fault(key, problem.hint("remove one of the two"));
        }
    }
    usage
}

/// The part that a reload can change.
pub(super) fn reports(usage: &ConfigSection<'_>, metrics: &ConfigSection<'_>) -> UseReports {
    let advice = "put it in a file and name it as table.http.bearer_file";
    usage.refuse("bearer", "a secret does not belong into this file", advice);
    usage.refuse("bearer_file", "posts have the credential of tables", advice);
    UseReports {
        post_url: usage.parse("post_url", post_url),
        top_keys: metrics.integer("top_keys", 0, 0..=MOST) as usize,
        top_orgs: metrics.integer("top_orgs", TOP_ORGS, 0..=MOST) as usize,
    }
}

/// Empty if an environment variable is: `${POD_UID:-}`.
fn instance(text: &str) -> Result<Option<Box<str>>, ConfigProblem> {
    match text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(Some(text.into()).filter(|_| !text.is_empty())),
        false => Err(ConfigProblem::new("must be at most 128 visible ASCII characters")),
    }
}

/// This URL receives the credential, and learns which key is used from where.
fn post_url(text: &str) -> Result<Box<str>, ConfigProblem> {
    let uri = remote_url(text)?;
    match uri.scheme_str() {
        Some("http") if !uri.host().is_some_and(address::is_this_host) => {
            Err(ConfigProblem::new("must be https:// beyond this host")
                .hint("it carries a credential, and which key is used from where"))
        }
        _ => Ok(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_records_are_posted() {
        for (text, ok) in [
            ("https://keys.internal/v1/usage", true),
            ("http://127.0.0.1:9000/usage", true),
            ("http://[::1]:9000/usage", true),
            ("http://localhost/usage", true),
            ("http://keys.internal/v1/usage", false),
            ("http://localhost.evil.example/", false),
            ("https://user:secret@keys.internal/", false),
            ("ftp://keys.internal/", false),
            ("keys.internal", false),
            ("/v1/usage", false),
            ("", false),
        ] {
            assert_eq!(post_url(text).is_ok(), ok, "{text}");
        }
    }

    #[test]
    fn names_of_instances() {
        assert_eq!(instance("").unwrap(), None);
        assert_eq!(instance("orders-7f").unwrap().as_deref(), Some("orders-7f"));
        assert!(instance("a b").is_err() && instance(&"a".repeat(129)).is_err());
    }
}
