//! Where a Service's traffic ends: at the sidecar, or past it at the app.

use serde_json::{Value, json};

use super::super::pod::patch::PatchOperation;
use super::super::pod::sidecar::CONTAINER;
use super::super::pod::status::InjectStatus;
use super::super::yaml::YamlDocument;
use super::objects::{ObjectRef, Workload, each, selects};
use super::{LineKind, STATUS, StreamLine, StreamOptions, annotate};

/// One port of a Service.
#[derive(Clone, Debug)]
pub(in crate::inject) struct ServicePort {
    /// Position in `spec.ports`.
    pub(in crate::inject) index: usize,
    /// Its name, else its number.
    pub(in crate::inject) shown: String,
    /// What it targets: a number, or a name.
    pub(in crate::inject) target: Value,
    /// What the Service states; `None`: nothing, which means the port itself.
    pub(in crate::inject) written: Option<Value>,
}

/// Where a port of a Service leads in one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::inject) enum Endpoint {
    /// The sidecar.
    Gate,
    /// The port that the sidecar protects, but past the sidecar.
    Bypass,
    /// Another port of the pod, which does not concern the sidecar.
    Other(String),
    /// No container has the name, so there is no endpoint.
    Nowhere,
    /// A headless Service: clients connect to the pod's address at any port they like.
    Headless,
}

/// The TCP ports of a Service; empty: it selects no pods.
pub(in crate::inject) fn service_ports(service: &Value) -> Vec<ServicePort> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let tcp = ports.into_iter().flatten().enumerate().filter(|(_, port)| {
        port.get("protocol").and_then(Value::as_str).is_none_or(|protocol| protocol == "TCP")
    });
    tcp.map(|(index, port)| {
        let written = port.get("targetPort").filter(|target| !target.is_null());
        // A number in quotes is a number to the API server.
        let number = written.and_then(Value::as_str).and_then(|text| text.parse::<u16>().ok());
        let target = match number {
            Some(number) => json!(number),
            None => written.unwrap_or(&port["port"]).clone(),
        };
        let shown = port.get("name").and_then(Value::as_str).map(str::to_owned);
        let shown = shown.unwrap_or_else(|| port["port"].to_string());
        ServicePort { index, shown, target, written: written.cloned() }
    })
    .collect()
}

/// Where `port` of `service` leads in a pod (or a template) with the sidecar that `status`
/// describes.
pub(in crate::inject) fn endpoint(
    service: &Value,
    port: &ServicePort,
    pod: &Value,
    status: &InjectStatus,
) -> Endpoint {
    let gate = gate_numbers(pod, status);
    let number = match &port.target {
        Value::String(name) => match number_named(pod, name) {
            Some(number) => number,
            None => return Endpoint::Nowhere,
        },
        number => number.as_u64().unwrap_or_default(),
    };
    let is_headless = service.pointer("/spec/clusterIP").and_then(Value::as_str) == Some("None");
    if gate.contains(&number) && !is_headless {
        return Endpoint::Gate;
    }
    // A port that was taken over belongs to the sidecar, whichever way clients take.
    let takes_over = gate.contains(&number) && number != u64::from(status.ports.authed);
    match (is_headless, takes_over) {
        (true, true) => Endpoint::Gate,
        (true, false) => Endpoint::Headless,
        _ if number == u64::from(status.upstream) => Endpoint::Bypass,
        _ => Endpoint::Other(number.to_string()),
    }
}

/// Numbers at which the sidecar accepts requests.
fn gate_numbers(pod: &Value, status: &InjectStatus) -> Vec<u64> {
    let sidecar = containers(pod).find(|container| container["name"] == CONTAINER);
    let ports = sidecar.and_then(|sidecar| sidecar["ports"].as_array()).into_iter().flatten();
    let numbers = ports.filter_map(|port| port["containerPort"].as_u64());
    numbers.filter(|number| *number != u64::from(status.ports.public)).collect()
}

/// The number that a Service resolves a name to: that of the first container that has it, the app's
/// before those that start first (finding 2 of the design: measured on an API server).
fn number_named(pod: &Value, name: &str) -> Option<u64> {
    let ports = containers(pod).flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let named = ports.filter(|port| port["name"] == name);
    named.filter_map(|port| port["containerPort"].as_u64()).next()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let apps = pod.pointer("/spec/containers").and_then(Value::as_array);
    let init = pod.pointer("/spec/initContainers").and_then(Value::as_array);
    // Other init containers have ended by the time traffic arrives.
    let sidecars = init.into_iter().flatten().filter(|c| c["restartPolicy"] == "Always");
    apps.into_iter().flatten().chain(sidecars)
}

/// Names of a number in a pod: a NetworkPolicy means all of them.
pub(in crate::inject) fn names_of(pod: &Value, number: u16) -> Vec<&str> {
    let ports = containers(pod).flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let named = ports.filter(|port| port["containerPort"] == json!(number));
    named.filter_map(|port| port["name"].as_str()).collect()
}

/// The status of a pod or template with the sidecar. If the sidecar is missing, the annotation was
/// copied.
pub(in crate::inject) fn status_of(pod: &Value) -> Option<InjectStatus> {
    let path = super::super::pod::patch::pointer(&["metadata", "annotations", STATUS.name()]);
    let status = InjectStatus::read(pod.pointer(&path)?.as_str()?).ok()?;
    containers(pod).any(|container| container["name"] == CONTAINER).then_some(status)
}

