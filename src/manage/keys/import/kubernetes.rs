//! Kubernetes: the Secrets in which gateways keep keys, and the resources that say whose they are.
//! A Secret is selected as its gateway selects it: by type, label or reference, never just because
//! it is a Secret.

pub mod resource;

use std::io::BufRead;
use std::path::Path;

use self::resource::{KubernetesResource, KubernetesResources, Selector};
use super::super::super::error::{Error, Result};
use super::collect::{Candidate, Findings, ImportItem, Spot};
use super::kong::judge;
use super::kong::model::{Consumer, Group, Kong, KongKey, Plugin, PluginConfig, Reference, Scope};
use super::shape::Shape;
use super::yaml::{self, Misshapen, Yaml};
use crate::wording::shell::quoted;

/// Types whose entries are not keys of clients, and what they are.
const NEVER: [(&str, &str); 14] = [
    ("kubernetes.io/service-account-token", "holds a token of a service account"),
    ("kubernetes.io/dockercfg", "holds credentials of an image registry"),
    ("kubernetes.io/dockerconfigjson", "holds credentials of an image registry"),
    ("kubernetes.io/basic-auth", "holds a name and a password"),
    ("kubernetes.io/ssh-auth", "holds an SSH key"),
    ("kubernetes.io/tls", "holds a certificate"),
    ("bootstrap.kubernetes.io/token", "holds a bootstrap token"),
    ("helm.sh/release.v1", "holds a Helm release"),
    ("nginx.org/ca", "holds a certificate"),
    ("nginx.org/htpasswd", "holds names and passwords"),
    ("nginx.org/jwk", "holds keys of JSON Web Tokens"),
    ("nginx.org/license", "holds a licence"),
    ("nginx.org/oidc", "holds a secret of OpenID Connect"),
    ("istio.io/key-and-cert", "holds a certificate"),
];
const NGINX_TYPES: [&str; 2] = ["nginx.org/apikey", "nginx.org/api-key"];
const KONG_LABEL: &str = "konghq.com/credential";
const KONG_ENTRY: &str = "kongCredType";
const KONG_PLUGINS: &str = "konghq.com/plugins";
const AUTHORINO_LABEL: &str = "authorino.kuadrant.io/managed-by";
const AUTHORINO_ENTRY: &str = "api_key";
/// Policies that refuse requests, as a whole.
const LIMITING: [&str; 3] = ["PlanPolicy", "RateLimitPolicy", "TokenRateLimitPolicy"];
/// Parts of policies of Envoy Gateway and of the ingress controller of NGINX that refuse nobody.
const HARMLESS_PARTS: [&str; 11] = [
    "apiKey",
    "apiKeyAuth",
    "cache",
    "cors",
    "egressMTLS",
    "ingressClassName",
    "mergeType",
    "targetRef",
    "targetRefs",
    "targetSelectors",
    "telemetry",
];

const SHAPE: Shape =
    Shape { lists: &["consumerGroups", "credentials"], maps: &[], opaque: &["metadata"] };

/// `keys_in`: Secrets of which the operator says that every entry is a key, as `NAME` or
/// `NAMESPACE/NAME`.
pub fn read(
    source: &mut dyn BufRead,
    path: &Path,
    keys_in: &[String],
    sink: &mut dyn FnMut(ImportItem) -> Result<()>,
) -> Result<()> {
    let documents = yaml::documents(source, path)?;
    let resources = KubernetesResources::of(&documents);
    let mut findings = Findings::new(path, sink);
    let mut kong = Kong::default();
    let mut found = false;
    for consumer in resources.of_kind("KongConsumer") {
        SHAPE.check(consumer.yaml, &consumer.spot, &mut findings)?;
    }
    tell_named(&resources, keys_in, &mut findings)?;
    tell_policies(&resources, &mut findings)?;
    read_kong(&resources, &mut kong, &mut findings)?;
    for secret in resources.of_kind("Secret") {
        if let Some((_, why)) = NEVER.iter().find(|(kind, _)| *kind == secret.secret_type()) {
            findings.lost(&secret.spot, format!("{why}, no keys of clients"))?;
            continue;
        }
        if let Some(kind) = kong_kind(secret) {
            found |= read_kong_secret(secret, &kind, &resources, &mut kong, &mut findings)?;
            continue;
        }
        found |= give_secret(secret, &resources, keys_in, &mut findings)?;
    }
    if !kong.consumers.is_empty() {
        judge::all(kong, &mut findings)?;
    }
    for other in resources.unknown() {
        let why = format!("a resource of kind `{}` is no Secret", other.kind);
        findings.lost(&other.spot, why)?;
    }
    if found {
        return Ok(());
    }
    let why = "holds no Secret that is known as a gateway's; --keys-in SECRET names one whose \
               entries are keys";
    findings.fault(&Spot::default(), why)
}

