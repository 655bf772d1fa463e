//! Envoy's `api_key_auth` filter: `credentials` with `key` and `client`, in a whole configuration
//! or alone.

use std::io::BufRead;
use std::path::Path;

use super::super::super::error::Result;
use super::collect::{Candidate, Findings, ImportItem, Spot, secret_of};
use super::yaml::{self, Yaml};

/// HTTP filters that refuse nobody who has a key.
const HARMLESS: [&str; 25] = [
    "adaptive_concurrency",
    "api_key_auth",
    "buffer",
    "cache",
    "composite",
    "compressor",
    "connect_grpc_bridge",
    "cors",
    "credential_injector",
    "decompressor",
    "dynamic_forward_proxy",
    "file_system_buffer",
    "grpc_http1_bridge",
    "grpc_http1_reverse_bridge",
    "grpc_json_transcoder",
    "grpc_stats",
    "grpc_web",
    "header_mutation",
    "header_to_metadata",
    "health_check",
    "kill_request",
    "on_demand",
    "router",
    "set_metadata",
    "tap",
];

pub fn read(
    source: &mut dyn BufRead,
    path: &Path,
    sink: &mut dyn FnMut(ImportItem) -> Result<()>,
) -> Result<()> {
    let documents = yaml::documents(source, path)?;
    let mut findings = Findings::new(path, sink);
    let mut found = false;
    for document in &documents {
        walk(document, "", &Spot::default(), &mut found, &mut findings)?;
    }
    if found {
        return Ok(());
    }
    let why = "holds no `credentials` with `key` and `client` of `api_key_auth`; is the format \
               right?";
    findings.fault(&Spot::default(), why)
}

/// `name` is what the value stands under.
fn walk(
    value: &Yaml,
    name: &str,
    spot: &Spot,
    found: &mut bool,
    findings: &mut Findings<'_>,
) -> Result<()> {
    if name == "http_filters" {
        for (n, filter) in value.items().iter().enumerate() {
            let called = filter.text("name");
            let spot = Spot::new(filter.line, format!("{}[{n}]", spot.place));
            let kind = kind_of(filter.get("typed_config")).unwrap_or(called);
            let is_off = filter.get("disabled").is_some_and(Yaml::is_true);
            if !is_harmless(kind, called) && !is_off {
                let why =
                    format!("filter `{called}` may refuse requests, and has no place in a key");
                findings.wider(called, "", &spot, why)?;
            } else if is_off && kind.contains("ApiKeyAuth") {
                *found = true;
                findings.lost(&spot, "this filter is switched off")?;
                continue;
            }
            walk(filter, "", &spot, found, findings)?;
        }
        return Ok(());
    }
    for (n, item) in value.items().iter().enumerate() {
        let spot = Spot::new(item.line, format!("{}[{n}]", spot.place));
        walk(item, "", &spot, found, findings)?;
    }
    let kind = kind_of(Some(value));
    if kind.is_some_and(|kind| kind.ends_with(".ApiKeyAuthPerRoute"))
        && let Some(clients) = value.get("allowed_clients").filter(|c| !c.items().is_empty())
    {
        let spot = spot.down(clients.line, "allowed_clients");
        let why =
            "only these clients may use a route: give their keys a permission that it asks for";
        findings.wider("allowed_clients", "", &spot, why)?;
    }
    for (name, inner) in value.entries() {
        let spot = spot.down(inner.line, name);
        let ours = kind.is_none_or(|kind| kind.contains(".ApiKeyAuth"));
        if name == "credentials" && ours && inner.items().iter().any(is_credential) {
            *found = true;
            for (n, credential) in inner.items().iter().enumerate() {
                let spot = Spot::new(credential.line, format!("{}[{n}]", spot.place));
                give(credential, &spot, findings)?;
            }
        } else {
            walk(inner, name, &spot, found, findings)?;
        }
    }
    Ok(())
}

fn kind_of(value: Option<&Yaml>) -> Option<&str> {
    value.map(|value| value.text("@type")).filter(|kind| !kind.is_empty())
}

fn is_harmless(kind: &str, called: &str) -> bool {
    let short = called.rsplit('.').next().unwrap_or_default();
    HARMLESS.contains(&short)
        || HARMLESS.iter().any(|name| kind.contains(&format!(".filters.http.{name}.")))
}

fn is_credential(item: &Yaml) -> bool {
    item.get("key").is_some() && item.get("client").is_some()
}

fn give(credential: &Yaml, spot: &Spot, findings: &mut Findings<'_>) -> Result<()> {
    for (name, value) in credential.entries() {
        if name != "key" && name != "client" && !value.is_null() {
            findings.lost(&spot.down(value.line, name), "has no place in a key")?;
        }
    }
    let key = credential.get("key");
    let line = key.map_or(spot.line, |key| key.line);
    let client = credential.get("client").and_then(Yaml::word).unwrap_or_default();
    let candidate = Candidate::new(&client, &Spot::new(line, spot.place.as_str()));
    findings.give(candidate, secret_of(key))
}

#[cfg(test)]
mod tests;
