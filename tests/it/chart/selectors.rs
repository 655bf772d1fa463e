//! Which webhook is asked to inject what: every pod belongs to at most one webhook, and none of the
//! namespaces that the cluster or the injector needs to start belongs to any.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::rendered::{NAMESPACE, Rendered, job, releases, render, yaml};

type Labels = BTreeMap<&'static str, &'static str>;

/// Evaluates a selector like the API server.
fn selects(selector: &Value, labels: &Labels) -> bool {
    let mut of_map = selector["matchLabels"].as_object().into_iter().flatten();
    let mut of_list = selector["matchExpressions"].as_array().into_iter().flatten();
    of_map.all(|(name, value)| labels.get(&**name).is_some_and(|label| value == label))
        && of_list.all(|wanted| {
            let label = labels.get(wanted["key"].as_str().unwrap());
            let is_one = || {
                let values = wanted["values"].as_array().unwrap();
                label.is_some_and(|label| values.iter().any(|value| value == label))
            };
            match wanted["operator"].as_str().unwrap() {
                "In" => is_one(),
                "NotIn" => !is_one(),
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                other => panic!("{other}"),
            }
        })
}

/// Webhooks of `objects` that are asked about a pod.
fn asked<'o>(objects: &'o [Value], namespace: &Labels, pod: &Labels) -> Vec<&'o Value> {
    let configurations =
        objects.iter().filter(|object| object["kind"] == "MutatingWebhookConfiguration");
    let webhooks = configurations.flat_map(|c| c["webhooks"].as_array().unwrap());
    webhooks
        .filter(|webhook| {
            selects(&webhook["namespaceSelector"], namespace)
                && selects(&webhook["objectSelector"], pod)
        })
        .collect()
}

const INJECT: &str = "keygate.dev/inject";
const REVISION: &str = "keygate.dev/rev";
const REQUIRE: &str = "keygate.dev/require";
const NAME: &str = "kubernetes.io/metadata.name";

/// Two releases side by side, one of which is a named revision.
fn two_revisions() -> Option<Vec<Value>> {
    let table = json!({"url": "https://keys.example/t"});
    let first = json!({"table": table, "require": {"enabled": true}});
    let canary = json!({"table": table, "revision": "canary", "require": {"enabled": true}});
    let jobs = [job("keygate", &first), job("keygate-canary", &canary)];
    let answers = render(&jobs)?.into_iter().map(|answer| answer.unwrap().objects);
    Some(answers.flatten().collect())
}

#[test]
fn every_pod_is_at_most_one_webhooks() {
    let Some(objects) = two_revisions() else { return };
    let choices = |name: &'static str, values: &[&'static str]| -> Vec<Labels> {
        let with = values.iter().map(|value| Labels::from([(name, *value)]));
        with.chain([Labels::new()]).collect()
    };
    let all = |lists: [Vec<Labels>; 3]| -> Vec<Labels> {
        lists.into_iter().fold(vec![Labels::new()], |made, list| {
            let joined = made.iter().flat_map(|labels| {
                list.iter()
                    .map(move |more| labels.iter().chain(more).map(|(k, v)| (*k, *v)).collect())
            });
            joined.collect()
        })
    };
    let own = [choices(INJECT, &["true", "false"]), choices(REVISION, &["canary", "third"])];
    let [inject, revision] = own.clone();
    let namespaces = all([inject, revision, choices(REQUIRE, &["true"])]);
    let [inject, revision] = own;
    let pods = all([inject, revision, choices("app", &["a"])]);
    let mut seen = 0;
    for namespace in &namespaces {
        let mut namespace = namespace.clone();
        namespace.insert(NAME, "orders");
        for pod in &pods {
            let webhooks = asked(&objects, &namespace, pod);
            assert!(webhooks.len() < 2, "{namespace:?} {pod:?}: {}", webhooks.len());
            // The label counts on the object that asks, and so does its revision.
            let asks = match (namespace.get(INJECT), pod.get(INJECT)) {
                (Some(&"true"), of_pod) => (of_pod != Some(&"false")).then_some(&namespace),
                (None, Some(&"true")) => Some(pod),
                _ => None,
            };
            let of = asks.and_then(|labels| match labels.get(REVISION) {
                None => Some("keygate-injector"),
                Some(&"canary") => Some("keygate-canary-injector"),
                Some(_) => None,
            });
            let service = webhooks.first().map(|webhook| &webhook["clientConfig"]["service"]);
            assert_eq!(service.and_then(|s| s["name"].as_str()), of, "{namespace:?} {pod:?}");
            if let Some(service) = service {
                seen += 1;
                let is_required = namespace.get(REQUIRE) == Some(&"true");
                assert_eq!(
                    service["path"],
                    if is_required { "/mutate/require" } else { "/mutate" }
                );
            }
        }
    }
    assert!(seen > 20, "{seen}");
    // Nothing of one release conflicts with the other.
    let mut names: Vec<_> = objects
        .iter()
        .map(|object| format!("{} {}", object["kind"], object["metadata"]["name"]))
        .collect();
    names.sort();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "{names:#?}");
}