/// Reports names of `--keys-in` that match no Secret, or several.
fn tell_named(
    resources: &KubernetesResources<'_>,
    keys_in: &[String],
    findings: &mut Findings<'_>,
) -> Result<()> {
    for given in keys_in {
        let named: Vec<_> = resources.of_kind("Secret").filter(|s| s.is_named(given)).collect();
        let option = format!("--keys-in {}", quoted(given));
        match named.as_slice() {
            [_] => {}
            [] => {
                let why = format!("{option}: no Secret here has this name");
                findings.fault(&Spot::default(), why)?;
            }
            [first, ..] => {
                // It is unknown which of them has keys, so none is read.
                let all = named.iter().map(|secret| quoted(&secret.full_name()).into_owned());
                let all = all.collect::<Vec<_>>().join(", ");
                let why = format!("{option}: several Secrets have this name: {all}");
                let hint = "say which with --keys-in NAMESPACE/NAME";
                return Err(Error::fault(findings.at(&first.spot, why), hint));
            }
        }
    }
    Ok(())
}

/// Reads a Secret of any gateway but Kong. Returns whether it held keys.
fn give_secret(
    secret: &KubernetesResource<'_>,
    resources: &KubernetesResources<'_>,
    keys_in: &[String],
    findings: &mut Findings<'_>,
) -> Result<bool> {
    let kind = secret.secret_type();
    let named = keys_in.iter().any(|given| secret.is_named(given));
    if NGINX_TYPES.contains(&kind) {
        let names = |policy: &KubernetesResource<'_>| {
            let name = policy.yaml.at(&["spec", "apiKey", "clientSecret"])?;
            Some(name.as_text().unwrap_or_default().to_owned())
        };
        let policies = || resources.of_kind("Policy");
        let referred = policies()
            .any(|p| p.shares_namespace(secret) && names(p).as_ref() == Some(&secret.name));
        if policies().any(|p| names(p).is_some()) && !referred && !named {
            findings.lost(&secret.spot, "no Policy in this file refers to it")?;
            return Ok(false);
        }
        return give_entries(secret, findings);
    }
    let selectors = resources.selectors();
    let selected = selectors.iter().find(|selector| selector.selects(secret));
    if secret.label(AUTHORINO_LABEL).is_some() || selected.is_some() {
        if !selectors.is_empty() && selected.is_none() {
            findings.lost(&secret.spot, "no AuthConfig in this file selects it")?;
            return Ok(false);
        }
        return give_authorino(secret, selected, findings);
    }
    if !matches!(kind, "" | "Opaque") {
        findings
            .lost(&secret.spot, format!("is of type `{kind}`, which holds no keys of clients"))?;
        return Ok(false);
    }
    if named || resources.is_credential_of_a_policy(secret) {
        return give_entries(secret, findings);
    }
    let why = format!(
        "nothing in this file says that its entries are keys; if each is a client's key, say \
         --keys-in {}",
        quoted(&secret.full_name())
    );
    findings.lost(&secret.spot, why)?;
    Ok(false)
}

/// One key per entry: the entry's name is the client.
fn give_entries(secret: &KubernetesResource<'_>, findings: &mut Findings<'_>) -> Result<bool> {
    let entries = secret.entries();
    for entry in &entries {
        findings.give(Candidate::new(entry.name, &entry.spot), entry.value())?;
    }
    Ok(!entries.is_empty())
}

/// The entry `api_key`, or those that the AuthConfig selects: the Secret's name is the client.
fn give_authorino(
    secret: &KubernetesResource<'_>,
    selector: Option<&Selector<'_>>,
    findings: &mut Findings<'_>,
) -> Result<bool> {
    let mut names: Vec<&str> = selector.map(Selector::entries).unwrap_or_default();
    names.push(AUTHORINO_ENTRY);
    let mut found = false;
    for entry in secret.entries() {
        if names.contains(&entry.name) {
            found = true;
            findings.give(Candidate::new(&secret.name, &entry.spot), entry.value())?;
        } else {
            findings
                .lost(&entry.spot, "is not the entry `api_key`, where Authorino has the key")?;
        }
    }
    if !found {
        findings.lost(&secret.spot, "has no entry `api_key`")?;
    }
    Ok(found)
}

