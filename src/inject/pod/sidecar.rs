//! The sidecar's container and the volumes that it mounts.

use serde_json::{Value, json};

use super::annotations::PodWishes;
use super::quantity::Quantity;
use super::settings::InjectorSettings;
use super::steering::{METRICS_PORT, SteeredPod};

/// Name of the container.
pub const CONTAINER: &str = "keygate";

/// Where its configuration and the variables for it are.
pub(super) const CONFIG_DIRECTORY: &str = "/etc/keygate/config";

/// Its configuration.
pub const CONFIG_FILE: &str = "/etc/keygate/config/keygate.toml";

/// Public keys of signers.
pub(super) const SIGNERS_DIRECTORY: &str = "/etc/keygate/signers";

/// The bearer token of the source of tables.
pub(super) const SOURCE_DIRECTORY: &str = "/etc/keygate/source";

/// The last good table, and the serials that were accepted.
pub(super) const STATE_DIRECTORY: &str = "/var/lib/keygate";

/// Where the API server mounts the app's token into every container that mounts nothing there
/// itself.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The user and group of the image, which belong to nobody on a node.
const USER: u32 = 65532;

/// Names of the volumes in one pod.
#[derive(Clone, Debug)]
pub(super) struct SidecarVolumes {
    pub(super) config: String,
    pub(super) signers: Option<String>,
    pub(super) source: Option<String>,
    pub(super) state: String,
    pub(super) no_token: String,
}

// === impl SidecarVolumes ===

impl SidecarVolumes {
    /// Chooses names that no volume of the pod has.
    pub(super) fn new(spec: &Value, settings: &InjectorSettings) -> Self {
        let volumes = spec.get("volumes").and_then(Value::as_array);
        let taken: Vec<_> = volumes
            .into_iter()
            .flatten()
            .filter_map(|volume| volume.get("name").and_then(Value::as_str))
            .collect();
        let free = |name: &str| {
            let names =
                std::iter::once(name.to_owned()).chain((2u32..).map(|n| format!("{name}-{n}")));
            names.into_iter().find(|name| !taken.contains(&&**name)).unwrap_or_default()
        };
        let table = &settings.table;
        Self {
            config: free("keygate-config"),
            signers: (!table.public_key_secret.is_empty()).then(|| free("keygate-signers")),
            source: (!table.bearer_secret.is_empty()).then(|| free("keygate-source")),
            state: free("keygate-state"),
            no_token: free("keygate-no-token"),
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        let all = [
            Some(&self.config),
            self.signers.as_ref(),
            self.source.as_ref(),
            Some(&self.state),
            Some(&self.no_token),
        ];
        all.into_iter().flatten().cloned().collect()
    }

    pub(super) fn definitions(
        &self,
        wishes: &PodWishes,
        settings: &InjectorSettings,
        annotation: &str,
    ) -> Vec<Value> {
        let secret = |volume: &Option<String>, secret: &str| {
            let name = volume.as_ref()?;
            // Readable by everybody: the sidecar neither is root nor has the pod's fsGroup.
            Some(json!({"name": name, "secret": {"secretName": secret, "defaultMode": 0o444}}))
        };
        let config_map = &wishes.config_map;
        let mut map = json!({"name": config_map.name});
        if config_map.is_optional {
            map["optional"] = json!(true);
        }
        let field = format!("metadata.annotations['{annotation}']");
        let config = json!({
            "name": self.config,
            "projected": {
                "defaultMode": 0o444,
                // The last one wins: a ConfigMap with the key keygate.toml replaces ours.
                "sources": [
                    {"downwardAPI": {"items": [{
                        "path": "keygate.toml",
                        "fieldRef": {"apiVersion": "v1", "fieldPath": field}
                    }]}},
                    {"configMap": map},
                ]
            }
        });
        // Two tables while one replaces the other, and the patch.
        let room = Quantity::at_least(settings.table.size.bytes().saturating_mul(3));
        let all = [
            Some(config),
            secret(&self.signers, &settings.table.public_key_secret),
            secret(&self.source, &settings.table.bearer_secret),
            Some(json!({"name": self.state, "emptyDir": {"sizeLimit": room.to_string()}})),
            Some(json!({"name": self.no_token, "emptyDir": {"sizeLimit": "1Mi"}})),
        ];
        all.into_iter().flatten().collect()
    }

    fn mounts(&self) -> Vec<Value> {
        let read =
            |name: &String, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
        let all = [
            Some(read(&self.config, CONFIG_DIRECTORY)),
            self.signers.as_ref().map(|name| read(name, SIGNERS_DIRECTORY)),
            self.source.as_ref().map(|name| read(name, SOURCE_DIRECTORY)),
            Some(json!({"name": self.state, "mountPath": STATE_DIRECTORY})),
            Some(read(&self.no_token, TOKEN_DIRECTORY)),
        ];
        all.into_iter().flatten().collect()
    }
}

/// The sidecar as an item of the pod's list of containers.
pub(super) fn container(
    pod: &SteeredPod,
    volumes: &SidecarVolumes,
    wishes: &PodWishes,
    settings: &InjectorSettings,
) -> Value {
    let mut ports: Vec<_> = pod
        .declared
        .iter()
        .map(|port| {
            let mut entry = json!({"containerPort": port.number, "protocol": "TCP"});
            if let Some(name) = &port.name {
                entry["name"] = json!(name);
            }
            if let Some(host) = &port.host {
                entry["hostPort"] = json!(host.number);
                if let Some(address) = &host.address {
                    entry["hostIP"] = json!(address);
                }
            }
            entry
        })
        .collect();
    let public = pod.ports.public;
    ports.push(json!({"name": METRICS_PORT, "containerPort": public, "protocol": "TCP"}));
    // A plain container gets SIGTERM together with the app. It has to continue serving meanwhile,
    // so its hook ends when it has drained. A native sidecar gets the signal once the app has gone.
    let drain: &[&str] = match wishes.native_sidecar {
        true => &["/keygate", "drain", "--config", CONFIG_FILE],
        false => &["/keygate", "drain", "--wait", "--config", CONFIG_FILE],
    };
    let memory = memory(wishes, settings).to_string();
    let probe = |path: &str| json!({"path": path, "port": public, "scheme": "HTTP"});
    let mut container = json!({
        "name": CONTAINER,
        "image": wishes.image,
        "args": ["serve", "--config", CONFIG_FILE],
        "env": [{"name": "KEYGATE_VARIABLES", "value": CONFIG_DIRECTORY}],
        "ports": ports,
        "startupProbe": {"httpGet": probe("/startupz"), "periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": {"httpGet": probe("/readyz"), "periodSeconds": 2},
        "livenessProbe": {"httpGet": probe("/livez"), "periodSeconds": 10, "failureThreshold": 3},
        "lifecycle": {"preStop": {"exec": {"command": drain}}},
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": {
            "requests": {"cpu": wishes.cpu_request, "memory": memory},
            "limits": {"memory": memory},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": volumes.mounts(),
    });
    if let Some(policy) = settings.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    if wishes.native_sidecar {
        container["restartPolicy"] = json!("Always");
    }
    container
}

/// Two tables are in memory while one replaces the other.
fn memory(wishes: &PodWishes, settings: &InjectorSettings) -> Quantity {
    wishes.memory.clone().unwrap_or_else(|| {
        let tables = settings.table.size.bytes().saturating_mul(2);
        Quantity::at_least(settings.resources.memory_base.bytes().saturating_add(tables))
    })
}
