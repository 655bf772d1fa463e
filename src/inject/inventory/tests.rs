//! The inventory of a small cluster, before and after its pods have the sidecar.

use serde_json::{Value, json};

use super::policies::{PolicyCover, cover};
use super::{InventoryFinding, InventoryRow, inventory};
use crate::inject::pod::settings::{InjectorSettings, Steering};
use crate::inject::stream::{StreamOptions, inject_stream, values};

const CLUSTER: &str = include_str!("../../../tests/data/k8s/inventory.yaml");

fn rows(text: &str, settings: &InjectorSettings) -> Vec<InventoryRow> {
    inventory(&values(text).unwrap(), settings)
}

fn found(rows: &[InventoryRow], finding: InventoryFinding) -> Vec<String> {
    let found = rows.iter().filter(|row| row.finding == finding);
    found.map(|row| format!("{}/{}", row.namespace, row.object)).collect()
}

#[test]
fn three_traps_among_ten_services() {
    let rows = rows(CLUSTER, &InjectorSettings::default());
    use InventoryFinding as F;
    assert_eq!(found(&rows, F::Bypass), ["shop/svc/by-number", "shop/svc/by-port"]);
    assert_eq!(found(&rows, F::Headless), ["data/svc/headless"]);
    assert_eq!(found(&rows, F::Gate), ["shop/svc/by-name", "shop/svc/closed"]);
    assert_eq!(found(&rows, F::OtherPort), ["shop/svc/metrics"]);
    assert_eq!(found(&rows, F::NoEndpoint), ["shop/svc/typo"]);
    assert_eq!(found(&rows, F::NoPods), ["shop/svc/nobody"]);
    assert_eq!(found(&rows, F::Skipped), ["data/pod/agent", "data/svc/node"]);
    assert_eq!(found(&rows, F::Injectable), ["data/pod/store-0", "shop/rs/web-5f6c"]);
    assert_eq!(rows.iter().filter(|row| row.finding.is_hole()).count(), 3);
    let web = rows.iter().find(|row| row.object == "rs/web-5f6c").unwrap();
    assert_eq!((web.pods, web.injected, web.detail.as_str()), (2, false, "move http->15080"));
}

/// A label with a typing error: no injector feels responsible, and the pod starts without a
/// sidecar.
#[test]
fn a_pod_whose_injector_has_not_answered_is_a_hole() {
    let pod = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  labels: {{keygate.dev/inject: \
             \"true\", keygate.dev/rev: canry}}\nspec:\n{spec}  containers:\n  - {{name: app, image: a, \
             ports: [{{containerPort: 80}}]}}\n"
        )
    };
    let runs = &rows(&pod("  nodeName: node-1\n"), &InjectorSettings::default())[0];
    assert!(runs.finding == InventoryFinding::Unanswered && runs.finding.is_hole());
    assert!(runs.detail.ends_with("keygate.dev/rev=canry"), "{}", runs.detail);
    let template = &rows(&pod(""), &InjectorSettings::default())[0];
    assert_eq!(template.finding, InventoryFinding::Skipped);
}

#[test]
fn steering_decides_who_goes_past() {
    let unique = InjectorSettings { steering: Steering::Unique, ..Default::default() };
    let rows = rows(CLUSTER, &unique);
    let bypass = ["shop/svc/by-name", "shop/svc/by-number", "shop/svc/by-port"];
    assert_eq!(found(&rows, InventoryFinding::Bypass), bypass);
}

#[test]
fn an_injected_pod_is_reachable_until_a_policy_closes_it() {
    let settings = InjectorSettings::default();
    let options = StreamOptions::default();
    let after = inject_stream(CLUSTER, &settings, options).unwrap().text;
    let open = rows(&after, &settings);
    assert_eq!(found(&open, InventoryFinding::Reachable), ["data/pod/store-0", "shop/rs/web-5f6c"]);
    let options = StreamOptions { emit_network_policy: true, ..options };
    let closed = inject_stream(CLUSTER, &settings, options).unwrap().text;
    let closed = rows(&closed, &settings);
    assert_eq!(found(&closed, InventoryFinding::Closed), ["data/pod/store-0", "shop/rs/web-5f6c"]);
    assert_eq!(
        found(&closed, InventoryFinding::Bypass),
        ["shop/svc/by-number", "shop/svc/by-port"]
    );
}

