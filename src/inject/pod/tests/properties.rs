//! Properties of every generated pod.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{config_of, injected, patched, restricted_faults, sidecar_of, undone, without_empty};
use crate::inject::pod::names::is_port_name;
use crate::inject::pod::outcome::InjectOutcome;
use crate::inject::pod::settings::{InjectorSettings, Steering};
use crate::inject::pod::status::InjectStatus;
use crate::inject::pod::{InjectContext, inject};

const RESTRICTED: &str = "restricted";

fn port_name() -> impl Strategy<Value = Option<String>> {
    let common = prop::sample::select(vec!["http", "web", "up-http", "metrics", "grpc", "a"]);
    prop_oneof![
        Just(None),
        common.prop_map(|name| Some(name.to_owned())),
        "[a-z][a-z0-9]{0,6}-[a-z0-9]{1,7}".prop_map(Some),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let number = prop_oneof![Just(8080u16), Just(15080), Just(15020), 1u16..];
    let protocol = prop::sample::select(vec![None, Some("TCP"), Some("TCP"), Some("UDP")]);
    (port_name(), number, protocol).prop_map(|(name, number, protocol)| {
        let mut port = json!({"containerPort": number});
        if let Some(name) = name {
            port["name"] = json!(name);
        }
        if let Some(protocol) = protocol {
            port["protocol"] = json!(protocol);
        }
        port
    })
}

/// A probe or hook at one of the container's ports, by name or by number.
fn action(at: usize, kind: usize) -> impl Fn(&[Value]) -> Option<Value> {
    move |ports: &[Value]| {
        let port = ports.get(at % ports.len().max(1))?;
        let number = &port["containerPort"];
        let by_name = port.get("name").filter(|_| at.is_multiple_of(2)).unwrap_or(number);
        Some(match kind % 4 {
            0 => json!({"httpGet": {"path": "/live/é", "port": by_name}}),
            1 => json!({"tcpSocket": {"port": by_name}}),
            2 => json!({"grpc": {"port": number}}),
            _ => json!({"exec": {"command": ["true"]}}),
        })
    }
}

fn container(name: &'static str) -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-Z]{1,4}", "[a-z0-9$~/é]{0,8}", 0..3);
    let extra = prop::option::of(0usize..4);
    (
        prop::option::of(prop::collection::vec(port(), 0..4)),
        prop::collection::vec((0usize..8, 0usize..4), 4),
        prop::option::of(env),
        extra,
        any::<bool>(),
    )
        .prop_map(move |(ports, actions, env, extra, tells_port)| {
            let mut container = json!({"name": name, "image": "example.test/app:1"});
            let mut list = ports.clone().unwrap_or_default();
            // A name occurs once in a container.
            let mut names = BTreeSet::new();
            for port in &mut list {
                let is_new = port
                    .get("name")
                    .and_then(Value::as_str)
                    .is_none_or(|n| names.insert(n.to_owned()));
                if !is_new {
                    port.as_object_mut().unwrap().remove("name");
                }
            }
            let probes = ["livenessProbe", "readinessProbe", "startupProbe"];
            for (probe, (at, kind)) in probes.iter().zip(&actions) {
                if let Some(action) = action(*at, *kind)(&list) {
                    container[*probe] = action;
                }
            }
            if let (Some(extra), Some((at, kind))) = (extra, actions.last())
                && let Some(hook) = action(*at, extra.min(*kind) % 2)(&list)
            {
                container["lifecycle"] = json!({"preStop": hook});
            }
            if ports.is_some() {
                container["ports"] = json!(list);
            }
            if let Some(env) = env {
                let mut env: Vec<_> = env
                    .into_iter()
                    .map(|(name, value)| json!({"name": name, "value": value}))
                    .collect();
                if let Some(port) = list.first().filter(|_| tells_port) {
                    env.push(json!({"name": "PORT", "value": port["containerPort"].to_string()}));
                }
                container["env"] = json!(env);
            }
            container["securityContext"] = json!({
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
                "runAsNonRoot": true,
                "seccompProfile": {"type": "RuntimeDefault"},
            });
            container
        })
}

fn texts() -> impl Strategy<Value = Option<Map<String, Value>>> {
    let name = "[a-z]{1,5}(/[a-z~]{1,5})?";
    let map = prop::collection::btree_map(name, ".{0,12}", 0..3);
    prop::option::of(
        map.prop_map(|map| map.into_iter().map(|(name, value)| (name, json!(value))).collect()),
    )
}

prop_compose! {
    fn pod()(
        labels in texts(),
        annotations in texts(),
        app in container("app"),
        side in prop::option::of(container("side")),
        init in prop::option::of(container("init")),
        init_restarts in any::<bool>(),
        volumes in prop::option::of(prop::collection::vec("(data|keygate-state|cfg)", 0..2)),
        grace in prop::option::of(0u64..120),
        has_metadata in any::<bool>(),
    ) -> Value {
        let mut pod = json!({"spec": {"containers": [app]}});
        if has_metadata || labels.is_some() || annotations.is_some() {
            pod["metadata"] = json!({"generateName": "web-"});
        }
        if let Some(labels) = labels {
            pod["metadata"]["labels"] = Value::Object(labels);
        }
        if let Some(annotations) = annotations {
            pod["metadata"]["annotations"] = Value::Object(annotations);
        }
        if let Some(side) = side {
            pod["spec"]["containers"].as_array_mut().unwrap().push(side);
        }
        if let Some(mut init) = init {
            if init_restarts {
                init["restartPolicy"] = json!("Always");
            }
            pod["spec"]["initContainers"] = json!([init]);
        }
        if let Some(names) = volumes {
            let names: BTreeSet<_> = names.into_iter().collect();
            let volumes: Vec<_> =
                names.iter().map(|name| json!({"name": name, "emptyDir": {}})).collect();
            pod["spec"]["volumes"] = json!(volumes);
        }
        if let Some(grace) = grace {
            pod["spec"]["terminationGracePeriodSeconds"] = json!(grace);
        }
        pod["metadata"]["name"] = json!(RESTRICTED);
        if !has_metadata && pod["metadata"].as_object().is_some_and(|m| m.len() == 1) {
            pod.as_object_mut().unwrap().remove("metadata");
        }
        pod
    }
}

fn settings() -> impl Strategy<Value = InjectorSettings> {
    let steering = prop::sample::select(vec![Steering::Move, Steering::Unique, Steering::Takeover]);
    (steering, any::<bool>(), any::<bool>()).prop_map(|(steering, native_sidecar, told)| {
        InjectorSettings {
            steering,
            native_sidecar,
            upstream_port_env: told.then(|| "APP_PORT".to_owned()),
            ..InjectorSettings::default()
        }
    })
}

/// Names of ports with the containers that have them.
fn port_names(pod: &Value) -> Vec<(String, String)> {
    names_where(pod, |_| true)
}

fn tcp_names(pod: &Value) -> Vec<(String, String)> {
    names_where(pod, |port| port.get("protocol").is_none_or(|protocol| protocol == "TCP"))
}

fn names_where(pod: &Value, holds: impl Fn(&Value) -> bool) -> Vec<(String, String)> {
    all(pod)
        .flat_map(|container| {
            let name = container["name"].as_str().unwrap().to_owned();
            let ports = container["ports"].as_array().cloned().unwrap_or_default();
            let wanted: Vec<_> = ports.into_iter().filter(&holds).collect();
            wanted.into_iter().filter_map(move |port| {
                Some((name.clone(), port.get("name")?.as_str()?.to_owned()))
            })
        })
        .collect()
}

fn all(pod: &Value) -> impl Iterator<Item = &Value> {
    ["containers", "initContainers"]
        .into_iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
}

/// What the kubelet calls, by name.
fn called(container: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![container];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(members) => {
                let is_action = members.contains_key("port");
                found.extend(
                    members
                        .get("port")
                        .filter(|_| is_action)
                        .and_then(Value::as_str)
                        .map(str::to_owned),
                );
                open.extend(members.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_injected_pod_holds_what_was_promised(pod in pod(), settings in settings()) {
        let outcome = inject(&pod, &InjectContext::default(), &settings);
        let InjectOutcome::Patch(injection) = &outcome else { return Ok(()) };
        prop_assert_eq!(&outcome, &inject(&pod, &InjectContext::default(), &settings));
        let after = patched(&pod, &injection.patch);

        // Another run changes nothing, and undoing restores the same pod.
        let again = inject(&after, &InjectContext::default(), &settings);
        prop_assert!(matches!(again, InjectOutcome::Skip(_)), "{:?}", again);
        prop_assert_eq!(without_empty(&undone(&after)), without_empty(&pod));

        // Ports: valid names, and those of the sidecar are used nowhere else.
        let before = port_names(&pod);
        let names = port_names(&after);
        for (_, name) in &names {
            prop_assert!(is_port_name(name), "{}", name);
        }
        let on_tcp = tcp_names(&after);
        for (_, name) in on_tcp.iter().filter(|(container, _)| container == "keygate") {
            let holders: Vec<_> = on_tcp.iter().filter(|(_, n)| n == name).collect();
            prop_assert_eq!(holders.len(), 1, "{:?}", holders);
        }
        let doubled = |names: &[(String, String)]| {
            names.len() - names.iter().map(|(_, name)| name).collect::<BTreeSet<_>>().len()
        };
        prop_assert!(doubled(&names) <= doubled(&before), "{:?} {:?}", before, names);
        let numbers: BTreeSet<_> = sidecar_of(&after)["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| port["containerPort"].as_u64().unwrap())
            .collect();
        for container in all(&after).filter(|container| container["name"] != "keygate") {
            for port in container["ports"].as_array().into_iter().flatten() {
                let is_tcp = port.get("protocol").is_none_or(|p| p == "TCP");
                let number = port["containerPort"].as_u64().unwrap();
                prop_assert!(!is_tcp || !numbers.contains(&number), "{} is bound twice", number);
            }
            // No probe still points at a name that is gone.
            let own: Vec<_> =
                names.iter().filter(|(c, _)| container["name"] == **c).map(|(_, n)| n).collect();
            for name in called(container) {
                prop_assert!(own.contains(&&name), "{} calls {}", container, name);
            }
        }

        // Nothing else is changed: only what the status says differs.
        let status = after["metadata"]["annotations"]["keygate.dev/status"].as_str().unwrap();
        let status = InjectStatus::read(status).unwrap();
        for (was, now) in all(&pod).zip(all(&after).filter(|c| c["name"] != "keygate")) {
            let ours = status.changes.iter().filter(|change| was["name"] == *change.container);
            let mut places: BTreeSet<_> =
                ours.filter_map(|change| change.at.split('/').nth(1)).collect();
            places.retain(|place| ["ports", "env", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"].contains(place));
            for (name, value) in was.as_object().unwrap() {
                prop_assert!(places.contains(name.as_str()) || now[name] == *value, "{}", name);
            }
        }
        prop_assert_eq!(restricted_faults(&after), restricted_faults(&pod));
        config_of(&after);
    }

    #[test]
    fn no_json_makes_it_panic(text in "[\\[\\]{}\",:a-z0-9 ]{0,60}", name in "(metadata|spec|containers|ports)") {
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            for pod in [value.clone(), json!({"spec": value}), json!({"metadata": value, "spec": {}}),
                json!({"spec": {"containers": [{"name": "a", "ports": value}], name: value}})] {
                inject(&pod, &InjectContext::default(), &InjectorSettings::default());
            }
        }
    }
}

#[test]
fn pods_are_injected_at_all() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut counts = [0; 3];
    for _ in 0..400 {
        let pod = pod().new_tree(&mut runner).unwrap().current();
        let settings = settings().new_tree(&mut runner).unwrap().current();
        let outcome = inject(&pod, &InjectContext::default(), &settings);
        if matches!(outcome, InjectOutcome::Patch(_)) {
            counts[settings.steering as usize] += 1;
            injected(&pod, &settings);
        }
    }
    assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
}
