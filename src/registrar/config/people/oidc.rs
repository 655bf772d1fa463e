//! `[[people.oidc]]`: people whom an OpenID provider signs in, and how its claims map to roles
//! here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::super::super::store::AudienceName;
use super::super::AudienceConfig;
use super::product::{ProductRoles, roles, url};
use super::{audience, one_line};
use crate::config::reader::{ConfigProblem, ConfigSection, secret};
use crate::core::OrgId;
use crate::manage::operation::may::PersonRole;

/// The scopes to ask for unless the file names others: who the person is, and their name for
/// people.
const SCOPES: [&str; 3] = ["openid", "profile", "email"];

/// `[[people.oidc]]`.
#[derive(Clone, Debug)]
pub struct OidcConfig {
    /// In paths, logs and metrics.
    pub name: Box<str>,
    /// The provider's name, as people see it.
    pub label: Box<str>,
    /// `iss`, byte for byte. No two providers have the same.
    pub issuer: Box<str>,
    /// Authorities of the provider's servers; `None`: the usual ones.
    pub ca: Option<PathBuf>,
    pub client_id: Box<str>,
    pub client_secret: ClientSecret,
    /// Includes `openid`.
    pub scopes: Vec<Box<str>>,
    /// The only audience whose keys its people manage; `None`: all.
    pub audience: Option<AudienceName>,
    pub rights: OidcRights,
    /// Whether signing out here leads to the provider's own page for that.
    pub signs_out: bool,
}

/// Never printed.
#[derive(Clone)]
pub struct ClientSecret(Arc<Zeroizing<String>>);

/// Which orgs claims put somebody in, and with which role.
#[derive(Clone, Debug)]
pub struct OidcRights {
    places: OidcPlaces,
    /// The claim with the org, or a list of them.
    pub org_claim: Option<Box<str>>,
    pub groups_claim: Box<str>,
    /// For orgs without a table of their own.
    roles: ProductRoles,
    /// For somebody none of whose groups maps to a role.
    default_role: Option<PersonRole>,
    /// Groups of operators. Empty: the provider neither makes operators nor removes any.
    operators: BTreeSet<Box<str>>,
}

/// The orgs that a provider's people may be in.
#[derive(Clone, Debug)]
enum OidcPlaces {
    /// Any org that the claim names.
    Any,
    /// Only these.
    Named(BTreeMap<OrgId, NamedOrg>),
}

#[derive(Clone, Debug, Default)]
struct NamedOrg {
    /// Its name in the claim; `None`: the claim uses its own name.
    claim: Option<Box<str>>,
    /// `None`: as for all orgs.
    roles: Option<ProductRoles>,
}

/// The result of somebody's claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OidcStanding {
    /// The person's orgs, with their role in each. Leaves out orgs that the provider says nothing
    /// about.
    pub roles: BTreeMap<OrgId, PersonRole>,
    /// `None`: the provider does not say.
    pub operator: Option<bool>,
}

// === impl ClientSecret ===

impl ClientSecret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientSecret(..)")
    }
}

// === impl OidcRights ===

impl OidcRights {
    /// The result of these values of the claims. Orgs that nobody may have, and words that map to
    /// nothing, are ignored.
    pub fn standing(&self, orgs: &[String], groups: &[String]) -> OidcStanding {
        let role_by = |roles: &ProductRoles| {
            roles.strongest(groups.iter().map(String::as_str)).or(self.default_role)
        };
        let mut found = BTreeMap::new();
        match &self.places {
            OidcPlaces::Any => {
                let Some(role) = role_by(&self.roles) else {
                    return OidcStanding { roles: found, operator: self.operator(groups) };
                };
                for org in orgs.iter().filter_map(|org| OrgId::parse(org).ok()) {
                    found.insert(org, role);
                }
            }
            OidcPlaces::Named(named) => {
                for (org, terms) in named {
                    let claim = terms.claim.as_deref().unwrap_or(org.as_str());
                    if self.org_claim.is_some() && !orgs.iter().any(|value| value == claim) {
                        continue;
                    }
                    if let Some(role) = role_by(terms.roles.as_ref().unwrap_or(&self.roles)) {
                        found.insert(org.clone(), role);
                    }
                }
            }
        }
        OidcStanding { roles: found, operator: self.operator(groups) }
    }