/// Reports the Services of a document that lead past the sidecar of a workload, or redirects them
/// to it.
pub(super) fn lead(
    document: &mut YamlDocument,
    workloads: &[Workload],
    options: StreamOptions,
    report: &mut Vec<StreamLine>,
) {
    let services = each(&document.value)
        .into_iter()
        .filter(|(_, object)| object["kind"] == "Service" && object["apiVersion"] == "v1");
    for (place, service) in services {
        let object = ObjectRef::of(&service);
        let mut patch = Vec::new();
        let mut former = Vec::new();
        for workload in workloads.iter().filter(|w| w.object.is_beside(&object)) {
            let labels = workload.template.pointer("/metadata/labels").unwrap_or(&Value::Null);
            let Some(status) = status_of(&workload.template) else { continue };
            if !selects(&service["spec"]["selector"], labels) {
                continue;
            }
            for port in service_ports(&service) {
                let shown =
                    format!("{object}: port {} (target {})", port.shown, text_of(&port.target));
                let name = authed_name(&workload.template, &status);
                let mut line = |kind, text| report.push(StreamLine { kind, text });
                match endpoint(&service, &port, &workload.template, &status) {
                    Endpoint::Gate => {}
                    Endpoint::Bypass if options.rewrite_services => {
                        if former.iter().any(|(index, _)| *index == port.index) {
                            continue;
                        }
                        let path = format!("/spec/ports/{}/targetPort", port.index);
                        patch.push(PatchOperation::Add { path, value: json!(name) });
                        former.push((port.index, port.written.clone()));
                        line(LineKind::Noted, format!("{shown} now leads to {name}"));
                    }
                    Endpoint::Bypass => line(
                        LineKind::Bypass,
                        format!(
                            "{shown} goes around keygate to {}\n\
                             hint: targetPort: {name}, or --rewrite-services",
                            workload.object
                        ),
                    ),
                    Endpoint::Headless => line(
                        LineKind::Bypass,
                        format!(
                            "{shown} is headless: clients connect to the pods of {} at any port\n\
                             hint: a Service with an address, or steering takeover, and a \
                             NetworkPolicy (--emit-network-policy)",
                            workload.object
                        ),
                    ),
                    Endpoint::Other(number) => line(
                        LineKind::Warned,
                        format!(
                            "{shown} leads to port {number} of {}, which keygate does not protect",
                            workload.object
                        ),
                    ),
                    Endpoint::Nowhere => line(
                        LineKind::Warned,
                        format!("{shown}: no container of {} has this port", workload.object),
                    ),
                }
            }
        }
        if !patch.is_empty() {
            let former: Vec<_> =
                former.iter().map(|(index, was)| json!({"port": index, "was": was})).collect();
            patch.push(annotate(&service, json!({"targetPorts": former}).to_string()));
            document.apply(&place, &patch);
        }
    }
}

/// Gives Services back the ports that [`lead`] has changed.
pub(super) fn lead_back(document: &mut YamlDocument, report: &mut Vec<StreamLine>) {
    let path = super::super::pod::patch::pointer(&["metadata", "annotations", STATUS.name()]);
    let services =
        each(&document.value).into_iter().filter(|(_, object)| object["kind"] == "Service");
    for (place, service) in services {
        let status = service.pointer(&path).and_then(Value::as_str);
        let status: Option<Value> = status.and_then(|text| serde_json::from_str(text).ok());
        let Some(former) = status.as_ref().and_then(|s| s["targetPorts"].as_array()) else {
            continue;
        };
        let mut patch: Vec<_> = former
            .iter()
            .map(|former| {
                let path = format!("/spec/ports/{}/targetPort", former["port"]);
                match &former["was"] {
                    Value::Null => PatchOperation::Remove { path },
                    was => PatchOperation::Replace { path, value: was.clone() },
                }
            })
            .collect();
        let annotations = service["metadata"]["annotations"].as_object().map_or(0, |a| a.len());
        let gone = if annotations == 1 { "/metadata/annotations" } else { &*path };
        patch.push(PatchOperation::Remove { path: gone.to_owned() });
        document.apply(&place, &patch);
        let text = format!("{} has its ports back", ObjectRef::of(&service));
        report.push(StreamLine { kind: LineKind::Noted, text });
    }
}

/// The name that only the sidecar has.
fn authed_name(pod: &Value, status: &InjectStatus) -> String {
    let sidecar = containers(pod).find(|container| container["name"] == CONTAINER);
    let ports = sidecar.and_then(|sidecar| sidecar["ports"].as_array()).into_iter().flatten();
    let moved = |name: &str| status.moved.iter().any(|moved| moved.from.as_deref() == Some(name));
    let mut names = ports
        .filter(|port| port["containerPort"] == json!(status.ports.authed))
        .filter_map(|port| port["name"].as_str());
    names.find(|name| !moved(name)).unwrap_or("authed").to_owned()
}

fn text_of(target: &Value) -> String {
    target.as_str().map_or_else(|| target.to_string(), str::to_owned)
}
