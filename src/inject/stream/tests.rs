//! Streams as people pipe them.

use super::{LineKind, StreamOptions, StreamResult, inject_stream, uninject_stream, values};
use crate::inject::pod::settings::{InjectorSettings, Steering};

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
      - name: app # the app
        image: example.test/app:1
        ports:
        - {name: http, containerPort: 8080}
        - {name: metrics, containerPort: 9090}
";

fn service(target: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  selector:\n    app: web\n  \
         ports:\n  - port: 80\n{target}"
    )
}

fn run(stream: &str, options: StreamOptions) -> StreamResult {
    inject_stream(stream, &InjectorSettings::default(), options).unwrap()
}

fn lines(result: &StreamResult) -> Vec<String> {
    result.report.iter().map(|line| format!("{:?} {}", line.kind, line.text)).collect()
}

#[test]
fn foreign_objects_stay_byte_for_byte() {
    let foreign = "\
# a chart's head
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: x.example.test}   # kept
spec:   { group: example.test,  count: 007, yes: no }
---
# only comments

---
apiVersion: argoproj.io/v1alpha1
kind: Rollout
spec: {template: {spec: {containers: [{name: app}]}}}
---
kind: ConfigMap
apiVersion: v1
data:
  script: |
    ---
    kind: Deployment
...
";
    let stream = format!("{foreign}---\n{DEPLOYMENT}");
    let result = run(&stream, StreamOptions::default());
    assert!(result.text.starts_with(foreign), "{}", result.text);
    assert_eq!(lines(&result), ["Injected deploy/web: move http->15080"]);
    assert!(result.text.contains("- name: app # the app"), "{}", result.text);
    assert!(result.text.contains("{name: metrics, containerPort: 9090}"), "{}", result.text);
    let nothing = run(foreign, StreamOptions::default());
    assert_eq!((nothing.text.as_str(), nothing.report.len()), (foreign, 0));
    let crlf = foreign.replace('\n', "\r\n");
    assert_eq!(run(&crlf, StreamOptions::default()).text, crlf);
}

#[test]
fn a_second_run_changes_nothing_and_uninject_gives_the_input() {
    let stream = format!("{DEPLOYMENT}---\n{}", service("    targetPort: 8080\n"));
    let options =
        StreamOptions { emit_network_policy: true, rewrite_services: true, ..Default::default() };
    let once = run(&stream, options);
    let twice = run(&once.text, options);
    assert_eq!(twice.text, once.text);
    assert_eq!(lines(&twice)[0].split('\n').next(), Some("Skipped deploy/web: already_injected"));
    let back = uninject_stream(&once.text).unwrap();
    assert_eq!(values(&back.text).unwrap(), values(&stream).unwrap());
    let back = uninject_stream(&stream).unwrap();
    assert_eq!((back.text, back.report.len()), (stream, 0), "nothing was injected");
}

#[test]
fn every_kind_of_workload_and_lists() {
    let pod = "metadata: {labels: {app: web}}\nspec:\n  containers: [{name: app, ports: [{name: http, containerPort: 1}]}]\n";
    let indented = |by: usize| {
        pod.lines().map(|line| format!("{}{line}\n", " ".repeat(by))).collect::<String>()
    };
    for (kind, version, short) in [
        ("Deployment", "apps/v1", "deploy"),
        ("StatefulSet", "apps/v1", "sts"),
        ("DaemonSet", "apps/v1", "ds"),
        ("ReplicaSet", "apps/v1", "rs"),
        ("Job", "batch/v1", "job"),
        ("ReplicationController", "v1", "rc"),
    ] {
        let text = format!(
            "kind: {kind}\napiVersion: {version}\nmetadata: {{name: x, namespace: n}}\nspec:\n  template:\n{}",
            indented(4)
        );
        let result = run(&text, StreamOptions::default());
        assert_eq!(lines(&result), [format!("Injected n/{short}/x: move http->15080")]);
        // As `kubectl get` prints it.
        let items: String = text.lines().map(|line| format!("  {line}\n")).collect();
        let items = items.replacen("  kind", "- kind", 1);
        let list = format!("apiVersion: v1\nkind: List\nitems:\n{items}{items}");
        let result = run(&list, StreamOptions::default());
        assert_eq!(result.report.len(), 2, "{}", result.text);
        assert_eq!(result.text.matches("image: \"keygate:").count(), 2, "{}", result.text);
    }
    let cron = format!(
        "kind: CronJob\napiVersion: batch/v1\nmetadata: {{name: x}}\nspec:\n  jobTemplate:\n    spec:\n      template:\n{}",
        indented(8)
    );
    assert_eq!(
        lines(&run(&cron, StreamOptions::default())),
        ["Injected cronjob/x: move http->15080"]
    );
    let pod = format!("kind: Pod\napiVersion: v1\n{pod}");
    assert_eq!(
        lines(&run(&pod, StreamOptions::default())),
        ["Injected pod/unnamed: move http->15080"]
    );
    let json = serde_json::to_string(&values(&pod).unwrap()[0]).unwrap();
    let result = run(&json, StreamOptions::default());
    assert!(serde_json::from_str::<serde_json::Value>(&result.text).is_ok(), "{}", result.text);
}

