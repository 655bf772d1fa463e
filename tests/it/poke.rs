//! `keygatectl poke` against an API server: which pods get the annotation, in how many pages, and
//! what is reported about the others.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::gate::{Folder, keygatectl};
use crate::support::kube_api::KubeApi;

const PODS: &str = "/api/v1/namespaces/shop/pods";

fn pod(name: &str, volume: Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"keygate.dev/injected": "stable", "app": name}},
        "spec": {"volumes": [{"name": "tmp", "emptyDir": {}}, volume]},
        "status": {"phase": "Running"},
    })
}

fn of_config_map() -> Value {
    json!({"name": "a", "configMap": {"name": "keygate"}})
}

fn cluster() -> KubeApi {
    let api = KubeApi::start(None);
    api.put("/api/v1/namespaces/shop/configmaps/keygate", json!({"metadata": {}, "data": {}}));
    api.put("/api/v1/namespaces/shop/secrets/keys", json!({"metadata": {}, "data": {}}));
    api
}

/// Exit code, standard output and standard error.
fn poke(api: &KubeApi, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = keygatectl(Folder::empty().path());
    command.current_dir("/").args(["poke", "--namespace", "shop", "--api-server", &api.url]);
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn version_of(api: &KubeApi, name: &str) -> Option<String> {
    let pod = api.object(&format!("{PODS}/{name}"))?;
    pod["metadata"]["annotations"]["keygate.dev/table-version"].as_str().map(str::to_owned)
}

#[test]
fn pods_that_mount_the_object_are_poked_and_no_others() {
    let api = cluster();
    let projected = |of: Value| json!({"name": "a", "projected": {"sources": [of]}});
    let mut others = vec![
        ("other-map", pod("other-map", json!({"name": "a", "configMap": {"name": "other"}}))),
        ("of-secret", pod("of-secret", json!({"name": "a", "secret": {"secretName": "keygate"}}))),
    ];
    let mut plain = pod("plain", of_config_map());
    plain["metadata"]["labels"] = json!({"app": "plain"});
    let mut over = pod("over", of_config_map());
    over["status"]["phase"] = json!("Succeeded");
    let mut ending = pod("ending", of_config_map());
    ending["metadata"]["deletionTimestamp"] = json!("2026-11-29T07:00:00Z");
    others.extend([("plain", plain), ("over", over), ("ending", ending)]);
    for (name, pod) in &others {
        api.put(&format!("{PODS}/{name}"), pod.clone());
    }
    api.put(&format!("{PODS}/mounted"), pod("mounted", of_config_map()));
    let by_projection = projected(json!({"configMap": {"name": "keygate"}}));
    api.put(&format!("{PODS}/projected"), pod("projected", by_projection));

    let (code, said, _) = poke(&api, &["--config-map", "keygate"]);
    let line = "poked 2 of 2 pods with configmaps/keygate in shop, version 1\n";
    assert_eq!((code, said.as_str()), (Some(0), line));
    for name in ["mounted", "projected"] {
        assert_eq!(version_of(&api, name).as_deref(), Some("1"), "{name}");
    }
    for (name, _) in &others {
        assert_eq!(version_of(&api, name), None, "{name}");
    }
    let (_, said, _) = poke(&api, &["--config-map", "keygate"]);
    assert!(said.ends_with("version 1; 2 had it already\n"), "{said}");

    api.put("/api/v1/namespaces/shop/configmaps/keygate", json!({"metadata": {}}));
    let (code, said, _) = poke(&api, &["--config-map", "keygate", "--selector", "app=mounted"]);
    assert_eq!(code, Some(0));
    assert!(said.starts_with("poked 1 of 1 pods"), "{said}");
    assert_ne!(version_of(&api, "mounted"), version_of(&api, "projected"));

    let by_projection = projected(json!({"secret": {"name": "keys"}}));
    api.put(&format!("{PODS}/keys"), pod("keys", by_projection));
    let (_, said, _) = poke(&api, &["--secret", "keys", "--json"]);
    let told: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(told["object"], "secrets/keys in shop");
    assert_eq!((&told["poked"], &told["failed"]), (&json!(1), &json!([])));
}

/// One answer of the API server has 500 pods.
#[test]
fn all_pages_are_read() {
    let api = cluster();
    for number in 0..1100 {
        let name = format!("web-{number:04}");
        api.put(&format!("{PODS}/{name}"), pod(&name, of_config_map()));
    }
    let (code, said, _) = poke(&api, &["--config-map", "keygate"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("poked 1100 of 1100 pods"), "{said}");
    assert!((0..1100).all(|number| version_of(&api, &format!("web-{number:04}")).is_some()));
}

#[test]
fn pods_that_were_not_poked_are_named() {
    let api = cluster();
    for name in ["a", "b", "c"] {
        api.put(&format!("{PODS}/{name}"), pod(name, of_config_map()));
    }
    api.state().faults.push((format!("PATCH {PODS}/b"), 403, 1));
    // It has ended since the list was read.
    api.state().faults.push((format!("PATCH {PODS}/c"), 404, 1));
    let (code, said, errors) = poke(&api, &["--config-map", "keygate"]);
    assert_eq!(code, Some(75), "{errors}");
    assert!(said.starts_with("poked 1 of 3 pods"), "{said}");
    for want in ["1 pods were not poked", "patch pods/b in shop: ", "`list` and `patch` on `pods`"]
    {
        assert!(errors.contains(want), "{want} is not in {errors}");
    }
    let (code, _, errors) = poke(&api, &["--config-map", "absent"]);
    assert_eq!(code, Some(66), "{errors}");
    assert!(errors.contains("get configmaps/absent in shop: there is none"), "{errors}");
    let (code, _, errors) = poke(&api, &[]);
    assert_eq!(code, Some(64), "{errors}");
    api.state().is_down = true;
    let (code, _, errors) = poke(&api, &["--config-map", "keygate"]);
    assert_eq!(code, Some(75), "{errors}");
    assert!(errors.contains("does not answer"), "{errors}");
}
