//! API objects in a document, including those in lists.

use std::fmt;

use serde_json::Value;

/// Which object, in `kubectl`'s notation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::inject) struct ObjectRef {
    /// `None`: the namespace in which it is applied.
    pub(in crate::inject) namespace: Option<String>,
    pub(in crate::inject) kind: String,
    pub(in crate::inject) name: String,
}

/// A pod, or an object that makes pods.
#[derive(Clone, Debug)]
pub(in crate::inject) struct Workload {
    pub(in crate::inject) object: ObjectRef,
    /// Of the workload itself.
    pub(in crate::inject) metadata: Value,
    /// Position of the pod or its template in the document; empty: the document is the pod.
    pub(in crate::inject) pointer: String,
    /// The pod or its template.
    pub(in crate::inject) template: Value,
    /// Which pods belong to the workload: `spec.selector`.
    pub(in crate::inject) selector: Option<Value>,
}

/// Kinds that have pods, their groups, and where the template is.
const KINDS: &[(&str, &str, &str)] = &[
    ("CronJob", "batch/", "/spec/jobTemplate/spec/template"),
    ("DaemonSet", "apps/", "/spec/template"),
    ("Deployment", "apps/", "/spec/template"),
    ("Job", "batch/", "/spec/template"),
    ("Pod", "v1", ""),
    ("ReplicaSet", "apps/", "/spec/template"),
    ("ReplicationController", "v1", "/spec/template"),
    ("StatefulSet", "apps/", "/spec/template"),
];

/// Objects of a document with their positions: the document itself, or its items if it is a list, also
/// one in another list.
pub(in crate::inject) fn each(document: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), document.clone())];
    while let Some((place, object)) = open.pop() {
        let Some(inner) = object["kind"].as_str().and_then(|kind| kind.strip_suffix("List")) else {
            found.push((place, object));
            continue;
        };
        let items = object["items"].as_array().into_iter().flatten().enumerate();
        let items = items.map(|(at, item)| {
            let mut item = item.clone();
            // Items of a list of one kind do not repeat it.
            if let (false, Some(members)) = (inner.is_empty(), item.as_object_mut()) {
                members.entry("kind").or_insert_with(|| inner.into());
                members.entry("apiVersion").or_insert_with(|| object["apiVersion"].clone());
            }
            (format!("{place}/items/{at}"), item)
        });
        // Taken from the end, so that they come in their order.
        let items: Vec<_> = items.collect();
        open.extend(items.into_iter().rev());
    }
    found
}

/// Workloads of a document.
pub(in crate::inject) fn workloads(document: &Value) -> Vec<Workload> {
    each(document).into_iter().filter_map(|(place, object)| workload(&place, &object)).collect()
}

fn workload(place: &str, object: &Value) -> Option<Workload> {
    let (kind, version) = (object["kind"].as_str()?, object["apiVersion"].as_str()?);
    let known = KINDS.iter().find(|(k, group, _)| {
        *k == kind
            && if group.ends_with('/') { version.starts_with(group) } else { version == *group }
    })?;
    let template = object.pointer(known.2)?;
    Some(Workload {
        object: ObjectRef::of(object),
        metadata: object["metadata"].clone(),
        pointer: format!("{place}{}", known.2),
        template: template.clone(),
        selector: object.pointer("/spec/selector").filter(|_| !known.2.is_empty()).cloned(),
    })
}

/// The text of a label.
pub(super) fn label_of<'v>(metadata: &'v Value, name: &str) -> Option<&'v str> {
    metadata.get("labels")?.get(name)?.as_str()
}

/// Whether a map of labels, as a Service uses it, selects these. An empty one selects nothing.
pub(in crate::inject) fn selects(selector: &Value, labels: &Value) -> bool {
    let Some(wanted) = selector.as_object().filter(|wanted| !wanted.is_empty()) else {
        return false;
    };
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// `deploy` for `Deployment`.
pub(super) fn short(kind: &str) -> String {
    let short = match kind {
        "DaemonSet" => "ds",
        "Deployment" => "deploy",
        "NetworkPolicy" => "netpol",
        "ReplicaSet" => "rs",
        "ReplicationController" => "rc",
        "Service" => "svc",
        "StatefulSet" => "sts",
        other => return other.to_lowercase(),
    };
    short.to_owned()
}

// === impl ObjectRef ===

impl ObjectRef {
    pub(in crate::inject) fn of(object: &Value) -> Self {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let name = text("/metadata/name")
            .or_else(|| text("/metadata/generateName").map(|name| format!("{name}*")));
        Self {
            namespace: text("/metadata/namespace").filter(|space| !space.is_empty()),
            kind: text("/kind").unwrap_or_default(),
            name: name.unwrap_or_else(|| "unnamed".to_owned()),
        }
    }

    /// Whether both are in one namespace.
    pub(in crate::inject) fn is_beside(&self, other: &Self) -> bool {
        let space = |of: &Self| of.namespace.clone().unwrap_or_else(|| "default".to_owned());
        space(self) == space(other)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{}/{}", short(&self.kind), self.name)
    }
}
