//! `[[tokens]]`: issuers of user tokens, and what their claims mean here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Uri, header};

use super::fault::ConfigProblem;
use super::routes::Rule;
use super::section::ConfigSection;
use crate::core::{
    ClaimReading, CredentialSource, KnownOrgs, Limit, Permission, TokenOnward, address,
};
use crate::token::{IssuerRules, TokenAlgorithm};

const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
const LONGEST_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
const STALE: Duration = Duration::from_secs(24 * 3600);

/// The longest time between two fetches of a key set: an hour and a tenth.
const LONGEST_REFRESH: Duration = Duration::from_secs(66 * 60);

/// The most issuers: each has its own series.
pub(crate) const MOST_ISSUERS: usize = 16;

/// Whose user tokens are accepted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenSettings {
    pub issuers: Vec<TokenIssuer>,
}

/// One issuer, and the source of its keys.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenIssuer {
    pub rules: IssuerRules,
    pub jwks: JwksSource,
    /// How long keys are used after their source last had them.
    pub stale: Duration,
}

/// Where to find an issuer's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksSource {
    Path(PathBuf),
    Url {
        url: Box<str>,
        /// Certificates to trust. `None`: the built-in roots.
        ca: Option<PathBuf>,
        /// Where the last good set is kept. `None`: in memory alone.
        copy: Option<PathBuf>,
    },
}

// === impl JwksSource ===

impl JwksSource {
    /// Whether both have the same keys. The place of a copy does not matter for that.
    pub fn has_keys_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path(one), Self::Path(another)) => one == another,
            (Self::Url { url, ca, .. }, Self::Url { url: to, ca: trusted, .. }) => {
                url == to && ca == trusted
            }
            (Self::Path(_), Self::Url { .. }) | (Self::Url { .. }, Self::Path(_)) => false,
        }
    }
}

/// For people: without the query of a URL, which may hold a secret.
impl fmt::Display for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Url { url, .. } => f.write_str(url.split(['?', '#']).next().unwrap_or_default()),
        }
    }
}

// === impl TokenSettings ===

impl TokenSettings {
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    pub fn find(&self, issuer: &str) -> Option<&TokenIssuer> {
        self.issuers.iter().find(|known| *known.rules.issuer == *issuer)
    }
}

pub(super) fn tokens(root: &ConfigSection<'_>) -> TokenSettings {
    let mut issuers: Vec<TokenIssuer> = Vec::new();
    let sections = root.sections("tokens");
    if sections.len() > MOST_ISSUERS {
        let problem = ConfigProblem::new(format!("has more than {MOST_ISSUERS} issuers"));
        root.fault("tokens", problem);
    }
    for section in &sections {
        let Some(issuer) = issuer(section) else { continue };
        if issuers.iter().any(|known| known.rules.issuer == issuer.rules.issuer) {
            let problem = ConfigProblem::new("is the issuer of an earlier [[tokens]]");
            section.fault("issuer", problem.hint("list all its audiences in one"));
        }
        issuers.push(issuer);
    }
    TokenSettings { issuers }
}

fn issuer(section: &ConfigSection<'_>) -> Option<TokenIssuer> {
    for (key, hint) in [
        ("issuer", "the `iss` of its tokens, for example issuer = \"https://idp.example/\""),
        ("audiences", "the `aud` that its tokens for this service have: audiences = [\"orders\"]"),
        ("algorithms", "those that its keys are for, such as algorithms = [\"ES256\"]"),
        ("jwks", "the URL of its keys (`jwks_uri` in its OpenID configuration), or a file"),
        ("org_claim", "the claim that names the org, for example org_claim = \"org_id\""),
    ] {
        if !section.has(key) {
            section.missing(key, hint);
        }
    }
    let issuer = section.parse("issuer", |text| name("an issuer", text));
    let audiences = section.parse_list("audiences", |text| name("an audience", text));
    let algorithms = section.parse_list("algorithms", algorithm);
    for key in ["audiences", "algorithms"] {
        if section.has(key) && section.texts(key).is_empty() {
            section.fault(key, ConfigProblem::new("is empty").hint("name at least one"));
        }
    }
    let types = section.parse_list("types", |text| name("a type", &text.to_ascii_lowercase()));
    let types = types.iter().map(|typ| typ.strip_prefix("application/").unwrap_or(typ).into());
    let max_life = section.duration("max_life", MAX_LIFE);
    if max_life > LONGEST_LIFE {
        let problem = ConfigProblem::new("must be at most 30d")
            .hint("a token cannot be revoked: its end is what ends it");
        section.fault("max_life", problem);
    }
    let permissions_claim = section.parse("permissions_claim", |text| name("a claim", text));
    let permissions = permissions(section);
    match (section.has("permissions_claim"), section.has("permissions")) {
        (true, false) => section.missing(
            "permissions",
            "what the claim's words stand for: permissions = { \"orders:read\" = [\"read\"] }",
        ),
        (false, true) => section.missing(
            "permissions_claim",
            "the claim whose words these are, for example permissions_claim = \"scope\"",
        ),
        _ => {}
    }
    let rules = IssuerRules {
        issuer: Arc::from(issuer.as_deref().unwrap_or_default()),
        audiences,
        algorithms,
        types: types.collect(),
        max_life,
        reading: Arc::new(ClaimReading {
            org_claim: section.parse("org_claim", |text| name("a claim", text)).unwrap_or_default(),
            orgs: section.choice(
                "orgs",
                KnownOrgs::Any,
                &[("any", KnownOrgs::Any), ("table", KnownOrgs::InTable)],
            ),
            permissions_claim,
            permissions,
        }),
        onward: match section.flag("forward") {
            true => TokenOnward::Forward,
            false => TokenOnward::Remove,
        },
        limit: section.parse("limit", Limit::parse),
    };
    let stale = section.duration("jwks_stale", STALE);
    let jwks = jwks(section);
    if stale < LONGEST_REFRESH && matches!(jwks, Some(JwksSource::Url { .. })) {
        let problem = ConfigProblem::new(
            "is shorter than the time between two fetches: five minutes, or up to an hour where the \
             issuer's max-age says so; its tokens get 503 in between",
        );
        section.warn("jwks_stale", problem.hint("jwks_stale = \"1h10m\" or more"));
    }
    issuer?;
    Some(TokenIssuer { rules, jwks: jwks?, stale })
}

