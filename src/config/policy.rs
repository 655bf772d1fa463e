//! The parts that a reload puts in force: credentials, identity and, with `routes`, the policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use http::{HeaderName, header};

use super::fault::ConfigProblem;
use super::raw::ConfigPlace;
use super::section::ConfigSection;
use super::units::field_name;
use super::upstream::{UpstreamSection, warn_of_unused};
use super::{
    IdentityFields, LogFields, Sampled, Settings, TokenSettings, TraceStart, Underscores,
    UpstreamTrust, cors, limits, observe, refusals, routes, signing, tokens, usage,
};
use crate::core::address::parse_network;
use crate::core::headers::{FieldClass, FieldTable, MAX_NAME};
use crate::core::{
    BasicForm, CredentialSource, Environment, NetworkSet, Policy, Prefixes, RouteTable,
};
use crate::token::sign::assertion::Assertions;
use crate::token::sign::credential::UpstreamCredential;

/// Sections that partly belong to [`Settings`].
pub(super) struct SettingsSections<'s> {
    pub(super) log: &'s ConfigSection<'s>,
    pub(super) usage: &'s ConfigSection<'s>,
    /// `[upstream.credential]`.
    pub(super) credential: &'s ConfigSection<'s>,
    /// `[upstreams.NAME]`.
    pub(super) upstreams: &'s [UpstreamSection<'s>],
}

/// `trusted`: raw public keys of the trusted signers of tables.
pub(super) fn settings(
    root: &ConfigSection<'_>,
    parts: &SettingsSections<'_>,
    trusted: &[[u8; 32]],
) -> Option<Settings> {
    let log = parts.log;
    let environment = root.parse("environment", Environment::parse);
    let require_environment = root.flag("require_environment");
    if require_environment && environment.is_none() && !root.has("environment") {
        root.missing("environment", "require_environment needs environment = \"live\" or \"test\"");
    }
    let trusted_proxies = NetworkSet::new(root.parse_list("trusted_proxies", parse_network));
    let everybody = [IpAddr::V4(Ipv4Addr::BROADCAST), IpAddr::V6(Ipv6Addr::from_bits(u128::MAX))];
    if !trusted_proxies.is_empty() && everybody.into_iter().any(|at| trusted_proxies.allows(at)) {
        let problem = ConfigProblem::new(
            "believes every client: who sends X-Forwarded-For chooses the address that networks of \
             keys, budgets of addresses and the log see",
        );
        root.warn("trusted_proxies", problem.hint("name the networks of your load balancers"));
    }
    let underscores = root.choice(
        "underscores",
        Underscores::Drop,
        &[
            ("allow", Underscores::Allow),
            ("drop", Underscores::Drop),
            ("refuse", Underscores::Refuse),
        ],
    );
    let trace = root.section("trace").choice(
        "start",
        TraceStart::Pass,
        &[
            ("never", TraceStart::Pass),
            ("sampled", TraceStart::Start(Sampled::Yes)),
            ("unsampled", TraceStart::Start(Sampled::No)),
        ],
    );
    let mut owned = OwnedNames::default();
    let sources = credentials(root, &mut owned);
    let tokens = tokens::tokens(root);
    let identity = identity(&root.section("identity"), &mut owned, &tokens);
    let assertion_section = root.section("assertion");
    let assertion = signing::assertion(&assertion_section, trusted);
    if let Some(assertion) = &assertion {
        owned.claim(&assertion_section, "field", &assertion.field, FieldClass::Identity);
    }
    let known_as = "upstream.credential.secret_file";
    let credential = signing::credential(parts.credential, known_as, trusted);
    if let Some(credential) = credential.as_ref().filter(|c| c.field != header::AUTHORIZATION) {
        owned.claim(parts.credential, "field", &credential.field, FieldClass::Identity);
    }
    signing::share_no_key(parts.credential, assertion.as_deref(), credential.as_deref());
    let upstreams =
        upstream_trust(parts, assertion.as_deref(), credential.as_deref(), trusted, &mut owned);
    let refusal_section = root.section("refusals");
    let mut refusals = refusals::refusals(&refusal_section, &sources);
    if !tokens.is_empty() && !refusal_section.has("challenges") {
        refusals.challenges = refusals.challenges.with_tokens();
    }
    let cors_exposed = cors::exposed(&refusals, &identity);
    let cors = cors::rules(root);
    let rules = routes::rules(root, &refusals, parts.upstreams);
    if sources.is_empty() && !root.has("credentials") && rules.iter().any(routes::needs_key) {
        root.missing(
            "credentials",
            "put at the top of the file: credentials = [{ source = \"header\", name = \"x-api-key\" }]",
        );
    }
    tokens::fit(root, &rules, &sources, &tokens);
    let goes_to = |at| rules.iter().any(|rule| rule.route().upstream == at);
    warn_of_unused(root, parts.upstreams, goes_to);
    let limits = limits::policies(root, &rules);
    let observe_section = root.section("observe");
    let Some(routes) = routes::table(root, rules) else {
        let _ = observe::observe(&observe_section, &RouteTable::default());
        return None;
    };
    let observe = observe::observe(&observe_section, &routes).map(Box::new);
    let fields =
        FieldTable::new(owned.names.iter().map(|(name, field, _)| (name.as_str(), *field)));
    let log_every = log.integer("success_every", 1, 0..=1_000_000) as u32;
    Some(Settings {
        policy: Policy { routes, environment, require_environment, observe, limits },
        sources,
        fields,
        identity,
        trace,
        underscores,
        trusted_proxies,
        refusals,
        cors,
        cors_exposed,
        log_every,
        log_fields: log_fields(log),
        close_code: close_code(&root.section("streams")),
        use_reports: usage::reports(parts.usage, &root.section("metrics")),
        tokens: Arc::new(tokens),
        assertion,
        credential,
        upstreams,
    })
}

