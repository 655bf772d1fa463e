//! Which port of a pod is the service's: the one that an annotation names, or the only possible
//! one. Never a guess between several: the others would stay open unnoticed.

use serde_json::Value;

use super::annotations::{AnnotationName, PodWishes, PortWish, UpstreamProtocol};
use super::containers::{DeclaredPort, PodContainer};
use super::handlers::{Handler, handlers};
use super::names::is_side_door;
use super::outcome::{InjectDenial, SkipReason};
use super::{Halt, Halted};

/// The port to protect.
#[derive(Clone, Debug)]
pub(super) struct UpstreamPort {
    /// Position of its container among all containers.
    pub(super) container: usize,
    pub(super) number: u16,
    pub(super) protocol: UpstreamProtocol,
}

/// # Errors
/// A skip if the port cannot be determined, a denial if the annotation names a port that does not
/// exist.
pub(super) fn upstream_port(
    containers: &[PodContainer<'_>],
    wishes: &PodWishes,
) -> Halted<UpstreamPort> {
    let ports = || {
        let serving = containers.iter().enumerate().filter(|(_, c)| c.serves());
        serving.flat_map(|(at, container)| container.ports.iter().map(move |port| (at, port)))
    };
    let (at, number, name) = match &wishes.upstream_port {
        Some(PortWish::Number(number)) => {
            let found = ports().find(|(_, port)| port.is_tcp && port.number == *number);
            match found {
                Some((at, port)) => (at, *number, port.name),
                // It listens there without declaring it.
                None => (0, *number, None),
            }
        }
        Some(PortWish::Name(name)) => {
            let found = ports().find(|(_, port)| port.is_tcp && port.name == Some(name));
            let Some((at, port)) = found else {
                let annotation = AnnotationName::UpstreamPort.name();
                return Err(Halt::Deny(InjectDenial::annotation(format!(
                    "annotation {annotation}: no container has a TCP port named \"{name}\"\n\
                     hint: give the number, or the name that stands in the container's ports"
                ))));
            };
            (at, port.number, port.name)
        }
        None => {
            let declared: Vec<_> = ports().collect();
            let fronts = fronts(containers, &declared);
            let (at, port) = match only_one(&fronts) {
                Some(found) => found,
                None if !fronts.is_empty() => return Err(Halt::Skip(SkipReason::AmbiguousPort)),
                None if !declared.is_empty() && declared.iter().all(|(_, port)| !port.is_tcp) => {
                    return Err(Halt::Skip(SkipReason::UdpOnly));
                }
                None => return Err(Halt::Skip(SkipReason::NoUpstreamPort)),
            };
            if port.name.is_some_and(is_tls) {
                return Err(Halt::Skip(SkipReason::TlsUpstream));
            }
            (at, port.number, port.name)
        }
    };
    if containers.iter().any(|container| probes_with_tls(container, number)) {
        return Err(Halt::Skip(SkipReason::TlsUpstream));
    }
    let speaks_grpc = || containers.iter().any(|container| probes_with_grpc(container, number));
    let protocol = wishes.upstream_protocol.unwrap_or_else(|| {
        match name.is_some_and(is_http2) || speaks_grpc() {
            true => UpstreamProtocol::Http2,
            false => UpstreamProtocol::Http1,
        }
    });
    Ok(UpstreamPort { container: at, number, protocol })
}

/// Warnings about ports of the app that stay without the sidecar. Ports for metrics and the like
/// are meant to.
pub(super) fn unguarded(containers: &[PodContainer<'_>], upstream: &UpstreamPort) -> Vec<String> {
    // Ports of a mesh's or an agent's sidecar are its own affair.
    let apps = containers.iter().filter(|container| container.is_app());
    let ports =
        apps.flat_map(|container| container.ports.iter().map(move |port| (container, port)));
    let open = ports.filter(|(_, port)| {
        port.is_tcp && port.number != upstream.number && !port.name.is_some_and(is_side_door)
    });
    open.map(|(container, port)| {
        let name = port.name.map(|name| format!(" ({name})")).unwrap_or_default();
        format!(
            "port {}{name} of container {} stays open without keygate, which protects {}; close it by \
             a NetworkPolicy (--emit-network-policy), or take it out",
            port.number, container.name, upstream.number
        )
    })
    .collect()
}

/// The position of a container, and a port of it.
type PlacedPort<'p, 'c> = (usize, &'p DeclaredPort<'c>);

/// The ports that clients may be meant to use. Never those of a native sidecar: taken by mistake, one
/// of a mesh or an agent would leave the app's own port open.
fn fronts<'p, 'c>(
    containers: &[PodContainer<'c>],
    declared: &[PlacedPort<'p, 'c>],
) -> Vec<PlacedPort<'p, 'c>> {
    let is_apps = |at: usize| containers.get(at).is_some_and(PodContainer::is_app);
    let tcp = declared.iter().copied().filter(|(at, port)| port.is_tcp && is_apps(*at));
    tcp.filter(|(_, port)| !port.name.is_some_and(is_side_door)).collect()
}

/// Names of a service's port, the likeliest first.
const LEVELS: [fn(&str) -> bool; 3] = [
    |name| name == "http",
    |name| name == "web" || is_http2(name),
    |name| name.starts_with("http-"),
];

/// The one of these that is the service's, if that can be determined.
fn only_one<'p, 'c>(fronts: &[PlacedPort<'p, 'c>]) -> Option<PlacedPort<'p, 'c>> {
    // A number with two names is one port.
    let number_of = |found: &[PlacedPort<'p, 'c>]| {
        let (first, rest) = found.split_first()?;
        rest.iter().all(|(_, port)| port.number == first.1.number).then_some(*first)
    };
    number_of(fronts).or_else(|| {
        LEVELS.iter().find_map(|level| {
            let named = fronts.iter().filter(|(_, port)| port.name.is_some_and(level));
            number_of(&named.copied().collect::<Vec<_>>())
        })
    })
}

fn is_http2(name: &str) -> bool {
    ["grpc", "h2c", "http2"].iter().any(|word| {
        name.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

fn is_tls(name: &str) -> bool {
    ["https", "tls", "grpcs"].iter().any(|word| {
        name.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

/// Whether a probe or hook shows that the app speaks TLS there.
fn probes_with_tls(container: &PodContainer<'_>, number: u16) -> bool {
    handlers(container).iter().any(|Handler { action, kind, .. }| {
        *kind == "httpGet"
            && action.get("scheme").and_then(Value::as_str) == Some("HTTPS")
            && action.get("port").and_then(|port| container.number_of(port)) == Some(number)
    })
}

/// Whether the kubelet speaks gRPC, and so HTTP/2 in clear, with the app there.
fn probes_with_grpc(container: &PodContainer<'_>, number: u16) -> bool {
    handlers(container).iter().any(|Handler { action, kind, .. }| {
        *kind == "grpc"
            && action.get("port").and_then(|port| container.number_of(port)) == Some(number)
    })
}