    /// Whether the provider alone decides who is in this org. If it does not, its people have the
    /// roles that owners give them.
    pub fn governs(&self, org: &OrgId) -> bool {
        let gives = |roles: &ProductRoles| !roles.is_empty() || self.default_role.is_some();
        match &self.places {
            OidcPlaces::Any => gives(&self.roles),
            OidcPlaces::Named(named) => {
                named.get(org).is_some_and(|org| gives(org.roles.as_ref().unwrap_or(&self.roles)))
            }
        }
    }

    /// Whether groups matter. If they do, an answer without groups does not mean that the person
    /// has none.
    pub fn needs_groups(&self) -> bool {
        let has_own = match &self.places {
            OidcPlaces::Any => false,
            OidcPlaces::Named(named) => {
                named.values().any(|org| org.roles.as_ref().is_some_and(|roles| !roles.is_empty()))
            }
        };
        has_own || !self.roles.is_empty() || !self.operators.is_empty()
    }

    fn operator(&self, groups: &[String]) -> Option<bool> {
        let is_one = groups.iter().any(|group| self.operators.contains(group.as_str()));
        (!self.operators.is_empty()).then_some(is_one)
    }
}

pub(super) fn providers(
    people: &ConfigSection<'_>,
    audiences: &[AudienceConfig],
) -> Vec<OidcConfig> {
    let mut found: Vec<OidcConfig> = Vec::new();
    for section in people.sections("oidc") {
        let needed = |key: &'static str, hint| {
            if !section.has(key) {
                section.missing(key, hint);
            }
        };
        needed("name", "for example name = \"okta\": it is in the redirect URI and in metrics");
        let name = section.parse("name", path_name);
        let label = section.parse("label", one_line);
        needed("issuer", "as its own document has it: issuer = \"https://accounts.example.com\"");
        let issuer = section.parse("issuer", issuer);
        needed("client_id", "the name by which the provider knows this service");
        let client_id = section.parse("client_id", one_line);
        let client_secret = client_secret(&section);
        let ca = section.file("ca");
        let scopes = scopes(&section);
        let audience = match section.has("audience") {
            true => audience(&section, audiences),
            false => None,
        };
        let rights = rights(&section);
        let signs_out = section.flag("sign_out");
        let (Some(name), Some(issuer)) = (name, issuer) else { continue };
        let (Some(client_id), Some(client_secret)) = (client_id, client_secret) else { continue };
        if let Some(other) = found.iter().find(|o| o.name == name || o.issuer == issuer) {
            let key = if other.name == name { "name" } else { "issuer" };
            let problem = ConfigProblem::new(format!("is that of `{}`, too", other.name));
            section.fault(key, problem.hint("people are known by issuer and subject: each once"));
            continue;
        }
        let label = label.unwrap_or_else(|| name.clone());
        found.push(OidcConfig {
            name,
            label,
            issuer,
            ca,
            client_id,
            client_secret,
            scopes,
            audience,
            rights,
            signs_out,
        });
    }
    found
}

fn client_secret(section: &ConfigSection<'_>) -> Option<ClientSecret> {
    const KEY: &str = "client_secret_file";
    if !section.has(KEY) {
        section.missing(KEY, "a file with the client's secret, mode 0600");
    }
    let make = "put the secret that the provider shows into FILE";
    let file = secret(section, KEY, "people.oidc.client_secret_file", make)?;
    match std::str::from_utf8(&file.bytes).map(str::trim) {
        Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Some(ClientSecret(Arc::new(Zeroizing::new(text.to_owned()))))
        }
        _ => {
            let problem = file.problem("must hold one line of visible ASCII characters");
            section.fault(KEY, problem.hint("the secret alone, as the provider shows it"));
            None
        }
    }
}

