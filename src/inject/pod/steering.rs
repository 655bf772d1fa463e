//! How requests reach the sidecar instead of the app: which ports the sidecar declares, and what
//! changes in the app's containers for that.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::annotations::{AnnotationName, PodWishes};
use super::containers::{DeclaredPort, HostPort, PodContainer};
use super::edits::{EditKind, PodEdit};
use super::handlers::{Handler, handlers};
use super::names::PORT_NAME_MAX;
use super::outcome::{InjectDenial, SkipReason};
use super::passages::{ProbePassage, commands_with, headers_of, passage_url};
use super::settings::{InjectorSettings, SidecarPorts, Steering};
use super::status::MovedPort;
use super::takeover::{PortTold, tell_port};
use super::upstream::UpstreamPort;
use super::{Halt, Halted};

/// Name of the sidecar's port for probes and metrics: what a PodMonitor selects.
pub(super) const METRICS_PORT: &str = "keygate-metrics";

/// What is done so that requests pass through the sidecar.
#[derive(Clone, Debug)]
pub(super) struct SteeredPod {
    /// As they are bound in this pod.
    pub(super) ports: SidecarPorts,
    /// Where the sidecar accepts requests.
    pub(super) listens: Vec<u16>,
    /// What its container declares, except for the port for metrics.
    pub(super) declared: Vec<SidecarPort>,
    /// Where the app listens.
    pub(super) app_port: u16,
    pub(super) edits: Vec<PodEdit>,
    pub(super) moved: Vec<MovedPort>,
    pub(super) passages: Vec<ProbePassage>,
    pub(super) report: String,
    pub(super) warnings: Vec<String>,
    /// Ways around the sidecar that the pod itself opens.
    pub(super) ways_around: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct SidecarPort {
    pub(super) name: Option<String>,
    pub(super) number: u16,
    pub(super) host: Option<NodePort>,
}

/// Where a port of the sidecar is open on the node.
#[derive(Clone, Debug)]
pub(super) struct NodePort {
    pub(super) number: u16,
    pub(super) address: Option<String>,
}

/// # Errors
/// A skip if `takeover` is impossible, a denial if the app already uses one of the sidecar's names.
pub(super) fn steer(
    spec: &Value,
    containers: &[PodContainer<'_>],
    upstream: &UpstreamPort,
    wishes: &PodWishes,
    settings: &InjectorSettings,
) -> Halted<SteeredPod> {
    for name in [&*wishes.port_name, METRICS_PORT] {
        let holder = containers.iter().find(|c| c.ports.iter().any(|p| p.name == Some(name)));
        if let Some(holder) = holder {
            return Err(Halt::Deny(InjectDenial::port_conflict(name, holder.name)));
        }
    }
    if wishes.port_name == METRICS_PORT {
        return Err(Halt::Deny(InjectDenial::annotation(format!(
            "annotation {}: \"{METRICS_PORT}\" is the sidecar's port for probes and metrics\n\
             hint: take another name",
            AnnotationName::PortName.name()
        ))));
    }
    let mut taken: BTreeSet<u16> =
        containers.iter().flat_map(|c| c.ports.iter().map(|port| port.number)).collect();
    taken.insert(upstream.number);
    let ports = free_ports(&settings.ports, &mut taken);
    let mut pod = SteeredPod {
        ports,
        listens: vec![ports.authed],
        declared: vec![SidecarPort {
            name: Some(wishes.port_name.clone()),
            number: ports.authed,
            host: None,
        }],
        app_port: upstream.number,
        edits: Vec::new(),
        moved: Vec::new(),
        passages: Vec::new(),
        report: String::new(),
        warnings: Vec::new(),
        ways_around: Vec::new(),
    };
    for (name, wanted, got) in [
        (&*wishes.port_name, settings.ports.authed, ports.authed),
        (METRICS_PORT, settings.ports.public, ports.public),
    ] {
        if wanted != got {
            pod.warnings.push(format!(
                "port {wanted} is declared by the pod itself: {name} is {got} here, and a \
                 NetworkPolicy has to admit that number"
            ));
        }
    }
    match wishes.steering {
        Steering::Move => pod.move_names(containers, upstream),
        Steering::Unique => {
            pod.report = format!("unique {}->{}", wishes.port_name, ports.authed);
            pod.note_host_ports(containers, upstream.number);
        }
        Steering::Takeover => pod.take_over(spec, containers, upstream, wishes)?,
    }
    Ok(pod)
}

/// The configured numbers, each counted up until nothing else in the pod uses it.
fn free_ports(wanted: &SidecarPorts, taken: &mut BTreeSet<u16>) -> SidecarPorts {
    let mut free = |wanted: u16| {
        let port = (wanted..=u16::MAX).chain(1024..wanted).find(|port| taken.insert(*port));
        // A pod that declares every possible port cannot run anyway.
        port.unwrap_or(wanted)
    };
    SidecarPorts {
        authed: free(wanted.authed),
        public: free(wanted.public),
        admin: free(wanted.admin),
        app: free(wanted.app),
    }
}

/// `up-NAME`, at most 15 characters, and different from any other port's name.
fn name_behind(name: &str, taken: &mut BTreeSet<String>) -> String {
    let cut = |text: String, room: usize| {
        let cut: String = text.chars().take(room).collect();
        cut.trim_end_matches('-').to_owned()
    };
    let plain = cut(format!("up-{name}"), PORT_NAME_MAX);
    if taken.insert(plain.clone()) {
        return plain;
    }
    let numbered = (2u32..).map(|n| {
        let tail = format!("-{n}");
        format!("{}{tail}", cut(plain.clone(), PORT_NAME_MAX - tail.len()))
    });
    // Some number is free, since a pod has a finite number of ports.
    numbered.into_iter().find(|name| taken.insert(name.clone())).unwrap_or(plain)
}

// === impl NodePort ===

impl NodePort {
    fn of(host: HostPort<'_>) -> Self {
        Self { number: host.number, address: host.address.map(str::to_owned) }
    }
}

// === impl SteeredPod ===

impl SteeredPod {
    /// Moves the names of the service's port to the sidecar, wherever they are in the pod: a
    /// Service uses the first container that has the name.
    fn move_names(&mut self, containers: &[PodContainer<'_>], upstream: &UpstreamPort) {
        let names = self.names_of(containers, upstream.number);
        let authed = self.ports.authed;
        for (container, port, behind) in self.rename(containers, &names) {
            let holder = &containers[container];
            self.moved.push(MovedPort {
                container: holder.name.to_owned(),
                port: port.number,
                from: port.name.map(str::to_owned),
                to: behind,
            });
        }
        for name in &names {
            self.declared.push(SidecarPort {
                name: Some(name.clone()),
                number: authed,
                host: None,
            });
        }
        for (at, container) in containers.iter().enumerate() {
            for handler in handlers(container) {
                self.number_handler(at, container, &handler, &names);
            }
        }
        self.note_host_ports(containers, upstream.number);
        self.report = match names.is_empty() {
            false => names
                .iter()
                .map(|name| format!("move {name}->{authed}"))
                .collect::<Vec<_>>()
                .join(", "),
            true => {
                self.warnings.push(format!(
                    "port {0} has no name that could be moved: a Service with targetPort {0} goes \
                     around keygate; let it say targetPort: {1}, or use steering takeover",
                    upstream.number,
                    self.declared.first().and_then(|p| p.name.as_deref()).unwrap_or_default(),
                ));
                format!("move nothing of {}", upstream.number)
            }
        };
    }

    /// The sidecar binds the app's number, and the app gets another one.
    fn take_over(
        &mut self,
        spec: &Value,
        containers: &[PodContainer<'_>],
        upstream: &UpstreamPort,
        wishes: &PodWishes,
    ) -> Halted<()> {
        let number = upstream.number;
        if number < lowest_port(spec) {
            return Err(Halt::Skip(SkipReason::PrivilegedPort));
        }
        let app =
            containers.get(upstream.container).ok_or(Halt::Skip(SkipReason::NoUpstreamPort))?;
        // The kubelet calls hooks at the pod's address, so an app that has one must be reachable
        // there.
        let calls = containers.iter().flat_map(handlers).collect::<Vec<_>>();
        let is_called = |handler: &&Handler<'_>| handler.probe.is_none();
        let loopback = !calls.iter().any(|handler| is_called(&handler));
        let told = PortTold { from: number, to: self.ports.app, loopback };
        let edits = tell_port(app.value, told, wishes.upstream_port_env.as_ref());
        let edits = edits.ok_or(Halt::Skip(SkipReason::TakeoverNeedsPortEnv))?;
        self.app_port = self.ports.app;
        self.listens.push(number);
        self.edits.extend(edits.into_iter().map(|(at, kind)| PodEdit {
            container: upstream.container,
            at,
            kind,
        }));
        let names = self.names_of(containers, number);
        let mut on_node = Vec::new();
        for (at, container) in containers.iter().enumerate() {
            let ports = container.ports.iter().filter(|p| p.is_tcp && p.number == number);
            for port in ports {
                on_node.extend(port.host.map(NodePort::of));
                let place = format!("/ports/{}", port.index);
                let mut edit = |at: usize, place: String, kind| {
                    self.edits.push(PodEdit { container: at, at: place, kind });
                };
                edit(at, format!("{place}/containerPort"), EditKind::Set(json!(self.ports.app)));
                if let Some(host) = port.host {
                    edit(at, format!("{place}/hostPort"), EditKind::Remove);
                    if host.address.is_some() {
                        edit(at, format!("{place}/hostIP"), EditKind::Remove);
                    }
                }
            }
        }
        for (container, port, behind) in self.rename(containers, &names) {
            self.moved.push(MovedPort {
                container: containers[container].name.to_owned(),
                port: port.number,
                from: port.name.map(str::to_owned),
                to: behind,
            });
        }
        // One entry for each name and each port of the node; one if there is neither.
        let entries = names.len().max(on_node.len()).max(1);
        let (mut names_left, mut on_node) = (names.iter().cloned(), on_node.into_iter());
        for _ in 0..entries {
            let (name, host) = (names_left.next(), on_node.next());
            self.declared.push(SidecarPort { name, number, host });
        }
        self.warnings.extend(commands_with(containers, number));
        for (at, container) in containers.iter().enumerate() {
            for handler in handlers(container) {
                if !self.pass_on(at, container, &handler, number) {
                    self.number_handler(at, container, &handler, &names);
                }
            }
        }
        self.report = format!("takeover {number}, app->{}", self.ports.app);
        Ok(())
    }

    /// Names of the service's port in any container.
    fn names_of(&self, containers: &[PodContainer<'_>], number: u16) -> Vec<String> {
        let ports = containers.iter().filter(|c| c.serves()).flat_map(|c| &c.ports);
        let named = ports.filter(|port| port.is_tcp && port.number == number);
        let names: BTreeSet<_> = named.filter_map(|port| port.name.map(str::to_owned)).collect();
        names.into_iter().collect()
    }

    /// Removes `names` from every TCP port of the pod that has one of them: a Service asks for a name
    /// and a protocol.
    fn rename<'c>(
        &mut self,
        containers: &'c [PodContainer<'c>],
        names: &[String],
    ) -> Vec<(usize, &'c DeclaredPort<'c>, Option<String>)> {
        let mut taken: BTreeSet<String> = containers
            .iter()
            .flat_map(|c| c.ports.iter().filter_map(|port| port.name.map(str::to_owned)))
            .collect();
        taken.extend(self.declared.iter().filter_map(|port| port.name.clone()));
        taken.insert(METRICS_PORT.to_owned());
        let mut renamed = Vec::new();
        for (at, container) in containers.iter().enumerate() {
            for port in container.ports.iter().filter(|port| port.is_tcp) {
                let Some(name) = port.name.filter(|name| names.iter().any(|n| n == name)) else {
                    continue;
                };
                let behind = name_behind(name, &mut taken);
                self.edits.push(PodEdit {
                    container: at,
                    at: format!("/ports/{}/name", port.index),
                    kind: EditKind::Set(json!(behind)),
                });
                renamed.push((at, port, Some(behind)));
            }
        }
        renamed
    }

    /// A probe or hook that called the app by a name that now belongs to the sidecar gets the
    /// number.
    fn number_handler(
        &mut self,
        at: usize,
        container: &PodContainer<'_>,
        handler: &Handler<'_>,
        names: &[String],
    ) {
        let Some(port) = handler.action.get("port") else { return };
        let is_moved = port.as_str().is_some_and(|name| names.iter().any(|n| n == name));
        if let Some(number) = container.number_of(port).filter(|_| is_moved) {
            self.edits.push(PodEdit {
                container: at,
                at: format!("{}/port", handler.pointer),
                kind: EditKind::Set(json!(number)),
            });
        }
    }

    /// A probe of the number that was taken over goes through the sidecar; a hook gets the new
    /// number. Returns whether the handler was one of these.
    fn pass_on(
        &mut self,
        at: usize,
        container: &PodContainer<'_>,
        handler: &Handler<'_>,
        number: u16,
    ) -> bool {
        let port = handler.action.get("port").and_then(|port| container.number_of(port));
        // A probe of another host does not concern the app.
        let host = handler.action.get("host").and_then(Value::as_str).unwrap_or_default();
        if port != Some(number) || !host.is_empty() {
            return false;
        }
        let mut edit = |place: String, kind| {
            self.edits.push(PodEdit { container: at, at: place, kind });
        };
        let Some((probe, word)) = handler.probe else {
            edit(format!("{}/port", handler.pointer), EditKind::Set(json!(self.ports.app)));
            return true;
        };
        let path = format!("/probe/{}/{word}", container.name);
        let passed = json!({"path": path, "port": self.ports.public, "scheme": "HTTP"});
        match handler.kind {
            "httpGet" => edit(handler.pointer.clone(), EditKind::Set(passed)),
            _ => {
                // In this order, so that a probe that has nothing else is never empty.
                edit(format!("/{probe}"), EditKind::Put("httpGet", passed));
                edit(handler.pointer.clone(), EditKind::Remove);
            }
        }
        let seconds = container.value.get(probe).and_then(|p| p.get("timeoutSeconds"));
        let (headers, framing) = headers_of(handler.action);
        for name in framing {
            self.warnings.push(format!(
                "{probe} of container {} goes without its field {name}, which says how a message is \
                 framed: the sidecar frames its own",
                container.name
            ));
        }
        self.passages.push(ProbePassage {
            path,
            of: format!("container {}: {probe}", container.name),
            url: passage_url(handler, self.ports.app),
            headers,
            timeout: seconds.and_then(Value::as_u64).unwrap_or(1).clamp(1, 60),
        });
        true
    }

    fn note_host_ports(&mut self, containers: &[PodContainer<'_>], number: u16) {
        for container in containers {
            for port in container.ports.iter().filter(|p| p.is_tcp && p.number == number) {
                if let Some(HostPort { number, .. }) = port.host {
                    self.ways_around.push(format!(
                        "hostPort {number} of container {} leads to the app itself, around \
                         keygate; take it out, or use steering takeover",
                        container.name
                    ));
                }
            }
        }
    }
}

/// The lowest port that an unprivileged process may bind in this pod.
fn lowest_port(spec: &Value) -> u16 {
    let sysctls = spec.get("securityContext").and_then(|context| context.get("sysctls"));
    let named = sysctls.and_then(Value::as_array).into_iter().flatten().find(|sysctl| {
        sysctl.get("name").and_then(Value::as_str) == Some("net.ipv4.ip_unprivileged_port_start")
    });
    let value = named.and_then(|sysctl| sysctl.get("value")?.as_str()?.trim().parse().ok());
    value.unwrap_or(1024)
}