/// Which of Kong's credentials a Secret is.
fn kong_kind(secret: &KubernetesResource<'_>) -> Option<String> {
    let label = secret.label(KONG_LABEL).map(str::to_owned);
    label.or_else(|| secret.entry(KONG_ENTRY)?.text().map(|text| text.trim().to_owned()))
}

/// Reads a credential of Kong for the consumers that refer to it. Returns whether it is a key.
fn read_kong_secret(
    secret: &KubernetesResource<'_>,
    kind: &str,
    resources: &KubernetesResources<'_>,
    kong: &mut Kong<'_>,
    findings: &mut Findings<'_>,
) -> Result<bool> {
    if kind == "acl" {
        // Read together with its consumers.
        return Ok(false);
    }
    if !matches!(kind, "key-auth" | "key-auth-enc") {
        findings.lost(&secret.spot, format!("is a credential for `{kind}`, no key"))?;
        return Ok(false);
    }
    let key = secret.entry("key");
    for entry in secret.entries() {
        if !["key", KONG_ENTRY, "ttl", "id"].contains(&entry.name) {
            findings.lost(&entry.spot, "has no place in a key")?;
        }
    }
    let ttl = match secret.entry("ttl").map(|ttl| ttl.text().and_then(|t| t.trim().parse().ok())) {
        None | Some(Some(0)) => Ok(None),
        Some(Some(ttl)) => Ok(Some(ttl)),
        Some(None) => Err(Misshapen),
    };
    let credential = || KongKey {
        spot: key.as_ref().map_or_else(|| secret.spot.clone(), |key| key.spot.clone()),
        key: key.as_ref().map_or(Err("is missing"), |key| key.value()),
        created: None,
        ttl,
    };
    let owners = resources.of_kind("KongConsumer").filter(|consumer| {
        let names = consumer.yaml.list("credentials").iter().filter_map(Yaml::as_text);
        consumer.shares_namespace(secret) && names.into_iter().any(|name| name == secret.name)
    });
    let owners: Vec<_> = owners.map(consumer_reference).collect();
    for owner in &owners {
        if let Some(consumer) = kong.consumer(owner) {
            consumer.credentials.push(credential());
        }
    }
    if !owners.is_empty() {
        return Ok(true);
    }
    if resources.of_kind("KongConsumer").next().is_some() {
        findings.lost(&secret.spot, "no KongConsumer in this file refers to it")?;
        return Ok(true);
    }
    let why = "the KongConsumer that refers to it is not in this file, nor what its plugins refuse";
    findings.lost(&secret.spot, why)?;
    kong.consumers.push(Consumer {
        reference: Reference { name: secret.name.clone(), ..Reference::default() },
        spot: secret.spot.clone(),
        acls: Vec::new(),
        groups: Vec::new(),
        credentials: vec![credential()],
    });
    Ok(true)
}

fn consumer_reference(consumer: &KubernetesResource<'_>) -> Reference {
    let mut reference = Reference::named(consumer.yaml);
    if reference.name.is_empty() && reference.custom_id.is_empty() {
        reference.name.clone_from(&consumer.name);
    }
    reference
}

/// Consumers, consumer groups and plugins of Kong's ingress controller.
fn read_kong<'y>(
    resources: &KubernetesResources<'y>,
    kong: &mut Kong<'y>,
    findings: &mut Findings<'_>,
) -> Result<()> {
    for group in resources.of_kind("KongConsumerGroup") {
        let reference = Reference { name: group.name.clone(), ..Reference::default() };
        let scope = Scope { group: Some(reference.clone()), ..Scope::default() };
        read_kong_plugins(group, &scope, resources, kong);
        kong.groups.push(Group { reference, spot: group.spot.clone(), members: Vec::new() });
    }
    for consumer in resources.of_kind("KongConsumer") {
        let reference = consumer_reference(consumer);
        let scope = Scope { consumer: Some(reference.clone()), ..Scope::default() };
        read_kong_plugins(consumer, &scope, resources, kong);
        let groups = consumer.yaml.list("consumerGroups").iter().filter_map(Reference::of);
        let mut acls = Vec::new();
        for name in consumer.yaml.list("credentials").iter().filter_map(Yaml::as_text) {
            let mut secrets = resources.of_kind("Secret");
            match secrets.find(|secret| secret.name == name && secret.shares_namespace(consumer)) {
                Some(secret) if kong_kind(secret).as_deref() == Some("acl") => {
                    let group = secret.entry("group");
                    acls.extend(group.and_then(|group| Some(group.text()?.trim().to_owned())));
                }
                Some(_) => {}
                None => {
                    let why = format!("its credential `{name}` is not in this file");
                    findings.lost(&consumer.spot, why)?;
                }
            }
        }
        kong.consumers.push(Consumer {
            reference,
            spot: consumer.spot.clone(),
            acls,
            groups: groups.collect(),
            credentials: Vec::new(),
        });
    }
    for plugin in resources.of_kind("KongClusterPlugin") {
        if plugin.label("global") == Some("true") {
            kong.plugins.push(kong_plugin(plugin, &Scope::default()));
        }
    }
    for kind in ["Service", "Ingress", "HTTPRoute", "GRPCRoute", "KongService", "KongRoute"] {
        for bound in resources.of_kind(kind) {
            let service = format!("{}/{}", kind.to_ascii_lowercase(), bound.name);
            let scope = Scope { service: Some(service), ..Scope::default() };
            read_kong_plugins(bound, &scope, resources, kong);
        }
    }
    Ok(())
}