fn scopes(section: &ConfigSection<'_>) -> Vec<Box<str>> {
    let asked = section.parse_list("scopes", |text| -> Result<Box<str>, ConfigProblem> {
        // RFC 6749, section 3.3.
        let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        match (1..=128).contains(&text.len()) && text.bytes().all(fits) {
            true => Ok(text.into()),
            false => Err(ConfigProblem::new("is no scope")
                .hint("one word each: scopes = [\"openid\", \"profile\", \"groups\"]")),
        }
    });
    match section.has("scopes") {
        true if !asked.iter().any(|scope| **scope == *"openid") => {
            let problem = ConfigProblem::new("lacks `openid`");
            section.fault("scopes", problem.hint("without it no provider says who somebody is"));
            asked
        }
        true => asked,
        false => SCOPES.map(Into::into).into(),
    }
}

fn rights(section: &ConfigSection<'_>) -> OidcRights {
    let one = section.parse("org", OrgId::parse);
    let org_claim = section.parse("org_claim", one_line);
    let groups_claim = section.parse("groups_claim", one_line).unwrap_or_else(|| "groups".into());
    let general = roles(section);
    let default_role = section.parse("default_role", role);
    let operators = section.parse_list("operators", one_line).into_iter().collect();
    let mut named = BTreeMap::new();
    for (name, org) in section.named("orgs") {
        let claim = org.parse("claim", one_line);
        let own = roles(&org);
        if claim.is_some() && org_claim.is_none() {
            let problem = ConfigProblem::new("stands in no claim");
            org.fault("claim", problem.hint("org_claim names the claim that has it"));
        }
        match OrgId::parse(&name) {
            Ok(id) => {
                let roles = org.has("roles").then_some(own);
                named.insert(id, NamedOrg { claim, roles });
            }
            Err(error) => {
                let problem = ConfigProblem::new(format!("`{name}` is no organization: {error}"));
                section.fault("orgs", problem.hint("[people.oidc.orgs.acme] is about acme"));
            }
        }
    }
    if section.has("org") && (org_claim.is_some() || !named.is_empty()) {
        let problem = ConfigProblem::new("is one way too many to say the organization");
        section.fault("org", problem.hint("either org, or org_claim and [people.oidc.orgs.NAME]"));
    }
    let says_where = section.has("org") || org_claim.is_some() || !named.is_empty();
    let has_own = named.values().any(|org: &NamedOrg| org.roles.is_some());
    let says_what = !general.is_empty() || default_role.is_some() || has_own;
    if says_what && !says_where {
        section.missing("org", "roles are of an organization: org = \"acme\", or org_claim");
    }
    if says_where && !says_what {
        let hint = "what groups stand for, such as roles = { \"key-admins\" = \"admin\" }, or \
                    default_role; without any, leave out org and org_claim as well: owners give roles";
        section.missing("roles", hint);
    }
    let places = match one {
        Some(org) => OidcPlaces::Named([(org, NamedOrg::default())].into_iter().collect()),
        None if named.is_empty() && org_claim.is_some() => OidcPlaces::Any,
        None => OidcPlaces::Named(named),
    };
    OidcRights { places, org_claim, groups_claim, roles: general, default_role, operators }
}

fn role(text: &str) -> Result<PersonRole, ConfigProblem> {
    PersonRole::parse(text).filter(|role| *role != PersonRole::Operator).ok_or_else(|| {
        ConfigProblem::new("must be owner, admin, member or auditor")
            .hint("of people none of whose groups stands for a role")
    })
}

