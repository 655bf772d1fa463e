//! APISIX: consumers and their credentials in `apisix.yaml`, in the Admin API's answers, and as ADC
//! writes them.

use std::io::BufRead;
use std::path::Path;

use super::super::super::error::Result;
use super::super::super::registry::entry::RawTime;
use super::collect::{Candidate, Findings, ImportItem, Spot, secret_of};
use super::rules::{AllowedNetworks, OneLimit, Quota, RuleTerms};
use super::shape::Shape;
use super::yaml::{self, Yaml};

/// Credentials of other kinds on a consumer; on a route they ask for more than a key.
const OTHER_WAYS: [&str; 7] = [
    "basic-auth",
    "hmac-auth",
    "jwe-decrypt",
    "jwt-auth",
    "ldap-auth",
    "ldap-auth-advanced",
    "wolf-rbac",
];
/// Plugins that refuse nobody who has a key: they log, route or rewrite. Checked against
/// `apisix/plugins` of August 2026.
const HARMLESS: [&str; 72] = [
    "ai-cache",
    "ai-prompt-decorator",
    "ai-prompt-template",
    "ai-proxy",
    "ai-proxy-multi",
    "ai-rag",
    "ai-request-rewrite",
    "api-breaker",
    "attach-consumer-label",
    "aws-lambda",
    "azure-functions",
    "batch-requests",
    "body-transformer",
    "brotli",
    "clickhouse-logger",
    "cors",
    "data-mask",
    "datadog",
    "degraphql",
    "dubbo-proxy",
    "echo",
    "elasticsearch-logger",
    "error-log-logger",
    "error-page",
    "example-plugin",
    "exit-transformer",
    "file-logger",
    "google-cloud-logging",
    "graphql-proxy-cache",
    "grpc-transcode",
    "grpc-web",
    "gzip",
    "http-dubbo",
    "http-logger",
    "inspect",
    "kafka-logger",
    "kafka-proxy",
    "key-auth",
    "lago",
    "log-rotate",
    "loggly",
    "loki-logger",
    "mcp-bridge",
    "mocking",
    "node-status",
    "ocsp-stapling",
    "openfunction",
    "opentelemetry",
    "openwhisk",
    "prometheus",
    "proxy-buffering",
    "proxy-cache",
    "proxy-control",
    "proxy-mirror",
    "proxy-rewrite",
    "real-ip",
    "redirect",
    "request-id",
    "response-rewrite",
    "rocketmq-logger",
    "server-info",
    "skywalking",
    "skywalking-logger",
    "sls-logger",
    "splunk-hec-logging",
    "syslog",
    "tcp-logger",
    "tencent-cloud-cls",
    "traffic-label",
    "traffic-split",
    "udp-logger",
    "zipkin",
];

/// The lists and mappings that say who is admitted. Settings of plugins are judged where they are
/// read.
const SHAPE: Shape = Shape {
    lists: &["consumer_groups", "consumers", "credentials", "plugin_configs", "routes", "services"],
    maps: &["plugins"],
    opaque: &["plugins", "config", "upstream", "labels"],
};
/// How a route of APISIX picks its requests besides host and path.
const PICKING: [&str; 5] = ["filter_func", "remote_addr", "remote_addrs", "script", "vars"];