#[test]
fn services_are_followed() {
    let steered = |steering, target: &str, rewrites| {
        let settings = InjectorSettings {
            steering,
            upstream_port_env: Some("PORT".into()),
            ..Default::default()
        };
        let stream = format!("{}---\n{DEPLOYMENT}", service(target));
        let options = StreamOptions { rewrite_services: rewrites, ..Default::default() };
        let result = inject_stream(&stream, &settings, options).unwrap();
        let found = result.report.iter().find(|line| line.text.starts_with("svc/"));
        let target = values(&result.text).unwrap()[0]["spec"]["ports"][0]["targetPort"].clone();
        (found.map(|line| line.kind), target.as_str().map(str::to_owned))
    };
    let named = "    targetPort: http\n";
    let number = "    targetPort: 8080\n";
    let authed = Some("authed".to_owned());
    assert_eq!(steered(Steering::Move, named, false), (None, Some("http".into())));
    assert_eq!(steered(Steering::Move, number, false), (Some(LineKind::Bypass), None));
    assert_eq!(steered(Steering::Move, number, true), (Some(LineKind::Noted), authed.clone()));
    assert_eq!(
        steered(Steering::Unique, named, false),
        (Some(LineKind::Bypass), Some("http".into()))
    );
    assert_eq!(steered(Steering::Unique, named, true), (Some(LineKind::Noted), authed.clone()));
    assert_eq!(steered(Steering::Unique, "    targetPort: authed\n", false), (None, authed));
    assert_eq!(steered(Steering::Takeover, number, false).0, None);
    assert_eq!(steered(Steering::Takeover, named, false).0, None);
    assert_eq!(steered(Steering::Move, "    targetPort: 9090\n", true).0, Some(LineKind::Warned));
    assert_eq!(steered(Steering::Move, "    targetPort: other\n", true).0, Some(LineKind::Warned));
    let headless = "    targetPort: http\n  clusterIP: None\n";
    assert_eq!(steered(Steering::Move, headless, true).0, Some(LineKind::Bypass));
}

#[test]
fn a_policy_admits_the_gate_alone() {
    let stream = DEPLOYMENT.replace(
        "      labels:\n",
        "      annotations: {keygate.dev/open-ports: '9090'}\n      labels:\n",
    );
    let options = StreamOptions { emit_network_policy: true, ..Default::default() };
    let result = run(&stream, options);
    let policy = values(&result.text).unwrap().pop().unwrap();
    assert_eq!(policy["metadata"]["name"], "web-deploy-keygate");
    assert_eq!(policy["spec"]["podSelector"], serde_json::json!({"matchLabels": {"app": "web"}}));
    let ports: Vec<_> = policy["spec"]["ingress"][0]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["port"].clone())
        .collect();
    assert_eq!(ports, [15020, 15080, 9090]);
}