/// By what each of `[upstreams.NAME]` recognises keygate.
fn upstream_trust(
    parts: &SettingsSections<'_>,
    assertion: Option<&Assertions>,
    of_default: Option<&UpstreamCredential>,
    trusted: &[[u8; 32]],
    owned: &mut OwnedNames,
) -> Vec<UpstreamTrust> {
    let mut all: Vec<UpstreamTrust> = Vec::new();
    for UpstreamSection { name, section, audience } in parts.upstreams {
        let of = section.section("credential");
        let credential = signing::credential(&of, "upstreams.credential.secret_file", trusted);
        let others = all.iter().filter_map(|trust| trust.credential.as_deref()).chain(of_default);
        let mut others = others.map(|other| &other.field);
        // Two services may have a field of the same name: for both, keygate removes a client's
        // field.
        if let Some(credential) = &credential
            && credential.field != header::AUTHORIZATION
            && !others.any(|field| *field == credential.field)
        {
            owned.claim(&of, "field", &credential.field, FieldClass::Identity);
        }
        signing::share_no_key(&of, assertion, credential.as_deref());
        if audience.is_some() && assertion.is_none() {
            let problem = ConfigProblem::new("there is no [assertion] to sign for it");
            let place = section.place_of("assertion_audience");
            section.reader().fault(&place, problem.hint("add [assertion], or remove it"));
        }
        let (name, audience) = (name.clone(), audience.clone());
        all.push(UpstreamTrust { name, credential, audience });
    }
    all
}

