//! What Kong's plugins mean for a key: carried over, refused, or reported.

use super::super::super::super::error::Result;
use super::super::super::super::registry::entry::RawTime;
use super::super::collect::{Candidate, Findings};
use super::super::rules::{AllowedNetworks, DAY, OneLimit, Quota, RuleTerms};
use super::super::yaml::{Misshapen, Yaml};
use super::model::{Consumer, Kong, KongKey, Plugin, PluginConfig, Reference, Scope};

/// Plugins that refuse nobody who has a key: they log, route, or rewrite. Checked against
/// `kong/plugins` of July 2026 and, for the closed ones, against Kong's documentation. Not
/// `request-callout`, which may end a request depending on another service's answer.
const HARMLESS: [&str; 58] = [
    "acme",
    "ai-prompt-compressor",
    "ai-prompt-decorator",
    "ai-prompt-template",
    "ai-proxy",
    "ai-proxy-advanced",
    "ai-rag-injector",
    "ai-request-transformer",
    "ai-response-transformer",
    "ai-semantic-cache",
    "app-dynamics",
    "aws-lambda",
    "azure-functions",
    "canary",
    "confluent",
    "confluent-consume",
    "correlation-id",
    "cors",
    "datadog",
    "degraphql",
    "exit-transformer",
    "file-log",
    "forward-proxy",
    "graphql-proxy-cache-advanced",
    "grpc-gateway",
    "grpc-web",
    "http-log",
    "jq",
    "kafka-consume",
    "kafka-log",
    "kafka-upstream",
    "key-auth",
    "key-auth-enc",
    "loggly",
    "mocking",
    "opentelemetry",
    "openwhisk",
    "prometheus",
    "proxy-cache",
    "proxy-cache-advanced",
    "redirect",
    "request-transformer",
    "request-transformer-advanced",
    "response-transformer",
    "response-transformer-advanced",
    "route-by-header",
    "route-transformer-advanced",
    "solace-consume",
    "solace-log",
    "solace-upstream",
    "statsd",
    "statsd-advanced",
    "syslog",
    "tcp-log",
    "udp-log",
    "upstream-oauth",
    "upstream-timeout",
    "zipkin",
];
const LOGS: [&str; 1] = ["tls-metadata-headers"];
/// Plugins that become part of a key.
const CARRIED: [&str; 5] =
    ["acl", "ip-restriction", "rate-limiting", "rate-limiting-advanced", "request-termination"];

/// What the plugins in force leave to one consumer.
#[derive(Debug)]
struct ConsumerTerms {
    allowance: RuleTerms,
    /// A consumer in no group may do nothing.
    grouped: bool,
    /// Words that count as the consumer's groups.
    groups: Vec<String>,
    /// Why Kong refuses every key of it.
    refused: Option<String>,
}

/// Gives `findings` every key that Kong would accept, and reports the rest.
pub fn all(kong: Kong<'_>, findings: &mut Findings<'_>) -> Result<()> {
    for plugin in &kong.plugins {
        tell_plugin(plugin, &kong, findings)?;
    }
    for group in &kong.groups {
        let carries = kong.plugins.iter().any(|plugin| {
            plugin.scope.group.as_ref().is_some_and(|meant| group.reference.is(meant))
        });
        if !carries {
            findings.lost(&group.spot, "has no place in a key")?;
        }
    }
    for (at, consumer) in kong.consumers.iter().enumerate() {
        if consumer.credentials.is_empty() {
            findings.lost(&consumer.spot, "this consumer has no key of key-auth")?;
            continue;
        }
        let terms = terms_of(at, consumer, &kong, findings)?;
        if let Some(why) = terms.refused {
            findings.lost(&consumer.spot, why)?;
            continue;
        }
        for credential in &consumer.credentials {
            give(credential, consumer, &terms, findings)?;
        }
    }
    Ok(())
}

