//! Probes that the sidecar makes for the kubelet, because the app has given up the number that they
//! call, and the calls that nobody can make for it.

use serde_json::Value;

use super::containers::PodContainer;
use super::handlers::{Handler, PROBES};
use crate::config::is_framing;

/// A probe of the app that the sidecar performs for the kubelet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ProbePassage {
    pub(super) path: String,
    /// Whose it is: `container app: readinessProbe`.
    pub(super) of: String,
    /// `http://127.0.0.1:8080/live`, `tcp://…`, `grpc://…/SERVICE`.
    pub(super) url: String,
    /// Names and values.
    pub(super) headers: Vec<(String, String)>,
    /// Seconds.
    pub(super) timeout: u64,
}

pub(super) fn passage_url(handler: &Handler<'_>, port: u16) -> String {
    let text = |name: &str| handler.action.get(name).and_then(Value::as_str).unwrap_or_default();
    match handler.kind {
        "httpGet" => {
            let path = text("path");
            let slash = if path.starts_with('/') { "" } else { "/" };
            format!("http://127.0.0.1:{port}{slash}{path}")
        }
        "grpc" => format!("grpc://127.0.0.1:{port}/{}", text("service")),
        _ => format!("tcp://127.0.0.1:{port}"),
    }
}

/// The fields of a probe that the sidecar can send, and the names of those that it cannot.
pub(super) fn headers_of(action: &Value) -> (Vec<(String, String)>, Vec<String>) {
    let headers = action.get("httpHeaders").and_then(Value::as_array).into_iter().flatten();
    let text =
        |header: &Value, name: &str| header.get(name).and_then(Value::as_str).map(str::to_owned);
    let (mut sent, mut framing) = (Vec::new(), Vec::new());
    for header in headers {
        let (Some(name), Some(value)) = (text(header, "name"), text(header, "value")) else {
            continue;
        };
        match name.trim().parse().is_ok_and(|name| is_framing(&name)) {
            true => framing.push(name),
            false => sent.push((name, value)),
        }
    }
    (sent, framing)
}

/// Warnings about commands of probes and hooks that mention `number`, which the app no longer has: they
/// would ask the sidecar, and without a key.
pub(super) fn commands_with(containers: &[PodContainer<'_>], number: u16) -> Vec<String> {
    let probes = PROBES.iter().map(|(probe, _)| format!("/{probe}/exec/command"));
    let hooks =
        ["postStart", "preStop"].iter().map(|hook| format!("/lifecycle/{hook}/exec/command"));
    let places: Vec<_> = probes.chain(hooks).collect();
    let mut warnings = Vec::new();
    for container in containers.iter().filter(|container| container.serves()) {
        for place in &places {
            let words = container.value.pointer(place).and_then(Value::as_array);
            let mut words = words.into_iter().flatten().filter_map(Value::as_str);
            if words.any(|word| mentions(word, number)) {
                let place = place.trim_start_matches('/').trim_end_matches("/command");
                warnings.push(format!(
                    "{} of container {} mentions {number}, which is the sidecar's now: let the command \
                     read the app's port from its variable",
                    place.replace('/', "."),
                    container.name
                ));
            }
        }
    }
    warnings
}

/// Whether `number` stands in a text, and not as a part of a longer one.
fn mentions(text: &str, number: u16) -> bool {
    text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.parse() == Ok(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_a_command() {
        for (text, holds) in [
            ("8080", true),
            ("http://127.0.0.1:8080/ready", true),
            ("nc -z localhost 8080", true),
            ("18080", false),
            ("80800", false),
            ("", false),
        ] {
            assert_eq!(mentions(text, 8080), holds, "{text}");
        }
    }
}
