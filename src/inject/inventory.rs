//! `inject --check`: what a cluster's objects reveal about who bypasses keygate, or will once it is
//! there. It reads what `kubectl get svc,pods,netpol -A -o yaml` prints, and files of workloads
//! too.

mod policies;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use self::policies::{PolicyCover, admitted, cover};
use super::pod::annotations::LabelName;
use super::pod::outcome::{InjectOutcome, SkipReason};
use super::pod::patch::applied;
use super::pod::settings::InjectorSettings;
use super::pod::{InjectContext, inject_by_own_labels};
use super::stream::{self, Endpoint, ObjectRef, PodGate, Workload};

/// Namespaces where nothing is ever injected.
const SYSTEM: [&str; 3] = ["kube-node-lease", "kube-public", "kube-system"];

/// One line of the inventory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct InventoryRow {
    pub(super) namespace: String,
    /// `svc/web`, `deploy/web`, `rs/web-5f6c`.
    pub(super) object: String,
    /// For a Service: its port.
    pub(super) port: String,
    /// For a Service: what the port targets.
    pub(super) target: String,
    pub(super) finding: InventoryFinding,
    /// The number of pods concerned.
    pub(super) pods: usize,
    /// Whether the pods have the sidecar; otherwise the row says what would happen if they were
    /// injected.
    pub(super) injected: bool,
    pub(super) detail: String,
}

/// What was found. The words are the same in all forms of the inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum InventoryFinding {
    /// A Service leads past the sidecar to the port that it protects.
    Bypass,
    /// An injected pod, with policies that admit only the gate.
    Closed,
    /// An annotation or label is wrong, so the pod would not be created.
    Denied,
    /// A Service leads to the sidecar.
    Gate,
    /// A Service without an address: clients connect to pods at any port.
    Headless,
    /// It has no sidecar and can get one.
    Injectable,
    /// A Service targets something that no container declares.
    NoEndpoint,
    /// A Service selects nothing in the input.
    NoPods,
    /// A Service leads to another port of the pod, which nothing protects.
    OtherPort,
    /// An injected pod whose app is reachable around the sidecar, at the pod's address.
    Reachable,
    /// It gets no sidecar, and the detail says why.
    Skipped,
    /// It runs without a sidecar although its labels ask for one: no injector has answered.
    Unanswered,
}

// === impl InventoryFinding ===

impl InventoryFinding {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Closed => "closed",
            Self::Denied => "denied",
            Self::Gate => "gate",
            Self::Headless => "headless",
            Self::Injectable => "injectable",
            Self::NoEndpoint => "no_endpoint",
            Self::NoPods => "no_pods",
            Self::OtherPort => "other_port",
            Self::Reachable => "reachable",
            Self::Skipped => "skipped",
            Self::Unanswered => "unanswered",
        }
    }

    /// Whether requests bypass keygate, or nothing would arrive at all.
    pub(super) const fn is_hole(self) -> bool {
        matches!(
            self,
            Self::Bypass | Self::Denied | Self::Headless | Self::Reachable | Self::Unanswered
        )
    }
}

/// Pods of one kind, with their sidecar or the one that they would get.
struct Subject {
    object: ObjectRef,
    count: usize,
    labels: Value,
    /// With the sidecar; `None`: it gets none.
    after: Option<(Value, PodGate)>,
    injected: bool,
    row: InventoryFinding,
    detail: String,
}

/// Every Service and every kind of pod, sorted: a Service has a row for each port.
pub(super) fn inventory(documents: &[Value], settings: &InjectorSettings) -> Vec<InventoryRow> {
    let objects: Vec<Value> =
        documents.iter().flat_map(stream::each).map(|(_, object)| object).collect();
    let policies: Vec<_> = objects.iter().filter(|o| o["kind"] == "NetworkPolicy").collect();
    let subjects = subjects(documents, settings);
    let mut rows: Vec<_> = subjects.iter().map(|subject| row_of(subject, &policies)).collect();
    for service in objects.iter().filter(|o| o["kind"] == "Service") {
        rows.extend(service_rows(service, &subjects));
    }
    rows.retain(|row| !SYSTEM.contains(&row.namespace.as_str()));
    rows.sort();
    rows
}

