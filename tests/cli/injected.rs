//! What the injector writes into a pod, run by the real sidecar: its arguments, its configuration,
//! its probes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::Room;

/// A sidecar that ends with the test.
struct Sidecar(Child);

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers with what `answer` returns for a path.
fn serving(answer: impl Fn(&str) -> (u16, Vec<u8>) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0; 1];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let (status, body) = answer(&path);
            let _ = write!(
                stream,
                "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&body);
        }
    });
    address
}

/// A port number that is currently free.
fn free() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The status of an answer. 0: nobody answers.
fn get(port: u16, path: &str, field: &str) -> u16 {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return 0 };
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\n{field}Connection: close\r\n\r\n"
    );
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not {what} within 30 s");
}

/// The pod after `keygatectl inject` with these settings.
fn inject(room: &Room, pod: &Value, settings: &Value) -> Value {
    room.write("pod.json", pod.to_string());
    room.write("injector.yaml", settings.to_string());
    let text = room.ok(&["inject", "--file", "pod.json", "--config", "injector.yaml"]);
    serde_json::from_str(&text).unwrap()
}

fn sidecar_of(pod: &Value) -> &Value {
    let init = pod["spec"]["initContainers"].as_array().unwrap();
    init.iter().find(|container| container["name"] == "keygate").unwrap()
}

/// The files of the container, below the room: `keygate.toml` next to the variables.
fn mount(room: &Room, pod: &Value, variables: &[(&str, &str)]) {
    for directory in ["config", "state"] {
        std::fs::create_dir_all(room.path(directory)).unwrap();
    }
    let text = pod["metadata"]["annotations"]["keygate.dev/sidecar-config"].as_str().unwrap();
    let state = room.path("state");
    let text = text.replace("/var/lib/keygate", state.to_str().unwrap());
    room.write("config/keygate.toml", text);
    for (name, value) in variables {
        room.write(&format!("config/{name}"), value);
    }
}

/// `keygate` as in the container: its arguments and environment, with the room instead of its
/// mounts.
fn keygate(room: &Room, pod: &Value, arguments: &[String]) -> Command {
    let here =
        |text: &str| text.replace("/etc/keygate/config", room.path("config").to_str().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_keygate"));
    command.args(arguments.iter().map(|argument| here(argument)));
    for variable in sidecar_of(pod)["env"].as_array().unwrap() {
        let value = here(variable["value"].as_str().unwrap());
        command.env(variable["name"].as_str().unwrap(), value);
    }
    command.stdin(Stdio::null()).current_dir(room.root());
    command
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// A room with a table of one key, settings that name its source, and the key's secret.
fn published(room: &Room) -> (Value, String) {
    let secret = room.create(&["--name", "caller"]).secret;
    room.ok(&[
        "table",
        "build",
        "--registry",
        "keys.toml",
        "--signer",
        "signer.pem",
        "--out",
        "keys.kgt",
    ]);
    let table = std::fs::read(room.path("keys.kgt")).unwrap();
    let source = serving(move |path| match path {
        "/shop.kgt" => (200, table.clone()),
        _ => (404, Vec::new()),
    });
    let signer = room.json(&["signer", "show", "signer.pem"]);
    let settings = json!({
        "image": "example.test/keygate:1",
        "ports": {"authed": free(), "public": free(), "admin": free(), "app": free()},
        "table": {
            "name": "shop",
            "url": format!("http://{source}/{{table}}.kgt"),
            "patchUrl": "",
            "publicKeySecret": "",
            "trustedSigners": [signer["public_key"]],
        },
    });
    (settings, secret)
}

#[test]
fn an_injected_pod_serves_as_it_was_written() {
    let room = Room::with_registry();
    let (settings, secret) = published(&room);
    let app = serving(|_| (200, b"hello".to_vec()));
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "annotations": {"keygate.dev/skip-paths": "/open/*"}},
        "spec": {
            "terminationGracePeriodSeconds": 6,
            "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": app.port()}]}]
        }
    });
    let pod = inject(&room, &pod, &settings);
    // Only this machine can reach the test.
    mount(&room, &pod, &[("KEYGATE_BIND", "127.0.0.1\n")]);
    let container = sidecar_of(&pod);
    let args = texts(&container["args"]);

    let check = ["check".to_owned()].into_iter().chain(args.iter().skip(1).cloned());
    let checked = keygate(&room, &pod, &check.collect::<Vec<_>>()).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "{said}{}", String::from_utf8_lossy(&checked.stderr));

    let log = std::fs::File::create(room.path("log")).unwrap();
    let mut sidecar = Sidecar(keygate(&room, &pod, &args).stderr(log).spawn().unwrap());
    let probe = |name: &str| {
        let http = &container[name]["httpGet"];
        let port = u16::try_from(http["port"].as_u64().unwrap()).unwrap();
        get(port, http["path"].as_str().unwrap(), "")
    };
    eventually("started", || probe("startupProbe") == 200);
    assert_eq!((probe("readinessProbe"), probe("livenessProbe")), (200, 200));

    let ports: Vec<u64> = container["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["containerPort"].as_u64().unwrap())
        .collect();
    let gate = u16::try_from(ports[0]).unwrap();
    assert_eq!(ports[0], ports[1], "`authed` and the app's name are one door");
    let key = format!("x-api-key: {secret}\r\n");
    assert_eq!(get(gate, "/", &key), 200);
    assert_eq!(get(gate, "/", ""), 401);
    assert_eq!(get(gate, "/open/x", ""), 200);
    let metrics = u16::try_from(ports[2]).unwrap();
    assert_eq!(get(metrics, "/metrics", ""), 200);
    assert_eq!(get(metrics, "/status", ""), 404, "what names keys is on loopback alone");

    // The way back: one key of a ConfigMap, and no restart.
    room.write("config/KEYGATE_ENFORCE", "0%\n");
    eventually("observing", || get(gate, "/", "") == 200);
    room.write("config/KEYGATE_ENFORCE", "100%\n");
    eventually("enforcing", || get(gate, "/", "") == 401);
    room.write("config/KEYGATE_ENFORCE", "0%\n");
    eventually("observing again", || get(gate, "/", "") == 200);
    // A removed key has its default again.
    std::fs::remove_file(room.path("config/KEYGATE_ENFORCE")).unwrap();
    eventually("enforcing", || get(gate, "/", "") == 401);

    let mut drain = texts(&container["lifecycle"]["preStop"]["exec"]["command"]);
    assert_eq!(drain.remove(0), "/keygate");
    drain.insert(1, "--wait".into());
    let drained = keygate(&room, &pod, &drain).output().unwrap();
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    assert_eq!(sidecar.0.wait().unwrap().code(), Some(0));
}

