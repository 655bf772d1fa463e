//! What an injected pod looks like.

use serde_json::{Value, json};

use super::{
    annotated, config_of, injected, restricted_faults, sidecar_of, undone, web, without_empty,
};
use crate::inject::pod::outcome::{InjectOutcome, SkipReason};
use crate::inject::pod::settings::{InjectorSettings, Steering};
use crate::inject::pod::status::InjectStatus;
use crate::inject::pod::undo::{UndoError, uninject};
use crate::inject::pod::{InjectContext, inject};

fn default() -> InjectorSettings {
    InjectorSettings::default()
}

fn with(steering: Steering) -> InjectorSettings {
    InjectorSettings { steering, ..default() }
}

/// Names and numbers of a container's ports.
fn ports(container: &Value) -> Vec<(String, u64)> {
    let ports = container["ports"].as_array().unwrap().iter();
    ports
        .map(|p| {
            (p["name"].as_str().unwrap_or("").to_owned(), p["containerPort"].as_u64().unwrap())
        })
        .collect()
}

fn named(ports: &[(&str, u64)]) -> Vec<(String, u64)> {
    ports.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
}

#[test]
fn move_gives_the_apps_name_to_the_sidecar() {
    let mut pod = web();
    let app = &mut pod["spec"]["containers"][0];
    app["livenessProbe"] = json!({"httpGet": {"path": "/live", "port": "http"}});
    app["readinessProbe"] = json!({"httpGet": {"path": "/ready", "port": 8080}});
    app["startupProbe"] = json!({"tcpSocket": {"port": "http"}});
    app["lifecycle"] = json!({
        "postStart": {"tcpSocket": {"port": "http"}},
        "preStop": {"httpGet": {"path": "/drain", "port": "http"}}
    });
    let (injection, after) = injected(&pod, &default());
    assert_eq!(injection.steered, "move http->15080");
    let app = &after["spec"]["containers"][0];
    assert_eq!(ports(app), named(&[("up-http", 8080)]));
    let sidecar = sidecar_of(&after);
    let want = [("authed", 15080), ("http", 15080), ("keygate-metrics", 15020)];
    assert_eq!(ports(sidecar), named(&want));
    for (place, want) in [
        ("/livenessProbe/httpGet/port", 8080),
        ("/readinessProbe/httpGet/port", 8080),
        ("/startupProbe/tcpSocket/port", 8080),
        ("/lifecycle/postStart/tcpSocket/port", 8080),
        ("/lifecycle/preStop/httpGet/port", 8080),
    ] {
        assert_eq!(app.pointer(place), Some(&json!(want)), "{place}");
    }
    assert_eq!(config_of(&after)["upstream"]["url"].as_str(), Some("http://127.0.0.1:8080"));
    assert_eq!(undone(&after), pod);
}

/// A Service uses the first container that has the name, so nothing else may keep it.
#[test]
fn a_moved_name_is_nobody_elses() {
    let mut pod = web();
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({
        "name": "other",
        "ports": [
            {"name": "up-http", "containerPort": 9001},
            {"name": "http", "containerPort": 9000},
            {"name": "metrics", "containerPort": 9002}
        ],
        "livenessProbe": {"httpGet": {"port": "http"}}
    }));
    pod["metadata"]["annotations"] = json!({"keygate.dev/upstream-port": "8080"});
    let (_, after) = injected(&pod, &default());
    assert_eq!(ports(&after["spec"]["containers"][0]), named(&[("up-http-2", 8080)]));
    let want = [("up-http", 9001), ("up-http-3", 9000), ("metrics", 9002)];
    assert_eq!(ports(&after["spec"]["containers"][1]), named(&want));
    let probe = &after["spec"]["containers"][1]["livenessProbe"];
    assert_eq!(probe["httpGet"]["port"], json!(9000));
    assert_eq!(undone(&after), pod);
}

#[test]
fn a_long_name_is_cut() {
    let mut pod = web();
    pod["spec"]["containers"][0]["ports"] =
        json!([{"name": "abcdefghijkl-no", "containerPort": 1}]);
    let (_, after) = injected(&pod, &default());
    assert_eq!(ports(&after["spec"]["containers"][0]), named(&[("up-abcdefghijkl", 1)]));
}

