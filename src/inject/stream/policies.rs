//! The NetworkPolicy that leaves only the gate of a pod open. Injection cannot close a pod's
//! address: only this closes the way around the Service, and only if the cluster's network enforces
//! policies.

use serde_json::{Value, json};

use super::super::pod::annotations::{AnnotationName, LabelName};
use super::super::pod::patch::pointer;
use super::super::pod::sidecar::CONTAINER;
use super::super::yaml::{YamlDocument, fresh_document};
use super::objects::{ObjectRef, Workload, each};
use super::services::status_of;
use super::{LineKind, StreamResult};

/// The owner of the object, in the label that Kubernetes recommends.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

const US: &str = "keygatectl";

/// Appends a policy for each injected workload that does not have one in the stream yet.
pub(super) fn emit(documents: &[YamlDocument], workloads: &[Workload], result: &mut StreamResult) {
    let there: Vec<_> = documents
        .iter()
        .flat_map(|document| each(&document.value))
        .filter(|(_, object)| object["kind"] == "NetworkPolicy")
        .map(|(_, object)| ObjectRef::of(&object))
        .collect();
    for workload in workloads {
        let Some(policy) = policy(workload) else { continue };
        let object = ObjectRef::of(&policy);
        if there.contains(&object) {
            continue;
        }
        if !result.text.is_empty() && !result.text.ends_with('\n') {
            result.text.push('\n');
        }
        result.text.push_str("---\n");
        result.text.push_str(&fresh_document(&policy));
        let text = format!(
            "{object}: admits the gate of {} and what keygate.dev/open-ports names; a network without \
             policies (CNI) leaves the pods open all the same",
            workload.object
        );
        result.line(LineKind::Noted, text);
    }
}

/// Whether an object was made by [`emit`].
pub(super) fn is_emitted(object: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    object["kind"] == "NetworkPolicy"
        && labels[MANAGED_BY] == US
        && labels.get(LabelName::Injected.name()).is_some()
}

fn policy(workload: &Workload) -> Option<Value> {
    let status = status_of(&workload.template)?;
    let labels = workload.template.pointer("/metadata/labels")?;
    let selector = match &workload.selector {
        Some(selector) if selector.get("matchLabels").is_some() => selector.clone(),
        // A ReplicationController selects only by labels.
        Some(selector) if selector.is_object() && selector.get("matchExpressions").is_none() => {
            json!({"matchLabels": selector})
        }
        Some(selector) => selector.clone(),
        None => json!({"matchLabels": own_labels(labels)?}),
    };
    // Numbers: older networks do not know an init container's names, and an unknown name closes
    // everything.
    let ports = gate_ports(&workload.template);
    let ports: Vec<_> = ports.into_iter().chain(open_ports(&workload.template)).collect();
    let ports: Vec<_> = ports.iter().map(|port| json!({"port": port, "protocol": "TCP"})).collect();
    let mut metadata = json!({
        "name": format!("{}-keygate", workload.object.name.trim_end_matches(['*', '-'])),
        "labels": {MANAGED_BY: US, LabelName::Injected.name(): status.revision},
    });
    if let Some(namespace) = &workload.object.namespace {
        metadata["namespace"] = json!(namespace);
    }
    Some(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {
            "podSelector": selector,
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": ports}],
        }
    }))
}

/// A pod's labels except ours: without any, a policy would select the whole namespace.
fn own_labels(labels: &Value) -> Option<Value> {
    let own = labels.as_object()?.iter().filter(|(name, _)| !name.starts_with("keygate.dev/"));
    let own: serde_json::Map<_, _> =
        own.map(|(name, value)| (name.clone(), value.clone())).collect();
    (!own.is_empty()).then_some(Value::Object(own))
}

fn gate_ports(template: &Value) -> Vec<u64> {
    let lists = ["/spec/containers", "/spec/initContainers"];
    let all = lists.iter().filter_map(|list| template.pointer(list)?.as_array()).flatten();
    let sidecar = all.filter(|container| container["name"] == CONTAINER);
    let ports = sidecar.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let mut numbers: Vec<_> = ports.filter_map(|port| port["containerPort"].as_u64()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn open_ports(template: &Value) -> Vec<u64> {
    let path = pointer(&["metadata", "annotations", AnnotationName::OpenPorts.name()]);
    let text = template.pointer(&path).and_then(Value::as_str).unwrap_or_default();
    text.split([',', ' ', '\n', '\t']).filter_map(|part| part.parse().ok()).collect()
}