/// `Warn` and `Audit` only report: then the injector refuses nobody either.
#[test]
fn a_trial_of_require_refuses_no_pod() {
    let table = json!({"url": "https://keys.example/t"});
    let actions = [json!(["Warn", "Audit"]), json!(["Deny", "Audit"])];
    let jobs = actions.clone().map(|actions| {
        job("keygate", &json!({"table": table, "require": {"enabled": true, "actions": actions}}))
    });
    let Some(answers) = render(&jobs) else { return };
    let namespace = Labels::from([(NAME, "orders"), (INJECT, "true"), (REQUIRE, "true")]);
    for ((answer, actions), path) in
        answers.into_iter().zip(&actions).zip(["/mutate", "/mutate/require"])
    {
        let objects = answer.unwrap().objects;
        let of_kind = |kind| objects.iter().find(|object| object["kind"] == kind).unwrap();
        let binding = of_kind("ValidatingAdmissionPolicyBinding");
        assert_eq!(binding["spec"]["validationActions"], *actions);
        let webhooks = asked(&objects, &namespace, &Labels::new());
        let paths = webhooks.iter().map(|webhook| &webhook["clientConfig"]["service"]["path"]);
        assert_eq!(paths.collect::<Vec<_>>(), [path], "{actions}");
    }
}

/// An empty list of peers in a NetworkPolicy lets everybody in.
#[test]
fn nobody_named_is_nobody_let_in() {
    let values = json!({
        "distributor": {"enabled": true, "origin": {"url": "https://keys.example", "audiences": ["a"]}},
        "networkPolicy": {"metricsFrom": []},
    });
    let Some(answers) = render(&[job("keygate", &values)]) else { return };
    let objects = answers.into_iter().next().unwrap().unwrap().objects;
    let policies = objects.iter().filter(|object| object["kind"] == "NetworkPolicy");
    let rules: Vec<_> =
        policies.flat_map(|policy| policy["spec"]["ingress"].as_array().unwrap()).collect();
    let of_port = |port: i32| rules.iter().filter(|rule| rule["ports"][0]["port"] == port).count();
    assert_eq!([8443, 9930, 9902, 9931].map(of_port), [1, 1, 0, 0]);
    // Only API servers connect from where no selector reaches.
    for rule in rules.iter().filter(|rule| rule["ports"][0]["port"] != 8443) {
        assert!(rule["from"].as_array().is_some_and(|from| !from.is_empty()), "{rule}");
    }
}

/// Kubernetes' own, and the injector's: linkerd #2906, kuma #8157.
const LEFT_OUT: [&str; 4] = ["kube-node-lease", "kube-public", "kube-system", NAMESPACE];

#[test]
fn namespaces_that_the_cluster_needs_are_left_out() {
    let Some(releases) = releases() else { return };
    let files = ["deploy/policy/inject.yaml", "deploy/policy/require.yaml"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let of_files = files.into_iter().flat_map(|file| yaml(&root.join(file)));
    let all: Vec<Value> =
        releases.iter().flat_map(|release| release.objects.clone()).chain(of_files).collect();
    let mut seen = 0;
    for name in LEFT_OUT {
        let mut namespace = Labels::from([(NAME, name), (INJECT, "true"), (REQUIRE, "true")]);
        let pod = Labels::from([(INJECT, "true")]);
        for _ in 0..2 {
            assert!(asked(&all, &namespace, &pod).is_empty(), "{name}");
            namespace.remove(INJECT);
        }
        namespace.insert(INJECT, "true");
        for object in all.iter().filter(|object| !object["spec"]["matchResources"].is_null()) {
            seen += 1;
            let selector = &object["spec"]["matchResources"]["namespaceSelector"];
            assert!(!selects(selector, &namespace), "{}", object["metadata"]["name"]);
        }
    }
    assert!(seen >= 16, "{seen}");
}

/// What the webhooks of others do in a cluster, and what its own requests expect.
#[test]
fn webhooks_have_the_manners_of_the_established_ones() {
    let Some(releases) = releases() else { return };
    for release in releases {
        for configuration in release.of_kind("MutatingWebhookConfiguration") {
            let webhooks = configuration["webhooks"].as_array().unwrap();
            let demands = !release.values["require"]["enabled"].is_null();
            assert_eq!(webhooks.len(), if demands { 4 } else { 2 }, "{}", release.name);
            for webhook in webhooks {
                let is = |field: &str, want: Value| assert_eq!(webhook[field], want, "{field}");
                is("sideEffects", json!("None"));
                is("matchPolicy", json!("Equivalent"));
                is("reinvocationPolicy", json!("IfNeeded"));
                is("admissionReviewVersions", json!(["v1"]));
                let given = |name: &str| release.values["injector"].get(name).cloned();
                is("failurePolicy", given("failurePolicy").unwrap_or(json!("Fail")));
                is("timeoutSeconds", given("timeoutSeconds").unwrap_or(json!(5)));
                is(
                    "rules",
                    json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                        "resources": ["pods"], "scope": "Namespaced"}]),
                );
                assert_eq!(
                    webhook["matchConditions"].is_array(),
                    given("matchConditions") != Some(json!(false))
                );
                service_leads_to_a_webhook(release, &webhook["clientConfig"]["service"]);
            }
        }
    }
}

/// From the configuration over the Service to a port of a pod.
fn service_leads_to_a_webhook(release: &Rendered, wanted: &Value) {
    let service =
        release.of_kind("Service").find(|s| s["metadata"]["name"] == wanted["name"]).unwrap();
    let port = service["spec"]["ports"].as_array().unwrap();
    let port = port.iter().find(|port| port["port"] == wanted["port"]).unwrap();
    let pod = release
        .of_kind("Deployment")
        .map(|deployment| &deployment["spec"]["template"])
        .find(|pod| {
            let selector = service["spec"]["selector"].as_object().unwrap();
            selector.iter().all(|(name, value)| pod["metadata"]["labels"][name] == *value)
        })
        .unwrap();
    let declared = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
    assert!(declared.iter().any(|declared| declared["name"] == port["targetPort"]));
}
