//! `[[people.tokens]]` and `[[people.product_sessions]]`: people whom a product knows already, by
//! the token or the cookie that it gave them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::super::store::AudienceName;
use super::super::AudienceConfig;
use super::{audience, one_line};
use crate::config::reader::{ConfigProblem, ConfigSection, secret};
use crate::core::address;
use crate::manage::operation::may::PersonRole;
use crate::token::product::SharedSecret;

/// How a product's words for a role map to roles here. A word without an entry maps to none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProductRoles(BTreeMap<Box<str>, PersonRole>);

/// `[[people.tokens]]`.
#[derive(Clone, Debug)]
pub struct ProductTokenConfig {
    /// For the log and the audit lines.
    pub name: Box<str>,
    pub audience: AudienceName,
    pub proof: TokenProof,
    /// `iss`, byte for byte.
    pub issuer: Option<Box<str>>,
    /// One of `aud`.
    pub token_audience: Option<Box<str>>,
    pub longest_life: Duration,
    pub org_claim: Box<str>,
    pub user_claim: Box<str>,
    pub role_claim: Box<str>,
    pub email_claim: Option<Box<str>>,
    pub roles: ProductRoles,
}

/// What proves that a token is genuine.
#[derive(Clone, Debug)]
pub enum TokenProof {
    /// HS256.
    Secret(Arc<SharedSecret>),
    Keys(JwksPlace),
}

/// Where an issuer's public keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksPlace {
    File(PathBuf),
    Url(Box<str>),
}

/// `[[people.product_sessions]]`.
#[derive(Clone, Debug)]
pub struct ProductSessionConfig {
    /// For the log and the audit lines.
    pub name: Box<str>,
    pub audience: AudienceName,
    /// Answers 200 and JSON to anybody who has a session.
    pub url: Box<str>,
    /// Authorities of the server; `None`: the usual ones.
    pub ca: Option<PathBuf>,
    /// The only cookie that is sent there.
    pub cookie: Box<str>,
    /// JSON pointers (RFC 6901) into the answer.
    pub org: Box<str>,
    pub user: Box<str>,
    pub role: Box<str>,
    pub email: Option<Box<str>>,
    pub roles: ProductRoles,
}

// === impl ProductRoles ===

impl FromIterator<(Box<str>, PersonRole)> for ProductRoles {
    fn from_iter<T: IntoIterator<Item = (Box<str>, PersonRole)>>(pairs: T) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl ProductRoles {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn of(&self, word: &str) -> Option<PersonRole> {
        self.0.get(word).copied()
    }

    /// Among several words, the role that allows most.
    pub fn strongest<'w>(&self, words: impl Iterator<Item = &'w str>) -> Option<PersonRole> {
        const BY_POWER: [PersonRole; 4] =
            [PersonRole::Owner, PersonRole::Admin, PersonRole::Member, PersonRole::Auditor];
        let held: Vec<PersonRole> = words.filter_map(|word| self.of(word)).collect();
        BY_POWER.into_iter().find(|role| held.contains(role))
    }
}

/// The table `roles` of a section: a product's words on the left, ours on the right.
pub(super) fn roles(section: &ConfigSection<'_>) -> ProductRoles {
    let mut found = Vec::new();
    for (word, role) in section.pairs("roles") {
        let parsed = section.reader().parse(&role, |text| {
            // Operators belong to the installation: no product makes one.
            PersonRole::parse(text).filter(|role| *role != PersonRole::Operator).ok_or_else(|| {
                ConfigProblem::new("must be owner, admin, member or auditor")
                    .hint("on the left is the product's word for a role, on the right ours")
            })
        });
        if let Some(role) = parsed {
            found.push((word.text.as_str().into(), role));
        }
    }
    found.into_iter().collect()
}

/// Without any, nobody could get in.
fn needed_roles(section: &ConfigSection<'_>) -> ProductRoles {
    let found = roles(section);
    if !section.has("roles") {
        section.missing("roles", "for example roles = { admin = \"admin\", agent = \"member\" }");
    }
    found
}

fn name(section: &ConfigSection<'_>) -> Option<Box<str>> {
    if !section.has("name") {
        section.missing("name", "the name of the product: audit lines have it");
    }
    section.parse("name", super::super::name)
}

pub(super) fn tokens(
    people: &ConfigSection<'_>,
    audiences: &[AudienceConfig],
) -> Vec<ProductTokenConfig> {
    let mut found = Vec::new();
    for section in people.sections("tokens") {
        let name = name(&section);
        let audience = audience(&section, audiences);
        let proof = proof(&section);
        let claim =
            |key, standard: &str| section.parse(key, one_line).unwrap_or_else(|| standard.into());
        let longest_life = section.duration("longest_life", Duration::from_secs(24 * 60 * 60));
        let org_claim = claim("org_claim", "org");
        let user_claim = claim("user_claim", "sub");
        let role_claim = claim("role_claim", "role");
        let issuer = section.parse("issuer", one_line);
        let token_audience = section.parse("token_audience", one_line);
        let email_claim = section.parse("email_claim", one_line);
        let roles = needed_roles(&section);
        let (Some(name), Some(audience), Some(proof)) = (name, audience, proof) else { continue };
        found.push(ProductTokenConfig {
            name,
            audience,
            proof,
            issuer,
            token_audience,
            longest_life,
            org_claim,
            user_claim,
            role_claim,
            email_claim,
            roles,
        });
    }
    found
}

