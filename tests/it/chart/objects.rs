//! An API server accepts every object: as its stated type, without a field that the type does not
//! have. And every pod complies with "restricted".

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::api::{apps, batch, core, networking, policy, rbac};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::rendered::{NAMESPACE, chart, containers_of, helm, job, pod_of, releases, render, yaml};
use crate::support::process::run;
use crate::support::tools;

/// Reads `object` as `T` and writes it again: whatever `T` does not have is lost.
fn as_type<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, String> {
    let read: T = serde_json::from_value(object.clone()).map_err(|e| e.to_string())?;
    serde_json::to_value(read).map_err(|e| e.to_string())
}

/// As the type of its kind. Kinds of operators have no type there; their fields are compared below.
pub(super) fn typed(object: &Value) -> Result<Value, String> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let version = object["apiVersion"].as_str().unwrap_or_default();
    match (version, kind) {
        ("v1", "ConfigMap") => as_type::<core::v1::ConfigMap>(object),
        ("v1", "Namespace") => as_type::<core::v1::Namespace>(object),
        ("v1", "Pod") => as_type::<core::v1::Pod>(object),
        ("v1", "Secret") => as_type::<core::v1::Secret>(object),
        ("v1", "Service") => as_type::<core::v1::Service>(object),
        ("v1", "ServiceAccount") => as_type::<core::v1::ServiceAccount>(object),
        ("apps/v1", "DaemonSet") => as_type::<apps::v1::DaemonSet>(object),
        ("apps/v1", "Deployment") => as_type::<apps::v1::Deployment>(object),
        ("apps/v1", "StatefulSet") => as_type::<apps::v1::StatefulSet>(object),
        ("batch/v1", "CronJob") => as_type::<batch::v1::CronJob>(object),
        ("batch/v1", "Job") => as_type::<batch::v1::Job>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => {
            as_type::<networking::v1::NetworkPolicy>(object)
        }
        ("policy/v1", "PodDisruptionBudget") => as_type::<policy::v1::PodDisruptionBudget>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => as_type::<rbac::v1::ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            as_type::<rbac::v1::ClusterRoleBinding>(object)
        }
        ("rbac.authorization.k8s.io/v1", "Role") => as_type::<rbac::v1::Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => as_type::<rbac::v1::RoleBinding>(object),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration") => {
            as_type::<admission::MutatingWebhookConfiguration>(object)
        }
        ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy") => {
            as_type::<admission::MutatingAdmissionPolicy>(object)
        }
        ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicyBinding") => {
            as_type::<admission::MutatingAdmissionPolicyBinding>(object)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
            as_type::<admission::ValidatingAdmissionPolicy>(object)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            as_type::<admission::ValidatingAdmissionPolicyBinding>(object)
        }
        ("cert-manager.io/v1", "Certificate" | "Issuer")
        | ("monitoring.coreos.com/v1", "PodMonitor" | "PrometheusRule") => Ok(object.clone()),
        _ => Err(format!("{version} {kind} has no type here")),
    }
}

/// Parts of `object` that are missing in `read`. Empty maps and lists count as absent.
fn lost(object: &Value, read: &Value, at: &str, found: &mut Vec<String>) {
    match (object, read) {
        (Value::Object(fields), _) => {
            for (name, value) in fields {
                let is_empty = value.is_null()
                    || value.as_object().is_some_and(serde_json::Map::is_empty)
                    || value.as_array().is_some_and(Vec::is_empty);
                match read.get(name) {
                    Some(read) => lost(value, read, &format!("{at}.{name}"), found),
                    None if is_empty => {}
                    None => found.push(format!("{at}.{name}")),
                }
            }
        }
        (Value::Array(items), Value::Array(read)) => {
            for (index, item) in items.iter().enumerate() {
                let read = read.get(index).unwrap_or(&Value::Null);
                lost(item, read, &format!("{at}[{index}]"), found);
            }
        }
        _ if object == read || object.as_f64().is_some_and(|n| Some(n) == read.as_f64()) => {}
        _ => found.push(format!("{at}: {object} became {read}")),
    }
}

pub(super) fn assert_is_of_the_api(object: &Value, of: &str) {
    let name = format!("{of}: {} {}", object["kind"], object["metadata"]["name"]);
    let read = typed(object).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut found = Vec::new();
    lost(object, &read, "", &mut found);
    assert!(found.is_empty(), "{name}: the API has no {found:?}");
}

