//! Probes and lifecycle hooks of a container: what the kubelet calls, and at which port.

use serde_json::Value;

use super::containers::PodContainer;

/// The three probes, each with its word in paths of the passthrough.
pub(super) const PROBES: [(&str, &str); 3] =
    [("livenessProbe", "liveness"), ("readinessProbe", "readiness"), ("startupProbe", "startup")];

/// One action of a probe or hook.
#[derive(Clone, Debug)]
pub(super) struct Handler<'p> {
    /// Position of its action within the container: `/livenessProbe/httpGet`.
    pub(super) pointer: String,
    /// `httpGet`, `tcpSocket` or `grpc`.
    pub(super) kind: &'static str,
    pub(super) action: &'p Value,
    /// The probe and its word; `None`: a hook.
    pub(super) probe: Option<(&'static str, &'static str)>,
}

/// All that name a port. Commands (`exec`) and `sleep` do not.
pub(super) fn handlers<'p>(container: &PodContainer<'p>) -> Vec<Handler<'p>> {
    let value = container.value;
    let mut found = Vec::new();
    for probe in PROBES {
        for kind in ["httpGet", "tcpSocket", "grpc"] {
            if let Some(action) = value.get(probe.0).and_then(|p| p.get(kind)) {
                let pointer = format!("/{}/{kind}", probe.0);
                found.push(Handler { pointer, kind, action, probe: Some(probe) });
            }
        }
    }
    for hook in ["postStart", "preStop"] {
        for kind in ["httpGet", "tcpSocket"] {
            let action = value.get("lifecycle").and_then(|l| l.get(hook)?.get(kind));
            if let Some(action) = action {
                let pointer = format!("/lifecycle/{hook}/{kind}");
                found.push(Handler { pointer, kind, action, probe: None });
            }
        }
    }
    found
}
