//! Importers of YAML (and so of JSON): Kong, APISIX, Envoy, Kubernetes Secrets.

use std::borrow::Cow;
use std::io::{BufRead, Read};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::super::super::error::{Error, Fault, Result};
use super::super::super::registry::entry::Stamp;
use super::collect::{Candidate, Found};
use crate::core::Secret;

/// Larger files of these kinds are not known; a bound keeps a wrong file from filling the memory.
const MAX_BYTES: u64 = 256 << 20;

type Sink<'a> = &'a mut dyn FnMut(Found) -> Result<()>;

/// What the plugins of one consumer mean for its keys.
#[derive(Clone, Debug, Default)]
struct Rules {
    permissions: Vec<Cow<'static, str>>,
    networks: Vec<Cow<'static, str>>,
    limit: Option<Cow<'static, str>>,
}

/// The documents of a YAML file. Its parser's message would quote the text, so only the line of
/// the fault is taken from it.
fn documents(source: &mut dyn BufRead, path: &Path) -> Result<Vec<Value>> {
    let mut text = Zeroizing::new(String::new());
    source.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => {
            Error::fault(Fault::new(path, 0, "", "is not UTF-8"), "")
        }
        _ => Error::Read { path: path.to_owned(), source: e },
    })?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::TooLarge { path: path.to_owned(), max: MAX_BYTES });
    }
    serde_saphyr::from_multiple::<Value>(&text).map_err(|e| {
        let line = e.location().map_or(0, |location| location.line());
        let hint = "--format says what the file is";
        Error::fault(Fault::new(path, line, "", "is not YAML that can be read"), hint)
    })
}

/// Says what of an object has no place in a key.
fn lose_others(
    object: &Map<String, Value>,
    known: &[&str],
    place: &str,
    path: &Path,
    sink: Sink<'_>,
) -> Result<()> {
    for (name, value) in object {
        if !known.contains(&name.as_str()) && !value.is_null() {
            let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
            sink(Found::Lost(Fault::new(path, 0, &place, "has no place in a key")))?;
        }
    }
    Ok(())
}

/// The text of a credential. A number in YAML may have lost its zeros.
fn secret_of(value: Option<&Value>) -> std::result::Result<Secret, &'static str> {
    match value {
        Some(Value::String(text))
            if text.starts_with("$secret://") || text.starts_with("$ENV://") =>
        {
            Err("refers to a secret that is kept elsewhere")
        }
        Some(Value::String(text)) if text.starts_with("{vault://") => {
            Err("refers to a secret that is kept elsewhere")
        }
        Some(Value::String(text)) => Ok(Secret::new(text.as_bytes())),
        Some(Value::Number(_)) => Err("is a number in this YAML; put the key in quotes"),
        Some(_) => Err("is no text"),
        None => Err("is missing"),
    }
}

fn list<'v>(object: &'v Map<String, Value>, name: &str) -> &'v [Value] {
    object.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'v>(object: &'v Map<String, Value>, name: &str) -> &'v str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

// Kong

pub fn read_kong(source: &mut dyn BufRead, path: &Path, sink: Sink<'_>) -> Result<()> {
    let mut found = false;
    for document in documents(source, path)? {
        let Value::Object(document) = document else { continue };
        for (n, consumer) in list(&document, "consumers").iter().enumerate() {
            let Value::Object(consumer) = consumer else { continue };
            found = true;
            kong_consumer(consumer, &format!("consumers[{n}]"), path, sink)?;
        }
        for (n, credential) in list(&document, "keyauth_credentials").iter().enumerate() {
            let Value::Object(credential) = credential else { continue };
            found = true;
            let place = format!("keyauth_credentials[{n}]");
            let client = match credential.get("consumer") {
                Some(Value::Object(consumer)) => text(consumer, "username"),
                _ => text(credential, "consumer"),
            };
            kong_credential(credential, client, &Rules::default(), &place, path, sink)?;
        }
    }
    nothing_found(found, "consumers with keyauth_credentials", path, sink)
}