#[test]
fn what_demands_the_sidecar_gets_no_skip() {
    let space = "apiVersion: v1\nkind: Namespace\nmetadata: {name: n, labels: {keygate.dev/require: 'true'}}\n";
    let host = DEPLOYMENT
        .replace("  name: web\nspec", "  name: web\n  namespace: n\nspec")
        .replace("      containers:", "      hostNetwork: true\n      containers:");
    let result = run(&format!("{space}---\n{host}"), StreamOptions::default());
    assert!(
        lines(&result)[0].contains("Denied n/deploy/web: this namespace takes only"),
        "{result:?}"
    );
    let result = run(&host, StreamOptions::default());
    assert!(
        lines(&result)[0].starts_with("Skipped n/deploy/web: host_network\nhint: "),
        "{result:?}"
    );
}

#[test]
fn annotations_of_the_workload_itself_are_misplaced() {
    let stream = DEPLOYMENT.replace(
        "  name: web\nspec",
        "  name: web\n  annotations: {keygate.dev/mode: observe}\nspec",
    );
    let result = run(&stream, StreamOptions::default());
    assert!(
        lines(&result)[0].contains("move it to the metadata of the pod template"),
        "{result:?}"
    );
    assert_eq!(result.text, stream, "what is denied stays as it was");
}

/// Two workloads of one name have two policies, and one without labels is named: its pods stay open.
#[test]
fn every_workload_has_a_policy_of_its_own_or_a_word() {
    let sts = DEPLOYMENT.replace("kind: Deployment", "kind: StatefulSet");
    let sts = sts.replace("app: web", "app: store");
    let pods = ["a", "b"].map(|app| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{generateName: web-, labels: {{app: {app}}}}}\n\
             spec: {{containers: [{{name: app, ports: [{{containerPort: 80}}]}}]}}\n"
        )
    });
    let bare = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: once}\nspec: {template: {spec: \
                {containers: [{name: app, ports: [{containerPort: 80}]}]}}}\n";
    let everything = "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: rc}\nspec: \
                      {selector: {}, template: {metadata: {labels: {app: rc}}, spec: \
                      {containers: [{name: app, ports: [{containerPort: 80}]}]}}}\n";
    let stream = [DEPLOYMENT, &sts, &pods[0], &pods[1], bare, everything].join("---\n");
    let options = StreamOptions { emit_network_policy: true, ..Default::default() };
    let result = run(&stream, options);
    let policies = |text: &str| {
        let documents = values(text).unwrap().into_iter();
        let policies = documents.filter(|document| document["kind"] == "NetworkPolicy");
        policies
            .map(|policy| {
                let app = &policy["spec"]["podSelector"]["matchLabels"]["app"];
                format!(
                    "{} {}",
                    policy["metadata"]["name"].as_str().unwrap(),
                    app.as_str().unwrap()
                )
            })
            .collect::<Vec<_>>()
    };
    let want = [
        "web-deploy-keygate web",
        "web-sts-keygate store",
        "web-pod-keygate a",
        "web-pod-keygate-2 b",
        "rc-rc-keygate rc",
    ];
    assert_eq!(policies(&result.text), want);
    let open: Vec<_> = result.report.iter().filter(|l| l.kind == LineKind::Bypass).collect();
    assert_eq!(open.len(), 1, "{open:?}");
    assert!(open[0].text.starts_with("job/once: no NetworkPolicy can select"), "{open:?}");
    assert_eq!(run(&result.text, options).text, result.text, "another run adds nothing");
}

/// Policies add up: an older one of ours keeps open what it admits.
#[test]
fn policies_of_an_earlier_run_are_named() {
    let options = StreamOptions { emit_network_policy: true, ..Default::default() };
    let once = run(DEPLOYMENT, options).text;
    let warned = |stream: &str| -> Vec<String> {
        let result = run(stream, options);
        let warned = result.report.into_iter().filter(|line| line.kind == LineKind::Warned);
        warned.map(|line| line.text).filter(|text| text.contains("netpol/")).collect()
    };
    assert_eq!(warned(&once), Vec::<String>::new());
    let former = warned(&once.replace("name: web-deploy-keygate", "name: web-keygate"));
    assert!(
        former.len() == 1 && former[0].contains("web-keygate: has a former name"),
        "{former:?}"
    );
    let other = warned(&once.replace("port: 15020", "port: 9000"));
    assert!(other.len() == 1 && other[0].contains("admits other ports"), "{other:?}");
}