#[test]
fn probes_of_a_port_that_was_taken_over_reach_the_app() {
    let room = Room::with_registry();
    let (mut settings, secret) = published(&room);
    let app = serving(|path| match path {
        "/well" => (204, Vec::new()),
        "/moved" => (302, Vec::new()),
        "/ill" => (500, b"a secret of the app".to_vec()),
        _ => (200, b"hello".to_vec()),
    });
    // Where the injector moves an app whose port is taken.
    settings["ports"]["app"] = json!(app.port());
    settings["steering"] = json!("takeover");
    let number = free();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {"containers": [{
            "name": "app",
            "env": [{"name": "PORT", "value": number.to_string()}],
            "ports": [{"containerPort": number}],
            "livenessProbe": {"httpGet": {"path": "/ill", "port": number}},
            "readinessProbe": {"httpGet": {"path": "/well", "port": number}},
            "startupProbe": {"tcpSocket": {"port": number}}
        }]}
    });
    let pod = inject(&room, &pod, &settings);
    assert_eq!(pod["spec"]["containers"][0]["env"][0]["value"], app.port().to_string());
    mount(&room, &pod, &[("KEYGATE_BIND", "127.0.0.1")]);
    let args = texts(&sidecar_of(&pod)["args"]);
    let log = std::fs::File::create(room.path("log")).unwrap();
    let _sidecar = Sidecar(keygate(&room, &pod, &args).stderr(log).spawn().unwrap());
    let started = &sidecar_of(&pod)["startupProbe"]["httpGet"];
    let public = u16::try_from(started["port"].as_u64().unwrap()).unwrap();
    eventually("started", || get(public, "/startupz", "") == 200);
    let probe = |name: &str| {
        let http = &pod["spec"]["containers"][0][name]["httpGet"];
        get(
            u16::try_from(http["port"].as_u64().unwrap()).unwrap(),
            http["path"].as_str().unwrap(),
            "",
        )
    };
    let all = ["readinessProbe", "startupProbe", "livenessProbe"].map(probe);
    assert_eq!(all, [200, 200, 503], "{}", room.read("log"));
    assert_eq!(get(public, "/probe/app/other", ""), 404);
    assert_eq!(
        get(public, "/probe/app/readiness?x=/ill", ""),
        200,
        "the question is the configured one"
    );
    // The app's own port belongs to the gate now.
    assert_eq!(get(number, "/", &format!("x-api-key: {secret}\r\n")), 200);
    assert_eq!(get(number, "/", ""), 401);
}

/// What the injector writes for every recorded pod is a configuration that the sidecar accepts.
#[test]
fn every_golden_configuration_is_valid() {
    let room = Room::with_registry();
    let public = room.ok(&["signer", "show", "signer.pem"]);
    room.write("signer.pub", public);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/k8s/golden");
    let path = "/metadata/annotations/keygate.dev~1sidecar-config";
    let mut texts = std::collections::BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let golden = std::fs::read(file.unwrap().path()).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        for case in golden.as_object().unwrap().values() {
            let operations = case["patch"].as_array().into_iter().flatten();
            let text = operations.filter(|operation| operation["path"] == path);
            texts.extend(text.map(|operation| operation["value"].as_str().unwrap().to_owned()));
        }
    }
    assert!(texts.len() > 5, "{}", texts.len());
    for text in texts {
        let text = text.replace("/etc/keygate/signers", room.root().to_str().unwrap());
        room.write("keygate.toml", &text);
        let mut check = Command::new(env!("CARGO_BIN_EXE_keygate"));
        check.args(["check", "--config-only", "--config", "keygate.toml"]).current_dir(room.root());
        let checked = check.output().unwrap();
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(
            checked.status.success(),
            "{said}{}\n{text}",
            String::from_utf8_lossy(&checked.stderr)
        );
        assert!(!said.contains("warning"), "{said}");
    }
}