fn kong_consumer(
    consumer: &Map<String, Value>,
    place: &str,
    path: &Path,
    sink: Sink<'_>,
) -> Result<()> {
    let known =
        ["username", "custom_id", "id", "keyauth_credentials", "acls", "plugins", "created_at"];
    lose_others(consumer, &known, place, path, sink)?;
    let client = match text(consumer, "username") {
        "" => text(consumer, "custom_id"),
        name => name,
    };
    let groups = list(consumer, "acls").iter().filter_map(Value::as_object);
    let mut rules = Rules {
        permissions: groups.map(|acl| text(acl, "group").to_owned().into()).collect(),
        ..Rules::default()
    };
    for (n, plugin) in list(consumer, "plugins").iter().enumerate() {
        let Value::Object(plugin) = plugin else { continue };
        let place = format!("{place}.plugins[{n}]");
        let config = plugin.get("config").and_then(Value::as_object);
        match (text(plugin, "name"), config) {
            ("ip-restriction", Some(config)) => {
                rules.allow(list(config, "allow"), list(config, "deny"), &place, path, sink)?;
            }
            ("rate-limiting", Some(config)) => {
                rules.kong_limit(config, &place, path, sink)?;
            }
            (name, _) => {
                let why = format!("plugin `{name}` has no place in a key");
                sink(Found::Lost(Fault::new(path, 0, &place, why)))?;
            }
        }
    }
    for (n, credential) in list(consumer, "keyauth_credentials").iter().enumerate() {
        let Value::Object(credential) = credential else { continue };
        let place = format!("{place}.keyauth_credentials[{n}]");
        kong_credential(credential, client, &rules, &place, path, sink)?;
    }
    Ok(())
}

fn kong_credential(
    credential: &Map<String, Value>,
    client: &str,
    rules: &Rules,
    place: &str,
    path: &Path,
    sink: Sink<'_>,
) -> Result<()> {
    let known = ["key", "consumer", "id", "created_at", "ttl"];
    lose_others(credential, &known, place, path, sink)?;
    let mut candidate = rules.candidate(client, place);
    let created = credential.get("created_at").and_then(Value::as_u64);
    candidate.raw.created = created.map(Stamp::of);
    if let Some(ttl) = credential.get("ttl").and_then(Value::as_u64).filter(|ttl| *ttl > 0) {
        let Some(created) = created else {
            let why = "`ttl` counts from `created_at`, which is missing: its end is not known";
            return sink(Found::Fault(Fault::new(path, 0, place, why)));
        };
        candidate.raw.expires = Some(Stamp::of(created.saturating_add(ttl)));
    }
    give(candidate, secret_of(credential.get("key")), path, sink)
}

// APISIX

/// `apisix.yaml`, or what the Admin API answers to `/consumers`.
pub fn read_apisix(source: &mut dyn BufRead, path: &Path, sink: Sink<'_>) -> Result<()> {
    let mut found = false;
    for document in documents(source, path)? {
        let Value::Object(document) = document else { continue };
        let standalone = list(&document, "consumers").iter().map(|c| ("consumers", c));
        let answered =
            list(&document, "list").iter().filter_map(|e| Some(("list", e.get("value")?)));
        for (n, (name, consumer)) in standalone.chain(answered).enumerate() {
            let Value::Object(consumer) = consumer else { continue };
            found = true;
            apisix_consumer(consumer, &format!("{name}[{n}]"), path, sink)?;
        }
    }
    nothing_found(found, "consumers", path, sink)
}