#[test]
fn every_object_is_of_its_type() {
    let Some(releases) = releases() else { return };
    for release in releases {
        let mut names = BTreeSet::new();
        for object in &release.objects {
            assert_is_of_the_api(object, &release.name);
            let (kind, metadata) = (&object["kind"], &object["metadata"]);
            let name = format!("{kind} {}", metadata["name"]);
            assert!(names.insert(name.clone()), "{}: two of {name}", release.name);
            let of_cluster = metadata["namespace"].is_null();
            let is_clusters = ["Cluster", "Mutating", "Validating"];
            let is_clusters =
                is_clusters.iter().any(|word| kind.as_str().unwrap().starts_with(word));
            assert_eq!(of_cluster, is_clusters, "{}: {name}", release.name);
            assert!(of_cluster || metadata["namespace"] == NAMESPACE);
        }
    }
}

#[test]
fn a_field_that_the_api_does_not_have_is_found() {
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
        "spec": {"ports": [{"port": 1, "targetport": 2}], "selector": {}}});
    let mut found = Vec::new();
    lost(&object, &typed(&object).unwrap(), "", &mut found);
    assert_eq!(found, [".spec.ports[0].targetport"]);
}

#[test]
fn the_chart_passes_lint() {
    let Some(said) = helm("lint", &[], "") else { return };
    let said: Value = serde_json::from_str(&said).unwrap();
    let messages = said["Messages"].as_array().unwrap();
    // 1 is a remark: there is no icon.
    assert!(messages.iter().all(|message| message["Severity"].as_u64() < Some(2)), "{said:#}");
    assert_eq!(said["TotalChartsLinted"], 1);
}

/// Pod Security "restricted" of the chart's own pods, a read-only root, and requests for every container.
#[test]
fn pods_keep_restricted() {
    let Some(releases) = releases() else { return };
    let mut seen = 0;
    for release in releases {
        for pod in release.objects.iter().filter_map(pod_of) {
            let all = &pod["spec"]["securityContext"];
            assert_eq!(all["runAsNonRoot"], true);
            assert_eq!(all["seccompProfile"]["type"], "RuntimeDefault");
            for forbidden in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(pod["spec"][forbidden].is_null());
            }
            for container in containers_of(pod) {
                seen += 1;
                let own = &container["securityContext"];
                assert_eq!(own["allowPrivilegeEscalation"], false);
                assert_eq!(own["capabilities"]["drop"], json!(["ALL"]));
                assert_eq!(own["readOnlyRootFilesystem"], true);
                assert!(container["resources"]["requests"]["memory"].is_string());
                assert!(container["resources"]["limits"]["memory"].is_string());
                assert!(container["resources"]["limits"]["cpu"].is_null(), "slows requests down");
            }
            for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
                let allowed = ["configMap", "secret", "emptyDir", "projected", "name"];
                let mut fields = volume.as_object().unwrap().keys();
                assert!(fields.all(|field| allowed.contains(&&**field)), "{volume}");
            }
        }
    }
    assert!(seen > 10);
}

/// With the programs' own version, or by digest.
#[test]
fn every_image_is_by_digest_or_version() {
    let Some(releases) = releases() else { return };
    for release in releases {
        let given = |program: &str, field: &str| match program {
            "keygate" => release.values["sidecar"]["image"][field].as_str(),
            _ => release.values["image"][field].as_str(),
        };
        let settings =
            release.of_kind("ConfigMap").filter_map(|map| map["data"]["settings.yaml"].as_str());
        let settings = settings.map(|text| {
            let settings: Value = serde_saphyr::from_str(text).unwrap();
            settings["image"].as_str().unwrap().to_owned()
        });
        let pods = release.objects.iter().filter_map(pod_of);
        let images = pods.flat_map(containers_of).map(|c| c["image"].as_str().unwrap().to_owned());
        for image in images.chain(settings) {
            let name = image.rsplit('/').next().unwrap();
            let program = name.split([':', '@']).next().unwrap();
            let tag = given(program, "tag").unwrap_or(env!("CARGO_PKG_VERSION"));
            let want = match given(program, "digest") {
                Some(digest) => format!("{program}@{digest}"),
                None => format!("{program}:{tag}"),
            };
            assert_eq!(name, want, "{}", release.name);
        }
    }
}