/// What is reported about a plugin once, whomever it restricts.
fn tell_plugin(plugin: &Plugin<'_>, kong: &Kong<'_>, findings: &mut Findings<'_>) -> Result<()> {
    let name = plugin.name.as_str();
    let spot = &plugin.spot;
    let Scope { consumer, group, service, route } = &plugin.scope;
    if !plugin.enabled {
        return findings.lost(spot, format!("plugin `{name}` is switched off"));
    }
    if name == "key-auth" || name == "key-auth-enc" {
        // This plugin is what makes keys; the sidecar's configuration says which header to read.
        return Ok(());
    }
    if is_harmless(name) {
        return findings.lost(spot, format!("plugin `{name}` has no place in a key"));
    }
    let owner = consumer.as_ref().map(|meant| kong.position(meant));
    if owner == Some(None) {
        return findings.lost(spot, format!("plugin `{name}` is for a consumer that is not here"));
    }
    let bound = service.is_some() || route.is_some();
    if bound && !guards_keys(plugin, kong) {
        let why = format!("plugin `{name}` is for a service that takes no keys");
        return findings.lost(spot, why);
    }
    let carried = CARRIED.contains(&name) && plugin.config.unknown.is_none();
    if carried && name == "acl" && service_wide(plugin) {
        let Ok(acl) = AclGroups::of(plugin.config) else {
            let why = "plugin `acl` has groups that cannot be read";
            return findings.wider(name, "", spot, why);
        };
        let allowed = acl.allow.join(", ");
        if !allowed.is_empty() {
            let why = format!(
                "plugin `acl` asks for one of the groups {allowed}: keys carry them as \
                 permissions, and the sidecar's routes must ask for them"
            );
            findings.lost(spot, why)?;
        }
        // The report lists for each consumer what it is denied.
        return Ok(());
    }
    // Kong has no `acl` for one consumer; its author intends to refuse somebody.
    if carried && !bound && name != "acl" {
        return Ok(());
    }
    let whose = match (owner.flatten().and_then(|at| kong.consumers.get(at)), group) {
        (Some(consumer), _) => consumer.reference.first().to_owned(),
        (None, Some(group)) => format!("group/{}", group.first()),
        (None, None) => match (route, service) {
            (Some(route), _) => format!("route/{}", kong.name_of(route)),
            (None, Some(service)) => format!("service/{}", kong.name_of(service)),
            (None, None) => String::new(),
        },
    };
    // A narrower rule of the consumer itself replaces the one of a service.
    let replaced = carried
        && owner.is_none()
        && group.is_none()
        && kong.consumers.iter().enumerate().all(|(at, consumer)| {
            consumer.credentials.is_empty()
                || in_force(name, at, consumer, kong, Reaching::Own).next().is_some()
        });
    if replaced {
        let why = format!("plugin `{name}`: every consumer has its own");
        return findings.lost(spot, why);
    }
    let why = match (plugin.config.unknown, bound && carried) {
        (Some(why), _) => format!("plugin `{name}`: {why}"),
        (None, true) => format!("plugin `{name}` is for one service or route, a key for all"),
        (None, false) => format!("plugin `{name}` may refuse requests, and has no place in a key"),
    };
    findings.wider(name, &whose, spot, why)
}

fn is_harmless(name: &str) -> bool {
    HARMLESS.contains(&name) || LOGS.contains(&name)
}

/// `acl` is for everybody who calls a service: it has no consumer of its own.
fn service_wide(plugin: &Plugin<'_>) -> bool {
    plugin.scope.consumer.is_none() && plugin.scope.group.is_none()
}

/// Whether requests that the plugin sees carry keys: `key-auth` is there as well, or nowhere in
/// this file.
fn guards_keys(plugin: &Plugin<'_>, kong: &Kong<'_>) -> bool {
    let is_key = |p: &&Plugin<'_>| p.enabled && matches!(&*p.name, "key-auth" | "key-auth-enc");
    let service = |scope: &Scope| match (&scope.service, &scope.route) {
        (Some(service), _) => Some(kong.name_of(service).to_owned()),
        (None, Some(route)) => {
            let route = kong.name_of(route);
            kong.routes.iter().find(|(name, _)| name == route).map(|(_, service)| service.clone())
        }
        (None, None) => None,
    };
    let mut guards = kong.plugins.iter().filter(is_key).peekable();
    if guards.peek().is_none() {
        return true;
    }
    let wanted = service(&plugin.scope);
    let route = |scope: &Scope| scope.route.as_deref().map(|r| kong.name_of(r).to_owned());
    guards.any(|guard| {
        let everywhere = guard.scope.service.is_none() && guard.scope.route.is_none();
        let same_service = wanted.is_some() && service(&guard.scope) == wanted;
        let same_route = guard.scope.route.is_some() && route(&guard.scope) == route(&plugin.scope);
        everywhere || same_service || same_route
    })
}