/// `log.fields`.
fn log_fields(log: &ConfigSection<'_>) -> LogFields {
    let words = [("host", Chosen::Host), ("user_agent", Chosen::UserAgent)];
    let chosen = log.parse_list("fields", |text| super::raw::pick(text, &words));
    LogFields {
        host: chosen.contains(&Chosen::Host),
        user_agent: chosen.contains(&Chosen::UserAgent),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Chosen {
    Host,
    UserAgent,
}

/// A WebSocket close code that a server may send for a policy of its own (RFC 6455 §7.4).
fn close_code(section: &ConfigSection<'_>) -> u16 {
    let code = section.integer("close_code", 1008, 1000..=4999) as u16;
    if code != 1008 && code < 4000 {
        section.fault("close_code", ConfigProblem::new("must be 1008 or 4000 to 4999"));
    }
    code
}

// Names that only keygate may set or consume.

/// FieldClass names that are taken so far, with their place for messages.
#[derive(Default)]
struct OwnedNames {
    names: Vec<(String, FieldClass, ConfigPlace)>,
}

impl OwnedNames {
    /// If two names fold to one, the meaning of the field would be ambiguous.
    fn claim(
        &mut self,
        section: &ConfigSection<'_>,
        key: &'static str,
        name: &HeaderName,
        field: FieldClass,
    ) {
        let place = section.place_of(key);
        let fold = |n: &str| n.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let folded = fold(name.as_str());
        if folded.len() > MAX_NAME {
            section
                .fault(key, ConfigProblem::new(format!("must be at most {MAX_NAME} characters")));
        } else if let Some(what) = reserved(&folded) {
            section.fault(key, ConfigProblem::new(format!("`{name}` is {what}")));
        } else if field == FieldClass::Identity && TAKEN.contains(&folded.as_str()) {
            let problem = ConfigProblem::new(format!("`{name}` has a meaning of its own in HTTP"));
            section.fault(key, problem.hint("name a field of your own, such as x-caller"));
        } else if let Some((_, _, other)) = self.names.iter().find(|(n, _, _)| fold(n) == folded) {
            let line = section.reader().line(other);
            let problem =
                ConfigProblem::new(format!("`{name}` is taken by {} (line {line})", other.path));
            section.fault(key, problem.hint("names are compared with every sign as `-`"));
        }
        self.names.push((name.as_str().to_owned(), field, place));
    }
}

/// Fields that every request gets. Of two with the same name, readers would use different ones.
const WRITTEN: [&str; 5] =
    ["traceparent", "tracestate", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];

/// Request fields that clients, services and intermediaries read and write. As the name of a
/// keygate field, they would be removed from every request and get another meaning. Only
/// `[upstream.credential]` may use `authorization`, which it does not claim here.
const TAKEN: [&str; 38] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "access-control-request-headers",
    "access-control-request-method",
    "authorization",
    "cache-control",
    "date",
    "dnt",
    "early-data",
    "forwarded",
    "from",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-event-id",
    "link",
    "max-forwards",
    "origin",
    "pragma",
    "prefer",
    "priority",
    "proxy-authorization",
    "range",
    "referer",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "sec-fetch-user",
    "set-cookie",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "warning",
    "www-authenticate",
];

/// Fields that mean something to HTTP itself.
fn reserved(folded: &str) -> Option<&'static str> {
    match FieldTable::new([]).classify(folded.as_bytes()) {
        FieldClass::Connection | FieldClass::HopByHop | FieldClass::Te | FieldClass::Upgrade => {
            Some("hop-by-hop and never forwarded")
        }
        FieldClass::Framing | FieldClass::Host | FieldClass::Expect => {
            Some("part of HTTP's framing")
        }
        FieldClass::Cookie => Some("shared by all cookies; use source = \"cookie\""),
        FieldClass::Override => Some("removed from every request"),
        _ if WRITTEN.contains(&folded) => Some("written by keygate itself"),
        _ if folded.starts_with("sec-websocket-") => Some("part of the WebSocket handshake"),
        _ if folded.starts_with("content-") => Some("part of the content"),
        _ => None,
    }
}

// Credentials.