#[test]
fn the_chart_is_of_this_version() {
    let about = yaml(&chart().join("Chart.yaml")).remove(0);
    assert_eq!(about["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(about["kubeVersion"], ">=1.29.0-0");
    let annotations = &about["annotations"];
    assert_eq!(annotations["artifacthub.io/license"], env!("CARGO_PKG_LICENSE"));
    for list in ["artifacthub.io/changes", "artifacthub.io/images"] {
        let items: Value = serde_saphyr::from_str(annotations[list].as_str().unwrap()).unwrap();
        assert!(items.as_array().is_some_and(|items| items.len() > 1), "{list}");
    }
    let images: Vec<Value> =
        serde_saphyr::from_str(annotations["artifacthub.io/images"].as_str().unwrap()).unwrap();
    for image in images {
        let text = image["image"].as_str().unwrap();
        assert!(text.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{text}");
    }
}

#[test]
fn older_clusters_are_refused_with_the_reason() {
    let url = json!({"table": {"url": "https://keys.example/t"}});
    let mut old = job("keygate", &url);
    old["kubernetes"] = json!("v1.28.9");
    let mut no_policy =
        job("keygate", &json!({"table": url["table"], "require": {"enabled": true}}));
    no_policy["kubernetes"] = json!("v1.29.3");
    let mut plain = job("keygate", &url);
    plain["kubernetes"] = json!("v1.29.3");
    let Some(answers) = render(&[old, no_policy, plain]) else { return };
    let said = |at: usize| answers[at].as_ref().err().cloned().unwrap_or_default();
    assert!(said(0).contains("kubeVersion"), "{}", said(0));
    assert!(
        said(1).contains("require.enabled: ValidatingAdmissionPolicy needs Kubernetes 1.30"),
        "{}",
        said(1)
    );
    assert!(answers[2].is_ok(), "{}", said(2));
}

/// The complete alert rules and dashboard of deploy/, also in the archive, where links are files.
#[test]
fn monitoring_is_what_deploy_has() {
    let Some(releases) = releases() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let board = |name| fs::read_to_string(root.join("deploy/grafana").join(name)).unwrap();
    let (dashboard, around) = (board("keygate.json"), board("keygate-around.json"));
    let full = releases.iter().find(|release| release.name == "full-values.yaml").unwrap();
    let rule = full.of_kind("PrometheusRule").next().unwrap();
    let alerts = yaml(&root.join("deploy/prometheus/alerts.yml")).remove(0);
    assert_eq!(rule["spec"], alerts);
    let boards: Vec<_> = full
        .of_kind("ConfigMap")
        .filter(|map| map["metadata"]["labels"]["grafana_dashboard"] == "1")
        .collect();
    assert_eq!(boards.len(), 1);
    for (name, text) in [("keygate.json", &dashboard), ("keygate-around.json", &around)] {
        assert_eq!(boards[0]["data"][name].as_str().unwrap().trim(), text.trim());
    }

    let folder = tempfile::tempdir().unwrap();
    let archive = helm("package", &[folder.path().to_str().unwrap()], "").unwrap();
    let archive: String = serde_json::from_str(&archive).unwrap();
    run(tools::command("tar").args(["-xzf", &archive, "-C"]).arg(folder.path()));
    let packed = folder.path().join("keygate/files");
    for (file, from) in [
        ("dashboard.json", "grafana/keygate.json"),
        ("dashboard-around.json", "grafana/keygate-around.json"),
        ("alerts.yml", "prometheus/alerts.yml"),
    ] {
        let packed = packed.join(file);
        assert!(packed.symlink_metadata().unwrap().is_file(), "{file} is a link in the archive");
        assert_eq!(fs::read(packed).unwrap(), fs::read(root.join("deploy").join(from)).unwrap());
    }
    assert!(!folder.path().join("keygate/ci").exists());
}

/// PodMonitors name ports that the pods have, by names that nothing else uses.
#[test]
fn pods_are_scraped_by_a_port_that_they_have() {
    let Some(releases) = releases() else { return };
    let full = releases.iter().find(|release| release.name == "full-values.yaml").unwrap();
    let monitors: Vec<_> = full.of_kind("PodMonitor").collect();
    assert_eq!(monitors.len(), 2);
    let port = |monitor: &Value| {
        monitor["spec"]["podMetricsEndpoints"][0]["port"].as_str().unwrap().to_owned()
    };
    let sidecar = super::programs::sidecar_of(full);
    let declared = sidecar["ports"].as_array().unwrap();
    assert!(declared.iter().any(|declared| declared["name"] == port(monitors[0])), "{declared:?}");
    for pod in
        full.objects.iter().filter(|object| object["kind"] == "Deployment").filter_map(pod_of)
    {
        let labels = &pod["metadata"]["labels"];
        let wanted = monitors[1]["spec"]["selector"]["matchLabels"].as_object().unwrap();
        assert!(wanted.iter().all(|(name, value)| labels[name] == *value), "{labels}");
        let ports =
            containers_of(pod).flat_map(|c| c["ports"].as_array().cloned().unwrap_or_default());
        assert!(ports.into_iter().any(|declared| declared["name"] == port(monitors[1])));
    }
}