/// How far to look for a plugin that is in force for a consumer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reaching {
    /// Its own or its groups'.
    Own,
    Global,
}

/// The plugins of one name that are in force for a consumer everywhere: its own, else those of its
/// groups, else those for everybody. Kong takes only the most specific one (docs, "plugin
/// precedence").
fn in_force<'k, 'y: 'k>(
    name: &'k str,
    at: usize,
    consumer: &'k Consumer,
    kong: &'k Kong<'y>,
    reaching: Reaching,
) -> impl Iterator<Item = &'k Plugin<'y>> {
    let free = kong.plugins.iter().filter(move |p| {
        p.enabled && p.name == name && p.scope.service.is_none() && p.scope.route.is_none()
    });
    let rank = move |plugin: &Plugin<'_>| match (&plugin.scope.consumer, &plugin.scope.group) {
        (Some(meant), _) => (kong.position(meant) == Some(at)).then_some(0),
        (None, Some(meant)) => is_member(consumer, meant, kong).then_some(1),
        (None, None) => (reaching == Reaching::Global).then_some(2),
    };
    let best = free.clone().filter_map(rank).min();
    free.filter(move |plugin| best.is_some() && rank(plugin) == best)
}

fn is_member(consumer: &Consumer, group: &Reference, kong: &Kong<'_>) -> bool {
    // Either side may name the other, by name or by id.
    let known = kong.groups.iter().find(|known| known.reference.is(group));
    let named = |own: &Reference| match known {
        Some(known) => known.reference.is(own),
        None => own == group || own.first() == group.first(),
    };
    consumer.groups.iter().any(named)
        || known.is_some_and(|g| g.members.iter().any(|member| consumer.reference.is(member)))
}

fn terms_of(
    at: usize,
    consumer: &Consumer,
    kong: &Kong<'_>,
    findings: &mut Findings<'_>,
) -> Result<ConsumerTerms> {
    let client = consumer.reference.first();
    let mut terms = ConsumerTerms {
        allowance: RuleTerms::default(),
        grouped: false,
        groups: consumer.acls.clone(),
        refused: None,
    };
    for group in &consumer.groups {
        let is_known = kong.groups.iter().any(|known| known.reference.is(group));
        let has_plugins = kong.plugins.iter().any(|plugin| {
            plugin.scope.group.as_ref().is_some_and(|meant| meant.first() == group.first())
        });
        if !is_known && !has_plugins {
            let name = group.first();
            let why =
                format!("its group `{name}` is not in this file, nor what its plugins refuse");
            findings.wider("consumer_groups", client, &consumer.spot, why)?;
        }
    }
    let find = |name: &'static str| in_force(name, at, consumer, kong, Reaching::Global);
    for plugin in find("request-termination").filter(|p| p.config.unknown.is_none()) {
        if plugin.config.text("trigger").is_empty() {
            terms.refused = Some("`request-termination` refuses every request of it".to_owned());
        } else {
            let why = "plugin `request-termination` refuses requests with its trigger";
            findings.wider(&plugin.name, client, &plugin.spot, why)?;
        }
    }
    for plugin in find("ip-restriction").filter(|p| p.config.unknown.is_none()) {
        let (allow, deny) =
            (plugin.config.either("allow", "whitelist"), plugin.config.either("deny", "blacklist"));
        match AllowedNetworks::of(allow, deny) {
            Ok(reach) => terms.allowance.reach = terms.allowance.reach.and(reach),
            Err(why) => {
                let why = format!("plugin `ip-restriction` has {why}");
                findings.wider(&plugin.name, client, &plugin.spot, why)?;
            }
        }
    }
    if terms.allowance.reach == AllowedNetworks::Nowhere {
        terms.refused = Some("`ip-restriction` admits it from nowhere".to_owned());
    }
    for name in ["rate-limiting", "rate-limiting-advanced"] {
        for plugin in find(name).filter(|p| p.config.unknown.is_none()) {
            read_quotas(plugin, consumer, &mut terms, findings)?;
        }
    }
    judge_acls(consumer, kong, &mut terms, findings)?;
    Ok(terms)
}

