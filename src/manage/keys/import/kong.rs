//! Kong: its declarative configuration, nested and flat, as written by people, by `kong config
//! db_export` and by `decK`. [`model`] holds what counts for keys, [`judge`] decides.

pub mod judge;
pub mod model;

use std::io::BufRead;
use std::path::Path;

use self::model::{Consumer, Group, Kong, KongKey, Plugin, PluginConfig, Reference, Scope};
use super::super::super::error::Result;
use super::collect::{Findings, ImportItem, Spot, secret_of};
use super::shape::Shape;
use super::yaml::{self, Misshapen, Yaml};

/// Entities that do not affect who is admitted.
const APART: [&str; 14] = [
    "ca_certificates",
    "certificates",
    "degraphql_routes",
    "filter_chains",
    "key_sets",
    "keys",
    "licenses",
    "parameters",
    "partials",
    "rbac_roles",
    "snis",
    "targets",
    "upstreams",
    "vaults",
];
/// Credentials other than keys, at the top or in a consumer.
const OTHER_CREDENTIALS: [&str; 7] = [
    "basicauth_credentials",
    "hmacauth_credentials",
    "jwt_secrets",
    "mtls_auth_credentials",
    "oauth2_credentials",
    "oauth2_tokens",
    "jwt_signer_keys",
];
/// Keys, of the open and of the encrypting plugin.
const KEYS: [&str; 2] = ["keyauth_credentials", "keyauth_enc_credentials"];
const CONSUMER: [&str; 12] = [
    "username",
    "custom_id",
    "id",
    "acls",
    "plugins",
    "created_at",
    "updated_at",
    "groups",
    "consumer_groups",
    "consumer_group_consumers",
    "ws_id",
    "type",
];

/// The lists that say who is admitted. Settings of plugins are judged where they are read.
const SHAPE: Shape = Shape {
    lists: &[
        "acls",
        "consumer_group_consumers",
        "consumer_group_plugins",
        "consumer_groups",
        "consumers",
        "groups",
        "keyauth_credentials",
        "keyauth_enc_credentials",
        "plugins",
        "routes",
        "services",
    ],
    maps: &["_plugin_configs"],
    opaque: &["config", "_plugin_configs"],
};

pub fn read(
    source: &mut dyn BufRead,
    path: &Path,
    sink: &mut dyn FnMut(ImportItem) -> Result<()>,
) -> Result<()> {
    let documents = yaml::documents(source, path)?;
    let mut findings = Findings::new(path, sink);
    let mut kong = Kong::default();
    for document in &documents {
        SHAPE.check(document, &Spot::default(), &mut findings)?;
        read_document(document, &mut kong, &mut findings)?;
    }
    if !kong.has_keys() && kong.consumers.is_empty() {
        let why = "holds no consumers with keyauth_credentials; is the format right?";
        return findings.fault(&Spot::default(), why);
    }
    judge::all(kong, &mut findings)
}

fn read_document<'y>(
    document: &'y Yaml,
    kong: &mut Kong<'y>,
    findings: &mut Findings<'_>,
) -> Result<()> {
    let root = Spot::default();
    // Consumers and groups first: everything else refers to them.
    for (n, entity) in document.list("consumer_groups").iter().enumerate() {
        read_group(entity, &root.item(entity.line, "consumer_groups", n), kong);
    }
    for (n, entity) in document.list("consumers").iter().enumerate() {
        read_consumer(entity, &root.item(entity.line, "consumers", n), kong, findings)?;
    }
    let shared = document.get("_plugin_configs");
    for (n, entity) in document.list("services").iter().enumerate() {
        let spot = root.item(entity.line, "services", n);
        let service = name_of(entity).unwrap_or_else(|| spot.place.clone());
        let scope = Scope { service: Some(service.clone()), ..Scope::default() };
        read_plugins(entity, &spot, &scope, shared, kong);
        for (n, route) in entity.list("routes").iter().enumerate() {
            read_route(route, &spot.item(route.line, "routes", n), &scope, shared, kong);
        }
        // Other entities may refer to the service by its id.
        kong.alias(entity, &service);
    }
    for (n, entity) in document.list("routes").iter().enumerate() {
        let service = entity.get("service").and_then(Reference::of).map(|r| kong.named(&r));
        let scope = Scope { service, ..Scope::default() };
        read_route(entity, &root.item(entity.line, "routes", n), &scope, shared, kong);
    }
    for (n, entity) in document.list("consumer_groups").iter().enumerate() {
        let spot = root.item(entity.line, "consumer_groups", n);
        let group = Reference::named(entity);
        let scope = Scope { group: Some(group), ..Scope::default() };
        read_plugins(entity, &spot, &scope, shared, kong);
        for (n, plugin) in entity.list("consumer_group_plugins").iter().enumerate() {
            let spot = spot.item(plugin.line, "consumer_group_plugins", n);
            kong.plugins.push(read_plugin(plugin, spot, &scope, shared));
        }
    }
    for (n, entity) in document.list("consumers").iter().enumerate() {
        let spot = root.item(entity.line, "consumers", n);
        let scope = Scope { consumer: Some(Reference::named(entity)), ..Scope::default() };
        read_plugins(entity, &spot, &scope, shared, kong);
    }
    read_flat(document, &root, shared, kong, findings)
}

