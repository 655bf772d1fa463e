//! `[people]`: how long sessions last, where requests may carry keys, and how people sign in.

mod oidc;
mod product;
mod sidecars;

use std::time::Duration;

use http::HeaderName;

pub use self::oidc::{OidcConfig, OidcRights};
pub use self::product::{
    JwksPlace, ProductRoles, ProductSessionConfig, ProductTokenConfig, TokenProof,
};
pub use self::sidecars::{SidecarConfig, SidecarProof};
use super::{AudienceConfig, origin};
use crate::config::Bind;
use crate::config::reader::{ConfigProblem, ConfigSection};
use crate::registrar::store::AudienceName;

/// The longest session that can be configured: it has to end within a working day.
const LONGEST_LIFE: Duration = Duration::from_secs(12 * 60 * 60);
const LONGEST_IDLE: Duration = Duration::from_secs(30 * 60);
const LONGEST_RECENT: Duration = Duration::from_secs(10 * 60);

/// `[people]`.
#[derive(Clone, Debug)]
pub struct PeopleConfig {
    /// A session that is unused for this long has ended. At most 30 min, the default.
    pub session_idle: Duration,
    /// The end of a session however much it is used. At most 12 h, the default.
    pub session_life: Duration,
    /// The greatest age of the sign-in of somebody who changes members. At most 10 min, the
    /// default.
    pub recent_sign_in: Duration,
    /// Origins of the page in addition to that of `listen.public_url`, such as a product's that has
    /// the page on one of its paths.
    pub origins: Vec<Box<str>>,
    /// Fields that may carry a key, in addition to `Authorization: Bearer`.
    pub key_fields: Vec<HeaderName>,
    /// The field with the public id of a pair.
    pub public_id_field: Option<HeaderName>,
    /// Sidecars that state who asks.
    pub sidecars: Vec<SidecarConfig>,
    /// Tokens that a product gives its people.
    pub tokens: Vec<ProductTokenConfig>,
    /// Products that the service asks whose a cookie is.
    pub sessions: Vec<ProductSessionConfig>,
    /// Providers at which people sign in.
    pub oidc: Vec<OidcConfig>,
}

// === impl PeopleConfig ===

impl Default for PeopleConfig {
    fn default() -> Self {
        Self {
            session_idle: LONGEST_IDLE,
            session_life: LONGEST_LIFE,
            recent_sign_in: LONGEST_RECENT,
            origins: Vec::new(),
            key_fields: vec![HeaderName::from_static("x-api-key")],
            public_id_field: None,
            sidecars: Vec::new(),
            tokens: Vec::new(),
            sessions: Vec::new(),
            oidc: Vec::new(),
        }
    }
}

/// How the service listens, which decides what it may believe.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListensOn<'c> {
    pub(super) bind: Option<&'c Bind>,
    /// Whether it verifies certificates of clients.
    pub(super) verifies_clients: bool,
}

pub(super) fn people(
    root: &ConfigSection<'_>,
    listen: ListensOn<'_>,
    audiences: &[AudienceConfig],
) -> PeopleConfig {
    let section = root.section("people");
    let standard = PeopleConfig::default();
    let mut key_fields = section.parse_list("key_fields", field);
    if !section.has("key_fields") {
        key_fields = standard.key_fields;
    }
    let public_id_field = section.parse("public_id_field", field);
    if public_id_field.as_ref().is_some_and(|id| key_fields.contains(id)) {
        let problem = ConfigProblem::new("is one of people.key_fields as well");
        let hint = "a pair has two fields: the secret is in one of key_fields, its id here";
        section.fault("public_id_field", problem.hint(hint));
    }
    PeopleConfig {
        session_idle: at_most(&section, "session_idle", LONGEST_IDLE),
        session_life: at_most(&section, "session_life", LONGEST_LIFE),
        recent_sign_in: at_most(&section, "recent_sign_in", LONGEST_RECENT),
        origins: section.parse_list("origins", origin),
        key_fields,
        public_id_field,
        sidecars: sidecars::sidecars(&section, listen, audiences),
        tokens: product::tokens(&section, audiences),
        sessions: product::sessions(&section, audiences),
        oidc: oidc::providers(&section, audiences),
    }
}

/// The audience that a section is about: the one it names, or the only one.
fn audience(section: &ConfigSection<'_>, audiences: &[AudienceConfig]) -> Option<AudienceName> {
    let named = section.parse("audience", |text| {
        let known = audiences.iter().find(|audience| audience.name.as_str() == text);
        known.map(|audience| audience.name.clone()).ok_or_else(|| {
            ConfigProblem::new("is no audience of this file")
                .hint("name it as in [[audiences]] name")
        })
    });
    match (section.has("audience"), audiences) {
        (true, _) => named,
        (false, [only]) => Some(only.name.clone()),
        (false, []) => None,
        (false, _) => {
            section.missing("audience", "say whose keys it is about: there are several audiences");
            None
        }
    }
}

/// A duration that can only be made shorter than the default.
fn at_most(section: &ConfigSection<'_>, key: &'static str, most: Duration) -> Duration {
    let found = section.duration(key, most);
    if found > most {
        let shown = humantime::format_duration(most);
        let problem = ConfigProblem::new(format!("must be at most {shown}"));
        section.fault(key, problem.hint("leave it out for the longest"));
    }
    found.min(most)
}

/// The name of a header field that may carry a credential.
fn field(text: &str) -> Result<HeaderName, ConfigProblem> {
    let name: HeaderName =
        text.parse().map_err(|_| ConfigProblem::new("is not the name of a header field"))?;
    match name.as_str() {
        "authorization" | "cookie" | "host" | "origin" => {
            let problem = ConfigProblem::new("has a meaning of its own");
            Err(problem.hint("a key may be in `Authorization: Bearer` without being named here"))
        }
        _ => Ok(name),
    }
}

/// 1 to 255 bytes without control characters.
fn one_line(text: &str) -> Result<Box<str>, ConfigProblem> {
    match (1..=255).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(text.into()),
        false => Err(ConfigProblem::new("must be one line of 1 to 255 bytes")),
    }
}