/// The plugins that the annotation `konghq.com/plugins` of a resource binds to it.
fn read_kong_plugins<'y>(
    bound: &KubernetesResource<'y>,
    scope: &Scope,
    resources: &KubernetesResources<'y>,
    kong: &mut Kong<'y>,
) {
    let names = bound.annotation(KONG_PLUGINS).unwrap_or_default();
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let (namespace, short) = match name.rsplit_once([':', '/']) {
            Some((namespace, short)) => (Some(namespace), short),
            None => (None, name),
        };
        // A plugin of the same name in another namespace may refuse less.
        let own = resources.of_kind("KongPlugin").find(|plugin| {
            let beside = match namespace {
                Some(namespace) => plugin.is_in(namespace),
                None => plugin.shares_namespace(bound),
            };
            plugin.name == short && beside
        });
        let mut everywhere = resources.of_kind("KongClusterPlugin");
        let plugin = own.or_else(|| everywhere.find(|plugin| plugin.name == short));
        kong.plugins.push(match plugin {
            Some(plugin) => kong_plugin(plugin, scope),
            None => Plugin {
                name: name.to_owned(),
                config: PluginConfig {
                    unknown: Some("is not in this file"),
                    ..PluginConfig::default()
                },
                enabled: true,
                scope: scope.clone(),
                spot: bound.spot.clone(),
            },
        });
    }
}

fn kong_plugin<'y>(plugin: &KubernetesResource<'y>, scope: &Scope) -> Plugin<'y> {
    let elsewhere = ["configFrom", "configPatches"].iter().any(|f| plugin.yaml.get(f).is_some());
    let mut config = PluginConfig { own: plugin.yaml.get("config"), shared: None, unknown: None };
    config.unknown = if elsewhere {
        Some("its settings are in a Secret")
    } else if !config.is_well_formed() {
        Some("its settings are no mapping")
    } else {
        None
    };
    Plugin {
        name: plugin.yaml.get("plugin").and_then(Yaml::word).unwrap_or_else(|| "?".to_owned()),
        config,
        enabled: !plugin.yaml.get("disabled").is_some_and(Yaml::is_true),
        scope: scope.clone(),
        spot: plugin.spot.clone(),
    }
}

/// Reports policies of gateways that refuse requests with a good key.
fn tell_policies(resources: &KubernetesResources<'_>, findings: &mut Findings<'_>) -> Result<()> {
    for policy in resources.all() {
        let what = policy.kind.as_str();
        if LIMITING.contains(&what) {
            let why = format!("`{what}` refuses requests, and has no place in a key");
            findings.wider(what, &policy.name, &policy.spot, why)?;
        }
        let parts: Vec<&str> = match what {
            "SecurityPolicy" if policy.yaml.at(&["spec", "apiKeyAuth"]).is_some() => {
                policy.parts().collect()
            }
            "Policy" => policy.parts().collect(),
            "BackendTrafficPolicy" => policy.parts().filter(|part| *part == "rateLimit").collect(),
            "AuthConfig" | "AuthPolicy" => policy.authorizations(),
            _ => continue,
        };
        for part in parts.into_iter().filter(|part| !HARMLESS_PARTS.contains(part)) {
            let why =
                format!("`{part}` of this {what} may refuse requests, and has no place in a key");
            findings.wider(part, &policy.name, &policy.spot, why)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