/// A rollout in progress: each pod of the owner counts as what it is, in whichever order they
/// appear.
#[test]
fn pods_from_before_are_not_hidden_by_their_siblings() {
    let settings = InjectorSettings::default();
    let pod = |name: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": "data",
                "ownerReferences": [{"kind": "StatefulSet", "name": "store", "controller": true}],
            },
            "spec": {"containers": [{"name": "a", "ports": [{"name": "http", "containerPort": 8080}]}]},
        })
        .to_string()
    };
    let new = inject_stream(&pod("store-0"), &settings, StreamOptions::default()).unwrap().text;
    // With the annotation of its sibling, but without a sidecar.
    let mut copied: Value = values(&new).unwrap().remove(0);
    copied["spec"] = values(&pod("store-1")).unwrap().remove(0)["spec"].take();
    for olds in
        [vec![pod("store-1")], vec![pod("store-1"), pod("store-2")], vec![copied.to_string()]]
    {
        for news_first in [true, false] {
            let mut all = olds.clone();
            all.insert(if news_first { 0 } else { all.len() }, new.clone());
            let rows = rows(&all.join("\n---\n"), &settings);
            let sidecars: Vec<_> = rows.iter().map(|row| (row.injected, row.pods)).collect();
            assert_eq!(sidecars.len(), 2, "{rows:?}");
            assert!(sidecars.contains(&(true, 1)), "{rows:?}");
            assert!(sidecars.contains(&(false, olds.len())), "{rows:?}");
        }
    }
}

#[test]
fn policies_add_up() {
    let policy = |spec: Value| json!({"metadata": {"name": "p"}, "spec": spec});
    let labels = json!({"app": "web"});
    let admits = PolicyCover::Admits("p".into());
    for (specs, want) in [
        (vec![], PolicyCover::None),
        (vec![json!({"podSelector": {"matchLabels": {"app": "x"}}})], PolicyCover::None),
        (vec![json!({"podSelector": {}, "policyTypes": ["Egress"]})], PolicyCover::None),
        (vec![json!({"podSelector": {}})], PolicyCover::Closed),
        (vec![json!({"podSelector": {}, "ingress": [{}]})], admits.clone()),
        (
            vec![json!({"podSelector": {}, "ingress": [{"ports": [{"port": "http"}]}]})],
            admits.clone(),
        ),
        (
            vec![json!({"podSelector": {}, "ingress": [{"ports": [{"port": "authed"}]}]})],
            PolicyCover::Closed,
        ),
        (
            vec![json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]})],
            PolicyCover::Closed,
        ),
        (
            vec![
                json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}),
                json!({"podSelector": {}, "ingress": [{"ports": [{"port": 8000, "endPort": 9000}]}]}),
            ],
            admits.clone(),
        ),
        (
            vec![
                json!({"podSelector": {}, "ingress": [{"ports": [{"port": 8080, "protocol": "UDP"}]}]}),
            ],
            PolicyCover::Closed,
        ),
        (
            vec![json!({"podSelector": {"matchExpressions": [
                {"key": "app", "operator": "In", "values": ["web"]},
                {"key": "x", "operator": "DoesNotExist"}
            ]}})],
            PolicyCover::Closed,
        ),
        (
            vec![json!({"podSelector": {"matchExpressions": [
                {"key": "app", "operator": "NotIn", "values": ["web"]}
            ]}})],
            PolicyCover::None,
        ),
    ] {
        let policies: Vec<_> = specs.iter().cloned().map(policy).collect();
        assert_eq!(cover(policies.iter(), &labels, 8080, &["http"]), want, "{specs:?}");
    }
}
