//! Pods that are not injected: one test for each word, and one for each way to be denied.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{annotated, denied, injected, web};
use crate::inject::pod::annotations::{AnnotationName, LabelName};
use crate::inject::pod::outcome::{DenialReason, InjectOutcome, SkipReason};
use crate::inject::pod::settings::{InjectorSettings, Steering};
use crate::inject::pod::{InjectContext, inject, inject_by_own_labels};

/// A pod for each skip, and the settings under which it is skipped.
fn skipped() -> Vec<(SkipReason, Value, InjectorSettings)> {
    let default = InjectorSettings::default;
    let with = |change: fn(&mut Value)| {
        let mut pod = web();
        change(&mut pod);
        pod
    };
    let ports = |ports: Value| {
        let mut pod = web();
        pod["spec"]["containers"][0]["ports"] = ports;
        pod
    };
    let plain = InjectorSettings { native_sidecar: false, ..default() };
    vec![
        (
            SkipReason::AlreadyInjected,
            with(|pod| pod["spec"]["initContainers"] = json!([{"name": "keygate"}])),
            default(),
        ),
        (
            SkipReason::AmbiguousPort,
            ports(json!([{"containerPort": 1}, {"containerPort": 2}])),
            default(),
        ),
        (
            SkipReason::Disabled,
            with(|pod| pod["metadata"]["labels"] = json!({"keygate.dev/inject": "false"})),
            default(),
        ),
        (
            SkipReason::Ephemeral,
            with(|pod| pod["spec"]["ephemeralContainers"] = json!([{"name": "debug"}])),
            default(),
        ),
        (SkipReason::HostNetwork, with(|pod| pod["spec"]["hostNetwork"] = json!(true)), default()),
        (
            SkipReason::JobNeedsNativeSidecar,
            with(|pod| pod["spec"]["restartPolicy"] = json!("OnFailure")),
            plain.clone(),
        ),
        (
            SkipReason::JobNeedsNativeSidecar,
            with(|pod| pod["metadata"]["ownerReferences"] = json!([{"kind": "Job"}])),
            plain,
        ),
        (SkipReason::Mirror, annotated("kubernetes.io/config.mirror", "x"), default()),
        (SkipReason::NoUpstreamPort, ports(json!(null)), default()),
        (
            SkipReason::OtherRevision,
            with(|pod| {
                pod["metadata"]["labels"] =
                    json!({"keygate.dev/inject": "true", "keygate.dev/rev": "canary"});
            }),
            default(),
        ),
        (
            SkipReason::PrivilegedPort,
            with(|pod| {
                pod["metadata"]["annotations"] = json!({"keygate.dev/steering": "takeover"});
                pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80}]);
            }),
            default(),
        ),
        (
            SkipReason::TakeoverNeedsPortEnv,
            annotated("keygate.dev/steering", "takeover"),
            default(),
        ),
        (
            SkipReason::TlsUpstream,
            ports(json!([{"name": "https", "containerPort": 8443}])),
            default(),
        ),
        (
            SkipReason::TlsUpstream,
            with(|pod| {
                pod["spec"]["containers"][0]["livenessProbe"] =
                    json!({"httpGet": {"port": "http", "scheme": "HTTPS"}});
            }),
            default(),
        ),
        (SkipReason::UdpOnly, ports(json!([{"containerPort": 53, "protocol": "UDP"}])), default()),
        (
            SkipReason::Windows,
            with(|pod| pod["spec"]["os"] = json!({"name": "windows"})),
            default(),
        ),
        (
            SkipReason::Windows,
            with(|pod| pod["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"})),
            default(),
        ),
    ]
}

#[test]
fn every_skip_has_its_word() {
    let mut seen = BTreeSet::new();
    for (reason, pod, settings) in skipped() {
        let outcome = inject_by_own_labels(&pod, &InjectContext::default(), &settings);
        assert_eq!(outcome, InjectOutcome::Skip(reason), "{pod}");
        seen.insert(reason);
        // Where the namespace demands the sidecar, no pod gets in without it.
        let required = InjectContext { is_required: true };
        let required = inject_by_own_labels(&pod, &required, &settings);
        match required {
            InjectOutcome::Deny(denial) => {
                assert_eq!(denial.reason, DenialReason::Required);
                assert!(denial.message.contains(reason.word()), "{denial}");
            }
            other => {
                assert_eq!(reason, SkipReason::AlreadyInjected, "{other:?}");
                assert_eq!(other, outcome);
            }
        }
    }
    assert_eq!(seen, SkipReason::ALL.into_iter().collect());
}

