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

/// Created in an outage, or before there was a webhook: it serves without a gate, and so do its Services.
#[test]
fn a_running_pod_that_asked_for_a_sidecar_and_has_none_is_a_hole() {
    let cluster = |spec: Value, status: Value| {
        let mut spec = spec;
        spec["containers"] =
            json!([{"name": "app", "ports": [{"name": "http", "containerPort": 80}]}]);
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "labels": {"app": "web", "keygate.dev/inject": "true"}},
            "spec": spec, "status": status,
        });
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
        });
        rows(&format!("{pod}\n---\n{service}"), &InjectorSettings::default())
    };
    let running = cluster(json!({"nodeName": "n"}), json!(null));
    assert_eq!(
        found(&running, InventoryFinding::Unanswered),
        ["default/pod/web", "default/svc/web"]
    );
    assert!(running.iter().all(|row| row.finding.is_hole() && !row.injected), "{running:?}");
    assert!(running[0].detail.ends_with("keygate.dev/inject=true"), "{running:?}");
    // What the injector would skip today may have no sidecar, and the row says why.
    let host = cluster(json!({"nodeName": "n", "hostNetwork": true}), json!(null));
    assert_eq!(found(&host, InventoryFinding::Skipped), ["default/pod/web", "default/svc/web"]);
    assert!(host[0].detail.contains("host_network"), "{host:?}");
    // One that waits for a node is on its way, and one that has ended serves nobody.
    for (spec, status) in
        [(json!({}), json!(null)), (json!({"nodeName": "n"}), json!({"phase": "Succeeded"}))]
    {
        let other = cluster(spec, status);
        assert_eq!(found(&other, InventoryFinding::Injectable), ["default/pod/web"], "{other:?}");
    }
}

/// As `deploy/policy/inject.yaml` or a person adds it: its container says where it listens.
#[test]
fn a_sidecar_without_a_status_is_judged_by_its_ports() {
    let cluster = |target: Value, app: Value, policy: Value| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {
                "nodeName": "n",
                "initContainers": [{"name": "keygate", "restartPolicy": "Always", "ports": [
                    {"name": "authed", "containerPort": 15080},
                    {"name": "keygate-metrics", "containerPort": 15020}]}],
                "containers": [{"name": "app", "ports": app}],
            },
        });
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": target}]},
        });
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"},
            "spec": policy,
        });
        let rows =
            rows(&format!("{pod}\n---\n{service}\n---\n{policy}"), &InjectorSettings::default());
        let of = |object: &str| rows.iter().find(|row| row.object == object).unwrap().finding;
        (of("svc/web"), of("pod/web"))
    };
    use InventoryFinding as F;
    let app =
        json!([{"name": "api", "containerPort": 9000}, {"name": "metrics", "containerPort": 9090}]);
    let gate = json!({"podSelector": {}, "ingress": [{"ports": [{"port": 15080}]}]});
    for (target, want) in [
        (json!(9000), F::Bypass),
        (json!("api"), F::Bypass),
        // Nobody has declared it, and the sidecar is elsewhere.
        (json!(9001), F::Bypass),
        (json!("authed"), F::Gate),
        (json!(15080), F::Gate),
        (json!("metrics"), F::OtherPort),
        (json!("keygate-metrics"), F::OtherPort),
    ] {
        assert_eq!(
            cluster(target.clone(), app.clone(), gate.clone()),
            (want, F::Closed),
            "{target}"
        );
    }
    let pods = |app: &Value, policy: Value| cluster(json!("authed"), app.clone(), policy).1;
    let other = json!({"podSelector": {"matchLabels": {"app": "x"}}});
    assert_eq!(pods(&app, other.clone()), F::Reachable);
    assert_eq!(pods(&json!([]), other), F::Reachable, "it listens somewhere");
    assert_eq!(pods(&json!([]), gate), F::Closed);
    assert_eq!(pods(&json!([]), json!({"podSelector": {}, "ingress": [{}]})), F::Reachable);
    // An app that declares nothing may listen on whatever else is admitted.
    for ports in [
        json!([{"port": 15080}, {"port": 8080}]),
        json!([{"port": 1, "endPort": 65535}]),
        json!([{"port": 15080, "endPort": 15081}]),
    ] {
        let policy = json!({"podSelector": {}, "ingress": [{"ports": ports}]});
        assert_eq!(pods(&json!([]), policy.clone()), F::Reachable, "{policy}");
    }
}

/// Closed means every port of the app, not just the one that keygate protects.
#[test]
fn another_port_of_the_app_is_reachable_too() {
    let stream = |annotations: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  labels: {{app: web}}\n  \
             annotations: {{{annotations}}}\nspec:\n  containers:\n  - name: app\n    ports: [{{name: \
             http, containerPort: 8080}}, {{name: api, containerPort: 9000}}, {{name: metrics, \
             containerPort: 9090}}]\n"
        )
    };
    let settings = InjectorSettings::default();
    let finding = |annotations: &str, ports: Value| {
        let options = StreamOptions::default();
        let after = inject_stream(&stream(annotations), &settings, options).unwrap().text;
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"},
            "spec": {"podSelector": {}, "ingress": [{"ports": ports}]},
        });
        let row = rows(&format!("{after}\n---\n{policy}"), &settings).remove(0);
        (row.finding, row.detail)
    };
    use InventoryFinding as F;
    let (open, detail) = finding("a: b", json!([{"port": 15080}, {"port": 9000}]));
    assert_eq!(
        (open, detail.as_str()),
        (F::Reachable, "NetworkPolicy p admits port 9000, the app's own")
    );
    let said = "keygate.dev/open-ports: \"9000\"";
    assert_eq!(finding(said, json!([{"port": 15080}, {"port": 9000}])).0, F::Closed);
    assert_eq!(finding("a: b", json!([{"port": 15080}, {"port": 9090}])).0, F::Closed);
    assert_eq!(finding(said, json!([{"port": 8080}])).0, F::Reachable);
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