#[test]
fn a_number_cannot_be_moved_and_is_told() {
    let mut pod = web();
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080}]);
    let (injection, after) = injected(&pod, &default());
    assert!(injection.warnings[0].contains("targetPort 8080 goes around"), "{injection:?}");
    assert_eq!(ports(sidecar_of(&after)), named(&[("authed", 15080), ("keygate-metrics", 15020)]));
}

#[test]
fn unique_leaves_the_app_alone() {
    let (injection, after) = injected(&web(), &with(Steering::Unique));
    assert_eq!(injection.steered, "unique authed->15080");
    assert_eq!(after["spec"]["containers"], web()["spec"]["containers"]);
    assert_eq!(ports(sidecar_of(&after)), named(&[("authed", 15080), ("keygate-metrics", 15020)]));
}

#[test]
fn takeover_binds_the_apps_number() {
    let mut pod = web();
    let app = &mut pod["spec"]["containers"][0];
    app["ports"][0]["hostPort"] = json!(80);
    app["env"] = json!([{"name": "HOST", "value": "0.0.0.0"}, {"name": "PORT", "value": "8080"}]);
    app["livenessProbe"] = json!({
        "httpGet": {"path": "/live?a=$b", "port": "http", "httpHeaders": [{"name": "X-A", "value": "1"}]},
        "timeoutSeconds": 3
    });
    app["readinessProbe"] = json!({"grpc": {"port": 8080, "service": "x"}, "periodSeconds": 4});
    app["startupProbe"] = json!({"tcpSocket": {"port": 8080}});
    let (injection, after) = injected(&pod, &with(Steering::Takeover));
    assert_eq!(injection.steered, "takeover 8080, app->15088");
    let app = &after["spec"]["containers"][0];
    assert_eq!(app["ports"], json!([{"name": "up-http", "containerPort": 15088}]));
    assert_eq!(app["env"][0]["value"], "127.0.0.1");
    assert_eq!(app["env"][1]["value"], "15088");
    let passed =
        |kind: &str| json!({"path": format!("/probe/app/{kind}"), "port": 15020, "scheme": "HTTP"});
    assert_eq!(app["livenessProbe"], json!({"httpGet": passed("liveness"), "timeoutSeconds": 3}));
    assert_eq!(app["readinessProbe"], json!({"httpGet": passed("readiness"), "periodSeconds": 4}));
    assert_eq!(app["startupProbe"], json!({"httpGet": passed("startup")}));
    let sidecar = sidecar_of(&after);
    let want = [("authed", 15080), ("http", 8080), ("keygate-metrics", 15020)];
    assert_eq!(ports(sidecar), named(&want));
    assert_eq!(sidecar["ports"][1]["hostPort"], json!(80));
    let config = config_of(&after);
    let listens: Vec<_> = config["listen"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["address"].as_str().unwrap())
        .collect();
    let want = ["${KEYGATE_BIND:-0.0.0.0}:15080", "${KEYGATE_BIND:-0.0.0.0}:8080"];
    assert_eq!(listens, want);
    let passages = config["admin"]["probes"].as_array().unwrap();
    assert_eq!(passages[0]["url"].as_str(), Some("http://127.0.0.1:15088/live?a=$$b"));
    assert_eq!(passages[0]["headers"][0].as_str(), Some("X-A: 1"));
    assert_eq!(passages[0]["timeout"].as_str(), Some("3s"));
    assert_eq!(passages[1]["url"].as_str(), Some("grpc://127.0.0.1:15088/x"));
    assert_eq!(passages[2]["url"].as_str(), Some("tcp://127.0.0.1:15088"));
    assert_eq!(undone(&after), pod);
}

