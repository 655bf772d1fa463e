//! Envoy's `api_key_auth` filter: `credentials` with `key` and `client`, in a whole configuration
//! or alone.

use std::io::BufRead;
use std::path::Path;

use super::super::super::error::Result;
use super::collect::{Candidate, Findings, ImportItem, Spot, secret_of};
use super::yaml::{self, Yaml};

/// HTTP filters that refuse nobody who has a key, by their folder in Envoy's
/// `api/envoy/extensions/filters/http` (August 2026). Not `composite`, `filter_chain` and
/// `dynamic_modules`: they run other filters.
const HARMLESS: [&str; 44] = [
    "adaptive_concurrency",
    "admission_control",
    "alternate_protocols_cache",
    "api_key_auth",
    "aws_lambda",
    "aws_request_signing",
    "bandwidth_limit",
    "buffer",
    "cache",
    "cache_v2",
    "compressor",
    "connect_grpc_bridge",
    "connect_stats",
    "cors",
    "credential_injector",
    "custom_response",
    "decompressor",
    "dynamic_forward_proxy",
    "file_system_buffer",
    "gcp_authn",
    "geoip",
    "grpc_field_extraction",
    "grpc_http1_bridge",
    "grpc_http1_reverse_bridge",
    "grpc_json_reverse_transcoder",
    "grpc_json_transcoder",
    "grpc_stats",
    "grpc_web",
    "header_mutation",
    "header_to_metadata",
    "health_check",
    "ip_tagging",
    "json_to_metadata",
    "kill_request",
    "on_demand",
    "original_src",
    "router",
    "set_filter_state",
    "set_metadata",
    "sse_to_metadata",
    "stateful_session",
    "tap",
    "thrift_to_metadata",
    "upstream_codec",
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

/// `name` is the name of the value's entry.
fn walk(
    value: &Yaml,
    name: &str,
    spot: &Spot,
    found: &mut bool,
    findings: &mut Findings<'_>,
) -> Result<()> {
    if matches!(name, "http_filters" | "filters") && !value.is_list() && !value.is_null() {
        findings.wider(name, "", spot, "is no list: what its filters refuse is not known")?;
    }
    if name == "filters" && spot.place.contains("filter_chain") {
        for (n, filter) in value.items().iter().enumerate() {
            let called = filter.text("name");
            let kind = kind_of(filter.get("typed_config")).unwrap_or(called);
            let manager = ["HttpConnectionManager", "http_connection_manager"];
            if !manager.iter().any(|name| kind.contains(name)) {
                let spot = Spot::new(filter.line, format!("{}[{n}]", spot.place));
                let why =
                    format!("filter `{called}` may refuse connections, and has no place in a key");
                findings.wider(called, "", &spot, why)?;
            }
        }
    }
    if name == "http_filters" {
        for (n, filter) in value.items().iter().enumerate() {
            let called = filter.text("name");
            let spot = Spot::new(filter.line, format!("{}[{n}]", spot.place));
            let kind = kind_of(filter.get("typed_config"));
            let is_off = filter.get("disabled").is_some_and(Yaml::is_true);
            if !is_harmless(kind, called) && !is_off {
                let why =
                    format!("filter `{called}` may refuse requests, and has no place in a key");
                findings.wider(called, "", &spot, why)?;
            } else if is_off && kind.unwrap_or(called).contains("ApiKeyAuth") {
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
        && let Some(clients) = value.get("allowed_clients").filter(|c| !c.is_empty())
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

/// Envoy goes by the type, and by the name only if there is no type: any filter can have any name.
fn is_harmless(kind: Option<&str>, called: &str) -> bool {
    let Some(kind) = kind else {
        let short = called.strip_prefix("envoy.filters.http.").unwrap_or(called);
        return HARMLESS.contains(&short);
    };
    let folder = kind.rsplit_once(".filters.http.").and_then(|(_, rest)| rest.split('.').next());
    folder.is_some_and(|folder| HARMLESS.contains(&folder))
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