/// Whom the API server asks is decided by the webhooks' selectors (tests/it/chart/selectors.rs): where a
/// namespace asks, a pod's own `keygate.dev/rev` must not keep the sidecar out.
#[test]
fn a_revision_counts_where_the_asking_label_is() {
    let mut pod = web();
    for labels in [
        json!({"keygate.dev/rev": "canary"}),
        json!({"keygate.dev/rev": "canary", "keygate.dev/inject": "true"}),
    ] {
        pod["metadata"]["labels"] = labels;
        injected(&pod, &InjectorSettings::default());
    }
    // Nobody has chosen, and the pod itself names another one.
    for labels in [
        json!({"keygate.dev/rev": "canary"}),
        json!({"keygate.dev/rev": "canary", "keygate.dev/inject": "true"}),
    ] {
        pod["metadata"]["labels"] = labels;
        let outcome =
            inject_by_own_labels(&pod, &InjectContext::default(), &InjectorSettings::default());
        assert_eq!(outcome, InjectOutcome::Skip(SkipReason::OtherRevision));
    }
}

/// A pod that would restart for ever is refused, with the name of what has to change.
#[test]
fn what_the_sidecar_would_not_start_with_is_denied() {
    let config = format!("{}[[routes]]\npath = \"/healthz\"\n", InjectorSettings::default().config);
    let settings = InjectorSettings { config, ..Default::default() };
    let deny = |pod: &Value, settings: &InjectorSettings| match inject(
        pod,
        &InjectContext::default(),
        settings,
    ) {
        InjectOutcome::Deny(denial) => denial.message,
        other => panic!("{other:?}"),
    };
    let skips = annotated("keygate.dev/skip-paths", "/healthz");
    let said = deny(&skips, &settings);
    assert!(
        said.starts_with("annotation keygate.dev/skip-paths: ") && said.contains("\nhint: "),
        "{said}"
    );
    injected(&annotated("keygate.dev/skip-paths", "/other"), &settings);
    // What only the namespace knows is not judged, nor whether its ConfigMap replaces everything.
    for config in ["", "[[tokens]]\naudiences = [\"${TOKEN_AUDIENCE}\"]\n"] {
        let settings = InjectorSettings { config: config.to_owned(), ..Default::default() };
        injected(&skips, &settings);
    }
    let takeover = InjectorSettings { steering: Steering::Takeover, ..Default::default() };
    let mut pod = annotated("keygate.dev/upstream-port-env", "PORT");
    for probe in [
        json!({"grpc": {"port": 8080, "service": "a b"}}),
        json!({"httpGet": {"port": 8080, "httpHeaders": [{"name": "X-A", "value": "a\nb"}]}}),
    ] {
        pod["spec"]["containers"][0]["readinessProbe"] = probe;
        let said = deny(&pod, &takeover);
        assert!(said.starts_with("container app: readinessProbe: "), "{said}");
        injected(&pod, &InjectorSettings::default());
    }
}

/// A name of operators' ports is no client's, however many there are.
#[test]
fn a_single_port_for_operators_is_not_several() {
    let mut pod = web();
    pod["spec"]["containers"][0]["ports"] = json!([{"name": "admin", "containerPort": 9000}]);
    let outcome = inject(&pod, &InjectContext::default(), &InjectorSettings::default());
    assert_eq!(outcome, InjectOutcome::Skip(SkipReason::NoUpstreamPort));
    assert!(SkipReason::NoUpstreamPort.advice().contains("names such as admin"));
}

