//! The NetworkPolicy that leaves only the gate of a pod open. Injection cannot close a pod's
//! address: only this closes the way around the Service, and only if the cluster's network enforces
//! policies.

use serde_json::{Value, json};

use super::super::pod::annotations::LabelName;
use super::super::pod::sidecar::CONTAINER;
use super::super::yaml::{YamlDocument, fresh_document};
use super::gate::{open_ports, shown_ports, status_of};
use super::objects::{ObjectRef, Workload, each, short};
use super::{LineKind, StreamResult};
use crate::core::Digest;

/// The owner of the object, in the label that Kubernetes recommends.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

const US: &str = "keygatectl";

/// Appends a policy for each injected workload that does not have one in the stream yet, and reports
/// those that no policy can select.
pub(super) fn emit(documents: &[YamlDocument], workloads: &[Workload], result: &mut StreamResult) {
    let mut there: Vec<_> = documents
        .iter()
        .flat_map(|document| each(&document.value))
        .filter(|(_, object)| object["kind"] == "NetworkPolicy")
        .map(|(_, object)| (ObjectRef::of(&object), object["spec"]["podSelector"].clone()))
        .collect();
    let ours: Vec<Value> = documents
        .iter()
        .flat_map(|document| each(&document.value))
        .filter(|(_, object)| is_emitted(object))
        .map(|(_, object)| object)
        .collect();
    for workload in workloads {
        let Some(status) = status_of(&workload.template) else { continue };
        let Some(selector) = selector(workload) else {
            let text = format!(
                "{}: no NetworkPolicy can select its pods, which have no labels of their own: the app \
                 stays open at their address\n\
                 hint: give the pod template a label, such as app.kubernetes.io/name",
                workload.object
            );
            result.line(LineKind::Bypass, text);
            continue;
        };
        let mut policy = policy(workload, &selector, &status.revision);
        let mut object = ObjectRef::of(&policy);
        // Two pods with a generated name, for example.
        let name = object.name.clone();
        for number in 2.. {
            match there.iter().find(|(known, _)| *known == object) {
                Some((_, known)) if *known != selector => {
                    object.name = format!("{name}-{number}");
                    policy["metadata"]["name"] = json!(object.name);
                }
                _ => break,
            }
        }
        let is_of_it = |known: &&Value| {
            known["spec"]["podSelector"] == selector && ObjectRef::of(known).is_beside(&object)
        };
        for known in ours.iter().filter(is_of_it) {
            let why = match ObjectRef::of(known) == object {
                true if known["spec"]["ingress"] == policy["spec"]["ingress"] => continue,
                true => "admits other ports than it would now",
                false => "has a former name, and policies add up",
            };
            let text = format!(
                "{}: {why}: take it out of the stream, and delete it in the cluster",
                ObjectRef::of(known)
            );
            result.line(LineKind::Warned, text);
        }
        if there.iter().any(|(known, _)| *known == object) {
            continue;
        }
        there.push((object.clone(), selector));
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

/// What selects the pods of a workload and no others; `None`: nothing does.
fn selector(workload: &Workload) -> Option<Value> {
    let labels = || own_labels(workload.template.pointer("/metadata/labels")?);
    let has = |selector: &Value, member: &str| match selector.get(member) {
        Some(Value::Object(labels)) => !labels.is_empty(),
        Some(Value::Array(expressions)) => !expressions.is_empty(),
        _ => false,
    };
    match &workload.selector {
        Some(of_set) if has(of_set, "matchLabels") || has(of_set, "matchExpressions") => {
            Some(of_set.clone())
        }
        // A ReplicationController selects only by labels.
        Some(Value::Object(of_map)) if of_map.values().any(Value::is_string) => {
            Some(json!({"matchLabels": of_map}))
        }
        // An empty one would select the whole namespace.
        _ => Some(json!({"matchLabels": labels()?})),
    }
}

fn policy(workload: &Workload, selector: &Value, revision: &str) -> Value {
    // Numbers: older networks do not know an init container's names, and an unknown name closes
    // everything.
    let ports = gate_ports(&workload.template);
    let ports: Vec<_> = ports.into_iter().chain(open_ports(&workload.template)).collect();
    let ports: Vec<_> = ports.iter().map(|port| json!({"port": port, "protocol": "TCP"})).collect();
    let ObjectRef { kind, name, .. } = &workload.object;
    // With the kind: a Deployment and a StatefulSet may have one name, also in two streams.
    let mut metadata = json!({
        "name": policy_name(name, kind),
        "labels": {MANAGED_BY: US, LabelName::Injected.name(): revision},
    });
    if let Some(namespace) = &workload.object.namespace {
        metadata["namespace"] = json!(namespace);
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {
            "podSelector": selector,
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": ports}],
        }
    })
}

/// At most 240 bytes, so that a number still fits.
fn policy_name(name: &str, kind: &str) -> String {
    let whole = name.trim_end_matches(['*', '-']);
    let end = format!("-{}-keygate", short(kind));
    match whole.get(..240 - end.len()) {
        Some(cut) if cut.len() < whole.len() => {
            let hash = Digest::of(whole.as_bytes()).0;
            let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            let cut = cut.get(..cut.len() - 9).unwrap_or_default().trim_end_matches(['-', '.']);
            format!("{cut}-{hash}{end}")
        }
        _ => format!("{whole}{end}"),
    }
}

/// A pod's labels except ours: without any, a policy would select the whole namespace.
fn own_labels(labels: &Value) -> Option<Value> {
    let own = labels.as_object()?.iter().filter(|(name, _)| !name.starts_with("keygate.dev/"));
    let own: serde_json::Map<_, _> =
        own.map(|(name, value)| (name.clone(), value.clone())).collect();
    (!own.is_empty()).then_some(Value::Object(own))
}

fn gate_ports(template: &Value) -> Vec<u16> {
    let own = shown_ports(template).filter(|port| port.container == CONTAINER);
    let mut numbers: Vec<_> = own.map(|port| port.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