/// What the sidecar cannot send is left out, and what cannot be led to the app is reported.
#[test]
fn takeover_reports_what_it_cannot_carry_over() {
    let mut pod = annotated("keygate.dev/upstream-port-env", "PORT");
    let app = &mut pod["spec"]["containers"][0];
    app["livenessProbe"] = json!({"httpGet": {"port": 8080, "httpHeaders": [
        {"name": "Connection", "value": "close"}, {"name": "X-A", "value": "1"},
        {"name": "content-length", "value": "0"}, {"name": "Transfer-Encoding", "value": "x"},
        {"name": "Upgrade", "value": "x"},
    ]}});
    app["readinessProbe"] =
        json!({"exec": {"command": ["curl", "-f", "http://127.0.0.1:8080/ready"]}});
    app["startupProbe"] = json!({"exec": {"command": ["test", "18080"]}});
    app["lifecycle"] =
        json!({"preStop": {"exec": {"command": ["sh", "-c", "nc -z localhost 8080"]}}});
    let (injection, after) = injected(&pod, &with(Steering::Takeover));
    let passages = &config_of(&after)["admin"]["probes"][0];
    assert_eq!(passages["headers"].as_array().unwrap().len(), 1, "{passages}");
    let told = injection.warnings.join("\n");
    for want in [
        "its field Connection",
        "its field content-length",
        "its field Transfer-Encoding",
        "its field Upgrade",
        "readinessProbe.exec of container app mentions 8080",
        "lifecycle.preStop.exec of container app mentions 8080",
    ] {
        assert!(told.contains(want), "{want}: {told}");
    }
    assert_eq!(injection.warnings.len(), 6, "{told}");
    let (injection, _) = injected(&pod, &default());
    assert!(!injection.warnings.join("\n").contains("mentions"), "{injection:?}");
    assert_eq!(undone(&after), pod);
}

/// Ports of the node keep their addresses, each of them.
#[test]
fn takeover_carries_addresses_of_the_node_along() {
    let mut pod = annotated("keygate.dev/upstream-port-env", "PORT");
    pod["spec"]["containers"][0]["ports"] = json!([
        {"name": "http", "containerPort": 8080, "hostPort": 8080, "hostIP": "127.0.0.1"},
        {"containerPort": 8080, "hostPort": 8081, "hostIP": "10.0.0.1"},
    ]);
    let (_, after) = injected(&pod, &with(Steering::Takeover));
    let ports = sidecar_of(&after)["ports"].as_array().unwrap();
    let on_node: Vec<_> = ports.iter().filter(|port| port.get("hostPort").is_some()).collect();
    let shown = |port: &Value| (port["hostPort"].clone(), port["hostIP"].clone());
    assert_eq!(
        on_node.into_iter().map(shown).collect::<Vec<_>>(),
        [(json!(8080), json!("127.0.0.1")), (json!(8081), json!("10.0.0.1"))]
    );
    for port in after["spec"]["containers"][0]["ports"].as_array().unwrap() {
        assert!(port.get("hostPort").is_none() && port.get("hostIP").is_none(), "{port}");
    }
    assert_eq!(undone(&after), pod);
}

/// A proxy of the app as a native sidecar is the front if the pod says so, and never by itself.
#[test]
fn a_native_sidecar_can_be_the_front() {
    let with_init = |app: Value, front: Value| {
        let mut pod = web();
        pod["spec"]["containers"][0]["ports"] = app;
        pod["spec"]["initContainers"] =
            json!([{"name": "proxy", "restartPolicy": "Always", "ports": front}]);
        pod
    };
    let http = json!([{"name": "http", "containerPort": 8080}]);
    for wish in ["http", "8080"] {
        for app in [json!(null), json!([{"containerPort": 9000}])] {
            let mut pod = with_init(app, http.clone());
            pod["metadata"]["annotations"] = json!({"keygate.dev/upstream-port": wish});
            let (injection, after) = injected(&pod, &default());
            assert_eq!(injection.steered, "move http->15080");
            let proxy = &after["spec"]["initContainers"][0];
            assert_eq!(ports(proxy), named(&[("up-http", 8080)]));
            assert_eq!(undone(&after), pod);
        }
    }
    for name in ["linkerd-proxy", "http", "grpc-otlp", "http-otlp", "web"] {
        let sidecars = json!([{"name": name, "containerPort": 4317}]);
        for app in
            [json!([{"containerPort": 8080}]), json!([{"name": "api", "containerPort": 8080}])]
        {
            let pod = with_init(app, sidecars.clone());
            let upstream = config_of(&injected(&pod, &default()).1)["upstream"]["url"].clone();
            assert_eq!(upstream.as_str(), Some("http://127.0.0.1:8080"), "{name}");
        }
        let outcome =
            inject(&with_init(json!(null), sidecars), &InjectContext::default(), &default());
        assert_eq!(outcome, InjectOutcome::Skip(SkipReason::NoUpstreamPort), "{name}");
    }
}