/// Ways around the sidecar that the pod itself opens are reported, and refused where all requests
/// must pass the sidecar.
#[test]
fn ways_around_are_told_and_not_admitted_where_the_sidecar_is_required() {
    let mut pod = web();
    pod["spec"]["containers"][0]["ports"] = json!([
        {"name": "http", "containerPort": 8080, "hostPort": 80},
        {"name": "api", "containerPort": 9000},
        {"containerPort": 9001},
        {"name": "metrics", "containerPort": 9090},
        {"containerPort": 53, "protocol": "UDP"},
    ]);
    let (injection, _) = injected(&pod, &InjectorSettings::default());
    let told = injection.warnings.join("\n");
    for want in ["hostPort 80 of container app", "port 9000 (api) of", "port 9001 of container app"]
    {
        assert!(told.contains(want), "{want}: {told}");
    }
    assert!(!told.contains("9090") && !told.contains("53"), "{told}");
    let required = InjectContext { is_required: true };
    let InjectOutcome::Deny(denial) = inject(&pod, &required, &InjectorSettings::default()) else {
        panic!("it is open at the node's address");
    };
    assert_eq!(denial.reason, DenialReason::Required);
    assert!(denial.message.contains("hostPort 80"), "{denial}");
    // With takeover, the number on the node belongs to the sidecar.
    let takeover = InjectorSettings { steering: Steering::Takeover, ..Default::default() };
    pod["spec"]["containers"][0]["env"] = json!([{"name": "PORT", "value": "8080"}]);
    assert!(matches!(inject(&pod, &required, &takeover), InjectOutcome::Patch(_)));
}

#[test]
fn an_app_that_sleeps_longer_than_it_may_take_to_end_is_denied() {
    let mut pod = annotated("keygate.dev/app-prestop-sleep", "30");
    assert!(denied(&pod).contains("terminationGracePeriodSeconds, 30"));
    pod["spec"]["terminationGracePeriodSeconds"] = json!(31);
    injected(&pod, &InjectorSettings::default());
}

