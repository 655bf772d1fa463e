//! The sidecar of a pod or a template, as far as the pod shows it: with the injector's status, or by its
//! container alone, where the API server's own policy or a person has put it there.

use serde_json::{Value, json};

use super::super::pod::annotations::AnnotationName;
use super::super::pod::names::is_side_door;
use super::super::pod::patch::pointer;
use super::super::pod::sidecar::CONTAINER;
use super::super::pod::status::InjectStatus;
use super::STATUS;

/// What the sidecar's port is called where nobody says otherwise.
const AUTHED: &str = "authed";

/// Which ports of a pod are the sidecar's.
#[derive(Clone, Debug)]
pub(in crate::inject) struct PodGate {
    /// Where it accepts requests.
    pub(in crate::inject) numbers: Vec<u16>,
    /// Those that it has taken over from the app: they are its own whichever way clients take.
    pub(in crate::inject) taken_over: Vec<u16>,
    /// All that it declares, also those for probes and metrics.
    declared: Vec<u16>,
    /// Where the app listens; `None`: nobody has written it down.
    pub(in crate::inject) upstream: Option<u16>,
    /// A name that only the sidecar has, for a Service to target.
    name: Option<String>,
}

/// A TCP port that a container declares.
#[derive(Clone, Copy, Debug)]
pub(in crate::inject) struct ShownPort<'p> {
    pub(in crate::inject) container: &'p str,
    pub(in crate::inject) name: Option<&'p str>,
    pub(in crate::inject) number: u16,
}

/// The status of a pod or template with the sidecar. If the sidecar is missing, the annotation was
/// copied.
pub(in crate::inject) fn status_of(pod: &Value) -> Option<InjectStatus> {
    let path = pointer(&["metadata", "annotations", STATUS.name()]);
    let status = InjectStatus::read(pod.pointer(&path)?.as_str()?).ok()?;
    has_sidecar(pod).then_some(status)
}

/// Whether a container that serves is the sidecar.
fn has_sidecar(pod: &Value) -> bool {
    serving(pod).any(|container| container["name"] == CONTAINER)
}

/// The containers that serve: those of the app first, as a Service looks for names (finding 2 of the
/// design: measured on an API server). Other init containers have ended by the time traffic arrives.
fn serving(pod: &Value) -> impl Iterator<Item = &Value> {
    let apps = pod.pointer("/spec/containers").and_then(Value::as_array);
    let init = pod.pointer("/spec/initContainers").and_then(Value::as_array);
    let sidecars = init.into_iter().flatten().filter(|c| c["restartPolicy"] == "Always");
    apps.into_iter().flatten().chain(sidecars)
}

/// Every TCP port that something in the pod declares.
pub(in crate::inject) fn shown_ports(pod: &Value) -> impl Iterator<Item = ShownPort<'_>> {
    serving(pod).flat_map(|container| {
        let ports = container["ports"].as_array().into_iter().flatten();
        let tcp = ports.filter(|port| {
            port.get("protocol").and_then(Value::as_str).is_none_or(|protocol| protocol == "TCP")
        });
        tcp.filter_map(|port| {
            Some(ShownPort {
                container: container["name"].as_str().unwrap_or_default(),
                name: port["name"].as_str(),
                number: port["containerPort"].as_u64()?.try_into().ok()?,
            })
        })
    })
}

/// Names of a number in a pod: a NetworkPolicy means all of them.
pub(in crate::inject) fn names_of(pod: &Value, number: u16) -> Vec<&str> {
    shown_ports(pod).filter(|port| port.number == number).filter_map(|port| port.name).collect()
}

// === impl PodGate ===

impl PodGate {
    /// `None`: the pod has no sidecar.
    pub(in crate::inject) fn of(pod: &Value) -> Option<Self> {
        if !has_sidecar(pod) {
            return None;
        }
        let own: Vec<_> = shown_ports(pod).filter(|port| port.container == CONTAINER).collect();
        let declared = own.iter().map(|port| port.number).collect();
        let Some(status) = status_of(pod) else {
            // Its own port for metrics has such a name too.
            let for_clients = own.iter().filter(|port| !port.name.is_some_and(is_side_door));
            return Some(Self {
                numbers: for_clients.clone().map(|port| port.number).collect(),
                taken_over: Vec::new(),
                declared,
                upstream: None,
                name: for_clients.clone().find_map(|port| port.name).map(str::to_owned),
            });
        };
        let (authed, public) = (status.ports.authed, status.ports.public);
        let numbers: Vec<_> =
            own.iter().map(|port| port.number).filter(|number| *number != public).collect();
        let is_moved =
            |name: &str| status.moved.iter().any(|moved| moved.from.as_deref() == Some(name));
        let mut names = own.iter().filter(|port| port.number == authed).filter_map(|p| p.name);
        Some(Self {
            taken_over: numbers.iter().copied().filter(|number| *number != authed).collect(),
            numbers,
            declared,
            upstream: Some(status.upstream),
            name: names.find(|name| !is_moved(name)).map(str::to_owned),
        })
    }

    /// What a Service has to target.
    pub(in crate::inject) fn target(&self) -> Value {
        match (&self.name, self.numbers.first()) {
            (Some(name), _) => json!(name),
            // Somebody else's sidecar, whose port has no name.
            (None, Some(number)) if self.upstream.is_none() => json!(number),
            (None, _) => json!(AUTHED),
        }
    }

    /// Whether a port of the pod is the sidecar's own.
    fn owns(&self, number: u16) -> bool {
        self.declared.contains(&number)
    }

    /// Whether requests to a port go past the sidecar to what it protects. Without a status any port of
    /// the app may be that, unless its name says that it is for operators.
    pub(super) fn is_passed_at(&self, pod: &Value, number: u16) -> bool {
        if self.owns(number) {
            return false;
        }
        let is_shown = || shown_ports(pod).any(|port| port.number == number);
        match self.upstream {
            Some(upstream) => number == upstream,
            // Nobody says where the sidecar listens: it may be there.
            None if self.numbers.is_empty() && !is_shown() => false,
            None => !names_of(pod, number).into_iter().any(is_side_door),
        }
    }

    /// Whether a port is neither the sidecar's nor declared open.
    pub(in crate::inject) fn is_foreign(&self, pod: &Value, number: u16) -> bool {
        !self.owns(number) && !open_ports(pod).contains(&number)
    }

    /// Ports of the app at the pod's address that nobody has declared open.
    pub(in crate::inject) fn app_ports(&self, pod: &Value) -> Vec<u16> {
        let open = open_ports(pod);
        let shown = shown_ports(pod).filter(|port| !port.name.is_some_and(is_side_door));
        let mut numbers: Vec<_> = shown.map(|port| port.number).chain(self.upstream).collect();
        numbers.retain(|number| !self.owns(*number));
        // The one that keygate protects has no business to be open, whatever else is.
        numbers.retain(|number| Some(*number) == self.upstream || !open.contains(number));
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

/// Ports that the pod wants open around keygate.
pub(in crate::inject) fn open_ports(pod: &Value) -> Vec<u16> {
    let path = pointer(&["metadata", "annotations", AnnotationName::OpenPorts.name()]);
    let text = pod.pointer(&path).and_then(Value::as_str).unwrap_or_default();
    text.split([',', ' ', '\n', '\t']).filter_map(|part| part.parse().ok()).collect()
}