/// Replicas of one owner count as one, except those from before its pods had the sidecar.
fn subjects(documents: &[Value], settings: &InjectorSettings) -> Vec<Subject> {
    let mut all: BTreeMap<(ObjectRef, bool, bool), Subject> = BTreeMap::new();
    for workload in documents.iter().flat_map(stream::workloads) {
        let object = owner(&workload);
        let pod = &workload.template;
        let has_gate = PodGate::of(pod).is_some();
        let key = (object.clone(), has_gate, !has_gate && runs(pod) && asks(pod));
        if let Some(known) = all.get_mut(&key) {
            known.count += 1;
            continue;
        }
        all.insert(key, subject(object, &workload, settings));
    }
    all.into_values().collect()
}

/// What made a pod, or else the pod itself.
fn owner(workload: &Workload) -> ObjectRef {
    let owners = workload.metadata["ownerReferences"].as_array().into_iter().flatten();
    let controller = owners.into_iter().find(|owner| owner["controller"] == true);
    match controller {
        Some(owner) => ObjectRef {
            namespace: workload.object.namespace.clone(),
            kind: owner["kind"].as_str().unwrap_or_default().to_owned(),
            name: owner["name"].as_str().unwrap_or_default().to_owned(),
        },
        None => workload.object.clone(),
    }
}

fn subject(object: ObjectRef, workload: &Workload, settings: &InjectorSettings) -> Subject {
    let pod = &workload.template;
    let labels = pod.pointer("/metadata/labels").cloned().unwrap_or_default();
    let mut subject = Subject {
        object,
        count: 1,
        labels,
        after: None,
        injected: false,
        row: InventoryFinding::Skipped,
        detail: String::new(),
    };
    if let Some(gate) = PodGate::of(pod) {
        subject.injected = true;
        subject.row = InventoryFinding::Closed;
        subject.after = Some((pod.clone(), gate));
        return subject;
    }
    let outcome = inject_by_own_labels(pod, &InjectContext::default(), settings);
    // What the injector would skip today, it may have skipped then.
    let is_skipped = matches!(
        outcome,
        InjectOutcome::Skip(reason) if reason != SkipReason::OtherRevision
    );
    if runs(pod) && asks(pod) && !is_skipped {
        subject.row = InventoryFinding::Unanswered;
        subject.detail = unanswered(pod, &outcome);
        return subject;
    }
    match outcome {
        InjectOutcome::Patch(injection) => {
            let after = applied(pod, &injection.patch);
            subject.row = InventoryFinding::Injectable;
            let notes = std::iter::once(injection.steered).chain(injection.warnings);
            subject.detail = notes.collect::<Vec<_>>().join("; ");
            subject.after = PodGate::of(&after).map(|gate| (after, gate));
        }
        InjectOutcome::Skip(reason) => {
            subject.detail = format!("{reason}: {}", reason.advice());
        }
        InjectOutcome::Deny(denial) => {
            subject.row = InventoryFinding::Denied;
            subject.detail = denial.message.replace('\n', "; ");
        }
    }
    subject
}