#[test]
fn the_sysctl_opens_low_ports() {
    let mut pod = web();
    pod["metadata"]["annotations"] =
        json!({"keygate.dev/steering": "takeover", "keygate.dev/upstream-port-env": "PORT"});
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80}]);
    pod["spec"]["securityContext"] =
        json!({"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]});
    injected(&pod, &InjectorSettings::default());
}

#[test]
fn bad_values_are_denied_with_their_name() {
    let values = |name: AnnotationName| -> &[&str] {
        match name {
            AnnotationName::AppPrestopSleep => &["", "0", "5s", "301", "-1"],
            AnnotationName::Config | AnnotationName::Table => {
                &["", "A", "a/b", "a_b", "\"", "${X}"]
            }
            AnnotationName::CpuRequest => &["", "0", "much"],
            AnnotationName::Image => &["", "a b", "a\nb", "é"],
            AnnotationName::Memory => &["", "64", "1Mi", "1GB"],
            AnnotationName::Mode => &["", "bypass", "Enforce", "off"],
            AnnotationName::NativeSidecar => &["", "yes", "True"],
            AnnotationName::OpenPorts => &["a", "0", "65536", "1,x", "+1", "01"],
            AnnotationName::PortName => &["", "UP", "a--b", "1", "abcdefghijklmnop"],
            AnnotationName::SidecarConfig => &["x"],
            AnnotationName::SkipPaths => {
                &["", "a", "/*", "/a,/a", "/a/{x},/a/{y}", "/\"", "/$x", "/\\", "/a b*", "/../a"]
            }
            AnnotationName::Status => &["{}"],
            AnnotationName::Steering => &["", "Move", "both"],
            // It only wakes the kubelet.
            AnnotationName::TableVersion => &[],
            AnnotationName::UpstreamPort => &["", "0", "65536", "HTTP", "other"],
            AnnotationName::UpstreamPortEnv => &["", "1A", "A-B"],
            AnnotationName::UpstreamProtocol => &["", "http3"],
        }
    };
    for name in AnnotationName::ALL {
        for value in values(name) {
            let said = denied(&annotated(name.name(), value));
            assert!(said.starts_with("bad_annotation: "), "{said}");
            assert!(said.contains(name.name()) && said.contains("\nhint: "), "{said}");
        }
        let mut pod = web();
        pod["metadata"]["annotations"] = json!({name.name(): true});
        assert!(denied(&pod).contains("is no text"), "{name:?}");
    }
}

#[test]
fn unknown_names_are_denied_with_the_nearest() {
    let said = denied(&annotated("keygate.dev/steerin", "move"));
    assert!(said.contains("annotation keygate.dev/steerin: there is none"), "{said}");
    assert!(said.contains("did you mean keygate.dev/steering?"), "{said}");
    let said = denied(&annotated("keygate.dev/something-else", "x"));
    assert!(said.contains("keygate.dev/ has app-prestop-sleep, config,"), "{said}");
    // We know nothing about annotations of others.
    injected(&annotated("keygate.devel/steerin", "x"), &InjectorSettings::default());
}

#[test]
fn labels_and_annotations_are_told_apart() {
    let labelled = |name: &str, value: &str| {
        let mut pod = web();
        pod["metadata"]["labels"] = json!({name: value});
        denied(&pod)
    };
    assert!(labelled("keygate.dev/mode", "observe").contains("is an annotation"));
    assert!(labelled("keygate.dev/injekt", "true").contains("did you mean keygate.dev/inject?"));
    assert!(labelled("keygate.dev/inject", "yes").contains("\"true\" or \"false\""));
    assert!(labelled("keygate.dev/require", "true").contains("is for namespaces"));
    for label in LabelName::ALL {
        assert!(denied(&annotated(label.name(), "true")).contains("is a label"), "{label:?}");
    }
}

#[test]
fn a_name_of_the_sidecars_port_is_its_own() {
    for name in ["authed", "keygate-metrics"] {
        let mut pod = web();
        let ports = pod["spec"]["containers"][0]["ports"].as_array_mut().unwrap();
        ports.push(json!({"name": name, "containerPort": 9000}));
        let said = denied(&pod);
        assert!(said.starts_with("port_conflict: container app: "), "{said}");
        assert!(said.contains(name), "{said}");
    }
}

#[test]
fn what_is_no_pod_is_denied() {
    for pod in [
        json!(null),
        json!([]),
        json!({}),
        json!({"spec": []}),
        json!({"spec": {}}),
        json!({"spec": {"containers": {}}}),
        json!({"spec": {"containers": []}}),
        json!({"spec": {"containers": [1]}}),
        json!({"spec": {"containers": [{"name": "a", "ports": [{}]}]}}),
        json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 70000}]}]}}),
        json!({"spec": {"containers": [{"name": "a", "ports": 1}]}}),
        json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "a"}]}}),
        json!({"metadata": [], "spec": {"containers": [{"name": "a"}]}}),
        json!({"metadata": {"labels": []}, "spec": {"containers": [{"name": "a"}]}}),
        json!({"metadata": {"annotations": 1}, "spec": {"containers": [{"name": "a"}]}}),
    ] {
        assert!(denied(&pod).starts_with("malformed: "), "{pod}");
    }
    let mut pod = web();
    pod["spec"]["volumes"] = json!({});
    assert!(denied(&pod).starts_with("malformed: "));
}

/// Marks that only the injector writes, on a pod without a sidecar: monitors and people would
/// believe them.
#[test]
fn a_copied_mark_is_denied() {
    let mut pod = web();
    pod["metadata"]["labels"] = json!({LabelName::Injected.name(): "default"});
    let message = denied(&pod);
    assert!(message.contains("label keygate.dev/injected: is written"), "{message}");
    let metrics = annotated(AnnotationName::PortName.name(), "keygate-metrics");
    let message = denied(&metrics);
    assert!(message.contains("port for probes"), "{message}");
}

/// A mesh's container that was there first is not the app.
#[test]
fn the_port_of_a_mesh_is_not_the_services() {
    let mut pod = web();
    pod["spec"]["containers"] = json!([
        {"name": "app", "ports": [{"containerPort": 8080}]},
        {"name": "istio-proxy", "ports": [{"name": "http-envoy-prom", "containerPort": 15090}]},
    ]);
    let (_, after) = injected(&pod, &InjectorSettings::default());
    let config = after["metadata"]["annotations"][AnnotationName::SidecarConfig.name()].as_str();
    assert!(config.unwrap().contains("url = \"http://127.0.0.1:8080\""), "{config:?}");
}