fn read_quotas(
    plugin: &Plugin<'_>,
    consumer: &Consumer,
    terms: &mut ConsumerTerms,
    findings: &mut Findings<'_>,
) -> Result<()> {
    let client = consumer.reference.first();
    let Plugin { name, config, spot, .. } = plugin;
    let Ok(quotas) = quotas_of(name, *config) else {
        let why = format!("plugin `{name}` has a limit that cannot be read");
        return findings.wider(name, client, spot, why);
    };
    if config.is_true("enforce_consumer_groups") {
        let why = format!("plugin `{name}` has limits of its own for consumer groups");
        findings.wider(name, client, spot, why)?;
    }
    let by = config.get("limit_by").or_else(|| config.get("identifier"));
    let counted = by.map_or("", |by| by.as_text().unwrap_or("something that cannot be read"));
    let own = plugin.scope.consumer.is_some();
    let wider = match counted {
        "" | "consumer" if consumer.credentials.len() > 1 => {
            let count = consumer.credentials.len();
            Some(format!("is shared by {count} keys; each of them would have it to itself"))
        }
        "" | "consumer" | "credential" => None,
        "ip" | "header" | "path" if own => {
            let why =
                format!("plugin `{name}` counts by {counted}; here the key counts as a whole");
            findings.lost(spot, why)?;
            None
        }
        other => Some(format!("counts by {other}, and a key only for itself")),
    };
    if let Some(why) = wider {
        findings.wider(name, client, spot, format!("plugin `{name}` {why}"))?;
    }
    match OneLimit::of(&quotas) {
        Ok(None) => {
            let why = format!("plugin `{name}` has no limit that can be read");
            findings.wider(name, client, spot, why)?;
        }
        Ok(Some(limit)) if limit.stricter && terms.allowance.quotas.is_empty() => {
            let why = format!("plugin `{name}`: a key has one limit, `{}`, stricter", limit.text);
            findings.lost(spot, why)?;
        }
        Ok(Some(_)) => {}
        Err(why) => {
            return findings.wider(name, client, spot, format!("plugin `{name}` has {why}"));
        }
    }
    if matches!(config.text("policy"), "cluster" | "redis")
        || matches!(config.text("strategy"), "cluster" | "redis")
    {
        let why = format!("plugin `{name}` counts for all nodes together; each sidecar for itself");
        findings.lost(spot, why)?;
    }
    terms.allowance.quotas.extend(quotas);
    Ok(())
}

/// `minute: 600` of the open plugin, `limit` and `window_size` of the advanced one. `Err`: one of
/// them is not a number.
fn quotas_of(name: &str, config: PluginConfig<'_>) -> std::result::Result<Vec<Quota>, Misshapen> {
    let whole = |value: &Yaml| value.whole().ok_or(Misshapen);
    if name == "rate-limiting" {
        let windows = [
            ("second", 1),
            ("minute", 60),
            ("hour", 3600),
            ("day", DAY),
            ("month", 31 * DAY),
            ("year", 366 * DAY),
        ];
        let quota = |(name, seconds)| Some((config.get(name)?, seconds));
        let quotas = windows.into_iter().filter_map(quota);
        return quotas.map(|(count, seconds)| Ok(Quota::new(whole(count)?, seconds))).collect();
    }
    let numbers = |name: &str| match config.get(name) {
        Some(one) if one.is_number() => Ok(vec![whole(one)?]),
        _ => config.list(name)?.iter().map(whole).collect(),
    };
    let (limits, windows) = (numbers("limit")?, numbers("window_size")?);
    if limits.len() != windows.len() {
        return Err(Misshapen);
    }
    let pairs = limits.into_iter().zip(windows);
    Ok(pairs.map(|(count, seconds)| Quota::new(count, seconds)).collect())
}

