//! Policies that the API server evaluates itself, applied to recorded requests.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use keygate::inject::{InjectorSettings, Steering};
use serde_json::{Value, json};

use super::objects::assert_is_of_the_api;
use super::programs::{container_keygate, injected};
use super::rendered::{NAMESPACE, helm, job, releases, render, yaml};
use crate::support::tools;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// Pods of AdmissionReviews, by the name of their file.
fn recorded() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/k8s/admission-reviews");
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 22);
    let pod = |file: &PathBuf| {
        let review: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        (
            file.file_stem().unwrap().to_str().unwrap().to_owned(),
            review["request"]["object"].clone(),
        )
    };
    files.iter().map(pod).collect()
}

/// What tests/it/py/cel.py makes of each request.
fn evaluate(policy: &Value, params: &Value, requests: &[Value]) -> Option<Vec<Value>> {
    let python = tools::helm()?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/py/cel.py");
    let mut python = std::process::Command::new(python.get_program());
    let mut child = python
        .arg(script)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let asked = json!({"policy": policy, "params": params, "requests": requests}).to_string();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(asked.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn creation(object: &Value) -> Value {
    json!({"operation": "CREATE", "namespace": "orders", "object": object})
}

/// The injecting policy makes of every recorded pod what the webhook makes with `unique`, except
/// for the configuration, which it takes from a ConfigMap.
#[test]
fn the_policy_injects_what_the_webhook_injects() {
    let documents = yaml(&deploy("policy/inject.yaml"));
    for object in &documents {
        assert_is_of_the_api(object, "policy/inject.yaml");
    }
    let pods = recorded();
    let requests: Vec<_> = pods.iter().map(|(_, pod)| creation(pod)).collect();
    let params = documents.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    let Some(answers) = evaluate(&documents[0], params, &requests) else { return };
    let settings = InjectorSettings { steering: Steering::Unique, ..InjectorSettings::default() };
    let mut same = 0;
    for ((name, pod), answer) in pods.iter().zip(answers) {
        let by_webhook = injected(pod, &settings);
        if answer["matches"] == false {
            // The webhook continues counting to a free port.
            let is_taken = answer["unmet"] == "ports-are-free";
            assert!(is_taken || by_webhook.is_none(), "{name}: {}", answer["unmet"]);
            continue;
        }
        let mut by_policy = pod.clone();
        let patch: json_patch::Patch = serde_json::from_value(answer["patch"].clone()).unwrap();
        json_patch::patch(&mut by_policy, &patch).unwrap();
        assert_is_of_the_api(&by_policy, name);
        assert!(by_policy["metadata"]["labels"]["keygate.dev/injected"].is_string());
        // Without a port there is nothing that the webhook could stand in front of. The policy
        // requires less.
        let Some(by_webhook) = by_webhook else { continue };
        same += 1;
        let mut ours = container_keygate(&by_policy);
        let theirs = container_keygate(&by_webhook);
        assert_eq!(ours["resources"].take(), theirs["resources"], "{name}");
        ours["resources"] = theirs["resources"].clone();
        assert_eq!(ours, theirs, "{name}");
        let last = by_policy["spec"]["initContainers"].as_array().unwrap().last().unwrap();
        assert_eq!(last["name"], "keygate", "{name}: right before the app");
        for volume in ["keygate-signers", "keygate-state", "keygate-no-token"] {
            let of = |pod: &Value| {
                let volumes = pod["spec"]["volumes"].as_array().unwrap();
                volumes.iter().find(|v| v["name"] == volume).unwrap_or(&Value::Null).clone()
            };
            assert_eq!(of(&by_policy), of(&by_webhook), "{name}: {volume}");
        }
        // The app is unchanged.
        assert_eq!(by_policy["spec"]["containers"], pod["spec"]["containers"], "{name}");
    }
    assert!(same > 12, "{same}");
}

/// No pod without the sidecar: what the webhook makes is admitted, and whatever only resembles it
/// is not.
#[test]
fn the_policy_lets_injected_pods_in_and_no_others() {
    let Some(releases) = releases() else { return };
    let full = releases.iter().find(|release| release.name == "full-values.yaml").unwrap();
    let policy = full.of_kind("ValidatingAdmissionPolicy").next().unwrap();
    let image = "registry.example:5000/keygate/keygate@sha256:1";
    let mirror = "registry.example/mirror/keygate:0.1.0";
    let mut requests = Vec::new();
    let mut expected: Vec<&[&str]> = Vec::new();
    let mut ask = |request: Value, failures: &'static [&'static str]| {
        requests.push(request);
        expected.push(failures);
    };
    let no_sidecar: &[&str] =
        &["no keygate sidecar: the namespace orders", "label keygate.dev/injected"];
    for (_, pod) in recorded() {
        ask(creation(&pod), no_sidecar);
        for (image, native) in [(image, true), (image, false), (mirror, true)] {
            let settings = InjectorSettings {
                image: image.into(),
                native_sidecar: native,
                ..InjectorSettings::default()
            };
            let Some(pod) = injected(&pod, &settings) else { continue };
            ask(creation(&pod), &[]);
        }
    }
    let settings = InjectorSettings { image: image.into(), ..InjectorSettings::default() };
    let (_, pod) = recorded().into_iter().find(|(name, _)| name == "deploy-named-port").unwrap();
    let good = injected(&pod, &settings).unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut pod = good.clone();
        change(&mut pod);
        pod
    };
    for other in [
        "evil:1",
        "registry.example:5000/keygate/keygate2:1",
        "x/registry.example/mirror/keygate:1",
        "keygate:0.1.0",
    ] {
        let bad = changed(&|pod| pod["spec"]["initContainers"][0]["image"] = json!(other));
        ask(creation(&bad), &["the image of the container keygate is not the sidecar's"]);
    }
    let ends = changed(&|pod| {
        pod["spec"]["initContainers"][0].as_object_mut().unwrap().remove("restartPolicy");
    });
    ask(creation(&ends), &["no keygate sidecar"]);
    let unlabelled = changed(&|pod| {
        pod["metadata"]["labels"].as_object_mut().unwrap().remove("keygate.dev/injected");
    });
    ask(creation(&unlabelled), &["label keygate.dev/injected"]);
    // A pod from before: it may end, but its images may not change into something else.
    let update = |old: &Value, new: &Value| json!({"operation": "UPDATE", "namespace": "orders", "object": new, "oldObject": old});
    let mut released = pod.clone();
    released["metadata"]["finalizers"] = json!([]);
    ask(update(&pod, &released), &[]);
    let swapped = changed(&|pod| pod["spec"]["initContainers"][0]["image"] = json!("evil:1"));
    ask(update(&good, &swapped), &["the image of the container keygate"]);
    ask(update(&good, &changed(&|pod| pod["metadata"]["labels"]["a"] = json!("b"))), &[]);

    let answers = evaluate(policy, &Value::Null, &requests).unwrap();
    for ((request, answer), expected) in requests.iter().zip(answers).zip(expected) {
        let failures = answer["failures"].as_array().cloned().unwrap_or_default();
        assert_eq!(
            failures.len(),
            expected.len(),
            "{failures:?}: {}",
            request["object"]["metadata"]
        );
        for (said, want) in failures.iter().zip(expected) {
            assert!(said.as_str().unwrap().contains(want), "{said}");
        }
    }
}