fn credentials(root: &ConfigSection<'_>, owned: &mut OwnedNames) -> Vec<CredentialSource> {
    let mut sources: Vec<CredentialSource> = Vec::new();
    for mut section in root.sections("credentials") {
        let Some(source) = credential(&mut section, owned) else { continue };
        let clash = sources.iter().find(|known| same_carrier(known, &source));
        if clash.is_some() {
            let problem = ConfigProblem::new("is the same carrier as an earlier [[credentials]]");
            section.fault("source", problem.hint("list all its prefixes in one"));
        }
        let whole = |s: &CredentialSource| matches!(s, CredentialSource::Header { name, .. } if *name == http::header::AUTHORIZATION);
        let scheme = |s: &CredentialSource| {
            matches!(s, CredentialSource::Basic { .. } | CredentialSource::Bearer { .. })
        };
        if sources.iter().any(|s| (whole(s) && scheme(&source)) || (scheme(s) && whole(&source))) {
            let problem = ConfigProblem::new("takes `authorization` whole, beside a scheme of it");
            section.fault("source", problem.hint("use only source = \"bearer\" or \"basic\""));
        }
        sources.push(source);
    }
    sources
}

fn same_carrier(a: &CredentialSource, b: &CredentialSource) -> bool {
    match (a, b) {
        (CredentialSource::Basic { .. }, CredentialSource::Basic { .. })
        | (CredentialSource::Bearer { .. }, CredentialSource::Bearer { .. })
        | (CredentialSource::Subprotocol { .. }, CredentialSource::Subprotocol { .. }) => true,
        (CredentialSource::Cookie { name: a, .. }, CredentialSource::Cookie { name: b, .. })
        | (CredentialSource::Query { name: a, .. }, CredentialSource::Query { name: b, .. }) => {
            a == b
        }
        _ => false,
    }
}

#[derive(Clone, Copy)]
enum Carrier {
    Basic,
    Bearer,
    Cookie,
    Header,
    Pair,
    Query,
    Subprotocol,
}

fn credential(section: &mut ConfigSection<'_>, owned: &mut OwnedNames) -> Option<CredentialSource> {
    let carriers = [
        ("header", Carrier::Header),
        ("bearer", Carrier::Bearer),
        ("basic", Carrier::Basic),
        ("query", Carrier::Query),
        ("cookie", Carrier::Cookie),
        ("pair", Carrier::Pair),
        ("subprotocol", Carrier::Subprotocol),
    ];
    let Some(carrier) = section.parse("source", |text| super::raw::pick(text, &carriers)) else {
        if !section.has("source") {
            section.missing(
                "source",
                "one of header, bearer, basic, query, cookie, pair, subprotocol",
            );
        }
        section.lose();
        return None;
    };
    match carrier {
        Carrier::Basic => {
            let form = section.choice(
                "form",
                BasicForm::KeyAsUser,
                &[
                    ("user", BasicForm::KeyAsUser),
                    ("password", BasicForm::KeyAsPassword),
                    ("pair", BasicForm::Pair),
                ],
            );
            Some(CredentialSource::Basic { form, prefixes: prefixes(section) })
        }
        Carrier::Bearer => Some(CredentialSource::Bearer { prefixes: prefixes(section) }),
        Carrier::Cookie => {
            let name =
                required(
                    section,
                    "name",
                    "the cookie's name",
                    |text| match HeaderName::from_bytes(text.as_bytes()) {
                        Ok(_) => Ok(Box::<str>::from(text)),
                        Err(_) => Err(ConfigProblem::new("is not a cookie name")),
                    },
                );
            let prefixes = prefixes(section);
            Some(CredentialSource::Cookie { name: name?, prefixes })
        }
        Carrier::Header => {
            let name = field(section, "name", owned);
            let prefixes = prefixes(section);
            Some(CredentialSource::Header { name: name?, prefixes })
        }
        Carrier::Pair => {
            let id = field(section, "id", owned);
            let secret = field(section, "secret", owned);
            Some(CredentialSource::Pair { id: id?, secret: secret? })
        }
        Carrier::Query => {
            let name =
                required(section, "name", "the parameter's name, decoded", |text| {
                    match text.is_empty() || text.len() > 128 {
                        true => Err(ConfigProblem::new("must be 1 to 128 bytes")),
                        false => Ok(Box::<str>::from(text)),
                    }
                });
            let prefixes = prefixes(section);
            Some(CredentialSource::Query { name: name?, prefixes })
        }
        Carrier::Subprotocol => {
            let marker = required(section, "marker", "for example \"keygate.key.\"", |text| {
                match HeaderName::from_bytes(text.as_bytes()) {
                    Ok(_) => Ok(Box::<str>::from(text)),
                    Err(_) => Err(ConfigProblem::new("is not a token (RFC 9110 §5.6.2)")),
                }
            });
            let place = section.place();
            owned.names.push(("sec-websocket-protocol".into(), FieldClass::Subprotocol, place));
            Some(CredentialSource::Subprotocol { marker: marker? })
        }
    }
}