fn jwks(section: &ConfigSection<'_>) -> Option<JwksSource> {
    let source = section.parse("jwks", |text| match is_meant_as_url(text) {
        true => url(text).map(|url| JwksSource::Url { url, ca: None, copy: None }),
        false => section.reader().resolve(text).map(JwksSource::Path),
    });
    let (ca, copy) = (section.file("jwks_ca"), section.path("jwks_copy"));
    match source? {
        JwksSource::Path(path) => {
            for key in ["jwks_ca", "jwks_copy"] {
                if section.has(key) {
                    let problem = ConfigProblem::new("is for keys from a URL");
                    section.fault(key, problem.hint("remove it: tokens.jwks is a file"));
                }
            }
            Some(JwksSource::Path(path))
        }
        JwksSource::Url { url, .. } => {
            if !section.has("jwks_copy") {
                let problem = ConfigProblem::new(
                    "is not set: after a restart no token is taken until its issuer answers",
                );
                section.warn("jwks_copy", problem.hint("name a file that outlives the process"));
            }
            Some(JwksSource::Url { url, ca, copy })
        }
    }
}

/// `https:/idp.example/jwks` would be a file in a folder named `https:`.
fn is_meant_as_url(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    text.contains("://") || ["http:", "https:"].iter().any(|scheme| lower.starts_with(scheme))
}

