//! What happens to a pod: a patch, a skip with its word, or a denial that says what to fix.

use std::fmt;

use super::patch::PatchOperation;

/// The result of `inject` for one pod.
#[derive(Clone, Debug, PartialEq)]
pub enum InjectOutcome {
    /// The pod gets the sidecar.
    Patch(Box<Injection>),
    /// The pod stays as it is.
    Skip(SkipReason),
    /// The pod must not be created as it is.
    Deny(InjectDenial),
}

/// A sidecar to be added to a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// RFC 6902. It applies only to the pod that was passed in.
    pub patch: Vec<PatchOperation>,
    /// What was steered, for people: `move http->15080`.
    pub steered: String,
    /// Reasons why the pod is injected but not as safe as it looks. For the response's `warnings`
    /// and for standard error.
    pub warnings: Vec<String>,
    /// Those of them by which requests bypass the sidecar, according to the pod itself.
    pub ways_around: Vec<String>,
}

/// Why a pod stays without a sidecar. The same word in reports, metrics and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SkipReason {
    /// It already has a container with the sidecar's name.
    AlreadyInjected,
    /// Several ports could be the one to protect, and none is named.
    AmbiguousPort,
    /// Its label says `false`.
    Disabled,
    /// It already runs and has ephemeral containers: nothing in it can be changed.
    Ephemeral,
    /// It shares the node's network: ports collide, and loopback is the node's.
    HostNetwork,
    /// A job ends when its last container does, and a plain container never ends on its own.
    JobNeedsNativeSidecar,
    /// The mirror of a static pod, which must equal its file.
    Mirror,
    /// No container declares a port for clients, and no annotation names one.
    NoUpstreamPort,
    /// Its label names another injector.
    OtherRevision,
    /// `takeover` of a port below 1024, which an unprivileged process cannot bind.
    PrivilegedPort,
    /// `takeover` needs an environment variable that gives the app its port.
    TakeoverNeedsPortEnv,
    /// The app itself speaks TLS there, and the sidecar cannot know its certificate.
    TlsUpstream,
    /// No port speaks TCP.
    UdpOnly,
    Windows,
}

/// Why a pod must not be created as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectDenial {
    pub reason: DenialReason,
    /// What is wrong, with the name of the annotation or field, and what to do.
    pub message: String,
}

/// The kind of a denial. The same word in reports, metrics and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DenialReason {
    /// An annotation or label of ours is unknown, or has an invalid value.
    BadAnnotation,
    /// It is not a pod.
    Malformed,
    /// A container has a port with the name of one of the sidecar's ports.
    PortConflict,
    /// The namespace demands the sidecar, and the pod cannot have it.
    Required,
}

// === impl SkipReason ===

impl SkipReason {
    pub const ALL: [Self; 14] = [
        Self::AlreadyInjected,
        Self::AmbiguousPort,
        Self::Disabled,
        Self::Ephemeral,
        Self::HostNetwork,
        Self::JobNeedsNativeSidecar,
        Self::Mirror,
        Self::NoUpstreamPort,
        Self::OtherRevision,
        Self::PrivilegedPort,
        Self::TakeoverNeedsPortEnv,
        Self::TlsUpstream,
        Self::UdpOnly,
        Self::Windows,
    ];