/// Top-level entries that refer to a consumer, a group or a service.
fn read_flat<'y>(
    document: &'y Yaml,
    root: &Spot,
    shared: Option<&'y Yaml>,
    kong: &mut Kong<'y>,
    findings: &mut Findings<'_>,
) -> Result<()> {
    for list in ["plugins", "consumer_group_plugins"] {
        for (n, entity) in document.list(list).iter().enumerate() {
            let spot = root.item(entity.line, list, n);
            kong.plugins.push(read_plugin(entity, spot, &Scope::default(), shared));
        }
    }
    for list in KEYS {
        for (n, entity) in document.list(list).iter().enumerate() {
            let spot = root.item(entity.line, list, n);
            let owner = entity.get("consumer").and_then(Reference::of);
            match owner.as_ref().and_then(|owner| kong.consumer(owner)) {
                Some(consumer) => {
                    consumer.credentials.push(read_credential(entity, &spot, findings)?);
                }
                None => {
                    let why = "its consumer is not in this file, so that neither its name nor its \
                               restrictions are known";
                    findings.fault(&spot, why)?;
                }
            }
        }
    }
    for (n, entity) in document.list("acls").iter().enumerate() {
        let spot = root.item(entity.line, "acls", n);
        let owner = entity.get("consumer").and_then(Reference::of);
        match owner.as_ref().and_then(|owner| kong.consumer(owner)) {
            Some(consumer) => match entity.get("group").and_then(Yaml::word) {
                Some(group) => consumer.acls.push(group),
                None => tell_group(&spot, findings)?,
            },
            None => findings.lost(&spot, "its consumer is not in this file")?,
        }
    }
    for (n, entity) in document.list("consumer_group_consumers").iter().enumerate() {
        let spot = root.item(entity.line, "consumer_group_consumers", n);
        let reference = |name| entity.get(name).and_then(Reference::of);
        let group = reference("consumer_group");
        match (reference("consumer").and_then(|owner| kong.consumer(&owner)), group) {
            (Some(consumer), Some(group)) => consumer.groups.push(group),
            (Some(_), None) => tell_group(&spot, findings)?,
            _ => findings.lost(&spot, "its consumer is not in this file")?,
        }
    }
    for (name, entities) in document.entries().filter(|(_, entities)| !entities.is_empty()) {
        let spot = root.down(entities.line, name);
        if OTHER_CREDENTIALS.contains(&name) {
            findings.lost(&spot, "are credentials of another kind than keys")?;
        } else if APART.contains(&name) {
            findings.lost(&spot, "have no place in a key")?;
        } else if !name.starts_with('_') && !SHAPE.lists.contains(&name) {
            findings.lost(&spot, "are nothing that this import knows")?;
        }
    }
    Ok(())
}

fn read_group(entity: &Yaml, spot: &Spot, kong: &mut Kong<'_>) {
    let mut members = Vec::new();
    for list in ["consumers", "consumer_group_consumers"] {
        for member in entity.list(list) {
            let member = member.get("consumer").unwrap_or(member);
            members.extend(Reference::of(member));
        }
    }
    kong.groups.push(Group { reference: Reference::named(entity), spot: spot.clone(), members });
}

fn read_consumer(
    entity: &Yaml,
    spot: &Spot,
    kong: &mut Kong<'_>,
    findings: &mut Findings<'_>,
) -> Result<()> {
    for (name, value) in entity.entries() {
        let spot = spot.down(value.line, name);
        if OTHER_CREDENTIALS.contains(&name) {
            if !value.is_empty() {
                findings.lost(&spot, "are credentials of another kind than keys")?;
            }
        } else if !CONSUMER.contains(&name) && !KEYS.contains(&name) && !value.is_null() {
            findings.lost(&spot, "has no place in a key")?;
        }
    }
    let mut groups = Vec::new();
    for list in ["groups", "consumer_groups", "consumer_group_consumers"] {
        for group in entity.list(list) {
            match Reference::of(group.get("consumer_group").unwrap_or(group)) {
                Some(group) => groups.push(group),
                None => tell_group(&spot.down(group.line, list), findings)?,
            }
        }
    }
    let mut acls = Vec::new();
    for (n, acl) in entity.list("acls").iter().enumerate() {
        match acl.word().or_else(|| acl.get("group")?.word()) {
            Some(group) => acls.push(group),
            None => tell_group(&spot.item(acl.line, "acls", n), findings)?,
        }
    }
    let mut credentials = Vec::new();
    for list in KEYS {
        for (n, yaml) in entity.list(list).iter().enumerate() {
            let spot = spot.item(yaml.line, list, n);
            credentials.push(read_credential(yaml, &spot, findings)?);
        }
    }
    kong.consumers.push(Consumer {
        reference: Reference::named(entity),
        spot: spot.clone(),
        acls,
        groups,
        credentials,
    });
    Ok(())
}

