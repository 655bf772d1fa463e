//! The annotation `keygate.dev/status`: what was done to a pod, for people to see and `uninject` to
//! undo.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::settings::{SidecarPorts, Steering};

/// What was done to one pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InjectStatus {
    pub revision: String,
    /// Of the injector's settings and the pod's annotations: shows whether another run would do the
    /// same.
    pub hash: String,
    pub container: String,
    /// An init container with `restartPolicy: Always`.
    pub native: bool,
    pub steering: Steering,
    pub ports: SidecarPorts,
    /// Where the app listens.
    pub upstream: u16,
    pub volumes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<MovedPort>,
    /// Probes that the sidecar performs for the kubelet, as `CONTAINER/KIND`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<String>,
    /// Whether the annotation with `kubectl`'s default container was set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default_container: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ContainerChange>,
    /// Lists and maps that were there but empty, as JSON Pointers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub empty: Vec<String>,
}

/// A port of the app that gave its name or number to the sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MovedPort {
    pub container: String,
    /// Its number before.
    pub port: u16,
    pub from: Option<String>,
    pub to: Option<String>,
}

/// A change of one of the app's containers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerChange {
    pub container: String,
    /// JSON Pointer within the container; if the change was appended to a list, the pointer of the
    /// list.
    pub at: String,
    /// `None`: there was nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Value>,
    /// `None`: it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Value>,
    /// `at` is a list, and `now` was appended to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub appended: bool,
}

// === impl InjectStatus ===

impl InjectStatus {
    /// The annotation's text.
    pub(super) fn text(&self) -> String {
        // Maps with text keys and no foreign types: it cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// # Errors
    /// The text is not a status.
    pub fn read(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}