/// A Service asks for a name and a protocol: a name on UDP is another port.
#[test]
fn names_on_udp_stay() {
    let mut pod = web();
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({
        "name": "quic",
        "ports": [{"name": "http", "containerPort": 8443, "protocol": "UDP"}]
    }));
    let (_, after) = injected(&pod, &default());
    assert_eq!(ports(&after["spec"]["containers"][1]), named(&[("http", 8443)]));
    assert_eq!(ports(&after["spec"]["containers"][0]), named(&[("up-http", 8080)]));
}

/// The kubelet calls hooks at the pod's address: an app that listens only on loopback would not
/// hear them.
#[test]
fn takeover_keeps_an_app_with_hooks_reachable() {
    let mut pod = web();
    let app = &mut pod["spec"]["containers"][0];
    app["env"] = json!([{"name": "LISTEN", "value": "0.0.0.0:8080"}]);
    app["lifecycle"] = json!({"preStop": {"httpGet": {"path": "/drain", "port": "http"}}});
    let (_, after) = injected(&pod, &with(Steering::Takeover));
    let app = &after["spec"]["containers"][0];
    assert_eq!(app["env"][0]["value"], "0.0.0.0:15088");
    assert_eq!(app["lifecycle"]["preStop"]["httpGet"]["port"], json!(15088));
}

#[test]
fn a_taken_number_is_counted_up() {
    let mut pod = web();
    pod["spec"]["initContainers"] = json!([
        {"name": "mesh", "restartPolicy": "Always", "ports": [
            {"name": "mesh-http", "containerPort": 15080}, {"containerPort": 15081},
            {"containerPort": 15020}]}
    ]);
    let (injection, after) = injected(&pod, &default());
    assert_eq!(injection.steered, "move http->15082");
    let sidecar = sidecar_of(&after);
    let want = [("authed", 15082), ("http", 15082), ("keygate-metrics", 15021)];
    assert_eq!(ports(sidecar), named(&want));
    assert_eq!(sidecar["readinessProbe"]["httpGet"]["port"], json!(15021));
    assert_eq!(injection.warnings.len(), 2, "{injection:?}");
    assert_eq!(after["spec"]["initContainers"][1]["name"], "keygate", "right behind the mesh");
    assert_eq!(undone(&after), pod);
}

#[test]
fn a_plain_container_comes_first_and_lingers() {
    let mut pod = web();
    pod["metadata"]["annotations"] = json!({"keygate.dev/native-sidecar": "false"});
    let (_, after) = injected(&pod, &default());
    let sidecar = &after["spec"]["containers"][0];
    assert_eq!(sidecar["name"], "keygate");
    assert_eq!(sidecar.get("restartPolicy"), None);
    let drain = sidecar["lifecycle"]["preStop"]["exec"]["command"].as_array().unwrap();
    assert!(drain.contains(&json!("--wait")));
    let annotations = &after["metadata"]["annotations"];
    assert_eq!(annotations["kubectl.kubernetes.io/default-container"], "app");
    assert_eq!(undone(&after), pod);
}

