//! Our programs understand what the chart passes to them: their own command lines parse the
//! arguments, the injector's own reader the settings, and `keygate check` the configurations.

use std::fs;
use std::path::Path;

use keygate::inject::{InjectContext, InjectOutcome, InjectorSettings, inject};
use serde_json::{Value, json};

use super::objects::assert_is_of_the_api;
use super::rendered::{Rendered, containers_of, pod_of, releases, yaml};
use crate::support::gate::keygate;

/// Arguments of a container after the program's name, which its image has.
pub(super) fn command_line(container: &Value) -> Vec<String> {
    let image = container["image"].as_str().unwrap().rsplit('/').next().unwrap();
    let program = image.split([':', '@']).next().unwrap().to_owned();
    let arguments = container["args"].as_array().unwrap().iter();
    [program].into_iter().chain(arguments.map(|word| word.as_str().unwrap().to_owned())).collect()
}

/// Files that arguments name are mounted, and ports that they name are declared.
#[test]
fn arguments_name_files_and_ports_that_are_there() {
    let Some(releases) = releases() else { return };
    let mut seen = 0;
    for release in releases {
        for container in release.objects.iter().filter_map(pod_of).flat_map(containers_of) {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            let mounts: Vec<_> =
                mounts.map(|m| format!("{}/", m["mountPath"].as_str().unwrap())).collect();
            let ports = container["ports"].as_array().cloned().unwrap_or_default();
            for argument in command_line(container) {
                let value = argument.split('=').next_back().unwrap();
                if value.starts_with("/etc/") {
                    seen += 1;
                    assert!(
                        mounts.iter().any(|m| value.starts_with(&**m)),
                        "{argument}: {mounts:?}"
                    );
                }
                if let Some(port) = value.strip_prefix("0.0.0.0:") {
                    seen += 1;
                    let port: u64 = port.parse().unwrap();
                    assert!(ports.iter().any(|p| p["containerPort"] == port), "{argument}");
                }
            }
        }
    }
    assert!(seen > 50, "{seen}");
}

pub(super) fn settings_of(release: &Rendered) -> Option<(String, InjectorSettings)> {
    let maps =
        release.of_kind("ConfigMap").filter(|map| map["metadata"]["name"] == "keygate-injector");
    let text = maps.filter_map(|map| map["data"]["settings.yaml"].as_str()).next()?;
    let settings =
        InjectorSettings::parse(text).unwrap_or_else(|e| panic!("{}: {e}", release.name));
    Some((text.to_owned(), settings))
}

pub(super) fn sample_pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"keygate.dev/inject": "true"}},
        "spec": {"containers": [{"name": "app", "image": "a", "ports": [{"name": "http", "containerPort": 8080}]}]}})
}

/// `pod` after the API server has applied the patch.
pub(super) fn injected(pod: &Value, settings: &InjectorSettings) -> Option<Value> {
    let InjectOutcome::Patch(injection) = inject(pod, &InjectContext::default(), settings) else {
        return None;
    };
    let mut pod = pod.clone();
    let patch: json_patch::Patch =
        serde_json::from_value(serde_json::to_value(&injection.patch).unwrap()).unwrap();
    json_patch::patch(&mut pod, &patch).unwrap();
    Some(pod)
}

pub(super) fn container_keygate(pod: &Value) -> Value {
    containers_of(pod).find(|container| container["name"] == "keygate").unwrap().clone()
}

/// What the injector of this release puts into a pod.
pub(super) fn sidecar_of(release: &Rendered) -> Value {
    let (_, settings) = settings_of(release).unwrap();
    container_keygate(&injected(&sample_pod(), &settings).unwrap())
}

/// One source of truth: the chart's defaults are the injector's.
#[test]
fn the_charts_defaults_are_those_of_the_injector() {
    let Some(releases) = releases() else { return };
    let minimal = releases.iter().find(|release| release.name == "minimal-values.yaml").unwrap();
    let (_, given) = settings_of(minimal).unwrap();
    let mut given = serde_json::to_value(&given).unwrap();
    let mut own = serde_json::to_value(InjectorSettings::default()).unwrap();
    // What the values state.
    for settings in [&mut given, &mut own] {
        for name in ["url", "patchUrl"] {
            settings["table"][name].take();
        }
        settings["imagePullPolicy"].take();
        let config = settings["config"].as_str().unwrap().trim().to_owned();
        settings["config"] = config.into();
    }
    assert_eq!(given, own);
}