/// Groups of the `acl` plugin, with the field names of today or those of earlier versions.
#[derive(Debug)]
struct AclGroups {
    allow: Vec<String>,
    deny: Vec<String>,
}

// === impl AclGroups ===

impl AclGroups {
    fn of(config: PluginConfig<'_>) -> std::result::Result<Self, Misshapen> {
        let words = |name: &str| -> std::result::Result<Vec<String>, Misshapen> {
            config.list(name)?.iter().map(|item| item.word().ok_or(Misshapen)).collect()
        };
        let (allow, deny) = (words("allow")?, words("deny")?);
        Ok(match (allow.is_empty(), deny.is_empty()) {
            (true, true) => Self { allow: words("whitelist")?, deny: words("blacklist")? },
            _ => Self { allow, deny },
        })
    }
}

fn judge_acls(
    consumer: &Consumer,
    kong: &Kong<'_>,
    terms: &mut ConsumerTerms,
    findings: &mut Findings<'_>,
) -> Result<()> {
    let client = consumer.reference.first();
    let is_acl = |p: &&Plugin<'_>| {
        p.enabled && p.name == "acl" && p.config.unknown.is_none() && service_wide(p)
    };
    let acls: Vec<_> =
        kong.plugins.iter().filter(is_acl).filter(|p| guards_keys(p, kong)).collect();
    if acls.iter().any(|acl| acl.config.is_true("include_consumer_groups")) {
        let member = |g: &&super::model::Group| is_member(consumer, &g.reference, kong);
        let groups = kong.groups.iter().filter(member).map(|g| g.reference.first().to_owned());
        terms.groups.extend(groups);
    }
    for acl in acls {
        // What cannot be read was reported with the plugin.
        let Ok(AclGroups { allow, deny }) = AclGroups::of(acl.config) else { continue };
        let bound = acl.scope.service.is_some() || acl.scope.route.is_some();
        let is_in = |list: &[String]| terms.groups.iter().any(|group| list.contains(group));
        let refused = if deny.is_empty() { !is_in(&allow) } else { is_in(&deny) };
        if refused && !bound {
            terms.refused = Some("`acl` refuses its groups".to_owned());
        } else if refused && !deny.is_empty() {
            let why = "plugin `acl` denies a group of it, and a key holds only what is allowed";
            findings.wider("acl", client, &acl.spot, why)?;
        }
        terms.grouped |= !allow.is_empty();
    }
    if terms.grouped && terms.groups.is_empty() && terms.refused.is_none() {
        let why = "is in no group that `acl` asks for: its keys get no permission, not even the \
                   default one";
        findings.lost(&consumer.spot, why)?;
    }
    Ok(())
}

fn give(
    credential: &KongKey,
    consumer: &Consumer,
    terms: &ConsumerTerms,
    findings: &mut Findings<'_>,
) -> Result<()> {
    let spot = &credential.spot;
    let mut candidate = Candidate::new(consumer.reference.first(), spot);
    if terms.groups.iter().any(|group| group == "*") {
        return findings.fault(spot, "its group `*` would be every permission here");
    }
    candidate.raw.permissions = terms.groups.iter().map(|g| g.clone().into()).collect();
    candidate.grouped = terms.grouped;
    candidate.within(&terms.allowance.reach);
    if let Ok(Some(limit)) = OneLimit::of(&terms.allowance.quotas) {
        candidate.raw.limit = Some(limit.text.into());
    }
    candidate.raw.created = credential.created.map(RawTime::of);
    let Ok(ttl) = credential.ttl else {
        let why = "`ttl` is no whole number of seconds: its end is not known";
        return findings.fault(spot, why);
    };
    if let Some(ttl) = ttl {
        let Some(created) = credential.created else {
            let why = "`ttl` counts from `created_at`, which is missing or no number of seconds: \
                       its end is not known";
            return findings.fault(spot, why);
        };
        candidate.raw.expires = Some(RawTime::of(created.saturating_add(ttl)));
    }
    findings.give(candidate, credential.key.clone())
}