/// The API server takes 253 bytes.
#[test]
fn names_of_policies_are_not_too_long() {
    let named = |name: &str| {
        let deployment = DEPLOYMENT.replace("name: web\n", &format!("name: {name}\n"));
        let options = StreamOptions { emit_network_policy: true, ..Default::default() };
        let documents = values(&run(&deployment, options).text).unwrap();
        let policy = documents.iter().find(|document| document["kind"] == "NetworkPolicy").unwrap();
        policy["metadata"]["name"].as_str().unwrap().to_owned()
    };
    let long = "a".repeat(252);
    let (one, other) = (named(&format!("{long}b")), named(&format!("{long}c")));
    for name in [&one, &other] {
        assert!(name.len() <= 240 && name.ends_with("-deploy-keygate"), "{name}");
    }
    assert_ne!(one, other);
}

/// What was noted first is the original, however often Services are redirected.
#[test]
fn a_second_redirection_keeps_what_the_first_has_noted() {
    let options = StreamOptions { rewrite_services: true, ..Default::default() };
    let stream = format!("{DEPLOYMENT}---\n{}", service("    targetPort: 8080\n"));
    let once = run(&stream, options).text;
    let more = |text: &str| format!("{text}  - port: 81\n    targetPort: 8080\n");
    let mut documents = values(&once).unwrap();
    let ports = documents[1]["spec"]["ports"].as_array_mut().unwrap();
    ports.push(serde_json::json!({"port": 81, "targetPort": 8080}));
    // Somebody has also undone the first by hand.
    for undone in [false, true] {
        if undone {
            documents[1]["spec"]["ports"][0]["targetPort"] = serde_json::json!("up-http");
        }
        let text: Vec<_> = documents.iter().map(ToString::to_string).collect();
        let twice = run(&text.join("\n---\n"), options).text;
        let back = uninject_stream(&twice).unwrap().text;
        assert_eq!(values(&back).unwrap(), values(&more(&stream)).unwrap());
    }
}

/// A list in a list, as `kubectl` and templates make them.
#[test]
fn lists_in_lists_are_read() {
    let deployment: serde_json::Value = values(DEPLOYMENT).unwrap().remove(0);
    let list = |items: serde_json::Value| serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items});
    let mut typed = deployment.clone();
    typed.as_object_mut().unwrap().remove("kind");
    typed.as_object_mut().unwrap().remove("apiVersion");
    let typed = serde_json::json!(
        {"apiVersion": "apps/v1", "kind": "DeploymentList", "items": [typed]}
    );
    let nested = list(serde_json::json!([list(serde_json::json!([deployment])), typed]));
    let result = run(&nested.to_string(), StreamOptions::default());
    assert_eq!(lines(&result), ["Injected deploy/web: move http->15080"; 2]);
    let back = uninject_stream(&result.text).unwrap();
    assert_eq!(values(&back.text).unwrap(), [nested]);
}

/// A sidecar that nobody has noted in a status, as the API server's own policy or a person adds it.
#[test]
fn services_past_a_sidecar_without_a_status_are_named() {
    let by_hand = DEPLOYMENT.replace(
        "      containers:\n",
        "      initContainers:\n      - {name: keygate, restartPolicy: Always, ports: [{name: gate, containerPort: 15080}]}\n      containers:\n",
    );
    for (target, bypasses) in [("8080", true), ("gate", false), ("metrics", false)] {
        let stream = format!("{by_hand}---\n{}", service(&format!("    targetPort: {target}\n")));
        let result = run(&stream, StreamOptions::default());
        assert_eq!(result.has(LineKind::Bypass), bypasses, "{target}: {result:?}");
    }
    let stream = format!("{by_hand}---\n{}", service("    targetPort: 8080\n"));
    let options = StreamOptions { rewrite_services: true, ..Default::default() };
    let services = values(&run(&stream, options).text).unwrap();
    assert_eq!(services[1]["spec"]["ports"][0]["targetPort"], "gate");
}
