//! The sidecar's configuration for one pod, in TOML. It reaches the sidecar as an annotation, so a
//! namespace needs no object for it. Settings that an operator changes while pods run are
//! variables, which a ConfigMap of the namespace may set.

use std::fmt::Write as _;

use serde_json::Value;

use super::annotations::{PodWishes, UpstreamProtocol};
use super::readable::has_routes;
use super::settings::{InjectMode, InjectorSettings};
use super::sidecar::{SIGNERS_DIRECTORY, SOURCE_DIRECTORY, STATE_DIRECTORY};
use super::steering::SteeredPod;

/// The default of Kubernetes.
const DEFAULT_GRACE: u64 = 30;

/// How long endpoints usually take to forget a pod.
const ENDPOINTS: u64 = 5;

/// The text of `keygate.toml`.
pub(super) fn configuration(
    spec: &Value,
    pod: &SteeredPod,
    protocol: UpstreamProtocol,
    wishes: &PodWishes,
    settings: &InjectorSettings,
) -> String {
    let mut text =
        String::from("# Written by keygate's injector; docs/injection.md has its variables.\n");
    // Writing to a String cannot fail.
    let _ = write(&mut text, spec, pod, protocol, wishes, settings);
    text
}

fn write(
    out: &mut String,
    spec: &Value,
    pod: &SteeredPod,
    protocol: UpstreamProtocol,
    wishes: &PodWishes,
    settings: &InjectorSettings,
) -> std::fmt::Result {
    for port in &pod.listens {
        writeln!(out, "[[listen]]\naddress = \"${{KEYGATE_BIND:-0.0.0.0}}:{port}\"")?;
    }
    writeln!(out, "[admin]\naddress = \"127.0.0.1:{}\"", pod.ports.admin)?;
    writeln!(out, "public_address = \"${{KEYGATE_BIND:-0.0.0.0}}:{}\"", pod.ports.public)?;
    for passage in &pod.passages {
        writeln!(out, "[[admin.probes]]\npath = {}", literal(&passage.path))?;
        writeln!(out, "url = {}\ntimeout = \"{}s\"", literal(&passage.url), passage.timeout)?;
        let headers =
            passage.headers.iter().map(|(name, value)| literal(&format!("{name}: {value}")));
        let headers: Vec<_> = headers.collect();
        if !headers.is_empty() {
            writeln!(out, "headers = [{}]", headers.join(", "))?;
        }
    }
    writeln!(out, "[upstream]\nurl = \"http://127.0.0.1:{}\"", pod.app_port)?;
    if protocol == UpstreamProtocol::Http2 {
        writeln!(out, "protocol = \"http2\"")?;
    }
    let table = &settings.table;
    let named = |text: &str| text.replace("{table}", &wishes.table);
    writeln!(out, "[table]\nurl = {}", variable("KEYGATE_TABLE_URL", &named(&table.url)))?;
    if !table.patch_url.is_empty() {
        writeln!(out, "patch = {}", variable("KEYGATE_PATCH_URL", &named(&table.patch_url)))?;
    }
    writeln!(out, "audience = {}", variable("KEYGATE_AUDIENCE", &named(&table.audience)))?;
    let files = table.public_key_files.iter().map(|name| format!("{SIGNERS_DIRECTORY}/{name}"));
    let files = files.filter(|_| !table.public_key_secret.is_empty());
    let signers: Vec<_> =
        files.chain(table.trusted_signers.iter().cloned()).map(|signer| literal(&signer)).collect();
    writeln!(out, "trusted_signers = [{}]", signers.join(", "))?;
    writeln!(out, "state_file = \"{STATE_DIRECTORY}/state\"\ncache_dir = \"{STATE_DIRECTORY}\"")?;
    writeln!(out, "wait_for_table = true\n[table.http]\nlong_poll = \"30s\"")?;
    if !table.bearer_secret.is_empty() {
        writeln!(out, "bearer_file = \"{SOURCE_DIRECTORY}/token\"")?;
    }
    let (delay, deadline) = drain(spec, wishes);
    writeln!(out, "[drain]\ndelay = \"{delay}s\"\ndeadline = \"{deadline}s\"")?;
    // Always there, so that a variable can loosen the gate of running pods; at 100% it is shut.
    let mode = wishes.mode.unwrap_or(settings.mode);
    let (share, credentials) = match mode {
        InjectMode::Enforce => ("100%", "strip"),
        InjectMode::Observe => ("0%", "forward"),
    };
    let (share, credentials) = match wishes.mode {
        // What the pod states takes precedence over everything.
        Some(_) => (literal(share), literal(credentials)),
        None => (
            variable("KEYGATE_ENFORCE", share),
            variable("KEYGATE_OBSERVED_CREDENTIALS", credentials),
        ),
    };
    writeln!(out, "[observe]\nenforce = {share}\ncredentials = {credentials}")?;
    for path in &wishes.skip_paths {
        writeln!(out, "[[routes]]\npath = {}\naccess = \"public\"", literal(path))?;
    }
    if !has_routes(&settings.config) {
        writeln!(out, "[[routes]]\npath = \"/*\"")?;
    }
    out.push_str(&settings.config);
    if !settings.config.is_empty() && !settings.config.ends_with('\n') {
        out.push('\n');
    }
    Ok(())
}

/// How long the kubelet gives a pod to end, in seconds.
pub(super) fn grace(spec: &Value) -> u64 {
    let grace = spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64);
    grace.unwrap_or(DEFAULT_GRACE)
}

/// Seconds of `drain.delay` and `drain.deadline`: both fit into the pod's grace, and the sidecar
/// stops accepting before a sleeping app wakes up.
fn drain(spec: &Value, wishes: &PodWishes) -> (u64, u64) {
    let grace = grace(spec);
    let sleep = wishes.app_prestop_sleep.map(u64::from);
    let delay = sleep.map_or(ENDPOINTS, |sleep| sleep.saturating_sub(2).clamp(1, ENDPOINTS));
    let delay = delay.min(grace / 3);
    (delay, grace.saturating_sub(delay).saturating_sub(2).max(1))
}

/// A TOML string that contains no variable.
fn literal(text: &str) -> String {
    toml::Value::from(text.replace('$', "$$")).to_string()
}

/// A TOML string with a variable and its default.
fn variable(name: &str, default: &str) -> String {
    // The settings' check ensures this: neither quotes nor braces that end the variable.
    format!("\"${{{name}:-{}}}\"", default)
}
