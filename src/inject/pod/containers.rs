//! The containers of a pod as they are read: names, ports, and positions.

use serde_json::Value;

use super::outcome::InjectDenial;

/// One container, of either list.
#[derive(Clone, Debug)]
pub(super) struct PodContainer<'p> {
    pub(super) name: &'p str,
    pub(super) value: &'p Value,
    /// Its position: `/spec/containers/0`.
    pub(super) pointer: String,
    pub(super) list: ContainerList,
    pub(super) ports: Vec<DeclaredPort<'p>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContainerList {
    Apps,
    Init,
}

/// One entry of a container's `ports`.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeclaredPort<'p> {
    pub(super) index: usize,
    pub(super) name: Option<&'p str>,
    pub(super) number: u16,
    pub(super) is_tcp: bool,
    pub(super) host: Option<HostPort<'p>>,
}

/// Where a port is open on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostPort<'p> {
    pub(super) number: u16,
    /// `hostIP`: the node's only address with it.
    pub(super) address: Option<&'p str>,
}

// === impl ContainerList ===

impl ContainerList {
    const fn member(self) -> &'static str {
        match self {
            Self::Apps => "containers",
            Self::Init => "initContainers",
        }
    }
}

// === impl PodContainer ===

impl PodContainer<'_> {
    pub(super) fn is_app(&self) -> bool {
        self.list == ContainerList::Apps
    }

    /// Whether it runs beside the app, and so can be reached: an app, or a native sidecar.
    pub(super) fn serves(&self) -> bool {
        let restarts = || self.value.get("restartPolicy").and_then(Value::as_str) == Some("Always");
        self.is_app() || restarts()
    }

    /// The number that a handler's port means here: its own, or that of a port by name.
    pub(super) fn number_of(&self, port: &Value) -> Option<u16> {
        match port {
            Value::Number(number) => number.as_u64().and_then(|n| u16::try_from(n).ok()),
            Value::String(name) => {
                self.ports.iter().find(|p| p.name == Some(name)).map(|port| port.number)
            }
            _ => None,
        }
    }
}

/// All of them: those of the app first.
///
/// # Errors
/// A list, a container or a port has a form that is invalid in a pod.
pub(super) fn containers(spec: &Value) -> Result<Vec<PodContainer<'_>>, InjectDenial> {
    let mut all: Vec<PodContainer<'_>> = Vec::new();
    for list in [ContainerList::Apps, ContainerList::Init] {
        let member = list.member();
        let items = items(spec, member, "spec")?;
        for (index, value) in items.iter().enumerate() {
            let place = format!("spec.{member}[{index}]");
            let name = value.get("name").and_then(Value::as_str).ok_or_else(|| {
                InjectDenial::malformed(format!(
                    "{place} has no name\nhint: each container is an object with a name"
                ))
            })?;
            if all.iter().any(|container| container.name == name) {
                return Err(InjectDenial::malformed(format!(
                    "{place} has the name of another container\nhint: give each a name of its own"
                )));
            }
            let pointer = format!("/spec/{member}/{index}");
            let ports = ports(value, &place)?;
            all.push(PodContainer { name, value, pointer, list, ports });
        }
    }
    if !all.iter().any(PodContainer::is_app) {
        return Err(InjectDenial::malformed("spec.containers is missing\nhint: is it a pod?"));
    }
    Ok(all)
}

fn ports<'p>(container: &'p Value, place: &str) -> Result<Vec<DeclaredPort<'p>>, InjectDenial> {
    let port = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok());
    let items = items(container, "ports", place)?;
    let each = items.iter().enumerate().map(|(index, value)| {
        let number = value.get("containerPort").and_then(port).filter(|n| *n > 0);
        let number = number.ok_or_else(|| {
            InjectDenial::malformed(format!(
                "{place}.ports[{index}] has no containerPort\nhint: a number from 1 to 65535"
            ))
        })?;
        let protocol = value.get("protocol").and_then(Value::as_str);
        Ok(DeclaredPort {
            index,
            name: value.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()),
            number,
            is_tcp: protocol.is_none_or(|protocol| protocol == "TCP"),
            host: value.get("hostPort").and_then(port).filter(|n| *n > 0).map(|number| HostPort {
                number,
                address: value.get("hostIP").and_then(Value::as_str).filter(|ip| !ip.is_empty()),
            }),
        })
    });
    each.collect()
}

/// A list that may be missing.
fn items<'v>(value: &'v Value, member: &str, place: &str) -> Result<&'v [Value], InjectDenial> {
    match value.get(member) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => {
            Err(InjectDenial::malformed(format!("{place}.{member} is no list\nhint: is it a pod?")))
        }
    }
}