/// A pod that has a node, and so was admitted, and has not ended.
fn runs(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    pod.pointer("/spec/nodeName").is_some_and(|node| !node.is_null())
        && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a pod's own labels ask for a sidecar: one that names an injector means to.
fn asks(pod: &Value) -> bool {
    let asked = label(pod, LabelName::Inject);
    asked == Some("true") || asked != Some("false") && label(pod, LabelName::Revision).is_some()
}

/// Why a pod that asks for a sidecar may have none: the outage is over, the reason may not be.
fn unanswered(pod: &Value, outcome: &InjectOutcome) -> String {
    let name = |label: LabelName, value: &str| format!("{}={value}", label.name());
    let asked = match label(pod, LabelName::Revision) {
        Some(revision) => name(LabelName::Revision, revision),
        None => name(LabelName::Inject, "true"),
    };
    let why = match outcome {
        InjectOutcome::Skip(_) | InjectOutcome::Patch(_) => String::new(),
        InjectOutcome::Deny(denial) => format!(" ({})", denial.message.replace('\n', "; ")),
    };
    format!("runs without a sidecar{why}: no injector has answered for its label {asked}")
}

fn label(pod: &Value, label: LabelName) -> Option<&str> {
    pod.pointer("/metadata/labels")?.get(label.name())?.as_str()
}

fn row_of(subject: &Subject, policies: &[&Value]) -> InventoryRow {
    let mut row = InventoryRow {
        namespace: namespace(&subject.object),
        object: ObjectRef { namespace: None, ..subject.object.clone() }.to_string(),
        port: String::new(),
        target: String::new(),
        finding: subject.row,
        pods: subject.count,
        injected: subject.injected,
        detail: subject.detail.clone(),
    };
    if let (true, Some((pod, gate))) = (subject.injected, &subject.after) {
        let beside = policies.iter().filter(|p| ObjectRef::of(p).is_beside(&subject.object));
        let beside: Vec<_> = beside.copied().collect();
        let open = open_around(pod, gate, &subject.labels, &beside);
        if !open.is_empty() {
            row.finding = InventoryFinding::Reachable;
            row.detail = open.join("; ");
        }
    }
    row
}

/// How the app is reachable at the pod's address, for people; empty: it is not.
fn open_around(pod: &Value, gate: &PodGate, labels: &Value, policies: &[&Value]) -> Vec<String> {
    let ports = gate.app_ports(pod);
    // An app that declares nothing still listens somewhere: what do policies admit beside the gate?
    let tried = match ports.is_empty() {
        true => admitted(policies)
            .filter_map(|mut ports| ports.find(|port| gate.is_foreign(pod, *port)))
            .chain([ANY_PORT])
            .collect(),
        false => ports,
    };
    let shown: Vec<_> = tried.iter().map(|port| shown_port(*port)).collect();
    let mut open = Vec::new();
    for (port, name) in tried.iter().zip(&shown) {
        let names = stream::names_of(pod, *port);
        match cover(policies.iter().copied(), labels, *port, &names) {
            PolicyCover::Closed => {}
            PolicyCover::Admits(policy) => {
                open.push(format!("NetworkPolicy {policy} admits {name}, the app's own"));
            }
            PolicyCover::None => {
                return vec![format!(
                    "no NetworkPolicy selects it, so {} is open at the pod's address; \
                     --emit-network-policy writes one",
                    shown.join(", ")
                )];
            }
        }
    }
    open
}

/// No app has this one, and no policy names it.
const ANY_PORT: u16 = 0;

fn shown_port(port: u16) -> String {
    match port {
        ANY_PORT => "every port".to_owned(),
        port => format!("port {port}"),
    }
}

fn service_rows(service: &Value, subjects: &[Subject]) -> Vec<InventoryRow> {
    let object = ObjectRef::of(service);
    let selector = &service["spec"]["selector"];
    let selects_pods = selector.as_object().is_some_and(|labels| !labels.is_empty());
    if !selects_pods || service["spec"]["type"] == "ExternalName" {
        return Vec::new();
    }
    let mine: Vec<_> = subjects
        .iter()
        .filter(|s| s.object.is_beside(&object) && stream::selects(selector, &s.labels))
        .collect();
    let ports = stream::service_ports(service);
    let rows = ports.iter().flat_map(|port| {
        let row = |finding, pods, injected, detail: String| InventoryRow {
            namespace: namespace(&object),
            object: ObjectRef { namespace: None, ..object.clone() }.to_string(),
            port: port.shown.clone(),
            target: port.target.as_str().map_or_else(|| port.target.to_string(), str::to_owned),
            finding,
            pods,
            injected,
            detail,
        };
        if mine.is_empty() {
            return vec![row(InventoryFinding::NoPods, 0, false, String::new())];
        }
        let each = mine.iter().map(|subject| {
            let name = ObjectRef { namespace: None, ..subject.object.clone() };
            let Some((pod, gate)) = &subject.after else {
                let detail = match subject.row {
                    InventoryFinding::Unanswered => format!("{name} {}", subject.detail),
                    _ => format!("{name} gets no sidecar: {}", subject.detail),
                };
                return row(subject.row, subject.count, false, detail);
            };
            let (finding, detail) = match stream::endpoint(service, port, pod, gate) {
                Endpoint::Gate => (InventoryFinding::Gate, name.to_string()),
                Endpoint::Bypass => (
                    InventoryFinding::Bypass,
                    format!(
                        "leads to the app of {name}; targetPort: {}, or steering takeover",
                        gate.target()
                            .as_str()
                            .map_or_else(|| gate.target().to_string(), str::to_owned)
                    ),
                ),
                Endpoint::Other(number) => (
                    InventoryFinding::OtherPort,
                    format!("leads to port {number} of {name}, which keygate does not protect"),
                ),
                Endpoint::Nowhere => {
                    (InventoryFinding::NoEndpoint, format!("{name} has no such port"))
                }
                Endpoint::Headless => (
                    InventoryFinding::Headless,
                    format!("clients connect to pods of {name} at any port"),
                ),
            };
            row(finding, subject.count, subject.injected, detail)
        });
        each.collect()
    });
    rows.collect()
}

fn namespace(object: &ObjectRef) -> String {
    object.namespace.clone().unwrap_or_else(|| "default".to_owned())
}
