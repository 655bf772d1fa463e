//! Injection into pods that a real API server has sent (tests/data/k8s), and into generated ones.

mod golden;
mod properties;
mod reasons;
mod shapes;

use serde_json::{Value, json};

use super::outcome::{InjectOutcome, Injection};
use super::patch::PatchOperation;
use super::settings::InjectorSettings;
use super::undo::uninject;
use super::{InjectContext, inject};

/// The pod that the API server makes of a patch.
fn patched(pod: &Value, patch: &[PatchOperation]) -> Value {
    let mut pod = pod.clone();
    let patch: json_patch::Patch =
        serde_json::from_value(serde_json::to_value(patch).unwrap()).unwrap();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

fn injected(pod: &Value, settings: &InjectorSettings) -> (Injection, Value) {
    match inject(pod, &InjectContext::default(), settings) {
        InjectOutcome::Patch(injection) => {
            let after = patched(pod, &injection.patch);
            (*injection, after)
        }
        other => panic!("{other:?}"),
    }
}

fn denied(pod: &Value) -> String {
    match inject(pod, &InjectContext::default(), &InjectorSettings::default()) {
        InjectOutcome::Deny(denial) => format!("{}: {}", denial.reason.word(), denial.message),
        other => panic!("{other:?}"),
    }
}

/// A pod with one app that listens on 8080 under the name `http`.
fn web() -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {"containers": [{
            "name": "app",
            "image": "example.test/app:1",
            "ports": [{"name": "http", "containerPort": 8080}]
        }]}
    })
}

fn annotated(name: &str, value: &str) -> Value {
    let mut pod = web();
    pod["metadata"]["annotations"] = json!({name: value});
    pod
}

/// The container of the sidecar, wherever it is.
fn sidecar_of(pod: &Value) -> &Value {
    let lists =
        ["initContainers", "containers"].iter().filter_map(|list| pod["spec"][*list].as_array());
    lists.flatten().find(|c| c["name"] == "keygate").unwrap()
}

fn config_of(pod: &Value) -> toml::Table {
    let text = pod["metadata"]["annotations"]["keygate.dev/sidecar-config"].as_str().unwrap();
    text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Makes two pods equal that differ only in `null`, or in parts of a container that are empty in
/// one and missing in the other.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), without_empty(value)))
            .filter(|(name, value)| {
                let is_empty = *value == json!({}) || *value == json!([]);
                let may_go = is_empty && ["env", "lifecycle"].contains(&name.as_str());
                !(may_go || value.is_null())
            })
            .collect(),
        Value::Array(items) => items.iter().map(without_empty).collect(),
        other => other.clone(),
    }
}

fn undone(pod: &Value) -> Value {
    patched(pod, &uninject(pod).unwrap())
}

/// What the profile "restricted" of Pod Security forbids
/// (kubernetes.io/docs/concepts/security/pod-security-standards), as of 1.36.
fn restricted_faults(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut faults = Vec::new();
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[field] == json!(true) {
            faults.push(field.to_owned());
        }
    }
    let kinds = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let is_allowed = kinds.iter().any(|kind| volume.get(kind).is_some());
        if !is_allowed {
            faults.push(format!("volume {}", volume["name"]));
        }
    }
    let lists = ["containers", "initContainers"].iter().filter_map(|l| spec[*l].as_array());
    for container in lists.flatten() {
        let own = &container["securityContext"];
        let either = |field: &str| match own.get(field) {
            Some(value) => value.clone(),
            None => spec["securityContext"][field].clone(),
        };
        let drops = own["capabilities"]["drop"].as_array().cloned().unwrap_or_default();
        let adds = own["capabilities"]["add"].as_array().cloned().unwrap_or_default();
        let profile = either("seccompProfile")["type"].clone();
        let ports = container["ports"].as_array().cloned().unwrap_or_default();
        for (holds, what) in [
            (own["allowPrivilegeEscalation"] == json!(false), "allowPrivilegeEscalation"),
            (drops.contains(&json!("ALL")), "capabilities.drop"),
            (adds.iter().all(|add| add == "NET_BIND_SERVICE"), "capabilities.add"),
            (either("runAsNonRoot") == json!(true), "runAsNonRoot"),
            (either("runAsUser") != json!(0), "runAsUser"),
            (profile == "RuntimeDefault" || profile == "Localhost", "seccompProfile"),
            (own["privileged"] != json!(true), "privileged"),
            (ports.iter().all(|p| p["hostPort"].as_u64().unwrap_or(0) == 0), "hostPort"),
        ] {
            if !holds {
                faults.push(format!("{} {what}", container["name"]));
            }
        }
    }
    faults
}
