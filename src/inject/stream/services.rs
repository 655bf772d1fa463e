//! Where a Service's traffic ends: at the sidecar, or past it at the app.

use serde_json::{Value, json};

use super::super::pod::patch::PatchOperation;
use super::super::yaml::YamlDocument;
use super::gate::{PodGate, shown_ports};
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

/// Where `port` of `service` leads in a pod (or a template) with the sidecar `gate`.
pub(in crate::inject) fn endpoint(
    service: &Value,
    port: &ServicePort,
    pod: &Value,
    gate: &PodGate,
) -> Endpoint {
    let number = match &port.target {
        Value::String(name) => match number_named(pod, name) {
            Some(number) => number,
            None => return Endpoint::Nowhere,
        },
        number => number.as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or_default(),
    };
    let is_headless = service.pointer("/spec/clusterIP").and_then(Value::as_str) == Some("None");
    match is_headless {
        true if gate.taken_over.contains(&number) => Endpoint::Gate,
        true => Endpoint::Headless,
        false if gate.numbers.contains(&number) => Endpoint::Gate,
        false if gate.is_passed_at(pod, number) => Endpoint::Bypass,
        false => Endpoint::Other(number.to_string()),
    }
}

/// The number that a Service resolves a name to: that of the first container that has it.
fn number_named(pod: &Value, name: &str) -> Option<u16> {
    shown_ports(pod).find(|port| port.name == Some(name)).map(|port| port.number)
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
            let Some(gate) = PodGate::of(&workload.template) else { continue };
            if !selects(&service["spec"]["selector"], labels) {
                continue;
            }
            for port in service_ports(&service) {
                let shown =
                    format!("{object}: port {} (target {})", port.shown, text_of(&port.target));
                let target = gate.target();
                let name = text_of(&target);
                let mut line = |kind, text| report.push(StreamLine { kind, text });
                match endpoint(&service, &port, &workload.template, &gate) {
                    Endpoint::Gate => {}
                    Endpoint::Bypass if options.rewrite_services => {
                        if former.iter().any(|(index, _)| *index == port.index) {
                            continue;
                        }
                        let path = format!("/spec/ports/{}/targetPort", port.index);
                        patch.push(PatchOperation::Add { path, value: target });
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
            let mut all = former_ports(&service).unwrap_or_default();
            // What a run before this one has noted is older, and so the original.
            former.retain(|(index, _)| !all.iter().any(|known| known["port"] == json!(index)));
            all.extend(former.iter().map(|(index, was)| json!({"port": index, "was": was})));
            patch.push(annotate(&service, json!({"targetPorts": all}).to_string()));
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
        let Some(former) = former_ports(&service) else { continue };
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

/// What [`lead`] has noted on a Service.
fn former_ports(service: &Value) -> Option<Vec<Value>> {
    let path = super::super::pod::patch::pointer(&["metadata", "annotations", STATUS.name()]);
    let status: Value = serde_json::from_str(service.pointer(&path)?.as_str()?).ok()?;
    status["targetPorts"].as_array().cloned()
}

fn text_of(target: &Value) -> String {
    target.as_str().map_or_else(|| target.to_string(), str::to_owned)
}