fn apisix_consumer(
    consumer: &Map<String, Value>,
    place: &str,
    path: &Path,
    sink: Sink<'_>,
) -> Result<()> {
    let known = ["username", "plugins", "credentials", "desc", "create_time", "update_time"];
    lose_others(consumer, &known, place, path, sink)?;
    let client = text(consumer, "username");
    let empty = Map::new();
    let plugins = consumer.get("plugins").and_then(Value::as_object).unwrap_or(&empty);
    let mut rules = Rules::default();
    for (name, config) in plugins {
        let place = format!("{place}.plugins.{name}");
        let Value::Object(config) = config else { continue };
        match name.as_str() {
            "key-auth" => {}
            "ip-restriction" => {
                rules.allow(
                    list(config, "whitelist"),
                    list(config, "blacklist"),
                    &place,
                    path,
                    sink,
                )?;
            }
            "limit-count" => {
                let number = |name| config.get(name).and_then(Value::as_u64);
                if let (Some(count), Some(window)) = (number("count"), number("time_window")) {
                    rules.limit = Some(format!("{count}/{window}s").into());
                }
            }
            _ => {
                let why = "this plugin has no place in a key";
                sink(Found::Lost(Fault::new(path, 0, &place, why)))?;
            }
        }
    }
    let mut keys = Vec::new();
    if let Some(config) = plugins.get("key-auth").and_then(Value::as_object) {
        keys.push((config, format!("{place}.plugins.key-auth")));
    }
    for (n, credential) in list(consumer, "credentials").iter().enumerate() {
        let config = credential.get("plugins").and_then(|p| p.get("key-auth"));
        if let Some(config) = config.and_then(Value::as_object) {
            keys.push((config, format!("{place}.credentials[{n}]")));
        }
    }
    if keys.is_empty() {
        let why = "this consumer has no key-auth";
        sink(Found::Lost(Fault::new(path, 0, place, why)))?;
    }
    for (config, place) in keys {
        let mut candidate = rules.candidate(client, &place);
        let created = consumer.get("create_time").and_then(Value::as_u64);
        candidate.raw.created = created.map(Stamp::of);
        let note = text(consumer, "desc");
        candidate.raw.note = (!note.is_empty()).then(|| note.to_owned().into());
        give(candidate, secret_of(config.get("key")), path, sink)?;
    }
    Ok(())
}

// Envoy

/// `credentials` with `key` and `client`, wherever in the file they stand.
pub fn read_envoy(source: &mut dyn BufRead, path: &Path, sink: Sink<'_>) -> Result<()> {
    let mut found = false;
    for document in documents(source, path)? {
        envoy_walk(&document, "", path, &mut found, sink)?;
    }
    nothing_found(found, "`credentials` with `key` and `client`", path, sink)
}

fn envoy_walk(
    value: &Value,
    place: &str,
    path: &Path,
    found: &mut bool,
    sink: Sink<'_>,
) -> Result<()> {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
                envoy_walk(value, &place, path, found, sink)?;
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                let place = format!("{place}[{n}]");
                match item.as_object().filter(|o| o.contains_key("key") && o.contains_key("client"))
                {
                    Some(credential) => {
                        *found = true;
                        lose_others(credential, &["key", "client"], &place, path, sink)?;
                        let candidate =
                            Rules::default().candidate(text(credential, "client"), &place);
                        give(candidate, secret_of(credential.get("key")), path, sink)?;
                    }
                    None => envoy_walk(item, &place, path, found, sink)?,
                }
            }
        }
        _ => {}
    }
    Ok(())
}

// Kubernetes

/// Secrets with one key per entry: the entry's name is the client.
pub fn read_kubernetes(source: &mut dyn BufRead, path: &Path, sink: Sink<'_>) -> Result<()> {
    let mut found = false;
    for document in documents(source, path)? {
        let Value::Object(document) = document else { continue };
        let items = match text(&document, "kind") {
            "List" | "SecretList" => list(&document, "items").to_vec(),
            _ => vec![Value::Object(document)],
        };
        for item in items.iter().filter_map(Value::as_object) {
            let name = item.get("metadata").and_then(|m| m.get("name")).and_then(Value::as_str);
            let name = name.unwrap_or("?");
            if text(item, "kind") != "Secret" {
                let why = format!("a {} is no Secret", text(item, "kind"));
                sink(Found::Lost(Fault::new(path, 0, name, why)))?;
                continue;
            }
            for (section, encoded) in [("data", true), ("stringData", false)] {
                let Some(entries) = item.get(section).and_then(Value::as_object) else { continue };
                for (client, value) in entries {
                    found = true;
                    let place = format!("{name}.{section}.{client}");
                    let secret = secret_of(Some(value)).and_then(|secret| match encoded {
                        false => Ok(secret),
                        true => decoded(&secret),
                    });
                    give(Rules::default().candidate(client, &place), secret, path, sink)?;
                }
            }
        }
    }
    nothing_found(found, "a Secret with `data` or `stringData`", path, sink)
}