fn read_credential(entity: &Yaml, spot: &Spot, findings: &mut Findings<'_>) -> Result<KongKey> {
    const KNOWN: [&str; 8] =
        ["key", "consumer", "id", "created_at", "updated_at", "ttl", "ws_id", "cache_key"];
    for (name, value) in entity.entries() {
        if !KNOWN.contains(&name) && !value.is_null() {
            findings.lost(&spot.down(value.line, name), "has no place in a key")?;
        }
    }
    let key = entity.get("key");
    let line = key.map_or(spot.line, |key| key.line);
    Ok(KongKey {
        spot: Spot::new(line, spot.place.as_str()),
        key: secret_of(key),
        created: entity.get("created_at").and_then(|at| at.seconds().ok()),
        ttl: ttl_of(entity.get("ttl")),
    })
}

/// Kong treats 0 as none.
pub fn ttl_of(ttl: Option<&Yaml>) -> std::result::Result<Option<u64>, Misshapen> {
    ttl.map(Yaml::seconds).transpose().map(|ttl| ttl.filter(|ttl| *ttl > 0))
}

/// A group may admit a client, or keep it out.
fn tell_group(spot: &Spot, findings: &mut Findings<'_>) -> Result<()> {
    findings.wider("groups", &spot.place, spot, "names a group in a way that cannot be read")
}

fn read_route<'y>(
    entity: &'y Yaml,
    spot: &Spot,
    scope: &Scope,
    shared: Option<&'y Yaml>,
    kong: &mut Kong<'y>,
) {
    let route = name_of(entity).unwrap_or_else(|| spot.place.clone());
    let scope = Scope { route: Some(route.clone()), ..scope.clone() };
    if let Some(service) = &scope.service {
        kong.routes.push((route.clone(), service.clone()));
    }
    kong.alias(entity, &route);
    read_plugins(entity, spot, &scope, shared, kong);
}

fn read_plugins<'y>(
    entity: &'y Yaml,
    spot: &Spot,
    scope: &Scope,
    shared: Option<&'y Yaml>,
    kong: &mut Kong<'y>,
) {
    for (n, plugin) in entity.list("plugins").iter().enumerate() {
        let spot = spot.item(plugin.line, "plugins", n);
        kong.plugins.push(read_plugin(plugin, spot, scope, shared));
    }
}

/// A plugin with the scope of its place in the file and of its own references.
fn read_plugin<'y>(
    entity: &'y Yaml,
    spot: Spot,
    scope: &Scope,
    shared: Option<&'y Yaml>,
) -> Plugin<'y> {
    let reference = |name| entity.get(name).and_then(Reference::of);
    let word = |name| reference(name).map(|r: Reference| r.first().to_owned());
    let template = entity.get("_config").and_then(Yaml::as_text);
    let mut config = PluginConfig {
        own: entity.get("config"),
        shared: template.and_then(|name| shared?.get(name)),
        unknown: None,
    };
    let lost = ["consumer", "consumer_group", "service", "route"]
        .into_iter()
        .any(|name| entity.get(name).is_some() && reference(name).is_none());
    config.unknown = if entity.get("_config").is_some() && config.shared.is_none() {
        Some("its `_config` is not in this file")
    } else if !config.is_well_formed() {
        Some("its settings are no mapping")
    } else if lost {
        Some("what it is bound to cannot be read")
    } else {
        None
    };
    Plugin {
        name: entity.get("name").and_then(Yaml::word).unwrap_or_else(|| "?".to_owned()),
        config,
        enabled: !entity.says("enabled", "false"),
        scope: Scope {
            consumer: reference("consumer").or_else(|| scope.consumer.clone()),
            group: reference("consumer_group").or_else(|| scope.group.clone()),
            service: word("service").or_else(|| scope.service.clone()),
            route: word("route").or_else(|| scope.route.clone()),
        },
        spot,
    }
}

fn name_of(entity: &Yaml) -> Option<String> {
    entity.get("name").and_then(Yaml::word).or_else(|| entity.get("id").and_then(Yaml::word))
}

#[cfg(test)]
mod tests;