/// Whoever answers at this URL can sign as every user.
fn url(text: &str) -> Result<Box<str>, ConfigProblem> {
    let bad = || {
        ConfigProblem::new("is not a URL")
            .hint("for example https://idp.example/.well-known/jwks.json")
    };
    let uri: Uri = text.parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?;
    if authority.as_str().contains('@') {
        return Err(ConfigProblem::new("must not hold a user or password")
            .hint("the keys of an issuer are public"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(text.into()),
        Some("http") if uri.host().is_some_and(address::is_this_host) => Ok(text.into()),
        Some("http") => Err(ConfigProblem::new("must be https:// beyond this host")
            .hint("whoever changes the keys on the way signs as every user")),
        _ => Err(ConfigProblem::new("must begin with https://")),
    }
}

fn name(what: &str, text: &str) -> Result<Box<str>, ConfigProblem> {
    match (1..=512).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(text.into()),
        false => Err(ConfigProblem::new(format!("is not {what}: 1 to 512 characters"))),
    }
}

fn algorithm(text: &str) -> Result<TokenAlgorithm, ConfigProblem> {
    if let Some(known) = TokenAlgorithm::parse(text) {
        return Ok(known);
    }
    let words = TokenAlgorithm::ALL.map(TokenAlgorithm::as_str).join(", ");
    Err(match text.starts_with("HS") || text == "none" {
        true => ConfigProblem::new("lets everybody who can verify a token make one")
            .hint(format!("have the issuer sign with one of {words}")),
        false => {
            let known = TokenAlgorithm::ALL.map(TokenAlgorithm::as_str);
            let meant = known.into_iter().find(|word| word.eq_ignore_ascii_case(text));
            ConfigProblem::new("is not an algorithm that keygate verifies").hint(match meant {
                Some(word) => format!("did you mean `{word}`?"),
                None => format!("algorithms: {words}; RS256 is what most issuers sign with"),
            })
        }
    })
}

/// The permissions that each word of the claim stands for.
fn permissions(section: &ConfigSection<'_>) -> BTreeMap<Box<str>, Vec<Permission>> {
    let mut map = BTreeMap::new();
    for (word, permissions) in section.lists("permissions") {
        if word.text.is_empty() || word.text.contains(' ') {
            let problem = ConfigProblem::new("is not one word");
            section.reader().fault(&word.place, problem.hint("a claim has words between spaces"));
        }
        let reader = section.reader();
        let parsed = permissions.iter().filter_map(|text| reader.parse(text, Permission::parse));
        map.insert(word.text.as_str().into(), parsed.collect());
    }
    map
}

/// `{"alg":"` and `{"typ":"` in Base64 have this start in common.
const TOKEN_START: &[u8] = b"eyJ";

/// Whether routes, credentials and issuers fit together.
pub(super) fn fit(
    root: &ConfigSection<'_>,
    rules: &[Rule],
    sources: &[CredentialSource],
    tokens: &TokenSettings,
) {
    let taking: Vec<_> = rules.iter().filter(|rule| rule.access().takes_tokens()).collect();
    let Some(first) = taking.first() else {
        if !tokens.is_empty() {
            let problem = ConfigProblem::new("has no effect: no route takes user tokens");
            root.warn("tokens", problem.hint("set access = \"key-or-token\" or \"token\""));
        }
        return;
    };
    if !root.has("tokens") {
        let problem = ConfigProblem::new("takes user tokens, and no issuer is configured");
        root.reader().fault(first.place(), problem.hint("add [[tokens]] (docs/config.md)"));
    }
    let takes_every = |source: &CredentialSource| match source {
        CredentialSource::Bearer { prefixes } => prefixes.own(b""),
        CredentialSource::Header { name, .. } => *name == header::AUTHORIZATION,
        _ => false,
    };
    let takes_some = |source: &CredentialSource| match source {
        CredentialSource::Bearer { prefixes } => prefixes.own(TOKEN_START),
        _ => false,
    };
    if !sources.iter().any(takes_every) && sources.iter().any(takes_some) {
        let problem = ConfigProblem::new(
            "has a prefix that user tokens begin with: they count as keys, and are refused",
        );
        let hint = "every signed token begins with `eyJ`: give your keys another prefix";
        root.warn("credentials", problem.hint(hint));
    }
    if sources.iter().any(takes_every) {
        let problem = ConfigProblem::new(
            "takes user tokens, but every `Authorization: Bearer` counts as a key",
        );
        let hint = "give source = \"bearer\" the prefixes of your keys";
        root.reader().fault(first.place(), problem.hint(hint));
    }
    for rule in taking {
        costs(root, rule, tokens);
    }
}

/// A cost above the burst of a subject's limit: the request would take the whole burst.
fn costs(root: &ConfigSection<'_>, rule: &Rule, tokens: &TokenSettings) {
    let cost = rule.route().cost;
    for issuer in &tokens.issuers {
        if let Some(limit) = issuer.rules.limit.filter(|limit| cost > limit.burst()) {
            let problem = ConfigProblem::new(format!(
                "{cost} is above the burst of tokens.limit of `{}`, which is {}",
                issuer.rules.issuer,
                limit.burst()
            ));
            let hint = "lower the cost, or raise the limit: no more than its burst can be asked for \
                        at once";
            root.reader().fault(rule.cost_place(), problem.hint(hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_keys_may_come_from() {
        for (text, ok) in [
            ("https://idp.example/jwks.json", true),
            ("http://127.0.0.1:9000/jwks", true),
            ("http://[::1]:9000/jwks", true),
            ("http://idp.example/jwks.json", false),
            ("http://localhost.evil.example/", false),
            ("https://user:secret@idp.example/", false),
            ("ftp://idp.example/", false),
        ] {
            assert_eq!(url(text).is_ok(), ok, "{text}");
        }
    }

    #[test]
    fn what_is_meant_as_a_url() {
        for (text, want) in [
            ("https:/idp.example/jwks", true),
            ("HTTPS:idp.example", true),
            ("http:/127.0.0.1/jwks", true),
            ("ftp://idp.example/", true),
            ("jwks.json", false),
            ("/etc/https/jwks.json", false),
        ] {
            assert_eq!(is_meant_as_url(text), want, "{text}");
        }
        assert!(url("https:/idp.example/jwks").is_err());
    }

    #[test]
    fn algorithms_that_share_a_secret_are_refused() {
        for text in ["HS256", "HS512", "none", "ES256K", "es256", ""] {
            assert!(algorithm(text).is_err(), "{text}");
        }
        assert_eq!(algorithm("EdDSA").unwrap(), TokenAlgorithm::EdDsa);
    }
}