fn required<T>(
    section: &ConfigSection<'_>,
    key: &'static str,
    hint: &str,
    parse: impl FnOnce(&str) -> Result<T, ConfigProblem>,
) -> Option<T> {
    if !section.has(key) {
        section.missing(key, hint);
    }
    section.parse(key, parse)
}

fn field(
    section: &ConfigSection<'_>,
    key: &'static str,
    owned: &mut OwnedNames,
) -> Option<HeaderName> {
    let name = required(section, key, "a header name such as \"x-api-key\"", field_name)?;
    owned.claim(section, key, &name, FieldClass::Credential);
    Some(name)
}

fn prefixes(section: &ConfigSection<'_>) -> Prefixes {
    let words = section.parse_list("prefixes", |text| {
        match !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_graphic()) {
            true => Ok(text.to_owned()),
            false => Err(ConfigProblem::new("must be 1 to 64 visible ASCII characters")),
        }
    });
    Prefixes::new(words.iter().map(String::as_str))
}

// IdentityFields.

fn identity(
    section: &ConfigSection<'_>,
    owned: &mut OwnedNames,
    tokens: &TokenSettings,
) -> IdentityFields {
    let default = IdentityFields::default();
    // Where no tokens are accepted, these fields do not exist, and the names are the client's.
    let with_tokens = |name| (!tokens.is_empty()).then(|| HeaderName::from_static(name));
    let mut name = |key: &'static str, default: Option<HeaderName>| {
        let off = section.ask(key).is_some_and(|(_, value)| value.as_bool() == Some(false));
        let chosen = match off {
            true => None,
            false => section.parse(key, field_name),
        };
        let effective = chosen.clone().or(default);
        // A field that is not sent is removed anyway, because the service may read it.
        if let Some(effective) = &effective {
            owned.claim(section, key, effective, FieldClass::Identity);
        }
        if off { None } else { effective }
    };
    let fields = IdentityFields {
        org: name("org", default.org),
        key_id: name("key_id", default.key_id),
        key_name: name("key_name", default.key_name),
        owner: name("owner", default.owner),
        permissions: name("permissions", default.permissions),
        environment: name("environment", default.environment),
        anonymous: name("anonymous", default.anonymous),
        client_subject: name("client_subject", default.client_subject),
        subject: name("subject", with_tokens("x-subject")),
        issuer: name("issuer", with_tokens("x-token-issuer")),
        credential: name("credential", with_tokens("x-credential")),
        request_id: {
            let off = section.ask("request_id").is_some_and(|(_, v)| v.as_str().is_none());
            if off {
                section.fault("request_id", ConfigProblem::new("must be a header name"));
                default.request_id
            } else {
                name("request_id", Some(default.request_id.clone())).unwrap_or(default.request_id)
            }
        },
    };
    if tokens.issuers.len() > 1 && fields.subject.is_some() && fields.issuer.is_none() {
        let problem = ConfigProblem::new(
            "is off: the service cannot tell a subject of one issuer from that of another",
        );
        section.warn("issuer", problem.hint("leave it out: identity.issuer names the issuer"));
    }
    fields
}