/// A registry may have the name of the sidecar's repository, and its port looks like a tag.
#[test]
fn no_registry_passes_for_the_repository() {
    let policy = yaml(&deploy("policy/require.yaml")).remove(0);
    let (_, pod) = recorded().into_iter().find(|(name, _)| name == "deploy-named-port").unwrap();
    let images = [
        ("keygate:0.1.0", true),
        ("keygate:0.1.0@sha256:1", true),
        ("keygate@sha256:1", true),
        ("keygate:5000/evil", false),
        ("keygate:5000/evil:0.1.0", false),
        ("keygate:5000/keygate@sha256:1", false),
        ("keygate", false),
    ];
    let requests = images.iter().map(|(image, _)| {
        let settings = InjectorSettings { image: (*image).into(), ..InjectorSettings::default() };
        creation(&injected(&pod, &settings).unwrap())
    });
    let Some(answers) = evaluate(&policy, &Value::Null, &requests.collect::<Vec<_>>()) else {
        return;
    };
    for ((image, is_ours), answer) in images.iter().zip(answers) {
        let failures = answer["failures"].as_array().cloned().unwrap_or_default();
        assert_eq!(failures.is_empty(), *is_ours, "{image}: {failures:?}");
    }
}

/// deploy/policy/require.yaml is what the chart makes, under another name.
#[test]
fn the_plain_policy_is_the_charts() {
    let values = json!({"table": {"url": "https://keys.example/t"}, "require": {"enabled": true}});
    let Some(answers) = render(&[job("keygate", &values)]) else { return };
    let objects = answers.into_iter().next().unwrap().unwrap().objects;
    let plain = yaml(&deploy("policy/require.yaml"));
    assert_eq!(plain.len(), 2);
    for object in plain {
        assert_is_of_the_api(&object, "policy/require.yaml");
        let of_chart = objects.iter().find(|other| other["kind"] == object["kind"]).unwrap();
        let (mut ours, mut theirs) = (object["spec"].clone(), of_chart["spec"].clone());
        for spec in [&mut ours, &mut theirs] {
            if let Some(spec) = spec.as_object_mut() {
                spec.remove("policyName");
            }
        }
        assert_eq!(ours, theirs);
    }
}

/// deploy/kustomize/base is the chart's injector too: `KEYGATE_WRITE_KUSTOMIZE=1` writes it again.
#[test]
fn the_kustomize_base_is_the_charts() {
    let values = json!({"table": {"url": "http://unused"}, "tests": {"enabled": false}});
    let jobs = Value::from(vec![job("keygate", &values)]);
    let Some(text) = helm("plain", &[], &jobs.to_string()) else { return };
    let file = deploy("kustomize/base/injector.yaml");
    if std::env::var_os("KEYGATE_WRITE_KUSTOMIZE").is_some() {
        fs::write(&file, &text).unwrap();
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    let base = yaml(&deploy("kustomize/base/kustomization.yaml")).remove(0);
    assert_eq!(base["namespace"], NAMESPACE);
    let listed = base["resources"].as_array().unwrap();
    for resource in listed {
        for object in yaml(&deploy("kustomize/base").join(resource.as_str().unwrap())) {
            assert_is_of_the_api(&object, "kustomize");
        }
    }
    // kustomize makes the ConfigMap, under the name that the Deployment mounts.
    let generated = &base["configMapGenerator"][0];
    assert_eq!(*generated, json!({"name": "keygate-injector", "files": ["settings.yaml"]}));
    assert!(text.contains("configMap:\n          name: keygate-injector\n"), "{text}");
    let settings = fs::read_to_string(deploy("kustomize/base/settings.yaml")).unwrap();
    InjectorSettings::parse(&settings).unwrap();
}