/// Consumers, groups and credentials of all documents of a file.
#[derive(Default)]
struct Apisix<'y> {
    consumers: Vec<(Spot, &'y Yaml)>,
    groups: Vec<(Spot, &'y Yaml)>,
    /// Credentials separate from their consumer, with its name.
    credentials: Vec<(Spot, String, &'y Yaml)>,
    /// Where the file lists plugins for everybody.
    shared: Vec<(Spot, String, &'y Yaml)>,
    /// Conditions of routes.
    picking: Vec<(Spot, String, &'static str)>,
}

pub fn read(
    source: &mut dyn BufRead,
    path: &Path,
    sink: &mut dyn FnMut(ImportItem) -> Result<()>,
) -> Result<()> {
    let documents = yaml::documents(source, path)?;
    let mut findings = Findings::new(path, sink);
    let mut apisix = Apisix::default();
    for document in &documents {
        SHAPE.check(document, &Spot::default(), &mut findings)?;
        apisix.read_document(document);
    }
    if apisix.consumers.is_empty() && apisix.credentials.is_empty() {
        return findings.fault(&Spot::default(), "holds no consumers; is the format right?");
    }
    apisix.give_all(&mut findings)
}

// === impl Apisix ===

impl<'y> Apisix<'y> {
    fn read_document(&mut self, document: &'y Yaml) {
        let root = Spot::default();
        for (n, consumer) in document.list("consumers").iter().enumerate() {
            self.read_consumer(root.item(consumer.line, "consumers", n), consumer);
        }
        for (n, group) in document.list("consumer_groups").iter().enumerate() {
            let spot = root.item(group.line, "consumer_groups", n);
            // ADC nests the members.
            for (n, consumer) in group.list("consumers").iter().enumerate() {
                self.read_consumer(spot.item(consumer.line, "consumers", n), consumer);
            }
            self.groups.push((spot, group));
        }
        // The Admin API: one object, or a list of them.
        let answers = document.list("list").iter();
        let single = document.get("value").is_some().then_some(document);
        for (n, answer) in answers.chain(single).enumerate() {
            let Some(value) = answer.get("value") else { continue };
            let spot = root.item(value.line, "list", n);
            match answer.text("key").rsplit_once("/consumers/") {
                Some((_, rest)) => match rest.split_once("/credentials/") {
                    Some((owner, _)) => self.credentials.push((spot, owner.to_owned(), value)),
                    None => self.read_consumer(spot, value),
                },
                None if answer.text("key").contains("/consumer_groups/") => {
                    self.groups.push((spot, value));
                }
                None if value.get("username").is_some() => self.read_consumer(spot, value),
                None => {}
            }
        }
        for list in ["global_rules", "plugin_configs", "services", "routes"] {
            let entities = document.get(list);
            // ADC writes global rules as a map of plugins.
            if let Some(plugins) = entities.filter(|e| list == "global_rules" && e.is_map()) {
                self.shared.push((root.down(plugins.line, list), String::new(), plugins));
            }
            for (n, entity) in entities.map_or(&[][..], Yaml::items).iter().enumerate() {
                self.read_shared(root.item(entity.line, list, n), list, entity);
            }
        }
    }

    fn read_consumer(&mut self, spot: Spot, consumer: &'y Yaml) {
        // A file of the stand-alone mode writes a credential next to its consumer.
        let id = consumer.get("id").and_then(Yaml::word).unwrap_or_default();
        match id.split_once("/credentials/") {
            Some((owner, _)) => self.credentials.push((spot, owner.to_owned(), consumer)),
            None => self.consumers.push((spot, consumer)),
        }
    }

    fn read_shared(&mut self, spot: Spot, list: &str, entity: &'y Yaml) {
        let word = |name| entity.get(name).and_then(Yaml::word);
        let name = word("name").or_else(|| word("id")).unwrap_or_else(|| spot.place.clone());
        let kind = match list {
            "global_rules" => String::new(),
            "plugin_configs" => format!("plugin_config/{name}"),
            "services" => format!("service/{name}"),
            _ => format!("route/{name}"),
        };
        for (n, route) in entity.list("routes").iter().enumerate() {
            self.read_shared(spot.item(route.line, "routes", n), "routes", route);
        }
        for name in PICKING {
            if let Some(value) = entity.get(name).filter(|value| !value.is_empty()) {
                self.picking.push((spot.down(value.line, name), kind.clone(), name));
            }
        }
        if let Some(plugins) = entity.get("plugins") {
            self.shared.push((spot.down(plugins.line, "plugins"), kind, plugins));
        }
    }

    fn give_all(&self, findings: &mut Findings<'_>) -> Result<()> {
        self.tell_shared(findings)?;
        for (spot, whose, name) in &self.picking {
            let why = "a route with it takes some requests only, and a key is for all";
            findings.wider(name, whose, spot, why)?;
        }
        for (spot, consumer) in &self.consumers {
            self.give_consumer(spot, consumer, findings)?;
        }
        for (spot, owner, _) in &self.credentials {
            if !self.consumers.iter().any(|(_, c)| name_of(c) == *owner) {
                let why =
                    "its consumer is not in this file, so that its restrictions are not known";
                findings.fault(spot, why)?;
            }
        }
        Ok(())
    }

    /// Plugins of global rules, services and routes: a key cannot hold what applies to everybody.
    fn tell_shared(&self, findings: &mut Findings<'_>) -> Result<()> {
        let somewhere = self.shared.iter().any(|(_, _, plugins)| guards(plugins));
        let everywhere =
            self.shared.iter().any(|(_, whose, plugins)| whose.is_empty() && guards(plugins));
        for (spot, whose, plugins) in &self.shared {
            let keyless = whose.starts_with("route/") || whose.starts_with("service/");
            let keyless = keyless && somewhere && !everywhere && !guards(plugins);
            for (name, plugin) in plugins.entries() {
                let spot = spot.down(plugin.line, name);
                if HARMLESS.contains(&name) || is_off(plugin) {
                    continue;
                }
                if keyless && !self.could_take_keys(whose) {
                    findings.lost(&spot, "is for a route that takes no keys")?;
                    continue;
                }
                let why = "may refuse requests, and is not of one consumer";
                findings.wider(name, whose, &spot, format!("plugin `{name}` {why}"))?;
            }
        }
        Ok(())
    }

    /// A route may take `key-auth` from its service, and a service's routes may have it themselves.
    fn could_take_keys(&self, whose: &str) -> bool {
        let of_another_kind =
            |other: &str| !other.is_empty() && other.split('/').next() != whose.split('/').next();
        self.shared.iter().any(|(_, other, plugins)| of_another_kind(other) && guards(plugins))
    }

    fn give_consumer(
        &self,
        spot: &Spot,
        consumer: &Yaml,
        findings: &mut Findings<'_>,
    ) -> Result<()> {
        const KNOWN: [&str; 14] = [
            "username",
            "name",
            "plugins",
            "credentials",
            "desc",
            "description",
            "create_time",
            "update_time",
            "group_id",
            "id",
            "key",
            "modifiedIndex",
            "createdIndex",
            "value",
        ];
        for (name, value) in consumer.entries() {
            if !KNOWN.contains(&name) && !value.is_null() {
                findings.lost(&spot.down(value.line, name), "has no place in a key")?;
            }
        }
        let client = name_of(consumer);
        let keys = self.keys_of(&client, spot, consumer, findings)?;
        if keys.is_empty() {
            return findings.lost(spot, "this consumer has no key of key-auth");
        }
        let Some(terms) = self.terms_of(&client, spot, consumer, keys.len(), findings)? else {
            return findings.lost(spot, "its plugins refuse every request of it");
        };
        for (spot, config, note) in keys {
            let key = config.get("key");
            let line = key.map_or(spot.line, |key| key.line);
            let mut candidate = Candidate::new(&client, &Spot::new(line, spot.place));
            candidate.within(&terms.reach);
            if let Ok(Some(limit)) = OneLimit::of(&terms.quotas) {
                candidate.raw.limit = Some(limit.text.into());
            }
            candidate.raw.created = consumer.count("create_time").map(RawTime::of);
            let note = note.or_else(|| consumer.get("desc")).and_then(Yaml::as_text);
            candidate.raw.note = note.map(|note| note.to_owned().into());
            findings.give(candidate, secret_of(key))?;
        }
        Ok(())
    }

    /// Every configuration of `key-auth` that admits this consumer, with its description.
    fn keys_of<'s>(
        &'s self,
        client: &str,
        spot: &Spot,
        consumer: &'s Yaml,
        findings: &mut Findings<'_>,
    ) -> Result<Vec<(Spot, &'s Yaml, Option<&'s Yaml>)>> {
        let mut keys = Vec::new();
        if let Some(config) = consumer.at(&["plugins", "key-auth"]) {
            keys.push((spot.down(config.line, "plugins.key-auth"), config, None));
        }
        let nested = consumer.list("credentials").iter().enumerate();
        let nested = nested.map(|(n, c)| (spot.item(c.line, "credentials", n), c));
        let apart = self.credentials.iter().filter(|(_, owner, _)| owner == client);
        for (spot, credential) in nested.chain(apart.map(|(s, _, c)| (s.clone(), *c))) {
            // ADC names the kind; all others put a plugin in it.
            let config = match credential.text("type") {
                "key-auth" => credential.get("config"),
                "" => credential.at(&["plugins", "key-auth"]),
                _ => None,
            };
            match config {
                Some(config) => keys.push((spot, config, credential.get("desc"))),
                None => findings.lost(&spot, "is a credential of another kind than a key")?,
            }
        }
        let mut living = Vec::new();
        for (spot, config, note) in keys {
            if is_off(config) {
                findings.lost(&spot, "is switched off")?;
            } else {
                living.push((spot, config, note));
            }
        }
        Ok(living)
    }

    /// What the consumer's plugins, or else those of its group, amount to. `None`: they always
    /// refuse it.
    fn terms_of(
        &self,
        client: &str,
        spot: &Spot,
        consumer: &Yaml,
        keys: usize,
        findings: &mut Findings<'_>,
    ) -> Result<Option<RuleTerms>> {
        let mut terms = RuleTerms::default();
        let own = consumer.get("plugins");
        let mut plugins: Vec<(Spot, &str, &Yaml)> = Vec::new();
        for (name, plugin) in own.into_iter().flat_map(Yaml::entries) {
            plugins.push((spot.down(plugin.line, &format!("plugins.{name}")), name, plugin));
        }
        for (spot, group) in self.groups_of(client, spot, consumer, findings)? {
            for (name, plugin) in group.get("plugins").into_iter().flat_map(Yaml::entries) {
                if own.is_none_or(|own| own.get(name).is_none()) {
                    plugins.push((
                        spot.down(plugin.line, &format!("plugins.{name}")),
                        name,
                        plugin,
                    ));
                }
            }
        }
        for (spot, name, plugin) in plugins {
            if is_off(plugin) {
                findings.lost(&spot, "is switched off")?;
                continue;
            }
            if plugin.at(&["_meta", "filter"]).is_some() && !HARMLESS.contains(&name) {
                let why = format!("plugin `{name}` holds for some requests only");
                findings.wider(name, client, &spot, why)?;
                continue;
            }
            let mut quota = None;
            match name {
                "ip-restriction" => {
                    match AllowedNetworks::of(plugin.get("whitelist"), plugin.get("blacklist")) {
                        Ok(reach) => terms.reach = terms.reach.and(reach),
                        Err(why) => {
                            let why = format!("plugin `{name}` has {why}");
                            findings.wider(name, client, &spot, why)?;
                        }
                    }
                }
                "limit-count" => {
                    // `rules` state limits in another form, instead of or in addition to this one.
                    let windows = plugin.count("count").zip(plugin.count("time_window"));
                    let windows = windows.filter(|_| plugin.get("rules").is_none());
                    quota = Some(windows.map(|(count, seconds)| Quota::new(count, seconds)));
                }
                "limit-req" => quota = Some(leaky(plugin)),
                "key-auth" => {}
                name if OTHER_WAYS.contains(&name) => {
                    findings.lost(&spot, "is a credential of another kind than a key")?;
                }
                name if HARMLESS.contains(&name) => {
                    findings.lost(&spot, "this plugin has no place in a key")?;
                }
                _ => {
                    let why =
                        format!("plugin `{name}` may refuse requests, and has no place in a key");
                    findings.wider(name, client, &spot, why)?;
                }
            }
            match quota {
                None => {}
                Some(None) => {
                    let why = format!("plugin `{name}` has a limit that a key cannot hold");
                    findings.wider(name, client, &spot, why)?;
                }
                Some(Some(quota)) => {
                    tell_counting(name, client, plugin, keys, &spot, findings)?;
                    terms.quotas.push(quota);
                }
            }
        }
        match OneLimit::of(&terms.quotas) {
            Ok(Some(limit)) if limit.stricter => {
                let why = format!("a key has one limit, `{}`, stricter", limit.text);
                findings.lost(spot, why)?;
            }
            Ok(_) => {}
            Err(why) => findings.wider("limit-count", client, spot, format!("it has {why}"))?,
        }
        Ok((terms.reach != AllowedNetworks::Nowhere).then_some(terms))
    }

    fn groups_of(
        &self,
        client: &str,
        spot: &Spot,
        consumer: &Yaml,
        findings: &mut Findings<'_>,
    ) -> Result<Vec<(Spot, &'y Yaml)>> {
        let around = |(at, _): &&(Spot, &Yaml)| spot.place.starts_with(&format!("{}.", at.place));
        if let Some(group) = self.groups.iter().find(around) {
            return Ok(vec![group.clone()]);
        }
        let Some(group) = consumer.get("group_id") else { return Ok(Vec::new()) };
        // A value that is not a word cannot name a group that is here.
        let id = group.word().unwrap_or_else(|| "?".to_owned());
        let named = |(_, group): &&(Spot, &Yaml)| {
            ["id", "name"].iter().any(|f| group.get(f).and_then(Yaml::word).as_ref() == Some(&id))
        };
        if let Some(group) = self.groups.iter().find(named) {
            return Ok(vec![group.clone()]);
        }
        let line = consumer.get("group_id").map_or(spot.line, |id| id.line);
        let why = format!("its group `{id}` is not in this file, nor what its plugins refuse");
        findings.wider("group_id", client, &spot.down(line, "group_id"), why)?;
        Ok(Vec::new())
    }
}

/// Whether a route with these plugins takes keys, alone or as one of several ways in (`multi-auth`).
fn guards(plugins: &Yaml) -> bool {
    let alone = plugins.get("key-auth").is_some_and(|p| !is_off(p));
    let several = plugins.get("multi-auth").filter(|p| !is_off(p));
    let ways = several.map_or(&[][..], |plugin| plugin.list("auth_plugins"));
    alone || ways.iter().any(|way| way.get("key-auth").is_some())
}

/// APISIX counts by address unless configured otherwise.
fn tell_counting(
    name: &str,
    client: &str,
    plugin: &Yaml,
    keys: usize,
    spot: &Spot,
    findings: &mut Findings<'_>,
) -> Result<()> {
    let by = plugin.get("key").map_or("remote_addr", |key| key.as_text().unwrap_or("?"));
    if keys > 1 {
        let why = format!("is shared by {keys} keys; each of them would have it to itself");
        findings.wider(name, client, spot, format!("plugin `{name}` {why}"))?;
    } else if plugin.get("group").is_some() {
        let why = format!("plugin `{name}` counts together with others");
        findings.wider(name, client, spot, why)?;
    } else if by != "consumer_name" {
        let why = format!("plugin `{name}` counts by {by}; here the key counts as a whole");
        findings.lost(spot, why)?;
    }
    Ok(())
}

/// `rate` a second and a `burst` beyond, as one quota that is not wider.
fn leaky(plugin: &Yaml) -> Option<Quota> {
    let rate = plugin.number("rate").filter(|rate| *rate > 0.0)?;
    if rate >= 1.0 && rate.fract() == 0.0 && rate < 1e9 {
        let burst = plugin.number("burst").unwrap_or(0.0).clamp(0.0, rate - 1.0);
        return Some(Quota { burst: 1 + burst as u64, ..Quota::new(rate as u64, 1) });
    }
    let seconds = (1.0 / rate).ceil();
    (rate < 1.0 && seconds <= 86_400.0).then_some(Quota::new(1, seconds as u64))
}

fn is_off(plugin: &Yaml) -> bool {
    let meta = plugin.at(&["_meta", "disable"]).is_some_and(Yaml::is_true);
    meta || plugin.get("disable").is_some_and(Yaml::is_true)
}

fn name_of(consumer: &Yaml) -> String {
    let word = |name| consumer.get(name).and_then(Yaml::word);
    word("username").or_else(|| word("name")).unwrap_or_default()
}

#[cfg(test)]
mod tests;