/// A word that needs no percent-encoding, because the redirect URI contains it.
fn path_name(text: &str) -> Result<Box<str>, ConfigProblem> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match (1..=32).contains(&text.len()) && text.bytes().all(fits) {
        true => Ok(text.into()),
        false => Err(ConfigProblem::new("must be 1 to 32 of a to z, 0 to 9 and `-`")
            .hint("it stands in the redirect URI; label is what people see")),
    }
}

/// OpenID Connect Discovery 1.0, section 3: no query, no fragment.
fn issuer(text: &str) -> Result<Box<str>, ConfigProblem> {
    let found = url(text)?;
    match text.len() <= 255 && !text.contains(['?', '#']) {
        true => Ok(found),
        false => Err(ConfigProblem::new("must be at most 255 bytes without query and fragment")
            .hint("it is `issuer` of ISSUER/.well-known/openid-configuration, byte for byte")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles_of(pairs: &[(&str, PersonRole)]) -> ProductRoles {
        pairs.iter().map(|(word, role)| ((*word).into(), *role)).collect()
    }

    fn orgs(found: &OidcStanding) -> Vec<(&str, &str)> {
        found.roles.iter().map(|(org, role)| (org.as_str(), role.as_str())).collect()
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn claims_put_people_into_orgs() {
        let general = roles_of(&[("admins", PersonRole::Admin), ("staff", PersonRole::Member)]);
        let any = OidcRights {
            places: OidcPlaces::Any,
            org_claim: Some("org".into()),
            groups_claim: "groups".into(),
            roles: general.clone(),
            default_role: None,
            operators: BTreeSet::new(),
        };
        let found = any.standing(&texts(&["acme", "a b", "globex"]), &texts(&["staff", "admins"]));
        assert_eq!(orgs(&found), [("acme", "admin"), ("globex", "admin")]);
        assert_eq!(found.operator, None);
        assert!(any.standing(&texts(&["acme"]), &texts(&["x"])).roles.is_empty());
        assert!(any.governs(&OrgId::parse("other").unwrap()));
        let own = roles_of(&[("acme-owners", PersonRole::Owner)]);
        let named = [
            ("acme", NamedOrg { claim: Some("17".into()), roles: Some(own) }),
            ("globex", NamedOrg::default()),
        ];
        let named = named.map(|(name, org)| (OrgId::parse(name).unwrap(), org));
        let named = OidcRights {
            places: OidcPlaces::Named(named.into_iter().collect()),
            operators: [Box::from("ops")].into_iter().collect(),
            ..any.clone()
        };
        let groups = texts(&["acme-owners", "staff", "ops"]);
        let found = named.standing(&texts(&["17", "globex", "elsewhere"]), &groups);
        assert_eq!(orgs(&found), [("acme", "owner"), ("globex", "member")]);
        assert_eq!(found.operator, Some(true));
        let found = named.standing(&texts(&["acme"]), &texts(&["acme-owners"]));
        assert_eq!((orgs(&found), found.operator), (vec![], Some(false)), "its claim is 17");
        assert!(!named.governs(&OrgId::parse("elsewhere").unwrap()));
        // Without a claim, every org of the tables counts, and groups decide.
        let by_groups = OidcRights { org_claim: None, ..named.clone() };
        assert_eq!(orgs(&by_groups.standing(&[], &texts(&["acme-owners"]))), [("acme", "owner")]);
        let fallback = OidcRights { default_role: Some(PersonRole::Auditor), ..by_groups };
        let found = fallback.standing(&[], &[]);
        assert_eq!(orgs(&found), [("acme", "auditor"), ("globex", "auditor")]);
        let nothing = OidcRights {
            places: OidcPlaces::Named(BTreeMap::new()),
            roles: ProductRoles::default(),
            operators: BTreeSet::new(),
            ..any
        };
        assert!(!nothing.governs(&OrgId::parse("acme").unwrap()) && !nothing.needs_groups());
    }
}