/// `helm test` checks a configuration that keygate accepts. Only the table cannot be fetched here.
#[test]
fn the_configuration_of_the_charts_test_is_taken() {
    let Some(releases) = releases() else { return };
    let maps = releases.iter().flat_map(|release| release.of_kind("ConfigMap"));
    let texts: Vec<_> = maps.filter_map(|map| map["data"]["keygate.toml"].as_str()).collect();
    assert!(!texts.is_empty());
    let folder = tempfile::tempdir().unwrap();
    // Nobody listens on a port that was just released.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for text in texts {
        let url =
            text.lines().find_map(|line| line.strip_prefix("url = \"https://")).unwrap_or_default();
        let text = text
            .replace(
                &format!("https://{}", url.trim_end_matches('"')),
                &format!("http://{nobody}/t.kgt"),
            )
            .replace("/var/lib/keygate", folder.path().to_str().unwrap())
            .replace("127.0.0.1:15080", "127.0.0.1:0");
        fs::write(folder.path().join("keygate.toml"), &text).unwrap();
        let output = keygate(folder.path()).arg("check").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(75), "{said}\n{text}");
    }
}

/// Examples and the kustomize component: the API takes them, and the injector takes their pods.
#[test]
fn examples_are_taken() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let mut pods = 0;
    for name in ["namespace", "workload", "closed"] {
        for object in yaml(&root.join(format!("examples/{name}.yaml"))) {
            assert_is_of_the_api(&object, name);
            if let Some(template) = pod_of(&object) {
                pods += 1;
                let pod = injected(template, &InjectorSettings::default()).expect("it is injected");
                let sidecar = container_keygate(&pod);
                let names: Vec<_> =
                    sidecar["ports"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
                // Where the Service of the example leads.
                let objects = yaml(&root.join(format!("examples/{name}.yaml")));
                let service = objects.iter().find(|object| object["kind"] == "Service").unwrap();
                assert!(names.contains(&&service["spec"]["ports"][0]["targetPort"]), "{names:?}");
            }
        }
    }
    assert_eq!(pods, 2);
    // The variables of the example are those that an injected pod has.
    let namespace = yaml(&root.join("examples/namespace.yaml"));
    let map = namespace.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    let pod = injected(&sample_pod(), &InjectorSettings::default()).unwrap();
    let config = pod["metadata"]["annotations"]["keygate.dev/sidecar-config"].as_str().unwrap();
    assert_eq!(map["metadata"]["name"], *InjectorSettings::default().config_map);
    for variable in map["data"].as_object().unwrap().keys() {
        assert!(config.contains(&format!("${{{variable}:-")), "{variable}: {config}");
    }

    let component = yaml(&root.join("kustomize/component/kustomization.yaml")).remove(0);
    let mut kinds = Vec::new();
    for entry in component["patches"].as_array().unwrap() {
        let patch: Value = serde_saphyr::from_str(entry["patch"].as_str().unwrap()).unwrap();
        assert_is_of_the_api_as_a_patch(&patch);
        assert_eq!(entry["target"]["kind"], patch["kind"]);
        let template = match patch["kind"].as_str().unwrap() {
            "CronJob" => &patch["spec"]["jobTemplate"]["spec"]["template"],
            _ => &patch["spec"]["template"],
        };
        assert_eq!(*template, json!({"metadata": {"labels": {"keygate.dev/inject": "true"}}}));
        kinds.push(patch["kind"].as_str().unwrap().to_owned());
    }
    assert_eq!(kinds, ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"]);
}

/// A patch has only what it changes, but its names are still the API's.
fn assert_is_of_the_api_as_a_patch(patch: &Value) {
    let version = patch["apiVersion"].as_str().unwrap();
    let kind = patch["kind"].as_str().unwrap();
    let want = if kind.ends_with("Job") { "batch/v1" } else { "apps/v1" };
    assert_eq!(version, want, "{kind}");
}