    /// In metrics, reports and answers.
    pub const fn word(self) -> &'static str {
        match self {
            Self::AlreadyInjected => "already_injected",
            Self::AmbiguousPort => "ambiguous_port",
            Self::Disabled => "disabled",
            Self::Ephemeral => "ephemeral",
            Self::HostNetwork => "host_network",
            Self::JobNeedsNativeSidecar => "job_needs_native_sidecar",
            Self::Mirror => "mirror",
            Self::NoUpstreamPort => "no_upstream_port",
            Self::OtherRevision => "other_revision",
            Self::PrivilegedPort => "privileged_port",
            Self::TakeoverNeedsPortEnv => "takeover_needs_port_env",
            Self::TlsUpstream => "tls_upstream",
            Self::UdpOnly => "udp_only",
            Self::Windows => "windows",
        }
    }

    /// What it means and what to do, for people.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::AlreadyInjected => "it has a container `keygate`",
            Self::AmbiguousPort => {
                "several ports could be the service's; name one with the annotation \
                 keygate.dev/upstream-port"
            }
            Self::Disabled => "its label keygate.dev/inject is \"false\"",
            Self::Ephemeral => {
                "it has ephemeral containers, so it runs already; inject its template"
            }
            Self::HostNetwork => {
                "it shares the node's network, where ports collide and loopback is everybody's; take \
                 hostNetwork out, or protect it by hand"
            }
            Self::JobNeedsNativeSidecar => {
                "a job would never end beside a plain container; it needs a native sidecar \
                 (Kubernetes 1.29)"
            }
            Self::Mirror => "it mirrors a static pod of the kubelet; change the file on the node",
            Self::NoUpstreamPort => {
                "no container declares a port for clients (names such as admin or metrics are of ports for \
                 operators); declare the service's, or name it with the annotation \
                 keygate.dev/upstream-port"
            }
            Self::OtherRevision => "its label keygate.dev/rev names another injector",
            Self::PrivilegedPort => {
                "takeover of a port below 1024 needs the pod's sysctl \
                 net.ipv4.ip_unprivileged_port_start; or use steering move or unique"
            }
            Self::TakeoverNeedsPortEnv => {
                "takeover has to tell the app another port; name the environment variable that it reads \
                 with the annotation keygate.dev/upstream-port-env"
            }
            Self::TlsUpstream => {
                "the app speaks TLS on that port; give it a port in clear for keygate, and name it with \
                 the annotation keygate.dev/upstream-port"
            }
            Self::UdpOnly => "no port speaks TCP",
            Self::Windows => "it is for Windows nodes, and the sidecar is a Linux program",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

// === impl DenialReason ===

impl DenialReason {
    pub const ALL: [Self; 4] =
        [Self::BadAnnotation, Self::Malformed, Self::PortConflict, Self::Required];

    /// In metrics, reports and answers.
    pub const fn word(self) -> &'static str {
        match self {
            Self::BadAnnotation => "bad_annotation",
            Self::Malformed => "malformed",
            Self::PortConflict => "port_conflict",
            Self::Required => "required",
        }
    }
}

// === impl InjectDenial ===

impl InjectDenial {
    pub(crate) fn annotation(message: impl Into<String>) -> Self {
        Self { reason: DenialReason::BadAnnotation, message: message.into() }
    }

    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self { reason: DenialReason::Malformed, message: message.into() }
    }

    /// A Service that targets the name would go to that container, past the sidecar.
    pub(crate) fn port_conflict(port: &str, container: &str) -> Self {
        let message = format!(
            "container {container}: has a port named \"{port}\", which is the sidecar's name for its own: a \
             Service would go past the sidecar\n\
             hint: rename the container's port, or give the sidecar's another name with the annotation \
             keygate.dev/port-name"
        );
        Self { reason: DenialReason::PortConflict, message }
    }

    /// The namespace demands that every request passes the sidecar.
    pub(crate) fn way_around(way: &str) -> Self {
        let message = format!("this namespace takes only pods behind keygate: {way}");
        Self { reason: DenialReason::Required, message }
    }

    /// The denial in place of a skip where the namespace demands the sidecar.
    pub(crate) fn required(skip: SkipReason) -> Self {
        let message = format!(
            "this namespace takes only pods with keygate, and this one cannot have it: {skip}: {}",
            skip.advice()
        );
        Self { reason: DenialReason::Required, message }
    }
}

impl fmt::Display for InjectDenial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted_and_stand_once() {
        let words: Vec<_> = SkipReason::ALL.iter().map(|reason| reason.word()).collect();
        assert!(words.is_sorted_by(|a, b| a < b), "{words:?}");
    }
}