fn decoded(secret: &Secret) -> std::result::Result<Secret, &'static str> {
    let packed: Zeroizing<Vec<u8>> = Zeroizing::new(
        secret.expose().iter().copied().filter(|b| !b.is_ascii_whitespace()).collect(),
    );
    let mut raw = STANDARD.decode(packed.as_slice()).map_err(|_| "is not Base64")?;
    // `echo key | base64` leaves a line end that no client sends.
    while matches!(raw.last(), Some(b'\n' | b'\r')) {
        raw.pop();
    }
    Ok(Secret::new(raw))
}

// Common

// === impl Rules ===

impl Rules {
    fn candidate(&self, client: &str, place: &str) -> Candidate {
        let mut candidate = Candidate {
            place: place.to_owned(),
            client: client.to_owned(),
            ..Candidate::default()
        };
        candidate.raw.permissions.clone_from(&self.permissions);
        candidate.raw.networks.clone_from(&self.networks);
        candidate.raw.limit.clone_from(&self.limit);
        candidate
    }

    fn allow(
        &mut self,
        allow: &[Value],
        deny: &[Value],
        place: &str,
        path: &Path,
        sink: Sink<'_>,
    ) -> Result<()> {
        let networks = allow.iter().filter_map(Value::as_str);
        self.networks = networks.map(|network| Cow::Owned(network.to_owned())).collect();
        if deny.is_empty() {
            return Ok(());
        }
        let why = "denied networks: a key names only the networks that it may be used from";
        sink(Found::Lost(Fault::new(path, 0, place, why)))
    }

    /// One window of Kong's plugin is a limit; several have no place in a key.
    fn kong_limit(
        &mut self,
        config: &Map<String, Value>,
        place: &str,
        path: &Path,
        sink: Sink<'_>,
    ) -> Result<()> {
        let windows: Vec<_> = [("second", "s"), ("minute", "min"), ("hour", "h"), ("day", "d")]
            .into_iter()
            .filter_map(|(name, unit)| Some((config.get(name)?.as_u64()?, unit)))
            .collect();
        if let Some((count, unit)) = windows.first() {
            self.limit = Some(format!("{count}/{unit}").into());
        }
        let longer = ["month", "year"].iter().any(|n| config.get(*n).is_some_and(|v| !v.is_null()));
        if windows.len() > 1 || longer {
            let why = "a key has one limit: the shortest window was taken";
            sink(Found::Lost(Fault::new(path, 0, place, why)))?;
        }
        Ok(())
    }
}

fn give(
    mut candidate: Candidate,
    secret: std::result::Result<Secret, &'static str>,
    path: &Path,
    sink: Sink<'_>,
) -> Result<()> {
    match secret {
        Ok(secret) => {
            candidate.secret = Some(secret);
            sink(Found::Key(candidate.into()))
        }
        Err(why) => {
            let why = format!("the key {why}");
            sink(Found::Fault(Fault::new(path, 0, &candidate.place, why)))
        }
    }
}

/// A file of another kind must not pass for an empty one.
fn nothing_found(found: bool, what: &str, path: &Path, sink: Sink<'_>) -> Result<()> {
    if found {
        return Ok(());
    }
    sink(Found::Fault(Fault::new(path, 0, "", format!("holds no {what}; is the format right?"))))
}