#[test]
fn the_apps_token_is_out_of_reach() {
    let (_, after) = injected(&web(), &default());
    let mounts = sidecar_of(&after)["volumeMounts"].as_array().unwrap();
    let path = "/var/run/secrets/kubernetes.io/serviceaccount";
    let over = mounts.iter().find(|mount| mount["mountPath"] == path).unwrap();
    let volumes = after["spec"]["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == over["name"]).unwrap();
    assert!(volume.get("emptyDir").is_some());
    assert!(mounts.iter().all(|mount| mount.get("subPath").is_none()), "no mount is ever stale");
}

#[test]
fn volumes_have_names_of_their_own() {
    let mut pod = web();
    pod["spec"]["volumes"] = json!([{"name": "keygate-config", "emptyDir": {}}]);
    let settings = InjectorSettings {
        table: crate::inject::TableSettings { bearer_secret: "source".into(), ..default().table },
        ..default()
    };
    let (_, after) = injected(&pod, &settings);
    let names: Vec<_> = after["spec"]["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["name"].as_str().unwrap())
        .collect();
    let want = [
        "keygate-config",
        "keygate-config-2",
        "keygate-signers",
        "keygate-source",
        "keygate-state",
        "keygate-no-token",
    ];
    assert_eq!(names, want);
    assert_eq!(after["spec"]["volumes"][2]["secret"]["defaultMode"], json!(0o444));
    let bearer = &config_of(&after)["table"]["http"]["bearer_file"];
    assert_eq!(bearer.as_str(), Some("/etc/keygate/source/token"));
    assert_eq!(undone(&after), pod);
}

#[test]
fn annotations_are_heard() {
    let mut pod = web();
    pod["metadata"]["annotations"] = json!({
        "keygate.dev/app-prestop-sleep": "9",
        "keygate.dev/config": "orders-settings",
        "keygate.dev/cpu-request": "200m",
        "keygate.dev/image": "example.test/keygate@sha256:0",
        "keygate.dev/memory": "300Mi",
        "keygate.dev/mode": "observe",
        "keygate.dev/port-name": "gate",
        "keygate.dev/skip-paths": "/healthz, /static/*",
        "keygate.dev/steering": "unique",
        "keygate.dev/table": "orders",
        "keygate.dev/upstream-port": "9000",
        "keygate.dev/upstream-protocol": "http2",
    });
    let (_, after) = injected(&pod, &default());
    let sidecar = sidecar_of(&after);
    assert_eq!(sidecar["image"], "example.test/keygate@sha256:0");
    assert_eq!(sidecar["resources"]["requests"], json!({"cpu": "200m", "memory": "300Mi"}));
    assert_eq!(sidecar["resources"]["limits"], json!({"memory": "300Mi"}));
    assert_eq!(sidecar["ports"][0]["name"], "gate");
    let sources = &after["spec"]["volumes"][0]["projected"]["sources"];
    assert_eq!(sources[1]["configMap"], json!({"name": "orders-settings"}), "it must be there");
    let sleep = &after["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"];
    assert_eq!(*sleep, json!({"seconds": 9}));
    let config = config_of(&after);
    assert_eq!(config["upstream"]["url"].as_str(), Some("http://127.0.0.1:9000"));
    assert_eq!(config["upstream"]["protocol"].as_str(), Some("http2"));
    assert!(config["table"]["url"].as_str().unwrap().contains("/orders/"), "{config}");
    assert!(config["table"]["audience"].as_str().unwrap().contains(":-orders}"), "{config}");
    assert_eq!(config["observe"]["enforce"].as_str(), Some("0%"));
    let routes: Vec<_> =
        config["routes"].as_array().unwrap().iter().map(|r| r["path"].as_str().unwrap()).collect();
    assert_eq!(routes, ["/healthz", "/static/*", "/*"]);
    assert_eq!(undone(&after), pod);
}

/// Settings that an operator changes while pods run come from variables; what the pod states takes
/// precedence.
#[test]
fn the_mode_is_a_variable_unless_the_pod_says_it() {
    let enforce = |pod: &Value, settings: &InjectorSettings| {
        config_of(&injected(pod, settings).1)["observe"]["enforce"].as_str().unwrap().to_owned()
    };
    assert_eq!(enforce(&web(), &default()), "${KEYGATE_ENFORCE:-100%}");
    let observe = InjectorSettings { mode: crate::inject::InjectMode::Observe, ..default() };
    assert_eq!(enforce(&web(), &observe), "${KEYGATE_ENFORCE:-0%}");
    assert_eq!(enforce(&annotated("keygate.dev/mode", "enforce"), &observe), "100%");
}

#[test]
fn a_drain_fits_into_the_pods_grace() {
    for (grace, sleep, want) in [
        (None, None, ("5s", "23s")),
        (Some(5), None, ("1s", "2s")),
        (Some(0), None, ("0s", "1s")),
        (Some(60), Some("4"), ("2s", "56s")),
        (Some(60), Some("1"), ("1s", "57s")),
    ] {
        let mut pod = web();
        if let Some(grace) = grace {
            pod["spec"]["terminationGracePeriodSeconds"] = json!(grace);
        }
        if let Some(sleep) = sleep {
            pod["metadata"]["annotations"] = json!({"keygate.dev/app-prestop-sleep": sleep});
        }
        let config = config_of(&injected(&pod, &default()).1);
        let got = ("delay", "deadline");
        let got =
            (config["drain"][got.0].as_str().unwrap(), config["drain"][got.1].as_str().unwrap());
        assert_eq!(got, want, "{grace:?} {sleep:?}");
    }
}

#[test]
fn memory_grows_with_the_table() {
    let mut settings = default();
    settings.table.size = "100Mi".parse().unwrap();
    let (_, after) = injected(&web(), &settings);
    assert_eq!(sidecar_of(&after)["resources"]["limits"]["memory"], "296Mi");
    let volumes = after["spec"]["volumes"].as_array().unwrap();
    let state = volumes.iter().find(|volume| volume["name"] == "keygate-state").unwrap();
    assert_eq!(state["emptyDir"]["sizeLimit"], "300Mi");
}

#[test]
fn the_port_to_protect() {
    let choose = |containers: Value| {
        let mut pod = web();
        pod["spec"]["containers"] = containers;
        let config = config_of(&injected(&pod, &with(Steering::Unique)).1);
        config["upstream"]["url"].as_str().unwrap().rsplit(':').next().unwrap().to_owned()
    };
    let app = |ports: Value| json!([{"name": "app", "ports": ports}]);
    for (containers, want) in [
        (app(json!([{"containerPort": 1}])), "1"),
        (app(json!([{"name": "metrics", "containerPort": 1}, {"containerPort": 2}])), "2"),
        (
            app(json!([{"name": "a", "containerPort": 1}, {"name": "http", "containerPort": 2}])),
            "2",
        ),
        (
            app(json!([{"name": "http-a", "containerPort": 1}, {"name": "b", "containerPort": 2}])),
            "1",
        ),
        (
            app(json!([{"name": "grpc", "containerPort": 1}, {"name": "b", "containerPort": 2}])),
            "1",
        ),
        (app(json!([{"name": "a", "containerPort": 1}, {"name": "b", "containerPort": 1}])), "1"),
        (app(json!([{"containerPort": 1}, {"containerPort": 2, "protocol": "UDP"}])), "1"),
        (app(json!([{"name": "http-metrics", "containerPort": 1}, {"containerPort": 2}])), "2"),
    ] {
        assert_eq!(choose(containers.clone()), want, "{containers}");
    }
}

#[test]
fn another_run_finds_nothing_to_do() {
    let (_, after) = injected(&web(), &default());
    let again = crate::inject::inject(&after, &crate::inject::InjectContext::default(), &default());
    assert_eq!(
        again,
        crate::inject::InjectOutcome::Skip(crate::inject::SkipReason::AlreadyInjected)
    );
}

#[test]
fn the_status_tells_what_was_done() {
    let (_, after) = injected(&web(), &default());
    assert_eq!(after["metadata"]["labels"]["keygate.dev/injected"], "default");
    let text = after["metadata"]["annotations"]["keygate.dev/status"].as_str().unwrap();
    let status = InjectStatus::read(text).unwrap();
    assert_eq!((status.upstream, status.ports.authed, status.native), (8080, 15080, true));
    assert_eq!(status.moved[0].from.as_deref(), Some("http"));
    assert_eq!(status.moved[0].to.as_deref(), Some("up-http"));
    let other = InjectorSettings { image: "example.test/other:2".into(), ..default() };
    let (_, other) = injected(&web(), &other);
    let other = other["metadata"]["annotations"]["keygate.dev/status"].as_str().unwrap();
    assert_ne!(InjectStatus::read(other).unwrap().hash, status.hash);
}

#[test]
fn undoing_loses_nothing_that_others_did() {
    let (_, mut after) = injected(&web(), &default());
    assert_eq!(uninject(&web()), Err(UndoError::NotInjected));
    after["spec"]["containers"][0]["ports"][0]["name"] = json!("mine");
    let error = uninject(&after).unwrap_err();
    assert!(error.to_string().contains("container app: /ports/0/name was changed"), "{error}");
    after["metadata"]["annotations"]["keygate.dev/status"] = json!("{}");
    assert!(matches!(uninject(&after), Err(UndoError::Status { .. })));
}

#[test]
fn names_of_the_api_in_unicode_and_with_slashes_stay() {
    let mut pod = annotated("note/~1", "é ~ / \"é\" 鍵");
    pod["metadata"]["labels"] = json!({});
    let (_, after) = injected(&pod, &default());
    assert_eq!(after["metadata"]["annotations"]["note/~1"], "é ~ / \"é\" 鍵");
    assert_eq!(without_empty(&undone(&after)), without_empty(&pod));
}

#[test]
fn the_sidecar_keeps_to_restricted() {
    for native_sidecar in [true, false] {
        let (_, after) = injected(&web(), &InjectorSettings { native_sidecar, ..default() });
        let faults = restricted_faults(&after);
        assert!(faults.iter().all(|fault| fault.starts_with("\"app\"")), "{faults:?}");
    }
}