fn proof(section: &ConfigSection<'_>) -> Option<TokenProof> {
    let keys = ["secret_file", "jwks_file", "jwks_url"];
    let given: Vec<&'static str> = keys.into_iter().filter(|key| section.has(key)).collect();
    let file = section.file("jwks_file");
    let url = section.parse("jwks_url", url);
    let make = "openssl rand -base64 48 > FILE";
    let secret = secret(section, "secret_file", "people.tokens.secret_file", make);
    match given.as_slice() {
        ["secret_file"] => {
            let file = secret?;
            let bytes = file.bytes.trim_ascii();
            if bytes.len() < SharedSecret::LEAST {
                let what = format!("must hold at least {} bytes", SharedSecret::LEAST);
                let hint = "whoever guesses a shorter one makes people (RFC 7518 section 3.2)";
                section.fault("secret_file", file.problem(&what).hint(hint));
                return None;
            }
            Some(TokenProof::Secret(Arc::new(SharedSecret::new(bytes))))
        }
        ["jwks_file"] => file.map(JwksPlace::File).map(TokenProof::Keys),
        [_] => url.map(JwksPlace::Url).map(TokenProof::Keys),
        [] => {
            let hint = "secret_file for HS256, or jwks_file or jwks_url for the issuer's keys";
            section.missing("secret_file", hint);
            None
        }
        [_, second, ..] => {
            let problem = ConfigProblem::new("is one proof too many");
            section.fault(second, problem.hint("one of secret_file, jwks_file and jwks_url"));
            None
        }
    }
}

/// `https`, or `http` on this host.
pub(super) fn url(text: &str) -> Result<Box<str>, ConfigProblem> {
    let uri: http::Uri = text.parse().map_err(|_| ConfigProblem::new("is not a URL"))?;
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if uri.host().is_some_and(address::is_this_host) => {}
        _ => {
            let problem = ConfigProblem::new("must begin with https://");
            return Err(
                problem.hint("what is asked there says who is who; http:// is for this host")
            );
        }
    }
    match uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        true => Err(ConfigProblem::new("must hold no name and password")),
        false => Ok(text.into()),
    }
}

pub(super) fn sessions(
    people: &ConfigSection<'_>,
    audiences: &[AudienceConfig],
) -> Vec<ProductSessionConfig> {
    let mut found: Vec<ProductSessionConfig> = Vec::new();
    for section in people.sections("product_sessions") {
        let name = name(&section);
        let audience = audience(&section, audiences);
        let url = section.parse("url", url);
        if !section.has("url") {
            let hint = "the product's endpoint that says whose session a cookie is";
            section.missing("url", hint);
        }
        let cookie = section.parse("cookie", cookie);
        if !section.has("cookie") {
            section.missing("cookie", "the name of the product's session cookie");
        }
        let needed = |key: &'static str, hint| {
            if !section.has(key) {
                section.missing(key, hint);
            }
            section.parse(key, pointer)
        };
        let org = needed("org", "where in the answer: org = \"/session/activeOrganizationId\"");
        let user = needed("user", "where in the answer: user = \"/user/id\"");
        let role = needed("role", "where in the answer: role = \"/member/role\"");
        let email = section.parse("email", pointer);
        let ca = section.file("ca");
        let roles = needed_roles(&section);
        let (Some(name), Some(audience), Some(url), Some(cookie)) = (name, audience, url, cookie)
        else {
            continue;
        };
        let (Some(org), Some(user), Some(role)) = (org, user, role) else { continue };
        if found.iter().any(|other| other.cookie == cookie) {
            let problem = ConfigProblem::new("is that of another product as well");
            section.fault("cookie", problem.hint("a cookie is one product's"));
            continue;
        }
        found.push(ProductSessionConfig {
            name,
            audience,
            url,
            ca,
            cookie,
            org,
            user,
            role,
            email,
            roles,
        });
    }
    found
}

/// RFC 6265 section 4.1.1: a token.
fn cookie(text: &str) -> Result<Box<str>, ConfigProblem> {
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte);
    match (1..=128).contains(&text.len()) && text.bytes().all(fits) {
        true if text == crate::registrar::request::SESSION_COOKIE => {
            Err(ConfigProblem::new("is our own cookie").hint("name the product's session cookie"))
        }
        true => Ok(text.into()),
        false => Err(ConfigProblem::new("is not the name of a cookie")
            .hint("its name alone, as `document.cookie` or Set-Cookie has it before the `=`")),
    }
}

fn pointer(text: &str) -> Result<Box<str>, ConfigProblem> {
    match text.starts_with('/') {
        true => Ok(text.into()),
        false => Err(ConfigProblem::new("is not a JSON pointer")
            .hint("it begins with `/`, as \"/user/id\" (RFC 6901)")),
    }
}
